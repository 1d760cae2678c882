//! What many callers want at once, done with one statement for all of them.

use std::{future::Future, time::Duration};

use symbolon_domain::ports::RepositoryError;
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

/// Most that is done with one statement.
const MOST: usize = 100;

/// Work of one kind that is done for many callers together.
///
/// Whoever comes while nothing is under way goes at once, alone; whoever comes meanwhile goes
/// next, with all others who came. So nobody waits for company, and the more come, the less each
/// of them costs.
#[derive(Debug)]
pub(crate) struct Batches<Q, A> {
    asked: mpsc::UnboundedSender<Asked<Q, A>>,
    worker: AbortHandle,
}

/// What one caller wants, and where the answer goes.
#[derive(Debug)]
struct Asked<Q, A> {
    question: Q,
    answer: oneshot::Sender<Result<Option<A>, RepositoryError>>,
}

/// The database has not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("the database does not answer")]
struct NoAnswer;

impl<Q: Send + 'static, A: Send + 'static> Batches<Q, A> {
    /// Does this work, which answers the questions in their order, and takes so long at most.
    pub(crate) fn new<F>(patience: Duration, work: impl Fn(Vec<Q>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Vec<Option<A>>, RepositoryError>> + Send,
    {
        let (asked, mut waiting) = mpsc::unbounded_channel::<Asked<Q, A>>();
        let worker = tokio::spawn(async move {
            let mut batch = Vec::new();
            while waiting.recv_many(&mut batch, MOST).await > 0 {
                // For somebody who has gone nothing is begun.
                batch.retain(|it| !it.answer.is_closed());
                if batch.is_empty() {
                    continue;
                }
                let (questions, answers): (Vec<_>, Vec<_>) =
                    batch.drain(..).map(|it| (it.question, it.answer)).unzip();
                let done = timeout(patience, work(questions)).await;
                let done =
                    done.unwrap_or_else(|_| Err(RepositoryError::Unavailable(Box::new(NoAnswer))));
                tell(answers, done);
            }
        });
        Self { asked, worker: worker.abort_handle() }
    }

    /// The answer to one question; `None` where it was left out, which says nothing: then it is
    /// asked alone.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Unavailable`], for all of a batch. Whether it was done is not known then.
    pub(crate) async fn ask(&self, question: Q) -> Result<Option<A>, RepositoryError> {
        let (answer, told) = oneshot::channel();
        if self.asked.send(Asked { question, answer }).is_err() {
            return Ok(None);
        }
        told.await.unwrap_or(Ok(None))
    }
}

/// What became of a batch. Where the database refused it, each is asked alone, and the one that
/// was to blame is told why.
fn tell<A>(
    answers: Vec<oneshot::Sender<Result<Option<A>, RepositoryError>>>,
    done: Result<Vec<Option<A>>, RepositoryError>,
) {
    let mut done = match done {
        Ok(done) => done.into_iter(),
        Err(RepositoryError::Unavailable(error)) => {
            let told = error.to_string();
            for answer in answers {
                // Whoever left does not want to know.
                let _ = answer.send(Err(RepositoryError::Unavailable(told.as_str().into())));
            }
            return;
        }
        Err(error) => {
            tracing::debug!(%error, "writes could not be done together");
            Vec::new().into_iter()
        }
    };
    for answer in answers {
        let _ = answer.send(Ok(done.next().flatten()));
    }
}

impl<Q, A> Drop for Batches<Q, A> {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::{FutureExt as _, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;

    /// Work that is done when the test lets it, keeps what came together, and answers with twice
    /// the number; not for odd ones.
    fn doubling(seen: &Arc<Mutex<Vec<Vec<u32>>>>, gate: &Arc<Semaphore>) -> Batches<u32, u32> {
        let (seen, gate) = (Arc::clone(seen), Arc::clone(gate));
        Batches::new(Duration::from_secs(5), move |questions: Vec<u32>| {
            let (seen, gate) = (Arc::clone(&seen), Arc::clone(&gate));
            async move {
                seen.lock().unwrap().push(questions.clone());
                gate.acquire().await.unwrap().forget();
                let refused = RepositoryError::Store("a value it does not take".into());
                if questions.contains(&13) {
                    return Err(refused);
                }
                if questions.contains(&0) {
                    return Err(RepositoryError::Unavailable("it is away".into()));
                }
                Ok(questions.into_iter().map(|it| (it % 2 == 0).then_some(it * 2)).collect())
            }
        })
    }

    #[tokio::test]
    async fn who_comes_while_one_is_under_way_goes_next_with_all_others() {
        let (seen, gate) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let batches = doubling(&seen, &gate);
        let first = batches.ask(2);
        let others = async {
            // The first is under way by now.
            while seen.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let others = join_all([4, 5, 6].map(|it| batches.ask(it)));
            gate.add_permits(2);
            others.await
        };
        let (first, others) = tokio::join!(first, others);
        assert_eq!(first.unwrap(), Some(4));
        let others: Vec<_> = others.into_iter().map(Result::unwrap).collect();
        assert_eq!(others, [Some(8), None, Some(12)]);
        assert_eq!(*seen.lock().unwrap(), [vec![2], vec![4, 5, 6]]);
    }

    #[tokio::test]
    async fn an_outage_is_everybodys_and_a_refusal_nobodys() {
        let (seen, gate) = (Arc::default(), Arc::new(Semaphore::new(9)));
        let batches = doubling(&seen, &gate);
        let away = batches.ask(0).await.unwrap_err();
        assert!(matches!(away, RepositoryError::Unavailable(_)), "{away}");
        assert_eq!(batches.ask(13).await.unwrap(), None);
        assert_eq!(batches.ask(2).await.unwrap(), Some(4));
    }

    #[tokio::test]
    async fn nothing_is_begun_for_whoever_has_gone() {
        let (seen, gate) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let batches = doubling(&seen, &gate);
        let (gone, stays) = {
            let first = batches.ask(2);
            let mut gone = Box::pin(batches.ask(4));
            let stays = async {
                while seen.lock().unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
                assert!((&mut gone).now_or_never().is_none());
                drop(gone);
                gate.add_permits(2);
                batches.ask(6).await
            };
            tokio::join!(first, stays)
        };
        assert_eq!((gone.unwrap(), stays.unwrap()), (Some(4), Some(12)));
        assert_eq!(*seen.lock().unwrap(), [vec![2], vec![6]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_says_nothing_holds_nobody_for_ever() {
        let (seen, gate) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let batches = doubling(&seen, &gate);
        let error = batches.ask(2).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Unavailable(_)), "{error}");
        gate.add_permits(1);
        assert_eq!(batches.ask(4).await.unwrap(), Some(8));
    }
}
