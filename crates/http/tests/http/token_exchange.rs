//! RFC 8693 at `/oauth2/token`, on the in-memory store.

use std::sync::Arc;

use axum::{body::Body, http::Request};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use symbolon_domain::{
    api_key::{KeyLimits, KeyScope},
    credentials::Credentials,
    event::Actor,
    freeze::FreezeSubject,
    ids::ProviderId,
    page::PageRequest,
    ports::{
        ConnectorError, IdentityProviderRepository, IdentityRepository as _, LedgerFilter,
        LedgerRepository, Link, MockSubjectTokens, NewIdentityProvider, ProvenSubject, Sent,
        VendingRepository,
    },
    secret::Secret,
    services::ApiKeys,
    testing::{MemoryStore, RunningClock, fixtures},
};
use url::form_urlencoded::Serializer;

use crate::app::{Answer, App, Ports, request};

const KEY_TYPE: &str = "urn:symbolon:params:oauth:token-type:api-key";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

struct World {
    app: App,
    store: Arc<MemoryStore>,
    key: Secret,
    provider: i64,
}

/// `jwt-of-USER` proves that user, `jwt-of-slack` only for Slack, and no issuer of `jwt-away` can
/// be reached.
fn subject_tokens() -> MockSubjectTokens {
    let mut tokens = MockSubjectTokens::new();
    tokens.expect_prove().returning(|token| match token.expose() {
        "jwt-away" => Err(ConnectorError::Unavailable {
            detail: "no answer".into(),
            retry_after: None,
            sent: Sent::No,
        }),
        text => match text.strip_prefix("jwt-of-") {
            Some(user) => Ok(ProvenSubject {
                issuer: "https://login.example".into(),
                user_id: fixtures::user(if user == "slack" { "ada" } else { user }),
                provider_types: (user == "slack").then(|| vec!["slack".into()]),
            }),
            None => Err(ConnectorError::Untrusted { detail: "its signature is wrong".into() }),
        },
    });
    tokens
}

async fn key(store: &Arc<MemoryStore>, scope: KeyScope, limits: KeyLimits) -> Secret {
    let keys = ApiKeys { keys: store.clone() };
    keys.create_limited("k", &[scope], &limits, &Actor::OPERATOR).await.unwrap().1
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let new = NewIdentityProvider { external_id: None, ..fixtures::new_identity_provider() };
        let ProviderId(provider) = store.insert(&new, &Actor::OPERATOR).await.unwrap().id;
        let admin = key(&store, KeyScope::Admin, KeyLimits::NONE).await;
        let key = key(&store, KeyScope::TokensRead, KeyLimits::NONE).await;
        let app = Ports {
            keys: store.clone(),
            identities: store.clone(),
            providers: store.clone(),
            credentials: store.clone(),
            events: store.clone(),
            organization_identities: store.clone(),
            vending: Some(store.clone()),
            ledger: store.clone(),
            subject_tokens: Arc::new(subject_tokens()),
            clock: Arc::new(RunningClock),
            ..Ports::default()
        };
        let world = Self { app: app.app(), store, key, provider };
        for (user, token) in [("ada", "token-1"), ("bob", "token-2")] {
            let body = json!({
                "provider_id": provider, "user_id": user, "external_id": user,
                "data": {"access_token": token, "expires": 4_000_000_000_i64},
                "scopes": ["read", "write"],
            });
            let post =
                request("POST".parse().unwrap(), "/v1/identities", admin.expose(), Some(body));
            assert_eq!(world.app.send(post).await.status, 201);
        }
        world
    }

    async fn send(&self, authorization: Option<String>, fields: &[(&str, &str)]) -> Answer {
        let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
        let has_grant = fields.iter().any(|(name, _)| *name == "grant_type");
        let mut form = Serializer::new(String::new());
        form.extend_pairs((!has_grant).then_some(grant)).extend_pairs(fields);
        let mut request = Request::post("/oauth2/token")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let answer = self.app.send(request.body(Body::from(form.finish())).unwrap()).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(!answer.body.contains(self.key.expose()));
        answer
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.key.expose())
    }

    /// With the key as the subject token.
    async fn with_key(&self, fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("subject_token", self.key.expose()), ("subject_token_type", KEY_TYPE)];
        all.extend(fields);
        self.send(None, &all).await
    }

    /// With this JWT as the subject token, and the key as the client's.
    async fn with_jwt(&self, jwt: &str, fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("subject_token", jwt), ("subject_token_type", JWT)];
        all.extend(fields);
        self.send(Some(self.bearer()), &all).await
    }
}

