use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};
use symbolon_test_postgres::{TestDatabase, tables_as_text};

use crate::{Place, Ran};

/// In every secret of these tests.
const CANARY: &str = "canary-71c4";

/// A place with a key ring and a configuration of this database.
fn place_on(url: &str) -> Place {
    let place = Place::new();
    place.run(&["keyring", "generate", "--file", "ring.json"]).done();
    let config =
        format!("keyring.file = 'ring.json'\n[database]\nurl = '{url}'\nauto_migrate = true\n");
    place.write("symbolon.toml", &config);
    place
}

fn place() -> Place {
    place_on("sqlite:symbolon.db")
}

fn provider(pk: i64, fields: &Value) -> Value {
    let mut all = json!({
        "type": "github", "config": {}, "date_added": "2020-01-31T12:00:00Z", "external_id": pk.to_string(),
    });
    merge(&mut all, fields);
    json!({"model": "sentry.identityprovider", "pk": pk, "fields": all})
}

fn identity(pk: i64, fields: &Value) -> Value {
    let mut all = json!({
        "idp": 1, "user": pk, "external_id": format!("account-{pk}"), "data": {}, "status": 1,
        "scopes": [], "date_verified": "2020-01-31T12:00:00.123456Z",
        "date_added": "2019-01-31T12:00:00Z",
    });
    merge(&mut all, fields);
    json!({"model": "sentry.identity", "pk": pk, "fields": all})
}

fn merge(all: &mut Value, fields: &Value) {
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
}

fn write(place: &Place, rows: &[Value]) {
    place.write("dump.json", &serde_json::to_string(rows).unwrap());
}

fn import(place: &Place, arguments: &[&str]) -> Ran {
    place.run(&[&["import", "sentry", "dump.json"], arguments].concat())
}

fn summary(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap()
}

/// What the database holds, line by line.
fn exported(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let ran = place.run(&[&["export", "--force", "out.jsonl"], arguments].concat());
    assert_eq!(ran.status, Some(0), "{ran:?}");
    place.read("out.jsonl").lines().map(|it| serde_json::from_str(it).unwrap()).collect()
}

fn of_kind(lines: &[Value], kind: &str) -> Vec<Value> {
    lines.iter().filter(|it| it["kind"] == kind).cloned().collect()
}

