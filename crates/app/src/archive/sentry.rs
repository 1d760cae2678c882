//! Sentry's identities, from Django's `dumpdata`.

mod fields;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use symbolon_domain::{
    Error,
    archive::{ImportOutcome, ProviderRecord, Record, RecordKind},
    identity_provider::{IdentityProvider, ProviderOptions, ProviderSecrets},
    ids::ProviderId,
    page::PageRequest,
    ports::{Archive, Connectors, IdentityProviderRepository, ImportSettings, ProviderFilter},
};
use tokio::sync::mpsc;

use self::fields::Fields;
use super::{
    dump::{self, Broken, Element},
    file::{self, Counted},
    id_map::IdMap,
    report::{Note, Origin, Reason, Report},
    taking::{Became, Coming, Taking},
};
use crate::{failure::Failure, progress::Progress};

/// Elements that the reader is ahead of the store.
const AHEAD: usize = 500;
/// The models that are taken, in the order of their references: one pass over the file for each
/// line, so that the order in the file does not matter.
const PASSES: [&[&str]; 3] =
    [&[PROVIDER], &[IDENTITY, AUTH_PROVIDER], &[AUTH_IDENTITY, ORGANIZATION_IDENTITY]];
const PROVIDER: &str = "sentry.identityprovider";
const IDENTITY: &str = "sentry.identity";
const AUTH_PROVIDER: &str = "sentry.authprovider";
const AUTH_IDENTITY: &str = "sentry.authidentity";
const ORGANIZATION_IDENTITY: &str = "sentry.organizationidentity";
/// What a provider instance is called in the report that was made for an auth provider.
const MADE: &str = "identity_provider (made for an auth provider)";

/// What an import from Sentry works with.
pub(crate) struct Parts<'a> {
    pub(crate) archive: &'a dyn Archive,
    pub(crate) providers: &'a dyn IdentityProviderRepository,
    pub(crate) connectors: &'a dyn Connectors,
    pub(crate) settings: &'a ImportSettings,
    pub(crate) now: DateTime<Utc>,
}

/// Takes what a dump has; answers where and why the dump ends before its end, if it does.
pub(crate) async fn import(
    path: &Path,
    parts: &Parts<'_>,
    report: &mut Report,
) -> Result<Option<String>, Failure> {
    let size = file::size(path)?;
    let import = parts.archive.import(parts.settings).await.map_err(Error::from)?;
    let taking = Taking::new(import, report, Progress::new(None));
    let mut sentry = Sentry { parts, taking, known: Known::default() };
    let mut broken = None;
    let mut models = BTreeMap::new();
    for (pass, wanted) in PASSES.iter().enumerate() {
        if pass > 0 && !wanted.iter().any(|it| models.contains_key(*it)) {
            continue;
        }
        let read = sentry.pass(path, pass == 0, wanted).await?;
        if pass == 0 {
            models = read.models;
            let more = PASSES[1..].iter().filter(|it| it.iter().any(|it| models.contains_key(*it)));
            sentry.taking.progress.set_to_read(size * (1 + more.count() as u64));
            let skipped = models.iter().filter(|(it, _)| !PASSES.concat().contains(&it.as_str()));
            for (model, count) in skipped {
                sentry.taking.report.skipped(model, *count);
            }
        }
        broken = broken.or(read.broken);
    }
    sentry.taking.progress.clear();
    let Sentry { mut taking, known, .. } = sentry;
    known.warn(taking.report);
    if taking.report.summary.created() > 0 {
        let mut detail = taking.report.summary.json();
        detail.insert("from".to_owned(), Value::from("sentry"));
        taking.import.finish(&detail).await.map_err(Error::from)?;
    }
    match broken {
        None => Ok(None),
        Some(Broken::Unreadable(source)) => {
            Err(Failure::File { path: path.to_owned(), action: "read", source })
        }
        Some(malformed) => Ok(Some(malformed.to_string())),
    }
}

/// What came of one pass over the file.
struct PassRead {
    /// How many rows of each model there are.
    models: BTreeMap<String, u64>,
    broken: Option<Broken>,
}

struct Sentry<'a> {
    parts: &'a Parts<'a>,
    taking: Taking<'a>,
    known: Known,
}

/// What is known of the rows so far.
#[derive(Default)]
struct Known {
    providers: IdMap,
    /// Which row of the file a provider instance of ours came from.
    sources: HashMap<i64, i64>,
    identities: IdMap,
    auth_providers: IdMap,
    /// The instance of each type that organizations sign in with.
    sign_in: HashMap<String, ProviderId>,
    /// The type of each provider instance of the file.
    types: HashMap<i64, String>,
    /// Instances of the file by type.
    instances: HashMap<String, BTreeSet<i64>>,
    /// Types of which an instance was made without configuration.
    made: BTreeSet<String>,
    /// Types with several instances, and which one organizations sign in with.
    ambiguous: BTreeMap<String, ProviderId>,
    /// Auth providers whose secrets have no place.
    dropped_secrets: u64,
    /// Types that the catalog does not have.
    foreign_types: BTreeSet<String>,
    /// Types whose instances the operator has to complete, how many, and what the first one lacks.
    incomplete: BTreeMap<String, (u64, String)>,
}

