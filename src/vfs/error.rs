//! Why a file operation failed. One variant is one reason; `fuse/errno.rs` alone turns it into an errno.

use std::sync::Arc;

use crate::cos::{CosError, Reason};

/// The result of a file operation.
pub type VfsResult<T> = Result<T, VfsError>;

/// Why a file operation failed. Cloned where a handle has to tell it again at every later fsync and close.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VfsError {
    #[error("{name}: no such file or directory")]
    NotFound { name: String },
    #[error("{name}: exists already")]
    Exists { name: String },
    #[error("{name}: is a directory")]
    IsDirectory { name: String },
    #[error("{name}: is not a directory")]
    NotDirectory { name: String },
    #[error("{name}: the directory is not empty")]
    NotEmpty { name: String },
    /// Policy: would remove or replace what is published.
    #[error("{name}: delete_enable = false forbids to remove it or to rename onto it")]
    DeleteDisabled { name: String },
    /// Policy: an existing object is never replaced.
    #[error("{name}: overwrite_enable = false forbids to replace it")]
    OverwriteDisabled { name: String },
    /// Policy: `authority` has no `W`.
    #[error("authority without W makes this mount read-only")]
    ReadOnly,
    /// Policy: `authority` has no `R`.
    #[error("authority without R forbids to list and to read")]
    WriteOnly,
    /// COS answered 403.
    #[error("COS refuses access")]
    AccessDenied {
        #[source]
        cause: Arc<CosError>,
    },
    #[error("{name}: above the largest size of a file, {bytes_max} bytes (single_file_max_size)")]
    TooLarge { name: String, bytes_max: u64 },
    /// `setting` is `quota` (bytes) or `quota_files`.
    #[error("{name}: there is no room for it within {setting} = {limit}")]
    QuotaReached { name: String, setting: &'static str, limit: u64 },
    /// Nobody may store before it is known what is stored already.
    #[error("what the bucket holds is not counted yet, and there is a quota")]
    QuotaUnknown,
    #[error("a name of a file has at most 255 bytes, a key at most 850, the target of a link 4095")]
    NameTooLong,
    #[error("{name}: cannot be a name in a bucket")]
    NameImpossible { name: String },
    /// An upload of that name is on its way, and what was asked for would need the whole file.
    #[error("{name}: is being written")]
    Busy { name: String },
    /// COS asks to slow down, after all retries.
    #[error("COS throttles")]
    Throttled {
        #[source]
        cause: Arc<CosError>,
    },
    /// Unlinked, replaced by a rename, or changed in the bucket while it was open.
    #[error("{name}: was removed or replaced meanwhile")]
    ReplacedMeanwhile { name: String },
    #[error("COS did not answer in time")]
    TimedOut {
        #[source]
        cause: Arc<CosError>,
    },
    #[error("COS failed")]
    Store {
        #[source]
        cause: Arc<CosError>,
    },
    /// Possible in POSIX, not on this mount (yet): see docs/SEMANTICS.md.
    #[error("{what} is not supported on this mount")]
    NotSupported { what: &'static str },
    /// Never possible: hard links, device files.
    #[error("{what} cannot exist in a bucket")]
    NotPermitted { what: &'static str },
    /// No memory to spare just now; only an armed, non-blocking writer hears of it.
    #[error("no memory to spare now")]
    WouldBlock,
    #[error("{why}")]
    Invalid { why: &'static str },
    #[error("not an open handle, or not open for this")]
    BadHandle,
    #[error("no such extended attribute")]
    NoAttribute,
    /// The front's words are for root, the account's uid and the front's own.
    #[error("this caller may not use the words of the FTP front")]
    NotTheFront,
    /// The mount is being stopped.
    #[error("the mount is being stopped")]
    Stopping,
}

impl VfsError {
    /// What a failed request to COS means for the file `name`.
    pub fn from_cos(error: CosError, name: &str) -> Self {
        let reason = error.reason;
        let cause = Arc::new(error);
        let name = || name.to_owned();
        match reason {
            Reason::NoSuchKey => Self::NotFound { name: name() },
            Reason::Exists => Self::Exists { name: name() },
            Reason::AccessDenied | Reason::Archived => Self::AccessDenied { cause },
            Reason::PreconditionFailed | Reason::NoSuchUpload => Self::ReplacedMeanwhile { name: name() },
            Reason::Throttled => Self::Throttled { cause },
            Reason::TimedOut => Self::TimedOut { cause },
            Reason::NoSuchBucket
            | Reason::InvalidRange
            | Reason::TooLarge
            | Reason::Unavailable
            | Reason::Corrupt
            | Reason::Malformed
            | Reason::Refused => Self::Store { cause },
        }
    }
}
