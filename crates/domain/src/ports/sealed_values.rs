use std::collections::BTreeMap;

use async_trait::async_trait;

use super::RepositoryError;

/// A column whose values are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SealedColumn {
    /// Client secrets of provider instances.
    ProviderSecrets,
    /// Credentials of identities.
    IdentityCredentials,
    /// What proves that a response belongs to a link session.
    SessionProof,
    /// A link that waits for completion.
    SessionPending,
    /// Grants that wait to be ended.
    RevocationGrant,
    /// Secrets of webhook endpoints.
    WebhookSecrets,
    /// Credentials of accounts for single sign-on.
    AuthIdentityCredentials,
    /// What the marks of the ledger are salted with.
    LedgerSalt,
    /// What the provider of a device link is asked with.
    DeviceCode,
}

impl SealedColumn {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::ProviderSecrets,
        Self::IdentityCredentials,
        Self::SessionProof,
        Self::SessionPending,
        Self::RevocationGrant,
        Self::WebhookSecrets,
        Self::AuthIdentityCredentials,
        Self::LedgerSalt,
        Self::DeviceCode,
    ];

    /// The table that it is in.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::ProviderSecrets => "identity_providers",
            Self::IdentityCredentials => "identities",
            Self::SessionProof | Self::SessionPending => "link_sessions",
            Self::RevocationGrant => "revocations",
            Self::WebhookSecrets => "webhook_endpoints",
            Self::AuthIdentityCredentials => "auth_identities",
            Self::LedgerSalt => "ledger_salt",
            Self::DeviceCode => "device_links",
        }
    }

    /// Its name there.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProviderSecrets | Self::WebhookSecrets => "secrets",
            Self::IdentityCredentials | Self::AuthIdentityCredentials => "credentials",
            Self::SessionProof => "proof",
            Self::SessionPending => "pending",
            Self::RevocationGrant | Self::LedgerSalt => "sealed",
            Self::DeviceCode => "device_code",
        }
    }
}

/// Why a value does not open where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusedBecause {
    /// It is not of the form that a sealed value has.
    NeverSealed,
    /// It names a key that is not in the key ring.
    UnknownKey(u32),
    /// It is under this key, and was altered, belongs to another row, or is an older one of this
    /// row.
    OutOfPlace(u32),
}

/// A value that does not open where it lies; the value itself is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefusedValue {
    /// The row's id.
    pub row: i64,
    /// Why it does not open.
    pub because: RefusedBecause,
}

/// What was found on a stretch of a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedPage {
    /// How many values name which key; `None` for those that name none.
    pub keys: BTreeMap<Option<u32>, u64>,
    /// Those that do not open, by row.
    pub refused: Vec<RefusedValue>,
    /// Where to go on; `None` when nothing comes after.
    pub next: Option<i64>,
}

/// What became of a stretch of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResealedPage {
    /// How many values are sealed under the active key now and were not before.
    pub resealed: u64,
    /// How many were passed over, as somebody else was changing their rows.
    pub busy: u64,
    /// Where to go on; `None` when nothing comes after.
    pub next: Option<i64>,
}

/// Everything that is sealed, as a whole: for replacing keys, and for finding what somebody has
/// tampered with.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SealedValues: Send + Sync {
    /// The highest id in the column's table; 0 when it is empty.
    async fn highest(&self, column: SealedColumn) -> Result<i64, RepositoryError>;

    /// Opens up to `limit` values of the rows after `after`, in the order of their ids, each as it
    /// lies in its row, and changes nothing.
    async fn check(
        &self,
        column: SealedColumn,
        after: i64,
        limit: u32,
    ) -> Result<SealedPage, RepositoryError>;

    /// Seals up to `limit` values anew, of the rows after `after`, that are not sealed under the
    /// active key: in one transaction, each only if it is still the value that was read. Nothing
    /// else of a row changes, neither its version nor its generation, so that nobody notices.
    ///
    /// A row that somebody else is changing is passed over, and nobody is waited for; what does
    /// not open stays as it is.
    async fn reseal(
        &self,
        column: SealedColumn,
        after: i64,
        limit: u32,
    ) -> Result<ResealedPage, RepositoryError>;
}
