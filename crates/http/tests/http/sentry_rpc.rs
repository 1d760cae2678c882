//! Sentry's RPC: who may call, what is answered to what does not fit, and every method over the
//! in-memory store.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use symbolon_domain::{
    auth_identity::AuthIdentity,
    event::{Actor, EventKind},
    freeze::FreezeSubject,
    ids::{IdentityId, ProviderId},
    page::{Page, PageRequest},
    ports::{
        AuthIdentityFilter, AuthIdentityRepository, AuthProviderRepository, CredentialsRepository,
        EventFilter, EventLog, IdentityProviderRepository, IdentityRepository, Link, LinkOutcome,
        MockIdentityRepository, NewAuthProvider, NewIdentityProvider,
        OrganizationIdentityRepository, RepositoryError, SsoSignIn, StoredCredentials,
        VendingRepository,
    },
    testing::{MemoryStore, RunningClock, fixtures},
};

use crate::app::{Answer, App, Mocks, Ports, request};

const SECRET: &str = "the first of the shared secrets, long enough";
const NEXT: &str = "the second of them, while they are changed";

/// Where a method is.
fn path(method: &str) -> String {
    format!("/api/0/internal/rpc/identity/{method}/")
}

/// The header that signs this path and body.
fn signed(secret: &str, path: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{path}:{body}").as_bytes());
    format!("Rpcsignature rpc0:{}", hex::encode(mac.finalize().into_bytes()))
}

