use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use symbolon_domain::ports::{Place, SealError, Sealer};
use zeroize::Zeroizing;

use crate::{
    key::Key,
    key_ring::{KeyRing, open_with},
    key_ring_error::KeyRingError,
    key_service::{KeyService, Stamp},
    sealed,
};

/// Where only loading tells whether the keys have changed: how often it is done at most because a
/// value names a key that is not there. Somebody who can write to the database could otherwise
/// have a command run for each read.
const COOL_DOWN: Duration = Duration::from_secs(10);

/// A key ring that follows its [`KeyService`], for a process that runs on while keys are rotated.
///
/// A value that names an unknown key has the keys loaded anew before it is given up: so a replica
/// opens what another one sealed under a key that was added a moment ago. A key that this process
/// has once had goes on opening until it ends, though it is not in the key ring any more.
#[derive(Debug)]
pub struct LiveKeyRing {
    service: Box<dyn KeyService>,
    held: RwLock<Held>,
    /// Held while loading: who comes meanwhile waits, and finds what was loaded.
    loading: Mutex<Loading>,
}

#[derive(Debug)]
struct Held {
    ring: Arc<KeyRing>,
    /// Those that were taken out of the key ring since the start.
    earlier: Vec<Arc<Key>>,
}

#[derive(Debug)]
struct Loading {
    /// Of the last one that was loaded.
    stamp: Option<Stamp>,
    /// When it was last loaded because of a value.
    asked_at: Option<Instant>,
}

impl LiveKeyRing {
    /// Loads the keys.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`] of the service.
    pub fn start(service: Box<dyn KeyService>) -> Result<Self, KeyRingError> {
        // Before: a change in between is then found the next time.
        let stamp = service.stamp();
        let ring = Arc::new(service.load()?);
        Ok(Self {
            service,
            held: RwLock::new(Held { ring, earlier: Vec::new() }),
            loading: Mutex::new(Loading { stamp, asked_at: None }),
        })
    }

    /// The keys as they were last loaded.
    #[must_use]
    pub fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner).ring)
    }

    /// Where they come from.
    #[must_use]
    pub fn place(&self) -> String {
        self.service.place()
    }

    /// Loads the keys anew; whether they are others now.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`] of the service; the keys are then those from before.
    pub fn reload(&self) -> Result<bool, KeyRingError> {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.load(&mut loading)
    }

    /// The same where the service says, without being asked for keys, that they may be others.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload).
    pub fn reload_if_changed(&self) -> Result<bool, KeyRingError> {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.service.stamp();
        if stamp.is_none() || stamp == loading.stamp { Ok(false) } else { self.load(&mut loading) }
    }

    fn load(&self, loading: &mut Loading) -> Result<bool, KeyRingError> {
        let stamp = self.service.stamp();
        let ring = self.service.load()?;
        loading.stamp = stamp;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let changed = ring.status() != held.ring.status();
        let known = |id: u32| ring.keys().iter().any(|it| it.id == id);
        let mut earlier: Vec<_> = held.ring.keys().to_vec();
        earlier.append(&mut held.earlier);
        earlier.retain(|it| !known(it.id));
        *held = Held { ring: Arc::new(ring), earlier };
        Ok(changed)
    }

    fn open_with_held(
        &self,
        place: &Place,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        match open_with(held.ring.keys(), place, sealed) {
            Err(SealError::UnknownKey(_)) => open_with(&held.earlier, place, sealed),
            opened => opened,
        }
    }

    /// Loads the keys because a value names one that is not there, unless that cannot help.
    fn ask_for(&self, id: u32) {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have loaded it while this one waited.
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if held.ring.keys().iter().chain(&held.earlier).any(|it| it.id == id) {
            return;
        }
        drop(held);
        let stamp = self.service.stamp();
        let useless = match &stamp {
            Some(_) => stamp == loading.stamp,
            None => loading.asked_at.is_some_and(|at| at.elapsed() < COOL_DOWN),
        };
        if useless {
            return;
        }
        loading.asked_at = Some(Instant::now());
        match self.load(&mut loading) {
            Ok(_) => tracing::info!(key = id, "loaded the keys anew: a value names a new one"),
            Err(error) => {
                tracing::error!(%error, key = id, "a value names a new key, and the keys cannot be loaded anew");
            }
        }
    }
}

impl Sealer for LiveKeyRing {
    fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.ring().seal(place, plain)
    }

    fn open(&self, place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        match self.open_with_held(place, sealed) {
            Err(SealError::UnknownKey(id)) => {
                self.ask_for(id);
                self.open_with_held(place, sealed)
            }
            opened => opened,
        }
    }

    fn key_id(&self, sealed: &[u8]) -> Option<u32> {
        sealed::key_id(sealed)
    }

    fn mark(&self) -> Vec<u8> {
        self.ring().mark()
    }
}
