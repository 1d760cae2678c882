use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::{HeaderMap, StatusCode, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use url::form_urlencoded;

use crate::{
    answer::Answer,
    provider::{Provider, Received},
    settings::Client,
};

/// Establishes which client asks, by `client_secret_basic`, `client_secret_post` or, for a public
/// client, `none` ([RFC 6749 §2.3.1](https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1)).
///
/// # Errors
///
/// The answer that refuses the request.
pub(crate) fn authenticate(
    provider: &Provider,
    received: &Received,
) -> Result<Client, Box<Answer>> {
    if !received.is_form {
        let why = "the body must be application/x-www-form-urlencoded";
        return Err(Answer::invalid_request(why).into());
    }
    if let Some(name) = received.form.repeated() {
        return Err(Answer::invalid_request(&format!("{name:?} is there more than once")).into());
    }
    let in_form = received.form.get("client_id");
    let (client_id, secret) = if received.headers.contains_key(header::AUTHORIZATION) {
        let (client_id, secret) =
            basic(&received.headers).ok_or_else(|| refused("Authorization is not readable"))?;
        if received.form.get("client_secret").is_some() {
            return Err(Answer::invalid_request("the client authenticates in two ways").into());
        }
        if in_form.is_some_and(|it| it != client_id) {
            return Err(Answer::invalid_request("client_id is not the one in Authorization").into());
        }
        (client_id, Some(secret))
    } else {
        let client_id = in_form.ok_or_else(|| refused("the client says nothing of itself"))?;
        (client_id.to_owned(), received.form.get("client_secret").map(str::to_owned))
    };
    let client = provider.client(&client_id).ok_or_else(|| refused("no such client"))?;
    let proven = match (&client.client_secret, &secret) {
        (Some(expected), Some(secret)) => {
            verify_slices_are_equal(expected.as_bytes(), secret.as_bytes()).is_ok()
        }
        (None, None) => true,
        _ => false,
    };
    if proven { Ok(client) } else { Err(refused("the client's secret is not right").into()) }
}

/// The client that a request names, proven or not.
pub(crate) fn named(received: &Received) -> Option<String> {
    let in_parameters = received.form.get("client_id").or_else(|| received.query.get("client_id"));
    basic(&received.headers).map(|(client_id, _)| client_id).or(in_parameters.map(str::to_owned))
}

fn refused(description: &str) -> Answer {
    Answer::refusal(StatusCode::UNAUTHORIZED, "invalid_client", description)
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (client_id, secret) = decoded.split_once(':')?;
    Some((form_decoded(client_id)?, form_decoded(secret)?))
}

/// Id and secret are form-encoded each before they are joined.
fn form_decoded(text: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(text.as_bytes());
    let (name, value) = pairs.next()?;
    (value.is_empty() && pairs.next().is_none()).then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_secret_are_form_decoded() {
        assert_eq!(form_decoded("a%3Ab+c%26").as_deref(), Some("a:b c&"));
        assert_eq!(form_decoded("a&b"), None);
    }
}
