//! What an entry of the catalog can say of a provider that departs from the standard, as far as it
//! is seen on the wire.

use std::{collections::BTreeMap, io::Write as _};

use chrono::DateTime;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use symbolon_domain::{
    credentials::Credentials,
    identity_provider::ProviderSecrets,
    ids::ExternalId,
    ports::{
        AuthorizationRequest, CodeExchange, Connector, Connectors as _, RefreshRequest, Revocation,
    },
    secret::Secret,
};
use symbolon_oauth2::{Registry, catalog::Catalog};
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{
        NOW, Provider, authorization_request, code_exchange, form, instance, loopback, object,
        of_the_catalog, ok, refresh_request,
    },
    stand_in::{StandIn, place},
};

/// An entry whose tables hold this beside what each has to have.
struct Words<'a> {
    authorization: &'a str,
    token: &'a str,
    refresh: &'a str,
    profile: &'a str,
    more: &'a str,
}

const NONE: Words<'_> = Words { authorization: "", token: "", refresh: "", profile: "", more: "" };

impl Words<'_> {
    fn rest(&self) -> String {
        let Self { authorization, token, refresh, profile, more } = self;
        format!(
            r#"
            [authorization]
            url = "{{origin}}/authorize"
            {authorization}
            [token]
            url = "{{origin}}/token"
            authentication = "post"
            {token}
            [refresh]
            {refresh}
            [[profile]]
            url = "{{origin}}/me"
            {profile}
            [account]
            id = "/profile/id"
            {more}
            "#
        )
    }

    fn at(&self, provider: &Provider) -> std::sync::Arc<dyn Connector> {
        of_the_catalog(provider, &self.rest())
    }
}

/// The query of the authorization request.
async fn asked(connector: &dyn Connector) -> BTreeMap<String, String> {
    let url = connector.authorize(&authorization_request()).await.unwrap();
    url.query_pairs().into_owned().collect()
}

fn seconds(end: Option<DateTime<chrono::Utc>>) -> Option<i64> {
    end.map(|it| it.timestamp() - NOW)
}

#[tokio::test]
async fn an_oauth_provider_may_call_anything_an_id_token() {
    let provider = Provider::start().await;
    for id_token in [json!(false), json!(7), json!({"a": 1}), json!("a.b.c")] {
        provider.answer_tokens(&json!({"id_token": id_token}));
        let connector = NONE.at(&provider);
        let grant = connector.exchange(&code_exchange()).await.unwrap();
        assert_eq!((grant.credentials.id_token, grant.claims.len()), (None, 0), "{id_token}");
        assert!(connector.refresh(&refresh_request()).await.unwrap().access_token.is_some());
    }
}

#[tokio::test]
async fn the_code_flow_is_asked_for_by_the_name_that_it_has_there() {
    let provider = Provider::start().await;
    assert_eq!(asked(&*NONE.at(&provider)).await["response_type"], "code");
    let words = Words { authorization: "response_type = \"Assertion\"", ..NONE };
    assert_eq!(asked(&*words.at(&provider)).await["response_type"], "Assertion");
}

#[tokio::test]
async fn what_came_back_is_sent_along_with_the_code_where_it_is_there() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({}));
    let words = Words {
        authorization: "callback = [\"device_id\", \"shop\"]",
        token: "send_state = true\nparameters = { device = \"/callback/device_id\", at = \"shop:{/callback/shop}\" }",
        ..NONE
    };
    let connector = words.at(&provider);
    let parameters = BTreeMap::from([("device_id".to_owned(), "d&1".to_owned())]);
    let exchange = CodeExchange { parameters, ..code_exchange() };
    connector.exchange(&exchange).await.unwrap();
    let sent = form(&provider.requests("/token").await[0]);
    assert_eq!((sent["device"].as_str(), sent["state"].as_str()), ("d&1", "the-state"));
    assert!(!sent.contains_key("at"), "{sent:?}");
    connector.refresh(&refresh_request()).await.unwrap();
    let sent = form(&provider.requests("/token").await[1]);
    assert!(!sent.contains_key("device") && !sent.contains_key("state"), "{sent:?}");
}

