//! OAuth 2.0 and OpenID Connect: the protocol engine, and the catalog of provider types.
//!
//! [`Registry`] implements the domain's port [`Connectors`](symbolon_domain::ports::Connectors)
//! over a list of [`ProviderKind`]s; `oidc` is built in. A provider that departs from the standard
//! is a kind of its own that wraps an [`OpenIdConnector`] (the crate `symbolon-google` is the
//! model).
//!
//! Everything that leaves the process goes through [`http::HttpClient`].

pub mod catalog;
mod client;
mod client_key;
mod client_secrets;
pub mod config;
mod connector;
mod device;
mod dpop;
mod engine;
mod error_rules;
mod event_stream;
pub mod http;
mod id_token;
mod json;
mod jwks;
mod jws;
mod logout_token;
mod mcp;
mod metadata;
mod oidc;
mod profile;
mod protected_resource;
mod registration;
mod registry;
mod signing_alg;
mod token_answer;
mod trusted_issuers;
mod webhooks;

use symbolon_domain::ports::ConnectorError;

pub use self::{
    client::{Client, ClientAuthentication, SignedSecret},
    client_key::{ClientKey, InvalidClientKey},
    connector::OpenIdConnector,
    dpop::DpopSigner,
    engine::Engine,
    error_rules::{Condition, ErrorClass, ErrorRule, ErrorRules, InvalidErrorRules, Texts},
    mcp::Mcp,
    metadata::{InvalidIssuer, Issuer},
    registry::{ProviderKind, Registry},
    signing_alg::SigningAlg,
    trusted_issuers::{TrustedIssuer, TrustedIssuers},
    webhooks::StandardWebhooks,
};

/// What a provider sent does not prove what it should: which thing, and which check failed, in
/// words of ours.
#[must_use]
pub fn untrusted(what: &str, why: &str) -> ConnectorError {
    ConnectorError::Untrusted { detail: format!("{what} is not accepted: {why}") }
}
