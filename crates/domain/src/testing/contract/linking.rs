//! [`link`](crate::ports::IdentityRepository::link), but for its sessions.

use std::{collections::HashSet, sync::Arc};

use serde_json::json;

use super::{ALL, Store, credentials_of, end_invalid, events, identity, kinds, lease, link};
use super::{linked, provider, race};
use crate::{
    credentials::Credentials,
    event::EventKind,
    identity::{Identity, IdentityFilter, IdentityStatus},
    ids::ProviderId,
    ports::{
        DataOutcome, DataUpdate, Link, LinkOutcome, LinkOwner, RefreshEnd, RepositoryError, Taken,
    },
    secret::Secret,
    testing::fixtures,
};

/// A link of the account `a`, and what becomes of it.
struct Case {
    /// User and account of the rows that are there.
    there: &'static [(&'static str, &'static str)],
    /// `None` for whoever has linked it.
    user: Option<&'static str>,
    legacy: Option<&'static str>,
    reattach: bool,
    becomes: Becomes,
    /// Row, user and account of the rows that are there then; a new row has the next number.
    left: &'static [(usize, &'static str, &'static str)],
    events: &'static [EventKind],
}

/// A [`LinkOutcome`], its row by the number it has in `there`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Becomes {
    Created,
    Updated(usize),
    Rebound(usize),
    SignedIn(usize),
    NobodyLinked,
    Taken(Taken),
}
use Becomes::{Created, NobodyLinked, Rebound, SignedIn, Updated};

const TAKEN_ACCOUNT: Becomes = Becomes::Taken(Taken::Account);
const TAKEN_USER: Becomes = Becomes::Taken(Taken::User);

/// `u` links `a`, without more.
const LINK: Case = Case {
    there: &[],
    user: Some("u"),
    legacy: None,
    reattach: false,
    becomes: Created,
    left: &[],
    events: &[],
};

async fn check(store: &Arc<dyn Store>, number: usize, case: &Case) {
    let provider = provider(store, &format!("case {number}")).await;
    let mut before = Vec::new();
    for (user, account) in case.there {
        before.push(linked(store, &link(provider, user, account)).await);
    }
    let told = kinds(store).await.len();

    let owner = case.user.map_or(LinkOwner::Whoever, fixtures::owner);
    let asked = Link {
        owner,
        legacy_id: case.legacy.map(fixtures::external_id),
        reattach: case.reattach,
        ..link(provider, "u", "a")
    };
    let outcome = store.identities().link(&asked).await.unwrap();

    let there = |identity: &Identity| before.iter().position(|it| it.id == identity.id);
    let (becomes, row) = match outcome {
        LinkOutcome::Created(it) => (Created, Some(it)),
        LinkOutcome::Updated(it) => (Updated(there(&it).unwrap()), Some(it)),
        LinkOutcome::Rebound(it) => (Rebound(there(&it).unwrap()), Some(it)),
        LinkOutcome::SignedIn(it) => (SignedIn(there(&it).unwrap()), Some(it)),
        LinkOutcome::NobodyLinked => (NobodyLinked, None),
        LinkOutcome::Taken(it) => (Becomes::Taken(it), None),
        LinkOutcome::SessionUsed => panic!("case {number} has no session"),
    };
    let after = identities_at(store, provider).await;
    let left: Vec<_> = after
        .iter()
        .map(|it| (there(it).unwrap_or(before.len()), it.user_id.as_str(), it.external_id.as_str()))
        .collect();
    assert_eq!((becomes, left.as_slice()), (case.becomes, case.left), "case {number}");
    match row {
        Some(row) => assert!(after.contains(&row), "case {number} answers the row as it is"),
        None => assert_eq!(after, before, "case {number} changes nothing"),
    }
    let told = kinds(store).await.split_off(told);
    assert_eq!(told.len(), case.events.len(), "case {number}: {told:?}");
    let (told, meant) = (HashSet::<_>::from_iter(&told), HashSet::from_iter(case.events));
    assert_eq!(told, meant, "case {number}");
}

