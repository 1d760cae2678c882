use std::{sync::LazyLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use symbolon_domain::{identity_provider::Capabilities, secret::Secret};
use url::{Url, form_urlencoded::byte_serialize};
use zeroize::Zeroizing;

use crate::{
    catalog::entry::{Body, Method},
    client_key::{ClientKey, secret_assertion},
    error_rules::ErrorRules,
    http::HttpRequest,
    metadata::{Issuer, Metadata},
    signing_alg::SigningAlg,
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Who we are at one provider, and how we ask.
#[derive(Clone, Debug)]
pub struct Client {
    /// Whose metadata and keys are used.
    pub issuer: Issuer,
    /// What `iss` of an ID token may be: the issuer, and other names that the provider documents.
    pub token_issuers: Vec<String>,
    /// Our name there.
    pub client_id: String,
    /// How we prove to be it.
    pub authentication: ClientAuthentication,
    /// The secret that takes the place of the one in `authentication`, while both are alive.
    pub next_secret: Option<Secret>,
    /// Scopes that the operator configured.
    pub scopes: Option<Vec<String>>,
    /// Whether to ask for the scope `offline_access` where the provider lists it and the operator
    /// configured no scopes.
    pub offline_access: bool,
    /// How ID tokens may be signed.
    pub signing_algs: Vec<SigningAlg>,
    /// What the tokens are for ([RFC 8707](https://www.rfc-editor.org/rfc/rfc8707)): said at every
    /// step.
    pub resource: Vec<String>,
    /// Whether authorization requests are pushed to the provider first, even where it does not
    /// insist ([RFC 9126](https://www.rfc-editor.org/rfc/rfc9126)).
    pub pushes: bool,
    /// Whether grants are to be bound to a key each
    /// ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)): what is not bound is refused.
    pub dpop: bool,
    /// Keys whose public halves are published beside that of `authentication`: the one that will
    /// sign next.
    pub published_keys: Vec<ClientKey>,
    /// Sent along in every authorization request.
    pub authorization_parameters: Vec<(String, String)>,
    /// How long a refresh token works that is not used, where the provider's answers do not say.
    pub refresh_token_idle: Option<Duration>,
    /// What instances of the type can do.
    pub capabilities: Capabilities,
    /// Where the provider's error answers differ from the standard.
    pub error_rules: ErrorRules,
}

/// How we prove at the token endpoint to be the client
/// ([OpenID Connect Core 1.0 §9](https://openid.net/specs/openid-connect-core-1_0.html#ClientAuthentication)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// Not at all: a public client, protected by PKCE alone.
    None,
    /// `client_secret_basic`: in the `Authorization` header.
    Basic(Secret),
    /// `client_secret_post`: in the body.
    Post(Secret),
    /// As the provider says that it likes it: `client_secret_post` where its metadata list that
    /// and not `client_secret_basic`, otherwise the latter.
    Either(Secret),
    /// `client_secret_jwt`: signs an assertion.
    SecretJwt(Secret),
    /// `private_key_jwt`: signs an assertion.
    PrivateKeyJwt(ClientKey),
    /// In the body as a secret that is made and signed for each request
    /// ([Apple](https://developer.apple.com/documentation/accountorganizationaldatasharing/creating-a-client-secret)).
    SignedSecret(SignedSecret),
    /// The secret alone in the `Authorization` header, after this scheme
    /// ([Square](https://developer.squareup.com/reference/square/oauth-api/revoke-token)).
    Scheme(String, Secret),
    /// In the body as `client_assertion`, which it is not: so Azure DevOps has it
    /// ([documentation](https://learn.microsoft.com/en-us/azure/devops/integrate/get-started/authentication/oauth)).
    Assertion(Secret),
}

/// For whom an assertion is meant, and when it is made.
pub(crate) struct Addressee<'a> {
    /// The issuer: the audience that every authorization server accepts, and no other server does
    /// ([RFC 7523bis](https://datatracker.ietf.org/doc/draft-ietf-oauth-rfc7523bis/)).
    pub(crate) issuer: &'a str,
    pub(crate) now: DateTime<Utc>,
}

