use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Map, Value, json};
use symbolon_domain::{
    credentials::Credentials,
    event::{Actor, EventKind, NewEvent},
    identity::{Identity, IdentityStatus},
    ids::{IdentityId, ProviderId},
    ports::{
        BackOff, CredentialsRepository, FailureClass, Lease, LeaseOutcome, Leased, LeasedWrite,
        RefreshEnd, RepositoryError, Sealer, StoredCredentials,
    },
};

use super::{
    Conn, Db, Store, events,
    identities::log,
    identity_row::{Shown, invalid, open, place, seal},
    in_transaction, maybe_now, maybe_now_plus,
    refresh_schedule::{self, PlanColumns},
    schema::identities,
};
use crate::{
    failure::Failure,
    prepared::Prepared,
    values::{object, parsed},
};

/// The columns of the token path.
#[derive(Queryable, QueryableByName, Selectable)]
#[diesel(table_name = identities, check_for_backend(Db))]
pub(crate) struct Row {
    pub(crate) id: i64,
    idp_id: i64,
    status: String,
    invalid_reason: Option<String>,
    invalid_at: Option<DateTime<Utc>>,
    generation: i64,
    credentials: Option<Vec<u8>>,
    retry_at: Option<DateTime<Utc>>,
    failures: i32,
    failure_class: Option<String>,
    failure_detail: Option<String>,
    refresh_expires_at: Option<DateTime<Utc>>,
}

impl Row {
    pub(crate) fn open(self, sealer: &dyn Sealer) -> Result<StoredCredentials, Failure> {
        let place = place(self.id, self.idp_id, self.generation);
        let back_off = match (self.retry_at, self.failure_class) {
            (Some(until), Some(class)) => Some(BackOff {
                until,
                class: parsed(&class, FailureClass::parse)?,
                failures: u32::try_from(self.failures).unwrap_or(0),
                detail: self.failure_detail.unwrap_or_default(),
            }),
            _ => None,
        };
        Ok(StoredCredentials {
            identity_id: IdentityId(self.id),
            provider_id: ProviderId(self.idp_id),
            status: parsed(&self.status, IdentityStatus::parse)?,
            invalid: invalid(self.invalid_reason.as_deref(), self.invalid_at)?,
            generation: self.generation,
            credentials: open(
                sealer,
                &place,
                self.credentials.as_deref(),
                self.refresh_expires_at,
            )?,
            back_off,
        })
    }
}

/// The row of a lease that was taken just now.
#[derive(Queryable, QueryableByName, Selectable)]
#[diesel(table_name = identities, check_for_backend(Db))]
pub(crate) struct Taken {
    attempt: i64,
    unanswered: i32,
    #[diesel(embed)]
    shown: Shown,
    #[diesel(embed)]
    pub(crate) row: Row,
}

impl Taken {
    /// The lease, and what was there at that moment.
    fn open(self, sealer: &dyn Sealer) -> (Lease, Result<Leased, Failure>) {
        let Self { attempt, unanswered, shown, row } = self;
        let (identity_id, generation) = (IdentityId(row.id), row.generation);
        let unanswered = u32::try_from(unanswered).unwrap_or(0);
        let read = row
            .open(sealer)
            .and_then(|stored| Ok(Leased { identity: Identity::try_from(shown)?, stored }));
        (Lease { identity_id, generation, attempt, unanswered }, read)
    }
}

/// What tells one holder's time from another's.
#[derive(Queryable)]
pub(crate) struct Fence {
    pub(crate) attempt: i64,
    pub(crate) generation: i64,
}

async fn fence(conn: &mut Conn, id: IdentityId) -> QueryResult<Option<Fence>> {
    let columns = (identities::attempt, identities::generation);
    identities::table.find(id.0).select(columns).first(conn).await.optional()
}

/// The attempt that holds the lease now, if any does.
pub(crate) async fn attempt_under_way(conn: &mut Conn, id: IdentityId) -> QueryResult<Option<i64>> {
    identities::table
        .find(id.0)
        .filter(identities::lease_until.gt(maybe_now()))
        .select(identities::attempt)
        .first(conn)
        .await
        .optional()
}

