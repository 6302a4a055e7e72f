//! What a bucket is made of, valid by construction: keys, ETags, part numbers, object attributes.
//!
//! A value of these types has been checked once, where it came in; behind that point nobody asks again.
//! Nothing here speaks HTTP or XML: that is `wire.rs`.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU16,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::Latch;

/// The name of an object: 1 to 850 bytes of UTF-8 (*Object Overview*).
///
/// A key never begins with `/` and never folds to nothing once `.`, `..` and empty elements are taken
/// out: such a key turns a GET into a list, and a DELETE into the deletion of the bucket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Why a text cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing is left of it.
    #[error("a key cannot be empty, nor consist of dots and slashes alone")]
    Empty,
    /// Longer than COS takes.
    #[error("a key has at most {KEY_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// COS drops or misreads it: a leading slash, or the control characters 0x18 to 0x1B.
    #[error("a key cannot begin with a slash, nor hold the characters 0x18 to 0x1B")]
    Unsupported,
}

/// Longest key in bytes (*Specifications and Limits*).
pub const KEY_BYTES_MAX: usize = 850;
/// Highest part number of an upload (*Specifications and Limits*).
pub const PARTS_MAX: u16 = 10_000;
/// Smallest part in bytes, the last one excepted (*Specifications and Limits*).
pub const PART_BYTES_MIN: u64 = 1 << 20;
/// Largest single PUT, part, or simple copy in bytes (*Specifications and Limits*).
pub const PUT_BYTES_MAX: u64 = 5 << 30;

impl Key {
    /// A key from its text.
    ///
    /// # Errors
    /// [`KeyError`] where COS would refuse, drop or misread it.
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong(text.len()));
        }
        if folds_to_nothing(text) {
            return Err(KeyError::Empty);
        }
        if text.starts_with('/') || text.bytes().any(|byte| (0x18..=0x1b).contains(&byte)) {
            return Err(KeyError::Unsupported);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the marker of a directory: a key that ends in a slash.
    pub fn is_directory_marker(&self) -> bool {
        self.0.ends_with('/')
    }
}

/// Whether an HTTP library or a front end that resolves `.`, `..` and `//` would be left with the bucket itself.
fn folds_to_nothing(text: &str) -> bool {
    let mut depth = 0_usize;
    for element in text.split('/') {
        match element {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    depth == 0
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Key {
    /// Control characters are escaped, so that a key cannot forge a line of the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in self.0.chars() {
            if piece.is_control() { write!(f, "{}", piece.escape_default())? } else { write!(f, "{piece}")? }
        }
        Ok(())
    }
}

/// What an object is right now, as an opaque text without its quotes. Equal ETags of one key mean equal bytes.
///
/// Never recomputed: of a multipart object it is not a hash of anything known (*Complete Multipart Upload*).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(Arc<str>);

impl ETag {
    /// An ETag as it stands in a header or a document, with or without quotes.
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text.trim().trim_matches('"')))
    }

    /// The text without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name COS gives to a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(Arc<str>);

impl UploadId {
    /// An upload ID as COS told it.
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The place of a part in its upload, 1 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(NonZeroU16);

impl PartNumber {
    /// The first one.
    pub const FIRST: Self = Self(NonZeroU16::MIN);

    /// A part number, if COS knows it.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).filter(|number| number.get() <= PARTS_MAX).map(Self)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// The part after this one, if there can be one.
    pub fn next(self) -> Option<Self> {
        Self::new(self.get() + 1)
    }
}

/// CRC-64/XZ of some bytes, as COS reports it in `x-cos-hash-crc64ecma` (*CRC64 Check*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crc64(pub u64);

impl Crc64 {
    /// The checksum of no bytes.
    pub const EMPTY: Self = Self(0);

    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, bytes))
    }

    /// The checksum of these bytes followed by `next_bytes` bytes whose checksum is `next`. O(log n).
    #[must_use]
    pub fn followed_by(self, next: Self, next_bytes: u64) -> Self {
        Self(crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc64Xz, self.0, next.0, next_bytes))
    }
}

impl fmt::Display for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The bytes of a PUT or of a part: pieces that are sent one after the other and never copied.
///
/// Cloning shares the pieces, so a request can be sent again.
#[derive(Debug, Clone)]
pub struct Payload {
    pieces: Arc<[Bytes]>,
    bytes: u64,
    crc64: Crc64,
    /// Told each time that a connection has taken all of it.
    taken: Option<Arc<Notify>>,
    latch: Option<Arc<Latch>>,
}

