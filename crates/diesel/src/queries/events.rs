use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use symbolon_domain::{
    event::{Actor, Event, EventKind, NewEvent, Who},
    ids::{EventId, IdentityId, OrganizationId, ProviderId, UserId},
    page::{Page, PageRequest},
    ports::{EventFilter, EventLog, RepositoryError},
};

use super::{
    Conn, Db, Store, in_transaction, locked, now,
    schema::{events, identity_providers},
    sequence,
};
use crate::{
    failure::Failure,
    values::{object, organization, parsed, user},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = events, check_for_backend(Db))]
pub(crate) struct Row {
    seq: Option<i64>,
    at: DateTime<Utc>,
    kind: String,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    identity_id: Option<i64>,
    provider_id: Option<i64>,
    user_id: Option<String>,
    organization_id: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
    detail: Value,
}

impl TryFrom<Row> for Event {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        Ok(Self {
            id: EventId(row.seq.ok_or_else(|| Failure::unreadable("an event has no place yet"))?),
            at: row.at,
            about: parsed(&row.kind, EventKind::parse)?,
            actor: Actor {
                who: parsed(&row.actor, Who::parse)?,
                acting_user: row.acting_user.map(user).transpose()?,
                reason: row.reason,
            },
            identity_id: row.identity_id.map(IdentityId),
            provider_id: row.provider_id.map(ProviderId),
            user_id: row.user_id.map(user).transpose()?,
            organization_id: row.organization_id.map(organization).transpose()?,
            before: row.before.map(object).transpose()?,
            after: row.after.map(object).transpose()?,
            detail: object(row.detail)?,
        })
    }
}

/// A whole row, of one of the many that an import writes.
#[derive(Insertable)]
#[diesel(table_name = events, check_for_backend(Db))]
pub(crate) struct Kept {
    id: Option<i64>,
    at: DateTime<Utc>,
    kind: String,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    identity_id: Option<i64>,
    provider_id: Option<i64>,
    user_id: Option<String>,
    organization_id: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
    detail: Value,
    seq: Option<i64>,
}

impl Kept {
    /// The row of an event that happened now, and has this place.
    pub(crate) fn new(event: NewEvent, at: DateTime<Utc>, seq: Option<i64>) -> Self {
        let row = Self::of(&event.kept(EventId(0), at), None);
        Self { seq, ..row }
    }

    /// The row of this id of an event that happened elsewhere.
    pub(crate) fn of(event: &Event, id: Option<i64>) -> Self {
        Self {
            id,
            at: super::to_microseconds(event.at),
            kind: event.about.as_str().to_owned(),
            actor: event.actor.who.to_string(),
            acting_user: event.actor.acting_user.as_ref().map(|it| it.as_str().to_owned()),
            reason: event.actor.reason.clone(),
            identity_id: event.identity_id.map(|it| it.0),
            provider_id: event.provider_id.map(|it| it.0),
            user_id: event.user_id.as_ref().map(|it| it.as_str().to_owned()),
            organization_id: event.organization_id.as_ref().map(|it| it.as_str().to_owned()),
            before: event.before.clone().map(Value::Object),
            after: event.after.clone().map(Value::Object),
            detail: Value::Object(event.detail.clone()),
            seq: Some(event.id.0),
        }
    }
}

