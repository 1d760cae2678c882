//! The key ring as its users see it: the file, and what it seals.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::LazyLock,
    thread,
};

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use symbolon_domain::ports::{Place, SealError, Sealer as _};
use symbolon_keyring::{KeyRing, KeyRingError, KeyStatus};
use tempfile::TempDir;

const PLACE: Place = Place { table: "identities", row: 42, idp: 5, generation: 3 };

/// The bytes 0 to 31 as key 7, and another key 8 that seals.
const FILE: &str = r#"{
  "version": 1,
  "active": 8,
  "keys": [
    { "id": 7, "created_at": "2026-01-02T03:04:05Z", "key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" },
    { "id": 8, "created_at": "2026-02-03T04:05:06Z", "key": "//////////////////////////////////////////8=" }
  ]
}"#;

fn now() -> DateTime<Utc> {
    "2026-07-01T12:00:00.75Z".parse().unwrap()
}

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keyring.json");
    (directory, path)
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn load(text: &str) -> Result<KeyRing, KeyRingError> {
    let (_directory, path) = directory();
    write(&path, text);
    KeyRing::load(&path)
}

#[test]
fn a_value_sealed_by_version_1_opens_for_ever() {
    // Made by another implementation (OpenSSL's AES-256-GCM-SIV), from the description in
    // docs/decisions/0001-sealing.md.
    let sealed = hex::decode("0100000007404142434445464748494a4b6d48427e8cbd1fc115ada942cedf54d471d99dbdb858d45c0bcc2b50c9e557").unwrap();
    let ring = load(FILE).unwrap();
    assert_eq!(ring.open(&PLACE, &sealed).unwrap().as_slice(), b"a refresh token");
    assert!(!ring.is_current(&sealed));
}

#[test]
fn a_generated_key_ring_is_for_its_owner_alone_and_is_found_again() {
    let (directory, path) = directory();
    let made = KeyRing::generate(&path, now()).unwrap();
    assert_eq!(mode(&path), 0o600);
    let loaded = KeyRing::load(&path).unwrap();
    assert_eq!(loaded.status(), made.status());

    let [KeyStatus { id: 1, created_at, active: true, fingerprint }] = &loaded.status()[..] else {
        panic!("{:?}", loaded.status());
    };
    assert_eq!(created_at.to_rfc3339(), "2026-07-01T12:00:00+00:00");
    assert_eq!(fingerprint.len(), 8);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left behind");
}

#[test]
fn a_key_ring_is_never_written_over_something_else() {
    let (directory, path) = directory();
    fs::write(&path, "precious").unwrap();
    let error = KeyRing::generate(&path, now()).unwrap_err();
    assert!(matches!(error, KeyRingError::Exists { .. }), "{error:?}");
    assert!(error.to_string().contains("symbolon keyring generate --add --file "), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let dangling = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &dangling).unwrap();
    let error = KeyRing::generate(&dangling, now()).unwrap_err();
    assert!(matches!(error, KeyRingError::Exists { .. }), "{error:?}");
}

#[test]
fn of_many_who_generate_at_once_one_succeeds_and_its_file_stays() {
    let (_directory, path) = directory();
    let made: Vec<_> = thread::scope(|scope| {
        let tasks: Vec<_> =
            (0..8).map(|_| scope.spawn(|| KeyRing::generate(&path, now()))).collect();
        tasks.into_iter().filter_map(|task| task.join().unwrap().ok()).collect()
    });
    let [made] = &made[..] else { panic!("{} succeeded", made.len()) };
    assert_eq!(KeyRing::load(&path).unwrap().status(), made.status());
}

#[test]
fn an_added_key_seals_and_the_old_ones_still_open() {
    let (_directory, path) = directory();
    let before = KeyRing::generate(&path, now()).unwrap();
    let old = before.seal(&PLACE, b"old").unwrap();

    let after = KeyRing::add(&path, now()).unwrap();
    assert_eq!(after.status(), KeyRing::load(&path).unwrap().status());
    let keys: Vec<_> = after.status().iter().map(|it| (it.id, it.active)).collect();
    assert_eq!(keys, [(1, false), (2, true)]);
    assert_eq!(after.open(&PLACE, &old).unwrap().as_slice(), b"old");
    assert!(before.is_current(&old));
    assert!(!after.is_current(&old));

    let new = after.seal(&PLACE, b"new").unwrap();
    assert!(after.is_current(&new));
    assert_eq!(before.open(&PLACE, &new), Err(SealError::UnknownKey(2)));
}

