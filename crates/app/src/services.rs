//! The domain's services, wired to their ports.

use std::{sync::Arc, time::Duration};

use symbolon_domain::{
    ports::{
        ApiKeyRepository, Clock, Connectors, CredentialsRepository, IdentityProviderRepository,
        IdentityRepository, LinkSessionRepository, RevocationRepository, TransferRepository,
    },
    services::{
        ApiKeys, Identities, LinkSettings, Linking, Providers, Revocations, Tasks, TokenPorts,
        TokenSettings, Tokens, Transfers,
    },
};
use url::Url;

use crate::{settings::Settings, system_clock::SystemClock};

/// What keeps everything; every port may be the same store.
#[derive(Clone)]
pub(crate) struct Repositories {
    pub(crate) identities: Arc<dyn IdentityRepository>,
    pub(crate) providers: Arc<dyn IdentityProviderRepository>,
    pub(crate) credentials: Arc<dyn CredentialsRepository>,
    pub(crate) sessions: Arc<dyn LinkSessionRepository>,
    pub(crate) revocations: Arc<dyn RevocationRepository>,
    pub(crate) transfers: Arc<dyn TransferRepository>,
    pub(crate) keys: Arc<dyn ApiKeyRepository>,
}

/// The rules, ready to be called.
pub(crate) struct Services {
    pub(crate) linking: Linking,
    pub(crate) tokens: Tokens,
    pub(crate) identities: Arc<Identities>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) providers: Arc<Providers>,
    pub(crate) api_keys: Arc<ApiKeys>,
    /// Must be waited for before the process ends.
    pub(crate) tasks: Tasks,
}

impl Services {
    /// Wires the services. `public_url` is where browsers reach this one.
    pub(crate) fn new(
        repositories: &Repositories,
        connectors: Arc<dyn Connectors>,
        settings: &Settings,
        public_url: Url,
        replica: String,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tasks = Tasks::default();
        let providers =
            Arc::new(Providers { providers: Arc::clone(&repositories.providers), connectors });
        let revocations = Arc::new(Revocations {
            queue: Arc::clone(&repositories.revocations),
            identities: Arc::clone(&repositories.identities),
            credentials: Arc::clone(&repositories.credentials),
            providers: Arc::clone(&providers),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            timeout: settings.http_client.timeout,
        });
        let identities = Arc::new(Identities {
            identities: Arc::clone(&repositories.identities),
            providers: Arc::clone(&providers),
            revocations: Arc::clone(&revocations),
            clock: Arc::clone(&clock),
        });
        let transfers = Arc::new(Transfers { transfers: Arc::clone(&repositories.transfers) });
        let linking = Linking {
            sessions: Arc::clone(&repositories.sessions),
            identities: Arc::clone(&repositories.identities),
            providers: Arc::clone(&providers),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            settings: Arc::new(LinkSettings {
                public_url,
                return_urls: settings.link.return_urls.clone(),
                session_ttl: settings.link.session_ttl,
            }),
        };
        let tokens = Tokens::new(
            TokenPorts {
                credentials: Arc::clone(&repositories.credentials),
                providers: Arc::clone(&providers),
                identities: Arc::clone(&identities),
                clock,
                tasks: tasks.clone(),
            },
            TokenSettings {
                margin: settings.refresh.margin,
                // The client's own deadline comes first, and says more of what happened.
                call_timeout: settings.http_client.timeout + Duration::from_secs(1),
                concurrency_per_provider: settings.refresh.concurrency_per_provider,
                replica,
            },
        );
        let api_keys = Arc::new(ApiKeys { keys: Arc::clone(&repositories.keys) });
        Self { linking, tokens, identities, transfers, revocations, providers, api_keys, tasks }
    }
}
