use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use url::Url;

use super::{Providers, ReturnUrls, Tasks, already_linked};
use crate::{
    Error,
    auth_provider::AuthProvider,
    event::Actor,
    identity_provider::IdentityProvider,
    ids::{IdentityId, LinkSessionId, OrganizationId, ProviderId, UserId},
    link_evidence::{LinkCheck, LinkEvidence},
    link_session::{
        Attempt, AttemptProof, CompletionClaim, LinkFailure, LinkSession, LinkSessionStatus,
        NewLinkSession, PendingLink, Purpose,
    },
    page::PageRequest,
    ports::{
        AuthIdentityRepository, AuthProviderRepository, AuthorizationRequest, Clock, CodeExchange,
        Connector, ConnectorError, IdentityRepository, Link, LinkOutcome, LinkOwner,
        LinkSessionRepository, ProviderFilter, RepositoryError, SsoOutcome, SsoSignIn,
    },
    secret::{Secret, SecretHash},
};

/// Leads a user's browser to a provider and back, and links what comes of it.
///
/// Two phases: the callback finds out which account it is and binds nothing; the product
/// completes from the signed-in user's own session, and only then is anything linked. So a link
/// that one person started and another finished is refused: whoever opened the address, the
/// user who is signed in at the product must be the one it was started for.
#[derive(Clone)]
pub struct Linking {
    /// Where sessions are kept.
    pub sessions: Arc<dyn LinkSessionRepository>,
    /// Where identities are kept.
    pub identities: Arc<dyn IdentityRepository>,
    /// Where it is kept how organizations sign in.
    pub auth_providers: Arc<dyn AuthProviderRepository>,
    /// Where the accounts with which their users do are kept.
    pub auth_identities: Arc<dyn AuthIdentityRepository>,
    /// How providers are reached.
    pub providers: Arc<Providers>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// Keeps a code's exchange going when the browser leaves.
    pub tasks: Tasks,
    /// What the operator decided.
    pub settings: Arc<LinkSettings>,
}

/// What the operator decided about link sessions.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// Where browsers reach this service, without a path's trailing slash mattering.
    pub public_url: Url,
    /// Where they may be sent at the end.
    pub return_urls: ReturnUrls,
    /// How long a session lives.
    pub session_ttl: Duration,
}

impl LinkSettings {
    /// The redirect URI to be registered at a provider. Every instance has its own, so that one
    /// provider cannot answer in another's place
    /// ([RFC 9700 §4.4.2](https://www.rfc-editor.org/rfc/rfc9700#section-4.4.2)).
    #[must_use]
    pub fn redirect_uri(&self, provider: ProviderId) -> Url {
        redirect_uri(&self.public_url, provider)
    }

    fn connect_url(&self, token: &Secret) -> Url {
        self.page(&["connect", token.expose()])
    }

    fn page(&self, segments: &[&str]) -> Url {
        page(&self.public_url, segments)
    }
}

/// The redirect URI of a provider instance at a service that browsers reach here.
pub(crate) fn redirect_uri(public_url: &Url, provider: ProviderId) -> Url {
    page(public_url, &["callback", &provider.to_string()])
}

/// Where the provider of an instance tells a service that browsers reach here of logouts.
pub(crate) fn backchannel_logout_uri(public_url: &Url, provider: ProviderId) -> Url {
    page(public_url, &["backchannel-logout", &provider.to_string()])
}

fn page(public_url: &Url, segments: &[&str]) -> Url {
    let mut url = public_url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// A session to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct StartLink {
    /// What for.
    pub purpose: Purpose,
    /// Whom to link; may be told at completion.
    pub user_id: Option<UserId>,
    /// Where; the user chooses when absent.
    pub provider_id: Option<ProviderId>,
    /// On whose behalf.
    pub organization_id: Option<OrganizationId>,
    /// Where the browser goes at the end.
    pub return_url: String,
    /// Scopes instead of the configured ones; empty for those.
    pub scopes: Vec<String>,
    /// The account to suggest.
    pub login_hint: Option<String>,
    /// Whether another link may be rebound.
    pub reattach: bool,
    /// Whether the callback completes by itself.
    pub auto_complete: bool,
    /// Who asks.
    pub actor: Actor,
}

