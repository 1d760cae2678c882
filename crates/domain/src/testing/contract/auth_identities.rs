//! [`AuthIdentityRepository`](crate::ports::AuthIdentityRepository), but for its guard.

use std::sync::Arc;

use serde_json::json;

use super::auth_providers::single_sign_on;
use super::{ALL, LONG, Store, events, kinds, live_session, now, provider, race, status, waiting};
use crate::{
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    credentials::Credentials,
    disconnection::Guard,
    event::EventKind,
    ids::{AuthIdentityId, AuthProviderId, ProviderId},
    link_session::{CompletionClaim, LinkSessionStatus},
    page::PageRequest,
    ports::{
        AuthIdentityFilter, AuthIdentityOutcome, AuthIdentityUpdate, ClaimedRevocation,
        RepositoryError, SsoOutcome, SsoSignIn, SsoUnlink, SsoUnlinkOutcome, Taken,
    },
    revocation::{GrantOwner, OrphanedGrant},
    secret::{Secret, SecretHash},
    testing::fixtures::{self, ACTOR, external_id, object, organization, user},
};

/// A link of this account to this user.
fn link(of: &AuthProvider, name: &str, ident: &str) -> SsoSignIn {
    SsoSignIn {
        auth_provider_id: of.id,
        ident: external_id(ident),
        user: Some(user(name)),
        ..fixtures::sso_sign_in()
    }
}

/// A sign-in with this account.
fn sign_in(of: &AuthProvider, ident: &str) -> SsoSignIn {
    SsoSignIn { user: None, ..link(of, "nobody", ident) }
}

/// This user's account of this name for an organization's single sign-on.
pub(super) async fn account(
    store: &Arc<dyn Store>,
    of: &AuthProvider,
    name: &str,
    ident: &str,
) -> AuthIdentity {
    match store.auth_identities().sign_in(&link(of, name, ident)).await.unwrap() {
        SsoOutcome::Linked { identity, .. } => identity,
        refused => panic!("{refused:?}"),
    }
}

async fn single_sign_on_of_o(store: &Arc<dyn Store>) -> AuthProvider {
    let provider = provider(store, "p").await;
    single_sign_on(store, "o", provider).await
}

async fn all(store: &Arc<dyn Store>) -> Vec<(String, String)> {
    let page = store.auth_identities().list(&AuthIdentityFilter::default(), ALL).await.unwrap();
    let pair = |it: AuthIdentity| (it.user_id.as_str().to_owned(), it.ident.as_str().to_owned());
    page.items.into_iter().map(pair).collect()
}

/// What is there, the legacy name, reattach → what becomes (whether it is new), and the rows then.
type Case = (
    &'static [(&'static str, &'static str)],
    Option<&'static str>,
    bool,
    Result<bool, Taken>,
    &'static [(&'static str, &'static str)],
);

/// What becomes of linking account `a` to `u`, by what is there, row by row of the port's table.
pub async fn an_account_for_single_sign_on_follows_the_table(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let cases: [Case; 11] = [
        (&[], None, false, Ok(true), &[("u", "a")]),
        (&[("u", "a")], None, false, Ok(false), &[("u", "a")]),
        (&[("u", "old")], Some("old"), false, Ok(false), &[("u", "a")]),
        (&[("v", "old")], Some("old"), false, Ok(true), &[("v", "old"), ("u", "a")]),
        (&[("u", "b")], None, false, Err(Taken::User), &[("u", "b")]),
        (&[("v", "a")], None, false, Err(Taken::Account), &[("v", "a")]),
        (&[("u", "b"), ("v", "a")], None, false, Err(Taken::Account), &[("u", "b"), ("v", "a")]),
        (
            &[("u", "old"), ("v", "a")],
            Some("old"),
            false,
            Err(Taken::Account),
            &[("u", "old"), ("v", "a")],
        ),
        (&[("u", "b")], None, true, Ok(false), &[("u", "a")]),
        (&[("v", "a")], None, true, Ok(false), &[("u", "a")]),
        (&[("u", "b"), ("v", "a")], None, true, Ok(false), &[("u", "a")]),
    ];
    for (at, (there, legacy, reattach, expected, then)) in cases.into_iter().enumerate() {
        let of = single_sign_on(store, &format!("o{at}"), provider).await;
        for (name, ident) in there {
            account(store, &of, name, ident).await;
        }
        let asked =
            SsoSignIn { legacy_ident: legacy.map(external_id), reattach, ..link(&of, "u", "a") };
        let outcome = store.auth_identities().sign_in(&asked).await.unwrap();
        let outcome = match outcome {
            SsoOutcome::Linked { new, .. } => Ok(new),
            SsoOutcome::Taken(taken) => Err(taken),
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome, expected, "case {at}");
        let then: Vec<_> =
            then.iter().map(|(name, ident)| ((*name).to_owned(), (*ident).to_owned())).collect();
        assert_eq!(all(store).await, then, "case {at}");
        store.auth_providers().delete(of.id, &ACTOR).await.unwrap();
    }
}

