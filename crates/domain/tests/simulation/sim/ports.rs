use std::{future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::Credentials,
    event::Actor,
    identity::{Identity, IdentityFilter},
    identity_provider::{
        Capabilities, IdentityProvider, ProviderSecrets, ProviderType, Registration, Rotation,
    },
    ids::{IdentityId, ProviderId, RevocationId},
    page::{Page, PageRequest},
    ports::{
        AuthorityUpdate, AuthorizationRequest, ClaimedRevocation, Clock, CodeExchange, Connector,
        ConnectorError, Connectors, CredentialsRepository, DataOutcome, DataUpdate, Grant,
        IdentityProviderRepository, IdentityRepository, InvalidConfig, Lease, LeaseOutcome,
        LeasedWrite, Link, LinkOutcome, NewIdentityProvider, NewRevocation, ProviderDeletion,
        ProviderFilter, ProviderUpdate, RefreshEnd, RefreshRequest, RepositoryError, Revocation,
        RevocationEnd, RevocationRepository, Sent, StoredCredentials, Unlink, UnlinkOutcome,
    },
    revocation::QueuedRevocation,
    secret::Secret,
};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use url::Url;

use super::{
    mutant::Mutant,
    plan::{Away, CALL_TIMEOUT, Window},
    provider::Answer,
    truth::End,
    world::{Reach, World},
};

/// How long a replica waits for a database that does not answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// One start of one replica: its ports to the database, the provider and the clock, through which
/// everything goes wrong that can. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Ports(Arc<Process>);

struct Process {
    world: Arc<World>,
    /// Its place among all starts.
    id: usize,
    slot: usize,
    name: String,
    skew: TimeDelta,
    is_dead: watch::Sender<bool>,
}

