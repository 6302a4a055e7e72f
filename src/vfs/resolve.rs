//! What a name leads to, with as few requests as will do.
//!
//! ```text
//! inode table, fresh ── own recent change ── listing of the directory, fresh      no request
//!   └─ directory of one page: LIST it, which answers for all its names            one LIST per attr_ttl
//!   └─ larger, names asked for in order: LIST the thousand from this one on       one per thousand names
//!   └─ larger: HEAD the object beside a LIST of the directory by that name        two, in parallel
//! ```
//!
//! Only one task lists a directory at a time, and only one looks for a name; whoever comes meanwhile waits for
//! its answer.

use std::{
    collections::HashMap,
    ffi::OsStr,
    sync::{Arc, Weak},
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::{
    Attributes, Entry, HandleNo, InodeNo, Vfs, VfsError, VfsResult,
    attr::{Facts, from_seconds, seconds},
    inode::{Known, Link},
    listing::{Listing, Page, before},
    name::component,
    overlay::Change,
    policy::Standing,
    posix::Posix,
    shared::Shared,
};
use crate::cos::{Key, ListRequest, Reason};

/// Names on a page of a list (*GET Bucket (List Objects)*).
pub(super) const PAGE_NAMES_MAX: u16 = 1000;

/// Directories that are listed at once for who is about to list the last of them.
const AHEAD_MAX: usize = 8;

/// What a name leads to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its inode, where the table holds one.
    pub(super) inode: Option<InodeNo>,
    pub(super) facts: Facts,
    /// When the facts were true.
    pub(super) seen: Option<Instant>,
}

impl Target {
    /// A file that only its writer knows.
    pub(super) fn is_unpublished(&self) -> bool {
        !self.facts.is_directory() && self.facts.etag.is_none()
    }
}

/// How the policy sees what a name leads to.
pub(super) fn standing(target: Option<&Target>) -> Standing {
    match target {
        Some(target) if !target.is_unpublished() => Standing::Published,
        Some(_) | None => Standing::Free,
    }
}

/// Who lists which directory right now.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<String, Weak<Flight>>>);

#[derive(Debug, Default)]
struct Flight {
    turn: AsyncMutex<()>,
    /// Where the page behind the one that is asked for begins, as soon as that is known.
    next: watch::Sender<Option<String>>,
}

