use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, json};

use super::{MemoryStore, Rows};
use crate::{
    device_link::{
        ClaimedDeviceLink, DeviceLink, DeviceLinkClaim, DeviceLinkEnd, DeviceLinkStatus,
        NewDeviceLink,
    },
    event::{EventKind, NewEvent},
    ids::{DeviceLinkId, IdentityId, OrganizationId, ProviderId},
    ports::{DeviceLinkRepository, Link, LinkOwner, NewRevocation, RepositoryError},
    revocation::{GrantOwner, OrphanedGrant},
    secret::Secret,
};

#[derive(Clone)]
pub(super) struct DeviceLinkRow {
    link: DeviceLink,
    device_code: Option<Secret>,
    interval: Duration,
    next_poll_at: DateTime<Utc>,
    polls: i64,
}

impl DeviceLinkRow {
    /// The link as it reads at `now`.
    fn seen(&self, now: DateTime<Utc>) -> DeviceLink {
        let mut link = self.link.clone();
        if link.status == DeviceLinkStatus::Pending && link.expires_at <= now {
            link.status = DeviceLinkStatus::Expired;
        }
        link
    }

    fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.seen(now).status == DeviceLinkStatus::Pending
    }

    fn end(&mut self, status: DeviceLinkStatus) {
        self.link.status = status;
        self.device_code = None;
    }
}

impl Rows {
    /// Whether the claim is the last one of a device link that is pending.
    pub(super) fn holds_device_link(&self, claim: DeviceLinkClaim, now: DateTime<Utc>) -> bool {
        let row = self.device_links.get(&claim.id);
        row.is_some_and(|row| row.is_live(now) && row.polls == claim.poll)
    }

    /// Queues the grant of a link whose device link is over.
    pub(super) fn queue_late_grant(&mut self, link: &Link, now: DateTime<Utc>) {
        let (Some(claim), Some(credentials)) = (link.device_link, &link.credentials) else {
            return;
        };
        let LinkOwner::User(user_id) = &link.owner else { return };
        let new = NewRevocation {
            owner: GrantOwner::DeviceLink(claim.id),
            provider_id: link.provider_id,
            user_id: user_id.clone(),
            external_id: link.external_id.clone(),
            grant: OrphanedGrant::new(credentials.clone()),
            actor: link.actor.clone(),
        };
        self.queue_revocation(new, now);
    }

    /// On whose behalf a device link was started.
    pub(super) fn organization_of_device_link(
        &self,
        claim: DeviceLinkClaim,
    ) -> Option<OrganizationId> {
        self.device_links.get(&claim.id)?.link.organization_id.clone()
    }

    /// Ends a device link by what was linked.
    pub(super) fn settle_device_link(&mut self, id: DeviceLinkId, identity: IdentityId) {
        let Some(row) = self.device_links.get_mut(&id) else { return };
        row.link.identity_id = Some(identity);
        row.end(DeviceLinkStatus::Linked);
    }

    /// Ends the device links of this provider.
    pub(super) fn expire_device_links_of(&mut self, provider: ProviderId) {
        for row in self.device_links.values_mut() {
            let pending = row.link.status == DeviceLinkStatus::Pending;
            if pending && row.link.provider_id == provider {
                row.end(DeviceLinkStatus::Expired);
            }
        }
    }

    fn held_device_link(
        &mut self,
        claim: DeviceLinkClaim,
        now: DateTime<Utc>,
    ) -> Option<&mut DeviceLinkRow> {
        if self.holds_device_link(claim, now) { self.device_links.get_mut(&claim.id) } else { None }
    }
}

fn later(now: DateTime<Utc>, time: Duration) -> DateTime<Utc> {
    let time = TimeDelta::from_std(time).ok();
    time.and_then(|it| now.checked_add_signed(it)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[async_trait]
impl DeviceLinkRepository for MemoryStore {
    async fn insert(&self, new: &NewDeviceLink) -> Result<DeviceLink, RepositoryError> {
        Ok(self.write(|rows, now| {
            let id = DeviceLinkId(rows.next_id());
            let link = DeviceLink {
                id,
                user_id: new.user_id.clone(),
                provider_id: new.provider_id,
                organization_id: new.organization_id.clone(),
                scopes: new.scopes.clone(),
                status: DeviceLinkStatus::Pending,
                identity_id: None,
                error: None,
                created_by: new.created_by.clone(),
                created_at: now,
                expires_at: later(now, new.expires_in),
            };
            let row = DeviceLinkRow {
                link,
                device_code: Some(new.device_code.clone()),
                interval: new.interval,
                next_poll_at: later(now, new.interval),
                polls: 0,
            };
            let seen = row.seen(now);
            rows.device_links.insert(id, row);
            seen
        }))
    }

    async fn find(&self, id: DeviceLinkId) -> Result<Option<DeviceLink>, RepositoryError> {
        let (rows, now) = self.read();
        Ok(rows.device_links.get(&id).map(|row| row.seen(now)))
    }

    async fn claim_due(
        &self,
        limit: u16,
        time: Duration,
    ) -> Result<Vec<ClaimedDeviceLink>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let mut due: Vec<_> = rows
                .device_links
                .values_mut()
                .filter(|row| row.is_live(now) && row.next_poll_at <= now)
                .collect();
            due.sort_by_key(|row| (row.next_poll_at, row.link.id));
            due.truncate(usize::from(limit));
            let claimed = due.into_iter().map(|row| {
                row.polls += 1;
                row.next_poll_at = later(now, time);
                ClaimedDeviceLink {
                    link: row.seen(now),
                    claim: DeviceLinkClaim { id: row.link.id, poll: row.polls },
                    device_code: row.device_code.clone(),
                    interval: row.interval,
                }
            });
            claimed.collect()
        }))
    }

    async fn poll_later(
        &self,
        claim: DeviceLinkClaim,
        pause: Duration,
        interval: Duration,
    ) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.held_device_link(claim, now) else { return false };
            row.next_poll_at = later(now, pause);
            row.interval = interval;
            true
        }))
    }

    async fn end(
        &self,
        claim: DeviceLinkClaim,
        end: DeviceLinkEnd,
    ) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(row) = rows.held_device_link(claim, now) else { return false };
            let DeviceLinkEnd::Failed(why) = end else {
                row.end(DeviceLinkStatus::Expired);
                return true;
            };
            row.end(DeviceLinkStatus::Failed);
            row.link.error = Some(why);
            let link = &row.link;
            let event = NewEvent {
                provider_id: Some(link.provider_id),
                user_id: Some(link.user_id.clone()),
                organization_id: link.organization_id.clone(),
                detail: Map::from_iter([
                    ("device_link_id".to_owned(), json!(link.id.0)),
                    ("error".to_owned(), json!(why.as_str())),
                ]),
                ..NewEvent::new(EventKind::DeviceLinkFailed, &link.created_by)
            };
            rows.log(event, now);
            true
        }))
    }

    async fn expire(&self) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, now| {
            let mut count = 0;
            for row in rows.device_links.values_mut() {
                if row.link.status == DeviceLinkStatus::Pending && !row.is_live(now) {
                    row.end(DeviceLinkStatus::Expired);
                    count += 1;
                }
            }
            count
        }))
    }
}
