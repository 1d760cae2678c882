//! Tries a provider type against the sandbox that wears its provider's shape: link, profile,
//! renewal, failed renewals, revocation. `symbolon provider-types check` prints what comes of it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::Credentials,
    identity_provider::{
        IdentityProvider, ProviderOptions, ProviderSecrets, ProviderType, Rotation,
    },
    ids::{ExternalId, ProviderId},
    ports::{
        AuthorizationRequest, ClientAddresses, CodeExchange, Connector, ConnectorError, Connectors,
        Grant, RefreshRequest, Revocation, Sent,
    },
    secret::Secret,
};
use symbolon_oauth2::{
    Registry,
    catalog::Catalog,
    http::{HttpClient, HttpClientError, HttpSettings},
};
use symbolon_sandbox::shape::{Failing, Outcome, Shape, ShapeServer, TOO_MANY_REQUESTS};
use url::Url;

use crate::{catalog::catalog, settings::CatalogSettings};

/// Ten years, in seconds.
const LONGEST_LIFE: u64 = 10 * 365 * 24 * 60 * 60;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a few words.
    pub step: String,
    /// What came of it.
    pub verdict: Verdict,
    /// What is wrong and what to do, or what the provider does not offer; empty where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As documented.
    Ok,
    /// The provider has no such step, and the entry says so.
    NotOffered,
    /// Something is wrong with the entry or with the shape.
    Problem,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::NotOffered => "not offered",
            Self::Problem => "problem",
        })
    }
}

/// All that was found of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.findings.iter().all(|it| it.verdict != Verdict::Problem)
    }

    fn add(&mut self, step: &str, verdict: Verdict, detail: String) {
        self.findings.push(Finding { step: step.to_owned(), verdict, detail });
    }

    /// A step that is well when nothing is wrong.
    fn judge(&mut self, step: &str, wrong: &[String]) {
        let verdict = if wrong.is_empty() { Verdict::Ok } else { Verdict::Problem };
        self.add(step, verdict, wrong.join("; "));
    }
}

/// The trial could not be held.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No client.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// No sandbox.
    #[error("the sandbox cannot start")]
    Sandbox(#[from] std::io::Error),
    /// There is no such type.
    #[error("there is no provider type {0}; `symbolon provider-types list` shows them all")]
    NoSuchType(String),
}

/// Tries one type of the catalog, with `own` over what is built in.
///
/// # Errors
///
/// [`TrialError`] when the trial cannot be held; what is wrong with the type is in the report.
pub async fn try_out(name: &str, own: &Catalog, shape: Shape) -> Result<Report, TrialError> {
    let server = ShapeServer::start(shape.clone()).await?;
    let http = HttpClient::new(HttpSettings {
        timeout: std::time::Duration::from_secs(5),
        stand_in: Some(server.address()),
        ..HttpSettings::default()
    })?;
    let registry = catalog(http, &CatalogSettings { own: own.clone() });
    let found = registry.find_type(name).ok_or_else(|| TrialError::NoSuchType(name.to_owned()))?;
    let rotates = Catalog::built_in().with(own.clone()).rotates(name);
    let mut trial = Trial { shape, server, found, rotates, report: Report::default() };
    trial.run(&registry).await;
    Ok(trial.report)
}

/// An instance, and what speaks to it.
struct Connected {
    provider: IdentityProvider,
    secrets: ProviderSecrets,
    connector: Arc<dyn Connector>,
}

struct Trial {
    shape: Shape,
    server: ShapeServer,
    found: ProviderType,
    /// Whether the entry says that each use of a refresh token gives another one.
    rotates: bool,
    report: Report,
}

impl Trial {
    async fn run(&mut self, registry: &Registry) {
        let Some(connected) = self.connect(registry).await else { return };
        let connector = connected.connector.as_ref();
        let Some(grant) = self.link(connector).await else { return };
        let Some(account) = self.profile(connector, &grant).await else { return };
        self.compare(&account, &grant.credentials);
        let renewed = self.renew(connector, &grant.credentials, &account.external_id).await;
        self.wrong_client(connector, &grant.credentials, &account.external_id).await;
        self.revoke(connector, &grant.credentials, renewed.as_ref()).await;
        self.deregister(registry, &connected).await;
    }

    /// What did not fit in the requests since this was asked last.
    fn complaints(&self) -> Vec<String> {
        self.server.take_complaints()
    }

