//! The methods as values.

use bytes::Bytes;
use prost::Message as _;

use crate::api::message;
use crate::api::methods::for_each_method;
use crate::api::request::Request as _;
use crate::api::request::check::Problem;
use crate::api::request::hooks::Hooks as _;
use crate::error::Error;
use crate::wire::body::not_json;
use crate::wire::json;

macro_rules! methods {
    ($($(#[$group:meta])* impl { $(
        $(#[$doc:meta])*
        $rpc:ident => $name:ident($request:ident { $($field:ident: $type:ty),* }) -> $reply:ident,
            repeat $repeat:ident $($key:ident)? $(, check $check:ident)?;
    )+ })+) => {
        /// A method of the server API.
        ///
        /// ```
        /// use centrifugo_api::Method;
        ///
        /// assert_eq!(Method::from_name("publish"), Some(Method::Publish));
        /// assert_eq!(Method::PresenceStats.name(), "presence_stats");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Method {
            $($( $(#[$doc])* $rpc, )+)+
            /// Sends many commands in one request: see [`Client::batch`](crate::Client::batch).
            Batch,
        }

        impl Method {
            /// Every method.
            pub const ALL: &'static [Self] = &[$($(Self::$rpc,)+)+ Self::Batch];

            /// The method's name over HTTP, in batches and in this crate: `"presence_stats"`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($(Self::$rpc => stringify!($name),)+)+
                    Self::Batch => "batch",
                }
            }

            /// The method of this name, as [`name`](Self::name) gives it.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($(stringify!($name) => Some(Self::$rpc),)+)+
                    "batch" => Some(Self::Batch),
                    _ => None,
                }
            }
        }

        /// Requests and results from one form into the other.
        impl Method {
            /// Reads the method's request from JSON. A field that the schema does not have is an error.
            pub(crate) fn request_from_json(self, json: &[u8]) -> Result<Vec<u8>, String> {
                match self {
                    $($(Self::$rpc => json::read_strictly::<message::$request>(json).map(|message| message.encode_to_vec()),)+)+
                    Self::Batch => Err("a batch cannot stand in a batch".into()),
                }
            }

            /// Checks the method's request, given as JSON. One that cannot be read is left to the server.
            pub(crate) fn check_json(self, json: &[u8]) -> Result<(), Problem> {
                match self {
                    $($(Self::$rpc => {
                        serde_json::from_slice::<message::$request>(json).map_or(Ok(()), |request| request.check())
                    })+)+
                    Self::Batch => Ok(()),
                }
            }

            /// Whether the method's request, given as JSON, may take effect twice.
            pub(crate) fn is_repeatable_json(self, json: &[u8]) -> bool {
                match self {
                    $($(Self::$rpc => {
                        serde_json::from_slice::<message::$request>(json).is_ok_and(|request| request.is_repeatable())
                    })+)+
                    Self::Batch => false,
                }
            }

            /// Writes the method's request, given as protobuf, as JSON.
            pub(crate) fn request_to_json(self, protobuf: Bytes, out: &mut Vec<u8>) -> Result<(), Error> {
                let written = match self {
                    $($(Self::$rpc => transcode::<message::$request>(protobuf, out),)+)+
                    Self::Batch => Err("a batch cannot stand in a batch".into()),
                };
                written.map_err(|error| not_json(error).in_method(self.name()))
            }

            /// Writes the method's result, given as protobuf, as JSON.
            pub(crate) fn result_to_json(self, protobuf: Bytes, out: &mut Vec<u8>) -> Result<(), String> {
                match self {
                    $($(Self::$rpc => transcode::<message::$reply>(protobuf, out),)+)+
                    Self::Batch => Err("a batch's replies are written one by one".into()),
                }
            }
        }

        #[cfg(test)]
        const TABLE: &[(&str, &str, &str, &str)] = &[$($(
            (stringify!($rpc), stringify!($name), stringify!($request), stringify!($reply)),
        )+)+];
    };
}

for_each_method!(methods);

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

fn transcode<T: prost::Message + Default + serde::Serialize>(protobuf: Bytes, out: &mut Vec<u8>) -> Result<(), String> {
    let message = T::decode(protobuf).map_err(|_| "not a message of this method")?;
    serde_json::to_writer(out, &message).map_err(|error| error.to_string())
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::DescriptorPool;

    use super::*;

    fn schema() -> DescriptorPool {
        DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"))[..]).unwrap()
    }

    /// A type's name as prost writes it.
    fn rust(name: &str) -> String {
        name.replace("RPC", "Rpc")
    }

    #[test]
    fn the_table_and_the_schema_have_the_same_methods_and_types() {
        let pool = schema();
        let service = pool.get_service_by_name("centrifugal.centrifugo.api.CentrifugoApi").unwrap();
        let mut of_schema: BTreeSet<(String, String, String)> = service
            .methods()
            .map(|method| {
                let result = method
                    .output()
                    .get_field_by_name("result")
                    .map_or(String::new(), |field| field.kind().as_message().unwrap().name().to_owned());
                (rust(method.name()), rust(method.input().name()), rust(&result))
            })
            .collect();
        assert!(
            of_schema.remove(&("Batch".into(), "BatchRequest".into(), String::new())),
            "Batch is not in the schema"
        );
        let of_table: BTreeSet<_> =
            TABLE.iter().map(|(rpc, _, request, reply)| ((*rpc).into(), (*request).into(), (*reply).into())).collect();
        assert_eq!(of_table, of_schema);
        assert_eq!(Method::ALL.len(), 40);
    }

    #[test]
    fn a_commands_field_is_the_method_in_requests_and_in_replies() {
        let pool = schema();
        for envelope in ["Command", "Reply"] {
            let message = pool.get_message_by_name(&format!("centrifugal.centrifugo.api.{envelope}")).unwrap();
            let of_schema: BTreeSet<(u32, String)> = message
                .fields()
                .filter(|field| field.name() != "error")
                .map(|field| (field.number(), field.name().to_owned()))
                .collect();
            let of_table: BTreeSet<_> = Method::ALL
                .iter()
                .filter_map(|method| Some((method.command_tag()?, method.name().to_owned())))
                .collect();
            assert_eq!(of_table, of_schema, "{envelope}");
        }
    }

    #[test]
    fn every_method_is_found_by_its_name() {
        for method in Method::ALL {
            assert_eq!(Method::from_name(method.name()), Some(*method));
        }
        assert_eq!(Method::from_name("Publish"), None);
    }

    #[test]
    fn every_payload_is_marked_as_not_to_be_shown() {
        for message in schema().all_messages() {
            for field in message.fields().filter(|field| field.kind() == prost_reflect::Kind::Bytes) {
                let redacted = field.options().get_field_by_name("debug_redact").and_then(|value| value.as_bool());
                assert!(
                    redacted == Some(true) || message.package_name() == "google.protobuf",
                    "{} would be shown",
                    field.full_name()
                );
            }
        }
    }
}
