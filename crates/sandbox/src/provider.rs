use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use axum::http::{HeaderMap, Method};
use tokio::sync::watch;

use crate::{
    answer::Answer,
    authorization,
    clock::Clock,
    discovery,
    endpoint::Endpoint,
    fault::Fault,
    faults::Faults,
    grants::Grants,
    introspection,
    keys::SigningKeys,
    parameters::Parameters,
    records::{Counters, Recorder, Records},
    revocation,
    settings::{Account, Client, SandboxSettings},
    token, userinfo,
};

/// A request that was read in whole.
pub(crate) struct Received {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Parameters,
    pub(crate) form: Parameters,
    /// Whether the body is declared to be a form.
    pub(crate) is_form: bool,
}

/// The OpenID provider: what it knows and what it answers. Speaks no HTTP.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    pub(crate) accounts: Vec<Account>,
    pub(crate) scopes: Vec<String>,
    pub(crate) access_token_lifetime: Duration,
    pub(crate) rotate_refresh_tokens: bool,
    pub(crate) reuse_interval: Duration,
    pub(crate) faults: Faults,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) clock: Clock,
    /// Becomes true when the sandbox stops; whatever waits stops waiting.
    pub(crate) stopping: watch::Sender<bool>,
    clients: RwLock<Vec<Client>>,
    keys: Mutex<SigningKeys>,
    grants: Mutex<Grants>,
}

impl Provider {
    /// A provider that calls itself `issuer`; the settings are checked already.
    pub(crate) fn new(issuer: String, settings: SandboxSettings) -> Self {
        let mut scopes =
            ["openid", "profile", "email", "offline_access"].map(String::from).to_vec();
        scopes.extend(settings.scopes);
        Self {
            issuer,
            accounts: settings.accounts,
            scopes,
            access_token_lifetime: settings.access_token_lifetime,
            rotate_refresh_tokens: settings.rotate_refresh_tokens,
            reuse_interval: settings.reuse_interval,
            faults: Faults::new(),
            recorder: Arc::new(Recorder::new()),
            clock: Clock::default(),
            stopping: watch::Sender::new(false),
            clients: RwLock::new(settings.clients),
            keys: Mutex::new(SigningKeys::generate(settings.signing_algorithm)),
            grants: Mutex::default(),
        }
    }

    /// Does what a request asks for. Everything happens in here, without waiting for anything.
    pub(crate) fn process(&self, received: &Received, fault: Option<&Fault>) -> Answer {
        match received.endpoint {
            Endpoint::Discovery => discovery::metadata(self),
            Endpoint::Jwks => Answer::json(self.keys().jwks()),
            Endpoint::Authorize => authorization::ask(self, received),
            Endpoint::Decision => authorization::decide(self, received),
            Endpoint::Token | Endpoint::Exchange | Endpoint::Refresh => {
                token::issue(self, received, fault)
            }
            Endpoint::Userinfo => userinfo::claims(self, received),
            Endpoint::Revoke => revocation::revoke(self, received),
            Endpoint::Introspect => introspection::introspect(self, received),
        }
    }

    pub(crate) fn account(&self, sub: &str) -> Option<&Account> {
        self.accounts.iter().find(|it| it.sub == sub)
    }

    pub(crate) fn client(&self, client_id: &str) -> Option<Client> {
        self.clients().iter().find(|it| it.client_id == client_id).cloned()
    }

    pub(crate) fn clients(&self) -> Vec<Client> {
        self.clients.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn update_clients<T>(&self, update: impl FnOnce(&mut Vec<Client>) -> T) -> T {
        update(&mut self.clients.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn keys(&self) -> MutexGuard<'_, SigningKeys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counters(&self) -> Counters {
        let (requests, concurrent_uses) = self.recorder.counts();
        let grants = self.grants();
        Counters {
            requests,
            refreshes: grants.refreshes,
            refresh_repeats: grants.refresh_repeats,
            refresh_reuses: grants.refresh_reuses,
            revoked_families: grants.revoked_families,
            concurrent_uses_of_one_refresh_token: concurrent_uses,
        }
    }

    pub(crate) fn records(&self) -> Records {
        Records { items: self.recorder.items(), counters: self.counters() }
    }

    /// The address of one of the endpoints.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }
}
