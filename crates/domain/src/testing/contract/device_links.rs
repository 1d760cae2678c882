//! [`DeviceLinkRepository`](crate::ports::DeviceLinkRepository).

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::{ALL, LONG, PATIENCE, Store, events, kinds, link, linked, provider, race};
use crate::{
    device_link::{
        ClaimedDeviceLink, DeviceLink, DeviceLinkClaim, DeviceLinkEnd, DeviceLinkStatus,
        NewDeviceLink,
    },
    event::EventKind,
    identity::IdentityFilter,
    identity_provider::ProviderSecrets,
    ids::{DeviceLinkId, ProviderId},
    link_session::LinkFailure,
    ports::{AuthorityUpdate, Link, LinkOutcome},
    revocation::{GrantOwner, OrphanedGrant},
    secret::Secret,
    testing::fixtures,
};

/// At this provider, to be polled at once.
fn new_link(provider_id: ProviderId) -> NewDeviceLink {
    NewDeviceLink { provider_id, interval: Duration::ZERO, ..fixtures::new_device_link() }
}

async fn insert(store: &Arc<dyn Store>, new: &NewDeviceLink) -> DeviceLinkId {
    store.device_links().insert(new).await.unwrap().id
}

async fn find(store: &Arc<dyn Store>, id: DeviceLinkId) -> DeviceLink {
    store.device_links().find(id).await.unwrap().unwrap()
}

/// All that are due.
async fn due(store: &Arc<dyn Store>, time: Duration) -> Vec<ClaimedDeviceLink> {
    store.device_links().claim_due(ALL.limit, time).await.unwrap()
}

/// The one that is due, for as long as a test runs.
async fn claimed(store: &Arc<dyn Store>) -> ClaimedDeviceLink {
    let mut due = due(store, LONG).await;
    assert_eq!(due.len(), 1);
    due.remove(0)
}

/// A device link is found as it was inserted, and whoever claims it gets its code.
pub async fn a_device_link_is_found_as_it_was_inserted(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let plain = new_link(provider);
    let full = NewDeviceLink {
        user_id: fixtures::user("ü"),
        organization_id: Some(fixtures::organization("o")),
        scopes: vec!["openid".into(), "a:b/c".into()],
        created_by: fixtures::ACTOR.because("because she asked"),
        device_code: Secret::new("another code"),
        expires_in: Duration::from_hours(1),
        interval: Duration::ZERO,
        ..new_link(provider)
    };
    for new in [plain, full] {
        let inserted = store.device_links().insert(&new).await.unwrap();
        let expected = DeviceLink {
            id: inserted.id,
            user_id: new.user_id.clone(),
            provider_id: provider,
            organization_id: new.organization_id.clone(),
            scopes: new.scopes.clone(),
            status: DeviceLinkStatus::Pending,
            identity_id: None,
            error: None,
            created_by: new.created_by.clone(),
            created_at: inserted.created_at,
            expires_at: inserted.created_at + new.expires_in,
        };
        assert_eq!(inserted, expected);
        assert_eq!(find(store, inserted.id).await, inserted);
        let claimed = claimed(store).await;
        assert_eq!(claimed.link, inserted);
        assert_eq!(claimed.claim, DeviceLinkClaim { id: inserted.id, poll: 1 });
        assert_eq!(claimed.device_code, Some(new.device_code));
        assert_eq!(claimed.interval, new.interval);
    }
    assert_eq!(kinds(store).await, []);
}

/// A device link that is not there is absent, whatever is asked of it.
pub async fn a_device_link_that_is_not_there_is_absent(store: &Arc<dyn Store>) {
    let id = DeviceLinkId(4_711);
    let claim = DeviceLinkClaim { id, poll: 0 };
    let links = store.device_links();
    assert_eq!(links.find(id).await.unwrap(), None);
    assert_eq!(due(store, LONG).await, []);
    assert!(!links.poll_later(claim, LONG, LONG).await.unwrap());
    let end = DeviceLinkEnd::Failed(LinkFailure::Untrusted);
    assert!(!links.end(claim, end).await.unwrap());
    assert_eq!(links.expire().await.unwrap(), 0);
    assert_eq!(kinds(store).await, []);
}

