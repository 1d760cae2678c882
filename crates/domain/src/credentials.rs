//! What a provider gave us for an account.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The credentials of one identity, as the provider last gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// What calls the provider's APIs.
    pub access_token: Option<Secret>,
    /// What gets the next access token; absent where the provider gave none.
    pub refresh_token: Option<Secret>,
    /// The last ID token, kept for providers that want it back as a hint.
    pub id_token: Option<Secret>,
    /// How the access token is presented, `Bearer` nearly always; as the provider wrote it.
    pub token_type: Option<String>,
    /// When the access token stops working, UTC; `None` when the provider did not say.
    pub expires_at: Option<DateTime<Utc>>,
    /// When these credentials were received, UTC.
    pub obtained_at: Option<DateTime<Utc>>,
    /// When the refresh token stops working unless it is used before, UTC; `None` when unknown.
    /// Not a part of the [sealed form](Self::to_plain): stores keep it beside it.
    pub refresh_expires_at: Option<DateTime<Utc>>,
    /// When the grant ends however often its refresh tokens are used, UTC; `None` when that is
    /// unknown or never. `refresh_expires_at` is never later.
    pub refresh_ends_at: Option<DateTime<Utc>>,
    /// What the provider granted.
    pub scopes: Vec<String>,
    /// Further secret values that came with the account, by name: from an import, for example
    /// the customer's own `client_secret`.
    pub others: BTreeMap<String, Secret>,
    /// The private key that the access token is bound to
    /// ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)), as the connector made it; `None` where
    /// the token is its bearer's.
    pub dpop_key: Option<Secret>,
    /// The one that the refresh token is bound to, where that is of an earlier grant than the access
    /// token and so has another key.
    pub refresh_dpop_key: Option<Secret>,
}

/// How a token that is bound to a key is presented
/// ([RFC 9449 §7.1](https://www.rfc-editor.org/rfc/rfc9449#section-7.1)).
pub const DPOP: &str = "DPoP";

/// Where the sealed form has the keys and the end of the grant: among the further secrets, so that
/// a version that knows of neither opens it and keeps them.
const DPOP_KEY: &str = "symbolon:dpop_key";
const REFRESH_DPOP_KEY: &str = "symbolon:refresh_dpop_key";
const REFRESH_ENDS_AT: &str = "symbolon:refresh_ends_at";

impl Credentials {
    /// The credentials after a refresh or a new link of the same account.
    ///
    /// `answer` is what the provider sent now, `self` what was there before. A refresh token or an
    /// ID token that was not sent again stays
    /// ([RFC 6749 §6](https://www.rfc-editor.org/rfc/rfc6749#section-6)); so do the scopes when
    /// the answer names none, and the access token with its times when it brings no other. An
    /// expiry goes with its token: an old one says nothing about a new token. The end of the grant
    /// stays, whatever its tokens are, until another one is known. The key that a token is bound to
    /// goes with it: none of them is presented with another's.
    #[must_use]
    pub fn renewed_by(self, answer: Self) -> Self {
        let key_of_refresh_token = self.key_of_refresh_token().cloned();
        // What was said of a token says nothing of the next where one of them is to be bound.
        let is_bound = self.dpop_key.is_some() || answer.dpop_key.is_some();
        let kept_type =
            if answer.access_token.is_some() && is_bound { None } else { self.token_type };
        let (access_token, expires_at, obtained_at, dpop_key) = if answer.access_token.is_some() {
            (answer.access_token, answer.expires_at, answer.obtained_at, answer.dpop_key)
        } else {
            let obtained_at = self.obtained_at.or(answer.obtained_at);
            (self.access_token, self.expires_at, obtained_at, self.dpop_key)
        };
        let is_same = answer.refresh_token.is_none() || answer.refresh_token == self.refresh_token;
        let kept = self.refresh_expires_at.filter(|_| is_same);
        let refresh_expires_at = answer.refresh_expires_at.or(kept);
        let refresh_ends_at = answer.refresh_ends_at.or(self.refresh_ends_at);
        let refresh_dpop_key = match &answer.refresh_token {
            Some(_) => answer.refresh_dpop_key,
            None => key_of_refresh_token.filter(|it| Some(it) != dpop_key.as_ref()),
        };
        Self {
            dpop_key,
            refresh_dpop_key,
            refresh_expires_at: refresh_expires_at
                .map(|it| refresh_ends_at.map_or(it, |end| it.min(end))),
            refresh_ends_at,
            refresh_token: answer.refresh_token.or(self.refresh_token),
            id_token: answer.id_token.or(self.id_token),
            token_type: answer.token_type.or(kept_type),
            scopes: if answer.scopes.is_empty() { self.scopes } else { answer.scopes },
            others: if answer.others.is_empty() { self.others } else { answer.others },
            access_token,
            expires_at,
            obtained_at,
        }
    }

