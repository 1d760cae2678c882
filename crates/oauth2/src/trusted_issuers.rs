//! Tokens of issuers that the operator trusts to say who a user is.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};
use symbolon_domain::{
    ids::UserId,
    ports::{Clock, ConnectorError, ProvenSubject, SubjectTokens},
    secret::Secret,
};
use url::Url;

use crate::{
    engine::Engine,
    http::HttpClient,
    id_token::{Failed, time},
    jws::{Jws, NotVerified},
    metadata::{InvalidIssuer, Issuer, misconfigured},
    signing_alg::SigningAlg,
    untrusted,
};

/// Types of the header that a token may have besides none and plain ones: access tokens
/// ([RFC 9068 §2.1](https://www.rfc-editor.org/rfc/rfc9068#section-2.1)).
const TYPES: [&str; 2] = ["at+jwt", "application/at+jwt"];

/// An issuer, and what its tokens must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// Its `iss`, character by character.
    pub issuer: String,
    /// Must be in the token's `aud`: a token that was made for somebody else proves nothing here.
    pub audience: String,
    /// Where its keys are; where its metadata say so unless set.
    pub jwks_uri: Option<Url>,
    /// What its tokens may be signed with.
    pub algorithms: Vec<SigningAlg>,
    /// Which claim is the product's id of the user.
    pub user_claim: String,
    /// The provider types whose tokens its own may be exchanged for; `None` for all.
    pub provider_types: Option<Vec<String>>,
}

/// The issuers that are trusted. None is asked before a token names it.
#[derive(Clone)]
pub struct TrustedIssuers {
    engine: Engine,
    issuers: Vec<(Issuer, TrustedIssuer)>,
}

impl TrustedIssuers {
    /// Trusts these issuers and nobody else.
    ///
    /// # Errors
    ///
    /// [`InvalidIssuer`] for one whose address is not allowed.
    pub fn new(
        http: HttpClient,
        clock: Arc<dyn Clock>,
        issuers: Vec<TrustedIssuer>,
    ) -> Result<Self, InvalidIssuer> {
        let issuers = issuers
            .into_iter()
            .map(|it| Ok((Issuer::new(it.issuer.clone(), &http)?, it)))
            .collect::<Result<_, _>>()?;
        Ok(Self { engine: Engine::new(http, clock), issuers })
    }

    async fn claims(
        &self,
        jws: &Jws<'_>,
        (issuer, trusted): &(Issuer, TrustedIssuer),
    ) -> Result<Map<String, Value>, ConnectorError> {
        let jwks_uri = if let Some(uri) = &trusted.jwks_uri {
            uri.clone()
        } else {
            let found = self.engine.metadata(issuer).await?.jwks_uri.clone();
            found.ok_or_else(|| misconfigured("the issuer names no keys"))?
        };
        let keys = self.engine.keys(issuer, &jwks_uri).await?;
        match jws.verify(&keys) {
            Ok(claims) => return Ok(claims),
            Err(NotVerified::Refused(why)) => return Err(refused(why)),
            Err(NotVerified::NoKey) => {}
        }
        let no_key = "no key of the issuer signed it";
        let Some(keys) = self.engine.newer_keys(issuer, &jwks_uri, &keys).await? else {
            return Err(refused(no_key));
        };
        jws.verify(&keys).map_err(|error| match error {
            NotVerified::Refused(why) => refused(why),
            NotVerified::NoKey => refused(no_key),
        })
    }

    /// For whom and until when it is.
    fn check(&self, claims: &Map<String, Value>, trusted: &TrustedIssuer) -> Result<(), Failed> {
        let for_us = match claims.get("aud") {
            Some(Value::String(one)) => *one == trusted.audience,
            Some(Value::Array(all)) => all.iter().any(|it| *it == trusted.audience),
            _ => false,
        };
        if !for_us {
            return Err("its aud does not name the audience that is configured for its issuer");
        }
        let now = self.engine.clock.now();
        let (earliest, latest) = (now - self.engine.leeway, now + self.engine.leeway);
        if time(claims, "exp")?.ok_or("its exp is missing")? <= earliest {
            return Err("it has expired");
        }
        if time(claims, "iat")?.is_some_and(|it| it > latest) {
            return Err("it was issued in the future");
        }
        if time(claims, "nbf")?.is_some_and(|it| it > latest) {
            return Err("it is not valid yet");
        }
        Ok(())
    }
}

#[async_trait]
impl SubjectTokens for TrustedIssuers {
    async fn prove(&self, token: &Secret) -> Result<ProvenSubject, ConnectorError> {
        let jws = Jws::parse_as(token.expose(), &SigningAlg::ALL, &TYPES)
            .map_err(|malformed| refused(malformed.0))?;
        // Only to find the issuer whose keys must have signed it.
        let unverified = jws.unverified_claims();
        let named = unverified.as_ref().and_then(|it| it.get("iss")).and_then(Value::as_str);
        let trusted = self.issuers.iter().find(|(_, it)| Some(it.issuer.as_str()) == named);
        let trusted = trusted.ok_or_else(|| refused("its issuer is not trusted"))?;
        if !trusted.1.algorithms.contains(&jws.alg) {
            return Err(refused("its signing algorithm is not allowed"));
        }
        let claims = self.claims(&jws, trusted).await?;
        self.check(&claims, &trusted.1).map_err(refused)?;
        let user = match claims.get(&trusted.1.user_claim) {
            Some(Value::String(text)) => UserId::new(text.as_str()).ok(),
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
                UserId::new(number.to_string()).ok()
            }
            _ => None,
        };
        let user_id = user.ok_or_else(|| refused("the claim that names the user is missing"))?;
        Ok(ProvenSubject {
            issuer: trusted.1.issuer.clone(),
            user_id,
            provider_types: trusted.1.provider_types.clone(),
        })
    }
}

fn refused(why: &str) -> ConnectorError {
    untrusted("the subject token", why)
}
