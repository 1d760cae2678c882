//! No secret leaves by a side door: whatever the built binary logs, at whatever level, answers in
//! errors and metrics, or keeps in its database in the clear.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use reqwest::{Method, Url};
use serde_json::{Value, json};
use symbolon_test_postgres::tables_as_text;

use crate::{
    browser::{Browser, query},
    main_way::{config, provider_for},
    oidc_provider::{CONFIDENTIAL, OidcProvider},
    service::{Installation, Kind, RETURN_URL, Replica},
};

/// A secret that a careless caller puts where none belongs.
const STRAY: &str = "sym_canary-0123456789abcdef-canary";

/// What was said and kept on the way, and what must not be in it.
struct Evidence {
    /// By where it was found.
    places: Vec<(&'static str, Vec<u8>)>,
    secrets: Vec<String>,
}

impl Evidence {
    /// Fails with the place, never with the secret.
    fn check(&self) {
        assert!(self.secrets.len() > 20, "{} secrets were collected", self.secrets.len());
        for (place, bytes) in &self.places {
            for (number, secret) in self.secrets.iter().enumerate() {
                assert!(secret.len() >= 8, "secret {number} is too short to be looked for");
                assert!(!contains(bytes, secret), "secret {number} is in {place}");
                // As PostgreSQL shows the bytes of a column.
                assert!(
                    !contains(bytes, &in_hex(secret)),
                    "secret {number} is in {place}, as bytes"
                );
            }
        }
    }

