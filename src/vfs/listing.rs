//! What a LIST said about a directory, small and sorted, and the directories whose lists are remembered.
//!
//! A [`Page`] is one page of a list: the names behind `from`, up to `next_marker`. The name of a directory
//! ends in `/`, so that names sort as COS sorts keys and pages meet without a gap. A [`Listing`] is the pages
//! of one directory in order; complete, it answers every question about the directory's names, absent ones
//! too, as long as it is fresh. The [`ListingCache`] is bounded in bytes.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use lru::LruCache;

use super::{
    attr::{Facts, PackedETag, from_seconds, seconds},
    name::Names,
};
use crate::cos::ListPage;

/// Directories known to be larger than a page, and keys looked for one by one, at most.
const LARGE_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Walks through directories that are remembered, each with a page of names at most.
const WALKS_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
/// Names asked for in order that make a walk.
const WALK_LOOKS: u32 = 4;
/// How long somebody who walks may take for one name.
const WALK_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a directory counts as large without a new look.
const LARGE_AGE_MAX: Duration = Duration::from_secs(60);

/// The names of a page with what the list tells of them.
#[derive(Debug)]
pub(super) struct Page {
    /// When it was asked for: a listing of a million names is read for longer than any of it may be trusted.
    pub(super) asked: Instant,
    /// All names, one behind the other.
    names: String,
    rows: Vec<Row>,
    /// Whether the marker object of the directory itself is among the page.
    pub(super) has_marker: bool,
    /// Where the next page begins, as a key; `None` on the last one.
    pub(super) next_marker: Option<String>,
}

/// Whether a page that ends at `end` cannot tell if there is a directory of a file's name.
pub(super) fn is_undecided(name: &str, end: Option<&str>) -> bool {
    end.is_some_and(|end| format!("{name}/").as_str() > end)
}

#[derive(Debug)]
struct Row {
    name_end: u32,
    modified: u64,
    bytes: u64,
    /// `None` for a directory.
    etag: Option<PackedETag>,
}