/// A `POST` with exactly this header and body.
async fn send(app: &App, path: &str, authorization: Option<&str>, body: &str) -> Answer {
    let mut request = Request::post(path).header("content-type", "application/json; charset=utf-8");
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    app.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

/// A signed call.
async fn call(app: &App, method: &str, body: &Value) -> Answer {
    let (path, body) = (path(method), body.to_string());
    send(app, &path, Some(&signed(SECRET, &path, &body)), &body).await
}

/// The value of a good call.
async fn value(app: &App, method: &str, args: Value) -> Value {
    let answer = call(app, method, &json!({"args": args, "meta": {}})).await;
    assert_eq!(answer.status, 200, "{method}: {answer:?}");
    let mut answer = answer.json();
    assert_eq!(answer["meta"], json!({}));
    answer["value"].take()
}

/// An app that must ask no port.
fn app() -> App {
    Ports { sentry_rpc: Some((&[SECRET, NEXT], false)), ..Ports::default() }.app()
}

#[tokio::test]
async fn without_a_secret_there_is_no_such_path_and_the_document_tells_of_none() {
    let app = Mocks::default().app();
    let path = path("get_identity");
    let answer = send(&app, &path, Some(&signed("", &path, "{}")), "{}").await;
    answer.problem(404, "not_found");
    let document = app.browse("/openapi.json", None).await;
    assert!(!document.body.contains("/api/0/"), "the document tells of a path that is not served");
}

#[tokio::test]
async fn where_it_is_on_the_document_tells_of_it_and_asks_for_no_api_key() {
    let document = app().browse("/openapi.json", None).await.json();
    let call = &document["paths"]["/api/0/internal/rpc/identity/{method}/"]["post"];
    assert!(call["responses"]["401"].is_object(), "{call}");
    assert!(call["security"].is_null(), "{call}");
}

#[tokio::test]
async fn a_call_that_is_not_signed_is_forbidden_before_its_body_is_read() {
    let app = app();
    let path = path("get_provider");
    let no_json = "x".repeat(2 * 1024 * 1024);
    for header in [None, Some(""), Some("Rpcsignature"), Some("Bearer rpc0:00")] {
        send(&app, &path, header, &no_json).await.problem(403, "forbidden");
    }
    // Our own keys open nothing here.
    app.post(&path, json!({"args": {}})).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_wrong_signature_is_unauthenticated_whatever_is_wrong_with_it() {
    let app = app();
    let (path, other) = (path("get_provider"), path("get_identity"));
    let body = r#"{"args":{"provider_id":1}}"#;
    let good = signed(SECRET, &path, body);
    for (what, header, body) in [
        ("no signature", "Rpcsignature trash".to_owned(), body),
        ("another version", good.replace("rpc0", "rpc1"), body),
        ("another secret", signed("another", &path, body), body),
        ("another path", signed(SECRET, &other, body), body),
        ("another body", good.clone(), r#"{"args":{"provider_id":2}}"#),
        ("no body", good.clone(), ""),
        ("a digit less", good[..good.len() - 1].to_owned(), body),
        ("a word more", format!("{good} x"), body),
    ] {
        let answer = send(&app, &path, Some(&header), body).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), "Rpcsignature", "{what}");
    }
    let get = request(Method::GET, &path, "sym_admin", None);
    assert_eq!(app.send(get).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn each_of_the_shared_secrets_is_good() {
    let mut mocks = Mocks::default();
    mocks.providers.expect_find().times(2).returning(|_| Ok(None));
    let ports = Ports {
        providers: Arc::new(mocks.providers),
        sentry_rpc: Some((&[SECRET, NEXT], false)),
        ..Ports::default()
    };
    let app = ports.app();
    let (path, body) = (path("get_provider"), r#"{"args":{"provider_id":1}}"#);
    for secret in [SECRET, NEXT] {
        let header = signed(secret, &path, body).replace("Rpcsignature", "rpcsignature");
        let answer = send(&app, &path, Some(&header), body).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, r#"{"meta":{},"value":null}"#));
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn a_signed_call_that_does_not_fit_is_refused_with_the_name_of_what_does_not() {
    let app = app();
    let filter = |filter: Value| json!({"args": {"filter": filter}});
    let user = |rest: Value| {
        let mut args = json!({"user_id": 1, "provider_type": "t"});
        args.as_object_mut().unwrap().extend(fixtures::object(rest));
        json!({"args": args})
    };
    let by_user = "get_user_identities_by_provider_type";
    let by_organization = "get_org_user_identities_by_provider_type";
    let cases = [
        ("get_provider", json!({}), "args"),
        ("get_provider", json!({"meta": {}}), "args"),
        ("get_provider", json!({"args": []}), "args"),
        ("get_provider", json!({"args": [1]}), "args"),
        ("get_provider", json!({"args": null}), "args"),
        ("get_provider", json!({"args": {"provider_id": "x"}}), "args.provider_id"),
        ("get_provider", json!({"args": {"provider_id": 1.5}}), "args.provider_id"),
        ("get_provider", json!({"args": {"provider_id": u64::MAX}}), "args.provider_id"),
        ("get_provider", json!({"args": {"provider_type": 1}}), "args.provider_type"),
        ("get_identities", json!({"args": {}}), "args.filter"),
        ("get_identities", filter(Value::Null), "args.filter"),
        ("get_identities", filter(json!([1])), "args.filter"),
        ("get_identities", filter(json!({"id": {}})), "args.filter.id"),
        ("get_identities", filter(json!({"user_id": 1.5})), "args.filter.user_id"),
        ("get_identities", filter(json!({"identity_ext_id": 1})), "args.filter.identity_ext_id"),
        (
            "get_identities",
            filter(json!({"identity_ext_ids": null})),
            "args.filter.identity_ext_ids",
        ),
        (
            "get_identities",
            filter(json!({"identity_ext_ids": vec!["x"; 10_001]})),
            "args.filter.identity_ext_ids",
        ),
        ("get_identity", filter(json!({"provider_type": ["canary"]})), "args.filter.provider_type"),
        (by_user, json!({"args": {"user_id": 1}}), "args.provider_type"),
        (by_user, user(json!({"user_id": null})), "args.user_id"),
        (
            by_user,
            user(json!({"exclude_matching_external_ids": "canary"})),
            "args.exclude_matching_external_ids",
        ),
        (
            by_organization,
            json!({"args": {"user_id": 1, "provider_type": "t"}}),
            "args.organization_id",
        ),
        (
            by_organization,
            json!({"args": {"organization_id": 1, "user_id": 1}}),
            "args.provider_type",
        ),
        ("delete_identities", json!({"args": {"user_id": 1}}), "args.organization_id"),
        ("delete_identities", json!({"args": {"organization_id": 1}}), "args.user_id"),
        ("delete_identities", json!({"args": [1, 1]}), "args"),
        ("update_data", json!({"args": {"data": {}}}), "args.identity_id"),
        ("update_data", json!({"args": {"identity_id": 1}}), "args.data"),
        ("update_data", json!({"args": {"identity_id": 1, "data": "canary"}}), "args.data"),
        ("update_data", json!({"args": {"identity_id": 1, "data": null}}), "args.data"),
    ];
    for (method, body, field) in cases {
        let answer = call(&app, method, &body).await;
        answer.refuses(field);
        assert!(!answer.body.contains("canary"), "{answer:?}");
    }
    for method in ["get_identities", "get_identity"] {
        for none in [json!({}), json!({"status": 1}), json!({"unknown": null})] {
            call(&app, method, &filter(none)).await.problem(400, "filter_required");
        }
    }
}

#[tokio::test]
async fn what_is_no_call_at_all_is_refused_in_sentrys_order() {
    let app = app();
    let path = path("not_a_method");
    let send_signed =
        async |body: &str| send(&app, &path, Some(&signed(SECRET, &path, body)), body).await;
    for body in ["", "[]", "no json", r#"{"args":{"x":"\u0000"}}"#] {
        send_signed(body).await.refuses("body");
    }
    send_signed("{}").await.refuses("args");
    let detail = send_signed(r#"{"args":{}}"#).await.problem(404, "not_found");
    assert_eq!(detail, "there is no such method");
    // What Sentry keeps beside its identity service is no method of it: `/v1` refreshes.
    for neighbour in [
        "refresh_identity",
        "refresh_monitoring_provider_token",
        "get_monitoring_provider_connections",
    ] {
        let args = json!({"args": {"identity_id": 1}});
        call(&app, neighbour, &args).await.problem(404, "not_found");
    }
    let large = format!(r#"{{"args":{{"x":"{}"}}}}"#, "x".repeat(1024 * 1024));
    send_signed(&large).await.problem(413, "payload_too_large");

    let body = r#"{"args":{}}"#;
    let request = Request::post(&path)
        .header("content-type", "text/plain")
        .header("authorization", signed(SECRET, &path, body))
        .body(Body::from(body));
    app.send(request.unwrap()).await.problem(415, "unsupported_media_type");
    let service = "/api/0/internal/rpc/user/get_many/";
    send(&app, service, Some(&signed(SECRET, service, body)), body).await.problem(404, "not_found");
}

/// Providers `slack`/`T1` (1), `slack`/`T2` (2) and `gcp` without an external id (3); user 7 has
/// `a` at the first, `T2` at the second and `a` at the third, user `ada` has `b` at the first.
struct World {
    store: Arc<MemoryStore>,
    providers: Vec<i64>,
    identities: Vec<i64>,
    app: App,
}

impl World {
    async fn new(include_credentials: bool) -> Self {
        let store = Arc::new(MemoryStore::default());
        let (mut providers, mut identities) = (Vec::new(), Vec::new());
        for (provider_type, external_id) in
            [("slack", Some("T1")), ("slack", Some("T2")), ("gcp", None)]
        {
            let new = NewIdentityProvider {
                provider_type: provider_type.into(),
                external_id: external_id.map(Into::into),
                ..fixtures::new_identity_provider()
            };
            let provider = IdentityProviderRepository::insert(&*store, &new, &Actor::OPERATOR);
            providers.push(provider.await.unwrap().id.0);
        }
        for (provider, user, account) in
            [(1, "7", "a"), (2, "7", "T2"), (3, "7", "a"), (1, "ada", "b")]
        {
            let link = Link {
                provider_id: ProviderId(providers[provider - 1]),
                owner: fixtures::owner(user),
                external_id: fixtures::external_id(account),
                ..fixtures::link()
            };
            let linked = IdentityRepository::link(&*store, &link).await.unwrap();
            let LinkOutcome::Created(linked) = linked else { panic!("{linked:?}") };
            identities.push(linked.id.0);
        }
        let ports = Ports {
            identities: store.clone(),
            auth_identities: store.clone(),
            providers: store.clone(),
            credentials: store.clone(),
            events: store.clone(),
            clock: Arc::new(RunningClock),
            vending: Some(store.clone()),
            ledger: store.clone(),
            sentry_rpc: Some((&[SECRET], include_credentials)),
            ..Ports::default()
        };
        Self { app: ports.app(), store, providers, identities }
    }

    async fn value(&self, method: &str, args: Value) -> Value {
        value(&self.app, method, args).await
    }

    /// The id of a provider, counted from 1.
    fn p(&self, number: usize) -> i64 {
        self.providers[number - 1]
    }

    /// The id of an identity, counted from 1.
    fn i(&self, number: usize) -> i64 {
        self.identities[number - 1]
    }

    /// Which identities these are, counted from 1.
    fn numbers(&self, list: &Value) -> Vec<usize> {
        let number =
            |it: &Value| self.identities.iter().position(|id| it["id"] == *id).unwrap() + 1;
        list.as_array().unwrap().iter().map(number).collect()
    }

    /// What is kept of the first identity's credentials.
    async fn stored(&self) -> StoredCredentials {
        CredentialsRepository::find(&*self.store, IdentityId(self.i(1))).await.unwrap().unwrap()
    }

    /// What this filter means, counted from 1.
    async fn meant(&self, filter: Value) -> Vec<usize> {
        self.numbers(&self.value("get_identities", json!({ "filter": filter })).await)
    }
}

#[tokio::test]
async fn get_provider_goes_by_id_first_and_takes_a_null_external_id_for_none() {
    let world = World::new(false).await;
    let provider = async |args: Value| world.value("get_provider", args).await;
    let slack = json!({"id": world.p(2), "type": "slack", "external_id": "T2"});
    assert_eq!(provider(json!({"provider_id": world.p(2)})).await, slack);
    let beside = json!({"provider_id": world.p(2), "provider_type": "gcp", "provider_ext_id": "x"});
    assert_eq!(provider(beside).await, slack);
    for absent in [json!(null), json!(0)] {
        let args = json!({
            "provider_id": absent, "provider_type": "slack", "provider_ext_id": "T2",
        });
        assert_eq!(provider(args).await, slack);
    }
    let gcp = json!({"id": world.p(3), "type": "gcp", "external_id": null});
    assert_eq!(provider(json!({"provider_type": "gcp"})).await, gcp);
    for nobody in [
        json!({"provider_id": 4711}),
        json!({"provider_id": -1}),
        json!({}),
        json!({"provider_type": "slack"}),
        json!({"provider_type": "gcp", "provider_ext_id": ""}),
        json!({"provider_ext_id": "T2"}),
    ] {
        assert_eq!(provider(nobody.clone()).await, Value::Null, "{nobody}");
    }
}

#[tokio::test]
async fn an_identity_is_told_as_sentry_knows_it_and_without_a_credential() {
    let world = World::new(false).await;
    let told = json!({
        "id": world.i(1), "idp_id": world.p(1), "user_id": 7, "external_id": "a", "data": {"name": "Ada"},
    });
    let filter = json!({"filter": {"id": world.i(1)}});
    assert_eq!(world.value("get_identity", filter.clone()).await, told);
    assert_eq!(world.value("get_identities", filter).await, json!([told]));
    // A user that is no integer is told as the text that it is.
    let ada = world.value("get_identity", json!({"filter": {"user_id": "ada"}})).await;
    assert_eq!((&ada["id"], &ada["user_id"]), (&json!(world.i(4)), &json!("ada")));
}

#[tokio::test]
async fn every_key_of_a_filter_that_is_there_counts_and_all_of_them_together() {
    let world = World::new(false).await;
    for (filter, meant) in [
        (json!({"id": world.i(2)}), vec![2]),
        (json!({"user_id": 7}), vec![1, 2, 3]),
        (json!({"user_id": "7"}), vec![1, 2, 3]),
        (json!({"identity_ext_id": "a"}), vec![1, 3]),
        (json!({"identity_ext_id": "A"}), vec![]),
        (json!({"identity_ext_ids": ["b", "T2", "x", "b"]}), vec![2, 4]),
        (json!({"identity_ext_ids": []}), vec![]),
        (json!({"identity_ext_id": "a", "identity_ext_ids": ["a", "b"]}), vec![1, 3]),
        (json!({"identity_ext_id": "a", "identity_ext_ids": ["b"]}), vec![]),
        (json!({"provider_id": world.p(1)}), vec![1, 4]),
        (json!({"provider_ext_id": "T1"}), vec![1, 4]),
        (json!({"provider_type": "slack"}), vec![1, 2, 4]),
        (json!({"provider_type": "slack", "user_id": 7, "provider_ext_id": "T2"}), vec![2]),
        // A null is a value: that of a column that is empty.
        (json!({"provider_ext_id": null}), vec![3]),
        (json!({"provider_ext_id": null, "user_id": "ada"}), vec![]),
        (json!({"id": null}), vec![]),
        (json!({"user_id": null, "provider_id": world.p(1)}), vec![]),
        (json!({"identity_ext_id": null}), vec![]),
        (json!({"provider_id": null}), vec![]),
        (json!({"provider_type": null}), vec![]),
        // No row can have these.
        (json!({"identity_ext_id": ""}), vec![]),
        (json!({"identity_ext_ids": ["x".repeat(256), "b"]}), vec![4]),
        (json!({"user_id": "x".repeat(256)}), vec![]),
        // What a filter does not know is no condition, and no error beside one.
        (json!({"user_id": 7, "status": 1}), vec![1, 2, 3]),
    ] {
        assert_eq!(world.meant(filter.clone()).await, meant, "{filter}");
    }
    let args = json!({"filter": {"user_id": 7}, "auth_context": {"user": null}});
    assert_eq!(world.numbers(&world.value("get_identities", args).await), [1, 2, 3]);
}

#[tokio::test]
async fn get_identity_is_the_first_by_id_or_null() {
    let world = World::new(false).await;
    let first = async |filter: Value| {
        world.value("get_identity", json!({ "filter": filter })).await["id"].clone()
    };
    assert_eq!(first(json!({"identity_ext_id": "a"})).await, world.i(1));
    assert_eq!(first(json!({"provider_ext_id": null})).await, world.i(3));
    let none = json!({"filter": {"identity_ext_id": "x"}});
    assert_eq!(world.value("get_identity", none).await, Value::Null);
    let null = json!({"filter": {"id": null}});
    assert_eq!(world.value("get_identity", null).await, Value::Null);
}

#[tokio::test]
async fn a_users_identities_of_a_type_can_leave_out_those_named_like_their_provider() {
    let world = World::new(false).await;
    let method = "get_user_identities_by_provider_type";
    for (args, meant) in [
        (json!({"user_id": 7, "provider_type": "slack"}), vec![1, 2]),
        (
            json!({
                "user_id": 7, "provider_type": "slack", "exclude_matching_external_ids": true,
            }),
            vec![1],
        ),
        // An instance without an external id has no name to be like.
        (
            json!({"user_id": 7, "provider_type": "gcp", "exclude_matching_external_ids": true}),
            vec![3],
        ),
        (json!({"user_id": 8, "provider_type": "slack"}), vec![]),
        (json!({"user_id": "", "provider_type": "slack"}), vec![]),
        (json!({"user_id": 7, "provider_type": "none"}), vec![]),
    ] {
        assert_eq!(world.numbers(&world.value(method, args.clone()).await), meant, "{args}");
    }
}

#[tokio::test]
async fn an_organizations_identities_are_those_of_this_user_and_type_that_it_uses() {
    let world = World::new(false).await;
    for (organization, identity) in [("1", 1), ("1", 3), ("1", 4), ("2", 2)] {
        let organization = fixtures::organization(organization);
        let attached = OrganizationIdentityRepository::attach(
            &*world.store,
            &organization,
            IdentityId(world.i(identity)),
            &Actor::OPERATOR,
        );
        attached.await.unwrap();
    }
    let method = "get_org_user_identities_by_provider_type";
    for (organization, user, provider_type, meant) in [
        (json!(1), json!(7), "slack", vec![1]),
        (json!("1"), json!("7"), "gcp", vec![3]),
        (json!(1), json!("ada"), "slack", vec![4]),
        (json!(2), json!(7), "slack", vec![2]),
        (json!(2), json!(7), "gcp", vec![]),
        (json!(3), json!(7), "slack", vec![]),
        (json!(""), json!(7), "slack", vec![]),
    ] {
        let args = json!({
            "organization_id": organization, "user_id": user, "provider_type": provider_type,
        });
        let found = world.value(method, args.clone()).await;
        assert_eq!(world.numbers(&found), meant, "{args}");
    }
}

#[tokio::test]
async fn delete_identities_takes_single_sign_on_away_and_no_identity() {
    let world = World::new(false).await;
    let mut ids = Vec::new();
    for (organization, provider) in [("1", 1), ("2", 2)] {
        let new = NewAuthProvider {
            organization_id: fixtures::organization(organization),
            provider_id: ProviderId(world.p(provider)),
            ..fixtures::new_auth_provider()
        };
        let made = AuthProviderRepository::insert(&*world.store, &new, &Actor::OPERATOR);
        let auth_provider_id = made.await.unwrap().id;
        for user in ["7", "ada"] {
            let sign_in = SsoSignIn {
                auth_provider_id,
                ident: fixtures::external_id(user),
                user: Some(fixtures::user(user)),
                ..fixtures::sso_sign_in()
            };
            AuthIdentityRepository::sign_in(&*world.store, &sign_in).await.unwrap();
        }
        ids.push(auth_provider_id);
    }
    let left = async || {
        let page = PageRequest { limit: 50, after: None };
        let filter = AuthIdentityFilter::default();
        let rows = AuthIdentityRepository::list(&*world.store, &filter, page).await.unwrap().items;
        let row = |it: AuthIdentity| (it.auth_provider_id, it.user_id.as_str().to_owned());
        rows.into_iter().map(row).collect::<Vec<_>>()
    };
    let rest = vec![(ids[0], "ada".to_owned()), (ids[1], "7".into()), (ids[1], "ada".into())];
    // Doing it again does nothing, and nobody's is nobody's.
    for args in [
        json!({"user_id": 7, "organization_id": 1}),
        json!({"user_id": "7", "organization_id": "1"}),
        json!({"user_id": 8, "organization_id": 2}),
        json!({"user_id": "", "organization_id": 2}),
    ] {
        assert_eq!(world.value("delete_identities", args).await, Value::Null);
        assert_eq!(left().await, rest);
    }
    assert_eq!(world.meant(json!({"user_id": 7})).await, [1, 2, 3]);

    let (filter, page) = (EventFilter::default(), PageRequest { limit: 200, after: None });
    let events = EventLog::list(&*world.store, &filter, page);
    let events = events.await.unwrap().items;
    let unlinked: Vec<_> =
        events.iter().filter(|it| it.about == EventKind::AuthIdentityUnlinked).collect();
    let [event] = unlinked.as_slice() else { panic!("{unlinked:?}") };
    assert_eq!(event.actor, Actor::SENTRY);
    assert_eq!(event.user_id, Some(fixtures::user("7")));
    assert_eq!(event.organization_id, Some(fixtures::organization("1")));
}

#[tokio::test]
async fn update_data_replaces_the_whole_value_keeps_credentials_apart_and_answers_null_for_no_row()
{
    let world = World::new(false).await;
    let update = async |id: i64, data: Value| {
        world.value("update_data", json!({"identity_id": id, "data": data})).await
    };
    assert_eq!(update(world.i(1), json!({"org": 9})).await["data"], json!({"org": 9}));
    assert_eq!(update(4711, json!({})).await, Value::Null);
    // Whoever never saw the tokens does not lose them by writing back what it saw.
    assert_eq!(world.stored().await.credentials, Some(fixtures::credentials()));

    let told =
        update(world.i(1), json!({"org": 9, "access_token": "canary-2", "expires": 1_900_000_000}));
    assert_eq!(told.await["data"], json!({"org": 9}));
    let renewed = world.stored().await.credentials.unwrap();
    assert_eq!(renewed.access_token.unwrap().expose(), "canary-2");
    assert_eq!(renewed.refresh_token, fixtures::credentials().refresh_token);

    let body = json!({"args": {"identity_id": world.i(1), "data": {"access_token": ["canary"]}}});
    let refused = call(&world.app, "update_data", &body).await;
    refused.refuses("data.access_token");
    assert!(!refused.body.contains("canary"));
}

#[tokio::test]
async fn the_event_log_names_sentry_and_the_user_on_whose_behalf_it_calls() {
    let world = World::new(false).await;
    let args = json!({"identity_id": world.i(1), "data": {}});
    for meta in [
        json!({"viewer_context": {"user_id": 42, "organization_id": 1, "actor_type": "user"}}),
        json!({"viewer_context": "anything"}),
        json!("anything"),
        Value::Null,
    ] {
        let answer = call(&world.app, "update_data", &json!({"args": args, "meta": meta})).await;
        assert_eq!(answer.status, 200, "{meta}: {answer:?}");
    }
    let filter =
        EventFilter { identity_id: Some(IdentityId(world.i(1))), ..EventFilter::default() };
    let page = PageRequest { limit: 50, after: None };
    let events = EventLog::list(&*world.store, &filter, page).await.unwrap().items;
    let events = events.iter().filter(|it| it.about == EventKind::IdentityDataUpdated);
    let actors: Vec<_> = events.map(|it| it.actor.clone()).collect();
    let viewer = Actor { acting_user: Some(fixtures::user("42")), ..Actor::SENTRY };
    assert_eq!(actors, [viewer, Actor::SENTRY, Actor::SENTRY, Actor::SENTRY]);
}

#[tokio::test]
async fn what_is_frozen_is_told_of_without_its_credentials() {
    let world = World::new(true).await;
    let identity = world.stored().await;
    let subject = FreezeSubject::Provider(identity.provider_id);
    world.store.freeze(&subject, &Actor::OPERATOR).await.unwrap();
    let args = json!({"filter": {"id": world.i(1)}});
    assert_eq!(world.value("get_identity", args.clone()).await["data"], json!({"name": "Ada"}));
    world.store.unfreeze(&subject, &Actor::OPERATOR).await.unwrap();
    let told = world.value("get_identity", args).await;
    assert_eq!(told["data"]["access_token"], "access-1");
}

#[tokio::test]
async fn credentials_are_in_data_where_the_operator_says_so() {
    let world = World::new(true).await;
    let told = json!({
        "name": "Ada", "access_token": "access-1", "refresh_token": "refresh-1", "id_token": "id-1",
        "token_type": "Bearer", "expires": 1_767_229_200,
    });
    let one = world.value("get_identity", json!({"filter": {"id": world.i(1)}})).await;
    assert_eq!(one["data"], told);
    let all = world.value("get_identities", json!({"filter": {"user_id": 7}})).await;
    assert!(all.as_array().unwrap().iter().all(|it| it["data"] == told), "{all}");
    let args = json!({"user_id": 7, "provider_type": "gcp"});
    assert_eq!(world.value("get_user_identities_by_provider_type", args).await[0]["data"], told);

    // What Sentry was told and writes back beside a change of its own is no new credential.
    let generation = async || world.stored().await.generation;
    let before = generation().await;
    let mut back = told.clone();
    back["org"] = json!(9);
    let args = json!({"identity_id": world.i(1), "data": back});
    assert_eq!(world.value("update_data", args.clone()).await["data"], back);
    assert_eq!(generation().await, before);
    // A token that it refreshed itself is one.
    let mut renewed = args;
    renewed["data"]["access_token"] = json!("access-2");
    let answer = world.value("update_data", renewed).await;
    assert_eq!(answer["data"]["access_token"], "access-2");
    assert_eq!(answer["data"]["refresh_token"], "refresh-1");
    assert_eq!(generation().await, before + 1);
    let absent = json!({"identity_id": 4711, "data": told});
    assert_eq!(world.value("update_data", absent).await, Value::Null);
}

/// An app over these identities.
fn over(identities: MockIdentityRepository) -> App {
    Ports {
        identities: Arc::new(identities),
        sentry_rpc: Some((&[SECRET], false)),
        ..Ports::default()
    }
    .app()
}

#[tokio::test]
async fn a_list_is_whole_or_an_error_and_never_cut() {
    let (user, organization) = (json!({"user_id": 7}), json!({"organization_id": 1}));
    let with = |more: &[&Value]| {
        let mut args = json!({"provider_type": "slack"});
        for more in more {
            args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        json!({ "args": args })
    };
    let lists = [
        ("get_identities", json!({"args": {"filter": {"provider_id": 1}}})),
        ("get_user_identities_by_provider_type", with(&[&user])),
        ("get_org_user_identities_by_provider_type", with(&[&user, &organization])),
    ];
    // As many identities as there are parts of 200.
    let identities = |parts: i64| {
        let mut mock = MockIdentityRepository::new();
        mock.expect_list().returning(move |_, page| {
            let part = page.after.unwrap_or(0) + 1;
            let items = vec![fixtures::identity(); 200];
            Ok(Page { items, next: (part < parts).then_some(part) })
        });
        mock
    };
    for (method, body) in &lists {
        let answer = call(&over(identities(50)), method, body).await;
        assert_eq!(answer.json()["value"].as_array().unwrap().len(), 10_000, "{method}");
        let answer = call(&over(identities(51)), method, body).await;
        let detail = answer.problem(422, "too_many_identities");
        assert!(detail.contains("10000"), "{method}: {detail}");
    }
}

#[tokio::test]
async fn a_failure_of_ours_is_ours() {
    let mut identities = MockIdentityRepository::new();
    let failure = || Err(RepositoryError::Store("canary".into()));
    identities.expect_list().returning(move |_, _| failure());
    let body = json!({"args": {"filter": {"provider_id": 1}}});
    let answer = call(&over(identities), "get_identities", &body).await;
    answer.problem(500, "internal_error");
    assert!(!answer.body.contains("canary"));
}
