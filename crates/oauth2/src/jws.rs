//! Signed JSON Web Tokens ([RFC 7515](https://www.rfc-editor.org/rfc/rfc7515),
//! [RFC 8725](https://www.rfc-editor.org/rfc/rfc8725)): the header and the signature. What the
//! claims must say is the caller's matter.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::crypto;
use serde_json::{Map, Value};

use crate::{json, jwks::KeySet, signing_alg::SigningAlg};

/// Longest token that is looked at, in bytes.
const LONGEST: usize = 32 * 1024;

/// A token whose header is acceptable. Its claims are not to be had before
/// [`verify`](Self::verify).
pub(crate) struct Jws<'a> {
    pub(crate) alg: SigningAlg,
    pub(crate) kid: Option<String>,
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

/// Which rule of form a token breaks, in words of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotVerified {
    /// The set has no fitting key, or the token names none and no fitting one made the signature.
    /// A newer set may.
    NoKey,
    /// The named key did not make the signature, or what it signed is no claims.
    Refused(&'static str),
}

impl<'a> Jws<'a> {
    /// Reads the form and the header of a token.
    ///
    /// What could make us take a key from the token itself or fetch one from where it says, or
    /// change what is signed, is refused: `jwk`, `jku`, `x5u`, `crit`, `b64`.
    pub(crate) fn parse(token: &'a str, allowed: &[SigningAlg]) -> Result<Self, Malformed> {
        Self::parse_as(token, allowed, &[])
    }

    /// The same, where a token may also be typed as one of these, in small letters.
    pub(crate) fn parse_as(
        token: &'a str,
        allowed: &[SigningAlg],
        types: &[&str],
    ) -> Result<Self, Malformed> {
        if token.len() > LONGEST {
            return Err(Malformed("it is too long"));
        }
        let parts = token.split('.').collect::<Vec<_>>();
        let [header, payload, signature] = parts[..] else {
            return Err(Malformed("it is not a signed JWT"));
        };
        let header =
            decode(header).ok_or(Malformed("its header is not a JSON object with unique names"))?;
        if ["crit", "jwk", "jku", "x5u", "b64"].iter().any(|it| header.contains_key(*it)) {
            return Err(Malformed("its header holds a parameter that is not allowed"));
        }
        let alg = header
            .get("alg")
            .and_then(Value::as_str)
            .and_then(SigningAlg::parse)
            .filter(|it| allowed.contains(it))
            .ok_or(Malformed("its signing algorithm is not allowed"))?;
        // A token typed as something else is something else, an access token for example
        // (RFC 8725 §3.11).
        match header.get("typ") {
            None => {}
            Some(Value::String(typ)) if is_meant(&typ.to_ascii_lowercase(), types) => {}
            Some(_) => return Err(Malformed("its type is that of another token")),
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Malformed("its key id is not a text")),
        };
        let message = &token[..token.len() - signature.len() - 1];
        Ok(Self { alg, kid, message, payload, signature })
    }

    /// The claims, if one of the keys signed them.
    pub(crate) fn verify(&self, keys: &KeySet) -> Result<Map<String, Value>, NotVerified> {
        let mut candidates = keys.candidates(self.alg, self.kid.as_deref()).peekable();
        if candidates.peek().is_none() {
            return Err(NotVerified::NoKey);
        }
        let signed = candidates.any(|key| {
            let algorithm = self.alg.algorithm();
            crypto::verify(self.signature, self.message.as_bytes(), &key.decoding, algorithm)
                .unwrap_or(false)
        });
        match (signed, &self.kid) {
            (true, _) => decode(self.payload)
                .ok_or(NotVerified::Refused("its claims are not a JSON object with unique names")),
            (false, Some(_)) => Err(NotVerified::Refused("its signature is wrong")),
            (false, None) => Err(NotVerified::NoKey),
        }
    }

    /// The claims, unverified: only to find out that they do *not* fit, or by which name of itself
    /// the issuer must have signed them.
    pub(crate) fn unverified_claims(&self) -> Option<Map<String, Value>> {
        decode(self.payload)
    }
}

/// What an access token that is a JWT says of its own end (RFC 7519 §4.1.4). Nobody vouches for it:
/// it tells when to ask for another token, and nothing else.
pub(crate) fn unverified_end(token: &str) -> Option<Value> {
    let mut parts = token.split('.').filter(|_| token.len() <= LONGEST);
    let (Some(_), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    decode(payload)?.remove("exp")
}

/// Whether a type says no more than JWT, or one of these.
fn is_meant(typ: &str, types: &[&str]) -> bool {
    !typ.ends_with("+jwt") || types.contains(&typ)
}

fn decode(part: &str) -> Option<Map<String, Value>> {
    json::object(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn token(header: &Value) -> String {
        let part = |it: &str| URL_SAFE_NO_PAD.encode(it);
        format!("{}.{}.{}", part(&header.to_string()), part("{}"), part("signature"))
    }

    #[test]
    fn a_header_that_asks_for_more_than_a_known_signature_is_refused() {
        let with = |more: Value| {
            let mut header = json!({"alg": "RS256", "kid": "a"});
            header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            token(&header)
        };
        for refused in [
            json!({"alg": "none"}),
            json!({"alg": "None"}),
            json!({"alg": "nOnE"}),
            json!({"alg": "HS256"}),
            json!({"alg": "RS512"}),
            json!({"alg": "ES256K"}),
            json!({"alg": ["RS256"]}),
            json!({"alg": null}),
            json!({"crit": ["exp"], "exp": 1}),
            json!({"crit": []}),
            json!({"jwk": {"kty": "RSA"}}),
            json!({"jku": "https://attacker.example/jwks"}),
            json!({"x5u": "https://attacker.example/x5u"}),
            json!({"b64": false}),
            json!({"b64": true}),
            json!({"typ": "at+jwt"}),
            json!({"typ": "application/logout+JWT"}),
            json!({"typ": 1}),
            json!({"kid": 1}),
        ] {
            let token = with(refused.clone());
            assert!(Jws::parse(&token, &SigningAlg::DEFAULT).is_err(), "{refused}");
        }
        for accepted in [json!({}), json!({"typ": "JWT"}), json!({"x5t": "x", "x5c": ["x"]})] {
            let token = with(accepted.clone());
            assert!(Jws::parse(&token, &SigningAlg::DEFAULT).is_ok(), "{accepted}");
        }
    }

    #[test]
    fn what_is_not_three_parts_of_bounded_length_is_refused() {
        let five = "a.b.c.d.e";
        let long = format!("{}.{}", token(&json!({"alg": "RS256"})), "a".repeat(LONGEST));
        for other in ["", ".", "..", "a.b", five, &long] {
            assert!(Jws::parse(other, &SigningAlg::DEFAULT).is_err());
        }
    }

    #[test]
    fn a_header_with_a_name_given_twice_is_refused() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","alg":"RS256"}"#);
        assert!(Jws::parse(&format!("{header}.e30.e30"), &SigningAlg::DEFAULT).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_refused(text in "\\PC{0,300}", payload in "[A-Za-z0-9_.-]{0,99}") {
            let _ = Jws::parse(&text, &SigningAlg::ALL);
            let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
            let token = format!("{header}.{payload}");
            let keys = KeySet::parse(br#"{"keys":[]}"#).unwrap();
            if let Ok(jws) = Jws::parse(&token, &SigningAlg::ALL) {
                prop_assert!(jws.verify(&keys).is_err());
            }
        }
    }
}
