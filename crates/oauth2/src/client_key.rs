//! Keys with which a client signs who it is
//! ([RFC 7523](https://www.rfc-editor.org/rfc/rfc7523),
//! [OpenID Connect Core 1.0 §9](https://openid.net/specs/openid-connect-core-1_0.html#ClientAuthentication)).

use std::{fmt, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, KeyAlgorithm, PublicKeyUse, ThumbprintHash},
};
use serde_json::{Value, json};
use symbolon_domain::secret::Secret;

use crate::client::SignedSecret;

/// How long an assertion is good for: time enough for one request.
const LIFETIME: TimeDelta = TimeDelta::minutes(1);

/// A private key of a client of ours.
#[derive(Clone)]
pub struct ClientKey(Arc<Inner>);

struct Inner {
    kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Value,
}

/// A text is no key that can be used; says what was expected.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "must be the PEM of an unencrypted PKCS #8 private key, EC on P-256 or RSA of 2048 bits and more"
)]
pub struct InvalidClientKey;

impl ClientKey {
    /// Reads the PEM of a private key; an EC key on P-256 signs with ES256, an RSA key with RS256.
    ///
    /// # Errors
    ///
    /// [`InvalidClientKey`]; the text is not quoted.
    pub fn parse(pem: &Secret) -> Result<Self, InvalidClientKey> {
        let bytes = pem.expose().as_bytes();
        let ec = EncodingKey::from_ec_pem(bytes).map(|key| (Algorithm::ES256, key));
        let (algorithm, key) = ec
            .or_else(|_| EncodingKey::from_rsa_pem(bytes).map(|key| (Algorithm::RS256, key)))
            .map_err(|_| InvalidClientKey)?;
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).map_err(|_| InvalidClientKey)?;
        // The name is the key's own, so that two processes call it the same
        // (RFC 7638; RFC 7517 §4.5 leaves the form open).
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| InvalidClientKey)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_algorithm = Some(match algorithm {
            Algorithm::RS256 => KeyAlgorithm::RS256,
            _ => KeyAlgorithm::ES256,
        });
        let public = serde_json::to_value(&jwk).map_err(|_| InvalidClientKey)?;
        let signer = Self(Arc::new(Inner { kid, algorithm, key, public }));
        // A key of another curve, or too short a one, is only found out when it signs.
        signer.sign(&json!({})).ok_or(InvalidClientKey)?;
        Ok(signer)
    }

    /// The public half, to be published ([RFC 7517](https://www.rfc-editor.org/rfc/rfc7517)).
    #[must_use]
    pub fn public(&self) -> &Value {
        &self.0.public
    }

    /// That we are `client_id`, said to `audience`, good for a minute and once.
    pub(crate) fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Option<Secret> {
        self.sign(&claims(client_id, audience, now))
    }

    /// A client secret that is good for a few minutes.
    pub(crate) fn signed_secret(
        &self,
        client_id: &str,
        of: &SignedSecret,
        now: DateTime<Utc>,
    ) -> Option<Secret> {
        let claims = json!({
            "iss": of.issuer,
            "sub": client_id,
            "aud": of.audience,
            "iat": now.timestamp(),
            "exp": (now + LIFETIME * 5).timestamp(),
        });
        self.sign_as(&of.key_id, &claims)
    }

    fn sign(&self, claims: &Value) -> Option<Secret> {
        self.sign_as(&self.0.kid, claims)
    }

    fn sign_as(&self, kid: &str, claims: &Value) -> Option<Secret> {
        let Inner { algorithm, key, .. } = &*self.0;
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(*algorithm) };
        jsonwebtoken::encode(&header, claims, key).ok().map(Secret::new)
    }
}

/// The same with the client secret as the key: `client_secret_jwt`.
pub(crate) fn secret_assertion(
    secret: &Secret,
    client_id: &str,
    audience: &str,
    now: DateTime<Utc>,
) -> Option<Secret> {
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    let claims = claims(client_id, audience, now);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).ok().map(Secret::new)
}

fn claims(client_id: &str, audience: &str, now: DateTime<Utc>) -> Value {
    json!({
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": Secret::random().expose(),
        "iat": now.timestamp(),
        "exp": (now + LIFETIME).timestamp(),
    })
}

impl PartialEq for ClientKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.public == other.0.public
    }
}

impl Eq for ClientKey {}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientKey").field(&self.0.kid).finish()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};
    use serde_json::Map;

    use super::*;

    /// Made for this test: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
    const EC: &str = include_str!("../tests/connector/client_key_ec.pem");
    const RSA: &str = include_str!("../tests/connector/client_key_rsa.pem");
    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    #[test]
    fn an_assertion_verifies_with_the_published_key() {
        for (pem, algorithm) in [(EC, Algorithm::ES256), (RSA, Algorithm::RS256)] {
            let key = ClientKey::parse(&Secret::new(pem)).unwrap();
            let public: Jwk = serde_json::from_value(key.public().clone()).unwrap();
            assert!(key.public().get("d").is_none(), "the private half is published");
            let assertion = key.assertion("client", "https://as.example", NOW).unwrap();
            let mut validation = Validation::new(algorithm);
            validation.set_audience(&["https://as.example"]);
            validation.set_issuer(&["client"]);
            validation.validate_exp = false;
            let decoded = decode::<Map<String, Value>>(
                assertion.expose(),
                &DecodingKey::from_jwk(&public).unwrap(),
                &validation,
            )
            .unwrap();
            assert_eq!(decoded.header.kid.as_deref(), key.public()["kid"].as_str());
            assert_eq!(decoded.claims["sub"], "client");
            let again = key.assertion("client", "https://as.example", NOW).unwrap();
            assert_ne!(assertion, again, "each has a name of its own");
        }
    }

    #[test]
    fn what_is_no_private_key_is_refused() {
        for text in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert_eq!(ClientKey::parse(&Secret::new(text)).err(), Some(InvalidClientKey));
        }
    }
}
