//! A whole store as JSON lines: a header, a record a line, and an end.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read as _},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbolon_domain::{
    Error,
    archive::{Record, RecordKind},
    ids::{AuthProviderId, IdentityId, ProviderId},
    page::PageRequest,
    ports::{Archive, EventFilter, EventLog, ImportSettings},
    revocation::GrantOwner,
};
use tokio::sync::mpsc;

use super::{
    file::{self, Counted, Private},
    id_map::{IdMap, of_auth_provider, of_identity, of_provider},
    report::{Note, Origin, Reason, Report},
    taking::{Became, Coming, Taking},
};
use crate::{failure::Failure, progress::Progress};

mod form;

use self::form::Line;

/// The version of the form.
const VERSION: u32 = 1;
/// Longest line that is read, in bytes.
const LONGEST: u64 = 64 << 20;
/// Lines that the reader is ahead of the store.
const AHEAD: usize = 500;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    symbolon_export: u32,
    with_secrets: bool,
}

/// What an export wrote.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// How many records of each kind.
    pub(crate) records: BTreeMap<RecordKind, u64>,
    /// How many grants wait to be revoked and are not in the file, as it has no secrets.
    pub(crate) left_out: u64,
}

/// Writes everything to a file. Revocations that wait are left out without secrets: what is to be
/// revoked is one.
pub(crate) async fn save(
    archive: &dyn Archive,
    path: &Path,
    with_secrets: bool,
    over: bool,
) -> Result<Saved, Failure> {
    let mut file = Private::create(path, over)?;
    let mut progress = Progress::new(None);
    let mut saved = Saved::default();
    let mut export = archive.export(with_secrets).await.map_err(Error::from)?;
    let mut text = line(&Header { symbolon_export: VERSION, with_secrets })?;
    let mut rows = 0;
    loop {
        let records = export.next().await.map_err(Error::from)?;
        if records.is_empty() {
            break;
        }
        for record in &records {
            if matches!(record, Record::Revocation(it) if it.lacks_grant()) && !with_secrets {
                saved.left_out += 1;
                continue;
            }
            *saved.records.entry(record.kind()).or_default() += 1;
            rows += 1;
            text.extend(line(&Line::from(record))?);
        }
        file.write(&text)?;
        text.clear();
        progress.show(rows);
    }
    text.extend(line(&Line::End(form::End { records: rows }))?);
    file.write(&text)?;
    progress.clear();
    file.finish()?;
    Ok(saved)
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec(value).map_err(|it| Failure::Output(it.into()))?;
    text.push(b'\n');
    Ok(text)
}

/// A line of the file, without its end.
enum Read {
    Line(Vec<u8>),
    TooLong,
}

/// Takes everything that a file has, into an empty store or beside what is there. Answers why the
/// file is not whole, if it is not.
pub(crate) async fn restore(
    path: &Path,
    archive: &dyn Archive,
    events: &dyn EventLog,
    settings: &ImportSettings,
    report: &mut Report,
) -> Result<Option<String>, Failure> {
    let size = file::size(path)?;
    // A store without a history gets that of the file, and nothing beside it.
    let history = PageRequest { limit: 1, after: None };
    let history = events.list(&EventFilter::default(), history).await.map_err(Error::from)?;
    let settings = ImportSettings { tells: !history.items.is_empty(), ..settings.clone() };
    let import = archive.import(&settings).await.map_err(Error::from)?;
    let progress = Progress::new(Some(size));
    let counter = progress.counter();
    let mut restoring = Restoring {
        taking: Taking::new(import, report, progress),
        known: Known::default(),
        header: None,
        records: 0,
        end: None,
    };
    let (sender, mut receiver) = mpsc::channel::<Vec<(u64, Read)>>(2);
    let owned = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let mut from = BufReader::new(Counted::open(&owned, counter)?);
        let mut ahead = Vec::new();
        for number in 1.. {
            let Some(read) = next_line(&mut from)? else { break };
            ahead.push((number, read));
            if ahead.len() == AHEAD && sender.blocking_send(std::mem::take(&mut ahead)).is_err() {
                return Ok(());
            }
        }
        // Whoever does not listen any more has failed, and says so.
        let _ = sender.blocking_send(ahead);
        Ok(())
    });
    while let Some(lines) = receiver.recv().await {
        for (number, read) in lines {
            restoring.line(number, read).await?;
        }
    }
    restoring.flush().await?;
    let read = reading.await.map_err(|it| Failure::System("cannot read the file", it.into()))?;
    read.map_err(|source| Failure::File { path: path.to_owned(), action: "read", source })?;

    let Restoring { mut taking, header, records, end, .. } = restoring;
    taking.progress.clear();
    if taking.report.summary.created() > 0 {
        let mut detail = taking.report.summary.json();
        detail.insert("from".to_owned(), Value::from("symbolon"));
        taking.import.finish(&detail).await.map_err(Error::from)?;
    }
    Ok(match (header, end) {
        (None, _) => Some("the file is empty".to_owned()),
        (Some(_), None) => {
            Some(format!("the file ends early, after {records} records: its last line is missing"))
        }
        (Some(_), Some(said)) if said != records => {
            Some(format!("the file has {records} records and says that it has {said}"))
        }
        _ => None,
    })
}

fn next_line(from: &mut impl BufRead) -> std::io::Result<Option<Read>> {
    let mut line = Vec::new();
    from.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == LONGEST {
        from.skip_until(b'\n')?;
        return Ok(Some(Read::TooLong));
    } else if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(Read::Line(line)))
}

