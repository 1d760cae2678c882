use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use symbolon_domain::{
    archive::WebhookEndpointRecord,
    event::{Actor, Event, EventKind, NewEvent},
    ids::{EventId, IdentityId, WebhookDeliveryId, WebhookEndpointId},
    page::{Page, PageRequest},
    ports::{
        ClaimedDelivery, DeliveryEnd, NewWebhookEndpoint, Place, RepositoryError, Sealer,
        WebhookEndpointUpdate, WebhookRepository,
    },
    secret::Secret,
    webhook::{DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookSecrets},
};

use super::{
    Conn, Db, SKIP_CLAIMED, Store, TimeSql, events, in_transaction, locked, maybe_now,
    maybe_now_plus, now,
    schema::{
        events as events_table, webhook_deliveries as deliveries, webhook_endpoints as endpoints,
    },
    sequence, time, to_microseconds,
};
use crate::{
    failure::Failure,
    values::{parsed, texts},
};

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = endpoints, check_for_backend(Db))]
pub(crate) struct EndpointRow {
    pub(crate) id: i64,
    url: String,
    kinds: Value,
    enabled: bool,
    secrets: Vec<u8>,
    generation: i64,
    position: i64,
    created_at: DateTime<Utc>,
}

impl EndpointRow {
    /// The row of a record, under this id and at this position.
    pub(crate) fn kept(
        record: &WebhookEndpointRecord,
        secrets: &WebhookSecrets,
        id: i64,
        position: i64,
        sealer: &dyn Sealer,
    ) -> Result<Self, Failure> {
        let (it, generation) = (&record.endpoint, record.generation);
        Ok(Self {
            id,
            url: it.url.as_str().to_owned(),
            kinds: texts_of(&it.kinds),
            enabled: it.enabled,
            secrets: seal(sealer, id, generation, secrets)?,
            generation,
            position,
            created_at: to_microseconds(it.created_at),
        })
    }

    /// The record of a row, of whose deliveries this one is the first that is pending.
    pub(crate) fn record(
        &self,
        pending: Option<i64>,
        sealer: &dyn Sealer,
        with_secrets: bool,
    ) -> Result<WebhookEndpointRecord, Failure> {
        let before = pending.map_or(self.position, |it| self.position.min(it - 1));
        Ok(WebhookEndpointRecord {
            endpoint: self.endpoint()?,
            secrets: if with_secrets { Some(self.open(sealer)?) } else { None },
            generation: self.generation,
            position: EventId(before),
        })
    }

    pub(crate) fn endpoint(&self) -> Result<WebhookEndpoint, Failure> {
        let kinds = texts(self.kinds.clone())?;
        Ok(WebhookEndpoint {
            id: WebhookEndpointId(self.id),
            url: self.url.parse().map_err(|_| Failure::unreadable("an address is none"))?,
            kinds: kinds.iter().map(|it| parsed(it, EventKind::parse)).collect::<Result<_, _>>()?,
            enabled: self.enabled,
            created_at: self.created_at,
        })
    }

    fn open(&self, sealer: &dyn Sealer) -> Result<WebhookSecrets, Failure> {
        let place = place(self.id, self.generation);
        let plain =
            sealer.open(&place, &self.secrets).map_err(|error| Failure::sealed(&place, &error))?;
        WebhookSecrets::from_plain(&plain).map_err(|error| Failure::unreadable(error.to_string()))
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = deliveries, check_for_backend(Db))]
struct DeliveryRow {
    id: i64,
    endpoint_id: i64,
    event_id: i64,
    identity_id: Option<i64>,
    kind: String,
    status: String,
    attempts: i32,
    next_attempt_at: DateTime<Utc>,
    last_status: Option<i32>,
    last_error: Option<String>,
    created_at: DateTime<Utc>,
    settled_at: Option<DateTime<Utc>>,
}

impl TryFrom<DeliveryRow> for WebhookDelivery {
    type Error = Failure;

