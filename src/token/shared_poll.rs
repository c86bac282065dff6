//! Signatures of keys in shared-poll channels.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use ring::{digest, hmac};

use crate::error::Error;
use crate::token::claims::{End, seconds};
use crate::token::key::check_secret;

/// Signs which keys of a shared-poll channel a user may track.
///
/// A client in such a channel names the keys it wants to follow, and shows the backend's signature of them. The secret is
/// `shared_poll.hmac_secret_key` of the server.
///
/// ```
/// use std::time::Duration;
/// use centrifugo_api::token::SharedPollSigner;
///
/// # let secret = "7f0c1d6c9d5d4a5fb6a1f0b8a8c3e4d2";
/// let signer = SharedPollSigner::new(secret)?;
/// let signature = signer.sign("42", "poll:prices", ["AAPL", "GOOG"]).expires_in(Duration::from_secs(3600)).issue()?;
/// # assert_eq!(signature.len(), 10 + 1 + 10 + 1 + 64);
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
#[derive(Clone)]
pub struct SharedPollSigner(hmac::Key);

impl SharedPollSigner {
    /// Signs with this secret.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it has fewer than 32 bytes.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        check_secret(secret.as_ref())?;
        Self::danger_short_secret(secret)
    }

    /// Signs with a secret of any length but 0. Whoever sees a signature can try secrets until one makes it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it is empty.
    pub fn danger_short_secret(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        match secret.as_ref() {
            [] => Err(Error::invalid("the secret is empty")),
            secret => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret))),
        }
    }

    /// Begins a signature: this user may track these keys of the channel. An empty user is the anonymous one.
    ///
    /// The client must track the same keys in the same order.
    pub fn sign(
        &self,
        user: impl Into<String>,
        channel: impl Into<String>,
        keys: impl IntoIterator<Item = impl Into<String>>,
    ) -> SharedPollSignature<'_> {
        let keys = keys.into_iter().map(Into::into).collect();
        SharedPollSignature {
            signer: self,
            user: user.into(),
            channel: channel.into(),
            keys,
            issued_at: None,
            end: None,
        }
    }
}

/// Shows no key.
impl fmt::Debug for SharedPollSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedPollSigner([redacted])")
    }
}

/// A signature of keys: made by [`SharedPollSigner::sign`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SharedPollSignature<'a> {
    signer: &'a SharedPollSigner,
    user: String,
    channel: String,
    keys: Vec<String>,
    issued_at: Option<SystemTime>,
    end: Option<End>,
}

impl SharedPollSignature<'_> {
    /// Lets the signature end so long after it is issued, in whole seconds. The server takes it for 5 s longer.
    pub fn expires_in(mut self, lifetime: Duration) -> Self {
        self.end = Some(End::In(lifetime));
        self
    }

    /// Lets the signature end at this time.
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.end = Some(End::At(time));
        self
    }

    /// Makes a signature without an end.
    pub fn never_expires(mut self) -> Self {
        self.end = Some(End::Never);
        self
    }

    /// Sets when the signature was issued. Now unless set.
    pub fn issued_at(mut self, time: impl Into<Option<SystemTime>>) -> Self {
        self.issued_at = time.into();
        self
    }

    /// Signs the keys.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the signature has no end, ends before it begins, has no channel or no key, or
    /// when a name holds the byte 0, which is what the server separates them with.
    pub fn issue(self) -> Result<String, Error> {
        let Self { signer, user, channel, keys, issued_at, end } = self;
        let issued = seconds(issued_at.unwrap_or_else(SystemTime::now), "issued_at")?;
        let end = end.ok_or_else(|| {
            Error::invalid(
                "the signature has no end; set `expires_in`, or `never_expires` if it should be good forever",
            )
        })?;
        let expires = end.second(issued, "the end of the signature")?.unwrap_or(0);
        if channel.is_empty() || keys.is_empty() {
            return Err(Error::invalid("the signature has no channel or no keys"));
        }
        if keys.iter().chain([&user, &channel]).any(|name| name.contains('\0')) {
            return Err(Error::invalid("the user, the channel or a key holds the byte 0"));
        }
        let of_keys = hex(digest::digest(&digest::SHA256, keys.join("\0").as_bytes()).as_ref());
        let message = format!("{issued}\0{expires}\0{user}\0{channel}\0{of_keys}");
        Ok(format!("{issued}:{expires}:{}", hex(hmac::sign(&signer.0, message.as_bytes()).as_ref())))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a string does not fail
        text
    })
}