#[track_caller]
fn refused(answer: &Answer, status: u16, error: &str) -> String {
    let body: Value = answer.json();
    assert_eq!((answer.status.as_u16(), &body["error"]), (status, &json!(error)), "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    body["error_description"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_api_key_is_exchanged_for_the_token_of_the_user_that_it_names() {
    let world = World::new().await;
    let answer = world.with_key(&[("user_id", "ada"), ("audience", "oidc")]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["access_token"], "token-1");
    assert_eq!(body["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!(body["scope"], "read write");
    assert_eq!(body["token_type"], "Bearer");
    assert!(body["expires_in"].as_i64().unwrap() > 0);

    let id = world.provider.to_string();
    let resource = format!("https://symbolon.example/v1/providers/{id}");
    for target in [("audience", id.as_str()), ("resource", resource.as_str())] {
        let answer = world.with_key(&[("user_id", "bob"), target]).await;
        assert_eq!(answer.json()["access_token"], "token-2", "{target:?}");
    }
    // The client may authenticate besides, with the same key.
    let fields = [
        ("subject_token", world.key.expose()),
        ("subject_token_type", KEY_TYPE),
        ("user_id", "ada"),
        ("audience", "oidc"),
    ];
    assert_eq!(world.send(Some(world.bearer()), &fields).await.status, 200);
    let other = Some("Bearer sym_other".to_owned());
    refused(&world.send(other, &fields).await, 400, "invalid_request");
}

#[tokio::test]
async fn a_jwt_is_exchanged_for_the_token_of_the_user_that_it_proves() {
    let world = World::new().await;
    let answer = world.with_jwt("jwt-of-ada", &[("audience", "oidc")]).await;
    assert_eq!(answer.json()["access_token"], "token-1", "{answer:?}");
    let basic = format!("Basic {}", STANDARD.encode(format!("any:{}", world.key.expose())));
    let jwt = [("subject_token", "jwt-of-bob"), ("subject_token_type", JWT), ("audience", "oidc")];
    assert_eq!(world.send(Some(basic), &jwt).await.json()["access_token"], "token-2");
    let mut in_body = jwt.to_vec();
    in_body.push(("client_secret", world.key.expose()));
    assert_eq!(world.send(None, &in_body).await.json()["access_token"], "token-2");
    refused(&world.send(Some(world.bearer()), &in_body).await, 400, "invalid_request");

    // On record: the key got it, for the user that the token proved.
    let page = PageRequest::default();
    let reader = key(&world.store, KeyScope::EventsRead, KeyLimits::NONE).await;
    let list = request("GET".parse().unwrap(), "/v1/ledger", reader.expose(), None);
    assert_eq!(world.app.send(list).await.status, 200);
    let kept = world.store.list_ledger(&LedgerFilter::default(), page).await.unwrap().items;
    let users: Vec<_> = kept.iter().map(|it| it.hand_out.acting_user.clone()).collect();
    assert_eq!(users, kept.iter().map(|it| Some(it.hand_out.user_id.clone())).collect::<Vec<_>>());
    assert_eq!(kept.len(), 2);

    let detail =
        refused(&world.with_jwt("forged", &[("audience", "oidc")]).await, 400, "invalid_request");
    assert!(detail.starts_with("subject_token: "), "{detail}");
    let mixed = [("audience", "oidc"), ("user_id", "bob")];
    refused(&world.with_jwt("jwt-of-ada", &mixed).await, 400, "invalid_request");
    let of_slack = world.with_jwt("jwt-of-slack", &[("audience", "oidc")]).await;
    refused(&of_slack, 400, "invalid_target");
    let away = world.with_jwt("jwt-away", &[("audience", "oidc")]).await;
    refused(&away, 503, "temporarily_unavailable");
    assert_eq!(away.header("retry-after"), "5");
}

#[tokio::test]
async fn without_a_valid_key_nothing_is_exchanged() {
    let world = World::new().await;
    let jwt = [("subject_token", "jwt-of-ada"), ("subject_token_type", JWT), ("audience", "oidc")];
    for authorization in [None, Some("Bearer sym_x"), Some("Basic !"), Some("Digest x")] {
        let answer = world.send(authorization.map(str::to_owned), &jwt).await;
        refused(&answer, 401, "invalid_client");
        assert!(answer.header("www-authenticate").contains("Basic"));
    }
    let no_key = [("subject_token", "sym_x"), ("subject_token_type", KEY_TYPE), ("user_id", "ada")];
    refused(&world.send(None, &no_key).await, 401, "invalid_client");
    let other = key(&world.store, KeyScope::IdentitiesRead, KeyLimits::NONE).await;
    let fields = [
        ("subject_token", other.expose()),
        ("subject_token_type", KEY_TYPE),
        ("user_id", "ada"),
        ("audience", "oidc"),
    ];
    let detail = refused(&world.send(None, &fields).await, 400, "unauthorized_client");
    assert!(detail.contains("tokens:read"), "{detail}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_code_of_the_standard() {
    let world = World::new().await;
    let (ada, oidc) = (("user_id", "ada"), ("audience", "oidc"));
    for (fields, error) in [
        (vec![("grant_type", "client_credentials")], "unsupported_grant_type"),
        (vec![("grant_type", "")], "unsupported_grant_type"),
        (vec![oidc], "invalid_request"),
        (vec![ada], "invalid_target"),
        (vec![ada, ("audience", "github")], "invalid_target"),
        (vec![ada, ("audience", "999999")], "invalid_target"),
        (vec![ada, ("resource", "https://api.example/")], "invalid_target"),
        (
            vec![ada, oidc, ("resource", "https://symbolon.example/v1/providers/1")],
            "invalid_target",
        ),
        (vec![("user_id", "nobody"), oidc], "invalid_target"),
        (vec![ada, oidc, ("scope", "read calendar")], "invalid_scope"),
        (vec![ada, oidc, ("scope", "\"")], "invalid_scope"),
        (vec![ada, oidc, ("actor_token", "x")], "invalid_request"),
        (vec![ada, oidc, ("requested_token_type", JWT)], "invalid_request"),
        (vec![ada, oidc, ("audience", "github")], "invalid_request"),
        (vec![("user_id", "a\nb"), oidc], "invalid_request"),
        (vec![ada, oidc, ("identity_id", "x")], "invalid_request"),
    ] {
        refused(&world.with_key(&fields).await, 400, error);
    }
    let unknown = [("subject_token", "x"), ("subject_token_type", "urn:x"), ada, oidc];
    refused(&world.send(Some(world.bearer()), &unknown).await, 400, "invalid_request");
    // What nobody knows is ignored, and what is empty is absent.
    let fields = [ada, oidc, ("scope", "read"), ("actor_token", ""), ("whatever", "x")];
    assert_eq!(world.with_key(&fields).await.status, 200);

    let json = Request::post("/oauth2/token").header("content-type", "application/json");
    let answer = world.app.send(json.body(Body::from("{}")).unwrap()).await;
    refused(&answer, 400, "invalid_request");
}

#[tokio::test]
async fn freezes_and_limits_hold_here_too() {
    let world = World::new().await;
    let fields = [("user_id", "ada"), ("audience", "oidc")];
    let subject = FreezeSubject::Provider(ProviderId(world.provider));
    world.store.freeze(&subject, &Actor::OPERATOR.because("a leak")).await.unwrap();
    let detail = refused(&world.with_key(&fields).await, 403, "frozen");
    assert!(detail.contains("a leak"), "{detail}");
    world.store.unfreeze(&subject, &Actor::OPERATOR).await.unwrap();

    let scopes = KeyLimits { token_scopes: Some(vec!["read".into()]), ..KeyLimits::NONE };
    let types = KeyLimits { provider_types: Some(vec!["github".into()]), ..KeyLimits::NONE };
    for (limits, error) in [(scopes, "invalid_scope"), (types, "invalid_target")] {
        let limited = key(&world.store, KeyScope::TokensRead, limits).await;
        let mut all = vec![("subject_token", limited.expose()), ("subject_token_type", KEY_TYPE)];
        all.extend(fields);
        refused(&world.send(None, &all).await, 400, error);
    }
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_key_says_how_it_is_presented() {
    let world = World::new().await;
    let credentials = Credentials {
        access_token: Some(Secret::new("token-9")),
        token_type: Some("DPoP".to_owned()),
        dpop_key: Some(Secret::new("key")),
        expires_at: None,
        ..fixtures::credentials()
    };
    let link = Link {
        provider_id: ProviderId(world.provider),
        owner: fixtures::owner("carol"),
        external_id: fixtures::external_id("carol"),
        credentials: Some(credentials),
        ..fixtures::link()
    };
    world.store.link(&link).await.unwrap();
    let fields = [
        ("subject_token_type", KEY_TYPE),
        ("subject_token", world.key.expose()),
        ("user_id", "carol"),
        ("audience", "oidc"),
    ];
    let answer = world.send(None, &fields).await.json();
    assert_eq!(
        (&answer["access_token"], &answer["token_type"]),
        (&json!("token-9"), &json!("DPoP"))
    );
}
