//! A webhook endpoint.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    archive::WebhookEndpointRecord,
    event::EventKind,
    ids::{EventId, WebhookEndpointId},
    secret::Secret,
    webhook::{WebhookEndpoint, WebhookSecrets},
};
use url::Url;
use zeroize::Zeroizing;

use super::{exposed, hidden, one_of};
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct WebhookEndpointLine {
    pub(super) id: i64,
    url: String,
    events: Vec<String>,
    enabled: bool,
    created_at: DateTime<Utc>,
    generation: i64,
    position: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secrets: Option<Vec<WebhookSecretLine>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookSecretLine {
    secret: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<DateTime<Utc>>,
}

impl From<&WebhookEndpointRecord> for WebhookEndpointLine {
    fn from(record: &WebhookEndpointRecord) -> Self {
        let it = &record.endpoint;
        let secret = |(secret, until): &(Secret, Option<DateTime<Utc>>)| WebhookSecretLine {
            secret: exposed(secret),
            until: *until,
        };
        let secrets = record.secrets.as_ref();
        Self {
            id: it.id.0,
            url: it.url.as_str().to_owned(),
            events: it.kinds.iter().map(|it| it.as_str().to_owned()).collect(),
            enabled: it.enabled,
            created_at: it.created_at,
            generation: record.generation,
            position: record.position.0,
            secrets: secrets.map(|all| all.all().iter().map(secret).collect()),
        }
    }
}

impl TryFrom<WebhookEndpointLine> for WebhookEndpointRecord {
    type Error = Reason;

    fn try_from(it: WebhookEndpointLine) -> Result<Self, Reason> {
        let kinds = it.events.iter().map(|it| one_of("events", it, EventKind::parse));
        let secrets = it.secrets.map(|all| {
            let all = all.iter().map(|it| (hidden(&it.secret), it.until)).collect();
            WebhookSecrets::of(all).ok_or_else(|| Reason::malformed("secrets: must not be empty"))
        });
        let url = it.url.parse().ok().filter(|url: &Url| matches!(url.scheme(), "http" | "https"));
        let endpoint = WebhookEndpoint {
            id: WebhookEndpointId(it.id),
            url: url.ok_or_else(|| Reason::malformed("url: must be an address"))?,
            kinds: kinds.collect::<Result<_, _>>()?,
            enabled: it.enabled,
            created_at: it.created_at,
        };
        let position = EventId(it.position);
        Ok(Self { endpoint, secrets: secrets.transpose()?, generation: it.generation, position })
    }
}
