//! What holds whatever two callers do, in any order: random sequences for property tests of any
//! [`Store`].
//!
//! [`Op::from_bytes`] makes an operation of random bytes, smaller bytes of simpler ones, so that a
//! property test shrinks to a short and readable list of operations.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{contract::Store, fixtures};
use crate::{
    credentials::Credentials,
    event::{Event, EventKind},
    identity::{Identity, IdentityFilter},
    identity_provider::ProviderOptions,
    ids::{ExternalId, IdentityId, ProviderId},
    page::{Page, PageRequest},
    ports::{
        DataUpdate, EventFilter, LeaseOutcome, Link, LinkOutcome, LinkOwner, NewIdentityProvider,
        NewTransfer, OnConflict, TransferSubject, Unlink, UnlinkOutcome,
    },
    secret::Secret,
};

/// Something that a caller does. Users, accounts and providers are numbered; a row is the one at
/// this place among those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the variant names")]
pub enum Op {
    /// Links an account, with new credentials or none. Provider 1 allows several accounts.
    Link { provider: u8, user: u8, account: u8, legacy: Option<u8>, reattach: bool, grant: bool },
    /// Signs in with an account.
    SignIn { provider: u8, account: u8, legacy: Option<u8> },
    /// Removes a row.
    Unlink { row: u8, revoke: bool },
    /// Replaces a row's data, with new credentials or none.
    UpdateData { row: u8, grant: bool },
    /// Refreshes a row's credentials.
    Refresh { row: u8 },
    /// Moves a row to a user.
    TransferIdentity { row: u8, to: u8 },
    /// Moves all rows of a user to another.
    TransferUser { from: u8, to: u8, skip: bool },
    /// Undoes a transfer.
    Undo { transfer: u8 },
}

impl Op {
    /// The operation that these bytes mean; any do.
    #[must_use]
    pub fn from_bytes([kind, first, second, flags]: [u8; 4]) -> Self {
        let flag = |bit: u8| flags & (1 << bit) != 0;
        let (provider, user, account) = (u8::from(flag(0)), first % 3, second % 3);
        let legacy = flag(1).then_some((second / 3) % 3).filter(|it| *it != account);
        match kind % 12 {
            0..=3 => {
                Self::Link { provider, user, account, legacy, reattach: flag(2), grant: !flag(3) }
            }
            4 => Self::SignIn { provider, account, legacy },
            5 => Self::Unlink { row: first % 6, revoke: !flag(0) },
            6 => Self::UpdateData { row: first % 6, grant: flag(0) },
            7 => Self::Refresh { row: first % 6 },
            8 => Self::TransferIdentity { row: first % 6, to: account },
            9 | 10 => Self::TransferUser { from: user, to: account, skip: flag(0) },
            _ => Self::Undo { transfer: first % 6 },
        }
    }
}

/// Who of the two does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The one.
    A,
    /// The other.
    B,
}

/// Runs the operations in turn, and looks at the store after each.
///
/// # Panics
///
/// When a rule is broken.
pub async fn in_turn(store: &Arc<dyn Store>, steps: &[(Caller, Op)]) {
    let world = World::new(store).await;
    for (_, op) in steps {
        world.run(*op).await;
        world.check().await;
    }
}

/// Runs the operations in pairs, the two of a pair at the same time, and looks at the store after
/// each pair.
///
/// # Panics
///
/// When a rule is broken.
pub async fn at_once(store: &Arc<dyn Store>, steps: &[(Op, Op)]) {
    let world = Arc::new(World::new(store).await);
    for (one, other) in steps.iter().copied() {
        let runs = [one, other].map(|op| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.run(op).await })
        });
        for run in runs {
            run.await.unwrap();
        }
        world.check().await;
    }
}

const ALL: PageRequest = PageRequest { limit: 200, after: None };

/// An account at a provider.
type Account = (ProviderId, ExternalId);

