//! Rows of Sentry's tables as records of ours.

use chrono::DateTime;
use serde_json::{Map, Value};
use symbolon_domain::{
    archive::{IdentityRecord, ProviderRecord},
    credentials::Credentials,
    identity::{Identity, IdentityStatus, Invalid, InvalidReason},
    identity_provider::{IdentityProvider, ProviderOptions},
    ids::{ExternalId, IdentityId, ProviderId},
};

use super::{
    Parts,
    fields::{Fields, Json},
};
use crate::archive::{
    id_map::IdMap,
    report::{Note, Reason},
    secrets::{secret, take_secrets},
};

/// `sentry.identityprovider`.
pub(super) fn provider(
    pk: i64,
    mut fields: Fields,
    parts: &Parts<'_>,
) -> Result<ProviderRecord, Reason> {
    let provider_type = fields.text("type", 64)?;
    let external_id = fields.maybe_text("external_id", 255)?;
    let Json::Object(mut config) = fields.json("config")? else {
        return Err(Reason::malformed("config: is encrypted"));
    };
    let mut secrets = take_secrets(&mut config);
    let kind = parts.connectors.find_type(&provider_type);
    for name in kind.into_iter().flat_map(|it| it.secret_names) {
        if let Some(value) = config.remove(&name).as_ref().and_then(secret) {
            secrets.insert(name, value);
        }
    }
    let provider = IdentityProvider {
        id: ProviderId(pk),
        provider_type,
        external_id,
        config,
        secret_names: secrets.keys().cloned().collect(),
        options: ProviderOptions::default(),
        names_issuer: false,
        date_added: fields.maybe_time("date_added")?.unwrap_or(parts.now),
        version: 1,
    };
    Ok(ProviderRecord { provider, secrets })
}

/// `sentry.identity`.
pub(super) fn identity(
    pk: i64,
    mut fields: Fields,
    providers: &IdMap,
) -> Result<(IdentityRecord, Vec<Note>), Reason> {
    let mut notes = Vec::new();
    let idp = fields.reference(&["idp", "idp_id"])?;
    let idp_id = providers.get(idp).map(ProviderId).ok_or_else(|| Reason {
        code: "no_provider",
        text: format!("idp: the file has no identity provider {idp} that was taken"),
    })?;
    let user_id = fields.user()?;
    let external_id = fields.opaque(&["external_id"], ExternalId::new)?;
    let scopes = fields.texts("scopes")?;
    let date_verified = fields.time("date_verified")?;
    let date_added = fields.time("date_added")?;
    let mut status = match fields.maybe_integer("status")? {
        None | Some(0) => IdentityStatus::Unknown,
        Some(1) => IdentityStatus::Valid,
        Some(2) => IdentityStatus::Invalid,
        Some(_) => return Err(Reason::malformed("status: must be 0, 1 or 2")),
    };
    let (data, credentials) = match fields.json("data")? {
        Json::Object(mut data) => {
            let credentials = credentials(&mut data, &scopes, &mut notes);
            (data, credentials)
        }
        Json::Encrypted => {
            notes.push(Note::Encrypted);
            status = IdentityStatus::Unknown;
            (Map::new(), None)
        }
    };
    let invalid = (status == IdentityStatus::Invalid)
        .then_some(Invalid { reason: InvalidReason::Imported, at: date_verified });
    let identity = Identity {
        id: IdentityId(pk),
        idp_id,
        user_id,
        external_id,
        data,
        status,
        invalid,
        scopes,
        date_verified,
        date_added,
        expires_at: None,
        version: 1,
    };
    Ok((IdentityRecord::new(identity, credentials), notes))
}

/// Takes the credentials out of `data`, and every other secret with them.
fn credentials(
    data: &mut Map<String, Value>,
    scopes: &[String],
    notes: &mut Vec<Note>,
) -> Option<Credentials> {
    let mut others = take_secrets(data);
    let mut token = |name: &str| others.remove(name);
    let (access_token, refresh_token) = (token("access_token"), token("refresh_token"));
    let id_token = token("id_token");
    let token_type = match data.remove("token_type") {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    let expires = data.remove("expires").filter(|it| !it.is_null());
    let expires_at = expires.as_ref().and_then(unix_time);
    if expires.is_some() && expires_at.is_none() {
        notes.push(Note::UnknownExpiry);
    }
    let tokens = [&access_token, &refresh_token, &id_token];
    if tokens.iter().all(|it| it.is_none()) && others.is_empty() {
        return None;
    }
    Some(Credentials {
        access_token,
        refresh_token,
        id_token,
        token_type,
        expires_at,
        obtained_at: None,
        scopes: scopes.to_vec(),
        others,
    })
}

/// Seconds since 1970, as a number or its text.
fn unix_time(value: &Value) -> Option<DateTime<chrono::Utc>> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    // To the year 9999, which both databases keep.
    if !(0.0..=253_402_300_799.0).contains(&seconds) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is in range")]
    let seconds = seconds as i64;
    DateTime::from_timestamp(seconds, 0)
}