/// Where a browser goes from the session's address.
#[derive(Clone, Debug, PartialEq)]
pub enum Opened {
    /// To the provider, and from now on only this browser may go on.
    Redirect {
        /// The authorization request.
        to: Url,
        /// To be kept in the browser's cookie.
        browser: Secret,
    },
    /// Nowhere yet: the user chooses one of these.
    Choose(Vec<IdentityProvider>),
}

/// What a provider sent back through the browser (RFC 6749 §4.1.2, RFC 9207).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationResponse {
    /// Names the trip.
    pub state: Option<Secret>,
    /// To be traded for tokens.
    pub code: Option<Secret>,
    /// Why there is no code.
    pub error: Option<String>,
    /// Who says so.
    pub issuer: Option<String>,
    /// What else came, by name.
    pub parameters: BTreeMap<String, String>,
}

/// Why a browser is shown a page of ours instead of being sent on.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// No such session: never made, used, or replaced by a later try.
    #[error("this link is not known or was used already")]
    Unknown,
    /// Its time ran out.
    #[error("this link has expired")]
    Expired,
    /// Another browser began it.
    #[error("this link was opened in another browser")]
    OtherBrowser,
    /// The response makes no sense, or came to another provider's address.
    #[error("the provider's response is malformed")]
    Malformed,
    /// The provider cannot be used now.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<RepositoryError> for BrowserError {
    fn from(error: RepositoryError) -> Self {
        Self::Failed(error.into())
    }
}

/// How a session was completed.
#[derive(Clone, Debug, PartialEq)]
pub struct Completed {
    /// `linked`, `signed_in` or `unlinked`.
    pub status: LinkSessionStatus,
    /// The identity; none when `unlinked`, and for an organization's single sign-on.
    pub identity_id: Option<IdentityId>,
    /// Whose it is; none when `unlinked`.
    pub user_id: Option<UserId>,
    /// Who the provider says it is.
    pub profile: Map<String, Value>,
}

impl Linking {
    /// Starts a session. The address to send the user to is in this answer and nowhere else.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] naming `return_url`, `provider_id`, `user_id` (which
    /// completing by itself needs to link), or `organization_id` (which must have a single sign-on
    /// to sign in to).
    pub async fn start(&self, mut start: StartLink) -> Result<(LinkSession, Url), Error> {
        self.settings.return_urls.check(&start.return_url)?;
        if start.auto_complete && start.purpose == Purpose::Link && start.user_id.is_none() {
            return Err(Error::invalid("user_id", "must be there when `auto_complete` is"));
        }
        if let (Purpose::SignIn, Some(organization)) = (start.purpose, &start.organization_id) {
            let of = self.auth_providers.find_by_organization(organization).await?;
            let of = of.ok_or_else(|| {
                Error::invalid("organization_id", "the organization has no auth provider")
            })?;
            if start.provider_id.is_some_and(|it| it != of.provider_id) {
                let problem = "is not the one that the organization signs in with; leave it out";
                return Err(Error::invalid("provider_id", problem));
            }
            start.provider_id = Some(of.provider_id);
        }
        if let Some(id) = start.provider_id {
            let provider = self.providers.providers.find(id).await?.ok_or_else(|| {
                Error::invalid("provider_id", "there is no such identity provider")
            })?;
            if start.purpose == Purpose::SignIn && !self.can_sign_in(&provider) {
                return Err(Error::invalid("provider_id", "this provider cannot sign users in"));
            }
        }
        let now = self.clock.now();
        let token = Secret::random();
        let session = LinkSession {
            id: LinkSessionId(0),
            purpose: start.purpose,
            user_id: start.user_id,
            provider_id: start.provider_id,
            organization_id: start.organization_id,
            return_url: start.return_url,
            scopes: start.scopes,
            login_hint: start.login_hint,
            reattach: start.reattach,
            auto_complete: start.auto_complete,
            status: LinkSessionStatus::Pending,
            identity_id: None,
            error: None,
            created_by: start.actor,
            created_at: now,
            expires_at: now + self.settings.session_ttl,
        };
        let session =
            self.sessions.insert(&NewLinkSession { session, token: token.hash() }).await?;
        Ok((session, self.settings.connect_url(&token)))
    }

