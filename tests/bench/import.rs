//! `make bench-data`, its second half: how fast `symbolon import sentry` is and what it needs.
//!
//! It writes dumps of a tenth of the rows and of all of them, imports each into SQLite and into
//! PostgreSQL, twice, and tells rows per second and the most memory that the process had: what
//! stays the same for ten times the rows does not grow with the file.

use std::{
    error::Error,
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use symbolon_test_postgres::TestDatabase;
use tempfile::TempDir;

use crate::{rows_or, scale::thousands, write_between_marks};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Identities of the greater dump, unless `SYMBOLON_BENCH_ROWS` says less.
const ROWS: u64 = 1_000_000;
/// Provider instances of the dump.
const PROVIDERS: u64 = 100;

/// Measures and writes the figures.
pub(crate) async fn measure(report: &Path) -> Outcome<()> {
    let rows = rows_or(ROWS);
    let mut text = String::from(
        "| `import sentry` of | into | time | rows/s | most memory |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for rows in [rows / 10, rows] {
        import(rows, &mut text).await?;
    }
    println!("{text}");
    write_between_marks(
        report,
        "<!-- figures: make bench-data, import -->\n",
        "<!-- end of import figures -->",
        &text,
    );
    Ok(())
}

async fn import(rows: u64, text: &mut String) -> Outcome<()> {
    let place = TempDir::new()?;
    let dump = place.path().join("dump.json");
    let size = write_dump(&dump, rows)?;
    let symbolon = std::env::current_exe()?.with_file_name("symbolon");
    let ring = place.path().join("ring.json");
    let made =
        Command::new(&symbolon).args(["keyring", "generate", "--file"]).arg(&ring).output()?;
    if !made.status.success() {
        return Err("no key ring could be made".into());
    }
    let file = place.path().join("symbolon.db");
    let database = TestDatabase::create().await?;
    let sqlite = format!("sqlite:{}", file.display());
    for (name, url) in [("SQLite", sqlite.as_str()), ("PostgreSQL", database.url())] {
        for what in ["empty", "the same again"] {
            eprintln!("import of {} rows into {name}, {what} …", thousands(rows));
            let run = Run { symbolon: &symbolon, ring: &ring, dump: &dump, url };
            let (time, memory) = run.measure()?;
            let total = rows + PROVIDERS;
            let rate = total as f64 / time.as_secs_f64();
            writeln!(
                text,
                "| {} identities, {} MB | {name}, {what} | {:.1} s | {rate:.0} | {} MiB |",
                thousands(rows),
                size / 1_000_000,
                time.as_secs_f64(),
                memory / 1024,
            )?;
        }
    }
    Ok(())
}

struct Run<'a> {
    symbolon: &'a Path,
    ring: &'a Path,
    dump: &'a Path,
    url: &'a str,
}

impl Run<'_> {
    /// How long it took, and the most memory that the process had, in KiB.
    fn measure(&self) -> Outcome<(Duration, u64)> {
        let begun = Instant::now();
        let mut child = Command::new(self.symbolon)
            .args(["import", "sentry", "--json"])
            .arg(self.dump)
            .env("SYMBOLON__KEYRING__FILE", self.ring)
            .env("SYMBOLON__DATABASE__URL", self.url)
            .env("SYMBOLON__DATABASE__AUTO_MIGRATE", "true")
            .stdout(Stdio::null())
            .spawn()?;
        let status = PathBuf::from(format!("/proc/{}/status", child.id()));
        let mut most = 0;
        let ended = loop {
            if let Some(ended) = child.try_wait()? {
                break ended;
            }
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let peak = text.lines().find_map(|it| it.strip_prefix("VmHWM:"));
            let peak = peak.and_then(|it| it.trim().trim_end_matches(" kB").parse().ok());
            most = most.max(peak.unwrap_or(0));
            std::thread::sleep(Duration::from_millis(20));
        };
        if ended.success() { Ok((begun.elapsed(), most)) } else { Err("the import failed".into()) }
    }
}

/// Writes a dump as Django does, and answers its size.
fn write_dump(path: &Path, identities: u64) -> Outcome<u64> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut first = "[";
    for id in 1..=PROVIDERS {
        write!(
            file,
            "{first}{{\"model\": \"sentry.identityprovider\", \"pk\": {id}, \"fields\": {{\"type\": \
             \"gitlab\", \"config\": {{\"client_id\": \"c{id}\", \"client_secret\": \"s{id}\"}}, \
             \"date_added\": \"2020-01-01T00:00:00Z\", \"external_id\": \"host-{id}\"}}}}"
        )?;
        first = ", ";
    }
    for id in 1..=identities {
        let (idp, user) = (id % PROVIDERS + 1, id / PROVIDERS + 1);
        let token = "x".repeat(40);
        write!(
            file,
            "{first}{{\"model\": \"sentry.identity\", \"pk\": {id}, \"fields\": {{\"idp\": {idp}, \
             \"user\": {user}, \"external_id\": \"{id}\", \"data\": {{\"access_token\": \
             \"{token}{id}\", \"refresh_token\": \"{token}r{id}\", \"expires\": 1900000000, \
             \"token_type\": \"bearer\"}}, \"status\": 1, \"scopes\": [\"read_user\"], \
             \"date_verified\": \"2024-05-06T07:08:09.123456Z\", \"date_added\": \
             \"2020-01-01T00:00:00Z\"}}}}"
        )?;
    }
    writeln!(file, "]")?;
    file.flush()?;
    Ok(file.get_ref().metadata()?.len())
}
