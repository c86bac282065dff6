use http::header::AUTHORIZATION;
use proptest::prelude::*;

use super::*;

fn secrets(headers: &[(&'static str, &str)]) -> Secrets {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let mut value = HeaderValue::from_str(value).unwrap();
        value.set_sensitive(true);
        map.append(*name, value);
    }
    Secrets::of(&map, None)
}

fn text(page: &str) -> String {
    text_of(page.as_bytes(), &Secrets::default()).unwrap_or_default()
}

#[test]
fn the_text_of_a_page_is_its_title_and_its_first_words_in_one_line() {
    let nginx = "<html>\r\n<head><title>400 No required SSL certificate was sent</title></head>\r\n<body>\r\n<center>\
                 <h1>400 Bad Request</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n";
    assert_eq!(text(nginx), "400 No required SSL certificate was sent 400 Bad Request nginx/1.22.1");
    let hidden = "<!-- a > b --><STYLE>p { a > b }</STYLE><script>if (a<b) {}</script><p>Fish &amp; chips&nbsp;&#60;&#x3e; &no; &";
    assert_eq!(text(hidden), "Fish & chips <> &no; &");
    assert_eq!(text("404 page not found\n"), "404 page not found");
    assert_eq!(text(r#"{"message":"a < b &amp; c"}"#), r#"{"message":"a < b &amp; c"}"#);
    assert_eq!(text("\u{1b}[31mred\u{7}\u{202e}\tand  more\u{feff}"), "[31mred and more");
    for nothing in ["", " \r\n", "<p></p>", "<!-- without an end", "a\0b", "<"] {
        let shown = text(nothing);
        assert!(shown.is_empty() || shown == "<", "{shown}");
    }
}

#[cfg(feature = "grpc")]
#[test]
fn a_message_is_one_line_without_secrets() {
    let secrets = secrets(&[("authorization", "apikey sesame")]);
    assert_eq!(line_of("no\n<key> \u{7}sesame", &secrets), "no <key> [redacted]");
    assert_eq!(line_of(&"x".repeat(300), &secrets).chars().count(), 200);
}

#[test]
fn a_page_is_shortened() {
    assert_eq!(text(&"x".repeat(200)).chars().count(), 200);
    assert_eq!(text(&"ä".repeat(70_000)), "ä".repeat(199) + "…");
    assert_eq!(short(&text(&"word ".repeat(100))).chars().count(), 120);
}

#[test]
fn what_differs_from_page_to_page_is_not_in_its_short_form() {
    let page = |id: &str| short(&format!("Request Rejected. Your support ID is: {id} {id}. 403 nginx"));
    assert_eq!(page("1234567890"), page("77ad-4410"));
    assert_eq!(page("1234"), "Request Rejected. Your support ID is: … 403 nginx");
}

#[test]
fn keys_tokens_and_passwords_are_redacted() {
    let basic = format!("Basic {}", BASE64_STANDARD.encode("me:pass word"));
    let secrets = secrets(&[("x-api-key", "a\"key"), ("authorization", &basic), ("x-own", "Token ticket")]);
    let page = format!(
        "A\"KEY a\\\"key <p title='a&quot;key'>a&quot;key {basic} pass word me:pass word pass &#119;ord ticket</p>"
    );
    let shown = text_of(page.as_bytes(), &secrets).unwrap();
    for secret in ["key", "word", "ticket", "bWU6"] {
        assert!(!shown.to_ascii_lowercase().contains(secret), "{shown}");
    }
    assert!(shown.contains(REDACTED), "{shown}");
    let bearer = HeaderValue::from_static("Bearer sesame");
    let hidden = |mut value: HeaderValue| {
        value.set_sensitive(true);
        value
    };
    let token = Secrets::of(&HeaderMap::from_iter([(AUTHORIZATION, bearer.clone())]), Some(&hidden(bearer)));
    assert_eq!(text_of(b"no such token: sesame", &token).unwrap(), "no such token: [redacted]");
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn a_text_is_one_short_line_without_secrets(
        key in "[a-z]{6,12}",
        before in prop_oneof!["\\PC{0,40}", "[<>a-z!&;# -]{0,400}", "[ x]{32600,32800}"],
        after in prop_oneof!["\\PC{0,40}", "[<>a-z!&;#\r\n\u{0}-\u{1f}]{0,400}"],
    ) {
        let page = format!("{before}{key}{after}");
        let shown = text_of(page.as_bytes(), &secrets(&[("x-api-key", &key)])).unwrap_or_default();
        prop_assert!(!shown.contains(&key), "{}", shown);
        prop_assert!(shown.chars().count() <= LONG && !shown.contains(|c: char| c.is_control()), "{}", shown);
        prop_assert!(short(&shown).chars().count() <= SHORT);
    }
}
