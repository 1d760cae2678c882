use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::http::{HeaderMap, Method};
use tokio::{net::TcpListener, task::JoinHandle};
use url::Url;

use crate::{
    connection::{AllScissors, Connections, Scissors},
    endpoint::Endpoint,
    faults::Faults,
    keys::SigningAlgorithm,
    parameters::Parameters,
    provider::{Provider, Received},
    records::{Counters, Outcome, Record, Records},
    server,
    settings::{Client, InvalidSettings, SandboxSettings, check_redirect_uri},
};

/// How long open requests are waited for when the sandbox stops.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings cannot be used.
    #[error(transparent)]
    Invalid(#[from] InvalidSettings),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// An authorization request that was not approved.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotApproved {
    /// The address is not of the sandbox's authorization endpoint.
    #[error("this is no authorization request to the sandbox")]
    Elsewhere,
    /// The sandbox answers it with a page: the client, the redirect URI or the account is unknown,
    /// or a fault is in the way.
    #[error("the sandbox answers this request with a page, status {status}")]
    Stopped {
        /// The HTTP status.
        status: u16,
    },
}

/// A running sandbox. It stops when this is dropped.
pub struct Sandbox {
    provider: Arc<Provider>,
    address: SocketAddr,
    connections: AllScissors,
    server: Option<JoinHandle<io::Result<()>>>,
}

impl Sandbox {
    /// Starts one, in the runtime that this is called in. From here on it answers.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing runs then.
    pub async fn start(settings: SandboxSettings) -> Result<Self, StartError> {
        settings.check()?;
        let address = settings.listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| StartError::Listen { address, source })?;
        let address =
            listener.local_addr().map_err(|source| StartError::Listen { address, source })?;

