//! [`TransferRepository`](crate::ports::TransferRepository).

use std::{sync::Arc, time::Duration};

use super::{
    ALL, Store, credentials_of, events, identity, kinds, lease, link, linked,
    linking::provider_for, provider, race, unlink, unlink_revoking,
};
use crate::{
    event::EventKind,
    identity::{Identity, IdentityFilter},
    ids::{IdentityId, TransferId},
    ports::{
        LeasedWrite, Link, LinkOutcome, NewTransfer, OnConflict, Taken, TransferOutcome,
        TransferSubject, UndoOutcome,
    },
    testing::fixtures,
    transfer::{Transfer, TransferItem, TransferObstacle, UndoItem},
};

fn of_user(from: &str, to: &str) -> NewTransfer {
    NewTransfer {
        what: TransferSubject::User(fixtures::user(from)),
        to_user_id: fixtures::user(to),
        on_conflict: OnConflict::Fail,
        actor: fixtures::ACTOR,
    }
}

fn of_identity(id: IdentityId, to: &str) -> NewTransfer {
    NewTransfer { what: TransferSubject::Identity(id), ..of_user("nobody", to) }
}

async fn done(store: &Arc<dyn Store>, new: &NewTransfer) -> Transfer {
    match store.transfers().transfer(new).await.unwrap() {
        TransferOutcome::Done(transfer) => transfer,
        refused => panic!("{refused:?}"),
    }
}

async fn undone(store: &Arc<dyn Store>, id: TransferId) -> Transfer {
    match store.transfers().undo(id, &fixtures::ACTOR).await.unwrap() {
        UndoOutcome::Undone(transfer) => transfer,
        refused => panic!("{refused:?}"),
    }
}

async fn find(store: &Arc<dyn Store>, id: IdentityId) -> Identity {
    store.identities().find(id).await.unwrap().unwrap()
}

async fn of(store: &Arc<dyn Store>, user: &str) -> Vec<Identity> {
    let user_id = Some(fixtures::user(user));
    let filter = IdentityFilter { user_id, ..IdentityFilter::default() };
    store.identities().list(&filter, ALL).await.unwrap().items
}

fn item(identity: &Identity) -> TransferItem {
    TransferItem {
        identity_id: identity.id,
        provider_id: identity.idp_id,
        external_id: identity.external_id.clone(),
        skipped: None,
        undo: None,
    }
}

/// A transfer changes the user of a row and its version, and nothing else: neither id nor
/// credentials; it is told of, and in the journal.
pub async fn a_transfer_changes_the_user_and_nothing_else(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let credentials = credentials_of(store, identity.id).await;
    let transfer = done(store, &of_identity(identity.id, "user-2")).await;

    let moved = Identity { user_id: fixtures::user("user-2"), version: 2, ..identity.clone() };
    assert_eq!(find(store, identity.id).await, moved);
    assert_eq!(credentials_of(store, identity.id).await, credentials);
    assert_eq!(transfer.from_user_id, identity.user_id);
    assert_eq!(transfer.to_user_id, moved.user_id);
    assert_eq!(transfer.items, [item(&identity)]);
    assert_eq!((&transfer.actor, transfer.undone_at), (&fixtures::ACTOR, None));
    assert_eq!(store.transfers().find(transfer.id).await.unwrap().as_ref(), Some(&transfer));

    let told = events(store).await;
    let [_, event, whole] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(
        (event.about, event.identity_id),
        (EventKind::IdentityTransferred, Some(identity.id))
    );
    assert_eq!(event.user_id.as_ref(), Some(&moved.user_id));
    assert_eq!(event.detail["previous_user_id"], "user-1");
    assert_eq!(event.detail["transfer_id"], transfer.id.0);
    assert_eq!(event.before.as_ref().unwrap()["user_id"], "user-1");
    assert_eq!(event.after.as_ref().unwrap()["user_id"], "user-2");
    assert_eq!(
        (whole.about, whole.user_id.as_ref()),
        (EventKind::TransferDone, Some(&moved.user_id))
    );
    assert_eq!(whole.detail["transfer_id"], transfer.id.0);
    assert_eq!(whole.detail["from_user_id"], "user-1");
    assert_eq!((&whole.detail["moved"], &whole.detail["skipped"]), (&1.into(), &0.into()));
}

