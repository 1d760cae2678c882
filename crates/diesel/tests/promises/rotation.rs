//! Sealing everything under another key while everybody goes on working.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use symbolon_diesel::Database;
use symbolon_domain::{
    credentials::Credentials,
    device_link::NewDeviceLink,
    ids::{AuthIdentityId, IdentityId},
    page::PageRequest,
    ports::{
        LeaseOutcome, LeasedWrite, NewAuthProvider, RefusedBecause, RefusedValue, SealedColumn,
        SsoOutcome, SsoSignIn, Unlink,
    },
    services::{KeyRotation, SealedReport},
    testing::{TestSealer, contract::Store, fixtures},
};

use crate::{
    bench::{Bench, Raw, on_both},
    sealed::{attempt, begun, claim, credentials, link, linked, provider, waiting},
};

on_both! {
    everything_is_sealed_anew_and_opens_with_the_new_key_alone
    no_sealed_column_is_forgotten
    what_does_not_open_is_told_of_and_everything_else_is_sealed_anew
    a_rotation_never_overwrites_a_refresh_and_everything_opens_all_the_time
    a_rotation_that_ends_anywhere_goes_on
    pages_go_over_every_value_once
}

/// The keys of these tests: the benches' stores seal with the first.
const OLD: u32 = 0;
const NEW: u32 = 1;

/// A process that has both keys, and seals with the new one.
fn rotating() -> TestSealer {
    TestSealer::with_key(NEW).opening(OLD)
}

fn rotation(database: &Database) -> KeyRotation {
    KeyRotation { values: Arc::clone(&database.sealed_values) }
}

async fn report(database: &Database) -> SealedReport {
    rotation(database).check(&mut |_| ()).await.unwrap()
}

async fn reseal(database: &Database) -> u64 {
    rotation(database).reseal(&mut |_| ()).await.unwrap()
}

/// One row at least of each kind of value.
struct Everything {
    provider: symbolon_domain::ids::ProviderId,
    identity: IdentityId,
    account: AuthIdentityId,
    webhook: symbolon_domain::ids::WebhookEndpointId,
    session: symbolon_domain::ids::LinkSessionId,
    salt: symbolon_domain::secret::Secret,
}

async fn fill(store: &Arc<dyn Store>) -> Everything {
    let at = provider(store, "one").await;
    let identity = linked(store, &link(at, "one")).await;
    // A second value of the same row, so that its generation is not the first.
    linked(store, &link(at, "one")).await;
    let gone = linked(store, &link(at, "gone")).await;
    let unlink = Unlink::unguarded(gone, &fixtures::ACTOR).revoking();
    store.identities().unlink(&unlink).await.unwrap();
    begun(store, at, "begun").await;
    let session = waiting(store, at, "waiting").await;
    let endpoint = fixtures::new_webhook_endpoint();
    let webhook = store.webhooks().insert(&endpoint, &fixtures::ACTOR).await.unwrap().id;
    let new = NewAuthProvider { provider_id: at, ..fixtures::new_auth_provider() };
    let of = store.auth_providers().insert(&new, &fixtures::ACTOR).await.unwrap();
    let asked = SsoSignIn {
        auth_provider_id: of.id,
        user: Some(fixtures::user("one")),
        ident: fixtures::external_id("one"),
        credentials: Some(credentials("sso")),
        ..fixtures::sso_sign_in()
    };
    let account = match store.auth_identities().sign_in(&asked).await.unwrap() {
        SsoOutcome::Linked { identity, .. } => identity.id,
        other => panic!("{other:?}"),
    };
    let device =
        NewDeviceLink { provider_id: at, interval: Duration::ZERO, ..fixtures::new_device_link() };
    store.device_links().insert(&device).await.unwrap();
    let salt = store.ledger().salt().await.unwrap();
    Everything { provider: at, identity, account, webhook, session, salt }
}

