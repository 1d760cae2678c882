//! Plain valid values. Change the fields that the case is about:
//!
//! ```
//! use symbolon_domain::{ports::Link, testing::fixtures};
//!
//! let takeover = Link { reattach: true, ..fixtures::link() };
//! ```
//!
//! They fit together: the identity is `user-1`'s account `account-1` at [`PROVIDER`], and what is
//! dated is dated at [`NOW`]. A store compares with its own clock, though: give it sessions of a
//! clock that runs.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use url::Url;

use crate::{
    account::ExternalAccount,
    api_key::{ApiKey, KeyLimits, KeyScope},
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    credentials::Credentials,
    device_link::{DeviceLink, DeviceLinkStatus, NewDeviceLink},
    event::{Actor, Event, EventKind, NewEvent},
    identity::{Identity, IdentityStatus},
    identity_provider::{
        Capabilities, IdentityProvider, ProviderOptions, ProviderSecrets, ProviderType,
        Registration, Rotation,
    },
    ids::{
        ApiKeyId, AuthIdentityId, AuthProviderId, DeviceLinkId, EventId, ExternalId, IdentityId,
        LinkSessionId, OrganizationId, ProviderId, UserId, WebhookDeliveryId, WebhookEndpointId,
    },
    link_evidence::{LinkCheck, LinkEvidence, LinkMethod},
    link_session::{
        Attempt, AttemptProof, CompletionClaim, LinkSession, LinkSessionStatus, NewLinkSession,
        PendingLink, Purpose,
    },
    ports::{
        AuthorizationRequest, BackOff, ClaimedDelivery, CodeExchange, DataUpdate, FailureClass,
        Grant, Lease, Link, LinkOwner, NewAuthProvider, NewIdentityProvider, NewWebhookEndpoint,
        ProviderUpdate, RefreshRequest, SsoSignIn, StoredCredentials,
    },
    secret::{Secret, SecretHash},
    webhook::{DeliveryStatus, WebhookDelivery, WebhookEndpoint},
};

/// 2026-01-01T00:00:00Z.
pub const NOW: DateTime<Utc> = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
/// The provider that every fixture is at.
pub const PROVIDER: ProviderId = ProviderId(1);
/// The identity that every fixture is about.
pub const IDENTITY: IdentityId = IdentityId(1);
/// The session that every fixture is about.
pub const SESSION: LinkSessionId = LinkSessionId(1);
/// The API key that does things.
pub const API_KEY: ApiKeyId = ApiKeyId(1);
/// The single sign-on that every fixture is about.
pub const AUTH_PROVIDER: AuthProviderId = AuthProviderId(1);
/// Who does things.
pub const ACTOR: Actor = Actor::api_key(API_KEY);

/// A user's name.
#[must_use]
pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// This user, as the owner of a link.
#[must_use]
pub fn owner(name: &str) -> LinkOwner {
    LinkOwner::User(user(name))
}

/// An account's name.
#[must_use]
pub fn external_id(name: &str) -> ExternalId {
    ExternalId::new(name).unwrap()
}

/// An organization's name.
#[must_use]
pub fn organization(name: &str) -> OrganizationId {
    OrganizationId::new(name).unwrap()
}

/// The JSON object in `value`.
///
/// # Panics
///
/// When it is no object.
#[must_use]
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

/// Access and refresh token, good for an hour from [`NOW`].
#[must_use]
pub fn credentials() -> Credentials {
    Credentials {
        access_token: Some(Secret::new("access-1")),
        refresh_token: Some(Secret::new("refresh-1")),
        id_token: Some(Secret::new("id-1")),
        token_type: Some("Bearer".into()),
        expires_at: Some(NOW + TimeDelta::hours(1)),
        obtained_at: Some(NOW),
        scopes: vec!["openid".into(), "email".into()],
        ..Credentials::default()
    }
}

/// A link of `account-1` to `user-1`, with [`credentials`].
#[must_use]
pub fn link() -> Link {
    Link {
        provider_id: PROVIDER,
        owner: owner("user-1"),
        external_id: external_id("account-1"),
        legacy_id: None,
        data: object(json!({ "name": "Ada" })),
        credentials: Some(credentials()),
        scopes: vec!["openid".into(), "email".into()],
        reattach: false,
        session: None,
        device_link: None,
        evidence: link_evidence(),
        actor: ACTOR,
    }
}

/// Of a browser's trip to a provider that issues no ID token.
#[must_use]
pub fn link_evidence() -> LinkEvidence {
    LinkEvidence {
        checks: vec![LinkCheck::State, LinkCheck::Browser, LinkCheck::Pkce],
        ..LinkEvidence::of(LinkMethod::Browser)
    }
}