/// A sign-in finds the account by its name, then by its legacy name, which it rewrites; and links
/// nobody.
pub async fn a_single_sign_on_finds_the_account_by_name_and_by_legacy_name(store: &Arc<dyn Store>) {
    let of = single_sign_on_of_o(store).await;
    let first = account(store, &of, "u", "old@o.example").await;

    let nobody = store.auth_identities().sign_in(&sign_in(&of, "sub-1")).await.unwrap();
    assert_eq!(nobody, SsoOutcome::NobodyLinked);

    let both =
        SsoSignIn { legacy_ident: Some(external_id("old@o.example")), ..sign_in(&of, "sub-1") };
    let outcome = store.auth_identities().sign_in(&both).await.unwrap();
    let SsoOutcome::SignedIn(found) = outcome else { panic!("{outcome:?}") };
    assert_eq!((found.id, &found.user_id), (first.id, &user("u")));
    assert_eq!((found.ident.as_str(), found.version), ("sub-1", 2));

    // A row of the name itself goes before one of the legacy name.
    account(store, &of, "v", "old@o.example").await;
    let outcome = store.auth_identities().sign_in(&both).await.unwrap();
    let SsoOutcome::SignedIn(found) = outcome else { panic!("{outcome:?}") };
    assert_eq!(found.user_id, user("u"));
    let linked = EventKind::AuthIdentityLinked;
    let signed_in = EventKind::AuthIdentitySignedIn;
    let created = EventKind::AuthProviderCreated;
    assert_eq!(kinds(store).await, [created, linked, signed_in, linked, signed_in]);
    let told = events(store).await.pop().unwrap();
    assert_eq!((told.user_id, told.organization_id), (Some(user("u")), Some(organization("o"))));
    assert_eq!(told.detail, object(json!({ "auth_identity_id": first.id.0 })));

    let absent = SsoSignIn { auth_provider_id: AuthProviderId(4_711), ..sign_in(&of, "sub-1") };
    let refused = store.auth_identities().sign_in(&absent).await;
    assert!(matches!(refused, Err(RepositoryError::NotFound)), "{refused:?}");
}

/// Proving an account again renews its times and its data, key by key; the row stays the same.
pub async fn proving_an_account_again_renews_it(store: &Arc<dyn Store>) {
    let of = single_sign_on_of_o(store).await;
    let before = account(store, &of, "u", "a").await;
    assert_eq!(before.last_verified, before.date_added);
    let again = SsoSignIn { data: object(json!({ "team": "T1" })), ..sign_in(&of, "a") };
    let outcome = store.auth_identities().sign_in(&again).await.unwrap();
    let SsoOutcome::SignedIn(after) = outcome else { panic!("{outcome:?}") };
    assert!(after.last_verified > before.last_verified, "{after:?}");
    let expected = AuthIdentity {
        data: object(json!({ "name": "Ada", "team": "T1" })),
        last_verified: after.last_verified,
        last_synced: after.last_verified,
        version: 2,
        ..before
    };
    assert_eq!(after, expected);
    assert_eq!(store.auth_identities().find(after.id).await.unwrap(), Some(after));
}