/// Why a conditional write under this lease found no row.
async fn refused(conn: &mut Conn, lease: &Lease) -> QueryResult<LeasedWrite> {
    Ok(match fence(conn, lease.identity_id).await? {
        None => LeasedWrite::Gone,
        Some(_) => LeasedWrite::Superseded,
    })
}

/// The row of a lease, while it is the latest: the condition of every write under it.
macro_rules! under {
    ($lease:expr) => {
        identities::table
            .find($lease.identity_id.0)
            .filter(identities::attempt.eq($lease.attempt))
            .filter(identities::generation.eq($lease.generation))
    };
}

/// The row of a lease, while it is the latest, or while nobody has sent again since its holder
/// did: the condition of what tells how a sending ended.
macro_rules! awaited {
    ($lease:expr) => {
        identities::table
            .find($lease.identity_id.0)
            .filter(identities::generation.eq($lease.generation))
            .filter(
                identities::attempt.eq($lease.attempt).or(identities::unanswered
                    .eq(count($lease.unanswered))
                    .and(identities::unanswered.gt(0))),
            )
    };
}

/// A count as the column keeps it.
pub(crate) fn count(unanswered: u32) -> i32 {
    i32::try_from(unanswered).unwrap_or(i32::MAX)
}

/// Ends a lease under which nothing more was sent than it says; the number of rows.
async fn release(conn: &mut Conn, lease: &Lease) -> QueryResult<usize> {
    let update = diesel::update(under!(lease)).set((
        identities::lease_holder.eq(NOT_LEASED.0),
        identities::lease_until.eq(NOT_LEASED.1),
        identities::unanswered.eq(count(lease.unanswered)),
    ));
    Prepared(update).execute(conn).await
}

/// Takes a lease where it is free.
async fn take_alone(
    conn: &mut Conn,
    id: IdentityId,
    generation: i64,
    holder: &str,
    time: Duration,
) -> QueryResult<Option<Taken>> {
    let free = identities::table
        .find(id.0)
        .filter(identities::generation.eq(generation))
        .filter(identities::status.ne(IdentityStatus::Invalid.as_str()))
        .filter(identities::lease_until.is_null().or(identities::lease_until.le(maybe_now())));
    let take = diesel::update(free)
        .set((
            identities::lease_holder.eq(holder),
            identities::lease_until.eq(maybe_now_plus(time)),
            identities::attempt.eq(identities::attempt + 1),
        ))
        .returning(Taken::as_returning());
    Prepared(take).get_result(conn).await.optional()
}

/// An identity as it is with new credentials.
pub(crate) fn renewed(before: &Identity, credentials: &Credentials) -> Identity {
    let scopes = if credentials.scopes.is_empty() { &before.scopes } else { &credentials.scopes };
    Identity {
        status: IdentityStatus::Valid,
        invalid: None,
        scopes: scopes.clone(),
        expires_at: credentials.expires_at.map(super::to_microseconds),
        version: before.version + 1,
        ..before.clone()
    }
}

const NOT_LEASED: (Option<&str>, Option<DateTime<Utc>>) = (None, None);

#[async_trait]
impl CredentialsRepository for Store {
    async fn find(&self, id: IdentityId) -> Result<Option<StoredCredentials>, RepositoryError> {
        let row = self.find_credentials(id).await?;
        Ok(row.map(|row| row.open(&*self.sealer)).transpose()?)
    }

