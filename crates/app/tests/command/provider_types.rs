use serde_json::Value;

use crate::Place;

const ENTRY: &str = r#"
title = "Wiki of ours"
description = "The wiki that we run."
documentation = ["https://wiki.example/oauth"]
checked = "2026-11-25"
evidence = "pages"
notes = ["There is no revocation endpoint: users take the access back in their settings."]

[register]
at = "https://wiki.example/settings"
redirect_uri = "Return address"

[authorization]
url = "https://wiki.example/authorize"
scopes = ["profile"]

[token]
url = "https://wiki.example/token"
authentication = "post"

[refresh]
rotation = "rotates"

[[profile]]
url = "https://wiki.example/me"

[account]
id = "/profile/id"
"#;

const FOLDER: [(&str, &str); 1] = [("SYMBOLON__CATALOG__FOLDER", "types")];

#[test]
fn the_catalog_is_listed_with_what_each_type_can_do() {
    let place = Place::new();
    let list = place.run(&["provider-types", "list"]).done();
    assert!(list.starts_with("TYPE"), "{list}");
    assert!(list.contains("provider-types show TYPE"), "{list}");
    let list: Value =
        serde_json::from_str(&place.run(&["provider-types", "list", "--json"]).done()).unwrap();
    let types = list.as_array().unwrap();
    for name in ["github", "google", "oidc"] {
        let it = types.iter().find(|it| it["type"] == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(it["capabilities"]["browser"], true, "{name}");
        assert!(it["config_schema"]["properties"]["client_id"].is_object(), "{name}");
    }
}

#[test]
fn a_type_is_shown_with_what_to_register_and_to_configure() {
    let place = Place::new();
    let page = place.run(&["provider-types", "show", "github"]).done();
    for part in
        ["GitHub (github)", "Authorization callback URL", "client_secret (required, secret)"]
    {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    place.run(&["provider-types", "show", "githup"]).failed("github, github_enterprise");
    place.run(&["provider-types", "show", "zzz"]).failed("the list of provider types");
    place.run(&["provider-types", "check", "githup"]).failed("there is no provider type githup");
}

#[test]
fn a_file_in_the_operators_folder_is_a_type() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("types")).unwrap();
    place.write("types/wiki.toml", ENTRY);
    let page = place.run_with(&FOLDER, &["provider-types", "show", "wiki"]).done();
    for part in ["Wiki of ours", "Return address", "no revocation endpoint", "refresh"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    // In place of ours, where it has the name of one.
    place.write("types/github.toml", ENTRY);
    let page = place.run_with(&FOLDER, &["provider-types", "show", "github"]).done();
    assert!(page.contains("Wiki of ours"), "{page}");
}

#[test]
fn a_file_that_is_no_entry_stops_the_start_and_is_named() {
    let place = Place::new();
    place.run_with(&FOLDER, &["provider-types", "list"]).failed("catalog.folder");
    std::fs::create_dir(place.path().join("types")).unwrap();
    for (from, to, expected) in [
        ("title", "titel", "titel"),
        ("https://wiki.example/me", "http://wiki.example/me", "https"),
        ("id = \"/profile/id\"", "", "account.id"),
    ] {
        place.write("types/wiki.toml", &ENTRY.replacen(from, to, 1));
        let ran = place.run_with(&FOLDER, &["provider-types", "list"]);
        ran.failed("wiki.toml");
        place.run_with(&FOLDER, &["provider-types", "list"]).failed(expected);
    }
}

#[test]
fn the_page_of_all_types_is_that_of_the_catalog() {
    let place = Place::new();
    let page = place.run(&["provider-types", "list", "--markdown"]).done();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/providers.md");
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(page == kept, "docs/providers.md is not up to date; run `make providers`");
}
