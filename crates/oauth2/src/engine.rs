use std::{fmt, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use moka::future::Cache;
use symbolon_domain::{
    ids::ProviderId,
    ports::{Clock, ConnectorError},
};
use tokio::sync::Mutex;
use url::Url;

use crate::{
    client_secrets::Learned,
    dpop::Nonces,
    http::HttpClient,
    jwks::KeySet,
    metadata::{Issuer, Metadata, fetch_document, unavailable},
};

/// How long a fetched document is used without asking again.
const FRESH: TimeDelta = TimeDelta::minutes(10);

/// How long it is used at most, where asking again fails for a reason that may pass.
const USABLE: TimeDelta = TimeDelta::hours(1);

/// How long a failure is the answer for everybody.
const FAILURE: TimeDelta = TimeDelta::seconds(5);

/// How long nobody asks again after a failure while the document at hand is usable: asking may
/// take the client's whole timeout, and everybody waits.
const FAILURE_WHILE_USABLE: TimeDelta = TimeDelta::minutes(1);

/// How often keys are fetched at most because a token names one that we do not have.
const COOL_DOWN: TimeDelta = TimeDelta::seconds(30);

/// Issuers whose documents are kept; the ones not asked for give way.
const MOST_ISSUERS: u64 = 2000;

/// What all connectors share: the client, the clock, and the documents of issuers.
///
/// Metadata and keys are kept per issuer, so that one issuer's key never verifies another's
/// token. They are used for ten minutes, and up to an hour while the issuer cannot be reached,
/// which is tried again each minute; without a usable document a failure is remembered for five
/// seconds. Each document is fetched by one caller at a time.
///
/// Cheap to clone; clones share the documents.
#[derive(Clone)]
pub struct Engine {
    pub(crate) http: HttpClient,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) leeway: TimeDelta,
    /// The instance that it works for, where it is known.
    pub(crate) provider: Option<ProviderId>,
    pub(crate) client_secrets: Learned,
    /// What servers want to see in our proofs.
    pub(crate) nonces: Nonces,
    issuers: Cache<Issuer, Arc<Documents>>,
}

#[derive(Default)]
struct Documents {
    metadata: Mutex<Kept<Metadata>>,
    /// The same of those that may name another issuer.
    naming_metadata: Mutex<Kept<Metadata>>,
    /// The same of those that are asked as authorization servers.
    server_metadata: Mutex<Kept<Metadata>>,
    keys: Mutex<KeptKeys>,
}

#[derive(Default)]
struct KeptKeys {
    /// Where the kept ones are from.
    from: Option<Url>,
    kept: Kept<KeySet>,
    /// When they were last fetched because of a token.
    asked_again_at: Option<DateTime<Utc>>,
}

struct Kept<T> {
    value: Option<(Arc<T>, DateTime<Utc>)>,
    failure: Option<(ConnectorError, DateTime<Utc>)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { value: None, failure: None }
    }
}

impl<T> Kept<T> {
    /// What is there and no older than `age`.
    fn within(&self, age: TimeDelta, now: DateTime<Utc>) -> Option<Arc<T>> {
        let (value, at) = self.value.as_ref()?;
        is_within(*at, age, now).then(|| value.clone())
    }

    /// The answer where no fetch is due.
    fn answer(&self, now: DateTime<Utc>) -> Option<Result<Arc<T>, ConnectorError>> {
        if let Some(fresh) = self.within(FRESH, now) {
            return Some(Ok(fresh));
        }
        let (error, at) = self.failure.as_ref()?;
        let answer = self.despite(error.clone(), now);
        let age = if answer.is_ok() { FAILURE_WHILE_USABLE } else { FAILURE };
        is_within(*at, age, now).then_some(answer)
    }

    /// What is still usable although fetching failed.
    fn despite(&self, error: ConnectorError, now: DateTime<Utc>) -> Result<Arc<T>, ConnectorError> {
        match self.within(USABLE, now) {
            Some(value) if matches!(error, ConnectorError::Unavailable { .. }) => Ok(value),
            _ => Err(error),
        }
    }

    fn keep(
        &mut self,
        fetched: Result<T, ConnectorError>,
        now: DateTime<Utc>,
    ) -> Result<Arc<T>, ConnectorError> {
        match fetched {
            Ok(value) => {
                let value = Arc::new(value);
                *self = Self { value: Some((value.clone(), now)), failure: None };
                Ok(value)
            }
            Err(error) => {
                self.failure = Some((error.clone(), now));
                self.despite(error, now)
            }
        }
    }
}

/// Whether `at` is at most `age` ago. The future is not: then the clock was set back.
fn is_within(at: DateTime<Utc>, age: TimeDelta, now: DateTime<Utc>) -> bool {
    at <= now && now - at < age
}

impl Engine {
    /// An engine with nothing fetched yet, and a leeway of a minute between clocks.
    #[must_use]
    pub fn new(http: HttpClient, clock: Arc<dyn Clock>) -> Self {
        Self {
            http,
            clock,
            leeway: TimeDelta::seconds(60),
            provider: None,
            client_secrets: Learned::default(),
            nonces: Nonces::default(),
            issuers: Cache::builder().max_capacity(MOST_ISSUERS).build(),
        }
    }

    /// How far a provider's clock may differ from ours.
    #[must_use]
    pub fn with_clock_leeway(self, leeway: TimeDelta) -> Self {
        Self { leeway, ..self }
    }