struct World {
    store: Arc<dyn Store>,
    providers: [ProviderId; 2],
    /// Numbers the tokens in the order in which they are made.
    next_token: AtomicU64,
    grants: Mutex<Grants>,
}

/// Every grant that the store took, from one look at it to the next.
#[derive(Default)]
struct Grants {
    /// What the rows held at the last look, and which accounts those tokens open.
    kept: BTreeMap<u64, Account>,
    /// What the store took since then. Of two for one account nobody can tell which was last.
    new: BTreeMap<u64, Account>,
    /// Accounts that may go by another name since then: the older and the newer name.
    renamed: Vec<(Account, Account)>,
    /// Accounts that were unlinked without revocation since then: their tokens up to this number
    /// are nobody's, on purpose.
    let_go: Vec<(Account, u64)>,
}

impl Grants {
    fn is_let_go(&self, token: u64, account: &Account) -> bool {
        self.let_go.iter().any(|(of, up_to)| of == account && token < *up_to)
    }

    /// The tokens that came for the same account since the last look, by whatever name.
    fn heirs<'a>(&'a self, token: u64, account: &Account) -> Vec<(u64, &'a Account)> {
        let mut names = BTreeSet::from([account]);
        // One caller's new name may be the other's old one.
        for _ in 0..2 {
            let more = self.renamed.iter().filter(|(old, _)| names.contains(old));
            let more: Vec<_> = more.map(|(_, new)| new).collect();
            names.extend(more);
        }
        let new = self.new.iter().map(|(number, of)| (*number, of));
        new.filter(|(number, of)| *number != token && names.contains(of)).collect()
    }

    /// The tokens that nobody has, and should: they are in no row, wait for no revocation, and no
    /// later grant of the same account came in their place.
    fn lost(&self, kept: &BTreeMap<u64, Account>, queued: &BTreeSet<u64>) -> Vec<(u64, &Account)> {
        let is_safe = |token: u64, account: &Account| {
            kept.contains_key(&token) || queued.contains(&token) || self.is_let_go(token, account)
        };
        let all = self.kept.iter().chain(&self.new).map(|(token, account)| (*token, account));
        let lost = all.filter(|(token, account)| {
            // An heir that is nobody's either is told of by itself, unless it is this one's heir.
            let is_superseded =
                |(heir, of): &(u64, &Account)| self.kept.contains_key(token) || is_safe(*heir, of);
            !is_safe(*token, account) && !self.heirs(*token, account).iter().any(is_superseded)
        });
        lost.collect()
    }
}

impl World {
    async fn new(store: &Arc<dyn Store>) -> Self {
        let mut providers = [ProviderId(0); 2];
        for (several, id) in [false, true].into_iter().zip(&mut providers) {
            let options =
                ProviderOptions { multiple_accounts: several, ..ProviderOptions::default() };
            let external_id = Some(format!("several accounts: {several}"));
            let new =
                NewIdentityProvider { external_id, options, ..fixtures::new_identity_provider() };
            *id = store.providers().insert(&new, &fixtures::ACTOR).await.unwrap().id;
        }
        Self {
            store: Arc::clone(store),
            providers,
            next_token: AtomicU64::new(0),
            grants: Mutex::default(),
        }
    }

    fn new_token(&self, granted: bool) -> Option<(u64, Credentials)> {
        granted.then(|| {
            let number = self.next_token.fetch_add(1, Ordering::Relaxed);
            let token = |kind: &str| Some(Secret::new(format!("{kind}{number}")));
            let credentials = Credentials {
                access_token: token("t"),
                refresh_token: token("r"),
                ..Credentials::default()
            };
            (number, credentials)
        })
    }

    fn take(&self, number: Option<u64>, identity: &Identity) {
        if let Some(number) = number {
            self.take_for(number, identity.idp_id, identity.external_id.clone());
        }
    }

