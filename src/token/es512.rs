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

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;
    use crate::token::Jwk;
    use crate::token::jwk::Public;

    #[test]
    fn the_signature_of_rfc_7515_is_verified() {
        let key = r#"{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}"#;
        let signature = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        let Public::Ec { point, .. } = Jwk::from_json(key).unwrap().public else { panic!("it is an EC key") };
        let message = b"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA";
        assert!(verify(&point, message, &signature));
        assert!(!verify(&point, &message[1..], &signature));
        assert!(!verify(&point, message, &signature[1..]));
    }
}