impl Page {
    /// The page `list` of `directory`. Names that cannot be files are left out.
    pub(super) fn new(list: &ListPage, directory: &str, names: &Names, asked: Instant) -> Self {
        let next_marker = list.next_marker.clone();
        let mut page = Self { asked, names: String::new(), rows: Vec::new(), has_marker: false, next_marker };
        let mut objects = list.objects.iter().peekable();
        let mut prefixes = list.prefixes.iter().peekable();
        loop {
            let takes_object = match (objects.peek(), prefixes.peek()) {
                (Some(object), Some(prefix)) => object.key.as_str() < prefix.as_str(),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return page,
            };
            if takes_object {
                let Some(object) = objects.next() else { continue };
                let name = object.key.strip_prefix(directory).unwrap_or("");
                if name.is_empty() {
                    page.has_marker = true;
                } else if list.prefixes.binary_search(&format!("{}/", object.key)).is_ok() {
                    names.note_shadowed(directory, name);
                } else if names.can_be_listed(directory, name) {
                    page.push(name, &Facts::of_listed(object));
                }
            } else if let Some(prefix) = prefixes.next() {
                let name = prefix.strip_prefix(directory).unwrap_or("");
                if names.can_be_listed(directory, name.strip_suffix('/').unwrap_or(name)) {
                    page.push(name, &Facts::directory(from_seconds(0)));
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The name at a place; that of a directory ends in `/`.
    pub(super) fn name(&self, place: usize) -> &str {
        let start = if place == 0 { 0 } else { self.rows[place - 1].name_end as usize };
        &self.names[start..self.rows[place].name_end as usize]
    }

    pub(super) fn facts(&self, place: usize) -> Facts {
        let row = &self.rows[place];
        match &row.etag {
            None => Facts::directory(from_seconds(row.modified)),
            Some(_) => Facts {
                kind: super::FileKind::File,
                bytes: row.bytes,
                modified: from_seconds(row.modified),
                etag: row.etag.clone(),
            },
        }
    }

    /// What the page says of a name (that of a directory ends in `/`).
    pub(super) fn find(&self, name: &str) -> Option<Facts> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(name) {
                std::cmp::Ordering::Equal => return Some(self.facts(middle)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Whether the page would hold this name if it existed, given that the page begins before it.
    pub(super) fn reaches(&self, directory: &str, name: &str) -> bool {
        let Some(end) = &self.next_marker else { return true };
        end.strip_prefix(directory).is_some_and(|end| name <= end)
    }

    /// Files of this page whose directory of the same name, if there is one, would stand behind it: `a`
    /// and `a/` may be parted by `a-1`, `a.txt` and the like.
    pub(super) fn undecided(&self, directory: &str) -> Vec<(String, Facts)> {
        let Some(end) = self.end(directory) else { return Vec::new() };
        let pieces = (1..=end.len()).filter_map(|length| end.get(..length));
        pieces
            .filter(|name| is_undecided(name, Some(end)))
            .filter_map(|name| Some((name.to_owned(), self.find(name)?)))
            .collect()
    }

    /// The name at which the page ends; `None` on the last one.
    pub(super) fn end(&self, directory: &str) -> Option<&str> {
        self.next_marker.as_deref()?.strip_prefix(directory)
    }

    /// Bytes of memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.names.capacity() + self.rows.capacity() * size_of::<Row>()
    }

    fn push(&mut self, name: &str, facts: &Facts) {
        self.names.push_str(name);
        let name_end = u32::try_from(self.names.len()).expect("a page has at most 1000 names");
        self.rows.push(Row {
            name_end,
            modified: seconds(facts.modified),
            bytes: facts.bytes,
            etag: facts.etag.clone(),
        });
    }
}

/// The first pages of a directory's list, or all of them.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) pages: Vec<Arc<Page>>,
    /// When the first page was asked for.
    pub(super) asked: Instant,
}

impl Listing {
    pub(super) fn is_complete(&self) -> bool {
        self.pages.last().is_some_and(|page| page.next_marker.is_none())
    }

    /// What the list says of a name (a directory's ends in `/`); the outer `None`: nothing, the page that
    /// would hold it is not here.
    #[expect(clippy::option_option, reason = "not known, absent, and present are three answers")]
    pub(super) fn find(&self, directory: &str, name: &str) -> Option<Option<Facts>> {
        let place = self.pages.iter().position(|page| page.reaches(directory, name))?;
        Some(self.pages[place].find(name))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.iter().map(|page| page.memory_bytes()).sum()
    }
}

/// Listings of directories, by the directory's text.
#[derive(Debug)]
pub(super) struct ListingCache {
    listings: LruCache<String, Arc<Listing>>,
    /// Directories with more than one page, and when that was seen.
    large: LruCache<String, Instant>,
    /// What was found under single keys (`None`: nothing), and when it was asked.
    looked: LruCache<String, (Option<Facts>, Instant)>,
    /// Large directories whose names are asked for one behind the other.
    walks: LruCache<String, Walk>,
    bytes: usize,
    bytes_max: usize,
}

impl ListingCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            listings: LruCache::unbounded(),
            large: LruCache::new(LARGE_MAX),
            looked: LruCache::new(LARGE_MAX),
            walks: LruCache::new(WALKS_MAX),
            bytes: 0,
            bytes_max,
        }
    }

    /// A listing that is younger than `age_max`.
    pub(super) fn fresh(&mut self, directory: &str, now: Instant, age_max: Duration) -> Option<Arc<Listing>> {
        let listing = self.listings.get(directory)?;
        (now.saturating_duration_since(listing.asked) < age_max).then(|| listing.clone())
    }

    /// Keeps a listing, unless it alone is larger than half of what all may have.
    pub(super) fn keep(&mut self, directory: &str, listing: Arc<Listing>, now: Instant) {
        if listing.is_complete() && listing.pages.len() == 1 {
            self.large.pop(directory);
        } else {
            self.large.put(directory.to_owned(), now);
        }
        let bytes = listing.memory_bytes();
        if !self.may_grow_to(bytes) {
            return;
        }
        self.bytes += bytes + directory.len();
        if let Some(old) = self.listings.put(directory.to_owned(), listing) {
            self.bytes -= old.memory_bytes() + directory.len();
        }
        while self.bytes > self.bytes_max {
            let Some((directory, old)) = self.listings.pop_lru() else { return };
            self.bytes -= old.memory_bytes() + directory.len();
        }
    }

    /// Whether a listing of so many bytes can be kept.
    pub(super) fn may_grow_to(&self, bytes: usize) -> bool {
        bytes <= self.bytes_max / 2
    }

    /// Whether a look at the first page would not tell all.
    pub(super) fn is_large(&mut self, directory: &str, now: Instant) -> bool {
        self.large.get(directory).is_some_and(|seen| now.saturating_duration_since(*seen) < LARGE_AGE_MAX)
    }

    /// A directory has more than a page.
    pub(super) fn note_large(&mut self, directory: &str, now: Instant) {
        self.large.put(directory.to_owned(), now);
    }

    /// What a key, or the directory of its name, was found to be; `None`: neither is there.
    pub(super) fn note_looked(&mut self, key: &str, facts: Option<Facts>, asked: Instant) {
        self.looked.put(key.to_owned(), (facts, asked));
    }

    /// What was found under a key at most `age_max` ago.
    #[expect(clippy::option_option, reason = "not known, absent, and present are three answers")]
    pub(super) fn looked(
        &mut self,
        key: &str,
        now: Instant,
        age_max: Duration,
    ) -> Option<Option<(Facts, Instant)>> {
        let (facts, asked) = self.looked.get(key)?;
        let is_fresh = now.saturating_duration_since(*asked) < age_max;
        is_fresh.then(|| facts.clone().map(|facts| (facts, *asked)))
    }

    /// Whether the names of a directory are being asked for in order, `name` being the next of them.
    pub(super) fn is_walked(&mut self, directory: &str, name: &str, now: Instant) -> bool {
        let walk = self.walks.get_or_insert_mut(directory.to_owned(), || Walk::new(now));
        walk.go_on(name, now);
        walk.looks >= WALK_LOOKS
    }

    /// Keeps the names behind `from` for whoever walks through a directory, joined to the page before: who lists
    /// looks at the names of one while the next is taken already, and the last name of a page (a file, or a
    /// directory?) is decided by the next.
    pub(super) fn keep_ahead(&mut self, directory: &str, from: &str, page: Arc<Page>) -> Arc<Listing> {
        let walk = self.walks.get_or_insert_mut(directory.to_owned(), || Walk::new(page.asked));
        let joins = |last: &&Arc<Page>| last.end(directory) == Some(from);
        let (from, pages) =
            match walk.ahead.as_ref().and_then(|(_, listing)| listing.pages.last().filter(joins)) {
                None => (from.to_owned(), vec![page]),
                Some(last) => {
                    let first = walk.ahead.as_ref().filter(|(_, listing)| listing.pages.len() == 1);
                    // Of two pages the first makes room, and the second begins where it ended.
                    let begins = first.map(|(begins, _)| begins.as_str());
                    let begins = begins.or_else(|| walk.ahead.as_ref()?.1.pages.first()?.end(directory));
                    (begins.unwrap_or(from).to_owned(), vec![last.clone(), page])
                }
            };
        let asked = pages.iter().map(|page| page.asked).min().unwrap_or_else(Instant::now);
        let listing = Arc::new(Listing { asked, pages });
        walk.ahead = Some((from, listing.clone()));
        listing
    }

    /// What was listed ahead of a walk, if it is younger than `age_max` and begins before `name`.
    pub(super) fn ahead(
        &mut self,
        directory: &str,
        name: &str,
        now: Instant,
        age_max: Duration,
    ) -> Option<Arc<Listing>> {
        let walk = self.walks.get_mut(directory)?;
        let (from, listing) = walk.ahead.as_ref()?;
        let reaches = from.as_str() < name && listing.pages.iter().any(|page| page.reaches(directory, name));
        if !reaches || now.saturating_duration_since(listing.asked) >= age_max {
            return None;
        }
        let listing = listing.clone();
        walk.go_on(name, now);
        Some(listing)
    }

    /// Bytes kept.
    pub(super) fn bytes(&self) -> usize {
        let ahead = self.walks.iter().filter_map(|(_, walk)| walk.ahead.as_ref());
        self.bytes + ahead.map(|(_, listing)| listing.memory_bytes()).sum::<usize>()
    }
}

/// Somebody asks for the names of a directory in order: `ls -l` of a list that has grown old, `rm -r`, rsync.
/// After a few names the next thousand are listed at once, instead of two requests for each.
#[derive(Debug)]
struct Walk {
    last: String,
    at: Instant,
    /// Names in order so far.
    looks: u32,
    /// A page or two, and the name behind which they begin.
    ahead: Option<(String, Arc<Listing>)>,
}

impl Walk {
    fn new(now: Instant) -> Self {
        Self { last: String::new(), at: now, looks: 0, ahead: None }
    }

