//! [`Archive`](crate::ports::Archive).

use std::{collections::HashSet, sync::Arc};

use serde_json::json;

use super::{ALL, LONG, Store, events, identity, kinds, link, linked, now, provider, race};
use crate::{
    api_key::ApiKey,
    archive::{
        ApiKeyRecord, AuthIdentityRecord, IdentityRecord, ImportOutcome, KEPT_IDS_END,
        ProviderRecord, Record, RecordKind, Refusal, RevocationRecord, WebhookEndpointRecord,
    },
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    event::{Event, EventKind},
    identity::{Identity, IdentityFilter, IdentityStatus, Invalid, InvalidReason},
    identity_provider::{IdentityProvider, ProviderOptions},
    ids::{
        ApiKeyId, AuthIdentityId, AuthProviderId, DeviceLinkId, EventId, IdentityId,
        OrganizationIdentityId, ProviderId, RevocationId, TransferId, WebhookEndpointId,
    },
    link_evidence::{LinkEvidence, LinkMethod},
    organization_identity::OrganizationIdentity,
    ports::{BackOff, DeliveryEnd, FailureClass, ImportSettings, Unlink, WebhookEndpointUpdate},
    revocation::{GrantOwner, OrphanedGrant, QueuedRevocation, RevocationStatus},
    secret::{Secret, SecretHash},
    testing::fixtures,
    transfer::{Transfer, TransferItem, TransferObstacle, UndoItem},
    webhook::{WebhookEndpoint, WebhookSecrets},
};

/// An import that tells.
fn telling() -> ImportSettings {
    ImportSettings { actor: fixtures::ACTOR, dry_run: false, tells: true }
}

/// A provider instance of this name, with a secret.
fn provider_record(id: i64, name: &str) -> ProviderRecord {
    let secrets = [("client_secret".to_owned(), Secret::new(format!("of {name}")))].into();
    let provider = IdentityProvider {
        id: ProviderId(id),
        provider_type: "oidc".into(),
        external_id: Some(name.to_owned()),
        config: fixtures::object(json!({"issuer": "https://a.example", "z": [1.5, null]})),
        secret_names: vec!["client_secret".into()],
        options: ProviderOptions { login: true, multiple_accounts: false },
        names_issuer: true,
        date_added: now(),
        version: 7,
    };
    ProviderRecord { provider, secrets }
}

/// An identity with every column set.
fn identity_record(id: i64, idp: i64, user: &str, account: &str) -> IdentityRecord {
    let at = now();
    let credentials = crate::credentials::Credentials {
        expires_at: Some(at),
        refresh_ends_at: Some(at),
        others: [("client_secret".to_owned(), Secret::new("another"))].into(),
        dpop_key: Some(Secret::new("k1")),
        ..fixtures::credentials()
    };
    let identity = Identity {
        id: IdentityId(id),
        idp_id: ProviderId(idp),
        user_id: fixtures::user(user),
        external_id: fixtures::external_id(account),
        data: fixtures::object(json!({"name": "Ada", "n": 0.1, "deep": {"b": 1, "a": [true]}})),
        status: IdentityStatus::Invalid,
        invalid: Some(Invalid { reason: InvalidReason::Imported, at }),
        scopes: vec!["openid".into()],
        date_verified: at,
        date_added: at,
        expires_at: Some(at),
        version: 9,
    };
    let back_off = BackOff {
        until: at,
        class: FailureClass::Unavailable,
        failures: 3,
        detail: "timeout".into(),
    };
    IdentityRecord {
        identity,
        credentials: Some(credentials),
        generation: 4,
        attempt: 6,
        unanswered: 1,
        back_off: Some(back_off),
        beside_others: false,
    }
}

fn of_provider(id: i64, name: &str) -> Record {
    Record::IdentityProvider(provider_record(id, name))
}

fn of_identity(id: i64, idp: i64, user: &str, account: &str) -> Record {
    Record::Identity(Box::new(identity_record(id, idp, user, account)))
}

/// The single sign-on of this organization.
fn of_auth_provider(id: i64, organization: &str, idp: i64) -> Record {
    Record::AuthProvider(Box::new(AuthProvider {
        id: AuthProviderId(id),
        organization_id: fixtures::organization(organization),
        provider_id: ProviderId(idp),
        config: fixtures::object(json!({"domain": "a.example"})),
        allow_unlinked: true,
        scim_enabled: true,
        default_role: Some(50),
        default_global_access: true,
        sync_time: Some(10),
        last_sync: Some(now()),
        date_added: now(),
        version: 3,
    }))
}