impl Known {
    /// Remembers what a row became. Two instances of one type without an external id are one row
    /// here: the second is refused, as it may be another instance.
    fn became(&mut self, became: Became) -> Result<(), Reason> {
        let Became { kind, foreign, ours } = became;
        match kind {
            RecordKind::IdentityProvider => {
                let source = *self.sources.entry(ours).or_insert(foreign);
                if source != foreign {
                    let text =
                        format!("identity provider {source} has the same type and external_id");
                    return Err(Reason { code: "provider_repeated", text });
                }
                self.providers.insert(foreign, ours);
                if let Some(kind) = self.types.get(&foreign) {
                    self.instances.entry(kind.clone()).or_default().insert(ours);
                }
            }
            RecordKind::Identity => self.identities.insert(foreign, ours),
            RecordKind::AuthProvider => self.auth_providers.insert(foreign, ours),
            _ => {}
        }
        Ok(())
    }

    fn warn(&self, report: &mut Report) {
        for kind in &self.foreign_types {
            let kind = kind.escape_debug();
            report.warn(format!(
                "type {kind} is not in the catalog: its identities are kept, and their tokens are \
                 handed out until they expire"
            ));
        }
        for kind in &self.made {
            let kind = kind.escape_debug();
            report.warn(format!(
                "organizations sign in with type {kind}, of which there was no identity provider: \
                 one was made without configuration; complete it with PATCH /v1/providers/{{id}}"
            ));
        }
        for (kind, id) in &self.ambiguous {
            let kind = kind.escape_debug();
            report.warn(format!(
                "of type {kind} there are several identity providers; organizations sign in with {id}"
            ));
        }
        if self.dropped_secrets > 0 {
            report.warn(format!(
                "the config of {} auth providers held secrets, which were not taken: secrets belong \
                 to the identity provider",
                self.dropped_secrets
            ));
        }
        for (kind, (count, lacks)) in &self.incomplete {
            report.warn(format!(
                "{count} identity providers of type {kind} cannot refresh tokens yet, the first for \
                 {lacks}; complete them with PATCH /v1/providers/{{id}}"
            ));
        }
    }
}

