//! [`IdentityProviderRepository`](crate::ports::IdentityProviderRepository).

use std::sync::Arc;

use serde_json::json;

use super::{ALL, Store, kinds, link, linked, provider, race};
use crate::{
    event::{Event, EventKind},
    identity::IdentityFilter,
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::ProviderId,
    page::PageRequest,
    ports::{
        EventFilter, LinkOutcome, NewIdentityProvider, ProviderDeletion, ProviderFilter,
        RepositoryError,
    },
    secret::Secret,
    testing::fixtures::{self, ACTOR},
};

/// A provider is found as it was inserted, in its first version, and told of.
pub async fn a_provider_is_found_as_it_was_inserted(store: &Arc<dyn Store>) {
    let new = NewIdentityProvider {
        config: fixtures::object(json!({ "issuer": "https://ü", "n": [1, null, { "x": {} }] })),
        secrets: ["b", "a", "c"].map(|it| (it.into(), Secret::new(it))).into(),
        ..fixtures::new_identity_provider()
    };
    let inserted = store.providers().insert(&new, &ACTOR).await.unwrap();
    assert_eq!(
        inserted,
        IdentityProvider {
            id: inserted.id,
            provider_type: new.provider_type,
            external_id: None,
            config: new.config,
            secret_names: vec!["a".into(), "b".into(), "c".into()],
            options: fixtures::new_identity_provider().options,
            names_issuer: false,
            date_added: inserted.date_added,
            version: 1,
        }
    );
    assert_eq!(inserted.date_added.timestamp_subsec_nanos() % 1000, 0);
    assert_eq!(store.providers().find(inserted.id).await.unwrap().as_ref(), Some(&inserted));
    let event = last_event(store).await;
    assert_eq!((event.about, event.actor), (EventKind::ProviderCreated, ACTOR));
    assert_eq!(event.provider_id, Some(inserted.id));
}

/// The secrets of a provider come back as they went in.
pub async fn the_secrets_of_a_provider_come_back_as_they_went_in(store: &Arc<dyn Store>) {
    let many = ["client_secret", "private_key", "empty"];
    let many = many.map(|it| (it.into(), Secret::new(format!("\u{1d11e}\n{it}")))).into();
    for (name, secrets) in [("many", many), ("none", ProviderSecrets::new())] {
        let new = NewIdentityProvider {
            external_id: Some(name.into()),
            secrets: secrets.clone(),
            ..fixtures::new_identity_provider()
        };
        let inserted = store.providers().insert(&new, &ACTOR).await.unwrap();
        let found = store.providers().find_with_secrets(inserted.id).await.unwrap();
        assert_eq!(found, Some((inserted, secrets)));
    }
}

/// A provider that is not there is absent: to be found, changed, or deleted.
pub async fn a_provider_that_is_not_there_is_absent(store: &Arc<dyn Store>) {
    let (nowhere, providers) = (ProviderId(4_711), store.providers());
    assert_eq!(providers.find(nowhere).await.unwrap(), None);
    assert_eq!(providers.find_with_secrets(nowhere).await.unwrap(), None);
    assert_eq!(providers.find_by_key("oidc", None).await.unwrap(), None);
    let NewIdentityProvider { config, secrets, .. } = fixtures::new_identity_provider();
    let updated = providers
        .update(&fixtures::provider_update(nowhere, 1, &config, &secrets), &ACTOR)
        .await
        .unwrap();
    assert_eq!(updated, None);
    providers.record_issuer_named(nowhere).await.unwrap();
    for cascade in [false, true] {
        let deleted = providers.delete(nowhere, cascade, &ACTOR).await.unwrap();
        assert_eq!(deleted, ProviderDeletion::Absent);
    }
    assert_eq!(kinds(store).await, []);
}

/// Type and external id are unique together, an absent external id counting as a value.
pub async fn type_and_external_id_are_unique(store: &Arc<dyn Store>) {
    let keys = [
        ("oidc", None),
        ("oidc", Some("")),
        ("oidc", Some("a")),
        ("oidc", Some("A")),
        ("github", None),
        ("github", Some("a")),
    ];
    let insert = async |(provider_type, external_id): (&str, Option<&str>)| {
        let new = NewIdentityProvider {
            provider_type: provider_type.into(),
            external_id: external_id.map(Into::into),
            ..fixtures::new_identity_provider()
        };
        store.providers().insert(&new, &ACTOR).await
    };
    for key in keys {
        insert(key).await.unwrap();
    }
    for key in keys {
        let refused = insert(key).await;
        assert!(matches!(refused, Err(RepositoryError::Conflict)), "{key:?}: {refused:?}");
    }
    assert_eq!(list(store, &ProviderFilter::default()).await.len(), keys.len());
    let told = store.events().list(&EventFilter::default(), ALL).await.unwrap().items;
    assert_eq!(told.len(), keys.len(), "refused ones are not told of");
}

