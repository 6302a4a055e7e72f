//! What is behind a handle number.

use std::sync::Arc;

use super::{VfsError, VfsResult, dir::OpenDirectory, read::Reader, writing::OpenFile};

/// One open file or directory.
#[derive(Debug, Clone)]
pub(super) enum Handle {
    Reader(Arc<Reader>),
    File(Arc<OpenFile>),
    Directory(Arc<OpenDirectory>),
}

impl Handle {
    /// # Errors
    /// `BadHandle` where it is not open for writing.
    pub(super) fn for_writing(self) -> VfsResult<Arc<OpenFile>> {
        match self {
            Self::File(file) => Ok(file),
            Self::Reader(_) | Self::Directory(_) => Err(VfsError::BadHandle),
        }
    }

    /// # Errors
    /// `BadHandle` where it is no directory.
    pub(super) fn directory(self) -> VfsResult<Arc<OpenDirectory>> {
        match self {
            Self::Directory(directory) => Ok(directory),
            Self::Reader(_) | Self::File(_) => Err(VfsError::BadHandle),
        }
    }
}