/// What a rotation must leave as it is: every column but the sealed ones.
async fn all_else(raw: &Raw) -> BTreeMap<String, Vec<String>> {
    let sealed: BTreeSet<_> =
        SealedColumn::ALL.iter().map(|it| format!("{}.{}", it.table(), it.name())).collect();
    let mut columns = BTreeMap::new();
    for column in raw.columns().await {
        let (table, name) = column.split_once('.').unwrap();
        if sealed.contains(&column) || table.starts_with("__diesel") {
            continue;
        }
        // Bytes too, which SQLite would take for a text as they are.
        let text = match raw {
            Raw::Sqlite(_) => format!("quote({name})"),
            Raw::Postgres(..) => format!("coalesce(CAST({name} AS text), '')"),
        };
        let sql = format!("SELECT {text} AS value FROM {table} ORDER BY 1");
        columns.insert(column.clone(), raw.texts(&sql).await);
    }
    columns
}

async fn everything_is_sealed_anew_and_opens_with_the_new_key_alone(Bench { store, raw }: Bench) {
    let of = fill(&store).await;
    let before = all_else(&raw).await;
    let database = raw.open(rotating()).await;
    let found = report(&database).await;
    assert_eq!(found.needed_keys(), [OLD].into());
    assert_eq!(found.refused, []);
    let filled: Vec<_> =
        found.keys.iter().filter(|(_, it)| !it.is_empty()).map(|(it, _)| *it).collect();
    assert_eq!(filled, SealedColumn::ALL, "there is something of each kind");

    assert_eq!(reseal(&database).await, found.values());
    assert_eq!(reseal(&database).await, 0, "nothing is left");

    let after = report(&database).await;
    assert_eq!((after.values(), after.left_beside(NEW)), (found.values(), 0));
    assert_eq!(after.needed_keys(), [NEW].into());
    assert_eq!(all_else(&raw).await, before, "no version and no generation has changed");

    // Through their own ports, with the new key alone.
    let alone = raw.open(TestSealer::with_key(NEW)).await;
    let stored = alone.credentials.find(of.identity).await.unwrap().unwrap();
    assert_eq!(stored.credentials, Some(credentials("one")));
    let (_, secrets) = alone.providers.find_with_secrets(of.provider).await.unwrap().unwrap();
    assert!(secrets["client_secret"].expose().ends_with("one"));
    let sso = alone.auth_identities.find_credentials(of.account).await.unwrap();
    assert_eq!(sso, Some(credentials("sso")));
    assert!(alone.webhooks.find_with_secrets(of.webhook).await.unwrap().is_some());
    assert_eq!(alone.ledger.salt().await.unwrap(), of.salt);
    let pending = alone.sessions.find_pending(&claim(of.session, "waiting")).await.unwrap();
    assert_eq!(pending.unwrap().1.credentials, credentials("waiting"));
    let begun = attempt(of.provider, "begun");
    let taken = alone.sessions.take_attempt(&begun.state, &begun.browser).await.unwrap();
    assert_eq!(taken.unwrap().code_verifier, begun.proof.code_verifier);
    let due = alone.device_links.claim_due(10, Duration::from_mins(1)).await.unwrap();
    assert_eq!(due[0].device_code, Some(fixtures::new_device_link().device_code));
    let due = alone.revocations.claim_due(10, Duration::from_mins(1)).await.unwrap();
    assert_eq!(due.len(), 1);
    assert!(due[0].grant.is_some());
}

async fn no_sealed_column_is_forgotten(Bench { raw, .. }: Bench) {
    let binary = raw
        .texts(match &raw {
            Raw::Sqlite(_) => {
                "SELECT t.name || '.' || c.name AS value \
                 FROM sqlite_schema t, pragma_table_info(t.name) c \
                 WHERE t.type = 'table' AND upper(c.type) = 'BLOB'"
            }
            Raw::Postgres(..) => {
                "SELECT table_name || '.' || column_name AS value \
                 FROM information_schema.columns \
                 WHERE table_schema = 'public' AND data_type = 'bytea'"
            }
        })
        .await;
    let sealed: BTreeSet<_> =
        SealedColumn::ALL.iter().map(|it| format!("{}.{}", it.table(), it.name())).collect();
    let binary: BTreeSet<_> = binary.into_iter().collect();
    assert!(sealed.is_subset(&binary), "{sealed:?} {binary:?}");
    let others: Vec<_> = binary.difference(&sealed).collect();
    assert!(!others.is_empty());
    // Hashes open nowhere; anything else that holds bytes has to be thought of.
    assert!(others.iter().all(|it| it.ends_with("hash")), "{others:?}");
}