/// The credentials of an account come back as they went in, renewed by later ones; a rebound row
/// has none of the old ones.
pub async fn the_credentials_of_an_account_come_back_as_they_went_in(store: &Arc<dyn Store>) {
    let of = single_sign_on_of_o(store).await;
    let kept = async |id| store.auth_identities().find_credentials(id).await.unwrap();
    let id = account(store, &of, "u", "a").await.id;
    assert_eq!(kept(id).await, Some(fixtures::credentials()));

    let answer =
        Credentials { access_token: Some(Secret::new("access-2")), ..Credentials::default() };
    let again = SsoSignIn { credentials: Some(answer.clone()), ..sign_in(&of, "a") };
    store.auth_identities().sign_in(&again).await.unwrap();
    assert_eq!(kept(id).await, Some(fixtures::credentials().renewed_by(answer.clone())));

    let none = SsoSignIn { credentials: None, ..sign_in(&of, "a") };
    store.auth_identities().sign_in(&none).await.unwrap();
    assert_eq!(kept(id).await, Some(fixtures::credentials().renewed_by(answer)));

    let rebound = SsoSignIn { credentials: None, reattach: true, ..link(&of, "v", "a") };
    store.auth_identities().sign_in(&rebound).await.unwrap();
    assert_eq!(kept(id).await, None);
    assert_eq!(kept(AuthIdentityId(4_711)).await, None);
}

async fn session(store: &Arc<dyn Store>, of: &AuthProvider, name: &str) -> CompletionClaim {
    waiting(store, name, live_session(of.provider_id)).await
}

/// A sign-in and a link complete their session once, and leave nothing in it.
pub async fn a_single_sign_on_completes_its_session(store: &Arc<dyn Store>) {
    let of = single_sign_on_of_o(store).await;
    for (name, asked, becomes) in [
        ("link", link(&of, "u", "a"), LinkSessionStatus::Linked),
        ("sign-in", sign_in(&of, "a"), LinkSessionStatus::SignedIn),
    ] {
        let claim = session(store, &of, name).await;
        let asked = SsoSignIn { session: Some(claim), ..asked };
        store.auth_identities().sign_in(&asked).await.unwrap();
        let found = store.sessions().find(claim.id).await.unwrap().unwrap();
        assert_eq!((found.status, found.identity_id), (becomes, None));
        assert_eq!(store.sessions().find_pending(&claim).await.unwrap(), None);
        let again = store.auth_identities().sign_in(&asked).await.unwrap();
        assert_eq!(again, SsoOutcome::SessionUsed);
    }
}

/// A sign-in that finds nobody leaves its session `unlinked`, to be completed with a user.
pub async fn a_single_sign_on_of_nobody_can_be_completed_with_a_user(store: &Arc<dyn Store>) {
    let of = single_sign_on_of_o(store).await;
    let claim = session(store, &of, "s").await;
    let asked = SsoSignIn { session: Some(claim), ..sign_in(&of, "a") };
    let outcome = store.auth_identities().sign_in(&asked).await.unwrap();
    assert_eq!(outcome, SsoOutcome::NobodyLinked);
    assert_eq!(status(store, claim.id).await, LinkSessionStatus::Unlinked);

    account(store, &of, "v", "taken").await;
    let taken = SsoSignIn { session: Some(claim), ..link(&of, "u", "taken") };
    let outcome = store.auth_identities().sign_in(&taken).await.unwrap();
    assert_eq!(outcome, SsoOutcome::Taken(Taken::Account));
    assert_eq!(status(store, claim.id).await, LinkSessionStatus::Unlinked);

    let asked = SsoSignIn { session: Some(claim), ..link(&of, "u", "a") };
    let outcome = store.auth_identities().sign_in(&asked).await.unwrap();
    assert!(matches!(outcome, SsoOutcome::Linked { new: true, .. }), "{outcome:?}");
    assert_eq!(status(store, claim.id).await, LinkSessionStatus::Linked);
}