impl Flights {
    fn of(&self, directory: &str) -> Arc<Flight> {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(directory).and_then(Weak::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(Flight::default());
        flights.insert(directory.to_owned(), Arc::downgrade(&flight));
        flight
    }
}

pub(super) async fn lookup(vfs: &Vfs, parent: InodeNo, name: &OsStr) -> VfsResult<Entry> {
    let shared = &*vfs.shared;
    let name = match component(name) {
        // No such name can exist; what would make one is told why.
        Err(VfsError::NameImpossible { name }) => return Err(VfsError::NotFound { name }),
        other => other?,
    };
    let directory = shared.directory(parent)?;
    let missing = || VfsError::NotFound { name: name.to_owned() };
    let (target, kept) = loop {
        let asked = Instant::now();
        let target = shared.target(parent, &directory, name).await?.ok_or_else(missing)?;
        let kept = shared.kept_of(&directory, name, &target.facts).await?;
        // What was removed while that was asked for must not come back by it.
        if !shared.is_deleted_since(&directory, name, asked) {
            break (target, kept);
        }
    };
    let mut inodes = shared.inodes.lock();
    let inode = match target.inode {
        Some(inode) if inodes.known(inode).is_some() => inode,
        _ => inodes.ensure(parent, name, &target.facts, target.seen).ok_or_else(missing)?,
    };
    inodes.remember(inode);
    let known = inodes.known(inode).ok_or_else(missing)?;
    drop(inodes);
    Ok(shared.entry(inode, &known, kept.as_deref(), Instant::now()))
}

pub(super) async fn getattr(vfs: &Vfs, inode: InodeNo, handle: Option<HandleNo>) -> VfsResult<Attributes> {
    let shared = &*vfs.shared;
    let known = shared.refreshed(inode, handle.is_some()).await?;
    let kept = match shared.place_of(inode, &known) {
        Some((directory, name)) => shared.kept_of(&directory, &name, &known.facts).await?,
        None => None,
    };
    Ok(shared.attributes(inode, &known, kept.as_deref()))
}

/// Lists all directories on the way to one that is about to be listed, and the first page of that one, all at once:
/// whoever walks there then waits for the answers, and not for one behind the other. Nothing is asked for that walking
/// and listing would not ask for, as long as a directory is there.
pub(super) fn list_ahead(vfs: &Vfs, path: &OsStr) -> VfsResult<()> {
    vfs.policy.may_read()?;
    let shared = &vfs.shared;
    let (mut directory, mut wanted) = (shared.names.root().to_owned(), Vec::new());
    let pieces = path.to_str().unwrap_or_default().split('/').filter(|piece| !piece.is_empty());
    for piece in pieces {
        let is_name = component(OsStr::new(piece)).is_ok() && shared.names.key(&directory, piece).is_ok();
        if !is_name {
            return Ok(());
        }
        match shared.remembered(&directory, piece) {
            Some(Some((facts, _))) if facts.is_directory() => {}
            // The way ends here.
            Some(_) => return Ok(()),
            // A name in a large one is looked for by itself.
            None if shared.listings.lock().is_large(&directory, Instant::now()) => {}
            None => wanted.push(directory.clone()),
        }
        directory = format!("{directory}{piece}/");
    }
    // What was just asked for must count as known, or it would be asked for again.
    if wanted.is_empty() || shared.attr_ttl.is_zero() {
        return Ok(());
    }
    wanted.push(directory);
    for directory in wanted.into_iter().take(AHEAD_MAX) {
        let shared_too = shared.clone();
        shared.runtime.spawn(async move {
            if let Err(error) = shared_too.first_pages(&directory, &|_| {}).await {
                tracing::debug!(%error, directory, "could not be listed ahead");
            }
        });
    }
    Ok(())
}

/// The marker behind which the names of a directory stand that come after `name`; empty = from the start.
fn marker_at(directory: &str, name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{directory}{name}") }
}

impl Shared {
    /// What is known of an inode, asked for again where that is too old.
    ///
    /// # Errors
    /// `NotFound` where the name is gone from the bucket; with `is_open`, what was known last instead.
    pub(super) async fn refreshed(&self, inode: InodeNo, is_open: bool) -> VfsResult<Known> {
        let known = self.known(inode)?;
        if self.is_root(inode) || known.link != Link::Named {
            return Ok(known);
        }
        let directory = self.directory(known.parent)?;
        match self.target(known.parent, &directory, &known.name).await? {
            Some(target) if target.inode == Some(inode) => self.known(inode),
            _ if is_open => Ok(known),
            _ => Err(VfsError::NotFound { name: known.name.into() }),
        }
    }

    /// Directory and name under which an inode's metadata is kept; `None` for what has no name.
    pub(super) fn place_of(&self, inode: InodeNo, known: &Known) -> Option<(String, String)> {
        if self.is_root(inode) || known.link == Link::Gone {
            return None;
        }
        Some((self.directory(known.parent).ok()?, known.name.to_string()))
    }