    async fn connect(&mut self, registry: &Registry) -> Option<Connected> {
        let mut config = Map::new();
        let mut secrets = ProviderSecrets::new();
        for (name, value) in &self.shape.config {
            match value.as_str().filter(|_| self.found.secret_names.contains(name)) {
                Some(secret) => drop(secrets.insert(name.clone(), Secret::new(secret))),
                None => drop(config.insert(name.clone(), value.clone())),
            }
        }
        let mut provider = IdentityProvider {
            id: ProviderId(1),
            provider_type: self.found.name.clone(),
            external_id: None,
            config,
            secret_names: secrets.keys().cloned().collect(),
            options: ProviderOptions::default(),
            names_issuer: false,
            date_added: DateTime::<Utc>::UNIX_EPOCH,
            version: 1,
        };
        let mut connected = registry.connect(&provider, &secrets);
        self.report.judge("configuration", &wrong(&connected));
        connected.as_ref().ok()?;
        if self.registers() {
            let registered = registry.register(&provider, &secrets, &addresses()).await;
            let mut told = wrong(&registered);
            told.extend(self.complaints());
            if let Some(registered) = registered.ok().flatten() {
                provider.config.extend(registered.config);
                secrets.extend(registered.secrets);
                connected = registry.connect(&provider, &secrets);
                told.extend(wrong(&connected));
            }
            self.report.judge("registration", &told);
        }
        Some(Connected { provider, secrets, connector: connected.ok()? })
    }

    /// Whether the client of the trial is to be registered. Most types have no such step, and
    /// nobody misses it in their reports.
    fn registers(&mut self) -> bool {
        let registers = self.found.registered_keys.iter().any(|it| it == "client_id");
        let documented = self.shape.registration.is_some();
        let brings_its_own = self.shape.config.contains_key("client_id");
        match (registers && !brings_its_own, documented) {
            (false, false) => false,
            (entry, shape) => self.agrees("registration", entry, shape),
        }
    }

    async fn deregister(&mut self, registry: &Registry, connected: &Connected) {
        let documented = self.shape.deregistration.is_some();
        if self.shape.registration.is_none() && !documented {
            return;
        }
        drop(self.server.take_steps());
        let taken_back = registry.deregister(&connected.provider, &connected.secrets).await;
        let mut told = wrong(&taken_back);
        told.extend(self.complaints());
        let asked = self.server.take_steps().iter().any(|it| it == "deregistration");
        if documented && !asked {
            told.push("the documented step deregistration was not asked for".into());
        }
        if documented || !told.is_empty() {
            self.report.judge("deregistration", &told);
        } else {
            self.report.add("deregistration", Verdict::NotOffered, String::new());
        }
    }

    async fn link(&mut self, connector: &dyn Connector) -> Option<Grant> {
        if !connector.capabilities().browser {
            let detail = "users bring a token that they made at the provider";
            let verdict =
                if self.shape.authorize.is_some() { Verdict::Problem } else { Verdict::NotOffered };
            self.report.add("authorization", verdict, detail.to_owned());
            return Some(self.brought());
        }
        let request = AuthorizationRequest {
            redirect_uri: redirect_uri(),
            state: Secret::random(),
            nonce: Secret::random(),
            code_verifier: Secret::random(),
            scopes: Vec::new(),
            login_hint: None,
            dpop_key: connector.new_dpop_key(),
        };
        let url = match connector.authorize(&request).await {
            Ok(url) => url,
            Err(error) => {
                let mut wrong = vec![error.to_string()];
                wrong.extend(self.complaints());
                self.report.judge("authorization", &wrong);
                return None;
            }
        };
        let visit = self.server.visit(&url);
        let mut wrong = self.complaints();
        let mut parameters = visit.parameters;
        if parameters.remove("state").as_deref() != Some(request.state.expose()) {
            wrong.push("state is not sent along as it is".into());
        }
        let issuer = parameters.remove("iss");
        if let Err(error) = connector.check_issuer(issuer.as_deref(), false).await {
            wrong.push(error.to_string());
        }
        self.report.judge("authorization", &wrong);
        let exchange = CodeExchange {
            code: Secret::new(parameters.remove("code").unwrap_or_default()),
            redirect_uri: request.redirect_uri,
            code_verifier: request.code_verifier,
            nonce: request.nonce,
            state: request.state,
            scopes: Vec::new(),
            parameters,
            dpop_key: request.dpop_key,
        };
        let grant = connector.exchange(&exchange).await;
        let mut wrong = self.complaints();
        match grant {
            Ok(grant) => {
                self.report.judge("exchange", &wrong);
                Some(grant)
            }
            Err(error) => {
                wrong.insert(0, error.to_string());
                self.report.judge("exchange", &wrong);
                None
            }
        }
    }