    /// The key that the refresh token is bound to; `None` where there is no refresh token, or it is
    /// not known to be bound.
    #[must_use]
    pub fn key_of_refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref()?;
        self.refresh_dpop_key.as_ref().or(self.dpop_key.as_ref())
    }

    /// Whether the access token is anybody's who has it, although it is to be bound to a key: the
    /// provider has stopped binding.
    #[must_use]
    pub fn has_lost_its_key(&self) -> bool {
        let token_type = self.token_type.as_deref().unwrap_or_default();
        self.dpop_key.is_some() && !token_type.eq_ignore_ascii_case(DPOP)
    }

    /// What is left of credentials that the provider refuses: what was granted, and nothing to
    /// send.
    #[must_use]
    pub fn without_tokens(self) -> Self {
        Self { scopes: self.scopes, ..Self::default() }
    }

    /// How long the access token was good for when it was received; `None` when unknown.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        Some(self.expires_at? - self.obtained_at?)
    }

    /// Whether the access token still works at `now`. One with no known expiry does.
    #[must_use]
    pub fn is_alive(&self, now: DateTime<Utc>) -> bool {
        self.access_token.is_some() && self.expires_at.is_none_or(|end| now < end)
    }

    /// The form that is sealed: JSON with a version, the same in every store.
    ///
    /// # Panics
    ///
    /// Never: plain texts and times always serialize.
    #[must_use]
    pub fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        let form = PlainCredentials::from(self);
        Zeroizing::new(serde_json::to_vec(&form).expect("texts and times serialize"))
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote.
    ///
    /// # Errors
    ///
    /// [`UnreadableCredentials`] for anything else, a later version included.
    pub fn from_plain(plain: &[u8]) -> Result<Self, UnreadableCredentials> {
        let form: PlainCredentials =
            serde_json::from_slice(plain).map_err(|_| UnreadableCredentials)?;
        form.try_into()
    }
}

/// An opened value did not hold credentials in a form that this version knows.
///
/// It carries no source: a parser's message could quote what it read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the opened value does not hold credentials of a known form")]
pub struct UnreadableCredentials;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlainCredentials {
    v: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access_token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    obtained_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    others: BTreeMap<String, Zeroizing<String>>,
}

impl From<&Credentials> for PlainCredentials {
    fn from(it: &Credentials) -> Self {
        let expose = |secret: &Option<Secret>| {
            secret.as_ref().map(|it| Zeroizing::new(it.expose().to_owned()))
        };
        Self {
            v: 1,
            access_token: expose(&it.access_token),
            refresh_token: expose(&it.refresh_token),
            id_token: expose(&it.id_token),
            token_type: it.token_type.clone(),
            expires_at: it.expires_at,
            obtained_at: it.obtained_at,
            scopes: it.scopes.clone(),
            others: it
                .others
                .iter()
                .map(|(name, secret)| (name.as_str(), secret))
                .chain(it.dpop_key.as_ref().map(|key| (DPOP_KEY, key)))
                .chain(it.refresh_dpop_key.as_ref().map(|key| (REFRESH_DPOP_KEY, key)))
                .map(|(name, secret)| (name.to_owned(), Zeroizing::new(secret.expose().to_owned())))
                .chain(
                    it.refresh_ends_at
                        .map(|end| (REFRESH_ENDS_AT.to_owned(), Zeroizing::new(end.to_rfc3339()))),
                )
                .collect(),
        }
    }
}

impl TryFrom<PlainCredentials> for Credentials {
    type Error = UnreadableCredentials;

