use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbolon_domain::{
    event::{EventKind, NewEvent},
    ids::{IdentityId, LinkSessionId, OrganizationId, ProviderId, UserId},
    link_session::{
        Attempt, AttemptProof, CompletionClaim, LinkFailure, LinkSession, LinkSessionStatus,
        NewLinkSession, PendingLink, Purpose,
    },
    ports::{LinkOutcome, LinkSessionRepository, Place, RepositoryError, Sealer},
    secret::{Secret, SecretHash},
};
use zeroize::Zeroizing;

use super::{
    Conn, Db, Store, events, in_transaction, locked, now, schema::link_sessions, time,
    to_microseconds,
};
use crate::{
    failure::Failure,
    values::{actor, hash, object, parsed, texts},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = link_sessions, check_for_backend(Db))]
struct Row {
    id: i64,
    purpose: String,
    user_id: Option<String>,
    provider_id: Option<i64>,
    organization_id: Option<String>,
    return_url: String,
    scopes: Value,
    login_hint: Option<String>,
    reattach: bool,
    auto_complete: bool,
    status: String,
    identity_id: Option<i64>,
    error: Option<String>,
    created_by: String,
    created_for: Option<String>,
    created_because: Option<String>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

/// The states that time ends.
const LIVE: [&str; 3] = [
    LinkSessionStatus::Pending.as_str(),
    LinkSessionStatus::AwaitingCompletion.as_str(),
    LinkSessionStatus::Unlinked.as_str(),
];
/// The states in which a session waits for its completion.
const WAITING: [&str; 2] =
    [LinkSessionStatus::AwaitingCompletion.as_str(), LinkSessionStatus::Unlinked.as_str()];

impl Row {
    /// The session as it reads at `now`.
    fn seen(self, now: DateTime<Utc>) -> Result<LinkSession, Failure> {
        let bad = |error: symbolon_domain::ids::InvalidId| Failure::unreadable(error.to_string());
        let expired = LIVE.contains(&self.status.as_str()) && self.expires_at <= now;
        Ok(LinkSession {
            id: LinkSessionId(self.id),
            purpose: parsed(&self.purpose, Purpose::parse)?,
            user_id: self.user_id.map(UserId::new).transpose().map_err(bad)?,
            provider_id: self.provider_id.map(ProviderId),
            organization_id: self
                .organization_id
                .map(OrganizationId::new)
                .transpose()
                .map_err(bad)?,
            return_url: self.return_url,
            scopes: texts(self.scopes)?,
            login_hint: self.login_hint,
            reattach: self.reattach,
            auto_complete: self.auto_complete,
            status: if expired {
                LinkSessionStatus::Expired
            } else {
                parsed(&self.status, LinkSessionStatus::parse)?
            },
            identity_id: self.identity_id.map(IdentityId),
            error: self.error.map(|it| parsed(&it, LinkFailure::parse)).transpose()?,
            created_by: actor(&self.created_by, self.created_for, self.created_because)?,
            created_at: self.created_at,
            expires_at: self.expires_at,
        })
    }
}

/// The sealed form of an [`AttemptProof`]. Only a trip that has a key names one, so that an earlier
/// version opens all others.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainProof {
    code_verifier: Zeroizing<String>,
    nonce: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dpop_key: Option<Zeroizing<String>>,
}

fn proof_place(id: LinkSessionId) -> Place {
    Place { table: "link_sessions", row: id.0, idp: 0, generation: 1 }
}

fn pending_place(id: LinkSessionId) -> Place {
    Place { table: "link_sessions", row: id.0, idp: 0, generation: 2 }
}

fn seal(sealer: &dyn Sealer, place: &Place, plain: &[u8]) -> Result<Vec<u8>, Failure> {
    sealer.seal(place, plain).map_err(|error| Failure::sealed(place, &error))
}

fn open(sealer: &dyn Sealer, place: &Place, kept: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    sealer.open(place, kept).map_err(|error| Failure::sealed(place, &error))
}

fn seal_proof(
    sealer: &dyn Sealer,
    id: LinkSessionId,
    proof: &AttemptProof,
) -> Result<Vec<u8>, Failure> {
    let plain = PlainProof {
        code_verifier: Zeroizing::new(proof.code_verifier.expose().to_owned()),
        nonce: Zeroizing::new(proof.nonce.expose().to_owned()),
        dpop_key: proof.dpop_key.as_ref().map(|it| Zeroizing::new(it.expose().to_owned())),
    };
    let plain = Zeroizing::new(
        serde_json::to_vec(&plain).map_err(|error| Failure::unreadable(error.to_string()))?,
    );
    seal(sealer, &proof_place(id), &plain)
}

