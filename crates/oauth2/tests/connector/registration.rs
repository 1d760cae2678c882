//! Entries whose client is registered: where, and as what.

use serde_json::{Value, json};
use symbolon_domain::{identity_provider::ProviderSecrets, ports::Connectors as _};
use symbolon_oauth2::catalog::Catalog;
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{changed, code_exchange, form, instance, object, ok},
    stand_in::{StandIn, addresses},
};

const ENTRY: &str = r#"
title = "Wiki"
description = "A wiki."
documentation = ["https://wiki.example/oauth"]
checked = "2026-11-25"
evidence = "pages"
[authorization]
[token]
authentication = "basic"
client_secret = "optional"
[registration]
authentication = "post"
[openid]
issuer = "https://wiki.example"
userinfo = false
"#;

/// A wiki whose discovery document says this of its registration.
async fn wiki(entry: &str, changes: &Value) -> StandIn {
    let mut wiki = StandIn::start().await;
    wiki.registry = wiki.registry.with_catalog(Catalog::entry("wiki", entry).unwrap());
    let document = json!({
        "issuer": "https://wiki.example", "authorization_endpoint": "https://wiki.example/authorize",
        "token_endpoint": "https://wiki.example/token", "jwks_uri": "https://wiki.example/jwks",
        "registration_endpoint": "https://wiki.example/register",
    });
    let at = "wiki.example/.well-known/openid-configuration";
    wiki.answer(at, ok(&changed(document, changes)));
    let registered = json!({"client_id": "given", "client_secret": "secret"});
    wiki.answer("wiki.example/register", ResponseTemplate::new(201).set_body_json(registered));
    wiki
}

#[tokio::test]
async fn where_clients_register_may_be_discovered() {
    let world = wiki(ENTRY, &json!({})).await;
    let registered = world.register("wiki", &json!({})).await.unwrap().unwrap();
    assert_eq!(registered.config["token_endpoint_auth_method"], "client_secret_post");
    let sent = &world.requests("wiki.example/register").await[0];
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(sent["grant_types"], json!(["authorization_code"]), "there is no refresh");
    // As it was registered, and not as the entry has it for others.
    let provider = instance("wiki", registered.config);
    let connector = world.registry.connect(&provider, &registered.secrets).unwrap();
    assert!(connector.exchange(&code_exchange()).await.is_err());
    let exchange = &world.requests("wiki.example/token").await[0];
    assert_eq!(form(exchange)["client_secret"], "secret");

    for changes in [
        json!({"registration_endpoint": null}),
        json!({"registration_endpoint": "http://wiki.example/register"}),
        json!({"issuer": "https://evil.example"}),
    ] {
        let world = wiki(ENTRY, &changes).await;
        assert_refused!(world.register("wiki", &json!({})).await, Misconfigured, changes);
    }
}

#[tokio::test]
async fn what_a_client_asks_to_be_allowed_may_be_said() {
    let entry = ENTRY.replace(
        "[registration]",
        "[registration]\ngrant_types = [\"authorization_code\", \"refresh_token\"]",
    );
    let world = wiki(&entry, &json!({})).await;
    world.register("wiki", &json!({})).await.unwrap().unwrap();
    let sent = &world.requests("wiki.example/register").await[0];
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(sent["grant_types"], json!(["authorization_code", "refresh_token"]));
}

#[tokio::test]
async fn a_client_that_must_have_a_secret_is_none_without() {
    let entry = ENTRY.replace("client_secret = \"optional\"", "client_secret = \"required\"");
    let world = wiki(&entry, &json!({})).await;
    // Before it is registered it needs none.
    assert_eq!(world.connect("wiki", &json!({})).err(), None);
    let public = json!({"client_id": "given", "token_endpoint_auth_method": "none"});
    let refused = world.connect("wiki", &public).err().map(|it| it.field);
    assert_eq!(refused.as_deref(), Some("client_secret"));
}

#[tokio::test]
async fn a_registration_of_another_provider_type_is_no_step_of_this_one() {
    let world = StandIn::start().await;
    let provider = instance("github", object(&json!({})));
    let secrets = ProviderSecrets::new();
    assert_eq!(world.registry.register(&provider, &secrets, &addresses()).await, Ok(None));
    assert_eq!(world.registry.deregister(&provider, &secrets).await, Ok(()));
    assert_eq!(world.count().await, 0);
}
