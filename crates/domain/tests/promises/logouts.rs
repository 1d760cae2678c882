//! A provider's word that a session ended finds the links that began with it.

use std::sync::Arc;

use chrono::TimeDelta;
use symbolon_domain::{
    Error,
    event::EventKind,
    identity::Identity,
    link_evidence::{IdTokenEvidence, LinkEvidence, LinkMethod},
    ports::{
        Clock as _, IdentityRepository, Link, Logout, LogoutRepository, MockConnector,
        MockConnectors, PROVIDER_SESSION_KEPT,
    },
    secret::Secret,
    services::{Logouts, Providers},
    testing::fixtures,
};

use crate::world::World;

/// Takes tokens whose text is their `jti`, about the session `s` alone.
fn logouts(world: &World) -> Logouts {
    let refused_from = world.clock.now() + TimeDelta::hours(1);
    let mut connectors = MockConnectors::new();
    connectors.expect_connect().returning(move |_, _| {
        let mut connector = MockConnector::new();
        connector.expect_verify_logout().returning(move |token| {
            Ok(Logout {
                external_id: None,
                session_id: Some("s".into()),
                token_id: token.expose().to_owned(),
                refused_from,
            })
        });
        Ok(Arc::new(connector))
    });
    let providers = Providers {
        providers: world.store.clone(),
        connectors: Arc::new(connectors),
        public_url: None,
    };
    Logouts {
        logouts: world.store.clone(),
        providers: Arc::new(providers),
        replica: "replica-1".into(),
    }
}

/// `user-1`'s `account-1`, linked in the session `s`.
async fn linked(world: &World) -> Identity {
    let id_token = Some(IdTokenEvidence { sid: Some("s".into()), ..IdTokenEvidence::default() });
    let evidence = LinkEvidence { id_token, ..LinkEvidence::of(LinkMethod::Browser) };
    let link = Link { provider_id: world.provider_id, evidence, ..fixtures::link() };
    let outcome = IdentityRepository::link(&*world.store, &link).await.unwrap();
    outcome.linked().cloned().unwrap()
}

async fn told(world: &World, token: &str) -> Result<usize, Error> {
    let before = world.events(EventKind::IdentityLoggedOut).await.len();
    logouts(world).receive(world.provider_id, &Secret::new(token)).await?;
    Ok(world.events(EventKind::IdentityLoggedOut).await.len() - before)
}

#[tokio::test]
async fn a_token_that_names_a_session_alone_finds_what_began_with_it() {
    let world = World::new().await;
    let identity = linked(&world).await;
    assert_eq!(told(&world, "token-1").await.unwrap(), 1);
    let [event] = &world.events(EventKind::IdentityLoggedOut).await[..] else { panic!("one") };
    assert_eq!(
        (event.identity_id, event.detail["session_id"].as_str()),
        (Some(identity.id), Some("s"))
    );
    // It counts once, and another token about the same session tells nobody any more.
    let again = told(&world, "token-1").await;
    assert!(matches!(again, Err(Error::InvalidRequest { .. })), "{again:?}");
    assert_eq!(told(&world, "token-2").await.unwrap(), 0);
}

#[tokio::test]
async fn a_session_is_remembered_for_thirty_days_from_when_it_was_last_heard_of() {
    let world = World::new().await;
    let nearly = PROVIDER_SESSION_KEPT - TimeDelta::seconds(1);
    linked(&world).await;
    world.clock.advance(nearly);
    linked(&world).await;
    world.clock.advance(nearly);
    assert_eq!(world.store.forget_sessions().await.unwrap(), 0);
    assert_eq!(told(&world, "token-1").await.unwrap(), 1);

    linked(&world).await;
    world.clock.advance(PROVIDER_SESSION_KEPT);
    // Before it is swept it is over, too.
    assert_eq!(told(&world, "token-2").await.unwrap(), 0);
    linked(&world).await;
    world.clock.advance(PROVIDER_SESSION_KEPT);
    assert_eq!(world.store.forget_sessions().await.unwrap(), 1);
}