fn open_proof(
    sealer: &dyn Sealer,
    id: LinkSessionId,
    kept: &[u8],
) -> Result<AttemptProof, Failure> {
    let plain: PlainProof = serde_json::from_slice(&open(sealer, &proof_place(id), kept)?)
        .map_err(|_| Failure::unreadable("an opened value holds no proof"))?;
    Ok(AttemptProof {
        code_verifier: Secret::new(plain.code_verifier.as_str()),
        nonce: Secret::new(plain.nonce.as_str()),
        dpop_key: plain.dpop_key.map(|it| Secret::new(it.as_str())),
    })
}

/// The session that waits for completion by whoever has this claim's code.
macro_rules! waiting {
    ($claim:expr) => {
        link_sessions::table
            .find($claim.id.0)
            .filter(link_sessions::code_hash.eq($claim.code.0.as_slice()))
            .filter(link_sessions::status.eq_any(WAITING))
            .filter(link_sessions::expires_at.gt(now()))
    };
}

/// A `pending` session whose time has not run out.
macro_rules! pending {
    ($query:expr) => {
        $query
            .filter(link_sessions::status.eq(LinkSessionStatus::Pending.as_str()))
            .filter(link_sessions::expires_at.gt(now()))
    };
}

/// Locks the session that waits for this claim, and gives its organization; `None` when there is
/// none.
pub(crate) async fn find_waiting(
    conn: &mut Conn,
    claim: &CompletionClaim,
) -> QueryResult<Option<Option<String>>> {
    let query = waiting!(claim).select(link_sessions::organization_id);
    locked!(query).first(conn).await.optional()
}

/// Moves a session on by what became of its link.
pub(crate) async fn settle(
    conn: &mut Conn,
    claim: &CompletionClaim,
    outcome: &LinkOutcome,
) -> Result<(), Failure> {
    let (status, identity) = match outcome {
        LinkOutcome::Created(it) | LinkOutcome::Updated(it) | LinkOutcome::Rebound(it) => {
            (LinkSessionStatus::Linked, it.id)
        }
        LinkOutcome::SignedIn(it) => (LinkSessionStatus::SignedIn, it.id),
        LinkOutcome::NobodyLinked => {
            return move_on(conn, claim, LinkSessionStatus::Unlinked, None).await;
        }
        LinkOutcome::Taken(_) | LinkOutcome::SessionUsed => return Ok(()),
    };
    move_on(conn, claim, status, Some(identity)).await
}

/// Ends a session that waits for its completion, or leaves it waiting as `unlinked`.
pub(crate) async fn move_on(
    conn: &mut Conn,
    claim: &CompletionClaim,
    status: LinkSessionStatus,
    identity: Option<IdentityId>,
) -> Result<(), Failure> {
    if status == LinkSessionStatus::Unlinked {
        let status = link_sessions::status.eq(status.as_str());
        diesel::update(waiting!(claim)).set(status).execute(conn).await?;
        return Ok(());
    }
    let settled = diesel::update(waiting!(claim))
        .set((
            link_sessions::identity_id.eq(identity.map(|it| it.0)),
            link_sessions::status.eq(status.as_str()),
            nothing_held(),
        ))
        .execute(conn)
        .await?;
    // Somebody else completed it in between.
    if settled == 0 { Err(Failure::Changed) } else { Ok(()) }
}

/// Ends the sessions whose browser was sent to this provider, whatever they hold.
pub(crate) async fn expire_sent_to(conn: &mut Conn, provider: ProviderId) -> QueryResult<()> {
    let there = link_sessions::table
        .filter(link_sessions::sent_to.eq(provider.0))
        .filter(link_sessions::status.eq_any(LIVE));
    diesel::update(there)
        .set((link_sessions::status.eq(LinkSessionStatus::Expired.as_str()), nothing_held()))
        .execute(conn)
        .await
        .map(drop)
}

/// What an ended session keeps of its secrets: nothing.
type NothingHeld = (
    diesel::dsl::Eq<link_sessions::state_hash, Option<Vec<u8>>>,
    diesel::dsl::Eq<link_sessions::browser_hash, Option<Vec<u8>>>,
    diesel::dsl::Eq<link_sessions::proof, Option<Vec<u8>>>,
    diesel::dsl::Eq<link_sessions::code_hash, Option<Vec<u8>>>,
    diesel::dsl::Eq<link_sessions::pending, Option<Vec<u8>>>,
);