impl Ports {
    pub(crate) fn new(world: &Arc<World>, id: usize, slot: usize, name: &str) -> Self {
        let most = u64::try_from(world.plan.skew.as_millis()).unwrap_or(0);
        let skew = world.dice.millis(0, 2 * most);
        let skew = TimeDelta::milliseconds(
            i64::try_from(skew.as_millis()).unwrap_or(0) - i64::try_from(most).unwrap_or(0),
        );
        let is_dead = watch::Sender::new(false);
        let world = world.clone();
        Self(Arc::new(Process { world, id, slot, name: name.to_owned(), skew, is_dead }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn is_alive(&self) -> bool {
        !*self.0.is_dead.borrow()
    }

    /// Comes back when the process dies.
    pub(crate) async fn death(&self) {
        let mut is_dead = self.0.is_dead.subscribe();
        let _ = is_dead.wait_for(|it| *it).await;
    }

    /// The process dies: nothing that it began comes back from any port any more, so it is stuck
    /// for good wherever it is. Another is started in its place.
    fn crash(&self, at: &str) {
        if !self.is_alive() {
            return;
        }
        let Process { world, id, slot, name, is_dead, .. } = &*self.0;
        is_dead.send_replace(true);
        world.trace(name, format_args!("CRASH at {at}"));
        let now = world.elapsed();
        let mut truth = world.truth();
        truth.count("crashes");
        truth.processes[*id].crashed = Some(now);
        drop(truth);
        let (world, slot) = (world.clone(), *slot);
        tokio::spawn(async move {
            sleep(world.dice.millis(0, 5000)).await;
            world.start(slot);
        });
    }

    async fn living(&self) {
        if !self.is_alive() {
            pending::<()>().await;
        }
    }

    fn hits(&self, permille: u64) -> bool {
        let world = &self.0.world;
        !world.is_calm() && world.dice.chance(permille)
    }

    fn stalled(&self) {
        let now = self.0.world.elapsed();
        self.0.world.truth().processes[self.0.id].stalled = Some(now);
    }

    /// One direction of a call.
    async fn leg(&self) {
        let Process { world, .. } = &*self.0;
        let time = if self.hits(world.plan.faults.stall) {
            world.truth().count("stalls");
            self.stalled();
            let longest = u64::try_from(world.plan.longest_stall.as_millis()).unwrap_or(u64::MAX);
            world.dice.millis(2000, longest)
        } else if self.hits(world.plan.faults.slow) {
            world.dice.millis(0, 500)
        } else {
            world.dice.millis(0, 3)
        };
        sleep(time).await;
        self.living().await;
    }

    fn failed(&self) -> RepositoryError {
        let now = self.0.world.elapsed();
        self.0.world.truth().processes[self.0.id].failed = Some(now);
        RepositoryError::Store("the connection is gone".into())
    }

    /// One call of the database that changes rows, which are looked at afterwards.
    async fn write<T: std::fmt::Debug + Send + 'static>(
        &self,
        step: &'static str,
        effect: impl Future<Output = Result<T, RepositoryError>> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let world = self.0.world.clone();
        let observed = async move {
            let done = effect.await;
            world.observe(false).await;
            done
        };
        self.database(step, observed).await
    }

    /// One call of the database: it may be late, fail, be done without anybody being told, or be
    /// the last thing that this process does.
    async fn database<T: std::fmt::Debug + Send + 'static>(
        &self,
        step: &'static str,
        effect: impl Future<Output = Result<T, RepositoryError>> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let Process { world, name, slot, .. } = &*self.0;
        let faults = &world.plan.faults;
        self.living().await;
        if self.hits(faults.crash) {
            self.crash(&format!("the beginning of {step}"));
        }
        self.leg().await;
        match world.reach(*slot) {
            Reach::Answers => {}
            Reach::Refuses => {
                sleep(world.dice.millis(1, 500)).await;
                self.living().await;
                world.trace(name, format_args!("{step}: refused"));
                return Err(RepositoryError::Store("connection refused".into()));
            }
            Reach::Waits(time) => {
                sleep(time.min(PATIENCE) + world.dice.millis(1, 50)).await;
                self.living().await;
                if time > PATIENCE {
                    world.trace(name, format_args!("{step}: no answer"));
                    return Err(RepositoryError::Store("no answer".into()));
                }
            }
        }
        if self.hits(faults.error) {
            world.trace(name, format_args!("{step}: failed"));
            world.truth().count("database errors");
            return Err(self.failed());
        }
        if self.hits(faults.late) {
            world.trace(name, format_args!("{step}: failed, and done later"));
            world.truth().count("writes done later");
            self.stalled();
            let (later, world) = (world.dice.millis(0, 25_000), world.clone());
            tokio::spawn(async move {
                sleep(later).await;
                let done = effect.await;
                world.trace("late", format_args!("{step}: {done:?}"));
            });
            sleep(PATIENCE).await;
            self.living().await;
            return Err(self.failed());
        }
        let done = effect.await;
        world.trace(name, format_args!("{step}: {done:?}"));
        if self.hits(faults.crash) {
            self.crash(&format!("the end of {step}"));
        }
        self.leg().await;
        if self.hits(faults.commit_unknown) {
            world.trace(name, format_args!("{step}: its answer is lost"));
            world.truth().count("database answers lost");
            return Err(self.failed());
        }
        done
    }
}

#[async_trait]
impl CredentialsRepository for Ports {
    async fn find(&self, id: IdentityId) -> Result<Option<StoredCredentials>, RepositoryError> {
        let store = self.0.world.store.clone();
        self.database("find", async move { CredentialsRepository::find(&*store, id).await }).await
    }

    async fn take_lease(
        &self,
        id: IdentityId,
        generation: i64,
        holder: &str,
        time: Duration,
    ) -> Result<LeaseOutcome, RepositoryError> {
        let (world, holder) = (self.0.world.clone(), holder.to_owned());
        let effect = async move {
            let taken = Mutant::take_lease(&world, id, generation, &holder, time).await?;
            match taken {
                LeaseOutcome::Taken(..) => world.truth().count("leases taken"),
                LeaseOutcome::Held => world.truth().count("leases held by another"),
                LeaseOutcome::Moved => {}
            }
            Ok(taken)
        };
        self.database("take_lease", effect).await
    }

