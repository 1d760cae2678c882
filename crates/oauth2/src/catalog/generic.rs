//! The type `oauth2`: any OAuth 2.0 provider, by its addresses.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::Credentials,
    identity_provider::{Capabilities, ProviderSecrets, ProviderType, Registration, Rotation},
    ports::{
        AuthorizationRequest, CodeExchange, Connector, ConnectorError, DeviceAuthorization,
        DevicePoll, Grant, InvalidConfig, RefreshRequest, Revocation,
    },
    secret::Secret,
};
use url::Url;

use super::{connector::CatalogConnector, entry::Entry, kind::CatalogKind};
use crate::{
    config::{
        CLIENT_SECRETS, DPOP, Fields, MOST_SECONDS, client_id_schema, client_secret_schema,
        dpop_schema, invalid, next_client_secret_schema, scopes_schema,
    },
    connector::check_response_issuer,
    dpop::DpopKey,
    engine::Engine,
    metadata::{Issuer, Metadata, misconfigured},
    registry::ProviderKind,
};

/// What is passed on to the entry that is made of the rest.
const PASSED_ON: [&str; 3] = ["client_id", "scopes", "refresh_token_idle_seconds"];

const ISSUER: &str = "issuer";

const KNOWN: [&str; 18] = [
    "client_id",
    "scopes",
    "refresh_token_idle_seconds",
    ISSUER,
    "authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "device_authorization_endpoint",
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

/// The type `oauth2`: an entry that the operator writes as the configuration of an instance. Where
/// that names an issuer, what it leaves out stands in the issuer's metadata.
pub(crate) struct Generic;

#[async_trait]
impl ProviderKind for Generic {
    fn provider_type(&self) -> ProviderType {
        ProviderType {
            name: "oauth2".into(),
            title: "OAuth 2.0".into(),
            description: "Any OAuth 2.0 provider, by its addresses or by its issuer, and by where \
                          its profile says whose account it is. What it cannot say, a file of the \
                          catalog can."
                .into(),
            documentation: "https://www.rfc-editor.org/rfc/rfc6749".into(),
            registration: Registration::default(),
            notes: vec![
                "Whatever the profile endpoint answers is believed, so it must be the provider's own."
                    .into(),
                "An instance has the device flow where it names a device_authorization_endpoint, or \
                 its issuer does."
                    .into(),
            ],
            config_schema: schema(),
            secret_names: CLIENT_SECRETS.map(str::to_owned).to_vec(),
            registered_keys: Vec::new(),
            asked_keys: vec![DPOP.into(), ISSUER.into()],
            authority_keys: vec![ISSUER.into(), "profile_endpoint".into(), "account_id".into()],
            capabilities: Capabilities {
                browser: true,
                device: true,
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
        let Some(issuer) = issuer(engine, config, secrets)? else {
            return Ok(Arc::new(connector(engine, config, secrets, &Found::Nothing)?));
        };
        // Whatever does not come from the issuer is checked at once.
        let known = connector(engine, config, secrets, &Found::Later(&issuer))?;
        let capabilities = known.capabilities();
        Ok(Arc::new(DiscoveredConnector {
            engine: engine.clone(),
            issuer,
            config: config.clone(),
            secrets: secrets.clone(),
            capabilities,
        }))
    }

    /// Whether the issuer says what the configuration leaves out, and binds tokens to keys where
    /// they are to be bound.
    async fn verify(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        let unfit = |error: InvalidConfig| misconfigured(&error.to_string());
        let Some(issuer) = issuer(engine, config, secrets).map_err(unfit)? else { return Ok(()) };
        let metadata = engine.fresh_server_metadata(&issuer).await?;
        let found = connector(engine, config, secrets, &Found::Metadata(&metadata));
        if found.map_err(unfit)?.base.client.dpop { metadata.check_dpop() } else { Ok(()) }
    }
}

/// The issuer that a configuration names.
fn issuer(
    engine: &Engine,
    config: &Map<String, Value>,
    secrets: &ProviderSecrets,
) -> Result<Option<Issuer>, InvalidConfig> {
    let fields = Fields::new(config, secrets, &KNOWN, &CLIENT_SECRETS)?;
    let Some(text) = fields.optional(ISSUER)? else { return Ok(None) };
    let issuer = Issuer::new(text, engine.http());
    issuer.map(Some).map_err(|error| invalid(ISSUER, error.to_string()))
}

/// What the issuer says of the addresses that the configuration leaves out.
enum Found<'a> {
    /// There is no issuer.
    Nothing,
    /// It was not asked yet: its own address stands for what it will say.
    Later(&'a Issuer),
    /// This ([RFC 8414 §2](https://www.rfc-editor.org/rfc/rfc8414#section-2)).
    Metadata(&'a Metadata),
}

impl Found<'_> {
    fn address(&self, name: &str) -> Option<&str> {
        let metadata = match self {
            Found::Nothing => return None,
            Found::Later(issuer) => return Some(issuer.as_str()),
            Found::Metadata(metadata) => metadata,
        };
        let found = match name {
            "authorization_endpoint" => Some(&metadata.authorization_endpoint),
            "token_endpoint" => Some(&metadata.token_endpoint),
            "revocation_endpoint" => metadata.revocation_endpoint.as_ref(),
            "device_authorization_endpoint" => metadata.device_authorization_endpoint.as_ref(),
            "profile_endpoint" => metadata.userinfo_endpoint.as_ref(),
            _ => None,
        };
        found.map(Url::as_str)
    }
}

/// What speaks to an instance of which this is known.
fn connector(
    engine: &Engine,
    config: &Map<String, Value>,
    secrets: &ProviderSecrets,
    found: &Found<'_>,
) -> Result<CatalogConnector, InvalidConfig> {
    let fields = Fields::new(config, secrets, &KNOWN, &CLIENT_SECRETS)?;
    let entry = entry(engine, &fields, found)?;
    let mut rest = config.clone();
    rest.retain(|name, _| PASSED_ON.contains(&name.as_str()));
    if entry.refresh.is_none() {
        rest.remove("refresh_token_idle_seconds");
    }
    let kind = CatalogKind { name: "oauth2".into(), entry: Arc::new(entry) };
    let mut connector = kind.connector(engine, &rest, secrets)?;
    if let (Found::Metadata(metadata), Some(known)) = (found, &connector.endpoints.known) {
        // What else the issuer says: how clients authenticate, which PKCE it knows.
        connector.endpoints.known = Some(Arc::new(Metadata {
            authorization_endpoint: known.authorization_endpoint.clone(),
            token_endpoint: known.token_endpoint.clone(),
            ..Metadata::clone(metadata)
        }));
    }
    Ok(connector)
}

/// Speaks to an instance whose issuer says where things are: as it says now, each time.
struct DiscoveredConnector {
    engine: Engine,
    issuer: Issuer,
    config: Map<String, Value>,
    secrets: ProviderSecrets,
    capabilities: Capabilities,
}

impl DiscoveredConnector {
    async fn metadata(&self) -> Result<Arc<Metadata>, ConnectorError> {
        self.engine.server_metadata(&self.issuer).await
    }

    async fn connector(&self) -> Result<CatalogConnector, ConnectorError> {
        let metadata = self.metadata().await?;
        connector(&self.engine, &self.config, &self.secrets, &Found::Metadata(&metadata))
            .map_err(|error| misconfigured(&error.to_string()))
    }

    fn binds(&self) -> bool {
        self.config.get(DPOP) == Some(&Value::Bool(true))
    }
}

#[async_trait]
impl Connector for DiscoveredConnector {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn new_dpop_key(&self) -> Option<Secret> {
        self.binds().then(DpopKey::generate)
    }

    async fn authorize(&self, request: &AuthorizationRequest) -> Result<Url, ConnectorError> {
        let metadata = self.metadata().await?;
        if metadata.require_pushed_authorization_requests {
            return Err(misconfigured(
                "the provider takes only authorization requests that are pushed to it, which this \
                 type does not do; if it is an OpenID provider, use the type oidc",
            ));
        }
        if request.dpop_key.is_some() {
            metadata.check_dpop()?;
        }
        self.connector().await?.authorize(request).await
    }

    async fn check_issuer<'a>(
        &self,
        issuer: Option<&'a str>,
        required: bool,
    ) -> Result<(), ConnectorError> {
        let says_so =
            async { Ok(self.metadata().await?.authorization_response_iss_parameter_supported) };
        check_response_issuer(issuer, &self.issuer, required, says_so).await
    }

    async fn exchange(&self, exchange: &CodeExchange) -> Result<Grant, ConnectorError> {
        self.connector().await?.exchange(exchange).await
    }

    async fn device_authorize(
        &self,
        scopes: &[String],
    ) -> Result<DeviceAuthorization, ConnectorError> {
        self.connector().await?.device_authorize(scopes).await
    }

    async fn device_poll(
        &self,
        device_code: &Secret,
        scopes: &[String],
    ) -> Result<DevicePoll, ConnectorError> {
        self.connector().await?.device_poll(device_code, scopes).await
    }

    async fn build_identity(&self, grant: &Grant) -> Result<ExternalAccount, ConnectorError> {
        self.connector().await?.build_identity(grant).await
    }

    async fn refresh(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError> {
        self.connector().await?.refresh(request).await
    }

    async fn reachable(&self) -> Result<(), ConnectorError> {
        Metadata::fetch_server(self.engine.http(), &self.issuer).await.map(drop)
    }

    async fn revoke(&self, credentials: &Credentials) -> Result<Revocation, ConnectorError> {
        self.connector().await?.revoke(credentials).await
    }
}

/// The entry that this configuration amounts to.
fn entry(engine: &Engine, fields: &Fields<'_>, found: &Found<'_>) -> Result<Entry, InvalidConfig> {
    let address = |name: &str| -> Result<Option<String>, InvalidConfig> {
        let Some(text) = fields.optional(name)?.or_else(|| found.address(name)) else {
            return Ok(None);
        };
        let url = Url::parse(text).map_err(|_| invalid(name, "must be an https address"))?;
        // Braces would make a template of it.
        if url.fragment().is_some() || text.contains(['{', '}']) {
            return Err(invalid(name, "must have no fragment and no braces"));
        }
        engine.http().check(&url).map_err(|error| invalid(name, error.to_string()))?;
        Ok(Some(text.to_owned()))
    };
    let missing = match found {
        Found::Nothing => "is missing",
        _ => "is missing, and the issuer does not say it",
    };
    let required = |name: &str| address(name)?.ok_or_else(|| invalid(name, missing));
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
        if let Some(url) = address("device_authorization_endpoint")? {
            object.insert("device".into(), json!({ "url": url }));
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
        "required": ["account_id", "client_id"],
        "anyOf": [
            { "required": [ISSUER] },
            { "required": ["authorization_endpoint", "token_endpoint", "profile_endpoint"] },
        ],
        "properties": {
            ISSUER: address(
                "The issuer, exactly as its metadata name it (RFC 8414): the endpoints that are left \
                 out are those of its metadata, and authorization responses must name no other issuer \
                 (RFC 9207). It stays as it is while the provider has identities."
            ),
            "authorization_endpoint": address("Where the browser is sent."),
            "token_endpoint": address("Where codes and refresh tokens are traded."),
            "revocation_endpoint": address("Where tokens are revoked (RFC 7009), if anywhere."),
            "device_authorization_endpoint": address(
                "Where a device asks to be authorized (RFC 8628), if anywhere."
            ),
            "profile_endpoint": address(
                "What is read with the access token to learn whose it is: a JSON answer to GET. It \
                 stays as it is while the provider has identities. With an issuer and without it: \
                 the userinfo_endpoint."
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
