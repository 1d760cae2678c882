//! That organizations use identities.

use std::collections::{BTreeSet, HashMap};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    archive::{ImportOutcome, Record, Refusal},
    event::{EventKind, NewEvent},
    identity::Identity,
    ids::OrganizationIdentityId,
    organization_identity::OrganizationIdentity,
};

use super::super::{
    Conn,
    bulk::{insert_all, kept_there},
    identity_row, organization_identities as use_rows,
    schema::{identities, organization_identities},
};
use super::{Batch, STEP, judge};
use crate::failure::Failure;

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&OrganizationIdentity],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    use organization_identities as table;

    let identity_ids: BTreeSet<_> = records.iter().map(|it| it.identity_id.0).collect();
    let there = identities::table
        .filter(identities::id.eq_any(&identity_ids))
        .order(identities::id)
        .select(identity_row::Shown::as_select());
    let there: Vec<identity_row::Shown> = kept_there!(there).load(conn).await?;
    let there: Vec<Identity> =
        there.into_iter().map(Identity::try_from).collect::<Result<_, _>>()?;
    let there: HashMap<i64, Identity> = there.into_iter().map(|it| (it.id.0, it)).collect();
    let ids = records.iter().map(|it| it.id.0);
    let by_id = table::table.filter(table::id.eq_any(ids)).select(table::id);
    let by_id: Vec<i64> = by_id.load(conn).await?;
    let by_key = table::table.filter(table::identity_id.eq_any(&identity_ids)).select((
        table::organization_id,
        table::identity_id,
        table::id,
    ));
    let by_key: Vec<(String, i64, i64)> = by_key.load(conn).await?;
    let rows = by_key.into_iter().map(|(of, identity, id)| ((of, identity), id)).collect();
    let known = records.iter().filter(|it| there.contains_key(&it.identity_id.0));
    let key =
        |it: &OrganizationIdentity| (it.organization_id.as_str().to_owned(), it.identity_id.0);
    let judged = judge(known.map(|it| (it.id.0, key(it))), rows, by_id.into_iter().collect());
    let mut judged = batch.ids(conn, "organization_identities", &judged).await?.into_iter();

    let (mut outcomes, mut new, mut told) = (Vec::new(), Vec::<use_rows::Row>::new(), Vec::new());
    for record in records {
        let no_identity = ImportOutcome::Refused(Refusal::NoIdentity(record.identity_id));
        let Some(of) = there.get(&record.identity_id.0) else {
            outcomes.push(no_identity);
            continue;
        };
        let outcome = judged.next().unwrap_or(no_identity);
        if let ImportOutcome::Created(id) = outcome {
            let made = OrganizationIdentity { id: OrganizationIdentityId(id), ..(*record).clone() };
            new.push((&made).into());
            let (kind, actor) = (EventKind::OrganizationIdentityLinked, &batch.settings.actor);
            told.push(NewEvent::of_organization_identity(kind, actor, &made, of));
        }
        outcomes.push(outcome);
    }
    insert_all!(conn, table::table, new)?;
    batch.tell(conn, told).await?;
    Ok(outcomes)
}

/// Those that come after this one, a step of them.
pub(super) async fn step(conn: &mut Conn, after: i64) -> Result<Vec<Record>, Failure> {
    let rows: Vec<use_rows::Row> = organization_identities::table
        .filter(organization_identities::id.gt(after))
        .order(organization_identities::id)
        .limit(STEP)
        .select(use_rows::Row::as_select())
        .load(conn)
        .await?;
    rows.into_iter().map(|row| Ok(Record::OrganizationIdentity(row.try_into()?))).collect()
}
