use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use serde_json::{Map, Value};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::{Credentials, DPOP},
    identity_provider::Capabilities,
    ids::ExternalId,
    ports::{
        AuthorizationRequest, CodeExchange, Connector, ConnectorError, DeviceAuthorization,
        DevicePoll, Grant, Logout, RefreshRequest, Revocation, Sent,
    },
    secret::Secret,
};
use tokio::time::timeout;
use url::Url;

use crate::{
    catalog::entry::Authentication,
    client::{Addressee, Client, ClientAuthentication, Encoding},
    client_secrets::{LastWorked, Verdict, Which, count, tell_changed},
    device::{self, DEVICE_ENDPOINT, DEVICE_GRANT, Polled},
    dpop::{self, DpopKey, Presented, Proving},
    engine::Engine,
    http::{HttpError, HttpRequest, HttpResponse},
    id_token::{self, Expected},
    json,
    jws::{Jws, NotVerified},
    logout_token::{self, Said},
    metadata::{Issuer, Metadata, misconfigured},
    profile,
    token_answer::{Layout, TokenAnswer, TokenResponse},
    untrusted,
};

const DEFAULT_SCOPES: [&str; 3] = ["openid", "profile", "email"];
const OFFLINE_ACCESS: &str = "offline_access";
pub(crate) const LOGOUT_TOKEN: &str = "the logout token";

/// Speaks OpenID Connect to one issuer as one client.
///
/// A type whose provider departs from the standard wraps it and changes what differs.
pub struct OpenIdConnector {
    pub(crate) engine: Engine,
    pub(crate) client: Client,
    /// Which of two client secrets works, where there are two.
    last_worked: Option<LastWorked>,
}

/// Where a request goes, and how it is written.
pub(crate) struct Destination<'a> {
    pub(crate) url: &'a Url,
    pub(crate) encoding: &'a Encoding,
    /// What we prove to hold, where tokens are bound to it.
    pub(crate) dpop: Option<&'a DpopKey>,
}

impl<'a> Destination<'a> {
    /// As the standard has it.
    pub(crate) fn standard(url: &'a Url) -> Self {
        Self { url, encoding: Encoding::standard(), dpop: None }
    }

    /// The same, with a proof that we hold this key.
    pub(crate) fn proving(self, dpop: Option<&'a DpopKey>) -> Self {
        Self { dpop, ..self }
    }
}

/// Why the claims of an ID token are not to be had.
pub(crate) enum Unproven {
    /// It is not what it should be.
    Untrusted(ConnectorError),
    /// Nobody can tell just now: there is no key to verify it with.
    NoKeys(ConnectorError),
}

impl From<Unproven> for ConnectorError {
    fn from(unproven: Unproven) -> Self {
        match unproven {
            // The code was traded by then.
            Unproven::NoKeys(Self::Unavailable { detail, retry_after, .. }) => {
                Self::Unavailable { detail, retry_after, sent: Sent::Unknown }
            }
            Unproven::Untrusted(error) | Unproven::NoKeys(error) => error,
        }
    }
}

impl OpenIdConnector {
    /// A connector; asks nobody.
    #[must_use]
    pub fn new(engine: Engine, client: Client) -> Self {
        let last_worked = engine.client_secrets.of(engine.provider, &client);
        Self { engine, client, last_worked }
    }

    /// The same client, proving in another way to be it; `None` where it has no secret or that is
    /// no way of a client.
    pub(crate) fn authenticated_by(&self, way: Authentication) -> Option<Self> {
        let secret = self.client.authentication.secret();
        let authentication = match (way, secret) {
            (Authentication::Basic, Some(secret)) => ClientAuthentication::Basic(secret.clone()),
            (Authentication::Post, Some(secret)) => ClientAuthentication::Post(secret.clone()),
            (Authentication::Either, Some(secret)) => ClientAuthentication::Either(secret.clone()),
            (Authentication::None, _) => ClientAuthentication::None,
            _ => return None,
        };
        Some(self.with_authentication(authentication))
    }

    /// The same client, proving to be it with its secret after this scheme; `None` where it has
    /// none.
    pub(crate) fn authenticated_after(&self, scheme: &str) -> Option<Self> {
        let secret = self.client.authentication.secret()?;
        let authentication = ClientAuthentication::Scheme(scheme.to_owned(), secret.clone());
        Some(self.with_authentication(authentication))
    }

    fn with_authentication(&self, authentication: ClientAuthentication) -> Self {
        let client = Client { authentication, ..self.client.clone() };
        Self::new(self.engine.clone(), client)
    }

