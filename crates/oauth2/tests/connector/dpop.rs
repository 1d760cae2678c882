//! Tokens that are bound to a key of ours (RFC 9449): what we prove, and what we make of servers that
//! ask for more, or bind nothing.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, ThumbprintHash},
};
use serde_json::{Map, Value, json};
use symbolon_domain::{
    credentials::Credentials,
    dpop::DpopRequest,
    identity_provider::ProviderSecrets,
    ports::{
        AuthorizationRequest, CodeExchange, Connector, ConnectorError, Connectors as _, DevicePoll,
        DpopProofs as _, RefreshRequest, Sent,
    },
    secret::Secret,
};
use symbolon_oauth2::{DpopSigner, Registry, catalog::Catalog};
use wiremock::{Mock, Request, ResponseTemplate, matchers::path};

use crate::{
    assert_refused,
    provider::{
        NOW, Provider, authorization_request, changed, code_exchange, form, instance, loopback,
        object, ok, refresh_request,
    },
    test_key::base64url,
};

const EC: &str = include_str!("client_key_ec.pem");

/// A proof, verified with the key that it names itself.
struct Proof {
    thumbprint: String,
    claims: Map<String, Value>,
}

/// What any server checks (RFC 9449 §4.3).
fn verified(request: &Request) -> Proof {
    let all: Vec<_> = request.headers.get_all("dpop").iter().collect();
    let [proof] = all[..] else { panic!("{} proofs", all.len()) };
    let proof = proof.to_str().unwrap();
    let header = decode_header(proof).unwrap();
    assert_eq!((header.typ.as_deref(), header.alg), (Some("dpop+jwt"), Algorithm::ES256));
    let jwk: Jwk = header.jwk.unwrap();
    let public = serde_json::to_value(&jwk).unwrap();
    let names: Vec<_> = public.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["crv", "kty", "x", "y"], "the public half and no more");
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    let key = DecodingKey::from_jwk(&jwk).unwrap();
    let claims: Map<String, Value> = decode(proof, &key, &validation).unwrap().claims;
    // The server of the tests does not know its own name, but for the header.
    let origin = match request.headers.get("host") {
        Some(host) => format!("http://{}", host.to_str().unwrap()),
        None => request.url.origin().ascii_serialization(),
    };
    assert_eq!(claims["htu"], format!("{origin}{}", request.url.path()));
    assert_eq!(claims["htm"], request.method.as_str());
    assert_eq!(claims["iat"], NOW);
    assert!(claims["jti"].as_str().unwrap().len() >= 16);
    Proof { thumbprint: jwk.thumbprint(ThumbprintHash::SHA256).unwrap(), claims }
}

fn ath(token: &str) -> Value {
    base64url(digest(&SHA256, token.as_bytes())).into()
}

/// A provider that binds tokens.
async fn start() -> Provider {
    let provider = Provider::start().await;
    bind(&provider, &json!({}));
    provider
}

fn bind(provider: &Provider, changes: &Value) {
    let metadata = json!({"dpop_signing_alg_values_supported": ["RS256", "ES256"]});
    provider.publish(&changed(metadata, changes));
    let id_token = provider.id_token(&provider.claims());
    provider.answer_tokens(&json!({"token_type": "DPoP", "id_token": id_token}));
}

fn connector(provider: &Provider) -> Arc<dyn Connector> {
    provider.connector_with(&json!({"dpop": true}))
}

fn trip(connector: &Arc<dyn Connector>) -> (AuthorizationRequest, CodeExchange) {
    let dpop_key = connector.new_dpop_key();
    assert!(dpop_key.is_some());
    let request = AuthorizationRequest { dpop_key: dpop_key.clone(), ..authorization_request() };
    (request, CodeExchange { dpop_key, ..code_exchange() })
}

fn refresh_of(credentials: &Credentials) -> RefreshRequest {
    RefreshRequest { dpop_key: credentials.key_of_refresh_token().cloned(), ..refresh_request() }
}

/// What a server says that wants to see this nonce in the proof.
fn challenge(status: u16, nonce: &str) -> ResponseTemplate {
    ResponseTemplate::new(status)
        .insert_header("dpop-nonce", nonce)
        .set_body_json(json!({"error": "use_dpop_nonce"}))
}