#[test]
fn adding_a_key_keeps_the_mode_and_a_link_to_the_file() {
    let (directory, path) = directory();
    KeyRing::generate(&path, now()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    KeyRing::add(&link, now()).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert!(link.is_symlink());
    assert_eq!(KeyRing::load(&path).unwrap().status().len(), 2);
}

#[test]
fn keys_added_at_the_same_time_are_all_kept() {
    let (directory, path) = directory();
    KeyRing::generate(&path, now()).unwrap();
    let added: Vec<_> = thread::scope(|scope| {
        let tasks: Vec<_> =
            (0..8).map(|_| scope.spawn(|| KeyRing::add(&path, now()).unwrap())).collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    let all = KeyRing::load(&path).unwrap();
    assert_eq!(all.status().len(), 9);
    for ring in added {
        let sealed = ring.seal(&PLACE, b"x").unwrap();
        assert_eq!(all.open(&PLACE, &sealed).unwrap().as_slice(), b"x");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left behind");
}

#[test]
fn a_missing_file_says_how_to_make_it() {
    let (_directory, path) = directory();
    for error in [KeyRing::load(&path).unwrap_err(), KeyRing::add(&path, now()).unwrap_err()] {
        let make = format!("symbolon keyring generate --file {}", path.display());
        assert!(error.to_string().contains(&make), "{error}");
    }
}

#[test]
fn a_file_that_others_may_read_is_refused_and_says_how_to_close_it() {
    let (_directory, path) = directory();
    KeyRing::generate(&path, now()).unwrap();
    let before = fs::read(&path).unwrap();
    for open in [0o640, 0o604, 0o602, 0o610] {
        fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
        for error in [KeyRing::load(&path).unwrap_err(), KeyRing::add(&path, now()).unwrap_err()] {
            assert!(matches!(error, KeyRingError::TooOpen { .. }), "{error:?}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())));
        }
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_malformed_file_says_what_is_wrong_and_quotes_nothing_of_it() {
    let secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let cases = [
        (FILE.replace("\"active\": 8", "\"active\": 9"), "active key 9"),
        (FILE.replace("\"id\": 8", "\"id\": 7"), "key id 7 is there twice"),
        (FILE.replace("\"version\": 1", "\"version\": 2"), "version is 2"),
        (FILE.replace("  \"version\": 1,\n", ""), "`version` is missing"),
        (FILE.replace("\"id\": 7, ", ""), "`id` is missing (line 5"),
        (FILE.replace("\"id\": 7", &format!("\"id\": \"{secret}\"")), "(line 5"),
        (FILE.replace("\"id\": 7", &format!("\"{secret}\": 7")), "(line 5"),
        (FILE.replace("AAECAwQF", "AAECAwQ*"), "keys[0].key is not the base64 of 32 bytes"),
        (FILE.replace("AAECAwQF", "AAEC"), "keys[0].key is not the base64 of 32 bytes"),
        (FILE.replace("2026-01-02T", "2026-01-32T"), "(line 5"),
        (FILE[..200].to_owned(), "not JSON"),
        (String::new(), "not JSON"),
        ("[]".to_owned(), "(line 1"),
        (r#"{"version": 1, "active": 1, "keys": []}"#.to_owned(), "active key 1"),
        (" ".repeat(1 << 21), "larger than 1 MiB"),
    ];
    for (text, expected) in cases {
        let error = load(&text).unwrap_err();
        assert!(matches!(error, KeyRingError::Malformed { .. }), "{error:?}");
        for said in [error.to_string(), format!("{error:?}")] {
            assert!(said.contains(expected), "expected {expected:?}: {said}");
            assert!(!said.contains("AAEC"), "quotes a key: {said}");
        }
    }
}

#[test]
fn a_file_that_could_not_be_used_is_not_added_to() {
    let (_directory, path) = directory();
    let broken = FILE.replace("\"active\": 8", "\"active\": 9");
    write(&path, &broken);
    assert!(KeyRing::add(&path, now()).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), broken);
}

#[test]
fn a_key_is_told_by_its_fingerprint_and_never_shown() {
    let ring = load(FILE).unwrap();
    // printf of the bytes 0 to 31, through sha256sum.
    assert_eq!(ring.status()[0].fingerprint, "630dcd29");
    let shown = format!("{ring:?} {:?}", ring.status());
    assert!(!shown.contains("AAEC") && !shown.contains("1, 2, 3"), "{shown}");
}

#[test]
fn what_was_never_sealed_is_refused() {
    let ring = load(FILE).unwrap();
    for plain in [&b""[..], b"token", br#"{"v":1,"access_token":"abcdefghijklmnopqrstuvwxyz"}"#] {
        assert_eq!(ring.open(&PLACE, plain), Err(SealError::Refused));
        assert!(!ring.is_current(plain));
    }
}

/// Keys 7 and 8, so that a changed key id can name a key that is there.
static RING: LazyLock<KeyRing> = LazyLock::new(|| load(FILE).unwrap());

fn places() -> impl Strategy<Value = Place> {
    let table = prop::sample::select(vec!["", "a", "identities", "identities\0", "link_sessions"]);
    (table, any::<i64>(), any::<i64>(), any::<i64>())
        .prop_map(|(table, row, idp, generation)| Place { table, row, idp, generation })
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

proptest! {
    #[test]
    fn a_value_opens_in_its_place_and_does_not_lie_in_the_open(place in places(), plain in values()) {
        let sealed = RING.seal(&place, &plain).unwrap();
        prop_assert_eq!(&*RING.open(&place, &sealed).unwrap(), &plain);
        prop_assert!(plain.len() < 8 || !sealed.windows(plain.len()).any(|it| it == plain));
        prop_assert!(RING.is_current(&sealed));
    }

    #[test]
    fn the_same_value_sealed_twice_gives_different_bytes(place in places(), plain in values()) {
        prop_assert_ne!(RING.seal(&place, &plain).unwrap(), RING.seal(&place, &plain).unwrap());
    }

    #[test]
    fn a_value_opens_in_no_other_place(place in places(), other in places(), plain in values()) {
        let sealed = RING.seal(&place, &plain).unwrap();
        let moved = [
            Place { table: other.table, ..place },
            Place { row: other.row, ..place },
            Place { idp: other.idp, ..place },
            Place { generation: other.generation, ..place },
            Place { generation: place.generation.wrapping_sub(1), ..place },
            Place { row: place.idp, idp: place.row, ..place },
            other,
        ];
        for moved in moved.into_iter().filter(|it| *it != place) {
            prop_assert_eq!(RING.open(&moved, &sealed), Err(SealError::Refused));
        }
    }

    #[test]
    fn a_value_with_any_bit_flipped_is_refused(place in places(), plain in values()) {
        let mut sealed = RING.seal(&place, &plain).unwrap();
        for bit in 0..sealed.len() * 8 {
            sealed[bit / 8] ^= 1 << (bit % 8);
            match RING.open(&place, &sealed) {
                Err(SealError::Refused) => {}
                // Only a changed key id may be said to be unknown.
                Err(SealError::UnknownKey(_)) if (1..5).contains(&(bit / 8)) => {}
                other => prop_assert!(false, "bit {bit}: {other:?}"),
            }
            sealed[bit / 8] ^= 1 << (bit % 8);
        }
        prop_assert!(RING.open(&place, &sealed).is_ok());
    }

    #[test]
    fn a_value_cut_short_or_made_longer_is_refused(place in places(), plain in values(), more in 1..64_usize) {
        let mut sealed = RING.seal(&place, &plain).unwrap();
        for length in 0..sealed.len() {
            prop_assert_eq!(RING.open(&place, &sealed[..length]), Err(SealError::Refused));
            prop_assert!(RING.open(&place, &sealed[sealed.len() - length..]).is_err());
        }
        sealed.extend(vec![0; more]);
        prop_assert_eq!(RING.open(&place, &sealed), Err(SealError::Refused));
    }

    #[test]
    fn bytes_from_anywhere_are_refused(place in places(), bytes in values()) {
        prop_assert!(RING.open(&place, &bytes).is_err());
    }
}

#[test]
fn a_value_that_names_another_key_of_the_ring_is_refused() {
    let mut sealed = RING.seal(&PLACE, b"x").unwrap();
    sealed[4] = 7;
    assert_eq!(RING.open(&PLACE, &sealed), Err(SealError::Refused));
    sealed[4] = 9;
    assert_eq!(RING.open(&PLACE, &sealed), Err(SealError::UnknownKey(9)));
}
