//! The three writes of a refresh, those of many identities with one statement.
//!
//! Each has the conditions that it has alone (`queries/credentials.rs`), row by row, and a row that
//! somebody has in hand is passed over: so a batch waits for nobody, and nobody who waits for it can
//! hold what it wants. Whatever it leaves out is asked alone, which waits, and tells why.
//!
//! `(SELECT $1)` hides from the planner how long the list is. It would make a plan for each length
//! otherwise, at every call, as a plan for any length looks dearer than one for few.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use diesel::{
    QueryResult,
    prelude::*,
    sql_types::{
        Array, BigInt, Binary, Bool, Integer, Interval, Jsonb, Nullable, Text, Timestamptz,
    },
};
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use symbolon_domain::{
    credentials::Credentials,
    event::{Actor, EventKind, NewEvent},
    identity::Identity,
    ids::{IdentityId, OrganizationId, UserId},
    ports::{Lease, LeasedWrite, RepositoryError, Sealer},
    refresh_plan::RefreshPlan,
};

use super::{
    Conn, Pool, Store, credentials,
    identity_row::{Shown, place, seal},
    interval, to_microseconds,
};
use crate::{
    batches::Batches,
    failure::{Failure, unreachable},
    prepared::Prepared,
};

/// What is written for many at once.
pub(super) struct Refreshes {
    leases: Batches<WantedLease, credentials::Taken>,
    sendings: Batches<Sending, ()>,
    commits: Batches<Renewal, ()>,
}

struct WantedLease {
    id: IdentityId,
    generation: i64,
    holder: String,
    time: Duration,
}

struct Sending {
    lease: Lease,
    time: Duration,
}

struct Renewal {
    lease: Lease,
    credentials: Credentials,
}

impl Refreshes {
    pub(super) fn new(
        pool: &Pool<Conn>,
        patience: Duration,
        sealer: &Arc<dyn Sealer>,
        plan: RefreshPlan,
    ) -> Self {
        let (leases, sendings) = (pool.clone(), pool.clone());
        let (commits, sealer) = (pool.clone(), Arc::clone(sealer));
        Self {
            leases: Batches::new(patience, move |wanted| take_leases(leases.clone(), wanted)),
            sendings: Batches::new(patience, move |made| record_sendings(sendings.clone(), made)),
            commits: Batches::new(patience, move |renewals| {
                commit_all(commits.clone(), Arc::clone(&sealer), plan, renewals)
            }),
        }
    }
}

impl Store {
    /// A lease that is free for the taking; `None` says nothing.
    pub(crate) async fn take_lease_together(
        &self,
        id: IdentityId,
        generation: i64,
        holder: &str,
        time: Duration,
    ) -> Result<Option<credentials::Taken>, RepositoryError> {
        let holder = holder.to_owned();
        self.refreshes.leases.ask(WantedLease { id, generation, holder, time }).await
    }

    /// A sending that may be written down; `None` says nothing.
    pub(crate) async fn record_sending_together(
        &self,
        lease: &Lease,
        time: Duration,
    ) -> Result<Option<LeasedWrite>, RepositoryError> {
        let sending = Sending { lease: lease.clone(), time };
        Ok(self.refreshes.sendings.ask(sending).await?.map(|()| LeasedWrite::Done))
    }

    /// New credentials that nothing came before; `None` says nothing.
    pub(crate) async fn commit_together(
        &self,
        lease: &Lease,
        credentials: &Credentials,
    ) -> Result<Option<LeasedWrite>, RepositoryError> {
        let renewal = Renewal { lease: lease.clone(), credentials: credentials.clone() };
        Ok(self.refreshes.commits.ask(renewal).await?.map(|()| LeasedWrite::Done))
    }
}

/// Of several that want the same row the first; the others are asked alone.
fn first_of_each<T>(asked: &[T], id: impl Fn(&T) -> IdentityId) -> Vec<&T> {
    let mut seen = HashSet::new();
    asked.iter().filter(|it| seen.insert(id(it))).collect()
}

/// The answers in the order of the questions: to the first that is about each of these rows.
fn in_order<T, A>(
    asked: &[T],
    id: impl Fn(&T) -> IdentityId,
    done: impl IntoIterator<Item = (i64, A)>,
) -> Vec<Option<A>> {
    let mut done: HashMap<i64, A> = done.into_iter().collect();
    asked.iter().map(|it| done.remove(&id(it).0)).collect()
}

