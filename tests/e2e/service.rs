//! The built binary, running, and what a product's backend does with it.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use symbolon_test_postgres::TestDatabase;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::browser::{Browser, query};

/// Where an installation keeps its rows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A key ring, a database, an API key: what the replicas of one service share.
pub(crate) struct Installation {
    directory: TempDir,
    database_url: String,
    _database: Option<TestDatabase>,
    /// Where browsers come in: the address of the first replica.
    pub(crate) public: SocketAddr,
    key: String,
    /// Set before a replica starts.
    pub(crate) provider_timeout: &'static str,
    /// What the replicas log, and how; set before one starts.
    pub(crate) log: (&'static str, &'static str),
    /// More variables of a replica's environment; set before it starts.
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// Where the product's own pages would be. Nothing listens there: no test goes that far.
pub(crate) const RETURN_URL: &str = "http://127.0.0.1:9/connected-accounts";

impl Installation {
    pub(crate) async fn new(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (database_url, database) = match kind {
            Kind::Sqlite => {
                (format!("sqlite:{}", directory.path().join("symbolon.db").display()), None)
            }
            Kind::Postgres => {
                let database = TestDatabase::create().await.unwrap();
                (database.url().to_owned(), Some(database))
            }
        };
        Self::made(directory, database_url, database).await
    }

    /// Over a PostgreSQL that is somebody else's.
    pub(crate) async fn over(database_url: String) -> Self {
        Self::made(tempfile::tempdir().unwrap(), database_url, None).await
    }

    async fn made(
        directory: TempDir,
        database_url: String,
        database: Option<TestDatabase>,
    ) -> Self {
        let mut this = Self {
            directory,
            database_url,
            _database: database,
            public: free_address(),
            key: String::new(),
            provider_timeout: "5s",
            log: ("info", "text"),
            environment: Vec::new(),
        };
        this.write_config();
        this.command(&["keyring", "generate", "--file", &this.keyring()]).await;
        this.command(&["migrate"]).await;
        let created =
            this.command(&["api-key", "create", "--name", "e2e", "--scope", "admin", "--json"]);
        let created: Value = serde_json::from_str(&created.await).unwrap();
        created["secret"].as_str().unwrap().clone_into(&mut this.key);
        this
    }

    /// Everything that replicas logged so far.
    pub(crate) fn logged(&self) -> Vec<u8> {
        std::fs::read(self.log_file()).unwrap()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("service.log")
    }

    /// The bytes of the database, where it is a file: the rows and what was written ahead.
    pub(crate) fn database_files(&self) -> Vec<u8> {
        ["symbolon.db", "symbolon.db-wal"]
            .into_iter()
            .flat_map(|name| std::fs::read(self.directory.path().join(name)).unwrap_or_default())
            .collect()
    }

    /// The database's address.
    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The API key's secret.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// What is in the key ring's file.
    pub(crate) fn keyring_text(&self) -> String {
        std::fs::read_to_string(self.keyring()).unwrap()
    }

    fn keyring(&self) -> String {
        self.directory.path().join("keyring").display().to_string()
    }

    fn write_config(&self) {
        let config = format!(
            "[server]\npublic_url = \"http://{public}\"\n\
             [database]\nurl = \"{url}\"\n\
             [keyring]\nfile = \"{keyring}\"\n\
             [link]\nreturn_urls = [\"{RETURN_URL}\"]\n\
             [refresh]\nahead = \"off\"\n\
             [http_client]\nallow_http = true\nallow_private_networks = true\ntimeout = \"{timeout}\"\n\
             [webhooks]\ntimeout = \"1s\"\nfirst_retry = \"200ms\"\n",
            public = self.public,
            url = self.database_url,
            keyring = self.keyring(),
            timeout = self.provider_timeout,
        );
        std::fs::write(self.directory.path().join("symbolon.toml"), config).unwrap();
    }

