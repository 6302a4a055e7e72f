//! Buckets, objects and uploads: an index in memory, and with a data directory a journal of its changes.
//!
//! Every change is one step under one lock: first the line in the journal, then the index. So a PUT is
//! atomic, forbid-overwrite has no race, and what a client was told survives the end of the process.
//! Bodies are not here: an [`Object`] points to its [`Content`].

use std::{collections::BTreeMap, io, ops::Deref, path::Path, sync::Arc};

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use serde::{Deserialize, Serialize};

use super::{
    content::Content,
    data_dir::{DataDir, Journal},
    error::{self, ApiError, disk_failure},
    history::History,
    record::{self, Record},
};

/// What a PUT, copy or Initiate fixes beside the bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    /// Cache-Control, Content-Type and their like, in the case they are answered in.
    pub(super) headers: Vec<(String, String)>,
    /// Whole lower-case names, `x-cos-meta-…`.
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) storage_class: String,
    pub(super) public_read: bool,
    pub(super) tags: Vec<(String, String)>,
    /// A restore of the archive class has been asked for.
    #[serde(default)]
    pub(super) restored: bool,
}

/// An object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) content: Content,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) crc64: u64,
    /// Seconds since 1970.
    pub(super) modified: i64,
    pub(super) appendable: bool,
    pub(super) attributes: Attributes,
}

/// A part of an upload.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) content: Content,
    pub(super) etag: String,
    pub(super) crc64: u64,
    pub(super) modified: i64,
}

/// An upload that is neither completed nor aborted.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) initiated: i64,
    pub(super) attributes: Attributes,
    pub(super) parts: BTreeMap<u16, Part>,
}

/// Keys are held as bytes: lists seek to places between any two of them.
pub(super) type KeyBytes = Box<[u8]>;

/// A bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) created: i64,
    pub(super) objects: BTreeMap<KeyBytes, Arc<Object>>,
    /// By key, then by ID.
    pub(super) uploads: BTreeMap<(KeyBytes, String), Upload>,
}

/// All buckets.
pub(super) type Buckets = BTreeMap<String, Bucket>;

#[derive(Debug, Default)]
struct State {
    buckets: Buckets,
    journal: Option<Journal>,
    /// What lagging lists show; records only while somebody wants it.
    history: History,
    /// What a change has put aside: dropped when the lock is free again, since a GiB takes a while to go.
    replaced: Option<Arc<Object>>,
    ended: Option<Upload>,
}

/// Everything that is stored.
#[derive(Debug)]
pub(super) struct Store {
    state: RwLock<State>,
    data: Option<Arc<DataDir>>,
}

/// When a write may replace what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Overwrite {
    Allowed,
    /// `x-cos-forbid-overwrite: true`
    Forbidden,
    /// `If-None-Match: *` of S3 clients: nothing may be there.
    IfAbsent,
    /// `If-Match` of S3 clients: the object of that ETag must be there.
    IfMatch(String),
}

impl Overwrite {
    /// Judges what is there.
    fn check(&self, present: Option<&Object>) -> Result<(), ApiError> {
        match (self, present) {
            (Self::Allowed, _) | (Self::Forbidden | Self::IfAbsent, None) => Ok(()),
            (Self::Forbidden, Some(_)) => Err(error::FILE_EXISTS),
            (Self::IfAbsent, Some(_)) => Err(error::PRECONDITION_FAILED),
            (Self::IfMatch(_), None) => Err(error::NO_SUCH_KEY),
            (Self::IfMatch(etag), Some(object)) if object.etag == *etag => Ok(()),
            (Self::IfMatch(_), Some(_)) => Err(error::PRECONDITION_FAILED),
        }
    }
}

impl Store {
    /// A store in memory, or over what the directory holds.
    ///
    /// # Errors
    /// The directory cannot be used, or its journal is damaged before its last line.
    pub(super) fn open(data: Option<&Path>) -> io::Result<Self> {
        let Some(root) = data else {
            return Ok(Self { state: RwLock::default(), data: None });
        };
        let dir = DataDir::open(root)?;
        let buckets = record::replay(Journal::read(&dir)?, &dir)?;
        let journal = Journal::create(&dir, Record::all_of(&buckets))?;
        dir.remove_dropped(true);
        let state = State { buckets, journal: Some(journal), ..State::default() };
        Ok(Self { state: RwLock::new(state), data: Some(dir) })
    }

    /// Where bodies go; `None` = memory.
    pub(super) fn data(&self) -> Option<&Arc<DataDir>> {
        self.data.as_ref()
    }