async fn take_leases(
    pool: Pool<Conn>,
    wanted: Vec<WantedLease>,
) -> Result<Vec<Option<credentials::Taken>>, RepositoryError> {
    let first = first_of_each(&wanted, |it| it.id);
    let column = |of: fn(&WantedLease) -> i64| first.iter().map(|it| of(it)).collect::<Vec<_>>();
    let holders: Vec<_> = first.iter().map(|it| it.holder.as_str()).collect();
    let times: Vec<_> = first.iter().map(|it| interval(it.time)).collect();
    let take = diesel::sql_query(
        "UPDATE identities SET lease_holder = asked.holder, lease_until = now() + asked.time, \
            attempt = attempt + 1 \
         FROM (SELECT free.id, asked.holder, asked.time \
            FROM unnest((SELECT $1), $2, $3, $4) AS asked(id, generation, holder, time) \
            JOIN identities AS free ON free.id = asked.id \
                AND free.generation = asked.generation AND free.status <> 'invalid' \
                AND (free.lease_until IS NULL OR free.lease_until <= now()) \
            FOR UPDATE OF free SKIP LOCKED) AS asked \
         WHERE identities.id = asked.id \
         RETURNING identities.id, idp_id, user_id, external_id, data, status, invalid_reason, \
            invalid_at, scopes, date_verified, date_added, expires_at, version, generation, \
            credentials, retry_at, failures, failure_class, failure_detail, refresh_expires_at, \
            attempt, unanswered",
    )
    .bind::<Array<BigInt>, _>(column(|it| it.id.0))
    .bind::<Array<BigInt>, _>(column(|it| it.generation))
    .bind::<Array<Text>, _>(holders)
    .bind::<Array<Interval>, _>(times);
    let conn = &mut *pool.get().await.map_err(unreachable)?;
    let taken: Vec<credentials::Taken> =
        Prepared(take).get_results(conn).await.map_err(Failure::from)?;
    Ok(in_order(&wanted, |it| it.id, taken.into_iter().map(|it| (it.row.id, it))))
}

async fn record_sendings(
    pool: Pool<Conn>,
    made: Vec<Sending>,
) -> Result<Vec<Option<()>>, RepositoryError> {
    let first = first_of_each(&made, |it| it.lease.identity_id);
    let column = |of: fn(&Lease) -> i64| first.iter().map(|it| of(&it.lease)).collect::<Vec<_>>();
    let unanswered: Vec<_> =
        first.iter().map(|it| credentials::count(it.lease.unanswered + 1)).collect();
    let times: Vec<_> = first.iter().map(|it| interval(it.time)).collect();
    let record = diesel::sql_query(
        "UPDATE identities SET unanswered = sent.unanswered \
         FROM (SELECT held.id, sent.unanswered \
            FROM unnest((SELECT $1), $2, $3, $4, $5) AS sent(id, attempt, generation, unanswered, time) \
            JOIN identities AS held ON held.id = sent.id AND held.attempt = sent.attempt \
                AND held.generation = sent.generation AND held.lease_until >= now() + sent.time \
            FOR UPDATE OF held SKIP LOCKED) AS sent \
         WHERE identities.id = sent.id RETURNING identities.id",
    )
    .bind::<Array<BigInt>, _>(column(|it| it.identity_id.0))
    .bind::<Array<BigInt>, _>(column(|it| it.attempt))
    .bind::<Array<BigInt>, _>(column(|it| it.generation))
    .bind::<Array<Integer>, _>(unanswered)
    .bind::<Array<Interval>, _>(times);
    let conn = &mut *pool.get().await.map_err(unreachable)?;
    let done: Vec<Written> = Prepared(record).get_results(conn).await.map_err(Failure::from)?;
    Ok(in_order(&made, |it| it.lease.identity_id, done.into_iter().map(|it| (it.id, ()))))
}

