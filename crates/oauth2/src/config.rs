//! Reading the configuration of a provider instance.

use std::time::Duration;

use serde_json::{Map, Value, json};
use symbolon_domain::{identity_provider::ProviderSecrets, ports::InvalidConfig, secret::Secret};

use crate::client_key::ClientKey;

/// The configuration of one instance, its keys known to be ones that its type has. `null` counts
/// as absent.
pub struct Fields<'a> {
    config: &'a Map<String, Value>,
    secrets: &'a ProviderSecrets,
}

/// Longest `client_id`, in bytes.
pub(crate) const CLIENT_ID_LENGTH: usize = 512;

/// Ten years.
pub const MOST_SECONDS: u64 = 315_360_000;

/// An [`InvalidConfig`].
pub fn invalid(field: &str, problem: impl Into<String>) -> InvalidConfig {
    InvalidConfig { field: field.to_owned(), problem: problem.into() }
}

impl<'a> Fields<'a> {
    /// Takes a configuration whose keys are all among `known`, and secrets whose names are all
    /// among `secret_names`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names the first key that is not, in the order of the text.
    pub fn new(
        config: &'a Map<String, Value>,
        secrets: &'a ProviderSecrets,
        known: &[&str],
        secret_names: &[&str],
    ) -> Result<Self, InvalidConfig> {
        for name in config.keys() {
            if secret_names.contains(&name.as_str()) {
                return Err(invalid(name, "is a secret and must be kept with the secrets"));
            }
            if !known.contains(&name.as_str()) {
                let expected = known.join(", ");
                return Err(invalid(name, format!("is not known; expected {expected}")));
            }
        }
        if let Some(name) = secrets.keys().find(|it| !secret_names.contains(&it.as_str())) {
            return Err(invalid(name, "is not a secret of this provider type"));
        }
        Ok(Self { config, secrets })
    }

    /// A text that may be absent.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is there and no text, or empty.
    pub fn optional(&self, name: &str) -> Result<Option<&'a str>, InvalidConfig> {
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(invalid(name, "must be a text that is not empty")),
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is absent, no text, or empty.
    pub fn required(&self, name: &str) -> Result<&'a str, InvalidConfig> {
        self.optional(name)?.ok_or_else(|| invalid(name, "is missing"))
    }

    /// A list of texts that may be absent.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is there and no list of texts, or empty.
    pub fn list(&self, name: &str) -> Result<Option<Vec<&'a str>>, InvalidConfig> {
        let problem = || invalid(name, "must be a list of texts that is not empty");
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) if !items.is_empty() => items
                .iter()
                .map(|it| it.as_str().filter(|it| !it.is_empty()).ok_or_else(problem))
                .collect::<Result<Vec<_>, _>>()
                .map(Some),
            Some(_) => Err(problem()),
        }
    }

    /// A length of time in whole seconds that may be absent: a minute to ten years.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is there and anything else.
    pub fn seconds(&self, name: &str) -> Result<Option<Duration>, InvalidConfig> {
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .filter(|it| (60..=MOST_SECONDS).contains(it))
                .map(|it| Some(Duration::from_secs(it)))
                .ok_or_else(|| invalid(name, "must be 60 to 315360000 whole seconds")),
        }
    }

    /// The `client_id`: 1 to 512 visible ASCII characters.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is absent or of another form.
    pub fn client_id(&self) -> Result<&'a str, InvalidConfig> {
        let client_id = self.required("client_id")?;
        if client_id.len() > CLIENT_ID_LENGTH || !is_visible(client_id) {
            return Err(invalid("client_id", "must be 1 to 512 visible ASCII characters"));
        }
        Ok(client_id)
    }

    /// The `client_secret`, which may be absent: 1 to 4096 visible ASCII characters.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is there and of another form; the secret is not quoted.
    pub fn client_secret(&self) -> Result<Option<Secret>, InvalidConfig> {
        self.secret("client_secret")
    }

    /// The `client_secret_next`, of the same form: alive at the same time as `client_secret`,
    /// whose place it is to take. The same text twice is one secret.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is of another form, or there is no `client_secret`.
    pub fn next_client_secret(&self) -> Result<Option<Secret>, InvalidConfig> {
        let Some(next) = self.secret("client_secret_next")? else { return Ok(None) };
        match self.client_secret()? {
            None => Err(invalid(
                "client_secret_next",
                "is there without a client_secret; give the one secret as client_secret",
            )),
            Some(current) => Ok((next != current).then_some(next)),
        }
    }

    /// A secret of that form, which may be absent.
    pub(crate) fn secret(&self, name: &str) -> Result<Option<Secret>, InvalidConfig> {
        let Some(secret) = self.secrets.get(name) else { return Ok(None) };
        if !(1..=4096).contains(&secret.expose().len()) || !is_visible(secret.expose()) {
            return Err(invalid(name, "must be 1 to 4096 visible ASCII characters"));
        }
        Ok(Some(secret.clone()))
    }

    /// A switch that may be absent.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is there and neither true nor false.
    pub fn is_on(&self, name: &str, unless_said: bool) -> Result<bool, InvalidConfig> {
        match self.config.get(name) {
            None | Some(Value::Null) => Ok(unless_said),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err(invalid(name, "must be true or false")),
        }
    }

    /// A private key of the client that may be absent.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is there and cannot be used; it is not quoted.
    pub fn client_key(&self, name: &str) -> Result<Option<ClientKey>, InvalidConfig> {
        let Some(pem) = self.secrets.get(name) else { return Ok(None) };
        ClientKey::parse(pem).map(Some).map_err(|error| invalid(name, error.to_string()))
    }

    /// The `scopes`, which may be absent
    /// ([RFC 6749 §3.3](https://www.rfc-editor.org/rfc/rfc6749#section-3.3)).
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] when it is there and no list of scopes.
    pub fn scopes(&self) -> Result<Option<Vec<String>>, InvalidConfig> {
        let Some(scopes) = self.list("scopes")? else { return Ok(None) };
        let fits = |it: &u8| matches!(it, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if !scopes.iter().all(|it| it.as_bytes().iter().all(fits)) {
            return Err(invalid("scopes", "must hold one scope in each item, without spaces"));
        }
        Ok(Some(scopes.into_iter().map(str::to_owned).collect()))
    }
}

