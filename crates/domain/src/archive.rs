//! Everything that a store keeps, as records that can leave one store and enter another.

use std::fmt;

use serde_json::{Map, Value};

use crate::{
    api_key::ApiKey,
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    credentials::Credentials,
    event::{Actor, Event},
    identity::{Identity, text_form},
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::{AuthIdentityId, AuthProviderId, EventId, IdentityId, ProviderId},
    organization_identity::OrganizationIdentity,
    ports::BackOff,
    revocation::{OrphanedGrant, QueuedRevocation, RevocationStatus},
    secret::SecretHash,
    transfer::Transfer,
    webhook::{WebhookEndpoint, WebhookSecrets},
};

/// Ids from here on are not kept by an import, which gives such a row a new one: programs that
/// read JSON numbers as floats would mistake them, and a store that has used up its ids makes no
/// row ever again.
pub const KEPT_IDS_END: i64 = 1 << 53;

/// What kind of row a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// An identity provider.
    IdentityProvider,
    /// An identity.
    Identity,
    /// An organization's single sign-on.
    AuthProvider,
    /// A user's account for single sign-on.
    AuthIdentity,
    /// An organization's use of an identity.
    OrganizationIdentity,
    /// An API key.
    ApiKey,
    /// A webhook endpoint.
    WebhookEndpoint,
    /// An entry of the journal of transfers.
    Transfer,
    /// A grant that is to be revoked, or was.
    Revocation,
    /// An event.
    Event,
}

text_form!(RecordKind:
    IdentityProvider = "identity_provider",
    Identity = "identity",
    AuthProvider = "auth_provider",
    AuthIdentity = "auth_identity",
    OrganizationIdentity = "organization_identity",
    ApiKey = "api_key",
    WebhookEndpoint = "webhook_endpoint",
    Transfer = "transfer",
    Revocation = "revocation",
    Event = "event",
);

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row with everything that belongs to it.
///
/// What is over in minutes is no part of an archive: link sessions, and who holds the lease of a
/// refresh. Neither are webhook deliveries: those that are under way are made again from an
/// endpoint's [position](WebhookEndpointRecord::position).
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// An identity provider and its secrets.
    IdentityProvider(ProviderRecord),
    /// An identity and its credentials.
    Identity(Box<IdentityRecord>),
    /// An organization's single sign-on.
    AuthProvider(Box<AuthProvider>),
    /// A user's account for single sign-on and its credentials.
    AuthIdentity(Box<AuthIdentityRecord>),
    /// An organization's use of an identity.
    OrganizationIdentity(OrganizationIdentity),
    /// An API key.
    ApiKey(ApiKeyRecord),
    /// A webhook endpoint.
    WebhookEndpoint(WebhookEndpointRecord),
    /// An entry of the journal of transfers.
    Transfer(Transfer),
    /// A grant that is to be revoked, or was.
    Revocation(Box<RevocationRecord>),
    /// An event.
    Event(Box<Event>),
}

impl Record {
    /// What it is of.
    #[must_use]
    pub const fn kind(&self) -> RecordKind {
        match self {
            Self::IdentityProvider(_) => RecordKind::IdentityProvider,
            Self::Identity(_) => RecordKind::Identity,
            Self::AuthProvider(_) => RecordKind::AuthProvider,
            Self::AuthIdentity(_) => RecordKind::AuthIdentity,
            Self::OrganizationIdentity(_) => RecordKind::OrganizationIdentity,
            Self::ApiKey(_) => RecordKind::ApiKey,
            Self::WebhookEndpoint(_) => RecordKind::WebhookEndpoint,
            Self::Transfer(_) => RecordKind::Transfer,
            Self::Revocation(_) => RecordKind::Revocation,
            Self::Event(_) => RecordKind::Event,
        }
    }

    /// The row's id.
    #[must_use]
    pub fn id(&self) -> i64 {
        match self {
            Self::IdentityProvider(it) => it.provider.id.0,
            Self::Identity(it) => it.identity.id.0,
            Self::AuthProvider(it) => it.id.0,
            Self::AuthIdentity(it) => it.auth_identity.id.0,
            Self::OrganizationIdentity(it) => it.id.0,
            Self::ApiKey(it) => it.key.id.0,
            Self::WebhookEndpoint(it) => it.endpoint.id.0,
            Self::Transfer(it) => it.id.0,
            Self::Revocation(it) => it.queued.id.0,
            Self::Event(it) => it.id.0,
        }
    }

