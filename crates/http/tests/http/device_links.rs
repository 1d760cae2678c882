use std::sync::Arc;

use serde_json::{Value, json};
use symbolon_domain::{
    api_key::{ApiKey, KeyLimits, UserPattern},
    device_link::{DeviceLink, DeviceLinkStatus},
    event::Actor,
    ids::ProviderId,
    link_session::LinkFailure,
    ports::{IdentityProviderRepository as _, MockApiKeyRepository, NewIdentityProvider},
    testing::{MemoryStore, ScriptedProvider, TestClock, fixtures},
};

use crate::app::{App, Mocks, Ports};

/// Over one store in memory and a provider in memory, with a key of these limits.
async fn app(limits: KeyLimits) -> (App, ScriptedProvider, ProviderId) {
    let clock = Arc::new(TestClock::default());
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let provider = ScriptedProvider::default();
    let new = NewIdentityProvider {
        provider_type: "scripted".into(),
        ..fixtures::new_identity_provider()
    };
    let id = store.insert(&new, &Actor::OPERATOR).await.unwrap().id;
    let mut keys = MockApiKeyRepository::new();
    keys.expect_find_by_hash()
        .returning(move |_| Ok(Some(ApiKey { limits: limits.clone(), ..fixtures::api_key() })));
    let ports = Ports {
        keys: Arc::new(keys),
        identities: store.clone(),
        providers: store.clone(),
        connectors: Arc::new(provider.clone()),
        device_links: store,
        clock,
        ..Ports::default()
    };
    (ports.app(), provider, id)
}

fn new_link(provider: ProviderId) -> Value {
    json!({"user_id": "user-1", "provider_id": provider.0})
}

#[tokio::test]
async fn a_device_link_is_started_and_its_code_is_shown_once() {
    let (app, _, provider) = app(KeyLimits::default()).await;
    let answer = app.post("/v1/device-links", new_link(provider)).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (201, "no-store"));
    let started = answer.json();
    let path = format!("/v1/device-links/{}", started["id"]);
    assert_eq!(answer.header("location"), path);
    assert_eq!(
        started,
        json!({
            "id": started["id"],
            "user_code": "USER-1",
            "verification_uri": "https://scripted.example/device",
            "verification_uri_complete": "https://scripted.example/device?user_code=USER-1",
            "expires_at": "2026-01-01T00:15:00Z",
        })
    );
    let shown = app.get(&path).await;
    assert_eq!(shown.json(), json!({"id": started["id"], "status": "pending"}));
    app.get("/v1/device-links/4711").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_device_link_tells_how_far_it_got() {
    let link = fixtures::device_link;
    for (link, expected) in [
        (link(), json!({"id": 1, "status": "pending"})),
        (
            DeviceLink {
                status: DeviceLinkStatus::Linked,
                identity_id: Some(fixtures::IDENTITY),
                ..link()
            },
            json!({"id": 1, "status": "linked", "identity_id": 1}),
        ),
        (
            DeviceLink {
                status: DeviceLinkStatus::Failed,
                error: Some(LinkFailure::IdentityAlreadyLinked),
                ..link()
            },
            json!({"id": 1, "status": "failed", "error": "identity_already_linked"}),
        ),
        (
            DeviceLink { status: DeviceLinkStatus::Expired, ..link() },
            json!({"id": 1, "status": "expired"}),
        ),
    ] {
        let mut mocks = Mocks::default();
        mocks.device_links.expect_find().return_once(|_| Ok(Some(link)));
        assert_eq!(mocks.app().get("/v1/device-links/1").await.json(), expected);
    }
}

#[tokio::test]
async fn a_device_link_that_makes_no_sense_is_refused_by_field() {
    let (app, scripted, provider) = app(KeyLimits::default()).await;
    let with = |key: &str, value: Value| {
        let mut body = new_link(provider);
        body[key] = value;
        body
    };
    for (body, field) in [
        (json!({"provider_id": 1}), "user_id"),
        (json!({"user_id": "u"}), "provider_id"),
        (with("provider_id", json!(4711)), "provider_id"),
        (with("scopes", json!(["a b"])), "scopes[0]"),
        (with("organization_id", json!("")), "organization_id"),
        (with("return_url", json!("https://product.example/")), "return_url"),
    ] {
        app.post("/v1/device-links", body).await.refuses(field);
    }
    scripted.set_without_device_flow();
    app.post("/v1/device-links", new_link(provider)).await.refuses("provider_id");
}

#[tokio::test]
async fn a_limited_key_starts_and_sees_what_is_within_its_limits() {
    let user = |name: &str| Some(vec![UserPattern::new(name).unwrap()]);
    let types = |name: &str| Some(vec![name.to_owned()]);
    let within = KeyLimits {
        users: user("user-1"),
        provider_types: types("scripted"),
        ..KeyLimits::default()
    };
    let (limited, _, provider) = app(within).await;
    let started = limited.post("/v1/device-links", new_link(provider)).await;
    assert_eq!(started.status.as_u16(), 201, "{started:?}");
    let path = format!("/v1/device-links/{}", started.json()["id"]);
    assert_eq!(limited.get(&path).await.status.as_u16(), 200);

    let elsewhere = KeyLimits { provider_types: types("oidc"), ..KeyLimits::default() };
    let (limited, _, provider) = app(elsewhere).await;
    limited.post("/v1/device-links", new_link(provider)).await.refuses("provider_id");

    let others = KeyLimits { users: user("user-2"), ..KeyLimits::default() };
    let (limited, _, provider) = app(others).await;
    limited.post("/v1/device-links", new_link(provider)).await.problem(403, "forbidden");

    let organizations = Some(vec![fixtures::organization("o")]);
    let (limited, _, provider) = app(KeyLimits { organizations, ..KeyLimits::default() }).await;
    let mut of = new_link(provider);
    of["organization_id"] = json!("another");
    limited.post("/v1/device-links", of.clone()).await.problem(403, "forbidden");
    of["organization_id"] = json!("o");
    let started = limited.post("/v1/device-links", of).await;
    assert_eq!(started.status.as_u16(), 201, "{started:?}");
    let path = format!("/v1/device-links/{}", started.json()["id"]);
    assert_eq!(limited.get(&path).await.status.as_u16(), 200);

    let scopes = KeyLimits { token_scopes: Some(vec!["email".into()]), ..KeyLimits::default() };
    let (limited, _, provider) = app(scopes).await;
    limited.post("/v1/device-links", new_link(provider)).await.refuses("scopes");
    let mut beyond = new_link(provider);
    beyond["scopes"] = json!(["email", "admin"]);
    limited.post("/v1/device-links", beyond.clone()).await.problem(403, "forbidden");
    beyond["scopes"] = json!(["email"]);
    assert_eq!(limited.post("/v1/device-links", beyond).await.status.as_u16(), 201);
}
