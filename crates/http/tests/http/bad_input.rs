//! Wrong input, endpoint by endpoint: refused with the code of the contract and the name of the
//! field, before anything is looked at. The ports are mocks without expectations, so whatever is
//! changed, or only asked, is a failure.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};

use crate::app::{ADMIN, Answer, App, Mocks};

/// How an endpoint takes its input.
enum Takes {
    /// A body that must be there; one that is good as far as its form goes.
    Body(fn() -> Value),
    /// A body that may be left out.
    MaybeBody,
    /// A query, with these parameters that are not plain texts.
    Query(&'static [(&'static str, &'static [&'static str])]),
    /// Nothing but its path.
    Nothing,
}
use Takes::{Body as Json, MaybeBody, Nothing, Query};

const NOT_IDS: &[&str] = &["0", "-1", "01", "x", "9223372036854775808", ""];
const NOT_FLAGS: &[&str] = &["1", "yes", "", "TRUE"];
const NOT_LIMITS: &[&str] = &["0", "201", "-1", "x", "65536", ""];
const NOT_CURSORS: &[&str] = &["x", "1", "AAAA", ""];
/// Longer than an id may be, and one that holds a control character.
const NOT_NAMES: &[&str] = &["", "a%0Ab"];

const AUTH_PROVIDERS: &str = "/v1/organizations/{org}/auth-providers";
const AUTH_PROVIDER: &str = "/v1/organizations/{org}/auth-providers/{id}";
const AUTH_IDENTITIES: &str = "/v1/organizations/{org}/auth-identities";
const AUTH_IDENTITY: &str = "/v1/organizations/{org}/auth-identities/{id}";

