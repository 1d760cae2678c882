use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use url::Url;

use crate::{
    account::ExternalAccount,
    credentials::{Credentials, DPOP},
    identity_provider::{
        Capabilities, IdentityProvider, ProviderSecrets, ProviderType, Registration, Rotation,
    },
    ids::ExternalId,
    ports::{
        AuthorizationRequest, CodeExchange, Connector, ConnectorError, Connectors,
        DeviceAuthorization, DevicePoll, Grant, InvalidConfig, RefreshRequest, Revocation, Sent,
    },
    secret::Secret,
};

/// What goes wrong with one refresh.
#[derive(Clone, Debug)]
pub enum RefreshFault {
    /// The provider answers with this error and does nothing.
    Refuse(ConnectorError),
    /// The provider does its work, and the answer is lost.
    LoseAnswer,
    /// The request is lost before the provider sees it, and nobody can tell.
    LoseRequest,
    /// The provider never answers. It has done nothing.
    Hang,
    /// The provider takes this long, then does its work.
    Delay(Duration),
    /// The same, and it goes on with it when the caller has left.
    Late(Duration),
    /// The provider does its work, and gives no new refresh token.
    KeepRefreshToken,
}

/// What the provider answers to one poll of a device link.
#[derive(Clone, Debug)]
pub enum DeviceAnswer {
    /// The user has not decided yet: what it answers too when nothing is scripted.
    Pending,
    /// The same, and it is asked too often.
    SlowDown,
    /// The user said yes with this account.
    Granted(String),
    /// Anything else.
    Refuse(ConnectorError),
}

/// A provider in memory that rotates refresh tokens and ends the whole grant when one is used
/// twice, as careful providers do. It is the catalog too: one type, `scripted`, whose instances
/// are all this provider.
///
/// A code is the name of the account that it is for.
#[derive(Clone, Default)]
pub struct ScriptedProvider(Arc<Mutex<State>>);

#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
struct State {
    now: Box<dyn Fn() -> DateTime<Utc> + Send>,
    lifetime: chrono::Duration,
    rotation: Rotation,
    /// How long after its use a spent refresh token is answered once more, with the same tokens.
    reuse_interval: chrono::Duration,
    reachable: bool,
    faults: VecDeque<RefreshFault>,
    grants: HashMap<String, GrantState>,
    serial: u64,
    uses: Vec<String>,
    in_flight: HashMap<String, usize>,
    concurrent_uses: usize,
    revoked_by_reuse: usize,
    revocations: usize,
    revocation_faults: VecDeque<ConnectorError>,
    revokes: bool,
    lived: HashSet<String>,
    device: bool,
    device_answers: VecDeque<DeviceAnswer>,
    device_polls: Vec<String>,
    binds: bool,
    /// By account.
    keys: HashMap<String, Secret>,
}

struct GrantState {
    access: String,
    refresh: String,
    spent: Option<(String, DateTime<Utc>)>,
    alive: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            now: Box::new(|| super::fixtures::NOW),
            lifetime: chrono::Duration::hours(1),
            rotation: Rotation::MayRotate,
            reuse_interval: chrono::Duration::zero(),
            reachable: true,
            faults: VecDeque::new(),
            grants: HashMap::new(),
            serial: 0,
            uses: Vec::new(),
            in_flight: HashMap::new(),
            concurrent_uses: 0,
            revoked_by_reuse: 0,
            revocations: 0,
            revocation_faults: VecDeque::new(),
            revokes: true,
            lived: HashSet::new(),
            device: true,
            device_answers: VecDeque::new(),
            device_polls: Vec::new(),
            binds: false,
            keys: HashMap::new(),
        }
    }
}

