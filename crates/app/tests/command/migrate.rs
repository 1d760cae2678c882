use serde_json::Value;

use crate::Place;

const SQLITE: [(&str, &str); 1] = [("SYMBOLON__DATABASE__URL", "sqlite:symbolon.db")];

#[test]
fn migrations_are_listed_then_applied_then_done() {
    let place = Place::new();
    let would = place.run_with(&SQLITE, &["migrate", "--dry-run", "--json"]).done();
    let would: Value = serde_json::from_str(&would).unwrap();
    assert!(!would["pending"].as_array().unwrap().is_empty(), "{would}");
    assert!(place.files().is_empty(), "a dry run made {:?}", place.files());

    let did = place.run_with(&SQLITE, &["migrate", "--json"]).done();
    let did: Value = serde_json::from_str(&did).unwrap();
    assert_eq!(did["applied"], would["pending"]);
    for again in [&["migrate"][..], &["migrate", "--dry-run"]] {
        let out = place.run_with(&SQLITE, again).done();
        assert_eq!(out, "nothing to apply: the database is up to date\n");
    }
}

#[test]
fn a_database_that_cannot_be_reached_is_told_in_a_sentence_without_its_password() {
    let place = Place::new();
    // A port that nobody listens on any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://user:canary@{closed}/symbolon");
    let environment = [("SYMBOLON__DATABASE__URL", url.as_str())];
    for arguments in [
        &["migrate"][..],
        &["migrate", "--dry-run"],
        &["api-key", "list"],
        &["api-key", "create", "--name", "x", "--scope", "admin"],
    ] {
        let ran = place.run_with(&environment, arguments);
        assert!(!ran.err.contains("canary"), "{ran:?}");
        ran.failed("cannot connect to PostgreSQL");
    }
    let missing = [("SYMBOLON__DATABASE__URL", "sqlite:no/such/directory/x.db")];
    place.run_with(&missing, &["migrate"]).failed("no/such/directory/x.db");
}
