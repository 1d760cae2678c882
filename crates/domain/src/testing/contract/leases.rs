//! The leases of [`CredentialsRepository`](crate::ports::CredentialsRepository).

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{
    LONG, PATIENCE, Store, credentials_of, end_invalid, events, identity, kinds, lease, lease_for,
    link, linked, provider, race,
};
use crate::{
    credentials::Credentials,
    event::{Actor, EventKind},
    identity::{Identity, IdentityStatus, InvalidReason},
    ids::IdentityId,
    ports::{
        BackOff, DataUpdate, FailureClass, Lease, LeaseOutcome, LeasedWrite, Link, RefreshEnd,
        StoredCredentials,
    },
    secret::Secret,
    testing::fixtures,
};

/// Of racing takers of one lease, exactly one gets it.
pub async fn of_racing_takers_one_gets_the_lease(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let outcomes = race(32, |racer| {
        let store = store.clone();
        async move { take(&store, id, 1, &format!("replica-{racer}")).await }
    })
    .await;
    let taken = outcomes.iter().filter(|it| matches!(it, LeaseOutcome::Taken(..))).count();
    let held = outcomes.iter().filter(|it| matches!(it, LeaseOutcome::Held)).count();
    assert_eq!((taken, held), (1, 31), "{outcomes:?}");
}

/// A lease that somebody holds is held, for its own holder too.
pub async fn a_lease_that_somebody_holds_is_held(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let held = lease(store, id).await;
    assert_eq!((held.identity_id, held.generation, held.unanswered), (id, 1, 0));
    for holder in ["replica-1", "replica-2"] {
        assert_eq!(take(store, id, 1, holder).await, LeaseOutcome::Held);
    }
}

/// With a lease comes what is there: the identity, its credentials, and how the last refresh failed.
pub async fn with_a_lease_comes_what_is_there(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let failed = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: true };
    store.credentials().end(&lease(store, id).await, &failed).await.unwrap();
    let LeaseOutcome::Taken(_, leased) = take(store, id, 1, "replica-1").await else {
        panic!("nobody held it");
    };
    assert_eq!(Some(leased.identity), store.identities().find(id).await.unwrap());
    assert!(leased.stored.back_off.is_some());
    assert_eq!(leased.stored, credentials_of(store, id).await);
}

/// A lease on another generation, or on nobody, has moved; also while somebody holds it.
pub async fn a_lease_on_another_generation_has_moved(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    assert_eq!(take(store, IdentityId(4_711), 1, "replica-1").await, LeaseOutcome::Moved);
    for other in [0, 2] {
        assert_eq!(take(store, id, other, "replica-1").await, LeaseOutcome::Moved);
    }
    let held = lease(store, id).await;
    assert_eq!(take(store, id, 0, "replica-1").await, LeaseOutcome::Moved);
    store.credentials().commit(&held, &renewed()).await.unwrap();
    assert_eq!(take(store, id, 1, "replica-1").await, LeaseOutcome::Moved);
}

/// The lease of an invalid identity is not given: it has moved.
pub async fn the_lease_of_an_invalid_identity_has_moved(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let held = lease(store, id).await;
    store.credentials().end(&held, &end_invalid()).await.unwrap();
    assert_eq!(take(store, id, 1, "replica-1").await, LeaseOutcome::Moved);
}

/// A lease that ran out is taken with a greater attempt, and nothing that its old holder writes
/// is taken any more.
pub async fn a_lease_that_ran_out_is_taken_and_its_old_holder_fenced_off(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let old = lease_for(store, identity.id, Duration::ZERO).await;
    let new = lease(store, identity.id).await;
    assert!(new.attempt > old.attempt, "{new:?} after {old:?}");
    let before = whole(store, &identity).await;

    for (write, outcome) in every_write(store, &old).await {
        assert_eq!(outcome, LeasedWrite::Superseded, "{write}");
    }

    assert_eq!(whole(store, &identity).await, before);
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked]);
    assert_eq!(take(store, identity.id, 1, "replica-3").await, LeaseOutcome::Held);
    let done = store.credentials().commit(&new, &renewed()).await.unwrap();
    assert_eq!(done, LeasedWrite::Done);
}

