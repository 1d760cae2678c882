use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::Value;

use crate::app::Mocks;

/// Later parts of the contract: neither served nor told of yet.
const LATER: [(Method, &str); 1] = [(Method::GET, "/v1/audit")];

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

async fn document() -> Value {
    let answer = Mocks::default().app().browse("/openapi.json", None).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    answer.json()
}

/// Every operation of the document: path, method, and what is said of it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            METHODS
                .iter()
                .filter_map(move |method| Some((path.as_str(), *method, item.get(*method)?)))
        })
        .collect()
}

#[tokio::test]
async fn the_document_tells_of_these_routes() {
    let document = document().await;
    let list: Vec<_> = operations(&document)
        .into_iter()
        .map(|(path, method, operation)| {
            let scheme = if operation["security"].is_null() { "" } else { " (key)" };
            format!("{} {path}{scheme}", method.to_uppercase())
        })
        .collect();
    insta::assert_snapshot!(list.join("\n"), @r#"
    POST /backchannel-logout/{provider_id}
    GET /callback/{provider_id}
    POST /callback/{provider_id}
    GET /connect/{token}
    GET /docs
    GET /docs/
    GET /docs/{file}
    GET /healthz
    GET /jwks/{provider_id}
    GET /metrics
    POST /oauth2/token
    GET /openapi.json
    GET /readyz
    POST /v1/device-links (key)
    GET /v1/device-links/{id} (key)
    GET /v1/events (key)
    GET /v1/forecast (key)
    GET /v1/freezes (key)
    POST /v1/freezes (key)
    DELETE /v1/freezes/{kind}/{id} (key)
    GET /v1/identities (key)
    POST /v1/identities (key)
    GET /v1/identities/{id} (key)
    DELETE /v1/identities/{id} (key)
    PUT /v1/identities/{id}/data (key)
    POST /v1/identities/{id}/dpop-proof (key)
    GET /v1/identities/{id}/explain (key)
    POST /v1/identities/{id}/refresh (key)
    POST /v1/identities/{id}/report-rejected (key)
    POST /v1/identities/{id}/token (key)
    POST /v1/identities/{id}/transfer (key)
    GET /v1/ledger (key)
    POST /v1/link-sessions (key)
    GET /v1/link-sessions/{id} (key)
    POST /v1/link-sessions/{id}/complete (key)
    GET /v1/organizations/{org}/auth-identities (key)
    POST /v1/organizations/{org}/auth-identities (key)
    PATCH /v1/organizations/{org}/auth-identities/{id} (key)
    GET /v1/organizations/{org}/auth-providers (key)
    POST /v1/organizations/{org}/auth-providers (key)
    GET /v1/organizations/{org}/auth-providers/{id} (key)
    PATCH /v1/organizations/{org}/auth-providers/{id} (key)
    DELETE /v1/organizations/{org}/auth-providers/{id} (key)
    GET /v1/organizations/{org}/identities (key)
    PUT /v1/organizations/{org}/identities/{id} (key)
    DELETE /v1/organizations/{org}/identities/{id} (key)
    DELETE /v1/organizations/{org}/users/{user_id}/auth-identities (key)
    GET /v1/organizations/{org}/users/{user_id}/identities (key)
    GET /v1/provider-types (key)
    GET /v1/provider-types/{type} (key)
    GET /v1/providers (key)
    POST /v1/providers (key)
    GET /v1/providers/{id} (key)
    PATCH /v1/providers/{id} (key)
    DELETE /v1/providers/{id} (key)
    POST /v1/token (key)
    GET /v1/transfers (key)
    GET /v1/transfers/{id} (key)
    POST /v1/transfers/{id}/undo (key)
    GET /v1/users/{user_id}/identities (key)
    GET /v1/users/{user_id}/identities/{category}/{id} (key)
    DELETE /v1/users/{user_id}/identities/{category}/{id} (key)
    POST /v1/users/{user_id}/transfer (key)
    GET /v1/webhooks (key)
    POST /v1/webhooks (key)
    GET /v1/webhooks/{id} (key)
    PATCH /v1/webhooks/{id} (key)
    DELETE /v1/webhooks/{id} (key)
    GET /v1/webhooks/{id}/deliveries (key)
    POST /v1/webhooks/{id}/deliveries/{delivery_id}/replay (key)
    POST /v1/webhooks/{id}/replay (key)
    POST /v1/webhooks/{id}/rotate-secret (key)
    POST /v1/webhooks/{id}/test (key)
    "#);
}

#[tokio::test]
async fn the_router_serves_what_the_document_tells_of_and_nothing_else() {
    let document = document().await;
    let app = Mocks::default().app();
    for (path, item) in document["paths"].as_object().unwrap() {
        let served = path.replace("{file}", "index.css").replace("{type}", "oidc");
        let served = served.replace("{token}", "x").replace("{delivery_id}", "x");
        let served = served.replace("{org}", "x");
        let served = served.replace("{user_id}", "x").replace("{category}", "x");
        let served = served.replace("{kind}", "x");
        let served = served.replace("{provider_id}", "x").replace("{id}", "x");
        assert!(!served.contains('{'), "{served}");
        for method in METHODS {
            // Without a key nothing under /v1 goes beyond 401, so nothing is called.
            let request = Request::builder().method(&*method.to_uppercase()).uri(&served);
            let answer = app.send(request.body(Body::empty()).unwrap()).await;
            let told = item.get(method).is_some();
            assert_eq!(answer.status != 405, told, "{method} {path}: {answer:?}");
            assert_ne!(answer.status, 404, "{method} {path}");
        }
    }
    for (method, path) in LATER {
        app.call(method, path, None).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn every_operation_is_told_of_in_full() {
    let document = document().await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
    let mut names = std::collections::BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let at = format!("{method} {path}");
        assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{at}");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{at}");
        let declared: Vec<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|it| it["in"] == "path")
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        let templated: Vec<_> =
            path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(declared, templated, "{at}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(!response["description"].as_str().unwrap().is_empty(), "{at} {status}");
            if path.starts_with("/v1/") && status.starts_with(['4', '5']) {
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{at} {status}");
            }
        }
        if path.starts_with("/v1/") {
            assert_eq!(operation["security"][0]["api_key"], serde_json::json!([]), "{at}");
        }
    }
    assert_references(&document, &document);
}