impl ScriptedProvider {
    /// A provider whose tokens live this long, by this clock.
    #[must_use]
    pub fn new(
        lifetime: chrono::Duration,
        now: impl Fn() -> DateTime<Utc> + Send + 'static,
    ) -> Self {
        let state = State { now: Box::new(now), lifetime, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers a spent refresh token once more within this time.
    pub fn set_reuse_interval(&self, interval: chrono::Duration) {
        self.with(|it| it.reuse_interval = interval);
    }

    /// Takes refresh tokens again and again, and says so.
    pub fn set_reusable(&self) {
        self.with(|it| it.rotation = Rotation::Reusable);
    }

    /// Answers, or not, when it is asked whether it does.
    pub fn set_reachable(&self, reachable: bool) {
        self.with(|it| it.reachable = reachable);
    }

    /// Lets the next refreshes go wrong, one after the other.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = RefreshFault>) {
        self.with(|it| it.faults.extend(faults));
    }

    /// Lets the next revocations fail, one after the other.
    pub fn fail_next_revocations(&self, faults: impl IntoIterator<Item = ConnectorError>) {
        self.with(|it| it.revocation_faults.extend(faults));
    }

    /// Has no step to end a grant, and says so.
    pub fn set_without_revocation(&self) {
        self.with(|it| it.revokes = false);
    }

    /// Has no device flow, and says so.
    pub fn set_without_device_flow(&self) {
        self.with(|it| it.device = false);
    }

    /// Binds its tokens to keys from now on ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)), or
    /// issues bearer tokens again: also in the place of those that are bound.
    pub fn set_binding(&self, binds: bool) {
        self.with(|it| it.binds = binds);
    }

    /// Answers the next polls of device links like this, one after the other.
    pub fn answer_device_polls(&self, answers: impl IntoIterator<Item = DeviceAnswer>) {
        self.with(|it| it.device_answers.extend(answers));
    }

    /// The device codes of all polls, in their order.
    #[must_use]
    pub fn device_polls(&self) -> Vec<String> {
        self.with(|it| it.device_polls.clone())
    }

    /// New credentials for an account, as after a link.
    #[must_use]
    pub fn grant(&self, account: &str) -> Credentials {
        let key = self.new_dpop_key();
        self.grant_bound_to(account, key)
    }

    fn grant_bound_to(&self, account: &str, key: Option<Secret>) -> Credentials {
        self.with(|it| {
            match &key {
                Some(key) => drop(it.keys.insert(account.to_owned(), key.clone())),
                None => drop(it.keys.remove(account)),
            }
            let (access, refresh) = it.next_tokens(account);
            let grant = GrantState {
                access: access.clone(),
                refresh: refresh.clone(),
                spent: None,
                alive: true,
            };
            it.grants.insert(account.to_owned(), grant);
            it.bound(it.answer(access, Some(refresh)), key)
        })
    }

    /// Ends an account's grant, as its owner may do in the provider's settings.
    pub fn end_grant(&self, account: &str) {
        self.with(|it| {
            if let Some(grant) = it.grants.get_mut(account) {
                grant.alive = false;
            }
        });
    }

    /// Whether an access token is the one that works for this account now.
    #[must_use]
    pub fn accepts(&self, account: &str, access_token: &Secret) -> bool {
        self.with(|it| {
            it.grants
                .get(account)
                .is_some_and(|grant| grant.alive && grant.access == access_token.expose())
        })
    }

    /// How often a refresh token reached the provider.
    #[must_use]
    pub fn refreshes(&self) -> usize {
        self.with(|it| it.uses.len())
    }

    /// How often each refresh token reached the provider, at most.
    #[must_use]
    pub fn most_uses_of_one_token(&self) -> usize {
        self.with(|it| {
            let mut counts = HashMap::new();
            for token in &it.uses {
                *counts.entry(token).or_insert(0) += 1;
            }
            counts.into_values().max().unwrap_or(0)
        })
    }

    /// How often a refresh token was in flight twice at the same time.
    #[must_use]
    pub fn concurrent_uses(&self) -> usize {
        self.with(|it| it.concurrent_uses)
    }

    /// How many grants were ended because a spent refresh token came again.
    #[must_use]
    pub fn revoked_by_reuse(&self) -> usize {
        self.with(|it| it.revoked_by_reuse)
    }

    /// How many grants were ended on request.
    #[must_use]
    pub fn revocations(&self) -> usize {
        self.with(|it| it.revocations)
    }
}

impl State {
    fn next_tokens(&mut self, account: &str) -> (String, String) {
        self.serial += 1;
        let tokens = (
            format!("access-{account}-{}", self.serial),
            format!("refresh-{account}-{}", self.serial),
        );
        self.lived.insert(tokens.1.clone());
        tokens
    }

