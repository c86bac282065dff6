//! `publish` and `broadcast`: data from the command line, from a file or from standard input.

use centrifugo_api::{BroadcastRequest, Payload, PublishRequest};
use serde::Serialize;

use crate::args::{self, Broadcast, Connection, Data, Publish};
use crate::output::{self, Failure, Refused};

/// Sets what publications and broadcasts have in common. Their types have nothing to say that in.
macro_rules! with_options {
    ($request:expr, $options:expr) => {{
        let options = $options;
        let request = $request.tags(options.tags).skip_history(options.skip_history).delta(options.delta);
        request
            .idempotency_key(options.idempotency_key.unwrap_or_default())
            .version(options.version.unwrap_or_default())
            .version_epoch(options.version_epoch.unwrap_or_default())
    }};
}

pub(crate) async fn publish(connection: &Connection, Publish { channel, publication }: Publish) -> Result<(), Failure> {
    let data = payload(&publication.data)?;
    let request = with_options!(PublishRequest::new(channel, data), publication);
    let result = connection.client()?.publish(request).await?;
    print(&result)
}

pub(crate) async fn broadcast(connection: &Connection, broadcast: Broadcast) -> Result<(), Failure> {
    let Broadcast { channels, publication } = broadcast;
    let data = payload(&publication.data)?;
    let request = with_options!(BroadcastRequest::new(channels, data), publication);
    let client = connection.client()?;
    let result = client.broadcast(&request).await?;
    let printed = print(&result);
    // A channel that was refused matters more than a reader that has gone.
    Refused::of(&client, &request.channels, &result).and(printed)
}

fn print(result: &impl Serialize) -> Result<(), Failure> {
    match serde_json::to_string(result) {
        Ok(text) => output::print(&text),
        Err(error) => Err(Failure::io("the result has no JSON form", error.into())),
    }
}

/// What to publish, of whatever kind it was said to be.
fn payload(Data { given, file, text, binary }: &Data) -> Result<Payload, Failure> {
    let (bytes, typed) = match (file, given.as_deref()) {
        (Some(file), _) => (args::read("--file", file)?, false),
        (None, Some("-")) => (output::read_stdin()?, false),
        (None, given) => (given.unwrap_or_default().as_bytes().to_vec(), true),
    };
    if *binary {
        return Ok(Payload::binary(bytes));
    }
    if *text {
        let text =
            String::from_utf8(bytes).map_err(|_| Failure::invalid("the text is not UTF-8; --binary sends it"))?;
        // The line break at the end of a file, or of what `echo` prints, is not part of the text.
        let text =
            if typed { &text } else { text.strip_suffix('\n').map_or(&*text, |text| text.trim_end_matches('\r')) };
        return Ok(Payload::json(text)?);
    }
    Payload::raw_json(bytes.trim_ascii().to_vec()).map_err(|_| {
        Failure::invalid(
            "the data is not JSON: quote it for the shell ('{\"text\":\"hello\"}'), or take it as text with --text, \
             from a file with --file, from standard input with `-`, or as any bytes with --binary",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str) -> Data {
        Data { given: Some(text.into()), file: None, text: false, binary: false }
    }

    #[test]
    fn data_is_json_text_or_bytes_as_it_was_said() {
        let json = payload(&data(" {\"a\": 1.10}\n")).ok();
        assert_eq!(json.as_ref().map(Payload::as_bytes), Some(&b"{\"a\": 1.10}"[..]));
        let text = payload(&Data { text: true, ..data("say \"hi\"\n") }).ok();
        assert_eq!(text.as_ref().map(Payload::as_bytes), Some(&br#""say \"hi\"\n""#[..]));
        let binary = payload(&Data { binary: true, ..data("{") }).ok();
        assert_eq!(binary.as_ref().map(Payload::as_bytes), Some(&b"{"[..]));
        assert!(payload(&data("hello")).is_err());
    }
}
