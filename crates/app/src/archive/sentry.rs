//! Sentry's identities, from Django's `dumpdata`.

mod fields;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use symbolon_domain::{
    Error,
    archive::{Record, RecordKind},
    ports::{Archive, Connectors, IdentityProviderRepository, ImportSettings},
};
use tokio::sync::mpsc;

use self::fields::Fields;
use super::{
    dump::{self, Broken, Element},
    file::{self, Counted},
    id_map::IdMap,
    progress::Progress,
    report::{Origin, Reason, Report},
    taking::{Became, Coming, Taking},
};
use crate::failure::Failure;

/// Elements that the reader is ahead of the store.
const AHEAD: usize = 500;
/// The models that are taken, in the order of their references: one pass over the file for each
/// line, so that the order in the file does not matter.
const PASSES: [&[&str]; 2] = [&[PROVIDER], &[IDENTITY]];
const PROVIDER: &str = "sentry.identityprovider";
const IDENTITY: &str = "sentry.identity";

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
    /// Types that the catalog does not have.
    foreign_types: BTreeSet<String>,
    /// Types whose instances the operator has to complete, how many, and what the first one lacks.
    incomplete: BTreeMap<String, (u64, String)>,
}

impl Known {
    /// Remembers what a row became. Two instances of one type without an external id are one row
    /// here: the second is refused, as it may be another instance.
    fn became(&mut self, became: Became) -> Result<(), Reason> {
        let Became { kind, foreign, ours, .. } = became;
        match kind {
            RecordKind::IdentityProvider => {
                let source = *self.sources.entry(ours).or_insert(foreign);
                if source != foreign {
                    let text =
                        format!("identity provider {source} has the same type and external_id");
                    return Err(Reason { code: "provider_repeated", text });
                }
                self.providers.insert(foreign, ours);
            }
            RecordKind::Identity => self.identities.insert(foreign, ours),
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
        match self.coming(&origin, fields) {
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

    fn coming(
        &mut self,
        origin: &Origin,
        fields: Value,
    ) -> Result<(Record, Vec<super::report::Note>), Reason> {
        let pk = fields::integer(&origin.id)
            .ok_or_else(|| Reason::malformed("pk: must be a whole number"))?;
        let fields = Fields::new(fields)?;
        match origin.model.as_str() {
            PROVIDER => {
                let record = rows::provider(pk, fields, self.parts)?;
                self.look_at(&record);
                Ok((Record::IdentityProvider(record), Vec::new()))
            }
            _ => {
                let (record, notes) = rows::identity(pk, fields, &self.known.providers)?;
                Ok((Record::Identity(Box::new(record)), notes))
            }
        }
    }

    /// Notes what the operator has to do about a provider instance.
    fn look_at(&mut self, record: &symbolon_domain::archive::ProviderRecord) {
        let provider = &record.provider;
        let kind = &provider.provider_type;
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
