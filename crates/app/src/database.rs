//! TEMPORARY memory.
use crate::{failure::Failure, services::Repositories, settings::DatabaseSettings};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use symbolon_domain::ports::Sealer;
use symbolon_domain::testing::MemoryStore;

pub(crate) struct Database(Arc<MemoryStore>);
impl Database {
    fn new() -> Self {
        Self(Arc::default())
    }
    pub(crate) async fn open(_: &DatabaseSettings) -> Result<Self, Failure> {
        Ok(Self::new())
    }
    pub(crate) async fn open_migrated(_: &DatabaseSettings) -> Result<Self, Failure> {
        Ok(Self::new())
    }
    pub(crate) async fn open_existing(_: &DatabaseSettings) -> Result<Self, Failure> {
        Ok(Self::new())
    }
    pub(crate) async fn open_to_serve(
        _: &DatabaseSettings,
        _: Arc<dyn Sealer>,
    ) -> Result<Self, Failure> {
        Ok(Self::new())
    }
    pub(crate) async fn open_to_look(
        _: &DatabaseSettings,
        _: Option<Arc<dyn Sealer>>,
    ) -> Result<Option<Self>, Failure> {
        Ok(Some(Self::new()))
    }
    pub(crate) async fn pending_migrations_of(
        _: &DatabaseSettings,
    ) -> Result<Vec<String>, Failure> {
        Ok(vec![])
    }
    pub(crate) async fn pending_migrations(&self) -> Result<Vec<String>, Failure> {
        Ok(vec![])
    }
    pub(crate) async fn migrate(&self) -> Result<Vec<String>, Failure> {
        Ok(vec![])
    }
    pub(crate) async fn now(&self) -> Result<Option<DateTime<Utc>>, Failure> {
        Ok(None)
    }
    pub(crate) fn kind(&self) -> &'static str {
        "memory"
    }
    pub(crate) fn migrates_itself(&self) -> bool {
        true
    }
    pub(crate) fn repositories(&self) -> Repositories {
        let s = &self.0;
        Repositories {
            identities: s.clone(),
            providers: s.clone(),
            credentials: s.clone(),
            sessions: s.clone(),
            events: s.clone(),
            keys: s.clone(),
        }
    }
}
