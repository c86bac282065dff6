//! ES512: ECDSA on P-521, which `ring` lacks.

use p521::ecdsa::signature::{Signer as _, Verifier as _};
use p521::ecdsa::{Signature, SigningKey, VerifyingKey};

use crate::token::der;
use crate::token::jwk::Curve;

pub(crate) struct Pair(SigningKey);

impl Pair {
    pub(crate) fn read(label: &str, der: &[u8]) -> Option<Self> {
        SigningKey::from_slice(der::ec_scalar(label, der, Curve::P521)?).ok().map(Self)
    }

    /// Signs with a nonce of RFC 6979.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(message);
        signature.to_bytes().to_vec()
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        VerifyingKey::from(&self.0).to_sec1_point(false).as_bytes().to_vec()
    }
}

pub(crate) fn verify(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = VerifyingKey::from_sec1_bytes(point);
    let signature = Signature::from_slice(signature);
    matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(message, &signature).is_ok())
}
