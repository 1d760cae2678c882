use std::{collections::BTreeMap, convert::Infallible};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::{StreamExt as _, stream};
use maud::Markup;
use serde_json::{Value, json};

use crate::{
    fault::{ExpiresIn, Fault},
    page,
    parameters::encode,
    random::fingerprint,
};

/// What goes back to whoever asked, and what is to be written down about it.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    /// Whether anything was changed for it.
    pub(crate) committed: bool,
    /// Fingerprints of what was issued.
    pub(crate) issued: BTreeMap<&'static str, String>,
    /// The OAuth error in it.
    pub(crate) error: Option<String>,
}

/// What an answer is made of.
pub(crate) enum Content {
    Empty,
    Text(String),
    Json(Value),
    /// Valid or not, already as text.
    JsonText(String),
    /// JSON with so many bytes of padding inside, made while it is sent.
    PaddedJson(Value, u64),
    Html(Markup),
    /// An authorization response: where to, and what with.
    Redirect {
        uri: String,
        parameters: Vec<(String, String)>,
    },
}

impl Answer {
    fn new(status: StatusCode, content: Content) -> Self {
        let (headers, issued) = (HeaderMap::new(), BTreeMap::new());
        Self { status, headers, content, committed: false, issued, error: None }
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        Self::new(status, Content::Empty)
    }

    pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self::new(status, Content::Text(text.into()))
    }

    pub(crate) fn json(value: Value) -> Self {
        Self::new(StatusCode::OK, Content::Json(value))
    }

    pub(crate) fn page(status: StatusCode, page: Markup) -> Self {
        Self::new(status, Content::Html(page))
    }

    pub(crate) fn redirect(
        status: StatusCode,
        uri: impl Into<String>,
        parameters: Vec<(String, String)>,
    ) -> Self {
        Self::new(status, Content::Redirect { uri: uri.into(), parameters })
    }

    /// An OAuth error ([RFC 6749 §5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
    pub(crate) fn refusal(status: StatusCode, error: &str, description: &str) -> Self {
        let body = json!({"error": error, "error_description": description});
        let answer = Self { status, error: Some(error.to_owned()), ..Self::json(body) };
        let answer = answer.not_stored();
        if status == StatusCode::UNAUTHORIZED {
            answer.header(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"sandbox\", charset=\"UTF-8\""),
            )
        } else {
            answer
        }
    }

    /// A request that makes no sense.
    pub(crate) fn invalid_request(description: &str) -> Self {
        Self::refusal(StatusCode::BAD_REQUEST, "invalid_request", description)
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Keeps caches away ([RFC 6749 §5.1](https://www.rfc-editor.org/rfc/rfc6749#section-5.1)).
    pub(crate) fn not_stored(self) -> Self {
        self.header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
            .header(header::PRAGMA, HeaderValue::from_static("no-cache"))
    }

    /// Notes that something was changed.
    pub(crate) fn commit(mut self) -> Self {
        self.committed = true;
        self
    }

    /// Notes what was issued.
    pub(crate) fn issue(mut self, name: &'static str, secret: &str) -> Self {
        self.issued.insert(name, fingerprint(secret));
        self
    }

    /// What a fault answers without anything being processed; `None` for other faults.
    pub(crate) fn instead_of_processing(fault: &Fault) -> Option<Self> {
        match fault {
            Fault::Status { status, body, after_processing: false } => {
                Some(Self::text(status_code(*status), body.clone()))
            }
            Fault::RateLimited { retry_after } => {
                let answer = Self::text(StatusCode::TOO_MANY_REQUESTS, "slow down");
                Some(answer.header(header::RETRY_AFTER, header_value(retry_after)))
            }
            Fault::Redirect { location } => {
                let answer = Self::empty(StatusCode::TEMPORARY_REDIRECT);
                Some(answer.header(header::LOCATION, header_value(location)))
            }
            Fault::Refuse { status, error } => {
                Some(Self::refusal(status_code(*status), error, "a fault was asked for"))
            }
            _ => None,
        }
    }

    /// What a fault makes of an answer. What was processed stays so.
    pub(crate) fn spoil(&mut self, fault: &Fault) {
        match (fault, &mut self.content) {
            (Fault::Status { status, body, after_processing: true }, content) => {
                self.status = status_code(*status);
                self.headers.clear();
                *content = Content::Text(body.clone());
            }
            (Fault::Html, content @ Content::Json(_)) => {
                self.status = StatusCode::OK;
                *content = Content::Html(page::gateway());
            }
            (Fault::TruncatedJson, content @ Content::Json(_)) => {
                let Content::Json(value) = content else { return };
                let mut text = value.to_string();
                // All of our JSON is far longer than one character, and ASCII where it is cut.
                let half = text.floor_char_boundary(text.len() / 2);
                text.truncate(half);
                *content = Content::JsonText(text);
            }
            (Fault::Oversized { bytes }, content @ Content::Json(_)) => {
                let Content::Json(value) = content else { return };
                *content = Content::PaddedJson(value.take(), *bytes);
            }
            (Fault::Member { name, value: Value::Null }, Content::Json(Value::Object(object))) => {
                object.remove(name);
            }
            (Fault::Member { name, value }, Content::Json(Value::Object(object))) => {
                object.insert(name.clone(), value.clone());
            }
            (Fault::ExpiresIn { value }, Content::Json(Value::Object(object))) => {
                let Some(real) = object.remove("expires_in") else { return };
                let instead = match value {
                    ExpiresIn::Text => Value::String(real.to_string()),
                    ExpiresIn::Words => json!("soon"),
                    ExpiresIn::Zero => json!(0),
                    ExpiresIn::Negative => json!(-1),
                    ExpiresIn::Huge => json!(1e308),
                    ExpiresIn::Missing => return,
                };
                object.insert("expires_in".to_owned(), instead);
            }
            (Fault::IssMissing, Content::Redirect { parameters, .. }) => {
                replace(parameters, "iss", None);
            }
            (Fault::IssWrong, Content::Redirect { parameters, .. }) => {
                replace(parameters, "iss", Some(OTHER_ISSUER));
            }
            (Fault::Parameter { name, value }, Content::Redirect { parameters, .. }) => {
                replace(parameters, name, value.as_deref());
            }
            _ => {}
        }
    }

    /// Where a redirect goes.
    pub(crate) fn location(&self) -> Option<String> {
        let Content::Redirect { uri, parameters } = &self.content else { return None };
        let joint = if uri.contains('?') { '&' } else { '?' };
        Some(format!("{uri}{joint}{}", encode(parameters)))
    }

    pub(crate) fn into_response(self) -> Response {
        let location = self.location();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if let Some(location) = location {
            response.headers_mut().insert(header::LOCATION, header_value(&location));
        }
        let (content_type, body) = match self.content {
            Content::Empty | Content::Redirect { .. } => return response,
            Content::Text(text) => ("text/plain; charset=utf-8", text.into()),
            Content::Json(value) => ("application/json", value.to_string().into()),
            Content::JsonText(text) => ("application/json", text.into()),
            Content::PaddedJson(value, bytes) => ("application/json", padded(&value, bytes)),
            Content::Html(page) => {
                page::protect(response.headers_mut());
                ("text/html; charset=utf-8", page.into_string().into())
            }
        };
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().entry(header::CONTENT_TYPE).or_insert(content_type);
        *response.body_mut() = body;
        response
    }
}

/// An issuer that is not the sandbox.
pub(crate) const OTHER_ISSUER: &str = "https://another-issuer.example";

fn replace(parameters: &mut Vec<(String, String)>, name: &str, value: Option<&str>) {
    parameters.retain(|(it, _)| it != name);
    parameters.extend(value.map(|it| (name.to_owned(), it.to_owned())));
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("Fault::is_sendable has checked it")
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("checked to be printable ASCII where it came in")
}

fn padded(value: &Value, bytes: u64) -> Body {
    static CHUNK: [u8; 65536] = [b'x'; 65536];
    let text = value.to_string();
    let rest = text.strip_prefix('{').unwrap_or(&text).to_owned();
    let rest = if rest == "}" { format!("\"{rest}") } else { format!("\",{rest}") };
    let chunk = Bytes::from_static(&CHUNK);
    let last = usize::try_from(bytes % 65536).unwrap_or_default();
    let whole = usize::try_from(bytes / 65536).unwrap_or(usize::MAX);
    let padding = stream::repeat(chunk.clone()).take(whole);
    let start = stream::once(async { Bytes::from_static(b"{\"padding\":\"") });
    let end = stream::iter([chunk.slice(..last), Bytes::from(rest)]);
    Body::from_stream(start.chain(padding).chain(end).map(Ok::<_, Infallible>))
}
