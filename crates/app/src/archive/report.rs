//! What became of each row, for the operator.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Where a row stands.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The position in the array or the line, as the format counts.
    pub(super) position: u64,
    /// What kind of row it is, in the format's words.
    pub(super) model: String,
    /// The row's id there, as it is written.
    pub(super) id: Value,
}

/// Why a row is not taken: a word for programs, and a sentence that quotes nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) code: &'static str,
    pub(super) text: String,
}

impl Reason {
    /// The row is not what it should be.
    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self { code: "malformed", text: text.into() }
    }
}

/// What can be said of a row that was taken, and the words for it in the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    /// The id was taken.
    NewId,
    /// Sentry has encrypted the data.
    Encrypted,
    /// The time at which the access token ends cannot be read.
    UnknownExpiry,
    /// The archive names secrets and does not have them.
    WithoutSecrets,
}

impl Note {
    const fn text(self) -> &'static str {
        match self {
            Self::NewId => "got a new id, as theirs is another row's",
            Self::Encrypted => {
                "have data that Sentry has encrypted: taken with status unknown and without \
                 credentials"
            }
            Self::UnknownExpiry => "have an expiry that is no time: it counts as unknown",
            Self::WithoutSecrets => "have secrets that are not in the file",
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::NewId => "new_id",
            Self::Encrypted => "encrypted",
            Self::UnknownExpiry => "unknown_expiry",
            Self::WithoutSecrets => "without_secrets",
        }
    }
}

/// How many rows of one model became what.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    created: u64,
    unchanged: u64,
    refused: u64,
}

/// What came of an import.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    models: BTreeMap<String, Counts>,
    notes: BTreeMap<Note, u64>,
    /// Rows of models that are not taken.
    skipped: BTreeMap<String, u64>,
    /// What the operator should know or do.
    warnings: Vec<String>,
}

impl Summary {
    fn total(&self, of: impl Fn(&Counts) -> u64) -> u64 {
        self.models.values().map(of).sum()
    }

    /// How many rows were not taken.
    pub(crate) fn refused(&self) -> u64 {
        self.total(|it| it.refused)
    }

    /// How many rows are new.
    pub(crate) fn created(&self) -> u64 {
        self.total(|it| it.created)
    }

    /// For programs, and for the event that tells of the import.
    pub(crate) fn json(&self) -> Map<String, Value> {
        let models: Map<_, _> = self
            .models
            .iter()
            .map(|(model, it)| {
                let counts = json!({
                    "created": it.created, "unchanged": it.unchanged, "refused": it.refused,
                });
                (model.clone(), counts)
            })
            .collect();
        let notes: Map<_, _> =
            self.notes.iter().map(|(note, count)| (note.code().to_owned(), json!(count))).collect();
        Map::from_iter([
            ("created".to_owned(), json!(self.created())),
            ("unchanged".to_owned(), json!(self.total(|it| it.unchanged))),
            ("refused".to_owned(), json!(self.refused())),
            ("models".to_owned(), Value::Object(models)),
            ("skipped".to_owned(), json!(self.skipped)),
            ("notes".to_owned(), Value::Object(notes)),
            ("warnings".to_owned(), json!(self.warnings)),
        ])
    }

    /// For people.
    pub(crate) fn text(&self, dry_run: bool) -> String {
        let rows: Vec<_> = self
            .models
            .iter()
            .map(|(model, it)| {
                let counts = [it.created, it.unchanged, it.refused].map(|it| it.to_string());
                let [created, unchanged, refused] = counts;
                [model.clone(), created, unchanged, refused]
            })
            .collect();
        let created = if dry_run { "WOULD CREATE" } else { "CREATED" };
        let mut text = crate::output::table(["ROWS", created, "UNCHANGED", "REFUSED"], &rows);
        for (note, count) in &self.notes {
            text = format!("{text}{count} rows {}\n", note.text());
        }
        for (model, count) in &self.skipped {
            text = format!("{text}{count} rows of {} skipped\n", model.escape_debug());
        }
        for warning in &self.warnings {
            text = format!("{text}note: {warning}\n");
        }
        text
    }
}

/// Tells of every row that is not taken as it comes, on standard error or in a file.
pub(crate) struct Report {
    file: Option<BufWriter<File>>,
    pub(super) summary: Summary,
}

impl Report {
    /// A report in this file, as JSON lines, which is written anew; on standard error without one.
    pub(crate) fn to(path: Option<&Path>) -> Result<Self, Failure> {
        let create = |path: &Path| {
            let file = |source| Failure::File { path: path.to_owned(), action: "write", source };
            File::create(path).map(BufWriter::new).map_err(file)
        };
        Ok(Self { file: path.map(create).transpose()?, summary: Summary::default() })
    }

    pub(super) fn created(&mut self, model: &str) {
        self.counts(model).created += 1;
    }

    pub(super) fn unchanged(&mut self, model: &str) {
        self.counts(model).unchanged += 1;
    }

    pub(super) fn skipped(&mut self, model: &str, count: u64) {
        *self.summary.skipped.entry(model.chars().take(100).collect()).or_default() += count;
    }

    /// Tells the operator something once.
    pub(super) fn warn(&mut self, text: String) {
        if !self.summary.warnings.contains(&text) {
            self.summary.warnings.push(text);
        }
    }

    pub(super) fn refused(&mut self, origin: &Origin, reason: &Reason) -> Result<(), Failure> {
        self.counts(&origin.model).refused += 1;
        if self.file.is_some() {
            return self.line(&json!({
                "position": origin.position, "model": origin.model, "id": origin.id,
                "refused": reason.code, "reason": reason.text,
            }));
        }
        let Origin { position, model, id } = origin;
        // Where nobody listens there is nobody to tell.
        let _ = writeln!(io::stderr(), "row {position} ({model} {id}) refused: {}", reason.text);
        Ok(())
    }

    pub(super) fn note(
        &mut self,
        origin: &Origin,
        note: Note,
        new_id: Option<i64>,
    ) -> Result<(), Failure> {
        *self.summary.notes.entry(note).or_default() += 1;
        if self.file.is_none() {
            return Ok(());
        }
        let mut line = json!({
            "position": origin.position, "model": origin.model, "id": origin.id,
            "note": note.code(),
        });
        if let Some(id) = new_id {
            line["new_id"] = json!(id);
        }
        self.line(&line)
    }

    /// Everything is told.
    pub(crate) fn finish(mut self) -> Result<Summary, Failure> {
        if let Some(file) = &mut self.file {
            file.flush().map_err(Failure::Output)?;
        }
        Ok(self.summary)
    }

    fn line(&mut self, line: &Value) -> Result<(), Failure> {
        let Some(file) = &mut self.file else { return Ok(()) };
        writeln!(file, "{line}").map_err(Failure::Output)
    }

    fn counts(&mut self, model: &str) -> &mut Counts {
        if !self.summary.models.contains_key(model) {
            self.summary.models.insert(model.to_owned(), Counts::default());
        }
        self.summary.models.entry(model.to_owned()).or_default()
    }
}
