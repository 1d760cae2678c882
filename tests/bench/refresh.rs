//! `make bench-refresh`: identities kept fresh by two replicas over one PostgreSQL, against a
//! provider in another process.

use std::{
    fmt::Write as _,
    io::{BufWriter, Write as _},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use chrono::DateTime;
use serde_json::{Value, json};
use symbolon_domain::{
    credentials::Credentials, ids::IdentityId, refresh_plan::RefreshPlan, secret::Secret,
};
use symbolon_test_postgres::TestDatabase;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};

use crate::{
    load::{Caller, Load, run_at},
    provider::refresh_token,
    servers::{binary, free_address, request, wait_for},
    write_between_marks,
};

/// Seconds that the tokens of most identities live, as most providers have it.
const LIFE: u64 = 3600;
/// Seconds that the others live: one in a hundred ends each second.
const SHORT_LIFE: u64 = 100;
/// How many of these there are at most.
const SHORT: u64 = 10_000;
/// `refresh.ahead` and `refresh.margin`, in seconds.
const AHEAD: u64 = 900;
const MARGIN: u64 = 300;
/// Who waits for one refresh.
const CALLERS: usize = 10_000;

pub(crate) async fn measure(report: &Path) {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |it| it.parse().expect("a number"))
    };
    let rows = number("SYMBOLON_BENCH_ROWS", 1_000_000);
    let seconds = number("SYMBOLON_BENCH_SECONDS", 600);
    let callers = usize::try_from(number("SYMBOLON_BENCH_CALLERS", CALLERS as u64)).unwrap();
    let world = World::new(rows).await;

    let steady = world.steady(Duration::from_secs(seconds)).await;
    let flat_out = world.flat_out().await;
    let one = world.one_refresh(callers).await;
    let path = world.token_path(Duration::from_secs(seconds.min(30))).await;
    let duplicates = world.figures().await.1;
    let invalid = world.count("SELECT count(*) FROM identities WHERE status = 'invalid'").await;

    let mut text = String::from(
        "| phase | time | refreshes/s | left of the token's life, p1 | p50 | within the margin | \
         processor, both replicas | memory of each |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (name, phase) in [("spread evenly", &steady), ("a tenth due at once", &flat_out)] {
        writeln!(
            text,
            "| {name} | {:.0} s | {:.0} | {:.0} s | {:.0} s | {} of {} | {:.0} % of a core | {} |",
            phase.elapsed.as_secs_f64(),
            phase.refreshes as f64 / phase.elapsed.as_secs_f64(),
            phase.left_p1,
            phase.left_p50,
            phase.within_margin,
            phase.refreshes,
            phase.processor * 100.0 / phase.elapsed.as_secs_f64(),
            phase.memory.map(|it| format!("{it:.0} MiB")).join(", "),
        )
        .unwrap();
    }
    let ms = |load: &Load, part| load.percentile_ms(part);
    writeln!(
        text,
        "\n| | |\n| --- | --- |\n\
         | identities | {rows} |\n\
         | uses of a refresh token beyond the first | {duplicates} |\n\
         | identities that became invalid | {invalid} |\n\
         | {callers} callers of one token that has ended, half at each replica, the provider taking \
         a second: refreshes / not 200 / p50 / p99 | {} / {} / {:.0} ms / {:.0} ms |\n\
         | token path while 1 % of {} tokens end each second, 32 connections: answers/s / not 200 / \
         p50 / p99 / refreshes/s meanwhile | {:.0} / {} / {:.2} ms / {:.2} ms / {:.0} |",
        one.refreshes,
        one.load.failures,
        ms(&one.load, 0.50),
        ms(&one.load, 0.99),
        world.short,
        path.load.per_second(),
        path.load.failures,
        ms(&path.load, 0.50),
        ms(&path.load, 0.99),
        path.refreshes as f64 / path.elapsed.as_secs_f64(),
    )
    .unwrap();
    println!("{text}");
    write_between_marks(
        report,
        "<!-- figures: make bench-refresh -->\n",
        "<!-- end of refresh figures -->",
        &text,
    );
    world.stop().await;
}

/// What was seen while identities were kept fresh.
struct Phase {
    elapsed: Duration,
    refreshes: i64,
    /// Seconds of the old token's life when the new one was there.
    left_p1: f64,
    left_p50: f64,
    /// How many were replaced with less than the margin left.
    within_margin: i64,
    /// Seconds of processor time.
    processor: f64,
    memory: [f64; 2],
}

