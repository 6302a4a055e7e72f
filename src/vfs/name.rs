//! File name <-> key, and the names that cannot be one or the other.
//!
//! A directory is a text that ends in `/` (the root of a mount of a whole bucket: the empty text); a file
//! in it is that text and a name. Not every key can be shown as a file: `a//b`, a piece that is `.` or
//! `..`, a piece above 255 bytes. Those are counted, logged once each, and never listed as something else.
//! The program's own keys (`state_prefix`) can neither be seen nor reached.

use std::{
    ffi::OsStr,
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
};

use lru::LruCache;
use parking_lot::Mutex;
use tracing::warn;

use super::{VfsError, VfsResult};
use crate::cos::{Key, KeyError};

/// Longest name of a file in bytes (NAME_MAX of Linux).
pub(super) const NAME_BYTES_MAX: usize = 255;
/// Names that are remembered as logged already.
const LOGGED_NAMES_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");

/// The names of one mount.
#[derive(Debug)]
pub(super) struct Names {
    /// Empty, or ending in `/`.
    prefix: String,
    /// Where this program keeps its own keys; ends in `/`.
    state: String,
    impossible: AtomicU64,
    logged: Mutex<LruCache<String, ()>>,
}

impl Names {
    pub(super) fn new(prefix: &str, state_prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            state: format!("{prefix}{state_prefix}"),
            impossible: AtomicU64::new(0),
            logged: Mutex::new(LruCache::new(LOGGED_NAMES_MAX)),
        }
    }

    /// The directory that the root of the mount shows.
    pub(super) fn root(&self) -> &str {
        &self.prefix
    }

    /// What the program's own keys begin with.
    pub(super) fn state_root(&self) -> &str {
        &self.state
    }

    /// The text of a key of the program's own.
    pub(super) fn own(&self, rest: &str) -> String {
        format!("{}{rest}", self.state)
    }

    /// Whether a key, or a directory, is the program's own. The bare name is reserved too: a file of that
    /// name would stand beside the directory of it.
    pub(super) fn is_hidden(&self, text: &str) -> bool {
        text.starts_with(&self.state) || text == &self.state[..self.state.len() - 1]
    }

    /// The key of file `name` in `directory`.
    ///
    /// # Errors
    /// `NameTooLong`, or `NameImpossible` for what no key can be.
    pub(super) fn key(&self, directory: &str, name: &str) -> VfsResult<Key> {
        let text = format!("{directory}{name}");
        if self.is_hidden(&text) {
            return Err(VfsError::NameImpossible { name: name.to_owned() });
        }
        to_key(&text, name)
    }

    /// The key of the marker object of directory `name` in `directory`.
    ///
    /// # Errors
    /// As [`Self::key`].
    pub(super) fn marker(&self, directory: &str, name: &str) -> VfsResult<Key> {
        let text = format!("{directory}{name}/");
        if self.is_hidden(&text) {
            return Err(VfsError::NameImpossible { name: name.to_owned() });
        }
        to_key(&text, name)
    }

    /// Whether a listed name can be a file. `piece` is what stands behind the directory, without the
    /// slash of a directory; what it cannot be is counted, and logged once.
    pub(super) fn can_be_listed(&self, directory: &str, piece: &str) -> bool {
        let text = format!("{directory}{piece}");
        if self.is_hidden(&text) {
            return false;
        }
        if component(OsStr::new(piece)).is_ok() && Key::new(&text).is_ok() {
            return true;
        }
        self.impossible.fetch_add(1, Ordering::Relaxed);
        if self.logged.lock().put(text.clone(), ()).is_none() {
            let key = text.escape_debug();
            warn!(%key, "this key cannot be the name of a file, and is not shown");
        }
        false
    }

    /// Says once that a file is hidden by the directory of the same name.
    pub(super) fn note_shadowed(&self, directory: &str, name: &str) {
        let text = format!("{directory}{name}");
        if self.logged.lock().put(text.clone(), ()).is_none() {
            let key = text.escape_debug();
            warn!(%key, "an object and a directory have the same name: the directory is shown, the object is not");
        }
    }
}

/// A name as the kernel gives it.
///
/// # Errors
/// `NameTooLong` above 255 bytes, `NameImpossible` for what COS cannot keep.
pub(super) fn component(name: &OsStr) -> VfsResult<&str> {
    if name.len() > NAME_BYTES_MAX {
        return Err(VfsError::NameTooLong);
    }
    let impossible = || VfsError::NameImpossible { name: name.to_string_lossy().into_owned() };
    let text = name.to_str().ok_or_else(impossible)?;
    if matches!(text, "" | "." | "..") || text.contains(['/', '\0']) {
        return Err(impossible());
    }
    Ok(text)
}

fn to_key(text: &str, name: &str) -> VfsResult<Key> {
    Key::new(text).map_err(|error| match error {
        KeyError::TooLong(_) => VfsError::NameTooLong,
        KeyError::Empty | KeyError::Unsupported => VfsError::NameImpossible { name: name.to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn names_become_keys_below_the_prefix() {
        let names = Names::new("in/", ".cosgate/");
        assert_eq!(names.key("in/", "深圳 +%").unwrap().as_str(), "in/深圳 +%");
        assert_eq!(names.marker("in/a/", "b").unwrap().as_str(), "in/a/b/");
        assert!(matches!(names.key("in/", &"x".repeat(848)), Err(VfsError::NameTooLong)));
        assert!(names.key("in/", &"x".repeat(847)).is_ok());
    }

    #[test]
    fn the_programs_own_keys_cannot_be_reached() {
        let names = Names::new("in/", ".cosgate/");
        for text in ["in/.cosgate", "in/.cosgate/", "in/.cosgate/uploads/x"] {
            assert!(names.is_hidden(text), "{text}");
        }
        assert!(!names.is_hidden("in/.cosgates"));
        assert!(matches!(names.key("in/", ".cosgate"), Err(VfsError::NameImpossible { .. })));
        assert!(matches!(names.marker("in/", ".cosgate"), Err(VfsError::NameImpossible { .. })));
        assert!(!names.can_be_listed("in/", ".cosgate"));
    }

    #[test]
    fn what_the_kernel_cannot_mean_is_refused() {
        assert!(matches!(component(OsStr::new(&"x".repeat(256))), Err(VfsError::NameTooLong)));
        assert!(component(OsStr::new(&"x".repeat(255))).is_ok());
        assert!(component(OsStr::new("line\nbreak")).is_ok());
        assert!(matches!(component(OsStr::from_bytes(b"\xff")), Err(VfsError::NameImpossible { .. })));
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert!(matches!(component(OsStr::new(name)), Err(VfsError::NameImpossible { .. })), "{name:?}");
        }
    }

    #[test]
    fn keys_that_cannot_be_files_are_counted() {
        let names = Names::new("", ".cosgate/");
        assert!(names.can_be_listed("a/", "b"));
        for piece in ["", ".", "..", "x\u{1a}", &"y".repeat(256)] {
            assert!(!names.can_be_listed("a/", piece), "{piece:?}");
        }
        assert_eq!(names.impossible.load(Ordering::Relaxed), 5);
    }
}
