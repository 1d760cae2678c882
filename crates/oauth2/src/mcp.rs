//! The type `mcp`: any MCP server, by its address
//! ([authorization in MCP](https://modelcontextprotocol.io/specification/2025-11-25/basic/authorization)).
//!
//! When an instance is made, the server is asked once who issues its tokens, and that is kept: a
//! refresh token goes to whoever issued it, whatever the server says later.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest::{self, SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::Credentials,
    identity_provider::{
        Capabilities, IdentityProvider, ProviderSecrets, ProviderType, Registration, Rotation,
    },
    ids::ExternalId,
    ports::{
        AuthorizationRequest, ClientAddresses, CodeExchange, Connector, ConnectorError, Grant,
        InvalidConfig, Logout, RefreshRequest, Registered, Revocation, Sent,
    },
    secret::Secret,
};
use url::Url;

use crate::{
    client::Client,
    config::{
        DPOP, Fields, client_id_schema, client_secret_schema, dpop_schema, invalid,
        next_client_secret_schema, scopes_schema,
    },
    connector::{Destination, OpenIdConnector, check_response_issuer, logout_of_subject},
    dpop::{self, Presented},
    engine::Engine,
    error_rules::ErrorRules,
    http::HttpResponse,
    id_token::Expected,
    json,
    jws::Jws,
    metadata::{Issuer, Metadata, misconfigured},
    oidc, profile,
    protected_resource::ProtectedResource,
    registration::{self, NewClient, address, found, secret_names},
    registry::ProviderKind,
    signing_alg::SigningAlg,
    untrusted,
};

const CAPABILITIES: Capabilities = Capabilities {
    browser: true,
    device: false,
    refresh: true,
    revoke: true,
    // Whose account it is, an authorization server may say in ways that prove nothing to a
    // product, or not at all.
    sign_in: false,
    rotation: Rotation::MayRotate,
};

/// What is found out when an instance is made, beside what comes from a registration.
const FOUND: [&str; 3] = ["authorization_server", "resource", "scopes"];

const CONFIG: [&str; 4] = ["url", "client_name", "authorization_server", DPOP];

/// Where nobody says whose a grant is, its account's id begins so; no provider's own id may.
const OF_GRANT: &str = "grant-";

/// The fact that keeps that id from the exchange on.
const GRANT_ID: &str = "grant_id";

const OPENID: &str = "openid";
const OFFLINE_ACCESS: &str = "offline_access";

/// The type `mcp`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mcp;

/// The configuration of an instance.
struct Config<'a> {
    fields: Fields<'a>,
    url: Url,
    authorization_server: Option<Issuer>,
    client_name: &'a str,
    /// Whether grants are to be bound to keys.
    dpop: bool,
}

impl<'a> Config<'a> {
    fn read(
        engine: &Engine,
        config: &'a Map<String, Value>,
        secrets: &'a ProviderSecrets,
    ) -> Result<Self, InvalidConfig> {
        let known = [&CONFIG[..], &FOUND[1..], &registration::CONFIG_KEYS].concat();
        let fields = Fields::new(config, secrets, &known, &secret_names())?;
        let url = address(engine, "url", fields.required("url")?)?;
        let authorization_server = fields.optional("authorization_server")?.map(|it| {
            Issuer::new(it, engine.http())
                .map_err(|error| invalid("authorization_server", error.to_string()))
        });
        let client_name = registration::client_name(engine, &fields)?;
        if let Some(resource) = fields.optional("resource")? {
            address(engine, "resource", resource)?;
        }
        let authorization_server = authorization_server.transpose()?;
        let dpop = fields.is_on(DPOP, false)?;
        Ok(Self { fields, url, authorization_server, client_name, dpop })
    }
}

