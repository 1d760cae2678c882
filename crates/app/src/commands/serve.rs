use std::{path::Path, sync::Arc};

use symbolon_keyring::LiveKeyRing;

use crate::{
    catalog::{catalog, http_client},
    database::Database,
    failure::Failure,
    key_follower::{follow, on_hangup},
    replica::replica_name,
    server::{bound, listen},
    service::{Service, ServiceParts},
    settings::{Need, Settings},
    shutdown::Shutdown,
    telemetry::{self, Traces},
};

/// `symbolon serve`.
pub(super) async fn run(config: Option<&Path>) -> Result<(), Failure> {
    let settings = Settings::load(config, &[Need::Database, Need::Keyring])?;
    let replica = replica_name();
    let traces = match &settings.telemetry.otlp_endpoint {
        Some(collector) => Traces::to(collector, &replica)?,
        None => Traces::default(),
    };
    telemetry::start_logging(settings.telemetry.log_format, "info", &traces);
    let metrics = telemetry::start_metrics();
    // From here on a signal is an orderly end, also while starting.
    let shutdown = Shutdown::on_signals()?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let served = serve(settings, replica, metrics, shutdown).await;
    traces.end().await;
    served
}

async fn serve(
    settings: Settings,
    replica: String,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let starting = start(settings, replica, metrics, shutdown.clone());
    let service = tokio::select! {
        service = starting => service?,
        () = shutdown.asked() => return Ok(()),
    };
    service.run(shutdown).await
}

async fn start(
    settings: Settings,
    replica: String,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    shutdown: Shutdown,
) -> Result<Service, Failure> {
    let hangup = on_hangup()?;
    let service = settings.keyring.service();
    // A command may take its time, and a signal must not wait for it.
    let keys = tokio::task::spawn_blocking(move || LiveKeyRing::start(service));
    let keys = keys.await.map_err(|it| Failure::System("cannot load the keys", it.into()))??;
    let keys = Arc::new(keys);
    let connectors = Arc::new(catalog(http_client(&settings.http_client)?, &settings.catalog));
    // Before the database is touched: a service that cannot listen migrates nothing.
    let listener = listen(settings.server.listen).await?;
    let database = Database::open_to_serve(&settings.database, keys.clone()).await?;
    tokio::spawn(follow(keys, hangup, shutdown));
    let address = bound(&listener)?;
    let public_url = settings.public_url(address);
    let parts = ServiceParts {
        settings,
        database: Arc::new(database),
        connectors,
        listener,
        replica: replica.clone(),
        metrics,
    };
    let service = Service::new(parts).await?;
    tracing::info!(
        %address, %public_url, replica, version = env!("CARGO_PKG_VERSION"),
        "listening on http://{address}"
    );
    Ok(service)
}
