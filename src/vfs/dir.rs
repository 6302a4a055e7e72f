//! Directories, read: pages of a list as they come, own recent changes laid over each.
//!
//! A handle begins with the listing that is remembered, if it is fresh, and asks for the pages behind it one
//! by one; the next one is on its way while the kernel consumes this one, and is asked for as soon as it is known
//! where it begins, which COS says before the names of this one. A listing that was read to its end
//! is remembered, if there is room; else only the current page stays, with the markers of those before, so
//! that a directory of a million names costs no more than a page.
//!
//! `a` may end one page and `a/` begin the next: such a file is shown with the next page, if that one does not
//! show the directory, which wins the name.
//!
//! Offsets name a place for the life of the handle: page, own changes passed, names passed.
//!
//! ```text
//! 0 "." 1 ".." 2 | (page + 1) << 32 | own << 16 | listed
//! ```

use std::{
    collections::{HashMap, hash_map::RandomState},
    ffi::OsString,
    hash::BuildHasher,
    sync::{Arc, LazyLock, atomic::Ordering},
    time::Instant,
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    task::{AbortHandle, JoinHandle},
};

use super::{
    DirectoryEntry, HandleNo, InodeNo, Vfs, VfsError, VfsResult,
    attr::Facts,
    handle::Handle,
    inode::{Known, Link},
    listing::{Listing, Page, is_undecided},
    overlay::Change,
    posix::Posix,
    shared::Shared,
};

/// HEADs at once, for what lists do not tell (`posix_metadata`).
const HEADS_MAX: usize = 64;

/// An open directory.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    inode: InodeNo,
    /// What its keys begin with.
    directory: String,
    cursor: AsyncMutex<Cursor>,
}

#[derive(Debug)]
struct Cursor {
    steps: Vec<Step>,
    asked: Instant,
    /// Pages are held, to be remembered once complete.
    keeps: Option<Building>,
    ahead: Option<Ahead>,
    /// It has been read from.
    begun: bool,
}

/// One page of the list.
#[derive(Debug, Clone)]
struct Step {
    /// Behind which key it begins.
    marker: String,
    page: Option<Arc<Page>>,
    /// Own changes within the page, as they were when it was first seen.
    own: Option<Arc<[(String, Change)]>>,
    /// Files of this page that are shown with the next one.
    later: Arc<[(String, Facts)]>,
}

/// A page on its way.
#[derive(Debug)]
struct Ahead {
    step: usize,
    /// Behind which key it begins; as the page before has foretold, so that it may be another one than is wanted.
    marker: String,
    /// Where the next one begins, as soon as that is known.
    next: watch::Receiver<Option<String>>,
    task: JoinHandle<VfsResult<Arc<Page>>>,
    abort: AbortHandle,
}

impl Ahead {
    fn begin(shared: &Arc<Shared>, directory: &str, step: usize, marker: String) -> Self {
        let (told, next) = watch::channel(None);
        let (shared_too, directory, from) = (shared.clone(), directory.to_owned(), marker.clone());
        let task = shared.runtime.spawn(async move {
            let tell = |next| drop(told.send_replace(Some(next)));
            // Somebody may just be asking for the first one.
            if from.is_empty()
                && let Some(page) = shared_too.first_pages(&directory, &tell).await?.pages.first()
            {
                return Ok(page.clone());
            }
            shared_too.list_page_telling(&directory, &from, &tell).await.map(Arc::new)
        });
        Self { step, marker, next, abort: task.abort_handle(), task }
    }

