use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use symbolon_domain::services::Revocations;

use crate::{failure::sentence, shutdown::Shutdown};

/// Most grants that are ended at the same time.
const AT_ONCE: u16 = 16;

/// Ends the grants that wait for it, as long as some are due; looks again about every ten seconds.
pub(crate) async fn revoke(revocations: Arc<Revocations>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.asked() => return,
            () = tokio::time::sleep(about_ten_seconds()) => {}
        }
        loop {
            // What is claimed is finished, also over a shutdown; no more is claimed then.
            let pass = tokio::select! {
                () = shutdown.asked() => return,
                pass = revocations.pass(AT_ONCE) => pass,
            };
            match pass {
                Ok(0) => break,
                Ok(tried) => tracing::debug!(tried, "revocations were tried"),
                Err(error) => {
                    let error = sentence(&error);
                    tracing::warn!(error, "revocations could not be claimed");
                    break;
                }
            }
        }
    }
}

/// 8 to 12 seconds, so that replicas that start together do not look together.
fn about_ten_seconds() -> Duration {
    // Each of these hashers is seeded anew, which is random enough to spread load.
    let spread = RandomState::new().hash_one(()) % 4_000;
    Duration::from_secs(8) + Duration::from_millis(spread)
}