/// Of racing takers of a lease that ran out, exactly one gets it.
pub async fn of_racing_takers_of_a_lease_that_ran_out_one_gets_it(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    lease_for(store, id, Duration::ZERO).await;
    let outcomes = race(32, |racer| {
        let store = store.clone();
        async move { take(&store, id, 1, &format!("replica-{racer}")).await }
    })
    .await;
    let taken = outcomes.iter().filter(|it| matches!(it, LeaseOutcome::Taken(..))).count();
    assert_eq!(taken, 1, "{outcomes:?}");
}

/// A holder whose time ran out still writes while nobody came after.
pub async fn a_lease_that_ran_out_writes_while_nobody_came_after(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let late = lease_for(store, id, Duration::ZERO).await;
    let credentials = store.credentials();
    assert_eq!(credentials.commit(&late, &renewed()).await.unwrap(), LeasedWrite::Done);
    assert_eq!(credentials_of(store, id).await.credentials, Some(renewed()));
}

/// Sendings without an answer are counted, and the next holder sees them.
pub async fn sendings_are_counted_and_seen_by_the_next_holder(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    for sendings in 0..3 {
        let held = lease_in_turn(store, id, SHORT).await;
        assert_eq!(held.unanswered, sendings);
        let recorded = store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
        assert_eq!(recorded, LeasedWrite::Done);
    }
    assert_eq!(lease_in_turn(store, id, LONG).await.unanswered, 3);
}

/// A sending that is recorded again is counted once, until the holder counts on.
pub async fn a_repeated_recording_counts_once(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let mut held = lease_for(store, id, SHORT).await;
    for sending in 0..2 {
        held.unanswered = sending;
        for _ in 0..2 {
            let recorded = store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
            assert_eq!(recorded, LeasedWrite::Done);
        }
    }
    assert_eq!(lease_in_turn(store, id, LONG).await.unanswered, 2);
}

/// A sending is not written down when less of the lease is left than it may take: nothing is
/// counted that can't be sent in time.
pub async fn a_sending_is_not_recorded_when_it_is_too_late_for_it(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    for (time, sending, recorded) in [
        (Duration::ZERO, Duration::ZERO, LeasedWrite::Superseded),
        (LONG, LONG * 2, LeasedWrite::Superseded),
        (LONG, LONG / 2, LeasedWrite::Done),
    ] {
        let held = lease_for(store, id, time).await;
        assert_eq!(held.unanswered, 0);
        let written = store.credentials().record_sending(&held, sending).await.unwrap();
        assert_eq!(written, recorded, "{sending:?} of {time:?}");
        let counted = LeasedWrite::Done == recorded;
        // It is still the holder's, which counted on only if it was done.
        let held = Lease { unanswered: counted.into(), ..held };
        if counted {
            let end = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: false };
            store.credentials().end(&held, &end).await.unwrap();
            assert_eq!(lease(store, id).await.unanswered, 1);
        } else if time == LONG {
            assert_eq!(store.credentials().release(&held).await.unwrap(), LeasedWrite::Done);
        }
    }
}

/// A lease that is given back takes a recording with it that its holder did not count on.
pub async fn a_released_lease_takes_back_what_was_not_sent(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    for sent in [0, 1] {
        let mut held = lease(store, id).await;
        for sending in 0..=sent {
            held.unanswered = sending;
            store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
        }
        assert_eq!(store.credentials().release(&held).await.unwrap(), LeasedWrite::Done);
        let next = lease(store, id).await;
        assert_eq!(next.unanswered, sent);
        store.credentials().release(&Lease { unanswered: 0, ..next }).await.unwrap();
    }
}

/// A recording that the database does only after its lease was given back counts nothing.
pub async fn a_recording_after_the_release_counts_nothing(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let failed = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: true };
    for end in [None, Some(failed)] {
        let held = lease(store, id).await;
        match end {
            None => store.credentials().release(&held).await.unwrap(),
            Some(end) => store.credentials().end(&held, &end).await.unwrap(),
        };
        let recorded = store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
        assert_eq!(recorded, LeasedWrite::Superseded);
        let next = lease(store, id).await;
        assert_eq!(next.unanswered, 0);
        store.credentials().release(&next).await.unwrap();
    }
}