async fn identities_at(store: &Arc<dyn Store>, provider: ProviderId) -> Vec<Identity> {
    let filter = IdentityFilter { provider_id: Some(provider), ..IdentityFilter::default() };
    store.identities().list(&filter, ALL).await.unwrap().items
}

/// A link follows the table, with and without reattach, and tells of each change.
pub async fn a_link_follows_the_table(store: &Arc<dyn Store>) {
    use EventKind::{IdentityLinked, IdentityRebound, IdentityRelinked, IdentityUnlinked};
    let cases = [
        Case { left: &[(0, "u", "a")], events: &[IdentityLinked], ..LINK },
        Case { reattach: true, left: &[(0, "u", "a")], events: &[IdentityLinked], ..LINK },
        Case {
            there: &[("w", "c")],
            left: &[(0, "w", "c"), (1, "u", "a")],
            events: &[IdentityLinked],
            ..LINK
        },
        Case {
            there: &[("u", "a")],
            becomes: Updated(0),
            left: &[(0, "u", "a")],
            events: &[IdentityRelinked],
            ..LINK
        },
        Case {
            there: &[("u", "a")],
            reattach: true,
            becomes: Updated(0),
            left: &[(0, "u", "a")],
            events: &[IdentityRelinked],
            ..LINK
        },
        Case { there: &[("u", "b")], becomes: TAKEN_USER, left: &[(0, "u", "b")], ..LINK },
        Case {
            there: &[("u", "b")],
            reattach: true,
            becomes: Rebound(0),
            left: &[(0, "u", "a")],
            events: &[IdentityRebound],
            ..LINK
        },
        Case { there: &[("v", "a")], becomes: TAKEN_ACCOUNT, left: &[(0, "v", "a")], ..LINK },
        Case {
            there: &[("v", "a")],
            reattach: true,
            becomes: Rebound(0),
            left: &[(0, "u", "a")],
            events: &[IdentityRebound],
            ..LINK
        },
        Case {
            there: &[("u", "b"), ("v", "a")],
            becomes: TAKEN_ACCOUNT,
            left: &[(0, "u", "b"), (1, "v", "a")],
            ..LINK
        },
        Case {
            there: &[("u", "b"), ("v", "a"), ("w", "c")],
            reattach: true,
            becomes: Rebound(0),
            left: &[(0, "u", "a"), (2, "w", "c")],
            events: &[IdentityUnlinked, IdentityRebound],
            ..LINK
        },
        Case {
            there: &[("v", "a"), ("u", "b")],
            reattach: true,
            becomes: Rebound(1),
            left: &[(1, "u", "a")],
            events: &[IdentityUnlinked, IdentityRebound],
            ..LINK
        },
    ];
    for (number, case) in cases.iter().enumerate() {
        check(store, number, case).await;
    }
}

/// A row found under the legacy name counts as the account's where no row names the account
/// itself, if it belongs to the user, and is rewritten.
pub async fn a_legacy_name_counts_only_for_the_users_own_row(store: &Arc<dyn Store>) {
    use EventKind::{IdentityLinked, IdentityRebound, IdentityRelinked, IdentityUnlinked};
    const LEGACY: Case = Case { legacy: Some("old"), ..LINK };
    let cases = [
        Case {
            there: &[("u", "old")],
            becomes: Updated(0),
            left: &[(0, "u", "a")],
            events: &[IdentityRelinked],
            ..LEGACY
        },
        Case {
            there: &[("v", "old")],
            left: &[(0, "v", "old"), (1, "u", "a")],
            events: &[IdentityLinked],
            ..LEGACY
        },
        Case {
            there: &[("v", "old")],
            reattach: true,
            left: &[(0, "v", "old"), (1, "u", "a")],
            events: &[IdentityLinked],
            ..LEGACY
        },
        Case {
            there: &[("u", "old"), ("v", "a")],
            becomes: TAKEN_ACCOUNT,
            left: &[(0, "u", "old"), (1, "v", "a")],
            ..LEGACY
        },
        Case {
            there: &[("u", "old"), ("v", "a")],
            reattach: true,
            becomes: Rebound(0),
            left: &[(0, "u", "a")],
            events: &[IdentityUnlinked, IdentityRebound],
            ..LEGACY
        },
        Case {
            there: &[("u", "a"), ("v", "old")],
            becomes: Updated(0),
            left: &[(0, "u", "a"), (1, "v", "old")],
            events: &[IdentityRelinked],
            ..LEGACY
        },
        Case {
            there: &[("u", "b"), ("v", "old")],
            becomes: TAKEN_USER,
            left: &[(0, "u", "b"), (1, "v", "old")],
            ..LEGACY
        },
    ];
    for (number, case) in cases.iter().enumerate() {
        check(store, number, case).await;
    }
}

