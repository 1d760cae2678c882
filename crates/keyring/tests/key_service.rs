//! Where the keys come from, and a key ring that follows them.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use symbolon_domain::ports::{Place, SealError, Sealer as _};
use symbolon_keyring::{
    KeyCommand, KeyFile, KeyRing, KeyRingError, KeyService, KeyVariable, LiveKeyRing, Stamp,
};
use tempfile::TempDir;

const PLACE: Place = Place { table: "identities", row: 42, idp: 5, generation: 3 };

fn now() -> DateTime<Utc> {
    "2026-07-01T12:00:00Z".parse().unwrap()
}

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("keyring.json")
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn shell(script: impl Into<String>, deadline: Duration) -> KeyCommand {
    KeyCommand::new("sh", vec!["-c".to_owned(), script.into()], deadline)
}

const LONG: Duration = Duration::from_secs(20);

fn live(path: &Path) -> LiveKeyRing {
    LiveKeyRing::start(Box::new(KeyFile::new(path))).unwrap()
}

/// A key service that counts how often it is asked.
#[derive(Clone, Debug)]
struct Counted {
    file: PathBuf,
    loads: Arc<AtomicU64>,
}

impl Counted {
    fn new(file: PathBuf) -> Self {
        Self { file, loads: Arc::default() }
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }
}

impl KeyService for Counted {
    fn load(&self) -> Result<KeyRing, KeyRingError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        KeyRing::load(&self.file)
    }

    fn stamp(&self) -> Option<Stamp> {
        None
    }

    fn place(&self) -> String {
        "a service".to_owned()
    }
}

#[test]
fn a_command_that_prints_the_key_ring_is_a_key_service() {
    let directory = Directory::new();
    let made = KeyRing::generate(&directory.path(), now()).unwrap();
    let command = KeyCommand::new("cat", vec![directory.path().display().to_string()], LONG);
    assert_eq!(command.load().unwrap().status(), made.status());
    assert_eq!(command.stamp(), None);
}

#[test]
fn a_command_that_fails_says_so_and_repeats_nothing_that_it_said() {
    let cases = [
        ("echo canary-out; echo canary-err >&2; exit 3", "ended with exit status: 3"),
        ("kill -9 $$", "signal: 9"),
        ("true", "printed nothing"),
        ("echo canary", "not a usable key ring: it is not JSON"),
        ("head -c 2000000 /dev/zero", "larger than 1 MiB"),
        ("echo '{\"version\": 1, \"active\": 1, \"keys\": []}'", "active key 1"),
    ];
    for (script, expected) in cases {
        let error = shell(script, LONG).load().unwrap_err();
        for said in [error.to_string(), format!("{error:?}")] {
            assert!(!said.contains("canary"), "{script}: {said}");
        }
        assert!(error.to_string().contains(expected), "{script}: {error}");
        assert!(error.to_string().contains("sh"), "{script}: {error}");
    }
    let absent = KeyCommand::new("/not/there/at-all", Vec::new(), LONG).load().unwrap_err();
    assert!(absent.to_string().contains("/not/there/at-all"), "{absent}");
    assert!(absent.to_string().contains("was not found"), "{absent}");
}

