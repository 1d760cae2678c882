//! [`list`](crate::ports::IdentityRepository::list).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use super::{ALL, Store, end_invalid, lease, link, linked, provider, unlink};
use crate::{
    identity::{Identity, IdentityFilter, IdentityStatus},
    ids::{ExternalId, IdentityId},
    page::PageRequest,
    ports::NewIdentityProvider,
    testing::fixtures::{self, external_id, organization, user},
};

/// Five identities at three providers: two users, and three accounts of which one is named as its
/// provider is.
struct Rows {
    /// `u`'s account `a` at `oidc`, `team`.
    oidc_u: Identity,
    /// `v`'s account `team` at `oidc`, `team`.
    oidc_v: Identity,
    /// `u`'s account `b` at `github`, which has no external id; invalid.
    github_u: Identity,
    /// `v`'s account `team` at `github`.
    github_v: Identity,
    /// `u`'s account `team` at `oidc`, `other`.
    other_u: Identity,
}

async fn rows(store: &Arc<dyn Store>) -> Rows {
    let provider = async |provider_type: &str, external_id: Option<&str>| {
        let new = NewIdentityProvider {
            provider_type: provider_type.into(),
            external_id: external_id.map(Into::into),
            ..fixtures::new_identity_provider()
        };
        store.providers().insert(&new, &fixtures::ACTOR).await.unwrap().id
    };
    let oidc = provider("oidc", Some("team")).await;
    let github = provider("github", None).await;
    let other = provider("oidc", Some("other")).await;
    let identity =
        async |provider, user, account| linked(store, &link(provider, user, account)).await;
    let mut rows = Rows {
        oidc_u: identity(oidc, "u", "a").await,
        oidc_v: identity(oidc, "v", "team").await,
        github_u: identity(github, "u", "b").await,
        github_v: identity(github, "v", "team").await,
        other_u: identity(other, "u", "team").await,
    };
    for (name, id) in [
        ("org-1", rows.github_v.id),
        ("org-1", rows.oidc_u.id),
        ("org-2", rows.oidc_u.id),
        ("org-2", rows.oidc_v.id),
    ] {
        let uses = store.organization_identities();
        uses.attach(&organization(name), id, &fixtures::ACTOR).await.unwrap();
    }
    let held = lease(store, rows.github_u.id).await;
    store.credentials().end(&held, &end_invalid()).await.unwrap();
    rows.github_u = store.identities().find(rows.github_u.id).await.unwrap().unwrap();
    rows
}

async fn list(store: &Arc<dyn Store>, filter: &IdentityFilter) -> Vec<Identity> {
    let page = store.identities().list(filter, ALL).await.unwrap();
    assert_eq!(page.next, None);
    page.items
}

/// Each condition narrows a list by itself, and none of them means every identity, in ascending
/// id order.
pub async fn each_condition_narrows_the_list(store: &Arc<dyn Store>) {
    let Rows { oidc_u, oidc_v, github_u, github_v, other_u } = rows(store).await;
    let any = IdentityFilter::default;
    let cases = [
        (any(), vec![&oidc_u, &oidc_v, &github_u, &github_v, &other_u]),
        (IdentityFilter { id: Some(github_u.id), ..any() }, vec![&github_u]),
        (
            IdentityFilter { provider_types: Some(vec!["oidc".into()]), ..any() },
            vec![&oidc_u, &oidc_v, &other_u],
        ),
        (IdentityFilter { provider_types: Some(vec![]), ..any() }, vec![]),
        (
            IdentityFilter { providers: Some(vec![github_u.idp_id]), ..any() },
            vec![&github_u, &github_v],
        ),
        (IdentityFilter { providers: Some(vec![]), ..any() }, vec![]),
        (
            IdentityFilter { organization_id: Some(organization("org-1")), ..any() },
            vec![&oidc_u, &github_v],
        ),
        (IdentityFilter { organization_id: Some(organization("org-3")), ..any() }, vec![]),
        (IdentityFilter { id: Some(IdentityId(4_711)), ..any() }, vec![]),
        (IdentityFilter { user_id: Some(user("u")), ..any() }, vec![&oidc_u, &github_u, &other_u]),
        (IdentityFilter { user_id: Some(user("U")), ..any() }, vec![]),
        (
            IdentityFilter { external_id: Some(external_id("team")), ..any() },
            vec![&oidc_v, &github_v, &other_u],
        ),
        (
            IdentityFilter {
                external_ids: Some(["b", "nobody", "a", "b"].map(external_id).into()),
                ..any()
            },
            vec![&oidc_u, &github_u],
        ),
        (
            IdentityFilter { provider_id: Some(github_u.idp_id), ..any() },
            vec![&github_u, &github_v],
        ),
        (
            IdentityFilter { provider_external_id: Some("team".into()), ..any() },
            vec![&oidc_u, &oidc_v],
        ),
        (IdentityFilter { provider_external_id: Some(String::new()), ..any() }, vec![]),
        (IdentityFilter { provider_has_no_external_id: true, ..any() }, vec![&github_u, &github_v]),
        (
            IdentityFilter {
                provider_has_no_external_id: true,
                provider_type: Some("oidc".into()),
                ..any()
            },
            vec![],
        ),
        (
            IdentityFilter { provider_type: Some("oidc".into()), ..any() },
            vec![&oidc_u, &oidc_v, &other_u],
        ),
        (IdentityFilter { status: Some(IdentityStatus::Invalid), ..any() }, vec![&github_u]),
        (
            IdentityFilter { status: Some(IdentityStatus::Valid), ..any() },
            vec![&oidc_u, &oidc_v, &github_v, &other_u],
        ),
        (IdentityFilter { status: Some(IdentityStatus::Unknown), ..any() }, vec![]),
    ];
    for (filter, meant) in cases {
        let found = list(store, &filter).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), meant, "{filter:?}");
    }
}

