//! Who may call the service, and for what.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::{
    identity::text_form,
    ids::{ApiKeyId, InvalidId, OrganizationId, ProviderId, UserId},
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
    /// What the event log tells of a key.
    #[must_use]
    pub fn facts(&self) -> Map<String, Value> {
        let scopes: Vec<_> = self.scopes.iter().map(|it| it.as_str()).collect();
        Map::from_iter([
            ("name".to_owned(), json!(self.name)),
            ("scopes".to_owned(), json!(scopes)),
            ("organizations".to_owned(), json!(self.limits.organization_texts())),
            ("provider_types".to_owned(), json!(self.limits.provider_types)),
            ("providers".to_owned(), json!(self.limits.provider_numbers())),
            ("token_scopes".to_owned(), json!(self.limits.token_scopes)),
            ("users".to_owned(), json!(self.limits.user_texts())),
            ("revoked_at".to_owned(), json!(self.revoked_at)),
        ])
    }

    /// Whether the key may do this. `admin` may do everything.
    #[must_use]
    pub fn allows(&self, scope: KeyScope) -> bool {
        self.scopes.iter().any(|it| *it == scope || *it == KeyScope::Admin)
    }
}

/// What a key is limited to, whatever its scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// The organizations whose single sign-on it may see and change, and of whose identities it is
    /// handed tokens; `None` for all.
    pub organizations: Option<Vec<OrganizationId>>,
    /// The types whose provider instances, and their identities, are there for it; `None` for
    /// all.
    pub provider_types: Option<Vec<String>>,
    /// The provider instances that are there for it; `None` for all.
    pub providers: Option<Vec<ProviderId>>,
    /// The most that a token may open which is handed to it, and that it may ask users for; `None`
    /// for everything. It is handed no token whose scopes are not on record.
    pub token_scopes: Option<Vec<String>>,
    /// The users whose identities are there for it; `None` for all.
    pub users: Option<Vec<UserPattern>>,
}

/// One user, or all whose id begins alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPattern(String);

impl UserPattern {
    /// Reads `user-7`, which is that user, or `tenant-1:*`, which is every user whose id begins
    /// with `tenant-1:`.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] for what no user's id can be or begin with.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        // A prefix has at least one character: `*` alone would be no limit.
        UserId::new(text.strip_suffix('*').unwrap_or(&text))?;
        Ok(Self(text))
    }

    /// The pattern as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this user is meant.
    #[must_use]
    pub fn matches(&self, user: &UserId) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => user.as_str().starts_with(prefix),
            None => user.as_str() == self.0,
        }
    }
}

impl KeyLimits {
    /// No limits.
    pub const NONE: Self = Self {
        organizations: None,
        provider_types: None,
        providers: None,
        token_scopes: None,
        users: None,
    };

    /// Whether it is limited to some provider instances, token scopes or users: then it is for
    /// handing out tokens and for linking, and for nothing that does not ask about these limits.
    #[must_use]
    pub const fn are_narrow(&self) -> bool {
        self.providers.is_some() || self.token_scopes.is_some() || self.users.is_some()
    }

    /// Whether this instance, of this type, is there for it.
    #[must_use]
    pub fn allow_provider(&self, id: ProviderId, provider_type: &str) -> bool {
        self.allow_type(provider_type) && self.providers.as_ref().is_none_or(|it| it.contains(&id))
    }

    /// Whether this user's identities are there for it.
    #[must_use]
    pub fn allow_user(&self, user: &UserId) -> bool {
        self.users.as_ref().is_none_or(|all| all.iter().any(|it| it.matches(user)))
    }

    /// Those of the scopes that go beyond what a token for it may open.
    #[must_use]
    pub fn excess<'a>(&self, scopes: &'a [String]) -> Vec<&'a str> {
        let Some(most) = &self.token_scopes else { return Vec::new() };
        scopes.iter().filter(|it| !most.contains(it)).map(String::as_str).collect()
    }

    /// The users as they are stored and sent.
    #[must_use]
    pub fn user_texts(&self) -> Option<Vec<&str>> {
        Some(self.users.as_ref()?.iter().map(UserPattern::as_str).collect())
    }

    /// The provider instances as they are stored and sent.
    #[must_use]
    pub fn provider_numbers(&self) -> Option<Vec<i64>> {
        Some(self.providers.as_ref()?.iter().map(|it| it.0).collect())
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixtures::user;

    #[test]
    fn a_pattern_means_one_user_or_all_that_begin_alike() {
        let one = UserPattern::new("user-7").unwrap();
        assert!(one.matches(&user("user-7")));
        assert!(!one.matches(&user("user-70")) && !one.matches(&user("USER-7")));
        let tenant = UserPattern::new("tenant-1:*").unwrap();
        assert!(tenant.matches(&user("tenant-1:ada")) && tenant.matches(&user("tenant-1:")));
        assert!(!tenant.matches(&user("tenant-10:ada")) && !tenant.matches(&user("tenant-1")));
        // Within a prefix a star is a star.
        assert!(!UserPattern::new("a*b*").unwrap().matches(&user("axb")));
        for nobody in ["", "*", "a\nb"] {
            assert!(UserPattern::new(nobody).is_err(), "{nobody:?}");
        }
    }

    #[test]
    fn what_goes_beyond_the_scopes_of_a_key_is_named() {
        let limits =
            KeyLimits { token_scopes: Some(vec!["read".into(), "user".into()]), ..KeyLimits::NONE };
        assert_eq!(limits.excess(&["user".into()]), [""; 0]);
        assert_eq!(limits.excess(&["read".into(), "write".into()]), ["write"]);
        assert_eq!(KeyLimits::NONE.excess(&["write".into()]), [""; 0]);
    }
}
