//! How far a long command is, on standard error.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// On a terminal a line that changes; elsewhere, a log for example, a new line now and then.
pub(crate) struct Progress {
    begun: Instant,
    told: Instant,
    interval: Duration,
    terminal: bool,
    shown: bool,
    /// How much was read, of all that is to be read; `None` when that is not known.
    read: Arc<AtomicU64>,
    to_read: Option<u64>,
}

impl Progress {
    pub(crate) fn new(to_read: Option<u64>) -> Self {
        let terminal = io::stderr().is_terminal();
        let interval = if terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        let (begun, read) = (Instant::now(), Arc::default());
        Self { begun, told: begun, interval, terminal, shown: false, read, to_read }
    }

    /// What counts the bytes that are read.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// How much there is to read, now that it is known.
    pub(crate) fn set_to_read(&mut self, bytes: u64) {
        self.to_read = Some(bytes);
    }

    /// Shows it, unless that was done a moment ago.
    pub(crate) fn show(&mut self, rows: u64) {
        let fraction = self.fraction();
        self.show_at(rows, fraction);
    }

    /// The same where the caller knows how much of the way is behind.
    pub(crate) fn show_at(&mut self, rows: u64, fraction: Option<f64>) {
        if self.told.elapsed() < self.interval {
            return;
        }
        self.told = Instant::now();
        self.shown = true;
        let text = text(rows, self.begun.elapsed(), fraction);
        let mut err = io::stderr().lock();
        // Where nobody looks there is nothing to show.
        let _ = if self.terminal {
            write!(err, "\r\x1b[K{text}").and_then(|()| err.flush())
        } else {
            writeln!(err, "{text}")
        };
    }

    /// Clears the line for what is said next.
    pub(crate) fn clear(&mut self) {
        if self.terminal && self.shown {
            self.shown = false;
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "it is shown in percent")]
    fn fraction(&self) -> Option<f64> {
        let to_read = self.to_read.filter(|it| *it > 0)?;
        Some((self.read.load(Ordering::Relaxed) as f64 / to_read as f64).min(1.0))
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is shown in whole rows a second")]
fn text(rows: u64, elapsed: Duration, fraction: Option<f64>) -> String {
    let rate = rows as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = format!("{rows} rows, {rate:.0} rows/s");
    if let Some(fraction) = fraction.filter(|it| *it > 0.0) {
        let left = elapsed.as_secs_f64() * (1.0 - fraction) / fraction;
        text = format!("{text}, {:.0} %, {left:.0} s left", fraction * 100.0);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_rows_speed_and_what_is_left() {
        let minute = Duration::from_mins(1);
        assert_eq!(text(600, minute, None), "600 rows, 10 rows/s");
        assert_eq!(text(600, minute, Some(0.25)), "600 rows, 10 rows/s, 25 %, 180 s left");
    }
}
