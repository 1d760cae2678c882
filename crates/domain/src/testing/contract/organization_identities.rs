//! [`OrganizationIdentityRepository`](crate::ports::OrganizationIdentityRepository).

use std::sync::Arc;

use super::{
    ALL, Store, events, identity, kinds, link, linked, live_session, provider, provider_of_type,
    race, unlink, waiting,
};
use crate::{
    event::EventKind,
    ids::{IdentityId, OrganizationId},
    link_session::LinkSession,
    organization_identity::OrganizationIdentity,
    page::PageRequest,
    ports::{Link, OrganizationIdentityFilter, RepositoryError},
    testing::fixtures::{ACTOR, organization},
};

async fn uses(store: &Arc<dyn Store>, id: IdentityId) -> Vec<OrganizationId> {
    let filter = OrganizationIdentityFilter { identity_id: Some(id), ..Default::default() };
    let page = store.organization_identities().list(&filter, ALL).await.unwrap();
    page.items.into_iter().map(|it| it.organization_id).collect()
}

/// An organization uses an identity once, however often and by how many at a time it is told so.
pub async fn an_organization_uses_an_identity_once(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let attached = race(8, |_| {
        let (store, id) = (store.clone(), identity.id);
        async move {
            let uses = store.organization_identities();
            uses.attach(&organization("o"), id, &ACTOR).await.unwrap()
        }
    })
    .await;
    let [(first, _), ..] = attached.as_slice() else { panic!("{attached:?}") };
    assert_eq!(
        *first,
        OrganizationIdentity {
            id: first.id,
            organization_id: organization("o"),
            identity_id: identity.id,
            date_added: first.date_added,
        }
    );
    assert!(attached.iter().all(|(it, _)| it == first), "{attached:?}");
    assert_eq!(attached.iter().filter(|(_, new)| *new).count(), 1);
    assert_eq!(uses(store, identity.id).await, [organization("o")]);

    let told = events(store).await.pop().unwrap();
    assert_eq!(told.about, EventKind::OrganizationIdentityLinked);
    assert_eq!((told.identity_id, told.provider_id), (Some(identity.id), Some(identity.idp_id)));
    assert_eq!(
        (told.user_id, told.organization_id),
        (Some(identity.user_id), Some(organization("o")))
    );
    let expected = [EventKind::IdentityLinked, EventKind::OrganizationIdentityLinked];
    assert_eq!(kinds(store).await, expected);

    let nobody = IdentityId(4_711);
    let refused = store.organization_identities().attach(&organization("o"), nobody, &ACTOR).await;
    assert!(matches!(refused, Err(RepositoryError::NotFound)), "{refused:?}");
}

/// Uses are listed of what is at instances of some types only, page by page with none missing.
pub async fn uses_are_listed_by_provider_type(store: &Arc<dyn Store>) {
    let organizations = store.organization_identities();
    let (mut of_rare, mut all) = (Vec::new(), Vec::new());
    let (common, rare) =
        (provider_of_type(store, "common", "c").await, provider_of_type(store, "rare", "r").await);
    for number in 0..9 {
        let at = if number % 4 == 0 { rare } else { common };
        let name = number.to_string();
        let identity = linked(store, &link(at, &name, &name)).await;
        let used = organizations.attach(&organization("o"), identity.id, &ACTOR).await.unwrap().0;
        organizations.attach(&organization("other"), identity.id, &ACTOR).await.unwrap();
        of_rare.extend((at == rare).then_some(used.id));
        all.push(used.id);
    }
    for (types, expected) in [
        (None, &all),
        (Some(vec!["rare"]), &of_rare),
        (Some(vec!["common", "rare", "rare"]), &all),
        (Some(vec!["nobody's"]), &Vec::new()),
        (Some(vec![]), &Vec::new()),
    ] {
        let filter = OrganizationIdentityFilter {
            organization_id: Some(organization("o")),
            identity_id: None,
            provider_types: types.map(|it| it.into_iter().map(str::to_owned).collect()),
        };
        let (mut found, mut page) = (Vec::new(), PageRequest { limit: 2, after: None });
        loop {
            let part = organizations.list(&filter, page).await.unwrap();
            assert!(part.next.is_none() || part.items.len() == 2, "a part is short: {part:?}");
            found.extend(part.items.into_iter().map(|it| it.id));
            page.after = part.next;
            if page.after.is_none() {
                break;
            }
        }
        assert_eq!(found, *expected, "{filter:?}");
    }
}

/// A use ends once; the identity stays, and so do other uses of it.
pub async fn a_use_ends_and_the_identity_stays(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let organizations = store.organization_identities();
    for name in ["o", "p"] {
        organizations.attach(&organization(name), identity.id, &ACTOR).await.unwrap();
    }
    let detach =
        async |name| organizations.detach(&organization(name), identity.id, &ACTOR).await.unwrap();
    assert!(!detach("none").await);
    assert!(detach("o").await);
    assert!(!detach("o").await);
    assert_eq!(uses(store, identity.id).await, [organization("p")]);
    let told = events(store).await.pop().unwrap();
    assert_eq!(told.about, EventKind::OrganizationIdentityUnlinked);
    assert_eq!(told.organization_id, Some(organization("o")));
    assert_eq!(store.identities().find(identity.id).await.unwrap(), Some(identity));
}

/// A use goes with its identity, and is told of; whether the identity goes alone or with its
/// provider.
pub async fn a_use_goes_with_its_identity(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for name in ["alone", "with its provider"] {
        let identity = linked(store, &link(provider, name, name)).await;
        let organizations = store.organization_identities();
        organizations.attach(&organization("o"), identity.id, &ACTOR).await.unwrap();
        if name == "alone" {
            unlink(store, identity.id).await;
        } else {
            store.providers().delete(provider, true, &ACTOR).await.unwrap();
        }
        assert_eq!(uses(store, identity.id).await, [], "{name}");
        let told = events(store).await;
        let gone = told.iter().filter(|it| it.identity_id == Some(identity.id));
        let mut gone: Vec<_> = gone.map(|it| it.about).collect();
        // What becomes of its grant is another promise.
        gone.retain(|it| *it != EventKind::GrantRevocationQueued);
        let expected = [
            EventKind::IdentityLinked,
            EventKind::OrganizationIdentityLinked,
            EventKind::OrganizationIdentityUnlinked,
            EventKind::IdentityUnlinked,
        ];
        assert_eq!(gone, expected, "{name}");
    }
}

/// What is linked in a session of an organization is used by it from then on, once.
pub async fn a_link_for_an_organization_is_used_by_it(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for (name, reattach, user) in [("new", false, "u"), ("again", false, "u"), ("moved", true, "v")]
    {
        let session =
            LinkSession { organization_id: Some(organization("o")), ..live_session(provider) };
        let claim = waiting(store, name, session).await;
        let asked = Link { session: Some(claim), reattach, ..link(provider, user, "a") };
        let identity = linked(store, &asked).await;
        assert_eq!(uses(store, identity.id).await, [organization("o")], "{name}");
    }
    let told = kinds(store).await;
    let attached = told.iter().filter(|it| **it == EventKind::OrganizationIdentityLinked);
    assert_eq!(attached.count(), 1, "{told:?}");
}
