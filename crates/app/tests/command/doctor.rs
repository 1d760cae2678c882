use serde_json::Value;

use crate::{Place, Ran};

/// The findings by name.
#[track_caller]
fn findings(ran: &Ran) -> Vec<(String, String)> {
    let list: Value = serde_json::from_str(&ran.out).expect(&ran.out);
    let text = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|it| (text(it, "status"), text(it, "name"))).collect()
}

fn configured() -> Place {
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    place.write("symbolon.toml", "database.url = 'sqlite:x.db'\nkeyring.file = 'ring.json'\n");
    place
}

#[test]
fn all_is_well_with_a_fresh_setup_and_looking_changes_nothing() {
    let place = configured();
    let before = place.files();
    let out = place.run(&["doctor"]).done();
    assert!(out.lines().all(|it| it.starts_with("ok ")), "{out}");
    for name in ["configuration", "database", "key ring", "providers", "clock"] {
        assert!(out.contains(&format!(" {name}: ")), "{name}: {out}");
    }
    assert_eq!(place.files(), before);
    place.run(&["migrate"]).done();
    let out = place.run(&["doctor"]).done();
    assert!(out.contains("ok       migrations: all are applied"), "{out}");
}

#[test]
fn each_problem_is_a_line_and_the_exit_status_is_1() {
    let place = configured();
    place.write(
        "symbolon.toml",
        "database.url = 'sqlite:x.db'\nkeyring.file = 'missing.json'\nrefresh.ahead = '5m'\n\
         http_client.timeout = '1s'\n\
         [[providers]]\ntype = 'oidc'\n[providers.config]\nissuer = 'https://127.0.0.2:1'\n\
         client_id = 'x'\n",
    );
    // The address is not public, which the configuration's own check finds.
    let ran = place.run(&["doctor", "--json"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert_eq!(findings(&ran), [("problem".to_owned(), "configuration".to_owned())]);

    let text = place.read("symbolon.toml");
    place.write("symbolon.toml", &format!("http_client.allow_private_networks = true\n{text}"));
    let ran = place.run(&["doctor", "--json"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let found = findings(&ran);
    let has = |status: &str, name: &str| found.contains(&(status.to_owned(), name.to_owned()));
    assert!(has("warning", "configuration"), "{found:?}");
    assert!(has("problem", "key ring"), "{found:?}");
    assert!(has("problem", "provider oidc"), "{found:?}");
    assert!(has("ok", "database"), "{found:?}");
    assert_eq!(ran.err, "symbolon: there are 2 problems\n");
}

#[test]
fn a_configuration_that_is_not_understood_is_the_problem() {
    let place = Place::new();
    place.write("symbolon.toml", "server.listen = 'x'\nserver.lisen = 'y'\n");
    let ran = place.run(&["doctor"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.out.lines().all(|it| it.starts_with("problem ")), "{ran:?}");
    assert!(ran.out.contains("server.listen: expected") && ran.out.contains(" — "), "{ran:?}");
}

#[test]
fn an_unreachable_database_is_a_problem() {
    let place = configured();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://user:canary@{closed}/symbolon");
    let ran = place.run_with(&[("SYMBOLON__DATABASE__URL", url.as_str())], &["doctor", "--json"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(findings(&ran).contains(&("problem".to_owned(), "database".to_owned())), "{ran:?}");
    assert!(!ran.out.contains("canary") && !ran.err.contains("canary"), "{ran:?}");
}