    /// Sends a browser on from the session's address. `browser` is what its cookie holds,
    /// `choice` what the user chose on the hosted page.
    ///
    /// The same browser may come back and start again until the provider has answered; another
    /// one is refused from the first start on.
    ///
    /// # Errors
    ///
    /// See [`BrowserError`]; the session is as it was.
    pub async fn open(
        &self,
        token: &str,
        browser: Option<Secret>,
        choice: Option<ProviderId>,
    ) -> Result<Opened, BrowserError> {
        let session = self
            .sessions
            .find_by_token(&SecretHash::of(token))
            .await?
            .ok_or(BrowserError::Unknown)?;
        match session.status {
            LinkSessionStatus::Pending => {}
            LinkSessionStatus::Expired => return Err(BrowserError::Expired),
            _ => return Err(BrowserError::Unknown),
        }
        let Some(provider_id) = session.provider_id.or(choice) else {
            return Ok(Opened::Choose(self.choices(session.purpose).await?));
        };
        let (provider, connector) = self.providers.connect(provider_id).await?;
        if session.purpose == Purpose::SignIn && !connector.capabilities().sign_in {
            return Err(BrowserError::Malformed);
        }

        let browser = browser.unwrap_or_else(Secret::random);
        let request = AuthorizationRequest {
            redirect_uri: self.settings.redirect_uri(provider.id),
            state: Secret::random(),
            nonce: Secret::random(),
            code_verifier: Secret::random(),
            scopes: session.scopes,
            login_hint: session.login_hint,
            dpop_key: connector.new_dpop_key(),
        };
        let to = connector.authorize(&request).await.map_err(Error::from)?;
        let attempt = Attempt {
            provider_id,
            browser: browser.hash(),
            state: request.state.hash(),
            proof: AttemptProof {
                code_verifier: request.code_verifier,
                nonce: request.nonce,
                dpop_key: request.dpop_key,
            },
        };
        if self.sessions.begin(session.id, &attempt).await? {
            Ok(Opened::Redirect { to, browser })
        } else {
            Err(BrowserError::OtherBrowser)
        }
    }

    /// Takes a provider's response and answers where the browser goes: to the product, with
    /// `session_id`, `status`, and `completion_code` or `error`. Binds nothing, unless the
    /// product asked for completion by itself.
    ///
    /// The checks, in this order: the response is well-formed, its state is known and belongs to
    /// this provider and this browser, the issuer is right; only then is the state used up, an
    /// error looked at, or the code traded. A response that another browser brings uses nothing
    /// up.
    ///
    /// # Errors
    ///
    /// [`BrowserError`] when there is no session to tell of it; any later failure goes to the
    /// product with the browser.
    pub async fn receive(
        &self,
        provider_id: ProviderId,
        response: AuthorizationResponse,
        browser: Option<Secret>,
    ) -> Result<Url, BrowserError> {
        let this = self.clone();
        // Once the state is used up nobody can come again: the browser's leaving must not stop it.
        let work =
            self.tasks.spawn(async move { this.trade(provider_id, response, browser).await });
        work.await.unwrap_or(Err(BrowserError::Unknown))
    }

