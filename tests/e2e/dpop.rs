//! Tokens that a real OpenID provider binds to a key of ours: linked, kept fresh, and used by a service
//! that never sees the key.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    browser::client,
    canary::in_hex,
    device,
    oidc_provider::{BOUND, CONFIDENTIAL, OidcProvider, Options},
    service::{Answer, Installation, Kind, Replica},
};

/// Long enough for what must find one token fresh, on a loaded machine.
const TOKEN_TTL: Duration = Duration::from_mins(1);

fn provider_for(installation: &Installation, dpop_nonces: bool) -> OidcProvider {
    OidcProvider::start(&Options {
        redirect_uris: vec![format!("http://{}/callback/1", installation.public)],
        access_token_ttl: TOKEN_TTL,
        always_refresh_tokens: true,
        dpop_nonces,
    })
}

fn config(provider: &OidcProvider) -> Value {
    json!({"issuer": provider.issuer, "client_id": BOUND, "dpop": true})
}

/// The service that is handed tokens, and calls the provider with them.
struct Caller<'a> {
    http: Client,
    replica: &'a Replica,
    identity: i64,
    me: String,
}

impl Caller<'_> {
    /// The token that is handed out.
    async fn token(&self) -> String {
        let answer = self.replica.token(self.identity).await.good();
        assert_eq!(answer["token_type"], "DPoP");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn ask_for_proof(&self, token: &str, nonce: Option<&str>) -> Answer {
        let mut body = json!({
            "method": "GET", "url": format!("{}?ignored=yes", self.me),
            "access_token_sha256": sha256(token),
        });
        if let Some(nonce) = nonce {
            body["nonce"] = json!(nonce);
        }
        self.replica.post(&format!("/v1/identities/{}/dpop-proof", self.identity), body).await
    }

    async fn proof(&self, token: &str, nonce: Option<&str>) -> String {
        let answer = self.ask_for_proof(token, nonce).await.good();
        assert_eq!(answer["access_token_sha256"], sha256(token));
        answer["proof"].as_str().unwrap().to_owned()
    }

    /// What the userinfo endpoint says to a token and a proof.
    async fn present(&self, token: &str, proof: &str) -> Response {
        let request = self.http.get(&self.me).header("authorization", format!("DPoP {token}"));
        request.header("dpop", proof).send().await.unwrap()
    }

    /// Calls as a careful service does: once more with the nonce that the server wants. Whose
    /// account it is, and the proof that was accepted.
    async fn call(&self, token: &str) -> (Value, String) {
        let proof = self.proof(token, None).await;
        let answer = self.present(token, &proof).await;
        if answer.status() == StatusCode::OK {
            return (answer.json().await.unwrap(), proof);
        }
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert!(challenge.contains("use_dpop_nonce"), "{challenge}");
        let nonce = answer.headers()["dpop-nonce"].to_str().unwrap().to_owned();
        let proof = self.proof(token, Some(&nonce)).await;
        let answer = self.present(token, &proof).await;
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
        (answer.json().await.unwrap(), proof)
    }
}

fn sha256(text: &str) -> String {
    in_hex(Sha256::digest(text))
}

/// The public key in a proof.
fn public_key(proof: &str) -> Value {
    let header = URL_SAFE_NO_PAD.decode(proof.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["jwk"].clone()
}

/// The private keys that an export with secrets tells.
async fn private_keys(installation: &Installation) -> Vec<String> {
    installation.command(&["export", "--force", "--with-secrets", "out.jsonl"]).await;
    let text = installation.read_file("out.jsonl");
    let lines = text.lines().map(|it| serde_json::from_str::<Value>(it).unwrap());
    lines.filter_map(|it| find(&it, "dpop_key").map(str::to_owned)).collect()
}

fn find<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    match value {
        Value::Object(object) => object
            .get(name)
            .and_then(Value::as_str)
            .or_else(|| object.values().find_map(|it| find(it, name))),
        Value::Array(items) => items.iter().find_map(|it| find(it, name)),
        _ => None,
    }
}

