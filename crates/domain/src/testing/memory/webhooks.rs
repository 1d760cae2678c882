use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::{MemoryStore, Rows, page_of};
use crate::{
    event::{Actor, EventKind, NewEvent},
    ids::{EventId, WebhookDeliveryId, WebhookEndpointId},
    page::{Page, PageRequest},
    ports::{
        ClaimedDelivery, DeliveryEnd, NewWebhookEndpoint, RepositoryError, WebhookEndpointUpdate,
        WebhookRepository,
    },
    secret::Secret,
    webhook::{DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookSecrets},
};

#[derive(Clone)]
pub(super) struct EndpointRow {
    pub(super) endpoint: WebhookEndpoint,
    pub(super) secrets: WebhookSecrets,
    pub(super) generation: i64,
    pub(super) position: EventId,
}

#[derive(Clone)]
pub(super) struct DeliveryRow {
    pub(super) delivery: WebhookDelivery,
    claimed_until: Option<DateTime<Utc>>,
}

impl Rows {
    fn endpoint(&self, id: WebhookEndpointId) -> Option<&EndpointRow> {
        self.webhook_endpoints.get(&id)
    }

    fn log_endpoint(
        &mut self,
        about: EventKind,
        actor: &Actor,
        before: Option<&WebhookEndpoint>,
        after: Option<&WebhookEndpoint>,
        now: DateTime<Utc>,
    ) {
        self.log(NewEvent::of_webhook_endpoint(about, actor, before, after), now);
    }

    fn waits(&self, waiting: &WebhookDelivery) -> bool {
        waiting.identity_id.is_some()
            && self.webhook_deliveries.values().any(|DeliveryRow { delivery: it, .. }| {
                it.endpoint_id == waiting.endpoint_id
                    && it.identity_id == waiting.identity_id
                    && it.status == DeliveryStatus::Pending
                    && it.event_id < waiting.event_id
            })
    }
}

fn restart(row: &mut DeliveryRow, now: DateTime<Utc>) {
    let delivery = &mut row.delivery;
    delivery.status = DeliveryStatus::Pending;
    delivery.attempts = 0;
    delivery.next_attempt_at = now;
    delivery.settled_at = None;
    row.claimed_until = None;
}

#[async_trait]
impl WebhookRepository for MemoryStore {
    async fn insert(
        &self,
        new: &NewWebhookEndpoint,
        actor: &Actor,
    ) -> Result<WebhookEndpoint, RepositoryError> {
        Ok(self.write(|rows, now| {
            let endpoint = WebhookEndpoint {
                id: WebhookEndpointId(rows.next_id()),
                url: new.url.clone(),
                kinds: new.kinds.clone(),
                enabled: new.enabled,
                created_at: now,
            };
            let row = EndpointRow {
                endpoint: endpoint.clone(),
                secrets: WebhookSecrets::one(new.secret.clone()),
                generation: 1,
                position: rows.events.last().map_or(EventId(0), |it| it.id),
            };
            rows.webhook_endpoints.insert(endpoint.id, row);
            let kind = EventKind::WebhookEndpointCreated;
            rows.log_endpoint(kind, actor, None, Some(&endpoint), now);
            endpoint
        }))
    }

