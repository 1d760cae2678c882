use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tokio::sync::watch;

use crate::endpoint::Endpoint;

/// How many records are kept; older ones are forgotten, the counters are not.
const KEPT: usize = 10_000;

/// One request, as the sandbox saw it. Holds no secret: tokens are named by their
/// [`fingerprint`](crate::fingerprint).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Counts the requests; starts at 1.
    pub number: u64,
    /// When it arrived, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The HTTP method.
    pub method: String,
    /// Where it went.
    pub endpoint: Endpoint,
    /// Whom it said it was from.
    pub client_id: Option<String>,
    /// Fingerprints of what was presented, by parameter name.
    pub presented: BTreeMap<&'static str, String>,
    /// Fingerprints of what was issued, by parameter name, whether or not the answer arrived.
    pub issued: BTreeMap<&'static str, String>,
    /// The kinds of the faults that it met.
    pub faults: Vec<&'static str>,
    /// Whether it changed anything: issued or revoked something.
    pub committed: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// It has not, so far.
    Pending,
    /// An answer was sent.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The OAuth error in it.
        error: Option<String>,
    },
    /// The connection was cut by a fault.
    Cut,
    /// The client left, or the sandbox stopped, before there was an answer.
    Abandoned,
}

/// What happened so far, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Requests at all endpoints.
    pub requests: u64,
    /// Refreshes that were processed, their answers lost or not. One that was answered once more
    /// within the reuse interval counts again, under `refresh_repeats` too.
    pub refreshes: u64,
    /// Spent refresh tokens that were presented within the reuse interval and answered.
    pub refresh_repeats: u64,
    /// Spent refresh tokens that were presented and refused.
    pub refresh_reuses: u64,
    /// Grants that were ended: by reuse, by a request to revoke, or by their user.
    pub revoked_families: u64,
    /// Refresh requests that arrived while another one with the same token was under way.
    pub concurrent_uses_of_one_refresh_token: u64,
}

/// What [`Sandbox::wait_for`](crate::Sandbox::wait_for) looks at.
#[derive(Clone, Debug, Serialize)]
pub struct Records {
    /// The latest requests, oldest first.
    pub items: Vec<Record>,
    /// All requests, counted.
    pub counters: Counters,
}

impl Records {
    /// How many requests of those kept went there.
    #[must_use]
    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.items.iter().filter(|it| endpoint.covers(it.endpoint)).count()
    }
}

#[derive(Default)]
struct Book {
    records: VecDeque<Record>,
    requests: u64,
    concurrent_uses: u64,
    /// How many requests with a refresh token are under way, by fingerprint.
    under_way: HashMap<String, u32>,
}

/// Keeps the records.
pub(crate) struct Recorder {
    book: Mutex<Book>,
    changes: watch::Sender<u64>,
}

/// What is known of a request when it arrives.
pub(crate) struct Arrival {
    pub(crate) at_ms: u64,
    pub(crate) method: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) client_id: Option<String>,
    pub(crate) presented: BTreeMap<&'static str, String>,
    pub(crate) faults: Vec<&'static str>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { book: Mutex::default(), changes: watch::Sender::new(0) }
    }

    /// Writes down a request that has arrived.
    pub(crate) fn arrive(self: &Arc<Self>, arrival: Arrival) -> Visit {
        let mut book = self.lock();
        book.requests += 1;
        let number = book.requests;
        let refresh_token = match arrival.endpoint {
            Endpoint::Refresh => arrival.presented.get("refresh_token").cloned(),
            _ => None,
        };
        if let Some(token) = &refresh_token {
            let others = book.under_way.entry(token.clone()).or_default();
            *others += 1;
            if *others > 1 {
                book.concurrent_uses += 1;
            }
        }
        let Arrival { at_ms, method, endpoint, client_id, presented, faults } = arrival;
        if book.records.len() == KEPT {
            book.records.pop_front();
        }
        book.records.push_back(Record {
            number,
            at_ms,
            method,
            endpoint,
            client_id,
            presented,
            issued: BTreeMap::new(),
            faults,
            committed: false,
            outcome: Outcome::Pending,
        });
        drop(book);
        self.changed();
        Visit { recorder: Arc::clone(self), number, refresh_token, ended: false }
    }

    pub(crate) fn items(&self) -> Vec<Record> {
        self.lock().records.iter().cloned().collect()
    }

    /// Requests, and concurrent uses of one refresh token.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let book = self.lock();
        (book.requests, book.concurrent_uses)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn update(&self, number: u64, update: impl FnOnce(&mut Record)) {
        let mut book = self.lock();
        // Numbers have no gaps, so the distance to the oldest one is the index.
        let index = book.records.front().and_then(|it| number.checked_sub(it.number));
        let index = index.and_then(|it| usize::try_from(it).ok());
        if let Some(record) = index.and_then(|it| book.records.get_mut(it)) {
            update(record);
        }
        drop(book);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|it| *it += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way; one that is dropped without an end was abandoned.
pub(crate) struct Visit {
    recorder: Arc<Recorder>,
    number: u64,
    refresh_token: Option<String>,
    ended: bool,
}

impl Visit {
    /// Writes down what the request did, as soon as it is done.
    pub(crate) fn processed(&self, committed: bool, issued: BTreeMap<&'static str, String>) {
        self.recorder.update(self.number, |record| {
            record.committed = committed;
            record.issued = issued;
        });
    }

    /// Writes down how it ended.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.leave(outcome);
    }

    fn leave(&mut self, outcome: Outcome) {
        self.ended = true;
        if let Some(token) = self.refresh_token.take() {
            let mut book = self.recorder.lock();
            if let Some(others) = book.under_way.get_mut(&token) {
                *others -= 1;
                if *others == 0 {
                    book.under_way.remove(&token);
                }
            }
        }
        self.recorder.update(self.number, |record| record.outcome = outcome);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.ended {
            self.leave(Outcome::Abandoned);
        }
    }
}
