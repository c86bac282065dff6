//! What a scripted server sends: the frames, and whether the request is applied.

use centrifugo_api::PublishResult;
use prost::Message as _;

use super::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, MAX_FRAME, RST_STREAM};

/// A response: its frames, and whether the request is applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(super) applied: bool,
    pub(super) frames: Vec<(u8, u8, Vec<u8>)>,
}

impl Reply {
    /// No response at all.
    pub(crate) fn hang() -> Self {
        Self::default()
    }

    /// The result of a publish that went well.
    pub(crate) fn result() -> Self {
        let mut result = PublishResult::default();
        (result.offset, result.epoch) = (1, "epoch".into());
        let result = result.encode_to_vec();
        Self::message(&[&[0x12, u8::try_from(result.len()).unwrap()], &result[..]].concat())
    }

    /// A message of the script's making, and status 0.
    pub(crate) fn message(message: &[u8]) -> Self {
        Self::head().data(message).headers(&[(b"grpc-status", b"0")], END_STREAM).applied()
    }

    /// A status, and nothing besides. The request counts as not applied.
    pub(crate) fn status(code: u32, message: &str) -> Self {
        Self::status_with(code, message, &[])
    }

    /// A status with more headers.
    pub(crate) fn status_with(code: u32, message: &str, more: &[(&[u8], &[u8])]) -> Self {
        let code = code.to_string();
        let mut headers: Vec<(&[u8], &[u8])> = vec![(b":status", b"200"), (b"content-type", b"application/grpc")];
        headers.extend_from_slice(&[(b"grpc-status", code.as_bytes()), (b"grpc-message", message.as_bytes())]);
        headers.extend_from_slice(more);
        Self::default().headers(&headers, END_STREAM)
    }

    /// The head of a response and a message, and then a reset instead of the trailers.
    pub(crate) fn cut(reason: u32) -> Self {
        Self::head().data(b"").then_reset(reason).applied()
    }

    /// A reset.
    pub(crate) fn reset(reason: u32) -> Self {
        Self::default().then_reset(reason)
    }

    /// The headers that come before a message.
    pub(crate) fn head() -> Self {
        Self::default().headers(&[(b":status", b"200"), (b"content-type", b"application/grpc")], 0)
    }

    /// Adds a block of headers, of any size: as many CONTINUATION frames as it takes.
    pub(crate) fn headers(mut self, headers: &[(&[u8], &[u8])], flags: u8) -> Self {
        let block = header_block(headers);
        let last = block.chunks(MAX_FRAME).count().saturating_sub(1);
        for (n, part) in block.chunks(MAX_FRAME).enumerate() {
            let (kind, flags) = if n == 0 { (HEADERS, flags) } else { (CONTINUATION, 0) };
            self.frames.push((kind, flags | if n == last { END_HEADERS } else { 0 }, part.to_vec()));
        }
        self
    }

    /// Adds a message, framed as gRPC does. The window of the client is ignored.
    pub(crate) fn data(mut self, message: &[u8]) -> Self {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], &length[..], message].concat();
        self.frames.extend(framed.chunks(MAX_FRAME).map(|part| (DATA, 0, part.to_vec())));
        self
    }

    /// Adds the end of the response, without trailers.
    pub(crate) fn end(mut self) -> Self {
        self.frames.push((DATA, END_STREAM, Vec::new()));
        self
    }

    /// Adds a reset.
    pub(crate) fn then_reset(mut self, reason: u32) -> Self {
        self.frames.push((RST_STREAM, 0, reason.to_be_bytes().to_vec()));
        self
    }

    /// The request is applied, whatever the response says.
    pub(crate) fn applied(mut self) -> Self {
        self.applied = true;
        self
    }

    /// The request is not applied, whatever the response says.
    pub(crate) fn unapplied(mut self) -> Self {
        self.applied = false;
        self
    }
}

/// Headers as HPACK has them (RFC 7541), each written out: without indices and without Huffman's code.
pub(super) fn header_block(headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(u8::try_from(length % 128 + 128).unwrap());
                    length /= 128;
                }
                block.push(u8::try_from(length).unwrap());
            }
            block.extend_from_slice(text);
        }
    }
    block
}
