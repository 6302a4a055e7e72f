//! What is known about a file or directory, small enough for a million of them, and what stat shows of it.
//!
//! [`Facts`] come from a list, a HEAD or a publish of our own. [`PackedETag`] keeps an ETag in 24 bytes: nearly
//! every one is 32 hexadecimal digits, those of multipart objects with the number of parts behind them
//! (*PUT Object*, *Complete Multipart Upload*).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Attributes, FileKind, InodeNo, posix::Posix};
use crate::{
    config::Appearance,
    cos::{ETag, ListedObject, ObjectMeta},
};

/// Longest target of a symbolic link, in bytes (PATH_MAX of Linux, without its zero byte).
pub(super) const TARGET_BYTES_MAX: u64 = 4095;
/// Nobody asks for the mode of a link; this is what Linux shows.
pub(super) const LINK_MODE: u16 = 0o777;

/// What a name leads to, as far as the store (or our own publish) told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    /// `File` for a link too, as long as nobody has asked for its metadata: [`Facts::judged_by`].
    pub(super) kind: FileKind,
    /// 0 for directories.
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
    /// `None` for directories, and for what was never published.
    pub(super) etag: Option<PackedETag>,
}

impl Facts {
    pub(super) fn directory(modified: SystemTime) -> Self {
        Self { kind: FileKind::Directory, bytes: 0, modified, etag: None }
    }

    pub(super) fn of_meta(meta: &ObjectMeta) -> Self {
        Self::of_object(meta.size, meta.last_modified, &meta.etag)
    }

    pub(super) fn of_listed(object: &ListedObject) -> Self {
        Self::of_object(object.size, object.last_modified, &object.etag)
    }

    pub(super) fn of_object(bytes: u64, modified: SystemTime, etag: &ETag) -> Self {
        Self { kind: FileKind::File, bytes, modified, etag: Some(PackedETag::new(etag)) }
    }

    /// A file that exists for its writer only.
    pub(super) fn unpublished(now: SystemTime) -> Self {
        Self { kind: FileKind::File, bytes: 0, modified: now, etag: None }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    pub(super) fn is_link(&self) -> bool {
        self.kind == FileKind::Symlink
    }

    /// Whether only the kept metadata can tell a file from a symbolic link.
    pub(super) fn may_be_link(&self) -> bool {
        !self.is_directory() && self.etag.is_some() && (1..=TARGET_BYTES_MAX).contains(&self.bytes)
    }

    /// The same with the kind that the kept metadata tells, which lists do not.
    pub(super) fn judged_by(mut self, kept: Option<&Posix>) -> Self {
        if !self.is_directory() {
            let is_link = self.may_be_link() && kept.is_some_and(|kept| kept.is_link);
            self.kind = if is_link { FileKind::Symlink } else { FileKind::File };
        }
        self
    }
}

/// An [`ETag`] without an allocation, where it looks as COS's do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum PackedETag {
    Digest([u8; 16]),
    Parts([u8; 16], u16),
    Other(Box<str>),
}

impl PackedETag {
    pub(super) fn new(etag: &ETag) -> Self {
        let text = etag.as_str();
        let packed = match text.split_once('-') {
            None => digest(text).map(Self::Digest),
            Some((head, parts)) => digest(head)
                .zip(parts.parse().ok())
                // "-07" would come back as "-7".
                .filter(|(_, number): &(_, u16)| number.to_string() == parts)
                .map(|(head, number)| Self::Parts(head, number)),
        };
        packed.unwrap_or_else(|| Self::Other(text.into()))
    }

    pub(super) fn unpack(&self) -> ETag {
        match self {
            Self::Digest(digest) => ETag::new(&hexadecimal(digest)),
            Self::Parts(digest, parts) => ETag::new(&format!("{}-{parts}", hexadecimal(digest))),
            Self::Other(text) => ETag::new(text),
        }
    }
}

fn digest(text: &str) -> Option<[u8; 16]> {
    let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 32 || !text.bytes().all(is_lower_hex) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

fn hexadecimal(digest: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*digest))
}

/// How files look: the configured owner and modes, or with `posix_metadata` those kept with the object.
pub(super) fn attributes(
    inode: InodeNo,
    facts: &Facts,
    shows: &Appearance,
    kept: Option<&Posix>,
) -> Attributes {
    let kept = kept.cloned().unwrap_or_default();
    let mode = match facts.kind {
        FileKind::File => kept.mode.unwrap_or(shows.file_mode),
        FileKind::Directory => kept.mode.unwrap_or(shows.dir_mode),
        FileKind::Symlink => LINK_MODE,
    };
    let modified = kept.modified.unwrap_or(facts.modified);
    Attributes {
        inode,
        kind: facts.kind,
        bytes: facts.bytes,
        modified,
        accessed: kept.accessed.unwrap_or(modified),
        mode,
        uid: kept.uid.or(shows.uid).unwrap_or(0),
        gid: kept.gid.or(shows.gid).unwrap_or(0),
        links: 1,
    }
}

/// Whole seconds since 1970, as lists tell times; what lies before counts as 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time that [`seconds`] came from.
pub(super) fn from_seconds(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_come_back_as_they_were() {
        for text in [
            "ee8de918d05640145b18f70f4c3aa602",
            "00000000000000000000000000000000",
            "aa259a62513358f69e98e72e59856d88-3",
            "aa259a62513358f69e98e72e59856d88-10000",
            "aa259a62513358f69e98e72e59856d88-03",
            "AA259A62513358F69E98E72E59856D88",
            "not a digest",
            "",
        ] {
            assert_eq!(PackedETag::new(&ETag::new(text)).unpack(), ETag::new(text), "{text}");
        }
        let plain = PackedETag::new(&ETag::new("ee8de918d05640145b18f70f4c3aa602"));
        assert!(matches!(plain, PackedETag::Digest(_)));
        assert!(size_of::<PackedETag>() <= 24);
    }
}
