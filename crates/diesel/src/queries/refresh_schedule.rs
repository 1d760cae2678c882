use std::{
    collections::HashMap,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    dsl::{exists, sql},
    prelude::*,
    sql_types::{BigInt, Bool},
};
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    identity::IdentityStatus,
    ids::{IdentityId, ProviderId},
    ports::{
        DueRefresh, Lease, RefreshClaim, RefreshSchedule, RepositoryError, refresh_places_for_late,
        refresh_rate_used, refresh_room,
    },
    refresh_plan::{Planned, in_turns},
};

use super::{
    Conn, Db, Store, TimeSql, identity_row, in_transaction, maybe_now, maybe_now_plus,
    schema::{identities, identity_providers, organization_identities, refresh_lanes},
    time, to_microseconds, unlocked_ones,
};
use crate::failure::Failure;

/// So many candidates are looked at for each place, so that one organization does not take all.
const CANDIDATES: i64 = 4;

/// What becomes of the columns of a plan.
#[derive(AsChangeset)]
#[diesel(table_name = identities, treat_none_as_null = true)]
pub(crate) struct PlanColumns {
    planned_generation: Option<i64>,
    refresh_at: Option<DateTime<Utc>>,
    refresh_claimed_until: Option<DateTime<Utc>>,
    dies_at: Option<DateTime<Utc>>,
    refreshable: bool,
}

impl PlanColumns {
    /// The columns of what is planned for this generation; nobody has claimed it.
    pub(crate) fn of(generation: i64, planned: &Planned) -> Self {
        Self {
            planned_generation: Some(generation),
            refresh_at: planned.refresh_at.map(to_microseconds),
            refresh_claimed_until: None,
            dies_at: planned.dies_at.map(to_microseconds),
            refreshable: planned.refreshable,
        }
    }
}

/// A refresh failed: it is due when its back-off is over, and until then the access token that is
/// there is the last.
pub(crate) async fn put_off(
    conn: &mut Conn,
    lease: &Lease,
    until: DateTime<Utc>,
) -> QueryResult<()> {
    let row = identities::table.find(lease.identity_id.0);
    diesel::update(row)
        .set(identities::refresh_claimed_until.eq(None::<DateTime<Utc>>))
        .execute(conn)
        .await?;
    diesel::update(row.filter(identities::refresh_at.is_not_null()))
        .set(identities::refresh_at.eq(to_microseconds(until)))
        .execute(conn)
        .await?;
    diesel::update(row.filter(identities::expires_at.is_not_null()))
        .set(identities::dies_at.eq(identities::expires_at))
        .execute(conn)
        .await?;
    Ok(())
}

/// An identity is invalid: it is not refreshed, and does not die any more.
pub(crate) async fn plan_nothing(conn: &mut Conn, lease: &Lease) -> QueryResult<()> {
    let none = None::<DateTime<Utc>>;
    diesel::update(identities::table.find(lease.identity_id.0))
        .set((identities::refresh_at.eq(none), identities::dies_at.eq(none)))
        .execute(conn)
        .await?;
    Ok(())
}

/// What a plan is made of.
#[derive(Queryable, Selectable)]
#[diesel(table_name = identities, check_for_backend(Db))]
struct Unplanned {
    id: i64,
    idp_id: i64,
    status: String,
    generation: i64,
    credentials: Option<Vec<u8>>,
    refresh_expires_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    retry_at: Option<DateTime<Utc>>,
}

impl Unplanned {
    fn plan(&self, store: &Store) -> Planned {
        if self.status == IdentityStatus::Invalid.as_str() {
            return Planned::default();
        }
        let place = identity_row::place(self.id, self.idp_id, self.generation);
        let opened = identity_row::open(
            &*store.sealer,
            &place,
            self.credentials.as_deref(),
            self.refresh_expires_at,
        );
        let Ok(credentials) = opened else {
            tracing::warn!(identity = self.id, "credentials do not open and are not refreshed");
            return Planned::default();
        };
        let id = IdentityId(self.id);
        let mut planned = store.plan.of(id, self.generation, credentials.as_ref());
        if let Some(until) = self.retry_at {
            planned.refresh_at = planned.refresh_at.map(|it| it.max(until));
            planned.dies_at = self.expires_at.or(planned.dies_at);
        }
        planned
    }
}

/// A row that is due.
#[derive(Queryable, Selectable)]
#[diesel(table_name = identities, check_for_backend(Db))]
struct Due {
    id: i64,
    user_id: String,
    generation: i64,
    planned_generation: Option<i64>,
    refresh_at: Option<DateTime<Utc>>,
}