    async fn record_sending(
        &self,
        lease: &Lease,
        time: Duration,
    ) -> Result<LeasedWrite, RepositoryError> {
        let (world, process, lease) = (self.0.world.clone(), self.0.id, lease.clone());
        let effect = async move {
            let written = Mutant::record_sending(&world, &lease, time).await?;
            if written == LeasedWrite::Done {
                let now = world.elapsed();
                world.truth().recorded(process, lease.identity_id, now);
            }
            Ok(written)
        };
        self.write("record_sending", effect).await
    }

    async fn commit(
        &self,
        lease: &Lease,
        credentials: &Credentials,
    ) -> Result<LeasedWrite, RepositoryError> {
        let (world, own_lease, brought) =
            (self.0.world.clone(), lease.clone(), credentials.clone());
        let effect = async move {
            let written = Mutant::commit(&world, &own_lease, &brought).await?;
            if written == LeasedWrite::Done {
                world.truth().committed(&brought);
            }
            Ok(written)
        };
        let written = self.write("commit", effect).await?;
        let world = &self.0.world;
        if written == LeasedWrite::Gone
            || (written == LeasedWrite::Superseded
                && world.lost_its_account(lease, credentials).await)
        {
            world.truth().orphaned(self.0.id, credentials);
        }
        Ok(written)
    }

    async fn end(&self, lease: &Lease, end: &RefreshEnd) -> Result<LeasedWrite, RepositoryError> {
        let (world, lease, end) = (self.0.world.clone(), lease.clone(), end.clone());
        self.write("end", async move { Mutant::end(&world, &lease, &end).await }).await
    }

    async fn release(&self, lease: &Lease) -> Result<LeasedWrite, RepositoryError> {
        let (world, lease) = (self.0.world.clone(), lease.clone());
        self.write("release", async move { Mutant::release(&world, &lease).await }).await
    }

    async fn changed(&self, _: IdentityId, at_most: Duration) {
        let world = &self.0.world;
        self.living().await;
        if world.dice.chance(200) {
            // The notification is lost.
            sleep(at_most).await;
        } else {
            let _ = timeout(at_most, world.bell.notified()).await;
        }
        self.living().await;
    }
}

#[async_trait]
impl IdentityRepository for Ports {
    async fn find(&self, id: IdentityId) -> Result<Option<Identity>, RepositoryError> {
        let store = self.0.world.store.clone();
        self.database("find identity", async move { IdentityRepository::find(&*store, id).await })
            .await
    }

    async fn list(
        &self,
        filter: &IdentityFilter,
        page: PageRequest,
    ) -> Result<Page<Identity>, RepositoryError> {
        let (store, filter) = (self.0.world.store.clone(), filter.clone());
        let effect = async move { IdentityRepository::list(&*store, &filter, page).await };
        self.database("list identities", effect).await
    }

    async fn link(&self, link: &Link) -> Result<LinkOutcome, RepositoryError> {
        let (store, link) = (self.0.world.store.clone(), link.clone());
        self.write("link", async move { store.link(&link).await }).await
    }

    async fn update_data(&self, update: &DataUpdate) -> Result<DataOutcome, RepositoryError> {
        let (store, update) = (self.0.world.store.clone(), update.clone());
        self.write("update data", async move { store.update_data(&update).await }).await
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<UnlinkOutcome, RepositoryError> {
        let (store, unlink) = (self.0.world.store.clone(), unlink.clone());
        self.write("unlink", async move { store.unlink(&unlink).await }).await
    }
}

#[async_trait]
impl RevocationRepository for Ports {
    async fn queue(&self, new: &NewRevocation) -> Result<QueuedRevocation, RepositoryError> {
        let (world, new) = (self.0.world.clone(), new.clone());
        let effect = async move {
            let token = new.grant.credentials.refresh_token.as_ref().map(Secret::expose);
            world.truth().queued.extend(token.map(str::to_owned));
            world.store.queue(&new).await
        };
        self.database("queue", effect).await
    }

    async fn claim_due(
        &self,
        limit: u16,
        time: Duration,
    ) -> Result<Vec<ClaimedRevocation>, RepositoryError> {
        let store = self.0.world.store.clone();
        self.database("claim due", async move { store.claim_due(limit, time).await }).await
    }

