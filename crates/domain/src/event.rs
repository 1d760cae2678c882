//! What happened: the audit trail.

use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::{
    identity::text_form,
    ids::{ApiKeyId, EventId, IdentityId, ProviderId, UserId},
};

/// One change, written in the same transaction as the change itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Ascending; what `after` is compared with.
    pub id: EventId,
    /// When, UTC.
    pub at: DateTime<Utc>,
    /// What it is about.
    pub about: EventKind,
    /// Who did it.
    pub actor: Actor,
    /// The identity concerned.
    pub identity_id: Option<IdentityId>,
    /// The provider instance concerned.
    pub provider_id: Option<ProviderId>,
    /// The user concerned.
    pub user_id: Option<UserId>,
    /// What more there is to say, for example the reason; never a secret.
    pub detail: Map<String, Value>,
}

/// An event to be kept; the store gives it id and time.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// What it is about.
    pub about: EventKind,
    /// Who did it.
    pub actor: Actor,
    /// The identity concerned.
    pub identity_id: Option<IdentityId>,
    /// The provider instance concerned.
    pub provider_id: Option<ProviderId>,
    /// The user concerned.
    pub user_id: Option<UserId>,
    /// What more there is to say; never a secret.
    pub detail: Map<String, Value>,
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
    /// The grant was ended at the provider.
    GrantRevoked,
    /// The grant could not be ended at the provider; `detail` says why.
    GrantRevocationFailed,
    /// A provider instance was created.
    ProviderCreated,
    /// A provider instance was changed; `detail` names the changed keys.
    ProviderUpdated,
    /// A provider instance was deleted; `detail` has how many identities went with it.
    ProviderDeleted,
    /// A link session failed; `detail` has the error.
    LinkSessionFailed,
    /// An API key was created.
    ApiKeyCreated,
    /// An API key was revoked.
    ApiKeyRevoked,
}

text_form!(EventKind:
    IdentityLinked = "identity.linked",
    IdentityRelinked = "identity.relinked",
    IdentityRebound = "identity.rebound",
    IdentitySignedIn = "identity.signed_in",
    IdentityDataUpdated = "identity.data_updated",
    IdentityRefreshed = "identity.refreshed",
    IdentityRefreshFailed = "identity.refresh_failed",
    IdentityInvalidated = "identity.invalidated",
    IdentityUnlinked = "identity.unlinked",
    GrantRevoked = "grant.revoked",
    GrantRevocationFailed = "grant.revocation_failed",
    ProviderCreated = "provider.created",
    ProviderUpdated = "provider.updated",
    ProviderDeleted = "provider.deleted",
    LinkSessionFailed = "link_session.failed",
    ApiKeyCreated = "api_key.created",
    ApiKeyRevoked = "api_key.revoked",
);

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A service with an API key.
    ApiKey(ApiKeyId),
    /// An operator at the command line or in the configuration.
    Operator,
    /// The service itself; the name of the replica.
    Replica(String),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(id) => write!(f, "api_key:{id}"),
            Self::Operator => f.write_str("operator"),
            Self::Replica(name) => write!(f, "replica:{name}"),
        }
    }
}

impl Actor {
    /// Reads the `Display` form back; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "operator" {
            return Some(Self::Operator);
        }
        match text.split_once(':')? {
            ("api_key", id) => id.parse().ok().map(|id| Self::ApiKey(ApiKeyId(id))),
            ("replica", name) => Some(Self::Replica(name.to_owned())),
            _ => None,
        }
    }
}
