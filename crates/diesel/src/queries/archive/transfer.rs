//! Journal entries of transfers.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    archive::{ImportOutcome, Record},
    transfer::Transfer,
};

use super::super::{
    Conn, bulk::insert_all, schema::transfers, to_microseconds, transfers as transfer_rows,
};
use super::{Batch, STEP, judge, may_be_kept};
use crate::failure::Failure;

/// What tells transfers from each other: when, from whom, to whom, and which accounts.
type TransferKey = (DateTime<Utc>, String, String, Vec<String>);

fn transfer_key(it: &Transfer) -> TransferKey {
    let accounts = it.items.iter().map(|item| item.external_id.as_str().to_owned());
    let (from, to) = (it.from_user_id.as_str().to_owned(), it.to_user_id.as_str().to_owned());
    (to_microseconds(it.created_at), from, to, accounts.collect())
}

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&Transfer],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    use transfers as table;

    let load = |rows: Vec<transfer_rows::Row>| {
        rows.into_iter().map(Transfer::try_from).collect::<Result<Vec<_>, _>>()
    };
    let ids = records.iter().map(|it| it.id.0);
    let by_id = table::table.filter(table::id.eq_any(ids)).select(transfer_rows::Row::as_select());
    let by_id = load(by_id.load(conn).await?)?;
    let taken: HashSet<i64> = by_id.iter().map(|it| it.id.0).collect();
    let mut rows: HashMap<_, _> = by_id.iter().map(|it| (transfer_key(it), it.id.0)).collect();
    // Entries stay for ever: one whose id is free was never taken under another.
    let elsewhere: Vec<_> = records
        .iter()
        .filter(|it| taken.contains(&it.id.0) || !may_be_kept(it.id.0))
        .filter(|it| !rows.contains_key(&transfer_key(it)))
        .map(|it| it.from_user_id.as_str())
        .collect();
    if !elsewhere.is_empty() {
        let by_user = table::table
            .filter(table::from_user_id.eq_any(elsewhere))
            .select(transfer_rows::Row::as_select());
        let by_user = load(by_user.load(conn).await?)?;
        rows.extend(by_user.iter().map(|it| (transfer_key(it), it.id.0)));
    }
    let judged = judge(records.iter().map(|it| (it.id.0, transfer_key(it))), rows, taken);
    let outcomes = batch.ids(conn, "transfers", &judged).await?;

    let mut new = Vec::new();
    for (record, outcome) in records.iter().zip(&outcomes) {
        if let ImportOutcome::Created(id) = outcome {
            new.push(transfer_rows::Row::kept(record, *id)?);
        }
    }
    let items = || records.iter().flat_map(|it| &it.items);
    batch.raise(conn, "identities", items().map(|it| it.identity_id.0)).await?;
    batch.raise(conn, "identity_providers", items().map(|it| it.provider_id.0)).await?;
    insert_all!(conn, table::table, new)?;
    Ok(outcomes)
}

/// Those that come after this one, a step of them.
pub(super) async fn step(conn: &mut Conn, after: i64) -> Result<Vec<Record>, Failure> {
    let rows: Vec<transfer_rows::Row> = transfers::table
        .filter(transfers::id.gt(after))
        .order(transfers::id)
        .limit(STEP)
        .select(transfer_rows::Row::as_select())
        .load(conn)
        .await?;
    rows.into_iter().map(|row| Ok(Record::Transfer(row.try_into()?))).collect()
}
