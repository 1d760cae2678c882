use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use symbolon_domain::services::{KeyRotation, RotationProgress, SealedReport};
use symbolon_keyring::{KeyRing, LiveKeyRing};

use super::{refused_form, refused_sentence, refused_text};
use crate::{
    cli::OutputArgs,
    database::Database,
    failure::Failure,
    output::{print, print_json},
    progress::Progress,
    settings::{Need, Settings},
};

/// What a rotation came to.
struct Outcome {
    active: u32,
    resealed: u64,
    report: SealedReport,
    took: Duration,
    /// Older keys that no value needs and that are still in the key ring.
    idle: Vec<u32>,
    /// Keys that were taken out, and where they are kept.
    retired: Vec<u32>,
    kept: Vec<PathBuf>,
}

/// `symbolon keyring rotate`. `settle`: how many seconds to wait for the second look, where keys
/// are to be taken out.
pub(super) async fn run(
    config: Option<&Path>,
    settle: Option<u32>,
    output: OutputArgs,
) -> Result<(), Failure> {
    let settings = Settings::load(config, &[Need::Database, Need::Keyring])?;
    let keys = Arc::new(LiveKeyRing::start(settings.keyring.service())?);
    let database = Database::open_existing_with(&settings.database, Some(keys.clone())).await?;
    let rotation = database.key_rotation();

    let begun = Instant::now();
    let mut progress = Progress::new(None);
    let rotated = rotate(&rotation, &mut progress).await;
    progress.clear();
    let (resealed, report) = rotated?;
    let active = keys.ring().active_id();
    let mut outcome = Outcome {
        active,
        resealed,
        idle: idle(&keys.ring(), &report),
        report,
        took: begun.elapsed(),
        retired: Vec::new(),
        kept: Vec::new(),
    };
    let file = settings.keyring.file.as_deref();
    if let (Some(settle), Some(file)) = (settle, file)
        && !outcome.idle.is_empty()
        && outcome.report.left_beside(active) == 0
    {
        // A replica that has not loaded the keys anew may seal with an old one in this moment. One
        // that reads this file does so within seconds, see `key_follower`.
        tokio::time::sleep(Duration::from_secs(settle.into())).await;
        let again = rotation.check(&mut |it| progress.show_at(it.values, Some(it.fraction))).await;
        progress.clear();
        let again = again?;
        let needed = again.needed_keys();
        outcome.idle.retain(|it| !needed.contains(it));
        // What was sealed under an old key meanwhile is told of.
        outcome.report = again;
        if outcome.report.left_beside(active) == 0 {
            (_, outcome.kept) = KeyRing::retire(file, &outcome.idle)?;
            outcome.retired = std::mem::take(&mut outcome.idle);
        }
    }
    show(&outcome, output)?;
    verdict(&outcome, settle.is_some() && file.is_none())
}

async fn rotate(
    rotation: &KeyRotation,
    progress: &mut Progress,
) -> Result<(u64, SealedReport), Failure> {
    let mut tell = |it: RotationProgress| progress.show_at(it.values, Some(it.fraction));
    let resealed = rotation.reseal(&mut tell).await?;
    Ok((resealed, rotation.check(&mut tell).await?))
}

/// The keys that are older than the active one and that no value names. A newer one may be waiting
/// to be activated.
fn idle(ring: &KeyRing, report: &SealedReport) -> Vec<u32> {
    let needed = report.needed_keys();
    let older = ring.status().into_iter().map(|it| it.id).filter(|it| *it < ring.active_id());
    older.filter(|it| !needed.contains(it)).collect()
}