    /// What `name` in `directory`, whose inode is `parent`, leads to; the table learns of it.
    ///
    /// # Errors
    /// What the store answered.
    pub(super) async fn target(
        &self,
        parent: InodeNo,
        directory: &str,
        name: &str,
    ) -> VfsResult<Option<Target>> {
        let held = self.inodes.lock().named(parent, name);
        if let Some((inode, known)) = &held {
            let is_fresh = known.seen.is_some_and(|seen| seen.elapsed() < self.attr_ttl);
            let target = Target { inode: Some(*inode), facts: known.facts.clone(), seen: known.seen };
            if is_fresh || target.is_unpublished() {
                return Ok(Some(target));
            }
        }
        let answer = match self.resolve(directory, name).await? {
            Some((facts, seen)) => Some((self.judged(directory, name, facts).await?, seen)),
            None => None,
        };
        let mut inodes = self.inodes.lock();
        Ok(match answer {
            Some((facts, seen)) => {
                let named = inodes.find(parent, name);
                let inode = match held {
                    // One that has lost the name meanwhile would come back, and nobody would hold it.
                    Some((held, _)) if named == Some(held) => inodes.ensure(parent, name, &facts, Some(seen)),
                    Some(_) | None => named,
                };
                let facts = inode.and_then(|inode| inodes.known(inode)).map_or(facts, |known| known.facts);
                Some(Target { inode, facts, seen: Some(seen) })
            }
            None => {
                let known = inodes.vanish(parent, name, held.as_ref());
                known.map(|(inode, known)| Target {
                    inode: Some(inode),
                    facts: known.facts,
                    seen: known.seen,
                })
            }
        })
    }

    /// What the bucket has under a name, and when that was true.
    async fn resolve(&self, directory: &str, name: &str) -> VfsResult<Option<(Facts, Instant)>> {
        if self.names.is_hidden(&format!("{directory}{name}")) {
            return Ok(None);
        }
        if let Some(answer) = self.remembered(directory, name) {
            return Ok(answer);
        }
        if !self.listings.lock().is_large(directory, Instant::now()) {
            let listing = self.first_pages(directory, &|_| {}).await?;
            if let Some(answer) = self.by_listing(directory, name, &listing) {
                return Ok(answer);
            }
        }
        let flight = self.flights.of(directory);
        if !self.attr_ttl.is_zero() && self.listings.lock().is_walked(directory, name, Instant::now()) {
            let _first = flight.turn.lock().await;
            if let Some(answer) = self.remembered(directory, name) {
                return Ok(answer);
            }
            let from = before(name);
            let page = self.list_page(directory, &marker_at(directory, from)).await?;
            let listing = self.listings.lock().keep_ahead(directory, from, Arc::new(page));
            if let Some(answer) = self.by_listing(directory, name, &listing) {
                return Ok(answer);
            }
        }
        self.look(directory, name).await
    }

    /// HEAD the object, and beside it LIST what would be below the directory of that name.
    async fn look(&self, directory: &str, name: &str) -> VfsResult<Option<(Facts, Instant)>> {
        let key = self.names.key(directory, name)?;
        let flight = self.flights.of(key.as_str());
        let _first = flight.turn.lock().await;
        if let Some(answer) = self.remembered(directory, name) {
            return Ok(answer);
        }
        let asked = Instant::now();
        let below = format!("{key}/");
        let (object, is_directory) = tokio::join!(self.head(&key, name), self.has_below(&below));
        if is_directory? {
            let facts = self.dated(Facts::directory(from_seconds(0)));
            self.listings.lock().note_looked(key.as_str(), Some(facts.clone()), asked);
            return Ok(Some((facts, asked)));
        }
        let object = object?;
        let overlay = self.overlay.lock();
        let facts = match overlay.change_since(key.as_str(), asked) {
            // HEAD tells what is there (*Consistency*); only what changed since is newer.
            Some((change, _)) => change.over(None),
            None => object,
        };
        drop(overlay);
        self.listings.lock().note_looked(key.as_str(), facts.clone(), asked);
        Ok(facts.map(|facts| (facts, asked)))
    }

    /// HEAD: what is under a key, if anything.
    ///
    /// # Errors
    /// What the store answered, `NoSuchKey` apart.
    pub(super) async fn head(&self, key: &Key, name: &str) -> VfsResult<Option<Facts>> {
        match self.store.head_object(key).await {
            Ok(meta) => {
                let facts = Facts::of_meta(&meta);
                if self.posix_metadata {
                    let of = (key.as_str().to_owned(), facts.clone());
                    self.keep(of, Arc::new(Posix::of(&meta.metadata)));
                }
                Ok(Some(facts))
            }
            Err(error) if error.reason == Reason::NoSuchKey => Ok(None),
            Err(error) => Err(VfsError::from_cos(error, name)),
        }
    }

