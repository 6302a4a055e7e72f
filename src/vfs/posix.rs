//! Times, mode, owner and extended attributes as user metadata of an object (`posix_metadata`).
//!
//! | `x-cos-meta-` | holds | understood by |
//! |---|---|---|
//! | `mtime`, `atime` | Unix seconds with a fraction: `1586515805.123456789` | rclone; s3fs, cosfs (whole seconds) |
//! | `mode` | st_mode in decimal, type bits included; a leading 0 is read as octal | s3fs, cosfs |
//! | `mode` with `S_IFLNK` | the object is a symbolic link, and its content the target | s3fs, cosfs |
//! | `uid`, `gid` | decimal | s3fs, cosfs |
//! | `xattr-NAME` | value of `user.NAME` in Base64; what is not a lower-case letter or digit is `-XX` | |
//!
//! Names hold letters, digits and `-` only, and fold to lower case; all together stay below 2 KB
//! (*Common Request Headers*, the older limit).

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::{AttributeChange, FileKind, VfsError, VfsResult, attr::LINK_MODE};
use crate::cos::UserMetadata;

/// Most bytes of user metadata, names and values (*PUT Object*, older editions).
const METADATA_BYTES_MAX: usize = 2048;
const HEADER_PREFIX_BYTES: usize = "x-cos-meta-".len();
const XATTR: &str = "xattr-";
/// `S_IFMT` and `S_IFLNK` of inode(7).
const TYPE_BITS: u32 = 0o170_000;
const LINK: u32 = 0o120_000;
const OWN: [&str; 5] = ["mtime", "atime", "mode", "uid", "gid"];

/// What is kept of a file beside its bytes. `None`: nothing kept, the configured look holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Posix {
    pub(super) modified: Option<SystemTime>,
    pub(super) accessed: Option<SystemTime>,
    /// Permission bits.
    pub(super) mode: Option<u16>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    /// The type bits are those of a symbolic link.
    pub(super) is_link: bool,
    /// Of `user.NAME`, by NAME.
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
}

impl Posix {
    /// What an object's metadata says; what cannot be read counts as absent.
    pub(super) fn of(metadata: &UserMetadata) -> Self {
        let text = |name: &str| metadata.get(name).map(String::as_str);
        let xattrs = metadata.iter().filter_map(|(name, value)| {
            Some((unescape(name.strip_prefix(XATTR)?)?, BASE64.decode(value).ok()?))
        });
        Self {
            modified: text("mtime").and_then(parse_time),
            accessed: text("atime").and_then(parse_time),
            mode: text("mode").and_then(parse_mode),
            uid: text("uid").and_then(|text| text.parse().ok()),
            gid: text("gid").and_then(|text| text.parse().ok()),
            is_link: text("mode").and_then(number).is_some_and(|mode| mode & TYPE_BITS == LINK),
            xattrs: xattrs.collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This over what an older version of the file kept, its times apart: the content has changed since.
    pub(super) fn over(&self, older: &UserMetadata) -> Self {
        let mut older = Self::of(older);
        if older.is_link {
            // The mode of a link is nobody's choice.
            older.mode = None;
        }
        let mut xattrs = older.xattrs;
        xattrs.extend(self.xattrs.clone());
        Self {
            mode: self.mode.or(older.mode),
            uid: self.uid.or(older.uid),
            gid: self.gid.or(older.gid),
            xattrs,
            ..self.clone()
        }
    }

    /// The kind of an object that keeps this, where it is none of a directory.
    pub(super) fn kind(&self) -> FileKind {
        if self.is_link { FileKind::Symlink } else { FileKind::File }
    }

    /// Takes over what SETATTR asks for, size apart.
    pub(super) fn apply(&mut self, change: &AttributeChange) {
        self.modified = change.modified.or(self.modified);
        self.accessed = change.accessed.or(self.accessed);
        self.mode = change.mode.or(self.mode);
        self.uid = change.uid.or(self.uid);
        self.gid = change.gid.or(self.gid);
    }

    /// Puts this into an object's metadata, in place of what it said of this; foreign entries stay.
    ///
    /// # Errors
    /// `Invalid` where all together passes 2 KB.
    pub(super) fn write(&self, kind: FileKind, metadata: &mut UserMetadata) -> VfsResult<()> {
        metadata.retain(|name, _| !name.starts_with(XATTR) && !OWN.contains(&name.as_str()));
        let mut set = |name: &str, value: Option<String>| match value {
            Some(value) => metadata.insert(name.to_owned(), value),
            None => None,
        };
        set("mtime", self.modified.map(print_time));
        set("atime", self.accessed.map(print_time));
        // What makes an object a link stands nowhere else.
        let mode = if kind == FileKind::Symlink { Some(LINK_MODE) } else { self.mode };
        set("mode", mode.map(|mode| (type_bits(kind) | u32::from(mode)).to_string()));
        set("uid", self.uid.map(|uid| uid.to_string()));
        set("gid", self.gid.map(|gid| gid.to_string()));
        for (name, value) in &self.xattrs {
            set(&format!("{XATTR}{}", escape(name)), Some(BASE64.encode(value)));
        }
        let bytes: usize =
            metadata.iter().map(|(name, value)| HEADER_PREFIX_BYTES + name.len() + value.len()).sum();
        if bytes > METADATA_BYTES_MAX {
            return Err(VfsError::Invalid { why: "an object keeps at most 2 KB of metadata" });
        }
        Ok(())
    }
}

fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => 0o100_000,
        FileKind::Directory => 0o040_000,
        FileKind::Symlink => LINK,
    }
}

