//! What the crate adds to an error on its way to the caller.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::time::Instant;

use crate::error::{ApiError, Error, ErrorKind, Excess, Inner, Outcome, RetryAfter, Verdict, causes};

impl Error {
    pub(crate) fn with_http_status(mut self, status: u16) -> Self {
        self.0.http_status = Some(status);
        self
    }

    pub(crate) fn with_page(mut self, page: Option<String>) -> Self {
        self.0.page = page.map(String::into_boxed_str);
        self
    }

    pub(crate) fn with_api(mut self, api: ApiError) -> Self {
        self.0.api = Some(api);
        self
    }

    /// Marks that the two sides do not trust each other, which a repeat will not change.
    #[cfg(feature = "tls")]
    pub(crate) fn untrusted(mut self) -> Self {
        self.0.verdict = Verdict::Untrusted;
        self
    }

    /// Marks that there is no gRPC at the address.
    #[cfg(feature = "grpc")]
    pub(crate) fn no_grpc(mut self) -> Self {
        self.0.verdict = Verdict::NoGrpc;
        self
    }

    /// Marks that the endpoint has the scheme of another port.
    pub(crate) fn wrong_scheme(mut self) -> Self {
        self.0.verdict = Verdict::WrongScheme;
        self
    }

    #[cfg(feature = "grpc")]
    pub(crate) fn is_wrong_scheme(&self) -> bool {
        self.0.verdict == Verdict::WrongScheme
    }

    /// Marks that something in front of the server refused the call.
    pub(crate) fn intercepted(mut self) -> Self {
        self.0.verdict = Verdict::Intercepted;
        self
    }

    /// Marks that something in front of the server wants a client certificate.
    pub(crate) fn no_client_certificate(mut self) -> Self {
        self.0.verdict = Verdict::NoClientCertificate;
        self
    }

    pub(crate) fn is_no_grpc(&self) -> bool {
        self.0.verdict == Verdict::NoGrpc
    }

    /// Marks a cause on this side: the process is out of file descriptors or ports, or its runtime has ended.
    pub(crate) fn local(mut self) -> Self {
        self.0.verdict = Verdict::Local;
        self
    }

    pub(crate) fn is_local(&self) -> bool {
        self.0.verdict == Verdict::Local
    }

    /// Marks that the cause is gone.
    #[cfg(feature = "http")]
    pub(crate) fn remedied(mut self) -> Self {
        self.0.verdict = Verdict::Remedied;
        self
    }

    /// Marks that nothing was tried, because every endpoint is in backoff until then.
    pub(crate) fn in_backoff(mut self, ready_at: Instant) -> Self {
        self.0.ready_at = Some(ready_at);
        self
    }

    /// The end of the backoff of the endpoints, if that is why nothing was tried.
    pub(crate) fn ready_at(&self) -> Option<Instant> {
        self.0.ready_at
    }

    /// Marks an overload.
    pub(crate) fn overload(mut self) -> Self {
        self.0.verdict = Verdict::Overload;
        self
    }

    /// Whether the server or a proxy is overloaded: another transport to the same server would not help.
    pub(crate) fn is_overload(&self) -> bool {
        self.0.verdict == Verdict::Overload || self.code() == Some(ApiError::TOO_MANY_REQUESTS)
    }

    pub(crate) fn with_hint(mut self, hint: Option<RetryAfter>) -> Self {
        self.0.retry_after = hint;
        self
    }

    pub(crate) fn hint(&self) -> Option<RetryAfter> {
        self.0.retry_after
    }

    /// The error of a request over a limit of this client.
    pub(crate) fn over_limit(excess: Excess) -> Self {
        let Excess { bytes, limit, .. } = excess;
        let mut error =
            Self::new(ErrorKind::TooLarge, format!("the request has {bytes} bytes, over the limit of {limit}"));
        error.0.excess = Some(excess);
        error
    }

    /// Whether a smaller request might not have had this error, and this one certainly did nothing.
    pub(crate) fn is_of_size(&self) -> bool {
        self.0.kind == ErrorKind::TooLarge && !self.may_have_run()
    }

    /// By how much the request was over the limit, if the limit is this client's.
    pub(crate) fn excess(&self) -> Option<Excess> {
        self.0.excess
    }

    /// Why a part of a call is not sent after another one has failed.
    pub(crate) fn after_failed_part(failed: &Self) -> Self {
        let why = format!("a part of the batch before this one failed: {}", failed.message());
        Self::new(ErrorKind::Unavailable, why).with_outcome(Outcome::NotSent)
    }

    /// The same error for another call: what happened and where, with the first cause in words only.
    pub(crate) fn echo(&self) -> Self {
        let Inner { kind, message, outcome, verdict, transport, endpoint, api, page, retry_after, attempts, .. } =
            &*self.0;
        let message = match causes(self).last() {
            // The message has the cause, in words without the time.
            Some(_) if *verdict == Verdict::Untrusted => message.clone(),
            Some(first) if !message.contains(&first.to_string()) => format!("{message}: {first}").into(),
            _ => message.clone(),
        };
        let mut echo = Self::new(*kind, message).with_outcome(*outcome);
        (echo.0.verdict, echo.0.retry_after, echo.0.attempts) = (*verdict, *retry_after, *attempts);
        echo.0.api.clone_from(api);
        echo.0.page.clone_from(page);
        echo.0.transport = *transport;
        echo.0.endpoint.clone_from(endpoint);
        echo
    }

    /// Adds to what happened.
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.0.message = format!("{}{more}", self.0.message).into();
        self
    }

    /// The same error with an unknown outcome: an earlier attempt may have taken effect.
    pub(crate) fn outcome_unknown(self) -> Self {
        self.and(", and an earlier attempt got no response").with_outcome(Outcome::Unknown)
    }

    /// Adds the idempotency key that the client made for the call, if it did.
    pub(crate) fn with_key(mut self, key: Option<&str>) -> Self {
        if let Some(key) = key {
            self.0.idempotency_key = Some(key.into());
        }
        self
    }

    /// Sets how many attempts were made.
    pub(crate) fn after_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// Adds where it happened, unless that is known.
    pub(crate) fn with_context(
        mut self,
        method: Cow<'static, str>,
        transport: &'static str,
        endpoint: Option<Arc<str>>,
    ) -> Self {
        self.0.method.get_or_insert(method);
        self.0.transport.get_or_insert(transport);
        self.0.endpoint = self.0.endpoint.or(endpoint);
        self
    }

    /// Adds the method, unless it is known.
    pub(crate) fn in_method(mut self, method: &str) -> Self {
        self.0.method.get_or_insert_with(|| method.to_owned().into());
        self
    }
}
