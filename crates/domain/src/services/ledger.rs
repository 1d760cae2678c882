use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Mutex as Turn, OnceCell};

use super::IssuedToken;
use crate::{
    Error,
    event::Who,
    ids::{ProviderId, UserId},
    ledger::{HandOut, LedgerEntry, Tally, TokenMark},
    page::{Page, PageRequest},
    ports::{Clock, LedgerFilter, LedgerRepository, RepositoryError},
    secret::{Secret, SecretHash},
};

/// Most hand-outs that are remembered. One more waits until these are written: nothing is handed
/// out unrecorded.
const REMEMBERED: usize = 50_000;
/// Most that are written in one transaction.
const AT_ONCE: usize = 500;
/// How long a recipient's further hand-outs of a token that is on record are counted in memory.
const COUNTED: TimeDelta = TimeDelta::minutes(1);

/// Writes down who was handed which token, without making the hand-out wait: it is noted in memory
/// and written by [`write_due`](Self::write_due), which is to be called every second. A process
/// that is killed loses what it has not written: the hand-outs since the last call, and of further
/// hand-outs of a token that is on record already the count of up to a minute.
///
/// A clone is the same ledger.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    ledger: Arc<dyn LedgerRepository>,
    clock: Arc<dyn Clock>,
    /// Most hand-outs that are remembered.
    room: usize,
    salt: OnceCell<Secret>,
    notes: Mutex<HashMap<HandOut, Note>>,
    /// One writes at a time, so that whoever waited finds it written.
    writing: Turn<()>,
}

struct Note {
    /// What is not on record yet.
    unwritten: Option<Tally>,
    /// When something was last put on record.
    written_at: Option<DateTime<Utc>>,
}

impl Note {
    fn is_due(&self, now: DateTime<Utc>) -> bool {
        let is_old = self.written_at.is_none_or(|at| now - at >= COUNTED || now < at);
        self.unwritten.is_some() && is_old
    }
}

fn add(tally: &mut Option<Tally>, more: Tally) {
    match tally {
        None => *tally = Some(more),
        Some(tally) => {
            tally.times += more.times;
            tally.first_at = tally.first_at.min(more.first_at);
            if more.last_at >= tally.last_at {
                tally.last_at = more.last_at;
                tally.request_id = more.request_id;
            }
        }
    }
}

impl Ledger {
    /// A ledger with nothing to write.
    #[must_use]
    pub fn new(ledger: Arc<dyn LedgerRepository>, clock: Arc<dyn Clock>) -> Self {
        Self::with_room(REMEMBERED, ledger, clock)
    }

