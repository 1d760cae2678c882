//! [`VendingRepository`](crate::ports::VendingRepository).

use std::sync::Arc;

use super::{ALL, Store, credentials_of, events, identity, link, linked, now, provider, race};
use crate::{
    api_key::{KeyLimits, KeyScope},
    event::{Actor, EventKind},
    freeze::{Freeze, FreezeSubject},
    ids::{ApiKeyId, IdentityId, ProviderId},
    page::PageRequest,
    ports::{RepositoryError, Vendable},
    secret::SecretHash,
    testing::fixtures::{ACTOR, organization, user},
};

async fn key(store: &Arc<dyn Store>, name: &str) -> ApiKeyId {
    let (scopes, limits) = ([KeyScope::TokensRead], KeyLimits::NONE);
    let hash = SecretHash::of(name);
    store.api_keys().insert(name, &scopes, &limits, &hash, &ACTOR).await.unwrap().id
}

async fn vendable(store: &Arc<dyn Store>, id: IdentityId, key: Option<ApiKeyId>) -> Vendable {
    store.vending().find_vendable(id, key).await.unwrap().unwrap()
}

async fn is_frozen(store: &Arc<dyn Store>, id: IdentityId, key: Option<ApiKeyId>) -> bool {
    vendable(store, id, key).await.frozen.is_some()
}

async fn freeze(store: &Arc<dyn Store>, subject: &FreezeSubject) -> Freeze {
    store.vending().freeze(subject, &ACTOR).await.unwrap().0
}

async fn unfreeze(store: &Arc<dyn Store>, subject: &FreezeSubject) -> Option<Freeze> {
    store.vending().unfreeze(subject, &Actor::OPERATOR).await.unwrap()
}

/// What is read to hand out a token has the credentials, whose they are, and no freeze where
/// nothing is frozen.
pub async fn what_is_read_to_hand_out_a_token_is_all_of_it(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let expected = Vendable {
        credentials: credentials_of(store, identity.id).await,
        user_id: identity.user_id.clone(),
        provider_type: "oidc".into(),
        frozen: None,
    };
    let key = key(store, "a key").await;
    assert_eq!(vendable(store, identity.id, Some(key)).await, expected);
    assert_eq!(vendable(store, identity.id, None).await, expected);
    let nobody = IdentityId(identity.id.0 + 1000);
    assert_eq!(store.vending().find_vendable(nobody, Some(key)).await.unwrap(), None);
}

/// A freeze stands against what it names from the moment on at which it was made, and against
/// nothing else; lifted, it does not.
pub async fn each_freeze_stands_against_what_it_names_and_nothing_else(store: &Arc<dyn Store>) {
    let (here, elsewhere) = (provider(store, "here").await, provider(store, "elsewhere").await);
    let one = linked(store, &link(here, "user-1", "account-1")).await.id;
    let other = linked(store, &link(elsewhere, "user-1", "account-1")).await.id;
    let (first, second) = (key(store, "first").await, key(store, "second").await);
    for (name, identity) in [("acme", one), ("apex", one), ("apex", other)] {
        let organization = organization(name);
        store.organization_identities().attach(&organization, identity, &ACTOR).await.unwrap();
    }
    let cases = [
        // What is frozen; then: one to the first key, one to the second, one to nobody's key, and
        // the other to the first key.
        (FreezeSubject::Key(first), [true, false, false, true]),
        (FreezeSubject::Provider(here), [true, true, true, false]),
        (FreezeSubject::Organization(organization("acme")), [true, true, true, false]),
        (FreezeSubject::Organization(organization("apex")), [true, true, true, true]),
        (FreezeSubject::Organization(organization("ACME")), [false; 4]),
    ];
    for (subject, expected) in cases {
        let begun = freeze(store, &subject).await;
        let mut found = [false; 4];
        let asked = [(one, Some(first)), (one, Some(second)), (one, None), (other, Some(first))];
        for (found, (identity, key)) in found.iter_mut().zip(asked) {
            let frozen = vendable(store, identity, key).await.frozen;
            *found = frozen.is_some();
            assert!(frozen.is_none_or(|it| it == begun));
        }
        assert_eq!(found, expected, "{subject}");
        let of_key = store.vending().find_freeze_of_key(first).await.unwrap();
        assert_eq!(of_key.is_some(), subject == FreezeSubject::Key(first), "{subject}");
        unfreeze(store, &subject).await.unwrap();
        for (identity, key) in asked {
            assert!(!is_frozen(store, identity, key).await, "{subject}");
        }
    }
    // An identity that an organization does not use any more is not frozen with it.
    let acme = organization("acme");
    freeze(store, &FreezeSubject::Organization(acme.clone())).await;
    assert!(store.organization_identities().detach(&acme, one, &ACTOR).await.unwrap());
    assert!(!is_frozen(store, one, Some(first)).await);
}