/// A sign-in finds the account's owner, by its legacy name if by no other, and links nobody.
pub async fn a_sign_in_finds_the_owner_and_links_nobody(store: &Arc<dyn Store>) {
    use EventKind::IdentitySignedIn;
    const SIGN_IN: Case = Case { user: None, becomes: NobodyLinked, ..LINK };
    const LEGACY: Case = Case { legacy: Some("old"), ..SIGN_IN };
    let cases = [
        Case { ..SIGN_IN },
        Case { reattach: true, ..SIGN_IN },
        Case { there: &[("u", "b")], left: &[(0, "u", "b")], ..SIGN_IN },
        Case {
            there: &[("u", "a")],
            becomes: SignedIn(0),
            left: &[(0, "u", "a")],
            events: &[IdentitySignedIn],
            ..SIGN_IN
        },
        Case { ..LEGACY },
        Case {
            there: &[("v", "old")],
            becomes: SignedIn(0),
            left: &[(0, "v", "a")],
            events: &[IdentitySignedIn],
            ..LEGACY
        },
        Case {
            there: &[("v", "old"), ("u", "a")],
            becomes: SignedIn(1),
            left: &[(0, "v", "old"), (1, "u", "a")],
            events: &[IdentitySignedIn],
            ..LEGACY
        },
    ];
    for (number, case) in cases.iter().enumerate() {
        check(store, number, case).await;
    }
}

/// A linked account is found as it was linked: valid, in its first version, dated to the
/// microsecond, and told of.
pub async fn a_linked_account_is_found_as_it_was_linked(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let asked = link(provider, "user-1", "account-1");
    let before = super::now();
    let identity = linked(store, &asked).await;
    assert_eq!(
        identity,
        Identity {
            id: identity.id,
            idp_id: provider,
            date_verified: identity.date_verified,
            date_added: identity.date_verified,
            ..fixtures::identity()
        }
    );
    assert_eq!(identity.date_added.timestamp_subsec_nanos() % 1000, 0);
    // A store may be on another machine, whose clock is a little off.
    assert!((identity.date_added - before).num_minutes().abs() < 5, "{}", identity.date_added);
    assert_eq!(store.identities().find(identity.id).await.unwrap().as_ref(), Some(&identity));

    let told = events(store).await;
    let [event] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(event.about, EventKind::IdentityLinked);
    assert_eq!(event.actor, asked.actor);
    assert_eq!(event.identity_id, Some(identity.id));
    assert_eq!(event.provider_id, Some(provider));
    assert_eq!(event.user_id.as_ref(), Some(&identity.user_id));
}

