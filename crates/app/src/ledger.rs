use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use symbolon_domain::{
    ports::{Clock, LedgerRepository},
    services::Ledger,
};

use crate::{failure::sentence, shutdown::Shutdown};

/// Between two times of writing: what a process that is killed may lose of the ledger.
const EVERY: Duration = Duration::from_secs(1);
/// Between two times of forgetting.
const FORGET_EVERY: Duration = Duration::from_mins(10);
/// Most entries that are forgotten in one statement.
const AT_ONCE: u16 = 1000;

/// Writes the ledger, every second.
pub(crate) async fn write(ledger: Ledger, shutdown: Shutdown) {
    let mut failed = false;
    loop {
        tokio::select! {
            () = shutdown.asked() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        match ledger.write_due().await {
            Ok(()) => failed = false,
            // Told once: it is tried again every second, and the database has more to say.
            Err(error) if !failed => {
                failed = true;
                let error = sentence(&error);
                tracing::warn!(error, "the ledger cannot be written; it is kept in memory");
            }
            Err(_) => {}
        }
    }
}

/// Writes what is left when nothing is handed out any more.
pub(crate) async fn write_the_rest(ledger: &Ledger) {
    for _ in 0..10 {
        match ledger.write_all().await {
            Ok(()) => return,
            Err(error) => {
                let error = sentence(&error);
                tracing::warn!(error, "the ledger cannot be written; trying again");
                tokio::time::sleep(EVERY).await;
            }
        }
    }
    tracing::error!("the last entries of the ledger are lost: the database does not take them");
}

/// Forgets entries that nobody added to for so long.
pub(crate) async fn forget(
    ledger: Arc<dyn LedgerRepository>,
    clock: Arc<dyn Clock>,
    retention: Duration,
    shutdown: Shutdown,
) {
    let retention = TimeDelta::from_std(retention).unwrap_or(TimeDelta::MAX);
    loop {
        tokio::select! {
            () = shutdown.asked() => return,
            () = tokio::time::sleep(FORGET_EVERY) => {}
        }
        let Some(before) = clock.now().checked_sub_signed(retention) else { continue };
        loop {
            match ledger.forget(before, AT_ONCE).await {
                Ok(forgotten) if forgotten < u64::from(AT_ONCE) => break,
                Ok(_) if shutdown.is_asked() => return,
                Ok(_) => {}
                Err(error) => {
                    let error = sentence(&error);
                    tracing::warn!(error, "old entries of the ledger could not be forgotten");
                    break;
                }
            }
        }
    }
}
