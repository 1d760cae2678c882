use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::RepositoryError;
use crate::{
    ids::IdentityId,
    ledger::{HandOut, LedgerEntry, Tally, TokenMark},
    page::{Page, PageRequest},
    secret::Secret,
};

/// Which entries are meant: all conditions together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerFilter {
    /// Tokens of this identity.
    pub identity_id: Option<IdentityId>,
    /// This token.
    pub token: Option<TokenMark>,
}

/// Keeps who was handed which token.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait LedgerRepository: Send + Sync {
    /// What this installation's marks are salted with: made by the first call of all, sealed, and
    /// the same ever after, for every replica.
    async fn salt(&self) -> Result<Secret, RepositoryError>;

    /// Adds to the entries of these hand-outs, which are made where they are not there: their
    /// times add up, the later last time stays with its request, the earlier first time stays. All
    /// or none are kept.
    async fn record(&self, hand_outs: &[(HandOut, Tally)]) -> Result<(), RepositoryError>;

    /// Entries in ascending id order.
    async fn list_ledger(
        &self,
        filter: &LedgerFilter,
        page: PageRequest,
    ) -> Result<Page<LedgerEntry>, RepositoryError>;

    /// Forgets up to `most` entries whose last time was before this one: how many.
    async fn forget(&self, before: DateTime<Utc>, most: u16) -> Result<u64, RepositoryError>;
}
