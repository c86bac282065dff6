//! What both fronts share: the API, the keys, what goes wrong, and what was asked.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::call::{Call, Reply};
use super::fault::{Fault, Faults, Kind, Transport};
use super::listen::Line;
use super::methods::{Api, is_pro};
use super::record::Recorded;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) api: Api,
    pub(super) faults: Faults,
    /// None when calls are not to be recorded.
    pub(super) calls: Option<Mutex<Vec<Recorded>>>,
    pub(super) keys: Keys,
    /// Whether errors are always answered as the transport's own.
    pub(super) transport_errors: bool,
    pub(super) max_grpc_message: usize,
    pub(super) max_http_body: usize,
}

/// The keys that callers have to show.
pub(super) struct Keys {
    /// None: everybody may call. Empty: nobody.
    pub(super) http: Option<String>,
    /// None or empty: everybody may call.
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

/// What becomes of a call.
pub(super) enum Outcome {
    Reply(Reply),
    /// The server does not have the method.
    Unsupported,
    /// These bytes in place of the reply.
    Raw(Bytes),
    /// A status in place of the reply: one of the two kinds that are statuses.
    Status(Kind),
}

impl Node {
    /// Carries a call out, or lets happen what was said to go wrong with it.
    pub(super) async fn carry_out(
        &self,
        call: &Call,
        transport: Transport,
        headers: &http::HeaderMap,
        line: &Line,
    ) -> Outcome {
        let method = call.method();
        if let Some(calls) = &self.calls {
            let headers = super::record::headers(headers);
            let recorded = Recorded { transport, method, request: call.request(), headers };
            calls.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
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
                line.cut();
                // Everything on the line ends now, this included.
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
