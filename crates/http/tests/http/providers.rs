use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};
use symbolon_domain::{
    identity_provider::{IdentityProvider, ProviderOptions},
    ids::ProviderId,
    page::{Page, PageRequest},
    ports::{InvalidConfig, ProviderDeletion, ProviderFilter, RepositoryError},
    testing::fixtures,
};

use crate::app::{ADMIN, Mocks};

/// The catalog has the one type of the fixtures, and every configuration fits it.
fn with_catalog() -> Mocks {
    let mut mocks = Mocks::default();
    mocks
        .connectors
        .expect_find_type()
        .returning(|name| (name == "oidc").then(fixtures::provider_type));
    mocks.connectors.expect_types().returning(|| vec![fixtures::provider_type()]);
    mocks
}

fn new_provider() -> Value {
    json!({
        "type": "oidc",
        "config": {
            "issuer": "https://op.example", "client_id": "client-1",
            "client_secret": "client-secret-1",
        },
    })
}

#[tokio::test]
async fn a_provider_is_made_and_its_secret_is_not_read_back() {
    let mut mocks = with_catalog();
    mocks.connectors.expect_check().returning(|_, _, _| Ok(()));
    mocks
        .providers
        .expect_insert()
        .withf(|new, actor| *new == fixtures::new_identity_provider() && *actor == fixtures::ACTOR)
        .return_once(|_, _| Ok(fixtures::identity_provider()));
    let answer = mocks.app().post("/v1/providers", new_provider()).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), "/v1/providers/1");
    assert_eq!(answer.header("etag"), "\"1\"");
    assert_eq!(answer.header("cache-control"), "no-store");
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer.json()).unwrap(), @r#"
    {
      "config": {
        "client_id": "client-1",
        "client_secret": "********",
        "issuer": "https://op.example"
      },
      "date_added": "2026-01-01T00:00:00Z",
      "external_id": null,
      "id": 1,
      "login": false,
      "multiple_accounts": false,
      "redirect_uri": "https://symbolon.example/callback/1",
      "type": "oidc",
      "version": 1
    }
    "#);
}

#[tokio::test]
async fn a_provider_that_makes_no_sense_is_refused_by_field() {
    let app = with_catalog().app();
    for (body, field) in [
        (json!({}), "type"),
        (json!({"type": "oidc"}), "config"),
        (json!({"type": "nope", "config": {}}), "type"),
        (json!({"type": 7, "config": {}}), "type"),
        (json!({"type": "oidc", "config": []}), "config"),
        (json!({"type": "oidc", "config": {}, "cofnig": {}}), "cofnig"),
        (json!({"type": "oidc", "external_id": 7, "config": {}}), "external_id"),
        (json!({"type": "oidc", "external_id": "a\u{1}", "config": {}}), "external_id"),
        (json!({"type": "oidc", "config": {"client_secret": 7}}), "config.client_secret"),
        (json!({"type": "oidc", "config": {"client_secret": "********"}}), "config.client_secret"),
    ] {
        app.post("/v1/providers", body).await.refuses(field);
    }
}

#[tokio::test]
async fn a_config_that_does_not_fit_its_type_is_refused_by_key() {
    let mut mocks = with_catalog();
    mocks.connectors.expect_check().returning(|_, _, _| {
        Err(InvalidConfig { field: "issuer".into(), problem: "must be an https address".into() })
    });
    mocks.app().post("/v1/providers", new_provider()).await.refuses("config.issuer");
}

#[tokio::test]
async fn a_provider_that_is_there_is_not_made_again() {
    let mut mocks = with_catalog();
    mocks.connectors.expect_check().returning(|_, _, _| Ok(()));
    mocks.providers.expect_insert().return_once(|_, _| Err(RepositoryError::Conflict));
    let answer = mocks.app().post("/v1/providers", new_provider()).await;
    answer.problem(409, "already_exists");
}

fn numbered(id: i64) -> IdentityProvider {
    IdentityProvider { id: ProviderId(id), ..fixtures::identity_provider() }
}