/// A row that was written.
#[derive(QueryableByName)]
struct Written {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

/// A row that waits for what its refresh brings, locked.
#[derive(QueryableByName)]
struct Awaited {
    #[diesel(sql_type = Nullable<Text>)]
    lease_holder: Option<String>,
    #[diesel(embed)]
    shown: Shown,
}

async fn commit_all(
    pool: Pool<Conn>,
    sealer: Arc<dyn Sealer>,
    plan: RefreshPlan,
    renewals: Vec<Renewal>,
) -> Result<Vec<Option<()>>, RepositoryError> {
    let mut conn = pool.get().await.map_err(unreachable)?;
    let done =
        diesel_async::AsyncConnection::transaction::<_, Failure, _>(&mut *conn, async |conn| {
            let awaited = lock_awaited(conn, &renewals).await?;
            let mut rows = Rows::default();
            for (renewal, awaited) in renewals.iter().zip(awaited) {
                if let Some(awaited) = awaited {
                    rows.push(renewal, awaited, &*sealer, plan)?;
                }
            }
            let done = rows.ids.clone();
            if !done.is_empty() {
                rows.write(conn).await?;
            }
            Ok(done)
        })
        .await?;
    Ok(in_order(&renewals, |it| it.lease.identity_id, done.into_iter().map(|it| (it, ()))))
}

/// The rows that wait for these, as they are.
async fn lock_awaited(
    conn: &mut Conn,
    renewals: &[Renewal],
) -> Result<Vec<Option<Awaited>>, Failure> {
    let first = first_of_each(renewals, |it| it.lease.identity_id);
    let column = |of: fn(&Lease) -> i64| first.iter().map(|it| of(&it.lease)).collect::<Vec<_>>();
    let unanswered: Vec<_> =
        first.iter().map(|it| credentials::count(it.lease.unanswered)).collect();
    let lock = diesel::sql_query(
        "SELECT lease_holder, identities.id, idp_id, user_id, external_id, data, status, \
            invalid_reason, invalid_at, scopes, date_verified, date_added, expires_at, version \
         FROM unnest((SELECT $1), $2, $3, $4) AS came(id, attempt, generation, unanswered) \
         JOIN identities ON identities.id = came.id AND identities.generation = came.generation \
            AND (identities.attempt = came.attempt \
                OR identities.unanswered = came.unanswered AND identities.unanswered > 0) \
         FOR UPDATE OF identities SKIP LOCKED",
    )
    .bind::<Array<BigInt>, _>(column(|it| it.identity_id.0))
    .bind::<Array<BigInt>, _>(column(|it| it.attempt))
    .bind::<Array<BigInt>, _>(column(|it| it.generation))
    .bind::<Array<Integer>, _>(unanswered);
    let found: Vec<Awaited> = Prepared(lock).get_results(conn).await?;
    let found = found.into_iter().map(|it| (it.shown.id, it));
    Ok(in_order(renewals, |it| it.lease.identity_id, found))
}

/// What is written for a batch of renewals, column by column.
#[derive(Default)]
struct Rows {
    ids: Vec<i64>,
    sealed: Vec<Vec<u8>>,
    scopes: Vec<Value>,
    generations: Vec<i64>,
    expires_at: Vec<Option<DateTime<Utc>>>,
    refresh_expires_at: Vec<Option<DateTime<Utc>>>,
    refresh_at: Vec<Option<DateTime<Utc>>>,
    dies_at: Vec<Option<DateTime<Utc>>>,
    refreshable: Vec<bool>,
    events: Vec<NewEvent>,
}

impl Rows {
    fn push(
        &mut self,
        renewal: &Renewal,
        awaited: Awaited,
        sealer: &dyn Sealer,
        plan: RefreshPlan,
    ) -> Result<(), Failure> {
        let Renewal { lease, credentials } = renewal;
        let before = Identity::try_from(awaited.shown)?;
        let (id, next) = (lease.identity_id, lease.generation + 1);
        let planned = plan.of(id, next, Some(credentials));
        let after = credentials::renewed(&before, credentials);
        let place = place(id.0, before.idp_id.0, next);
        self.sealed.push(seal(sealer, &place, credentials)?);
        self.ids.push(id.0);
        self.scopes.push(json!(after.scopes));
        self.generations.push(next);
        self.expires_at.push(after.expires_at);
        self.refresh_expires_at.push(credentials.refresh_expires_at.map(to_microseconds));
        self.refresh_at.push(planned.refresh_at.map(to_microseconds));
        self.dies_at.push(planned.dies_at.map(to_microseconds));
        self.refreshable.push(planned.refreshable);
        let actor = Actor::replica(awaited.lease_holder.unwrap_or_default());
        let kind = EventKind::IdentityRefreshed;
        self.events.push(NewEvent::of_identity(kind, &actor, Some(&before), Some(&after)));
        Ok(())
    }

