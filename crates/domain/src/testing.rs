//! For tests, here and in crates that build on this one: `features = ["testing"]`, in
//! `[dev-dependencies]` only.
//!
//! Smallest first:
//!
//! - [`fixtures`] are plain valid values that fit together; a test changes the fields it is about.
//! - `Mock…` of every [port](crate::ports) says what one call returns: for one rule, and for
//!   failures that a real store will not produce on demand.
//! - [`TestClock`] is set and advanced by hand. [`TestSealer`] refuses what does not belong where
//!   it is opened, and hides the plain text, without a key ring. [`PlainProofs`] say in the clear
//!   what they are about.
//! - [`MemoryStore`] behaves like a database over several calls, and is the reference to read
//!   when a port's words leave a question.
//! - [`properties`] runs random operations of two callers and looks whether a rule is broken.
//! - [`contract`] checks that your adapter keeps every promise of the ports, one test each:
//!   expand [`contract_tests!`](crate::contract_tests) in one of its test files.
//!
//! ```
//! use std::sync::Arc;
//!
//! use symbolon_domain::{
//!     ports::{IdentityProviderRepository, IdentityRepository, Link, LinkOutcome, Taken},
//!     testing::{MemoryStore, TestClock, fixtures},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), symbolon_domain::ports::RepositoryError> {
//! let store = MemoryStore::new(Arc::new(TestClock::default()));
//! let provider = fixtures::new_identity_provider();
//! let provider = IdentityProviderRepository::insert(&store, &provider, &fixtures::ACTOR).await?;
//!
//! let link = Link { provider_id: provider.id, ..fixtures::link() };
//! assert!(matches!(store.link(&link).await?, LinkOutcome::Created(_)));
//! let other = Link { owner: fixtures::owner("user-2"), ..link };
//! assert_eq!(store.link(&other).await?, LinkOutcome::Taken(Taken::Account));
//! # Ok(())
//! # }
//! ```
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests fail by panicking")]

mod clock;
pub mod contract;
mod dpop;
pub mod fixtures;
mod memory;
pub mod properties;
mod provider;
mod sealer;

pub use clock::{RunningClock, TestClock};
pub use dpop::PlainProofs;
pub use memory::MemoryStore;
pub use provider::{DeviceAnswer, RefreshFault, ScriptedProvider};
pub use sealer::TestSealer;