    async fn claim(
        &self,
        id: RevocationId,
        time: Duration,
    ) -> Result<Option<ClaimedRevocation>, RepositoryError> {
        let store = self.0.world.store.clone();
        self.database("claim", async move { store.claim(id, time).await }).await
    }

    async fn settle(
        &self,
        claimed: &QueuedRevocation,
        end: &RevocationEnd,
    ) -> Result<bool, RepositoryError> {
        let (store, claimed, end) = (self.0.world.store.clone(), claimed.clone(), end.clone());
        self.database("settle", async move { store.settle(&claimed, &end).await }).await
    }

    async fn list(&self, page: PageRequest) -> Result<Page<QueuedRevocation>, RepositoryError> {
        RevocationRepository::list(&*self.0.world.store, page).await
    }
}

/// A refresh only reads an instance with its secrets; the rest goes straight through.
#[async_trait]
impl IdentityProviderRepository for Ports {
    async fn insert(
        &self,
        provider: &NewIdentityProvider,
        actor: &Actor,
    ) -> Result<IdentityProvider, RepositoryError> {
        self.0.world.store.insert(provider, actor).await
    }

    async fn find(&self, id: ProviderId) -> Result<Option<IdentityProvider>, RepositoryError> {
        IdentityProviderRepository::find(&*self.0.world.store, id).await
    }

    async fn find_by_key<'a>(
        &self,
        provider_type: &str,
        external_id: Option<&'a str>,
    ) -> Result<Option<IdentityProvider>, RepositoryError> {
        self.0.world.store.find_by_key(provider_type, external_id).await
    }

    async fn find_with_secrets(
        &self,
        id: ProviderId,
    ) -> Result<Option<(IdentityProvider, ProviderSecrets)>, RepositoryError> {
        let store = self.0.world.store.clone();
        self.database("find provider", async move { store.find_with_secrets(id).await }).await
    }

    async fn list(
        &self,
        filter: &ProviderFilter,
        page: PageRequest,
    ) -> Result<Page<IdentityProvider>, RepositoryError> {
        IdentityProviderRepository::list(&*self.0.world.store, filter, page).await
    }

    async fn update(
        &self,
        update: &ProviderUpdate,
        actor: &Actor,
    ) -> Result<Option<IdentityProvider>, RepositoryError> {
        IdentityProviderRepository::update(&*self.0.world.store, update, actor).await
    }

    async fn update_authority(
        &self,
        update: &ProviderUpdate,
        actor: &Actor,
    ) -> Result<AuthorityUpdate, RepositoryError> {
        self.0.world.store.update_authority(update, actor).await
    }

    async fn record_issuer_named(&self, id: ProviderId) -> Result<(), RepositoryError> {
        self.0.world.store.record_issuer_named(id).await
    }

    async fn delete(
        &self,
        id: ProviderId,
        cascade: bool,
        actor: &Actor,
    ) -> Result<ProviderDeletion, RepositoryError> {
        IdentityProviderRepository::delete(&*self.0.world.store, id, cascade, actor).await
    }
}

impl Clock for Ports {
    fn now(&self) -> DateTime<Utc> {
        self.0.world.now() + self.0.skew
    }
}

impl Connectors for Ports {
    fn types(&self) -> Vec<ProviderType> {
        vec![ProviderType {
            name: "simulated".to_owned(),
            title: "Simulated".to_owned(),
            description: String::new(),
            documentation: String::new(),
            registration: Registration::default(),
            notes: Vec::new(),
            config_schema: json!({}),
            secret_names: Vec::new(),
            authority_keys: Vec::new(),
            registered_keys: Vec::new(),
            asked_keys: Vec::new(),
            capabilities: self.capabilities(),
        }]
    }

    fn check(
        &self,
        _: &str,
        _: &Map<String, Value>,
        _: &ProviderSecrets,
    ) -> Result<(), InvalidConfig> {
        Ok(())
    }

