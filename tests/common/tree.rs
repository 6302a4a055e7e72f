//! A file system over a bucket in memory, used by paths: walks as a kernel does, and forgets what it looked up.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of what all of them share")]

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cosgate::{
    config::{
        Addressing, Appearance, Authority, Limits, MountConfig, PolicyConfig, QuotaConfig, Secret,
        StoreConfig,
    },
    cos::{FaultyStore, MemoryStore, ObjectStore},
    vfs::{
        AttributeChange, Attributes, Caller, Closer, Entry, FileKind, HandleNo, InodeNo, Keys, MountPolicy,
        OpenHow, Shared, Vfs, VfsResult, Writers,
    },
};

pub const ROOT: InodeNo = InodeNo(1);
/// The process that all tests write as, unless they say otherwise.
pub const PROCESS: u32 = 4711;
pub const ME: Caller = Caller { uid: 1000, gid: 1000, process: Some(PROCESS) };
pub const FRONT_UID: u32 = 990;
pub const FRONT: Caller = Caller { uid: FRONT_UID, gid: 990, process: Some(812) };
pub const ALL: PolicyConfig = PolicyConfig {
    authority: Authority { read: true, write: true },
    delete_enable: true,
    overwrite_enable: true,
};
pub const NEW: OpenHow =
    OpenHow { read: false, write: true, truncate: true, append: false, exclusive: false, alone: false };
pub const READ: OpenHow =
    OpenHow { read: true, write: false, truncate: false, append: false, exclusive: false, alone: false };
pub const READ_WRITE: OpenHow = OpenHow { write: true, ..READ };
pub const APPEND: OpenHow = OpenHow { append: true, read: false, ..READ_WRITE };

/// How a tree is made; change what a test is about.
#[derive(Debug, Clone)]
pub struct Plan {
    pub attr_ttl: Duration,
    pub memory_bytes: u64,
    pub posix_metadata: bool,
    pub quota: QuotaConfig,
    pub resume_window: Duration,
    pub prefix: &'static str,
    pub policies: Vec<PolicyConfig>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            attr_ttl: Duration::from_secs(5),
            memory_bytes: 64 << 20,
            posix_metadata: false,
            quota: QuotaConfig::default(),
            resume_window: Duration::ZERO,
            prefix: "",
            policies: vec![ALL],
        }
    }
}

/// One bucket, seen through one view per policy.
#[derive(Debug)]
pub struct Tree {
    pub memory: Arc<MemoryStore>,
    pub store: Arc<FaultyStore>,
    pub writers: Arc<Writers>,
    pub views: Vec<Vfs>,
}

impl Tree {
    pub fn new(plan: &Plan) -> Self {
        Self::over(Arc::new(MemoryStore::new()), plan)
    }

    /// A gateway (a second one, perhaps) over a bucket.
    pub fn over(memory: Arc<MemoryStore>, plan: &Plan) -> Self {
        Self::over_store(memory.clone(), memory, plan)
    }

    /// The same, by way of `store`.
    pub fn over_store(memory: Arc<MemoryStore>, store: Arc<dyn ObjectStore>, plan: &Plan) -> Self {
        let store = Arc::new(FaultyStore::new(store));
        let limits = Limits {
            memory_bytes: plan.memory_bytes,
            min_part_bytes: 1 << 20,
            single_file_bytes_max: 1 << 40,
            upload_requests_max: 4,
            upload_answers_max: 0,
            attr_ttl: plan.attr_ttl,
            grace: Duration::from_secs(1),
            state_prefix: ".cosgate/".to_owned(),
        };
        let runtime = tokio::runtime::Handle::current();
        let writers = Writers::new(&limits, runtime.clone());
        let dynamic: Arc<dyn ObjectStore> = store.clone();
        let shared = Shared::new(
            dynamic,
            &mount(plan),
            &limits,
            writers.clone(),
            Keys::new(),
            runtime,
            vec![FRONT_UID],
        );
        let views = plan.policies.iter().map(|policy| Vfs::new(shared.clone(), MountPolicy::new(*policy)));
        Self { memory, store, writers, views: views.collect() }
    }