/// What becomes of [`link`].
#[must_use]
pub fn identity() -> Identity {
    Identity {
        id: IDENTITY,
        idp_id: PROVIDER,
        user_id: user("user-1"),
        external_id: external_id("account-1"),
        data: object(json!({ "name": "Ada" })),
        status: IdentityStatus::Valid,
        invalid: None,
        scopes: vec!["openid".into(), "email".into()],
        date_verified: NOW,
        date_added: NOW,
        expires_at: credentials().expires_at,
        version: 1,
    }
}

/// New `data` for [`identity`], and nothing else.
#[must_use]
pub fn data_update() -> DataUpdate {
    DataUpdate {
        id: IDENTITY,
        data: object(json!({ "name": "Grace" })),
        credentials: None,
        if_version: None,
        actor: ACTOR,
    }
}

/// The [`credentials`] of [`identity`] as the token path reads them: the first generation, and
/// nothing against it.
#[must_use]
pub fn stored_credentials() -> StoredCredentials {
    StoredCredentials {
        identity_id: IDENTITY,
        provider_id: PROVIDER,
        status: IdentityStatus::Valid,
        invalid: None,
        generation: 1,
        credentials: Some(credentials()),
        back_off: None,
    }
}

/// The first lease on [`stored_credentials`].
#[must_use]
pub fn lease() -> Lease {
    Lease { identity_id: IDENTITY, generation: 1, attempt: 1, unanswered: 0 }
}

/// A first failure that may pass, until a minute after [`NOW`].
#[must_use]
pub fn back_off() -> BackOff {
    BackOff {
        until: NOW + TimeDelta::minutes(1),
        class: FailureClass::Unavailable,
        failures: 1,
        detail: "the provider answered 503".into(),
    }
}

/// A client's configuration at an `oidc` provider, without an external id.
#[must_use]
pub fn new_identity_provider() -> NewIdentityProvider {
    NewIdentityProvider {
        provider_type: "oidc".into(),
        external_id: None,
        config: object(json!({ "issuer": "https://op.example", "client_id": "client-1" })),
        secrets: provider_secrets(),
        options: ProviderOptions::default(),
    }
}

/// A client secret.
#[must_use]
pub fn provider_secrets() -> ProviderSecrets {
    ProviderSecrets::from([("client_secret".to_owned(), Secret::new("client-secret-1"))])
}

/// What becomes of [`new_identity_provider`].
#[must_use]
pub fn identity_provider() -> IdentityProvider {
    let NewIdentityProvider { provider_type, external_id, config, secrets, options } =
        new_identity_provider();
    IdentityProvider {
        id: PROVIDER,
        provider_type,
        external_id,
        config,
        secret_names: secrets.into_keys().collect(),
        options,
        names_issuer: false,
        date_added: NOW,
        version: 1,
    }
}

/// The type of [`identity_provider`].
#[must_use]
pub fn provider_type() -> ProviderType {
    ProviderType {
        name: "oidc".into(),
        title: "OpenID Connect".into(),
        description: "Any OpenID provider.".into(),
        documentation: "https://openid.net/specs/openid-connect-core-1_0.html".into(),
        registration: Registration::default(),
        notes: Vec::new(),
        config_schema: json!({ "type": "object" }),
        secret_names: vec!["client_secret".into()],
        authority_keys: vec!["issuer".into()],
        registered_keys: Vec::new(),
        asked_keys: Vec::new(),
        capabilities: capabilities(),
    }
}

/// Everything, with refresh tokens that may be spent.
#[must_use]
pub fn capabilities() -> Capabilities {
    Capabilities {
        browser: true,
        device: false,
        refresh: true,
        revoke: true,
        sign_in: true,
        rotation: Rotation::MayRotate,
    }
}

/// The account behind [`identity`], as the provider vouches for it.
#[must_use]
pub fn account() -> ExternalAccount {
    ExternalAccount {
        external_id: external_id("account-1"),
        legacy_id: None,
        email: None,
        email_verified: false,
        name: Some("Ada".into()),
        claims: Map::new(),
    }
}

/// A `pending` session to link an account at [`PROVIDER`] to `user-1`, good for ten minutes after
/// [`NOW`].
#[must_use]
pub fn link_session() -> LinkSession {
    LinkSession {
        id: SESSION,
        purpose: Purpose::Link,
        user_id: Some(user("user-1")),
        provider_id: Some(PROVIDER),
        organization_id: None,
        return_url: "https://product.example/linked".into(),
        scopes: Vec::new(),
        login_hint: None,
        reattach: false,
        auto_complete: false,
        status: LinkSessionStatus::Pending,
        identity_id: None,
        error: None,
        created_by: ACTOR,
        created_at: NOW,
        expires_at: NOW + TimeDelta::minutes(10),
    }
}

