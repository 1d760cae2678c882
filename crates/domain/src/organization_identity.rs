//! Which accounts an organization uses.

use chrono::{DateTime, Utc};

use crate::ids::{IdentityId, OrganizationId, OrganizationIdentityId};

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
