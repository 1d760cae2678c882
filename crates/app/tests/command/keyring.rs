use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::Place;

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
