//! The domain's services, wired to their ports.

use std::{sync::Arc, time::Duration};

use symbolon_domain::{
    ports::{
        ApiKeyRepository, Archive, AuthIdentityRepository, AuthProviderRepository, Clock,
        Connectors, CredentialsRepository, DeviceLinkRepository, EventLog, Forecast,
        IdentityProviderRepository, IdentityRepository, LedgerRepository, LinkSessionRepository,
        LogoutRepository, OrganizationIdentityRepository, RefreshSchedule, RevocationRepository,
        TransferRepository, VendingRepository, WebhookRepository, WebhookSender,
    },
    services::{
        ApiKeys, Busy, DeliverySettings, DeviceLinking, Forecasts, Identities, Ledger,
        LinkSettings, Linking, Logouts, Providers, Revocations, Scheduler, SchedulerSettings,
        SingleSignOn, Tasks, TokenPorts, TokenSettings, Tokens, Transfers, Vending,
        WebhookDispatcher, Webhooks,
    },
};
use symbolon_oauth2::DpopSigner;
use url::Url;

use crate::{settings::Settings, system_clock::SystemClock};

/// What keeps everything; every port may be the same store.
#[derive(Clone)]
pub(crate) struct Repositories {
    pub(crate) identities: Arc<dyn IdentityRepository>,
    pub(crate) providers: Arc<dyn IdentityProviderRepository>,
    pub(crate) credentials: Arc<dyn CredentialsRepository>,
    pub(crate) sessions: Arc<dyn LinkSessionRepository>,
    pub(crate) device_links: Arc<dyn DeviceLinkRepository>,
    pub(crate) logouts: Arc<dyn LogoutRepository>,
    pub(crate) events: Arc<dyn EventLog>,
    pub(crate) refresh_schedule: Arc<dyn RefreshSchedule>,
    pub(crate) forecast: Arc<dyn Forecast>,
    pub(crate) revocations: Arc<dyn RevocationRepository>,
    pub(crate) transfers: Arc<dyn TransferRepository>,
    pub(crate) vending: Arc<dyn VendingRepository>,
    pub(crate) ledger: Arc<dyn LedgerRepository>,
    pub(crate) keys: Arc<dyn ApiKeyRepository>,
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) auth_providers: Arc<dyn AuthProviderRepository>,
    pub(crate) auth_identities: Arc<dyn AuthIdentityRepository>,
    pub(crate) organization_identities: Arc<dyn OrganizationIdentityRepository>,
    pub(crate) webhooks: Arc<dyn WebhookRepository>,
}

/// The rules, ready to be called.
pub(crate) struct Services {
    pub(crate) linking: Linking,
    pub(crate) device_linking: DeviceLinking,
    pub(crate) logouts: Arc<Logouts>,
    pub(crate) vending: Vending,
    pub(crate) scheduler: Scheduler,
    pub(crate) forecasts: Arc<Forecasts>,
    pub(crate) identities: Arc<Identities>,
    pub(crate) single_sign_on: Arc<SingleSignOn>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) providers: Arc<Providers>,
    pub(crate) api_keys: Arc<ApiKeys>,
    pub(crate) webhooks: Arc<Webhooks>,
    pub(crate) dispatcher: WebhookDispatcher,
    /// Must be waited for before the process ends.
    pub(crate) tasks: Tasks,
}

