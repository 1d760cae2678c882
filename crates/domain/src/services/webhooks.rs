use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::task::JoinHandle;
use url::Url;

use super::Tasks;
use crate::{
    Error,
    event::{Actor, EventKind, Who},
    ids::WebhookEndpointId,
    page::PageRequest,
    ports::{
        ClaimedDelivery, Clock, DeliveryEnd, NewWebhookEndpoint, RepositoryError, WebhookAnswer,
        WebhookEndpointUpdate, WebhookMessage, WebhookRepository, WebhookSender,
    },
    secret::Secret,
    webhook::{WebhookEndpoint, WebhookSecrets},
};

/// What the receiver says that wants no webhooks from us any more (RFC 9110 §15.5.11).
const GONE: u16 = 410;

/// Keeps the endpoints that events are told.
pub struct Webhooks {
    /// Where endpoints are kept.
    pub webhooks: Arc<dyn WebhookRepository>,
    /// Knows where messages may be sent.
    pub sender: Arc<dyn WebhookSender>,
    /// Now.
    pub clock: Arc<dyn Clock>,
}

impl Webhooks {
    /// Makes an endpoint. The secret is in this answer and nowhere else.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] naming `url`.
    pub async fn create(
        &self,
        url: Url,
        kinds: Vec<EventKind>,
        enabled: bool,
        actor: &Actor,
    ) -> Result<(WebhookEndpoint, Secret), Error> {
        self.check(&url)?;
        let secret = WebhookSecrets::random();
        let new = NewWebhookEndpoint { url, kinds, enabled, secret: secret.clone() };
        Ok((self.webhooks.insert(&new, actor).await?, secret))
    }

    /// Changes an endpoint.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] naming `url`; [`Error::NotFound`].
    pub async fn update(
        &self,
        id: WebhookEndpointId,
        update: &WebhookEndpointUpdate,
        actor: &Actor,
    ) -> Result<WebhookEndpoint, Error> {
        if let Some(url) = &update.url {
            self.check(url)?;
        }
        self.webhooks.update(id, update, actor).await?.ok_or(NOT_FOUND)
    }

    /// Gives an endpoint a new secret. The old ones sign too for `overlap`, so that the receiver
    /// can change over; zero for a secret that leaked.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn rotate_secret(
        &self,
        id: WebhookEndpointId,
        overlap: Duration,
        actor: &Actor,
    ) -> Result<(WebhookEndpoint, Secret), Error> {
        let secret = WebhookSecrets::random();
        let rotated = self.webhooks.rotate_secret(id, &secret, overlap, actor).await?;
        Ok((rotated.ok_or(NOT_FOUND)?, secret))
    }

    /// Sends an endpoint a message of type `webhook_endpoint.test`, once and now, whether or not it
    /// is enabled.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]. That the receiver did not take it is an answer, not an error.
    pub async fn test(
        &self,
        id: WebhookEndpointId,
    ) -> Result<Result<WebhookAnswer, String>, Error> {
        let (endpoint, secrets) = self.webhooks.find_with_secrets(id).await?.ok_or(NOT_FOUND)?;
        let at = self.clock.now();
        let body = json!({
            "type": "webhook_endpoint.test",
            "timestamp": at,
            "data": { "endpoint_id": id.0 },
        });
        let message = WebhookMessage {
            url: endpoint.url,
            id: format!("test_{}", Secret::random().expose()),
            at,
            body: body.to_string(),
            secrets: secrets.good_at(at),
        };
        Ok(self.sender.send(&message).await.map_err(|error| error.to_string()))
    }

    fn check(&self, url: &Url) -> Result<(), Error> {
        if url.fragment().is_some() {
            return Err(Error::invalid("url", "must have no fragment"));
        }
        self.sender.check(url).map_err(|error| Error::invalid("url", error.to_string()))
    }
}

const NOT_FOUND: Error = Error::NotFound("webhook");

/// What the operator decided about deliveries.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// How often a delivery is tried before it is given up.
    pub max_attempts: u32,
    /// How long after the first try the second one comes; each later wait is three times the one
    /// before, up to [`LONGEST_WAIT`].
    pub first_retry: Duration,
    /// Most deliveries to one endpoint at a time, by this process.
    pub concurrency: u16,
    /// How long a claim lasts: longer than a try can take.
    pub lease: Duration,
    /// The name of this replica.
    pub replica: String,
}

/// The longest wait between two tries.
pub const LONGEST_WAIT: Duration = Duration::from_hours(6);

/// Most events that are made deliveries at a time.
const FAN_OUT: u16 = 500;

