use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{
    EndpointRow, IdentityRow, MemoryStore, RevocationRow, Rows, refresh_schedule::ScheduleColumns,
    to_microseconds,
};
use crate::{
    archive::{
        ApiKeyRecord, AuthIdentityRecord, IdentityRecord, ImportOutcome, KEPT_IDS_END,
        ProviderRecord, Record, Refusal, RevocationRecord, WebhookEndpointRecord,
    },
    auth_provider::AuthProvider,
    event::{Event, EventKind, NewEvent},
    identity::Identity,
    identity_provider::ProviderSecrets,
    ids::EventId,
    organization_identity::OrganizationIdentity,
    ports::{Archive, ArchiveExport, ArchiveImport, Clock, ImportSettings, RepositoryError},
    revocation::{GrantOwner, RevocationStatus},
    transfer::Transfer,
    webhook::DeliveryStatus,
};

struct Import {
    rows: Arc<Mutex<Rows>>,
    clock: Arc<dyn Clock>,
    settings: ImportSettings,
}

impl Rows {
    fn import(
        &mut self,
        record: &Record,
        settings: &ImportSettings,
        now: DateTime<Utc>,
    ) -> ImportOutcome {
        if record.holds_nul() {
            return ImportOutcome::Refused(Refusal::NulCharacter);
        }
        match record {
            Record::IdentityProvider(it) => self.import_provider(it, settings, now),
            Record::Identity(it) => self.import_identity(it, settings, now),
            Record::AuthProvider(it) => self.import_auth_provider(it, settings, now),
            Record::AuthIdentity(it) => self.import_auth_identity(it, settings, now),
            Record::OrganizationIdentity(it) => self.import_use(it, settings, now),
            Record::ApiKey(it) => self.import_api_key(it),
            Record::WebhookEndpoint(it) => self.import_endpoint(it, settings, now),
            Record::Transfer(it) => self.import_transfer(it),
            Record::Revocation(it) => self.import_revocation(it),
            Record::Event(it) => self.import_event(it),
        }
    }

    /// The record's own id where it may be kept, and is free; a new one otherwise.
    fn id_for(&mut self, id: i64, is_taken: bool) -> i64 {
        if is_taken || !(1..KEPT_IDS_END).contains(&id) {
            return self.next_id();
        }
        self.last_id = self.last_id.max(id);
        id
    }

    fn import_provider(
        &mut self,
        record: &ProviderRecord,
        settings: &ImportSettings,
        now: DateTime<Utc>,
    ) -> ImportOutcome {
        let mut provider = record.provider.clone();
        let is_same = |it: &&crate::identity_provider::IdentityProvider| {
            it.provider_type == provider.provider_type && it.external_id == provider.external_id
        };
        if let Some(there) = self.providers.values().map(|(it, _)| it).find(is_same) {
            return ImportOutcome::Unchanged(there.id.0);
        }
        let id = self.id_for(provider.id.0, self.providers.contains_key(&provider.id));
        provider.id.0 = id;
        provider.secret_names = record.secrets.keys().cloned().collect();
        if settings.tells {
            let kind = EventKind::ProviderCreated;
            self.log(NewEvent::of_provider(kind, &settings.actor, None, Some(&provider)), now);
        }
        self.providers.insert(provider.id, (provider, record.secrets.clone()));
        ImportOutcome::Created(id)
    }

