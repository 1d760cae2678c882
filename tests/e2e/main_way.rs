//! The main job against a real OpenID provider: link an account, keep it, hand out a token that
//! works, fresh after it expired, and end it.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    oidc_provider::{CONFIDENTIAL, OidcProvider, Options},
    service::{Installation, Kind, Replica},
};

/// What the provider's tokens are good for, in seconds: long enough that a loaded machine gets
/// through the calls that must find one token fresh, a quarter of its life being the margin.
const TOKEN_TTL: u64 = 20;

/// A provider that knows the installation, the service over it, and a linked identity.
async fn linked(kind: Kind) -> (OidcProvider, Installation, Replica, i64) {
    let installation = Installation::new(kind).await;
    let provider = provider_for(&installation, TOKEN_TTL);
    let replica = installation.start().await;
    let id = replica.register(config(&provider)).await;
    let identity = replica.link(id, "ada").await;
    (provider, installation, replica, identity)
}

/// The provider instance is the first row of its table, so its redirect URI is known.
pub(crate) fn provider_for(installation: &Installation, token_ttl: u64) -> OidcProvider {
    OidcProvider::start(&Options {
        redirect_uris: vec![format!("http://{}/callback/1", installation.public)],
        access_token_ttl: Duration::from_secs(token_ttl),
        always_refresh_tokens: false,
        dpop_nonces: false,
    })
}

pub(crate) fn config(provider: &OidcProvider) -> Value {
    let (client_id, client_secret) = CONFIDENTIAL;
    json!({"issuer": provider.issuer, "client_id": client_id, "client_secret": client_secret})
}

/// How often the provider was sent a refresh token, and how often a spent one.
async fn refreshes(provider: &OidcProvider) -> (u64, u64) {
    let records = provider.records().await;
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    (count(&records["token_requests"]["refresh_token"]), count(&records["refresh_reuses"]))
}

fn access_token(answer: &Value) -> String {
    answer["access_token"].as_str().unwrap().to_owned()
}

async fn the_whole_way(kind: Kind) {
    let (provider, _installation, replica, identity) = linked(kind).await;

    let shown = replica.get(&format!("/v1/identities/{identity}")).await.good();
    assert_eq!(shown["user_id"], "ada");
    assert_eq!(shown["status"], "valid");
    assert!(!shown["data"].as_object().unwrap().keys().any(|key| key.contains("token")));

    // The token works at the provider, and asking again asks nobody.
    let first = access_token(&replica.token(identity).await.good());
    assert_eq!(provider.userinfo(&first).await, StatusCode::OK);
    assert_eq!(access_token(&replica.token(identity).await.good()), first);
    assert_eq!(refreshes(&provider).await, (0, 0));
    let by_key = json!({"user_id": "ada", "provider_type": "oidc"});
    assert_eq!(access_token(&replica.post("/v1/token", by_key).await.good()), first);

    // It expires (the provider counts in whole seconds); the next one is fresh and works.
    tokio::time::sleep(Duration::from_secs(TOKEN_TTL + 2)).await;
    assert_eq!(provider.userinfo(&first).await, StatusCode::UNAUTHORIZED);
    let second = access_token(&replica.token(identity).await.good());
    assert_ne!(second, first);
    assert_eq!(provider.userinfo(&second).await, StatusCode::OK);

    // A forced refresh replaces it at once.
    let forced = replica.post(&format!("/v1/identities/{identity}/refresh"), json!({})).await;
    assert_eq!(forced.good()["id"], identity);
    let third = access_token(&replica.token(identity).await.good());
    assert_ne!(third, second);
    assert_eq!(provider.userinfo(&third).await, StatusCode::OK);
    assert_eq!(refreshes(&provider).await, (2, 0));

    // The user removes the link: the grant ends at the provider too.
    let path = format!("/v1/identities/{identity}");
    let removed = replica.call(Method::DELETE, &path, None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(provider.records().await["revocations"], 1);
    assert_eq!(provider.userinfo(&third).await, StatusCode::UNAUTHORIZED);
    assert_eq!(replica.get(&path).await.code(), "not_found");
    assert_eq!(replica.token(identity).await.code(), "not_found");
    replica.stop().await;
}

#[tokio::test]
async fn a_link_lives_its_whole_life_on_sqlite() {
    the_whole_way(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_link_lives_its_whole_life_on_postgresql() {
    the_whole_way(Kind::Postgres).await;
}

#[tokio::test]
async fn what_one_replica_links_another_serves_and_refreshes() {
    let (provider, installation, first, identity) = linked(Kind::Postgres).await;
    let second = installation.start_another().await;
    let token = access_token(&second.token(identity).await.good());
    assert_eq!(provider.userinfo(&token).await, StatusCode::OK);
    tokio::time::sleep(Duration::from_secs(TOKEN_TTL)).await;
    let fresh = access_token(&second.token(identity).await.good());
    assert_eq!(access_token(&first.token(identity).await.good()), fresh);
    assert_eq!(provider.userinfo(&fresh).await, StatusCode::OK);
    assert_eq!(refreshes(&provider).await, (1, 0));
    first.stop().await;
    second.stop().await;
}

/// 500 callers at once, spread over these replicas; all get a token that works.
async fn crowd(provider: &OidcProvider, replicas: &[&Replica], identity: i64) {
    let calls = (0..500).map(|caller| replicas[caller % replicas.len()].token(identity));
    let answers = futures_util::future::join_all(calls).await;
    let mut tokens: Vec<_> = answers.into_iter().map(|it| access_token(&it.good())).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "everybody gets the same token");
    assert_eq!(provider.userinfo(&tokens[0]).await, StatusCode::OK);
}

async fn two_crowds(kind: Kind, count: usize) {
    let installation = Installation::new(kind).await;
    // Long enough that no token ends while a crowd is being served.
    let provider = provider_for(&installation, 15);
    let mut replicas = vec![installation.start().await];
    while replicas.len() < count {
        replicas.push(installation.start_another().await);
    }
    let id = replicas[0].register(config(&provider)).await;
    let identity = replicas[0].link(id, "grace").await;
    let all: Vec<_> = replicas.iter().collect();
    for crowds in 1..=2 {
        tokio::time::sleep(Duration::from_secs(15)).await;
        crowd(&provider, &all, identity).await;
        assert_eq!(refreshes(&provider).await, (crowds, 0));
    }
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test]
async fn five_hundred_callers_at_two_replicas_cost_one_refresh_and_the_next_works() {
    two_crowds(Kind::Postgres, 2).await;
}

#[tokio::test]
async fn five_hundred_callers_at_one_process_on_sqlite_cost_one_refresh_and_the_next_works() {
    two_crowds(Kind::Sqlite, 1).await;
}

#[tokio::test]
async fn a_user_who_ended_the_grant_is_asked_to_link_again_and_then_it_works() {
    let (provider, _installation, replica, identity) = linked(Kind::Sqlite).await;
    let token = access_token(&replica.token(identity).await.good());
    provider.withdraw("ada").await;
    tokio::time::sleep(Duration::from_secs(TOKEN_TTL)).await;
    let refused = replica.token(identity).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, "identity_not_valid"));
    let shown = replica.get(&format!("/v1/identities/{identity}")).await.good();
    assert_eq!(shown["status"], "invalid");
    assert_eq!(replica.link(1, "ada").await, identity);
    let again = access_token(&replica.token(identity).await.good());
    assert_ne!(again, token);
    assert_eq!(provider.userinfo(&again).await, StatusCode::OK);
    replica.stop().await;
}
