//! Events that are told to other services.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    event::EventKind,
    identity::text_form,
    ids::{EventId, IdentityId, WebhookDeliveryId, WebhookEndpointId},
    secret::Secret,
};

/// Where events are told. Its secrets are kept by the store and read only to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEndpoint {
    /// This endpoint's own name.
    pub id: WebhookEndpointId,
    /// Where events are posted; http or https.
    pub url: Url,
    /// Which events it is told; all when empty.
    pub kinds: Vec<EventKind>,
    /// Whether anything is sent. What happens meanwhile is sent when it is switched on again.
    pub enabled: bool,
    /// When it was created, UTC. It is told what happened from then on.
    pub created_at: DateTime<Utc>,
}

impl WebhookEndpoint {
    /// What the event log tells of an endpoint. The address goes without its query, which may hold
    /// a receiver's token.
    #[must_use]
    pub fn facts(&self) -> Map<String, Value> {
        let mut url = self.url.clone();
        url.set_query(None);
        let kinds: Vec<_> = self.kinds.iter().map(|it| it.as_str()).collect();
        Map::from_iter([
            ("url".to_owned(), json!(url.as_str())),
            ("types".to_owned(), json!(kinds)),
            ("enabled".to_owned(), json!(self.enabled)),
        ])
    }

    /// Whether it is to be told of an event of this kind; of [`EventKind::WebhookDeliveryFailed`]
    /// never about its own deliveries (`of`), or it would fail for ever about its failures.
    #[must_use]
    pub fn wants(&self, kind: EventKind, of: Option<WebhookEndpointId>) -> bool {
        let own = kind == EventKind::WebhookDeliveryFailed && of == Some(self.id);
        !own && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}

/// What an endpoint's deliveries are signed with
/// ([Standard Webhooks 1.0](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)):
/// every secret that is good now, so that a receiver may change from one to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSecrets(Vec<(Secret, Option<DateTime<Utc>>)>);

/// Most secrets of one endpoint at a time.
const MOST_SECRETS: usize = 3;

/// What every webhook secret starts with, as Standard Webhooks has it.
pub const WEBHOOK_SECRET_PREFIX: &str = "whsec_";

/// Sealed webhook secrets that do not have the known form.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the sealed webhook secrets are not of a form that this version knows")]
pub struct UnreadableWebhookSecrets;

impl WebhookSecrets {
    /// One secret, good until it is replaced.
    #[must_use]
    pub fn one(secret: Secret) -> Self {
        Self(vec![(secret, None)])
    }

    /// A new secret: 32 random bytes in Base64 behind [`WEBHOOK_SECRET_PREFIX`].
    ///
    /// # Panics
    ///
    /// When the operating system has no random numbers; nothing can be kept safe then.
    #[must_use]
    pub fn random() -> Secret {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut_slice()).expect("the operating system gives random numbers");
        let text = Zeroizing::new(STANDARD.encode(bytes.as_slice()));
        Secret::new(format!("{WEBHOOK_SECRET_PREFIX}{}", text.as_str()))
    }

    /// The same with a new first secret; the others are good until `until`, or less where that was
    /// said before. What is over by `now` goes, and of too many the oldest.
    #[must_use]
    pub fn rotated(self, new: Secret, until: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let old = self
            .0
            .into_iter()
            .map(|(secret, end)| (secret, Some(end.map_or(until, |it| it.min(until)))));
        let old = old.filter(|(_, end)| end.is_none_or(|it| it > now));
        Self([(new, None)].into_iter().chain(old).take(MOST_SECRETS).collect())
    }

    /// Those that are good at a time, the newest first.
    #[must_use]
    pub fn good_at(&self, now: DateTime<Utc>) -> Vec<Secret> {
        let good = self.0.iter().filter(|(_, end)| end.is_none_or(|it| it > now));
        good.map(|(secret, _)| secret.clone()).collect()
    }

    /// Each with the time until which it is good, the newest first.
    #[must_use]
    pub fn all(&self) -> &[(Secret, Option<DateTime<Utc>>)] {
        &self.0
    }

    /// Those that [`all`](Self::all) told of; `None` when there is none.
    #[must_use]
    pub fn of(all: Vec<(Secret, Option<DateTime<Utc>>)>) -> Option<Self> {
        (!all.is_empty()).then_some(Self(all))
    }

    /// The form that is sealed: JSON with a version.
    ///
    /// # Panics
    ///
    /// Never: texts and times always serialize.
    #[must_use]
    pub fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        let secrets = self.0.iter().map(|(secret, until)| PlainSecret {
            secret: Zeroizing::new(secret.expose().to_owned()),
            until: *until,
        });
        let form = PlainSecrets { v: 1, secrets: secrets.collect() };
        Zeroizing::new(serde_json::to_vec(&form).expect("texts and times serialize"))
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote.
    ///
    /// # Errors
    ///
    /// [`UnreadableWebhookSecrets`] for anything else, a later version included.
    pub fn from_plain(plain: &[u8]) -> Result<Self, UnreadableWebhookSecrets> {
        let form: PlainSecrets =
            serde_json::from_slice(plain).map_err(|_| UnreadableWebhookSecrets)?;
        if form.v != 1 || form.secrets.is_empty() {
            return Err(UnreadableWebhookSecrets);
        }
        let secrets = form.secrets.into_iter();
        Ok(Self(secrets.map(|it| (Secret::new(it.secret.as_str()), it.until)).collect()))
    }
}