    fn go_on(&mut self, name: &str, now: Instant) {
        if name == self.last {
            return;
        }
        let goes_on = name > self.last.as_str() && now.saturating_duration_since(self.at) < WALK_PAUSE_MAX;
        self.looks = if goes_on { self.looks.saturating_add(1) } else { 1 };
        name.clone_into(&mut self.last);
        self.at = now;
    }
}

/// A name that stands right before `name`, or nearly.
pub(super) fn before(name: &str) -> &str {
    name.char_indices().next_back().map_or("", |(last, _)| &name[..last])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cos::{ETag, ListedObject};

    fn object(key: &str) -> ListedObject {
        ListedObject {
            key: key.to_owned(),
            size: 3,
            etag: ETag::new("ee8de918d05640145b18f70f4c3aa602"),
            last_modified: from_seconds(9),
        }
    }

    fn page(objects: &[&str], prefixes: &[&str], next: Option<&str>) -> Page {
        let list = ListPage {
            objects: objects.iter().map(|key| object(key)).collect(),
            prefixes: prefixes.iter().map(|text| (*text).to_owned()).collect(),
            next_marker: next.map(str::to_owned),
        };
        Page::new(&list, "d/", &Names::new("", ".cosgate/"), Instant::now())
    }

    #[test]
    fn a_page_is_sorted_as_keys_are_and_the_directory_wins_its_name() {
        let page = page(&["d/", "d/a", "d/a-b", "d/c"], &["d/a/", "d/b/", "d//"], None);
        let names: Vec<_> = (0..page.len()).map(|place| page.name(place)).collect();
        assert_eq!(names, ["a-b", "a/", "b/", "c"]);
        assert!(page.has_marker);
        assert_eq!(page.find("c").map(|facts| facts.bytes), Some(3));
        assert!(page.find("a/").is_some_and(|facts| facts.is_directory()));
        assert_eq!(page.find("a"), None);
    }

    #[test]
    fn a_listing_knows_what_it_does_not_know() {
        let first = Arc::new(page(&["d/a", "d/b"], &[], Some("d/b")));
        let mut listing = Listing { pages: vec![first], asked: Instant::now() };
        assert!(matches!(listing.find("d/", "a"), Some(Some(_))));
        assert_eq!(listing.find("d/", "aa"), Some(None));
        assert_eq!(listing.find("d/", "c"), None);
        assert!(!listing.is_complete());
        listing.pages.push(Arc::new(page(&["d/c"], &[], None)));
        assert!(listing.is_complete());
        assert_eq!(listing.find("d/", "d"), Some(None));
        assert!(matches!(listing.find("d/", "c"), Some(Some(_))));
    }

    #[test]
    fn names_in_order_make_a_walk_and_what_is_listed_ahead_answers_for_it() {
        let (mut cache, now, ttl) = (ListingCache::new(200_000), Instant::now(), Duration::from_secs(5));
        let mut walks = |name: &str| cache.is_walked("d/", name, now);
        assert!(!walks("a") && !walks("b") && !walks("c"));
        assert!(!walks("a"), "back to the start: not in order");
        assert!(!walks("b") && !walks("c") && walks("d1"));
        assert!(!cache.is_walked("d/", "e", now + WALK_PAUSE_MAX), "it has paused");
        let page = Arc::new(page(&["d/d1", "d/d2", "d/d9"], &[], Some("d/d9")));
        cache.keep_ahead("d/", before("d1"), page.clone());
        assert!(cache.bytes() > 0);
        let mut answers = |name: &str, at: Duration| cache.ahead("d/", name, now + at, ttl).is_some();
        assert!(
            answers("d1", Duration::ZERO) && answers("d5", Duration::ZERO) && answers("d9", Duration::ZERO)
        );
        assert!(!answers("d", Duration::ZERO), "where it begins is not part of it");
        assert!(!answers("d91", Duration::ZERO), "it ends there");
        assert!(!answers("d1", ttl + Duration::from_secs(1)), "too old");
        let next = |keys: &[&str], end| Arc::new(self::page(keys, &[], end));
        let joined = cache.keep_ahead("d/", "d9", next(&["d/e"], Some("d/e")));
        assert!(matches!(joined.find("d/", "d9/"), Some(None)), "the second page decides about d9");
        assert!(cache.ahead("d/", "d1", now, ttl).is_some() && cache.ahead("d/", "e", now, ttl).is_some());
        cache.keep_ahead("d/", "e", next(&["d/f"], None));
        assert!(cache.ahead("d/", "d9", now, ttl).is_none(), "two pages are kept");
        assert!(cache.ahead("d/", "d91", now, ttl).is_some() && cache.ahead("d/", "z", now, ttl).is_some());
        cache.keep_ahead("d/", "k", page);
        assert!(cache.ahead("d/", "f", now, ttl).is_none(), "what does not join begins anew");
    }

    #[test]
    fn a_name_stands_behind_the_one_before_it() {
        for (name, short) in [("abc", "ab"), ("深圳", "深"), ("x", ""), ("", "")] {
            assert_eq!(before(name), short);
        }
    }

    #[test]
    fn the_cache_keeps_within_its_bytes() {
        let now = Instant::now();
        let listing = |count: usize| {
            let keys: Vec<String> = (0..count).map(|number| format!("d/{number:05}")).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            Arc::new(Listing { pages: vec![Arc::new(page(&keys, &[], None))], asked: now })
        };
        let mut cache = ListingCache::new(200_000);
        for number in 0..50 {
            cache.keep(&format!("{number}/"), listing(100), now);
            assert!(cache.bytes() <= 200_000);
        }
        assert!(cache.fresh("49/", now, Duration::from_secs(5)).is_some());
        assert!(cache.fresh("0/", now, Duration::from_secs(5)).is_none());
        assert!(cache.fresh("49/", now + Duration::from_secs(5), Duration::from_secs(5)).is_none());
        cache.keep("big/", listing(5000), now);
        assert!(cache.fresh("big/", now, Duration::from_secs(5)).is_none());
        for _ in 0..10 {
            cache.keep("same/", listing(100), now);
        }
        assert!(cache.bytes() <= 200_000);
    }
}
