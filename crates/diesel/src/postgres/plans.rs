//! How PostgreSQL finds what a list asks for: by an index, and without reading past it.

use std::collections::HashSet;

use diesel::{
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::Text,
};
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _,
};
use symbolon_domain::{
    event::EventKind,
    identity::{IdentityFilter, IdentityStatus},
    ids::{AuthProviderId, EventId, ExternalId, IdentityId, OrganizationId, ProviderId, UserId},
    page::PageRequest,
    ports::{AuthIdentityFilter, EventFilter, OrganizationIdentityFilter},
    testing::TestSealer,
};
use symbolon_test_postgres::TestDatabase;

use super::{
    auth_identities, events,
    identities::{list_parts, list_query},
    organization_identities,
};
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

/// Whether a plan goes through all rows of a table, one after the other.
fn reads_all(plan: &[String], table: &str) -> bool {
    let scan = format!("Seq Scan on {table}");
    plan.iter().any(|it| {
        let after = it.split_once(&scan).map(|(_, rest)| rest);
        after.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    })
}

/// How often rows of a table were read, kept or not, in a plan.
fn rows_read(plan: &[String], table: &str) -> u64 {
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
    // The table, and the indexes that are named after it.
    let names = [format!(" on {table} "), format!(" on {table}_")];
    let (mut sum, mut at_table, mut loops) = (0, false, 1);
    for line in plan {
        if line.contains("actual rows") {
            at_table = names.iter().any(|it| line.contains(it));
            loops = number(line, "loops=").max(1);
            if at_table {
                sum += number(line, "actual rows=") * loops;
            }
        } else if at_table && line.contains("Rows Removed by") {
            sum += number(line, ": ") * loops;
        }
    }
    sum
}

fn user(number: u32) -> Option<UserId> {
    UserId::new(format!("user-{number}")).ok()
}

fn account(text: &str) -> Option<ExternalId> {
    ExternalId::new(text).ok()
}

fn organization(number: u32) -> Option<OrganizationId> {
    OrganizationId::new(format!("organization-{number}")).ok()
}

fn texts(types: &[&str]) -> Vec<String> {
    types.iter().map(|it| (*it).to_owned()).collect()
}