    pub(crate) async fn metadata(&self) -> Result<Arc<Metadata>, ConnectorError> {
        self.engine.metadata(&self.client.issuer).await
    }

    /// What to ask for: what the attempt asks for, or the configured scopes, or the default ones;
    /// `openid` always; `offline_access` with all of them where the operator configured it or,
    /// nothing being configured, where the provider lists it.
    fn scopes(&self, asked: &[String], metadata: &Metadata) -> Vec<String> {
        let lists = |scopes: &[String]| scopes.iter().any(|it| it == OFFLINE_ACCESS);
        let configured = self.client.scopes.as_deref();
        let offline = match configured {
            Some(scopes) => lists(scopes),
            None => self.client.offline_access && lists(&metadata.scopes_supported),
        };
        let mut scopes = if asked.is_empty() {
            configured
                .map_or_else(|| DEFAULT_SCOPES.map(str::to_owned).to_vec(), <[String]>::to_vec)
        } else {
            asked.to_vec()
        };
        if !scopes.iter().any(|it| it == "openid") {
            scopes.insert(0, "openid".into());
        }
        if offline && !lists(&scopes) {
            scopes.push(OFFLINE_ACCESS.into());
        }
        scopes
    }

    /// What the tokens are for, as fields.
    pub(crate) fn resource(&self) -> impl Iterator<Item = (&str, &str)> {
        self.client.resource.iter().map(|it| ("resource", it.as_str()))
    }

    /// Pushes an authorization request where the provider insists on it or the operator wants it
    /// ([RFC 9126 §2](https://www.rfc-editor.org/rfc/rfc9126#section-2)): the name by which the
    /// browser brings it back. `None` where the browser carries it all.
    pub(crate) async fn push(
        &self,
        metadata: &Metadata,
        parameters: &[(&str, &str)],
        dpop: Option<&DpopKey>,
    ) -> Result<Option<Secret>, ConnectorError> {
        if !metadata.require_pushed_authorization_requests && !self.client.pushes {
            return Ok(None);
        }
        let Some(endpoint) = &metadata.pushed_authorization_request_endpoint else {
            return Err(misconfigured("the provider has no endpoint to push requests to"));
        };
        let read = |answer: &HttpResponse| {
            let endpoint = "the endpoint for pushed requests";
            let body = answer.body.as_deref().ok().and_then(|it| json::object(it).ok());
            let name = body.as_ref().and_then(|it| it.get("request_uri")?.as_str());
            match (answer.status, name) {
                (200 | 201, Some(name)) => Ok(Secret::new(name)),
                (200..=299, _) => Err(ConnectorError::Unavailable {
                    detail: format!("{endpoint} gave no readable answer"),
                    retry_after: None,
                    sent: Sent::Answered,
                }),
                // An error answer of the token endpoint's form (RFC 9126 §2.3).
                _ => match self.read_answer(endpoint, answer, Layout::standard(), &[]) {
                    Err(error) => Err(error),
                    Ok(_) => Err(untrusted("the answer to a pushed request", "it has tokens")),
                },
            }
        };
        let to = Destination::standard(endpoint).proving(dpop);
        self.send_authenticated(metadata, &to, parameters, read).await.map(Some)
    }

    /// Sends a form to one of the provider's endpoints, authenticated as the client, and reads
    /// what came of it with `read`.
    ///
    /// Where two client secrets are alive and the provider does not know the one that worked last,
    /// the form is sent once more with the other one: what is in it was not looked at then, see
    /// [`Verdict::Rejected`]. So it is where the provider wants to see a nonce in the proof, see
    /// [`Engine::send_proven`]. Nothing else is ever sent twice.
    pub(crate) async fn send_authenticated<T>(
        &self,
        metadata: &Metadata,
        to: &Destination<'_>,
        fields: &[(&str, &str)],
        read: impl Fn(&HttpResponse) -> Result<T, ConnectorError>,
    ) -> Result<T, ConnectorError> {
        let provider = self.engine.provider;
        let send = async |which: Which| {
            let authentication = self.client.authentication(which);
            let addressee =
                Addressee { issuer: self.client.issuer.as_str(), now: self.engine.clock.now() };
            let client_id = &self.client.client_id;
            // Proven anew each time: an assertion is good once.
            let make = || {
                let proof = authentication.prove(client_id, metadata, to.encoding, &addressee);
                proof.request(to.url.clone(), to.encoding, fields)
            };
            let proving = Proving { key: to.dpop, access_token: None };
            let answer = self.engine.send_proven(make, &proving).await.map_err(to_domain)?;
            let result = read(&answer);
            let verdict = Verdict::of(&result);
            if authentication.secret().is_some() {
                count(provider, which, verdict);
            }
            Ok::<_, ConnectorError>((result, verdict))
        };
        let Some(last_worked) = &self.last_worked else {
            return send(Which::Current).await?.0;
        };
        let first = last_worked.get();
        let (result, verdict) = send(first).await?;
        if verdict != Verdict::Rejected {
            return result;
        }
        let (result, verdict) = send(first.other()).await?;
        if verdict == Verdict::Accepted && last_worked.set(first.other()) {
            tell_changed(provider, &self.client, first.other());
        }
        result
    }

