//! The domain's services, wired to their ports.

use std::{sync::Arc, time::Duration};

use symbolon_domain::{
    ports::{
        ApiKeyRepository, AuthIdentityRepository, AuthProviderRepository, Clock, Connectors,
        CredentialsRepository, EventLog, IdentityProviderRepository, IdentityRepository,
        LinkSessionRepository, OrganizationIdentityRepository,
    },
    services::{
        ApiKeys, Identities, LinkSettings, Linking, Providers, SingleSignOn, Tasks, TokenPorts,
        TokenSettings, Tokens,
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
    pub(crate) events: Arc<dyn EventLog>,
    pub(crate) keys: Arc<dyn ApiKeyRepository>,
    pub(crate) auth_providers: Arc<dyn AuthProviderRepository>,
    pub(crate) auth_identities: Arc<dyn AuthIdentityRepository>,
    pub(crate) organization_identities: Arc<dyn OrganizationIdentityRepository>,
}

/// The rules, ready to be called.
pub(crate) struct Services {
    pub(crate) linking: Linking,
    pub(crate) tokens: Tokens,
    pub(crate) identities: Arc<Identities>,
    pub(crate) single_sign_on: Arc<SingleSignOn>,
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
        let identities = Arc::new(Identities {
            identities: Arc::clone(&repositories.identities),
            events: Arc::clone(&repositories.events),
            providers: Arc::clone(&providers),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            revocation_timeout: settings.http_client.timeout,
        });
        let single_sign_on = Arc::new(SingleSignOn {
            auth_providers: Arc::clone(&repositories.auth_providers),
            auth_identities: Arc::clone(&repositories.auth_identities),
            organization_identities: Arc::clone(&repositories.organization_identities),
            identities: Arc::clone(&identities),
        });
        let linking = Linking {
            sessions: Arc::clone(&repositories.sessions),
            identities: Arc::clone(&repositories.identities),
            auth_providers: Arc::clone(&repositories.auth_providers),
            auth_identities: Arc::clone(&repositories.auth_identities),
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
        Self { linking, tokens, identities, single_sign_on, providers, api_keys, tasks }
    }
}
