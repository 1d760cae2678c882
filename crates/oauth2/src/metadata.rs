//! What a provider says about itself
//! ([OpenID Connect Discovery 1.0](https://openid.net/specs/openid-connect-discovery-1_0.html)).

use serde_json::{Map, Value};
use symbolon_domain::ports::{ConnectorError, Sent};
use url::Url;

use crate::{
    dpop::ES256,
    http::{HttpClient, HttpError, HttpRequest, HttpResponse},
    json,
};

/// An issuer's own name: an https address without query and fragment, compared character by
/// character.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Issuer(String);

/// A text is no issuer; says what was expected.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidIssuer(String);

impl Issuer {
    /// Checks and wraps an issuer. Whether plain http and private addresses are allowed is the
    /// client's to say.
    ///
    /// # Errors
    ///
    /// [`InvalidIssuer`] says what is wrong with it.
    pub fn new(text: impl Into<String>, http: &HttpClient) -> Result<Self, InvalidIssuer> {
        let text = text.into();
        let invalid = |why: &str| InvalidIssuer(why.to_owned());
        if text.len() > 2048 {
            return Err(invalid("must be at most 2048 characters"));
        }
        let url = Url::parse(&text).map_err(|_| invalid("must be an https address"))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("must have no query and no fragment"));
        }
        http.check(&url).map_err(|error| InvalidIssuer(error.to_string()))?;
        Ok(Self(text))
    }

    /// The issuer as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where its metadata are (OpenID Connect Discovery 1.0 §4).
    fn metadata_url(&self) -> Result<Url, ConnectorError> {
        let base = self.0.strip_suffix('/').unwrap_or(&self.0);
        Url::parse(&format!("{base}/.well-known/openid-configuration"))
            .map_err(|_| misconfigured("the issuer is not an address"))
    }

    /// Where the metadata of an authorization server may be, in the order in which they are asked
    /// for: [RFC 8414 §3.1](https://www.rfc-editor.org/rfc/rfc8414#section-3.1), and OpenID
    /// Connect Discovery with the well-known part before the path and after it.
    fn server_metadata_urls(&self) -> Result<Vec<Url>, ConnectorError> {
        let url = Url::parse(&self.0).map_err(|_| misconfigured("the issuer is not an address"))?;
        let mut urls = vec![well_known(&url, "oauth-authorization-server")];
        if url.path() != "/" {
            urls.push(well_known(&url, "openid-configuration"));
        }
        urls.push(self.metadata_url()?);
        Ok(urls)
    }
}

/// The address of a well-known document about `url`, the name put between its host and its path,
/// whose last slash goes.
pub(crate) fn well_known(url: &Url, name: &str) -> Url {
    let mut at = url.clone();
    let path = url.path();
    at.set_path(&format!("/.well-known/{name}{}", path.strip_suffix('/').unwrap_or(path)));
    at
}

/// The metadata that we use (OpenID Connect Discovery 1.0 §3, RFC 8414 §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// What it calls itself.
    pub(crate) issuer: String,
    /// Where the browser is sent.
    pub(crate) authorization_endpoint: Url,
    /// Where codes and refresh tokens are traded.
    pub(crate) token_endpoint: Url,
    /// Where the keys are, if there are any.
    pub(crate) jwks_uri: Option<Url>,
    /// Where profiles are read, if anywhere.
    pub(crate) userinfo_endpoint: Option<Url>,
    /// Where grants are ended, if anywhere (RFC 7009).
    pub(crate) revocation_endpoint: Option<Url>,
    /// Scopes that it lists; it need not list all.
    pub(crate) scopes_supported: Vec<String>,
    /// Where clients register themselves, if anywhere (RFC 7591).
    pub(crate) registration_endpoint: Option<Url>,
    /// Where one asks what a token is, if anywhere (RFC 7662).
    pub(crate) introspection_endpoint: Option<Url>,
    /// Where authorization requests are pushed to, if anywhere (RFC 9126 §5).
    pub(crate) pushed_authorization_request_endpoint: Option<Url>,
    /// Whether they must be.
    pub(crate) require_pushed_authorization_requests: bool,
    /// Where a device asks to be authorized, if anywhere (RFC 8628).
    pub(crate) device_authorization_endpoint: Option<Url>,
    /// How clients may authenticate at the token endpoint; empty when it does not say.
    pub(crate) token_endpoint_auth_methods_supported: Vec<String>,
    /// How proofs may be signed that we hold a key
    /// ([RFC 9449 §5.1](https://www.rfc-editor.org/rfc/rfc9449#section-5.1)); empty where it binds
    /// no tokens.
    pub(crate) dpop_signing_alg_values_supported: Vec<String>,
    /// Which PKCE methods it knows; `None` when it does not say.
    pub(crate) code_challenge_methods_supported: Option<Vec<String>>,
    /// Whether it names itself in authorization responses
    /// ([RFC 9207 §3](https://www.rfc-editor.org/rfc/rfc9207#section-3)).
    pub(crate) authorization_response_iss_parameter_supported: bool,
    /// Whether it tells clients when a session ends
    /// ([OpenID Connect Back-Channel Logout 1.0 §2.1](https://openid.net/specs/openid-connect-backchannel-1_0.html#OPSupport)).
    pub(crate) backchannel_logout_supported: bool,
}