impl Payload {
    /// A payload whose checksum is known already.
    pub fn with_crc64(pieces: Vec<Bytes>, crc64: Crc64) -> Self {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: pieces.into(), bytes, crc64, taken: None, latch: None }
    }

    /// Tells `taken` when a connection has taken all of it: the answer is what a request waits for from then on. A
    /// bucket in memory, and a request that fails earlier, tell nothing.
    pub fn tells(mut self, taken: Arc<Notify>) -> Self {
        self.taken = Some(taken);
        self
    }

    /// Keeps its last byte back until `latch` opens: until then COS has a request that is not whole, and makes nothing of it.
    pub fn held_by(mut self, latch: Arc<Latch>) -> Self {
        self.latch = Some(latch);
        self
    }

    /// Waits until all of it may leave.
    pub async fn let_go(&self) {
        if let Some(latch) = &self.latch {
            latch.opened().await;
        }
    }

    /// Ready once its last byte may leave.
    pub(super) fn poll_let_go(&self, context: &Context<'_>) -> Poll<()> {
        self.latch.as_ref().map_or(Poll::Ready(()), |latch| latch.poll_open(context))
    }

    /// A connection has taken all of it.
    pub fn note_taken(&self) {
        if let Some(taken) = &self.taken {
            taken.notify_one();
        }
    }

    /// A payload of one piece.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let piece = bytes.into();
        let crc64 = Crc64::of(&piece);
        Self::with_crc64(vec![piece], crc64)
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The checksum of all pieces.
    pub fn crc64(&self) -> Crc64 {
        self.crc64
    }
}

/// User metadata: the part of `x-cos-meta-NAME` behind the last dash, lower case, with its raw value.
///
/// Values are any UTF-8; `wire.rs` makes them ASCII on the way out and turns them back on the way in.
pub type UserMetadata = BTreeMap<String, String>;

/// What HEAD and GET tell about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Length in bytes of the whole object.
    pub size: u64,
    pub etag: ETag,
    /// The ETag is the MD5 of the content: one PUT has stored it, without a key of KMS or of the client's
    /// (*Common Response Headers*).
    pub etag_is_md5: bool,
    /// Whole seconds.
    pub last_modified: SystemTime,
    /// Absent for objects older than the feature.
    pub crc64: Option<Crc64>,
    pub content_type: Option<String>,
    pub metadata: UserMetadata,
}

/// What an object is given when it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewObject {
    /// By suffix where none is given.
    pub content_type: Option<String>,
    pub metadata: UserMetadata,
    /// Refuse with [`super::Reason::Exists`] where the key is taken (`x-cos-forbid-overwrite`).
    pub forbid_overwrite: bool,
}

/// What COS tells of bytes it has just stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub etag: ETag,
    /// Checked already where the caller knew what to expect; `None` where COS told none.
    pub crc64: Option<Crc64>,
    /// When the object was last modified, where the answer tells (copies do, a PUT does not).
    pub last_modified: Option<SystemTime>,
}

/// One part of an upload, as CompleteMultipartUpload wants it named and as ListParts names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartStored {
    pub number: PartNumber,
    pub etag: ETag,
    pub bytes: u64,
    pub crc64: Option<Crc64>,
    /// When COS stored it, as ListParts tells; the answer to a part does not.
    pub stored_at: Option<SystemTime>,
}

/// The bytes `first..first + length` of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    pub first: u64,
    /// At least 1.
    pub length: u64,
}

/// Which objects to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Only keys that begin so; may be empty.
    pub prefix: String,
    /// Group what follows the next `/` behind the prefix into [`ListPage::prefixes`].
    pub by_directory: bool,
    /// Only what comes after this key or group, in byte order; empty = from the start.
    pub marker: String,
    /// 1 to 1,000.
    pub entries_max: u16,
}

/// One page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// In byte order of their keys. The marker object of the listed directory itself may be among them.
    pub objects: Vec<ListedObject>,
    /// Groups, each with its trailing `/`, in byte order.
    pub prefixes: Vec<String>,
    /// Where the next page begins; `None` on the last page.
    pub next_marker: Option<String>,
}

/// An object as a list tells it: no metadata, no checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// As it stands in the bucket; may be a text that [`Key::new`] refuses.
    pub key: String,
    pub size: u64,
    pub etag: ETag,
    pub last_modified: SystemTime,
}

/// An upload that has been begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    pub key: String,
    pub upload: UploadId,
    pub initiated: SystemTime,
}

/// What a publish must have made, to judge an answer that did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub bytes: u64,
    /// `None` where parts of an earlier process are among it: nobody knows their checksums any more.
    pub crc64: Option<Crc64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_would_hit_the_bucket_are_refused() {
        for text in ["", "/", ".", "..", "//", "./..", "a/..", "a/../..", "a/b/../.."] {
            assert_eq!(Key::new(text), Err(KeyError::Empty), "{text:?}");
        }
        assert!(Key::new("a/../b").is_ok());
        assert_eq!(Key::new("/a"), Err(KeyError::Unsupported));
        assert_eq!(Key::new("a\u{1a}"), Err(KeyError::Unsupported));
        assert_eq!(Key::new("x".repeat(851)), Err(KeyError::TooLong(851)));
        assert!(Key::new("x".repeat(850)).is_ok());
    }

    #[test]
    fn part_numbers_end_at_ten_thousand() {
        assert_eq!(PartNumber::new(0), None);
        assert_eq!(PartNumber::new(10_001), None);
        assert_eq!(PartNumber::new(10_000).and_then(PartNumber::next), None);
        assert_eq!(PartNumber::FIRST.next().map(PartNumber::get), Some(2));
    }

    #[test]
    fn checksums_combine() {
        let (head, tail) = (b"1234", b"56789");
        let combined = Crc64::of(head).followed_by(Crc64::of(tail), tail.len() as u64);
        assert_eq!(combined, Crc64(11_051_210_869_376_104_954));
        assert_eq!(Crc64::of(b""), Crc64::EMPTY);
    }
}
