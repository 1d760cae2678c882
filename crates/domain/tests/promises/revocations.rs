//! A grant that no identity owns any more is ended at its provider, sooner or later.

use std::time::Duration;

use chrono::TimeDelta;
use symbolon_domain::{
    auth_provider::AuthProvider,
    event::{Actor, EventKind},
    ids::IdentityId,
    page::PageRequest,
    ports::{
        AuthIdentityRepository as _, AuthProviderRepository, ConnectorError, NewAuthProvider,
        RevocationRepository, Sent, SsoSignIn,
    },
    revocation::{QueuedRevocation, RevocationStatus},
    secret::Secret,
    services::GIVE_UP_AFTER,
    testing::{RefreshFault, fixtures},
};

use crate::world::World;

fn unavailable(retry_after: Option<Duration>) -> ConnectorError {
    ConnectorError::Unavailable { detail: "503".into(), retry_after, sent: Sent::Answered }
}

async fn unlink(world: &World, id: IdentityId) {
    world.identities.unlink(id, true, Actor::OPERATOR).await.unwrap();
}

async fn queue(world: &World) -> Vec<QueuedRevocation> {
    let page = PageRequest { limit: 200, after: None };
    RevocationRepository::list(&*world.store, page).await.unwrap().items
}

#[tokio::test]
async fn an_unlink_ends_the_grant_before_it_comes_back() {
    let world = World::new().await;
    let id = world.identity().await;
    let token = world.stored(id).await.credentials.unwrap().access_token.unwrap();
    unlink(&world, id).await;
    assert!(!world.provider.accepts("account-1", &token));
    let receipts = world.events(EventKind::GrantRevoked).await;
    assert_eq!((receipts.len(), receipts[0].identity_id), (1, Some(id)));
    assert_eq!(receipts[0].actor, Actor::OPERATOR);
    assert_eq!(world.revocations.pass(10).await.unwrap(), 0);
}

#[tokio::test]
async fn a_grant_that_is_not_to_be_revoked_lives_on() {
    let world = World::new().await;
    let id = world.identity().await;
    world.identities.unlink(id, false, Actor::OPERATOR).await.unwrap();
    assert_eq!((queue(&world).await, world.provider.revocations()), (vec![], 0));
}