#[tokio::test]
async fn what_may_be_left_out_of_a_configuration_is_left_out_of_requests() {
    let provider = Provider::start().await;
    let entry = Words {
        authorization: "parameters = { audience = \"{audience}\", prompt = \"consent\" }",
        more: "[parameters.audience]\ndescription = \"x\"\nexample = \"a\"\npattern = \"[a-z]+\"\noptional = true",
        ..NONE
    };
    let registry = Registry::new(loopback(), std::sync::Arc::new(provider.clock.clone()));
    let text = format!("{}{}", crate::provider::EXAMPLE, entry.rest());
    let registry = registry.with_catalog(Catalog::entry("example", &text).unwrap());
    let secrets = ProviderSecrets::from([("client_secret".to_owned(), Secret::new("secret"))]);
    let connect = |audience: Value| {
        let config =
            json!({"origin": provider.issuer, "client_id": "client", "audience": audience});
        registry.connect(&instance("example", object(&config)), &secrets)
    };
    let without = asked(&*connect(Value::Null).unwrap()).await;
    assert_eq!((without.get("audience"), without["prompt"].as_str()), (None, "consent"));
    assert_eq!(asked(&*connect(json!("api")).unwrap()).await["audience"], "api");
    assert_eq!(connect(json!("API")).err().unwrap().field, "audience");
    let schema = registry.find_type("example").unwrap().config_schema;
    let required = schema["required"].as_array().unwrap();
    assert!(!required.contains(&json!("audience")) && required.contains(&json!("origin")));
}

#[tokio::test]
async fn a_refresh_token_lapses_when_it_lies_idle_and_the_grant_ends_in_any_case() {
    let provider = Provider::start().await;
    let words = Words { refresh: "idle_seconds = 100\nlifetime_seconds = 1000", ..NONE };
    let connector = words.at(&provider);
    provider.answer_tokens(&json!({}));
    let linked = connector.exchange(&code_exchange()).await.unwrap().credentials;
    assert_eq!(seconds(linked.refresh_expires_at), Some(100));
    assert_eq!(seconds(linked.refresh_ends_at), Some(1000));

    // Kept alive by each use, whatever comes of it, and never beyond the end.
    let mut kept = linked;
    for (passed, token, lapses) in
        [(90, Some("refresh-2"), 190), (90, None, 280), (800, None, 1000)]
    {
        provider.clock.advance(passed);
        provider.answer_tokens(&json!({"refresh_token": token}));
        kept = kept.renewed_by(connector.refresh(&refresh_request()).await.unwrap());
        assert_eq!(seconds(kept.refresh_expires_at), Some(lapses));
        assert_eq!(seconds(kept.refresh_ends_at), Some(1000));
    }
}

#[tokio::test]
async fn a_lifetime_alone_is_that_of_each_refresh_token() {
    let provider = Provider::start().await;
    let connector = Words { refresh: "lifetime_seconds = 1000", ..NONE }.at(&provider);
    provider.answer_tokens(&json!({}));
    let linked = connector.exchange(&code_exchange()).await.unwrap().credentials;
    assert_eq!((seconds(linked.refresh_expires_at), linked.refresh_ends_at), (Some(1000), None));
    provider.clock.advance(300);
    // The same one, sent again or not, is none the younger for it.
    for answer in [json!({"refresh_token": null}), json!({"refresh_token": "refresh-1"})] {
        provider.answer_tokens(&answer);
        let request =
            RefreshRequest { refresh_token: Secret::new("refresh-1"), ..refresh_request() };
        let renewed = linked.clone().renewed_by(connector.refresh(&request).await.unwrap());
        assert_eq!(seconds(renewed.refresh_expires_at), Some(1000), "{answer}");
    }
    provider.answer_tokens(&json!({"refresh_token": "refresh-2"}));
    let renewed = linked.renewed_by(connector.refresh(&refresh_request()).await.unwrap());
    assert_eq!(seconds(renewed.refresh_expires_at), Some(1300));
    provider.answer_tokens(&json!({"refresh_token": "refresh-3", "refresh_token_expires_in": 50}));
    let renewed = renewed.renewed_by(connector.refresh(&refresh_request()).await.unwrap());
    assert_eq!(seconds(renewed.refresh_expires_at), Some(350), "the provider knows it best");
}

