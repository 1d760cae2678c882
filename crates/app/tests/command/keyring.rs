use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use serde_json::Value;
use symbolon_diesel::{Database, DatabaseSettings};
use symbolon_domain::{
    credentials::Credentials,
    ids::{IdentityId, ProviderId},
    ports::{Link, LinkOutcome, LinkOwner, NewIdentityProvider, Place as Where, SealError, Sealer},
    secret::Secret,
    testing::fixtures,
};
use symbolon_keyring::KeyRing;
use zeroize::Zeroizing;

use crate::{Place, running::Running};

#[test]
fn a_key_ring_is_made_once_and_only_its_owner_reads_it() {
    let place = Place::new();
    let out = place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    assert!(out.contains("seals and opens"), "{out}");
    let mode = std::fs::metadata(place.path().join("ring.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let before = place.read("ring.json");
    place.run(&["keyring", "generate", "--file", "ring.json"]).failed("exists already");
    assert_eq!(place.read("ring.json"), before);
    for key in serde_json::from_str::<Value>(&before).unwrap()["keys"].as_array().unwrap() {
        assert!(!out.contains(key["key"].as_str().unwrap()));
    }
}

#[test]
fn a_key_is_added_and_seals_from_then_on() {
    let place = Place::new();
    place.run(&["keyring", "generate", "--add", "--file", "ring.json"]).failed("keyring generate");
    assert!(place.files().is_empty());
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    place.run(&["keyring", "generate", "--file", "ring.json", "--add"]).done();

    let out = place.run(&["keyring", "status", "--file", "ring.json", "--json"]).done();
    let status: Value = serde_json::from_str(&out).unwrap();
    let active: Vec<_> =
        status["keys"].as_array().unwrap().iter().map(|it| it["active"].as_bool()).collect();
    assert_eq!(active, [Some(false), Some(true)]);
}

#[test]
fn the_status_is_of_the_configured_key_ring() {
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    place.run(&["keyring", "status"]).failed("keyring.file: is missing");
    let environment = [("SYMBOLON__KEYRING__FILE", "ring.json")];
    let out = place.run_with(&environment, &["keyring", "status"]).done();
    assert!(out.starts_with("ring.json\n"), "{out}");
    place.write("symbolon.toml", "keyring.file = 'elsewhere.json'");
    place.run(&["keyring", "status"]).failed("there is no key ring at elsewhere.json");
}

#[test]
fn a_key_ring_that_others_may_read_is_not_used() {
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    let ring = place.path().join("ring.json");
    std::fs::set_permissions(ring, std::fs::Permissions::from_mode(0o644)).unwrap();
    place.run(&["keyring", "status", "--file", "ring.json"]).failed("chmod 600 ring.json");
}

/// In every secret of these tests.
const CANARY: &str = "canary-7c1d";

/// How somebody who can write to the database, and has perhaps a key, puts values there.
#[derive(Clone, Copy, PartialEq)]
enum Tampering {
    /// As it should be.
    None,
    /// In the clear.
    Plain,
    /// What belongs to another row.
    Swapped,
    /// What belonged to the row's first generation less one.
    Older,
}

struct Writer {
    ring: KeyRing,
    tampering: Tampering,
}

impl Sealer for Writer {
    fn seal(&self, place: &Where, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        match self.tampering {
            Tampering::None => self.ring.seal(place, plain),
            Tampering::Plain => Ok(plain.to_vec()),
            Tampering::Swapped => self.ring.seal(&Where { row: place.row + 1, ..*place }, plain),
            Tampering::Older => {
                self.ring.seal(&Where { generation: place.generation - 1, ..*place }, plain)
            }
        }
    }

    fn open(&self, place: &Where, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.ring.open(place, sealed)
    }

    fn key_id(&self, sealed: &[u8]) -> Option<u32> {
        self.ring.key_id(sealed)
    }

    fn mark(&self) -> Vec<u8> {
        self.ring.mark()
    }
}

async fn open(place: &Place, tampering: Tampering) -> Database {
    let url = format!("sqlite:{}", place.path().join("symbolon.db").display());
    let ring = KeyRing::load(&place.path().join("ring.json")).unwrap();
    let sealer = Arc::new(Writer { ring, tampering });
    let database = symbolon_diesel::open(&DatabaseSettings::new(url), sealer).await.unwrap();
    database.migrate().await.unwrap();
    database
}

fn credentials(name: &str) -> Credentials {
    let secret = |kind| Some(Secret::new(format!("{CANARY}-{kind}-{name}")));
    Credentials {
        access_token: secret("access"),
        refresh_token: secret("refresh"),
        ..fixtures::credentials()
    }
}

async fn link(database: &Database, at: ProviderId, name: &str) -> IdentityId {
    let link = Link {
        provider_id: at,
        owner: LinkOwner::User(fixtures::user(name)),
        external_id: fixtures::external_id(name),
        credentials: Some(credentials(name)),
        ..fixtures::link()
    };
    match database.identities.link(&link).await.unwrap() {
        LinkOutcome::Created(identity) => identity.id,
        other => panic!("{other:?}"),
    }
}

/// A provider with a secret, and identities with credentials, all as they should be.
async fn filled(place: &Place, names: &[&str]) -> (ProviderId, Vec<IdentityId>) {
    let database = open(place, Tampering::None).await;
    let new = NewIdentityProvider {
        secrets: [("client_secret".to_owned(), Secret::new(CANARY))].into(),
        ..fixtures::new_identity_provider()
    };
    let at = database.providers.insert(&new, &fixtures::ACTOR).await.unwrap().id;
    let mut ids = Vec::new();
    for name in names {
        ids.push(link(&database, at, name).await);
    }
    (at, ids)
}

fn configured() -> Place {
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    place.write(
        "symbolon.toml",
        "server.listen = '127.0.0.1:0'\nkeyring.file = 'ring.json'\n\
         database.url = 'sqlite:symbolon.db'\n",
    );
    place
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).expect(out)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_and_the_old_one_is_kept_aside() {
    let place = configured();
    let (_, ids) = filled(&place, &["one", "two", "three"]).await;
    place.run(&["keyring", "generate", "--add", "--file", "ring.json"]).done();
    let out = place.run(&["keyring", "status"]).done();
    assert!(out.contains("VALUES"), "{out}");
    let status = json(&place.run(&["keyring", "status", "--json"]).done());
    assert_eq!(status["keys"][0]["values"], 4);
    assert_eq!(status["keys"][1]["values"], 0);
    assert_eq!(status["refused"], serde_json::json!([]));

    let out = place.run(&["keyring", "rotate"]).done();
    assert!(out.contains("4 of 4 values sealed anew under key 2"), "{out}");
    assert!(out.contains("every value opens and is under this key"), "{out}");
    assert!(out.contains("no value needs key 1"), "{out}");
    assert!(!place.files().iter().any(|it| it.contains("retired")));
    let again = json(&place.run(&["keyring", "rotate", "--json"]).done());
    assert_eq!((&again["resealed"], &again["left"]), (&0.into(), &0.into()));
    assert_eq!(again["idle_keys"], serde_json::json!([1]));

    let out = place.run(&["keyring", "rotate", "--retire", "--settle", "0"]).done();
    assert!(out.contains("key 1 is taken out, and kept in ring.json.retired-1"), "{out}");
    let status = json(&place.run(&["keyring", "status", "--json"]).done());
    assert_eq!(status["keys"].as_array().unwrap().len(), 1);
    assert_eq!(status["keys"][0]["values"], 4);
    let database = open(&place, Tampering::None).await;
    let stored = database.credentials.find(ids[0]).await.unwrap().unwrap();
    assert_eq!(stored.credentials, Some(credentials("one")));
    assert_eq!(stored.generation, 1);
    let kept = KeyRing::load(&place.path().join("ring.json.retired-1")).unwrap();
    assert_eq!(kept.active_id(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_do_not_open_are_named_and_never_shown() {
    let place = configured();
    let (at, sound) = filled(&place, &["sound"]).await;
    let mut spoiled = Vec::new();
    for (name, how) in
        [("plain", Tampering::Plain), ("swapped", Tampering::Swapped), ("older", Tampering::Older)]
    {
        let database = open(&place, how).await;
        spoiled.push(link(&database, at, name).await);
    }
    place.run(&["keyring", "generate", "--add", "--file", "ring.json"]).done();

    let named = [
        (spoiled[0], "was never sealed"),
        (spoiled[1], "was altered, is another row's, or is older than its row"),
        (spoiled[2], "was altered, is another row's, or is older than its row"),
    ];
    let rotate = place.run(&["keyring", "rotate", "--retire", "--settle", "0"]);
    let status = place.run(&["keyring", "status"]);
    for ran in [&rotate, &status] {
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(ran.err.contains("3 values do not open"), "{ran:?}");
        assert!(!format!("{ran:?}").contains("canary"), "{ran:?}");
        for (id, why) in &named {
            let line = format!("identities.credentials of row {id}: ");
            let line = ran.out.lines().find(|it| it.contains(&line)).expect(&ran.out);
            assert!(line.contains(why), "{line}");
        }
    }
    assert!(rotate.err.contains("everything else is sealed under key 2"), "{rotate:?}");
    assert!(rotate.out.starts_with("2 of 5 values sealed anew"), "{rotate:?}");
    // Two of them name it, and nobody knows what for.
    assert!(!rotate.out.contains("taken out"), "{rotate:?}");
    let ring: Value = serde_json::from_str(&place.read("ring.json")).unwrap();
    assert_eq!(ring["keys"].as_array().unwrap().len(), 2);

    let ran = place.run(&["keyring", "rotate", "--json"]);
    assert_eq!(ran.status, Some(1));
    let report = json(&ran.out);
    let reasons: Vec<_> =
        report["refused"].as_array().unwrap().iter().map(|it| it["reason"].clone()).collect();
    assert_eq!(reasons, ["never_sealed", "out_of_place", "out_of_place"]);
    assert_eq!(report["refused"][0]["table"], "identities");
    assert_eq!(report["refused"][0]["id"], spoiled[0].0);
    assert!(!format!("{ran:?}").contains("canary"), "{ran:?}");

    let doctor = place.run(&["doctor"]);
    assert_eq!(doctor.status, Some(1), "{doctor:?}");
    let line = doctor.out.lines().find(|it| it.contains(" sealed values: ")).unwrap();
    assert!(line.starts_with("problem") && line.contains("3 of 5 do not open"), "{line}");

    let database = open(&place, Tampering::None).await;
    assert!(database.credentials.find(sound[0]).await.unwrap().is_some());
    for id in spoiled {
        database.credentials.find(id).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_missing_is_named() {
    let place = configured();
    filled(&place, &["one"]).await;
    std::fs::remove_file(place.path().join("ring.json")).unwrap();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    // Another key of the same id: it opens nothing.
    let ran = place.run(&["keyring", "status"]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.err.contains("2 values do not open"), "{ran:?}");
    // A key ring that begins with another id.
    let text = place.read("ring.json").replace("\"id\": 1", "\"id\": 7");
    place.write("ring.json", &text.replace("\"active\": 1", "\"active\": 7"));
    let ran = place.run(&["keyring", "rotate"]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.out.contains("is under key 1, which is not in the key ring"), "{ran:?}");
}

#[test]
fn keys_come_from_a_variable_or_a_command_too() {
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    let ring = place.read("ring.json");
    let environment = [("SYMBOLON__KEYRING__ENV", "THE_KEYS"), ("THE_KEYS", ring.as_str())];
    let out = place.run_with(&environment, &["keyring", "status"]).done();
    assert!(out.starts_with("the environment variable THE_KEYS\n"), "{out}");
    let environment = [("SYMBOLON__KEYRING__ENV", "THE_KEYS")];
    place.run_with(&environment, &["keyring", "status"]).failed("THE_KEYS is not set");

    place.write("symbolon.toml", "keyring.command = ['cat', 'ring.json']");
    let out = place.run(&["keyring", "status"]).done();
    assert!(out.starts_with("what cat prints\n"), "{out}");
    place.write("symbolon.toml", "keyring.command = ['sh', '-c', 'echo canary >&2; exit 9']");
    let ran = place.run(&["keyring", "status"]);
    assert!(!format!("{ran:?}").contains("canary"), "{ran:?}");
    ran.failed("ended with exit status: 9");
    place.write("symbolon.toml", "keyring.command = ['cat', 'x']\nkeyring.file = 'ring.json'");
    place.run(&["keyring", "status"]).failed("leave one of file, env and command");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_ring_that_is_not_a_file_is_not_changed() {
    let place = configured();
    filled(&place, &["one"]).await;
    place.run(&["keyring", "generate", "--add", "--file", "ring.json"]).done();
    place.write(
        "symbolon.toml",
        "keyring.command = ['cat', 'ring.json']\ndatabase.url = 'sqlite:symbolon.db'\n",
    );
    let ran = place.run(&["keyring", "rotate", "--retire", "--settle", "0"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.err.contains("take key 1 out where it comes from"), "{ran:?}");
    assert!(ran.out.contains("2 of 2 values sealed anew"), "{ran:?}");
}

#[test]
fn a_prepared_key_seals_when_it_is_activated() {
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    let generate = ["keyring", "generate", "--add", "--inactive", "--file", "ring.json", "--json"];
    let active = |out: &str| {
        let keys = json(out)["keys"].clone();
        keys.as_array().unwrap().iter().map(|it| it["active"] == true).collect::<Vec<_>>()
    };
    assert_eq!(active(&place.run(&generate).done()), [true, false]);
    let activate = ["keyring", "activate", "2", "--file", "ring.json", "--json"];
    assert_eq!(active(&place.run(&activate).done()), [false, true]);
    place
        .run(&["keyring", "activate", "3", "--file", "ring.json"])
        .failed("there is no key 3 in the key ring ring.json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_follows_its_key_ring() {
    let place = configured();
    filled(&place, &["one"]).await;
    let mut service = Running::start(place.command(&["serve"]));
    service.address();
    service.signal("-HUP");
    service.logs("the keys are the same as before");
    place.run(&["keyring", "generate", "--add", "--file", "ring.json"]).done();
    // By itself, within seconds.
    service.logs("the keys are others now");
    place.run(&["keyring", "rotate", "--retire", "--settle", "0"]).done();
    let ring = place.read("ring.json");
    place.write("ring.json", "{");
    service.signal("-HUP");
    service.logs("the keys cannot be loaded anew");
    place.write("ring.json", &ring);
    let log = service.stop();
    assert!(log.contains("stopped"), "{log}");
}