    /// Whether anything is at or below a directory; own changes are laid over the list.
    ///
    /// # Errors
    /// What the store answered.
    pub(super) async fn has_below(&self, directory: &str) -> VfsResult<bool> {
        if let Some(answer) = self.overlay.lock().directory(directory, Instant::now()) {
            return Ok(answer);
        }
        let request = ListRequest { prefix: directory.to_owned(), entries_max: 1, ..ListRequest::default() };
        let page = self.store.list_objects(&request).await.map_err(|e| VfsError::from_cos(e, directory))?;
        Ok(!page.objects.is_empty())
    }

    /// An answer without a request: from own recent changes, or from a listing that is fresh.
    #[expect(clippy::option_option, reason = "not known, absent, and present are three answers")]
    fn remembered(&self, directory: &str, name: &str) -> Option<Option<(Facts, Instant)>> {
        let now = Instant::now();
        let key = format!("{directory}{name}");
        let is_fresh = |done: Instant| now.saturating_duration_since(done) < self.attr_ttl;
        let own_directory = {
            let overlay = self.overlay.lock();
            let own_directory = overlay.directory(&format!("{key}/"), now);
            if own_directory != Some(true)
                && let Some((change, done)) = overlay.change(&key, now).filter(|(_, done)| is_fresh(*done))
            {
                return Some(change.over(None).map(|facts| (facts, done)));
            }
            own_directory
        };
        let listing = self.listings.lock().fresh(directory, now, self.attr_ttl);
        if let Some(answer) = listing.and_then(|listing| self.by_listing(directory, name, &listing)) {
            return Some(answer);
        }
        let ahead = self.listings.lock().ahead(directory, name, now, self.attr_ttl);
        if let Some(answer) = ahead.and_then(|listing| self.by_listing(directory, name, &listing)) {
            return Some(answer);
        }
        // A directory that was made or removed since tells otherwise.
        if own_directory.is_some() {
            return None;
        }
        self.listings.lock().looked(&key, now, self.attr_ttl)
    }

    /// What a listing says of a name, own changes laid over it; `None` where it does not reach.
    #[expect(clippy::option_option, reason = "not known, absent, and present are three answers")]
    fn by_listing(&self, directory: &str, name: &str, listing: &Listing) -> Option<Option<(Facts, Instant)>> {
        let below = listing.find(directory, &format!("{name}/"))?;
        let object = listing.find(directory, name)?;
        let (now, key) = (Instant::now(), format!("{directory}{name}"));
        let overlay = self.overlay.lock();
        let is_directory = overlay.directory(&format!("{key}/"), now).unwrap_or(below.is_some());
        if is_directory {
            return Some(Some((self.dated(Facts::directory(from_seconds(0))), listing.asked)));
        }
        let facts = match overlay.change(&key, now) {
            Some((change, _)) => change.over(object.as_ref()),
            None => object,
        };
        Some(facts.map(|facts| (facts, listing.asked)))
    }

