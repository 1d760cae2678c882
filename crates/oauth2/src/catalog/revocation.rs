//! How an entry ends a grant.

use std::borrow::Cow;

use symbolon_domain::{
    credentials::Credentials,
    ports::{ConnectorError, Revocation},
    secret::Secret,
};
use url::Url;

use super::{
    connector::{CatalogConnector, filled},
    entry::{Authentication, RefreshWith, Revoke, RevokedToken},
};
use crate::{
    connector::{Destination, to_domain},
    http::HttpResponse,
    json,
    metadata::misconfigured,
};

const REVOCATION_ENDPOINT: &str = "the revocation endpoint";

impl CatalogConnector {
    /// Ends a grant, as the entry says or, where it says nothing, discovery.
    pub(super) async fn end_grant(
        &self,
        credentials: &Credentials,
    ) -> Result<Revocation, ConnectorError> {
        let (Some(revoke), Some(encoding), Some(url)) =
            (&self.entry.revoke, &self.revoke, &self.endpoints.revocation)
        else {
            let has_tokens =
                credentials.refresh_token.is_some() || credentials.access_token.is_some();
            if has_tokens && self.entry.revokes_by_discovery() {
                return self.base.end_grant(&*self.metadata().await?, credentials).await;
            }
            return Ok(Revocation::Unsupported);
        };
        let renews_itself = credentials.refresh_token == credentials.access_token;
        let refresh = credentials.refresh_token.as_ref().filter(|_| !renews_itself);
        let living = match self.living_access_token(revoke, credentials).await {
            // Neither token is good for anything any more.
            Err(ConnectorError::GrantRejected { .. }) => return Ok(Revocation::Revoked),
            living => living?,
        };
        let access = living.as_ref().or(credentials.access_token.as_ref());
        let (refresh, access) = match revoke.token {
            RevokedToken::Both => (refresh, access),
            RevokedToken::Access => (None, access),
            // Where there never was a refresh token, the access token is the grant.
            RevokedToken::Refresh => (refresh, access.filter(|_| refresh.is_none())),
        };
        let mut outcome = None;
        if let Some(token) = refresh {
            let url = self.revocation_of(revoke, url, token)?;
            let to = Destination { url: &url, encoding, dpop: None };
            outcome = Some(self.revoke_token(revoke, &to, token, "refresh_token").await?);
        }
        if let Some(token) = access {
            let url = self.revocation_of(revoke, url, token)?;
            let to = Destination { url: &url, encoding, dpop: None };
            let access = self.revoke_token(revoke, &to, token, "access_token").await;
            match outcome {
                // The grant is ended; what is left of the access token runs out by itself.
                Some(Revocation::Revoked) => {}
                _ => outcome = Some(access?),
            }
        }
        Ok(outcome.unwrap_or(Revocation::Unsupported))
    }

    /// Another access token, where only one that lives ends the grant and the one that is there has
    /// ended. To such a one many providers say that there is no such grant, and the refresh token
    /// goes on living. It is this call's to spend: nobody refreshes what is to be revoked. Should the
    /// revocation then fail, the next try sends it again, which ends the grant where that is how
    /// spent tokens are met, and is refused where it is not.
    async fn living_access_token(
        &self,
        revoke: &Revoke,
        credentials: &Credentials,
    ) -> Result<Option<Secret>, ConnectorError> {
        let now = self.base.engine.clock.now();
        let has_ended = credentials.expires_at.is_some_and(|it| it <= now);
        let can_be_had = self
            .entry
            .refresh
            .as_ref()
            .is_some_and(|it| it.with != RefreshWith::AccessToken && !it.send_redirect_uri);
        let Some(refresh_token) = &credentials.refresh_token else { return Ok(None) };
        if revoke.token != RevokedToken::Access || !has_ended || !can_be_had {
            return Ok(None);
        }
        let metadata = self.metadata().await?;
        let key = self.base.dpop_key(credentials.key_of_refresh_token())?;
        let tokens = self.trade_in(&metadata, refresh_token, None, key.as_ref()).await?;
        Ok(Some(tokens.access_token))
    }

    /// Where a token is revoked: at an address of its own, where it stands in it.
    fn revocation_of<'a>(
        &self,
        revoke: &Revoke,
        url: &'a Url,
        token: &Secret,
    ) -> Result<Cow<'a, Url>, ConnectorError> {
        if !revoke.has_token_in_address() {
            return Ok(Cow::Borrowed(url));
        }
        let url = revoke.url.fill_url(&self.parameters.with_token(token.expose()));
        let url = url.and_then(|it| Url::parse(&it).ok());
        // Its text would quote the token.
        let url = url.ok_or_else(|| misconfigured("the token cannot stand in an address"))?;
        Ok(Cow::Owned(url))
    }

    async fn revoke_token(
        &self,
        revoke: &Revoke,
        to: &Destination<'_>,
        token: &Secret,
        hint: &str,
    ) -> Result<Revocation, ConnectorError> {
        let filled = filled(&revoke.parameters, &self.parameters.alone());
        let mut fields: Vec<(&str, &str)> =
            filled.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let authentication = revoke.authentication.unwrap_or(self.entry.token.authentication);
        let by_itself = authentication == Authentication::Bearer;
        let parameter = match &revoke.token_parameter {
            Some(named) => named,
            None if by_itself || revoke.has_token_in_address() => "",
            None => "token",
        };
        if !parameter.is_empty() {
            fields.push((parameter, token.expose()));
        }
        if revoke.hint {
            fields.push(("token_type_hint", hint));
        }
        let read = |answer: &HttpResponse| self.read_revocation(revoke, answer, token);
        match authentication {
            Authentication::Bearer => {
                let request = to.encoding.request(to.url.clone(), &fields).bearer(token);
                read(&self.base.engine.http.send(request).await.map_err(to_domain)?)
            }
            Authentication::None => {
                let request = to.encoding.request(to.url.clone(), &fields);
                read(&self.base.engine.http.send(request).await.map_err(to_domain)?)
            }
            _ => {
                let metadata = self.metadata().await?;
                let base = match authentication {
                    Authentication::Basic | Authentication::Post => {
                        self.base.authenticated_by(authentication)
                    }
                    Authentication::Secret => {
                        revoke.scheme.as_deref().and_then(|it| self.base.authenticated_after(it))
                    }
                    _ => None,
                };
                let base = base.as_ref().unwrap_or(&self.base);
                base.send_authenticated(&metadata, to, &fields, read).await
            }
        }
    }

    fn read_revocation(
        &self,
        revoke: &Revoke,
        answer: &HttpResponse,
        token: &Secret,
    ) -> Result<Revocation, ConnectorError> {
        if revoke.gone.contains(&answer.status) {
            return Ok(Revocation::Revoked);
        }
        if (200..=299).contains(&answer.status) {
            let Some(ok) = &revoke.ok else { return Ok(Revocation::Revoked) };
            let body = answer.body.as_deref().ok().and_then(|it| json::value(it).ok());
            if body.is_some_and(|it| ok.holds(&it)) {
                return Ok(Revocation::Revoked);
            }
        }
        match self.base.read_answer(REVOCATION_ENDPOINT, answer, &self.layout, &[token]) {
            // It does not know the token any more.
            Err(ConnectorError::GrantRejected { .. }) => Ok(Revocation::Revoked),
            Err(ConnectorError::ClientRejected { code }) if code == "invalid_token" => {
                Ok(Revocation::Revoked)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(Revocation::Unsupported),
        }
    }
}
