use symbolon_domain::{
    Error,
    archive::{ImportOutcome, Record, RecordKind},
    ports::ArchiveImport,
};

use super::report::{Note, Origin, Reason, Report};
use crate::{failure::Failure, progress::Progress};

/// Most records of one transaction.
const BATCH: usize = 1000;

/// A record on its way into the store.
pub(super) struct Coming {
    pub(super) origin: Origin,
    pub(super) record: Record,
    pub(super) notes: Vec<Note>,
}

/// What became of a row: its kind, its id where it came from, and the row that it is here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Became {
    pub(super) kind: RecordKind,
    pub(super) foreign: i64,
    pub(super) ours: i64,
}

/// Takes records batch by batch, and reports what becomes of them.
pub(super) struct Taking<'a> {
    pub(super) import: Box<dyn ArchiveImport>,
    pub(super) report: &'a mut Report,
    pub(super) progress: Progress,
    waiting: Vec<Coming>,
    rows: u64,
}

impl<'a> Taking<'a> {
    pub(super) fn new(
        import: Box<dyn ArchiveImport>,
        report: &'a mut Report,
        progress: Progress,
    ) -> Self {
        Self { import, report, progress, waiting: Vec::new(), rows: 0 }
    }

    /// Whether the next record of this kind goes into a batch of its own.
    pub(super) fn is_full_for(&self, kind: RecordKind) -> bool {
        self.waiting.len() >= BATCH
            || self.waiting.last().is_some_and(|it| it.record.kind() != kind)
    }

    /// Puts a record into the batch, which is [not full](Self::is_full_for) for it.
    pub(super) fn push(&mut self, coming: Coming) {
        self.waiting.push(coming);
    }

    /// Takes the batch. `judge` may refuse what the store would take, given what it became.
    pub(super) async fn flush(
        &mut self,
        mut judge: impl FnMut(Became) -> Result<(), Reason>,
    ) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let mut records = Vec::with_capacity(waiting.len());
        let mut told = Vec::with_capacity(waiting.len());
        for Coming { origin, record, notes } in waiting {
            told.push((origin, record.kind(), record.id(), notes));
            records.push(record);
        }
        let outcomes = self.import.take(&records).await.map_err(Error::from)?;
        self.progress.clear();
        for ((origin, kind, foreign, notes), outcome) in told.into_iter().zip(outcomes) {
            let (ours, created) = match outcome {
                ImportOutcome::Created(id) => (id, true),
                ImportOutcome::Unchanged(id) => (id, false),
                ImportOutcome::Refused(refusal) => {
                    let reason = Reason { code: refusal.code(), text: refusal.to_string() };
                    self.report.refused(&origin, &reason)?;
                    continue;
                }
            };
            if let Err(reason) = judge(Became { kind, foreign, ours }) {
                self.report.refused(&origin, &reason)?;
                continue;
            }
            if created {
                self.report.created(&origin.model);
                for note in notes {
                    self.report.note(&origin, note, None)?;
                }
                if ours != foreign {
                    self.report.note(&origin, Note::NewId, Some(ours))?;
                }
            } else {
                self.report.unchanged(&origin.model);
            }
        }
        self.rows += records.len() as u64;
        self.progress.show(self.rows);
        Ok(())
    }

    /// Refuses a row that does not get as far as a record.
    pub(super) fn refuse(&mut self, origin: &Origin, reason: &Reason) -> Result<(), Failure> {
        self.progress.clear();
        self.report.refused(origin, reason)
    }
}