    /// The rows are locked: what was found is what is written.
    async fn write(self, conn: &mut Conn) -> QueryResult<()> {
        let update = diesel::sql_query(
            "UPDATE identities SET credentials = renewed.credentials, scopes = renewed.scopes, \
                generation = renewed.generation, expires_at = renewed.expires_at, \
                version = version + 1, status = 'valid', invalid_reason = NULL, \
                invalid_at = NULL, lease_holder = NULL, lease_until = NULL, unanswered = 0, \
                retry_at = NULL, failures = 0, failure_class = NULL, failure_detail = NULL, \
                refresh_expires_at = renewed.refresh_expires_at, \
                planned_generation = renewed.generation, refresh_at = renewed.refresh_at, \
                refresh_claimed_until = NULL, dies_at = renewed.dies_at, \
                refreshable = renewed.refreshable \
             FROM unnest((SELECT $1), $2, $3, $4, $5, $6, $7, $8, $9) AS renewed(id, credentials, scopes, \
                generation, expires_at, refresh_expires_at, refresh_at, dies_at, refreshable) \
             WHERE identities.id = renewed.id",
        )
        .bind::<Array<BigInt>, _>(self.ids)
        .bind::<Array<Binary>, _>(self.sealed)
        .bind::<Array<Jsonb>, _>(self.scopes)
        .bind::<Array<BigInt>, _>(self.generations)
        .bind::<Array<Nullable<Timestamptz>>, _>(self.expires_at)
        .bind::<Array<Nullable<Timestamptz>>, _>(self.refresh_expires_at)
        .bind::<Array<Nullable<Timestamptz>>, _>(self.refresh_at)
        .bind::<Array<Nullable<Timestamptz>>, _>(self.dies_at)
        .bind::<Array<Bool>, _>(self.refreshable);
        Prepared(update).execute(conn).await?;
        insert_events(conn, &self.events).await
    }
}

/// Writes events, in the transaction of what they tell of.
async fn insert_events(conn: &mut Conn, events: &[NewEvent]) -> QueryResult<()> {
    fn column<'a, T>(events: &'a [NewEvent], of: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
        events.iter().map(of).collect()
    }
    let json = |of: fn(&NewEvent) -> Option<&serde_json::Map<String, Value>>| {
        column(events, |it| of(it).cloned().map(Value::Object))
    };
    let insert = diesel::sql_query(
        "INSERT INTO events (at, kind, actor, acting_user, reason, identity_id, provider_id, \
            user_id, organization_id, before, after, detail) \
         SELECT now(), it.* FROM unnest((SELECT $1), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS it",
    )
    .bind::<Array<Text>, _>(column(events, |it| it.about.as_str()))
    .bind::<Array<Text>, _>(column(events, |it| it.actor.who.to_string()))
    .bind::<Array<Nullable<Text>>, _>(column(events, |it| {
        it.actor.acting_user.as_ref().map(UserId::as_str)
    }))
    .bind::<Array<Nullable<Text>>, _>(column(events, |it| it.actor.reason.as_deref()))
    .bind::<Array<Nullable<BigInt>>, _>(column(events, |it| it.identity_id.map(|it| it.0)))
    .bind::<Array<Nullable<BigInt>>, _>(column(events, |it| it.provider_id.map(|it| it.0)))
    .bind::<Array<Nullable<Text>>, _>(column(events, |it| {
        it.user_id.as_ref().map(UserId::as_str)
    }))
    .bind::<Array<Nullable<Text>>, _>(column(events, |it| {
        it.organization_id.as_ref().map(OrganizationId::as_str)
    }))
    .bind::<Array<Nullable<Jsonb>>, _>(json(|it| it.before.as_ref()))
    .bind::<Array<Nullable<Jsonb>>, _>(json(|it| it.after.as_ref()))
    .bind::<Array<Jsonb>, _>(column(events, |it| Value::Object(it.detail.clone())));
    Prepared(insert).execute(conn).await.map(drop)
}
