//! What a call needs: the client's transport and limits, and one attempt after another until it ends.

pub(crate) mod attempts;
pub(crate) mod close;
mod many;
pub(crate) mod retry;
pub(crate) mod typed;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::replies::Origin;
use crate::api::request::Request;
use crate::call::close::Gate;
use crate::call::retry::{Budget, Cause};
use crate::config::Common;
use crate::config::retry::Retry;
use crate::error::{Error, Form};
use crate::transport::{self, Transport};

/// What a call needs of its client.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    shared: Arc<Shared>,
    pub(crate) retry: Arc<Retry>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) pro: bool,
    /// The longest request, in protobuf.
    max_request_size: Option<usize>,
}

/// What the clones of a client share.
#[derive(Debug)]
struct Shared {
    transport: Box<dyn Transport>,
    budget: Budget,
    gate: Gate,
}

impl Core {
    /// Sends calls over this transport, without a deadline and without retries.
    pub(crate) fn new(transport: Box<dyn Transport>) -> Self {
        let shared = Arc::new(Shared { transport, budget: Budget::new(), gate: Gate::default() });
        Self { shared, retry: Arc::new(Retry::none()), timeout: None, pro: false, max_request_size: None }
    }

    /// The same with the deadline, the retries and the limits of a configuration.
    pub(crate) fn with_config(self, config: &Common) -> Self {
        Self {
            retry: Arc::new(config.retries()),
            timeout: config.call_timeout(),
            pro: config.pro,
            max_request_size: config.max_protobuf_size(),
            ..self
        }
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.shared.transport
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    /// Pays for a repeat before the attempt that it follows is given up. Whether there was enough.
    pub(crate) fn spend_before_repeat(&self) -> bool {
        self.budget().spend(Cause::Pause { in_flight: self.gate().running() })
    }

    /// Refuses a request that the server would not accept.
    pub(crate) fn check(&self, request: &impl Request) -> Result<(), Error> {
        request.check().or_else(|problem| problem.error(self.pro))
    }

    /// Refuses a request that is too long for gRPC.
    pub(crate) fn check_len(&self, len: usize) -> Result<(), Error> {
        self.max_request_size.map_or(Ok(()), |limit| transport::check_len(Form::Protobuf, len, limit))
    }

    /// The deadline of a call that begins now. One that `Instant` cannot represent is none.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.timeout.and_then(|timeout| now.checked_add(timeout))
    }

    /// Adds the method and the default endpoint to an error that has none.
    pub(crate) fn with_context(&self, error: Error, method: &str) -> Error {
        let transport = self.transport();
        error.with_context(method.to_owned().into(), transport.name(), transport.endpoint())
    }

    /// The transport and the address of an endpoint.
    pub(crate) fn origin(&self, endpoint: usize) -> Origin {
        // Endpoints are counted from 1; a custom transport may have none.
        let status = endpoint.checked_sub(1).and_then(|index| self.transport().endpoints().into_iter().nth(index));
        match status {
            Some(status) => (status.transport, Some(status.endpoint)),
            None => (self.transport().name(), self.transport().endpoint()),
        }
    }

    /// Adds the method and this endpoint to an error that has none.
    pub(crate) fn with_endpoint(&self, error: Error, method: &str, endpoint: usize) -> Error {
        let (transport, address) = self.origin(endpoint);
        error.with_context(method.to_owned().into(), transport, address)
    }
}
