use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{MemoryStore, Rows, identities::IdentityRow, page_of};
use crate::{
    auth_identity::AuthIdentity,
    credentials::Credentials,
    event::{Actor, EventKind},
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::RevocationId,
    page::{Page, PageRequest},
    ports::{
        ClaimedRevocation, NewRevocation, RepositoryError, RevocationEnd, RevocationRepository,
    },
    revocation::{GrantOwner, OrphanedGrant, QueuedRevocation, RevocationStatus},
};

#[derive(Clone)]
pub(super) struct RevocationRow {
    pub(super) queued: QueuedRevocation,
    pub(super) grant: Option<OrphanedGrant>,
    pub(super) generation: i64,
}

impl Rows {
    /// Queues what a row that goes, or gets other credentials, held.
    pub(super) fn queue_credentials(
        &mut self,
        row: &IdentityRow,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Option<RevocationId> {
        let credentials = row.credentials.clone()?;
        let new = NewRevocation {
            owner: GrantOwner::Identity(row.identity.id),
            provider_id: row.identity.idp_id,
            user_id: row.identity.user_id.clone(),
            external_id: row.identity.external_id.clone(),
            grant: OrphanedGrant::new(credentials),
            actor: actor.clone(),
        };
        Some(self.queue_revocation(new, now).id)
    }

    /// Queues what an account for single sign-on held that goes, or gets other credentials.
    pub(super) fn queue_account_credentials(
        &mut self,
        (account, credentials): (&AuthIdentity, Option<Credentials>),
        actor: &Actor,
        now: DateTime<Utc>,
    ) {
        let Some(credentials) = credentials else { return };
        let new = NewRevocation {
            owner: GrantOwner::AuthIdentity(account.id),
            provider_id: self.auth_providers[&account.auth_provider_id].provider_id,
            user_id: account.user_id.clone(),
            external_id: account.ident.clone(),
            grant: OrphanedGrant::new(credentials),
            actor: actor.clone(),
        };
        self.queue_revocation(new, now);
    }

    pub(super) fn queue_revocation(
        &mut self,
        new: NewRevocation,
        now: DateTime<Utc>,
    ) -> QueuedRevocation {
        let NewRevocation { owner, provider_id, user_id, external_id, grant, actor } = new;
        let queued = QueuedRevocation {
            id: RevocationId(self.next_id()),
            owner,
            provider_id,
            user_id,
            external_id,
            actor,
            status: RevocationStatus::Waiting,
            attempts: 0,
            queued_at: now,
            due_at: now,
            last_error: None,
        };
        self.log_revocation(EventKind::GrantRevocationQueued, &queued, Map::new(), now);
        let row = RevocationRow { queued: queued.clone(), grant: Some(grant), generation: 1 };
        self.revocations.insert(queued.id, row);
        queued
    }

    /// Gives the grants that wait a copy of their provider, which goes.
    pub(super) fn keep_provider_for_revocations(
        &mut self,
        copy: &(IdentityProvider, ProviderSecrets),
    ) {
        for row in self.revocations.values_mut().filter(|it| it.queued.provider_id == copy.0.id) {
            if let Some(grant) = &mut row.grant {
                grant.provider = Some(copy.clone());
                row.generation += 1;
            }
        }
    }

    fn log_revocation(
        &mut self,
        about: EventKind,
        queued: &QueuedRevocation,
        detail: Map<String, Value>,
        now: DateTime<Utc>,
    ) {
        self.log(queued.told(about, detail), now);
    }

    fn claim_revocation(
        &mut self,
        id: RevocationId,
        time: Duration,
        now: DateTime<Utc>,
    ) -> Option<ClaimedRevocation> {
        let row = self.revocations.get_mut(&id).filter(|it| it.is_due(now))?;
        row.queued.attempts += 1;
        row.queued.due_at = later(now, time);
        Some(ClaimedRevocation { queued: row.queued.clone(), grant: row.grant.clone() })
    }
}

impl RevocationRow {
    fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.queued.status == RevocationStatus::Waiting && self.queued.due_at <= now
    }
}

fn later(now: DateTime<Utc>, time: Duration) -> DateTime<Utc> {
    let time = TimeDelta::from_std(time).ok();
    time.and_then(|it| now.checked_add_signed(it)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[async_trait]
impl RevocationRepository for MemoryStore {
    async fn queue(&self, new: &NewRevocation) -> Result<QueuedRevocation, RepositoryError> {
        Ok(self.write(|rows, now| rows.queue_revocation(new.clone(), now)))
    }

    async fn claim_due(
        &self,
        limit: u16,
        time: Duration,
    ) -> Result<Vec<ClaimedRevocation>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let due = rows.revocations.values().filter(|it| it.is_due(now));
            let mut due: Vec<_> = due.map(|it| (it.queued.due_at, it.queued.id)).collect();
            due.sort();
            due.truncate(usize::from(limit));
            due.into_iter().filter_map(|(_, id)| rows.claim_revocation(id, time, now)).collect()
        }))
    }

    async fn claim(
        &self,
        id: RevocationId,
        time: Duration,
    ) -> Result<Option<ClaimedRevocation>, RepositoryError> {
        Ok(self.write(|rows, now| rows.claim_revocation(id, time, now)))
    }

    async fn settle(
        &self,
        claimed: &QueuedRevocation,
        end: &RevocationEnd,
    ) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let row = rows.revocations.get_mut(&claimed.id).filter(|it| {
                it.queued.status == RevocationStatus::Waiting
                    && it.queued.attempts == claimed.attempts
            });
            let Some(row) = row else { return false };
            let (about, detail) = match end {
                RevocationEnd::Revoked => {
                    row.queued.status = RevocationStatus::Revoked;
                    row.queued.last_error = None;
                    (EventKind::GrantRevoked, Map::new())
                }
                RevocationEnd::Failed(why) => {
                    row.queued.status = RevocationStatus::Failed;
                    row.queued.last_error = Some(why.clone());
                    let detail = Map::from_iter([("detail".to_owned(), json!(why))]);
                    (EventKind::GrantRevocationFailed, detail)
                }
                RevocationEnd::Later { pause, error } => {
                    row.queued.due_at = later(now, *pause);
                    row.queued.last_error = Some(error.clone());
                    return true;
                }
            };
            row.grant = None;
            let queued = row.queued.clone();
            rows.log_revocation(about, &queued, detail, now);
            true
        }))
    }

    async fn list(&self, page: PageRequest) -> Result<Page<QueuedRevocation>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(page_of(rows.revocations.values().map(|it| &it.queued), page, |it| it.id.0))
    }
}