    /// A grant of a token that the user made: the one that the shape's calls know.
    fn brought(&self) -> Grant {
        let headers = self.shape.call.first().map(|it| &it.headers);
        let authorization = headers.and_then(|it| it.get("Authorization"));
        let token = authorization.and_then(|it| it.split_whitespace().last()).unwrap_or("token");
        let credentials =
            Credentials { access_token: Some(Secret::new(token)), ..Credentials::default() };
        Grant { credentials, claims: Map::new(), facts: Map::new() }
    }

    async fn profile(
        &mut self,
        connector: &dyn Connector,
        grant: &Grant,
    ) -> Option<ExternalAccount> {
        let account = connector.build_identity(grant).await;
        let mut wrong = self.complaints();
        match account {
            Ok(account) => {
                self.report.judge("profile", &wrong);
                Some(account)
            }
            Err(error) => {
                wrong.insert(0, error.to_string());
                self.report.judge("profile", &wrong);
                None
            }
        }
    }

    fn compare(&mut self, account: &ExternalAccount, credentials: &Credentials) {
        let Outcome {
            external_id,
            name,
            email,
            email_verified,
            expires_in,
            refresh_expires_in,
            refresh_ends_in,
            scopes,
            keep,
            legacy_id,
        } = &self.shape.expect;
        let mut wrong = Vec::new();
        let mut same = |what: &str, expected: &Option<String>, given: Option<&str>| {
            if expected.as_deref() != given {
                let shown = |it: Option<&str>| it.unwrap_or("nothing").to_owned();
                let (expected, given) = (shown(expected.as_deref()), shown(given));
                wrong.push(format!("{what} is {given}, and the documentation says {expected}"));
            }
        };
        same("the id", &Some(external_id.clone()), Some(account.external_id.as_str()));
        same("the name", name, account.name.as_deref());
        same("the address", email, account.email.as_deref());
        let verified = |it: bool| Some(if it { "verified" } else { "not verified" }.to_owned());
        same(
            "the address",
            &verified(*email_verified),
            verified(account.email_verified).as_deref(),
        );
        let older = account.legacy_id.as_ref().map(ExternalId::as_str);
        same("the older id", legacy_id, older);
        for (key, expected) in keep {
            let text = |it: &Value| it.as_str().map_or_else(|| it.to_string(), str::to_owned);
            let given = account.claims.get(key).map(text);
            same(&format!("what is kept as {key}"), &Some(text(expected)), given.as_deref());
        }
        self.report.judge("account", &wrong);

        let mut wrong = Vec::new();
        let life = credentials.expires_at.zip(credentials.obtained_at);
        let life = life.map(|(end, start)| (end - start).num_seconds());
        // Longer lives than ten years count as ten.
        let expected = expires_in.and_then(|it| i64::try_from(it.min(LONGEST_LIFE)).ok());
        let near = match (life, expected) {
            // An absolute time was written a moment before it was read.
            (Some(life), Some(expected)) => (life - expected).abs() <= 5,
            (None, None) => true,
            _ => false,
        };
        for (what, end, expected) in [
            ("refresh token lapses", credentials.refresh_expires_at, refresh_expires_in),
            ("grant ends", credentials.refresh_ends_at, refresh_ends_in),
        ] {
            let Some(expected) = expected else { continue };
            let life = end.zip(credentials.obtained_at);
            let life = life.map(|(end, start)| (end - start).num_seconds());
            let expected = i64::try_from(*expected).unwrap_or(i64::MAX);
            if life.is_none_or(|it| (it - expected).abs() > 5) {
                let life = life.map_or("never".into(), |it| format!("in {it} s"));
                wrong
                    .push(format!("the {what} {life}, and the documentation says in {expected} s"));
            }
        }
        if !near {
            let shown = |it: Option<i64>| it.map_or("no known end".into(), |it| format!("{it} s"));
            wrong.push(format!(
                "the token lives {}, and the documentation says {}",
                shown(life),
                shown(expected)
            ));
        }
        if let Some(expected) = scopes {
            let sorted = |scopes: &[String]| {
                let mut scopes = scopes.to_vec();
                scopes.sort();
                scopes.join(" ")
            };
            let (given, expected) = (sorted(&credentials.scopes), sorted(expected));
            // Where nothing is said, what was asked for was granted.
            if given != expected && !expected.is_empty() {
                wrong.push(format!("granted is {given}, and the documentation says {expected}"));
            }
        }
        if self.shape.refresh.is_some() && credentials.refresh_token.is_none() {
            wrong.push("there is no refresh token".into());
        }
        self.report.judge("token", &wrong);
    }

