//! An event.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    event::{Event, EventKind},
    ids::{EventId, IdentityId, OrganizationId, ProviderId, UserId},
};

use super::{acting_user, actor, one_of, opaque};
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct EventLine {
    pub(super) id: i64,
    at: DateTime<Utc>,
    event: String,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    identity_id: Option<i64>,
    provider_id: Option<i64>,
    user_id: Option<String>,
    organization_id: Option<String>,
    before: Option<Map<String, Value>>,
    after: Option<Map<String, Value>>,
    detail: Map<String, Value>,
}

impl From<&Event> for EventLine {
    fn from(it: &Event) -> Self {
        Self {
            id: it.id.0,
            at: it.at,
            event: it.about.as_str().to_owned(),
            actor: it.actor.who.to_string(),
            acting_user: acting_user(&it.actor),
            reason: it.actor.reason.clone(),
            identity_id: it.identity_id.map(|it| it.0),
            provider_id: it.provider_id.map(|it| it.0),
            user_id: it.user_id.as_ref().map(|it| it.as_str().to_owned()),
            organization_id: it.organization_id.as_ref().map(|it| it.as_str().to_owned()),
            before: it.before.clone(),
            after: it.after.clone(),
            detail: it.detail.clone(),
        }
    }
}

impl TryFrom<EventLine> for Event {
    type Error = Reason;

    fn try_from(it: EventLine) -> Result<Self, Reason> {
        let organization_id = it
            .organization_id
            .map(|text| opaque("organization_id", text, OrganizationId::new))
            .transpose()?;
        Ok(Self {
            id: EventId(it.id),
            at: it.at,
            about: one_of("event", &it.event, EventKind::parse)?,
            actor: actor(&it.actor, it.acting_user, it.reason)?,
            identity_id: it.identity_id.map(IdentityId),
            provider_id: it.provider_id.map(ProviderId),
            user_id: it.user_id.map(|it| opaque("user_id", it, UserId::new)).transpose()?,
            organization_id,
            before: it.before,
            after: it.after,
            detail: it.detail,
        })
    }
}
