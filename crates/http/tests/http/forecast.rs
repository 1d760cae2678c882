//! Which identities die when.

use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::{Value, json};
use symbolon_domain::{
    credentials::Credentials,
    ports::{
        IdentityProviderRepository as _, IdentityRepository as _, Link, LinkOutcome,
        MockApiKeyRepository, RefreshSchedule as _,
    },
    testing::{MemoryStore, TestClock, fixtures},
};

use crate::app::Ports;

#[tokio::test]
async fn a_forecast_counts_by_provider_and_reason_and_lists_the_next_to_die_first() {
    let clock = Arc::new(TestClock::default());
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let new = fixtures::new_identity_provider();
    let provider_id = store.insert(&new, &fixtures::ACTOR).await.unwrap().id;
    for (name, hours) in [("late", 100), ("soon", 2), ("over", -1), ("beyond", 24 * 8)] {
        let credentials = Credentials {
            refresh_token: None,
            expires_at: Some(fixtures::NOW + TimeDelta::hours(hours)),
            ..fixtures::credentials()
        };
        let link = Link {
            provider_id,
            owner: fixtures::owner(name),
            external_id: fixtures::external_id(name),
            credentials: Some(credentials),
            ..fixtures::link()
        };
        assert!(matches!(store.link(&link).await.unwrap(), LinkOutcome::Created(_)));
    }
    store.plan_missing(10).await.unwrap();
    let mut keys = MockApiKeyRepository::new();
    keys.expect_find_by_hash().returning(|_| Ok(Some(fixtures::api_key())));
    let app = Ports { keys: Arc::new(keys), forecast: store, clock, ..Ports::default() }.app();

    let first = app.get("/v1/forecast?limit=2").await;
    assert_eq!(first.status, 200, "{first:?}");
    let first = first.json();
    let count = |from: Option<&str>, to: &str| {
        json!({
            "count": 1, "from": from, "provider_id": provider_id.0,
            "reason": "no_refresh_token", "to": to,
        })
    };
    let expected = json!([
        count(None, "2026-01-01T00:00:00Z"),
        count(Some("2026-01-01T01:00:00Z"), "2026-01-01T06:00:00Z"),
        count(Some("2026-01-04T00:00:00Z"), "2026-01-08T00:00:00Z"),
    ]);
    assert_eq!(first["counts"], expected);
    let expected = json!({
        "dies_at": "2025-12-31T23:00:00Z", "identity_id": first["items"][0]["identity_id"],
        "provider_id": provider_id.0, "reason": "no_refresh_token", "user_id": "over",
    });
    assert_eq!(first["items"][0], expected);
    assert_eq!(first["items"][1]["user_id"], "soon");
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = app.get(&format!("/v1/forecast?limit=2&cursor={cursor}")).await.json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(rest["items"][0]["user_id"], "late");
    assert_eq!((&rest["counts"], &rest["next_cursor"]), (&json!([]), &Value::Null));

    let all = app.get("/v1/forecast?within=9d").await.json();
    assert_eq!(all["items"].as_array().unwrap().len(), 4);
    let other = app.get("/v1/forecast?within=9d&provider_id=4711").await.json();
    assert_eq!((&other["items"], &other["counts"]), (&json!([]), &json!([])));
}
