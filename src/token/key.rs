//! Keys that sign tokens: in this process, or elsewhere.

use std::fmt;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use ring::{hmac, rsa};

use crate::error::{BoxError, Error, ErrorKind, Outcome};
use crate::sync::BoxFuture;
use crate::token::algorithm::Algorithm;
use crate::token::der;
#[cfg(feature = "token-es512")]
use crate::token::es512;
use crate::token::jwk::{Curve, Jwk, Public};

/// The shortest secret that is taken unless asked for by name, in bytes: the output of SHA-256, as RFC 7518, section 3.2, has it.
pub(crate) const SHORTEST_SECRET: usize = 32;

/// Checks the length of a secret.
pub(crate) fn check_secret(secret: &[u8]) -> Result<(), Error> {
    if secret.len() >= SHORTEST_SECRET {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the secret has fewer than {SHORTEST_SECRET} bytes, so that it can be guessed from one token; make one with \
         `openssl rand -hex 32`, or give this one by a name that begins with `danger_`"
    )))
}

/// A key of this process that signs tokens. Clones share it.
#[derive(Clone)]
pub struct SigningKey {
    algorithm: Algorithm,
    pair: Arc<Pair>,
}

enum Pair {
    Hmac(hmac::Key),
    Rsa(RsaKeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
    #[cfg(feature = "token-es512")]
    Es512(es512::Pair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Takes the secret of an HMAC algorithm: what the server has as `client.token.hmac_secret_key`.
    ///
    /// The secret is used as it is given. One written in hex or base64 is that text, as the server takes it too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the secret has fewer than 32 bytes, or the algorithm is not one of HMAC.
    pub fn hmac(algorithm: Algorithm, secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        check_secret(secret.as_ref())?;
        Self::danger_short_secret(algorithm, secret)
    }

    /// Takes a secret of any length but 0.
    ///
    /// Whoever sees one token can try secrets until one makes its signature, and then issue tokens for any user. For servers
    /// whose secret cannot be changed, and for tests.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the secret is empty, or the algorithm is not one of HMAC.
    pub fn danger_short_secret(algorithm: Algorithm, secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        if secret.as_ref().is_empty() {
            return Err(Error::invalid("the secret is empty"));
        }
        let key = hmac_key(algorithm, secret.as_ref())
            .ok_or_else(|| Error::invalid(format!("{algorithm} needs a private key, not a secret")))?;
        Ok(Self { algorithm, pair: Arc::new(Pair::Hmac(key)) })
    }

    /// Reads a private key in PEM: `PRIVATE KEY` (PKCS #8), `RSA PRIVATE KEY` or `EC PRIVATE KEY`, as `openssl` writes them.
    ///
    /// RSA keys have 2,048 to 4,096 bits. A PKCS #8 key of P-256 or P-384 must hold its public key, as those of `openssl` do.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the text is no such key, is encrypted, or is not one for this algorithm. For [`Algorithm::Es512`]
    /// also without the feature `token-es512`.
    pub fn pem(algorithm: Algorithm, pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        let (label, der) = der::pem(pem.as_ref())?;
        if !label.ends_with("PRIVATE KEY") {
            return Err(Error::invalid(format!("the key is no private key but a `{label}`")));
        }
        let not_one = |why: &dyn fmt::Display| Error::invalid(format!("the key is not one for {algorithm}: {why}"));
        let pair = match algorithm {
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => {
                let read = if label == "RSA PRIVATE KEY" { RsaKeyPair::from_der } else { RsaKeyPair::from_pkcs8 };
                Pair::Rsa(read(&der).map_err(|why| not_one(&why))?)
            }
            Algorithm::Es256 => ecdsa(Curve::P256, &label, &der).map_err(|why| not_one(&why))?,
            Algorithm::Es384 => ecdsa(Curve::P384, &label, &der).map_err(|why| not_one(&why))?,
            #[cfg(feature = "token-es512")]
            Algorithm::Es512 => {
                Pair::Es512(es512::Pair::read(&label, &der).ok_or_else(|| not_one(&"InvalidEncoding"))?)
            }
            #[cfg(not(feature = "token-es512"))]
            Algorithm::Es512 => {
                return Err(Error::invalid("ES512 needs the feature `token-es512` of the crate"));
            }
            Algorithm::EdDsa => {
                Pair::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|why| not_one(&why))?)
            }
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
                return Err(Error::invalid(format!("{algorithm} needs a secret, not a private key")));
            }
        };
        Ok(Self { algorithm, pair: Arc::new(pair) })
    }

    pub(crate) fn hmac_key(&self) -> Option<&hmac::Key> {
        match &*self.pair {
            Pair::Hmac(key) => Some(key),
            _ => None,
        }
    }

    pub(crate) fn sign_now(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = || unavailable("the token could not be signed: no random numbers");
        match &*self.pair {
            Pair::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let padding = match self.algorithm {
                    Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signature).map_err(|_| failed())?;
                Ok(signature)
            }
            Pair::Ecdsa(_, pair) => {
                let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| failed())?;
                Ok(signature.as_ref().to_vec())
            }
            #[cfg(feature = "token-es512")]
            Pair::Es512(pair) => Ok(pair.sign(message)),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

