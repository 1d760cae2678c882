use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use symbolon_domain::{
    device_link::{
        ClaimedDeviceLink, DeviceLink, DeviceLinkClaim, DeviceLinkEnd, DeviceLinkStatus,
        NewDeviceLink,
    },
    event::{EventKind, NewEvent},
    ids::{DeviceLinkId, IdentityId, OrganizationId, ProviderId, UserId},
    link_session::LinkFailure,
    ports::{DeviceLinkRepository, Place, RepositoryError, Sealer},
    secret::Secret,
};

use super::{
    Conn, Db, Store, events, in_transaction, locked, now, now_plus, schema::device_links, time,
    unlocked_ones,
};
use crate::{
    failure::Failure,
    values::{actor, object, organization, parsed, texts, user},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = device_links, check_for_backend(Db))]
struct Row {
    id: i64,
    user_id: String,
    provider_id: i64,
    scopes: Value,
    status: String,
    identity_id: Option<i64>,
    error: Option<String>,
    created_by: String,
    created_for: Option<String>,
    created_because: Option<String>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    poll_seconds: i64,
    polls: i64,
    device_code: Option<Vec<u8>>,
    organization_id: Option<String>,
}

const PENDING: &str = DeviceLinkStatus::Pending.as_str();

impl Row {
    /// The link as it reads at `now`.
    fn seen(self, now: DateTime<Utc>) -> Result<DeviceLink, Failure> {
        let expired = self.status == PENDING && self.expires_at <= now;
        Ok(DeviceLink {
            id: DeviceLinkId(self.id),
            user_id: user(self.user_id)?,
            provider_id: ProviderId(self.provider_id),
            organization_id: self.organization_id.map(organization).transpose()?,
            scopes: texts(self.scopes)?,
            status: if expired {
                DeviceLinkStatus::Expired
            } else {
                parsed(&self.status, DeviceLinkStatus::parse)?
            },
            identity_id: self.identity_id.map(IdentityId),
            error: self.error.map(|it| parsed(&it, LinkFailure::parse)).transpose()?,
            created_by: actor(&self.created_by, self.created_for, self.created_because)?,
            created_at: self.created_at,
            expires_at: self.expires_at,
        })
    }

    fn place(&self) -> Place {
        Place { table: "device_links", row: self.id, idp: self.provider_id, generation: 1 }
    }

    fn claimed(
        self,
        sealer: &dyn Sealer,
        now: DateTime<Utc>,
    ) -> Result<ClaimedDeviceLink, Failure> {
        let claim = DeviceLinkClaim { id: DeviceLinkId(self.id), poll: self.polls };
        let interval = Duration::from_secs(u64::try_from(self.poll_seconds).unwrap_or(0));
        // What does not open is the claimant's to tell of.
        let device_code = self.device_code.as_ref().and_then(|kept| {
            let plain = sealer.open(&self.place(), kept).ok()?;
            std::str::from_utf8(&plain).ok().map(Secret::new)
        });
        Ok(ClaimedDeviceLink { link: self.seen(now)?, claim, device_code, interval })
    }
}

fn seconds(interval: Duration) -> i64 {
    i64::try_from(interval.as_secs()).unwrap_or(i64::MAX)
}

/// A pending device link whose time has not run out.
macro_rules! pending {
    ($query:expr) => {
        $query.filter(device_links::status.eq(PENDING)).filter(device_links::expires_at.gt(now()))
    };
}

/// The same, as long as this claim is its last one.
macro_rules! held {
    ($claim:expr) => {
        pending!(device_links::table.find($claim.id.0)).filter(device_links::polls.eq($claim.poll))
    };
}

/// Locks the device link of this claim, and answers its organization; `None` when the claim is not
/// its last one, or it has ended.
pub(crate) async fn find_held(
    conn: &mut Conn,
    claim: DeviceLinkClaim,
) -> QueryResult<Option<Option<String>>> {
    let query = held!(claim).select(device_links::organization_id);
    locked!(query).first(conn).await.optional()
}

/// Ends a device link by what was linked.
pub(crate) async fn settle(
    conn: &mut Conn,
    claim: DeviceLinkClaim,
    identity: IdentityId,
) -> Result<(), Failure> {
    let settled = diesel::update(held!(claim))
        .set((
            device_links::status.eq(DeviceLinkStatus::Linked.as_str()),
            device_links::identity_id.eq(identity.0),
            device_links::device_code.eq(None::<Vec<u8>>),
        ))
        .execute(conn)
        .await?;
    // Its time ran out in between.
    if settled == 0 { Err(Failure::Changed) } else { Ok(()) }
}

/// Ends the device links of this provider.
pub(crate) async fn expire_of(conn: &mut Conn, provider: ProviderId) -> QueryResult<()> {
    let there = device_links::table
        .filter(device_links::provider_id.eq(provider.0))
        .filter(device_links::status.eq(PENDING));
    diesel::update(there).set(expired()).execute(conn).await.map(drop)
}

/// What an expired one keeps of its code: nothing.
type Expired = (
    diesel::dsl::Eq<device_links::status, &'static str>,
    diesel::dsl::Eq<device_links::device_code, Option<Vec<u8>>>,
);

fn expired() -> Expired {
    (
        device_links::status.eq(DeviceLinkStatus::Expired.as_str()),
        device_links::device_code.eq(None),
    )
}