/// All conditions hold together: one that does not fit leaves nothing.
pub async fn all_conditions_hold_together(store: &Arc<dyn Store>) {
    let Rows { oidc_u, github_v, .. } = rows(store).await;
    let all = IdentityFilter {
        id: Some(oidc_u.id),
        user_id: Some(user("u")),
        external_id: Some(external_id("a")),
        external_ids: Some(vec![external_id("a"), external_id("b")]),
        provider_id: Some(oidc_u.idp_id),
        provider_external_id: Some("team".into()),
        provider_has_no_external_id: false,
        provider_type: Some("oidc".into()),
        status: Some(IdentityStatus::Valid),
        exclude_matching_external_ids: true,
        provider_types: Some(vec!["github".into(), "oidc".into()]),
        providers: Some(vec![github_v.idp_id, oidc_u.idp_id]),
        organization_id: Some(organization("org-2")),
    };
    assert_eq!(list(store, &all).await, [oidc_u]);
    let one_off = [
        IdentityFilter { provider_types: Some(vec!["github".into()]), ..all.clone() },
        IdentityFilter { providers: Some(vec![github_v.idp_id]), ..all.clone() },
        IdentityFilter { organization_id: Some(organization("org-3")), ..all.clone() },
        IdentityFilter { id: Some(github_v.id), ..all.clone() },
        IdentityFilter { user_id: Some(user("v")), ..all.clone() },
        IdentityFilter { external_id: Some(external_id("b")), ..all.clone() },
        IdentityFilter { external_ids: Some(vec![external_id("b")]), ..all.clone() },
        IdentityFilter { provider_id: Some(github_v.idp_id), ..all.clone() },
        IdentityFilter { provider_external_id: Some("other".into()), ..all.clone() },
        IdentityFilter { provider_has_no_external_id: true, ..all.clone() },
        IdentityFilter { provider_type: Some("github".into()), ..all.clone() },
        IdentityFilter { status: Some(IdentityStatus::Invalid), ..all.clone() },
    ];
    for filter in one_off {
        assert_eq!(list(store, &filter).await, [], "{filter:?}");
    }
}

/// An empty list of account names means none; a long one means each of its names.
pub async fn an_empty_list_of_names_means_none(store: &Arc<dyn Store>) {
    let Rows { oidc_u, github_u, .. } = rows(store).await;
    let among = |names: Vec<ExternalId>| IdentityFilter {
        external_ids: Some(names),
        ..IdentityFilter::default()
    };
    assert_eq!(list(store, &among(Vec::new())).await, []);
    let many = (0..500).map(|nth| external_id(&format!("name {nth}")));
    let many = many.chain(["a", "b"].map(external_id)).collect();
    assert_eq!(list(store, &among(many)).await, [oidc_u, github_u]);
}

/// Accounts that are named as their provider instance is can be left out; those at a provider
/// without an external id stay.
pub async fn accounts_named_as_their_provider_can_be_left_out(store: &Arc<dyn Store>) {
    let Rows { oidc_u, github_u, github_v, other_u, .. } = rows(store).await;
    let filter =
        IdentityFilter { exclude_matching_external_ids: true, ..IdentityFilter::default() };
    assert_eq!(list(store, &filter).await, [oidc_u, github_u, github_v, other_u]);
}

