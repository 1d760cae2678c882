//! Tokens that are bound to a key of ours, and the proofs that we hold it
//! ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)).
//!
//! Every grant has a key of its own, an EC key on P-256 that signs with ES256. A proof is for one
//! request, and is made when it is sent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{CommonParameters, Jwk, ThumbprintHash},
};
use serde_json::{Value, json};
use symbolon_domain::{
    credentials::{Credentials, DPOP},
    dpop::{DpopRequest, is_nonce},
    ids::ProviderId,
    ports::{Clock, ConnectorError, DpopProofs, UnreadableDpopKey},
    secret::Secret,
};
use url::{Origin, Url};
use zeroize::Zeroizing;

use crate::{
    engine::Engine,
    http::{HttpError, HttpRequest, HttpResponse},
    json,
    metadata::misconfigured,
};

/// The algorithm of our proofs, as servers list it.
pub(crate) const ES256: &str = "ES256";

/// How a server says that it wants to see a nonce of its own in the proof (§8, §9).
pub(crate) const USE_DPOP_NONCE: &str = "use_dpop_nonce";

/// So many nonces are remembered at most; then all are learned anew.
const MOST_NONCES: usize = 10_000;

/// A private key that tokens are bound to.
///
/// Its text is the base64url of its PKCS #8 form.
pub(crate) struct DpopKey {
    text: Secret,
    key: EncodingKey,
    public: Jwk,
    thumbprint: String,
}

impl DpopKey {
    /// A new key.
    ///
    /// # Panics
    ///
    /// When the operating system has no random numbers; nothing can be kept safe then.
    pub(crate) fn generate() -> Secret {
        let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = made.and_then(|it| it.to_pkcs8v1());
        let document = document.expect("the operating system gives random numbers");
        Secret::new(URL_SAFE_NO_PAD.encode(document.as_ref()))
    }

    /// Reads what [`generate`](Self::generate) made.
    pub(crate) fn parse(text: &Secret) -> Result<Self, UnreadableDpopKey> {
        let der = URL_SAFE_NO_PAD.decode(text.expose()).map_err(|_| UnreadableDpopKey)?;
        let der = Zeroizing::new(der);
        let key = EncodingKey::from_ec_der(&der);
        let jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).map_err(|_| UnreadableDpopKey)?;
        // No more than the key itself (§4.2).
        let public = Jwk { common: CommonParameters::default(), ..jwk };
        let thumbprint = public.thumbprint(ThumbprintHash::SHA256);
        let thumbprint = thumbprint.map_err(|_| UnreadableDpopKey)?;
        Ok(Self { text: text.clone(), key, public, thumbprint })
    }

    /// Its text, to be kept.
    pub(crate) fn text(&self) -> &Secret {
        &self.text
    }

    /// What names its public half: `dpop_jkt` (§10).
    pub(crate) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// A proof for one request (§4.2).
    pub(crate) fn prove(
        &self,
        of: &ProvenRequest<'_>,
        now: DateTime<Utc>,
    ) -> Result<Secret, UnreadableDpopKey> {
        let mut htu = of.url.clone();
        htu.set_query(None);
        htu.set_fragment(None);
        let mut claims = json!({
            "jti": Secret::random().expose(),
            "htm": of.method,
            "htu": htu.as_str(),
            "iat": now.timestamp(),
        });
        if let Some(nonce) = of.nonce {
            claims["nonce"] = nonce.into();
        }
        if let Some(token) = of.access_token {
            let ath = digest(&SHA256, token.expose().as_bytes());
            claims["ath"] = URL_SAFE_NO_PAD.encode(ath).into();
        }
        let header = Header {
            typ: Some("dpop+jwt".to_owned()),
            jwk: Some(self.public.clone()),
            ..Header::new(Algorithm::ES256)
        };
        let signed = jsonwebtoken::encode(&header, &claims, &self.key);
        signed.map(Secret::new).map_err(|_| UnreadableDpopKey)
    }
}

/// What a proof is about.
pub(crate) struct ProvenRequest<'a> {
    pub(crate) method: &'a str,
    pub(crate) url: &'a Url,
    /// The token that goes along, if it is a call with one.
    pub(crate) access_token: Option<&'a Secret>,
    pub(crate) nonce: Option<&'a str>,
}

/// Makes proofs for requests that others send.
#[derive(Clone)]
pub struct DpopSigner {
    /// Says when.
    pub clock: Arc<dyn Clock>,
}

