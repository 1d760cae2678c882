//! An organization's single sign-on.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    auth_provider::AuthProvider,
    ids::{AuthProviderId, OrganizationId, ProviderId},
};

use super::opaque;
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct AuthProviderLine {
    pub(super) id: i64,
    organization_id: String,
    provider_id: i64,
    config: Map<String, Value>,
    allow_unlinked: bool,
    scim_enabled: bool,
    default_role: Option<i32>,
    default_global_access: bool,
    sync_time: Option<i32>,
    last_sync: Option<DateTime<Utc>>,
    date_added: DateTime<Utc>,
    version: i64,
}

impl From<&AuthProvider> for AuthProviderLine {
    fn from(it: &AuthProvider) -> Self {
        Self {
            id: it.id.0,
            organization_id: it.organization_id.as_str().to_owned(),
            provider_id: it.provider_id.0,
            config: it.config.clone(),
            allow_unlinked: it.allow_unlinked,
            scim_enabled: it.scim_enabled,
            default_role: it.default_role,
            default_global_access: it.default_global_access,
            sync_time: it.sync_time,
            last_sync: it.last_sync,
            date_added: it.date_added,
            version: it.version,
        }
    }
}

impl TryFrom<AuthProviderLine> for AuthProvider {
    type Error = Reason;

    fn try_from(it: AuthProviderLine) -> Result<Self, Reason> {
        Ok(Self {
            id: AuthProviderId(it.id),
            organization_id: opaque("organization_id", it.organization_id, OrganizationId::new)?,
            provider_id: ProviderId(it.provider_id),
            config: it.config,
            allow_unlinked: it.allow_unlinked,
            scim_enabled: it.scim_enabled,
            default_role: it.default_role,
            default_global_access: it.default_global_access,
            sync_time: it.sync_time,
            last_sync: it.last_sync,
            date_added: it.date_added,
            version: it.version,
        })
    }
}
