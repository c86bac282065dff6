//! Any bytes as the response to any method and to a batch.

use bytes::Bytes;
use centrifugo_api::message::{Message, Request};
use centrifugo_api::transport::{Reply, from_fn};
use centrifugo_api::{ApiError, Batch, BatchHandle, BatchReplies, BroadcastRequest, Client, Error, ErrorKind, Method};
use serde_json::value::RawValue;

use super::{Input, at_once, for_each_request, is_refusal, show};

pub(crate) fn protobuf(data: &[u8]) {
    let (commands, depth, data) = commands(data);
    let reply = Bytes::copy_from_slice(data);
    let field = |number, bytes| {
        let mut field = Vec::new();
        prost::encoding::bytes::encode(number, bytes, &mut field);
        Bytes::from(field)
    };
    // As they are, or one level deeper, where a result, a reply or an error stands.
    let reply = match depth % 3 {
        0 => reply,
        1 => field(2, &reply),
        _ => field(1, &reply),
    };
    every_method(&commands, &Reply::protobuf(reply));
}

pub(crate) fn json(data: &[u8]) {
    let (commands, depth, data) = commands(data);
    let around = |before: &str, after: &str| Reply::json([before.as_bytes(), data, after.as_bytes()].concat());
    match depth % 4 {
        0 => every_method(&commands, &around("", "")),
        1 => every_method(&commands, &around(r#"{"result":"#, "}")),
        2 => every_method(&commands, &around(r#"{"replies":["#, "]}")),
        _ => {
            for method in &commands {
                every_method(&[*method], &around(&format!(r#"{{"replies":[{{"{method}":"#), "}]}"));
            }
        }
    }
}

/// The first two bytes choose how deep in the response the rest stands, and the commands of a batch: how many, and from
/// which method on.
fn commands(data: &[u8]) -> (Vec<Method>, u8, &[u8]) {
    let mut input = Input(data);
    let (shape, first) = (input.byte(), usize::from(input.byte()));
    let batchable = &Method::ALL[..Method::ALL.len() - 1];
    let command = |index| batchable[(first + usize::from(index)) % batchable.len()];
    ((0..shape % 4).map(command).collect(), shape / 4, input.0)
}

fn every_method(commands: &[Method], reply: &Reply) {
    let client = Client::with_transport(from_fn("fuzz", {
        let reply = reply.clone();
        move |_| std::future::ready(Ok(reply.clone()))
    }));
    macro_rules! call_each {
        ($($request:ident)*) => { $( typed_and_raw::<centrifugo_api::message::$request>(&client); )* };
    }
    for_each_request!(call_each);
    // A result for each channel is asked for, so that more responses than the empty one fit.
    for channels in 1..4 {
        if let Ok(result) = at_once(client.broadcast(BroadcastRequest::new(vec!["a"; channels], Bytes::new()))) {
            assert_eq!(result.iter().len(), channels);
            assert_eq!(result.iter().filter(Result::is_err).count(), result.failed().count());
        }
    }
    batch(&client, commands);
}

/// A call with its own types and the same as JSON must agree on what the server said.
fn typed_and_raw<R>(client: &Client)
where
    R: Request,
    R::Result: PartialEq,
{
    let typed = at_once(client.call(R::default()));
    let raw = at_once(client.call_json::<Box<RawValue>>(R::METHOD.name(), serde_json::json!({})));
    if let Ok(result) = &typed {
        read_again(result);
    }
    for error in [typed.as_ref().err(), raw.as_ref().err()].into_iter().flatten() {
        check(error, false);
    }
    if let (Ok(_), Err(error)) = (&typed, &raw) {
        assert!(error.kind() == ErrorKind::Protocol, "{error:?}");
    }
    if let (Err(error), Ok(_)) = (&typed, &raw) {
        assert!(error.kind() != ErrorKind::Api, "{}: {error:?}", R::METHOD);
    }
}

/// A result is a message that can be written and read again.
fn read_again<T: Message + PartialEq>(result: &T) {
    let again = T::decode(&*result.encode_to_vec()).expect("a message that was just written");
    // Not a number is not even equal to itself.
    #[allow(clippy::eq_op, reason = "not a number is not even equal to itself")]
    let comparable = result == result;
    assert!(again == *result || !comparable);
    if let Ok(json) = serde_json::to_vec(result) {
        serde_json::from_slice::<T>(&json).expect("JSON that was just written");
    }
}

/// Reads the reply to a command, as its own type.
type Get = Box<dyn Fn(&BatchReplies) -> Option<Error>>;

fn batch(client: &Client, commands: &[Method]) {
    let mut batch = Batch::new();
    let mut typed: Vec<Get> = Vec::new();
    macro_rules! push_one {
        ($($request:ident)*) => {
            for command in commands {
                $(if *command == <centrifugo_api::message::$request as Request>::METHOD {
                    let handle = batch.push(centrifugo_api::message::$request::default());
                    typed.push(Box::new(move |replies| replies.get(handle).err()));
                })*
            }
        };
    }
    for_each_request!(push_one);
    assert_eq!((batch.len(), typed.len()), (commands.len(), commands.len()));

    let mut raw_batch = Batch::new();
    let raw: Vec<BatchHandle<RawValue>> = commands
        .iter()
        .map(|command| raw_batch.push_json(command.name(), serde_json::json!({})).expect("a method of the schema"))
        .collect();

    let refused = match (at_once(client.batch(&batch)), at_once(client.batch(&raw_batch))) {
        (Ok(replies), Ok(raw_replies)) => {
            assert_eq!(replies.len(), commands.len());
            for (typed, raw) in typed.iter().zip(raw) {
                let from_raw = raw_replies.get_json::<Box<RawValue>>(raw).err();
                let from_typed = typed(&replies);
                for error in [&from_typed, &from_raw].into_iter().flatten() {
                    check(error, true);
                }
                if let (Some(error), None) = (from_typed, from_raw) {
                    assert!(error.api().is_none(), "{error:?}");
                }
            }
            false
        }
        (Err(error), Err(_)) => {
            check(&error, false);
            error.kind() == ErrorKind::Api
        }
        (one, other) => panic!("the same response, read twice: {one:?}, {other:?}"),
    };

    let list: Vec<_> = commands.iter().map(|command| serde_json::json!({ command.name(): {} })).collect();
    let raw = at_once(client.call_json::<Box<RawValue>>("batch", serde_json::json!({ "commands": list })));
    match raw {
        Ok(raw) => assert!(!refused, "a refused batch is returned as its result: {raw}"),
        Err(error) => check(&error, false),
    }
}

/// There was a response, so only the server's own refusal says that nothing was applied.
fn check(error: &Error, in_batch: bool) {
    let kinds = [ErrorKind::Api, ErrorKind::Protocol, ErrorKind::Unsupported];
    assert!(kinds[..if in_batch { 3 } else { 2 }].contains(&error.kind()), "{error:?}");
    assert!(error.may_have_run() || error.api().is_some_and(is_refusal), "{error:?}");
    assert!(error.api().is_none_or(|api: &ApiError| api.code != 0), "{error:?}");
    show(error);
}