/// Lets a path answer with what comes next, and with the last one from then on.
async fn in_turn(provider: &Provider, at: &str, answers: Vec<ResponseTemplate>) {
    let turn = AtomicUsize::new(0);
    let next = move |_: &Request| {
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        answers[turn.min(answers.len() - 1)].clone()
    };
    Mock::given(path(at)).respond_with(next).with_priority(1).mount(&provider.server).await;
}

fn tokens(changes: &Value) -> ResponseTemplate {
    let usual = json!({
        "access_token": "access-2", "refresh_token": "refresh-2", "token_type": "DPoP",
        "expires_in": 3600,
    });
    ok(&changed(usual, changes))
}

#[tokio::test]
async fn a_grant_is_bound_to_the_key_of_its_trip_from_the_request_to_the_refresh() {
    let provider = start().await;
    let connector = connector(&provider);
    let (request, exchange) = trip(&connector);
    let url = connector.authorize(&request).await.unwrap();
    let jkt = url.query_pairs().find(|it| it.0 == "dpop_jkt").unwrap().1.into_owned();

    let grant = connector.exchange(&exchange).await.unwrap();
    connector.build_identity(&grant).await.unwrap();
    let linked = grant.credentials;
    assert_eq!(linked.token_type.as_deref(), Some("DPoP"));
    assert_eq!(linked.dpop_key, exchange.dpop_key);
    let renewed = connector.refresh(&refresh_of(&linked)).await.unwrap();
    assert_eq!(renewed.dpop_key, exchange.dpop_key);

    let mut proofs = Vec::new();
    for request in &provider.requests("/token").await {
        let proof = verified(request);
        assert_eq!(proof.claims.get("ath"), None, "no access token goes along");
        assert_eq!(proof.claims.get("nonce"), None);
        proofs.push(proof);
    }
    let asked = provider.requests("/userinfo").await;
    assert_eq!(asked[0].headers["authorization"], "DPoP access-1");
    let proof = verified(&asked[0]);
    assert_eq!(proof.claims["ath"], ath("access-1"));
    proofs.push(proof);
    assert_eq!(proofs.len(), 3);
    assert!(proofs.iter().all(|it| it.thumbprint == jkt), "one key");
    let names: BTreeSet<_> = proofs.iter().map(|it| it.claims["jti"].to_string()).collect();
    assert_eq!(names.len(), 3, "a proof was used twice");
}

#[tokio::test]
async fn every_trip_has_a_key_of_its_own_and_without_dpop_there_is_none() {
    let provider = start().await;
    let bound = connector(&provider);
    assert_ne!(bound.new_dpop_key(), bound.new_dpop_key());
    let plain = provider.connector();
    assert_eq!(plain.new_dpop_key(), None);
    let url = plain.authorize(&authorization_request()).await.unwrap();
    assert!(!url.query_pairs().any(|it| it.0 == "dpop_jkt"));
    provider.answer_tokens(&json!({"id_token": provider.id_token(&provider.claims())}));
    let grant = plain.exchange(&code_exchange()).await.unwrap();
    assert_eq!(grant.credentials.dpop_key, None);
    assert!(!provider.requests("/token").await[0].headers.contains_key("dpop"));
}

#[tokio::test]
async fn an_address_with_a_query_is_proven_without_it() {
    let provider = start().await;
    let at = |path: &str| format!("{}{path}", provider.issuer);
    let changes =
        json!({"token_endpoint": at("/token?tenant=1"), "userinfo_endpoint": at("/userinfo?a=b")});
    bind(&provider, &changes);
    let connector = connector(&provider);
    let (_, exchange) = trip(&connector);
    let grant = connector.exchange(&exchange).await.unwrap();
    connector.build_identity(&grant).await.unwrap();
    for (path, query) in [("/token", "tenant=1"), ("/userinfo", "a=b")] {
        let requests = provider.requests(path).await;
        assert_eq!(requests[0].url.query(), Some(query));
        verified(&requests[0]);
    }
}