#[tokio::test]
async fn a_list_goes_on_where_its_cursor_says() {
    let mut mocks = Mocks::default();
    mocks.providers.expect_list().times(2).returning(|filter, page| {
        assert_eq!(
            *filter,
            ProviderFilter {
                provider_type: Some("oidc".into()),
                external_id: Some("eu".into()),
                provider_types: None,
                without_external_id: false,
            }
        );
        match page {
            PageRequest { limit: 2, after: None } => {
                Ok(Page { items: vec![numbered(3), numbered(300)], next: Some(300) })
            }
            PageRequest { limit: 2, after: Some(300) } => {
                Ok(Page { items: vec![numbered(301)], next: None })
            }
            other => panic!("{other:?}"),
        }
    });
    let app = mocks.app();
    let first = app.get("/v1/providers?type=oidc&external_id=eu&limit=2").await.json();
    let ids = |list: &Value| -> Vec<_> {
        list["items"].as_array().unwrap().iter().map(|it| it["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(ids(&first), [3, 300]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let path = format!("/v1/providers?type=oidc&external_id=eu&limit=2&cursor={cursor}");
    let second = app.get(&path).await.json();
    assert_eq!(ids(&second), [301]);
    assert_eq!(second["next_cursor"], Value::Null);
}

#[tokio::test]
async fn the_instance_without_an_external_id_can_be_asked_for() {
    let mut mocks = Mocks::default();
    mocks
        .providers
        .expect_list()
        .withf(|filter, _| {
            let expected = ProviderFilter {
                provider_type: Some("oidc".into()),
                external_id: None,
                without_external_id: true,
                provider_types: None,
            };
            *filter == expected
        })
        .return_once(|_, _| Ok(Page { items: vec![numbered(3)], next: None }));
    let app = mocks.app();
    let list = app.get("/v1/providers?type=oidc&external_id_is_null=true").await.json();
    assert_eq!((&list["items"][0]["id"], &list["items"][1]), (&json!(3), &Value::Null));
    let both = "/v1/providers?type=oidc&external_id=eu&external_id_is_null=true";
    app.get(both).await.refuses("external_id_is_null");
}

#[tokio::test]
async fn a_provider_may_allow_several_accounts_of_one_user() {
    let mut mocks = Mocks::default();
    mocks.providers.expect_insert().withf(|new, _| new.options.multiple_accounts).return_once(
        |new, _| Ok(IdentityProvider { options: new.options, ..fixtures::identity_provider() }),
    );
    mocks.connectors.expect_find_type().returning(|_| Some(fixtures::provider_type()));
    mocks.connectors.expect_check().returning(|_, _, _| Ok(()));
    let body = json!({"type": "oidc", "config": {}, "multiple_accounts": true});
    let answer = mocks.app().post("/v1/providers", body).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["multiple_accounts"]), (201, &json!(true)));
}

#[tokio::test]
async fn a_list_has_fifty_items_unless_asked_otherwise() {
    let mut mocks = Mocks::default();
    mocks
        .providers
        .expect_list()
        .withf(|filter, page| *filter == ProviderFilter::default() && page.limit == 50)
        .return_once(|_, _| Ok(Page { items: Vec::new(), next: None }));
    let answer = mocks.app().get("/v1/providers").await;
    assert_eq!(answer.json(), json!({"items": [], "next_cursor": null}));
}

#[tokio::test]
async fn a_list_with_parameters_that_make_no_sense_is_refused_by_name() {
    let app = Mocks::default().app();
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("cursor=", "cursor"),
        ("cursor=7", "cursor"),
        ("cursor=not-a-cursor!", "cursor"),
        ("cursor=__________8", "cursor"),
        ("limit=1&limit=2", "limit"),
        ("type=a&type=b", "type"),
        ("tpye=oidc", "tpye"),
    ] {
        app.get(&format!("/v1/providers?{query}")).await.refuses(field);
    }
}