    fn answer(&self, access: String, refresh: Option<String>) -> Credentials {
        let now = (self.now)();
        Credentials {
            access_token: Some(Secret::new(access)),
            refresh_token: refresh.map(Secret::new),
            id_token: None,
            token_type: Some("Bearer".to_owned()),
            expires_at: Some(now + self.lifetime),
            obtained_at: Some(now),
            scopes: vec!["openid".to_owned()],
            ..Credentials::default()
        }
    }

    /// An answer to whoever has proven to hold this key.
    fn bound(&self, answer: Credentials, dpop_key: Option<Secret>) -> Credentials {
        let token_type = if self.binds && dpop_key.is_some() { DPOP } else { "Bearer" };
        Credentials { token_type: Some(token_type.to_owned()), dpop_key, ..answer }
    }

    /// Whether a refresh token is bound to another key than the one that was proven.
    fn is_bound_to_another(&self, token: &str, key: Option<&Secret>) -> bool {
        account_of(token).and_then(|it| self.keys.get(it)).is_some_and(|it| Some(it) != key)
    }

    fn rotate(
        &mut self,
        token: &str,
        key: Option<&Secret>,
        keep: bool,
    ) -> Result<Credentials, ConnectorError> {
        let now = (self.now)();
        let invalid = || ConnectorError::GrantRejected { code: "invalid_grant".to_owned() };
        let account = self.grants.iter().find_map(|(account, grant)| {
            let spent = grant.spent.as_ref().is_some_and(|(it, _)| it == token);
            (grant.refresh == token || spent).then(|| account.clone())
        });
        let Some(account) = account else {
            // One that was rotated away longer ago, or never lived.
            let owner = self.lived.contains(token).then(|| {
                let name = token.trim_start_matches("refresh-");
                name.rsplit_once('-').map(|(account, _)| account.to_owned())
            });
            if let Some(grant) = owner.flatten().and_then(|it| self.grants.get_mut(&it))
                && grant.alive
            {
                grant.alive = false;
                self.revoked_by_reuse += 1;
            }
            return Err(invalid());
        };
        let grant = &self.grants[&account];
        if !grant.alive {
            return Err(invalid());
        }
        if let Some((spent, at)) = &grant.spent
            && spent == token
        {
            if now - *at < self.reuse_interval {
                let (access, refresh) = (grant.access.clone(), grant.refresh.clone());
                return Ok(self.answer(access, Some(refresh)));
            }
            if let Some(grant) = self.grants.get_mut(&account) {
                grant.alive = false;
            }
            self.revoked_by_reuse += 1;
            return Err(invalid());
        }
        let keep = keep || self.rotation == Rotation::Reusable;
        let (access, mut refresh) = self.next_tokens(&account);
        let mut spent = Some((token.to_owned(), now));
        if keep {
            token.clone_into(&mut refresh);
            spent = None;
        }
        let grant =
            GrantState { access: access.clone(), refresh: refresh.clone(), spent, alive: true };
        if let (true, Some(key)) = (self.binds, key) {
            self.keys.insert(account.clone(), key.clone());
        }
        self.grants.insert(account, grant);
        Ok(self.answer(access, (!keep).then_some(refresh)))
    }
}

#[async_trait]
impl Connector for ScriptedProvider {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            browser: true,
            device: self.with(|it| it.device),
            refresh: true,
            revoke: self.with(|it| it.revokes),
            sign_in: true,
            rotation: self.with(|it| it.rotation),
        }
    }

    fn new_dpop_key(&self) -> Option<Secret> {
        self.with(|it| it.binds).then(Secret::random)
    }

    async fn authorize(&self, request: &AuthorizationRequest) -> Result<Url, ConnectorError> {
        let mut url = Url::parse("https://scripted.example/authorize")
            .map_err(|error| ConnectorError::Misconfigured { detail: error.to_string() })?;
        url.query_pairs_mut()
            .append_pair("state", request.state.expose())
            .append_pair("redirect_uri", request.redirect_uri.as_str());
        if let Some(key) = &request.dpop_key {
            url.query_pairs_mut().append_pair("dpop_jkt", &thumbprint(key));
        }
        Ok(url)
    }

    async fn check_issuer<'a>(
        &self,
        issuer: Option<&'a str>,
        required: bool,
    ) -> Result<(), ConnectorError> {
        let untrusted = |detail: &str| ConnectorError::Untrusted { detail: detail.to_owned() };
        match issuer {
            Some("https://scripted.example") => Ok(()),
            Some(_) => Err(untrusted("the response names another issuer")),
            None if required => Err(untrusted("the response names no issuer")),
            None => Ok(()),
        }
    }

    async fn exchange(&self, exchange: &CodeExchange) -> Result<Grant, ConnectorError> {
        let account = exchange.code.expose();
        if account == "refused" {
            return Err(ConnectorError::GrantRejected { code: "invalid_grant".to_owned() });
        }
        let claims = Map::from_iter([("sub".to_owned(), json!(account))]);
        let credentials = self.grant_bound_to(account, exchange.dpop_key.clone());
        Ok(Grant { credentials, claims, facts: Map::new() })
    }

    async fn device_authorize(
        &self,
        _scopes: &[String],
    ) -> Result<DeviceAuthorization, ConnectorError> {
        let uri = |text: &str| {
            let url = Url::parse(text);
            url.map_err(|error| ConnectorError::Misconfigured { detail: error.to_string() })
        };
        let serial = self.with(|it| {
            it.serial += 1;
            it.serial
        });
        Ok(DeviceAuthorization {
            device_code: Secret::new(format!("device-code-{serial}")),
            user_code: format!("USER-{serial}"),
            verification_uri: uri("https://scripted.example/device")?,
            verification_uri_complete: Some(uri(&format!(
                "https://scripted.example/device?user_code=USER-{serial}"
            ))?),
            expires_in: Duration::from_mins(15),
            interval: Duration::from_secs(5),
        })
    }

    async fn device_poll(
        &self,
        device_code: &Secret,
        _scopes: &[String],
    ) -> Result<DevicePoll, ConnectorError> {
        let answer = self.with(|it| {
            it.device_polls.push(device_code.expose().to_owned());
            it.device_answers.pop_front()
        });
        match answer {
            None | Some(DeviceAnswer::Pending) => Ok(DevicePoll::Pending),
            Some(DeviceAnswer::SlowDown) => Ok(DevicePoll::SlowDown),
            Some(DeviceAnswer::Refuse(error)) => Err(error),
            Some(DeviceAnswer::Granted(account)) => {
                let claims = Map::from_iter([("sub".to_owned(), json!(account))]);
                let credentials = self.grant(&account);
                let grant = Grant { credentials, claims, facts: Map::new() };
                Ok(DevicePoll::Granted(Box::new(grant)))
            }
        }
    }

    async fn build_identity(&self, grant: &Grant) -> Result<ExternalAccount, ConnectorError> {
        let sub = grant.claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let external_id = ExternalId::new(sub)
            .map_err(|error| ConnectorError::Untrusted { detail: error.to_string() })?;
        Ok(ExternalAccount {
            external_id,
            legacy_id: None,
            email: Some(format!("{sub}@scripted.example")),
            email_verified: true,
            name: Some(sub.to_owned()),
            claims: Map::new(),
        })
    }

    async fn refresh(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError> {
        let key = request.dpop_key.clone();
        let token = request.refresh_token.expose();
        if self.with(|it| it.is_bound_to_another(token, key.as_ref())) {
            self.with(|it| it.uses.push(token.to_owned()));
            return Err(ConnectorError::GrantRejected { code: "invalid_grant".to_owned() });
        }
        let answer = self.spend(request).await?;
        Ok(self.with(|it| it.bound(answer, key)))
    }

    async fn reachable(&self) -> Result<(), ConnectorError> {
        if self.with(|it| it.reachable) {
            Ok(())
        } else {
            Err(ConnectorError::Unavailable {
                detail: "it does not answer".to_owned(),
                retry_after: None,
                sent: Sent::No,
            })
        }
    }

    async fn revoke(&self, credentials: &Credentials) -> Result<Revocation, ConnectorError> {
        self.with(|it| {
            it.revocations += 1;
            if let Some(fault) = it.revocation_faults.pop_front() {
                return Err(fault);
            }
            let token = credentials.refresh_token.as_ref().map(Secret::expose);
            for grant in it.grants.values_mut() {
                if token == Some(grant.refresh.as_str()) {
                    grant.alive = false;
                }
            }
            Ok(Revocation::Revoked)
        })
    }
}

