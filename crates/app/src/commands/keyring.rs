mod rotate;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Value, json};
use symbolon_domain::{
    ports::{Clock as _, RefusedBecause, RefusedValue, SealedColumn},
    services::{RotationProgress, SealedReport},
};
use symbolon_keyring::{KeyFile, KeyRing, KeyService as _, LiveKeyRing};

use crate::{
    SystemClock,
    cli::{KeyringCommand, OutputArgs},
    database::Database,
    failure::Failure,
    output::{print, print_json, table},
    progress::Progress,
    settings::{Need, Settings},
};

/// Most values that do not open are named one by one on a terminal.
const NAMED: usize = 20;

/// `symbolon keyring …`.
pub(super) async fn run(command: &KeyringCommand, config: Option<&Path>) -> Result<(), Failure> {
    match command {
        KeyringCommand::Generate { file, add, inactive, output } => {
            let now = SystemClock.now();
            let ring = match (add, inactive) {
                (false, _) => KeyRing::generate(file, now)?,
                (true, false) => KeyRing::add(file, now)?,
                (true, true) => KeyRing::prepare(file, now)?,
            };
            show(&ring, &file.display().to_string(), None, *output)?;
            if *add && !output.json {
                print(if *inactive {
                    "\nBring the file to every replica, then activate the key with \
                     `symbolon keyring activate`.\n"
                } else {
                    "\nReplicas that read this file seal with the new key from now on; bring the \
                     file to those that have a copy of their own. Then seal everything under it \
                     with `symbolon keyring rotate`.\n"
                })?;
            }
            Ok(())
        }
        KeyringCommand::Activate { id, file, output } => {
            let ring = KeyRing::activate(file, *id)?;
            show(&ring, &file.display().to_string(), None, *output)
        }
        KeyringCommand::Status { file: Some(file), output } => {
            let file = KeyFile::new(file);
            show(&file.load()?, &file.place(), None, *output)
        }
        KeyringCommand::Status { file: None, output } => status(config, *output).await,
        KeyringCommand::Rotate { retire, settle, output } => {
            rotate::run(config, retire.then_some(*settle), *output).await
        }
    }
}

/// The configured keys, and what is sealed under them where there is a database.
async fn status(config: Option<&Path>, output: OutputArgs) -> Result<(), Failure> {
    let settings = Settings::load(config, &[Need::Keyring])?;
    let keys = Arc::new(LiveKeyRing::start(settings.keyring.service())?);
    let database = match settings.database.url {
        Some(_) => Database::open_to_look(&settings.database, Some(keys.clone())).await?,
        None => None,
    };
    let Some(database) = database else { return show(&keys.ring(), &keys.place(), None, output) };
    let pending = database.pending_migrations().await?;
    if !pending.is_empty() {
        show(&keys.ring(), &keys.place(), None, output)?;
        return Err(Failure::Incomplete(
            "the values in the database were not looked at: it lacks migrations; run \
             `symbolon migrate`"
                .to_owned(),
        ));
    }
    let mut progress = Progress::new(None);
    let mut tell = |it: RotationProgress| progress.show_at(it.values, Some(it.fraction));
    let report = database.key_rotation().check(&mut tell).await;
    progress.clear();
    let report = report?;
    show(&keys.ring(), &keys.place(), Some(&report), output)?;
    match refused_sentence(&report) {
        None => Ok(()),
        Some(sentence) => Err(Failure::Incomplete(sentence)),
    }
}

fn show(
    ring: &KeyRing,
    place: &str,
    report: Option<&SealedReport>,
    output: OutputArgs,
) -> Result<(), Failure> {
    let keys = ring.status();
    let counts = report.map(counts);
    let count = |id: u32| counts.as_ref().map(|it| it.get(&Some(id)).copied().unwrap_or(0));
    if output.json {
        let keys: Vec<_> = keys
            .iter()
            .map(|it| {
                let mut key = json!({
                    "id": it.id,
                    "created_at": it.created_at,
                    "active": it.active,
                    "fingerprint": it.fingerprint,
                });
                if let Some(values) = count(it.id) {
                    key["values"] = json!(values);
                }
                key
            })
            .collect();
        let mut shown = json!({ "file": place, "keys": keys });
        if let Some(report) = report {
            shown["values"] = json!(report.values());
            shown["refused"] = refused_form(report);
        }
        return print_json(&shown);
    }
    let rows: Vec<_> = keys
        .iter()
        .map(|it| {
            [
                it.id.to_string(),
                it.fingerprint.clone(),
                it.created_at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
                if it.active { "seals and opens" } else { "opens" }.to_owned(),
                count(it.id).map(|it| it.to_string()).unwrap_or_default(),
            ]
        })
        .collect();
    let mut text = if report.is_some() {
        table(["KEY", "FINGERPRINT", "CREATED", "USE", "VALUES"], &rows)
    } else {
        let rows: Vec<_> =
            rows.into_iter().map(|[key, print, at, usage, _]| [key, print, at, usage]).collect();
        table(["KEY", "FINGERPRINT", "CREATED", "USE"], &rows)
    };
    if let Some(report) = report {
        text.push_str(&refused_text(report));
    }
    print(&format!("{place}\n\n{text}"))
}

/// How many values are under each key.
fn counts(report: &SealedReport) -> BTreeMap<Option<u32>, u64> {
    let mut counts = BTreeMap::new();
    for (key, count) in report.keys.values().flatten() {
        *counts.entry(*key).or_default() += count;
    }
    counts
}

/// Why a value does not open, in words.
fn because(refused: &RefusedValue) -> String {
    match refused.because {
        RefusedBecause::NeverSealed => "was never sealed".to_owned(),
        RefusedBecause::UnknownKey(key) => {
            format!("is under key {key}, which is not in the key ring")
        }
        RefusedBecause::OutOfPlace(key) => {
            format!(
                "is under key {key}, and was altered, is another row's, or is older than its row"
            )
        }
    }
}

fn refused_form(report: &SealedReport) -> Value {
    let form = |(column, refused): &(SealedColumn, RefusedValue)| {
        let reason = match refused.because {
            RefusedBecause::NeverSealed => "never_sealed",
            RefusedBecause::UnknownKey(_) => "unknown_key",
            RefusedBecause::OutOfPlace(_) => "out_of_place",
        };
        json!({
            "table": column.table(), "column": column.name(), "id": refused.row,
            "reason": reason, "detail": because(refused),
        })
    };
    report.refused.iter().map(form).collect()
}

/// The values that do not open, by table and row, never the values themselves.
fn refused_text(report: &SealedReport) -> String {
    if report.refused.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nThese do not open:\n");
    for (column, refused) in report.refused.iter().take(NAMED) {
        text = format!(
            "{text}  {}.{} of row {}: {}\n",
            column.table(),
            column.name(),
            refused.row,
            because(refused)
        );
    }
    match report.refused.len().checked_sub(NAMED) {
        None | Some(0) => text,
        Some(more) => format!("{text}  and {more} more; --json names all of them\n"),
    }
}

fn refused_sentence(report: &SealedReport) -> Option<String> {
    Some(match report.refused.len() {
        0 => return None,
        1 => "1 value does not open".to_owned(),
        many => format!("{many} values do not open"),
    })
}
