//! The arrows between our crates point inwards.

use std::process::Command;

use serde_json::{Value, json};

/// The prefix of our crates' names.
const OURS: &str = "symbolon";

/// Which of our crates a crate may know. Who is not here has not been given a place yet.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("symbolon-domain", &[]),
    ("symbolon-diesel", &["symbolon-domain"]),
    ("symbolon-oauth2", &["symbolon-domain"]),
    ("symbolon-keyring", &["symbolon-domain"]),
    ("symbolon-http", &["symbolon-domain"]),
    ("symbolon-google", &["symbolon-domain", "symbolon-oauth2"]),
    ("symbolon-sandbox", &[]),
    (
        "symbolon",
        &[
            "symbolon-domain",
            "symbolon-diesel",
            "symbolon-oauth2",
            "symbolon-google",
            "symbolon-keyring",
            "symbolon-http",
            "symbolon-sandbox",
        ],
    ),
    ("symbolon-test-postgres", &[]),
    // The benchmarks ask the store itself, and seal as the service does.
    (
        "symbolon-tests",
        &["symbolon-diesel", "symbolon-domain", "symbolon-keyring", "symbolon-test-postgres"],
    ),
];

/// What the tests of any crate but the domain may know besides.
const TESTS_MAY_KNOW: &[&str] = &["symbolon-domain", "symbolon-sandbox", "symbolon-test-postgres"];

/// What adapters bring, and the domain must not: each name, and all that begin with it and a
/// hyphen or an underscore.
const ADAPTERS_BRING: &[&str] = &[
    "aws-lc",
    "axum",
    "clap",
    "config",
    "diesel",
    "hyper",
    "jsonwebtoken",
    "libsqlite3",
    "maud",
    "metrics-exporter",
    "opentelemetry",
    "reqwest",
    "rustls",
    "sqlx",
    "tempfile",
    "tokio-postgres",
    "toml",
    "tower",
    "tracing-subscriber",
    "utoipa",
];

/// What is wrong with the arrows of a workspace, one sentence each; `metadata` is what
/// `cargo metadata --no-deps` prints.
fn wrong_arrows(metadata: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let from = package["name"].as_str().unwrap();
        let Some((_, may_know)) = MAY_KNOW.iter().find(|(name, _)| *name == from) else {
            wrong.push(format!("{from} has no place in the house: give it one in MAY_KNOW"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            let for_tests = dependency["kind"] == "dev";
            if is_or_extends(to, OURS) {
                let allowed = may_know.contains(&to)
                    // The domain's own tests use it as other teams do, with the feature on.
                    || for_tests && from == to
                    || for_tests && from != "symbolon-domain" && TESTS_MAY_KNOW.contains(&to);
                if !allowed {
                    wrong.push(format!("{from} must not know {to}"));
                }
                let features = dependency["features"].as_array().unwrap();
                if !for_tests && features.contains(&json!("testing")) {
                    wrong.push(format!("{from} brings the mocks of {to} into the product"));
                }
            } else if from == "symbolon-domain"
                && !for_tests
                && ADAPTERS_BRING.iter().any(|it| is_or_extends(to, it))
            {
                wrong.push(format!("{from} must not bring {to}: that is an adapter's"));
            }
        }
    }
    wrong
}

fn is_or_extends(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

#[test]
fn the_arrows_between_our_crates_point_inwards() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();

    let packages = metadata["packages"].as_array().unwrap();
    for (name, _) in MAY_KNOW {
        assert!(packages.iter().any(|it| it["name"] == *name), "there is no crate {name}");
    }
    assert_eq!(wrong_arrows(&metadata), [""; 0]);
}

/// A workspace of one crate with one dependency, in cargo's form.
fn arrow(from: &str, to: &str, kind: Option<&str>, features: &[&str]) -> Value {
    let dependency = json!({ "name": to, "kind": kind, "features": features });
    json!({ "packages": [{ "name": from, "dependencies": [dependency] }] })
}

#[test]
fn a_wrong_arrow_is_caught() {
    let wrong = [
        ("symbolon-domain", "symbolon-diesel", None),
        ("symbolon-domain", "symbolon-sandbox", Some("dev")),
        ("symbolon-domain", "symbolon", Some("build")),
        ("symbolon-diesel", "symbolon-http", None),
        ("symbolon-http", "symbolon-diesel", Some("dev")),
        ("symbolon-keyring", "symbolon-oauth2", None),
        ("symbolon-oauth2", "symbolon-google", None),
        ("symbolon-google", "symbolon-keyring", None),
        ("symbolon-sandbox", "symbolon-domain", None),
        ("symbolon-http", "symbolon-sandbox", None),
        ("symbolon-http", "symbolon", Some("dev")),
        ("symbolon", "symbolon-test-postgres", None),
        ("symbolon-domain", "diesel", None),
        ("symbolon-domain", "diesel-async", None),
        ("symbolon-domain", "diesel_migrations", None),
        ("symbolon-domain", "tower-http", None),
        ("symbolon-domain", "reqwest", Some("build")),
        ("symbolon-gitlab", "symbolon-oauth2", None),
    ];
    for (from, to, kind) in wrong {
        assert_eq!(wrong_arrows(&arrow(from, to, kind, &[])).len(), 1, "{from} -> {to} ({kind:?})");
    }
    let mocks = arrow("symbolon-http", "symbolon-domain", None, &["testing"]);
    assert_eq!(wrong_arrows(&mocks).len(), 1);
}

#[test]
fn a_right_arrow_is_let_through() {
    let right = [
        ("symbolon-google", "symbolon-oauth2", None, &[][..]),
        ("symbolon-http", "symbolon-domain", None, &[]),
        ("symbolon-http", "symbolon-domain", Some("dev"), &["testing"]),
        ("symbolon-oauth2", "symbolon-sandbox", Some("dev"), &[]),
        ("symbolon-diesel", "symbolon-test-postgres", Some("dev"), &[]),
        ("symbolon", "symbolon-diesel", None, &[]),
        ("symbolon-diesel", "diesel", None, &[]),
        ("symbolon-domain", "metrics", None, &[]),
        ("symbolon-domain", "configuration", None, &[]),
    ];
    for (from, to, kind, features) in right {
        assert_eq!(wrong_arrows(&arrow(from, to, kind, features)), [""; 0]);
    }
}
