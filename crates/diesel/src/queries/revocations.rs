use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Map, Value, json};
use symbolon_domain::{
    archive::RevocationRecord,
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    credentials::Credentials,
    device_link::DeviceLinkClaim,
    event::{Actor, EventKind, NewEvent},
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::{AuthIdentityId, DeviceLinkId, ExternalId, IdentityId, ProviderId, RevocationId, UserId},
    page::{Page, PageRequest},
    ports::{
        ClaimedRevocation, Link, LinkOwner, NewRevocation, Place, RepositoryError, RevocationEnd,
        RevocationRepository, Sealer,
    },
    revocation::{GrantOwner, OrphanedGrant, QueuedRevocation, RevocationStatus},
};

use super::{
    Conn, Db, Store, events, identity_row, in_transaction, now, now_plus, schema::revocations,
    time, to_microseconds, unlocked_ones,
};
use crate::{
    failure::Failure,
    values::{actor, external_id, parsed, user},
};

/// Stands where an identity had no part: no row has this id.
const NO_IDENTITY: i64 = 0;

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = revocations, check_for_backend(Db))]
pub(crate) struct Row {
    pub(crate) id: i64,
    identity_id: i64,
    auth_identity_id: Option<i64>,
    provider_id: i64,
    user_id: String,
    external_id: String,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    status: String,
    attempts: i32,
    queued_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
    last_error: Option<String>,
    sealed: Option<Vec<u8>>,
    generation: i64,
    device_link_id: Option<i64>,
}

impl TryFrom<Row> for QueuedRevocation {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        Ok(Self {
            id: RevocationId(row.id),
            owner: row.owner(),
            provider_id: ProviderId(row.provider_id),
            user_id: user(row.user_id)?,
            external_id: external_id(row.external_id)?,
            actor: actor(&row.actor, row.acting_user, row.reason)?,
            status: parsed(&row.status, RevocationStatus::parse)?,
            attempts: u32::try_from(row.attempts).unwrap_or(0),
            queued_at: row.queued_at,
            due_at: row.due_at,
            last_error: row.last_error,
        })
    }
}

impl Row {
    /// The row of a record, under this id.
    pub(crate) fn kept(
        record: &RevocationRecord,
        id: i64,
        sealer: &dyn Sealer,
    ) -> Result<Self, Failure> {
        let it = &record.queued;
        let waits = it.status == RevocationStatus::Waiting;
        let place = place(id, it.provider_id.0, record.generation);
        let grant = record.grant.as_ref().filter(|_| waits);
        Ok(Self {
            id,
            identity_id: it.owner.identity().map_or(NO_IDENTITY, |it| it.0),
            auth_identity_id: it.owner.auth_identity().map(|it| it.0),
            provider_id: it.provider_id.0,
            user_id: it.user_id.as_str().to_owned(),
            external_id: it.external_id.as_str().to_owned(),
            actor: it.actor.who.to_string(),
            acting_user: it.actor.acting_user.as_ref().map(|it| it.as_str().to_owned()),
            reason: it.actor.reason.clone(),
            status: it.status.as_str().to_owned(),
            attempts: i32::try_from(it.attempts).unwrap_or(i32::MAX),
            queued_at: to_microseconds(it.queued_at),
            due_at: to_microseconds(it.due_at),
            last_error: it.last_error.clone(),
            sealed: grant.map(|grant| seal(sealer, &place, grant)).transpose()?,
            generation: record.generation,
            device_link_id: it.owner.device_link().map(|it| it.0),
        })
    }

    /// The record of a row.
    pub(crate) fn record(
        self,
        sealer: &dyn Sealer,
        with_secrets: bool,
    ) -> Result<RevocationRecord, Failure> {
        let grant = if with_secrets { self.open(sealer)? } else { None };
        let generation = self.generation;
        Ok(RevocationRecord { queued: self.try_into()?, grant, generation })
    }

    /// What tells it from others: when, of what, and of which account.
    pub(crate) fn key(&self) -> (DateTime<Utc>, GrantOwner, String) {
        (self.queued_at, self.owner(), self.external_id.clone())
    }