struct Restoring<'a> {
    taking: Taking<'a>,
    known: Known,
    header: Option<Header>,
    /// How many records there were.
    records: u64,
    /// How many records there are, as the end says.
    end: Option<u64>,
}

/// Which rows the file's ids have become.
#[derive(Default)]
struct Known {
    providers: IdMap,
    identities: IdMap,
    auth_providers: IdMap,
}

impl Known {
    fn became(&mut self, became: Became) {
        match became.kind {
            RecordKind::IdentityProvider => self.providers.insert(became.foreign, became.ours),
            RecordKind::Identity => self.identities.insert(became.foreign, became.ours),
            RecordKind::AuthProvider => self.auth_providers.insert(became.foreign, became.ours),
            _ => {}
        }
    }

    /// Puts our ids in place of the file's. What an event, a transfer or a revocation speaks of may be gone, and then keeps
    /// the name that it had.
    fn translate(&self, record: &mut Record) -> Result<(), Reason> {
        match record {
            Record::IdentityProvider(_) | Record::ApiKey(_) | Record::WebhookEndpoint(_) => {}
            Record::Identity(it) => {
                it.identity.idp_id =
                    ProviderId(of_provider(&self.providers, it.identity.idp_id.0)?);
            }
            Record::AuthProvider(it) => {
                it.provider_id = ProviderId(of_provider(&self.providers, it.provider_id.0)?);
            }
            Record::AuthIdentity(it) => {
                let at = &mut it.auth_identity.auth_provider_id;
                *at = AuthProviderId(of_auth_provider(&self.auth_providers, at.0)?);
            }
            Record::OrganizationIdentity(it) => {
                it.identity_id = IdentityId(of_identity(&self.identities, it.identity_id.0)?);
            }
            Record::Transfer(it) => {
                for item in &mut it.items {
                    let (identity, provider) = (&mut item.identity_id.0, &mut item.provider_id.0);
                    *identity = self.identities.get(*identity).unwrap_or(*identity);
                    *provider = self.providers.get(*provider).unwrap_or(*provider);
                }
            }
            Record::Revocation(it) => {
                let (waits, queued) = (it.grant.as_ref(), &mut it.queued);
                if let GrantOwner::Identity(identity) = &mut queued.owner {
                    identity.0 = self.identities.get(identity.0).unwrap_or(identity.0);
                }
                let provider = &mut queued.provider_id.0;
                *provider = match waits {
                    Some(grant) if grant.provider.is_none() => {
                        of_provider(&self.providers, *provider)?
                    }
                    // It is gone.
                    Some(_) => *provider,
                    None => self.providers.get(*provider).unwrap_or(*provider),
                };
            }
            Record::Event(it) => {
                let ours = |id: Option<i64>, map: &IdMap| id.map(|it| map.get(it).unwrap_or(it));
                it.identity_id =
                    ours(it.identity_id.map(|it| it.0), &self.identities).map(IdentityId);
                it.provider_id =
                    ours(it.provider_id.map(|it| it.0), &self.providers).map(ProviderId);
            }
        }
        Ok(())
    }
}

impl Restoring<'_> {
    async fn line(&mut self, number: u64, read: Read) -> Result<(), Failure> {
        let mut origin = Origin { position: number, model: "unknown".into(), id: Value::Null };
        let text = match read {
            Read::Line(text) => text,
            Read::TooLong => {
                let reason = Reason::malformed("the line is longer than 64 MiB");
                return self.taking.refuse(&origin, &reason);
            }
        };
        if self.header.is_none() {
            let header = serde_json::from_slice(&text).ok();
            let header = header.filter(|it: &Header| it.symbolon_export == VERSION);
            self.header = Some(header.ok_or_else(|| {
                Failure::Argument(format!(
                    "the first line is not the header of an export of version {VERSION}, as \
                     `symbolon export` writes it"
                ))
            })?);
            return Ok(());
        }
        // The parser's message could quote what it read.
        let Ok(line) = serde_json::from_slice::<Line>(&text) else {
            self.records += 1;
            let value: Value = serde_json::from_slice(&text).unwrap_or_default();
            if let Some(kind) = value["kind"].as_str().and_then(RecordKind::parse) {
                kind.as_str().clone_into(&mut origin.model);
                origin.id = value["id"].clone();
            }
            let text =
                if value.is_null() { "is not JSON" } else { "is not a record of a known form" };
            return self.taking.refuse(&origin, &Reason::malformed(text));
        };
        if let Line::End(end) = line {
            self.end = Some(end.records);
            return Ok(());
        }
        self.records += 1;
        let (kind, id) = line.names();
        kind.as_str().clone_into(&mut origin.model);
        origin.id = json!(id);
        let without_secrets = line.lacks_secrets();
        match line.into_record() {
            Ok(mut record) => {
                // Those that it may refer to are known then.
                if self.taking.is_full_for(record.kind()) {
                    self.flush().await?;
                }
                if let Err(reason) = self.known.translate(&mut record) {
                    return self.taking.refuse(&origin, &reason);
                }
                let notes = without_secrets.then_some(Note::WithoutSecrets).into_iter().collect();
                self.taking.push(Coming { origin, record, notes });
                Ok(())
            }
            Err(reason) => self.taking.refuse(&origin, &reason),
        }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let known = &mut self.known;
        self.taking
            .flush(|became| {
                known.became(became);
                Ok(())
            })
            .await
    }
}
