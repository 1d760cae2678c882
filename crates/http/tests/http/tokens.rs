use std::sync::Arc;

use axum::{
    body::Body,
    http::{Method, Request},
};
use chrono::TimeDelta;
use serde_json::json;
use symbolon_domain::{
    api_key::{ApiKey, KeyScope},
    credentials::Credentials,
    event::Actor,
    identity::{Identity, IdentityFilter, IdentityStatus, Invalid, InvalidReason},
    ids::IdentityId,
    page::Page,
    ports::{
        BackOff, Clock as _, ConnectorError, FailureClass, IdentityProviderRepository,
        IdentityRepository, Link, MockApiKeyRepository, NewIdentityProvider, Sent,
        StoredCredentials,
    },
    testing::{MemoryStore, RefreshFault, ScriptedProvider, TestClock, fixtures},
};

use crate::app::{ADMIN, App, Mocks, Ports};

fn stored(stored: StoredCredentials) -> Mocks {
    let mut mocks = Mocks::default();
    mocks
        .credentials
        .expect_find()
        .returning(move |id| Ok((id == fixtures::IDENTITY).then(|| stored.clone())));
    mocks
}

#[tokio::test]
async fn a_fresh_token_is_handed_out_and_kept_by_no_cache() {
    let app = stored(fixtures::stored_credentials()).app();
    let answer = app.post("/v1/identities/1/token", json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"));
    assert_eq!(answer.header("content-type"), "application/json");
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer.json()).unwrap(), @r#"
    {
      "access_token": "access-1",
      "expires_at": "2026-01-01T01:00:00Z",
      "identity_id": 1,
      "scopes": [
        "openid",
        "email"
      ],
      "token_type": "Bearer"
    }
    "#);

    let needs = json!({"min_ttl_seconds": 60, "scopes": ["email"]});
    assert_eq!(app.post("/v1/identities/1/token", needs).await.status, 200);
}