    /// Runs a command to its end and gives what it printed.
    pub(crate) async fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(binary())
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .await
            .unwrap();
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "symbolon {arguments:?}: {problem}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes a file where commands run.
    pub(crate) fn write_file(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// Reads a file that a command wrote.
    pub(crate) fn read_file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    /// The replica that browsers reach.
    pub(crate) async fn start(&self) -> Replica {
        self.start_at(self.public).await
    }

    /// One more replica over the same database.
    pub(crate) async fn start_another(&self) -> Replica {
        self.start_at(free_address()).await
    }

    /// A replica that listens there.
    pub(crate) async fn start_at(&self, address: SocketAddr) -> Replica {
        self.write_config();
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let (filter, format) = self.log;
        let process = Command::new(binary())
            .arg("serve")
            .current_dir(self.directory.path())
            .env("SYMBOLON__SERVER__LISTEN", address.to_string())
            .env("SYMBOLON__TELEMETRY__LOG_FORMAT", format)
            .env("SYMBOLON_LOG", filter)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let replica = Replica {
            process,
            address,
            key: self.key.clone(),
            client: Client::builder().no_proxy().build().unwrap(),
        };
        replica.wait_until_ready().await;
        replica
    }
}

/// One running process of the service.
pub(crate) struct Replica {
    process: Child,
    address: SocketAddr,
    key: String,
    client: Client,
}

/// An answer of the service.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    pub(crate) retry_after: Option<u64>,
}

impl Answer {
    /// The body of a good answer.
    #[track_caller]
    pub(crate) fn good(self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.body
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Replica {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API key's secret.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    async fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let url = format!("http://{}/readyz", self.address);
        loop {
            match self.client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return,
                _ => assert!(Instant::now() < deadline, "symbolon serve does not get ready"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.client.request(method, url).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let retry_after =
            answer.headers().get("retry-after").map(|it| it.to_str().unwrap().parse().unwrap());
        let text = answer.text().await.unwrap();
        Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null), retry_after }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn token(&self, identity: i64) -> Answer {
        self.post(&format!("/v1/identities/{identity}/token"), json!({})).await
    }

    /// Asks for a token as a careful caller does: again after `Retry-After`, for some time.
    pub(crate) async fn token_patiently(&self, identity: i64, patience: Duration) -> Answer {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.token(identity).await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE || Instant::now() > deadline {
                return answer;
            }
            let wait = answer.retry_after.expect("a 503 says when to come back");
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
    }

    /// Registers an OpenID provider and gives its id.
    pub(crate) async fn register(&self, config: Value) -> i64 {
        let body = json!({"type": "oidc", "config": config});
        self.post("/v1/providers", body).await.good()["id"].as_i64().unwrap()
    }

    /// Walks a user through a link, as product and browser together, and gives the identity's id.
    pub(crate) async fn link(&self, provider: i64, user: &str) -> i64 {
        let completed = self.link_session(provider, user).await;
        assert_eq!(completed["status"], "linked", "{completed}");
        assert_eq!(completed["user_id"], user);
        completed["identity_id"].as_i64().unwrap()
    }

    /// Asks with the headers and the body exactly as given, and gives the answer's text.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> String {
        let mut request = self.client.request(method, format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body.to_owned()).send().await.unwrap().text().await.unwrap()
    }

    async fn link_session(&self, provider: i64, user: &str) -> Value {
        let body = json!({
            "user_id": user, "provider_id": provider, "return_url": RETURN_URL,
            "purpose": "link", "login_hint": user,
        });
        let session = self.post("/v1/link-sessions", body).await.good();
        let url = session["url"].as_str().unwrap().parse().unwrap();
        let back = Browser::new().follow(url, RETURN_URL).await;
        assert_eq!(query(&back, "status").unwrap(), "awaiting_completion", "{back}");
        assert_eq!(query(&back, "session_id").unwrap(), session["id"].to_string());
        let body = json!({
            "completion_code": query(&back, "completion_code").unwrap(), "user_id": user,
        });
        let path = format!("/v1/link-sessions/{}/complete", session["id"]);
        self.post(&path, body).await.good()
    }

    /// Ends the process at once, as a power cut would.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// Asks the process to end, and waits until it has: how it should end every day.
    pub(crate) async fn stop(mut self) {
        let id = self.process.id().unwrap().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        assert!(asked.success());
        let status = tokio::time::timeout(Duration::from_secs(30), self.process.wait()).await;
        assert!(status.expect("it ends in time").unwrap().success());
    }
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// The binary of this build.
pub(crate) fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("symbolon");
    assert!(path.exists(), "build the service first: cargo build -p symbolon");
    path
}
