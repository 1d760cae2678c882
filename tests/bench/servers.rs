use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, routing::post};
use serde_json::{Value, json};
use symbolon_test_postgres::TestDatabase;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

/// A server in a process of its own, and what to ask of it.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Vec<Vec<u8>>>,
    process: Child,
    _home: Option<Home>,
}

impl Server {
    pub(crate) fn resident_mib(&self) -> f64 {
        let path = format!("/proc/{}/status", self.process.id().unwrap());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// How long the answer to a token request is.
    pub(crate) async fn body_size(&self) -> usize {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&self.requests[0]).await.unwrap();
        let mut buffer = vec![0; 8192];
        let read = stream.read(&mut buffer).await.unwrap();
        let head = buffer[..read].windows(4).position(|it| it == b"\r\n\r\n").unwrap();
        crate::load::content_length(&buffer[..head])
    }

    pub(crate) async fn stop(mut self) {
        self.process.kill().await.unwrap();
    }
}

/// The baseline: the least that axum can do for an answer of this size.
pub(crate) async fn bare(body_size: usize) -> Server {
    let address = free_address();
    let process = Command::new(std::env::current_exe().unwrap())
        .args(["constant", &body_size.to_string()])
        .env("BENCH_LISTEN", address.to_string())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    wait_for(address).await;
    let request = request("/constant", "none");
    let requests = Arc::new(vec![request]);
    Server { name: "bare axum handler", address, requests, process, _home: None }
}

pub(crate) async fn serve_constant(body_size: usize) {
    let body: &'static str = Box::leak("x".repeat(body_size).into_boxed_str());
    let app = Router::new().route("/constant", post(async move || body));
    let listener = TcpListener::bind(std::env::var("BENCH_LISTEN").unwrap()).await.unwrap();
    axum::serve(listener, app).await.unwrap();
}

/// Where a server under measurement keeps its rows.
pub(crate) enum Database {
    Sqlite,
    Postgres,
}

/// A configured, migrated installation.
struct Home {
    directory: TempDir,
    address: SocketAddr,
    _database: Option<TestDatabase>,
}

impl Home {
    async fn new(database: &Database) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free_address();
        let (url, database) = match database {
            Database::Sqlite => {
                (format!("sqlite:{}", directory.path().join("symbolon.db").display()), None)
            }
            Database::Postgres => {
                let database = TestDatabase::create().await.unwrap();
                (database.url().to_owned(), Some(database))
            }
        };
        let keyring = directory.path().join("keyring");
        let config = format!(
            "[server]\nlisten = \"{address}\"\npublic_url = \"http://{address}\"\n\
             [database]\nurl = \"{url}\"\nauto_migrate = true\n\
             [keyring]\nfile = \"{}\"\n",
            keyring.display(),
        );
        std::fs::write(directory.path().join("symbolon.toml"), config).unwrap();
        let home = Self { directory, address, _database: database };
        home.command(&["keyring", "generate", "--file", keyring.to_str().unwrap()]).await;
        home.command(&["migrate"]).await;
        home
    }

    async fn command(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(binary())
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn serve(&self) -> Child {
        Command::new(binary())
            .arg("serve")
            .current_dir(self.directory.path())
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }
}

/// The service with identities whose tokens are fresh.
pub(crate) async fn symbolon(database: &Database, identities: usize) -> Server {
    let home = Home::new(database).await;
    let created =
        home.command(&["api-key", "create", "--name", "bench", "--scope", "admin", "--json"]).await;
    let created: Value = serde_json::from_slice(&created).unwrap();
    let key = created["secret"].as_str().unwrap().to_owned();
    let process = home.serve();
    wait_for(home.address).await;

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |path: &str, body: Value| -> Value {
        let url = format!("http://{}{path}", home.address);
        let answer = client.post(url).bearer_auth(&key).json(&body).send().await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert!(status.is_success(), "{status} {body}");
        serde_json::from_str(&body).unwrap()
    };
    let config = json!({
        "issuer": "https://issuer.example", "client_id": "bench", "client_secret": "bench"
    });
    let provider = post("/v1/providers", json!({"type": "oidc", "config": config})).await;
    let mut requests = vec![];
    for number in 0..identities {
        let identity = post(
            "/v1/identities",
            json!({
                "provider_id": provider["id"],
                "user_id": format!("user-{number}"),
                "external_id": format!("account-{number}"),
                "scopes": ["openid", "profile", "email"],
                "data": {
                    "name": "Ada Lovelace", "email": "ada@example.com",
                    // As long as a signed access token usually is.
                    "access_token": format!("{number:0>700}"),
                    "refresh_token": "r".repeat(64),
                    "expires": 4_000_000_000_i64,
                },
            }),
        )
        .await;
        requests.push(request(&format!("/v1/identities/{}/token", identity["id"]), &key));
    }
    let name = match database {
        Database::Sqlite => "symbolon on SQLite",
        Database::Postgres => "symbolon on PostgreSQL",
    };
    Server { name, address: home.address, requests: Arc::new(requests), process, _home: Some(home) }
}

/// From the start of the process until `/readyz` was answered, on a migrated database: the
/// median of nine.
pub(crate) async fn start_to_first_answer(database: &Database) -> Duration {
    let home = Home::new(database).await;
    let mut times = vec![];
    for _ in 0..9 {
        let started = Instant::now();
        let mut process = home.serve();
        loop {
            if is_ready(home.address).await {
                break;
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        times.push(started.elapsed());
        process.kill().await.unwrap();
    }
    times.sort_unstable();
    times[times.len() / 2]
}

async fn is_ready(address: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\n\r\n").await;
    let mut status = [0; 12];
    asked.is_ok() && stream.read_exact(&mut status).await.is_ok() && &status == b"HTTP/1.1 200"
}

pub(crate) async fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn request(path: &str, key: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
    )
    .into_bytes()
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

pub(crate) fn binary() -> PathBuf {
    let directory = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    directory.join("symbolon")
}
