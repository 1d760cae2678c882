use serde_json::Value;

use crate::Place;

const SQLITE: [(&str, &str); 1] = [("SYMBOLON__DATABASE__URL", "sqlite:symbolon.db")];

#[test]
fn a_key_is_shown_once_and_listed_without_its_secret() {
    let place = Place::new();
    let create =
        ["api-key", "create", "--name", "shop", "--scope", "link:write", "--scope", "tokens:read"];
    let out = place.run_with(&SQLITE, &create).done();
    let secret = out.lines().next().unwrap();
    assert!(secret.starts_with("sym_") && secret.len() == 47, "{out}");
    let list = place.run_with(&SQLITE, &["api-key", "list"]).done();
    assert!(list.contains("shop") && list.contains("link:write tokens:read"), "{list}");
    assert!(!list.contains(secret));
}

#[test]
fn json_has_the_id_and_the_secret() {
    let place = Place::new();
    let create = ["api-key", "create", "--name", "x", "--scope", "admin", "--json"];
    let key: Value = serde_json::from_str(&place.run_with(&SQLITE, &create).done()).unwrap();
    assert!(key["id"].is_i64() && key["secret"].as_str().unwrap().starts_with("sym_"), "{key}");
    assert_eq!(key["scopes"], serde_json::json!(["admin"]));
}

#[test]
fn what_a_key_is_limited_to_is_listed() {
    let place = Place::new();
    let create = [
        "api-key",
        "create",
        "--name",
        "x",
        "--scope",
        "sso:read",
        "--organization",
        "acme",
        "--organization",
        "apex",
        "--provider-type",
        "oidc",
        "--json",
    ];
    let key: Value = serde_json::from_str(&place.run_with(&SQLITE, &create).done()).unwrap();
    assert_eq!(key["organizations"], serde_json::json!(["acme", "apex"]));
    assert_eq!(key["provider_types"], serde_json::json!(["oidc"]));
    let list = place.run_with(&SQLITE, &["api-key", "list"]).done();
    assert!(list.contains("organization=acme organization=apex provider-type=oidc"), "{list}");
    let create = ["api-key", "create", "--name", "x", "--scope", "admin", "--organization", ""];
    place.run_with(&SQLITE, &create).failed("--organization must be 1 to 255 characters");
}

#[test]
fn a_wrong_wish_is_told_and_nothing_is_made() {
    let place = Place::new();
    let create = |name: &str, scope: &str| {
        place.run_with(&SQLITE, &["api-key", "create", "--name", name, "--scope", scope])
    };
    create("x", "everything")
        .failed("\"everything\" is not known; expected one of identities:read");
    assert!(place.files().is_empty());
    create("", "admin").failed("name: must be 1 to 255 characters");
    let list = place.run_with(&SQLITE, &["api-key", "list", "--json"]).done();
    assert_eq!(list.trim(), "[]");
}

#[test]
fn an_unknown_key_cannot_be_revoked() {
    let place = Place::new();
    place.run_with(&SQLITE, &["api-key", "create", "--name", "x", "--scope", "admin"]).done();
    place.run_with(&SQLITE, &["api-key", "revoke", "999"]).failed("there is no API key 999");
    let list = place.run_with(&SQLITE, &["api-key", "list", "--json"]).done();
    let list: Value = serde_json::from_str(&list).unwrap();
    assert!(list[0]["revoked_at"].is_null(), "{list}");
}

#[test]
fn a_key_stays_revoked() {
    let place = Place::new();
    let create = ["api-key", "create", "--name", "x", "--scope", "admin", "--json"];
    let key: Value = serde_json::from_str(&place.run_with(&SQLITE, &create).done()).unwrap();
    let id = key["id"].to_string();
    let revoke = ["api-key", "revoke", &id, "--json"];
    let first = place.run_with(&SQLITE, &revoke).done();
    let again = place.run_with(&SQLITE, &revoke).done();
    assert_eq!(first, again);
    let plain = place.run_with(&SQLITE, &["api-key", "revoke", &id]).done();
    assert!(plain.contains("is revoked"), "{plain}");
}

#[test]
fn looking_does_not_make_a_database() {
    let place = Place::new();
    for arguments in [&["api-key", "list"][..], &["api-key", "revoke", "1"]] {
        place.run_with(&SQLITE, arguments).failed("there is no database at symbolon.db");
    }
    assert!(place.files().is_empty());
}
