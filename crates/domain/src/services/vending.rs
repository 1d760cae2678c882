use std::sync::Arc;

use super::{IssuedToken, Ledger, Rejected, TokenNeed, Tokens};
use crate::{
    Error,
    api_key::{ApiKey, KeyLimits},
    credentials::Credentials,
    dpop::DpopRequest,
    event::{Actor, Who},
    freeze::{Freeze, FreezeSubject},
    ids::{IdentityId, OrganizationId, UserId},
    page::PageRequest,
    ports::{
        DpopProofs, OrganizationIdentityFilter, OrganizationIdentityRepository, RepositoryError,
        Vendable, VendingRepository,
    },
    secret::{Secret, SecretHash},
};

/// Who may be handed which token: everything that hands one out to an API key goes through here.
#[derive(Clone)]
pub struct Vending {
    /// What is frozen, and the credentials with it.
    pub vending: Arc<dyn VendingRepository>,
    /// Which identities organizations use.
    pub organization_identities: Arc<dyn OrganizationIdentityRepository>,
    /// Tokens that work.
    pub tokens: Tokens,
    /// Who was handed which.
    pub ledger: Ledger,
    /// What proves that we hold the keys that tokens are bound to.
    pub proofs: Arc<dyn DpopProofs>,
}

/// A proof for one request with a token that is bound to a key of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpopProof {
    /// To be sent as the header `DPoP`.
    pub proof: Secret,
    /// The SHA-256 of the access token that it is for.
    pub access_token: SecretHash,
}

/// Who is handed a token.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// With this key.
    pub key: &'a ApiKey,
    /// On behalf of this user, in the caller's words.
    pub acting_user: Option<&'a UserId>,
    /// In this request, as the log names it.
    pub request_id: &'a str,
}

impl Vending {
    /// An access token that works, for this key.
    ///
    /// A freeze that was there when the last read began refuses it: the read of the credentials,
    /// and where they had to be refreshed first another one after that.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] also for an identity that is not there for the key;
    /// [`Error::Frozen`]; [`Error::BeyondLimits`] for a token that opens more than the key may
    /// have; otherwise as [`Tokens::issue`].
    pub async fn issue(
        &self,
        id: IdentityId,
        to: Recipient<'_>,
        need: &TokenNeed,
    ) -> Result<IssuedToken, Error> {
        let Recipient { key, acting_user, request_id } = to;
        let excess = key.limits.excess(&need.scopes);
        if !excess.is_empty() {
            return Err(beyond("the API key may not be handed tokens for", &excess));
        }
        let read = self.read(id, key).await?;
        let (token, generation) = self.tokens.issue_stored(&read.credentials, need).await?;
        if generation != read.credentials.generation {
            // A refresh takes its time, and much may have changed meanwhile.
            self.read(id, key).await?;
        }
        check_scopes(&key.limits, &token.scopes)?;
        let of = (read.credentials.provider_id, &read.user_id);
        self.ledger.note(&token, of, (Who::ApiKey(key.id), acting_user), request_id).await?;
        Ok(token)
    }

    /// A proof for one request with the access token that is there now, for a key that could be
    /// handed that token: it is bound to a key of ours, which stays here. `named` is the SHA-256 of
    /// the token that the caller has; without it, the answer says for which token the proof is.
    ///
    /// Nothing is refreshed. Whoever gets a proof has the token, however it came there, so it is
    /// noted in the ledger as a hand-out.
    ///
    /// # Errors
    ///
    /// [`Error::AccessTokenReplaced`] when the named token is not the one that is there;
    /// [`Error::InvalidRequest`] naming `id` where that is bound to no key; otherwise as
    /// [`issue`](Self::issue), but for what a refresh could bring.
    pub async fn prove(
        &self,
        id: IdentityId,
        to: Recipient<'_>,
        request: &DpopRequest,
        named: Option<&SecretHash>,
    ) -> Result<DpopProof, Error> {
        let Recipient { key, acting_user, request_id } = to;
        let read = self.read(id, key).await?;
        let (token, dpop_key) = Tokens::bound_token(&read.credentials)?;
        check_scopes(&key.limits, &token.scopes)?;
        let access_token = token.access_token.hash();
        if named.is_some_and(|it| !it.matches(token.access_token.expose())) {
            return Err(Error::AccessTokenReplaced);
        }
        let proof = self.proofs.prove(&dpop_key, request, &token.access_token);
        let proof =
            proof.map_err(|error| Error::ProviderMisconfigured { detail: error.to_string() })?;
        let of = (read.credentials.provider_id, &read.user_id);
        self.ledger.note(&token, of, (Who::ApiKey(key.id), acting_user), request_id).await?;
        Ok(DpopProof { proof, access_token })
    }

    /// Refreshes now, for a key that could be handed the token.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue) and [`Tokens::refresh`].
    pub async fn refresh(&self, id: IdentityId, to: &ApiKey) -> Result<(), Error> {
        self.read(id, to).await?;
        self.tokens.refresh(id).await
    }

