//! A real OpenID provider in a process of its own: `tests/oidc-provider`, where its options and
//! its control port are described.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::browser::client;

/// The client that has a secret.
pub(crate) const CONFIDENTIAL: (&str, &str) = ("confidential", "confidential-secret");
/// The client that has none.
pub(crate) const PUBLIC: &str = "public";
/// The secret of each client that is held to one way of the protocol.
pub(crate) const HELD_SECRET: &str = "a secret that is long enough to sign with";

/// The client that has none and must have its tokens bound to a key.
pub(crate) const BOUND: &str = "bound";

/// How a provider is started.
pub(crate) struct Options {
    /// Where it may send users back to; more can be [added](OidcProvider::add_redirect_uri).
    pub(crate) redirect_uris: Vec<String>,
    /// How long access tokens live, in whole seconds.
    pub(crate) access_token_ttl: Duration,
    /// Whether every code gives a refresh token, not only with `offline_access` and
    /// `prompt=consent`.
    pub(crate) always_refresh_tokens: bool,
    /// Whether a `DPoP` proof must have a nonce of the provider's in it.
    pub(crate) dpop_nonces: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            redirect_uris: Vec::new(),
            access_token_ttl: Duration::from_hours(1),
            always_refresh_tokens: false,
            dpop_nonces: false,
        }
    }
}

/// A running provider. It ends with this value, and in any case when the test's process ends.
pub(crate) struct OidcProvider {
    process: Child,
    http: Client,
    /// Where it is: `http://127.0.0.1:PORT`.
    pub(crate) issuer: String,
    control: String,
}

