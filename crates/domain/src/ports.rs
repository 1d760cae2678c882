//! What the domain needs from the outside, as traits in the domain's own words.
//!
//! One method is one transaction: what it promises to write stands or falls together, the event
//! that tells of it included. Each promise has a test of the same words in
//! [`testing::contract`](crate::testing::contract), which every adapter runs.

mod api_keys;
mod archive;
mod auth_identities;
mod auth_providers;
mod clock;
mod connector;
mod credentials;
mod device_links;
mod dpop_proofs;
mod event_log;
mod forecast;
mod identities;
mod identity_providers;
mod ledger;
mod link_sessions;
mod logouts;
mod organization_identities;
mod refresh_schedule;
mod repository_error;
mod revocations;
mod sealed_values;
mod sealer;
mod subject_tokens;
mod transfers;
mod vending;
mod webhooks;

pub use api_keys::*;
pub use archive::*;
pub use auth_identities::*;
pub use auth_providers::*;
pub use clock::*;
pub use connector::*;
pub use credentials::*;
pub use device_links::*;
pub use dpop_proofs::*;
pub use event_log::*;
pub use forecast::*;
pub use identities::*;
pub use identity_providers::*;
pub use ledger::*;
pub use link_sessions::*;
pub use logouts::*;
pub use organization_identities::*;
pub use refresh_schedule::*;
pub use repository_error::*;
pub use revocations::*;
pub use sealed_values::*;
pub use sealer::*;
pub use subject_tokens::*;
pub use transfers::*;
pub use vending::*;
pub use webhooks::*;