    /// The first view.
    pub fn vfs(&self) -> &Vfs {
        &self.views[0]
    }
}

fn mount(plan: &Plan) -> MountConfig {
    MountConfig {
        name: "COS_ACCOUNT_0".to_owned(),
        store: StoreConfig {
            bucket: "demo-1250000000".to_owned(),
            endpoint: "cos.example".to_owned(),
            https: false,
            addressing: Addressing::Path,
            secret_id: String::new(),
            secret_key: Secret::new(""),
            token: None,
            ca_file: None,
            proxy: None,
            storage_class: None,
            sse: None,
            timeout: Duration::from_secs(5),
        },
        prefix: plan.prefix.to_owned(),
        home: PathBuf::from("/home/demo"),
        nonempty: false,
        quota: plan.quota,
        resume_window: plan.resume_window,
        shows: Appearance {
            uid: Some(1000),
            gid: Some(1000),
            file_mode: 0o644,
            dir_mode: 0o755,
            allow_other: true,
        },
        posix_metadata: plan.posix_metadata,
        policies: plan.policies.clone(),
    }
}

/// What closes a descriptor in the common case.
pub fn closer() -> Closer {
    Closer { process: Some(PROCESS), killed: false, opener_gone: false }
}

/// Looks a path up, as the kernel walks it, and forgets again.
pub async fn stat(vfs: &Vfs, path: &str) -> VfsResult<Attributes> {
    let (parent, name) = walk(vfs, path).await?;
    let entry = vfs.lookup(parent, OsStr::new(&name)).await;
    if let Ok(entry) = &entry {
        vfs.forget(entry.attributes.inode, 1);
    }
    unwalk(vfs, parent);
    entry.map(|entry| entry.attributes)
}

/// The inode of a path's directory, held until [`unwalk`], and the last piece.
pub async fn walk(vfs: &Vfs, path: &str) -> VfsResult<(InodeNo, OsString)> {
    let mut pieces: Vec<&str> = path.split('/').collect();
    let name = pieces.pop().unwrap_or_default();
    let mut parent = ROOT;
    for piece in pieces {
        let entry = vfs.lookup(parent, OsStr::new(piece)).await;
        unwalk(vfs, parent);
        parent = entry?.attributes.inode;
    }
    Ok((parent, OsString::from(name)))
}

pub fn unwalk(vfs: &Vfs, parent: InodeNo) {
    if parent != ROOT {
        vfs.forget(parent, 1);
    }
}

/// Opens a path to be read.
pub async fn open(vfs: &Vfs, path: &str, how: OpenHow) -> VfsResult<(InodeNo, HandleNo)> {
    let (parent, name) = walk(vfs, path).await?;
    let entry = vfs.lookup(parent, &name).await;
    unwalk(vfs, parent);
    let inode = entry?.attributes.inode;
    let handle = vfs.open(inode, how, ME).await;
    vfs.forget(inode, 1);
    Ok((inode, handle?))
}

/// open(O_CREAT | …), as the kernel asks: OPEN where the name is known, else CREATE.
pub async fn create(vfs: &Vfs, path: &str, how: OpenHow) -> VfsResult<(Entry, HandleNo)> {
    let (parent, name) = walk(vfs, path).await?;
    let created = vfs.create(parent, &name, 0o644, how, ME).await;
    unwalk(vfs, parent);
    if let Ok((entry, _)) = &created {
        vfs.forget(entry.attributes.inode, 1);
    }
    created
}

/// Writes a whole file and closes it, as `cp` does.
pub async fn write_file(vfs: &Vfs, path: &str, content: &[u8]) -> VfsResult<()> {
    let (_, handle) = create(vfs, path, NEW).await?;
    let written = write(vfs, handle, 0, content).await;
    written.and(close(vfs, handle).await)
}

/// close(2): FLUSH, and RELEASE whatever that has answered.
pub async fn close(vfs: &Vfs, handle: HandleNo) -> VfsResult<()> {
    let flushed = vfs.flush(handle, closer()).await;
    flushed.and(vfs.release(handle).await)
}

pub async fn write(vfs: &Vfs, handle: HandleNo, offset: u64, content: &[u8]) -> VfsResult<()> {
    if content.is_empty() {
        return Ok(());
    }
    vfs.write(handle, offset, Bytes::copy_from_slice(content), false, false).await
}

