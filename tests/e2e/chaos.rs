//! Three replicas over one PostgreSQL and a real provider that revokes a grant when a refresh token
//! comes twice; callers without pause; and meanwhile replicas are killed, the database crashes and
//! freezes, and the provider is slow, fails, and drops connections before and after it rotated.
//!
//! `make chaos` lets it run for minutes; `SYMBOLON_CHAOS_SECONDS` says how long, and
//! `SYMBOLON_CHAOS_SEED` repeats the order of events, if not their moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use symbolon_test_postgres::Cluster;
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::NoTls;

use crate::{
    main_way::config,
    oidc_provider::{OidcProvider, Options},
    service::{Installation, Replica, free_address},
};

const IDENTITIES: usize = 1000;
const REPLICAS: usize = 3;
const CALLERS: u64 = 12;
/// What the provider's access tokens are good for.
const TOKEN_TTL: Duration = Duration::from_secs(30);
/// How long a replica waits for one answer of the provider; a lease is a little over
/// sixteen times this.
const PROVIDER_TIMEOUT: &str = "2s";
/// Longer than a lease that nobody is left to give back, and an attempt after it.
const SETTLED: Duration = Duration::from_secs(90);

/// An even spread that a number repeats: the step of `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % bound
    }

    fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// What callers were told.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    try_later: AtomicU64,
    must_link: AtomicU64,
    no_answer: AtomicU64,
    /// What no caller may see.
    wrong: Mutex<Vec<String>>,
}

