//! A device link is polled by one replica at a time, as often as the provider wants and no more.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use serde_json::{Map, json};
use symbolon_domain::{
    Error,
    account::ExternalAccount,
    device_link::{DeviceLink, DeviceLinkStatus},
    event::EventKind,
    identity::IdentityStatus,
    ids::{DeviceLinkId, ProviderId},
    link_evidence::LinkMethod,
    link_session::LinkFailure,
    page::PageRequest,
    ports::{
        ConnectorError, Connectors, DeviceLinkRepository, DevicePoll, Grant,
        IdentityProviderRepository, MockConnector, MockConnectors, RevocationRepository, Sent,
    },
    revocation::GrantOwner,
    services::{DeviceLinking, Providers, StartDeviceLink, StartedDeviceLink},
    testing::{DeviceAnswer, ScriptedProvider, TestClock, fixtures},
};

use crate::world::{CALL_TIMEOUT, World};

fn replica(world: &World) -> DeviceLinking {
    DeviceLinking {
        links: world.store.clone(),
        identities: world.store.clone(),
        providers: world.providers.clone(),
        tasks: world.tasks.clone(),
        timeout: CALL_TIMEOUT,
    }
}

fn start(world: &World) -> StartDeviceLink {
    StartDeviceLink {
        user_id: fixtures::user("user-1"),
        provider_id: world.provider_id,
        organization_id: None,
        scopes: vec!["openid".into()],
        actor: fixtures::ACTOR,
    }
}

async fn started(world: &World) -> StartedDeviceLink {
    replica(world).start(start(world)).await.unwrap()
}

async fn find(world: &World, id: DeviceLinkId) -> DeviceLink {
    DeviceLinkRepository::find(&*world.store, id).await.unwrap().unwrap()
}

fn refuse(error: ConnectorError) -> DeviceAnswer {
    DeviceAnswer::Refuse(error)
}

fn rejected(code: &str) -> DeviceAnswer {
    refuse(ConnectorError::GrantRejected { code: code.into() })
}

fn unavailable(retry_after: Option<Duration>) -> DeviceAnswer {
    let detail = "no answer".to_owned();
    refuse(ConnectorError::Unavailable { detail, retry_after, sent: Sent::Unknown })
}

/// At which seconds from now on the provider is asked, looking once a second.
async fn polled_at(world: &World, seconds: i64) -> Vec<i64> {
    let replica = replica(world);
    let mut at = Vec::new();
    for second in 1..=seconds {
        world.clock.advance(TimeDelta::seconds(1));
        if replica.pass(16).await.unwrap() > 0 {
            at.push(second);
        }
    }
    at
}

/// The device link after the provider has answered so to its first poll.
async fn after(world: &World, answer: DeviceAnswer) -> DeviceLink {
    let id = started(world).await.link.id;
    world.provider.answer_device_polls([answer]);
    assert_eq!(polled_at(world, 5).await, [5]);
    find(world, id).await
}

#[tokio::test]
async fn what_the_user_needs_is_in_the_answer_and_nothing_is_linked_yet() {
    let world = World::new().await;
    let started = started(&world).await;
    assert_eq!(started.user_code, "USER-1");
    assert_eq!(started.verification_uri.as_str(), "https://scripted.example/device");
    let complete = started.verification_uri_complete.unwrap();
    assert_eq!(complete.as_str(), "https://scripted.example/device?user_code=USER-1");
    assert_eq!(started.link.status, DeviceLinkStatus::Pending);
    assert_eq!(started.link.expires_at - started.link.created_at, TimeDelta::minutes(15));
    assert_eq!(find(&world, started.link.id).await, started.link);
    assert_eq!(world.events(EventKind::IdentityLinked).await, []);
}

