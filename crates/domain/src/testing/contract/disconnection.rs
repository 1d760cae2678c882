//! The guard of [`IdentityRepository::unlink`](crate::ports::IdentityRepository::unlink) and
//! [`AuthIdentityRepository::unlink`](crate::ports::AuthIdentityRepository::unlink).

use std::sync::Arc;

use super::{Store, auth_identities::account, link, linked, provider, race};
use crate::{
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    disconnection::{Disconnection, Guard},
    identity::Identity,
    identity_provider::ProviderOptions,
    ids::ProviderId,
    ports::{
        NewAuthProvider, NewIdentityProvider, SsoUnlink, SsoUnlinkOutcome, Unlink, UnlinkOutcome,
    },
    testing::fixtures::{self, ACTOR, organization, user},
};

/// A provider that users sign in to the product with.
async fn login_provider(store: &Arc<dyn Store>, name: &str) -> ProviderId {
    let new = NewIdentityProvider {
        external_id: Some(name.to_owned()),
        options: ProviderOptions { login: true, ..ProviderOptions::default() },
        ..fixtures::new_identity_provider()
    };
    store.providers().insert(&new, &ACTOR).await.unwrap().id
}

async fn single_sign_on(store: &Arc<dyn Store>, allow_unlinked: bool) -> AuthProvider {
    let name = if allow_unlinked { "lax" } else { "strict" };
    let new = NewAuthProvider {
        organization_id: organization(name),
        provider_id: provider(store, name).await,
        allow_unlinked,
        ..fixtures::new_auth_provider()
    };
    store.auth_providers().insert(&new, &ACTOR).await.unwrap()
}

const NO_PASSWORD: Guard = Guard::LastWayIn { has_password: false };
const PASSWORD: Guard = Guard::LastWayIn { has_password: true };

/// What becomes of unlinking: `None` when it went.
async fn unlink(store: &Arc<dyn Store>, it: &Identity, guard: Guard) -> Option<Disconnection> {
    let asked = Unlink { guard, ..Unlink::unguarded(it.id, &ACTOR) };
    match store.identities().unlink(&asked).await.unwrap() {
        UnlinkOutcome::Unlinked(..) => None,
        UnlinkOutcome::Needed(why) => Some(why),
        UnlinkOutcome::Absent => panic!("it is there"),
    }
}

fn sso_unlink(it: &AuthIdentity, guard: Guard) -> SsoUnlink {
    SsoUnlink { id: it.id, user_id: None, guard, actor: ACTOR }
}

async fn leave(store: &Arc<dyn Store>, it: &AuthIdentity, guard: Guard) -> Option<Disconnection> {
    match store.auth_identities().unlink(&sso_unlink(it, guard)).await.unwrap() {
        SsoUnlinkOutcome::Unlinked(gone) => {
            assert_eq!(gone, *it);
            None
        }
        SsoUnlinkOutcome::Needed(why) => Some(why),
        SsoUnlinkOutcome::Absent => panic!("it is there"),
    }
}

/// An organization that lets in nobody without a linked account is asked first; then comes the
/// last way in, which an account for single sign-on is not. Without a guard everything goes.
pub async fn an_organizations_demand_comes_before_the_last_way_in(store: &Arc<dyn Store>) {
    let strict = single_sign_on(store, false).await;
    let lax = single_sign_on(store, true).await;
    let needed = account(store, &strict, "u", "a").await;
    let last = account(store, &lax, "u", "a").await;
    let org = Some(Disconnection::NeededForOrgAuth);
    assert_eq!(leave(store, &needed, NO_PASSWORD).await, org);
    assert_eq!(leave(store, &needed, PASSWORD).await, org);
    let global = Some(Disconnection::NeededForGlobalAuth);
    assert_eq!(leave(store, &last, NO_PASSWORD).await, global);
    assert_eq!(leave(store, &last, PASSWORD).await, None);

    let last = account(store, &lax, "u", "a").await;
    let login = login_provider(store, "login").await;
    linked(store, &link(login, "u", "a")).await;
    assert_eq!(leave(store, &needed, NO_PASSWORD).await, org);
    assert_eq!(leave(store, &last, NO_PASSWORD).await, None);
    assert_eq!(leave(store, &needed, Guard::Off).await, None);
}

