//! The connections to an endpoint.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::config::LoadBalancing;
use centrifugo_api::{Client, Config, ErrorKind, Outcome};
use tokio::sync::Notify;

use super::client;
use crate::support::h2script::{self, ENHANCE_YOUR_CALM, Event, NO_ERROR, Reply};
use crate::support::{AT_ONCE, advance, applied, publish_number, soon, spawn_publish, within};

#[tokio::test]
async fn a_changed_address_moves_calls_and_drains_the_old_connection() {
    let gone = Arc::new(Notify::new());
    let (ended, held) = (Arc::clone(&gone), Arc::new(Notify::new()));
    let release = Arc::clone(&held);
    let old = h2script::start(move |mut connection| {
        let (ended, release) = (Arc::clone(&ended), Arc::clone(&release));
        async move {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::result()).await?;
            let long = connection.request().await?;
            let next = connection.request().await?;
            connection.reply(&next, &Reply::result()).await?;
            let served = tokio::select! {
                served = connection.serve() => served,
                () = release.notified() => Ok(()),
            };
            served?;
            connection.reply(&long, &Reply::result()).await?;
            let served = connection.serve().await;
            ended.notify_one();
            served
        }
    });
    let address = (Ipv4Addr::new(127, 0, 0, 2), old.address().port()).into();
    let new = h2script::start_at(address, |mut connection| async move { connection.serve().await });
    let name = Arc::new(Mutex::new(old.address().ip()));
    let now = Arc::clone(&name);
    let config = Config::grpc(format!("http://centrifugo.test:{}", old.address().port()))
        .resolver(move |_| {
            let addresses = vec![*now.lock().unwrap()];
            async { Ok(addresses) }
        })
        .timeout(Duration::from_secs(3600))
        .retry(None);
    let client = Client::new(config).unwrap();

    within(AT_ONCE, publish_number(&client, 0)).await.unwrap();
    let long = spawn_publish(&client, 1);
    soon(old.tally.until_arrived(2)).await;
    *name.lock().unwrap() = new.address().ip();
    within(AT_ONCE, publish_number(&client, 2)).await.unwrap();
    assert_eq!((old.tally.applied().len(), new.dials()), (2, 0), "it was looked up again so soon");

    advance(Duration::from_secs(31)).await;
    // This one finds that it is time. It may still go to the old address.
    within(AT_ONCE, publish_number(&client, 3)).await.unwrap();
    // The lookup is a task of its own.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let before = new.tally.applied().len();
    within(AT_ONCE, publish_number(&client, 4)).await.unwrap();
    within(AT_ONCE, publish_number(&client, 5)).await.unwrap();
    assert_eq!(new.tally.applied().len(), before + 2);
    assert_eq!((old.dials(), new.dials()), (1, 1));

    // The call that runs on the old connection is not cut off, and when it ends, the connection does.
    held.notify_one();
    within(AT_ONCE, long).await.unwrap().unwrap();
    within(AT_ONCE, gone.notified()).await;
    assert_eq!(applied(&[&old.tally, &new.tally]), (6, 6));
}

#[tokio::test]
async fn enhance_your_calm_doubles_the_keepalive_interval() {
    let (checked, proceed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = h2script::start({
        let (checked, proceed) = (Arc::clone(&checked), Arc::clone(&proceed));
        move |mut connection| {
            let (checked, proceed) = (Arc::clone(&checked), Arc::clone(&proceed));
            async move {
                let request = connection.request().await?;
                if connection.number == 0 {
                    // Any frame counts as an ack of the ping; now all of them have arrived.
                    connection.sync().await?;
                    checked.notify_one();
                    connection.pinged().await?;
                    connection.goaway(connection.highest, ENHANCE_YOUR_CALM, b"too_many_pings").await?;
                    return connection.finish().await;
                }
                proceed.notified().await;
                let early = connection.sync().await?;
                assert!(!early.iter().any(|event| matches!(event, Event::Pinged)), "{early:?}");
                checked.notify_one();
                connection.pinged().await?;
                connection.reply(&request, &Reply::result()).await?;
                connection.serve().await
            }
        }
    });
    let config = Config::grpc(server.url()).timeout(Duration::from_secs(3600)).retry(None);
    let client = Client::new(config).unwrap();

    let first = spawn_publish(&client, 0);
    soon(checked.notified()).await;
    advance(Duration::from_secs(31)).await;
    let error = within(AT_ONCE, first).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Lost, Outcome::Unknown), "{error:?}");

    let second = spawn_publish(&client, 1);
    soon(server.tally.until_arrived(2)).await;
    advance(Duration::from_secs(35)).await;
    proceed.notify_one();
    soon(checked.notified()).await;
    advance(Duration::from_secs(61)).await;
    within(AT_ONCE, second).await.unwrap().unwrap();
    // The endpoint is as good as before.
    assert!(client.endpoints()[0].available);
    within(AT_ONCE, publish_number(&client, 2)).await.unwrap();
    assert_eq!((applied(&[&server.tally]), server.dials()), ((2, 2), 2));
}

