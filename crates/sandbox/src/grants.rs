use std::{collections::HashMap, time::Duration};

use crate::random;

/// How long a code is good for; at most ten minutes are allowed
/// ([RFC 6749 §4.1.2](https://www.rfc-editor.org/rfc/rfc6749#section-4.1.2)).
pub(crate) const CODE_LIFETIME: Duration = Duration::from_mins(1);

/// How long what has expired is still known, so that it can be told from what never was.
const REMEMBERED: Duration = Duration::from_mins(10);

/// What a user has let a client do.
#[derive(Clone, Debug)]
pub(crate) struct Consent {
    pub(crate) client_id: String,
    pub(crate) sub: String,
    pub(crate) scope: Vec<String>,
    pub(crate) nonce: Option<String>,
    /// When the user chose the account, since the Unix epoch.
    pub(crate) auth_time: Duration,
}

/// What a code stands for.
#[derive(Clone)]
struct Code {
    consent: Consent,
    redirect_uri: String,
    challenge: String,
    expires_at: Duration,
    /// What came of it, once it was traded.
    family: Option<u64>,
}

/// Everything that came of one consent.
struct Family {
    consent: Consent,
    revoked: bool,
}

struct RefreshToken {
    family: u64,
    spent: Option<Spent>,
}

struct Spent {
    at: Duration,
    successor: String,
}

#[derive(Clone)]
struct AccessToken {
    family: u64,
    scope: Vec<String>,
    expires_at: Duration,
}

/// Tokens that were just issued.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) access_token: String,
    pub(crate) refresh_token: Option<String>,
    pub(crate) scope: Vec<String>,
    pub(crate) consent: Consent,
}

/// What a live access token allows.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) consent: Consent,
    pub(crate) scope: Vec<String>,
    pub(crate) expires_at: Duration,
}

/// Why nothing was issued.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Refused {
    #[error("the code is unknown, expired, or was issued to another client")]
    Code,
    #[error("the code was used before; everything that came of it is revoked")]
    CodeReused,
    #[error("redirect_uri is not the one of the authorization request")]
    RedirectUri,
    #[error("code_verifier does not match the code_challenge")]
    Verifier,
    #[error("the refresh token is unknown, revoked, or was issued to another client")]
    RefreshToken,
    #[error(
        "the refresh token was used before; everything that came of the same consent is revoked"
    )]
    RefreshTokenReused,
    #[error("the scope goes beyond what was granted")]
    Scope,
}

/// The rules of issuing that the settings and the faults change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issuing {
    pub(crate) now: Duration,
    pub(crate) access_token_lifetime: Duration,
    pub(crate) rotate: bool,
    pub(crate) reuse_interval: Duration,
    /// Whether a refresh token goes into the answer.
    pub(crate) refresh_token: bool,
}

/// Codes and tokens, and what became of them.
#[derive(Default)]
pub(crate) struct Grants {
    codes: HashMap<String, Code>,
    families: HashMap<u64, Family>,
    refresh_tokens: HashMap<String, RefreshToken>,
    access_tokens: HashMap<String, AccessToken>,
    last_sweep: Duration,
    pub(crate) refreshes: u64,
    pub(crate) refresh_repeats: u64,
    pub(crate) refresh_reuses: u64,
    pub(crate) revoked_families: u64,
}

impl Grants {
    /// A code for a consent.
    pub(crate) fn authorize(
        &mut self,
        consent: Consent,
        redirect_uri: &str,
        code_challenge: &str,
        now: Duration,
    ) -> String {
        self.sweep(now);
        let code = format!("sbx_code_{}", random::text());
        let entry = Code {
            consent,
            redirect_uri: redirect_uri.to_owned(),
            challenge: code_challenge.to_owned(),
            expires_at: now + CODE_LIFETIME,
            family: None,
        };
        self.codes.insert(code.clone(), entry);
        code
    }