#[test]
fn a_dump_of_sentry_is_taken_with_its_ids_and_its_credentials_sealed() {
    let place = place();
    let secret = |name: &str| format!("{CANARY}-{name}");
    write(
        &place,
        &[
            // Before the provider that it refers to: the order in a dump does not matter.
            identity(
                12,
                &json!({
                    "idp": 5, "user": 77, "external_id": 4711, "status": 1,
                    "data": json!({
                        "access_token": secret("access"), "refresh_token": secret("refresh"),
                        "expires": 1_900_000_000, "token_type": "bearer", "client_id": "shown",
                        "client_secret": secret("client"), "preferred_org": 3,
                    }).to_string(),
                    "scopes": "{read:user,\"a b\"}",
                }),
            ),
            identity(13, &json!({"idp": 5, "status": 2, "date_verified": "2021-02-03 04:05:06"})),
            identity(
                14,
                &json!({
                    "idp": 5,
                    "data": {"sentry_encrypted_field_value": "enc:fernet:k1:gAAAAcanary"},
                }),
            ),
            json!({"model": "sentry.user", "pk": 77, "fields": {"password": secret("password")}}),
            provider(
                5,
                &json!({
                    "type": "homegrown", "external_id": "gitlab.example.com",
                    "config": {"client_id": "id", "client_secret": secret("provider")},
                }),
            ),
        ],
    );
    let ran = import(&place, &["--json", "--report", "report.jsonl"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let told = summary(&ran);
    assert_eq!(told["created"], 4);
    assert_eq!(told["refused"], 0);
    assert_eq!(told["skipped"], json!({"sentry.user": 1}));
    assert_eq!(told["notes"], json!({"encrypted": 1}));
    assert!(
        told["warnings"][0].as_str().unwrap().starts_with("type homegrown is not in the catalog")
    );
    let report: Value = serde_json::from_str(place.read("report.jsonl").trim()).unwrap();
    assert_eq!(
        report,
        json!({"position": 2, "model": "sentry.identity", "id": 14, "note": "encrypted"})
    );

    let lines = exported(&place, &["--with-secrets"]);
    let provider = &of_kind(&lines, "identity_provider")[0];
    assert_eq!(provider["id"], 5);
    assert_eq!(provider["config"], json!({"client_id": "id"}));
    assert_eq!(provider["secrets"]["client_secret"], secret("provider"));
    let identities = of_kind(&lines, "identity");
    let it = &identities[0];
    assert_eq!((&it["id"], &it["idp_id"], &it["user_id"]), (&json!(12), &json!(5), &json!("77")));
    assert_eq!((&it["external_id"], &it["status"]), (&json!("4711"), &json!("valid")));
    assert_eq!(it["data"], json!({"client_id": "shown", "preferred_org": 3}));
    assert_eq!(it["scopes"], json!(["read:user", "a b"]));
    assert_eq!(it["date_verified"], "2020-01-31T12:00:00.123456Z");
    assert_eq!(it["expires_at"], "2030-03-17T17:46:40Z");
    let credentials = &it["credentials"];
    assert_eq!(credentials["access_token"], secret("access"));
    assert_eq!(credentials["refresh_token"], secret("refresh"));
    assert_eq!(credentials["token_type"], "bearer");
    assert_eq!(credentials["others"], json!({"client_secret": secret("client")}));
    let it = &identities[1];
    assert_eq!(it["invalid"], json!({"reason": "imported", "at": "2021-02-03T04:05:06Z"}));
    let it = &identities[2];
    assert_eq!((&it["status"], &it["data"]), (&json!("unknown"), &json!({})));

    let events = of_kind(&lines, "event");
    let told: Vec<_> = events.iter().map(|it| it["event"].as_str().unwrap()).collect();
    assert_eq!(
        told,
        [
            "provider.created",
            "identity.imported",
            "identity.imported",
            "identity.imported",
            "import.finished"
        ]
    );
    assert_eq!(events[4]["detail"]["from"], "sentry");

    // Nothing of it lies in the open, neither in what was said nor in the files.
    let open = exported(&place, &[]);
    assert!(!serde_json::to_string(&open).unwrap().contains(CANARY));
    assert!(!ran.err.contains("canary") && !ran.out.contains("canary"));
    for name in place.files().into_iter().filter(|it| it.starts_with("symbolon.db")) {
        let bytes = std::fs::read(place.path().join(&name)).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|it| it == CANARY.as_bytes()), "{name}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one line for each reason")]
fn each_row_that_cannot_be_taken_is_told_by_position_and_reason() {
    let place = place();
    // Rows, and what is said of each; `None` for one that is taken.
    let rows: Vec<(Value, Option<(&str, &str)>)> = vec![
        (provider(1, &json!({})), None),
        (
            provider(2, &json!({"type": ""})),
            Some(("malformed", "type: must be 1 to 64 characters")),
        ),
        (provider(3, &json!({"type": 5})), Some(("malformed", "type: must be 1 to 64 characters"))),
        (
            provider(4, &json!({"external_id": "x".repeat(256)})),
            Some(("malformed", "external_id: must be at most 255")),
        ),
        (
            provider(5, &json!({"config": "canary"})),
            Some(("malformed", "config: must be a JSON object")),
        ),
        (
            provider(6, &json!({"date_added": "canary"})),
            Some(("malformed", "date_added: must be a time")),
        ),
        (provider(7, &json!({"type": "slack", "external_id": null})), None),
        (
            provider(8, &json!({"type": "slack", "external_id": null})),
            Some(("provider_repeated", "identity provider 7 has the same type and external_id")),
        ),
        (provider(9, &json!({"config": {"a": "b\u{0}"}})), Some(("nul_character", "U+0000"))),
        (identity(1, &json!({})), None),
        (
            identity(2, &json!({"external_id": "account-1"})),
            Some(("account_taken", "the account is linked to another user (identity 1)")),
        ),
        (
            identity(3, &json!({"user": 1})),
            Some((
                "user_taken",
                "the user has linked another account of this provider (identity 1)",
            )),
        ),
        (
            identity(4, &json!({"idp": 8})),
            Some(("no_provider", "the file has no identity provider 8 that was taken")),
        ),
        (
            identity(5, &json!({"idp": "canary"})),
            Some(("malformed", "idp: must be the id of a row")),
        ),
        (
            identity(6, &json!({"idp": ["natural", "key"]})),
            Some(("malformed", "idp: must be the id of a row")),
        ),
        (identity(7, &json!({"user": null})), Some(("malformed", "user: must be there"))),
        (
            identity(8, &json!({"user": {"a": "canary"}})),
            Some(("malformed", "user: must be a text or a whole number")),
        ),
        (
            identity(9, &json!({"external_id": ""})),
            Some(("malformed", "external_id: must be 1 to 255 characters")),
        ),
        (
            identity(10, &json!({"external_id": "é".repeat(256)})),
            Some(("malformed", "external_id: must be 1 to 255 characters")),
        ),
        (
            identity(11, &json!({"external_id": "canary\n"})),
            Some(("malformed", "hold no control character")),
        ),
        (identity(12, &json!({"status": 3})), Some(("malformed", "status: must be 0, 1 or 2"))),
        (
            identity(13, &json!({"scopes": "canary"})),
            Some(("malformed", "scopes: must be a list of texts")),
        ),
        (
            identity(14, &json!({"scopes": [1]})),
            Some(("malformed", "scopes: must be a list of texts")),
        ),
        (
            identity(15, &json!({"data": "canary"})),
            Some(("malformed", "data: must be a JSON object")),
        ),
        (identity(16, &json!({"data": [1]})), Some(("malformed", "data: must be a JSON object"))),
        (
            identity(17, &json!({"date_verified": null})),
            Some(("malformed", "date_verified: must be there")),
        ),
        (
            identity(18, &json!({"date_added": 5})),
            Some(("malformed", "date_added: must be a time")),
        ),
        (identity(19, &json!({"data": {"x": ["\u{0}"]}})), Some(("nul_character", "U+0000"))),
        (identity(20, &json!({"data": {"access_token": "t", "expires": "canary"}})), None),
        (
            json!({"model": "sentry.identity", "pk": null, "fields": {}}),
            Some(("malformed", "pk: must be a whole number")),
        ),
        (
            json!({"model": "sentry.identity", "pk": 21}),
            Some(("malformed", "fields: must be an object")),
        ),
        (json!({"pk": 22, "fields": {}}), Some(("malformed", "the row names no model"))),
        (json!("canary"), Some(("malformed", "expected a row"))),
    ];
    let dump: Vec<_> = rows.iter().map(|(row, _)| row.clone()).collect();
    write(&place, &dump);
    let ran = import(&place, &["--json", "--report", "report.jsonl"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let refused = rows.iter().filter(|(_, it)| it.is_some()).count();
    assert_eq!(ran.err, format!("symbolon: {refused} rows of dump.json were refused\n"));
    let report = place.read("report.jsonl");
    assert!(!report.contains("canary"));
    let report: Vec<Value> = report.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let said: BTreeMap<u64, &Value> = report
        .iter()
        .filter(|it| it.get("refused").is_some())
        .map(|it| (it["position"].as_u64().unwrap(), it))
        .collect();
    for (index, (row, expected)) in rows.iter().enumerate() {
        let said = said.get(&(index as u64));
        let Some((code, reason)) = expected else {
            assert!(said.is_none(), "{row} {said:?}");
            continue;
        };
        let said = said.unwrap_or_else(|| panic!("nothing is said of {row}"));
        assert_eq!(said["refused"], *code, "{row} {said}");
        assert!(said["reason"].as_str().unwrap().contains(reason), "{row} {said}");
        if row["model"].is_string() {
            assert_eq!((&said["model"], &said["id"]), (&row["model"], &row["pk"]));
        }
    }
    assert!(report.iter().any(|it| it["position"] == 28 && it["note"] == "unknown_expiry"));

    // Without a file for it, the same is said on standard error.
    let ran = import(&place, &[]);
    assert_eq!(ran.status, Some(1));
    assert_eq!(ran.err.lines().count(), refused + 1);
    assert!(
        ran.err.contains("row 10 (sentry.identity 2) refused: the account is linked"),
        "{ran:?}"
    );
    assert!(!ran.err.contains("canary"));
}

fn auth_provider(pk: i64, fields: &Value) -> Value {
    let mut all = json!({
        "organization": pk, "provider": "google", "config": {"domain": "a.example"},
        "date_added": "2020-01-31T12:00:00Z", "sync_time": null, "last_sync": null,
        "default_role": 50, "default_global_access": true, "flags": 0,
    });
    merge(&mut all, fields);
    json!({"model": "sentry.authprovider", "pk": pk, "fields": all})
}

fn auth_identity(pk: i64, fields: &Value) -> Value {
    let mut all = json!({
        "user": pk, "auth_provider": 1, "ident": format!("ident-{pk}"), "data": {},
        "last_verified": "2020-01-31T12:00:00Z", "last_synced": "2020-01-31T12:00:00Z",
        "date_added": "2019-01-31T12:00:00Z",
    });
    merge(&mut all, fields);
    json!({"model": "sentry.authidentity", "pk": pk, "fields": all})
}

fn organization_identity(pk: i64, organization: i64, identity: i64) -> Value {
    let fields = json!({
        "organization_id": organization, "identity": identity,
        "date_added": "2026-06-01T00:00:00Z", "date_updated": "2026-06-01T00:00:00Z",
    });
    json!({"model": "sentry.organizationidentity", "pk": pk, "fields": fields})
}

#[test]
fn single_sign_on_comes_over_in_whatever_order() {
    let place = place();
    write(
        &place,
        &[
            organization_identity(31, 8, 11),
            auth_identity(
                21,
                &json!({
                    "auth_provider": 2, "user": 5, "ident": 99,
                    "data": {"access_token": CANARY, "email": "a@a.example", "expires": 1_900_000_000},
                }),
            ),
            auth_provider(
                1,
                &json!({"organization": 7, "flags": 3, "provider": "github",
                "last_sync": "2020-02-01T00:00:00Z", "sync_time": 60}),
            ),
            auth_provider(2, &json!({"organization": 8, "config": {"password": CANARY}})),
            identity(11, &json!({"idp": 3})),
            provider(3, &json!({"type": "github"})),
            // What stands against them.
            auth_provider(4, &json!({"organization": 8, "provider": "github"})),
            auth_provider(5, &json!({"provider": ""})),
            auth_identity(22, &json!({"auth_provider": 2, "ident": "99"})),
            auth_identity(23, &json!({"auth_provider": 2, "user": 5})),
            auth_identity(24, &json!({"auth_provider": 9})),
            organization_identity(32, 8, 12),
            auth_provider(6, &json!({"default_role": 5_000_000_000_i64})),
        ],
    );
    let ran = import(&place, &["--json", "--report", "report.jsonl"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let report = place.read("report.jsonl");
    let refused: Vec<_> = report
        .lines()
        .map(|it| serde_json::from_str::<Value>(it).unwrap())
        .map(|it| (it["position"].as_u64().unwrap(), it["refused"].as_str().unwrap().to_owned()))
        .collect();
    let refused: Vec<_> = refused.iter().map(|(at, code)| (*at, code.as_str())).collect();
    let mut expected = vec![
        (6, "organization_taken"),
        (7, "malformed"),
        (8, "account_taken"),
        (9, "user_taken"),
        (10, "no_auth_provider"),
        (11, "no_identity"),
        (12, "malformed"),
    ];
    let mut sorted = refused.clone();
    sorted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    let told = summary(&ran);
    let warnings = told["warnings"].to_string();
    assert!(warnings.contains("sign in with type google, of which there was no identity provider"));
    assert!(warnings.contains("the config of 1 auth providers held secrets"), "{warnings}");

    let lines = exported(&place, &["--with-secrets"]);
    let providers = of_kind(&lines, "identity_provider");
    let google = providers.iter().find(|it| it["type"] == "google").unwrap();
    assert_eq!((&google["external_id"], &google["config"]), (&Value::Null, &json!({})));
    let auth_providers = of_kind(&lines, "auth_provider");
    assert_eq!(auth_providers.len(), 2);
    let it = &auth_providers[0];
    assert_eq!((&it["id"], &it["organization_id"]), (&json!(1), &json!("7")));
    assert_eq!((&it["provider_id"], &it["allow_unlinked"]), (&json!(3), &json!(true)));
    assert_eq!((&it["scim_enabled"], &it["sync_time"]), (&json!(true), &json!(60)));
    assert_eq!(
        (&it["last_sync"], &it["default_role"]),
        (&json!("2020-02-01T00:00:00Z"), &json!(50))
    );
    let it = &auth_providers[1];
    assert_eq!((&it["provider_id"], &it["allow_unlinked"]), (&google["id"], &json!(false)));
    assert_eq!(it["config"], json!({}));
    let it = &of_kind(&lines, "auth_identity")[0];
    assert_eq!((&it["id"], &it["auth_provider_id"]), (&json!(21), &json!(2)));
    assert_eq!((&it["user_id"], &it["ident"]), (&json!("5"), &json!("99")));
    assert_eq!(it["data"], json!({"email": "a@a.example"}));
    assert_eq!(it["credentials"]["access_token"], CANARY);
    let it = &of_kind(&lines, "organization_identity")[0];
    assert_eq!((&it["organization_id"], &it["identity_id"]), (&json!("8"), &json!(11)));

    let before = lines;
    let again = import(&place, &["--json", "--report", "report.jsonl"]);
    assert_eq!(summary(&again)["created"], 0);
    assert_eq!(exported(&place, &["--with-secrets"]), before);
    assert!(!serde_json::to_string(&exported(&place, &[])).unwrap().contains(CANARY));
}

#[test]
fn importing_again_doubles_nothing() {
    let place = place();
    write(&place, &[provider(1, &json!({})), identity(1, &json!({})), identity(2, &json!({}))]);
    import(&place, &[]).done();
    let before = exported(&place, &["--with-secrets"]);
    let told = summary(&import(&place, &["--json"]));
    assert_eq!((&told["created"], &told["unchanged"]), (&json!(0), &json!(3)));
    assert_eq!(exported(&place, &["--with-secrets"]), before);
}

#[test]
fn a_dry_run_says_what_would_happen_and_writes_nothing() {
    let place = place();
    let rows = [
        provider(1, &json!({})),
        identity(1, &json!({})),
        identity(2, &json!({"external_id": "account-1"})),
    ];
    write(&place, &rows);
    let ran = import(&place, &["--dry-run"]);
    ran.failed("there is no database at symbolon.db");
    place.run(&["migrate"]).done();
    let dry = import(&place, &["--dry-run", "--json"]);
    assert_eq!(dry.status, Some(1), "{dry:?}");
    assert_eq!(exported(&place, &[]).len(), 2);
    let leftovers: Vec<_> = place.files().into_iter().filter(|it| it.contains("dry-run")).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    let real = import(&place, &["--json"]);
    let (mut dry, mut real) = (summary(&dry), summary(&real));
    assert_eq!((dry["dry_run"].take(), real["dry_run"].take()), (json!(true), json!(false)));
    assert_eq!(dry, real);
    assert_eq!(real["created"], 2);
}

#[test]
fn what_comes_before_broken_json_is_kept_and_the_place_is_told() {
    let place = place();
    let rows = [provider(1, &json!({})), identity(1, &json!({}))];
    let mut text = serde_json::to_string(&rows).unwrap();
    text.truncate(text.len() - 1);
    place.write("dump.json", &format!("{text},\n  {{\"canary\" oops"));
    let ran = import(&place, &["--json"]);
    assert_eq!(ran.status, Some(1));
    assert_eq!(summary(&ran)["created"], 2);
    let said = "dump.json: the file is not JSON at line 2, column 13 (after 2 rows); what came \
                before is kept";
    assert_eq!(ran.err.trim_start_matches("symbolon: ").trim(), said);
    // The rest can follow.
    write(&place, &[rows[0].clone(), rows[1].clone(), identity(2, &json!({}))]);
    let told = summary(&import(&place, &["--json"]));
    assert_eq!((&told["created"], &told["unchanged"]), (&json!(1), &json!(2)));

    for (text, said) in [
        ("", "the file ends early"),
        ("{}", "expected the JSON array that Django's dumpdata writes"),
        ("\u{1f}\u{8b}", "the file is not JSON at line 1"),
    ] {
        place.write("dump.json", text);
        let ran = import(&place, &[]);
        assert_eq!(ran.status, Some(1));
        assert!(ran.err.contains(said), "{ran:?}");
    }
    place.run(&["import", "sentry", "missing.json"]).failed("cannot read missing.json");
    place.run(&["import", "sentry", "/"]).failed("is not a file");
}

#[test]
fn an_export_is_its_owners_and_not_written_over_another() {
    let place = place();
    place.run(&["export", "out.jsonl"]).failed("there is no database at symbolon.db");
    write(&place, &[provider(1, &json!({})), identity(1, &json!({}))]);
    import(&place, &[]).done();
    let out = place.run(&["export", "out.jsonl"]).done();
    assert!(out.starts_with("5 records (1 identity_provider, 1 identity, 3 event) in"), "{out}");
    let mode = std::fs::metadata(place.path().join("out.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = place.read("out.jsonl");
    assert!(first.starts_with("{\"symbolon_export\":1,\"with_secrets\":false}\n"), "{first}");
    assert!(first.ends_with("{\"kind\":\"end\",\"records\":5}\n"), "{first}");
    place.run(&["export", "out.jsonl"]).failed("out.jsonl exists already; --force");
    let ran = place.run(&["export", "--force", "--with-secrets", "--json", "out.jsonl"]);
    assert_eq!(ran.status, Some(0));
    assert!(ran.err.contains("out.jsonl holds credentials in the clear"), "{ran:?}");
    assert_eq!(summary(&ran)["records"]["identity"], 1);
    place.run(&["export", "missing/out.jsonl"]).failed("cannot write missing/out.jsonl");
    assert_eq!(place.files().iter().filter(|it| it.contains("jsonl")).count(), 1);
}

#[test]
fn an_export_that_is_not_whole_is_told() {
    let place = place();
    write(&place, &[provider(1, &json!({})), identity(1, &json!({})), identity(2, &json!({}))]);
    import(&place, &[]).done();
    exported(&place, &["--with-secrets"]);
    let whole = place.read("out.jsonl");
    let lines: Vec<_> = whole.lines().collect();
    let restore = |text: &str| {
        let other = self::place();
        other.write("in.jsonl", text);
        let ran = other.run(&["import", "symbolon", "in.jsonl"]);
        (other, ran)
    };
    let (_, ran) = restore(&lines[..4].join("\n"));
    assert!(ran.err.contains("the file ends early, after 3 records"), "{ran:?}");
    assert_eq!(ran.status, Some(1));
    let (_, ran) = restore(&lines[1..].join("\n"));
    ran.failed("the first line is not the header of an export of version 1");
    let (_, ran) = restore("");
    assert!(ran.err.contains("the file is empty"), "{ran:?}");
    let (_, ran) = restore(&whole.replacen("\"symbolon_export\":1", "\"symbolon_export\":2", 1));
    ran.failed("the first line is not the header of an export of version 1");
    // A line that is not understood is told by its number, and the others are taken.
    let (other, ran) = restore(&whole.replacen("\"attempt\":0", "\"attempt\":\"canary\"", 1));
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.err.contains("row 3 (identity 1) refused: is not a record of a known form"),
        "{ran:?}"
    );
    assert!(!ran.err.contains("canary"));
    assert_eq!(of_kind(&exported(&other, &[]), "identity").len(), 1);
}

/// Something of everything, set up through the commands.
fn fill(place: &Place) {
    write(
        place,
        &[
            provider(
                40,
                &json!({"config": {"client_secret": CANARY, "b": {"z": 1.5, "a": [null, 0.1, 1e21]}}}),
            ),
            provider(41, &json!({"type": "slack", "external_id": null, "config": {}})),
            identity(
                90,
                &json!({"idp": 40, "data": {
                    "access_token": CANARY, "expires": 1_900_000_000, "client_secret": "x", "ü": "é",
                    "long_key": 1, "k": {"bb": 2, "a": 3, "aaa": -0.25},
                }}),
            ),
            identity(95, &json!({"idp": 40, "status": 2})),
            identity(93, &json!({"idp": 41, "user": "someone", "scopes": ["a", "b"]})),
            auth_provider(60, &json!({})),
            auth_identity(61, &json!({"auth_provider": 60, "data": {"access_token": CANARY}})),
            organization_identity(62, 7, 90),
        ],
    );
    import(place, &[]).done();
    place.run(&["api-key", "create", "--name", "caller", "--scope", "admin"]).done();
    place.run(&["api-key", "create", "--name", "gone", "--scope", "link:write"]).done();
    let keys = place.run(&["api-key", "list", "--json"]).done();
    let keys: Value = serde_json::from_str(&keys).unwrap();
    place.run(&["api-key", "revoke", &keys[1]["id"].to_string()]).done();
    fill_the_rest(place);
}

/// What no command makes: an endpoint, transfers and grants that are to be revoked.
fn fill_the_rest(place: &Place) {
    let at = "2026-02-03T04:05:06.000007Z";
    let grant = json!({
        "credentials": {
            "access_token": CANARY, "refresh_token": CANARY, "scopes": ["a"],
            "dpop_key": CANARY, "refresh_dpop_key": CANARY,
        },
        "provider": {
            "id": 5000, "type": "github", "external_id": "gone", "config": {"client_id": "id"},
            "secret_names": ["client_secret"], "login": false, "multiple_accounts": false,
            "names_issuer": false, "date_added": at, "version": 3,
            "secrets": {"client_secret": CANARY},
        },
    });
    let revocation = |id: i64, status: &str| {
        json!({
            "kind": "revocation", "id": id, "identity_id": 9000 + id, "provider_id": 5000,
            "user_id": "u", "external_id": "e", "actor": "operator", "acting_user": null,
            "reason": "left", "status": status, "attempts": 2, "queued_at": at, "due_at": at,
            "last_error": "timeout", "generation": 2,
        })
    };
    let mut waiting = revocation(31, "waiting");
    waiting["grant"] = grant;
    let lines = [
        json!({"symbolon_export": 1, "with_secrets": true}),
        json!({
            "kind": "webhook_endpoint", "id": 11, "url": "https://receiver.example/hook?a=%20b",
            "events": ["identity.linked"], "enabled": true, "created_at": at, "generation": 2,
            "position": 0,
            "secrets": [
                {"secret": format!("whsec_{CANARY}-2")},
                {"secret": format!("whsec_{CANARY}-1"), "until": "2026-02-04T04:05:06.5Z"},
            ],
        }),
        json!({
            "kind": "transfer", "id": 21, "from_user_id": "a", "to_user_id": "b",
            "items": [
                {"identity_id": 90, "provider_id": 40, "external_id": "x", "given_back": true},
                {"identity_id": 91, "provider_id": 40, "external_id": "y", "given_back": false,
                 "kept": "unlinked"},
                {"identity_id": 92, "provider_id": 40, "external_id": "z",
                 "skipped": "user_has_another"},
            ],
            "actor": "operator", "acting_user": "boss", "reason": "one person", "created_at": at,
            "undone_at": at,
        }),
        waiting,
        revocation(32, "revoked"),
        json!({"kind": "end", "records": 4}),
    ];
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    place.write("rest.jsonl", &lines.join("\n"));
    let ran = place.run(&["import", "symbolon", "rest.jsonl", "--json"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(summary(&ran)["created"], 4);
}

#[test]
fn without_secrets_grants_that_wait_are_left_out_and_counted() {
    let place = place();
    fill_the_rest(&place);
    let ran = place.run(&["export", "--json", "out.jsonl"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(summary(&ran)["left_out"], json!({"revocation": 1}));
    let lines: Vec<Value> =
        place.read("out.jsonl").lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let revocations = of_kind(&lines, "revocation");
    assert_eq!((revocations.len(), &revocations[0]["status"]), (1, &json!("revoked")));
    let endpoint = &of_kind(&lines, "webhook_endpoint")[0];
    assert_eq!((&endpoint["id"], endpoint.get("secrets")), (&json!(11), None));
    assert!(!place.read("out.jsonl").contains(CANARY));
    let said = place.run(&["export", "--force", "out.jsonl"]).done();
    assert!(said.contains("1 revocations that wait are left out"), "{said}");

    // An endpoint without its secrets is refused; the count of the file's end is right.
    let other = self::place();
    other.write("in.jsonl", &place.read("out.jsonl"));
    let ran = other.run(&["import", "symbolon", "in.jsonl"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.err.contains("(webhook_endpoint 11) refused: without its secrets"), "{ran:?}");
    assert!(!ran.err.contains("the file has"), "{ran:?}");
}

/// Exports from one place and imports in the other; answers what both export then.
fn moved(from: &Place, to: &Place) -> (String, String) {
    exported(from, &["--with-secrets"]);
    let first = from.read("out.jsonl");
    to.write("in.jsonl", &first);
    let ran = to.run(&["import", "symbolon", "in.jsonl", "--json"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    exported(to, &["--with-secrets"]);
    let again = to.run(&["import", "symbolon", "in.jsonl", "--json"]);
    assert_eq!(again.status, Some(0), "{again:?}");
    assert_eq!(summary(&again)["created"], 0);
    (first, to.read("out.jsonl"))
}

#[tokio::test]
async fn a_store_goes_from_sqlite_to_postgresql_and_back_byte_by_byte() {
    let (there, back) = (TestDatabase::create().await.unwrap(), place());
    let (sqlite, postgres) = (place(), place_on(there.url()));
    fill(&sqlite);
    let (first, second) = moved(&sqlite, &postgres);
    assert_eq!(first, second);
    let (second, third) = moved(&postgres, &back);
    assert_eq!(second, third);
    let kinds = [
        "identity_provider",
        "identity",
        "auth_provider",
        "auth_identity",
        "organization_identity",
        "api_key",
        "webhook_endpoint",
        "transfer",
        "revocation",
        "event",
    ];
    assert!(kinds.iter().all(|it| third.contains(&format!("{{\"kind\":\"{it}\""))), "{third}");
    let rows = tables_as_text(there.url()).await.unwrap();
    assert!(!rows.contains(CANARY) && !rows.contains(&hex(CANARY)));
}

#[tokio::test]
async fn a_store_goes_from_postgresql_to_sqlite_byte_by_byte() {
    let here = TestDatabase::create().await.unwrap();
    let (postgres, sqlite) = (place_on(here.url()), place());
    fill(&postgres);
    let (first, second) = moved(&postgres, &sqlite);
    assert_eq!(first, second);
    // A dry run on PostgreSQL keeps nothing and uses no id up.
    write(&postgres, &[provider(70, &json!({})), identity(700, &json!({"idp": 70}))]);
    let told = summary(&import(&postgres, &["--json", "--dry-run"]));
    assert_eq!(told["created"], 2);
    exported(&postgres, &["--with-secrets"]);
    assert_eq!(postgres.read("out.jsonl"), first);
}

fn hex(text: &str) -> String {
    text.bytes()
        .flat_map(|it| [it >> 4, it & 15])
        .map(|it| char::from_digit(it.into(), 16).unwrap())
        .collect()
}