fn nothing_held() -> NothingHeld {
    (
        link_sessions::state_hash.eq(None),
        link_sessions::browser_hash.eq(None),
        link_sessions::proof.eq(None),
        link_sessions::code_hash.eq(None),
        link_sessions::pending.eq(None),
    )
}

#[async_trait]
impl LinkSessionRepository for Store {
    async fn insert(&self, new: &NewLinkSession) -> Result<LinkSession, RepositoryError> {
        let session = &new.session;
        let conn = &mut *self.writer().await?;
        let row: Row = diesel::insert_into(link_sessions::table)
            .values((
                (
                    link_sessions::purpose.eq(session.purpose.as_str()),
                    link_sessions::user_id.eq(session.user_id.as_ref().map(UserId::as_str)),
                    link_sessions::provider_id.eq(session.provider_id.map(|it| it.0)),
                    link_sessions::organization_id
                        .eq(session.organization_id.as_ref().map(OrganizationId::as_str)),
                    link_sessions::return_url.eq(&session.return_url),
                    link_sessions::scopes.eq(json!(session.scopes)),
                    link_sessions::login_hint.eq(&session.login_hint),
                    link_sessions::reattach.eq(session.reattach),
                    link_sessions::auto_complete.eq(session.auto_complete),
                ),
                (
                    link_sessions::status.eq(session.status.as_str()),
                    link_sessions::identity_id.eq(session.identity_id.map(|it| it.0)),
                    link_sessions::error.eq(session.error.map(LinkFailure::as_str)),
                    link_sessions::created_by.eq(session.created_by.who.to_string()),
                    link_sessions::created_for.eq(session
                        .created_by
                        .acting_user
                        .as_ref()
                        .map(UserId::as_str)),
                    link_sessions::created_because.eq(&session.created_by.reason),
                    link_sessions::created_at.eq(to_microseconds(session.created_at)),
                    link_sessions::expires_at.eq(to_microseconds(session.expires_at)),
                    link_sessions::token_hash.eq(new.token.0.as_slice()),
                    link_sessions::used.eq(false),
                ),
            ))
            .returning(Row::as_returning())
            .get_result(conn)
            .await
            .map_err(Failure::from)?;
        let now = time(conn).await.map_err(Failure::from)?;
        Ok(row.seen(now)?)
    }