/// A wrong code changes nothing.
pub async fn a_single_sign_on_without_the_code_changes_nothing(store: &Arc<dyn Store>) {
    let of = single_sign_on_of_o(store).await;
    let claim = session(store, &of, "s").await;
    let wrong = CompletionClaim { code: SecretHash::of("wrong"), ..claim };
    for asked in [link(&of, "u", "a"), sign_in(&of, "a")] {
        let asked = SsoSignIn { session: Some(wrong), ..asked };
        let outcome = store.auth_identities().sign_in(&asked).await.unwrap();
        assert_eq!(outcome, SsoOutcome::SessionUsed);
    }
    assert_eq!(status(store, claim.id).await, LinkSessionStatus::AwaitingCompletion);
    assert_eq!(all(store).await, []);
}

/// Of racing links of one account, one user gets it; the others are told that it is taken.
pub async fn of_racing_single_sign_on_links_of_one_account_one_user_gets_it(
    store: &Arc<dyn Store>,
) {
    let of = single_sign_on_of_o(store).await;
    let outcomes = race(16, |racer| {
        let (store, asked) = (store.clone(), link(&of, &format!("u{racer}"), "a"));
        async move { store.auth_identities().sign_in(&asked).await.unwrap() }
    })
    .await;
    let new = outcomes.iter().filter(|it| matches!(it, SsoOutcome::Linked { new: true, .. }));
    let taken = outcomes.iter().filter(|it| **it == SsoOutcome::Taken(Taken::Account));
    assert_eq!((new.count(), taken.count()), (1, 15), "{outcomes:?}");
    assert_eq!(all(store).await.len(), 1);
}

/// Name and data are replaced where they are given, for the version that was read; a name that is
/// another row's is refused.
pub async fn an_account_for_single_sign_on_is_changed(store: &Arc<dyn Store>) {
    let of = single_sign_on_of_o(store).await;
    let before = account(store, &of, "u", "a").await;
    account(store, &of, "v", "b").await;
    let nothing = AuthIdentityUpdate {
        id: before.id,
        ident: None,
        data: None,
        synced: false,
        if_version: None,
        actor: ACTOR,
    };
    let update = async |it| store.auth_identities().update(&it).await.unwrap();

    let stale = AuthIdentityUpdate { if_version: Some(2), ..nothing.clone() };
    assert_eq!(update(stale).await, AuthIdentityOutcome::VersionConflict);
    let taken = AuthIdentityUpdate { ident: Some(external_id("b")), ..nothing.clone() };
    assert_eq!(update(taken).await, AuthIdentityOutcome::Taken);
    let absent = AuthIdentityUpdate { id: AuthIdentityId(4_711), ..nothing.clone() };
    assert_eq!(update(absent).await, AuthIdentityOutcome::Absent);
    assert_eq!(store.auth_identities().find(before.id).await.unwrap(), Some(before.clone()));

    let changed = AuthIdentityUpdate {
        ident: Some(external_id("c")),
        data: Some(object(json!({ "team": "T1" }))),
        synced: true,
        if_version: Some(1),
        ..nothing
    };
    let outcome = update(changed).await;
    let AuthIdentityOutcome::Updated(after) = outcome else { panic!("{outcome:?}") };
    assert!(after.last_synced > before.last_synced, "{after:?}");
    assert!(after.last_synced <= now() + chrono::TimeDelta::minutes(1));
    let expected = AuthIdentity {
        ident: external_id("c"),
        data: object(json!({ "team": "T1" })),
        last_synced: after.last_synced,
        version: 2,
        ..before.clone()
    };
    assert_eq!(after, expected);
    let told = events(store).await.pop().unwrap();
    assert_eq!(told.about, EventKind::AuthIdentityUpdated);
    assert_eq!(told.before.unwrap()["ident"], "a");
    assert_eq!(
        store.auth_identities().find_credentials(before.id).await.unwrap(),
        Some(fixtures::credentials())
    );
}

