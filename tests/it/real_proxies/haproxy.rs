//! `haproxy`, 2.6 and newer.

use super::*;
use crate::support::{BOTH, publish};
use centrifugo_api::testing::Fault;
use centrifugo_api::{ErrorKind, Outcome, Retry};

/// `haproxy` with these lines in `defaults` and in the back end.
async fn haproxy(over: Over, defaults: &str, backend: &str) -> Gateway {
    Gateway::start("haproxy", &["-W", "-f", "{}"], |setting| {
        let Setting { address, grpc, http, .. } = setting;
        let (bind, server) = match over {
            Over::Grpc => (format!("bind {address} proto h2"), format!("server one {grpc} proto h2")),
            Over::Http => (format!("bind {address}"), format!("server one {http}")),
        };
        format!(
            "global\n maxconn 2000\n\
             defaults\n mode http\n timeout connect 1s\n timeout client 30s\n timeout server 30s\n{defaults}\n\
             frontend in\n {bind}\n default_backend out\n\
             backend out\n{backend}\n {server}\n"
        )
    })
    .await
}

#[tokio::test]
#[ignore = "needs haproxy"]
async fn its_defaults_lose_no_call() {
    for over in BOTH {
        let gateway = haproxy(over, "", "").await;
        let client = Client::new(gateway.config(over).retry(None)).unwrap();
        assert_none_failed(&call(&client, 128, 5120).await);
    }
}

#[tokio::test]
#[ignore = "needs haproxy"]
async fn a_connection_for_each_call_loses_none() {
    for over in BOTH {
        let gateway = haproxy(over, " option httpclose\n", "").await;
        let client = Client::new(gateway.config(over).retry(None)).unwrap();
        assert_none_failed(&call(&client, 32, 640).await);
    }
}

#[tokio::test]
#[ignore = "needs haproxy"]
async fn its_queue_is_waited_for() {
    for over in BOTH {
        let gateway = haproxy(over, "", " default-server maxconn 10\n").await;
        let client = Client::new(gateway.config(over).retry(None)).unwrap();
        assert_none_failed(&call(&client, 128, 1280).await);
    }
}

#[tokio::test]
#[ignore = "needs haproxy"]
async fn a_server_too_slow_for_it_is_a_timeout_of_unknown_outcome() {
    for over in BOTH {
        let gateway = haproxy(over, " timeout server 300ms\n", "").await;
        gateway.server.fault(Fault::delay(Duration::from_secs(2)).always());
        let client = Client::new(gateway.config(over).retry(None)).unwrap();
        let error = publish(&client).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
    }
}

#[tokio::test]
#[ignore = "needs haproxy"]
async fn a_reload_loses_no_call_that_may_be_repeated() {
    for over in BOTH {
        let gateway = haproxy(over, "", "").await;
        let client = Client::new(gateway.config(over).retry(Retry::new())).unwrap();
        let (errors, done) = call_while(&client, 64, async {
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                gateway.signal("USR2");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        })
        .await;
        assert_none_failed(&errors);
        assert!(done > 1000 && gateway.server.applied("news") == done, "{done}");
    }
}
