//! The event log, and what it explains.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};
use symbolon_domain::{
    event::{EventKind, NewEvent},
    identity::Identity,
    ids::{EventId, IdentityId, ProviderId},
    link_evidence::{IdTokenEvidence, LinkCheck, LinkEvidence},
    page::{Page, PageRequest},
    ports::{
        EventFilter, EventLog as _, IdentityProviderRepository as _, IdentityRepository as _, Link,
        LinkOutcome,
    },
    testing::{MemoryStore, fixtures},
};

use crate::app::{ADMIN, App, Mocks, Ports};

#[tokio::test]
async fn events_are_filtered_and_paged_and_shown_in_full() {
    let mut mocks = Mocks::default();
    mocks.events.expect_list().times(1).returning(|filter, page| {
        let expected = EventFilter {
            kinds: vec![EventKind::IdentityLinked, EventKind::GrantRevoked],
            identity_id: Some(IdentityId(7)),
            provider_id: Some(ProviderId(3)),
            user_id: Some(fixtures::user("u")),
            organization_id: Some(fixtures::organization("o")),
            after: Some(EventId(41)),
        };
        assert_eq!((filter, page), (&expected, PageRequest { limit: 1, after: None }));
        Ok(Page { items: vec![fixtures::event()], next: Some(1) })
    });
    let path = "/v1/events?after=41&type=identity.linked,grant.revoked&identity_id=7&user_id=u\
        &organization_id=o&provider_id=3&limit=1";
    let answer = mocks.app().get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["items"][0], Value::Object(fixtures::event().shown()));
    assert!(answer.json()["next_cursor"].is_string());
    insta::assert_snapshot!(answer.json()["items"][0], @r#"{"acting_user":null,"actor":"api_key:1","after":{"status":null},"at":"2026-01-01T00:00:00Z","before":{"status":"valid"},"detail":{"note":"by request"},"id":1,"identity_id":1,"organization_id":"organization-1","provider_id":1,"reason":null,"type":"grant.revoked","user_id":"user-1"}"#);
}

struct World {
    store: Arc<MemoryStore>,
    app: App,
    identity: Identity,
    link: Link,
}

async fn linked_with(evidence: LinkEvidence) -> World {
    let store = Arc::new(MemoryStore::default());
    let new = fixtures::new_identity_provider();
    let provider = store.insert(&new, &fixtures::ACTOR).await.unwrap().id;
    let link = Link { provider_id: provider, evidence, ..fixtures::link() };
    let outcome = store.link(&link).await.unwrap();
    let LinkOutcome::Created(identity) = outcome else { panic!("{outcome:?}") };
    let mut keys = symbolon_domain::ports::MockApiKeyRepository::new();
    keys.expect_find_by_hash().returning(|_| Ok(Some(fixtures::api_key())));
    let app = Ports {
        keys: Arc::new(keys),
        identities: store.clone(),
        events: store.clone(),
        ..Ports::default()
    }
    .app();
    World { store, app, identity, link }
}

