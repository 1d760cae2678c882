use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, json};

use super::{MemoryStore, Rows, to_microseconds};
use crate::{
    event::{EventKind, NewEvent},
    ids::{IdentityId, LinkSessionId, ProviderId},
    link_session::{
        Attempt, AttemptProof, CompletionClaim, LinkFailure, LinkSession, LinkSessionStatus,
        NewLinkSession, PendingLink,
    },
    ports::{LinkOutcome, LinkSessionRepository, RepositoryError},
    secret::SecretHash,
};

pub(super) struct SessionRow {
    pub(super) session: LinkSession,
    token: SecretHash,
    trip: Option<Trip>,
    /// What waits for completion, and the code that opens it.
    pending: Option<(SecretHash, PendingLink)>,
}

struct Trip {
    attempt: Attempt,
    /// Whether the browser came back from it.
    used: bool,
}

impl SessionRow {
    /// The session as it reads at `now`.
    fn seen(&self, now: DateTime<Utc>) -> LinkSession {
        let mut session = self.session.clone();
        if !session.is_over() && session.expires_at <= now {
            session.status = LinkSessionStatus::Expired;
        }
        session
    }

    fn is(&self, status: LinkSessionStatus, now: DateTime<Utc>) -> bool {
        self.seen(now).status == status
    }

    /// Puts the session into a state in which nothing of its trip is needed any more.
    fn end(&mut self, status: LinkSessionStatus) {
        self.session.status = status;
        self.trip = None;
        self.pending = None;
    }
}

impl LinkSession {
    /// Whether the status is an end: no time that runs out changes it.
    fn is_over(&self) -> bool {
        use LinkSessionStatus::{Expired, Failed, Linked, SignedIn};
        matches!(self.status, Linked | SignedIn | Failed | Expired)
    }
}

impl Rows {
    /// The session that waits for completion by whoever has this claim's code.
    pub(super) fn waiting_session(
        &self,
        claim: &CompletionClaim,
        now: DateTime<Utc>,
    ) -> Option<(LinkSession, &PendingLink)> {
        use LinkSessionStatus::{AwaitingCompletion, Unlinked};
        let row = self.sessions.get(&claim.id)?;
        let (code, pending) = row.pending.as_ref()?;
        let waits = row.is(AwaitingCompletion, now) || row.is(Unlinked, now);
        (waits && *code == claim.code).then(|| (row.seen(now), pending))
    }

    /// Moves a session on by what became of its link.
    pub(super) fn settle_session(&mut self, id: LinkSessionId, outcome: &LinkOutcome) {
        if let Some((status, identity)) = outcome.settles() {
            self.move_session_on(id, status, identity);
        }
    }

    /// Ends a session, or leaves it waiting as `unlinked`.
    pub(super) fn move_session_on(
        &mut self,
        id: LinkSessionId,
        status: LinkSessionStatus,
        identity: Option<IdentityId>,
    ) {
        let Some(row) = self.sessions.get_mut(&id) else { return };
        row.session.identity_id = identity;
        if status == LinkSessionStatus::Unlinked {
            row.session.status = status;
        } else {
            row.end(status);
        }
    }

    fn session_by_state(&self, state: &SecretHash) -> Option<(LinkSessionId, &Trip)> {
        self.sessions.iter().find_map(|(id, row)| {
            let trip = row.trip.as_ref().filter(|trip| trip.attempt.state == *state)?;
            Some((*id, trip))
        })
    }
}

#[async_trait]
impl LinkSessionRepository for MemoryStore {
    async fn insert(&self, session: &NewLinkSession) -> Result<LinkSession, RepositoryError> {
        self.write(|rows, now| {
            if rows.sessions.values().any(|row| row.token == session.token) {
                return Err(RepositoryError::Conflict);
            }
            let id = LinkSessionId(rows.next_id());
            let kept = LinkSession {
                id,
                created_at: to_microseconds(session.session.created_at),
                expires_at: to_microseconds(session.session.expires_at),
                ..session.session.clone()
            };
            let row = SessionRow { session: kept, token: session.token, trip: None, pending: None };
            let seen = row.seen(now);
            rows.sessions.insert(id, row);
            Ok(seen)
        })
    }