/// Brings events to endpoints. Any number of these, in any number of processes, share the work.
///
/// A delivery is made of each event that an endpoint wants, tried until the receiver takes it
/// (2xx), with waits that grow, and given up after the last try. What concerns one identity is
/// told in order: a later event waits until the earlier has arrived or was given up. A process
/// that dies leaves a claim that runs out, so every event arrives at least once.
#[derive(Clone)]
pub struct WebhookDispatcher {
    /// Where endpoints and deliveries are kept.
    pub webhooks: Arc<dyn WebhookRepository>,
    /// Sends messages.
    pub sender: Arc<dyn WebhookSender>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// Keeps deliveries under way going when the process is asked to stop.
    pub tasks: Tasks,
    /// What the operator decided.
    pub settings: Arc<DeliverySettings>,
    /// The endpoints that a task of this process is at.
    pub busy: Busy,
}

/// The endpoints that are being worked on. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<Mutex<HashSet<WebhookEndpointId>>>);

impl Busy {
    fn take(&self, id: WebhookEndpointId) -> Option<Place> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(id).then(|| Place(self.clone(), id))
    }
}

/// One endpoint of [`Busy`], free again when this goes.
struct Place(Busy, WebhookEndpointId);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl WebhookDispatcher {
    /// Starts whatever is to be done now: a task for each enabled endpoint that none of this
    /// process is at, so that a slow receiver keeps no other waiting. A task makes deliveries of
    /// new events and sends what is due, until nothing is, or `stopped` says so between two
    /// batches; it answers how many tries it made. Nobody need wait for it.
    ///
    /// # Errors
    ///
    /// [`RepositoryError`] when the endpoints cannot be read; nothing was started then.
    pub async fn pass(
        &self,
        stopped: impl Fn() -> bool + Clone + Send + Sync + 'static,
    ) -> Result<Vec<JoinHandle<u64>>, RepositoryError> {
        let mut started = Vec::new();
        let mut page = PageRequest { limit: 200, after: None };
        loop {
            let part = self.webhooks.list(page).await?;
            for endpoint in part.items.into_iter().filter(|it| it.enabled) {
                let Some(place) = self.busy.take(endpoint.id) else { continue };
                let (this, stopped) = (self.clone(), stopped.clone());
                started.push(self.tasks.spawn(async move {
                    let _place = place;
                    this.serve(endpoint.id, stopped).await
                }));
            }
            let Some(after) = part.next else { return Ok(started) };
            page.after = Some(after);
        }
    }

    async fn serve(&self, id: WebhookEndpointId, stopped: impl Fn() -> bool) -> u64 {
        let mut sum = 0;
        while !stopped() {
            match self.serve_once(id).await {
                Ok((0, 0)) => break,
                Ok((_, tried)) => sum += tried,
                Err(error) => {
                    tracing::warn!(%error, endpoint = %id, "webhooks could not be delivered");
                    break;
                }
            }
        }
        sum
    }

    /// How many events were looked at, and how many deliveries were tried.
    async fn serve_once(&self, id: WebhookEndpointId) -> Result<(u64, u64), RepositoryError> {
        let events = self.webhooks.fan_out(id, FAN_OUT).await?;
        let Some((endpoint, secrets)) = self.webhooks.find_with_secrets(id).await? else {
            return Ok((0, 0));
        };
        let DeliverySettings { concurrency, lease, .. } = *self.settings;
        let claimed = self.webhooks.claim(id, concurrency, lease).await?;
        let (endpoint, secrets) = (Arc::new(endpoint), Arc::new(secrets));
        let running: Vec<_> = claimed
            .into_iter()
            .map(|claim| {
                let (this, endpoint, secrets) = (self.clone(), endpoint.clone(), secrets.clone());
                self.tasks.spawn(async move { this.deliver(&endpoint, &secrets, &claim).await })
            })
            .collect();
        let tried = running.len() as u64;
        for one in running {
            // A panic is in the log; the claim runs out.
            let _ = one.await;
        }
        Ok((events, tried))
    }

