use std::{fmt, time::Duration};

use reqwest::{
    Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Map, Value};
use symbolon_domain::secret::Secret;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

/// How the body of an answer is written ([RFC 9110 §8.4.1](https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// As it is.
    Identity,
    /// Compressed, or as it is.
    Gzip,
}

impl Coding {
    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
        }
    }
}

/// One request to the outside.
///
/// `Debug` shows the method and the host, nothing that could be a secret.
pub struct HttpRequest {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
    pub(super) own_connection: bool,
    /// Whether it proves that we hold a key.
    pub(super) proven: bool,
    /// How its answer may be written.
    pub(super) coding: Coding,
    /// Waited for no longer than this.
    pub(super) within: Option<Duration>,
    /// A header that cannot be sent was given; told when sending.
    pub(super) malformed: bool,
}

impl HttpRequest {
    fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
            own_connection: false,
            proven: false,
            coding: Coding::Identity,
            within: None,
            malformed: false,
        }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }

    /// A `DELETE`.
    #[must_use]
    pub fn delete(url: Url) -> Self {
        Self::new(Method::DELETE, url)
    }

    /// A `POST` of these bytes.
    #[must_use]
    pub fn post(url: Url, content_type: &'static str, body: Vec<u8>) -> Self {
        let mut request = Self::new(Method::POST, url);
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        request.body = Some(Zeroizing::new(body));
        request
    }

    /// A `POST` of a form, `application/x-www-form-urlencoded`.
    #[must_use]
    pub fn post_form(url: Url, fields: &[(&str, &str)]) -> Self {
        Self::form(Method::POST, url, fields)
    }

    /// A form, sent with any method.
    pub(crate) fn form(method: Method, url: Url, fields: &[(&str, &str)]) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let form = form.finish().into_bytes();
        Self { method, ..Self::post(url, "application/x-www-form-urlencoded", form) }
    }

    /// A JSON object of texts, sent with any method.
    pub(crate) fn json(method: Method, url: Url, fields: &[(&str, &str)]) -> Self {
        let object: Map<String, Value> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let body = Value::Object(object).to_string().into_bytes();
        Self { method, ..Self::post(url, "application/json", body) }
    }

    /// A request without a body.
    pub(crate) fn without_body(method: Method, url: Url) -> Self {
        Self::new(method, url)
    }

    /// Asks for an answer in this media type.
    #[must_use]
    pub fn accept(self, media_type: &'static str) -> Self {
        self.header(ACCEPT, HeaderValue::from_str(media_type).ok())
    }

    /// Takes an answer that is compressed with gzip, which some send whatever is asked for. What it
    /// holds is bounded like any other answer.
    pub(crate) fn accept_gzip(self) -> Self {
        Self { coding: Coding::Gzip, ..self }
    }

    /// Sends one more header, over one of the same name. A name or value that HTTP cannot carry
    /// makes [`send`](super::HttpClient::send) answer
    /// [`NotSent`](super::HttpError::NotSent).
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            self.malformed = true;
            return self;
        };
        self.header(name, HeaderValue::from_str(value).ok())
    }

    /// Presents an access token ([RFC 6750 §2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)).
    #[must_use]
    pub fn bearer(self, token: &Secret) -> Self {
        self.authorization("Bearer", token.expose())
    }

    pub(crate) fn authorization(self, scheme: &str, credentials: &str) -> Self {
        let text = Zeroizing::new(format!("{scheme} {credentials}"));
        let value = HeaderValue::from_str(&text).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        self.header(AUTHORIZATION, value)
    }

    /// Goes over a connection of its own, opened for it and closed after it.
    ///
    /// For what must happen once: an idle connection may be closed by the other side in the very
    /// moment of sending, and then nobody knows whether the request arrived.
    #[must_use]
    pub fn over_its_own_connection(mut self) -> Self {
        self.own_connection = true;
        self
    }

    /// Waits no longer than this, and in any case no longer than the client does.
    pub(crate) fn within(self, time: Duration) -> Self {
        Self { within: Some(time), ..self }
    }

    /// Proves that we hold a key
    /// ([RFC 9449 §4.1](https://www.rfc-editor.org/rfc/rfc9449#section-4.1)).
    pub(crate) fn proven(mut self, proof: &Secret) -> Self {
        let value = HeaderValue::from_str(proof.expose()).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        self.proven = true;
        self.header(HeaderName::from_static("dpop"), value)
    }

    /// The method.
    pub(crate) fn method(&self) -> &str {
        self.method.as_str()
    }

    /// Where it goes.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    fn header(mut self, name: HeaderName, value: Option<HeaderValue>) -> Self {
        match value {
            Some(value) => {
                self.headers.insert(name, value);
            }
            None => self.malformed = true,
        }
        self
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}
