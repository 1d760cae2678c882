//! A grant that is to be ended, or was.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    archive::{ProviderRecord, RevocationRecord},
    ids::{AuthIdentityId, DeviceLinkId, ExternalId, IdentityId, ProviderId, RevocationId, UserId},
    revocation::{GrantOwner, OrphanedGrant, QueuedRevocation, RevocationStatus},
};

use super::{
    acting_user, actor, credentials::CredentialsLine, identity_provider::ProviderLine, one_of,
    opaque,
};
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct RevocationLine {
    pub(super) id: i64,
    /// What had the grant: an identity, an account for single sign-on, or a device link that was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_identity_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_link_id: Option<i64>,
    provider_id: i64,
    user_id: String,
    external_id: String,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    status: String,
    attempts: u32,
    queued_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
    last_error: Option<String>,
    generation: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grant: Option<GrantLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantLine {
    credentials: CredentialsLine,
    /// The provider instance as it was, where it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<ProviderLine>,
}

impl From<&RevocationRecord> for RevocationLine {
    fn from(record: &RevocationRecord) -> Self {
        let it = &record.queued;
        let grant = record.grant.as_ref().map(|grant| GrantLine {
            credentials: (&grant.credentials).into(),
            provider: grant.provider.clone().map(|(provider, secrets)| {
                let of_then = ProviderRecord { provider, secrets };
                (&of_then).into()
            }),
        });
        Self {
            id: it.id.0,
            identity_id: it.owner.identity().map(|it| it.0),
            auth_identity_id: it.owner.auth_identity().map(|it| it.0),
            device_link_id: it.owner.device_link().map(|it| it.0),
            provider_id: it.provider_id.0,
            user_id: it.user_id.as_str().to_owned(),
            external_id: it.external_id.as_str().to_owned(),
            actor: it.actor.who.to_string(),
            acting_user: acting_user(&it.actor),
            reason: it.actor.reason.clone(),
            status: it.status.as_str().to_owned(),
            attempts: it.attempts,
            queued_at: it.queued_at,
            due_at: it.due_at,
            last_error: it.last_error.clone(),
            generation: record.generation,
            grant,
        }
    }
}

impl TryFrom<RevocationLine> for RevocationRecord {
    type Error = Reason;

    fn try_from(it: RevocationLine) -> Result<Self, Reason> {
        let owner = match (it.identity_id, it.auth_identity_id, it.device_link_id) {
            (Some(id), None, None) => GrantOwner::Identity(IdentityId(id)),
            (None, Some(id), None) => GrantOwner::AuthIdentity(AuthIdentityId(id)),
            (None, None, Some(id)) => GrantOwner::DeviceLink(DeviceLinkId(id)),
            _ => {
                return Err(Reason::malformed(
                    "identity_id: that, auth_identity_id or device_link_id must be there alone",
                ));
            }
        };
        let queued = QueuedRevocation {
            id: RevocationId(it.id),
            owner,
            provider_id: ProviderId(it.provider_id),
            user_id: opaque("user_id", it.user_id, UserId::new)?,
            external_id: opaque("external_id", it.external_id, ExternalId::new)?,
            actor: actor(&it.actor, it.acting_user, it.reason)?,
            status: one_of("status", &it.status, RevocationStatus::parse)?,
            attempts: it.attempts,
            queued_at: it.queued_at,
            due_at: it.due_at,
            last_error: it.last_error,
        };
        let grant = it.grant.map(|it| OrphanedGrant {
            credentials: it.credentials.into(),
            provider: it.provider.map(|it| {
                let ProviderRecord { provider, secrets } = it.into();
                (provider, secrets)
            }),
        });
        Ok(Self { queued, grant, generation: it.generation })
    }
}