    fn owner(&self) -> GrantOwner {
        match (self.auth_identity_id, self.device_link_id) {
            (Some(id), _) => GrantOwner::AuthIdentity(AuthIdentityId(id)),
            (None, Some(id)) => GrantOwner::DeviceLink(DeviceLinkId(id)),
            (None, None) => GrantOwner::Identity(IdentityId(self.identity_id)),
        }
    }

    fn place(&self) -> Place {
        place(self.id, self.provider_id, self.generation)
    }

    fn open(&self, sealer: &dyn Sealer) -> Result<Option<OrphanedGrant>, Failure> {
        let Some(kept) = &self.sealed else { return Ok(None) };
        let place = self.place();
        let plain = sealer.open(&place, kept).map_err(|error| Failure::sealed(&place, &error))?;
        let grant = OrphanedGrant::from_plain(&plain);
        grant.map(Some).map_err(|error| Failure::unreadable(error.to_string()))
    }

    fn claimed(self, sealer: &dyn Sealer) -> Result<ClaimedRevocation, Failure> {
        // What does not open is the claimant's to tell of.
        let grant = self.open(sealer).unwrap_or_default();
        Ok(ClaimedRevocation { queued: self.try_into()?, grant })
    }
}

fn place(id: i64, provider: i64, generation: i64) -> Place {
    Place { table: "revocations", row: id, idp: provider, generation }
}

fn seal(sealer: &dyn Sealer, place: &Place, grant: &OrphanedGrant) -> Result<Vec<u8>, Failure> {
    sealer.seal(place, &grant.to_plain()).map_err(|error| Failure::sealed(place, &error))
}

/// Queues what a row that goes, or gets other credentials, held. Credentials that do not open are
/// told of instead.
pub(crate) async fn queue_row(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    row: &identity_row::Row,
    actor: &Actor,
) -> Result<Option<RevocationId>, Failure> {
    let identity = row.identity()?;
    let held = Held {
        owner: GrantOwner::Identity(identity.id),
        provider_id: identity.idp_id,
        user_id: identity.user_id,
        external_id: identity.external_id,
        credentials: row.open(sealer),
    };
    queue_held(conn, sealer, held, actor).await
}

/// The same of an account for single sign-on, with its credentials as they open.
pub(crate) async fn queue_account(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    (account, credentials): (&AuthIdentity, Result<Option<Credentials>, Failure>),
    of: &AuthProvider,
    actor: &Actor,
) -> Result<(), Failure> {
    let held = Held {
        owner: GrantOwner::AuthIdentity(account.id),
        provider_id: of.provider_id,
        user_id: account.user_id.clone(),
        external_id: account.ident.clone(),
        credentials,
    };
    queue_held(conn, sealer, held, actor).await.map(drop)
}

/// Queues the grant of a link whose device link is over.
pub(crate) async fn queue_late(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    link: &Link,
    claim: DeviceLinkClaim,
) -> Result<(), Failure> {
    let (Some(credentials), LinkOwner::User(user_id)) = (&link.credentials, &link.owner) else {
        return Ok(());
    };
    let new = NewRevocation {
        owner: GrantOwner::DeviceLink(claim.id),
        provider_id: link.provider_id,
        user_id: user_id.clone(),
        external_id: link.external_id.clone(),
        grant: OrphanedGrant::new(credentials.clone()),
        actor: link.actor.clone(),
    };
    queue(conn, sealer, &new).await.map(drop)
}

/// What a row held.
struct Held {
    owner: GrantOwner,
    provider_id: ProviderId,
    user_id: UserId,
    external_id: ExternalId,
    /// As they open.
    credentials: Result<Option<Credentials>, Failure>,
}

