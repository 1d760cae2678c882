//! What the claims of a logout token must say
//! ([OpenID Connect Back-Channel Logout 1.0 §2.6](https://openid.net/specs/openid-connect-backchannel-1_0.html#Validation)).

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use crate::id_token::{self, Failed};

/// The types that a logout token may have besides none and plain JWT.
pub(crate) const TYPES: [&str; 2] = ["logout+jwt", "application/logout+jwt"];

/// The member of `events` that makes it one.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Longest `jti` and `sid`, in bytes.
const LONGEST: usize = 1024;

/// What a logout token must fit.
pub(crate) struct Expected<'a> {
    /// One of these is its `iss`, character by character.
    pub(crate) issuers: &'a [String],
    /// For whom it must be.
    pub(crate) client_id: &'a str,
    /// The time, UTC.
    pub(crate) now: DateTime<Utc>,
    /// How far clocks may differ.
    pub(crate) leeway: TimeDelta,
}

/// What it says, but for whom it is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// `jti`.
    pub(crate) token_id: String,
    /// `sid`.
    pub(crate) session_id: Option<String>,
    /// From when on it is too old.
    pub(crate) refused_from: DateTime<Utc>,
}

impl Expected<'_> {
    /// Checks the claims of a token whose signature was verified.
    pub(crate) fn check(&self, claims: &Map<String, Value>) -> Result<Said, Failed> {
        id_token::check_issuer(claims, self.issuers)?;
        id_token::check_audience(claims, self.client_id)?;
        let refused_from = id_token::check_times(claims, self.now, self.leeway)?;
        // So that no ID token passes for one.
        if claims.contains_key("nonce") {
            return Err("it has a nonce, which a logout token must not");
        }
        let event = claims.get("events").and_then(|it| it.get(EVENT));
        if !event.is_some_and(Value::is_object) {
            return Err("its events do not have that of a logout");
        }
        let token_id = text(claims, "jti").ok_or("its jti is missing or no text")?;
        let session_id = match claims.get("sid") {
            None => None,
            Some(_) => Some(text(claims, "sid").ok_or("its sid is no text")?),
        };
        if claims.contains_key("sub") {
            id_token::subject(claims)?;
        } else if session_id.is_none() {
            return Err("it has neither sub nor sid");
        }
        Ok(Said { token_id, session_id, refused_from })
    }
}

/// A name: not empty, not endless, and without control characters.
fn text(claims: &Map<String, Value>, name: &str) -> Option<String> {
    let text = claims.get(name)?.as_str()?;
    let fits = (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn check(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Said, Failed> {
        let expected = Expected {
            issuers: &["https://issuer.example".to_owned()],
            client_id: "client",
            now: at(NOW),
            leeway: TimeDelta::seconds(60),
        };
        let mut claims = json!({
            "iss": "https://issuer.example", "aud": "client", "sub": "alice", "sid": "session",
            "jti": "token", "iat": NOW, "exp": NOW + 120, "events": { EVENT: {} },
        })
        .as_object()
        .unwrap()
        .clone();
        change(&mut claims);
        expected.check(&claims)
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn claims_that_do_not_fit_are_refused() {
        let long = "a".repeat(LONGEST + 1);
        let cases: &[(&str, Value, bool)] = &[
            ("iss", json!("https://issuer.example/"), false),
            ("aud", json!(["client"]), true),
            ("aud", json!("other"), false),
            ("aud", json!(["other", "client"]), false),
            ("azp", json!("other"), false),
            ("exp", json!(NOW - 59), true),
            ("exp", json!(NOW - 60), false),
            ("exp", json!("soon"), false),
            ("iat", json!(NOW + 60), true),
            ("iat", json!(NOW + 61), false),
            ("iat", json!(NOW - 90_000), false),
            ("nbf", json!(NOW + 61), false),
            ("nonce", json!("n"), false),
            ("nonce", json!(null), false),
            ("events", json!({ EVENT: {"more": 1}, "another": {} }), true),
            ("events", json!({ EVENT: null }), false),
            ("events", json!({ EVENT: true }), false),
            ("events", json!({ EVENT: [] }), false),
            ("events", json!({"http://schemas.openid.net/event/backchannel-logout/": {}}), false),
            ("events", json!([EVENT]), false),
            ("events", json!(EVENT), false),
            ("jti", json!(1), false),
            ("jti", json!(""), false),
            ("jti", json!("a\nb"), false),
            ("jti", json!(long), false),
            ("sid", json!(1), false),
            ("sid", json!(null), false),
            ("sid", json!(""), false),
            ("sid", json!(long), false),
            ("sub", json!(1), false),
            ("sub", json!(null), false),
            ("sub", json!(""), false),
            ("sub", json!("a".repeat(256)), false),
        ];
        for (name, value, fits) in cases {
            let result = check(|it| drop(it.insert((*name).to_owned(), value.clone())));
            assert_eq!(result.is_ok(), *fits, "{name} = {value}: {result:?}");
        }
    }

    #[test]
    fn claims_that_must_be_there_are_missed() {
        assert!(check(|_| {}).is_ok());
        for name in ["iss", "aud", "iat", "exp", "jti", "events"] {
            assert!(check(|it| drop(it.remove(name))).is_err(), "{name}");
        }
        // One of the two is enough.
        for name in ["sub", "sid"] {
            assert!(check(|it| drop(it.remove(name))).is_ok(), "{name}");
        }
        let none = check(|it| {
            it.remove("sub");
            it.remove("sid");
        });
        assert!(none.is_err());
    }

    #[test]
    fn it_is_refused_from_its_end_on_or_when_it_is_a_day_old() {
        let until = |exp: i64| check(|it| drop(it.insert("exp".into(), json!(exp)))).unwrap();
        assert_eq!(until(NOW + 120).refused_from, at(NOW + 180));
        assert_eq!(until(NOW + 10_000_000_000).refused_from, at(NOW + 86_400 + 60));
    }
}
