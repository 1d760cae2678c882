//! Everything that a store keeps, as records that can leave one store and enter another.

use std::fmt;

use serde_json::{Map, Value};

use crate::{
    api_key::ApiKey,
    credentials::Credentials,
    event::Event,
    identity::{Identity, text_form},
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::{ApiKeyId, EventId, IdentityId, ProviderId},
    ports::BackOff,
    secret::SecretHash,
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
    /// An API key.
    ApiKey,
    /// An event.
    Event,
}

text_form!(RecordKind:
    IdentityProvider = "identity_provider",
    Identity = "identity",
    ApiKey = "api_key",
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
/// refresh.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// An identity provider and its secrets.
    IdentityProvider(ProviderRecord),
    /// An identity and its credentials.
    Identity(Box<IdentityRecord>),
    /// An API key.
    ApiKey(ApiKeyRecord),
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
            Self::ApiKey(_) => RecordKind::ApiKey,
            Self::Event(_) => RecordKind::Event,
        }
    }

    /// The row's id.
    #[must_use]
    pub fn id(&self) -> i64 {
        match self {
            Self::IdentityProvider(it) => it.provider.id.0,
            Self::Identity(it) => it.identity.id.0,
            Self::ApiKey(it) => it.key.id.0,
            Self::Event(it) => it.id.0,
        }
    }

    /// Gives it another id; references to it are the caller's to change.
    pub fn set_id(&mut self, id: i64) {
        match self {
            Self::IdentityProvider(it) => it.provider.id = ProviderId(id),
            Self::Identity(it) => it.identity.id = IdentityId(id),
            Self::ApiKey(it) => it.key.id = ApiKeyId(id),
            Self::Event(it) => it.id = EventId(id),
        }
    }

    /// Whether a text in it holds U+0000, which is JSON and which PostgreSQL does not keep.
    #[must_use]
    pub fn holds_nul(&self) -> bool {
        fn text(it: impl AsRef<str>) -> bool {
            it.as_ref().contains('\0')
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
            Self::ApiKey(it) => text(&it.key.name),
            Self::Event(it) => {
                it.actor.reason.as_ref().is_some_and(text)
                    || text(it.actor.who.to_string())
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
}

impl IdentityRecord {
    /// An identity that comes from elsewhere, of the first generation when it has credentials.
    #[must_use]
    pub fn new(identity: Identity, credentials: Option<Credentials>) -> Self {
        let generation = i64::from(credentials.is_some());
        Self { identity, credentials, generation, attempt: 0, unanswered: 0, back_off: None }
    }
}

/// An API key, with what recognizes its secret.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKeyRecord {
    /// The row.
    pub key: ApiKey,
    /// `None` in an archive without secrets; such a key cannot be imported.
    pub hash: Option<SecretHash>,
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
    /// An event keeps its id, as the order of ids is that of what happened.
    #[error("the id is taken by another event")]
    EventIdTaken,
    /// The archive has no hash of the key's secret, so nothing would open it.
    #[error("without the hash of its secret the key would open nothing; export with secrets")]
    NoHash,
    /// JSON text with U+0000, which PostgreSQL does not keep.
    #[error("a text holds the character U+0000")]
    NulCharacter,
}

impl Refusal {
    /// A word for programs, stable.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AccountTaken(_) => "account_taken",
            Self::UserTaken(_) => "user_taken",
            Self::NoProvider(_) => "no_provider",
            Self::EventIdTaken => "event_id_taken",
            Self::NoHash => "no_hash",
            Self::NulCharacter => "nul_character",
        }
    }
}
