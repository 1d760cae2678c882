//! Keeps the keys of a running service those of its key ring.

use std::{io, sync::Arc, time::Duration};

use symbolon_keyring::{KeyRingError, LiveKeyRing};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    failure::{Failure, sentence},
    shutdown::Shutdown,
};

/// How often it is looked whether the key ring is another one, where that costs next to nothing.
const LOOK: Duration = Duration::from_secs(5);

/// Which key this replica seals with, so that one can see when all of them have switched.
const ACTIVE_KEY: &str = "symbolon_keyring_active_key";

/// SIGHUP, from now on: it does not end the process any more.
pub(crate) fn on_hangup() -> Result<Signal, Failure> {
    signal(SignalKind::hangup())
        .map_err(|it: io::Error| Failure::System("cannot listen for signals", it))
}

/// Loads the keys anew when their file changes, and on SIGHUP, until the process is asked to stop.
/// Keys that cannot be loaded leave those that are there.
pub(crate) async fn follow(keys: Arc<LiveKeyRing>, mut hangup: Signal, shutdown: Shutdown) {
    loop {
        metrics::gauge!(ACTIVE_KEY).set(f64::from(keys.ring().active_id()));
        let asked = tokio::select! {
            () = shutdown.asked() => return,
            _ = hangup.recv() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let its = Arc::clone(&keys);
        // A file may be slow, and a command is.
        let loaded =
            tokio::task::spawn_blocking(
                move || {
                    if asked { its.reload() } else { its.reload_if_changed() }
                },
            );
        if let Ok(loaded) = loaded.await {
            tell(&keys, asked, loaded);
        }
    }
}

fn tell(keys: &LiveKeyRing, asked: bool, loaded: Result<bool, KeyRingError>) {
    let from = keys.place();
    match loaded {
        Ok(true) => {
            let active = keys.ring().active_id();
            tracing::info!(from, active, "the keys are others now");
        }
        Ok(false) if asked => tracing::info!(from, "the keys are the same as before"),
        Ok(false) => {}
        Err(error) => tracing::error!(
            from,
            error = sentence(&error),
            "the keys cannot be loaded anew; those from before are used"
        ),
    }
}