    async fn renew(
        &mut self,
        connector: &dyn Connector,
        credentials: &Credentials,
        external_id: &ExternalId,
    ) -> Option<Credentials> {
        if !self.agrees("refresh", connector.capabilities().refresh, self.shape.refresh.is_some()) {
            return None;
        }
        let refresh_token = credentials.refresh_token.clone()?;
        let request = RefreshRequest {
            refresh_token,
            external_id: external_id.clone(),
            redirect_uri: Some(redirect_uri()),
            dpop_key: credentials.key_of_refresh_token().cloned(),
        };
        let renewed = connector.refresh(&request).await;
        let mut wrong = self.complaints();
        let renewed = match renewed {
            Ok(renewed) => {
                if renewed.access_token.is_none() {
                    wrong.push("there is no access token".into());
                }
                let rotation = connector.capabilities().rotation;
                wrong.extend(self.rotation_belied(rotation, &request.refresh_token, &renewed));
                Some(renewed)
            }
            Err(error) => {
                wrong.insert(0, error.to_string());
                None
            }
        };
        let fitted = wrong.is_empty();
        self.report.judge("refresh", &wrong);

        for (step, failing) in [
            ("refresh, dead token", Failing::DeadRefreshToken),
            ("refresh, server error", Failing::ServerError),
            ("refresh, too many requests", Failing::TooManyRequests),
            ("refresh, a page", Failing::Page),
            ("refresh, broken off", Failing::BrokenOff),
        ] {
            self.server.fail(Some(failing));
            let failed = connector.refresh(&request).await;
            self.server.fail(None);
            let mut wrong = self.complaints();
            if !fitted {
                // It was told at the refresh that should have worked.
                wrong.clear();
            }
            match failed {
                Ok(_) => wrong.push("it counts as a success".to_owned()),
                Err(error) => wrong.extend(misread(failing, &error)),
            }
            self.report.judge(step, &wrong);
        }
        renewed
    }

    /// What the answer to a refresh shows of the refresh token, where the entry says otherwise.
    fn rotation_belied(
        &self,
        rotation: Rotation,
        used: &Secret,
        renewed: &Credentials,
    ) -> Option<String> {
        let renews_itself = renewed.refresh_token == renewed.access_token;
        let another = renewed.refresh_token.as_ref().is_some_and(|it| it != used);
        let stays_good = self.shape.refresh.as_ref().is_some_and(|it| it.stays_good);
        if rotation == Rotation::Reusable && another && !renews_itself && !stays_good {
            return Some(
                "the answer brings another refresh token, and rotation says that the same is good \
                 again; where the documentation says so, too, the shape says stays_good"
                    .into(),
            );
        }
        if self.rotates && !another {
            return Some(
                "the answer brings no other refresh token, and rotation says that each use does"
                    .into(),
            );
        }
        None
    }

    async fn wrong_client(
        &mut self,
        connector: &dyn Connector,
        credentials: &Credentials,
        external_id: &ExternalId,
    ) {
        if self.shape.wrong_client.is_none() {
            return;
        }
        self.server.fail(Some(Failing::WrongClient));
        let refreshes = connector.capabilities().refresh;
        let token = credentials.refresh_token.as_ref().filter(|_| refreshes);
        let refused = if let Some(token) = token {
            let request = RefreshRequest {
                refresh_token: token.clone(),
                external_id: external_id.clone(),
                redirect_uri: Some(redirect_uri()),
                dpop_key: credentials.key_of_refresh_token().cloned(),
            };
            connector.refresh(&request).await.map(drop)
        } else {
            let exchange = CodeExchange {
                code: Secret::random(),
                redirect_uri: redirect_uri(),
                code_verifier: Secret::random(),
                nonce: Secret::random(),
                state: Secret::random(),
                scopes: Vec::new(),
                parameters: BTreeMap::new(),
                dpop_key: connector.new_dpop_key(),
            };
            connector.exchange(&exchange).await.map(drop)
        };
        self.server.fail(None);
        drop(self.complaints());
        let wrong = match refused {
            Ok(()) => Some("it counts as a success".to_owned()),
            Err(error) => misread(Failing::WrongClient, &error),
        };
        self.report.judge("wrong client secret", wrong.as_slice());
    }

