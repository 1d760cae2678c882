//! kill -9 in the middle of a refresh. Afterwards the identity works, or says that it must be
//! linked again; nothing hangs, and no refresh token is used a third time.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use crate::{
    main_way::{config, provider_for},
    oidc_provider::OidcProvider,
    service::{Installation, Kind},
};

const TOKEN_TTL: u64 = 3;

/// When, seen from the provider, the process dies.
#[derive(Clone, Copy)]
enum Death {
    /// The request has left; the provider has not begun.
    BeforeTheRotation,
    /// The provider has rotated; its answer is on the way.
    AfterTheRotation,
}

async fn killed(kind: Kind, death: Death) {
    let mut installation = Installation::new(kind).await;
    // The lease of a dead holder lasts a little over sixteen times this.
    installation.provider_timeout = "2s";
    let provider = provider_for(&installation, TOKEN_TTL);
    let replica = installation.start().await;
    let id = replica.register(config(&provider)).await;
    let identity = replica.link(id, "ada").await;
    tokio::time::sleep(Duration::from_secs(TOKEN_TTL)).await;

    hold_next_refresh(&provider, death).await;
    tokio::select! {
        answer = replica.token(identity) => panic!("answered before it died: {answer:?}"),
        () = refresh_under_way(&provider, death) => {}
    }
    replica.kill().await;

    let replica = installation.start().await;
    let answer = replica.token_patiently(identity, Duration::from_secs(80)).await;
    match answer.status {
        StatusCode::OK => {
            let token = answer.body["access_token"].as_str().unwrap();
            assert_eq!(provider.userinfo(token).await, StatusCode::OK);
            // And the refresh after that works too.
            tokio::time::sleep(Duration::from_secs(TOKEN_TTL)).await;
            let next = replica.token(identity).await.good();
            assert_eq!(
                provider.userinfo(next["access_token"].as_str().unwrap()).await,
                StatusCode::OK
            );
        }
        StatusCode::CONFLICT => {
            assert_eq!(answer.code(), "identity_not_valid");
            let shown = replica.get(&format!("/v1/identities/{identity}")).await.good();
            assert_eq!(shown["status"], "invalid");
            // The way out that it names works.
            assert_eq!(replica.link(id, "ada").await, identity);
            replica.token(identity).await.good();
        }
        other => panic!("{other}: {answer:?}"),
    }
    // The careful retry is the only use of a spent token.
    let reuses = provider.records().await["refresh_reuses"].as_u64().unwrap();
    match death {
        Death::BeforeTheRotation => assert_eq!((answer.status, reuses), (StatusCode::OK, 0)),
        Death::AfterTheRotation => assert_eq!((answer.status, reuses), (StatusCode::CONFLICT, 1)),
    }
    replica.stop().await;
}

/// Keeps the next refresh waiting for longer than the process lives.
async fn hold_next_refresh(provider: &OidcProvider, death: Death) {
    let mode = match death {
        Death::BeforeTheRotation => "hold",
        Death::AfterTheRotation => "delay_after_commit",
    };
    provider.fail(json!({"next": 1, "mode": mode, "delay_ms": 1500})).await;
}

/// Comes back when the provider has the refresh token in hand, or has exchanged it.
async fn refresh_under_way(provider: &OidcProvider, death: Death) {
    let counter = match death {
        Death::BeforeTheRotation => "token_requests",
        Death::AfterTheRotation => "token_successes",
    };
    while provider.records().await[counter]["refresh_token"] != 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn killed_before_the_provider_rotated_it_carries_on_with_sqlite() {
    killed(Kind::Sqlite, Death::BeforeTheRotation).await;
}

#[tokio::test]
async fn killed_before_the_provider_rotated_it_carries_on_with_postgresql() {
    killed(Kind::Postgres, Death::BeforeTheRotation).await;
}

#[tokio::test]
async fn killed_after_the_provider_rotated_it_says_so_with_sqlite() {
    killed(Kind::Sqlite, Death::AfterTheRotation).await;
}

#[tokio::test]
async fn killed_after_the_provider_rotated_it_says_so_with_postgresql() {
    killed(Kind::Postgres, Death::AfterTheRotation).await;
}
