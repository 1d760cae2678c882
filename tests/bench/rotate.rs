//! `make bench-rotate`: what `keyring rotate` costs per million rows, and what the others notice.
//!
//! It asks the ports, as the command does, with the real key ring. Meanwhile another caller reads
//! and refreshes identities on connections of its own.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use symbolon_diesel::{Database, DatabaseSettings};
use symbolon_domain::{
    archive::{IdentityRecord, Record},
    credentials::Credentials,
    event::Actor,
    identity::{Identity, IdentityStatus},
    ids::{ExternalId, IdentityId, ProviderId, UserId},
    ports::{ImportSettings, LeaseOutcome, LeasedWrite, NewIdentityProvider},
    secret::Secret,
    services::{KeyRotation, RotationProgress},
};
use symbolon_keyring::KeyRing;
use symbolon_test_postgres::Cluster;

use crate::{load::Load, rows_or, write_between_marks};

/// How many identities there are, unless `SYMBOLON_BENCH_ROWS` says less.
const ROWS: u64 = 1_000_000;
/// Rows of one transaction while filling.
const STEP: u64 = 1000;
/// How long the callers are measured with nothing else going on.
const QUIET: Duration = Duration::from_secs(10);
/// What one caller waits between two calls.
const PAUSE: Duration = Duration::from_millis(5);

/// What was measured on one database.
struct Figures {
    name: &'static str,
    resealed: u64,
    rotation: Duration,
    nothing_left: Duration,
    check: Duration,
    reads: [Load; 2],
    refreshes: [Load; 2],
}

/// Measures both databases. Writes the figures only where they are those of [`ROWS`]; a trial with
/// fewer is only printed.
pub(crate) async fn measure(report: &Path) {
    let rows = rows_or(ROWS);
    let place = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", place.path().join("symbolon.db").display());
    let on_sqlite = measure_on("SQLite", &DatabaseSettings::new(sqlite), rows, place.path()).await;
    // Not one in a static, which would leave its files behind.
    let cluster = Cluster::start().unwrap();
    let settings = DatabaseSettings::new(cluster.url());
    let on_postgres = measure_on("PostgreSQL", &settings, rows, place.path()).await;
    let text = table(rows, &[on_sqlite, on_postgres]);
    println!("{text}");
    if rows == ROWS {
        write_between_marks(
            report,
            "<!-- figures: make bench-rotate -->\n",
            "<!-- end of rotation figures -->",
            &text,
        );
    }
}

fn table(rows: u64, figures: &[Figures; 2]) -> String {
    let mut text = format!("| {rows} identities |");
    for it in figures {
        write!(text, " {} |", it.name).unwrap();
    }
    text.push_str("\n| --- | --- | --- |\n");
    let mut line = |name: &str, cell: &dyn Fn(&Figures) -> String| {
        let [one, other] = figures.each_ref().map(cell);
        writeln!(text, "| {name} | {one} | {other} |").unwrap();
    };
    line("values sealed anew", &|it| it.resealed.to_string());
    line("which took", &|it| format!("{:.1} s", it.rotation.as_secs_f64()));
    line("values a second", &|it| format!("{:.0}", it.resealed as f64 / it.rotation.as_secs_f64()));
    line("a run that finds nothing left", &|it| format!("{:.1} s", it.nothing_left.as_secs_f64()));
    line("opening everything, as `keyring status` does", &|it| {
        format!("{:.1} s", it.check.as_secs_f64())
    });
    for (name, of) in [("before", 0), ("meanwhile", 1)] {
        line(&format!("reading credentials, p50 / p99 {name}"), &|it| cell(&it.reads[of]));
        line(&format!("keeping a refresh, p50 / p99 {name}"), &|it| cell(&it.refreshes[of]));
    }
    text
}

fn cell(load: &Load) -> String {
    format!("{:.2} / {:.2} ms", load.percentile_ms(0.50), load.percentile_ms(0.99))
}

async fn open(settings: &DatabaseSettings, ring: &Path) -> Database {
    let keys = Arc::new(KeyRing::load(ring).unwrap());
    symbolon_diesel::open(settings, keys).await.unwrap()
}