    async fn deliver(
        &self,
        endpoint: &WebhookEndpoint,
        secrets: &WebhookSecrets,
        claim: &ClaimedDelivery,
    ) {
        let at = self.clock.now();
        let event = &claim.event;
        let body = json!({
            "type": event.about.as_str(),
            "timestamp": event.at,
            "data": event.shown(),
        });
        let message = WebhookMessage {
            url: endpoint.url.clone(),
            id: format!("evt_{}", event.id),
            at,
            body: body.to_string(),
            secrets: secrets.good_at(at),
        };
        let (status, retry_after, error) = match self.sender.send(&message).await {
            Ok(answer) if (200..=299).contains(&answer.status) => {
                let end = DeliveryEnd::Delivered { status: answer.status };
                return self.settle(claim, &end, "delivered").await;
            }
            Ok(answer) => {
                let error = format!("the receiver answered {}", answer.status);
                (Some(answer.status), answer.retry_after, error)
            }
            Err(error) => (None, None, error.to_string()),
        };
        tracing::debug!(endpoint = %endpoint.id, event = %event.id, error, "a webhook failed");
        if claim.delivery.attempts >= self.settings.max_attempts {
            let end = DeliveryEnd::Dead { status, error };
            return self.settle(claim, &end, "dead").await;
        }
        if status == Some(GONE) {
            self.switch_off(endpoint.id).await;
        }
        let wait = wait(self.settings.first_retry, claim.delivery.attempts, random());
        let after = wait.max(retry_after.unwrap_or_default());
        self.settle(claim, &DeliveryEnd::Retry { after, status, error }, "retried").await;
    }

    async fn settle(&self, claim: &ClaimedDelivery, end: &DeliveryEnd, outcome: &'static str) {
        metrics::counter!("symbolon_webhook_deliveries_total", "outcome" => outcome).increment(1);
        match self.webhooks.settle(&claim.delivery, end, &self.actor()).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::debug!(delivery = %claim.delivery.id, "somebody else has it by now");
            }
            // The claim runs out, and it is tried again.
            Err(error) => {
                tracing::warn!(%error, delivery = %claim.delivery.id, "how a webhook went could not be kept");
            }
        }
    }

    /// The receiver wants nothing more, so nothing more is sent until an operator says otherwise.
    async fn switch_off(&self, id: WebhookEndpointId) {
        let off = WebhookEndpointUpdate { enabled: Some(false), ..Default::default() };
        let actor = self.actor().because("the receiver answered 410 Gone");
        tracing::warn!(endpoint = %id, "a webhook endpoint is switched off: its receiver answered 410 Gone");
        if let Err(error) = self.webhooks.update(id, &off, &actor).await {
            tracing::warn!(%error, endpoint = %id, "the endpoint could not be switched off");
        }
    }

    /// Forgets deliveries that arrived that long ago, and tells the age of the oldest that has not.
    ///
    /// # Errors
    ///
    /// [`RepositoryError`]; what was not forgotten is the next time.
    pub async fn sweep(&self, retention: Duration) -> Result<u64, RepositoryError> {
        let oldest = self.webhooks.oldest_pending().await?;
        let age = oldest.map_or(0.0, |it| (self.clock.now() - it).as_seconds_f64().max(0.0));
        metrics::gauge!("symbolon_webhook_oldest_undelivered_seconds").set(age);
        self.webhooks.sweep(retention).await
    }

    fn actor(&self) -> Actor {
        Actor::from(Who::Replica(self.settings.replica.clone()))
    }
}

/// How long to wait after this many tries: three times as long as the time before, and by up to a
/// fifth shorter or longer, so that what failed together does not come again together. `random` is
/// from 0 to 1.
fn wait(first: Duration, attempts: u32, random: f64) -> Duration {
    let factor = 3_u32.saturating_pow(attempts.saturating_sub(1));
    let wait = first.saturating_mul(factor).min(LONGEST_WAIT);
    wait.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
}

fn random() -> f64 {
    let mut bytes = [0_u8; 4];
    // Without random numbers the waits are only less spread.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_grow_and_span_about_a_day() {
        let first = Duration::from_secs(5);
        let waits: Vec<_> = (1..=11).map(|tries| wait(first, tries, 0.5).as_secs()).collect();
        assert_eq!(waits, [5, 15, 45, 135, 405, 1215, 3645, 10935, 21600, 21600, 21600]);
        let hours = waits.iter().sum::<u64>() / 3600;
        assert!((20..=26).contains(&hours), "{hours}");
        assert_eq!(wait(first, u32::MAX, 0.5), LONGEST_WAIT);
    }

    #[test]
    fn a_wait_is_spread_by_a_fifth_to_both_sides() {
        let first = Duration::from_secs(10);
        assert_eq!(wait(first, 1, 0.0), Duration::from_secs(8));
        assert_eq!(wait(first, 1, 1.0), Duration::from_secs(12));
        for _ in 0..100 {
            assert!((0.0..=1.0).contains(&random()));
        }
    }
}
