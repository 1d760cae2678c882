//! Google, as a stand-in on loopback plays it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    identity_provider::{IdentityProvider, ProviderOptions, ProviderSecrets, Rotation},
    ids::{ExternalId, ProviderId},
    ports::{
        AuthorizationRequest, Clock, CodeExchange, Connector, ConnectorError, Connectors as _,
        DevicePoll, RefreshRequest, Revocation,
    },
    secret::Secret,
};
use symbolon_oauth2::{
    Registry,
    http::{HttpClient, HttpSettings},
};
use url::Url;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{header, method, path},
};

const NOW: i64 = 1_700_000_000;

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).unwrap()
    }
}

/// A stand-in whose ID tokens have these claims over the usual ones; `null` leaves one out.
struct StandIn {
    server: MockServer,
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl StandIn {
    async fn start(claims: Value) -> Self {
        let server = MockServer::start().await;
        let issuer = server.uri();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": "k", "x": base64url(x), "y": base64url(y),
        });
        let mut all = json!({
            "iss": issuer, "aud": "client", "azp": "client", "sub": "110169484474386276334",
            "nonce": "n", "iat": NOW, "exp": NOW + 3600,
        });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let host = issuer.replace("http://", "");
        all["iss"] = json!(all["iss"].as_str().unwrap().replace("SELF", &host));
        let header = base64url(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#);
        let message = format!("{header}.{}", base64url(all.to_string()));
        let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        let id_token = format!("{message}.{}", base64url(signature));
        let at = |path: &str| format!("{issuer}{path}");
        for (verb, to, body) in [
            (
                "GET",
                "/.well-known/openid-configuration",
                json!({
                    "issuer": issuer,
                    "authorization_endpoint": at("/o/oauth2/v2/auth"),
                    "token_endpoint": at("/token"),
                    "userinfo_endpoint": at("/v1/userinfo"),
                    "revocation_endpoint": at("/revoke"),
                    "jwks_uri": at("/oauth2/v3/certs"),
                    "device_authorization_endpoint": at("/device/code"),
                    "token_endpoint_auth_methods_supported":
                        ["client_secret_post", "client_secret_basic"],
                    "scopes_supported": ["openid", "email", "profile"],
                    "code_challenge_methods_supported": ["plain", "S256"],
                }),
            ),
            ("GET", "/oauth2/v3/certs", json!({"keys": [jwk]})),
            (
                "POST",
                "/token",
                json!({
                    "access_token": "a", "refresh_token": "r", "token_type": "Bearer",
                    "expires_in": 3599, "id_token": id_token, "scope": "openid email",
                }),
            ),
            ("GET", "/v1/userinfo", json!({"sub": all["sub"], "name": "Alice"})),
            ("POST", "/revoke", json!({})),
            // As the page for limited-input devices has it, but for where the user goes.
            (
                "POST",
                "/device/code",
                json!({
                    "device_code": "4/4-GMMhmHCXhWEzkobqIHGG_EnNYYsAkukHspeYUk9E8",
                    "user_code": "GQVQ-JKEC", "verification_url": "https://www.google.com/device",
                    "expires_in": 1800, "interval": 5,
                }),
            ),
        ] {
            let answer = ResponseTemplate::new(200).set_body_json(body);
            Mock::given(method(verb)).and(path(to)).respond_with(answer).mount(&server).await;
        }
        Self { server }
    }

    fn registry(&self) -> Registry {
        let settings = HttpSettings {
            allow_http: true,
            allow_private_networks: true,
            ..HttpSettings::default()
        };
        Registry::new(HttpClient::new(settings).unwrap(), Arc::new(StoppedClock))
            .with(symbolon_google::kind_at(self.server.uri()))
    }

    fn connector(&self, hosted_domain: Option<&str>) -> Arc<dyn Connector> {
        let mut config = json!({"client_id": "client"});
        if let Some(domain) = hosted_domain {
            config["hosted_domain"] = json!(domain);
        }
        self.registry().connect(&instance(&config), &secrets()).unwrap()
    }

    /// With a client for devices.
    fn device_connector(&self, changes: &Value) -> Arc<dyn Connector> {
        let mut config = json!({"client_id": "client", "client_type": "limited_input"});
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.registry().connect(&instance(&config), &secrets()).unwrap()
    }