impl OidcProvider {
    /// Starts one on free ports, and comes back when it answers.
    pub(crate) fn start(options: &Options) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc-provider");
        assert!(
            folder.join("node_modules/oidc-provider").is_dir(),
            "the OpenID provider of the tests is not installed: run `make test`, or `npm ci` in \
             tests/oidc-provider"
        );
        let mut command = Command::new("node");
        command.arg("server.mjs").current_dir(folder);
        command.arg("--access-token-ttl").arg(options.access_token_ttl.as_secs().to_string());
        if options.always_refresh_tokens {
            command.args(["--refresh-tokens", "always"]);
        }
        if options.dpop_nonces {
            command.arg("--dpop-nonces");
        }
        for uri in &options.redirect_uris {
            command.arg("--redirect-uri").arg(uri);
        }
        // It ends when this pipe closes, be it that the test was killed.
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node can be run; `make test` installs it where it can");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let status = process.wait().unwrap();
            panic!("the provider did not start ({status}); its standard error says why")
        };
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self { process, http: client(), issuer: text("issuer"), control: text("control") }
    }

    /// What happened so far, in the words of `server.mjs`.
    pub(crate) async fn records(&self) -> Value {
        let response = self.http.get(format!("{}/records", self.control)).send().await.unwrap();
        response.json().await.unwrap()
    }

    /// By account: how often the answer to a refresh that was done was lost, and how often a spent
    /// refresh token came.
    pub(crate) async fn accounts(&self) -> Value {
        let response = self.http.get(format!("{}/accounts", self.control)).send().await.unwrap();
        response.json().await.unwrap()
    }

    /// Every code, verifier and token that it was sent or handed out.
    pub(crate) async fn secrets(&self) -> Vec<String> {
        let response = self.http.get(format!("{}/secrets", self.control)).send().await.unwrap();
        response.json().await.unwrap()
    }

    /// Whether it would accept an access or refresh token now.
    pub(crate) async fn is_active(&self, token: &str) -> bool {
        self.ask("is-active", "token", token).await["active"].as_bool().unwrap()
    }

    /// For which resource a token is.
    pub(crate) async fn audience(&self, token: &str) -> Value {
        self.ask("is-active", "token", token).await["audience"].clone()
    }

    /// Whether a client of this id is registered.
    pub(crate) async fn has_client(&self, id: &str) -> bool {
        self.ask("has-client", "id", id).await["registered"].as_bool().unwrap()
    }

    async fn ask(&self, what: &str, name: &str, value: &str) -> Value {
        let request = self.http.get(format!("{}/{what}", self.control));
        let response = request.query(&[(name, value)]).send().await.unwrap();
        response.json().await.unwrap()
    }

    /// What its userinfo endpoint says to an access token.
    pub(crate) async fn userinfo(&self, access_token: &str) -> StatusCode {
        let request = self.http.get(format!("{}/me", self.issuer)).bearer_auth(access_token);
        request.send().await.unwrap().status()
    }

    /// Orders faults of the token endpoint, in the words of `server.mjs`.
    pub(crate) async fn fail(&self, fault: Value) {
        self.order("fail", fault).await;
    }

    /// Registers one more redirect URI.
    pub(crate) async fn add_redirect_uri(&self, uri: &str) {
        self.order("redirect-uris", json!({ "add": uri })).await;
    }

    /// The user revokes all that they granted.
    pub(crate) async fn withdraw(&self, account: &str) {
        self.order("withdraw", json!({ "account": account })).await;
    }

    /// It looks at a client's keys again, as it does after some time.
    pub(crate) async fn refetch_keys(&self, client: &str) {
        self.order("refetch-keys", json!({ "client": client })).await;
    }

    async fn order(&self, what: &str, body: Value) {
        let request = self.http.post(format!("{}/{what}", self.control)).json(&body);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{what}: {}", response.text().await.unwrap());
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        // By its own handle, so nobody else's process can be meant. It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

mod tests {
    use std::collections::HashMap;

    use reqwest::{Response, Url};

    use super::*;
    use crate::browser::{Browser, query};

    const REDIRECT_URI: &str = "http://127.0.0.1:9/callback";
    /// The example of RFC 7636 appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn start() -> OidcProvider {
        let redirect_uris = vec![REDIRECT_URI.to_owned()];
        OidcProvider::start(&Options { redirect_uris, ..Options::default() })
    }

    impl OidcProvider {
        fn authorization_url(&self, more: &[(&str, &str)]) -> Url {
            let mut parameters = HashMap::from([
                ("response_type", "code"),
                ("client_id", CONFIDENTIAL.0),
                ("redirect_uri", REDIRECT_URI),
                ("scope", "openid email offline_access"),
                ("prompt", "consent"),
                ("state", "some state"),
                ("code_challenge", CHALLENGE),
                ("code_challenge_method", "S256"),
            ]);
            parameters.extend(more.iter().copied());
            Url::parse_with_params(&format!("{}/auth", self.issuer), parameters).unwrap()
        }

        async fn post(&self, path: &str, form: &[(&str, &str)]) -> reqwest::Result<Response> {
            let request = self.http.post(format!("{}{path}", self.issuer)).form(form);
            request.basic_auth(CONFIDENTIAL.0, Some(CONFIDENTIAL.1)).send().await
        }

        async fn exchange(&self, code: &str) -> Value {
            let form = [
                ("grant_type", "authorization_code"),
                ("code", code),
                ("redirect_uri", REDIRECT_URI),
                ("code_verifier", VERIFIER),
            ];
            let response = self.post("/token", &form).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            response.json().await.unwrap()
        }

        async fn refresh(&self, refresh_token: &str) -> reqwest::Result<Response> {
            let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
            self.post("/token", &form).await
        }

        /// Walks the whole flow in a new browser: the tokens of a new grant.
        async fn sign_in(&self, account: &str) -> Value {
            let url = self.authorization_url(&[("login_hint", account)]);
            let back = Browser::new().follow(url, REDIRECT_URI).await;
            self.exchange(&query(&back, "code").unwrap()).await
        }
    }

    fn text<'a>(value: &'a Value, name: &str) -> &'a str {
        value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
    }

    #[tokio::test]
    async fn a_code_is_exchanged_refreshed_and_the_reuse_of_a_refresh_token_ends_the_grant() {
        let provider = start();

        let back = Browser::new().follow(provider.authorization_url(&[]), REDIRECT_URI).await;
        assert_eq!(query(&back, "state").unwrap(), "some state");
        assert_eq!(query(&back, "iss").unwrap(), provider.issuer, "RFC 9207");
        let first = provider.exchange(&query(&back, "code").unwrap()).await;
        assert_eq!(text(&first, "token_type"), "Bearer");
        assert!(first["id_token"].is_string());

        let request = provider.http.get(format!("{}/me", provider.issuer));
        let response = request.bearer_auth(text(&first, "access_token")).send().await.unwrap();
        let userinfo: Value = response.json().await.unwrap();
        assert_eq!(text(&userinfo, "sub"), "alice");
        assert_eq!(text(&userinfo, "email"), "alice@example.test");

        let old = text(&first, "refresh_token");
        let second: Value = provider.refresh(old).await.unwrap().json().await.unwrap();
        assert_ne!(text(&second, "refresh_token"), old, "refresh tokens rotate");
        assert!(provider.is_active(text(&second, "access_token")).await);
        assert!(!provider.is_active(old).await);

        let reused = provider.refresh(old).await.unwrap();
        assert_eq!(reused.status(), StatusCode::BAD_REQUEST);
        assert_eq!(text(&reused.json().await.unwrap(), "error"), "invalid_grant");
        for name in ["access_token", "refresh_token"] {
            assert!(!provider.is_active(text(&second, name)).await, "{name}");
        }
        let records = provider.records().await;
        assert_eq!(records["token_requests"], json!({"authorization_code": 1, "refresh_token": 2}));
        assert_eq!(
            records["token_successes"],
            json!({"authorization_code": 1, "refresh_token": 1})
        );
        assert_eq!(records["refresh_reuses"], 1);
        assert_eq!(records["grant_revocations"], 1);
        assert_eq!(records["concurrent_refreshes"], 0);
    }

    #[tokio::test]
    async fn a_revocation_ends_the_grant_and_is_recorded() {
        let provider = start();
        let tokens = provider.sign_in("bob").await;
        let token = text(&tokens, "refresh_token");
        for known in [1, 1] {
            let response = provider.post("/token/revocation", &[("token", token)]).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "RFC 7009 §2.2, for unknown ones too");
            assert_eq!(provider.records().await["revocations"], known);
        }
        assert_eq!(provider.records().await["revocation_requests"], 2);
        assert!(!provider.is_active(text(&tokens, "access_token")).await);
    }

    #[tokio::test]
    async fn what_a_user_withdraws_is_dead_and_other_users_keep_theirs() {
        let provider = start();
        let (bob, carol) = (provider.sign_in("bob").await, provider.sign_in("carol").await);
        provider.withdraw("bob").await;
        assert!(!provider.is_active(text(&bob, "access_token")).await);
        assert!(provider.is_active(text(&carol, "access_token")).await);
        let refused = provider.refresh(text(&bob, "refresh_token")).await.unwrap();
        assert_eq!(text(&refused.json().await.unwrap(), "error"), "invalid_grant");
    }

    #[tokio::test]
    async fn the_user_may_decline_or_be_another_one_in_the_same_browser() {
        let provider = start();
        let mut browser = Browser::new();
        for account in ["bob", "carol"] {
            let url = provider.authorization_url(&[("login_hint", account)]);
            let back = browser.follow(url, REDIRECT_URI).await;
            let tokens = provider.exchange(&query(&back, "code").unwrap()).await;
            let request = provider.http.get(format!("{}/me", provider.issuer));
            let response = request.bearer_auth(text(&tokens, "access_token")).send().await.unwrap();
            assert_eq!(text(&response.json().await.unwrap(), "sub"), account);
        }
        let url = provider.authorization_url(&[("login_hint", "denied")]);
        let back = browser.follow(url, REDIRECT_URI).await;
        assert_eq!(query(&back, "error").unwrap(), "access_denied");
    }

    #[tokio::test]
    async fn only_registered_redirect_uris_and_only_pkce_are_accepted() {
        let provider = start();
        let elsewhere = "http://127.0.0.1:9/elsewhere";
        let url = provider.authorization_url(&[("redirect_uri", elsewhere)]);
        let refused = Browser::new().get(url.clone()).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        provider.add_redirect_uri(elsewhere).await;
        let back = Browser::new().follow(url, elsewhere).await;
        assert!(query(&back, "code").is_some());

        let parameters = [("response_type", "code"), ("client_id", PUBLIC), ("scope", "openid")];
        let mut url =
            Url::parse_with_params(&format!("{}/auth", provider.issuer), parameters).unwrap();
        url.query_pairs_mut().append_pair("redirect_uri", REDIRECT_URI);
        let back = Browser::new().follow(url, REDIRECT_URI).await;
        assert_eq!(query(&back, "error").unwrap(), "invalid_request");
    }

    #[tokio::test]
    async fn ordered_faults_happen_once_each_and_then_no_more() {
        let provider = start();
        let tokens = provider.sign_in("bob").await;
        let token = text(&tokens, "refresh_token");

        provider.fail(json!({"next": 1, "mode": "status", "status": 503, "retry_after": 7})).await;
        let answer = provider.refresh(token).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "7");

        provider.fail(json!({"next": 1, "mode": "drop_before"})).await;
        provider.refresh(token).await.unwrap_err();
        assert!(provider.is_active(token).await, "nothing was done");

        provider.fail(json!({"next": 1, "mode": "drop_after_commit"})).await;
        provider.refresh(token).await.unwrap_err();
        assert!(!provider.is_active(token).await, "the exchange was done");
        assert_eq!(provider.records().await["token_successes"]["refresh_token"], 1);

        let answer = provider.refresh(token).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "a spent token, and no fault");
        let records = provider.records().await;
        assert_eq!(records["faults"], 3);
        assert_eq!(records["refresh_reuses"], 1);
    }

    #[tokio::test]
    async fn two_refreshes_at_once_are_seen_and_end_the_grant() {
        let provider = start();
        let tokens = provider.sign_in("bob").await;
        let token = text(&tokens, "refresh_token");
        // Long enough that the second one arrives; if it did not, the test fails by its counts.
        provider.fail(json!({"next": 2, "mode": "delay", "delay_ms": 500})).await;
        let (one, other) = tokio::join!(provider.refresh(token), provider.refresh(token));
        let successes =
            [one.unwrap(), other.unwrap()].iter().filter(|it| it.status().is_success()).count();
        assert!(successes <= 1, "{successes} succeeded");
        let records = provider.records().await;
        assert_eq!(records["concurrent_refreshes"], 1);
        assert_eq!(records["grant_revocations"], 1);
        assert!(!provider.is_active(token).await);
    }

    #[tokio::test]
    async fn refresh_tokens_come_with_offline_access_or_always_as_ordered() {
        let provider = start();
        let plain = [("scope", "openid"), ("prompt", "login")];
        let back = Browser::new().follow(provider.authorization_url(&plain), REDIRECT_URI).await;
        let tokens = provider.exchange(&query(&back, "code").unwrap()).await;
        assert!(tokens.get("refresh_token").is_none());

        let provider = OidcProvider::start(&Options {
            redirect_uris: vec![REDIRECT_URI.to_owned()],
            access_token_ttl: Duration::from_secs(30),
            always_refresh_tokens: true,
            dpop_nonces: false,
        });
        let back = Browser::new().follow(provider.authorization_url(&plain), REDIRECT_URI).await;
        let tokens = provider.exchange(&query(&back, "code").unwrap()).await;
        assert_eq!(tokens["expires_in"], 30);
        assert!(provider.is_active(text(&tokens, "refresh_token")).await);
    }

    #[test]
    fn the_provider_does_not_outlive_its_test() {
        let mut provider = start();
        drop(provider.process.stdin.take());
        assert!(provider.process.wait().unwrap().success());
    }
}