async fn what_does_not_open_is_told_of_and_everything_else_is_sealed_anew(
    Bench { store, raw }: Bench,
) {
    let at = provider(&store, "one").await;
    let mut ids = Vec::new();
    for name in ["sound", "swapped", "older", "plain", "unknown", "donor"] {
        ids.push(linked(&store, &link(at, name)).await);
    }
    let [sound, swapped, older, plain, unknown, donor] = ids[..] else { panic!() };
    raw.execute(&format!(
        "CREATE TABLE older AS SELECT credentials FROM identities WHERE id = {older}"
    ))
    .await;
    linked(&store, &link(at, "older")).await;
    raw.execute(&format!(
        "UPDATE identities SET credentials = (SELECT credentials FROM identities WHERE id = {donor}) \
         WHERE id = {swapped}"
    ))
    .await;
    raw.execute(&format!(
        "UPDATE identities SET credentials = (SELECT credentials FROM older) WHERE id = {older}"
    ))
    .await;
    let text = String::from_utf8(credentials("plain").to_plain().to_vec()).unwrap();
    let sql =
        format!("UPDATE identities SET credentials = {} WHERE id = {plain}", raw.bytes(&text));
    raw.execute(&sql).await;
    {
        let with_another_key = raw.open(TestSealer::with_key(9).opening(OLD)).await;
        let LeaseOutcome::Taken(lease, _) = with_another_key
            .credentials
            .take_lease(unknown, 1, "x", Duration::from_mins(1))
            .await
            .unwrap()
        else {
            panic!()
        };
        let fresh = credentials("unknown");
        with_another_key.credentials.commit(&lease, &fresh).await.unwrap();
    }

    let refused = |id: IdentityId, because| {
        (SealedColumn::IdentityCredentials, RefusedValue { row: id.0, because })
    };
    let expected = [
        refused(swapped, RefusedBecause::OutOfPlace(OLD)),
        refused(older, RefusedBecause::OutOfPlace(OLD)),
        refused(plain, RefusedBecause::NeverSealed),
        refused(unknown, RefusedBecause::UnknownKey(9)),
    ];
    let bytes = "SELECT CAST(credentials AS text) AS value FROM identities \
                 WHERE credentials IS NOT NULL ORDER BY id";
    let database = raw.open(rotating()).await;
    assert_eq!(report(&database).await.refused, expected, "before");
    let before = match &raw {
        Raw::Postgres(..) => raw.texts(bytes).await,
        Raw::Sqlite(_) => Vec::new(),
    };
    // The provider's secrets, and the credentials of the sound one and of the donor.
    assert_eq!(reseal(&database).await, 3);
    let after = report(&database).await;
    assert_eq!(after.refused, expected, "they stay as they are");
    assert_eq!(after.left_beside(NEW), 0, "what does not open is not a rotation's to do");
    assert!(after.needed_keys().contains(&OLD), "the old key is not let go");
    if let Raw::Postgres(..) = &raw {
        let now = raw.texts(bytes).await;
        let kept: Vec<_> = before.iter().zip(&now).map(|(before, now)| before == now).collect();
        assert_eq!(kept, [false, true, true, true, true, false]);
    }
    for id in [sound, donor] {
        assert!(database.credentials.find(id).await.unwrap().unwrap().credentials.is_some());
    }
    // At reading they are refused too.
    for id in [swapped, older, plain, unknown] {
        database.credentials.find(id).await.unwrap_err();
    }
    // Under the new key a swapped value is found as well.
    raw.execute(&format!(
        "UPDATE identities SET credentials = (SELECT credentials FROM identities WHERE id = {donor}) \
         WHERE id = {sound}"
    ))
    .await;
    let found = report(&database).await.refused;
    assert_eq!(found.first(), Some(&refused(sound, RefusedBecause::OutOfPlace(NEW))));
}