    fn take_for(&self, number: u64, provider: ProviderId, account: ExternalId) {
        self.grants.lock().unwrap().new.insert(number, (provider, account));
    }

    fn let_go(&self, provider: ProviderId, account: &ExternalId) {
        let up_to = self.next_token.load(Ordering::Relaxed);
        self.grants.lock().unwrap().let_go.push(((provider, account.clone()), up_to));
    }

    async fn rows(&self) -> Vec<Identity> {
        self.store.identities().list(&IdentityFilter::default(), ALL).await.unwrap().items
    }

    async fn row(&self, at: u8) -> Option<Identity> {
        let rows = self.rows().await;
        (!rows.is_empty()).then(|| rows[usize::from(at) % rows.len()].clone())
    }

    async fn run(&self, op: Op) {
        match op {
            Op::Link { provider, user, account, legacy, reattach, grant } => {
                let owner = fixtures::owner(&format!("u{user}"));
                self.link(provider, owner, account, legacy, reattach, grant).await;
            }
            Op::SignIn { provider, account, legacy } => {
                self.link(provider, LinkOwner::Whoever, account, legacy, false, true).await;
            }
            Op::Unlink { row, revoke } => {
                let Some(row) = self.row(row).await else { return };
                let unlink = Unlink { revoke, ..Unlink::unguarded(row.id, &fixtures::ACTOR) };
                let outcome = self.store.identities().unlink(&unlink).await.unwrap();
                if let (UnlinkOutcome::Unlinked(gone, _), false) = (outcome, revoke) {
                    self.let_go(gone.idp_id, &gone.external_id);
                }
            }
            Op::UpdateData { row, grant } => {
                let Some(row) = self.row(row).await else { return };
                let (number, credentials) = self.new_token(grant).unzip();
                let data = fixtures::object(json!({ "number": number }));
                let update =
                    DataUpdate { id: row.id, data, credentials, ..fixtures::data_update() };
                let outcome = self.store.identities().update_data(&update).await.unwrap();
                if let crate::ports::DataOutcome::Updated(identity) = outcome {
                    self.take(number, &identity);
                }
            }
            Op::Refresh { row } => {
                let Some(row) = self.row(row).await else { return };
                self.refresh(row.id).await;
            }
            Op::TransferIdentity { row, to } => {
                let Some(row) = self.row(row).await else { return };
                self.transfer(TransferSubject::Identity(row.id), to, OnConflict::Fail).await;
            }
            Op::TransferUser { from, to, skip } => {
                let from = TransferSubject::User(fixtures::user(&format!("u{from}")));
                let on_conflict = if skip { OnConflict::Skip } else { OnConflict::Fail };
                self.transfer(from, to, on_conflict).await;
            }
            Op::Undo { transfer } => {
                let all = self.store.transfers().list(None, ALL).await.unwrap().items;
                if !all.is_empty() {
                    let id = all[usize::from(transfer) % all.len()].id;
                    self.store.transfers().undo(id, &fixtures::ACTOR).await.unwrap();
                }
            }
        }
    }

    async fn link(
        &self,
        provider: u8,
        owner: LinkOwner,
        account: u8,
        legacy: Option<u8>,
        reattach: bool,
        grant: bool,
    ) {
        let name = |number: u8| fixtures::external_id(&format!("a{number}"));
        let provider_id = self.providers[usize::from(provider)];
        let (number, credentials) = self.new_token(grant).unzip();
        let link = Link {
            provider_id,
            owner,
            external_id: name(account),
            legacy_id: legacy.map(name),
            data: fixtures::object(json!({ "number": number })),
            credentials,
            reattach,
            ..fixtures::link()
        };
        match self.store.identities().link(&link).await.unwrap() {
            LinkOutcome::Created(it)
            | LinkOutcome::Updated(it)
            | LinkOutcome::Rebound(it)
            | LinkOutcome::SignedIn(it) => {
                self.take(number, &it);
                if let Some(legacy) = &link.legacy_id {
                    let names = [legacy, &link.external_id].map(|it| (provider_id, it.clone()));
                    self.grants.lock().unwrap().renamed.push(names.into());
                }
            }
            LinkOutcome::Taken(_) | LinkOutcome::NobodyLinked => {}
            LinkOutcome::SessionUsed => panic!("there was no session"),
        }
    }

