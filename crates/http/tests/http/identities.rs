use std::sync::Arc;

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    identity::{Identity, IdentityFilter, IdentityStatus, Invalid, InvalidReason},
    identity_provider::{Capabilities, ProviderSecrets},
    ids::{IdentityId, ProviderId, RevocationId},
    link_evidence::{LinkEvidence, LinkMethod},
    page::Page,
    ports::{
        ConnectorError, DataOutcome, DataUpdate, Link, LinkOutcome, MockConnector, RepositoryError,
        Sent, Taken, UnlinkOutcome,
    },
    secret::Secret,
    testing::fixtures,
};

use crate::app::{ADMIN, Answer, App, Mocks};

#[tokio::test]
async fn an_identity_is_shown_without_any_credential() {
    let mut mocks = Mocks::default();
    mocks.identities.expect_find().return_once(|_| Ok(Some(fixtures::identity())));
    let answer = mocks.app().get("/v1/identities/1").await;
    assert_eq!((answer.status.as_u16(), answer.header("etag")), (200, "\"1\""));
    assert_eq!(answer.header("cache-control"), "private, no-cache");
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer.json()).unwrap(), @r#"
    {
      "data": {
        "name": "Ada"
      },
      "date_added": "2026-01-01T00:00:00Z",
      "date_verified": "2026-01-01T00:00:00Z",
      "expires_at": "2026-01-01T01:00:00Z",
      "external_id": "account-1",
      "id": 1,
      "idp_id": 1,
      "scopes": [
        "openid",
        "email"
      ],
      "status": "valid",
      "user_id": "user-1",
      "version": 1
    }
    "#);
}

#[tokio::test]
async fn an_invalid_identity_says_why_and_since_when() {
    let mut mocks = Mocks::default();
    mocks.identities.expect_find().return_once(|_| {
        let invalid = Invalid { reason: InvalidReason::GrantRejected, at: fixtures::NOW };
        let status = IdentityStatus::Invalid;
        Ok(Some(Identity { status, invalid: Some(invalid), ..fixtures::identity() }))
    });
    let body = mocks.app().get("/v1/identities/1").await.json();
    assert_eq!(body["status"], "invalid");
    let invalid = json!({"reason": "grant_rejected", "at": "2026-01-01T00:00:00Z"});
    assert_eq!(body["invalid"], invalid);
}

#[tokio::test]
async fn who_has_the_version_already_is_sent_no_body() {
    let mut mocks = Mocks::default();
    mocks.identities.expect_find().returning(|_| Ok(Some(fixtures::identity())));
    let app = mocks.app();
    let get = async |if_none_match: &str| {
        let request = Request::get("/v1/identities/1")
            .header("authorization", format!("Bearer {ADMIN}"))
            .header("if-none-match", if_none_match);
        app.send(request.body(Body::empty()).unwrap()).await
    };
    for known in ["\"1\"", "W/\"1\"", "\"7\", \"1\""] {
        let answer = get(known).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (304, ""), "{known}");
        assert_eq!(answer.header("etag"), "\"1\"");
    }
    assert_eq!(get("\"2\"").await.status, 200);
}

#[tokio::test]
async fn an_identity_that_is_not_there_is_not_found() {
    let mut mocks = Mocks::default();
    mocks.identities.expect_find().returning(|_| Ok(None));
    let app = mocks.app();
    app.get("/v1/identities/1").await.problem(404, "not_found");
    for id in ["x", "0", "-1", "01", "1e3", "9223372036854775808", "%20", "%ff"] {
        app.get(&format!("/v1/identities/{id}")).await.refuses("id");
    }
}

#[tokio::test]
async fn filters_combine() {
    let mut mocks = Mocks::default();
    mocks
        .identities
        .expect_list()
        .withf(|filter, page| {
            let expected = IdentityFilter {
                id: Some(IdentityId(7)),
                user_id: Some(fixtures::user("u 1")),
                external_id: Some(fixtures::external_id("a")),
                external_ids: Some(vec![fixtures::external_id("a"), fixtures::external_id("b")]),
                provider_id: Some(ProviderId(3)),
                provider_external_id: Some("eu".into()),
                provider_has_no_external_id: false,
                provider_type: Some("oidc".into()),
                status: Some(IdentityStatus::Valid),
                exclude_matching_external_ids: true,
                provider_types: None,
                providers: None,
                organization_id: None,
            };
            *filter == expected && page.limit == 200
        })
        .return_once(|_, _| Ok(Page { items: vec![fixtures::identity()], next: None }));
    let path = "/v1/identities?id=7&user_id=u%201&identity_ext_id=a&identity_ext_ids=a,b\
        &provider_id=3&provider_ext_id=eu&provider_type=oidc&status=valid\
        &exclude_matching_external_ids=true&limit=200";
    let answer = mocks.app().get(path).await;
    assert_eq!(answer.json()["items"][0]["id"], 1, "{answer:?}");
}

