//! Accounts for single sign-on.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    archive::{AuthIdentityRecord, ImportOutcome, Record, Refusal},
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    event::{EventKind, NewEvent},
    ids::AuthIdentityId,
    ports::Sealer,
};

use super::super::{
    Conn,
    auth_identities::Row as AuthIdentityRow,
    auth_providers as auth_provider_rows,
    bulk::{insert_missing, kept_there},
    schema::{auth_identities, auth_providers},
};
use super::{
    Batch, STEP,
    accounts::{Account, Known, accounts},
    may_be_kept,
};
use crate::failure::Failure;

impl Account for AuthIdentityRecord {
    type Row = AuthIdentityRow;

    fn id(&self) -> i64 {
        self.auth_identity.id.0
    }

    fn group(&self) -> i64 {
        self.auth_identity.auth_provider_id.0
    }

    fn user(&self) -> &str {
        self.auth_identity.user_id.as_str()
    }

    fn beside_others(&self) -> bool {
        false
    }

    fn account(&self) -> &str {
        self.auth_identity.ident.as_str()
    }

    fn row(&self, id: i64, sealer: &dyn Sealer) -> Result<AuthIdentityRow, Failure> {
        AuthIdentityRow::kept(self, id, sealer)
    }

    fn no_group(&self) -> Refusal {
        Refusal::NoAuthProvider(self.auth_identity.auth_provider_id)
    }

    fn account_taken(id: i64) -> Refusal {
        Refusal::SsoAccountTaken(AuthIdentityId(id))
    }

    fn user_taken(id: i64) -> Refusal {
        Refusal::SsoUserTaken(AuthIdentityId(id))
    }
}

accounts!(
    AuthIdentityRecord: insert_auth_identities, left_auth_identities, auth_identities,
    auth_provider_id, ident
);

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&AuthIdentityRecord],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    use auth_providers as table;

    let ids: BTreeSet<_> = records.iter().map(|it| it.auth_identity.auth_provider_id.0).collect();
    let there = table::table
        .filter(table::id.eq_any(ids))
        .order(table::id)
        .select(auth_provider_rows::Row::as_select());
    let there: Vec<auth_provider_rows::Row> = kept_there!(there).load(conn).await?;
    let there: Vec<AuthProvider> =
        there.into_iter().map(AuthProvider::try_from).collect::<Result<_, _>>()?;
    let there: HashMap<i64, AuthProvider> = there.into_iter().map(|it| (it.id.0, it)).collect();
    let ids = there.keys().copied().collect();
    let outcomes = insert_auth_identities(conn, records, &ids, batch).await?;
    let created = records.iter().zip(&outcomes).filter_map(|(record, outcome)| {
        let ImportOutcome::Created(id) = *outcome else { return None };
        let made = AuthIdentity { id: AuthIdentityId(id), ..record.auth_identity.clone() };
        let of = there.get(&made.auth_provider_id.0)?;
        let (kind, actor) = (EventKind::AuthIdentityLinked, &batch.settings.actor);
        Some(NewEvent::of_auth_identity(kind, actor, of, None, Some(&made)))
    });
    let told = created.collect();
    batch.tell(conn, told).await?;
    Ok(outcomes)
}

/// Those that come after this one, a step of them.
pub(super) async fn step(
    conn: &mut Conn,
    after: i64,
    (sealer, with_secrets): (&dyn Sealer, bool),
) -> Result<Vec<Record>, Failure> {
    let rows: Vec<AuthIdentityRow> = auth_identities::table
        .filter(auth_identities::id.gt(after))
        .order(auth_identities::id)
        .limit(STEP)
        .select(AuthIdentityRow::as_select())
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            let record = row.record(sealer, with_secrets)?;
            Ok(Record::AuthIdentity(Box::new(record)))
        })
        .collect()
}
