//! The ways of the protocol that a provider may hold a client to, each against a real provider
//! that refuses every other way, or that is seen to have been asked so.

use rcgen::KeyPair;
use reqwest::{Method, StatusCode, Url, header::LOCATION};
use serde_json::{Value, json};

use crate::{
    browser::query,
    device::{self, fields},
    main_way::provider_for,
    oidc_provider::{CONFIDENTIAL, HELD_SECRET, OidcProvider, Options},
    service::{Installation, Kind, RETURN_URL},
    world::World,
};

/// Longer than any of these tests.
const TOKEN_TTL: u64 = 3600;

/// `config` is what the configuration has besides the issuer.
async fn world(config: Value) -> World {
    let provider = |installation: &Installation| provider_for(installation, TOKEN_TTL);
    World::of(Kind::Sqlite, provider, config).await
}

/// The same, as a client that is held to one way and has a secret.
async fn held(client_id: &str, more: Value) -> World {
    let mut config = json!({ "client_id": client_id, "client_secret": HELD_SECRET });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world(config).await
}

/// The same, as the client that is held to none.
async fn confidential(more: Value) -> World {
    let (client_id, client_secret) = CONFIDENTIAL;
    let mut config = json!({ "client_id": client_id, "client_secret": client_secret });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world(config).await
}

impl World {
    /// Another token than the one there was, by way of the provider.
    async fn refreshed(&self, identity: i64) -> String {
        let before = self.token(identity).await;
        let path = format!("/v1/identities/{identity}/refresh");
        self.replica.post(&path, json!({})).await.good();
        let token = self.token(identity).await;
        assert_ne!(token, before);
        assert!(self.provider.is_active(&token).await);
        token
    }

    /// Links `user`, and refreshes what came of it.
    async fn link_and_refresh(&self, user: &str) -> i64 {
        let (identity, _) = self.link(user).await;
        self.refreshed(identity).await;
        identity
    }

    /// Tries to link, and gives the error that the product is told.
    async fn refused(&self, user: &str) -> String {
        let (mut browser, url, _) = self.start(user).await;
        let back = browser.follow(url, RETURN_URL).await;
        query(&back, "error").unwrap()
    }

    /// Where the provider sends answers to.
    fn callback(&self) -> String {
        format!("http://{}/callback/{}", self.replica.address(), self.id)
    }

    async fn change(&self, config: Value) {
        let path = format!("/v1/providers/{}", self.id);
        self.replica.call(Method::PATCH, &path, Some(json!({ "config": config }))).await.good();
    }

    /// The ids of the keys that the service publishes for its client.
    async fn published(&self) -> Vec<String> {
        let url = format!("/jwks/{}", self.id);
        let keys: Value =
            serde_json::from_str(&self.replica.raw(Method::GET, &url, &[], "").await).unwrap();
        let kid = |it: &Value| it["kid"].as_str().unwrap().to_owned();
        keys["keys"].as_array().unwrap().iter().map(kid).collect()
    }
}

#[tokio::test]
async fn requests_are_pushed_where_the_client_must_push_them() {
    let world = held("pushing", json!({"pushed_authorization_requests": true})).await;
    world.link_and_refresh("ada").await;
    assert_eq!(world.records("pushed_requests").await, 1);

    // The provider means it: what the browser carries is refused.
    world.change(json!({"pushed_authorization_requests": null})).await;
    assert_eq!(world.refused("grace").await, "provider_misconfigured");
    assert_eq!(world.records("pushed_requests").await, 1);
    assert_eq!(world.records("authorizations").await, 1);
    world.replica.stop().await;
}

#[tokio::test]
async fn a_client_signs_with_its_secret() {
    let config = json!({"token_endpoint_auth_method": "client_secret_jwt"});
    let world = held("secret-signing", config).await;
    world.link_and_refresh("ada").await;
    assert_eq!(world.records("assertions").await, json!({"secret-signing HS256": 2}));

    // The provider means it: the secret itself is refused.
    world.change(json!({"token_endpoint_auth_method": "client_secret_basic"})).await;
    assert_eq!(world.refused("grace").await, "provider_misconfigured");
    world.replica.stop().await;
}

