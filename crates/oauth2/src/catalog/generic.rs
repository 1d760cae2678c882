//! The type `oauth2`: any OAuth 2.0 provider, by its addresses.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use symbolon_domain::{
    identity_provider::{ProviderSecrets, ProviderType, Registration, Rotation},
    ports::{Connector, InvalidConfig},
};
use url::Url;

use super::{entry::Entry, kind::CatalogKind};
use crate::{
    config::{
        CLIENT_SECRETS, DPOP, Fields, MOST_SECONDS, client_id_schema, client_secret_schema,
        dpop_schema, invalid, next_client_secret_schema, scopes_schema,
    },
    engine::Engine,
    registry::ProviderKind,
};

/// What is passed on to the entry that is made of the rest.
const PASSED_ON: [&str; 3] = ["client_id", "scopes", "refresh_token_idle_seconds"];

const KNOWN: [&str; 16] = [
    "client_id",
    "scopes",
    "refresh_token_idle_seconds",
    "authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "profile_endpoint",
    "account_id",
    "account_name",
    "account_email",
    "account_email_verified",
    "token_endpoint_auth_method",
    "scope_separator",
    "pkce",
    "refresh",
    DPOP,
];

/// The type `oauth2`: an entry that the operator writes as the configuration of an instance.
pub(crate) struct Generic;

impl ProviderKind for Generic {
    fn provider_type(&self) -> ProviderType {
        ProviderType {
            name: "oauth2".into(),
            title: "OAuth 2.0".into(),
            description: "Any OAuth 2.0 provider, by its addresses and by where its profile says \
                          whose account it is. What it cannot say, a file of the catalog can."
                .into(),
            documentation: "https://www.rfc-editor.org/rfc/rfc6749".into(),
            registration: Registration::default(),
            notes: vec![
                "Whatever the profile endpoint answers is believed, so it must be the provider's own."
                    .into(),
            ],
            config_schema: schema(),
            secret_names: CLIENT_SECRETS.map(str::to_owned).to_vec(),
            registered_keys: Vec::new(),
            asked_keys: Vec::new(),
            authority_keys: vec!["profile_endpoint".into(), "account_id".into()],
            capabilities: symbolon_domain::identity_provider::Capabilities {
                browser: true,
                device: false,
                refresh: true,
                revoke: true,
                sign_in: true,
                rotation: Rotation::MayRotate,
            },
        }
    }

    fn connect(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        let fields = Fields::new(config, secrets, &KNOWN, &CLIENT_SECRETS)?;
        let entry = entry(engine, &fields)?;
        let mut rest = config.clone();
        rest.retain(|name, _| PASSED_ON.contains(&name.as_str()));
        if entry.refresh.is_none() {
            rest.remove("refresh_token_idle_seconds");
        }
        let kind = CatalogKind { name: "oauth2".into(), entry: Arc::new(entry) };
        kind.connect(engine, &rest, secrets)
    }
}

