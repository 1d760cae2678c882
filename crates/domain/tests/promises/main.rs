//! What the services promise, over the in-memory store and a provider in memory, as another team
//! would use them.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod linking;
mod refresh;
mod webhooks;
mod world;
