//! The lines of the journal: what they tell, and how a store is made of them again.
//!
//! Replaying, a blob may be named that is gone since: a later line then replaced what pointed to it. Only
//! what is left in the end must be there.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    content::{Content, Segment},
    data_dir::{Blob, DataDir},
    store::{Attributes, Bucket, Buckets, KeyBytes, Object, Part, Upload},
};

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record {
    Bucket { bucket: String, created: i64 },
    NoBucket { bucket: String },
    Object { bucket: String, key: String, object: Box<StoredObject> },
    NoObject { bucket: String, key: String },
    Upload { bucket: String, key: String, id: String, initiated: i64, attributes: Attributes },
    Part { bucket: String, key: String, id: String, number: u16, part: StoredPart },
    NoUpload { bucket: String, key: String, id: String },
    Completed { bucket: String, key: String, id: String, object: Box<StoredObject> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredObject {
    content: Vec<StoredSegment>,
    etag: String,
    crc64: u64,
    modified: i64,
    appendable: bool,
    attributes: Attributes,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredPart {
    content: Vec<StoredSegment>,
    etag: String,
    crc64: u64,
    modified: i64,
}

/// Blob, offset, length.
type StoredSegment = (u64, u64, u64);

impl Record {
    pub(super) fn object(bucket: &str, key: &str, object: &Object) -> Self {
        let object = stored_object(object);
        Self::Object { bucket: bucket.to_owned(), key: key.to_owned(), object }
    }

    pub(super) fn upload(bucket: &str, key: &str, id: &str, upload: &Upload) -> Self {
        Self::Upload {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            id: id.to_owned(),
            initiated: upload.initiated,
            attributes: upload.attributes.clone(),
        }
    }

    pub(super) fn part(bucket: &str, key: &str, id: &str, number: u16, part: &Part) -> Self {
        let part = StoredPart {
            content: stored(&part.content),
            etag: part.etag.clone(),
            crc64: part.crc64,
            modified: part.modified,
        };
        Self::Part { bucket: bucket.to_owned(), key: key.to_owned(), id: id.to_owned(), number, part }
    }

    /// The shortest journal that leads to `buckets`.
    pub(super) fn all_of(buckets: &Buckets) -> impl Iterator<Item = Self> {
        buckets.iter().flat_map(|(name, bucket)| {
            let head = Self::Bucket { bucket: name.clone(), created: bucket.created };
            let objects = bucket.objects.iter().map(|(key, object)| Self::object(name, &text(key), object));
            let uploads = bucket.uploads.iter().flat_map(move |((key, id), upload)| {
                let key = text(key);
                let head = Self::upload(name, &key, id, upload);
                let parts = upload.parts.iter();
                std::iter::once(head)
                    .chain(parts.map(move |(number, part)| Self::part(name, &key, id, *number, part)))
            });
            std::iter::once(head).chain(objects).chain(uploads)
        })
    }
}

/// An object as a line tells it.
pub(super) fn stored_object(object: &Object) -> Box<StoredObject> {
    Box::new(StoredObject {
        content: stored(&object.content),
        etag: object.etag.clone(),
        crc64: object.crc64,
        modified: object.modified,
        appendable: object.appendable,
        attributes: object.attributes.clone(),
    })
}

fn stored(content: &Content) -> Vec<StoredSegment> {
    let segments = content.segments().filter_map(|segment| match segment {
        Segment::File { blob, offset, bytes } => Some((blob.id(), *offset, *bytes)),
        // Beside a journal every body is a file.
        Segment::Memory(_) => None,
    });
    segments.collect()
}

fn text(key: &KeyBytes) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// What `records` lead to, all blobs at hand; blobs that nothing points to are removed.
///
/// # Errors
/// The directory fails. An object or part whose blob is missing or short (the machine lost power) is left
/// out, with an ERROR in the log.
pub(super) fn replay(records: Vec<Record>, dir: &Arc<DataDir>) -> io::Result<Buckets> {
    let mut replay = Replay { dir, blobs: HashMap::new() };
    let mut buckets = Buckets::new();
    for record in records {
        replay.take(record, &mut buckets);
    }
    let mut whole = HashSet::new();
    for (id, blob) in &replay.blobs {
        match blob.stored_bytes() {
            Ok(bytes) => {
                whole.insert((*id, bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let lengths: HashMap<u64, u64> = whole.into_iter().collect();
    let is_whole = |content: &Content| {
        content.segments().all(|segment| match segment {
            Segment::Memory(_) => true,
            Segment::File { blob, offset, bytes } => {
                lengths.get(&blob.id()).is_some_and(|length| offset + bytes <= *length)
            }
        })
    };
    for bucket in buckets.values_mut() {
        bucket.objects.retain(|key, object| keep(is_whole(&object.content), key));
        for ((key, _), upload) in &mut bucket.uploads {
            upload.parts.retain(|_, part| keep(is_whole(&part.content), key));
        }
    }
    dir.sweep(&blobs_of(&buckets))?;
    Ok(buckets)
}

fn keep(is_whole: bool, key: &KeyBytes) -> bool {
    if !is_whole {
        tracing::error!(key = text(key).escape_debug().to_string(), "its bytes are gone, left out");
    }
    is_whole
}

fn blobs_of(buckets: &Buckets) -> HashSet<u64> {
    let mut known = HashSet::new();
    let mut note = |content: &Content| known.extend(stored(content).iter().map(|(blob, _, _)| *blob));
    for bucket in buckets.values() {
        bucket.objects.values().for_each(|object| note(&object.content));
        let parts = bucket.uploads.values().flat_map(|upload| upload.parts.values());
        parts.for_each(|part| note(&part.content));
    }
    known
}

struct Replay<'a> {
    dir: &'a Arc<DataDir>,
    /// One for each file, however many point to it.
    blobs: HashMap<u64, Arc<Blob>>,
}

impl Replay<'_> {
    /// Does again what the record tells.
    fn take(&mut self, record: Record, buckets: &mut Buckets) {
        match record {
            Record::Bucket { bucket, created } => {
                buckets.insert(bucket, Bucket { created, ..Bucket::default() });
            }
            Record::NoBucket { bucket } => {
                buckets.remove(&bucket);
            }
            Record::Object { bucket, key, object } => {
                let object = Arc::new(self.object(*object));
                buckets.entry(bucket).or_default().objects.insert(key.into_bytes().into(), object);
            }
            Record::NoObject { bucket, key } => {
                buckets.entry(bucket).or_default().objects.remove(key.as_bytes());
            }
            Record::Upload { bucket, key, id, initiated, attributes } => {
                let upload = Upload { initiated, attributes, parts: BTreeMap::new() };
                buckets.entry(bucket).or_default().uploads.insert((key.into_bytes().into(), id), upload);
            }
            Record::Part { bucket, key, id, number, part } => {
                let part = self.part(part);
                let uploads = &mut buckets.entry(bucket).or_default().uploads;
                if let Some(upload) = uploads.get_mut(&(key.into_bytes().into(), id)) {
                    upload.parts.insert(number, part);
                }
            }
            Record::NoUpload { bucket, key, id } => {
                buckets.entry(bucket).or_default().uploads.remove(&(key.into_bytes().into(), id));
            }
            Record::Completed { bucket, key, id, object } => {
                let object = Arc::new(self.object(*object));
                let bucket = buckets.entry(bucket).or_default();
                bucket.uploads.remove(&(key.as_bytes().into(), id));
                bucket.objects.insert(key.into_bytes().into(), object);
            }
        }
    }

    fn object(&mut self, stored: StoredObject) -> Object {
        Object {
            content: self.content(&stored.content),
            etag: stored.etag,
            crc64: stored.crc64,
            modified: stored.modified,
            appendable: stored.appendable,
            attributes: stored.attributes,
        }
    }

    fn part(&mut self, stored: StoredPart) -> Part {
        Part {
            content: self.content(&stored.content),
            etag: stored.etag,
            crc64: stored.crc64,
            modified: stored.modified,
        }
    }

    fn content(&mut self, stored: &[StoredSegment]) -> Content {
        let mut content = Content::default();
        for &(id, offset, bytes) in stored {
            let blob = self.blobs.entry(id).or_insert_with(|| self.dir.known_blob(id));
            content.push(Segment::File { blob: Arc::clone(blob), offset, bytes });
        }
        content
    }
}
