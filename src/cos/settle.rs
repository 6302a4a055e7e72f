//! What is left in doubt by an answer that did not come, settled by looking.
//!
//! A request may take effect although its answer is lost; the same request, sent again, then meets its own
//! work: a key that is taken, an upload that is gone, a condition that does not hold any more. Before such an
//! answer is believed, HEAD is asked whether the object that should be there is there: size and CRC-64, since
//! the ETag of a multipart object cannot be known beforehand (*Complete Multipart Upload*).
//! What cannot be settled here stays in doubt, and the caller is told so.

use std::time::Duration;

use super::{
    CosClient, CosError, CosResult, ETag, Expected, Key, NewObject, ObjectMeta, Reason, Stored, UploadId,
};

impl CosClient {
    /// After a PUT that forbade overwriting failed with `error`: whether the object in the way is its own.
    pub(super) async fn settle_put(
        &self,
        key: &Key,
        expected: Expected,
        md5_hex: &str,
        mut error: CosError,
    ) -> CosResult<Stored> {
        if !(error.in_doubt && error.reason == Reason::Exists) {
            return Err(error);
        }
        let Ok(meta) = self.look(key).await else { return Err(error) };
        let is_same = match meta.crc64 {
            Some(crc64) => Some(crc64) == expected.crc64,
            None => meta.etag.as_str() == md5_hex,
        };
        if meta.size == expected.bytes && is_same {
            return Ok(stored(meta));
        }
        // Another object has the key, and as long as it has, this PUT cannot take effect.
        error.in_doubt = false;
        Err(error)
    }

    /// After a Complete failed with `error`: whether the object stands all the same.
    pub(super) async fn settle_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        expected: Expected,
        mut error: CosError,
    ) -> CosResult<Stored> {
        if !error.in_doubt || error.reason == Reason::Corrupt {
            return Err(error);
        }
        let found = self.look(key).await;
        let is_conclusive = match &found {
            Ok(_) => true,
            Err(error) => error.reason == Reason::NoSuchKey,
        };
        if let Ok(meta) = found
            && meta.size == expected.bytes
            && self.is_of_upload(&meta, upload, expected)
        {
            return Ok(stored(meta));
        }
        // Without the upload, or against an object that may not be replaced, nothing can happen any more.
        if is_conclusive && matches!(error.reason, Reason::NoSuchUpload | Reason::Exists) {
            error.in_doubt = false;
        }
        Err(error)
    }

    /// By its checksum, or, where none is known, by its size; and by being younger than the upload, or an older
    /// object of the same bytes would pass for it and the upload stay open. Both times are COS's.
    fn is_of_upload(&self, meta: &ObjectMeta, upload: &UploadId, expected: Expected) -> bool {
        let initiated = self.initiated_at(upload);
        match meta.crc64.zip(expected.crc64) {
            Some((crc64, expected)) => {
                crc64 == expected && initiated.is_none_or(|begun| meta.last_modified + CLOCKS_DIFFER >= begun)
            }
            None => initiated.is_some_and(|begun| meta.last_modified >= begun),
        }
    }

    /// After a copy failed with `error`: whether the target is there all the same.
    pub(super) async fn settle_copy(
        &self,
        source: &Key,
        target: &Key,
        if_match: Option<&ETag>,
        replace: Option<&NewObject>,
        error: CosError,
    ) -> CosResult<Stored> {
        if !error.in_doubt {
            return Err(error);
        }
        let Ok(made) = self.look(target).await else { return Err(error) };
        if source == target {
            // The bytes are the same before and after: the metadata tells.
            let is_replaced = replace.is_some_and(|new| is_given(&made, new));
            return if is_replaced { Ok(stored(made)) } else { Err(error) };
        }
        let Ok(original) = self.look(source).await else { return Err(error) };
        let is_version = if_match.is_none_or(|etag| *etag == original.etag);
        let has_metadata = replace.map_or(made.metadata == original.metadata, |new| is_given(&made, new));
        let is_copy = made.size == original.size && made.crc64.is_some() && made.crc64 == original.crc64;
        if is_version && has_metadata && is_copy { Ok(stored(made)) } else { Err(error) }
    }

    /// HEAD, with less patience than usual: the caller has waited already.
    async fn look(&self, key: &Key) -> CosResult<ObjectMeta> {
        self.head_within(key, (self.timeout() / 4).max(LOOK_MIN)).await
    }
}

/// The answers to Initiate and to HEAD may come from two machines of COS.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);
const LOOK_MIN: Duration = Duration::from_secs(2);

fn is_given(meta: &ObjectMeta, new: &NewObject) -> bool {
    meta.metadata == new.metadata
        && new
            .content_type
            .as_ref()
            .is_none_or(|content_type| meta.content_type.as_ref() == Some(content_type))
}

fn stored(meta: ObjectMeta) -> Stored {
    Stored { etag: meta.etag, crc64: meta.crc64, last_modified: Some(meta.last_modified) }
}
