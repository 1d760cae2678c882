use axum::http::Method;
use serde_json::{Value, json};
use symbolon_domain::{
    ids::{IdentityId, TransferId},
    page::Page,
    ports::{NewTransfer, OnConflict, TransferOutcome, TransferSubject, UndoOutcome},
    testing::fixtures,
    transfer::{Transfer, TransferItem, TransferObstacle, UndoItem},
};

use crate::app::Mocks;

fn item(id: i64) -> TransferItem {
    TransferItem {
        identity_id: IdentityId(id),
        provider_id: fixtures::PROVIDER,
        external_id: fixtures::external_id("account-1"),
        skipped: None,
        undo: None,
    }
}

fn done() -> Transfer {
    let skipped = Some(TransferObstacle::UserHasAnother);
    Transfer {
        id: TransferId(3),
        from_user_id: fixtures::user("user-1"),
        to_user_id: fixtures::user("42"),
        items: vec![item(1), TransferItem { skipped, ..item(2) }],
        actor: fixtures::ACTOR,
        created_at: fixtures::NOW,
        undone_at: None,
    }
}

fn transferring(expected: NewTransfer, outcome: TransferOutcome) -> Mocks {
    let mut mocks = Mocks::default();
    mocks
        .transfers
        .expect_transfer()
        .withf(move |new| *new == expected)
        .return_once(|_| Ok(outcome));
    mocks
}

fn of_user(on_conflict: OnConflict) -> NewTransfer {
    NewTransfer {
        what: TransferSubject::User(fixtures::user("user 1/ü")),
        to_user_id: fixtures::user("42"),
        on_conflict,
        actor: fixtures::ACTOR,
    }
}

fn of_identity() -> NewTransfer {
    NewTransfer { what: TransferSubject::Identity(IdentityId(1)), ..of_user(OnConflict::Fail) }
}

#[tokio::test]
async fn a_transfer_tells_what_became_of_each_identity() {
    let mocks = transferring(of_user(OnConflict::Skip), TransferOutcome::Done(done()));
    let asked = json!({"to_user_id": 42, "on_conflict": "skip"});
    let answer = mocks.app().post("/v1/users/user%201%2F%C3%BC/transfer", asked).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (201, "/v1/transfers/3"));
    let expected = json!({
        "id": 3,
        "from_user_id": "user-1",
        "to_user_id": "42",
        "items": [
            {"identity_id": 1, "provider_id": 1, "external_id": "account-1", "status": "moved"},
            {
                "identity_id": 2, "provider_id": 1, "external_id": "account-1",
                "status": "skipped", "obstacle": "user_has_another",
            },
        ],
        "actor": "api_key:1",
        "created_at": "2026-01-01T00:00:00Z",
        "undone_at": null,
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn an_identity_that_cannot_be_moved_is_refused() {
    let path = "/v1/identities/1/transfer";
    let asked = || json!({"to_user_id": "42"});
    let conflict = TransferOutcome::Conflict(vec![item(1)]);
    let answer = transferring(of_identity(), conflict).app().post(path, asked()).await;
    assert!(answer.problem(409, "transfer_conflict").contains('1'));
    let same = transferring(of_identity(), TransferOutcome::SameUser);
    same.app().post(path, asked()).await.refuses("to_user_id");
    let absent = transferring(of_identity(), TransferOutcome::Absent);
    absent.app().post(path, asked()).await.problem(404, "not_found");

    let conflict = TransferOutcome::Conflict(vec![item(1), item(2)]);
    let mocks = transferring(of_user(OnConflict::Fail), conflict);
    let answer = mocks.app().post("/v1/users/user%201%2F%C3%BC/transfer", asked()).await;
    assert!(answer.problem(409, "transfer_conflict").contains("1, 2"));
    Mocks::default().app().post("/v1/users/a%0Ab/transfer", asked()).await.refuses("user_id");
    Mocks::default().app().post("/v1/users/a%FF/transfer", asked()).await.refuses("user_id");
}

#[tokio::test]
async fn an_undone_transfer_tells_what_could_not_be_given_back() {
    let mut undone = done();
    undone.items[0].undo = Some(UndoItem::GivenBack);
    undone
        .items
        .push(TransferItem { undo: Some(UndoItem::Kept(TransferObstacle::Unlinked)), ..item(9) });
    undone.undone_at = Some(fixtures::NOW);
    let mut mocks = Mocks::default();
    mocks.transfers.expect_undo().returning(move |id, actor| {
        assert_eq!(*actor, fixtures::ACTOR);
        Ok(match id.0 {
            3 => UndoOutcome::Undone(undone.clone()),
            4 => UndoOutcome::AlreadyUndone(done()),
            _ => UndoOutcome::Absent,
        })
    });
    let app = mocks.app();
    let answer = app.call(Method::POST, "/v1/transfers/3/undo", None).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    let status: Vec<_> =
        answer["items"].as_array().unwrap().iter().map(|it| &it["status"]).collect();
    assert_eq!(status, ["given_back", "skipped", "kept"]);
    assert_eq!(answer["items"][2]["obstacle"], "unlinked");
    assert_eq!(answer["undone_at"], "2026-01-01T00:00:00Z");
    app.post("/v1/transfers/4/undo", json!({})).await.problem(409, "already_undone");
    app.post("/v1/transfers/5/undo", json!({})).await.problem(404, "not_found");
}

#[tokio::test]
async fn transfers_are_found_and_listed_by_user() {
    let mut mocks = Mocks::default();
    mocks.transfers.expect_find().returning(|id| Ok((id.0 == 3).then(done)));
    mocks
        .transfers
        .expect_list()
        .withf(|user, page| *user == Some(&fixtures::user("u")) && page.limit == 2)
        .returning(|_, _| Ok(Page { items: vec![done()], next: None }));
    let app = mocks.app();
    assert_eq!(app.get("/v1/transfers/3").await.json()["id"], 3);
    app.get("/v1/transfers/4").await.problem(404, "not_found");
    let list = app.get("/v1/transfers?user_id=u&limit=2").await.json();
    assert_eq!((&list["items"][0]["id"], &list["next_cursor"]), (&json!(3), &Value::Null));
}
