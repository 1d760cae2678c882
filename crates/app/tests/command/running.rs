use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// Far longer than anything takes; only a defect waits so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A command that runs until it is told to stop. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    out: Lines,
    err: Lines,
}

/// What a command writes, line by line as it comes.
struct Lines {
    coming: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, coming) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { coming, seen: Vec::new() }
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        if let Some(line) = self.seen.iter().find(|it| it.contains(text)) {
            return line.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.coming.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{text:?} did not come:\n{}", self.seen.join("\n"));
                }
            }
        }
    }

    fn rest(&mut self) -> String {
        self.seen.extend(self.coming.iter());
        self.seen.join("\n")
    }
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = Lines::of(child.stdout.take().unwrap());
        let err = Lines::of(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    /// Waits for a line with this text on standard output.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) -> String {
        self.out.wait_for(text)
    }

    /// Waits for the next line on standard output.
    #[track_caller]
    pub(crate) fn next_line(&mut self) -> String {
        self.out.coming.recv_timeout(PATIENCE).unwrap()
    }

    /// Waits for a line with this text in the log.
    #[track_caller]
    pub(crate) fn logs(&mut self, text: &str) -> String {
        self.err.wait_for(text)
    }

    /// What was written to standard output so far.
    pub(crate) fn said(&self) -> &[String] {
        &self.out.seen
    }

    /// Where the service listens, without a slash behind.
    #[track_caller]
    pub(crate) fn address(&mut self) -> String {
        let line = self.logs("listening on http://");
        let after = line.split("listening on ").nth(1).unwrap();
        after.split([' ', '"', '\u{1b}']).next().unwrap().to_owned()
    }

    /// Sends a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(name).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end; answers exit status and log.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = self.err.rest();
                return (status.code(), log);
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end:\n{}", self.err.seen.join("\n"));
    }

    /// Asks it to stop, and expects an orderly end.
    #[track_caller]
    pub(crate) fn stop(self) -> String {
        self.signal("-TERM");
        let (status, log) = self.end();
        assert_eq!(status, Some(0), "{log}");
        log
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
