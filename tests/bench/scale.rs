//! `make bench-data`: how long lists and deletions take while the tables grow.
//!
//! It asks the ports, not HTTP, so that the figures are those of the store and its database. All
//! callers share this machine's cores with the database.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use symbolon_diesel::{Database, DatabaseSettings};
use symbolon_domain::{
    event::Actor,
    identity::{IdentityFilter, IdentityStatus},
    ids::{ExternalId, IdentityId, OrganizationId, ProviderId, UserId},
    page::PageRequest,
    ports::{Place, SealError, Sealer},
};
use symbolon_test_postgres::Cluster;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use zeroize::Zeroizing;

use crate::{load::Load, rows_or, write_between_marks};

/// As many as the pool has connections.
const CALLERS: u64 = 32;
/// How long each measurement takes, after a warm-up.
const MEASURE: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);
/// How many identities there are in the end, unless `SYMBOLON_BENCH_ROWS` says less.
const ROWS: u64 = 5_000_000;
/// Rows of one statement of the generator.
const STEP: u64 = 500_000;
/// Questions a second of all callers together where they pause.
const RATE: u64 = 1000;
/// The p99 that is aimed at, in milliseconds.
const AIM: f64 = 5.0;

/// One user in so many has an account at the rare provider.
const RARE: u64 = 1000;
/// Each user's identities, each at another provider.
const EACH: u64 = 5;
const ORGANIZATIONS: u64 = 1000;
/// Provider instances: type and external id; the ids are the places from 1. The last is rare.
const PROVIDERS: [(&str, Option<&str>); 10] = [
    ("github", None),
    ("github", Some("github.example")),
    ("gitlab", Some("gitlab.example")),
    ("gitlab", Some("git.example:team")),
    ("slack", Some("T0001")),
    ("slack", Some("T0002")),
    ("slack", Some("T0003")),
    ("google", None),
    ("google", Some("example.com")),
    ("vsts", Some("rare.example")),
];
/// Those that are not.
const COMMON: u64 = PROVIDERS.len() as u64 - 1;

/// Measures at a hundredth, a tenth and all of the rows, and writes the figures.
pub(crate) async fn measure(report: &Path) {
    let rows = rows_or(ROWS);
    let sizes = [rows / 100, rows / 10, rows].map(|it| it.next_multiple_of(EACH));
    // Not one in a static, which would leave its files behind.
    let cluster = Cluster::start().unwrap();
    let settings = DatabaseSettings { max_connections: 32, ..DatabaseSettings::new(cluster.url()) };
    let database = symbolon_diesel::open(&settings, Arc::new(NoSealer)).await.unwrap();
    database.migrate().await.unwrap();
    let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    set_up(&client).await;

    let mut cells: Vec<Vec<String>> = vec![Vec::new(); QUESTIONS.len() + 1];
    let mut last = Vec::new();
    let mut filled = 0;
    for size in sizes {
        fill(&client, filled + 1, size).await;
        for (question, cells) in QUESTIONS.iter().zip(&mut cells) {
            eprintln!("{size} identities: {} …", question.name);
            ask(&database, question, size, Callers::pausing_never(CALLERS), WARM_UP).await;
            let (load, _) =
                ask(&database, question, size, Callers::pausing_never(CALLERS), MEASURE).await;
            cells.push(cell(&load));
        }
        // Whose accounts have been there since this step, and so are all still there.
        let users = filled / EACH + 1..size / EACH + 1;
        eprintln!("{size} identities: delete_identities …");
        cells[QUESTIONS.len()].push(cell(&delete(&database, users).await));
        filled = size;
    }
    for question in QUESTIONS {
        eprintln!("one caller, and {RATE} questions a second: {} …", question.name);
        let one = Callers::pausing_never(1);
        let (alone, found) = ask(&database, question, filled, one, Duration::from_secs(1)).await;
        let steady =
            Callers { count: CALLERS, every: Duration::from_millis(CALLERS * 1000 / RATE) };
        let (steady, _) = ask(&database, question, filled, steady, MEASURE).await;
        let p99 = percentile(&steady);
        last.push(format!("{p99} | {:.2} ms | {found:.1}", alone.percentile_ms(0.50)));
    }
    last.push("not measured | not measured | 1.0".to_owned());
    let text = table(sizes, &cells, &last);
    println!("{text}");
    write_between_marks(
        report,
        "<!-- figures: make bench-data -->\n",
        "<!-- end of data figures -->",
        &text,
    );
    drop((database, client));
    // It ends because its client has; how says nothing.
    let _ = connection.await;
}