#[tokio::test]
async fn a_link_is_explained_by_its_evidence_and_how_refreshes_went_since() {
    let evidence = LinkEvidence {
        checks: vec![LinkCheck::State, LinkCheck::Pkce, LinkCheck::Nonce],
        issuer: Some("https://idp.example".into()),
        id_token: Some(IdTokenEvidence {
            alg: Some("ES256".into()),
            aud: vec!["client".into()],
            auth_time: Some(fixtures::NOW),
            ..IdTokenEvidence::default()
        }),
        ..fixtures::link_evidence()
    };
    let world = linked_with(evidence).await;
    let refreshed = async |about| {
        let id = Some(world.identity.id);
        let event = NewEvent { identity_id: id, ..NewEvent::new(about, &fixtures::ACTOR) };
        world.store.append(&event).await.unwrap();
    };
    refreshed(EventKind::IdentityRefreshed).await;
    refreshed(EventKind::IdentityDataUpdated).await;
    refreshed(EventKind::IdentityRefreshFailed).await;

    let path = format!("/v1/identities/{}/explain", world.identity.id);
    let told = world.app.get(&path).await.json();
    assert_eq!(told["identity_id"], world.identity.id.0);
    let linked = &told["linked"];
    for (key, value) in [
        ("type", json!("identity.linked")),
        ("method", json!("browser")),
        ("actor", json!("api_key:1")),
        ("issuer", json!("https://idp.example")),
    ] {
        assert_eq!(linked[key], value, "{key}");
    }
    assert_eq!(linked["evidence"]["checks"], json!(["state", "pkce", "nonce"]));
    assert_eq!(linked["evidence"]["id_token"]["alg"], "ES256");
    assert_eq!(linked["evidence"]["id_token"]["auth_time"], "2026-01-01T00:00:00Z");
    assert_eq!(told["verified"], Value::Null);
    let types = |told: &Value| {
        let items = told["refreshes"]["items"].as_array().unwrap().clone();
        items.into_iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(types(&told), ["identity.refreshed", "identity.refresh_failed"]);
    let first = world.app.get(&format!("{path}?limit=1")).await.json();
    let cursor = first["refreshes"]["next_cursor"].as_str().unwrap();
    let next = world.app.get(&format!("{path}?cursor={cursor}")).await.json();
    assert_eq!(types(&next), ["identity.refresh_failed"]);

    world.store.link(&world.link).await.unwrap();
    let told = world.app.get(&path).await.json();
    assert_eq!(told["verified"]["type"], "identity.relinked");
    assert_eq!(told["linked"]["type"], "identity.linked");
    assert_eq!(types(&told).len(), 2, "a proof renews the link and does not begin it anew");

    let rebound = Link { owner: fixtures::owner("other"), reattach: true, ..world.link.clone() };
    world.store.link(&rebound).await.unwrap();
    let told = world.app.get(&path).await.json();
    assert_eq!(
        (&told["linked"]["type"], &told["verified"]),
        (&json!("identity.rebound"), &Value::Null)
    );
    assert_eq!(types(&told), Vec::<String>::new(), "those were another user's");
}

#[tokio::test]
async fn what_an_older_version_linked_is_explained_as_far_as_is_known() {
    let mut mocks = Mocks::default();
    mocks.identities.expect_find().returning(|_| Ok(Some(fixtures::identity())));
    mocks.events.expect_find_last().returning(|filter| {
        let linked = filter.kinds.contains(&EventKind::IdentityLinked);
        let event = NewEvent::new(EventKind::IdentityLinked, &fixtures::ACTOR);
        Ok(linked.then(|| event.kept(EventId(5), fixtures::NOW)))
    });
    mocks.events.expect_list().returning(|filter, _| {
        assert_eq!(filter.after, Some(EventId(5)));
        Ok(Page { items: Vec::new(), next: None })
    });
    let told = mocks.app().get("/v1/identities/1/explain").await.json();
    let linked = &told["linked"];
    assert_eq!((&linked["actor"], &linked["at"]), (&json!("api_key:1"), &json!(fixtures::NOW)));
    assert_eq!((&linked["method"], &linked["evidence"]), (&Value::Null, &Value::Null));

    let mut mocks = Mocks::default();
    mocks.identities.expect_find().returning(|_| Ok(None));
    mocks.app().get("/v1/identities/1/explain").await.problem(404, "not_found");
}

#[tokio::test]
async fn whom_and_why_a_caller_acts_is_in_the_event() {
    let world = linked_with(fixtures::link_evidence()).await;
    let unlink = |user: &str, reason: &str| {
        Request::builder()
            .method(Method::DELETE)
            .uri(format!("/v1/identities/{}?revoke=false", world.identity.id))
            .header("authorization", format!("Bearer {ADMIN}"))
            .header("Symbolon-Acting-User", user.as_bytes())
            .header("Symbolon-Reason", reason.as_bytes())
            .body(Body::empty())
            .unwrap()
    };
    let too_long = "x".repeat(501);
    world.app.send(unlink("zoë", &too_long)).await.refuses("Symbolon-Reason");
    world.app.send(unlink("", "why")).await.refuses("Symbolon-Acting-User");
    assert_eq!(world.app.send(unlink("zoë", "asked by mail")).await.status, 204);
    let last = world.store.find_last(&EventFilter::default()).await.unwrap().unwrap();
    assert_eq!(last.about, EventKind::IdentityUnlinked);
    assert_eq!(last.actor.acting_user, Some(fixtures::user("zoë")));
    assert_eq!(last.actor.reason.as_deref(), Some("asked by mail"));
}