/// Names are compared character by character, and may have 255 characters of any kind.
pub async fn names_are_compared_character_by_character(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let long = "\u{1d11e}".repeat(255);
    let names = ["a", "A", "a ", "ä", "a\u{308}", "%", "_", "1", "01", "'", &long];
    for name in names {
        let outcome = store.identities().link(&link(provider, name, name)).await.unwrap();
        let LinkOutcome::Created(identity) = outcome else { panic!("{name:?}: {outcome:?}") };
        assert_eq!((identity.user_id.as_str(), identity.external_id.as_str()), (name, name));
    }
    for name in names {
        let external_id = Some(fixtures::external_id(name));
        let filter = IdentityFilter { external_id, ..IdentityFilter::default() };
        let found = store.identities().list(&filter, ALL).await.unwrap().items;
        assert_eq!(found.len(), 1, "{name:?}: {found:?}");
        assert_eq!(found[0].user_id.as_str(), name);
    }
}

/// A link at a provider that is not there is not found, and leaves nothing.
pub async fn a_link_at_no_provider_is_not_found(store: &Arc<dyn Store>) {
    let nowhere = ProviderId(4_711);
    let refused = store.identities().link(&link(nowhere, "u", "a")).await;
    assert!(matches!(refused, Err(RepositoryError::NotFound)), "{refused:?}");
    assert_eq!(identities_at(store, nowhere).await, []);
    assert_eq!(kinds(store).await, []);
}

/// A link updated in place keeps id and `date_added`, puts the keys of its data over the old
/// ones, and raises the version by one.
pub async fn a_link_updated_in_place_merges_its_data(store: &Arc<dyn Store>) {
    let first = identity(store).await;
    let asked = Link {
        data: fixtures::object(json!({ "name": "Grace", "rank": { "n": 1 } })),
        scopes: vec!["profile".into()],
        ..link(first.idp_id, "user-1", "account-1")
    };
    let second = linked(store, &asked).await;
    assert!(first.date_verified <= second.date_verified);
    assert_eq!(
        second,
        Identity {
            data: fixtures::object(json!({ "name": "Grace", "rank": { "n": 1 } })),
            scopes: vec!["profile".into()],
            date_verified: second.date_verified,
            version: 2,
            ..first
        }
    );
    let silent =
        Link { data: fixtures::object(json!({ "more": null })), scopes: Vec::new(), ..asked };
    let third = linked(store, &silent).await;
    let merged = json!({ "name": "Grace", "rank": { "n": 1 }, "more": null });
    assert_eq!(third.data, fixtures::object(merged));
    assert_eq!(third.scopes, ["profile"], "they stay where the link names none");
    assert_eq!(third.version, 3);
}

/// A link updated in place keeps the refresh token that was not sent again, and never an old
/// expiry.
pub async fn a_link_updated_in_place_renews_the_credentials(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let answer = Credentials {
        access_token: Some(Secret::new("access-2")),
        obtained_at: Some(fixtures::NOW),
        ..Credentials::default()
    };
    let asked = Link { credentials: Some(answer.clone()), ..link_of(&identity) };
    let renewed = linked(store, &asked).await;

    let stored = credentials_of(store, identity.id).await;
    assert_eq!(stored.credentials, Some(fixtures::credentials().renewed_by(answer)));
    assert_eq!(stored.generation, 2);
    assert_eq!(renewed.expires_at, None);
}

/// A link updated in place without credentials leaves those that are there alone.
pub async fn a_link_without_credentials_leaves_those_that_are_there(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let before = credentials_of(store, identity.id).await;
    let again = linked(store, &Link { credentials: None, ..link_of(&identity) }).await;
    assert_eq!(credentials_of(store, identity.id).await, before);
    assert_eq!(again.expires_at, identity.expires_at);
}

