//! A link that a user confirms on another device
//! ([RFC 8628](https://www.rfc-editor.org/rfc/rfc8628)).

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{
    event::Actor,
    identity::text_form,
    ids::{DeviceLinkId, IdentityId, OrganizationId, ProviderId, UserId},
    link_session::LinkFailure,
    secret::Secret,
};

/// A link under way with no browser on this side: the user types a code at the provider, on
/// whatever device, and meanwhile the provider is asked again and again what became of it.
///
/// Its life: `pending` → `linked`, `failed` or `expired`, and these are its ends.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceLink {
    /// This link's own name.
    pub id: DeviceLinkId,
    /// Whom to link.
    pub user_id: UserId,
    /// Where.
    pub provider_id: ProviderId,
    /// On whose behalf: what is linked is used by this organization from then on.
    pub organization_id: Option<OrganizationId>,
    /// Scopes that were asked for, instead of the provider's configured ones; empty for those.
    pub scopes: Vec<String>,
    /// How far it got.
    pub status: DeviceLinkStatus,
    /// The identity that came of it.
    pub identity_id: Option<IdentityId>,
    /// Why it failed.
    pub error: Option<LinkFailure>,
    /// Who asked for it.
    pub created_by: Actor,
    /// When it was created, UTC.
    pub created_at: DateTime<Utc>,
    /// From then on the provider is not asked any more.
    pub expires_at: DateTime<Utc>,
}

/// How far a device link got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceLinkStatus {
    /// The user has not decided yet.
    Pending,
    /// The account is linked.
    Linked,
    /// Nothing came of it; the link's `error` says why.
    Failed,
    /// Its time ran out.
    Expired,
}

text_form!(DeviceLinkStatus:
    Pending = "pending",
    Linked = "linked",
    Failed = "failed",
    Expired = "expired",
);

/// A device link to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDeviceLink {
    /// Whom to link.
    pub user_id: UserId,
    /// Where.
    pub provider_id: ProviderId,
    /// On whose behalf.
    pub organization_id: Option<OrganizationId>,
    /// Scopes that were asked for; empty for the configured ones.
    pub scopes: Vec<String>,
    /// Who asks for it.
    pub created_by: Actor,
    /// What the provider is asked with; sealed by the store.
    pub device_code: Secret,
    /// How long the provider waits for the user, from now.
    pub expires_in: Duration,
    /// How long to wait before the provider is asked, each time; kept in whole seconds.
    pub interval: Duration,
}

/// The right to tell what came of one poll: nobody else has it, and it ends with the next claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLinkClaim {
    /// The device link.
    pub id: DeviceLinkId,
    /// Which poll of it this is, from one on.
    pub poll: i64,
}

/// A device link whose provider is to be asked now.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedDeviceLink {
    /// The link.
    pub link: DeviceLink,
    /// The right to tell what came of it.
    pub claim: DeviceLinkClaim,
    /// What to ask with; `None` when it does not open.
    pub device_code: Option<Secret>,
    /// How long to wait between two polls.
    pub interval: Duration,
}

/// How a device link ends that links nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceLinkEnd {
    /// For this reason.
    Failed(LinkFailure),
    /// The provider says that its time ran out.
    Expired,
}
