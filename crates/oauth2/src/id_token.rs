//! What the claims of an ID token must say
//! ([OpenID Connect Core 1.0 §3.1.3.7](https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation)).

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use symbolon_domain::secret::Secret;

use crate::signing_alg::SigningAlg;

/// How old an ID token may be that was made for us just now. Only a replay is older.
const OLDEST: TimeDelta = TimeDelta::hours(24);

/// What an ID token must fit.
pub(crate) struct Expected<'a> {
    /// One of these is its `iss`, character by character.
    pub(crate) issuers: &'a [String],
    /// For whom it must be.
    pub(crate) client_id: &'a str,
    /// The time, UTC.
    pub(crate) now: DateTime<Utc>,
    /// How far clocks may differ.
    pub(crate) leeway: TimeDelta,
    /// What was sent along; must be there again.
    pub(crate) nonce: Option<&'a Secret>,
    /// Whose token it must be, where that is known already.
    pub(crate) subject: Option<&'a str>,
    /// The access token beside it.
    pub(crate) access_token: &'a Secret,
    /// The code that it was traded for.
    pub(crate) code: Option<&'a Secret>,
}

/// Which check failed, in words of ours.
pub(crate) type Failed = &'static str;

impl Expected<'_> {
    /// Checks the claims of a token whose signature was verified with `alg`.
    pub(crate) fn check(&self, claims: &Map<String, Value>, alg: SigningAlg) -> Result<(), Failed> {
        self.check_parties(claims)?;
        self.check_times(claims)?;
        if let Some(nonce) = self.nonce {
            let given = claims.get("nonce").and_then(Value::as_str);
            let given = Secret::new(given.ok_or("its nonce is missing")?);
            if given != *nonce {
                return Err("its nonce is not the one that was sent");
            }
        }
        if !half_hash_fits(claims.get("at_hash"), self.access_token, alg) {
            return Err("its at_hash is not that of the access token");
        }
        if let Some(code) = self.code
            && !half_hash_fits(claims.get("c_hash"), code, alg)
        {
            return Err("its c_hash is not that of the code");
        }
        Ok(())
    }

    /// Who issued it, for whom, about whom.
    pub(crate) fn check_parties(&self, claims: &Map<String, Value>) -> Result<(), Failed> {
        check_issuer(claims, self.issuers)?;
        check_audience(claims, self.client_id)?;
        let subject = subject(claims)?;
        if self.subject.is_some_and(|it| it != subject) {
            return Err("it is about another account");
        }
        Ok(())
    }

    fn check_times(&self, claims: &Map<String, Value>) -> Result<(), Failed> {
        check_times(claims, self.now, self.leeway).map(drop)
    }
}

/// It is neither too old nor not valid yet; answers from when on it is too old.
pub(crate) fn check_times(
    claims: &Map<String, Value>,
    now: DateTime<Utc>,
    leeway: TimeDelta,
) -> Result<DateTime<Utc>, Failed> {
    let (earliest, latest) = (now - leeway, now + leeway);
    let expires = time(claims, "exp")?.ok_or("its exp is missing")?;
    if expires <= earliest {
        return Err("it has expired");
    }
    let issued = time(claims, "iat")?.ok_or("its iat is missing")?;
    if issued > latest {
        return Err("it was issued in the future");
    }
    if issued < earliest - OLDEST {
        return Err("it was issued long ago");
    }
    if time(claims, "nbf")?.is_some_and(|it| it > latest) {
        return Err("it is not valid yet");
    }
    // What was issued is near now by then, so this is no date that overflows.
    Ok(expires.min(issued + OLDEST) + leeway)
}

/// `iss` is one of the accepted ones.
pub(crate) fn check_issuer(claims: &Map<String, Value>, issuers: &[String]) -> Result<(), Failed> {
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or("its iss is missing")?;
    if issuers.iter().any(|it| it == issuer) { Ok(()) } else { Err("its iss is another issuer") }
}

/// `aud` has us in it, and where it has others too, or `azp` is there, `azp` is us.
pub(crate) fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), Failed> {
    let several = match claims.get("aud") {
        Some(Value::String(one)) if one == client_id => false,
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => {
            if !all.iter().any(|it| it == client_id) {
                return Err("its aud does not name our client");
            }
            all.len() > 1
        }
        Some(Value::String(_)) => return Err("its aud does not name our client"),
        _ => return Err("its aud is missing"),
    };
    match claims.get("azp") {
        None if several => Err("its aud names several clients, and its azp is missing"),
        None => Ok(()),
        Some(azp) if azp == client_id => Ok(()),
        Some(_) => Err("its azp is another client"),
    }
}

