use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use super::RepositoryError;
use crate::{
    event::{Actor, NewEvent},
    ids::{ExternalId, ProviderId},
    secret::SecretHash,
};

/// A provider's word that it ended a session of an account, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderLogout {
    /// Whose word.
    pub provider_id: ProviderId,
    /// Which account; `None` where the provider names the session alone: then every account is
    /// meant that is remembered with it.
    pub external_id: Option<ExternalId>,
    /// Which session, where the provider named it.
    pub session_id: Option<String>,
    /// Recognizes the token that says so.
    pub token: SecretHash,
    /// When the token can be forgotten, because it is refused for its age by then, UTC.
    pub forget_at: DateTime<Utc>,
    /// How soon credentials are to be refreshed that may have ended with the session.
    pub refresh_within: Duration,
    /// Who took the word.
    pub actor: Actor,
}

/// The scope of what outlives a session
/// ([OpenID Connect Core 1.0 §11](https://openid.net/specs/openid-connect-core-1_0.html#OfflineAccess)).
const OFFLINE_ACCESS: &str = "offline_access";

/// What stores that keep the word share.
impl ProviderLogout {
    /// The event of one link, with the session that ended where it is known.
    #[must_use]
    pub fn told(&self, mut event: NewEvent) -> NewEvent {
        if let Some(session) = &self.session_id {
            event.detail.insert("session_id".to_owned(), session.as_str().into());
        }
        event
    }

    /// When credentials with these scopes are to be refreshed, which may have ended with the
    /// session; `None` where they outlive it.
    #[must_use]
    pub fn refresh_at(&self, scopes: &[String], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if scopes.iter().any(|it| it == OFFLINE_ACCESS) {
            return None;
        }
        let within = TimeDelta::from_std(self.refresh_within).ok()?;
        now.checked_add_signed(within)
    }
}

/// How long it is remembered whose account a session at a provider is, from when it was last heard
/// of: a link or a sign-in that began with it.
pub const PROVIDER_SESSION_KEPT: TimeDelta = TimeDelta::days(30);

/// What became of a provider's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutOutcome {
    /// It was taken: so many links were told of it, which may be none.
    Told(u64),
    /// The token was taken before. Nothing was changed.
    Replayed,
}

/// Takes providers' word that they ended sessions.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait LogoutRepository: Send + Sync {
    /// Remembers the token, and writes the event of each link of the account at that provider
    /// instance: `identity.logged_out` for the identity, `auth_identity.logged_out` for its place
    /// in each organization's single sign-on with the instance. Each detail has the `session_id`
    /// where the provider named one. No version goes up: the links are as they were.
    ///
    /// Where the session alone is named, they are the links of each account that was linked or
    /// signed in with it at that instance ([`link`](super::IdentityRepository::link),
    /// [`sign_in`](super::AuthIdentityRepository::sign_in)) within [`PROVIDER_SESSION_KEPT`]. A
    /// session that ended is not remembered any more.
    ///
    /// Whoever takes one token at the same time, one is [told](LogoutOutcome::Told), and the others
    /// are [`Replayed`](LogoutOutcome::Replayed), until the token is
    /// [forgotten](Self::forget_tokens). Tokens of two instances are never the same.
    ///
    /// What the identity's credentials hold may have ended with the session, unless it was granted
    /// `offline_access`: if there is something to refresh them with, they are due within
    /// `refresh_within`, also where no refresh was planned; but not what is due before that, or backs
    /// off. Credentials that came just now are left to
    /// [`plan_missing`](super::RefreshSchedule::plan_missing).
    async fn log_out(&self, logout: &ProviderLogout) -> Result<LogoutOutcome, RepositoryError>;

    /// Forgets the tokens whose time to be forgotten has come; answers how many.
    async fn forget_tokens(&self) -> Result<u64, RepositoryError>;

    /// Forgets the sessions that were not heard of for [`PROVIDER_SESSION_KEPT`]; answers how many.
    async fn forget_sessions(&self) -> Result<u64, RepositoryError>;
}
