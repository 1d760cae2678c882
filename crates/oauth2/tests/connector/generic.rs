//! The type `oauth2`: a provider by its addresses.

use std::sync::Arc;

use serde_json::{Value, json};
use symbolon_domain::{
    identity_provider::ProviderSecrets,
    ports::{Connector, ConnectorError, Connectors as _, DevicePoll, Revocation},
    secret::Secret,
};
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{
        Provider, authorization_request, changed, code_exchange, form, instance, object, ok,
        refresh_request,
    },
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

const METADATA: &str = "/.well-known/oauth-authorization-server";

/// What the issuer says of itself (RFC 8414): no keys, as it is no OpenID provider.
fn publish(provider: &Provider, changes: &Value) {
    let at = |path: &str| format!("{}{path}", provider.issuer);
    let usual = json!({
        "issuer": provider.issuer,
        "authorization_endpoint": at("/its/authorize"),
        "token_endpoint": at("/its/token"),
        "revocation_endpoint": at("/its/revoke"),
        "device_authorization_endpoint": at("/its/device"),
        "userinfo_endpoint": at("/its/me"),
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
    });
    provider.answer(METADATA, ok(&changed(usual, changes)));
}

/// The least that a configuration by an issuer has.
fn by_issuer(provider: &Provider, changes: &Value) -> Value {
    let least = json!({"issuer": provider.issuer, "account_id": "/id", "client_id": "client"});
    changed(least, changes)
}

fn connect(provider: &Provider, config: &Value) -> Arc<dyn Connector> {
    provider.registry.connect(&instance("oauth2", object(config)), &secrets()).unwrap()
}

async fn verify(provider: &Provider, config: &Value) -> Result<(), ConnectorError> {
    provider.registry.verify("oauth2", &object(config), &secrets()).await
}

#[tokio::test]
async fn a_device_is_authorized_where_the_configuration_says_where() {
    let provider = Provider::start().await;
    let without = connect(&provider, &config(&provider, &json!({})));
    assert!(!without.capabilities().device);
    assert_refused!(without.device_authorize(&[]).await, Misconfigured);

    let at = format!("{}/device", provider.issuer);
    let config = config(&provider, &json!({"device_authorization_endpoint": at}));
    let connector = connect(&provider, &config);
    assert!(connector.capabilities().device);
    let asked = json!({
        "device_code": "code-1", "user_code": "WDJB-MJHT", "expires_in": 900,
        "verification_uri": "https://provider.example/device",
    });
    provider.answer("/device", ok(&asked));
    let authorization = connector.device_authorize(&[]).await.unwrap();
    assert_eq!(authorization.user_code, "WDJB-MJHT");
    let sent = form(&provider.requests("/device").await[0]);
    assert_eq!((sent["scope"].as_str(), sent["client_id"].as_str()), ("a,b", "client"));

    let pending = json!({"error": "authorization_pending"});
    provider.answer("/token", ResponseTemplate::new(400).set_body_json(pending));
    let code = authorization.device_code;
    assert_eq!(connector.device_poll(&code, &[]).await, Ok(DevicePoll::Pending));
    provider.answer_tokens(&json!({"id_token": null}));
    let DevicePoll::Granted(grant) = connector.device_poll(&code, &[]).await.unwrap() else {
        panic!("a grant")
    };
    provider.answer("/me", ok(&json!({"user": {"id": 7}})));
    assert_eq!(connector.build_identity(&grant).await.unwrap().external_id.as_str(), "7");
    let sent = form(&provider.requests("/token").await[1]);
    assert_eq!(
        (sent["device_code"].as_str(), sent["client_secret"].as_str()),
        ("code-1", "secret")
    );
}