/// A claimed device link is nobody else's until it is given back; then it is due when the pause
/// has passed, with the interval that it was given.
pub async fn a_claimed_device_link_is_nobody_elses_until_it_is_given_back(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let waits = NewDeviceLink { interval: LONG, ..new_link(provider) };
    insert(store, &waits).await;
    assert_eq!(due(store, LONG).await, [], "its first interval has not passed");
    insert(store, &new_link(provider)).await;
    let first = claimed(store).await;
    assert_eq!(due(store, LONG).await, []);

    let links = store.device_links();
    let slower = Duration::from_secs(10);
    assert!(links.poll_later(first.claim, Duration::ZERO, slower).await.unwrap());
    let second = claimed(store).await;
    assert_eq!((second.claim.poll, second.interval), (2, slower));
    assert_eq!((second.link, second.device_code), (first.link, first.device_code));
    assert!(links.poll_later(second.claim, LONG, slower).await.unwrap());
    assert_eq!(due(store, LONG).await, [], "its pause has not passed");
}

/// Of racing claims, exactly one gets each device link.
pub async fn of_racing_claims_one_polls_each_device_link(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let mut expected = Vec::new();
    for _ in 0..8 {
        expected.push(insert(store, &new_link(provider)).await);
    }
    let claims = race(16, |_| {
        let store = store.clone();
        async move {
            let mut mine = Vec::new();
            // One that somebody else is looking at is not there for a moment.
            for _ in 0..4 {
                mine.extend(due(&store, LONG).await.into_iter().map(|it| it.link.id));
            }
            mine
        }
    })
    .await;
    let mut polled: Vec<_> = claims.into_iter().flatten().collect();
    polled.sort();
    assert_eq!(polled, expected);
}

/// A claim that ran out is another's, and whoever had it before tells nothing of it any more.
pub async fn a_claim_of_a_device_link_that_ran_out_is_anothers(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let id = insert(store, &new_link(provider)).await;
    let mut first = due(store, Duration::ZERO).await;
    let first = first.remove(0).claim;
    let second = claimed(store).await.claim;
    assert_eq!((first.poll, second.poll), (1, 2));

    let links = store.device_links();
    assert!(!links.poll_later(first, Duration::ZERO, LONG).await.unwrap());
    for end in [DeviceLinkEnd::Expired, DeviceLinkEnd::Failed(LinkFailure::AccessDenied)] {
        assert!(!links.end(first, end).await.unwrap());
    }
    assert_eq!(find(store, id).await.status, DeviceLinkStatus::Pending);
    assert_eq!(due(store, LONG).await, [], "it is the second one's");
    assert!(links.end(second, DeviceLinkEnd::Expired).await.unwrap());
    assert_eq!(find(store, id).await.status, DeviceLinkStatus::Expired);
    assert_eq!(kinds(store).await, []);
}

/// A device link that failed drops its code, tells why, and has ended.
pub async fn a_device_link_that_failed_drops_its_code_and_tells_why(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let id = insert(store, &new_link(provider)).await;
    let claim = claimed(store).await.claim;
    let links = store.device_links();
    let end = DeviceLinkEnd::Failed(LinkFailure::AccessDenied);
    assert!(links.end(claim, end).await.unwrap());
    assert!(!links.end(claim, DeviceLinkEnd::Expired).await.unwrap());
    assert!(!links.poll_later(claim, Duration::ZERO, LONG).await.unwrap());
    assert_eq!(due(store, LONG).await, []);

    let found = find(store, id).await;
    assert_eq!(found.status, DeviceLinkStatus::Failed);
    assert_eq!((found.error, found.identity_id), (Some(LinkFailure::AccessDenied), None));
    let [event] = &events(store).await[..] else { panic!("one event") };
    assert_eq!((event.about, &event.actor), (EventKind::DeviceLinkFailed, &found.created_by));
    assert_eq!((event.provider_id, event.user_id.as_ref()), (Some(provider), Some(&found.user_id)));
    let detail = json!({"error": "access_denied", "device_link_id": id.0});
    assert_eq!(event.detail, fixtures::object(detail));
    assert_eq!(links.expire().await.unwrap(), 0);
}

