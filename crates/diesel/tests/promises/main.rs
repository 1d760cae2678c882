//! What the stores promise, on both databases: the contract of the ports, and what only a real
//! database can show.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod bench;
mod event_order;
mod properties;
mod refresh;
mod resilience;
mod rotation;
mod sealed;
mod tls;

mod sqlite {
    use symbolon_diesel::SqliteStore;
    use tempfile::TempDir;

    use crate::bench::{SqliteFile, store_on_sqlite};

    async fn empty_store() -> (SqliteStore, TempDir) {
        let file = SqliteFile::create().await;
        (store_on_sqlite(&file).await, file.directory)
    }

    symbolon_domain::contract_tests!(empty_store());
}

mod postgres {
    use symbolon_diesel::PostgresStore;
    use symbolon_test_postgres::TestDatabase;

    use crate::bench::{migrated_database, store_on_postgres};

    async fn empty_store() -> (PostgresStore, TestDatabase) {
        let (database, settings) = migrated_database().await;
        (store_on_postgres(&settings).await, database)
    }

    symbolon_domain::contract_tests!(empty_store());
}
