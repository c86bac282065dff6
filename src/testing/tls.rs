//! TLS for both transports.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::listen::{Handshake, Io};

/// The server's certificate, and the authorities of client certificates.
#[derive(Clone, Default)]
pub(super) struct Tls {
    pub(super) certificate: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// The handshake for a port that speaks this protocol; `None` without a certificate.
    pub(super) fn handshake(&self, protocol: &str) -> io::Result<Option<Arc<dyn Handshake>>> {
        let Some((certificate, key)) = &self.certificate else { return Ok(None) };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?;
        let config = match &self.client_ca {
            None => config.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(pem)? {
                    roots.add(root).map_err(invalid)?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().map_err(invalid)?)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(key).map_err(invalid)?;
        let mut config = config.with_single_cert(certificates(certificate)?, key).map_err(invalid)?;
        config.alpn_protocols = vec![protocol.into()];
        Ok(Some(Arc::new(Acceptor(TlsAcceptor::from(Arc::new(config))))))
    }
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(invalid)?;
    if found.is_empty() { Err(invalid("there is no certificate")) } else { Ok(found) }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Handshake for Acceptor {
    fn shake(&self, stream: TcpStream) -> Pin<Box<dyn Future<Output = io::Result<Io>> + Send>> {
        let acceptor = self.0.clone();
        Box::pin(async move { Ok(Box::new(acceptor.accept(stream).await?) as Io) })
    }
}
