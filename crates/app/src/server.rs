//! Listening, and stopping without losing anything.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use symbolon_domain::services::Tasks;
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{failure::Failure, shutdown::Shutdown};

/// How long requests under way may take once the process was asked to stop. What a request has
/// started goes on all the same: see [`finish`].
const GRACE: Duration = Duration::from_secs(30);

/// How often waiting is told of.
const STILL_WAITING: Duration = Duration::from_secs(5);

/// Listens at an address.
///
/// # Errors
///
/// [`Failure::Listen`].
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|source| Failure::Listen { address, source })
}

/// Listens at the first address if it is free, else at a free port of it.
///
/// # Errors
///
/// As [`listen`].
pub(crate) async fn listen_near(address: SocketAddr) -> Result<TcpListener, Failure> {
    match listen(address).await {
        Err(Failure::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
            listen(SocketAddr::new(address.ip(), 0)).await
        }
        other => other,
    }
}

/// The address that was bound, also where port 0 was asked for.
///
/// # Errors
///
/// [`Failure::System`].
pub(crate) fn bound(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|it| Failure::System("cannot tell the address listened on", it))
}

/// Answers requests until the process is asked to stop, and then those under way.
///
/// # Errors
///
/// [`Failure::System`].
pub(crate) async fn answer(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let asked = shutdown.clone();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, service)
        .with_graceful_shutdown(async move { asked.asked().await })
        .into_future();
    let patience = async {
        shutdown.asked().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = serving => ended.map_err(|it| Failure::System("the server failed", it)),
        () = patience => {
            tracing::warn!(seconds = GRACE.as_secs(), "requests took too long to finish; their connections are closed");
            Ok(())
        }
    }
}

/// Waits for work that must not be lost, however long it takes: a refresh token that was sent and
/// whose successor is not stored yet.
pub(crate) async fn finish(tasks: &Tasks) {
    if timeout(Duration::from_millis(100), tasks.drain()).await.is_ok() {
        return;
    }
    let mut tick = interval(STILL_WAITING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = tasks.drain() => return,
            _ = tick.tick() => tracing::info!(
                running = tasks.running(),
                "waiting for work that must not be lost; a second signal ends the process at once"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_replaced_by_a_free_one() {
        let first = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let taken = bound(&first).unwrap();
        assert!(
            matches!(listen(taken).await, Err(Failure::Listen { address, .. }) if address == taken)
        );
        let second = bound(&listen_near(taken).await.unwrap()).unwrap();
        assert_eq!(second.ip(), taken.ip());
        assert_ne!(second.port(), taken.port());
    }

    #[tokio::test]
    async fn work_that_must_not_be_lost_is_waited_for() {
        let tasks = Tasks::default();
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        let work = tasks.spawn(ended);
        let mut finished = Box::pin(finish(&tasks));
        assert!(timeout(Duration::from_millis(300), &mut finished).await.is_err());
        drop(done);
        finished.await;
        assert!(work.is_finished());
    }
}