    fn is(&self, step: usize, marker: &str) -> bool {
        self.step == step && self.marker == marker
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// Bytes of pages that are held by a listing under construction.
#[derive(Debug)]
struct Building {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Building {
    /// Whether so many bytes more may be held.
    fn grow(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let all = self.shared.building_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let listings = self.shared.listings.lock();
        listings.may_grow_to(self.bytes) && listings.may_grow_to(all)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        self.shared.building_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A place between two entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    step: usize,
    own: usize,
    listed: usize,
}

impl Place {
    fn offset(self) -> u64 {
        ((self.step as u64 + 1) << 32) | ((self.own as u64) << 16) | self.listed as u64
    }

    fn of(offset: u64) -> Self {
        let piece = |shift: u32| usize::try_from((offset >> shift) & 0xffff).unwrap_or(0);
        let step = usize::try_from((offset >> 32).saturating_sub(1)).unwrap_or(usize::MAX);
        Self { step, own: piece(16), listed: piece(0) }
    }
}

pub(super) async fn opendir(vfs: &Vfs, inode: InodeNo) -> VfsResult<HandleNo> {
    vfs.policy.may_read()?;
    let shared = &vfs.shared;
    let known = shared.known(inode)?;
    if !known.facts.is_directory() {
        return Err(VfsError::NotDirectory { name: known.name.into() });
    }
    let directory = shared.directory(inode)?;
    let now = Instant::now();
    let listing = shared.listings.lock().fresh(&directory, now, shared.attr_ttl);
    shared.inodes.lock().pin(inode);
    let cursor = Cursor::new(shared.clone(), listing.as_deref());
    let open = OpenDirectory { inode, directory, cursor: AsyncMutex::new(cursor) };
    Ok(shared.open_handle(Handle::Directory(Arc::new(open))))
}

pub(super) fn releasedir(vfs: &Vfs, handle: HandleNo) {
    if let Some(Handle::Directory(open)) = vfs.shared.close_handle(handle) {
        vfs.shared.inodes.lock().unpin(open.inode);
    }
}

pub(super) async fn readdir(
    vfs: &Vfs,
    handle: HandleNo,
    offset: u64,
    plus: bool,
    take: &mut (dyn FnMut(&DirectoryEntry) -> bool + Send),
) -> VfsResult<()> {
    vfs.policy.may_read()?;
    let shared = &vfs.shared;
    let open = shared.handle(handle)?.directory()?;
    for (dot, name) in [(0, "."), (1, "..")] {
        if offset <= dot && !take(&open.dot(shared, name, dot + 1)?) {
            return Ok(());
        }
    }
    let mut cursor = open.cursor.lock().await;
    if offset == 0 && cursor.begun {
        // rewinddir: as if opened anew.
        let listing = shared.listings.lock().fresh(&open.directory, Instant::now(), shared.attr_ttl);
        *cursor = Cursor::new(shared.clone(), listing.as_deref());
    }
    cursor.begun = true;
    let mut place = Place::of(offset);
    loop {
        let Some(step) = cursor.load(shared, &open.directory, place.step).await? else { return Ok(()) };
        shared.count_memory();
        let kept = match shared.posix_metadata {
            true => open.fetch_kept(shared, &step, place, plus).await?,
            false => HashMap::new(),
        };
        while let Some((name, facts, next)) = step.next(place) {
            place = next;
            let Some(facts) = facts else { continue };
            // Behind the last entry of a page stands the next page: this one need not be kept for it.
            let is_last = step.has_successor() && step.next(place).is_none();
            let behind = if is_last { Place { step: place.step + 1, own: 0, listed: 0 } } else { place };
            let kept = kept.get(&name).map(Arc::as_ref);
            let asked = step.page.as_ref().map_or(cursor.asked, |page| page.asked);
            let taken = open.offer(shared, &name, &facts, kept, asked, plus, behind.offset(), take)?;
            if !taken {
                return Ok(());
            }
        }
        if !step.has_successor() {
            return Ok(());
        }
        place = Place { step: place.step + 1, own: 0, listed: 0 };
    }
}

impl OpenDirectory {
    /// `.` or `..`; neither counts as a lookup.
    fn dot(&self, shared: &Shared, name: &str, next_offset: u64) -> VfsResult<DirectoryEntry> {
        let own = shared.known(self.inode)?;
        let inode = if name == "." { self.inode } else { own.parent };
        let known = shared.known(inode).unwrap_or(own);
        let entry = shared.entry(inode, &known, None, Instant::now());
        Ok(DirectoryEntry { name: OsString::from(name), next_offset, entry })
    }

    /// Offers one entry; with `plus`, a taken one counts as a lookup.
    #[expect(clippy::too_many_arguments, reason = "an entry is its name, its facts and its place")]
    fn offer(
        &self,
        shared: &Shared,
        name: &str,
        facts: &Facts,
        kept: Option<&Posix>,
        asked: Instant,
        plus: bool,
        next_offset: u64,
        take: &mut (dyn FnMut(&DirectoryEntry) -> bool + Send),
    ) -> VfsResult<bool> {
        let bare = name.strip_suffix('/').unwrap_or(name);
        let facts = shared.dated(facts.clone()).judged_by(kept);
        let gone = || VfsError::NotFound { name: bare.to_owned() };
        let (inode, known) = if plus {
            let mut inodes = shared.inodes.lock();
            let inode = inodes.ensure(self.inode, bare, &facts, Some(asked)).ok_or_else(gone)?;
            inodes.remember(inode);
            (inode, inodes.known(inode).ok_or_else(gone)?)
        } else {
            let held = shared.inodes.lock().find(self.inode, bare);
            let inode = held.unwrap_or_else(|| passing_number(self.inode, bare));
            let name = Box::from(bare);
            (inode, Known { facts, link: Link::Named, parent: self.inode, name, seen: Some(asked) })
        };
        let entry = shared.entry(inode, &known, kept, Instant::now());
        let taken = take(&DirectoryEntry { name: OsString::from(bare), next_offset, entry });
        if plus && !taken {
            shared.inodes.lock().forget(inode, 1);
        }
        Ok(taken)
    }

    /// What a page's entries keep beside their bytes, by name, asked for where it is not known. One that cannot
    /// be told shows the configured look. Without `plus`, where only kinds are shown, nothing is asked for but
    /// what may be a symbolic link.
    ///
    /// # Errors
    /// What the store answered of something that may be a link: it is not shown as what it may not be.
    async fn fetch_kept(
        &self,
        shared: &Arc<Shared>,
        step: &Step,
        mut place: Place,
        plus: bool,
    ) -> VfsResult<HashMap<String, Arc<Posix>>> {
        let (mut found, mut wanted) = (HashMap::new(), Vec::new());
        while let Some((name, facts, next)) = step.next(place) {
            place = next;
            let bare = name.strip_suffix('/').unwrap_or(&name).to_owned();
            let Some(facts) = facts.map(|facts| shared.dated(facts)) else { continue };
            if let Some(kept) = shared.kept_if_known(&self.directory, &bare, &facts) {
                found.insert(name, kept);
            } else if plus || facts.may_be_link() {
                wanted.push((name, bare, facts));
            }
        }
        let heads = wanted.into_iter().map(|(name, bare, facts)| async move {
            match shared.kept_of(&self.directory, &bare, &facts).await {
                Ok(kept) => Ok(kept.map(|kept| (name, kept))),
                // Nobody can look at it or open it, so that it is as good as any file.
                Err(error) if facts.may_be_link() && !matches!(error, VfsError::AccessDenied { .. }) => {
                    Err(error)
                }
                Err(error) => {
                    tracing::debug!(%error, name, "what is kept of this file could not be asked for");
                    Ok(None)
                }
            }
        });
        let mut heads = stream::iter(heads).buffer_unordered(HEADS_MAX);
        while let Some(kept) = heads.next().await {
            found.extend(kept?);
        }
        Ok(found)
    }
}

impl Cursor {
    fn new(shared: Arc<Shared>, listing: Option<&Listing>) -> Self {
        let first = Step::behind(String::new());
        let Some(listing) = listing else {
            let keeps = Some(Building { shared, bytes: 0 });
            return Self { steps: vec![first], asked: Instant::now(), keeps, ahead: None, begun: false };
        };
        let mut steps = vec![first];
        for page in &listing.pages {
            if let Some(step) = steps.last_mut() {
                step.page = Some(page.clone());
            }
            if let Some(next) = &page.next_marker {
                steps.push(Step::behind(next.clone()));
            }
        }
        // A complete one is remembered already.
        let keeps = (!listing.is_complete()).then(|| Building { shared, bytes: 0 });
        Self { steps, asked: listing.asked, keeps, ahead: None, begun: false }
    }

    /// A page with its own changes; `None` behind the last one.
    async fn load(
        &mut self,
        shared: &Arc<Shared>,
        directory: &str,
        number: usize,
    ) -> VfsResult<Option<Step>> {
        let Some(step) = self.steps.get(number) else { return Ok(None) };
        if step.page.is_none() {
            let marker = step.marker.clone();
            let page = self.fetch(shared, directory, number, marker).await?;
            self.put(directory, number, page, shared);
        }
        self.look_ahead(shared, directory, number + 1);
        if self.steps[number].own.is_none() {
            let before = match number.checked_sub(1) {
                Some(before) => self.steps[before].later.clone(),
                None => Arc::default(),
            };
            self.steps[number].lay_over(shared, directory, &before);
        }
        Ok(Some(self.steps[number].clone()))
    }

    /// The page behind `marker`; asks for the one behind it as soon as that can be done.
    async fn fetch(
        &mut self,
        shared: &Arc<Shared>,
        directory: &str,
        number: usize,
        marker: String,
    ) -> VfsResult<Arc<Page>> {
        let mut coming = match self.ahead.take() {
            Some(ahead) if ahead.is(number, &marker) => ahead,
            _ => Ahead::begin(shared, directory, number, marker),
        };
        let mut asks = self.steps.get(number + 1).is_none_or(|step| step.page.is_none());
        loop {
            tokio::select! {
                biased;
                page = &mut coming.task => return page.map_err(|_stopped| VfsError::Stopping)?,
                Ok(next) = coming.next.wait_for(Option::is_some), if asks => {
                    let begin = |next| Ahead::begin(shared, directory, number + 1, next);
                    self.ahead = next.clone().map(begin);
                    asks = false;
                }
            }
        }
    }

    fn put(&mut self, directory: &str, number: usize, page: Arc<Page>, shared: &Shared) {
        if let Some(next) = &page.next_marker
            && self.steps.len() == number + 1
        {
            self.steps.push(Step::behind(next.clone()));
        }
        let is_last = page.next_marker.is_none();
        self.asked = self.asked.min(page.asked);
        // Names of a page may be looked up before the whole list is there, or where it is too large to be kept.
        let from = &self.steps[number].marker;
        let from = from.strip_prefix(directory).unwrap_or("");
        if number > 0 || !is_last {
            shared.listings.lock().keep_ahead(directory, from, page.clone());
        }
        let fits = self.keeps.as_mut().is_some_and(|building| building.grow(page.memory_bytes()));
        self.steps[number].page = Some(page);
        if !fits && self.keeps.take().is_some() || self.keeps.is_none() {
            for (other, step) in self.steps.iter_mut().enumerate() {
                if other != number {
                    step.page = None;
                }
            }
            if number == 0 {
                return;
            }
            shared.listings.lock().note_large(directory, self.asked);
            return;
        }
        let pages: Option<Vec<_>> = self.steps.iter().map(|step| step.page.clone()).collect();
        if let Some(pages) = pages.filter(|_| is_last) {
            let listing = Arc::new(Listing { pages, asked: self.asked });
            shared.listings.lock().keep(directory, listing, self.asked);
        }
    }

    fn look_ahead(&mut self, shared: &Arc<Shared>, directory: &str, number: usize) {
        let Some(step) = self.steps.get(number).filter(|step| step.page.is_none()) else { return };
        if !self.ahead.as_ref().is_some_and(|ahead| ahead.is(number, &step.marker)) {
            self.ahead = Some(Ahead::begin(shared, directory, number, step.marker.clone()));
        }
    }
}

impl Step {
    fn behind(marker: String) -> Self {
        Self { marker, page: None, own: None, later: Arc::default() }
    }

    fn has_successor(&self) -> bool {
        self.page.as_ref().is_some_and(|page| page.next_marker.is_some())
    }

    /// Lays own changes over the page, and decides about the files that the page `before` could not.
    fn lay_over(&mut self, shared: &Shared, directory: &str, before: &[(String, Facts)]) {
        let Some(page) = self.page.clone() else { return };
        let end = page.end(directory);
        let changes = own_changes(shared, directory, &self.marker, end);
        let now = Instant::now();
        let mut later: Vec<(String, Facts)> = Vec::new();
        let mut own: Vec<(String, Change)> = Vec::new();
        for (name, facts) in before {
            let below = format!("{name}/");
            if page.find(&below).is_some() {
                shared.names.note_shadowed(directory, name);
            } else if is_undecided(name, end) {
                later.push((name.clone(), facts.clone()));
            } else {
                own.push((name.clone(), Change::Put(facts.clone())));
            }
        }
        own.extend(changes);
        hide_shadowed(&mut own, &page);
        let overlay = shared.overlay.lock();
        for (name, facts) in page.undecided(directory) {
            let change = overlay.change(&format!("{directory}{name}"), now).map(|(change, _)| change);
            if let Some(facts) = change.map_or(Some(facts.clone()), |change| change.over(Some(&facts))) {
                later.push((name, facts));
            }
        }
        self.own = Some(own.into());
        self.later = later.into();
    }

    /// The entry behind a place and the place behind it; `None` facts: hidden by an own change.
    fn next(&self, place: Place) -> Option<(String, Option<Facts>, Place)> {
        let page = self.page.as_ref()?;
        let own = self.own.as_deref().unwrap_or_default().get(place.own);
        let listed = (place.listed < page.len()).then(|| page.name(place.listed));
        let past_own = Place { own: place.own + 1, ..place };
        let past_listed = Place { listed: place.listed + 1, ..place };
        let next = match (own, listed) {
            (None, None) => None,
            (Some((name, change)), Some(listed)) if name == listed => {
                let past_both = Place { listed: place.listed + 1, ..past_own };
                Some((name.clone(), change.over(Some(&page.facts(place.listed))), past_both))
            }
            (Some((name, change)), listed) if listed.is_none_or(|listed| name.as_str() < listed) => {
                Some((name.clone(), change.over(None), past_own))
            }
            (_, Some(listed)) => Some((listed.to_owned(), Some(page.facts(place.listed)), past_listed)),
            (Some(_), None) => None,
        };
        next.map(|(name, facts, place)| {
            let is_later = self.later.iter().any(|(later, _)| *later == name);
            (name, facts.filter(|_| !is_later), place)
        })
    }
}

impl Shared {
    /// What is kept of a file beside its bytes, if no request is needed to tell.
    fn kept_if_known(&self, directory: &str, name: &str, facts: &Facts) -> Option<Arc<Posix>> {
        if !self.posix_metadata {
            return None;
        }
        let key = match facts.is_directory() {
            true => self.names.marker(directory, name),
            false => self.names.key(directory, name),
        };
        self.kept(&self.version_of(&key.ok()?, facts))
    }
}

/// Own changes of the names behind `from` (a key; empty = from the start) up to `end` (a name).
fn own_changes(shared: &Shared, directory: &str, from: &str, end: Option<&str>) -> Vec<(String, Change)> {
    let from = from.strip_prefix(directory).unwrap_or("");
    let mut names = shared.overlay.lock().names(directory, Instant::now());
    names.retain(|(name, _)| name.as_str() > from && end.is_none_or(|end| name.as_str() <= end));
    names
}

/// Of a file and a directory of one name only the directory is shown, also where own changes tell of one of them, and the
/// page of the other.
fn hide_shadowed(own: &mut Vec<(String, Change)>, page: &Page) {
    let directories: HashMap<String, bool> = own
        .iter()
        .filter_map(|(name, change)| {
            Some((name.strip_suffix('/')?.to_owned(), matches!(change, Change::Put(_))))
        })
        .collect();
    let is_directory = |name: &str| {
        directories.get(name).copied().unwrap_or_else(|| page.find(&format!("{name}/")).is_some())
    };
    own.retain(|(name, change)| {
        let is_file = !name.ends_with('/') && matches!(change, Change::Put(_));
        !(is_file && is_directory(name))
    });
    for (name, _) in directories.into_iter().filter(|(_, is_there)| *is_there) {
        if let Some(Facts { etag, modified, .. }) = page.find(&name) {
            own.retain(|(other, _)| *other != name);
            own.push((name, Change::Deleted { etag, at: modified }));
        }
    }
    own.sort_by(|(one, _), (other, _)| one.cmp(other));
}

/// A number to show for a name whose inode the table does not hold: the same as long as the process lives,
/// and of no inode, for it has a bit that none has.
fn passing_number(parent: InodeNo, name: &str) -> InodeNo {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    InodeNo(HASHER.hash_one((parent, name)) | (1 << 63))
}
