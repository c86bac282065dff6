//! When and how often a failed call is repeated: the settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;

/// When and how often a failed call is repeated: a setting of `Config`, or of
/// [some calls](crate::Client::with_retry).
///
/// A call is repeated after a transient failure, and only if it certainly took no effect or
/// [may take effect twice](crate::message::Request::is_repeatable). All attempts share the call's deadline, and all calls
/// of a client a budget: about 35 repeats at once, and then one for every 14 calls that succeed at their first attempt. The calls that
/// are lost with one connection are one repeat in that count. So repeats cannot overload a server that fails. After a refusal for
/// overload a repeat costs about a third of that.
///
/// A call that the server provably did not process is sent again at once, whatever these settings: that is no attempt, and costs nothing.
///
/// A `publish` or `broadcast` without an idempotency key is given one, the same for every attempt, so that it may be repeated
/// too. The server keeps each key for 5 minutes; [`idempotency_keys`](Self::idempotency_keys) turns them off.
///
/// ```
/// use std::time::Duration;
/// use centrifugo_api::{Client, Config, Retry};
///
/// let retry = Retry::new().attempts(5).observe(|retry| {
///     eprintln!("{}: attempt {} failed, next in {:?}", retry.method, retry.attempt, retry.wait);
/// });
/// let client = Client::new(Config::grpc("http://localhost:10000").retry(retry))?;
/// let once = client.with_retry(None);
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Retry {
    pub(crate) attempts: u32,
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) keys: bool,
    pub(crate) wait_for_ready: bool,
    pub(crate) observer: Option<Observer>,
}

type Observer = Arc<dyn Fn(&RetryEvent<'_>) + Send + Sync>;

/// A repeat that is about to happen, as [`Retry::observe`] gets it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RetryEvent<'a> {
    /// The method that is called.
    pub method: &'a str,
    /// The attempt that failed: 1 is the first.
    pub attempt: u32,
    /// Why it failed.
    pub error: &'a Error,
    /// How long until the next.
    pub wait: Duration,
}

impl Retry {
    /// At most 3 attempts, after waits of up to 50 ms, then 100 ms, with idempotency keys.
    pub fn new() -> Self {
        Self {
            attempts: 3,
            first: Duration::from_millis(50),
            longest: Duration::from_secs(2),
            attempt_timeout: Some(Duration::from_secs(3)),
            keys: true,
            wait_for_ready: false,
            observer: None,
        }
    }

    /// One attempt, and no idempotency keys but the caller's own: what `None` means.
    pub(crate) fn none() -> Self {
        Self { attempts: 1, attempt_timeout: None, keys: false, ..Self::new() }
    }

    /// Sets how many attempts a call has, the first included. 3 unless set; 0 counts as 1.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the backoff. Each wait is random, up to a bound that is `first` for the first (50 ms unless set), and doubles up to
    /// `longest` (2 s unless set). A hint of the server makes it up to 5 s longer.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first, self.longest) = (first, longest);
        self
    }

    /// Sets how long to wait for the response to one attempt, if a repeat is harmless and the budget pays for it. 3 s unless set; `None`
    /// waits until the call's deadline. The last attempt always does. After an attempt without a response, the next goes to
    /// another endpoint if there is one; while another endpoint responds and this one is silent, it does so earlier.
    ///
    /// It is the time for a small request: a second more for every 256 KiB, and for every 20,000 channels of a broadcast or
    /// commands of a batch. The server does not stop a call that timed out, so raise it if small calls take longer.
    pub fn attempt_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.attempt_timeout = timeout.into();
        self
    }

    /// Sets whether a `publish` or `broadcast` without an idempotency key is given one. On unless set. Calls given as JSON stay as
    /// they are. Batches have [a setting of their own](crate::Batch::idempotency_keys).
    ///
    /// Without, it is repeated only if it certainly took no effect. The server keeps every key for 5 minutes, which at
    /// 50,000 publications a second is 15 million of them; consider to turn them off there. Brokers that know no keys
    /// (NATS) publish a repeat twice: turn them off as well. A broadcast that names a channel twice is given none, because
    /// with a key it would be published there once.
    pub fn idempotency_keys(mut self, keys: bool) -> Self {
        self.keys = keys;
        self
    }

    /// Sets whether a call waits for a server that cannot be reached, up to its deadline, instead of failing after the last
    /// attempt. Off unless set. Such attempts cost nothing of the budget, and are not limited in number.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Calls `observer` before every repeat, for logs and metrics. It must not block.
    pub fn observe(mut self, observer: impl Fn(&RetryEvent<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    pub(crate) fn makes_keys(&self) -> bool {
        self.keys && self.attempts > 1
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("attempts", &self.attempts)
            .field("backoff", &(self.first..=self.longest))
            .field("attempt_timeout", &self.attempt_timeout)
            .field("idempotency_keys", &self.keys)
            .field("wait_for_ready", &self.wait_for_ready)
            .finish_non_exhaustive()
    }
}