/// A later holder gives way to the answer of an earlier one, until it has recorded a sending of
/// its own; also one that said that the identity is invalid.
pub async fn a_later_holder_that_sent_nothing_gives_way_to_an_answer(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for (user, later) in [("u", "waits"), ("v", "invalidates"), ("w", "sends"), ("x", "sent")] {
        let identity = linked(store, &link(provider, user, user)).await;
        let credentials = store.credentials();
        let mut early = lease_for(store, identity.id, SHORT).await;
        credentials.record_sending(&early, Duration::ZERO).await.unwrap();
        early.unanswered += 1;
        let mut late = lease_in_turn(store, identity.id, LONG).await;
        assert_eq!(late.unanswered, 1, "{later}");
        match later {
            "invalidates" => drop(credentials.end(&late, &end_invalid()).await.unwrap()),
            "sends" | "sent" => {
                credentials.record_sending(&late, Duration::ZERO).await.unwrap();
                late.unanswered += 1;
                if later == "sent" {
                    let end =
                        RefreshEnd::Failed { back_off: fixtures::back_off(), answered: false };
                    credentials.end(&late, &end).await.unwrap();
                }
            }
            _ => {}
        }
        let before = whole(store, &identity).await;

        let committed = credentials.commit(&early, &renewed()).await.unwrap();

        if late.unanswered == 1 {
            assert_eq!(committed, LeasedWrite::Done, "{later}");
            let (found, stored) = whole(store, &identity).await;
            assert_eq!(found.status, IdentityStatus::Valid, "{later}");
            assert_eq!((stored.generation, stored.credentials), (2, Some(renewed())), "{later}");
            let recorded = credentials.record_sending(&late, Duration::ZERO).await.unwrap();
            assert_eq!(recorded, LeasedWrite::Superseded, "{later}");
        } else {
            assert_eq!(committed, LeasedWrite::Superseded, "{later}");
            assert_eq!(whole(store, &identity).await, before, "{later}");
        }
    }
}

/// A commit stores the next generation, clears back-off and doubt, releases the lease, and is
/// told of in the holder's name.
pub async fn a_commit_stores_the_next_generation(store: &Arc<dyn Store>) {
    let before = identity(store).await;
    let first = lease(store, before.id).await;
    store.credentials().record_sending(&first, Duration::ZERO).await.unwrap();
    let failed = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: false };
    store.credentials().end(&first, &failed).await.unwrap();
    let held = lease(store, before.id).await;
    store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();

    let done = store.credentials().commit(&held, &renewed()).await.unwrap();

    assert_eq!(done, LeasedWrite::Done);
    assert_eq!(
        whole(store, &before).await,
        (
            Identity { expires_at: renewed().expires_at, version: 2, ..before.clone() },
            StoredCredentials {
                identity_id: before.id,
                provider_id: before.idp_id,
                generation: 2,
                credentials: Some(renewed()),
                ..fixtures::stored_credentials()
            }
        )
    );
    let event = events(store).await.pop().unwrap();
    assert_eq!(event.about, EventKind::IdentityRefreshed);
    assert_eq!(event.actor, Actor::replica("replica-1"));
    assert_eq!((event.identity_id, event.provider_id), (Some(before.id), Some(before.idp_id)));
    assert_eq!(event.user_id, Some(before.user_id));
    let next = lease(store, before.id).await;
    assert_eq!((next.generation, next.unanswered), (2, 0));
    assert!(next.attempt > held.attempt, "an attempt is not given twice");
}

/// A commit stores the credentials as they are: what is absent is not filled in.
pub async fn a_commit_stores_the_credentials_as_they_are(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    let bare =
        Credentials { access_token: Some(Secret::new("access-2")), ..Credentials::default() };
    store.credentials().commit(&held, &bare).await.unwrap();
    let (found, stored) = whole(store, &identity).await;
    assert_eq!((stored.credentials, found.expires_at), (Some(bare), None));
}