#[async_trait]
impl ProviderKind for Mcp {
    fn provider_type(&self) -> ProviderType {
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        ProviderType {
            name: "mcp".into(),
            title: "MCP server".into(),
            description: "Any MCP server, by its address: who issues its tokens is found out, and \
                          our client is registered there where the server registers clients."
                .into(),
            documentation:
                "https://modelcontextprotocol.io/specification/2025-11-25/basic/authorization"
                    .into(),
            registration: Registration {
                steps: Some(
                    "Give the server's address alone. Where its authorization server registers no \
                     clients, register one there by hand."
                        .into(),
                ),
                ..Registration::default()
            },
            notes: vec![
                "Where the authorization server does not say whose a grant is, each grant is an \
                 account of its own: start a link session with reattach to link again."
                    .into(),
            ],
            config_schema: schema(),
            secret_names: owned(&secret_names()),
            authority_keys: owned(&["url", "authorization_server", "resource"]),
            registered_keys: owned(
                &FOUND.into_iter().chain(registration::registered_keys()).collect::<Vec<_>>(),
            ),
            asked_keys: owned(&[DPOP]),
            capabilities: CAPABILITIES,
        }
    }

    fn connect(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        let config = Config::read(engine, config, secrets)?;
        let fields = &config.fields;
        let authentication = oidc::authentication(fields)?;
        let (next_secret, scopes) = (fields.next_client_secret()?, fields.scopes()?);
        let found = (
            fields.optional("client_id")?,
            config.authorization_server.clone(),
            fields.optional("resource")?,
        );
        let (Some(client_id), Some(issuer), Some(resource)) = found else {
            return Ok(Arc::new(McpConnector {
                engine: engine.clone(),
                url: config.url,
                server: None,
            }));
        };
        let client = Client {
            token_issuers: vec![issuer.as_str().to_owned()],
            error_rules: ErrorRules::of_issuer(&issuer),
            issuer,
            client_id: client_id.to_owned(),
            authentication,
            next_secret,
            scopes,
            offline_access: false,
            signing_algs: SigningAlg::ALL.to_vec(),
            resource: vec![resource.to_owned()],
            pushes: false,
            dpop: config.dpop,
            published_keys: Vec::new(),
            authorization_parameters: Vec::new(),
            refresh_token_idle: None,
            capabilities: CAPABILITIES,
        };
        let server = Some(Server { base: OpenIdConnector::new(engine.clone(), client) });
        Ok(Arc::new(McpConnector { engine: engine.clone(), url: config.url, server }))
    }

    /// Whether the authorization server binds tokens to keys, where they are to be bound. Before it
    /// is known, [`register`](Self::register) asks it.
    async fn verify(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        let config = Config::read(engine, config, secrets)
            .map_err(|error| misconfigured(&error.to_string()))?;
        match config.authorization_server {
            Some(issuer) if config.dpop => {
                engine.fresh_server_metadata(&issuer).await?.check_dpop()
            }
            _ => Ok(()),
        }
    }

    async fn register(
        &self,
        engine: &Engine,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
        addresses: &ClientAddresses,
    ) -> Result<Option<Registered>, ConnectorError> {
        let config = Config::read(engine, &provider.config, secrets)
            .map_err(|error| misconfigured(&error.to_string()))?;
        let server = ProtectedResource::discover(engine.http(), &config.url).await?;
        let issuer = authorization_server(engine, &server, config.authorization_server)?;
        let metadata = engine.server_metadata(&issuer).await?;
        check_pkce(&metadata)?;
        if config.dpop {
            metadata.check_dpop()?;
        }
        let mut registered =
            match (provider.config.get("client_id"), &metadata.registration_endpoint) {
                (Some(_), _) => Registered::default(),
                (None, None) => return Err(registration::none_offered()),
                (None, Some(endpoint)) => {
                    let methods = &metadata.token_endpoint_auth_methods_supported;
                    let client = NewClient {
                        endpoint,
                        name: config.client_name,
                        addresses,
                        methods,
                        tells_of_logouts: metadata.backchannel_logout_supported,
                        grant_types: &registration::GRANT_TYPES,
                        dpop: config.dpop,
                    };
                    client.register(engine).await?
                }
            };
        let scopes = scopes(&server, &metadata);
        if !scopes.is_empty() {
            registered.config.insert("scopes".to_owned(), scopes.into());
        }
        registered.config.insert("authorization_server".to_owned(), issuer.as_str().into());
        registered.config.insert("resource".to_owned(), server.resource.into());
        Ok(Some(registered))
    }