    fn connect(
        &self,
        _: &IdentityProvider,
        _: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        Ok(Arc::new(self.clone()))
    }
}

/// What the network makes of a request.
enum Fate {
    Arrives,
    RequestLost,
    AnswerLost,
    Unusable,
    Rejected(ConnectorError),
}

impl Ports {
    fn fate(&self) -> Fate {
        let Process { world, .. } = &*self.0;
        let faults = &world.plan.faults;
        let refused = |retry_after, sent| ConnectorError::Unavailable {
            detail: "turned away".to_owned(),
            retry_after,
            sent,
        };
        if world.reach_provider() == Reach::Refuses {
            return match world.dice.below(3) {
                0 => Fate::RequestLost,
                1 => Fate::AnswerLost,
                _ => Fate::Rejected(refused(None, Sent::No)),
            };
        }
        if self.hits(faults.lost_request) {
            Fate::RequestLost
        } else if self.hits(faults.lost_answer) {
            Fate::AnswerLost
        } else if self.hits(faults.untrusted) {
            Fate::Unusable
        } else if self.hits(faults.refused) {
            let retry_after = world.dice.chance(500).then(|| world.dice.millis(0, 20_000));
            Fate::Rejected(refused(retry_after, Sent::Answered))
        } else if self.hits(faults.misconfigured) {
            let code = "invalid_client".to_owned();
            Fate::Rejected(ConnectorError::ClientRejected { code })
        } else {
            Fate::Arrives
        }
    }

    fn answered(&self, Answer { access, refresh }: Answer) -> Credentials {
        let Process { world, .. } = &*self.0;
        let ends = world.truth().provider.access(&access).map(|it| it.ends);
        // `expires_in` goes by the clock of whoever reads the answer.
        let left = ends.unwrap_or_default().saturating_sub(world.elapsed());
        Credentials {
            access_token: Some(Secret::new(access)),
            refresh_token: refresh.map(Secret::new),
            expires_at: Some(self.now() + left),
            obtained_at: Some(self.now()),
            ..Credentials::default()
        }
    }
}

/// A use ends when its sender stops waiting for it, for whatever reason; that of a dead process
/// never does.
struct InFlight {
    ports: Ports,
    token: String,
    id: u64,
}

impl InFlight {
    fn ends(&self, end: End) {
        let world = &self.ports.0.world;
        world.truth().ended(&self.token, self.id, end);
        if end == End::Lost {
            world.truth().count("provider answers lost");
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.ports.0.world.truth().ended(&self.token, self.id, End::Lost);
    }
}

#[async_trait]
impl Connector for Ports {
    fn capabilities(&self) -> Capabilities {
        let reusable = self.0.world.plan.rules.reusable;
        let rotation = if reusable { Rotation::Reusable } else { Rotation::MayRotate };
        Capabilities {
            browser: true,
            device: false,
            refresh: true,
            revoke: true,
            sign_in: false,
            rotation,
        }
    }

