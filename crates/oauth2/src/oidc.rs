//! The type `oidc`: any OpenID provider, by its issuer.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use symbolon_domain::{
    identity_provider::{Capabilities, ProviderSecrets, ProviderType, Registration, Rotation},
    ports::{Connector, InvalidConfig},
};
use url::Url;

use crate::{
    client::{Client, ClientAuthentication},
    config::{
        DPOP, Fields, MOST_SECONDS, client_id_schema, client_key_schema, client_secret_schema,
        dpop_schema, invalid, next_client_secret_schema, scopes_schema,
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
    device: true,
    refresh: true,
    revoke: true,
    sign_in: true,
    rotation: Rotation::MayRotate,
};

const CLIENT_KEY: &str = "client_private_key";
const NEXT_CLIENT_KEY: &str = "client_private_key_next";
const SECRETS: [&str; 4] = ["client_secret", "client_secret_next", CLIENT_KEY, NEXT_CLIENT_KEY];
const METHODS: [&str; 5] =
    ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "none"];

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
            secret_names: SECRETS.map(str::to_owned).to_vec(),
            // A `sub` is unique at its issuer alone (OpenID Connect Core 1.0 §2).
            authority_keys: vec!["issuer".into()],
            registered_keys: Vec::new(),
            asked_keys: vec![DPOP.into()],
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

    fn binds_at(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Option<Issuer>, InvalidConfig> {
        let client = client(engine, config, secrets)?;
        Ok(client.dpop.then_some(client.issuer))
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
        "resource",
        "response_mode",
        "pushed_authorization_requests",
        DPOP,
    ];
    let fields = Fields::new(config, secrets, &known, &SECRETS)?;
    let issuer = Issuer::new(fields.required("issuer")?, engine.http())
        .map_err(|error| invalid("issuer", error.to_string()))?;
    let client_id = fields.client_id()?.to_owned();
    let authentication = authentication(&fields)?;
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
        authentication,
        next_secret: fields.next_client_secret()?,
        scopes: fields.scopes()?,
        offline_access: true,
        signing_algs,
        resource: resource(&fields)?,
        pushes: fields.is_on("pushed_authorization_requests", false)?,
        dpop: fields.is_on(DPOP, false)?,
        published_keys: fields.client_key(NEXT_CLIENT_KEY)?.into_iter().collect(),
        authorization_parameters: response_mode(&fields)?,
        refresh_token_idle: fields.seconds("refresh_token_idle_seconds")?,
        capabilities: CAPABILITIES,
    })
}

/// How the client proves to be it, from its secret, its key, or neither.
pub(crate) fn authentication(fields: &Fields<'_>) -> Result<ClientAuthentication, InvalidConfig> {
    let method = fields.optional("token_endpoint_auth_method")?;
    let secret = fields.client_secret()?;
    let key = fields.client_key(CLIENT_KEY)?;
    if fields.client_key(NEXT_CLIENT_KEY)?.is_some() && key.is_none() {
        return Err(invalid(NEXT_CLIENT_KEY, "is there without a client_private_key"));
    }
    let field = "token_endpoint_auth_method";
    let needs = |name: &str| invalid(name, "is missing; the authentication method needs it");
    let left_over = |name: &str, method: &str| {
        invalid(field, format!("is {method}, yet there is a {name}; remove one of them"))
    };
    match (method, secret, key) {
        (None, Some(_), Some(_)) => Err(invalid(
            field,
            "is missing; there is a client_secret and a client_private_key, so say which",
        )),
        (None, Some(secret), None) => Ok(ClientAuthentication::Either(secret)),
        (None | Some("private_key_jwt"), None, Some(key)) => {
            Ok(ClientAuthentication::PrivateKeyJwt(key))
        }
        (None | Some("none"), None, None) => Ok(ClientAuthentication::None),
        (Some("none"), Some(_), _) => Err(left_over("client_secret", "none")),
        (Some("none"), None, Some(_)) => Err(left_over("client_private_key", "none")),
        (Some("private_key_jwt"), Some(_), _) => Err(left_over("client_secret", "private_key_jwt")),
        (Some("private_key_jwt"), None, None) => Err(needs("client_private_key")),
        (Some(_), _, Some(_)) => {
            Err(left_over("client_private_key", "another than private_key_jwt"))
        }
        (Some("client_secret_basic"), secret, None) => {
            secret.map(ClientAuthentication::Basic).ok_or_else(|| needs("client_secret"))
        }
        (Some("client_secret_post"), secret, None) => {
            secret.map(ClientAuthentication::Post).ok_or_else(|| needs("client_secret"))
        }
        (Some("client_secret_jwt"), secret, None) => {
            secret.map(ClientAuthentication::SecretJwt).ok_or_else(|| needs("client_secret"))
        }
        (Some(_), _, None) => Err(invalid(field, format!("must be one of {}", METHODS.join(", ")))),
    }
}

/// Absolute addresses without a fragment (RFC 8707 §2).
fn resource(fields: &Fields<'_>) -> Result<Vec<String>, InvalidConfig> {
    let Some(resources) = fields.list("resource")? else { return Ok(Vec::new()) };
    let fits = |it: &&str| Url::parse(it).is_ok_and(|it| it.fragment().is_none());
    if !resources.iter().all(fits) {
        return Err(invalid("resource", "must hold absolute addresses without a fragment"));
    }
    Ok(resources.into_iter().map(str::to_owned).collect())
}

/// How the response is to come back, as a parameter of the authorization request.
fn response_mode(fields: &Fields<'_>) -> Result<Vec<(String, String)>, InvalidConfig> {
    match fields.optional("response_mode")? {
        None => Ok(Vec::new()),
        Some(mode @ ("query" | "form_post")) => {
            Ok(vec![("response_mode".to_owned(), mode.to_owned())])
        }
        Some(_) => Err(invalid("response_mode", "must be query or form_post")),
    }
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
                "enum": METHODS,
                "description": "How the client authenticates. Without it: private_key_jwt with a \
                                client_private_key, none without that and a secret, otherwise what \
                                the provider lists, client_secret_basic preferred."
            },
            CLIENT_KEY: client_key_schema(
                "The client's private key, PEM (PKCS #8; EC on P-256 or RSA), to authenticate with \
                 private_key_jwt. Its public half is published at /jwks/ID of this service."
            ),
            NEXT_CLIENT_KEY: client_key_schema(
                "The key that will take the place of client_private_key: published beside it now, so \
                 that the provider knows it when it signs."
            ),
            "resource": {
                "type": "array", "minItems": 1, "items": {"type": "string", "format": "uri"},
                "description": "What the tokens are for (RFC 8707): addresses that are said at every \
                                step. A provider that knows several issues a token for the first that \
                                it is asked for, or refuses."
            },
            "response_mode": {
                "type": "string", "enum": ["query", "form_post"],
                "description": "How the authorization response comes back. Without it: as the provider \
                                likes it, in the query."
            },
            "pushed_authorization_requests": {
                "type": "boolean", "default": false,
                "description": "Whether authorization requests are pushed to the provider first \
                                (RFC 9126). Where its metadata insist on it they are in any case."
            },
            DPOP: dpop_schema(),
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
