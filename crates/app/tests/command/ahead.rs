//! Tokens that are refreshed before anybody asks, by two processes over one database.

use std::{
    collections::HashMap,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use symbolon_test_postgres::TestDatabase;
use wiremock::{
    Mock, MockServer, Request, Respond, ResponseTemplate,
    matchers::{method, path},
};

use crate::{Place, running::Running};

const IDENTITIES: usize = 20;
/// Seconds that an access token lives: it is refreshed in the second half of that.
const LIFE: u64 = 12;

/// A token endpoint that rotates: how often each refresh token was used.
#[derive(Clone, Default)]
struct Rotation(Arc<Mutex<HashMap<String, u32>>>);

impl Respond for Rotation {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let sent = body.split('&').find_map(|it| it.strip_prefix("refresh_token=")).unwrap();
        let (account, number) = sent.rsplit_once('.').unwrap();
        let next = number.parse::<u32>().unwrap() + 1;
        *self.0.lock().unwrap().entry(sent.to_owned()).or_default() += 1;
        ResponseTemplate::new(200).set_body_json(json!({
            "access_token": format!("access.{account}.{next}"),
            "refresh_token": format!("{account}.{next}"),
            "token_type": "Bearer", "expires_in": LIFE,
        }))
    }
}

async fn provider(rotation: &Rotation) -> MockServer {
    let server = MockServer::start().await;
    let issuer = server.uri();
    let metadata = json!({
        "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
    });
    Mock::given(path("/.well-known/openid-configuration"))
        .respond_with(ResponseTemplate::new(200).set_body_json(metadata))
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/token"))
        .respond_with(rotation.clone())
        .mount(&server)
        .await;
    server
}

fn call(key: &str, url: &str, body: Option<&Value>) -> Value {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--noproxy", "*", "--fail-with-body"]);
    curl.args(["-H", &format!("authorization: Bearer {key}")]);
    if let Some(body) = body {
        curl.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
    }
    let output = curl.arg(url).output().unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{url}: {answer}");
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_refresh_each_token_once_before_it_ends_and_nobody_asked() {
    let rotation = Rotation::default();
    let provider = provider(&rotation).await;
    let database = TestDatabase::create().await.unwrap();
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    place.write(
        "symbolon.toml",
        &format!(
            "server.listen = '127.0.0.1:0'\ndatabase.url = '{}'\nkeyring.file = 'ring.json'\n\
             http_client.allow_http = true\nhttp_client.allow_private_networks = true\n\
             refresh.margin = '1s'\nrefresh.ahead = '1m'\n",
            database.url()
        ),
    );
    place.run(&["migrate"]);
    let key = place.run(&["api-key", "create", "--name", "n", "--scope", "admin", "--json"]).done();
    let key: Value = serde_json::from_str(&key).unwrap();
    let key = key["secret"].as_str().unwrap();
    let mut replicas = [0, 1].map(|_| Running::start(place.command(&["serve"])));
    let [first, second] = &mut replicas;
    let (address, _) = (first.address(), second.address());

    let config = json!({"issuer": provider.uri(), "client_id": "c"});
    let new = json!({"type": "oidc", "config": config});
    let made = call(key, &format!("{address}/v1/providers"), Some(&new));
    let started = Instant::now();
    for number in 0..IDENTITIES {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let account = format!("a{number}");
        let identity = json!({
            "provider_id": made["id"], "user_id": account, "external_id": account,
            "data": {
                "access_token": "access", "refresh_token": format!("{account}.0"),
                "expires": now + LIFE,
            },
        });
        call(key, &format!("{address}/v1/identities"), Some(&identity));
    }
    let firsts = || {
        let used = rotation.0.lock().unwrap();
        used.keys().filter(|it| it.ends_with(".0")).count()
    };
    while firsts() < IDENTITIES {
        assert!(started.elapsed() < Duration::from_mins(1), "{:?}", rotation.0.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for replica in replicas {
        replica.stop();
    }
    let used = rotation.0.lock().unwrap().clone();
    assert!(used.values().all(|it| *it == 1), "a refresh token was used twice: {used:?}");
}
