//! What both transports share: the API, the keys, the faults and the recorded calls.

use bytes::Bytes;

use super::call::{Call, Reply};
use super::fault::{Fault, Faults, Kind, Transport};
use super::listen::Connection;
use super::methods::{Api, is_pro};
use super::record::Recorded;
use crate::sync::Mutex;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) api: Api,
    pub(super) faults: Faults,
    /// `None` if calls are not recorded.
    pub(super) calls: Option<Mutex<Vec<Recorded>>>,
    pub(super) keys: Keys,
    /// Whether API errors are always returned as errors of the transport.
    pub(super) transport_errors: bool,
    pub(super) max_grpc_message: usize,
    pub(super) max_http_body: usize,
    /// The handlers of the backend that clients make it call.
    #[cfg(feature = "proxy")]
    pub(super) handlers: Option<super::handlers::Handlers>,
}

/// The API keys that calls must have.
pub(super) struct Keys {
    /// `None` accepts every call, an empty one accepts none.
    pub(super) http: Option<String>,
    /// `None` or an empty one accepts every call.
    pub(super) grpc: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("http", &self.http.as_ref().map(|_| "[redacted]"))
            .field("grpc", &self.grpc.as_ref().map(|_| "[redacted]"))
            .finish()
    }
}

/// The outcome of a call.
pub(super) enum Outcome {
    Reply(Reply),
    /// The server does not have the method.
    Unsupported,
    /// These bytes in place of the reply.
    Raw(Bytes),
    /// A status in place of the reply: an HTTP or a gRPC status.
    Status(Kind),
}

impl Node {
    /// Executes a call, or applies the fault that matches it.
    pub(super) async fn execute(
        &self,
        call: &Call,
        transport: Transport,
        headers: &http::HeaderMap,
        connection: &Connection,
    ) -> Outcome {
        let method = call.method();
        if let Some(calls) = &self.calls {
            let headers = super::record::headers(headers);
            let recorded = Recorded { transport, method, request: call.request(), headers };
            calls.lock().push(recorded);
        }

        let run = || call.run(&self.api);
        match self.faults.take(method, transport) {
            None if is_pro(method) => Outcome::Unsupported,
            None => Outcome::Reply(run()),
            Some(Kind::Delay(delay)) => {
                let reply = run();
                tokio::time::sleep(delay).await;
                if is_pro(method) { Outcome::Unsupported } else { Outcome::Reply(reply) }
            }
            Some(Kind::ApiError(error)) => Outcome::Reply(call.refuse(&error)),
            Some(status @ (Kind::HttpStatus { .. } | Kind::GrpcStatus { .. })) => Outcome::Status(status),
            Some(Kind::Cut { applied }) => {
                if applied {
                    run();
                }
                connection.close();
                // The connection ends all of its streams, this one included.
                std::future::pending().await
            }
            Some(Kind::Hang { applied }) => {
                if applied {
                    run();
                }
                std::future::pending().await
            }
            Some(Kind::RawReply(bytes)) => {
                run();
                Outcome::Raw(bytes)
            }
        }
    }

    pub(super) fn fault(&self, fault: Fault) {
        self.faults.add(fault);
    }
}
