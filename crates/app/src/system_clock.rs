use chrono::{DateTime, Utc};
use symbolon_domain::ports::Clock;

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter that asks the machine")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