    /// Trades a code for tokens, once. A second attempt revokes what the first one gave
    /// ([RFC 6749 §4.1.2](https://www.rfc-editor.org/rfc/rfc6749#section-4.1.2)); one that fails for another reason leaves the code
    /// as it is.
    pub(crate) fn exchange(
        &mut self,
        request: &CodeExchange<'_>,
        narrow: impl FnOnce(&[String]) -> Vec<String>,
        issuing: Issuing,
    ) -> Result<Issued, Refused> {
        let code = self.codes.get(request.code).cloned().ok_or(Refused::Code)?;
        if code.consent.client_id != request.client_id {
            return Err(Refused::Code);
        }
        if let Some(family) = code.family {
            self.revoke(family);
            return Err(Refused::CodeReused);
        }
        if code.expires_at <= issuing.now {
            return Err(Refused::Code);
        }
        if code.redirect_uri != request.redirect_uri {
            return Err(Refused::RedirectUri);
        }
        if code.challenge != request.code_challenge {
            return Err(Refused::Verifier);
        }
        let family = u64::try_from(self.families.len()).expect("families fit") + 1;
        if let Some(code) = self.codes.get_mut(request.code) {
            code.family = Some(family);
        }
        self.families.insert(family, Family { consent: code.consent.clone(), revoked: false });
        let scope = narrow(&code.consent.scope);
        let access_token = self.access_token(family, scope.clone(), issuing);
        let refresh_token = issuing.refresh_token.then(|| self.refresh_token(family));
        Ok(Issued { access_token, refresh_token, scope, consent: code.consent })
    }

    /// New tokens for a refresh token, which is spent by that where they rotate. One that was
    /// spent before is answered again within the reuse interval and otherwise revokes its family.
    pub(crate) fn refresh(
        &mut self,
        client_id: &str,
        refresh_token: &str,
        narrow: impl FnOnce(&[String]) -> Option<Vec<String>>,
        issuing: Issuing,
    ) -> Result<Issued, Refused> {
        self.sweep(issuing.now);
        let token = self.refresh_tokens.get(refresh_token).ok_or(Refused::RefreshToken)?;
        let number = token.family;
        let family = self.families.get(&number).ok_or(Refused::RefreshToken)?;
        if family.consent.client_id != client_id || family.revoked {
            return Err(Refused::RefreshToken);
        }
        let consent = family.consent.clone();
        let repeated = match &token.spent {
            None => None,
            Some(spent) if self.may_be_repeated(spent, issuing) => Some(spent.successor.clone()),
            Some(_) => {
                self.refresh_reuses += 1;
                self.revoke(number);
                return Err(Refused::RefreshTokenReused);
            }
        };
        let scope = narrow(&consent.scope).ok_or(Refused::Scope)?;
        let access_token = self.access_token(number, scope.clone(), issuing);
        self.refreshes += 1;
        let next = match repeated {
            Some(successor) => {
                self.refresh_repeats += 1;
                Some(successor)
            }
            None if issuing.rotate && issuing.refresh_token => {
                let successor = self.refresh_token(number);
                if let Some(token) = self.refresh_tokens.get_mut(refresh_token) {
                    token.spent = Some(Spent { at: issuing.now, successor: successor.clone() });
                }
                Some(successor)
            }
            None => None,
        };
        let refresh_token = next.filter(|_| issuing.refresh_token);
        Ok(Issued { access_token, refresh_token, scope, consent })
    }

    fn may_be_repeated(&self, spent: &Spent, issuing: Issuing) -> bool {
        let unused = self.refresh_tokens.get(&spent.successor).is_some_and(|it| it.spent.is_none());
        unused && issuing.now < spent.at + issuing.reuse_interval
    }

    /// What an access token allows; `None` when it is unknown, expired or revoked.
    pub(crate) fn access(&self, access_token: &str, now: Duration) -> Option<Access> {
        let token = self.access_tokens.get(access_token)?;
        let family = self.families.get(&token.family)?;
        let alive = !family.revoked && now < token.expires_at;
        alive.then(|| Access {
            consent: family.consent.clone(),
            scope: token.scope.clone(),
            expires_at: token.expires_at,
        })
    }

    /// Whose a refresh token is that would be answered now.
    pub(crate) fn refreshable(&self, refresh_token: &str) -> Option<Consent> {
        let token = self.refresh_tokens.get(refresh_token).filter(|it| it.spent.is_none())?;
        let family = self.families.get(&token.family).filter(|it| !it.revoked)?;
        Some(family.consent.clone())
    }

