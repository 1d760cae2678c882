//! Entra: whose accounts one configuration lets in, and no other's.

use serde_json::{Value, json};
use symbolon_domain::ports::{ConnectorError, Grant};
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{NONCE, NOW, changed, code_exchange, ok, refresh_request},
    stand_in::StandIn,
    test_key::TestKey,
};

const HOST: &str = "login.microsoftonline.com";
const ONE: &str = "11111111-1111-4111-8111-111111111111";
const OTHER: &str = "22222222-2222-4222-8222-222222222222";
/// The tenant of all personal accounts.
const PERSONAL: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

struct World {
    microsoft: StandIn,
    key: TestKey,
    tenant: &'static str,
}

impl World {
    /// Microsoft, and a provider of ours that is configured with this tenant; its discovery document
    /// names that issuer.
    async fn new(tenant: &'static str, named: &str) -> Self {
        let world = Self { microsoft: StandIn::start().await, key: TestKey::ec(), tenant };
        world.name(&format!("https://{HOST}/{named}/v2.0"));
        let keys = json!({"keys": [world.key.jwk("k1")]});
        world.microsoft.answer(&world.at("discovery/v2.0/keys"), ok(&keys));
        world
    }

    fn at(&self, path: &str) -> String {
        format!("{HOST}/{}/{path}", self.tenant)
    }

    fn name(&self, issuer: &str) {
        let document = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("https://{}", self.at("oauth2/v2.0/authorize")),
            "token_endpoint": format!("https://{}", self.at("oauth2/v2.0/token")),
            "jwks_uri": format!("https://{}", self.at("discovery/v2.0/keys")),
            "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo",
        });
        let at = self.at("v2.0/.well-known/openid-configuration");
        self.microsoft.answer(&at, ok(&document));
    }

    fn config(&self) -> Value {
        json!({"tenant": self.tenant, "client_id": "client", "client_secret": "secret"})
    }

    /// Answers tokens whose ID token is of this tenant, with these changes.
    fn issue(&self, tenant: &str, changes: &Value) {
        let claims = json!({
            "iss": format!("https://{HOST}/{tenant}/v2.0"), "aud": "client", "sub": "pairwise",
            "tid": tenant, "oid": "object", "nonce": NONCE, "iat": NOW, "exp": NOW + 300,
            "email": "ada@contoso.example", "email_verified": true,
        });
        let header = json!({"alg": "ES256", "kid": "k1", "typ": "JWT"});
        let tokens = json!({
            "access_token": "a", "refresh_token": "r", "token_type": "Bearer", "expires_in": 3599,
            "id_token": self.key.sign(&header, &changed(claims, changes)),
        });
        self.microsoft.answer(&self.at("oauth2/v2.0/token"), ok(&tokens));
    }

    async fn exchange(&self) -> Result<Grant, ConnectorError> {
        let connector = self.microsoft.connect("microsoft", &self.config()).unwrap();
        connector.exchange(&code_exchange()).await
    }

    /// The id of the account that an ID token of this tenant links.
    async fn link(&self, tenant: &str, changes: &Value) -> Result<String, ConnectorError> {
        self.issue(tenant, changes);
        let grant = self.exchange().await?;
        let connector = self.microsoft.connect("microsoft", &self.config()).unwrap();
        connector.build_identity(&grant).await.map(|it| it.external_id.as_str().to_owned())
    }
}

fn id(tenant: &str) -> String {
    format!("{tenant}:object")
}

#[tokio::test]
async fn one_tenant_is_no_other_however_it_is_called() {
    // By its id, by that in capitals, and by a domain, which only discovery knows the id of.
    for tenant in [ONE, "contoso.onmicrosoft.com", "contoso.example"] {
        let world = World::new(tenant, ONE).await;
        assert_eq!(world.link(ONE, &json!({})).await, Ok(id(ONE)), "{tenant}");
        for other in [OTHER, PERSONAL, tenant].into_iter().filter(|it| *it != ONE) {
            assert_refused!(world.link(other, &json!({})).await, Untrusted, tenant, other);
        }
    }
}

#[tokio::test]
async fn the_claim_and_the_issuer_name_the_same_tenant() {
    let iss = |tenant: &str| json!({"iss": format!("https://{HOST}/{tenant}/v2.0")});
    for (tenant, named) in [(ONE, ONE), ("contoso.example", ONE), ("common", "{tenantid}")] {
        let world = World::new(tenant, named).await;
        for (tid, changes) in [
            (OTHER, iss(ONE)),
            (ONE, iss(OTHER)),
            (ONE, json!({"tid": null})),
            (ONE, json!({"tid": ""})),
            (ONE, json!({"tid": [ONE]})),
            (ONE, json!({"iss": null})),
            (ONE, json!({"iss": format!("https://{HOST}/{ONE}/v2.0/")})),
            (ONE, json!({"iss": format!("https://{HOST}/{ONE}")})),
            (ONE, json!({"iss": format!("https://sts.windows.net/{ONE}/")})),
            (ONE, json!({"iss": format!("https://evil.example/{ONE}/v2.0")})),
            ("{tenantid}", json!({"tid": null})),
        ] {
            let linked = world.link(tid, &changes).await;
            assert_refused!(linked, Untrusted, tenant, tid, changes);
        }
        let unsigned_by_us = TestKey::ec();
        let header = json!({"alg": "ES256", "kid": "k1", "typ": "JWT"});
        let claims = json!({"iss": format!("https://{HOST}/{ONE}/v2.0"), "tid": ONE});
        let token = unsigned_by_us.sign(&header, &claims);
        let tokens = json!({"access_token": "a", "token_type": "Bearer", "id_token": token});
        world.microsoft.answer(&world.at("oauth2/v2.0/token"), ok(&tokens));
        assert_refused!(world.exchange().await, Untrusted, tenant);
    }
}

