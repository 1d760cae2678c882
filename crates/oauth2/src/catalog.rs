//! The catalog of provider types that are only data.
//!
//! Each is one file, in the form that `docs/catalog.md` describes. Those
//! in the folder `catalog` of this crate are checked when it is built, and embedded; an operator's
//! own are read at the start ([`Catalog::read`]).

mod connector;
pub(crate) mod entry;
pub(crate) mod error_rule;
mod generic;
mod issuers;
mod kind;
mod mcp_resource;
mod parameter;
mod profile;
mod protocol_rules;
mod revocation;
mod rules;
pub(crate) mod template;
mod values;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use self::entry::{Entry, RefreshRotation};
pub(crate) use self::{generic::Generic, kind::CatalogKind};

/// Name and JSON text of every embedded entry, in the order of their names.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/catalog.rs"));

/// Whether a host is the one that is named, or one below it where the name begins with `*`.
pub(crate) fn is_host(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end),
        None => host == pattern,
    }
}

static BUILT_IN: LazyLock<Catalog> = LazyLock::new(|| {
    // Read once by the build script already, so that nothing here is left out.
    let entries = EMBEDDED.iter().filter_map(|(name, text)| {
        let entry: Entry = serde_json::from_str(text).ok()?;
        Some(((*name).to_owned(), Arc::new(entry)))
    });
    Catalog { entries: entries.collect() }
});

/// Entries, by the name of their type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    entries: BTreeMap<String, Arc<Entry>>,
}

/// An entry, or the folder of them, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file or the folder cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not an entry.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// Which one.
        path: PathBuf,
        /// What was expected.
        why: String,
    },
}

impl Catalog {
    /// What is embedded.
    #[must_use]
    pub fn built_in() -> Self {
        BUILT_IN.clone()
    }

    /// One entry from its TOML text.
    ///
    /// # Errors
    ///
    /// Says what was expected.
    pub fn entry(name: &str, text: &str) -> Result<Self, String> {
        let entry = Arc::new(Entry::parse(name, text)?);
        Ok(Self { entries: BTreeMap::from([(name.to_owned(), entry)]) })
    }

    /// The entry in a file, whose name without `.toml` is that of the type.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] names the file and what was expected.
    pub fn read_file(path: &Path) -> Result<Self, CatalogError> {
        let unreadable = |source| CatalogError::Unreadable { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let name = path.file_stem().and_then(|it| it.to_str()).unwrap_or_default();
        Self::entry(name, &text).map_err(|why| CatalogError::Invalid { path: path.to_owned(), why })
    }

    /// All entries of a folder: its files that end in `.toml` and not in `.shape.toml`.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] names the first file that cannot be used.
    pub fn read(folder: &Path) -> Result<Self, CatalogError> {
        let unreadable = |source| CatalogError::Unreadable { path: folder.to_owned(), source };
        let mut files = fs::read_dir(folder)
            .and_then(|it| it.map(|it| Ok(it?.path())).collect::<io::Result<Vec<_>>>())
            .map_err(unreadable)?;
        files.retain(|path| {
            let is_shape = |stem: &Path| stem.extension().is_some_and(|it| it == "shape");
            let is_toml = path.extension().is_some_and(|it| it == "toml");
            is_toml && !path.file_stem().is_some_and(|it| is_shape(Path::new(it)))
        });
        files.sort();
        files.iter().try_fold(Self::default(), |all, it| Ok(all.with(Self::read_file(it)?)))
    }

    /// These, and the others; one of the same name takes the place of ours.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.entries.extend(others.entries);
        self
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether the entry of this name says that each use of a refresh token gives another one.
    #[must_use]
    pub fn rotates(&self, name: &str) -> bool {
        let refresh = self.entries.get(name).and_then(|it| it.refresh.as_ref());
        refresh.is_some_and(|it| it.rotation == RefreshRotation::Rotates)
    }

    pub(crate) fn into_kinds(self) -> impl Iterator<Item = CatalogKind> {
        self.entries.into_iter().map(|(name, entry)| CatalogKind { name, entry })
    }
}