/// Every endpoint under `/v1`.
#[expect(clippy::too_many_lines, reason = "a table: one row for each endpoint")]
fn endpoints() -> Vec<(Method, &'static str, Takes)> {
    vec![
        (Method::POST, "/v1/providers", Json(|| json!({"type": "oidc", "config": {}}))),
        (Method::GET, "/v1/providers", Query(&[("external_id_is_null", NOT_FLAGS)])),
        (Method::GET, "/v1/providers/{id}", Nothing),
        (Method::PATCH, "/v1/providers/{id}", Json(|| json!({"config": {}}))),
        (Method::DELETE, "/v1/providers/{id}", Query(&[("cascade", NOT_FLAGS)])),
        (Method::GET, "/v1/provider-types", Nothing),
        (Method::GET, "/v1/provider-types/{type}", Nothing),
        (
            Method::GET,
            "/v1/identities",
            Query(&[
                ("id", NOT_IDS),
                ("provider_id", NOT_IDS),
                ("user_id", NOT_NAMES),
                ("identity_ext_id", NOT_NAMES),
                ("status", &["", "VALID", "2"]),
                ("exclude_matching_external_ids", NOT_FLAGS),
            ]),
        ),
        (
            Method::POST,
            "/v1/identities",
            Json(|| json!({"provider_id": 1, "user_id": "u", "external_id": "e"})),
        ),
        (Method::GET, "/v1/identities/{id}", Nothing),
        (
            Method::DELETE,
            "/v1/identities/{id}",
            Query(&[("revoke", NOT_FLAGS), ("has_password", NOT_FLAGS), ("force", NOT_FLAGS)]),
        ),
        (Method::PUT, "/v1/identities/{id}/data", Nothing),
        (Method::POST, "/v1/identities/{id}/transfer", Json(|| json!({"to_user_id": "v"}))),
        (Method::POST, "/v1/users/{user_id}/transfer", Json(|| json!({"to_user_id": "v"}))),
        (Method::GET, "/v1/transfers", Query(&[("user_id", NOT_NAMES)])),
        (Method::GET, "/v1/transfers/{id}", Nothing),
        (Method::POST, "/v1/transfers/{id}/undo", MaybeBody),
        (Method::POST, "/v1/identities/{id}/token", MaybeBody),
        (
            Method::POST,
            "/v1/identities/{id}/report-rejected",
            Json(|| json!({"access_token_sha256": "00".repeat(32)})),
        ),
        (
            Method::POST,
            "/v1/identities/{id}/dpop-proof",
            Json(|| json!({"method": "GET", "url": "https://api.example/files"})),
        ),
        (Method::GET, "/v1/freezes", Query(&[])),
        (
            Method::GET,
            "/v1/ledger",
            Query(&[("identity_id", NOT_IDS), ("token_sha256", &["", "x", "00"])]),
        ),
        (Method::POST, "/v1/freezes", Json(|| json!({"kind": "key", "id": 1}))),
        (Method::DELETE, "/v1/freezes/{kind}/{id}", Nothing),
        (Method::POST, "/v1/identities/{id}/refresh", MaybeBody),
        (Method::POST, "/v1/token", Json(|| json!({"user_id": "u", "provider_id": 1}))),
        (
            Method::POST,
            "/v1/link-sessions",
            Json(|| json!({"return_url": "https://product.example/x", "purpose": "link"})),
        ),
        (Method::GET, "/v1/link-sessions/{id}", Nothing),
        (Method::POST, "/v1/device-links", Json(|| json!({"user_id": "u", "provider_id": 1}))),
        (Method::GET, "/v1/device-links/{id}", Nothing),
        (
            Method::POST,
            "/v1/link-sessions/{id}/complete",
            Json(|| json!({"completion_code": "c", "user_id": "u"})),
        ),
        (Method::GET, "/v1/users/{user_id}/identities", Query(&[("has_password", NOT_FLAGS)])),
        (
            Method::GET,
            "/v1/users/{user_id}/identities/{category}/{id}",
            Query(&[("has_password", NOT_FLAGS)]),
        ),
        (
            Method::DELETE,
            "/v1/users/{user_id}/identities/{category}/{id}",
            Query(&[("has_password", NOT_FLAGS)]),
        ),
        (
            Method::POST,
            "/v1/organizations/{org}/auth-providers",
            Json(|| json!({"provider_id": 1})),
        ),
        (Method::GET, "/v1/organizations/{org}/auth-providers", Query(&[])),
        (Method::GET, "/v1/organizations/{org}/auth-providers/{id}", Nothing),
        (
            Method::PATCH,
            "/v1/organizations/{org}/auth-providers/{id}",
            Json(|| json!({"allow_unlinked": true})),
        ),
        (Method::DELETE, "/v1/organizations/{org}/auth-providers/{id}", Nothing),
        (
            Method::POST,
            "/v1/organizations/{org}/auth-identities",
            Json(|| json!({"user_id": "u", "ident": "a"})),
        ),
        (Method::GET, "/v1/organizations/{org}/auth-identities", Query(&[("user_id", NOT_NAMES)])),
        (
            Method::PATCH,
            "/v1/organizations/{org}/auth-identities/{id}",
            Json(|| json!({"ident": "a"})),
        ),
        (Method::DELETE, "/v1/organizations/{org}/users/{user_id}/auth-identities", Nothing),
        (Method::GET, "/v1/organizations/{org}/users/{user_id}/identities", Query(&[])),
        (Method::GET, "/v1/organizations/{org}/identities", Query(&[])),
        (Method::PUT, "/v1/organizations/{org}/identities/{id}", Nothing),
        (Method::DELETE, "/v1/organizations/{org}/identities/{id}", Nothing),
        (
            Method::GET,
            "/v1/forecast",
            Query(&[("provider_id", NOT_IDS), ("within", &["0", "-1", "x", "367d", "1w", ""])]),
        ),
        (
            Method::GET,
            "/v1/events",
            Query(&[
                ("after", &["-1", "01", "x", "9223372036854775808", ""]),
                ("type", &["", "identity", "identity.linked,", "IDENTITY.LINKED"]),
                ("identity_id", NOT_IDS),
                ("provider_id", NOT_IDS),
                ("user_id", NOT_NAMES),
                ("organization_id", NOT_NAMES),
            ]),
        ),
        (
            Method::GET,
            "/v1/identities/{id}/explain",
            Query(&[("limit", NOT_LIMITS), ("cursor", NOT_CURSORS)]),
        ),
        (Method::POST, "/v1/webhooks", Json(|| json!({"url": "https://receiver.example/"}))),
        (Method::GET, "/v1/webhooks", Query(&[])),
        (Method::GET, "/v1/webhooks/{id}", Nothing),
        (Method::PATCH, "/v1/webhooks/{id}", Json(|| json!({}))),
        (Method::DELETE, "/v1/webhooks/{id}", Nothing),
        (Method::POST, "/v1/webhooks/{id}/rotate-secret", MaybeBody),
        (Method::POST, "/v1/webhooks/{id}/test", Nothing),
        (
            Method::GET,
            "/v1/webhooks/{id}/deliveries",
            Query(&[
                ("status", &["", "DEAD", "failed"]),
                ("limit", NOT_LIMITS),
                ("cursor", NOT_CURSORS),
            ]),
        ),
        (Method::POST, "/v1/webhooks/{id}/deliveries/{delivery_id}/replay", Nothing),
        (Method::POST, "/v1/webhooks/{id}/replay", Nothing),
    ]
}

