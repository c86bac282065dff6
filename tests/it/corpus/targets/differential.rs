//! A request and a result must mean the same in protobuf and in JSON.
//!
//! They are read from protobuf, in which every value of a message can be written.

use std::any::Any;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use centrifugo_api::message::{
    ConnectionsResult, InfoResult, MapPublishRequest, MapReadStateResult, MapReadStreamResult, RefreshRequest, Request,
    RpcRequest, RpcResult, SendPushNotificationRequest, SharedPollPublishRequest,
};
use centrifugo_api::transport::{Reply, from_fn};
use centrifugo_api::{
    ApiError, Batch, BroadcastRequest, BroadcastResult, Client, Error, ErrorKind, HistoryResult, Method,
    PresenceResult, PublishRequest, SubscribeRequest,
};
use prost::Message as _;
use serde_json::value::RawValue;

use super::{Input, at_once, for_each_request, show};

/// The first byte chooses the method, the rest is a request, a result and an error.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let method = Method::ALL[usize::from(input.byte()) % (Method::ALL.len() - 1)];
    macro_rules! compare {
        ($($request:ident)*) => {
            $(if method == <centrifugo_api::message::$request as Request>::METHOD {
                requests::<centrifugo_api::message::$request>(input.0);
                results::<centrifugo_api::message::$request>(input.0);
            })*
        };
    }
    for_each_request!(compare);
    errors(input.0);
}

/// What a transport sees of the calls: both forms of each.
type Seen = Arc<Mutex<Vec<(Result<Bytes, Error>, Result<Bytes, Error>)>>>;

