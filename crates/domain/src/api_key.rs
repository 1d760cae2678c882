//! Who may call the service, and for what.

use chrono::{DateTime, Utc};

use crate::{
    identity::text_form,
    ids::{ApiKeyId, OrganizationId},
};

/// A key of a calling service. Its secret is known only to the caller; we keep the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// This key's own name.
    pub id: ApiKeyId,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<KeyScope>,
    /// What it is limited to.
    pub limits: KeyLimits,
    /// When it was created, UTC.
    pub created_at: DateTime<Utc>,
    /// From then on it is refused; `None` while it is good.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    /// Whether the key may do this. `admin` may do everything.
    #[must_use]
    pub fn allows(&self, scope: KeyScope) -> bool {
        self.scopes.iter().any(|it| *it == scope || *it == KeyScope::Admin)
    }
}

/// What a key is limited to, whatever its scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// The organizations whose single sign-on it may see and change; `None` for all.
    pub organizations: Option<Vec<OrganizationId>>,
    /// The types whose provider instances, and their identities, are there for it; `None` for
    /// all.
    pub provider_types: Option<Vec<String>>,
}

impl KeyLimits {
    /// Whether it may deal with this organization.
    #[must_use]
    pub fn allow_organization(&self, organization: &OrganizationId) -> bool {
        self.organizations.as_ref().is_none_or(|it| it.contains(organization))
    }

    /// Whether instances of this type are there for it.
    #[must_use]
    pub fn allow_type(&self, provider_type: &str) -> bool {
        self.provider_types.as_ref().is_none_or(|it| it.iter().any(|it| it == provider_type))
    }

    /// The organizations as they are stored and sent.
    #[must_use]
    pub fn organization_texts(&self) -> Option<Vec<&str>> {
        Some(self.organizations.as_ref()?.iter().map(OrganizationId::as_str).collect())
    }
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyScope {
    /// List and read identities.
    IdentitiesRead,
    /// Link, change and unlink identities.
    IdentitiesWrite,
    /// Get and refresh access tokens.
    TokensRead,
    /// Start and complete link sessions.
    LinkWrite,
    /// List and read providers and provider types.
    ProvidersRead,
    /// Create, change and delete providers.
    ProvidersWrite,
    /// Read single sign-on settings and identities.
    SsoRead,
    /// Change single sign-on settings and identities.
    SsoWrite,
    /// Read the event log.
    EventsRead,
    /// Everything.
    Admin,
}

text_form!(KeyScope:
    IdentitiesRead = "identities:read",
    IdentitiesWrite = "identities:write",
    TokensRead = "tokens:read",
    LinkWrite = "link:write",
    ProvidersRead = "providers:read",
    ProvidersWrite = "providers:write",
    SsoRead = "sso:read",
    SsoWrite = "sso:write",
    EventsRead = "events:read",
    Admin = "admin",
);
