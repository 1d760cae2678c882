//! Breaks each guard of the service on purpose, in a copy of this crate, and runs the simulation
//! on it: `make mutants`. Every one must be noticed. `mutate WORLDS PART…` breaks those whose names
//! have one of these parts.
//!
//! The guards of the database are broken by [`sim::Mutant`] in every run of the tests; here are
//! those that are lines of the service itself, and lines of the reference store that no caller of
//! its port could break.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// A guard: its file, the text that is it, what stands there instead, and what that is.
struct Guard {
    name: &'static str,
    file: &'static str,
    find: &'static str,
    put: &'static str,
}

const REFRESH: &str = "src/services/tokens/refresh.rs";
const FRESHNESS: &str = "src/services/tokens/freshness.rs";
const TOKENS: &str = "src/services/tokens.rs";
const STORE: &str = "src/testing/memory/credentials.rs";
const ROWS: &str = "src/testing/memory/identities.rs";

const GUARDS: &[Guard] = &[
    Guard {
        name: "a holder sends although its time is over",
        file: REFRESH,
        find: "if Instant::now() + self.settings.call_timeout > until {",
        put: "if Instant::now() > until + self.settings.lease() * 1000 {",
    },
    Guard {
        name: "a later holder sends at once",
        file: REFRESH,
        find: ".then_some(LATE_COMMIT);",
        put: ".then_some(Duration::ZERO);",
    },
    Guard {
        name: "two careful retries",
        file: REFRESH,
        find: "if unanswered >= 2 {",
        put: "if unanswered >= 3 {",
    },
    Guard {
        name: "the retry does not ask for a sign of life",
        file: REFRESH,
        find: "if unanswered == 1\n",
        put: "if unanswered == 100\n",
    },
    Guard {
        name: "nothing is written down before it is sent",
        file: REFRESH,
        find: "match self.credentials.record_sending(&lease, self.settings.call_timeout).await {",
        put: "match Ok::<_, RepositoryError>(LeasedWrite::Done) {",
    },
    Guard {
        name: "a failed recording is sent all the same",
        file: REFRESH,
        find: "                Err(error) => return self.give_back(&lease, error.into()).await,\n            }\n",
        put: "                Err(_) => {}\n            }\n",
    },
    Guard {
        name: "the holder does not count its own sending",
        file: REFRESH,
        find: "            lease.unanswered += 1;\n",
        put: "            lease.unanswered += 0;\n",
    },
    Guard {
        name: "a call is waited for without end",
        file: REFRESH,
        find: "timeout(self.settings.call_timeout, connector.refresh(request))",
        put: "timeout(self.settings.call_timeout * 1000, connector.refresh(request))",
    },
    Guard {
        name: "a write that failed is not tried again",
        file: REFRESH,
        find: "                Ok(written) => return written,\n",
        put: "                Ok(written) => return written,\n                Err(_) if pause > Duration::ZERO => return LeasedWrite::Superseded,\n",
    },
    Guard {
        name: "a lease that could not be given back is forgotten",
        file: REFRESH,
        find: "if self.credentials.release(lease).await.is_err() {",
        put: "if self.credentials.release(lease).await.is_err_and(|_| false) {",
    },
    Guard {
        name: "a rejected client invalidates the identity",
        file: REFRESH,
        find: "                ConnectorError::GrantRejected { code } => {",
        put: "                ConnectorError::GrantRejected { code }\n                | ConnectorError::ClientRejected { code } => {",
    },
    Guard {
        name: "no answer counts as an answer",
        file: REFRESH,
        find: "sent: Sent::Unknown, .. } if !may_rotate => {",
        put: "sent: Sent::Unknown, .. } if lease.attempt > 0 => {",
    },
    Guard {
        name: "an unusable answer counts as one that did nothing",
        file: REFRESH,
        find: "return self.fail(&lease, stored, &error, !may_rotate).await;",
        put: "return self.fail(&lease, stored, &error, true).await;",
    },
    Guard {
        name: "tokens for an unlinked identity are dropped",
        file: REFRESH,
        find: "                    Self::count(stored, \"unlinked\");\n                    self.revoke_late(identity, provider, renewed).await;\n",
        put: "                    Self::count(stored, \"unlinked\");\n",
    },
    Guard {
        name: "tokens for an account that is not the row's any more are dropped",
        file: REFRESH,
        find: "if matches!(by, Overtaken::AnotherAccount) {",
        put: "if matches!(by, Overtaken::AnotherAccount) && lease.attempt < 0 {",
    },
    Guard {
        name: "a link that kept the refresh token loses the next",
        file: REFRESH,
        find: "if stored.generation == lease.generation ||",
        put: "if stored.generation > 0 ||",
    },
    Guard {
        name: "a failed refresh does not back off",
        file: REFRESH,
        find: "Some(back_off) if is_backing_off(stored, now) => Err",
        put: "Some(back_off) if back_off.failures == 0 => Err",
    },
    Guard {
        name: "nobody looks again under the lease",
        file: REFRESH,
        find: "        if let Err(error) = self.check_may_try(&stored, urgency) {\n            return self.give_back",
        put: "        if let Err(error) = self.check_may_try(&stored, urgency)\n            && lease.attempt < 0\n        {\n            return self.give_back",
    },
    Guard {
        name: "a waiting caller has no end of patience",
        file: REFRESH,
        find: "let patience = self.settings.lease() * 2 + Duration::from_secs(5);",
        put: "let patience = self.settings.lease() * 2000;",
    },
    Guard {
        name: "a token without a refresh token is invalid before it ends",
        file: REFRESH,
        find: "it.access_token.is_some() && !it.is_alive(self.clock.now())",
        put: "it.access_token.is_some()",
    },
    Guard {
        name: "a token that ended while its caller waited is answered",
        file: TOKENS,
        find: ") if self.is_alive(stored) => issued(stored),",
        put: ") => issued(stored),",
    },
    Guard {
        name: "a token that ended before it was safe is answered",
        file: TOKENS,
        find: "        if self.is_alive(&renewed) {",
        put: "        if renewed.generation > 0 {",
    },
    Guard {
        name: "a token that has ended is alive",
        file: FRESHNESS,
        find: "filter(|it| it.is_alive(now))",
        put: "filter(|it| it.access_token.is_some())",
    },
    Guard {
        name: "the lease ends during a call",
        file: STORE,
        find: "let until = TimeDelta::from_std(time)\n",
        put: "let until = TimeDelta::from_std(time / 10)\n",
    },
    Guard {
        name: "a later holder has the same attempt",
        file: STORE,
        find: "            row.attempt += 1;\n",
        put: "",
    },
    Guard {
        name: "the attempt fences nothing",
        file: STORE,
        find: "        (self.attempt, self.generation) == (lease.attempt, lease.generation)\n",
        put: "        self.generation == lease.generation\n",
    },
    Guard {
        name: "a later sending does not fence an earlier answer",
        file: STORE,
        find: "            && self.unanswered == lease.unanswered\n",
        put: "",
    },
    Guard {
        name: "a recording is done after the release",
        file: STORE,
        find: "row.leased_until.is_none_or(|until| until - now < time)",
        put: "row.leased_until.is_some_and(|until| until - now < time)",
    },
    Guard {
        name: "a recording is done when it is too late for the sending",
        file: STORE,
        find: "row.leased_until.is_none_or(|until| until - now < time)",
        put: "row.leased_until.is_none_or(|until| until - now < time * -1000)",
    },
    Guard {
        name: "a link frees the lease while the refresh token that it keeps is on its way",
        file: ROWS,
        find: "self.leased_until.filter(|_| doubt > 0)",
        put: "self.leased_until.filter(|_| doubt > 1000)",
    },
    Guard {
        name: "a link forgets the doubt about the refresh token that it keeps",
        file: ROWS,
        find: "let doubt = if stays { self.unanswered } else { 0 };",
        put: "let doubt = if stays { 0 } else { 0 };",
    },
    Guard {
        name: "a link fences nothing",
        file: ROWS,
        find: "        self.attempt += 1;\n        if self.credentials.is_some() || credentials.is_some() {\n            self.store_generation(credentials);\n        }\n",
        put: "        if self.credentials.is_some() || credentials.is_some() {\n            self.store_generation(credentials);\n            self.generation -= 1;\n        }\n",
    },
];