    fn with_room(room: usize, ledger: Arc<dyn LedgerRepository>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            ledger,
            clock,
            room,
            salt: OnceCell::new(),
            notes: Mutex::default(),
            writing: Turn::new(()),
        }))
    }

    /// Notes that a token is about to be handed out.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`] when it cannot be noted; it is not to be handed out then.
    pub async fn note(
        &self,
        token: &IssuedToken,
        of: (ProviderId, &UserId),
        to: (Who, Option<&UserId>),
        request_id: &str,
    ) -> Result<(), Error> {
        let now = self.0.clock.now();
        let hand_out = HandOut {
            token: self.mark(&token.access_token.hash()).await?,
            identity_id: token.identity_id,
            provider_id: of.0,
            user_id: of.1.clone(),
            to: to.0,
            acting_user: to.1.cloned(),
        };
        let tally =
            Tally { times: 1, first_at: now, last_at: now, request_id: request_id.to_owned() };
        if self.is_full() {
            self.write_all().await?;
        }
        let mut notes = self.notes();
        let note = Note { unwritten: None, written_at: None };
        add(&mut notes.entry(hand_out).or_insert(note).unwritten, tally);
        Ok(())
    }

    /// The entries that are meant, those of this process up to now.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`].
    pub async fn list(
        &self,
        identity_id: Option<crate::ids::IdentityId>,
        token: Option<&SecretHash>,
        page: PageRequest,
    ) -> Result<Page<LedgerEntry>, Error> {
        self.write_all().await?;
        let token = match token {
            Some(token) => Some(self.mark(token).await?),
            None => None,
        };
        Ok(self.0.ledger.list_ledger(&LedgerFilter { identity_id, token }, page).await?)
    }

    /// Writes what is due: each first hand-out of a token to a recipient, and once a minute how
    /// often it was repeated. What could not be written stays noted.
    ///
    /// # Errors
    ///
    /// [`RepositoryError`].
    pub async fn write_due(&self) -> Result<(), RepositoryError> {
        self.write(false).await
    }

    /// Writes everything: before the process ends.
    ///
    /// # Errors
    ///
    /// [`RepositoryError`].
    pub async fn write_all(&self) -> Result<(), RepositoryError> {
        self.write(true).await
    }

    async fn write(&self, everything: bool) -> Result<(), RepositoryError> {
        let _turn = self.0.writing.lock().await;
        let now = self.0.clock.now();
        let mut due = Vec::new();
        self.notes().retain(|hand_out, note| {
            if !(everything || note.is_due(now)) {
                // On record and quiet since then: there is nothing to remember.
                return note.unwritten.is_some()
                    || note.written_at.is_some_and(|at| now - at < COUNTED);
            }
            if let Some(tally) = note.unwritten.take() {
                due.push((hand_out.clone(), tally));
                note.written_at = Some(now);
                return true;
            }
            false
        });
        // In one order in every replica, so that no two wait for each other.
        due.sort_unstable_by_key(|(it, _)| it.token.0.0);
        let mut rest = due.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(rest.len().min(AT_ONCE));
            if let Err(error) = self.0.ledger.record(batch).await {
                let mut notes = self.notes();
                for (hand_out, tally) in rest {
                    let note = Note { unwritten: None, written_at: None };
                    let note = notes.entry(hand_out.clone()).or_insert(note);
                    add(&mut note.unwritten, tally.clone());
                    note.written_at = None;
                }
                return Err(error);
            }
            rest = later;
        }
        Ok(())
    }

    async fn mark(&self, token: &SecretHash) -> Result<TokenMark, Error> {
        let salt = self.0.salt.get_or_try_init(|| self.0.ledger.salt()).await?;
        Ok(TokenMark::of(salt, token))
    }

    fn is_full(&self) -> bool {
        self.notes().len() >= self.0.room
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<HandOut, Note>> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::{
        ids::{ApiKeyId, IdentityId},
        testing::{MemoryStore, TestClock, fixtures},
    };

    fn token(text: &str) -> IssuedToken {
        IssuedToken {
            identity_id: fixtures::IDENTITY,
            access_token: Secret::new(text),
            token_type: "Bearer".into(),
            expires_at: None,
            scopes: Vec::new(),
        }
    }

    async fn note(ledger: &Ledger, text: &str, key: i64) -> Result<(), Error> {
        let user = fixtures::user("ada");
        let (of, to) = ((fixtures::PROVIDER, &user), (Who::ApiKey(ApiKeyId(key)), None));
        ledger.note(&token(text), of, to, &format!("request of {key}")).await
    }

    fn all() -> PageRequest {
        PageRequest { limit: 200, after: None }
    }

    async fn kept(store: &MemoryStore) -> Vec<(Who, u64)> {
        let page = store.list_ledger(&LedgerFilter::default(), all()).await.unwrap();
        page.items.into_iter().map(|it| (it.hand_out.to, it.tally.times)).collect()
    }

    #[tokio::test]
    async fn a_first_hand_out_is_written_at_once_and_its_repetitions_once_a_minute() {
        let clock = Arc::new(TestClock::default());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let ledger = Ledger::new(store.clone(), clock.clone());
        let key = Who::ApiKey(ApiKeyId(1));
        note(&ledger, "a", 1).await.unwrap();
        assert_eq!(kept(&store).await, []);
        ledger.write_due().await.unwrap();
        assert_eq!(kept(&store).await, [(key.clone(), 1)]);
        for _ in 0..3 {
            note(&ledger, "a", 1).await.unwrap();
        }
        ledger.write_due().await.unwrap();
        assert_eq!(kept(&store).await, [(key.clone(), 1)]);
        clock.advance(TimeDelta::minutes(1));
        ledger.write_due().await.unwrap();
        assert_eq!(kept(&store).await, [(key.clone(), 4)]);
        // What is quiet is not remembered.
        clock.advance(TimeDelta::minutes(1));
        ledger.write_due().await.unwrap();
        assert!(ledger.notes().is_empty());
        note(&ledger, "a", 1).await.unwrap();
        ledger.write_all().await.unwrap();
        assert_eq!(kept(&store).await, [(key, 5)]);
    }

    #[tokio::test]
    async fn who_had_a_token_is_found_by_its_hash_and_what_is_kept_is_not_that_hash() {
        let clock = Arc::new(TestClock::default());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let ledger = Ledger::new(store.clone(), clock);
        for (text, key) in [("a", 1), ("a", 2), ("b", 1)] {
            note(&ledger, text, key).await.unwrap();
        }
        let asked = SecretHash::of("a");
        let found = ledger.list(None, Some(&asked), all()).await.unwrap().items;
        let to: Vec<_> = found.iter().map(|it| &it.hand_out.to).collect();
        assert_eq!(to.len(), 2);
        assert!(to.contains(&&Who::ApiKey(ApiKeyId(2))), "{to:?}");
        assert!(found.iter().all(|it| it.hand_out.token.0 != asked));
        assert_eq!(found[0].tally.times, 1);
        let nobody = ledger.list(Some(IdentityId(999)), Some(&asked), all()).await.unwrap();
        assert_eq!(nobody.items, []);
        // Another installation has another salt, and other marks.
        let other = MemoryStore::default().salt().await.unwrap();
        assert_ne!(TokenMark::of(&other, &asked), found[0].hand_out.token);
    }

    /// Keeps nothing while it is broken.
    struct Breakable(MemoryStore, AtomicBool);

    #[async_trait]
    impl LedgerRepository for Breakable {
        async fn salt(&self) -> Result<Secret, RepositoryError> {
            self.0.salt().await
        }

        async fn record(&self, hand_outs: &[(HandOut, Tally)]) -> Result<(), RepositoryError> {
            if self.1.load(Ordering::Relaxed) {
                return Err(RepositoryError::Store("broken".into()));
            }
            self.0.record(hand_outs).await
        }

        async fn list_ledger(
            &self,
            filter: &LedgerFilter,
            page: PageRequest,
        ) -> Result<Page<LedgerEntry>, RepositoryError> {
            self.0.list_ledger(filter, page).await
        }

        async fn forget(&self, before: DateTime<Utc>, most: u16) -> Result<u64, RepositoryError> {
            self.0.forget(before, most).await
        }
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later_and_a_full_memory_hands_nothing_out() {
        let clock = Arc::new(TestClock::default());
        let store = Arc::new(Breakable(MemoryStore::new(clock.clone()), AtomicBool::new(true)));
        let ledger = Ledger::with_room(3, store.clone(), clock);
        note(&ledger, "a", 1).await.unwrap();
        ledger.write_due().await.unwrap_err();
        note(&ledger, "a", 1).await.unwrap();
        for nth in 0..2 {
            note(&ledger, &format!("token {nth}"), 2).await.unwrap();
        }
        let refused = note(&ledger, "one more", 3).await;
        assert!(matches!(refused, Err(Error::Repository(_))), "{refused:?}");
        store.1.store(false, Ordering::Relaxed);
        note(&ledger, "one more", 3).await.unwrap();
        ledger.write_due().await.unwrap();
        let found = ledger.list(None, Some(&SecretHash::of("a")), all()).await.unwrap().items;
        assert_eq!(found[0].tally.times, 2);
        let found = ledger.list(None, Some(&SecretHash::of("one more")), all()).await.unwrap();
        assert_eq!(found.items.len(), 1);
    }
}
