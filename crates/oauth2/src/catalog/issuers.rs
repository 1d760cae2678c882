//! Whose tokens an entry with `[openid]` believes, and what their claims say of the account.

use serde_json::{Map, Value, json};
use symbolon_domain::{
    ids::ExternalId,
    ports::{CodeExchange, ConnectorError},
    secret::Secret,
};

use super::{connector::CatalogConnector, entry::OpenId, template::Template};
use crate::{
    connector::{LOGOUT_TOKEN, Unproven},
    id_token::Expected,
    jws::Jws,
    metadata::Metadata,
    profile,
    token_answer::TokenResponse,
    untrusted,
};

impl CatalogConnector {
    /// The names that `iss` of a token with these claims may have. Some hold a claim of the very
    /// token, the tenant; the signature covers both. Where discovery says which of them it is, it is
    /// no other, and the claim fits it.
    pub(super) fn issuers(
        &self,
        openid: &OpenId,
        metadata: &Metadata,
        claims: &Map<String, Value>,
    ) -> Vec<String> {
        let facts = json!({ "claims": claims });
        let claimed = openid.issuers.iter();
        let claimed = claimed.filter_map(|it| it.fill(&self.parameters.and(&facts)));
        let values = self.parameters.alone();
        let is_one_of = |it: &&String| openid.issuers.iter().any(|open| open.could_be(it, &values));
        let own = self.base.client.token_issuers.iter();
        let own = own.filter(|it| !(openid.issuer_from_discovery && is_one_of(it))).cloned();
        let all = own.chain(claimed).filter(|it| !self.refuses(openid, it));
        all.filter(|it| !openid.issuer_from_discovery || self.names(openid, metadata, it)).collect()
    }

    /// Whether an authorization response may name this issuer. Which tenant it is, the ID token
    /// says later.
    pub(super) fn could_be_issuer(
        &self,
        openid: &OpenId,
        metadata: &Metadata,
        issuer: &str,
    ) -> bool {
        let values = self.parameters.alone();
        let own = self.base.client.token_issuers.iter().any(|it| it == issuer);
        (own || openid.issuers.iter().any(|it| it.could_be(issuer, &values)))
            && !self.refuses(openid, issuer)
            && (!openid.issuer_from_discovery || self.names(openid, metadata, issuer))
    }

    /// Whether the discovery document names this issuer: as it is, or, with a gap in the place of
    /// a claim, among others of its kind.
    fn names(&self, openid: &OpenId, metadata: &Metadata, issuer: &str) -> bool {
        let values = self.parameters.alone();
        metadata.issuer == issuer
            || metadata.issuer.contains('{')
                && openid.issuers.iter().any(|it| {
                    it.could_be(&metadata.issuer, &values) && it.could_be(issuer, &values)
                })
    }

    fn refuses(&self, openid: &OpenId, issuer: &str) -> bool {
        let plain = &self.parameters.plain;
        openid.refuse.iter().any(|it| {
            it.issuer == issuer
                && it.when.iter().all(|(name, value)| plain.get(name) == Some(value))
        })
    }

    /// Checks an ID token: that of a trade, or that of a refresh.
    pub(super) async fn check_id_token(
        &self,
        openid: &OpenId,
        id_token: &Secret,
        metadata: &Metadata,
        tokens: &TokenResponse,
        trade: Option<&CodeExchange>,
    ) -> Result<Map<String, Value>, Unproven> {
        let mut claims = Map::new();
        if openid.issuers.iter().any(|it| it.pointers().next().is_some()) {
            // What cannot be read is refused below.
            let jws = Jws::parse(id_token.expose(), &self.base.client.signing_algs);
            claims = jws.ok().and_then(|it| it.unverified_claims()).unwrap_or_default();
        }
        let issuers = self.issuers(openid, metadata, &claims);
        let expected = Expected {
            issuers: &issuers,
            // Without one, PKCE alone proves that the code is of this very attempt.
            nonce: trade.map(|it| &it.nonce).filter(|_| !openid.is_in_access_token()),
            code: trade.map(|it| &it.code),
            ..self.base.expected(tokens)
        };
        self.base.check_id_token(id_token, metadata, &expected).await
    }

    /// The account that a logout token names. Only what is the id of every account whose ID token
    /// has it counts: with another way to make it, the same account would have another id.
    pub(super) fn account_of_logout(
        &self,
        claims: &Map<String, Value>,
    ) -> Result<ExternalId, ConnectorError> {
        let Some(template) = self.entry.account.id.0.first() else {
            return Ok(profile::account(claims, &Map::new())?.external_id);
        };
        let facts = json!({ "claims": claims, "config": self.config });
        let id = template.fill(&self.parameters.and(&facts));
        id.and_then(|it| ExternalId::new(it).ok()).ok_or_else(|| {
            untrusted(LOGOUT_TOKEN, "it does not say which account of this provider type it means")
        })
    }

    /// The account's id where the claims alone make it; then an ID token of a refresh can be
    /// compared with it.
    pub(super) fn id_of_claims(&self, claims: &Map<String, Value>) -> Option<String> {
        let ids = &self.entry.account.id.0;
        if ids.iter().flat_map(Template::pointers).any(|it| it.root() != "claims") {
            return None;
        }
        let facts = json!({ "claims": claims });
        ids.iter().find_map(|it| it.fill(&self.parameters.and(&facts)))
    }
}