/// A rebound row keeps id and `date_added`; data, scopes and credentials are replaced, and the
/// event has the previous user and account.
pub async fn a_rebound_row_keeps_only_its_id(store: &Arc<dyn Store>) {
    let first = identity(store).await;
    let answer =
        Credentials { access_token: Some(Secret::new("access-2")), ..Credentials::default() };
    let asked = Link {
        data: fixtures::object(json!({ "rank": 1 })),
        scopes: Vec::new(),
        credentials: Some(answer.clone()),
        reattach: true,
        ..link(first.idp_id, "user-2", "account-1")
    };
    let second = linked(store, &asked).await;
    assert_eq!(
        second,
        Identity {
            user_id: fixtures::user("user-2"),
            data: asked.data.clone(),
            scopes: Vec::new(),
            expires_at: None,
            date_verified: second.date_verified,
            version: 2,
            ..first.clone()
        }
    );
    let stored = credentials_of(store, first.id).await;
    assert_eq!(stored.credentials, Some(answer), "nothing of the old ones is left");
    assert_eq!(stored.generation, 2);

    let event = events(store).await.pop().unwrap();
    assert_eq!(event.about, EventKind::IdentityRebound);
    assert_eq!(event.user_id, Some(second.user_id));
    assert_eq!(event.detail["previous_user_id"], "user-1");
    assert_eq!(event.detail["previous_external_id"], "account-1");
}

/// A row rebound without credentials has none, and that is a new generation.
pub async fn a_row_rebound_without_credentials_has_none(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let asked =
        Link { credentials: None, reattach: true, ..link(identity.idp_id, "user-1", "account-2") };
    let rebound = linked(store, &asked).await;
    assert_eq!((rebound.id, rebound.expires_at), (identity.id, None));
    let stored = credentials_of(store, identity.id).await;
    assert_eq!((stored.credentials, stored.generation), (None, 2));
}

/// A link and a sign-in make an invalid identity valid.
pub async fn a_link_makes_an_invalid_identity_valid(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let again = link_of(&identity);
    let sign_in = Link { owner: LinkOwner::Whoever, ..again.clone() };
    for link in [again, sign_in] {
        let held = lease(store, identity.id).await;
        store.credentials().end(&held, &end_invalid()).await.unwrap();
        let invalid = store.identities().find(identity.id).await.unwrap().unwrap();
        assert_eq!(invalid.status, IdentityStatus::Invalid);

        let valid = linked(store, &link).await;
        assert_eq!((valid.status, &valid.invalid), (IdentityStatus::Valid, &None));
        let stored = credentials_of(store, identity.id).await;
        assert_eq!((stored.status, stored.invalid), (IdentityStatus::Valid, None));
    }
}

/// A link of an invalid identity keeps none of the tokens that made it so: without credentials
/// there are none afterwards, and new ones are not put over the dead; that is a new generation.
/// So are credentials that come with new data.
pub async fn a_link_of_an_invalid_identity_keeps_none_of_its_tokens(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let answer = Credentials { refresh_token: None, id_token: None, ..fixtures::credentials() };
    let bare = Link { credentials: None, ..link_of(&identity) };
    let with_answer = Link { credentials: Some(answer.clone()), ..link_of(&identity) };
    let data = DataUpdate {
        id: identity.id,
        credentials: Some(answer.clone()),
        if_version: None,
        ..fixtures::data_update()
    };
    let invalidated = async || {
        linked(store, &link_of(&identity)).await;
        let held = lease(store, identity.id).await;
        store.credentials().end(&held, &end_invalid()).await.unwrap();
        held.generation
    };
    let assert_left = async |expected: Option<&Credentials>, generation| {
        let valid = store.identities().find(identity.id).await.unwrap().unwrap();
        assert_eq!((valid.status, valid.invalid), (IdentityStatus::Valid, None));
        assert_eq!(valid.expires_at, expected.and_then(|it| it.expires_at));
        let stored = credentials_of(store, identity.id).await;
        assert_eq!((stored.credentials.as_ref(), stored.generation), (expected, generation));
    };

    let generation = invalidated().await;
    linked(store, &bare).await;
    assert_left(None, generation + 1).await;

    let generation = invalidated().await;
    linked(store, &with_answer).await;
    assert_left(Some(&answer), generation + 1).await;

    let generation = invalidated().await;
    let updated = store.identities().update_data(&data).await.unwrap();
    assert!(matches!(updated, DataOutcome::Updated(_)), "{updated:?}");
    assert_left(Some(&answer), generation + 1).await;
}