#[tokio::test]
async fn what_fails_is_tried_again_after_a_growing_pause() {
    let world = World::new().await;
    let id = world.identity().await;
    world.provider.fail_next_revocations((0..3).map(|_| unavailable(None)));
    unlink(&world, id).await;
    assert!(world.events(EventKind::GrantRevoked).await.is_empty());

    let mut pauses = Vec::new();
    for tried in 1..=3 {
        let waiting = queue(&world).await.remove(0);
        assert_eq!((waiting.status, waiting.attempts), (RevocationStatus::Waiting, tried));
        assert!(waiting.last_error.as_deref().unwrap().contains("503"));
        assert_eq!(world.revocations.pass(10).await.unwrap(), 0, "it is not due yet");
        let pause = waiting.due_at - symbolon_domain::ports::Clock::now(&*world.clock);
        pauses.push(pause);
        world.clock.advance(pause);
        assert_eq!(world.revocations.pass(10).await.unwrap(), 1);
    }
    assert!(pauses[0] >= TimeDelta::minutes(1) && pauses[0] < TimeDelta::seconds(90), "{pauses:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert_eq!(queue(&world).await[0].status, RevocationStatus::Revoked);
    assert_eq!(world.events(EventKind::GrantRevoked).await.len(), 1);
    assert!(world.events(EventKind::GrantRevocationFailed).await.is_empty());
}

#[tokio::test]
async fn a_provider_that_says_when_to_come_back_is_taken_at_its_word() {
    let world = World::new().await;
    let id = world.identity().await;
    world.provider.fail_next_revocations([unavailable(Some(Duration::from_hours(2)))]);
    unlink(&world, id).await;
    world.clock.advance(TimeDelta::minutes(119));
    assert_eq!(world.revocations.pass(10).await.unwrap(), 0);
    world.clock.advance(TimeDelta::minutes(1));
    assert_eq!(world.revocations.pass(10).await.unwrap(), 1);
    assert_eq!(queue(&world).await[0].status, RevocationStatus::Revoked);
}

#[tokio::test]
async fn after_three_days_a_revocation_is_given_up_and_says_so() {
    let world = World::new().await;
    let id = world.identity().await;
    world.provider.fail_next_revocations((0..1000).map(|_| unavailable(None)));
    unlink(&world, id).await;
    let begun = queue(&world).await[0].queued_at;
    let mut tries = 1;
    while queue(&world).await[0].status == RevocationStatus::Waiting {
        world.clock.advance(TimeDelta::minutes(10));
        tries += world.revocations.pass(10).await.unwrap();
        assert!(tries < 100, "it goes on for ever");
    }
    let age = symbolon_domain::ports::Clock::now(&*world.clock) - begun;
    let patience = TimeDelta::from_std(GIVE_UP_AFTER).unwrap();
    assert!(age <= patience && age > patience - TimeDelta::hours(10), "{age}");
    assert!(tries >= 10, "{tries}");
    let failed = world.events(EventKind::GrantRevocationFailed).await;
    assert_eq!((failed.len(), failed[0].identity_id), (1, Some(id)));
    assert!(failed[0].detail["detail"].as_str().unwrap().contains("given up"));
    world.clock.advance(TimeDelta::days(30));
    assert_eq!(world.revocations.pass(10).await.unwrap(), 0);
}

#[tokio::test]
async fn a_provider_without_revocation_is_told_of_once_and_not_asked() {
    let world = World::new().await;
    let id = world.identity().await;
    world.provider.set_without_revocation();
    unlink(&world, id).await;
    assert_eq!(world.provider.revocations(), 0);
    assert_eq!(queue(&world).await[0].status, RevocationStatus::Failed);
    let failed = world.events(EventKind::GrantRevocationFailed).await;
    assert_eq!(failed.len(), 1);
    assert!(failed[0].detail["detail"].as_str().unwrap().contains("offers no revocation"));
}

#[tokio::test]
async fn an_old_grant_is_left_alone_when_its_account_is_linked_again() {
    let world = World::new().await;
    let id = world.identity().await;
    world.provider.fail_next_revocations([unavailable(None)]);
    unlink(&world, id).await;
    let again = world.identity().await;
    assert_ne!(again, id);
    world.clock.advance(TimeDelta::hours(1));
    assert_eq!(world.revocations.pass(10).await.unwrap(), 1);
    assert_eq!(world.provider.revocations(), 1, "the provider was not asked again");
    let failed = world.events(EventKind::GrantRevocationFailed).await;
    assert!(failed[0].detail["detail"].as_str().unwrap().contains("the account is linked"));
    let token = world.stored(again).await.credentials.unwrap().access_token.unwrap();
    assert!(world.provider.accepts("account-1", &token));
}

/// An organization that signs in with the world's provider.
async fn single_sign_on(world: &World, name: &str) -> AuthProvider {
    let new = NewAuthProvider {
        organization_id: fixtures::organization(name),
        provider_id: world.provider_id,
        ..fixtures::new_auth_provider()
    };
    AuthProviderRepository::insert(&*world.store, &new, &Actor::OPERATOR).await.unwrap()
}

/// `user-1`'s `account-1` for it; gives the access token.
async fn sso_link(world: &World, of: &AuthProvider) -> Secret {
    let credentials = world.provider.grant("account-1");
    let token = credentials.access_token.clone().unwrap();
    let asked = SsoSignIn {
        auth_provider_id: of.id,
        credentials: Some(credentials),
        ..fixtures::sso_sign_in()
    };
    world.store.sign_in(&asked).await.unwrap();
    token
}

async fn delete_for(world: &World, of: &AuthProvider) {
    let user = fixtures::user("user-1");
    let deleted = world.store.delete_for(&user, &of.organization_id, &Actor::OPERATOR).await;
    assert_eq!(deleted.unwrap(), 1);
}

#[tokio::test]
async fn the_grant_of_a_deleted_account_for_single_sign_on_is_ended() {
    let world = World::new().await;
    let of = single_sign_on(&world, "o").await;
    let token = sso_link(&world, &of).await;
    assert!(world.provider.accepts("account-1", &token));
    delete_for(&world, &of).await;
    assert_eq!(world.revocations.pass(10).await.unwrap(), 1);
    assert!(!world.provider.accepts("account-1", &token));
    let receipts = world.events(EventKind::GrantRevoked).await;
    assert_eq!((receipts.len(), receipts[0].identity_id), (1, None));
    assert!(receipts[0].detail["auth_identity_id"].is_number(), "{receipts:?}");
}

#[tokio::test]
async fn the_grant_of_an_account_that_is_linked_elsewhere_is_left_alone() {
    let world = World::new().await;
    // As an identity, and for another organization.
    let (o, p) = (single_sign_on(&world, "o").await, single_sign_on(&world, "p").await);
    sso_link(&world, &o).await;
    let id = world.identity().await;
    delete_for(&world, &o).await;
    assert_eq!(world.revocations.pass(10).await.unwrap(), 1);
    let token = sso_link(&world, &p).await;
    unlink(&world, id).await;
    assert_eq!(world.provider.revocations(), 0);
    let failed = world.events(EventKind::GrantRevocationFailed).await;
    assert_eq!(failed.len(), 2);
    for event in failed {
        assert!(event.detail["detail"].as_str().unwrap().contains("the account is linked"));
    }
    assert!(world.provider.accepts("account-1", &token));
    // The last one ends it.
    delete_for(&world, &p).await;
    assert_eq!(world.revocations.pass(10).await.unwrap(), 1);
    assert!(!world.provider.accepts("account-1", &token));
}

#[tokio::test]
async fn the_grants_of_a_deleted_provider_are_ended() {
    let world = World::new().await;
    let id = world.identity().await;
    let token = world.stored(id).await.credentials.unwrap().access_token.unwrap();
    world.providers.delete(world.provider_id, true, &Actor::OPERATOR).await.unwrap();
    assert_eq!(world.revocations.pass(10).await.unwrap(), 1);
    assert!(!world.provider.accepts("account-1", &token));
    assert_eq!(world.events(EventKind::GrantRevoked).await.len(), 1);
}

#[tokio::test]
async fn a_token_that_comes_after_the_deletion_of_its_provider_is_ended_too() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let tokens = world.replica("a");
    world.provider.fail_next([RefreshFault::Delay(Duration::from_millis(100))]);
    let caller = tokio::spawn(async move { tokens.refresh(id).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    world.providers.delete(world.provider_id, true, &Actor::OPERATOR).await.unwrap();
    assert!(caller.await.unwrap().is_err());
    world.revocations.pass(10).await.unwrap();
    assert_eq!(world.provider.revocations(), 2);
    assert_eq!(world.events(EventKind::GrantRevoked).await.len(), 2);
}

#[tokio::test]
async fn a_token_that_comes_after_a_rebinding_to_another_account_is_ended() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let tokens = world.replica("a");
    world.provider.fail_next([RefreshFault::Delay(Duration::from_millis(100))]);
    let caller = tokio::spawn(async move { tokens.refresh(id).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    let link = symbolon_domain::ports::Link {
        provider_id: world.provider_id,
        external_id: fixtures::external_id("account-2"),
        credentials: Some(world.provider.grant("account-2")),
        reattach: true,
        ..fixtures::link()
    };
    symbolon_domain::ports::IdentityRepository::link(&*world.store, &link).await.unwrap();
    // The caller gets a token of the account that is there now.
    caller.await.unwrap().unwrap();
    world.revocations.pass(10).await.unwrap();
    assert_eq!(world.events(EventKind::GrantRevocationQueued).await.len(), 2);
    let token = world.stored(id).await.credentials.unwrap().access_token.unwrap();
    assert!(world.provider.accepts("account-2", &token));
    assert!(queue(&world).await.iter().all(|it| it.external_id.as_str() == "account-1"));
}

#[tokio::test]
async fn a_claim_outlives_the_call_that_it_is_for() {
    let world = World::new().await;
    let id = world.identity().await;
    world.provider.fail_next_revocations([unavailable(None)]);
    unlink(&world, id).await;
    world.clock.advance(TimeDelta::hours(1));
    let claimed = world.store.claim_due(1, Duration::from_secs(40)).await.unwrap().remove(0);
    assert_eq!(world.revocations.pass(10).await.unwrap(), 0, "somebody is at it");
    world.clock.advance(TimeDelta::seconds(40));
    assert_eq!(world.revocations.pass(10).await.unwrap(), 1, "nobody is at it any more");
    let late = symbolon_domain::ports::RevocationEnd::Revoked;
    assert!(!world.store.settle(&claimed.queued, &late).await.unwrap());
    assert_eq!(world.events(EventKind::GrantRevoked).await.len(), 1);
}