fn of_auth_identity(id: i64, at: i64, user: &str, ident: &str) -> Record {
    let auth_identity = AuthIdentity {
        id: AuthIdentityId(id),
        auth_provider_id: AuthProviderId(at),
        user_id: fixtures::user(user),
        ident: fixtures::external_id(ident),
        data: fixtures::object(json!({"email": "a@a.example"})),
        last_verified: now(),
        last_synced: now(),
        date_added: now(),
        version: 4,
    };
    let credentials = Some(fixtures::credentials());
    let record = AuthIdentityRecord { auth_identity, credentials, generation: 5 };
    Record::AuthIdentity(Box::new(record))
}

fn of_use(id: i64, organization: &str, identity: i64) -> Record {
    Record::OrganizationIdentity(OrganizationIdentity {
        id: OrganizationIdentityId(id),
        organization_id: fixtures::organization(organization),
        identity_id: IdentityId(identity),
        date_added: now(),
    })
}

fn of_key(id: i64, secret: &str) -> Record {
    let key = ApiKey {
        id: ApiKeyId(id),
        name: "a caller".into(),
        revoked_at: Some(now()),
        created_at: now(),
        ..fixtures::api_key()
    };
    Record::ApiKey(ApiKeyRecord { key, hash: Some(SecretHash::of(secret)) })
}

fn endpoint_record(id: i64, path: &str, position: i64) -> WebhookEndpointRecord {
    let secrets = WebhookSecrets::one(Secret::new("first"));
    let endpoint = WebhookEndpoint {
        id: WebhookEndpointId(id),
        url: format!("https://receiver.example/{path}").parse().unwrap(),
        kinds: vec![EventKind::IdentityLinked, EventKind::IdentityUnlinked],
        created_at: now(),
        ..fixtures::webhook_endpoint()
    };
    WebhookEndpointRecord {
        endpoint,
        secrets: Some(secrets.rotated(Secret::new("second"), now() + LONG, now())),
        generation: 3,
        position: EventId(position),
    }
}

fn of_endpoint(id: i64, path: &str, position: i64) -> Record {
    Record::WebhookEndpoint(endpoint_record(id, path, position))
}

/// An undone transfer, of one identity that was given back, one that was not, and one that was
/// never moved.
fn of_transfer(id: i64, from: &str) -> Record {
    let item = |id, skipped, undo| TransferItem {
        identity_id: IdentityId(id),
        provider_id: ProviderId(5001),
        external_id: fixtures::external_id(&format!("a{id}")),
        skipped,
        undo,
    };
    Record::Transfer(Transfer {
        id: TransferId(id),
        from_user_id: fixtures::user(from),
        to_user_id: fixtures::user("to"),
        items: vec![
            item(6001, None, Some(UndoItem::GivenBack)),
            item(6002, None, Some(UndoItem::Kept(TransferObstacle::Unlinked))),
            item(6003, Some(TransferObstacle::UserHasAnother), None),
        ],
        actor: fixtures::ACTOR.because("they were one"),
        created_at: now(),
        undone_at: Some(now()),
    })
}

/// A grant that waits to be revoked at this provider.
fn revocation_record(id: i64, idp: i64) -> RevocationRecord {
    let queued = QueuedRevocation {
        id: RevocationId(id),
        owner: GrantOwner::Identity(IdentityId(60_000 + id)),
        provider_id: ProviderId(idp),
        user_id: fixtures::user("u"),
        external_id: fixtures::external_id("a"),
        actor: fixtures::ACTOR.because("it was so"),
        status: RevocationStatus::Waiting,
        attempts: 2,
        queued_at: now(),
        due_at: now(),
        last_error: Some("timeout".into()),
    };
    let grant = Some(OrphanedGrant::new(fixtures::credentials()));
    RevocationRecord { queued, grant, generation: 2 }
}

/// One at a provider that is gone.
fn revocation_record_of_gone(id: i64, idp: i64) -> RevocationRecord {
    let ProviderRecord { mut provider, secrets } = provider_record(idp, "gone");
    // So much is kept of one that is gone.
    provider.options = ProviderOptions::default();
    provider.names_issuer = false;
    let credentials = fixtures::credentials();
    let grant = Some(OrphanedGrant { credentials, provider: Some((provider, secrets)) });
    RevocationRecord { grant, ..revocation_record(id, idp) }
}

fn of_revocation(id: i64, idp: i64) -> Record {
    Record::Revocation(Box::new(revocation_record(id, idp)))
}

fn of_ended_revocation(id: i64) -> Record {
    let mut record = RevocationRecord { grant: None, ..revocation_record(id, 5003) };
    record.queued.status = RevocationStatus::Revoked;
    record.queued.owner = GrantOwner::AuthIdentity(AuthIdentityId(6601));
    Record::Revocation(Box::new(record))
}

