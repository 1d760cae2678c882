//! The loop that brings events to webhook endpoints.

use std::{sync::Arc, time::Duration};

use symbolon_domain::{ports::WebhookSender, services::WebhookDispatcher};
use symbolon_oauth2::{
    StandardWebhooks,
    http::{HttpClient, HttpSettings},
};
use tokio::time::Instant;

use crate::{
    failure::{Failure, sentence},
    settings::{Settings, WebhookSettings},
    shutdown::Shutdown,
    system_clock::SystemClock,
};

/// Between two looks for new events.
const POLL: Duration = Duration::from_secs(1);
/// Between two sweeps, which also tell the age of the oldest undelivered event.
const SWEEP: Duration = Duration::from_secs(15);
/// Most bytes of a receiver's answer, of which only the status is used.
const MOST_BYTES: usize = 64 * 1024;

/// What sends webhooks: the guarded client with a deadline of its own.
///
/// # Errors
///
/// [`Failure`] when there is no TLS to be had.
pub(crate) fn sender(settings: &Settings) -> Result<Arc<dyn WebhookSender>, Failure> {
    let http = HttpClient::new(HttpSettings {
        timeout: settings.webhooks.timeout,
        max_response_bytes: MOST_BYTES,
        allow_private_networks: settings.http_client.allow_private_networks,
        allow_http: settings.http_client.allow_http,
        stand_in: None,
    })?;
    Ok(Arc::new(StandardWebhooks::new(http, Arc::new(SystemClock))))
}

/// Starts deliveries until the process is asked to stop. Those under way then are tasks that are
/// waited for; what is not begun is begun by whoever runs next.
pub(crate) async fn deliver(
    dispatcher: WebhookDispatcher,
    settings: WebhookSettings,
    shutdown: Shutdown,
) {
    let mut swept: Option<Instant> = None;
    loop {
        let asked = shutdown.clone();
        if let Err(error) = dispatcher.pass(move || asked.is_asked()).await {
            tracing::warn!(error = sentence(&error), "webhooks could not be looked for");
        }
        if swept.is_none_or(|it| it.elapsed() >= SWEEP) {
            swept = Some(Instant::now());
            match dispatcher.sweep(settings.retention).await {
                Ok(0) => {}
                Ok(forgotten) => tracing::debug!(forgotten, "webhook deliveries are forgotten"),
                Err(error) => {
                    tracing::warn!(
                        error = sentence(&error),
                        "webhook deliveries could not be swept"
                    );
                }
            }
        }
        tokio::select! {
            () = shutdown.asked() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