/// A refresh that is under way survives a transfer, and an undoing.
pub async fn a_refresh_under_way_survives_a_transfer(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
    let transfer = done(store, &of_identity(identity.id, "user-2")).await;
    let outcome = store.credentials().commit(&held, &fixtures::credentials()).await.unwrap();
    assert_eq!(outcome, LeasedWrite::Done);
    undone(store, transfer.id).await;
    let found = find(store, identity.id).await;
    assert_eq!((found.user_id, found.version), (identity.user_id, 4));
    assert_eq!(credentials_of(store, identity.id).await.generation, 2);
}

/// A transfer of a user takes all that is theirs, and nobody else's.
pub async fn a_transfer_of_a_user_takes_all_that_is_theirs(store: &Arc<dyn Store>) {
    let (one, other) = (provider(store, "one").await, provider(store, "other").await);
    let mut meant = Vec::new();
    for at in [one, other] {
        meant.push(linked(store, &link(at, "u", "a")).await);
    }
    let bystander = linked(store, &link(one, "w", "w")).await;
    let transfer = done(store, &of_user("u", "v")).await;
    assert_eq!(transfer.items, meant.iter().map(item).collect::<Vec<_>>());
    assert_eq!(of(store, "u").await, []);
    let ids: Vec<_> = of(store, "v").await.iter().map(|it| it.id).collect();
    assert_eq!(ids, [meant[0].id, meant[1].id]);
    assert_eq!(of(store, "w").await, [bystander]);
    // The moved rows are the new user's like any other: proved again, they are updated in place.
    assert_eq!(linked(store, &link(one, "v", "a")).await.id, meant[0].id);
}

/// An identity is not moved where the user has another: then none is, or with `Skip` the others.
pub async fn an_identity_is_not_moved_where_the_user_has_another(store: &Arc<dyn Store>) {
    let (one, other) = (provider(store, "one").await, provider(store, "other").await);
    let stays = linked(store, &link(one, "u", "a")).await;
    let goes = linked(store, &link(other, "u", "a")).await;
    let theirs = linked(store, &link(one, "v", "b")).await;
    let told = kinds(store).await.len();
    let skipped = TransferItem { skipped: Some(TransferObstacle::UserHasAnother), ..item(&stays) };

    for new in [of_user("u", "v"), of_identity(stays.id, "v")] {
        let refused = store.transfers().transfer(&new).await.unwrap();
        assert_eq!(refused, TransferOutcome::Conflict(vec![skipped.clone()]));
    }
    assert_eq!(of(store, "u").await, [stays.clone(), goes.clone()]);
    assert_eq!(kinds(store).await.len(), told);
    assert_eq!(store.transfers().list(None, ALL).await.unwrap().items, []);

    let skip = NewTransfer { on_conflict: OnConflict::Skip, ..of_user("u", "v") };
    let transfer = done(store, &skip).await;
    assert_eq!(transfer.items, [skipped, item(&goes)]);
    assert_eq!(of(store, "u").await, [stays]);
    let ids: Vec<_> = of(store, "v").await.iter().map(|it| it.id).collect();
    assert_eq!(ids, [goes.id, theirs.id]);
    let undone = undone(store, transfer.id).await;
    assert_eq!(undone.items[0].undo, None, "it was never moved");
    assert_eq!(undone.items[1].undo, Some(UndoItem::GivenBack));
}

/// A transfer of an identity that is not there, or to its own user, does nothing; one of a user
/// without identities is a transfer of nothing.
pub async fn a_transfer_of_nobody_or_to_the_same_user_does_nothing(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let absent = store.transfers().transfer(&of_identity(IdentityId(4_711), "v")).await.unwrap();
    assert_eq!(absent, TransferOutcome::Absent);
    for new in [of_identity(identity.id, "user-1"), of_user("user-1", "user-1")] {
        let same = store.transfers().transfer(&new).await.unwrap();
        assert_eq!(same, TransferOutcome::SameUser);
    }
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked]);
    assert_eq!(store.transfers().find(TransferId(4_711)).await.unwrap(), None);

    let nothing = done(store, &of_user("nobody", "user-1")).await;
    assert_eq!(nothing.items, []);
    assert_eq!(find(store, identity.id).await, identity);
}

