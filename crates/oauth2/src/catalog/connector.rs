use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use serde_json::{Map, Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::Credentials,
    identity_provider::Capabilities,
    ports::{
        AuthorizationRequest, CodeExchange, Connector, ConnectorError, DeviceAuthorization,
        DevicePoll, Grant, Logout, RefreshRequest, Revocation, Sent,
    },
    secret::Secret,
};
use url::Url;

use super::{
    entry::{
        Authorization, CodeGrant, Entry, LongLivedGrant, Pkce, Refresh, RefreshWith, ResponseMode,
        SelfRefreshGrant,
    },
    is_host,
    template::{Template, Values},
    values::Parameters,
};
use crate::{
    client::Encoding,
    config::MOST_SECONDS,
    connector::{Destination, LOGOUT_TOKEN, OpenIdConnector, device_endpoint, logout, to_domain},
    device::{DEVICE_GRANT, Polled},
    dpop::{self, DpopKey},
    http::HttpRequest,
    metadata::{Metadata, another_issuer, misconfigured},
    registration,
    token_answer::{Layout, TokenResponse},
    untrusted,
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_ENDPOINT: &str = "the token endpoint";

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
        let openid = if self.entry.has_id_tokens() { &openid[..] } else { &[] };
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
            // It is kept already.
            tokens.id_token = tokens.id_token.filter(|_| !openid.is_in_access_token());
        }
        let nothing = BTreeMap::new();
        let callback = self.callback(trade.map_or(&nothing, |it| &it.parameters));
        let facts = Map::from_iter([
            ("token".to_owned(), tokens.rest.clone()),
            ("callback".to_owned(), callback),
        ]);
        Ok(Grant { credentials: self.credentials(tokens, None, scopes, dpop), claims, facts })
    }

    /// What a device asks for, where it can.
    fn device_flow(&self) -> Result<&Authorization, ConnectorError> {
        if self.entry.device.is_none() {
            return Err(misconfigured("this provider type has no device flow"));
        }
        self.authorization()
    }

    /// What is kept of the tokens, for which this refresh token was used, if one was. Where an
    /// access token renews itself, it is the refresh token.
    fn credentials(
        &self,
        tokens: TokenResponse,
        used: Option<&Secret>,
        scopes: Vec<String>,
        dpop: Option<&DpopKey>,
    ) -> Credentials {
        let is_told = tokens.refresh_expires_in.is_some();
        let mut credentials = self.base.credentials(tokens, scopes, dpop);
        let Some(refresh) = &self.entry.refresh else {
            // Nothing could be done with it, and what is not kept is not lost.
            credentials.refresh_token = None;
            credentials.refresh_expires_at = None;
            return credentials;
        };
        if refresh.with == RefreshWith::AccessToken {
            credentials.refresh_token.clone_from(&credentials.access_token);
            credentials.refresh_expires_at = credentials.expires_at;
            return credentials;
        }
        let Some(life) = refresh.lifetime_seconds else { return credentials };
        let life = TimeDelta::from_std(Duration::from_secs(life.min(MOST_SECONDS))).ok();
        let end = life.and_then(|it| self.base.engine.clock.now().checked_add_signed(it));
        if refresh.idle_seconds.is_some() {
            // Beside the time that a token may lie idle, it is that of the grant.
            credentials.refresh_ends_at = end.filter(|_| used.is_none());
        } else if !is_told && self.base.client.refresh_token_idle.is_none() {
            let is_new = credentials.refresh_token.as_ref().is_some_and(|it| Some(it) != used);
            credentials.refresh_expires_at = end.filter(|_| is_new);
        }
        credentials
    }

    fn refreshing(&self) -> Result<&Refresh, ConnectorError> {
        self.entry.refresh.as_ref().ok_or_else(|| {
            misconfigured("this provider has no refresh tokens; the user must link again")
        })
    }

    /// What the token endpoint gives for a refresh token, with nothing of it checked yet.
    pub(super) async fn trade_in(
        &self,
        metadata: &Metadata,
        refresh_token: &Secret,
        redirect_uri: Option<&Url>,
        dpop: Option<&DpopKey>,
    ) -> Result<TokenResponse, ConnectorError> {
        let refresh = self.refreshing()?;
        let further = filled(&refresh.parameters, &self.parameters.alone());
        let token = refresh_token.expose();
        let url = self.endpoints.refresh.as_ref().unwrap_or(&metadata.token_endpoint);
        let to = Destination { url, encoding: &self.refresh, dpop };
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
            && let Some(redirect_uri) = redirect_uri
        {
            fields.push(("redirect_uri", redirect_uri.as_str()));
        }
        let secrets = [refresh_token];
        let layout = &self.refresh_layout;
        if refresh.with == RefreshWith::AccessToken {
            let asked = to.encoding.request(to.url.clone(), &fields);
            let answer = self.base.engine.http.send(asked).await.map_err(to_domain)?;
            self.base.read_answer(TOKEN_ENDPOINT, &answer, layout, &secrets)
        } else {
            let other = refresh.authentication.and_then(|it| self.base.authenticated_by(it));
            let base = other.as_ref().unwrap_or(&self.base);
            let read = |answer: &_| base.read_answer(TOKEN_ENDPOINT, answer, layout, &secrets);
            base.send_authenticated(metadata, &to, &fields, read).await
        }
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
                .append_pair("response_type", &authorization.response_type)
                .append_pair(&authorization.client_id_parameter, &self.parameters.client_id)
                .append_pair("redirect_uri", request.redirect_uri.as_str())
                .append_pair("state", request.state.expose());
            if !authorization.scope_parameter.is_empty() && !scopes.is_empty() {
                let scopes = scopes.join(&authorization.scope_separator);
                query.append_pair(&authorization.scope_parameter, &scopes);
            }
            if self.entry.has_id_tokens() {
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
            query.extend_pairs(filled(&authorization.parameters, &self.parameters.alone()));
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
        let facts = json!({ "callback": self.callback(&exchange.parameters) });
        let further = filled(&own.parameters, &self.parameters.and(&facts));
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
        if own.send_state {
            fields.push(("state", exchange.state.expose()));
        }
        fields.extend(further.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let secrets = [&exchange.code, &exchange.code_verifier, &exchange.nonce, &exchange.state];
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
        let metadata = self.metadata().await?;
        let key = self.base.dpop_key(request.dpop_key.as_ref())?;
        let RefreshRequest { refresh_token, redirect_uri, .. } = request;
        let mut tokens =
            self.trade_in(&metadata, refresh_token, redirect_uri.as_ref(), key.as_ref()).await?;
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
            tokens.id_token = tokens.id_token.filter(|_| !openid.is_in_access_token());
        }
        Ok(self.credentials(tokens, Some(&request.refresh_token), Vec::new(), key.as_ref()))
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
        self.end_grant(credentials).await
    }
}

/// Templates, filled; one with a part that has no value is left out.
pub(super) fn filled(
    templates: &BTreeMap<String, Template>,
    values: &impl Values,
) -> Vec<(String, String)> {
    let filled = templates.iter();
    filled.filter_map(|(name, it)| Some((name.clone(), it.fill(values)?))).collect()
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
