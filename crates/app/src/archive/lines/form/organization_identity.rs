//! That an organization uses an identity.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    ids::{IdentityId, OrganizationId, OrganizationIdentityId},
    organization_identity::OrganizationIdentity,
};

use super::opaque;
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct OrganizationIdentityLine {
    pub(super) id: i64,
    organization_id: String,
    identity_id: i64,
    date_added: DateTime<Utc>,
}

impl From<&OrganizationIdentity> for OrganizationIdentityLine {
    fn from(it: &OrganizationIdentity) -> Self {
        Self {
            id: it.id.0,
            organization_id: it.organization_id.as_str().to_owned(),
            identity_id: it.identity_id.0,
            date_added: it.date_added,
        }
    }
}

impl TryFrom<OrganizationIdentityLine> for OrganizationIdentity {
    type Error = Reason;

    fn try_from(it: OrganizationIdentityLine) -> Result<Self, Reason> {
        Ok(Self {
            id: OrganizationIdentityId(it.id),
            organization_id: opaque("organization_id", it.organization_id, OrganizationId::new)?,
            identity_id: IdentityId(it.identity_id),
            date_added: it.date_added,
        })
    }
}