    async fn revoke(
        &mut self,
        connector: &dyn Connector,
        linked: &Credentials,
        renewed: Option<&Credentials>,
    ) {
        let documented = !self.shape.revoke.is_empty();
        if !self.agrees("revoke", connector.capabilities().revoke, documented) {
            return;
        }
        drop(self.server.take_steps());
        let mut outcome = connector.revoke(linked).await;
        let mut wrong = self.complaints();
        if !wrong.is_empty()
            && let Some(renewed) = renewed
        {
            // Some pages show the tokens of the renewal.
            outcome = connector.revoke(renewed).await;
            let again = self.complaints();
            if again.is_empty() {
                wrong = again;
            }
        }
        match outcome {
            Ok(Revocation::Revoked) => {}
            Ok(Revocation::Unsupported) => wrong.push("it says that there is no such step".into()),
            Err(error) => wrong.insert(0, error.to_string()),
        }
        let asked = self.server.take_steps();
        for index in 1..=self.shape.revoke.len() {
            let step = format!("revoke {index}");
            if !asked.contains(&step) {
                wrong.push(format!("the documented step {step} was not asked for"));
            }
        }
        self.report.judge("revoke", &wrong);
    }

    /// Whether entry and shape both have a step. Where neither has, it is not offered.
    fn agrees(&mut self, step: &str, entry: bool, shape: bool) -> bool {
        match (entry, shape) {
            (true, true) => return true,
            (false, false) => self.report.add(step, Verdict::NotOffered, String::new()),
            (true, false) => {
                let wrong = "the entry has it, and the documentation in the shape has not";
                self.report.judge(step, &[wrong.to_owned()]);
            }
            (false, true) => {
                let wrong = "the documentation in the shape has it, and the entry has not";
                self.report.judge(step, &[wrong.to_owned()]);
            }
        }
        false
    }
}

/// How a failure was read that means something else; `None` when it was read right.
fn misread(failing: Failing, error: &ConnectorError) -> Option<String> {
    let right = match failing {
        Failing::DeadRefreshToken => matches!(error, ConnectorError::GrantRejected { .. }),
        Failing::WrongClient => matches!(error, ConnectorError::ClientRejected { .. }),
        Failing::ServerError => {
            matches!(error, ConnectorError::Unavailable { sent: Sent::Answered, .. })
        }
        Failing::TooManyRequests => matches!(
            error,
            ConnectorError::Unavailable { sent: Sent::Answered, retry_after: Some(wait), .. }
                if *wait == TOO_MANY_REQUESTS
        ),
        Failing::Page | Failing::BrokenOff => {
            matches!(error, ConnectorError::Unavailable { sent: Sent::Unknown, .. })
        }
    };
    let meaning = match failing {
        Failing::DeadRefreshToken => "the grant is gone; add a rule under [[errors]]",
        Failing::WrongClient => "our client is rejected; add a rule under [[errors]]",
        Failing::ServerError => "nothing happened, and it may pass",
        Failing::TooManyRequests => "nothing happened, and it may pass in seven seconds",
        Failing::Page | Failing::BrokenOff => "nobody knows whether it happened",
    };
    (!right).then(|| format!("it is read as \"{error}\", and means that {meaning}"))
}

/// What is wrong with an outcome, if anything is.
fn wrong<T, E: fmt::Display>(outcome: &Result<T, E>) -> Vec<String> {
    outcome.as_ref().err().map(ToString::to_string).into_iter().collect()
}

fn redirect_uri() -> Url {
    addresses().redirect_uri
}

fn addresses() -> ClientAddresses {
    let at = |text| Url::parse(text).expect("what is written here is an address");
    ClientAddresses {
        redirect_uri: at("https://symbolon.example/callback/1"),
        backchannel_logout_uri: at("https://symbolon.example/backchannel-logout/1"),
    }
}
