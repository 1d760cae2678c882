use std::time::Duration;

use async_trait::async_trait;

use super::RepositoryError;
use crate::{
    event::Actor,
    ids::{ExternalId, ProviderId, RevocationId, UserId},
    page::{Page, PageRequest},
    revocation::{GrantOwner, OrphanedGrant, QueuedRevocation},
};

/// A grant to be queued for revocation.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRevocation {
    /// What had the grant.
    pub owner: GrantOwner,
    /// Where to end it.
    pub provider_id: ProviderId,
    /// Whose it was.
    pub user_id: UserId,
    /// The account that it opens.
    pub external_id: ExternalId,
    /// What is to be ended; sealed by the store.
    pub grant: OrphanedGrant,
    /// Who took it away.
    pub actor: Actor,
}

/// The right to try one revocation, until the time that was claimed runs out.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedRevocation {
    /// What to do. Its `attempts` is the fencing token: whoever claims it later has a greater one,
    /// and then nothing that this holder writes is taken.
    pub queued: QueuedRevocation,
    /// The opened grant; `None` when it does not open.
    pub grant: Option<OrphanedGrant>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevocationEnd {
    /// The provider ended the grant: the receipt.
    Revoked,
    /// It is given up; the reason, in words of ours.
    Failed(String),
    /// It is to be tried again.
    Later {
        /// How long to wait.
        pause: Duration,
        /// Why this attempt failed, in words of ours.
        error: String,
    },
}

/// The queue of grants that are to be ended at their providers.
///
/// What takes a grant from its owner puts it here in its own transaction:
/// [`unlink`](super::IdentityRepository::unlink), [`link`](super::IdentityRepository::link) where
/// it rebinds or its device link is over, [`delete`](super::IdentityProviderRepository::delete), and what takes accounts for
/// single sign-on away: [`unlink`](super::AuthIdentityRepository::unlink),
/// [`delete_for`](super::AuthIdentityRepository::delete_for),
/// [`sign_in`](super::AuthIdentityRepository::sign_in) where it rebinds, and
/// [`delete`](super::AuthProviderRepository::delete). Each entry is told of with
/// `grant.revocation_queued`.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait RevocationRepository: Send + Sync {
    /// Queues a grant that came when its identity was gone already, and writes the event. It is
    /// due at once.
    async fn queue(&self, new: &NewRevocation) -> Result<QueuedRevocation, RepositoryError>;

    /// Claims up to `limit` of those that are due, the longest due first: for this time nobody
    /// else can claim them, and each one's `attempts` goes up by one.
    async fn claim_due(
        &self,
        limit: u16,
        time: Duration,
    ) -> Result<Vec<ClaimedRevocation>, RepositoryError>;

    /// Claims this one; `None` when it is not due, or has ended, or is not there.
    async fn claim(
        &self,
        id: RevocationId,
        time: Duration,
    ) -> Result<Option<ClaimedRevocation>, RepositoryError>;

    /// Writes down how a claimed attempt ended. An end for good writes the event, by the actor who
    /// took the grant away, and wipes the grant. False, and nothing changed, when somebody claimed
    /// it since or it has ended.
    async fn settle(
        &self,
        claimed: &QueuedRevocation,
        end: &RevocationEnd,
    ) -> Result<bool, RepositoryError>;

    /// Entries in ascending id order, those that ended too.
    async fn list(&self, page: PageRequest) -> Result<Page<QueuedRevocation>, RepositoryError>;
}
