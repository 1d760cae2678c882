//! Whether a request is the one that a provider expects.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use url::{Url, form_urlencoded};

use super::Expected;

/// A request as it came.
pub(super) struct Received {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) query: BTreeMap<String, String>,
    pub(super) form: BTreeMap<String, String>,
    pub(super) json: Map<String, Value>,
    /// Names that are there more than once in the query, or in the form.
    pub(super) repeated: Vec<String>,
}

impl Received {
    pub(super) fn new(method: Method, url: Url, headers: HeaderMap, body: &[u8]) -> Self {
        let mut repeated = Vec::new();
        let mut pairs = |bytes: &[u8]| {
            let mut pairs = BTreeMap::new();
            for (name, value) in form_urlencoded::parse(bytes).into_owned() {
                if pairs.insert(name.clone(), value).is_some() {
                    repeated.push(name);
                }
            }
            pairs
        };
        let media = headers.get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default();
        let form = if media.starts_with("application/x-www-form-urlencoded") {
            pairs(body)
        } else {
            BTreeMap::new()
        };
        let json = if media.starts_with("application/json") {
            serde_json::from_slice(body).unwrap_or_default()
        } else {
            Map::new()
        };
        let query = pairs(url.query().unwrap_or_default().as_bytes());
        Self { method, url, headers, query, form, json, repeated }
    }

    /// A field, wherever it stands.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let json = self.json.get(name).and_then(Value::as_str);
        self.form.get(name).or_else(|| self.query.get(name)).map(String::as_str).or(json)
    }

    /// What is said twice, of which nobody knows which one counts (RFC 6749 §3.1).
    pub(super) fn repeats(&self) -> impl Iterator<Item = String> {
        self.repeated.iter().map(|it| format!("{it} is sent more than once"))
    }

    /// Whether it goes to this place.
    pub(super) fn is_at(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|it| {
            it.host_str() == self.url.host_str()
                && it.port_or_known_default() == self.url.port_or_known_default()
                && it.path() == self.url.path()
        })
    }
}

/// The client that is expected to prove to be it.
pub(super) struct Client<'a> {
    pub(super) id: &'a str,
    pub(super) secret: &'a str,
}

impl Client<'_> {
    /// The credentials that count: encoded as RFC 6749 has it, or plain as many providers do.
    fn credentials(&self) -> [String; 2] {
        let encode =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        [
            format!(
                "Basic {}",
                STANDARD.encode(format!("{}:{}", encode(self.id), encode(self.secret)))
            ),
            format!("Basic {}", STANDARD.encode(format!("{}:{}", self.id, self.secret))),
        ]
    }
}

impl Expected {
    /// What does not fit, each in a few words; empty when all does.
    pub(super) fn misfits(
        &self,
        received: &Received,
        method: &str,
        client: &Client<'_>,
    ) -> Vec<String> {
        let mut misfits = Vec::new();
        let method = self.method.as_deref().unwrap_or(method);
        if received.method != method {
            misfits.push(format!("its method is {}, not {method}", received.method));
        }
        if self.basic {
            let given = received.headers.get("authorization").and_then(|it| it.to_str().ok());
            if !given.is_some_and(|it| client.credentials().iter().any(|own| own == it)) {
                misfits.push("client id and secret are not in the Authorization header".into());
            }
        }
        for (name, value) in &self.headers {
            let given = received.headers.get(name).and_then(|it| it.to_str().ok());
            compare("header", name, value, given, &mut misfits);
        }
        // What the address of the step has in its query is expected like the rest of it.
        let own = self.url.as_deref().and_then(|it| Url::parse(it).ok());
        let own: BTreeMap<String, String> =
            own.iter().flat_map(|it| it.query_pairs().into_owned()).collect();
        for (name, value) in own.iter().chain(&self.query) {
            let given = received.query.get(name).map(String::as_str);
            compare("parameter of the query", name, value, given, &mut misfits);
        }
        for (name, value) in &self.form {
            let given = received.form.get(name).map(String::as_str);
            compare("field of the form", name, value, given, &mut misfits);
        }
        for (name, value) in &self.json {
            let fits = match received.json.get(name) {
                None => false,
                Some(given) => value == "*" || given == value,
            };
            if !fits {
                misfits.push(format!("the JSON has not {name} = {value}"));
            }
        }
        misfits.extend(received.repeats());
        for name in &self.absent {
            if received.field(name).is_some() {
                misfits.push(format!("{name} is sent, and must not be"));
            }
        }
        misfits
    }
}

/// Values of shapes are samples, so they may be shown; what came instead may not.
pub(super) fn compare(
    what: &str,
    name: &str,
    expected: &str,
    given: Option<&str>,
    misfits: &mut Vec<String>,
) {
    match given {
        None => misfits.push(format!("the {what} {name} is missing")),
        Some(_) if expected == "*" => {}
        Some(given) if given == expected => {}
        Some(_) => misfits.push(format!("the {what} {name} is not {expected}")),
    }
}
