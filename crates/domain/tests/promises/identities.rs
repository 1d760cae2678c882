//! Why an account is believed to be a user's is told as far as it is known.

use symbolon_domain::{
    archive::{IdentityRecord, ImportOutcome, Record},
    event::{Actor, EventKind},
    identity::Identity,
    ids::IdentityId,
    link_evidence::{LinkEvidence, LinkMethod},
    page::PageRequest,
    ports::{Archive, ImportSettings},
    testing::fixtures,
};

use crate::world::World;

#[tokio::test]
async fn an_imported_identity_is_explained_by_its_import() {
    let world = World::new().await;
    let settings = ImportSettings { actor: Actor::OPERATOR, dry_run: false, tells: true };
    let identity =
        Identity { id: IdentityId(700), idp_id: world.provider_id, ..fixtures::identity() };
    let record = Record::Identity(Box::new(IdentityRecord::new(identity, None)));
    let mut import = world.store.import(&settings).await.unwrap();
    assert_eq!(import.take(&[record]).await.unwrap(), [ImportOutcome::Created(700)]);

    let page = PageRequest { limit: 10, after: None };
    let explained = world.identities.explain(IdentityId(700), page).await.unwrap();
    let linked = explained.linked.unwrap();
    assert_eq!((linked.about, &linked.actor), (EventKind::IdentityImported, &Actor::OPERATOR));
    let evidence = LinkEvidence::from_detail(&linked.detail);
    assert_eq!(evidence, Some(LinkEvidence::of(LinkMethod::Import)));
    assert_eq!(explained.verified, None);
}