async fn queue_held(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    held: Held,
    actor: &Actor,
) -> Result<Option<RevocationId>, Failure> {
    let Held { owner, provider_id, user_id, external_id, credentials } = held;
    let Ok(credentials) = credentials else {
        let why = "the credentials do not open; end the grant at the provider by hand";
        let mut detail = Map::from_iter([("detail".to_owned(), json!(why))]);
        if let Some(id) = owner.auth_identity() {
            detail.insert("auth_identity_id".to_owned(), json!(id.0));
        }
        let event = NewEvent {
            identity_id: owner.identity(),
            provider_id: Some(provider_id),
            user_id: Some(user_id),
            detail,
            ..NewEvent::new(EventKind::GrantRevocationFailed, actor)
        };
        events::insert(conn, &event).await?;
        return Ok(None);
    };
    let Some(credentials) = credentials else { return Ok(None) };
    let grant = OrphanedGrant::new(credentials);
    let actor = actor.clone();
    let new = NewRevocation { owner, provider_id, user_id, external_id, grant, actor };
    Ok(Some(queue(conn, sealer, &new).await?.id))
}

async fn queue(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    new: &NewRevocation,
) -> Result<QueuedRevocation, Failure> {
    let due = time(conn).await?;
    let row: Row = diesel::insert_into(revocations::table)
        .values((
            revocations::identity_id.eq(new.owner.identity().map_or(NO_IDENTITY, |it| it.0)),
            revocations::auth_identity_id.eq(new.owner.auth_identity().map(|it| it.0)),
            revocations::device_link_id.eq(new.owner.device_link().map(|it| it.0)),
            revocations::provider_id.eq(new.provider_id.0),
            revocations::user_id.eq(new.user_id.as_str()),
            revocations::external_id.eq(new.external_id.as_str()),
            revocations::actor.eq(new.actor.who.to_string()),
            revocations::acting_user.eq(new.actor.acting_user.as_ref().map(UserId::as_str)),
            revocations::reason.eq(&new.actor.reason),
            revocations::status.eq(RevocationStatus::Waiting.as_str()),
            revocations::attempts.eq(0),
            revocations::queued_at.eq(due),
            revocations::due_at.eq(due),
            revocations::generation.eq(1),
        ))
        .returning(Row::as_returning())
        .get_result(conn)
        .await?;
    // The row's id is part of what the grant is bound to.
    let kept = seal(sealer, &row.place(), &new.grant)?;
    diesel::update(revocations::table.find(row.id))
        .set(revocations::sealed.eq(kept))
        .execute(conn)
        .await?;
    let queued = row.try_into()?;
    log(conn, EventKind::GrantRevocationQueued, &queued, Map::new()).await?;
    Ok(queued)
}

/// Gives the grants that wait for this provider a copy of it, as it goes. Where its secrets do not
/// open (`None`), they go without, and the attempt says so.
pub(crate) async fn keep_provider(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    provider: &IdentityProvider,
    secrets: Option<ProviderSecrets>,
) -> Result<(), Failure> {
    let Some(secrets) = secrets else { return Ok(()) };
    let query = revocations::table
        .filter(revocations::provider_id.eq(provider.id.0))
        .filter(revocations::status.eq(RevocationStatus::Waiting.as_str()))
        .order(revocations::id)
        .select(Row::as_select());
    let rows: Vec<Row> = super::locked!(query).load(conn).await?;
    for row in rows {
        // One that does not open stays as it is: nobody could use the copy either.
        let Ok(Some(mut grant)) = row.open(sealer) else { continue };
        grant.provider = Some((provider.clone(), secrets.clone()));
        let generation = row.generation + 1;
        let kept = seal(sealer, &place(row.id, row.provider_id, generation), &grant)?;
        diesel::update(revocations::table.find(row.id))
            .set((revocations::sealed.eq(kept), revocations::generation.eq(generation)))
            .execute(conn)
            .await?;
    }
    Ok(())
}

async fn log(
    conn: &mut Conn,
    about: EventKind,
    queued: &QueuedRevocation,
    detail: Map<String, Value>,
) -> Result<(), Failure> {
    Ok(events::insert(conn, &queued.told(about, detail)).await?)
}

