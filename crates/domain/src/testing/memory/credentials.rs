use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{MemoryStore, Rows, identities::IdentityRow, to_microseconds};
use crate::{
    credentials::Credentials,
    event::{Actor, EventKind, NewEvent},
    identity::{IdentityStatus, Invalid},
    ids::IdentityId,
    ports::{
        BackOff, CredentialsRepository, Lease, LeaseOutcome, Leased, LeasedWrite, RefreshEnd,
        RepositoryError, StoredCredentials,
    },
};

/// How often a waiter looks by itself: a lease that runs out rings no bell.
const POLL: Duration = Duration::from_millis(20);

impl IdentityRow {
    /// The attempt that holds the lease now.
    fn attempt_under_way(&self, now: DateTime<Utc>) -> Option<i64> {
        self.leased_until.filter(|until| now < *until).map(|_| self.attempt)
    }

    fn holder(&self) -> Actor {
        Actor::replica(self.holder.clone())
    }

    /// Whether the lease is the row's latest, and the generation is the one it is to replace.
    fn is_under(&self, lease: &Lease) -> bool {
        (self.attempt, self.generation) == (lease.attempt, lease.generation)
    }

    /// Whether what this holder sent for is still awaited: nobody sent again since.
    fn awaits(&self, lease: &Lease) -> bool {
        self.generation == lease.generation
            && self.unanswered == lease.unanswered
            && lease.unanswered > 0
    }

    /// Whether this lease's own commit is what is there.
    fn was_committed_by(&self, lease: &Lease) -> bool {
        (self.attempt, self.generation) == (lease.attempt, lease.generation + 1)
    }
}

fn stored(row: &IdentityRow) -> StoredCredentials {
    StoredCredentials {
        identity_id: row.identity.id,
        provider_id: row.identity.idp_id,
        status: row.identity.status,
        invalid: row.identity.invalid.clone(),
        generation: row.generation,
        credentials: row.credentials.clone(),
        back_off: row.back_off.clone(),
    }
}

impl Rows {
    /// Writes under a lease that is the row's latest.
    fn write_leased(
        &mut self,
        lease: &Lease,
        write: impl FnOnce(&mut Self, IdentityId),
    ) -> LeasedWrite {
        match self.identities.get(&lease.identity_id) {
            None => LeasedWrite::Gone,
            Some(row) if !row.is_under(lease) => LeasedWrite::Superseded,
            Some(_) => {
                write(self, lease.identity_id);
                LeasedWrite::Done
            }
        }
    }
}

