use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::failure::Failure;

/// Whether the process was asked to stop. A clone hears of it too.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for SIGTERM and SIGINT from now on. The first asks to stop; a second one ends the
    /// process at once, with exit status 1.
    ///
    /// # Errors
    ///
    /// [`Failure::System`] when the operating system does not tell of signals.
    pub fn on_signals() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::System("cannot listen for signals", error);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let (asked, receiver) = watch::channel(false);
        tokio::spawn(async move {
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "stopping; a second signal ends the process at once");
            let _ = asked.send(true);
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "ended at once; work under way is lost");
            std::process::exit(1);
        });
        Ok(Self(receiver))
    }

    /// Whether the process was asked to stop.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the process is asked to stop.
    pub async fn asked(&self) {
        let mut receiver = self.0.clone();
        // The sender goes away only when it has sent.
        let _ = receiver.wait_for(|asked| *asked).await;
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