/// What callers saw.
struct Called {
    load: Load,
    elapsed: Duration,
    refreshes: u64,
}

/// Two replicas, their database, and the provider.
struct World {
    short: u64,
    key: String,
    replicas: [(SocketAddr, Child); 2],
    provider: (SocketAddr, Child),
    database: TestDatabase,
    client: reqwest::Client,
    _home: TempDir,
}

impl World {
    async fn new(rows: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let database = TestDatabase::create().await.unwrap();
        let address = free_address();
        let provider = Command::new(std::env::current_exe().unwrap())
            .arg("provider")
            .env("BENCH_LISTEN", address.to_string())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        wait_for(address).await;
        let provider = (address, provider);

        let keyring = home.path().join("keyring");
        let replica = |listen: SocketAddr| {
            format!(
                "[server]\nlisten = \"{listen}\"\npublic_url = \"http://{listen}\"\n\
                 [database]\nurl = \"{}\"\nauto_migrate = true\nmax_connections = 24\n\
                 [keyring]\nfile = \"{}\"\n\
                 [http_client]\nallow_http = true\nallow_private_networks = true\n\
                 [refresh]\nahead = {AHEAD}\nmargin = {MARGIN}\nconcurrency_per_provider = 32\n\
                 per_second_per_provider = 100000\n",
                database.url(),
                keyring.display(),
            )
        };
        let listen = [free_address(), free_address()];
        let configs = listen.map(|it| home.path().join(format!("{}.toml", it.port())));
        for (path, listen) in configs.iter().zip(listen) {
            std::fs::write(path, replica(listen)).unwrap();
        }
        let command = async |arguments: &[&str]| {
            let config = configs[0].to_str().unwrap();
            let output = Command::new(binary())
                .args(arguments)
                .args(["--config", config])
                .output()
                .await
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let made = Command::new(binary())
            .args(["keyring", "generate", "--file"])
            .arg(&keyring)
            .output()
            .await
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        command(&["migrate"]).await;
        let key =
            command(&["api-key", "create", "--name", "b", "--scope", "admin", "--json"]).await;
        let key: Value = serde_json::from_slice(&key).unwrap();

        let short = SHORT.min(rows);
        let dump = home.path().join("dump.jsonl");
        eprintln!("{rows} identities and {short} with short-lived tokens …");
        let first_due = write_dump(&dump, rows, short, provider.0);
        let started = Instant::now();
        command(&["import", "symbolon", dump.to_str().unwrap()]).await;
        eprintln!("imported in {:.0} s", started.elapsed().as_secs_f64());
        std::fs::remove_file(&dump).unwrap();

        let serve = |config: &Path| {
            Command::new(binary())
                .arg("serve")
                .arg("--config")
                .arg(config)
                .env("RUST_LOG", "warn")
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        };
        let mut at = configs.iter().zip(listen).map(|(config, listen)| (listen, serve(config)));
        let replicas = [at.next().unwrap(), at.next().unwrap()];
        for (listen, _) in &replicas {
            wait_for(*listen).await;
        }
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let key = key["secret"].as_str().unwrap().to_owned();
        let world = Self { short, key, replicas, provider, database, client, _home: home };
        // What an import brings is planned by the replicas.
        let planned = "SELECT count(*) FROM identities WHERE planned_generation IS NULL";
        while world.count(planned).await > 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eprintln!("planned after {:.0} s", started.elapsed().as_secs_f64());
        let early = first_due.duration_since(SystemTime::now()).expect("planned in time");
        tokio::time::sleep(early).await;
        world
    }

    /// Tokens end evenly over an hour, and are replaced as they come.
    async fn steady(&self, time: Duration) -> Phase {
        eprintln!("spread evenly: {} s …", time.as_secs());
        self.phase(async || tokio::time::sleep(time).await).await
    }

    /// A tenth is due at once, as after an outage, and worked off to the last as fast as it can be.
    async fn flat_out(&self) -> Phase {
        eprintln!("a tenth due at once …");
        self.execute(&format!(
            "UPDATE identities SET refresh_at = now() - interval '1 second' * (id % {MARGIN}) \
             WHERE idp_id = 1 AND id % 10 = 0"
        ))
        .await;
        self.phase(async || {
            let long_due = "SELECT count(*) FROM (SELECT 1 FROM identities WHERE idp_id = 1 \
                            AND refresh_at <= now() - interval '5 seconds' LIMIT 1) AS due";
            while self.count(long_due).await > 0 {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        })
        .await
    }

    async fn phase(&self, meanwhile: impl AsyncFnOnce()) -> Phase {
        let first = self.count("SELECT coalesce(max(id), 0) FROM events").await;
        let (processor, started) = (self.processor(), Instant::now());
        meanwhile().await;
        let elapsed = started.elapsed();
        let processor = self.processor() - processor;
        let (client, connection) =
            tokio_postgres::connect(self.database.url(), tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let left = "extract(epoch FROM (before ->> 'expires_at')::timestamptz - at)";
        let query = format!(
            "SELECT count(*), \
                coalesce(percentile_cont(0.01) WITHIN GROUP (ORDER BY {left}), 0)::float8, \
                coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY {left}), 0)::float8, \
                count(*) FILTER (WHERE {left} < {MARGIN}) \
             FROM events WHERE id > $1 AND kind = 'identity.refreshed' AND provider_id = 1"
        );
        let row = client.query_one(query.as_str(), &[&first]).await.unwrap();
        connection.abort();
        Phase {
            elapsed,
            refreshes: row.get(0),
            left_p1: row.get(1),
            left_p50: row.get(2),
            within_margin: row.get(3),
            processor,
            memory: [self.memory(0), self.memory(1)],
        }
    }

    /// Callers who all want one token that has ended.
    async fn one_refresh(&self, callers: usize) -> Called {
        eprintln!("{callers} callers on one refresh …");
        let new = json!({
            "provider_id": 1, "user_id": "waited-for", "external_id": "waited-for",
            "data": {
                "access_token": "a", "refresh_token": refresh_token("waited-for", 0), "expires": 1,
            },
        });
        self.call(&format!("http://{}/delay/1000", self.provider.0), &json!({})).await;
        let url = format!("http://{}/v1/identities", self.replicas[0].0);
        let mut connections = JoinSet::new();
        for caller in 0..callers {
            let address = self.replicas[caller % 2].0;
            connections.spawn(Caller::connect(address));
        }
        let connections = connections.join_all().await;
        let identity = self.call(&url, &new).await;
        let before = self.count_refreshed(&identity).await;
        let path = format!("/v1/identities/{}/token", identity["id"]);
        let request = Arc::new(request(&path, &self.key));
        let started = Instant::now();
        let mut asking = JoinSet::new();
        for mut caller in connections {
            let request = Arc::clone(&request);
            asking.spawn(async move {
                let ok = caller.ask(&request).await;
                (u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX), ok)
            });
        }
        let answers = asking.join_all().await;
        let elapsed = started.elapsed();
        self.call(&format!("http://{}/delay/0", self.provider.0), &json!({})).await;
        let refreshes = self.count_refreshed(&identity).await - before;
        let mut load = Load::of(elapsed, answers.iter().map(|it| it.0).collect());
        load.failures = answers.iter().filter(|it| !it.1).count();
        Called { load, elapsed, refreshes: u64::try_from(refreshes).unwrap() }
    }

    async fn count_refreshed(&self, identity: &Value) -> i64 {
        let of = format!("identity_id = {}", identity["id"]);
        self.count(&format!(
            "SELECT count(*) FROM events WHERE kind = 'identity.refreshed' AND {of}"
        ))
        .await
    }

    /// Callers of tokens of which one in a hundred ends each second.
    async fn token_path(&self, time: Duration) -> Called {
        eprintln!("token path: {} s …", time.as_secs());
        let first = self.count("SELECT min(id) FROM identities WHERE idp_id = 2").await;
        let requests: Vec<_> = (0..i64::try_from(self.short).unwrap())
            .map(|it| request(&format!("/v1/identities/{}/token", first + it), &self.key))
            .collect();
        let before = self.figures().await.0;
        let load = run_at(self.replicas[0].0, &Arc::new(requests), 32, time).await;
        Called { load, elapsed: time, refreshes: self.figures().await.0 - before }
    }

    /// Refreshes at the provider, and uses of a refresh token beyond the first.
    async fn figures(&self) -> (u64, u64) {
        let url = format!("http://{}/figures", self.provider.0);
        let figures: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        let number = |name: &str| figures[name].as_u64().unwrap();
        (number("refreshes"), number("duplicates"))
    }

    async fn call(&self, url: &str, body: &Value) -> Value {
        let answer = self.client.post(url).bearer_auth(&self.key).json(body).send().await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert!(status.is_success(), "{status} {body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    async fn count(&self, query: &str) -> i64 {
        let (client, connection) =
            tokio_postgres::connect(self.database.url(), tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let count = client.query_one(query, &[]).await.unwrap().get(0);
        connection.abort();
        count
    }

    async fn execute(&self, statement: &str) {
        let (client, connection) =
            tokio_postgres::connect(self.database.url(), tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.execute(statement, &[]).await.unwrap();
        connection.abort();
    }

    /// Processor time of both replicas, in seconds.
    fn processor(&self) -> f64 {
        let of = |child: &Child| {
            let path = format!("/proc/{}/stat", child.id().unwrap());
            let stat = std::fs::read_to_string(path).unwrap();
            // After the name, which may hold spaces: the 14th and 15th field of all (proc(5)).
            let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
            // USER_HZ is 100 on every Linux that matters.
            (ticks(11) + ticks(12)) / 100.0
        };
        self.replicas.iter().map(|(_, child)| of(child)).sum()
    }

    /// Resident memory of a replica, in MiB.
    fn memory(&self, replica: usize) -> f64 {
        let path = format!("/proc/{}/status", self.replicas[replica].1.id().unwrap());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    async fn stop(self) {
        for (_, mut child) in self.replicas.into_iter().chain([self.provider]) {
            child.kill().await.unwrap();
        }
    }
}

/// Everything in the form of an export: two instances of the provider, and their identities, whose
/// tokens end as they would after hours of being replaced one by one. Answers when the first is due.
fn write_dump(path: &Path, rows: u64, short: u64, provider: SocketAddr) -> SystemTime {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    let now =
        i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
            .unwrap();
    // By then everything is imported and planned; what is due comes evenly from there on.
    let start = now + 30 + i64::try_from(rows / 1600).unwrap();
    let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
    let plan = RefreshPlan {
        ahead: Some(Duration::from_secs(AHEAD)),
        margin: Duration::from_secs(MARGIN),
    };
    let mut records = 0_u64;
    let mut line = |value: &Value| writeln!(file, "{value}").unwrap();
    line(&json!({"symbolon_export": 1, "with_secrets": true}));
    for (id, life) in [(1, LIFE), (2, SHORT_LIFE)] {
        records += 1;
        line(&json!({
            "kind": "identity_provider", "id": id, "type": "oidc",
            "external_id": format!("life-{life}"),
            "config": {"issuer": format!("http://{provider}/{life}"), "client_id": "bench"},
            "secret_names": [], "login": false, "multiple_accounts": false,
            "names_issuer": false, "date_added": at(now), "version": 1,
        }));
    }
    for number in 0..rows + short {
        let (idp, lives, place, of) = if number < rows {
            (1, LIFE, number, rows)
        } else {
            (2, SHORT_LIFE, number - rows, short)
        };
        let lives = i64::try_from(lives).unwrap();
        let id = i64::try_from(number + 1).unwrap();
        let tokens = Credentials {
            refresh_token: Some(Secret::new("r")),
            obtained_at: Some(at(0)),
            expires_at: Some(at(lives)),
            ..Credentials::default()
        };
        // How old these are when they are due, by the plan of the replicas.
        let age = plan.of(IdentityId(id), 1, Some(&tokens)).refresh_at.unwrap() - at(0);
        // One round takes as long as they are old on the average.
        let round = if idp == 1 { LIFE - u64::midpoint(AHEAD, MARGIN) } else { SHORT_LIFE * 5 / 8 };
        let due = start + i64::try_from(round * place / of).unwrap();
        let obtained_at = due - age.num_seconds();
        let expires_at = obtained_at + lives;
        let account = format!("account-{number}");
        records += 1;
        line(&json!({
            "kind": "identity", "id": id, "idp_id": idp,
            "user_id": format!("user-{number}"), "external_id": account,
            "data": {"name": "Ada Lovelace", "email": "ada@example.com"},
            "status": "valid", "scopes": ["openid", "profile", "email"],
            "date_verified": at(now), "date_added": at(now),
            "expires_at": at(expires_at), "version": 1, "generation": 1, "attempt": 0,
            "unanswered": 0,
            "credentials": {
                "access_token": format!("{account}.{:0>680}", 0),
                "refresh_token": refresh_token(&account, 0),
                "token_type": "Bearer",
                "expires_at": at(expires_at), "obtained_at": at(obtained_at),
                "scopes": ["openid", "profile", "email"],
            },
        }));
    }
    line(&json!({"kind": "end", "records": records}));
    file.flush().unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(start.try_into().unwrap())
}
