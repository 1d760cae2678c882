//! [`RefreshSchedule`](crate::ports::RefreshSchedule) and [`Forecast`](crate::ports::Forecast).

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{LONG, Store, end_invalid, lease, link, linked, now, provider, race, unlink};
use crate::{
    credentials::Credentials,
    ids::{IdentityId, ProviderId},
    ports::{
        BackOff, Death, DeathCount, DeathReason, DueRefresh, FailureClass, LeasedWrite, Link,
        RefreshClaim, RefreshEnd,
    },
    secret::Secret,
    testing::fixtures,
};

/// Tokens that were obtained an hour before they end.
fn ends_at(expires_at: DateTime<Utc>) -> Credentials {
    Credentials {
        expires_at: Some(expires_at),
        obtained_at: Some(expires_at - TimeDelta::hours(1)),
        ..fixtures::credentials()
    }
}

/// An identity whose tokens end at this time, planned.
async fn ending(
    store: &Arc<dyn Store>,
    provider: ProviderId,
    name: &str,
    expires_at: DateTime<Utc>,
) -> IdentityId {
    let credentials = Some(ends_at(expires_at));
    let id = linked(store, &Link { credentials, ..link(provider, name, name) }).await.id;
    while store.refresh_schedule().plan_missing(200).await.unwrap() > 0 {}
    id
}

/// Everything, for as long as a test runs.
fn all(provider_id: ProviderId) -> RefreshClaim {
    RefreshClaim {
        provider_id,
        limit: 200,
        time: LONG,
        per_second: 1000,
        urgent_for: Duration::from_mins(5),
    }
}

async fn claim(store: &Arc<dyn Store>, claim: RefreshClaim) -> Vec<DueRefresh> {
    store.refresh_schedule().claim_due(&claim).await.unwrap()
}

fn ids(due: &[DueRefresh]) -> Vec<IdentityId> {
    due.iter().map(|it| it.identity_id).collect()
}

async fn deaths(store: &Arc<dyn Store>, to: DateTime<Utc>) -> Vec<Death> {
    store.forecast().list_deaths(None, to, None, 200).await.unwrap().items
}

/// Credentials that came by a link are planned when that is asked for, once, and claimed when
/// their time has come and not before.
pub async fn what_was_linked_is_planned_and_claimed_when_its_time_has_come(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let credentials = Some(ends_at(now()));
    let ended = linked(store, &Link { credentials, ..link(provider, "u1", "a1") }).await.id;
    let credentials = Some(ends_at(now() + TimeDelta::hours(1)));
    linked(store, &Link { credentials, ..link(provider, "u2", "a2") }).await;
    assert_eq!(claim(store, all(provider)).await, [], "nothing is planned yet");

    assert_eq!(store.refresh_schedule().plan_missing(1).await.unwrap(), 1);
    assert_eq!(store.refresh_schedule().plan_missing(200).await.unwrap(), 1);
    assert_eq!(store.refresh_schedule().plan_missing(200).await.unwrap(), 0);
    assert_eq!(store.refresh_schedule().due_providers().await.unwrap(), [provider]);
    assert_eq!(store.refresh_schedule().backlog(provider, 10).await.unwrap(), 1);
    assert_eq!(store.refresh_schedule().backlog(provider, 0).await.unwrap(), 0);
    let due = claim(store, all(provider)).await;
    let [due] = due.as_slice() else { panic!("{due:?}") };
    assert_eq!((due.identity_id, due.provider_id, due.generation), (ended, provider, 1));
    assert!(due.refresh_at < now(), "{due:?}");
}

/// What has no refresh token, and what has no credentials, is never due.
pub async fn what_cannot_be_refreshed_is_never_due(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let no_token = Credentials { refresh_token: None, ..ends_at(now()) };
    for (name, credentials) in [("a", Some(no_token)), ("b", None)] {
        linked(store, &Link { credentials, ..link(provider, name, name) }).await;
    }
    assert_eq!(store.refresh_schedule().plan_missing(200).await.unwrap(), 2);
    assert_eq!(store.refresh_schedule().plan_missing(200).await.unwrap(), 0);
    assert_eq!(claim(store, all(provider)).await, []);
    assert_eq!(store.refresh_schedule().due_providers().await.unwrap(), []);
}

