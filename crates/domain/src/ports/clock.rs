use chrono::{DateTime, Utc};

/// Now.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait Clock: Send + Sync {
    /// The time, UTC.
    fn now(&self) -> DateTime<Utc>;
}
