//! The type `oidc`: any OpenID provider, by its issuer.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use symbolon_domain::{
    identity_provider::{Capabilities, ProviderSecrets, ProviderType, Registration, Rotation},
    ports::{Connector, InvalidConfig},
};

use crate::{
    client::{Client, ClientAuthentication},
    config::{
        CLIENT_SECRETS, Fields, MOST_SECONDS, client_id_schema, client_secret_schema, invalid,
        next_client_secret_schema, scopes_schema,
    },
    connector::OpenIdConnector,
    engine::Engine,
    error_rules::ErrorRules,
    metadata::Issuer,
    registry::ProviderKind,
    signing_alg::SigningAlg,
};

const CAPABILITIES: Capabilities = Capabilities {
    browser: true,
    device: false,
    refresh: true,
    revoke: true,
    sign_in: true,
    rotation: Rotation::MayRotate,
};

/// The type `oidc`.
pub(crate) struct Oidc;

impl ProviderKind for Oidc {
    fn provider_type(&self) -> ProviderType {
        ProviderType {
            name: "oidc".into(),
            title: "OpenID Connect".into(),
            description: "Any OpenID provider, by its issuer. Register a web application with the \
                          authorization code flow there, and the redirect URI that the created \
                          provider shows."
                .into(),
            documentation: "https://openid.net/specs/openid-connect-core-1_0.html".into(),
            registration: Registration::default(),
            notes: Vec::new(),
            config_schema: schema(),
            secret_names: CLIENT_SECRETS.map(str::to_owned).to_vec(),
            // A `sub` is unique at its issuer alone (OpenID Connect Core 1.0 §2).
            authority_keys: vec!["issuer".into()],
            registered_keys: Vec::new(),
            capabilities: CAPABILITIES,
        }
    }

    fn connect(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        Ok(Arc::new(OpenIdConnector::new(engine.clone(), client(engine, config, secrets)?)))
    }
}

fn client(
    engine: &Engine,
    config: &Map<String, Value>,
    secrets: &ProviderSecrets,
) -> Result<Client, InvalidConfig> {
    let known = [
        "issuer",
        "client_id",
        "scopes",
        "token_endpoint_auth_method",
        "id_token_signing_algs",
        "refresh_token_idle_seconds",
    ];
    let fields = Fields::new(config, secrets, &known, &CLIENT_SECRETS)?;
    let issuer = Issuer::new(fields.required("issuer")?, engine.http())
        .map_err(|error| invalid("issuer", error.to_string()))?;
    let client_id = fields.client_id()?.to_owned();
    let signing_algs = match fields.list("id_token_signing_algs")? {
        None => SigningAlg::DEFAULT.to_vec(),
        Some(names) => names
            .into_iter()
            .map(|name| {
                let known = SigningAlg::ALL.map(SigningAlg::name).join(", ");
                SigningAlg::parse(name).ok_or_else(|| {
                    invalid("id_token_signing_algs", format!("must hold only {known}"))
                })
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Client {
        token_issuers: vec![issuer.as_str().to_owned()],
        error_rules: ErrorRules::of_issuer(&issuer),
        issuer,
        client_id,
        authentication: authentication(&fields)?,
        next_secret: fields.next_client_secret()?,
        scopes: fields.scopes()?,
        offline_access: true,
        signing_algs,
        authorization_parameters: Vec::new(),
        refresh_token_idle: fields.seconds("refresh_token_idle_seconds")?,
        capabilities: CAPABILITIES,
    })
}

/// How the client authenticates, from `token_endpoint_auth_method` and `client_secret`.
pub(crate) fn authentication(fields: &Fields<'_>) -> Result<ClientAuthentication, InvalidConfig> {
    let method = fields.optional("token_endpoint_auth_method")?;
    let missing = || invalid("client_secret", "is missing; the authentication method needs it");
    Ok(match (method, fields.client_secret()?) {
        (None | Some("none"), None) => ClientAuthentication::None,
        (None, Some(secret)) => ClientAuthentication::Either(secret),
        (Some("client_secret_basic"), secret) => {
            ClientAuthentication::Basic(secret.ok_or_else(missing)?)
        }
        (Some("client_secret_post"), secret) => {
            ClientAuthentication::Post(secret.ok_or_else(missing)?)
        }
        (Some("none"), Some(_)) => {
            return Err(invalid(
                "token_endpoint_auth_method",
                "is none, yet there is a client_secret; remove one of them",
            ));
        }
        (Some(_), _) => {
            return Err(invalid(
                "token_endpoint_auth_method",
                "must be client_secret_basic, client_secret_post or none",
            ));
        }
    })
}

fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": false,
        "required": ["issuer", "client_id"],
        "properties": {
            "issuer": {
                "type": "string", "format": "uri", "maxLength": 2048,
                "description": "The issuer, exactly as the provider's discovery document names it. \
                                It stays as it is while the provider has identities."
            },
            "client_id": client_id_schema(),
            "client_secret": client_secret_schema(),
            "client_secret_next": next_client_secret_schema(),
            "scopes": scopes_schema(
                "What to ask for; openid is always asked for. Without it: openid, profile, email, \
                 and offline_access where the provider lists it, so that it sends a refresh token."
            ),
            "token_endpoint_auth_method": {
                "type": "string",
                "enum": ["client_secret_basic", "client_secret_post", "none"],
                "description": "How the client authenticates. Without it: none without a secret, \
                                otherwise what the provider lists, client_secret_basic preferred."
            },
            "id_token_signing_algs": {
                "type": "array", "minItems": 1,
                "items": {"type": "string", "enum": SigningAlg::ALL.map(SigningAlg::name)},
                "default": SigningAlg::DEFAULT.map(SigningAlg::name),
                "description": "How ID tokens may be signed."
            },
            "refresh_token_idle_seconds": {
                "type": "integer", "minimum": 60, "maximum": MOST_SECONDS,
                "description": "How long a refresh token works that is not used, where the \
                                provider's token answers do not say so: it is used in time then."
            }
        }
    })
}
