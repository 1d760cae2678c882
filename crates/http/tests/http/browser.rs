use std::sync::Arc;

use axum::{
    body::Body,
    http::{Method, Request},
};
use symbolon_domain::{
    identity_provider::IdentityProvider,
    ids::ProviderId,
    link_session::{LinkSession, LinkSessionStatus, Purpose},
    page::Page,
    ports::{ConnectorError, MockConnector, RepositoryError, Sent},
    secret::SecretHash,
    testing::fixtures,
};

use crate::app::{Answer, App, Mocks, Ports};

/// What a session's address ends in, and what a browser's cookie holds.
const TOKEN: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_";
const BROWSER: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDE-_";

/// What every answer to a browser carries.
#[track_caller]
fn assert_protected(answer: &Answer) {
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-frame-options"), "DENY");
    assert_eq!(answer.header("cache-control"), "no-store");
}

/// Asserts that this is a page of ours, of this status, and gives its text.
#[track_caller]
fn page(answer: &Answer, status: u16) -> &str {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert!(answer.header("content-type").starts_with("text/html"), "{answer:?}");
    assert_protected(answer);
    for forbidden in ["<script", "http://", "https://", "src=", "@import", "style=\""] {
        assert!(!answer.body.contains(forbidden), "{forbidden} in {}", answer.body);
    }
    &answer.body
}

/// A session under [`TOKEN`], in front of a provider that answers this.
fn session(session: LinkSession, authorize: Result<(), ConnectorError>) -> Mocks {
    let mut mocks = Mocks::default();
    mocks
        .sessions
        .expect_find_by_token()
        .returning(move |token| Ok((*token == SecretHash::of(TOKEN)).then(|| session.clone())));
    provider(&mut mocks, authorize);
    mocks
}

fn provider(mocks: &mut Mocks, authorize: Result<(), ConnectorError>) {
    mocks.providers.expect_find_with_secrets().returning(|id| {
        let found = (fixtures::identity_provider(), fixtures::provider_secrets());
        Ok((id == fixtures::PROVIDER).then_some(found))
    });
    mocks.connectors.expect_connect().returning(move |_, _| {
        let mut connector = MockConnector::new();
        let authorize = authorize.clone();
        connector.expect_capabilities().return_const(fixtures::capabilities());
        connector.expect_new_dpop_key().return_const(None);
        connector.expect_authorize().returning(move |request| {
            authorize.clone()?;
            let state = request.state.expose();
            Ok(format!("https://op.example/authorize?state={state}").parse().unwrap())
        });
        Ok(Arc::new(connector))
    });
}

