//! The algorithms that sign tokens.

use std::fmt;

use crate::error::Error;
use crate::token::der;

macro_rules! algorithms {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// How a token is signed.
        ///
        /// The names are those of [RFC 7518](https://www.rfc-editor.org/rfc/rfc7518#section-3.1). Centrifugo takes HS\* with
        /// `client.token.hmac_secret_key`, RS\* with `rsa_public_key`, ES\* with `ecdsa_public_key`, and RS\*, ES\* and `EdDSA` with
        /// `jwks_public_endpoint`; `EdDSA` with a key of its own only since 6.10.2.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Algorithm { $($(#[$doc])* $name),+ }

        impl Algorithm {
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            pub(crate) fn of_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

algorithms! {
    /// HMAC with SHA-256: one secret signs and verifies.
    Hs256 = "HS256",
    /// HMAC with SHA-384.
    Hs384 = "HS384",
    /// HMAC with SHA-512.
    Hs512 = "HS512",
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256 = "RS256",
    /// RSA (PKCS #1 v1.5) with SHA-384.
    Rs384 = "RS384",
    /// RSA (PKCS #1 v1.5) with SHA-512.
    Rs512 = "RS512",
    /// ECDSA on P-256 with SHA-256.
    Es256 = "ES256",
    /// ECDSA on P-384 with SHA-384.
    Es384 = "ES384",
    /// ECDSA on P-521 with SHA-512. Keys of this crate need the feature `token-es512`; a [`Signer`](crate::token::Signer) does not.
    Es512 = "ES512",
    /// Ed25519.
    EdDsa = "EdDSA",
}

impl Algorithm {
    pub(crate) fn is_hmac(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    pub(crate) fn is_rsa(self) -> bool {
        matches!(self, Self::Rs256 | Self::Rs384 | Self::Rs512)
    }

    /// The bytes of a signature, if that is always the same.
    pub(crate) fn signature_len(self) -> Option<usize> {
        match self {
            Self::Es256 | Self::EdDsa => Some(64),
            Self::Es384 => Some(96),
            Self::Es512 => Some(132),
            _ => None,
        }
    }

    /// Converts an ECDSA signature in DER, as AWS KMS and most HSMs return it, to the form that tokens have: `r` and `s`, one
    /// after the other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the algorithm is not ECDSA, or the bytes are no such signature.
    pub fn signature_from_der(self, signature: &[u8]) -> Result<Vec<u8>, Error> {
        let half = match (self, self.signature_len()) {
            (Self::Es256 | Self::Es384 | Self::Es512, Some(bytes)) => bytes / 2,
            _ => return Err(Error::invalid(format!("signatures of {self} are not in DER"))),
        };
        der::ecdsa_signature(signature, half)
            .ok_or_else(|| Error::invalid(format!("the bytes are no signature of {self} in DER")))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