impl Services {
    /// Wires the services. `public_url` is where browsers reach this one.
    pub(crate) fn new(
        repositories: &Repositories,
        connectors: Arc<dyn Connectors>,
        sender: Arc<dyn WebhookSender>,
        settings: &Settings,
        public_url: Url,
        replica: String,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tasks = Tasks::default();
        let providers = Arc::new(Providers {
            providers: Arc::clone(&repositories.providers),
            connectors,
            public_url: Some(public_url.clone()),
        });
        let revocations = Arc::new(Revocations {
            queue: Arc::clone(&repositories.revocations),
            identities: Arc::clone(&repositories.identities),
            credentials: Arc::clone(&repositories.credentials),
            auth_identities: Arc::clone(&repositories.auth_identities),
            providers: Arc::clone(&providers),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            timeout: settings.http_client.timeout,
        });
        let identities = Arc::new(Identities {
            identities: Arc::clone(&repositories.identities),
            events: Arc::clone(&repositories.events),
            providers: Arc::clone(&providers),
            revocations: Arc::clone(&revocations),
            clock: Arc::clone(&clock),
        });
        let transfers = Arc::new(Transfers { transfers: Arc::clone(&repositories.transfers) });
        let single_sign_on = Arc::new(single_sign_on(repositories, &identities));
        let linking = Linking {
            sessions: Arc::clone(&repositories.sessions),
            identities: Arc::clone(&repositories.identities),
            auth_providers: Arc::clone(&repositories.auth_providers),
            auth_identities: Arc::clone(&repositories.auth_identities),
            providers: Arc::clone(&providers),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            settings: Arc::new(LinkSettings {
                public_url: public_url.clone(),
                return_urls: settings.link.return_urls.clone(),
                session_ttl: settings.link.session_ttl,
            }),
        };
        let device_linking = device_linking(repositories, &providers, settings, &tasks);
        let logouts = Arc::new(logouts(repositories, &providers, &replica));
        let webhooks = Arc::new(Webhooks {
            webhooks: Arc::clone(&repositories.webhooks),
            sender: Arc::clone(&sender),
            clock: Arc::clone(&clock),
        });
        let dispatcher = dispatcher(repositories, sender, settings, tasks.clone(), replica.clone());
        let tokens = Tokens::new(
            TokenPorts {
                credentials: Arc::clone(&repositories.credentials),
                providers: Arc::clone(&providers),
                identities: Arc::clone(&identities),
                clock: Arc::clone(&clock),
                tasks: tasks.clone(),
            },
            TokenSettings {
                margin: settings.refresh.margin,
                call_timeout: call_timeout(settings.http_client.timeout),
                concurrency_per_provider: settings.refresh.concurrency_per_provider,
                replica,
                public_url: Some(public_url),
            },
        );
        let scheduler = Scheduler::new(
            Arc::clone(&repositories.refresh_schedule),
            tokens.clone(),
            Arc::clone(&clock),
            tasks.clone(),
            scheduler_settings(settings),
        );
        let forecasts = Arc::new(Forecasts {
            forecast: Arc::clone(&repositories.forecast),
            clock: Arc::clone(&clock),
        });
        let vending = Vending {
            vending: Arc::clone(&repositories.vending),
            organization_identities: Arc::clone(&repositories.organization_identities),
            tokens,
            ledger: Ledger::new(Arc::clone(&repositories.ledger), Arc::clone(&clock)),
            proofs: Arc::new(DpopSigner { clock }),
        };
        let api_keys = Arc::new(ApiKeys { keys: Arc::clone(&repositories.keys) });
        Self {
            linking,
            device_linking,
            logouts,
            vending,
            scheduler,
            forecasts,
            identities,
            single_sign_on,
            transfers,
            revocations,
            providers,
            api_keys,
            webhooks,
            dispatcher,
            tasks,
        }
    }
}

/// What organizations sign in with.
fn single_sign_on(repositories: &Repositories, identities: &Arc<Identities>) -> SingleSignOn {
    SingleSignOn {
        auth_providers: Arc::clone(&repositories.auth_providers),
        auth_identities: Arc::clone(&repositories.auth_identities),
        organization_identities: Arc::clone(&repositories.organization_identities),
        identities: Arc::clone(identities),
    }
}

/// What takes providers' word that sessions ended.
fn logouts(repositories: &Repositories, providers: &Arc<Providers>, replica: &str) -> Logouts {
    Logouts {
        logouts: Arc::clone(&repositories.logouts),
        providers: Arc::clone(providers),
        replica: replica.to_owned(),
    }
}

/// What links accounts on devices without a browser.
fn device_linking(
    repositories: &Repositories,
    providers: &Arc<Providers>,
    settings: &Settings,
    tasks: &Tasks,
) -> DeviceLinking {
    DeviceLinking {
        links: Arc::clone(&repositories.device_links),
        identities: Arc::clone(&repositories.identities),
        providers: Arc::clone(providers),
        tasks: tasks.clone(),
        timeout: call_timeout(settings.http_client.timeout),
    }
}

/// What brings events to webhook endpoints.
fn dispatcher(
    repositories: &Repositories,
    sender: Arc<dyn WebhookSender>,
    settings: &Settings,
    tasks: Tasks,
    replica: String,
) -> WebhookDispatcher {
    WebhookDispatcher {
        webhooks: Arc::clone(&repositories.webhooks),
        sender,
        clock: Arc::new(SystemClock),
        tasks,
        settings: Arc::new(DeliverySettings {
            max_attempts: settings.webhooks.max_attempts,
            first_retry: settings.webhooks.first_retry,
            concurrency: settings.webhooks.concurrency,
            // Longer than a try takes, with what is written before and after it.
            lease: settings.webhooks.timeout + Duration::from_secs(15),
            replica,
        }),
        busy: Busy::default(),
    }
}

