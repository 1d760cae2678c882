//! Which accounts an organization uses.

use chrono::{DateTime, Utc};

use crate::{
    event::{Actor, EventKind, NewEvent},
    identity::Identity,
    ids::{IdentityId, OrganizationId, OrganizationIdentityId},
};

/// That an organization uses one of a user's identities, so that a user can have different
/// accounts in different organizations.
///
/// An organization uses an identity at most once. Goes when the identity goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrganizationIdentity {
    /// This use's own name.
    pub id: OrganizationIdentityId,
    /// Who uses it.
    pub organization_id: OrganizationId,
    /// What is used.
    pub identity_id: IdentityId,
    /// Since when, UTC.
    pub date_added: DateTime<Utc>,
}

impl NewEvent {
    /// An event about an organization's use of this identity.
    #[must_use]
    pub fn of_organization_identity(
        about: EventKind,
        actor: &Actor,
        of: &OrganizationIdentity,
        identity: &Identity,
    ) -> Self {
        Self {
            identity_id: Some(identity.id),
            provider_id: Some(identity.idp_id),
            user_id: Some(identity.user_id.clone()),
            organization_id: Some(of.organization_id.clone()),
            ..Self::new(about, actor)
        }
    }
}
