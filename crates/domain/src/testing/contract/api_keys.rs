//! [`ApiKeyRepository`](crate::ports::ApiKeyRepository).

use std::sync::Arc;

use super::{ALL, Store, events, kinds, race};
use crate::{
    api_key::{ApiKey, KeyLimits, KeyScope, UserPattern},
    event::{Actor, EventKind},
    ids::ApiKeyId,
    page::PageRequest,
    ports::RepositoryError,
    secret::SecretHash,
    testing::fixtures::{ACTOR, PROVIDER, organization},
};

async fn insert(store: &Arc<dyn Store>, name: &str) -> ApiKey {
    let hash = SecretHash::of(name);
    store
        .api_keys()
        .insert(name, KeyScope::ALL, &KeyLimits::NONE, &hash, &Actor::OPERATOR)
        .await
        .unwrap()
}

/// An API key is found by the hash of its secret, with its scopes and limits, and told of.
pub async fn an_api_key_is_found_by_its_hash(store: &Arc<dyn Store>) {
    let key = insert(store, "the key").await;
    assert_eq!(
        key,
        ApiKey {
            id: key.id,
            name: "the key".into(),
            scopes: KeyScope::ALL.to_vec(),
            limits: KeyLimits::NONE,
            created_at: key.created_at,
            revoked_at: None,
        }
    );
    let limits = KeyLimits {
        organizations: Some(vec![organization("org-1"), organization("org-2")]),
        provider_types: Some(vec!["oidc".into()]),
        providers: Some(vec![PROVIDER]),
        token_scopes: Some(vec!["repo".into(), "user".into()]),
        users: Some(vec![UserPattern::new("user-1").unwrap(), UserPattern::new("t:*").unwrap()]),
    };
    let hash = SecretHash::of("none");
    let none = store.api_keys().insert("none", &[], &limits, &hash, &ACTOR).await.unwrap();
    assert_eq!(none.limits, limits);
    assert_eq!(none.scopes, []);
    for it in [key, none] {
        let found = store.api_keys().find_by_hash(&SecretHash::of(&it.name)).await.unwrap();
        assert_eq!(found, Some(it));
    }
    assert_eq!(store.api_keys().find_by_hash(&SecretHash::of("another")).await.unwrap(), None);
    let told = events(store).await;
    let told: Vec<_> = told.into_iter().map(|it| (it.about, it.actor)).collect();
    let created = EventKind::ApiKeyCreated;
    assert_eq!(told, [(created, Actor::OPERATOR), (created, ACTOR)]);
}

/// A hash is taken once, also in a race; names may be alike.
pub async fn the_hash_of_an_api_key_is_taken_once(store: &Arc<dyn Store>) {
    let results = race(16, |_| {
        let store = store.clone();
        let hash = SecretHash::of("one");
        async move {
            store.api_keys().insert("n", &[KeyScope::Admin], &KeyLimits::NONE, &hash, &ACTOR).await
        }
    })
    .await;
    let kept = results.iter().filter(|it| it.is_ok()).count();
    let refused = results.iter().filter(|it| matches!(it, Err(RepositoryError::Conflict))).count();
    assert_eq!((kept, refused), (1, 15), "{results:?}");
    assert_eq!(kinds(store).await, [EventKind::ApiKeyCreated]);

    store
        .api_keys()
        .insert("n", &[], &KeyLimits::NONE, &SecretHash::of("two"), &ACTOR)
        .await
        .unwrap();
    assert_eq!(store.api_keys().list(ALL).await.unwrap().items.len(), 2);
}

/// A revoked key is still found, with the time; revoking it again changes nothing.
pub async fn revoking_an_api_key_again_changes_nothing(store: &Arc<dyn Store>) {
    let (key, bystander) = (insert(store, "a").await, insert(store, "b").await);
    let revoked = store.api_keys().revoke(key.id, &ACTOR).await.unwrap().unwrap();
    let revoked_at = revoked.revoked_at.unwrap();
    assert!(revoked_at >= key.created_at);
    assert_eq!(revoked, ApiKey { revoked_at: Some(revoked_at), ..key.clone() });

    let again = store.api_keys().revoke(key.id, &Actor::OPERATOR).await.unwrap();
    assert_eq!(again.as_ref(), Some(&revoked));
    let found = store.api_keys().find_by_hash(&SecretHash::of("a")).await.unwrap();
    assert_eq!(found, Some(revoked));
    let found = store.api_keys().find_by_hash(&SecretHash::of("b")).await.unwrap();
    assert_eq!(found, Some(bystander));
    assert_eq!(store.api_keys().revoke(ApiKeyId(4_711), &ACTOR).await.unwrap(), None);
    let told = events(store).await;
    assert_eq!(told.len(), 3);
    assert_eq!((told[2].about, &told[2].actor), (EventKind::ApiKeyRevoked, &ACTOR));
}

/// API keys are listed in pages of ascending id, revoked ones too.
pub async fn api_keys_are_listed_revoked_ones_too(store: &Arc<dyn Store>) {
    let mut keys = Vec::new();
    for name in ["a", "b", "c"] {
        keys.push(insert(store, name).await);
    }
    keys[1] = store.api_keys().revoke(keys[1].id, &ACTOR).await.unwrap().unwrap();

    let page = PageRequest { limit: 2, after: None };
    let first = store.api_keys().list(page).await.unwrap();
    assert_eq!((first.items.as_slice(), first.next), (&keys[..2], Some(keys[1].id.0)));
    let page = PageRequest { after: first.next, ..page };
    let second = store.api_keys().list(page).await.unwrap();
    assert_eq!((second.items.as_slice(), second.next), (&keys[2..], None));
}