    /// The client that a token of either kind was issued to.
    pub(crate) fn client_of(&self, token: &str) -> Option<&str> {
        let family = self.families.get(&self.family_of(token)?)?;
        Some(&family.consent.client_id)
    }

    /// Revokes everything that came of the same consent as a token of either kind. Whether
    /// anything was alive.
    pub(crate) fn revoke_family_of(&mut self, token: &str) -> bool {
        self.family_of(token).is_some_and(|family| self.revoke(family))
    }

    /// Revokes everything that a user has consented to. How many families that were.
    pub(crate) fn revoke_grants_of(&mut self, sub: &str) -> u64 {
        let theirs = self.families.iter().filter(|(_, it)| it.consent.sub == sub);
        let theirs: Vec<u64> = theirs.map(|(number, _)| *number).collect();
        theirs.into_iter().map(|family| u64::from(self.revoke(family))).sum()
    }

    /// Whether a token was issued, and its family revoked since.
    pub(crate) fn is_revoked(&self, token: &str) -> bool {
        let family = self.family_of(token).and_then(|it| self.families.get(&it));
        family.is_some_and(|it| it.revoked)
    }

    /// Lets every access token expire now. How many were alive.
    pub(crate) fn expire_access_tokens(&mut self, now: Duration) -> usize {
        let mut expired = 0;
        for token in self.access_tokens.values_mut().filter(|it| now < it.expires_at) {
            token.expires_at = now;
            expired += 1;
        }
        expired
    }

    fn family_of(&self, token: &str) -> Option<u64> {
        let refresh = self.refresh_tokens.get(token).map(|it| it.family);
        refresh.or_else(|| self.access_tokens.get(token).map(|it| it.family))
    }

    fn revoke(&mut self, family: u64) -> bool {
        let alive = self.families.get_mut(&family).filter(|it| !it.revoked);
        let Some(family) = alive else { return false };
        family.revoked = true;
        self.revoked_families += 1;
        true
    }

    fn access_token(&mut self, family: u64, scope: Vec<String>, issuing: Issuing) -> String {
        let token = format!("sbx_access_{}", random::text());
        let expires_at = issuing.now + issuing.access_token_lifetime;
        self.access_tokens.insert(token.clone(), AccessToken { family, scope, expires_at });
        token
    }

    fn refresh_token(&mut self, family: u64) -> String {
        let token = format!("sbx_refresh_{}", random::text());
        self.refresh_tokens.insert(token.clone(), RefreshToken { family, spent: None });
        token
    }

    /// Forgets what expired long ago, so that a sandbox can run for days. Refresh tokens are
    /// never forgotten: a spent one must be recognized.
    fn sweep(&mut self, now: Duration) {
        if now < self.last_sweep + Duration::from_mins(1) {
            return;
        }
        self.last_sweep = now;
        self.codes.retain(|_, it| now < it.expires_at + REMEMBERED);
        self.access_tokens.retain(|_, it| now < it.expires_at + REMEMBERED);
    }
}

