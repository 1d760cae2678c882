//! At most one use of a refresh token, over all replicas, through crashes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::TimeDelta;
use serde_json::json;
use symbolon_domain::{
    Error,
    credentials::Credentials,
    event::{Actor, EventKind},
    identity::{IdentityStatus, InvalidReason},
    ids::IdentityId,
    ports::{
        ConnectorError, CredentialsRepository, DataUpdate, IdentityRepository, Lease, LeaseOutcome,
        LeasedWrite, RefreshEnd, RepositoryError, Sent, StoredCredentials,
    },
    secret::Secret,
    services::{IssuedToken, TokenNeed, Tokens},
    testing::{MemoryStore, RefreshFault, fixtures},
};

use crate::world::{CALL_TIMEOUT, World};

async fn token(tokens: &Tokens, id: IdentityId) -> Result<IssuedToken, Error> {
    tokens.issue(id, &TokenNeed::default()).await
}

fn unavailable(sent: Sent) -> RefreshFault {
    RefreshFault::Refuse(ConnectorError::Unavailable {
        detail: "status 503".into(),
        retry_after: None,
        sent,
    })
}

fn refused(code: &str) -> RefreshFault {
    RefreshFault::Refuse(ConnectorError::GrantRejected { code: code.into() })
}

#[tokio::test]
async fn a_fresh_token_is_answered_and_nobody_is_asked() {
    let world = World::new().await;
    let id = world.identity().await;
    let answer = token(&world.replica("a"), id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(answer.token_type, "Bearer");
    assert_eq!(world.provider.refreshes(), 0);
    assert_eq!(world.stored(id).await.generation, 1);
}

#[tokio::test]
async fn a_token_within_the_margin_is_refreshed_first() {
    let world = World::new().await;
    let id = world.identity().await;
    world.clock.advance(TimeDelta::seconds(3600 - 59));
    let answer = token(&world.replica("a"), id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(world.provider.refreshes(), 1);
    assert_eq!(answer.expires_at, world.find(id).await.expires_at);
    assert_eq!(world.events(EventKind::IdentityRefreshed).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_callers_at_two_replicas_share_one_refresh() {
    let world = World::new().await;
    let id = world.identity().await;
    let replicas = [world.replica("a"), world.replica("b")];
    for round in 1..=2 {
        world.expire();
        let callers = (0..500).map(|caller| {
            let tokens = replicas[caller % 2].clone();
            tokio::spawn(async move { token(&tokens, id).await })
        });
        for caller in callers.collect::<Vec<_>>() {
            let answer = caller.await.unwrap().unwrap();
            assert!(world.provider.accepts("account-1", &answer.access_token));
        }
        assert_eq!(world.provider.refreshes(), round);
    }
    assert_eq!(world.provider.most_uses_of_one_token(), 1);
}

#[tokio::test]
async fn a_wish_for_a_longer_life_refreshes_once_and_not_at_every_call() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.clock.advance(TimeDelta::minutes(30));
    let need = TokenNeed { min_ttl: Duration::from_hours(10), scopes: vec![] };
    for _ in 0..3 {
        tokens.issue(id, &need).await.unwrap();
    }
    assert_eq!(world.provider.refreshes(), 1);
}

#[tokio::test]
async fn scopes_that_were_not_granted_are_named() {
    let world = World::new().await;
    let id = world.identity().await;
    let need = TokenNeed { scopes: vec!["openid".into(), "mail".into()], ..TokenNeed::default() };
    let error = world.replica("a").issue(id, &need).await.unwrap_err();
    assert!(matches!(&error, Error::InvalidRequest { field, problem }
        if field == "scopes" && problem.contains("mail") && !problem.contains("openid")));
}

#[tokio::test]
async fn a_forced_refresh_replaces_a_fresh_token() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    let before = token(&tokens, id).await.unwrap();
    tokens.refresh(id).await.unwrap();
    let after = token(&tokens, id).await.unwrap();
    assert_ne!(before.access_token, after.access_token);
    assert!(world.provider.accepts("account-1", &after.access_token));
}

#[tokio::test]
async fn a_token_that_is_alive_is_answered_while_the_provider_is_not() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.clock.advance(TimeDelta::seconds(3600 - 59));
    world.provider.fail_next([unavailable(Sent::Answered)]);
    let first = token(&tokens, id).await.unwrap();
    // While it backs off the provider is left alone.
    let second = token(&tokens, id).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(world.provider.refreshes(), 1);
    // And the next after it gets a new one.
    world.clock.advance(TimeDelta::seconds(2));
    let third = token(&tokens, id).await.unwrap();
    assert_ne!(third.access_token, first.access_token);
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
}

#[tokio::test]
async fn a_provider_that_says_when_to_come_back_is_taken_at_its_word() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    world.provider.fail_next([RefreshFault::Refuse(ConnectorError::Unavailable {
        detail: "status 429".into(),
        retry_after: Some(Duration::from_secs(30)),
        sent: Sent::Answered,
    })]);
    for waited in [0, 10, 19] {
        world.clock.advance(TimeDelta::seconds(waited));
        let error = token(&tokens, id).await.unwrap_err();
        assert!(matches!(error, Error::ProviderUnavailable { retry_after, .. }
            if retry_after <= Duration::from_secs(30)));
    }
    assert_eq!(world.provider.refreshes(), 1);
    world.clock.advance(TimeDelta::seconds(1));
    token(&tokens, id).await.unwrap();
}

