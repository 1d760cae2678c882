//! What happened: the audit trail.

use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::{
    api_key::ApiKey,
    identity::{Identity, text_form},
    identity_provider::IdentityProvider,
    ids::{ApiKeyId, EventId, IdentityId, OrganizationId, ProviderId, UserId, WebhookEndpointId},
    link_evidence::{LinkEvidence, LinkMethod},
    webhook::{WebhookDelivery, WebhookEndpoint},
};

/// One change, written in the same transaction as the change itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Ascending in the order in which changes became visible, so that whoever has read up to an
    /// id has missed none before it; what `after` is compared with. Events of one identity are in
    /// the order in which they happened.
    pub id: EventId,
    /// When, UTC.
    pub at: DateTime<Utc>,
    /// What it is about.
    pub about: EventKind,
    /// Who did it, and why.
    pub actor: Actor,
    /// The identity concerned.
    pub identity_id: Option<IdentityId>,
    /// The provider instance concerned.
    pub provider_id: Option<ProviderId>,
    /// The user concerned.
    pub user_id: Option<UserId>,
    /// The organization concerned.
    pub organization_id: Option<OrganizationId>,
    /// The values that changed, as they were; `None` for what was not there before.
    pub before: Option<Map<String, Value>>,
    /// The same values as they are now; `None` for what is gone.
    pub after: Option<Map<String, Value>>,
    /// What more there is to say, for example the error; never a secret.
    pub detail: Map<String, Value>,
}

impl Event {
    /// The event as callers and webhooks are shown it.
    #[must_use]
    pub fn shown(&self) -> Map<String, Value> {
        let text = |it: &str| Value::from(it);
        let entries = [
            ("id", self.id.0.into()),
            ("type", text(self.about.as_str())),
            ("at", json!(self.at)),
            ("actor", self.actor.who.to_string().into()),
            ("acting_user", self.actor.acting_user.as_ref().map(|it| text(it.as_str())).into()),
            ("reason", self.actor.reason.clone().into()),
            ("identity_id", self.identity_id.map(|it| it.0).into()),
            ("provider_id", self.provider_id.map(|it| it.0).into()),
            ("user_id", self.user_id.as_ref().map(|it| text(it.as_str())).into()),
            ("organization_id", self.organization_id.as_ref().map(|it| text(it.as_str())).into()),
            ("before", self.before.clone().map(Value::Object).into()),
            ("after", self.after.clone().map(Value::Object).into()),
            ("detail", Value::Object(self.detail.clone())),
        ];
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// An event to be kept; the store gives it id and time.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// What it is about.
    pub about: EventKind,
    /// Who did it, and why.
    pub actor: Actor,
    /// The identity concerned.
    pub identity_id: Option<IdentityId>,
    /// The provider instance concerned.
    pub provider_id: Option<ProviderId>,
    /// The user concerned.
    pub user_id: Option<UserId>,
    /// The organization concerned.
    pub organization_id: Option<OrganizationId>,
    /// The values that changed, as they were; `None` for what was not there before.
    pub before: Option<Map<String, Value>>,
    /// The same values as they are now; `None` for what is gone.
    pub after: Option<Map<String, Value>>,
    /// What more there is to say; never a secret.
    pub detail: Map<String, Value>,
}

impl NewEvent {
    /// An event that concerns nothing yet; the caller sets what it does concern.
    #[must_use]
    pub fn new(about: EventKind, actor: &Actor) -> Self {
        Self {
            about,
            actor: actor.clone(),
            identity_id: None,
            provider_id: None,
            user_id: None,
            organization_id: None,
            before: None,
            after: None,
            detail: Map::new(),
        }
    }

