//! A command that was accepted, and its result.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::api::method::Method;
use crate::api::replies::checked;
use crate::batching::command::CommandId;
use crate::batching::engine::Engine;
use crate::batching::inline::InlineSend;
use crate::error::Error;
use crate::wire::body::Message;
use crate::wire::reply::ReplyBody;

/// How a command ended.
pub(super) type Settled = Result<Sent, Error>;

/// A result as the server wrote it, and its endpoint.
pub(super) struct Sent {
    pub(super) result: ReplyBody,
    /// The index of the endpoint.
    pub(super) endpoint: usize,
    /// Whether an attempt before the one with a response may have taken effect.
    pub(super) outcome_unknown: bool,
}

/// A command that the engine has accepted.
pub(super) struct Accepted {
    pub(super) engine: Arc<Engine>,
    pub(super) id: CommandId,
    pub(super) settled: oneshot::Receiver<Settled>,
    pub(super) inline: Option<Arc<InlineSend>>,
}

impl Accepted {
    /// Withdraws the command, if it has not been sent.
    pub(super) fn withdraw(&self) -> bool {
        self.engine.end_unsent(self.id, None)
    }

    pub(super) fn with_context(&self, error: Error, method: Method) -> Error {
        self.engine.core().with_context(error, method.name())
    }

    /// Decodes the result of the command.
    pub(super) fn read<T: Message>(&self, settled: Settled, method: Method, expected: usize) -> Result<T, Error> {
        let Sent { result, endpoint, outcome_unknown } = settled?;
        let result = result.read_result().and_then(|result| checked(expected, outcome_unknown, result));
        result.map_err(|error| self.engine.core().with_endpoint(error, method.name(), endpoint))
    }
}
