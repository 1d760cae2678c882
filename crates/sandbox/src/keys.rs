use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::random;

/// What ID tokens are signed with ([RFC 7518 §3.1](https://www.rfc-editor.org/rfc/rfc7518#section-3.1)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SigningAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    Es256,
    /// RSA (2048 bits) with PKCS #1 v1.5 padding and SHA-256.
    Rs256,
}

impl SigningAlgorithm {
    /// The value of `alg`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

enum KeyPair {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

/// A key that ID tokens are signed with.
pub(crate) struct SigningKey {
    kid: String,
    pair: KeyPair,
}

impl SigningKey {
    fn generate(algorithm: SigningAlgorithm) -> Self {
        let pair = match algorithm {
            SigningAlgorithm::Es256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map(KeyPair::Es256)
            }
            SigningAlgorithm::Rs256 => RsaKeyPair::generate(KeySize::Rsa2048).map(KeyPair::Rs256),
        };
        let kid = random::fingerprint(&random::text());
        Self { kid, pair: pair.expect("a key of a known size can be generated") }
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) fn algorithm(&self) -> SigningAlgorithm {
        match self.pair {
            KeyPair::Es256(_) => SigningAlgorithm::Es256,
            KeyPair::Rs256(_) => SigningAlgorithm::Rs256,
        }
    }

    /// Signs bytes, in the form that JWS wants.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            KeyPair::Es256(pair) => {
                pair.sign(&random, message).expect("a key of ours signs").as_ref().to_vec()
            }
            KeyPair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .expect("a key of ours signs");
                signature
            }
        }
    }

    /// The public half ([RFC 7517 §4](https://www.rfc-editor.org/rfc/rfc7517#section-4)).
    fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            KeyPair::Es256(pair) => {
                // 0x04, then both coordinates of 32 bytes (SEC 1 §2.3.3, uncompressed).
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            KeyPair::Rs256(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA",
                    "n": encode(public.modulus().big_endian_without_leading_zero()),
                    "e": encode(public.exponent().big_endian_without_leading_zero()),
                })
            }
        };
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm().as_str().into();
        jwk["kid"] = self.kid.as_str().into();
        jwk
    }
}

/// The keys that are published; the last one signs.
pub(crate) struct SigningKeys(Vec<SigningKey>);

impl SigningKeys {
    pub(crate) fn generate(algorithm: SigningAlgorithm) -> Self {
        Self(vec![SigningKey::generate(algorithm)])
    }

    pub(crate) fn current(&self) -> &SigningKey {
        self.0.last().expect("there is always a key")
    }

    /// Signs with a new key from now on; the older ones stay published unless `retire`.
    pub(crate) fn rotate(&mut self, algorithm: SigningAlgorithm, retire: bool) {
        if retire {
            self.0.clear();
        }
        self.0.push(SigningKey::generate(algorithm));
    }

    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": self.0.iter().map(SigningKey::jwk).collect::<Vec<_>>()})
    }
}