/// Of racing inserts of one key, exactly one is kept, also without an external id.
pub async fn of_racing_inserts_of_one_key_one_is_kept(store: &Arc<dyn Store>) {
    for external_id in [None, Some("a".to_owned())] {
        let results = race(16, |_| {
            let store = store.clone();
            let new = NewIdentityProvider {
                external_id: external_id.clone(),
                ..fixtures::new_identity_provider()
            };
            async move { store.providers().insert(&new, &ACTOR).await }
        })
        .await;
        let kept = results.iter().filter(|it| it.is_ok()).count();
        let refused =
            results.iter().filter(|it| matches!(it, Err(RepositoryError::Conflict))).count();
        assert_eq!((kept, refused), (1, 15), "{results:?}");
    }
}

/// A key without an external id means the instance without one, not any.
pub async fn a_key_without_an_external_id_means_the_instance_without_one(store: &Arc<dyn Store>) {
    let providers = store.providers();
    let named = provider(store, "a").await;
    assert_eq!(providers.find_by_key("oidc", None).await.unwrap(), None);

    let new = fixtures::new_identity_provider();
    let unnamed = providers.insert(&new, &ACTOR).await.unwrap();
    assert_eq!(providers.find_by_key("oidc", None).await.unwrap(), Some(unnamed));
    let found = providers.find_by_key("oidc", Some("a")).await.unwrap();
    assert_eq!(found.map(|it| it.id), Some(named));
    for (provider_type, external_id) in
        [("oidc", Some("b")), ("oidc", Some("")), ("github", Some("a")), ("github", None)]
    {
        let found = providers.find_by_key(provider_type, external_id).await.unwrap();
        assert_eq!(found, None, "{provider_type} {external_id:?}");
    }
}