pub(crate) fn is_visible(text: &str) -> bool {
    text.bytes().all(|it| (b' '..=b'~').contains(&it))
}

/// The JSON Schema of `client_id`.
#[must_use]
pub fn client_id_schema() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": 512,
        "description": "The client id that the provider gave at registration."
    })
}

/// The JSON Schema of `client_secret`.
#[must_use]
pub fn client_secret_schema() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": 4096, "writeOnly": true,
        "description": "The client secret that the provider gave at registration."
    })
}

/// The JSON Schema of `client_secret_next`.
#[must_use]
pub fn next_client_secret_schema() -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": 4096, "writeOnly": true,
        "description": "A second client secret, while one takes the place of the other: the one \
                        that worked last is sent, and the other where the provider answers \
                        invalid_client."
    })
}

/// The JSON Schema of a private key.
pub(crate) fn client_key_schema(description: &str) -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": 16384, "writeOnly": true,
        "description": description
    })
}

/// The names of the secrets of a type that has a client secret.
pub const CLIENT_SECRETS: [&str; 2] = ["client_secret", "client_secret_next"];

/// The key that says whether grants are bound to keys.
pub(crate) const DPOP: &str = "dpop";

/// The JSON Schema of `dpop`.
pub(crate) fn dpop_schema() -> Value {
    json!({
        "type": "boolean", "default": false,
        "description": "Whether each grant is bound to a key that never leaves this service (DPoP, \
                        RFC 9449), and what the provider does not bind is refused. Where there is a \
                        discovery document, it must name ES256. Services need a proof for each \
                        request with such a token: see docs/dpop.md."
    })
}

/// The JSON Schema of `scopes`.
#[must_use]
pub fn scopes_schema(description: &str) -> Value {
    json!({
        "type": "array", "minItems": 1,
        "items": {"type": "string", "pattern": "^[\\x21\\x23-\\x5b\\x5d-\\x7e]+$"},
        "description": description
    })
}