/// Pages are in ascending id order, each as long as asked for, and only the last one ends.
pub async fn pages_go_on_in_id_order_to_the_end(store: &Arc<dyn Store>) {
    let Rows { oidc_u, oidc_v, github_u, github_v, other_u } = rows(store).await;
    let all = [oidc_u, oidc_v, github_u, github_v, other_u].map(|it| it.id);
    for limit in [1_u16, 2, 4, 5, 6] {
        let (mut read, mut after) = (Vec::new(), None);
        loop {
            let page = PageRequest { limit, after };
            let page = store.identities().list(&IdentityFilter::default(), page).await.unwrap();
            read.extend(page.items.iter().map(|it| it.id));
            after = page.next;
            if after.is_none() {
                break;
            }
            assert_eq!(page.items.len(), usize::from(limit));
            assert_eq!(after, page.items.last().map(|it| it.id.0));
            assert!(read.len() < all.len(), "the last page has no next one");
        }
        assert_eq!(read, all);
    }
    let beyond = PageRequest { after: Some(all[4].0), ..ALL };
    let page = store.identities().list(&IdentityFilter::default(), beyond).await.unwrap();
    assert_eq!((page.items, page.next), (Vec::new(), None));
}

/// Pages show each row that stays once, while others come and go.
pub async fn pages_are_stable_while_rows_come_and_go(store: &Arc<dyn Store>) {
    let Rows { oidc_u, oidc_v, github_u, github_v, other_u } = rows(store).await;
    let first = PageRequest { limit: 2, after: None };
    let filter = IdentityFilter::default();
    let page = store.identities().list(&filter, first).await.unwrap();
    assert_eq!(page.items, [oidc_u, oidc_v.clone()]);

    for gone in [oidc_v.id, github_u.id] {
        unlink(store, gone).await;
    }
    let late = linked(store, &link(oidc_v.idp_id, "late", "late")).await;

    let rest = PageRequest { limit: 5, after: page.next };
    let page = store.identities().list(&filter, rest).await.unwrap();
    assert_eq!((page.items, page.next), (vec![github_v, other_u, late], None));
}

/// The same while others link and unlink at the same time: who reads page after page sees each row
/// that stays once, ids ascending.
pub async fn pages_are_stable_under_concurrent_links_and_unlinks(store: &Arc<dyn Store>) {
    const OTHERS: usize = 2;
    let at = provider(store, "busy").await;
    let (mut staying, mut leaving) = (Vec::new(), vec![Vec::new(); OTHERS]);
    for nth in 0..40 {
        let row = linked(store, &link(at, &format!("stays {nth}"), &format!("stays {nth}"))).await;
        staying.push(row.id);
        let row = linked(store, &link(at, &format!("goes {nth}"), &format!("goes {nth}"))).await;
        leaving[nth % OTHERS].push(row.id);
    }
    let (changes, over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let mut others = Vec::new();
    for (other, mut leaving) in leaving.into_iter().enumerate() {
        let (store, changes, over) = (Arc::clone(store), Arc::clone(&changes), Arc::clone(&over));
        others.push(tokio::spawn(async move {
            // Few of their new rows are there at a time, so that reading comes to the end of them.
            for nth in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                if let Some(gone) = leaving.pop() {
                    unlink(&store, gone).await;
                }
                let name = format!("comes {other} {nth}");
                let come = linked(&store, &link(at, &name, &name)).await;
                unlink(&store, come.id).await;
                changes.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }));
    }
    let at_provider = IdentityFilter { provider_id: Some(at), ..IdentityFilter::default() };
    let mut rounds = 0;
    // A task that failed ends the reading too, and fails the test below.
    while (rounds < 4 || changes.load(Ordering::Relaxed) < 40)
        && !others.iter().any(tokio::task::JoinHandle::is_finished)
    {
        let all = IdentityFilter::default();
        let filter = if rounds % 2 == 0 { &at_provider } else { &all };
        let (mut read, mut after) = (Vec::new(), None);
        loop {
            let page = PageRequest { limit: 7, after };
            let page = store.identities().list(filter, page).await.unwrap();
            read.extend(page.items.iter().map(|it| it.id));
            after = page.next;
            if after.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(read.is_sorted_by(|one, next| one < next), "{read:?}");
        read.retain(|it| staying.contains(it));
        assert_eq!(read, staying);
        rounds += 1;
    }
    over.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
}