/// A link ends its device link in the same transaction; one whose account is taken leaves it as it
/// is.
pub async fn a_link_ends_its_device_link(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    linked(store, &link(provider, "other", "taken")).await;
    let id = insert(store, &new_link(provider)).await;
    let claim = claimed(store).await.claim;
    let taken = Link { device_link: Some(claim), ..link(provider, "user-1", "taken") };
    let outcome = store.identities().link(&taken).await.unwrap();
    assert!(matches!(outcome, LinkOutcome::Taken(_)), "{outcome:?}");
    assert_eq!(find(store, id).await.status, DeviceLinkStatus::Pending);

    let asked = Link { device_link: Some(claim), ..link(provider, "user-1", "account-1") };
    let identity = linked(store, &asked).await;
    let found = find(store, id).await;
    assert_eq!((found.status, found.identity_id), (DeviceLinkStatus::Linked, Some(identity.id)));
    let links = store.device_links();
    assert!(!links.end(claim, DeviceLinkEnd::Expired).await.unwrap());
    assert!(!links.poll_later(claim, Duration::ZERO, LONG).await.unwrap());
    assert_eq!(due(store, LONG).await, []);
    let again = store.identities().link(&asked).await.unwrap();
    assert_eq!(again, LinkOutcome::SessionUsed, "a device link links once");
    assert_eq!(
        kinds(store).await,
        [EventKind::IdentityLinked, EventKind::IdentityLinked, EventKind::GrantRevocationQueued],
        "the first is the one that stood in the way"
    );
}

/// A device link of an organization links for it: the organization uses the identity, and the events
/// name it, also that of a failure.
pub async fn a_device_link_of_an_organization_links_for_it(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let organization = Some(fixtures::organization("o"));
    let new = NewDeviceLink { organization_id: organization.clone(), ..new_link(provider) };
    insert(store, &new).await;
    let claim = claimed(store).await.claim;
    let asked = Link { device_link: Some(claim), ..link(provider, "user-1", "account-1") };
    let identity = linked(store, &asked).await;
    let filter = IdentityFilter { organization_id: organization.clone(), ..Default::default() };
    let used = store.identities().list(&filter, ALL).await.unwrap().items;
    assert_eq!(used, [identity]);

    insert(store, &new).await;
    let claim = claimed(store).await.claim;
    let end = DeviceLinkEnd::Failed(LinkFailure::AccessDenied);
    assert!(store.device_links().end(claim, end).await.unwrap());
    let told = events(store).await;
    let kinds: Vec<_> = told.iter().map(|it| it.about).collect();
    let expected = [
        EventKind::IdentityLinked,
        EventKind::OrganizationIdentityLinked,
        EventKind::DeviceLinkFailed,
    ];
    assert_eq!(kinds, expected);
    assert!(told.iter().all(|it| it.organization_id == organization), "{told:?}");
}

/// A grant that comes when its device link is over is nobody's: it waits for its revocation, told of
/// in the same breath.
pub async fn a_grant_that_comes_when_its_device_link_is_over_waits_for_its_revocation(
    store: &Arc<dyn Store>,
) {
    let provider = provider(store, "p").await;
    let mut over = Vec::new();
    for end in [DeviceLinkEnd::Expired, DeviceLinkEnd::Failed(LinkFailure::AccessDenied)] {
        insert(store, &new_link(provider)).await;
        let claim = claimed(store).await.claim;
        assert!(store.device_links().end(claim, end).await.unwrap());
        over.push(claim);
    }
    // One whose claim is another's by now.
    insert(store, &new_link(provider)).await;
    over.push(due(store, Duration::ZERO).await.remove(0).claim);
    claimed(store).await;
    let before = events(store).await.len();
    for claim in &over {
        let late = Link { device_link: Some(*claim), ..link(provider, "user-1", "account-1") };
        let bare = Link { credentials: None, ..late.clone() };
        for late in [late, bare] {
            let outcome = store.identities().link(&late).await.unwrap();
            assert_eq!(outcome, LinkOutcome::SessionUsed);
        }
    }
    let told = events(store).await.split_off(before);
    let queued = store.revocations().list(ALL).await.unwrap().items;
    assert_eq!((told.len(), queued.len()), (3, 3), "a link without credentials has nothing to end");
    for ((event, queued), claim) in told.iter().zip(&queued).zip(&over) {
        assert_eq!(queued.owner, GrantOwner::DeviceLink(claim.id));
        assert_eq!(queued.provider_id, provider);
        assert_eq!(queued.user_id, fixtures::user("user-1"));
        assert_eq!(queued.external_id, fixtures::external_id("account-1"));
        assert_eq!((event.about, event.identity_id), (EventKind::GrantRevocationQueued, None));
        let detail = json!({"revocation_id": queued.id.0, "device_link_id": claim.id.0});
        assert_eq!(event.detail, fixtures::object(detail));
        let grant = store.revocations().claim(queued.id, LONG).await.unwrap().unwrap().grant;
        assert_eq!(grant, Some(OrphanedGrant::new(fixtures::credentials())));
    }
}

