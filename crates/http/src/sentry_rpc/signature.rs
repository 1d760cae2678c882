use axum::http::{HeaderMap, header::AUTHORIZATION};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use symbolon_domain::secret::Secret;

use crate::error::ApiError;

/// What a call says it is signed with; nothing is proved until [`is_of`](Self::is_of) says so.
pub(super) struct Signature([u8; 32]);

impl Signature {
    /// Reads `Authorization: Rpcsignature rpc0:HEX`.
    ///
    /// # Errors
    ///
    /// As Sentry answers: 403 where a call is not signed at all, 401 where its signature cannot be
    /// one.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(ApiError::unsigned());
        };
        let words = value.as_bytes().split(u8::is_ascii_whitespace);
        let mut words = words.filter(|it| !it.is_empty());
        let (Some(scheme), Some(token)) = (words.next(), words.next()) else {
            return Err(ApiError::unsigned());
        };
        if !scheme.eq_ignore_ascii_case(b"rpcsignature") {
            return Err(ApiError::unsigned());
        }
        let digest = token.strip_prefix(b"rpc0:").and_then(|hex| {
            let mut digest = [0; 32];
            hex::decode_to_slice(hex, &mut digest).ok()?;
            Some(digest)
        });
        match (digest, words.next()) {
            (Some(digest), None) => Ok(Self(digest)),
            _ => Err(ApiError::bad_signature()),
        }
    }

    /// Whether one of the secrets signed this path and body. Takes the same time whichever it is,
    /// and wherever a wrong one differs.
    pub(super) fn is_of(&self, secrets: &[Secret], path: &str, body: &[u8]) -> bool {
        secrets.iter().fold(false, |good, secret| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
                .expect("a key of an HMAC may have any length");
            mac.update(path.as_bytes());
            mac.update(b":");
            mac.update(body);
            good | mac.verify_slice(&self.0).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn signature(values: &[&str]) -> Result<Signature, String> {
        let headers =
            values.iter().map(|it| (AUTHORIZATION, HeaderValue::from_str(it).unwrap())).collect();
        Signature::of(&headers).map_err(|error| format!("{error:?}"))
    }

    /// What Python's `hmac` makes of this secret, path and body.
    const SECRET: &str = "a-long-value-that-is-hard-to-guess";
    const PATH: &str = "/api/0/internal/rpc/identity/get_provider/";
    const BODY: &[u8] = b"{}";
    const HEX: &str = "6a47b9886bea8a0c4f2ad62e1ef8abd26182b5e699f66a91bae25401c02f02b0";

    #[test]
    fn a_header_that_is_no_signature_is_unsigned_and_a_malformed_one_is_wrong() {
        for unsigned in [&[][..], &["Rpcsignature"], &["Bearer rpc0:00"], &["rpc0:00"], &[""]] {
            let problem = signature(unsigned).err().unwrap();
            assert!(problem.contains("403"), "{unsigned:?}: {problem}");
        }
        let good = format!("rpc0:{HEX}");
        let two = [&*format!("Rpcsignature {good}"), &*format!("Rpcsignature {good}")];
        assert!(signature(&two).err().unwrap().contains("403"));
        for wrong in [
            "trash".to_owned(),
            format!("rpc1:{HEX}"),
            format!("rpc0:{}", &HEX[1..]),
            format!("rpc0:{HEX}0"),
            format!("rpc0:{HEX}:x"),
            format!("rpc0:{}", HEX.replace('6', "g")),
            format!("{good} x"),
        ] {
            let problem = signature(&[&format!("Rpcsignature {wrong}")]).err().unwrap();
            assert!(problem.contains("401"), "{wrong}: {problem}");
        }
        for scheme in ["Rpcsignature", "rpcsignature", "RPCSIGNATURE  "] {
            assert!(signature(&[&format!("{scheme} {good}")]).is_ok(), "{scheme}");
        }
    }

    #[test]
    fn any_of_the_secrets_is_good_and_nothing_else() {
        let signature = signature(&[&format!("Rpcsignature rpc0:{HEX}")]).unwrap();
        for secrets in [&[SECRET][..], &["new", SECRET], &[SECRET, "old"]] {
            let secrets: Vec<_> = secrets.iter().map(|it| Secret::new(*it)).collect();
            assert!(signature.is_of(&secrets, PATH, BODY));
            assert!(!signature.is_of(&secrets, &PATH[1..], BODY));
            assert!(!signature.is_of(&secrets, PATH, b"{} "));
        }
        assert!(!signature.is_of(&[Secret::new("new")], PATH, BODY));
        assert!(!signature.is_of(&[], PATH, BODY));
    }
}
