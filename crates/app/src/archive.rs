//! Identities from elsewhere, and whole stores in and out.

mod dump;
mod file;
mod id_map;
mod lines;
mod report;
mod secrets;
mod sentry;
mod taking;

pub(crate) use self::{
    lines::{Saved, restore, save},
    report::Report,
    sentry::{Parts as SentryParts, import as import_sentry},
};
