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
    /// What the provider granted.
    pub scopes: Vec<String>,
    /// Further secret values that came with the account, by name: from an import, for example
    /// the customer's own `client_secret`.
    pub others: BTreeMap<String, Secret>,
}

impl Credentials {
    /// The credentials after a refresh or a new link of the same account.
    ///
    /// `answer` is what the provider sent now, `self` what was there before. A refresh token or an
    /// ID token that was not sent again stays
    /// ([RFC 6749 §6](https://www.rfc-editor.org/rfc/rfc6749#section-6)); so do the scopes when
    /// the answer names none, and the access token with its times when it brings no other. An
    /// expiry goes with its token: an old one says nothing about a new token.
    #[must_use]
    pub fn renewed_by(self, answer: Self) -> Self {
        let (access_token, expires_at, obtained_at) = if answer.access_token.is_some() {
            (answer.access_token, answer.expires_at, answer.obtained_at)
        } else {
            (self.access_token, self.expires_at, self.obtained_at.or(answer.obtained_at))
        };
        let kept = if answer.refresh_token.is_none() { self.refresh_expires_at } else { None };
        Self {
            refresh_expires_at: answer.refresh_expires_at.or(kept),
            refresh_token: answer.refresh_token.or(self.refresh_token),
            id_token: answer.id_token.or(self.id_token),
            token_type: answer.token_type.or(self.token_type),
            scopes: if answer.scopes.is_empty() { self.scopes } else { answer.scopes },
            others: if answer.others.is_empty() { self.others } else { answer.others },
            access_token,
            expires_at,
            obtained_at,
        }
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
                .map(|(name, secret)| (name.clone(), Zeroizing::new(secret.expose().to_owned())))
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
        Ok(Self {
            access_token: wrap(form.access_token),
            refresh_token: wrap(form.refresh_token),
            id_token: wrap(form.id_token),
            token_type: form.token_type,
            expires_at: form.expires_at,
            obtained_at: form.obtained_at,
            refresh_expires_at: None,
            scopes: form.scopes,
            others: form
                .others
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
            scopes: vec!["openid".into()],
            others: [("client_secret".to_owned(), Secret::new("c"))].into(),
            ..Credentials::default()
        };
        assert_eq!(Credentials::from_plain(&credentials.to_plain()), Ok(credentials));
        for foreign in ["", "{}", r#"{"v":2}"#, r#"{"v":1,"x":1}"#, "access_token"] {
            assert_eq!(Credentials::from_plain(foreign.as_bytes()), Err(UnreadableCredentials));
        }
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
        for (answer, expected) in
            [(Credentials::default(), at(1)), (rotated, None), (used_again, at(2))]
        {
            assert_eq!(old.clone().renewed_by(answer).refresh_expires_at, expected);
        }
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
