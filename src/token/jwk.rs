//! Public keys as JSON Web Keys: [RFC 7517](https://www.rfc-editor.org/rfc/rfc7517).

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::token::algorithm::Algorithm;
use crate::token::der;

/// A curve of ECDSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The bytes of a coordinate.
    fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    pub(crate) fn algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::Es256,
            Self::P384 => Algorithm::Es384,
            Self::P521 => Algorithm::Es512,
        }
    }
}

/// What a public key is made of.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The point is 4, x and y: SEC 1, uncompressed.
    Ec {
        curve: Curve,
        point: Vec<u8>,
    },
    Ed25519([u8; 32]),
}

impl Public {
    /// A key on a curve, if the point has the right length.
    pub(crate) fn of_point(curve: Curve, point: &[u8]) -> Option<Self> {
        let right = point.first() == Some(&4) && point.len() == 1 + 2 * curve.len();
        right.then(|| Self::Ec { curve, point: point.to_vec() })
    }

    /// Whether a token of this algorithm can be signed with such a key.
    pub(crate) fn takes(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa { .. } => algorithm.is_rsa(),
            Self::Ec { curve, .. } => curve.algorithm() == algorithm,
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }
}

/// The members of a key in JSON. Of private members only their presence counts.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Members {
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    kty: String,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing)]
    d: Option<serde::de::IgnoredAny>,
    #[serde(skip_serializing)]
    k: Option<serde::de::IgnoredAny>,
}

/// A public key with its name: one entry of a [`Jwks`].
///
/// ```
/// use centrifugo_api::token::Jwk;
///
/// let key = Jwk::pem("-----BEGIN PUBLIC KEY-----
/// MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
/// -----END PUBLIC KEY-----")?.key_id("2026-10");
/// assert_eq!(
///     key.to_json(),
///     r#"{"kid":"2026-10","kty":"OKP","use":"sig","alg":"EdDSA","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#
/// );
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct Jwk {
    pub(crate) key_id: Option<String>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) public: Public,
}

impl Jwk {
    /// Reads a public key in PEM: `PUBLIC KEY` or `RSA PUBLIC KEY`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the text is no such key of RSA, of P-256, P-384 or P-521, or of Ed25519.
    /// A private key is refused too.
    pub fn pem(pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        let (label, der) = der::pem(pem.as_ref())?;
        if label.contains("PRIVATE") {
            return Err(Error::invalid("the key is private; give the public one, with `openssl pkey -pubout`"));
        }
        der::public_key(&label, &der)
            .map(Self::of)
            .ok_or_else(|| Error::invalid("the key is no public key of RSA, P-256, P-384, P-521 or Ed25519"))
    }