#[tokio::test]
async fn a_refused_grant_is_final_at_once_and_says_so() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    world.provider.end_grant("account-1");
    for _ in 0..3 {
        let error = token(&tokens, id).await.unwrap_err();
        assert!(matches!(
            error,
            Error::IdentityNotValid { reason: Some(InvalidReason::GrantRejected), .. }
        ));
    }
    assert_eq!(world.provider.refreshes(), 1);
    let identity = world.find(id).await;
    assert_eq!(identity.status, IdentityStatus::Invalid);
    assert_eq!(identity.invalid.unwrap().reason, InvalidReason::GrantRejected);
    assert_eq!(world.events(EventKind::IdentityInvalidated).await.len(), 1);
}

#[tokio::test]
async fn linking_again_makes_an_invalid_identity_work() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    world.provider.end_grant("account-1");
    token(&tokens, id).await.unwrap_err();
    assert_eq!(world.identity().await, id);
    let answer = token(&tokens, id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
}

#[tokio::test]
async fn our_own_misconfiguration_harms_no_identity() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    let code = "invalid_client".to_owned();
    world.provider.fail_next([RefreshFault::Refuse(ConnectorError::ClientRejected { code })]);
    let error = token(&tokens, id).await.unwrap_err();
    assert!(matches!(error, Error::ProviderMisconfigured { .. }));
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
    world.clock.advance(TimeDelta::seconds(2));
    token(&tokens, id).await.unwrap();
}