/// New credentials clear back-off and doubt.
pub async fn new_credentials_clear_back_off_and_doubt(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    store.credentials().record_sending(&held).await.unwrap();
    let failed = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: false };
    store.credentials().end(&held, &failed).await.unwrap();
    assert_eq!(credentials_of(store, identity.id).await.back_off, Some(fixtures::back_off()));

    linked(store, &link_of(&identity)).await;

    assert_eq!(credentials_of(store, identity.id).await.back_off, None);
    let next = lease(store, identity.id).await;
    assert_eq!((next.generation, next.unanswered), (2, 0));
    assert!(next.attempt > held.attempt, "{next:?} after {held:?}");
}

/// Of racing links of one account to different users, exactly one is kept.
pub async fn of_racing_links_of_one_account_one_user_gets_it(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let outcomes = race(64, |racer| {
        let (store, user) = (store.clone(), format!("user-{}", racer % 2));
        async move { store.identities().link(&link(provider, &user, "a")).await.unwrap() }
    })
    .await;

    let rows = identities_at(store, provider).await;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let (mut created, mut updated, mut taken) = (0, 0, 0);
    for outcome in outcomes {
        match outcome {
            LinkOutcome::Created(it) if it.user_id == row.user_id => created += 1,
            LinkOutcome::Updated(it) if it.user_id == row.user_id => updated += 1,
            LinkOutcome::Taken(Taken::Account) => taken += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((created, updated, taken), (1, 31, 32));
    assert_eq!(row.version, 32, "no update is lost");
    assert_eq!(kinds(store).await.len(), 32, "refused ones are not told of");
}

/// Of racing links of one user to different accounts, exactly one is kept.
pub async fn of_racing_links_of_one_user_one_account_is_kept(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let outcomes = race(64, |racer| {
        let (store, account) = (store.clone(), format!("account-{racer}"));
        async move { store.identities().link(&link(provider, "u", &account)).await.unwrap() }
    })
    .await;
    let created = outcomes.iter().filter(|it| matches!(it, LinkOutcome::Created(_))).count();
    let taken = outcomes.iter().filter(|it| matches!(it, LinkOutcome::Taken(Taken::User))).count();
    assert_eq!((created, taken), (1, 63), "{outcomes:?}");
    assert_eq!(identities_at(store, provider).await.len(), 1);
}

/// Users who take over each other's accounts at the same time leave whole rows: no user and no
/// account twice, and nobody gets an error for it.
pub async fn crossing_takeovers_leave_whole_rows(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for (user, account) in [("u", "a"), ("v", "b")] {
        linked(store, &link(provider, user, account)).await;
    }
    let outcomes = race(32, |racer| {
        let store = store.clone();
        let (user, account) = [("u", "b"), ("v", "a"), ("u", "a"), ("v", "b")][racer % 4];
        async move {
            let asked = Link { reattach: true, ..link(provider, user, account) };
            store.identities().link(&asked).await
        }
    })
    .await;
    for outcome in outcomes {
        assert!(!matches!(outcome, Err(_) | Ok(LinkOutcome::Taken(_))), "{outcome:?}");
    }
    let rows = identities_at(store, provider).await;
    let users: HashSet<_> = rows.iter().map(|it| it.user_id.as_str()).collect();
    let accounts: HashSet<_> = rows.iter().map(|it| it.external_id.as_str()).collect();
    assert!((1..=2).contains(&rows.len()), "{rows:?}");
    assert_eq!((users.len(), accounts.len()), (rows.len(), rows.len()), "{rows:?}");
}

/// The same account proved again, with the credentials of every fixture.
fn link_of(identity: &Identity) -> Link {
    link(identity.idp_id, identity.user_id.as_str(), identity.external_id.as_str())
}
