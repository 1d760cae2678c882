//! Device authorization, by an issuer and by an entry of the catalog.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use symbolon_domain::{
    ports::{Connector, ConnectorError, DevicePoll, Sent},
    secret::Secret,
};
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{Provider, changed, form, of_the_catalog, ok},
};

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
const CODE: &str = "canary-device-code";

async fn start() -> Provider {
    let provider = Provider::start().await;
    let at = format!("{}/device", provider.issuer);
    provider.publish(&json!({ "device_authorization_endpoint": at }));
    provider.answer("/device", ok(&authorization(&json!({}))));
    provider
}

fn authorization(changes: &Value) -> Value {
    let usual = json!({
        "device_code": CODE, "user_code": "WDJB-MJHT", "expires_in": 900, "interval": 7,
        "verification_uri": "https://provider.example/device",
        "verification_uri_complete": "https://provider.example/device?user_code=WDJB-MJHT",
    });
    changed(usual, changes)
}

fn refused(status: u16, error: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({ "error": error }))
}

async fn poll(connector: &Arc<dyn Connector>) -> Result<DevicePoll, ConnectorError> {
    connector.device_poll(&Secret::new(CODE), &[]).await
}

#[tokio::test]
async fn a_device_asks_with_its_scopes_as_an_authenticated_client() {
    let provider = start().await;
    let asked = provider.connector().device_authorize(&["mail".into()]).await.unwrap();
    assert_eq!(asked.device_code, Secret::new(CODE));
    assert_eq!(asked.user_code, "WDJB-MJHT");
    assert_eq!(asked.verification_uri.as_str(), "https://provider.example/device");
    let complete = asked.verification_uri_complete.unwrap();
    assert_eq!(complete.as_str(), "https://provider.example/device?user_code=WDJB-MJHT");
    assert_eq!(asked.expires_in, Duration::from_mins(15));
    assert_eq!(asked.interval, Duration::from_secs(7));

    let requests = provider.requests("/device").await;
    assert_eq!(form(&requests[0])["scope"], "openid mail");
    assert!(requests[0].headers.contains_key("authorization"));
    // A public client says who it is in the body.
    let public = provider.connector_with(&json!({"client_secret": null}));
    public.device_authorize(&[]).await.unwrap();
    let requests = provider.requests("/device").await;
    assert_eq!(form(&requests[1])["client_id"], "client");
    assert_eq!(form(&requests[1])["scope"], "openid profile email");
}

#[tokio::test]
async fn what_may_be_left_out_is_and_what_must_be_there_is_asked_for() {
    let provider = start().await;
    let sparse = json!({"interval": null, "verification_uri_complete": null});
    provider.answer("/device", ok(&authorization(&sparse)));
    let asked = provider.connector().device_authorize(&[]).await.unwrap();
    assert_eq!((asked.interval, asked.verification_uri_complete), (Duration::from_secs(5), None));

    for bad in [
        json!({"device_code": null}),
        json!({"device_code": 5}),
        json!({"device_code": "a\nb"}),
        json!({"user_code": null}),
        json!({"user_code": "a\u{7}"}),
        json!({"user_code": "x".repeat(256)}),
        json!({"verification_uri": null}),
        json!({"verification_uri": "javascript:alert(1)"}),
        json!({"verification_uri_complete": "javascript:alert(1)"}),
        json!({"verification_uri": "https://user:pass@provider.example/"}),
        json!({"expires_in": null}),
        json!({"expires_in": "soon"}),
    ] {
        provider.answer("/device", ok(&authorization(&bad)));
        let result = provider.connector().device_authorize(&[]).await;
        let Err(ConnectorError::Unavailable { detail, sent, .. }) = result else {
            panic!("{bad}: {result:?}")
        };
        assert_eq!(sent, Sent::Answered);
        assert!(!detail.contains("canary"), "{detail}");
    }
}

#[tokio::test]
async fn a_provider_that_refuses_to_authorize_devices_says_who_must_act() {
    let provider = start().await;
    for code in ["invalid_client", "unauthorized_client", "invalid_scope"] {
        provider.answer("/device", refused(400, code));
        assert_refused!(provider.connector().device_authorize(&[]).await, ClientRejected);
    }
    provider.answer("/device", ResponseTemplate::new(503));
    assert_refused!(provider.connector().device_authorize(&[]).await, Unavailable);
    let without = Provider::start().await;
    assert_refused!(without.connector().device_authorize(&[]).await, Misconfigured);
    assert!(without.requests("/device").await.is_empty());
}

#[tokio::test]
async fn while_the_user_has_not_decided_the_answer_is_to_wait() {
    let provider = start().await;
    let connector = provider.connector();
    for status in [400, 200, 403, 429] {
        provider.answer("/token", refused(status, "authorization_pending"));
        assert_eq!(poll(&connector).await, Ok(DevicePoll::Pending), "{status}");
        provider.answer("/token", refused(status, "slow_down"));
        assert_eq!(poll(&connector).await, Ok(DevicePoll::SlowDown), "{status}");
    }
    let requests = provider.requests("/token").await;
    let sent = form(&requests[0]);
    assert_eq!(sent["grant_type"], DEVICE_GRANT);
    assert_eq!(sent["device_code"], CODE);
    assert!(requests[0].headers.contains_key("authorization"));
    assert_eq!(requests.len(), 8, "each poll is one request");
}