    async fn forms(&self, path: &str) -> Vec<BTreeMap<String, String>> {
        let requests = self.server.received_requests().await.unwrap();
        let form = |it: &wiremock::Request| {
            assert!(
                !it.headers.contains_key("authorization"),
                "the secret is in the body or nowhere"
            );
            url::form_urlencoded::parse(&it.body).into_owned().collect()
        };
        requests.iter().filter(|it| it.url.path() == path).map(form).collect()
    }

    async fn account(
        &self,
        hosted_domain: Option<&str>,
    ) -> Result<ExternalAccount, ConnectorError> {
        let connector = self.connector(hosted_domain);
        let grant = connector.exchange(&code_exchange()).await?;
        connector.build_identity(&grant).await
    }
}

fn instance(config: &Value) -> IdentityProvider {
    IdentityProvider {
        id: ProviderId(1),
        provider_type: "google".into(),
        external_id: None,
        config: config.as_object().unwrap().clone(),
        secret_names: Vec::new(),
        options: ProviderOptions::default(),
        names_issuer: false,
        date_added: DateTime::from_timestamp(NOW, 0).unwrap(),
        version: 1,
    }
}

fn secrets() -> ProviderSecrets {
    [("client_secret".to_owned(), Secret::new("secret"))].into()
}

fn code_exchange() -> CodeExchange {
    CodeExchange {
        code: Secret::new("code"),
        redirect_uri: Url::parse("https://app.example/callback/1").unwrap(),
        code_verifier: Secret::new("verifier"),
        nonce: Secret::new("n"),
        state: Secret::new("s"),
        scopes: Vec::new(),
        parameters: BTreeMap::new(),
        dpop_key: None,
    }
}

async fn query(connector: &dyn Connector) -> BTreeMap<String, String> {
    let request = AuthorizationRequest {
        redirect_uri: Url::parse("https://app.example/callback/1").unwrap(),
        state: Secret::new("s"),
        nonce: Secret::new("n"),
        code_verifier: Secret::new("verifier"),
        scopes: Vec::new(),
        login_hint: None,
        dpop_key: None,
    };
    let url = connector.authorize(&request).await.unwrap();
    let pairs: Vec<_> = url.query_pairs().into_owned().collect();
    let query: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(pairs.len(), query.len(), "a parameter is there twice");
    query
}

#[tokio::test]
async fn a_refresh_token_is_asked_for_with_offline_access_type_and_consent() {
    let google = StandIn::start(json!({})).await;
    let query = query(&*google.connector(None)).await;
    assert_eq!(query["access_type"], "offline");
    assert_eq!(query["prompt"], "consent");
    assert_eq!(query["scope"], "openid profile email");
    assert_eq!(query["code_challenge_method"], "S256");
    assert!(!query.contains_key("hd") && !query.contains_key("include_granted_scopes"));
}

#[tokio::test]
async fn an_account_is_known_by_its_sub_and_never_by_its_address() {
    let google = StandIn::start(json!({"email": "a@gmail.com", "email_verified": true})).await;
    let account = google.account(None).await.unwrap();
    assert_eq!(account.external_id.as_str(), "110169484474386276334");
    assert_eq!(account.name.as_deref(), Some("Alice"));
}