/// Where several accounts are allowed they are moved beside those that the user has, and back.
pub async fn several_accounts_are_moved_where_they_are_allowed(store: &Arc<dyn Store>) {
    let provider = provider_for(store, "p", true).await;
    for (user, account) in [("u", "a"), ("u", "b"), ("v", "c")] {
        linked(store, &link(provider, user, account)).await;
    }
    let transfer = done(store, &of_user("u", "v")).await;
    assert_eq!((transfer.moved(), of(store, "v").await.len()), (2, 3));
    for account in ["a", "b", "c"] {
        let again = store.identities().link(&link(provider, "v", account)).await.unwrap();
        assert!(matches!(again, LinkOutcome::Updated(_)), "{again:?}");
    }
    assert_eq!(undone(store, transfer.id).await.given_back(), 2);
    assert_eq!((of(store, "u").await.len(), of(store, "v").await.len()), (2, 1));
}

/// An undone transfer gives back what still belongs to the user it was moved to, and says what it
/// could not give back.
pub async fn an_undone_transfer_gives_back_what_it_can(store: &Arc<dyn Store>) {
    let mut rows = Vec::new();
    for name in ["back", "gone", "moved on", "renamed", "place taken"] {
        let at = provider(store, name).await;
        rows.push(linked(store, &link(at, "u", "a")).await);
    }
    let transfer = done(store, &of_user("u", "v")).await;
    unlink(store, rows[1].id).await;
    done(store, &of_identity(rows[2].id, "w")).await;
    linked(store, &Link { reattach: true, ..link(rows[3].idp_id, "v", "b") }).await;
    linked(store, &link(rows[4].idp_id, "u", "c")).await;
    let told = kinds(store).await.len();

    let undone = undone(store, transfer.id).await;
    let undo: Vec<_> = undone.items.iter().map(|it| it.undo.unwrap()).collect();
    let kept = UndoItem::Kept;
    assert_eq!(
        undo,
        [
            UndoItem::GivenBack,
            kept(TransferObstacle::Unlinked),
            kept(TransferObstacle::Changed),
            kept(TransferObstacle::Changed),
            kept(TransferObstacle::UserHasAnother),
        ]
    );
    assert!(undone.undone_at.is_some());
    assert_eq!(store.transfers().find(transfer.id).await.unwrap(), Some(undone));
    let back = find(store, rows[0].id).await;
    assert_eq!((back.user_id.as_str(), back.version), ("u", 3));
    assert_eq!(find(store, rows[2].id).await.user_id.as_str(), "w");
    assert_eq!(find(store, rows[4].id).await.user_id.as_str(), "v");
    let told = events(store).await.split_off(told);
    let [event, whole] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((event.about, event.identity_id), (EventKind::IdentityTransferred, Some(back.id)));
    assert_eq!(event.detail["transfer_id"], transfer.id.0);
    assert_eq!(whole.about, EventKind::TransferUndone);
    assert_eq!((&whole.detail["given_back"], &whole.detail["kept"]), (&1.into(), &4.into()));
}

/// A transfer is undone once, however many ask.
pub async fn a_transfer_is_undone_once(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let transfer = done(store, &of_identity(identity.id, "user-2")).await;
    let outcomes = race(8, |_| {
        let store = store.clone();
        async move { store.transfers().undo(transfer.id, &fixtures::ACTOR).await.unwrap() }
    })
    .await;
    let count = |wanted: fn(&UndoOutcome) -> bool| outcomes.iter().filter(|it| wanted(it)).count();
    assert_eq!(count(|it| matches!(it, UndoOutcome::Undone(_))), 1, "{outcomes:?}");
    assert_eq!(count(|it| matches!(it, UndoOutcome::AlreadyUndone(_))), 7, "{outcomes:?}");
    assert_eq!(find(store, identity.id).await.version, 3);
    let absent = store.transfers().undo(TransferId(4_711), &fixtures::ACTOR).await.unwrap();
    assert_eq!(absent, UndoOutcome::Absent);
}

/// Transfers are listed in the order of their ids, and with a user those from or to that user.
pub async fn transfers_are_listed_by_user(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let mut all = Vec::new();
    for to in ["user-2", "user-3", "user-1"] {
        all.push(done(store, &of_identity(identity.id, to)).await);
    }
    let list = async |user: Option<&str>, page| {
        let user = user.map(fixtures::user);
        store.transfers().list(user.as_ref(), page).await.unwrap()
    };
    assert_eq!(list(None, ALL).await.items, all);
    assert_eq!(list(Some("user-2"), ALL).await.items, all[..2]);
    assert_eq!(list(Some("user-3"), ALL).await.items, all[1..]);
    assert_eq!(list(Some("nobody"), ALL).await.items, []);
    let page = list(None, crate::page::PageRequest { limit: 2, after: None }).await;
    assert_eq!((page.items.as_slice(), page.next), (&all[..2], Some(all[1].id.0)));
}