#[tokio::test]
async fn an_issuer_says_where_everything_is() {
    let provider = Provider::start().await;
    publish(&provider, &json!({}));
    let config = by_issuer(&provider, &json!({}));
    assert_eq!(verify(&provider, &config).await, Ok(()));
    let connector = connect(&provider, &config);
    let capabilities = connector.capabilities();
    assert!(capabilities.device && capabilities.revoke && capabilities.refresh);

    let url = connector.authorize(&authorization_request()).await.unwrap();
    assert_eq!(url.path(), "/its/authorize");
    let tokens = json!({
        "access_token": "access-1", "refresh_token": "refresh-1", "token_type": "Bearer",
        "expires_in": 3600,
    });
    provider.answer("/its/token", ok(&tokens));
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    // It said how clients authenticate.
    assert_eq!(form(&provider.requests("/its/token").await[0])["client_secret"], "secret");
    provider.answer("/its/me", ok(&json!({"id": "ada"})));
    assert_eq!(connector.build_identity(&grant).await.unwrap().external_id.as_str(), "ada");
    assert!(connector.refresh(&refresh_request()).await.is_ok());
    provider.answer("/its/revoke", ResponseTemplate::new(200));
    assert_eq!(connector.revoke(&grant.credentials).await, Ok(Revocation::Revoked));
    assert_eq!(connector.reachable().await, Ok(()));
    let asked = json!({
        "device_code": "code-1", "user_code": "WDJB-MJHT", "expires_in": 900,
        "verification_uri": "https://provider.example/device",
    });
    provider.answer("/its/device", ok(&asked));
    assert!(connector.device_authorize(&[]).await.is_ok());
}

