//! What is mounted, and how it becomes something else while it is.
//!
//! ```text
//! reload  new mounts come ── those that go: no new work, open files end within the grace, unmounted ──
//!         those that wanted the place of one that went come
//! ```
//!
//! A mount that does not come up is told of and left out, and tried again by the next reload.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};
use tracing::{error, info, warn};

use super::reload::{Fate, fate_of, must_wait_for};
use crate::{
    config::{Config, Limits, MountConfig},
    cos::{CosClient, HttpPool, ObjectStore},
    fuse::{Engine, Floor, FuseMount, SessionOptions, mount_point_of, take_floor},
    vfs::{Keys, MountPolicy, Shared, Vfs, Writers},
};

/// The service user of the FTP front, where it runs as a unit of its own.
const FRONT_USER: &str = "cosgate";
/// How often it is looked whether files of a mount that goes are still open.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// Everything that is mounted, and what all of it shares.
pub(super) struct Mounts {
    limits: Limits,
    runtime_dir: PathBuf,
    writers: Arc<Writers>,
    /// Of each bucket, by endpoint and name: two mounts may lead to one key.
    keys: Mutex<HashMap<(String, String), Arc<Keys>>>,
    pool: HttpPool,
    engine: Engine,
    all: Vec<Mounted>,
}

/// One bucket with a session for each policy.
struct Mounted {
    config: MountConfig,
    client: Arc<CosClient>,
    views: Vec<Vfs>,
    sessions: Vec<FuseMount>,
}

impl Mounts {
    /// None so far. Needs a runtime.
    pub(super) fn new(config: &Config) -> Self {
        let runtime = Handle::current();
        Self {
            limits: config.limits.clone(),
            runtime_dir: config.runtime_dir.clone(),
            writers: Writers::new(&config.limits, runtime.clone()),
            keys: Mutex::default(),
            pool: HttpPool::new(),
            engine: Engine::new(runtime),
            all: Vec::new(),
        }
    }

    fn keys_of(&self, mount: &MountConfig) -> Arc<Keys> {
        let bucket = (mount.store.endpoint.clone(), mount.store.bucket.clone());
        Arc::clone(self.keys.lock().entry(bucket).or_default())
    }

    /// Mounts a bucket, with a session for each policy; all or none of them. Blocks.
    ///
    /// # Errors
    /// Where a home cannot be mounted on; a bucket that does not answer is none.
    pub(super) fn add(&mut self, mount: &MountConfig) -> anyhow::Result<()> {
        let client = Arc::new(CosClient::new(&mount.store, &self.pool)?);
        let mut mounted = Mounted { config: mount.clone(), client, views: Vec::new(), sessions: Vec::new() };
        let done = self.mount(&mut mounted);
        // Those that came up before one that did not are taken away with the rest.
        self.all.push(mounted);
        done
    }

    fn mount(&self, mounted: &mut Mounted) -> anyhow::Result<()> {
        let mount = &mounted.config;
        let store: Arc<dyn ObjectStore> = mounted.client.clone();
        try_bucket(mount, Arc::clone(&store));
        let home = Floor::lay(&mount.home, mount.nonempty)?;
        let mut shown = mount.clone();
        shown.shows.uid.get_or_insert(home.uid);
        shown.shows.gid.get_or_insert(home.gid);
        let shared = Shared::new(
            store,
            &shown,
            &self.limits,
            Arc::clone(&self.writers),
            self.keys_of(mount),
            Handle::current(),
            front_uids(),
        );
        shared.keep_sweeping();
        let sweeping = shared.clone();
        tokio::spawn(async move { sweeping.sweep_scratch().await });
        let source = format!("{}/{}", mount.store.bucket, mount.prefix);
        let options = SessionOptions {
            source: source.trim_end_matches('/').to_owned(),
            allow_other: mount.shows.allow_other,
            attr_ttl: self.limits.attr_ttl,
        };
        for policy in &mount.policies {
            let root = mount.root_of(policy, &self.runtime_dir);
            let floor = if root == mount.home {
                home.clone()
            } else {
                std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
                Floor::lay(&root, false)?
            };
            let vfs = Vfs::new(Arc::clone(&shared), MountPolicy::new(*policy));
            mounted.sessions.push(FuseMount::new(&vfs, floor, &self.engine, &options)?);
            mounted.views.push(vfs);
        }
        Ok(())
    }

    /// Makes the mounts those of `wanted`. `added` is called when those are there that need not wait for
    /// another one to go. Where `stop` comes, those that are to go stay, to be stopped with the rest.
    pub(super) async fn become_like(
        &mut self,
        wanted: &[MountConfig],
        added: impl FnOnce(),
        stop: impl Future<Output = ()>,
    ) {
        self.renew_credentials(wanted);
        let (stays, going): (Vec<_>, Vec<_>) =
            self.all.drain(..).partition(|mounted| fate_of(&mounted.config, wanted) != Fate::Goes);
        self.all = stays;
        let is_there = |mount: &&MountConfig| !self.all.iter().any(|there| there.config.name == mount.name);
        let new: Vec<_> = wanted.iter().filter(is_there).collect();
        let waits = |mount: &&MountConfig| going.iter().any(|going| must_wait_for(mount, &going.config));
        let (later, at_once): (Vec<_>, Vec<_>) = new.into_iter().partition(waits);
        self.try_to_add(&at_once).await;
        added();
        let drained = tokio::select! {
            _ = join_all(going.iter().map(|mounted| mounted.drain(self.limits.grace))) => true,
            () = stop => false,
        };
        if !drained {
            self.all.extend(going);
            return;
        }
        join_all(going.into_iter().map(|mounted| mounted.take_away(&self.runtime_dir))).await;
        self.try_to_add(&later).await;
    }

