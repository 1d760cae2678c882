//! Every type of the catalog against the sandbox in the shape of its provider, and what the trial
//! makes of entries that are wrong.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod trial;

use std::collections::BTreeSet;

use symbolon::trial::{Verdict, try_out};
use symbolon_oauth2::catalog::Catalog;
use symbolon_sandbox::shape::Shape;

/// Types that are code, and have a shape like the others.
const CODED: [&str; 2] = ["google", "oidc"];

/// How many tests share the catalog.
const PARTS: usize = 4;

async fn try_part(part: usize) {
    let own = Catalog::default();
    let mut wrong = Vec::new();
    for name in Shape::built_in_names().skip(part).step_by(PARTS) {
        let shape = Shape::built_in(name).unwrap().unwrap();
        let report = try_out(name, &own, shape).await.unwrap();
        let problems = report.findings.into_iter().filter(|it| it.verdict == Verdict::Problem);
        wrong.extend(problems.map(|it| format!("{name}: {}: {}", it.step, it.detail)));
    }
    assert!(wrong.is_empty(), "{} problems:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_types_fare_as_documented() {
    try_part(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_types_fare_as_documented() {
    try_part(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_types_fare_as_documented() {
    try_part(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fourth_types_fare_as_documented() {
    try_part(3).await;
}

#[test]
fn every_entry_has_a_shape_and_every_shape_a_type() {
    let entries = Catalog::built_in();
    let entries: BTreeSet<&str> = entries.names().chain(CODED).collect();
    let shapes: BTreeSet<&str> = Shape::built_in_names().collect();
    assert_eq!(entries, shapes);
}
