use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{FailureClass, RepositoryError};
use crate::{
    identity::text_form,
    ids::{IdentityId, ProviderId, UserId},
};

/// Why an identity will have no token that works unless somebody acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeathReason {
    /// The access token ends and there is nothing to refresh it with: the user must link again.
    NoRefreshToken,
    /// The refresh token ends unless it is used before.
    RefreshTokenLapses,
    /// The access token ends, and the last refresh failed for a reason that may pass.
    ProviderUnavailable,
    /// The access token ends, and the provider rejects our client: the operator must act.
    ProviderMisconfigured,
    /// The access token ends, and the refresh token was sent with no answer: the one careful retry
    /// will tell.
    RotationInDoubt,
}

text_form!(DeathReason:
    NoRefreshToken = "no_refresh_token",
    RefreshTokenLapses = "refresh_token_lapses",
    ProviderUnavailable = "provider_unavailable",
    ProviderMisconfigured = "provider_misconfigured",
    RotationInDoubt = "rotation_in_doubt",
);

impl DeathReason {
    /// What the state of an identity says: whether there is anything to refresh with, how the
    /// last refresh failed if it did, and how many sendings have no answer.
    #[must_use]
    pub fn of(refreshable: bool, failure: Option<FailureClass>, unanswered: u32) -> Self {
        match failure {
            _ if !refreshable => Self::NoRefreshToken,
            Some(_) if unanswered > 0 => Self::RotationInDoubt,
            Some(FailureClass::Misconfigured) => Self::ProviderMisconfigured,
            Some(FailureClass::Unavailable) => Self::ProviderUnavailable,
            None => Self::RefreshTokenLapses,
        }
    }
}

/// An identity that will have no token that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Which.
    pub identity_id: IdentityId,
    /// Whose.
    pub user_id: UserId,
    /// Where.
    pub provider_id: ProviderId,
    /// When, UTC; may be past.
    pub dies_at: DateTime<Utc>,
    /// Why.
    pub reason: DeathReason,
}

/// How many identities of one provider instance die within a time for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeathCount {
    /// Where.
    pub provider_id: ProviderId,
    /// Why.
    pub reason: DeathReason,
    /// How many.
    pub count: u64,
}

/// A place in the list of deaths: after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeathCursor {
    /// When it dies.
    pub dies_at: DateTime<Utc>,
    /// Which, of those that die at the same time.
    pub identity_id: IdentityId,
}

/// A part of the list of deaths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathPage {
    /// The next to die first.
    pub items: Vec<Death>,
    /// What to ask for `after` to go on; `None` at the end.
    pub next: Option<DeathCursor>,
}

impl DeathPage {
    /// A page from up to `limit + 1` items in their order: the extra one only tells that there is
    /// more.
    #[must_use]
    pub fn cut(mut items: Vec<Death>, limit: u16) -> Self {
        let more = items.len() > usize::from(limit);
        items.truncate(usize::from(limit));
        let last = items.last().filter(|_| more);
        let next = last.map(|it| DeathCursor { dies_at: it.dies_at, identity_id: it.identity_id });
        Self { items, next }
    }
}

/// Which identities die when: those that are not invalid yet, and will have no token that works
/// as far as the store knows.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Forecast: Send + Sync {
    /// How many die after `from` (`None`: have died already, too) and up to `to`, by provider
    /// instance and reason, in that order.
    async fn count_deaths(
        &self,
        provider: Option<ProviderId>,
        from: Option<DateTime<Utc>>,
        to: DateTime<Utc>,
    ) -> Result<Vec<DeathCount>, RepositoryError>;

    /// Those that die up to `to`, the next to die first.
    async fn list_deaths(
        &self,
        provider: Option<ProviderId>,
        to: DateTime<Utc>,
        after: Option<DeathCursor>,
        limit: u16,
    ) -> Result<DeathPage, RepositoryError>;
}
