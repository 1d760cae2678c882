//! What no tokens are handed out to, or of, until somebody lifts it.

use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::{
    event::{Actor, EventKind, NewEvent},
    ids::{ApiKeyId, FreezeId, OrganizationId, ProviderId},
};

/// What can be frozen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FreezeSubject {
    /// An API key: nothing is handed out to it.
    Key(ApiKeyId),
    /// A provider instance: no token of its accounts is handed out.
    Provider(ProviderId),
    /// An organization: no token of an identity that it uses is handed out, whoever asks.
    Organization(OrganizationId),
}

impl FreezeSubject {
    /// Every kind there is, as it is stored and sent.
    pub const KINDS: [&'static str; 3] = ["key", "provider", "organization"];

    /// The kind, as it is sent.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Provider(_) => "provider",
            Self::Organization(_) => "organization",
        }
    }

    /// The id, as it is sent.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Key(id) => id.to_string(),
            Self::Provider(id) => id.to_string(),
            Self::Organization(id) => id.to_string(),
        }
    }

    /// Reads kind and id back.
    ///
    /// # Errors
    ///
    /// Which of the two is wrong, and what was expected.
    pub fn parse(kind: &str, id: &str) -> Result<Self, (&'static str, String)> {
        let row = || match id.parse::<i64>() {
            Ok(number) if number > 0 && number.to_string() == id => Ok(number),
            _ => Err(("id", "must be a positive integer".to_owned())),
        };
        match kind {
            "key" => Ok(Self::Key(ApiKeyId(row()?))),
            "provider" => Ok(Self::Provider(ProviderId(row()?))),
            "organization" => match OrganizationId::new(id) {
                Ok(id) => Ok(Self::Organization(id)),
                Err(problem) => Err(("id", problem.to_string())),
            },
            _ => Err(("kind", format!("must be one of {}", Self::KINDS.join(", ")))),
        }
    }

    /// What freezing it is, and lifting it, for the event log.
    const fn event_kinds(&self) -> (EventKind, EventKind) {
        match self {
            Self::Key(_) => (EventKind::ApiKeyFrozen, EventKind::ApiKeyUnfrozen),
            Self::Provider(_) => (EventKind::ProviderFrozen, EventKind::ProviderUnfrozen),
            Self::Organization(_) => {
                (EventKind::OrganizationFrozen, EventKind::OrganizationUnfrozen)
            }
        }
    }
}

impl fmt::Display for FreezeSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "API key {id}"),
            Self::Provider(id) => write!(f, "provider {id}"),
            Self::Organization(id) => write!(f, "organization {id}"),
        }
    }
}

/// Nothing is handed out, until it is lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// This freeze's own name.
    pub id: FreezeId,
    /// What is frozen.
    pub subject: FreezeSubject,
    /// Who froze it, and why.
    pub by: Actor,
    /// Since when, UTC.
    pub frozen_at: DateTime<Utc>,
}

impl Freeze {
    /// That it began: told with who and why, which are also the event's.
    #[must_use]
    pub fn begun(&self) -> NewEvent {
        let (kind, _) = self.subject.event_kinds();
        NewEvent { after: Some(self.facts()), ..self.event(kind, &self.by) }
    }

    /// That it was lifted, by whom.
    #[must_use]
    pub fn lifted(&self, actor: &Actor) -> NewEvent {
        let (_, kind) = self.subject.event_kinds();
        NewEvent { before: Some(self.facts()), ..self.event(kind, actor) }
    }

    fn event(&self, kind: EventKind, actor: &Actor) -> NewEvent {
        let mut event = NewEvent::new(kind, actor);
        match &self.subject {
            FreezeSubject::Key(id) => {
                event.detail.insert("api_key_id".to_owned(), id.0.into());
            }
            FreezeSubject::Provider(id) => event.provider_id = Some(*id),
            FreezeSubject::Organization(id) => event.organization_id = Some(id.clone()),
        }
        event
    }

    fn facts(&self) -> Map<String, Value> {
        Map::from_iter([
            ("frozen_at".to_owned(), json!(self.frozen_at)),
            ("frozen_by".to_owned(), json!(self.by.who.to_string())),
            ("reason".to_owned(), json!(self.by.reason)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixtures::organization;

    #[test]
    fn a_subject_survives_its_text_form() {
        for subject in [
            FreezeSubject::Key(ApiKeyId(3)),
            FreezeSubject::Provider(ProviderId(i64::MAX)),
            FreezeSubject::Organization(organization("a b:ü")),
        ] {
            assert_eq!(FreezeSubject::parse(subject.kind(), &subject.id()), Ok(subject));
        }
    }

    #[test]
    fn what_is_no_subject_is_refused_by_the_part_that_is_wrong() {
        for (kind, id, wrong) in [
            ("user", "1", "kind"),
            ("key", "", "id"),
            ("key", "0", "id"),
            ("key", "-1", "id"),
            ("provider", "01", "id"),
            ("provider", "github", "id"),
            ("organization", "", "id"),
        ] {
            assert_eq!(FreezeSubject::parse(kind, id).unwrap_err().0, wrong, "{kind} {id}");
        }
    }
}
