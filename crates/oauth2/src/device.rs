//! What the endpoints of the device flow answer
//! ([RFC 8628](https://www.rfc-editor.org/rfc/rfc8628)).

use std::time::Duration;

use serde_json::Value;
use symbolon_domain::{
    ports::{ConnectorError, DeviceAuthorization},
    secret::Secret,
};
use url::Url;

use crate::{
    http::{HttpClient, HttpResponse},
    token_answer::{self, TokenResponse},
};

pub(crate) const DEVICE_ENDPOINT: &str = "the device authorization endpoint";
pub(crate) const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// Where the provider says nothing (§3.2).
const INTERVAL: u64 = 5;
/// A day: nobody is waited for longer, and no sum of times overflows.
const LONGEST: u64 = 24 * 60 * 60;

/// What the token endpoint answers to a device code.
pub(crate) enum Polled {
    Pending,
    SlowDown,
    Tokens(Box<TokenResponse>),
}

/// Whether the answer says that the user has not decided, or that the user has refused; `None` for
/// any other, which means what it means to any grant.
///
/// The standard has 400 for these; some providers say so with 200 (GitHub), 403 (Auth0) or 429.
pub(crate) fn undecided(answer: &HttpResponse) -> Option<Result<Polled, ConnectorError>> {
    if !matches!(answer.status, 200..=299 | 400..=499) {
        return None;
    }
    let object = object(answer)?;
    match token_answer::error_code(object.as_object()?)? {
        "authorization_pending" => Some(Ok(Polled::Pending)),
        "slow_down" => Some(Ok(Polled::SlowDown)),
        // So Microsoft calls it
        // (https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-device-code).
        "authorization_declined" => {
            Some(Err(ConnectorError::GrantRejected { code: "access_denied".into() }))
        }
        _ => None,
    }
}

/// The authorization that an answer holds (§3.2): `None` when it is something else, an error for
/// example; otherwise what is wrong with it.
pub(crate) fn authorization(
    answer: &HttpResponse,
    http: &HttpClient,
) -> Option<Result<DeviceAuthorization, &'static str>> {
    if !matches!(answer.status, 200..=299) {
        return None;
    }
    let object = object(answer)?;
    object.get("device_code")?;
    Some(read(&object, http))
}

fn object(answer: &HttpResponse) -> Option<Value> {
    let bytes = answer.body.as_deref().ok()?;
    token_answer::object(bytes, answer.header("content-type"))
}

fn read(object: &Value, http: &HttpClient) -> Result<DeviceAuthorization, &'static str> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).filter(|it| !it.is_empty());
    let device_code = text("device_code")
        .filter(|it| it.bytes().all(|it| (b' '..=b'~').contains(&it)))
        .ok_or("its device_code is not a code")?;
    let user_code = text("user_code")
        .filter(|it| it.chars().count() <= 255 && !it.chars().any(char::is_control))
        .ok_or("its user_code is not a code")?;
    // A person is sent there, as to the authorization endpoint.
    let address = |text: &str| {
        let url = Url::parse(text).ok().filter(|it| text.len() <= 2048 && http.check(it).is_ok());
        url.ok_or("its verification_uri is not an address that is allowed")
    };
    // Google calls it a URL.
    let verification_uri = text("verification_uri").or_else(|| text("verification_url"));
    let verification_uri = address(verification_uri.ok_or("it has no verification_uri")?)?;
    let complete = text("verification_uri_complete").or_else(|| text("verification_url_complete"));
    let seconds = |name: &str| match object.get(name)? {
        Value::Number(number) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a cast from float saturates"
            )]
            let whole = number.as_u64().or_else(|| number.as_f64().map(|it| it as u64));
            whole
        }
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let expires_in = seconds("expires_in").ok_or("it does not say how long it is good for")?;
    let interval = seconds("interval").unwrap_or(INTERVAL);
    Ok(DeviceAuthorization {
        device_code: Secret::new(device_code),
        user_code: user_code.to_owned(),
        verification_uri,
        verification_uri_complete: complete.map(address).transpose()?,
        expires_in: Duration::from_secs(expires_in.min(LONGEST)),
        interval: Duration::from_secs(interval.min(LONGEST)),
    })
}