/// Accounts are listed by organization, single sign-on, user and name, all together.
pub async fn accounts_for_single_sign_on_are_listed(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let o = single_sign_on(store, "o", provider).await;
    let other = single_sign_on(store, "other", provider).await;
    let u = account(store, &o, "u", "a").await;
    let v = account(store, &o, "v", "b").await;
    let u_too = account(store, &other, "u", "a").await;
    let any = AuthIdentityFilter::default;
    for (filter, expected) in [
        (any(), vec![&u, &v, &u_too]),
        (AuthIdentityFilter { organization_id: Some(organization("o")), ..any() }, vec![&u, &v]),
        (AuthIdentityFilter { organization_id: Some(organization("none")), ..any() }, vec![]),
        (AuthIdentityFilter { auth_provider_id: Some(other.id), ..any() }, vec![&u_too]),
        (AuthIdentityFilter { user_id: Some(user("u")), ..any() }, vec![&u, &u_too]),
        (AuthIdentityFilter { provider_id: Some(provider), ..any() }, vec![&u, &v, &u_too]),
        (AuthIdentityFilter { provider_id: Some(ProviderId(4_711)), ..any() }, vec![]),
        (
            AuthIdentityFilter {
                provider_id: Some(provider),
                ident: Some(external_id("a")),
                ..any()
            },
            vec![&u, &u_too],
        ),
        (AuthIdentityFilter { ident: Some(external_id("b")), ..any() }, vec![&v]),
        (
            AuthIdentityFilter {
                organization_id: Some(organization("o")),
                user_id: Some(user("u")),
                ..any()
            },
            vec![&u],
        ),
    ] {
        let page = store.auth_identities().list(&filter, ALL).await.unwrap();
        assert_eq!(page.items.iter().collect::<Vec<_>>(), expected, "{filter:?}");
    }
    let page = PageRequest { limit: 2, after: Some(u.id.0) };
    let page = store.auth_identities().list(&any(), page).await.unwrap();
    assert_eq!((page.items, page.next), (vec![v, u_too], None));
}

/// The grants that wait for their revocation.
async fn waiting_grants(store: &Arc<dyn Store>) -> Vec<ClaimedRevocation> {
    store.revocations().claim_due(10, LONG).await.unwrap()
}

/// However an account for single sign-on goes, its grant waits for its revocation, due at once and
/// told of in the same breath; one without credentials leaves nothing to revoke.
pub async fn an_account_for_single_sign_on_that_goes_gives_up_its_grant(store: &Arc<dyn Store>) {
    for way in ["unlinked", "deleted", "with its single sign-on", "with its provider"] {
        let provider = provider(store, way).await;
        let of = single_sign_on(store, way, provider).await;
        let gone = account(store, &of, "u", "a").await;
        let bare = SsoSignIn { credentials: None, ..link(&of, "v", "b") };
        store.auth_identities().sign_in(&bare).await.unwrap();
        let users = store.auth_identities();
        match way {
            "unlinked" => {
                let (id, guard) = (gone.id, Guard::Off);
                let unlink = SsoUnlink { id, user_id: None, guard, actor: ACTOR };
                let outcome = users.unlink(&unlink).await.unwrap();
                assert_eq!(outcome, SsoUnlinkOutcome::Unlinked(gone.clone()));
            }
            "deleted" => {
                for name in ["u", "v"] {
                    let deleted = users.delete_for(&user(name), &of.organization_id, &ACTOR).await;
                    assert_eq!(deleted.unwrap(), 1);
                }
            }
            "with its single sign-on" => {
                assert_eq!(store.auth_providers().delete(of.id, &ACTOR).await.unwrap(), Some(2));
            }
            _ => {
                store.providers().delete(provider, true, &ACTOR).await.unwrap();
            }
        }
        let waiting = waiting_grants(store).await;
        let [ClaimedRevocation { queued, grant }] = waiting.as_slice() else {
            panic!("{way}: {waiting:?}")
        };
        assert_eq!(queued.owner, GrantOwner::AuthIdentity(gone.id), "{way}");
        assert_eq!((queued.provider_id, &queued.external_id), (provider, &gone.ident), "{way}");
        assert_eq!((&queued.user_id, &queued.actor), (&gone.user_id, &ACTOR), "{way}");
        let grant = grant.as_ref().unwrap();
        assert_eq!(grant.credentials, fixtures::credentials(), "{way}");
        assert_eq!(grant.provider.is_some(), way == "with its provider");

        let told = events(store).await;
        let at = told.iter().position(|it| {
            it.about == EventKind::AuthIdentityUnlinked
                && it.detail["auth_identity_id"] == gone.id.0
        });
        let [unlinked, revocation, ..] = &told[at.unwrap()..] else { panic!("{told:?}") };
        assert_eq!(revocation.about, EventKind::GrantRevocationQueued, "{way}");
        assert_eq!((revocation.identity_id, revocation.provider_id), (None, Some(provider)));
        assert_eq!(revocation.user_id, unlinked.user_id);
        let detail = json!({"revocation_id": queued.id.0, "auth_identity_id": gone.id.0});
        assert_eq!(revocation.detail, object(detail), "{way}");
    }
}