#[tokio::test]
async fn the_issuer_without_its_scheme_is_accepted_and_no_other() {
    // `SELF` stands for the stand-in's own host and port.
    for (issuer, accepted) in [
        ("http://SELF", true),
        ("SELF", true),
        ("SELF/", false),
        ("http://SELF/", false),
        ("https://SELF", false),
        ("SELF.attacker.example", false),
        ("https://accounts.google.com", false),
        ("accounts.google.com", false),
    ] {
        let google = StandIn::start(json!({"iss": issuer})).await;
        match google.account(None).await {
            Ok(_) => assert!(accepted, "{issuer}"),
            Err(ConnectorError::Untrusted { .. }) => assert!(!accepted, "{issuer}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_hosted_domain_is_hinted_at_and_checked_in_the_id_token() {
    for (claim, accepted) in [
        (json!("example.com"), true),
        (json!("EXAMPLE.com"), true),
        (json!("other.example"), false),
        (json!("example.com.attacker.example"), false),
        (json!(""), false),
        (json!(["example.com"]), false),
        (json!(null), false),
    ] {
        let google = StandIn::start(json!({"hd": claim})).await;
        let result = google.account(Some("example.com")).await;
        match result {
            Ok(account) => {
                assert!(accepted, "{claim}");
                assert_eq!(account.claims["hd"], claim);
            }
            Err(ConnectorError::Untrusted { .. }) => assert!(!accepted, "{claim}"),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(query(&*google.connector(Some("example.com"))).await["hd"], "example.com");
    }
}

#[tokio::test]
async fn an_address_is_an_older_name_only_where_google_is_the_authority_for_it() {
    for (email, verified, domain, authority) in [
        ("a@gmail.com", json!(true), json!(null), true),
        ("A@GMAIL.com", json!(true), json!(null), true),
        ("a@gmail.com", json!("true"), json!(null), true),
        ("a@gmail.com", json!(false), json!(null), false),
        ("a@gmail.com", json!(null), json!(null), false),
        ("a@example.com", json!(true), json!("example.com"), true),
        ("a@example.com", json!(false), json!("example.com"), false),
        ("a@example.com", json!(true), json!(null), false),
        ("a@example.com", json!(true), json!(""), false),
        ("a@notgmail.com", json!(true), json!(null), false),
        ("a@gmail.com.attacker.example", json!(true), json!(null), false),
    ] {
        let claims = json!({"email": email, "email_verified": verified, "hd": domain});
        let account = StandIn::start(claims.clone()).await.account(None).await.unwrap();
        let legacy_id = authority.then(|| ExternalId::new(email).unwrap());
        assert_eq!(account.legacy_id, legacy_id, "{claims}");
    }
}

#[tokio::test]
async fn a_device_asks_without_the_secret_and_polls_with_it() {
    let google = StandIn::start(json!({"nonce": null})).await;
    let connector = google.device_connector(&json!({}));
    let capabilities = connector.capabilities();
    assert!(capabilities.device && !capabilities.browser && !capabilities.sign_in);
    let asked = connector.device_authorize(&[]).await.unwrap();
    assert_eq!(asked.user_code, "GQVQ-JKEC");
    assert_eq!(asked.verification_uri.as_str(), "https://www.google.com/device");
    let sent = google.forms("/device/code").await;
    let expected = [("client_id", "client"), ("scope", "openid profile email")];
    assert_eq!(sent, [expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()]);

    for (status, error, expected) in [
        (428, "authorization_pending", DevicePoll::Pending),
        (403, "slow_down", DevicePoll::SlowDown),
    ] {
        let answer = ResponseTemplate::new(status).set_body_json(json!({"error": error}));
        let undecided = Mock::given(path("/token")).respond_with(answer).with_priority(1);
        undecided.up_to_n_times(1).mount(&google.server).await;
        assert_eq!(connector.device_poll(&asked.device_code, &[]).await, Ok(expected), "{status}");
    }
    let polled = connector.device_poll(&asked.device_code, &[]).await.unwrap();
    let DevicePoll::Granted(grant) = polled else { panic!("a grant") };
    let account = connector.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "110169484474386276334");
    let sent = &google.forms("/token").await[2];
    assert_eq!(sent["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
    assert_eq!((sent["client_id"].as_str(), sent["client_secret"].as_str()), ("client", "secret"));
}

#[tokio::test]
async fn a_client_goes_the_way_of_its_type_and_no_other() {
    let google = StandIn::start(json!({"nonce": null})).await;
    let web = google.connector(None);
    assert!(web.capabilities().browser && !web.capabilities().device);
    let refused = web.device_authorize(&[]).await;
    assert!(matches!(refused, Err(ConnectorError::Misconfigured { .. })), "{refused:?}");
    let device = google.device_connector(&json!({}));
    let request = AuthorizationRequest {
        redirect_uri: Url::parse("https://app.example/callback/1").unwrap(),
        state: Secret::new("s"),
        nonce: Secret::new("n"),
        code_verifier: Secret::new("verifier"),
        scopes: Vec::new(),
        login_hint: None,
        dpop_key: None,
    };
    let refused = device.authorize(&request).await;
    assert!(matches!(refused, Err(ConnectorError::Misconfigured { .. })), "{refused:?}");
    assert!(google.server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_hosted_domain_is_checked_on_a_device_too() {
    for (claim, accepted) in [("example.com", true), ("other.example", false)] {
        let google = StandIn::start(json!({"nonce": null, "hd": claim})).await;
        let connector = google.device_connector(&json!({"hosted_domain": "example.com"}));
        let polled = connector.device_poll(&Secret::new("code"), &[]).await;
        assert_eq!(polled.is_ok(), accepted, "{polled:?}");
    }
}

#[tokio::test]
async fn credentials_are_refreshed_and_revoked() {
    let google = StandIn::start(json!({})).await;
    let connector = google.connector(None);
    let credentials = connector
        .refresh(&RefreshRequest {
            refresh_token: Secret::new("r"),
            external_id: ExternalId::new("110169484474386276334").unwrap(),
            redirect_uri: None,
            dpop_key: None,
        })
        .await
        .unwrap();
    assert_eq!(credentials.scopes, ["openid", "email"]);
    assert_eq!(connector.revoke(&credentials).await, Ok(Revocation::Revoked));
    assert_eq!(connector.reachable().await, Ok(()));
    assert_eq!(connector.capabilities().rotation, Rotation::Reusable);
    assert_eq!(connector.check_issuer(Some(&google.server.uri()), true).await, Ok(()));
    assert!(connector.check_issuer(Some("accounts.google.com"), false).await.is_err());
}

#[tokio::test]
async fn of_two_client_secrets_the_one_that_google_knows_is_found() {
    let google = StandIn::start(json!({})).await;
    let old = format!("Basic {}", STANDARD.encode("client:secret"));
    let unknown = ResponseTemplate::new(401).set_body_json(json!({
        "error": "invalid_client", "error_description": "The provided client secret is invalid.",
    }));
    Mock::given(path("/token"))
        .and(header("authorization", old.as_str()))
        .respond_with(unknown)
        .with_priority(1)
        .mount(&google.server)
        .await;
    let mut two = secrets();
    two.insert("client_secret_next".to_owned(), Secret::new("next"));
    let config = json!({"client_id": "client"});
    let connector = google.registry().connect(&instance(&config), &two).unwrap();
    let request = RefreshRequest {
        refresh_token: Secret::new("r"),
        external_id: ExternalId::new("110169484474386276334").unwrap(),
        redirect_uri: None,
        dpop_key: None,
    };
    for _ in 0..2 {
        assert!(connector.refresh(&request).await.is_ok());
    }
    let requests = google.server.received_requests().await.unwrap();
    let asked = requests.iter().filter(|it| it.url.path() == "/token");
    assert_eq!(asked.count(), 3, "both the first time, and then the one that works");
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
    let http = HttpClient::new(HttpSettings::default()).unwrap();
    let registry = Registry::new(http, Arc::new(StoppedClock)).with(symbolon_google::kind());
    let check = |config: Value, secrets: &ProviderSecrets| {
        registry.check("google", config.as_object().unwrap(), secrets)
    };
    let fits = json!({"client_id": "c", "hosted_domain": "example.com", "scopes": ["openid"]});
    assert_eq!(check(fits.clone(), &secrets()), Ok(()));
    let next = [("client_secret_next".to_owned(), Secret::new("next"))].into();
    assert_eq!(check(fits.clone(), &next).unwrap_err().field, "client_secret");
    let both = secrets().into_iter().chain(next).collect();
    assert_eq!(check(fits, &both), Ok(()));
    for (config, field) in [
        (json!({}), "client_id"),
        (json!({"client_id": "c", "hosted_domain": "Example.com"}), "hosted_domain"),
        (json!({"client_id": "c", "hosted_domain": "*"}), "hosted_domain"),
        (json!({"client_id": "c", "hosted_domain": "com"}), "hosted_domain"),
        (json!({"client_id": "c", "hosted_domain": "a..b"}), "hosted_domain"),
        (json!({"client_id": "c", "issuer": "https://attacker.example"}), "issuer"),
        (json!({"client_id": "c", "scopes": "openid"}), "scopes"),
        (json!({"client_id": "c", "client_type": "desktop"}), "client_type"),
    ] {
        assert_eq!(check(config.clone(), &secrets()).unwrap_err().field, field, "{config}");
    }
    let missing = check(json!({"client_id": "c"}), &ProviderSecrets::new()).unwrap_err();
    assert_eq!(missing.field, "client_secret");
    assert_eq!(
        registry.types().iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
        ["google", "oauth2", "oidc"]
    );
}