fn show(outcome: &Outcome, output: OutputArgs) -> Result<(), Failure> {
    let Outcome { active, resealed, report, took, idle, retired, kept } = outcome;
    let left = report.left_beside(*active);
    if output.json {
        return print_json(&json!({
            "active": active,
            "resealed": resealed,
            "values": report.values(),
            "left": left,
            "seconds": took.as_secs_f64(),
            "idle_keys": idle,
            "retired_keys": retired,
            "kept_in": kept.iter().map(|it| it.display().to_string()).collect::<Vec<_>>(),
            "refused": refused_form(report),
        }));
    }
    let mut text = format!(
        "{resealed} of {} values sealed anew under key {active}, in {:.1} s\n",
        report.values(),
        took.as_secs_f64()
    );
    if left == 0 && report.refused.is_empty() {
        text.push_str("every value opens and is under this key\n");
    }
    text.push_str(&refused_text(report));
    for (key, file) in retired.iter().zip(kept) {
        text = format!(
            "{text}key {key} is taken out, and kept in {}: backups from before need it\n",
            file.display()
        );
    }
    if let Some(keys) = named(idle) {
        text = format!(
            "{text}no value needs {keys}: when every replica seals with key {active}, \
             `symbolon keyring rotate --retire` takes it out\n"
        );
    }
    print(&text)
}

/// `key 1`, or `keys 1, 2`; `None` for none.
fn named(keys: &[u32]) -> Option<String> {
    let list = keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match keys {
        [] => None,
        [_] => Some(format!("key {list}")),
        _ => Some(format!("keys {list}")),
    }
}

