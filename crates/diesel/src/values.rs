//! How the domain's values lie in columns.

use serde_json::{Map, Value};
use symbolon_domain::{
    event::{Actor, Who},
    ids::{ExternalId, OrganizationId, UserId},
    secret::SecretHash,
};

use crate::failure::Failure;

pub(crate) fn object(value: Value) -> Result<Map<String, Value>, Failure> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(Failure::unreadable("a JSON column holds no object")),
    }
}

pub(crate) fn texts(value: Value) -> Result<Vec<String>, Failure> {
    serde_json::from_value(value)
        .map_err(|_| Failure::unreadable("a JSON column holds no list of texts"))
}

pub(crate) fn user(text: String) -> Result<UserId, Failure> {
    UserId::new(text).map_err(|error| Failure::unreadable(error.to_string()))
}

pub(crate) fn organization(text: String) -> Result<OrganizationId, Failure> {
    OrganizationId::new(text).map_err(|error| Failure::unreadable(error.to_string()))
}

pub(crate) fn external_id(text: String) -> Result<ExternalId, Failure> {
    ExternalId::new(text).map_err(|error| Failure::unreadable(error.to_string()))
}

/// Who did something, from its three columns.
pub(crate) fn actor(
    who: &str,
    acting_user: Option<String>,
    reason: Option<String>,
) -> Result<Actor, Failure> {
    let acting_user = acting_user.map(user).transpose()?;
    Ok(Actor { who: parsed(who, Who::parse)?, acting_user, reason })
}

pub(crate) fn hash(bytes: &[u8]) -> Result<SecretHash, Failure> {
    bytes.try_into().map(SecretHash).map_err(|_| Failure::unreadable("a hash is not 32 bytes long"))
}

/// A value that was written from a closed set, or by a later version.
pub(crate) fn parsed<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Failure> {
    parse(text).ok_or_else(|| Failure::unreadable(format!("{text:?} is not known")))
}