    fn try_from(row: DeliveryRow) -> Result<Self, Failure> {
        let number = |_| Failure::unreadable("a number is out of range");
        Ok(Self {
            id: WebhookDeliveryId(row.id),
            endpoint_id: WebhookEndpointId(row.endpoint_id),
            event_id: EventId(row.event_id),
            kind: parsed(&row.kind, EventKind::parse)?,
            identity_id: row.identity_id.map(IdentityId),
            status: parsed(&row.status, DeliveryStatus::parse)?,
            attempts: row.attempts.try_into().map_err(number)?,
            next_attempt_at: row.next_attempt_at,
            last_status: row.last_status.map(u16::try_from).transpose().map_err(number)?,
            last_error: row.last_error,
            created_at: row.created_at,
            settled_at: row.settled_at,
        })
    }
}

fn place(id: i64, generation: i64) -> Place {
    Place { table: "webhook_endpoints", row: id, idp: 0, generation }
}

fn seal(
    sealer: &dyn Sealer,
    id: i64,
    generation: i64,
    secrets: &WebhookSecrets,
) -> Result<Vec<u8>, Failure> {
    let place = place(id, generation);
    sealer.seal(&place, &secrets.to_plain()).map_err(|error| Failure::sealed(&place, &error))
}

fn texts_of(kinds: &[EventKind]) -> Value {
    json!(kinds.iter().map(|it| it.as_str()).collect::<Vec<_>>())
}

async fn find(conn: &mut Conn, id: WebhookEndpointId) -> QueryResult<Option<EndpointRow>> {
    let rows = endpoints::table.find(id.0).select(EndpointRow::as_select());
    rows.first(conn).await.optional()
}

async fn find_locked(conn: &mut Conn, id: WebhookEndpointId) -> QueryResult<Option<EndpointRow>> {
    let rows = endpoints::table.find(id.0).select(EndpointRow::as_select());
    locked!(rows).first(conn).await.optional()
}

/// Writes the event of an endpoint's change.
async fn log(
    conn: &mut Conn,
    about: EventKind,
    actor: &Actor,
    before: Option<&WebhookEndpoint>,
    after: Option<&WebhookEndpoint>,
) -> Result<(), Failure> {
    let event = NewEvent::of_webhook_endpoint(about, actor, before, after);
    Ok(events::insert(conn, &event).await?)
}

/// The last event that has its place; 0 when there is none.
pub(crate) async fn last_event(conn: &mut Conn) -> QueryResult<i64> {
    sequence(conn).await?;
    let last: Option<i64> =
        events_table::table.select(diesel::dsl::max(events_table::seq)).first(conn).await?;
    Ok(last.unwrap_or(0))
}

#[derive(QueryableByName)]
struct Due {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    id: i64,
}

/// Those that somebody may take, each the earliest of its identity. The states stand in the text,
/// as partial indexes want them.
fn due() -> String {
    format!(
        "SELECT d.id FROM webhook_deliveries AS d \
         WHERE d.endpoint_id = $1 AND d.status = 'pending' AND d.next_attempt_at <= $2 \
         AND (d.claimed_until IS NULL OR d.claimed_until <= $3) \
         AND NOT EXISTS (SELECT 1 FROM webhook_deliveries AS e \
             WHERE e.endpoint_id = d.endpoint_id AND e.identity_id = d.identity_id \
             AND e.status = 'pending' AND e.event_id < d.event_id) \
         ORDER BY d.next_attempt_at, d.event_id LIMIT $4 {SKIP_CLAIMED}"
    )
}

/// What makes a delivery pending again.
macro_rules! restarted {
    () => {
        (
            deliveries::status.eq(DeliveryStatus::Pending.as_str()),
            deliveries::attempts.eq(0),
            deliveries::next_attempt_at.eq(now()),
            deliveries::claimed_until.eq(None::<DateTime<Utc>>),
            deliveries::settled_at.eq(None::<DateTime<Utc>>),
        )
    };
}

