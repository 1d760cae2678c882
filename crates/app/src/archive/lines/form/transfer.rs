//! A journal entry of a transfer.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    ids::{ExternalId, IdentityId, ProviderId, TransferId, UserId},
    transfer::{Transfer, TransferItem, TransferObstacle, UndoItem},
};

use super::{acting_user, actor, one_of, opaque};
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct TransferLine {
    pub(super) id: i64,
    from_user_id: String,
    to_user_id: String,
    items: Vec<TransferItemLine>,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    created_at: DateTime<Utc>,
    undone_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferItemLine {
    identity_id: i64,
    provider_id: i64,
    external_id: String,
    /// Why it was not moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    /// Of an undone transfer: whether it was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given_back: Option<bool>,
    /// Why it was not given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

impl From<&Transfer> for TransferLine {
    fn from(it: &Transfer) -> Self {
        let item = |it: &TransferItem| {
            let kept = match it.undo {
                Some(UndoItem::Kept(why)) => Some(why.as_str().to_owned()),
                _ => None,
            };
            TransferItemLine {
                identity_id: it.identity_id.0,
                provider_id: it.provider_id.0,
                external_id: it.external_id.as_str().to_owned(),
                skipped: it.skipped.map(|it| it.as_str().to_owned()),
                given_back: it.undo.map(|it| it == UndoItem::GivenBack),
                kept,
            }
        };
        Self {
            id: it.id.0,
            from_user_id: it.from_user_id.as_str().to_owned(),
            to_user_id: it.to_user_id.as_str().to_owned(),
            items: it.items.iter().map(item).collect(),
            actor: it.actor.who.to_string(),
            acting_user: acting_user(&it.actor),
            reason: it.actor.reason.clone(),
            created_at: it.created_at,
            undone_at: it.undone_at,
        }
    }
}

impl TryFrom<TransferLine> for Transfer {
    type Error = Reason;

    fn try_from(it: TransferLine) -> Result<Self, Reason> {
        let obstacle = |name, text: Option<String>| {
            text.map(|text| one_of(name, &text, TransferObstacle::parse)).transpose()
        };
        let item = |it: TransferItemLine| {
            let kept = obstacle("items.kept", it.kept)?;
            let undo = match (it.given_back, kept) {
                (None, None) => None,
                (Some(true), None) => Some(UndoItem::GivenBack),
                (Some(false), Some(why)) => Some(UndoItem::Kept(why)),
                _ => {
                    return Err(Reason::malformed("items: was given back, or was kept and why"));
                }
            };
            Ok(TransferItem {
                identity_id: IdentityId(it.identity_id),
                provider_id: ProviderId(it.provider_id),
                external_id: opaque("items.external_id", it.external_id, ExternalId::new)?,
                skipped: obstacle("items.skipped", it.skipped)?,
                undo,
            })
        };
        Ok(Self {
            id: TransferId(it.id),
            from_user_id: opaque("from_user_id", it.from_user_id, UserId::new)?,
            to_user_id: opaque("to_user_id", it.to_user_id, UserId::new)?,
            items: it.items.into_iter().map(item).collect::<Result<_, Reason>>()?,
            actor: actor(&it.actor, it.acting_user, it.reason)?,
            created_at: it.created_at,
            undone_at: it.undone_at,
        })
    }
}