    async fn find(&self, id: LinkSessionId) -> Result<Option<LinkSession>, RepositoryError> {
        let (rows, now) = self.read();
        Ok(rows.sessions.get(&id).map(|row| row.seen(now)))
    }

    async fn find_by_token(
        &self,
        token: &SecretHash,
    ) -> Result<Option<LinkSession>, RepositoryError> {
        let (rows, now) = self.read();
        Ok(rows.sessions.values().find(|row| row.token == *token).map(|row| row.seen(now)))
    }

    async fn begin(&self, id: LinkSessionId, attempt: &Attempt) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.sessions.get_mut(&id) else { return false };
            let may_begin = row.is(LinkSessionStatus::Pending, now)
                && row
                    .trip
                    .as_ref()
                    .is_none_or(|trip| !trip.used && trip.attempt.browser == attempt.browser);
            if may_begin {
                row.trip = Some(Trip { attempt: attempt.clone(), used: false });
            }
            may_begin
        }))
    }

    async fn find_by_state(
        &self,
        state: &SecretHash,
    ) -> Result<Option<(LinkSession, ProviderId, SecretHash)>, RepositoryError> {
        let (rows, now) = self.read();
        Ok(rows.session_by_state(state).map(|(id, trip)| {
            (rows.sessions[&id].seen(now), trip.attempt.provider_id, trip.attempt.browser)
        }))
    }

    async fn take_attempt(
        &self,
        state: &SecretHash,
        browser: &SecretHash,
    ) -> Result<Option<AttemptProof>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let (id, _) = rows.session_by_state(state)?;
            let row = rows.sessions.get_mut(&id)?;
            if !row.is(LinkSessionStatus::Pending, now) {
                return None;
            }
            let trip = row.trip.as_mut()?;
            if trip.used || trip.attempt.browser != *browser {
                return None;
            }
            trip.used = true;
            Some(trip.attempt.proof.clone())
        }))
    }

    async fn await_completion(
        &self,
        claim: &CompletionClaim,
        link: &PendingLink,
    ) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.sessions.get_mut(&claim.id) else { return false };
            let may_wait = row.is(LinkSessionStatus::Pending, now)
                && row.trip.as_ref().is_some_and(|trip| trip.used);
            if may_wait {
                row.session.status = LinkSessionStatus::AwaitingCompletion;
                row.pending = Some((claim.code, link.clone()));
            }
            may_wait
        }))
    }

    async fn find_pending(
        &self,
        claim: &CompletionClaim,
    ) -> Result<Option<(LinkSession, PendingLink)>, RepositoryError> {
        let (rows, now) = self.read();
        Ok(rows.waiting_session(claim, now).map(|(session, link)| (session, link.clone())))
    }

    async fn fail(&self, id: LinkSessionId, why: LinkFailure) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.sessions.get_mut(&id) else { return false };
            if row.seen(now).is_over() {
                return false;
            }
            row.end(LinkSessionStatus::Failed);
            row.session.error = Some(why);
            let session = &row.session;
            let event = NewEvent {
                provider_id: session.provider_id,
                user_id: session.user_id.clone(),
                organization_id: session.organization_id.clone(),
                detail: Map::from_iter([("error".to_owned(), json!(why.as_str()))]),
                ..NewEvent::new(EventKind::LinkSessionFailed, &session.created_by)
            };
            rows.log(event, now);
            true
        }))
    }

    async fn expire(&self) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, now| {
            let mut count = 0;
            for row in rows.sessions.values_mut() {
                if !row.session.is_over() && row.is(LinkSessionStatus::Expired, now) {
                    row.end(LinkSessionStatus::Expired);
                    count += 1;
                }
            }
            count
        }))
    }
}
