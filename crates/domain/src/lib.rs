//! The links of a product's users to their accounts at identity providers: entities, the ports
//! that they need from the outside, and the rules between them. No I/O and no framework: write
//! your own adapters, or take Symbolon's.
//!
//! - **Entities**: [`identity`], [`identity_provider`], [`credentials`], [`link_session`],
//!   [`transfer`], [`revocation`], [`event`], [`api_key`], [`freeze`]; for single sign-on [`auth_provider`],
//!   [`auth_identity`], [`organization_identity`]. What must hold lives in the types of their
//!   fields.
//! - **[`ports`]**: one small trait for each need. One method is one transaction, and every
//!   promise in its documentation is a test in [`testing::contract`] that your adapter can run.
//! - **[`services`]**: the rules, as structs over ports: [`Linking`](services::Linking) leads a
//!   browser to a provider and back, [`Tokens`](services::Tokens) hands out access tokens and
//!   refreshes them at most once however many ask, [`Identities`](services::Identities),
//!   [`Providers`](services::Providers) and [`ApiKeys`](services::ApiKeys) are the rest.
//! - **[`Error`]** says who must act: the user, the operator, the caller, or nobody yet.
//!
//! The feature `testing` brings `Mock…` types of every port, fixtures, an in-memory store, a
//! provider in memory, and the contract suite. Turn it on in `[dev-dependencies]` only.
//!
//! # Example
//!
//! A user's account is linked, its token is handed out, expires, and is handed out fresh; here
//! over the in-memory adapters of the feature `testing`.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use chrono::TimeDelta;
//! use symbolon_domain::{
//!     event::Actor,
//!     identity_provider::OptionChanges,
//!     ids::{ExternalId, UserId},
//!     link_evidence::{LinkEvidence, LinkMethod},
//!     ports::{Clock, IdentityRepository, Link, LinkOutcome, LinkOwner},
//!     services::{
//!         Identities, Providers, Revocations, Tasks, TokenNeed, TokenPorts, TokenSettings, Tokens,
//!     },
//!     testing::{MemoryStore, ScriptedProvider, TestClock},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Adapters: yours go here.
//! let clock = Arc::new(TestClock::default());
//! let store = Arc::new(MemoryStore::new(clock.clone()));
//! let provider = ScriptedProvider::new(TimeDelta::hours(1), {
//!     let clock = clock.clone();
//!     move || clock.now()
//! });
//!
//! // Services over them.
//! let tasks = Tasks::default();
//! let providers =
//!     Arc::new(Providers {
//!         providers: store.clone(),
//!         connectors: Arc::new(provider.clone()),
//!         public_url: None,
//!     });
//! let revocations = Arc::new(Revocations {
//!     queue: store.clone(),
//!     identities: store.clone(),
//!     credentials: store.clone(),
//!     auth_identities: store.clone(),
//!     providers: providers.clone(),
//!     clock: clock.clone(),
//!     tasks: tasks.clone(),
//!     timeout: Duration::from_secs(10),
//! });
//! let identities = Arc::new(Identities {
//!     identities: store.clone(),
//!     events: store.clone(),
//!     providers: providers.clone(),
//!     revocations,
//!     clock: clock.clone(),
//! });
//! let tokens = Tokens::new(
//!     TokenPorts {
//!         credentials: store.clone(),
//!         providers: providers.clone(),
//!         identities: identities.clone(),
//!         clock: clock.clone(),
//!         tasks,
//!     },
//!     TokenSettings {
//!         public_url: None,
//!         margin: Duration::from_secs(60),
//!         call_timeout: Duration::from_secs(10),
//!         concurrency_per_provider: 16,
//!         replica: "example".to_owned(),
//!     },
//! );
//!
//! // A provider instance, and Ada's account there.
//! let config = serde_json::Map::new();
//! let options = OptionChanges::default();
//! let instance = providers.create("scripted", None, config, options, &Actor::OPERATOR).await?;
//! let outcome = store
//!     .link(&Link {
//!         provider_id: instance.id,
//!         owner: LinkOwner::User(UserId::new("ada")?),
//!         external_id: ExternalId::new("account-1")?,
//!         legacy_id: None,
//!         data: serde_json::Map::new(),
//!         credentials: Some(provider.grant("account-1")),
//!         scopes: vec!["openid".to_owned()],
//!         reattach: false,
//!         session: None,
//!         device_link: None,
//!         evidence: LinkEvidence::of(LinkMethod::Vouched),
//!         actor: Actor::OPERATOR,
//!     })
//!     .await?;
//! let LinkOutcome::Created(identity) = outcome else { panic!("nobody had linked it") };
//!
//! // A token; and after it has expired, a fresh one.
//! let first = tokens.issue(identity.id, &TokenNeed::default()).await?;
//! clock.advance(TimeDelta::hours(2));
//! let second = tokens.issue(identity.id, &TokenNeed::default()).await?;
//! assert_ne!(first.access_token, second.access_token);
//! assert!(provider.accepts("account-1", &second.access_token));
//! assert_eq!(provider.refreshes(), 1);
//! # Ok(())
//! # }
//! ```

pub mod account;
pub mod api_key;
pub mod archive;
pub mod auth_identity;
pub mod auth_provider;
pub mod credentials;
pub mod device_link;
pub mod disconnection;
pub mod dpop;
pub mod error;
pub mod event;
pub mod freeze;
pub mod identity;
pub mod identity_provider;
pub mod ids;
pub mod ledger;
pub mod link_evidence;
pub mod link_session;
pub mod organization_identity;
pub mod page;
pub mod ports;
pub mod refresh_plan;
pub mod revocation;
pub mod secret;
pub mod services;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transfer;
pub mod webhook;

pub use error::Error;
