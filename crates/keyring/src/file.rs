//! The key ring's file: JSON, so that an operator can see which keys there are.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, SubsecRound as _, Utc};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::{
    key::{KeyBytes, random_bytes},
    key_ring_error::KeyRingError,
};

const VERSION: u32 = 1;
/// What is said of more than [`MAX_BYTES`].
pub(crate) const TOO_LARGE: &str = "it is larger than 1 MiB";
/// Nobody but the owner.
const MODE: u32 = 0o600;
/// More than any key ring needs; bounds what a wrong path makes us read.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// What the file says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRingFile {
    version: u32,
    /// The id of the key that seals.
    pub(crate) active: u32,
    pub(crate) keys: Vec<KeyEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyEntry {
    pub(crate) id: u32,
    pub(crate) created_at: DateTime<Utc>,
    /// The base64 of 32 bytes.
    key: Zeroizing<String>,
}

impl KeyEntry {
    fn random(id: u32, now: DateTime<Utc>) -> Self {
        let key = Zeroizing::new(STANDARD.encode(random_bytes().as_slice()));
        Self { id, created_at: now.trunc_subsecs(0), key }
    }

    /// The key's bytes; `None` when the text is not the base64 of 32 bytes.
    pub(crate) fn bytes(&self) -> Option<KeyBytes> {
        let decoded = Zeroizing::new(STANDARD.decode(self.key.as_bytes()).ok()?);
        <[u8; 32]>::try_from(decoded.as_slice()).ok().map(Zeroizing::new)
    }
}

impl KeyRingFile {
    /// One new key, which seals.
    pub(crate) fn new(now: DateTime<Utc>) -> Self {
        Self { version: VERSION, active: 1, keys: vec![KeyEntry::random(1, now)] }
    }

    /// Adds a new key, with an id above all others, and makes it the active one if that is wanted.
    /// `false`, and nothing changed, when there is no id left.
    pub(crate) fn add(&mut self, now: DateTime<Utc>, active: bool) -> bool {
        let highest = self.keys.iter().map(|key| key.id).max().unwrap_or(0);
        let Some(id) = highest.checked_add(1) else { return false };
        self.keys.push(KeyEntry::random(id, now));
        if active {
            self.active = id;
        }
        true
    }

