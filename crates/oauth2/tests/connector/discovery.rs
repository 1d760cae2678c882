use std::sync::Arc;

use serde_json::json;
use symbolon_domain::ports::{ConnectorError, Sent};
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{DISCOVERY, Provider, authorization_request, ok},
};

#[tokio::test]
async fn a_provider_that_names_another_issuer_is_refused_before_the_browser_is_sent() {
    let provider = Provider::start().await;
    for other in [
        format!("{}/", provider.issuer),
        provider.issuer.to_uppercase(),
        "https://attacker.example".to_owned(),
    ] {
        let provider = Provider::start().await;
        provider.publish(&json!({"issuer": other}));
        let connector = provider.connector();
        assert_refused!(connector.authorize(&authorization_request()).await, Misconfigured);
        assert_refused!(provider.exchange().await, Misconfigured);
        assert_refused!(provider.refresh().await, Misconfigured);
        assert_refused!(connector.reachable().await, Misconfigured);
        assert_eq!(provider.requests("/token").await.len(), 0);
    }
}

#[tokio::test]
async fn many_callers_at_once_fetch_the_metadata_once() {
    let provider = Provider::start().await;
    provider.answer(
        DISCOVERY,
        ok(&provider.metadata()).set_delay(std::time::Duration::from_millis(50)),
    );
    let connector = provider.connector();
    let calls = (0..32).map(|_| {
        let connector = Arc::clone(&connector);
        tokio::spawn(async move { connector.authorize(&authorization_request()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(call.await.unwrap().is_ok());
    }
    assert_eq!(provider.requests(DISCOVERY).await.len(), 1);
}

#[tokio::test]
async fn instances_of_one_issuer_share_its_documents() {
    let provider = Provider::start().await;
    for _ in 0..3 {
        provider.exchange().await.unwrap();
    }
    assert_eq!(provider.requests(DISCOVERY).await.len(), 1);
    assert_eq!(provider.requests("/jwks").await.len(), 1);
}

#[tokio::test]
async fn metadata_are_fetched_again_after_ten_minutes() {
    let provider = Provider::start().await;
    let connector = provider.connector();
    connector.authorize(&authorization_request()).await.unwrap();
    provider.publish(&json!({"authorization_endpoint": format!("{}/new", provider.issuer)}));
    provider.clock.advance(599);
    let url = connector.authorize(&authorization_request()).await.unwrap();
    assert_eq!(url.path(), "/authorize");
    provider.clock.advance(1);
    let url = connector.authorize(&authorization_request()).await.unwrap();
    assert_eq!(url.path(), "/new");
}

#[tokio::test]
async fn metadata_are_used_for_an_hour_while_the_issuer_is_down_and_not_longer() {
    let provider = Provider::start().await;
    let connector = provider.connector();
    connector.authorize(&authorization_request()).await.unwrap();
    provider.answer(DISCOVERY, ResponseTemplate::new(503));
    provider.clock.advance(3599);
    for _ in 0..10 {
        assert!(connector.authorize(&authorization_request()).await.is_ok());
    }
    assert_eq!(provider.requests(DISCOVERY).await.len(), 2, "tried again, though not each time");
    provider.clock.advance(1);
    assert_refused!(connector.authorize(&authorization_request()).await, Unavailable);
}

#[tokio::test]
async fn metadata_that_name_another_issuer_by_now_are_not_used() {
    let provider = Provider::start().await;
    let connector = provider.connector();
    connector.authorize(&authorization_request()).await.unwrap();
    provider.publish(&json!({"issuer": "https://attacker.example"}));
    provider.clock.advance(600);
    assert_refused!(connector.authorize(&authorization_request()).await, Misconfigured);
}

#[tokio::test]
async fn a_failure_is_remembered_for_five_seconds_and_not_longer() {
    let provider = Provider::start().await;
    let connector = provider.connector();
    provider.answer(DISCOVERY, ResponseTemplate::new(503));
    for _ in 0..10 {
        assert_refused!(connector.authorize(&authorization_request()).await, Unavailable);
    }
    assert_eq!(provider.requests(DISCOVERY).await.len(), 1);
    provider.publish(&json!({}));
    provider.clock.advance(5);
    assert!(connector.authorize(&authorization_request()).await.is_ok());
}

#[tokio::test]
async fn a_document_that_cannot_be_had_leaves_nothing_in_doubt() {
    for (answer, misconfigured) in [
        (ResponseTemplate::new(500), false),
        (ResponseTemplate::new(429), false),
        (ResponseTemplate::new(404), true),
        (ResponseTemplate::new(301).insert_header("location", "/elsewhere"), true),
        (ResponseTemplate::new(200).set_body_string("<html>maintenance</html>"), false),
        (ResponseTemplate::new(200).set_body_string("[]"), false),
        (ResponseTemplate::new(200).set_body_string("x".repeat(100_000)), false),
    ] {
        let provider = Provider::start().await;
        provider.answer(DISCOVERY, answer);
        match provider.refresh().await {
            Err(ConnectorError::Unavailable { sent: Sent::No, .. }) => assert!(!misconfigured),
            Err(ConnectorError::Misconfigured { .. }) => assert!(misconfigured),
            other => panic!("{other:?}"),
        }
        assert_eq!(provider.requests("/token").await.len(), 0);
        assert_eq!(provider.requests("/elsewhere").await.len(), 0);
    }
}

#[tokio::test]
async fn a_document_with_a_name_given_twice_is_refused() {
    let provider = Provider::start().await;
    let twice = provider.metadata().to_string().replacen('{', r#"{"issuer":"x","#, 1);
    provider.answer(DISCOVERY, ResponseTemplate::new(200).set_body_string(twice));
    assert_refused!(provider.connector().authorize(&authorization_request()).await, Unavailable);
}

#[tokio::test]
async fn reachable_asks_the_provider_each_time_and_spends_nothing() {
    let provider = Provider::start().await;
    let connector = provider.connector();
    assert_eq!(connector.reachable().await, Ok(()));
    provider.answer(DISCOVERY, ResponseTemplate::new(503));
    assert_refused!(connector.reachable().await, Unavailable);
    provider.publish(&json!({}));
    assert_eq!(connector.reachable().await, Ok(()));
    assert_eq!(provider.requests("/token").await.len(), 0);
}