#[async_trait]
impl WebhookRepository for Store {
    async fn insert(
        &self,
        new: &NewWebhookEndpoint,
        actor: &Actor,
    ) -> Result<WebhookEndpoint, RepositoryError> {
        let created = in_transaction!(self, async |conn| {
            // What commits later gets a later place, so nothing falls between.
            let position = last_event(conn).await?;
            let row: EndpointRow = diesel::insert_into(endpoints::table)
                .values((
                    endpoints::url.eq(new.url.as_str()),
                    endpoints::kinds.eq(texts_of(&new.kinds)),
                    endpoints::enabled.eq(new.enabled),
                    endpoints::secrets.eq(Vec::<u8>::new()),
                    endpoints::generation.eq(1),
                    endpoints::position.eq(position),
                    endpoints::created_at.eq(now()),
                ))
                .returning(EndpointRow::as_returning())
                .get_result(conn)
                .await?;
            // The row's id is part of what the secrets are bound to.
            let secrets = WebhookSecrets::one(new.secret.clone());
            let secrets = seal(&*self.sealer, row.id, 1, &secrets)?;
            diesel::update(endpoints::table.find(row.id))
                .set(endpoints::secrets.eq(secrets))
                .execute(conn)
                .await?;
            let created = row.endpoint()?;
            log(conn, EventKind::WebhookEndpointCreated, actor, None, Some(&created)).await?;
            Ok(created)
        });
        Ok(created?)
    }

    async fn find(
        &self,
        id: WebhookEndpointId,
    ) -> Result<Option<WebhookEndpoint>, RepositoryError> {
        let row = find(&mut *self.reader().await?, id).await.map_err(Failure::from)?;
        Ok(row.map(|it| it.endpoint()).transpose()?)
    }