/// Reads a whole file in pieces.
pub async fn read_file(vfs: &Vfs, path: &str) -> VfsResult<Vec<u8>> {
    let (_, handle) = open(vfs, path, READ).await?;
    let content = read_all(vfs, handle, 100_000).await;
    vfs.release(handle).await?;
    content
}

pub async fn read_all(vfs: &Vfs, handle: HandleNo, piece: u32) -> VfsResult<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let bytes = vfs.read(handle, content.len() as u64, piece).await?;
        if bytes.is_empty() {
            return Ok(content);
        }
        content.extend_from_slice(&bytes);
    }
}

pub async fn mkdir(vfs: &Vfs, path: &str) -> VfsResult<()> {
    let (parent, name) = walk(vfs, path).await?;
    let made = vfs.mkdir(parent, &name, 0o755, ME).await;
    unwalk(vfs, parent);
    made.map(|entry| vfs.forget(entry.attributes.inode, 1))
}

pub async fn unlink(vfs: &Vfs, path: &str) -> VfsResult<()> {
    let (parent, name) = walk(vfs, path).await?;
    let done = vfs.unlink(parent, &name).await;
    unwalk(vfs, parent);
    done
}

pub async fn rmdir(vfs: &Vfs, path: &str) -> VfsResult<()> {
    let (parent, name) = walk(vfs, path).await?;
    let done = vfs.rmdir(parent, &name).await;
    unwalk(vfs, parent);
    done
}

pub async fn rename(vfs: &Vfs, from: &str, to: &str, no_replace: bool) -> VfsResult<()> {
    let (from_parent, from_name) = walk(vfs, from).await?;
    let (to_parent, to_name) = match walk(vfs, to).await {
        Ok(place) => place,
        Err(error) => {
            unwalk(vfs, from_parent);
            return Err(error);
        }
    };
    let done = vfs.rename(from_parent, &from_name, to_parent, &to_name, no_replace).await;
    unwalk(vfs, from_parent);
    unwalk(vfs, to_parent);
    done
}

/// Names of a directory with their attributes, by one readdirplus after the other.
pub async fn list(vfs: &Vfs, path: &str) -> VfsResult<BTreeMap<String, Attributes>> {
    let inode = if path.is_empty() { ROOT } else { stat_held(vfs, path).await?.inode };
    let handle = vfs.opendir(inode).await;
    if inode != ROOT {
        vfs.forget(inode, 1);
    }
    let handle = handle?;
    let mut names = BTreeMap::new();
    let mut offset = 0;
    loop {
        let (mut taken, mut room) = (Vec::new(), 7);
        vfs.readdir(handle, offset, true, &mut |entry| {
            room -= 1;
            if room < 0 {
                return false;
            }
            taken.push(entry.clone());
            true
        })
        .await?;
        let Some(last) = taken.last() else { break };
        offset = last.next_offset;
        for entry in taken {
            let name = entry.name.into_string().expect("keys are UTF-8");
            if name != "." && name != ".." {
                vfs.forget(entry.entry.attributes.inode, 1);
                let twice = names.insert(name.clone(), entry.entry.attributes);
                assert!(twice.is_none(), "{name} is listed twice, as {twice:?} and {:?}", names[&name]);
            }
        }
    }
    vfs.releasedir(handle);
    Ok(names)
}

async fn stat_held(vfs: &Vfs, path: &str) -> VfsResult<Attributes> {
    let (parent, name) = walk(vfs, path).await?;
    let entry = vfs.lookup(parent, &name).await;
    unwalk(vfs, parent);
    entry.map(|entry| entry.attributes)
}

pub async fn truncate(vfs: &Vfs, inode: InodeNo, handle: Option<HandleNo>, bytes: u64) -> VfsResult<()> {
    let change = AttributeChange { bytes: Some(bytes), ..AttributeChange::default() };
    vfs.setattr(inode, handle, change).await.map(|_| ())
}

pub fn is_directory(attributes: &Attributes) -> bool {
    attributes.kind == FileKind::Directory
}
