use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use symbolon_domain::ports::{
    DeviceLinkRepository, LinkSessionRepository, LogoutRepository, RepositoryError,
};

use crate::{failure::sentence, shutdown::Shutdown};

/// What runs out.
pub(crate) struct Sweeper {
    pub(crate) sessions: Arc<dyn LinkSessionRepository>,
    pub(crate) device_links: Arc<dyn DeviceLinkRepository>,
    pub(crate) logouts: Arc<dyn LogoutRepository>,
}

impl Sweeper {
    /// Marks link sessions and device links that have run out as expired, and forgets logout tokens
    /// and sessions at providers, about once a minute. What has run out is refused anyway; this
    /// drops what it held.
    pub(crate) async fn sweep(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.asked() => return,
                () = tokio::time::sleep(about_a_minute()) => {}
            }
            tell("link sessions", self.sessions.expire().await);
            tell("device links", self.device_links.expire().await);
            tell("logout tokens", self.logouts.forget_tokens().await);
            tell("sessions at providers", self.logouts.forget_sessions().await);
        }
    }
}

fn tell(what: &str, swept: Result<u64, RepositoryError>) {
    match swept {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "{what} have run out"),
        Err(error) => {
            tracing::warn!(error = sentence(&error), "{what} that have run out could not be swept");
        }
    }
}

/// 45 to 75 seconds, so that replicas that start together do not sweep together.
fn about_a_minute() -> Duration {
    // Each of these hashers is seeded anew, which is random enough to spread load.
    let spread = RandomState::new().hash_one(()) % 30_000;
    Duration::from_secs(45) + Duration::from_millis(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_comes_after_45_to_75_seconds() {
        for _ in 0..1000 {
            let pause = about_a_minute();
            assert!((45..75).contains(&pause.as_secs()), "{pause:?}");
        }
    }
}
