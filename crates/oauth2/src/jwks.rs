//! The keys of one issuer ([RFC 7517](https://www.rfc-editor.org/rfc/rfc7517)).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use crate::{
    json,
    signing_alg::{KeyShape, SigningAlg},
};

/// Most keys that one issuer may have. The largest sets in public use have about a dozen.
const MOST_KEYS: usize = 256;

/// Most keys that one signature is tried with.
const MOST_TRIED: usize = 8;

/// Verifying keys of one issuer.
#[derive(Debug)]
pub(crate) struct KeySet(Vec<Key>);

#[derive(Debug)]
pub(crate) struct Key {
    kid: Option<String>,
    /// The only algorithm it is for, where the set says one.
    alg: Option<String>,
    shape: KeyShape,
    pub(crate) decoding: DecodingKey,
}

/// The bytes are no key set, or one with too many keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoKeySet;

impl KeySet {
    /// Reads a key set. Keys that are of no use to us are left out, whatever is wrong with them:
    /// a set may hold keys for other purposes and of kinds yet to come
    /// ([RFC 7517 §5](https://www.rfc-editor.org/rfc/rfc7517#section-5)).
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, NoKeySet> {
        let set = json::object(bytes).map_err(|_| NoKeySet)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(NoKeySet)?;
        if keys.len() > MOST_KEYS {
            return Err(NoKeySet);
        }
        Ok(Self(keys.iter().filter_map(Value::as_object).filter_map(Key::parse).collect()))
    }

    /// Keys that may have made a signature with this algorithm: the ones of that `kid` where the
    /// token names one, all fitting ones where it does not.
    pub(crate) fn candidates(
        &self,
        alg: SigningAlg,
        kid: Option<&str>,
    ) -> impl Iterator<Item = &Key> {
        self.0
            .iter()
            .filter(move |it| it.shape == alg.key_shape())
            .filter(move |it| it.alg.as_deref().is_none_or(|own| own == alg.name()))
            .filter(move |it| kid.is_none() || it.kid.as_deref() == kid)
            .take(MOST_TRIED)
    }
}

impl Key {
    fn parse(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        // `use` and `key_ops` bind when they are there, whatever their form (RFC 7517 §4.2, §4.3).
        if key.contains_key("use") && text("use") != Some("sig") {
            return None;
        }
        if let Some(operations) = key.get("key_ops")
            && !operations.as_array().is_some_and(|it| it.iter().any(|it| it == "verify"))
        {
            return None;
        }
        let optional = |name: &str| match key.get(name) {
            None => Some(None),
            Some(Value::String(value)) => Some(Some(value.clone())),
            Some(_) => None,
        };
        let coordinate = |name: &str, length: usize| {
            text(name).filter(|it| URL_SAFE_NO_PAD.decode(it).is_ok_and(|it| it.len() == length))
        };
        let (shape, decoding) = match (text("kty")?, text("crv")) {
            ("RSA", _) => (KeyShape::Rsa, DecodingKey::from_rsa_components(text("n")?, text("e")?)),
            ("EC", Some("P-256")) => {
                let (x, y) = (coordinate("x", 32)?, coordinate("y", 32)?);
                (KeyShape::P256, DecodingKey::from_ec_components(x, y))
            }
            ("EC", Some("P-384")) => {
                let (x, y) = (coordinate("x", 48)?, coordinate("y", 48)?);
                (KeyShape::P384, DecodingKey::from_ec_components(x, y))
            }
            ("OKP", Some("Ed25519")) => {
                (KeyShape::Ed25519, DecodingKey::from_ed_components(coordinate("x", 32)?))
            }
            _ => return None,
        };
        Some(Self { kid: optional("kid")?, alg: optional("alg")?, shape, decoding: decoding.ok()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn x() -> String {
        URL_SAFE_NO_PAD.encode([1; 32])
    }

    fn count(key: &Value, alg: SigningAlg, kid: Option<&str>) -> usize {
        let set = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap();
        set.candidates(alg, kid).count()
    }

    #[test]
    fn an_encryption_key_never_verifies() {
        let key = |more: Value| {
            let mut key = json!({"kty": "EC", "crv": "P-256", "x": x(), "y": x(), "kid": "a"});
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        assert_eq!(count(&key(json!({})), SigningAlg::Es256, Some("a")), 1);
        assert_eq!(count(&key(json!({"use": "sig"})), SigningAlg::Es256, Some("a")), 1);
        assert_eq!(count(&key(json!({"use": "enc"})), SigningAlg::Es256, Some("a")), 0);
        assert_eq!(count(&key(json!({"use": 1})), SigningAlg::Es256, Some("a")), 0);
        assert_eq!(count(&key(json!({"key_ops": ["verify"]})), SigningAlg::Es256, Some("a")), 1);
        assert_eq!(count(&key(json!({"key_ops": ["encrypt"]})), SigningAlg::Es256, Some("a")), 0);
        assert_eq!(count(&key(json!({"alg": "ECDH-ES"})), SigningAlg::Es256, Some("a")), 0);
    }

    #[test]
    fn a_key_fits_its_own_kind_of_algorithm_only() {
        let ec = json!({"kty": "EC", "crv": "P-256", "x": x(), "y": x()});
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": x()});
        let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
        let oct = json!({"kty": "oct", "k": x()});
        for alg in SigningAlg::ALL {
            assert_eq!(count(&ec, alg, None) == 1, alg == SigningAlg::Es256);
            assert_eq!(count(&ed, alg, None) == 1, alg == SigningAlg::EdDsa);
            assert_eq!(count(&rsa, alg, None) == 1, alg.key_shape() == KeyShape::Rsa);
            assert_eq!(count(&oct, alg, None), 0);
        }
        let pinned = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RS256"});
        assert_eq!(count(&pinned, SigningAlg::Ps256, None), 0);
    }

    #[test]
    fn keys_of_unknown_or_broken_kind_are_left_out_and_too_many_refused() {
        for odd in [
            json!({}),
            json!({"kty": 1}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
            json!({"kty": "EC", "crv": "secp256k1", "x": x(), "y": x()}),
            json!({"kty": "EC", "crv": "P-256", "x": x(), "y": x(), "kid": 1}),
            json!({"kty": "RSA", "n": "***", "e": "AQAB"}),
        ] {
            for alg in SigningAlg::ALL {
                assert_eq!(count(&odd, alg, None), 0, "{odd}");
            }
        }
        let many = json!({"keys": vec![json!({}); MOST_KEYS + 1]}).to_string();
        assert!(KeySet::parse(many.as_bytes()).is_err());
        assert!(KeySet::parse(b"{\"keys\":{}}").is_err());
    }

    #[test]
    fn without_a_kid_no_more_than_eight_keys_are_tried() {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": x()});
        let set = json!({"keys": vec![key; 20]}).to_string();
        let set = KeySet::parse(set.as_bytes()).unwrap();
        assert_eq!(set.candidates(SigningAlg::EdDsa, None).count(), 8);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_set_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
            n in "\\PC{0,20}", e in "\\PC{0,20}", kty in "(RSA|EC|OKP)", crv in "(P-256|Ed25519)",
        ) {
            let _ = KeySet::parse(&bytes);
            let key = json!({"keys": [{"kty": kty, "crv": crv, "n": n, "e": e, "x": n, "y": e}]});
            prop_assert!(KeySet::parse(key.to_string().as_bytes()).is_ok());
        }
    }
}
