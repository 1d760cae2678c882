//! The router over mocks: what has no expectation must not be called, and a mock that is called
//! all the same panics, which is a 500.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use serde_json::Value;
use symbolon_domain::{
    api_key::{ApiKey, KeyScope},
    event::Actor,
    freeze::{Freeze, FreezeSubject},
    ids::{ApiKeyId, FreezeId, IdentityId},
    page::{Page, PageRequest},
    ports::{
        ApiKeyRepository, AuthIdentityRepository, AuthProviderRepository, Clock, Connectors,
        CredentialsRepository, DeviceLinkRepository, EventLog, Forecast,
        IdentityProviderRepository, IdentityRepository, LedgerRepository, LinkSessionRepository,
        LogoutRepository, MockApiKeyRepository, MockAuthIdentityRepository,
        MockAuthProviderRepository, MockConnectors, MockCredentialsRepository,
        MockDeviceLinkRepository, MockEventLog, MockForecast, MockIdentityProviderRepository,
        MockIdentityRepository, MockLinkSessionRepository, MockLogoutRepository,
        MockOrganizationIdentityRepository, MockRevocationRepository, MockSubjectTokens,
        MockTransferRepository, MockWebhookRepository, MockWebhookSender,
        OrganizationIdentityRepository, RepositoryError, RevocationRepository, SubjectTokens,
        TransferRepository, Vendable, VendingRepository, WebhookRepository, WebhookSender,
    },
    secret::{Secret, SecretHash},
    services::{
        ApiKeys, DeviceLinking, Forecasts, Identities, Ledger, LinkSettings, Linking, Logouts,
        Providers, ReturnUrls, Revocations, SingleSignOn, Tasks, TokenPorts, TokenSettings, Tokens,
        Transfers, Vending, Webhooks,
    },
    testing::{MemoryStore, PlainProofs, TestClock, fixtures},
};
use symbolon_http::{HttpParts, LimitSettings, Readiness, SentryRpc, Unready, router};
use tower::ServiceExt as _;

/// A key that may do everything.
pub(crate) const ADMIN: &str = "sym_admin";

/// The key that has this scope and no other.
pub(crate) fn key_with(scope: KeyScope) -> String {
    format!("sym_{}", scope.as_str())
}

/// Every port as a mock without expectations.
#[derive(Default)]
pub(crate) struct Mocks {
    pub(crate) identities: MockIdentityRepository,
    pub(crate) providers: MockIdentityProviderRepository,
    pub(crate) connectors: MockConnectors,
    pub(crate) credentials: MockCredentialsRepository,
    pub(crate) sessions: MockLinkSessionRepository,
    pub(crate) device_links: MockDeviceLinkRepository,
    pub(crate) logouts: MockLogoutRepository,
    pub(crate) revocations: MockRevocationRepository,
    pub(crate) transfers: MockTransferRepository,
    pub(crate) events: MockEventLog,
    pub(crate) auth_providers: MockAuthProviderRepository,
    pub(crate) webhooks: MockWebhookRepository,
    pub(crate) sender: MockWebhookSender,
}

impl Mocks {
    pub(crate) fn app(self) -> App {
        self.app_with(LimitSettings::default())
    }

    pub(crate) fn app_with(self, limits: LimitSettings) -> App {
        let mut keys = MockApiKeyRepository::new();
        keys.expect_find_by_hash().returning(|hash| Ok(known_key(hash)));
        Ports {
            keys: Arc::new(keys),
            identities: Arc::new(self.identities),
            providers: Arc::new(self.providers),
            connectors: Arc::new(self.connectors),
            credentials: Arc::new(self.credentials),
            sessions: Arc::new(self.sessions),
            device_links: Arc::new(self.device_links),
            logouts: Arc::new(self.logouts),
            events: Arc::new(self.events),
            limits,
            revocations: Arc::new(self.revocations),
            transfers: Arc::new(self.transfers),
            webhooks: Arc::new(self.webhooks),
            sender: Arc::new(self.sender),
            auth_providers: Arc::new(self.auth_providers),
            ..Ports::default()
        }
        .app()
    }
}

fn known_key(hash: &SecretHash) -> Option<ApiKey> {
    if hash.matches("sym_revoked") {
        return Some(ApiKey { revoked_at: Some(fixtures::NOW), ..fixtures::api_key() });
    }
    let scope = KeyScope::ALL.iter().copied().find(|it| hash.matches(&key_with(*it)))?;
    Some(ApiKey { scopes: vec![scope], ..fixtures::api_key() })
}