fn main() -> ExitCode {
    let worlds = env::args().nth(1).unwrap_or_else(|| "300000".to_owned());
    let meant: Vec<_> = env::args().skip(2).collect();
    match try_all(&worlds, &meant) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(unnoticed) => {
            println!("{unnoticed} of {} broken guards were not noticed", GUARDS.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn try_all(worlds: &str, meant: &[String]) -> io::Result<usize> {
    let krate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = krate.join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let copy = target.join("mutants");
    let copied = copy.join("crates/domain");
    fs::create_dir_all(&copied)?;
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let members = r#"members = ["crates/*", "tests", "tests/postgres"]"#;
    fs::write(
        copy.join("Cargo.toml"),
        manifest.replace(members, r#"members = ["crates/domain"]"#),
    )?;
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock"))?;
    let mut unnoticed = 0;
    let is_meant =
        |it: &&Guard| meant.is_empty() || meant.iter().any(|part| it.name.contains(part));
    for guard in GUARDS.iter().filter(is_meant) {
        for part in ["src", "tests"] {
            copy_all(&krate.join(part), &copied.join(part))?;
        }
        fs::copy(krate.join("Cargo.toml"), copied.join("Cargo.toml"))?;
        let file = copied.join(guard.file);
        let text = fs::read_to_string(&file)?;
        if text.matches(guard.find).count() != 1 {
            let what = format!("{}: not once in {}: {}", guard.name, guard.file, guard.find);
            return Err(io::Error::other(what));
        }
        fs::write(&file, text.replace(guard.find, guard.put))?;
        let noticed = run(&copy, worlds)?;
        println!("{}: {}", guard.name, noticed.as_deref().unwrap_or("NOT NOTICED"));
        unnoticed += usize::from(noticed.is_none());
    }
    Ok(unnoticed)
}

/// Builds the copy and runs it; the first rule that is broken, if any is. One is enough: the rest
/// of the worlds is not waited for.
fn run(copy: &Path, worlds: &str) -> io::Result<Option<String>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = copy.join("target");
    let built = Command::new(cargo)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--release", "--quiet", "--offline", "--package", "symbolon-domain"])
        .args(["--example", "simulate"])
        .output()?;
    if !built.status.success() {
        let error = String::from_utf8_lossy(&built.stderr);
        return Err(io::Error::other(format!("it does not build: {error}")));
    }
    let mut simulation = Command::new(target.join("release/examples/simulate"))
        .arg(format!("0..{worlds}"))
        .stdout(Stdio::piped())
        .spawn()?;
    let told = BufReader::new(simulation.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
    let broken = told.lines().map_while(Result::ok).find(|it| it.contains(" is broken: "));
    if broken.is_some() {
        simulation.kill()?;
    }
    let status = simulation.wait()?;
    if broken.is_none() && !status.success() {
        return Err(io::Error::other(format!("it panics: {status}")));
    }
    Ok(broken.map(|it| it.chars().take(120).collect()))
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else if fs::read(entry.path())? != fs::read(&to).unwrap_or_default() {
            // What is the same keeps its time, so that it is not built again.
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}
