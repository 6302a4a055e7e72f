//! The emulator's directory: blobs (bodies, each in a file of its own) and a journal of what they are.
//!
//! ```text
//! DIR/lock            one emulator at a time
//! DIR/journal         one JSON line per change, appended under the store's lock
//! DIR/blobs/xx/ID     the body of a PUT or of a part, written once, never changed
//! ```
//!
//! Keys appear in the journal alone, escaped by JSON, so any key fits. A blob is whole before a line names
//! it; a line that was cut off by the end of the process is dropped at the next start, and blobs that no
//! line names are removed. Nothing calls fsync: what was acknowledged survives SIGKILL of the emulator,
//! but not the loss of power.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde::{Serialize, de::DeserializeOwned};

/// The directory, held by one emulator.
#[derive(Debug)]
pub(super) struct DataDir {
    root: PathBuf,
    next_blob: AtomicU64,
    /// Whether a dropped blob takes its file along: not while the journal is replayed, nor when the store
    /// goes away, because the next start wants them.
    removes: AtomicBool,
    _lock: File,
}

/// A body in a file, opened for each reading: a descriptor per object would soon be too many. The file
/// goes when nobody points to it any more.
#[derive(Debug)]
pub(super) struct Blob {
    id: u64,
    dir: Arc<DataDir>,
}

/// A body on its way into a file. Dropped unfinished, the file goes.
pub(super) struct BlobWriter {
    blob: Blob,
    file: File,
    bytes: u64,
}

impl DataDir {
    /// Takes the directory, making it where it is missing.
    ///
    /// # Errors
    /// What the file system says; [`io::ErrorKind::ResourceBusy`] where another emulator holds it.
    pub(super) fn open(root: &Path) -> io::Result<Arc<Self>> {
        fs::create_dir_all(root.join("blobs"))?;
        for shard in 0..=u8::MAX {
            fs::create_dir_all(root.join(format!("blobs/{shard:02x}")))?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(root.join("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is held by another emulator", root.display()),
            )
        })?;
        Ok(Arc::new(Self {
            root: root.to_owned(),
            next_blob: AtomicU64::new(1),
            removes: AtomicBool::new(false),
            _lock: lock,
        }))
    }

    /// Whether from now on a dropped blob takes its file along.
    pub(super) fn remove_dropped(&self, wanted: bool) {
        self.removes.store(wanted, Ordering::SeqCst);
    }

    pub(super) fn new_blob(self: &Arc<Self>) -> io::Result<BlobWriter> {
        let id = self.next_blob.fetch_add(1, Ordering::Relaxed);
        let file = OpenOptions::new().create_new(true).write(true).open(self.blob_path(id))?;
        Ok(BlobWriter { blob: Blob { id, dir: Arc::clone(self) }, file, bytes: 0 })
    }

    /// A blob that a journal names; its file may be gone.
    pub(super) fn known_blob(self: &Arc<Self>, id: u64) -> Arc<Blob> {
        self.next_blob.fetch_max(id + 1, Ordering::Relaxed);
        Arc::new(Blob { id, dir: Arc::clone(self) })
    }

    /// Removes every blob but those in `known`: what a killed emulator had begun.
    pub(super) fn sweep(&self, known: &HashSet<u64>) -> io::Result<()> {
        for shard in fs::read_dir(self.root.join("blobs"))? {
            for entry in fs::read_dir(shard?.path())? {
                let entry = entry?;
                let id = entry.file_name().to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
                match id {
                    Some(id) if known.contains(&id) => {}
                    Some(_) => fs::remove_file(entry.path())?,
                    None => tracing::warn!(path = %entry.path().display(), "not a blob, left alone"),
                }
            }
        }
        Ok(())
    }

    fn blob_path(&self, id: u64) -> PathBuf {
        self.root.join(format!("blobs/{:02x}/{id:016x}", id & 0xff))
    }

    fn journal_path(&self) -> PathBuf {
        self.root.join("journal")
    }
}

impl Blob {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Length of the file in bytes.
    pub(super) fn stored_bytes(&self) -> io::Result<u64> {
        fs::metadata(self.dir.blob_path(self.id)).map(|metadata| metadata.len())
    }

    /// The file, to read from.
    pub(super) fn open(&self) -> io::Result<File> {
        File::open(self.dir.blob_path(self.id))
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if !self.dir.removes.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = fs::remove_file(self.dir.blob_path(self.id)) {
            tracing::warn!(%error, blob = self.id, "a blob could not be removed");
        }
    }
}

impl BlobWriter {
    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    pub(super) fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all_at(piece, self.bytes)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<Arc<Blob>> {
        Ok(Arc::new(self.blob))
    }
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    dir: Arc<DataDir>,
    file: File,
    bytes: u64,
    /// Length after the last rewriting.
    base_bytes: u64,
}

/// A journal below this length is never rewritten while in use.
const REWRITE_BYTES_MIN: u64 = 64 << 20;

impl Journal {
    /// All records of the journal in `dir`, oldest first. A last line without its end is left out.
    pub(super) fn read<R: DeserializeOwned>(dir: &DataDir) -> io::Result<Vec<R>> {
        let bytes = match fs::read(dir.journal_path()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut records = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if line.last() != Some(&b'\n') {
                tracing::warn!(bytes = line.len(), "journal: the last line was cut off, dropped");
                break;
            }
            match serde_json::from_slice(line) {
                Ok(record) => records.push(record),
                Err(error) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{}: {error}", dir.journal_path().display()),
                    ));
                }
            }
        }
        Ok(records)
    }

    /// Replaces the journal by `records` in one step, and opens it.
    pub(super) fn create<R: Serialize>(
        dir: &Arc<DataDir>,
        records: impl Iterator<Item = R>,
    ) -> io::Result<Self> {
        let path = dir.journal_path();
        let fresh = path.with_extension("new");
        let mut writer = BufWriter::new(File::create(&fresh)?);
        for record in records {
            serde_json::to_writer(&mut writer, &record)?;
            writer.write_all(b"\n")?;
        }
        writer.flush()?;
        fs::rename(&fresh, &path)?;
        let file = OpenOptions::new().append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { dir: Arc::clone(dir), file, bytes, base_bytes: bytes })
    }

    /// Adds one record.
    pub(super) fn append<R: Serialize>(&mut self, record: &R) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // A piece of a line would swallow the next one.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Whether most of it is past.
    pub(super) fn wants_rewriting(&self) -> bool {
        self.bytes > REWRITE_BYTES_MIN && self.bytes > 4 * self.base_bytes
    }

    /// Replaces itself by `records`.
    pub(super) fn rewrite<R: Serialize>(&mut self, records: impl Iterator<Item = R>) -> io::Result<()> {
        *self = Self::create(&self.dir, records)?;
        Ok(())
    }
}