    fn try_from(form: PlainCredentials) -> Result<Self, UnreadableCredentials> {
        if form.v != 1 {
            return Err(UnreadableCredentials);
        }
        let wrap = |text: Option<Zeroizing<String>>| text.map(|it| Secret::new(it.as_str()));
        let mut others = form.others;
        let dpop_key = wrap(others.remove(DPOP_KEY));
        let refresh_dpop_key = wrap(others.remove(REFRESH_DPOP_KEY));
        let refresh_ends_at = others.remove(REFRESH_ENDS_AT);
        let refresh_ends_at = refresh_ends_at
            .map(|it| DateTime::parse_from_rfc3339(&it).map(|it| it.to_utc()))
            .transpose()
            .map_err(|_| UnreadableCredentials)?;
        Ok(Self {
            dpop_key,
            refresh_dpop_key,
            access_token: wrap(form.access_token),
            refresh_token: wrap(form.refresh_token),
            id_token: wrap(form.id_token),
            token_type: form.token_type,
            expires_at: form.expires_at,
            obtained_at: form.obtained_at,
            refresh_expires_at: None,
            refresh_ends_at,
            scopes: form.scopes,
            others: others
                .into_iter()
                .map(|(name, value)| (name, Secret::new(value.as_str())))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_survive_their_sealed_form_and_foreign_forms_are_refused() {
        let credentials = Credentials {
            access_token: Some(Secret::new("a")),
            refresh_token: Some(Secret::new("r")),
            expires_at: DateTime::from_timestamp(1_800_000_000, 0),
            refresh_ends_at: DateTime::from_timestamp_micros(1_900_000_000_123_456),
            scopes: vec!["openid".into()],
            others: [("client_secret".to_owned(), Secret::new("c"))].into(),
            dpop_key: Some(Secret::new("k")),
            refresh_dpop_key: Some(Secret::new("j")),
            ..Credentials::default()
        };
        assert_eq!(Credentials::from_plain(&credentials.to_plain()), Ok(credentials));
        let no_time = r#"{"v":1,"others":{"symbolon:refresh_ends_at":"never"}}"#;
        for foreign in ["", "{}", r#"{"v":2}"#, r#"{"v":1,"x":1}"#, "access_token", no_time] {
            assert_eq!(Credentials::from_plain(foreign.as_bytes()), Err(UnreadableCredentials));
        }
    }

    #[test]
    fn a_version_that_knows_of_no_keys_opens_what_has_one_and_seals_it_with_it() {
        /// The form before there were keys, which refuses what it does not know.
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Earlier {
            v: u8,
            access_token: String,
            refresh_token: String,
            #[serde(default)]
            others: BTreeMap<String, String>,
        }
        let bound = Credentials {
            access_token: Some(Secret::new("a1")),
            refresh_token: Some(Secret::new("r1")),
            dpop_key: Some(Secret::new("k")),
            ..Credentials::default()
        };
        let mut earlier: Earlier = serde_json::from_slice(&bound.to_plain()).unwrap();
        earlier.access_token = "a2".into();
        let renewed = Credentials::from_plain(&serde_json::to_vec(&earlier).unwrap()).unwrap();
        assert_eq!(renewed, Credentials { access_token: Some(Secret::new("a2")), ..bound });
        let before = Credentials::from_plain(br#"{"v":1,"access_token":"a"}"#).unwrap();
        assert_eq!(before.dpop_key, None);
    }

    #[test]
    fn a_key_goes_with_the_token_that_is_bound_to_it() {
        let key = |name: &str| Some(Secret::new(name));
        let tokens =
            |access: Option<&str>, refresh: Option<&str>, dpop: Option<&str>| Credentials {
                access_token: access.map(Secret::new),
                refresh_token: refresh.map(Secret::new),
                dpop_key: dpop.map(Secret::new),
                ..Credentials::default()
            };
        let linked = tokens(Some("a1"), Some("r1"), Some("k1"));
        // A refresh, whether or not it brings another refresh token, is proven with the same key.
        for refresh in [Some("r2"), None] {
            let renewed = linked.clone().renewed_by(tokens(Some("a2"), refresh, Some("k1")));
            assert_eq!(renewed.dpop_key, key("k1"));
            assert_eq!(renewed.refresh_dpop_key, None);
            assert_eq!(renewed.key_of_refresh_token(), key("k1").as_ref());
        }
        // A new link has a key of its own; a refresh token of the old one keeps the old one's.
        let relinked = linked.clone().renewed_by(tokens(Some("a3"), None, Some("k2")));
        assert_eq!(relinked.dpop_key, key("k2"));
        assert_eq!(relinked.key_of_refresh_token(), key("k1").as_ref());
        // With that, the next refresh brings both together again.
        let refreshed = relinked.clone().renewed_by(tokens(Some("a4"), None, Some("k1")));
        assert_eq!((&refreshed.dpop_key, &refreshed.refresh_dpop_key), (&key("k1"), &None));
        let relinked = relinked.renewed_by(tokens(Some("a5"), Some("r5"), Some("k3")));
        assert_eq!((&relinked.dpop_key, &relinked.refresh_dpop_key), (&key("k3"), &None));
        // A token that is bound to nothing is not taken for bound.
        let vouched = linked.clone().renewed_by(tokens(Some("a6"), None, None));
        assert_eq!(
            (&vouched.dpop_key, vouched.key_of_refresh_token()),
            (&None, key("k1").as_ref())
        );
        assert_eq!(linked.without_tokens().dpop_key, None);
    }

    #[test]
    fn a_token_of_which_nobody_says_that_it_is_bound_is_not_taken_for_it() {
        let bound = Credentials {
            access_token: Some(Secret::new("a1")),
            token_type: Some(DPOP.to_owned()),
            dpop_key: Some(Secret::new("k")),
            ..Credentials::default()
        };
        assert!(!bound.has_lost_its_key());
        let silent = Credentials {
            access_token: Some(Secret::new("a2")),
            dpop_key: Some(Secret::new("k")),
            ..Credentials::default()
        };
        assert!(bound.clone().renewed_by(silent.clone()).has_lost_its_key());
        let vouched = Credentials { dpop_key: None, ..silent };
        assert_eq!(bound.clone().renewed_by(vouched.clone()).token_type, None);
        // A refresh that brings no access token leaves the old one as it is.
        let nothing = Credentials { access_token: None, ..vouched.clone() };
        assert_eq!(bound.clone().renewed_by(nothing), bound);
        // Of bearers' tokens it is said once.
        let bearer = Credentials { token_type: Some("bearer".to_owned()), ..vouched.clone() };
        assert_eq!(bearer.renewed_by(vouched).token_type.as_deref(), Some("bearer"));
    }

    #[test]
    fn a_renewal_keeps_the_refresh_token_that_was_not_sent_again_and_never_an_old_expiry() {
        let old = Credentials {
            access_token: Some(Secret::new("a1")),
            refresh_token: Some(Secret::new("r1")),
            expires_at: DateTime::from_timestamp(1, 0),
            scopes: vec!["x".into()],
            ..Credentials::default()
        };
        let answer =
            Credentials { access_token: Some(Secret::new("a2")), ..Credentials::default() };
        let renewed = old.renewed_by(answer);
        assert_eq!(renewed.access_token, Some(Secret::new("a2")));
        assert_eq!(renewed.refresh_token, Some(Secret::new("r1")));
        assert_eq!(renewed.expires_at, None);
        assert_eq!(renewed.scopes, ["x"]);
    }

    #[test]
    fn the_end_of_a_refresh_token_goes_with_it() {
        let at = |second| DateTime::from_timestamp(second, 0);
        let old = Credentials {
            refresh_token: Some(Secret::new("r1")),
            refresh_expires_at: at(1),
            ..Credentials::default()
        };
        let rotated =
            Credentials { refresh_token: Some(Secret::new("r2")), ..Credentials::default() };
        let used_again = Credentials { refresh_expires_at: at(2), ..Credentials::default() };
        let sent_again =
            Credentials { refresh_token: old.refresh_token.clone(), ..Credentials::default() };
        for (answer, expected) in [
            (Credentials::default(), at(1)),
            (rotated, None),
            (used_again, at(2)),
            (sent_again, at(1)),
        ] {
            assert_eq!(old.clone().renewed_by(answer).refresh_expires_at, expected);
        }
    }

    #[test]
    fn the_end_of_a_grant_stays_whatever_its_refresh_tokens_are() {
        let at = |second| DateTime::from_timestamp(second, 0);
        let linked = Credentials {
            refresh_token: Some(Secret::new("r1")),
            refresh_expires_at: at(100),
            refresh_ends_at: at(250),
            ..Credentials::default()
        };
        let used = |name: &str, lapses| Credentials {
            refresh_token: Some(Secret::new(name)),
            refresh_expires_at: at(lapses),
            ..Credentials::default()
        };
        let ends = |it: &Credentials| (it.refresh_expires_at, it.refresh_ends_at);
        let first = linked.renewed_by(used("r2", 200));
        assert_eq!(ends(&first), (at(200), at(250)));
        // None lives beyond it, however lately it was used.
        let second = first.renewed_by(used("r3", 300));
        assert_eq!(ends(&second), (at(250), at(250)));
        let again = Credentials { refresh_ends_at: at(500), ..used("r4", 400) };
        assert_eq!(ends(&second.renewed_by(again)), (at(400), at(500)), "the user linked again");
    }

    #[test]
    fn a_renewal_without_an_access_token_keeps_the_old_one_with_its_times() {
        let old = Credentials {
            access_token: Some(Secret::new("a1")),
            expires_at: DateTime::from_timestamp(60, 0),
            obtained_at: DateTime::from_timestamp(1, 0),
            ..Credentials::default()
        };
        let answer = Credentials {
            refresh_token: Some(Secret::new("r2")),
            obtained_at: DateTime::from_timestamp(30, 0),
            ..Credentials::default()
        };
        let expected = Credentials { refresh_token: answer.refresh_token.clone(), ..old.clone() };
        assert_eq!(old.renewed_by(answer), expected);
    }
}
