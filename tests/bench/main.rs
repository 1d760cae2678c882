//! `make bench-requests`: every figure of docs/benchmarks.md about requests, measured in one run; and
//! [`scale`] and [`import`], which are `make bench-data`; [`refresh`], which is
//! `make bench-refresh`; and [`rotate`], which is `make bench-rotate`.
//!
//! Each server runs in a process of its own, this one generates the load, all on the same
//! machine: compare the figures with each other, not with another machine.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot measure stops")]
#![expect(clippy::cast_precision_loss, reason = "counts of a few seconds fit a float")]

mod import;
mod load;
mod provider;
mod refresh;
mod rotate;
mod scale;
mod servers;

use std::{fmt::Write as _, path::Path, time::Duration};

use load::{Load, run};
use servers::{Database, Server, bare, serve_constant, start_to_first_answer, symbolon};

/// How long each measurement takes, after a warm-up.
const MEASURE: Duration = Duration::from_secs(8);
const WARM_UP: Duration = Duration::from_secs(2);
/// Identities among which the callers take turns.
const IDENTITIES: usize = 1000;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        // This program again, as the server to compare with.
        Some("constant") => serve_constant(args.next().unwrap().parse().unwrap()).await,
        Some("import") => import::measure(Path::new(&args.next().unwrap())).await.unwrap(),
        Some("provider") => provider::serve().await,
        Some("refresh") => refresh::measure(Path::new(&args.next().unwrap())).await,
        Some("scale") => scale::measure(Path::new(&args.next().unwrap())).await,
        Some("rotate") => rotate::measure(Path::new(&args.next().unwrap())).await,
        Some(report) => measure(Path::new(report)).await,
        None => {
            eprintln!("usage: bench [import|refresh|rotate|scale] REPORT.md");
            std::process::exit(2);
        }
    }
}

async fn measure(report: &Path) {
    let sqlite = symbolon(&Database::Sqlite, IDENTITIES).await;
    let body_size = sqlite.body_size().await;
    let mut rows = vec![];
    let constant = bare(body_size).await;
    let baseline =
        [measure_at(&constant, 32, &mut rows).await, measure_at(&constant, 64, &mut rows).await];
    constant.stop().await;
    let idle_sqlite = sqlite.resident_mib();
    for (connections, base) in [32, 64].into_iter().zip(baseline) {
        let rate = measure_at(&sqlite, connections, &mut rows).await;
        rows.last_mut().unwrap().ratio = Some(rate / base);
    }
    let loaded_sqlite = sqlite.resident_mib();
    sqlite.stop().await;

    let postgres = symbolon(&Database::Postgres, IDENTITIES).await;
    let idle_postgres = postgres.resident_mib();
    for (connections, base) in [32, 64].into_iter().zip(baseline) {
        let rate = measure_at(&postgres, connections, &mut rows).await;
        rows.last_mut().unwrap().ratio = Some(rate / base);
    }
    let loaded_postgres = postgres.resident_mib();
    postgres.stop().await;

    let first_sqlite = start_to_first_answer(&Database::Sqlite).await;
    let first_postgres = start_to_first_answer(&Database::Postgres).await;

    let mut text = String::from(
        "| server | connections | answers/s | of the bare handler | p50 | p99 | not 200 |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for Row { name, connections, load, ratio } in &rows {
        let ratio = ratio.map_or("1.00".to_owned(), |it| format!("{it:.2}"));
        let rate = load.per_second();
        let (p50, p99) = (load.percentile_ms(0.50), load.percentile_ms(0.99));
        writeln!(
            text,
            "| {name} | {connections} | {rate:.0} | {ratio} | {p50:.2} ms | {p99:.2} ms | {} |",
            load.failures
        )
        .unwrap();
    }
    writeln!(
        text,
        "\n| | SQLite | PostgreSQL |\n| --- | --- | --- |\n\
         | resident memory, after start | {idle_sqlite:.1} MiB | {idle_postgres:.1} MiB |\n\
         | resident memory, after the load above | {loaded_sqlite:.1} MiB | {loaded_postgres:.1} MiB |\n\
         | start of the process to the first answer, median of 9 | {:.0} ms | {:.0} ms |",
        first_sqlite.as_secs_f64() * 1e3,
        first_postgres.as_secs_f64() * 1e3,
    )
    .unwrap();
    println!("{text}");
    write_between_marks(
        report,
        "<!-- figures: make bench-requests -->\n",
        "<!-- end of figures -->",
        &text,
    );
}

struct Row {
    name: &'static str,
    connections: usize,
    load: Load,
    ratio: Option<f64>,
}

async fn measure_at(server: &Server, connections: usize, rows: &mut Vec<Row>) -> f64 {
    eprintln!("{}: {connections} connections …", server.name);
    run(server, connections, WARM_UP).await;
    let load = run(server, connections, MEASURE).await;
    let rate = load.per_second();
    rows.push(Row { name: server.name, connections, load, ratio: None });
    rate
}

/// How many rows are measured: `SYMBOLON_BENCH_ROWS`, for a trial, or as many as usual.
fn rows_or(usual: u64) -> u64 {
    std::env::var("SYMBOLON_BENCH_ROWS").map_or(usual, |it| it.parse().unwrap())
}

/// Puts the figures where the document has room for them; the words around them stay.
fn write_between_marks(report: &Path, begin: &str, end: &str, figures: &str) {
    let text = std::fs::read_to_string(report).unwrap();
    let (head, rest) = text.split_once(begin).expect("the report has a mark for the figures");
    let (_, tail) = rest.split_once(end).expect("the report has an end mark");
    std::fs::write(report, format!("{head}{begin}{figures}{end}{tail}")).unwrap();
}
