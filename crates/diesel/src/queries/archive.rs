//! Whole stores, many rows at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Map, Value, json};
use symbolon_domain::{
    api_key::ApiKey,
    archive::{
        ApiKeyRecord, AuthIdentityRecord, IdentityRecord, ImportOutcome, KEPT_IDS_END,
        ProviderRecord, Record, RecordKind, Refusal, RevocationRecord, WebhookEndpointRecord,
    },
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    event::{Event, EventKind, NewEvent},
    identity::Identity,
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::{
        AuthIdentityId, AuthProviderId, EventId, IdentityId, OrganizationIdentityId, ProviderId,
        WebhookEndpointId,
    },
    organization_identity::OrganizationIdentity,
    ports::{
        Archive, ArchiveExport, ArchiveImport, BackOff, FailureClass, ImportSettings,
        RepositoryError, Sealer,
    },
    revocation::{GrantOwner, QueuedRevocation},
    transfer::Transfer,
    webhook::DeliveryStatus,
};

use super::{
    Conn, Store, api_keys as keys,
    auth_identities::Row as AuthIdentityRow,
    auth_providers as auth_provider_rows,
    bulk::{
        Rehearsal, event_places, event_row_id, import_transaction, insert_all, insert_missing,
        kept_there, new_ids, raise_ids,
    },
    events as log, identity_providers as providers,
    identity_row::{self, Row as IdentityRow},
    organization_identities as use_rows, revocations as revocation_rows,
    schema::{
        api_keys, auth_identities, auth_providers, events, identities, identity_providers,
        organization_identities, revocations, transfers, webhook_deliveries, webhook_endpoints,
    },
    time, to_microseconds, transfers as transfer_rows, webhooks,
};
use crate::{
    failure::Failure,
    values::{hash, parsed},
};

/// How often a transaction is tried again that lost a race for a unique key.
const TRIES: usize = 5;
/// Rows of one step of an export.
const STEP: i64 = 1000;

struct Import {
    conn: Conn,
    sealer: Arc<dyn Sealer>,
    settings: ImportSettings,
    /// What a dry run works on. The connection's end comes first, as the fields are in this order.
    _rehearsal: Option<Rehearsal>,
    /// How far the ids of each table are known to be beyond those that were kept.
    raised: HashMap<&'static str, i64>,
    /// New ids of a dry run, which uses none up.
    pretended: i64,
}

/// What a batch needs besides its records.
struct Batch<'a> {
    sealer: &'a dyn Sealer,
    settings: &'a ImportSettings,
    raised: &'a mut HashMap<&'static str, i64>,
    pretended: &'a mut i64,
}

impl Batch<'_> {
    /// The ids as they are kept, where they may be; new ones for the others.
    async fn new_ids(
        &mut self,
        conn: &mut Conn,
        table: &'static str,
        count: usize,
    ) -> Result<std::vec::IntoIter<i64>, Failure> {
        if count == 0 {
            return Ok(Vec::new().into_iter());
        }
        if self.settings.dry_run {
            let ids = (0..count).map(|_| {
                *self.pretended -= 1;
                *self.pretended
            });
            return Ok(ids.collect::<Vec<_>>().into_iter());
        }
        Ok(new_ids(conn, table, count).await?.into_iter())
    }

    /// Sees to it that nobody is given an id up to this one.
    async fn raise(
        &mut self,
        conn: &mut Conn,
        table: &'static str,
        above: impl Iterator<Item = i64>,
    ) -> Result<(), Failure> {
        let Some(above) = above.filter(|it| may_be_kept(*it)).max() else { return Ok(()) };
        if self.settings.dry_run || self.raised.get(table).is_some_and(|it| *it >= above) {
            return Ok(());
        }
        raise_ids(conn, table, above).await?;
        self.raised.insert(table, above);
        Ok(())
    }

    async fn tell(&self, conn: &mut Conn, events: Vec<NewEvent>) -> Result<(), Failure> {
        // A dry run keeps none, and so need not hold the lock of their order.
        if !self.settings.tells || self.settings.dry_run || events.is_empty() {
            return Ok(());
        }
        let at = time(conn).await?;
        let places = event_places(conn, events.len()).await?;
        let rows: Vec<_> =
            events.into_iter().zip(places).map(|(it, seq)| log::Kept::new(it, at, seq)).collect();
        insert_all!(conn, events::table, rows)?;
        Ok(())
    }
}

