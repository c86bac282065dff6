//! Dials a host: its addresses one beside the other, TCP and TLS.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_service::Service as _;

use crate::config::Common;
use crate::error::{BoxError, Error};
use crate::transport::net::names::Names;

/// TCP keepalive, for NAT and load balancers: the first probe after this, then one every third of it.
pub(crate) const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// How long the kernel waits for sent data to be acknowledged.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one address may take before the next is dialled beside it: the Connection Attempt Delay of RFC 8305.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// How connections to one host are made.
pub(crate) struct Dial {
    /// The host, if it is an address.
    address: Option<IpAddr>,
    port: u16,
    names: Names,
    timeout: Duration,
    tcp: HttpConnector,
    #[cfg(feature = "tls")]
    tls: Option<Handshake>,
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("names", &self.names).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// No connection was made within the connect timeout.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no connection within {0:?}")]
pub(crate) struct ConnectTimeout(Duration);

impl Dial {
    /// Dials the host of this origin, over TLS with one of these protocols if it is `https`.
    #[cfg_attr(not(feature = "tls"), allow(clippy::unnecessary_wraps, reason = "only TLS can be set up wrongly"))]
    pub(crate) fn new(origin: &Uri, names: Names, config: &Common, protocols: &[&'static [u8]]) -> Result<Self, Error> {
        // It is given addresses, and resolves no name.
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        tcp.set_keepalive_interval(Some(TCP_KEEPALIVE / 3));
        let is_https = origin.scheme_str() == Some("https");
        let host = origin.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        #[cfg(not(feature = "tls"))]
        let _ = protocols;
        Ok(Self {
            address: host.parse().ok(),
            port: origin.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
            names,
            timeout: config.connect_timeout,
            tcp,
            #[cfg(feature = "tls")]
            tls: if is_https {
                Some(Handshake::new(host, config, protocols)?)
            } else if config.tls.is_default() {
                None
            } else {
                return Err(Error::invalid(
                    "`tls` is set and the endpoint is http://, so that nothing would be encrypted",
                ));
            },
        })
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&Handshake> {
        self.tls.as_ref()
    }

    /// Bounds a dial by the connect timeout.
    pub(crate) async fn in_time<T>(&self, dial: impl Future<Output = T>) -> Result<T, ConnectTimeout> {
        timeout(self.timeout, dial).await.map_err(|_| ConnectTimeout(self.timeout))
    }

    pub(crate) async fn tcp(&self, address: IpAddr) -> Result<TcpStream, BoxError> {
        let uri: Uri = format!("http://{}", SocketAddr::new(address, self.port)).parse()?;
        Ok(self.tcp.clone().call(uri).await?.into_inner())
    }

    /// Dials the addresses of the host with this function, each when the one before it has failed or takes long, until one has a
    /// connection.
    pub(crate) async fn race<T, F>(&self, dial: impl Fn(IpAddr) -> F) -> Result<T, BoxError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BoxError>> + Send + 'static,
    {
        let addresses = match self.address {
            Some(address) => vec![address],
            None => self.names.resolve().await?,
        };
        let delay = NEXT_ADDRESS.min(self.timeout / 4);
        let (mut dials, mut begun, mut waiting) = (JoinSet::new(), Vec::new(), addresses.into_iter());
        loop {
            let next = waiting.next();
            let has_next = next.is_some();
            if let Some(address) = next {
                begun.push(address);
                let dial = dial(address);
                // Those that lose are dropped with the set.
                dials.spawn(async move { (address, dial.await) });
            }
            let ended = if has_next && waiting.len() > 0 {
                match timeout(delay, dials.join_next()).await {
                    Ok(ended) => ended,
                    Err(_) => continue,
                }
            } else {
                dials.join_next().await
            };
            match ended {
                Some(Ok((address, Ok(connection)))) => {
                    // Those that began before it have failed, or do not respond.
                    begun.into_iter().take_while(|begun| *begun != address).for_each(|begun| self.names.suspect(begun));
                    self.names.trust(address);
                    return Ok(connection);
                }
                Some(Ok((address, Err(error)))) => {
                    self.names.suspect(address);
                    if dials.is_empty() && waiting.len() == 0 {
                        return Err(error);
                    }
                }
                // It has panicked, which would be a bug, or its runtime has ended. Tokio's text has the number of the task.
                Some(Err(_)) => return Err("the dial ended with its runtime".into()),
                None => return Err("the name has no address".into()),
            }
        }
    }
}

/// The TLS handshake with one host.
#[cfg(feature = "tls")]
pub(crate) struct Handshake {
    connector: tokio_rustls::TlsConnector,
    name: rustls::pki_types::ServerName<'static>,
}

#[cfg(feature = "tls")]
impl Handshake {
    fn new(host: &str, config: &Common, protocols: &[&'static [u8]]) -> Result<Self, Error> {
        let name = host.to_owned().try_into();
        let name = name.map_err(|_| Error::invalid("the endpoint's host is not a name that a certificate can have"))?;
        Ok(Self { connector: std::sync::Arc::new(config.tls.build(protocols)?).into(), name })
    }

    pub(crate) async fn connect(&self, tcp: TcpStream) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), tcp).await
    }
}