/// A caller of the product: asks for tokens of one identity after the other, at any replica.
async fn call(
    seed: u64,
    at: [SocketAddr; REPLICAS],
    key: String,
    ids: Arc<[i64]>,
    saw: Arc<Seen>,
    over: Arc<AtomicBool>,
) {
    let mut chance = Chance(seed);
    let client = Client::builder().no_proxy().build().unwrap();
    while !over.load(Ordering::Relaxed) {
        let replica = at[usize::try_from(chance.below(REPLICAS as u64)).unwrap()];
        let id = ids[usize::try_from(chance.below(ids.len() as u64)).unwrap()];
        let url = format!("http://{replica}/v1/identities/{id}/token");
        let sent = client.post(url).bearer_auth(&key).json(&json!({})).send().await;
        let Ok(answer) = sent else {
            // Killed, or not up again.
            saw.no_answer.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (status, retry) = (answer.status(), answer.headers().contains_key("retry-after"));
        let Ok(body) = answer.json::<Value>().await else { continue };
        let counter = match status {
            StatusCode::OK => &saw.answered,
            StatusCode::SERVICE_UNAVAILABLE if retry => &saw.try_later,
            StatusCode::CONFLICT if body["code"] == "identity_not_valid" => &saw.must_link,
            _ => {
                saw.wrong.lock().unwrap().push(format!("{status} {body}"));
                continue;
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if status == StatusCode::OK {
            let until: DateTime<Utc> = body["expires_at"].as_str().unwrap().parse().unwrap();
            if until <= DateTime::<Utc>::from(SystemTime::now()) {
                saw.wrong.lock().unwrap().push(format!("a token that ended at {until}"));
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The whole of it.
struct Chaos {
    chance: Chance,
    cluster: Cluster,
    installation: Installation,
    provider: OidcProvider,
    addresses: [SocketAddr; REPLICAS],
    replicas: Vec<Option<Replica>>,
    /// Identities of which a replica had a refresh under way when one was killed.
    under_way: BTreeSet<i64>,
    events: BTreeMap<&'static str, u64>,
}

impl Chaos {
    /// What the rows say of refreshes under way. The database must be there.
    async fn note_under_way(&mut self) {
        let (client, connection) =
            tokio_postgres::connect(self.installation.database_url(), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let rows = client.query("SELECT id FROM identities WHERE unanswered > 0", &[]).await;
        self.under_way.extend(rows.unwrap().iter().map(|row| row.get::<_, i64>(0)));
        drop(client);
        connection.await.unwrap().unwrap();
    }

    async fn kill(&mut self, which: usize) {
        self.replicas[which].take().unwrap().kill().await;
    }

    async fn bring_back(&mut self, which: usize) {
        self.replicas[which] = Some(self.installation.start_at(self.addresses[which]).await);
    }

    /// One thing goes wrong.
    async fn event(&mut self) {
        let which = usize::try_from(self.chance.below(REPLICAS as u64)).unwrap();
        let what = match self.chance.below(10) {
            0 | 1 => {
                self.kill(which).await;
                self.note_under_way().await;
                sleep(self.chance.milliseconds(0, 1500)).await;
                self.bring_back(which).await;
                "a replica is killed"
            }
            2 => {
                self.cluster.crash_and_restart().unwrap();
                "the database crashes"
            }
            3 => {
                self.cluster.pause().unwrap();
                sleep(self.chance.milliseconds(200, 3000)).await;
                self.cluster.resume().unwrap();
                "the database freezes"
            }
            4 => {
                self.cluster.pause().unwrap();
                sleep(self.chance.milliseconds(0, 500)).await;
                self.kill(which).await;
                self.cluster.resume().unwrap();
                self.note_under_way().await;
                self.bring_back(which).await;
                "a replica is killed while the database freezes"
            }
            _ => {
                let next = 1 + self.chance.below(6);
                let (fault, name) = self.fault(next);
                self.provider.fail(fault).await;
                name
            }
        };
        *self.events.entry(what).or_default() += 1;
        sleep(self.chance.milliseconds(100, 1200)).await;
    }

    fn fault(&mut self, next: u64) -> (Value, &'static str) {
        match self.chance.below(7) {
            0 => (json!({"next": next, "mode": "status"}), "the provider fails"),
            1 => (
                json!({"next": next, "mode": "status", "status": 429, "error": "slow_down", "retry_after": 2}),
                "the provider asks for patience",
            ),
            2 => (
                json!({"next": next, "mode": "drop_before"}),
                "connections drop before the rotation",
            ),
            3 => (json!({"next": 1, "mode": "drop_after_commit"}), "a connection drops after it"),
            4 => (json!({"next": next, "mode": "delay", "delay_ms": 700}), "the provider is slow"),
            5 => (
                json!({"next": 1, "mode": "delay_after_commit", "delay_ms": 3500}),
                "the answer comes too late",
            ),
            _ => (
                json!({"next": 1, "mode": "delay", "delay_ms": 3500}),
                "the rotation comes too late",
            ),
        }
    }
}

/// The service at three addresses, and its identities.
async fn linked(seed: u64) -> (Chaos, Arc<[i64]>) {
    let cluster = Cluster::start_durable().unwrap();
    let mut installation = Installation::over(cluster.url()).await;
    installation.provider_timeout = PROVIDER_TIMEOUT;
    installation.log = ("warn", "text");
    let provider = OidcProvider::start(&Options {
        redirect_uris: vec![format!("http://{}/callback/1", installation.public)],
        access_token_ttl: TOKEN_TTL,
        always_refresh_tokens: true,
        dpop_nonces: false,
    });
    let addresses = [installation.public, free_address(), free_address()];
    let mut replicas = Vec::new();
    for address in addresses {
        replicas.push(Some(installation.start_at(address).await));
    }
    let first = replicas[0].as_ref().unwrap();
    let instance = first.register(config(&provider)).await;
    let users = stream::iter(0..IDENTITIES);
    let linked = users.map(async |user| first.link(instance, &format!("user-{user}")).await);
    let ids = linked.buffered(8).collect::<Vec<_>>().await.into();
    let chaos = Chaos {
        chance: Chance(seed),
        cluster,
        installation,
        provider,
        addresses,
        replicas,
        under_way: BTreeSet::new(),
        events: BTreeMap::new(),
    };
    (chaos, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_grant_is_lost_that_the_provider_did_not_drop() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |it| it.parse().expect("a number"))
    };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = number("SYMBOLON_CHAOS_SEED", seed);
    let time = Duration::from_secs(number("SYMBOLON_CHAOS_SECONDS", 30));
    eprintln!("SYMBOLON_CHAOS_SEED={seed}");

    let (mut chaos, ids) = linked(seed).await;
    let (saw, over) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (key, ids) = (chaos.installation.key().to_owned(), Arc::clone(&ids));
        let (saw, over) = (Arc::clone(&saw), Arc::clone(&over));
        callers.spawn(call(seed ^ (caller << 48), chaos.addresses, key, ids, saw, over));
    }
    let begun = Instant::now();
    while begun.elapsed() < time {
        chaos.event().await;
    }
    chaos.provider.fail(json!({"next": 0, "mode": "status"})).await;
    over.store(true, Ordering::Relaxed);
    callers.join_all().await;
    let wrong = std::mem::take(&mut *saw.wrong.lock().unwrap());
    assert!(wrong.is_empty(), "{} answers like {}", wrong.len(), wrong[0]);

    // Now all is well, and each identity is fresh or says that it is not.
    let replica = chaos.replicas[1].as_ref().unwrap();
    let provider = &chaos.provider;
    let ends = stream::iter(ids.iter().enumerate()).map(async |(user, id)| {
        let answer = replica.token_patiently(*id, SETTLED).await;
        match answer.status {
            StatusCode::OK => {
                let token = answer.body["access_token"].as_str().unwrap();
                assert_eq!(provider.userinfo(token).await, StatusCode::OK, "identity {id}");
                // What is kept beside it is the refresh token that counts.
                let path = format!("/v1/identities/{id}/refresh");
                let refreshed = replica.post(&path, json!({})).await;
                assert_eq!(refreshed.status, StatusCode::OK, "identity {id}: {refreshed:?}");
                None
            }
            StatusCode::CONFLICT => {
                assert_eq!(answer.code(), "identity_not_valid");
                let detail = answer.body["detail"].as_str().unwrap().to_owned();
                Some((format!("user-{user}"), *id, detail))
            }
            other => panic!("identity {id}: {other} {answer:?}"),
        }
    });
    let lost: Vec<_> = ends.buffer_unordered(16).filter_map(async |it| it).collect().await;

    let records = provider.records().await;
    let accounts = provider.accounts().await;
    let dropped = |user: &str| accounts["lost"][user].as_u64().unwrap_or(0);
    for (user, id, detail) in &lost {
        let answer_was_lost = dropped(user) > 0 || chaos.under_way.contains(id);
        assert!(answer_was_lost, "{user} was lost for nothing: {detail}");
        assert!(detail.contains("answer was lost"), "{user} does not say so: {detail}");
    }
    // A spent token came again only as the one careful retry after a lost answer.
    let reused = accounts["reused"].as_object().unwrap();
    for (user, times) in reused {
        let id = ids[user.trim_start_matches("user-").parse::<usize>().unwrap()];
        let answers = dropped(user) + u64::from(chaos.under_way.contains(&id));
        assert!(
            times.as_u64().unwrap() <= answers,
            "{user}: {times} uses of a spent token, {answers} lost answers"
        );
    }
    assert_eq!(records["concurrent_refreshes"], 0, "{records}");

    eprintln!("{} s: {:?}", time.as_secs(), chaos.events);
    eprintln!(
        "callers: {} tokens, {} to try later, {} to link again, {} without an answer",
        saw.answered.load(Ordering::Relaxed),
        saw.try_later.load(Ordering::Relaxed),
        saw.must_link.load(Ordering::Relaxed),
        saw.no_answer.load(Ordering::Relaxed),
    );
    eprintln!(
        "provider: {} refreshes, {} faults, {} answers lost; {} identities of {IDENTITIES} must be linked again, {} spent tokens came again",
        records["token_successes"]["refresh_token"],
        records["faults"],
        accounts["lost"].as_object().unwrap().len(),
        lost.len(),
        records["refresh_reuses"],
    );
}
