//! Grants that are to be ended, or were.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    archive::{ImportOutcome, Record, Refusal, RevocationRecord},
    ports::Sealer,
    revocation::{GrantOwner, QueuedRevocation},
};

use super::super::{
    Conn, bulk::insert_all, revocations as revocation_rows, schema::revocations, to_microseconds,
};
use super::{Batch, STEP, identity_provider::providers_there, judge, may_be_kept};
use crate::failure::Failure;

/// What tells revocations from each other: when, of what, and of which account.
type RevocationKey = (DateTime<Utc>, GrantOwner, String);

fn revocation_key(it: &QueuedRevocation) -> RevocationKey {
    (to_microseconds(it.queued_at), it.owner, it.external_id.as_str().to_owned())
}

/// What keeps a revocation from being taken that is not there yet.
fn revocation_obstacle(record: &RevocationRecord, providers: &HashSet<i64>) -> Option<Refusal> {
    let provider = record.queued.provider_id;
    let is_there = providers.contains(&provider.0);
    match &record.grant {
        None => record.lacks_grant().then_some(Refusal::NoGrant),
        Some(grant) if grant.provider.is_none() && !is_there => Some(Refusal::NoProvider(provider)),
        // The grant would go to another provider.
        Some(grant) if grant.provider.is_some() && is_there => {
            Some(Refusal::ProviderIdTaken(provider))
        }
        Some(_) => None,
    }
}

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&RevocationRecord],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    use revocations as table;

    let keyed = |rows: Vec<revocation_rows::Row>| -> HashMap<RevocationKey, i64> {
        rows.iter().map(|it| (it.key(), it.id)).collect()
    };
    let providers = providers_there(conn, records.iter().map(|it| it.queued.provider_id)).await?;
    let ids = records.iter().map(|it| it.queued.id.0);
    let by_id = table::table.filter(table::id.eq_any(ids));
    let by_id = by_id.select(revocation_rows::Row::as_select());
    let by_id: Vec<revocation_rows::Row> = by_id.load(conn).await?;
    let taken: HashSet<i64> = by_id.iter().map(|it| it.id).collect();
    let mut rows = keyed(by_id);
    // Entries stay for ever: one whose id is free was never taken under another.
    let elsewhere: Vec<_> = records
        .iter()
        .map(|it| &it.queued)
        .filter(|it| taken.contains(&it.id.0) || !may_be_kept(it.id.0))
        .filter(|it| !rows.contains_key(&revocation_key(it)))
        .map(|it| to_microseconds(it.queued_at))
        .collect();
    if !elsewhere.is_empty() {
        let by_time = table::table.filter(table::queued_at.eq_any(elsewhere));
        let by_time = by_time.select(revocation_rows::Row::as_select());
        rows.extend(keyed(by_time.load(conn).await?));
    }
    let mut there: HashSet<_> = rows.keys().cloned().collect();
    let obstacles: Vec<_> = records
        .iter()
        .map(|it| {
            let key = revocation_key(&it.queued);
            let obstacle = revocation_obstacle(it, &providers).filter(|_| !there.contains(&key));
            if obstacle.is_none() {
                there.insert(key);
            }
            obstacle
        })
        .collect();
    let known = records.iter().zip(&obstacles).filter(|(_, obstacle)| obstacle.is_none());
    let known = known.map(|(it, _)| (it.queued.id.0, revocation_key(&it.queued)));
    let judged = judge(known, rows, taken);
    let mut judged = batch.ids(conn, "revocations", &judged).await?.into_iter();

    let (mut outcomes, mut new) = (Vec::new(), Vec::new());
    for (record, obstacle) in records.iter().zip(obstacles) {
        let refused = ImportOutcome::Refused(obstacle.unwrap_or(Refusal::NoGrant));
        let outcome = if obstacle.is_none() { judged.next().unwrap_or(refused) } else { refused };
        if let ImportOutcome::Created(id) = outcome {
            new.push(revocation_rows::Row::kept(record, id, batch.sealer)?);
        }
        outcomes.push(outcome);
    }
    let queued = || records.iter().map(|it| &it.queued);
    let identities = queued().filter_map(|it| it.owner.identity()).map(|it| it.0);
    batch.raise(conn, "identities", identities).await?;
    let device_links = queued().filter_map(|it| it.owner.device_link()).map(|it| it.0);
    batch.raise(conn, "device_links", device_links).await?;
    batch.raise(conn, "identity_providers", queued().map(|it| it.provider_id.0)).await?;
    insert_all!(conn, table::table, new)?;
    Ok(outcomes)
}

/// Those that come after this one, a step of them.
pub(super) async fn step(
    conn: &mut Conn,
    after: i64,
    (sealer, with_secrets): (&dyn Sealer, bool),
) -> Result<Vec<Record>, Failure> {
    let rows: Vec<revocation_rows::Row> = revocations::table
        .filter(revocations::id.gt(after))
        .order(revocations::id)
        .limit(STEP)
        .select(revocation_rows::Row::as_select())
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            let record = row.record(sealer, with_secrets)?;
            Ok(Record::Revocation(Box::new(record)))
        })
        .collect()
}
