use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use symbolon_sandbox::{Client, Endpoint, Fault, Sandbox, SandboxSettings, Times};

use crate::{
    Place,
    curl::{Browser, paste},
    running::Running,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A service whose one provider is a sandbox of this test, with an account linked.
struct Linked {
    place: Place,
    sandbox: Sandbox,
    service: Running,
    address: String,
    key: String,
    identity: i64,
}

impl Linked {
    async fn new() -> Self {
        let client = Client::new("symbolon");
        let sandbox =
            Sandbox::start(SandboxSettings { clients: vec![client], ..SandboxSettings::default() })
                .await
                .unwrap();
        let place = Place::new();
        place.run(&["keyring", "generate", "--file", "ring.json"]).done();
        place.write("client_secret", &sandbox.client_secret());
        place.write(
            "symbolon.toml",
            &format!(
                "server.listen = '127.0.0.1:0'\ndatabase.url = 'sqlite:symbolon.db'\n\
                 keyring.file = 'ring.json'\nlink.return_urls = ['http://127.0.0.1/']\n\
                 http_client.allow_http = true\nhttp_client.allow_private_networks = true\n\
                 [[providers]]\ntype = 'oidc'\n[providers.config]\nissuer = '{}'\n\
                 client_id = 'symbolon'\nclient_secret_file = 'client_secret'\n",
                sandbox.issuer()
            ),
        );
        let mut service = Running::start(place.command(&["serve"]));
        let address = service.address();
        let create = ["api-key", "create", "--name", "x", "--scope", "admin", "--json"];
        let key: Value = serde_json::from_str(&place.run(&create).done()).unwrap();
        let key = key["secret"].as_str().unwrap().to_owned();
        let mut this = Self { place, sandbox, service, address, key, identity: 0 };
        this.link();
        this
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = paste(&self.line(method, path, body));
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    fn line(&self, method: &str, path: &str, body: &Value) -> String {
        format!(
            "curl -sS --noproxy '*' -X {method} {}/v1/{path} -H 'Authorization: Bearer {}' \
             -H 'Content-Type: application/json' -d '{body}'",
            self.address, self.key
        )
    }

    fn link(&mut self) {
        let providers = self.call("GET", "providers", &json!({}));
        let provider = &providers["items"][0];
        let redirect_uri = provider["redirect_uri"].as_str().unwrap();
        self.sandbox.add_redirect_uri("symbolon", redirect_uri).unwrap();
        let start = json!({
            "user_id": "u", "provider_id": provider["id"], "purpose": "link",
            "return_url": "http://127.0.0.1/",
        });
        let session = self.call("POST", "link-sessions", &start);
        let jar = self.place.path().join("jar");
        let browser = Browser { jar: &jar };
        let to_sandbox = browser.get(session["url"].as_str().unwrap()).location;
        let back = browser.get(&self.sandbox.approve(&to_sandbox, "ada").unwrap()).location;
        let code = back.split("completion_code=").nth(1).unwrap().split('&').next().unwrap();
        let completion = json!({ "completion_code": code, "user_id": "u" });
        let path = format!("link-sessions/{}/complete", session["id"]);
        self.identity = self.call("POST", &path, &completion)["identity_id"].as_i64().unwrap();
    }

    /// Sends the refresh whose answer comes later, and whose caller leaves before; returns once
    /// the sandbox has rotated the refresh token.
    async fn refresh_and_leave(&self, answer_after: Duration) {
        let delay_ms = u64::try_from(answer_after.as_millis()).unwrap();
        let late = Fault::DelayAnswer { delay_ms };
        self.sandbox.faults().inject(Endpoint::Refresh, late, Times::Next(1)).unwrap();
        let line = self.line("POST", &format!("identities/{}/refresh", self.identity), &json!({}));
        let mut caller = Command::new("sh").args(["-c", &format!("exec {line}")]).spawn().unwrap();
        let rotated = self.sandbox.wait_for(|it| it.counters.refreshes == 1);
        tokio::time::timeout(PATIENCE, rotated).await.unwrap();
        caller.kill().unwrap();
        caller.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refresh_under_way_is_kept_although_the_caller_left_and_the_service_was_told_to_stop() {
    let mut linked = Linked::new().await;
    linked.refresh_and_leave(Duration::from_secs(2)).await;
    linked.service.signal("-TERM");
    linked.service.logs("waiting for work that must not be lost");
    let next = Running::start(linked.place.command(&["serve"]));
    let (status, log) = std::mem::replace(&mut linked.service, next).end();
    assert_eq!(status, Some(0), "{log}");

    // The token that came last is the one that is used: nothing was presented twice.
    linked.address = linked.service.address();
    let path = format!("identities/{}/refresh", linked.identity);
    let refreshed = linked.call("POST", &path, &json!({}));
    assert_eq!(refreshed["status"], "valid", "{refreshed}");
    assert_eq!((linked.sandbox.refreshes(), linked.sandbox.refresh_reuses()), (2, 0));
    linked.service.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_signal_ends_the_service_at_once() {
    let mut linked = Linked::new().await;
    linked.refresh_and_leave(Duration::from_secs(9)).await;
    linked.service.signal("-TERM");
    linked.service.logs("stopping");
    linked.service.signal("-TERM");
    let (status, log) = linked.service.end();
    assert_eq!(status, Some(1), "{log}");
    assert!(log.contains("ended at once"), "{log}");
}