    fn import_identity(
        &mut self,
        record: &IdentityRecord,
        settings: &ImportSettings,
        now: DateTime<Utc>,
    ) -> ImportOutcome {
        let mut identity = record.identity.clone();
        if !self.providers.contains_key(&identity.idp_id) {
            return ImportOutcome::Refused(Refusal::NoProvider(identity.idp_id));
        }
        let at = |row: &&IdentityRow| row.identity.idp_id == identity.idp_id;
        let is_account = |row: &&IdentityRow| row.identity.external_id == identity.external_id;
        let is_user = |row: &&IdentityRow| row.identity.user_id == identity.user_id;
        if let Some(there) = self.identities.values().filter(at).find(is_account) {
            return if is_user(&there) {
                ImportOutcome::Unchanged(there.identity.id.0)
            } else {
                ImportOutcome::Refused(Refusal::AccountTaken(there.identity.id))
            };
        }
        let of_user = self.identities.values().filter(at).find(is_user);
        if let Some(there) = of_user.filter(|_| !record.beside_others) {
            return ImportOutcome::Refused(Refusal::UserTaken(there.identity.id));
        }
        let id = self.id_for(identity.id.0, self.identities.contains_key(&identity.id));
        identity.id.0 = id;
        identity.expires_at =
            record.credentials.as_ref().and_then(|it| it.expires_at).map(to_microseconds);
        if settings.tells {
            self.log(NewEvent::of_imported_identity(&settings.actor, &identity), now);
        }
        let row = IdentityRow {
            schedule: ScheduleColumns::default(),
            credentials: record.credentials.clone(),
            generation: record.generation,
            attempt: record.attempt,
            leased_until: None,
            holder: String::new(),
            unanswered: record.unanswered,
            back_off: record.back_off.clone(),
            identity,
        };
        self.identities.insert(row.identity.id, row);
        ImportOutcome::Created(id)
    }

    fn import_auth_provider(
        &mut self,
        record: &AuthProvider,
        settings: &ImportSettings,
        now: DateTime<Utc>,
    ) -> ImportOutcome {
        let mut made = record.clone();
        if !self.providers.contains_key(&made.provider_id) {
            return ImportOutcome::Refused(Refusal::NoProvider(made.provider_id));
        }
        let mut there = self.auth_providers.values();
        if let Some(there) = there.find(|it| it.organization_id == made.organization_id) {
            return if there.provider_id == made.provider_id {
                ImportOutcome::Unchanged(there.id.0)
            } else {
                ImportOutcome::Refused(Refusal::OrganizationTaken(there.id))
            };
        }
        made.id.0 = self.id_for(made.id.0, self.auth_providers.contains_key(&made.id));
        if settings.tells {
            let kind = EventKind::AuthProviderCreated;
            self.log(NewEvent::of_auth_provider(kind, &settings.actor, None, Some(&made)), now);
        }
        let id = made.id;
        self.auth_providers.insert(id, made);
        ImportOutcome::Created(id.0)
    }

    fn import_auth_identity(
        &mut self,
        record: &AuthIdentityRecord,
        settings: &ImportSettings,
        now: DateTime<Utc>,
    ) -> ImportOutcome {
        let mut made = record.auth_identity.clone();
        let Some(of) = self.auth_providers.get(&made.auth_provider_id).cloned() else {
            return ImportOutcome::Refused(Refusal::NoAuthProvider(made.auth_provider_id));
        };
        let accounts = || {
            let all = self.auth_identities.values().map(|(it, _)| it);
            all.filter(|it| it.auth_provider_id == made.auth_provider_id)
        };
        if let Some(there) = accounts().find(|it| it.ident == made.ident) {
            return if there.user_id == made.user_id {
                ImportOutcome::Unchanged(there.id.0)
            } else {
                ImportOutcome::Refused(Refusal::SsoAccountTaken(there.id))
            };
        }
        if let Some(there) = accounts().find(|it| it.user_id == made.user_id) {
            return ImportOutcome::Refused(Refusal::SsoUserTaken(there.id));
        }
        made.id.0 = self.id_for(made.id.0, self.auth_identities.contains_key(&made.id));
        if settings.tells {
            let (kind, actor) = (EventKind::AuthIdentityLinked, &settings.actor);
            self.log(NewEvent::of_auth_identity(kind, actor, &of, None, Some(&made)), now);
        }
        let id = made.id;
        self.auth_generations.insert(id, record.generation);
        self.auth_identities.insert(id, (made, record.credentials.clone()));
        ImportOutcome::Created(id.0)
    }

