//! API keys.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    api_key::ApiKey,
    archive::{ApiKeyRecord, ImportOutcome, Record, Refusal},
};

use super::super::{Conn, api_keys as keys, bulk::insert_all, schema::api_keys};
use super::{Batch, STEP, judge};
use crate::{failure::Failure, values::hash};

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&ApiKeyRecord],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    let ids = records.iter().map(|it| it.key.id.0);
    let by_id = api_keys::table.filter(api_keys::id.eq_any(ids)).select(api_keys::id);
    let by_id: Vec<i64> = by_id.load(conn).await?;
    let hashes = records.iter().filter_map(|it| it.hash).map(|it| it.0.to_vec());
    let by_hash = api_keys::table
        .filter(api_keys::hash.eq_any(hashes))
        .select((api_keys::hash, api_keys::id));
    let by_hash: Vec<(Vec<u8>, i64)> = by_hash.load(conn).await?;
    let keyed = records.iter().filter_map(|it| Some((it.key.id.0, it.hash?.0.to_vec())));
    let judged = judge(keyed, by_hash.into_iter().collect(), by_id.into_iter().collect());
    let mut judged = batch.ids(conn, "api_keys", &judged).await?.into_iter();

    let (mut outcomes, mut new) = (Vec::new(), Vec::new());
    for record in records {
        let Some(hash) = record.hash else {
            outcomes.push(ImportOutcome::Refused(Refusal::NoHash));
            continue;
        };
        let outcome = judged.next().unwrap_or(ImportOutcome::Refused(Refusal::NoHash));
        if let ImportOutcome::Created(id) = outcome {
            new.push(keys::KeptRow::new(&record.key, id, hash));
        }
        outcomes.push(outcome);
    }
    insert_all!(conn, api_keys::table, new)?;
    Ok(outcomes)
}

/// Those that come after this one, a step of them.
pub(super) async fn step(
    conn: &mut Conn,
    after: i64,
    with_secrets: bool,
) -> Result<Vec<Record>, Failure> {
    let rows: Vec<(keys::Row, Vec<u8>)> = api_keys::table
        .filter(api_keys::id.gt(after))
        .order(api_keys::id)
        .limit(STEP)
        .select((keys::Row::as_select(), api_keys::hash))
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|(row, of_secret)| {
            let hash = if with_secrets { Some(hash(&of_secret)?) } else { None };
            Ok(Record::ApiKey(ApiKeyRecord { key: ApiKey::try_from(row)?, hash }))
        })
        .collect()
}
