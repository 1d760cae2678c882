//! The database as the commands want it: to serve from, to look at, or to bring up to date.

use std::{path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use symbolon_domain::{
    ports::{Place, SealError, Sealer},
    services::KeyRotation,
};
use zeroize::Zeroizing;

use crate::{failure::Failure, services::Repositories, settings::DatabaseSettings};

/// An opened database.
pub(crate) struct Database(symbolon_diesel::Database);

impl Database {
    /// Opens the database as it is; makes the file of an embedded one.
    pub(crate) async fn open(settings: &DatabaseSettings) -> Result<Self, Failure> {
        Self::open_sealed(settings, Arc::new(NoKeys)).await
    }

    /// Opens the database with all its tables, for a command that keeps no secret.
    pub(crate) async fn open_migrated(settings: &DatabaseSettings) -> Result<Self, Failure> {
        Self::open_to_serve(settings, Arc::new(NoKeys)).await
    }

    /// The same, and makes no file where none is.
    pub(crate) async fn open_existing(settings: &DatabaseSettings) -> Result<Self, Failure> {
        if let Some(path) = missing_file(settings) {
            return Err(missing(path));
        }
        Self::open_migrated(settings).await
    }

    /// Opens a database that is there, with all its tables, for a command that may open secrets.
    pub(crate) async fn open_existing_with(
        settings: &DatabaseSettings,
        sealer: Option<Arc<dyn Sealer>>,
    ) -> Result<Self, Failure> {
        if let Some(path) = missing_file(settings) {
            return Err(missing(path));
        }
        Self::open_to_serve(settings, sealer.unwrap_or_else(|| Arc::new(NoKeys))).await
    }

    /// Opens a database that is there and changes nothing, not even its tables, which must be
    /// those of this version.
    pub(crate) async fn open_unchanged(
        settings: &DatabaseSettings,
        sealer: Arc<dyn Sealer>,
    ) -> Result<Self, Failure> {
        if let Some(path) = missing_file(settings) {
            return Err(missing(path));
        }
        let database = Self::open_sealed(settings, sealer).await?;
        let pending = database.pending_migrations().await?;
        if pending.is_empty() {
            return Ok(database);
        }
        let names = pending.join(", ");
        Err(Failure::Argument(format!(
            "the database lacks migrations ({names}); run `symbolon migrate` first"
        )))
    }

    /// Opens the database with all its tables. An embedded one is brought up to date here; on
    /// PostgreSQL that is the operator's to decide.
    pub(crate) async fn open_to_serve(
        settings: &DatabaseSettings,
        sealer: Arc<dyn Sealer>,
    ) -> Result<Self, Failure> {
        let database = Self::open_sealed(settings, sealer).await?;
        let pending = database.pending_migrations().await?;
        if pending.is_empty() {
            return Ok(database);
        }
        if !database.migrates_itself() && !settings.auto_migrate {
            let names = pending.join(", ");
            return Err(Failure::Argument(format!(
                "the database lacks migrations ({names}); run `symbolon migrate`, or set \
                 database.auto_migrate = true"
            )));
        }
        for name in database.migrate().await? {
            tracing::info!(name, "applied a migration");
        }
        Ok(database)
    }

    /// Opens the database to look at it and changes nothing; `None` when it is an embedded one
    /// that is not there yet.
    pub(crate) async fn open_to_look(
        settings: &DatabaseSettings,
        sealer: Option<Arc<dyn Sealer>>,
    ) -> Result<Option<Self>, Failure> {
        if missing_file(settings).is_some() {
            return Ok(None);
        }
        Self::open_sealed(settings, sealer.unwrap_or_else(|| Arc::new(NoKeys))).await.map(Some)
    }

    /// What `migrate` would apply; makes no file where none is.
    pub(crate) async fn pending_migrations_of(
        settings: &DatabaseSettings,
    ) -> Result<Vec<String>, Failure> {
        if missing_file(settings).is_some() {
            return Ok(symbolon_diesel::embedded_migrations()?);
        }
        Self::open(settings).await?.pending_migrations().await
    }

    pub(crate) async fn pending_migrations(&self) -> Result<Vec<String>, Failure> {
        Ok(self.0.pending_migrations().await?)
    }

    pub(crate) async fn migrate(&self) -> Result<Vec<String>, Failure> {
        Ok(self.0.migrate().await?)
    }

    /// The database's clock, where it runs on a server of its own.
    pub(crate) async fn now(&self) -> Result<Option<DateTime<Utc>>, Failure> {
        let now = self.0.clock().await.map_err(symbolon_domain::Error::from)?;
        Ok((!self.0.is_embedded()).then_some(now))
    }

    pub(crate) fn kind(&self) -> &'static str {
        if self.0.is_embedded() { "SQLite" } else { "PostgreSQL" }
    }

    /// Whether nobody but this service uses it, so that it may change the tables by itself.
    pub(crate) fn migrates_itself(&self) -> bool {
        self.0.is_embedded()
    }

    /// Everything that is sealed in it, as a whole.
    pub(crate) fn key_rotation(&self) -> KeyRotation {
        KeyRotation { values: self.0.sealed_values.clone() }
    }

    pub(crate) fn repositories(&self) -> Repositories {
        let database = self.0.clone();
        Repositories {
            identities: database.identities,
            providers: database.providers,
            credentials: database.credentials,
            sessions: database.sessions,
            device_links: database.device_links,
            logouts: database.logouts,
            events: database.events,
            refresh_schedule: database.refresh_schedule,
            forecast: database.forecast,
            revocations: database.revocations,
            transfers: database.transfers,
            vending: database.vending,
            ledger: database.ledger,
            keys: database.api_keys,
            archive: database.archive,
            auth_providers: database.auth_providers,
            auth_identities: database.auth_identities,
            organization_identities: database.organization_identities,
            webhooks: database.webhooks,
        }
    }

    async fn open_sealed(
        settings: &DatabaseSettings,
        sealer: Arc<dyn Sealer>,
    ) -> Result<Self, Failure> {
        let settings = symbolon_diesel::DatabaseSettings {
            url: settings.url.clone().unwrap_or_else(|| symbolon_domain::secret::Secret::new("")),
            max_connections: settings.max_connections as usize,
            tls_root_certificate: settings.root_certificate.clone(),
            statement_timeout: settings.statement_timeout,
            refresh_plan: settings.refresh_plan,
        };
        Ok(Self(symbolon_diesel::open(&settings, sealer).await?))
    }
}