    /// An event about an identity, its provider and its user. `before` is the identity as it was,
    /// `after` as it is: only what differs is told.
    ///
    /// # Panics
    ///
    /// When both are absent: then there is nothing to tell.
    #[must_use]
    pub fn of_identity(
        about: EventKind,
        actor: &Actor,
        before: Option<&Identity>,
        after: Option<&Identity>,
    ) -> Self {
        let identity = after.or(before).expect("an event about an identity names it");
        let (before, after) = changes(before.map(Identity::facts), after.map(Identity::facts));
        Self {
            identity_id: Some(identity.id),
            provider_id: Some(identity.idp_id),
            user_id: Some(identity.user_id.clone()),
            before,
            after,
            ..Self::new(about, actor)
        }
    }

    /// An identity was taken over from elsewhere: told with that as the evidence of its link.
    #[must_use]
    pub fn of_imported_identity(actor: &Actor, identity: &Identity) -> Self {
        let mut event = Self::of_identity(EventKind::IdentityImported, actor, None, Some(identity));
        let evidence = LinkEvidence::of(LinkMethod::Import);
        event.detail.insert("evidence".to_owned(), evidence.told());
        event
    }

    /// An event about a provider instance, told as in [`of_identity`](Self::of_identity).
    ///
    /// # Panics
    ///
    /// When both are absent: then there is nothing to tell.
    #[must_use]
    pub fn of_provider(
        about: EventKind,
        actor: &Actor,
        before: Option<&IdentityProvider>,
        after: Option<&IdentityProvider>,
    ) -> Self {
        let provider = after.or(before).expect("an event about a provider names it");
        let facts = IdentityProvider::facts;
        let (before, after) = changes(before.map(facts), after.map(facts));
        Self { provider_id: Some(provider.id), before, after, ..Self::new(about, actor) }
    }

    /// An event about an API key, told as in [`of_identity`](Self::of_identity); its detail names
    /// the key.
    ///
    /// # Panics
    ///
    /// When both are absent: then there is nothing to tell.
    #[must_use]
    pub fn of_api_key(
        about: EventKind,
        actor: &Actor,
        before: Option<&ApiKey>,
        after: Option<&ApiKey>,
    ) -> Self {
        let key = after.or(before).expect("an event about a key names it");
        let detail = [
            ("api_key_id".to_owned(), key.id.0.into()),
            ("name".to_owned(), key.name.as_str().into()),
        ];
        let (before, after) = changes(before.map(ApiKey::facts), after.map(ApiKey::facts));
        Self { before, after, detail: Map::from_iter(detail), ..Self::new(about, actor) }
    }

    /// An event about a webhook endpoint, told as in [`of_identity`](Self::of_identity); its detail
    /// names the endpoint.
    ///
    /// # Panics
    ///
    /// When both are absent: then there is nothing to tell.
    #[must_use]
    pub fn of_webhook_endpoint(
        about: EventKind,
        actor: &Actor,
        before: Option<&WebhookEndpoint>,
        after: Option<&WebhookEndpoint>,
    ) -> Self {
        let endpoint = after.or(before).expect("an event about an endpoint names it");
        let detail = Map::from_iter([("endpoint_id".to_owned(), endpoint.id.0.into())]);
        let facts = WebhookEndpoint::facts;
        let (before, after) = changes(before.map(facts), after.map(facts));
        Self { before, after, detail, ..Self::new(about, actor) }
    }

    /// A delivery was given up.
    #[must_use]
    pub fn of_failed_delivery(delivery: &WebhookDelivery, actor: &Actor) -> Self {
        let detail = [
            ("endpoint_id", json!(delivery.endpoint_id.0)),
            ("delivery_id", json!(delivery.id.0)),
            ("event_id", json!(delivery.event_id.0)),
            ("attempts", json!(delivery.attempts)),
            ("status", json!(delivery.last_status)),
            ("error", json!(delivery.last_error)),
        ];
        let detail = detail.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { detail, ..Self::new(EventKind::WebhookDeliveryFailed, actor) }
    }

    /// These deliveries of an endpoint, of these events, are sent again.
    #[must_use]
    pub fn of_replayed_deliveries(
        endpoint: WebhookEndpointId,
        events: &[EventId],
        actor: &Actor,
    ) -> Self {
        let named: Vec<_> = events.iter().take(MOST_NAMED).map(|it| it.0).collect();
        let detail = [
            ("endpoint_id", json!(endpoint.0)),
            ("replayed", json!(events.len())),
            ("event_ids", json!(named)),
        ];
        let detail = detail.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { detail, ..Self::new(EventKind::WebhookDeliveryReplayed, actor) }
    }

