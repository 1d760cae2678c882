use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::RepositoryError;
use crate::{
    credentials::Credentials,
    identity::{Identity, IdentityStatus, Invalid, InvalidReason, text_form},
    ids::{IdentityId, ProviderId},
};

/// What the token path reads of an identity: few columns, one row, no lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCredentials {
    /// Whose credentials they are.
    pub identity_id: IdentityId,
    /// Where to refresh them.
    pub provider_id: ProviderId,
    /// Whether they may be used.
    pub status: IdentityStatus,
    /// Why not.
    pub invalid: Option<Invalid>,
    /// Counts the credentials of this identity, their removal included; 0 while it never had any.
    pub generation: i64,
    /// The opened credentials; `None` when there are none.
    pub credentials: Option<Credentials>,
    /// The last refresh of this generation failed, and it is too early for the next.
    pub back_off: Option<BackOff>,
}

/// A refresh failed, and the next must wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// When the next refresh may be tried, UTC.
    pub until: DateTime<Utc>,
    /// Who must act.
    pub class: FailureClass,
    /// How many refreshes of this generation have failed in a row; 1 or more.
    pub failures: u32,
    /// What happened, in words of ours; never anything that the provider sent but its registered
    /// error codes.
    pub detail: String,
}

/// Who must act after a refresh failed and the identity stayed valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// Nobody yet: it may pass.
    Unavailable,
    /// The operator: the provider rejects our client.
    Misconfigured,
}

text_form!(FailureClass: Unavailable = "unavailable", Misconfigured = "misconfigured");

/// The right to refresh one identity's credentials, from
/// [`take_lease`](CredentialsRepository::take_lease).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose credentials.
    pub identity_id: IdentityId,
    /// The generation that was read and is to be replaced.
    pub generation: i64,
    /// The fencing token: a later holder has a greater one, and then nothing that this holder
    /// writes is taken, but a [commit](CredentialsRepository::commit) while that one has sent
    /// nothing yet.
    pub attempt: i64,
    /// How often this generation's refresh token was sent and no answer is known: above 0 when a
    /// holder before this one crashed or got no answer. Its holder counts on with each sending
    /// that it recorded.
    pub unanswered: u32,
}

/// An identity as it was when its lease was taken. Of what is here its holder alone changes the
/// credentials, but for a link, which ends the lease's generation; the rest may change at any time.
#[derive(Clone, Debug, PartialEq)]
pub struct Leased {
    /// Whose credentials they are.
    pub identity: Identity,
    /// What is to be refreshed.
    pub stored: StoredCredentials,
}

/// What became of a request for the lease.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseOutcome {
    /// It is yours until its time runs out. With it comes what was there at that moment.
    Taken(Lease, Box<Leased>),
    /// Somebody else holds it.
    Held,
    /// The credentials are of another generation by now, the identity is invalid, or it is gone:
    /// read again. Also when somebody else holds the lease besides.
    Moved,
}

/// What became of a conditional write under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeasedWrite {
    /// Done, now or by an earlier try whose answer was lost.
    Done,
    /// A later attempt or newer credentials are there: nothing was changed.
    Superseded,
    /// The identity is gone: nothing was changed.
    Gone,
}

/// How a refresh ended that brought no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshEnd {
    /// It may be tried again later.
    Failed {
        /// When and why.
        back_off: BackOff,
        /// Whether the provider's answer (or the lack of any sending) shows that the last sending
        /// did not spend the refresh token: then `unanswered` becomes one less than the lease's,
        /// else what the lease says. An earlier sending whose answer was lost stays counted.
        answered: bool,
    },
    /// The user must link again.
    Invalid {
        /// Why.
        reason: InvalidReason,
        /// What happened, in words of ours or the provider's registered error code.
        detail: String,
    },
}

/// Keeps credentials, sealed, and decides who may refresh them.
///
/// Every condition is decided by the database in one statement, on its own clock.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait CredentialsRepository: Send + Sync {
    /// The credentials of an identity, or `None` when there is no such identity. Takes no lock
    /// and writes nothing.
    async fn find(&self, id: IdentityId) -> Result<Option<StoredCredentials>, RepositoryError>;

    /// Takes the lease of an identity where nobody holds it (or its time ran out), the generation
    /// is still `generation`, and the identity is not invalid. Raises the attempt number, which
    /// never falls again. `holder` names the replica, in the events of this refresh too. What is
    /// there is read in the same moment; where it cannot be opened, the lease is given back.
    ///
    /// No write under a lease asks whether its time ran out, only whether its attempt and
    /// generation are still the row's; but for [the one](Self::record_sending) that comes before a
    /// sending.
    async fn take_lease(
        &self,
        id: IdentityId,
        generation: i64,
        holder: &str,
        time: Duration,
    ) -> Result<LeaseOutcome, RepositoryError>;

    /// Writes down that the refresh token is about to be sent: `unanswered` becomes one more than
    /// the lease's. Safe to repeat: it is counted once until the holder counts on in its lease.
    ///
    /// [`Superseded`](LeasedWrite::Superseded) once the lease was released too, so that a write
    /// that its holder has given up on, and that the database does later, counts nothing. So it is
    /// when less than `time` of the lease is left: what could not be sent in time any more is not
    /// counted, or whoever comes next would doubt a sending that never was.
    async fn record_sending(
        &self,
        lease: &Lease,
        time: Duration,
    ) -> Result<LeasedWrite, RepositoryError>;

    /// Stores new credentials as the next generation, clears back-off and doubt, makes the
    /// identity valid, sets its `expires_at` and, where the credentials name some, its scopes,
    /// raises its version, releases the lease, and writes the event. They are stored as they are: the holder has
    /// [renewed](Credentials::renewed_by) what it read. Safe to repeat.
    ///
    /// A later holder that has recorded no sending yet gives way to an earlier one that brings
    /// what it sent for: it is [`Done`](LeasedWrite::Done) too where the generation is still the
    /// lease's and `unanswered`, above 0, still what the lease says. Also when the identity was
    /// made invalid meanwhile, as that was said in doubt of just this answer.
    async fn commit(
        &self,
        lease: &Lease,
        credentials: &Credentials,
    ) -> Result<LeasedWrite, RepositoryError>;

    /// Ends a refresh without new credentials: keeps the failure, releases the lease, and writes
    /// the event. The generation stays; the identity's version goes up when it becomes invalid,
    /// and stays otherwise. Safe to repeat.
    ///
    /// The detail of the event has `failure` ([`FailureClass`]) or `reason` ([`InvalidReason`]),
    /// and `detail`.
    async fn end(&self, lease: &Lease, end: &RefreshEnd) -> Result<LeasedWrite, RepositoryError>;

    /// Releases a lease. `unanswered` becomes what the lease says: a sending that was recorded and
    /// not counted on was never made. Safe to repeat.
    async fn release(&self, lease: &Lease) -> Result<LeasedWrite, RepositoryError>;

    /// Comes back when the credentials of this identity may have changed or its lease may have
    /// been released, and after `at_most` in any case. It may come back early without a change;
    /// at once when nobody holds the lease, as the change that the caller waits for is over then.
    async fn changed(&self, id: IdentityId, at_most: Duration);
}