/// Fields by endpoint, each with values that it must refuse by its name. Every value stands in a
/// body that is good otherwise.
#[expect(clippy::too_many_lines, reason = "a table: one row for each field")]
fn wrong_fields() -> Vec<(Method, &'static str, &'static str, Vec<Value>)> {
    let not_texts = || vec![json!(null), json!(1.5), json!([]), json!({}), json!(true)];
    let not_names = || {
        let too_long = json!("x".repeat(256));
        vec![json!(null), json!(1.5), json!([]), json!(""), json!("a\nb"), too_long]
    };
    let not_flags = || vec![json!(null), json!(1), json!("true"), json!([])];
    let not_numbers = || vec![json!(null), json!("1"), json!(1.5), json!([])];
    let not_scopes = || vec![json!(null), json!("openid"), json!({})];
    let post = || Method::POST;
    vec![
        (post(), "/v1/providers", "type", not_texts()),
        (post(), "/v1/providers", "config", vec![json!(null), json!([]), json!("x"), json!(1)]),
        (post(), "/v1/providers", "external_id", vec![json!(1), json!([]), json!(true)]),
        (
            Method::PATCH,
            "/v1/providers/{id}",
            "config",
            vec![json!(null), json!([]), json!("x"), json!(1)],
        ),
        (post(), "/v1/providers", "login", not_flags()),
        (post(), "/v1/providers", "multiple_accounts", not_flags()),
        (
            Method::PATCH,
            "/v1/providers/{id}",
            "multiple_accounts",
            vec![json!(1), json!("true"), json!([])],
        ),
        (Method::PATCH, "/v1/providers/{id}", "login", vec![json!(1), json!("true"), json!([])]),
        (post(), "/v1/identities", "provider_id", not_numbers()),
        (post(), "/v1/identities", "user_id", not_names()),
        (post(), "/v1/identities", "external_id", not_names()),
        (post(), "/v1/identities", "data", vec![json!(null), json!([]), json!("x")]),
        (post(), "/v1/identities", "scopes", not_scopes()),
        (post(), "/v1/identities", "reattach", not_flags()),
        (post(), AUTH_PROVIDERS, "provider_id", not_numbers()),
        (post(), AUTH_PROVIDERS, "config", vec![json!(null), json!([]), json!("x")]),
        (post(), AUTH_PROVIDERS, "allow_unlinked", not_flags()),
        (post(), AUTH_PROVIDERS, "scim_enabled", not_flags()),
        (post(), AUTH_PROVIDERS, "default_global_access", not_flags()),
        (
            post(),
            AUTH_PROVIDERS,
            "default_role",
            vec![json!("1"), json!(1.5), json!(2_147_483_648_u32)],
        ),
        (post(), AUTH_PROVIDERS, "sync_time", vec![json!("1"), json!([])]),
        (Method::PATCH, AUTH_PROVIDER, "allow_unlinked", vec![json!(1), json!("true")]),
        (Method::PATCH, AUTH_PROVIDER, "config", vec![json!([]), json!("x")]),
        (Method::PATCH, AUTH_PROVIDER, "default_role", vec![json!("1"), json!(1.5)]),
        (Method::PATCH, AUTH_PROVIDER, "last_sync", vec![json!("now"), json!(1)]),
        (post(), AUTH_IDENTITIES, "user_id", not_names()),
        (post(), AUTH_IDENTITIES, "ident", not_names()),
        (post(), AUTH_IDENTITIES, "data", vec![json!(null), json!([]), json!("x")]),
        (post(), AUTH_IDENTITIES, "reattach", not_flags()),
        (Method::PATCH, AUTH_IDENTITY, "ident", vec![json!(""), json!(1), json!("a\nb")]),
        (Method::PATCH, AUTH_IDENTITY, "data", vec![json!([]), json!("x")]),
        (Method::PATCH, AUTH_IDENTITY, "synced", not_flags()),
        (post(), "/v1/identities", "legacy_id", vec![json!(1), json!(""), json!([])]),
        (post(), "/v1/identities/{id}/transfer", "to_user_id", not_names()),
        (post(), "/v1/users/{user_id}/transfer", "to_user_id", not_names()),
        (
            post(),
            "/v1/users/{user_id}/transfer",
            "on_conflict",
            vec![json!(null), json!("merge"), json!(1)],
        ),
        (
            post(),
            "/v1/identities/{id}/dpop-proof",
            "method",
            vec![json!(null), json!(1), json!(""), json!("GE T"), json!("x".repeat(33))],
        ),
        (
            post(),
            "/v1/identities/{id}/dpop-proof",
            "url",
            vec![json!(null), json!(1), json!(""), json!("/files"), json!("ftp://a.example/")],
        ),
        (
            post(),
            "/v1/identities/{id}/dpop-proof",
            "nonce",
            vec![json!(1), json!([]), json!(""), json!("a b"), json!("x".repeat(1025))],
        ),
        (
            post(),
            "/v1/identities/{id}/dpop-proof",
            "access_token_sha256",
            vec![json!(1), json!([]), json!(""), json!("00"), json!("g".repeat(64))],
        ),
        (post(), "/v1/token", "identity_id", vec![json!("1"), json!(1.5), json!([])]),
        (post(), "/v1/token", "external_id", vec![json!(1), json!(""), json!([])]),
        (post(), "/v1/token", "user_id", not_names()),
        (post(), "/v1/token", "provider_id", vec![json!("1"), json!(1.5), json!([])]),
        (
            post(),
            "/v1/token",
            "min_ttl_seconds",
            vec![json!(-1), json!("1"), json!(1.5), json!(31_622_401), json!(4_294_967_296_u64)],
        ),
        (post(), "/v1/token", "scopes", not_scopes()),
        (
            post(),
            "/v1/identities/{id}/token",
            "min_ttl_seconds",
            vec![json!(-1), json!("1"), json!(31_622_401)],
        ),
        (post(), "/v1/identities/{id}/token", "scopes", not_scopes()),
        (post(), "/v1/identities/{id}/report-rejected", "access_token_sha256", {
            let odd = json!("0".repeat(63));
            let no_digit = json!("g".repeat(64));
            vec![json!(null), json!(1), json!(""), odd, no_digit, json!("00".repeat(33))]
        }),
        (post(), "/v1/freezes", "kind", vec![json!(null), json!(1), json!(""), json!("user")]),
        (post(), "/v1/freezes", "id", vec![json!(null), json!(0), json!("01"), json!("acme")]),
        (
            post(),
            "/v1/link-sessions",
            "return_url",
            vec![
                json!(null),
                json!(1),
                json!("no address"),
                json!("https://elsewhere.example/"),
                json!("https://product.example.evil.example/"),
                json!("javascript:alert(1)"),
            ],
        ),
        (post(), "/v1/device-links", "user_id", vec![json!(""), json!([]), json!(1.5)]),
        (post(), "/v1/device-links", "provider_id", vec![json!("1"), json!(1.5), json!(null)]),
        (post(), "/v1/device-links", "scopes", not_scopes()),
        (post(), "/v1/device-links", "organization_id", vec![json!(""), json!([]), json!(1.5)]),
        (post(), "/v1/link-sessions", "purpose", vec![json!(null), json!("both"), json!(1)]),
        (post(), "/v1/link-sessions", "provider_id", vec![json!("1"), json!(1.5), json!([])]),
        (post(), "/v1/link-sessions", "user_id", vec![json!(""), json!([]), json!(1.5)]),
        (post(), "/v1/link-sessions", "organization_id", vec![json!(""), json!([])]),
        (post(), "/v1/link-sessions", "scopes", not_scopes()),
        (post(), "/v1/link-sessions", "login_hint", vec![json!(1), json!([])]),
        (post(), "/v1/link-sessions", "reattach", not_flags()),
        (post(), "/v1/link-sessions", "auto_complete", not_flags()),
        (post(), "/v1/webhooks", "url", {
            let long = json!(format!("https://receiver.example/{}", "x".repeat(2048)));
            vec![json!(null), json!(1), json!("no address"), json!(""), long]
        }),
        (
            post(),
            "/v1/webhooks",
            "types",
            vec![json!(null), json!("identity.linked"), json!(["x"])],
        ),
        (post(), "/v1/webhooks", "enabled", not_flags()),
        (Method::PATCH, "/v1/webhooks/{id}", "url", vec![json!(1), json!("no address")]),
        (Method::PATCH, "/v1/webhooks/{id}", "types", vec![json!("x"), json!(["x"])]),
        (Method::PATCH, "/v1/webhooks/{id}", "enabled", vec![json!(1), json!("true")]),
        (
            post(),
            "/v1/webhooks/{id}/rotate-secret",
            "overlap_seconds",
            vec![json!(null), json!(-1), json!("1"), json!(604_801), json!(4_294_967_296_u64)],
        ),
        (post(), "/v1/link-sessions/{id}/complete", "completion_code", not_texts()),
        (post(), "/v1/link-sessions/{id}/complete", "user_id", vec![json!(""), json!([])]),
    ]
}

