//! What the service tells of itself: logs to stderr, figures for Prometheus, traces to a collector.

use std::{
    env,
    io::{self, IsTerminal as _},
    panic,
    sync::Once,
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, layer::SubscriberExt as _, registry::LookupSpan,
    util::SubscriberInitExt as _,
};
use url::Url;

use crate::{failure::Failure, settings::LogFormat};

/// How often samples are put into their buckets where nobody reads the metrics.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long the last spans may take to leave when the process ends.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// Traces on their way to a collector; those of a process without one go nowhere.
#[derive(Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Sends spans to the collector at this address, in batches
    /// ([OTLP/HTTP](https://opentelemetry.io/docs/specs/otlp/#otlphttp)).
    ///
    /// # Errors
    ///
    /// [`Failure::Traces`] when there is no client to be had. A collector that does not answer is
    /// no error: its spans are lost, and the service goes on.
    pub(crate) fn to(collector: &Url, replica: &str) -> Result<Self, Failure> {
        let endpoint = format!("{}/v1/traces", collector.as_str().trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(endpoint)
            .with_protocol(Protocol::HttpBinary)
            .build()
            .map_err(|error| Failure::Traces(Box::new(error)))?;
        let resource = Resource::builder()
            .with_service_name("symbolon")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", replica.to_owned()))
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource);
        Ok(Self(Some(provider.build())))
    }

    /// Sends what is left, for a few seconds at most.
    pub(crate) async fn end(self) {
        let Some(provider) = self.0 else { return };
        let ended =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS)).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("the last spans did not reach the collector");
        }
    }
}

/// Sends log lines to stderr, spans of ours to `traces`, and panics to the log. `default_filter`
/// holds for log lines where neither `SYMBOLON_LOG` nor `RUST_LOG` says otherwise. Only the first
/// call of a process does anything.
pub fn start_logging(format: LogFormat, default_filter: &str, traces: &Traces) {
    static START: Once = Once::new();
    START.call_once(|| {
        let wish = ["SYMBOLON_LOG", "RUST_LOG"]
            .iter()
            .find_map(|it| env::var(it).ok().filter(|it| !it.trim().is_empty()));
        let (filter, unreadable) = match wish.as_deref().map(EnvFilter::try_new) {
            Some(Ok(filter)) => (filter, false),
            Some(Err(_)) => (EnvFilter::new(default_filter), true),
            None => (EnvFilter::new(default_filter), false),
        };
        let registry = tracing_subscriber::registry();
        // Somebody else may have set one up before us: a test, or an embedding program.
        let _ = match &traces.0 {
            // One filter for everything costs less than one for each layer.
            None => registry.with(filter).with(lines(format)).try_init(),
            Some(provider) => {
                // Only spans of ours: what sends them has spans too, and they would never end.
                let ours = Targets::new().with_target("symbolon", tracing::Level::INFO);
                let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("symbolon"));
                registry
                    .with(spans.with_filter(ours))
                    .with(lines(format).with_filter(filter))
                    .try_init()
            }
        };
        if unreadable {
            tracing::warn!(default_filter, "SYMBOLON_LOG or RUST_LOG is not a filter; ignored");
        }
        log_panics();
    });
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colours).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).boxed(),
    }
}

/// Sends panics to the log, so that they are not lost between its lines. The message of a panic
/// is ours or a library's, never a caller's.
fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panicked: this is a defect of symbolon, please report it");
    }));
}

/// The figures of this process: what records them, and what reads them.
///
/// # Panics
///
/// Never: the buckets are a list that is not empty.
#[must_use]
pub fn start_metrics() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Suffix("_seconds".to_owned()),
            &symbolon_http::REQUEST_DURATION_BUCKETS,
        )
        .expect("the list of buckets is not empty")
        .build_recorder();
    let handle = recorder.handle();
    // A second one in the same process, in tests, records nothing.
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::debug!("metrics are recorded elsewhere");
    }
    metrics::describe_gauge!("symbolon_build_info", "Always 1; the version is a label.");
    metrics::gauge!("symbolon_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    handle
}

/// Keeps the memory of samples bounded although nobody may ever read `/metrics`.
pub(crate) async fn keep_metrics_small(metrics: PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        metrics.run_upkeep();
    }
}
