use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use symbolon_domain::{identity_provider::Capabilities, secret::Secret};
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use crate::{
    error_rules::ErrorRules,
    http::HttpRequest,
    metadata::{Issuer, Metadata},
    signing_alg::SigningAlg,
};

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
}

/// What becomes of a form and a request so that they are authenticated.
pub(crate) enum Proof<'a> {
    Header(Zeroizing<String>),
    Fields(Vec<(&'static str, &'a str)>),
}

impl ClientAuthentication {
    pub(crate) fn secret(&self) -> Option<&Secret> {
        match self {
            Self::None => None,
            Self::Basic(secret) | Self::Post(secret) | Self::Either(secret) => Some(secret),
        }
    }

    /// The same way with another secret.
    pub(crate) fn with(&self, secret: &Secret) -> Self {
        match self {
            Self::None => Self::None,
            Self::Basic(_) => Self::Basic(secret.clone()),
            Self::Post(_) => Self::Post(secret.clone()),
            Self::Either(_) => Self::Either(secret.clone()),
        }
    }

    pub(crate) fn prove<'a>(&'a self, client_id: &'a str, metadata: &Metadata) -> Proof<'a> {
        let listed = &metadata.token_endpoint_auth_methods_supported;
        let lists = |name: &str| listed.iter().any(|it| it == name);
        let basic = |secret: &Secret| Proof::Header(basic_credentials(client_id, secret));
        let post = |secret: &'a Secret| {
            Proof::Fields(vec![("client_id", client_id), ("client_secret", secret.expose())])
        };
        match self {
            Self::None => Proof::Fields(vec![("client_id", client_id)]),
            Self::Basic(secret) => basic(secret),
            Self::Post(secret) => post(secret),
            Self::Either(secret) => {
                if lists("client_secret_post") && !lists("client_secret_basic") {
                    post(secret)
                } else {
                    basic(secret)
                }
            }
        }
    }
}

impl Proof<'_> {
    /// A form to be sent once, over a connection of its own.
    pub(crate) fn post(&self, url: url::Url, fields: &[(&str, &str)]) -> HttpRequest {
        let request = match self {
            Self::Header(credentials) => {
                HttpRequest::post_form(url, fields).authorization("Basic", credentials)
            }
            Self::Fields(own) => HttpRequest::post_form(url, &[fields, own].concat()),
        };
        request.accept("application/json").over_its_own_connection()
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
