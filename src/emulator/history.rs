//! What keys named before: lists of COS lag behind writes (*GET Bucket (List Objects)*), and with this a
//! list can show a bucket as it was. Records nothing until somebody wants it.

use std::{collections::BTreeMap, sync::Arc};

use super::store::{KeyBytes, Object};

/// The changes since recording began, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    wanted: bool,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    at_ms: i64,
    bucket: String,
    key: KeyBytes,
    /// `None`: there was none.
    before: Option<Arc<Object>>,
}

impl History {
    /// Starts recording, or stops and forgets.
    pub(super) fn record(&mut self, wanted: bool) {
        self.wanted = wanted;
        if !wanted {
            self.changes.clear();
        }
    }

    /// The key named `before` until now.
    pub(super) fn note(&mut self, bucket: &str, key: &[u8], before: Option<Arc<Object>>, now_ms: i64) {
        if self.wanted {
            let change = Change { at_ms: now_ms, bucket: bucket.to_owned(), key: key.into(), before };
            self.changes.push(change);
        }
    }

    /// The keys that were otherwise at `cutoff_ms`, with what they named then.
    pub(super) fn before(&self, bucket: &str, cutoff_ms: i64) -> BTreeMap<KeyBytes, Option<Arc<Object>>> {
        let mut then = BTreeMap::new();
        let newer = self.changes.iter().filter(|change| change.bucket == bucket && change.at_ms > cutoff_ms);
        for change in newer {
            // The first change behind the cutoff tells what was there before it.
            then.entry(change.key.clone()).or_insert_with(|| change.before.clone());
        }
        then
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_change_behind_the_cutoff_decides() {
        let mut history = History::default();
        history.note("b", b"early", None, 1);
        history.record(true);
        history.note("b", b"k", None, 10);
        let object = Arc::new(Object {
            content: Default::default(),
            etag: "e".into(),
            crc64: 0,
            modified: 0,
            appendable: false,
            attributes: Default::default(),
        });
        history.note("b", b"k", Some(object), 20);
        let then = |cutoff| history.before("b", cutoff);
        assert!(then(5).get(&b"k"[..]).unwrap().is_none());
        assert_eq!(then(15).get(&b"k"[..]).unwrap().as_ref().unwrap().etag, "e");
        assert!(then(20).is_empty());
        assert!(history.before("other", 0).is_empty());
    }
}
