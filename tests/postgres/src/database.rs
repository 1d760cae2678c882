use std::{
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio_postgres::NoTls;

use crate::{Cluster, StartError, URL_VARIABLE};

/// An empty database of its own. Dropping it drops the database.
pub struct TestDatabase {
    server: String,
    name: String,
    url: String,
}

/// The cluster of a process that found none.
static OWN: OnceLock<Result<Cluster, StartError>> = OnceLock::new();
static COUNT: AtomicU32 = AtomicU32::new(0);

impl TestDatabase {
    /// A new empty database.
    ///
    /// # Errors
    ///
    /// A sentence that says what is missing.
    pub async fn create() -> Result<Self, String> {
        let server = match std::env::var(URL_VARIABLE) {
            Ok(url) => url,
            Err(_) => OWN
                .get_or_init(Cluster::start)
                .as_ref()
                .map(Cluster::url)
                .map_err(ToString::to_string)?,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{}_{count}", process::id(), now.subsec_nanos());
        execute(&server, &format!("CREATE DATABASE {name}"))
            .await
            .map_err(|error| format!("no test database can be made: {error}"))?;
        let base = server.rsplit_once('/').map_or(server.as_str(), |(base, _)| base);
        let url = format!("{base}/{name}");
        Ok(Self { server, name, url })
    }

    /// Its address: `postgres://…`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, statement) =
            (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // A runtime cannot be waited for from inside another one.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.is_ok_and(|it| it.block_on(execute(&server, &statement)).is_ok())
        });
        if !dropped.join().unwrap_or(false) {
            eprintln!("the test database {} stays until its cluster ends", self.name);
        }
    }
}

async fn execute(server: &str, statement: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(server, NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(statement).await?;
    drop(client);
    // Its end is the end of the session; how it ended says nothing.
    let _ = connection.await;
    Ok(())
}

/// Every row of every table of the `public` schema, as JSON, one a line; bytes are shown in
/// hexadecimal.
///
/// # Errors
///
/// The database's own, when it cannot be reached or read.
pub async fn tables_as_text(url: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let tables = "SELECT quote_ident(table_name) FROM information_schema.tables \
                  WHERE table_schema = 'public' ORDER BY 1";
    let mut text = String::new();
    for table in client.query(tables, &[]).await? {
        let name: String = table.get(0);
        let rows = format!("SELECT row_to_json(it)::text FROM {name} it");
        for row in client.query(&rows, &[]).await? {
            text.push_str(&name);
            text.push(' ');
            text.push_str(row.get(0));
            text.push('\n');
        }
    }
    drop(client);
    // It ends because its client has.
    let _ = connection.await;
    Ok(text)
}