fn at_row_1(template: &str) -> String {
    named(template).replace("{id}", "1").replace("{type}", "oidc")
}

/// With every parameter of the path but the row's id.
fn named(template: &str) -> String {
    template
        .replace("{org}", "org-1")
        .replace("{user_id}", "user-1")
        .replace("{delivery_id}", "1")
        .replace("{category}", "org-identity")
        .replace("{kind}", "key")
}

async fn send(app: &App, method: &Method, path: &str, kind: &str, body: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {ADMIN}"))
        .header("content-type", kind)
        .body(Body::from(body.to_owned()));
    app.send(request.unwrap()).await
}

#[tokio::test]
async fn the_table_has_every_endpoint_of_the_document() {
    let document = Mocks::default().app().get("/openapi.json").await.json();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if path.starts_with("/v1/") {
            let methods = item.as_object().unwrap().keys().filter(|it| *it != "parameters");
            documented.extend(methods.map(|it| format!("{} {path}", it.to_uppercase())));
        }
    }
    let table: BTreeSet<_> =
        endpoints().iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(table, documented);
}

#[tokio::test]
async fn an_id_in_the_path_has_one_form() {
    let app = Mocks::default().app();
    for (method, template, takes) in endpoints() {
        if !template.contains("{id}") {
            continue;
        }
        let body = match takes {
            Json(good) => good().to_string(),
            MaybeBody => String::new(),
            Query(_) | Nothing => "{}".to_owned(),
        };
        for id in ["0", "-1", "01", "1.0", "x", "9223372036854775808", "1%20", "%00"] {
            let path = named(template).replace("{id}", id);
            send(&app, &method, &path, "application/json", &body).await.refuses("id");
        }
    }
}

