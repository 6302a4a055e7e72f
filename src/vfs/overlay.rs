//! Own recent changes, laid over what lists say.
//!
//! COS's lists are eventually consistent (*GET Bucket (List Objects)*): one made right after an upload may
//! miss it, one made after a delete may still show it. So what this gateway has written and deleted is
//! remembered for a while and wins over a list, unless the list tells of something younger. Bounded in
//! number and in age; what falls out is then seen as lists see it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    time::{Duration, Instant, SystemTime},
};

use super::attr::{Facts, PackedETag};

/// Changes remembered at most (about 15 MB).
const CHANGES_MAX: usize = 60_000;
/// How long a list may lag. COS names no bound; a minute is far above what is seen.
const LAG_MAX: Duration = Duration::from_secs(60);

/// What this gateway did to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// An object, or the marker of a directory.
    Put(Facts),
    /// Deleted; of a directory (a key that ends in `/`): with all that was below it.
    Deleted { etag: Option<PackedETag>, at: SystemTime },
}

#[derive(Debug)]
struct Own {
    change: Change,
    done: Instant,
}

/// The changes of one mount, by key.
#[derive(Debug)]
pub(super) struct Overlay {
    changes: BTreeMap<String, Own>,
    order: VecDeque<(Instant, String)>,
    age_max: Duration,
}

impl Overlay {
    pub(super) fn new(attr_ttl: Duration) -> Self {
        Self { changes: BTreeMap::new(), order: VecDeque::new(), age_max: LAG_MAX + attr_ttl }
    }

    /// Remembers a change that has just been made.
    pub(super) fn note(&mut self, key: &str, change: Change, now: Instant) {
        self.expire(now);
        self.changes.insert(key.to_owned(), Own { change, done: now });
        self.order.push_back((now, key.to_owned()));
    }

    /// The change of exactly this key, and when it was made.
    pub(super) fn change(&self, key: &str, now: Instant) -> Option<(&Change, Instant)> {
        let own = self.changes.get(key).filter(|own| self.is_young(own, now))?;
        Some((&own.change, own.done))
    }

    /// The same, if it was made at `asked` or later.
    pub(super) fn change_since(&self, key: &str, asked: Instant) -> Option<(&Change, Instant)> {
        self.change(key, Instant::now()).filter(|(_, done)| *done >= asked)
    }

    /// Whether a directory (its text ends in `/`) is there for all that own changes say.
    pub(super) fn directory(&self, directory: &str, now: Instant) -> Option<bool> {
        let mut answer = None;
        for (key, own) in self.below(directory) {
            match own.change {
                _ if !self.is_young(own, now) => {}
                Change::Put(_) => return Some(true),
                Change::Deleted { .. } if key == directory => answer = Some(false),
                Change::Deleted { .. } => {}
            }
        }
        answer
    }

    /// Own changes of the names directly in `directory`, sorted by name: a directory's ends in `/`, and
    /// `None` hides what a list shows.
    pub(super) fn names(&self, directory: &str, now: Instant) -> Vec<(String, Change)> {
        let mut names: Vec<(String, Change)> = Vec::new();
        for (key, own) in self.below(directory).filter(|(_, own)| self.is_young(own, now)) {
            let rest = &key[directory.len()..];
            if rest.is_empty() {
                continue;
            }
            let Some(slash) = rest.find('/') else {
                names.push((rest.to_owned(), own.change.clone()));
                continue;
            };
            let name = &rest[..=slash];
            let change = match &own.change {
                Change::Put(facts) => Change::Put(Facts::directory(facts.modified)),
                // The tombstone of the directory itself; a deleted file in it says nothing about it.
                Change::Deleted { .. } if name == rest => own.change.clone(),
                Change::Deleted { .. } => continue,
            };
            match names.last_mut() {
                Some((last, known)) if last == name => {
                    if matches!(change, Change::Put(_)) && matches!(known, Change::Deleted { .. }) {
                        *known = change;
                    }
                }
                _ => names.push((name.to_owned(), change)),
            }
        }
        names
    }

    /// Objects this gateway has put at or below a directory.
    pub(super) fn objects_below(&self, directory: &str, now: Instant) -> Vec<(String, Facts)> {
        let young = self.below(directory).filter(|(_, own)| self.is_young(own, now));
        young
            .filter_map(|(key, own)| match &own.change {
                Change::Put(facts) => Some((key.clone(), facts.clone())),
                Change::Deleted { .. } => None,
            })
            .collect()
    }

