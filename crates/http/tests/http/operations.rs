use std::collections::BTreeSet;

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use symbolon_domain::testing::fixtures;
use symbolon_http::{REQUEST_DURATION, REQUEST_DURATION_BUCKETS, Unready};

use crate::app::{Mocks, Ports};

#[tokio::test]
async fn a_process_that_runs_is_healthy() {
    let answer = Mocks::default().app().browse("/healthz", None).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "ok"));
}

#[tokio::test]
async fn a_replica_is_ready_or_says_what_is_not() {
    let answer = Ports::default().app().browse("/readyz", None).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"status": "ready", "not_ready": []}));

    let unready = vec![Unready { name: "database", detail: "does not answer" }];
    let answer = Ports { unready, ..Ports::default() }.app().browse("/readyz", None).await;
    assert_eq!(answer.status, 503);
    let database = json!({"name": "database", "detail": "does not answer"});
    assert_eq!(answer.json(), json!({"status": "not_ready", "not_ready": [database]}));
}

#[tokio::test]
async fn metrics_are_whatever_the_recorder_renders() {
    let answer = Ports::default().app().browse("/metrics", None).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "# no metrics\n"));
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
}

#[tokio::test]
async fn requests_are_counted_by_route_and_never_by_id() {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            metrics_exporter_prometheus::Matcher::Full(REQUEST_DURATION.into()),
            &REQUEST_DURATION_BUCKETS,
        )
        .unwrap()
        .build_recorder();
    let handle = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);

    let mut mocks = Mocks::default();
    mocks
        .identities
        .expect_find()
        .returning(|id| Ok((id == fixtures::IDENTITY).then(fixtures::identity)));
    let app = mocks.app();
    app.get("/v1/identities/1").await;
    app.get("/v1/identities/4711").await;
    app.get("/v1/identities/4712").await;
    app.get("/v1/nothing/4711?user_id=4711").await;
    app.browse("/connect/4711", None).await;

    let rendered = handle.render();
    assert!(!rendered.contains("471"), "{rendered}");
    let counted: BTreeSet<_> =
        rendered.lines().filter(|it| it.starts_with("http_requests_total{")).collect();
    insta::assert_snapshot!(counted.into_iter().collect::<Vec<_>>().join("\n"), @r#"
    http_requests_total{route="/connect/{token}",method="GET",status="400"} 1
    http_requests_total{route="/v1/identities/{id}",method="GET",status="200"} 1
    http_requests_total{route="/v1/identities/{id}",method="GET",status="404"} 2
    http_requests_total{route="unmatched",method="GET",status="404"} 1
    "#);
    assert!(rendered.contains("http_request_duration_seconds_bucket{"), "{rendered}");
}
