//! How PostgreSQL finds what a list asks for: by an index, and without reading past it.

use diesel::{
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::Text,
};
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _,
};
use symbolon_domain::{
    identity::{IdentityFilter, IdentityStatus},
    ids::{ExternalId, IdentityId, OrganizationId, ProviderId, UserId},
    page::PageRequest,
    testing::TestSealer,
};
use symbolon_test_postgres::TestDatabase;

use super::identities::{list_parts, list_query};
use crate::settings::DatabaseSettings;

/// A query's plan and what became of it.
struct Explain<Q>(Q);

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Explain<Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> diesel::QueryResult<()> {
        out.push_sql("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ");
        self.0.walk_ast(out.reborrow())
    }
}

impl<Q> QueryId for Explain<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q> Query for Explain<Q> {
    type SqlType = Text;
}

/// Users of the table below.
const USERS: u32 = 40_000;

/// 200,000 identities of 40,000 users at 1,025 instances of five types, in the order in which an
/// import brings them: type by type. `rare` has 30 of them, at the end; every thousandth user's are
/// invalid.
const ROWS: &str = "
    INSERT INTO identity_providers (provider_type, external_id, config, secret_names, date_added, version)
    SELECT kind, name, '{}'::jsonb, '[]'::jsonb, now(), 1 FROM (
        VALUES ('google', NULL), ('github', NULL)
        UNION ALL SELECT 'gitlab', 'gitlab-' || n FROM generate_series(1, 20) n
        UNION ALL SELECT 'slack', 'T' || n FROM generate_series(1, 1000) n
        UNION ALL SELECT 'rare', 'T' || n FROM generate_series(1, 3) n
    ) AS it (kind, name);
    INSERT INTO identities (idp_id, user_id, external_id, data, status, scopes, date_verified,
        date_added, version, generation, attempt, unanswered, failures)
    SELECT CASE k WHEN 0 THEN 1 WHEN 1 THEN 2 WHEN 2 THEN 3 + u % 20 WHEN 3 THEN 23 + u % 1000
            ELSE 23 + (u + 500) % 1000 END,
        'user-' || u, 'account-' || k || '-' || u, '{}'::jsonb,
        CASE WHEN u % 1000 = 0 THEN 'invalid' ELSE 'valid' END, '[]'::jsonb, now(), now(), 1, 0, 0, 0, 0
    FROM generate_series(0, 4) k, generate_series(1, 40000) u;
    INSERT INTO identities (idp_id, user_id, external_id, data, status, scopes, date_verified,
        date_added, version, generation, attempt, unanswered, failures)
    SELECT 1023 + u % 3, 'user-' || u, 'rare-' || u, '{}'::jsonb, 'valid', '[]'::jsonb, now(), now(),
        1, 0, 0, 0, 0
    FROM generate_series(1, 30) u;
    INSERT INTO organization_identities (organization_id, identity_id, date_added)
    SELECT 'organization-' || id % 5000, id, now() FROM identities WHERE id <= 100000;
    ANALYZE";

/// Most rows of `identities` that a page of 50 may look at.
const MOST_ROWS: u64 = 1000;

/// How often identities were read, kept or not, in a plan.
fn rows_read(plan: &[String]) -> u64 {
    let number = |line: &str, after: &str| -> u64 {
        let digits = line.split_once(after).map(|(_, rest)| rest).unwrap_or_default();
        digits
            .split(|it: char| !it.is_ascii_digit() && it != '.')
            .next()
            .and_then(|it| it.parse::<f64>().ok())
            .map_or(0, |it| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a count of rows"
                )]
                let whole = it.ceil() as u64;
                whole
            })
    };
    let (mut sum, mut at_identities, mut loops) = (0, false, 1);
    for line in plan {
        if line.contains("actual rows") {
            at_identities = line.contains(" on identities ") || line.contains(" on identities_");
            loops = number(line, "loops=").max(1);
            if at_identities {
                sum += number(line, "actual rows=") * loops;
            }
        } else if at_identities && line.contains("Rows Removed by") {
            sum += number(line, ": ") * loops;
        }
    }
    sum
}

fn any() -> IdentityFilter {
    IdentityFilter::default()
}

fn user(number: u32) -> Option<UserId> {
    UserId::new(format!("user-{number}")).ok()
}