#[tokio::test]
async fn a_token_in_a_form_stands_in_no_address() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({}));
    let words = Words {
        profile: "token_parameter = \"access_token\"\nform = { client_id = \"{client_id}\" }",
        ..NONE
    };
    let connector = words.at(&provider);
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    provider.answer("/me", ok(&json!({"id": 7})));
    connector.build_identity(&grant).await.unwrap();
    let request = &provider.requests("/me").await[0];
    let sent = form(request);
    assert_eq!((sent["access_token"].as_str(), sent["client_id"].as_str()), ("access-1", "client"));
    assert_eq!((request.url.query(), request.headers.get("authorization")), (None, None));
}

#[tokio::test]
async fn an_answer_that_says_by_a_text_that_it_is_one_is_told_from_an_error() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({}));
    let words = Words {
        profile: "ok = { at = \"/resultcode\", is = \"00\" }",
        more: "[revoke]\nurl = \"{origin}/revoke\"\nauthentication = \"none\"\nok = { at = \"/response\", is = \"1\" }",
        ..NONE
    };
    let connector = words.at(&provider);
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    provider.answer("/me", ok(&json!({"resultcode": "00", "id": 7})));
    assert!(connector.build_identity(&grant).await.is_ok());
    for other in [json!({"resultcode": "024", "id": 7}), json!({"id": 7})] {
        provider.answer("/me", ok(&other));
        assert_refused!(connector.build_identity(&grant).await, Misconfigured);
    }
    provider.answer("/revoke", ok(&json!({"response": 1})));
    assert_eq!(connector.revoke(&grant.credentials).await, Ok(Revocation::Revoked));
    for other in [json!({"response": 0}), json!({"error": "invalid_request"})] {
        provider.answer("/revoke", ok(&other));
        assert!(connector.revoke(&grant.credentials).await.is_err(), "{other}");
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_compressed_answer_is_read_where_the_entry_says_so_and_never_beyond_the_cap() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({}));
    let plain = NONE.at(&provider);
    let compressed = Words { profile: "gzip = true", ..NONE }.at(&provider);
    let grant = plain.exchange(&code_exchange()).await.unwrap();
    let answer = |body: Vec<u8>| {
        ResponseTemplate::new(200).insert_header("content-encoding", "gzip").set_body_bytes(body)
    };
    provider.answer("/me", answer(gzip(r#"{"id":7}"#)));
    let account = compressed.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "7");
    assert_refused!(plain.build_identity(&grant).await, Unavailable);
    let [accepted, not] = &provider.requests("/me").await[..] else { panic!() };
    assert_eq!(accepted.headers["accept-encoding"], "gzip");
    assert_eq!(not.headers["accept-encoding"], "identity");

    // Errors that occur early come as they are.
    provider.answer("/me", ok(&json!({"id": 7})));
    assert!(compressed.build_identity(&grant).await.is_ok());
    let bomb = gzip(&format!(r#"{{"id":7,"x":"{}"}}"#, "0".repeat(64 * 1024)));
    assert!(bomb.len() < 1024);
    let broken = gzip(r#"{"id":7}"#)[..12].to_vec();
    for wrong in [bomb, broken, b"\x1f\x8bnonsense".to_vec()] {
        provider.answer("/me", answer(wrong));
        assert_refused!(compressed.build_identity(&grant).await, Unavailable);
    }
}

/// An entry whose access tokens are signed statements.
fn in_access_token(provider: &Provider) -> std::sync::Arc<dyn Connector> {
    of_the_catalog(
        provider,
        r#"
        [authorization]
        url = "{origin}/authorize"
        scopes = ["publicData"]
        [token]
        url = "{origin}/token"
        [refresh]
        [openid]
        issuer = "{origin}"
        issuers = ["provider"]
        jwks_uri = "{origin}/jwks"
        id_token = "access_token"
        [account]
        id = "{/claims/sub}:{/claims/owner}"
        "#,
    )
}

#[tokio::test]
async fn an_access_token_that_is_signed_says_whose_it_is() {
    let provider = Provider::start().await;
    let connector = in_access_token(&provider);
    let asked = asked(&*connector).await;
    assert_eq!((asked.get("nonce"), asked["scope"].as_str()), (None, "publicData"));
    assert!(asked.contains_key("code_challenge"));
    let claims = |changes: Value| {
        let mut usual = json!({
            "owner": "o1", "nonce": null, "iss": "provider", "azp": "client",
            "aud": ["client", "Game"],
        });
        usual.as_object_mut().unwrap().extend(object(&changes));
        provider.id_token(&provider.claims_with(&usual))
    };
    let answer = |token: String| {
        provider.answer_tokens(&json!({"access_token": token, "id_token": null}));
    };
    answer(claims(json!({})));
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    assert_eq!(grant.credentials.id_token, None, "it is kept once");
    let account = connector.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "alice:o1");

    for other in [
        json!({"aud": ["other", "Game"]}),
        json!({"azp": "other"}),
        json!({"iss": "elsewhere"}),
        json!({"exp": NOW - 300}),
        json!({"sub": null}),
    ] {
        answer(claims(other.clone()));
        assert_refused!(connector.exchange(&code_exchange()).await, Untrusted, other);
    }
    answer("opaque".to_owned());
    assert_refused!(connector.exchange(&code_exchange()).await, Untrusted);

    let external_id = ExternalId::new("alice:o1").unwrap();
    let request = RefreshRequest { external_id, ..refresh_request() };
    answer(claims(json!({})));
    assert_eq!(connector.refresh(&request).await.unwrap().id_token, None);
    answer(claims(json!({"owner": "o2"})));
    assert_refused!(connector.refresh(&request).await, Untrusted);
}

#[tokio::test]
async fn the_address_at_which_a_token_is_revoked_holds_it_and_nothing_else_does() {
    let server = StandIn::start().await;
    let config = json!({"key": "0471642aefef5fa1fa76530ce1ba4c85"});
    let connector = server.connect("trello", &config).unwrap();
    let of = |token: &str| Credentials {
        access_token: Some(Secret::new(token)),
        ..Credentials::default()
    };
    // Whatever a token is made of, it stays in its place.
    let at = "api.trello.com/1/tokens/a%2F..%2Fb%3Fc%23d";
    server.answer(at, ResponseTemplate::new(200));
    assert_eq!(connector.revoke(&of("a/../b?c#d")).await, Ok(Revocation::Revoked));
    let requests = server.requests(at).await;
    assert_eq!(requests[0].method.as_str(), "DELETE");
    assert!(requests[0].body.is_empty());
    for climbing in [".", ".."] {
        assert_refused!(connector.revoke(&of(climbing)).await, Misconfigured);
    }
    let all = server.server.received_requests().await.unwrap();
    assert_eq!(all.iter().map(place).collect::<Vec<_>>(), [at]);
}

#[tokio::test]
async fn no_token_stands_in_an_address_that_is_not_https() {
    let provider = Provider::start().await;
    let entry = Words { more: "[revoke]\nurl = \"{origin}/tokens/{token}\"", ..NONE };
    let registry = Registry::new(loopback(), std::sync::Arc::new(provider.clock.clone()));
    let text = format!("{}{}", crate::provider::EXAMPLE, entry.rest());
    let registry = registry.with_catalog(Catalog::entry("example", &text).unwrap());
    let secrets = ProviderSecrets::from([("client_secret".to_owned(), Secret::new("secret"))]);
    let connect = |origin: &str| {
        let config = object(&json!({"origin": origin, "client_id": "client"}));
        registry.connect(&instance("example", config), &secrets).err().map(|it| it.field)
    };
    assert_eq!(connect(&provider.issuer).as_deref(), Some("origin"));
    assert_eq!(connect("https://provider.example"), None);
}

#[tokio::test]
async fn what_came_back_is_no_secret_to_be_shown_either() {
    let provider = Provider::start().await;
    let words = Words { token: "send_state = true", ..NONE };
    let connector = words.at(&provider);
    provider
        .answer("/token", ResponseTemplate::new(400).set_body_json(json!({"error": "canary-1"})));
    let exchange = CodeExchange { state: Secret::new("canary-1"), ..code_exchange() };
    let error = connector.exchange(&exchange).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    let request = AuthorizationRequest { state: Secret::new("s"), ..authorization_request() };
    assert!(connector.authorize(&request).await.unwrap().as_str().contains("state=s"));
}

#[tokio::test]
async fn the_secret_alone_ends_a_grant_after_the_scheme_of_the_provider() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({}));
    let words = Words {
        more: "[revoke]\nurl = \"{origin}/revoke\"\nauthentication = \"secret\"\nscheme = \"Client\"\ntoken = \"access\"\nparameters = { client_id = \"{client_id}\" }",
        ..NONE
    };
    let connector = words.at(&provider);
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    provider.answer("/revoke", ResponseTemplate::new(200));
    assert_eq!(connector.revoke(&grant.credentials).await, Ok(Revocation::Revoked));
    let request = &provider.requests("/revoke").await[0];
    assert_eq!(request.headers["authorization"], "Client secret");
    let sent = form(request);
    assert_eq!((sent["client_id"].as_str(), sent["token"].as_str()), ("client", "access-1"));
    assert!(!sent.contains_key("client_secret"), "{sent:?}");
}

/// To an access token that has ended, many say that there is no such grant, and the refresh token
/// goes on living.
#[tokio::test]
async fn a_grant_that_only_a_living_access_token_ends_is_brought_to_life_for_it() {
    let provider = Provider::start().await;
    let words = Words { more: "[revoke]\nurl = \"{origin}/revoke\"\ntoken = \"access\"", ..NONE };
    let connector = words.at(&provider);
    let grant = Credentials {
        access_token: Some(Secret::new("access-0")),
        refresh_token: Some(Secret::new("refresh-0")),
        expires_at: DateTime::from_timestamp(NOW + 60, 0),
        ..Credentials::default()
    };
    let ended = Credentials { expires_at: DateTime::from_timestamp(NOW, 0), ..grant.clone() };
    let revoked = async || {
        let requests = provider.requests("/revoke").await;
        requests.iter().map(|it| form(it)["token"].clone()).collect::<Vec<_>>()
    };
    provider.answer("/revoke", ResponseTemplate::new(200));

    // What lives is revoked as it is.
    assert_eq!(connector.revoke(&grant).await, Ok(Revocation::Revoked));
    assert!(provider.requests("/token").await.is_empty());
    assert_eq!(revoked().await, ["access-0"]);

    provider.answer_tokens(&json!({}));
    assert_eq!(connector.revoke(&ended).await, Ok(Revocation::Revoked));
    let sent = form(&provider.requests("/token").await[0]);
    let traded_in = (sent["grant_type"].as_str(), sent["refresh_token"].as_str());
    assert_eq!(traded_in, ("refresh_token", "refresh-0"));
    assert_eq!(revoked().await, ["access-0", "access-1"]);

    // Where there is nothing to bring it to life with, it is tried as it is.
    let alone = Credentials { refresh_token: None, ..ended.clone() };
    assert_eq!(connector.revoke(&alone).await, Ok(Revocation::Revoked));
    assert_eq!(revoked().await, ["access-0", "access-1", "access-0"]);

    // A grant that is over needs no end; one of which nothing is known is tried again later.
    let refused = ResponseTemplate::new(400).set_body_json(json!({"error": "invalid_grant"}));
    provider.answer("/token", refused);
    assert_eq!(connector.revoke(&ended).await, Ok(Revocation::Revoked));
    provider.answer("/token", ResponseTemplate::new(503));
    assert_refused!(connector.revoke(&ended).await, Unavailable);
    assert_eq!(revoked().await.len(), 3);
}