#[derive(Serialize, Deserialize)]
struct PlainSecrets {
    v: u8,
    secrets: Vec<PlainSecret>,
}

#[derive(Serialize, Deserialize)]
struct PlainSecret {
    secret: Zeroizing<String>,
    until: Option<DateTime<Utc>>,
}

/// An event on its way to an endpoint, or arrived, or given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookDelivery {
    /// This delivery's own name.
    pub id: WebhookDeliveryId,
    /// Where to.
    pub endpoint_id: WebhookEndpointId,
    /// Which event.
    pub event_id: EventId,
    /// What it is about.
    pub kind: EventKind,
    /// The identity concerned, whose events arrive in their order.
    pub identity_id: Option<IdentityId>,
    /// How far it got.
    pub status: DeliveryStatus,
    /// How often it was tried since it was made or replayed.
    pub attempts: u32,
    /// When it is tried next, while it is pending.
    pub next_attempt_at: DateTime<Utc>,
    /// What the receiver answered last, if it did.
    pub last_status: Option<u16>,
    /// Why the last try failed, in words of ours.
    pub last_error: Option<String>,
    /// When it was made, UTC.
    pub created_at: DateTime<Utc>,
    /// When it arrived or was given up, UTC.
    pub settled_at: Option<DateTime<Utc>>,
}

/// How far a delivery got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryStatus {
    /// It will be tried, or tried again.
    Pending,
    /// The receiver took it.
    Delivered,
    /// It was given up; it can be replayed.
    Dead,
}

text_form!(DeliveryStatus: Pending = "pending", Delivered = "delivered", Dead = "dead");

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::testing::fixtures::{self, NOW};

    #[test]
    fn a_secret_has_the_form_of_standard_webhooks() {
        let secret = WebhookSecrets::random();
        let key = secret.expose().strip_prefix("whsec_").unwrap();
        assert_eq!(STANDARD.decode(key).unwrap().len(), 32);
        assert_ne!(secret, WebhookSecrets::random());
    }

    #[test]
    fn an_older_secret_is_good_until_its_time_and_not_for_longer() {
        let day = TimeDelta::days(1);
        let secret = |name: &str| Secret::new(name);
        let first = WebhookSecrets::one(secret("1"));
        let second = first.rotated(secret("2"), NOW + day, NOW);
        assert_eq!(second.good_at(NOW), [secret("2"), secret("1")]);
        assert_eq!(second.good_at(NOW + day), [secret("2")]);

        // A later rotation does not give the first one more time.
        let third = second.clone().rotated(secret("3"), NOW + day * 9, NOW);
        assert_eq!(third.good_at(NOW + day), [secret("3"), secret("2")]);
        // At once, for a secret that leaked.
        let alone = third.clone().rotated(secret("4"), NOW, NOW);
        assert_eq!(alone.good_at(NOW), [secret("4")]);
        let fourth = third.rotated(secret("4"), NOW + day, NOW);
        assert_eq!(fourth.good_at(NOW), [secret("4"), secret("3"), secret("2")]);
    }

    #[test]
    fn secrets_come_back_from_their_sealed_form() {
        let secrets = WebhookSecrets::one(Secret::new("1")).rotated(
            Secret::new("2"),
            NOW + TimeDelta::days(1),
            NOW,
        );
        assert_eq!(WebhookSecrets::from_plain(&secrets.to_plain()), Ok(secrets));
        for bad in ["", "{}", r#"{"v":2,"secrets":[]}"#, r#"{"v":1,"secrets":[]}"#] {
            assert_eq!(WebhookSecrets::from_plain(bad.as_bytes()), Err(UnreadableWebhookSecrets));
        }
    }

    #[test]
    fn an_endpoint_is_not_told_of_its_own_failures() {
        let endpoint = fixtures::webhook_endpoint();
        let failed = EventKind::WebhookDeliveryFailed;
        assert!(!endpoint.wants(failed, Some(endpoint.id)));
        assert!(endpoint.wants(failed, Some(WebhookEndpointId(2))));
        let some = WebhookEndpoint { kinds: vec![EventKind::IdentityLinked], ..endpoint };
        assert!(some.wants(EventKind::IdentityLinked, None));
        assert!(!some.wants(EventKind::IdentityUnlinked, None));
    }

    #[test]
    fn the_event_log_is_not_told_the_query_of_an_address() {
        let url = "https://receiver.example/hook?token=canary".parse().unwrap();
        let endpoint = WebhookEndpoint { url, ..fixtures::webhook_endpoint() };
        let facts = Value::Object(endpoint.facts()).to_string();
        assert!(facts.contains("https://receiver.example/hook") && !facts.contains("canary"));
    }
}