#[tokio::test]
async fn who_lets_all_tenants_in_may_leave_personal_accounts_out() {
    for (tenant, named, personal, work) in [
        ("common", "{tenantid}", true, true),
        ("organizations", "{tenantid}", false, true),
        ("consumers", PERSONAL, true, false),
    ] {
        let world = World::new(tenant, named).await;
        for (tid, is_let_in) in [(PERSONAL, personal), (ONE, work), (OTHER, work)] {
            let linked = world.link(tid, &json!({})).await;
            if is_let_in {
                assert_eq!(linked, Ok(id(tid)), "{tenant}");
            } else {
                assert_refused!(linked, Untrusted, tenant, tid);
            }
        }
    }
}

#[tokio::test]
async fn a_refresh_brings_no_other_tenants_token() {
    let world = World::new("contoso.example", ONE).await;
    let connector = world.microsoft.connect("microsoft", &world.config()).unwrap();
    let mut request = refresh_request();
    request.external_id = symbolon_domain::ids::ExternalId::new(format!("{ONE}:object")).unwrap();
    world.issue(ONE, &json!({"nonce": null}));
    assert!(connector.refresh(&request).await.is_ok());
    for (tenant, changes) in
        [(OTHER, json!({"nonce": null})), (ONE, json!({"nonce": null, "oid": "another"}))]
    {
        world.issue(tenant, &changes);
        assert_refused!(connector.refresh(&request).await, Untrusted, tenant, changes);
    }
}

#[tokio::test]
async fn a_document_that_names_somebody_else_is_refused() {
    for named in [
        format!("https://{HOST}/{ONE}/v2.0/"),
        format!("https://{HOST}/{ONE}/{OTHER}/v2.0"),
        format!("https://{HOST}//v2.0"),
        format!("http://{HOST}/{ONE}/v2.0"),
        "https://evil.example/v2.0".to_owned(),
        format!("https://evil.example/{ONE}/v2.0"),
    ] {
        let world = World::new("contoso.example", ONE).await;
        world.name(&named);
        assert_refused!(world.link(ONE, &json!({})).await, Misconfigured, named);
    }
    let world = World::new("contoso.example", ONE).await;
    let at = world.at("v2.0/.well-known/openid-configuration");
    world.microsoft.answer(&at, ResponseTemplate::new(503));
    world.issue(ONE, &json!({}));
    assert_refused!(world.exchange().await, Unavailable);
}

#[tokio::test]
async fn an_authorization_response_names_nobody_else() {
    for (tenant, named, others) in [("contoso.example", ONE, false), ("common", "{tenantid}", true)]
    {
        let world = World::new(tenant, named).await;
        let connector = world.microsoft.connect("microsoft", &world.config()).unwrap();
        let iss = |tenant: &str| format!("https://{HOST}/{tenant}/v2.0");
        assert_eq!(connector.check_issuer(Some(&iss(ONE)), false).await, Ok(()), "{tenant}");
        let other = connector.check_issuer(Some(&iss(OTHER)), false).await;
        assert_eq!(other.is_ok(), others, "{tenant}");
        let evil = format!("https://evil.example/{ONE}/v2.0");
        assert_refused!(connector.check_issuer(Some(&evil), false).await, Untrusted, tenant);
        assert_refused!(connector.check_issuer(None, true).await, Untrusted, tenant);
    }
}

#[tokio::test]
async fn an_address_counts_as_verified_only_where_microsoft_says_so_of_its_domain() {
    let world = World::new("common", "{tenantid}").await;
    let connector = world.microsoft.connect("microsoft", &world.config()).unwrap();
    for (changes, verified) in [
        (json!({}), false),
        (json!({"xms_edov": false}), false),
        (json!({"xms_edov": 1}), false),
        (json!({"xms_edov": true}), true),
        (json!({"xms_edov": true, "email": null}), false),
    ] {
        world.issue(ONE, &changes);
        let grant = connector.exchange(&code_exchange()).await.unwrap();
        let account = connector.build_identity(&grant).await.unwrap();
        assert_eq!(account.email_verified, verified, "{changes}");
    }
}
