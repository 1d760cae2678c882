//! docs/sentry-parity.md names tests that are there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Least rows that the page has: a page that was cut short proves nothing.
const LEAST_ROWS: usize = 120;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).unwrap().to_owned()
}

/// Every Rust file under this folder.
fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// What is between backticks and has the form `crate::file::name`.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|it| it.contains("::"))
}

/// Why this is no test of the tree; `None` when it is one.
fn problem(name: &str) -> Option<String> {
    let parts: Vec<_> = name.split("::").collect();
    let [package, .., file, function] = parts.as_slice() else {
        return Some(format!("{name} is not crate::file::name"));
    };
    let folder = match *package {
        "e2e" => workspace().join("tests/e2e"),
        package => workspace().join("crates").join(package),
    };
    let mut files = Vec::new();
    rust_files(&folder, &mut files);
    let signature = format!("fn {function}(");
    let there = files
        .iter()
        .filter(|path| path.file_stem().is_some_and(|it| it == *file))
        .any(|path| fs::read_to_string(path).unwrap().contains(&signature));
    (!there).then(|| format!("{name} is not there"))
}

#[test]
fn every_row_of_the_parity_page_names_a_test_that_is_there_or_says_why_none() {
    let page = fs::read_to_string(workspace().join("docs/sentry-parity.md")).unwrap();
    let (mut problems, mut rows, mut names) = (Vec::new(), 0, BTreeSet::new());
    for line in page.lines().filter(|it| it.starts_with("| ")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [rule, _, _, test] = cells.as_slice() else {
            problems.push(format!("not four cells: {line}"));
            continue;
        };
        if matches!(*test, "test" | "---") {
            continue;
        }
        rows += 1;
        let tests: Vec<_> = named(test).collect();
        if tests.is_empty() && !test.starts_with("not yet: ") && !test.starts_with("none: ") {
            problems.push(format!("{rule}: names no test and does not say why"));
        }
        names.extend(tests);
    }
    names.extend(named(&page).filter(|it| !it.contains('…')));
    names.remove("crate::file::name");
    names.remove("e2e::parity");
    problems.extend(names.iter().filter_map(|it| problem(it)));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(rows >= LEAST_ROWS, "{rows} rows");
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert_eq!(problem("e2e::parity::a_test_that_is_not_there_is_missed"), None);
    for wrong in [
        "e2e::parity::a_test_that_nobody_wrote",
        "e2e::service::a_test_that_is_not_there_is_missed",
        "nowhere::parity::a_test_that_is_not_there_is_missed",
        "parity",
    ] {
        assert!(problem(wrong).is_some(), "{wrong}");
    }
}