/// A repeated commit is done, and changes nothing.
pub async fn a_repeated_commit_is_done_and_changes_nothing(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    store.credentials().commit(&held, &renewed()).await.unwrap();
    let before = whole(store, &identity).await;

    let again = store.credentials().commit(&held, &renewed()).await.unwrap();

    assert_eq!(again, LeasedWrite::Done);
    assert_eq!(whole(store, &identity).await, before);
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked, EventKind::IdentityRefreshed]);
}

/// Racing tries of one commit are all done, and it is done once.
pub async fn racing_tries_of_one_commit_are_one_commit(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    let outcomes = race(16, |_| {
        let (store, held) = (store.clone(), held.clone());
        async move { store.credentials().commit(&held, &renewed()).await.unwrap() }
    })
    .await;
    assert_eq!(outcomes, [LeasedWrite::Done; 16]);
    let (found, stored) = whole(store, &identity).await;
    assert_eq!((found.version, stored.generation), (2, 2));
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked, EventKind::IdentityRefreshed]);
}

/// Whatever is written under a lease of an identity that is gone, the answer is that it is gone.
pub async fn a_write_after_the_unlink_finds_it_gone(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let held = lease(store, id).await;
    super::unlink(store, id).await;
    for (write, outcome) in every_write(store, &held).await {
        assert_eq!(outcome, LeasedWrite::Gone, "{write}");
    }
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked, EventKind::IdentityUnlinked]);
}

/// A failed refresh keeps generation and version, remembers when and why, releases the lease, and
/// is told of.
pub async fn a_failed_refresh_keeps_the_generation_and_backs_off(store: &Arc<dyn Store>) {
    let before = identity(store).await;
    let (found, stored) = whole(store, &before).await;
    for (class, failures) in [(FailureClass::Unavailable, 1), (FailureClass::Misconfigured, 2)] {
        let back_off = BackOff { class, failures, ..fixtures::back_off() };
        let held = lease(store, before.id).await;
        let end = RefreshEnd::Failed { back_off: back_off.clone(), answered: true };
        let done = store.credentials().end(&held, &end).await.unwrap();

        assert_eq!(done, LeasedWrite::Done);
        let after = StoredCredentials { back_off: Some(back_off.clone()), ..stored.clone() };
        assert_eq!(whole(store, &before).await, (found.clone(), after));
        let event = events(store).await.pop().unwrap();
        assert_eq!(event.about, EventKind::IdentityRefreshFailed);
        assert_eq!(event.actor, Actor::replica("replica-1"));
        assert_eq!(event.identity_id, Some(before.id));
        assert_eq!(event.detail["failure"], json!(class.as_str()));
        assert_eq!(event.detail["detail"], json!(back_off.detail));
    }
}

/// An answer to a sending takes that sending off the count; an earlier one that got none stays.
pub async fn an_answer_ends_the_doubt_about_its_own_sending_alone(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    for (answered, unanswered) in [(true, 0), (false, 1), (true, 1), (false, 2)] {
        let mut held = lease(store, id).await;
        store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
        held.unanswered += 1;
        let end = RefreshEnd::Failed { back_off: fixtures::back_off(), answered };
        store.credentials().end(&held, &end).await.unwrap();
        let next = lease(store, id).await;
        assert_eq!(next.unanswered, unanswered);
        store.credentials().release(&next).await.unwrap();
    }
}