/// Frozen again, who froze it first and why stays on record, and there is one event; lifted
/// again, there is nothing to lift.
pub async fn a_freeze_is_begun_once_and_lifted_once(store: &Arc<dyn Store>) {
    let provider = provider(store, "the provider").await;
    let subject = FreezeSubject::Provider(provider);
    let before = now();
    let by = Actor { acting_user: Some(user("ops")), ..ACTOR.because("a leak") };
    let (begun, made) = store.vending().freeze(&subject, &by).await.unwrap();
    assert!(made);
    assert_eq!((&begun.subject, &begun.by), (&subject, &by));
    assert!(begun.frozen_at >= before - chrono::TimeDelta::seconds(5), "{begun:?}");
    let (again, made) = store.vending().freeze(&subject, &Actor::OPERATOR).await.unwrap();
    assert_eq!((&again, made), (&begun, false));

    assert_eq!(unfreeze(store, &subject).await, Some(begun));
    assert_eq!(unfreeze(store, &subject).await, None);

    let told: Vec<_> = events(store).await;
    let kinds: Vec<_> = told.iter().map(|it| (it.about, &it.actor, it.provider_id)).collect();
    assert_eq!(
        kinds,
        [
            (EventKind::ProviderFrozen, &by, Some(provider)),
            (EventKind::ProviderUnfrozen, &Actor::OPERATOR, Some(provider)),
        ]
    );
    assert_eq!(told[0].after.as_ref().unwrap()["reason"], "a leak");

    let subject = FreezeSubject::Organization(organization("acme"));
    freeze(store, &subject).await;
    unfreeze(store, &subject).await.unwrap();
    let key = key(store, "the key").await;
    freeze(store, &FreezeSubject::Key(key)).await;
    unfreeze(store, &FreezeSubject::Key(key)).await.unwrap();
    let told = events(store).await.split_off(2);
    assert_eq!(told[0].about, EventKind::OrganizationFrozen);
    assert_eq!(told[1].about, EventKind::OrganizationUnfrozen);
    assert_eq!(told[1].organization_id, Some(organization("acme")));
    assert_eq!(told[3].about, EventKind::ApiKeyFrozen);
    assert_eq!(told[3].detail["api_key_id"], key.0);
    assert_eq!(told[4].about, EventKind::ApiKeyUnfrozen);
}

/// A key or a provider instance that is not there cannot be frozen; an organization can, as it is
/// the product's own.
pub async fn only_keys_and_providers_that_are_there_are_frozen(store: &Arc<dyn Store>) {
    for subject in
        [FreezeSubject::Key(ApiKeyId(1_000_000)), FreezeSubject::Provider(ProviderId(1_000_000))]
    {
        let refused = store.vending().freeze(&subject, &ACTOR).await;
        assert!(matches!(refused, Err(RepositoryError::NotFound)), "{refused:?}");
        assert_eq!(unfreeze(store, &subject).await, None);
    }
    freeze(store, &FreezeSubject::Organization(organization("nobody knows it"))).await;
    assert_eq!(events(store).await.len(), 1);
}

/// Of racing freezes of the same one begins it, and all are told of that one.
pub async fn of_racing_freezes_one_is_on_record(store: &Arc<dyn Store>) {
    let subject = FreezeSubject::Organization(organization("acme"));
    let outcomes = race(16, |_| {
        let (store, subject) = (Arc::clone(store), subject.clone());
        async move { store.vending().freeze(&subject, &ACTOR).await.unwrap() }
    })
    .await;
    assert_eq!(outcomes.iter().filter(|(_, made)| *made).count(), 1);
    assert!(outcomes.iter().all(|(it, _)| *it == outcomes[0].0), "{outcomes:?}");
    assert_eq!(events(store).await.len(), 1);
}

/// Freezes are listed in ascending id order, page by page.
pub async fn freezes_are_listed_in_id_order(store: &Arc<dyn Store>) {
    let mut all = Vec::new();
    for name in ["c", "a", "b"] {
        all.push(freeze(store, &FreezeSubject::Organization(organization(name))).await);
    }
    assert!(all.is_sorted_by_key(|it| it.id));
    let page = store.vending().list_freezes(PageRequest { limit: 2, after: None }).await.unwrap();
    assert_eq!((page.items.as_slice(), page.next), (&all[..2], Some(all[1].id.0)));
    let rest = PageRequest { limit: 2, after: page.next };
    assert_eq!(store.vending().list_freezes(rest).await.unwrap().items, all[2..]);
    unfreeze(store, &all[0].subject).await.unwrap();
    assert_eq!(store.vending().list_freezes(ALL).await.unwrap().items, all[1..]);
}