        let provider = Arc::new(Provider::new(format!("http://{address}"), settings));
        let connections = AllScissors::default();
        let router = server::router(Arc::clone(&provider));
        let service = router.into_make_service_with_connect_info::<Scissors>();
        let mut stopping = provider.stopping.subscribe();
        let listening = Connections { listener, all: connections.clone() };
        let serve = axum::serve(listening, service).with_graceful_shutdown(async move {
            let _ = stopping.wait_for(|it| *it).await;
        });
        let server = Some(tokio::spawn(serve.into_future()));
        Ok(Self { provider, address, connections, server })
    }

    /// What the provider calls itself, `http://127.0.0.1:PORT` with no slash behind.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.provider.issuer
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first client, as it is now.
    ///
    /// # Panics
    ///
    /// Never: the settings have at least one, and none is ever removed.
    #[must_use]
    pub fn client(&self) -> Client {
        self.provider.clients().into_iter().next().expect("there is at least one client")
    }

    /// The id of the first client.
    #[must_use]
    pub fn client_id(&self) -> String {
        self.client().client_id
    }

    /// The secret of the first client; empty for a public client.
    #[must_use]
    pub fn client_secret(&self) -> String {
        self.client().client_secret.unwrap_or_default()
    }

    /// Registers one more redirect URI, for instance one that has the port of a server that had
    /// to be started later.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] when there is no such client or it is no redirect URI; nothing is
    /// changed.
    pub fn add_redirect_uri(
        &self,
        client_id: &str,
        redirect_uri: impl Into<String>,
    ) -> Result<(), InvalidSettings> {
        let redirect_uri = redirect_uri.into();
        check_redirect_uri(&redirect_uri)?;
        self.provider.update_clients(|clients| {
            let client = clients.iter_mut().find(|it| it.client_id == client_id);
            let client =
                client.ok_or_else(|| InvalidSettings::UnknownClient(client_id.to_owned()))?;
            client.redirect_uris.push(redirect_uri);
            Ok(())
        })
    }

    /// Registers one more client.
    ///
    /// # Errors
    ///
    /// [`InvalidSettings`] when there is one by that id already, or it cannot be used; nothing is
    /// changed.
    pub fn add_client(&self, client: Client) -> Result<(), InvalidSettings> {
        client.check()?;
        self.provider.update_clients(|clients| {
            if clients.iter().any(|it| it.client_id == client.client_id) {
                return Err(InvalidSettings::Duplicate(client.client_id));
            }
            clients.push(client);
            Ok(())
        })
    }

    /// The switches.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.provider.faults
    }

    /// The latest 10,000 requests, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.provider.recorder.items()
    }

    /// Everything that was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.provider.counters()
    }

    /// [`Counters::refreshes`].
    #[must_use]
    pub fn refreshes(&self) -> u64 {
        self.counters().refreshes
    }

    /// [`Counters::refresh_reuses`].
    #[must_use]
    pub fn refresh_reuses(&self) -> u64 {
        self.counters().refresh_reuses
    }

    /// [`Counters::revoked_families`].
    #[must_use]
    pub fn revoked_families(&self) -> u64 {
        self.counters().revoked_families
    }

    /// [`Counters::concurrent_uses_of_one_refresh_token`].
    #[must_use]
    pub fn concurrent_uses_of_one_refresh_token(&self) -> u64 {
        self.counters().concurrent_uses_of_one_refresh_token
    }

    /// Waits until the records say what is waited for, and answers them. Looks at once, and again
    /// whenever a request arrives, is processed or ends. Waits for ever if that never happens, so
    /// put a deadline around it.
    pub async fn wait_for(&self, mut condition: impl FnMut(&Records) -> bool) -> Records {
        let mut changes = self.provider.recorder.changes();
        loop {
            changes.mark_unchanged();
            let records = self.provider.records();
            if condition(&records) {
                return records;
            }
            // The sender is the recorder, which lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Whether an access or refresh token was issued here and its whole family revoked since.
    #[must_use]
    pub fn is_revoked(&self, token: &str) -> bool {
        self.provider.grants().is_revoked(token)
    }

    /// Lets every access token expire now.
    pub fn expire_access_tokens(&self) {
        self.provider.grants().expire_access_tokens(self.provider.clock.now());
    }

    /// Takes back what a user has consented to, for every client, as a user does in the
    /// provider's settings.
    pub fn revoke_grants_of(&self, sub: &str) {
        self.provider.grants().revoke_grants_of(sub);
    }

    /// Signs with a new key from now on. The older ones stay published, so that what they signed
    /// can still be verified.
    pub fn rotate_keys(&self, algorithm: SigningAlgorithm) {
        self.provider.keys().rotate(algorithm, false);
    }

    /// Signs with a new key from now on, and publishes no other.
    pub fn replace_keys(&self, algorithm: SigningAlgorithm) {
        self.provider.keys().rotate(algorithm, true);
    }

    /// Puts the sandbox's clock forward: codes and tokens expire as if that time had gone by, and
    /// new ID tokens are of that later time.
    pub fn advance_clock(&self, by: Duration) {
        self.provider.clock.advance(by);
    }

    /// Does what a user does who follows `authorization_url` and chooses an account, and answers
    /// where the browser is sent. Written down, and subject to faults, like a decision on the
    /// page; those that delay or cut are without effect, for there is no connection.
    ///
    /// # Errors
    ///
    /// [`NotApproved`]; no code was issued.
    pub fn approve(&self, authorization_url: &str, sub: &str) -> Result<String, NotApproved> {
        self.decide(authorization_url, "account", sub)
    }

    /// Like [`approve`](Self::approve), for a user who chooses "Cancel".
    ///
    /// # Errors
    ///
    /// [`NotApproved`].
    pub fn deny(&self, authorization_url: &str) -> Result<String, NotApproved> {
        self.decide(authorization_url, "cancel", "1")
    }

    fn decide(&self, url: &str, name: &str, value: &str) -> Result<String, NotApproved> {
        let url = Url::parse(url).map_err(|_| NotApproved::Elsewhere)?;
        let endpoint = self.provider.url("/authorize");
        if Url::parse(&endpoint).map(|it| (it.origin(), it.path().to_owned()))
            != Ok((url.origin(), url.path().to_owned()))
        {
            return Err(NotApproved::Elsewhere);
        }
        let decision = [(name.to_owned(), value.to_owned())];
        let received = Received {
            endpoint: Endpoint::Decision,
            method: Method::POST,
            headers: HeaderMap::new(),
            query: Parameters::parse(url.query().unwrap_or_default().as_bytes()),
            form: Parameters::parse(crate::parameters::encode(&decision).as_bytes()),
            is_form: true,
        };
        let suffered = self.provider.faults.take(Endpoint::Decision);
        let arrival = server::arrival(&self.provider, &received, &suffered);
        let visit = self.provider.recorder.arrive(arrival);
        let answer = server::process(&self.provider, &received, suffered.fault.as_ref());
        visit.processed(answer.committed, answer.issued.clone());
        let status = answer.status.as_u16();
        visit.end(Outcome::Answered { status, error: answer.error.clone() });
        answer.location().ok_or(NotApproved::Stopped { status })
    }

    /// Stops it: nothing new is accepted, open requests get a moment to end, what is left is cut.
    /// When this returns, the port is free.
    pub async fn stop(mut self) {
        self.provider.stopping.send_replace(true);
        let Some(mut server) = self.server.take() else { return };
        if tokio::time::timeout(PATIENCE, &mut server).await.is_err() {
            self.connections.cut();
            // It cannot fail: it accepts and serves, and errors of connections stay theirs.
            let _ = server.await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.provider.stopping.send_replace(true);
        self.connections.cut();
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("issuer", &self.issuer()).finish_non_exhaustive()
    }
}