/// What one has claimed is nobody else's while the claim lasts; given back or run out, it is
/// anybody's.
pub async fn a_claimed_refresh_is_nobody_elses_until_it_is_given_back_or_runs_out(
    store: &Arc<dyn Store>,
) {
    let provider = provider(store, "p").await;
    let id = ending(store, provider, "a", now()).await;
    let claimed = claim(store, all(provider)).await;
    assert_eq!(ids(&claimed), [id]);
    assert_eq!(claim(store, all(provider)).await, []);
    assert_eq!(store.refresh_schedule().backlog(provider, 10).await.unwrap(), 1, "claimed or not");
    store.refresh_schedule().give_back(&claimed).await.unwrap();
    let short = RefreshClaim { time: Duration::ZERO, ..all(provider) };
    assert_eq!(claim(store, short).await, claimed);
    assert_eq!(claim(store, all(provider)).await, claimed);
}

/// Of racing claims, exactly one gets each refresh.
pub async fn of_racing_claims_one_gets_each_refresh(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let mut made = HashSet::new();
    for name in 0..12 {
        made.insert(ending(store, provider, &format!("a{name}"), now()).await);
    }
    let claims = race(16, |_| {
        let store = store.clone();
        let claimed = RefreshClaim { limit: 3, ..all(provider) };
        async move { claim(&store, claimed).await }
    })
    .await;
    let mut claimed: Vec<_> = claims.iter().flat_map(|it| ids(it)).collect();
    assert!(claims.iter().all(|it| it.len() <= 3), "{claims:?}");
    // Whoever found somebody else claiming got nothing, and asks again.
    claimed.extend(ids(&claim(store, all(provider)).await));
    assert_eq!(claimed.len(), 12);
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), made);
}

/// A commit plans the new credentials and ends the claim on the old ones.
pub async fn a_commit_plans_the_next_refresh(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let id = ending(store, provider, "a", now()).await;
    let claimed = claim(store, all(provider)).await;
    let held = lease(store, id).await;
    let renewed = ends_at(now() + TimeDelta::hours(1));
    store.credentials().commit(&held, &renewed).await.unwrap();
    assert_eq!(store.refresh_schedule().plan_missing(200).await.unwrap(), 0);
    assert_eq!(store.refresh_schedule().backlog(provider, 10).await.unwrap(), 0);

    // One that is over already is due at once.
    let held = lease(store, id).await;
    store.credentials().commit(&held, &ends_at(now())).await.unwrap();
    // What is given back of an earlier generation frees nothing of this one.
    let again = claim(store, all(provider)).await;
    assert_eq!(again[0].generation, 3);
    store.refresh_schedule().give_back(&claimed).await.unwrap();
    assert_eq!(claim(store, all(provider)).await, []);
}

/// A failed refresh is due when its back-off is over, and that of an invalid identity never.
pub async fn a_failed_refresh_is_due_when_its_back_off_is_over(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let id = ending(store, provider, "a", now()).await;
    let back_off = |until| BackOff {
        until,
        class: FailureClass::Unavailable,
        failures: 1,
        detail: "status 503".into(),
    };
    for (until, due) in
        [(now() + TimeDelta::minutes(10), vec![]), (now() - TimeDelta::seconds(1), vec![id])]
    {
        claim(store, all(provider)).await;
        let held = lease(store, id).await;
        let end = RefreshEnd::Failed { back_off: back_off(until), answered: true };
        assert_eq!(store.credentials().end(&held, &end).await.unwrap(), LeasedWrite::Done);
        assert_eq!(ids(&claim(store, all(provider)).await), due, "{until}");
    }
    let held = lease(store, id).await;
    store.credentials().end(&held, &end_invalid()).await.unwrap();
    assert_eq!(store.refresh_schedule().backlog(provider, 10).await.unwrap(), 0);
    assert_eq!(store.refresh_schedule().plan_missing(200).await.unwrap(), 0);
}

/// What is due, and has been unlinked or got other credentials, is due no more.
pub async fn what_has_gone_or_changed_is_not_due(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let gone = ending(store, provider, "a", now()).await;
    ending(store, provider, "b", now()).await;
    unlink(store, gone).await.unwrap();
    let credentials = Some(ends_at(now() + TimeDelta::hours(1)));
    linked(store, &Link { credentials, ..link(provider, "b", "b") }).await;
    assert_eq!(claim(store, all(provider)).await, []);
    assert_eq!(store.refresh_schedule().plan_missing(200).await.unwrap(), 1);
    assert_eq!(claim(store, all(provider)).await, []);
}

