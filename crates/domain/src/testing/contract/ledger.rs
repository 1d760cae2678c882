//! [`LedgerRepository`](crate::ports::LedgerRepository).

use std::sync::Arc;

use chrono::TimeDelta;

use super::{ALL, Store, now, race};
use crate::{
    event::Who,
    ids::{ApiKeyId, IdentityId},
    ledger::{HandOut, LedgerEntry, Tally, TokenMark},
    page::PageRequest,
    ports::LedgerFilter,
    secret::SecretHash,
    testing::fixtures::{PROVIDER, user},
};

fn mark(token: &str) -> TokenMark {
    TokenMark(SecretHash::of(token))
}

fn hand_out(token: &str, identity: i64, key: i64, acting_user: Option<&str>) -> HandOut {
    HandOut {
        token: mark(token),
        identity_id: IdentityId(identity),
        provider_id: PROVIDER,
        user_id: user("ada"),
        to: Who::ApiKey(ApiKeyId(key)),
        acting_user: acting_user.map(user),
    }
}

/// So many times, the last one that many seconds from now.
fn tally(times: u64, seconds: i64) -> Tally {
    let last_at = now() + TimeDelta::seconds(seconds);
    let request_id = format!("at {seconds}");
    Tally { times, first_at: last_at - TimeDelta::seconds(1), last_at, request_id }
}

async fn list(store: &Arc<dyn Store>, filter: LedgerFilter) -> Vec<LedgerEntry> {
    store.ledger().list_ledger(&filter, ALL).await.unwrap().items
}

/// The salt of an installation is made once, also in a race, and stays.
pub async fn the_salt_of_the_ledger_is_made_once(store: &Arc<dyn Store>) {
    let salts = race(8, |_| {
        let store = Arc::clone(store);
        async move { store.ledger().salt().await.unwrap() }
    })
    .await;
    assert!(salts.iter().all(|it| *it == salts[0]));
    assert_eq!(store.ledger().salt().await.unwrap(), salts[0]);
    assert!(salts[0].expose().len() >= 32);
}

/// What was handed out is found by identity and by token, one entry for each token and recipient.
pub async fn hand_outs_are_found_by_identity_and_by_token(store: &Arc<dyn Store>) {
    let rows = [
        (hand_out("a", 1, 1, None), tally(1, 0)),
        (hand_out("a", 1, 1, Some("eve")), tally(2, 1)),
        (hand_out("a", 1, 2, None), tally(3, 2)),
        (hand_out("b", 1, 1, None), tally(4, 3)),
        (HandOut { to: Who::Sentry, ..hand_out("c", 2, 0, None) }, tally(5, 4)),
    ];
    for row in &rows {
        store.ledger().record(std::slice::from_ref(row)).await.unwrap();
    }
    let of = |entries: Vec<LedgerEntry>| -> Vec<_> {
        entries.into_iter().map(|it| (it.hand_out, it.tally)).collect()
    };
    let any = LedgerFilter::default;
    assert_eq!(of(list(store, any()).await), rows);
    let filter = LedgerFilter { identity_id: Some(IdentityId(1)), ..any() };
    assert_eq!(of(list(store, filter.clone()).await), rows[..4]);
    assert_eq!(of(list(store, LedgerFilter { token: Some(mark("a")), ..any() }).await), rows[..3]);
    let both = LedgerFilter { token: Some(mark("b")), ..filter };
    assert_eq!(of(list(store, both).await), rows[3..4]);
    assert_eq!(list(store, LedgerFilter { token: Some(mark("x")), ..any() }).await, []);

    let page = PageRequest { limit: 2, after: None };
    let first = store.ledger().list_ledger(&any(), page).await.unwrap();
    let page = PageRequest { after: first.next, ..page };
    let second = store.ledger().list_ledger(&any(), page).await.unwrap();
    assert_eq!(of(second.items), rows[2..4]);
}

/// Hand-outs of one token to one recipient add up: the times, the earliest first, the latest last
/// with its request.
pub async fn hand_outs_to_one_recipient_add_up(store: &Arc<dyn Store>) {
    let of = || hand_out("a", 1, 1, None);
    let (earlier, later) = (tally(2, 10), tally(3, 20));
    store.ledger().record(&[(of(), later.clone())]).await.unwrap();
    store
        .ledger()
        .record(&[(of(), earlier.clone()), (hand_out("b", 1, 1, None), tally(1, 0))])
        .await
        .unwrap();
    let found = list(store, LedgerFilter { token: Some(mark("a")), ..Default::default() }).await;
    let [entry] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(entry.tally, Tally { times: 5, first_at: earlier.first_at, ..later });
    store.ledger().record(&[]).await.unwrap();

    let racing = race(8, |_| {
        let store = Arc::clone(store);
        let both =
            [(hand_out("c", 1, 1, None), tally(1, 0)), (hand_out("d", 1, 1, None), tally(1, 0))];
        async move { store.ledger().record(&both).await.unwrap() }
    });
    racing.await;
    for token in ["c", "d"] {
        let filter = LedgerFilter { token: Some(mark(token)), ..Default::default() };
        assert_eq!(list(store, filter).await[0].tally.times, 8);
    }
}

/// Entries that are old enough are forgotten, so many at a time, and no other.
pub async fn old_hand_outs_are_forgotten(store: &Arc<dyn Store>) {
    let rows: Vec<_> =
        (0..5).map(|nth| (hand_out(&format!("{nth}"), 1, 1, None), tally(1, nth * 100))).collect();
    store.ledger().record(&rows).await.unwrap();
    let before = now() + TimeDelta::seconds(250);
    assert_eq!(store.ledger().forget(before, 2).await.unwrap(), 2);
    assert_eq!(store.ledger().forget(before, 2).await.unwrap(), 1);
    assert_eq!(store.ledger().forget(before, 2).await.unwrap(), 0);
    let left = list(store, LedgerFilter::default()).await;
    assert!(left.len() == 2 && left.iter().all(|it| it.tally.last_at >= before), "{left:?}");
}