/// Whose grant a refresh token is of.
fn account_of(token: &str) -> Option<&str> {
    token.trim_start_matches("refresh-").rsplit_once('-').map(|(account, _)| account)
}

/// What names a key and does not tell it.
fn thumbprint(key: &Secret) -> String {
    URL_SAFE_NO_PAD.encode(key.hash().0)
}

impl ScriptedProvider {
    /// What becomes of a refresh token that came with the right key.
    async fn spend(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError> {
        let key = request.dpop_key.clone();
        let token = request.refresh_token.expose().to_owned();
        let lost = || ConnectorError::Unavailable {
            detail: "no answer".to_owned(),
            retry_after: None,
            sent: Sent::Unknown,
        };
        let fault = self.with(|it| {
            let others = it.in_flight.entry(token.clone()).or_default();
            *others += 1;
            if *others > 1 {
                it.concurrent_uses += 1;
            }
            it.faults.pop_front()
        });
        let landed = InFlight { provider: self.clone(), token: token.clone() };
        let used = |it: &mut State| it.uses.push(token.clone());
        match fault {
            None => self.with(|it| {
                used(it);
                it.rotate(&token, key.as_ref(), false)
            }),
            Some(RefreshFault::KeepRefreshToken) => self.with(|it| {
                used(it);
                it.rotate(&token, key.as_ref(), true)
            }),
            Some(RefreshFault::Refuse(error)) => {
                self.with(used);
                Err(error)
            }
            Some(RefreshFault::LoseAnswer) => self.with(|it| {
                used(it);
                let _lost = it.rotate(&token, key.as_ref(), false);
                Err(lost())
            }),
            Some(RefreshFault::LoseRequest) => Err(lost()),
            Some(RefreshFault::Hang) => std::future::pending().await,
            Some(RefreshFault::Late(time)) => {
                let provider = self.clone();
                let work = tokio::spawn(async move {
                    let _landed = landed;
                    tokio::time::sleep(time).await;
                    provider.with(|it| {
                        it.uses.push(token.clone());
                        it.rotate(&token, key.as_ref(), false)
                    })
                });
                work.await.unwrap_or_else(|_| Err(lost()))
            }
            Some(RefreshFault::Delay(time)) => {
                tokio::time::sleep(time).await;
                self.with(|it| {
                    used(it);
                    it.rotate(&token, key.as_ref(), false)
                })
            }
        }
    }
}

struct InFlight {
    provider: ScriptedProvider,
    token: String,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.provider.with(|it| {
            if let Some(count) = it.in_flight.get_mut(&self.token) {
                *count -= 1;
            }
        });
    }
}

impl Connectors for ScriptedProvider {
    fn types(&self) -> Vec<ProviderType> {
        vec![ProviderType {
            name: "scripted".to_owned(),
            title: "Scripted".to_owned(),
            description: "A provider in memory, for tests.".to_owned(),
            documentation: "https://scripted.example/docs".to_owned(),
            registration: Registration::default(),
            notes: Vec::new(),
            config_schema: json!({"type": "object"}),
            secret_names: vec!["client_secret".to_owned()],
            authority_keys: vec!["issuer".to_owned()],
            registered_keys: Vec::new(),
            asked_keys: Vec::new(),
            capabilities: self.capabilities(),
        }]
    }

    fn check(
        &self,
        _provider_type: &str,
        config: &Map<String, Value>,
        _secrets: &ProviderSecrets,
    ) -> Result<(), InvalidConfig> {
        match config.keys().find(|it| *it != "client_id" && *it != "issuer") {
            Some(key) => Err(InvalidConfig {
                field: key.clone(),
                problem: "unknown; the keys are client_id and issuer".to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn connect(
        &self,
        _provider: &IdentityProvider,
        _secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        Ok(Arc::new(self.clone()))
    }
}
