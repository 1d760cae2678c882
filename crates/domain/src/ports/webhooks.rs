use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use url::Url;

use super::RepositoryError;
use crate::{
    event::{Actor, Event, EventKind},
    ids::{WebhookDeliveryId, WebhookEndpointId},
    page::{Page, PageRequest},
    secret::Secret,
    webhook::{DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookSecrets},
};

/// An endpoint to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWebhookEndpoint {
    /// Where events are posted.
    pub url: Url,
    /// Which events it is told; all when empty.
    pub kinds: Vec<EventKind>,
    /// Whether anything is sent.
    pub enabled: bool,
    /// What deliveries are signed with; sealed by the store.
    pub secret: Secret,
}

/// Changes to an endpoint; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookEndpointUpdate {
    /// Where events are posted.
    pub url: Option<Url>,
    /// Which events it is told; all when empty.
    pub kinds: Option<Vec<EventKind>>,
    /// Whether anything is sent.
    pub enabled: Option<bool>,
}

/// A delivery that is this caller's to make, until the claim ends.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedDelivery {
    /// The delivery; `attempts` counts this one, and tells this claim from a later one.
    pub delivery: WebhookDelivery,
    /// What is told.
    pub event: Event,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// The receiver took it.
    Delivered {
        /// Its answer.
        status: u16,
    },
    /// It is tried again.
    Retry {
        /// How much later.
        after: Duration,
        /// What the receiver answered, if it did.
        status: Option<u16>,
        /// Why it failed, in words of ours.
        error: String,
    },
    /// It is given up.
    Dead {
        /// What the receiver answered, if it did.
        status: Option<u16>,
        /// Why it failed, in words of ours.
        error: String,
    },
}

/// Keeps webhook endpoints and what is on its way to them.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait WebhookRepository: Send + Sync {
    /// Keeps an endpoint and writes the event. It is told what happens from then on, its own
    /// creation included.
    async fn insert(
        &self,
        endpoint: &NewWebhookEndpoint,
        actor: &Actor,
    ) -> Result<WebhookEndpoint, RepositoryError>;

    /// The endpoint, or `None` when there is none by that id.
    async fn find(&self, id: WebhookEndpointId)
    -> Result<Option<WebhookEndpoint>, RepositoryError>;

    /// The endpoint with what its deliveries are signed with, opened.
    async fn find_with_secrets(
        &self,
        id: WebhookEndpointId,
    ) -> Result<Option<(WebhookEndpoint, WebhookSecrets)>, RepositoryError>;

    /// Endpoints in ascending id order.
    async fn list(&self, page: PageRequest) -> Result<Page<WebhookEndpoint>, RepositoryError>;

    /// Changes an endpoint and writes the event; a change that changes nothing writes none. `None`
    /// when there is none by that id.
    async fn update(
        &self,
        id: WebhookEndpointId,
        update: &WebhookEndpointUpdate,
        actor: &Actor,
    ) -> Result<Option<WebhookEndpoint>, RepositoryError>;

    /// Puts a new secret before the ones that are there, which stay good for `overlap`, and writes
    /// the event. `None` when there is no such endpoint.
    async fn rotate_secret(
        &self,
        id: WebhookEndpointId,
        secret: &Secret,
        overlap: Duration,
        actor: &Actor,
    ) -> Result<Option<WebhookEndpoint>, RepositoryError>;

    /// Removes an endpoint with its deliveries and writes the event. Whether there was one.
    async fn delete(&self, id: WebhookEndpointId, actor: &Actor) -> Result<bool, RepositoryError>;

    /// Makes deliveries of the next events, at most that many events, for an endpoint that is
    /// enabled; answers how many events were looked at. Each event becomes one delivery of an
    /// endpoint at most, whoever calls this at the same time, and none is passed over.
    async fn fan_out(&self, id: WebhookEndpointId, at_most: u16) -> Result<u64, RepositoryError>;

    /// Takes deliveries of an enabled endpoint whose time has come, at most that many, and counts
    /// the attempt. Nobody else gets them before `lease` is over or they are settled. A delivery
    /// waits for every earlier pending one of the same endpoint and identity.
    async fn claim(
        &self,
        id: WebhookEndpointId,
        at_most: u16,
        lease: Duration,
    ) -> Result<Vec<ClaimedDelivery>, RepositoryError>;

    /// Writes down how a claimed delivery ended. False, and nothing is changed, when somebody else
    /// has claimed it since or it is settled already.
    ///
    /// Giving up writes [`EventKind::WebhookDeliveryFailed`], but not where that is what the
    /// delivery was to tell: failures are not told for ever.
    async fn settle(
        &self,
        claim: &WebhookDelivery,
        end: &DeliveryEnd,
        actor: &Actor,
    ) -> Result<bool, RepositoryError>;

    /// Deliveries of an endpoint in ascending id order.
    async fn list_deliveries(
        &self,
        id: WebhookEndpointId,
        status: Option<DeliveryStatus>,
        page: PageRequest,
    ) -> Result<Page<WebhookDelivery>, RepositoryError>;

    /// Makes a delivery that is dead or has arrived pending again, at once and with all its
    /// attempts, and writes the event; one that is pending stays as it is, without an event. `None`
    /// when the endpoint has none by that id.
    async fn replay(
        &self,
        endpoint: WebhookEndpointId,
        delivery: WebhookDeliveryId,
        actor: &Actor,
    ) -> Result<Option<WebhookDelivery>, RepositoryError>;

    /// The same with every dead delivery of an endpoint, told in one event; how many those are.
    async fn replay_dead(
        &self,
        id: WebhookEndpointId,
        actor: &Actor,
    ) -> Result<u64, RepositoryError>;

    /// Forgets deliveries that arrived that long ago; how many those are. Their events stay, and
    /// do not become deliveries again.
    async fn sweep(&self, age: Duration) -> Result<u64, RepositoryError>;

    /// When the oldest pending delivery of an enabled endpoint was made; `None` when none is
    /// pending.
    async fn oldest_pending(&self) -> Result<Option<DateTime<Utc>>, RepositoryError>;
}

/// A message to a receiver, to be signed and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookMessage {
    /// Where to.
    pub url: Url,
    /// Names what is told, the same in every try.
    pub id: String,
    /// The time of this try.
    pub at: DateTime<Utc>,
    /// What is told, as JSON.
    pub body: String,
    /// What it is signed with, each by itself.
    pub secrets: Vec<Secret>,
}

/// What a receiver answered. Its body is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookAnswer {
    /// The status code.
    pub status: u16,
    /// When to come again, if it says so.
    pub retry_after: Option<Duration>,
}

/// A message did not reach its receiver, or may not have.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct WebhookSendError(pub String);

/// Posts messages, signed as Standard Webhooks has it.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait WebhookSender: Send + Sync {
    /// Whether messages would be let out to this address, as far as its text tells.
    ///
    /// # Errors
    ///
    /// [`WebhookSendError`] says which rule forbids it.
    fn check(&self, url: &Url) -> Result<(), WebhookSendError>;

    /// Sends a message once and reads the answer's status, whatever it is. Follows no redirect,
    /// and ends within a bounded time.
    async fn send(&self, message: &WebhookMessage) -> Result<WebhookAnswer, WebhookSendError>;
}
