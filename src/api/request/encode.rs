//! The protobuf form of `publish` and `broadcast`, without the allocation that prost makes: it clones `Bytes`, and the first
//! clone of those that were a `Vec` allocates.
//!
//! With prost's own encoding, batches of 1,000 publications over gRPC cost a client 11 % more CPU.

use prost::encoding::{bool, btree_map, string, uint64};

use crate::api::message::{BroadcastRequest, PublishRequest};
use crate::wire::open_field;

/// Appends fields in the order of their numbers, those without a value left out.
macro_rules! write {
    ($out:ident $type:ident $request:ident $($number:literal $field:ident $kind:ident,)*) => {
        // Every field, so that a new one is not forgotten.
        let $type { $($field),* } = $request;
        $(write!(@$kind $out $number $field);)*
    };
    (@string $out:ident $number:literal $field:ident) => {
        if !$field.is_empty() {
            bytes($number, $field.as_bytes(), $out);
        }
    };
    (@strings $out:ident $number:literal $field:ident) => {
        for value in $field {
            bytes($number, value.as_bytes(), $out);
        }
    };
    (@bytes $out:ident $number:literal $field:ident) => {
        if !$field.is_empty() {
            bytes($number, $field, $out);
        }
    };
    (@bool $out:ident $number:literal $field:ident) => {
        if *$field {
            bool::encode($number, $field, $out);
        }
    };
    (@uint64 $out:ident $number:literal $field:ident) => {
        if *$field != 0 {
            uint64::encode($number, $field, $out);
        }
    };
    (@map $out:ident $number:literal $field:ident) => {
        if !$field.is_empty() {
            let (encode, len) = (string::encode, string::encoded_len);
            btree_map::encode(encode, len, encode, len, $number, $field, $out);
        }
    };
}

fn bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    open_field(number, bytes.len(), out);
    out.extend_from_slice(bytes);
}

pub(super) fn publish(request: &PublishRequest, out: &mut Vec<u8>) {
    write! { out PublishRequest request
        1 channel string, 2 data bytes, 3 b64data string, 4 skip_history bool, 5 tags map, 6 idempotency_key string,
        7 delta bool, 8 version uint64, 9 version_epoch string,
    }
}

pub(super) fn broadcast(request: &BroadcastRequest, out: &mut Vec<u8>) {
    write! { out BroadcastRequest request
        1 channels strings, 2 data bytes, 3 b64data string, 4 skip_history bool, 5 tags map, 6 idempotency_key string,
        7 delta bool, 8 version uint64, 9 version_epoch string,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::payload::Payload;
    use crate::api::request::Request;

    #[test]
    fn what_is_written_is_what_prost_writes() {
        fn check<R: Request>(request: &R) {
            let mut written = Vec::new();
            request.write(&mut written);
            assert_eq!(written, request.encode_to_vec());
        }
        let data = || Payload::binary(vec![b'1'; 300]);
        let publish = PublishRequest::new("a", data()).b64data("b").tags([("c", "d"), ("", "")]);
        let publish = publish.skip_history(true).idempotency_key("e").delta(true).version(300).version_epoch("f");
        check(&publish);
        check(&PublishRequest::default());
        let broadcast = BroadcastRequest::new(["a", "", "b"], data()).b64data("b").tags([("c", "d"), ("", "")]);
        let broadcast = broadcast.skip_history(true).idempotency_key("e").delta(true).version(300);
        check(&broadcast.version_epoch("f"));
        check(&BroadcastRequest::default());
    }
}