    fn import_use(
        &mut self,
        record: &OrganizationIdentity,
        settings: &ImportSettings,
        now: DateTime<Utc>,
    ) -> ImportOutcome {
        let mut made = record.clone();
        let Some(of) = self.identities.get(&made.identity_id).map(|it| it.identity.clone()) else {
            return ImportOutcome::Refused(Refusal::NoIdentity(made.identity_id));
        };
        let is_same = |it: &&OrganizationIdentity| {
            it.organization_id == made.organization_id && it.identity_id == made.identity_id
        };
        if let Some(there) = self.organization_identities.values().find(is_same) {
            return ImportOutcome::Unchanged(there.id.0);
        }
        made.id.0 = self.id_for(made.id.0, self.organization_identities.contains_key(&made.id));
        if settings.tells {
            let (kind, actor) = (EventKind::OrganizationIdentityLinked, &settings.actor);
            self.log(NewEvent::of_organization_identity(kind, actor, &made, &of), now);
        }
        let id = made.id;
        self.organization_identities.insert(id, made);
        ImportOutcome::Created(id.0)
    }

    fn import_api_key(&mut self, record: &ApiKeyRecord) -> ImportOutcome {
        let Some(hash) = record.hash else { return ImportOutcome::Refused(Refusal::NoHash) };
        if let Some((there, _)) = self.api_keys.iter().find(|(_, it)| *it == hash) {
            return ImportOutcome::Unchanged(there.id.0);
        }
        let mut key = record.key.clone();
        let id = self.id_for(key.id.0, self.api_keys.iter().any(|(it, _)| it.id == key.id));
        key.id.0 = id;
        self.api_keys.push((key, hash));
        self.api_keys.sort_by_key(|(it, _)| it.id);
        ImportOutcome::Created(id)
    }

    fn import_endpoint(
        &mut self,
        record: &WebhookEndpointRecord,
        settings: &ImportSettings,
        now: DateTime<Utc>,
    ) -> ImportOutcome {
        let mut endpoint = record.endpoint.clone();
        endpoint.created_at = to_microseconds(endpoint.created_at);
        let mut there = self.webhook_endpoints.values().map(|it| &it.endpoint);
        if let Some(there) = there.find(|it| {
            // Under its own id it is the same whatever address it was given since.
            it.created_at == endpoint.created_at && (it.url == endpoint.url || it.id == endpoint.id)
        }) {
            return ImportOutcome::Unchanged(there.id.0);
        }
        let Some(secrets) = record.secrets.clone() else {
            return ImportOutcome::Refused(Refusal::NoSecrets);
        };
        let is_taken = self.webhook_endpoints.contains_key(&endpoint.id);
        endpoint.id.0 = self.id_for(endpoint.id.0, is_taken);
        let mut position = record.position;
        if settings.tells {
            position = self.events.last().map_or(EventId(0), |it| it.id);
            let (kind, actor) = (EventKind::WebhookEndpointCreated, &settings.actor);
            self.log(NewEvent::of_webhook_endpoint(kind, actor, None, Some(&endpoint)), now);
        }
        let (id, generation) = (endpoint.id, record.generation);
        let row = EndpointRow { endpoint, secrets, generation, position };
        self.webhook_endpoints.insert(id, row);
        ImportOutcome::Created(id.0)
    }

    fn import_transfer(&mut self, record: &Transfer) -> ImportOutcome {
        let mut made = record.clone();
        made.created_at = to_microseconds(made.created_at);
        made.undone_at = made.undone_at.map(to_microseconds);
        let accounts = |it: &Transfer| -> Vec<_> {
            it.items.iter().map(|item| item.external_id.clone()).collect()
        };
        let is_same = |it: &&Transfer| {
            it.created_at == made.created_at
                && it.from_user_id == made.from_user_id
                && it.to_user_id == made.to_user_id
                && accounts(it) == accounts(&made)
        };
        if let Some(there) = self.transfers.values().find(is_same) {
            return ImportOutcome::Unchanged(there.id.0);
        }
        made.id.0 = self.id_for(made.id.0, self.transfers.contains_key(&made.id));
        self.speaks_of(made.items.iter().flat_map(|it| [it.identity_id.0, it.provider_id.0]));
        let id = made.id;
        self.transfers.insert(id, made);
        ImportOutcome::Created(id.0)
    }

