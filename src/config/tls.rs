//! How to check the server's certificate: the settings.

use std::fmt;

/// How to check the server's certificate, and which certificate to show it.
///
/// Unless told otherwise, the operating system's roots decide, and no certificate is shown.
///
/// ```no_run
/// use centrifugo_api::config::Tls;
/// use centrifugo_api::Config;
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = Tls::new()
///     .ca_certificates(std::fs::read("ca.pem")?)
///     .client_certificate(std::fs::read("client.pem")?, std::fs::read("client.key")?);
/// let config = Config::grpc("https://centrifugo.internal:10000").tls(tls);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Tls {
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) skip_verification: bool,
}

impl Tls {
    /// The operating system's roots.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these certificate authorities (PEM, one or more) instead of the operating system's.
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Shows this certificate (PEM, with its chain) to a server that asks for one, and proves it with this key (PEM).
    pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((chain.into(), key.into()));
        self
    }

    /// Accepts any certificate, so that anybody on the way can read and change everything. For experiments only.
    pub fn danger_skip_verification(mut self) -> Self {
        self.skip_verification = true;
        self
    }

    /// Whether anything was set.
    pub(crate) fn is_default(&self) -> bool {
        self.ca.is_none() && self.identity.is_none() && !self.skip_verification
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca_certificates", &self.ca.is_some())
            .field("client_certificate", &self.identity.is_some())
            .field("danger_skip_verification", &self.skip_verification)
            .finish()
    }
}
