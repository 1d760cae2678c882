//! With which account a user signs in to an organization.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::{
    auth_provider::AuthProvider,
    event::{Actor, EventKind, NewEvent, changes},
    ids::{AuthIdentityId, AuthProviderId, ExternalId, UserId},
};

/// A user's account for an organization's single sign-on.
///
/// Within one auth provider an account belongs to at most one user, and a user has at most one
/// account. Holds no credential.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthIdentity {
    /// This link's own name.
    pub id: AuthIdentityId,
    /// The single sign-on that it is for, and so the organization.
    pub auth_provider_id: AuthProviderId,
    /// Whom it signs in.
    pub user_id: UserId,
    /// Which account at the provider.
    pub ident: ExternalId,
    /// The profile and the product's own values, in the clear; never a credential.
    pub data: Map<String, Value>,
    /// When the user last proved to hold the account, UTC, to the microsecond.
    pub last_verified: DateTime<Utc>,
    /// When what the organization knows of the user was last brought up to date, UTC.
    pub last_synced: DateTime<Utc>,
    /// When it was linked first, UTC.
    pub date_added: DateTime<Utc>,
    /// Counts the changes of this row; starts at 1.
    pub version: i64,
}

impl AuthIdentity {
    /// What the event log tells of it: everything but its id and its times of proof.
    #[must_use]
    pub fn facts(&self) -> Map<String, Value> {
        let facts = json!({
            "auth_provider_id": self.auth_provider_id.0,
            "user_id": self.user_id.as_str(),
            "ident": self.ident.as_str(),
            "data": self.data,
            "version": self.version,
        });
        match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        }
    }
}

impl NewEvent {
    /// An event about a user's account for the single sign-on `of`. `before` is as it was, `after`
    /// as it is: only what differs is told.
    ///
    /// # Panics
    ///
    /// When both are absent: then there is nothing to tell.
    #[must_use]
    pub fn of_auth_identity(
        about: EventKind,
        actor: &Actor,
        of: &AuthProvider,
        before: Option<&AuthIdentity>,
        after: Option<&AuthIdentity>,
    ) -> Self {
        let it = after.or(before).expect("an event about an account for single sign-on names it");
        let facts = AuthIdentity::facts;
        let (before, after) = changes(before.map(facts), after.map(facts));
        Self {
            provider_id: Some(of.provider_id),
            user_id: Some(it.user_id.clone()),
            organization_id: Some(of.organization_id.clone()),
            before,
            after,
            detail: Map::from_iter([("auth_identity_id".to_owned(), json!(it.id.0))]),
            ..Self::new(about, actor)
        }
    }
}
