use std::{
    fs::Permissions,
    io::{self, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The server programs are not installed.
    #[error(
        "PostgreSQL's server programs (initdb, postgres) are not on this machine: run `make setup`, or install Debian's package `postgresql`"
    )]
    NotInstalled,
    /// A program could not be run.
    #[error("{program} could not be run")]
    Run {
        /// Which program.
        program: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// Which program.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// The server does not answer.
    #[error("postgres does not answer; its log: {0}")]
    Silent(String),
}

/// What a server proves itself with, as PEM.
pub struct ServerTls {
    /// Its certificate.
    pub certificate: String,
    /// The key of the certificate.
    pub key: String,
}

impl ServerTls {
    /// Puts them where the server looks, and shuts out who speaks no TLS.
    fn install(&self, data: &Path, user: Option<&str>) -> Result<(), StartError> {
        for (name, text) in [
            ("server.crt", self.certificate.as_str()),
            ("server.key", &self.key),
            ("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n"),
        ] {
            let path = data.join(name);
            let written = std::fs::write(&path, text)
                .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o600)));
            written.map_err(|source| StartError::Run { program: "write", source })?;
            if let Some(user) = user {
                run("chown", Command::new("chown").arg(user).arg(&path))?;
            }
        }
        Ok(())
    }
}

/// A running cluster. Dropping it stops the server and removes its files.
pub struct Cluster {
    keeper: Child,
    port: u16,
    durable: bool,
    directory: TempDir,
}

/// Runs the server until its standard input ends, however that comes about. A line there is our
/// word that we clean up; without one nobody is left who would (a process that ends drops no
/// static), and the files go with the server.
const KEEPER: &str = r#"
"$@" >"$LOG" 2>&1 &
server=$!
read -r _ && cleaned_up=1
kill -INT "$server"
wait "$server"
[ -n "$cleaned_up" ] || rm -rf "$DIRECTORY"
"#;

/// Ends the server behind a keeper, and leaves its files.
fn end(keeper: &mut Child) {
    if let Some(mut input) = keeper.stdin.take() {
        // A keeper that is gone already needs no word.
        let _ = input.write_all(b"\n");
    }
    // It waits for the server, which ends its connections first.
    let _ = keeper.wait();
}

impl Cluster {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running then.
    pub fn start() -> Result<Self, StartError> {
        Self::start_with(None, false)
    }

    /// Makes a cluster that keeps what it has said it keeps, should its processes be killed, and
    /// starts it.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running then.
    pub fn start_durable() -> Result<Self, StartError> {
        Self::start_with(None, true)
    }

    /// Makes a cluster that speaks TLS and nothing else, and starts it.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running then.
    pub fn start_with_tls(tls: &ServerTls) -> Result<Self, StartError> {
        Self::start_with(Some(tls), false)
    }

    fn start_with(tls: Option<&ServerTls>, durable: bool) -> Result<Self, StartError> {
        let programs = programs().ok_or(StartError::NotInstalled)?;
        let directory = tempfile::Builder::new()
            .prefix("symbolon-postgres-")
            .tempdir()
            .map_err(|source| StartError::Run { program: "mkdir", source })?;
        let data = directory.path().join("data");
        let user = unprivileged_user();
        if let Some(user) = user {
            let mut chown = Command::new("chown");
            run("chown", chown.arg(user).arg(directory.path()))?;
        }
        let mut initdb = as_user(user, &programs.join("initdb"));
        initdb.args(["--auth=trust", "--username=symbolon", "--encoding=UTF8", "--locale=C"]);
        run("initdb", initdb.arg("--no-sync").arg("-D").arg(&data).current_dir("/"))?;

        if let Some(tls) = tls {
            tls.install(&data, user)?;
        }
        // Another process may take the port before the server does: then the next one.
        let mut last = String::new();
        for _ in 0..5 {
            let port = free_port().map_err(|source| StartError::Run { program: "bind", source })?;
            match Self::serve(directory.path(), port, tls.is_some(), durable) {
                Ok(keeper) => return Ok(Self { keeper, port, durable, directory }),
                Err(StartError::Silent(log)) => last = log,
                Err(error) => return Err(error),
            }
        }
        Err(StartError::Silent(last))
    }