impl DpopProofs for DpopSigner {
    fn prove(
        &self,
        key: &Secret,
        request: &DpopRequest,
        access_token: &Secret,
    ) -> Result<Secret, UnreadableDpopKey> {
        let of = ProvenRequest {
            method: request.method(),
            url: request.url(),
            access_token: Some(access_token),
            nonce: request.nonce(),
        };
        DpopKey::parse(key)?.prove(&of, self.clock.now())
    }
}

/// An access token as it is presented: with its key, where it is bound to one.
pub(crate) struct Presented<'a> {
    pub(crate) token: &'a Secret,
    pub(crate) key: Option<DpopKey>,
}

impl<'a> Presented<'a> {
    /// The access token of these credentials; `None` where they have none.
    pub(crate) fn of(credentials: &'a Credentials) -> Result<Option<Self>, ConnectorError> {
        let Some(token) = &credentials.access_token else { return Ok(None) };
        let key = credentials.dpop_key.as_ref().map(read).transpose()?;
        Ok(Some(Self { token, key }))
    }

    /// What stands before it in the `Authorization` header, where the provider calls it `scheme`
    /// otherwise.
    pub(crate) fn scheme<'b>(&self, scheme: &'b str) -> &'b str {
        if self.key.is_some() { DPOP } else { scheme }
    }
}

/// A key that was kept.
pub(crate) fn read(text: &Secret) -> Result<DpopKey, ConnectorError> {
    DpopKey::parse(text).map_err(|_| {
        misconfigured(
            "the key that the grant is bound to cannot be read; if it was imported, import it as it \
             was exported, otherwise the user must link again",
        )
    })
}

/// What is proven with a request.
pub(crate) struct Proving<'a> {
    pub(crate) key: Option<&'a DpopKey>,
    /// The token that goes along, if it is a call with one.
    pub(crate) access_token: Option<&'a Secret>,
}

impl<'a> From<&'a Presented<'_>> for Proving<'a> {
    fn from(it: &'a Presented<'_>) -> Self {
        Self { key: it.key.as_ref(), access_token: Some(it.token) }
    }
}

/// What one server was last seen to want in our proofs. A clone is the same memory.
#[derive(Clone, Default)]
pub(crate) struct Nonces(Arc<Mutex<HashMap<Server, String>>>);

/// Whoever gives nonces: the authorization server, or the servers that take its tokens, whose
/// nonces are others even at the same address (§9).
#[derive(Clone, PartialEq, Eq, Hash)]
struct Server {
    provider: Option<ProviderId>,
    origin: Origin,
    takes_tokens: bool,
}

impl Nonces {
    fn get(&self, server: &Server) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned()
    }

    fn set(&self, server: Server, nonce: &str) {
        let mut nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if nonces.len() >= MOST_NONCES && !nonces.contains_key(&server) {
            nonces.clear();
        }
        nonces.insert(server, nonce.to_owned());
    }
}

impl Engine {
    /// Sends a request that `make` makes, with a proof where there is a key.
    ///
    /// A server that wants to see a nonce in the proof has looked at nothing else (§8): it is sent
    /// once more with that nonce, and never a third time. Both together take no longer than one
    /// request may; where the server has let us wait for so long that the second could not be
    /// waited for, its answer is the answer, and the nonce is remembered for the next time.
    pub(crate) async fn send_proven(
        &self,
        make: impl Fn() -> HttpRequest,
        proving: &Proving<'_>,
    ) -> Result<HttpResponse, HttpError> {
        let patience = self.http.settings().timeout;
        let begun = Instant::now();
        let (answer, used) = self.send_with_proof(make(), proving).await?;
        let fresh = nonce(&answer).filter(|it| used.as_deref() != Some(*it));
        let left = patience.saturating_sub(begun.elapsed());
        if proving.key.is_none()
            || fresh.is_none()
            || !asks_for_a_nonce(&answer)
            || left < patience / 2
        {
            return Ok(answer);
        }
        Ok(self.send_with_proof(make().within(left), proving).await?.0)
    }

    /// Sends it once, and tells which nonce was in the proof.
    async fn send_with_proof(
        &self,
        request: HttpRequest,
        proving: &Proving<'_>,
    ) -> Result<(HttpResponse, Option<String>), HttpError> {
        let server = Server {
            provider: self.provider,
            origin: request.url().origin(),
            takes_tokens: proving.access_token.is_some(),
        };
        let mut used = None;
        let request = match proving.key {
            None => request,
            Some(key) => {
                used = self.nonces.get(&server);
                let of = ProvenRequest {
                    method: request.method(),
                    url: request.url(),
                    access_token: proving.access_token,
                    nonce: used.as_deref(),
                };
                let proof = key.prove(&of, self.clock.now());
                let proof = proof.map_err(|error| HttpError::NotSent(error.to_string()))?;
                request.proven(&proof)
            }
        };
        let answer = self.http.send(request).await?;
        if let Some(nonce) = nonce(&answer) {
            self.nonces.set(server, nonce);
        }
        Ok((answer, used))
    }
}

