//! What providers really answer, as their documentation and public threads have it
//! (`tests/answers/answers.json`), through the real connector with the provider's rules.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Map, Value, json};
use symbolon_domain::{
    identity_provider::{Capabilities, Rotation},
    ports::{Connector as _, ConnectorError, Sent},
    secret::Secret,
};
use symbolon_oauth2::{
    Client, ClientAuthentication, Engine, ErrorRules, Issuer, OpenIdConnector, SigningAlg,
};
use wiremock::ResponseTemplate;

use crate::provider::{Provider, form, loopback, ok, refresh_request};

const FILE: &str = include_str!("../answers/answers.json");

fn answers() -> Vec<Map<String, Value>> {
    let file: Value = serde_json::from_str(FILE).unwrap();
    let list = file["answers"].as_array().unwrap();
    list.iter().map(|it| it.as_object().unwrap().clone()).collect()
}

fn text<'a>(answer: &'a Map<String, Value>, name: &str) -> &'a str {
    answer.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn body_of(answer: &Map<String, Value>) -> String {
    match &answer["body"] {
        Value::String(text) => text.clone(),
        body => body.to_string(),
    }
}

fn template(answer: &Map<String, Value>) -> ResponseTemplate {
    let status = u16::try_from(answer["status"].as_u64().unwrap()).unwrap();
    let headers = answer["headers"].as_object().unwrap();
    let template = ResponseTemplate::new(status).set_body_bytes(body_of(answer));
    headers.iter().fold(template, |it, (name, value)| {
        it.insert_header(name.as_str(), value.as_str().unwrap())
    })
}

fn connector(
    (provider, engine): &(Provider, Engine),
    rules: ErrorRules,
    next: Option<&str>,
) -> OpenIdConnector {
    let issuer = Issuer::new(provider.issuer.as_str(), engine.http()).unwrap();
    let client = Client {
        token_issuers: vec![provider.issuer.clone()],
        issuer,
        refresh_token_idle: None,
        client_id: "client".into(),
        authentication: ClientAuthentication::Post(Secret::new("s3cret-old")),
        next_secret: next.map(Secret::new),
        scopes: None,
        offline_access: false,
        signing_algs: SigningAlg::DEFAULT.to_vec(),
        resource: Vec::new(),
        pushes: false,
        dpop: false,
        published_keys: Vec::new(),
        authorization_parameters: Vec::new(),
        capabilities: Capabilities {
            browser: true,
            device: false,
            refresh: true,
            revoke: false,
            sign_in: false,
            rotation: Rotation::MayRotate,
        },
        error_rules: rules,
    };
    OpenIdConnector::new(engine.clone(), client)
}

async fn start() -> (Provider, Engine) {
    let provider = Provider::start().await;
    let engine = Engine::new(loopback(), Arc::new(provider.clock.clone()));
    (provider, engine)
}

/// The class, and the code where the domain passes one on.
fn class_of(error: &ConnectorError) -> (&'static str, &str) {
    match error {
        ConnectorError::GrantRejected { code } => ("grant_rejected", code),
        ConnectorError::ClientRejected { code } => ("client_rejected", code),
        ConnectorError::Unavailable { sent: Sent::Answered, .. } => ("may_pass", ""),
        ConnectorError::Unavailable { .. } => ("unknown", ""),
        ConnectorError::Misconfigured { .. } => ("ask_operator", ""),
        ConnectorError::Untrusted { .. } => ("untrusted", ""),
    }
}

#[tokio::test]
async fn every_recorded_answer_has_its_class() {
    let at = start().await;
    for answer in answers() {
        at.0.answer("/token", template(&answer));
        let rules = ErrorRules::built_in(text(&answer, "provider"));
        let refused = connector(&at, rules, None).refresh(&refresh_request()).await;
        let error = refused.unwrap_err();
        let expected = (text(&answer, "class"), text(&answer, "code"));
        assert_eq!(class_of(&error), expected, "{answer:#?}");
        if let ConnectorError::Unavailable { retry_after, .. } = &error {
            let asked = text(answer["headers"].as_object().unwrap(), "retry-after").parse().ok();
            assert_eq!(retry_after.map(|it| it.as_secs()), asked, "{answer:#?}");
        }
    }
}

