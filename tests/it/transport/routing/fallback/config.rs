//! Which fallback a configuration may have.

use centrifugo_api::config::Grpc;
use centrifugo_api::{Batching, Client, Config, ErrorKind, Outcome};

use crate::support::SECOND;

#[tokio::test]
async fn a_fallback_in_clear_text_beyond_this_machine_must_be_allowed() {
    let secure = || Config::grpc("https://centrifugo.example:10000");
    let refused = |config: Config<Grpc>, word: &str| {
        let error = Client::new(config).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Invalid, Outcome::NotSent), "{error:?}");
        assert!(error.to_string().contains(word), "{error}");
    };
    for http in [
        "http://centrifugo.example:8000/api",
        "http://10.0.0.1/api",
        "http://[2001:db8::1]/api",
        "http://127.0.0.1.example/api",
    ] {
        refused(secure().fallback(Config::http(http)), "`allow_clear_text_fallback`");
        Client::new(secure().fallback(Config::http(http)).allow_clear_text_fallback(true)).unwrap();
        Client::new(Config::grpc("http://centrifugo.example:10000").fallback(Config::http(http))).unwrap();
    }
    // One of several is enough.
    let mixed = Config::http("http://localhost/api").endpoint("http://centrifugo.example/api");
    refused(secure().fallback(mixed), "`allow_clear_text_fallback`");
    for http in ["https://centrifugo.example/api", "http://localhost/api", "http://127.0.0.1/api", "http://[::1]/api"] {
        Client::new(secure().fallback(Config::http(http))).unwrap();
    }
}

#[test]
fn settings_that_a_fallback_must_not_have_are_refused_by_name() {
    let http = || Config::http("http://localhost/api");
    let grpc = || Config::grpc("http://localhost:10000");
    let fallbacks = [
        (http().timeout(SECOND), "`timeout`"),
        (http().retry(None), "`retry`"),
        (http().pro(true), "`pro`"),
        (http().batching(Batching::new()), "`batching`"),
        (Config::http("ftp://localhost/api"), "http://"),
        (Config::http("http://localhost/api").api_key(""), "`api_key`"),
    ];
    for (fallback, word) in fallbacks {
        let error = Client::new(grpc().fallback(fallback)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    Client::new(grpc().fallback(http().api_key("its own").connect_timeout(SECOND).header("x-a", "b"))).unwrap();
}