/// Which credentials belong to a generation of an identity.
fn of_generation(id: IdentityId, generation: i64) -> Credentials {
    credentials(&format!("{id}-{generation}"))
}

/// Refreshes identities, and reads them, until told to stop. Answers how many refreshes were kept.
async fn live(
    database: Database,
    ids: Vec<IdentityId>,
    who: &'static str,
    end: Arc<AtomicBool>,
) -> u64 {
    let mut kept = 0;
    while !end.load(Ordering::SeqCst) {
        for &id in &ids {
            let stored = database.credentials.find(id).await.unwrap().unwrap();
            let expected = of_generation(id, stored.generation);
            assert_eq!(stored.credentials.as_ref(), Some(&expected), "{who}");
            let lease = database
                .credentials
                .take_lease(id, stored.generation, who, Duration::from_mins(1))
                .await
                .unwrap();
            let LeaseOutcome::Taken(lease, _) = lease else { continue };
            let fresh = of_generation(id, stored.generation + 1);
            let written = database.credentials.commit(&lease, &fresh).await.unwrap();
            assert_eq!(written, LeasedWrite::Done);
            kept += 1;
        }
    }
    kept
}

async fn a_rotation_never_overwrites_a_refresh_and_everything_opens_all_the_time(
    Bench { store, raw }: Bench,
) {
    let at = provider(&store, "one").await;
    let mut ids = Vec::new();
    for nth in 0..40 {
        let mut new = link(at, &format!("nth-{nth}"));
        // Its id is not known before.
        new.credentials = None;
        let id = linked(&store, &new).await;
        let lease = store.credentials().take_lease(id, 0, "x", Duration::from_mins(1)).await;
        let Ok(LeaseOutcome::Taken(lease, _)) = lease else { panic!("{lease:?}") };
        store.credentials().commit(&lease, &of_generation(id, 1)).await.unwrap();
        ids.push(id);
    }
    // One replica still seals with the old key, the other with the new one.
    let late = raw.open(TestSealer::with_key(OLD).opening(NEW)).await;
    let early = raw.open(rotating()).await;
    let database = raw.open(rotating()).await;
    let (end_late, end_early) = (Arc::new(AtomicBool::default()), Arc::new(AtomicBool::default()));
    let late = tokio::spawn(live(late, ids.clone(), "late", Arc::clone(&end_late)));
    let early = tokio::spawn(live(early, ids.clone(), "early", Arc::clone(&end_early)));
    let mut resealed = 0;
    for _ in 0..5 {
        resealed += reseal(&database).await;
        assert_eq!(report(&database).await.refused, []);
    }
    assert!(resealed >= 1, "there was nothing to do");
    end_late.store(true, Ordering::SeqCst);
    let mut kept = late.await.unwrap();
    // From here on nobody seals with the old key.
    reseal(&database).await;
    let found = report(&database).await;
    assert_eq!((found.left_beside(NEW), found.refused), (0, Vec::new()));
    end_early.store(true, Ordering::SeqCst);
    kept += early.await.unwrap();
    assert!(kept > 0);

    let alone = raw.open(TestSealer::with_key(NEW)).await;
    let mut generations = 0;
    for id in &ids {
        let stored = alone.credentials.find(*id).await.unwrap().unwrap();
        assert_eq!(stored.credentials, Some(of_generation(*id, stored.generation)));
        generations += u64::try_from(stored.generation - 1).unwrap();
    }
    assert_eq!(generations, kept, "each refresh that was kept is there");
}