/// Every filter that matters, alone and with those that it is used with.
fn filters() -> Vec<IdentityFilter> {
    let account = |text: &str| ExternalId::new(text).ok();
    let of_type = |text: &str| IdentityFilter { provider_type: Some(text.to_owned()), ..any() };
    let at = |id: i64| IdentityFilter { provider_id: Some(ProviderId(id)), ..any() };
    let in_state = |status| IdentityFilter { status: Some(status), ..any() };
    let named =
        |text: &str| IdentityFilter { provider_external_id: Some(text.to_owned()), ..any() };
    let used_by = |number: u32| IdentityFilter {
        organization_id: OrganizationId::new(format!("organization-{number}")).ok(),
        ..any()
    };
    let unnamed = IdentityFilter { provider_has_no_external_id: true, ..any() };
    let mut filters = vec![
        IdentityFilter { id: Some(IdentityId(77)), ..any() },
        IdentityFilter { user_id: user(777), ..any() },
        IdentityFilter { external_id: account("account-0-5"), ..any() },
        IdentityFilter {
            external_ids: Some(
                (1..50).filter_map(|it| account(&format!("account-1-{it}"))).collect(),
            ),
            ..any()
        },
        at(1),
        at(30),
        named("T7"),
        named("T3"),
        named("nobody"),
        unnamed.clone(),
        in_state(IdentityStatus::Invalid),
        in_state(IdentityStatus::Valid),
        in_state(IdentityStatus::Unknown),
        used_by(7),
        IdentityFilter { user_id: user(777), ..used_by(7) },
        IdentityFilter { user_id: user(777), provider_type: Some("slack".into()), ..used_by(7) },
        IdentityFilter { provider_id: Some(ProviderId(1)), ..in_state(IdentityStatus::Invalid) },
        IdentityFilter { provider_id: Some(ProviderId(30)), ..in_state(IdentityStatus::Invalid) },
        IdentityFilter { exclude_matching_external_ids: true, ..at(30) },
    ];
    for kind in ["google", "gitlab", "slack", "rare", "nobody"] {
        filters.extend([
            of_type(kind),
            IdentityFilter { user_id: user(777), ..of_type(kind) },
            IdentityFilter {
                user_id: user(777),
                exclude_matching_external_ids: true,
                ..of_type(kind)
            },
            IdentityFilter { external_id: account("account-0-5"), ..of_type(kind) },
            IdentityFilter { status: Some(IdentityStatus::Invalid), ..of_type(kind) },
            IdentityFilter { status: Some(IdentityStatus::Valid), ..of_type(kind) },
            IdentityFilter { provider_external_id: Some("T3".into()), ..of_type(kind) },
        ]);
    }
    for user_id in [user(7), user(777)] {
        filters.extend([
            IdentityFilter { user_id: user_id.clone(), ..at(1) },
            IdentityFilter { user_id: user_id.clone(), ..named("T7") },
            IdentityFilter { user_id: user_id.clone(), ..unnamed.clone() },
            IdentityFilter { user_id, ..in_state(IdentityStatus::Valid) },
        ]);
    }
    filters
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_found_by_an_index_and_reads_little_more_than_it_answers() {
    let database = TestDatabase::create().await.unwrap();
    let settings = DatabaseSettings::new(database.url());
    let sealer = std::sync::Arc::new(TestSealer::default());
    crate::open(&settings, sealer).await.unwrap().migrate().await.unwrap();
    let mut conn = AsyncPgConnection::establish(database.url()).await.unwrap();
    conn.batch_execute(ROWS).await.unwrap();

    let mut problems = Vec::new();
    for filter in filters() {
        let parts = list_parts(&mut conn, &filter).await.unwrap();
        assert!(parts.len() <= 5, "{filter:?} has {} parts", parts.len());
        for part in parts {
            for after in [None, Some(i64::from(USERS) * 3)] {
                let page = PageRequest { limit: 50, after };
                let plan: Vec<String> =
                    Explain(list_query(&part, page)).load(&mut conn).await.unwrap();
                let read = rows_read(&plan);
                if plan.iter().any(|it| it.contains("Seq Scan on identities")) || read > MOST_ROWS {
                    problems.push(format!(
                        "{part:?} after {after:?}: {read} rows\n{}",
                        plan.join("\n")
                    ));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    // The count is one that finds what is read in vain.
    let scan = "SELECT * FROM identities WHERE data = '1'::jsonb";
    let plan: Vec<String> = Explain(diesel::dsl::sql::<Text>(scan)).load(&mut conn).await.unwrap();
    assert!(rows_read(&plan) >= 200_000, "{}", plan.join("\n"));
}