    async fn refresh(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError> {
        let Process { world, name, id, .. } = &*self.0;
        self.living().await;
        if self.hits(world.plan.faults.crash) {
            self.crash("the sending");
            self.living().await;
        }
        let token = request.refresh_token.expose().to_owned();
        let now = world.elapsed();
        let use_id = world.truth().send(*id, &token, now);
        world.trace(name, format_args!("sends {token}"));
        let in_flight = InFlight { ports: self.clone(), token: token.clone(), id: use_id };

        let fate = self.fate();
        let most = if self.hits(world.plan.faults.slow_provider) { 8000 } else { 300 };
        let (to, back) = (world.dice.millis(0, most), world.dice.millis(0, 100));
        if self.hits(world.plan.faults.crash_in_call) {
            let (this, after) = (self.clone(), world.dice.millis(0, 500));
            tokio::spawn(async move {
                sleep(after).await;
                this.crash("a call of the provider");
            });
        }
        if self.hits(world.plan.faults.away_in_call) {
            let kinds = [Away::Database, Away::Paused, Away::Replica(self.0.slot)];
            let what = world.dice.one_of(&kinds);
            let from = now + world.dice.millis(0, 200);
            let until = (from + world.dice.millis(5000, 30_000)).min(world.plan.chaos);
            world.trace(name, format_args!("{what:?} is away until {until:?}"));
            world.truth().windows.push(Window { what, from, until });
            world.truth().count("outages during a call");
        }
        let lost = || ConnectorError::Unavailable {
            detail: "no answer".to_owned(),
            retry_after: None,
            sent: Sent::Unknown,
        };
        let arrives = !matches!(fate, Fate::RequestLost | Fate::Rejected(_));
        // The provider goes on, whoever has stopped waiting for it.
        let (tell, told) = oneshot::channel();
        if arrives {
            let (world, token) = (world.clone(), token.clone());
            tokio::spawn(async move {
                sleep(to).await;
                let now = world.elapsed();
                let answer = world.truth().provider.spend(&token, now);
                world.trace("provider", format_args!("{token}: {answer:?}"));
                sleep(back).await;
                let _ = tell.send(answer);
            });
        } else {
            sleep(to).await;
        }
        let result = match fate {
            Fate::Arrives | Fate::Unusable => told.await.map_err(|_| lost()),
            Fate::AnswerLost => told.await.map_err(|_| lost()).and_then(|_| Err(lost())),
            Fate::RequestLost => Err(lost()),
            Fate::Rejected(ref error) => Err(error.clone()),
        };
        self.living().await;
        let result = match (result, &fate) {
            (Ok(Ok(_)), Fate::Unusable) => {
                in_flight.ends(End::Lost);
                Err(ConnectorError::Untrusted { detail: "another subject".to_owned() })
            }
            (Ok(Ok(answer)), _) => {
                if let Some(next) = &answer.refresh {
                    world.truth().brought(&token, use_id, next);
                }
                in_flight.ends(End::Brought);
                Ok(self.answered(answer))
            }
            (Ok(Err(_)), _) => {
                in_flight.ends(End::Refused);
                Err(ConnectorError::GrantRejected { code: "invalid_grant".to_owned() })
            }
            (Err(error), Fate::Rejected(_)) => {
                in_flight.ends(End::Nothing);
                Err(error)
            }
            (Err(error), _) => {
                in_flight.ends(End::Lost);
                if world.dice.chance(400) {
                    // Nobody says so either.
                    sleep(CALL_TIMEOUT * 100).await;
                }
                Err(error)
            }
        };
        self.living().await;
        world.trace(name, format_args!("is told {result:?}"));
        result
    }

    async fn reachable(&self) -> Result<(), ConnectorError> {
        let Process { world, name, id, .. } = &*self.0;
        self.living().await;
        sleep(world.dice.millis(0, 300)).await;
        self.living().await;
        if world.reach_provider() == Reach::Refuses {
            world.truth().count("careful retries put off");
            world.trace(name, format_args!("the provider does not answer at all"));
            return Err(ConnectorError::Unavailable {
                detail: "it does not answer".to_owned(),
                retry_after: None,
                sent: Sent::No,
            });
        }
        let now = world.elapsed();
        world.truth().processes[*id].sign_of_life = Some(now);
        Ok(())
    }

    async fn revoke(&self, credentials: &Credentials) -> Result<Revocation, ConnectorError> {
        let Process { world, .. } = &*self.0;
        sleep(world.dice.millis(0, 300)).await;
        self.living().await;
        let token = credentials.refresh_token.as_ref().map(Secret::expose);
        world.truth().provider.revoke(token.unwrap_or_default());
        Ok(Revocation::Revoked)
    }

    async fn authorize(&self, _: &AuthorizationRequest) -> Result<Url, ConnectorError> {
        Err(unused())
    }

    async fn check_issuer<'a>(&self, _: Option<&'a str>, _: bool) -> Result<(), ConnectorError> {
        Err(unused())
    }

    async fn exchange(&self, _: &CodeExchange) -> Result<Grant, ConnectorError> {
        Err(unused())
    }

    async fn build_identity(&self, _: &Grant) -> Result<ExternalAccount, ConnectorError> {
        Err(unused())
    }
}

fn unused() -> ConnectorError {
    ConnectorError::Misconfigured { detail: "nobody links with a browser here".to_owned() }
}
