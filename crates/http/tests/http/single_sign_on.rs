//! Single sign-on and what a user may disconnect, over the in-memory store. The names in brackets
//! are those of the cases in the reference's inventory.

use std::sync::Arc;

use serde_json::{Value, json};
use symbolon_domain::{
    api_key::{KeyLimits, KeyScope},
    event::Actor,
    identity_provider::{IdentityProvider, ProviderOptions},
    ids::{OrganizationId, ProviderId},
    ports::{
        Clock as _, Grant, IdentityProviderRepository as _, MockConnector, MockConnectors,
        NewIdentityProvider,
    },
    secret::Secret,
    services::ApiKeys,
    testing::{MemoryStore, RunningClock, fixtures},
};
use url::Url;

use crate::app::{Answer, App, Ports, request};

/// A store with the provider instances `github` and `google`, which users sign in with, `slack`,
/// which they don't, and `okta`, which organizations do.
struct World {
    app: App,
    store: Arc<MemoryStore>,
    admin: Secret,
    github: i64,
    google: i64,
    slack: i64,
    okta: i64,
}

/// Providers that vouch for `account-1`, whatever the code.
fn connectors() -> MockConnectors {
    let mut connectors = MockConnectors::new();
    connectors.expect_find_type().returning(|_| Some(fixtures::provider_type()));
    connectors.expect_types().returning(|| vec![fixtures::provider_type()]);
    connectors.expect_check().returning(|_, _, _| Ok(()));
    connectors.expect_connect().returning(|_: &IdentityProvider, _| {
        let mut connector = MockConnector::new();
        connector.expect_capabilities().return_const(fixtures::capabilities());
        connector.expect_new_dpop_key().return_const(None);
        connector.expect_authorize().returning(|request| {
            let mut url: Url = "https://op.example/authorize".parse().unwrap();
            url.query_pairs_mut().append_pair("state", request.state.expose());
            Ok(url)
        });
        connector.expect_check_issuer().returning(|_, _| Ok(()));
        connector.expect_exchange().returning(|_| {
            let credentials = symbolon_domain::credentials::Credentials {
                access_token: Some(Secret::new("canary-1")),
                obtained_at: Some(RunningClock.now()),
                ..fixtures::credentials()
            };
            Ok(Grant { credentials, ..fixtures::grant() })
        });
        connector.expect_build_identity().returning(|_| Ok(fixtures::account()));
        Ok(Arc::new(connector))
    });
    connectors
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let provider = async |name: &str, login: bool| {
            let new = NewIdentityProvider {
                provider_type: name.to_owned(),
                options: ProviderOptions { login, ..ProviderOptions::default() },
                ..fixtures::new_identity_provider()
            };
            let ProviderId(id) = store.insert(&new, &Actor::OPERATOR).await.unwrap().id;
            id
        };
        let github = provider("github", true).await;
        let google = provider("google", true).await;
        let slack = provider("slack", false).await;
        let okta = provider("okta", false).await;
        let admin = key(&store, KeyLimits::default()).await;
        let ports = Ports {
            keys: store.clone(),
            identities: store.clone(),
            providers: store.clone(),
            connectors: Arc::new(connectors()),
            credentials: store.clone(),
            sessions: store.clone(),
            events: store.clone(),
            auth_providers: store.clone(),
            auth_identities: store.clone(),
            organization_identities: store.clone(),
            clock: Arc::new(RunningClock),
            ..Ports::default()
        };
        Self { app: ports.app(), store, admin, github, google, slack, okta }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.call_with(&self.admin, method, path, body).await
    }

    async fn call_with(
        &self,
        key: &Secret,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        self.app.send(request(method.parse().unwrap(), path, key.expose(), body)).await
    }

    /// The body of a call that must succeed.
    async fn done(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let answer = self.call(method, path, body).await;
        assert!(answer.status.is_success(), "{method} {path}: {answer:?}");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// Links `user`'s account of this name.
    async fn link(&self, provider: i64, user: &str, account: &str) -> i64 {
        let body = json!({"provider_id": provider, "user_id": user, "external_id": account});
        self.done("POST", "/v1/identities", Some(body)).await["id"].as_i64().unwrap()
    }

    /// Gives an organization its single sign-on.
    async fn single_sign_on(&self, org: &str, allow_unlinked: bool) -> i64 {
        let path = format!("/v1/organizations/{org}/auth-providers");
        let body = json!({"provider_id": self.okta, "allow_unlinked": allow_unlinked});
        self.done("POST", &path, Some(body)).await["id"].as_i64().unwrap()
    }

    /// Links `user`'s account for an organization's single sign-on.
    async fn sso_link(&self, org: &str, user: &str, ident: &str) -> i64 {
        let path = format!("/v1/organizations/{org}/auth-identities");
        let body = json!({"user_id": user, "ident": ident});
        self.done("POST", &path, Some(body)).await["id"].as_i64().unwrap()
    }

    /// Category, id and status of each of a user's accounts.
    async fn statuses(&self, user: &str, query: &str) -> Vec<(String, i64, String)> {
        let list = self.done("GET", &format!("/v1/users/{user}/identities{query}"), None).await;
        let text = |it: &Value| it.as_str().unwrap().to_owned();
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|it| (text(&it["category"]), it["id"].as_i64().unwrap(), text(&it["status"])))
            .collect()
    }

    async fn disconnect(&self, user: &str, category: &str, id: i64, query: &str) -> Answer {
        let path = format!("/v1/users/{user}/identities/{category}/{id}{query}");
        self.call("DELETE", &path, None).await
    }
}

