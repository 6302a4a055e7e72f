//! What stands in the bucket about one open upload.
//!
//! ```text
//! STATE_PREFIX uploads/KEY             the upload of KEY that may be gone on with
//! STATE_PREFIX uploads-more/HASH       where that is too long
//! STATE_PREFIX uploads-more/HASH-HASH  another upload of a key at the same time
//! ```
//!
//! `x-cos-meta` headers tell what a HEAD must tell; the body, a JSON document, the rest: the key, and what is
//! known of the parts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use super::gateway::Gateway;
use crate::cos::{Crc64, ETag, Key, NewObject, PartNumber, PartStored, UploadId, UserMetadata};

/// What a HEAD tells of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) upload: UploadId,
    pub(super) gateway: Gateway,
    pub(super) state: State,
    /// In whole seconds.
    pub(super) begun: SystemTime,
}

/// How an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It was on its way when this was written. `may_go_on`: what has arrived of it, from the first part on, is
    /// the beginning of a file that the FTP front was told to store under a name of its own.
    Live { may_go_on: bool },
    /// It broke, and waits to be gone on with. So many bytes are there.
    Kept { bytes: u64 },
}

/// One part of a kept upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) struct HeldPart {
    pub(in crate::vfs) stored: PartStored,
    /// `None` where another process has sent it, and nobody knows it any more.
    pub(in crate::vfs) crc64: Option<Crc64>,
}

/// The body.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    key: String,
    /// Size, CRC-64 and ETag, from the first one on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<(u64, Option<u64>, String)>,
}

/// Names below the state prefix.
#[derive(Debug)]
pub(super) struct Places {
    /// Ends in `/`.
    root: String,
}

impl Places {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.to_owned() }
    }

    /// What all entries begin with.
    pub(super) fn prefix(&self) -> String {
        format!("{}{UPLOADS}", self.root)
    }

    /// What all marks of outdated objects begin with.
    pub(super) fn marks_prefix(&self) -> String {
        format!("{}{OUTDATED}", self.root)
    }

    /// Where the upload of `key` stands; `None` where the state prefix leaves no room for any name.
    pub(super) fn first(&self, key: &Key) -> Option<Key> {
        self.place(UPLOADS, key)
    }

    /// Where the mark stands that the object under `key` is outdated; `None` as with [`Self::first`].
    pub(super) fn mark(&self, key: &Key) -> Option<Key> {
        self.place(OUTDATED, key)
    }

    fn place(&self, folder: &str, key: &Key) -> Option<Key> {
        let plain = Key::new(format!("{}{folder}/{}", self.root, key.as_str()));
        plain.or_else(|_| Key::new(format!("{}{folder}-more/{}", self.root, hash(key.as_str())))).ok()
    }

    /// Where a further upload of `key` stands.
    pub(super) fn further(&self, key: &Key, upload: &UploadId) -> Option<Key> {
        let name = format!("{}-{}", hash(key.as_str()), hash(upload.as_str()));
        Key::new(format!("{}{UPLOADS}-more/{name}", self.root)).ok()
    }

    /// The key that an entry's name tells; `None` for one that only its body tells.
    pub(super) fn key_in(&self, entry: &str) -> Option<Key> {
        let plain = entry.strip_prefix(&self.root)?.strip_prefix(UPLOADS)?.strip_prefix('/')?;
        Key::new(plain).ok()
    }
}

