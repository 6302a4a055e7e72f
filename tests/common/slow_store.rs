//! A bucket whose every request waits a random time before it takes effect, and again before its answer: answers are
//! overtaken by others, and by what they tell of.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use cosgate::cos::{
    ByteRange, CosResult, ETag, Expected, Key, ListPage, ListRequest, NewObject, ObjectBody, ObjectMeta,
    ObjectStore, OpenUpload, PartNumber, PartStored, Payload, Stored, UploadId,
};
use parking_lot::Mutex;

/// See above.
#[derive(Debug)]
pub(crate) struct SlowStore {
    inner: Arc<dyn ObjectStore>,
    waits_at_most: Duration,
    random: Mutex<fastrand::Rng>,
}

impl SlowStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, waits_at_most: Duration, seed: u64) -> Self {
        Self { inner, waits_at_most, random: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    async fn slowly<T>(&self, effect: impl Future<Output = T>) -> T {
        self.wait().await;
        let answer = effect.await;
        self.wait().await;
        answer
    }

    async fn wait(&self) {
        let (micros_max, micros) = {
            let mut random = self.random.lock();
            let micros_max = u64::try_from(self.waits_at_most.as_micros()).unwrap_or(u64::MAX);
            (micros_max, if random.u8(..4) == 0 { 0 } else { random.u64(..=micros_max) })
        };
        if micros > micros_max / 8 {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl ObjectStore for SlowStore {
    async fn head_bucket(&self) -> CosResult<()> {
        self.inner.head_bucket().await
    }

    async fn head_object(&self, key: &Key) -> CosResult<ObjectMeta> {
        self.slowly(self.inner.head_object(key)).await
    }

    async fn get_object(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> CosResult<ObjectBody> {
        self.slowly(self.inner.get_object(key, range, if_match)).await
    }

    async fn put_object(&self, key: &Key, payload: Payload, new: &NewObject) -> CosResult<Stored> {
        self.slowly(self.inner.put_object(key, payload, new)).await
    }

    async fn copy_object(
        &self,
        source: &Key,
        target: &Key,
        if_match: Option<&ETag>,
        replace: Option<&NewObject>,
        forbid_overwrite: bool,
    ) -> CosResult<Stored> {
        self.slowly(self.inner.copy_object(source, target, if_match, replace, forbid_overwrite)).await
    }

    async fn delete_object(&self, key: &Key) -> CosResult<()> {
        self.slowly(self.inner.delete_object(key)).await
    }

    async fn delete_objects(&self, keys: &[Key]) -> CosResult<Vec<(Key, cosgate::cos::CosError)>> {
        self.slowly(self.inner.delete_objects(keys)).await
    }

    async fn list_objects(&self, request: &ListRequest) -> CosResult<ListPage> {
        self.slowly(self.inner.list_objects(request)).await
    }

    async fn initiate_multipart_upload(&self, key: &Key, new: &NewObject) -> CosResult<UploadId> {
        self.slowly(self.inner.initiate_multipart_upload(key, new)).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        payload: Payload,
    ) -> CosResult<PartStored> {
        self.slowly(self.inner.upload_part(key, upload, number, payload)).await
    }

    async fn upload_part_copy(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        source: &Key,
        range: ByteRange,
        if_match: Option<&ETag>,
    ) -> CosResult<PartStored> {
        self.slowly(self.inner.upload_part_copy(key, upload, number, source, range, if_match)).await
    }

    async fn list_parts(&self, key: &Key, upload: &UploadId) -> CosResult<Vec<PartStored>> {
        self.slowly(self.inner.list_parts(key, upload)).await
    }

    async fn list_multipart_uploads(&self, prefix: &str) -> CosResult<Vec<OpenUpload>> {
        self.slowly(self.inner.list_multipart_uploads(prefix)).await
    }

    async fn complete_multipart_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartStored],
        expected: Expected,
        forbid_overwrite: bool,
    ) -> CosResult<Stored> {
        let effect = self.inner.complete_multipart_upload(key, upload, parts, expected, forbid_overwrite);
        self.slowly(effect).await
    }

    async fn abort_multipart_upload(&self, key: &Key, upload: &UploadId) -> CosResult<()> {
        self.slowly(self.inner.abort_multipart_upload(key, upload)).await
    }
}