    /// Whether a text in it holds U+0000, which is JSON and which PostgreSQL does not keep.
    #[must_use]
    pub fn holds_nul(&self) -> bool {
        fn text(it: impl AsRef<str>) -> bool {
            it.as_ref().contains('\0')
        }
        fn actor(it: &Actor) -> bool {
            it.reason.as_ref().is_some_and(text) || text(it.who.to_string())
        }
        match self {
            Self::IdentityProvider(it) => {
                text(&it.provider.provider_type)
                    || it.provider.external_id.as_ref().is_some_and(text)
                    || object_holds_nul(&it.provider.config)
                    || it.secrets.keys().any(text)
            }
            Self::Identity(it) => {
                object_holds_nul(&it.identity.data)
                    || it.identity.scopes.iter().any(text)
                    || it.back_off.as_ref().is_some_and(|it| text(&it.detail))
            }
            Self::AuthProvider(it) => object_holds_nul(&it.config),
            Self::AuthIdentity(it) => object_holds_nul(&it.auth_identity.data),
            // An address keeps no such character as it is.
            Self::OrganizationIdentity(_) | Self::WebhookEndpoint(_) => false,
            Self::Transfer(it) => actor(&it.actor),
            Self::Revocation(it) => {
                actor(&it.queued.actor) || it.queued.last_error.as_ref().is_some_and(text)
            }
            Self::ApiKey(it) => {
                text(&it.key.name)
                    || it.key.limits.provider_types.iter().flatten().any(text)
                    || it.key.limits.token_scopes.iter().flatten().any(text)
            }
            Self::Event(it) => {
                actor(&it.actor)
                    || [it.before.as_ref(), it.after.as_ref(), Some(&it.detail)]
                        .into_iter()
                        .flatten()
                        .any(object_holds_nul)
            }
        }
    }
}

fn object_holds_nul(object: &Map<String, Value>) -> bool {
    object.iter().any(|(key, value)| key.contains('\0') || value_holds_nul(value))
}

fn value_holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(value_holds_nul),
        Value::Object(object) => object_holds_nul(object),
        _ => false,
    }
}

/// An identity provider and its secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderRecord {
    /// The row. Its `secret_names` are those of `secrets` once it is imported.
    pub provider: IdentityProvider,
    /// Empty in an archive without secrets.
    pub secrets: ProviderSecrets,
}

/// An identity, its credentials, and how far their refreshing got.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityRecord {
    /// The row. Its `expires_at` is that of the credentials once it is imported.
    pub identity: Identity,
    /// `None` when it has none, and in an archive without secrets.
    pub credentials: Option<Credentials>,
    /// Counts the credentials, their removal included.
    pub generation: i64,
    /// The fencing token of the last lease.
    pub attempt: i64,
    /// How often this generation's refresh token was sent and no answer is known.
    pub unanswered: u32,
    /// The last refresh of this generation failed.
    pub back_off: Option<BackOff>,
    /// Whether its user may have other accounts at the provider besides: it was linked where
    /// several are allowed.
    pub beside_others: bool,
}

impl IdentityRecord {
    /// An identity that comes from elsewhere, of the first generation when it has credentials.
    #[must_use]
    pub fn new(identity: Identity, credentials: Option<Credentials>) -> Self {
        let generation = i64::from(credentials.is_some());
        Self {
            identity,
            credentials,
            generation,
            attempt: 0,
            unanswered: 0,
            back_off: None,
            beside_others: false,
        }
    }
}

/// A user's account for single sign-on, and its credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthIdentityRecord {
    /// The row.
    pub auth_identity: AuthIdentity,
    /// `None` when it has none, and in an archive without secrets.
    pub credentials: Option<Credentials>,
    /// Counts the credentials.
    pub generation: i64,
}

/// An API key, with what recognizes its secret.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeyRecord {
    /// The row.
    pub key: ApiKey,
    /// `None` in an archive without secrets; such a key cannot be imported.
    pub hash: Option<SecretHash>,
}