#[tokio::test]
async fn a_body_is_json_of_the_right_form_type_and_size() {
    let app = Mocks::default().app();
    for (method, template, takes) in endpoints() {
        let (good, required) = match takes {
            Json(good) => (good(), true),
            MaybeBody => (json!({}), false),
            // Any object is good here, unless it names a credential.
            Nothing if template.ends_with("/data") => (json!({}), true),
            Query(_) | Nothing => continue,
        };
        let path = at_row_1(template);
        let json_kind = "application/json";
        for bad in ["[]", "{", "null", "\"x\"", "{\"a\":\"\\u0000\"}", "\u{feff}{}"] {
            send(&app, &method, &path, json_kind, bad).await.refuses("body");
        }
        let more = format!("{good}}}");
        send(&app, &method, &path, json_kind, &more).await.refuses("body");
        if required {
            send(&app, &method, &path, json_kind, "").await.refuses("body");
        }
        let text = good.to_string();
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let answer = send(&app, &method, &path, kind, &text).await;
            answer.problem(415, "unsupported_media_type");
        }
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1024 * 1024));
        let answer = send(&app, &method, &path, json_kind, &large).await;
        answer.problem(413, "payload_too_large");
        if !template.ends_with("/data") {
            let mut unknown = good;
            unknown["nonsense"] = json!(1);
            let answer = send(&app, &method, &path, json_kind, &unknown.to_string()).await;
            answer.refuses("nonsense");
        }
    }
}