#[tokio::test]
async fn a_forced_refresh_waits_for_the_provider_and_not_for_the_operator() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    let code = "invalid_client".to_owned();
    world.provider.fail_next([RefreshFault::Refuse(ConnectorError::ClientRejected { code })]);
    token(&tokens, id).await.unwrap_err();
    let waiting = token(&tokens, id).await.unwrap_err();
    assert!(matches!(waiting, Error::ProviderMisconfigured { .. }));
    assert_eq!(world.provider.refreshes(), 1);
    tokens.refresh(id).await.unwrap();
    assert_eq!(world.provider.refreshes(), 2);

    world.expire();
    world.provider.fail_next([unavailable(Sent::Answered)]);
    for _ in 0..2 {
        let error = tokens.refresh(id).await.unwrap_err();
        assert!(matches!(error, Error::ProviderUnavailable { .. }));
    }
    assert_eq!(world.provider.refreshes(), 3);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_once_more_where_the_provider_answers_it() {
    let world = World::new().await;
    let id = world.identity().await;
    world.provider.set_reuse_interval(TimeDelta::seconds(10));
    world.expire();
    world.provider.fail_next([RefreshFault::LoseAnswer]);
    let answer = token(&world.replica("a"), id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(world.provider.most_uses_of_one_token(), 2);
    assert_eq!(world.provider.revoked_by_reuse(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_late_is_not_asked_again_while_it_is_still_at_it() {
    let world = World::new().await;
    let id = world.identity().await;
    world.provider.set_reuse_interval(TimeDelta::minutes(1));
    world.expire();
    world.provider.fail_next([RefreshFault::Late(CALL_TIMEOUT * 7 / 4)]);
    let answer = token(&world.replica("a"), id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(world.provider.concurrent_uses(), 0);
    assert_eq!(world.provider.most_uses_of_one_token(), 2);
    assert_eq!(world.provider.revoked_by_reuse(), 0);
}

#[tokio::test]
async fn a_lost_answer_that_cannot_be_had_again_ends_in_an_honest_invalid() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    world.provider.fail_next([RefreshFault::LoseAnswer]);
    for _ in 0..3 {
        let error = token(&tokens, id).await.unwrap_err();
        assert!(matches!(
            error,
            Error::IdentityNotValid { reason: Some(InvalidReason::RotationInDoubt), .. }
        ));
    }
    assert_eq!(world.provider.refreshes(), 2);
}

#[tokio::test]
async fn after_two_lost_answers_the_token_is_never_sent_again() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    world.provider.fail_next([RefreshFault::LoseAnswer, RefreshFault::LoseRequest]);
    for _ in 0..3 {
        let error = token(&tokens, id).await.unwrap_err();
        assert!(matches!(
            error,
            Error::IdentityNotValid { reason: Some(InvalidReason::RotationInDoubt), .. }
        ));
        world.expire();
    }
    assert_eq!(world.provider.refreshes(), 1);
}

#[tokio::test]
async fn the_one_retry_is_not_wasted_on_a_provider_that_does_not_answer_at_all() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    world.provider.set_reachable(false);
    world.provider.fail_next([RefreshFault::LoseRequest]);
    for _ in 0..5 {
        let error = token(&tokens, id).await.unwrap_err();
        assert!(matches!(error, Error::ProviderUnavailable { .. }));
        world.clock.advance(TimeDelta::minutes(2));
    }
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
    world.provider.set_reachable(true);
    token(&tokens, id).await.unwrap();
    assert_eq!(world.provider.revoked_by_reuse(), 0);
}

#[tokio::test]
async fn an_answer_to_the_retry_does_not_clear_the_doubt_about_the_first() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    // Lost; the retry is turned away; the retry again, lost: now it is over.
    let faults =
        [RefreshFault::LoseRequest, unavailable(Sent::Answered), RefreshFault::LoseRequest];
    world.provider.fail_next(faults);
    assert!(matches!(token(&tokens, id).await, Err(Error::ProviderUnavailable { .. })));
    world.clock.advance(TimeDelta::minutes(2));
    let error = token(&tokens, id).await.unwrap_err();
    assert!(matches!(
        error,
        Error::IdentityNotValid { reason: Some(InvalidReason::RotationInDoubt), .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_is_given_up_and_the_token_survives_if_it_was_not_spent() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    world.provider.fail_next([RefreshFault::Hang]);
    let answer = token(&world.replica("a"), id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
}

#[tokio::test]
async fn where_refresh_tokens_are_good_again_and_again_a_lost_answer_loses_nothing() {
    let world = World::new().await;
    world.provider.set_reusable();
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.expire();
    world.provider.fail_next(vec![RefreshFault::LoseAnswer; 5]);
    for _ in 0..5 {
        assert!(matches!(token(&tokens, id).await, Err(Error::ProviderUnavailable { .. })));
        world.clock.advance(TimeDelta::minutes(2));
    }
    token(&tokens, id).await.unwrap();
}

#[tokio::test]
async fn a_refresh_token_that_is_not_sent_again_is_kept() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    world.provider.fail_next([RefreshFault::KeepRefreshToken]);
    for _ in 0..2 {
        world.expire();
        token(&tokens, id).await.unwrap();
    }
    assert_eq!(world.provider.revoked_by_reuse(), 0);
}

#[tokio::test]
async fn after_a_crash_that_sent_nothing_the_next_holder_goes_on() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    lease(&world, id).await;
    let tokens = world.replica("a");
    world.clock.advance(TimeDelta::minutes(2));
    token(&tokens, id).await.unwrap();
    assert_eq!(world.provider.most_uses_of_one_token(), 1);
}

#[tokio::test]
async fn after_a_crash_in_the_middle_the_next_holder_makes_the_careful_retry_and_no_more() {
    for (crashes, works) in [(1, true), (2, false)] {
        let world = World::new().await;
        let id = world.identity().await;
        world.expire();
        for _ in 0..crashes {
            let lease = lease(&world, id).await;
            assert_eq!(
                world.store.record_sending(&lease, CALL_TIMEOUT).await.unwrap(),
                LeasedWrite::Done
            );
            world.clock.advance(TimeDelta::minutes(2));
        }
        let result = token(&world.replica("a"), id).await;
        assert_eq!(result.is_ok(), works, "{result:?}");
        assert_eq!(world.provider.refreshes(), usize::from(works));
        if !works {
            let invalid = world.find(id).await.invalid.unwrap();
            assert_eq!(invalid.reason, InvalidReason::RotationInDoubt);
        }
    }
}

#[tokio::test]
async fn who_loses_the_race_answers_with_the_winners_token() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let winner = lease(&world, id).await;
    let tokens = world.replica("loser");
    let loser = tokio::spawn(async move { token(&tokens, id).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let renewed = world.provider.grant("account-1");
    world.store.commit(&winner, &renewed).await.unwrap();
    let answer = loser.await.unwrap().unwrap();
    assert_eq!(Some(answer.access_token), renewed.access_token);
    assert_eq!(world.provider.refreshes(), 0);
    assert!(world.stored(id).await.back_off.is_none());
}

#[tokio::test]
async fn credentials_that_come_during_a_refused_refresh_are_used() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let again = world.provider.grant("account-1");
    let tokens = world.replica("a");
    // The old grant's refresh token is refused, after a while; meanwhile the user links again.
    world.provider.fail_next([RefreshFault::Delay(Duration::from_millis(100))]);
    let caller = tokio::spawn(async move { token(&tokens, id).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(world.identity_with(Some(again)).await, id);
    caller.await.unwrap().unwrap();
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
}

#[tokio::test]
async fn data_that_is_written_during_a_refresh_stays() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let tokens = world.replica("a");
    world.provider.fail_next([RefreshFault::Delay(Duration::from_millis(100))]);
    let caller = tokio::spawn(async move { token(&tokens, id).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    let data = fixtures::object(json!({"preferred": "T1"}));
    let update = DataUpdate {
        id,
        data: data.clone(),
        credentials: None,
        if_version: None,
        actor: Actor::OPERATOR,
    };
    world.store.update_data(&update).await.unwrap();
    let answer = caller.await.unwrap().unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(world.find(id).await.data, data);
}

#[tokio::test]
async fn an_unlink_during_a_refresh_is_final_and_the_fresh_token_is_revoked_too() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let tokens = world.replica("a");
    world.provider.fail_next([RefreshFault::Delay(Duration::from_millis(100))]);
    let caller = tokio::spawn(async move { token(&tokens, id).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    world.identities.unlink(id, false, Actor::OPERATOR).await.unwrap();
    assert!(matches!(caller.await.unwrap(), Err(Error::NotFound(_))));
    assert!(IdentityRepository::find(&*world.store, id).await.unwrap().is_none());
    assert_eq!(world.provider.revocations(), 1);
    assert_eq!(world.events(EventKind::GrantRevoked).await.len(), 1);
}

#[tokio::test]
async fn a_caller_who_leaves_stops_nothing_and_a_shutdown_waits() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let tokens = world.replica("a");
    world.provider.fail_next([RefreshFault::Delay(Duration::from_millis(100))]);
    let caller = tokio::spawn(async move { token(&tokens, id).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    caller.abort();
    assert_eq!(world.tasks.running(), 1);
    world.tasks.drain().await;
    assert_eq!(world.stored(id).await.generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_is_tried_again_and_the_call_never() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let flaky = Arc::new(Flaky { commit: 5.into(), ..Flaky::over(&world) });
    let answer = token(&world.replica_over("a", flaky), id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(world.provider.refreshes(), 1);
    assert_eq!(world.stored(id).await.generation, 2);
}

#[tokio::test]
async fn without_a_refresh_token_a_token_serves_until_it_ends() {
    let world = World::new().await;
    let credentials = Credentials { refresh_token: None, ..world.provider.grant("account-1") };
    let id = world.identity_with(Some(credentials)).await;
    let tokens = world.replica("a");
    world.clock.advance(TimeDelta::seconds(3600 - 10));
    token(&tokens, id).await.unwrap();
    assert!(matches!(tokens.refresh(id).await, Err(Error::IdentityNotValid { reason: None, .. })));
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
    world.clock.advance(TimeDelta::seconds(20));
    for _ in 0..2 {
        assert!(matches!(
            token(&tokens, id).await,
            Err(Error::IdentityNotValid { reason: Some(InvalidReason::NoRefreshToken), .. })
        ));
    }
    assert_eq!(world.provider.refreshes(), 0);
}

#[tokio::test]
async fn an_identity_without_credentials_says_so() {
    let world = World::new().await;
    let id = world.identity_with(None).await;
    let error = token(&world.replica("a"), id).await.unwrap_err();
    assert!(matches!(error, Error::IdentityNotValid { reason: None, .. }));
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
    let nobody = token(&world.replica("a"), IdentityId(999)).await.unwrap_err();
    assert!(matches!(nobody, Error::NotFound(_)));
}

#[tokio::test]
async fn a_grant_that_is_refused_with_a_native_code_keeps_the_code_in_the_event() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    world.provider.fail_next([refused("bad_refresh_token")]);
    token(&world.replica("a"), id).await.unwrap_err();
    let events = world.events(EventKind::IdentityInvalidated).await;
    assert_eq!(events[0].detail["detail"], "bad_refresh_token");
}

async fn lease(world: &World, id: IdentityId) -> Lease {
    let generation = world.stored(id).await.generation;
    let taken = world.store.take_lease(id, generation, "crashed", CALL_TIMEOUT * 3).await.unwrap();
    match taken {
        LeaseOutcome::Taken(lease, _) => lease,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_that_ends_while_its_caller_waits_is_not_answered() {
    let world = World::new().await;
    let id = world.identity().await;
    world.clock.advance(TimeDelta::seconds(3600 - 30));
    world.provider.set_reachable(false);
    world.provider.fail_next([RefreshFault::LoseRequest]);
    let slow = Arc::new(Flaky { record: Duration::from_millis(100), ..Flaky::over(&world) });
    let tokens = world.replica_over("a", slow);
    let caller = tokio::spawn(async move { token(&tokens, id).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    world.expire();
    let answer = caller.await.unwrap();
    assert!(matches!(answer, Err(Error::ProviderUnavailable { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ended_before_it_was_safe_is_refreshed_again() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let flaky = Arc::new(Flaky { commit: 5.into(), ..Flaky::over(&world) });
    let tokens = world.replica_over("a", flaky);
    let caller = tokio::spawn(async move { token(&tokens, id).await });
    // The provider has answered, and the database is away for longer than the token lives.
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.expire();
    let answer = caller.await.unwrap().unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(world.provider.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_time_is_nearly_over_sends_nothing() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let slow = Arc::new(Flaky { record: CALL_TIMEOUT * 4, ..Flaky::over(&world) });
    let error = token(&world.replica_over("a", slow), id).await.unwrap_err();
    assert!(matches!(error, Error::ProviderUnavailable { .. }));
    assert_eq!(world.provider.refreshes(), 0);
    // What was written down was not sent, and does not count.
    assert_eq!(lease(&world, id).await.unanswered, 0);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_fails_leaves_no_doubt_about_what_was_never_sent() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    for _ in 0..3 {
        // It was written down, the answer was lost, and giving the lease back fails at first.
        let flaky = Flaky { record_lost: 1.into(), release: 3.into(), ..Flaky::over(&world) };
        let error = token(&world.replica_over("a", Arc::new(flaky)), id).await.unwrap_err();
        assert!(matches!(error, Error::Repository(_)));
        world.tasks.drain().await;
    }
    assert_eq!(world.provider.refreshes(), 0);
    token(&world.replica("b"), id).await.unwrap();
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_did_nothing_is_written_down_however_often_the_database_fails() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    for _ in 0..3 {
        let code = "invalid_client".to_owned();
        world.provider.fail_next([RefreshFault::Refuse(ConnectorError::ClientRejected { code })]);
        let flaky = Arc::new(Flaky { end: 4.into(), ..Flaky::over(&world) });
        let error = token(&world.replica_over("a", flaky), id).await.unwrap_err();
        assert!(matches!(error, Error::ProviderMisconfigured { .. }));
        world.clock.advance(TimeDelta::minutes(2));
    }
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
    token(&world.replica("b"), id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_answer_in_hand_goes_before_the_careful_retry() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let away = Arc::new(Flaky { commit: 12.into(), ..Flaky::over(&world) });
    let first = world.replica_over("a", away);
    let early = tokio::spawn(async move { token(&first, id).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The lease runs out while the database is away, and somebody else is there first when it is
    // back.
    world.clock.advance(TimeDelta::minutes(1));
    let second = world.replica("b");
    let late = tokio::spawn(async move { token(&second, id).await });
    let (early, late) = (early.await.unwrap().unwrap(), late.await.unwrap().unwrap());
    assert_eq!(early.access_token, late.access_token);
    assert_eq!(world.provider.refreshes(), 1);
    assert_eq!(world.provider.revoked_by_reuse(), 0);
}

#[tokio::test]
async fn a_link_that_brings_no_refresh_token_loses_none() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let tokens = world.replica("a");
    world.provider.fail_next([RefreshFault::Delay(Duration::from_millis(100))]);
    let caller = tokio::spawn(async move { tokens.refresh(id).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    let linked = Credentials {
        access_token: Some(Secret::new("of the new link")),
        refresh_token: None,
        ..fixtures::credentials()
    };
    assert_eq!(world.identity_with(Some(linked)).await, id);
    caller.await.unwrap().unwrap();
    world.expire();
    let answer = token(&world.replica("b"), id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(world.provider.most_uses_of_one_token(), 1);
}

/// It was too late for the sending when the database came to write it down: nobody after it is to
/// doubt a sending that never was.
#[tokio::test(start_paused = true)]
async fn a_recording_that_comes_when_the_time_is_over_leaves_no_doubt() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let late = Duration::from_secs(40);
    let slow = Flaky { before_record: late, release: 99.into(), ..Flaky::over(&world) };
    let tokens = world.replica_over("slow", Arc::new(slow));
    let caller = tokio::spawn(async move { token(&tokens, id).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Less is left of the lease than a call may take; and before it can be given back it is over.
    world.clock.advance(TimeDelta::from_std(late).unwrap());
    tokio::time::sleep(late).await;
    world.clock.advance(TimeDelta::minutes(1));
    assert_eq!(lease(&world, id).await.unanswered, 0);
    assert_eq!(world.provider.refreshes(), 0);
    caller.abort();
}

/// The user links again between the recording of a sending and the sending, and the link brings no
/// refresh token: the one that stays is not sent by another while it may be on its way.
#[tokio::test(start_paused = true)]
async fn a_link_that_keeps_a_refresh_token_on_its_way_lets_nobody_else_send_it() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    let slow = Flaky { record: Duration::from_secs(12), ..Flaky::over(&world) };
    let first = world.replica_over("slow", Arc::new(slow));
    let early = tokio::spawn(async move { first.refresh(id).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let linked = Credentials {
        access_token: Some(Secret::new("of the new link")),
        refresh_token: None,
        ..fixtures::credentials()
    };
    assert_eq!(world.identity_with(Some(linked)).await, id);
    let second = world.replica("b");
    let late = tokio::spawn(async move { second.refresh(id).await });
    early.await.unwrap().unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(world.provider.refreshes(), 1);
    assert_eq!(world.provider.most_uses_of_one_token(), 1);
    assert_eq!(world.provider.revoked_by_reuse(), 0);
    world.expire();
    let answer = token(&world.replica("b"), id).await.unwrap();
    assert!(world.provider.accepts("account-1", &answer.access_token));
}

/// The store, with a database that is slow, or away while something is tried.
struct Flaky {
    store: Arc<MemoryStore>,
    /// How often it fails; the last time it is done and the answer lost.
    commit: AtomicUsize,
    /// How often it fails.
    end: AtomicUsize,
    release: AtomicUsize,
    /// How often it is done and the answer lost.
    record_lost: AtomicUsize,
    /// How long it takes.
    record: Duration,
    before_record: Duration,
    find: Duration,
}

impl Flaky {
    fn over(world: &World) -> Self {
        Self {
            store: world.store.clone(),
            commit: 0.into(),
            end: 0.into(),
            release: 0.into(),
            record_lost: 0.into(),
            record: Duration::ZERO,
            before_record: Duration::ZERO,
            find: Duration::ZERO,
        }
    }
}

/// How many failures are left, this one included; and one less from now on.
fn left(failures: &AtomicUsize) -> usize {
    let left = failures.load(Ordering::SeqCst);
    failures.store(left.saturating_sub(1), Ordering::SeqCst);
    left
}

fn gone() -> RepositoryError {
    RepositoryError::Store("the connection is gone".into())
}

#[async_trait]
impl CredentialsRepository for Flaky {
    async fn find(&self, id: IdentityId) -> Result<Option<StoredCredentials>, RepositoryError> {
        let found = CredentialsRepository::find(&*self.store, id).await;
        tokio::time::sleep(self.find).await;
        found
    }

    async fn take_lease(
        &self,
        id: IdentityId,
        generation: i64,
        holder: &str,
        time: Duration,
    ) -> Result<LeaseOutcome, RepositoryError> {
        self.store.take_lease(id, generation, holder, time).await
    }

    async fn record_sending(
        &self,
        lease: &Lease,
        time: Duration,
    ) -> Result<LeasedWrite, RepositoryError> {
        tokio::time::sleep(self.before_record).await;
        let recorded = self.store.record_sending(lease, time).await;
        tokio::time::sleep(self.record).await;
        if left(&self.record_lost) > 0 { Err(gone()) } else { recorded }
    }

    async fn commit(
        &self,
        lease: &Lease,
        credentials: &Credentials,
    ) -> Result<LeasedWrite, RepositoryError> {
        match left(&self.commit) {
            0 => self.store.commit(lease, credentials).await,
            1 => self.store.commit(lease, credentials).await.and_then(|_| Err(gone())),
            _ => Err(gone()),
        }
    }

    async fn end(&self, lease: &Lease, end: &RefreshEnd) -> Result<LeasedWrite, RepositoryError> {
        if left(&self.end) > 0 { Err(gone()) } else { self.store.end(lease, end).await }
    }

    async fn release(&self, lease: &Lease) -> Result<LeasedWrite, RepositoryError> {
        if left(&self.release) > 0 { Err(gone()) } else { self.store.release(lease).await }
    }

    async fn changed(&self, id: IdentityId, at_most: Duration) {
        self.store.changed(id, at_most).await;
    }
}

#[tokio::test]
async fn a_refresh_is_proven_with_the_key_that_the_refresh_token_is_bound_to() {
    let world = World::new().await;
    world.provider.set_binding(true);
    let id = world.identity().await;
    let tokens = world.replica("a");
    let key = async || world.stored(id).await.credentials.unwrap().dpop_key;
    let first = key().await;
    assert!(first.is_some());
    for _ in 0..2 {
        world.expire();
        tokens.issue(id, &TokenNeed::default()).await.unwrap();
        assert_eq!(key().await, first);
    }
    // Whoever presents another key is refused, and so would be whoever presents none.
    let stored = world.stored(id).await.credentials.unwrap();
    let other = Credentials { dpop_key: Some(Secret::random()), ..stored };
    let other = Credentials { access_token: Some(Secret::new("a")), ..other };
    let id = world.identity_with(Some(other)).await;
    let refused = tokens.refresh(id).await;
    assert!(matches!(refused, Err(Error::IdentityNotValid { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_grant_from_before_gets_one_key_with_its_next_refresh_careful_retry_and_all() {
    let world = World::new().await;
    let id = world.identity().await;
    let key = async || world.stored(id).await.credentials.unwrap().dpop_key;
    assert_eq!(key().await, None);
    world.provider.set_binding(true);
    world.provider.set_reuse_interval(TimeDelta::seconds(10));
    // It has bound its tokens by then, and refuses any other key.
    world.provider.fail_next([RefreshFault::LoseAnswer]);
    world.expire();
    let answer = token(&world.replica("a"), id).await.unwrap();
    assert_eq!(answer.token_type, "DPoP");
    assert!(world.provider.accepts("account-1", &answer.access_token));
    assert_eq!(world.provider.most_uses_of_one_token(), 2);
    let first = key().await;
    world.expire();
    token(&world.replica("a"), id).await.unwrap();
    assert_eq!(key().await, first);
}
