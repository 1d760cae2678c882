//! The verified link of a user to an account at a provider.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::ids::{ExternalId, IdentityId, OrganizationId, ProviderId, UserId};

/// A user's account at an identity provider.
///
/// Within one provider instance an account belongs to at most one user, and a user has at most
/// one account, unless the instance allows [several](crate::identity_provider::ProviderOptions).
/// Holds no credential: those are read through
/// [`CredentialsRepository`](crate::ports::CredentialsRepository).
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// This link's own name; it stays when the link is rebound.
    pub id: IdentityId,
    /// The provider instance where the account lives.
    pub idp_id: ProviderId,
    /// Whose account it is.
    pub user_id: UserId,
    /// Which account there.
    pub external_id: ExternalId,
    /// The profile and the caller's own values, in the clear; never a credential.
    pub data: Map<String, Value>,
    /// Whether the link can be used.
    pub status: IdentityStatus,
    /// Why it can't, when it can't.
    pub invalid: Option<Invalid>,
    /// What the provider granted.
    pub scopes: Vec<String>,
    /// When the user last proved to hold the account, UTC, to the microsecond.
    pub date_verified: DateTime<Utc>,
    /// When it was linked first, UTC, to the microsecond.
    pub date_added: DateTime<Utc>,
    /// When the access token stops working; `None` when unknown or when there is none.
    pub expires_at: Option<DateTime<Utc>>,
    /// Counts the changes of this row, refreshes included; starts at 1. The `ETag`.
    pub version: i64,
}

impl Identity {
    /// What the event log tells of an identity: everything but its id and its times of proof.
    #[must_use]
    pub fn facts(&self) -> Map<String, Value> {
        let facts = json!({
            "idp_id": self.idp_id.0,
            "user_id": self.user_id.as_str(),
            "external_id": self.external_id.as_str(),
            "data": self.data,
            "status": self.status.as_str(),
            "scopes": self.scopes,
            "expires_at": self.expires_at,
            "version": self.version,
        });
        match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        }
    }
}

/// Whether a link can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityStatus {
    /// Nobody has looked yet; from an import.
    Unknown,
    /// Linked, and nothing is known against it.
    Valid,
    /// The user must link again.
    Invalid,
}

/// Since when and why an identity is [`IdentityStatus::Invalid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What happened.
    pub reason: InvalidReason,
    /// When, UTC.
    pub at: DateTime<Utc>,
}

/// Why a user must link again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidReason {
    /// The provider refused the refresh token (`invalid_grant`,
    /// [RFC 6749 §5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
    GrantRejected,
    /// The access token has expired, or the provider refused it before its time, and there is no
    /// refresh token.
    NoRefreshToken,
    /// A refresh token was sent, no answer came, and the one careful retry did not settle it.
    RotationInDoubt,
    /// The system that it was imported from said so.
    Imported,
}

macro_rules! text_form {
    ($type:ty: $($variant:ident = $text:literal),* $(,)?) => {
        impl $type {
            /// Every value there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The value as it is stored and sent.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// Reads [`as_str`](Self::as_str) back; `None` for anything else.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}
pub(crate) use text_form;

text_form!(IdentityStatus: Unknown = "unknown", Valid = "valid", Invalid = "invalid");
text_form!(InvalidReason:
    GrantRejected = "grant_rejected",
    NoRefreshToken = "no_refresh_token",
    RotationInDoubt = "rotation_in_doubt",
    Imported = "imported",
);

/// Which identities are meant: all conditions together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityFilter {
    /// This identity.
    pub id: Option<IdentityId>,
    /// Identities of this user.
    pub user_id: Option<UserId>,
    /// Identities of this account name, at any provider.
    pub external_id: Option<ExternalId>,
    /// Identities of any of these account names; none when the list is empty.
    pub external_ids: Option<Vec<ExternalId>>,
    /// Identities at this provider instance.
    pub provider_id: Option<ProviderId>,
    /// Identities at provider instances of this external id.
    pub provider_external_id: Option<String>,
    /// Identities at provider instances without an external id.
    pub provider_has_no_external_id: bool,
    /// Identities at provider instances of this type.
    pub provider_type: Option<String>,
    /// Identities at provider instances of any of these types: what the caller is limited to.
    pub provider_types: Option<Vec<String>>,
    /// Identities at any of these provider instances: what the caller is limited to.
    pub providers: Option<Vec<ProviderId>>,
    /// Identities that this organization uses.
    pub organization_id: Option<OrganizationId>,
    /// Identities in this state.
    pub status: Option<IdentityStatus>,
    /// Leaves out identities whose account name is their provider instance's external id (a
    /// team that was stored where a user belongs).
    pub exclude_matching_external_ids: bool,
}

impl IdentityFilter {
    /// Whether nothing narrows the result, so that every identity would be meant.
    ///
    /// `exclude_matching_external_ids`, `provider_types` and `providers` alone do not narrow it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self
            == Self {
                exclude_matching_external_ids: self.exclude_matching_external_ids,
                provider_types: self.provider_types.clone(),
                providers: self.providers.clone(),
                ..Self::default()
            }
    }
}
