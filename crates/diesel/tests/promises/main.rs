//! SQLite and PostgreSQL keep every promise of the ports, and some of their own.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod postgres {
    use std::sync::Arc;

    use symbolon_diesel::{DatabaseSettings, PostgresStore};
    use symbolon_domain::testing::TestSealer;
    use symbolon_test_postgres::TestDatabase;

    async fn empty_store() -> (PostgresStore, TestDatabase) {
        let database = TestDatabase::create().await.unwrap();
        let settings = DatabaseSettings::new(database.url());
        let sealer = Arc::new(TestSealer::default());
        symbolon_diesel::open(&settings, sealer.clone()).await.unwrap().migrate().await.unwrap();
        (PostgresStore::open(&settings, sealer).await.unwrap(), database)
    }

    symbolon_domain::contract_tests!(empty_store());
}

mod sqlite {
    use std::sync::Arc;

    use symbolon_diesel::{DatabaseSettings, SqliteStore};
    use symbolon_domain::testing::TestSealer;
    use tempfile::TempDir;

    async fn empty_store() -> (SqliteStore, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("symbolon.db");
        let settings = DatabaseSettings::new(format!("sqlite:{}", path.display()));
        let sealer = Arc::new(TestSealer::default());
        symbolon_diesel::open(&settings, sealer.clone()).await.unwrap().migrate().await.unwrap();
        (SqliteStore::open(&path, &settings, sealer).await.unwrap(), folder)
    }

    symbolon_domain::contract_tests!(empty_store());
}
