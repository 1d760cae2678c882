//! Registering our client at an authorization server
//! ([RFC 7591](https://www.rfc-editor.org/rfc/rfc7591)), and taking it back
//! ([RFC 7592](https://www.rfc-editor.org/rfc/rfc7592)).

use serde_json::{Map, Value, json};
use symbolon_domain::{
    identity_provider::ProviderSecrets,
    ports::{ClientAddresses, ConnectorError, InvalidConfig, Registered, Sent},
    secret::Secret,
};
use url::Url;

use crate::{
    catalog::entry::Authentication,
    config::{CLIENT_ID_LENGTH, CLIENT_SECRETS, Fields, invalid, is_visible},
    connector::to_domain,
    engine::Engine,
    http::{HttpRequest, HttpResponse},
    json,
    metadata::misconfigured,
    untrusted,
};

/// The keys of a configuration that come from a registration, beside the secrets.
pub(crate) const CONFIG_KEYS: [&str; 4] = [
    "client_id",
    "token_endpoint_auth_method",
    "client_secret_expires_at",
    "registration_client_uri",
];

/// The secrets that come from a registration.
pub(crate) const SECRET_KEYS: [&str; 2] = ["client_secret", REGISTRATION_ACCESS_TOKEN];

pub(crate) const REGISTRATION_ACCESS_TOKEN: &str = "registration_access_token";

/// The name under which a client is registered, where the operator chose one.
pub(crate) const CLIENT_NAME: &str = "client_name";

/// How we can authenticate, what we prefer first.
const METHODS: [&str; 3] = ["client_secret_basic", "client_secret_post", "none"];

/// What a client of ours asks to be allowed.
pub(crate) const GRANT_TYPES: [&str; 2] = ["authorization_code", "refresh_token"];

/// What an operator does where no client can be registered.
const BY_HAND: &str = "register a client at the authorization server by hand and configure its \
                       client_id; one is needed to create the provider and learn its redirect URI, \
                       and can be replaced later";

/// A client to be registered.
pub(crate) struct NewClient<'a> {
    /// Where.
    pub(crate) endpoint: &'a Url,
    /// What users see.
    pub(crate) name: &'a str,
    pub(crate) addresses: &'a ClientAddresses,
    /// How clients may authenticate there; empty when it does not say.
    pub(crate) methods: &'a [String],
    /// Whether the server says that it tells clients of logouts.
    pub(crate) tells_of_logouts: bool,
    /// What the client is to be allowed.
    pub(crate) grant_types: &'a [&'a str],
    /// Whether its tokens are to be bound to keys.
    pub(crate) dpop: bool,
}

/// What this way of authenticating is called in a registration.
pub(crate) fn method_of(authentication: Authentication) -> &'static str {
    match authentication {
        Authentication::Post => "client_secret_post",
        Authentication::None => "none",
        Authentication::Basic
        | Authentication::Either
        | Authentication::Bearer
        | Authentication::Secret => "client_secret_basic",
    }
}

/// Checks what a configuration holds of a registration, and tells what users are to see of the
/// client.
pub(crate) fn client_name<'a>(
    engine: &Engine,
    fields: &Fields<'a>,
) -> Result<&'a str, InvalidConfig> {
    let name = fields.optional(CLIENT_NAME)?.unwrap_or("Symbolon");
    if name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(invalid(CLIENT_NAME, "must be at most 100 characters"));
    }
    if let Some(uri) = fields.optional("registration_client_uri")? {
        address(engine, "registration_client_uri", uri)?;
    }
    fields.secret(REGISTRATION_ACCESS_TOKEN)?;
    if fields.optional("client_id")?.is_some() {
        fields.client_id()?;
    } else if fields.client_secret()?.is_some() {
        return Err(invalid("client_id", "is missing; there is a client_secret"));
    }
    Ok(name)
}

/// An address that a configuration holds.
pub(crate) fn address(engine: &Engine, name: &str, text: &str) -> Result<Url, InvalidConfig> {
    let url = Url::parse(text).ok().filter(|it| it.fragment().is_none() && text.len() <= 2048);
    let url = url.ok_or_else(|| {
        invalid(name, "must be an https address without a fragment, at most 2048 characters")
    })?;
    engine.http().check(&url).map_err(|error| invalid(name, error.to_string()))?;
    Ok(url)
}