fn of_event(id: i64, about: EventKind) -> Record {
    Record::Event(Box::new(Event {
        id: EventId(id),
        at: now(),
        about,
        actor: fixtures::ACTOR.because("it was so"),
        identity_id: Some(IdentityId(70_001)),
        provider_id: Some(ProviderId(70_002)),
        user_id: Some(fixtures::user("u")),
        organization_id: Some(fixtures::organization("o")),
        before: Some(fixtures::object(json!({"a": 1}))),
        after: None,
        detail: fixtures::object(json!({"b": 2})),
    }))
}

async fn take(
    store: &Arc<dyn Store>,
    settings: &ImportSettings,
    records: &[Record],
) -> Vec<ImportOutcome> {
    let mut import = store.archive().import(settings).await.unwrap();
    import.take(records).await.unwrap()
}

async fn export(store: &Arc<dyn Store>, with_secrets: bool) -> Vec<Record> {
    let mut export = store.archive().export(with_secrets).await.unwrap();
    let mut all = Vec::new();
    loop {
        let records = export.next().await.unwrap();
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}

/// What was imported is what is there, ids, counters and secrets included.
pub async fn what_was_imported_comes_out_again(store: &Arc<dyn Store>) {
    let silent = ImportSettings { tells: false, ..telling() };
    let records = [
        of_provider(5001, "one"),
        of_provider(5002, "two"),
        of_identity(6001, 5001, "u1", "a1"),
        of_identity(6002, 5001, "u2", "a2"),
        of_identity(6003, 5002, "u1", "a1"),
        of_auth_provider(6501, "o1", 5001),
        of_auth_provider(6502, "o2", 5001),
        of_auth_identity(6601, 6501, "u1", "i1"),
        of_auth_identity(6602, 6502, "u1", "i1"),
        of_use(6701, "o1", 6001),
        of_use(6702, "o2", 6001),
        of_key(7001, "k"),
        of_endpoint(7101, "one", 8001),
        of_endpoint(7102, "two", 0),
        of_transfer(7201, "one"),
        of_transfer(7202, "two"),
        of_revocation(7301, 5001),
        Record::Revocation(Box::new(revocation_record_of_gone(7302, 5003))),
        of_ended_revocation(7303),
        of_event(8001, EventKind::IdentityLinked),
        of_event(8003, EventKind::IdentityUnlinked),
    ];
    let mut import = store.archive().import(&silent).await.unwrap();
    for batch in records.chunk_by(|one, next| one.kind() == next.kind()) {
        let created: Vec<_> = batch.iter().map(|it| ImportOutcome::Created(it.id())).collect();
        assert_eq!(import.take(batch).await.unwrap(), created);
    }
    drop(import);
    assert_eq!(export(store, true).await, records);

    let found = store.credentials().find(IdentityId(6001)).await.unwrap().unwrap();
    let Record::Identity(record) = &records[2] else { panic!() };
    assert_eq!((found.generation, found.credentials), (4, record.credentials.clone()));
    let found = store.identities().find(IdentityId(6001)).await.unwrap();
    assert_eq!(found.as_ref(), Some(&record.identity));
    let secrets = store.providers().find_with_secrets(ProviderId(5002)).await.unwrap().unwrap().1;
    assert_eq!(secrets["client_secret"], Secret::new("of two"));
    let key = store.api_keys().find_by_hash(&SecretHash::of("k")).await.unwrap();
    assert_eq!(key.map(|it| it.id), Some(ApiKeyId(7001)));

    // What came along opens, and is for use.
    let of = WebhookEndpointId(7101);
    let found = store.webhooks().find_with_secrets(of).await.unwrap().unwrap();
    let Record::WebhookEndpoint(record) = &records[12] else { panic!() };
    assert_eq!(Some(found.1), record.secrets);
    store.webhooks().fan_out(of, 10).await.unwrap();
    let told = store.webhooks().claim(of, 10, LONG).await.unwrap();
    let told: Vec<_> = told.iter().map(|it| it.event.id).collect();
    assert_eq!(told, [EventId(8003)]);
    let Record::Transfer(transfer) = &records[14] else { panic!() };
    let found = store.transfers().find(TransferId(7201)).await.unwrap();
    assert_eq!(found.as_ref(), Some(transfer));
    let claimed = store.revocations().claim(RevocationId(7302), LONG).await.unwrap().unwrap();
    let Record::Revocation(record) = &records[17] else { panic!() };
    assert_eq!(claimed.grant, record.grant);
    assert_eq!(claimed.queued.attempts, 3);
    let ended = store.revocations().claim(RevocationId(7303), LONG).await.unwrap();
    assert_eq!(ended, None);
}

/// A second import of the same finds everything there and changes nothing.
pub async fn an_import_again_changes_nothing(store: &Arc<dyn Store>) {
    let records = [
        vec![of_provider(5001, "one")],
        vec![of_identity(6001, 5001, "u1", "a1"), of_identity(6002, 5001, "u2", "a2")],
        vec![of_auth_provider(6501, "o1", 5001)],
        vec![of_auth_identity(6601, 6501, "u1", "i1")],
        vec![of_use(6701, "o1", 6001)],
        vec![of_key(7001, "k")],
        vec![of_endpoint(7101, "one", 0)],
        vec![of_transfer(7201, "one")],
        vec![of_revocation(7301, 5001), of_ended_revocation(7302)],
        vec![of_event(8001, EventKind::IdentityLinked)],
    ];
    for batch in &records {
        take(store, &telling(), batch).await;
    }
    let before = export(store, true).await;
    for batch in &records {
        let unchanged: Vec<_> = batch.iter().map(|it| ImportOutcome::Unchanged(it.id())).collect();
        assert_eq!(take(store, &telling(), batch).await, unchanged);
    }
    assert_eq!(export(store, true).await, before);
}

/// An endpoint whose address was changed since is known again under its id, and under another id by
/// its address; it stays as it is.
pub async fn an_endpoint_is_known_again_whatever_its_address(store: &Arc<dyn Store>) {
    let record = endpoint_record(7101, "one", 0);
    take(store, &telling(), &[Record::WebhookEndpoint(record.clone())]).await;
    let id = WebhookEndpointId(7101);
    let moved = WebhookEndpointUpdate {
        url: Some("https://receiver.example/moved".parse().unwrap()),
        ..WebhookEndpointUpdate::default()
    };
    store.webhooks().update(id, &moved, &fixtures::ACTOR).await.unwrap().unwrap();
    let before = export(store, true).await;
    let unchanged = ImportOutcome::Unchanged(id.0);
    let mut elsewhere = endpoint_record(7109, "moved", 0);
    elsewhere.endpoint.created_at = record.endpoint.created_at;
    // Without its secrets it is known, too.
    let without = WebhookEndpointRecord { secrets: None, ..record.clone() };
    for same in [record.clone(), elsewhere, without] {
        let outcomes = take(store, &telling(), &[Record::WebhookEndpoint(same)]).await;
        assert_eq!(outcomes, [unchanged]);
    }
    assert_eq!(export(store, true).await, before);
    // One that was made at another time is another one, whatever its id says.
    let mut another = record;
    another.endpoint.created_at += chrono::TimeDelta::seconds(1);
    let outcomes = take(store, &telling(), &[Record::WebhookEndpoint(another)]).await;
    assert!(matches!(outcomes[..], [ImportOutcome::Created(new)] if new != id.0), "{outcomes:?}");
}

/// An id that is another row's, is not positive or is too great is replaced; a second import finds
/// the row under its new id.
pub async fn a_row_whose_id_is_taken_gets_a_new_one(store: &Arc<dyn Store>) {
    take(store, &telling(), &[of_provider(5001, "one")]).await;
    take(store, &telling(), &[of_identity(6001, 5001, "u1", "a1")]).await;
    take(store, &telling(), &[of_key(7001, "k")]).await;
    take(store, &telling(), &[of_auth_provider(6501, "o1", 5001)]).await;
    take(store, &telling(), &[of_auth_identity(6601, 6501, "u1", "i1")]).await;
    take(store, &telling(), &[of_use(6701, "o1", 6001)]).await;
    take(store, &telling(), &[of_endpoint(7101, "one", 0)]).await;
    take(store, &telling(), &[of_transfer(7201, "one")]).await;
    take(store, &telling(), &[of_revocation(7301, 5001)]).await;
    let mut another = revocation_record(7301, 5001);
    another.queued.owner = GrantOwner::DeviceLink(DeviceLinkId(60_000));
    for batch in [
        vec![of_provider(5001, "x"), of_provider(0, "y"), of_provider(KEPT_IDS_END, "z")],
        vec![
            of_identity(6001, 5001, "u2", "a2"),
            of_identity(-5, 5001, "u3", "a3"),
            of_identity(i64::MAX, 5001, "u4", "a4"),
        ],
        vec![of_auth_provider(6501, "o2", 5001), of_auth_provider(0, "o3", 5001)],
        vec![of_auth_identity(6601, 6501, "u2", "i2"), of_auth_identity(0, 6501, "u3", "i3")],
        vec![of_use(6701, "o2", 6001), of_use(0, "o3", 6001)],
        vec![of_key(7001, "x"), of_key(0, "y")],
        vec![of_endpoint(7101, "x", 0), of_endpoint(0, "y", 0)],
        vec![of_transfer(7201, "x"), of_transfer(0, "y")],
        vec![Record::Revocation(Box::new(another)), of_revocation(0, 5001)],
    ] {
        let outcomes = take(store, &telling(), &batch).await;
        let ids: HashSet<_> = outcomes
            .iter()
            .map(|it| match it {
                ImportOutcome::Created(id) => *id,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ids.len(), batch.len());
        assert!(ids.iter().all(|it| (1..KEPT_IDS_END).contains(it)), "{ids:?}");
        assert!(batch.iter().all(|it| !ids.contains(&it.id())));
        let again = take(store, &telling(), &batch).await;
        assert!(
            again.iter().all(|it| matches!(it, ImportOutcome::Unchanged(id) if ids.contains(id)))
        );
    }
    // Its credentials open in their new place.
    let of_user =
        IdentityFilter { user_id: Some(fixtures::user("u2")), ..IdentityFilter::default() };
    let new = store.identities().list(&of_user, ALL).await.unwrap().items;
    let credentials = store.credentials().find(new[0].id).await.unwrap().unwrap().credentials;
    assert_eq!(credentials.unwrap().others["client_secret"], Secret::new("another"));
}

/// What stands against a row is named, and the others are taken.
pub async fn a_row_that_cannot_be_taken_is_refused_with_its_reason(store: &Arc<dyn Store>) {
    let there = identity(store).await;
    let idp = there.idp_id.0;
    let outcomes = take(
        store,
        &telling(),
        &[
            of_identity(6001, idp, "user-2", "account-1"),
            of_identity(6002, idp, "user-1", "account-2"),
            of_identity(6003, idp, "user-1", "account-1"),
            of_identity(6004, 9999, "user-3", "account-3"),
            of_identity(6005, idp, "user-3", "account-3"),
        ],
    )
    .await;
    assert_eq!(
        outcomes,
        [
            ImportOutcome::Refused(Refusal::AccountTaken(there.id)),
            ImportOutcome::Refused(Refusal::UserTaken(there.id)),
            ImportOutcome::Unchanged(there.id.0),
            ImportOutcome::Refused(Refusal::NoProvider(ProviderId(9999))),
            ImportOutcome::Created(6005),
        ]
    );
    assert_eq!(store.identities().find(there.id).await.unwrap().as_ref(), Some(&there));

    take(store, &telling(), &[of_provider(5001, "one")]).await;
    let batch = [
        of_auth_provider(6501, "o1", idp),
        of_auth_provider(6502, "o1", 5001),
        of_auth_provider(6503, "o2", 9999),
    ];
    assert_eq!(
        take(store, &telling(), &batch).await,
        [
            ImportOutcome::Created(6501),
            ImportOutcome::Refused(Refusal::OrganizationTaken(AuthProviderId(6501))),
            ImportOutcome::Refused(Refusal::NoProvider(ProviderId(9999))),
        ]
    );
    let batch = [
        of_auth_identity(6601, 6501, "u1", "i1"),
        of_auth_identity(6602, 6501, "u2", "i1"),
        of_auth_identity(6603, 6501, "u1", "i2"),
        of_auth_identity(6604, 9999, "u1", "i1"),
    ];
    assert_eq!(
        take(store, &telling(), &batch).await,
        [
            ImportOutcome::Created(6601),
            ImportOutcome::Refused(Refusal::SsoAccountTaken(AuthIdentityId(6601))),
            ImportOutcome::Refused(Refusal::SsoUserTaken(AuthIdentityId(6601))),
            ImportOutcome::Refused(Refusal::NoAuthProvider(AuthProviderId(9999))),
        ]
    );
    let batch = [of_use(6701, "o1", there.id.0), of_use(6702, "o1", 9999)];
    assert_eq!(
        take(store, &telling(), &batch).await,
        [
            ImportOutcome::Created(6701),
            ImportOutcome::Refused(Refusal::NoIdentity(IdentityId(9999))),
        ]
    );
    let Record::ApiKey(key) = of_key(7001, "k") else { panic!() };
    let without = Record::ApiKey(ApiKeyRecord { hash: None, ..key });
    let outcomes = take(store, &telling(), &[without, of_key(7002, "k")]).await;
    let no_hash = ImportOutcome::Refused(Refusal::NoHash);
    assert_eq!(outcomes, [no_hash, ImportOutcome::Created(7002)]);

    let without = WebhookEndpointRecord { secrets: None, ..endpoint_record(7101, "one", 0) };
    let outcomes = take(store, &telling(), &[Record::WebhookEndpoint(without)]).await;
    assert_eq!(outcomes, [ImportOutcome::Refused(Refusal::NoSecrets)]);
    let without = RevocationRecord { grant: None, ..revocation_record(7301, 5001) };
    let batch = [
        Record::Revocation(Box::new(without)),
        of_revocation(7302, 9999),
        // Its grant would go to another provider.
        Record::Revocation(Box::new(revocation_record_of_gone(7303, 5001))),
        of_revocation(7304, 5001),
    ];
    assert_eq!(
        take(store, &telling(), &batch).await,
        [
            ImportOutcome::Refused(Refusal::NoGrant),
            ImportOutcome::Refused(Refusal::NoProvider(ProviderId(9999))),
            ImportOutcome::Refused(Refusal::ProviderIdTaken(ProviderId(5001))),
            ImportOutcome::Created(7304),
        ]
    );
}

/// Within a batch too, each record finds those before it there.
pub async fn records_of_a_batch_are_judged_one_after_the_other(store: &Arc<dyn Store>) {
    let outcomes = take(
        store,
        &telling(),
        &[of_provider(5001, "one"), of_provider(5002, "one"), of_provider(5003, "three")],
    )
    .await;
    assert_eq!(
        outcomes,
        [
            ImportOutcome::Created(5001),
            ImportOutcome::Unchanged(5001),
            ImportOutcome::Created(5003)
        ]
    );
    let outcomes = take(
        store,
        &telling(),
        &[
            of_identity(6001, 5001, "u1", "a1"),
            of_identity(6002, 5001, "u2", "a1"),
            of_identity(6003, 5001, "u1", "a3"),
            of_identity(6004, 5001, "u1", "a1"),
            of_identity(6005, 5001, "u5", "a5"),
            of_identity(6005, 5001, "u6", "a6"),
        ],
    )
    .await;
    let ImportOutcome::Created(moved) = outcomes[5] else { panic!("{outcomes:?}") };
    assert_eq!(
        outcomes[..5],
        [
            ImportOutcome::Created(6001),
            ImportOutcome::Refused(Refusal::AccountTaken(IdentityId(6001))),
            ImportOutcome::Refused(Refusal::UserTaken(IdentityId(6001))),
            ImportOutcome::Unchanged(6001),
            ImportOutcome::Created(6005),
        ]
    );
    assert_ne!(moved, 6005);
    let first = store.identities().find(IdentityId(6005)).await.unwrap().unwrap();
    assert_eq!(first.user_id, fixtures::user("u5"));
}

/// No row that is made later gets an id of an imported row, or one that an imported event speaks of.
pub async fn ids_that_are_given_out_later_are_greater(store: &Arc<dyn Store>) {
    take(store, &telling(), &[of_provider(50_001, "one")]).await;
    take(store, &telling(), &[of_identity(60_001, 50_001, "u1", "a1")]).await;
    take(store, &telling(), &[of_identity(60_003, 50_001, "u3", "a3")]).await;
    let new = linked(store, &link(ProviderId(50_001), "u2", "a2")).await;
    assert!(new.id.0 > 60_003, "{}", new.id);
    assert!(provider(store, "new").await.0 > 50_001);
    take(store, &telling(), &[of_event(80_001, EventKind::IdentityUnlinked)]).await;
    let new = linked(store, &link(ProviderId(50_001), "u4", "a4")).await;
    assert!(new.id.0 > 70_001, "{}", new.id);
    assert!(provider(store, "newer").await.0 > 70_002);
    assert!(events(store).await.last().unwrap().id.0 > 80_001);
}

/// Each created provider and identity has its event, and the end has one; a silent import none.
pub async fn an_import_tells_of_what_it_created(store: &Arc<dyn Store>) {
    let mut import = store.archive().import(&telling()).await.unwrap();
    import.take(&[of_provider(5001, "one")]).await.unwrap();
    let batch = [
        of_identity(6001, 5001, "u1", "a1"),
        of_identity(6002, 5001, "u1", "a2"),
        of_identity(6003, 5001, "u3", "a3"),
    ];
    import.take(&batch).await.unwrap();
    import.take(&[of_auth_provider(6501, "o1", 5001)]).await.unwrap();
    import.take(&[of_auth_identity(6601, 6501, "u1", "i1")]).await.unwrap();
    import.take(&[of_use(6701, "o1", 6001)]).await.unwrap();
    import.take(&[of_endpoint(7101, "one", 4000)]).await.unwrap();
    import.take(&[of_transfer(7201, "one")]).await.unwrap();
    import.take(&[of_revocation(7301, 5001)]).await.unwrap();
    import.finish(&fixtures::object(json!({"created": 3}))).await.unwrap();
    let events = events(store).await;
    let told: Vec<_> = events.iter().map(|it| (it.about, it.identity_id)).collect();
    assert_eq!(
        told,
        [
            (EventKind::IdentityImported, Some(IdentityId(6001))),
            (EventKind::IdentityImported, Some(IdentityId(6003))),
            (EventKind::AuthProviderCreated, None),
            (EventKind::AuthIdentityLinked, None),
            (EventKind::OrganizationIdentityLinked, Some(IdentityId(6001))),
            (EventKind::WebhookEndpointCreated, None),
            (EventKind::ImportFinished, None),
        ]
    );
    assert_eq!(events[0].actor, fixtures::ACTOR);
    let evidence = LinkEvidence::from_detail(&events[0].detail);
    assert_eq!(evidence, Some(LinkEvidence::of(LinkMethod::Import)));
    assert_eq!(events[0].user_id, Some(fixtures::user("u1")));
    assert_eq!(events[0].after.as_ref().unwrap()["external_id"], "a1");
    assert_eq!(events[3].organization_id, Some(fixtures::organization("o1")));
    assert_eq!(events[6].detail, fixtures::object(json!({"created": 3})));
    // Beside another history an endpoint is told what happens from then on.
    let mut exported = export(store, true).await;
    exported.retain(|it| it.kind() == RecordKind::WebhookEndpoint);
    let [Record::WebhookEndpoint(endpoint)] = &exported[..] else { panic!("{exported:?}") };
    assert_eq!(endpoint.position, events[4].id);

    let silent = ImportSettings { tells: false, ..telling() };
    let mut import = store.archive().import(&silent).await.unwrap();
    import.take(&[of_provider(5002, "two")]).await.unwrap();
    import.take(&[of_identity(6004, 5002, "u1", "a1")]).await.unwrap();
    import.finish(&fixtures::object(json!({}))).await.unwrap();
    assert_eq!(kinds(store).await.len(), 7);
}

/// A dry run answers what would become of each record, also of those that refer to others of the
/// same run, and keeps nothing.
pub async fn a_dry_run_answers_the_same_and_keeps_nothing(store: &Arc<dyn Store>) {
    let there = identity(store).await;
    let before = export(store, true).await;
    let batches = [
        vec![of_provider(5001, "one")],
        vec![
            of_identity(6001, 5001, "u1", "a1"),
            of_identity(6002, 5001, "u2", "a1"),
            of_identity(6003, there.idp_id.0, "user-1", "account-1"),
        ],
        vec![of_identity(6004, 5001, "u1", "a4")],
        vec![of_auth_provider(6501, "o1", 5001)],
        vec![of_auth_identity(6601, 6501, "u1", "i1"), of_auth_identity(6602, 6501, "u1", "i2")],
        vec![of_use(6701, "o1", 6001)],
        vec![of_key(7001, "k")],
        vec![of_endpoint(7101, "one", 0), of_endpoint(7102, "two", 0)],
        vec![of_transfer(7201, "one")],
        vec![of_revocation(7301, 5001), of_revocation(7302, 9999)],
        vec![of_event(80_001, EventKind::IdentityLinked)],
    ];
    let dry = ImportSettings { dry_run: true, ..telling() };
    let mut pretended = Vec::new();
    let mut import = store.archive().import(&dry).await.unwrap();
    for batch in &batches {
        pretended.push(import.take(batch).await.unwrap());
    }
    import.finish(&fixtures::object(json!({}))).await.unwrap();
    drop(import);
    assert_eq!(export(store, true).await, before);
    // No id was used up either.
    assert!(provider(store, "next").await.0 < 5001);

    for (batch, pretended) in batches.iter().zip(pretended) {
        assert_eq!(take(store, &telling(), batch).await, pretended);
    }
}

/// Kinds come in the order of their references, ids ascend, and of secrets there is nothing in an
/// export without them.
pub async fn an_export_is_in_order_and_without_secrets_unless_asked(store: &Arc<dyn Store>) {
    let there = identity(store).await;
    take(store, &telling(), &[of_provider(5001, "one"), of_provider(5000, "zero")]).await;
    take(store, &telling(), &[of_key(7001, "k")]).await;
    take(store, &telling(), &[of_auth_provider(6501, "o1", 5001)]).await;
    take(store, &telling(), &[of_auth_identity(6601, 6501, "u1", "i1")]).await;
    take(store, &telling(), &[of_use(6701, "o1", there.id.0)]).await;
    take(store, &telling(), &[of_endpoint(7101, "one", 0)]).await;
    take(store, &telling(), &[of_transfer(7201, "one")]).await;
    take(store, &telling(), &[of_revocation(7301, 5001)]).await;
    let records = export(store, false).await;
    assert!(records.windows(2).all(|it| (it[0].kind(), it[0].id()) < (it[1].kind(), it[1].id())));
    let kinds: HashSet<_> = records.iter().map(Record::kind).collect();
    assert_eq!(kinds.len(), RecordKind::ALL.len());
    for record in &records {
        match record {
            Record::IdentityProvider(it) => assert!(it.secrets.is_empty()),
            Record::Identity(it) => {
                assert_eq!(it.identity, there);
                assert_eq!(it.credentials, None);
            }
            Record::ApiKey(it) => assert_eq!(it.hash, None),
            Record::AuthIdentity(it) => assert_eq!(it.credentials, None),
            Record::WebhookEndpoint(it) => assert_eq!(it.secrets, None),
            Record::Revocation(it) => assert!(it.lacks_grant()),
            Record::AuthProvider(_)
            | Record::OrganizationIdentity(_)
            | Record::Transfer(_)
            | Record::Event(_) => {}
        }
    }
    let with = export(store, true).await;
    assert!(with.iter().any(|it| matches!(it, Record::Identity(it) if it.credentials.is_some())));
}

/// Deliveries are in no archive: an endpoint's position there is before the first that is pending.
pub async fn what_was_under_way_is_delivered_again(store: &Arc<dyn Store>) {
    let new = fixtures::new_webhook_endpoint();
    let of = store.webhooks().insert(&new, &fixtures::ACTOR).await.unwrap().id;
    let idp = provider(store, "one").await;
    for user in ["u1", "u2", "u3"] {
        linked(store, &link(idp, user, user)).await;
    }
    store.webhooks().fan_out(of, 1000).await.unwrap();
    let claimed = store.webhooks().claim(of, 1000, LONG).await.unwrap();
    // All but the second arrive.
    for claim in claimed.iter().filter(|it| it.event.id != claimed[1].event.id) {
        let end = DeliveryEnd::Delivered { status: 200 };
        let actor = &fixtures::ACTOR;
        assert!(store.webhooks().settle(&claim.delivery, &end, actor).await.unwrap());
    }
    let mut exported = export(store, true).await;
    exported.retain(|it| it.kind() == RecordKind::WebhookEndpoint);
    let [Record::WebhookEndpoint(endpoint)] = &exported[..] else { panic!("{exported:?}") };
    assert_eq!(endpoint.position, EventId(claimed[1].event.id.0 - 1));
}

/// What changes while an export is read is not in it.
pub async fn an_export_is_of_one_moment(store: &Arc<dyn Store>) {
    let there = identity(store).await;
    let before = export(store, true).await;
    let mut under_way = store.archive().export(true).await.unwrap();
    store.identities().unlink(&Unlink::unguarded(there.id, &fixtures::ACTOR)).await.unwrap();
    let idp = provider(store, "later").await;
    linked(store, &link(idp, "user-9", "account-9")).await;
    let mut seen = Vec::new();
    loop {
        let records = under_way.next().await.unwrap();
        if records.is_empty() {
            break;
        }
        seen.extend(records);
    }
    assert_eq!(seen, before);
}

/// U+0000 is text in JSON, and no database of ours need be able to keep it.
pub async fn a_text_with_a_nul_character_is_refused(store: &Arc<dyn Store>) {
    take(store, &telling(), &[of_provider(5001, "one")]).await;
    let mut bad = identity_record(6001, 5001, "u1", "a1");
    bad.identity.data = fixtures::object(json!({"deep": [{"text": "a\u{0}b"}]}));
    let batch = [Record::Identity(Box::new(bad)), of_identity(6002, 5001, "u2", "a2")];
    let nul = ImportOutcome::Refused(Refusal::NulCharacter);
    let outcomes = take(store, &telling(), &batch).await;
    assert_eq!(outcomes, [nul, ImportOutcome::Created(6002)]);
}

/// An event under another's id would change what happened.
pub async fn an_event_keeps_its_id_or_is_refused(store: &Arc<dyn Store>) {
    let first = of_event(8001, EventKind::IdentityLinked);
    let other = of_event(8001, EventKind::IdentityUnlinked);
    let below = of_event(0, EventKind::IdentityUnlinked);
    let outcomes = take(store, &telling(), &[first.clone(), first, other, below]).await;
    let refused = ImportOutcome::Refused(Refusal::EventIdTaken);
    let (created, unchanged) = (ImportOutcome::Created(8001), ImportOutcome::Unchanged(8001));
    assert_eq!(outcomes, [created, unchanged, refused, refused]);
}

/// Of two imports of the same at the same time each row is created once.
pub async fn racing_imports_create_each_row_once(store: &Arc<dyn Store>) {
    take(store, &telling(), &[of_provider(5001, "one")]).await;
    let batch: Vec<_> = (0..50)
        .map(|it| of_identity(6000 + it, 5001, &format!("u{it}"), &format!("a{it}")))
        .collect();
    let outcomes = race(4, |_| {
        let (store, batch) = (Arc::clone(store), batch.clone());
        async move { take(&store, &telling(), &batch).await }
    })
    .await;
    for (index, record) in batch.iter().enumerate() {
        let created =
            outcomes.iter().filter(|it| it[index] == ImportOutcome::Created(record.id())).count();
        let unchanged =
            outcomes.iter().filter(|it| it[index] == ImportOutcome::Unchanged(record.id())).count();
        assert_eq!((created, unchanged), (1, 3));
    }
    assert_eq!(kinds(store).await.len(), 50);
}