async fn a_rotation_that_ends_anywhere_goes_on(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let mut ids = Vec::new();
    for nth in 0..60 {
        ids.push(linked(&store, &link(at, &format!("nth-{nth}"))).await);
    }
    let opens = async |database: &Database| {
        let found = report(database).await;
        assert_eq!((found.values(), found.refused.clone()), (61, Vec::new()));
        found.left_beside(NEW)
    };
    let mut left = 61;
    let mut ended = 0;
    for round in 0_u32.. {
        // A process of its own each time, which ends in the middle of whatever it does.
        let database = raw.open(rotating()).await;
        let values = Arc::clone(&database.sealed_values);
        let task = tokio::spawn(async move {
            for column in SealedColumn::ALL {
                let mut after = Some(0);
                while let Some(from) = after {
                    after = values.reseal(column, from, 4).await.unwrap().next;
                }
            }
        });
        tokio::time::sleep(Duration::from_micros(u64::from(round) * 700)).await;
        ended += u32::from(!task.is_finished());
        task.abort();
        let _ = task.await;
        let database = raw.open(rotating()).await;
        let now = opens(&database).await;
        assert!(now <= left, "what was done stays done");
        left = now;
        if left == 0 {
            break;
        }
        assert!(round < 1000, "it never ends");
    }
    assert!(ended >= 1, "it was never ended early");
    for id in ids {
        assert!(store.credentials().find(id).await.is_err(), "the old key alone opens nothing");
    }
}

async fn pages_go_over_every_value_once(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    for nth in 0..10 {
        let mut new = link(at, &format!("nth-{nth}"));
        if nth % 3 == 1 {
            new.credentials = None;
        }
        linked(&store, &new).await;
    }
    let database = raw.open(rotating()).await;
    let column = SealedColumn::IdentityCredentials;
    let all = store
        .identities()
        .list(
            &symbolon_domain::identity::IdentityFilter::default(),
            PageRequest { limit: 200, after: None },
        )
        .await
        .unwrap();
    let highest = database.sealed_values.highest(column).await.unwrap();
    assert_eq!(highest, all.items.iter().map(|it| it.id.0).max().unwrap());
    for limit in [1, 2, 3, 7, 100] {
        let (mut seen, mut after, mut pages) = (0, Some(0), 0);
        while let Some(from) = after {
            let page = database.sealed_values.check(column, from, limit).await.unwrap();
            assert!(page.next.is_none_or(|it| it > from));
            let on_page: u64 = page.keys.values().sum();
            assert!(on_page <= limit.into());
            seen += on_page;
            after = page.next;
            pages += 1;
            assert!(pages < 100);
        }
        assert_eq!(seen, 7, "in pages of {limit}");
    }
    let empty = SealedColumn::WebhookSecrets;
    assert_eq!(database.sealed_values.highest(empty).await.unwrap(), 0);
    let page = database.sealed_values.reseal(empty, 0, 10).await.unwrap();
    assert_eq!((page.resealed, page.next), (0, None));
}

/// Only PostgreSQL locks single rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_is_changing_is_passed_over_and_nobody_is_waited_for() {
    let Bench { store, raw } = Bench::on_postgres().await;
    let at = provider(&store, "one").await;
    let held = linked(&store, &link(at, "held")).await;
    linked(&store, &link(at, "free")).await;
    raw.execute(&format!("BEGIN; SELECT id FROM identities WHERE id = {held} FOR UPDATE")).await;
    let database = raw.open(rotating()).await;
    let passed = AtomicU64::new(0);
    let resealing = rotation(&database);
    let mut tell = |_| {
        passed.fetch_add(1, Ordering::SeqCst);
    };
    let resealing = resealing.reseal(&mut tell);
    let resealed = tokio::time::timeout(Duration::from_secs(5), resealing).await.unwrap().unwrap();
    assert_eq!(resealed, 2, "the provider's secrets and the free one");
    assert_eq!(report(&database).await.left_beside(NEW), 1);
    raw.execute("COMMIT").await;
    assert_eq!(reseal(&database).await, 1);
    assert_eq!(report(&database).await.left_beside(NEW), 0);
    assert!(passed.load(Ordering::SeqCst) > 0);
}
