use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::Credentials,
    identity_provider::Capabilities,
    ids::ExternalId,
    ports::{
        AuthorizationRequest, CodeExchange, Connector, ConnectorError, DeviceAuthorization,
        DevicePoll, Grant, Logout, RefreshRequest, Revocation, Sent,
    },
    secret::Secret,
};
use url::Url;

use super::{
    entry::{
        Authentication, Authorization, CodeGrant, Entry, LongLivedGrant, OpenId, Pkce, Refresh,
        RefreshWith, ResponseMode, Revoke, RevokedToken, SelfRefreshGrant,
    },
    is_host,
    template::Template,
    values::Parameters,
};
use crate::{
    client::Encoding,
    connector::{
        Destination, LOGOUT_TOKEN, OpenIdConnector, Unproven, device_endpoint, logout, to_domain,
    },
    device::{DEVICE_GRANT, Polled},
    dpop::{self, DpopKey},
    http::{HttpRequest, HttpResponse},
    id_token::Expected,
    json,
    jws::Jws,
    metadata::{Metadata, another_issuer, misconfigured},
    profile, registration,
    token_answer::{Layout, TokenResponse},
    untrusted,
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_ENDPOINT: &str = "the token endpoint";
const REVOCATION_ENDPOINT: &str = "the revocation endpoint";

/// Speaks to an instance of a type of the catalog: the protocol is the engine's, and the entry
/// says where its provider departs from it.
pub(crate) struct CatalogConnector {
    pub(crate) base: OpenIdConnector,
    pub(crate) entry: Arc<Entry>,
    pub(crate) parameters: Parameters,
    /// The instance's configuration, as facts.
    pub(crate) config: Value,
    pub(crate) endpoints: Endpoints,
    pub(crate) layout: Layout,
    /// The same of a refresh.
    pub(crate) refresh_layout: Layout,
    /// How the token endpoint is written to.
    pub(crate) token: Encoding,
    /// The same to refresh.
    pub(crate) refresh: Encoding,
    /// The same to revoke.
    pub(crate) revoke: Option<Encoding>,
}

/// Where things are, as far as the entry says.
pub(crate) struct Endpoints {
    pub(crate) authorization: Option<Url>,
    pub(crate) token: Option<Url>,
    pub(crate) refresh: Option<Url>,
    pub(crate) device: Option<Url>,
    pub(crate) long_lived: Option<Url>,
    pub(crate) revocation: Option<Url>,
    /// What takes the place of discovery.
    pub(crate) known: Option<Arc<Metadata>>,
}

impl CatalogConnector {
    /// What discovery says with what the entry says over it; without discovery the latter alone.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>, ConnectorError> {
        self.check_client()?;
        if let Some(known) = &self.endpoints.known {
            return Ok(Arc::clone(known));
        }
        if !self.entry.is_discovered() {
            return Err(misconfigured("this provider type has no such step"));
        }
        let found = self.discovered(false).await?;
        let Endpoints { authorization, token, .. } = &self.endpoints;
        if authorization.is_none() && token.is_none() {
            return Ok(found);
        }
        let mut merged = Metadata::clone(&found);
        merged.authorization_endpoint =
            authorization.clone().unwrap_or(merged.authorization_endpoint);
        merged.token_endpoint = token.clone().unwrap_or(merged.token_endpoint);
        Ok(Arc::new(merged))
    }

    /// What discovery says, past every cache where it is to be `fresh`.
    async fn discovered(&self, fresh: bool) -> Result<Arc<Metadata>, ConnectorError> {
        let (engine, issuer) = (&self.base.engine, &self.base.client.issuer);
        let openid = self.entry.openid.as_ref().filter(|it| it.issuer_from_discovery);
        let Some(openid) = openid else {
            return if fresh {
                Metadata::fetch(&engine.http, issuer).await.map(Arc::new)
            } else {
                self.base.metadata().await
            };
        };
        let found = if fresh {
            Arc::new(Metadata::fetch_naming(&engine.http, issuer).await?)
        } else {
            engine.naming_metadata(issuer).await?
        };
        let values = self.parameters.alone();
        let fits = found.issuer == issuer.as_str()
            || openid.issuers.iter().any(|it| it.could_be(&found.issuer, &values));
        if fits { Ok(found) } else { Err(another_issuer()) }
    }

    /// Whether there is a client, which a registration that was cut off did not bring.
    fn check_client(&self) -> Result<(), ConnectorError> {
        if self.entry.registration.is_some() && self.parameters.client_id.is_empty() {
            return Err(registration::no_client());
        }
        Ok(())
    }

    fn authorization(&self) -> Result<&Authorization, ConnectorError> {
        self.entry.authorization.as_ref().ok_or_else(|| {
            misconfigured("users bring a token that they made at this provider; nobody is asked")
        })
    }

    /// What to ask for: what the attempt asks for, or the configured scopes, or the entry's; and
    /// those that are always asked for.
    fn scopes(&self, authorization: &Authorization, asked: &[String]) -> Vec<String> {
        let configured = self.base.client.scopes.as_deref();
        let chosen =
            if asked.is_empty() { configured.unwrap_or(&authorization.scopes) } else { asked };
        let mut scopes: Vec<String> = Vec::new();
        let openid = ["openid".to_owned()];
        let openid = if self.entry.openid.is_some() { &openid[..] } else { &[] };
        for scope in openid.iter().chain(chosen).chain(&authorization.always) {
            if !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
        scopes
    }

    /// What of the authorization response are facts.
    fn callback(&self, parameters: &BTreeMap<String, String>) -> Value {
        let names = self.entry.authorization.iter().flat_map(|it| &it.callback);
        // Apple sends an object as the text of one.
        let value = |text: &String| match serde_json::from_str(text) {
            Ok(object @ Value::Object(_)) => object,
            _ => Value::String(text.clone()),
        };
        let known = names.filter_map(|it| Some((it.clone(), value(parameters.get(it)?))));
        Value::Object(known.collect())
    }

    /// Where a code is traded, where the authorization response says so.
    fn token_url(
        &self,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Option<Url>, ConnectorError> {
        let Some(template) = &self.entry.token.url else { return Ok(None) };
        if template.pointers().next().is_none() {
            return Ok(None);
        }
        let facts = json!({ "callback": self.callback(parameters) });
        let url = template.fill_url(&self.parameters.and(&facts));
        let url = url.and_then(|it| Url::parse(&it).ok());
        let what = "the authorization response";
        let url = url.ok_or_else(|| untrusted(what, "it does not say where its code is traded"))?;
        self.check_host(&url)?;
        Ok(Some(url))
    }

    /// An address whose host came from the outside must be one of those that the entry names.
    pub(super) fn check_host(&self, url: &Url) -> Result<(), ConnectorError> {
        let host = url.host_str().unwrap_or_default();
        let mut hosts = self.entry.token.hosts.iter();
        if url.scheme() == "https" && hosts.any(|it| is_host(it, host)) {
            Ok(())
        } else {
            Err(untrusted("an address", "its host is none of the provider's"))
        }
    }

    /// Asks an endpoint of the token kind, and reads what came of it.
    async fn ask_for_tokens(
        &self,
        metadata: &Metadata,
        to: &Destination<'_>,
        fields: &[(&str, &str)],
        secrets: &[&Secret],
    ) -> Result<TokenResponse, ConnectorError> {
        let read =
            |answer: &_| self.base.read_answer(TOKEN_ENDPOINT, answer, &self.layout, secrets);
        self.base.send_authenticated(metadata, to, fields, read).await
    }

    /// Trades a token for one that lives longer.
    async fn trade_again(
        &self,
        grant: LongLivedGrant,
        url: &Url,
        method: super::entry::Method,
        tokens: TokenResponse,
    ) -> Result<TokenResponse, ConnectorError> {
        let secret = self.base.client.authentication.secret();
        let secret = secret.map(Secret::expose).unwrap_or_default();
        let token = tokens.access_token.expose();
        let client_id = self.parameters.client_id.as_str();
        let fields = match grant {
            LongLivedGrant::Facebook => vec![
                ("grant_type", "fb_exchange_token"),
                ("client_id", client_id),
                ("client_secret", secret),
                ("fb_exchange_token", token),
            ],
            LongLivedGrant::Instagram => vec![
                ("grant_type", "ig_exchange_token"),
                ("client_secret", secret),
                ("access_token", token),
            ],
            LongLivedGrant::Threads => vec![
                ("grant_type", "th_exchange_token"),
                ("client_secret", secret),
                ("access_token", token),
            ],
        };
        let encoding = Encoding { method, ..self.token.clone() };
        let request = encoding.request(url.clone(), &fields);
        let answer = self.base.engine.http.send(request).await.map_err(to_domain)?;
        let secrets = [&tokens.access_token];
        let longer = self.base.read_answer(TOKEN_ENDPOINT, &answer, &self.layout, &secrets)?;
        // What the first answer said of the account, the second leaves out.
        Ok(TokenResponse {
            scopes: longer.scopes.or(tokens.scopes),
            refresh_token: longer.refresh_token.or(tokens.refresh_token),
            id_token: longer.id_token.or(tokens.id_token),
            rest: merged(tokens.rest, longer.rest),
            ..longer
        })
    }

    /// What tokens grant that were traded, by a browser's trip or without one; verified.
    async fn granted(
        &self,
        metadata: &Metadata,
        mut tokens: TokenResponse,
        trade: Option<&CodeExchange>,
        scopes: Vec<String>,
        dpop: Option<&DpopKey>,
    ) -> Result<Grant, ConnectorError> {
        OpenIdConnector::check_bound(dpop, &tokens)?;
        if let (Some(longer), Some(url)) = (&self.entry.long_lived, &self.endpoints.long_lived) {
            tokens = self.trade_again(longer.grant, url, longer.method, tokens).await?;
        }
        let mut claims = Map::new();
        if let Some(openid) = &self.entry.openid {
            let Some(id_token) = &tokens.id_token else {
                return Err(untrusted("the token answer", "it has no ID token"));
            };
            claims = self.check_id_token(openid, id_token, metadata, &tokens, trade).await?;
        }
        let nothing = BTreeMap::new();
        let callback = self.callback(trade.map_or(&nothing, |it| &it.parameters));
        let facts = Map::from_iter([
            ("token".to_owned(), tokens.rest.clone()),
            ("callback".to_owned(), callback),
        ]);
        Ok(Grant { credentials: self.credentials(tokens, scopes, dpop), claims, facts })
    }

    /// What a device asks for, where it can.
    fn device_flow(&self) -> Result<&Authorization, ConnectorError> {
        if self.entry.device.is_none() {
            return Err(misconfigured("this provider type has no device flow"));
        }
        self.authorization()
    }

    /// What is kept of the tokens. Where an access token renews itself, it is the refresh token.
    fn credentials(
        &self,
        tokens: TokenResponse,
        scopes: Vec<String>,
        dpop: Option<&DpopKey>,
    ) -> Credentials {
        let renews_itself =
            self.entry.refresh.as_ref().is_some_and(|it| it.with == RefreshWith::AccessToken);
        let mut credentials = self.base.credentials(tokens, scopes, dpop);
        if renews_itself {
            credentials.refresh_token.clone_from(&credentials.access_token);
            credentials.refresh_expires_at = credentials.expires_at;
        }
        if self.entry.refresh.is_none() {
            // Nothing could be done with it, and what is not kept is not lost.
            credentials.refresh_token = None;
            credentials.refresh_expires_at = None;
        }
        credentials
    }

    /// The names that `iss` of a token with these claims may have. Some hold a claim of the very
    /// token, the tenant; the signature covers both. Where discovery says which of them it is, it is
    /// no other, and the claim fits it.
    fn issuers(
        &self,
        openid: &OpenId,
        metadata: &Metadata,
        claims: &Map<String, Value>,
    ) -> Vec<String> {
        let facts = json!({ "claims": claims });
        let claimed = openid.issuers.iter();
        let claimed = claimed.filter_map(|it| it.fill(&self.parameters.and(&facts)));
        let values = self.parameters.alone();
        let is_one_of = |it: &&String| openid.issuers.iter().any(|open| open.could_be(it, &values));
        let own = self.base.client.token_issuers.iter();
        let own = own.filter(|it| !(openid.issuer_from_discovery && is_one_of(it))).cloned();
        let all = own.chain(claimed).filter(|it| !self.refuses(openid, it));
        all.filter(|it| !openid.issuer_from_discovery || self.names(openid, metadata, it)).collect()
    }

    /// Whether an authorization response may name this issuer. Which tenant it is, the ID token
    /// says later.
    fn could_be_issuer(&self, openid: &OpenId, metadata: &Metadata, issuer: &str) -> bool {
        let values = self.parameters.alone();
        let own = self.base.client.token_issuers.iter().any(|it| it == issuer);
        (own || openid.issuers.iter().any(|it| it.could_be(issuer, &values)))
            && !self.refuses(openid, issuer)
            && (!openid.issuer_from_discovery || self.names(openid, metadata, issuer))
    }

    /// Whether the discovery document names this issuer: as it is, or, with a gap in the place of
    /// a claim, among others of its kind.
    fn names(&self, openid: &OpenId, metadata: &Metadata, issuer: &str) -> bool {
        let values = self.parameters.alone();
        metadata.issuer == issuer
            || metadata.issuer.contains('{')
                && openid.issuers.iter().any(|it| {
                    it.could_be(&metadata.issuer, &values) && it.could_be(issuer, &values)
                })
    }

    fn refuses(&self, openid: &OpenId, issuer: &str) -> bool {
        let plain = &self.parameters.plain;
        openid.refuse.iter().any(|it| {
            it.issuer == issuer
                && it.when.iter().all(|(name, value)| plain.get(name) == Some(value))
        })
    }

    /// Checks an ID token: that of a trade, or that of a refresh.
    async fn check_id_token(
        &self,
        openid: &OpenId,
        id_token: &Secret,
        metadata: &Metadata,
        tokens: &TokenResponse,
        trade: Option<&CodeExchange>,
    ) -> Result<Map<String, Value>, Unproven> {
        let mut claims = Map::new();
        if openid.issuers.iter().any(|it| it.pointers().next().is_some()) {
            // What cannot be read is refused below.
            let jws = Jws::parse(id_token.expose(), &self.base.client.signing_algs);
            claims = jws.ok().and_then(|it| it.unverified_claims()).unwrap_or_default();
        }
        let issuers = self.issuers(openid, metadata, &claims);
        let expected = Expected {
            issuers: &issuers,
            nonce: trade.map(|it| &it.nonce),
            code: trade.map(|it| &it.code),
            ..self.base.expected(tokens)
        };
        self.base.check_id_token(id_token, metadata, &expected).await
    }

    /// The account that a logout token names. Only what is the id of every account whose ID token
    /// has it counts: with another way to make it, the same account would have another id.
    fn account_of_logout(&self, claims: &Map<String, Value>) -> Result<ExternalId, ConnectorError> {
        let Some(template) = self.entry.account.id.0.first() else {
            return Ok(profile::account(claims, &Map::new())?.external_id);
        };
        let facts = json!({ "claims": claims, "config": self.config });
        let id = template.fill(&self.parameters.and(&facts));
        id.and_then(|it| ExternalId::new(it).ok()).ok_or_else(|| {
            untrusted(LOGOUT_TOKEN, "it does not say which account of this provider type it means")
        })
    }

    async fn revoke_token(
        &self,
        revoke: &Revoke,
        to: &Destination<'_>,
        token: &Secret,
        hint: &str,
    ) -> Result<Revocation, ConnectorError> {
        let filled = filled(&revoke.parameters, &self.parameters);
        let mut fields: Vec<(&str, &str)> =
            filled.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let authentication = revoke.authentication.unwrap_or(self.entry.token.authentication);
        let by_itself = authentication == Authentication::Bearer;
        let parameter = match &revoke.token_parameter {
            Some(named) => named,
            None if by_itself => "",
            None => "token",
        };
        if !parameter.is_empty() {
            fields.push((parameter, token.expose()));
        }
        if revoke.hint {
            fields.push(("token_type_hint", hint));
        }
        let read = |answer: &HttpResponse| self.read_revocation(revoke, answer, token);
        match authentication {
            Authentication::Bearer => {
                let request = to.encoding.request(to.url.clone(), &fields).bearer(token);
                read(&self.base.engine.http.send(request).await.map_err(to_domain)?)
            }
            Authentication::None => {
                let request = to.encoding.request(to.url.clone(), &fields);
                read(&self.base.engine.http.send(request).await.map_err(to_domain)?)
            }
            _ => {
                let metadata = self.metadata().await?;
                let base = match authentication {
                    Authentication::Basic | Authentication::Post => {
                        self.base.authenticated_by(authentication)
                    }
                    _ => None,
                };
                let base = base.as_ref().unwrap_or(&self.base);
                base.send_authenticated(&metadata, to, &fields, read).await
            }
        }
    }

    fn read_revocation(
        &self,
        revoke: &Revoke,
        answer: &HttpResponse,
        token: &Secret,
    ) -> Result<Revocation, ConnectorError> {
        if revoke.gone.contains(&answer.status) {
            return Ok(Revocation::Revoked);
        }
        if (200..=299).contains(&answer.status) {
            let Some(ok) = &revoke.ok else { return Ok(Revocation::Revoked) };
            let body = answer.body.as_deref().ok().and_then(|it| json::value(it).ok());
            if body.is_some_and(|it| ok.find(&it) == Some(&Value::Bool(true))) {
                return Ok(Revocation::Revoked);
            }
        }
        match self.base.read_answer(REVOCATION_ENDPOINT, answer, &self.layout, &[token]) {
            // It does not know the token any more.
            Err(ConnectorError::GrantRejected { .. }) => Ok(Revocation::Revoked),
            Err(ConnectorError::ClientRejected { code }) if code == "invalid_token" => {
                Ok(Revocation::Revoked)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(Revocation::Unsupported),
        }
    }

    fn refreshing(&self) -> Result<&Refresh, ConnectorError> {
        self.entry.refresh.as_ref().ok_or_else(|| {
            misconfigured("this provider has no refresh tokens; the user must link again")
        })
    }

    /// The account's id where the claims alone make it; then an ID token of a refresh can be
    /// compared with it.
    fn id_of_claims(&self, claims: &Map<String, Value>) -> Option<String> {
        let ids = &self.entry.account.id.0;
        if ids.iter().flat_map(Template::pointers).any(|it| it.root() != "claims") {
            return None;
        }
        let facts = json!({ "claims": claims });
        ids.iter().find_map(|it| it.fill(&self.parameters.and(&facts)))
    }
}

#[async_trait]
impl Connector for CatalogConnector {
    fn capabilities(&self) -> Capabilities {
        self.entry.capabilities()
    }

    fn new_dpop_key(&self) -> Option<Secret> {
        self.base.new_dpop_key()
    }

    async fn authorize(&self, request: &AuthorizationRequest) -> Result<Url, ConnectorError> {
        let authorization = self.authorization()?;
        let metadata = self.metadata().await?;
        let key = request.dpop_key.as_ref().map(dpop::read).transpose()?;
        if key.is_some() && self.entry.is_discovered() {
            metadata.check_dpop()?;
        }
        if let Some(methods) = &metadata.code_challenge_methods_supported
            && authorization.pkce == Pkce::S256
            && !methods.iter().any(|it| it == "S256")
        {
            return Err(misconfigured("the provider does not support PKCE with S256"));
        }
        let scopes = self.scopes(authorization, &request.scopes);
        let mut url = metadata.authorization_endpoint.clone();
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("response_type", "code")
                .append_pair(&authorization.client_id_parameter, &self.parameters.client_id)
                .append_pair("redirect_uri", request.redirect_uri.as_str())
                .append_pair("state", request.state.expose());
            if !authorization.scope_parameter.is_empty() && !scopes.is_empty() {
                let scopes = scopes.join(&authorization.scope_separator);
                query.append_pair(&authorization.scope_parameter, &scopes);
            }
            if self.entry.openid.is_some() {
                query.append_pair("nonce", request.nonce.expose());
            }
            if authorization.pkce == Pkce::S256 {
                let verifier = request.code_verifier.expose().as_bytes();
                let challenge = digest::digest(&digest::SHA256, verifier);
                query
                    .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge))
                    .append_pair("code_challenge_method", "S256");
            }
            if let Some(key) = &key {
                query.append_pair("dpop_jkt", key.thumbprint());
            }
            match authorization.response_mode {
                Some(ResponseMode::FormPost) => {
                    query.append_pair("response_mode", "form_post");
                }
                Some(ResponseMode::Query) => {
                    query.append_pair("response_mode", "query");
                }
                None => {}
            }
            if let Some(hint) = &request.login_hint
                && !authorization.login_hint.is_empty()
            {
                query.append_pair(&authorization.login_hint, hint);
            }
            query.extend_pairs(filled(&authorization.parameters, &self.parameters));
        }
        Ok(url)
    }

    async fn check_issuer<'a>(
        &self,
        issuer: Option<&'a str>,
        required: bool,
    ) -> Result<(), ConnectorError> {
        let what = "the authorization response";
        let Some(openid) = &self.entry.openid else {
            // Nobody knows what this provider calls itself. Its own redirect URI tells it from
            // others (RFC 9207 §4 names that as the other defence).
            return match issuer {
                None if required => Err(untrusted(what, "its iss is missing")),
                _ => Ok(()),
            };
        };
        match issuer {
            Some(issuer) => {
                if self.could_be_issuer(openid, &*self.metadata().await?, issuer) {
                    return Ok(());
                }
                Err(untrusted(what, "its iss is another issuer"))
            }
            None if required
                || self.metadata().await?.authorization_response_iss_parameter_supported =>
            {
                Err(untrusted(what, "its iss is missing"))
            }
            None => Ok(()),
        }
    }

    async fn exchange(&self, exchange: &CodeExchange) -> Result<Grant, ConnectorError> {
        let authorization = self.authorization()?;
        let metadata = self.metadata().await?;
        let own = &self.entry.token;
        let further = filled(&own.parameters, &self.parameters);
        let code = exchange.code.expose();
        let mut fields = match own.grant {
            CodeGrant::Code => vec![("grant_type", "authorization_code"), ("code", code)],
            CodeGrant::Assertion => vec![("grant_type", JWT_BEARER), ("assertion", code)],
        };
        if own.send_redirect_uri {
            fields.push(("redirect_uri", exchange.redirect_uri.as_str()));
        }
        if authorization.pkce == Pkce::S256 {
            fields.push(("code_verifier", exchange.code_verifier.expose()));
        }
        fields.extend(further.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let secrets = [&exchange.code, &exchange.code_verifier, &exchange.nonce];
        let dynamic = self.token_url(&exchange.parameters)?;
        let url = dynamic.as_ref().unwrap_or(&metadata.token_endpoint);
        let key = self.base.dpop_key(exchange.dpop_key.as_ref())?;
        let to = Destination { url, encoding: &self.token, dpop: key.as_ref() };
        let tokens = self.ask_for_tokens(&metadata, &to, &fields, &secrets).await?;
        let scopes = self.scopes(authorization, &exchange.scopes);
        self.granted(&metadata, tokens, Some(exchange), scopes, key.as_ref()).await
    }

    async fn device_authorize(
        &self,
        scopes: &[String],
    ) -> Result<DeviceAuthorization, ConnectorError> {
        let authorization = self.device_flow()?;
        let metadata = self.metadata().await?;
        let url = match &self.endpoints.device {
            Some(url) => url,
            None => device_endpoint(&metadata)?,
        };
        let scopes = self.scopes(authorization, scopes).join(&authorization.scope_separator);
        let mut fields = Vec::new();
        if !authorization.scope_parameter.is_empty() && !scopes.is_empty() {
            fields.push((authorization.scope_parameter.as_str(), scopes.as_str()));
        }
        let to = Destination { url, encoding: &self.token, dpop: None };
        self.base.ask_for_device_code(&metadata, &to, &fields).await
    }

    async fn device_poll(
        &self,
        device_code: &Secret,
        scopes: &[String],
    ) -> Result<DevicePoll, ConnectorError> {
        let authorization = self.device_flow()?;
        let metadata = self.metadata().await?;
        let key = self.base.dpop_key(None)?;
        let dpop = key.as_ref();
        let to = Destination { url: &metadata.token_endpoint, encoding: &self.token, dpop };
        let fields = [("grant_type", DEVICE_GRANT), ("device_code", device_code.expose())];
        let polled =
            self.base.poll_for_tokens(&metadata, &to, &fields, &self.layout, device_code).await?;
        let tokens = match polled {
            Polled::Pending => return Ok(DevicePoll::Pending),
            Polled::SlowDown => return Ok(DevicePoll::SlowDown),
            Polled::Tokens(tokens) => *tokens,
        };
        let scopes = self.scopes(authorization, scopes);
        let grant = self.granted(&metadata, tokens, None, scopes, dpop).await?;
        Ok(DevicePoll::Granted(Box::new(grant)))
    }

    async fn build_identity(&self, grant: &Grant) -> Result<ExternalAccount, ConnectorError> {
        let facts = self.facts(grant).await?;
        self.account(grant, &facts)
    }

    async fn refresh(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError> {
        let refresh = self.refreshing()?;
        let metadata = self.metadata().await?;
        let further = filled(&refresh.parameters, &self.parameters);
        let token = request.refresh_token.expose();
        let url = self.endpoints.refresh.as_ref().unwrap_or(&metadata.token_endpoint);
        let key = self.base.dpop_key(request.dpop_key.as_ref())?;
        let to = Destination { url, encoding: &self.refresh, dpop: key.as_ref() };
        let mut fields = match (refresh.grant, self.entry.token.grant) {
            (Some(SelfRefreshGrant::Instagram), _) => {
                vec![("grant_type", "ig_refresh_token"), ("access_token", token)]
            }
            (Some(SelfRefreshGrant::Threads), _) => {
                vec![("grant_type", "th_refresh_token"), ("access_token", token)]
            }
            (None, CodeGrant::Code) => {
                vec![("grant_type", "refresh_token"), ("refresh_token", token)]
            }
            (None, CodeGrant::Assertion) => {
                vec![("grant_type", "refresh_token"), ("assertion", token)]
            }
        };
        fields.extend(further.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let scopes = self.entry.authorization.as_ref().map(|it| {
            let scopes = self.scopes(it, &[]);
            (it.scope_parameter.as_str(), scopes.join(&it.scope_separator))
        });
        if refresh.send_scope
            && let Some((name, scopes)) = &scopes
        {
            fields.push((name, scopes));
        }
        if refresh.send_redirect_uri
            && let Some(redirect_uri) = &request.redirect_uri
        {
            fields.push(("redirect_uri", redirect_uri.as_str()));
        }
        let secrets = [&request.refresh_token];
        let layout = &self.refresh_layout;
        let mut tokens = if refresh.with == RefreshWith::AccessToken {
            let asked = to.encoding.request(to.url.clone(), &fields);
            let answer = self.base.engine.http.send(asked).await.map_err(to_domain)?;
            self.base.read_answer(TOKEN_ENDPOINT, &answer, layout, &secrets)?
        } else {
            let other = refresh.authentication.and_then(|it| self.base.authenticated_by(it));
            let base = other.as_ref().unwrap_or(&self.base);
            let read = |answer: &_| base.read_answer(TOKEN_ENDPOINT, answer, layout, &secrets);
            base.send_authenticated(&metadata, &to, &fields, read).await?
        };
        if let (Some(openid), Some(id_token)) = (&self.entry.openid, &tokens.id_token) {
            let check = self.check_id_token(openid, id_token, &metadata, &tokens, None);
            match self.base.proven_in_time(check).await? {
                Some(claims) => {
                    let id = self.id_of_claims(&claims);
                    if id.is_some_and(|it| it != request.external_id.as_str()) {
                        return Err(untrusted("the ID token", "it is about another account"));
                    }
                }
                None => tokens.id_token = None,
            }
        }
        Ok(self.credentials(tokens, Vec::new(), key.as_ref()))
    }

    async fn reachable(&self) -> Result<(), ConnectorError> {
        self.check_client()?;
        if self.entry.is_discovered() {
            return self.discovered(true).await.map(drop);
        }
        // Any answer but that of an outage is a sign of life; nothing is spent by asking so.
        let metadata = self.metadata().await?;
        let url = metadata.jwks_uri.as_ref().unwrap_or(&metadata.token_endpoint);
        let mut url = url.clone();
        url.set_query(None);
        let answer = self.base.engine.http.send(HttpRequest::get(url)).await.map_err(to_domain)?;
        match answer.status {
            429 | 500.. => Err(ConnectorError::Unavailable {
                detail: format!("the provider answered {}", answer.status),
                retry_after: answer.retry_after(self.base.engine.clock.now()),
                sent: Sent::No,
            }),
            _ => Ok(()),
        }
    }

    async fn verify_logout(&self, logout_token: &Secret) -> Result<Logout, ConnectorError> {
        let Some(openid) = &self.entry.openid else {
            return Err(untrusted(LOGOUT_TOKEN, "this provider type issues none"));
        };
        let jws = self.base.read_logout_token(logout_token)?;
        let metadata = self.metadata().await?;
        let claims = jws.unverified_claims().unwrap_or_default();
        let issuers = self.issuers(openid, &metadata, &claims);
        let verified = self.base.check_logout_token(&jws, &metadata, &issuers);
        let (claims, said) = verified.await?;
        if !claims.contains_key("sub") {
            return Ok(logout(None, said));
        }
        match self.account_of_logout(&claims) {
            Ok(external_id) => Ok(logout(Some(external_id), said)),
            // By the session the account is found whatever its id is made of.
            Err(_) if said.session_id.is_some() => Ok(logout(None, said)),
            Err(error) => Err(error),
        }
    }

    async fn revoke(&self, credentials: &Credentials) -> Result<Revocation, ConnectorError> {
        let (Some(revoke), Some(encoding), Some(url)) =
            (&self.entry.revoke, &self.revoke, &self.endpoints.revocation)
        else {
            let has_tokens =
                credentials.refresh_token.is_some() || credentials.access_token.is_some();
            if has_tokens && self.entry.revokes_by_discovery() {
                return self.base.end_grant(&*self.metadata().await?, credentials).await;
            }
            return Ok(Revocation::Unsupported);
        };
        let to = Destination { url, encoding, dpop: None };
        let renews_itself = credentials.refresh_token == credentials.access_token;
        let refresh = credentials.refresh_token.as_ref().filter(|_| !renews_itself);
        let access = credentials.access_token.as_ref();
        let (refresh, access) = match revoke.token {
            RevokedToken::Both => (refresh, access),
            RevokedToken::Access => (None, access),
            // Where there never was a refresh token, the access token is the grant.
            RevokedToken::Refresh => (refresh, access.filter(|_| refresh.is_none())),
        };
        let mut outcome = None;
        if let Some(token) = refresh {
            outcome = Some(self.revoke_token(revoke, &to, token, "refresh_token").await?);
        }
        if let Some(token) = access {
            let access = self.revoke_token(revoke, &to, token, "access_token").await;
            match outcome {
                // The grant is ended; what is left of the access token runs out by itself.
                Some(Revocation::Revoked) => {}
                _ => outcome = Some(access?),
            }
        }
        Ok(outcome.unwrap_or(Revocation::Unsupported))
    }
}

/// Templates of parameters, filled; one that uses a parameter without a value is left out.
pub(super) fn filled(
    templates: &BTreeMap<String, Template>,
    parameters: &Parameters,
) -> Vec<(String, String)> {
    let filled = templates.iter();
    filled.filter_map(|(name, it)| Some((name.clone(), it.fill(&parameters.alone())?))).collect()
}

/// One object over the other.
fn merged(under: Value, over: Value) -> Value {
    match (under, over) {
        (Value::Object(mut under), Value::Object(over)) => {
            under.extend(over);
            Value::Object(under)
        }
        (_, over) => over,
    }
}
