//! [`AuthProviderRepository`](crate::ports::AuthProviderRepository).

use std::sync::Arc;

use serde_json::json;

use super::{ALL, Store, events, kinds, provider, race};
use crate::{
    auth_provider::AuthProvider,
    event::EventKind,
    ids::{AuthProviderId, ProviderId},
    page::PageRequest,
    ports::{
        AuthIdentityFilter, AuthProviderFilter, AuthProviderUpdate, NewAuthProvider,
        ProviderDeletion, RepositoryError,
    },
    testing::fixtures::{self, ACTOR, object, organization},
};

/// The single sign-on of the organization of this name.
pub(super) async fn single_sign_on(
    store: &Arc<dyn Store>,
    name: &str,
    provider_id: ProviderId,
) -> AuthProvider {
    let new = NewAuthProvider {
        organization_id: organization(name),
        provider_id,
        ..fixtures::new_auth_provider()
    };
    store.auth_providers().insert(&new, &ACTOR).await.unwrap()
}

/// An organization has one single sign-on, also in a race; it is found as it was inserted.
pub async fn an_organization_has_one_single_sign_on(store: &Arc<dyn Store>) {
    let provider_id = provider(store, "p").await;
    let new = NewAuthProvider { provider_id, ..fixtures::new_auth_provider() };
    let made = race(8, |_| {
        let (store, new) = (store.clone(), new.clone());
        async move { store.auth_providers().insert(&new, &ACTOR).await }
    })
    .await;
    let (kept, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!((kept.len(), refused.len()), (1, 7));
    assert!(refused.iter().all(|it| matches!(it, Err(RepositoryError::Conflict))), "{refused:?}");
    let made = kept.into_iter().next().unwrap().unwrap();
    assert_eq!(
        made,
        AuthProvider {
            id: made.id,
            provider_id,
            date_added: made.date_added,
            ..fixtures::auth_provider()
        }
    );
    assert_eq!(store.auth_providers().find(made.id).await.unwrap(), Some(made.clone()));
    let found = store.auth_providers().find_by_organization(&made.organization_id).await.unwrap();
    assert_eq!(found, Some(made.clone()));

    let told = events(store).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].about, EventKind::AuthProviderCreated);
    assert_eq!(told[0].provider_id, Some(provider_id));
    assert_eq!(told[0].organization_id, Some(made.organization_id.clone()));
    assert_eq!((&told[0].before, &told[0].after), (&None, &Some(made.facts())));
    assert_eq!(told[0].detail, object(json!({ "auth_provider_id": made.id.0 })));
}

/// What nobody made is not there; neither can it be made over a provider that is not there.
pub async fn a_single_sign_on_that_is_not_there_is_absent(store: &Arc<dyn Store>) {
    let nobody = AuthProviderId(4_711);
    assert_eq!(store.auth_providers().find(nobody).await.unwrap(), None);
    let found = store.auth_providers().find_by_organization(&organization("o")).await.unwrap();
    assert_eq!(found, None);
    let update =
        AuthProviderUpdate { id: nobody, ..AuthProviderUpdate::of(&fixtures::auth_provider()) };
    assert_eq!(store.auth_providers().update(&update, &ACTOR).await.unwrap(), None);
    assert_eq!(store.auth_providers().delete(nobody, &ACTOR).await.unwrap(), None);
    let new = NewAuthProvider { provider_id: ProviderId(4_711), ..fixtures::new_auth_provider() };
    let refused = store.auth_providers().insert(&new, &ACTOR).await;
    assert!(matches!(refused, Err(RepositoryError::NotFound)), "{refused:?}");
    assert_eq!(kinds(store).await, []);
}

/// All its values are replaced, for the version that was read; otherwise none.
pub async fn a_single_sign_on_is_changed_for_its_version(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let before = single_sign_on(store, "o", provider).await;
    let update = AuthProviderUpdate {
        id: before.id,
        version: 1,
        config: object(json!({ "domain": "other.example" })),
        allow_unlinked: true,
        scim_enabled: true,
        default_role: None,
        default_global_access: false,
        sync_time: Some(60),
        last_sync: Some(fixtures::NOW),
    };
    let after = store.auth_providers().update(&update, &ACTOR).await.unwrap().unwrap();
    let expected = AuthProvider {
        config: update.config.clone(),
        allow_unlinked: true,
        scim_enabled: true,
        default_role: None,
        default_global_access: false,
        sync_time: Some(60),
        last_sync: Some(fixtures::NOW),
        version: 2,
        ..before.clone()
    };
    assert_eq!(after, expected);
    assert_eq!(store.auth_providers().update(&update, &ACTOR).await.unwrap(), None);
    assert_eq!(store.auth_providers().find(before.id).await.unwrap(), Some(after));
    let told = events(store).await.pop().unwrap();
    assert_eq!(told.about, EventKind::AuthProviderUpdated);
    assert_eq!(told.before.unwrap()["allow_unlinked"], false);
    assert_eq!(told.after.unwrap()["allow_unlinked"], true);
}