    async fn take_lease(
        &self,
        id: IdentityId,
        generation: i64,
        holder: &str,
        time: Duration,
    ) -> Result<LeaseOutcome, RepositoryError> {
        let together = self.take_lease_together(id, generation, holder, time).await?;
        let conn = &mut *self.writer().await?;
        let taken = match together {
            Some(taken) => Some(taken),
            None => take_alone(conn, id, generation, holder, time).await.map_err(Failure::from)?,
        };
        if let Some((lease, read)) = taken.map(|it| it.open(&*self.sealer)) {
            return match read {
                Ok(leased) => Ok(LeaseOutcome::Taken(lease, Box::new(leased))),
                Err(unreadable) => {
                    release(conn, &lease).await.map_err(Failure::from)?;
                    Err(unreadable.into())
                }
            };
        }
        let there: Option<(i64, String)> = identities::table
            .find(id.0)
            .select((identities::generation, identities::status))
            .first(conn)
            .await
            .optional()
            .map_err(Failure::from)?;
        Ok(match there {
            Some((there, status))
                if there == generation && status != IdentityStatus::Invalid.as_str() =>
            {
                LeaseOutcome::Held
            }
            _ => LeaseOutcome::Moved,
        })
    }

    async fn record_sending(
        &self,
        lease: &Lease,
        time: Duration,
    ) -> Result<LeasedWrite, RepositoryError> {
        if let Some(done) = self.record_sending_together(lease, time).await? {
            return Ok(done);
        }
        let conn = &mut *self.writer().await?;
        let record = diesel::update(under!(lease))
            // Nor where it was released: then there is no such time.
            .filter(identities::lease_until.ge(maybe_now_plus(time)))
            .set(identities::unanswered.eq(count(lease.unanswered + 1)));
        let written = Prepared(record).execute(conn).await.map_err(Failure::from)?;
        if written == 1 {
            return Ok(LeasedWrite::Done);
        }
        Ok(refused(conn, lease).await.map_err(Failure::from)?)
    }

    async fn commit(
        &self,
        lease: &Lease,
        credentials: &Credentials,
    ) -> Result<LeasedWrite, RepositoryError> {
        if let Some(done) = self.commit_together(lease, credentials).await? {
            self.announce(lease.identity_id);
            return Ok(done);
        }
        let done = in_transaction!(self, async |conn| {
            let id = lease.identity_id;
            let next = lease.generation + 1;
            let query = awaited!(lease).select((identities::lease_holder, Shown::as_select()));
            let row: Option<(Option<String>, Shown)> =
                super::locked!(query).first(conn).await.optional()?;
            let Some((holder, before)) = row else {
                // An earlier try may have done it, and its answer was lost.
                return Ok(match fence(conn, id).await? {
                    None => LeasedWrite::Gone,
                    Some(it) if (it.attempt, it.generation) == (lease.attempt, next) => {
                        LeasedWrite::Done
                    }
                    Some(_) => LeasedWrite::Superseded,
                });
            };
            let before = Identity::try_from(before)?;
            let sealed = seal(&*self.sealer, &place(id.0, before.idp_id.0, next), credentials)?;
            let planned = self.plan.of(id, next, Some(credentials));
            let after = renewed(&before, credentials);
            // The row is locked: what was found is what is written.
            let update = diesel::update(identities::table.find(id.0)).set((
                (
                    identities::credentials.eq(sealed),
                    identities::scopes.eq(json!(after.scopes)),
                    identities::generation.eq(next),
                    identities::expires_at.eq(after.expires_at),
                    identities::version.eq(after.version),
                    identities::status.eq(after.status.as_str()),
                    identities::invalid_reason.eq(None::<String>),
                    identities::invalid_at.eq(None::<DateTime<Utc>>),
                ),
                (
                    identities::lease_holder.eq(NOT_LEASED.0),
                    identities::lease_until.eq(NOT_LEASED.1),
                    identities::unanswered.eq(0),
                    identities::retry_at.eq(None::<DateTime<Utc>>),
                    identities::failures.eq(0),
                    identities::failure_class.eq(None::<String>),
                    identities::failure_detail.eq(None::<String>),
                ),
                identities::refresh_expires_at
                    .eq(credentials.refresh_expires_at.map(super::to_microseconds)),
                PlanColumns::of(next, &planned),
            ));
            Prepared(update).execute(conn).await?;
            let actor = Actor::replica(holder.unwrap_or_default());
            let kind = EventKind::IdentityRefreshed;
            log(conn, kind, &actor, Some(&before), Some(&after)).await?;
            Ok(LeasedWrite::Done)
        });
        self.announce(lease.identity_id);
        Ok(done?)
    }

