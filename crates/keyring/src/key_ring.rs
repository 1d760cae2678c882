use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use symbolon_domain::ports::{Place, SealError, Sealer};
use zeroize::Zeroizing;

use crate::{
    file::{KeyRingFile, malformed},
    key::Key,
    key_ring_error::KeyRingError,
    sealed,
};

/// The keys of an installation: one seals, all open.
#[derive(Debug)]
pub struct KeyRing {
    /// At least one, each id once.
    keys: Vec<Arc<Key>>,
    /// Index into `keys`.
    active: usize,
}

/// What may be told of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// Names the key in the sealed values.
    pub id: u32,
    /// When it was made, UTC, to the second.
    pub created_at: DateTime<Utc>,
    /// Whether it is the one that seals.
    pub active: bool,
    /// The first 8 hexadecimal digits of the SHA-256 of the key: tells on two machines whether
    /// they have the same one.
    pub fingerprint: String,
}

impl KeyRing {
    /// Writes a key ring with one new key to `path`, with mode 0600.
    ///
    /// # Errors
    ///
    /// [`KeyRingError::Exists`] when there is something at `path`, which stays as it is;
    /// [`KeyRingError::Io`] when it cannot be written. There is never half a file.
    pub fn generate(path: &Path, now: DateTime<Utc>) -> Result<Self, KeyRingError> {
        let file = KeyRingFile::new(now);
        file.create(path)?;
        Self::from_file(&file, &shown(path))
    }

    /// Adds a new key to the key ring at `path` and makes it the one that seals. The file keeps
    /// its mode; of several additions at the same time, all are kept.
    ///
    /// Whoever has loaded the old file cannot open what the new key seals until it loads this one:
    /// `docs/keys.md` says how to bring it to several replicas.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); the file is then as it was before.
    pub fn add(path: &Path, now: DateTime<Utc>) -> Result<Self, KeyRingError> {
        Self::add_key(path, now, true)
    }

    /// Adds a new key that only opens, until [`activate`](Self::activate) makes it seal: for
    /// replicas that each have their own copy of the file, and have to have it before it is used.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn prepare(path: &Path, now: DateTime<Utc>) -> Result<Self, KeyRingError> {
        Self::add_key(path, now, false)
    }

    fn add_key(path: &Path, now: DateTime<Utc>, active: bool) -> Result<Self, KeyRingError> {
        let file = KeyRingFile::change(path, |file| {
            // Nothing is added to what could not be used afterwards.
            Self::from_file(file, &shown(path))?;
            let added = file.add(now, active);
            if added { Ok(()) } else { Err(malformed(path, "there is no key id left")) }
        })?;
        Self::from_file(&file, &shown(path))
    }

    /// Makes a key of the key ring at `path` the one that seals.
    ///
    /// # Errors
    ///
    /// [`KeyRingError::NoSuchKey`], and as [`load`](Self::load); the file is then as it was.
    pub fn activate(path: &Path, id: u32) -> Result<Self, KeyRingError> {
        let file = KeyRingFile::change(path, |file| {
            Self::from_file(file, &shown(path))?;
            if !file.keys.iter().any(|key| key.id == id) {
                return Err(KeyRingError::NoSuchKey { path: path.to_owned(), id });
            }
            file.active = id;
            Ok(())
        })?;
        Self::from_file(&file, &shown(path))
    }

    /// Takes keys out of the key ring at `path`. Each is first written to a file of its own beside
    /// it, `PATH.retired-ID`, which is a key ring too: a backup of the database from before may
    /// need it. Answers the files.
    ///
    /// That nothing is sealed under them any more is for the caller to know.
    ///
    /// # Errors
    ///
    /// [`KeyRingError::NoSuchKey`], [`KeyRingError::ActiveKey`], and as [`load`](Self::load); the
    /// key ring is then as it was.
    pub fn retire(path: &Path, ids: &[u32]) -> Result<(Self, Vec<PathBuf>), KeyRingError> {
        let mut kept = Vec::new();
        let file = KeyRingFile::change(path, |file| {
            Self::from_file(file, &shown(path))?;
            for &id in ids {
                if id == file.active {
                    return Err(KeyRingError::ActiveKey { path: path.to_owned(), id });
                }
                let beside = file.take_out(id, path)?;
                let missing = || KeyRingError::NoSuchKey { path: path.to_owned(), id };
                kept.push(beside.ok_or_else(missing)?);
            }
            Ok(())
        })?;
        Ok((Self::from_file(&file, &shown(path))?, kept))
    }

    /// Reads the key ring at `path`.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`], one for each thing that the operator does about it.
    pub fn load(path: &Path) -> Result<Self, KeyRingError> {
        Self::from_file(&KeyRingFile::read(path)?, &shown(path))
    }

    /// Reads a key ring of the form that the file has, which came from this place.
    pub(crate) fn parse(text: &[u8], place: &str) -> Result<Self, KeyRingError> {
        let file = KeyRingFile::parse(text)
            .map_err(|problem| KeyRingError::Malformed { place: place.to_owned(), problem })?;
        Self::from_file(&file, place)
    }

    fn from_file(file: &KeyRingFile, place: &str) -> Result<Self, KeyRingError> {
        let malformed =
            |problem: String| KeyRingError::Malformed { place: place.to_owned(), problem };
        let mut ids = HashSet::new();
        let mut keys = Vec::with_capacity(file.keys.len());
        for (index, entry) in file.keys.iter().enumerate() {
            if !ids.insert(entry.id) {
                return Err(malformed(format!("the key id {} is there twice", entry.id)));
            }
            let bytes = entry.bytes().ok_or_else(|| {
                malformed(format!("keys[{index}].key is not the base64 of 32 bytes"))
            })?;
            keys.push(Arc::new(Key::new(entry.id, entry.created_at, &bytes)));
        }
        let active = keys.iter().position(|key| key.id == file.active).ok_or_else(|| {
            malformed(format!("the active key {} is not among its keys", file.active))
        })?;
        Ok(Self { keys, active })
    }

    /// The keys, in the order of the file.
    #[must_use]
    pub fn status(&self) -> Vec<KeyStatus> {
        let status = |(index, key): (usize, &Arc<Key>)| KeyStatus {
            id: key.id,
            created_at: key.created_at,
            active: index == self.active,
            fingerprint: key.fingerprint.clone(),
        };
        self.keys.iter().enumerate().map(status).collect()
    }

    /// Whether a value is sealed under the active key, by its header alone: one that is not is
    /// what a rotation has to seal again.
    #[must_use]
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        sealed::key_id(sealed) == Some(self.active_id())
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn active_id(&self) -> u32 {
        self.keys[self.active].id
    }

    pub(crate) fn keys(&self) -> &[Arc<Key>] {
        &self.keys
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Opens a value with the key that it names, if it is among these.
pub(crate) fn open_with(
    keys: &[Arc<Key>],
    place: &Place,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let id = sealed::key_id(sealed).ok_or(SealError::Refused)?;
    let key = keys.iter().find(|key| key.id == id).ok_or(SealError::UnknownKey(id))?;
    sealed::open(key, place, sealed)
}

impl Sealer for KeyRing {
    fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(sealed::seal(&self.keys[self.active], place, plain))
    }

    fn open(&self, place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        open_with(&self.keys, place, sealed)
    }

    fn key_id(&self, sealed: &[u8]) -> Option<u32> {
        sealed::key_id(sealed)
    }

    fn mark(&self) -> Vec<u8> {
        sealed::mark(self.active_id())
    }
}