/// The file of an embedded database that is not there.
fn missing_file(settings: &DatabaseSettings) -> Option<&Path> {
    let path = Path::new(settings.url.as_ref()?.expose().strip_prefix("sqlite:")?);
    (!path.exists()).then_some(path)
}

fn missing(path: &Path) -> Failure {
    let path = path.display();
    Failure::Argument(format!(
        "there is no database at {path}; `symbolon serve` or `symbolon migrate` makes it"
    ))
}

/// For commands that touch no secret: seals and opens nothing.
struct NoKeys;

impl Sealer for NoKeys {
    fn seal(&self, _: &Place, _: &[u8]) -> Result<Vec<u8>, SealError> {
        Err(SealError::UnknownKey(0))
    }

    fn open(&self, _: &Place, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        Err(SealError::UnknownKey(0))
    }

    fn key_id(&self, _: &[u8]) -> Option<u32> {
        None
    }

    fn mark(&self) -> Vec<u8> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use symbolon_domain::secret::Secret;
    use symbolon_test_postgres::TestDatabase;

    use super::*;
    use crate::settings::Settings;

    #[tokio::test(flavor = "multi_thread")]
    async fn postgresql_is_migrated_at_the_start_only_where_the_operator_says_so() {
        let database = TestDatabase::create().await.unwrap();
        let settings = DatabaseSettings {
            url: Some(Secret::new(database.url())),
            ..Settings::default().database
        };
        assert!(!settings.auto_migrate);
        for _ in 0..2 {
            let refused = Database::open_to_serve(&settings, Arc::new(NoKeys)).await;
            let Err(Failure::Argument(sentence)) = refused else { panic!("it serves") };
            assert!(sentence.contains("run `symbolon migrate`"), "{sentence}");
        }

        let settings = DatabaseSettings { auto_migrate: true, ..settings };
        let opened = Database::open_to_serve(&settings, Arc::new(NoKeys)).await.unwrap();
        assert_eq!(opened.pending_migrations().await.unwrap(), [""; 0]);
        let settings = DatabaseSettings { auto_migrate: false, ..settings };
        Database::open_to_serve(&settings, Arc::new(NoKeys)).await.unwrap();
    }
}
