use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use symbolon_domain::ports::{DeviceLinkRepository, LinkSessionRepository};

use crate::{failure::sentence, shutdown::Shutdown};

/// Marks link sessions and device links that have run out as expired, about once a minute. What
/// has run out is refused anyway; this drops what it held.
pub(crate) async fn sweep(
    sessions: Arc<dyn LinkSessionRepository>,
    device_links: Arc<dyn DeviceLinkRepository>,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            () = shutdown.asked() => return,
            () = tokio::time::sleep(about_a_minute()) => {}
        }
        match sessions.expire().await {
            Ok(0) => {}
            Ok(expired) => tracing::debug!(expired, "link sessions have run out"),
            Err(error) => {
                tracing::warn!(error = sentence(&error), "link sessions could not be expired");
            }
        }
        match device_links.expire().await {
            Ok(0) => {}
            Ok(expired) => tracing::debug!(expired, "device links have run out"),
            Err(error) => {
                tracing::warn!(error = sentence(&error), "device links could not be expired");
            }
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
