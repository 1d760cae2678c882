//! Identities, with what they hold.

use std::collections::{BTreeMap, HashMap, HashSet};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use symbolon_domain::{
    archive::{IdentityRecord, ImportOutcome, Record, Refusal},
    event::NewEvent,
    identity::Identity,
    ids::IdentityId,
    ports::{BackOff, FailureClass, Sealer},
};

use super::super::{
    Conn, bulk::insert_missing, identity_row, identity_row::Row as IdentityRow, schema::identities,
    to_microseconds,
};
use super::{
    Batch, STEP,
    accounts::{Account, Known, accounts},
    identity_provider::providers_there,
    may_be_kept,
};
use crate::{failure::Failure, values::parsed};

impl Account for IdentityRecord {
    type Row = IdentityRow;

    fn id(&self) -> i64 {
        self.identity.id.0
    }

    fn group(&self) -> i64 {
        self.identity.idp_id.0
    }

    fn user(&self) -> &str {
        self.identity.user_id.as_str()
    }

    fn account(&self) -> &str {
        self.identity.external_id.as_str()
    }

    fn beside_others(&self) -> bool {
        self.beside_others
    }

    fn row(&self, id: i64, sealer: &dyn Sealer) -> Result<IdentityRow, Failure> {
        IdentityRow::kept(self, id, sealer)
    }

    fn no_group(&self) -> Refusal {
        Refusal::NoProvider(self.identity.idp_id)
    }

    fn account_taken(id: i64) -> Refusal {
        Refusal::AccountTaken(IdentityId(id))
    }

    fn user_taken(id: i64) -> Refusal {
        Refusal::UserTaken(IdentityId(id))
    }
}

accounts!(IdentityRecord: insert_identities, left_identities, identities, idp_id, external_id);

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&IdentityRecord],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    let there = providers_there(conn, records.iter().map(|it| it.identity.idp_id)).await?;
    let outcomes = insert_identities(conn, records, &there, batch).await?;
    let created = records.iter().zip(&outcomes).filter_map(|(record, outcome)| {
        let ImportOutcome::Created(id) = *outcome else { return None };
        let identity = IdentityRow::kept_identity(record, id);
        Some(NewEvent::of_imported_identity(&batch.settings.actor, &identity))
    });
    let told = created.collect();
    batch.tell(conn, told).await?;
    Ok(outcomes)
}

impl IdentityRow {
    /// An identity as it enters the store, under this id.
    fn kept_identity(record: &IdentityRecord, id: i64) -> Identity {
        let expires_at = record.credentials.as_ref().and_then(|it| it.expires_at);
        Identity {
            id: IdentityId(id),
            expires_at: expires_at.map(to_microseconds),
            ..record.identity.clone()
        }
    }

    /// The row of a record, under this id.
    fn kept(record: &IdentityRecord, id: i64, sealer: &dyn Sealer) -> Result<Self, Failure> {
        let identity = Self::kept_identity(record, id);
        let place = identity_row::place(id, identity.idp_id.0, record.generation);
        let credentials = record.credentials.as_ref();
        let refresh_expires_at = credentials.and_then(|it| it.refresh_expires_at);
        let credentials =
            credentials.map(|it| identity_row::seal(sealer, &place, it)).transpose()?;
        let back_off = record.back_off.as_ref();
        Ok(Self {
            id,
            idp_id: identity.idp_id.0,
            user_id: identity.user_id.as_str().to_owned(),
            user_slot: if record.beside_others { identity.external_id.as_str() } else { "" }
                .to_owned(),
            external_id: identity.external_id.as_str().to_owned(),
            data: Value::Object(identity.data),
            status: identity.status.as_str().to_owned(),
            invalid_reason: identity.invalid.as_ref().map(|it| it.reason.as_str().to_owned()),
            invalid_at: identity.invalid.as_ref().map(|it| to_microseconds(it.at)),
            scopes: json!(identity.scopes),
            date_verified: to_microseconds(identity.date_verified),
            date_added: to_microseconds(identity.date_added),
            expires_at: identity.expires_at,
            version: identity.version,
            credentials,
            generation: record.generation,
            attempt: record.attempt,
            lease_holder: None,
            lease_until: None,
            unanswered: i32::try_from(record.unanswered).unwrap_or(i32::MAX),
            retry_at: back_off.map(|it| to_microseconds(it.until)),
            failures: back_off.map_or(0, |it| i32::try_from(it.failures).unwrap_or(i32::MAX)),
            failure_class: back_off.map(|it| it.class.as_str().to_owned()),
            failure_detail: back_off.map(|it| it.detail.clone()),
            refresh_expires_at: refresh_expires_at.map(to_microseconds),
        })
    }

    /// The record of a row.
    fn record(&self, sealer: &dyn Sealer, with_secrets: bool) -> Result<IdentityRecord, Failure> {
        let back_off = match (self.retry_at, &self.failure_class) {
            (Some(until), Some(class)) => Some(BackOff {
                until,
                class: parsed(class, FailureClass::parse)?,
                failures: u32::try_from(self.failures).unwrap_or(0),
                detail: self.failure_detail.clone().unwrap_or_default(),
            }),
            _ => None,
        };
        Ok(IdentityRecord {
            identity: self.identity()?,
            credentials: if with_secrets { self.open(sealer)? } else { None },
            beside_others: !self.user_slot.is_empty(),
            generation: self.generation,
            attempt: self.attempt,
            unanswered: u32::try_from(self.unanswered).unwrap_or(0),
            back_off,
        })
    }
}

/// Those that come after this one, a step of them.
pub(super) async fn step(
    conn: &mut Conn,
    after: i64,
    (sealer, with_secrets): (&dyn Sealer, bool),
) -> Result<Vec<Record>, Failure> {
    let rows: Vec<IdentityRow> = identities::table
        .filter(identities::id.gt(after))
        .order(identities::id)
        .limit(STEP)
        .select(IdentityRow::as_select())
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| Ok(Record::Identity(Box::new(row.record(sealer, with_secrets)?))))
        .collect()
}