    async fn find(&self, id: LinkSessionId) -> Result<Option<LinkSession>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        let row = link_sessions::table.find(id.0).select(Row::as_select());
        let row: Option<Row> = row.first(conn).await.optional().map_err(Failure::from)?;
        let now = time(conn).await.map_err(Failure::from)?;
        Ok(row.map(|it| it.seen(now)).transpose()?)
    }

    async fn find_by_token(
        &self,
        token: &SecretHash,
    ) -> Result<Option<LinkSession>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        let row: Option<Row> = link_sessions::table
            .filter(link_sessions::token_hash.eq(token.0.as_slice()))
            .select(Row::as_select())
            .first(conn)
            .await
            .optional()
            .map_err(Failure::from)?;
        let now = time(conn).await.map_err(Failure::from)?;
        Ok(row.map(|it| it.seen(now)).transpose()?)
    }

    async fn begin(&self, id: LinkSessionId, attempt: &Attempt) -> Result<bool, RepositoryError> {
        let proof = seal_proof(&*self.sealer, id, &attempt.proof)?;
        let browser = attempt.browser.0.as_slice();
        let may_begin =
            pending!(link_sessions::table.find(id.0)).filter(link_sessions::used.eq(false)).filter(
                link_sessions::browser_hash.is_null().or(link_sessions::browser_hash.eq(browser)),
            );
        let begun = diesel::update(may_begin)
            .set((
                link_sessions::sent_to.eq(attempt.provider_id.0),
                link_sessions::browser_hash.eq(browser),
                link_sessions::state_hash.eq(attempt.state.0.as_slice()),
                link_sessions::proof.eq(proof),
            ))
            .execute(&mut *self.writer().await?)
            .await
            .map_err(Failure::from)?;
        Ok(begun == 1)
    }

    async fn find_by_state(
        &self,
        state: &SecretHash,
    ) -> Result<Option<(LinkSession, ProviderId, SecretHash)>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        let found: Option<(Row, Option<i64>, Option<Vec<u8>>)> = link_sessions::table
            .filter(link_sessions::state_hash.eq(state.0.as_slice()))
            .select((Row::as_select(), link_sessions::sent_to, link_sessions::browser_hash))
            .first(conn)
            .await
            .optional()
            .map_err(Failure::from)?;
        let Some((row, Some(sent_to), Some(browser))) = found else { return Ok(None) };
        let now = time(conn).await.map_err(Failure::from)?;
        Ok(Some((row.seen(now)?, ProviderId(sent_to), hash(&browser)?)))
    }

    async fn take_attempt(
        &self,
        state: &SecretHash,
        browser: &SecretHash,
    ) -> Result<Option<AttemptProof>, RepositoryError> {
        let by_state =
            link_sessions::table.filter(link_sessions::state_hash.eq(state.0.as_slice()));
        let unused = pending!(by_state)
            .filter(link_sessions::browser_hash.eq(browser.0.as_slice()))
            .filter(link_sessions::used.eq(false));
        let taken: Option<(i64, Option<Vec<u8>>)> = diesel::update(unused)
            .set(link_sessions::used.eq(true))
            .returning((link_sessions::id, link_sessions::proof))
            .get_result(&mut *self.writer().await?)
            .await
            .optional()
            .map_err(Failure::from)?;
        let Some((id, Some(sealed))) = taken else { return Ok(None) };
        Ok(Some(open_proof(&*self.sealer, LinkSessionId(id), &sealed)?))
    }

    async fn await_completion(
        &self,
        claim: &CompletionClaim,
        link: &PendingLink,
    ) -> Result<bool, RepositoryError> {
        let sealed = seal(&*self.sealer, &pending_place(claim.id), &link.to_plain())?;
        let used =
            pending!(link_sessions::table.find(claim.id.0)).filter(link_sessions::used.eq(true));
        let kept = diesel::update(used)
            .set((
                link_sessions::status.eq(LinkSessionStatus::AwaitingCompletion.as_str()),
                link_sessions::proof.eq(None::<Vec<u8>>),
                link_sessions::code_hash.eq(claim.code.0.as_slice()),
                link_sessions::pending.eq(sealed),
            ))
            .execute(&mut *self.writer().await?)
            .await
            .map_err(Failure::from)?;
        Ok(kept == 1)
    }

    async fn find_pending(
        &self,
        claim: &CompletionClaim,
    ) -> Result<Option<(LinkSession, PendingLink)>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        let found: Option<(Row, Option<Vec<u8>>)> = waiting!(claim)
            .select((Row::as_select(), link_sessions::pending))
            .first(conn)
            .await
            .optional()
            .map_err(Failure::from)?;
        let Some((row, Some(sealed))) = found else { return Ok(None) };
        let now = time(conn).await.map_err(Failure::from)?;
        let plain = open(&*self.sealer, &pending_place(claim.id), &sealed)?;
        let link = PendingLink::from_plain(&plain)
            .map_err(|error| Failure::unreadable(error.to_string()))?;
        Ok(Some((row.seen(now)?, link)))
    }

    async fn fail(&self, id: LinkSessionId, why: LinkFailure) -> Result<bool, RepositoryError> {
        let failed = in_transaction!(self, async |conn| {
            let live = link_sessions::table
                .find(id.0)
                .filter(link_sessions::status.eq_any(LIVE))
                .filter(link_sessions::expires_at.gt(now()));
            let row: Option<Row> = diesel::update(live)
                .set((
                    link_sessions::status.eq(LinkSessionStatus::Failed.as_str()),
                    link_sessions::error.eq(why.as_str()),
                    nothing_held(),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let Some(row) = row else { return Ok(false) };
            let now = time(conn).await?;
            let session = row.seen(now)?;
            let event = NewEvent {
                provider_id: session.provider_id,
                user_id: session.user_id,
                organization_id: session.organization_id,
                detail: object(json!({ "error": why.as_str() }))?,
                ..NewEvent::new(EventKind::LinkSessionFailed, &session.created_by)
            };
            events::insert(conn, &event).await?;
            Ok(true)
        });
        Ok(failed?)
    }

    async fn expire(&self) -> Result<u64, RepositoryError> {
        let over = link_sessions::table
            .filter(link_sessions::status.eq_any(LIVE))
            .filter(link_sessions::expires_at.le(now()));
        let expired = diesel::update(over)
            .set((link_sessions::status.eq(LinkSessionStatus::Expired.as_str()), nothing_held()))
            .execute(&mut *self.writer().await?)
            .await
            .map_err(Failure::from)?;
        Ok(expired as u64)
    }
}
