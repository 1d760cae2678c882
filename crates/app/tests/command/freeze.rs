use serde_json::Value;

use crate::Place;

const SQLITE: [(&str, &str); 1] = [("SYMBOLON__DATABASE__URL", "sqlite:symbolon.db")];

fn with_key() -> (Place, String) {
    let place = Place::new();
    let create = ["api-key", "create", "--name", "x", "--scope", "tokens:read", "--json"];
    let key: Value = serde_json::from_str(&place.run_with(&SQLITE, &create).done()).unwrap();
    let id = key["id"].to_string();
    (place, id)
}

#[test]
fn what_is_frozen_is_listed_with_who_and_why_until_it_is_lifted() {
    let (place, id) = with_key();
    let freeze = ["freeze", "key", &id, "--reason", "found in a repository"];
    let out = place.run_with(&SQLITE, &freeze).done();
    assert!(out.contains(&format!("API key {id} is frozen")), "{out}");
    let again = place.run_with(&SQLITE, &freeze).done();
    assert!(again.contains("is frozen since") && again.contains("by operator"), "{again}");
    place.run_with(&SQLITE, &["freeze", "organization", "acme"]).done();

    let list = place.run_with(&SQLITE, &["freeze", "list"]).done();
    assert!(list.contains("found in a repository") && list.contains("acme"), "{list}");
    let list = place.run_with(&SQLITE, &["freeze", "list", "--json"]).done();
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["kind"], "key");
    assert_eq!(list[0]["frozen_by"], "operator");
    assert_eq!(list[1]["id"], "acme");

    let out = place.run_with(&SQLITE, &["unfreeze", "key", &id]).done();
    assert!(out.contains("not frozen any more"), "{out}");
    place.run_with(&SQLITE, &["unfreeze", "key", &id]).failed("is not frozen");
    let list = place.run_with(&SQLITE, &["freeze", "list", "--json"]).done();
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap().as_array().unwrap().len(), 1);
}

#[test]
fn what_is_not_there_cannot_be_frozen() {
    let (place, _) = with_key();
    place.run_with(&SQLITE, &["freeze", "key", "999"]).failed("there is no such API key");
    place.run_with(&SQLITE, &["freeze", "provider", "9"]).failed("no such identity provider");
    place.run_with(&SQLITE, &["freeze", "provider", "github"]).failed("positive integer");
    place.run_with(&SQLITE, &["unfreeze", "organization", "acme"]).failed("is not frozen");
    let ran = place.run_with(&SQLITE, &["freeze", "user", "1"]);
    assert_eq!(ran.status, Some(2), "{ran:?}");
    let ran = place.run_with(&SQLITE, &["freeze", "key", "1", "--reason", ""]);
    assert_eq!(ran.status, Some(2), "{ran:?}");
}

#[test]
fn a_key_is_made_within_narrow_limits_and_listed_with_them() {
    let place = Place::new();
    let create = [
        "api-key",
        "create",
        "--name",
        "x",
        "--scope",
        "tokens:read",
        "--provider",
        "3",
        "--token-scope",
        "repo",
        "--user",
        "acme:*",
        "--user",
        "u",
        "--json",
    ];
    let key: Value = serde_json::from_str(&place.run_with(&SQLITE, &create).done()).unwrap();
    assert_eq!(key["providers"], serde_json::json!([3]));
    assert_eq!(key["token_scopes"], serde_json::json!(["repo"]));
    assert_eq!(key["users"], serde_json::json!(["acme:*", "u"]));
    let list = place.run_with(&SQLITE, &["api-key", "list"]).done();
    assert!(list.contains("provider=3 token-scope=repo user=acme:* user=u"), "{list}");
    let create = ["api-key", "create", "--name", "x", "--scope", "admin"];
    for (flag, value, problem) in
        [("--user", "*", "--user must be 1 to 255"), ("--token-scope", "a b", "token_scope: ")]
    {
        let mut arguments = create.to_vec();
        arguments.extend([flag, value]);
        place.run_with(&SQLITE, &arguments).failed(problem);
    }
}
