//! Freezes, limits, the ledger and rejected tokens over HTTP, on the in-memory store.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use symbolon_domain::{
    api_key::{ApiKey, KeyLimits, KeyScope, UserPattern},
    credentials::Credentials,
    dpop::DpopRequest,
    event::Actor,
    ids::ProviderId,
    ports::{
        IdentityProviderRepository, IdentityRepository as _, Link, LinkOutcome, NewIdentityProvider,
    },
    secret::Secret,
    services::ApiKeys,
    testing::{MemoryStore, PlainProofs, RunningClock, fixtures},
};

use crate::app::{Answer, App, Ports, request};

struct World {
    app: App,
    store: Arc<MemoryStore>,
    admin: Secret,
    /// Ada's identity at `provider`, whose token is `token-1`, of the scopes `read` and `write`.
    ada: i64,
    provider: i64,
    other_provider: i64,
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let provider = async |name: &str| {
            let external_id = Some(name.to_owned());
            let new = NewIdentityProvider { external_id, ..fixtures::new_identity_provider() };
            let ProviderId(id) = store.insert(&new, &Actor::OPERATOR).await.unwrap().id;
            id
        };
        let (one, other) = (provider("one").await, provider("other").await);
        let (_, admin) = key(&store, &[KeyScope::Admin], KeyLimits::NONE).await;
        let app = Ports {
            keys: store.clone(),
            identities: store.clone(),
            providers: store.clone(),
            credentials: store.clone(),
            sessions: store.clone(),
            events: store.clone(),
            organization_identities: store.clone(),
            vending: Some(store.clone()),
            ledger: store.clone(),
            clock: Arc::new(RunningClock),
            ..Ports::default()
        };
        let mut world =
            Self { app: app.app(), store, admin, ada: 0, provider: one, other_provider: other };
        world.ada = world.link(one, "ada", "token-1").await;
        world
    }

    async fn link(&self, provider: i64, user: &str, token: &str) -> i64 {
        let answer = self
            .post(
                &self.admin,
                "/v1/identities",
                json!({
                    "provider_id": provider, "user_id": user, "external_id": format!("{user}'s"),
                    "data": {"access_token": token}, "scopes": ["read", "write"],
                }),
            )
            .await;
        answer.json()["id"].as_i64().unwrap()
    }

    /// An identity whose token `token-9` is bound to a key.
    async fn link_bound(&self) -> i64 {
        let credentials = Credentials {
            access_token: Some(Secret::new("token-9")),
            token_type: Some("dpop".to_owned()),
            dpop_key: Some(Secret::new("canary-key")),
            expires_at: None,
            ..fixtures::credentials()
        };
        let link = Link {
            provider_id: ProviderId(self.provider),
            owner: fixtures::owner("carol"),
            external_id: fixtures::external_id("carol's"),
            credentials: Some(credentials),
            ..fixtures::link()
        };
        match self.store.link(&link).await.unwrap() {
            LinkOutcome::Created(identity) => identity.id.0,
            other => panic!("{other:?}"),
        }
    }

    async fn call(&self, key: &Secret, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.app.send(request(method.parse().unwrap(), path, key.expose(), body)).await
    }

    async fn post(&self, key: &Secret, path: &str, body: Value) -> Answer {
        self.call(key, "POST", path, Some(body)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(&self.admin, "GET", path, None).await
    }

    async fn token(&self, key: &Secret, identity: i64) -> Answer {
        self.post(key, &format!("/v1/identities/{identity}/token"), json!({})).await
    }

    /// A key that may get tokens, within these limits.
    async fn key(&self, limits: KeyLimits) -> Secret {
        let scopes = [KeyScope::TokensRead, KeyScope::IdentitiesRead, KeyScope::LinkWrite];
        key(&self.store, &scopes, limits).await.1
    }
}

async fn key(store: &Arc<MemoryStore>, scopes: &[KeyScope], limits: KeyLimits) -> (ApiKey, Secret) {
    let keys = ApiKeys { keys: store.clone() };
    keys.create_limited("k", scopes, &limits, &Actor::OPERATOR).await.unwrap()
}

