//! What every server must do over both transports. Each function below runs six times: on the stand-in and on a real
//! server, over gRPC and over HTTP, and on the stand-in with a client whose calls share requests with those of others.

use centrifugo_api::message::InfoRequest;
use centrifugo_api::{Client, Error, ErrorKind, HistoryRequest, HistoryResult, PublishRequest, PublishResult};
use serde_json::Value;
use tokio::task::JoinSet;

macro_rules! suite {
    (everywhere { $($test:ident)* } standin { $($special:ident)* }) => {
        mod standin_grpc { $(crate::api::suite::suite! { @standin Grpc $test })* $(crate::api::suite::suite! { @standin Grpc $special })* }
        mod standin_http { $(crate::api::suite::suite! { @standin Http $test })* $(crate::api::suite::suite! { @standin Http $special })* }
        mod real_server_grpc { $(crate::api::suite::suite! { @real Grpc $test })* }
        mod real_server_http { $(crate::api::suite::suite! { @real Http $test })* }
        mod batching_grpc { $(crate::api::suite::suite! { @batching Grpc $test })* }
        mod batching_http { $(crate::api::suite::suite! { @batching Http $test })* }
    };
    (@batching $over:ident $test:ident) => {
        #[tokio::test]
        async fn $test() {
            let setup = crate::support::servers::Setup::standin(crate::support::Over::$over).await;
            let client = setup.client().with_batching(centrifugo_api::Batching::new().in_flight(1)).unwrap();
            let _crowd = crate::api::suite::other_callers(&client);
            super::$test(&client, &setup).await;
        }
    };
    (@standin $over:ident $test:ident) => {
        #[tokio::test]
        async fn $test() {
            let setup = crate::support::servers::Setup::standin(crate::support::Over::$over).await;
            super::$test(&setup.client(), &setup).await;
        }
    };
    (@real $over:ident $test:ident) => {
        #[tokio::test]
        #[ignore = "needs a real server: set CENTRIFUGO_TEST_GRPC, _HTTP and _API_KEY, see tests/it/support/servers.rs"]
        async fn $test() {
            let setup = crate::support::servers::Setup::real(crate::support::Over::$over);
            super::$test(&setup.client(), &setup).await;
        }
    };
}

pub(crate) use suite;

/// Other callers of the client, until this is dropped, so that calls seldom have a request to themselves.
pub(crate) fn other_callers(client: &Client) -> JoinSet<()> {
    let mut other_callers = JoinSet::new();
    for _ in 0..3 {
        let client = client.clone();
        other_callers.spawn(async move {
            loop {
                // Fails where the key is wrong.
                let _ = client.info(InfoRequest::new()).await;
                tokio::task::yield_now().await;
            }
        });
    }
    other_callers
}

/// Everything that a channel keeps.
pub(crate) async fn kept(client: &Client, channel: &str) -> HistoryResult {
    client.history(HistoryRequest::new(channel).limit(HistoryRequest::NO_LIMIT)).await.unwrap()
}

pub(crate) fn offsets(history: &HistoryResult) -> Vec<u64> {
    history.publications.iter().map(|publication| publication.offset).collect()
}

pub(crate) async fn publish(client: &Client, channel: &str, data: Value) -> PublishResult {
    client.publish(PublishRequest::new(channel, data)).await.unwrap()
}

#[track_caller]
pub(crate) fn assert_kind<T>(outcome: Result<T, Error>, kind: ErrorKind, may_have_run: bool) -> Error {
    let error = outcome.err().expect("the call should fail");
    assert_eq!((error.kind(), error.may_have_run()), (kind, may_have_run), "{error}");
    error
}

/// The call failed with this error of the API and was not applied.
#[track_caller]
pub(crate) fn assert_code<T>(outcome: Result<T, Error>, code: u32) {
    let error = assert_kind(outcome, ErrorKind::Api, false);
    assert_eq!(error.code(), Some(code), "{error}");
}
