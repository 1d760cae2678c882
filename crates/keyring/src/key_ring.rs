use std::{collections::HashSet, path::Path};

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
    keys: Vec<Key>,
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
        Self::from_file(&file, path)
    }

    /// Adds a new key to the key ring at `path` and makes it the one that seals. The file keeps
    /// its mode; of several additions at the same time, all are kept.
    ///
    /// Whoever has loaded the old file cannot open what the new key seals: `docs/decisions` says
    /// how to bring it to several replicas.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); the file is then as it was before.
    pub fn add(path: &Path, now: DateTime<Utc>) -> Result<Self, KeyRingError> {
        let file = KeyRingFile::change(path, |file| {
            // Nothing is added to what could not be used afterwards.
            Self::from_file(file, path)?;
            if file.add(now) { Ok(()) } else { Err(malformed(path, "there is no key id left")) }
        })?;
        Self::from_file(&file, path)
    }

    /// Reads the key ring at `path`.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`], one for each thing that the operator does about it.
    pub fn load(path: &Path) -> Result<Self, KeyRingError> {
        Self::from_file(&KeyRingFile::read(path)?, path)
    }

    fn from_file(file: &KeyRingFile, path: &Path) -> Result<Self, KeyRingError> {
        let mut ids = HashSet::new();
        let mut keys = Vec::with_capacity(file.keys.len());
        for (index, entry) in file.keys.iter().enumerate() {
            if !ids.insert(entry.id) {
                return Err(malformed(path, format!("the key id {} is there twice", entry.id)));
            }
            let bytes = entry.bytes().ok_or_else(|| {
                malformed(path, format!("keys[{index}].key is not the base64 of 32 bytes"))
            })?;
            keys.push(Key::new(entry.id, entry.created_at, &bytes));
        }
        let active = keys.iter().position(|key| key.id == file.active).ok_or_else(|| {
            malformed(path, format!("the active key {} is not among its keys", file.active))
        })?;
        Ok(Self { keys, active })
    }

    /// The keys, in the order of the file.
    #[must_use]
    pub fn status(&self) -> Vec<KeyStatus> {
        let status = |(index, key): (usize, &Key)| KeyStatus {
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
        sealed::key_id(sealed) == Some(self.keys[self.active].id)
    }
}

impl Sealer for KeyRing {
    fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(sealed::seal(&self.keys[self.active], place, plain))
    }

    fn open(&self, place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let id = sealed::key_id(sealed).ok_or(SealError::Refused)?;
        let key = self.keys.iter().find(|key| key.id == id).ok_or(SealError::UnknownKey(id))?;
        sealed::open(key, place, sealed)
    }
}