/// One claim, where it is due still.
async fn claim(conn: &mut Conn, id: i64, time: Duration) -> QueryResult<Option<Row>> {
    let due = revocations::table
        .find(id)
        .filter(revocations::status.eq(RevocationStatus::Waiting.as_str()))
        .filter(revocations::due_at.le(now()));
    diesel::update(due)
        .set((
            revocations::attempts.eq(revocations::attempts + 1),
            revocations::due_at.eq(now_plus(time)),
        ))
        .returning(Row::as_returning())
        .get_result(conn)
        .await
        .optional()
}

#[async_trait]
impl RevocationRepository for Store {
    async fn queue(&self, new: &NewRevocation) -> Result<QueuedRevocation, RepositoryError> {
        Ok(in_transaction!(self, async |conn| queue(conn, &*self.sealer, new).await)?)
    }

    async fn claim_due(
        &self,
        limit: u16,
        time: Duration,
    ) -> Result<Vec<ClaimedRevocation>, RepositoryError> {
        let claimed = in_transaction!(self, async |conn| {
            let due = revocations::table
                .filter(revocations::status.eq(RevocationStatus::Waiting.as_str()))
                .filter(revocations::due_at.le(now()))
                .order((revocations::due_at, revocations::id))
                .limit(i64::from(limit))
                .select(revocations::id);
            let ids: Vec<i64> = unlocked_ones!(due).load(conn).await?;
            let mut rows = Vec::with_capacity(ids.len());
            for id in ids {
                rows.extend(claim(conn, id, time).await?);
            }
            Ok(rows)
        });
        let claimed = claimed?.into_iter().map(|row| row.claimed(&*self.sealer));
        Ok(claimed.collect::<Result<_, Failure>>()?)
    }

    async fn claim(
        &self,
        id: RevocationId,
        time: Duration,
    ) -> Result<Option<ClaimedRevocation>, RepositoryError> {
        let row = claim(&mut *self.writer().await?, id.0, time).await.map_err(Failure::from)?;
        Ok(row.map(|row| row.claimed(&*self.sealer)).transpose()?)
    }

    async fn settle(
        &self,
        claimed: &QueuedRevocation,
        end: &RevocationEnd,
    ) -> Result<bool, RepositoryError> {
        let attempts = i32::try_from(claimed.attempts).unwrap_or(i32::MAX);
        let settled = in_transaction!(self, async |conn| {
            let own = revocations::table
                .find(claimed.id.0)
                .filter(revocations::status.eq(RevocationStatus::Waiting.as_str()))
                .filter(revocations::attempts.eq(attempts));
            let (status, error) = match end {
                RevocationEnd::Revoked => (RevocationStatus::Revoked, None),
                RevocationEnd::Failed(why) => (RevocationStatus::Failed, Some(why)),
                RevocationEnd::Later { pause, error } => {
                    let written = diesel::update(own)
                        .set((
                            revocations::due_at.eq(now_plus(*pause)),
                            revocations::last_error.eq(error),
                        ))
                        .execute(conn)
                        .await?;
                    return Ok(written > 0);
                }
            };
            let row: Option<Row> = diesel::update(own)
                .set((
                    revocations::status.eq(status.as_str()),
                    revocations::last_error.eq(error),
                    revocations::sealed.eq(None::<Vec<u8>>),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let Some(row) = row else { return Ok(false) };
            let mut detail = Map::new();
            let mut about = EventKind::GrantRevoked;
            if let Some(why) = error {
                about = EventKind::GrantRevocationFailed;
                detail.insert("detail".to_owned(), json!(why));
            }
            log(conn, about, &row.try_into()?, detail).await?;
            Ok(true)
        });
        Ok(settled?)
    }

    async fn list(&self, page: PageRequest) -> Result<Page<QueuedRevocation>, RepositoryError> {
        let mut query = revocations::table.select(Row::as_select()).into_boxed::<Db>();
        if let Some(after) = page.after {
            query = query.filter(revocations::id.gt(after));
        }
        let rows: Vec<Row> = query
            .order(revocations::id)
            .limit(i64::from(page.limit) + 1)
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let queued = rows.into_iter().map(QueuedRevocation::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(queued, page.limit, |it: &QueuedRevocation| it.id.0))
    }
}
