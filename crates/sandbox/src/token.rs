use aws_lc_rs::digest;
use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    answer::Answer,
    client_authentication::authenticate,
    endpoint::Endpoint,
    fault::{Fault, IdTokenFlaw},
    grants::{CodeExchange, Issued, Issuing, Refused},
    id_token::id_token,
    parameters::{Parameters, words},
    provider::{Provider, Received},
    settings::Client,
};

/// What a token request asks for.
pub(crate) fn endpoint(form: &Parameters) -> Endpoint {
    match form.get("grant_type") {
        Some("authorization_code") => Endpoint::Exchange,
        Some("refresh_token") => Endpoint::Refresh,
        _ => Endpoint::Token,
    }
}

/// The token endpoint ([RFC 6749 §3.2](https://www.rfc-editor.org/rfc/rfc6749#section-3.2)).
pub(crate) fn issue(provider: &Provider, received: &Received, fault: Option<&Fault>) -> Answer {
    let client = match authenticate(provider, received) {
        Ok(client) => client,
        Err(refusal) => return *refusal,
    };
    let issued = match (received.form.get("grant_type"), received.endpoint) {
        (_, Endpoint::Exchange) => exchange(provider, &client, &received.form, fault),
        (_, Endpoint::Refresh) => refresh(provider, &client, &received.form, fault),
        (None, _) => return Answer::invalid_request("grant_type is missing"),
        (Some(_), _) => {
            let known = "grant_type must be authorization_code or refresh_token";
            return Answer::refusal(StatusCode::BAD_REQUEST, "unsupported_grant_type", known);
        }
    };
    match issued {
        Ok(issued) => answer(provider, &client, received.endpoint, &issued, fault),
        Err(refusal) => *refusal,
    }
}

fn exchange(
    provider: &Provider,
    client: &Client,
    form: &Parameters,
    fault: Option<&Fault>,
) -> Result<Issued, Box<Answer>> {
    let code = required(form, "code")?;
    let redirect_uri = required(form, "redirect_uri")?;
    let verifier = required(form, "code_verifier")?;
    if !is_verifier(verifier) {
        let why = "code_verifier must be 43 to 128 letters, digits or -._~ (RFC 7636 §4.1)";
        return Err(Answer::invalid_request(why).into());
    }
    let hash = digest::digest(&digest::SHA256, verifier.as_bytes());
    let code_challenge = URL_SAFE_NO_PAD.encode(hash);
    let request = CodeExchange {
        client_id: &client.client_id,
        code,
        redirect_uri,
        code_challenge: &code_challenge,
    };
    let narrow = |scope: &[String]| narrowed(scope, fault);
    let issued = provider.grants().exchange(&request, narrow, issuing(provider, fault));
    issued.map_err(|it| refusal(it).into())
}

fn refresh(
    provider: &Provider,
    client: &Client,
    form: &Parameters,
    fault: Option<&Fault>,
) -> Result<Issued, Box<Answer>> {
    let refresh_token = required(form, "refresh_token")?;
    let asked = form.get("scope").map(words);
    let narrow = |granted: &[String]| {
        let asked = asked.unwrap_or_else(|| granted.to_vec());
        let within = asked.iter().all(|it| granted.contains(it));
        within.then(|| narrowed(&asked, fault))
    };
    let issuing = issuing(provider, fault);
    let issued = provider.grants().refresh(&client.client_id, refresh_token, narrow, issuing);
    issued.map_err(|it| refusal(it).into())
}

fn issuing(provider: &Provider, fault: Option<&Fault>) -> Issuing {
    Issuing {
        now: provider.clock.now(),
        access_token_lifetime: provider.access_token_lifetime,
        rotate: provider.rotate_refresh_tokens,
        reuse_interval: provider.reuse_interval,
        refresh_token: fault != Some(&Fault::NoRefreshToken),
    }
}

/// [RFC 6749 §5.1](https://www.rfc-editor.org/rfc/rfc6749#section-5.1).
fn answer(
    provider: &Provider,
    client: &Client,
    endpoint: Endpoint,
    issued: &Issued,
    fault: Option<&Fault>,
) -> Answer {
    let mut body = json!({
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": provider.access_token_lifetime.as_secs(),
        "scope": issued.scope.join(" "),
    });
    if issued.scope.iter().any(|it| it == "openid") {
        let nonce = issued.consent.nonce.as_deref().filter(|_| endpoint == Endpoint::Exchange);
        let flaw: Option<&IdTokenFlaw> = match fault {
            Some(Fault::IdToken { flaw }) => Some(flaw),
            _ => None,
        };
        if let Some(id_token) = id_token(provider, client, issued, nonce, flaw) {
            body["id_token"] = Value::String(id_token);
        }
    }
    if let Some(refresh_token) = &issued.refresh_token {
        body["refresh_token"] = refresh_token.as_str().into();
    }
    let answer = Answer::json(body).not_stored().commit();
    let answer = answer.issue("access_token", &issued.access_token);
    match &issued.refresh_token {
        Some(token) => answer.issue("refresh_token", token),
        None => answer,
    }
}

fn narrowed(scope: &[String], fault: Option<&Fault>) -> Vec<String> {
    match fault {
        Some(Fault::NarrowerScope { scope: narrower }) => {
            let narrower = words(narrower);
            scope.iter().filter(|it| narrower.contains(it)).cloned().collect()
        }
        _ => scope.to_vec(),
    }
}

fn refusal(refused: Refused) -> Answer {
    let error = match refused {
        Refused::Scope => "invalid_scope",
        _ => "invalid_grant",
    };
    let answer = Answer::refusal(StatusCode::BAD_REQUEST, error, &refused.to_string());
    match refused {
        Refused::CodeReused | Refused::RefreshTokenReused => answer.commit(),
        _ => answer,
    }
}

/// A parameter that must be there.
pub(crate) fn required<'a>(form: &'a Parameters, name: &str) -> Result<&'a str, Box<Answer>> {
    form.get(name).ok_or_else(|| Answer::invalid_request(&format!("{name} is missing")).into())
}

/// [RFC 7636 §4.1](https://www.rfc-editor.org/rfc/rfc7636#section-4.1).
fn is_verifier(text: &str) -> bool {
    let allowed = |it: u8| it.is_ascii_alphanumeric() || b"-._~".contains(&it);
    (43..=128).contains(&text.len()) && text.bytes().all(allowed)
}