#[tokio::test]
async fn only_a_provider_with_a_device_flow_is_asked() {
    let world = World::new().await;
    let elsewhere = StartDeviceLink { provider_id: ProviderId(4_711), ..start(&world) };
    world.provider.set_without_device_flow();
    for start in [start(&world), elsewhere] {
        let refused = replica(&world).start(start).await.unwrap_err();
        assert!(
            matches!(&refused, Error::InvalidRequest { field, .. } if field == "provider_id"),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn the_provider_is_asked_at_its_interval_and_five_seconds_later_each_time_it_says_slow_down()
{
    let world = World::new().await;
    started(&world).await;
    world.provider.answer_device_polls([
        DeviceAnswer::Pending,
        DeviceAnswer::SlowDown,
        DeviceAnswer::Pending,
        DeviceAnswer::SlowDown,
    ]);
    // 5, then 10, then 15 seconds between two polls.
    assert_eq!(polled_at(&world, 60).await, [5, 10, 20, 30, 45, 60]);
    assert_eq!(world.provider.device_polls(), ["device-code-1"; 6]);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_asked_less_often_and_not_before_it_says() {
    let world = World::new().await;
    let id = started(&world).await.link.id;
    let asked = Some(Duration::from_secs(30));
    world.provider.answer_device_polls([unavailable(None), unavailable(asked)]);
    // The interval is doubled twice: 5, 10, 20 seconds; the provider asks for 30 once.
    assert_eq!(polled_at(&world, 70).await, [5, 15, 45, 65]);
    assert_eq!(find(&world, id).await.status, DeviceLinkStatus::Pending);
}

#[tokio::test]
async fn what_the_user_confirmed_is_linked_with_its_evidence() {
    let world = World::new().await;
    let link = after(&world, DeviceAnswer::Granted("account-1".into())).await;
    assert_eq!(link.status, DeviceLinkStatus::Linked);
    let identity = world.find(link.identity_id.unwrap()).await;
    assert_eq!(identity.user_id, fixtures::user("user-1"));
    assert_eq!(identity.external_id, fixtures::external_id("account-1"));
    let stored = world.stored(identity.id).await.credentials.unwrap();
    assert!(world.provider.accepts("account-1", &stored.access_token.unwrap()));

    let [event] = &world.events(EventKind::IdentityLinked).await[..] else { panic!("one link") };
    assert_eq!(event.actor, fixtures::ACTOR);
    assert_eq!(event.detail["evidence"]["method"], json!(LinkMethod::Device.as_str()));
    assert_eq!(polled_at(&world, 60).await, [0; 0], "it has ended");
}

#[tokio::test]
async fn a_device_link_that_the_provider_ends_says_why() {
    let code = || "canary".to_owned();
    let cases = [
        (rejected("access_denied"), LinkFailure::AccessDenied),
        (rejected("invalid_grant"), LinkFailure::Untrusted),
        (
            refuse(ConnectorError::ClientRejected { code: code() }),
            LinkFailure::ProviderMisconfigured,
        ),
        (
            refuse(ConnectorError::Misconfigured { detail: code() }),
            LinkFailure::ProviderMisconfigured,
        ),
        (refuse(ConnectorError::Untrusted { detail: code() }), LinkFailure::Untrusted),
        // An account without a name is nobody's.
        (DeviceAnswer::Granted(String::new()), LinkFailure::Untrusted),
    ];
    for (answer, why) in cases {
        let world = World::new().await;
        let link = after(&world, answer).await;
        assert_eq!((link.status, link.error), (DeviceLinkStatus::Failed, Some(why)));
        let events = world.events(EventKind::DeviceLinkFailed).await;
        let [event] = &events[..] else { panic!("one event") };
        assert_eq!(event.detail["error"], why.as_str());
        assert!(!format!("{event:?}").contains("device-code"), "{event:?}");
        assert_eq!(polled_at(&world, 60).await, [0; 0], "it has ended");
        assert_eq!(world.events(EventKind::IdentityLinked).await, []);
    }
}

#[tokio::test]
async fn a_device_link_expires_when_the_provider_says_so_and_by_itself() {
    let world = World::new().await;
    let link = after(&world, rejected("expired_token")).await;
    assert_eq!((link.status, link.error), (DeviceLinkStatus::Expired, None));

    let by_itself = started(&world).await.link.id;
    let polls = polled_at(&world, 16 * 60).await;
    assert_eq!(polls.last(), Some(&(15 * 60 - 5)), "it is good for fifteen minutes");
    assert_eq!(find(&world, by_itself).await.status, DeviceLinkStatus::Expired);
    assert_eq!(world.events(EventKind::DeviceLinkFailed).await, []);
    assert_eq!(DeviceLinkRepository::expire(&*world.store).await.unwrap(), 1);
}

#[tokio::test]
async fn an_account_that_is_somebody_elses_is_not_linked() {
    let world = World::new().await;
    world.identity().await;
    let other = StartDeviceLink { user_id: fixtures::user("user-2"), ..start(&world) };
    let id = replica(&world).start(other).await.unwrap().link.id;
    world.provider.answer_device_polls([DeviceAnswer::Granted("account-1".into())]);
    assert_eq!(polled_at(&world, 5).await, [5]);
    let link = find(&world, id).await;
    assert_eq!(link.status, DeviceLinkStatus::Failed);
    assert_eq!(link.error, Some(LinkFailure::IdentityAlreadyLinked));
    assert_eq!(link.identity_id, None);
}

#[tokio::test]
async fn what_is_linked_for_an_organization_is_used_by_it() {
    let world = World::new().await;
    let organization_id = Some(fixtures::organization("o"));
    let asked = StartDeviceLink { organization_id: organization_id.clone(), ..start(&world) };
    let started = replica(&world).start(asked).await.unwrap();
    assert_eq!(started.link.organization_id, organization_id);
    world.provider.answer_device_polls([DeviceAnswer::Granted("account-1".into())]);
    assert_eq!(polled_at(&world, 5).await, [5]);
    let [event] = &world.events(EventKind::OrganizationIdentityLinked).await[..] else {
        panic!("one use")
    };
    assert_eq!(event.organization_id, organization_id);
    assert_eq!(event.identity_id, find(&world, started.link.id).await.identity_id);
}

/// A provider that answers polls with a grant, when the device link's time has run out meanwhile.
#[derive(Clone)]
struct Slow {
    provider: ScriptedProvider,
    clock: Arc<TestClock>,
    takes: TimeDelta,
}

impl Slow {
    /// The world's replica, with this between it and the provider.
    fn replica(&self, world: &World) -> DeviceLinking {
        let this = self.clone();
        let mut connectors = MockConnectors::new();
        connectors.expect_connect().returning(move |provider, secrets| {
            let Slow { provider: scripted, clock, takes } = this.clone();
            let inner = Connectors::connect(&scripted, provider, secrets)?;
            let mut connector = MockConnector::new();
            let capabilities = inner.capabilities();
            connector.expect_capabilities().return_const(capabilities);
            connector.expect_device_poll().returning(move |_, _| {
                clock.advance(takes);
                let claims = Map::from_iter([("sub".to_owned(), json!("account-1"))]);
                let credentials = scripted.grant("account-1");
                let grant = Grant { credentials, claims, facts: Map::new() };
                Ok(DevicePoll::Granted(Box::new(grant)))
            });
            connector.expect_build_identity().returning(|_| {
                Ok(ExternalAccount {
                    external_id: fixtures::external_id("account-1"),
                    legacy_id: None,
                    email: None,
                    email_verified: false,
                    name: None,
                    claims: Map::new(),
                })
            });
            Ok(Arc::new(connector))
        });
        let providers = Providers {
            providers: world.store.clone(),
            connectors: Arc::new(connectors),
            public_url: None,
        };
        DeviceLinking { providers: Arc::new(providers), ..replica(world) }
    }
}

#[tokio::test]
async fn a_grant_that_comes_after_its_device_link_has_expired_is_ended_at_the_provider() {
    let world = World::new().await;
    let id = started(&world).await.link.id;
    let (provider, clock) = (world.provider.clone(), world.clock.clone());
    let slow = Slow { provider, clock, takes: TimeDelta::minutes(15) };
    world.clock.advance(TimeDelta::seconds(5));
    assert_eq!(slow.replica(&world).pass(16).await.unwrap(), 1);

    assert_eq!(find(&world, id).await.status, DeviceLinkStatus::Expired);
    assert_eq!(world.events(EventKind::IdentityLinked).await, []);
    let queue = RevocationRepository::list(&*world.store, PageRequest::default()).await.unwrap();
    let [queued] = &queue.items[..] else { panic!("one grant: {queue:?}") };
    assert_eq!(queued.owner, GrantOwner::DeviceLink(id));
    assert_eq!(world.revocations.pass(16).await.unwrap(), 1);
    let [receipt] = &world.events(EventKind::GrantRevoked).await[..] else { panic!("a receipt") };
    assert_eq!(receipt.detail["device_link_id"], id.0);
    assert_eq!(receipt.user_id, Some(fixtures::user("user-1")));
}

#[tokio::test]
async fn a_late_grant_of_an_account_that_is_linked_by_then_is_left_alone() {
    let world = World::new().await;
    started(&world).await;
    let identity = world.identity().await;
    let (provider, clock) = (world.provider.clone(), world.clock.clone());
    let slow = Slow { provider, clock, takes: TimeDelta::minutes(15) };
    world.clock.advance(TimeDelta::seconds(5));
    assert_eq!(slow.replica(&world).pass(16).await.unwrap(), 1);
    assert_eq!(world.revocations.pass(16).await.unwrap(), 1);
    assert_eq!(world.events(EventKind::GrantRevoked).await, []);
    assert_eq!(world.events(EventKind::GrantRevocationFailed).await.len(), 1);
    assert_eq!(world.find(identity).await.status, IdentityStatus::Valid);
}

#[tokio::test]
async fn of_many_replicas_one_polls_at_a_time() {
    let world = World::new().await;
    let replicas: Vec<_> = (0..8).map(|_| replica(&world)).collect();
    let id = started(&world).await.link.id;
    world.provider.answer_device_polls([DeviceAnswer::Pending]);
    for expected in 1..=2 {
        world.clock.advance(TimeDelta::seconds(5));
        if expected == 2 {
            world.provider.answer_device_polls([DeviceAnswer::Granted("account-1".into())]);
        }
        let passes: Vec<_> = replicas
            .iter()
            .cloned()
            .map(|it| tokio::spawn(async move { it.pass(16).await.unwrap() }))
            .collect();
        let mut polled = 0;
        for pass in passes {
            polled += pass.await.unwrap();
        }
        assert_eq!((polled, world.provider.device_polls().len()), (1, expected));
    }
    assert_eq!(find(&world, id).await.status, DeviceLinkStatus::Linked);
    assert_eq!(world.events(EventKind::IdentityLinked).await.len(), 1);
}

#[tokio::test]
async fn a_poll_whose_replica_is_gone_is_made_again_by_another() {
    let world = World::new().await;
    let id = started(&world).await.link.id;
    world.clock.advance(TimeDelta::seconds(5));
    // It claims, and is never heard of again.
    let claim = Duration::from_secs(50);
    let lost = DeviceLinkRepository::claim_due(&*world.store, 16, claim).await.unwrap();
    assert_eq!(lost.len(), 1);
    world.provider.answer_device_polls([DeviceAnswer::Granted("account-1".into())]);
    assert_eq!(polled_at(&world, 60).await, [50]);
    assert_eq!(find(&world, id).await.status, DeviceLinkStatus::Linked);
}

#[tokio::test]
async fn a_device_link_of_a_provider_that_is_gone_fails() {
    let world = World::new().await;
    let id = started(&world).await.link.id;
    let actor = fixtures::ACTOR;
    let delete = IdentityProviderRepository::delete(&*world.store, world.provider_id, true, &actor);
    delete.await.unwrap();
    assert_eq!(polled_at(&world, 5).await, [5]);
    let link = find(&world, id).await;
    assert_eq!(link.error, Some(LinkFailure::ProviderMisconfigured));
    assert_eq!(world.provider.device_polls(), [""; 0]);
}
