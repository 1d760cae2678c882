//! A real browser: Debian's Chromium, driven through `ChromeDriver`
//! (<https://www.w3.org/TR/webdriver2/>).

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::browser::client;

/// How a found element is named in the protocol (§12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A window. It closes with this value.
pub(crate) struct Chromium {
    driver: Child,
    http: Client,
    port: u16,
    session: String,
    profile: TempDir,
}

impl Chromium {
    /// Opens an empty window, without a screen.
    pub(crate) async fn open() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver can be run; `make test` installs it where it can");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("chromedriver says on which port it is");
        let profile = tempfile::tempdir().unwrap();
        let mut this = Self { driver, http: client(), port, session: String::new(), profile };
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", this.profile.path().display()),
        ];
        let options = json!({"goog:chromeOptions": {"args": arguments}});
        let body = json!({"capabilities": {"alwaysMatch": options}});
        let answer = this.post("/session", body).await;
        answer["sessionId"].as_str().unwrap().clone_into(&mut this.session);
        this
    }

    /// Goes to an address, and comes back when the page is there.
    pub(crate) async fn go(&self, url: &str) {
        self.command("/url", json!({ "url": url })).await;
    }

    /// Presses the first element that this path finds; waits for it to appear.
    pub(crate) async fn press(&self, xpath: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let query = json!({"using": "xpath", "value": xpath});
        loop {
            let found = self.command("/elements", query.clone()).await;
            if let Some(element) = found[0][ELEMENT].as_str() {
                self.command(&format!("/element/{element}/click"), json!({})).await;
                return;
            }
            assert!(Instant::now() < deadline, "no {xpath} on this page: {}", self.text().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the page shows these words.
    pub(crate) async fn see(&self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = self.text().await;
            if text.contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "{words:?} is not on this page: {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a reader sees on the page.
    async fn text(&self) -> String {
        let script = json!({"script": "return document.body.innerText", "args": []});
        let text = self.command("/execute/sync", script).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        self.post(&format!("/session/{}{path}", self.session), body).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        let status = answer.status();
        let mut answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path}: {answer}");
        answer["value"].take()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The browser ends with its session; the driver alone would leave it behind.
        let request = format!(
            "DELETE /session/{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            self.session
        );
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read(&mut [0; 512]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