/// How the scheduler goes about it: a quarter of the places at a provider is left to callers.
fn scheduler_settings(settings: &Settings) -> SchedulerSettings {
    SchedulerSettings {
        per_second_per_provider: settings.refresh.per_second_per_provider,
        at_once_per_provider: (settings.refresh.concurrency_per_provider * 3 / 4).max(1),
        urgent_for: settings.refresh.margin,
        // Longer than a refresh with its careful retry, and the wait for its turn.
        claim: call_timeout(settings.http_client.timeout) * 4,
    }
}

/// Longest that a connector may take for one call: four requests of the client (metadata, the call
/// itself, once more with the other client secret, keys), and a second, so that the client's own
/// deadline comes first and says more of what happened. Ended any sooner, a refresh loses the token
/// that the provider has rotated.
fn call_timeout(client_timeout: Duration) -> Duration {
    client_timeout * 4 + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};
    use symbolon_domain::{
        Error,
        event::Actor,
        identity::IdentityStatus,
        identity_provider::OptionChanges,
        ids::{ExternalId, IdentityId, UserId},
        ports::{LeaseOutcome, LinkOutcome, MockWebhookSender},
        secret::Secret,
        services::{NewIdentity, TokenNeed},
        testing::MemoryStore,
    };
    use wiremock::{
        Mock, MockServer, ResponseTemplate,
        matchers::{body_string_contains, path},
    };

    use super::*;
    use crate::{
        catalog::{catalog, http_client},
        settings::HttpClientSettings,
    };

    const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
    /// Near the client's patience with one request.
    const SLOW: Duration = Duration::from_millis(700);

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    /// An ID token of the account `alice` whose signature nobody gets to see the key of.
    fn id_token(issuer: &str) -> String {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let part = |it: Value| URL_SAFE_NO_PAD.encode(it.to_string());
        let claims = json!({
            "iss": issuer, "aud": "client", "sub": "alice",
            "iat": 1_700_000_000, "exp": 4_000_000_000_u64,
        });
        let signature = URL_SAFE_NO_PAD.encode([0; 256]);
        format!("{}.{}.{signature}", part(json!({"alg": "RS256", "kid": "k"})), part(claims))
    }

    /// Metadata and tokens come slowly, keys never, and a refresh token is good once.
    async fn slow_provider() -> MockServer {
        let server = MockServer::start().await;
        let issuer = server.uri();
        let at = |path: &str| format!("{issuer}{path}");
        let metadata = json!({
            "issuer": issuer, "authorization_endpoint": at("/authorize"),
            "token_endpoint": at("/token"), "jwks_uri": at("/jwks"),
        });
        let tokens = json!({
            "access_token": "access-2", "refresh_token": "refresh-2", "token_type": "Bearer",
            "expires_in": 3600, "id_token": id_token(&issuer),
        });
        for (at, body, delay) in [
            ("/.well-known/openid-configuration", metadata, SLOW),
            ("/token", tokens, SLOW),
            ("/jwks", json!({}), Duration::from_mins(1)),
        ] {
            let answer = ResponseTemplate::new(200).set_body_json(body).set_delay(delay);
            let times = if at == "/token" { 1 } else { u64::MAX };
            Mock::given(path(at)).respond_with(answer).up_to_n_times(times).mount(&server).await;
        }
        let spent = ResponseTemplate::new(400).set_body_json(json!({"error": "invalid_grant"}));
        Mock::given(path("/token")).respond_with(spent).mount(&server).await;
        server
    }

    /// Everything over one store in memory, and the store.
    fn services() -> (Services, Arc<MemoryStore>) {
        let settings = Settings {
            http_client: HttpClientSettings {
                timeout: CLIENT_TIMEOUT,
                allow_private_networks: true,
                allow_http: true,
                ..Settings::default().http_client
            },
            ..Settings::default()
        };
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let repositories = Repositories {
            identities: store.clone(),
            providers: store.clone(),
            credentials: store.clone(),
            sessions: store.clone(),
            device_links: store.clone(),
            logouts: store.clone(),
            events: store.clone(),
            refresh_schedule: store.clone(),
            forecast: store.clone(),
            revocations: store.clone(),
            transfers: store.clone(),
            vending: store.clone(),
            ledger: store.clone(),
            keys: store.clone(),
            archive: store.clone(),
            auth_providers: store.clone(),
            auth_identities: store.clone(),
            organization_identities: store.clone(),
            webhooks: store.clone(),
        };
        let connectors =
            Arc::new(catalog(http_client(&settings.http_client).unwrap(), &settings.catalog));
        let public_url = "http://localhost/".parse().unwrap();
        let services = Services::new(
            &repositories,
            connectors,
            Arc::new(MockWebhookSender::new()),
            &settings,
            public_url,
            "replica".to_owned(),
        );
        (services, store)
    }

    /// An identity whose access token has run out, at a provider with this configuration.
    async fn expired_identity(services: &Services, config: Value) -> IdentityId {
        let actor = Actor::OPERATOR;
        let created = services
            .providers
            .create("oidc", None, object(config), OptionChanges::default(), &actor)
            .await
            .unwrap();
        let new = NewIdentity {
            provider_id: created.id,
            user_id: UserId::new("u").unwrap(),
            external_id: ExternalId::new("alice").unwrap(),
            legacy_id: None,
            data: object(
                json!({"access_token": "access-1", "refresh_token": "refresh-1", "expires": 1}),
            ),
            scopes: Vec::new(),
            reattach: false,
        };
        let linked = services.identities.link(new, actor).await.unwrap();
        let LinkOutcome::Created(identity) = linked else { panic!("{linked:?}") };
        identity.id
    }

    #[tokio::test]
    async fn the_rotated_token_of_a_slow_provider_is_kept() {
        let provider = slow_provider().await;
        let (services, store) = services();
        let config = json!({"issuer": provider.uri(), "client_id": "client"});
        let identity = expired_identity(&services, config).await;

        let issued = services.vending.tokens.issue(identity, &TokenNeed::default()).await.unwrap();

        assert_eq!(issued.access_token, Secret::new("access-2"));
        let stored = CredentialsRepository::find(&*store, identity).await.unwrap().unwrap();
        let stored = stored.credentials.unwrap();
        assert_eq!(stored.refresh_token, Some(Secret::new("refresh-2")));
        assert_eq!(stored.id_token, None, "it could not be verified");
    }

    /// The provider knows `client_secret_next` alone, and takes its time to say so.
    #[tokio::test]
    async fn a_refresh_with_the_other_client_secret_spends_the_token_once() {
        let provider = slow_provider().await;
        let unknown = json!({"error": "invalid_client"});
        let answer = ResponseTemplate::new(401).set_body_json(unknown).set_delay(SLOW);
        Mock::given(path("/token"))
            .and(body_string_contains("client_secret=old"))
            .respond_with(answer)
            .with_priority(1)
            .mount(&provider)
            .await;
        let (services, store) = services();
        let config = json!({
            "issuer": provider.uri(), "client_id": "client",
            "token_endpoint_auth_method": "client_secret_post",
            "client_secret": "old", "client_secret_next": "new",
        });
        let identity = expired_identity(&services, config).await;

        let issued = services.vending.tokens.issue(identity, &TokenNeed::default()).await.unwrap();

        assert_eq!(issued.access_token, Secret::new("access-2"));
        let stored = CredentialsRepository::find(&*store, identity).await.unwrap().unwrap();
        let kept = stored.credentials.unwrap();
        assert_eq!(kept.refresh_token, Some(Secret::new("refresh-2")));
        let requests = provider.received_requests().await.unwrap();
        let tried: Vec<_> = requests
            .iter()
            .filter(|it| it.url.path() == "/token")
            .map(|it| String::from_utf8_lossy(&it.body).contains("client_secret=new"))
            .collect();
        assert_eq!(tried, [false, true], "each secret once, and so the token is used once");
        // It counts as one sending, which was answered.
        let lease = store
            .take_lease(identity, stored.generation, "test", Duration::from_secs(1))
            .await
            .unwrap();
        let LeaseOutcome::Taken(lease, _) = lease else { panic!("{lease:?}") };
        assert_eq!(lease.unanswered, 0);
    }

    #[tokio::test]
    async fn when_both_client_secrets_are_rejected_the_operator_must_act_and_the_identity_stays() {
        let provider = slow_provider().await;
        let unknown = json!({"error": "invalid_client"});
        Mock::given(path("/token"))
            .respond_with(ResponseTemplate::new(401).set_body_json(unknown))
            .with_priority(1)
            .mount(&provider)
            .await;
        let (services, store) = services();
        let config = json!({
            "issuer": provider.uri(), "client_id": "client",
            "client_secret": "old", "client_secret_next": "new",
        });
        let identity = expired_identity(&services, config).await;

        let refused =
            services.vending.tokens.issue(identity, &TokenNeed::default()).await.unwrap_err();

        assert!(matches!(refused, Error::ProviderMisconfigured { .. }), "{refused:?}");
        let stored = CredentialsRepository::find(&*store, identity).await.unwrap().unwrap();
        assert_eq!(stored.status, IdentityStatus::Valid);
        let kept = stored.credentials.unwrap();
        assert_eq!(kept.refresh_token, Some(Secret::new("refresh-1")));
    }
}