    /// A provider refused an access token that the key was handed, named by its SHA-256.
    ///
    /// If it is what would be handed out, its refresh token is used once: what comes replaces it; a
    /// refused one, or none at all, makes the identity invalid. If it is not, nothing happens: a
    /// newer one is there already.
    ///
    /// # Errors
    ///
    /// [`Error::IdentityNotValid`] when the user must link again, also from now on;
    /// [`Error::TooSoon`] when the token was obtained moments ago; otherwise as
    /// [`issue`](Self::issue).
    pub async fn report_rejected(
        &self,
        id: IdentityId,
        by: &ApiKey,
        token: &SecretHash,
    ) -> Result<Rejected, Error> {
        let read = self.read(id, by).await?;
        let outcome = self.tokens.replace_rejected(&read.credentials, token).await;
        let told = match &outcome {
            Ok(outcome) => outcome.as_str(),
            Err(Error::TooSoon { .. }) => "too_soon",
            Err(Error::IdentityNotValid { .. }) => "invalid",
            Err(_) => "failed",
        };
        metrics::counter!("symbolon_tokens_reported_rejected_total", "outcome" => told)
            .increment(1);
        tracing::info!(identity = %id, key = %by.id, outcome = told, "an access token was reported as rejected");
        outcome
    }

    /// The credentials as they are, for a Sentry deployment that is told them; `None` where there
    /// are none, something is frozen, or the access token has lost its key.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`].
    pub async fn open_for_sentry(&self, id: IdentityId) -> Result<Option<Credentials>, Error> {
        let read = self.vending.find_vendable(id, None).await?;
        let Some(read) = read.filter(|it| it.frozen.is_none()) else { return Ok(None) };
        let Some(credentials) = read.credentials.credentials else { return Ok(None) };
        if credentials.has_lost_its_key() {
            return Ok(None);
        }
        if let Some(access_token) = credentials.access_token.clone() {
            let token = IssuedToken {
                identity_id: id,
                access_token,
                token_type: String::new(),
                expires_at: None,
                scopes: Vec::new(),
            };
            let of = (read.credentials.provider_id, &read.user_id);
            self.ledger.note(&token, of, (Who::Sentry, None), "").await?;
        }
        Ok(Some(credentials))
    }

    /// Stops handing out, at once and on every replica; true with it when it was not frozen before.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such key or provider instance.
    pub async fn freeze(
        &self,
        subject: &FreezeSubject,
        actor: &Actor,
    ) -> Result<(Freeze, bool), Error> {
        freeze(&*self.vending, subject, actor).await
    }

    /// Hands out again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when nothing was frozen.
    pub async fn unfreeze(&self, subject: &FreezeSubject, actor: &Actor) -> Result<Freeze, Error> {
        unfreeze(&*self.vending, subject, actor).await
    }

    /// The identity as it is now, if it is there for the key and nothing is frozen.
    async fn read(&self, id: IdentityId, to: &ApiKey) -> Result<Vendable, Error> {
        let absent = Error::NotFound("identity");
        let Some(read) = self.vending.find_vendable(id, Some(to.id)).await? else {
            // A frozen key is told so, whatever it asks for.
            return Err(self.vending.find_freeze_of_key(to.id).await?.map_or(absent, frozen));
        };
        let KeyLimits { organizations, .. } = &to.limits;
        let provider = read.credentials.provider_id;
        let seen = to.limits.allow_provider(provider, &read.provider_type)
            && to.limits.allow_user(&read.user_id)
            && match organizations {
                None => true,
                Some(organizations) => self.is_used_by_any(id, organizations).await?,
            };
        match read.frozen {
            // What an unseen identity is frozen for is not the caller's to know.
            Some(freeze) if seen || matches!(freeze.subject, FreezeSubject::Key(_)) => {
                Err(frozen(freeze))
            }
            _ if !seen => Err(absent),
            _ => Ok(read),
        }
    }

    async fn is_used_by_any(
        &self,
        id: IdentityId,
        organizations: &[OrganizationId],
    ) -> Result<bool, RepositoryError> {
        for organization in organizations {
            let filter = OrganizationIdentityFilter {
                organization_id: Some(organization.clone()),
                identity_id: Some(id),
                provider_types: None,
            };
            let page = PageRequest { limit: 1, after: None };
            if !self.organization_identities.list(&filter, page).await?.items.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Stops handing out, where there is nothing but the store: at the command line.
///
/// # Errors
///
/// As [`Vending::freeze`].
pub async fn freeze(
    vending: &dyn VendingRepository,
    subject: &FreezeSubject,
    actor: &Actor,
) -> Result<(Freeze, bool), Error> {
    match vending.freeze(subject, actor).await {
        Err(RepositoryError::NotFound) => Err(Error::NotFound(match subject {
            FreezeSubject::Key(_) => "API key",
            _ => "identity provider",
        })),
        begun => Ok(begun?),
    }
}

/// Hands out again, where there is nothing but the store.
///
/// # Errors
///
/// As [`Vending::unfreeze`].
pub async fn unfreeze(
    vending: &dyn VendingRepository,
    subject: &FreezeSubject,
    actor: &Actor,
) -> Result<Freeze, Error> {
    vending.unfreeze(subject, actor).await?.ok_or(Error::NotFound("freeze"))
}

fn frozen(freeze: Freeze) -> Error {
    Error::Frozen(Box::new(freeze))
}

fn beyond(what: &str, scopes: &[&str]) -> Error {
    Error::BeyondLimits(format!("{what} {}", scopes.join(", ")))
}

/// A provider's token cannot be made to open less: what it opens must be within the key's limits,
/// and be known.
fn check_scopes(limits: &KeyLimits, granted: &[String]) -> Result<(), Error> {
    if limits.token_scopes.is_none() {
        return Ok(());
    }
    if granted.is_empty() {
        let detail = "the API key is limited to some scopes, and what this token opens is not on \
                      record";
        return Err(Error::BeyondLimits(detail.to_owned()));
    }
    match limits.excess(granted) {
        excess if excess.is_empty() => Ok(()),
        excess => Err(beyond("the token also opens what the API key may not have:", &excess)),
    }
}
