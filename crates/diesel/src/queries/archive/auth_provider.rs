//! Organizations' single sign-ons.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    archive::{ImportOutcome, Record, Refusal},
    auth_provider::AuthProvider,
    event::{EventKind, NewEvent},
    ids::AuthProviderId,
};

use super::super::{
    Conn, auth_providers as auth_provider_rows, bulk::insert_all, schema::auth_providers,
};
use super::{Batch, STEP, identity_provider::providers_there, judge};
use crate::failure::Failure;

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&AuthProvider],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    use auth_providers as table;

    let there = providers_there(conn, records.iter().map(|it| it.provider_id)).await?;
    let ids = records.iter().map(|it| it.id.0);
    let by_id = table::table.filter(table::id.eq_any(ids)).select(table::id);
    let by_id: Vec<i64> = by_id.load(conn).await?;
    let organizations = records.iter().map(|it| it.organization_id.as_str());
    let by_key = table::table.filter(table::organization_id.eq_any(organizations)).select((
        table::organization_id,
        table::id,
        table::provider_id,
    ));
    let by_key: Vec<(String, i64, i64)> = by_key.load(conn).await?;
    // Which provider each organization signs in with, those of the batch included.
    let mut with: HashMap<String, i64> =
        by_key.iter().map(|(organization, _, idp)| (organization.clone(), *idp)).collect();
    let rows = by_key.into_iter().map(|(organization, id, _)| (organization, id)).collect();
    let known: Vec<_> =
        records.iter().copied().filter(|it| there.contains(&it.provider_id.0)).collect();
    let key = |it: &AuthProvider| it.organization_id.as_str().to_owned();
    let judged =
        judge(known.iter().map(|it| (it.id.0, key(it))), rows, by_id.into_iter().collect());
    let mut judged = batch.ids(conn, "auth_providers", &judged).await?.into_iter();

    let (mut outcomes, mut new, mut told) =
        (Vec::new(), Vec::<auth_provider_rows::Row>::new(), Vec::new());
    for record in records {
        let no_provider = ImportOutcome::Refused(Refusal::NoProvider(record.provider_id));
        if !there.contains(&record.provider_id.0) {
            outcomes.push(no_provider);
            continue;
        }
        let outcome = judged.next().unwrap_or(no_provider);
        let idp = *with.entry(key(record)).or_insert(record.provider_id.0);
        outcomes.push(match outcome {
            ImportOutcome::Unchanged(id) if idp != record.provider_id.0 => {
                ImportOutcome::Refused(Refusal::OrganizationTaken(AuthProviderId(id)))
            }
            ImportOutcome::Created(id) => {
                let made = AuthProvider { id: AuthProviderId(id), ..(*record).clone() };
                new.push((&made).into());
                let (kind, actor) = (EventKind::AuthProviderCreated, &batch.settings.actor);
                told.push(NewEvent::of_auth_provider(kind, actor, None, Some(&made)));
                outcome
            }
            outcome => outcome,
        });
    }
    insert_all!(conn, table::table, new)?;
    batch.tell(conn, told).await?;
    Ok(outcomes)
}

/// Those that come after this one, a step of them.
pub(super) async fn step(conn: &mut Conn, after: i64) -> Result<Vec<Record>, Failure> {
    let rows: Vec<auth_provider_rows::Row> = auth_providers::table
        .filter(auth_providers::id.gt(after))
        .order(auth_providers::id)
        .limit(STEP)
        .select(auth_provider_rows::Row::as_select())
        .load(conn)
        .await?;
    rows.into_iter().map(|row| Ok(Record::AuthProvider(Box::new(row.try_into()?)))).collect()
}
