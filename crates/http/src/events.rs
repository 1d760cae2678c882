use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use symbolon_domain::{
    event::{Event, EventKind},
    ids::{EventId, IdentityId, OrganizationId, ProviderId, UserId},
    link_evidence::LinkEvidence,
    ports::{EventFilter, EventLog},
    services::{Explanation, Identities},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Authenticator, EventsRead, Unlimited},
    error::ApiError,
    list::ListBody,
    request::{Id, QueryString},
};

/// What the routes of the event log need.
#[derive(Clone, FromRef)]
pub(crate) struct EventRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) events: Arc<dyn EventLog>,
    pub(crate) identities: Arc<Identities>,
}

pub(crate) fn router(state: EventRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_events))
        .routes(routes!(explain_identity))
        .with_state(state)
}

/// Something that happened.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventBody {
    /// Ascending in the order in which changes became visible.
    #[schema(example = 42)]
    id: i64,
    /// What it is about.
    #[serde(rename = "type")]
    #[schema(example = "identity.linked")]
    kind: &'static str,
    /// When.
    at: DateTime<Utc>,
    /// Who: `api_key:ID`, `operator`, `sentry`, or `replica:NAME`.
    #[schema(example = "api_key:1")]
    actor: String,
    /// The user on whose behalf, as the caller's `Symbolon-Acting-User` said.
    acting_user: Option<String>,
    /// Why, as the caller's `Symbolon-Reason` said.
    reason: Option<String>,
    /// The identity concerned.
    #[schema(example = 7)]
    identity_id: Option<i64>,
    /// The provider instance concerned.
    #[schema(example = 1)]
    provider_id: Option<i64>,
    /// The user concerned.
    #[schema(example = "user-42")]
    user_id: Option<String>,
    /// The organization concerned.
    organization_id: Option<String>,
    /// The values that changed, as they were; null for what was not there.
    #[schema(value_type = Option<Object>)]
    before: Option<Map<String, Value>>,
    /// The same values as they are now; null for what is gone.
    #[schema(value_type = Option<Object>)]
    after: Option<Map<String, Value>>,
    /// What more there is to say; never a secret.
    #[schema(value_type = Object)]
    detail: Map<String, Value>,
}

impl From<Event> for EventBody {
    fn from(it: Event) -> Self {
        Self {
            id: it.id.0,
            kind: it.about.as_str(),
            at: it.at,
            actor: it.actor.who.to_string(),
            acting_user: it.actor.acting_user.map(|it| it.as_str().to_owned()),
            reason: it.actor.reason,
            identity_id: it.identity_id.map(|it| it.0),
            provider_id: it.provider_id.map(|it| it.0),
            user_id: it.user_id.map(|it| it.as_str().to_owned()),
            organization_id: it.organization_id.map(|it| it.as_str().to_owned()),
            before: it.before,
            after: it.after,
            detail: it.detail,
        }
    }
}