/// A code, and what proves that it may be traded.
#[derive(Clone, Copy)]
pub(crate) struct CodeExchange<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) code: &'a str,
    pub(crate) redirect_uri: &'a str,
    /// Computed from the `code_verifier`.
    pub(crate) code_challenge: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_hours(500_000);

    fn issuing(now: Duration) -> Issuing {
        Issuing {
            now,
            access_token_lifetime: Duration::from_secs(20),
            rotate: true,
            reuse_interval: Duration::ZERO,
            refresh_token: true,
        }
    }

    fn consented() -> (Grants, String) {
        let mut grants = Grants::default();
        let consent = Consent {
            client_id: "shop".to_owned(),
            sub: "ada".to_owned(),
            scope: vec!["openid".to_owned()],
            nonce: None,
            auth_time: NOW,
        };
        let code = grants.authorize(consent, "http://127.0.0.1/cb", "challenge", NOW);
        (grants, code)
    }

    fn exchange(code: &str) -> CodeExchange<'_> {
        CodeExchange {
            client_id: "shop",
            code,
            redirect_uri: "http://127.0.0.1/cb",
            code_challenge: "challenge",
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a refresh asks it that way")]
    fn keep(scope: &[String]) -> Option<Vec<String>> {
        Some(scope.to_vec())
    }

    fn traded() -> (Grants, Issued) {
        let (mut grants, code) = consented();
        let issued = grants.exchange(&exchange(&code), <[String]>::to_vec, issuing(NOW)).unwrap();
        (grants, issued)
    }

    #[test]
    fn a_code_lives_for_a_minute() {
        let (mut grants, code) = consented();
        let late = issuing(NOW + CODE_LIFETIME);
        let refused = grants.exchange(&exchange(&code), <[String]>::to_vec, late);
        assert_eq!(refused.unwrap_err(), Refused::Code);
        let just = issuing(NOW + CODE_LIFETIME.saturating_sub(Duration::from_millis(1)));
        assert!(grants.exchange(&exchange(&code), <[String]>::to_vec, just).is_ok());
    }

    #[test]
    fn a_failed_trade_leaves_the_code_as_it_is() {
        let (mut grants, code) = consented();
        for (wrong, why) in [
            (CodeExchange { client_id: "other", ..exchange(&code) }, Refused::Code),
            (
                CodeExchange { redirect_uri: "http://127.0.0.1/cb/", ..exchange(&code) },
                Refused::RedirectUri,
            ),
            (CodeExchange { code_challenge: "another", ..exchange(&code) }, Refused::Verifier),
        ] {
            let refused = grants.exchange(&wrong, <[String]>::to_vec, issuing(NOW));
            assert_eq!(refused.unwrap_err(), why);
        }
        assert!(grants.exchange(&exchange(&code), <[String]>::to_vec, issuing(NOW)).is_ok());
    }

    #[test]
    fn a_spent_refresh_token_is_answered_again_within_the_interval_only() {
        let (mut grants, issued) = traded();
        let first = issued.refresh_token.unwrap();
        let lenient = |now| Issuing { reuse_interval: Duration::from_secs(10), ..issuing(now) };
        let second = grants.refresh("shop", &first, keep, lenient(NOW)).unwrap();
        let again = grants.refresh("shop", &first, keep, lenient(NOW + Duration::from_secs(9)));
        assert_eq!(again.unwrap().refresh_token, second.refresh_token);
        let late = grants.refresh("shop", &first, keep, lenient(NOW + Duration::from_secs(10)));
        assert_eq!(late.unwrap_err(), Refused::RefreshTokenReused);
        assert_eq!((grants.refreshes, grants.refresh_repeats, grants.refresh_reuses), (2, 1, 1));
        assert!(grants.is_revoked(&second.refresh_token.unwrap()));
    }

    #[test]
    fn a_spent_refresh_token_is_refused_once_its_successor_was_used() {
        let (mut grants, issued) = traded();
        let lenient = Issuing { reuse_interval: Duration::from_secs(10), ..issuing(NOW) };
        let first = issued.refresh_token.unwrap();
        let second = grants.refresh("shop", &first, keep, lenient).unwrap().refresh_token.unwrap();
        grants.refresh("shop", &second, keep, lenient).unwrap();
        let refused = grants.refresh("shop", &first, keep, lenient);
        assert_eq!(refused.unwrap_err(), Refused::RefreshTokenReused);
        assert_eq!(grants.revoked_families, 1);
    }

    #[test]
    fn what_expired_long_ago_is_forgotten_and_spent_refresh_tokens_are_not() {
        let (mut grants, issued) = traded();
        let first = issued.refresh_token.unwrap();
        let later = NOW + Duration::from_hours(1);
        grants.refresh("shop", &first, keep, issuing(later)).unwrap();
        assert!(grants.codes.is_empty());
        assert_eq!(grants.access_tokens.len(), 1);
        let reused = grants.refresh("shop", &first, keep, issuing(later));
        assert_eq!(reused.unwrap_err(), Refused::RefreshTokenReused);
    }
}