/// [`link_session`], to be kept, under the token `token-1`.
#[must_use]
pub fn new_link_session() -> NewLinkSession {
    NewLinkSession { session: link_session(), token: SecretHash::of("token-1") }
}

/// A pending link of an account at [`PROVIDER`] to `user-1`, good for fifteen minutes after [`NOW`].
#[must_use]
pub fn device_link() -> DeviceLink {
    DeviceLink {
        id: DeviceLinkId(1),
        user_id: user("user-1"),
        provider_id: PROVIDER,
        organization_id: None,
        scopes: Vec::new(),
        status: DeviceLinkStatus::Pending,
        identity_id: None,
        error: None,
        created_by: ACTOR,
        created_at: NOW,
        expires_at: NOW + TimeDelta::minutes(15),
    }
}

/// [`device_link`], to be kept.
#[must_use]
pub fn new_device_link() -> NewDeviceLink {
    NewDeviceLink {
        user_id: user("user-1"),
        provider_id: PROVIDER,
        organization_id: None,
        scopes: Vec::new(),
        created_by: ACTOR,
        device_code: Secret::new("device-code-1"),
        expires_in: Duration::from_mins(15),
        interval: Duration::from_secs(5),
    }
}

/// A trip to [`PROVIDER`] by the browser `browser-1` with the state `state-1`.
#[must_use]
pub fn attempt() -> Attempt {
    Attempt {
        provider_id: PROVIDER,
        browser: SecretHash::of("browser-1"),
        state: SecretHash::of("state-1"),
        proof: attempt_proof(),
    }
}

/// The secrets of [`attempt`].
#[must_use]
pub fn attempt_proof() -> AttemptProof {
    AttemptProof {
        code_verifier: Secret::new("verifier-1"),
        nonce: Secret::new("nonce-1"),
        dpop_key: None,
    }
}

/// What [`link_session`] holds once the provider vouched for [`account`].
#[must_use]
pub fn pending_link() -> PendingLink {
    PendingLink {
        provider_id: PROVIDER,
        account: account(),
        credentials: credentials(),
        evidence: link_evidence(),
    }
}

/// The right to complete [`link_session`], by the code `code-1`.
#[must_use]
pub fn completion_claim() -> CompletionClaim {
    CompletionClaim { id: SESSION, code: SecretHash::of("code-1") }
}

/// New values for a provider instance, used for nothing in particular.
#[must_use]
pub fn provider_update(
    id: ProviderId,
    version: i64,
    config: &Map<String, Value>,
    secrets: &ProviderSecrets,
) -> ProviderUpdate {
    ProviderUpdate {
        id,
        version,
        config: config.clone(),
        secrets: secrets.clone(),
        options: ProviderOptions::default(),
    }
}

/// An event that no port writes by itself.
#[must_use]
pub fn new_event() -> NewEvent {
    NewEvent {
        identity_id: Some(IDENTITY),
        provider_id: Some(PROVIDER),
        user_id: Some(user("user-1")),
        organization_id: Some(organization("organization-1")),
        before: Some(object(json!({ "status": "valid" }))),
        after: Some(object(json!({ "status": null }))),
        detail: object(json!({ "note": "by request" })),
        ..NewEvent::new(EventKind::GrantRevoked, &ACTOR)
    }
}

/// What becomes of [`new_event`].
#[must_use]
pub fn event() -> Event {
    new_event().kept(EventId(1), NOW)
}

/// A key that may do everything.
#[must_use]
pub fn api_key() -> ApiKey {
    ApiKey {
        id: API_KEY,
        name: "product".into(),
        scopes: vec![KeyScope::Admin],
        limits: KeyLimits::default(),
        created_at: NOW,
        revoked_at: None,
    }
}

/// The single sign-on of `organization-1` with [`PROVIDER`], which lets in nobody without a linked
/// account.
#[must_use]
pub fn new_auth_provider() -> NewAuthProvider {
    NewAuthProvider {
        organization_id: organization("organization-1"),
        provider_id: PROVIDER,
        config: object(json!({ "domain": "organization-1.example" })),
        allow_unlinked: false,
        scim_enabled: false,
        default_role: Some(50),
        default_global_access: true,
        sync_time: None,
    }
}

