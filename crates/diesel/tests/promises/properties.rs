//! Random operations of two callers at the same time: no rule breaks, whoever is first.

use std::sync::Arc;

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use symbolon_domain::testing::{
    contract::Store,
    properties::{Op, at_once},
};

use crate::bench::{SqliteFile, migrated_database, store_on_postgres, store_on_sqlite};

/// Each case has a database of its own.
const CASES: u32 = 12;

fn holds<S, T, F>(empty_store: S)
where
    S: Fn() -> F,
    F: Future<Output = (Arc<dyn Store>, T)>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 64,
        ..ProptestConfig::default()
    };
    let pair = any::<([u8; 4], [u8; 4])>()
        .prop_map(|(one, other)| (Op::from_bytes(one), Op::from_bytes(other)));
    let steps = prop::collection::vec(pair, 1..20);
    let result = TestRunner::new(config).run(&steps, |steps| {
        let run = runtime.block_on(async {
            let (store, _outlives_it) = empty_store().await;
            tokio::spawn(async move { at_once(&store, &steps).await }).await
        });
        run.map_err(|panic| TestCaseError::fail(panic.to_string()))
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn nothing_that_two_callers_do_at_once_breaks_a_rule_on_sqlite() {
    holds(|| async {
        let file = SqliteFile::create().await;
        let store: Arc<dyn Store> = Arc::new(store_on_sqlite(&file).await);
        (store, file)
    });
}

#[test]
fn nothing_that_two_callers_do_at_once_breaks_a_rule_on_postgres() {
    holds(|| async {
        let (database, settings) = migrated_database().await;
        let store: Arc<dyn Store> = Arc::new(store_on_postgres(&settings).await);
        (store, database)
    });
}
