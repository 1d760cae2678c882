//! An identity, with what it holds.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    archive::IdentityRecord,
    credentials::Credentials,
    identity::{Identity, IdentityStatus, Invalid, InvalidReason},
    ids::{ExternalId, IdentityId, ProviderId, UserId},
    ports::{BackOff, FailureClass},
};

use super::{credentials::CredentialsLine, one_of, opaque};
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct IdentityLine {
    pub(super) id: i64,
    idp_id: i64,
    user_id: String,
    external_id: String,
    data: Map<String, Value>,
    status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invalid: Option<InvalidLine>,
    scopes: Vec<String>,
    date_verified: DateTime<Utc>,
    date_added: DateTime<Utc>,
    /// For readers; the credentials' own counts.
    pub(super) expires_at: Option<DateTime<Utc>>,
    version: i64,
    generation: i64,
    attempt: i64,
    unanswered: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back_off: Option<BackOffLine>,
    /// Whether the user may have other accounts at the provider besides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    beside_others: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) credentials: Option<CredentialsLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InvalidLine {
    reason: String,
    at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackOffLine {
    until: DateTime<Utc>,
    class: String,
    failures: u32,
    detail: String,
}

impl From<&IdentityRecord> for IdentityLine {
    fn from(record: &IdentityRecord) -> Self {
        let it = &record.identity;
        Self {
            id: it.id.0,
            idp_id: it.idp_id.0,
            user_id: it.user_id.as_str().to_owned(),
            external_id: it.external_id.as_str().to_owned(),
            data: it.data.clone(),
            status: it.status.as_str().to_owned(),
            invalid: it
                .invalid
                .as_ref()
                .map(|it| InvalidLine { reason: it.reason.as_str().to_owned(), at: it.at }),
            scopes: it.scopes.clone(),
            date_verified: it.date_verified,
            date_added: it.date_added,
            expires_at: it.expires_at,
            version: it.version,
            generation: record.generation,
            attempt: record.attempt,
            unanswered: record.unanswered,
            back_off: record.back_off.as_ref().map(|it| BackOffLine {
                until: it.until,
                class: it.class.as_str().to_owned(),
                failures: it.failures,
                detail: it.detail.clone(),
            }),
            beside_others: record.beside_others,
            credentials: record.credentials.as_ref().map(CredentialsLine::from),
        }
    }
}

impl TryFrom<IdentityLine> for IdentityRecord {
    type Error = Reason;

    fn try_from(it: IdentityLine) -> Result<Self, Reason> {
        let invalid = it.invalid.map(|it| {
            let reason = one_of("invalid.reason", &it.reason, InvalidReason::parse)?;
            Ok::<_, Reason>(Invalid { reason, at: it.at })
        });
        let back_off = it.back_off.map(|it| {
            let class = one_of("back_off.class", &it.class, FailureClass::parse)?;
            let BackOffLine { until, failures, detail, .. } = it;
            Ok::<_, Reason>(BackOff { until, class, failures, detail })
        });
        let identity = Identity {
            id: IdentityId(it.id),
            idp_id: ProviderId(it.idp_id),
            user_id: opaque("user_id", it.user_id, UserId::new)?,
            external_id: opaque("external_id", it.external_id, ExternalId::new)?,
            data: it.data,
            status: one_of("status", &it.status, IdentityStatus::parse)?,
            invalid: invalid.transpose()?,
            scopes: it.scopes,
            date_verified: it.date_verified,
            date_added: it.date_added,
            expires_at: None,
            version: it.version,
        };
        Ok(Self {
            identity,
            credentials: it.credentials.map(Credentials::from),
            generation: it.generation,
            attempt: it.attempt,
            unanswered: it.unanswered,
            back_off: back_off.transpose()?,
            beside_others: it.beside_others,
        })
    }
}