#[tokio::test]
async fn nothing_that_a_provider_sent_but_a_known_code_is_passed_on() {
    let at = start().await;
    for answer in answers() {
        at.0.answer("/token", template(&answer));
        let rules = ErrorRules::built_in(text(&answer, "provider"));
        let refused = connector(&at, rules, None).refresh(&refresh_request()).await;
        let error = refused.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cret-old") && !shown.contains("refresh-0"), "{shown}");
        // The foreign sentences: of more than one word, so that a code is none.
        let mut sentences = Vec::new();
        collect_sentences(&answer["body"], &mut sentences);
        for sentence in sentences {
            assert!(!shown.contains(&sentence), "{shown}: {sentence}");
        }
    }
}

fn collect_sentences(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains(' ') => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|it| collect_sentences(it, into)),
        Value::Object(members) => members.values().for_each(|it| collect_sentences(it, into)),
        _ => {}
    }
}

#[test]
fn every_recorded_answer_names_its_source() {
    let mut seen = BTreeSet::new();
    for answer in answers() {
        assert!(text(&answer, "source").starts_with("https://"), "{answer:#?}");
        assert!(["observed", "documented"].contains(&text(&answer, "evidence")), "{answer:#?}");
        assert!(!text(&answer, "what").is_empty(), "{answer:#?}");
        let same =
            (text(&answer, "provider").to_owned(), answer["status"].to_string(), body_of(&answer));
        assert!(seen.insert(same), "twice: {answer:#?}");
    }
}

/// Tokens are tokens, whatever a rule would make of the rest of the answer.
#[tokio::test]
async fn no_rule_takes_tokens_away() {
    let at = start().await;
    let tokens = json!({
        "ok": true, "access_token": "access-1", "token_type": "Bearer", "message": "Invalid refresh token",
        "status": "BAD_REFRESH_TOKEN", "code": "invalid_grant",
    });
    at.0.answer("/token", ok(&tokens));
    for answer in answers() {
        let rules = ErrorRules::built_in(text(&answer, "provider"));
        assert!(connector(&at, rules, None).refresh(&refresh_request()).await.is_ok());
    }
}

#[tokio::test]
async fn a_providers_own_word_for_a_wrong_secret_has_the_other_secret_tried() {
    let at = start().await;
    for answer in answers() {
        if text(&answer, "code") != "invalid_client" {
            continue;
        }
        let before = at.0.requests("/token").await.len();
        at.0.answer("/token", template(&answer));
        let rules = ErrorRules::built_in(text(&answer, "provider"));
        let connector = connector(&at, rules, Some("s3cret-new"));
        let refused = connector.refresh(&refresh_request()).await.unwrap_err();
        assert_eq!(class_of(&refused), ("client_rejected", "invalid_client"));
        let requests = at.0.requests("/token").await;
        let sent: Vec<_> =
            requests[before..].iter().map(|it| form(it)["client_secret"].clone()).collect();
        assert_eq!(sent, ["s3cret-old", "s3cret-new"], "{answer:#?}");
    }
}

/// Without the provider's rules nothing that is not `invalid_grant` or its like ends a grant: an
/// `oidc` provider that answers as no rule knows costs the user nothing.
#[tokio::test]
async fn without_rules_only_registered_codes_end_a_grant() {
    let provider = Provider::start().await;
    for answer in answers() {
        provider.answer("/token", template(&answer));
        let refused = provider.refresh().await.unwrap_err();
        if let ConnectorError::GrantRejected { code } = &refused {
            let registered = ["invalid_grant", "interaction_required", "access_denied"];
            assert!(registered.contains(&code.as_str()), "{answer:#?}");
        }
        if text(&answer, "class") == "client_rejected" {
            assert!(!matches!(refused, ConnectorError::GrantRejected { .. }), "{answer:#?}");
        }
    }
}

#[test]
fn the_documentation_has_the_same_answers() {
    let page = include_str!("../../../../docs/refresh-failures.md");
    let (_, table) = page.split_once("## What providers really answer").unwrap();
    let shown: Vec<_> = table.lines().filter(|it| it.starts_with("| ")).skip(2).collect();
    let recorded: Vec<_> = answers()
        .iter()
        .map(|it| {
            let code = match text(it, "code") {
                "" => String::new(),
                code => format!(" `{code}`"),
            };
            format!(
                "| {} | {} | {} | {}{code} | [{}]({}) |",
                text(it, "provider"),
                text(it, "what"),
                it["status"],
                text(it, "class"),
                text(it, "evidence"),
                text(it, "source"),
            )
        })
        .collect();
    assert_eq!(shown, recorded);
}
