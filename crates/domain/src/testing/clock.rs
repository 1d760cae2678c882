use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{ports::Clock, testing::fixtures};

/// Stands still until it is told otherwise. Starts at [`fixtures::NOW`].
#[derive(Debug)]
pub struct TestClock(Mutex<DateTime<Utc>>);

impl TestClock {
    /// A clock that shows this time.
    #[must_use]
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(now))
    }

    /// Shows this time from now on; also an earlier one, as real clocks do.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().unwrap() = now;
    }

    /// Goes on by this much.
    pub fn advance(&self, by: TimeDelta) {
        *self.0.lock().unwrap() += by;
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::at(fixtures::NOW)
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

/// The machine's own clock, for tests against stores that have theirs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunningClock;

impl Clock for RunningClock {
    #[expect(clippy::disallowed_methods, reason = "this is a Clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_clock_stands_still_until_it_is_set_or_advanced() {
        let clock = TestClock::default();
        assert_eq!((clock.now(), clock.now()), (fixtures::NOW, fixtures::NOW));
        clock.advance(TimeDelta::seconds(90));
        assert_eq!(clock.now(), fixtures::NOW + TimeDelta::seconds(90));
        clock.set(DateTime::UNIX_EPOCH);
        assert_eq!(clock.now(), DateTime::UNIX_EPOCH);
    }
}