    /// What the endpoint's answer means.
    pub(crate) fn read_answer(
        &self,
        endpoint: &'static str,
        answer: &HttpResponse,
        layout: &Layout,
        secrets: &[&Secret],
    ) -> Result<TokenResponse, ConnectorError> {
        let secrets: Vec<&Secret> = secrets.iter().copied().chain(self.client.secrets()).collect();
        let answer = TokenAnswer {
            endpoint,
            status: answer.status,
            retry_after: answer.retry_after(self.engine.clock.now()),
            content_type: answer.header("content-type"),
            rules: &self.client.error_rules,
            layout,
            now: self.engine.clock.now(),
            body: answer.body.as_deref().map_err(|it| *it),
            proven: answer.proven,
        };
        answer.read(&secrets)
    }

    /// Asks the token endpoint, and reads what came of it.
    pub(crate) async fn ask_for_tokens(
        &self,
        metadata: &Metadata,
        fields: &[(&str, &str)],
        secrets: &[&Secret],
        dpop: Option<&DpopKey>,
    ) -> Result<TokenResponse, ConnectorError> {
        let to = Destination::standard(&metadata.token_endpoint).proving(dpop);
        let layout = Layout::standard();
        let read = |answer: &_| self.read_answer("the token endpoint", answer, layout, secrets);
        self.send_authenticated(metadata, &to, fields, read).await
    }

    /// Asks the device authorization endpoint.
    pub(crate) async fn ask_for_device_code(
        &self,
        metadata: &Metadata,
        to: &Destination<'_>,
        fields: &[(&str, &str)],
    ) -> Result<DeviceAuthorization, ConnectorError> {
        let unreadable = |what: &str| ConnectorError::Unavailable {
            detail: format!("{DEVICE_ENDPOINT}'s answer cannot be read: {what}"),
            retry_after: None,
            sent: Sent::Answered,
        };
        let read = |answer: &HttpResponse| {
            if let Some(authorization) = device::authorization(answer, &self.engine.http) {
                return authorization.map_err(unreadable);
            }
            match self.read_answer(DEVICE_ENDPOINT, answer, Layout::standard(), &[]) {
                // Neither an authorization nor an error.
                Ok(_) | Err(ConnectorError::Unavailable { sent: Sent::Unknown, .. }) => {
                    Err(unreadable("it has no device_code"))
                }
                Err(error) => Err(error),
            }
        };
        self.send_authenticated(metadata, to, fields, read).await
    }

    /// Asks for a device code as a client that says who it is and does not prove it, for a provider
    /// that wants the proof only of whoever asks for the tokens.
    ///
    /// # Errors
    ///
    /// As [`Connector::device_authorize`].
    pub async fn device_authorize_unproven(
        &self,
        scopes: &[String],
    ) -> Result<DeviceAuthorization, ConnectorError> {
        self.with_authentication(ClientAuthentication::None).device_authorize(scopes).await
    }

    /// Asks the token endpoint what became of a device code.
    pub(crate) async fn poll_for_tokens(
        &self,
        metadata: &Metadata,
        to: &Destination<'_>,
        fields: &[(&str, &str)],
        layout: &Layout,
        device_code: &Secret,
    ) -> Result<Polled, ConnectorError> {
        let read = |answer: &HttpResponse| {
            device::undecided(answer).unwrap_or_else(|| {
                let tokens = self.read_answer("the token endpoint", answer, layout, &[device_code]);
                tokens.map(|it| Polled::Tokens(Box::new(it)))
            })
        };
        self.send_authenticated(metadata, to, fields, read).await
    }

    /// The key for a request by which tokens are bound: the one that the grant is bound to already,
    /// whatever is configured by now, or a new one where grants are to be bound.
    pub(crate) fn dpop_key(
        &self,
        bound_to: Option<&Secret>,
    ) -> Result<Option<DpopKey>, ConnectorError> {
        let new = || self.client.dpop.then(DpopKey::generate);
        bound_to.cloned().or_else(new).as_ref().map(dpop::read).transpose()
    }

