//! Sentry's RPC against the built binary, called by a client that shares no code with it.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::service::{Installation, Kind, Replica};

const SECRET: &str = "canary-first-shared-secret-of-sentry";
const NEXT: &str = "canary-second-shared-secret-of-sentry";
const RETIRED: &str = "canary-retired-shared-secret-of-sentry";

/// A replica that takes these secrets, on an address of its own.
async fn start(
    installation: &mut Installation,
    secrets: &[&str],
    include_credentials: bool,
) -> Replica {
    let name = "SYMBOLON__SENTRY_RPC__INCLUDE_CREDENTIALS";
    installation.environment = vec![(name, include_credentials.to_string())];
    if !secrets.is_empty() {
        let name = "SYMBOLON__SENTRY_RPC__SHARED_SECRETS";
        installation.environment.push((name, secrets.join(",")));
    }
    installation.start_another().await
}

/// Two instances of a type, one without an external id, and four accounts of two users.
async fn rows(replica: &Replica) -> Value {
    let provider = async |external_id: Option<&str>| {
        let config = json!({"issuer": "https://op.example", "client_id": "c"});
        let body = json!({"type": "oidc", "external_id": external_id, "config": config});
        replica.post("/v1/providers", body).await.good()["id"].clone()
    };
    let (team, alone, other) =
        (provider(Some("T1")).await, provider(None).await, provider(Some("T2")).await);
    let tokens = json!({
        "access_token": "canary-access-token", "refresh_token": "canary-refresh-token",
        "token_type": "Bearer", "expires": 1_900_000_000,
    });
    let link = async |provider: &Value, user: u32, account: &str| {
        let mut data = tokens.clone();
        data["name"] = json!("Ada");
        let body = json!({
            "provider_id": provider, "user_id": user, "external_id": account, "data": data,
        });
        replica.post("/v1/identities", body).await.good()["id"].clone()
    };
    let (first, second) = (link(&team, 7, "a").await, link(&alone, 7, "a").await);
    let used = format!("/v1/organizations/1/identities/{second}");
    replica.call(Method::PUT, &used, None).await.good();
    for organization in [1, 2] {
        let path = format!("/v1/organizations/{organization}/auth-providers");
        replica.post(&path, json!({"provider_id": team})).await.good();
    }
    json!({
        "first": first,
        "second": second,
        "third": link(&team, 8, "b").await,
        "like_its_team": link(&other, 8, "T2").await,
        "team": team,
        "alone": alone,
        "tokens": tokens,
        "api_key": replica.key(),
        "retired": RETIRED,
    })
}

/// Links user 7's accounts for the single sign-on of both organizations, and says how many of
/// whose there are.
async fn sign_ons(replica: &Replica, make: bool) -> Vec<usize> {
    let mut counts = Vec::new();
    for organization in [1, 2] {
        let path = format!("/v1/organizations/{organization}/auth-identities");
        if make {
            for (user, ident) in [(7, "seven"), (8, "eight")] {
                replica.post(&path, json!({"user_id": user, "ident": ident})).await.good();
            }
        }
        for user in [7, 8] {
            let list = replica.get(&format!("{path}?user_id={user}")).await.good();
            counts.push(list["items"].as_array().unwrap().len());
        }
    }
    counts
}

/// Runs the checks of `tests/sentry-rpc/check.py`.
async fn check(plan: &Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sentry-rpc");
    let mut python = Command::new("python3")
        .args(["-B", "check.py"])
        .current_dir(folder)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python3 is on this machine, or `make setup` installs it");
    let mut input = python.stdin.take().unwrap();
    input.write_all(plan.to_string().as_bytes()).await.unwrap();
    drop(input);
    let output = python.wait_with_output().await.unwrap();
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    // A file without a test would be good too.
    assert!(report.contains("OK") && report.matches(" ... ok").count() >= 17, "{report}");
}

async fn sentry_calls_every_method(kind: Kind) {
    let mut installation = Installation::new(kind).await;
    installation.log = ("trace", "json");
    let replica = start(&mut installation, &[SECRET, NEXT], false).await;
    let mut plan = rows(&replica).await;
    plan["address"] = json!(replica.address().to_string());
    plan["secrets"] = json!([SECRET, NEXT]);
    plan["include_credentials"] = json!(false);
    assert_eq!(sign_ons(&replica, true).await, [1, 1, 1, 1]);
    check(&plan).await;
    // The checks took user 7's away from organization 1, and nobody else's from nowhere else.
    assert_eq!(sign_ons(&replica, false).await, [0, 1, 1, 1]);

    // Another replica over the same rows: the secrets changed places, and credentials are told.
    let told = start(&mut installation, &[NEXT, SECRET], true).await;
    plan["address"] = json!(told.address().to_string());
    plan["secrets"] = json!([NEXT, SECRET]);
    plan["include_credentials"] = json!(true);
    check(&plan).await;

    let logged = String::from_utf8(installation.logged()).unwrap();
    assert!(logged.contains("/api/0/internal/rpc/identity/{method}/"), "calls are logged");
    for secret in [SECRET, NEXT, RETIRED, "rpc0:", "canary-access-token", "canary-refresh-token"] {
        assert!(!logged.contains(secret), "a secret was logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentry_calls_every_method_on_sqlite() {
    sentry_calls_every_method(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentry_calls_every_method_on_postgres() {
    sentry_calls_every_method(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_taken_out_is_good_no_more_and_without_one_there_is_no_path() {
    let mut installation = Installation::new(Kind::Sqlite).await;
    let path = "/api/0/internal/rpc/identity/get_provider/";
    let post = async |replica: &Replica, header: &str| {
        let headers = [("authorization", header), ("content-type", "application/json")];
        let answer = replica.raw(Method::POST, path, &headers, "{\"args\":{}}").await;
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    // What Python's `hmac` makes of RETIRED, this path and this body.
    let signed =
        "Rpcsignature rpc0:95d6d069cab44216de6868551a971fdeb6a621df77b3f7dd4ed055c65dbc7444";
    let before = start(&mut installation, &[RETIRED], false).await;
    assert_eq!(post(&before, signed).await, json!({"meta": {}, "value": null}));
    let after = start(&mut installation, &[NEXT], false).await;
    assert_eq!(post(&after, signed).await["status"], 401);
    let off = start(&mut installation, &[], false).await;
    assert_eq!(post(&off, signed).await["status"], 404);
}