/// A refresh that ends for good makes the identity invalid, with reason and time, and keeps
/// generation and credentials.
pub async fn a_refresh_that_ends_for_good_makes_the_identity_invalid(store: &Arc<dyn Store>) {
    let before = identity(store).await;
    for (nth, reason) in [
        InvalidReason::GrantRejected,
        InvalidReason::NoRefreshToken,
        InvalidReason::RotationInDoubt,
    ]
    .into_iter()
    .enumerate()
    {
        let link = link(before.idp_id, &format!("u{nth}"), &format!("a{nth}"));
        let before = linked(store, &link).await;
        let held = lease(store, before.id).await;
        let end = RefreshEnd::Invalid { reason, detail: "invalid_grant".into() };
        let done = store.credentials().end(&held, &end).await.unwrap();

        assert_eq!(done, LeasedWrite::Done);
        let (found, stored) = whole(store, &before).await;
        let invalid = found.invalid.clone().unwrap();
        assert_eq!(invalid.reason, reason);
        assert!(invalid.at >= before.date_added);
        let status = IdentityStatus::Invalid;
        let expected =
            Identity { status, invalid: Some(invalid.clone()), version: 2, ..before.clone() };
        assert_eq!(found, expected);
        assert_eq!((stored.status, stored.invalid), (status, Some(invalid)));
        assert_eq!((stored.generation, stored.credentials), (1, Some(fixtures::credentials())));
        let event = events(store).await.pop().unwrap();
        assert_eq!(event.about, EventKind::IdentityInvalidated);
        assert_eq!(event.identity_id, Some(before.id));
        assert_eq!(event.detail["reason"], json!(reason.as_str()));
        assert_eq!(event.detail["detail"], json!("invalid_grant"));
    }
}

/// A repeated end is done, and changes nothing.
pub async fn a_repeated_end_is_done_and_changes_nothing(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let failed = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: false };
    for end in [failed, end_invalid()] {
        let held = lease(store, identity.id).await;
        store.credentials().end(&held, &end).await.unwrap();
        let (before, told) = (whole(store, &identity).await, kinds(store).await);

        let again = store.credentials().end(&held, &end).await.unwrap();

        assert_eq!(again, LeasedWrite::Done);
        assert_eq!(whole(store, &identity).await, before);
        assert_eq!(kinds(store).await, told);
    }
}

/// A lease that was released is free, nothing is told, and releasing it again is done too.
pub async fn a_released_lease_is_free(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let before = whole(store, &identity).await;
    let held = lease(store, identity.id).await;
    for _ in 0..2 {
        assert_eq!(store.credentials().release(&held).await.unwrap(), LeasedWrite::Done);
    }
    assert_eq!(whole(store, &identity).await, before);
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked]);

    let next = lease(store, identity.id).await;
    assert!(next.attempt > held.attempt, "an attempt is not given twice");
    assert_eq!(store.credentials().release(&held).await.unwrap(), LeasedWrite::Superseded);
    assert_eq!(take(store, identity.id, 1, "replica-3").await, LeaseOutcome::Held);
}

/// Data that was written during a lease survives its commit.
pub async fn data_written_during_a_lease_survives_the_commit(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    let update = DataUpdate { id: identity.id, ..fixtures::data_update() };
    store.identities().update_data(&update).await.unwrap();

    let done = store.credentials().commit(&held, &renewed()).await.unwrap();

    assert_eq!(done, LeasedWrite::Done);
    let (found, stored) = whole(store, &identity).await;
    assert_eq!((found.data, found.version), (update.data, 3));
    assert_eq!(stored.credentials, Some(renewed()));
}

/// New credentials end a lease and supersede whatever its holder writes, from wherever they came.
pub async fn new_credentials_supersede_the_lease(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let again = |user| link(provider, user, user);
    let users = ["updated", "linked", "rebound", "rebound without", "never had any"];
    for user in users {
        let first = match user {
            "never had any" => Link { credentials: None, ..again(user) },
            _ => again(user),
        };
        let identity = linked(store, &first).await;
        let held = lease(store, identity.id).await;
        let takeover =
            Link { reattach: true, ..link(provider, &format!("another than {user}"), user) };
        match user {
            "updated" => {
                let update = DataUpdate {
                    id: identity.id,
                    credentials: Some(fixtures::credentials()),
                    ..fixtures::data_update()
                };
                store.identities().update_data(&update).await.unwrap();
            }
            "linked" => drop(linked(store, &again(user)).await),
            "rebound" => drop(linked(store, &takeover).await),
            _ => drop(linked(store, &Link { credentials: None, ..takeover }).await),
        }
        let (before, told) = (whole(store, &identity).await, kinds(store).await);

        for (write, outcome) in every_write(store, &held).await {
            assert_eq!(outcome, LeasedWrite::Superseded, "{user}: {write}");
        }

        assert_eq!(whole(store, &identity).await, before, "{user}");
        assert_eq!(kinds(store).await, told, "{user}");
        let next = lease(store, identity.id).await;
        assert!(next.attempt > held.attempt, "{user}: {next:?} after {held:?}");
    }
}