/// `sub`: 1 to 255 ASCII characters without control characters (OpenID Connect Core 1.0 §2).
pub(crate) fn subject(claims: &Map<String, Value>) -> Result<&str, Failed> {
    claims
        .get("sub")
        .and_then(Value::as_str)
        .filter(|it| (1..=255).contains(&it.len()))
        .filter(|it| it.bytes().all(|it| (b' '..=b'~').contains(&it)))
        .ok_or("its sub is missing or not 1 to 255 ASCII characters")
}

/// A claim in seconds since 1970, as an integer or, as some providers have it, with a fraction.
pub(crate) fn time(
    claims: &Map<String, Value>,
    name: &str,
) -> Result<Option<DateTime<Utc>>, Failed> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    #[expect(clippy::cast_possible_truncation, reason = "a cast from float saturates")]
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|it| it as i64));
    seconds
        .and_then(|it| DateTime::from_timestamp(it, 0))
        .map(Some)
        .ok_or("one of its times is not a time")
}

fn half_hash_fits(given: Option<&Value>, value: &Secret, alg: SigningAlg) -> bool {
    given.is_none_or(|given| *given == alg.half_hash(value.expose()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn check(change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), Failed> {
        let access_token = Secret::new("at");
        let nonce = Secret::new("n");
        let code = Secret::new("c");
        let expected = Expected {
            issuers: &["https://issuer.example".to_owned()],
            client_id: "client",
            now: DateTime::from_timestamp(NOW, 0).unwrap(),
            leeway: TimeDelta::seconds(60),
            nonce: Some(&nonce),
            subject: Some("alice"),
            access_token: &access_token,
            code: Some(&code),
        };
        let mut claims = json!({
            "iss": "https://issuer.example", "aud": "client", "sub": "alice", "nonce": "n",
            "iat": NOW, "exp": NOW + 300,
        })
        .as_object()
        .unwrap()
        .clone();
        change(&mut claims);
        expected.check(&claims, SigningAlg::Es256)
    }

    #[test]
    fn claims_that_do_not_fit_are_refused() {
        let at_hash = SigningAlg::Es256.half_hash("at");
        let cases: &[(&str, Value, bool)] = &[
            ("iss", json!("https://issuer.example"), true),
            ("iss", json!("https://issuer.example/"), false),
            ("iss", json!("https://ISSUER.example"), false),
            ("iss", json!(["https://issuer.example"]), false),
            ("iss", json!(null), false),
            ("aud", json!(["client"]), true),
            ("aud", json!("other"), false),
            ("aud", json!(["other"]), false),
            ("aud", json!(["client", "other"]), false),
            ("aud", json!(["client", 1]), false),
            ("aud", json!([]), false),
            ("aud", json!(null), false),
            ("azp", json!("client"), true),
            ("azp", json!("other"), false),
            ("azp", json!(null), false),
            ("sub", json!("bob"), false),
            ("sub", json!(""), false),
            ("sub", json!(1), false),
            ("sub", json!("a".repeat(256)), false),
            ("sub", json!("älice"), false),
            ("sub", json!("a\nb"), false),
            ("exp", json!(NOW), true),
            ("exp", json!(NOW - 59), true),
            ("exp", json!(NOW - 60), false),
            ("exp", json!(1e308), false),
            ("exp", json!("1800000000"), false),
            ("exp", json!(null), false),
            ("iat", json!(NOW + 60), true),
            ("iat", json!(1_700_000_000.5), true),
            ("iat", json!(NOW + 61), false),
            ("iat", json!(NOW - 86_000), true),
            ("iat", json!(NOW - 90_000), false),
            ("iat", json!(-1e300), false),
            ("nbf", json!(NOW + 60), true),
            ("nbf", json!(NOW + 61), false),
            ("nbf", json!("soon"), false),
            ("nonce", json!("m"), false),
            ("nonce", json!(null), false),
            ("at_hash", json!(at_hash), true),
            ("at_hash", json!("77QmUPtjPfzWtF2AnpK9RQ"), false),
            ("at_hash", json!(1), false),
            ("c_hash", json!(SigningAlg::Es256.half_hash("c")), true),
            ("c_hash", json!(SigningAlg::Es256.half_hash("other")), false),
        ];
        for (name, value, fits) in cases {
            let result = check(|it| {
                it.insert((*name).to_owned(), value.clone());
            });
            assert_eq!(result.is_ok(), *fits, "{name} = {value}: {result:?}");
        }
    }

    #[test]
    fn claims_that_must_be_there_are_missed() {
        assert_eq!(check(|_| {}), Ok(()));
        for name in ["iss", "aud", "sub", "exp", "iat", "nonce"] {
            assert!(check(|it| drop(it.remove(name))).is_err(), "{name}");
        }
    }

    #[test]
    fn several_audiences_are_accepted_with_us_as_the_authorized_party() {
        assert!(
            check(|it| {
                it.insert("aud".into(), json!(["other", "client"]));
                it.insert("azp".into(), json!("client"));
            })
            .is_ok()
        );
    }
}