/// One value of each condition; how many rows each means by itself is in the name.
fn values() -> [(&'static str, IdentityFilter); 4] {
    // All of them name one identity: user 777's at gitlab-18.
    let names = (1..50).filter_map(|it| account(&format!("account-2-{}", it + 750))).collect();
    let same = IdentityFilter {
        id: Some(IdentityId(80_777)),
        user_id: user(777),
        external_id: account("account-2-777"),
        external_ids: Some(names),
        provider_id: Some(ProviderId(20)),
        provider_external_id: Some("gitlab-18".into()),
        provider_has_no_external_id: false,
        provider_type: Some("gitlab".into()),
        provider_types: Some(texts(&["gitlab", "rare", "github"])),
        providers: None,
        organization_id: organization(777),
        status: Some(IdentityStatus::Valid),
        exclude_matching_external_ids: true,
    };
    // As many as a condition can mean, and nothing in common.
    let many = IdentityFilter {
        id: Some(IdentityId(77)),
        user_id: user(7),
        external_id: account("account-0-5"),
        external_ids: Some((1..50).filter_map(|it| account(&format!("account-1-{it}"))).collect()),
        provider_id: Some(ProviderId(1)),
        provider_external_id: None,
        provider_has_no_external_id: true,
        provider_type: Some("slack".into()),
        provider_types: Some(texts(&["google", "slack"])),
        providers: None,
        organization_id: organization(7),
        status: Some(IdentityStatus::Valid),
        exclude_matching_external_ids: true,
    };
    let few = IdentityFilter {
        id: Some(IdentityId(200_005)),
        user_id: user(5),
        external_id: account("rare-5"),
        external_ids: Some(vec![ExternalId::new("rare-5").unwrap()]),
        provider_id: Some(ProviderId(1025)),
        provider_external_id: Some("T3".into()),
        provider_has_no_external_id: false,
        provider_type: Some("rare".into()),
        provider_types: Some(texts(&["rare"])),
        providers: None,
        organization_id: organization(5),
        status: Some(IdentityStatus::Invalid),
        exclude_matching_external_ids: true,
    };
    let none = IdentityFilter {
        id: Some(IdentityId(4_000_000)),
        user_id: user(4_000_000),
        external_id: account("nobody"),
        external_ids: Some(Vec::new()),
        provider_id: Some(ProviderId(4_000_000)),
        provider_external_id: Some("nobody".into()),
        provider_has_no_external_id: false,
        provider_type: Some("nobody".into()),
        provider_types: Some(texts(&["nobody"])),
        providers: None,
        organization_id: organization(4_000_000),
        status: Some(IdentityStatus::Unknown),
        exclude_matching_external_ids: true,
    };
    [("the same", same), ("many", many), ("few", few), ("none", none)]
}

/// The conditions that are in this set of bits.
fn chosen(values: &IdentityFilter, set: u32) -> IdentityFilter {
    // Exhaustive: a condition that is added later is to be chosen here too.
    let IdentityFilter {
        id,
        user_id,
        external_id,
        external_ids,
        provider_id,
        provider_external_id,
        provider_has_no_external_id,
        provider_type,
        provider_types,
        // What keys are limited to is tried with each other condition by [`filters`].
        providers,
        organization_id,
        status,
        exclude_matching_external_ids,
    } = values.clone();
    let mut bit = 0;
    let mut is_in = || {
        bit += 1;
        set & (1 << (bit - 1)) != 0
    };
    let by_name = is_in();
    IdentityFilter {
        id: id.filter(|_| is_in()),
        user_id: user_id.filter(|_| is_in()),
        external_id: external_id.filter(|_| is_in()),
        external_ids: external_ids.filter(|_| is_in()),
        provider_id: provider_id.filter(|_| is_in()),
        provider_external_id: provider_external_id.filter(|_| by_name),
        provider_has_no_external_id: provider_has_no_external_id && by_name,
        provider_type: provider_type.filter(|_| is_in()),
        provider_types: provider_types.filter(|_| is_in()),
        providers,
        organization_id: organization_id.filter(|_| is_in()),
        status: status.filter(|_| is_in()),
        exclude_matching_external_ids: exclude_matching_external_ids && is_in(),
    }
}

/// How many conditions [`chosen`] chooses from.
const CONDITIONS: u32 = 11;

/// Every condition alone and with every set of the others, with values that few rows have and that
/// many have; and what is worth trying besides.
fn filters() -> Vec<IdentityFilter> {
    let mut filters: Vec<_> = values()
        .iter()
        .flat_map(|(_, values)| (0..1 << CONDITIONS).map(|set| chosen(values, set)))
        .filter(|it| !it.is_empty())
        .collect();
    let any = IdentityFilter::default;
    for (_, values) in values() {
        for bit in 0..CONDITIONS {
            for limits in [&[20][..], &[1, 1025], &[1, 2, 20], &[4_000_000]] {
                let providers = Some(limits.iter().map(|it| ProviderId(*it)).collect());
                filters.push(IdentityFilter { providers, ..chosen(&values, 1 << bit) });
            }
        }
    }
    for kind in ["google", "gitlab", "slack", "rare", "nobody"] {
        for status in [IdentityStatus::Valid, IdentityStatus::Invalid, IdentityStatus::Unknown] {
            let types = Some(texts(&[kind, "rare"]));
            filters.extend([
                IdentityFilter { provider_type: Some(kind.into()), status: Some(status), ..any() },
                IdentityFilter { provider_types: types, status: Some(status), ..any() },
            ]);
        }
    }
    filters.extend(
        ["T3", "T7", "nobody"]
            .map(|name| IdentityFilter { provider_external_id: Some(name.into()), ..any() }),
    );
    filters
}

/// A database of its own with these rows.
async fn filled(rows: &str) -> (TestDatabase, AsyncPgConnection) {
    let database = TestDatabase::create().await.unwrap();
    let settings = DatabaseSettings::new(database.url());
    let sealer = std::sync::Arc::new(TestSealer::default());
    crate::open(&settings, sealer).await.unwrap().migrate().await.unwrap();
    let mut conn = AsyncPgConnection::establish(database.url()).await.unwrap();
    conn.batch_execute(rows).await.unwrap();
    (database, conn)
}

/// The plan of a query.
macro_rules! plan_of {
    ($conn:expr, $query:expr) => {{
        let plan: Vec<String> = Explain($query).load($conn).await.unwrap();
        plan
    }};
}

#[test]
fn every_set_of_conditions_is_tried() {
    for (name, values) in values() {
        let all: Vec<_> = (0..1 << CONDITIONS).map(|set| chosen(&values, set)).collect();
        assert_eq!(all.last(), Some(&values), "{name}");
        let different = all.iter().map(|it| format!("{it:?}"));
        assert_eq!(different.collect::<HashSet<_>>().len(), all.len(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_found_by_an_index_and_reads_little_more_than_it_answers() {
    let (_database, mut conn) = filled(ROWS).await;
    let mut problems = Vec::new();
    let mut looked_at = HashSet::new();
    for filter in filters() {
        let parts = list_parts(&mut conn, &filter).await.unwrap();
        assert!(parts.len() <= 5, "{filter:?} has {} parts", parts.len());
        for part in parts {
            if !looked_at.insert(format!("{part:?}")) {
                continue;
            }
            for after in [None, Some(i64::from(USERS) * 3)] {
                let page = PageRequest { limit: 50, after };
                let plan = plan_of!(&mut conn, list_query(&part, page));
                let read = rows_read(&plan, "identities");
                if reads_all(&plan, "identities") || read > MOST_ROWS {
                    problems.push(format!(
                        "{part:?} after {after:?}: {read} rows\n{}",
                        plan.join("\n")
                    ));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n\n"));
    // The count is one that finds what is read in vain.
    let scan = "SELECT * FROM identities WHERE data = '1'::jsonb";
    let plan = plan_of!(&mut conn, diesel::dsl::sql::<Text>(scan));
    assert!(rows_read(&plan, "identities") >= 200_000, "{}", plan.join("\n"));
    assert!(reads_all(&plan, "identities"));
}

/// 200,000 events of three kinds, one of them rare, about 20,000 identities and users, 100 provider
/// instances and 1,000 organizations.
const EVENTS: &str = "
    INSERT INTO events (seq, at, kind, actor, identity_id, provider_id, user_id, organization_id, detail)
    SELECT n, now(), CASE WHEN n % 5000 = 0 THEN 'identity.invalidated' WHEN n % 2 = 0
            THEN 'identity.refreshed' ELSE 'identity.linked' END,
        'operator', 1 + n % 20000, 1 + n % 100, 'user-' || n % 20000,
        CASE WHEN n % 4 = 0 THEN 'organization-' || n % 1000 END, '{}'::jsonb
    FROM generate_series(1, 200000) n;
    ANALYZE";

#[tokio::test(flavor = "multi_thread")]
async fn every_look_into_the_event_log_is_found_by_an_index() {
    let (_database, mut conn) = filled(EVENTS).await;
    let mut problems = Vec::new();
    let kinds = [
        vec![],
        vec![EventKind::IdentityLinked],
        vec![EventKind::IdentityInvalidated],
        vec![EventKind::IdentityLinked, EventKind::IdentityInvalidated],
        vec![EventKind::GrantRevoked, EventKind::IdentityInvalidated],
    ];
    for (kinds, set) in kinds.iter().flat_map(|it| (0..1_u32 << 5).map(move |set| (it, set))) {
        for number in [400_u32, 4_000_000] {
            let is_in = |bit: u32| set & (1 << bit) != 0;
            let filter = EventFilter {
                kinds: kinds.clone(),
                identity_id: is_in(0).then_some(IdentityId(i64::from(number) + 1)),
                provider_id: is_in(1).then_some(ProviderId(i64::from(number % 100) + 1)),
                user_id: user(number).filter(|_| is_in(2)),
                organization_id: organization(number % 1000).filter(|_| is_in(3)),
                after: is_in(4).then_some(EventId(150_000)),
            };
            // What is about one thing is found among its own; the rest is read in the order of the
            // log, and a kind that is rare by its index.
            let narrow = filter.identity_id.is_some() || filter.user_id.is_some();
            let page = PageRequest { limit: 50, after: None };
            // Leaked, as a query borrows its filter for as long as it lives: a few hundred.
            let filter: &'static EventFilter = Box::leak(Box::new(filter));
            let listed = plan_of!(&mut conn, events::list_query(filter, page));
            let last = plan_of!(&mut conn, events::last_query(filter));
            for plan in [listed, last] {
                let read = rows_read(&plan, "events");
                if reads_all(&plan, "events") || (narrow && read > MOST_ROWS) {
                    let plan = plan.join("\n");
                    problems.push(format!("{filter:?}: {read} rows\n{plan}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n\n"));
}

/// 5,000 organizations that sign in with one of 50 provider instances, each with 20 accounts of
/// 10,000 users, and as many identities that they use.
const ACCOUNTS: &str = "
    INSERT INTO identity_providers (provider_type, external_id, config, secret_names, date_added, version)
    SELECT CASE WHEN n = 50 THEN 'rare' ELSE 'oidc' END, 'p' || n, '{}'::jsonb, '[]'::jsonb, now(), 1
    FROM generate_series(1, 50) n;
    INSERT INTO auth_providers (organization_id, provider_id, config, allow_unlinked, scim_enabled,
        default_global_access, date_added, version)
    SELECT 'organization-' || n, 1 + n % 50, '{}'::jsonb, true, false, true, now(), 1
    FROM generate_series(0, 4999) n;
    INSERT INTO auth_identities (auth_provider_id, user_id, ident, data, last_verified, last_synced,
        date_added, version, generation)
    SELECT id, 'user-' || (id * 20 + k) % 10000, 'ident-' || (id * 20 + k) % 30000, '{}'::jsonb, now(),
        now(), now(), 1, 0
    FROM auth_providers, generate_series(0, 19) k;
    INSERT INTO identities (idp_id, user_id, external_id, data, status, scopes, date_verified,
        date_added, version, generation, attempt, unanswered, failures)
    SELECT CASE WHEN n % 5000 = 0 THEN 50 ELSE 1 + n % 49 END, 'user-' || n, 'account-' || n,
        '{}'::jsonb, 'valid', '[]'::jsonb, now(), now(), 1, 0, 0, 0, 0
    FROM generate_series(1, 100000) n;
    INSERT INTO organization_identities (organization_id, identity_id, date_added)
    SELECT 'organization-' || id % 5000, id, now() FROM identities;
    ANALYZE";

#[tokio::test(flavor = "multi_thread")]
async fn every_list_of_single_sign_on_is_found_by_an_index() {
    let (_database, mut conn) = filled(ACCOUNTS).await;
    let mut problems = Vec::new();
    let pages = [None, Some(50_000)].map(|after| PageRequest { limit: 50, after });
    for (set, number) in (1..1_u32 << 5).flat_map(|set| [(set, 7), (set, 4_000_000)]) {
        let is_in = |bit: u32| set & (1 << bit) != 0;
        let filter = AuthIdentityFilter {
            organization_id: organization(number).filter(|_| is_in(0)),
            auth_provider_id: is_in(1).then_some(AuthProviderId(i64::from(number) + 1)),
            provider_id: is_in(2).then_some(ProviderId(i64::from(number) + 1)),
            user_id: user(number).filter(|_| is_in(3)),
            ident: account(&format!("ident-{number}")).filter(|_| is_in(4)),
        };
        let filter: &'static AuthIdentityFilter = Box::leak(Box::new(filter));
        for page in pages {
            let plan = plan_of!(&mut conn, auth_identities::list_query(filter, page));
            let read = rows_read(&plan, "auth_identities");
            // One provider's accounts are read by their id order; nobody lists them so.
            let wide = set == 1 << 2;
            if reads_all(&plan, "auth_identities") || (!wide && read > MOST_ROWS) {
                problems.push(format!("{filter:?}: {read} rows\n{}", plan.join("\n")));
            }
        }
    }
    for (set, number) in (1..1_u32 << 3).flat_map(|set| [(set, 7), (set, 4_000_000)]) {
        for types in [&["oidc"][..], &["rare"], &["nobody"], &["oidc", "rare"]] {
            let is_in = |bit: u32| set & (1 << bit) != 0;
            if set == 1 << 2 {
                // The limits of a key narrow nothing by themselves: there is an organization too.
                continue;
            }
            let filter = OrganizationIdentityFilter {
                organization_id: organization(number).filter(|_| is_in(0)),
                identity_id: is_in(1).then_some(IdentityId(i64::from(number))),
                provider_types: Some(texts(types)).filter(|_| is_in(2)),
            };
            let filter: &'static OrganizationIdentityFilter = Box::leak(Box::new(filter));
            for page in pages {
                let query = organization_identities::list_query(filter, page);
                let plan = plan_of!(&mut conn, query);
                for table in ["organization_identities", "identities"] {
                    let read = rows_read(&plan, table);
                    if reads_all(&plan, table) || read > MOST_ROWS {
                        problems.push(format!("{filter:?}: {read} rows\n{}", plan.join("\n")));
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n\n"));
}
