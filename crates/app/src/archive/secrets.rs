//! Which of somebody else's values must not lie in the open.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use symbolon_domain::secret::Secret;

/// In a name, without anything but its letters: a secret.
const SECRET: &[&str] = &[
    "secret",
    "password",
    "passwd",
    "passphrase",
    "privatekey",
    "apikey",
    "accesskey",
    "signingkey",
    "encryptionkey",
    "credential",
    "authorization",
    "cookie",
    "assertion",
    "jwt",
];
/// What such a name ends in, or one with `token` in it, when it is about a secret and not one.
const ABOUT: &[&str] = &[
    "url",
    "uri",
    "endpoint",
    "type",
    "method",
    "methods",
    "expires",
    "expiry",
    "expiresin",
    "expiresat",
    "scope",
    "scopes",
    "lifetime",
];
/// How well-known tokens begin.
const TOKEN: &[&str] = &[
    "eyJ",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "gloas-",
    "xoxa-",
    "xoxb-",
    "xoxp-",
    "xoxe.",
    "xoxe-",
    "xapp-",
    "ya29.",
    "1//",
    "sntrys_",
    "sntryu_",
    "-----BEGIN",
];

/// Takes out every value that is a secret, or holds one somewhere below, as text; JSON where it is
/// no text already. When in doubt it is one: a sealed value is only harder to get at.
pub(super) fn take_secrets(object: &mut Map<String, Value>) -> BTreeMap<String, Secret> {
    let names: Vec<String> = object
        .iter()
        .filter(|(name, value)| is_secret(name, value))
        .map(|(name, _)| name.clone())
        .collect();
    names
        .into_iter()
        .filter_map(|name| Some((secret(&object.remove(&name)?)?, name)))
        .map(|(secret, name)| (name, secret))
        .collect()
}

/// A value as a secret; `None` for what says nothing.
pub(super) fn secret(value: &Value) -> Option<Secret> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(Secret::new(text.as_str())),
        other => Some(Secret::new(other.to_string())),
    }
}

fn is_secret(name: &str, value: &Value) -> bool {
    match value {
        // Says nothing that anybody could use.
        Value::Null | Value::Bool(_) => false,
        _ => names_a_secret(name) || holds_a_secret(value),
    }
}

fn holds_a_secret(value: &Value) -> bool {
    match value {
        Value::String(text) => TOKEN.iter().any(|it| text.starts_with(it)),
        Value::Array(values) => values.iter().any(holds_a_secret),
        Value::Object(object) => object.iter().any(|(name, value)| is_secret(name, value)),
        _ => false,
    }
}

fn names_a_secret(name: &str) -> bool {
    let letters: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|it| it.to_ascii_lowercase())
        .collect();
    !ABOUT.iter().any(|it| letters.ends_with(it))
        && (letters.contains("token") || SECRET.iter().any(|it| letters.contains(it)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_known_by_their_name_or_their_look() {
        let Value::Object(mut object) = json!({
            "client_id": "id", "client_secret": "s1", "site": "https://example.com",
            "access_token_url": "https://example.com/token", "authorization_endpoint": "https://a", "token_type": "bearer",
            "token_endpoint_auth_method": "client_secret_basic", "webhookToken": "s2",
            "nested": {"deep": [{"API-Key": "s3"}]}, "list": ["a", "xoxb-s4"], "password": null,
            "empty_secret": "", "has_secret": true, "pin_secret": 12, "key": "eyJhbGciOi.s5",
            "installation": {"id": 4},
        }) else {
            panic!()
        };
        let secrets = take_secrets(&mut object);
        let names: Vec<_> = secrets.keys().map(String::as_str).collect();
        assert_eq!(names, ["client_secret", "key", "list", "nested", "pin_secret", "webhookToken"]);
        assert_eq!(secrets["nested"].expose(), r#"{"deep":[{"API-Key":"s3"}]}"#);
        let left: Vec<_> = object.keys().map(String::as_str).collect();
        assert_eq!(
            left,
            [
                "access_token_url",
                "authorization_endpoint",
                "client_id",
                "has_secret",
                "installation",
                "password",
                "site",
                "token_endpoint_auth_method",
                "token_type"
            ]
        );
    }
}
