//! Many at once on few names: what a race must never lead to, whoever is faster.
//!
//! Two views of one bucket in memory, whose every request waits a random time before and after it takes effect, so that
//! answers are overtaken. The clock of most runs stands still while anybody can work, so a seed is one order of events,
//! and a second of waiting costs nothing. The same few seeds run each time; `COSGATE_RACES_RUNS` runs so many others, some
//! of them on several threads. A failing run prints its seed, and `COSGATE_RACES_SEED` runs that one alone.

#[path = "../common/seeds.rs"]
mod seeds;
#[path = "../common/tree.rs"]
mod tree;

mod ordered;
mod random;

use std::{collections::BTreeSet, ffi::OsStr, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use cosgate::{
    cos::{FaultyStore, MemoryStore},
    vfs::{Caller, HandleNo, InodeNo, OpenHow, Vfs, VfsError, VfsResult, WriteOutcome},
};
use parking_lot::Mutex;
use seeds::Story;
use tree::{ALL, NEW, Plan, READ_WRITE, ROOT, Tree, close, list, read_file, stat};

const NAME: &str = "COSGATE_RACES";
const RUNS: u64 = 60;
/// A run that takes longer than this, by its own clock, stands still.
const RUN_TAKES_AT_MOST: Duration = Duration::from_secs(120);
const REQUEST_WAITS_AT_MOST: Duration = Duration::from_micros(2000);

const READ_APPEND: OpenHow = OpenHow { append: true, ..READ_WRITE };
const READ_WRITE_NEW: OpenHow = OpenHow { truncate: true, ..READ_WRITE };
const EXCLUSIVE: OpenHow = OpenHow { exclusive: true, truncate: false, ..NEW };

/// One run: a tree, and dice.
struct Run {
    tree: Tree,
    random: Mutex<fastrand::Rng>,
}

impl Run {
    fn new(seed: u64) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = Plan {
            attr_ttl: Duration::from_secs(if random.bool() { 0 } else { 5 }),
            posix_metadata: random.bool(),
            policies: vec![ALL, ALL],
            ..Plan::default()
        };
        let memory = Arc::new(MemoryStore::new());
        let slow = FaultyStore::slow(memory.clone(), REQUEST_WAITS_AT_MOST, random.u64(..));
        let tree = Tree::over_store(memory, Arc::new(slow), &plan);
        Arc::new(Self { tree, random: Mutex::new(random) })
    }

    /// One of the views.
    fn vfs(&self) -> &Vfs {
        &self.tree.views[self.below(2)]
    }

    fn below(&self, end: usize) -> usize {
        self.random.lock().usize(..end)
    }

    fn one<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    async fn pause(&self) {
        match self.below(4) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => {
                let micros = self.below(1500) as u64;
                tokio::time::sleep(Duration::from_micros(micros)).await;
            }
        }
    }

    async fn write(
        &self,
        vfs: &Vfs,
        handle: HandleNo,
        offset: u64,
        data: Vec<u8>,
        how: OpenHow,
    ) -> VfsResult<()> {
        if self.below(2) == 0 && vfs.try_write(handle, offset, &data, how.append)? == WriteOutcome::Written {
            return Ok(());
        }
        vfs.write(handle, offset, Bytes::from(data), how.append, false).await
    }
}

/// open(2) with O_CREAT, as the kernel asks: LOOKUP, then OPEN, or CREATE where there is nothing; once more where what was
/// found is gone.
async fn open(vfs: &Vfs, name: &str, how: OpenHow, caller: Caller) -> VfsResult<(InodeNo, HandleNo)> {
    let mut tries = 0;
    loop {
        let opened = match vfs.lookup(ROOT, OsStr::new(name)).await {
            Ok(entry) if how.exclusive => {
                vfs.forget(entry.attributes.inode, 1);
                Err(VfsError::Exists { name: name.to_owned() })
            }
            Ok(entry) => {
                let inode = entry.attributes.inode;
                let opened = vfs.open(inode, how, caller).await.map(|handle| (inode, handle));
                vfs.forget(inode, 1);
                opened
            }
            Err(VfsError::NotFound { .. }) if how.write => {
                let created = vfs.create(ROOT, OsStr::new(name), 0o644, how, caller).await;
                created.map(|(entry, handle)| {
                    vfs.forget(entry.attributes.inode, 1);
                    (entry.attributes.inode, handle)
                })
            }
            Err(error) => Err(error),
        };
        tries += 1;
        match opened {
            Err(VfsError::ReplacedMeanwhile { .. }) if tries < 2 => {}
            opened => return opened,
        }
    }
}

