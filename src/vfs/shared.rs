//! What all views of one bucket and prefix share: the store, names, inodes, own recent changes, listings,
//! open handles, and whom to tell when something changed.
//!
//! Locks are held for a few lines and never two at a time, but `handles` before any other.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::future::join_all;
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle as Runtime;

use super::{
    Attributes, Caller, Entry, HandleNo, InodeNo, Keys, Notice, Notify, Reclaimer, Room, VfsError, VfsResult,
    Writers,
    attr::{Facts, PackedETag, attributes, from_seconds, seconds},
    handle::Handle,
    inode::{InodeTable, Known, Link, ROOT},
    listing::ListingCache,
    metadata::Gathering,
    name::Names,
    overlay::{Change, Overlay},
    pace::Pace,
    posix::Posix,
    quota::{Quota, Share},
    read::Readers,
    register::Writing,
    resolve::Flights,
    uploads::Uploads,
};
use crate::{
    config::{Appearance, Limits, MountConfig},
    cos::{CosError, Key, ObjectStore},
};

/// Kept metadata (`posix_metadata`) of so many objects is remembered (about 10 MB).
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(32_768).expect("not zero");
/// Targets of so many symbolic links are remembered (4 MB at most).
const TARGETS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// The share of the memory limit that listings may have: one part in so many.
const LISTINGS_SHARE: u64 = 16;

/// The state of one bucket and prefix.
#[derive(Debug)]
pub struct Shared {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) names: Names,
    pub(super) shows: Appearance,
    pub(super) posix_metadata: bool,
    pub(super) attr_ttl: Duration,
    pub(super) memory_bytes: u64,
    pub(super) writers: Arc<Writers>,
    pub(super) keys: Arc<Keys>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) runtime: Runtime,
    /// What `user.cosgate.mount` of the root says.
    pub(super) identity: String,
    front_uids: Vec<u32>,
    /// What directories show as their time: lists tell none.
    born: SystemTime,
    pub(super) inodes: Mutex<InodeTable>,
    pub(super) overlay: Mutex<Overlay>,
    pub(super) listings: Mutex<ListingCache>,
    /// Of listings that directory handles are building.
    pub(super) building_bytes: AtomicUsize,
    pub(super) flights: Flights,
    pub(super) writing: Writing,
    pub(super) gathering: Gathering,
    /// `None` where there is no limit.
    pub(super) quota: Option<Quota>,
    pub(super) readers: Arc<Readers>,
    pub(super) pace: Arc<Pace>,
    _reclaimer: Reclaimer,
    /// What tables and listings take from the budget.
    counted: Mutex<Option<Room>>,
    kept: Mutex<LruCache<KeptOf, Arc<Posix>>>,
    /// What symbolic links lead to: a path walks through one again and again.
    pub(super) targets: Mutex<LruCache<KeptOf, Bytes>>,
    handles: RwLock<HashMap<u64, Handle>>,
    next_handle: AtomicU64,
    views: Views,
    stopping: AtomicBool,
}

/// Whom to tell, by view.
#[derive(Default)]
struct Views(Mutex<Vec<Option<Notify>>>);

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Views({})", self.0.lock().len())
    }
}

/// Which version of which object kept metadata belongs to. A copy onto itself keeps the ETag and changes the time.
pub(super) type KeptOf = (String, Facts);