    /// The event as it is kept.
    #[must_use]
    pub fn kept(self, id: EventId, at: DateTime<Utc>) -> Event {
        let Self {
            about,
            actor,
            identity_id,
            provider_id,
            user_id,
            organization_id,
            before,
            after,
            detail,
        } = self;
        Event {
            id,
            at,
            about,
            actor,
            identity_id,
            provider_id,
            user_id,
            organization_id,
            before,
            after,
            detail,
        }
    }
}

/// Most events that are named of those that are sent again at once.
const MOST_NAMED: usize = 100;

/// What an event tells of one state of a thing, by name; never a secret.
pub type Facts = Map<String, Value>;

/// What differs between two states of a thing: the same keys on both sides, null where one side
/// does not have the key. A state that is absent stays absent, and the other is told in full.
#[must_use]
pub fn changes(before: Option<Facts>, after: Option<Facts>) -> (Option<Facts>, Option<Facts>) {
    let (Some(before), Some(after)) = (&before, &after) else { return (before, after) };
    let mut changed = (Map::new(), Map::new());
    for key in before.keys().chain(after.keys()) {
        let (old, new) = (before.get(key), after.get(key));
        if old != new {
            changed.0.insert(key.clone(), old.cloned().unwrap_or_default());
            changed.1.insert(key.clone(), new.cloned().unwrap_or_default());
        }
    }
    (Some(changed.0), Some(changed.1))
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An account was linked for the first time.
    IdentityLinked,
    /// The user proved again to hold an account that was linked already.
    IdentityRelinked,
    /// A link was moved to another user or another account; `detail` has the previous ones.
    IdentityRebound,
    /// The account signed its user in.
    IdentitySignedIn,
    /// The provider ended the user's session there (OpenID Connect Back-Channel Logout 1.0);
    /// `detail` has its `session_id` where the provider named it.
    IdentityLoggedOut,
    /// `data` was replaced.
    IdentityDataUpdated,
    /// New credentials were obtained with the refresh token.
    IdentityRefreshed,
    /// A refresh failed; `detail` has the failure and its code.
    IdentityRefreshFailed,
    /// The user must link again; `detail` has the reason.
    IdentityInvalidated,
    /// The link was removed.
    IdentityUnlinked,
    /// The link was given to another user by a merge or a transfer, or given back.
    IdentityTransferred,
    /// The link was taken over from another system.
    IdentityImported,
    /// An organization uses an identity.
    OrganizationIdentityLinked,
    /// An organization does not use an identity any more.
    OrganizationIdentityUnlinked,
    /// An organization signs in with a provider.
    AuthProviderCreated,
    /// How an organization signs in was changed.
    AuthProviderUpdated,
    /// An organization does not sign in with a provider any more; `detail` has how many
    /// identities went with it.
    AuthProviderDeleted,
    /// A user's account for an organization's single sign-on was linked.
    AuthIdentityLinked,
    /// It was changed.
    AuthIdentityUpdated,
    /// It signed its user in.
    AuthIdentitySignedIn,
    /// The provider ended the user's session there; `detail` has its `session_id` where the
    /// provider named it.
    AuthIdentityLoggedOut,
    /// It was removed.
    AuthIdentityUnlinked,
    /// A grant that no identity owns any more waits to be ended at the provider.
    GrantRevocationQueued,
    /// The grant was ended at the provider: the receipt.
    GrantRevoked,
    /// The grant could not be ended at the provider; `detail` says why.
    GrantRevocationFailed,
    /// A provider instance was created.
    ProviderCreated,
    /// A provider instance was changed; `detail` names the changed keys.
    ProviderUpdated,
    /// A provider instance was deleted; `detail` has how many identities went with it.
    ProviderDeleted,
    /// A provider rejects our client, and with it every refresh; `detail` has the error. Identities
    /// stay valid.
    ProviderClientRejected,
    /// A provider that rejected our client accepts it again.
    ProviderClientAccepted,
    /// A link session failed; `detail` has the error.
    LinkSessionFailed,
    /// A link that was to be confirmed on another device failed; `detail` has the error.
    DeviceLinkFailed,
    /// An API key was created.
    ApiKeyCreated,
    /// An API key was revoked.
    ApiKeyRevoked,
    /// Nothing is handed out to an API key any more.
    ApiKeyFrozen,
    /// It is again.
    ApiKeyUnfrozen,
    /// No token of a provider instance's accounts is handed out any more.
    ProviderFrozen,
    /// They are again.
    ProviderUnfrozen,
    /// No token of an identity that an organization uses is handed out any more.
    OrganizationFrozen,
    /// They are again.
    OrganizationUnfrozen,
    /// Identities were moved to another user; `detail` has the journal's id and what it moved.
    TransferDone,
    /// A transfer was undone.
    TransferUndone,
    /// A webhook endpoint was created.
    WebhookEndpointCreated,
    /// A webhook endpoint was changed.
    WebhookEndpointUpdated,
    /// A webhook endpoint was deleted.
    WebhookEndpointDeleted,
    /// A webhook was given up after its last retry; `detail` names endpoint and event.
    WebhookDeliveryFailed,
    /// Webhooks are sent again that were given up or that arrived; `detail` names the endpoint and
    /// says which and how many.
    WebhookDeliveryReplayed,
    /// Another system's export was imported; `detail` has what was taken and what was not.
    ImportFinished,
}

text_form!(EventKind:
    IdentityLinked = "identity.linked",
    IdentityRelinked = "identity.relinked",
    IdentityRebound = "identity.rebound",
    IdentitySignedIn = "identity.signed_in",
    IdentityLoggedOut = "identity.logged_out",
    IdentityDataUpdated = "identity.data_updated",
    IdentityRefreshed = "identity.refreshed",
    IdentityRefreshFailed = "identity.refresh_failed",
    IdentityInvalidated = "identity.invalidated",
    IdentityUnlinked = "identity.unlinked",
    IdentityTransferred = "identity.transferred",
    IdentityImported = "identity.imported",
    OrganizationIdentityLinked = "organization_identity.linked",
    OrganizationIdentityUnlinked = "organization_identity.unlinked",
    AuthProviderCreated = "auth_provider.created",
    AuthProviderUpdated = "auth_provider.updated",
    AuthProviderDeleted = "auth_provider.deleted",
    AuthIdentityLinked = "auth_identity.linked",
    AuthIdentityUpdated = "auth_identity.updated",
    AuthIdentitySignedIn = "auth_identity.signed_in",
    AuthIdentityLoggedOut = "auth_identity.logged_out",
    AuthIdentityUnlinked = "auth_identity.unlinked",
    GrantRevocationQueued = "grant.revocation_queued",
    GrantRevoked = "grant.revoked",
    GrantRevocationFailed = "grant.revocation_failed",
    ProviderCreated = "provider.created",
    ProviderUpdated = "provider.updated",
    ProviderDeleted = "provider.deleted",
    ProviderClientRejected = "provider.client_rejected",
    ProviderClientAccepted = "provider.client_accepted",
    LinkSessionFailed = "link_session.failed",
    DeviceLinkFailed = "device_link.failed",
    ApiKeyCreated = "api_key.created",
    ApiKeyRevoked = "api_key.revoked",
    ApiKeyFrozen = "api_key.frozen",
    ApiKeyUnfrozen = "api_key.unfrozen",
    ProviderFrozen = "provider.frozen",
    ProviderUnfrozen = "provider.unfrozen",
    OrganizationFrozen = "organization.frozen",
    OrganizationUnfrozen = "organization.unfrozen",
    TransferDone = "transfer.done",
    TransferUndone = "transfer.undone",
    WebhookEndpointCreated = "webhook_endpoint.created",
    WebhookEndpointUpdated = "webhook_endpoint.updated",
    WebhookEndpointDeleted = "webhook_endpoint.deleted",
    WebhookDeliveryFailed = "webhook_delivery.failed",
    WebhookDeliveryReplayed = "webhook_delivery.replayed",
    ImportFinished = "import.finished",
);

/// Who did something, for whom, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Who.
    pub who: Who,
    /// The user on whose behalf, in the caller's words: for example the one who pressed
    /// *Disconnect* on the product's page.
    pub acting_user: Option<UserId>,
    /// Why, in the caller's words: 1 to 500 characters.
    pub reason: Option<String>,
}

