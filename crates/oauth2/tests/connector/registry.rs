use std::sync::Arc;

use serde_json::json;
use symbolon_domain::{
    identity_provider::{ProviderSecrets, Rotation},
    ports::{Connectors as _, InvalidConfig},
    secret::Secret,
};
use symbolon_oauth2::{
    Registry,
    http::{HttpClient, HttpSettings},
};

use crate::provider::{TestClock, changed, instance, object};

fn registry() -> Registry {
    let http = HttpClient::new(HttpSettings::default()).unwrap();
    Registry::new(http, Arc::new(TestClock::new()))
}

fn check(changes: &serde_json::Value, secret: Option<&str>) -> Result<(), InvalidConfig> {
    let config = json!({"issuer": "https://issuer.example", "client_id": "client"});
    let secrets: ProviderSecrets =
        secret.iter().map(|it| ("client_secret".to_owned(), Secret::new(*it))).collect();
    let config = object(&changed(config, changes));
    let checked = registry().check("oidc", &config, &secrets);
    let connected = registry().connect(&instance("oidc", config), &secrets).map(drop);
    assert_eq!(checked, connected, "both tell the same");
    checked
}

#[tokio::test]
async fn a_configuration_that_fits_is_accepted() {
    for (changes, secret) in [
        (json!({}), None),
        (json!({}), Some("s")),
        (json!({"scopes": ["openid", "email"]}), Some("s")),
        (json!({"token_endpoint_auth_method": "client_secret_basic"}), Some("s")),
        (json!({"token_endpoint_auth_method": "client_secret_post"}), Some("s")),
        (json!({"token_endpoint_auth_method": "none"}), None),
        (json!({"id_token_signing_algs": ["RS256", "EdDSA"]}), Some("s")),
    ] {
        assert_eq!(check(&changes, secret), Ok(()), "{changes}");
    }
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
    for (changes, secret, field) in [
        (json!({"issuer": null}), None, "issuer"),
        (json!({"issuer": ""}), None, "issuer"),
        (json!({"issuer": 1}), None, "issuer"),
        (json!({"issuer": "issuer.example"}), None, "issuer"),
        (json!({"issuer": "http://issuer.example"}), None, "issuer"),
        (json!({"issuer": "https://10.0.0.1"}), None, "issuer"),
        (json!({"issuer": "https://a:b@issuer.example"}), None, "issuer"),
        (json!({"issuer": "https://issuer.example?x=1"}), None, "issuer"),
        (json!({"client_id": null}), None, "client_id"),
        (json!({"client_id": "a\nb"}), None, "client_id"),
        (json!({"client_secret": "in the open"}), None, "client_secret"),
        (json!({}), Some(""), "client_secret"),
        (json!({}), Some("a\nb"), "client_secret"),
        (json!({"scopes": "openid"}), None, "scopes"),
        (json!({"scopes": []}), None, "scopes"),
        (json!({"scopes": ["openid email"]}), None, "scopes"),
        (json!({"scopes": [1]}), None, "scopes"),
        (json!({"token_endpoint_auth_method": "client_secret_basic"}), None, "client_secret"),
        (json!({"token_endpoint_auth_method": "none"}), Some("s"), "token_endpoint_auth_method"),
        (json!({"token_endpoint_auth_method": "tls"}), Some("s"), "token_endpoint_auth_method"),
        (json!({"token_endpoint_auth_method": "tls"}), None, "token_endpoint_auth_method"),
        (json!({"id_token_signing_algs": ["none"]}), None, "id_token_signing_algs"),
        (json!({"id_token_signing_algs": ["HS256"]}), Some("s"), "id_token_signing_algs"),
        (json!({"id_token_signing_algs": []}), None, "id_token_signing_algs"),
        (json!({"isuer": "x"}), None, "isuer"),
    ] {
        let error = check(&changes, secret).unwrap_err();
        assert_eq!(error.field, field, "{changes}: {error}");
    }
}

#[tokio::test]
async fn an_invalid_secret_is_not_quoted() {
    let error = check(&json!({}), Some("canary\n")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"));
    let error = check(&json!({"client_secret": "canary"}), None).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"));
}

#[tokio::test]
async fn an_unknown_type_is_refused() {
    let error = registry().check("nowhere", &object(&json!({})), &[].into()).unwrap_err();
    assert_eq!(error.field, "type");
    assert_eq!(registry().find_type("nowhere"), None);
}

#[tokio::test]
async fn the_catalog_says_what_a_type_needs_and_can_do() {
    let types = registry().types();
    let names: Vec<&str> = types.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["oauth2", "oidc"]);
    let oidc = registry().find_type("oidc").unwrap();
    assert_eq!(types[1], oidc);
    let secrets =
        ["client_secret", "client_secret_next", "client_private_key", "client_private_key_next"];
    assert_eq!(oidc.secret_names, secrets);
    assert!(oidc.capabilities.refresh && oidc.capabilities.revoke && oidc.capabilities.sign_in);
    assert_eq!(oidc.capabilities.rotation, Rotation::MayRotate);
    let schema = oidc.config_schema;
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], json!(["issuer", "client_id"]));
    for secret in secrets {
        assert_eq!(schema["properties"][secret]["writeOnly"], true);
    }
}