    /// The search finds what is there: otherwise it would prove nothing.
    fn finds(&self, place: &str, text: &str) {
        let (_, bytes) = self.places.iter().find(|(name, _)| *name == place).unwrap();
        assert!(contains(bytes, text), "{text:?} is not in {place}");
    }
}

pub(crate) fn in_hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

/// A link as product and browser, by hand: every value of the way is a secret but the session's
/// id and status.
async fn link(replica: &Replica, provider: i64, secrets: &mut Vec<String>) -> i64 {
    let body = json!({
        "user_id": "ada-the-user", "provider_id": provider, "return_url": RETURN_URL,
        "purpose": "link", "login_hint": "ada",
    });
    let session = replica.post("/v1/link-sessions", body).await.good();
    let mut url: Url = session["url"].as_str().unwrap().parse().unwrap();
    secrets.push(url.path_segments().unwrap().next_back().unwrap().to_owned());
    let mut browser = Browser::new();
    while !url.as_str().starts_with(RETURN_URL) {
        let answer = browser.get(url.clone()).await;
        url = url.join(answer.headers()["location"].to_str().unwrap()).unwrap();
        for name in ["state", "nonce", "code", "completion_code"] {
            secrets.extend(query(&url, name));
        }
    }
    secrets.extend(browser.cookies().filter(|it| it.len() >= 16).map(str::to_owned));
    let code = query(&url, "completion_code").unwrap();
    let path = format!("/v1/link-sessions/{}/complete", session["id"]);
    let body = json!({"completion_code": code, "user_id": "ada-the-user"});
    let linked = replica.post(&path, body.clone()).await.good();
    // Used up: the refusal does not repeat it.
    let again = replica.post(&path, body).await;
    assert_eq!(again.code(), "invalid_request", "{again:?}");
    linked["identity_id"].as_i64().unwrap()
}

/// Requests that hold a secret where none belongs; their answers.
async fn stray_requests(replica: &Replica, key: &str, identity: i64) -> Vec<u8> {
    let key = format!("Bearer {key}");
    let stray_key = format!("Bearer {STRAY}");
    let json_type = ("content-type", "application/json");
    let token = format!("/v1/identities/{identity}/token");
    let stray_body = format!("{{\"access_token\": \"{STRAY}\"}}");
    let broken_body = format!("{{\"min_ttl_seconds\": \"{STRAY}\"");
    let wrong_type = format!("{{\"min_ttl_seconds\": \"{STRAY}\"}}");
    let stray_data = format!("{{\"refresh_token\": [\"{STRAY}\"]}}");
    let stray_secret = format!(
        "{{\"type\": \"oidc\", \"config\": {{\"issuer\": \"http://127.0.0.1:9\", \
         \"client_id\": \"x\", \"client_secret\": [\"{STRAY}\"]}}}}"
    );
    let data = format!("/v1/identities/{identity}/data");
    let in_query = format!("/v1/identities?access_token={STRAY}");
    let in_path = format!("/v1/identities/{STRAY}");
    let no_session = format!("/connect/{STRAY}");
    let callback = format!("/callback/1?code={STRAY}&state={STRAY}");
    let mut answers = Vec::new();
    for (method, path, authorization, body) in [
        (Method::POST, token.as_str(), stray_key.as_str(), "{}"),
        (Method::POST, &token, &key, &stray_body),
        (Method::POST, &token, &key, &broken_body),
        (Method::POST, &token, &key, &wrong_type),
        (Method::PUT, &data, &key, &stray_data),
        (Method::POST, "/v1/providers", &key, &stray_secret),
        (Method::GET, &in_query, &key, ""),
        (Method::GET, &in_path, &key, ""),
        (Method::GET, &no_session, "none", ""),
        (Method::GET, &callback, "none", ""),
    ] {
        let headers = [("authorization", authorization), json_type];
        let answer = replica.raw(method, path, &headers, body).await;
        assert!(!answer.contains(STRAY), "{path} {body}: {answer}");
        answers.extend(answer.into_bytes());
    }
    answers
}

async fn the_whole_way(kind: Kind, format: &'static str) -> Evidence {
    let mut installation = Installation::new(kind).await;
    installation.log = ("trace", format);
    let provider: OidcProvider = provider_for(&installation, 60);
    let replica = installation.start().await;
    let id = replica.register(config(&provider)).await;
    let key = installation.key().to_owned();
    let mut secrets =
        vec![CONFIDENTIAL.1.to_owned(), key.clone(), STRAY.to_owned(), stored_key(&installation)];
    let identity = link(&replica, id, &mut secrets).await;
    let refresh = format!("/v1/identities/{identity}/refresh");

    // Fresh, refreshed, and failing in three ways.
    replica.token(identity).await.good();
    replica.post(&refresh, json!({})).await.good();
    let mut errors = Vec::new();
    for fault in [
        json!({"next": 1, "mode": "status", "status": 503}),
        json!({"next": 1, "mode": "status", "status": 400, "error": "invalid_client"}),
    ] {
        provider.fail(fault).await;
        errors.extend(replica.post(&refresh, json!({})).await.body.to_string().into_bytes());
    }
    errors.extend(stray_requests(&replica, &key, identity).await);
    let rows_linked = rows(&installation).await;

    // The grant ends, which is found out; a second link is unlinked, and revoked.
    provider.withdraw("ada").await;
    errors.extend(refreshed_to_the_end(&replica, &refresh).await.into_bytes());
    let identity = link(&replica, id, &mut secrets).await;
    let path = format!("/v1/identities/{identity}");
    assert_eq!(replica.call(Method::DELETE, &path, None).await.status, 204);

    let metrics = replica.raw(Method::GET, "/metrics", &[], "").await.into_bytes();
    let ready = replica.raw(Method::GET, "/readyz", &[], "").await.into_bytes();
    let events = installation.command(&["doctor"]).await.into_bytes();
    replica.stop().await;
    let rows_after = rows(&installation).await;
    secrets.extend(provider.secrets().await);
    secrets.retain(|it| !it.is_empty());
    Evidence {
        places: vec![
            ("the log", installation.logged()),
            ("error answers", errors),
            ("the metrics", metrics),
            ("readiness", ready),
            ("what doctor says", events),
            ("the rows while linked", rows_linked),
            ("the rows at the end", rows_after),
        ],
        secrets,
    }
}

/// Refreshes until the identity is found to be invalid, past the waits after failures; gives
/// all answers.
async fn refreshed_to_the_end(replica: &Replica, refresh: &str) -> String {
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut answers = String::new();
    loop {
        let answer = replica.post(refresh, json!({})).await;
        answers.push_str(&answer.body.to_string());
        if answer.code() == "identity_not_valid" {
            return answers;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The key in the key ring's file.
fn stored_key(installation: &Installation) -> String {
    let ring: Value = serde_json::from_str(&installation.keyring_text()).unwrap();
    ring["keys"][0]["key"].as_str().unwrap().to_owned()
}

/// Everything in the database, as somebody sees it who has nothing but that.
async fn rows(installation: &Installation) -> Vec<u8> {
    match installation.database_url() {
        url if url.starts_with("sqlite:") => installation.database_files(),
        url => tables_as_text(url).await.unwrap().into_bytes(),
    }
}

async fn nothing_leaks(kind: Kind, format: &'static str) {
    let evidence = the_whole_way(kind, format).await;
    evidence.check();
    evidence.finds("the log", "/v1/identities/{id}/token");
    evidence.finds("the log", "TRACE");
    evidence.finds("error answers", "provider_unavailable");
    evidence.finds("error answers", "provider_misconfigured");
    evidence.finds("the metrics", "http_requests_total");
    evidence.finds("the rows while linked", "ada-the-user");
    evidence.finds("the rows at the end", "identity.unlinked");
}

#[tokio::test]
async fn no_secret_leaks_on_sqlite() {
    nothing_leaks(Kind::Sqlite, "text").await;
}

#[tokio::test]
async fn no_secret_leaks_on_postgresql() {
    nothing_leaks(Kind::Postgres, "json").await;
}