/// A webhook endpoint, with what its deliveries are signed with.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookEndpointRecord {
    /// The row.
    pub endpoint: WebhookEndpoint,
    /// `None` in an archive without secrets; such an endpoint cannot be imported.
    pub secrets: Option<WebhookSecrets>,
    /// Counts the secrets.
    pub generation: i64,
    /// Up to which event everything arrived or was given up; what comes after it is delivered
    /// where it is imported, also what had arrived out of its order.
    pub position: EventId,
}

/// A grant that is to be revoked, or was, with the grant while it waits.
#[derive(Clone, Debug, PartialEq)]
pub struct RevocationRecord {
    /// The row.
    pub queued: QueuedRevocation,
    /// `None` when the revocation has ended, and in an archive without secrets; one that waits
    /// cannot be imported without it.
    pub grant: Option<OrphanedGrant>,
    /// Counts the values of the grant.
    pub generation: i64,
}

impl RevocationRecord {
    /// Whether it is still to be tried, and what is to be revoked is not known.
    #[must_use]
    pub fn lacks_grant(&self) -> bool {
        self.queued.status == RevocationStatus::Waiting && self.grant.is_none()
    }
}

/// What became of one record of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// A new row with this id: its own where that was free.
    Created(i64),
    /// What it says is there already, in the row of this id, which stays as it is.
    Unchanged(i64),
    /// It cannot be taken; nothing was changed.
    Refused(Refusal),
}

/// Why a record of an import cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The external account belongs to another user.
    #[error("the account is linked to another user (identity {0})")]
    AccountTaken(IdentityId),
    /// The user has another account at this provider instance.
    #[error("the user has linked another account of this provider (identity {0})")]
    UserTaken(IdentityId),
    /// It refers to a provider instance that is not there.
    #[error("there is no identity provider {0}")]
    NoProvider(ProviderId),
    /// The organization signs in with another provider instance.
    #[error("the organization signs in with another provider (auth provider {0})")]
    OrganizationTaken(AuthProviderId),
    /// The account signs another user in.
    #[error("the account is another user's in this organization (auth identity {0})")]
    SsoAccountTaken(AuthIdentityId),
    /// The user signs in with another account.
    #[error("the user has another account in this organization (auth identity {0})")]
    SsoUserTaken(AuthIdentityId),
    /// It refers to a single sign-on that is not there.
    #[error("there is no auth provider {0}")]
    NoAuthProvider(AuthProviderId),
    /// It refers to an identity that is not there.
    #[error("there is no identity {0}")]
    NoIdentity(IdentityId),
    /// An event keeps its id, as the order of ids is that of what happened.
    #[error("the id is taken by another event")]
    EventIdTaken,
    /// The archive has no hash of the key's secret, so nothing would open it.
    #[error("without the hash of its secret the key would open nothing; export with secrets")]
    NoHash,
    /// The archive has no secrets of the endpoint, so no receiver would believe a delivery.
    #[error("without its secrets no delivery could be signed; export with secrets")]
    NoSecrets,
    /// The archive does not have the grant that is to be revoked.
    #[error("the grant that is to be revoked is not in the file; export with secrets")]
    NoGrant,
    /// The grant's provider instance is gone, and another has its id.
    #[error("the grant's provider is gone, and its id is another's here (identity provider {0})")]
    ProviderIdTaken(ProviderId),
    /// JSON text with U+0000, which PostgreSQL does not keep.
    #[error("a text holds the character U+0000")]
    NulCharacter,
}

impl Refusal {
    /// A word for programs, stable.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AccountTaken(_) | Self::SsoAccountTaken(_) => "account_taken",
            Self::UserTaken(_) | Self::SsoUserTaken(_) => "user_taken",
            Self::NoProvider(_) => "no_provider",
            Self::OrganizationTaken(_) => "organization_taken",
            Self::NoAuthProvider(_) => "no_auth_provider",
            Self::NoIdentity(_) => "no_identity",
            Self::EventIdTaken => "event_id_taken",
            Self::NoHash => "no_hash",
            Self::NoSecrets => "no_secrets",
            Self::NoGrant => "no_grant",
            Self::ProviderIdTaken(_) => "provider_id_taken",
            Self::NulCharacter => "nul_character",
        }
    }
}