    /// Takes a key out. It is not lost: it is written to a file of its own before, a key ring of
    /// this one key, beside `path`. Answers where; `None` when there is no such key.
    pub(crate) fn take_out(
        &mut self,
        id: u32,
        path: &Path,
    ) -> Result<Option<PathBuf>, KeyRingError> {
        let Some(index) = self.keys.iter().position(|key| key.id == id) else { return Ok(None) };
        let kept = Self { version: VERSION, active: id, keys: vec![self.keys.remove(index)] };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".retired-{id}"));
        let beside = path.with_file_name(name);
        match kept.create(&beside) {
            // An earlier try ended here; the file is good if it holds this key.
            Err(KeyRingError::Exists { path }) => {
                let there = Self::read(&beside)?;
                let same = there.keys.iter().any(|it| it.id == id && *it.key == *kept.keys[0].key);
                if !same {
                    return Err(KeyRingError::Exists { path });
                }
            }
            written => written?,
        }
        Ok(Some(beside))
    }

    /// Reads a file that nobody but its owner may read.
    pub(crate) fn read(path: &Path) -> Result<Self, KeyRingError> {
        Self::read_from(open(path, OpenOptions::new().read(true))?, path)
    }

    fn read_from(file: File, path: &Path) -> Result<Self, KeyRingError> {
        let failed = io_error(path, "read");
        // Of the opened file, so that it is not another one a moment later.
        let metadata = file.metadata().map_err(&failed)?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyRingError::TooOpen { path: path.to_owned(), mode });
        }
        if metadata.len() > MAX_BYTES as u64 {
            return Err(malformed(path, TOO_LARGE));
        }
        // At once, since a buffer that grows leaves keys behind in freed memory.
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        file.take(MAX_BYTES as u64).read_to_end(&mut text).map_err(&failed)?;
        Self::parse(&text).map_err(|problem| malformed(path, problem))
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        /// A later version may have other fields, so the version is read alone first.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(text).map_err(|it| describe(&it))?;
        if version != VERSION {
            return Err(format!("its version is {version}, and this program knows {VERSION}"));
        }
        serde_json::from_slice(text).map_err(|it| describe(&it))
    }

    /// Writes a new file; fails where there is one.
    pub(crate) fn create(&self, path: &Path) -> Result<(), KeyRingError> {
        // Before any work, for the usual case; the last step decides.
        if path.symlink_metadata().is_ok() {
            return Err(KeyRingError::Exists { path: path.to_owned() });
        }
        let failed = io_error(path, "write");
        let written = self.write_beside(path, MODE).map_err(&failed)?;
        written.persist_noclobber(path).map_err(|it| match it.error {
            error if error.kind() == io::ErrorKind::AlreadyExists => {
                KeyRingError::Exists { path: path.to_owned() }
            }
            error => failed(error),
        })?;
        sync_directory(path).map_err(failed)
    }

    /// Changes the file in one step, while nobody else does. Afterwards it is either as before or
    /// wholly the new one, and has the mode that it had.
    pub(crate) fn change(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<(), KeyRingError>,
    ) -> Result<Self, KeyRingError> {
        // Through a link, so that the link stays and its target changes.
        let target = fs::canonicalize(path).map_err(|error| not_found_or(path, "open", error))?;
        let failed = io_error(path, "write");
        let locked = lock(path, &target)?;
        let mode = locked.metadata().map_err(&failed)?.mode() & 0o777;
        // `&File` reads too, and `locked` keeps the lock until the new file is in place.
        let mut ring = Self::read_from(locked.try_clone().map_err(&failed)?, path)?;
        change(&mut ring)?;
        ring.write_beside(&target, mode)
            .and_then(|written| Ok(written.persist(&target)?))
            .and_then(|_| sync_directory(&target))
            .map_err(failed)?;
        Ok(ring)
    }

    /// Writes to a new file in the same directory, all the way to the disk.
    fn write_beside(&self, path: &Path, mode: u32) -> io::Result<NamedTempFile> {
        let mut text = Zeroizing::new(Vec::with_capacity(256 + 256 * self.keys.len()));
        serde_json::to_writer_pretty(&mut *text, self)?;
        text.push(b'\n');
        let mut file = tempfile::Builder::new()
            .prefix(".keyring-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory(path))?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        Ok(file)
    }
}

/// Opens the file and waits until nobody else holds it. Whoever held it before may have put a new
/// file in its place, and then it is that one that is wanted.
fn lock(path: &Path, target: &Path) -> Result<File, KeyRingError> {
    let failed = io_error(path, "lock");
    loop {
        let file = open(target, OpenOptions::new().read(true).write(true))?;
        file.lock().map_err(&failed)?;
        let (held, there) =
            (file.metadata().map_err(&failed)?, fs::metadata(target).map_err(&failed)?);
        if (held.dev(), held.ino()) == (there.dev(), there.ino()) {
            return Ok(file);
        }
    }
}

fn open(path: &Path, options: &OpenOptions) -> Result<File, KeyRingError> {
    options.open(path).map_err(|error| not_found_or(path, "open", error))
}

/// The directory entry reaches the disk only with the directory.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> KeyRingError {
    KeyRingError::Malformed { place: path.display().to_string(), problem: problem.into() }
}

fn not_found_or(path: &Path, action: &'static str, error: io::Error) -> KeyRingError {
    if error.kind() == io::ErrorKind::NotFound {
        KeyRingError::NotFound { path: path.to_owned() }
    } else {
        io_error(path, action)(error)
    }
}

fn io_error(path: &Path, action: &'static str) -> impl Fn(io::Error) -> KeyRingError {
    let path = path.to_owned();
    move |source| KeyRingError::Io { path: path.clone(), action, source }
}

/// What is wrong and where. The parser's own words are used only where they cannot quote what was
/// read, which may be a key.
fn describe(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let what = match error.classify() {
        serde_json::error::Category::Data => match text.split('`').nth(1) {
            Some(field) if text.starts_with("missing field `") => format!("`{field}` is missing"),
            _ => "a field is unknown, given twice, or of the wrong kind".to_owned(),
        },
        _ => "it is not JSON".to_owned(),
    };
    format!("{what} (line {line}, column {column})")
}
