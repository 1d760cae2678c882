//! What each change tells: what was before and is after, who did it for whom and why, no secret.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use super::{ALL, Store, link, linked, provider};
use crate::{
    api_key::{KeyLimits, KeyScope},
    credentials::Credentials,
    event::{Actor, Event, EventKind},
    ids::IdentityId,
    link_evidence::LinkEvidence,
    ports::{
        DataUpdate, EventFilter, LeaseOutcome, Link, NewIdentityProvider, ProviderDeletion,
        RefreshEnd, Unlink,
    },
    secret::{Secret, SecretHash},
    testing::fixtures,
};

fn actor() -> Actor {
    Actor {
        acting_user: Some(fixtures::user("support-1")),
        ..Actor::api_key(fixtures::API_KEY).because("ticket 4711")
    }
}

fn canaries() -> Credentials {
    Credentials {
        access_token: Some(Secret::new("canary-access")),
        refresh_token: Some(Secret::new("canary-refresh")),
        id_token: Some(Secret::new("canary-id")),
        ..fixtures::credentials()
    }
}

/// The events after this one, which must be of these kinds, and hold no secret.
async fn told(
    store: &Arc<dyn Store>,
    since: &mut Option<Event>,
    kinds: &[EventKind],
) -> Vec<Event> {
    let filter = EventFilter { after: since.as_ref().map(|it| it.id), ..EventFilter::default() };
    let events = store.events().list(&filter, ALL).await.unwrap().items;
    assert_eq!(events.iter().map(|it| it.about).collect::<Vec<_>>(), kinds);
    for event in &events {
        let shown = Value::Object(event.shown()).to_string();
        assert!(!shown.contains("canary"), "{shown}");
    }
    *since = events.last().cloned();
    events
}

fn keys(side: Option<&Map<String, Value>>) -> Option<Vec<&str>> {
    side.map(|it| it.keys().map(String::as_str).collect())
}

/// The keys that are told of both sides.
fn both(event: &Event) -> (Option<Vec<&str>>, Option<Vec<&str>>) {
    (keys(event.before.as_ref()), keys(event.after.as_ref()))
}

const IDENTITY: [&str; 8] =
    ["data", "expires_at", "external_id", "idp_id", "scopes", "status", "user_id", "version"];

async fn refresh(store: &Arc<dyn Store>, id: IdentityId, end: &RefreshEnd) {
    let generation = store.credentials().find(id).await.unwrap().unwrap().generation;
    let time = Duration::from_mins(5);
    let taken = store.credentials().take_lease(id, generation, "replica-1", time).await.unwrap();
    let LeaseOutcome::Taken(lease, _) = taken else { panic!("{taken:?}") };
    store.credentials().end(&lease, end).await.unwrap();
}

/// Every change of an identity tells exactly what changed, who did it, for whom and why, and on
/// what evidence; and no credential.
pub async fn every_change_of_an_identity_tells_before_and_after(store: &Arc<dyn Store>) {
    let at = provider(store, "the identity's").await;
    let mut since = None;
    told(store, &mut since, &[EventKind::ProviderCreated]).await;
    let asked = Link { actor: actor(), credentials: Some(canaries()), ..link(at, "u", "a") };
    let identity = linked(store, &asked).await;
    let id = identity.id;

    let event = told(store, &mut since, &[EventKind::IdentityLinked]).await.remove(0);
    assert_eq!((event.before.clone(), event.after.clone()), (None, Some(identity.facts())));
    assert_eq!(both(&event).1.as_deref(), Some(&IDENTITY[..]));
    assert_eq!(event.actor, actor());
    assert_eq!(LinkEvidence::from_detail(&event.detail), Some(fixtures::link_evidence()));

    let again = Link { data: fixtures::object(json!({"name": "B"})), ..asked.clone() };
    linked(store, &again).await;
    let event = told(store, &mut since, &[EventKind::IdentityRelinked]).await.remove(0);
    let changed = Some(vec!["data", "version"]);
    assert_eq!(both(&event), (changed.clone(), changed));
    assert_eq!(event.actor, actor());

    let rebound = Link { reattach: true, external_id: fixtures::external_id("b"), ..again };
    linked(store, &rebound).await;
    // The account that it named until now keeps a grant that nobody uses any more.
    let kinds = [EventKind::GrantRevocationQueued, EventKind::IdentityRebound];
    let event = told(store, &mut since, &kinds).await.remove(1);
    let changed = Some(vec!["external_id", "version"]);
    assert_eq!(both(&event), (changed.clone(), changed));
    assert_eq!(event.before.as_ref().unwrap()["external_id"], "a");
    assert_eq!(event.after.as_ref().unwrap()["external_id"], "b");
    assert!(LinkEvidence::from_detail(&event.detail).is_some());

    let update = DataUpdate { actor: actor(), ..fixtures::data_update() };
    let update = DataUpdate { id, if_version: None, credentials: Some(canaries()), ..update };
    store.identities().update_data(&update).await.unwrap();
    let event = told(store, &mut since, &[EventKind::IdentityDataUpdated]).await.remove(0);
    assert_eq!((event.identity_id, event.actor.clone()), (Some(id), actor()));
    assert_eq!(event.before.as_ref().unwrap()["data"], json!({"name": "B"}));
    assert_eq!(event.after.as_ref().unwrap()["data"], Value::Object(update.data));

    let replica = Actor::replica("replica-1");
    refresh(store, id, &RefreshEnd::Failed { back_off: fixtures::back_off(), answered: true })
        .await;
    let event = told(store, &mut since, &[EventKind::IdentityRefreshFailed]).await.remove(0);
    assert_eq!(event.actor, replica);
    refresh_now(store, id).await;
    let event = told(store, &mut since, &[EventKind::IdentityRefreshed]).await.remove(0);
    assert_eq!(event.actor, replica);
    let (before, after) = (event.before.as_ref().unwrap(), event.after.as_ref().unwrap());
    assert_eq!(before["version"].as_i64().unwrap() + 1, after["version"].as_i64().unwrap());

    refresh(store, id, &super::end_invalid()).await;
    let event = told(store, &mut since, &[EventKind::IdentityInvalidated]).await.remove(0);
    assert_eq!(event.before.as_ref().unwrap()["status"], "valid");
    assert_eq!(event.after.as_ref().unwrap()["status"], "invalid");
    assert_eq!(event.detail["reason"], "grant_rejected");

    let last = store.identities().find(id).await.unwrap().unwrap();
    store.identities().unlink(&Unlink::unguarded(id, &actor())).await.unwrap();
    let event = told(store, &mut since, &[EventKind::IdentityUnlinked]).await.remove(0);
    assert_eq!((event.before.clone(), event.after.clone()), (Some(last.facts()), None));
    assert_eq!(event.actor, actor());
}