#[async_trait]
impl DeviceLinkRepository for Store {
    async fn insert(&self, new: &NewDeviceLink) -> Result<DeviceLink, RepositoryError> {
        let inserted = in_transaction!(self, async |conn| {
            let by = &new.created_by;
            // One moment for all three, or the life would be a little longer than it should be.
            let made = time(conn).await?;
            let after = |time: Duration| {
                let time = TimeDelta::from_std(time).ok();
                time.and_then(|it| made.checked_add_signed(it)).unwrap_or(made)
            };
            let row: Row = diesel::insert_into(device_links::table)
                .values((
                    device_links::user_id.eq(new.user_id.as_str()),
                    device_links::provider_id.eq(new.provider_id.0),
                    device_links::scopes.eq(json!(new.scopes)),
                    device_links::status.eq(PENDING),
                    device_links::created_by.eq(by.who.to_string()),
                    device_links::created_for.eq(by.acting_user.as_ref().map(UserId::as_str)),
                    device_links::created_because.eq(&by.reason),
                    device_links::created_at.eq(made),
                    device_links::expires_at.eq(after(new.expires_in)),
                    device_links::poll_seconds.eq(seconds(new.interval)),
                    device_links::next_poll_at.eq(after(new.interval)),
                    device_links::polls.eq(0),
                    device_links::organization_id
                        .eq(new.organization_id.as_ref().map(OrganizationId::as_str)),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            // The row's id is part of what the code is bound to.
            let place = row.place();
            let sealed = self.sealer.seal(&place, new.device_code.expose().as_bytes());
            let sealed = sealed.map_err(|error| Failure::sealed(&place, &error))?;
            diesel::update(device_links::table.find(row.id))
                .set(device_links::device_code.eq(sealed))
                .execute(conn)
                .await?;
            row.seen(made)
        });
        Ok(inserted?)
    }

    async fn find(&self, id: DeviceLinkId) -> Result<Option<DeviceLink>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        let row = device_links::table.find(id.0).select(Row::as_select());
        let row: Option<Row> = row.first(conn).await.optional().map_err(Failure::from)?;
        let now = time(conn).await.map_err(Failure::from)?;
        Ok(row.map(|it| it.seen(now)).transpose()?)
    }

    async fn claim_due(
        &self,
        limit: u16,
        claim: Duration,
    ) -> Result<Vec<ClaimedDeviceLink>, RepositoryError> {
        let due = || pending!(device_links::table).filter(device_links::next_poll_at.le(now()));
        {
            // Most looks find nothing: they take no lock.
            let conn = &mut *self.reader().await?;
            let any = due().select(device_links::id).first::<i64>(conn).await.optional();
            if any.map_err(Failure::from)?.is_none() {
                return Ok(Vec::new());
            }
        }
        let claimed = in_transaction!(self, async |conn| {
            let query = due()
                .order((device_links::next_poll_at, device_links::id))
                .limit(i64::from(limit))
                .select(device_links::id);
            let ids: Vec<i64> = unlocked_ones!(query).load(conn).await?;
            let mut rows: Vec<Row> = Vec::with_capacity(ids.len());
            for id in ids {
                let free = pending!(device_links::table.find(id))
                    .filter(device_links::next_poll_at.le(now()));
                let row: Option<Row> = diesel::update(free)
                    .set((
                        device_links::polls.eq(device_links::polls + 1),
                        device_links::next_poll_at.eq(now_plus(claim)),
                    ))
                    .returning(Row::as_returning())
                    .get_result(conn)
                    .await
                    .optional()?;
                rows.extend(row);
            }
            let now = time(conn).await?;
            rows.into_iter().map(|row| row.claimed(&*self.sealer, now)).collect()
        });
        Ok(claimed?)
    }

    async fn poll_later(
        &self,
        claim: DeviceLinkClaim,
        pause: Duration,
        interval: Duration,
    ) -> Result<bool, RepositoryError> {
        let written = diesel::update(held!(claim))
            .set((
                device_links::next_poll_at.eq(now_plus(pause)),
                device_links::poll_seconds.eq(seconds(interval)),
            ))
            .execute(&mut *self.writer().await?)
            .await
            .map_err(Failure::from)?;
        Ok(written == 1)
    }

    async fn end(
        &self,
        claim: DeviceLinkClaim,
        end: DeviceLinkEnd,
    ) -> Result<bool, RepositoryError> {
        let ended = in_transaction!(self, async |conn| {
            let DeviceLinkEnd::Failed(why) = end else {
                let ended = diesel::update(held!(claim)).set(expired()).execute(conn).await?;
                return Ok(ended == 1);
            };
            let row: Option<Row> = diesel::update(held!(claim))
                .set((
                    device_links::status.eq(DeviceLinkStatus::Failed.as_str()),
                    device_links::error.eq(why.as_str()),
                    device_links::device_code.eq(None::<Vec<u8>>),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let Some(row) = row else { return Ok(false) };
            let now = time(conn).await?;
            let link = row.seen(now)?;
            let event = NewEvent {
                provider_id: Some(link.provider_id),
                user_id: Some(link.user_id),
                organization_id: link.organization_id,
                detail: object(json!({ "device_link_id": link.id.0, "error": why.as_str() }))?,
                ..NewEvent::new(EventKind::DeviceLinkFailed, &link.created_by)
            };
            events::insert(conn, &event).await?;
            Ok(true)
        });
        Ok(ended?)
    }

    async fn expire(&self) -> Result<u64, RepositoryError> {
        let over = device_links::table
            .filter(device_links::status.eq(PENDING))
            .filter(device_links::expires_at.le(now()));
        let expired = diesel::update(over)
            .set(expired())
            .execute(&mut *self.writer().await?)
            .await
            .map_err(Failure::from)?;
        Ok(expired as u64)
    }
}
