//! Calls by name, with parameters and results as JSON.

use centrifugo_api::{
    ApiError, Batch, Client, Error, ErrorKind, HistoryRequest, Outcome, Payload, PublishRequest, PublishResult,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::suite::{assert_code, assert_kind, suite};
use crate::support::{Over, servers::Setup};

async fn calls_by_name_take_and_give_json(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let published: PublishResult =
        client.call_json("publish", json!({"channel": channel, "data": {"n": 1}, "tags": {"a": "b"}})).await.unwrap();
    assert_eq!(published.offset, 1);
    let history: Value = client.call_json("history", HistoryRequest::new(&channel).limit(1)).await.unwrap();
    let expected = json!({
        "publications": [{"data": {"n": 1}, "offset": 1, "tags": {"a": "b"}}], "epoch": published.epoch, "offset": 1,
    });
    assert_eq!(history, expected);
    let nothing: Value =
        client.call_json("publish", json!({"channel": setup.channel("plain"), "data": 1})).await.unwrap();
    assert_eq!(nothing, json!({}));
}

async fn calls_by_name_fail_as_typed_calls_do(client: &Client, setup: &Setup) {
    let params = json!({"channel": setup.channel("nope")});
    assert_code(client.call_json::<Value>("history", params).await, ApiError::UNKNOWN_CHANNEL);
    assert_code(client.call_json::<Value>("publish", json!({})).await, ApiError::BAD_REQUEST);
    let wrong_type = json!({"channel": setup.channel(""), "limit": "1"});
    assert_kind(client.call_json::<Value>("history", wrong_type).await, ErrorKind::Invalid, false);
}

async fn a_result_read_as_the_wrong_type_is_of_a_call_that_took_effect(client: &Client, setup: &Setup) {
    fn assert_done<T: std::fmt::Debug>(result: Result<T, Error>) {
        let error = assert_kind(result, ErrorKind::Protocol, true);
        assert_eq!(error.outcome(), Outcome::Done, "{error}");
        assert!(error.message().contains(std::any::type_name::<T>()), "{error}");
    }
    let channel = setup.channel("");
    assert_done(client.call_json::<String>("publish", json!({"channel": channel, "data": 1})).await);
    assert_done(client.call_json::<()>("history_remove", json!({"channel": channel})).await);
    assert_done(client.call_json::<Vec<u8>>("batch", json!({"commands": [{"info": {}}]})).await);
    let mut batch = Batch::new();
    let published = batch.push_json("publish", json!({"channel": channel, "data": 1})).unwrap();
    assert_done(client.batch(&batch).await.unwrap().get_json::<String>(published));
    // JSON that serde_json's own values cannot hold.
    for data in [r#""\ud800""#.to_owned(), "1e400".into(), format!("{}{}", "[".repeat(130), "]".repeat(130))] {
        client.publish(PublishRequest::new(&channel, Payload::raw_json(data).unwrap())).await.unwrap();
        let last = json!({"channel": channel, "limit": 1, "reverse": true});
        client.call_json::<Box<RawValue>>("history", &last).await.unwrap();
        assert_done(client.call_json::<Value>("history", &last).await);
    }
}

async fn a_name_that_is_no_method_is_refused(client: &Client, setup: &Setup) {
    let unknown = client.call_json::<Value>("nope", json!({})).await;
    match setup.over {
        Over::Grpc => drop(assert_kind(unknown, ErrorKind::Invalid, false)),
        Over::Http => drop(assert_kind(unknown, ErrorKind::Unsupported, false)),
    }
    for name in ["", "../info", "Publish", "publish/"] {
        assert_kind(client.call_json::<Value>(name, json!({})).await, ErrorKind::Invalid, false);
    }
}

async fn an_unknown_field_is_sent_over_http_only(client: &Client, setup: &Setup) {
    let params = json!({"channel": setup.channel("plain"), "data": 1, "new_field": 1});
    let published = client.call_json::<Value>("publish", params).await;
    match setup.over {
        Over::Grpc => {
            let error = assert_kind(published, ErrorKind::Invalid, false);
            assert!(error.to_string().contains("`new_field`"), "{error}");
        }
        Over::Http => assert_eq!(published.unwrap(), json!({})),
    }
}

async fn a_batch_by_name_gives_the_same_json_over_both_transports(client: &Client, setup: &Setup) {
    let (plain, nope, presence) = (setup.channel("plain"), setup.channel("nope"), setup.channel("presence"));
    for parallel in [false, true] {
        let params = json!({"parallel": parallel, "commands": [
            {"publish": {"channel": plain, "data": {"n": 1}}},
            {"history": {"channel": nope}},
            {"presence": {"channel": presence}},
            {"rpc": {"method": "nope"}},
            {"broadcast": {"channels": [plain, nope], "data": 1}},
            {"connections": {}},
        ]});
        let replies: Value = client.call_json("batch", params).await.unwrap();
        let not_found = json!({"error": {"code": 104, "message": "not found"}});
        let unknown = json!({"error": {"code": 102, "message": "unknown channel"}});
        let expected = json!({"replies": [
            {"publish": {}},
            unknown,
            {"presence": {"presence": {}}},
            not_found,
            {"broadcast": {"responses": [{"result": {}}, unknown]}},
            not_found,
        ]});
        assert_eq!(replies, expected);
    }
    assert_eq!(client.call_json::<Value>("batch", json!({"commands": []})).await.unwrap(), json!({}));
}

async fn a_batch_by_name_keeps_the_text_of_what_it_finds(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let texts = [r#"{"z":12345678901234567890123,"a":1.10,"a":2}"#, "1e999", &deep];
    for text in texts {
        client.publish(PublishRequest::new(&channel, Payload::raw_json(text.to_owned()).unwrap())).await.unwrap();
    }
    let params = json!({"commands": [{"history": {"channel": channel, "limit": -1}}]});
    let replies: Box<RawValue> = client.call_json("batch", params).await.unwrap();
    for text in texts {
        assert!(replies.get().contains(&format!(r#""data":{text}"#)), "{replies}");
    }
}

async fn a_filter_of_pro_in_a_batch_by_name_is_refused(client: &Client, _: &Setup) {
    let disconnect = r#"{"user":"ghost","label_filter":{"key":"k"}}"#;
    for batch in [
        format!(r#"{{"commands":[{{"disconnect":{disconnect}}}]}}"#),
        format!(r#"{{"commands":[{{"disconnect":{disconnect}}}],"later_field":1}}"#),
        format!(r#"{{"Commands":[null,{{"Disconnect":{disconnect}}}],"parallel":null}}"#),
        format!(r#"{{"commands":[{{"info":{{}},"disconnect":{disconnect}}}]}}"#),
    ] {
        let batch: Box<RawValue> = serde_json::from_str(&batch).unwrap();
        let error = assert_kind(client.call_json::<Value>("batch", batch).await, ErrorKind::Invalid, false);
        assert!(error.to_string().contains("`label_filter`"), "{error}");
    }
}

async fn no_parameters_are_an_object_without_fields(client: &Client, _: &Setup) {
    let info: Value = client.call_json("info", ()).await.unwrap();
    assert_eq!(info["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(client.call_json::<Value>("batch", ()).await.unwrap(), json!({}));
    assert_code(client.call_json::<Value>("publish", ()).await, ApiError::BAD_REQUEST);
}

async fn binary_results_have_no_json_by_name(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    client.publish(PublishRequest::new(&channel, Payload::binary(vec![0xff]))).await.unwrap();
    let read = client.call_json::<Value>("history", json!({"channel": channel, "limit": -1})).await;
    assert_kind(read, ErrorKind::Protocol, true);
}

suite! {
    everywhere {
        a_batch_by_name_keeps_the_text_of_what_it_finds
        a_filter_of_pro_in_a_batch_by_name_is_refused
        no_parameters_are_an_object_without_fields
        calls_by_name_take_and_give_json
        calls_by_name_fail_as_typed_calls_do
        a_result_read_as_the_wrong_type_is_of_a_call_that_took_effect
        a_name_that_is_no_method_is_refused
        an_unknown_field_is_sent_over_http_only
        a_batch_by_name_gives_the_same_json_over_both_transports
        binary_results_have_no_json_by_name
    }
    standin {}
}