#[test]
fn a_command_has_a_deadline_and_is_stopped_then() {
    let directory = Directory::new();
    let late = directory.0.path().join("late");
    // The second one prints, and stays; the third leaves a child behind that keeps the pipe open.
    for script in [
        format!("sleep 60; touch {}", late.display()),
        "echo '{}'; exec >&-; sleep 60".to_owned(),
        "sleep 60 & echo '{}'".to_owned(),
    ] {
        let started = Instant::now();
        let error = shell(script, Duration::from_millis(300)).load().unwrap_err();
        assert!(error.to_string().contains("did not end within 0.3 s"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
    assert!(!late.exists());
}

#[test]
fn the_arguments_of_a_command_do_not_show() {
    let command = shell("canary", LONG);
    let error = command.load().unwrap_err();
    let shown = format!("{command:?} {} {error} {error:?}", command.place());
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn a_variable_that_is_not_there_is_named() {
    let error = KeyVariable::new("SYMBOLON_TEST_NO_SUCH_VARIABLE").load().unwrap_err();
    assert!(error.to_string().contains("SYMBOLON_TEST_NO_SUCH_VARIABLE is not set"), "{error}");
    // One that is there, and holds no key ring.
    let error = KeyVariable::new("PATH").load().unwrap_err();
    assert!(error.to_string().contains("the environment variable PATH"), "{error}");
    assert!(error.to_string().contains("not JSON"), "{error}");
}

#[test]
fn a_value_under_a_key_that_was_added_a_moment_ago_opens() {
    let directory = Directory::new();
    KeyRing::generate(&directory.path(), now()).unwrap();
    let (one, other) = (live(&directory.path()), live(&directory.path()));
    let old = one.seal(&PLACE, b"old").unwrap();

    KeyRing::add(&directory.path(), now()).unwrap();
    assert!(one.reload_if_changed().unwrap());
    let new = one.seal(&PLACE, b"new").unwrap();
    assert_eq!(one.key_id(&new), Some(2));

    assert_eq!(other.ring().active_id(), 1, "nobody told it");
    assert_eq!(other.open(&PLACE, &new).unwrap().as_slice(), b"new");
    assert_eq!(other.open(&PLACE, &old).unwrap().as_slice(), b"old");
    assert_eq!(other.ring().active_id(), 2, "it seals with the new key from then on");
    assert_eq!(other.mark(), one.mark());
    assert!(!one.reload_if_changed().unwrap(), "nothing has changed since");
}

#[test]
fn a_key_that_was_taken_out_goes_on_opening_while_the_process_lives() {
    let directory = Directory::new();
    KeyRing::generate(&directory.path(), now()).unwrap();
    let ring = live(&directory.path());
    let old = ring.seal(&PLACE, b"old").unwrap();
    KeyRing::add(&directory.path(), now()).unwrap();
    KeyRing::retire(&directory.path(), &[1]).unwrap();
    assert!(ring.reload().unwrap());
    assert_eq!(ring.open(&PLACE, &old).unwrap().as_slice(), b"old");
    KeyRing::add(&directory.path(), now()).unwrap();
    ring.reload().unwrap();
    assert_eq!(ring.open(&PLACE, &old).unwrap().as_slice(), b"old");
    assert_eq!(ring.ring().status().len(), 2, "it is not shown any more");
    assert_eq!(live(&directory.path()).open(&PLACE, &old), Err(SealError::UnknownKey(1)));
}

#[test]
fn keys_that_cannot_be_loaded_anew_leave_those_that_are_there() {
    let directory = Directory::new();
    KeyRing::generate(&directory.path(), now()).unwrap();
    let ring = live(&directory.path());
    let sealed = ring.seal(&PLACE, b"x").unwrap();
    let whole = fs::read(directory.path()).unwrap();
    // Half a copy.
    fs::write(directory.path(), &whole[..40]).unwrap();
    assert!(ring.reload().is_err());
    assert!(ring.reload_if_changed().is_err());
    assert_eq!(ring.open(&PLACE, &sealed).unwrap().as_slice(), b"x");
    fs::remove_file(directory.path()).unwrap();
    assert!(ring.reload().is_err());
    assert_eq!(ring.open(&PLACE, &sealed).unwrap().as_slice(), b"x");
    // It is seen when it is whole again.
    fs::write(directory.path(), &whole).unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o600)).unwrap();
    KeyRing::add(&directory.path(), now()).unwrap();
    assert!(ring.reload_if_changed().unwrap());
}

#[test]
fn invented_key_ids_do_not_have_the_keys_loaded_each_time() {
    let directory = Directory::new();
    KeyRing::generate(&directory.path(), now()).unwrap();
    let service = Counted::new(directory.path());
    let ring = LiveKeyRing::start(Box::new(service.clone())).unwrap();
    let mut invented = ring.seal(&PLACE, b"x").unwrap();
    for id in 10..30 {
        invented[4] = id;
        assert_eq!(ring.open(&PLACE, &invented), Err(SealError::UnknownKey(id.into())));
    }
    assert_eq!(service.loads(), 2, "once to start, and once for all of them");
    // Nor does what is not sealed at all.
    assert_eq!(ring.open(&PLACE, b"plain"), Err(SealError::Refused));
    ring.reload().unwrap();
    assert_eq!(service.loads(), 3, "who asks for it gets it");
}

#[test]
fn many_who_meet_a_new_key_at_once_have_it_loaded_once() {
    let directory = Directory::new();
    KeyRing::generate(&directory.path(), now()).unwrap();
    let service = Counted::new(directory.path());
    let ring = LiveKeyRing::start(Box::new(service.clone())).unwrap();
    let new = KeyRing::add(&directory.path(), now()).unwrap().seal(&PLACE, b"new").unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(ring.open(&PLACE, &new).unwrap().as_slice(), b"new"));
        }
    });
    assert_eq!(service.loads(), 2);
}