/// The last identity at a provider that users sign in with stays, other users' and other
/// providers' and accounts for single sign-on not counting; unless there is a password or no guard.
pub async fn login_identities_are_counted_over_providers(store: &Arc<dyn Store>) {
    let github = login_provider(store, "github").await;
    let google = login_provider(store, "google").await;
    let slack = provider(store, "slack").await;
    let on_github = linked(store, &link(github, "u", "a")).await;
    linked(store, &link(google, "v", "b")).await;
    let on_slack = linked(store, &link(slack, "u", "a")).await;
    let sso = single_sign_on(store, true).await;
    account(store, &sso, "u", "a").await;
    let needed = Some(Disconnection::NeededForGlobalAuth);
    assert_eq!(unlink(store, &on_github, NO_PASSWORD).await, needed);
    assert_eq!(unlink(store, &on_slack, NO_PASSWORD).await, None);

    let on_google = linked(store, &link(google, "u", "c")).await;
    assert_eq!(unlink(store, &on_github, NO_PASSWORD).await, None);
    assert_eq!(unlink(store, &on_google, NO_PASSWORD).await, needed);
    assert_eq!(unlink(store, &on_google, PASSWORD).await, None);

    let again = linked(store, &link(google, "u", "c")).await;
    assert_eq!(unlink(store, &again, NO_PASSWORD).await, needed);
    assert_eq!(unlink(store, &again, Guard::Off).await, None);
}

/// What the guard keeps is as it was, without an event; another user's is not there.
pub async fn what_is_needed_stays_and_what_is_anothers_is_absent(store: &Arc<dyn Store>) {
    let login = login_provider(store, "login").await;
    let identity = linked(store, &link(login, "u", "a")).await;
    let strict = single_sign_on(store, false).await;
    let account = account(store, &strict, "u", "a").await;
    let told = super::events(store).await;

    let needed = Some(Disconnection::NeededForGlobalAuth);
    assert_eq!(unlink(store, &identity, NO_PASSWORD).await, needed);
    let org = Some(Disconnection::NeededForOrgAuth);
    assert_eq!(leave(store, &account, NO_PASSWORD).await, org);
    for guard in [Guard::Off, PASSWORD, NO_PASSWORD] {
        let asked =
            Unlink { user_id: Some(user("v")), guard, ..Unlink::unguarded(identity.id, &ACTOR) };
        let outcome = store.identities().unlink(&asked).await.unwrap();
        assert_eq!(outcome, UnlinkOutcome::Absent);
        let asked = SsoUnlink { user_id: Some(user("v")), ..sso_unlink(&account, guard) };
        let outcome = store.auth_identities().unlink(&asked).await.unwrap();
        assert_eq!(outcome, SsoUnlinkOutcome::Absent);
    }
    assert_eq!(store.identities().find(identity.id).await.unwrap(), Some(identity));
    assert_eq!(store.auth_identities().find(account.id).await.unwrap(), Some(account));
    assert_eq!(super::events(store).await, told);
}

/// Of racing unlinks of a user's last two ways in, one is refused.
pub async fn of_racing_unlinks_of_the_last_two_ways_in_one_is_refused(store: &Arc<dyn Store>) {
    let one = login_provider(store, "one").await;
    let two = login_provider(store, "two").await;
    for round in 0..16 {
        let name = format!("u{round}");
        let ways = [
            linked(store, &link(one, &name, &name)).await,
            linked(store, &link(two, &name, &name)).await,
        ];
        let mut outcomes = race(2, |racer| {
            let (store, way) = (store.clone(), ways[racer].clone());
            async move { unlink(&store, &way, NO_PASSWORD).await }
        })
        .await;
        outcomes.sort_by_key(Option::is_some);
        assert_eq!(outcomes, [None, Some(Disconnection::NeededForGlobalAuth)], "round {round}");
    }
}