#[tokio::test]
async fn a_pushed_request_names_the_key_and_proves_it() {
    let provider = start().await;
    let at = format!("{}/par", provider.issuer);
    bind(&provider, &json!({"pushed_authorization_request_endpoint": at}));
    let connector =
        provider.connector_with(&json!({"dpop": true, "pushed_authorization_requests": true}));
    let pushed = ResponseTemplate::new(201).set_body_json(json!({"request_uri": "urn:x"}));
    in_turn(&provider, "/par", vec![challenge(400, "n-1"), pushed]).await;
    let (request, _) = trip(&connector);
    let url = connector.authorize(&request).await.unwrap();
    assert!(!url.query_pairs().any(|it| it.0 == "dpop_jkt"), "the browser does not carry it");
    let requests = provider.requests("/par").await;
    assert_eq!(requests.len(), 2);
    let proof = verified(&requests[1]);
    assert_eq!(form(&requests[1])["dpop_jkt"], proof.thumbprint);
    assert_eq!(proof.claims["nonce"], "n-1");
}

#[tokio::test]
async fn a_server_that_wants_a_nonce_gets_it_and_the_next_request_has_it_at_once() {
    for status in [400, 401] {
        let provider = start().await;
        let connector = connector(&provider);
        let (_, exchange) = trip(&connector);
        let id_token = provider.id_token(&provider.claims());
        let first = tokens(&json!({"id_token": id_token}));
        let answers = vec![
            challenge(status, "n-1"),
            first,
            tokens(&json!({})).insert_header("dpop-nonce", "n-2"),
        ];
        in_turn(&provider, "/token", answers).await;
        let linked = connector.exchange(&exchange).await.unwrap().credentials;
        // Another connector of the same instance knows it too, and each answer may bring another.
        let other = provider.connector_with(&json!({"dpop": true}));
        other.refresh(&refresh_of(&linked)).await.unwrap();
        other.refresh(&refresh_of(&linked)).await.unwrap();
        let requests = provider.requests("/token").await;
        let nonces: Vec<_> =
            requests.iter().map(|it| verified(it).claims.get("nonce").cloned()).collect();
        let nonce = |it: &str| Some(Value::from(it));
        assert_eq!(nonces, [None, nonce("n-1"), nonce("n-1"), nonce("n-2")], "{status}");
        // The same request, proven anew.
        assert_eq!(requests[0].body, requests[1].body);
        let names: BTreeSet<_> =
            requests.iter().map(|it| verified(it).claims["jti"].to_string()).collect();
        assert_eq!(names.len(), 4);
    }
}

#[tokio::test]
async fn a_refresh_with_a_nonce_challenge_brings_tokens_and_is_no_doubt() {
    let provider = start().await;
    let connector = connector(&provider);
    in_turn(&provider, "/token", vec![challenge(400, "n-1"), tokens(&json!({}))]).await;
    let request = RefreshRequest { dpop_key: connector.new_dpop_key(), ..refresh_request() };
    let renewed = connector.refresh(&request).await.unwrap();
    assert_eq!(renewed.refresh_token, Some(Secret::new("refresh-2")));
    assert_eq!(provider.requests("/token").await.len(), 2);
}

#[tokio::test]
async fn a_server_that_always_wants_another_nonce_is_asked_twice_and_has_done_nothing() {
    let provider = start().await;
    let connector = connector(&provider);
    let serial = AtomicUsize::new(0);
    let endless =
        move |_: &Request| challenge(400, &format!("n-{}", serial.fetch_add(1, Ordering::SeqCst)));
    Mock::given(path("/token"))
        .respond_with(endless)
        .with_priority(1)
        .mount(&provider.server)
        .await;
    let request = RefreshRequest { dpop_key: connector.new_dpop_key(), ..refresh_request() };
    let refused = connector.refresh(&request).await;
    let Err(ConnectorError::Unavailable { sent: Sent::Answered, detail, .. }) = &refused else {
        panic!("{refused:?}")
    };
    assert!(detail.contains("use_dpop_nonce"), "{detail}");
    assert_eq!(provider.requests("/token").await.len(), 2);
    let (_, exchange) = trip(&connector);
    assert_refused!(connector.exchange(&exchange).await, Unavailable);
    assert_eq!(provider.requests("/token").await.len(), 4);
}