impl Metadata {
    /// Fetches an issuer's metadata, past every cache.
    pub(crate) async fn fetch(http: &HttpClient, issuer: &Issuer) -> Result<Self, ConnectorError> {
        Self::fetch_from(http, issuer, Some(issuer)).await
    }

    /// The same of one that may name another issuer than the address that it was found by: whoever
    /// asks compares.
    pub(crate) async fn fetch_naming(
        http: &HttpClient,
        address: &Issuer,
    ) -> Result<Self, ConnectorError> {
        Self::fetch_from(http, address, None).await
    }

    async fn fetch_from(
        http: &HttpClient,
        address: &Issuer,
        issuer: Option<&Issuer>,
    ) -> Result<Self, ConnectorError> {
        let bytes = fetch_document(http, address.metadata_url()?, "discovery document").await?;
        let object = json::object(&bytes)
            .map_err(|_| unavailable("the discovery document is not a JSON object"))?;
        let metadata = Self::read(&object, issuer, http)?;
        if metadata.jwks_uri.is_none() {
            return Err(misconfigured("the discovery document has no jwks_uri"));
        }
        Ok(metadata)
    }

    /// Fetches the metadata of an authorization server that need not be an OpenID provider, past
    /// every cache.
    pub(crate) async fn fetch_server(
        http: &HttpClient,
        issuer: &Issuer,
    ) -> Result<Self, ConnectorError> {
        let urls = issuer.server_metadata_urls()?;
        let object = first_document(http, urls, "authorization server's metadata").await?;
        Self::read(&object, Some(issuer), http)
    }

    /// That it binds tokens to keys of ours.
    pub(crate) fn check_dpop(&self) -> Result<(), ConnectorError> {
        if self.dpop_signing_alg_values_supported.iter().any(|it| it == ES256) {
            return Ok(());
        }
        Err(misconfigured(
            "the provider does not bind tokens to keys as we know it: its discovery document does not \
             name ES256 in dpop_signing_alg_values_supported; turn DPoP on there, or dpop off here",
        ))
    }