/// The entry that this configuration amounts to.
fn entry(engine: &Engine, fields: &Fields<'_>) -> Result<Entry, InvalidConfig> {
    let address = |name: &str| -> Result<Option<&str>, InvalidConfig> {
        let Some(text) = fields.optional(name)? else { return Ok(None) };
        let url = Url::parse(text).map_err(|_| invalid(name, "must be an https address"))?;
        // Braces would make a template of it.
        if url.fragment().is_some() || text.contains(['{', '}']) {
            return Err(invalid(name, "must have no fragment and no braces"));
        }
        engine.http().check(&url).map_err(|error| invalid(name, error.to_string()))?;
        Ok(Some(text))
    };
    let required =
        |name: &str| address(name)?.ok_or_else(|| invalid(name, "is missing")).map(str::to_owned);
    let pointer = |name: &str| -> Result<Option<String>, InvalidConfig> {
        let Some(text) = fields.optional(name)? else { return Ok(None) };
        if !text.starts_with('/') {
            return Err(invalid(name, "must be a JSON pointer into the profile, for example /id"));
        }
        Ok(Some(format!("/profile{text}")))
    };
    let id = pointer("account_id")?.ok_or_else(|| invalid("account_id", "is missing"))?;
    let method = match fields.optional("token_endpoint_auth_method")? {
        None => "either",
        Some("client_secret_basic") => "basic",
        Some("client_secret_post") => "post",
        Some("none") => "none",
        Some(_) => {
            return Err(invalid(
                "token_endpoint_auth_method",
                "must be client_secret_basic, client_secret_post or none",
            ));
        }
    };
    let pkce = match fields.optional("pkce")? {
        None | Some("s256") => "s256",
        Some("unsupported") => "unsupported",
        Some(_) => return Err(invalid("pkce", "must be s256 or unsupported")),
    };
    let secret = match (method, pkce) {
        ("none", "unsupported") => {
            return Err(invalid("pkce", "must be s256 where the client has no secret"));
        }
        ("none", _) => "none",
        (_, "unsupported") => "required",
        _ => "optional",
    };
    let mut account = Map::from_iter([("id".to_owned(), json!(id))]);
    for (name, key) in [
        ("account_name", "name"),
        ("account_email", "email"),
        ("account_email_verified", "email_verified"),
    ] {
        if let Some(pointer) = pointer(name)? {
            account.insert(key.into(), pointer.into());
        }
    }
    let mut parts = json!({
        "title": "OAuth 2.0",
        "description": "By its configuration.",
        "documentation": ["https://www.rfc-editor.org/rfc/rfc6749"],
        "checked": "2026-11-25",
        "evidence": "pages",
        "authorization": {
            "url": required("authorization_endpoint")?,
            "pkce": pkce,
            "scope_separator": fields.optional("scope_separator")?.unwrap_or(" "),
        },
        "token": {
            "url": required("token_endpoint")?,
            "authentication": method,
            "client_secret": secret,
            "dpop": if fields.is_on(DPOP, false)? { "required" } else { "none" },
        },
        "profile": [{ "url": required("profile_endpoint")? }],
        "account": account,
    });
    if let Some(object) = parts.as_object_mut() {
        if fields.is_on("refresh", true)? {
            object.insert("refresh".into(), json!({}));
        }
        if let Some(url) = address("revocation_endpoint")? {
            object.insert("revoke".into(), json!({ "url": url, "hint": true }));
        }
    }
    let entry: Entry =
        serde_json::from_value(parts).map_err(|error| invalid("type", error.to_string()))?;
    Ok(entry)
}

fn schema() -> Value {
    let address = |description: &str| json!({"type": "string", "format": "uri", "maxLength": 2048, "description": description});
    let pointer = |description: &str| json!({"type": "string", "pattern": "^/", "maxLength": 300, "description": description});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": false,
        "required": [
            "authorization_endpoint", "token_endpoint", "profile_endpoint", "account_id", "client_id"
        ],
        "properties": {
            "authorization_endpoint": address("Where the browser is sent."),
            "token_endpoint": address("Where codes and refresh tokens are traded."),
            "revocation_endpoint": address("Where tokens are revoked (RFC 7009), if anywhere."),
            "profile_endpoint": address(
                "What is read with the access token to learn whose it is: a JSON answer to GET. It \
                 stays as it is while the provider has identities."
            ),
            "account_id": pointer(
                "Where in the profile the account's id is that is never given to another: a JSON \
                 pointer, for example /id. It stays as it is while the provider has identities."
            ),
            "account_name": pointer("Where a name to show is."),
            "account_email": pointer("Where the address is."),
            "account_email_verified": pointer("Where true says that the address was verified."),
            "client_id": client_id_schema(),
            "client_secret": client_secret_schema(),
            "client_secret_next": next_client_secret_schema(),
            "scopes": scopes_schema("What to ask for. Without it: nothing is said."),
            "scope_separator": {
                "type": "string", "minLength": 1, "maxLength": 3, "default": " ",
                "description": "What parts the scopes."
            },
            "token_endpoint_auth_method": {
                "type": "string", "enum": ["client_secret_basic", "client_secret_post", "none"],
                "description": "How the client authenticates. Without it: client_secret_basic, or \
                                none without a secret."
            },
            "pkce": {
                "type": "string", "enum": ["s256", "unsupported"], "default": "s256",
                "description": "unsupported only where the provider refuses PKCE."
            },
            "refresh": {
                "type": "boolean", "default": true,
                "description": "Whether the provider sends refresh tokens."
            },
            DPOP: dpop_schema(),
            "refresh_token_idle_seconds": {
                "type": "integer", "minimum": 60, "maximum": MOST_SECONDS,
                "description": "How long a refresh token works that is not used, if that ends."
            },
        },
    })
}
