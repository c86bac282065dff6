//! What is told of the page of whoever responded: the server, a proxy, or another port.

use centrifugo_api::config::Tls;
use centrifugo_api::testing::Server;
use centrifugo_api::{Client, Config, Error, ErrorKind, Outcome};

use crate::support::authority::Authority;
use crate::support::h2script::{self, DATA, END_STREAM};
use crate::support::tally;
use crate::support::{BOTH, Over, h1script, publish, quick_retry};

const KEY: &str = "open-sesame-0123456789";

/// A server that responds to everything with this status and page.
fn server(over: Over, status: u16, headers: &'static [(&str, &str)], page: &str) -> tally::Server {
    let page = page.to_owned();
    match over {
        Over::Http => h1script::replying(move |_| h1script::Reply::with(status, headers, page.as_bytes())),
        Over::Grpc => h2script::start(move |mut connection| {
            let (page, status) = (page.clone(), status.to_string());
            async move {
                loop {
                    let request = connection.request().await?;
                    let mut head: Vec<(&[u8], &[u8])> = vec![(b":status", status.as_bytes())];
                    head.extend(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
                    connection.reply(&request, &h2script::Reply::default().headers(&head, 0)).await?;
                    connection.send(DATA, END_STREAM, request.stream, page.as_bytes()).await?;
                }
            }
        }),
    }
}

async fn error_at(over: Over, url: &str) -> Error {
    let config = over.config_at(url).api_key(KEY).retry(quick_retry());
    let error = publish(&Client::new(config).unwrap()).await.unwrap_err();
    assert!(!format!("{error:?}").contains(KEY), "{error:?}");
    error
}

/// The error of a publish that is responded to with this.
async fn error_of(over: Over, status: u16, page: &str) -> Error {
    let server = server(over, status, &[("content-type", "text/html")], page);
    let error = error_at(over, &server.url()).await;
    assert_eq!(error.http_status(), Some(status), "{error:?}");
    error
}

#[tokio::test]
async fn a_refusal_of_a_firewall_is_not_taken_for_one_of_the_server() {
    let page = format!(
        "<html><head><title>Attention Required!</title><style>p {{}}</style></head><body><h1>Blocked</h1>\n\
         <p>Your key {KEY} &amp; you. Ray ID: 8f2b3c4d5e6f, {}</p></body></html>",
        "word ".repeat(100)
    );
    for over in BOTH {
        for status in [401, 403] {
            let error = error_of(over, status, &page).await;
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unauthenticated, Outcome::Refused));
            let told = error.page().unwrap();
            assert!(
                told.starts_with("Attention Required! Blocked Your key [redacted] & you. Ray ID: 8f2b3c4d5e6f, word")
            );
            assert!(told.chars().count() <= 200, "{told}");
            let message = error.message();
            assert!(message.starts_with("something in front of the server returned HTTP status 40"), "{message}");
            assert!(message.contains("Your key [redacted] & you. Ray ID: … word") && message.len() < 220, "{message}");
            assert!(error.advice().starts_with("check what the proxy or firewall"), "{error}");
            assert!(format!("{error:?}").contains(&format!("\npage: {told}")), "{error:?}");
            for own in ["", if status == 401 { "Unauthorized\n" } else { "Forbidden\n" }] {
                let error = error_of(over, status, own).await;
                assert!(error.advice().starts_with("check the API key"), "{error}");
                assert_eq!(error.page(), Some(own.trim()).filter(|own| !own.is_empty()));
            }
        }
    }
}

#[tokio::test]
async fn a_missing_client_certificate_is_told() {
    for page in ["<title>400 No required SSL certificate was sent</title>", "<h1>400 The SSL certificate error</h1>"] {
        for over in BOTH {
            let error = error_of(over, 400, page).await;
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unauthenticated, Outcome::Refused));
            assert!(error.message().contains("wants a client certificate"), "{error}");
            assert!(error.advice().contains("`Tls::client_certificate`"), "{error}");
        }
    }
}

#[tokio::test]
async fn clear_text_sent_to_a_port_for_tls_is_told() {
    let pages = [
        "<html>The plain HTTP request was sent to HTTPS port</html>",
        "Client sent an HTTP request to an HTTPS server.\n",
    ];
    for page in pages {
        let first = h1script::start(move |mut connection| async move {
            connection.first_byte().await?;
            connection.write(format!("HTTP/1.0 400 Bad Request\r\n\r\n{page}").as_bytes()).await?;
            connection.finish().await
        });
        for over in BOTH {
            let error = error_at(over, &first.url()).await;
            assert_eq!(error.kind(), ErrorKind::Connect);
            assert!(error.message().contains("this port speaks TLS; give the endpoint as https://"), "{error}");
            assert!(error.page().is_some() && !error.may_have_run() && error.attempts() == 1, "{error:?}");
        }
    }
    let identity = Authority::new().issue("127.0.0.1");
    let server = Server::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    for over in BOTH {
        let url = over.url(&server).replace("https://", "http://").replace("/api", "");
        let error = error_at(over, &url).await;
        assert!(error.message().contains("speak"), "{error}");
        assert_eq!(error.attempts(), 1, "{error}");
    }
}

