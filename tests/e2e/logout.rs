//! A user signs out at a real provider, which tells us, and so the product.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode, Url, header::LOCATION};
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    device::fields,
    oidc_provider::{HELD_SECRET, OidcProvider, Options},
    service::{Installation, Kind},
    world::World,
};

/// Longer than the pause before credentials are looked at that may have ended, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The provider as this client of it. `always` is whether there are refresh tokens without
/// `offline_access`, and then it is not asked for.
async fn world(kind: Kind, client: &str, always: bool) -> World {
    let provider = |installation: &Installation| {
        OidcProvider::start(&Options {
            redirect_uris: vec![format!("http://{}/callback/1", installation.public)],
            access_token_ttl: Duration::from_hours(1),
            always_refresh_tokens: always,
            dpop_nonces: false,
        })
    };
    let mut config = json!({ "client_id": client, "client_secret": HELD_SECRET });
    if always {
        config["scopes"] = json!(["openid", "email"]);
    }
    World::of(kind, provider, config).await
}

impl World {
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

    async fn status(&self, identity: i64) -> Value {
        self.identity(identity).await["status"].clone()
    }
}

async fn the_product_is_told(kind: Kind) {
    let world = world(kind, "told-of-logouts", false).await;
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
    let token = world.token(ada).await;
    assert_eq!(world.provider.userinfo(&token).await, StatusCode::OK);

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

async fn the_session_alone_is_enough(kind: Kind) {
    let world = world(kind, "told-of-sessions", false).await;
    let (ada, mut browser) = world.link("ada").await;
    let (grace, mut other) = world.link("grace").await;

    // The token names no account: the one is found that was linked in the session.
    world.sign_out(&mut browser).await;
    let told = world.events("identity.logged_out").await;
    let [event] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&event["identity_id"], &event["user_id"]), (&json!(ada), &json!("ada")));
    let linked = world.events("identity.linked").await;
    let sid = |of: usize| linked[of]["detail"]["evidence"]["id_token"]["sid"].clone();
    assert!(sid(0).is_string() && sid(0) != sid(1), "{linked:?}");
    assert_eq!(event["detail"]["session_id"], sid(0));
    assert_eq!(world.status(ada).await, "valid");

    world.sign_out(&mut other).await;
    let told = world.events("identity.logged_out").await;
    let last = told.last().unwrap();
    assert_eq!((told.len(), &last["identity_id"]), (2, &json!(grace)));
    assert_eq!(last["detail"]["session_id"], sid(1));
    let records = world.provider.records().await;
    assert_eq!(records["logouts"], json!({"taken": 2, "refused": 0}));
    world.replica.stop().await;
}

#[tokio::test]
async fn who_signs_out_is_found_by_the_session_alone_on_sqlite() {
    the_session_alone_is_enough(Kind::Sqlite).await;
}

#[tokio::test]
async fn who_signs_out_is_found_by_the_session_alone_on_postgresql() {
    the_session_alone_is_enough(Kind::Postgres).await;
}

#[tokio::test]
async fn a_grant_that_ended_with_the_session_is_found_out_with_nobody_asking() {
    let world = world(Kind::Sqlite, "told-of-logouts", true).await;
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
