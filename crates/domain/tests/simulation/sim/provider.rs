use std::{collections::BTreeMap, time::Duration};

use super::plan::Rules;

/// The provider's own books: what is true, whatever anybody was told.
pub(crate) struct Provider {
    rules: Rules,
    families: Vec<Family>,
    access: BTreeMap<String, Access>,
    refresh: BTreeMap<String, (usize, u64)>,
    pub(crate) ended_by_reuse: u64,
}

/// The tokens that come of one consent.
struct Family {
    account: String,
    alive: bool,
    /// Counts the refresh tokens; the last one is the one that works.
    serial: u64,
    /// Which was spent last, when, and what it brought.
    spent: Option<(String, Duration, String)>,
}

/// An access token, and whose.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) account: String,
    pub(crate) ends: Duration,
    family: usize,
}

/// Tokens that were handed out.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) access: String,
    pub(crate) refresh: Option<String>,
}

/// `invalid_grant`.
#[derive(Debug)]
pub(crate) struct Refused;

impl Provider {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            families: Vec::new(),
            access: BTreeMap::new(),
            refresh: BTreeMap::new(),
            ended_by_reuse: 0,
        }
    }

    /// A user consents.
    pub(crate) fn grant(&mut self, account: &str, now: Duration) -> Answer {
        let family = self.families.len();
        let account = account.to_owned();
        self.families.push(Family { account, alive: true, serial: 0, spent: None });
        let refresh = self.next_refresh(family);
        Answer { access: self.next_access(family, now), refresh: Some(refresh) }
    }

    /// A user takes the consents for an account back.
    pub(crate) fn end_grants(&mut self, account: &str) {
        for family in self.families.iter_mut().filter(|it| it.account == account) {
            family.alive = false;
        }
    }

    /// Ends the grant that a refresh token belongs to.
    pub(crate) fn revoke(&mut self, token: &str) {
        if let Some((family, _)) = self.refresh.get(token) {
            self.families[*family].alive = false;
        }
    }

    /// A refresh token comes in.
    pub(crate) fn spend(&mut self, token: &str, now: Duration) -> Result<Answer, Refused> {
        let (family, serial) = *self.refresh.get(token).ok_or(Refused)?;
        let it = &mut self.families[family];
        if !it.alive {
            return Err(Refused);
        }
        if it.serial == serial {
            let access = self.next_access(family, now);
            let refresh = self.rules.rotates.then(|| self.next_refresh(family));
            if let Some(next) = &refresh {
                self.families[family].spent = Some((token.to_owned(), now, next.clone()));
            }
            return Ok(Answer { access, refresh });
        }
        match &it.spent {
            Some((spent, at, refresh))
                if spent == token && now < *at + self.rules.reuse_interval =>
            {
                let refresh = Some(refresh.clone());
                Ok(Answer { access: self.next_access(family, now), refresh })
            }
            _ => {
                if self.rules.family_revocation {
                    it.alive = false;
                    self.ended_by_reuse += 1;
                }
                Err(Refused)
            }
        }
    }

    /// Whether a refresh token would be answered now.
    pub(crate) fn works(&self, token: &str, now: Duration) -> bool {
        let Some((family, serial)) = self.refresh.get(token) else { return false };
        let it = &self.families[*family];
        let again = it
            .spent
            .as_ref()
            .is_some_and(|(spent, at, _)| spent == token && now < *at + self.rules.reuse_interval);
        it.alive && (it.serial == *serial || again)
    }

    /// The refresh token that came of a spent one, where that was the last to be spent.
    pub(crate) fn successor(&self, token: &str) -> Option<String> {
        let (family, _) = self.refresh.get(token)?;
        let spent = self.families[*family].spent.as_ref();
        spent.filter(|it| it.0 == token).map(|it| it.2.clone())
    }

    /// Whether `new` was given before `old`, for the same consent.
    pub(crate) fn is_older(&self, new: &str, old: &str) -> bool {
        match (self.refresh.get(new), self.refresh.get(old)) {
            (Some(new), Some(old)) => new.0 == old.0 && new.1 < old.1,
            _ => false,
        }
    }

    /// An access token by its value.
    pub(crate) fn access(&self, token: &str) -> Option<&Access> {
        self.access.get(token)
    }

    /// Whether an access token opens its account now.
    pub(crate) fn accepts(&self, token: &str, now: Duration) -> bool {
        self.access.get(token).is_some_and(|it| self.families[it.family].alive && now < it.ends)
    }

    fn next_refresh(&mut self, family: usize) -> String {
        let it = &mut self.families[family];
        it.serial += 1;
        let token = format!("refresh-{family}-{}", it.serial);
        self.refresh.insert(token.clone(), (family, it.serial));
        token
    }

    fn next_access(&mut self, family: usize, now: Duration) -> String {
        let token = format!("access-{family}-{}", self.access.len());
        let account = self.families[family].account.clone();
        let ends = now + self.rules.lifetime;
        self.access.insert(token.clone(), Access { account, ends, family });
        token
    }
}
