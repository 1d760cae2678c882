//! A real provider and the service that knows it, for tests that need no more than one of each.

use reqwest::Url;
use serde_json::{Value, json};

use crate::{
    browser::{Browser, query},
    oidc_provider::OidcProvider,
    service::{Installation, Kind, RETURN_URL, Replica},
};

/// A provider, and the service that has it as the instance `id`.
pub(crate) struct World {
    pub(crate) provider: OidcProvider,
    _installation: Installation,
    pub(crate) replica: Replica,
    pub(crate) id: i64,
}

impl World {
    /// `provider` is made for an installation, and `config` is what the instance has besides its
    /// issuer.
    pub(crate) async fn of(
        kind: Kind,
        provider: impl FnOnce(&Installation) -> OidcProvider,
        config: Value,
    ) -> Self {
        Self::of_type("oidc", kind, provider, config).await
    }

    /// The same, as an instance of this type.
    pub(crate) async fn of_type(
        provider_type: &str,
        kind: Kind,
        provider: impl FnOnce(&Installation) -> OidcProvider,
        config: Value,
    ) -> Self {
        let installation = Installation::new(kind).await;
        let provider = provider(&installation);
        let replica = installation.start().await;
        let mut whole = json!({ "issuer": provider.issuer });
        whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let body = json!({"type": provider_type, "config": whole});
        let made = replica.post("/v1/providers", body).await.good();
        let id = made["id"].as_i64().unwrap();
        Self { provider, _installation: installation, replica, id }
    }

    /// What the provider has recorded under this name.
    pub(crate) async fn records(&self, name: &str) -> Value {
        self.provider.records().await[name].clone()
    }

    /// A session, the browser that opens its address, and that address.
    pub(crate) async fn start(&self, user: &str) -> (Browser, Url, Value) {
        let body = json!({
            "user_id": user, "provider_id": self.id, "return_url": RETURN_URL, "purpose": "link",
            "login_hint": user,
        });
        let session = self.replica.post("/v1/link-sessions", body).await.good();
        let url = session["url"].as_str().unwrap().parse().unwrap();
        (Browser::new(), url, session)
    }

    /// Completes the session with which a browser came back: what the product is told.
    pub(crate) async fn complete(&self, session: &Value, back: &Url, user: &str) -> Value {
        let code = query(back, "completion_code").unwrap();
        let body = json!({"completion_code": code, "user_id": user});
        let path = format!("/v1/link-sessions/{}/complete", session["id"]);
        self.replica.post(&path, body).await.good()
    }

    /// Links a user, and gives the identity and the browser that is signed in at the provider.
    pub(crate) async fn link(&self, user: &str) -> (i64, Browser) {
        let (mut browser, url, session) = self.start(user).await;
        let back = browser.follow(url, RETURN_URL).await;
        let linked = self.complete(&session, &back, user).await;
        (linked["identity_id"].as_i64().unwrap(), browser)
    }

    /// The identity as the product sees it.
    pub(crate) async fn identity(&self, id: i64) -> Value {
        self.replica.get(&format!("/v1/identities/{id}")).await.good()
    }

    pub(crate) async fn token(&self, identity: i64) -> String {
        let answer = self.replica.token(identity).await.good();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn events(&self, kind: &str) -> Vec<Value> {
        let path = format!("/v1/events?type={kind}");
        self.replica.get(&path).await.good()["items"].as_array().unwrap().clone()
    }
}