/// The nonce that an answer brings, if it is one (§8.1).
fn nonce(answer: &HttpResponse) -> Option<&str> {
    answer.header("dpop-nonce").filter(|it| is_nonce(it))
}

/// Whether an answer says that the proof lacks a nonce: in its body (§8), or in its challenge (§9).
fn asks_for_a_nonce(answer: &HttpResponse) -> bool {
    if !matches!(answer.status, 400 | 401) {
        return false;
    }
    let body = answer.body.as_deref().ok().and_then(|it| json::object(it).ok());
    let code = body.as_ref().and_then(|it| it.get("error")).and_then(Value::as_str);
    code == Some(USE_DPOP_NONCE)
        || answer.headers("www-authenticate").any(|it| it.contains(USE_DPOP_NONCE))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use serde_json::Map;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    #[test]
    fn a_key_is_read_as_it_was_made_and_is_another_each_time() {
        let text = DpopKey::generate();
        let (one, again) = (DpopKey::parse(&text).unwrap(), DpopKey::parse(&text).unwrap());
        assert_eq!(one.text(), &text);
        assert_eq!(one.thumbprint(), again.thumbprint());
        let other = DpopKey::parse(&DpopKey::generate()).unwrap();
        assert_ne!(one.thumbprint(), other.thumbprint());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let whole = DpopKey::generate();
        let cut = &whole.expose()[..whole.expose().len() - 8];
        for text in ["", "x", "AAAA", "key-1", cut] {
            assert!(DpopKey::parse(&Secret::new(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        let key = DpopKey::parse(&DpopKey::generate()).unwrap();
        let public = serde_json::to_value(&key.public).unwrap();
        let canonical =
            format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, public["x"], public["y"]);
        let expected = URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
        assert_eq!(key.thumbprint(), expected);
    }

    #[test]
    fn a_proof_verifies_with_the_key_that_it_names_and_holds_what_it_is_about() {
        let key = DpopKey::parse(&DpopKey::generate()).unwrap();
        let (url, token) =
            (Url::parse("https://a.example/x?y#z").unwrap(), Secret::new("Kz~8mXK1EalYznwH-LC-1"));
        let of = ProvenRequest {
            method: "GET",
            url: &url,
            access_token: Some(&token),
            nonce: Some("a-nonce"),
        };
        let proof = key.prove(&of, NOW).unwrap();
        let header = decode_header(proof.expose()).unwrap();
        assert_eq!(header.typ.as_deref(), Some("dpop+jwt"));
        let public = serde_json::to_value(header.jwk.clone().unwrap()).unwrap();
        let names: Vec<_> = public.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["crv", "kty", "x", "y"], "the private half is not in it");
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let public = DecodingKey::from_jwk(&header.jwk.unwrap()).unwrap();
        let claims: Map<String, Value> =
            decode(proof.expose(), &public, &validation).unwrap().claims;
        assert_eq!(claims["htm"], "GET");
        assert_eq!(claims["htu"], "https://a.example/x");
        assert_eq!(claims["iat"], NOW.timestamp());
        assert_eq!(claims["nonce"], "a-nonce");
        // The example of RFC 9449 §7.1 is of another token; the hash is that of its characters.
        let ath = URL_SAFE_NO_PAD.encode(digest(&SHA256, b"Kz~8mXK1EalYznwH-LC-1"));
        assert_eq!(claims["ath"], ath);
        let other = DpopKey::parse(&DpopKey::generate()).unwrap();
        let other = DecodingKey::from_jwk(&other.public).unwrap();
        assert!(decode::<Map<String, Value>>(proof.expose(), &other, &validation).is_err());
    }

    #[test]
    fn nonces_are_remembered_by_server_and_use_no_more_than_so_much_memory() {
        let nonces = Nonces::default();
        let server = |provider: i64, takes_tokens| Server {
            provider: Some(ProviderId(provider)),
            origin: Url::parse("https://a.example").unwrap().origin(),
            takes_tokens,
        };
        nonces.set(server(1, false), "one");
        nonces.set(server(1, false), "two");
        assert_eq!(nonces.get(&server(1, false)).as_deref(), Some("two"));
        assert_eq!(nonces.get(&server(1, true)), None);
        assert_eq!(nonces.get(&server(2, false)), None);
        for provider in 0..=i64::try_from(MOST_NONCES).unwrap() {
            nonces.set(server(provider, true), "n");
        }
        assert!(nonces.0.lock().unwrap().len() <= MOST_NONCES);
    }
}
