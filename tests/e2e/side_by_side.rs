//! What many do at the same time over one database: links that race for one account, and an import
//! beside a running service.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    browser::{Browser, query},
    main_way::{config, provider_for},
    service::{Answer, Installation, Kind, RETURN_URL, Replica},
};

/// Callers at the same time, half of them for each user.
const CALLERS: usize = 64;

/// A provider instance that nobody reaches.
async fn register(replica: &Replica) -> i64 {
    replica.register(json!({"issuer": "https://op.example", "client_id": "c"})).await
}

/// Who has the account, and how often it was linked.
async fn owners(replica: &Replica, provider: i64, account: &str) -> (Vec<String>, usize) {
    let path = format!("/v1/identities?provider_id={provider}&identity_ext_id={account}");
    let found = replica.get(&path).await.good();
    let users = found["items"].as_array().unwrap().iter();
    let users = users.map(|it| it["user_id"].as_str().unwrap().to_owned()).collect();
    let events = replica.get("/v1/events?type=identity.linked").await.good();
    (users, events["items"].as_array().unwrap().len())
}

fn statuses(answers: &[Answer], status: StatusCode) -> usize {
    answers.iter().filter(|it| it.status == status).count()
}

async fn one_link_wins(kind: Kind) {
    let installation = Installation::new(kind).await;
    let (one, other) = (installation.start().await, installation.start_another().await);
    let provider = register(&one).await;
    let links = (0..CALLERS).map(|caller| {
        let replica = if caller % 4 < 2 { &one } else { &other };
        let user = format!("user-{}", caller % 2);
        let body = json!({"provider_id": provider, "user_id": user, "external_id": "a"});
        async move { (user, replica.post("/v1/identities", body).await) }
    });
    let (users, answers): (Vec<_>, Vec<_>) = join_all(links).await.into_iter().unzip();

    assert_eq!(statuses(&answers, StatusCode::CREATED), 1, "{answers:?}");
    let won = answers.iter().position(|it| it.status == StatusCode::CREATED).unwrap();
    let winner = &users[won];
    for (user, answer) in users.iter().zip(&answers) {
        if user == winner {
            // The winner's other calls did again what was done.
            let good = [StatusCode::CREATED, StatusCode::OK].contains(&answer.status);
            assert!(good && answer.body["user_id"] == **winner, "{answer:?}");
        } else {
            assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
            assert_eq!(answer.code(), "identity_already_linked");
        }
    }
    assert_eq!(owners(&other, provider, "a").await, (vec![winner.clone()], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_links_of_one_account_for_two_users_one_wins_on_sqlite() {
    one_link_wins(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_links_of_one_account_for_two_users_one_wins_on_postgresql() {
    one_link_wins(Kind::Postgres).await;
}

/// A session that waits for its completion: `user` holds the account `ada` at the provider.
async fn waiting(replica: &Replica, provider: i64, user: &str) -> (Value, Value) {
    let body = json!({
        "user_id": user, "provider_id": provider, "return_url": RETURN_URL, "purpose": "link",
        "login_hint": "ada",
    });
    let session = replica.post("/v1/link-sessions", body).await.good();
    let url = session["url"].as_str().unwrap().parse().unwrap();
    let back = Browser::new().follow(url, RETURN_URL).await;
    let code = query(&back, "completion_code").unwrap();
    (session["id"].clone(), json!({"completion_code": code, "user_id": user}))
}

async fn one_completion_wins(kind: Kind) {
    let installation = Installation::new(kind).await;
    let provider = provider_for(&installation, 300);
    let (one, other) = (installation.start().await, installation.start_another().await);
    let id = one.register(config(&provider)).await;
    let mut sessions = Vec::new();
    for caller in 0..16 {
        sessions.push(waiting(&one, id, &format!("user-{}", caller % 2)).await);
    }
    let completions = sessions.into_iter().enumerate().map(|(caller, (session, body))| {
        let replica = if caller % 4 < 2 { &one } else { &other };
        async move { replica.post(&format!("/v1/link-sessions/{session}/complete"), body).await }
    });
    let answers = join_all(completions).await;

    let linked: Vec<_> = answers.iter().filter(|it| it.status == StatusCode::OK).collect();
    let winner = linked.first().expect("somebody wins").body["user_id"].clone();
    assert_eq!(linked.len(), 8, "the winner's, and no other's: {answers:?}");
    assert!(linked.iter().all(|it| it.body["user_id"] == winner), "{answers:?}");
    assert_eq!(statuses(&answers, StatusCode::CONFLICT), 8, "{answers:?}");
    let (users, links) = owners(&other, id, "ada").await;
    assert_eq!((users, links), (vec![winner.as_str().unwrap().to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_16_completions_of_one_account_for_two_users_one_user_wins_on_sqlite() {
    one_completion_wins(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_16_completions_of_one_account_for_two_users_one_user_wins_on_postgresql() {
    one_completion_wins(Kind::Postgres).await;
}

/// Identities of the file, and links that are made beside it.
const IMPORTED: i64 = 4000;
const LINKED: usize = 200;

/// Sentry's dump: one provider instance and its identities, each with tokens.
fn dump() -> String {
    let at = "2020-01-31T12:00:00Z";
    let mut rows = vec![json!({
        "model": "sentry.identityprovider", "pk": 100,
        "fields": {"type": "oidc", "external_id": "sentry", "date_added": at,
            "config": {"issuer": "https://op.example", "client_id": "c"}},
    })];
    rows.extend((1..=IMPORTED).map(|pk| {
        json!({
            "model": "sentry.identity", "pk": 1000 + pk,
            "fields": {"idp": 100, "user": pk, "external_id": format!("sentry-{pk}"), "status": 1,
                "data": {"access_token": "t", "refresh_token": "r"}, "scopes": [],
                "date_verified": at, "date_added": at},
        })
    }));
    serde_json::to_string(&rows).unwrap()
}

/// Every identity at a provider, page by page: external ids.
async fn accounts(replica: &Replica, provider: i64) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/identities?provider_id={provider}&limit=200{cursor}");
        let part = replica.get(&path).await.good();
        let items = part["items"].as_array().unwrap().iter();
        found.extend(items.map(|it| it["external_id"].as_str().unwrap().to_owned()));
        let Some(next) = part["next_cursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
    }
}

async fn an_import_beside_the_service(kind: Kind) {
    let installation = Installation::new(kind).await;
    let replica = installation.start().await;
    let provider = register(&replica).await;
    installation.write_file("dump.json", &dump());
    let import = installation.command(&["import", "sentry", "dump.json", "--json"]);
    let links = async {
        let mut slowest = Duration::ZERO;
        for number in 0..LINKED {
            let begun = std::time::Instant::now();
            let body = json!({
                "provider_id": provider, "user_id": format!("u{number}"),
                "external_id": format!("linked-{number}"),
                "data": {"access_token": "t", "refresh_token": "r"},
            });
            let made = replica.post("/v1/identities", body).await;
            assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
            let id = made.body["id"].as_i64().unwrap();
            assert_eq!(replica.token(id).await.status, StatusCode::OK);
            if number % 10 == 9 {
                let path = format!("/v1/identities/{id}?revoke=false");
                replica.call(Method::DELETE, &path, None).await.good();
            }
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let (summary, slowest) = tokio::join!(import, links);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((&summary["created"], &summary["refused"]), (&json!(IMPORTED + 1), &json!(0)));
    assert!(slowest < Duration::from_secs(20), "a caller waited {slowest:?}");

    // Nothing is lost on either side, neither a row nor an event.
    let imported = accounts(&replica, 100).await;
    let expected: BTreeSet<_> = (1..=IMPORTED).map(|pk| format!("sentry-{pk}")).collect();
    assert_eq!(imported.len(), expected.len());
    assert_eq!(imported.into_iter().collect::<BTreeSet<_>>(), expected);
    let linked: BTreeSet<_> = accounts(&replica, provider).await.into_iter().collect();
    let expected = (0..LINKED).filter(|it| it % 10 != 9).map(|it| format!("linked-{it}"));
    assert_eq!(linked, expected.collect());
    for (kind, expected) in [
        ("identity.linked", LINKED),
        ("identity.unlinked", LINKED / 10),
        ("identity.imported", usize::try_from(IMPORTED).unwrap()),
        ("import.finished", 1),
    ] {
        assert_eq!(events(&replica, kind).await, expected, "{kind}");
    }
    // What the import brought works here at once, and again doubles nothing.
    assert_eq!(replica.token(1001).await.status, StatusCode::OK);
    let again = installation.command(&["import", "sentry", "dump.json", "--json"]).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["created"], &again["refused"]), (&json!(0), &json!(0)));
    replica.stop().await;
}

/// How many events of a kind there are.
async fn events(replica: &Replica, kind: &str) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let part = replica.get(&format!("/v1/events?type={kind}&limit=200{cursor}")).await.good();
        count += part["items"].as_array().unwrap().len();
        let Some(next) = part["next_cursor"].as_str() else { return count };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_and_the_service_run_side_by_side_on_sqlite() {
    an_import_beside_the_service(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_and_the_service_run_side_by_side_on_postgresql() {
    an_import_beside_the_service(Kind::Postgres).await;
}
