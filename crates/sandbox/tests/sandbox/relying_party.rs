use std::{collections::BTreeMap, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode_header, jwk::JwkSet};
use reqwest::{Response, StatusCode, redirect::Policy};
use serde_json::Value;
use symbolon_sandbox::{Client, Sandbox, SandboxSettings};
use url::Url;

pub(crate) const REDIRECT_URI: &str = "http://127.0.0.1:9/callback?kept=1";
// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
pub(crate) const STATE: &str = "state/with &strange=characters";
pub(crate) const NONCE: &str = "n-0S6_WzA2Mj";

/// A relying party, and the sandbox it talks to.
pub(crate) struct RelyingParty {
    pub(crate) sandbox: Sandbox,
    pub(crate) http: reqwest::Client,
}

/// What the token endpoint gave.
#[derive(Clone, Debug)]
pub(crate) struct Tokens(pub(crate) Value);

impl Tokens {
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("{name} in {}", self.0))
    }
}

pub(crate) fn settings() -> SandboxSettings {
    let client = Client { redirect_uris: vec![REDIRECT_URI.to_owned()], ..Client::new("shop") };
    SandboxSettings {
        clients: vec![Client { name: "The Shop".to_owned(), ..client }],
        ..SandboxSettings::default()
    }
}

pub(crate) async fn start() -> RelyingParty {
    start_with(settings()).await
}

pub(crate) async fn start_with(settings: SandboxSettings) -> RelyingParty {
    let sandbox = Sandbox::start(settings).await.unwrap();
    let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    RelyingParty { sandbox, http }
}

impl RelyingParty {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.issuer())
    }

    /// An authorization request with some parameters changed; an empty one is left out.
    pub(crate) fn authorization_url(&self, changes: &[(&str, &str)]) -> String {
        let mut parameters = BTreeMap::from([
            ("client_id", "shop"),
            ("redirect_uri", REDIRECT_URI),
            ("response_type", "code"),
            ("scope", "openid profile email"),
            ("state", STATE),
            ("nonce", NONCE),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ]);
        parameters.extend(changes.iter().copied());
        parameters.retain(|_, value| !value.is_empty());
        Url::parse_with_params(&self.url("/authorize"), parameters).unwrap().into()
    }

    pub(crate) async fn get(&self, url: &str) -> Response {
        self.http.get(url).send().await.unwrap()
    }

    /// Answers the page as a script does.
    pub(crate) async fn decide(&self, url: &str, name: &str, value: &str) -> Response {
        self.http.post(url).form(&[(name, value)]).send().await.unwrap()
    }

    pub(crate) fn code(&self) -> String {
        let back = self.sandbox.approve(&self.authorization_url(&[]), "ada").unwrap();
        parameters(&back)["code"].clone()
    }

    pub(crate) async fn try_token(
        &self,
        form: &[(&str, &str)],
    ) -> Result<Response, reqwest::Error> {
        self.http
            .post(self.url("/token"))
            .basic_auth("shop", Some(self.sandbox.client_secret()))
            .form(form)
            .send()
            .await
    }

    pub(crate) async fn try_exchange(&self, code: &str) -> Result<Response, reqwest::Error> {
        self.try_token(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT_URI),
            ("code_verifier", VERIFIER),
        ])
        .await
    }

    pub(crate) async fn exchange(&self) -> Tokens {
        tokens(self.try_exchange(&self.code()).await.unwrap()).await
    }

    pub(crate) async fn try_refresh(&self, token: &str) -> Result<Response, reqwest::Error> {
        self.try_token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    pub(crate) async fn refresh(&self, token: &str) -> Tokens {
        tokens(self.try_refresh(token).await.unwrap()).await
    }

    pub(crate) async fn userinfo(&self, access_token: &str) -> Response {
        self.http.get(self.url("/userinfo")).bearer_auth(access_token).send().await.unwrap()
    }

    pub(crate) async fn revoke(&self, token: &str) -> Response {
        self.http
            .post(self.url("/revoke"))
            .basic_auth("shop", Some(self.sandbox.client_secret()))
            .form(&[("token", token)])
            .send()
            .await
            .unwrap()
    }

    /// The claims of an ID token, verified by a library that is not ours.
    pub(crate) async fn verify(
        &self,
        id_token: &str,
    ) -> Result<Value, jsonwebtoken::errors::Error> {
        let keys: JwkSet = self.get(&self.url("/jwks")).await.json().await.unwrap();
        let header = decode_header(id_token)?;
        let kid = header.kid.unwrap_or_default();
        let key = keys.find(&kid).ok_or(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat)?;
        let algorithms = [Algorithm::ES256, Algorithm::RS256];
        let algorithm = algorithms.into_iter().find(|it| *it == header.alg);
        let algorithm = algorithm.ok_or(jsonwebtoken::errors::ErrorKind::InvalidAlgorithm)?;
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&["shop"]);
        validation.set_issuer(&[self.sandbox.issuer()]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let key = DecodingKey::from_jwk(key)?;
        Ok(jsonwebtoken::decode::<Value>(id_token, &key, &validation)?.claims)
    }
}

pub(crate) async fn tokens(response: Response) -> Tokens {
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{body}");
    Tokens(body)
}

/// That the answer is an OAuth error.
pub(crate) async fn assert_refused(response: Response, status: u16, error: &str) {
    let got = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!((got, body["error"].as_str()), (status, Some(error)), "{body}");
}

pub(crate) fn location(response: &Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

pub(crate) fn parameters(url: &str) -> BTreeMap<String, String> {
    Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

/// Puts a deadline around what must happen.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
}