#[tokio::test]
async fn what_is_no_other_nonce_is_not_sent_again() {
    for (nonce, requests) in [
        (None, 1),
        (Some(String::new()), 1),
        (Some("a b".to_owned()), 1),
        (Some("a\"b".to_owned()), 1),
        (Some("x".repeat(1025)), 1),
        // The one that was in the proof already.
        (Some("n-1".to_owned()), 2),
    ] {
        let provider = start().await;
        let connector = connector(&provider);
        let answer = ResponseTemplate::new(400).set_body_json(json!({"error": "use_dpop_nonce"}));
        let answer = match &nonce {
            Some(nonce) => answer.insert_header("dpop-nonce", nonce.as_str()),
            None => answer,
        };
        in_turn(&provider, "/token", vec![answer]).await;
        let request = RefreshRequest { dpop_key: connector.new_dpop_key(), ..refresh_request() };
        assert_refused!(connector.refresh(&request).await, Unavailable);
        assert_eq!(provider.requests("/token").await.len(), requests, "{nonce:?}");
        if requests == 2 {
            assert_refused!(connector.refresh(&request).await, Unavailable);
            assert_eq!(provider.requests("/token").await.len(), 3, "the same again helps nobody");
        }
    }
}

#[tokio::test]
async fn no_other_refusal_is_sent_again_for_the_sake_of_a_nonce() {
    let provider = start().await;
    let connector = connector(&provider);
    let request = RefreshRequest { dpop_key: connector.new_dpop_key(), ..refresh_request() };
    let refusal = |status: u16, error: &str| {
        ResponseTemplate::new(status)
            .insert_header("dpop-nonce", format!("n-{status}-{error}"))
            .set_body_json(json!({"error": error}))
    };
    let mut count = 0;
    for (status, error) in [
        (400, "invalid_grant"),
        (400, "invalid_dpop_proof"),
        (401, "invalid_client"),
        (500, "use_dpop_nonce"),
        (200, "use_dpop_nonce"),
    ] {
        provider.answer("/token", refusal(status, error));
        let refused = connector.refresh(&request).await;
        assert!(refused.is_err());
        count += 1;
        assert_eq!(provider.requests("/token").await.len(), count, "{status} {error}");
    }
}

#[tokio::test]
async fn a_server_that_lets_us_wait_with_its_challenge_gets_the_nonce_the_next_time() {
    let provider = Provider::within(Duration::from_secs(2)).await;
    bind(&provider, &json!({}));
    let connector = connector(&provider);
    let late = challenge(400, "n-1").set_delay(Duration::from_millis(1200));
    in_turn(&provider, "/token", vec![late, tokens(&json!({}))]).await;
    let request = RefreshRequest { dpop_key: connector.new_dpop_key(), ..refresh_request() };
    let refused = connector.refresh(&request).await;
    let answered = matches!(refused, Err(ConnectorError::Unavailable { sent: Sent::Answered, .. }));
    assert!(answered, "{refused:?}");
    connector.refresh(&request).await.unwrap();
    let requests = provider.requests("/token").await;
    assert_eq!(requests.len(), 2);
    assert_eq!(verified(&requests[1]).claims["nonce"], "n-1");
}

#[tokio::test]
async fn an_assertion_is_made_anew_for_the_request_with_the_nonce() {
    let provider = start().await;
    let config = json!({"dpop": true, "client_secret": null, "client_private_key": EC});
    let connector = provider.connector_with(&config);
    in_turn(&provider, "/token", vec![challenge(400, "n-1"), tokens(&json!({}))]).await;
    let request = RefreshRequest { dpop_key: connector.new_dpop_key(), ..refresh_request() };
    connector.refresh(&request).await.unwrap();
    let requests = provider.requests("/token").await;
    let [one, two] = &requests[..] else { panic!("{} requests", requests.len()) };
    assert_ne!(form(one)["client_assertion"], form(two)["client_assertion"]);
}

#[tokio::test]
async fn the_servers_that_take_tokens_have_nonces_of_their_own() {
    let provider = start().await;
    let connector = connector(&provider);
    let (_, exchange) = trip(&connector);
    let id_token = provider.id_token(&provider.claims());
    let with_nonce = tokens(&json!({"id_token": id_token})).insert_header("dpop-nonce", "as-1");
    provider.answer("/token", with_nonce);
    let grant = connector.exchange(&exchange).await.unwrap();
    let says = r#"DPoP error="use_dpop_nonce", error_description="…", algs="ES256""#;
    let challenge = ResponseTemplate::new(401)
        .insert_header("dpop-nonce", "rs-1")
        .append_header("www-authenticate", "Bearer")
        .append_header("www-authenticate", says.replace('…', "a nonce is required").as_str());
    let profile = ok(&json!({"sub": "alice", "name": "Alice"}));
    in_turn(&provider, "/userinfo", vec![challenge, profile]).await;
    connector.build_identity(&grant).await.unwrap();
    let requests = provider.requests("/userinfo").await;
    let nonces: Vec<_> =
        requests.iter().map(|it| verified(it).claims.get("nonce").cloned()).collect();
    assert_eq!(nonces, [None, Some(json!("rs-1"))]);
    connector.refresh(&refresh_of(&grant.credentials)).await.unwrap();
    let requests = provider.requests("/token").await;
    assert_eq!(verified(&requests[1]).claims["nonce"], "as-1");
}