#[tokio::test]
async fn no_account_names_match_nothing_rather_than_everything() {
    let mut mocks = Mocks::default();
    mocks
        .identities
        .expect_list()
        .withf(|filter, _| filter.external_ids == Some(Vec::new()))
        .return_once(|_, _| Ok(Page { items: Vec::new(), next: None }));
    let answer = mocks.app().get("/v1/identities?identity_ext_ids=").await;
    assert_eq!(answer.json(), json!({"items": [], "next_cursor": null}));
}

#[tokio::test]
async fn nobody_reads_every_row_by_mistake() {
    let app = Mocks::default().app();
    for query in ["", "?", "?limit=10", "?exclude_matching_external_ids=true"] {
        let path = format!("/v1/identities{query}");
        app.get(&path).await.problem(400, "filter_required");
    }
}

#[tokio::test]
async fn a_filter_that_makes_no_sense_is_refused_by_name() {
    let app = Mocks::default().app();
    let long = format!("user_id={}", "x".repeat(256));
    let many = format!("identity_ext_ids={}", ["a"; 1001].join(","));
    for (query, field) in [
        ("id=x", "id"),
        ("id=", "id"),
        ("user_id=", "user_id"),
        (&long, "user_id"),
        ("user_id=a%0ab", "user_id"),
        ("user_id=a&user_id=b", "user_id"),
        ("identity_ext_id=", "identity_ext_id"),
        ("identity_ext_ids=a,,b", "identity_ext_ids"),
        (&many, "identity_ext_ids"),
        ("provider_id=oidc", "provider_id"),
        ("status=good", "status"),
        ("user_id=a&exclude_matching_external_ids=1", "exclude_matching_external_ids"),
        ("user_id=a&limit=0", "limit"),
        ("user_id=a&cursor=x", "cursor"),
        ("user_id=a&uesr_id=b", "uesr_id"),
    ] {
        app.get(&format!("/v1/identities?{query}")).await.refuses(field);
    }
}

fn new_identity() -> Value {
    json!({
        "provider_id": 1, "user_id": "user-1", "external_id": "account-1",
        "data": {"name": "Ada", "access_token": "access-1"}, "scopes": ["openid", "email"],
    })
}

fn linking(outcome: LinkOutcome) -> App {
    let mut mocks = Mocks::default();
    mocks
        .identities
        .expect_link()
        .withf(|link| {
            let credentials = link.credentials.as_ref().unwrap();
            assert_eq!(credentials.access_token.as_ref().unwrap().expose(), "access-1");
            let credentials = link.credentials.clone();
            let evidence = LinkEvidence::of(LinkMethod::Vouched);
            Link { credentials, evidence, ..fixtures::link() } == *link
        })
        .return_once(|_| Ok(outcome));
    mocks.app()
}

#[tokio::test]
async fn a_link_is_created_once_and_then_renewed() {
    let app = linking(LinkOutcome::Created(fixtures::identity()));
    let answer = app.post("/v1/identities", new_identity()).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), "/v1/identities/1");
    assert_eq!(answer.header("etag"), "\"1\"");
    assert_eq!(answer.json()["user_id"], "user-1");

    for outcome in [
        LinkOutcome::Updated(Identity { version: 2, ..fixtures::identity() }),
        LinkOutcome::Rebound(Identity { version: 2, ..fixtures::identity() }),
    ] {
        let answer = linking(outcome).post("/v1/identities", new_identity()).await;
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (200, "\"2\""));
        assert_eq!(answer.header("location"), "");
    }
}

#[tokio::test]
async fn a_link_that_is_taken_is_refused() {
    for taken in [Taken::Account, Taken::User] {
        let app = linking(LinkOutcome::Taken(taken));
        let answer = app.post("/v1/identities", new_identity()).await;
        answer.problem(409, "identity_already_linked");
    }
}

#[tokio::test]
async fn a_user_id_may_be_an_integer() {
    let mut mocks = Mocks::default();
    mocks
        .identities
        .expect_link()
        .withf(|link| link.owner == symbolon_domain::ports::LinkOwner::User(fixtures::user("42")))
        .return_once(|_| Err(RepositoryError::NotFound));
    let body = json!({"provider_id": 9, "user_id": 42, "external_id": "a"});
    mocks.app().post("/v1/identities", body).await.refuses("provider_id");
}

