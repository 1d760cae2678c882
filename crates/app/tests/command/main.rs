//! The built command as its users meet it: exit status, output, files.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod ahead;
mod api_key;
mod archive;
mod curl;
mod demo;
mod doctor;
mod freeze;
mod keyring;
mod migrate;
mod provider_types;
mod running;
mod serve;
mod shutdown;
mod usage;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// A directory of its own to run the command in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }

    /// Everything that lies there.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.path())
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The command with nothing of this process's configuration.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_symbolon"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SYMBOLON") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    fn run_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        Ran::from(command.envs(environment.iter().copied()).output().unwrap())
    }
}

/// What came of a command.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// It did as asked and had nothing to complain of.
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        assert_eq!(self.err, "", "{self:?}");
        self.out
    }

    /// It failed with one sentence, which says this.
    #[track_caller]
    fn failed(self, saying: &str) {
        assert_eq!(self.status, Some(1), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("symbolon: "), "{self:?}");
        assert!(self.err.contains(saying), "expected {saying:?} in {self:?}");
        assert!(!self.err.contains("panicked") && !self.err.contains('\u{1b}'), "{self:?}");
    }
}