/// Single sign-ons are listed by organization and by provider, in ascending id order.
pub async fn single_sign_ons_are_listed_by_organization_and_provider(store: &Arc<dyn Store>) {
    let (one, two) = (provider(store, "one").await, provider(store, "two").await);
    let a = single_sign_on(store, "a", one).await;
    let b = single_sign_on(store, "b", two).await;
    let c = single_sign_on(store, "c", one).await;
    for (organization_id, provider_id, expected) in [
        (None, None, vec![&a, &b, &c]),
        (Some(organization("b")), None, vec![&b]),
        (None, Some(one), vec![&a, &c]),
        (Some(organization("b")), Some(one), vec![]),
    ] {
        let filter = AuthProviderFilter { organization_id, provider_id };
        let page = store.auth_providers().list(&filter, ALL).await.unwrap();
        assert_eq!(page.items.iter().collect::<Vec<_>>(), expected, "{filter:?}");
    }
    let page = PageRequest { limit: 2, after: None };
    let page = store.auth_providers().list(&AuthProviderFilter::default(), page).await.unwrap();
    assert_eq!((page.items, page.next), (vec![a, b.clone()], Some(b.id.0)));
}

/// A single sign-on that is deleted takes its accounts along, each with its event, and no other's.
pub async fn a_single_sign_on_takes_its_accounts_along(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let gone = single_sign_on(store, "gone", provider).await;
    let stays = single_sign_on(store, "stays", provider).await;
    for (of, user) in [(&gone, "u"), (&gone, "v"), (&stays, "u")] {
        super::auth_identities::account(store, of, user, user).await;
    }
    assert_eq!(store.auth_providers().delete(gone.id, &ACTOR).await.unwrap(), Some(2));
    assert_eq!(store.auth_providers().delete(gone.id, &ACTOR).await.unwrap(), None);

    let left = store.auth_identities().list(&AuthIdentityFilter::default(), ALL).await.unwrap();
    let left: Vec<_> = left.items.into_iter().map(|it| it.auth_provider_id).collect();
    assert_eq!(left, [stays.id]);
    let mut told = events(store).await;
    // What becomes of their grants is another promise.
    told.retain(|it| it.about != EventKind::GrantRevocationQueued);
    let [first, second, last] = &told[told.len() - 3..] else { panic!("{told:?}") };
    for event in [first, second] {
        assert_eq!(event.about, EventKind::AuthIdentityUnlinked);
        assert_eq!(event.organization_id, Some(organization("gone")));
    }
    assert_eq!(last.about, EventKind::AuthProviderDeleted);
    let detail = json!({ "auth_provider_id": gone.id.0, "auth_identities": 2 });
    assert_eq!(last.detail, object(detail));
}

/// A provider that organizations sign in with is deleted only with `cascade`, and takes their
/// single sign-ons along.
pub async fn a_provider_that_organizations_sign_in_with_is_in_use(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let of = single_sign_on(store, "o", provider).await;
    super::auth_identities::account(store, &of, "u", "a").await;
    let refused = store.providers().delete(provider, false, &ACTOR).await.unwrap();
    assert_eq!(refused, ProviderDeletion::InUse(1));
    let deleted = store.providers().delete(provider, true, &ACTOR).await.unwrap();
    assert_eq!(deleted, ProviderDeletion::Deleted(0));
    assert_eq!(store.auth_providers().find(of.id).await.unwrap(), None);
    let expected = [
        EventKind::AuthProviderCreated,
        EventKind::AuthIdentityLinked,
        EventKind::AuthIdentityUnlinked,
        EventKind::GrantRevocationQueued,
        EventKind::AuthProviderDeleted,
        EventKind::ProviderDeleted,
    ];
    assert_eq!(kinds(store).await, expected);
}