    async fn refresh(&self, id: IdentityId) {
        let credentials = self.store.credentials();
        let Some(stored) = credentials.find(id).await.unwrap() else { return };
        let lease = Duration::from_mins(1);
        let taken = credentials.take_lease(id, stored.generation, "replica", lease).await.unwrap();
        let LeaseOutcome::Taken(lease, _) = taken else { return };
        let Some((number, renewed)) = self.new_token(stored.credentials.is_some()) else {
            credentials.release(&lease).await.unwrap();
            return;
        };
        // What came too late is the service's to hand over; here it was never taken.
        if credentials.commit(&lease, &renewed).await.unwrap() == crate::ports::LeasedWrite::Done {
            let page = EventFilter { identity_id: Some(id), ..EventFilter::default() };
            let events = self.store.events().list(&page, ALL).await.unwrap().items;
            // The row may be gone or renamed by now: what it was is on record.
            let mut state = Map::new();
            let mut account = None;
            for event in events {
                if let Some(after) =
                    event.after.filter(|_| event.before.is_some() || state.is_empty())
                {
                    state.extend(after);
                }
                if event.about == EventKind::IdentityRefreshed {
                    account = state["external_id"].as_str().map(fixtures::external_id);
                }
            }
            self.take_for(number, stored.provider_id, account.unwrap());
        }
    }

    async fn transfer(&self, what: TransferSubject, to: u8, on_conflict: OnConflict) {
        let to_user_id = fixtures::user(&format!("u{to}"));
        let new = NewTransfer { what, to_user_id, on_conflict, actor: fixtures::ACTOR };
        self.store.transfers().transfer(&new).await.unwrap();
    }

    async fn check(&self) {
        let rows = self.rows().await;
        self.check_unique(&rows);
        let events = self.events().await;
        check_events(&rows, &events);
        self.check_credentials(&rows).await;
    }

    /// No account twice at a provider, and no user twice where one account is allowed.
    fn check_unique(&self, rows: &[Identity]) {
        let mut accounts = BTreeSet::new();
        let mut users = BTreeSet::new();
        for row in rows {
            assert!(accounts.insert((row.idp_id, &row.external_id)), "an account twice: {rows:#?}");
            let first = users.insert((row.idp_id, &row.user_id));
            assert!(first || row.idp_id == self.providers[1], "a user twice: {rows:#?}");
        }
    }

    async fn events(&self) -> Vec<Event> {
        let (mut all, mut page) = (Vec::new(), ALL);
        loop {
            let Page { items, next } =
                self.store.events().list(&EventFilter::default(), page).await.unwrap();
            all.extend(items);
            let Some(after) = next else { return all };
            page.after = Some(after);
        }
    }

    /// Every token that the store ever took is in a row, waits to be revoked, was replaced by a
    /// later one of the same account, or was let go on purpose; and none is in a row and in the
    /// queue.
    async fn check_credentials(&self, rows: &[Identity]) {
        let mut kept = BTreeMap::new();
        for row in rows {
            let stored = self.store.credentials().find(row.id).await.unwrap().unwrap();
            let account = (row.idp_id, row.external_id.clone());
            kept.extend(stored.credentials.map(|it| (number_of(&it), account)));
        }
        let mut queued = BTreeSet::new();
        // Claimed for no time at all, they are due again.
        for claimed in self.store.revocations().claim_due(1000, Duration::ZERO).await.unwrap() {
            queued.insert(number_of(&claimed.grant.unwrap().credentials));
        }
        let both: Vec<_> = kept.keys().filter(|it| queued.contains(it)).collect();
        assert!(both.is_empty(), "in use, and to be revoked: {both:?}");
        let mut grants = self.grants.lock().unwrap();
        let lost = grants.lost(&kept, &queued);
        assert!(lost.is_empty(), "nobody owns these tokens: {lost:?}");
        *grants = Grants { kept, ..Grants::default() };
    }
}