    /// The same engine, at work for this instance: by it the metrics tell providers apart.
    #[must_use]
    pub fn of(&self, provider: ProviderId) -> Self {
        Self { provider: Some(provider), ..self.clone() }
    }

    /// The guarded client.
    #[must_use]
    pub fn http(&self) -> &HttpClient {
        &self.http
    }

    async fn documents(&self, issuer: &Issuer) -> Arc<Documents> {
        self.issuers.get_with_by_ref(issuer, async { Arc::default() }).await
    }

    /// The metadata of an issuer.
    pub(crate) async fn metadata(&self, issuer: &Issuer) -> Result<Arc<Metadata>, ConnectorError> {
        let documents = self.documents(issuer).await;
        // Held while fetching: who comes meanwhile waits, and finds what was fetched.
        let mut metadata = documents.metadata.lock().await;
        if let Some(answer) = metadata.answer(self.clock.now()) {
            return answer;
        }
        let fetched = Metadata::fetch(&self.http, issuer).await;
        metadata.keep(fetched, self.clock.now())
    }

    /// What an issuer's document says that may name another issuer; apart from those that may not.
    pub(crate) async fn naming_metadata(
        &self,
        address: &Issuer,
    ) -> Result<Arc<Metadata>, ConnectorError> {
        let documents = self.documents(address).await;
        let mut metadata = documents.naming_metadata.lock().await;
        if let Some(answer) = metadata.answer(self.clock.now()) {
            return answer;
        }
        let fetched = Metadata::fetch_naming(&self.http, address).await;
        metadata.keep(fetched, self.clock.now())
    }

    /// The metadata of an issuer as they are now: whoever was told to change them has done so.
    pub(crate) async fn fresh_metadata(
        &self,
        issuer: &Issuer,
    ) -> Result<Arc<Metadata>, ConnectorError> {
        let documents = self.documents(issuer).await;
        let mut metadata = documents.metadata.lock().await;
        let fetched = Metadata::fetch(&self.http, issuer).await;
        metadata.keep(fetched, self.clock.now())
    }

    /// The metadata of an authorization server that need not be an OpenID provider.
    pub(crate) async fn server_metadata(
        &self,
        issuer: &Issuer,
    ) -> Result<Arc<Metadata>, ConnectorError> {
        let documents = self.documents(issuer).await;
        let mut metadata = documents.server_metadata.lock().await;
        if let Some(answer) = metadata.answer(self.clock.now()) {
            return answer;
        }
        let fetched = Metadata::fetch_server(&self.http, issuer).await;
        metadata.keep(fetched, self.clock.now())
    }

    /// The same as they are now.
    pub(crate) async fn fresh_server_metadata(
        &self,
        issuer: &Issuer,
    ) -> Result<Arc<Metadata>, ConnectorError> {
        let documents = self.documents(issuer).await;
        let mut metadata = documents.server_metadata.lock().await;
        let fetched = Metadata::fetch_server(&self.http, issuer).await;
        metadata.keep(fetched, self.clock.now())
    }

    /// The keys of an issuer, which are at `jwks_uri`.
    pub(crate) async fn keys(
        &self,
        issuer: &Issuer,
        jwks_uri: &Url,
    ) -> Result<Arc<KeySet>, ConnectorError> {
        let documents = self.documents(issuer).await;
        let mut keys = documents.keys.lock().await;
        if keys.from.as_ref() != Some(jwks_uri) {
            *keys = KeptKeys { from: Some(jwks_uri.clone()), ..KeptKeys::default() };
        }
        if let Some(answer) = keys.kept.answer(self.clock.now()) {
            return answer;
        }
        let fetched = self.fetch_keys(jwks_uri).await;
        keys.kept.keep(fetched, self.clock.now())
    }

    /// Keys newer than `seen`, because a token names one that is not among those; `None` when
    /// that was tried within the last half minute. So a flood of invented key ids costs the
    /// issuer two requests a minute.
    pub(crate) async fn newer_keys(
        &self,
        issuer: &Issuer,
        jwks_uri: &Url,
        seen: &Arc<KeySet>,
    ) -> Result<Option<Arc<KeySet>>, ConnectorError> {
        let documents = self.documents(issuer).await;
        let mut keys = documents.keys.lock().await;
        if let Some((kept, _)) = &keys.kept.value
            && !Arc::ptr_eq(kept, seen)
        {
            return Ok(Some(kept.clone()));
        }
        let now = self.clock.now();
        if keys.asked_again_at.is_some_and(|at| is_within(at, COOL_DOWN, now)) {
            return Ok(None);
        }
        keys.asked_again_at = Some(now);
        let fetched = Arc::new(self.fetch_keys(jwks_uri).await?);
        keys.from = Some(jwks_uri.clone());
        keys.kept = Kept { value: Some((fetched.clone(), self.clock.now())), failure: None };
        Ok(Some(fetched))
    }

    async fn fetch_keys(&self, jwks_uri: &Url) -> Result<KeySet, ConnectorError> {
        let bytes = fetch_document(&self.http, jwks_uri.clone(), "key set").await?;
        KeySet::parse(&bytes).map_err(|_| unavailable("the key set cannot be read"))
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("http", &self.http).finish_non_exhaustive()
    }
}