/// Who can do something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// A service with an API key.
    ApiKey(ApiKeyId),
    /// A Sentry deployment that signs its calls.
    Sentry,
    /// An operator at the command line or in the configuration.
    Operator,
    /// The service itself; the name of the replica.
    Replica(String),
}

impl Actor {
    /// An operator at the command line or in the configuration.
    pub const OPERATOR: Self = Self { who: Who::Operator, acting_user: None, reason: None };

    /// A Sentry deployment that signs its calls.
    pub const SENTRY: Self = Self { who: Who::Sentry, acting_user: None, reason: None };

    /// A service with this API key.
    #[must_use]
    pub const fn api_key(id: ApiKeyId) -> Self {
        Self { who: Who::ApiKey(id), acting_user: None, reason: None }
    }

    /// The service itself.
    #[must_use]
    pub fn replica(name: impl Into<String>) -> Self {
        Self { who: Who::Replica(name.into()), acting_user: None, reason: None }
    }

    /// The same, for this reason.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }
}

impl From<Who> for Actor {
    fn from(who: Who) -> Self {
        Self { who, acting_user: None, reason: None }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(id) => write!(f, "api_key:{id}"),
            Self::Sentry => f.write_str("sentry"),
            Self::Operator => f.write_str("operator"),
            Self::Replica(name) => write!(f, "replica:{name}"),
        }
    }
}

