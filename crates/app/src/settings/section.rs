use std::{fs, path::PathBuf};

use config::{Map, Value, ValueKind};
use symbolon_domain::secret::Secret;

use super::{
    mistake::Mistake,
    value::{self, text},
};

/// What [`config`] says of a value that came from the environment.
const ENVIRONMENT: &str = "the environment";

/// What reading gathers: every mistake, and every key that was asked for.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) mistakes: Vec<Mistake>,
    pub(super) known: Vec<String>,
}

/// A table of the configuration, read key by key.
///
/// A key with a bad value is noted and read as if absent, so that one reading finds everything
/// that is wrong.
pub(super) struct Section<'a> {
    path: String,
    values: Map<String, Value>,
    /// The keys asked for, to be offered when another one is found.
    known: Vec<&'static str>,
    findings: &'a mut Findings,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub(super) fn root(values: Map<String, Value>, findings: &'a mut Findings) -> Self {
        Self { path: String::new(), values, known: Vec::new(), findings }
    }

    /// A table that lies in a list, where keys are not recorded as known.
    pub(super) fn item(&mut self, path: String, value: Value) -> Option<Section<'_>> {
        if let ValueKind::Table(values) = value.kind {
            return Some(Section { path, values, known: Vec::new(), findings: self.findings });
        }
        self.findings.mistakes.push(Mistake::new(path, "expected a table"));
        None
    }

    /// The table at this key; an empty one when it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'_> {
        self.known.push(key);
        let path = self.path_of(key);
        let values = match self.values.remove(key).map(|it| it.kind) {
            Some(ValueKind::Table(values)) => values,
            None => Map::new(),
            Some(_) => {
                let expected = format!("expected a table, [{path}]");
                self.findings.mistakes.push(Mistake::new(path.clone(), expected));
                Map::new()
            }
        };
        Section { path, values, known: Vec::new(), findings: self.findings }
    }

    /// Whether the file or the environment says anything about this key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The value at this key, read by `read`; `None` when it is absent or, which is noted, when
    /// `read` cannot use it.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Option<T> {
        self.known(key);
        let value = self.values.remove(key)?;
        let from = self.origin(key, &value);
        let result = read(value);
        if result.is_none() {
            self.mistake(key, format!("expected {expected}{from}"));
        }
        result
    }

    /// As [`value`](Self::value), where only `read` knows what is wrong.
    pub(super) fn checked<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        self.known(key);
        let value = self.values.remove(key)?;
        let from = self.origin(key, &value);
        read(value).map_err(|problem| self.mistake(key, format!("{problem}{from}"))).ok()
    }

    /// The secret at this key, or in the file that `KEY_file` names, without the line's end.
    pub(super) fn secret(&mut self, key: &'static str, expected: &str) -> Option<Secret> {
        let direct = self.values.remove(key);
        let file_key = format!("{key}_file");
        let file = self.values.remove(&file_key);
        self.known(key);
        self.findings.known.push(self.path_of(&file_key));
        let (direct, file) = match (direct, file) {
            // The environment is over the file, whichever form each of them has.
            (Some(direct), Some(file)) => match (is_environment(&direct), is_environment(&file)) {
                (true, false) => (Some(direct), None),
                (false, true) => (None, Some(file)),
                _ => {
                    self.mistake(key, format!("is given twice, here and as {file_key}"));
                    return None;
                }
            },
            either => either,
        };
        if let Some(value) = direct {
            let from = self.origin(key, &value);
            let secret = text(value);
            if secret.is_none() {
                self.mistake(key, format!("expected {expected}{from}"));
            }
            return secret.map(Secret::new);
        }
        let value = file?;
        let from = self.origin(&file_key, &value);
        match text(value) {
            None => {
                self.mistake(&file_key, format!("expected the path of a file{from}"));
                None
            }
            Some(path) => match read_secret(&path) {
                Ok(secret) => Some(secret),
                Err(problem) => {
                    self.mistake(&file_key, problem);
                    None
                }
            },
        }
    }

    /// The secrets at this key, or in the file that `KEY_file` names, one per line.
    pub(super) fn secrets(&mut self, key: &'static str) -> Vec<Secret> {
        const EXPECTED: &str = "a list of secrets, none of them empty";
        if let Some(ValueKind::Array(_)) = self.values.get(key).map(|it| &it.kind) {
            let list = self.value(key, EXPECTED, value::texts);
            if self.values.contains_key(&format!("{key}_file")) {
                self.mistake(key, format!("is given twice, here and as {key}_file"));
                self.values.remove(&format!("{key}_file"));
            }
            return list.unwrap_or_default().into_iter().map(Secret::new).collect();
        }
        let text = self.secret(key, EXPECTED);
        let lines = text.iter().flat_map(|it| it.expose().split(['\n', ',']));
        lines.map(str::trim).filter(|it| !it.is_empty()).map(Secret::new).collect()
    }

    /// The path at this key.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.value(key, "the path of a file", |it| text(it).map(PathBuf::from))
    }

    /// `true` or `false` at this key, else false.
    pub(super) fn switch(&mut self, key: &'static str) -> bool {
        self.value(key, "true or false", value::boolean).unwrap_or(false)
    }

    /// Notes something about a key of this table.
    pub(super) fn mistake(&mut self, key: &str, problem: impl Into<String>) {
        let mistake = Mistake::new(self.path_of(key), problem);
        self.findings.mistakes.push(mistake);
    }

    /// What is left, by key: for tables whose keys somebody else knows.
    pub(super) fn take_rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.values)
    }

    /// Notes every key that was not asked for.
    pub(super) fn finish(mut self) {
        let mut unknown: Vec<_> = std::mem::take(&mut self.values).into_iter().collect();
        unknown.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in unknown {
            let from = self.origin(&key, &value);
            let known = match self.known.as_slice() {
                [] => "none is known here".to_owned(),
                known => format!("expected one of {}", known.join(", ")),
            };
            self.mistake(&key, format!("is not a known key; {known}{from}"));
        }
    }

    fn known(&mut self, key: &'static str) {
        self.known.push(key);
        let path = self.path_of(key);
        self.findings.known.push(path);
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Which variable to look at, when it was one.
    fn origin(&self, key: &str, value: &Value) -> String {
        if is_environment(value) {
            let name = self.path_of(key).replace('.', "__").to_uppercase();
            format!(" (set by the environment variable SYMBOLON__{name})")
        } else {
            String::new()
        }
    }
}

fn is_environment(value: &Value) -> bool {
    value.origin() == Some(ENVIRONMENT)
}

/// A secret from a file of its own.
///
/// # Errors
///
/// What is wrong with the file, without its content.
pub(super) fn read_secret(path: &str) -> Result<Secret, String> {
    let content =
        fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let secret = content.trim_end_matches(['\r', '\n']);
    if secret.trim().is_empty() {
        return Err(format!("the file {path} is empty; expected the secret in it"));
    }
    Ok(Secret::new(secret))
}
