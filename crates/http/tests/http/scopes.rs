use axum::{
    body::Body,
    http::{Method, Request},
};
use symbolon_domain::api_key::KeyScope::{
    self, Admin, EventsRead, IdentitiesRead, IdentitiesWrite, LinkWrite, ProvidersRead,
    ProvidersWrite, SsoRead, SsoWrite, TokensRead,
};

use crate::app::{Mocks, key_with};

/// Every route under `/v1`, and what its caller must be allowed.
const ROUTES: [(Method, &str, KeyScope); 61] = [
    (Method::POST, "/v1/providers", ProvidersWrite),
    (Method::GET, "/v1/providers", ProvidersRead),
    (Method::GET, "/v1/providers/1", ProvidersRead),
    (Method::PATCH, "/v1/providers/1", ProvidersWrite),
    (Method::DELETE, "/v1/providers/1", ProvidersWrite),
    (Method::GET, "/v1/provider-types", ProvidersRead),
    (Method::GET, "/v1/provider-types/oidc", ProvidersRead),
    (Method::GET, "/v1/identities", IdentitiesRead),
    (Method::POST, "/v1/identities", IdentitiesWrite),
    (Method::GET, "/v1/identities/1", IdentitiesRead),
    (Method::PUT, "/v1/identities/1/data", IdentitiesWrite),
    (Method::DELETE, "/v1/identities/1", IdentitiesWrite),
    (Method::POST, "/v1/identities/1/transfer", IdentitiesWrite),
    (Method::POST, "/v1/users/u/transfer", IdentitiesWrite),
    (Method::GET, "/v1/transfers", IdentitiesRead),
    (Method::GET, "/v1/transfers/1", IdentitiesRead),
    (Method::POST, "/v1/transfers/1/undo", IdentitiesWrite),
    (Method::POST, "/v1/identities/1/token", TokensRead),
    (Method::POST, "/v1/token", TokensRead),
    (Method::POST, "/v1/identities/1/refresh", TokensRead),
    (Method::POST, "/v1/identities/1/report-rejected", TokensRead),
    (Method::POST, "/v1/identities/1/dpop-proof", TokensRead),
    (Method::GET, "/v1/freezes", Admin),
    (Method::POST, "/v1/freezes", Admin),
    (Method::DELETE, "/v1/freezes/key/1", Admin),
    (Method::POST, "/v1/device-links", LinkWrite),
    (Method::GET, "/v1/device-links/1", LinkWrite),
    (Method::POST, "/v1/link-sessions", LinkWrite),
    (Method::GET, "/v1/link-sessions/1", LinkWrite),
    (Method::POST, "/v1/link-sessions/1/complete", LinkWrite),
    (Method::HEAD, "/v1/identities/1", IdentitiesRead),
    (Method::GET, "/v1/users/u/identities", IdentitiesRead),
    (Method::GET, "/v1/users/u/identities/org-identity/1", IdentitiesRead),
    (Method::DELETE, "/v1/users/u/identities/org-identity/1", IdentitiesWrite),
    (Method::GET, "/v1/organizations/o/auth-providers", SsoRead),
    (Method::POST, "/v1/organizations/o/auth-providers", SsoWrite),
    (Method::GET, "/v1/organizations/o/auth-providers/1", SsoRead),
    (Method::PATCH, "/v1/organizations/o/auth-providers/1", SsoWrite),
    (Method::DELETE, "/v1/organizations/o/auth-providers/1", SsoWrite),
    (Method::GET, "/v1/organizations/o/auth-identities", SsoRead),
    (Method::POST, "/v1/organizations/o/auth-identities", SsoWrite),
    (Method::PATCH, "/v1/organizations/o/auth-identities/1", SsoWrite),
    (Method::DELETE, "/v1/organizations/o/users/u/auth-identities", SsoWrite),
    (Method::GET, "/v1/organizations/o/users/u/identities", SsoRead),
    (Method::GET, "/v1/organizations/o/identities", SsoRead),
    (Method::PUT, "/v1/organizations/o/identities/1", SsoWrite),
    (Method::DELETE, "/v1/organizations/o/identities/1", SsoWrite),
    (Method::GET, "/v1/forecast", IdentitiesRead),
    (Method::GET, "/v1/events", EventsRead),
    (Method::GET, "/v1/ledger", EventsRead),
    (Method::GET, "/v1/identities/1/explain", EventsRead),
    (Method::POST, "/v1/webhooks", Admin),
    (Method::GET, "/v1/webhooks", EventsRead),
    (Method::GET, "/v1/webhooks/1", EventsRead),
    (Method::PATCH, "/v1/webhooks/1", Admin),
    (Method::DELETE, "/v1/webhooks/1", Admin),
    (Method::POST, "/v1/webhooks/1/rotate-secret", Admin),
    (Method::POST, "/v1/webhooks/1/test", Admin),
    (Method::GET, "/v1/webhooks/1/deliveries", EventsRead),
    (Method::POST, "/v1/webhooks/1/deliveries/1/replay", Admin),
    (Method::POST, "/v1/webhooks/1/replay", Admin),
];

#[tokio::test]
async fn each_route_takes_its_own_scope_or_admin_and_no_other_before_it_reads_the_body() {
    let app = Mocks::default().app();
    for (method, path, needed) in ROUTES {
        for &scope in KeyScope::ALL {
            let request = Request::builder()
                .method(&method)
                .uri(path)
                .header("authorization", format!("Bearer {}", key_with(scope)))
                .header("content-type", "application/json")
                .body(Body::from("no json"));
            let answer = app.send(request.unwrap()).await;
            let allowed = scope == needed || scope == Admin;
            assert_eq!(answer.status != 403, allowed, "{method} {path} with {scope:?}: {answer:?}");
            if !allowed && method != Method::HEAD {
                let detail = answer.problem(403, "forbidden");
                assert!(detail.contains(needed.as_str()), "{detail}");
            }
        }
    }
}