    /// The first page of a directory's list at least: what is remembered and fresh, or what is asked for now, by one for
    /// all that wait; each asks for itself where no answer may be remembered. `tell` hears where the next page begins, as
    /// in [`Self::list_page_telling`].
    ///
    /// # Errors
    /// What the store answered.
    pub(super) async fn first_pages(
        &self,
        directory: &str,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> VfsResult<Arc<Listing>> {
        if self.attr_ttl.is_zero() {
            return self.list_first(directory, tell).await;
        }
        let flight = self.flights.of(directory);
        let mut next = flight.next.subscribe();
        let mut is_told = false;
        let _first = loop {
            tokio::select! {
                biased;
                first = flight.turn.lock() => break first,
                Ok(next) = next.wait_for(Option::is_some), if !is_told => {
                    next.iter().cloned().for_each(tell);
                    is_told = true;
                }
            }
        };
        if let Some(listing) = self.listings.lock().fresh(directory, Instant::now(), self.attr_ttl) {
            return Ok(listing);
        }
        let tell_all = |marker: String| {
            flight.next.send_replace(Some(marker.clone()));
            tell(marker);
        };
        self.list_first(directory, &tell_all).await
    }

    /// Asks for the first page, and remembers it.
    async fn list_first(
        &self,
        directory: &str,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> VfsResult<Arc<Listing>> {
        let asked = Instant::now();
        let page = self.list_page_telling(directory, "", tell).await?;
        let listing = Arc::new(Listing { pages: vec![Arc::new(page)], asked });
        self.listings.lock().keep(directory, listing.clone(), asked);
        Ok(listing)
    }

    /// One page of a directory's list, behind `marker` (a key; empty = from the start).
    ///
    /// # Errors
    /// What the store answered.
    pub(super) async fn list_page(&self, directory: &str, marker: &str) -> VfsResult<Page> {
        self.list_page_telling(directory, marker, &|_| {}).await
    }

    /// The same; `tell` hears where the next page begins, before this one is there if COS tells so early.
    pub(super) async fn list_page_telling(
        &self,
        directory: &str,
        marker: &str,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> VfsResult<Page> {
        let request = ListRequest {
            prefix: directory.to_owned(),
            by_directory: true,
            marker: marker.to_owned(),
            entries_max: PAGE_NAMES_MAX,
        };
        let asked = Instant::now();
        let list = self.store.list_objects_telling(&request, tell).await;
        let list = list.map_err(|error| VfsError::from_cos(error, directory))?;
        Ok(Page::new(&list, directory, &self.names, asked))
    }

    /// Facts with the right kind: what looks like a file may be a symbolic link.
    ///
    /// # Errors
    /// What the store answered.
    async fn judged(&self, directory: &str, name: &str, facts: Facts) -> VfsResult<Facts> {
        if !self.posix_metadata || !facts.may_be_link() {
            return Ok(facts);
        }
        let kept = self.kept_of(directory, name, &facts).await?;
        Ok(facts.judged_by(kept.as_deref()))
    }

    /// What is kept of a file or directory beside its bytes; `None` without `posix_metadata`.
    ///
    /// # Errors
    /// What the store answered.
    pub(super) async fn kept_of(
        &self,
        directory: &str,
        name: &str,
        facts: &Facts,
    ) -> VfsResult<Option<Arc<Posix>>> {
        if !self.posix_metadata || (facts.etag.is_none() && !facts.is_directory()) {
            return Ok(None);
        }
        let key = match facts.is_directory() {
            true => self.names.marker(directory, name)?,
            false => self.names.key(directory, name)?,
        };
        let of = self.version_of(&key, facts);
        if let Some(kept) = self.kept(&of) {
            return Ok(Some(kept));
        }
        let kept = match self.store.head_object(&key).await {
            Ok(meta) => Posix::of(&meta.metadata),
            Err(error) if error.reason == Reason::NoSuchKey => Posix::default(),
            Err(error) => return Err(VfsError::from_cos(error, name)),
        };
        let kept = Arc::new(kept);
        self.keep(of, kept.clone());
        Ok(Some(kept))
    }

    /// Under what the kept metadata of a version is remembered. Markers have no version that tells: they
    /// are asked for again each `attr_ttl`.
    pub(super) fn version_of(&self, key: &Key, facts: &Facts) -> (String, Facts) {
        let facts = if facts.is_directory() {
            let now = seconds(std::time::SystemTime::now());
            Facts::directory(from_seconds(now / self.attr_ttl.as_secs().max(1)))
        } else {
            facts.clone().judged_by(None)
        };
        (key.as_str().to_owned(), facts)
    }

    /// The own change of a key, if it is recent.
    pub(super) fn own_change(&self, key: &str) -> Option<Change> {
        self.overlay.lock().change(key, Instant::now()).map(|(change, _)| change.clone())
    }
}
