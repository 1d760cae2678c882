//! Webhook endpoints.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    archive::{ImportOutcome, Record, Refusal, WebhookEndpointRecord},
    event::{EventKind, NewEvent},
    ids::WebhookEndpointId,
    ports::Sealer,
    webhook::DeliveryStatus,
};

use super::super::{
    Conn,
    bulk::insert_all,
    schema::{webhook_deliveries, webhook_endpoints},
    to_microseconds, webhooks,
};
use super::{Batch, STEP, judge};
use crate::failure::Failure;

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&WebhookEndpointRecord],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    use webhook_endpoints as table;

    let ids = records.iter().map(|it| it.endpoint.id.0);
    let columns = (table::id, table::url, table::created_at);
    let by_id = table::table.filter(table::id.eq_any(ids)).select(columns);
    let by_id: Vec<(i64, String, DateTime<Utc>)> = by_id.load(conn).await?;
    let urls = records.iter().map(|it| it.endpoint.url.as_str());
    let by_url = table::table.filter(table::url.eq_any(urls)).select(columns);
    let by_url: Vec<(i64, String, DateTime<Utc>)> = by_url.load(conn).await?;
    let all = by_url.iter().chain(&by_id);
    let rows: HashMap<(String, DateTime<Utc>), i64> =
        all.map(|(id, url, at)| ((url.clone(), *at), *id)).collect();
    let taken: HashSet<i64> = by_id.iter().map(|it| it.0).collect();
    let by_id: HashMap<(i64, DateTime<Utc>), String> =
        by_id.into_iter().map(|(id, url, at)| ((id, at), url)).collect();
    let key = |it: &WebhookEndpointRecord| {
        let at = to_microseconds(it.endpoint.created_at);
        // Under its own id it is the same whatever address it was given since.
        let own = by_id.get(&(it.endpoint.id.0, at)).cloned();
        (own.unwrap_or_else(|| it.endpoint.url.as_str().to_owned()), at)
    };
    let mut there: HashSet<_> = rows.keys().cloned().collect();
    let known: Vec<bool> = records
        .iter()
        .map(|it| {
            let known = it.secrets.is_some() || there.contains(&key(it));
            if known {
                there.insert(key(it));
            }
            known
        })
        .collect();
    let judged = judge(
        records
            .iter()
            .zip(&known)
            .filter(|(_, known)| **known)
            .map(|(it, _)| (it.endpoint.id.0, key(it))),
        rows,
        taken,
    );
    let mut judged = batch.ids(conn, "webhook_endpoints", &judged).await?.into_iter();
    // Beside another history, a place in that of the archive says nothing.
    let from_now_on =
        if batch.settings.tells { Some(webhooks::last_event(conn).await?) } else { None };

    let (mut outcomes, mut new, mut told) = (Vec::new(), Vec::new(), Vec::new());
    let no_secrets = ImportOutcome::Refused(Refusal::NoSecrets);
    for (record, known) in records.iter().zip(known) {
        let outcome = if known { judged.next().unwrap_or(no_secrets) } else { no_secrets };
        if let (ImportOutcome::Created(id), Some(secrets)) = (outcome, &record.secrets) {
            let position = from_now_on.unwrap_or(record.position.0);
            new.push(webhooks::EndpointRow::kept(record, secrets, id, position, batch.sealer)?);
            let mut made = record.endpoint.clone();
            made.id = WebhookEndpointId(id);
            let (kind, actor) = (EventKind::WebhookEndpointCreated, &batch.settings.actor);
            told.push(NewEvent::of_webhook_endpoint(kind, actor, None, Some(&made)));
        }
        outcomes.push(outcome);
    }
    insert_all!(conn, table::table, new)?;
    batch.tell(conn, told).await?;
    Ok(outcomes)
}

/// Those that come after this one, a step of them.
pub(super) async fn step(
    conn: &mut Conn,
    after: i64,
    (sealer, with_secrets): (&dyn Sealer, bool),
) -> Result<Vec<Record>, Failure> {
    let rows: Vec<webhooks::EndpointRow> = webhook_endpoints::table
        .filter(webhook_endpoints::id.gt(after))
        .order(webhook_endpoints::id)
        .limit(STEP)
        .select(webhooks::EndpointRow::as_select())
        .load(conn)
        .await?;
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let pending: Option<i64> = webhook_deliveries::table
            .filter(webhook_deliveries::endpoint_id.eq(row.id))
            .filter(webhook_deliveries::status.eq(DeliveryStatus::Pending.as_str()))
            .select(diesel::dsl::min(webhook_deliveries::event_id))
            .first(conn)
            .await?;
        let record = row.record(pending, sealer, with_secrets)?;
        records.push(Record::WebhookEndpoint(record));
    }
    Ok(records)
}