#[async_trait]
impl CredentialsRepository for MemoryStore {
    async fn find(&self, id: IdentityId) -> Result<Option<StoredCredentials>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.identities.get(&id).map(stored))
    }

    async fn take_lease(
        &self,
        id: IdentityId,
        generation: i64,
        holder: &str,
        time: Duration,
    ) -> Result<LeaseOutcome, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.identities.get_mut(&id) else { return LeaseOutcome::Moved };
            if row.generation != generation || row.identity.status == IdentityStatus::Invalid {
                return LeaseOutcome::Moved;
            }
            if row.attempt_under_way(now).is_some() {
                return LeaseOutcome::Held;
            }
            let until = TimeDelta::from_std(time)
                .ok()
                .and_then(|time| now.checked_add_signed(time))
                .unwrap_or(DateTime::<Utc>::MAX_UTC);
            row.leased_until = Some(until);
            holder.clone_into(&mut row.holder);
            row.attempt += 1;
            let (attempt, unanswered) = (row.attempt, row.unanswered);
            let lease = Lease { identity_id: id, generation, attempt, unanswered };
            let leased = Leased { identity: row.identity.clone(), stored: stored(row) };
            LeaseOutcome::Taken(lease, Box::new(leased))
        }))
    }

    async fn record_sending(
        &self,
        lease: &Lease,
        time: Duration,
    ) -> Result<LeasedWrite, RepositoryError> {
        let time = TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
        Ok(self.write(|rows, now| {
            let is_too_late = rows
                .identities
                .get(&lease.identity_id)
                .is_some_and(|row| row.leased_until.is_none_or(|until| until - now < time));
            if is_too_late {
                return LeasedWrite::Superseded;
            }
            rows.write_leased(lease, |rows, id| {
                let sent = lease.unanswered + 1;
                rows.identities.entry(id).and_modify(|row| row.unanswered = sent);
            })
        }))
    }

    async fn commit(
        &self,
        lease: &Lease,
        credentials: &Credentials,
    ) -> Result<LeasedWrite, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.identities.get_mut(&lease.identity_id) else {
                return LeasedWrite::Gone;
            };
            if row.was_committed_by(lease) {
                return LeasedWrite::Done;
            }
            if !row.is_under(lease) && !row.awaits(lease) {
                return LeasedWrite::Superseded;
            }
            let before = row.identity.clone();
            row.store_generation(Some(credentials.clone()));
            if !credentials.scopes.is_empty() {
                row.identity.scopes.clone_from(&credentials.scopes);
            }
            row.make_valid();
            row.identity.version += 1;
            row.plan(&self.plan);
            let (identity, actor) = (row.identity.clone(), row.holder());
            let kind = EventKind::IdentityRefreshed;
            rows.log(NewEvent::of_identity(kind, &actor, Some(&before), Some(&identity)), now);
            LeasedWrite::Done
        }))
    }

    async fn end(&self, lease: &Lease, end: &RefreshEnd) -> Result<LeasedWrite, RepositoryError> {
        Ok(self.write(|rows, now| {
            rows.write_leased(lease, |rows, id| {
                let Some(row) = rows.identities.get_mut(&id) else { return };
                // Nobody holds it, and nobody came after: an earlier try has done it.
                if row.leased_until.take().is_none() {
                    return;
                }
                let before = row.identity.clone();
                let (kind, detail) = match end {
                    RefreshEnd::Failed { back_off, answered } => {
                        row.back_off = Some(BackOff {
                            until: to_microseconds(back_off.until),
                            ..back_off.clone()
                        });
                        row.unanswered = lease.unanswered.saturating_sub((*answered).into());
                        row.put_off(back_off.until);
                        let failure = back_off.class.as_str();
                        let detail = json!({ "failure": failure, "detail": back_off.detail });
                        (EventKind::IdentityRefreshFailed, detail)
                    }
                    RefreshEnd::Invalid { reason, detail } => {
                        row.plan_nothing();
                        row.identity.status = IdentityStatus::Invalid;
                        row.identity.invalid = Some(Invalid { reason: *reason, at: now });
                        row.identity.version += 1;
                        let detail = json!({ "reason": reason.as_str(), "detail": detail });
                        (EventKind::IdentityInvalidated, detail)
                    }
                };
                let (identity, actor) = (row.identity.clone(), row.holder());
                let detail = detail.as_object().cloned().unwrap_or_default();
                let event = NewEvent::of_identity(kind, &actor, Some(&before), Some(&identity));
                rows.log(NewEvent { detail, ..event }, now);
            })
        }))
    }

    async fn release(&self, lease: &Lease) -> Result<LeasedWrite, RepositoryError> {
        Ok(self.write(|rows, _| {
            rows.write_leased(lease, |rows, id| {
                rows.identities.entry(id).and_modify(|row| {
                    row.leased_until = None;
                    row.unanswered = lease.unanswered;
                });
            })
        }))
    }

    async fn changed(&self, id: IdentityId, at_most: Duration) {
        let under_way = || {
            let (rows, now) = self.read();
            rows.identities.get(&id).and_then(|row| row.attempt_under_way(now))
        };
        // Nobody at work means that the change is over already: it came before this call.
        let Some(awaited) = under_way() else { return };
        let change = async {
            loop {
                // Before the look, or a bell between look and wait would be missed.
                let bell = self.bell.notified();
                if under_way() != Some(awaited) {
                    return;
                }
                // Rung or not: look again.
                let _ = tokio::time::timeout(POLL, bell).await;
            }
        };
        // Changed or not: the caller looks anyway.
        let _ = tokio::time::timeout(at_most, change).await;
    }
}
