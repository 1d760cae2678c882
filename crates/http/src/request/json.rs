use std::time::Duration;

use axum::{
    body::{Bytes, HttpBody as _},
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use crate::error::ApiError;

/// Most bytes of a JSON body.
pub(crate) const JSON_LIMIT: usize = 1024 * 1024;

/// How long a body may take to arrive.
const DEADLINE: Duration = Duration::from_secs(30);

/// A JSON body.
pub(crate) struct JsonBody<T>(pub(crate) T);

/// A JSON body that may be left out.
pub(crate) struct OptionalJsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::not_json());
        }
        parse(&read_body(request, JSON_LIMIT).await?).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if request.body().is_end_stream() {
            return Ok(Self(T::default()));
        }
        let is_json = is_json(request.headers());
        let body = read_body(request, JSON_LIMIT).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(ApiError::not_json());
        }
        parse(&body).map(Self)
    }
}

/// Reads a whole body, or refuses it.
pub(crate) async fn read_body(mut request: Request, limit: usize) -> Result<Bytes, ApiError> {
    DefaultBodyLimit::max(limit).apply(&mut request);
    match tokio::time::timeout(DEADLINE, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(refused)) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(ApiError::too_large(limit))
        }
        Ok(Err(_)) => Err(ApiError::invalid("body", "did not arrive whole")),
        Err(_) => Err(ApiError::invalid("body", "did not arrive in time")),
    }
}

/// Whether the body is `application/json` or some `application/…+json`.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads a body as `T`; the problem of one that does not fit names the field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // Valid JSON, and no database keeps it.
    if holds_nul(body) {
        return Err(ApiError::invalid("body", "must hold no NUL character (\\u0000)"));
    }
    // Serde would take an array for a struct, its fields in order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::invalid("body", "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        // A number in the place of an enum is a syntax error to the parser, though the JSON is
        // good.
        if error.inner().is_syntax() && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
            return ApiError::invalid(&path, "has a wrong form");
        }
        refusal(&path, error.inner())
    })?;
    json.end().map_err(|error| refusal(".", &error))?;
    Ok(value)
}

/// Whether a text of the body escapes a NUL: `\u0000` with its backslash not itself escaped.
fn holds_nul(body: &[u8]) -> bool {
    body.windows(6).enumerate().any(|(at, window)| {
        window == b"\\u0000"
            && body[..at].iter().rev().take_while(|it| **it == b'\\').count() % 2 == 0
    })
}

/// What is wrong, by field. The parser's own words are used only where they are ours: they quote
/// what was sent, which may be a secret.
fn refusal(path: &str, error: &serde_json::Error) -> ApiError {
    let path = if path == "." { "body" } else { path };
    if error.classify() != Category::Data {
        let problem =
            format!("is not valid JSON (line {}, column {})", error.line(), error.column());
        return ApiError::invalid("body", problem);
    }
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    if let Some(name) = quoted(text, "missing field `") {
        return ApiError::invalid(&inside(path, name), "is required");
    }
    if let Some(name) = quoted(text, "unknown field `") {
        let name: String = name.chars().filter(|it| !it.is_control()).take(64).collect();
        return ApiError::invalid(&inside(path, &name), "there is no such field");
    }
    if let Some(name) = quoted(text, "duplicate field `") {
        return ApiError::invalid(&inside(path, name), "must be given once");
    }
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => ApiError::invalid(path, format_args!("must be {expected}")),
        None => ApiError::invalid(path, "has a wrong form"),
    }
}

fn quoted<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    // A name may hold a backtick itself: what follows it is our own list of names.
    let rest = text.strip_prefix(start)?;
    let end = rest.find("`, expected ").or_else(|| rest.find("`, there are no fields"));
    Some(end.map_or_else(|| rest.trim_end_matches('`'), |end| &rest[..end]))
}

/// A field's whole name. The path may end in the field already.
fn inside(path: &str, name: &str) -> String {
    if path == "body" || path == name || path.ends_with(&format!(".{name}")) {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Thing {
        name: String,
        #[serde(default)]
        count: u8,
        #[serde(default)]
        scopes: Vec<String>,
    }

    fn detail(body: &str) -> String {
        format!("{:?}", parse::<Thing>(body.as_bytes()).unwrap_err())
    }

    #[test]
    fn a_refusal_names_the_field_and_quotes_no_value() {
        for (body, expected) in [
            ("{}", "name: is required"),
            (r#"{"name":"n","nmae":"canary"}"#, "nmae: there is no such field"),
            (r#"{"name":"n","name":"canary"}"#, "name: must be given once"),
            (r#"{"name":5}"#, "name: must be a string"),
            (r#"{"name":"n","count":"canary, expected x"}"#, "count: must be u8"),
            (r#"{"name":"n","count":256}"#, "count: must be u8"),
            (r#"{"name":"n","count":-1}"#, "count: must be u8"),
            (r#"{"name":"n","scopes":["a",{"canary":1}]}"#, "scopes[1]: must be a string"),
            (r#"["canary"]"#, "body: must be a JSON object"),
            (r#""canary""#, "body: must be a JSON object"),
            (r#"{"name":"canary"#, "body: is not valid JSON"),
            (r#"{"name":"n"} canary"#, "body: is not valid JSON"),
            ("", "body: must be a JSON object"),
            (r#"{"name":"a\u0000b"}"#, "body: must hold no NUL"),
        ] {
            let detail = detail(body);
            assert!(detail.contains(expected), "{body}: {detail}");
            assert!(!detail.contains("canary"), "{body}: {detail}");
        }
    }

    #[test]
    fn an_escaped_backslash_before_u0000_is_no_nul() {
        assert!(parse::<Thing>(br#"{"name":"a\\u0000"}"#).is_ok());
    }
}
