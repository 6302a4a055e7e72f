//! LAYER 1: a bucket, over HTTP.
//!
//! [`ObjectStore`] is all that the program may ask of a bucket. `CosClient` asks COS, `MemoryStore` keeps
//! the bucket in memory; `tests/store_contract.rs` runs one suite over both. Whoever holds a store sees no
//! HTTP, no XML and no retry: a call returns when it is done, or when nothing more can be done about it.

mod body;
mod client;
mod error;
mod faulty;
mod http;
mod judge;
mod latch;
mod media_type;
mod memory;
mod operation;
mod request;
mod retry;
mod settle;
mod sign;
mod types;
mod wire;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use client::CosClient;
pub use error::{CosError, Reason};
pub use faulty::{Fault, FaultyStore, Gate, Rule};
pub use http::{HttpPool, SetupError};
pub use latch::Latch;
pub use memory::MemoryStore;
pub use operation::Operation;
pub use types::{
    ByteRange, Crc64, ETag, Expected, KEY_BYTES_MAX, Key, KeyError, ListPage, ListRequest, ListedObject,
    NewObject, ObjectMeta, OpenUpload, PART_BYTES_MIN, PARTS_MAX, PUT_BYTES_MAX, PartNumber, PartStored,
    Payload, Stored, UploadId, UserMetadata,
};

/// The result of a request to COS.
pub type CosResult<T> = Result<T, CosError>;

/// What GET answers.
pub struct ObjectBody {
    pub meta: ObjectMeta,
    /// The bytes asked for, in order. A body that ends early, or whose bytes contradict a checksum that
    /// covers them, ends in an error. Pieces have up to half a megabyte; neighbours may share one
    /// allocation, which lives as long as any of them.
    pub bytes: BoxStream<'static, CosResult<Bytes>>,
}

impl Debug for ObjectBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectBody").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// A bucket.
///
/// Every method retries what may be repeated and gives up after the configured time without progress.
/// `Ok` of a method that stores means: COS has it, and its checksum is that of the bytes sent (where COS
/// told one). `Err` with `in_doubt` set means: it may have happened, or may yet happen.
#[async_trait]
pub trait ObjectStore: Send + Sync + Debug {
    /// HEAD Bucket: whether it is there and may be used.
    async fn head_bucket(&self) -> CosResult<()>;

    /// HEAD Object.
    async fn head_object(&self, key: &Key) -> CosResult<ObjectMeta>;

    /// GET Object: all of it (`range` = `None`) or a range, which is clipped at the end of the object.
    /// With `if_match`, another object under the key is [`Reason::PreconditionFailed`].
    async fn get_object(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> CosResult<ObjectBody>;

    /// PUT Object, with Content-MD5: COS replaces nothing by bytes that are not these. A payload that is held back
    /// ([`Payload::held_by`]) makes no object before its latch opens.
    async fn put_object(&self, key: &Key, payload: Payload, new: &NewObject) -> CosResult<Stored>;

    /// PUT Object - Copy, within the bucket, up to 5 GB. With `if_match`, of that version of the source
    /// only. Metadata is the source's, or with `replace` that of a new object.
    async fn copy_object(
        &self,
        source: &Key,
        target: &Key,
        if_match: Option<&ETag>,
        replace: Option<&NewObject>,
        forbid_overwrite: bool,
    ) -> CosResult<Stored>;

    /// DELETE Object. A key that is not there is a success.
    async fn delete_object(&self, key: &Key) -> CosResult<()>;

    /// DELETE Multiple Objects, any number. The keys that could not be deleted, each with its error.
    async fn delete_objects(&self, keys: &[Key]) -> CosResult<Vec<(Key, CosError)>>;

    /// GET Bucket: one page.
    async fn list_objects(&self, request: &ListRequest) -> CosResult<ListPage>;

    /// GET Bucket: one page. `tell` hears where the next one begins as soon as COS has said so, before the entries have
    /// come. It is a forecast: what comes may break off, and a second attempt may find another page.
    async fn list_objects_telling(
        &self,
        request: &ListRequest,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> CosResult<ListPage> {
        let page = self.list_objects(request).await?;
        if let Some(next) = &page.next_marker {
            tell(next.clone());
        }
        Ok(page)
    }

    /// Initiate Multipart Upload.
    async fn initiate_multipart_upload(&self, key: &Key, new: &NewObject) -> CosResult<UploadId>;

    /// Upload Part. Sending a number again replaces what was sent before.
    async fn upload_part(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        payload: Payload,
    ) -> CosResult<PartStored>;

    /// Upload Part - Copy: a range of `source`, at least 1 MB unless it is the last part.
    async fn upload_part_copy(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        source: &Key,
        range: ByteRange,
        if_match: Option<&ETag>,
    ) -> CosResult<PartStored>;

    /// List Parts: all pages, ascending.
    async fn list_parts(&self, key: &Key, upload: &UploadId) -> CosResult<Vec<PartStored>>;

    /// List Multipart Uploads whose key begins with `prefix`: all pages.
    async fn list_multipart_uploads(&self, prefix: &str) -> CosResult<Vec<OpenUpload>>;

    /// Complete Multipart Upload. `parts` ascending from 1 without a gap. A lost answer is settled here,
    /// as far as it can be, by looking for an object of the `expected` size and checksum.
    async fn complete_multipart_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartStored],
        expected: Expected,
        forbid_overwrite: bool,
    ) -> CosResult<Stored>;

    /// Abort Multipart Upload. An upload that is not there is a success.
    async fn abort_multipart_upload(&self, key: &Key, upload: &UploadId) -> CosResult<()>;
}