/// What becomes of [`new_auth_provider`].
#[must_use]
pub fn auth_provider() -> AuthProvider {
    let new = new_auth_provider();
    AuthProvider {
        id: AUTH_PROVIDER,
        organization_id: new.organization_id,
        provider_id: new.provider_id,
        config: new.config,
        allow_unlinked: new.allow_unlinked,
        scim_enabled: new.scim_enabled,
        default_role: new.default_role,
        default_global_access: new.default_global_access,
        sync_time: new.sync_time,
        last_sync: None,
        date_added: NOW,
        version: 1,
    }
}

/// A link of `account-1` to `user-1` for [`auth_provider`], with [`credentials`].
#[must_use]
pub fn sso_sign_in() -> SsoSignIn {
    SsoSignIn {
        auth_provider_id: AUTH_PROVIDER,
        ident: external_id("account-1"),
        legacy_ident: None,
        user: Some(user("user-1")),
        data: object(json!({ "name": "Ada" })),
        credentials: Some(credentials()),
        reattach: false,
        provider_session: None,
        session: None,
        actor: ACTOR,
    }
}

/// What becomes of [`sso_sign_in`].
#[must_use]
pub fn auth_identity() -> AuthIdentity {
    AuthIdentity {
        id: AuthIdentityId(1),
        auth_provider_id: AUTH_PROVIDER,
        user_id: user("user-1"),
        ident: external_id("account-1"),
        data: object(json!({ "name": "Ada" })),
        last_verified: NOW,
        last_synced: NOW,
        date_added: NOW,
        version: 1,
    }
}

/// What the browser is sent with for [`attempt`].
///
/// # Panics
///
/// Never: the address is one.
#[must_use]
pub fn authorization_request() -> AuthorizationRequest {
    let AttemptProof { code_verifier, nonce, dpop_key } = attempt_proof();
    AuthorizationRequest {
        redirect_uri: redirect_uri(),
        state: Secret::new("state-1"),
        nonce,
        code_verifier,
        scopes: Vec::new(),
        login_hint: None,
        dpop_key,
    }
}

/// The code that came back from [`authorization_request`], to be traded.
#[must_use]
pub fn code_exchange() -> CodeExchange {
    let AttemptProof { code_verifier, nonce, dpop_key } = attempt_proof();
    CodeExchange {
        code: Secret::new("authorization-code-1"),
        redirect_uri: redirect_uri(),
        code_verifier,
        nonce,
        state: Secret::new("state-1"),
        scopes: vec!["openid".into(), "email".into()],
        parameters: BTreeMap::new(),
        dpop_key,
    }
}

/// What [`code_exchange`] brings.
#[must_use]
pub fn grant() -> Grant {
    Grant {
        credentials: credentials(),
        claims: object(json!({ "sub": "account-1" })),
        facts: Map::new(),
    }
}

/// A refresh of [`credentials`].
#[must_use]
pub fn refresh_request() -> RefreshRequest {
    RefreshRequest {
        refresh_token: Secret::new("refresh-1"),
        external_id: external_id("account-1"),
        redirect_uri: None,
        dpop_key: None,
    }
}

/// An endpoint that is told everything.
#[must_use]
pub fn webhook_endpoint() -> WebhookEndpoint {
    let NewWebhookEndpoint { url, kinds, enabled, .. } = new_webhook_endpoint();
    WebhookEndpoint { id: WebhookEndpointId(1), url, kinds, enabled, created_at: NOW }
}

/// What [`webhook_endpoint`] is made of. Its secret is 24 bytes in Base64.
///
/// # Panics
///
/// Never: the address is one.
#[must_use]
pub fn new_webhook_endpoint() -> NewWebhookEndpoint {
    NewWebhookEndpoint {
        url: "https://receiver.example/hook".parse().unwrap(),
        kinds: Vec::new(),
        enabled: true,
        secret: Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    }
}

/// The delivery of [`event`] to [`webhook_endpoint`], tried for the first time.
#[must_use]
pub fn claimed_delivery() -> ClaimedDelivery {
    let event = event();
    let delivery = WebhookDelivery {
        id: WebhookDeliveryId(1),
        endpoint_id: WebhookEndpointId(1),
        event_id: event.id,
        kind: event.about,
        identity_id: event.identity_id,
        status: DeliveryStatus::Pending,
        attempts: 1,
        next_attempt_at: NOW,
        last_status: None,
        last_error: None,
        created_at: NOW,
        settled_at: None,
    };
    ClaimedDelivery { delivery, event }
}

fn redirect_uri() -> Url {
    "https://symbolon.example/callback/1".parse().unwrap()
}