#[tokio::test]
async fn what_is_configured_goes_before_what_the_issuer_says() {
    let provider = Provider::start().await;
    publish(
        &provider,
        &json!({"revocation_endpoint": null, "device_authorization_endpoint": null}),
    );
    let at = |path: &str| format!("{}{path}", provider.issuer);
    let own = json!({
        "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
        "profile_endpoint": at("/me"), "token_endpoint_auth_method": "client_secret_basic",
    });
    let connector = connect(&provider, &by_issuer(&provider, &own));
    let url = connector.authorize(&authorization_request()).await.unwrap();
    assert_eq!(url.path(), "/authorize");
    provider.answer_tokens(&json!({"id_token": null}));
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    assert!(provider.requests("/token").await[0].headers.contains_key("authorization"));
    provider.answer("/me", ok(&json!({"id": "ada"})));
    assert_eq!(connector.build_identity(&grant).await.unwrap().external_id.as_str(), "ada");
    assert_eq!(connector.revoke(&grant.credentials).await, Ok(Revocation::Unsupported));
    assert_refused!(connector.device_authorize(&[]).await, Misconfigured);
    for path in ["/its/authorize", "/its/token", "/its/me"] {
        assert!(provider.requests(path).await.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn metadata_of_another_issuer_or_without_what_is_needed_are_not_used() {
    let provider = Provider::start().await;
    let config = by_issuer(&provider, &json!({}));
    for bad in [
        json!({"issuer": "https://attacker.example"}),
        json!({"issuer": format!("{}/", provider.issuer)}),
        json!({"issuer": null}),
        json!({"token_endpoint": null}),
        json!({"token_endpoint": "https://user:pass@x.example/token"}),
        json!({"userinfo_endpoint": null}),
        json!({"userinfo_endpoint": format!("{}/me?a={{b}}", provider.issuer)}),
    ] {
        let provider = Provider::start().await;
        let config = changed(config.clone(), &json!({"issuer": provider.issuer}));
        publish(&provider, &bad);
        assert_refused!(verify(&provider, &config).await, Misconfigured);
        let connector = connect(&provider, &config);
        assert_refused!(connector.authorize(&authorization_request()).await, Misconfigured);
        assert_refused!(connector.refresh(&refresh_request()).await, Misconfigured);
        assert!(provider.requests("/its/token").await.is_empty(), "{bad}");
    }
    // One that answers nothing was not asked yet, as far as the instance goes.
    provider.answer(METADATA, ResponseTemplate::new(503));
    assert_refused!(verify(&provider, &config).await, Unavailable);
    publish(&provider, &json!({"code_challenge_methods_supported": ["plain"]}));
    let connector = connect(&provider, &config);
    verify(&provider, &config).await.unwrap();
    assert_refused!(connector.authorize(&authorization_request()).await, Misconfigured);
}

#[tokio::test]
async fn a_response_of_a_known_issuer_names_that_one_or_none() {
    let provider = Provider::start().await;
    publish(&provider, &json!({}));
    let connector = connect(&provider, &by_issuer(&provider, &json!({})));
    assert_eq!(connector.check_issuer(Some(&provider.issuer), true).await, Ok(()));
    assert_eq!(connector.check_issuer(None, false).await, Ok(()));
    assert_refused!(connector.check_issuer(None, true).await, Untrusted);
    for other in ["https://attacker.example", &format!("{}/", provider.issuer), ""] {
        assert_refused!(connector.check_issuer(Some(other), false).await, Untrusted);
    }
    let says_so = Provider::start().await;
    publish(&says_so, &json!({"authorization_response_iss_parameter_supported": true}));
    let connector = connect(&says_so, &by_issuer(&says_so, &json!({})));
    assert_refused!(connector.check_issuer(None, false).await, Untrusted);
    assert_eq!(connector.check_issuer(Some(&says_so.issuer), false).await, Ok(()));
    // Without an issuer nobody knows what it calls itself.
    let connector = connect(&provider, &config(&provider, &json!({})));
    assert_eq!(connector.check_issuer(Some("https://whoever.example"), false).await, Ok(()));
}

#[tokio::test]
async fn what_this_type_cannot_do_is_told_of_a_known_issuer() {
    let provider = Provider::start().await;
    publish(&provider, &json!({"require_pushed_authorization_requests": true}));
    let connector = connect(&provider, &by_issuer(&provider, &json!({})));
    assert_refused!(connector.authorize(&authorization_request()).await, Misconfigured);

    let binding = Provider::start().await;
    let config = by_issuer(&binding, &json!({"dpop": true}));
    publish(&binding, &json!({"dpop_signing_alg_values_supported": ["RS256"]}));
    assert_refused!(verify(&binding, &config).await, Misconfigured);
    publish(&binding, &json!({"dpop_signing_alg_values_supported": ["ES256"]}));
    assert_eq!(verify(&binding, &config).await, Ok(()));
    let connector = connect(&binding, &config);
    let request = symbolon_domain::ports::AuthorizationRequest {
        dpop_key: connector.new_dpop_key(),
        ..authorization_request()
    };
    let url = connector.authorize(&request).await.unwrap();
    assert!(url.query_pairs().any(|it| it.0 == "dpop_jkt"));
}

#[tokio::test]
async fn a_configuration_by_issuer_that_does_not_fit_is_refused_by_its_field() {
    let provider = Provider::start().await;
    let check = |changes: Value| {
        let config = by_issuer(&provider, &changes);
        provider.registry.check("oauth2", &object(&config), &secrets()).err().map(|it| it.field)
    };
    assert_eq!(check(json!({})), None);
    for (changes, field) in [
        (json!({"issuer": "https://x.example?a"}), "issuer"),
        (json!({"issuer": "issuer"}), "issuer"),
        (json!({"issuer": 1}), "issuer"),
        (json!({"issuer": null}), "authorization_endpoint"),
        (json!({"token_endpoint": "https://x.example/#a"}), "token_endpoint"),
        (json!({"device_authorization_endpoint": "x"}), "device_authorization_endpoint"),
        (json!({"account_id": null}), "account_id"),
        (json!({"pkce": "plain"}), "pkce"),
        (json!({"dpop": "yes"}), "dpop"),
    ] {
        // `account_id` is read before the addresses.
        assert_eq!(check(changes.clone()).as_deref(), Some(field), "{changes}");
    }
    assert!(provider.server.received_requests().await.unwrap().is_empty(), "nobody was asked");
}