/// Asserts that every reference leads somewhere.
fn assert_references(document: &Value, value: &Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(to)) = object.get("$ref") {
                let pointer = to.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{to} leads nowhere");
            }
            object.values().for_each(|it| assert_references(document, it));
        }
        Value::Array(items) => items.iter().for_each(|it| assert_references(document, it)),
        _ => {}
    }
}

#[tokio::test]
async fn examples_hold_what_their_schema_requires() {
    let document = document().await;
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let Some(example) = schema.get("example") else { continue };
        for field in schema["required"].as_array().unwrap() {
            assert!(example.get(field.as_str().unwrap()).is_some(), "{name}: {field}");
        }
    }
}

#[tokio::test]
async fn the_page_works_without_the_internet() {
    let app = Mocks::default().app();
    let answer = app.browse("/docs", None).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (308, "docs/"));

    let page = app.browse("/docs/", None).await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "{}", page.body);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"));
    // The policy forbids scripts within the page, so there must be none.
    for script in page.body.split("<script").skip(1) {
        assert!(script.trim_start().starts_with("src=\"./"), "{script}");
    }

    let script = app.browse("/docs/swagger-initializer.js", None).await;
    assert!(script.header("content-type").contains("javascript"), "{script:?}");
    assert!(script.body.contains("../openapi.json"), "{}", script.body);
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"] {
        let answer = app.browse(&format!("/docs/{file}"), None).await;
        assert_eq!((answer.status.as_u16(), answer.body.len() > 10_000), (200, true), "{file}");
    }
    app.browse("/docs/nothing.js", None).await.problem(404, "not_found");
}