    /// A look at everything. Holds up all changes: keep it short.
    pub(super) fn read(&self) -> impl Deref<Target = Buckets> + '_ {
        let guard: MappedRwLockReadGuard<'_, Buckets> =
            RwLockReadGuard::map(self.state.read(), |state| &state.buckets);
        guard
    }

    /// Starts or stops remembering what keys were before, for lists that lag.
    pub(super) fn remember_history(&self, wanted: bool) {
        self.state.write().history.record(wanted);
    }

    /// The bucket's keys that were otherwise at `cutoff_ms` (since 1970), with what they were then.
    pub(super) fn before(&self, bucket: &str, cutoff_ms: i64) -> BTreeMap<KeyBytes, Option<Arc<Object>>> {
        self.state.read().history.before(bucket, cutoff_ms)
    }

    pub(super) fn object(&self, bucket: &str, key: &str) -> Result<Arc<Object>, ApiError> {
        let buckets = self.read();
        let bucket = buckets.get(bucket).ok_or(error::NO_SUCH_BUCKET)?;
        bucket.objects.get(key.as_bytes()).cloned().ok_or(error::NO_SUCH_KEY)
    }

    pub(super) fn has_bucket(&self, bucket: &str) -> bool {
        self.read().contains_key(bucket)
    }

    /// # Errors
    /// `BucketAlreadyOwnedByYou`.
    pub(super) fn create_bucket(&self, name: &str, created: i64) -> Result<(), ApiError> {
        self.change(|state| {
            if state.buckets.contains_key(name) {
                return Err(error::BUCKET_EXISTS);
            }
            state.note(|| Record::Bucket { bucket: name.to_owned(), created })?;
            state.buckets.insert(name.to_owned(), Bucket { created, ..Bucket::default() });
            Ok(())
        })
    }

    /// # Errors
    /// `BucketNotEmpty` where an object or an upload is left.
    pub(super) fn delete_bucket(&self, name: &str) -> Result<(), ApiError> {
        self.change(|state| {
            let bucket = state.bucket(name)?;
            if !bucket.objects.is_empty() || !bucket.uploads.is_empty() {
                return Err(error::BUCKET_NOT_EMPTY);
            }
            state.note(|| Record::NoBucket { bucket: name.to_owned() })?;
            state.buckets.remove(name);
            Ok(())
        })
    }

    /// Makes `object` what the key names.
    ///
    /// # Errors
    /// `FileAlreadyExists` where overwriting is forbidden and the key is taken; see [`Overwrite`].
    pub(super) fn put(
        &self,
        bucket: &str,
        key: &str,
        object: Object,
        overwrite: &Overwrite,
        now_ms: i64,
    ) -> Result<Arc<Object>, ApiError> {
        self.change(|state| {
            state.refuse_taken(bucket, key, overwrite)?;
            state.note(|| Record::object(bucket, key, &object))?;
            Ok(state.insert(bucket, key, object, now_ms))
        })
    }

    /// Replaces an object by what `edit` makes of it, if it is still there.
    ///
    /// # Errors
    /// `NoSuchKey`, or what `edit` says.
    pub(super) fn edit(
        &self,
        bucket: &str,
        key: &str,
        now_ms: i64,
        edit: impl FnOnce(Option<&Object>) -> Result<Object, ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        self.change(|state| {
            let object = edit(state.bucket(bucket)?.objects.get(key.as_bytes()).map(AsRef::as_ref))?;
            state.note(|| Record::object(bucket, key, &object))?;
            Ok(state.insert(bucket, key, object, now_ms))
        })
    }

    /// Removes the key, or finds nothing to remove.
    pub(super) fn delete(&self, bucket: &str, key: &str, now_ms: i64) -> Result<(), ApiError> {
        self.change(|state| {
            if !state.bucket(bucket)?.objects.contains_key(key.as_bytes()) {
                return Ok(());
            }
            state.note(|| Record::NoObject { bucket: bucket.to_owned(), key: key.to_owned() })?;
            let objects = &mut state.bucket(bucket)?.objects;
            state.replaced = objects.remove(key.as_bytes());
            state.history.note(bucket, key.as_bytes(), state.replaced.clone(), now_ms);
            Ok(())
        })
    }

    /// # Errors
    /// `FileAlreadyExists` where overwriting is forbidden and the key is taken; see [`Overwrite`].
    pub(super) fn initiate(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        upload: Upload,
        overwrite: &Overwrite,
    ) -> Result<(), ApiError> {
        self.change(|state| {
            state.refuse_taken(bucket, key, overwrite)?;
            state.note(|| Record::upload(bucket, key, id, &upload))?;
            let uploads = &mut state.bucket(bucket)?.uploads;
            uploads.insert((key.as_bytes().into(), id.to_owned()), upload);
            Ok(())
        })
    }

    /// # Errors
    /// `NoSuchUpload`
    pub(super) fn put_part(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        number: u16,
        part: Part,
    ) -> Result<(), ApiError> {
        self.change(|state| {
            state.upload(bucket, key, id)?;
            state.note(|| Record::part(bucket, key, id, number, &part))?;
            state.upload(bucket, key, id)?.parts.insert(number, part);
            Ok(())
        })
    }

    /// A look at an upload.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchUpload`, or what `look` says.
    pub(super) fn with_upload<T>(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        look: impl FnOnce(&Upload) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let buckets = self.read();
        let bucket = buckets.get(bucket).ok_or(error::NO_SUCH_BUCKET)?;
        let upload = bucket.uploads.get(&(key.as_bytes().into(), id.to_owned()));
        look(upload.ok_or(error::NO_SUCH_UPLOAD)?)
    }

    /// Ends the upload and makes `assemble` of it the object, in one step.
    ///
    /// # Errors
    /// `NoSuchUpload`, `FileAlreadyExists`, or what `assemble` says.
    pub(super) fn complete(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        overwrite: &Overwrite,
        now_ms: i64,
        assemble: impl FnOnce(&Upload) -> Result<Object, ApiError>,
    ) -> Result<Arc<Object>, ApiError> {
        self.change(|state| {
            let object = assemble(state.upload(bucket, key, id)?)?;
            state.refuse_taken(bucket, key, overwrite)?;
            state.note(|| Record::Completed {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                id: id.to_owned(),
                object: record::stored_object(&object),
            })?;
            state.ended = state.bucket(bucket)?.uploads.remove(&(key.as_bytes().into(), id.to_owned()));
            Ok(state.insert(bucket, key, object, now_ms))
        })
    }

    /// # Errors
    /// `NoSuchUpload`
    pub(super) fn abort(&self, bucket: &str, key: &str, id: &str) -> Result<(), ApiError> {
        self.change(|state| {
            state.upload(bucket, key, id)?;
            state.note(|| Record::NoUpload {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                id: id.to_owned(),
            })?;
            state.ended = state.bucket(bucket)?.uploads.remove(&(key.as_bytes().into(), id.to_owned()));
            Ok(())
        })
    }

    fn change<T>(&self, deed: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let mut state = self.state.write();
        let outcome = deed(&mut state);
        let aside = (state.replaced.take(), state.ended.take());
        drop(state);
        drop(aside);
        outcome
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(dir) = &self.data {
            dir.remove_dropped(false);
        }
    }
}

