//! What the README promises of `symbolon demo`, as a person does it: with a browser, and by
//! pasting its lines into a shell.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{chromium::Chromium, service::binary};

/// What the demo prints: where to click, and what to paste.
struct Demo {
    process: Child,
    product: String,
    lines: Vec<String>,
    _directory: TempDir,
}

impl Demo {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(binary())
            .arg("demo")
            .current_dir(directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut product = None;
        let mut lines = vec![];
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(address) = line.trim().strip_prefix("your product") {
                product = Some(address.trim().to_owned());
            }
            if line.starts_with("curl ") {
                lines.push(line);
            }
            if lines.len() == 3 {
                break;
            }
        }
        let product = product.expect("the demo names the page to open");
        Self { process, product, lines, _directory: directory }
    }

    /// Pastes one of the three lines.
    fn paste(&self, line: usize) -> Value {
        let output = Command::new("sh").args(["-c", &self.lines[line]]).output().unwrap();
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {problem}", self.lines[line]);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn access_token(answer: &Value) -> &str {
    answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}"))
}

#[tokio::test]
async fn a_newcomer_clicks_through_the_demo_and_pastes_its_lines() {
    let demo = Demo::start();
    let window = Chromium::open().await;

    window.go(&demo.product).await;
    window.see("Not connected").await;
    window.press("//button[contains(., 'Connect your Sandbox account')]").await;
    window.press("//button[@name='account']").await;
    window.see("Connected").await;

    let identities = demo.paste(2);
    let identity = &identities["items"][0];
    assert_eq!(identity["user_id"], "demo-user");
    assert_eq!(identity["status"], "valid");
    let first = demo.paste(1);
    assert_eq!(access_token(&first), access_token(&demo.paste(1)), "fresh, so the same");

    // The tokens live twenty seconds.
    tokio::time::sleep(Duration::from_secs(21)).await;
    let second = demo.paste(1);
    assert_ne!(access_token(&first), access_token(&second));

    // The first line starts one more link, which a person would open.
    let session = demo.paste(0);
    let url = session["url"].as_str().unwrap();
    window.go(url).await;
    window.press("//button[@name='cancel']").await;
    window.see("Fernweh").await;
}