fn table(sizes: [u64; 3], cells: &[Vec<String>], last: &[String]) -> String {
    let [small, middle, all] = sizes.map(thousands);
    let mut text = format!(
        "| asked | of {small} identities | of {middle} | of {all} | p99 at {RATE}/s | one caller, p50 | rows |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    let names = QUESTIONS.iter().map(|it| it.name);
    let names = names.chain(["`delete_identities`: a user, an organization"]);
    for ((name, cells), last) in names.zip(cells).zip(last) {
        writeln!(text, "| {name} | {} | {last} |", cells.join(" | ")).unwrap();
    }
    text
}

/// `p50 / p99, rate`; a p99 that misses the aim stands out.
fn cell(load: &Load) -> String {
    format!("{:.1} / {}, {:.0}/s", load.percentile_ms(0.50), percentile(load), load.per_second())
}

fn percentile(load: &Load) -> String {
    let p99 = load.percentile_ms(0.99);
    if p99 > AIM { format!("**{p99:.1}** ms") } else { format!("{p99:.1} ms") }
}

pub(crate) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Nothing here is sealed or opened: the rows' credentials are bytes of a usual length.
struct NoSealer;

impl Sealer for NoSealer {
    fn seal(&self, _: &Place, _: &[u8]) -> Result<Vec<u8>, SealError> {
        Err(SealError::Refused)
    }

    fn open(&self, _: &Place, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        Err(SealError::Refused)
    }

    fn key_id(&self, _: &[u8]) -> Option<u32> {
        None
    }

    fn mark(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// The provider instances and the organizations' single sign-on.
async fn set_up(client: &Client) {
    for (nth, (provider_type, external_id)) in PROVIDERS.iter().enumerate() {
        let sql = "INSERT INTO identity_providers (id, provider_type, external_id, config, \
                   secret_names, date_added, version) VALUES ($1, $2, $3, '{}', '[]', now(), 1)";
        let id = i64::try_from(nth + 1).unwrap();
        client.execute(sql, &[&id, provider_type, external_id]).await.unwrap();
    }
    let sql = format!(
        "INSERT INTO auth_providers (id, organization_id, provider_id, config, allow_unlinked, \
         scim_enabled, default_global_access, date_added, version) \
         SELECT n, 'org-' || n, n % {COMMON} + 1, '{{}}', TRUE, FALSE, TRUE, now(), 1 \
         FROM generate_series(1, {ORGANIZATIONS}) n"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// Writes the identities `from` to `to`, and the accounts of their users for single sign-on.
///
/// User `u` has the identities `5u - 4` to `5u`, each of the account `account-u`, and one account
/// for the organization `u % 1000 + 1`.
async fn fill(client: &Client, from: u64, to: u64) {
    let started = Instant::now();
    let mut first = from;
    while first <= to {
        let last = to.min(first + STEP - 1);
        let sql = format!(
            "INSERT INTO identities (id, idp_id, user_id, external_id, data, status, \
             invalid_reason, invalid_at, scopes, date_verified, date_added, expires_at, version, \
             credentials, generation, attempt, unanswered, failures) \
             SELECT n, CASE WHEN k = 0 AND u % {RARE} = 0 THEN {rare} \
             ELSE (u + 2 * k) % {COMMON} + 1 END, u::text, 'account-' || u, \
             jsonb_build_object('name', 'User ' || u, 'email', 'user-' || u || '@example.com'), \
             CASE WHEN invalid THEN 'invalid' ELSE 'valid' END, \
             CASE WHEN invalid THEN 'grant_rejected' END, CASE WHEN invalid THEN now() END, \
             '[\"read:user\", \"user:email\"]', now(), now(), now(), 1, \
             decode(repeat(md5(n::text), 12), 'hex'), 1, 0, 0, 0 \
             FROM (SELECT n, (n - 1) / {EACH} + 1 AS u, (n - 1) % {EACH} AS k, \
             (hashint8(n) & 2147483647) % 100 = 0 AS invalid \
             FROM generate_series({first}::bigint, {last}) n) it",
            rare = PROVIDERS.len(),
        );
        client.batch_execute(&sql).await.unwrap();
        eprintln!("{last} of {to} identities after {:.0} s", started.elapsed().as_secs_f64());
        first = last + 1;
    }
    let sql = format!(
        "INSERT INTO auth_identities (auth_provider_id, user_id, ident, data, last_verified, \
         last_synced, date_added, version, generation) \
         SELECT u % {ORGANIZATIONS} + 1, u::text, 'account-' || u, '{{}}', now(), now(), now(), \
         1, 0 FROM generate_series({}, {}) u",
        from / EACH + 1,
        to / EACH
    );
    client.batch_execute(&sql).await.unwrap();
    for table in ["identity_providers", "identities", "auth_providers", "auth_identities"] {
        let sql =
            format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}");
        client.batch_execute(&sql).await.unwrap();
    }
    // Now, so that it does not begin by itself while something is measured.
    client.batch_execute("VACUUM ANALYZE").await.unwrap();
    eprintln!("filled after {:.0} s", started.elapsed().as_secs_f64());
}

/// One question of a caller: whom it is about, by chance.
#[derive(Clone, Copy)]
struct Draw {
    chance: u64,
    rows: u64,
}

impl Draw {
    fn user_number(self) -> u64 {
        self.chance % (self.rows / EACH) + 1
    }

    fn user(self) -> Option<UserId> {
        UserId::new(self.user_number().to_string()).ok()
    }

    /// The account name of the nth user after this one.
    fn account(self, nth: u64) -> ExternalId {
        let user = (self.user_number() + nth * 7919) % (self.rows / EACH) + 1;
        ExternalId::new(format!("account-{user}")).unwrap()
    }

    /// A provider that is not rare.
    fn provider(self) -> ProviderId {
        ProviderId(number(self.chance % COMMON + 1))
    }

    fn provider_type(self) -> String {
        let common = usize::try_from(self.chance % COMMON).unwrap();
        PROVIDERS[common].0.to_owned()
    }
}

fn number(id: u64) -> i64 {
    i64::try_from(id).unwrap()
}

/// A list that is asked for.
struct Question {
    name: &'static str,
    filter: fn(Draw) -> IdentityFilter,
    /// Whether it goes on somewhere in the second half of the identities.
    deep: bool,
}

const QUESTIONS: &[Question] = &[
    Question {
        name: "`id`",
        filter: |it| IdentityFilter {
            id: Some(IdentityId(number(it.chance % it.rows + 1))),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`user_id`: a user's list",
        filter: |it| IdentityFilter { user_id: it.user(), ..IdentityFilter::default() },
        deep: false,
    },
    Question {
        name: "`user_id`, `provider_type`",
        filter: |it| IdentityFilter {
            user_id: it.user(),
            provider_type: Some(it.provider_type()),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`user_id`, `status`",
        filter: |it| IdentityFilter {
            user_id: it.user(),
            status: Some(IdentityStatus::Valid),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`user_id`, `exclude_matching_external_ids`",
        filter: |it| IdentityFilter {
            user_id: it.user(),
            exclude_matching_external_ids: true,
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`identity_ext_id`",
        filter: |it| IdentityFilter {
            external_id: Some(it.account(0)),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`identity_ext_ids`, 20 of them at one provider",
        filter: |it| IdentityFilter {
            external_ids: Some((0..20).map(|nth| it.account(nth)).collect()),
            provider_id: Some(it.provider()),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`identity_ext_ids`, 20 of them",
        filter: |it| IdentityFilter {
            external_ids: Some((0..20).map(|nth| it.account(nth)).collect()),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`provider_id`, first page",
        filter: |it| IdentityFilter {
            provider_id: Some(it.provider()),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`provider_id`, page deep inside",
        filter: |it| IdentityFilter {
            provider_id: Some(it.provider()),
            ..IdentityFilter::default()
        },
        deep: true,
    },
    Question {
        name: "`provider_type`, first page",
        filter: |it| IdentityFilter {
            provider_type: Some(it.provider_type()),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`provider_type`, a rare one",
        filter: |_| IdentityFilter {
            provider_type: Some("vsts".to_owned()),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`provider_ext_id`",
        filter: |it| IdentityFilter {
            provider_external_id: Some(format!("T000{}", it.chance % 3 + 1)),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`status` invalid",
        filter: |_| IdentityFilter {
            status: Some(IdentityStatus::Invalid),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`status` invalid, `provider_type`",
        filter: |it| IdentityFilter {
            status: Some(IdentityStatus::Invalid),
            provider_type: Some(it.provider_type()),
            ..IdentityFilter::default()
        },
        deep: false,
    },
    Question {
        name: "`status` invalid, `provider_type` rare",
        filter: |_| IdentityFilter {
            status: Some(IdentityStatus::Invalid),
            provider_type: Some("vsts".to_owned()),
            ..IdentityFilter::default()
        },
        deep: false,
    },
];

/// Who asks.
#[derive(Clone, Copy)]
struct Callers {
    count: u64,
    /// How long after its last question each asks the next one, if it was answered by then; zero
    /// for at once.
    every: Duration,
}

impl Callers {
    /// Each asks again as soon as it was answered.
    fn pausing_never(count: u64) -> Self {
        Self { count, every: Duration::ZERO }
    }
}

/// How long answers took, from when the question was due, and how many identities an answer had on
/// average.
async fn ask(
    database: &Database,
    question: &'static Question,
    rows: u64,
    callers: Callers,
    time: Duration,
) -> (Load, f64) {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers.count {
        let identities = Arc::clone(&database.identities);
        tasks.spawn(async move {
            let (mut latencies, mut found) = (Vec::new(), 0);
            let mut turn = caller << 32;
            // Not all at the same moment.
            let mut due = Instant::now()
                + callers.every * u32::try_from(caller).unwrap() / u32::try_from(CALLERS).unwrap();
            while started.elapsed() < time {
                let draw = Draw { chance: chance(turn), rows };
                let filter = (question.filter)(draw);
                let after = rows / 2 + chance(draw.chance) % (rows * 2 / 5).max(1);
                let after = question.deep.then(|| number(after));
                let page = PageRequest { after, ..PageRequest::default() };
                if callers.every.is_zero() {
                    due = Instant::now();
                } else {
                    tokio::time::sleep_until(due.into()).await;
                }
                let answer = identities.list(&filter, page).await.unwrap();
                // From when it was due: a question that waits for the one before it waits too.
                latencies.push(microseconds(due));
                due += callers.every;
                found += answer.items.len();
                turn += 1;
            }
            (latencies, found)
        });
    }
    let (mut latencies, mut found) = (Vec::new(), 0);
    for (more, some) in tasks.join_all().await {
        latencies.extend(more);
        found += some;
    }
    let each = found as f64 / latencies.len() as f64;
    (Load::of(started.elapsed(), latencies), each)
}

/// Each call takes away another user's account, until the time is over or all are gone.
async fn delete(database: &Database, users: std::ops::Range<u64>) -> Load {
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CALLERS {
        let (accounts, next, users) =
            (Arc::clone(&database.auth_identities), Arc::clone(&next), users.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let count = users.end - users.start;
            while started.elapsed() < MEASURE {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= count {
                    break;
                }
                // Not one after the other, as they lie in the table.
                let user = users.start + nth * 7919 % count;
                let organization = OrganizationId::new(format!("org-{}", user % ORGANIZATIONS + 1));
                let user = UserId::new(user.to_string()).unwrap();
                let sent = Instant::now();
                let gone = accounts.delete_for(&user, &organization.unwrap(), &Actor::SENTRY).await;
                latencies.push(microseconds(sent));
                assert_eq!(gone.unwrap(), 1);
            }
            latencies
        });
    }
    let latencies = tasks.join_all().await.concat();
    Load::of(started.elapsed(), latencies)
}

fn microseconds(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// An even spread that is the same in each run: the step of `SplitMix64`.
fn chance(turn: u64) -> u64 {
    let mut bits = turn.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