    fn read(
        object: &Map<String, Value>,
        issuer: Option<&Issuer>,
        http: &HttpClient,
    ) -> Result<Self, ConnectorError> {
        let named = object.get("issuer").and_then(Value::as_str);
        let named = named.filter(|it| issuer.is_none_or(|issuer| issuer.as_str() == *it));
        let Some(named) = named else { return Err(another_issuer()) };
        let endpoint = |name: &str| -> Result<Option<Url>, ConnectorError> {
            let text = match object.get(name) {
                None | Some(Value::Null) => return Ok(None),
                Some(value) => value.as_str().and_then(|it| Url::parse(it).ok()),
            };
            // Where we go ourselves, the client checks once more, with the addresses behind names.
            match text {
                Some(url) if url.fragment().is_none() && http.check(&url).is_ok() => Ok(Some(url)),
                _ => Err(misconfigured(&format!(
                    "the discovery document's {name} is not an address that is allowed"
                ))),
            }
        };
        let required = |name: &str| {
            endpoint(name)?
                .ok_or_else(|| misconfigured(&format!("the discovery document has no {name}")))
        };
        let list = |name: &str| {
            let items = object.get(name)?.as_array()?;
            Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
        };
        Ok(Self {
            issuer: named.to_owned(),
            authorization_endpoint: required("authorization_endpoint")?,
            token_endpoint: required("token_endpoint")?,
            jwks_uri: endpoint("jwks_uri")?,
            userinfo_endpoint: endpoint("userinfo_endpoint")?,
            revocation_endpoint: endpoint("revocation_endpoint")?,
            registration_endpoint: endpoint("registration_endpoint")?,
            introspection_endpoint: endpoint("introspection_endpoint")?,
            pushed_authorization_request_endpoint: endpoint(
                "pushed_authorization_request_endpoint",
            )?,
            require_pushed_authorization_requests: object
                .get("require_pushed_authorization_requests")
                == Some(&Value::Bool(true)),
            device_authorization_endpoint: endpoint("device_authorization_endpoint")?,
            scopes_supported: list("scopes_supported").unwrap_or_default(),
            token_endpoint_auth_methods_supported: list("token_endpoint_auth_methods_supported")
                .unwrap_or_default(),
            dpop_signing_alg_values_supported: list("dpop_signing_alg_values_supported")
                .unwrap_or_default(),
            code_challenge_methods_supported: list("code_challenge_methods_supported"),
            authorization_response_iss_parameter_supported: object
                .get("authorization_response_iss_parameter_supported")
                == Some(&Value::Bool(true)),
            backchannel_logout_supported: object.get("backchannel_logout_supported")
                == Some(&Value::Bool(true)),
        })
    }
}

/// Fetches a document that a provider publishes. Whatever fails, nothing was spent, so every
/// failure that may pass says that nothing was sent.
pub(crate) async fn fetch_document(
    http: &HttpClient,
    url: Url,
    what: &str,
) -> Result<Vec<u8>, ConnectorError> {
    let answer = match http.send(HttpRequest::get(url).accept("application/json")).await {
        Ok(answer) => answer,
        Err(HttpError::Refused(why)) => return Err(misconfigured(&why)),
        Err(error) => return Err(unavailable(&format!("the {what} cannot be fetched: {error}"))),
    };
    let HttpResponse { status, body, .. } = answer;
    match status {
        200 => body.map_err(|error| unavailable(&format!("the {what} cannot be fetched: {error}"))),
        300..=399 => Err(misconfigured(&format!(
            "the {what} is not where it should be (HTTP {status}; redirects are not followed)"
        ))),
        408 | 425 | 429 => Err(unavailable(&format!("the {what} was answered with {status}"))),
        400..=499 => Err(misconfigured(&format!(
            "the {what} is not where it should be (HTTP {status}); check the issuer"
        ))),
        _ => Err(unavailable(&format!("the {what} was answered with {status}"))),
    }
}

/// The first of these documents that is there. A page in its place counts as its absence: some
/// sites answer every path with one.
pub(crate) async fn first_document(
    http: &HttpClient,
    urls: Vec<Url>,
    what: &str,
) -> Result<Map<String, Value>, ConnectorError> {
    let mut absent = None;
    for url in urls {
        let error = match fetch_document(http, url, what).await {
            Ok(bytes) => match json::object(&bytes) {
                Ok(object) => return Ok(object),
                Err(_) => misconfigured(&format!("the {what} is not a JSON object")),
            },
            Err(error @ ConnectorError::Misconfigured { .. }) => error,
            Err(error) => return Err(error),
        };
        absent.get_or_insert(error);
    }
    Err(absent.unwrap_or_else(|| misconfigured(&format!("the {what} has no address"))))
}

/// What is told of a document of somebody else's.
pub(crate) fn another_issuer() -> ConnectorError {
    misconfigured(
        "the discovery document names another issuer; configure exactly the one that the provider names",
    )
}

pub(crate) fn misconfigured(detail: &str) -> ConnectorError {
    ConnectorError::Misconfigured { detail: detail.to_owned() }
}

