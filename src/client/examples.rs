//! An example for each method, for the documentation of [`Client`](crate::Client). Those of the open-source server run.

macro_rules! example_of {
    (publish $($rest:tt)*) => { example_of!(@run r#"
let position = client.publish(PublishRequest::new("news", json!({"text": "hello"}))).await?;
println!("offset {} of epoch {}", position.offset, position.epoch);
"#) };
    (broadcast $($rest:tt)*) => { example_of!(@run r#"
let request = BroadcastRequest::new(["news", "sport"], json!({"text": "hello"}));
client.broadcast(&request).await?.all_ok()?;
"#) };
    (subscribe $($rest:tt)*) => { example_of!(@run r#"
client.subscribe(SubscribeRequest::new("news", "42").info(json!({"name": "Ann"}))).await?;
"#) };
    (unsubscribe $($rest:tt)*) => { example_of!(@run r#"
client.unsubscribe(UnsubscribeRequest::new("news", "42")).await?;
"#) };
    (disconnect $($rest:tt)*) => { example_of!(@run r#"
client.disconnect(DisconnectRequest::new("42").disconnect(Disconnect::new(4000, "signed out"))).await?;
"#) };
    (refresh $($rest:tt)*) => { example_of!(@run r#"
use std::time::{Duration, SystemTime};

let in_an_hour = SystemTime::now() + Duration::from_secs(3_600);
let seconds = in_an_hour.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
client.refresh(RefreshRequest::new("42").expire_at(seconds.try_into()?)).await?;
"#) };
    (presence $($rest:tt)*) => { example_of!(@run r#"
for (client, info) in client.presence("news").await?.presence {
    println!("user {} over connection {client}", info.user);
}
"#) };
    (presence_stats $($rest:tt)*) => { example_of!(@run r#"
let stats = client.presence_stats("news").await?;
println!("{} users over {} connections", stats.num_users, stats.num_clients);
"#) };
    (history $($rest:tt)*) => { example_of!(@run r#"
let history = client.history(HistoryRequest::new("news").limit(100)).await?;
for publication in &history.publications {
    println!("{}: {}", publication.offset, publication.json::<Value>()?);
}
// Later: what was published since.
let since = StreamPosition::new(history.offset, history.epoch);
let history = client.history(HistoryRequest::new("news").limit(100).since(since)).await?;
"#) };
    (history_remove $($rest:tt)*) => { example_of!(@run r#"
client.history_remove("news").await?;
"#) };
    (info $($rest:tt)*) => { example_of!(@run r#"
for node in client.info(InfoRequest::new()).await?.nodes {
    println!("{}: version {}, {} connections", node.name, node.version, node.num_clients);
}
"#) };
    (channels $($rest:tt)*) => { example_of!(@run r#"
for (channel, info) in client.channels(ChannelsRequest::new().pattern("news:*")).await?.channels {
    println!("{channel}: {} connections", info.num_clients);
}
"#) };
    (rpc $($rest:tt)*) => { example_of!(@run r#"
match client.rpc(RpcRequest::new("weather").params(json!({"city": "Oslo"}))).await {
    Ok(result) => println!("{}", result.json::<Value>()?),
    Err(error) if error.code() == Some(ApiError::NOT_FOUND) => println!("the server has no such method"),
    Err(error) => return Err(error.into()),
}
"#) };
    (map_publish $($rest:tt)*) => { example_of!(@run r#"
let result = client.map_publish(MapPublishRequest::new("board:1", "cursor-42").data(json!({"x": 1}))).await?;
assert!(!result.suppressed);
"#) };
    (map_remove $($rest:tt)*) => { example_of!(@run r#"
client.map_remove(MapRemoveRequest::new("board:1", "cursor-42")).await?;
"#) };
    (map_read_state $($rest:tt)*) => { example_of!(@run r#"
let mut request = MapReadStateRequest::new("board:1").limit(100);
loop {
    let page = client.map_read_state(&request).await?;
    for entry in page.entries {
        println!("{}: {}", entry.key, entry.json::<Value>()?);
    }
    if page.cursor.is_empty() {
        break;
    }
    request = request.cursor(page.cursor);
}
"#) };
    (map_read_stream $($rest:tt)*) => { example_of!(@run r#"
let state = client.map_read_state("board:1").await?;
// Later: what changed since.
let request = MapReadStreamRequest::new("board:1").since_offset(state.offset).since_epoch(state.epoch);
for change in client.map_read_stream(request.limit(100)).await?.entries {
    println!("{} at offset {}", change.key, change.offset);
}
"#) };
    (map_stats $($rest:tt)*) => { example_of!(@run r#"
println!("{} keys", client.map_stats("board:1").await?.num_keys);
"#) };
    (map_clear $($rest:tt)*) => { example_of!(@run r#"
client.map_clear("board:1").await?;
"#) };
    (shared_poll_publish $($rest:tt)*) => { example_of!(@run r#"
client.shared_poll_publish(SharedPollPublishRequest::new("poll:1", "price", 7).data(json!(99.5))).await?;
"#) };

    // Only Centrifugo PRO has the others.
    ($name:ident $request:ident { $($field:ident)* }) => { concat!(
        example_no_run!(),
        "let result = client.", stringify!($name), "(", stringify!($request), "::new(",
        example_of!(@arguments $($field)*),
        ")).await?;\nprintln!(\"{result:?}\");\n",
        end_of_example!(),
    ) };

    (@run $lines:literal) => { concat!(example!(), $lines, end_of_example!()) };

    (@arguments) => { "" };
    (@arguments $field:ident) => { example_of!(@argument $field) };
    (@arguments $field:ident $($rest:ident)+) => {
        concat!(example_of!(@argument $field), ", ", example_of!(@arguments $($rest)+))
    };
    (@argument user) => { "\"42\"" };
    (@argument users) => { "[\"42\", \"43\"]" };
    (@argument state) => { "\"away\"" };
    (@argument topics) => { "[\"sport\"]" };
    (@argument op) => { "\"add\"" };
    (@argument provider) => { "\"fcm\"" };
    (@argument platform) => { "\"android\"" };
    (@argument status) => { "\"delivered\"" };
    (@argument recipient) => { "PushRecipient::default().filter(DeviceFilter::default().topics([\"sport\"]))" };
    (@argument notification) => { "PushNotification::default().expire_at(1_700_000_000)" };
    (@argument $field:ident) => { concat!("\"", stringify!($field), "\"") };
}