async fn the_whole_way(kind: Kind, nonces: bool) {
    let installation = Installation::new(kind).await;
    let provider = provider_for(&installation, nonces);
    let replica = installation.start().await;
    let id = replica.register(config(&provider)).await;
    // The exchange and the userinfo call were proven, or there would be no link.
    let identity = replica.link(id, "ada").await;
    let me = format!("{}/me", provider.issuer);
    let caller = Caller { http: client(), replica: &replica, identity, me };

    // The token alone is worth nothing, and with a proof from us it opens the account.
    let first = caller.token().await;
    assert_eq!(provider.userinfo(&first).await, StatusCode::UNAUTHORIZED);
    let (profile, proof) = caller.call(&first).await;
    assert_eq!(profile["sub"], "ada");
    // A proof is for one request and for one token.
    assert_eq!(caller.present(&first, &proof).await.status(), StatusCode::UNAUTHORIZED);

    // A refresh brings another token that is bound to the same key; the old one gets no proofs.
    let path = format!("/v1/identities/{identity}/refresh");
    replica.post(&path, json!({})).await.good();
    let second = caller.token().await;
    assert_ne!(second, first);
    let refused = caller.ask_for_proof(&first, None).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, "access_token_replaced"));
    let (profile, second_proof) = caller.call(&second).await;
    assert_eq!(profile["sub"], "ada");
    assert_eq!(public_key(&second_proof), public_key(&proof));

    // Each token was traded once, challenges and all, and none was spent twice.
    let records = provider.records().await;
    assert_eq!(
        records["token_successes"],
        json!({"authorization_code": 1, "refresh_token": 1}),
        "{records}"
    );
    // The nonce of the exchange is good for the refresh.
    let exchanges = if nonces { 2 } else { 1 };
    assert_eq!(
        records["token_requests"],
        json!({"authorization_code": exchanges, "refresh_token": 1})
    );
    assert_eq!((&records["refresh_reuses"], &records["grant_revocations"]), (&json!(0), &json!(0)));

    // Tokens for tokens say how they are presented too.
    let form = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={}&\
         subject_token_type=urn:symbolon:params:oauth:token-type:api-key&identity_id={identity}",
        installation.key()
    );
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let answer = replica.raw(reqwest::Method::POST, "/oauth2/token", &[kind], &form).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["access_token"], &answer["token_type"]), (&json!(second), &json!("DPoP")));

    // The key is in the export that was asked for, and nowhere else.
    let keys = private_keys(&installation).await;
    assert_eq!(keys.len(), 1, "one for the one identity");
    let log = String::from_utf8(installation.logged()).unwrap();
    let events = replica.get("/v1/events").await.good().to_string();
    assert!(!log.contains(&keys[0]) && !events.contains(&keys[0]));
    let files = installation.database_files();
    let bytes = keys[0].as_bytes();
    assert!(!files.windows(bytes.len()).any(|it| it == bytes), "it lies in the clear");
    replica.stop().await;
}

#[tokio::test]
async fn a_bound_token_is_linked_refreshed_and_used_by_whoever_gets_proofs_on_sqlite() {
    the_whole_way(Kind::Sqlite, false).await;
}

#[tokio::test]
async fn a_provider_that_wants_its_nonces_in_the_proofs_gets_them_on_postgresql() {
    the_whole_way(Kind::Postgres, true).await;
}

#[tokio::test]
async fn a_device_link_is_bound_too() {
    let installation = Installation::new(Kind::Sqlite).await;
    let provider = provider_for(&installation, true);
    let replica = installation.start().await;
    let id = replica.register(config(&provider)).await;
    let started = device::start(&replica, id).await;
    device::decide(&started, true).await;
    let linked = device::ended(&replica, &started).await;
    assert_eq!(linked["status"], "linked", "{linked}");
    let identity = linked["identity_id"].as_i64().unwrap();
    let me = format!("{}/me", provider.issuer);
    let caller = Caller { http: client(), replica: &replica, identity, me };
    let (profile, proof) = caller.call(&caller.token().await).await;
    assert_eq!(profile["sub"], "alice");
    replica.post(&format!("/v1/identities/{identity}/refresh"), json!({})).await.good();
    let (_, after) = caller.call(&caller.token().await).await;
    assert_eq!(public_key(&after), public_key(&proof));
    replica.stop().await;
}

#[tokio::test]
async fn a_client_with_a_secret_is_bound_where_it_asks_for_it_and_not_otherwise() {
    let installation = Installation::new(Kind::Sqlite).await;
    let provider = provider_for(&installation, false);
    let replica = installation.start().await;
    let (client_id, client_secret) = CONFIDENTIAL;
    let plain = json!({
        "issuer": provider.issuer, "client_id": client_id, "client_secret": client_secret,
    });
    let id = replica.register(plain).await;
    let identity = replica.link(id, "ada").await;
    let answer = replica.token(identity).await.good();
    assert_eq!(answer["token_type"], "Bearer");
    let path = format!("/v1/identities/{identity}/dpop-proof");
    let body = json!({"method": "GET", "url": "https://api.example/"});
    assert_eq!(replica.post(&path, body.clone()).await.code(), "invalid_request");

    // From now on: what is there already is bound with its next refresh.
    let on = json!({"config": {"dpop": true}});
    let changed =
        replica.call(reqwest::Method::PATCH, &format!("/v1/providers/{id}"), Some(on)).await;
    assert_eq!(changed.good()["config"]["dpop"], true);
    replica.post(&format!("/v1/identities/{identity}/refresh"), json!({})).await.good();
    let me = format!("{}/me", provider.issuer);
    let caller = Caller { http: client(), replica: &replica, identity, me };
    let (profile, _) = caller.call(&caller.token().await).await;
    assert_eq!(profile["sub"], "ada");
    replica.stop().await;
}
