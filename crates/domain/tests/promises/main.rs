//! What the services promise, over the in-memory store and a provider in memory, as another team
//! would use them.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod device_linking;
mod failures;
mod identities;
mod linking;
mod logouts;
mod providers;
mod refresh;
mod registration;
mod revocations;
mod scheduler;
mod vending;
mod webhooks;
mod world;
