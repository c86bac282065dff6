//! `nginx`, 1.22 and newer.

use super::*;
use crate::support::{BOTH, publish};
use centrifugo_api::testing::Fault;
use centrifugo_api::{Batch, ErrorKind, Outcome, PublishRequest, Retry};
use serde_json::json;

/// nginx with these directives in `http` and in `server`, over the protocol that the transport needs.
async fn nginx(over: Over, of_http: &str, of_server: &str) -> Gateway {
    Gateway::start("nginx", &["-c", "{}", "-e", "stderr"], |setting| {
        let Setting { address, directory, grpc, http } = setting;
        let directory = directory.display();
        let server = match over {
            Over::Grpc => format!("listen {address} http2; location / {{ grpc_pass grpc://{grpc}; {of_server} }}"),
            Over::Http => format!("listen {address}; location / {{ proxy_pass http://{http}; {of_server} }}"),
        };
        configuration(&directory.to_string(), of_http, &server)
    })
    .await
}

/// nginx with TLS and HTTP/2 in front, and the API over HTTP/1.1 behind it.
async fn nginx_https(of_http: &str) -> Gateway {
    Gateway::start("nginx", &["-c", "{}", "-e", "stderr"], |setting| {
        let Setting { address, directory, http, .. } = setting;
        let cert = directory.join("cert.pem");
        let cert = cert.display();
        let server = format!(
            "listen {address} ssl http2; ssl_certificate {cert}; ssl_certificate_key {cert};
             location / {{ proxy_pass http://{http}; }}"
        );
        configuration(&directory.display().to_string(), of_http, &server)
    })
    .await
}

fn configuration(directory: &str, of_http: &str, server: &str) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("{name}_temp_path {directory}/{name};")).join(" ");
    format!(
        "daemon off; pid {directory}/pid; error_log stderr; worker_processes 2;
         events {{ worker_connections 4096; }}
         http {{ access_log off; {temporary} {of_http} server {{ {server} }} }}"
    )
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_thousand_requests_of_a_connection_over_https_lose_no_call() {
    let gateway = nginx_https("").await;
    for (callers, retry) in [(16, None), (64, None), (256, None), (64, Some(Retry::new()))] {
        let client = Client::new(gateway.https(Over::Http).retry(retry)).unwrap();
        assert_none_failed(&call(&client, callers, 10_000 / callers * callers).await);
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_thousand_requests_of_a_connection_over_grpc_lose_no_call() {
    let gateway = nginx(Over::Grpc, "", "").await;
    for callers in [64, 256, 1000] {
        let client = Client::new(gateway.config(Over::Grpc).retry(None)).unwrap();
        assert_none_failed(&call(&client, callers, 10 * callers).await);
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn fifty_requests_of_a_connection_lose_no_call() {
    for over in BOTH {
        let gateway = nginx(over, "keepalive_requests 50;", "").await;
        // Over HTTP/1.1 a connection that is closed as it is reused says nothing about the call.
        let retry = (over == Over::Http).then(Retry::new);
        let client = Client::new(gateway.config(over).retry(retry)).unwrap();
        assert_none_failed(&call(&client, 256, 5120).await);
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn one_stream_at_a_time_is_slow_and_loses_no_call() {
    for streams in [1, 8] {
        let gateway = nginx(Over::Grpc, &format!("http2_max_concurrent_streams {streams};"), "").await;
        let client = Client::new(gateway.config(Over::Grpc).retry(None)).unwrap();
        assert_none_failed(&call(&client, 64, 1280).await);
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_reload_loses_no_call_that_may_be_repeated() {
    for over in BOTH {
        let gateway = nginx(over, "", "").await;
        let client = Client::new(gateway.config(over)).unwrap();
        let (errors, done) = call_while(&client, 64, async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                gateway.signal("HUP");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        })
        .await;
        assert_none_failed(&errors);
        assert!(done > 1000 && gateway.server.applied("news") == done, "{done}");
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn idle_connections_that_it_closes_lose_no_call() {
    for over in BOTH {
        let gateway = nginx(over, "keepalive_timeout 1s;", "").await;
        let client = Client::new(gateway.config(over)).unwrap();
        for _ in 0..3 {
            assert_none_failed(&call(&client, 16, 160).await);
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_body_that_it_refuses_is_sent_in_parts() {
    for over in BOTH {
        let gateway = nginx(over, "client_max_body_size 20k;", "").await;
        let client = Client::new(gateway.config(over)).unwrap();
        let mut batch = Batch::new();
        for _ in 0..100 {
            batch.push(PublishRequest::new("news", json!("x".repeat(1000))));
        }
        soon(client.batch(&batch)).await.unwrap().all_ok().unwrap();
        assert_eq!(gateway.server.applied("news"), 100);
        let error = client.publish(PublishRequest::new("news", json!("x".repeat(30_000)))).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::Refused), "{error:?}");
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_server_too_slow_for_it_is_a_timeout_of_unknown_outcome() {
    for (over, timeout) in [(Over::Grpc, "grpc_read_timeout 300ms;"), (Over::Http, "proxy_read_timeout 300ms;")] {
        let gateway = nginx(over, "", timeout).await;
        gateway.server.fault(Fault::delay(Duration::from_secs(2)).always());
        let client = Client::new(gateway.config(over).retry(None)).unwrap();
        let error = publish(&client).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error:?}");
        assert_eq!(error.http_status().or(Some(504)), Some(504));
        // One timeout leaves it in use.
        gateway.server.clear_faults();
        publish(&client).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn its_limits_are_told_as_unavailable() {
    for over in BOTH {
        let gateway =
            nginx(over, "limit_req_zone $binary_remote_addr zone=one:1m rate=10r/s; limit_req zone=one;", "").await;
        let client = Client::new(gateway.config(over).retry(None)).unwrap();
        let errors = call(&client, 8, 80).await;
        assert!(!errors.is_empty());
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_lost_connection_behind_it_costs_no_call_that_may_be_repeated() {
    for over in BOTH {
        let gateway = nginx(over, "", "").await;
        let client = Client::new(gateway.config(over)).unwrap();
        publish(&client).await.unwrap();
        gateway.server.fault(Fault::cut_after().times(1));
        publish(&client).await.unwrap();
        assert_eq!(gateway.server.applied("news"), 2);
    }
}