#[tokio::test]
async fn one_provider_is_read_with_its_version() {
    let mut mocks = Mocks::default();
    mocks
        .providers
        .expect_find()
        .returning(|id| Ok((id == fixtures::PROVIDER).then(fixtures::identity_provider)));
    let app = mocks.app();
    let answer = app.get("/v1/providers/1").await;
    assert_eq!((answer.status.as_u16(), answer.header("etag")), (200, "\"1\""));
    assert_eq!(answer.json()["config"]["client_secret"], "********");
    app.get("/v1/providers/2").await.problem(404, "not_found");
    for id in ["x", "0", "-1", "1.0", "99999999999999999999", "%ff"] {
        app.get(&format!("/v1/providers/{id}")).await.refuses("id");
    }
}

async fn patch(mocks: Mocks, if_match: Option<&str>, body: &Value) -> crate::app::Answer {
    let mut request = Request::patch("/v1/providers/1")
        .header("authorization", format!("Bearer {ADMIN}"))
        .header("content-type", "application/json");
    if let Some(if_match) = if_match {
        request = request.header("if-match", if_match);
    }
    mocks.app().send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn a_change_is_merged_and_null_removes_a_key() {
    for if_match in [None, Some("*"), Some("\"1\"")] {
        let mut mocks = with_catalog();
        mocks.connectors.expect_check().returning(|_, _, _| Ok(()));
        mocks.providers.expect_find_with_secrets().return_once(|_| {
            let mut before = fixtures::identity_provider();
            before.config = fixtures::object(json!({"client_id": "client-1", "scopes": ["a"]}));
            Ok(Some((before, fixtures::provider_secrets())))
        });
        mocks
            .providers
            .expect_update()
            .withf(|update, actor| {
                let config = fixtures::object(json!({"client_id": "client-2"}));
                let secrets = fixtures::provider_secrets();
                *update == fixtures::provider_update(fixtures::PROVIDER, 1, &config, &secrets)
                    && *actor == fixtures::ACTOR
            })
            .return_once(|update, _| {
                let config = update.config.clone();
                Ok(Some(IdentityProvider { config, version: 2, ..fixtures::identity_provider() }))
            });
        let body = json!({
            "config": {"scopes": null, "client_id": "client-2", "client_secret": "********"},
        });
        let answer = patch(mocks, if_match, &body).await;
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (200, "\"2\""), "{answer:?}");
        let config = json!({"client_id": "client-2", "client_secret": "********"});
        assert_eq!(answer.json()["config"], config);
    }
}

#[tokio::test]
async fn whether_a_user_may_have_several_accounts_can_be_changed() {
    let mut mocks = with_catalog();
    mocks.connectors.expect_check().returning(|_, _, _| Ok(()));
    mocks
        .providers
        .expect_find_with_secrets()
        .return_once(|_| Ok(Some((fixtures::identity_provider(), fixtures::provider_secrets()))));
    mocks.providers.expect_update().return_once(|update, _| {
        let options = update.options;
        Ok(Some(IdentityProvider { options, ..fixtures::identity_provider() }))
    });
    let answer = patch(mocks, None, &json!({"multiple_accounts": true})).await;
    assert_eq!(answer.json()["multiple_accounts"], true);
}

#[tokio::test]
async fn whether_users_sign_in_with_it_is_said_at_the_start_or_later() {
    let mut mocks = with_catalog();
    mocks.connectors.expect_check().returning(|_, _, _| Ok(()));
    mocks.providers.expect_insert().withf(|new, _| new.options.login).return_once(|new, _| {
        let options = new.options;
        Ok(IdentityProvider { options, ..fixtures::identity_provider() })
    });
    let mut body = new_provider();
    body["login"] = json!(true);
    assert_eq!(mocks.app().post("/v1/providers", body).await.json()["login"], true);

    for (body, login) in [(json!({"login": false}), false), (json!({"config": {}}), true)] {
        let mut mocks = with_catalog();
        mocks.connectors.expect_check().returning(|_, _, _| Ok(()));
        let options = ProviderOptions { login: true, ..ProviderOptions::default() };
        mocks.providers.expect_find_with_secrets().return_once(move |_| {
            let provider = IdentityProvider { options, ..fixtures::identity_provider() };
            Ok(Some((provider, fixtures::provider_secrets())))
        });
        mocks.providers.expect_update().return_once(|update, _| {
            let options = update.options;
            Ok(Some(IdentityProvider { options, ..fixtures::identity_provider() }))
        });
        assert_eq!(patch(mocks, None, &body).await.json()["login"], login, "{body}");
    }
}