impl Sentry<'_> {
    /// Reads the file once. Only the first pass tells of what is no row.
    async fn pass(
        &mut self,
        path: &Path,
        first: bool,
        wanted: &'static [&'static str],
    ) -> Result<PassRead, Failure> {
        let (sender, mut receiver) = mpsc::channel::<Vec<(u64, Element)>>(2);
        let counter = self.taking.progress.counter();
        let path = path.to_owned();
        let reading = tokio::task::spawn_blocking(move || {
            let mut models: BTreeMap<String, u64> = BTreeMap::new();
            let mut ahead = Vec::new();
            let read = Counted::open(&path, counter).map_err(Broken::Unreadable).and_then(|from| {
                dump::read(
                    from,
                    |it| wanted.contains(&it),
                    |index, element| {
                        if let Element::Unwanted(model) | Element::Row { model, .. } = &element {
                            match models.get_mut(model) {
                                Some(count) => *count += 1,
                                None => drop(models.insert(model.clone(), 1)),
                            }
                        }
                        if matches!(element, Element::Unwanted(_)) {
                            return true;
                        }
                        ahead.push((index, element));
                        ahead.len() < AHEAD
                            || sender.blocking_send(std::mem::take(&mut ahead)).is_ok()
                    },
                )
            });
            // Whoever does not listen any more has failed, and says so.
            let _ = sender.blocking_send(ahead);
            PassRead { models, broken: read.err() }
        });
        while let Some(elements) = receiver.recv().await {
            for (index, element) in elements {
                match element {
                    Element::Row { model, pk, fields } => {
                        self.row(Origin { position: index, model, id: pk }, fields).await?;
                    }
                    Element::NoRow(text) if first => {
                        let origin =
                            Origin { position: index, model: "unknown".into(), id: Value::Null };
                        self.taking.refuse(&origin, &Reason::malformed(text))?;
                    }
                    Element::NoRow(_) | Element::Unwanted(_) => {}
                }
            }
        }
        self.flush().await?;
        reading.await.map_err(|it| Failure::System("cannot read the file", it.into()))
    }

    async fn row(&mut self, origin: Origin, fields: Value) -> Result<(), Failure> {
        match self.coming(&origin, fields).await? {
            Ok((record, notes)) => {
                if self.taking.is_full_for(record.kind()) {
                    self.flush().await?;
                }
                self.taking.push(Coming { origin, record, notes });
                Ok(())
            }
            Err(reason) => self.taking.refuse(&origin, &reason),
        }
    }

    /// The record that a row says, or why there is none.
    async fn coming(
        &mut self,
        origin: &Origin,
        fields: Value,
    ) -> Result<Result<(Record, Vec<Note>), Reason>, Failure> {
        let read = fields::integer(&origin.id)
            .ok_or_else(|| Reason::malformed("pk: must be a whole number"))
            .and_then(|pk| Ok((pk, Fields::new(fields)?)));
        let (pk, mut fields) = match read {
            Ok(read) => read,
            Err(reason) => return Ok(Err(reason)),
        };
        if origin.model == AUTH_PROVIDER {
            let kind = match fields.text("provider", 128) {
                Ok(kind) => kind,
                Err(reason) => return Ok(Err(reason)),
            };
            let with = self.signs_in_with(&kind).await?;
            let made = rows::auth_provider(pk, with, fields, self.parts.now);
            return Ok(made.map(|(made, had_secrets)| {
                self.known.dropped_secrets += u64::from(had_secrets);
                (Record::AuthProvider(Box::new(made)), Vec::new())
            }));
        }
        Ok(self.simple(pk, &origin.model, fields))
    }

    fn simple(
        &mut self,
        pk: i64,
        model: &str,
        fields: Fields,
    ) -> Result<(Record, Vec<Note>), Reason> {
        match model {
            PROVIDER => {
                let record = rows::provider(pk, fields, self.parts)?;
                self.look_at(&record);
                Ok((Record::IdentityProvider(record), Vec::new()))
            }
            AUTH_IDENTITY => {
                let (record, notes) = rows::auth_identity(pk, fields, &self.known.auth_providers)?;
                Ok((Record::AuthIdentity(Box::new(record)), notes))
            }
            ORGANIZATION_IDENTITY => {
                let (identities, now) = (&self.known.identities, self.parts.now);
                let record = rows::organization_identity(pk, fields, identities, now)?;
                Ok((Record::OrganizationIdentity(record), Vec::new()))
            }
            _ => {
                let (record, notes) = rows::identity(pk, fields, &self.known.providers)?;
                Ok((Record::Identity(Box::new(record)), notes))
            }
        }
    }

    /// The instance of a type that organizations sign in with: the first one, or one that is made
    /// for that.
    async fn signs_in_with(&mut self, kind: &str) -> Result<ProviderId, Failure> {
        if let Some(id) = self.known.sign_in.get(kind) {
            return Ok(*id);
        }
        let filter =
            ProviderFilter { provider_type: Some(kind.to_owned()), ..ProviderFilter::default() };
        let page = PageRequest { limit: 2, after: None };
        let there = self.parts.providers.list(&filter, page).await.map_err(Error::from)?;
        // In a dry run those of the file are not there.
        let mut there: BTreeSet<i64> = there.items.iter().map(|it| it.id.0).collect();
        there.extend(self.known.instances.get(kind).into_iter().flatten());
        let id = if let Some(first) = there.first() {
            if there.len() > 1 {
                self.known.ambiguous.insert(kind.to_owned(), ProviderId(*first));
            }
            ProviderId(*first)
        } else {
            self.make(kind).await?
        };
        self.known.sign_in.insert(kind.to_owned(), id);
        Ok(id)
    }

    async fn make(&mut self, kind: &str) -> Result<ProviderId, Failure> {
        self.flush().await?;
        let provider = IdentityProvider {
            id: ProviderId(0),
            provider_type: kind.to_owned(),
            external_id: None,
            config: Map::new(),
            secret_names: Vec::new(),
            options: ProviderOptions::default(),
            names_issuer: false,
            date_added: self.parts.now,
            version: 1,
        };
        let record = ProviderRecord { provider, secrets: ProviderSecrets::new() };
        let record = Record::IdentityProvider(record);
        let outcomes = self.taking.import.take(&[record]).await.map_err(Error::from)?;
        match outcomes.first() {
            Some(ImportOutcome::Created(id)) => {
                self.known.made.insert(kind.to_owned());
                self.taking.report.created(MADE);
                Ok(ProviderId(*id))
            }
            Some(ImportOutcome::Unchanged(id)) => Ok(ProviderId(*id)),
            _ => {
                let text = format!("no identity provider of type {kind:?} can be made");
                Err(Failure::Argument(text))
            }
        }
    }

    /// Notes what the operator has to do about a provider instance.
    fn look_at(&mut self, record: &ProviderRecord) {
        let provider = &record.provider;
        let kind = &provider.provider_type;
        self.known.types.insert(provider.id.0, kind.clone());
        let connectors = self.parts.connectors;
        if connectors.find_type(kind).is_none() {
            self.known.foreign_types.insert(kind.clone());
        } else if let Err(lacks) = connectors.check(kind, &provider.config, &record.secrets) {
            let entry = self.known.incomplete.entry(kind.clone());
            entry.or_insert_with(|| (0, lacks.to_string())).0 += 1;
        }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let known = &mut self.known;
        self.taking.flush(|became| known.became(became)).await
    }
}
