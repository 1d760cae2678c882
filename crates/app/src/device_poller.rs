use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use symbolon_domain::services::DeviceLinking;
use tokio::task::JoinSet;

use crate::{failure::sentence, shutdown::Shutdown};

/// Most device links of one pass.
const AT_ONCE: u16 = 64;
/// Most passes at the same time: one waits for its slowest provider, and the others go on.
const PASSES: usize = 8;

/// Asks the providers of device links what became of them, looking about every second for those
/// that are due. How often each is asked is the store's to say.
pub(crate) async fn poll_device_links(linking: DeviceLinking, shutdown: Shutdown) {
    let mut passes = JoinSet::new();
    // An outage is told of once, not every second.
    let mut out = false;
    loop {
        tokio::select! {
            // A poll that was begun is finished, also over a shutdown: it is one of the tasks.
            () = shutdown.asked() => return passes.detach_all(),
            () = tokio::time::sleep(about_a_second()) => {}
        }
        while let Some(pass) = passes.try_join_next() {
            match pass {
                Ok(Ok(0)) => out = false,
                Ok(Ok(polled)) => {
                    out = false;
                    tracing::debug!(polled, "the providers of device links were asked");
                }
                Ok(Err(error)) => {
                    if !out {
                        let error = sentence(&error);
                        tracing::warn!(error, "device links could not be claimed");
                    }
                    out = true;
                }
                Err(error) => tracing::error!(%error, "a pass over device links broke off"),
            }
        }
        if passes.len() < PASSES {
            let linking = linking.clone();
            passes.spawn(async move { linking.pass(AT_ONCE).await });
        }
    }
}

/// 0.8 to 1.2 seconds, so that replicas that start together do not look together.
fn about_a_second() -> Duration {
    // Each of these hashers is seeded anew, which is random enough to spread load.
    let spread = RandomState::new().hash_one(()) % 400;
    Duration::from_millis(800 + spread)
}