#[tokio::test]
async fn a_poll_that_is_refused_says_who_must_act() {
    let provider = start().await;
    let connector = provider.connector();
    for (code, shown) in [
        ("access_denied", "access_denied"),
        ("authorization_declined", "access_denied"),
        ("expired_token", "expired_token"),
        ("invalid_grant", "invalid_grant"),
    ] {
        provider.answer("/token", refused(400, code));
        let expected = ConnectorError::GrantRejected { code: shown.into() };
        assert_eq!(poll(&connector).await, Err(expected));
    }
    provider.answer("/token", refused(401, "invalid_client"));
    assert_refused!(poll(&connector).await, ClientRejected);
    // A code that quotes what was sent is not passed on.
    provider.answer("/token", refused(400, CODE));
    let error = poll(&connector).await.unwrap_err();
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    provider.answer("/token", ResponseTemplate::new(502));
    assert_refused!(poll(&connector).await, Unavailable);
}

#[tokio::test]
async fn a_grant_is_verified_in_full_without_a_nonce() {
    let provider = start().await;
    let connector = provider.connector();
    let claims = provider.claims_with(&json!({"nonce": null}));
    provider.answer_id_token(&provider.id_token(&claims));
    let DevicePoll::Granted(grant) = poll(&connector).await.unwrap() else { panic!("a grant") };
    assert_eq!(grant.claims["sub"], "alice");
    assert_eq!(grant.credentials.access_token, Some(Secret::new("access-1")));
    assert_eq!(grant.credentials.refresh_token, Some(Secret::new("refresh-1")));
    let account = connector.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "alice");

    for change in [
        json!({"aud": "somebody else"}),
        json!({"iss": "https://attacker.example"}),
        json!({"exp": 1}),
        json!({"sub": null}),
    ] {
        let claims = provider.claims_with(&change);
        provider.answer_id_token(&provider.id_token(&claims));
        assert_refused!(poll(&connector).await, Untrusted);
    }
    let forged = crate::test_key::TestKey::ec();
    let token = forged.sign(&json!({"alg": "ES256", "kid": "k1"}), &provider.claims());
    provider.answer_id_token(&token);
    assert_refused!(poll(&connector).await, Untrusted);
    provider.answer_tokens(&json!({}));
    assert_refused!(poll(&connector).await, Untrusted);
}

const ENTRY: &str = r#"
    [authorization]
    url = "{origin}/authorize"
    scopes = ["read", "mail"]
    scope_separator = ","
    [token]
    url = "{origin}/token"
    authentication = "post"
    [device]
    url = "{origin}/device"
    [[profile]]
    url = "{origin}/userinfo"
    [account]
    id = "/profile/sub"
"#;

#[tokio::test]
async fn an_entry_of_the_catalog_asks_in_its_providers_way() {
    let provider = start().await;
    let connector = of_the_catalog(&provider, ENTRY);
    assert!(connector.capabilities().device);
    let asked = connector.device_authorize(&[]).await.unwrap();
    assert_eq!(asked.user_code, "WDJB-MJHT");
    let requests = provider.requests("/device").await;
    let sent = form(&requests[0]);
    assert_eq!(sent["scope"], "read,mail");
    assert_eq!((sent["client_id"].as_str(), sent["client_secret"].as_str()), ("client", "secret"));

    provider.answer("/token", refused(200, "authorization_pending"));
    assert_eq!(poll(&connector).await, Ok(DevicePoll::Pending));
    provider.answer("/token", refused(400, "slow_down"));
    assert_eq!(poll(&connector).await, Ok(DevicePoll::SlowDown));
    provider.answer("/token", refused(400, "expired_token"));
    assert_refused!(poll(&connector).await, GrantRejected);
    provider.answer_tokens(&json!({"scope": "read"}));
    let DevicePoll::Granted(grant) = poll(&connector).await.unwrap() else { panic!("a grant") };
    assert_eq!(grant.credentials.scopes, ["read"]);
    let account = connector.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "alice");
    let sent = form(&provider.requests("/token").await[0]);
    assert_eq!((sent["grant_type"].as_str(), sent["device_code"].as_str()), (DEVICE_GRANT, CODE));
}

#[tokio::test]
async fn an_entry_without_the_endpoint_has_no_device_flow() {
    let provider = start().await;
    let entry = ENTRY.replace("[device]\n    url = \"{origin}/device\"", "");
    let connector = of_the_catalog(&provider, &entry);
    assert!(!connector.capabilities().device);
    assert_refused!(connector.device_authorize(&[]).await, Misconfigured);
    assert_refused!(poll(&connector).await, Misconfigured);
    assert!(provider.server.received_requests().await.unwrap().is_empty());
}