    async fn end(&self, lease: &Lease, end: &RefreshEnd) -> Result<LeasedWrite, RepositoryError> {
        let done = in_transaction!(self, async |conn| {
            let query = under!(lease).select((identities::lease_holder, Shown::as_select()));
            let row: Option<(Option<String>, Shown)> =
                super::locked!(query).first(conn).await.optional()?;
            let Some((holder, row)) = row else { return Ok(refused(conn, lease).await?) };
            // Nobody holds it, and nobody came after: an earlier try has done it.
            let Some(holder) = holder else { return Ok(LeasedWrite::Done) };
            let before = Identity::try_from(row)?;
            let (about, detail) = write_end(conn, lease, end).await?;
            let after = identities::table.find(lease.identity_id.0).select(Shown::as_select());
            let after = Identity::try_from(after.first::<Shown>(conn).await?)?;
            let actor = Actor::replica(holder);
            let event = NewEvent::of_identity(about, &actor, Some(&before), Some(&after));
            events::insert(conn, &NewEvent { detail, ..event }).await?;
            Ok(LeasedWrite::Done)
        });
        self.announce(lease.identity_id);
        Ok(done?)
    }

    async fn release(&self, lease: &Lease) -> Result<LeasedWrite, RepositoryError> {
        let done = in_transaction!(self, async |conn| {
            if release(conn, lease).await? == 0 {
                return Ok(refused(conn, lease).await?);
            }
            Ok(LeasedWrite::Done)
        });
        self.announce(lease.identity_id);
        Ok(done?)
    }

    async fn changed(&self, id: IdentityId, at_most: Duration) {
        self.wait_for_change(id, at_most).await;
    }
}

/// Keeps how a refresh ended, and gives the lease back. The row is locked: what was found is what
/// is written.
async fn write_end(
    conn: &mut Conn,
    lease: &Lease,
    end: &RefreshEnd,
) -> Result<(EventKind, Map<String, Value>), Failure> {
    match end {
        RefreshEnd::Failed { back_off, answered } => {
            // Only the last sending: an earlier one whose answer was lost stays in doubt.
            let unanswered = lease.unanswered.saturating_sub((*answered).into());
            diesel::update(identities::table.find(lease.identity_id.0))
                .set((
                    identities::lease_holder.eq(NOT_LEASED.0),
                    identities::lease_until.eq(NOT_LEASED.1),
                    identities::unanswered.eq(count(unanswered)),
                    identities::retry_at.eq(super::to_microseconds(back_off.until)),
                    identities::failures.eq(i32::try_from(back_off.failures).unwrap_or(i32::MAX)),
                    identities::failure_class.eq(back_off.class.as_str()),
                    identities::failure_detail.eq(&back_off.detail),
                ))
                .execute(conn)
                .await?;
            refresh_schedule::put_off(conn, lease, back_off.until).await?;
            let detail = json!({"failure": back_off.class.as_str(), "detail": back_off.detail});
            Ok((EventKind::IdentityRefreshFailed, object(detail)?))
        }
        RefreshEnd::Invalid { reason, detail } => {
            diesel::update(identities::table.find(lease.identity_id.0))
                .set((
                    identities::lease_holder.eq(NOT_LEASED.0),
                    identities::lease_until.eq(NOT_LEASED.1),
                    identities::status.eq(IdentityStatus::Invalid.as_str()),
                    identities::invalid_reason.eq(reason.as_str()),
                    identities::invalid_at.eq(maybe_now()),
                    identities::version.eq(identities::version + 1),
                ))
                .execute(conn)
                .await?;
            refresh_schedule::plan_nothing(conn, lease).await?;
            let detail = json!({"reason": reason.as_str(), "detail": detail});
            Ok((EventKind::IdentityInvalidated, object(detail)?))
        }
    }
}