#[tokio::test]
async fn a_link_that_makes_no_sense_is_refused_by_field() {
    let app = Mocks::default().app();
    let with = |key: &str, value: Value| {
        let mut body = new_identity();
        body[key] = value;
        body
    };
    let without = |key: &str| {
        let mut body = new_identity();
        body.as_object_mut().unwrap().remove(key);
        body
    };
    for (body, field) in [
        (without("provider_id"), "provider_id"),
        (without("user_id"), "user_id"),
        (with("provider_id", json!("1")), "provider_id"),
        (with("provider_id", json!(1.5)), "provider_id"),
        (with("user_id", json!("")), "user_id"),
        (with("user_id", json!(1.5)), "user_id"),
        (with("user_id", json!(null)), "user_id"),
        (with("external_id", json!(7)), "external_id"),
        (with("external_id", json!("x".repeat(256))), "external_id"),
        (with("data", json!([])), "data"),
        (with("data", json!({"refresh_token": 7})), "data.refresh_token"),
        (with("data", json!({"access_token": "a", "expires": "soon"})), "data.expires"),
        (with("scopes", json!("openid")), "scopes"),
        (with("scopes", json!(["a b"])), "scopes[0]"),
        (with("scopes", json!(["a", 7])), "scopes[1]"),
        (with("reattach", json!("yes")), "reattach"),
        (with("reatach", json!(true)), "reatach"),
    ] {
        app.post("/v1/identities", body).await.refuses(field);
    }
}