/// Those that nobody has claimed, of an instance, between two times, the longest due first.
///
/// Those whose plan is of an earlier generation are left out here and not by the database, which
/// takes an equality of two columns for rare, and would read the whole table instead of the first
/// entries of the index.
async fn candidates(
    conn: &mut Conn,
    provider: ProviderId,
    after: Option<DateTime<Utc>>,
    to: DateTime<Utc>,
    limit: i64,
) -> QueryResult<Vec<Due>> {
    let claimed = identities::refresh_claimed_until;
    let mut query = identities::table
        .filter(identities::idp_id.eq(provider.0))
        .filter(identities::refresh_at.le(to))
        .filter(claimed.is_null().or(claimed.le(maybe_now())))
        .filter(identities::status.ne(IdentityStatus::Invalid.as_str()))
        .order((identities::refresh_at, identities::id))
        .limit(limit)
        .select(Due::as_select())
        .into_boxed();
    if let Some(after) = after {
        query = query.filter(identities::refresh_at.gt(after));
    }
    let mut due: Vec<Due> = query.load(conn).await?;
    due.retain(|it| it.planned_generation == Some(it.generation));
    Ok(due)
}

/// As many of these as fit, organization by organization.
async fn choose(conn: &mut Conn, due: Vec<Due>, limit: usize) -> QueryResult<Vec<Due>> {
    if due.len() <= limit {
        return Ok(due);
    }
    let ids: Vec<i64> = due.iter().map(|it| it.id).collect();
    let used: Vec<(i64, String)> = organization_identities::table
        .filter(organization_identities::identity_id.eq_any(ids))
        .order(organization_identities::id.desc())
        .select((organization_identities::identity_id, organization_identities::organization_id))
        .load(conn)
        .await?;
    // Of several the first stays.
    let organizations: HashMap<i64, String> = used.into_iter().collect();
    let tenant = |it: &Due| match organizations.get(&it.id) {
        Some(organization) => (true, organization.clone()),
        None => (false, it.user_id.clone()),
    };
    Ok(in_turns(due.into_iter().map(|it| (tenant(&it), it)), limit))
}

/// Holds an instance's lane until the transaction ends; `None` when somebody else does.
async fn hold_lane(
    conn: &mut Conn,
    provider: ProviderId,
) -> QueryResult<Option<(DateTime<Utc>, Option<DateTime<Utc>>)>> {
    let lane = refresh_lanes::table
        .find(provider.0)
        .select((refresh_lanes::next_free_at, refresh_lanes::paused_until));
    if let Some(lane) = unlocked_ones!(lane).first(conn).await.optional()? {
        return Ok(Some(lane));
    }
    Ok(make_lane(conn, provider).await?.then_some((DateTime::UNIX_EPOCH, None)))
}