/// Providers are listed in ascending id order, by type and external id, each alone and together.
pub async fn providers_are_listed_by_type_and_external_id(store: &Arc<dyn Store>) {
    let mut ids = Vec::new();
    for (provider_type, external_id) in
        [("oidc", None), ("oidc", Some("a")), ("github", Some("a")), ("github", None)]
    {
        let new = NewIdentityProvider {
            provider_type: provider_type.into(),
            external_id: external_id.map(Into::into),
            ..fixtures::new_identity_provider()
        };
        ids.push(store.providers().insert(&new, &ACTOR).await.unwrap().id);
    }
    let cases = [
        (None, None, vec![ids[0], ids[1], ids[2], ids[3]]),
        (Some("oidc"), None, vec![ids[0], ids[1]]),
        (None, Some("a"), vec![ids[1], ids[2]]),
        (Some("github"), Some("a"), vec![ids[2]]),
        (Some("gitlab"), None, vec![]),
        (None, Some(""), vec![]),
    ];
    for (provider_type, external_id, meant) in cases {
        let filter = ProviderFilter {
            provider_types: None,
            provider_type: provider_type.map(Into::into),
            external_id: external_id.map(Into::into),
        };
        assert_eq!(list(store, &filter).await, meant, "{filter:?}");
    }

    let page = PageRequest { limit: 3, after: Some(ids[0].0) };
    let page = store.providers().list(&ProviderFilter::default(), page).await.unwrap();
    assert_eq!(page.items.iter().map(|it| it.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(page.next, None);
    let page = PageRequest { limit: 3, after: None };
    let page = store.providers().list(&ProviderFilter::default(), page).await.unwrap();
    assert_eq!((page.items.len(), page.next), (3, Some(ids[2].0)));
}

/// An update replaces configuration and secrets, raises the version by one, and tells which keys
/// have another value.
pub async fn an_update_replaces_configuration_and_secrets(store: &Arc<dyn Store>) {
    let new = NewIdentityProvider {
        config: fixtures::object(json!({ "kept": 1, "changed": 1, "removed": 1 })),
        secrets: ["s_kept", "s_changed", "s_removed"]
            .map(|it| (it.into(), Secret::new("one")))
            .into(),
        ..fixtures::new_identity_provider()
    };
    let before = store.providers().insert(&new, &ACTOR).await.unwrap();
    let config = fixtures::object(json!({ "kept": 1, "changed": 2, "added": 2 }));
    let secrets = ProviderSecrets::from([
        ("s_kept".into(), Secret::new("one")),
        ("s_changed".into(), Secret::new("two")),
        ("s_added".into(), Secret::new("two")),
    ]);

    let after = store
        .providers()
        .update(&fixtures::provider_update(before.id, 1, &config, &secrets), &ACTOR)
        .await
        .unwrap();

    let expected = IdentityProvider {
        config,
        secret_names: vec!["s_added".into(), "s_changed".into(), "s_kept".into()],
        version: 2,
        ..before
    };
    assert_eq!(after.as_ref(), Some(&expected));
    let found = store.providers().find_with_secrets(expected.id).await.unwrap();
    assert_eq!(found, Some((expected.clone(), secrets)));
    let event = last_event(store).await;
    assert_eq!((event.about, event.actor), (EventKind::ProviderUpdated, ACTOR));
    assert_eq!(event.provider_id, Some(expected.id));
    let keys = ["added", "changed", "removed", "s_added", "s_changed", "s_removed"];
    assert_eq!(event.detail["changed"], json!(keys));
}

/// An update for another version changes nothing.
pub async fn a_provider_update_for_another_version_changes_nothing(store: &Arc<dyn Store>) {
    let new = fixtures::new_identity_provider();
    let before = store.providers().insert(&new, &ACTOR).await.unwrap();
    let config = fixtures::object(json!({ "issuer": "https://another.example" }));
    for version in [0, 2] {
        let refused = store
            .providers()
            .update(
                &fixtures::provider_update(before.id, version, &config, &ProviderSecrets::new()),
                &ACTOR,
            )
            .await
            .unwrap();
        assert_eq!(refused, None);
    }
    let found = store.providers().find_with_secrets(before.id).await.unwrap();
    assert_eq!(found, Some((before, new.secrets)));
    assert_eq!(kinds(store).await, []);
}

/// Of racing updates of a provider for one version, exactly one is done.
pub async fn of_racing_provider_updates_for_one_version_one_is_done(store: &Arc<dyn Store>) {
    let id = provider(store, "p").await;
    let results = race(16, |racer| {
        let store = store.clone();
        let config = fixtures::object(json!({ "racer": racer }));
        let secrets = ProviderSecrets::from([("s".into(), Secret::new(racer.to_string()))]);
        async move {
            store
                .providers()
                .update(&fixtures::provider_update(id, 1, &config, &secrets), &ACTOR)
                .await
                .unwrap()
        }
    })
    .await;
    let done: Vec<_> = results.into_iter().flatten().collect();
    let [winner] = done.as_slice() else { panic!("{done:?}") };
    let (found, secrets) = store.providers().find_with_secrets(id).await.unwrap().unwrap();
    assert_eq!(found, *winner);
    assert_eq!(secrets["s"].expose(), winner.config["racer"].to_string());
    assert_eq!(kinds(store).await, [EventKind::ProviderUpdated]);
}

/// That a provider names itself is remembered, over updates too, without a new version and
/// without an event.
pub async fn that_a_provider_names_itself_is_remembered(store: &Arc<dyn Store>) {
    let new = fixtures::new_identity_provider();
    let before = store.providers().insert(&new, &ACTOR).await.unwrap();
    let bystander = provider(store, "bystander").await;
    for _ in 0..2 {
        store.providers().record_issuer_named(before.id).await.unwrap();
    }
    let expected = IdentityProvider { names_issuer: true, ..before };
    assert_eq!(store.providers().find(expected.id).await.unwrap().as_ref(), Some(&expected));
    assert!(!store.providers().find(bystander).await.unwrap().unwrap().names_issuer);
    assert_eq!(kinds(store).await, []);

    let NewIdentityProvider { config, secrets, .. } = new;
    let updated = store
        .providers()
        .update(&fixtures::provider_update(expected.id, 1, &config, &secrets), &ACTOR)
        .await
        .unwrap();
    assert!(updated.unwrap().names_issuer);
}

/// A provider that has identities is not deleted unless they are to go with it, each with its
/// event; those of other providers stay.
pub async fn a_provider_is_deleted_with_its_identities_only_when_asked(store: &Arc<dyn Store>) {
    let (id, other) = (provider(store, "p").await, provider(store, "q").await);
    let mut identities = Vec::new();
    for name in ["u", "v"] {
        identities.push(linked(store, &link(id, name, name)).await);
    }
    let bystander = linked(store, &link(other, "u", "u")).await;
    let told = kinds(store).await.len();

    let refused = store.providers().delete(id, false, &ACTOR).await.unwrap();
    assert_eq!(refused, ProviderDeletion::InUse(2));
    for identity in &identities {
        let found = store.identities().find(identity.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(identity));
    }
    assert_eq!(kinds(store).await.len(), told);

    let deleted = store.providers().delete(id, true, &ACTOR).await.unwrap();
    assert_eq!(deleted, ProviderDeletion::Deleted(2));
    assert_eq!(store.providers().find(id).await.unwrap(), None);
    let all = store.identities().list(&IdentityFilter::default(), ALL).await.unwrap();
    assert_eq!(all.items, [bystander]);
    let told = super::events(store).await.split_off(told);
    let mut unlinked: Vec<_> = told
        .iter()
        .filter(|it| it.about == EventKind::IdentityUnlinked && it.provider_id == Some(id))
        .map(|it| (it.identity_id.unwrap(), it.user_id.clone().unwrap()))
        .collect();
    unlinked.sort();
    let gone: Vec<_> = identities.into_iter().map(|it| (it.id, it.user_id)).collect();
    assert_eq!(unlinked, gone);
    let deletions: Vec<_> =
        told.iter().filter(|it| it.about == EventKind::ProviderDeleted).collect();
    let [deletion] = deletions.as_slice() else { panic!("{told:?}") };
    assert_eq!((deletion.provider_id, &deletion.actor), (Some(id), &ACTOR));
    assert_eq!(deletion.detail["identities"], json!(2));
    assert_eq!(told.len(), 3);
}

/// A provider without identities is deleted, and its key is free; its id is not given again.
pub async fn the_key_of_a_deleted_provider_is_free(store: &Arc<dyn Store>) {
    let first = provider(store, "p").await;
    let deleted = store.providers().delete(first, false, &ACTOR).await.unwrap();
    assert_eq!(deleted, ProviderDeletion::Deleted(0));
    assert_eq!(kinds(store).await, [EventKind::ProviderDeleted]);
    let second = provider(store, "p").await;
    assert!(second > first);
}

/// Of a link and the deletion of its provider that race, either the link finds no provider or the
/// deletion finds the identity: none is left behind.
pub async fn a_link_that_races_with_a_deletion_leaves_no_orphan(store: &Arc<dyn Store>) {
    for round in 0..16 {
        let id = provider(store, &format!("round {round}")).await;
        let cascade = round % 2 == 0;
        let deletion = {
            let store = store.clone();
            tokio::spawn(async move { store.providers().delete(id, cascade, &ACTOR).await })
        };
        let outcome = store.identities().link(&link(id, "u", "a")).await;
        let deletion = deletion.await.unwrap().unwrap();

        let at_provider = IdentityFilter { provider_id: Some(id), ..IdentityFilter::default() };
        let left = store.identities().list(&at_provider, ALL).await.unwrap().items.len();
        match (outcome, deletion) {
            (Err(RepositoryError::NotFound), ProviderDeletion::Deleted(0)) => {}
            (Ok(LinkOutcome::Created(_)), ProviderDeletion::Deleted(1)) if cascade => {}
            (Ok(LinkOutcome::Created(_)), ProviderDeletion::InUse(1)) if !cascade => {
                assert_eq!(left, 1);
                continue;
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((left, store.providers().find(id).await.unwrap()), (0, None));
    }
}

async fn list(store: &Arc<dyn Store>, filter: &ProviderFilter) -> Vec<ProviderId> {
    let page = store.providers().list(filter, ALL).await.unwrap();
    assert_eq!(page.next, None);
    page.items.into_iter().map(|it| it.id).collect()
}

async fn last_event(store: &Arc<dyn Store>) -> Event {
    let page = store.events().list(&EventFilter::default(), ALL).await.unwrap();
    page.items.into_iter().next_back().unwrap()
}
