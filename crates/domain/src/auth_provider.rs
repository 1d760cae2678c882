//! How an organization signs in.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::{
    event::{Actor, EventKind, NewEvent, changes},
    ids::{AuthProviderId, OrganizationId, ProviderId},
};

/// The single sign-on of an organization: the provider instance that its members sign in with.
///
/// An organization has at most one.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthProvider {
    /// This setting's own name.
    pub id: AuthProviderId,
    /// Whose single sign-on it is.
    pub organization_id: OrganizationId,
    /// The instance that is signed in with.
    pub provider_id: ProviderId,
    /// The product's own values; never a secret.
    pub config: Map<String, Value>,
    /// Members who have linked no account may come in all the same.
    pub allow_unlinked: bool,
    /// The organization's directory manages its members
    /// ([RFC 7644](https://www.rfc-editor.org/rfc/rfc7644)).
    pub scim_enabled: bool,
    /// The role of a member who comes in for the first time, in the product's numbers.
    pub default_role: Option<i32>,
    /// Whether such a member gets into all of the organization.
    pub default_global_access: bool,
    /// How often members are synchronized, in the product's unit.
    pub sync_time: Option<i32>,
    /// When they were synchronized last, UTC.
    pub last_sync: Option<DateTime<Utc>>,
    /// When the organization got it, UTC.
    pub date_added: DateTime<Utc>,
    /// Counts the changes of this row; starts at 1.
    pub version: i64,
}

impl AuthProvider {
    /// What the event log tells of it: everything but its id and the time it was added.
    #[must_use]
    pub fn facts(&self) -> Map<String, Value> {
        let facts = json!({
            "provider_id": self.provider_id.0,
            "config": self.config,
            "allow_unlinked": self.allow_unlinked,
            "scim_enabled": self.scim_enabled,
            "default_role": self.default_role,
            "default_global_access": self.default_global_access,
            "sync_time": self.sync_time,
            "last_sync": self.last_sync,
            "version": self.version,
        });
        match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        }
    }
}

impl NewEvent {
    /// An event about an organization's single sign-on. `before` is as it was, `after` as it is:
    /// only what differs is told.
    ///
    /// # Panics
    ///
    /// When both are absent: then there is nothing to tell.
    #[must_use]
    pub fn of_auth_provider(
        about: EventKind,
        actor: &Actor,
        before: Option<&AuthProvider>,
        after: Option<&AuthProvider>,
    ) -> Self {
        let it = after.or(before).expect("an event about a single sign-on names it");
        let facts = AuthProvider::facts;
        let (before, after) = changes(before.map(facts), after.map(facts));
        Self {
            provider_id: Some(it.provider_id),
            organization_id: Some(it.organization_id.clone()),
            before,
            after,
            detail: Map::from_iter([("auth_provider_id".to_owned(), json!(it.id.0))]),
            ..Self::new(about, actor)
        }
    }
}
