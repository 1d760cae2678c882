//! Who waits for another's refresh is woken here.

use std::time::Duration;

use futures_util::future::BoxFuture;
use symbolon_domain::{ids::IdentityId, ports::RepositoryError};
use tokio::sync::broadcast;

/// Rings for every identity whose credentials or lease changed.
#[derive(Clone, Debug)]
pub(crate) struct Bell(broadcast::Sender<Option<IdentityId>>);

impl Bell {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(1024))
    }

    pub(crate) fn ring(&self, id: IdentityId) {
        // Nobody may be waiting.
        let _ = self.0.send(Some(id));
    }

    /// Rings for whoever waits, whatever for.
    pub(crate) fn ring_for_all(&self) {
        let _ = self.0.send(None);
    }

    pub(crate) fn listen(&self) -> Ear {
        Ear(self.0.subscribe())
    }
}

/// Hears what rings from its making on.
pub(crate) struct Ear(broadcast::Receiver<Option<IdentityId>>);

impl Ear {
    /// Comes back when it rang for this identity, or too often to tell.
    pub(crate) async fn hear(&mut self, id: IdentityId) {
        loop {
            match self.0.recv().await {
                Ok(rung) if rung.is_none_or(|it| it == id) => return,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                // Never while the store lives; then polling is left.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// Between two looks of a waiter whom nothing wakes: a lease that runs out rings no bell.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Waits until the attempt that is under way has ended or another has begun, at most that long.
/// `under_way` looks at the row.
pub(crate) async fn wait_for_change<'a>(
    ear: &mut Ear,
    id: IdentityId,
    at_most: Duration,
    under_way: impl Fn() -> BoxFuture<'a, Result<Option<i64>, RepositoryError>>,
) {
    let change = async {
        // Nobody at work means that the change is over already: it came before this call.
        let Ok(Some(awaited)) = under_way().await else { return };
        let mut pause = POLL.0;
        loop {
            if tokio::time::timeout(pause, ear.hear(id)).await.is_ok() {
                return;
            }
            match under_way().await {
                Ok(attempt) if attempt != Some(awaited) => return,
                // The caller looks itself, and sees what is wrong with the database.
                _ => pause = (pause * 2).min(POLL.1),
            }
        }
    };
    // Changed or not: the caller looks anyway.
    let _ = tokio::time::timeout(at_most, change).await;
}
