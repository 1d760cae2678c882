//! Linking with no browser on the product's machine: the user confirms at a real OpenID provider,
//! on a device that has never heard of us.

use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode, Url, header::LOCATION};
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    main_way::{config, provider_for},
    oidc_provider::OidcProvider,
    service::{Installation, Kind, Replica},
};

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Longer than the provider's interval of five seconds, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The hidden fields of the one form on a page.
pub(crate) fn fields(page: &str) -> Vec<(String, String)> {
    let form = page.split("<form").nth(1).unwrap_or_else(|| panic!("no form: {page}"));
    let attribute = |tag: &str, name: &str| {
        let value = tag.split(&format!(" {name}=\"")).nth(1)?.split('"').next()?;
        Some(value.to_owned())
    };
    form.split("</form>")
        .next()
        .unwrap()
        .split("<input")
        .skip(1)
        .filter_map(|tag| Some((attribute(tag, "name")?, attribute(tag, "value")?)))
        .collect()
}

/// Follows the provider's redirects to the page at their end.
async fn settle(browser: &mut Browser, mut url: Url, mut answer: Response) -> String {
    while let Some(location) = answer.headers().get(LOCATION) {
        url = url.join(location.to_str().unwrap()).unwrap();
        answer = browser.get(url.clone()).await;
    }
    answer.text().await.unwrap()
}

/// What a user does with the code, as a browser would: opens the address that has it, and answers
/// what the provider asks.
pub(crate) async fn decide(started: &Value, yes: bool) {
    let mut browser = Browser::new();
    let url: Url = started["verification_uri_complete"].as_str().unwrap().parse().unwrap();
    let answer = browser.get(url.clone()).await;
    let page = settle(&mut browser, url.clone(), answer).await;
    let typed = fields(&page);
    assert!(
        typed.iter().any(|(name, value)| name == "user_code" && started["user_code"] == *value)
    );
    let answer = browser.post(url.clone(), &typed).await;
    let page = settle(&mut browser, url.clone(), answer).await;
    let mut confirmed = fields(&page);
    if !yes {
        confirmed.retain(|(name, _)| name != "confirm");
        confirmed.push(("abort".into(), "yes".into()));
    }
    let answer = browser.post(url.clone(), &confirmed).await;
    let page = settle(&mut browser, url, answer).await;
    let expected = if yes { "Sign-in Success" } else { "interrupted" };
    assert!(page.contains(expected), "{page}");
}

pub(crate) async fn start(replica: &Replica, provider: i64) -> Value {
    let body = json!({
        "user_id": "the-user", "provider_id": provider, "organization_id": "the-organization",
    });
    replica.post("/v1/device-links", body).await.good()
}

/// The device link once it has ended.
pub(crate) async fn ended(replica: &Replica, started: &Value) -> Value {
    let path = format!("/v1/device-links/{}", started["id"]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let link = replica.get(&path).await.good();
        if link["status"] != "pending" {
            return link;
        }
        assert!(Instant::now() < deadline, "it is pending still");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How often the provider was asked for this, and how often it gave tokens.
async fn polls(provider: &OidcProvider) -> (u64, u64) {
    let records = provider.records().await;
    let count = |of: &str| records[of][DEVICE_GRANT].as_u64().unwrap_or(0);
    (count("token_requests"), count("token_successes"))
}

async fn the_whole_way(kind: Kind) {
    let installation = Installation::new(kind).await;
    let provider = provider_for(&installation, 3600);
    let replica = installation.start().await;
    let id = replica.register(config(&provider)).await;

    let started = start(&replica, id).await;
    let verification = started["verification_uri"].as_str().unwrap();
    assert!(verification.starts_with(&provider.issuer), "{started}");
    let path = format!("/v1/device-links/{}", started["id"]);
    let shown = replica.get(&path).await.good();
    assert_eq!(shown, json!({"id": started["id"], "status": "pending"}));
    decide(&started, true).await;
    let linked = ended(&replica, &started).await;
    assert_eq!(linked["status"], "linked", "{linked}");
    let (asked, given) = polls(&provider).await;
    assert!(given == 1 && (1..=4).contains(&asked), "{asked} polls, {given} grants");

    // It is a link like any other: its token works, and it tells how it came to be.
    let identity = linked["identity_id"].as_i64().unwrap();
    let shown = replica.get(&format!("/v1/identities/{identity}")).await.good();
    assert_eq!((&shown["user_id"], &shown["external_id"]), (&json!("the-user"), &json!("alice")));
    // The organization on whose behalf it was asked for uses it.
    let of = "/v1/organizations/the-organization/users/the-user/identities?provider_type=oidc";
    assert_eq!(replica.get(of).await.good()["items"][0]["id"], identity);
    let token = replica.token(identity).await.good();
    let token = token["access_token"].as_str().unwrap();
    assert_eq!(provider.userinfo(token).await, StatusCode::OK);
    let refreshed = replica.post(&format!("/v1/identities/{identity}/refresh"), json!({})).await;
    assert_eq!(refreshed.good()["status"], "valid");
    let why = replica.get(&format!("/v1/identities/{identity}/explain")).await.good();
    assert!(why.to_string().contains("\"method\":\"device\""), "{why}");

    // Somebody who says no links nothing.
    let refused = start(&replica, id).await;
    decide(&refused, false).await;
    let failed = ended(&replica, &refused).await;
    let expected = json!({"id": refused["id"], "status": "failed", "error": "access_denied"});
    assert_eq!(failed, expected);

    // No device code and no token is in the log or lies in the database.
    let secrets = provider.secrets().await;
    assert!(secrets.len() >= 5, "codes and tokens of both");
    let log = String::from_utf8(installation.logged()).unwrap();
    let files = installation.database_files();
    for secret in secrets {
        assert!(!log.contains(&secret), "a secret is in the log");
        let bytes = secret.as_bytes();
        let kept = files.windows(bytes.len()).any(|it| it == bytes);
        assert!(!kept, "a secret is in the database");
    }
    replica.stop().await;
}

#[tokio::test]
async fn a_user_links_on_another_device_on_sqlite() {
    the_whole_way(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_user_links_on_another_device_on_postgresql() {
    the_whole_way(Kind::Postgres).await;
}

#[tokio::test]
async fn of_two_replicas_one_asks_and_the_link_is_made_once() {
    let installation = Installation::new(Kind::Postgres).await;
    let provider = provider_for(&installation, 3600);
    let first = installation.start().await;
    let second = installation.start_another().await;
    let id = first.register(config(&provider)).await;
    let started = start(&first, id).await;
    let begun = Instant::now();
    // Two polls at least, of which each would be two if both replicas asked.
    tokio::time::sleep(Duration::from_secs(12)).await;
    decide(&started, true).await;
    assert_eq!(ended(&second, &started).await["status"], "linked");
    let (asked, given) = polls(&provider).await;
    assert_eq!(given, 1);
    let most = begun.elapsed().as_secs() / 5;
    assert!((2..=most).contains(&asked), "{asked} polls in {most} intervals");
    first.stop().await;
    second.stop().await;
}