/// No more is claimed at an instance than its rate and what a second keeps of it, whoever claims.
pub async fn no_more_is_claimed_than_the_rate_of_the_instance(store: &Arc<dyn Store>) {
    let (one, two) = (provider(store, "p").await, provider(store, "q").await);
    for name in 0..6 {
        ending(store, one, &format!("a{name}"), now()).await;
    }
    ending(store, two, "b", now()).await;
    let slow = |provider_id| RefreshClaim { per_second: 3, ..all(provider_id) };
    let started = std::time::Instant::now();
    let first = claim(store, slow(one)).await.len();
    let second = claim(store, slow(one)).await.len();
    let passed = started.elapsed().as_secs_f64();
    assert_eq!(first, 3);
    assert!(second == 0 || passed > 0.3, "{second} more after {passed} s");
    assert_eq!(claim(store, slow(two)).await.len(), 1, "it has a rate of its own");
}

/// Nothing is claimed at an instance that is paused, and a shorter pause does not end a longer.
pub async fn nothing_is_claimed_at_an_instance_that_is_paused(store: &Arc<dyn Store>) {
    let (paused, other) = (provider(store, "p").await, provider(store, "q").await);
    ending(store, paused, "a", now()).await;
    ending(store, other, "b", now()).await;
    store.refresh_schedule().pause(other, Duration::ZERO).await.unwrap();
    assert_eq!(claim(store, all(other)).await.len(), 1);
    store.refresh_schedule().pause(paused, LONG).await.unwrap();
    store.refresh_schedule().pause(paused, Duration::ZERO).await.unwrap();
    assert_eq!(claim(store, all(paused)).await, []);
}

/// Of what is claimed, three quarters became due lately, the longest due first, and a quarter has
/// been due longer; each fills up what the other leaves.
pub async fn what_may_still_be_in_time_comes_first_and_the_rest_is_not_forgotten(
    store: &Arc<dyn Store>,
) {
    let provider = provider(store, "p").await;
    let (mut lately, mut long_ago) = (Vec::new(), Vec::new());
    for name in 0..6 {
        let ago = TimeDelta::hours(9) - TimeDelta::minutes(20 * name);
        let ended = ending(store, provider, &format!("a{name}"), now() - ago).await;
        long_ago.push(ended);
    }
    for name in 0..6 {
        // Half a minute of life left of an hour: beyond any margin.
        let left = TimeDelta::seconds(300 - 5 * name);
        let alive = ending(store, provider, &format!("b{name}"), now() + left).await;
        lately.push(alive);
    }
    let lately: HashSet<_> = lately.into_iter().collect();
    let urgent = RefreshClaim {
        limit: 4,
        // The jitter spreads what ends together over a quarter of an hour.
        urgent_for: Duration::from_mins(30),
        ..all(provider)
    };
    let four = claim(store, urgent).await;
    assert_eq!(four.len(), 4);
    assert!(four[..3].iter().all(|it| lately.contains(&it.identity_id)), "{four:?}");
    assert!(four[..3].is_sorted_by_key(|it| it.refresh_at), "{four:?}");
    assert_eq!(four[3].identity_id, long_ago[0]);
    // Three of the alive ones are left.
    let rest = claim(store, RefreshClaim { limit: 200, ..urgent }).await;
    assert_eq!(rest.len(), 8);
    assert_eq!(ids(&rest[3..]), long_ago[1..]);
}

/// Among what comes first, organizations take turns.
pub async fn organizations_take_turns(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let mut first_due = Vec::new();
    for name in 0..8 {
        let organization = if name < 7 { "many" } else { "few" };
        // The last is the last due.
        let ago = if name < 7 { TimeDelta::hours(9) } else { TimeDelta::zero() };
        let id = ending(store, provider, &format!("a{name}"), now() - ago).await;
        let of = fixtures::organization(organization);
        store.organization_identities().attach(&of, id, &fixtures::ACTOR).await.unwrap();
        first_due.push(id);
    }
    let urgent_for = Duration::from_hours(100);
    let two = claim(store, RefreshClaim { limit: 2, urgent_for, ..all(provider) }).await;
    assert_eq!(two.len(), 2);
    assert!(first_due[..7].contains(&two[0].identity_id));
    assert_eq!(two[1].identity_id, first_due[7], "the other organization's only one");
}