/// Lists events; filters combine with AND.
///
/// To follow the log, ask again with `after` of the last event that was read: none is missed,
/// whatever is written meanwhile.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    params(
        ("after" = Option<i64>, Query, description = "Events after the one of this id; 0 for all"),
        ("type" = Option<String>, Query, description = "Of any of these types: `a,b`"),
        ("identity_id" = Option<i64>, Query),
        ("user_id" = Option<String>, Query),
        ("organization_id" = Option<String>, Query),
        ("provider_id" = Option<i64>, Query),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order", body = ListBody<EventBody>)),
)]
async fn list_events(
    State(routes): State<EventRoutes>,
    _caller: Unlimited<EventsRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<EventBody>>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let filter = EventFilter {
        after: query.parsed("after", |text| after(&text))?,
        kinds: query.parsed("type", |text| kinds(&text))?.unwrap_or_default(),
        identity_id: query.id("identity_id")?.map(IdentityId),
        user_id: query.parsed("user_id", UserId::new)?,
        organization_id: query.parsed("organization_id", OrganizationId::new)?,
        provider_id: query.id("provider_id")?.map(ProviderId),
    };
    let page = query.page()?;
    query.end()?;
    let page = routes.events.list(&filter, page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

fn after(text: &str) -> Result<EventId, &'static str> {
    if text == "0" {
        return Ok(EventId(0));
    }
    crate::request::row_id(text).map(EventId).ok_or("must be the id of an event, or 0")
}

/// `a,b`, each the name of a kind of event.
pub(crate) fn kinds(text: &str) -> Result<Vec<EventKind>, String> {
    text.split(',').map(kind).collect()
}

/// The kind of this name.
pub(crate) fn kind(name: &str) -> Result<EventKind, String> {
    EventKind::parse(name).ok_or_else(|| {
        "must be types of events as docs/events-and-webhooks.md lists them, for example \
         `identity.linked`"
            .to_owned()
    })
}

/// Why an account is linked, and how it went since.
#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
struct ExplanationBody {
    /// The identity.
    #[schema(example = 7)]
    identity_id: i64,
    /// Why it is this user's; null when no event of its linking is on record.
    linked: Option<ProofBody>,
    /// When and how the user last proved again to hold the account, if so.
    verified: Option<ProofBody>,
    /// How refreshes went since it was linked, the first first.
    refreshes: ListBody<EventBody>,
}

/// How an account was linked or proved.
#[derive(Serialize, ToSchema)]
#[schema(as = Proof)]
struct ProofBody {
    /// The event that tells of it.
    event_id: i64,
    /// Its type, for example `identity.linked`.
    #[serde(rename = "type")]
    #[schema(example = "identity.linked")]
    kind: &'static str,
    /// When.
    at: DateTime<Utc>,
    /// `browser`, `vouched` (a trusted caller said so), `import`, `device`; null when an older
    /// version linked it and did not say.
    #[schema(example = "browser")]
    method: Option<&'static str>,
    /// Who did it.
    #[schema(example = "api_key:1")]
    actor: String,
    /// On whose behalf.
    acting_user: Option<String>,
    /// Why.
    reason: Option<String>,
    /// Who vouched for the account.
    #[schema(example = "https://idp.example")]
    issuer: Option<String>,
    /// Which checks had to pass, and what the verified ID token says of itself; null when an older
    /// version linked it and did not say.
    evidence: Option<EvidenceBody>,
}

/// What an account is believed for. Holds no token.
#[derive(Serialize, ToSchema)]
#[schema(as = Evidence)]
struct EvidenceBody {
    /// The checks that had to pass, for example `state`, `pkce`, `id_token_signature`, `nonce`.
    checks: Vec<&'static str>,
    /// Of the verified ID token; null where the provider issues none.
    id_token: Option<IdTokenBody>,
}

/// What a verified ID token says of itself.
#[derive(Serialize, ToSchema)]
#[schema(as = IdTokenEvidence)]
struct IdTokenBody {
    /// The algorithm of its signature.
    #[schema(example = "RS256")]
    alg: Option<String>,
    /// For whom it was issued.
    aud: Vec<String>,
    /// When it was issued.
    iat: Option<DateTime<Utc>>,
    /// When the user signed in at the provider.
    auth_time: Option<DateTime<Utc>>,
    /// How strong that was, in the provider's words.
    acr: Option<String>,
    /// By what means.
    amr: Vec<String>,
    /// The session at the provider, as an event of its end names it again.
    sid: Option<String>,
}

impl From<Event> for ProofBody {
    fn from(it: Event) -> Self {
        let evidence = LinkEvidence::from_detail(&it.detail);
        // An import tells by its own kind of event.
        let import = (it.about == EventKind::IdentityImported).then_some("import");
        Self {
            event_id: it.id.0,
            kind: it.about.as_str(),
            at: it.at,
            method: evidence.as_ref().map(|it| it.method.as_str()).or(import),
            actor: it.actor.who.to_string(),
            acting_user: it.actor.acting_user.map(|it| it.as_str().to_owned()),
            reason: it.actor.reason,
            issuer: evidence.as_ref().and_then(|it| it.issuer.clone()),
            evidence: evidence.map(|it| EvidenceBody {
                checks: it.checks.iter().map(|it| it.as_str()).collect(),
                id_token: it.id_token.map(|it| IdTokenBody {
                    alg: it.alg,
                    aud: it.aud,
                    iat: it.iat,
                    auth_time: it.auth_time,
                    acr: it.acr,
                    amr: it.amr,
                    sid: it.sid,
                }),
            }),
        }
    }
}

/// Explains why an account is linked, from the event log.
#[utoipa::path(
    get,
    path = "/v1/identities/{id}/explain",
    tag = "events",
    params(
        ("id" = i64, Path, minimum = 1),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Of `refreshes`; default 50"),
        ("cursor" = Option<String>, Query, description = "`refreshes.next_cursor` of the part before"),
    ),
    responses(
        (status = 200, description = "What is on record", body = ExplanationBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn explain_identity(
    State(routes): State<EventRoutes>,
    _caller: Unlimited<EventsRead>,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Json<ExplanationBody>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let page = query.page()?;
    query.end()?;
    let explanation = routes.identities.explain(IdentityId(id), page).await?;
    let Explanation { identity, linked, verified, refreshes } = explanation;
    Ok(Json(ExplanationBody {
        identity_id: identity.id.0,
        linked: linked.map(Into::into),
        verified: verified.map(Into::into),
        refreshes: ListBody::of(refreshes, Into::into),
    }))
}

#[cfg(test)]
mod tests {
    use symbolon_domain::testing::fixtures;

    use super::*;

    /// A webhook's `data` is made by the domain.
    #[test]
    fn an_event_reads_the_same_here_and_in_a_webhook() {
        let bare = Event {
            actor: symbolon_domain::event::Actor::OPERATOR,
            identity_id: None,
            provider_id: None,
            user_id: None,
            organization_id: None,
            before: None,
            after: None,
            detail: Map::new(),
            ..fixtures::event()
        };
        let mut full = fixtures::event();
        full.actor = full.actor.because("a reason");
        full.actor.acting_user = Some(fixtures::user("u"));
        for event in [bare, full] {
            let shown = Value::Object(event.shown());
            assert_eq!(serde_json::to_value(EventBody::from(event)).unwrap(), shown);
        }
    }
}