/// What a router is made of.
pub(crate) struct Ports {
    pub(crate) keys: Arc<dyn ApiKeyRepository>,
    pub(crate) identities: Arc<dyn IdentityRepository>,
    pub(crate) providers: Arc<dyn IdentityProviderRepository>,
    pub(crate) connectors: Arc<dyn Connectors>,
    pub(crate) credentials: Arc<dyn CredentialsRepository>,
    pub(crate) sessions: Arc<dyn LinkSessionRepository>,
    pub(crate) device_links: Arc<dyn DeviceLinkRepository>,
    pub(crate) logouts: Arc<dyn LogoutRepository>,
    pub(crate) events: Arc<dyn EventLog>,
    pub(crate) forecast: Arc<dyn Forecast>,
    pub(crate) auth_providers: Arc<dyn AuthProviderRepository>,
    pub(crate) auth_identities: Arc<dyn AuthIdentityRepository>,
    pub(crate) organization_identities: Arc<dyn OrganizationIdentityRepository>,
    pub(crate) revocations: Arc<dyn RevocationRepository>,
    pub(crate) transfers: Arc<dyn TransferRepository>,
    pub(crate) webhooks: Arc<dyn WebhookRepository>,
    pub(crate) sender: Arc<dyn WebhookSender>,
    pub(crate) ledger: Arc<dyn LedgerRepository>,
    pub(crate) subject_tokens: Arc<dyn SubjectTokens>,
    /// What is frozen; without it nothing is, and the credentials are those of their own port.
    pub(crate) vending: Option<Arc<dyn VendingRepository>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The shared secrets of Sentry's RPC, and whether credentials are included.
    pub(crate) sentry_rpc: Option<(&'static [&'static str], bool)>,
    pub(crate) unready: Vec<Unready>,
    pub(crate) public_url: &'static str,
    pub(crate) metrics: fn() -> String,
    pub(crate) limits: LimitSettings,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            keys: Arc::new(MockApiKeyRepository::new()),
            identities: Arc::new(MockIdentityRepository::new()),
            providers: Arc::new(MockIdentityProviderRepository::new()),
            connectors: Arc::new(MockConnectors::new()),
            credentials: Arc::new(MockCredentialsRepository::new()),
            sessions: Arc::new(MockLinkSessionRepository::new()),
            device_links: Arc::new(MockDeviceLinkRepository::new()),
            logouts: Arc::new(MockLogoutRepository::new()),
            events: Arc::new(MockEventLog::new()),
            forecast: Arc::new(MockForecast::new()),
            auth_providers: Arc::new(MockAuthProviderRepository::new()),
            auth_identities: Arc::new(MockAuthIdentityRepository::new()),
            organization_identities: Arc::new(MockOrganizationIdentityRepository::new()),
            revocations: Arc::new(MockRevocationRepository::new()),
            transfers: Arc::new(MockTransferRepository::new()),
            webhooks: Arc::new(MockWebhookRepository::new()),
            sender: Arc::new(MockWebhookSender::new()),
            ledger: Arc::new(MemoryStore::default()),
            subject_tokens: Arc::new(MockSubjectTokens::new()),
            vending: None,
            clock: Arc::new(TestClock::default()),
            sentry_rpc: None,
            unready: Vec::new(),
            public_url: "https://symbolon.example",
            metrics: || "# no metrics\n".to_owned(),
            limits: LimitSettings::default(),
        }
    }
}

/// Nothing is frozen, and every identity is a user's at a provider instance of the fixtures.
struct Unfrozen(Arc<dyn CredentialsRepository>);

#[async_trait]
impl VendingRepository for Unfrozen {
    async fn find_vendable(
        &self,
        id: IdentityId,
        _: Option<ApiKeyId>,
    ) -> Result<Option<Vendable>, RepositoryError> {
        Ok(self.0.find(id).await?.map(|credentials| Vendable {
            credentials,
            user_id: fixtures::user("user-1"),
            provider_type: "oidc".to_owned(),
            frozen: None,
        }))
    }

    async fn freeze(
        &self,
        subject: &FreezeSubject,
        actor: &Actor,
    ) -> Result<(Freeze, bool), RepositoryError> {
        let (subject, by) = (subject.clone(), actor.clone());
        Ok((Freeze { id: FreezeId(1), subject, by, frozen_at: fixtures::NOW }, true))
    }

    async fn unfreeze(
        &self,
        _: &FreezeSubject,
        _: &Actor,
    ) -> Result<Option<Freeze>, RepositoryError> {
        Ok(None)
    }

    async fn find_freeze_of_key(&self, _: ApiKeyId) -> Result<Option<Freeze>, RepositoryError> {
        Ok(None)
    }

    async fn list_freezes(&self, _: PageRequest) -> Result<Page<Freeze>, RepositoryError> {
        Ok(Page { items: Vec::new(), next: None })
    }
}

struct Ready(Vec<Unready>);

#[async_trait]
impl Readiness for Ready {
    async fn unready(&self) -> Vec<Unready> {
        self.0.clone()
    }
}

