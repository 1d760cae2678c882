//! The type `oauth2`: a provider by its addresses.

use serde_json::{Value, json};
use symbolon_domain::{
    identity_provider::ProviderSecrets,
    ports::{Connectors as _, Revocation},
    secret::Secret,
};
use wiremock::ResponseTemplate;

use crate::provider::{
    Provider, authorization_request, changed, code_exchange, form, instance, object, ok,
    refresh_request,
};

fn config(provider: &Provider, changes: &Value) -> Value {
    let at = |path: &str| format!("{}{path}", provider.issuer);
    let usual = json!({
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "profile_endpoint": at("/me"),
        "revocation_endpoint": at("/revoke"),
        "account_id": "/user/id",
        "account_name": "/user/name",
        "account_email": "/user/mail",
        "account_email_verified": "/user/confirmed",
        "client_id": "client",
        "scopes": ["a", "b"],
        "scope_separator": ",",
        "token_endpoint_auth_method": "client_secret_post",
    });
    changed(usual, changes)
}

fn secrets() -> ProviderSecrets {
    ProviderSecrets::from([("client_secret".to_owned(), Secret::new("secret"))])
}

#[tokio::test]
async fn an_account_is_linked_kept_fresh_and_given_up() {
    let provider = Provider::start().await;
    let config = config(&provider, &json!({}));
    let connector =
        provider.registry.connect(&instance("oauth2", object(&config)), &secrets()).unwrap();
    let url = connector.authorize(&authorization_request()).await.unwrap();
    let query = |name: &str| url.query_pairs().find(|it| it.0 == name).map(|it| it.1.into_owned());
    assert_eq!(query("scope").as_deref(), Some("a,b"));
    assert_eq!(query("code_challenge_method").as_deref(), Some("S256"));
    assert_eq!(query("nonce"), None, "there is no ID token that could hold it");

    provider.answer_tokens(&json!({"scope": "a,b", "id_token": null}));
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    assert_eq!(grant.credentials.scopes, ["a", "b"]);
    let requests = provider.requests("/token").await;
    assert_eq!(form(&requests[0])["client_secret"], "secret");
    let profile =
        json!({"user": {"id": 7, "name": "Ada", "mail": "a@b.example", "confirmed": true}});
    provider.answer("/me", ok(&profile));
    let account = connector.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "7");
    assert_eq!(account.name.as_deref(), Some("Ada"));
    assert!(account.email_verified);
    assert!(connector.refresh(&refresh_request()).await.unwrap().access_token.is_some());
    provider.answer("/revoke", ResponseTemplate::new(200));
    assert_eq!(connector.revoke(&grant.credentials).await, Ok(Revocation::Revoked));
}

#[tokio::test]
async fn an_answer_of_another_kind_is_nobodys_account() {
    let provider = Provider::start().await;
    let config = config(&provider, &json!({}));
    let connector =
        provider.registry.connect(&instance("oauth2", object(&config)), &secrets()).unwrap();
    provider.answer_tokens(&json!({"id_token": null}));
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    for (status, body) in [
        (200, json!({"user": {}})),
        (200, json!({"user": {"id": null}})),
        (200, json!({"user": {"id": ""}})),
        (200, json!({"user": {"id": {"a": 1}}})),
        (200, json!([])),
        (200, json!("7")),
        (403, json!({"user": {"id": 7}})),
        (500, json!({"user": {"id": 7}})),
        (302, json!({"user": {"id": 7}})),
    ] {
        provider.answer("/me", ResponseTemplate::new(status).set_body_json(&body));
        assert!(connector.build_identity(&grant).await.is_err(), "{status} {body}");
    }
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
    let provider = Provider::start().await;
    let check = |changes: Value, secrets: &ProviderSecrets| {
        let config = config(&provider, &changes);
        provider.registry.check("oauth2", &object(&config), secrets).err().map(|it| it.field)
    };
    assert_eq!(check(json!({}), &secrets()), None);
    assert_eq!(check(json!({"token_endpoint_auth_method": null}), &ProviderSecrets::new()), None);
    for (changes, field) in [
        (json!({"token_endpoint": null}), "token_endpoint"),
        (json!({"token_endpoint": "https://x.example/#a"}), "token_endpoint"),
        (json!({"token_endpoint": "https://x.example/{a}"}), "token_endpoint"),
        (json!({"profile_endpoint": "ftp://x.example"}), "profile_endpoint"),
        (json!({"profile_endpoint": "https://u:p@x.example"}), "profile_endpoint"),
        (json!({"account_id": null}), "account_id"),
        (json!({"account_id": "id"}), "account_id"),
        (json!({"pkce": "plain"}), "pkce"),
        (json!({"pkce": "unsupported", "token_endpoint_auth_method": "none"}), "pkce"),
        (json!({"token_endpoint_auth_method": "tls"}), "token_endpoint_auth_method"),
        (json!({"refresh": "no"}), "refresh"),
        (json!({"other": 1}), "other"),
        (json!({"client_id": null}), "client_id"),
    ] {
        assert_eq!(check(changes.clone(), &secrets()).as_deref(), Some(field), "{changes}");
    }
}

#[tokio::test]
async fn without_refresh_tokens_none_is_kept() {
    let provider = Provider::start().await;
    let config = config(&provider, &json!({"refresh": false}));
    let connector =
        provider.registry.connect(&instance("oauth2", object(&config)), &secrets()).unwrap();
    provider.answer_tokens(&json!({"id_token": null}));
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    assert_eq!(grant.credentials.refresh_token, None);
    assert!(!connector.capabilities().refresh);
}