    fn serve(directory: &Path, port: u16, tls: bool, durable: bool) -> Result<Child, StartError> {
        let programs = programs().ok_or(StartError::NotInstalled)?;
        let log = directory.join("log");
        let server = as_user(unprivileged_user(), &programs.join("postgres"));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(server.get_program()).args(server.get_args());
        keeper.arg("-D").arg(directory.join("data")).args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            // The machine does not lose its power here.
            "fsync=off",
            "full_page_writes=off",
            "max_connections=400",
        ] {
            keeper.args(["-c", setting]);
        }
        if !durable {
            keeper.args(["-c", "synchronous_commit=off"]);
        }
        if tls {
            keeper.args(["-c", "ssl=on"]);
        }
        let mut keeper = keeper
            .env("LOG", &log)
            .env("DIRECTORY", directory)
            .stdin(Stdio::piped())
            .current_dir("/")
            .spawn()
            .map_err(|source| StartError::Run { program: "sh", source })?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("ready to accept connections")
                && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
            {
                return Ok(keeper);
            }
            if text.contains("could not bind") {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        end(&mut keeper);
        Err(StartError::Silent(std::fs::read_to_string(&log).unwrap_or_default()))
    }

    /// Ends all its processes at once, as a crash would, and starts it anew at the same address.
    ///
    /// # Errors
    ///
    /// [`StartError`] when it does not come back.
    pub fn crash_and_restart(&mut self) -> Result<(), StartError> {
        self.signal("QUIT")?;
        end(&mut self.keeper);
        self.keeper = Self::serve(self.directory.path(), self.port, false, self.durable)?;
        Ok(())
    }

    /// Stops all its processes where they are: connections stay, and nobody is answered.
    ///
    /// # Errors
    ///
    /// [`StartError`] when they cannot be signalled.
    pub fn pause(&self) -> Result<(), StartError> {
        self.signal("STOP")
    }

    /// Lets a [paused](Self::pause) cluster go on.
    ///
    /// # Errors
    ///
    /// [`StartError`] when its processes cannot be signalled.
    pub fn resume(&self) -> Result<(), StartError> {
        self.signal("CONT")
    }

    /// Sends a signal to the server and to those that it started.
    fn signal(&self, signal: &str) -> Result<(), StartError> {
        let file = self.directory.path().join("data/postmaster.pid");
        let text = std::fs::read_to_string(file)
            .map_err(|source| StartError::Run { program: "postmaster.pid", source })?;
        let server = text.lines().next().unwrap_or_default().to_owned();
        let mut processes = children_of(&server);
        processes.push(server);
        // The last of the children may have ended by itself meanwhile: what counts is the server.
        for process in processes {
            let sent = Command::new("kill").arg(format!("-{signal}")).arg(process).output();
            sent.map_err(|source| StartError::Run { program: "kill", source })?;
        }
        Ok(())
    }

    /// The loopback port that it listens on, by IPv4.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of its database `postgres`, whose user may do everything.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://symbolon@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        end(&mut self.keeper);
    }
}

/// The processes whose parent this is.
fn children_of(parent: &str) -> Vec<String> {
    let of = |stat: &str| {
        // The name in parentheses may hold anything; state and parent come after it.
        let (_, after) = stat.rsplit_once(')')?;
        Some(after.split_whitespace().nth(1)? == parent)
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|it| {
            let stat = std::fs::read_to_string(it.path().join("stat")).unwrap_or_default();
            of(&stat).unwrap_or(false)
        })
        .filter_map(|it| it.file_name().into_string().ok())
        .collect()
}

fn run(program: &'static str, command: &mut Command) -> Result<(), StartError> {
    let output = command.output().map_err(|source| StartError::Run { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(StartError::Failed { program, output })
}

/// The folder with the newest server programs: on the path, or in Debian's versioned folders.
fn programs() -> Option<PathBuf> {
    let has_both =
        |folder: &Path| folder.join("initdb").exists() && folder.join("postgres").exists();
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    folders.sort_by_key(|folder| {
        let version = folder.parent().and_then(Path::file_name).and_then(|it| it.to_str());
        version.and_then(|it| it.parse::<u32>().ok())
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = std::env::split_paths(&path).collect();
    all.extend(folders.into_iter().rev());
    all.into_iter().find(|folder| has_both(folder))
}

/// Whom to run the server as: it refuses to be root.
fn unprivileged_user() -> Option<&'static str> {
    let output = Command::new("id").arg("-u").output().ok()?;
    if output.stdout.trim_ascii() != b"0" {
        return None;
    }
    let exists = |user: &&str| {
        Command::new("id").arg(user).output().is_ok_and(|output| output.status.success())
    };
    ["postgres", "nobody"].into_iter().find(exists)
}

fn as_user(user: Option<&str>, program: &Path) -> Command {
    let Some(user) = user else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), "--clear-groups"]);
    command.arg(format!("--regid={}", group_of(user))).arg(program);
    command
}

fn group_of(user: &str) -> String {
    let output = Command::new("id").args(["-g", user]).output();
    output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