    async fn find_with_secrets(
        &self,
        id: WebhookEndpointId,
    ) -> Result<Option<(WebhookEndpoint, WebhookSecrets)>, RepositoryError> {
        let row = find(&mut *self.reader().await?, id).await.map_err(Failure::from)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((row.endpoint()?, row.open(&*self.sealer)?)))
    }

    async fn list(&self, page: PageRequest) -> Result<Page<WebhookEndpoint>, RepositoryError> {
        let rows: Vec<EndpointRow> = endpoints::table
            .filter(endpoints::id.gt(page.after.unwrap_or(0)))
            .order(endpoints::id)
            .limit(i64::from(page.limit) + 1)
            .select(EndpointRow::as_select())
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let rows = rows.iter().map(EndpointRow::endpoint).collect::<Result<_, _>>()?;
        Ok(Page::cut(rows, page.limit, |it: &WebhookEndpoint| it.id.0))
    }

    async fn update(
        &self,
        id: WebhookEndpointId,
        update: &WebhookEndpointUpdate,
        actor: &Actor,
    ) -> Result<Option<WebhookEndpoint>, RepositoryError> {
        let updated = in_transaction!(self, async |conn| {
            let Some(row) = find_locked(conn, id).await? else { return Ok(None) };
            let before = row.endpoint()?;
            let WebhookEndpointUpdate { url, kinds, enabled } = update.clone();
            let after = WebhookEndpoint {
                url: url.unwrap_or_else(|| before.url.clone()),
                kinds: kinds.unwrap_or_else(|| before.kinds.clone()),
                enabled: enabled.unwrap_or(before.enabled),
                ..before.clone()
            };
            if after == before {
                return Ok(Some(after));
            }
            diesel::update(endpoints::table.find(id.0))
                .set((
                    endpoints::url.eq(after.url.as_str()),
                    endpoints::kinds.eq(texts_of(&after.kinds)),
                    endpoints::enabled.eq(after.enabled),
                ))
                .execute(conn)
                .await?;
            let kind = EventKind::WebhookEndpointUpdated;
            log(conn, kind, actor, Some(&before), Some(&after)).await?;
            Ok(Some(after))
        });
        Ok(updated?)
    }

    async fn rotate_secret(
        &self,
        id: WebhookEndpointId,
        secret: &Secret,
        overlap: Duration,
        actor: &Actor,
    ) -> Result<Option<WebhookEndpoint>, RepositoryError> {
        let rotated = in_transaction!(self, async |conn| {
            let Some(row) = find_locked(conn, id).await? else { return Ok(None) };
            let now = time(conn).await?;
            let secrets = row.open(&*self.sealer)?.rotated(secret.clone(), now + overlap, now);
            let generation = row.generation + 1;
            diesel::update(endpoints::table.find(id.0))
                .set((
                    endpoints::secrets.eq(seal(&*self.sealer, id.0, generation, &secrets)?),
                    endpoints::generation.eq(generation),
                ))
                .execute(conn)
                .await?;
            let endpoint = row.endpoint()?;
            let kind = EventKind::WebhookEndpointUpdated;
            let mut event =
                NewEvent::of_webhook_endpoint(kind, actor, Some(&endpoint), Some(&endpoint));
            event.detail.insert("changed".into(), json!(["secret"]));
            events::insert(conn, &event).await?;
            Ok(Some(endpoint))
        });
        Ok(rotated?)
    }

    async fn delete(&self, id: WebhookEndpointId, actor: &Actor) -> Result<bool, RepositoryError> {
        let deleted = in_transaction!(self, async |conn| {
            let row: Option<EndpointRow> = diesel::delete(endpoints::table.find(id.0))
                .returning(EndpointRow::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let Some(row) = row else { return Ok(false) };
            let kind = EventKind::WebhookEndpointDeleted;
            log(conn, kind, actor, Some(&row.endpoint()?), None).await?;
            Ok(true)
        });
        Ok(deleted?)
    }

    async fn fan_out(&self, id: WebhookEndpointId, at_most: u16) -> Result<u64, RepositoryError> {
        // Nearly always there is nothing new, and then no lock is taken.
        let conn = &mut *self.reader().await?;
        let last = last_event(conn).await.map_err(Failure::from)?;
        match find(conn, id).await.map_err(Failure::from)? {
            Some(row) if row.enabled && row.position < last => {}
            _ => return Ok(0),
        }
        let looked_at = in_transaction!(self, async |conn| {
            let Some(row) = find_locked(conn, id).await?.filter(|it| it.enabled) else {
                return Ok(0);
            };
            let endpoint = row.endpoint()?;
            let next: Vec<events::Row> = events_table::table
                .filter(events_table::seq.gt(row.position))
                .order(events_table::seq)
                .limit(i64::from(at_most))
                .select(events::Row::as_select())
                .load(conn)
                .await?;
            let next = next.into_iter().map(Event::try_from).collect::<Result<Vec<_>, _>>()?;
            let Some(last) = next.last() else { return Ok(0) };
            for event in &next {
                let of = event.detail.get("endpoint_id").and_then(Value::as_i64);
                if !endpoint.wants(event.about, of.map(WebhookEndpointId)) {
                    continue;
                }
                diesel::insert_into(deliveries::table)
                    .values((
                        deliveries::endpoint_id.eq(id.0),
                        deliveries::event_id.eq(event.id.0),
                        deliveries::identity_id.eq(event.identity_id.map(|it| it.0)),
                        deliveries::kind.eq(event.about.as_str()),
                        deliveries::status.eq(DeliveryStatus::Pending.as_str()),
                        deliveries::attempts.eq(0),
                        deliveries::next_attempt_at.eq(now()),
                        deliveries::created_at.eq(now()),
                    ))
                    .on_conflict_do_nothing()
                    .execute(conn)
                    .await?;
            }
            diesel::update(endpoints::table.find(id.0))
                .set(endpoints::position.eq(last.id.0))
                .execute(conn)
                .await?;
            Ok(next.len() as u64)
        });
        Ok(looked_at?)
    }

    async fn claim(
        &self,
        id: WebhookEndpointId,
        at_most: u16,
        lease: Duration,
    ) -> Result<Vec<ClaimedDelivery>, RepositoryError> {
        let claimed = in_transaction!(self, async |conn| {
            if !find(conn, id).await?.is_some_and(|it| it.enabled) {
                return Ok(Vec::new());
            }
            let at = time(conn).await?;
            let due: Vec<Due> = diesel::sql_query(due())
                .bind::<diesel::sql_types::BigInt, _>(id.0)
                .bind::<TimeSql, _>(at)
                .bind::<TimeSql, _>(at)
                .bind::<diesel::sql_types::BigInt, _>(i64::from(at_most))
                .load(conn)
                .await?;
            if due.is_empty() {
                return Ok(Vec::new());
            }
            let due: Vec<_> = due.into_iter().map(|it| it.id).collect();
            let mut rows: Vec<DeliveryRow> =
                diesel::update(deliveries::table.filter(deliveries::id.eq_any(due)))
                    .set((
                        deliveries::attempts.eq(deliveries::attempts + 1),
                        deliveries::claimed_until.eq(maybe_now_plus(lease)),
                    ))
                    .returning(DeliveryRow::as_returning())
                    .get_results(conn)
                    .await?;
            rows.sort_unstable_by_key(|it| (it.next_attempt_at, it.event_id));
            let told: Vec<_> = rows.iter().map(|it| it.event_id).collect();
            let told: Vec<events::Row> = events_table::table
                .filter(events_table::seq.eq_any(told))
                .select(events::Row::as_select())
                .load(conn)
                .await?;
            let told = told.into_iter().map(Event::try_from).collect::<Result<Vec<_>, _>>()?;
            let mut claimed = Vec::new();
            for row in rows {
                let delivery = WebhookDelivery::try_from(row)?;
                let event = told.iter().find(|it| it.id == delivery.event_id).cloned();
                claimed.extend(event.map(|event| ClaimedDelivery { delivery, event }));
            }
            Ok(claimed)
        });
        Ok(claimed?)
    }

    async fn settle(
        &self,
        claim: &WebhookDelivery,
        end: &DeliveryEnd,
        actor: &Actor,
    ) -> Result<bool, RepositoryError> {
        let attempts = i32::try_from(claim.attempts).unwrap_or(i32::MAX);
        let settled = in_transaction!(self, async |conn| {
            let own = deliveries::table
                .find(claim.id.0)
                .filter(deliveries::status.eq(DeliveryStatus::Pending.as_str()))
                .filter(deliveries::attempts.eq(attempts))
                .filter(deliveries::claimed_until.is_not_null());
            let nobody = deliveries::claimed_until.eq(None::<DateTime<Utc>>);
            let (status, answered, error) = match end {
                DeliveryEnd::Delivered { status } => {
                    (DeliveryStatus::Delivered, Some(*status), None)
                }
                DeliveryEnd::Dead { status, error } => (DeliveryStatus::Dead, *status, Some(error)),
                DeliveryEnd::Retry { after, status, error } => {
                    let at = time(conn).await? + *after;
                    let changed = diesel::update(own)
                        .set((
                            nobody,
                            deliveries::next_attempt_at.eq(at),
                            deliveries::last_status.eq(status.map(i32::from)),
                            deliveries::last_error.eq(error),
                        ))
                        .execute(conn)
                        .await?;
                    if changed == 1 {
                        put_off(conn, claim, at).await?;
                    }
                    return Ok(changed == 1);
                }
            };
            let row: Option<DeliveryRow> = diesel::update(own)
                .set((
                    nobody,
                    deliveries::status.eq(status.as_str()),
                    deliveries::settled_at.eq(maybe_now()),
                    deliveries::last_status.eq(answered.map(i32::from)),
                    deliveries::last_error.eq(error),
                ))
                .returning(DeliveryRow::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let Some(row) = row else { return Ok(false) };
            let delivery = WebhookDelivery::try_from(row)?;
            if status == DeliveryStatus::Dead && delivery.kind != EventKind::WebhookDeliveryFailed {
                events::insert(conn, &NewEvent::of_failed_delivery(&delivery, actor)).await?;
            }
            Ok(true)
        });
        Ok(settled?)
    }

    async fn list_deliveries(
        &self,
        id: WebhookEndpointId,
        status: Option<DeliveryStatus>,
        page: PageRequest,
    ) -> Result<Page<WebhookDelivery>, RepositoryError> {
        let mut query = deliveries::table
            .filter(deliveries::endpoint_id.eq(id.0))
            .filter(deliveries::id.gt(page.after.unwrap_or(0)))
            .select(DeliveryRow::as_select())
            .into_boxed::<Db>();
        if let Some(status) = status {
            query = query.filter(deliveries::status.eq(status.as_str()));
        }
        let rows: Vec<DeliveryRow> = query
            .order(deliveries::id)
            .limit(i64::from(page.limit) + 1)
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let rows = rows.into_iter().map(WebhookDelivery::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(rows, page.limit, |it: &WebhookDelivery| it.id.0))
    }

    async fn replay(
        &self,
        endpoint: WebhookEndpointId,
        delivery: WebhookDeliveryId,
        actor: &Actor,
    ) -> Result<Option<WebhookDelivery>, RepositoryError> {
        let replayed = in_transaction!(self, async |conn| {
            let one =
                deliveries::table.find(delivery.0).filter(deliveries::endpoint_id.eq(endpoint.0));
            let settled = one.filter(deliveries::status.ne(DeliveryStatus::Pending.as_str()));
            let restarted: Vec<i64> = diesel::update(settled)
                .set(restarted!())
                .returning(deliveries::event_id)
                .get_results(conn)
                .await?;
            tell_of_replay(conn, endpoint, restarted, actor).await?;
            let row: Option<DeliveryRow> =
                one.select(DeliveryRow::as_select()).first(conn).await.optional()?;
            row.map(WebhookDelivery::try_from).transpose()
        });
        Ok(replayed?)
    }

    async fn replay_dead(
        &self,
        id: WebhookEndpointId,
        actor: &Actor,
    ) -> Result<u64, RepositoryError> {
        let replayed = in_transaction!(self, async |conn| {
            let dead = deliveries::table
                .filter(deliveries::endpoint_id.eq(id.0))
                .filter(deliveries::status.eq(DeliveryStatus::Dead.as_str()));
            let restarted: Vec<i64> = diesel::update(dead)
                .set(restarted!())
                .returning(deliveries::event_id)
                .get_results(conn)
                .await?;
            let count = restarted.len() as u64;
            tell_of_replay(conn, id, restarted, actor).await?;
            Ok(count)
        });
        Ok(replayed?)
    }

    async fn sweep(&self, age: Duration) -> Result<u64, RepositoryError> {
        let conn = &mut *self.writer().await?;
        let until = time(conn).await.map_err(Failure::from)? - age;
        let swept = diesel::sql_query(
            "DELETE FROM webhook_deliveries WHERE id IN (SELECT id FROM webhook_deliveries \
             WHERE status = 'delivered' AND settled_at <= $1 LIMIT 10000)",
        );
        let swept = swept.bind::<TimeSql, _>(until).execute(conn).await.map_err(Failure::from)?;
        Ok(swept as u64)
    }

    async fn oldest_pending(&self) -> Result<Option<DateTime<Utc>>, RepositoryError> {
        let enabled = endpoints::table.filter(endpoints::enabled.eq(true)).select(endpoints::id);
        let oldest = deliveries::table
            .filter(deliveries::status.eq(DeliveryStatus::Pending.as_str()))
            .filter(deliveries::endpoint_id.eq_any(enabled))
            .order(deliveries::created_at)
            .select(deliveries::created_at);
        let conn = &mut *self.reader().await?;
        Ok(oldest.first(conn).await.optional().map_err(Failure::from)?)
    }
}

/// Writes the event of deliveries that are sent again, if there are any.
async fn tell_of_replay(
    conn: &mut Conn,
    endpoint: WebhookEndpointId,
    mut of: Vec<i64>,
    actor: &Actor,
) -> Result<(), Failure> {
    if of.is_empty() {
        return Ok(());
    }
    of.sort_unstable();
    let of: Vec<_> = of.into_iter().map(EventId).collect();
    let event = NewEvent::of_replayed_deliveries(endpoint, &of, actor);
    Ok(events::insert(conn, &event).await?)
}

/// Those that wait for this one need not be looked at before it is tried again.
async fn put_off(
    conn: &mut Conn,
    claim: &WebhookDelivery,
    until: DateTime<Utc>,
) -> QueryResult<usize> {
    let Some(identity) = claim.identity_id else { return Ok(0) };
    diesel::sql_query(
        "UPDATE webhook_deliveries SET next_attempt_at = $1 \
         WHERE endpoint_id = $2 AND identity_id = $3 AND status = 'pending' AND event_id > $4 \
         AND next_attempt_at < $5",
    )
    .bind::<TimeSql, _>(until)
    .bind::<diesel::sql_types::BigInt, _>(claim.endpoint_id.0)
    .bind::<diesel::sql_types::BigInt, _>(identity.0)
    .bind::<diesel::sql_types::BigInt, _>(claim.event_id.0)
    .bind::<TimeSql, _>(until)
    .execute(conn)
    .await
}