fn ecdsa(curve: Curve, label: &str, der: &[u8]) -> Result<Pair, ring::error::KeyRejected> {
    let algorithm = match curve {
        Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        _ => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
    };
    let wrapped = (label == "EC PRIVATE KEY").then(|| der::pkcs8_of_sec1(curve, der));
    let pkcs8 = wrapped.as_deref().unwrap_or(der);
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &SystemRandom::new()).map(|pair| Pair::Ecdsa(curve, pair))
}

/// The key of an HMAC algorithm; `None` for the others.
pub(crate) fn hmac_key(algorithm: Algorithm, secret: &[u8]) -> Option<hmac::Key> {
    let hash = match algorithm {
        Algorithm::Hs256 => hmac::HMAC_SHA256,
        Algorithm::Hs384 => hmac::HMAC_SHA384,
        Algorithm::Hs512 => hmac::HMAC_SHA512,
        _ => return None,
    };
    Some(hmac::Key::new(hash, secret))
}

/// Shows the algorithm, and no key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, [redacted])", self.algorithm)
    }
}

/// Signs tokens with a key that this process does not hold: of a KMS or an HSM.
///
/// ```
/// use centrifugo_api::token::{Algorithm, Signer, TokenIssuer};
/// use centrifugo_api::transport::BoxFuture;
///
/// #[derive(Debug)]
/// struct Kms;
/// # impl Kms { async fn sign(&self, _: &[u8]) -> Result<Vec<u8>, std::io::Error> { Ok([&[48, 6, 2, 1, 1, 2, 1], &[1][..]].concat()) } }
///
/// impl Signer for Kms {
///     fn algorithm(&self) -> Algorithm {
///         Algorithm::Es256
///     }
///
///     fn sign<'a>(
///         &'a self,
///         message: &'a [u8],
///     ) -> BoxFuture<'a, Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>> {
///         Box::pin(async move {
///             let signature = Kms::sign(self, message).await?; // in DER
///             Ok(self.algorithm().signature_from_der(&signature)?)
///         })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), centrifugo_api::Error> {
/// let issuer = TokenIssuer::signer(Kms).key_id("2026-11");
/// let token = issuer.connection("42").expires_in(std::time::Duration::from_secs(1800)).issue().await?;
/// # assert!(token.len() > 100); Ok(()) }
/// ```
pub trait Signer: fmt::Debug + Send + Sync + 'static {
    /// The algorithm of the key.
    fn algorithm(&self) -> Algorithm;

    /// Signs a message, which is hashed as the algorithm says: not the hash of one.
    ///
    /// The signature has the form of [RFC 7518](https://www.rfc-editor.org/rfc/rfc7518#section-3.4): for ECDSA `r` and `s`, one after
    /// the other, which [`Algorithm::signature_from_der`] makes of DER.
    ///
    /// # Errors
    ///
    /// Any error, which is the source of the one that `issue` returns.
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, BoxError>>;

    /// The public key, for [`jwks`](crate::token::TokenIssuer::jwks). None unless implemented.
    fn public_key(&self) -> Option<Jwk> {
        None
    }
}

/// A key behind a [`Signer`]. Clones share it.
#[derive(Clone, Debug)]
pub struct RemoteKey(pub(crate) Arc<dyn Signer>);

/// What an issuer signs with: a [`SigningKey`] or a [`RemoteKey`].
pub trait Key: sealed::Sign + Clone + fmt::Debug + Send + Sync + 'static {}

impl Key for SigningKey {}
impl Key for RemoteKey {}

pub(crate) mod sealed {
    use super::{Algorithm, BoxFuture, Error, Jwk};

    pub trait Sign {
        fn algorithm(&self) -> Algorithm;
        fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>>;
        fn public_key(&self) -> Option<Jwk>;
    }
}

impl sealed::Sign for SigningKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        Box::pin(async move { self.sign_now(message) })
    }

    fn public_key(&self) -> Option<Jwk> {
        let public = match &*self.pair {
            Pair::Hmac(_) => return None,
            Pair::Rsa(pair) => {
                let rsa::PublicKeyComponents { n, e } = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                Public::Rsa { n, e }
            }
            Pair::Ecdsa(curve, pair) => Public::of_point(*curve, pair.public_key().as_ref())?,
            #[cfg(feature = "token-es512")]
            Pair::Es512(pair) => Public::of_point(Curve::P521, &pair.public_key())?,
            Pair::Ed25519(pair) => Public::Ed25519(pair.public_key().as_ref().try_into().ok()?),
        };
        Some(Jwk::of(public).algorithm(self.algorithm))
    }
}

impl sealed::Sign for RemoteKey {
    fn algorithm(&self) -> Algorithm {
        self.0.algorithm()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        Box::pin(async move {
            let failed = |source| unavailable("the signer signed no token").with_source(source);
            let signature = self.0.sign(message).await.map_err(failed)?;
            let algorithm = self.0.algorithm();
            match algorithm.signature_len() {
                Some(bytes) if bytes != signature.len() => Err(Error::invalid(format!(
                    "the signer's signature has {} bytes, and one of {algorithm} has {bytes}; `Algorithm::signature_from_der` \
                     converts those in DER",
                    signature.len()
                ))),
                _ if signature.is_empty() => Err(Error::invalid("the signer's signature is empty")),
                _ => Ok(signature),
            }
        })
    }

    fn public_key(&self) -> Option<Jwk> {
        self.0.public_key()
    }
}

fn unavailable(what: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, what).with_outcome(Outcome::NotSent)
}
