use async_trait::async_trait;
use serde_json::{Map, Value};

use super::RepositoryError;
use crate::{
    archive::{ImportOutcome, Record},
    event::Actor,
};

/// How records are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportSettings {
    /// Who does it.
    pub actor: Actor,
    /// Keeps nothing, and answers what would become of each record.
    pub dry_run: bool,
    /// Whether events tell of what is created. Not where a store is restored that brings its own
    /// history.
    pub tells: bool,
}

/// Moves whole stores: many records at a time, ids and counters included.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Archive: Send + Sync {
    /// Begins to take records over.
    async fn import(
        &self,
        settings: &ImportSettings,
    ) -> Result<Box<dyn ArchiveImport>, RepositoryError>;

    /// Begins to read everything as it is at this moment: what changes meanwhile is not seen.
    ///
    /// Without secrets there are no credentials, no secrets of providers and webhook endpoints, no
    /// grants that are to be revoked, and no hash of a key.
    async fn export(&self, with_secrets: bool) -> Result<Box<dyn ArchiveExport>, RepositoryError>;
}

/// An import under way. Others read and write meanwhile; dropping it keeps what was taken.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ArchiveImport: Send {
    /// Takes records of one kind, in one transaction, and answers for each of them what became
    /// of it, in their order. Each is judged as if those before it had been taken before:
    ///
    /// | there is | becomes |
    /// | --- | --- |
    /// | a row that says the same: a provider of its type and external id, an identity of its provider, user and account, a single sign-on of its organization and provider, an account for it of its user and name, an organization's use of the same identity, a key of its hash, a webhook endpoint of its address and time of creation, a transfer of the same accounts between the same users at the same time, a revocation of its identity, account and time, the very event | unchanged, under the row's id |
    /// | another user's link of its account, another account of its user, or another provider of its organization | refused |
    /// | nothing that it refers to; what a transfer, an ended revocation or an event speaks of may be gone | refused |
    /// | no secret in the record that the row cannot be without | refused |
    /// | another provider under the id of one that is gone, whose grant waits to be revoked | refused |
    /// | nothing of the like, and its id is free | created, under its id |
    /// | nothing of the like, and its id is taken, not positive, or [too great](crate::archive::KEPT_IDS_END) | created, under a new id; an event is refused |
    ///
    /// Credentials and secrets are sealed. Ids that are given out later are greater than those
    /// of created rows, and than those that created transfers, revocations and events speak of.
    ///
    /// A webhook endpoint is told what happened after its position. Where the import tells, which
    /// is where there is another history, it is told what happens from then on, as a new one is.
    ///
    /// Where the import tells, each created identity has its `identity.imported`, and whatever
    /// else is created the event of its making, but for keys, transfers, revocations and events, in
    /// the same transaction.
    async fn take(&mut self, records: &[Record]) -> Result<Vec<ImportOutcome>, RepositoryError>;

    /// Writes the event `import.finished` with this detail, where the import tells.
    async fn finish(&mut self, detail: &Map<String, Value>) -> Result<(), RepositoryError>;
}

/// An export under way.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ArchiveExport: Send {
    /// The next records, at most a thousand, all of one kind; none at the end. Kinds come in an
    /// order in which no record refers to one of a later kind, but for events, which are last;
    /// within a kind ids ascend.
    ///
    /// A webhook endpoint's position is before its first delivery that is pending: deliveries are in
    /// no archive, and what was under way is delivered again.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Unsealable`] when a secret does not open; nothing is left out silently.
    async fn next(&mut self) -> Result<Vec<Record>, RepositoryError>;
}
