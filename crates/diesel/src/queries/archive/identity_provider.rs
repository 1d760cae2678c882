//! Provider instances.

use std::collections::{BTreeSet, HashMap, HashSet};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    archive::{ImportOutcome, ProviderRecord, Record},
    event::{EventKind, NewEvent},
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::ProviderId,
    ports::Sealer,
};

use super::super::{
    Conn,
    bulk::{insert_all, kept_there},
    identity_providers as providers,
    schema::identity_providers,
};
use super::{Batch, STEP, judge};
use crate::failure::Failure;

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&ProviderRecord],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    use identity_providers as table;

    type Key = (String, Option<String>);
    let ids: BTreeSet<_> = records.iter().map(|it| it.provider.id.0).collect();
    let types: BTreeSet<_> = records.iter().map(|it| it.provider.provider_type.as_str()).collect();
    let external_ids: BTreeSet<_> =
        records.iter().filter_map(|it| it.provider.external_id.as_deref()).collect();
    let columns = (table::id, table::provider_type, table::external_id);
    let by_id = table::table.filter(table::id.eq_any(&ids)).select(table::id);
    let by_id: Vec<i64> = by_id.load(conn).await?;
    let named = table::table
        .filter(table::provider_type.eq_any(&types))
        .filter(table::external_id.eq_any(&external_ids))
        .select(columns);
    let named: Vec<(i64, String, Option<String>)> = named.load(conn).await?;
    let nameless = table::table
        .filter(table::provider_type.eq_any(&types))
        .filter(table::external_id.is_null())
        .select(columns);
    let nameless: Vec<(i64, String, Option<String>)> = nameless.load(conn).await?;
    let rows: HashMap<Key, i64> =
        named.into_iter().chain(nameless).map(|(id, kind, name)| ((kind, name), id)).collect();
    let key =
        |it: &ProviderRecord| (it.provider.provider_type.clone(), it.provider.external_id.clone());
    let judged = judge(
        records.iter().map(|it| (it.provider.id.0, key(it))),
        rows,
        by_id.into_iter().collect(),
    );
    let outcomes = batch.ids(conn, "identity_providers", &judged).await?;

    let (mut new, mut told) = (Vec::new(), Vec::new());
    for (record, outcome) in records.iter().zip(&outcomes) {
        let ImportOutcome::Created(id) = *outcome else { continue };
        let provider = IdentityProvider {
            id: ProviderId(id),
            secret_names: record.secrets.keys().cloned().collect(),
            ..record.provider.clone()
        };
        new.push(providers::Row::new(&provider, &record.secrets, batch.sealer)?);
        let (kind, actor) = (EventKind::ProviderCreated, &batch.settings.actor);
        told.push(NewEvent::of_provider(kind, actor, None, Some(&provider)));
    }
    insert_all!(conn, table::table, new)?;
    batch.tell(conn, told).await?;
    Ok(outcomes)
}

/// Which of these providers are there, and stay until the transaction ends.
pub(super) async fn providers_there(
    conn: &mut Conn,
    ids: impl Iterator<Item = ProviderId>,
) -> Result<HashSet<i64>, Failure> {
    use identity_providers as table;

    let ids: BTreeSet<_> = ids.map(|it| it.0).collect();
    let there = table::table.filter(table::id.eq_any(ids)).order(table::id).select(table::id);
    let there: Vec<i64> = kept_there!(there).load(conn).await?;
    Ok(there.into_iter().collect())
}

/// Those that come after this one, a step of them.
pub(super) async fn step(
    conn: &mut Conn,
    after: i64,
    (sealer, with_secrets): (&dyn Sealer, bool),
) -> Result<Vec<Record>, Failure> {
    let rows: Vec<providers::Row> = identity_providers::table
        .filter(identity_providers::id.gt(after))
        .order(identity_providers::id)
        .limit(STEP)
        .select(providers::Row::as_select())
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            let secrets =
                if with_secrets { providers::open(sealer, &row)? } else { ProviderSecrets::new() };
            let provider = row.try_into()?;
            Ok(Record::IdentityProvider(ProviderRecord { provider, secrets }))
        })
        .collect()
}
