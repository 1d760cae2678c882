use std::{
    io::Read as _,
    process::{Command, Stdio},
};

use crate::Place;

#[test]
fn wrong_usage_is_told_and_exits_with_2() {
    let place = Place::new();
    for arguments in [
        &["conquer"][..],
        &["serve", "--colour"],
        &["migrate", "now"],
        &["api-key", "create"],
        &["api-key", "create", "--name", "x"],
        &["api-key", "revoke"],
        &["api-key", "revoke", "first"],
        &["api-key", "revoke", "0"],
        &["keyring", "generate"],
        &["keyring", "generate", "--inactive", "--file", "x"],
        &["keyring", "activate", "--file", "x"],
        &["keyring", "rotate", "--settle", "5"],
        &["keyring", "melt"],
        &["import", "sentry"],
        &["import", "symbolon", "file", "--with-secrets"],
        &["import", "myspace", "file"],
        &["export"],
        &["export", "--dry-run", "file"],
        &["completions"],
        &["completions", "cobol"],
        &["demo", "--listen", "0.0.0.0:8080"],
        &["demo", "--listen", "8080"],
        &["demo", "--sandbox-listen", "192.168.1.1:1"],
        &["demo", "--product-listen", "[::]:1"],
        &["demo", "--config", "x.toml"],
        &["serve", "--config"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.status, Some(2), "{arguments:?} {ran:?}");
        assert!(ran.err.contains("error: ") && ran.out.is_empty(), "{arguments:?} {ran:?}");
        assert!(!ran.err.contains('\u{1b}'), "colours without a terminal: {ran:?}");
    }
    assert!(place.files().is_empty());
}

#[test]
fn every_command_has_help_that_shows_how() {
    let place = Place::new();
    for arguments in [
        &["--help"][..],
        &["demo", "--help"],
        &["serve", "--help"],
        &["migrate", "--help"],
        &["api-key", "create", "--help"],
        &["api-key", "revoke", "--help"],
        &["keyring", "generate", "--help"],
        &["keyring", "rotate", "--help"],
        &["doctor", "--help"],
        &["import", "sentry", "--help"],
        &["import", "symbolon", "--help"],
        &["export", "--help"],
        &["completions", "--help"],
    ] {
        let out = place.run(arguments).done();
        let last = if arguments.len() == 1 { "" } else { arguments[arguments.len() - 2] };
        assert!(
            out.contains(
                &format!("symbolon {}", arguments[0].trim_matches('-').replace("help", ""))
                    .trim_end()
                    .to_owned()
            ),
            "{out}"
        );
        assert!(out.contains(last), "{out}");
        assert!(out.contains("xample") || arguments.len() == 1, "{arguments:?} {out}");
    }
    for arguments in [&["api-key", "list", "--help"], &["keyring", "status", "--help"]] {
        assert!(place.run(arguments).done().contains("--json"));
    }
    assert!(place.run(&["--version"]).done().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_written_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).done();
        assert!(script.contains("api-key") && script.contains("dry-run"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let place = Place::new();
    let mut child = place
        .command(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(err, "");
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    // A device that is always full.
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_symbolon"))
        .args(["completions", "bash"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the output"));
}

#[test]
fn nothing_starts_on_a_configuration_that_is_not_understood() {
    let place = Place::new();
    place.write("symbolon.toml", "[server]\nlisten = 'here'\n[servre]\n");
    for arguments in [
        &["serve"][..],
        &["migrate"],
        &["api-key", "list"],
        &["api-key", "create", "--name", "x", "--scope", "admin"],
        &["api-key", "revoke", "1"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(ran.err.contains("server.listen: expected an address and a port"), "{ran:?}");
        assert!(ran.err.contains("servre: is not a known key"), "{ran:?}");
        assert!(ran.err.contains("database.url: is missing"), "{ran:?}");
    }
    assert_eq!(place.files(), ["symbolon.toml"]);
}

#[test]
fn a_configuration_file_that_is_named_must_be_there() {
    let place = Place::new();
    place
        .run(&["serve", "--config", "missing.toml"])
        .failed("missing.toml: expected a configuration file in TOML");
    place.write("broken.toml", "[server\nclient_secret = 'canary'");
    let ran = place.run(&["--config", "broken.toml", "migrate"]);
    assert!(!ran.err.contains("canary"), "{ran:?}");
    ran.failed("broken.toml: line 1 is not TOML");
}

#[test]
fn a_provider_that_does_not_fit_its_type_is_told_by_its_key() {
    let place = Place::new();
    place.write(
        "symbolon.toml",
        "database.url = 'sqlite:x.db'\nkeyring.file = 'ring.json'\n\
         [[providers]]\ntype = 'oidc'\n[providers.config]\nissuer = 'http://plain.example'\n\
         client_id = 'x'\n\
         [[providers]]\ntype = 'myspace'\n",
    );
    let ran = place.run(&["serve"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.err.contains("providers[0].config.issuer: plain http is not allowed"), "{ran:?}");
    assert!(ran.err.contains("providers[1].type: is not a provider type"), "{ran:?}");
    assert_eq!(place.files(), ["symbolon.toml"]);
}