/// Not to be had just now; nothing was spent.
pub(crate) fn unavailable(detail: &str) -> ConnectorError {
    ConnectorError::Unavailable { detail: detail.to_owned(), retry_after: None, sent: Sent::No }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::HttpSettings;

    static HTTP: LazyLock<HttpClient> =
        LazyLock::new(|| HttpClient::new(HttpSettings::default()).unwrap());

    fn read(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Metadata, ConnectorError> {
        let issuer = Issuer::new("https://issuer.example", &HTTP).unwrap();
        let mut object = json!({
            "issuer": "https://issuer.example",
            "authorization_endpoint": "https://issuer.example/authorize",
            "token_endpoint": "https://issuer.example/token",
            "jwks_uri": "https://issuer.example/jwks",
        })
        .as_object()
        .unwrap()
        .clone();
        change(&mut object);
        Metadata::read(&object, Some(&issuer), &HTTP)
    }

    #[test]
    fn metadata_of_another_issuer_are_refused() {
        assert!(read(|_| {}).is_ok());
        for other in [
            json!("https://issuer.example/"),
            json!("https://Issuer.example"),
            json!("https://attacker.example"),
            json!(null),
            json!(["https://issuer.example"]),
        ] {
            let result = read(|it| drop(it.insert("issuer".into(), other.clone())));
            assert!(matches!(result, Err(ConnectorError::Misconfigured { .. })), "{other}");
        }
    }

    #[test]
    fn an_endpoint_that_is_not_public_https_is_refused() {
        for name in [
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "userinfo_endpoint",
            "revocation_endpoint",
            "registration_endpoint",
            "introspection_endpoint",
            "device_authorization_endpoint",
        ] {
            for endpoint in [
                json!("http://issuer.example/x"),
                json!("https://127.0.0.1/x"),
                json!("https://[::ffff:127.0.0.1]/x"),
                json!("https://169.254.169.254/latest"),
                json!("https://user:pass@issuer.example/x"),
                json!("https://issuer.example/x#fragment"),
                json!("javascript:alert(1)"),
                json!("/relative"),
                json!(1),
            ] {
                let result = read(|it| drop(it.insert(name.into(), endpoint.clone())));
                assert!(
                    matches!(result, Err(ConnectorError::Misconfigured { .. })),
                    "{name} = {endpoint}"
                );
            }
        }
        for name in ["authorization_endpoint", "token_endpoint"] {
            assert!(read(|it| drop(it.remove(name))).is_err(), "{name}");
        }
    }

    #[test]
    fn an_issuer_is_an_https_address_without_query_and_fragment() {
        for invalid in [
            "",
            "issuer.example",
            "http://issuer.example",
            "https://issuer.example?x",
            "https://issuer.example#x",
            "https://user@issuer.example",
            "https://10.0.0.1",
        ] {
            assert!(Issuer::new(invalid, &HTTP).is_err(), "{invalid}");
        }
        for (issuer, url) in [
            ("https://a.example", "https://a.example/.well-known/openid-configuration"),
            ("https://a.example/", "https://a.example/.well-known/openid-configuration"),
            ("https://a.example/b", "https://a.example/b/.well-known/openid-configuration"),
            ("https://a.example/b/", "https://a.example/b/.well-known/openid-configuration"),
        ] {
            let issuer = Issuer::new(issuer, &HTTP).unwrap();
            assert_eq!(issuer.metadata_url().unwrap().as_str(), url);
        }
    }

    #[test]
    fn an_authorization_server_is_asked_where_the_standards_put_its_metadata() {
        let at = "https://a.example/.well-known";
        for (issuer, urls) in [
            ("https://a.example", vec!["oauth-authorization-server", "openid-configuration"]),
            ("https://a.example/", vec!["oauth-authorization-server", "openid-configuration"]),
            ("https://a.example/b", vec!["oauth-authorization-server/b", "openid-configuration/b"]),
            (
                "https://a.example/b/",
                vec!["oauth-authorization-server/b", "openid-configuration/b"],
            ),
        ] {
            let issuer = Issuer::new(issuer, &HTTP).unwrap();
            let asked = issuer.server_metadata_urls().unwrap();
            let expected: Vec<_> = urls.iter().map(|it| format!("{at}/{it}")).collect();
            let inserted: Vec<_> =
                asked.iter().map(Url::as_str).filter(|it| it.starts_with(at)).collect();
            assert_eq!(inserted, expected);
            assert_eq!(asked.last(), Some(&issuer.metadata_url().unwrap()));
        }
    }

    proptest! {
        #[test]
        fn any_metadata_are_read_or_refused(name in "[a-z_]{1,20}", text in "\\PC{0,60}") {
            let _ = read(|it| drop(it.insert(name.clone(), json!(text))));
            let _ = read(|it| drop(it.insert("token_endpoint".into(), json!(text))));
            let _ = read(|it| drop(it.insert("scopes_supported".into(), json!([text, 1]))));
        }
    }
}