fn verdict(outcome: &Outcome, nowhere_to_retire: bool) -> Result<(), Failure> {
    let left = outcome.report.left_beside(outcome.active);
    let refused = refused_sentence(&outcome.report);
    if left > 0 {
        let plural = if left == 1 { "value is" } else { "values are" };
        let refused = refused.map(|it| format!("; {it}")).unwrap_or_default();
        return Err(Failure::Incomplete(format!(
            "{left} {plural} under an older key: a replica still seals with it, or the rows were \
             in use each time; have replicas load the key ring anew (SIGHUP, or a restart), and \
             run this again{refused}"
        )));
    }
    if let Some(refused) = refused {
        return Err(Failure::Incomplete(format!(
            "{refused}; everything else is sealed under key {}",
            outcome.active
        )));
    }
    if nowhere_to_retire && let Some(keys) = named(&outcome.idle) {
        return Err(Failure::Incomplete(format!(
            "the key ring is not in a file: take {keys} out where it comes from"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use symbolon_diesel::{Database, DatabaseSettings};
    use symbolon_domain::{
        credentials::Credentials,
        ids::IdentityId,
        ports::{Clock as _, LeaseOutcome, LeasedWrite, Link, LinkOutcome, LinkOwner},
        secret::Secret,
        testing::fixtures,
    };
    use symbolon_keyring::KeyFile;
    use symbolon_test_postgres::TestDatabase;

    use super::*;
    use crate::SystemClock;

    const IDENTITIES: usize = 30;

    #[test]
    fn keys_are_named_in_one_sentence() {
        assert_eq!(named(&[]), None);
        assert_eq!(named(&[1]).as_deref(), Some("key 1"));
        assert_eq!(named(&[1, 2]).as_deref(), Some("keys 1, 2"));
    }

    /// Which credentials belong to a generation of an identity.
    fn of_generation(id: IdentityId, generation: i64) -> Credentials {
        Credentials {
            refresh_token: Some(Secret::new(format!("refresh-{id}-{generation}"))),
            ..fixtures::credentials()
        }
    }

    /// A process of its own: its own keys, read from the file, and its own connections.
    async fn process(settings: &DatabaseSettings, file: &Path) -> (Database, Arc<LiveKeyRing>) {
        let keys = Arc::new(LiveKeyRing::start(Box::new(KeyFile::new(file))).unwrap());
        (symbolon_diesel::open(settings, keys.clone()).await.unwrap(), keys)
    }

    /// Reads and refreshes all identities until told to stop; anything that does not open is a
    /// panic. Answers how many refreshes were kept.
    async fn serve(database: Database, ids: Vec<IdentityId>, end: Arc<AtomicBool>) -> i64 {
        let mut kept = 0;
        while !end.load(Ordering::SeqCst) {
            for &id in &ids {
                let stored = database.credentials.find(id).await.unwrap().unwrap();
                assert_eq!(stored.credentials, Some(of_generation(id, stored.generation)));
                let time = Duration::from_mins(1);
                let leased = database.credentials.take_lease(id, stored.generation, "x", time);
                let LeaseOutcome::Taken(lease, _) = leased.await.unwrap() else { continue };
                let fresh = of_generation(id, stored.generation + 1);
                let written = database.credentials.commit(&lease, &fresh).await.unwrap();
                assert_eq!(written, LeasedWrite::Done);
                kept += 1;
            }
        }
        kept
    }

    /// Two replicas serve, while keys are added, everything is sealed anew, and old keys are taken
    /// out, three times over.
    async fn everything_opens_at_every_moment(settings: &DatabaseSettings) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ring.json");
        KeyRing::generate(&file, SystemClock.now()).unwrap();
        let (database, _) = process(settings, &file).await;
        database.migrate().await.unwrap();
        let new = fixtures::new_identity_provider();
        let at = database.providers.insert(&new, &fixtures::ACTOR).await.unwrap().id;
        let mut ids = Vec::new();
        for nth in 0..IDENTITIES {
            let name = format!("nth-{nth}");
            let link = Link {
                provider_id: at,
                owner: LinkOwner::User(fixtures::user(&name)),
                external_id: fixtures::external_id(&name),
                credentials: None,
                ..fixtures::link()
            };
            let LinkOutcome::Created(it) = database.identities.link(&link).await.unwrap() else {
                panic!("{name}")
            };
            let leased = database.credentials.take_lease(it.id, 0, "x", Duration::from_mins(1));
            let LeaseOutcome::Taken(lease, _) = leased.await.unwrap() else { panic!("{name}") };
            database.credentials.commit(&lease, &of_generation(it.id, 1)).await.unwrap();
            ids.push(it.id);
        }

        let end = Arc::new(AtomicBool::default());
        let mut serving = Vec::new();
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let (database, keys) = process(settings, &file).await;
            replicas.push(keys);
            serving.push(tokio::spawn(serve(database, ids.clone(), Arc::clone(&end))));
        }
        let (operator, keys) = process(settings, &file).await;
        let rotation = KeyRotation { values: operator.sealed_values.clone() };
        for active in 2..=4 {
            KeyRing::add(&file, SystemClock.now()).unwrap();
            keys.reload().unwrap();
            // They learn of the key from the values under it, and switch.
            let report = loop {
                let (_, report) = rotate(&rotation, &mut Progress::new(None)).await.unwrap();
                assert_eq!(report.refused, []);
                if report.left_beside(active) == 0 {
                    break report;
                }
            };
            let idle = idle(&keys.ring(), &report);
            let switched = replicas.iter().all(|it| it.ring().active_id() == active);
            if switched {
                KeyRing::retire(&file, &idle).unwrap();
                assert!(idle.contains(&(active - 1)));
            }
        }
        end.store(true, Ordering::SeqCst);
        let mut kept = 0;
        for serving in serving {
            kept += serving.await.unwrap();
        }
        rotate(&rotation, &mut Progress::new(None)).await.unwrap();

        // With what is in the file now, and nothing that was ever taken out of it.
        let (fresh, keys) = process(settings, &file).await;
        assert_eq!(keys.ring().active_id(), 4);
        let mut refreshed = 0;
        for id in ids {
            let stored = fresh.credentials.find(id).await.unwrap().unwrap();
            assert_eq!(stored.credentials, Some(of_generation(id, stored.generation)));
            refreshed += stored.generation - 1;
        }
        assert!(kept > 0);
        assert_eq!(refreshed, kept, "no refresh was overwritten");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_opens_at_every_moment_on_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("symbolon.db");
        let settings = DatabaseSettings::new(format!("sqlite:{}", path.display()));
        everything_opens_at_every_moment(&settings).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_opens_at_every_moment_on_postgresql() {
        let database = TestDatabase::create().await.unwrap();
        everything_opens_at_every_moment(&DatabaseSettings::new(database.url())).await;
    }
}