#[tokio::test]
async fn a_new_grant_that_is_not_bound_is_refused() {
    for token_type in [json!("Bearer"), json!("bearer"), json!(null)] {
        let provider = start().await;
        let connector = connector(&provider);
        let (_, exchange) = trip(&connector);
        let id_token = provider.id_token(&provider.claims());
        provider.answer_tokens(&json!({"token_type": token_type, "id_token": id_token}));
        let refused = connector.exchange(&exchange).await;
        let Err(ConnectorError::Misconfigured { detail }) = &refused else {
            panic!("{token_type}: {refused:?}")
        };
        assert!(detail.contains("dpop"), "{detail}");
        assert!(provider.requests("/userinfo").await.is_empty(), "nobody presented it");
        let refused = connector.device_poll(&Secret::new("code"), &[]).await;
        assert_refused!(refused, Misconfigured);
    }
}

#[tokio::test]
async fn a_refresh_that_is_not_bound_is_kept_with_its_key_so_that_it_is_known() {
    let provider = start().await;
    let connector = connector(&provider);
    let (_, exchange) = trip(&connector);
    let linked = connector.exchange(&exchange).await.unwrap().credentials;
    assert!(!linked.has_lost_its_key());
    for token_type in [json!("Bearer"), json!(null)] {
        let changes = json!({"token_type": token_type, "refresh_token": "refresh-2"});
        provider.answer_tokens(&changes);
        let renewed = connector.refresh(&refresh_of(&linked)).await.unwrap();
        assert_eq!(renewed.refresh_token, Some(Secret::new("refresh-2")));
        assert!(renewed.has_lost_its_key(), "{token_type}");
        assert!(linked.clone().renewed_by(renewed).has_lost_its_key(), "{token_type}");
    }
}

#[tokio::test]
async fn a_bound_token_that_was_not_asked_for_is_for_the_operator() {
    let provider = start().await;
    let plain = provider.connector();
    let refused = plain.exchange(&code_exchange()).await;
    let Err(ConnectorError::Unavailable { detail, .. }) = &refused else { panic!("{refused:?}") };
    assert!(detail.contains("turn dpop"), "{detail}");
    // Whoever demands proofs of somebody who sends none.
    for error in ["use_dpop_nonce", "invalid_dpop_proof"] {
        let body = json!({ "error": error });
        provider.answer("/token", ResponseTemplate::new(400).set_body_json(body));
        let refused = plain.refresh(&refresh_request()).await;
        let code = error.to_owned();
        assert_eq!(refused, Err(ConnectorError::ClientRejected { code }));
    }
}

#[tokio::test]
async fn what_is_bound_stays_bound_whatever_is_configured_by_now() {
    let provider = start().await;
    let connector = connector(&provider);
    let (_, exchange) = trip(&connector);
    let linked = connector.exchange(&exchange).await.unwrap().credentials;
    let off = provider.connector();
    let renewed = off.refresh(&refresh_of(&linked)).await.unwrap();
    assert_eq!(renewed.dpop_key, linked.dpop_key);
    let requests = provider.requests("/token").await;
    assert_eq!(verified(&requests[1]).thumbprint, verified(&requests[0]).thumbprint);
}

#[tokio::test]
async fn a_grant_from_before_gets_its_key_with_its_next_refresh() {
    let provider = start().await;
    let connector = connector(&provider);
    let renewed = connector.refresh(&refresh_request()).await.unwrap();
    assert_eq!(renewed.token_type.as_deref(), Some("DPoP"));
    let first = verified(&provider.requests("/token").await[0]).thumbprint;
    connector.refresh(&refresh_of(&renewed)).await.unwrap();
    assert_eq!(verified(&provider.requests("/token").await[1]).thumbprint, first);
}