/// The body of a request for a proof.
fn proof_of_get() -> Value {
    json!({"method": "GET", "url": "https://api.example/files?page=2"})
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[tokio::test]
async fn what_is_frozen_is_handed_to_nobody_and_everybody_is_told_why() {
    let world = World::new().await;
    let key = world.key(KeyLimits::NONE).await;
    assert_eq!(world.token(&key, world.ada).await.status, 200);
    let uses = format!("/v1/organizations/acme/identities/{}", world.ada);
    world.call(&world.admin, "PUT", &uses, None).await;
    for (kind, id) in [("provider", json!(world.provider)), ("organization", json!("acme"))] {
        let body = json!({"kind": kind, "id": id});
        let frozen = world.post(&world.admin, "/v1/freezes", body.clone()).await;
        assert_eq!(frozen.status, 201, "{frozen:?}");
        assert_eq!(world.post(&world.admin, "/v1/freezes", body).await.status, 200);
        let identity = world.ada;
        let reported = json!({"access_token_sha256": sha256("token-1")});
        for (path, body) in [
            (format!("/v1/identities/{identity}/token"), json!({})),
            ("/v1/token".to_owned(), json!({"user_id": "ada", "provider_id": world.provider})),
            (format!("/v1/identities/{identity}/refresh"), json!({})),
            (format!("/v1/identities/{identity}/report-rejected"), reported),
            (format!("/v1/identities/{identity}/dpop-proof"), proof_of_get()),
        ] {
            let detail = world.post(&key, &path, body).await.problem(403, "frozen");
            assert!(detail.contains(kind) && detail.contains(" by api_key:"), "{detail}");
        }
        let list = world.get("/v1/freezes").await.json();
        assert_eq!(list["items"][0]["kind"], kind);
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let path = format!("/v1/freezes/{kind}/{id}");
        assert_eq!(world.call(&world.admin, "DELETE", &path, None).await.status, 204);
        world.call(&world.admin, "DELETE", &path, None).await.problem(404, "not_found");
        assert_eq!(world.token(&key, world.ada).await.status, 200);
    }
    let unknown = json!({"kind": "provider", "id": 999_999});
    world.post(&world.admin, "/v1/freezes", unknown).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_frozen_key_is_handed_nothing_and_reads_on() {
    let world = World::new().await;
    let scopes = [KeyScope::TokensRead, KeyScope::IdentitiesRead];
    let (frozen, secret) = key(&world.store, &scopes, KeyLimits::NONE).await;
    assert_eq!(world.token(&secret, world.ada).await.status, 200);
    let body = json!({"kind": "key", "id": frozen.id.0});
    assert_eq!(world.post(&world.admin, "/v1/freezes", body).await.status, 201);
    // At once, although the key itself is remembered for seconds; also for what is not there.
    world.token(&secret, world.ada).await.problem(403, "frozen");
    world.token(&secret, 999_999).await.problem(403, "frozen");
    assert_eq!(world.token(&world.admin, world.ada).await.status, 200);
    let path = format!("/v1/identities/{}", world.ada);
    assert_eq!(world.call(&secret, "GET", &path, None).await.status, 200);
}

#[tokio::test]
async fn a_key_within_narrow_limits_sees_and_gets_only_what_is_within_them() {
    let world = World::new().await;
    let bob = world.link(world.provider, "bob", "token-2").await;
    let elsewhere = world.link(world.other_provider, "ada", "token-3").await;
    let users = Some(vec![UserPattern::new("ada").unwrap()]);
    let of_ada = world.key(KeyLimits { users, ..KeyLimits::NONE }).await;
    let providers = Some(vec![ProviderId(world.provider)]);
    let of_provider = world.key(KeyLimits { providers, ..KeyLimits::NONE }).await;
    for (key, seen) in [(&of_ada, [true, false, true]), (&of_provider, [true, true, false])] {
        for (identity, seen) in [world.ada, bob, elsewhere].into_iter().zip(seen) {
            let status = if seen { 200 } else { 404 };
            assert_eq!(world.token(key, identity).await.status, status);
            let path = format!("/v1/identities/{identity}");
            assert_eq!(world.call(key, "GET", &path, None).await.status, status);
        }
    }
    // By user and type there are two, and one of them is there for the key.
    let asked = json!({"user_id": "ada", "provider_type": "oidc"});
    world.post(&of_ada, "/v1/token", asked.clone()).await.problem(409, "identity_ambiguous");
    let token = world.post(&of_provider, "/v1/token", asked).await.json();
    assert_eq!(token["access_token"], "token-1");
    let asked = json!({"user_id": "bob", "provider_type": "oidc"});
    world.post(&of_ada, "/v1/token", asked).await.problem(404, "not_found");

    let list = async |key: &Secret, query: &str| {
        world.call(key, "GET", &format!("/v1/identities?{query}"), None).await
    };
    let count = |answer: Answer| answer.json()["items"].as_array().unwrap().len();
    list(&of_ada, "provider_type=oidc").await.refuses("user_id");
    assert_eq!(count(list(&of_ada, "user_id=ada").await), 2);
    assert_eq!(count(list(&of_ada, "user_id=bob").await), 0);
    assert_eq!(count(list(&of_provider, "user_id=ada").await), 1);
}

#[tokio::test]
async fn a_key_within_narrow_limits_is_refused_where_nobody_asks_about_them() {
    let world = World::new().await;
    let users = Some(vec![UserPattern::new("ada").unwrap()]);
    let limits = KeyLimits { users, ..KeyLimits::NONE };
    let (_, narrow) = key(&world.store, &[KeyScope::Admin], limits).await;
    let identity = format!("/v1/identities/{}", world.ada);
    let data = format!("{identity}/data");
    for (method, path) in [
        ("GET", "/v1/providers"),
        ("GET", "/v1/events"),
        ("GET", "/v1/ledger"),
        ("GET", "/v1/freezes"),
        ("GET", "/v1/users/ada/identities"),
        ("GET", "/v1/organizations/acme/identities"),
        ("DELETE", identity.as_str()),
        ("PUT", data.as_str()),
    ] {
        let detail = world.call(&narrow, method, path, None).await.problem(403, "forbidden");
        assert!(detail.contains("limited"), "{detail}");
    }
}

#[tokio::test]
async fn a_key_is_neither_handed_nor_lets_users_be_asked_for_more_than_its_scopes() {
    let world = World::new().await;
    let scopes = |all: &[&str]| {
        let token_scopes = Some(all.iter().map(|it| (*it).to_owned()).collect());
        KeyLimits { token_scopes, ..KeyLimits::NONE }
    };
    let enough = world.key(scopes(&["read", "write", "more"])).await;
    let reads = world.key(scopes(&["read"])).await;
    assert_eq!(world.token(&enough, world.ada).await.status, 200);
    let detail = world.token(&reads, world.ada).await.problem(403, "forbidden");
    assert!(detail.contains("write") && !detail.contains("read,"), "{detail}");

    let session = |scopes: Value| {
        json!({
            "purpose": "link", "user_id": "ada", "provider_id": world.provider,
            "return_url": "https://product.example/", "scopes": scopes,
        })
    };
    let path = "/v1/link-sessions";
    world.post(&reads, path, session(json!([]))).await.refuses("scopes");
    let detail = world.post(&reads, path, session(json!(["write"]))).await;
    assert!(detail.problem(403, "forbidden").contains("write"));
}

#[tokio::test]
async fn a_link_session_of_a_limited_key_is_for_its_users_and_providers() {
    let world = World::new().await;
    let limits = KeyLimits {
        users: Some(vec![UserPattern::new("ada").unwrap()]),
        providers: Some(vec![ProviderId(world.provider)]),
        ..KeyLimits::NONE
    };
    let narrow = world.key(limits).await;
    let path = "/v1/link-sessions";
    let session = |user: Value, provider: Value| {
        json!({
            "purpose": "link", "user_id": user, "provider_id": provider,
            "return_url": "https://product.example/",
        })
    };
    let (here, elsewhere) = (json!(world.provider), json!(world.other_provider));
    world.post(&narrow, path, session(json!("bob"), here.clone())).await.problem(403, "forbidden");
    world.post(&narrow, path, session(json!(null), here)).await.refuses("user_id");
    world.post(&narrow, path, session(json!("ada"), elsewhere)).await.refuses("provider_id");
    world.post(&narrow, path, session(json!("ada"), json!(null))).await.refuses("provider_id");
}

#[tokio::test]
async fn who_had_a_token_is_found_by_its_hash() {
    let world = World::new().await;
    let (key, secret) = key(&world.store, &[KeyScope::TokensRead], KeyLimits::NONE).await;
    for _ in 0..3 {
        world.token(&secret, world.ada).await;
    }
    let query = format!("/v1/ledger?token_sha256={}", sha256("token-1"));
    let answer = world.get(&query).await;
    let found = answer.json();
    let [entry] = found["items"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!(entry["recipient"], format!("api_key:{}", key.id));
    assert_eq!((&entry["identity_id"], &entry["times"]), (&json!(world.ada), &json!(3)));
    assert_eq!(entry["user_id"], "ada");
    assert!(!answer.body.contains("token-1") && !answer.body.contains(&sha256("token-1")));
    let nobody = world.get(&format!("/v1/ledger?token_sha256={}", sha256("token-2"))).await;
    assert_eq!(nobody.json()["items"], json!([]));
    let of_ada = world.get(&format!("/v1/ledger?identity_id={}", world.ada)).await;
    assert_eq!(of_ada.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_report_of_a_rejected_token_says_what_became_of_it() {
    let world = World::new().await;
    let key = world.key(KeyLimits::NONE).await;
    let path = format!("/v1/identities/{}/report-rejected", world.ada);
    let other = json!({"access_token_sha256": sha256("an older one")});
    let answer = world.post(&key, &path, other).await.json();
    assert_eq!(answer["outcome"], "already_replaced");
    assert_eq!(answer["identity"]["status"], "valid");
    let current = json!({"access_token_sha256": sha256("token-1").to_uppercase()});
    let answer = world.post(&key, &path, current).await;
    answer.problem(429, "rate_limited");
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let missing = json!({"access_token_sha256": sha256("x")});
    world
        .post(&key, "/v1/identities/999999/report-rejected", missing)
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn a_proof_is_for_the_token_that_was_handed_out_and_for_one_request() {
    let world = World::new().await;
    let key = world.key(KeyLimits::NONE).await;
    let identity = world.link_bound().await;
    let token = world.token(&key, identity).await.json();
    assert_eq!((&token["access_token"], &token["token_type"]), (&json!("token-9"), &json!("DPoP")));
    let path = format!("/v1/identities/{identity}/dpop-proof");
    let named = |hash: String| {
        let mut body = proof_of_get();
        body["access_token_sha256"] = json!(hash);
        body["nonce"] = json!("n-1");
        body
    };
    let answer = world.post(&key, &path, named(sha256("token-9").to_uppercase())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let request = DpopRequest::new("GET", "https://api.example/files", Some("n-1")).unwrap();
    let proof = PlainProofs::text(&Secret::new("canary-key"), &request, &Secret::new("token-9"));
    let expected = json!({"proof": proof, "access_token_sha256": sha256("token-9")});
    assert_eq!(answer.json(), expected);
    // Without a name the answer says for which token it is.
    let answer = world.post(&key, &path, proof_of_get()).await.json();
    assert_eq!(answer["access_token_sha256"], sha256("token-9"));
    let detail = world.post(&key, &path, named(sha256("an older one"))).await;
    assert!(detail.problem(409, "access_token_replaced").contains("ask for the token again"));
    // A bearer's token needs none.
    let path = format!("/v1/identities/{}/dpop-proof", world.ada);
    let detail = world.post(&key, &path, proof_of_get()).await.problem(400, "invalid_request");
    assert!(detail.contains("bound to no key"), "{detail}");
    let path = "/v1/identities/999999/dpop-proof";
    world.post(&key, path, proof_of_get()).await.problem(404, "not_found");
    // The key is shown nowhere.
    for path in [format!("/v1/identities/{identity}"), "/v1/events".to_owned()] {
        let shown = world.get(&path).await;
        assert_eq!(shown.status, 200);
        assert!(!shown.body.contains("canary-key"), "{path}");
    }
}