async fn join(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        if let Err(failed) = task.await {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// Everything is closed: nothing is left open, held or hidden, and all agree with the bucket.
async fn is_at_rest(run: Arc<Run>) {
    let tree = &run.tree;
    let vfs = tree.vfs();
    for _ in 0..2000 {
        let is_clean = left_behind(tree).is_empty() && tree.memory.open_upload_keys().is_empty();
        // Times and modes are sent a moment after they were set.
        if is_clean && format!("{vfs:?}").contains("gathering: Gathering(Mutex { data: {} })") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Who sends them is not quite done.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(left_behind(tree), Vec::<String>::new(), "left below state_prefix");
    let keys: BTreeSet<String> =
        tree.memory.keys().into_iter().filter(|key| !key.starts_with(".cosgate/")).collect();
    assert_eq!(tree.memory.open_upload_keys(), Vec::<String>::new(), "uploads that are open");
    let names: BTreeSet<String> =
        keys.iter().map(|key| key.split('/').next().unwrap_or_default().to_owned()).collect();
    let fresh = Tree::over(tree.memory.clone(), &Plan::default());
    for (vfs, who) in
        [(vfs, "this gateway"), (&tree.views[1], "its other view"), (fresh.vfs(), "a fresh one")]
    {
        let listed = list(vfs, "").await.expect("list");
        assert_eq!(listed.keys().cloned().collect::<BTreeSet<_>>(), names, "{who} lists");
        for name in &names {
            let shown = stat(vfs, name).await.unwrap_or_else(|error| panic!("{who}: {error}"));
            if keys.iter().any(|key| key.starts_with(&format!("{name}/"))) {
                assert!(tree::is_directory(&shown), "{who}: {name}");
                continue;
            }
            let content = tree.memory.content(name).expect("an object");
            assert_eq!(shown.bytes, content.len() as u64, "{who}: stat of {name}");
            assert_eq!(listed[name].bytes, content.len() as u64, "{who}: list of {name}");
            assert!(read_file(vfs, name).await.expect("read") == content, "{who} reads {name}");
        }
    }
    for name in ["a", "b", "c", "d"].into_iter().filter(|name| !names.contains(*name)) {
        let shown = stat(vfs, name).await;
        assert!(matches!(shown, Err(VfsError::NotFound { .. })), "{name} is not there: {shown:?}");
    }
    let state = format!("{vfs:?}");
    assert!(state.contains("live: 1 "), "inodes that are held: {state}");
    for empty in ["by_key: {}", "by_inode: {}", "handles: RwLock { data: {}"] {
        assert!(state.contains(empty), "{empty}: {state}");
    }
    let writers = tree.writers.clone();
    drop(fresh);
    drop(Arc::into_inner(run).expect("all tasks have ended"));
    for _ in 0..3000 {
        if writers.budget().used_bytes() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(writers.budget().used_bytes(), 0, "memory that was not given back");
}

/// What the gateway has put below `state_prefix`, but for the notes that uploads which broke leave on purpose.
fn left_behind(tree: &Tree) -> Vec<String> {
    let mut keys = tree.memory.keys();
    keys.retain(|key| key.starts_with(".cosgate/") && !key.starts_with(".cosgate/outdated/"));
    keys
}

/// Runs a scenario with many seeds.
fn run_all<F: Future<Output = ()>>(scenario: impl Fn(u64, Arc<Run>) -> F) {
    // Those on threads fail here and not everywhere: they are for who asks for new ones.
    let is_asked = |what: &str| std::env::var_os(format!("{NAME}_{what}")).is_some();
    let are_all = is_asked("SEED") || is_asked("RUNS");
    let seeds = seeds::seeds(NAME, RUNS).filter(|seed| are_all || seed % 8 != 7);
    for seed in seeds {
        let _story = Story::new(NAME, seed);
        // One seed in eight runs on threads, by the clock on the wall.
        let runtime = match seed % 8 {
            7 => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
            _ => tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build(),
        };
        runtime.expect("a runtime").block_on(async {
            let done = tokio::time::timeout(RUN_TAKES_AT_MOST, async {
                let run = Run::new(seed);
                scenario(seed, run.clone()).await;
                is_at_rest(run).await;
            });
            done.await.expect("everybody waits for somebody");
        });
    }
}