/// Of a commit and new credentials that race, the new credentials are what is there at the end.
pub async fn new_credentials_win_whenever_they_come(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for round in 0..8 {
        let name = format!("u{round}");
        let identity = linked(store, &link(provider, &name, &name)).await;
        let held = lease(store, identity.id).await;
        let own = Credentials {
            access_token: Some(Secret::new("the caller's")),
            ..fixtures::credentials()
        };
        let update =
            DataUpdate { id: identity.id, credentials: Some(own), ..fixtures::data_update() };
        let commit = {
            let store = store.clone();
            tokio::spawn(async move { store.credentials().commit(&held, &renewed()).await })
        };
        store.identities().update_data(&update).await.unwrap();
        let committed = commit.await.unwrap().unwrap();

        let (found, stored) = whole(store, &identity).await;
        let access_token = stored.credentials.unwrap().access_token;
        assert_eq!(access_token, Some(Secret::new("the caller's")));
        let (version, generation) = match committed {
            LeasedWrite::Done => (3, 3),
            LeasedWrite::Superseded => (2, 2),
            LeasedWrite::Gone => panic!("nobody unlinked it"),
        };
        assert_eq!((found.version, stored.generation), (version, generation));
    }
}

/// Of many refreshes at once, those that may go on among those that may not, each is kept by its
/// own conditions, with what is its own.
pub async fn of_many_refreshes_at_once_each_is_kept_as_its_own(store: &Arc<dyn Store>) {
    const MANY: usize = 30;
    let provider = provider(store, "p").await;
    let mut ids = Vec::new();
    for number in 0..MANY {
        let (user, account) = (format!("u{number}"), format!("a{number}"));
        ids.push(linked(store, &link(provider, &user, &account)).await.id);
    }
    let ids = Arc::new(ids);
    // Each by its number: the first and every fifth after it want what is not there any more.
    let is_late = |number: usize, step: usize| number % 5 == step;

    let taken = race(MANY, |number| {
        let (store, id) = (store.clone(), ids[number]);
        let generation = i64::from(!is_late(number, 0));
        async move { take(&store, id, generation, &format!("replica-{number}")).await }
    });
    let mut held_leases = Vec::new();
    for (number, outcome) in taken.await.into_iter().enumerate() {
        if is_late(number, 0) {
            assert_eq!(outcome, LeaseOutcome::Moved, "{number}");
            continue;
        }
        let LeaseOutcome::Taken(lease, there) = outcome else { panic!("{number}: {outcome:?}") };
        let held = (lease.identity_id, lease.generation, lease.unanswered);
        assert_eq!(held, (ids[number], 1, 0));
        assert_eq!(Some(there.identity), store.identities().find(ids[number]).await.unwrap());
        assert_eq!(there.stored, credentials_of(store, ids[number]).await);
        held_leases.push((number, lease));
    }

    let leases = Arc::new(held_leases);
    let recorded = race(leases.len(), |at| {
        let (store, (number, mut lease)) = (store.clone(), leases[at].clone());
        lease.attempt -= i64::from(is_late(number, 1));
        async move { (number, store.credentials().record_sending(&lease, SHORT).await.unwrap()) }
    });
    for (number, outcome) in recorded.await {
        let expected = if is_late(number, 1) { LeasedWrite::Superseded } else { LeasedWrite::Done };
        assert_eq!(outcome, expected, "{number}");
    }

    for number in (0..MANY).filter(|it| is_late(*it, 2)) {
        super::unlink(store, ids[number]).await.unwrap();
    }
    let committed = race(leases.len(), |at| {
        let (store, (number, mut lease)) = (store.clone(), leases[at].clone());
        lease.attempt -= i64::from(is_late(number, 3));
        async move { (number, store.credentials().commit(&lease, &renewed_as(number)).await.unwrap()) }
    });
    for (number, outcome) in committed.await {
        let expected = match number {
            it if is_late(it, 2) => LeasedWrite::Gone,
            it if is_late(it, 3) => LeasedWrite::Superseded,
            _ => LeasedWrite::Done,
        };
        assert_eq!(outcome, expected, "{number}");
    }

    let mut told = events(store).await;
    told.retain(|it| it.about == EventKind::IdentityRefreshed);
    for (number, id) in ids.iter().enumerate().filter(|(it, _)| !is_late(*it, 2)) {
        let is_renewed = is_late(number, 1) || is_late(number, 4);
        let stored = credentials_of(store, *id).await;
        let identity = store.identities().find(*id).await.unwrap().unwrap();
        let of_this: Vec<_> = told.iter().filter(|it| it.identity_id == Some(*id)).collect();
        if !is_renewed {
            assert_eq!((stored.generation, identity.version, of_this.len()), (1, 1, 0), "{number}");
            assert_eq!(stored.credentials, Some(fixtures::credentials()));
            continue;
        }
        let renewed = renewed_as(number);
        assert_eq!((stored.generation, identity.version), (2, 2), "{number}");
        assert_eq!(identity.scopes, renewed.scopes);
        assert_eq!(identity.expires_at, renewed.expires_at);
        assert_eq!(stored.credentials, Some(renewed));
        let [event] = of_this[..] else { panic!("{number}: {of_this:?}") };
        assert_eq!(event.actor, Actor::replica(format!("replica-{number}")));
        assert_eq!(event.user_id.as_ref(), Some(&identity.user_id));
        assert_eq!(event.provider_id, Some(provider));
        let scopes = &event.after.as_ref().unwrap()["scopes"];
        assert_eq!(*scopes, json!(identity.scopes), "{number}");
    }
}