impl Shared {
    /// The state of `mount`, whose owner has been looked up (`shows.uid` and `shows.gid` are known).
    /// `keys` are those of the bucket. `front_uids`: who may use the front's words beside root and the account's own uid.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        mount: &MountConfig,
        limits: &Limits,
        writers: Arc<Writers>,
        keys: Arc<Keys>,
        runtime: Runtime,
        front_uids: Vec<u32>,
    ) -> Arc<Self> {
        let born = from_seconds(seconds(SystemTime::now()));
        let listings_bytes = usize::try_from(limits.memory_bytes / LISTINGS_SHARE).unwrap_or(usize::MAX);
        let readers = Arc::new(Readers::new(limits.memory_bytes));
        let asked = readers.clone();
        let reclaimer = writers.budget().on_pressure(move |bytes| asked.give_back(bytes));
        let names = || Names::new(&mount.prefix, &limits.state_prefix);
        let quota = Quota::new(mount.quota, Arc::clone(&store), names(), &mount.name, &runtime);
        let names = names();
        let uploads = Uploads::new(store.clone(), writers.clone(), names.state_root(), mount.resume_window);
        Arc::new(Self {
            store,
            names,
            shows: mount.shows,
            posix_metadata: mount.posix_metadata,
            attr_ttl: limits.attr_ttl,
            memory_bytes: limits.memory_bytes,
            writers,
            keys,
            uploads,
            runtime,
            identity: format!("{} {}/{}", mount.name, mount.store.bucket, mount.prefix),
            front_uids,
            born,
            inodes: Mutex::new(InodeTable::new(&Facts::directory(born), Instant::now())),
            overlay: Mutex::new(Overlay::new(limits.attr_ttl)),
            listings: Mutex::new(ListingCache::new(listings_bytes)),
            building_bytes: AtomicUsize::new(0),
            flights: Flights::default(),
            writing: Writing::default(),
            gathering: Gathering::default(),
            quota,
            readers,
            pace: Arc::new(Pace::new(mount.store.timeout)),
            _reclaimer: reclaimer,
            counted: Mutex::new(None),
            kept: Mutex::new(LruCache::new(KEPT_MAX)),
            targets: Mutex::new(LruCache::new(TARGETS_MAX)),
            handles: RwLock::new(HashMap::new()),
            next_handle: AtomicU64::new(1),
            views: Views::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Clears away uploads that were left behind, now and each minute.
    pub fn keep_sweeping(&self) {
        self.uploads.keep_sweeping();
    }

    pub(super) fn new_view(&self) -> usize {
        let mut views = self.views.0.lock();
        views.push(None);
        views.len() - 1
    }

    pub(super) fn attach(&self, view: usize, notify: Notify) {
        if let Some(place) = self.views.0.lock().get_mut(view) {
            *place = Some(notify);
        }
    }

    /// Tells every view but `except`, from a task: whoever asks may hold the kernel's lock that a view waits for.
    pub(super) fn tell(&self, except: Option<usize>, notices: Vec<Notice>) {
        let views = self.listeners(except);
        if views.is_empty() || notices.is_empty() {
            return;
        }
        self.runtime.spawn(async move {
            for notice in notices {
                join_all(views.iter().map(|view| view(notice.clone()))).await;
            }
        });
    }

    /// Tells one view, from a task.
    pub(super) fn tell_one(&self, view: usize, notice: Notice) {
        let listener = self.views.0.lock().get(view).cloned().flatten();
        if let Some(listener) = listener {
            self.runtime.spawn(async move { listener(notice).await });
        }
    }

    /// Tells every view and waits until each has forgotten, or its bounded wait is over.
    pub(super) async fn tell_all_and_wait(&self, notices: Vec<Notice>) {
        let views = self.listeners(None);
        for notice in notices {
            join_all(views.iter().map(|view| view(notice.clone()))).await;
        }
    }

    fn listeners(&self, except: Option<usize>) -> Vec<Notify> {
        let views = self.views.0.lock();
        let others = views.iter().enumerate().filter(|(view, _)| Some(*view) != except);
        others.filter_map(|(_, notify)| notify.clone()).collect()
    }

    /// What a directory's keys begin with.
    ///
    /// # Errors
    /// `NotFound` for what is gone, `NotDirectory` for a file.
    pub(super) fn directory(&self, inode: InodeNo) -> VfsResult<String> {
        let inodes = self.inodes.lock();
        let known = inodes.known(inode);
        let (Some(known), Some(path)) = (known, inodes.path(inode)) else {
            return Err(VfsError::NotFound { name: "directory".to_owned() });
        };
        if !known.facts.is_directory() {
            return Err(VfsError::NotDirectory { name: known.name.into() });
        }
        let root = self.names.root();
        Ok(if path.is_empty() { root.to_owned() } else { format!("{root}{path}/") })
    }

    /// What the table knows of an inode.
    ///
    /// # Errors
    /// `NotFound` for a number that is not in use.
    pub(super) fn known(&self, inode: InodeNo) -> VfsResult<Known> {
        let known = self.inodes.lock().known(inode);
        known.ok_or_else(|| VfsError::NotFound { name: "inode".to_owned() })
    }

    /// Facts with a time: what lists tell of directories has none.
    pub(super) fn dated(&self, mut facts: Facts) -> Facts {
        if facts.is_directory() && seconds(facts.modified) == 0 {
            facts.modified = self.born;
        }
        facts
    }

    /// What stat shows of an inode; of a file that is being written, the bytes accepted so far.
    pub(super) fn attributes(&self, inode: InodeNo, known: &Known, kept: Option<&Posix>) -> Attributes {
        let writer = self.writing.shown_of(inode, known.facts.etag.is_some());
        let pending = writer.as_ref().and_then(|file| file.pending_attributes());
        let kept = if self.posix_metadata { pending.as_ref().or(kept) } else { None };
        let mut shown = attributes(inode, &known.facts, &self.shows, kept);
        if let Some(bytes) = writer.and_then(|file| file.shown_bytes()) {
            shown.bytes = bytes;
        }
        if known.link == Link::Gone {
            shown.links = 0;
        }
        shown
    }

    /// What a lookup answers. What is known already for a while is trusted for so much shorter.
    pub(super) fn entry(&self, inode: InodeNo, known: &Known, kept: Option<&Posix>, now: Instant) -> Entry {
        let attributes = self.attributes(inode, known, kept);
        let ttl = if self.writing.of_inode(inode).is_some() || known.link != Link::Named {
            Duration::ZERO
        } else {
            let age = known.seen.map_or(self.attr_ttl, |seen| now.saturating_duration_since(seen));
            self.attr_ttl.saturating_sub(age)
        };
        Entry { attributes, entry_ttl: ttl, attr_ttl: ttl }
    }

    /// An object was made, or a marker: lists may lag behind it.
    pub(super) fn note_put(&self, key: &str, facts: Facts) {
        self.overlay.lock().note(key, Change::Put(facts), Instant::now());
    }

    /// As [`Self::note_put`], but false and nothing where the key has been deleted since `asked`: unlink and rename
    /// wait for nobody.
    pub(super) fn note_put_unless_deleted(&self, key: &str, facts: Facts, asked: Instant) -> bool {
        let (mut overlay, now) = (self.overlay.lock(), Instant::now());
        if matches!(overlay.change_since(key, asked), Some((Change::Deleted { .. }, _))) {
            return false;
        }
        overlay.note(key, Change::Put(facts), now);
        true
    }

    /// As [`Self::note_put`], of what was asked for at `asked`. Where the key has been deleted meanwhile, the answers do
    /// not tell which came last, and the store does. False where it is gone, or something else stands there.
    pub(super) async fn note_made(&self, key: &Key, facts: &Facts, mut asked: Instant) -> bool {
        while !self.note_put_unless_deleted(key.as_str(), facts.clone(), asked) {
            asked = Instant::now();
            match self.store.head_object(key).await {
                Ok(meta) if Some(PackedETag::new(&meta.etag)) == facts.etag => {}
                // What cannot be told is asked for by whoever looks next.
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// The same of a deletion: false where something stands there, put behind it.
    pub(super) async fn note_gone(&self, key: &Key, facts: Option<&Facts>, mut asked: Instant) -> bool {
        loop {
            let put = match self.overlay.lock().change_since(key.as_str(), asked) {
                Some((Change::Put(put), _)) => put.etag.clone(),
                Some((Change::Deleted { .. }, _)) | None => None,
            };
            if put.is_none() {
                self.note_deleted(key.as_str(), facts);
                return true;
            }
            asked = Instant::now();
            let stands = self.store.head_object(key).await;
            if stands.is_ok_and(|meta| put == Some(PackedETag::new(&meta.etag))) {
                return false;
            }
        }
    }

    /// A key was deleted; of a directory, with all below it.
    pub(super) fn note_deleted(&self, key: &str, facts: Option<&Facts>) {
        let etag = facts.and_then(|facts| facts.etag.clone());
        let change = Change::Deleted { etag, at: SystemTime::now() };
        self.overlay.lock().note(key, change, Instant::now());
    }

    /// Waits until it is known how much is stored, where that matters.
    ///
    /// # Errors
    /// `QuotaUnknown` where it does not become known in time.
    pub(super) async fn counted(&self) -> VfsResult<()> {
        match &self.quota {
            Some(quota) => quota.counted().await,
            None => Ok(()),
        }
    }

    /// The room for a writer of `key`, under which an object of `stands` bytes stands.
    ///
    /// # Errors
    /// `QuotaReached`.
    pub(super) fn share(&self, key: &Key, stands: Option<u64>) -> VfsResult<Option<Share>> {
        self.quota.as_ref().map(|quota| quota.open(key, stands)).transpose()
    }

    /// Tells the quota what stands under a key now, and what stood there before.
    pub(super) fn count_change(&self, key: &str, before: Option<u64>, after: Option<u64>) {
        if let Some(quota) = &self.quota {
            quota.change(key, before, after);
        }
    }

    /// What it means for `name` that a request failed which changes the bucket, and may have changed it.
    pub(super) fn failed_change(&self, error: CosError, name: &str) -> VfsError {
        if let Some(quota) = self.quota.as_ref().filter(|_| error.in_doubt) {
            quota.doubt();
        }
        VfsError::from_cos(error, name)
    }

    /// Whether an inode shows an object; one that was put under its key since `asked` it is shown now.
    pub(super) fn is_object(&self, inode: InodeNo, key: &Key, asked: Instant) -> bool {
        let put = match self.overlay.lock().change_since(key.as_str(), asked) {
            Some((Change::Put(facts), done)) => Some((facts.clone(), done)),
            Some((Change::Deleted { .. }, _)) | None => None,
        };
        let mut inodes = self.inodes.lock();
        let is_object = inodes.known(inode).is_some_and(|known| known.facts.etag.is_some());
        if let Some((facts, done)) = put.as_ref().filter(|_| !is_object) {
            inodes.update(inode, facts, Some(*done));
        }
        is_object || put.is_some()
    }

    /// Whether a file has taken a name since `asked`.
    pub(super) fn is_file_since(&self, parent: InodeNo, name: &str, key: &Key, asked: Instant) -> bool {
        let named = self.inodes.lock().named(parent, name);
        named.is_some_and(|(_, known)| !known.facts.is_directory()) || self.is_put_since(key, asked)
    }

    /// Whether this gateway has deleted a file since `asked`.
    pub(super) fn is_deleted_since(&self, directory: &str, name: &str, asked: Instant) -> bool {
        let overlay = self.overlay.lock();
        let change = overlay.change_since(&format!("{directory}{name}"), asked);
        matches!(change, Some((Change::Deleted { .. }, _)))
    }

    /// Whether this gateway has put something under a key since `asked`.
    pub(super) fn is_put_since(&self, key: &Key, asked: Instant) -> bool {
        let overlay = self.overlay.lock();
        matches!(overlay.change_since(key.as_str(), asked), Some((Change::Put(_), _)))
    }

    /// The size of the object that a name leads to, as far as the table knows.
    pub(super) fn stands(&self, parent: InodeNo, name: &str) -> Option<u64> {
        let inodes = self.inodes.lock();
        let facts = inodes.known(inodes.find(parent, name)?)?.facts;
        facts.etag.is_some().then_some(facts.bytes)
    }

    /// Kept metadata of this very version, if it is remembered.
    pub(super) fn kept(&self, of: &KeptOf) -> Option<Arc<Posix>> {
        self.kept.lock().get(of).cloned()
    }

    pub(super) fn keep(&self, of: KeptOf, kept: Arc<Posix>) {
        self.kept.lock().put(of, kept);
    }

    pub(super) fn open_handle(&self, handle: Handle) -> HandleNo {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.write().insert(number, handle);
        HandleNo(number)
    }

    /// # Errors
    /// `BadHandle` for a number that is not in use.
    pub(super) fn handle(&self, handle: HandleNo) -> VfsResult<Handle> {
        self.handles.read().get(&handle.0).cloned().ok_or(VfsError::BadHandle)
    }

    pub(super) fn close_handle(&self, handle: HandleNo) -> Option<Handle> {
        self.handles.write().remove(&handle.0)
    }

    /// Whether the caller may use the front's words.
    ///
    /// # Errors
    /// `NotTheFront`.
    pub(super) fn is_front(&self, caller: Caller) -> VfsResult<()> {
        let is_front =
            caller.uid == 0 || Some(caller.uid) == self.shows.uid || self.front_uids.contains(&caller.uid);
        if is_front { Ok(()) } else { Err(VfsError::NotTheFront) }
    }

    /// Whether the caller is the front's service user, whose modes mean nothing.
    pub(super) fn is_front_user(&self, caller: Caller) -> bool {
        self.front_uids.contains(&caller.uid)
    }

    /// # Errors
    /// `Stopping` once a stop has been asked for.
    pub(super) fn is_open(&self) -> VfsResult<()> {
        if self.stopping.load(Ordering::Acquire) { Err(VfsError::Stopping) } else { Ok(()) }
    }

    pub(super) fn has_open_files(&self) -> bool {
        let is_file = |handle: &Handle| matches!(handle, Handle::Reader(_) | Handle::File(_));
        self.handles.read().values().any(is_file)
    }

    pub(super) fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// The key of the marker object of a directory; `None` for the root of a whole bucket.
    pub(super) fn marker_of(&self, directory: &str) -> Option<Key> {
        Key::new(directory).ok()
    }

    /// Counts what tables and listings hold against the budget, in whole MiB.
    pub(super) fn count_memory(&self) {
        let tables = self.inodes.lock().memory_bytes() + self.listings.lock().bytes();
        let bytes = (tables + self.building_bytes.load(Ordering::Relaxed)) as u64 >> 20 << 20;
        let mut counted = self.counted.lock();
        if counted.as_ref().map_or(0, Room::bytes) != bytes {
            *counted = None;
            *counted = (bytes > 0).then(|| self.writers.budget().count_anyway(bytes));
        }
    }

    /// Whether an inode is the root.
    pub(super) fn is_root(&self, inode: InodeNo) -> bool {
        inode == ROOT
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{Addressing, QuotaConfig, Secret, StoreConfig};

    /// The state of a whole bucket, for tests of what is not behind the door.
    pub(in crate::vfs) fn shared(store: Arc<dyn ObjectStore>) -> Arc<Shared> {
        let limits = Limits {
            memory_bytes: 64 << 20,
            min_part_bytes: 1 << 20,
            single_file_bytes_max: 1 << 40,
            upload_requests_max: 2,
            upload_answers_max: 0,
            attr_ttl: Duration::from_secs(5),
            grace: Duration::ZERO,
            state_prefix: ".cosgate/".to_owned(),
        };
        let mount = MountConfig {
            name: "COS_ACCOUNT".to_owned(),
            store: StoreConfig {
                bucket: "demo-1250000000".to_owned(),
                endpoint: "cos.example".to_owned(),
                https: true,
                addressing: Addressing::Virtual,
                secret_id: String::new(),
                secret_key: Secret::new(""),
                token: None,
                ca_file: None,
                proxy: None,
                storage_class: None,
                sse: None,
                timeout: Duration::from_secs(1),
            },
            prefix: String::new(),
            home: PathBuf::from("/home/demo"),
            nonempty: false,
            quota: QuotaConfig::default(),
            resume_window: Duration::ZERO,
            shows: Appearance {
                uid: Some(0),
                gid: Some(0),
                file_mode: 0o644,
                dir_mode: 0o755,
                allow_other: true,
            },
            posix_metadata: false,
            policies: Vec::new(),
        };
        let runtime = Runtime::current();
        let writers = Writers::new(&limits, runtime.clone());
        Shared::new(store, &mount, &limits, writers, Keys::new(), runtime, Vec::new())
    }
}