/// When the refresh token ends is kept beside the credentials, and a refresh is due before that; an
/// end that no refresh puts off is when they die.
pub async fn the_end_of_a_refresh_token_is_kept_and_planned_for(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let lapses = Credentials {
        access_token: Some(Secret::new("a")),
        refresh_token: Some(Secret::new("r")),
        expires_at: None,
        obtained_at: Some(now() - TimeDelta::days(30)),
        refresh_expires_at: Some(now() + TimeDelta::days(1)),
        ..Credentials::default()
    };
    let of = Link { credentials: Some(lapses.clone()), ..link(provider, "u", "a") };
    let id = linked(store, &of).await.id;
    let found = store.credentials().find(id).await.unwrap().unwrap();
    assert_eq!(found.credentials.as_ref(), Some(&lapses));
    store.refresh_schedule().plan_missing(200).await.unwrap();
    assert_eq!(ids(&claim(store, all(provider)).await), [id]);

    let later = Credentials {
        obtained_at: Some(now()),
        refresh_expires_at: Some(now() + TimeDelta::days(31)),
        refresh_ends_at: Some(now() + TimeDelta::days(35)),
        ..lapses
    };
    let held = lease(store, id).await;
    store.credentials().commit(&held, &later).await.unwrap();
    let found = store.credentials().find(id).await.unwrap().unwrap();
    assert_eq!(found.credentials, Some(later.clone()));
    assert_eq!(store.refresh_schedule().backlog(provider, 10).await.unwrap(), 0);
    let told = deaths(store, now() + TimeDelta::days(40)).await;
    let [death] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(Some(death.dies_at), later.refresh_ends_at);
    assert_eq!((death.identity_id, death.reason), (id, DeathReason::RefreshTokenLapses));
}

/// A forecast knows what will have no token that works, why, and nothing else; the next to die
/// comes first.
pub async fn a_forecast_knows_who_dies_when_and_why(store: &Arc<dyn Store>) {
    let (one, two) = (provider(store, "p").await, provider(store, "q").await);
    let soon = now() + TimeDelta::hours(1);
    let no_token = Credentials { refresh_token: None, ..ends_at(soon + TimeDelta::seconds(1)) };
    let no_token = Link { credentials: Some(no_token), ..link(one, "a", "a") };
    let no_token = linked(store, &no_token).await.id;
    // This one can be refreshed, so it does not die; nor does one that is invalid already.
    ending(store, one, "b", soon).await;
    let invalid = ending(store, one, "c", soon).await;
    let held = lease(store, invalid).await;
    store.credentials().end(&held, &end_invalid()).await.unwrap();
    let mut expected = vec![(no_token, one, DeathReason::NoRefreshToken)];
    for (name, class, answered, reason) in [
        ("d", FailureClass::Unavailable, true, DeathReason::ProviderUnavailable),
        ("e", FailureClass::Misconfigured, true, DeathReason::ProviderMisconfigured),
        ("f", FailureClass::Unavailable, false, DeathReason::RotationInDoubt),
    ] {
        let end = soon + TimeDelta::seconds(1 + i64::try_from(expected.len()).unwrap());
        let id = ending(store, two, name, end).await;
        let held = lease(store, id).await;
        store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
        let until = now() + TimeDelta::minutes(1);
        let back_off = BackOff { until, class, failures: 1, detail: "x".into() };
        // Whoever has sent counts on in its lease, or has the store count.
        let held = crate::ports::Lease { unanswered: u32::from(!answered), ..held };
        let end = RefreshEnd::Failed { back_off, answered };
        store.credentials().end(&held, &end).await.unwrap();
        expected.push((id, two, reason));
    }

    let until = soon + TimeDelta::minutes(1);
    let told = deaths(store, until).await;
    let seen: Vec<_> = told.iter().map(|it| (it.identity_id, it.provider_id, it.reason)).collect();
    assert_eq!(seen, expected);
    assert_eq!(told[0].user_id, fixtures::user("a"));
    let counts = store.forecast().count_deaths(Some(two), None, until).await.unwrap();
    let count = |reason| DeathCount { provider_id: two, reason, count: 1 };
    assert_eq!(
        counts,
        [
            count(DeathReason::ProviderUnavailable),
            count(DeathReason::ProviderMisconfigured),
            count(DeathReason::RotationInDoubt)
        ]
    );
    // Up to a time and after another, each once.
    let middle = told[1].dies_at;
    let total = |counts: Vec<DeathCount>| counts.iter().map(|it| it.count).sum::<u64>();
    let before = store.forecast().count_deaths(None, None, middle).await.unwrap();
    let after = store.forecast().count_deaths(None, Some(middle), until).await.unwrap();
    assert_eq!((total(before), total(after)), (2, 2));

    // Page by page it is the same list.
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.forecast().list_deaths(None, until, after, 1).await.unwrap();
        paged.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, told);
    let at_two = store.forecast().list_deaths(Some(two), until, None, 200).await.unwrap();
    assert_eq!(at_two.items, told[1..]);
}