    async fn deregister(
        &self,
        engine: &Engine,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        registration::deregister(engine, &provider.config, secrets).await
    }
}

/// The one that the operator named, which the server must know, or its first.
fn authorization_server(
    engine: &Engine,
    server: &ProtectedResource,
    named: Option<Issuer>,
) -> Result<Issuer, ConnectorError> {
    let listed = &server.authorization_servers;
    match named {
        Some(named) if listed.iter().any(|it| it == named.as_str()) => Ok(named),
        Some(_) => Err(misconfigured(&format!(
            "the MCP server does not name the configured authorization_server, but these: {}",
            shown(listed)
        ))),
        None => {
            let first = listed.first().map(String::as_str).unwrap_or_default();
            Issuer::new(first, engine.http()).map_err(|error| {
                misconfigured(&format!("the MCP server's authorization server: {error}"))
            })
        }
    }
}

/// Names from a stranger, for an operator to choose from.
fn shown(listed: &[String]) -> String {
    let fits = |it: &&String| it.len() <= 200 && it.bytes().all(|it| it.is_ascii_graphic());
    listed.iter().filter(fits).take(5).cloned().collect::<Vec<_>>().join(", ")
}

/// A server that does not say that it knows S256 is taken to know no PKCE, and is not used: so MCP
/// has it.
fn check_pkce(metadata: &Metadata) -> Result<(), ConnectorError> {
    let methods = metadata.code_challenge_methods_supported.as_deref().unwrap_or_default();
    if methods.iter().any(|it| it == "S256") {
        return Ok(());
    }
    Err(misconfigured("the authorization server does not say that it supports PKCE with S256"))
}

/// What the server asks for; and, where the authorization server knows them, `openid`, which tells
/// whose account it is, and `offline_access`, which brings a refresh token.
fn scopes(server: &ProtectedResource, metadata: &Metadata) -> Vec<String> {
    let mut scopes = server.scopes.clone();
    for own in [OPENID, OFFLINE_ACCESS] {
        if metadata.scopes_supported.iter().any(|it| it == own)
            && !scopes.iter().any(|it| it == own)
        {
            scopes.push(own.to_owned());
        }
    }
    scopes
}

/// Speaks to the authorization server of one MCP server.
struct McpConnector {
    engine: Engine,
    url: Url,
    /// `None` where it was not found out yet.
    server: Option<Server>,
}

struct Server {
    base: OpenIdConnector,
}

impl McpConnector {
    fn server(&self) -> Result<&Server, ConnectorError> {
        self.server.as_ref().ok_or_else(registration::no_client)
    }
}

impl Server {
    async fn metadata(&self) -> Result<Arc<Metadata>, ConnectorError> {
        self.base.engine.server_metadata(&self.base.client.issuer).await
    }

    /// What to ask for: what the attempt asks for, and with it what is not about access.
    fn scopes(&self, asked: &[String]) -> Vec<String> {
        let configured = self.base.client.scopes.as_deref().unwrap_or_default();
        if asked.is_empty() {
            return configured.to_vec();
        }
        let own = configured.iter().filter(|it| [OPENID, OFFLINE_ACCESS].contains(&it.as_str()));
        let own = own.filter(|it| !asked.contains(it));
        asked.iter().chain(own).cloned().collect()
    }

    /// What the userinfo endpoint says; `None` where there is none, or it is not for our token.
    async fn userinfo(
        &self,
        metadata: &Metadata,
        access: &Presented<'_>,
    ) -> Result<Option<Map<String, Value>>, ConnectorError> {
        let Some(endpoint) = &metadata.userinfo_endpoint else { return Ok(None) };
        let answer = self.base.ask_userinfo(endpoint, access).await?;
        if is_refusal(&answer) {
            return Ok(None);
        }
        self.base.read_userinfo(&answer, metadata).await.map(Some)
    }

