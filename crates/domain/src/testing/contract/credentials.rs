//! [`CredentialsRepository`](crate::ports::CredentialsRepository), but for its leases.

use std::{sync::Arc, time::Duration};

use super::{
    LONG, PATIENCE, Store, credentials_of, identity, lease, lease_for, link, linked, now, provider,
};
use crate::{
    credentials::Credentials,
    identity::{IdentityStatus, InvalidReason},
    ids::IdentityId,
    ports::{CredentialsRepository, Link, StoredCredentials},
    secret::Secret,
    testing::fixtures,
};

/// The credentials of an identity that is not there are absent.
pub async fn credentials_of_nobody_are_absent(store: &Arc<dyn Store>) {
    assert_eq!(store.credentials().find(IdentityId(4_711)).await.unwrap(), None);
}

/// Credentials come back as they went in, as the first generation.
pub async fn credentials_come_back_as_they_went_in(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let long = "\u{1d11e}~".repeat(2_000);
    let all = Credentials {
        access_token: Some(Secret::new(long.clone())),
        refresh_token: Some(Secret::new("\u{0}\"\\\n")),
        id_token: Some(Secret::new("")),
        token_type: Some("bearer".into()),
        scopes: vec!["a:b/c".into(), "ü".into()],
        refresh_ends_at: Some(now()),
        dpop_key: Some(Secret::new("k1")),
        refresh_dpop_key: Some(Secret::new("k0")),
        ..fixtures::credentials()
    };
    let sparse = Credentials { access_token: Some(Secret::new("a")), ..Credentials::default() };
    for (user, credentials) in [("u", all), ("v", sparse)] {
        let asked = Link { credentials: Some(credentials.clone()), ..link(provider, user, user) };
        let identity = linked(store, &asked).await;
        assert_eq!(identity.expires_at, credentials.expires_at);
        assert_eq!(
            credentials_of(store, identity.id).await,
            StoredCredentials {
                identity_id: identity.id,
                provider_id: provider,
                credentials: Some(credentials),
                ..fixtures::stored_credentials()
            }
        );
    }
}

/// The generation is 0 while there never were credentials, and 1 with the first.
pub async fn the_generation_is_0_while_there_never_were_credentials(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let asked = Link { credentials: None, ..link(provider, "u", "a") };
    let identity = linked(store, &asked).await;
    let stored = credentials_of(store, identity.id).await;
    assert_eq!((stored.generation, stored.credentials), (0, None));

    linked(store, &link(provider, "u", "a")).await;
    let stored = credentials_of(store, identity.id).await;
    assert_eq!((stored.generation, stored.credentials), (1, Some(fixtures::credentials())));
}

/// The credentials of an invalid identity are read with the reason.
pub async fn credentials_of_an_invalid_identity_are_read_with_the_reason(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    store.credentials().end(&held, &super::end_invalid()).await.unwrap();
    let stored = credentials_of(store, identity.id).await;
    let found = store.identities().find(identity.id).await.unwrap().unwrap();
    assert_eq!(stored.status, IdentityStatus::Invalid);
    assert_eq!(stored.invalid, found.invalid);
    assert_eq!(stored.invalid.unwrap().reason, InvalidReason::GrantRejected);
    assert_eq!(stored.credentials, Some(fixtures::credentials()), "they are kept");
}

/// Waiting for a change comes back when new credentials were committed.
pub async fn waiting_comes_back_after_a_commit(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let held = lease(store, id).await;
    let waiter = wait(store, id, LONG);
    store.credentials().commit(&held, &fixtures::credentials()).await.unwrap();
    come_back(waiter).await;
}

/// Waiting for a change comes back when the lease was released.
pub async fn waiting_comes_back_after_a_release(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let held = lease(store, id).await;
    let waiter = wait(store, id, LONG);
    store.credentials().release(&held).await.unwrap();
    come_back(waiter).await;
}

/// Waiting for a change comes back when the lease ran out.
pub async fn waiting_comes_back_when_the_lease_ran_out(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    lease_for(store, id, Duration::from_millis(200)).await;
    come_back(wait(store, id, LONG)).await;
}

/// Waiting for a change comes back at once when nobody holds the lease.
pub async fn waiting_comes_back_at_once_when_nobody_holds_the_lease(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    come_back(wait(store, id, LONG)).await;
    come_back(wait(store, IdentityId(4_711), LONG)).await;
}

/// Waiting for a change ends after the time that was given, without one.
pub async fn waiting_ends_without_a_change(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    lease(store, id).await;
    come_back(wait(store, id, Duration::from_millis(20))).await;
}

fn wait(
    store: &Arc<dyn Store>,
    id: IdentityId,
    at_most: Duration,
) -> impl Future<Output = ()> + use<> {
    let store = store.clone();
    let waiter = tokio::spawn(async move {
        let credentials: &dyn CredentialsRepository = store.credentials();
        credentials.changed(id, at_most).await;
    });
    async move { waiter.await.unwrap() }
}

async fn come_back(waiter: impl Future<Output = ()>) {
    let result = tokio::time::timeout(PATIENCE, waiter).await;
    assert!(result.is_ok(), "nobody came back");
}
