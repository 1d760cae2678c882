//! What the service tells of itself: logs to stderr, figures for Prometheus.

use std::{
    env,
    io::{self, IsTerminal as _},
    panic,
    sync::Once,
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

use crate::settings::LogFormat;

/// How often samples are put into their buckets where nobody reads the metrics.
const UPKEEP: Duration = Duration::from_secs(5);

/// Sends log lines to stderr and panics to the log. `default_filter` holds where neither
/// `SYMBOLON_LOG` nor `RUST_LOG` says otherwise. Only the first call of a process does anything.
pub fn start_logging(format: LogFormat, default_filter: &str) {
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
        let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        // Somebody else may have set one up before us: a test, or an embedding program.
        let _ = match format {
            LogFormat::Text => lines.with_ansi(colours).finish().try_init(),
            LogFormat::Json => {
                lines.json().flatten_event(true).with_current_span(true).finish().try_init()
            }
        };
        if unreadable {
            tracing::warn!(default_filter, "SYMBOLON_LOG or RUST_LOG is not a filter; ignored");
        }
        log_panics();
    });
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