#[test]
fn a_prepared_key_opens_and_does_not_seal_until_it_is_activated() {
    let directory = Directory::new();
    KeyRing::generate(&directory.path(), now()).unwrap();
    let prepared = KeyRing::prepare(&directory.path(), now()).unwrap();
    let active =
        |ring: &KeyRing| ring.status().iter().map(|it| (it.id, it.active)).collect::<Vec<_>>();
    assert_eq!(active(&prepared), [(1, true), (2, false)]);
    let activated = KeyRing::activate(&directory.path(), 2).unwrap();
    assert_eq!(active(&activated), [(1, false), (2, true)]);
    let sealed = activated.seal(&PLACE, b"x").unwrap();
    assert_eq!(prepared.open(&PLACE, &sealed).unwrap().as_slice(), b"x");

    let before = fs::read(directory.path()).unwrap();
    let error = KeyRing::activate(&directory.path(), 9).unwrap_err();
    assert!(matches!(error, KeyRingError::NoSuchKey { id: 9, .. }), "{error:?}");
    assert_eq!(fs::read(directory.path()).unwrap(), before);
}

#[test]
fn a_retired_key_is_kept_in_a_file_of_its_own() {
    let directory = Directory::new();
    let first = KeyRing::generate(&directory.path(), now()).unwrap();
    let old = first.seal(&PLACE, b"old").unwrap();
    KeyRing::add(&directory.path(), now()).unwrap();
    KeyRing::add(&directory.path(), now()).unwrap();

    let error = KeyRing::retire(&directory.path(), &[3]).unwrap_err();
    assert!(matches!(error, KeyRingError::ActiveKey { id: 3, .. }), "{error:?}");
    let error = KeyRing::retire(&directory.path(), &[9]).unwrap_err();
    assert!(matches!(error, KeyRingError::NoSuchKey { id: 9, .. }), "{error:?}");
    assert_eq!(KeyRing::load(&directory.path()).unwrap().status().len(), 3);

    let (left, files) = KeyRing::retire(&directory.path(), &[1, 2]).unwrap();
    assert_eq!(left.status().len(), 1);
    assert_eq!(
        directory.files(),
        ["keyring.json", "keyring.json.retired-1", "keyring.json.retired-2"]
    );
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = KeyRing::load(&files[0]).unwrap();
    assert_eq!(kept.open(&PLACE, &old).unwrap().as_slice(), b"old");
    assert_eq!(left.open(&PLACE, &old), Err(SealError::UnknownKey(1)));
    // Ids go on upwards, so that none is ever given to another key.
    let next = KeyRing::add(&directory.path(), now()).unwrap();
    assert_eq!(next.active_id(), 4);
}

#[test]
fn retiring_goes_on_where_it_ended_and_never_writes_over_another_key() {
    let directory = Directory::new();
    KeyRing::generate(&directory.path(), now()).unwrap();
    KeyRing::add(&directory.path(), now()).unwrap();
    let before = fs::read(directory.path()).unwrap();
    KeyRing::retire(&directory.path(), &[1]).unwrap();
    // As if the process had ended between the two files.
    fs::write(directory.path(), &before).unwrap();
    let (left, _) = KeyRing::retire(&directory.path(), &[1]).unwrap();
    assert_eq!(left.status().len(), 1);

    let kept = directory.0.path().join("keyring.json.retired-1");
    let another = Directory::new();
    KeyRing::generate(&another.path(), now()).unwrap();
    let other = fs::read_to_string(another.path()).unwrap();
    fs::write(&kept, &other).unwrap();
    fs::write(directory.path(), &before).unwrap();
    let error = KeyRing::retire(&directory.path(), &[1]).unwrap_err();
    assert!(matches!(error, KeyRingError::Exists { .. }), "{error:?}");
    assert_eq!(fs::read_to_string(&kept).unwrap(), other);
    assert_eq!(fs::read(directory.path()).unwrap(), before);
}
