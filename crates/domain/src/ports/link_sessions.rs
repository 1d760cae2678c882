use async_trait::async_trait;

use super::RepositoryError;
use crate::{
    ids::{LinkSessionId, ProviderId},
    link_session::{
        Attempt, AttemptProof, CompletionClaim, LinkFailure, LinkSession, NewLinkSession,
        PendingLink,
    },
    secret::SecretHash,
};

/// Keeps link sessions. "Live" means that the store's clock is before `expires_at`.
///
/// A session whose time ran out in any state that is not an end reads as
/// [`Expired`](crate::link_session::LinkSessionStatus::Expired) from every method. The ends are
/// `linked`, `signed_in`, `failed` and `expired`; `unlinked` is none, as it still waits for a user.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait LinkSessionRepository: Send + Sync {
    /// Adds a session.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Conflict`] when a session has this token already.
    async fn insert(&self, session: &NewLinkSession) -> Result<LinkSession, RepositoryError>;

    /// The session, or `None` when there is none by that id.
    async fn find(&self, id: LinkSessionId) -> Result<Option<LinkSession>, RepositoryError>;

    /// The session whose address holds this token.
    async fn find_by_token(
        &self,
        token: &SecretHash,
    ) -> Result<Option<LinkSession>, RepositoryError>;

    /// Begins a trip, in place of one begun before by the same browser.
    ///
    /// False, and nothing is changed, unless the session is live, `pending`, its trip not
    /// answered yet, and no other browser has begun one.
    async fn begin(&self, id: LinkSessionId, attempt: &Attempt) -> Result<bool, RepositoryError>;

    /// The session whose trip has this `state`, with the provider it went to and the browser it
    /// belongs to. Reading does not use it up; a trip that was used up is still found, until the
    /// session drops what it held.
    async fn find_by_state(
        &self,
        state: &SecretHash,
    ) -> Result<Option<(LinkSession, ProviderId, SecretHash)>, RepositoryError>;

    /// Uses up the trip with this `state`: of any number of callers, at any replica, one gets the
    /// proof. `None` for the others, for a session that is not live, and for another browser.
    async fn take_attempt(
        &self,
        state: &SecretHash,
        browser: &SecretHash,
    ) -> Result<Option<AttemptProof>, RepositoryError>;

    /// Keeps what the provider vouched for, sealed, until the product completes.
    ///
    /// False, and nothing is kept, unless the session is live, `pending`, and its trip used up.
    async fn await_completion(
        &self,
        claim: &CompletionClaim,
        link: &PendingLink,
    ) -> Result<bool, RepositoryError>;

    /// What waits for completion, for whoever has the code: of a live session that is
    /// `awaiting_completion` or `unlinked`. Reading does not use it up.
    async fn find_pending(
        &self,
        claim: &CompletionClaim,
    ) -> Result<Option<(LinkSession, PendingLink)>, RepositoryError>;

    /// Ends a session that has not ended, drops what it held (trip, code and account), and writes
    /// the event: by whoever created the session, with `error` and, if there is one,
    /// `organization_id` in its detail.
    ///
    /// False when it has ended already.
    async fn fail(&self, id: LinkSessionId, why: LinkFailure) -> Result<bool, RepositoryError>;

    /// Marks what has run out as expired and drops what it held; answers how many. No event.
    async fn expire(&self) -> Result<u64, RepositoryError>;
}