    /// Refuses a token of a new grant that is not bound to the key that we proved to hold
    /// ([RFC 9449 §5](https://www.rfc-editor.org/rfc/rfc9449#section-5)): nothing is lost with it.
    pub(crate) fn check_bound(
        key: Option<&DpopKey>,
        tokens: &TokenResponse,
    ) -> Result<(), ConnectorError> {
        if key.is_none() || tokens.token_type.as_deref() == Some(DPOP) {
            return Ok(());
        }
        Err(misconfigured(
            "the provider does not bind the access token to our key, although dpop is on; have it bind \
             our client's tokens, or turn dpop off",
        ))
    }

    pub(crate) fn credentials(
        &self,
        tokens: TokenResponse,
        scopes: Vec<String>,
        dpop: Option<&DpopKey>,
    ) -> Credentials {
        let now = self.engine.clock.now();
        // Bounded by the reading of the answer, so neither step overflows.
        let life = tokens.expires_in.and_then(|it| TimeDelta::from_std(it).ok());
        let idle = tokens.refresh_expires_in.or(self.client.refresh_token_idle);
        let idle = idle.and_then(|it| TimeDelta::from_std(it).ok());
        Credentials {
            access_token: Some(tokens.access_token),
            refresh_token: tokens.refresh_token,
            refresh_expires_at: idle.and_then(|it| now.checked_add_signed(it)),
            id_token: tokens.id_token,
            token_type: tokens.token_type,
            expires_at: life.and_then(|it| now.checked_add_signed(it)),
            obtained_at: Some(now),
            scopes: tokens.scopes.unwrap_or(scopes),
            dpop_key: dpop.map(|it| it.text().clone()),
            ..Credentials::default()
        }
    }

    /// The claims of a token that one of the issuer's keys signed.
    pub(crate) async fn verified(
        &self,
        jws: &Jws<'_>,
        metadata: &Metadata,
        what: &str,
    ) -> Result<Map<String, Value>, Unproven> {
        let refused = |why| Unproven::Untrusted(untrusted(what, why));
        let issuer = &self.client.issuer;
        let Some(jwks_uri) = &metadata.jwks_uri else {
            return Err(refused("the provider has no keys"));
        };
        let keys = self.engine.keys(issuer, jwks_uri).await.map_err(Unproven::NoKeys)?;
        match jws.verify(&keys) {
            Ok(claims) => return Ok(claims),
            Err(NotVerified::Refused(why)) => return Err(refused(why)),
            Err(NotVerified::NoKey) => {}
        }
        let no_key = "no key of the issuer signed it";
        let newer = self.engine.newer_keys(issuer, jwks_uri, &keys).await;
        match newer.map_err(Unproven::NoKeys)? {
            None => Err(Unproven::NoKeys(untrusted(what, no_key))),
            Some(keys) => jws.verify(&keys).map_err(|error| match error {
                NotVerified::Refused(why) => refused(why),
                NotVerified::NoKey => refused(no_key),
            }),
        }
    }

    pub(crate) fn expected<'a>(&'a self, tokens: &'a TokenResponse) -> Expected<'a> {
        Expected {
            issuers: &self.client.token_issuers,
            client_id: &self.client.client_id,
            now: self.engine.clock.now(),
            leeway: self.engine.leeway,
            nonce: None,
            subject: None,
            access_token: &tokens.access_token,
            code: None,
        }
    }