impl Ports {
    #[expect(clippy::too_many_lines, reason = "one entry for each service")]
    pub(crate) fn app(self) -> App {
        let tasks = Tasks::default();
        let providers = Arc::new(Providers {
            providers: self.providers,
            connectors: self.connectors.clone(),
            public_url: None,
        });
        let revocations = Arc::new(Revocations {
            queue: self.revocations,
            identities: self.identities.clone(),
            credentials: self.credentials.clone(),
            auth_identities: self.auth_identities.clone(),
            providers: providers.clone(),
            clock: self.clock.clone(),
            tasks: tasks.clone(),
            timeout: Duration::from_secs(10),
        });
        let identities = Arc::new(Identities {
            identities: self.identities.clone(),
            events: self.events.clone(),
            providers: providers.clone(),
            revocations,
            clock: self.clock.clone(),
        });
        let credentials = self.credentials.clone();
        let vending = self.vending.unwrap_or_else(|| Arc::new(Unfrozen(credentials)));
        let ports = TokenPorts {
            credentials: self.credentials.clone(),
            providers: providers.clone(),
            identities: identities.clone(),
            clock: self.clock.clone(),
            tasks: tasks.clone(),
        };
        let settings = TokenSettings {
            public_url: None,
            margin: Duration::from_mins(1),
            call_timeout: Duration::from_secs(10),
            concurrency_per_provider: 16,
            replica: "replica-1".into(),
        };
        let tokens = Tokens::new(ports, settings);
        let vending = Vending {
            vending,
            organization_identities: self.organization_identities.clone(),
            tokens,
            ledger: Ledger::new(self.ledger, self.clock.clone()),
            proofs: Arc::new(PlainProofs),
        };
        let sentry_rpc = self.sentry_rpc.map(|(secrets, include_credentials)| SentryRpc {
            shared_secrets: secrets.iter().map(|it| Secret::new(*it)).collect(),
            include_credentials,
            providers: providers.providers.clone(),
            identities: identities.clone(),
            auth_identities: self.auth_identities.clone(),
            vending: vending.clone(),
            credentials: self.credentials.clone(),
        });
        let device_linking = DeviceLinking {
            links: self.device_links,
            identities: self.identities.clone(),
            providers: providers.clone(),
            tasks: tasks.clone(),
            timeout: Duration::from_secs(10),
        };
        let linking = Linking {
            sessions: self.sessions,
            identities: self.identities,
            auth_providers: self.auth_providers.clone(),
            auth_identities: self.auth_identities.clone(),
            providers: providers.clone(),
            clock: self.clock.clone(),
            tasks,
            settings: Arc::new(LinkSettings {
                public_url: self.public_url.parse().unwrap(),
                return_urls: ReturnUrls::new(["https://product.example/"]).unwrap(),
                session_ttl: Duration::from_mins(10),
            }),
        };
        let logouts = Logouts {
            logouts: self.logouts,
            providers: providers.clone(),
            replica: "replica-1".into(),
        };
        App(router(HttpParts {
            api_keys: Arc::new(ApiKeys { keys: self.keys }),
            providers,
            single_sign_on: Arc::new(SingleSignOn {
                auth_providers: self.auth_providers,
                auth_identities: self.auth_identities,
                organization_identities: self.organization_identities,
                identities: identities.clone(),
            }),
            identities,
            transfers: Arc::new(Transfers { transfers: self.transfers }),
            linking,
            device_linking,
            logouts: Arc::new(logouts),
            vending,
            subject_tokens: self.subject_tokens,
            events: self.events,
            forecasts: Arc::new(Forecasts { forecast: self.forecast, clock: self.clock.clone() }),
            webhooks: Arc::new(Webhooks {
                webhooks: self.webhooks,
                sender: self.sender,
                clock: self.clock,
            }),
            connectors: self.connectors,
            sentry_rpc,
            readiness: Arc::new(Ready(self.unready)),
            metrics: Arc::new(self.metrics),
            limits: self.limits,
        }))
    }
}

/// The router, and how tests speak to it.
pub(crate) struct App(Router);

impl App {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.0.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A call with the key that may do everything.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(request(method, path, ADMIN, body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    /// A browser's `GET`, with this `Cookie` header.
    pub(crate) async fn browse(&self, path: &str, cookie: Option<&str>) -> Answer {
        let mut request = Request::get(path);
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }
}

pub(crate) fn request(method: Method, path: &str, key: &str, body: Option<Value>) -> Request<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {key}"));
    match body {
        None => request.body(Body::empty()).unwrap(),
        Some(body) => request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .unwrap(),
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |it| it.to_str().unwrap())
    }

    /// Asserts that this is a problem of this status and code, and gives its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(
            (self.status.as_u16(), self.json()["code"].as_str()),
            (status, Some(code)),
            "{self:?}"
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// Asserts that this is an `invalid_request` that names the field.
    #[track_caller]
    pub(crate) fn refuses(&self, field: &str) {
        let detail = self.problem(400, "invalid_request");
        assert!(detail.starts_with(&format!("{field}: ")), "{field} is not named: {detail}");
    }
}