/// Makes an instance's lane where it is not there; tells whether it was not.
async fn make_lane(conn: &mut Conn, provider: ProviderId) -> QueryResult<bool> {
    let made = diesel::insert_into(refresh_lanes::table)
        .values((
            refresh_lanes::idp_id.eq(provider.0),
            refresh_lanes::next_free_at.eq(DateTime::UNIX_EPOCH),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(made == 1)
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[async_trait]
impl RefreshSchedule for Store {
    async fn plan_missing(&self, limit: u16) -> Result<usize, RepositoryError> {
        // The index that finds them has this very condition.
        let unplanned = |after: i64| {
            let missing = "(planned_generation IS NULL OR planned_generation <> generation)";
            identities::table.filter(sql::<Bool>(missing)).filter(identities::id.gt(after))
        };
        let mut after = AtomicI64::load(&self.planned_up_to, Ordering::Relaxed);
        {
            // Nearly always there is none, and nobody is to wait for a writer to learn that.
            let mut conn = self.reader().await?;
            let mut any = async |after: i64| -> Result<bool, RepositoryError> {
                let any = unplanned(after).order(identities::id).select(identities::id).limit(1);
                let any: Option<i64> =
                    any.first(&mut *conn).await.optional().map_err(Failure::from)?;
                Ok(any.is_some())
            };
            if !any(after).await? {
                // What came behind the last one meanwhile, or was somebody else's then.
                AtomicI64::store(&self.planned_up_to, 0, Ordering::Relaxed);
                if after == 0 || !any(0).await? {
                    return Ok(0);
                }
                after = 0;
            }
        }
        let planned = in_transaction!(self, async |conn| {
            let query = unplanned(after)
                .order(identities::id)
                .limit(i64::from(limit))
                .select(Unplanned::as_select());
            let rows: Vec<Unplanned> = unlocked_ones!(query).load(conn).await?;
            for row in &rows {
                diesel::update(identities::table.find(row.id))
                    .set(PlanColumns::of(row.generation, &row.plan(self)))
                    .execute(conn)
                    .await?;
            }
            Ok((rows.len(), rows.last().map_or(0, |it| it.id)))
        });
        let (planned, last) = planned?;
        let is_full = planned == usize::from(limit);
        AtomicI64::store(&self.planned_up_to, if is_full { last } else { 0 }, Ordering::Relaxed);
        Ok(planned)
    }

    async fn due_providers(&self) -> Result<Vec<ProviderId>, RepositoryError> {
        let mut conn = self.reader().await?;
        let due = identities::table
            .filter(identities::idp_id.eq(identity_providers::id))
            .filter(identities::refresh_at.le(maybe_now()));
        let providers: Vec<i64> = identity_providers::table
            .filter(exists(due))
            .order(identity_providers::id)
            .select(identity_providers::id)
            .load(&mut *conn)
            .await
            .map_err(Failure::from)?;
        Ok(providers.into_iter().map(ProviderId).collect())
    }

    async fn claim_due(&self, claim: &RefreshClaim) -> Result<Vec<DueRefresh>, RepositoryError> {
        let RefreshClaim { provider_id, limit, time: claimed_for, per_second, urgent_for } = *claim;
        let claimed = in_transaction!(self, async |conn| {
            let Some((next_free, paused_until)) = hold_lane(conn, provider_id).await? else {
                return Ok(Vec::new());
            };
            let now = time(conn).await?;
            let room = refresh_room(now, next_free, per_second).min(usize::from(limit));
            if room == 0 || paused_until.is_some_and(|it| now < it) {
                return Ok(Vec::new());
            }
            let most = i64::try_from(room).unwrap_or(i64::MAX).saturating_mul(CANDIDATES);
            let urgent_from =
                now - TimeDelta::from_std(urgent_for).unwrap_or_else(|_| TimeDelta::zero());
            let urgent = candidates(conn, provider_id, Some(urgent_from), now, most).await?;
            let late = candidates(conn, provider_id, None, urgent_from, most).await?;
            let places = refresh_places_for_late(now, room);
            let of_late = late.len().min(places.max(room.saturating_sub(urgent.len())));
            let mut chosen = choose(conn, urgent, room - of_late).await?;
            chosen.extend(choose(conn, late, of_late).await?);
            // Whose row somebody has in hand is refreshed or changed just now.
            let ids: Vec<i64> = chosen.iter().map(|it| it.id).collect();
            let free = identities::table.filter(identities::id.eq_any(ids)).select(identities::id);
            let free: Vec<i64> = unlocked_ones!(free).load(conn).await?;
            chosen.retain(|it| free.contains(&it.id));
            diesel::update(identities::table.filter(identities::id.eq_any(free)))
                .set(identities::refresh_claimed_until.eq(maybe_now_plus(claimed_for)))
                .execute(conn)
                .await?;
            let used = refresh_rate_used(now, next_free, per_second, chosen.len());
            diesel::update(refresh_lanes::table.find(provider_id.0))
                .set(refresh_lanes::next_free_at.eq(to_microseconds(used)))
                .execute(conn)
                .await?;
            Ok(chosen)
        });
        let due = claimed?.into_iter().filter_map(|row| {
            Some(DueRefresh {
                identity_id: IdentityId(row.id),
                provider_id,
                generation: row.generation,
                refresh_at: row.refresh_at?,
            })
        });
        Ok(due.collect())
    }

    async fn give_back(&self, due: &[DueRefresh]) -> Result<(), RepositoryError> {
        let given = in_transaction!(self, async |conn| {
            for due in due {
                let row = identities::table.find(due.identity_id.0);
                diesel::update(row.filter(identities::generation.eq(due.generation)))
                    .set(identities::refresh_claimed_until.eq(None::<DateTime<Utc>>))
                    .execute(conn)
                    .await?;
            }
            Ok(())
        });
        Ok(given?)
    }

    async fn pause(&self, provider: ProviderId, pause: Duration) -> Result<(), RepositoryError> {
        let paused = in_transaction!(self, async |conn| {
            make_lane(conn, provider).await?;
            let until = refresh_lanes::paused_until;
            let lane = refresh_lanes::table.find(provider.0);
            let longer = until.is_null().or(until.lt(maybe_now_plus(pause)));
            diesel::update(lane.filter(longer))
                .set(until.eq(maybe_now_plus(pause)))
                .execute(conn)
                .await?;
            Ok(())
        });
        Ok(paused?)
    }

    async fn backlog(&self, provider: ProviderId, most: u32) -> Result<u32, RepositoryError> {
        let mut conn = self.reader().await?;
        let now = time(&mut conn).await.map_err(Failure::from)?;
        let count: Number = diesel::sql_query(
            "SELECT count(*) AS value FROM (SELECT 1 FROM identities \
             WHERE idp_id = $1 AND refresh_at <= $2 LIMIT $3) AS due",
        )
        .bind::<BigInt, _>(provider.0)
        .bind::<TimeSql, _>(now)
        .bind::<BigInt, _>(i64::from(most))
        .get_result(&mut *conn)
        .await
        .map_err(Failure::from)?;
        Ok(u32::try_from(count.value).unwrap_or(most))
    }
}