/// The secret of a key that may do everything within these limits.
async fn key(store: &Arc<MemoryStore>, limits: KeyLimits) -> Secret {
    let keys = ApiKeys { keys: store.clone() };
    let made = keys.create_limited("k", &[KeyScope::Admin], &limits, &Actor::OPERATOR).await;
    made.unwrap().1
}

fn is(category: &str, id: i64, status: &str) -> (String, i64, String) {
    (category.to_owned(), id, status.to_owned())
}

const GLOBAL: &str = "global-identity";
const ORG: &str = "org-identity";
const PASSWORD: &str = "?has_password=true";

/// [UA-01, UA-03, UA-04, UA-05]
#[tokio::test]
async fn a_users_accounts_are_listed_by_category_with_what_may_be_disconnected() {
    let world = World::new().await;
    let sso = world.single_sign_on("org", false).await;
    let okta = world.sso_link("org", "u", "okta-1").await;
    let slack = world.link(world.slack, "u", "slack-1").await;
    let github = world.link(world.github, "u", "github-1").await;
    world.link(world.github, "v", "another's").await;

    let list = world.done("GET", "/v1/users/u/identities?has_password=true", None).await;
    let items = list["items"].as_array().unwrap();
    assert_eq!((items.len(), &list["next_cursor"]), (3, &Value::Null), "{list}");
    let told = |it: &Value| {
        let name = it["name"].as_str().unwrap().to_owned();
        (it["provider"]["type"].as_str().unwrap().to_owned(), name, it["is_login"] == true)
    };
    let told: Vec<_> = items.iter().map(told).collect();
    let expected =
        [("slack", "slack-1", false), ("github", "github-1", true), ("okta", "okta-1", true)];
    let expected = expected.map(|(kind, name, login)| (kind.to_owned(), name.to_owned(), login));
    assert_eq!(told, expected);
    assert_eq!(items[0]["organization_id"], Value::Null);
    assert_eq!(items[2]["organization_id"], "org");
    assert!(items[2]["date_synced"].is_string() && items[0]["date_synced"].is_null(), "{list}");
    assert!(items.iter().all(|it| it.get("data").is_none()), "{list}");
    let expected = [
        is(GLOBAL, slack, "can_disconnect"),
        is(GLOBAL, github, "can_disconnect"),
        is(ORG, okta, "needed_for_org_auth"),
    ];
    assert_eq!(world.statuses("u", PASSWORD).await, expected);
    assert_ne!(sso, 0);

    // In parts, over the edge between the categories.
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/users/u/identities?has_password=true&limit=1{cursor}");
        let part = world.done("GET", &path, None).await;
        seen.extend(part["items"].as_array().unwrap().clone());
        let Some(next) = part["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, *items);
}

/// [UA-06]
#[tokio::test]
async fn an_identity_is_needed_while_it_is_the_last_to_sign_in_with() {
    let world = World::new().await;
    let github = world.link(world.github, "u", "a").await;
    assert_eq!(world.statuses("u", "").await, [is(GLOBAL, github, "needed_for_global_auth")]);
    let slack = world.link(world.slack, "u", "a").await;
    let expected =
        [is(GLOBAL, github, "needed_for_global_auth"), is(GLOBAL, slack, "can_disconnect")];
    assert_eq!(world.statuses("u", "").await, expected);
    let google = world.link(world.google, "u", "a").await;
    let all = world.statuses("u", "").await;
    assert!(all.iter().all(|(_, _, status)| status == "can_disconnect"), "{all:?}");
    assert_eq!(world.disconnect("u", GLOBAL, github, "").await.status, 204);
    let expected =
        [is(GLOBAL, slack, "can_disconnect"), is(GLOBAL, google, "needed_for_global_auth")];
    assert_eq!(world.statuses("u", "").await, expected);
}

/// [UA-07, UA-08, UA-09]
#[tokio::test]
async fn what_the_organization_asks_for_comes_first() {
    let world = World::new().await;
    world.single_sign_on("lax", true).await;
    world.single_sign_on("strict", false).await;
    let lax = world.sso_link("lax", "u", "a").await;
    let strict = world.sso_link("strict", "u", "a").await;
    let expected = [is(ORG, lax, "can_disconnect"), is(ORG, strict, "needed_for_org_auth")];
    assert_eq!(world.statuses("u", PASSWORD).await, expected);
    let expected = [is(ORG, lax, "needed_for_global_auth"), is(ORG, strict, "needed_for_org_auth")];
    assert_eq!(world.statuses("u", "").await, expected);
}

/// [UA-10, UA-11, UA-12, UA-13]
#[tokio::test]
async fn one_account_is_read_by_its_own_user_alone() {
    let world = World::new().await;
    world.single_sign_on("org", false).await;
    let okta = world.sso_link("org", "u", "a").await;
    let github = world.link(world.github, "u", "a").await;
    for (category, id, status) in
        [(GLOBAL, github, "can_disconnect"), (ORG, okta, "needed_for_org_auth")]
    {
        let path = format!("identities/{category}/{id}?has_password=true");
        let own = world.done("GET", &format!("/v1/users/u/{path}"), None).await;
        assert_eq!((&own["id"], &own["status"]), (&json!(id), &json!(status)), "{own}");
        let other = world.call("GET", &format!("/v1/users/v/{path}"), None).await;
        other.problem(404, "not_found");
    }
    world.call("GET", "/v1/users/u/identities/social-identity/1", None).await.refuses("category");
}

/// [UA-02, UA-14, UA-15, UA-16]
#[tokio::test]
async fn what_nobody_needs_is_disconnected() {
    let world = World::new().await;
    world.single_sign_on("org", true).await;
    let okta = world.sso_link("org", "u", "a").await;
    let github = world.link(world.github, "u", "a").await;
    let google = world.link(world.google, "u", "a").await;
    let slack = world.link(world.slack, "u", "a").await;
    for (category, id) in [(ORG, okta), (GLOBAL, github), (GLOBAL, slack)] {
        assert_eq!(world.disconnect("u", category, id, "").await.status, 204);
        world.disconnect("u", category, id, "").await.problem(404, "not_found");
    }
    assert_eq!(world.disconnect("u", GLOBAL, google, PASSWORD).await.status, 204);
    assert_eq!(world.statuses("u", "").await, []);
}

/// [UA-17, UA-18, UA-19, UA-20]
#[tokio::test]
async fn what_is_needed_or_anothers_stays() {
    let world = World::new().await;
    world.single_sign_on("lax", true).await;
    world.single_sign_on("strict", false).await;
    let lax = world.sso_link("lax", "u", "a").await;
    let strict = world.sso_link("strict", "u", "a").await;
    for (id, query, code) in [
        (strict, "", "needed_for_org_auth"),
        (strict, PASSWORD, "needed_for_org_auth"),
        (lax, "", "needed_for_global_auth"),
    ] {
        world.disconnect("u", ORG, id, query).await.problem(409, code);
    }
    let github = world.link(world.github, "u", "a").await;
    world.disconnect("u", GLOBAL, github, "").await.problem(409, "needed_for_global_auth");
    for (category, id) in [(ORG, lax), (ORG, strict), (GLOBAL, github)] {
        world.disconnect("v", category, id, PASSWORD).await.problem(404, "not_found");
    }
    assert_eq!(world.statuses("u", "").await.len(), 3);
}

#[tokio::test]
async fn unlinking_an_identity_takes_the_last_way_in_only_by_force() {
    let world = World::new().await;
    let id = world.link(world.github, "u", "a").await;
    let slack = world.link(world.slack, "u", "a").await;
    let path = format!("/v1/identities/{id}");
    world.call("DELETE", &path, None).await.problem(409, "needed_for_global_auth");
    let path = format!("/v1/identities/{slack}");
    assert_eq!(world.call("DELETE", &path, None).await.status, 204);
    let path = format!("/v1/identities/{id}?has_password=true");
    assert_eq!(world.call("DELETE", &path, None).await.status, 204);
    let id = world.link(world.github, "u", "a").await;
    let path = format!("/v1/identities/{id}?force=true");
    assert_eq!(world.call("DELETE", &path, None).await.status, 204);
}

#[tokio::test]
async fn an_organizations_single_sign_on_is_made_changed_and_deleted() {
    let world = World::new().await;
    let list = "/v1/organizations/org/auth-providers";
    let body = json!({"provider_id": world.okta, "config": {"domain": "org.example"}});
    let made = world.call("POST", list, Some(body.clone())).await;
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, "\"1\""), "{made:?}");
    let made = made.json();
    assert_eq!(
        (&made["allow_unlinked"], &made["default_global_access"]),
        (&json!(false), &json!(true))
    );
    world.call("POST", list, Some(body)).await.problem(409, "already_exists");
    let absent = json!({"provider_id": 4_711});
    world
        .call("POST", "/v1/organizations/p/auth-providers", Some(absent))
        .await
        .refuses("provider_id");
    assert_eq!(world.done("GET", list, None).await["items"], json!([made]));

    let one = format!("{list}/{}", made["id"]);
    assert_eq!(world.done("GET", &one, None).await, made);
    let foreign = format!("/v1/organizations/other/auth-providers/{}", made["id"]);
    for method in ["GET", "DELETE"] {
        world.call(method, &foreign, None).await.problem(404, "not_found");
    }
    let change = json!({"allow_unlinked": true, "default_role": 7});
    let changed = world.done("PATCH", &one, Some(change)).await;
    assert_eq!(changed["allow_unlinked"], true);
    assert_eq!(changed["config"], json!({"domain": "org.example"}));
    let changed = world.done("PATCH", &one, Some(json!({"default_role": null}))).await;
    assert_eq!((&changed["default_role"], &changed["version"]), (&Value::Null, &json!(3)));

    world.sso_link("org", "u", "a").await;
    world.done("DELETE", &one, None).await;
    world.call("GET", &one, None).await.problem(404, "not_found");
    assert_eq!(world.statuses("u", "").await, []);
    let path = "/v1/organizations/org/auth-identities";
    let body = json!({"user_id": "u", "ident": "a"});
    world.call("POST", path, Some(body)).await.problem(404, "not_found");
}

