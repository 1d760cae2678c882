//! Where the root keys come from: a port, and its adapters for what every machine has.

use std::{
    env, fmt, fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::{
    file::{MAX_BYTES, TOO_LARGE},
    key_ring::KeyRing,
    key_ring_error::KeyRingError,
};

/// How often it is looked whether a command has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Supplies the root keys: what seals everything else, and is never in the database.
///
/// A key service (a secrets manager, an HSM) is an adapter of this; until it has one of its own,
/// its command line tool is one, through [`KeyCommand`].
pub trait KeyService: fmt::Debug + Send + Sync {
    /// The key ring as it is now. May take a while, and blocks.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`], which says what to do and never holds a byte of a key.
    fn load(&self) -> Result<KeyRing, KeyRingError>;

    /// Something that is another whenever [`load`](Self::load) may bring another key ring, and
    /// costs next to nothing; `None` where only loading tells.
    fn stamp(&self) -> Option<Stamp>;

    /// Where the keys come from, for people; without anything secret.
    fn place(&self) -> String;
}

/// What [`KeyService::stamp`] compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(String);

/// A key ring in a file, readable by its owner alone: see [`KeyRing::load`].
#[derive(Clone, Debug)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// The file at this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl KeyService for KeyFile {
    fn load(&self) -> Result<KeyRing, KeyRingError> {
        KeyRing::load(&self.0)
    }

    /// Every change of ours puts a new file in place; a change by hand moves its time.
    fn stamp(&self) -> Option<Stamp> {
        let Ok(it) = fs::metadata(&self.0) else { return Some(Stamp("absent".to_owned())) };
        Some(Stamp(format!(
            "{} {} {} {} {} {:o}",
            it.dev(),
            it.ino(),
            it.len(),
            it.mtime(),
            it.mtime_nsec(),
            it.mode()
        )))
    }

    fn place(&self) -> String {
        self.0.display().to_string()
    }
}

/// A key ring in an environment variable, in the form of the file. It stays what it was when the
/// process began.
#[derive(Clone, Debug)]
pub struct KeyVariable(String);

impl KeyVariable {
    /// The variable of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

impl KeyService for KeyVariable {
    fn load(&self) -> Result<KeyRing, KeyRingError> {
        use std::os::unix::ffi::OsStringExt as _;
        let text = env::var_os(&self.0)
            .ok_or_else(|| KeyRingError::NoVariable { name: self.0.clone() })?;
        let text = Zeroizing::new(text.into_vec());
        let place = self.place();
        if text.len() > MAX_BYTES {
            return Err(KeyRingError::Malformed { place, problem: TOO_LARGE.to_owned() });
        }
        KeyRing::parse(&text, &place)
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(Stamp(String::new()))
    }

    fn place(&self) -> String {
        format!("the environment variable {}", self.0)
    }
}

/// A command that prints a key ring in the form of the file: the command line tool of a key
/// service, for example.
///
/// No shell is involved. It has this process's environment, nothing to read on standard input, and
/// a deadline. What it writes to standard error is thrown away, since it may hold a secret.
#[derive(Clone)]
pub struct KeyCommand {
    program: String,
    arguments: Vec<String>,
    deadline: Duration,
}

impl KeyCommand {
    /// This program with these arguments, which may take so long.
    #[must_use]
    pub fn new(program: impl Into<String>, arguments: Vec<String>, deadline: Duration) -> Self {
        Self { program: program.into(), arguments, deadline }
    }

    fn failed(&self, problem: impl Into<String>) -> KeyRingError {
        KeyRingError::Command { program: self.program.clone(), problem: problem.into() }
    }

    /// What it prints, and how it ends.
    fn run(&self) -> Result<(Zeroizing<Vec<u8>>, ExitStatus), KeyRingError> {
        let until = Instant::now() + self.deadline;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| {
            self.failed(match error.kind() {
                io::ErrorKind::NotFound => "was not found".to_owned(),
                kind => format!("could not be started: {kind}"),
            })
        })?;
        let (sender, receiver) = mpsc::channel();
        if let Some(out) = child.stdout.take() {
            // On its own thread, which ends with the last process that could write there: not
            // necessarily with the command.
            thread::spawn(move || {
                let mut text = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
                let read = out.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).map(|_| text);
                // Nobody listens any more when it was too late.
                let _ = sender.send(read);
            });
        }
        let late = || {
            let seconds = self.deadline.as_secs_f64();
            self.failed(format!("did not end within {seconds} s and was stopped"))
        };
        let text = match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                stop(&mut child);
                return Err(self.failed("could not be read from"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                stop(&mut child);
                return Err(late());
            }
        };
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok((text, status)),
                Ok(None) if Instant::now() < until => thread::sleep(LOOK),
                Ok(None) => {
                    stop(&mut child);
                    return Err(late());
                }
                Err(_) => return Err(self.failed("could not be waited for")),
            }
        }
    }
}

fn stop(child: &mut Child) {
    // It may have ended by itself in this moment.
    let _ = child.kill();
    let _ = child.wait();
}

impl KeyService for KeyCommand {
    fn load(&self) -> Result<KeyRing, KeyRingError> {
        let (text, status) = self.run()?;
        let place = self.place();
        // Before its status: nobody read the rest, which may be what it complains of.
        if text.len() > MAX_BYTES {
            return Err(KeyRingError::Malformed { place, problem: TOO_LARGE.to_owned() });
        }
        if !status.success() {
            return Err(self.failed(format!("ended with {status}; run it by hand to see why")));
        }
        if text.is_empty() {
            return Err(self.failed("printed nothing"));
        }
        KeyRing::parse(&text, &place)
    }

    fn stamp(&self) -> Option<Stamp> {
        None
    }

    fn place(&self) -> String {
        format!("what {} prints", self.program)
    }
}

impl fmt::Debug for KeyCommand {
    /// Without the arguments, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCommand")
            .field("program", &self.program)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