    pub(crate) async fn check_id_token(
        &self,
        id_token: &Secret,
        metadata: &Metadata,
        expected: &Expected<'_>,
    ) -> Result<Map<String, Value>, Unproven> {
        let what = "the ID token";
        let refused = |why| Unproven::Untrusted(untrusted(what, why));
        let jws = Jws::parse(id_token.expose(), &self.client.signing_algs)
            .map_err(|malformed| refused(malformed.0))?;
        match self.verified(&jws, metadata, what).await {
            Ok(claims) => {
                expected.check(&claims, jws.alg).map_err(refused)?;
                Ok(claims)
            }
            // What does not fit even unsigned is refused all the same.
            Err(Unproven::NoKeys(error)) => {
                let claims = jws.unverified_claims().ok_or_else(|| refused("it has no claims"))?;
                expected.check_parties(&claims).map_err(refused)?;
                Err(Unproven::NoKeys(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the form of a logout token, before anybody is asked for the sake of it: whoever likes
    /// can send one.
    pub(crate) fn read_logout_token<'a>(
        &self,
        logout_token: &'a Secret,
    ) -> Result<Jws<'a>, ConnectorError> {
        let algs = &self.client.signing_algs;
        Jws::parse_as(logout_token.expose(), algs, &logout_token::TYPES)
            .map_err(|malformed| untrusted(LOGOUT_TOKEN, malformed.0))
    }

    /// Verifies a logout token, but for whom it is about: its claims, and what they say.
    pub(crate) async fn check_logout_token(
        &self,
        jws: &Jws<'_>,
        metadata: &Metadata,
        issuers: &[String],
    ) -> Result<(Map<String, Value>, Said), ConnectorError> {
        let claims = match self.verified(jws, metadata, LOGOUT_TOKEN).await {
            Ok(claims) => claims,
            Err(Unproven::Untrusted(error) | Unproven::NoKeys(error)) => return Err(error),
        };
        let expected = logout_token::Expected {
            issuers,
            client_id: &self.client.client_id,
            now: self.engine.clock.now(),
            leeway: self.engine.leeway,
        };
        let said = expected.check(&claims).map_err(|why| untrusted(LOGOUT_TOKEN, why))?;
        Ok((claims, said))
    }

    /// The claims of the userinfo endpoint
    /// ([OpenID Connect Core 1.0 §5.3](https://openid.net/specs/openid-connect-core-1_0.html#UserInfo)),
    /// plain or signed.
    pub(crate) async fn userinfo(
        &self,
        endpoint: &Url,
        access: &Presented<'_>,
        metadata: &Metadata,
    ) -> Result<Map<String, Value>, ConnectorError> {
        let answer = self.ask_userinfo(endpoint, access).await?;
        self.read_userinfo(&answer, metadata).await
    }

    pub(crate) async fn ask_userinfo(
        &self,
        endpoint: &Url,
        access: &Presented<'_>,
    ) -> Result<HttpResponse, ConnectorError> {
        let make = || {
            HttpRequest::get(endpoint.clone())
                .authorization(access.scheme("Bearer"), access.token.expose())
                .accept("application/json, application/jwt")
        };
        self.engine.send_proven(make, &access.into()).await.map_err(to_domain)
    }

    pub(crate) async fn read_userinfo(
        &self,
        answer: &HttpResponse,
        metadata: &Metadata,
    ) -> Result<Map<String, Value>, ConnectorError> {
        let what = "the userinfo answer";
        let unavailable = |detail: String| ConnectorError::Unavailable {
            detail,
            retry_after: answer.retry_after(self.engine.clock.now()),
            sent: Sent::Answered,
        };
        if answer.status != 200 {
            return Err(unavailable(format!("the userinfo endpoint answered {}", answer.status)));
        }
        let unreadable = || unavailable("the userinfo endpoint's answer cannot be read".into());
        let body = answer.body.as_ref().map_err(|_| unreadable())?;
        let media_type = answer.header("content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/jwt") {
            return json::object(body).map_err(|_| unreadable());
        }
        let text = std::str::from_utf8(body).map_err(|_| unreadable())?;
        let jws = Jws::parse(text.trim(), &self.client.signing_algs)
            .map_err(|malformed| untrusted(what, malformed.0))?;
        let claims = self.verified(&jws, metadata, what).await?;
        let refused = |why| untrusted(what, why);
        id_token::check_issuer(&claims, &self.client.token_issuers).map_err(refused)?;
        id_token::check_audience(&claims, &self.client.client_id).map_err(refused)?;
        Ok(claims)
    }

    /// Ends the grant behind one token.
    pub(crate) async fn revoke_token(
        &self,
        metadata: &Metadata,
        endpoint: &Url,
        token: &Secret,
        hint: &str,
    ) -> Result<Revocation, ConnectorError> {
        let fields = [("token", token.expose()), ("token_type_hint", hint)];
        let read = |answer: &HttpResponse| {
            if (200..=299).contains(&answer.status) {
                return Ok(Revocation::Revoked);
            }
            match self.read_answer("the revocation endpoint", answer, Layout::standard(), &[token])
            {
                // It does not know the token any more (RFC 7009 §2.2 would have it say 200).
                Err(ConnectorError::GrantRejected { .. }) => Ok(Revocation::Revoked),
                Err(ConnectorError::ClientRejected { code }) if code == "invalid_token" => {
                    Ok(Revocation::Revoked)
                }
                Err(ConnectorError::ClientRejected { code })
                    if code == "unsupported_token_type" =>
                {
                    Ok(Revocation::Unsupported)
                }
                Err(error) => Err(error),
                Ok(_) => Ok(Revocation::Unsupported),
            }
        };
        self.send_authenticated(metadata, &Destination::standard(endpoint), &fields, read).await
    }

    /// Spends a refresh token; `subject` is whose ID token may be in the answer, where that is
    /// known.
    pub(crate) async fn renew(
        &self,
        metadata: &Metadata,
        request: &RefreshRequest,
        subject: Option<&str>,
    ) -> Result<Credentials, ConnectorError> {
        let RefreshRequest { refresh_token, dpop_key, .. } = request;
        let key = self.dpop_key(dpop_key.as_ref())?;
        let key = key.as_ref();
        let mut fields =
            vec![("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())];
        fields.extend(self.resource());
        let mut tokens = self.ask_for_tokens(metadata, &fields, &[refresh_token], key).await?;
        if metadata.jwks_uri.is_none() {
            // Nothing says what it should be, and nobody asked for it.
            tokens.id_token = None;
        }
        if let Some(id_token) = &tokens.id_token {
            let expected = Expected { subject, ..self.expected(&tokens) };
            let check = self.check_id_token(id_token, metadata, &expected);
            if self.proven_in_time(check).await?.is_none() {
                tokens.id_token = None;
            }
        }
        Ok(self.credentials(tokens, Vec::new(), key))
    }

    /// The claims of an ID token that came with a refresh; `None` where it cannot be verified just
    /// now and is to be left out: the tokens beside it came over the same connection from the
    /// provider's own endpoint, and throwing them away would end the grant.
    pub(crate) async fn proven_in_time(
        &self,
        check: impl Future<Output = Result<Map<String, Value>, Unproven>>,
    ) -> Result<Option<Map<String, Value>>, ConnectorError> {
        match timeout(self.engine.http.settings().timeout, check).await {
            Ok(Ok(claims)) => Ok(Some(claims)),
            Ok(Err(Unproven::Untrusted(error))) => Err(error),
            Ok(Err(Unproven::NoKeys(_))) | Err(_) => {
                tracing::warn!(
                    issuer = self.client.issuer.as_str(),
                    "the ID token of a refresh could not be verified and is left out"
                );
                Ok(None)
            }
        }
    }

    /// Ends the grant behind the tokens (RFC 7009), where the metadata say where.
    pub(crate) async fn end_grant(
        &self,
        metadata: &Metadata,
        credentials: &Credentials,
    ) -> Result<Revocation, ConnectorError> {
        let (refresh, access) = (&credentials.refresh_token, &credentials.access_token);
        let Some(endpoint) = &metadata.revocation_endpoint else {
            return Ok(Revocation::Unsupported);
        };
        let mut outcome = None;
        if let Some(token) = refresh {
            outcome = Some(self.revoke_token(metadata, endpoint, token, "refresh_token").await?);
        }
        if let Some(token) = access {
            let access = self.revoke_token(metadata, endpoint, token, "access_token").await;
            match outcome {
                // The grant is ended; what is left of the access token runs out by itself.
                Some(Revocation::Revoked) => {}
                _ => outcome = Some(access?),
            }
        }
        Ok(outcome.unwrap_or(Revocation::Unsupported))
    }
}

#[async_trait]
impl Connector for OpenIdConnector {
    fn capabilities(&self) -> Capabilities {
        self.client.capabilities
    }

    fn public_keys(&self) -> Vec<Value> {
        let signing = match &self.client.authentication {
            ClientAuthentication::PrivateKeyJwt(key) => Some(key),
            _ => None,
        };
        let all = signing.into_iter().chain(&self.client.published_keys);
        all.map(|it| it.public().clone()).collect()
    }

    fn new_dpop_key(&self) -> Option<Secret> {
        self.client.dpop.then(DpopKey::generate)
    }

    async fn authorize(&self, request: &AuthorizationRequest) -> Result<Url, ConnectorError> {
        let metadata = self.metadata().await?;
        let key = request.dpop_key.as_ref().map(dpop::read).transpose()?;
        if key.is_some() {
            metadata.check_dpop()?;
        }
        // Never without PKCE and never `plain` (RFC 9700 §2.1.1). A provider that lists nothing
        // may know it, and one that does not ignores it (RFC 6749 §3.1).
        if let Some(methods) = &metadata.code_challenge_methods_supported
            && !methods.iter().any(|it| it == "S256")
        {
            return Err(misconfigured("the provider does not support PKCE with S256"));
        }
        let scopes = self.scopes(&request.scopes, &metadata);
        let challenge = digest::digest(&digest::SHA256, request.code_verifier.expose().as_bytes());
        let (scopes_text, challenge) = (scopes.join(" "), URL_SAFE_NO_PAD.encode(challenge));
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", self.client.client_id.as_str()),
            ("redirect_uri", request.redirect_uri.as_str()),
            ("scope", &scopes_text),
            ("state", request.state.expose()),
            ("nonce", request.nonce.expose()),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        if let Some(hint) = &request.login_hint {
            parameters.push(("login_hint", hint));
        }
        // Without consent there is no offline access (OpenID Connect Core 1.0 §11).
        if scopes.iter().any(|it| it == OFFLINE_ACCESS) {
            parameters.push(("prompt", "consent"));
        }
        if let Some(key) = &key {
            parameters.push(("dpop_jkt", key.thumbprint()));
        }
        parameters.extend(self.resource());
        let further = self.client.authorization_parameters.iter();
        parameters.extend(further.map(|(name, value)| (name.as_str(), value.as_str())));
        let mut url = metadata.authorization_endpoint.clone();
        match self.push(&metadata, &parameters, key.as_ref()).await? {
            Some(request_uri) => {
                let client_id = &self.client.client_id;
                let pushed =
                    [("client_id", client_id.as_str()), ("request_uri", request_uri.expose())];
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
        let says_so =
            async { Ok(self.metadata().await?.authorization_response_iss_parameter_supported) };
        check_response_issuer(issuer, &self.client.issuer, required, says_so).await
    }

    async fn exchange(&self, exchange: &CodeExchange) -> Result<Grant, ConnectorError> {
        let metadata = self.metadata().await?;
        let key = self.dpop_key(exchange.dpop_key.as_ref())?;
        let key = key.as_ref();
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", exchange.code.expose()),
            ("redirect_uri", exchange.redirect_uri.as_str()),
            ("code_verifier", exchange.code_verifier.expose()),
        ];
        fields.extend(self.resource());
        let secrets = [&exchange.code, &exchange.code_verifier, &exchange.nonce];
        let tokens = self.ask_for_tokens(&metadata, &fields, &secrets, key).await?;
        Self::check_bound(key, &tokens)?;
        let Some(id_token) = &tokens.id_token else {
            return Err(untrusted("the token answer", "it has no ID token"));
        };
        let expected = Expected {
            nonce: Some(&exchange.nonce),
            code: Some(&exchange.code),
            ..self.expected(&tokens)
        };
        let claims = self.check_id_token(id_token, &metadata, &expected).await?;
        let scopes = self.scopes(&exchange.scopes, &metadata);
        Ok(Grant { credentials: self.credentials(tokens, scopes, key), claims, facts: Map::new() })
    }

    async fn device_authorize(
        &self,
        scopes: &[String],
    ) -> Result<DeviceAuthorization, ConnectorError> {
        let metadata = self.metadata().await?;
        let endpoint = device_endpoint(&metadata)?;
        let scopes = self.scopes(scopes, &metadata).join(" ");
        let to = Destination::standard(endpoint);
        self.ask_for_device_code(&metadata, &to, &[("scope", &scopes)]).await
    }

    async fn device_poll(
        &self,
        device_code: &Secret,
        scopes: &[String],
    ) -> Result<DevicePoll, ConnectorError> {
        let metadata = self.metadata().await?;
        let key = self.dpop_key(None)?;
        let key = key.as_ref();
        let to = Destination::standard(&metadata.token_endpoint).proving(key);
        let fields = [("grant_type", DEVICE_GRANT), ("device_code", device_code.expose())];
        let layout = Layout::standard();
        let polled = self.poll_for_tokens(&metadata, &to, &fields, layout, device_code).await?;
        let tokens = match polled {
            Polled::Pending => return Ok(DevicePoll::Pending),
            Polled::SlowDown => return Ok(DevicePoll::SlowDown),
            Polled::Tokens(tokens) => *tokens,
        };
        Self::check_bound(key, &tokens)?;
        let Some(id_token) = &tokens.id_token else {
            return Err(untrusted("the token answer", "it has no ID token"));
        };
        let expected = self.expected(&tokens);
        let claims = self.check_id_token(id_token, &metadata, &expected).await?;
        let scopes = self.scopes(scopes, &metadata);
        let credentials = self.credentials(tokens, scopes, key);
        let grant = Grant { credentials, claims, facts: Map::new() };
        Ok(DevicePoll::Granted(Box::new(grant)))
    }

    async fn build_identity(&self, grant: &Grant) -> Result<ExternalAccount, ConnectorError> {
        let metadata = self.metadata().await?;
        let mut userinfo = Map::new();
        if let (Some(endpoint), Some(access)) =
            (&metadata.userinfo_endpoint, Presented::of(&grant.credentials)?)
        {
            let answer = self.ask_userinfo(endpoint, &access).await?;
            // A token for another resource need not work here (RFC 8707 §2): then the ID token
            // alone says who it is.
            let is_for_another = !self.client.resource.is_empty();
            if !(is_for_another && matches!(answer.status, 401 | 403)) {
                userinfo = self.read_userinfo(&answer, &metadata).await?;
                // OpenID Connect Core 1.0 §5.3.2.
                let subject = userinfo.get("sub").filter(|it| it.is_string());
                if subject.is_none() || subject != grant.claims.get("sub") {
                    return Err(untrusted("the userinfo answer", "it is about another account"));
                }
            }
        }
        profile::account(&grant.claims, &userinfo)
    }

    /// Takes at most four times the client's timeout: metadata, the request, the same with the
    /// other client secret where the first is not known any more, keys.
    ///
    /// An ID token in the answer that cannot be verified *just now*, because the keys cannot be
    /// fetched, is left out; the tokens beside it came over the same connection from the
    /// provider's own endpoint, and throwing them away would end the grant. One that does not fit
    /// refuses them all.
    async fn refresh(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError> {
        let metadata = self.metadata().await?;
        self.renew(&metadata, request, Some(request.external_id.as_str())).await
    }

    async fn reachable(&self) -> Result<(), ConnectorError> {
        Metadata::fetch(&self.engine.http, &self.client.issuer).await.map(drop)
    }

    async fn verify_logout(&self, logout_token: &Secret) -> Result<Logout, ConnectorError> {
        let jws = self.read_logout_token(logout_token)?;
        let metadata = self.metadata().await?;
        let issuers = &self.client.token_issuers;
        let (claims, said) = self.check_logout_token(&jws, &metadata, issuers).await?;
        logout_of_subject(&claims, said)
    }

    async fn revoke(&self, credentials: &Credentials) -> Result<Revocation, ConnectorError> {
        if credentials.refresh_token.is_none() && credentials.access_token.is_none() {
            return Ok(Revocation::Unsupported);
        }
        let metadata = self.metadata().await?;
        self.end_grant(&metadata, credentials).await
    }
}

/// Checks the `iss` of an authorization response of this issuer
/// ([RFC 9207 §2.4](https://www.rfc-editor.org/rfc/rfc9207#section-2.4)); `says_so` is asked whether
/// its metadata say that it will be there, only where that counts.
pub(crate) async fn check_response_issuer(
    named: Option<&str>,
    issuer: &Issuer,
    required: bool,
    says_so: impl Future<Output = Result<bool, ConnectorError>>,
) -> Result<(), ConnectorError> {
    let what = "the authorization response";
    match named {
        Some(named) if named == issuer.as_str() => Ok(()),
        Some(_) => Err(untrusted(what, "its iss is another issuer")),
        None if required || says_so.await? => Err(untrusted(what, "its iss is missing")),
        None => Ok(()),
    }
}

/// A logout of an account that is known by its `sub`.
pub(crate) fn logout_of_subject(
    claims: &Map<String, Value>,
    said: Said,
) -> Result<Logout, ConnectorError> {
    let named = claims.contains_key("sub");
    let account = named.then(|| profile::account(claims, &Map::new())).transpose()?;
    Ok(logout(account.map(|it| it.external_id), said))
}

/// A logout of this account.
pub(crate) fn logout(external_id: Option<ExternalId>, said: Said) -> Logout {
    let Said { token_id, session_id, refused_from } = said;
    Logout { external_id, session_id, token_id, refused_from }
}

/// Where a device asks to be authorized.
pub(crate) fn device_endpoint(metadata: &Metadata) -> Result<&Url, ConnectorError> {
    metadata.device_authorization_endpoint.as_ref().ok_or_else(|| {
        misconfigured(
            "the provider's discovery document has no device_authorization_endpoint; turn the \
             device flow on there, or start a link session",
        )
    })
}

/// The one place where a missing answer becomes the domain's error.
pub(crate) fn to_domain(error: HttpError) -> ConnectorError {
    let sent = error.sent();
    match error {
        HttpError::Refused(detail) => ConnectorError::Misconfigured { detail },
        HttpError::NotSent(detail) | HttpError::Unknown(detail) => {
            ConnectorError::Unavailable { detail, retry_after: None, sent }
        }
    }
}