#[tokio::test]
async fn what_is_required_is_asked_for_by_its_name() {
    let app = Mocks::default().app();
    for (method, template, takes) in endpoints() {
        let Json(good) = takes else { continue };
        let optional = |name: &str| {
            matches!(
                (template, name),
                (
                    "/v1/organizations/{org}/auth-providers/{id}"
                        | "/v1/organizations/{org}/auth-identities/{id}",
                    _
                ) | ("/v1/token", "provider_id")
                    | ("/v1/link-sessions/{id}/complete", "user_id")
            )
        };
        for name in good().as_object().unwrap().keys().filter(|it| !optional(it)) {
            let mut body = good();
            body.as_object_mut().unwrap().remove(name);
            let path = at_row_1(template);
            let answer = send(&app, &method, &path, "application/json", &body.to_string()).await;
            answer.refuses(name);
        }
    }
}

#[tokio::test]
async fn a_field_of_a_wrong_form_is_named() {
    let app = Mocks::default().app();
    for (method, template, field, values) in wrong_fields() {
        let (_, _, takes) =
            endpoints().into_iter().find(|it| (&it.0, it.1) == (&method, template)).unwrap();
        let good = if let Json(good) = takes { good() } else { json!({}) };
        for value in values {
            let mut body = good.clone();
            body[field] = value.clone();
            let path = at_row_1(template);
            let answer = send(&app, &method, &path, "application/json", &body.to_string()).await;
            let detail = answer.problem(400, "invalid_request");
            assert!(detail.starts_with(field), "{method} {template} {field} = {value}: {detail}");
        }
    }
}

#[tokio::test]
async fn a_parameter_of_a_wrong_form_is_named_and_an_unknown_one_refused() {
    let app = Mocks::default().app();
    for (method, template, takes) in endpoints() {
        let Query(parameters) = takes else { continue };
        let path = at_row_1(template);
        let mut parameters = parameters.to_vec();
        if !template.contains("{id}") {
            parameters.extend([("limit", NOT_LIMITS), ("cursor", NOT_CURSORS)]);
        }
        for (name, values) in parameters {
            for value in values {
                let query = format!("{path}?{name}={value}");
                send(&app, &method, &query, "application/json", "").await.refuses(name);
            }
            let twice = format!("{path}?{name}=1&{name}=1");
            send(&app, &method, &twice, "application/json", "").await.refuses(name);
        }
        let unknown = format!("{path}?nonsense=1");
        send(&app, &method, &unknown, "application/json", "").await.refuses("nonsense");
        let too_long = format!("{path}?user_id={}", "x".repeat(256));
        if template == "/v1/identities" {
            send(&app, &method, &too_long, "application/json", "").await.refuses("user_id");
        }
    }
}

#[tokio::test]
async fn without_a_key_the_input_does_not_matter() {
    let app = Mocks::default().app();
    for (method, template, _) in endpoints() {
        let request =
            Request::builder().method(&method).uri(at_row_1(template)).body(Body::from("{"));
        app.send(request.unwrap()).await.problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn another_method_is_refused_with_the_ones_there_are() {
    let app = Mocks::default().app();
    for (_, template, _) in endpoints() {
        let answer = send(&app, &Method::OPTIONS, &at_row_1(template), "text/plain", "").await;
        answer.problem(405, "method_not_allowed");
        assert!(!answer.header("allow").is_empty(), "{template}");
    }
}
