//! Finds out what became of a publication whose answer was lost.
//!
//! While that is unknown the key is in doubt ([`crate::vfs::Doubt`]), and nobody publishes, deletes or
//! renames it.
//!
//! - **Complete**: the upload is aborted; from then on Complete cannot take effect any more, or it has
//!   already. A HEAD tells which: an object of this size and CRC-64 is the one that was asked for.
//! - **PUT**: nothing can stop it. HEAD looks for it for some seconds; if it does not show, the publication has
//!   failed, but the key stays in doubt for a guard time, after which a PUT on its way is given up for lost.
//!
//! - **Initiate**: an upload may be open that nobody knows the ID of. It holds no bytes, and nothing tells it
//!   from one that another gateway has just begun for the same key, so it is not touched: a lifecycle rule for
//!   unfinished uploads removes it. The log says so.
//!
//! What is left: a PUT that COS carries out later than the guard time after its connection broke; and an
//! object that was there before with the very same bytes, which is taken for the one asked for: its
//! content is what the caller was promised.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Published, Shared};
use crate::{
    cos::{CosError, Expected, ObjectMeta, Reason, UploadId},
    vfs::{Doubt, VfsResult},
};

impl Shared {
    /// Settles a PUT whose answer was lost with `error`.
    pub(super) async fn settle_put(
        self: &Arc<Self>,
        error: CosError,
        expected: Expected,
    ) -> VfsResult<Published> {
        let doubt = self.keys.doubt(&self.key);
        for pause in PUT_LOOKS {
            tokio::time::sleep(pause).await;
            if let Looked::Made(meta) = self.look(expected, SystemTime::UNIX_EPOCH).await {
                tracing::warn!(key = %self.key, %error, "its answer was lost, but the object is there");
                return Ok(published(meta, expected, true));
            }
        }
        self.guard(doubt, expected);
        Err(self.error(error))
    }

    /// Settles a Complete whose answer was lost with `error`.
    pub(super) async fn settle_complete(
        self: &Arc<Self>,
        error: CosError,
        upload: UploadId,
        expected: Expected,
        as_asked: bool,
        asked: SystemTime,
    ) -> VfsResult<Published> {
        let doubt = self.keys.doubt(&self.key);
        let mut aborted = false;
        for pause in COMPLETE_LOOKS {
            tokio::time::sleep(pause).await;
            aborted = aborted || self.store.abort_multipart_upload(&self.key, &upload).await.is_ok();
            match self.look(expected, asked).await {
                Looked::Made(meta) => {
                    tracing::warn!(key = %self.key, %error, "its answer was lost, but the object is there");
                    self.ended(&upload);
                    return Ok(published(meta, expected, as_asked));
                }
                // It has not happened, and cannot any more.
                Looked::Other if aborted => {
                    self.ended(&upload);
                    return Err(self.error(error));
                }
                Looked::Other | Looked::Unknown => {}
            }
        }
        if !aborted {
            self.abort_in_doubt(doubt, upload);
        }
        Err(self.error(error))
    }

    /// Looks for the object by its checksum, or, where that is not known, by its being made since `asked`.
    async fn look(&self, expected: Expected, asked: SystemTime) -> Looked {
        match self.store.head_object(&self.key).await {
            Ok(meta) if meta.size == expected.bytes && is_expected(&meta, expected, asked) => {
                Looked::Made(meta)
            }
            Ok(_) => Looked::Other,
            Err(error) if error.reason == Reason::NoSuchKey => Looked::Other,
            Err(_) => Looked::Unknown,
        }
    }

    /// Keeps the key in doubt until a PUT on its way can be given up for lost.
    fn guard(self: &Arc<Self>, doubt: Doubt, expected: Expected) {
        let (shared, cleaning) = (Arc::clone(self), self.writers.cleaning());
        self.writers.runtime.spawn(async move {
            tokio::time::sleep(PUT_GUARD).await;
            if let Looked::Made(_) = shared.look(expected, SystemTime::UNIX_EPOCH).await {
                tracing::error!(key = %shared.key, "a PUT that was reported as failed has taken effect after all");
            }
            drop((doubt, cleaning));
        });
    }

    /// Keeps the key in doubt until its upload cannot be completed any more.
    fn abort_in_doubt(self: &Arc<Self>, doubt: Doubt, upload: UploadId) {
        let (end, cleaning) = (self.loose_end(), self.writers.cleaning());
        self.writers.runtime.spawn(async move {
            end.abort(upload, false).await;
            drop((doubt, cleaning));
        });
    }
}

enum Looked {
    /// The object that was asked for.
    Made(ObjectMeta),
    /// None, or another one.
    Other,
    Unknown,
}

fn is_expected(meta: &ObjectMeta, expected: Expected, asked: SystemTime) -> bool {
    match expected.crc64 {
        Some(crc64) => meta.crc64 == Some(crc64),
        None => meta.last_modified + CLOCKS_DIFFER >= asked,
    }
}

fn published(meta: ObjectMeta, expected: Expected, as_asked: bool) -> Published {
    Published {
        etag: meta.etag,
        bytes: expected.bytes,
        crc64: expected.crc64,
        last_modified: meta.last_modified,
        as_asked,
    }
}

/// How far COS's clock may be behind ours.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);
/// Pauses before each HEAD that looks for an object whose PUT was in doubt.
const PUT_LOOKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(2)];
/// How long after that the key stays in doubt. A request whose connection has broken does not outlive it:
/// all its bytes have arrived or never will, and COS stores a body of one part within seconds.
const PUT_GUARD: Duration = Duration::from_secs(10);
/// Pauses before each abort and HEAD after a Complete in doubt.
const COMPLETE_LOOKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