    /// Mounts whose credentials alone are others are asked with those from now on.
    fn renew_credentials(&mut self, wanted: &[MountConfig]) {
        for mounted in &mut self.all {
            let Some(new) = wanted.iter().find(|mount| mount.name == mounted.config.name) else { continue };
            if fate_of(&mounted.config, wanted) != Fate::Renewed {
                continue;
            }
            match mounted.client.renew_credentials(&new.store) {
                Ok(()) => {
                    info!(mount = new.name, "other credentials from now on");
                    mounted.config = new.clone();
                    try_bucket(new, mounted.client.clone());
                }
                Err(error) => error!(mount = new.name, %error, "the old credentials stay"),
            }
        }
    }

    /// One that fails leaves nothing behind and no other one out.
    async fn try_to_add(&mut self, mounts: &[&MountConfig]) {
        for mount in mounts {
            if let Err(error) = self.add(mount) {
                error!(mount = mount.name, error = format!("{error:#}"), "not mounted: the others are");
                if self.all.last().is_some_and(|last| last.config.name == mount.name)
                    && let Some(failed) = self.all.pop()
                {
                    failed.take_away(&self.runtime_dir).await;
                }
            }
        }
    }

    /// Where somebody else has unmounted.
    pub(super) fn lost(&self) -> impl Iterator<Item = &Path> {
        let sessions = self.all.iter().flat_map(|mounted| &mounted.sessions);
        sessions.filter(|session| session.is_lost()).map(FuseMount::path)
    }

    /// No new work; until what is being written is published, within the grace.
    pub(super) async fn quiet(&self) {
        self.stop_views(self.limits.grace).await;
    }

    /// What is being written is given up.
    pub(super) async fn discard(&self) {
        self.stop_views(Duration::ZERO).await;
    }

    async fn stop_views(&self, grace: Duration) {
        let views = self.all.iter().flat_map(|mounted| &mounted.views);
        join_all(views.map(|vfs| vfs.stop(grace))).await;
    }

    /// Unmounts everything.
    pub(super) async fn take_away(&mut self) {
        let all: Vec<_> = self.all.drain(..).collect();
        join_all(all.into_iter().map(|mounted| unmount(mounted.sessions))).await;
    }
}

impl Mounted {
    /// No new work; until no file is open any more, within the grace.
    async fn drain(&self, grace: Duration) {
        info!(mount = self.config.name, "on its way out: no new work");
        let deadline = Instant::now() + grace;
        let stopped = join_all(self.views.iter().map(|vfs| vfs.stop(grace)));
        let read = async {
            while Instant::now() < deadline && self.views.iter().any(Vfs::has_open_files) {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        tokio::join!(stopped, read);
    }

    /// Unmounts it, and takes the floors of sessions that did not come up.
    async fn take_away(self, runtime_dir: &Path) {
        let name = self.config.name.clone();
        let roots: Vec<_> =
            self.config.policies.iter().map(|policy| self.config.root_of(policy, runtime_dir)).collect();
        unmount(self.sessions).await;
        drop(self.views);
        let floors = tokio::task::spawn_blocking(move || {
            for root in roots {
                if let Err(error) = mount_point_of(&root).and_then(|path| take_floor(&path)) {
                    warn!(%error, "the floor stays");
                }
            }
        });
        if let Err(error) = floors.await {
            error!(%error, "a floor stays");
        }
        info!(mount = name, "gone");
    }
}

/// Unmounting waits in the kernel for what our own tasks answer, so it must not hold one of their threads.
async fn unmount(sessions: Vec<FuseMount>) {
    let gone = sessions.into_iter().map(|session| tokio::task::spawn_blocking(|| session.unmount()));
    for result in join_all(gone).await {
        if let Err(error) = result {
            error!(%error, "unmounting failed");
        }
    }
}

/// Asks the bucket whether it may be used. It is mounted whatever it says: no other account shall suffer.
fn try_bucket(mount: &MountConfig, store: Arc<dyn ObjectStore>) {
    let (name, bucket) = (mount.name.clone(), mount.store.bucket.clone());
    tokio::spawn(async move {
        match store.head_bucket().await {
            Ok(()) => info!(mount = name, bucket, "the bucket answers"),
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                error!(mount = name, bucket, error, "the bucket cannot be used; it is mounted all the same");
            }
        }
    });
}

/// Who may use the words of the FTP front beside root and the accounts' own users.
fn front_uids() -> Vec<u32> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    uid_in(&passwd, FRONT_USER).into_iter().collect()
}

/// passwd(5): the third field is the number.
fn uid_in(passwd: &str, user: &str) -> Option<u32> {
    let mut fields = passwd
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(user)).then_some(fields))?;
    fields.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_found_by_its_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\ncosgate:x:812:812::/nonexistent:/bin/false\n";
        assert_eq!(uid_in(passwd, "cosgate"), Some(812));
        assert_eq!(uid_in(passwd, "cos"), None);
    }
}
