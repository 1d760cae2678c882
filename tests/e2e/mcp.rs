//! An agent platform's whole way: an MCP server's address, and from then on its users' tokens.

use std::{future::ready, time::Duration};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    routing::{get, post},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    main_way::provider_for,
    oidc_provider::OidcProvider,
    service::{Installation, Kind, Replica},
};

const TOKEN_TTL: u64 = 20;

/// As much of an MCP server as is asked before there is a token: it says in its challenge where to
/// look, and there who issues its tokens.
async fn mcp_server(issuer: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let metadata = json!({
        "resource": format!("{origin}/mcp"),
        "authorization_servers": [issuer],
        "scopes_supported": ["mcp:read"],
    });
    let told =
        format!(r#"Bearer resource_metadata="{origin}/.well-known/oauth-protected-resource/mcp""#);
    let app = Router::new()
        .route(
            "/mcp",
            post(move || {
                ready((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, told.clone())]))
            }),
        )
        .route(
            "/.well-known/oauth-protected-resource/mcp",
            get(move || ready(Json(metadata.clone()))),
        );
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("{origin}/mcp")
}

async fn token(replica: &Replica, identity: i64) -> String {
    let answer = replica.token(identity).await.good();
    answer["access_token"].as_str().unwrap().to_owned()
}

async fn create(replica: &Replica, url: &str) -> Value {
    let body = json!({"type": "mcp", "config": {"url": url, "client_name": "Agents Inc."}});
    replica.post("/v1/providers", body).await.good()
}

/// The server, the provider that issues its tokens, and the service.
async fn world() -> (OidcProvider, Installation, Replica, String) {
    let installation = Installation::new(Kind::Sqlite).await;
    let provider = provider_for(&installation, TOKEN_TTL);
    let replica = installation.start().await;
    let url = mcp_server(&provider.issuer).await;
    (provider, installation, replica, url)
}

#[tokio::test]
async fn the_address_of_an_mcp_server_is_enough_to_have_its_users_tokens() {
    let (provider, _installation, replica, url) = world().await;
    let made = create(&replica, &url).await;
    let config = &made["config"];
    assert_eq!(config["authorization_server"], provider.issuer);
    assert_eq!(config["resource"], url);
    assert_eq!(config["registration_access_token"], "********");
    let client_id = config["client_id"].as_str().unwrap();
    assert!(provider.has_client(client_id).await);
    // Its authorization server was asked as one, and need not be an OpenID provider (RFC 8414).
    let requests = provider.records().await["requests"].clone();
    assert_eq!(requests["/.well-known/oauth-authorization-server"], 1);
    assert_eq!(requests["/.well-known/openid-configuration"], json!(null));

    // The user links; the token is for this server, and kept fresh for it.
    let id = made["id"].as_i64().unwrap();
    let identity = replica.link(id, "ada").await;
    let shown = replica.get(&format!("/v1/identities/{identity}")).await.good();
    assert_eq!(shown["external_id"], "ada");
    let first = token(&replica, identity).await;
    assert_eq!(provider.audience(&first).await, url);
    tokio::time::sleep(Duration::from_secs(TOKEN_TTL)).await;
    let second = token(&replica, identity).await;
    assert_ne!(second, first);
    assert!(provider.is_active(&second).await);
    assert_eq!(provider.audience(&second).await, url);

    // The link goes, and its grant with it; then the provider, and its client with it.
    let gone = replica.call(Method::DELETE, &format!("/v1/identities/{identity}"), None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert!(!provider.is_active(&second).await);
    let gone = replica.call(Method::DELETE, &format!("/v1/providers/{id}"), None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert!(!provider.has_client(client_id).await);
    replica.stop().await;
}

#[tokio::test]
async fn tokens_for_an_mcp_server_are_bound_to_a_key_where_that_is_asked_for() {
    let (provider, _installation, replica, url) = world().await;
    let body = json!({"type": "mcp", "config": {"url": url, "dpop": true}});
    let made = replica.post("/v1/providers", body).await.good();
    let identity = replica.link(made["id"].as_i64().unwrap(), "ada").await;
    let path = format!("/v1/identities/{identity}");
    for _ in 0..2 {
        let answer = replica.token(identity).await.good();
        assert_eq!(answer["token_type"], "DPoP");
        let token = answer["access_token"].as_str().unwrap();
        assert!(provider.is_active(token).await);
        assert_eq!(provider.audience(token).await, url);
        let asked = json!({"method": "POST", "url": url});
        let proof = replica.post(&format!("{path}/dpop-proof"), asked).await.good();
        assert_eq!(proof["proof"].as_str().unwrap().split('.').count(), 3);
        // The provider refreshes a bound grant for its key alone.
        replica.post(&format!("{path}/refresh"), json!({})).await.good();
    }
    let records = provider.records().await;
    assert_eq!(records["token_successes"]["refresh_token"], 2);
    replica.stop().await;
}

#[tokio::test]
async fn a_server_that_tells_nothing_leaves_no_provider_behind() {
    let (provider, _installation, replica, url) = world().await;
    let elsewhere = url.replace("/mcp", "/another");
    let body = json!({"type": "mcp", "config": {"url": elsewhere}});
    let refused = replica.post("/v1/providers", body).await;
    assert_eq!(
        (refused.status, refused.code()),
        (StatusCode::BAD_GATEWAY, "provider_misconfigured")
    );
    let left = replica.get("/v1/providers").await.good();
    assert_eq!(left["items"], json!([]));
    assert_eq!(provider.records().await["authorizations"], 0);
    replica.stop().await;
}
