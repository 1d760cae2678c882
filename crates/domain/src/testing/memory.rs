//! The reference: what each port promises, in plain data structures.

mod api_keys;
mod archive;
mod auth_identities;
mod auth_providers;
mod credentials;
mod device_links;
mod event_log;
mod forecast;
mod identities;
mod identity_providers;
mod ledger;
mod link_sessions;
mod logouts;
mod organization_identities;
mod refresh_schedule;
mod revocations;
mod transfers;
mod vending;
mod webhooks;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use chrono::{DateTime, SubsecRound as _, Utc};
use tokio::sync::Notify;

use self::{
    device_links::DeviceLinkRow,
    identities::IdentityRow,
    link_sessions::SessionRow,
    refresh_schedule::LaneRow,
    revocations::RevocationRow,
    webhooks::{DeliveryRow, EndpointRow},
};
use crate::{
    api_key::ApiKey,
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    credentials::Credentials,
    event::{Event, NewEvent},
    freeze::Freeze,
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::{
        AuthIdentityId, AuthProviderId, DeviceLinkId, EventId, ExternalId, FreezeId, IdentityId,
        LedgerEntryId, LinkSessionId, OrganizationIdentityId, ProviderId, RevocationId, TransferId,
        WebhookDeliveryId, WebhookEndpointId,
    },
    ledger::LedgerEntry,
    organization_identity::OrganizationIdentity,
    page::{Page, PageRequest},
    ports::Clock,
    refresh_plan::RefreshPlan,
    secret::{Secret, SecretHash},
    testing::RunningClock,
    transfer::Transfer,
};

/// Every repository, in memory. Keeps the [contract](super::contract); seals nothing.
///
/// Lease deadlines and the expiry of sessions are those of its clock. A method that runs takes
/// the one lock, so each is a transaction, and no other sees half of it.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    rows: Arc<Mutex<Rows>>,
    /// Rings whenever rows may have changed.
    bell: Notify,
    plan: RefreshPlan,
}

impl MemoryStore {
    /// An empty store on this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::planning(clock, RefreshPlan::default())
    }

    /// An empty store that plans refreshes like this.
    #[must_use]
    pub fn planning(clock: Arc<dyn Clock>, plan: RefreshPlan) -> Self {
        Self { clock, rows: Arc::default(), bell: Notify::new(), plan }
    }

    /// The rows for reading, and the time.
    fn read(&self) -> (MutexGuard<'_, Rows>, DateTime<Utc>) {
        let rows = self.rows.lock().unwrap();
        let now = to_microseconds(self.clock.now());
        (rows, now)
    }

    /// Changes the rows under the lock, and wakes whoever waits for a change.
    fn write<T>(&self, change: impl FnOnce(&mut Rows, DateTime<Utc>) -> T) -> T {
        let (mut rows, now) = self.read();
        let result = change(&mut rows, now);
        drop(rows);
        self.bell.notify_waiters();
        result
    }
}

impl Default for MemoryStore {
    /// An empty store on the machine's clock.
    fn default() -> Self {
        Self::new(Arc::new(RunningClock))
    }
}

#[derive(Clone, Default)]
struct Rows {
    /// One sequence for all tables, so that a row's id never passes for another table's.
    last_id: i64,
    identities: BTreeMap<IdentityId, IdentityRow>,
    providers: BTreeMap<ProviderId, (IdentityProvider, ProviderSecrets)>,
    sessions: BTreeMap<LinkSessionId, SessionRow>,
    device_links: BTreeMap<DeviceLinkId, DeviceLinkRow>,
    events: Vec<Event>,
    api_keys: Vec<(ApiKey, SecretHash)>,
    auth_providers: BTreeMap<AuthProviderId, AuthProvider>,
    auth_identities: BTreeMap<AuthIdentityId, (AuthIdentity, Option<Credentials>)>,
    organization_identities: BTreeMap<OrganizationIdentityId, OrganizationIdentity>,
    webhook_endpoints: BTreeMap<WebhookEndpointId, EndpointRow>,
    webhook_deliveries: BTreeMap<WebhookDeliveryId, DeliveryRow>,
    revocations: BTreeMap<RevocationId, RevocationRow>,
    transfers: BTreeMap<TransferId, Transfer>,
    refresh_lanes: BTreeMap<ProviderId, LaneRow>,
    freezes: BTreeMap<FreezeId, Freeze>,
    ledger: BTreeMap<LedgerEntryId, LedgerEntry>,
    ledger_salt: Option<Secret>,
    /// Until when which logout token of which provider is remembered.
    logout_tokens: HashMap<(ProviderId, SecretHash), DateTime<Utc>>,
    /// Until when it is remembered whose account a session at a provider is.
    provider_sessions: HashMap<(ProviderId, SecretHash, ExternalId), DateTime<Utc>>,
    /// How often an imported account for single sign-on had got credentials.
    auth_generations: BTreeMap<AuthIdentityId, i64>,
}

impl Rows {
    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn log(&mut self, event: NewEvent, at: DateTime<Utc>) {
        let id = EventId(self.next_id());
        self.events.push(event.kept(id, at));
    }
}

/// The page of rows that are in ascending id order.
fn page_of<'a, T: Clone + 'a>(
    rows: impl Iterator<Item = &'a T>,
    page: PageRequest,
    id: impl Fn(&T) -> i64,
) -> Page<T> {
    let items = rows
        .filter(|row| page.after.is_none_or(|after| id(row) > after))
        .take(usize::from(page.limit) + 1)
        .cloned()
        .collect();
    Page::cut(items, page.limit, id)
}

/// As precise as databases are.
fn to_microseconds(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}

#[cfg(test)]
mod tests {
    use crate::testing::MemoryStore;

    crate::contract_tests!(async { (MemoryStore::default(), ()) });
}