#[tokio::test]
async fn a_refresh_with_another_key_is_refused_and_one_without_a_readable_key_not_sent() {
    let provider = start().await;
    let connector = connector(&provider);
    let (_, exchange) = trip(&connector);
    let linked = connector.exchange(&exchange).await.unwrap().credentials;
    let bound_to = verified(&provider.requests("/token").await[0]).thumbprint;
    // As a server does that bound the refresh token.
    let judge = move |request: &Request| {
        if verified(request).thumbprint == bound_to {
            tokens(&json!({}))
        } else {
            ResponseTemplate::new(400).set_body_json(json!({"error": "invalid_grant"}))
        }
    };
    Mock::given(path("/token")).respond_with(judge).with_priority(1).mount(&provider.server).await;
    let other = RefreshRequest { dpop_key: connector.new_dpop_key(), ..refresh_request() };
    assert_refused!(connector.refresh(&other).await, GrantRejected);
    connector.refresh(&refresh_of(&linked)).await.unwrap();
    let sent = provider.requests("/token").await.len();
    let damaged = linked.dpop_key.unwrap().expose()[4..].to_owned();
    for key in ["", "x", damaged.as_str()] {
        let unreadable = RefreshRequest { dpop_key: Some(Secret::new(key)), ..refresh_request() };
        let refused = connector.refresh(&unreadable).await;
        let Err(ConnectorError::Misconfigured { detail }) = &refused else { panic!("{refused:?}") };
        assert!(key.is_empty() || key == "x" || !detail.contains(key), "{detail}");
    }
    assert_eq!(provider.requests("/token").await.len(), sent);
}

#[tokio::test]
async fn a_provider_that_does_not_know_our_algorithm_is_found_out_when_it_is_configured() {
    for (listed, fits) in [
        (json!(["ES256"]), true),
        (json!(["RS256", "ES256"]), true),
        (json!(["RS256"]), false),
        (json!([]), false),
        (json!("ES256"), false),
        (json!(null), false),
    ] {
        let provider = Provider::start().await;
        provider.publish(&json!({"dpop_signing_alg_values_supported": listed}));
        let config = |dpop: bool| {
            let config = json!({"issuer": provider.issuer, "client_id": "client", "dpop": dpop});
            object(&config)
        };
        let none = ProviderSecrets::new();
        let told = provider.registry.verify("oidc", &config(true), &none).await;
        assert_eq!(told.is_ok(), fits, "{listed}: {told:?}");
        if let Err(error) = told {
            assert!(matches!(&error, ConnectorError::Misconfigured { .. }), "{error:?}");
            assert!(error.to_string().contains("ES256"), "{error}");
        }
        provider.registry.verify("oidc", &config(false), &none).await.unwrap();
        // A provider that changes its mind is found out too.
        let connector = connector(&provider);
        let (request, _) = trip(&connector);
        assert_eq!(connector.authorize(&request).await.is_ok(), fits, "{listed}");
    }
    // Whoever was told to turn it on there can go on at once.
    let provider = Provider::start().await;
    let config = json!({"issuer": provider.issuer, "client_id": "client", "dpop": true});
    let none = ProviderSecrets::new();
    let refused = provider.registry.verify("oidc", &object(&config), &none).await;
    assert_refused!(refused, Misconfigured);
    provider.publish(&json!({"dpop_signing_alg_values_supported": ["ES256"]}));
    provider.registry.verify("oidc", &object(&config), &none).await.unwrap();
    let connector = connector(&provider);
    connector.authorize(&trip(&connector).0).await.unwrap();
    let kind = Provider::start().await.registry.find_type("oidc").unwrap();
    assert_eq!(kind.asked_keys, ["dpop"]);
    assert_eq!(kind.config_schema["properties"]["dpop"]["type"], "boolean");
}

