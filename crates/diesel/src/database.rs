//! One database, as every port that it serves.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use symbolon_domain::ports::{
    ApiKeyRepository, Archive, AuthIdentityRepository, AuthProviderRepository,
    CredentialsRepository, DeviceLinkRepository, EventLog, Forecast, IdentityProviderRepository,
    IdentityRepository, LedgerRepository, LinkSessionRepository, LogoutRepository,
    OrganizationIdentityRepository, RefreshSchedule, RepositoryError, RevocationRepository,
    SealedValues, Sealer, TransferRepository, VendingRepository, WebhookRepository,
};

use crate::{
    postgres,
    settings::{DatabaseSettings, OpenError},
    sqlite,
};

/// Every port over one database. A clone is the same database.
#[derive(Clone)]
pub struct Database {
    /// Keeps identities.
    pub identities: Arc<dyn IdentityRepository>,
    /// Keeps credentials and decides who refreshes them.
    pub credentials: Arc<dyn CredentialsRepository>,
    /// Keeps provider instances.
    pub providers: Arc<dyn IdentityProviderRepository>,
    /// Keeps link sessions.
    pub sessions: Arc<dyn LinkSessionRepository>,
    /// Keeps device links, and decides who polls.
    pub device_links: Arc<dyn DeviceLinkRepository>,
    /// Takes providers' word that they ended sessions.
    pub logouts: Arc<dyn LogoutRepository>,
    /// Keeps what happened.
    pub events: Arc<dyn EventLog>,
    /// Keeps API keys.
    pub api_keys: Arc<dyn ApiKeyRepository>,
    /// Moves everything.
    pub archive: Arc<dyn Archive>,
    /// Keeps how organizations sign in.
    pub auth_providers: Arc<dyn AuthProviderRepository>,
    /// Keeps the accounts with which their users do.
    pub auth_identities: Arc<dyn AuthIdentityRepository>,
    /// Keeps which identities organizations use.
    pub organization_identities: Arc<dyn OrganizationIdentityRepository>,
    /// Knows what is due to be refreshed.
    pub refresh_schedule: Arc<dyn RefreshSchedule>,
    /// Knows which identities die when.
    pub forecast: Arc<dyn Forecast>,
    /// Keeps the grants that are to be ended.
    pub revocations: Arc<dyn RevocationRepository>,
    /// Moves identities and keeps the journal of it.
    pub transfers: Arc<dyn TransferRepository>,
    /// Keeps what is frozen, and is asked before a token is handed out.
    pub vending: Arc<dyn VendingRepository>,
    /// Keeps who was handed which token.
    pub ledger: Arc<dyn LedgerRepository>,
    /// Keeps webhook endpoints and what is on its way to them.
    pub webhooks: Arc<dyn WebhookRepository>,
    /// Everything that is sealed, as a whole.
    pub sealed_values: Arc<dyn SealedValues>,
    engine: Arc<dyn Engine>,
}

/// What a database does besides keeping rows.
#[async_trait]
pub(crate) trait Engine: Send + Sync {
    /// The time that it decides by.
    async fn clock(&self) -> Result<DateTime<Utc>, RepositoryError>;
    /// The names of the migrations that it lacks, in their order.
    async fn pending(&self) -> Result<Vec<String>, OpenError>;
    /// Applies them, alone, and names them.
    async fn migrate(&self) -> Result<Vec<String>, OpenError>;
    /// Whether a single process uses it, which may then migrate it by itself.
    fn is_embedded(&self) -> bool;
}

/// Opens a database. Its tables are not looked at: see [`Database::pending_migrations`].
///
/// A SQLite file that is not there is created, readable by its owner alone.
///
/// # Errors
///
/// [`OpenError`] when the settings make no sense or the database cannot be reached.
pub async fn open(
    settings: &DatabaseSettings,
    sealer: Arc<dyn Sealer>,
) -> Result<Database, OpenError> {
    let url = settings.url.expose();
    if let Some(path) = url.strip_prefix("sqlite:") {
        let store = sqlite::Store::open(Path::new(path), settings, sealer).await?;
        Ok(Database::over(Arc::new(store)))
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let store = postgres::Store::open(settings, sealer).await?;
        Ok(Database::over(Arc::new(store)))
    } else {
        Err(OpenError::UnknownKind)
    }
}

/// The names of the migrations that an embedded database begins with, in their order.
///
/// # Errors
///
/// [`OpenError::Migration`] when one is malformed, which no build lets pass.
pub fn embedded_migrations() -> Result<Vec<String>, OpenError> {
    sqlite::migration_names()
}

impl Database {
    fn over<S>(store: Arc<S>) -> Self
    where
        S: IdentityRepository
            + CredentialsRepository
            + DeviceLinkRepository
            + IdentityProviderRepository
            + LedgerRepository
            + LinkSessionRepository
            + LogoutRepository
            + EventLog
            + ApiKeyRepository
            + Archive
            + AuthProviderRepository
            + AuthIdentityRepository
            + OrganizationIdentityRepository
            + RefreshSchedule
            + Forecast
            + RevocationRepository
            + TransferRepository
            + VendingRepository
            + WebhookRepository
            + SealedValues
            + Engine
            + 'static,
    {
        Self {
            identities: store.clone(),
            credentials: store.clone(),
            providers: store.clone(),
            sessions: store.clone(),
            device_links: store.clone(),
            logouts: store.clone(),
            events: store.clone(),
            api_keys: store.clone(),
            archive: store.clone(),
            auth_providers: store.clone(),
            auth_identities: store.clone(),
            organization_identities: store.clone(),
            refresh_schedule: store.clone(),
            forecast: store.clone(),
            revocations: store.clone(),
            transfers: store.clone(),
            vending: store.clone(),
            ledger: store.clone(),
            webhooks: store.clone(),
            sealed_values: store.clone(),
            engine: store,
        }
    }

    /// The time by the database's clock, UTC: that it answers shows that it is there.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Store`] when it does not answer.
    pub async fn clock(&self) -> Result<DateTime<Utc>, RepositoryError> {
        self.engine.clock().await
    }

    /// The names of the migrations that the database lacks, in their order.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when it does not answer.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, OpenError> {
        self.engine.pending().await
    }

    /// Applies the migrations that the database lacks and names them. Of several processes that
    /// do so at the same time, one works and the others wait and find nothing left.
    ///
    /// # Errors
    ///
    /// [`OpenError::Migration`]; the steps before the one that failed stay.
    pub async fn migrate(&self) -> Result<Vec<String>, OpenError> {
        self.engine.migrate().await
    }

    /// Whether the database is embedded in this process (SQLite).
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.engine.is_embedded()
    }
}