#[tokio::test]
async fn connections_that_are_all_ended_at_once_lose_no_call() {
    let server = h2script::start(|mut connection| async move {
        if connection.number >= 4 {
            return connection.serve().await;
        }
        for _ in 0..5 {
            let request = connection.request().await?;
            connection.reply(&request, &Reply::result()).await?;
        }
        let rest = connection.request().await?;
        connection.goaway(rest.stream - 2, NO_ERROR, b"").await?;
        connection.finish().await
    });
    let config = Config::grpc(server.url()).connections(4).retry(None);
    let client = Client::new(config).unwrap();
    // Until there are four, the calls share those that there are.
    soon(async {
        while server.dials() < 4 {
            publish_number(&client, 0).await.unwrap();
        }
    })
    .await;
    let before = server.tally.applied().len();
    let calls: Vec<_> = (1..=100).map(|n| spawn_publish(&client, n)).collect();
    for call in calls {
        within(AT_ONCE, call).await.unwrap().unwrap();
    }
    assert_eq!(server.tally.applied().len(), before + 100);
}

#[tokio::test]
async fn thousands_of_dropped_calls_affect_no_other_call_on_their_connection() {
    const AT_ONCE_DROPPED: usize = 100;
    const ROUNDS: usize = 30;
    let server = h2script::start(|mut connection| async move {
        let bystander = connection.request().await?;
        connection.requests(AT_ONCE_DROPPED * ROUNDS).await?;
        connection.reply(&bystander, &Reply::result()).await?;
        connection.serve().await
    });
    let client = client(&[server.url()], LoadBalancing::LeastBusy);
    let patient = client.with_timeout(Duration::from_secs(3600));
    let bystander = spawn_publish(&patient, 0);
    soon(server.tally.until_arrived(1)).await;
    for round in 0..ROUNDS {
        let calls: Vec<_> = (0..AT_ONCE_DROPPED).map(|n| spawn_publish(&patient, n)).collect();
        soon(server.tally.until_arrived(1 + (round + 1) * AT_ONCE_DROPPED)).await;
        for call in calls {
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
        }
    }
    within(AT_ONCE, bystander).await.unwrap().unwrap();
    for n in 0..10 {
        within(AT_ONCE, publish_number(&client, n)).await.unwrap();
    }
    assert_eq!((server.tally.applied().len(), server.dials()), (11, 1));
    assert!(client.endpoints()[0].available, "that callers give up says nothing about the endpoint");
}

#[tokio::test]
async fn a_call_dropped_while_connecting_leaves_the_connection_to_the_others() {
    let (greet, greeted) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = h2script::start_bare({
        let (greet, greeted) = (Arc::clone(&greet), Arc::clone(&greeted));
        move |mut connection| {
            let (greet, greeted) = (Arc::clone(&greet), Arc::clone(&greeted));
            async move {
                greeted.notify_one();
                greet.notified().await;
                connection.settings(&[]).await?;
                connection.serve().await
            }
        }
    });
    let client = Client::new(Config::grpc(server.url()).retry(None)).unwrap();
    let (dropped, other) = (spawn_publish(&client, 0), spawn_publish(&client, 1));
    soon(greeted.notified()).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    greet.notify_one();
    within(AT_ONCE, other).await.unwrap().unwrap();
    assert_eq!((applied(&[&server.tally]), server.dials()), ((1, 1), 1));
}