#[tokio::test]
async fn a_client_signs_with_its_key_and_the_next_one_takes_over_unnoticed() {
    let key = || KeyPair::generate().unwrap().serialize_pem();
    let (first, second) = (key(), key());
    let config = json!({"client_id": "key-signing", "client_private_key": first});
    let world = world(config).await;
    let [old] = world.published().await.try_into().unwrap();
    let identity = world.link_and_refresh("ada").await;
    let signed = |by: &str| format!("key-signing ES256 {by}");
    assert_eq!(world.records("assertions").await, json!({signed(&old): 2}));
    // It asked us for the key, and keeps it.
    let jwks = format!("http://{}/jwks/{}", world.replica.address(), world.id);
    assert_eq!(world.records("fetched").await, json!({jwks.as_str(): 1}));

    // The next key is published while the old one signs, and the provider looks again some time.
    world.change(json!({"client_private_key_next": second})).await;
    let [still, new] = world.published().await.try_into().unwrap();
    assert_eq!(still, old);
    world.provider.refetch_keys("key-signing").await;
    world.refreshed(identity).await;
    assert_eq!(world.records("fetched").await, json!({jwks.as_str(): 2}));
    assert_eq!(world.records("assertions").await, json!({signed(&old): 3}));

    // From one request to the next it is the new one, which the provider need not ask for.
    world.change(json!({"client_private_key": second, "client_private_key_next": null})).await;
    assert_eq!(world.published().await, [new.as_str()]);
    world.refreshed(identity).await;
    world.link_and_refresh("grace").await;
    let expected = json!({signed(&old): 3, signed(&new): 3});
    assert_eq!(world.records("assertions").await, expected);
    assert_eq!(world.records("fetched").await, json!({jwks.as_str(): 2}));

    // A key that was not published ahead is refused, and the identity is kept: the operator's
    // mistake is not the user's.
    world.change(json!({"client_private_key": key()})).await;
    let refresh = format!("/v1/identities/{identity}/refresh");
    let refused = world.replica.post(&refresh, json!({})).await;
    assert_eq!(refused.code(), "provider_misconfigured", "{refused:?}");
    let shown = world.identity(identity).await;
    assert_eq!(shown["status"], "valid");
    world.replica.stop().await;
}

#[tokio::test]
async fn a_response_comes_back_as_a_posted_form() {
    let world = held("posted-to", json!({"response_mode": "form_post"})).await;
    let (mut browser, mut url, session) = world.start("ada").await;
    // The provider's page, which a browser would post by itself.
    let page = loop {
        let answer = browser.get(url.clone()).await;
        match answer.headers().get(LOCATION) {
            Some(location) => url = url.join(location.to_str().unwrap()).unwrap(),
            None => break answer.text().await.unwrap(),
        }
    };
    assert!(url.as_str().starts_with(&world.provider.issuer), "{url}");
    assert!(page.contains(&format!("action=\"{}\"", world.callback())), "{page}");
    let form = fields(&page);
    assert!(["code", "state", "iss"].iter().all(|it| form.iter().any(|(name, _)| name == it)));
    let callback: Url = world.callback().parse().unwrap();
    let answer = browser.post(callback.clone(), &form).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let to = callback.join(answer.headers()[LOCATION].to_str().unwrap()).unwrap();
    let back = browser.follow(to, RETURN_URL).await;
    let completed = world.complete(&session, &back, "ada").await;
    assert_eq!(completed["status"], "linked");
    world.refreshed(completed["identity_id"].as_i64().unwrap()).await;
    assert_eq!(world.records("response_modes").await, json!({"form_post": 1}));

    // The provider means it: an answer in the query is refused.
    world.change(json!({"response_mode": null})).await;
    let (mut browser, url, _) = world.start("grace").await;
    let to_provider = browser.follow(url, &world.provider.issuer).await;
    assert!(query(&to_provider, "response_mode").is_none());
    let refused = browser.get(to_provider).await;
    let location = refused.headers().get(LOCATION).map(|it| it.to_str().unwrap().to_owned());
    assert!(location.is_none_or(|it| !it.contains("code=")), "no code comes by query");
    assert_eq!(world.records("authorizations").await, 1);
    world.replica.stop().await;
}