#[tokio::test]
async fn a_browser_is_sent_to_the_provider_with_a_cookie_of_its_own() {
    let mut mocks = session(fixtures::link_session(), Ok(()));
    mocks.sessions.expect_begin().return_once(|_, _| Ok(true));
    let answer = mocks.app().browse(&format!("/connect/{TOKEN}"), None).await;
    assert_eq!(answer.status, 303);
    assert!(answer.header("location").starts_with("https://op.example/authorize?state="));
    assert_protected(&answer);
    let cookie = answer.header("set-cookie");
    let (value, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(value.strip_prefix("__Host-symbolon=").unwrap().len(), 43);
    assert_eq!(attributes, "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure");
    assert_eq!(answer.body, "");
}

#[tokio::test]
async fn without_https_the_cookie_goes_without_what_needs_https() {
    let mocks = session(fixtures::link_session(), Ok(()));
    let mut sessions = mocks.sessions;
    sessions.expect_begin().return_once(|_, _| Ok(true));
    let app = Ports {
        sessions: Arc::new(sessions),
        providers: Arc::new(mocks.providers),
        connectors: Arc::new(mocks.connectors),
        public_url: "http://127.0.0.1:8080/",
        ..Ports::default()
    }
    .app();
    let answer = app.browse(&format!("/connect/{TOKEN}"), None).await;
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("symbolon="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{cookie}");
}

#[tokio::test]
async fn a_browser_keeps_its_cookie_over_all_its_sessions() {
    let mut mocks = session(fixtures::link_session(), Ok(()));
    mocks
        .sessions
        .expect_begin()
        .withf(|id, attempt| *id == fixtures::SESSION && attempt.browser == SecretHash::of(BROWSER))
        .return_once(|_, _| Ok(true));
    let cookie = format!("other=1; __Host-symbolon={BROWSER}");
    let answer = mocks.app().browse(&format!("/connect/{TOKEN}"), Some(&cookie)).await;
    let kept = answer.header("set-cookie");
    assert!(kept.starts_with(&format!("__Host-symbolon={BROWSER};")), "{kept}");
}

#[tokio::test]
async fn a_cookie_that_is_not_of_our_making_is_replaced() {
    for planted in ["__Host-symbolon=x", &format!("symbolon={BROWSER}")] {
        let mut mocks = session(fixtures::link_session(), Ok(()));
        mocks.sessions.expect_begin().return_once(|_, _| Ok(true));
        let answer = mocks.app().browse(&format!("/connect/{TOKEN}"), Some(planted)).await;
        let kept = answer.header("set-cookie");
        assert!(kept.starts_with("__Host-symbolon=") && !kept.contains(BROWSER), "{kept}");
    }
}

fn open_session() -> LinkSession {
    LinkSession { provider_id: None, ..fixtures::link_session() }
}

#[tokio::test]
async fn a_user_chooses_the_provider_on_a_page_of_ours() {
    let mut mocks = session(open_session(), Ok(()));
    mocks.connectors.expect_find_type().returning(|_| Some(fixtures::provider_type()));
    mocks.providers.expect_list().returning(|_, _| {
        let named = IdentityProvider {
            id: ProviderId(2),
            external_id: Some("<script>alert(1)</script>".into()),
            ..fixtures::identity_provider()
        };
        Ok(Page { items: vec![fixtures::identity_provider(), named], next: None })
    });
    mocks.sessions.expect_begin().times(1).return_once(|_, _| Ok(true));
    let app = mocks.app();

    let answer = app.browse(&format!("/connect/{TOKEN}"), None).await;
    let text = page(&answer, 200);
    assert!(text.contains("OpenID Connect") && text.contains("op.example"), "{text}");
    assert!(text.contains(r#"href="?provider_id=1""#), "{text}");
    assert!(text.contains("&lt;script&gt;"), "{text}");
    assert!(!text.contains(TOKEN), "{text}");

    let chosen = app.browse(&format!("/connect/{TOKEN}?provider_id=1&utm=x"), None).await;
    assert_eq!(chosen.status, 303, "{chosen:?}");
    for query in ["provider_id=", "provider_id=x", "provider_id=1&provider_id=2", "provider_id=-1"]
    {
        page(&app.browse(&format!("/connect/{TOKEN}?{query}"), None).await, 400);
    }
    page(&app.browse(&format!("/connect/{TOKEN}?provider_id=99"), None).await, 400);
}

#[tokio::test]
async fn a_choice_of_nothing_says_so() {
    let mut mocks = session(open_session(), Ok(()));
    mocks.providers.expect_list().returning(|_, _| Ok(Page { items: vec![], next: None }));
    page(&mocks.app().browse(&format!("/connect/{TOKEN}"), None).await, 200);
}

#[tokio::test]
async fn the_style_of_a_page_is_the_one_that_its_policy_allows() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let answer = Mocks::default().app().browse("/connect/x", None).await;
    let text = page(&answer, 400);
    let style = text.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    // `SecretHash` is a plain SHA-256.
    let hash = STANDARD.encode(SecretHash::of(style).0);
    assert!(answer.header("content-security-policy").contains(&format!("'sha256-{hash}'")));
    assert_eq!(text.matches("<style>").count(), 1);
}

#[tokio::test]
async fn an_address_that_is_not_good_any_more_says_what_to_do() {
    for (status, code) in [
        (LinkSessionStatus::Expired, 410),
        (LinkSessionStatus::Linked, 400),
        (LinkSessionStatus::Failed, 400),
        (LinkSessionStatus::AwaitingCompletion, 400),
    ] {
        let gone = LinkSession { status, ..fixtures::link_session() };
        let answer = session(gone, Ok(())).app().browse(&format!("/connect/{TOKEN}"), None).await;
        assert!(page(&answer, code).contains("start again"));
        assert_eq!(answer.header("set-cookie"), "");
    }
    let app = session(fixtures::link_session(), Ok(())).app();
    let other = TOKEN.replace('a', "b");
    page(&app.browse(&format!("/connect/{other}"), None).await, 400);
    for malformed in ["x", "%00", "%ff", &"a".repeat(5000)] {
        let answer = Mocks::default().app().browse(&format!("/connect/{malformed}"), None).await;
        assert!(answer.status == 400 || answer.status == 404, "{answer:?}");
    }
}

#[tokio::test]
async fn the_browser_that_began_goes_on_and_another_does_not() {
    let mut mocks = session(fixtures::link_session(), Ok(()));
    mocks.sessions.expect_begin().return_once(|_, _| Ok(false));
    let answer = mocks.app().browse(&format!("/connect/{TOKEN}"), None).await;
    assert!(page(&answer, 400).contains("another browser"));
    assert_eq!(answer.header("set-cookie"), "");
}

#[tokio::test]
async fn a_failing_provider_has_a_page_to_try_again_from_and_its_words_are_not_shown() {
    for (error, status, retry_after) in [
        (
            ConnectorError::Unavailable {
                detail: "canary".into(),
                retry_after: Some(std::time::Duration::from_millis(1500)),
                sent: Sent::No,
            },
            503,
            "2",
        ),
        (ConnectorError::Misconfigured { detail: "canary".into() }, 502, ""),
        (ConnectorError::ClientRejected { code: "canary".into() }, 502, ""),
        (ConnectorError::GrantRejected { code: "canary".into() }, 502, ""),
        (ConnectorError::Untrusted { detail: "canary".into() }, 503, "5"),
    ] {
        let app = session(fixtures::link_session(), Err(error)).app();
        let answer = app.browse(&format!("/connect/{TOKEN}"), None).await;
        let text = page(&answer, status);
        assert!(text.contains("Try again") && !text.contains("canary"), "{text}");
        assert!(text.contains(answer.header("x-request-id")), "{text}");
        assert_eq!(answer.header("retry-after"), retry_after);
    }
    let mut mocks = Mocks::default();
    mocks
        .sessions
        .expect_find_by_token()
        .return_once(|_| Err(RepositoryError::Store("canary".into())));
    let answer = mocks.app().browse(&format!("/connect/{TOKEN}"), None).await;
    assert!(!page(&answer, 500).contains("canary"));
}

#[tokio::test]
async fn who_only_looks_at_an_address_does_not_set_out() {
    let app = Mocks::default().app();
    for path in [format!("/connect/{TOKEN}"), "/callback/1?state=s&code=c".to_owned()] {
        let request = Request::head(path).body(Body::empty());
        let answer = app.send(request.unwrap()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("set-cookie"), "");
        assert_protected(&answer);
    }
}

/// A session whose trip went to the fixtures' provider from [`BROWSER`].
fn trip(session: LinkSession) -> Mocks {
    let mut mocks = Mocks::default();
    mocks.sessions.expect_find_by_state().returning(move |state| {
        let began = (session.clone(), fixtures::PROVIDER, SecretHash::of(BROWSER));
        Ok((*state == SecretHash::of("state-1")).then_some(began))
    });
    mocks
}

fn cookie() -> String {
    format!("__Host-symbolon={BROWSER}")
}

async fn callback(app: &App, query: &str) -> Answer {
    app.browse(&format!("/callback/1?{query}"), Some(&cookie())).await
}

#[tokio::test]
async fn a_response_that_makes_no_sense_uses_nothing_up() {
    // No expectation: not even the session is looked up.
    let app = Mocks::default().app();
    for query in [
        "",
        "state=state-1",
        "code=c",
        "state=&code=c",
        "state=state-1&code=",
        "state=state-1&code=c&error=access_denied",
        "state=state-1&state=state-1&code=c",
        "state=state-1&code=c&code=c",
        "state=state-1&error=a&error=b",
        "state=state-1&code=c&iss=a&iss=b",
        "state=state-1&code=c&unknown=a&unknown=b",
        "state=state-1&code=c&%73tate=x",
    ] {
        page(&callback(&app, query).await, 400);
    }
    for provider in ["x", "0", "-1", "%ff"] {
        let path = format!("/callback/{provider}?state=state-1&code=c");
        let answer = app.browse(&path, Some(&cookie())).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{answer:?}");
    }
}

#[tokio::test]
async fn a_response_that_is_not_this_browsers_uses_nothing_up() {
    let app = trip(fixtures::link_session()).app();
    page(&callback(&app, "state=another&code=c").await, 400);
    page(&app.browse("/callback/1?state=state-1&code=c", None).await, 400);
    let other = format!("__Host-symbolon={}", BROWSER.replace('0', "1"));
    let answer = app.browse("/callback/1?state=state-1&code=c", Some(&other)).await;
    assert!(page(&answer, 400).contains("another browser"));
    let answer = app.browse("/callback/2?state=state-1&code=c", Some(&cookie())).await;
    page(&answer, 400);

    let expired = LinkSession { status: LinkSessionStatus::Expired, ..fixtures::link_session() };
    page(&callback(&trip(expired).app(), "state=state-1&code=c").await, 410);
}

/// The trip's end at a provider that is never asked for tokens.
fn refused_trip() -> Mocks {
    let mut mocks = trip(fixtures::link_session());
    mocks
        .providers
        .expect_find_with_secrets()
        .returning(|_| Ok(Some((fixtures::identity_provider(), fixtures::provider_secrets()))));
    mocks.connectors.expect_connect().returning(|_, _| {
        let mut connector = MockConnector::new();
        connector.expect_check_issuer().returning(|_, _| Ok(()));
        Ok(Arc::new(connector))
    });
    mocks.sessions.expect_take_attempt().return_once(|_, _| Ok(Some(fixtures::attempt_proof())));
    mocks.sessions.expect_fail().return_once(|_, _| Ok(true));
    mocks
}

#[tokio::test]
async fn a_providers_refusal_goes_to_the_product_in_our_words() {
    let query = "state=state-1&error=access_denied&error_description=canary&error_uri=canary";
    let answer = callback(&refused_trip().app(), query).await;
    assert_eq!(answer.status, 303);
    assert_eq!(
        answer.header("location"),
        "https://product.example/linked?session_id=1&status=failed&error=access_denied"
    );
    assert_protected(&answer);
}

#[tokio::test]
async fn a_posted_response_comes_again_by_get_and_then_has_the_cookie() {
    let app = Mocks::default().app();
    let post = async |body: String| {
        let request = Request::post("/callback/1")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(body));
        app.send(request.unwrap()).await
    };
    let answer = post("state=s%26t&code=c+d&iss=https://op.example&user=%7B%7D".into()).await;
    assert_eq!(answer.status, 303);
    assert_protected(&answer);
    let location = answer.header("location");
    let base = "https://symbolon.example/callback/1?";
    assert_eq!(
        location.strip_prefix(base).unwrap(),
        "user=%7B%7D&state=s%26t&code=c+d&iss=https%3A%2F%2Fop.example"
    );

    for malformed in ["", "state=s&code=a&code=b", "state=s&code=a&error=b", "code=a"] {
        page(&post(malformed.into()).await, 400);
    }
    page(&post(format!("state=s&code={}", "c".repeat(64 * 1024))).await, 400);
}

#[tokio::test]
async fn a_session_for_signing_in_is_not_sent_to_who_cannot_vouch() {
    let mut mocks = Mocks::default();
    let signing_in = LinkSession { purpose: Purpose::SignIn, ..open_session() };
    mocks.sessions.expect_find_by_token().return_once(move |_| Ok(Some(signing_in)));
    mocks
        .providers
        .expect_find_with_secrets()
        .returning(|_| Ok(Some((fixtures::identity_provider(), fixtures::provider_secrets()))));
    mocks.connectors.expect_connect().returning(|_, _| {
        let mut connector = MockConnector::new();
        let mut capabilities = fixtures::capabilities();
        capabilities.sign_in = false;
        connector.expect_capabilities().return_const(capabilities);
        Ok(Arc::new(connector))
    });
    let path = format!("/connect/{TOKEN}?provider_id=1");
    page(&mocks.app().browse(&path, None).await, 400);
}

#[tokio::test]
async fn a_wrong_method_is_a_problem_and_no_page() {
    let app = Mocks::default().app();
    for (method, path) in
        [(Method::POST, format!("/connect/{TOKEN}")), (Method::PUT, "/callback/1".into())]
    {
        app.call(method, &path, None).await.problem(405, "method_not_allowed");
    }
}