    async fn trade(
        &self,
        provider_id: ProviderId,
        response: AuthorizationResponse,
        browser: Option<Secret>,
    ) -> Result<Url, BrowserError> {
        let sent = response.state.ok_or(BrowserError::Malformed)?;
        let state = sent.hash();
        if response.code.is_some() == response.error.is_some() {
            return Err(BrowserError::Malformed);
        }
        let (session, sent_to, began) =
            self.sessions.find_by_state(&state).await?.ok_or(BrowserError::Unknown)?;
        if sent_to != provider_id {
            return Err(BrowserError::Malformed);
        }
        if session.status == LinkSessionStatus::Expired {
            return Err(BrowserError::Expired);
        }
        let browser = browser
            .map(|it| it.hash())
            .filter(|it| *it == began)
            .ok_or(BrowserError::OtherBrowser)?;

        let (provider, connector) = self.providers.connect(provider_id).await?;
        let issuer =
            connector.check_issuer(response.issuer.as_deref(), provider.names_issuer).await;
        let proof =
            self.sessions.take_attempt(&state, &browser).await?.ok_or(BrowserError::Unknown)?;

        let outcome = async {
            issuer.map_err(|error| failure_of(&error))?;
            if response.issuer.is_some() && !provider.names_issuer {
                self.providers.providers.record_issuer_named(provider_id).await.map_err(|error| {
                    tracing::error!(%error, "could not remember that the provider names itself");
                    LinkFailure::ProviderUnavailable
                })?;
            }
            let code = match (response.code, response.error) {
                (Some(code), _) => code,
                (None, error) => return Err(failure_of_code(error.as_deref().unwrap_or_default())),
            };
            let named = response.issuer.is_some();
            let exchange = CodeExchange {
                code,
                redirect_uri: self.settings.redirect_uri(provider.id),
                code_verifier: proof.code_verifier,
                nonce: proof.nonce,
                state: sent,
                scopes: session.scopes.clone(),
                parameters: response.parameters,
                dpop_key: proof.dpop_key,
            };
            self.find_account(&session, &provider, connector.as_ref(), &exchange, named).await
        }
        .await;
        match outcome {
            Ok(pending) => self.hand_over(session, pending).await,
            Err(why) => {
                tracing::info!(session = %session.id, provider = %provider_id, why = why.as_str(), "link session failed");
                self.sessions.fail(session.id, why).await?;
                Ok(self.return_url(&session, LinkSessionStatus::Failed, None, Some(why)))
            }
        }
    }

    async fn find_account(
        &self,
        session: &LinkSession,
        provider: &IdentityProvider,
        connector: &dyn Connector,
        exchange: &CodeExchange,
        named: bool,
    ) -> Result<PendingLink, LinkFailure> {
        let failed = |error: ConnectorError| {
            tracing::warn!(session = %session.id, provider = %provider.id, %error, "the provider did not vouch for an account");
            failure_of(&error)
        };
        let grant = connector.exchange(exchange).await.map_err(failed)?;
        let account = connector.build_identity(&grant).await.map_err(failed)?;
        let evidence = LinkEvidence::of_browser(&grant.credentials, &grant.claims, named);
        let credentials = grant.credentials;
        Ok(PendingLink { provider_id: provider.id, account, credentials, evidence })
    }