fn number(text: &str) -> Option<u32> {
    let radix = if text.len() > 1 && text.starts_with('0') { 8 } else { 10 };
    u32::from_str_radix(text, radix).ok()
}

fn parse_mode(text: &str) -> Option<u16> {
    u16::try_from(number(text)? & 0o7777).ok()
}

/// Unix seconds with up to nine digits behind a point.
fn parse_time(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    let (negative, whole) = match whole.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, whole),
    };
    let since = Duration::from_secs(whole.parse().ok()?).checked_add(Duration::from_nanos(nanos))?;
    if negative { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) }
}

fn print_time(time: SystemTime) -> String {
    let (sign, since) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => ("", since),
        Err(before) => ("-", before.duration()),
    };
    match since.subsec_nanos() {
        0 => format!("{sign}{}", since.as_secs()),
        nanos => format!("{sign}{}.{nanos:09}", since.as_secs()).trim_end_matches('0').to_owned(),
    }
}

fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("-{byte:02x}")),
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(byte) = rest.bytes().next() {
        if byte == b'-' {
            bytes.push(u8::from_str_radix(rest.get(1..3)?, 16).ok()?);
            rest = &rest[3..];
        } else {
            bytes.push(byte);
            rest = rest.get(1..)?;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_other_programs_wrote_is_understood() {
        let metadata = UserMetadata::from([
            ("mtime".to_owned(), "1586515805.25".to_owned()),
            ("mode".to_owned(), "33188".to_owned()),
            ("uid".to_owned(), "1000".to_owned()),
        ]);
        let kept = Posix::of(&metadata);
        assert_eq!(kept.modified, Some(UNIX_EPOCH + Duration::from_millis(1_586_515_805_250)));
        assert_eq!((kept.mode, kept.uid, kept.gid), (Some(0o644), Some(1000), None));
        let octal = UserMetadata::from([("mode".to_owned(), "0100750".to_owned())]);
        assert_eq!(Posix::of(&octal).mode, Some(0o750));
        let nonsense = UserMetadata::from([
            ("mtime".to_owned(), "yesterday".to_owned()),
            ("mode".to_owned(), "rwx".to_owned()),
        ]);
        assert!(Posix::of(&nonsense).is_empty());
    }

    #[test]
    fn foreign_metadata_stays_and_two_kilobytes_are_the_end() {
        let mut metadata = UserMetadata::from([("author".to_owned(), "李".to_owned())]);
        let mut kept = Posix { mode: Some(0o600), ..Posix::default() };
        kept.write(FileKind::File, &mut metadata).unwrap();
        assert_eq!(metadata["author"], "李");
        assert_eq!(metadata["mode"], "33152");
        kept.xattrs.insert("big".to_owned(), vec![7; 1600]);
        assert!(matches!(kept.write(FileKind::File, &mut metadata), Err(VfsError::Invalid { .. })));
    }

    #[test]
    fn a_link_is_told_by_its_type_bits_and_by_nothing_else() {
        for (mode, is_link) in [
            ("41471", true),
            ("0120777", true),
            ("33279", false),
            ("49663", false),
            ("511", false),
            ("x", false),
        ] {
            let metadata = UserMetadata::from([("mode".to_owned(), mode.to_owned())]);
            assert_eq!(Posix::of(&metadata).is_link, is_link, "{mode}");
        }
        let link = Posix { is_link: true, uid: Some(7), ..Posix::default() };
        let mut metadata = UserMetadata::new();
        link.write(link.kind(), &mut metadata).unwrap();
        assert_eq!(metadata["mode"], "41471");
        // A file that takes its place is none, and has no mode from it.
        let file = Posix::default().over(&metadata);
        assert_eq!((file.kind(), file.mode, file.uid), (FileKind::File, None, Some(7)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            nanos in any::<i64>(), mode in 0_u16..0o10000, uid in any::<u32>(),
            name in "[a-zA-Z0-9._ é-]{1,40}", value in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let since = Duration::from_nanos(nanos.unsigned_abs());
            let modified = if nanos < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since };
            let kept = Posix {
                modified: Some(modified),
                accessed: None,
                mode: Some(mode),
                uid: Some(uid),
                gid: None,
                is_link: false,
                xattrs: BTreeMap::from([(name, value)]),
            };
            let mut metadata = UserMetadata::new();
            kept.write(FileKind::File, &mut metadata).unwrap();
            prop_assert!(metadata.keys().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')));
            prop_assert_eq!(Posix::of(&metadata), kept);
        }
    }
}