/// Writes an event, in the transaction of what it tells of.
pub(crate) async fn insert(conn: &mut Conn, event: &NewEvent) -> QueryResult<()> {
    diesel::insert_into(events::table)
        .values((
            events::at.eq(now()),
            events::kind.eq(event.about.as_str()),
            events::actor.eq(event.actor.who.to_string()),
            events::acting_user.eq(event.actor.acting_user.as_ref().map(UserId::as_str)),
            events::reason.eq(&event.actor.reason),
            events::identity_id.eq(event.identity_id.map(|it| it.0)),
            events::provider_id.eq(event.provider_id.map(|it| it.0)),
            events::user_id.eq(event.user_id.as_ref().map(UserId::as_str)),
            events::organization_id.eq(event.organization_id.as_ref().map(OrganizationId::as_str)),
            events::before.eq(event.before.clone().map(Value::Object)),
            events::after.eq(event.after.clone().map(Value::Object)),
            events::detail.eq(Value::Object(event.detail.clone())),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

#[async_trait]
impl EventLog for Store {
    async fn append(&self, event: &NewEvent) -> Result<(), RepositoryError> {
        Ok(insert(&mut *self.writer().await?, event).await.map_err(Failure::from)?)
    }

    async fn append_turn(
        &self,
        event: &NewEvent,
        opposite: EventKind,
        may_come_first: bool,
    ) -> Result<bool, RepositoryError> {
        let Some(provider) = event.provider_id else { return Ok(false) };
        let added: Result<bool, Failure> = in_transaction!(self, async |conn| {
            // One after the other for each instance: what the last one added is seen by the next.
            let instance = identity_providers::table.find(provider.0);
            let query = instance.select(identity_providers::id);
            let there: Option<i64> = locked!(query).first(conn).await.optional()?;
            if there.is_none() {
                return Ok(false);
            }
            // By the id: the latest may have no place yet. Under the lock ids are in order.
            let last: Option<String> = events::table
                .filter(events::provider_id.eq(provider.0))
                .filter(events::kind.eq_any([event.about.as_str(), opposite.as_str()]))
                .order(events::id.desc())
                .select(events::kind)
                .first(conn)
                .await
                .optional()?;
            let is_turn = last.map_or(may_come_first, |it| it == opposite.as_str());
            if is_turn {
                insert(conn, event).await?;
            }
            Ok(is_turn)
        });
        Ok(added?)
    }

    async fn list(
        &self,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        sequence(conn).await.map_err(Failure::from)?;
        let rows: Vec<Row> = list_query(filter, page).load(conn).await.map_err(Failure::from)?;
        let events = rows.into_iter().map(Event::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(events, page.limit, |it: &Event| it.id.0))
    }

    async fn find_last(&self, filter: &EventFilter) -> Result<Option<Event>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        sequence(conn).await.map_err(Failure::from)?;
        let rows: Vec<Row> = last_query(filter).load(conn).await.map_err(Failure::from)?;
        Ok(rows.into_iter().next().map(Event::try_from).transpose()?)
    }
}

/// The query of a list; its plan is what the tests look at.
pub(crate) fn list_query(filter: &EventFilter, page: PageRequest) -> Meant<'_> {
    meant(filter)
        .filter(events::seq.gt(page.after.unwrap_or(0)))
        .order(events::seq)
        .limit(i64::from(page.limit) + 1)
}

/// The query of the last event.
pub(crate) fn last_query(filter: &EventFilter) -> Meant<'_> {
    meant(filter).order(events::seq.desc()).limit(1)
}

/// The events that a filter means and that have their place.
fn meant(filter: &EventFilter) -> Meant<'_> {
    let mut query = events::table.select(Row::as_select()).into_boxed::<Db>();
    query = query.filter(events::seq.gt(filter.after.map_or(0, |it| it.0)));
    match filter.kinds.as_slice() {
        [] => {}
        // One index range, which keeps its order.
        [kind] => query = query.filter(events::kind.eq(kind.as_str())),
        kinds => query = query.filter(events::kind.eq_any(kinds.iter().map(|it| it.as_str()))),
    }
    if let Some(id) = filter.identity_id {
        query = query.filter(events::identity_id.eq(id.0));
    }
    if let Some(id) = filter.provider_id {
        query = query.filter(events::provider_id.eq(id.0));
    }
    if let Some(id) = &filter.user_id {
        query = query.filter(events::user_id.eq(id.as_str()));
    }
    if let Some(id) = &filter.organization_id {
        query = query.filter(events::organization_id.eq(id.as_str()));
    }
    query
}

pub(crate) type Meant<'a> =
    events::BoxedQuery<'a, Db, diesel::dsl::SqlTypeOf<diesel::dsl::AsSelect<Row, Db>>>;
