//! The little of PEM and DER that keys need.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::error::Error;
use crate::token::jwk::{Curve, Public};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// `rsaEncryption`: RFC 8017.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// `id-ecPublicKey`: RFC 5480.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// `id-Ed25519`: RFC 8410.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The identifiers of the curves: RFC 5480.
fn oid(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Curve::P384 => &[0x2b, 0x81, 0x04, 0x00, 0x22],
        Curve::P521 => &[0x2b, 0x81, 0x04, 0x00, 0x23],
    }
}

/// The first key in a PEM text: its label and its DER.
pub(crate) fn pem(text: &[u8]) -> Result<(String, Vec<u8>), Error> {
    let wrong = |what: &str| Error::invalid(format!("the key {what}"));
    let text = std::str::from_utf8(text).map_err(|_| wrong("is not PEM, which is text"))?;
    let mut rest = text;
    while let Some((_, block)) = rest.split_once("-----BEGIN ") {
        let (label, body) = block.split_once("-----").ok_or_else(|| wrong("is PEM without an end"))?;
        let (body, after) =
            body.split_once(&format!("-----END {label}-----")).ok_or_else(|| wrong("is PEM without an end"))?;
        rest = after;
        if label.starts_with("ENCRYPTED") || body.contains("Proc-Type:") {
            return Err(wrong("is encrypted; decrypt it first, with `openssl pkcs8 -topk8 -nocrypt`"));
        }
        if label == "CERTIFICATE" {
            return Err(wrong("is a certificate; take its public key, with `openssl x509 -pubkey -noout`"));
        }
        if label.ends_with("KEY") {
            let body: String = body.split_ascii_whitespace().collect();
            let der = BASE64_STANDARD.decode(body).map_err(|_| wrong("is PEM with a body that is not base64"))?;
            return Ok((label.to_owned(), der));
        }
    }
    Err(wrong("is not PEM: it has no line like `-----BEGIN PRIVATE KEY-----`"))
}

/// Reads the elements of a DER sequence.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next element, which must have this tag.
    fn read(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&found, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            _ if first < 0x80 => (usize::from(first), rest),
            0x81..=0x83 => {
                let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        (found == tag).then_some(content)
    }

    /// A number that is not negative, without leading zeros.
    fn unsigned(&mut self) -> Option<&'a [u8]> {
        let bytes = self.read(INTEGER)?;
        if bytes.first().is_none_or(|first| *first >= 0x80) {
            return None;
        }
        Some(trimmed(bytes))
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A number without leading zeros.
pub(crate) fn trimmed(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// The numbers of an ECDSA signature, each in `half` bytes.
pub(crate) fn ecdsa_signature(der: &[u8], half: usize) -> Option<Vec<u8>> {
    let mut outer = Reader(der);
    let mut inner = Reader(outer.read(SEQUENCE)?);
    outer.end()?;
    let mut signature = Vec::with_capacity(2 * half);
    for _ in 0..2 {
        let number = inner.unsigned()?;
        signature.resize(signature.len() + half.checked_sub(number.len())?, 0);
        signature.extend_from_slice(number);
    }
    inner.end()?;
    Some(signature)
}

/// The key in a `PUBLIC KEY` or an `RSA PUBLIC KEY`.
pub(crate) fn public_key(label: &str, der: &[u8]) -> Option<Public> {
    if label == "RSA PUBLIC KEY" {
        return rsa_public_key(der);
    }
    let mut outer = Reader(der);
    let mut info = Reader(outer.read(SEQUENCE)?);
    outer.end()?;
    let mut algorithm = Reader(info.read(SEQUENCE)?);
    let (unused, key) = info.read(BIT_STRING)?.split_first()?;
    info.end()?;
    if *unused != 0 {
        return None;
    }
    match algorithm.read(OID)? {
        RSA => rsa_public_key(key),
        EC => {
            let named = algorithm.read(OID)?;
            let curve = [Curve::P256, Curve::P384, Curve::P521].into_iter().find(|curve| oid(*curve) == named)?;
            Public::of_point(curve, key)
        }
        ED25519 => Some(Public::Ed25519(key.try_into().ok()?)),
        _ => None,
    }
}

fn rsa_public_key(der: &[u8]) -> Option<Public> {
    let mut outer = Reader(der);
    let mut key = Reader(outer.read(SEQUENCE)?);
    outer.end()?;
    let (n, e) = (key.unsigned()?.to_vec(), key.unsigned()?.to_vec());
    key.end()?;
    Some(Public::Rsa { n, e })
}

/// An `EC PRIVATE KEY`, which OpenSSL writes, as the `PRIVATE KEY` that ring reads.
pub(crate) fn pkcs8_of_sec1(curve: Curve, sec1: &[u8]) -> Vec<u8> {
    let algorithm = element(SEQUENCE, &[element(OID, EC), element(OID, oid(curve))].concat());
    element(SEQUENCE, &[element(INTEGER, &[0]), algorithm, element(OCTET_STRING, sec1)].concat())
}

/// The secret number of an `EC PRIVATE KEY`, or of a `PRIVATE KEY` that is one on this curve.
#[cfg(feature = "token-es512")]
pub(crate) fn ec_scalar<'a>(label: &str, der: &'a [u8], curve: Curve) -> Option<&'a [u8]> {
    let mut outer = Reader(der);
    let mut key = Reader(outer.read(SEQUENCE)?);
    key.read(INTEGER)?;
    if label == "EC PRIVATE KEY" {
        return key.read(OCTET_STRING);
    }
    let mut algorithm = Reader(key.read(SEQUENCE)?);
    if algorithm.read(OID)? != EC || algorithm.read(OID)? != oid(curve) {
        return None;
    }
    ec_scalar("EC PRIVATE KEY", key.read(OCTET_STRING)?, curve)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    let [low, high, ..] = content.len().to_le_bytes();
    match content.len() {
        0..0x80 => element.push(low),
        0x80..0x100 => element.extend([0x81, low]),
        // What is wrapped here has less than 64 KiB: a longer one is no key.
        _ => element.extend([0x82, high, low]),
    }
    element.extend_from_slice(content);
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_element_is_refused() {
        let whole = element(SEQUENCE, &[element(INTEGER, &[1]), element(INTEGER, &[0, 0x80])].concat());
        let mut expected = vec![0; 64];
        (expected[31], expected[63]) = (1, 0x80);
        assert_eq!(ecdsa_signature(&whole, 32), Some(expected));
        for end in 0..whole.len() {
            assert_eq!(ecdsa_signature(&whole[..end], 32), None, "{end}");
        }
    }

    #[test]
    fn a_number_that_is_too_long_or_negative_is_no_signature() {
        let long = element(SEQUENCE, &[element(INTEGER, &[1; 33]), element(INTEGER, &[1])].concat());
        let negative = element(SEQUENCE, &[element(INTEGER, &[0x80]), element(INTEGER, &[1])].concat());
        assert_eq!([long, negative].map(|der| ecdsa_signature(&der, 32)), [None, None]);
    }
}