/// The names of the secrets of a type whose client registers itself.
pub(crate) fn secret_names() -> [&'static str; 3] {
    [CLIENT_SECRETS[0], CLIENT_SECRETS[1], REGISTRATION_ACCESS_TOKEN]
}

/// What such a type finds out about its client.
pub(crate) fn registered_keys() -> impl Iterator<Item = &'static str> {
    CONFIG_KEYS.into_iter().chain(SECRET_KEYS)
}

/// The JSON Schemas of the keys of a configuration that a registration fills in, and of the name
/// that it is asked for, beside `client_id` and the client's secrets.
pub(crate) fn schemas() -> Map<String, Value> {
    let schemas = json!({
        CLIENT_NAME: {
            "type": "string", "maxLength": 100, "default": "Symbolon",
            "description": "What users see when they are asked: the name to register."
        },
        "token_endpoint_auth_method": {
            "type": "string", "enum": METHODS,
            "description": "How the client authenticates."
        },
        "client_secret_expires_at": {
            "type": "integer", "minimum": 1,
            "description": found("When the client secret expires, in seconds since 1970.")
        },
        "registration_client_uri": {
            "type": "string", "format": "uri", "maxLength": 2048,
            "description": found("Where the registered client is deleted (RFC 7592).")
        },
        REGISTRATION_ACCESS_TOKEN: {
            "type": "string", "minLength": 1, "maxLength": 4096, "writeOnly": true,
            "description": found("What allows that.")
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

/// A description of something that nobody has to configure.
pub(crate) fn found(what: &str) -> String {
    format!("{what} Found out when the provider is made.")
}

/// What is told where a client is needed and none was registered.
pub(crate) fn no_client() -> ConnectorError {
    misconfigured(
        "the making of the provider was cut off before our client was registered there: change the \
         provider (PATCH /v1/providers/ID, with an empty config), and it is registered",
    )
}

/// What is told where the server has no registration.
pub(crate) fn none_offered() -> ConnectorError {
    misconfigured(&format!("the authorization server registers no clients by itself: {BY_HAND}"))
}

impl NewClient<'_> {
    /// Registers the client.
    pub(crate) async fn register(&self, engine: &Engine) -> Result<Registered, ConnectorError> {
        // Where nothing is listed, it is client_secret_basic (RFC 8414 §2).
        let methods = self.methods;
        let lists = |method: &&&str| methods.is_empty() || methods.iter().any(|it| it == **method);
        let Some(method) = METHODS.iter().find(lists) else {
            return Err(misconfigured(&format!(
                "the authorization server knows none of {} as a way to authenticate a client",
                METHODS.join(", ")
            )));
        };
        let mut body = json!({
            "client_name": self.name,
            "redirect_uris": [self.addresses.redirect_uri],
            "grant_types": self.grant_types,
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
        });
        // OpenID Connect Back-Channel Logout 1.0 §2.2. That a `sid` is there is not asked for: where
        // it is not, there is the `sub`, which is enough.
        if self.tells_of_logouts {
            body["backchannel_logout_uri"] = self.addresses.backchannel_logout_uri.as_str().into();
        }
        // RFC 9449 §5.2: then the server refuses to issue this client any other token.
        if self.dpop {
            body["dpop_bound_access_tokens"] = true.into();
        }
        let body = body.to_string().into_bytes();
        let request = HttpRequest::post(self.endpoint.clone(), "application/json", body);
        let request = request.accept("application/json").over_its_own_connection();
        let answer = engine.http.send(request).await.map_err(to_domain)?;
        let body = answer.body.as_ref().ok().and_then(|it| json::object(it).ok());
        match (answer.status, body) {
            (200 | 201, Some(body)) => self.read(&body, method, engine),
            (200 | 201, None) => {
                Err(unavailable(&answer, engine, "its answer to a registration cannot be read"))
            }
            (status @ (300..=399 | 408 | 425 | 429 | 500..), _) => {
                let what = format!("it answered a registration with {status}");
                Err(unavailable(&answer, engine, &what))
            }
            (status, body) => {
                let code = body.as_ref().and_then(error_code).map_or_else(
                    || format!("HTTP {status}"),
                    |code| format!("{code}, HTTP {status}"),
                );
                Err(misconfigured(&format!(
                    "the authorization server does not register our client ({code}): {BY_HAND}"
                )))
            }
        }
    }

    fn read(
        &self,
        body: &Map<String, Value>,
        asked: &str,
        engine: &Engine,
    ) -> Result<Registered, ConnectorError> {
        let refused = |why: &str| untrusted("the registration", why);
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let client_id = text("client_id")
            .filter(|it| (1..=CLIENT_ID_LENGTH).contains(&it.len()) && is_visible(it))
            .ok_or_else(|| refused("it has no client_id, or none that can be sent"))?;
        if let Some(uris) = body.get("redirect_uris") {
            let ours = |it: &Value| it.as_str() == Some(self.addresses.redirect_uri.as_str());
            if !uris.as_array().is_some_and(|it| it.iter().any(ours)) {
                return Err(refused("it is for other redirect URIs than ours"));
            }
        }
        // The server may have chosen another way (RFC 7591 §3.2.1).
        let method = match body.get("token_endpoint_auth_method") {
            None | Some(Value::Null) => asked,
            Some(method) => METHODS
                .into_iter()
                .find(|it| method.as_str() == Some(*it))
                .ok_or_else(|| refused("it wants another way to authenticate than we asked for"))?,
        };
        let mut registered = Registered::default();
        let mut keep = |name: &str, value: Value| {
            registered.config.insert(name.to_owned(), value);
        };
        keep("client_id", client_id.into());
        keep("token_endpoint_auth_method", method.into());
        if method != "none" {
            let secret = text("client_secret")
                .filter(|it| (1..=4096).contains(&it.len()) && is_visible(it))
                .ok_or_else(|| refused("it has no client_secret, or none that can be sent"))?;
            registered.secrets.insert("client_secret".to_owned(), Secret::new(secret));
            let expires = body.get("client_secret_expires_at").and_then(Value::as_u64);
            if let Some(expires) = expires.filter(|it| *it != 0) {
                tracing::warn!(
                    provider = engine.provider.map(|it| it.0),
                    expires,
                    "the client secret that was registered expires: replace it before"
                );
                keep("client_secret_expires_at", expires.into());
            }
        }
        // Our token for it goes nowhere but to where the client was registered.
        let uri = text("registration_client_uri").and_then(|it| Url::parse(it).ok());
        let uri =
            uri.filter(|it| it.origin() == self.endpoint.origin() && engine.http.check(it).is_ok());
        let token = text(REGISTRATION_ACCESS_TOKEN);
        let token = token.filter(|it| (1..=4096).contains(&it.len()) && is_visible(it));
        if let (Some(uri), Some(token)) = (uri, token) {
            keep("registration_client_uri", uri.as_str().into());
            let token = Secret::new(token);
            registered.secrets.insert(REGISTRATION_ACCESS_TOKEN.to_owned(), token);
        }
        Ok(registered)
    }
}

/// Deletes the client that a configuration tells of, if it tells how.
pub(crate) async fn deregister(
    engine: &Engine,
    config: &Map<String, Value>,
    secrets: &ProviderSecrets,
) -> Result<(), ConnectorError> {
    let uri = config.get("registration_client_uri").and_then(Value::as_str);
    let uri = uri.and_then(|it| Url::parse(it).ok());
    let (Some(uri), Some(token)) = (uri, secrets.get(REGISTRATION_ACCESS_TOKEN)) else {
        return Ok(());
    };
    let answer = engine.http.send(HttpRequest::delete(uri).bearer(token)).await;
    let answer = answer.map_err(to_domain)?;
    match answer.status {
        // 401: there is no such client any more (RFC 7592 §2.3).
        200..=299 | 401 | 404 => Ok(()),
        status => {
            let what = format!("it answered the deletion of our client with {status}");
            Err(unavailable(&answer, engine, &what))
        }
    }
}

fn unavailable(answer: &HttpResponse, engine: &Engine, what: &str) -> ConnectorError {
    ConnectorError::Unavailable {
        detail: format!("the authorization server cannot be dealt with just now: {what}"),
        retry_after: answer.retry_after(engine.clock.now()),
        sent: Sent::Answered,
    }
}

/// A code that may be shown: the registered ones are of this form (RFC 7591 §3.2.2).
fn error_code(body: &Map<String, Value>) -> Option<&str> {
    let code = body.get("error")?.as_str()?;
    let fits = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_';
    ((1..=64).contains(&code.len()) && code.bytes().all(fits)).then_some(code)
}