async fn measure_on(
    name: &'static str,
    settings: &DatabaseSettings,
    rows: u64,
    place: &Path,
) -> Figures {
    let ring = place.join(format!("{name}.json"));
    let at = std::time::SystemTime::now().into();
    KeyRing::generate(&ring, at).unwrap();
    let database = open(settings, &ring).await;
    database.migrate().await.unwrap();
    fill(name, &database, rows).await;
    KeyRing::add(&ring, at).unwrap();
    // As after the replicas have read the new key ring.
    let rotating = KeyRotation { values: open(settings, &ring).await.sealed_values };
    let callers = open(settings, &ring).await;

    eprintln!("{name}: {QUIET:?} of nothing else …");
    let end = Arc::new(AtomicBool::default());
    let quiet = tokio::spawn(call(callers.clone(), rows, Arc::clone(&end)));
    tokio::time::sleep(QUIET).await;
    end.store(true, Ordering::SeqCst);
    let (reads_before, refreshes_before) = quiet.await.unwrap();

    eprintln!("{name}: rotating …");
    let end = Arc::new(AtomicBool::default());
    let meanwhile = tokio::spawn(call(callers, rows, Arc::clone(&end)));
    let started = Instant::now();
    let resealed = rotating.reseal(&mut tell(name)).await.unwrap();
    let rotation = started.elapsed();
    end.store(true, Ordering::SeqCst);
    let (reads, refreshes) = meanwhile.await.unwrap();

    let started = Instant::now();
    assert_eq!(rotating.reseal(&mut tell(name)).await.unwrap(), 0);
    let nothing_left = started.elapsed();
    let started = Instant::now();
    let report = rotating.check(&mut tell(name)).await.unwrap();
    let check = started.elapsed();
    assert_eq!((report.left_beside(2), report.refused.len()), (0, 0));
    assert_eq!(report.values(), rows);
    Figures {
        name,
        resealed,
        rotation,
        nothing_left,
        check,
        reads: [reads_before, reads],
        refreshes: [refreshes_before, refreshes],
    }
}

/// A line every ten seconds.
fn tell(name: &'static str) -> impl FnMut(RotationProgress) + Send {
    let mut last = Instant::now();
    move |it| {
        if last.elapsed() > Duration::from_secs(10) {
            last = Instant::now();
            eprintln!("{name}: {} values, {:.0} %", it.values, it.fraction * 100.0);
        }
    }
}

/// Tokens of a usual length.
fn credentials(nth: i64) -> Credentials {
    let token = |kind: &str| Some(Secret::new(format!("{kind}-{nth}-{}", "x".repeat(180))));
    Credentials {
        access_token: token("access"),
        refresh_token: token("refresh"),
        ..Credentials::default()
    }
}

async fn fill(name: &'static str, database: &Database, rows: u64) {
    let new = NewIdentityProvider {
        provider_type: "oidc".to_owned(),
        external_id: None,
        config: serde_json::Map::new(),
        secrets: [].into(),
        options: symbolon_domain::identity_provider::ProviderOptions::default(),
    };
    let at = database.providers.insert(&new, &Actor::OPERATOR).await.unwrap().id;
    let now = database.clock().await.unwrap();
    let settings = ImportSettings { actor: Actor::OPERATOR, dry_run: false, tells: false };
    let mut import = database.archive.import(&settings).await.unwrap();
    let mut first = 1;
    while first <= rows {
        let last = rows.min(first + STEP - 1);
        let records: Vec<_> = (first..=last)
            .map(|nth| {
                let id = i64::try_from(nth).unwrap();
                let identity = identity(id, at, now);
                Record::Identity(Box::new(IdentityRecord::new(identity, Some(credentials(id)))))
            })
            .collect();
        import.take(&records).await.unwrap();
        if last.is_multiple_of(100 * STEP) {
            eprintln!("{name}: {last} of {rows} identities");
        }
        first = last + 1;
    }
}

fn identity(id: i64, at: ProviderId, now: chrono::DateTime<chrono::Utc>) -> Identity {
    Identity {
        id: IdentityId(id),
        idp_id: at,
        user_id: UserId::new(id.to_string()).unwrap(),
        external_id: ExternalId::new(format!("account-{id}")).unwrap(),
        data: serde_json::Map::new(),
        status: IdentityStatus::Valid,
        invalid: None,
        scopes: Vec::new(),
        date_verified: now,
        date_added: now,
        expires_at: None,
        version: 1,
    }
}

/// Reads one identity after the other, by chance, and refreshes it, until told to stop.
async fn call(database: Database, rows: u64, end: Arc<AtomicBool>) -> (Load, Load) {
    let started = Instant::now();
    let (mut reads, mut refreshes) = (Vec::new(), Vec::new());
    let micros = |since: Instant| u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
    // Steps of a prime go over all of them in no order that a rotation has.
    let mut turn = 0_u64;
    while !end.load(Ordering::SeqCst) || reads.is_empty() {
        turn += 7_919;
        let id = IdentityId(i64::try_from(turn % rows + 1).unwrap());
        let asked = Instant::now();
        let stored = database.credentials.find(id).await.unwrap().unwrap();
        reads.push(micros(asked));
        let asked = Instant::now();
        let time = Duration::from_mins(1);
        let leased = database.credentials.take_lease(id, stored.generation, "bench", time);
        if let LeaseOutcome::Taken(lease, _) = leased.await.unwrap() {
            let kept = database.credentials.commit(&lease, &stored.credentials.unwrap()).await;
            assert_eq!(kept.unwrap(), LeasedWrite::Done);
            refreshes.push(micros(asked));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let elapsed = started.elapsed();
    (Load::of(elapsed, reads), Load::of(elapsed, refreshes))
}