/// A rebound account gives up its grant, and so does the row that goes for it, unless the same
/// account stays linked with new credentials.
pub async fn an_account_for_single_sign_on_that_is_rebound_gives_up_its_grant(
    store: &Arc<dyn Store>,
) {
    let of = single_sign_on_of_o(store).await;
    let reattach = async |name, ident, credentials: Option<Credentials>| {
        let asked = SsoSignIn { reattach: true, credentials, ..link(&of, name, ident) };
        let outcome = store.auth_identities().sign_in(&asked).await.unwrap();
        assert!(matches!(outcome, SsoOutcome::Linked { new: false, .. }), "{outcome:?}");
        let mut waiting = waiting_grants(store).await;
        assert!(
            waiting
                .iter()
                .all(|it| { it.grant == Some(OrphanedGrant::new(fixtures::credentials())) })
        );
        waiting.sort_by_key(|it| it.queued.id);
        let pair = |it: &ClaimedRevocation| {
            let ClaimedRevocation { queued, .. } = it;
            format!("{} {}", queued.user_id, queued.external_id)
        };
        waiting.iter().map(pair).collect::<Vec<_>>()
    };
    let granted = || Some(fixtures::credentials());
    account(store, &of, "u", "a").await;
    assert_eq!(reattach("u", "b", granted()).await, ["u a"], "another account");
    let none: [&str; 0] = [];
    assert_eq!(reattach("v", "b", granted()).await, none, "the same, to another user");
    assert_eq!(reattach("w", "b", None).await, ["v b"], "the same, without a grant");
    account(store, &of, "x", "c").await;
    account(store, &of, "y", "d").await;
    assert_eq!(reattach("x", "d", None).await, ["y d", "x c"], "both rows");
}

/// A user's accounts for an organization go together, with their events, and no others; doing it
/// again does nothing.
pub async fn a_users_accounts_for_an_organization_go_together(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let o = single_sign_on(store, "o", provider).await;
    let other = single_sign_on(store, "other", provider).await;
    let gone = account(store, &o, "u", "a").await;
    account(store, &o, "v", "b").await;
    account(store, &other, "u", "a").await;
    let delete = async |name, of| {
        let users = store.auth_identities();
        users.delete_for(&user(name), &organization(of), &ACTOR).await.unwrap()
    };
    assert_eq!(delete("nobody", "o").await, 0);
    assert_eq!(delete("u", "none").await, 0);
    assert_eq!(delete("u", "o").await, 1);
    assert_eq!(delete("u", "o").await, 0);
    let left = [("v".to_owned(), "b".to_owned()), ("u".to_owned(), "a".to_owned())];
    assert_eq!(all(store).await, left);
    // What becomes of its grant is another promise.
    let mut told = events(store).await.into_iter();
    let told = told.rfind(|it| it.about == EventKind::AuthIdentityUnlinked).unwrap();
    assert_eq!(told.detail, object(json!({ "auth_identity_id": gone.id.0 })));
    assert_eq!((told.before, told.after), (Some(gone.facts()), None));
}
