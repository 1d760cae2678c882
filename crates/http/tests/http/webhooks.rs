//! Webhook endpoints and their deliveries.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use symbolon_domain::{
    event::EventKind,
    ids::{WebhookDeliveryId, WebhookEndpointId},
    page::{Page, PageRequest},
    ports::{WebhookAnswer, WebhookEndpointUpdate, WebhookSendError},
    testing::fixtures,
    webhook::{DeliveryStatus, WebhookDelivery, WebhookSecrets},
};

use crate::app::Mocks;

const ID: WebhookEndpointId = WebhookEndpointId(1);

#[tokio::test]
async fn a_webhook_is_made_and_its_secret_is_told_once() {
    let mut mocks = Mocks::default();
    mocks.sender.expect_check().returning(|_| Ok(()));
    mocks.webhooks.expect_insert().times(1).returning(|new, actor| {
        assert_eq!(new.kinds, [EventKind::IdentityLinked, EventKind::IdentityUnlinked]);
        assert!(new.enabled && new.secret.expose().starts_with("whsec_"));
        assert_eq!(actor, &fixtures::ACTOR);
        Ok(fixtures::webhook_endpoint())
    });
    mocks.webhooks.expect_find().returning(|_| Ok(Some(fixtures::webhook_endpoint())));
    let app = mocks.app();
    let types = json!(["identity.unlinked", "identity.linked", "identity.linked"]);
    let body = json!({"url": "https://receiver.example/hook", "types": types});
    let answer = app.post("/v1/webhooks", body).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (201, "no-store"));
    assert!(answer.json()["secret"].as_str().unwrap().starts_with("whsec_"));
    let read = app.get("/v1/webhooks/1").await.json();
    assert_eq!(
        read,
        json!({
            "id": 1, "url": "https://receiver.example/hook", "types": [], "enabled": true,
            "created_at": "2026-01-01T00:00:00Z",
        })
    );
}

#[tokio::test]
async fn an_address_that_must_not_be_called_is_refused_by_the_guard() {
    let mut mocks = Mocks::default();
    mocks.sender.expect_check().returning(|_| Err(WebhookSendError("10.0.0.1 is private".into())));
    let app = mocks.app();
    let body = json!({"url": "https://10.0.0.1/"});
    app.post("/v1/webhooks", body.clone()).await.refuses("url");
    app.call(Method::PATCH, "/v1/webhooks/1", Some(body)).await.refuses("url");
}

