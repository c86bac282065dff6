//! `publish` and `broadcast`: data from the command line, from a file or from standard input.

use centrifugo_api::{BroadcastRequest, Payload, PublishRequest};
use serde::Serialize;

use crate::args::{Broadcast, Data, Publish, Source};
use crate::connection::{self, Connection};
use crate::failure::Failure;
use crate::output;

/// Sets the options that publications and broadcasts share. Their types have no trait in common.
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

pub(crate) async fn publish(
    connection: &Connection,
    Publish { channel, data, publication }: Publish,
) -> Result<(), Failure> {
    let Data { given, source } = data;
    let data = payload(given.as_deref(), &source)?;
    let request = with_options!(PublishRequest::new(channel, data), publication);
    let result = connection.client()?.publish(request).await?;
    print(&result)
}

pub(crate) async fn broadcast(connection: &Connection, broadcast: Broadcast) -> Result<(), Failure> {
    let (channels, given) = addressees(&broadcast)?;
    let Broadcast { source, publication, .. } = broadcast;
    let data = payload(given.as_deref(), &source)?;
    let request = with_options!(BroadcastRequest::new(channels, data), publication);
    let client = connection.client()?;
    let result = client.broadcast(&request).await?;
    let printed = print(&result);
    // A channel that failed matters more than a reader that has gone.
    result.all_ok()?;
    printed
}

/// The channels of a broadcast, and its data if that is among the arguments: the last of them, unless a file has it.
fn addressees(broadcast: &Broadcast) -> Result<(Vec<String>, Option<String>), Failure> {
    let mut channels = broadcast.words.clone();
    let given = if broadcast.source.file.is_some() { None } else { channels.pop() };
    if let Some(file) = &broadcast.channels_from {
        let text = if file.as_os_str() != "-" {
            connection::read("--channels-from", file)?
        } else if given.as_deref() == Some("-") {
            return Err(Failure::invalid("standard input is named twice: by --channels-from and as the data"));
        } else {
            output::read_stdin()?
        };
        let text = String::from_utf8(text)
            .map_err(|_| Failure::invalid(format!("--channels-from {}: it is not UTF-8", file.display())))?;
        channels.extend(connection::without_mark(&text).lines().filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if channels.is_empty() {
        return Err(Failure::invalid(
            "no channel is given: name the channels first and the data last, as in `broadcast news-1 news-2 '{\"a\":1}'`",
        ));
    }
    if channels.iter().any(String::is_empty) {
        return Err(Failure::invalid("a channel is empty"));
    }
    Ok((channels, given))
}

fn print(result: &impl Serialize) -> Result<(), Failure> {
    match serde_json::to_string(result) {
        Ok(text) => output::print(&text).map_err(Failure::after_call),
        Err(error) => Err(Failure::io("the result has no JSON form", error.into())),
    }
}

/// The payload, of the kind that the options name.
fn payload(given: Option<&str>, Source { file, text, binary }: &Source) -> Result<Payload, Failure> {
    let (bytes, typed) = match (file, given) {
        (Some(file), _) => (connection::read("--file", file)?, false),
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
        let text = connection::without_mark(text);
        return Ok(Payload::json(text)?);
    }
    let json = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    Payload::raw_json(json.trim_ascii().to_vec()).map_err(|_| {
        Failure::invalid(
            "the data is not JSON: quote it for the shell ('{\"text\":\"hello\"}'), or take it as text with --text, \
             from a file with --file, from standard input with `-`, or as any bytes with --binary",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Publication;

    const JSON: Source = Source { file: None, text: false, binary: false };

    fn words(words: &[&str]) -> Broadcast {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Broadcast { words, channels_from: None, source: JSON, publication: Publication::default() }
    }

    #[test]
    fn a_comma_in_a_channel_separates_nothing_and_the_data_comes_last() {
        let (channels, data) = addressees(&words(&["dialog#42,43", "a, b", "{}"])).ok().unwrap();
        assert_eq!((channels, data.as_deref()), (vec!["dialog#42,43".to_owned(), "a, b".to_owned()], Some("{}")));
        for wrong in [&["{}"][..], &["", "{}"], &["a", "", "{}"]] {
            assert!(addressees(&words(wrong)).is_err(), "{wrong:?}");
        }
        let of_file = Source { file: Some("data.json".into()), ..JSON };
        let (channels, data) = addressees(&Broadcast { source: of_file, ..words(&["a", "b"]) }).ok().unwrap();
        assert_eq!((channels.len(), data), (2, None));
    }

    #[test]
    fn data_is_json_text_or_bytes_as_it_was_said() {
        let json = payload(Some(" {\"a\": 1.10}\n"), &JSON).ok();
        assert_eq!(json.as_ref().map(Payload::as_bytes), Some(&b"{\"a\": 1.10}"[..]));
        let text = payload(Some("say \"hi\"\n"), &Source { text: true, ..JSON }).ok();
        assert_eq!(text.as_ref().map(Payload::as_bytes), Some(&br#""say \"hi\"\n""#[..]));
        let binary = payload(Some("{"), &Source { binary: true, ..JSON }).ok();
        assert_eq!(binary.as_ref().map(Payload::as_bytes), Some(&b"{"[..]));
        assert!(payload(Some("hello"), &JSON).is_err());
        let marked = payload(Some("\u{feff}{}"), &JSON).ok();
        assert_eq!(marked.as_ref().map(Payload::as_bytes), Some(&b"{}"[..]));
        let marked = payload(Some("\u{feff}hi"), &Source { text: true, ..JSON }).ok();
        assert_eq!(marked.as_ref().map(Payload::as_bytes), Some(&b"\"hi\""[..]));
        let bytes = payload(Some("\u{feff}hi"), &Source { binary: true, ..JSON }).ok();
        assert_eq!(bytes.as_ref().map(Payload::as_bytes), Some("\u{feff}hi".as_bytes()));
    }
}