#[tokio::test]
async fn accounts_for_single_sign_on_are_linked_changed_and_deleted() {
    let world = World::new().await;
    world.single_sign_on("org", false).await;
    let list = "/v1/organizations/org/auth-identities";
    let body =
        json!({"user_id": 42, "ident": "a", "data": {"team": "T1", "access_token": "canary"}});
    let made = world.call("POST", list, Some(body.clone())).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert!(!made.body.contains("canary"), "{made:?}");
    assert_eq!(world.call("POST", list, Some(body)).await.status, 200);
    let taken = json!({"user_id": "v", "ident": "a"});
    world.call("POST", list, Some(taken.clone())).await.problem(409, "identity_already_linked");
    world.sso_link("org", "v", "b").await;

    let one = format!("{list}/{}", made.json()["id"]);
    let changed =
        world.done("PATCH", &one, Some(json!({"data": {"team": "T2"}, "synced": true}))).await;
    assert_eq!((&changed["data"], &changed["ident"]), (&json!({"team": "T2"}), &json!("a")));
    let credential = json!({"data": {"access_token": "canary"}});
    world.call("PATCH", &one, Some(credential)).await.refuses("data");
    let taken = json!({"ident": "b"});
    world.call("PATCH", &one, Some(taken)).await.problem(409, "identity_already_linked");
    let foreign = one.replace("/org/", "/other/");
    world.call("PATCH", &foreign, Some(json!({"ident": "c"}))).await.problem(404, "not_found");

    let of_user = world.done("GET", &format!("{list}?user_id=42"), None).await;
    assert_eq!(of_user["items"].as_array().unwrap().len(), 1);
    assert!(!of_user.to_string().contains("canary"));
    let gone = "/v1/organizations/org/users/42/auth-identities";
    assert_eq!(world.done("DELETE", gone, None).await, json!({"deleted": 1}));
    assert_eq!(world.done("DELETE", gone, None).await, json!({"deleted": 0}));
    assert_eq!(world.done("GET", list, None).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_organization_uses_the_identities_that_it_was_given() {
    let world = World::new().await;
    let slack = world.link(world.slack, "u", "a").await;
    let github = world.link(world.github, "u", "a").await;
    let others = world.link(world.slack, "v", "b").await;
    for id in [slack, github, others] {
        let path = format!("/v1/organizations/org/identities/{id}");
        assert_eq!(world.call("PUT", &path, None).await.status, 201);
        assert_eq!(world.call("PUT", &path, None).await.status, 200);
    }
    let ids = async |path: &str| {
        let list = world.done("GET", path, None).await;
        let items = list["items"].as_array().unwrap().clone();
        items.iter().map(|it| it["id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let of_user = "/v1/organizations/org/users/u/identities";
    assert_eq!(ids(of_user).await, [slack, github]);
    assert_eq!(ids(&format!("{of_user}?provider_type=slack")).await, [slack]);
    assert_eq!(ids("/v1/organizations/other/users/u/identities").await, [0; 0]);
    let all = world.done("GET", "/v1/organizations/org/identities", None).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 3);

    let path = format!("/v1/organizations/org/identities/{slack}");
    assert_eq!(world.call("DELETE", &path, None).await.status, 204);
    world.call("DELETE", &path, None).await.problem(404, "not_found");
    world
        .call("PUT", "/v1/organizations/org/identities/4711", None)
        .await
        .problem(404, "not_found");
    assert_eq!(ids(of_user).await, [github]);
}

/// A browser's way to the provider and back: the session's path, and the code it brought.
async fn trip(world: &World, body: Value) -> (String, String) {
    let started = world.done("POST", "/v1/link-sessions", Some(body)).await;
    let url: Url = started["url"].as_str().unwrap().parse().unwrap();
    let sent = world.app.browse(url.path(), None).await;
    assert_eq!(sent.status, 303, "{sent:?}");
    let cookie = sent.header("set-cookie").split_once(';').unwrap().0.to_owned();
    let parameter = |url: &str, name: &str| {
        let url: Url = url.parse().unwrap();
        let value = url.query_pairs().find(|(key, _)| key == name).map(|(_, it)| it.into_owned());
        value.unwrap_or_default()
    };
    let state = parameter(sent.header("location"), "state");
    let session = started["id"].as_i64().unwrap();
    let provider = world.okta;
    let callback = format!("/callback/{provider}?state={state}&code=c");
    let back = world.app.browse(&callback, Some(&cookie)).await;
    assert_eq!(back.status, 303, "{back:?}");
    let code = parameter(back.header("location"), "completion_code");
    (format!("/v1/link-sessions/{session}"), code)
}

fn session(purpose: &str) -> Value {
    json!({
        "purpose": purpose, "organization_id": "org",
        "return_url": "https://product.example/linked",
    })
}

#[tokio::test]
async fn a_sign_in_to_an_organization_finds_its_own_links() {
    let world = World::new().await;
    let none = world.call("POST", "/v1/link-sessions", Some(session("sign_in"))).await;
    none.refuses("organization_id");
    let sso = world.single_sign_on("org", false).await;
    let mut elsewhere = session("sign_in");
    elsewhere["provider_id"] = json!(world.github);
    world.call("POST", "/v1/link-sessions", Some(elsewhere)).await.refuses("provider_id");
    // A link of the same account to another user is not the organization's.
    world.link(world.okta, "v", "account-1").await;

    let (path, code) = trip(&world, session("sign_in")).await;
    let complete = format!("{path}/complete");
    let body = json!({"completion_code": code});
    let answer = world.done("POST", &complete, Some(body.clone())).await;
    assert_eq!((&answer["status"], answer.get("user_id")), (&json!("unlinked"), None), "{answer}");
    let with_user = json!({"completion_code": code, "user_id": "u"});
    let answer = world.done("POST", &complete, Some(with_user)).await;
    assert_eq!(
        (&answer["status"], &answer["user_id"]),
        (&json!("linked"), &json!("u")),
        "{answer}"
    );
    assert_eq!(answer.get("identity_id"), None);
    world.call("POST", &complete, Some(body)).await.refuses("completion_code");
    assert_eq!(world.done("GET", &path, None).await["status"], "linked");

    let (path, code) = trip(&world, session("sign_in")).await;
    let body = json!({"completion_code": code});
    let answer = world.done("POST", &format!("{path}/complete"), Some(body)).await;
    assert_eq!(
        (&answer["status"], &answer["user_id"]),
        (&json!("signed_in"), &json!("u")),
        "{answer}"
    );
    let list = world.done("GET", "/v1/organizations/org/auth-identities", None).await;
    assert_eq!(list["items"][0]["ident"], "account-1");
    assert_eq!(list["items"][0]["version"], 2);
    assert!(!list.to_string().contains("canary"), "{list}");

    // What the provider vouched for means nothing once the organization signs in elsewhere.
    let (path, code) = trip(&world, session("sign_in")).await;
    world.done("DELETE", &format!("/v1/organizations/org/auth-providers/{sso}"), None).await;
    let body = json!({"provider_id": world.google});
    world.done("POST", "/v1/organizations/org/auth-providers", Some(body)).await;
    let body = json!({"completion_code": code, "user_id": "u"});
    world.call("POST", &format!("{path}/complete"), Some(body)).await.refuses("completion_code");
}

#[tokio::test]
async fn what_is_linked_for_an_organization_is_used_by_it() {
    let world = World::new().await;
    let mut body = session("link");
    body["provider_id"] = json!(world.okta);
    let (path, code) = trip(&world, body).await;
    let body = json!({"completion_code": code, "user_id": "u"});
    let answer = world.done("POST", &format!("{path}/complete"), Some(body)).await;
    let used = world.done("GET", "/v1/organizations/org/users/u/identities", None).await;
    assert_eq!(used["items"][0]["id"], answer["identity_id"], "{used}");
}

#[tokio::test]
async fn a_limited_key_is_forbidden_other_organizations() {
    let world = World::new().await;
    world.single_sign_on("org", true).await;
    world.single_sign_on("other", true).await;
    world.sso_link("org", "u", "a").await;
    let others = world.sso_link("other", "u", "a").await;
    let organizations = Some(vec![fixtures::organization("org")]);
    let limited = key(&world.store, KeyLimits { organizations, ..KeyLimits::default() }).await;
    let call = async |method: &str, path: &str| world.call_with(&limited, method, path, None).await;
    for (method, path) in [
        ("GET", "auth-providers"),
        ("GET", "auth-providers/1"),
        ("DELETE", "auth-providers/1"),
        ("GET", "auth-identities"),
        ("DELETE", "users/u/auth-identities"),
        ("GET", "users/u/identities"),
        ("GET", "identities"),
        ("PUT", "identities/1"),
        ("DELETE", "identities/1"),
    ] {
        let path = format!("/v1/organizations/other/{path}");
        call(method, &path).await.problem(403, "forbidden");
    }
    assert_eq!(call("GET", "/v1/organizations/org/auth-identities").await.status, 200);
    let list = call("GET", "/v1/users/u/identities").await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let path = format!("/v1/users/u/identities/org-identity/{others}?has_password=true");
    call("DELETE", &path).await.problem(403, "forbidden");
    let mut body = session("sign_in");
    body["organization_id"] = json!("other");
    let answer = world.call_with(&limited, "POST", "/v1/link-sessions", Some(body)).await;
    answer.problem(403, "forbidden");
}

#[tokio::test]
async fn what_concerns_everybody_is_forbidden_to_a_limited_key() {
    let world = World::new().await;
    let github = world.link(world.github, "u", "a").await;
    let organizations = Some(vec![OrganizationId::new("org").unwrap()]);
    let provider_types = Some(vec!["github".to_owned()]);
    for limits in [
        KeyLimits { organizations, ..KeyLimits::default() },
        KeyLimits { provider_types, ..KeyLimits::default() },
    ] {
        let limited = key(&world.store, limits).await;
        let to = Some(json!({"to_user_id": "v"}));
        for (method, path, body) in [
            ("GET", "/v1/events".to_owned(), None),
            ("GET", format!("/v1/identities/{github}/explain"), None),
            ("POST", format!("/v1/identities/{github}/transfer"), to.clone()),
            ("POST", "/v1/users/u/transfer".into(), to),
            ("GET", "/v1/transfers".into(), None),
            ("POST", "/v1/webhooks".into(), Some(json!({"url": "https://receiver.example/"}))),
            ("GET", "/v1/webhooks".into(), None),
        ] {
            let answer = world.call_with(&limited, method, &path, body).await;
            answer.problem(403, "forbidden");
        }
    }
}

#[tokio::test]
async fn what_is_of_another_provider_type_is_not_there_for_a_limited_key() {
    let world = World::new().await;
    let slack = world.link(world.slack, "u", "a").await;
    let github = world.link(world.github, "u", "a").await;
    let sso = world.single_sign_on("org", true).await;
    let okta = world.sso_link("org", "u", "a").await;
    for id in [slack, github] {
        world.done("PUT", &format!("/v1/organizations/org/identities/{id}"), None).await;
    }
    let provider_types = Some(vec!["slack".to_owned()]);
    let limited = key(&world.store, KeyLimits { provider_types, ..KeyLimits::default() }).await;
    let call = async |method: &str, path: &str, body: Option<Value>| {
        world.call_with(&limited, method, path, body).await
    };
    let (provider, empty) = (world.github, Some(json!({})));
    for (method, path, body) in [
        ("GET", format!("/v1/providers/{provider}"), None),
        ("PATCH", format!("/v1/providers/{provider}"), Some(json!({"config": {}}))),
        ("DELETE", format!("/v1/providers/{provider}?cascade=true"), None),
        ("GET", format!("/v1/identities/{github}"), None),
        ("PUT", format!("/v1/identities/{github}/data"), empty.clone()),
        ("DELETE", format!("/v1/identities/{github}?force=true"), None),
        ("POST", format!("/v1/identities/{github}/token"), None),
        ("POST", format!("/v1/identities/{github}/refresh"), None),
        ("POST", "/v1/token".into(), Some(json!({"user_id": "u", "provider_id": provider}))),
        ("POST", "/v1/token".into(), Some(json!({"user_id": "u", "provider_type": "github"}))),
        ("DELETE", format!("/v1/users/u/identities/global-identity/{github}"), None),
        ("DELETE", format!("/v1/users/u/identities/org-identity/{okta}"), None),
        ("GET", format!("/v1/organizations/org/auth-providers/{sso}"), None),
        ("PATCH", format!("/v1/organizations/org/auth-providers/{sso}"), empty.clone()),
        ("DELETE", format!("/v1/organizations/org/auth-providers/{sso}"), None),
        ("GET", "/v1/organizations/org/auth-identities".into(), None),
        ("PATCH", format!("/v1/organizations/org/auth-identities/{okta}"), empty),
        ("DELETE", "/v1/organizations/org/users/u/auth-identities".into(), None),
        ("PUT", format!("/v1/organizations/org/identities/{github}"), None),
        ("DELETE", format!("/v1/organizations/org/identities/{github}"), None),
    ] {
        call(method, &path, body).await.problem(404, "not_found");
    }
    for path in [
        "/v1/providers",
        "/v1/identities?user_id=u",
        "/v1/users/u/identities",
        "/v1/organizations/org/users/u/identities",
        "/v1/organizations/org/identities",
    ] {
        let list = call("GET", path, None).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{path}: {list}");
    }
    let list = call("GET", "/v1/organizations/org/auth-providers", None).await.json();
    assert_eq!(list["items"], json!([]));
    let body = json!({"type": "github", "external_id": "2", "config": {}});
    call("POST", "/v1/providers", Some(body)).await.refuses("type");
    let body = json!({"provider_id": provider, "user_id": "v", "external_id": "v"});
    call("POST", "/v1/identities", Some(body)).await.refuses("provider_id");
    for provider in [Value::Null, json!(provider)] {
        let mut body = session("link");
        if !provider.is_null() {
            body["provider_id"] = provider;
        }
        call("POST", "/v1/link-sessions", Some(body)).await.refuses("provider_id");
    }
    assert_eq!(call("GET", &format!("/v1/identities/{slack}"), None).await.status, 200);
}

#[tokio::test]
async fn a_limited_key_that_follows_the_cursor_gets_all_it_sees_and_no_short_part() {
    let world = World::new().await;
    let mut seen = Vec::new();
    // What it sees lies between what it does not see.
    for number in 0..10 {
        let provider_type = if number % 3 == 1 { "slack" } else { "github" };
        let new = NewIdentityProvider {
            provider_type: provider_type.to_owned(),
            external_id: Some(format!("more-{number}")),
            ..fixtures::new_identity_provider()
        };
        let ProviderId(provider) = world.store.insert(&new, &Actor::OPERATOR).await.unwrap().id;
        let identity = world.link(provider, "u", &format!("a-{number}")).await;
        world.done("PUT", &format!("/v1/organizations/org/identities/{identity}"), None).await;
        if provider_type == "slack" {
            seen.push((provider, identity));
        }
    }
    world.single_sign_on("org", true).await;
    world.sso_link("org", "u", "a").await;
    let provider_types = Some(vec!["slack".to_owned()]);
    let limited = key(&world.store, KeyLimits { provider_types, ..KeyLimits::default() }).await;
    // The instance that the world has from the start, too.
    let mut providers = vec![world.slack];
    providers.extend(seen.iter().map(|it| it.0));
    let identities: Vec<_> = seen.iter().map(|it| it.1).collect();
    for (path, name, expected) in [
        ("/v1/providers?limit=2", "id", &providers),
        ("/v1/identities?user_id=u&limit=2", "id", &identities),
        ("/v1/users/u/identities?limit=2", "id", &identities),
        ("/v1/organizations/org/users/u/identities?limit=2", "id", &identities),
        ("/v1/organizations/org/identities?limit=2", "identity_id", &identities),
        ("/v1/organizations/org/auth-providers?limit=2", "id", &Vec::new()),
    ] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let part = world.call_with(&limited, "GET", &format!("{path}{cursor}"), None).await;
            let part = part.json();
            let items = part["items"].as_array().unwrap();
            found.extend(items.iter().map(|it| it[name].as_i64().unwrap()));
            let Some(next) = part["next_cursor"].as_str() else { break };
            assert_eq!(items.len(), 2, "{path}: a part is short: {part}");
            cursor = format!("&cursor={next}");
        }
        assert_eq!(found, *expected, "{path}");
    }
}
