//! The callback binds nothing; only the user who is signed in at the product is linked.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use symbolon_domain::{
    Error,
    event::EventKind,
    identity::IdentityFilter,
    ids::{LinkSessionId, ProviderId, UserId},
    link_session::{LinkFailure, LinkSessionStatus, Purpose},
    page::PageRequest,
    ports::{
        IdentityProviderRepository, IdentityRepository, LinkSessionRepository, NewIdentityProvider,
    },
    secret::Secret,
    services::{
        AuthorizationResponse, BrowserError, LinkSettings, Linking, NewIdentity, Opened,
        ProviderKey, ReturnUrls, StartLink, TokenNeed,
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

/// Who has linked `account-1`, if exactly one user has.
async fn owner(world: &World) -> String {
    let filter =
        IdentityFilter { provider_id: Some(world.provider_id), ..IdentityFilter::default() };
    let page = PageRequest::default();
    let rows = IdentityRepository::list(&*world.store, &filter, page).await.unwrap().items;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    row.user_id.as_str().to_owned()
}

fn racing_user(racer: usize) -> UserId {
    fixtures::user(&format!("user-{}", racer % 2))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_trusted_links_of_one_account_to_two_users_one_user_gets_it() {
    let world = World::new().await;
    let racers: Vec<_> = (0..64)
        .map(|racer| {
            let (identities, provider_id) = (world.identities.clone(), world.provider_id);
            tokio::spawn(async move {
                let new = NewIdentity {
                    provider_id,
                    user_id: racing_user(racer),
                    external_id: fixtures::external_id("account-1"),
                    legacy_id: None,
                    data: serde_json::Map::new(),
                    scopes: vec![],
                    reattach: false,
                };
                (racer, identities.link(new, fixtures::ACTOR).await)
            })
        })
        .collect();
    let mut results = Vec::new();
    for racer in racers {
        results.push(racer.await.unwrap());
    }
    let owner = owner(&world).await;
    for (racer, result) in results {
        let won = racing_user(racer).as_str() == owner;
        match result {
            Ok(_) => assert!(won),
            Err(Error::IdentityAlreadyLinked(_)) => assert!(!won),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_completions_of_one_account_by_two_users_one_user_gets_it() {
    let world = World::new().await;
    let linking = linking(&world);
    let mut walked = Vec::new();
    for racer in 0..64 {
        let start = StartLink { user_id: Some(racing_user(racer)), ..start(&world) };
        walked.push(walk(&world, &linking, start).await);
    }
    let racers: Vec<_> = walked
        .into_iter()
        .enumerate()
        .map(|(racer, (trip, code))| {
            let linking = linking.clone();
            tokio::spawn(async move {
                let user = Some(racing_user(racer));
                (racer, linking.complete(trip.id, &code, user, fixtures::ACTOR).await)
            })
        })
        .collect();
    let mut results = Vec::new();
    for racer in racers {
        results.push(racer.await.unwrap());
    }
    let owner = owner(&world).await;
    for (racer, result) in results {
        let won = racing_user(racer).as_str() == owner;
        match result {
            Ok(completed) => {
                assert!(won);
                assert_eq!(completed.status, LinkSessionStatus::Linked);
            }
            Err(Error::IdentityAlreadyLinked(_)) => assert!(!won),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_callbacks_that_complete_by_themselves_one_user_gets_the_account() {
    let world = World::new().await;
    let linking = linking(&world);
    let mut trips = Vec::new();
    for racer in 0..64 {
        let user_id = Some(racing_user(racer));
        let start = StartLink { user_id, auto_complete: true, ..start(&world) };
        trips.push(begin(&linking, start).await);
    }
    let racers: Vec<_> = trips
        .into_iter()
        .enumerate()
        .map(|(racer, trip)| {
            let (linking, provider) = (linking.clone(), world.provider_id);
            tokio::spawn(async move {
                let response = code(&trip, "account-1");
                let back = linking.receive(provider, response, Some(trip.browser)).await.unwrap();
                (racer, query(&back))
            })
        })
        .collect();
    let mut results = Vec::new();
    for racer in racers {
        results.push(racer.await.unwrap());
    }
    let owner = owner(&world).await;
    for (racer, back) in results {
        let won = racing_user(racer).as_str() == owner;
        assert_eq!(back["status"] == "linked", won, "{back:?}");
        assert_eq!(back.get("error").map(String::as_str) == Some("identity_already_linked"), !won);
    }
}

#[tokio::test]
async fn the_first_identity_is_found_and_others_are_told_of() {
    let world = World::new().await;
    let first = world.identity().await;
    let link = symbolon_domain::ports::Link {
        provider_id: world.provider_id,
        owner: fixtures::owner("user-2"),
        external_id: fixtures::external_id("account-2"),
        ..fixtures::link()
    };
    world.store.link(&link).await.unwrap();
    let at = IdentityFilter { provider_id: Some(world.provider_id), ..IdentityFilter::default() };
    let found = world.identities.first(&at).await.unwrap().unwrap();
    assert_eq!((found.identity.id, found.others), (first, true));
    let of_user = IdentityFilter { user_id: Some(fixtures::user("user-1")), ..at.clone() };
    assert!(!world.identities.first(&of_user).await.unwrap().unwrap().others);
    let nobody = IdentityFilter { user_id: Some(fixtures::user("nobody")), ..at };
    assert_eq!(world.identities.first(&nobody).await.unwrap(), None);
    let none = world.identities.first(&IdentityFilter::default()).await;
    assert!(matches!(none, Err(Error::FilterRequired)));
}

#[tokio::test]
async fn a_users_identities_are_found_by_provider_type_over_all_instances() {
    let world = World::new().await;
    let mut found = vec![world.identity().await];
    // A team that was stored where a user belongs, and a user beside it, at an instance of that
    // name; and an account of another type.
    for (kind, instance, user, account) in [
        ("scripted", "team-1", "user-1", "team-1"),
        ("scripted", "team-2", "user-1", "account-2"),
        ("scripted", "team-3", "user-2", "account-3"),
        ("other", "team-4", "user-1", "account-4"),
    ] {
        let new = NewIdentityProvider {
            provider_type: kind.into(),
            external_id: Some(instance.into()),
            ..fixtures::new_identity_provider()
        };
        let at = IdentityProviderRepository::insert(&*world.store, &new, &fixtures::ACTOR).await;
        let link = symbolon_domain::ports::Link {
            provider_id: at.unwrap().id,
            owner: fixtures::owner(user),
            external_id: fixtures::external_id(account),
            ..fixtures::link()
        };
        match world.store.link(&link).await.unwrap() {
            symbolon_domain::ports::LinkOutcome::Created(it) => found.push(it.id),
            other => panic!("{other:?}"),
        }
    }
    let list = async |user: &str, kind: &str, exclude| {
        let user = fixtures::user(user);
        let all = world
            .identities
            .of_user_by_provider_type(&user, kind, exclude, 10)
            .await
            .unwrap()
            .unwrap();
        all.into_iter().map(|it| it.id).collect::<Vec<_>>()
    };
    assert_eq!(list("user-1", "scripted", false).await, [found[0], found[1], found[2]]);
    // The first one's instance has no external id: that leaves nothing out.
    assert_eq!(list("user-1", "scripted", true).await, [found[0], found[2]]);
    assert_eq!(list("user-1", "unknown", false).await, []);
    assert_eq!(list("nobody", "scripted", false).await, []);

    let identity = world.find(found[0]).await;
    let (provider, kind) = world.identities.provider_of(&identity).await.unwrap();
    assert_eq!((provider.id, kind.name.as_str()), (world.provider_id, "scripted"));
    let other = world.find(found[4]).await;
    let unknown = world.identities.provider_of(&other).await;
    assert!(matches!(unknown, Err(Error::ProviderMisconfigured { .. })), "{unknown:?}");
    world.providers.delete(world.provider_id, true, &fixtures::ACTOR).await.unwrap();
    let gone = world.identities.provider_of(&identity).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
}

#[tokio::test]
async fn a_provider_is_found_by_id_or_by_type_and_external_id() {
    let world = World::new().await;
    let new = NewIdentityProvider {
        provider_type: "scripted".into(),
        external_id: Some("team-1".into()),
        ..fixtures::new_identity_provider()
    };
    let named = IdentityProviderRepository::insert(&*world.store, &new, &fixtures::ACTOR).await;
    let named = named.unwrap().id;
    let name = |external_id| ProviderKey::Name { provider_type: "scripted", external_id };
    for (key, expected) in [
        (ProviderKey::Id(named), Some(named)),
        (ProviderKey::Id(ProviderId(4_711)), None),
        (name(Some("team-1")), Some(named)),
        (name(None), Some(world.provider_id)),
        (name(Some("")), None),
        (ProviderKey::Name { provider_type: "other", external_id: None }, None),
    ] {
        let found = world.providers.get(key).await.unwrap();
        assert_eq!(found.map(|it| it.id), expected, "{key:?}");
    }
}

#[tokio::test]
async fn the_key_of_a_trip_binds_its_grant_and_each_trip_has_another() {
    let world = World::new().await;
    world.provider.set_binding(true);
    let linking = linking(&world);
    let mut thumbprints = Vec::new();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (session, url) = linking.start(start(&world)).await.unwrap();
        let token = url.path_segments().unwrap().next_back().unwrap().to_owned();
        let Opened::Redirect { to, browser } = linking.open(&token, None, None).await.unwrap()
        else {
            panic!("the provider is known");
        };
        let asked = query(&to);
        let state = Secret::new(asked["state"].as_str());
        let trip = Trip { id: session.id, token, state, browser };
        let back = linking
            .receive(world.provider_id, code(&trip, "account-1"), Some(trip.browser.clone()))
            .await
            .unwrap();
        let code = Secret::new(query(&back)["completion_code"].as_str());
        let user = Some(fixtures::user("user-1"));
        let done = linking.complete(trip.id, &code, user, fixtures::ACTOR).await.unwrap();
        let stored = world.stored(done.identity_id.unwrap()).await.credentials.unwrap();
        let key = stored.dpop_key.unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(key.hash().0), asked["dpop_jkt"]);
        thumbprints.push(asked["dpop_jkt"].clone());
        keys.push(key);
    }
    assert_ne!(thumbprints[0], thumbprints[1]);
    // It is told nowhere.
    let events = world.events(EventKind::IdentityLinked).await;
    let told = format!("{events:?}{:?}", world.events(EventKind::IdentityRelinked).await);
    assert!(!events.is_empty());
    assert!(keys.iter().all(|it| !told.contains(it.expose())));
}
