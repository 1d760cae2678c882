//! The user disconnects while the service refreshes: what comes of it is nobody's, and ends.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    main_way::{config, provider_for},
    oidc_provider::OidcProvider,
    service::{Installation, Kind},
};

/// Long enough that nothing ends by itself.
const TOKEN_TTL: u64 = 600;

async fn unlinked_during_a_refresh(kind: Kind) {
    let installation = Installation::new(kind).await;
    let provider = provider_for(&installation, TOKEN_TTL);
    let replica = installation.start().await;
    let id = replica.register(config(&provider)).await;
    let identity = replica.link(id, "ada").await;
    let path = format!("/v1/identities/{identity}");
    assert!(any_token_works(&provider).await);

    // The provider has rotated, and its answer is on the way.
    provider.fail(json!({"next": 1, "mode": "delay_after_commit", "delay_ms": 1500})).await;
    let refresh_path = format!("{path}/refresh");
    let refresh = replica.post(&refresh_path, json!({}));
    let unlink = async {
        while provider.records().await["token_successes"]["refresh_token"] != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Without a revocation of its own: what is revoked is what came after it.
        let unlink = format!("{path}?revoke=false");
        replica.call(Method::DELETE, &unlink, None).await
    };
    let (refreshed, unlinked) = tokio::join!(refresh, unlink);

    assert_eq!(unlinked.status, StatusCode::NO_CONTENT, "{unlinked:?}");
    assert_eq!(refreshed.status, StatusCode::NOT_FOUND, "{refreshed:?}");
    let revoked = async {
        while provider.records().await["revocations"] == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), revoked).await.expect("it is revoked");
    assert!(!any_token_works(&provider).await);
    assert_eq!(replica.get(&path).await.status, StatusCode::NOT_FOUND, "it did not come back");
    assert_eq!(replica.token(identity).await.status, StatusCode::NOT_FOUND);
    // The account can be linked again, and that is another identity.
    assert_ne!(replica.link(id, "ada").await, identity);
    replica.stop().await;
}

/// Whether the provider would take any token that it ever gave.
async fn any_token_works(provider: &OidcProvider) -> bool {
    for secret in provider.secrets().await {
        if provider.is_active(&secret).await {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_token_that_comes_after_the_unlink_is_revoked_with_sqlite() {
    unlinked_during_a_refresh(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_token_that_comes_after_the_unlink_is_revoked_with_postgresql() {
    unlinked_during_a_refresh(Kind::Postgres).await;
}