fn may_be_kept(id: i64) -> bool {
    (1..KEPT_IDS_END).contains(&id)
}

/// The records of one kind, out of records of that kind.
macro_rules! of_kind {
    ($records:expr, $kind:ident) => {
        $records
            .iter()
            .filter_map(|it| match it {
                Record::$kind(it) => Some(it),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
}

async fn take(
    conn: &mut Conn,
    records: &[Record],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    let mut outcomes = Vec::with_capacity(records.len());
    for records in records.chunk_by(|one, next| one.kind() == next.kind()) {
        let of_these = match records[0].kind() {
            RecordKind::IdentityProvider => {
                take_providers(conn, &of_kind!(records, IdentityProvider), batch).await?
            }
            RecordKind::Identity => {
                let records = of_kind!(records, Identity);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                take_identities(conn, &records, batch).await?
            }
            RecordKind::AuthProvider => {
                let records = of_kind!(records, AuthProvider);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                take_auth_providers(conn, &records, batch).await?
            }
            RecordKind::AuthIdentity => {
                let records = of_kind!(records, AuthIdentity);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                take_auth_identities(conn, &records, batch).await?
            }
            RecordKind::OrganizationIdentity => {
                take_uses(conn, &of_kind!(records, OrganizationIdentity), batch).await?
            }
            RecordKind::ApiKey => take_keys(conn, &of_kind!(records, ApiKey), batch).await?,
            RecordKind::WebhookEndpoint => {
                take_endpoints(conn, &of_kind!(records, WebhookEndpoint), batch).await?
            }
            RecordKind::Transfer => {
                take_transfers(conn, &of_kind!(records, Transfer), batch).await?
            }
            RecordKind::Revocation => {
                let records = of_kind!(records, Revocation);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                take_revocations(conn, &records, batch).await?
            }
            RecordKind::Event => {
                let records = of_kind!(records, Event);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                take_events(conn, &records, batch).await?
            }
        };
        outcomes.extend(of_these);
    }
    Ok(outcomes)
}

/// What becomes of a record, as far as it can be said before new ids are given.
#[derive(Clone, Copy)]
enum Judged {
    /// The row of this id says the same.
    There(i64),
    /// An earlier record of the batch says the same.
    SameAs(usize),
    /// A new row, under its own id.
    Kept(i64),
    /// A new row, under a new id.
    Renamed,
}

/// Judges records that are known by a key: `rows` has those that are there by key, `taken` every
/// id that is in use.
fn judge<K: Eq + std::hash::Hash>(
    records: impl Iterator<Item = (i64, K)>,
    rows: HashMap<K, i64>,
    mut taken: HashSet<i64>,
) -> Vec<Judged> {
    let mut seen: HashMap<K, Judged> =
        rows.into_iter().map(|(key, id)| (key, Judged::There(id))).collect();
    let mut judged = Vec::new();
    for (index, (id, key)) in records.enumerate() {
        judged.push(match seen.entry(key) {
            std::collections::hash_map::Entry::Occupied(it) => *it.get(),
            std::collections::hash_map::Entry::Vacant(it) => {
                it.insert(Judged::SameAs(index));
                if may_be_kept(id) && taken.insert(id) { Judged::Kept(id) } else { Judged::Renamed }
            }
        });
    }
    judged
}

impl Batch<'_> {
    /// The id of each record's row, and whether it is to be created.
    async fn ids(
        &mut self,
        conn: &mut Conn,
        table: &'static str,
        judged: &[Judged],
    ) -> Result<Vec<ImportOutcome>, Failure> {
        let renamed = judged.iter().filter(|it| matches!(it, Judged::Renamed)).count();
        let kept = judged.iter().filter_map(|it| match it {
            Judged::Kept(id) => Some(*id),
            _ => None,
        });
        self.raise(conn, table, kept).await?;
        let mut new = self.new_ids(conn, table, renamed).await?;
        let mut outcomes: Vec<ImportOutcome> = Vec::with_capacity(judged.len());
        for it in judged {
            outcomes.push(match it {
                Judged::There(id) => ImportOutcome::Unchanged(*id),
                Judged::Kept(id) => ImportOutcome::Created(*id),
                Judged::Renamed => ImportOutcome::Created(
                    new.next().ok_or_else(|| Failure::unreadable("the database gave no id"))?,
                ),
                Judged::SameAs(index) => match outcomes[*index] {
                    ImportOutcome::Created(id) => ImportOutcome::Unchanged(id),
                    outcome => outcome,
                },
            });
        }
        Ok(outcomes)
    }
}

async fn take_providers(
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

/// A link of a user to an account, of which a group has at most one for each of them.
trait Account {
    type Row;

    fn id(&self) -> i64;
    fn group(&self) -> i64;
    fn user(&self) -> &str;
    fn account(&self) -> &str;
    /// Whether the user may have another account there.
    fn beside_others(&self) -> bool;
    /// The row under this id.
    fn row(&self, id: i64, sealer: &dyn Sealer) -> Result<Self::Row, Failure>;
    /// There is no such group.
    fn no_group(&self) -> Refusal;
    /// The row of this id has the account.
    fn account_taken(id: i64) -> Refusal;
    /// The row of this id has the user.
    fn user_taken(id: i64) -> Refusal;
}

/// What is known of a row that is there: id, group, user and account.
type Known = (i64, i64, String, String);

/// Takes accounts into a table: first inserts, and afterwards looks at what did not go in. An
/// import into an empty table, or once more into a full one, is the common case.
macro_rules! accounts {
    ($record:ty: $take:ident, $left:ident, $table:ident, $group:ident, $account:ident) => {
        /// Takes records; those in groups that are not `there` are refused.
        async fn $take(
            conn: &mut Conn,
            records: &[&$record],
            there: &HashSet<i64>,
            batch: &mut Batch<'_>,
        ) -> Result<Vec<ImportOutcome>, Failure> {
            let table = stringify!($table);
            let mut outcomes: Vec<Option<ImportOutcome>> = Vec::with_capacity(records.len());
            // Records and the ids that they are to be inserted under; 0 for a new one.
            let mut waiting = Vec::new();
            for (index, record) in records.iter().enumerate() {
                if there.contains(&record.group()) {
                    let id = Account::id(*record);
                    waiting.push((index, if may_be_kept(id) { id } else { 0 }));
                    outcomes.push(None);
                } else {
                    outcomes.push(Some(ImportOutcome::Refused(record.no_group())));
                }
            }
            batch.raise(conn, table, waiting.iter().map(|(_, id)| *id)).await?;

            // Each round settles at least the first record that waits.
            while !waiting.is_empty() {
                let renamed = waiting.iter().filter(|(_, id)| *id == 0).count();
                let mut new = batch.new_ids(conn, table, renamed).await?;
                // Of several records with one id the first goes first; the others see what
                // became of it.
                let (mut round, mut later, mut claimed) = (Vec::new(), Vec::new(), HashSet::new());
                for (index, id) in waiting {
                    let id = if id == 0 { new.next().unwrap_or(0) } else { id };
                    if claimed.insert(id) {
                        round.push((index, id))
                    } else {
                        later.push((index, id))
                    }
                }
                let mut rows = Vec::with_capacity(round.len());
                for (index, id) in &round {
                    rows.push(records[*index].row(*id, batch.sealer)?);
                }
                let created = insert_missing!(conn, $table::table, rows, $table::id)?;
                let created: HashSet<i64> = created.into_iter().collect();
                let (created, left): (Vec<_>, Vec<_>) =
                    round.into_iter().partition(|(_, id)| created.contains(id));
                for (index, id) in created {
                    outcomes[index] = Some(ImportOutcome::Created(id));
                }
                let taken = $left(conn, records, &left, &mut outcomes).await?;
                waiting = left
                    .into_iter()
                    .filter(|(index, _)| outcomes[*index].is_none())
                    .map(|(index, id)| (index, if taken.contains(&id) { 0 } else { id }))
                    .chain(later)
                    .collect();
                waiting.sort_unstable_by_key(|(index, _)| *index);
            }
            Ok(outcomes.into_iter().flatten().collect())
        }

        /// Says of records that did not go in what stands in their way, and answers which of
        /// their ids are taken.
        async fn $left(
            conn: &mut Conn,
            records: &[&$record],
            left: &[(usize, i64)],
            outcomes: &mut [Option<ImportOutcome>],
        ) -> Result<HashSet<i64>, Failure> {
            if left.is_empty() {
                return Ok(HashSet::new());
            }
            let columns = ($table::id, $table::$group, $table::user_id, $table::$account);
            let ids = left.iter().map(|(_, id)| *id);
            let by_id = $table::table.filter($table::id.eq_any(ids)).select(columns);
            let by_id: Vec<Known> = by_id.load(conn).await?;
            let by_id: HashMap<i64, Known> = by_id.into_iter().map(|it| (it.0, it)).collect();

            let mut others: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
            for (index, id) in left {
                let record = records[*index];
                let is_same = by_id.get(id).is_some_and(|row| {
                    row.1 == record.group() && row.2 == record.user() && row.3 == record.account()
                });
                if is_same {
                    outcomes[*index] = Some(ImportOutcome::Unchanged(*id));
                } else {
                    others.entry(record.group()).or_default().push(*index);
                }
            }
            for (group, indices) in others {
                let at = || $table::table.filter($table::$group.eq(group)).select(columns);
                let accounts = indices.iter().map(|it| records[*it].account());
                let accounts = at().filter($table::$account.eq_any(accounts));
                let mut rows: Vec<Known> = accounts.load(conn).await?;
                let users = indices.iter().map(|it| records[*it].user());
                let users = at().filter($table::user_id.eq_any(users));
                rows.extend(users.load::<Known>(conn).await?);
                for index in indices {
                    let (user, account) = (records[index].user(), records[index].account());
                    let of_account = rows.iter().find(|row| row.3 == account);
                    let of_user = rows.iter().find(|row| row.2 == user);
                    let refused = |refusal| Some(ImportOutcome::Refused(refusal));
                    outcomes[index] = match (of_account, of_user) {
                        (Some(row), _) if row.2 == user => Some(ImportOutcome::Unchanged(row.0)),
                        (Some(row), _) => refused(<$record>::account_taken(row.0)),
                        (None, Some(row)) if !records[index].beside_others() => {
                            refused(<$record>::user_taken(row.0))
                        }
                        (None, _) => None,
                    };
                }
            }
            Ok(by_id.into_keys().collect())
        }
    };
}

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

async fn take_identities(
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

/// Which of these providers are there, and stay until the transaction ends.
async fn providers_there(
    conn: &mut Conn,
    ids: impl Iterator<Item = ProviderId>,
) -> Result<HashSet<i64>, Failure> {
    use identity_providers as table;

    let ids: BTreeSet<_> = ids.map(|it| it.0).collect();
    let there = table::table.filter(table::id.eq_any(ids)).order(table::id).select(table::id);
    let there: Vec<i64> = kept_there!(there).load(conn).await?;
    Ok(there.into_iter().collect())
}

async fn take_auth_providers(
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

async fn take_auth_identities(
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

async fn take_uses(
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

async fn take_keys(
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

async fn take_endpoints(
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

/// What tells transfers from each other: when, from whom, to whom, and which accounts.
type TransferKey = (DateTime<Utc>, String, String, Vec<String>);

fn transfer_key(it: &Transfer) -> TransferKey {
    let accounts = it.items.iter().map(|item| item.external_id.as_str().to_owned());
    let (from, to) = (it.from_user_id.as_str().to_owned(), it.to_user_id.as_str().to_owned());
    (to_microseconds(it.created_at), from, to, accounts.collect())
}

async fn take_transfers(
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

async fn take_revocations(
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

async fn take_events(
    conn: &mut Conn,
    records: &[&Event],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    // Nobody else gives places meanwhile.
    if !batch.settings.dry_run {
        event_places(conn, 0).await?;
    }
    let places = records.iter().map(|it| Some(it.id.0));
    let there = events::table.filter(events::seq.eq_any(places)).select(log::Row::as_select());
    let there: Vec<log::Row> = there.load(conn).await?;
    let there: Vec<Event> = there.into_iter().map(Event::try_from).collect::<Result<_, _>>()?;
    let mut there: HashMap<EventId, Event> = there.into_iter().map(|it| (it.id, it)).collect();

    let (mut outcomes, mut new) = (Vec::new(), Vec::new());
    for record in records {
        let event = *record;
        outcomes.push(match there.get(&event.id) {
            Some(other) if other == event => ImportOutcome::Unchanged(event.id.0),
            Some(_) => ImportOutcome::Refused(Refusal::EventIdTaken),
            None if !may_be_kept(event.id.0) => ImportOutcome::Refused(Refusal::EventIdTaken),
            None => {
                there.insert(event.id, event.clone());
                new.push(log::Kept::of(event, event_row_id(event.id.0)));
                ImportOutcome::Created(event.id.0)
            }
        });
    }
    // A row that is gone keeps its name: no later one is mistaken for what an event speaks of.
    let spoken_of = |id: fn(&Event) -> Option<i64>| records.iter().filter_map(move |it| id(it));
    batch.raise(conn, "identities", spoken_of(|it| Some(it.identity_id?.0))).await?;
    batch.raise(conn, "identity_providers", spoken_of(|it| Some(it.provider_id?.0))).await?;
    insert_all!(conn, events::table, new)?;
    Ok(outcomes)
}

#[async_trait]
impl ArchiveImport for Import {
    async fn take(&mut self, records: &[Record]) -> Result<Vec<ImportOutcome>, RepositoryError> {
        let dry_run = self.settings.dry_run;
        let kept: Vec<_> = records.iter().filter(|it| !it.holds_nul()).cloned().collect();
        let Self { conn, sealer, settings, raised, pretended, .. } = self;
        let mut tries = 0;
        let taken = loop {
            let mut batch = Batch { sealer: &**sealer, settings, raised, pretended };
            let batch = &mut batch;
            let taken: Result<_, Failure> = import_transaction!(conn, dry_run, take(&kept, batch));
            tries += 1;
            match taken {
                // A dry run's transaction is lost with its first failure.
                Err(failure) if failure.is_race() && tries < TRIES && !dry_run => {}
                taken => break taken?,
            }
        };
        if !dry_run {
            Store::let_others_write().await;
        }
        let mut taken = taken.into_iter();
        let outcome = |record: &Record| {
            let nul = ImportOutcome::Refused(Refusal::NulCharacter);
            if record.holds_nul() { nul } else { taken.next().unwrap_or(nul) }
        };
        Ok(records.iter().map(outcome).collect())
    }

    async fn finish(&mut self, detail: &Map<String, Value>) -> Result<(), RepositoryError> {
        let ImportSettings { actor, dry_run, tells } = &self.settings;
        if *tells && !dry_run {
            let event = NewEvent::new(EventKind::ImportFinished, actor);
            let event = NewEvent { detail: detail.clone(), ..event };
            log::insert(&mut self.conn, &event).await.map_err(Failure::from)?;
        }
        Ok(())
    }
}

struct Export {
    conn: Conn,
    sealer: Arc<dyn Sealer>,
    with_secrets: bool,
    /// The kinds that are not through yet, the next one last.
    kinds: Vec<RecordKind>,
    after: i64,
}

impl Export {
    #[expect(clippy::too_many_lines, reason = "one query for each kind")]
    async fn step(&mut self, kind: RecordKind) -> Result<Vec<Record>, Failure> {
        let Self { conn, sealer, with_secrets, after, .. } = self;
        let (after, with_secrets) = (*after, *with_secrets);
        match kind {
            RecordKind::IdentityProvider => {
                let rows: Vec<providers::Row> = identity_providers::table
                    .filter(identity_providers::id.gt(after))
                    .order(identity_providers::id)
                    .limit(STEP)
                    .select(providers::Row::as_select())
                    .load(conn)
                    .await?;
                rows.into_iter()
                    .map(|row| {
                        let secrets = if with_secrets {
                            providers::open(&**sealer, &row)?
                        } else {
                            ProviderSecrets::new()
                        };
                        let provider = row.try_into()?;
                        Ok(Record::IdentityProvider(ProviderRecord { provider, secrets }))
                    })
                    .collect()
            }
            RecordKind::Identity => {
                let rows: Vec<IdentityRow> = identities::table
                    .filter(identities::id.gt(after))
                    .order(identities::id)
                    .limit(STEP)
                    .select(IdentityRow::as_select())
                    .load(conn)
                    .await?;
                rows.into_iter()
                    .map(|row| Ok(Record::Identity(Box::new(row.record(&**sealer, with_secrets)?))))
                    .collect()
            }
            RecordKind::AuthProvider => {
                let rows: Vec<auth_provider_rows::Row> = auth_providers::table
                    .filter(auth_providers::id.gt(after))
                    .order(auth_providers::id)
                    .limit(STEP)
                    .select(auth_provider_rows::Row::as_select())
                    .load(conn)
                    .await?;
                rows.into_iter()
                    .map(|row| Ok(Record::AuthProvider(Box::new(row.try_into()?))))
                    .collect()
            }
            RecordKind::AuthIdentity => {
                let rows: Vec<AuthIdentityRow> = auth_identities::table
                    .filter(auth_identities::id.gt(after))
                    .order(auth_identities::id)
                    .limit(STEP)
                    .select(AuthIdentityRow::as_select())
                    .load(conn)
                    .await?;
                rows.into_iter()
                    .map(|row| {
                        let record = row.record(&**sealer, with_secrets)?;
                        Ok(Record::AuthIdentity(Box::new(record)))
                    })
                    .collect()
            }
            RecordKind::OrganizationIdentity => {
                let rows: Vec<use_rows::Row> = organization_identities::table
                    .filter(organization_identities::id.gt(after))
                    .order(organization_identities::id)
                    .limit(STEP)
                    .select(use_rows::Row::as_select())
                    .load(conn)
                    .await?;
                rows.into_iter()
                    .map(|row| Ok(Record::OrganizationIdentity(row.try_into()?)))
                    .collect()
            }
            RecordKind::ApiKey => {
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
            RecordKind::WebhookEndpoint => {
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
                    let record = row.record(pending, &**sealer, with_secrets)?;
                    records.push(Record::WebhookEndpoint(record));
                }
                Ok(records)
            }
            RecordKind::Transfer => {
                let rows: Vec<transfer_rows::Row> = transfers::table
                    .filter(transfers::id.gt(after))
                    .order(transfers::id)
                    .limit(STEP)
                    .select(transfer_rows::Row::as_select())
                    .load(conn)
                    .await?;
                rows.into_iter().map(|row| Ok(Record::Transfer(row.try_into()?))).collect()
            }
            RecordKind::Revocation => {
                let rows: Vec<revocation_rows::Row> = revocations::table
                    .filter(revocations::id.gt(after))
                    .order(revocations::id)
                    .limit(STEP)
                    .select(revocation_rows::Row::as_select())
                    .load(conn)
                    .await?;
                rows.into_iter()
                    .map(|row| {
                        let record = row.record(&**sealer, with_secrets)?;
                        Ok(Record::Revocation(Box::new(record)))
                    })
                    .collect()
            }
            RecordKind::Event => {
                let rows: Vec<log::Row> = events::table
                    .filter(events::seq.gt(after))
                    .order(events::seq)
                    .limit(STEP)
                    .select(log::Row::as_select())
                    .load(conn)
                    .await?;
                rows.into_iter()
                    .map(|row| Ok(Record::Event(Box::new(Event::try_from(row)?))))
                    .collect()
            }
        }
    }
}

#[async_trait]
impl ArchiveExport for Export {
    async fn next(&mut self) -> Result<Vec<Record>, RepositoryError> {
        while let Some(kind) = self.kinds.last().copied() {
            let records = self.step(kind).await?;
            if let Some(last) = records.last() {
                self.after = last.id();
                return Ok(records);
            }
            self.kinds.pop();
            self.after = i64::MIN;
        }
        Ok(Vec::new())
    }
}

#[async_trait]
impl Archive for Store {
    async fn import(
        &self,
        settings: &ImportSettings,
    ) -> Result<Box<dyn ArchiveImport>, RepositoryError> {
        let (conn, rehearsal) = self.open_import(settings.dry_run).await?;
        Ok(Box::new(Import {
            conn,
            sealer: Arc::clone(&self.sealer),
            settings: settings.clone(),
            _rehearsal: rehearsal,
            raised: HashMap::new(),
            pretended: i64::MAX,
        }))
    }

    async fn export(&self, with_secrets: bool) -> Result<Box<dyn ArchiveExport>, RepositoryError> {
        // Every event that is there has its place then.
        super::sequence(&mut *self.reader().await?).await.map_err(Failure::from)?;
        Ok(Box::new(Export {
            conn: self.open_snapshot().await?,
            sealer: Arc::clone(&self.sealer),
            with_secrets,
            kinds: RecordKind::ALL.iter().rev().copied().collect(),
            after: i64::MIN,
        }))
    }
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