#[tokio::test]
async fn tokens_are_for_the_resource_that_is_configured_and_stay_so() {
    let resource = "https://api.example.test/v2";
    let world = confidential(json!({"resource": [resource]})).await;
    // The provider's userinfo endpoint refuses such tokens: who it is stands in the ID token.
    let (identity, _) = world.link("ada").await;
    let shown = world.identity(identity).await;
    assert_eq!(shown["external_id"], "ada");
    let first = world.token(identity).await;
    assert_eq!(world.provider.audience(&first).await, resource);
    assert_eq!(world.provider.userinfo(&first).await, StatusCode::FORBIDDEN);
    let second = world.refreshed(identity).await;
    assert_eq!(world.provider.audience(&second).await, resource);
    world.replica.stop().await;
}

#[tokio::test]
async fn a_signed_userinfo_answer_is_verified_and_read() {
    let world = held("signed-userinfo", json!({})).await;
    let identity = world.link_and_refresh("ada").await;
    let shown = world.identity(identity).await;
    // The ID token has no e-mail address: it came with the signed answer.
    assert_eq!(shown["data"]["email"], "ada@example.test", "{shown}");
    assert_eq!(world.records("userinfo").await, json!({"application/jwt": 1}));
    world.replica.stop().await;
}

#[tokio::test]
async fn a_provider_by_its_issuer_alone_is_linked_on_this_device_and_on_another() {
    let provider = |installation: &Installation| {
        OidcProvider::start(&Options {
            redirect_uris: vec![format!("http://{}/callback/1", installation.public)],
            always_refresh_tokens: true,
            ..Options::default()
        })
    };
    let (client_id, client_secret) = CONFIDENTIAL;
    let config = json!({
        "client_id": client_id, "client_secret": client_secret, "account_id": "/sub",
        "account_name": "/name", "scopes": ["openid", "profile"],
    });
    let world = World::of_type("oauth2", Kind::Sqlite, provider, config).await;
    // It is asked as an authorization server (RFC 8414), and named itself in the response.
    let identity = world.link_and_refresh("ada").await;
    let requests = world.records("requests").await;
    assert!(requests["/.well-known/oauth-authorization-server"].is_u64(), "{requests}");
    assert!(requests["/.well-known/openid-configuration"].is_null(), "{requests}");
    let shown = world.identity(identity).await;
    assert_eq!(
        (&shown["external_id"], &shown["data"]["name"]),
        (&json!("ada"), &json!("Test user ada"))
    );
    let why = world.replica.get(&format!("/v1/identities/{identity}/explain")).await.good();
    assert!(why.to_string().contains("\"response_issuer\""), "{why}");

    let (mut browser, url, _) = world.start("grace").await;
    let mut back = browser.follow(url, &world.callback()).await;
    let query_of = back.query().unwrap().replace("iss=", "not_iss=");
    back.set_query(Some(&query_of));
    let end = browser.follow(back, RETURN_URL).await;
    assert_eq!(query(&end, "error").unwrap(), "untrusted_response");

    let started = device::start(&world.replica, world.id).await;
    device::decide(&started, true).await;
    let linked = device::ended(&world.replica, &started).await;
    assert_eq!(linked["status"], "linked", "{linked}");
    world.refreshed(linked["identity_id"].as_i64().unwrap()).await;
    world.replica.stop().await;
}

#[tokio::test]
async fn a_response_that_names_another_issuer_or_none_links_nothing() {
    let world = confidential(json!({})).await;
    let identity = world.link_and_refresh("ada").await;
    let why = world.replica.get(&format!("/v1/identities/{identity}/explain")).await.good();
    assert!(why.to_string().contains("\"response_issuer\""), "{why}");

    for named in [Some("http://127.0.0.1:9/another"), None] {
        let (mut browser, url, _) = world.start("grace").await;
        let mut back = browser.follow(url, &world.callback()).await;
        assert_eq!(query(&back, "iss").unwrap(), world.provider.issuer);
        let others: Vec<(String, String)> = back
            .query_pairs()
            .filter(|(name, _)| name != "iss")
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        back.query_pairs_mut().clear().extend_pairs(others);
        if let Some(named) = named {
            back.query_pairs_mut().append_pair("iss", named);
        }
        let end = browser.follow(back, RETURN_URL).await;
        assert_eq!(query(&end, "status").unwrap(), "failed", "{named:?}");
        assert_eq!(query(&end, "error").unwrap(), "untrusted_response", "{named:?}");
    }
    // The code was not traded: nobody else's server saw it.
    assert_eq!(world.records("authorizations").await, 3);
    assert_eq!(world.records("token_requests").await["authorization_code"], 1);
    world.replica.stop().await;
}
