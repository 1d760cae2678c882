use reqwest::StatusCode;
use symbolon_sandbox::{Client, Endpoint, Fault, SandboxSettings, Times};

use crate::relying_party::{REDIRECT_URI, start, start_with};

/// That a page brings nothing along but itself.
fn assert_self_contained(page: &str) {
    let markup = page.split("</style>").nth(1).unwrap();
    for foreign in ["<script", "javascript:", " on", "src=", "url(http", "@import", "style=\""] {
        let found = markup.match_indices(foreign).any(|(at, _)| {
            // Words in a sentence may start with "on"; an attribute is followed by "=".
            foreign != " on" || markup[at..].split(['>', ' ']).nth(1).unwrap().contains("=\"")
        });
        assert!(!found, "{foreign} in {markup}");
    }
    assert!(!page.contains("@import") && !page.contains("url(http"));
}

#[tokio::test]
async fn pages_are_self_contained_and_say_that_this_is_a_sandbox() {
    let rp = start().await;
    for url in [
        rp.authorization_url(&[]),
        rp.authorization_url(&[("client_id", "nobody")]),
        rp.url("/"),
        rp.url("/nowhere"),
    ] {
        let response = rp.get(&url).await;
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let page = response.text().await.unwrap();
        assert_self_contained(&page);
        assert!(page.contains("This is a sandbox on this machine."));
        assert!(page.contains("no real account is involved"));
    }
}

#[tokio::test]
async fn the_page_offers_every_account_and_a_way_out() {
    let rp = start().await;
    let page = rp.get(&rp.authorization_url(&[])).await.text().await.unwrap();
    for text in ["The Shop", "Ada Lovelace", "grace@compiler.example", "127.0.0.1:9"] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(page.matches("name=\"account\"").count(), 3);
    assert_eq!(page.matches("name=\"cancel\"").count(), 1);
    assert_eq!(page.matches("not verified").count(), 1);
    assert!(!page.contains("autofocus"));
}

#[tokio::test]
async fn a_login_hint_preselects_an_account() {
    let rp = start().await;
    for hint in ["grace", "Grace@Compiler.example"] {
        let url = rp.authorization_url(&[("login_hint", hint)]);
        let page = rp.get(&url).await.text().await.unwrap();
        assert_eq!(page.matches("autofocus").count(), 1);
        let button = page.split("<button").find(|it| it.contains("autofocus")).unwrap();
        assert!(button.contains("value=\"grace\""), "{button}");
    }
}

#[tokio::test]
async fn a_hostile_name_is_only_text() {
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    let client = Client {
        name: hostile.to_owned(),
        redirect_uris: vec![REDIRECT_URI.to_owned()],
        ..Client::new("shop")
    };
    let rp =
        start_with(SandboxSettings { clients: vec![client], ..SandboxSettings::default() }).await;
    for url in [
        rp.authorization_url(&[]),
        rp.authorization_url(&[("redirect_uri", hostile)]),
        rp.authorization_url(&[("client_id", hostile)]),
        rp.authorization_url(&[("state", hostile), ("login_hint", hostile)]),
    ] {
        let page = rp.get(&url).await.text().await.unwrap();
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
    }
}

#[tokio::test]
async fn the_form_may_lead_wherever_a_client_is() {
    let client = Client {
        redirect_uris: vec![REDIRECT_URI.to_owned(), "com.example.app:/callback".to_owned()],
        ..Client::new("shop")
    };
    let rp =
        start_with(SandboxSettings { clients: vec![client], ..SandboxSettings::default() }).await;
    for (redirect_uri, expected) in [
        (REDIRECT_URI, "form-action http: https:;"),
        ("com.example.app:/callback", "form-action http: https: com.example.app:;"),
    ] {
        let response = rp.get(&rp.authorization_url(&[("redirect_uri", redirect_uri)])).await;
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains(expected), "{policy}");
    }
    let home = rp.get(&rp.url("/")).await;
    let policy = home.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'none'"), "{policy}");
}

#[tokio::test]
async fn the_first_page_tells_what_is_set_and_what_was_seen() {
    let rp = start().await;
    rp.sandbox.faults().inject(Endpoint::Refresh, Fault::DropAfter, Times::Next(2)).unwrap();
    rp.get(&rp.url("/jwks")).await;
    let home = rp.get(&rp.url("/")).await;
    assert_eq!(home.status(), StatusCode::OK);
    let page = home.text().await.unwrap();
    for text in [rp.sandbox.issuer(), "drop_after", "2 more", "jwks", "1 requests"] {
        assert!(page.contains(text), "{text}");
    }
    let secret = rp.sandbox.client_secret();
    assert!(!page.contains(&secret));
}