impl Who {
    /// Reads the `Display` form back; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "operator" => return Some(Self::Operator),
            "sentry" => return Some(Self::Sentry),
            _ => {}
        }
        match text.split_once(':')? {
            ("api_key", id) => id.parse().ok().map(|id| Self::ApiKey(ApiKeyId(id))),
            ("replica", name) => Some(Self::Replica(name.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixtures::object;

    #[test]
    fn changes_name_the_same_keys_on_both_sides() {
        let before = object(json!({"a": 1, "b": 2, "gone": 3}));
        let after = object(json!({"a": 1, "b": 4, "new": 5}));
        let (old, new) = changes(Some(before.clone()), Some(after.clone()));
        assert_eq!(old, Some(object(json!({"b": 2, "gone": 3, "new": null}))));
        assert_eq!(new, Some(object(json!({"b": 4, "gone": null, "new": 5}))));
        assert_eq!(changes(None, Some(after.clone())), (None, Some(after)));
        assert_eq!(changes(Some(before.clone()), None), (Some(before), None));
    }

    #[test]
    fn whoever_did_it_survives_the_text_form() {
        for who in [
            Who::ApiKey(ApiKeyId(i64::MAX)),
            Who::Sentry,
            Who::Operator,
            Who::Replica("a:b ü".into()),
        ] {
            assert_eq!(Who::parse(&who.to_string()), Some(who));
        }
        assert_eq!(Who::parse("somebody"), None);
    }

    #[test]
    fn the_table_of_types_is_that_of_the_documentation() {
        let page = include_str!("../../../docs/events-and-webhooks.md");
        let (_, table) = page.split_once("| type | when |").unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        let listed: Vec<_> = table
            .lines()
            .filter_map(|it| it.strip_prefix("| `")?.split_once('`').map(|(name, _)| name))
            .collect();
        let all: Vec<_> = EventKind::ALL.iter().map(|it| it.as_str()).collect();
        assert_eq!(listed, all);
    }
}