/// New credentials that are nobody else's.
fn renewed_as(number: usize) -> Credentials {
    Credentials {
        access_token: Some(Secret::new(format!("access-{number}"))),
        scopes: vec![format!("scope-{number}")],
        ..renewed()
    }
}

async fn take(
    store: &Arc<dyn Store>,
    id: IdentityId,
    generation: i64,
    holder: &str,
) -> LeaseOutcome {
    store.credentials().take_lease(id, generation, holder, LONG).await.unwrap()
}

/// Enough for a write, and soon over.
const SHORT: Duration = Duration::from_secs(1);

/// The lease, when whoever holds it has let it run out.
async fn lease_in_turn(store: &Arc<dyn Store>, id: IdentityId, time: Duration) -> Lease {
    let generation = credentials_of(store, id).await.generation;
    let taken = async {
        loop {
            let taken =
                store.credentials().take_lease(id, generation, "replica-1", time).await.unwrap();
            if let LeaseOutcome::Taken(lease, _) = taken {
                return lease;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("it is nobody's in time")
}

/// What comes of every write under this lease, the one that would end it last.
async fn every_write(store: &Arc<dyn Store>, lease: &Lease) -> [(&'static str, LeasedWrite); 5] {
    let credentials = store.credentials();
    let failed = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: true };
    [
        ("record_sending", credentials.record_sending(lease, Duration::ZERO).await.unwrap()),
        ("commit", credentials.commit(lease, &renewed()).await.unwrap()),
        ("end as failed", credentials.end(lease, &failed).await.unwrap()),
        ("end as invalid", credentials.end(lease, &end_invalid()).await.unwrap()),
        ("release", credentials.release(lease).await.unwrap()),
    ]
}

/// What a refresh brought.
fn renewed() -> Credentials {
    Credentials {
        access_token: Some(Secret::new("access-2")),
        refresh_token: Some(Secret::new("refresh-2")),
        expires_at: Some(fixtures::NOW + chrono::TimeDelta::hours(2)),
        ..fixtures::credentials()
    }
}

/// The identity and its credentials as they are now.
async fn whole(store: &Arc<dyn Store>, identity: &Identity) -> (Identity, StoredCredentials) {
    let found = store.identities().find(identity.id).await.unwrap().unwrap();
    (found, credentials_of(store, identity.id).await)
}