    /// Reads a key in JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it is no such key, or a private or a secret one.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, Error> {
        let members =
            serde_json::from_slice(json.as_ref()).map_err(|_| Error::invalid("the key is no JSON of a key"))?;
        Self::read(members)?
            .ok_or_else(|| Error::invalid("the key has an unknown `kty`, `crv` or `alg`, or another `use` than `sig`"))
    }

    /// Names the key: the `kid` of the tokens that are signed with it.
    pub fn key_id(mut self, key_id: impl Into<String>) -> Self {
        self.key_id = Some(key_id.into());
        self
    }

    /// States with which algorithm the key is used: an RSA key read from PEM does not tell. It is not checked until
    /// [`jwks`](crate::token::TokenIssuer::jwks).
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = Some(algorithm);
        self
    }

    /// The key as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // a struct of strings: always has a JSON form
    }

    pub(crate) fn of(public: Public) -> Self {
        let algorithm = match &public {
            Public::Rsa { .. } => None,
            Public::Ec { curve, .. } => Some(curve.algorithm()),
            Public::Ed25519(_) => Some(Algorithm::EdDsa),
        };
        Self { key_id: None, algorithm, public }
    }

    /// The key, unless it is of a kind that is not known here.
    fn read(members: Members) -> Result<Option<Self>, Error> {
        let Members { kid, kty, usage, alg, crv, x, y, n, e, d, k } = members;
        let known = matches!(&*kty, "RSA" | "EC" | "OKP");
        if d.is_some() || (kty == "oct" && k.is_some()) {
            return Err(Error::invalid("the key set holds a private or secret key; publish only public ones"));
        }
        let algorithm = alg.as_deref().and_then(Algorithm::of_name);
        if !known || usage.is_some_and(|usage| usage != "sig") || (alg.is_some() && algorithm.is_none()) {
            return Ok(None);
        }
        let wrong = |what: &str| Error::invalid(format!("a key of the set has no right `{what}`"));
        let bytes = |text: Option<String>, what| {
            text.and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok()).ok_or_else(|| wrong(what))
        };
        let public = match (&*kty, crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (bytes(n, "n")?, bytes(e, "e")?);
                Public::Rsa { n: der::trimmed(&n).to_vec(), e: der::trimmed(&e).to_vec() }
            }
            ("EC", crv) => {
                let curves = [Curve::P256, Curve::P384, Curve::P521];
                let Some(curve) = curves.into_iter().find(|curve| Some(curve.name()) == crv) else { return Ok(None) };
                let (x, y) = (bytes(x, "x")?, bytes(y, "y")?);
                if x.len() != curve.len() || y.len() != curve.len() {
                    return Err(wrong("x and y"));
                }
                Public::Ec { curve, point: [vec![4], x, y].concat() }
            }
            (_, Some("Ed25519")) => Public::Ed25519(bytes(x, "x")?.try_into().map_err(|_| wrong("x"))?),
            _ => return Ok(None),
        };
        if algorithm.is_some_and(|algorithm| !public.takes(algorithm)) {
            return Err(wrong("alg"));
        }
        Ok(Some(Self { key_id: kid, algorithm: algorithm.or(Self::of(public.clone()).algorithm), public }))
    }

    fn members(&self) -> Members {
        let text = |bytes: &[u8]| Some(BASE64_URL_SAFE_NO_PAD.encode(bytes));
        let members = Members {
            kid: self.key_id.clone(),
            usage: Some("sig".into()),
            alg: self.algorithm.map(|algorithm| algorithm.name().into()),
            ..Members::default()
        };
        match &self.public {
            Public::Rsa { n, e } => Members { kty: "RSA".into(), n: text(n), e: text(e), ..members },
            Public::Ec { curve, point } => {
                let (x, y) = point[1..].split_at(curve.len());
                Members { kty: "EC".into(), crv: Some(curve.name().into()), x: text(x), y: text(y), ..members }
            }
            Public::Ed25519(key) => Members { kty: "OKP".into(), crv: Some("Ed25519".into()), x: text(key), ..members },
        }
    }
}

impl Serialize for Jwk {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.members().serialize(serializer)
    }
}

/// Shows the key as JSON, which holds no secret.
impl fmt::Debug for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwk({})", self.to_json())
    }
}

/// A set of public keys: what Centrifugo reads from `client.token.jwks_public_endpoint`.
///
/// Made by [`TokenIssuer::jwks`](crate::token::TokenIssuer::jwks), or read with [`from_json`](Self::from_json).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jwks {
    pub(crate) keys: Vec<Jwk>,
}

impl Jwks {
    /// Reads a set in JSON.
    ///
    /// Keys of a kind, a curve, an algorithm or a use that is not known here are left out, as RFC 7517 says. Centrifugo refuses a
    /// set with a `kty` that it does not know, and leaves out keys whose `use` is not `sig`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it is no set, or has a key that is broken, private or secret.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Members>,
        }
        let set: Set = serde_json::from_slice(json.as_ref())
            .map_err(|_| Error::invalid("the key set is no JSON of the form {\"keys\": […]}"))?;
        let keys =
            set.keys.into_iter().filter_map(|members| Jwk::read(members).transpose()).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// The set as JSON: the body of the response of a JWKS endpoint, whose content type is `application/json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // structs of strings: always has a JSON form
    }

    /// The keys.
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }
}