impl State {
    fn bucket(&mut self, name: &str) -> Result<&mut Bucket, ApiError> {
        self.buckets.get_mut(name).ok_or(error::NO_SUCH_BUCKET)
    }

    fn upload(&mut self, bucket: &str, key: &str, id: &str) -> Result<&mut Upload, ApiError> {
        let at = (KeyBytes::from(key.as_bytes()), id.to_owned());
        self.bucket(bucket)?.uploads.get_mut(&at).ok_or(error::NO_SUCH_UPLOAD)
    }

    fn refuse_taken(&mut self, bucket: &str, key: &str, overwrite: &Overwrite) -> Result<(), ApiError> {
        overwrite.check(self.bucket(bucket)?.objects.get(key.as_bytes()).map(AsRef::as_ref))
    }

    fn insert(&mut self, bucket: &str, key: &str, object: Object, now_ms: i64) -> Arc<Object> {
        let object = Arc::new(object);
        let objects = &mut self.buckets.entry(bucket.to_owned()).or_default().objects;
        self.replaced = objects.insert(key.as_bytes().into(), Arc::clone(&object));
        self.history.note(bucket, key.as_bytes(), self.replaced.clone(), now_ms);
        object
    }

    /// Writes the record down, where there is a journal.
    fn note(&mut self, record: impl FnOnce() -> Record) -> Result<(), ApiError> {
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        if journal.wants_rewriting() {
            journal.rewrite(Record::all_of(&self.buckets)).map_err(|error| disk_failure(&error))?;
        }
        journal.append(&record()).map_err(|error| disk_failure(&error))
    }
}