    /// Keeps what was found until the product completes, or completes at once where it asked to.
    async fn hand_over(
        &self,
        session: LinkSession,
        pending: PendingLink,
    ) -> Result<Url, BrowserError> {
        let code = Secret::random();
        let claim = CompletionClaim { id: session.id, code: code.hash() };
        if !self.sessions.await_completion(&claim, &pending).await? {
            return Err(BrowserError::Expired);
        }
        if !session.auto_complete {
            let status = LinkSessionStatus::AwaitingCompletion;
            return Ok(self.return_url(&session, status, Some(&code), None));
        }
        let user_id = session.user_id.clone();
        let actor = session.created_by.clone();
        match self.complete(session.id, &code, user_id, actor).await {
            Ok(completed) => {
                // An unlinked sign-in can still be completed with a user.
                let code = (completed.status == LinkSessionStatus::Unlinked).then_some(&code);
                Ok(self.return_url(&session, completed.status, code, None))
            }
            Err(Error::IdentityAlreadyLinked(_)) => {
                let why = Some(LinkFailure::IdentityAlreadyLinked);
                Ok(self.return_url(&session, LinkSessionStatus::Failed, None, why))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Links, or answers who signs in: phase two, called by the product from the signed-in
    /// user's own session. `code` is what the browser brought back.
    ///
    /// A link needs the `user_id` that is signed in at the product, and it must be the session's
    /// where the session names one. A sign-in that finds nobody answers `unlinked`; a second call
    /// with a `user_id` then links the account to that user. A sign-in to an organization is about
    /// the organization's own links of accounts, and a link for one is used by it from then on.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] naming `completion_code` (wrong, used or expired) or `user_id`;
    /// [`Error::NotFound`]; [`Error::IdentityAlreadyLinked`], and then the session has failed.
    pub async fn complete(
        &self,
        id: LinkSessionId,
        code: &Secret,
        user_id: Option<UserId>,
        actor: Actor,
    ) -> Result<Completed, Error> {
        let claim = CompletionClaim { id, code: code.hash() };
        let Some((session, pending)) = self.sessions.find_pending(&claim).await? else {
            return Err(match self.sessions.find(id).await? {
                None => Error::NotFound("link session"),
                Some(it) if it.status == LinkSessionStatus::Expired => {
                    Error::invalid("completion_code", "the link session has expired; start another")
                }
                Some(_) => Error::invalid("completion_code", "is wrong or was used already"),
            });
        };
        if let (Some(expected), Some(given)) = (&session.user_id, &user_id)
            && expected != given
        {
            return Err(Error::invalid("user_id", "is not the user that the session is for"));
        }
        if session.purpose == Purpose::Link && user_id.is_none() {
            return Err(Error::invalid(
                "user_id",
                "must be the user who is signed in at the product",
            ));
        }

        if let (Purpose::SignIn, Some(organization)) = (session.purpose, &session.organization_id) {
            let of = self.auth_providers.find_by_organization(organization).await?;
            return self
                .complete_single_sign_on(&session, pending, claim, of, user_id, actor)
                .await;
        }
        let mut outcome = LinkOutcome::NobodyLinked;
        if session.purpose == Purpose::SignIn && session.status != LinkSessionStatus::Unlinked {
            outcome = self.link(&session, &pending, claim, LinkOwner::Whoever, &actor).await?;
        }
        if let (LinkOutcome::NobodyLinked, Some(user)) = (&outcome, &user_id) {
            let owner = LinkOwner::User(user.clone());
            outcome = self.link(&session, &pending, claim, owner, &actor).await?;
        }

        let profile = pending.account.profile();
        let (status, identity) = match outcome {
            LinkOutcome::Created(identity)
            | LinkOutcome::Updated(identity)
            | LinkOutcome::Rebound(identity) => (LinkSessionStatus::Linked, Some(identity)),
            LinkOutcome::SignedIn(identity) => (LinkSessionStatus::SignedIn, Some(identity)),
            LinkOutcome::NobodyLinked => (LinkSessionStatus::Unlinked, None),
            LinkOutcome::Taken(taken) => {
                self.sessions.fail(id, LinkFailure::IdentityAlreadyLinked).await?;
                return Err(already_linked(taken));
            }
            LinkOutcome::SessionUsed => {
                return Err(Error::invalid("completion_code", "is wrong or was used already"));
            }
        };
        let (identity_id, user_id) = identity.map(|it| (it.id, it.user_id)).unzip();
        Ok(Completed { status, identity_id, user_id, profile })
    }

    /// The same for a sign-in to an organization, whose single sign-on is `of`.
    async fn complete_single_sign_on(
        &self,
        session: &LinkSession,
        pending: PendingLink,
        claim: CompletionClaim,
        of: Option<AuthProvider>,
        user_id: Option<UserId>,
        actor: Actor,
    ) -> Result<Completed, Error> {
        // The account's name means nothing at the provider that the organization has by now.
        let changed = || {
            let problem = "the organization's single sign-on was changed; start another session";
            Error::invalid("completion_code", problem)
        };
        let of = of.filter(|it| it.provider_id == pending.provider_id).ok_or_else(changed)?;
        let sign_in = async |user: Option<UserId>| {
            let sign_in = SsoSignIn {
                auth_provider_id: of.id,
                ident: pending.account.external_id.clone(),
                legacy_ident: pending.account.legacy_id.clone(),
                user,
                data: pending.account.profile(),
                credentials: Some(pending.credentials.clone()),
                reattach: session.reattach,
                provider_session: pending.evidence.session_id().map(str::to_owned),
                session: Some(claim),
                actor: actor.clone(),
            };
            match self.auth_identities.sign_in(&sign_in).await {
                Err(RepositoryError::NotFound) => Err(changed()),
                other => Ok(other?),
            }
        };
        let mut outcome = SsoOutcome::NobodyLinked;
        if session.status != LinkSessionStatus::Unlinked {
            outcome = sign_in(None).await?;
        }
        if let (SsoOutcome::NobodyLinked, Some(user)) = (&outcome, &user_id) {
            outcome = sign_in(Some(user.clone())).await?;
        }
        let (status, user_id) = match outcome {
            SsoOutcome::SignedIn(it) => (LinkSessionStatus::SignedIn, Some(it.user_id)),
            SsoOutcome::Linked { identity, .. } => {
                (LinkSessionStatus::Linked, Some(identity.user_id))
            }
            SsoOutcome::NobodyLinked => (LinkSessionStatus::Unlinked, None),
            SsoOutcome::Taken(taken) => {
                self.sessions.fail(session.id, LinkFailure::IdentityAlreadyLinked).await?;
                return Err(already_linked(taken));
            }
            SsoOutcome::SessionUsed => {
                return Err(Error::invalid("completion_code", "is wrong or was used already"));
            }
        };
        Ok(Completed { status, identity_id: None, user_id, profile: pending.account.profile() })
    }

    async fn link(
        &self,
        session: &LinkSession,
        pending: &PendingLink,
        claim: CompletionClaim,
        owner: LinkOwner,
        actor: &Actor,
    ) -> Result<LinkOutcome, Error> {
        let mut evidence = pending.evidence.clone();
        if !session.auto_complete {
            evidence.checks.push(LinkCheck::Completion);
        }
        let link = Link {
            provider_id: pending.provider_id,
            owner,
            external_id: pending.account.external_id.clone(),
            legacy_id: pending.account.legacy_id.clone(),
            data: pending.account.profile(),
            credentials: Some(pending.credentials.clone()),
            scopes: pending.credentials.scopes.clone(),
            reattach: session.reattach,
            session: Some(claim),
            device_link: None,
            evidence,
            actor: actor.clone(),
        };
        match self.identities.link(&link).await {
            Err(RepositoryError::NotFound) => Err(Error::NotFound("identity provider")),
            other => Ok(other?),
        }
    }

    fn can_sign_in(&self, provider: &IdentityProvider) -> bool {
        self.providers
            .connectors
            .find_type(&provider.provider_type)
            .is_some_and(|it| it.capabilities.sign_in)
    }

    async fn choices(&self, purpose: Purpose) -> Result<Vec<IdentityProvider>, RepositoryError> {
        let page = PageRequest { limit: 200, after: None };
        let mut providers =
            self.providers.providers.list(&ProviderFilter::default(), page).await?.items;
        providers.retain(|it| purpose == Purpose::Link || self.can_sign_in(it));
        Ok(providers)
    }

    /// The session's `return_url` with what the product needs to go on. It was checked against
    /// the allow-list when the session was started.
    fn return_url(
        &self,
        session: &LinkSession,
        status: LinkSessionStatus,
        code: Option<&Secret>,
        error: Option<LinkFailure>,
    ) -> Url {
        let mut url =
            Url::parse(&session.return_url).unwrap_or_else(|_| self.settings.public_url.clone());
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("session_id", &session.id.to_string());
            query.append_pair("status", status.as_str());
            if let Some(code) = code {
                query.append_pair("completion_code", code.expose());
            }
            if let Some(error) = error {
                query.append_pair("error", error.as_str());
            }
        }
        url
    }
}

/// What the product is told of a provider's failure.
pub(super) fn failure_of(error: &ConnectorError) -> LinkFailure {
    match error {
        ConnectorError::ClientRejected { .. } | ConnectorError::Misconfigured { .. } => {
            LinkFailure::ProviderMisconfigured
        }
        ConnectorError::Unavailable { .. } => LinkFailure::ProviderUnavailable,
        // A code that is refused was replayed, stolen or too old: it proves nothing.
        ConnectorError::GrantRejected { .. } | ConnectorError::Untrusted { .. } => {
            LinkFailure::Untrusted
        }
    }
}

/// What the product is told of an error code in an authorization response (RFC 6749 §4.1.2.1,
/// OpenID Connect Core 1.0 §3.1.2.6).
fn failure_of_code(code: &str) -> LinkFailure {
    match code {
        "access_denied"
        | "login_required"
        | "consent_required"
        | "interaction_required"
        | "account_selection_required" => LinkFailure::AccessDenied,
        "server_error" | "temporarily_unavailable" => LinkFailure::ProviderUnavailable,
        _ => LinkFailure::ProviderMisconfigured,
    }
}