    fn import_revocation(&mut self, record: &RevocationRecord) -> ImportOutcome {
        let mut queued = record.queued.clone();
        queued.queued_at = to_microseconds(queued.queued_at);
        queued.due_at = to_microseconds(queued.due_at);
        let mut there = self.revocations.values().map(|it| &it.queued);
        if let Some(there) = there.find(|it| {
            it.queued_at == queued.queued_at
                && it.owner == queued.owner
                && it.external_id == queued.external_id
        }) {
            return ImportOutcome::Unchanged(there.id.0);
        }
        if record.lacks_grant() {
            return ImportOutcome::Refused(Refusal::NoGrant);
        }
        let is_there = self.providers.contains_key(&queued.provider_id);
        match &record.grant {
            Some(grant) if grant.provider.is_none() && !is_there => {
                return ImportOutcome::Refused(Refusal::NoProvider(queued.provider_id));
            }
            Some(grant) if grant.provider.is_some() && is_there => {
                return ImportOutcome::Refused(Refusal::ProviderIdTaken(queued.provider_id));
            }
            _ => {}
        }
        queued.id.0 = self.id_for(queued.id.0, self.revocations.contains_key(&queued.id));
        let owner = match queued.owner {
            GrantOwner::Identity(id) => id.0,
            GrantOwner::AuthIdentity(id) => id.0,
            GrantOwner::DeviceLink(id) => id.0,
        };
        self.speaks_of([owner, queued.provider_id.0].into_iter());
        let waits = queued.status == RevocationStatus::Waiting;
        let (id, generation) = (queued.id, record.generation);
        let row =
            RevocationRow { queued, grant: record.grant.clone().filter(|_| waits), generation };
        self.revocations.insert(id, row);
        ImportOutcome::Created(id.0)
    }

    /// A row that is gone keeps its name: no later one is mistaken for it.
    fn speaks_of(&mut self, ids: impl Iterator<Item = i64>) {
        self.last_id = ids.filter(|it| *it < KEPT_IDS_END).fold(self.last_id, Ord::max);
    }

    fn import_event(&mut self, event: &Event) -> ImportOutcome {
        if let Some(there) = self.events.iter().find(|it| it.id == event.id) {
            return if there == event {
                ImportOutcome::Unchanged(event.id.0)
            } else {
                ImportOutcome::Refused(Refusal::EventIdTaken)
            };
        }
        if !(1..KEPT_IDS_END).contains(&event.id.0) {
            return ImportOutcome::Refused(Refusal::EventIdTaken);
        }
        let spoken_of = [Some(event.id.0), event.identity_id.map(|it| it.0)];
        let spoken_of = spoken_of.into_iter().chain([event.provider_id.map(|it| it.0)]).flatten();
        self.speaks_of(spoken_of);
        self.events.push(event.clone());
        self.events.sort_by_key(|it| it.id);
        ImportOutcome::Created(event.id.0)
    }
}

#[async_trait]
impl ArchiveImport for Import {
    async fn take(&mut self, records: &[Record]) -> Result<Vec<ImportOutcome>, RepositoryError> {
        let now = to_microseconds(self.clock.now());
        let mut rows = self.rows.lock().unwrap();
        Ok(records.iter().map(|record| rows.import(record, &self.settings, now)).collect())
    }

    async fn finish(&mut self, detail: &Map<String, Value>) -> Result<(), RepositoryError> {
        if self.settings.tells {
            let event = NewEvent::new(EventKind::ImportFinished, &self.settings.actor);
            let event = NewEvent { detail: detail.clone(), ..event };
            let now = to_microseconds(self.clock.now());
            self.rows.lock().unwrap().log(event, now);
        }
        Ok(())
    }
}

/// What was there when it began, kind by kind, in pages.
struct Export(std::vec::IntoIter<Vec<Record>>);

#[async_trait]
impl ArchiveExport for Export {
    async fn next(&mut self) -> Result<Vec<Record>, RepositoryError> {
        Ok(self.0.next().unwrap_or_default())
    }
}