    fn below<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = (&'a String, &'a Own)> {
        self.changes
            .range::<str, _>((Bound::Included(directory), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(directory))
    }

    fn is_young(&self, own: &Own, now: Instant) -> bool {
        now.saturating_duration_since(own.done) < self.age_max
    }

    fn expire(&mut self, now: Instant) {
        while let Some((done, key)) = self.order.front() {
            let is_old = now.saturating_duration_since(*done) >= self.age_max;
            if !is_old && self.order.len() < CHANGES_MAX {
                return;
            }
            // Changed again since: the younger entry in the queue answers for it.
            if self.changes.get(key).is_some_and(|own| own.done == *done) {
                self.changes.remove(key);
            }
            self.order.pop_front();
        }
    }
}

impl Change {
    /// What there is, once a list (or nothing in it) and this change are weighed.
    pub(super) fn over(&self, listed: Option<&Facts>) -> Option<Facts> {
        match (self, listed) {
            (Self::Put(own), None) => Some(own.clone()),
            // Another gateway's object, younger than ours.
            (Self::Put(own), Some(listed)) if listed.modified > own.modified && listed.etag != own.etag => {
                Some(listed.clone())
            }
            (Self::Put(own), Some(_)) => Some(own.clone()),
            (Self::Deleted { .. }, None) => None,
            (Self::Deleted { etag, at }, Some(listed)) => {
                let is_what_was_deleted = listed.is_directory()
                    || (etag.is_some() && *etag == listed.etag)
                    || listed.modified <= *at;
                (!is_what_was_deleted).then(|| listed.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cos::ETag, vfs::attr::from_seconds};

    fn file(second: u64, etag: &str) -> Facts {
        Facts::of_object(1, from_seconds(second), &ETag::new(etag))
    }

    fn overlay() -> Overlay {
        Overlay::new(Duration::from_secs(5))
    }

    #[test]
    fn own_changes_show_through_directories() {
        let (mut overlay, now) = (overlay(), Instant::now());
        overlay.note("d/x", Change::Put(file(1, "a")), now);
        overlay.note("d/sub/deep/y", Change::Put(file(2, "b")), now);
        overlay.note("d/old/", Change::Deleted { etag: None, at: from_seconds(3) }, now);
        overlay.note("d/old/z", Change::Deleted { etag: None, at: from_seconds(3) }, now);
        let names = overlay.names("d/", now);
        let shown: Vec<_> =
            names.iter().map(|(name, change)| (name.as_str(), matches!(change, Change::Put(_)))).collect();
        assert_eq!(shown, [("old/", false), ("sub/", true), ("x", true)]);
        assert_eq!(overlay.directory("d/sub/", now), Some(true));
        assert_eq!(overlay.directory("d/old/", now), Some(false));
        assert_eq!(overlay.directory("e/", now), None);
        overlay.note("d/old/new", Change::Put(file(4, "c")), now);
        assert_eq!(overlay.directory("d/old/", now), Some(true));
        assert!(
            overlay
                .names("d/", now)
                .iter()
                .any(|(name, change)| name == "old/" && matches!(change, Change::Put(_)))
        );
    }

    #[test]
    fn a_younger_foreign_object_wins_and_a_lagging_list_does_not() {
        let own = Change::Put(file(10, "own"));
        assert_eq!(own.over(None), Some(file(10, "own")));
        assert_eq!(own.over(Some(&file(9, "old"))), Some(file(10, "own")));
        assert_eq!(own.over(Some(&file(11, "foreign"))), Some(file(11, "foreign")));
        let gone = Change::Deleted { etag: Some(PackedETag::new(&ETag::new("old"))), at: from_seconds(10) };
        assert_eq!(gone.over(None), None);
        assert_eq!(gone.over(Some(&file(20, "old"))), None, "the store's clock may run ahead");
        assert_eq!(gone.over(Some(&file(5, "older"))), None);
        assert_eq!(gone.over(Some(&file(12, "foreign"))), Some(file(12, "foreign")));
    }

    #[test]
    fn changes_age_and_their_number_is_bounded() {
        let (mut overlay, now) = (overlay(), Instant::now());
        overlay.note("a", Change::Put(file(1, "a")), now);
        let later = now + Duration::from_secs(65);
        assert_eq!(overlay.change("a", later), None);
        for number in 0..70_000 {
            overlay.note(&format!("k{number}"), Change::Put(file(1, "a")), later);
        }
        assert!(overlay.changes.len() <= CHANGES_MAX && overlay.order.len() <= CHANGES_MAX);
        assert!(overlay.change("k69999", later).is_some());
    }
}
