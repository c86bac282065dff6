//! History and presence.

use centrifugo_api::message::{ChannelsRequest, HistoryRemoveRequest, PresenceStatsRequest};
use centrifugo_api::{ApiError, Batch, Client, ClientInfo, ErrorKind, HistoryRequest, StreamPosition};
use serde_json::{Value, json};

use super::suite::{assert_code, assert_kind, kept, offsets, publish, suite};
use crate::support::{Over, servers::Setup};

async fn a_channel_without_clients_has_no_presence(client: &Client, setup: &Setup) {
    let channel = setup.channel("presence");
    assert!(client.presence(&channel).await.unwrap().presence.is_empty());
    let stats = client.presence_stats(PresenceStatsRequest::new(&channel)).await.unwrap();
    assert_eq!((stats.num_clients, stats.num_users), (0, 0));
}

async fn presence_is_keyed_by_client_id(client: &Client, setup: &Setup) {
    let channel = setup.channel("presence");
    for (id, user) in [("client-1", "alice"), ("client-2", "alice"), ("client-3", "bob")] {
        let mut info = ClientInfo::default();
        info.user = user.into();
        info.conn_info = r#"{"role":"x"}"#.into();
        setup.server().set_presence(&channel, id, info);
    }
    let present = client.presence(&channel).await.unwrap().presence;
    let users: Vec<_> = present.iter().map(|(id, info)| (&**id, &*info.client, &*info.user)).collect();
    assert_eq!(
        users,
        [("client-1", "client-1", "alice"), ("client-2", "client-2", "alice"), ("client-3", "client-3", "bob")]
    );
    assert_eq!(present["client-3"].conn_info, r#"{"role":"x"}"#);
    let stats = client.presence_stats(PresenceStatsRequest::new(&channel)).await.unwrap();
    assert_eq!((stats.num_clients, stats.num_users), (3, 2));
    let channels = client.channels(ChannelsRequest::new().pattern("presence:*")).await.unwrap().channels;
    assert_eq!(channels[&channel].num_clients, 3);
}

async fn binary_infos_are_read_over_grpc_only(client: &Client, setup: &Setup) {
    let channel = setup.channel("presence");
    let mut info = ClientInfo::default();
    info.user = "alice".into();
    info.conn_info = vec![0xff, 0x00].into();
    setup.server().set_presence(&channel, "client-1", info);
    let present = client.presence(&channel).await;
    match setup.over {
        Over::Grpc => assert_eq!(present.unwrap().presence["client-1"].conn_info, vec![0xff, 0x00]),
        Over::Http => drop(assert_kind(present, ErrorKind::Protocol, true)),
    }
}

async fn a_history_has_as_many_publications_as_its_limit(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    for n in 1..=4 {
        publish(client, &channel, json!({ "n": n })).await;
    }
    let history = async |request: HistoryRequest| client.history(request).await.unwrap();
    let request = HistoryRequest::new(&channel);
    let position = history(request.clone()).await;
    assert_eq!((position.offset, offsets(&position)), (4, vec![]), "no limit means the position alone");
    assert_eq!(offsets(&history(request.clone().limit(2)).await), [1, 2]);
    assert_eq!(offsets(&history(request.clone().limit(2).reverse(true)).await), [4, 3]);
    assert_eq!(offsets(&history(request.limit(HistoryRequest::NO_LIMIT)).await), [1, 2, 3, 4]);
}

async fn a_history_continues_from_a_position(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let mut epoch = String::new();
    for n in 1..=4 {
        epoch = publish(client, &channel, json!({ "n": n })).await.epoch;
    }
    let since = |offset: u64, epoch: &str| {
        HistoryRequest::new(&channel).limit(HistoryRequest::NO_LIMIT).since(StreamPosition::new(offset, epoch))
    };
    let history = async |request: HistoryRequest| offsets(&client.history(request).await.unwrap());
    assert_eq!(history(since(2, &epoch)).await, [3, 4]);
    assert_eq!(history(since(0, &epoch)).await, [1, 2, 3, 4]);
    assert_eq!(history(since(3, "")).await, [4], "an empty epoch matches any");
    assert_eq!(history(since(3, &epoch).reverse(true)).await, [2, 1]);
    assert_eq!(history(since(99, &epoch)).await, [0; 0]);
    assert_code(client.history(since(2, "another")).await, ApiError::UNRECOVERABLE_POSITION);
}

async fn reverse_from_offset_0_is_refused_before_it_is_sent(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let request = HistoryRequest::new(&channel).reverse(true).since(StreamPosition::new(0, ""));
    let mut batch = Batch::new();
    batch.push_json("history", &request).unwrap();
    // The server would return error 100, as if it were broken.
    for error in [
        client.history(&request).await.unwrap_err(),
        client.call_json::<Value>("history", &request).await.unwrap_err(),
        client.batch(&batch).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::Invalid, false), "{error}");
        assert!(error.to_string().contains("`reverse`"), "{error}");
    }
    assert_eq!(client.history(request.since(StreamPosition::new(1, ""))).await.unwrap().offset, 0);
}

async fn a_removed_history_keeps_its_position(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let position = publish(client, &channel, json!(1)).await;
    client.history_remove(HistoryRemoveRequest::new(&channel)).await.unwrap();
    let left = kept(client, &channel).await;
    assert_eq!((offsets(&left), left.offset, left.epoch), (vec![], 1, position.epoch));
    assert_eq!(publish(client, &channel, json!(2)).await.offset, 2);
}

async fn a_history_keeps_the_newest(client: &Client, setup: &Setup) {
    let channel = setup.channel("small");
    for n in 1..=4 {
        publish(client, &channel, json!(n)).await;
    }
    assert_eq!(offsets(&kept(client, &channel).await), [3, 4]);
}

suite! {
    everywhere {
        a_channel_without_clients_has_no_presence
        a_history_has_as_many_publications_as_its_limit
        a_history_continues_from_a_position
        reverse_from_offset_0_is_refused_before_it_is_sent
        a_removed_history_keeps_its_position
        a_history_keeps_the_newest
    }
    standin {
        binary_infos_are_read_over_grpc_only
        presence_is_keyed_by_client_id
    }
}