#[tokio::test]
async fn a_device_proves_a_key_at_each_poll_and_its_grant_is_bound_to_the_last() {
    let provider = start().await;
    let connector = connector(&provider);
    let pending =
        ResponseTemplate::new(400).set_body_json(json!({"error": "authorization_pending"}));
    let id_token = provider.id_token(&provider.claims_with(&json!({"nonce": null})));
    let granted = tokens(&json!({"id_token": id_token}));
    in_turn(&provider, "/token", vec![pending, challenge(400, "n-1"), granted]).await;
    let code = Secret::new("device-code");
    let first = connector.device_poll(&code, &[]).await.unwrap();
    assert_eq!(first, DevicePoll::Pending);
    let DevicePoll::Granted(grant) = connector.device_poll(&code, &[]).await.unwrap() else {
        panic!("it is granted")
    };
    let requests = provider.requests("/token").await;
    let thumbprints: Vec<_> = requests.iter().map(|it| verified(it).thumbprint).collect();
    assert_eq!(thumbprints.len(), 3);
    assert_eq!(thumbprints[1], thumbprints[2], "the challenge is part of the poll");
    connector.build_identity(&grant).await.unwrap();
    let asked = provider.requests("/userinfo").await;
    assert_eq!(verified(&asked[0]).thumbprint, thumbprints[2]);
}

#[tokio::test]
async fn a_provider_by_its_addresses_binds_too_and_its_profile_is_asked_with_a_proof() {
    let provider = Provider::start().await;
    let at = |path: &str| format!("{}{path}", provider.issuer);
    let config = json!({
        "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
        "profile_endpoint": at("/me?fields=id"), "account_id": "/id", "client_id": "client",
        "token_endpoint_auth_method": "none", "dpop": true,
    });
    let provider_row = instance("oauth2", object(&config));
    let connector = provider.registry.connect(&provider_row, &ProviderSecrets::new()).unwrap();
    let (request, exchange) = trip(&connector);
    let url = connector.authorize(&request).await.unwrap();
    let jkt = url.query_pairs().find(|it| it.0 == "dpop_jkt").unwrap().1.into_owned();
    provider.answer_tokens(&json!({"token_type": "DPoP", "id_token": null}));
    let grant = connector.exchange(&exchange).await.unwrap();
    let refused = ResponseTemplate::new(401)
        .insert_header("dpop-nonce", "rs-1")
        .insert_header("www-authenticate", r#"DPoP error="use_dpop_nonce""#);
    in_turn(&provider, "/me", vec![refused, ok(&json!({"id": 7}))]).await;
    let account = connector.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "7");
    let asked = provider.requests("/me").await;
    assert_eq!(asked[1].headers["authorization"], "DPoP access-1");
    let proof = verified(&asked[1]);
    assert_eq!((&proof.claims["ath"], &proof.claims["nonce"]), (&ath("access-1"), &json!("rs-1")));
    assert_eq!(proof.thumbprint, jkt);
    connector.refresh(&refresh_of(&grant.credentials)).await.unwrap();
    let requests = provider.requests("/token").await;
    assert!(requests.iter().all(|it| verified(it).thumbprint == jkt));
    // One that binds nothing is refused here as well.
    provider.answer_tokens(&json!({"id_token": null}));
    assert_refused!(connector.exchange(&exchange).await, Misconfigured);
}

/// An entry of the catalog at this provider.
fn entry(dpop: &str, more: &str) -> Result<Catalog, String> {
    let text = format!(
        r#"
        title = "Binding"
        description = "A provider that binds tokens."
        documentation = ["https://binding.example"]
        checked = "2026-11-25"
        evidence = "pages"
        [parameters.host]
        description = "Where it is."
        example = "https://binding.example"
        kind = "origin"
        authority = true
        [authorization]
        [token]
        client_secret = "none"
        {dpop}
        [refresh]
        [openid]
        issuer = "{{host}}"
        userinfo = false
        {more}
        "#
    );
    Catalog::entry("binding", &text)
}

