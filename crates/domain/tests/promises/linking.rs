//! The callback binds nothing; only the user who is signed in at the product is linked.

use std::{collections::HashMap, sync::Arc, time::Duration};

use symbolon_domain::{
    Error,
    event::EventKind,
    identity::IdentityFilter,
    ids::{LinkSessionId, ProviderId},
    link_session::{LinkFailure, LinkSessionStatus, Purpose},
    page::PageRequest,
    ports::{IdentityProviderRepository, IdentityRepository, LinkSessionRepository},
    secret::Secret,
    services::{
        AuthorizationResponse, BrowserError, LinkSettings, Linking, Opened, ReturnUrls, StartLink,
        TokenNeed,
    },
    testing::fixtures,
};
use url::Url;

use crate::world::World;

const RETURN_URL: &str = "https://app.example/accounts?tab=links";

fn linking(world: &World) -> Linking {
    Linking {
        sessions: world.store.clone(),
        identities: world.store.clone(),
        auth_providers: world.store.clone(),
        auth_identities: world.store.clone(),
        providers: world.providers.clone(),
        clock: world.clock.clone(),
        tasks: world.tasks.clone(),
        settings: Arc::new(LinkSettings {
            public_url: Url::parse("https://links.example/base/").unwrap(),
            return_urls: ReturnUrls::new(["https://app.example/accounts"]).unwrap(),
            session_ttl: Duration::from_mins(10),
        }),
    }
}

fn start(world: &World) -> StartLink {
    StartLink {
        purpose: Purpose::Link,
        user_id: Some(fixtures::user("user-1")),
        provider_id: Some(world.provider_id),
        organization_id: None,
        return_url: RETURN_URL.into(),
        scopes: vec![],
        login_hint: None,
        reattach: false,
        auto_complete: false,
        actor: fixtures::ACTOR,
    }
}

fn sign_in(world: &World) -> StartLink {
    StartLink { purpose: Purpose::SignIn, user_id: None, ..start(world) }
}

fn query(url: &Url) -> HashMap<String, String> {
    url.query_pairs().into_owned().collect()
}

/// A trip on its way: what the provider would send back, and the browser that began it.
struct Trip {
    id: LinkSessionId,
    token: String,
    state: Secret,
    browser: Secret,
}

async fn begin(linking: &Linking, start: StartLink) -> Trip {
    let (session, url) = linking.start(start).await.unwrap();
    let token = url.path_segments().unwrap().next_back().unwrap().to_owned();
    let Opened::Redirect { to, browser } = linking.open(&token, None, None).await.unwrap() else {
        panic!("the provider is known");
    };
    let state = Secret::new(query(&to)["state"].as_str());
    Trip { id: session.id, token, state, browser }
}

fn code(trip: &Trip, account: &str) -> AuthorizationResponse {
    AuthorizationResponse {
        state: Some(trip.state.clone()),
        code: Some(Secret::new(account)),
        ..AuthorizationResponse::default()
    }
}

/// Walks through to the product's page and gives what the browser brings there.
async fn walk(world: &World, linking: &Linking, start: StartLink) -> (Trip, Secret) {
    let trip = begin(linking, start).await;
    let back = linking
        .receive(world.provider_id, code(&trip, "account-1"), Some(trip.browser.clone()))
        .await
        .unwrap();
    let back = query(&back);
    assert_eq!(back["tab"], "links");
    assert_eq!(back["session_id"], trip.id.to_string());
    (trip, Secret::new(back["completion_code"].as_str()))
}

async fn linked(world: &World) -> usize {
    let filter =
        IdentityFilter { provider_id: Some(world.provider_id), ..IdentityFilter::default() };
    let page = PageRequest::default();
    IdentityRepository::list(&*world.store, &filter, page).await.unwrap().items.len()
}

#[tokio::test]
async fn the_callback_binds_nothing_and_completion_links() {
    let world = World::new().await;
    let linking = linking(&world);
    let (trip, code) = walk(&world, &linking, start(&world)).await;
    assert_eq!(linked(&world).await, 0);
    let user = Some(fixtures::user("user-1"));
    let completed = linking.complete(trip.id, &code, user, fixtures::ACTOR).await.unwrap();
    assert_eq!(completed.status, LinkSessionStatus::Linked);
    assert_eq!(completed.profile["email"], "account-1@scripted.example");
    let identity = world.find(completed.identity_id.unwrap()).await;
    assert_eq!(identity.external_id.as_str(), "account-1");
    let session = LinkSessionRepository::find(&*world.store, trip.id).await.unwrap().unwrap();
    assert_eq!(session.status, LinkSessionStatus::Linked);
    let answer = world.replica("a").issue(identity.id, &TokenNeed::default()).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
}