fn hash(text: &str) -> String {
    Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Entry {
    /// What the object is given beside its body.
    pub(super) fn new_object(&self, forbid_overwrite: bool) -> NewObject {
        let mut metadata = UserMetadata::new();
        let (state, bytes) = match self.state {
            State::Live { may_go_on: false } => ("live", None),
            State::Live { may_go_on: true } => ("live-new", None),
            State::Kept { bytes } => ("kept", Some(bytes)),
        };
        let mut note = |name: &str, value: String| metadata.insert(name.to_owned(), value);
        note(STATE, state.to_owned());
        note(UPLOAD, self.upload.as_str().to_owned());
        note(GATEWAY, self.gateway.encode());
        note(BEGUN, seconds(self.begun).to_string());
        if let Some(bytes) = bytes {
            note(BYTES, bytes.to_string());
        }
        let content_type = Some("application/json".to_owned());
        NewObject { content_type, metadata, forbid_overwrite }
    }

    /// From what a HEAD tells; `None` for what is none of ours.
    pub(super) fn read(metadata: &UserMetadata) -> Option<Self> {
        let value = |name: &str| metadata.get(name).map(String::as_str);
        let state = match value(STATE)? {
            "live" => State::Live { may_go_on: false },
            "live-new" => State::Live { may_go_on: true },
            "kept" => State::Kept { bytes: value(BYTES)?.parse().ok()? },
            _ => return None,
        };
        Some(Self {
            upload: UploadId::new(value(UPLOAD).filter(|upload| !upload.is_empty())?),
            gateway: Gateway::decode(value(GATEWAY)?)?,
            state,
            begun: UNIX_EPOCH.checked_add(Duration::from_secs(value(BEGUN)?.parse().ok()?))?,
        })
    }
}

/// The body of an entry.
pub(super) fn document(key: &Key, parts: &[HeldPart]) -> Bytes {
    let parts = parts.iter().map(|part| {
        let etag = part.stored.etag.as_str().to_owned();
        (part.stored.bytes, part.crc64.map(|crc64| crc64.0), etag)
    });
    let document = Document { key: key.as_str().to_owned(), parts: parts.collect() };
    Bytes::from(serde_json::to_vec(&document).expect("texts and numbers always fit into JSON"))
}

/// What the body of an entry tells: the key, and the parts.
pub(super) fn read_document(body: &[u8]) -> Option<(Key, Vec<HeldPart>)> {
    let document: Document = serde_json::from_slice(body).ok()?;
    let mut number = Some(PartNumber::FIRST);
    let parts = document.parts.into_iter().map(|(bytes, crc64, etag)| {
        let this = number?;
        number = this.next();
        let crc64 = crc64.map(Crc64);
        let stored = PartStored { number: this, etag: ETag::new(&etag), bytes, crc64, stored_at: None };
        Some(HeldPart { stored, crc64 })
    });
    let parts: Option<Vec<_>> = parts.collect();
    Some((Key::new(document.key).ok()?, parts?))
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Folders below the state prefix.
const UPLOADS: &str = "uploads";
const OUTDATED: &str = "outdated";

const STATE: &str = "state";
const UPLOAD: &str = "upload";
const GATEWAY: &str = "gateway";
const BEGUN: &str = "begun";
const BYTES: &str = "bytes";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cos::KEY_BYTES_MAX;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn names_stay_apart_and_fit() {
        let places = Places::new("mounted/.cosgate/");
        let (short, long) = (key("d/深圳.bin"), key(&"x".repeat(KEY_BYTES_MAX)));
        assert_eq!(places.first(&short).unwrap().as_str(), "mounted/.cosgate/uploads/d/深圳.bin");
        assert_eq!(places.key_in("mounted/.cosgate/uploads/d/深圳.bin"), Some(short.clone()));
        let hashed = places.first(&long).unwrap();
        assert!(hashed.as_str().starts_with("mounted/.cosgate/uploads-more/"), "{hashed}");
        assert_eq!(places.key_in(hashed.as_str()), None);
        let further = |upload| places.further(&short, &UploadId::new(upload)).unwrap();
        assert_ne!(further("1"), further("2"));
        assert_eq!(places.key_in(further("1").as_str()), None);
        for name in [&places.first(&short).unwrap(), &hashed, &further("1")] {
            assert!(name.as_str().starts_with(&places.prefix()));
        }
        assert_eq!(Places::new(&format!("{}/", "y".repeat(849))).first(&short), None);
    }

    #[test]
    fn strangers_are_no_entries() {
        assert_eq!(Entry::read(&UserMetadata::new()), None);
        let entry = Entry {
            upload: UploadId::new("u"),
            gateway: Gateway::of_this_process(),
            state: State::Kept { bytes: 7 },
            begun: UNIX_EPOCH,
        };
        let whole = entry.new_object(false).metadata;
        for name in [STATE, UPLOAD, GATEWAY, BEGUN, BYTES] {
            let mut lacking = whole.clone();
            lacking.remove(name);
            assert_eq!(Entry::read(&lacking), None, "without {name}");
        }
        assert!(read_document(b"{}").is_none() && read_document(b"x").is_none());
    }

    proptest! {
        #[test]
        fn an_entry_survives_its_journey(
            upload in "[!-~]{1,100}",
            state in prop_oneof![
                any::<bool>().prop_map(|may_go_on| State::Live { may_go_on }),
                any::<u64>().prop_map(|bytes| State::Kept { bytes }),
            ],
            begun in 0_u64..1 << 40,
            name in "[^/\u{0}-\u{1f}.][^\u{0}-\u{1f}]{0,100}",
            parts in proptest::collection::vec((any::<u64>(), any::<Option<u64>>(), "[0-9a-f]{32}"), 0..20),
        ) {
            let begun = UNIX_EPOCH + Duration::from_secs(begun);
            let entry = Entry { upload: UploadId::new(&upload), gateway: Gateway::of_this_process(), state, begun };
            let new = entry.new_object(true);
            prop_assert!(new.forbid_overwrite);
            // 2 KB in all (*PUT Object*).
            prop_assert!(new.metadata.iter().map(|(name, value)| name.len() + value.len() + 11).sum::<usize>() < 2048);
            prop_assert_eq!(Entry::read(&new.metadata), Some(entry));
            let parts: Vec<HeldPart> = parts.into_iter().zip(1..).map(|((bytes, crc64, etag), number)| {
                let (number, crc64) = (PartNumber::new(number).unwrap(), crc64.map(Crc64));
                HeldPart { stored: PartStored { number, etag: ETag::new(&etag), bytes, crc64, stored_at: None }, crc64 }
            }).collect();
            let key = key(&name);
            prop_assert_eq!(read_document(&document(&key, &parts)), Some((key, parts)));
        }
    }
}
