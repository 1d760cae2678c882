//! The service: everything wired, answering until it is asked to stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use metrics_exporter_prometheus::PrometheusHandle;
use symbolon_domain::{event::Actor, ports::Connectors};
use symbolon_http::{HttpParts, LimitSettings, Readiness, SentryRpc, Unready};
use symbolon_oauth2::TrustedIssuers;
use tokio::net::TcpListener;

use crate::{
    catalog::http_client,
    database::Database,
    device_poller::poll_device_links,
    failure::{Failure, sentence},
    ledger::{forget, write, write_the_rest},
    refresher::refresh_ahead,
    revoker::revoke,
    server::{answer, bound, finish},
    services::Services,
    settings::{SentryRpcSettings, Settings},
    shutdown::Shutdown,
    sweeper::Sweeper,
    system_clock::SystemClock,
    telemetry, webhooks,
};

/// What a service is made of.
pub(crate) struct ServiceParts {
    pub(crate) settings: Settings,
    pub(crate) database: Arc<Database>,
    pub(crate) connectors: Arc<dyn Connectors>,
    pub(crate) listener: TcpListener,
    pub(crate) replica: String,
    pub(crate) metrics: PrometheusHandle,
}

/// A service that is wired and does not answer yet.
pub(crate) struct Service {
    parts: ServiceParts,
    pub(crate) services: Services,
}

impl Service {
    /// Wires it, and creates or updates the providers of the configuration. No provider is
    /// contacted.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the address is not known or a provider cannot be stored.
    pub(crate) async fn new(parts: ServiceParts) -> Result<Self, Failure> {
        let public_url = parts.settings.public_url(bound(&parts.listener)?);
        let services = Services::new(
            &parts.database.repositories(),
            Arc::clone(&parts.connectors),
            webhooks::sender(&parts.settings)?,
            &parts.settings,
            public_url,
            parts.replica.clone(),
        );
        for provider in &parts.settings.providers {
            let ensured = services.providers.ensure(
                &provider.provider_type,
                provider.external_id.clone(),
                provider.config.clone(),
                provider.options,
                &Actor::OPERATOR,
            );
            ensured.await?;
        }
        Ok(Self { parts, services })
    }

    /// Answers until the process is asked to stop, and ends when nothing is left that must not be
    /// lost.
    ///
    /// # Errors
    ///
    /// [`Failure`] when listening fails.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Failure> {
        let Self { parts, services } = self;
        let ServiceParts { settings, database, connectors, listener, metrics, .. } = parts;
        let repositories = database.repositories();
        let issuers = settings.token_exchange.issuers.clone();
        let http = http_client(&settings.http_client)?;
        let subject_tokens = TrustedIssuers::new(http, Arc::new(SystemClock), issuers);
        let subject_tokens = subject_tokens
            .map_err(|problem| Failure::Argument(format!("token_exchange.issuers: {problem}")))?;
        let SentryRpcSettings { shared_secrets, include_credentials } = settings.sentry_rpc;
        let sentry_rpc = (!shared_secrets.is_empty()).then(|| SentryRpc {
            shared_secrets,
            include_credentials,
            providers: repositories.providers,
            identities: Arc::clone(&services.identities),
            auth_identities: repositories.auth_identities,
            vending: services.vending.clone(),
            credentials: repositories.credentials,
        });
        let ledger = services.vending.ledger.clone();
        let render = metrics.clone();
        let router = symbolon_http::router(HttpParts {
            api_keys: services.api_keys,
            providers: services.providers,
            identities: services.identities,
            single_sign_on: services.single_sign_on,
            transfers: services.transfers,
            linking: services.linking,
            device_linking: services.device_linking.clone(),
            logouts: services.logouts,
            vending: services.vending,
            subject_tokens: Arc::new(subject_tokens),
            events: repositories.events,
            forecasts: services.forecasts,
            webhooks: services.webhooks,
            connectors,
            sentry_rpc,
            readiness: Arc::new(DatabaseReadiness { database, complete: AtomicBool::new(false) }),
            metrics: Arc::new(move || render.render()),
            limits: LimitSettings {
                trusted_proxies: settings.server.trusted_proxies,
                requests_per_second_per_key: settings.server.requests_per_second_per_key,
            },
        });
        tokio::spawn(telemetry::keep_metrics_small(metrics));
        let sweeper = Sweeper {
            sessions: repositories.sessions,
            device_links: repositories.device_links,
            logouts: repositories.logouts,
        };
        tokio::spawn(sweeper.sweep(shutdown.clone()));
        tokio::spawn(poll_device_links(services.device_linking, shutdown.clone()));
        tokio::spawn(revoke(services.revocations, shutdown.clone()));
        let deliver = webhooks::deliver(services.dispatcher, settings.webhooks, shutdown.clone());
        let delivering = tokio::spawn(deliver);
        let scheduling = tokio::spawn(refresh_ahead(services.scheduler, shutdown.clone()));
        tokio::spawn(forget(
            repositories.ledger,
            Arc::new(SystemClock),
            settings.ledger.retention,
            shutdown.clone(),
        ));
        let writing = tokio::spawn(write(ledger.clone(), shutdown.clone()));
        let answered = answer(listener, router, shutdown).await;
        // Ends with the shutdown; what it has started is finished below.
        let _ = delivering.await;
        let _ = scheduling.await;
        let _ = writing.await;
        write_the_rest(&ledger).await;
        finish(&services.tasks).await;
        tracing::info!("stopped");
        answered
    }
}

/// Ready when the database answers and has every migration.
struct DatabaseReadiness {
    database: Arc<Database>,
    /// Whether no migration was lacking when it was last looked; none is ever taken back.
    complete: AtomicBool,
}

#[async_trait]
impl Readiness for DatabaseReadiness {
    async fn unready(&self) -> Vec<Unready> {
        let pending = if self.complete.load(Ordering::Relaxed) {
            self.database.now().await.map(|_| Vec::new())
        } else {
            self.database.pending_migrations().await
        };
        match pending {
            Ok(pending) if pending.is_empty() => {
                self.complete.store(true, Ordering::Relaxed);
                Vec::new()
            }
            Ok(_) => vec![Unready {
                name: "migrations",
                detail: "some are not applied; run `symbolon migrate`",
            }],
            Err(error) => {
                tracing::warn!(error = sentence(&error), "the database is not ready");
                vec![Unready { name: "database", detail: "does not answer" }]
            }
        }
    }
}
