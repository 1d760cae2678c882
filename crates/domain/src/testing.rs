//! For tests, here and in crates that build on this one: `features = ["testing"]`, in
//! `[dev-dependencies]` only.
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests fail by panicking")]

mod clock;
pub mod contract;
pub mod fixtures;
mod memory;
mod sealer;

pub use clock::{RunningClock, TestClock};
pub use memory::MemoryStore;
pub use sealer::TestSealer;