    /// The `sub` of an access token that is a JWT
    /// ([RFC 9068](https://www.rfc-editor.org/rfc/rfc9068)); `None` where it is none, or none that
    /// says whose it is. One that pretends is refused.
    async fn subject_of_jwt(
        &self,
        metadata: &Metadata,
        access_token: &Secret,
    ) -> Result<Option<Map<String, Value>>, ConnectorError> {
        let types = ["at+jwt", "application/at+jwt"];
        let algs = &self.base.client.signing_algs;
        let (Ok(jws), Some(_)) =
            (Jws::parse_as(access_token.expose(), algs, &types), &metadata.jwks_uri)
        else {
            return Ok(None);
        };
        let issuer = self.base.client.issuer.as_str();
        let names_issuer =
            |it: &Map<String, Value>| it.get("iss").and_then(Value::as_str) == Some(issuer);
        // Somebody else's token, which the server hands on, says nothing about its accounts.
        if !jws.unverified_claims().as_ref().is_some_and(names_issuer) {
            return Ok(None);
        }
        let claims = self.base.verified(&jws, metadata, "the access token").await?;
        Ok(self.is_for_us(&claims).then_some(claims))
    }

    /// What the server says of the token when asked
    /// ([RFC 7662](https://www.rfc-editor.org/rfc/rfc7662)); `None` where it does not.
    async fn introspection(
        &self,
        metadata: &Metadata,
        access_token: &Secret,
    ) -> Result<Option<Map<String, Value>>, ConnectorError> {
        let Some(endpoint) = &metadata.introspection_endpoint else { return Ok(None) };
        let fields = [("token", access_token.expose()), ("token_type_hint", "access_token")];
        let unavailable = |answer: &HttpResponse, detail: String| ConnectorError::Unavailable {
            detail,
            retry_after: answer.retry_after(self.base.engine.clock.now()),
            sent: Sent::Answered,
        };
        let read = |answer: &HttpResponse| {
            if is_refusal(answer) {
                return Err(ConnectorError::ClientRejected { code: "introspection".into() });
            }
            if answer.status != 200 {
                let what = format!("the introspection endpoint answered {}", answer.status);
                return Err(unavailable(answer, what));
            }
            let body = answer.body.as_ref().ok().and_then(|it| json::object(it).ok());
            body.ok_or_else(|| {
                unavailable(answer, "the introspection endpoint's answer cannot be read".into())
            })
        };
        let to = Destination::standard(endpoint);
        match self.base.send_authenticated(metadata, &to, &fields, read).await {
            Ok(claims) => {
                let is_active = claims.get("active") == Some(&Value::Bool(true));
                Ok((is_active && self.is_for_us(&claims)).then_some(claims))
            }
            Err(ConnectorError::ClientRejected { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it is about a user who let our client in, as far as it says.
    fn is_for_us(&self, claims: &Map<String, Value>) -> bool {
        let ours = self.base.client.client_id.as_str();
        let client = ["client_id", "azp"].into_iter().find_map(|it| claims.get(it));
        let subject = claims.get("sub").and_then(Value::as_str);
        client.is_none_or(|it| it == ours) && subject.is_some_and(|it| it != ours)
    }

    /// An id that nobody else can have or ask for.
    fn grant_id(&self) -> String {
        let random = Secret::random();
        let issuer = self.base.client.issuer.as_str();
        let text = format!("{}:{issuer}{}", issuer.len(), random.expose());
        let hash = digest::digest(&SHA256, text.as_bytes());
        format!("{OF_GRANT}{}", URL_SAFE_NO_PAD.encode(hash))
    }
}

/// Whether an endpoint says that it is not for us: which is an answer that stays, unlike that it is
/// overloaded.
fn is_refusal(answer: &HttpResponse) -> bool {
    matches!(answer.status, 400..=499) && !matches!(answer.status, 408 | 425 | 429)
}

/// The account that these claims are about.
fn account(
    claims: &Map<String, Value>,
    userinfo: &Map<String, Value>,
) -> Result<ExternalAccount, ConnectorError> {
    let account = profile::account(claims, userinfo)?;
    if account.external_id.as_str().starts_with(OF_GRANT) {
        return Err(untrusted("the account", "its id is of the form that we give to grants"));
    }
    Ok(account)
}

#[async_trait]
impl Connector for McpConnector {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn new_dpop_key(&self) -> Option<Secret> {
        self.server.as_ref()?.base.new_dpop_key()
    }

    async fn authorize(&self, request: &AuthorizationRequest) -> Result<Url, ConnectorError> {
        let server = self.server()?;
        let metadata = server.metadata().await?;
        check_pkce(&metadata)?;
        let key = request.dpop_key.as_ref().map(dpop::read).transpose()?;
        if key.is_some() {
            metadata.check_dpop()?;
        }
        let scopes = server.scopes(&request.scopes);
        let challenge = digest::digest(&SHA256, request.code_verifier.expose().as_bytes());
        let (scopes_text, challenge) = (scopes.join(" "), URL_SAFE_NO_PAD.encode(challenge));
        let base = &server.base;
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", base.client.client_id.as_str()),
            ("redirect_uri", request.redirect_uri.as_str()),
            ("state", request.state.expose()),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        parameters.extend(base.resource());
        if !scopes.is_empty() {
            parameters.push(("scope", &scopes_text));
        }
        let asks = |scope: &str| scopes.iter().any(|it| it == scope);
        if asks(OPENID) {
            parameters.push(("nonce", request.nonce.expose()));
            // Without consent there is no offline access (OpenID Connect Core 1.0 §11).
            if asks(OFFLINE_ACCESS) {
                parameters.push(("prompt", "consent"));
            }
        }
        if let Some(hint) = &request.login_hint {
            parameters.push(("login_hint", hint));
        }
        if let Some(key) = &key {
            parameters.push(("dpop_jkt", key.thumbprint()));
        }
        let mut url = metadata.authorization_endpoint.clone();
        match base.push(&metadata, &parameters, key.as_ref()).await? {
            Some(request_uri) => {
                let client_id = base.client.client_id.as_str();
                let pushed = [("client_id", client_id), ("request_uri", request_uri.expose())];
                url.query_pairs_mut().extend_pairs(pushed);
            }
            None => drop(url.query_pairs_mut().extend_pairs(parameters)),
        }
        Ok(url)
    }

    async fn check_issuer<'a>(
        &self,
        issuer: Option<&'a str>,
        required: bool,
    ) -> Result<(), ConnectorError> {
        let server = self.server()?;
        let says_so =
            async { Ok(server.metadata().await?.authorization_response_iss_parameter_supported) };
        check_response_issuer(issuer, &server.base.client.issuer, required, says_so).await
    }

    async fn exchange(&self, exchange: &CodeExchange) -> Result<Grant, ConnectorError> {
        let server = self.server()?;
        let metadata = server.metadata().await?;
        let base = &server.base;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", exchange.code.expose()),
            ("redirect_uri", exchange.redirect_uri.as_str()),
            ("code_verifier", exchange.code_verifier.expose()),
        ];
        fields.extend(base.resource());
        let secrets = [&exchange.code, &exchange.code_verifier, &exchange.nonce];
        let key = base.dpop_key(exchange.dpop_key.as_ref())?;
        let key = key.as_ref();
        let mut tokens = base.ask_for_tokens(&metadata, &fields, &secrets, key).await?;
        OpenIdConnector::check_bound(key, &tokens)?;
        let mut claims = Map::new();
        if metadata.jwks_uri.is_none() {
            // No OpenID provider, so it is nothing that could be verified.
            tokens.id_token = None;
        }
        if let Some(id_token) = &tokens.id_token {
            let expected = Expected {
                nonce: Some(&exchange.nonce),
                code: Some(&exchange.code),
                ..base.expected(&tokens)
            };
            claims = base.check_id_token(id_token, &metadata, &expected).await?;
        }
        let scopes = server.scopes(&exchange.scopes);
        let facts = Map::from_iter([(GRANT_ID.to_owned(), server.grant_id().into())]);
        Ok(Grant { credentials: base.credentials(tokens, scopes, key), claims, facts })
    }

    /// In this order: the ID token, the userinfo endpoint, a signed access token, introspection;
    /// and where none of them tells, an id of the grant's own. A source that cannot be asked just
    /// now is not passed over: the same account would have another id the next time.
    async fn build_identity(&self, grant: &Grant) -> Result<ExternalAccount, ConnectorError> {
        let server = self.server()?;
        let metadata = server.metadata().await?;
        let Some(access) = Presented::of(&grant.credentials)? else {
            return Err(untrusted("the token answer", "it has no access token"));
        };
        let access_token = access.token;
        let userinfo = server.userinfo(&metadata, &access).await?;
        if !grant.claims.is_empty() {
            let userinfo = userinfo.unwrap_or_default();
            if !userinfo.is_empty() && userinfo.get("sub") != grant.claims.get("sub") {
                return Err(untrusted("the userinfo answer", "it is about another account"));
            }
            return account(&grant.claims, &userinfo);
        }
        if let Some(userinfo) = userinfo.filter(|it| it.contains_key("sub")) {
            return account(&userinfo, &Map::new());
        }
        if let Some(claims) = server.subject_of_jwt(&metadata, access_token).await? {
            return account(&claims, &Map::new());
        }
        if let Some(claims) = server.introspection(&metadata, access_token).await? {
            return account(&claims, &Map::new());
        }
        let id = grant.facts.get(GRANT_ID).and_then(Value::as_str).unwrap_or_default();
        let external_id = ExternalId::new(id)
            .map_err(|_| untrusted("the grant", "it was not traded for a code here"))?;
        Ok(ExternalAccount {
            external_id,
            legacy_id: None,
            email: None,
            email_verified: false,
            name: None,
            claims: Map::new(),
        })
    }

    async fn refresh(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError> {
        let server = self.server()?;
        let metadata = server.metadata().await?;
        let id = request.external_id.as_str();
        let subject = (!id.starts_with(OF_GRANT)).then_some(id);
        server.base.renew(&metadata, request, subject).await
    }

    async fn reachable(&self) -> Result<(), ConnectorError> {
        let Some(Server { base, .. }) = &self.server else {
            return ProtectedResource::discover(&self.engine.http, &self.url).await.map(drop);
        };
        Metadata::fetch_server(&base.engine.http, &base.client.issuer).await.map(drop)
    }

    /// Whatever told whose account it is, it was the `sub` of it at this authorization server, unless
    /// nothing told: then it is nobody's that a logout could name.
    async fn verify_logout(&self, logout_token: &Secret) -> Result<Logout, ConnectorError> {
        let server = self.server()?;
        let jws = server.base.read_logout_token(logout_token)?;
        let metadata = server.metadata().await?;
        let issuers = &server.base.client.token_issuers;
        let verified = server.base.check_logout_token(&jws, &metadata, issuers);
        let (claims, said) = verified.await?;
        logout_of_subject(&claims, said)
    }

    async fn revoke(&self, credentials: &Credentials) -> Result<Revocation, ConnectorError> {
        if credentials.refresh_token.is_none() && credentials.access_token.is_none() {
            return Ok(Revocation::Unsupported);
        }
        let server = self.server()?;
        server.base.end_grant(&*server.metadata().await?, credentials).await
    }
}

fn schema() -> Value {
    let mut properties = registration::schemas();
    let own = json!({
        "url": {
            "type": "string", "format": "uri", "maxLength": 2048,
            "description": "The MCP server's address. It stays as it is."
        },
        "authorization_server": {
            "type": "string", "format": "uri", "maxLength": 2048,
            "description": "Who issues its tokens: the issuer, exactly as the server names it. \
                            Without it: the first that the server names."
        },
        "client_id": client_id_schema(),
        "client_secret": client_secret_schema(),
        "client_secret_next": next_client_secret_schema(),
        "scopes": scopes_schema(
            "What to ask for. Without it: what the server asks for, and openid and \
             offline_access where the authorization server lists them; found out when the \
             provider is made."
        ),
        "resource": {
            "type": "string", "format": "uri", "maxLength": 2048,
            "description": found("What tokens are for (RFC 8707).")
        },
        DPOP: dpop_schema(),
    });
    if let Value::Object(own) = own {
        properties.extend(own);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": false,
        "required": ["url"],
        "properties": properties,
    })
}