/// Of a transfer and an unlink that race, the transfer moves what is there or finds it gone; the
/// link goes in any case.
pub async fn of_a_transfer_and_an_unlink_both_are_whole(store: &Arc<dyn Store>) {
    for round in 0..16 {
        let (from, to) = (format!("u{round}"), format!("v{round}"));
        let provider = provider(store, &from).await;
        let identity = linked(store, &link(provider, &from, "a")).await;
        let unlinking = {
            let store = store.clone();
            tokio::spawn(async move { unlink_revoking(&store, identity.id).await })
        };
        let outcome = if round % 2 == 0 {
            store.transfers().transfer(&of_user(&from, &to)).await.unwrap()
        } else {
            store.transfers().transfer(&of_identity(identity.id, &to)).await.unwrap()
        };
        let unlinked = unlinking.await.unwrap().unwrap().0;
        match outcome {
            TransferOutcome::Done(transfer) if transfer.moved() == 1 => {
                assert_eq!(unlinked.user_id.as_str(), to);
            }
            TransferOutcome::Done(transfer) => {
                assert_eq!((transfer.items, unlinked.user_id.as_str()), (vec![], from.as_str()));
            }
            TransferOutcome::Absent => assert_eq!(unlinked.user_id.as_str(), from),
            other => panic!("{other:?}"),
        }
        assert_eq!((of(store, &from).await, of(store, &to).await), (vec![], vec![]));
    }
}

/// Of a transfer and a link that race for the new user's place at a provider, one happens.
pub async fn of_a_transfer_and_a_link_of_its_place_one_happens(store: &Arc<dyn Store>) {
    for round in 0..16 {
        let (from, to) = (format!("u{round}"), format!("v{round}"));
        let provider = provider(store, &from).await;
        linked(store, &link(provider, &from, "a")).await;
        let linking = {
            let (store, asked) = (store.clone(), link(provider, &to, "b"));
            tokio::spawn(async move { store.identities().link(&asked).await.unwrap() })
        };
        let outcome = store.transfers().transfer(&of_user(&from, &to)).await.unwrap();
        let accounts: Vec<_> =
            of(store, &to).await.iter().map(|it| it.external_id.as_str().to_owned()).collect();
        match (outcome, linking.await.unwrap()) {
            (TransferOutcome::Done(_), LinkOutcome::Taken(Taken::User)) => {
                assert_eq!(accounts, ["a"]);
            }
            (TransferOutcome::Conflict(_), LinkOutcome::Created(_)) => {
                assert_eq!(accounts, ["b"]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(of(store, &to).await.len(), 1);
    }
}

/// Of racing transfers of one identity each takes it from whoever has it then.
pub async fn of_racing_transfers_of_one_identity_each_is_whole(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let outcomes = race(16, |racer| {
        let (store, new) = (store.clone(), of_identity(identity.id, &format!("v{racer}")));
        async move { store.transfers().transfer(&new).await.unwrap() }
    })
    .await;
    assert!(outcomes.iter().all(|it| matches!(it, TransferOutcome::Done(_))), "{outcomes:?}");
    assert_eq!(find(store, identity.id).await.version, 17);
    // Each begins where the one before it ended.
    let mut user = "user-1".to_owned();
    for event in events(store).await {
        if event.about == EventKind::IdentityTransferred {
            assert_eq!(event.before.unwrap()["user_id"], user.as_str());
            event.user_id.unwrap().as_str().clone_into(&mut user);
        }
    }
    assert_eq!(find(store, identity.id).await.user_id.as_str(), user);
}

/// Transfers of two users to each other that race come to an end, and no identity is lost.
pub async fn crossing_transfers_of_two_users_end(store: &Arc<dyn Store>) {
    for name in ["one", "other"] {
        let at = provider_for(store, name, true).await;
        for user in ["u", "v"] {
            linked(store, &link(at, user, user)).await;
        }
    }
    let outcomes = race(16, |racer| {
        let (from, to) = if racer % 2 == 0 { ("u", "v") } else { ("v", "u") };
        let (store, new) = (store.clone(), of_user(from, to));
        async move { store.transfers().transfer(&new).await }
    })
    .await;
    assert!(outcomes.iter().all(|it| matches!(it, Ok(TransferOutcome::Done(_)))), "{outcomes:?}");
    assert_eq!(of(store, "u").await.len() + of(store, "v").await.len(), 4);
}
