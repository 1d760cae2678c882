use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use symbolon_domain::ports::Clock as _;
use symbolon_keyring::{KeyRing, KeyRingError};

use crate::{failure::Failure, system_clock::SystemClock};

/// Where the demo keeps its database and key ring. Nobody else runs a demo in it meanwhile.
pub(super) struct DemoDirectory {
    path: PathBuf,
    /// Locked as long as this lives.
    _lock: File,
}

impl DemoDirectory {
    /// Opens the directory, or makes it, readable by its owner only.
    ///
    /// # Errors
    ///
    /// [`Failure::File`]; [`Failure::Argument`] when another demo runs in it.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |action| {
            move |source: io::Error| Failure::File { path: path.to_owned(), action, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create"))?;
        // Keys and databases of a demo are not to end up in anybody's repository.
        fs::write(path.join(".gitignore"), "*\n").map_err(failed("write into"))?;
        let lock = File::create(path.join("lock")).map_err(failed("write into"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::Argument(format!(
                "another demo runs in {}; stop it, or give this one its own --directory",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed("lock")(error)),
        }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join("symbolon.db")
    }

    /// The key ring that is there, or a new one.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`].
    pub(super) fn key_ring(&self) -> Result<KeyRing, KeyRingError> {
        let file = self.path.join("keyring.json");
        match KeyRing::load(&file) {
            Err(KeyRingError::NotFound { .. }) => KeyRing::generate(&file, SystemClock.now()),
            other => other,
        }
    }
}
