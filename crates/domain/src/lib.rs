//! Identities at identity providers: entities, ports and the rules between them.

pub mod account;
pub mod api_key;
pub mod credentials;
pub mod error;
pub mod event;
pub mod identity;
pub mod identity_provider;
pub mod ids;
pub mod link_session;
pub mod page;
pub mod ports;
pub mod secret;
pub mod services;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::Error;
