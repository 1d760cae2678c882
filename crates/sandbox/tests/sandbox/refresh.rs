use std::time::Duration;

use reqwest::StatusCode;
use symbolon_sandbox::{Endpoint, Fault, SandboxSettings, Times};

use crate::relying_party::{assert_refused, settings, soon, start, start_with, tokens};

#[tokio::test]
async fn a_refresh_rotates_and_names_the_same_user() {
    let rp = start().await;
    let first = rp.exchange().await;
    let second = rp.refresh(first.text("refresh_token")).await;
    assert_ne!(first.text("refresh_token"), second.text("refresh_token"));
    assert_ne!(first.text("access_token"), second.text("access_token"));
    assert_eq!(rp.userinfo(second.text("access_token")).await.status(), StatusCode::OK);
    let (before, after) = (
        rp.verify(first.text("id_token")).await.unwrap(),
        rp.verify(second.text("id_token")).await.unwrap(),
    );
    assert_eq!((&before["sub"], &before["auth_time"]), (&after["sub"], &after["auth_time"]));
    assert!(after.get("nonce").is_none());
    rp.refresh(second.text("refresh_token")).await;
    assert_eq!((rp.sandbox.refreshes(), rp.sandbox.refresh_reuses()), (2, 0));
}

#[tokio::test]
async fn a_spent_refresh_token_revokes_its_family() {
    let rp = start().await;
    let (first, other) = (rp.exchange().await, rp.exchange().await);
    let second = rp.refresh(first.text("refresh_token")).await;
    let reused = rp.try_refresh(first.text("refresh_token")).await.unwrap();
    assert_refused(reused, 400, "invalid_grant").await;
    let third = rp.try_refresh(second.text("refresh_token")).await.unwrap();
    assert_refused(third, 400, "invalid_grant").await;
    let status = rp.userinfo(second.text("access_token")).await.status();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    rp.refresh(other.text("refresh_token")).await;
    let counters = rp.sandbox.counters();
    assert_eq!((counters.refresh_reuses, counters.revoked_families), (1, 1));
    assert_eq!(counters.concurrent_uses_of_one_refresh_token, 0);
}

#[tokio::test]
async fn within_the_reuse_interval_the_same_successor_is_answered() {
    let rp =
        start_with(SandboxSettings { reuse_interval: Duration::from_secs(30), ..settings() }).await;
    let first = rp.exchange().await;
    let second = rp.refresh(first.text("refresh_token")).await;
    let again = rp.refresh(first.text("refresh_token")).await;
    assert_eq!(again.text("refresh_token"), second.text("refresh_token"));
    rp.sandbox.advance_clock(Duration::from_secs(31));
    let reused = rp.try_refresh(first.text("refresh_token")).await.unwrap();
    assert_refused(reused, 400, "invalid_grant").await;
    assert!(rp.sandbox.is_revoked(second.text("refresh_token")));
}

#[tokio::test]
async fn without_rotation_a_refresh_token_is_good_again_and_again() {
    let rp = start_with(SandboxSettings { rotate_refresh_tokens: false, ..settings() }).await;
    let first = rp.exchange().await;
    for _ in 0..3 {
        let next = rp.refresh(first.text("refresh_token")).await;
        assert!(next.0.get("refresh_token").is_none(), "{:?}", next.0);
    }
    assert_eq!((rp.sandbox.refreshes(), rp.sandbox.refresh_reuses()), (3, 0));
}

#[tokio::test]
async fn a_refresh_may_ask_for_less_and_not_for_more() {
    let rp = start().await;
    let first = rp.exchange().await;
    let refresh = |scope| {
        let token = first.text("refresh_token");
        [("grant_type", "refresh_token"), ("refresh_token", token), ("scope", scope)]
    };
    let more = rp.try_token(&refresh("openid offline_access")).await.unwrap();
    assert_refused(more, 400, "invalid_scope").await;
    // The refused request has spent nothing.
    let less = tokens(rp.try_token(&refresh("openid")).await.unwrap()).await;
    assert_eq!(less.0["scope"], "openid");
    let whole = rp.refresh(less.text("refresh_token")).await;
    assert_eq!(whole.0["scope"], "openid profile email");
}

#[tokio::test]
async fn two_uses_of_one_refresh_token_at_once_are_counted() {
    let rp = start().await;
    let first = rp.exchange().await;
    // The first one is held until the second one was answered.
    rp.sandbox.faults().inject(Endpoint::Refresh, Fault::Hang, Times::Next(1)).unwrap();
    let token = first.text("refresh_token");
    let (hung, answered) = soon(async {
        tokio::join!(rp.try_refresh(token), async {
            rp.sandbox.wait_for(|it| it.count(Endpoint::Refresh) == 1).await;
            let answered = rp.try_refresh(token).await;
            rp.sandbox.faults().clear_all();
            answered
        })
    })
    .await;
    assert!(hung.is_err());
    assert_eq!(answered.unwrap().status(), StatusCode::OK);
    assert_eq!(rp.sandbox.concurrent_uses_of_one_refresh_token(), 1);
}

#[tokio::test]
async fn of_two_refreshes_that_race_one_wins_and_the_family_is_revoked() {
    let rp = start().await;
    let first = rp.exchange().await;
    let token = first.text("refresh_token");
    let (one, other) = tokio::join!(rp.try_refresh(token), rp.try_refresh(token));
    let mut statuses = [one.unwrap().status().as_u16(), other.unwrap().status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    let counters = rp.sandbox.counters();
    assert_eq!((counters.refreshes, counters.refresh_reuses), (1, 1));
    assert_eq!(counters.revoked_families, 1);
}