#[tokio::test]
async fn a_link_that_one_person_started_and_another_finished_is_refused() {
    let world = World::new().await;
    let linking = linking(&world);
    // The attacker sends the victim the address; the victim consents and comes to the product.
    let (trip, code) = walk(&world, &linking, start(&world)).await;
    let victim = Some(fixtures::user("victim"));
    for user in [victim, None] {
        let error = linking.complete(trip.id, &code, user, fixtures::ACTOR).await.unwrap_err();
        assert!(matches!(error, Error::InvalidRequest { field, .. } if field == "user_id"));
    }
    assert_eq!(linked(&world).await, 0);
}

#[tokio::test]
async fn a_completion_code_works_once_and_only_for_its_session() {
    let world = World::new().await;
    let linking = linking(&world);
    let (trip, code) = walk(&world, &linking, start(&world)).await;
    let user = || Some(fixtures::user("user-1"));
    let wrong = linking.complete(trip.id, &Secret::random(), user(), fixtures::ACTOR).await;
    assert!(
        matches!(wrong, Err(Error::InvalidRequest { field, .. }) if field == "completion_code")
    );
    linking.complete(trip.id, &code, user(), fixtures::ACTOR).await.unwrap();
    let again = linking.complete(trip.id, &code, user(), fixtures::ACTOR).await;
    assert!(
        matches!(again, Err(Error::InvalidRequest { field, .. }) if field == "completion_code")
    );
    let nobody = linking.complete(LinkSessionId(999), &code, user(), fixtures::ACTOR).await;
    assert!(matches!(nobody, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_response_in_another_browser_uses_nothing_up() {
    let world = World::new().await;
    let linking = linking(&world);
    let trip = begin(&linking, start(&world)).await;
    for browser in [None, Some(Secret::random())] {
        let refused = linking.receive(world.provider_id, code(&trip, "account-1"), browser).await;
        assert!(matches!(refused, Err(BrowserError::OtherBrowser)));
    }
    let browser = Some(trip.browser.clone());
    linking.receive(world.provider_id, code(&trip, "account-1"), browser).await.unwrap();
}

#[tokio::test]
async fn an_address_that_one_browser_opened_is_of_no_use_in_another() {
    let world = World::new().await;
    let linking = linking(&world);
    let trip = begin(&linking, start(&world)).await;
    let other = linking.open(&trip.token, None, None).await;
    assert!(matches!(other, Err(BrowserError::OtherBrowser)));
    // The same browser may start again, and then only the new trip counts.
    let again = linking.open(&trip.token, Some(trip.browser.clone()), None).await.unwrap();
    assert!(matches!(again, Opened::Redirect { .. }));
    let old = linking
        .receive(world.provider_id, code(&trip, "account-1"), Some(trip.browser.clone()))
        .await;
    assert!(matches!(old, Err(BrowserError::Unknown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_equal_callbacks_one_is_taken() {
    let world = World::new().await;
    let linking = linking(&world);
    let trip = Arc::new(begin(&linking, start(&world)).await);
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (linking, trip, id) = (linking.clone(), trip.clone(), world.provider_id);
            tokio::spawn(async move {
                let browser = Some(trip.browser.clone());
                linking.receive(id, code(&trip, "account-1"), browser).await.is_ok()
            })
        })
        .collect();
    let mut taken = 0;
    for caller in callers {
        taken += usize::from(caller.await.unwrap());
    }
    assert_eq!(taken, 1);
}

#[tokio::test]
async fn a_response_at_another_providers_address_is_refused() {
    let world = World::new().await;
    let linking = linking(&world);
    let trip = begin(&linking, start(&world)).await;
    let browser = Some(trip.browser.clone());
    let mixed = linking.receive(ProviderId(999), code(&trip, "account-1"), browser).await;
    assert!(matches!(mixed, Err(BrowserError::Malformed)));
}

#[tokio::test]
async fn a_missing_state_never_matches() {
    let world = World::new().await;
    let linking = linking(&world);
    let trip = begin(&linking, start(&world)).await;
    for state in [None, Some(Secret::new("")), Some(Secret::random())] {
        let response = AuthorizationResponse { state, ..code(&trip, "account-1") };
        let browser = Some(trip.browser.clone());
        assert!(linking.receive(world.provider_id, response, browser).await.is_err());
    }
    assert_eq!(linked(&world).await, 0);
}

#[tokio::test]
async fn an_issuer_that_was_seen_once_is_required_from_then_on() {
    let world = World::new().await;
    let linking = linking(&world);
    let receive = async |issuer: Option<&str>| {
        let trip = begin(&linking, start(&world)).await;
        let response =
            AuthorizationResponse { issuer: issuer.map(str::to_owned), ..code(&trip, "account-1") };
        let url = linking.receive(world.provider_id, response, Some(trip.browser)).await.unwrap();
        let mut back = query(&url);
        (back.remove("status").unwrap(), back.remove("error"))
    };
    let untrusted = ("failed".to_owned(), Some("untrusted_response".to_owned()));
    assert_eq!(receive(None).await.0, "awaiting_completion");
    assert_eq!(receive(Some("https://evil.example")).await, untrusted);
    assert_eq!(receive(Some("https://scripted.example")).await.0, "awaiting_completion");
    assert_eq!(receive(None).await, untrusted);
    let provider =
        IdentityProviderRepository::find(&*world.store, world.provider_id).await.unwrap();
    assert!(provider.unwrap().names_issuer);
}

#[tokio::test]
async fn what_the_provider_refuses_comes_back_to_the_product_in_our_words() {
    let world = World::new().await;
    let linking = linking(&world);
    for (error, expected) in [
        ("access_denied", LinkFailure::AccessDenied),
        ("login_required", LinkFailure::AccessDenied),
        ("temporarily_unavailable", LinkFailure::ProviderUnavailable),
        ("invalid_scope", LinkFailure::ProviderMisconfigured),
        ("<script>alert(1)</script>", LinkFailure::ProviderMisconfigured),
    ] {
        let trip = begin(&linking, start(&world)).await;
        let response = AuthorizationResponse {
            state: Some(trip.state.clone()),
            error: Some(error.into()),
            ..AuthorizationResponse::default()
        };
        let url = linking.receive(world.provider_id, response, Some(trip.browser)).await.unwrap();
        let back = query(&url);
        assert_eq!(back["status"], "failed");
        assert_eq!(back["error"], expected.as_str());
        assert!(!back.contains_key("completion_code"));
        let session = LinkSessionRepository::find(&*world.store, trip.id).await.unwrap().unwrap();
        assert_eq!(session.error, Some(expected));
    }
    assert_eq!(world.events(EventKind::LinkSessionFailed).await.len(), 5);
}

#[tokio::test]
async fn a_refused_code_fails_the_session_and_links_nothing() {
    let world = World::new().await;
    let linking = linking(&world);
    let trip = begin(&linking, start(&world)).await;
    let browser = Some(trip.browser.clone());
    let url = linking.receive(world.provider_id, code(&trip, "refused"), browser).await.unwrap();
    assert_eq!(query(&url)["error"], "untrusted_response");
}

#[tokio::test]
async fn a_session_that_ran_out_is_refused_everywhere() {
    let world = World::new().await;
    let linking = linking(&world);
    let trip = begin(&linking, start(&world)).await;
    let (other, completion) = walk(&world, &linking, start(&world)).await;
    world.clock.advance(chrono::TimeDelta::minutes(11));
    let open = linking.open(&trip.token, Some(trip.browser.clone()), None).await;
    assert!(matches!(open, Err(BrowserError::Expired)));
    let browser = Some(trip.browser.clone());
    let received = linking.receive(world.provider_id, code(&trip, "account-1"), browser).await;
    assert!(matches!(received, Err(BrowserError::Expired)));
    let user = Some(fixtures::user("user-1"));
    let completed = linking.complete(other.id, &completion, user, fixtures::ACTOR).await;
    assert!(matches!(completed, Err(Error::InvalidRequest { problem, .. })
        if problem.contains("expired")));
    assert_eq!(linked(&world).await, 0);
}

#[tokio::test]
async fn another_users_account_is_a_conflict_unless_taking_it_over_was_asked_for() {
    let world = World::new().await;
    let linking = linking(&world);
    let owned = world.identity().await;
    let other = || Some(fixtures::user("user-2"));
    let asked = StartLink { user_id: other(), ..start(&world) };
    let (trip, code) = walk(&world, &linking, asked.clone()).await;
    let taken = linking.complete(trip.id, &code, other(), fixtures::ACTOR).await;
    assert!(matches!(taken, Err(Error::IdentityAlreadyLinked(_))));
    assert_eq!(world.find(owned).await.user_id, fixtures::user("user-1"));
    let session = LinkSessionRepository::find(&*world.store, trip.id).await.unwrap().unwrap();
    assert_eq!(session.error, Some(LinkFailure::IdentityAlreadyLinked));

    let asked = StartLink { reattach: true, ..asked };
    let (trip, code) = walk(&world, &linking, asked).await;
    let completed = linking.complete(trip.id, &code, other(), fixtures::ACTOR).await.unwrap();
    assert_eq!(completed.identity_id, Some(owned));
    assert_eq!(world.find(owned).await.user_id, fixtures::user("user-2"));
    assert_eq!(world.events(EventKind::IdentityRebound).await.len(), 1);
}

#[tokio::test]
async fn a_sign_in_finds_the_accounts_owner() {
    let world = World::new().await;
    let linking = linking(&world);
    let id = world.identity().await;
    let (trip, code) = walk(&world, &linking, sign_in(&world)).await;
    let completed = linking.complete(trip.id, &code, None, fixtures::ACTOR).await.unwrap();
    assert_eq!(completed.status, LinkSessionStatus::SignedIn);
    assert_eq!(completed.identity_id, Some(id));
    assert_eq!(completed.user_id, Some(fixtures::user("user-1")));
}

#[tokio::test]
async fn a_sign_in_of_nobody_is_unlinked_and_a_second_completion_links_it() {
    let world = World::new().await;
    let linking = linking(&world);
    let (trip, code) = walk(&world, &linking, sign_in(&world)).await;
    let first = linking.complete(trip.id, &code, None, fixtures::ACTOR).await.unwrap();
    assert_eq!(first.status, LinkSessionStatus::Unlinked);
    assert_eq!((first.identity_id, first.user_id), (None, None));
    assert_eq!(first.profile["name"], "account-1");
    let user = Some(fixtures::user("new-user"));
    let second = linking.complete(trip.id, &code, user.clone(), fixtures::ACTOR).await.unwrap();
    assert_eq!((second.status, &second.user_id), (LinkSessionStatus::Linked, &user));
    let third = linking.complete(trip.id, &code, user, fixtures::ACTOR).await;
    assert!(third.is_err());
}

#[tokio::test]
async fn a_product_that_vouches_for_the_browser_gets_it_completed() {
    let world = World::new().await;
    let linking = linking(&world);
    let trip = begin(&linking, StartLink { auto_complete: true, ..start(&world) }).await;
    let browser = Some(trip.browser.clone());
    let url = linking.receive(world.provider_id, code(&trip, "account-1"), browser).await.unwrap();
    let back = query(&url);
    assert_eq!(back["status"], "linked");
    assert!(!back.contains_key("completion_code"));
    assert_eq!(linked(&world).await, 1);
    let nobody = StartLink { user_id: None, auto_complete: true, ..start(&world) };
    let refused = linking.start(nobody).await;
    assert!(matches!(refused, Err(Error::InvalidRequest { field, .. }) if field == "user_id"));
}

#[tokio::test]
async fn without_a_provider_the_user_chooses() {
    let world = World::new().await;
    let linking = linking(&world);
    let open = StartLink { provider_id: None, ..start(&world) };
    let (_, url) = linking.start(open).await.unwrap();
    assert!(url.as_str().starts_with("https://links.example/base/connect/"));
    let token = url.path_segments().unwrap().next_back().unwrap();
    let Opened::Choose(providers) = linking.open(token, None, None).await.unwrap() else {
        panic!("nothing was chosen yet");
    };
    assert_eq!(providers[0].id, world.provider_id);
    let chosen = linking.open(token, None, Some(world.provider_id)).await.unwrap();
    assert!(matches!(chosen, Opened::Redirect { .. }));
}

#[tokio::test]
async fn a_start_that_cannot_end_well_is_refused_by_field() {
    let world = World::new().await;
    let linking = linking(&world);
    for (bad, name) in [
        (StartLink { return_url: "https://evil.example/".into(), ..start(&world) }, "return_url"),
        (StartLink { provider_id: Some(ProviderId(999)), ..start(&world) }, "provider_id"),
    ] {
        let refused = linking.start(bad).await;
        assert!(matches!(refused, Err(Error::InvalidRequest { field, .. }) if field == name));
    }
}