fn number_of(credentials: &Credentials) -> u64 {
    credentials.access_token.as_ref().unwrap().expose()[1..].parse().unwrap()
}

/// Every change has its event: what the events tell, one after the other, is what is there.
fn check_events(rows: &[Identity], events: &[Event]) {
    let mut told: BTreeMap<IdentityId, Map<String, Value>> = BTreeMap::new();
    for event in events {
        let Some(id) = event.identity_id else { continue };
        match (&event.before, &event.after) {
            (None, None) => {}
            (None, Some(after)) => {
                assert!(told.insert(id, after.clone()).is_none(), "made twice: {event:#?}");
            }
            (Some(before), None) => {
                assert_eq!(told.remove(&id).as_ref(), Some(before), "{event:#?}");
            }
            (Some(before), Some(after)) => {
                let state = told.get_mut(&id).unwrap_or_else(|| panic!("not there: {event:#?}"));
                for (key, value) in before {
                    assert_eq!(state.get(key), Some(value), "{key}: {event:#?}");
                }
                state.extend(after.clone());
                let version = |it: &Map<String, Value>| it["version"].as_i64().unwrap();
                assert_eq!(version(before) + 1, version(after), "a change is lost: {event:#?}");
            }
        }
    }
    let there: BTreeMap<_, _> = rows.iter().map(|it| (it.id, it.facts())).collect();
    assert_eq!(told, there, "what the events tell, and what is there");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::MemoryStore;

    fn run(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future);
    }

    fn step((is_a, op): (bool, [u8; 4])) -> (Caller, Op) {
        (if is_a { Caller::A } else { Caller::B }, Op::from_bytes(op))
    }

    fn empty() -> Arc<dyn Store> {
        Arc::new(MemoryStore::default())
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 512,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn nothing_that_two_callers_do_in_turn_breaks_a_rule(
            steps in prop::collection::vec((any::<bool>(), any::<[u8; 4]>()).prop_map(step), 1..40)
        ) {
            run(async { in_turn(&empty(), &steps).await });
        }
    }

    #[test]
    fn a_lost_event_and_a_lost_grant_are_found() {
        let first = Op::from_bytes([0, 0, 0, 0]);
        let is_link =
            matches!(first, Op::Link { provider: 0, user: 0, account: 0, grant: true, .. });
        assert!(is_link, "{first:?}");
        run(async {
            let store = empty();
            let world = World::new(&store).await;
            world.run(first).await;
            world.check().await;
            let (rows, events) = (world.rows().await, world.events().await);
            let lost = std::panic::catch_unwind(|| check_events(&rows, &events[..2]));
            assert!(lost.is_err());
            // A token that the store never saw is nobody's, be it the account's last one or one
            // that was there before.
            for is_last in [true, false] {
                let account = (world.providers[0], fixtures::external_id("a0"));
                let mut grants = world.grants.lock().unwrap();
                let of = if is_last { &mut grants.new } else { &mut grants.kept };
                of.insert(99, account);
                let kept = BTreeMap::from([(0, (world.providers[0], fixtures::external_id("a0")))]);
                let lost: Vec<_> =
                    grants.lost(&kept, &BTreeSet::new()).iter().map(|it| it.0).collect();
                assert_eq!(lost, [99], "{is_last}");
                *grants = Grants { kept, ..Grants::default() };
            }
            world.take_for(99, world.providers[0], fixtures::external_id("a0"));
            let check = tokio::spawn(async move { world.check().await });
            assert!(check.await.unwrap_err().is_panic());
        });
    }
}