#[tokio::test]
async fn tls_at_a_port_for_clear_text_is_told_the_same_over_both_transports() {
    let server = Server::start().await.unwrap();
    let mut told = Vec::new();
    for over in BOTH {
        let url = over.url(&server).replace("http://", "https://").replace("/api", "");
        let config = over.config_at(&url).tls(Tls::new().danger_skip_verification()).retry(quick_retry());
        let error = publish(&Client::new(config).unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome(), error.attempts()), (ErrorKind::Connect, Outcome::NotSent, 1));
        assert!(error.message().contains("does not speak TLS"), "{error}");
        told.push((error.message().to_owned(), error.advice()));
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn another_port_of_the_server_is_named() {
    for (over, port) in [(Over::Grpc, "gRPC"), (Over::Http, "HTTP")] {
        let error = error_of(over, 415, "invalid gRPC request content-type").await;
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Protocol, Outcome::Refused));
        assert!(error.message().contains(&format!("is this the port of the server's {port} API?")), "{error}");
    }
    let error = error_of(Over::Grpc, 404, "404 page not found\n").await;
    assert!(error.message().ends_with("is this the port of the server's gRPC API?"), "{error}");
    let error = error_of(Over::Http, 404, "404 page not found\n").await;
    assert!(error.message().ends_with("which ends in /api"), "{error}");
}

#[tokio::test]
async fn the_page_of_a_proxy_is_in_the_message_and_the_servers_own_is_not() {
    for over in BOTH {
        for (status, page, told) in [
            (502, "<title>502 Bad Gateway</title> nginx/1.22", Some("502 Bad Gateway nginx/1.22")),
            (500, r#"{"code":500,"message":"oh"}"#, Some(r#"{"code":500,"message":"oh"}"#)),
            (400, "<h1>Request Header Or Cookie Too Large</h1>", Some("Request Header Or Cookie Too Large")),
            (503, "", None),
            (400, "Bad Request\n", None),
            (500, "Internal Server Error\n", None),
        ] {
            let error = error_of(over, status, page).await;
            let message = error.message();
            match told {
                Some(told) => assert!(message.ends_with(&format!(", with the page \"{told}\"")), "{message}"),
                None => assert!(!message.contains("page"), "{message}"),
            }
            assert_eq!(error.code(), None, "{error}");
        }
    }
}

#[tokio::test]
async fn a_content_encoding_that_was_not_asked_for_is_named() {
    const GZIP: &[(&str, &str)] = &[("content-encoding", "gzip")];
    let asked = h1script::replying(|request| {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        h1script::Reply::result()
    });
    publish(&Client::new(Config::http(asked.api_url())).unwrap()).await.unwrap();
    let server = server(Over::Http, 200, GZIP, "\u{1f}\u{8b}");
    let error = error_at(Over::Http, &server.url()).await;
    assert_eq!((error.kind(), error.outcome(), error.attempts()), (ErrorKind::Protocol, Outcome::Unknown, 1));
    assert!(error.message().contains("`content-encoding` `gzip`"), "{error}");
    for over in BOTH {
        let server = self::server(over, 403, GZIP, "\u{1f}\u{8b}");
        let error = error_at(over, &server.url()).await;
        assert_eq!((error.kind(), error.page()), (ErrorKind::Unauthenticated, None));
        assert!(error.message().contains("`content-encoding` `gzip`"), "{error}");
    }
}

#[tokio::test]
async fn many_headers_are_read_from_the_second_response_on_and_too_many_are_named() {
    let with = |headers: usize| {
        let names: Vec<String> = (0..headers).map(|number| format!("x-{number}")).collect();
        h1script::replying(move |_| {
            let mut all: Vec<_> = names.iter().map(|name| (&name[..], "1")).collect();
            all.push(("content-type", "application/json"));
            h1script::Reply::with(200, &all, br#"{"result":{}}"#)
        })
    };
    for headers in [90, 150, 900] {
        let server = with(headers);
        let client = Client::new(Config::http(server.api_url()).retry(quick_retry())).unwrap();
        publish(&client).await.unwrap();
        publish(&client).await.unwrap();
        // The first response showed how many there are.
        assert_eq!(server.tally.arrived().len(), if headers < 100 { 2 } else { 3 }, "{headers}");
    }
    let server = with(1_100);
    let client = Client::new(Config::http(server.api_url()).retry(quick_retry())).unwrap();
    for attempts in [2, 1] {
        let error = publish(&client).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome(), error.attempts()),
            (ErrorKind::Protocol, Outcome::Unknown, attempts)
        );
        assert!(error.message().contains("1000 of them") && !error.is_transient(), "{error}");
    }
}