#[tokio::test]
async fn a_body_may_be_left_out_where_nothing_is_asked() {
    let app = stored(fixtures::stored_credentials()).app();
    assert_eq!(app.call(Method::POST, "/v1/identities/1/token", None).await.status, 200);
    let request = Request::post("/v1/identities/1/token")
        .header("authorization", format!("Bearer {ADMIN}"))
        .body(Body::from("{}"));
    app.send(request.unwrap()).await.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_wish_that_makes_no_sense_is_refused_by_field() {
    let app = Mocks::default().app();
    for (body, field) in [
        (json!({"min_ttl_seconds": -1}), "min_ttl_seconds"),
        (json!({"min_ttl_seconds": "60"}), "min_ttl_seconds"),
        (json!({"min_ttl_seconds": 1.5}), "min_ttl_seconds"),
        (json!({"min_ttl_seconds": 31_622_401}), "min_ttl_seconds"),
        (json!({"min_ttl_seconds": 4_294_967_296_u64}), "min_ttl_seconds"),
        (json!({"scopes": "email"}), "scopes"),
        (json!({"scopes": [""]}), "scopes[0]"),
        (json!({"scope": []}), "scope"),
        (json!([]), "body"),
    ] {
        app.post("/v1/identities/1/token", body).await.refuses(field);
    }
    app.post("/v1/identities/one/token", json!({})).await.refuses("id");
}

#[tokio::test]
async fn a_scope_that_was_not_granted_is_named() {
    let app = stored(fixtures::stored_credentials()).app();
    let answer = app.post("/v1/identities/1/token", json!({"scopes": ["calendar"]})).await;
    answer.refuses("scopes");
}

#[tokio::test]
async fn each_failure_says_who_must_act() {
    let app = stored(fixtures::stored_credentials()).app();
    app.post("/v1/identities/2/token", json!({})).await.problem(404, "not_found");

    let invalid = StoredCredentials {
        status: IdentityStatus::Invalid,
        invalid: Some(Invalid { reason: InvalidReason::GrantRejected, at: fixtures::NOW }),
        ..fixtures::stored_credentials()
    };
    let answer = stored(invalid).app().post("/v1/identities/1/token", json!({})).await;
    answer.problem(409, "identity_not_valid");

    for (class, status, code, retry_after) in [
        (FailureClass::Misconfigured, 502, "provider_misconfigured", ""),
        (FailureClass::Unavailable, 503, "provider_unavailable", "31"),
    ] {
        let until = fixtures::NOW + TimeDelta::milliseconds(30_001);
        let expired = Credentials { expires_at: Some(fixtures::NOW), ..fixtures::credentials() };
        let backing_off = StoredCredentials {
            credentials: Some(expired),
            back_off: Some(BackOff { until, class, ..fixtures::back_off() }),
            ..fixtures::stored_credentials()
        };
        let answer = stored(backing_off).app().post("/v1/identities/1/token", json!({})).await;
        answer.problem(status, code);
        assert_eq!(answer.header("retry-after"), retry_after);
    }
}

/// The first that is found, and whether there are more.
fn found(identities: Vec<Identity>, next: Option<i64>) -> Mocks {
    let mut mocks = stored(fixtures::stored_credentials());
    mocks
        .identities
        .expect_list()
        .withf(|filter, page| {
            let expected = IdentityFilter {
                user_id: Some(fixtures::user("42")),
                provider_type: Some("oidc".into()),
                ..IdentityFilter::default()
            };
            *filter == expected && page.limit == 1
        })
        .return_once(move |_, _| Ok(Page { items: identities, next }));
    mocks
}

#[tokio::test]
async fn a_token_is_found_by_user_and_provider() {
    let asked = json!({"user_id": 42, "provider_type": "oidc", "min_ttl_seconds": 10});
    let answer =
        found(vec![fixtures::identity()], None).app().post("/v1/token", asked.clone()).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"));
    assert_eq!(answer.json()["access_token"], "access-1");

    let nothing = found(vec![], None).app().post("/v1/token", asked.clone()).await;
    let detail = nothing.problem(404, "not_found");
    assert!(detail.contains("POST /v1/link-sessions"), "{detail}");
    let app = found(vec![fixtures::identity()], Some(1)).app();
    let detail = app.post("/v1/token", asked).await.problem(409, "identity_ambiguous");
    assert!(detail.contains("`identity_id`") && detail.contains("`external_id`"), "{detail}");

    let mut mocks = stored(fixtures::stored_credentials());
    mocks
        .identities
        .expect_list()
        .withf(|filter, _| filter.provider_id == Some(fixtures::PROVIDER))
        .return_once(|_, _| Ok(Page { items: vec![fixtures::identity()], next: None }));
    let asked = json!({"user_id": "user-1", "provider_id": 1});
    assert_eq!(mocks.app().post("/v1/token", asked).await.status, 200);
}

#[tokio::test]
async fn one_of_several_accounts_is_chosen_by_identity_or_account() {
    for (more, id, external_id) in [
        (json!({"identity_id": 1}), Some(IdentityId(1)), None),
        (json!({"provider_id": 1, "external_id": "a"}), None, Some(fixtures::external_id("a"))),
    ] {
        let mut mocks = stored(fixtures::stored_credentials());
        mocks
            .identities
            .expect_list()
            .withf(move |filter, _| {
                let IdentityFilter { user_id, .. } = filter;
                *user_id == Some(fixtures::user("user-1"))
                    && (filter.id, &filter.external_id) == (id, &external_id)
            })
            .return_once(|_, _| Ok(Page { items: vec![fixtures::identity()], next: None }));
        let mut asked = json!({"user_id": "user-1"});
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(mocks.app().post("/v1/token", asked).await.status, 200);
    }
}

#[tokio::test]
async fn a_token_by_user_and_provider_needs_both_and_names_what_is_wrong() {
    let app = Mocks::default().app();
    for (body, field) in [
        (json!({"provider_id": 1}), "user_id"),
        (json!({"user_id": "u"}), "provider_id"),
        (json!({"user_id": "u", "provider_id": 1, "provider_type": "oidc"}), "provider_id"),
        (json!({"user_id": "u", "provider_id": "1"}), "provider_id"),
        (json!({"user_id": "u", "provider_type": 1}), "provider_type"),
        (json!({"user_id": "", "provider_id": 1}), "user_id"),
        (json!({"user_id": [], "provider_id": 1}), "user_id"),
        (json!({"user_id": "u", "provider_id": 1, "user": "u"}), "user"),
        (json!({"user_id": "u", "provider_id": 1, "min_ttl_seconds": -1}), "min_ttl_seconds"),
    ] {
        app.post("/v1/token", body).await.refuses(field);
    }
}

#[tokio::test]
async fn a_forced_refresh_takes_no_wishes() {
    let app = Mocks::default().app();
    let path = "/v1/identities/1/refresh";
    app.post(path, json!({"min_ttl_seconds": 1})).await.refuses("min_ttl_seconds");
    app.post("/v1/identities/0/refresh", json!({})).await.refuses("id");
}

/// A service over a scripted provider, and where an identity is refreshed that has these
/// credentials of `account-1`.
async fn refreshing(
    provider: &ScriptedProvider,
    clock: &Arc<TestClock>,
    credentials: Option<Credentials>,
) -> (App, String) {
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let new = NewIdentityProvider {
        provider_type: "scripted".into(),
        ..fixtures::new_identity_provider()
    };
    let id = IdentityProviderRepository::insert(&*store, &new, &Actor::OPERATOR).await.unwrap().id;
    let link = Link { provider_id: id, credentials, ..fixtures::link() };
    let linked = IdentityRepository::link(&*store, &link).await.unwrap();
    let path = format!("/v1/identities/{}/refresh", linked.linked().unwrap().id);
    let mut keys = MockApiKeyRepository::new();
    keys.expect_find_by_hash()
        .returning(|_| Ok(Some(ApiKey { scopes: vec![KeyScope::Admin], ..fixtures::api_key() })));
    let ports = Ports {
        keys: Arc::new(keys),
        identities: store.clone(),
        providers: store.clone(),
        connectors: Arc::new(provider.clone()),
        credentials: store.clone(),
        events: store.clone(),
        revocations: store.clone(),
        auth_identities: store,
        clock: clock.clone(),
        ..Ports::default()
    };
    (ports.app(), path)
}

/// The names in brackets are those of the cases in the reference's inventory.
#[tokio::test]
async fn a_forced_refresh_says_who_must_act_and_asks_again_only_in_doubt() {
    let unavailable = |detail: &str, sent| {
        RefreshFault::Refuse(ConnectorError::Unavailable {
            detail: detail.into(),
            retry_after: None,
            sent,
        })
    };
    let refused =
        RefreshFault::Refuse(ConnectorError::GrantRejected { code: "invalid_grant".into() });
    let misconfigured =
        RefreshFault::Refuse(ConnectorError::ClientRejected { code: "invalid_client".into() });
    for (case, fault, status, code) in [
        ("RF-04 success", None, 200, ""),
        ("RF-08 500", Some(unavailable("500", Sent::Answered)), 503, "provider_unavailable"),
        (
            // Whether it was refreshed is in doubt: it is asked for once more.
            "RF-09, RF-11 no access token",
            Some(unavailable("no access token", Sent::Unknown)),
            200,
            "",
        ),
        (
            "RF-10 no connection",
            Some(unavailable("no connection", Sent::No)),
            503,
            "provider_unavailable",
        ),
        ("refused", Some(refused), 409, "identity_not_valid"),
        ("misconfigured", Some(misconfigured), 502, "provider_misconfigured"),
    ] {
        let clock = Arc::new(TestClock::default());
        let now = clock.clone();
        let provider = ScriptedProvider::new(TimeDelta::hours(1), move || now.now());
        let credentials = provider.grant("account-1");
        let (app, path) = refreshing(&provider, &clock, Some(credentials)).await;
        provider.fail_next(fault);
        let answer = app.call(Method::POST, &path, None).await;
        if code.is_empty() {
            assert_eq!(answer.status.as_u16(), status, "{case}: {answer:?}");
            assert_eq!(answer.json()["version"], 2, "{case}");
            assert!(answer.json()["expires_at"].is_string(), "{case}");
        } else {
            answer.problem(status, code);
        }
        assert_eq!(answer.header("retry-after").is_empty(), status != 503, "{case}: {answer:?}");
        let in_doubt = usize::from(case.starts_with("RF-09"));
        assert_eq!(provider.refreshes(), 1 + in_doubt, "{case}");
        assert!(!answer.body.contains("access-") && !answer.body.contains("refresh-"), "{case}");
    }
}

#[tokio::test]
async fn a_forced_refresh_with_nothing_to_refresh_asks_nobody() {
    let clock = Arc::new(TestClock::default());
    let now = clock.clone();
    let provider = ScriptedProvider::new(TimeDelta::hours(1), move || now.now());
    let pasted = Credentials { refresh_token: None, ..provider.grant("account-1") };
    // [RF-07] no refresh token; [RF-12] a pasted token, which none ever came with; nothing at all.
    for credentials in [Some(pasted), None] {
        let (app, path) = refreshing(&provider, &clock, credentials).await;
        app.call(Method::POST, &path, None).await.problem(409, "identity_not_valid");
        // [RF-06]
        let nobody = "/v1/identities/4711/refresh";
        app.call(Method::POST, nobody, None).await.problem(404, "not_found");
    }
    assert_eq!(provider.refreshes(), 0);
}