fn requests<R>(data: &[u8])
where
    R: Request + PartialEq,
{
    let Ok(mut request) = R::decode(data) else { return };
    let seen = Seen::default();
    let client = Client::with_transport(from_fn("fuzz", {
        let seen = Arc::clone(&seen);
        move |call| {
            seen.lock().expect("no panic").push((call.to_protobuf(), call.to_json()));
            std::future::ready(Err(Error::new(ErrorKind::Lost, "")))
        }
    }));
    let client = client.with_pro(true);
    let mut batch = Batch::new();
    let _ = batch.push(request.clone());
    let error = at_once(client.call(request.clone())).err().expect("no response");
    let batch_error = at_once(client.batch(&batch)).expect_err("no response");
    assert_eq!(error.kind(), batch_error.kind());
    let mut seen = std::mem::take(&mut *seen.lock().expect("no panic")).into_iter();
    let Some((protobuf, json)) = seen.next() else {
        return assert_eq!(error.kind(), ErrorKind::Invalid, "it was not sent: {error:?}");
    };
    let (in_batch, json_in_batch) = seen.next().expect("the batch");

    let protobuf = protobuf.expect("a message");
    assert!(R::decode(protobuf.clone()).expect("a message") == request);
    assert!(in_batch.expect("messages").ends_with(&protobuf));
    let json = match (json, json_in_batch) {
        (Ok(json), Ok(in_batch)) => {
            let expected = [br#"{"commands":[{""#, R::METHOD.name().as_bytes(), br#"":"#, &json, b"}]}"].concat();
            assert_eq!(in_batch, expected);
            json
        }
        (Err(error), Err(in_batch)) => {
            assert_eq!((error.kind(), in_batch.kind()), (ErrorKind::Invalid, ErrorKind::Invalid));
            show(&error);
            return assert!(!settle(&mut request), "all its bytes have a place: {error:?}");
        }
        (one, other) => panic!("alone {one:?}, in a batch {other:?}"),
    };
    let mut read: R = serde_json::from_slice(&json).expect("JSON of the request");
    settle(&mut request);
    settle(&mut read);
    assert!(read == request, "{}", String::from_utf8_lossy(&json));

    // The same as JSON, given to the client as such.
    let raw: Box<RawValue> = serde_json::from_slice(&json).expect("JSON");
    let translated = Client::with_transport(from_fn("fuzz", move |call| {
        let mut read = R::decode(call.to_protobuf().expect("a protobuf form")).expect("a message");
        settle(&mut read);
        assert!(read == request, "as JSON and as protobuf");
        std::future::ready(Err(Error::new(ErrorKind::Lost, "")))
    }));
    let error = at_once(translated.with_pro(true).call_json::<Box<RawValue>>(R::METHOD.name(), raw)).expect_err("none");
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
}

fn results<R>(data: &[u8])
where
    R: Request,
    R::Result: PartialEq,
{
    let Ok(mut result) = R::Result::decode(data) else { return };
    // Not a number has no JSON.
    if result != result.clone() {
        return;
    }
    let Ok(json_text) = serde_json::to_string(&result) else {
        return assert!(!settle(&mut result), "all its bytes have a place");
    };
    let response = |reply: Reply| {
        let client = Client::with_transport(from_fn("fuzz", move |_| std::future::ready(Ok(reply.clone()))));
        let channels = (&result as &dyn Any).downcast_ref().map_or(0, |result: &BroadcastResult| result.iter().len());
        if channels == 0 {
            return at_once(client.call(R::default()));
        }
        let request = BroadcastRequest::new(vec!["a"; channels], Bytes::new());
        let result = at_once(client.call(request))?;
        Ok((&result as &dyn Any).downcast_ref::<R::Result>().expect("a broadcast").clone())
    };
    let reply = Reply::result(&result);
    let (protobuf, json) = (response(reply), response(Reply::json(format!(r#"{{"result":{json_text}}}"#))));
    match (protobuf, json) {
        (Ok(mut one), Ok(mut other)) => {
            settle(&mut one);
            settle(&mut other);
            assert!(one == other, "{json_text}");
        }
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        (one, other) => panic!("{:?} {:?} {json_text}", one.err(), other.err()),
    }
}

fn errors(data: &[u8]) {
    let Ok(api) = ApiError::decode(data) else { return };
    let json = serde_json::to_string(&api).expect("JSON");
    let call = |reply: Reply| {
        let client = Client::with_transport(from_fn("fuzz", move |_| std::future::ready(Ok(reply.clone()))));
        at_once(client.publish(PublishRequest::new("a", Bytes::new()))).expect_err("an error")
    };
    let one = call(Reply::error(&api));
    let other = call(Reply::json(format!(r#"{{"error":{json}}}"#)));
    assert_eq!((show(&one), one.may_have_run()), (show(&other), other.may_have_run()));
}

/// Makes of a message what the other side takes from it: the base64 twin of a field wins over the field, and space around
/// JSON is no part of it. Whether all its bytes are such that JSON can hold them.
fn settle(message: &mut dyn Any) -> bool {
    /// The bytes of a field without a twin.
    fn bytes(field: &mut Bytes) -> bool {
        let Ok(raw) = serde_json::from_slice::<&RawValue>(field) else { return field.is_empty() };
        *field = field.slice_ref(raw.get().as_bytes());
        true
    }
    /// The bytes of a field with a twin.
    fn twins(field: &mut Bytes, twin: &mut String) -> bool {
        if let Ok(decoded) = STANDARD.decode(&*twin) {
            if !twin.is_empty() {
                *field = decoded.into();
            }
            twin.clear();
        } else {
            field.clear();
        }
        true
    }
    /// A number whose last bit may differ: `serde_json` reads decimals quickly, not exactly.
    #[allow(clippy::cast_possible_truncation, reason = "that is what it is for")]
    fn double(field: &mut f64) {
        *field = f64::from(*field as f32);
    }
    macro_rules! messages {
        ($($message:ident |$it:ident| $settle:expr;)*) => {
            $(if let Some($it) = message.downcast_mut::<$message>() {
                return $settle;
            })*
        };
    }
    /// Every one, even after one that is not.
    fn all(each: impl Iterator<Item = bool>) -> bool {
        each.fold(true, |all, one| all & one)
    }
    messages! {
        PublishRequest |it| twins(&mut it.data, &mut it.b64data);
        BroadcastRequest |it| twins(&mut it.data, &mut it.b64data);
        SharedPollPublishRequest |it| twins(&mut it.data, &mut it.b64data);
        SubscribeRequest |it| twins(&mut it.data, &mut it.b64data) & twins(&mut it.info, &mut it.b64info);
        MapPublishRequest |it| twins(&mut it.data, &mut it.b64data) & twins(&mut it.stream_data, &mut it.b64stream_data);
        RefreshRequest |it| bytes(&mut it.info);
        RpcRequest |it| bytes(&mut it.params);
        SendPushNotificationRequest |it| it.notification.as_mut().is_none_or(|push| {
            push.fcm.as_mut().is_none_or(|it| bytes(&mut it.message))
                & push.hms.as_mut().is_none_or(|it| bytes(&mut it.message))
                & push.apns.as_mut().is_none_or(|it| bytes(&mut it.payload))
                & push.webpush.as_mut().is_none_or(|it| bytes(&mut it.payload))
        });
        RpcResult |it| bytes(&mut it.data);
        InfoResult |it| {
            for node in &mut it.nodes {
                if let Some(metrics) = &mut node.metrics {
                    double(&mut metrics.interval);
                    metrics.items.values_mut().for_each(double);
                }
                if let Some(process) = &mut node.process {
                    double(&mut process.cpu);
                }
            }
            true
        };
        PresenceResult |it| all(it.presence.values_mut().map(|it| bytes(&mut it.conn_info) & bytes(&mut it.chan_info)));
        HistoryResult |it| all(it.publications.iter_mut().map(|it| {
            bytes(&mut it.data)
                & it.info.as_mut().is_none_or(|it| bytes(&mut it.conn_info) & bytes(&mut it.chan_info))
        }));
        MapReadStateResult |it| all(it.entries.iter_mut().map(|it| bytes(&mut it.data)));
        MapReadStreamResult |it| all(it.entries.iter_mut().map(|it| bytes(&mut it.data)));
        ConnectionsResult |it| all(it.connections.values_mut().map(|it| {
            it.state.as_mut().is_none_or(|it| bytes(&mut it.meta))
        }));
    }
    true
}
