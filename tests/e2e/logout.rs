//! A user signs out at a real provider, which tells us, and so the product.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode, Url, header::LOCATION};
use serde_json::{Value, json};

use crate::{
    browser::{Browser, query},
    device::fields,
    oidc_provider::{HELD_SECRET, OidcProvider, Options},
    service::{Installation, Kind, RETURN_URL, Replica},
};

/// Longer than the pause before credentials are looked at that may have ended, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);

struct World {
    provider: OidcProvider,
    _installation: Installation,
    replica: Replica,
    id: i64,
}

impl World {
    /// `always` is whether there are refresh tokens without `offline_access`, and then it is not
    /// asked for.
    async fn new(kind: Kind, always: bool) -> Self {
        let installation = Installation::new(kind).await;
        let provider = OidcProvider::start(&Options {
            redirect_uris: vec![format!("http://{}/callback/1", installation.public)],
            access_token_ttl: Duration::from_hours(1),
            always_refresh_tokens: always,
            dpop_nonces: false,
        });
        let replica = installation.start().await;
        let mut config = json!({
            "issuer": provider.issuer, "client_id": "told-of-logouts",
            "client_secret": HELD_SECRET,
        });
        if always {
            config["scopes"] = json!(["openid", "email"]);
        }
        let id = replica.register(config).await;
        Self { provider, _installation: installation, replica, id }
    }

    /// Links a user, and gives the identity and the browser that is signed in at the provider.
    async fn link(&self, user: &str) -> (i64, Browser) {
        let body = json!({
            "user_id": user, "provider_id": self.id, "return_url": RETURN_URL, "purpose": "link",
            "login_hint": user,
        });
        let session = self.replica.post("/v1/link-sessions", body).await.good();
        let url = session["url"].as_str().unwrap().parse().unwrap();
        let mut browser = Browser::new();
        let back = browser.follow(url, RETURN_URL).await;
        let code = query(&back, "completion_code").unwrap();
        let body = json!({"completion_code": code, "user_id": user});
        let path = format!("/v1/link-sessions/{}/complete", session["id"]);
        let linked = self.replica.post(&path, body).await.good();
        (linked["identity_id"].as_i64().unwrap(), browser)
    }

    /// Signs out at the provider, as a browser does there, having nothing to do with us.
    async fn sign_out(&self, browser: &mut Browser) {
        let url: Url = format!("{}/session/end", self.provider.issuer).parse().unwrap();
        let page = browser.get(url.clone()).await.text().await.unwrap();
        let mut form = fields(&page);
        form.push(("logout".into(), "yes".into()));
        let confirm = url.join("/session/end/confirm").unwrap();
        let done = browser.post(confirm, &form).await;
        assert_eq!(done.status(), StatusCode::SEE_OTHER);
        assert!(done.headers()[LOCATION].to_str().unwrap().contains("/session/end/success"));
    }

    async fn events(&self, kind: &str) -> Vec<Value> {
        let path = format!("/v1/events?type={kind}");
        self.replica.get(&path).await.good()["items"].as_array().unwrap().clone()
    }

    async fn status(&self, identity: i64) -> Value {
        self.replica.get(&format!("/v1/identities/{identity}")).await.good()["status"].clone()
    }
}

async fn the_product_is_told(kind: Kind) {
    let world = World::new(kind, false).await;
    let (ada, mut browser) = world.link("ada").await;
    let (_, mut other) = world.link("grace").await;

    world.sign_out(&mut browser).await;

    // The provider waited for our answer, so the event is there; it names the session that the ID
    // token of the link had.
    let told = world.events("identity.logged_out").await;
    let [event] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&event["identity_id"], &event["user_id"]), (&json!(ada), &json!("ada")));
    assert_eq!(event["provider_id"], world.id);
    let linked = world.events("identity.linked").await;
    let session = &linked[0]["detail"]["evidence"]["id_token"]["sid"];
    assert!(session.is_string(), "{linked:?}");
    assert_eq!(&event["detail"]["session_id"], session);
    let records = world.provider.records().await;
    assert_eq!(records["logouts"], json!({"taken": 1, "refused": 0}));

    // What was granted for the user's absence works on.
    assert_eq!(world.status(ada).await, "valid");
    world.replica.post(&format!("/v1/identities/{ada}/refresh"), json!({})).await.good();
    let token = world.replica.token(ada).await.good();
    let token = token["access_token"].as_str().unwrap();
    assert_eq!(world.provider.userinfo(token).await, StatusCode::OK);

    // Nobody else was signed out, until that one does it too.
    world.sign_out(&mut other).await;
    let told = world.events("identity.logged_out").await;
    assert_eq!(told.len(), 2);
    assert_eq!(told[1]["user_id"], "grace");

    // The account of a link that is gone is nobody's, and the provider need not know.
    let (ada, mut browser) = world.link("ada").await;
    let path = format!("/v1/identities/{ada}?revoke=false");
    world.replica.call(Method::DELETE, &path, None).await;
    world.sign_out(&mut browser).await;
    let records = world.provider.records().await;
    assert_eq!(records["logouts"], json!({"taken": 3, "refused": 0}));
    assert_eq!(world.events("identity.logged_out").await.len(), 2);

    // Whoever makes a token up is told no more than that.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let path = format!("/backchannel-logout/{}", world.id);
    let answer = world.replica.raw(Method::POST, &path, &form, "logout_token=a.b.c").await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["error"], "invalid_request", "{answer}");
    world.replica.stop().await;
}

#[tokio::test]
async fn who_signs_out_at_the_provider_is_told_of_to_the_product_on_sqlite() {
    the_product_is_told(Kind::Sqlite).await;
}

#[tokio::test]
async fn who_signs_out_at_the_provider_is_told_of_to_the_product_on_postgresql() {
    the_product_is_told(Kind::Postgres).await;
}

#[tokio::test]
async fn a_grant_that_ended_with_the_session_is_found_out_with_nobody_asking() {
    let world = World::new(Kind::Sqlite, true).await;
    let (ada, mut browser) = world.link("ada").await;
    let (grace, _) = world.link("grace").await;
    // The refresh is planned by then, which is not due for most of an hour.
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.sign_out(&mut browser).await;
    assert_eq!(world.events("identity.logged_out").await.len(), 1);
    let deadline = Instant::now() + PATIENCE;
    while world.status(ada).await == "valid" {
        assert!(Instant::now() < deadline, "nobody has found out");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(world.status(ada).await, "invalid");
    assert_eq!(world.events("identity.invalidated").await.len(), 1);
    assert_eq!(world.status(grace).await, "valid");
    let records = world.provider.records().await;
    assert_eq!(records["token_requests"]["refresh_token"], 1);
    world.replica.stop().await;
}
