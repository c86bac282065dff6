//! Servers with which no TLS handshake succeeds, and which count what they receive nevertheless.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::date_time_ymd;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::port::{self, Port};
use crate::support::authority::{Authority, Identity};

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing: the handshake succeeds, with any protocol that is asked for. No response follows.
    None,
    /// It accepts, and reads nothing.
    Silent,
    /// Its certificate is for another host.
    WrongHost,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is of an unknown authority.
    UnknownAuthority,
    /// It has no version of TLS that is new enough.
    OldVersion,
    /// It does not name a protocol, HTTP/2 or other. For HTTP, nothing is wrong with that.
    NoAlpn,
    /// It offers another protocol, and refuses without it.
    OtherAlpn,
}

impl Flaw {
    /// Flaws with which every client must end the handshake.
    pub(crate) const FATAL: [Self; 4] = [Self::WrongHost, Self::Expired, Self::UnknownAuthority, Self::OldVersion];
}

/// A server on a free port. It ends when it is dropped.
pub(crate) struct Peer {
    port: Port,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    handshakes: AtomicUsize,
    requests: AtomicUsize,
    in_the_clear: AtomicUsize,
}

impl Peer {
    /// A server whose certificate, if it is not that which is wrong, is of this authority and for `127.0.0.1`.
    pub(crate) fn with(flaw: Flaw, authority: &Authority) -> Self {
        let identity = match flaw {
            Flaw::WrongHost => authority.issue("example.com"),
            Flaw::Expired => authority.issue_with("127.0.0.1", |params| params.not_after = date_time_ymd(2000, 1, 1)),
            Flaw::UnknownAuthority => Authority::new().issue("127.0.0.1"),
            _ => authority.issue("127.0.0.1"),
        };
        let alpn: &[&[u8]] = match flaw {
            Flaw::NoAlpn => &[],
            Flaw::OtherAlpn => &[b"another"],
            _ => &[b"h2", b"http/1.1"],
        };
        let acceptor = acceptor(&identity, alpn);
        let counters = Arc::<Counters>::default();
        let counting = Arc::clone(&counters);
        let port = Port::open(move |stream, _| serve(flaw, stream, acceptor.clone(), Arc::clone(&counting)));
        Self { port, counters }
    }

    /// `https://127.0.0.1:PORT`.
    pub(crate) fn https_url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// How many handshakes succeeded, as the server sees it.
    pub(crate) fn handshakes(&self) -> usize {
        self.counters.handshakes.load(Ordering::SeqCst)
    }

    /// The number of connections with data after the handshake.
    pub(crate) fn requests(&self) -> usize {
        self.counters.requests.load(Ordering::SeqCst)
    }

    /// The number of connections that did not begin with a handshake.
    pub(crate) fn in_the_clear(&self) -> usize {
        self.counters.in_the_clear.load(Ordering::SeqCst)
    }
}

impl Deref for Peer {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

async fn serve(flaw: Flaw, mut stream: TcpStream, acceptor: TlsAcceptor, counters: Arc<Counters>) -> io::Result<()> {
    const HANDSHAKE: u8 = 22;
    if flaw == Flaw::Silent {
        return std::future::pending().await;
    }
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
        counters.in_the_clear.fetch_add(1, Ordering::SeqCst);
    }
    if flaw == Flaw::OldVersion {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await?;
        stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))]).await?;
        // A record of TLS 1.1 with an alert: fatal, protocol_version.
        stream.write_all(&[21, 3, 2, 0, 2, 2, 70]).await?;
        return port::finish(stream).await;
    }
    let mut stream = acceptor.accept(stream).await?;
    counters.handshakes.fetch_add(1, Ordering::SeqCst);
    if stream.read(&mut first).await? > 0 {
        counters.requests.fetch_add(1, Ordering::SeqCst);
    }
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
}

fn acceptor(identity: &Identity, alpn: &[&[u8]]) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use centrifugo_api::config::Tls;
    use centrifugo_api::message::InfoRequest;
    use centrifugo_api::{Client, ErrorKind};

    use super::*;
    use crate::support::soon;
    use crate::support::{BOTH, Over};

    /// Calls a server with this flaw, which must fail like this.
    async fn call(flaw: Flaw, over: Over, kind: ErrorKind) -> Peer {
        let authority = Authority::new();
        let peer = Peer::with(flaw, &authority);
        let config = over.config_at(&peer.https_url());
        let config = config.retry(None).tls(Tls::new().ca_certificates(authority.pem()));
        let config = match flaw {
            Flaw::Silent => config.connect_timeout(Duration::from_millis(300)),
            _ => config.timeout(Duration::from_secs(1)),
        };
        let error = soon(Client::new(config).unwrap().info(InfoRequest::new())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{flaw:?} {error:?}");
        assert_eq!(peer.in_the_clear(), 0);
        peer
    }

    #[tokio::test]
    async fn no_handshake_succeeds_with_a_flaw() {
        for over in BOTH {
            for flaw in [&Flaw::FATAL[..], &[Flaw::Silent, Flaw::OtherAlpn]].concat() {
                let peer = call(flaw, over, ErrorKind::Connect).await;
                assert_eq!((peer.requests(), peer.dials()), (0, 1), "{flaw:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_handshake_without_a_protocol_is_refused_over_grpc_only() {
        assert_eq!(call(Flaw::NoAlpn, Over::Grpc, ErrorKind::Connect).await.requests(), 0);
        assert_eq!(call(Flaw::NoAlpn, Over::Http, ErrorKind::Timeout).await.requests(), 1);
    }

    #[tokio::test]
    async fn a_handshake_without_a_flaw_succeeds() {
        for over in BOTH {
            let peer = call(Flaw::None, over, ErrorKind::Timeout).await;
            assert_eq!((peer.handshakes(), peer.requests()), (1, 1));
        }
    }

    #[tokio::test]
    async fn clear_text_is_noticed() {
        let peer = Peer::with(Flaw::None, &Authority::new());
        let mut stream = TcpStream::connect(peer.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
        assert_eq!((peer.in_the_clear(), peer.handshakes()), (1, 0));
    }
}