/// A link by a claim that is another's by now links nothing.
pub async fn a_link_of_an_older_claim_links_nothing(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let id = insert(store, &new_link(provider)).await;
    let old = due(store, Duration::ZERO).await.remove(0).claim;
    let new = claimed(store).await.claim;
    let asked = Link { device_link: Some(old), ..link(provider, "user-1", "account-1") };
    let outcome = store.identities().link(&asked).await.unwrap();
    assert_eq!(outcome, LinkOutcome::SessionUsed);
    assert_eq!(find(store, id).await.status, DeviceLinkStatus::Pending);
    assert_eq!(kinds(store).await, [EventKind::GrantRevocationQueued]);
    linked(store, &Link { device_link: Some(new), ..asked }).await;
    assert_eq!(find(store, id).await.status, DeviceLinkStatus::Linked);
}

/// A device link that ran out is expired everywhere, and is swept once.
pub async fn a_device_link_that_ran_out_is_expired_everywhere(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    // On a slow machine the first ones are over before they can be claimed.
    let mut lives = [200, 2_000, 8_000, 16_000].into_iter().map(Duration::from_millis);
    let (id, claim, inserted) = {
        let mut inserted = 0;
        loop {
            let expires_in = lives.next().unwrap();
            let id = insert(store, &NewDeviceLink { expires_in, ..new_link(provider) }).await;
            inserted += 1;
            let mine = due(store, Duration::ZERO).await.into_iter().find(|it| it.link.id == id);
            if let Some(it) = mine {
                break (id, it.claim, inserted);
            }
        }
    };
    let ran_out = async {
        while find(store, id).await.status != DeviceLinkStatus::Expired {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ran_out).await.unwrap();

    let links = store.device_links();
    assert_eq!(due(store, LONG).await, []);
    assert!(!links.poll_later(claim, Duration::ZERO, LONG).await.unwrap());
    let end = DeviceLinkEnd::Failed(LinkFailure::AccessDenied);
    assert!(!links.end(claim, end).await.unwrap());
    let late = Link { device_link: Some(claim), ..link(provider, "late", "late") };
    let outcome = store.identities().link(&late).await.unwrap();
    assert_eq!(outcome, LinkOutcome::SessionUsed);
    assert_eq!(links.expire().await.unwrap(), inserted);
    assert_eq!(links.expire().await.unwrap(), 0);
    assert_eq!(find(store, id).await.status, DeviceLinkStatus::Expired);
    assert_eq!(kinds(store).await, [EventKind::GrantRevocationQueued], "the late grant's");
}

/// When a provider instance becomes another authority, what its users were to confirm there is
/// over.
pub async fn another_authority_ends_the_device_links_of_its_provider(store: &Arc<dyn Store>) {
    let (changed, other) = (provider(store, "p").await, provider(store, "q").await);
    let ended = insert(store, &new_link(changed)).await;
    let stays = insert(store, &new_link(other)).await;
    let config = fixtures::object(json!({ "issuer": "https://another.example" }));
    let secrets = ProviderSecrets::new();
    let update = fixtures::provider_update(changed, 1, &config, &secrets);
    let outcome = store.providers().update_authority(&update, &fixtures::ACTOR).await.unwrap();
    assert!(matches!(outcome, AuthorityUpdate::Updated(_)), "{outcome:?}");
    assert_eq!(find(store, ended).await.status, DeviceLinkStatus::Expired);
    assert_eq!(find(store, stays).await.status, DeviceLinkStatus::Pending);
    assert_eq!(claimed(store).await.link.id, stays);
}
