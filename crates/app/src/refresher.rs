use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use symbolon_domain::services::{Scheduler, SchedulerPass};
use tokio::time::Instant;

use crate::{failure::sentence, shutdown::Shutdown};

/// Between two looks for what is due, while there is something.
const BUSY: Duration = Duration::from_millis(100);
/// Between two looks where there was nothing, on the average.
const IDLE: Duration = Duration::from_secs(1);
/// Between two looks while the database does not answer.
const TROUBLED: Duration = Duration::from_secs(5);
/// Between two counts of what is due.
const COUNT: Duration = Duration::from_secs(15);

/// Refreshes what is due, with nobody asking, until the process is asked to stop. What is under way
/// then is finished by tasks that are waited for; what has not begun is given back.
pub(crate) async fn refresh_ahead(scheduler: Scheduler, shutdown: Shutdown) {
    let mut counted: Option<Instant> = None;
    loop {
        let pause = match scheduler.pass().await {
            Ok(SchedulerPass { planned: 0, claimed: 0 }) => spread(IDLE),
            Ok(_) => BUSY,
            Err(error) => {
                tracing::warn!(error = sentence(&error), "due refreshes could not be looked for");
                spread(TROUBLED)
            }
        };
        if counted.is_none_or(|it| it.elapsed() >= COUNT) {
            counted = Some(Instant::now());
            if let Err(error) = scheduler.tell_backlog().await {
                tracing::debug!(error = sentence(&error), "due refreshes could not be counted");
            }
        }
        tokio::select! {
            () = shutdown.asked() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    scheduler.stop().await;
}

/// About as long: replicas that start together do not look together.
fn spread(pause: Duration) -> Duration {
    // Each of these hashers is seeded anew, which is random enough to spread load.
    let percent = u32::try_from(RandomState::new().hash_one(()) % 40).unwrap_or(0);
    pause * (80 + percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_spread_by_a_fifth_to_both_sides() {
        for _ in 0..1000 {
            assert!((800..1200).contains(&spread(IDLE).as_millis()));
        }
    }
}