#[async_trait]
impl Archive for MemoryStore {
    async fn import(
        &self,
        settings: &ImportSettings,
    ) -> Result<Box<dyn ArchiveImport>, RepositoryError> {
        let rows = if settings.dry_run {
            Arc::new(Mutex::new(self.read().0.clone()))
        } else {
            Arc::clone(&self.rows)
        };
        let (clock, settings) = (Arc::clone(&self.clock), settings.clone());
        Ok(Box::new(Import { rows, clock, settings }))
    }

    async fn export(&self, with_secrets: bool) -> Result<Box<dyn ArchiveExport>, RepositoryError> {
        let (rows, _) = self.read();
        let providers = rows.providers.values().map(|(provider, secrets)| {
            let secrets = if with_secrets { secrets.clone() } else { ProviderSecrets::default() };
            Record::IdentityProvider(ProviderRecord { provider: provider.clone(), secrets })
        });
        let identities = rows.identities.values().map(|row| {
            let Identity { id, idp_id, user_id, .. } = &row.identity;
            let has_another = rows
                .identities
                .range(..id)
                .any(|(_, it)| it.identity.idp_id == *idp_id && it.identity.user_id == *user_id);
            Record::Identity(Box::new(IdentityRecord {
                beside_others: has_another || rows.allows_several(*idp_id),
                identity: row.identity.clone(),
                credentials: row.credentials.clone().filter(|_| with_secrets),
                generation: row.generation,
                attempt: row.attempt,
                unanswered: row.unanswered,
                back_off: row.back_off.clone(),
            }))
        });
        let auth_providers =
            rows.auth_providers.values().map(|it| Record::AuthProvider(Box::new(it.clone())));
        let auth_identities = rows.auth_identities.values().map(|(it, credentials)| {
            let known = rows.auth_generations.get(&it.id).copied();
            Record::AuthIdentity(Box::new(AuthIdentityRecord {
                auth_identity: it.clone(),
                generation: known.unwrap_or_else(|| i64::from(credentials.is_some())),
                credentials: credentials.clone().filter(|_| with_secrets),
            }))
        });
        let uses = rows.organization_identities.values().cloned().map(Record::OrganizationIdentity);
        let keys = rows.api_keys.iter().map(|(key, hash)| {
            Record::ApiKey(ApiKeyRecord { key: key.clone(), hash: with_secrets.then_some(*hash) })
        });
        let endpoints = rows.webhook_endpoints.values().map(|row| {
            let deliveries = rows.webhook_deliveries.values().map(|it| &it.delivery);
            let pending = deliveries.filter(|it| {
                it.endpoint_id == row.endpoint.id && it.status == DeliveryStatus::Pending
            });
            let before = pending.map(|it| EventId(it.event_id.0 - 1)).min();
            Record::WebhookEndpoint(WebhookEndpointRecord {
                endpoint: row.endpoint.clone(),
                secrets: with_secrets.then(|| row.secrets.clone()),
                generation: row.generation,
                position: before.map_or(row.position, |it| it.min(row.position)),
            })
        });
        let transfers = rows.transfers.values().cloned().map(Record::Transfer);
        let revocations = rows.revocations.values().map(|row| {
            Record::Revocation(Box::new(RevocationRecord {
                queued: row.queued.clone(),
                grant: row.grant.clone().filter(|_| with_secrets),
                generation: row.generation,
            }))
        });
        let events = rows.events.iter().map(|it| Record::Event(Box::new(it.clone())));
        let kinds: [Vec<Record>; 10] = [
            providers.collect(),
            identities.collect(),
            auth_providers.collect(),
            auth_identities.collect(),
            uses.collect(),
            keys.collect(),
            endpoints.collect(),
            transfers.collect(),
            revocations.collect(),
            events.collect(),
        ];
        let pages: Vec<_> =
            kinds.iter().flat_map(|kind| kind.chunks(1000)).map(<[_]>::to_vec).collect();
        Ok(Box::new(Export(pages.into_iter())))
    }
}