#[tokio::test]
async fn a_webhook_is_changed_and_deleted() {
    let mut mocks = Mocks::default();
    mocks.webhooks.expect_update().returning(|id, update, _| {
        let expected = WebhookEndpointUpdate { enabled: Some(false), ..Default::default() };
        assert_eq!(update, &expected);
        Ok((id == ID).then(fixtures::webhook_endpoint))
    });
    mocks.webhooks.expect_delete().returning(|id, _| Ok(id == ID));
    let app = mocks.app();
    let off = Some(json!({"enabled": false}));
    assert_eq!(app.call(Method::PATCH, "/v1/webhooks/1", off.clone()).await.status, 200);
    app.call(Method::PATCH, "/v1/webhooks/2", off).await.problem(404, "not_found");
    assert_eq!(app.call(Method::DELETE, "/v1/webhooks/1", None).await.status, 204);
    app.call(Method::DELETE, "/v1/webhooks/2", None).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_secret_is_replaced_with_an_overlap() {
    let mut mocks = Mocks::default();
    mocks.webhooks.expect_rotate_secret().times(2).returning(|_, _, overlap, _| {
        assert!([Duration::ZERO, Duration::from_hours(24)].contains(&overlap), "{overlap:?}");
        Ok(Some(fixtures::webhook_endpoint()))
    });
    let app = mocks.app();
    for body in [json!({}), json!({"overlap_seconds": 0})] {
        let answer = app.post("/v1/webhooks/1/rotate-secret", body).await;
        assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"));
        assert!(answer.json()["secret"].as_str().unwrap().starts_with("whsec_"));
    }
}

#[tokio::test]
async fn a_test_message_is_sent_at_once_and_its_outcome_answered() {
    for (sent, expected) in [
        (Ok(204), json!({"delivered": true, "status": 204, "error": null})),
        (Ok(500), json!({"delivered": false, "status": 500, "error": "the receiver answered 500"})),
        (Err("no answer"), json!({"delivered": false, "status": null, "error": "no answer"})),
    ] {
        let mut mocks = Mocks::default();
        mocks.webhooks.expect_find_with_secrets().returning(|_| {
            let secrets = WebhookSecrets::one(fixtures::new_webhook_endpoint().secret);
            Ok(Some((fixtures::webhook_endpoint(), secrets)))
        });
        mocks.sender.expect_send().returning(move |message| {
            let body: Value = serde_json::from_str(&message.body).unwrap();
            assert_eq!(body["type"], "webhook_endpoint.test");
            assert!(message.id.starts_with("test_") && message.secrets.len() == 1);
            sent.map(|status| WebhookAnswer { status, retry_after: None })
                .map_err(|error| WebhookSendError(error.into()))
        });
        assert_eq!(
            mocks.app().call(Method::POST, "/v1/webhooks/1/test", None).await.json(),
            expected
        );
    }
}

#[tokio::test]
async fn deliveries_are_listed_and_replayed() {
    let dead = || WebhookDelivery {
        status: DeliveryStatus::Dead,
        last_status: Some(500),
        last_error: Some("the receiver answered 500".into()),
        settled_at: Some(fixtures::NOW),
        ..fixtures::claimed_delivery().delivery
    };
    let mut mocks = Mocks::default();
    let found = |id| Ok((id == ID).then(fixtures::webhook_endpoint));
    mocks.webhooks.expect_find().returning(found);
    mocks.webhooks.expect_list_deliveries().returning(move |_, status, page| {
        assert_eq!(status, Some(DeliveryStatus::Dead));
        assert_eq!(page, PageRequest { limit: 2, after: None });
        Ok(Page { items: vec![dead()], next: None })
    });
    mocks.webhooks.expect_replay().returning(|id, delivery, actor| {
        assert_eq!(actor, &fixtures::ACTOR);
        let known = (id, delivery) == (ID, WebhookDeliveryId(1));
        Ok(known.then(|| fixtures::claimed_delivery().delivery))
    });
    mocks.webhooks.expect_replay_dead().returning(|_, actor| {
        assert_eq!(actor, &fixtures::ACTOR);
        Ok(3)
    });
    let app = mocks.app();
    let list = app.get("/v1/webhooks/1/deliveries?status=dead&limit=2").await.json();
    insta::assert_snapshot!(list, @r#"{"items":[{"attempts":1,"created_at":"2026-01-01T00:00:00Z","event_id":1,"id":1,"identity_id":1,"last_error":"the receiver answered 500","last_status":500,"next_attempt_at":null,"settled_at":"2026-01-01T00:00:00Z","status":"dead","type":"grant.revoked","webhook_id":1}],"next_cursor":null}"#);
    app.get("/v1/webhooks/2/deliveries").await.problem(404, "not_found");

    let replay = async |path: &str| app.call(Method::POST, path, None).await;
    let one = replay("/v1/webhooks/1/deliveries/1/replay").await.json();
    assert_eq!(
        (&one["status"], &one["next_attempt_at"]),
        (&json!("pending"), &json!(fixtures::NOW))
    );
    replay("/v1/webhooks/1/deliveries/2/replay").await.problem(404, "not_found");
    replay("/v1/webhooks/1/deliveries/x/replay").await.refuses("delivery_id");
    assert_eq!(replay("/v1/webhooks/1/replay").await.json(), json!({"replayed": 3}));
    replay("/v1/webhooks/2/replay").await.problem(404, "not_found");
}
