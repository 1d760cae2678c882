use std::{future::Future, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};

/// Work that must be finished although nobody waits for it any more: a code that is being
/// traded, a refresh token that was sent. A clone shares the count.
#[derive(Clone, Debug)]
pub struct Tasks(Arc<watch::Sender<usize>>);

impl Default for Tasks {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Tasks {
    /// Starts a piece of work. It goes on when the handle is dropped.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.0.send_modify(|running| *running += 1);
        let running = Running(Arc::clone(&self.0));
        tokio::spawn(async move {
            let _running = running;
            work.await
        })
    }

    /// How many pieces of work are under way.
    #[must_use]
    pub fn running(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until nothing is under way.
    pub async fn drain(&self) {
        let mut running = self.0.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = running.wait_for(|count| *count == 0).await;
    }
}

struct Running(Arc<watch::Sender<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}
