//! A store to try, and the way behind it.

use std::{path::PathBuf, sync::Arc};

use diesel::{
    Connection as _, RunQueryDsl as _, SqliteConnection, connection::SimpleConnection as _,
};
use symbolon_diesel::{Database, DatabaseSettings, PostgresStore, SqliteStore};
use symbolon_domain::testing::{TestSealer, contract::Store};
use symbolon_test_postgres::TestDatabase;
use tempfile::TempDir;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A SQLite file with its tables.
pub(crate) struct SqliteFile {
    pub(crate) directory: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) settings: DatabaseSettings,
}

impl SqliteFile {
    /// Where a file may be made.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("symbolon.db");
        let settings = DatabaseSettings::new(format!("sqlite:{}", path.display()));
        Self { directory, path, settings }
    }

    pub(crate) async fn create() -> Self {
        let file = Self::new();
        migrate(&file.settings).await;
        file
    }
}

/// A PostgreSQL database with its tables.
pub(crate) async fn migrated_database() -> (TestDatabase, DatabaseSettings) {
    let database = TestDatabase::create().await.unwrap();
    let settings = DatabaseSettings::new(database.url());
    migrate(&settings).await;
    (database, settings)
}

async fn migrate(settings: &DatabaseSettings) {
    let database = symbolon_diesel::open(settings, Arc::new(TestSealer::default())).await.unwrap();
    database.migrate().await.unwrap();
}

pub(crate) async fn store_on_sqlite(file: &SqliteFile) -> SqliteStore {
    let sealer = Arc::new(TestSealer::default());
    SqliteStore::open(&file.path, &file.settings, sealer).await.unwrap()
}

pub(crate) async fn store_on_postgres(settings: &DatabaseSettings) -> PostgresStore {
    PostgresStore::open(settings, Arc::new(TestSealer::default())).await.unwrap()
}

/// A store, and its database as somebody sees it who has nothing but the database.
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) raw: Raw,
}

impl Bench {
    pub(crate) async fn on_sqlite() -> Self {
        let file = SqliteFile::create().await;
        let store = Arc::new(store_on_sqlite(&file).await);
        Self { store, raw: Raw::Sqlite(file) }
    }

    pub(crate) async fn on_postgres() -> Self {
        let (database, settings) = migrated_database().await;
        let store = Arc::new(store_on_postgres(&settings).await);
        let (client, connection) =
            tokio_postgres::connect(database.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { store, raw: Raw::Postgres(client, database) }
    }
}

/// A database, without any store.
pub(crate) enum Raw {
    Sqlite(SqliteFile),
    Postgres(Client, TestDatabase),
}

#[derive(diesel::QueryableByName)]
struct Text {
    #[diesel(sql_type = diesel::sql_types::Text)]
    value: String,
}

impl Raw {
    /// Runs statements.
    pub(crate) async fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(file) => connect(file).batch_execute(sql).unwrap(),
            Self::Postgres(client, _) => client.batch_execute(sql).await.unwrap(),
        }
    }

    /// The database once more, with another sealer: as another process has it.
    pub(crate) async fn open(&self, sealer: TestSealer) -> Database {
        let settings = match self {
            Self::Sqlite(file) => file.settings.clone(),
            Self::Postgres(_, database) => DatabaseSettings::new(database.url()),
        };
        symbolon_diesel::open(&settings, Arc::new(sealer)).await.unwrap()
    }

    /// The column `value` of each row, as text.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite(file) => {
                let rows: Vec<Text> = diesel::sql_query(sql).load(&mut connect(file)).unwrap();
                rows.into_iter().map(|row| row.value).collect()
            }
            Self::Postgres(client, _) => {
                let messages = client.simple_query(sql).await.unwrap();
                let row = |message| match message {
                    SimpleQueryMessage::Row(row) => Some(row.get("value").unwrap().to_owned()),
                    _ => None,
                };
                messages.into_iter().filter_map(row).collect()
            }
        }
    }

    /// The tables that migrations made, with their columns: `table.column`, in order.
    pub(crate) async fn columns(&self) -> Vec<String> {
        let mut columns = self
            .texts(match self {
                Self::Sqlite(_) => {
                    "SELECT t.name || '.' || c.name AS value \
                 FROM sqlite_schema t, pragma_table_info(t.name) c \
                 WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
                }
                Self::Postgres(..) => {
                    "SELECT table_name || '.' || column_name AS value \
                 FROM information_schema.columns WHERE table_schema = 'public'"
                }
            })
            .await;
        columns.sort();
        columns
    }

    /// How this database writes bytes.
    pub(crate) fn bytes(&self, text: &str) -> String {
        let hex = hex::encode(text);
        match self {
            Self::Sqlite(_) => format!("x'{hex}'"),
            Self::Postgres(..) => format!("decode('{hex}', 'hex')"),
        }
    }

    /// Everything that the database holds: on SQLite its files as they lie there.
    pub(crate) async fn everything(&self) -> Vec<u8> {
        match self {
            Self::Sqlite(file) => std::fs::read_dir(file.directory.path())
                .unwrap()
                .flat_map(|it| std::fs::read(it.unwrap().path()).unwrap())
                .collect(),
            Self::Postgres(..) => {
                let mut all = Vec::new();
                for column in self.columns().await {
                    let (table, column) = column.split_once('.').unwrap();
                    // The text of bytes as they are, not their digits.
                    let sql = format!(
                        "SELECT coalesce(CASE pg_typeof({column})::text WHEN 'bytea' THEN \
                         encode({column}::text::bytea, 'escape') ELSE {column}::text END, '') \
                         AS value FROM {table}"
                    );
                    all.extend(self.texts(&sql).await.into_iter().flat_map(String::into_bytes));
                }
                all
            }
        }
    }
}

fn connect(file: &SqliteFile) -> SqliteConnection {
    let mut conn = SqliteConnection::establish(file.path.to_str().unwrap()).unwrap();
    conn.batch_execute("PRAGMA busy_timeout = 10000").unwrap();
    conn
}

/// Makes two tests of a function that takes a [`Bench`]: one on each database.
macro_rules! on_both {
    ($($case:ident)*) => {
        mod on_sqlite {$(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($crate::bench::Bench::on_sqlite().await).await;
            }
        )*}

        mod on_postgres {$(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($crate::bench::Bench::on_postgres().await).await;
            }
        )*}
    };
}
pub(crate) use on_both;