#[tokio::test]
async fn a_change_that_makes_no_sense_is_refused_by_name() {
    for (if_match, body, field) in [
        (None, json!({}), "config"),
        (None, json!({"config": "x"}), "config"),
        (None, json!({"config": {}, "type": "github"}), "type"),
        (Some("1"), json!({"config": {}}), "If-Match"),
        (Some("\"x\""), json!({"config": {}}), "If-Match"),
        (Some("W/\"1\""), json!({"config": {}}), "If-Match"),
    ] {
        patch(Mocks::default(), if_match, &body).await.refuses(field);
    }
}

#[tokio::test]
async fn a_change_of_another_version_changes_nothing() {
    let mut mocks = Mocks::default();
    mocks
        .providers
        .expect_find_with_secrets()
        .return_once(|_| Ok(Some((fixtures::identity_provider(), fixtures::provider_secrets()))));
    let answer = patch(mocks, Some("\"7\""), &json!({"config": {}})).await;
    let detail = answer.problem(412, "version_conflict");
    assert!(detail.contains("provider"), "{detail}");
}

#[tokio::test]
async fn a_provider_with_identities_is_deleted_only_with_them() {
    let mut mocks = with_catalog();
    mocks.providers.expect_find().returning(|_| Ok(Some(fixtures::identity_provider())));
    mocks.providers.expect_delete().returning(|id, cascade, _| {
        Ok(match (id.0, cascade) {
            (1, false) => ProviderDeletion::InUse(3),
            (1, true) => ProviderDeletion::Deleted(3),
            _ => ProviderDeletion::Absent,
        })
    });
    let app = mocks.app();
    let detail = app.call(Method::DELETE, "/v1/providers/1", None).await;
    assert!(detail.problem(409, "provider_in_use").contains('3'));
    let path = "/v1/providers/1?cascade=false";
    app.call(Method::DELETE, path, None).await.problem(409, "provider_in_use");
    let deleted = app.call(Method::DELETE, "/v1/providers/1?cascade=true", None).await;
    assert_eq!((deleted.status.as_u16(), &*deleted.body), (204, ""));
    app.call(Method::DELETE, "/v1/providers/2", None).await.problem(404, "not_found");
    for (query, field) in [("cascade=yes", "cascade"), ("cascde=true", "cascde")] {
        let path = format!("/v1/providers/1?{query}");
        app.call(Method::DELETE, &path, None).await.refuses(field);
    }
}

#[tokio::test]
async fn the_catalog_tells_what_each_type_needs_and_can_do() {
    let app = with_catalog().app();
    let list = app.get("/v1/provider-types").await.json();
    let one = app.get("/v1/provider-types/oidc").await.json();
    assert_eq!(list, json!({"items": [one], "next_cursor": null}));
    insta::assert_snapshot!(serde_json::to_string_pretty(&one).unwrap(), @r#"
    {
      "capabilities": {
        "browser": true,
        "device": false,
        "refresh": true,
        "revoke": true,
        "rotation": "may_rotate",
        "sign_in": true
      },
      "config_schema": {
        "type": "object"
      },
      "description": "Any OpenID provider.",
      "documentation": "https://openid.net/specs/openid-connect-core-1_0.html",
      "notes": [],
      "registration": {},
      "secrets": [
        "client_secret"
      ],
      "title": "OpenID Connect",
      "type": "oidc"
    }
    "#);
    app.get("/v1/provider-types/nope").await.problem(404, "not_found");
    app.get("/v1/provider-types/%ff").await.problem(404, "not_found");
    app.get("/v1/provider-types?type=oidc").await.refuses("type");
}
