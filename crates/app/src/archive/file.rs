//! The files that archives are read from and written to.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use symbolon_domain::secret::Secret;

use crate::failure::Failure;

/// A file that tells how far it was read.
pub(super) struct Counted {
    file: BufReader<File>,
    position: Arc<AtomicU64>,
}

impl Counted {
    pub(super) fn open(path: &Path, position: Arc<AtomicU64>) -> io::Result<Self> {
        Ok(Self { file: BufReader::with_capacity(1 << 18, File::open(path)?), position })
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.position.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// How long a file is that can be read more than once.
pub(super) fn size(path: &Path) -> Result<u64, Failure> {
    let file = |source| Failure::File { path: path.to_owned(), action: "read", source };
    let metadata = std::fs::metadata(path).map_err(file)?;
    if !metadata.is_file() {
        let text = format!("{} is not a file; it is read more than once", path.display());
        return Err(Failure::Argument(text));
    }
    // Whoever may not read it is told before anything is done.
    File::open(path).map_err(file)?;
    Ok(metadata.len())
}

/// A file that is there whole or not at all, for its owner's eyes only.
pub(super) struct Private {
    to: PathBuf,
    writing: PathBuf,
    file: BufWriter<File>,
    done: bool,
}

impl Private {
    /// Begins to write it, over one that is there only when that is said.
    pub(super) fn create(path: &Path, over: bool) -> Result<Self, Failure> {
        let problem = |source| Failure::File { path: path.to_owned(), action: "write", source };
        if !over && path.symlink_metadata().is_ok() {
            let text = format!("{} exists already; --force writes over it", path.display());
            return Err(Failure::Argument(text));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", Secret::random().expose()));
        let writing = path.with_file_name(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = BufWriter::new(options.open(&writing).map_err(problem)?);
        Ok(Self { to: path.to_owned(), writing, file, done: false })
    }

    pub(super) fn write(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.file.write_all(text).map_err(|source| self.problem(source))
    }

    /// It is whole: gives it its name.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.file.flush().map_err(|source| self.problem(source))?;
        self.file.get_ref().sync_all().map_err(|source| self.problem(source))?;
        std::fs::rename(&self.writing, &self.to).map_err(|source| self.problem(source))?;
        self.done = true;
        Ok(())
    }

    fn problem(&self, source: io::Error) -> Failure {
        Failure::File { path: self.to.clone(), action: "write", source }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if !self.done {
            // Half a file is of no use; that it cannot be removed changes nothing.
            let _ = std::fs::remove_file(&self.writing);
        }
    }
}