#[tokio::test]
async fn an_entry_of_the_catalog_binds_always_or_as_the_operator_says() {
    let provider = start().await;
    let registry = |dpop: &str| {
        let catalog = entry(dpop, "").unwrap();
        Registry::new(loopback(), Arc::new(provider.clock.clone())).with_catalog(catalog)
    };
    let config = |changes: &Value| {
        let usual = json!({"host": provider.issuer, "client_id": "client"});
        object(&changed(usual, changes))
    };
    let none = ProviderSecrets::new();
    for (dpop, said, binds) in [
        ("", json!({}), false),
        (r#"dpop = "required""#, json!({}), true),
        (r#"dpop = "optional""#, json!({}), false),
        (r#"dpop = "optional""#, json!({"dpop": true}), true),
    ] {
        let registry = registry(dpop);
        let row = instance("binding", config(&said));
        let connector = registry.connect(&row, &none).unwrap();
        assert_eq!(connector.new_dpop_key().is_some(), binds, "{dpop} {said}");
        registry.verify("binding", &config(&said), &none).await.unwrap();
        if binds {
            let (request, exchange) = trip(&connector);
            let url = connector.authorize(&request).await.unwrap();
            assert!(url.query_pairs().any(|it| it.0 == "dpop_jkt"));
            let grant = connector.exchange(&exchange).await.unwrap();
            assert_eq!(grant.credentials.dpop_key, exchange.dpop_key);
        }
    }
    // Where it is not for the operator to say, the key is unknown.
    for dpop in ["", r#"dpop = "required""#] {
        let refused = registry(dpop).check("binding", &config(&json!({"dpop": true})), &none);
        assert_eq!(refused.unwrap_err().field, "dpop");
    }
    let optional = registry(r#"dpop = "optional""#);
    assert_eq!(optional.find_type("binding").unwrap().asked_keys, ["dpop"]);
    provider.publish(&json!({}));
    let told = optional.verify("binding", &config(&json!({"dpop": true})), &none).await;
    assert_refused!(told, Misconfigured);
}

#[test]
fn an_entry_whose_tokens_are_presented_otherwise_binds_none() {
    let required = r#"dpop = "required""#;
    assert!(entry(required, "").is_ok());
    let call = "[[profile]]\nurl = \"{host}/me\"\n";
    for (more, expected) in [
        (format!("{call}scheme = \"token\""), "presented as DPoP"),
        (format!("{call}token_parameter = \"t\""), "presented as DPoP"),
        ("[revoke]\nurl = \"{host}/r\"\nauthentication = \"bearer\"".to_owned(), "bearer"),
        (
            "[long_lived]\ngrant = \"fb_exchange_token\"\nurl = \"{host}/l\"".to_owned(),
            "traded again",
        ),
    ] {
        let told = entry(required, &more).unwrap_err();
        assert!(told.contains(expected), "{more}: {told}");
    }
}

#[test]
fn a_proof_for_somebody_else_is_for_the_token_and_the_request_that_they_name() {
    let clock = crate::provider::TestClock::new();
    let signer = DpopSigner { clock: Arc::new(clock.clone()) };
    let registry = Registry::new(loopback(), Arc::new(clock));
    let config = json!({"issuer": "http://127.0.0.1:9", "client_id": "client", "dpop": true});
    let row = instance("oidc", object(&config));
    let connector = registry.connect(&row, &ProviderSecrets::new()).unwrap();
    let key = connector.new_dpop_key().unwrap();
    let token = Secret::new("access-1");
    let request = DpopRequest::new("PUT", "https://api.example/a?b=c", Some("rs-1")).unwrap();
    let (one, two) = (
        signer.prove(&key, &request, &token).unwrap(),
        signer.prove(&key, &request, &token).unwrap(),
    );
    assert_ne!(one, two);
    let sent = Request {
        url: "https://api.example/a?b=c".parse().unwrap(),
        method: wiremock::http::Method::PUT,
        headers: [("dpop".parse().unwrap(), one.expose().parse().unwrap())].into_iter().collect(),
        body: Vec::new(),
    };
    let proof = verified(&sent);
    assert_eq!(proof.claims["ath"], ath("access-1"));
    assert_eq!(proof.claims["nonce"], "rs-1");
    assert!(signer.prove(&Secret::new("no key"), &request, &token).is_err());
}

#[tokio::test]
async fn no_error_and_no_answer_of_ours_shows_a_key() {
    let provider = start().await;
    let connector = connector(&provider);
    let key = connector.new_dpop_key().unwrap();
    let shown = Arc::new(Mutex::new(Vec::new()));
    let echo = {
        let shown = shown.clone();
        move |request: &Request| {
            shown.lock().unwrap().push(format!("{:?}", request.headers));
            ResponseTemplate::new(400).set_body_json(json!({"error": "invalid_request"}))
        }
    };
    Mock::given(path("/token")).respond_with(echo).with_priority(1).mount(&provider.server).await;
    let request = RefreshRequest { dpop_key: Some(key.clone()), ..refresh_request() };
    let told = format!("{:?} {request:?}", connector.refresh(&request).await);
    assert!(!told.contains(key.expose()));
    let sent = shown.lock().unwrap().concat();
    assert!(sent.contains("dpop") && !sent.contains(key.expose()), "only the public half leaves");
}
