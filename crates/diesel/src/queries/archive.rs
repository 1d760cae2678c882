//! Whole stores, many rows at a time.

#[path = "archive/accounts.rs"]
mod accounts;
#[path = "archive/api_key.rs"]
mod api_key;
#[path = "archive/auth_identity.rs"]
mod auth_identity;
#[path = "archive/auth_provider.rs"]
mod auth_provider;
#[path = "archive/event.rs"]
mod event;
#[path = "archive/identity.rs"]
mod identity;
#[path = "archive/identity_provider.rs"]
mod identity_provider;
#[path = "archive/organization_identity.rs"]
mod organization_identity;
#[path = "archive/revocation.rs"]
mod revocation;
#[path = "archive/transfer.rs"]
mod transfer;
#[path = "archive/webhook_endpoint.rs"]
mod webhook_endpoint;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::{Map, Value};
use symbolon_domain::{
    archive::{ImportOutcome, KEPT_IDS_END, Record, RecordKind, Refusal},
    event::{EventKind, NewEvent},
    ports::{Archive, ArchiveExport, ArchiveImport, ImportSettings, RepositoryError, Sealer},
};

use super::{
    Conn, Store,
    bulk::{Rehearsal, import_transaction, new_ids, raise_ids},
    events as log,
};
use crate::failure::Failure;

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
        event::tell(conn, events).await
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
                identity_provider::take(conn, &of_kind!(records, IdentityProvider), batch).await?
            }
            RecordKind::Identity => {
                let records = of_kind!(records, Identity);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                identity::take(conn, &records, batch).await?
            }
            RecordKind::AuthProvider => {
                let records = of_kind!(records, AuthProvider);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                auth_provider::take(conn, &records, batch).await?
            }
            RecordKind::AuthIdentity => {
                let records = of_kind!(records, AuthIdentity);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                auth_identity::take(conn, &records, batch).await?
            }
            RecordKind::OrganizationIdentity => {
                organization_identity::take(conn, &of_kind!(records, OrganizationIdentity), batch)
                    .await?
            }
            RecordKind::ApiKey => api_key::take(conn, &of_kind!(records, ApiKey), batch).await?,
            RecordKind::WebhookEndpoint => {
                webhook_endpoint::take(conn, &of_kind!(records, WebhookEndpoint), batch).await?
            }
            RecordKind::Transfer => {
                transfer::take(conn, &of_kind!(records, Transfer), batch).await?
            }
            RecordKind::Revocation => {
                let records = of_kind!(records, Revocation);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                revocation::take(conn, &records, batch).await?
            }
            RecordKind::Event => {
                let records = of_kind!(records, Event);
                let records: Vec<_> = records.into_iter().map(|it| &**it).collect();
                event::take(conn, &records, batch).await?
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
    async fn step(&mut self, kind: RecordKind) -> Result<Vec<Record>, Failure> {
        let Self { conn, sealer, with_secrets, after, .. } = self;
        let (after, with_secrets) = (*after, *with_secrets);
        let opened = (&**sealer, with_secrets);
        match kind {
            RecordKind::IdentityProvider => identity_provider::step(conn, after, opened).await,
            RecordKind::Identity => identity::step(conn, after, opened).await,
            RecordKind::AuthProvider => auth_provider::step(conn, after).await,
            RecordKind::AuthIdentity => auth_identity::step(conn, after, opened).await,
            RecordKind::OrganizationIdentity => organization_identity::step(conn, after).await,
            RecordKind::ApiKey => api_key::step(conn, after, with_secrets).await,
            RecordKind::WebhookEndpoint => webhook_endpoint::step(conn, after, opened).await,
            RecordKind::Transfer => transfer::step(conn, after).await,
            RecordKind::Revocation => revocation::step(conn, after, opened).await,
            RecordKind::Event => event::step(conn, after).await,
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