/// A refresh that brings new credentials, whatever held it back.
async fn refresh_now(store: &Arc<dyn Store>, id: IdentityId) {
    let answer = Credentials { access_token: Some(Secret::new("canary-2")), ..canaries() };
    let generation = store.credentials().find(id).await.unwrap().unwrap().generation;
    let time = Duration::from_mins(5);
    let taken = store.credentials().take_lease(id, generation, "replica-1", time).await.unwrap();
    let LeaseOutcome::Taken(lease, _) = taken else { panic!("{taken:?}") };
    store.credentials().commit(&lease, &answer).await.unwrap();
}

/// Every change of a provider and of an API key tells what was before and is after, and no secret.
pub async fn every_change_of_a_provider_or_key_tells_before_and_after(store: &Arc<dyn Store>) {
    let mut since = None;
    let mut new = NewIdentityProvider { ..fixtures::new_identity_provider() };
    for secret in new.secrets.values_mut() {
        *secret = Secret::new("canary-client-secret");
    }
    let made = store.providers().insert(&new, &actor()).await.unwrap();
    let event = told(store, &mut since, &[EventKind::ProviderCreated]).await.remove(0);
    assert_eq!((event.before, event.after), (None, Some(made.facts())));
    assert_eq!((event.actor, event.provider_id), (actor(), Some(made.id)));

    let mut update = fixtures::provider_update(made.id, made.version, &made.config, &new.secrets);
    update.config.insert("issuer".into(), json!("https://other.example"));
    store.providers().update(&update, &actor()).await.unwrap();
    let event = told(store, &mut since, &[EventKind::ProviderUpdated]).await.remove(0);
    assert_eq!(event.actor, actor());
    assert_ne!(event.before, event.after);
    assert!(Value::Object(event.after.unwrap()).to_string().contains("https://other.example"));

    let last = store.providers().find(made.id).await.unwrap().unwrap();
    let deleted = store.providers().delete(made.id, false, &actor()).await.unwrap();
    assert!(matches!(deleted, ProviderDeletion::Deleted(0)), "{deleted:?}");
    let event = told(store, &mut since, &[EventKind::ProviderDeleted]).await.remove(0);
    assert_eq!((event.before, event.after), (Some(last.facts()), None));

    let hash = SecretHash::of("canary-key");
    let key = store
        .api_keys()
        .insert("k", &[KeyScope::Admin], &KeyLimits::default(), &hash, &actor())
        .await
        .unwrap();
    let event = told(store, &mut since, &[EventKind::ApiKeyCreated]).await.remove(0);
    assert_eq!((event.before, event.after), (None, Some(key.facts())));
    assert_eq!(event.detail["api_key_id"], key.id.0);
    store.api_keys().revoke(key.id, &actor()).await.unwrap();
    let event = told(store, &mut since, &[EventKind::ApiKeyRevoked]).await.remove(0);
    let changed = Some(vec!["revoked_at"]);
    assert_eq!(both(&event), (changed.clone(), changed));
    assert_eq!((event.before.unwrap()["revoked_at"].clone(), event.actor), (Value::Null, actor()));
}
