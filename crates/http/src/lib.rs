//! The driving side: the JSON API, the pages that browsers meet, and what operators ask for.
//!
//! A handler parses, makes one call, and renders; no rule lives here. Each group of routes has a
//! small state of its own, and [`router`] puts them together. What is served and what
//! `/openapi.json` tells of are the same list of handlers.

mod accounts;
mod authorization;
mod browser;
mod device_links;
mod error;
mod events;
mod forecast;
mod freezes;
mod identities;
mod ledger;
mod limits;
mod link_sessions;
mod list;
mod logouts;
mod network;
mod openapi;
mod operations;
mod provider_keys;
mod provider_types;
mod providers;
mod request;
mod sentry_rpc;
mod sight;
mod single_sign_on;
mod telemetry;
mod token_exchange;
mod tokens;
mod transfers;
mod webhooks;

use std::sync::Arc;

use axum::{Router, middleware};
use symbolon_domain::{
    ports::{Connectors, EventLog, SubjectTokens},
    services::{
        ApiKeys, DeviceLinking, Forecasts, Identities, Linking, Logouts, Providers, SingleSignOn,
        Transfers, Vending, Webhooks,
    },
};

pub use limits::LimitSettings;
pub use network::{InvalidNetwork, Network};
pub use operations::{Readiness, RenderMetrics, Unready};
pub use sentry_rpc::SentryRpc;
pub use telemetry::{REQUEST_DURATION, REQUEST_DURATION_BUCKETS, REQUESTS};

/// What the routes work with.
pub struct HttpParts {
    /// Recognizes callers.
    pub api_keys: Arc<ApiKeys>,
    /// Provider instances.
    pub providers: Arc<Providers>,
    /// Identities.
    pub identities: Arc<Identities>,
    /// How organizations sign in.
    pub single_sign_on: Arc<SingleSignOn>,
    /// Moves of identities between users.
    pub transfers: Arc<Transfers>,
    /// Link sessions. Its settings say where browsers reach us: with `https`, the browser's cookie
    /// is a `__Host-` one.
    pub linking: Linking,
    /// Links that are confirmed on another device.
    pub device_linking: DeviceLinking,
    /// Sessions that providers ended.
    pub logouts: Arc<Logouts>,
    /// Access tokens, and who may be handed them.
    pub vending: Vending,
    /// Whose JWTs may be exchanged for tokens.
    pub subject_tokens: Arc<dyn SubjectTokens>,
    /// What happened.
    pub events: Arc<dyn EventLog>,
    /// Which identities die when.
    pub forecasts: Arc<Forecasts>,
    /// Webhook endpoints.
    pub webhooks: Arc<Webhooks>,
    /// The catalog.
    pub connectors: Arc<dyn Connectors>,
    /// Sentry's RPC, where it is turned on; otherwise its path is not there.
    pub sentry_rpc: Option<SentryRpc>,
    /// What `/readyz` asks.
    pub readiness: Arc<dyn Readiness>,
    /// What `/metrics` answers.
    pub metrics: RenderMetrics,
    /// How often callers may ask.
    pub limits: LimitSettings,
}

/// All routes.
#[expect(clippy::too_many_lines, reason = "one entry for each group of routes")]
pub fn router(parts: HttpParts) -> Router {
    let HttpParts {
        api_keys,
        providers,
        identities,
        single_sign_on,
        transfers,
        linking,
        device_linking,
        logouts,
        vending,
        subject_tokens,
        events,
        forecasts,
        webhooks,
        connectors,
        sentry_rpc,
        readiness,
        metrics,
        limits,
    } = parts;
    let limits = limits::Limits::new(limits);
    let authenticator =
        authorization::Authenticator::new(api_keys, Arc::clone(&linking.clock), limits.clone());
    let sight = sight::Sight {
        providers: Arc::clone(&providers),
        identities: Arc::clone(&identities.identities),
    };
    let api = openapi::document()
        .merge(providers::router(providers::ProviderRoutes {
            authenticator: authenticator.clone(),
            sight: sight.clone(),
            providers: Arc::clone(&providers),
            links: Arc::clone(&linking.settings),
        }))
        .merge(provider_keys::router(providers))
        .merge(logouts::router(logouts::LogoutRoutes { logouts, limits }))
        .merge(provider_types::router(provider_types::ProviderTypeRoutes {
            authenticator: authenticator.clone(),
            connectors: Arc::clone(&connectors),
        }))
        .merge(tokens::router(tokens::TokenRoutes {
            authenticator: authenticator.clone(),
            vending: vending.clone(),
            identities: Arc::clone(&identities),
        }))
        .merge(token_exchange::router(token_exchange::TokenExchangeRoutes {
            authenticator: authenticator.clone(),
            vending: vending.clone(),
            identities: Arc::clone(&identities),
            subject_tokens,
            clock: Arc::clone(&linking.clock),
            public_url: linking.settings.public_url.clone(),
        }))
        .merge(ledger::router(ledger::LedgerRoutes::new(authenticator.clone(), &vending)))
        .merge(freezes::router(freezes::FreezeRoutes::new(authenticator.clone(), vending)))
        .merge(events::router(events::EventRoutes {
            authenticator: authenticator.clone(),
            events,
            identities: Arc::clone(&identities),
        }))
        .merge(forecast::router(forecast::ForecastRoutes {
            authenticator: authenticator.clone(),
            forecasts,
        }))
        .merge(webhooks::router(webhooks::WebhookRoutes {
            authenticator: authenticator.clone(),
            webhooks,
        }))
        .merge(identities::router(identities::IdentityRoutes {
            authenticator: authenticator.clone(),
            sight: sight.clone(),
            identities,
        }))
        .merge(single_sign_on::router(single_sign_on::SingleSignOnRoutes {
            authenticator: authenticator.clone(),
            sight: sight.clone(),
            single_sign_on: Arc::clone(&single_sign_on),
        }))
        .merge(accounts::router(accounts::AccountRoutes {
            authenticator: authenticator.clone(),
            sight: sight.clone(),
            single_sign_on,
        }))
        .merge(transfers::router(transfers::TransferRoutes {
            authenticator: authenticator.clone(),
            transfers,
        }))
        .merge(device_links::router(device_links::DeviceLinkRoutes {
            authenticator: authenticator.clone(),
            sight: sight.clone(),
            device_linking,
        }))
        .merge(link_sessions::router(link_sessions::LinkSessionRoutes {
            authenticator,
            sight,
            linking: linking.clone(),
        }))
        .merge(browser::router(browser::BrowserRoutes::new(linking, connectors)))
        .merge(operations::router(operations::OperationRoutes { readiness, metrics }));
    let api = match sentry_rpc {
        Some(rpc) => api.merge(sentry_rpc::router(rpc)),
        None => api,
    };
    openapi::serve(api)
        .fallback(async || error::ApiError::no_route())
        .method_not_allowed_fallback(async || error::ApiError::method_not_allowed())
        .layer(middleware::from_fn(telemetry::observe))
}
