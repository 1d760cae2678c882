//! A device link is polled by one replica at a time, as often as the provider wants and no more.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use symbolon_domain::{
    Error,
    device_link::{DeviceLink, DeviceLinkStatus},
    event::EventKind,
    ids::{DeviceLinkId, ProviderId},
    link_evidence::LinkMethod,
    link_session::LinkFailure,
    ports::{ConnectorError, DeviceLinkRepository, IdentityProviderRepository, Sent},
    services::{DeviceLinking, StartDeviceLink, StartedDeviceLink},
    testing::{DeviceAnswer, fixtures},
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