/// What becomes of a form and a request so that they are authenticated.
pub(crate) enum Proof<'a> {
    /// After a scheme.
    Header(&'a str, Zeroizing<String>),
    /// Made for this request.
    Made(Vec<(&'a str, Secret)>),
    Fields(Vec<(&'a str, &'a str)>),
}

impl ClientAuthentication {
    pub(crate) fn secret(&self) -> Option<&Secret> {
        match self {
            Self::None | Self::PrivateKeyJwt(_) | Self::SignedSecret(_) => None,
            Self::Basic(secret)
            | Self::Post(secret)
            | Self::SecretJwt(secret)
            | Self::Either(secret)
            | Self::Scheme(_, secret)
            | Self::Assertion(secret) => Some(secret),
        }
    }

    /// The same way with another secret.
    pub(crate) fn with(&self, secret: &Secret) -> Self {
        match self {
            Self::None | Self::PrivateKeyJwt(_) | Self::SignedSecret(_) => self.clone(),
            Self::SecretJwt(_) => Self::SecretJwt(secret.clone()),
            Self::Basic(_) => Self::Basic(secret.clone()),
            Self::Post(_) => Self::Post(secret.clone()),
            Self::Either(_) => Self::Either(secret.clone()),
            Self::Scheme(scheme, _) => Self::Scheme(scheme.clone(), secret.clone()),
            Self::Assertion(_) => Self::Assertion(secret.clone()),
        }
    }

    pub(crate) fn prove<'a>(
        &'a self,
        client_id: &'a str,
        metadata: &Metadata,
        encoding: &'a Encoding,
        to: &Addressee<'_>,
    ) -> Proof<'a> {
        let listed = &metadata.token_endpoint_auth_methods_supported;
        let lists = |name: &str| listed.iter().any(|it| it == name);
        let basic = |secret: &Secret| Proof::Header("Basic", basic_credentials(client_id, secret));
        let id = (encoding.client_id.as_str(), client_id);
        let post = |secret: &'a Secret| {
            Proof::Fields(vec![id, (encoding.client_secret.as_str(), secret.expose())])
        };
        match self {
            Self::None => Proof::Fields(vec![id]),
            Self::Basic(secret) => basic(secret),
            Self::Scheme(scheme, secret) => {
                Proof::Header(scheme, Zeroizing::new(secret.expose().to_owned()))
            }
            Self::Post(secret) => post(secret),
            Self::Either(secret) => {
                if lists("client_secret_post") && !lists("client_secret_basic") {
                    post(secret)
                } else {
                    basic(secret)
                }
            }
            // Signing fails for no key that was read; if it did, the provider would refuse us.
            Self::SecretJwt(secret) => {
                assertion(secret_assertion(secret, client_id, to.issuer, to.now))
            }
            Self::PrivateKeyJwt(key) => assertion(key.assertion(client_id, to.issuer, to.now)),
            Self::SignedSecret(own) => {
                let signed = own.key.signed_secret(client_id, own, to.now);
                Proof::Made(vec![
                    (encoding.client_id.as_str(), Secret::new(client_id)),
                    (encoding.client_secret.as_str(), signed.unwrap_or_else(|| Secret::new(""))),
                ])
            }
            Self::Assertion(secret) => Proof::Fields(vec![
                ("client_assertion_type", JWT_BEARER),
                ("client_assertion", secret.expose()),
            ]),
        }
    }
}

fn assertion(signed: Option<Secret>) -> Proof<'static> {
    Proof::Made(vec![
        ("client_assertion_type", Secret::new(JWT_BEARER)),
        ("client_assertion", signed.unwrap_or_else(|| Secret::new(""))),
    ])
}

/// A client secret that is a token signed by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedSecret {
    /// What signs it.
    pub key: ClientKey,
    /// What the provider calls the key.
    pub key_id: String,
    /// Who signs it.
    pub issuer: String,
    /// For whom.
    pub audience: String,
}

/// How the fields of a request are written, where a provider departs from a form that is posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) method: Method,
    pub(crate) body: Body,
    /// Sent along.
    pub(crate) headers: Vec<(String, String)>,
    /// What the field with the client's id is called.
    pub(crate) client_id: String,
    /// What the field with the client's secret is called.
    pub(crate) client_secret: String,
}

impl Encoding {
    /// As RFC 6749 has it.
    pub(crate) fn standard() -> &'static Self {
        static STANDARD: LazyLock<Encoding> = LazyLock::new(|| Encoding {
            method: Method::Post,
            body: Body::Form,
            headers: Vec::new(),
            client_id: "client_id".into(),
            client_secret: "client_secret".into(),
        });
        &STANDARD
    }

    /// A request with these fields, to be sent once, over a connection of its own.
    pub(crate) fn request(&self, mut url: Url, fields: &[(&str, &str)]) -> HttpRequest {
        let body = if self.method == Method::Get { Body::Query } else { self.body };
        let method = match self.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
            Method::Put => reqwest::Method::PUT,
        };
        let request = match body {
            Body::Form => HttpRequest::form(method, url, fields),
            Body::Json => HttpRequest::json(method, url, fields),
            Body::Query | Body::None => {
                if body == Body::Query && !fields.is_empty() {
                    url.query_pairs_mut().extend_pairs(fields);
                }
                HttpRequest::without_body(method, url)
            }
        };
        let request = request.accept("application/json").over_its_own_connection();
        self.headers.iter().fold(request, |it, (name, value)| it.with_header(name, value))
    }
}

impl Proof<'_> {
    /// A request with these fields, authenticated, to be sent once.
    pub(crate) fn request(
        &self,
        url: Url,
        encoding: &Encoding,
        fields: &[(&str, &str)],
    ) -> HttpRequest {
        match self {
            Self::Header(scheme, credentials) => {
                encoding.request(url, fields).authorization(scheme, credentials)
            }
            Self::Fields(own) => {
                // A pushed request names the client itself (RFC 9126 §2.1).
                let is_new = |it: &&(&str, &str)| !fields.iter().any(|(name, _)| *name == it.0);
                let own: Vec<_> = own.iter().filter(is_new).copied().collect();
                encoding.request(url, &[fields, &own].concat())
            }
            Self::Made(made) => {
                let is_new = |it: &&(&str, Secret)| !fields.iter().any(|(name, _)| *name == it.0);
                let own = made.iter().filter(is_new).map(|(name, value)| (*name, value.expose()));
                let own: Vec<_> = own.collect();
                encoding.request(url, &[fields, &own].concat())
            }
        }
    }
}

/// Id and secret, each form-urlencoded before they are joined
/// ([RFC 6749 §2.3.1](https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1)).
fn basic_credentials(client_id: &str, secret: &Secret) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(String::new());
    pair.extend(byte_serialize(client_id.as_bytes()));
    pair.push(':');
    pair.extend(byte_serialize(secret.expose().as_bytes()));
    Zeroizing::new(STANDARD.encode(pair.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_secret_are_form_urlencoded_before_they_are_joined() {
        let credentials = basic_credentials("a:b c", &Secret::new("p%&+ü/:"));
        let pair = STANDARD.decode(credentials.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(pair).unwrap(), "a%3Ab+c:p%25%26%2B%C3%BC%2F%3A");
    }
}