    async fn find(
        &self,
        id: WebhookEndpointId,
    ) -> Result<Option<WebhookEndpoint>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.endpoint(id).map(|it| it.endpoint.clone()))
    }

    async fn find_with_secrets(
        &self,
        id: WebhookEndpointId,
    ) -> Result<Option<(WebhookEndpoint, WebhookSecrets)>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.endpoint(id).map(|it| (it.endpoint.clone(), it.secrets.clone())))
    }

    async fn list(&self, page: PageRequest) -> Result<Page<WebhookEndpoint>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(page_of(rows.webhook_endpoints.values().map(|it| &it.endpoint), page, |it| it.id.0))
    }

    async fn update(
        &self,
        id: WebhookEndpointId,
        update: &WebhookEndpointUpdate,
        actor: &Actor,
    ) -> Result<Option<WebhookEndpoint>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let endpoint = &mut rows.webhook_endpoints.get_mut(&id)?.endpoint;
            let before = endpoint.clone();
            let WebhookEndpointUpdate { url, kinds, enabled } = update.clone();
            endpoint.url = url.unwrap_or_else(|| before.url.clone());
            endpoint.kinds = kinds.unwrap_or_else(|| before.kinds.clone());
            endpoint.enabled = enabled.unwrap_or(before.enabled);
            let after = endpoint.clone();
            if before != after {
                let kind = EventKind::WebhookEndpointUpdated;
                rows.log_endpoint(kind, actor, Some(&before), Some(&after), now);
            }
            Some(after)
        }))
    }

    async fn rotate_secret(
        &self,
        id: WebhookEndpointId,
        secret: &Secret,
        overlap: Duration,
        actor: &Actor,
    ) -> Result<Option<WebhookEndpoint>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let row = rows.webhook_endpoints.get_mut(&id)?;
            row.secrets = row.secrets.clone().rotated(secret.clone(), now + overlap, now);
            row.generation += 1;
            let endpoint = row.endpoint.clone();
            let kind = EventKind::WebhookEndpointUpdated;
            let mut event =
                NewEvent::of_webhook_endpoint(kind, actor, Some(&endpoint), Some(&endpoint));
            event.detail.insert("changed".into(), json!(["secret"]));
            rows.log(event, now);
            Some(endpoint)
        }))
    }

    async fn delete(&self, id: WebhookEndpointId, actor: &Actor) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.webhook_endpoints.remove(&id) else { return false };
            rows.webhook_deliveries.retain(|_, it| it.delivery.endpoint_id != id);
            let kind = EventKind::WebhookEndpointDeleted;
            rows.log_endpoint(kind, actor, Some(&row.endpoint), None, now);
            true
        }))
    }

    async fn fan_out(&self, id: WebhookEndpointId, at_most: u16) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.endpoint(id).filter(|it| it.endpoint.enabled) else { return 0 };
            let (endpoint, position) = (row.endpoint.clone(), row.position);
            let next = rows.events.iter().filter(|it| it.id > position);
            let next: Vec<_> = next.take(usize::from(at_most)).cloned().collect();
            for event in &next {
                let of = event.detail.get("endpoint_id").and_then(serde_json::Value::as_i64);
                if !endpoint.wants(event.about, of.map(WebhookEndpointId)) {
                    continue;
                }
                let delivery = WebhookDelivery {
                    id: WebhookDeliveryId(rows.next_id()),
                    endpoint_id: id,
                    event_id: event.id,
                    kind: event.about,
                    identity_id: event.identity_id,
                    status: DeliveryStatus::Pending,
                    attempts: 0,
                    next_attempt_at: now,
                    last_status: None,
                    last_error: None,
                    created_at: now,
                    settled_at: None,
                };
                let row = DeliveryRow { delivery, claimed_until: None };
                rows.webhook_deliveries.insert(row.delivery.id, row);
            }
            if let (Some(last), Some(row)) = (next.last(), rows.webhook_endpoints.get_mut(&id)) {
                row.position = last.id;
            }
            next.len() as u64
        }))
    }

    async fn claim(
        &self,
        id: WebhookEndpointId,
        at_most: u16,
        lease: Duration,
    ) -> Result<Vec<ClaimedDelivery>, RepositoryError> {
        Ok(self.write(|rows, now| {
            if !rows.endpoint(id).is_some_and(|it| it.endpoint.enabled) {
                return Vec::new();
            }
            let due = rows.webhook_deliveries.values().filter(|row| {
                row.delivery.endpoint_id == id
                    && row.delivery.status == DeliveryStatus::Pending
                    && row.delivery.next_attempt_at <= now
                    && row.claimed_until.is_none_or(|it| it <= now)
                    && !rows.waits(&row.delivery)
            });
            let mut due: Vec<_> = due
                .map(|it| (it.delivery.next_attempt_at, it.delivery.event_id, it.delivery.id))
                .collect();
            due.sort_unstable();
            due.truncate(usize::from(at_most));
            let mut claimed = Vec::new();
            for (_, event_id, id) in due {
                let event = rows.events.iter().find(|it| it.id == event_id).cloned();
                let row = rows.webhook_deliveries.get_mut(&id).expect("it was just seen");
                row.claimed_until = Some(now + lease);
                row.delivery.attempts += 1;
                let delivery = row.delivery.clone();
                claimed.extend(event.map(|event| ClaimedDelivery { delivery, event }));
            }
            claimed
        }))
    }

    async fn settle(
        &self,
        claim: &WebhookDelivery,
        end: &DeliveryEnd,
        actor: &Actor,
    ) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.webhook_deliveries.get_mut(&claim.id).filter(|row| {
                row.delivery.status == DeliveryStatus::Pending
                    && row.delivery.attempts == claim.attempts
                    && row.claimed_until.is_some()
            }) else {
                return false;
            };
            row.claimed_until = None;
            let delivery = &mut row.delivery;
            match end {
                DeliveryEnd::Delivered { status } => {
                    delivery.status = DeliveryStatus::Delivered;
                    delivery.settled_at = Some(now);
                    (delivery.last_status, delivery.last_error) = (Some(*status), None);
                }
                DeliveryEnd::Retry { after, status, error } => {
                    delivery.next_attempt_at = now + *after;
                    (delivery.last_status, delivery.last_error) = (*status, Some(error.clone()));
                }
                DeliveryEnd::Dead { status, error } => {
                    delivery.status = DeliveryStatus::Dead;
                    delivery.settled_at = Some(now);
                    (delivery.last_status, delivery.last_error) = (*status, Some(error.clone()));
                    let delivery = delivery.clone();
                    if delivery.kind != EventKind::WebhookDeliveryFailed {
                        rows.log(NewEvent::of_failed_delivery(&delivery, actor), now);
                    }
                }
            }
            true
        }))
    }

    async fn list_deliveries(
        &self,
        id: WebhookEndpointId,
        status: Option<DeliveryStatus>,
        page: PageRequest,
    ) -> Result<Page<WebhookDelivery>, RepositoryError> {
        let (rows, _) = self.read();
        let of =
            rows.webhook_deliveries.values().map(|it| &it.delivery).filter(|it| {
                it.endpoint_id == id && status.is_none_or(|status| it.status == status)
            });
        Ok(page_of(of, page, |it| it.id.0))
    }

    async fn replay(
        &self,
        endpoint: WebhookEndpointId,
        delivery: WebhookDeliveryId,
        actor: &Actor,
    ) -> Result<Option<WebhookDelivery>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let row = rows.webhook_deliveries.get_mut(&delivery)?;
            if row.delivery.endpoint_id != endpoint {
                return None;
            }
            let settled = row.delivery.status != DeliveryStatus::Pending;
            if settled {
                restart(row, now);
            }
            let replayed = row.delivery.clone();
            if settled {
                let event = replayed.event_id;
                rows.log(NewEvent::of_replayed_deliveries(endpoint, &[event], actor), now);
            }
            Some(replayed)
        }))
    }

    async fn replay_dead(
        &self,
        id: WebhookEndpointId,
        actor: &Actor,
    ) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, now| {
            let dead = rows.webhook_deliveries.values_mut().filter(|it| {
                it.delivery.endpoint_id == id && it.delivery.status == DeliveryStatus::Dead
            });
            let mut replayed = Vec::new();
            for row in dead {
                restart(row, now);
                replayed.push(row.delivery.event_id);
            }
            replayed.sort_unstable();
            if !replayed.is_empty() {
                rows.log(NewEvent::of_replayed_deliveries(id, &replayed, actor), now);
            }
            replayed.len() as u64
        }))
    }

    async fn sweep(&self, age: Duration) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, now| {
            let before = rows.webhook_deliveries.len();
            rows.webhook_deliveries.retain(|_, it| {
                it.delivery.status != DeliveryStatus::Delivered
                    || it.delivery.settled_at.is_none_or(|at| at > now - age)
            });
            (before - rows.webhook_deliveries.len()) as u64
        }))
    }

    async fn oldest_pending(&self) -> Result<Option<DateTime<Utc>>, RepositoryError> {
        let (rows, _) = self.read();
        let pending = rows.webhook_deliveries.values().map(|it| &it.delivery).filter(|it| {
            it.status == DeliveryStatus::Pending
                && rows.endpoint(it.endpoint_id).is_some_and(|it| it.endpoint.enabled)
        });
        Ok(pending.map(|it| it.created_at).min())
    }
}