async fn put(mocks: Mocks, if_match: Option<&str>, body: &str) -> Answer {
    let mut request = Request::put("/v1/identities/1/data")
        .header("authorization", format!("Bearer {ADMIN}"))
        .header("content-type", "application/json");
    if let Some(if_match) = if_match {
        request = request.header("if-match", if_match);
    }
    mocks.app().send(request.body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn the_body_is_the_whole_new_data() {
    for (if_match, if_version) in [(None, None), (Some("*"), None), (Some("\"7\""), Some(7))] {
        let mut mocks = Mocks::default();
        mocks
            .identities
            .expect_update_data()
            .withf(move |update| *update == DataUpdate { if_version, ..fixtures::data_update() })
            .return_once(|update| {
                let data = update.data.clone();
                Ok(DataOutcome::Updated(Identity { data, version: 8, ..fixtures::identity() }))
            });
        let answer = put(mocks, if_match, r#"{"name": "Grace"}"#).await;
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (200, "\"8\""), "{answer:?}");
        assert_eq!(answer.json()["data"], json!({"name": "Grace"}));
    }
}

#[tokio::test]
async fn credentials_in_data_are_taken_out() {
    let mut mocks = Mocks::default();
    mocks
        .identities
        .expect_update_data()
        .withf(|update| {
            let credentials = update.credentials.as_ref().unwrap();
            update.data.is_empty()
                && credentials.access_token.as_ref().unwrap().expose() == "canary"
                && credentials.expires_at.unwrap().timestamp() == 1_800_000_000
        })
        .return_once(|_| Ok(DataOutcome::Updated(fixtures::identity())));
    let body = r#"{"access_token": "canary", "token_type": "Bearer", "expires": 1800000000}"#;
    let answer = put(mocks, None, body).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("canary"));
}

#[tokio::test]
async fn data_of_another_version_is_not_replaced() {
    let mut mocks = Mocks::default();
    mocks.identities.expect_update_data().return_once(|_| Ok(DataOutcome::VersionConflict));
    put(mocks, Some("\"7\""), "{}").await.problem(412, "version_conflict");
    let mut mocks = Mocks::default();
    mocks.identities.expect_update_data().return_once(|_| Ok(DataOutcome::Absent));
    put(mocks, None, "{}").await.problem(404, "not_found");
}

#[tokio::test]
async fn data_that_makes_no_sense_is_refused_by_name() {
    for (if_match, body, field) in [
        (Some("7"), "{}", "If-Match"),
        (Some("\"seven\""), "{}", "If-Match"),
        (Some("\"7\", \"8\""), "{}", "If-Match"),
        (None, "[]", "body"),
        (None, "null", "body"),
        (None, "{\"a\":", "body"),
        (None, r#"{"access_token": 7}"#, "data.access_token"),
        (None, r#"{"expires": 7}"#, "data.access_token"),
    ] {
        put(Mocks::default(), if_match, body).await.refuses(field);
    }
}

#[tokio::test]
async fn unlinking_revokes_unless_told_not_to() {
    let mut mocks = Mocks::default();
    mocks.identities.expect_unlink().returning(|unlink| {
        assert_eq!((unlink.revoke, &unlink.actor), (false, &fixtures::ACTOR));
        Ok(if unlink.id == fixtures::IDENTITY {
            UnlinkOutcome::Unlinked(fixtures::identity(), None)
        } else {
            UnlinkOutcome::Absent
        })
    });
    // Nothing speaks to the provider here, so one must not be asked.
    let app = mocks.app();
    let answer = app.call(Method::DELETE, "/v1/identities/1?revoke=false", None).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (204, ""));
    let absent = "/v1/identities/2?revoke=false";
    app.call(Method::DELETE, absent, None).await.problem(404, "not_found");
    let path = "/v1/identities/1?revoke=maybe";
    app.call(Method::DELETE, path, None).await.refuses("revoke");

    let mut mocks = Mocks::default();
    let queued = RevocationId(3);
    mocks
        .identities
        .expect_unlink()
        .withf(|unlink| unlink.revoke)
        .return_once(move |_| Ok(UnlinkOutcome::Unlinked(fixtures::identity(), Some(queued))));
    // Somebody else has it already: that must not stop the answer.
    mocks
        .revocations
        .expect_claim()
        .withf(move |id, _| *id == queued)
        .times(1)
        .return_once(|_, _| Ok(None));
    let answer = mocks.app().call(Method::DELETE, "/v1/identities/1", None).await;
    assert_eq!(answer.status, 204);
}

/// An instance of a type whose users bring a token, or ask in a browser.
fn bringing(browser: bool, account: Result<ExternalAccount, ConnectorError>) -> Mocks {
    let mut mocks = Mocks::default();
    mocks
        .providers
        .expect_find_with_secrets()
        .returning(|_| Ok(Some((fixtures::identity_provider(), ProviderSecrets::new()))));
    mocks.connectors.expect_connect().returning(move |_, _| {
        let mut connector = MockConnector::new();
        let capabilities = Capabilities { browser, ..fixtures::capabilities() };
        connector.expect_capabilities().return_const(capabilities);
        let account = account.clone();
        connector.expect_build_identity().returning(move |grant| {
            assert_eq!(grant.credentials.access_token.as_ref().unwrap().expose(), "pat-1");
            account.clone()
        });
        Ok(Arc::new(connector))
    });
    mocks
}

#[tokio::test]
async fn a_token_that_its_user_made_tells_whose_account_it_is() {
    let mut mocks = bringing(false, Ok(fixtures::account()));
    mocks
        .identities
        .expect_link()
        .withf(|link| {
            link.external_id == fixtures::account().external_id
                && link.data["name"] == fixtures::account().name.unwrap().as_str()
                && link.credentials.as_ref().unwrap().access_token == Some(Secret::new("pat-1"))
        })
        .return_once(|_| Ok(LinkOutcome::Created(fixtures::identity())));
    let body = json!({
        "provider_id": 1, "user_id": "user-1",
        // A caller's word on the profile does not count.
        "data": {"access_token": "pat-1", "name": "Mallory"},
    });
    assert_eq!(mocks.app().post("/v1/identities", body).await.status.as_u16(), 201);
}

#[tokio::test]
async fn spaces_around_a_pasted_token_are_not_part_of_it() {
    let mut mocks = bringing(false, Ok(fixtures::account()));
    let is_kept =
        |link: &Link| link.credentials.as_ref().unwrap().access_token == Some(Secret::new("pat-1"));
    let linked = |_: &_| Ok(LinkOutcome::Created(fixtures::identity()));
    mocks.identities.expect_link().withf(is_kept).return_once(linked);
    let body = |token: &str| json!({"provider_id": 1, "user_id": "user-1", "data": {"access_token": token}});
    let answer = mocks.app().post("/v1/identities", body(" \tpat-1\r\n")).await;
    assert_eq!(answer.status.as_u16(), 201);
    for nothing in ["", " ", "\n"] {
        let app = Mocks::default().app();
        app.post("/v1/identities", body(nothing)).await.refuses("data.access_token");
    }
}

#[tokio::test]
async fn a_token_that_tells_nothing_links_nothing() {
    let body = json!({"provider_id": 1, "user_id": "user-1", "data": {"access_token": "pat-1"}});
    let refused = || ConnectorError::Misconfigured { detail: "the call profile said 401".into() };
    let app = bringing(false, Err(refused())).app();
    app.post("/v1/identities", body.clone()).await.refuses("data.access_token");
    let app = bringing(true, Ok(fixtures::account())).app();
    app.post("/v1/identities", body.clone()).await.refuses("external_id");
    let silent = ConnectorError::Unavailable {
        detail: "no answer".into(),
        retry_after: None,
        sent: Sent::Unknown,
    };
    let answer = bringing(false, Err(silent)).app().post("/v1/identities", body).await;
    answer.problem(503, "provider_unavailable");
    let without = json!({"provider_id": 1, "user_id": "user-1"});
    Mocks::default().app().post("/v1/identities", without).await.refuses("external_id");
}
