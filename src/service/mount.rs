//! The life of `cosgate mount`: all mounts of the configuration, one memory budget, one HTTP pool.
//!
//! ```text
//! start   floors -> bucket states -> one FUSE session per policy -> "ready"; each bucket is tried meanwhile
//! stop    no new work -> handles end within the grace -> umount, by force if need be -> floors away
//! ```

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::future::join_all;
use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::{error, info, warn};

use super::{
    raise_descriptor_limit,
    signals::{Wishes, tell_systemd},
    tell_ready,
};
use crate::{
    config::{Config, MountConfig},
    cos::{CosClient, HttpPool, ObjectStore},
    fuse::{Engine, Floor, FuseMount, SessionOptions, clear_dead, mount_point_of, take_floor},
    vfs::{Keys, MountPolicy, Shared, Vfs, Writers},
};

/// What may still run once everything is unmounted.
const LAST_TASKS: Duration = Duration::from_millis(200);
/// How soon it is noticed that a mount is gone.
const LOSS_CHECK: Duration = Duration::from_secs(1);
/// The service user of the FTP front, where it runs as a unit of its own.
const FRONT_USER: &str = "cosgate";

/// What `cosgate mount` was asked for beside its configuration.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// Homes or users; empty = all mounts.
    pub only: Vec<String>,
    /// The parent holds the other end of standard input: when it closes, this process stops.
    pub supervised: bool,
}

/// Mounts everything, tells that it is ready, and serves until it is asked to stop.
///
/// # Errors
/// Where a home cannot be mounted; a bucket that does not answer is none.
pub fn run(config: &Config, options: &MountOptions) -> anyhow::Result<()> {
    raise_descriptor_limit();
    warn_of_kernel_deadlines();
    let chosen = chosen(config, &options.only)?;
    let runtime = multi_thread()?;
    let life = runtime.block_on(live(config, &chosen, options.supervised));
    runtime.shutdown_timeout(LAST_TASKS);
    life
}

/// Takes dead FUSE mounts off the homes and leaves the read-only floor: what is to be done after a crash.
///
/// # Errors
/// Where a dead mount cannot be taken away.
pub fn clear(config: &Config) -> anyhow::Result<()> {
    for root in roots(config) {
        if root.exists_or_dead() {
            clear_dead(&mount_point_of(&root.0)?)?;
        }
    }
    Ok(())
}

/// As [`clear`], and the floors go as well: after a stop that the mount process did not survive.
pub(super) fn clear_all(config: &Config) {
    for root in roots(config) {
        let cleared = mount_point_of(&root.0).and_then(|path| {
            clear_dead(&path)?;
            take_floor(&path)
        });
        if let Err(error) = cleared {
            warn!(%error, "not cleared");
        }
    }
}

/// A directory that a session is mounted on.
struct Root(std::path::PathBuf);

impl Root {
    /// A dead mount has no attributes but is there.
    fn exists_or_dead(&self) -> bool {
        !matches!(self.0.symlink_metadata(), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
    }
}

fn roots(config: &Config) -> impl Iterator<Item = Root> {
    config.mounts.iter().flat_map(|mount| {
        mount.policies.iter().map(|policy| Root(mount.root_of(policy, &config.runtime_dir)))
    })
}

pub(super) fn multi_thread() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().enable_all().thread_name("cosgate").build().context("no runtime")
}

/// What all mounts share.
struct Tools {
    writers: Arc<Writers>,
    /// Of each bucket, by endpoint and name: two mounts may lead to one key.
    keys: Mutex<HashMap<(String, String), Arc<Keys>>>,
    pool: HttpPool,
    engine: Engine,
}

impl Tools {
    fn keys_of(&self, mount: &MountConfig) -> Arc<Keys> {
        let bucket = (mount.store.endpoint.clone(), mount.store.bucket.clone());
        Arc::clone(self.keys.lock().entry(bucket).or_default())
    }
}

/// Everything that is mounted.
struct Mounted {
    views: Vec<Vfs>,
    sessions: Vec<FuseMount>,
}

async fn live(config: &Config, chosen: &[&MountConfig], supervised: bool) -> anyhow::Result<()> {
    let wishes = Wishes::listen(supervised).context("cannot listen to signals")?;
    let runtime = Handle::current();
    let engine = Engine::new(runtime.clone());
    let tools = Tools {
        writers: Writers::new(&config.limits, runtime),
        keys: Mutex::default(),
        pool: HttpPool::new(),
        engine,
    };
    let mut all = Mounted { views: Vec::new(), sessions: Vec::new() };
    for mount in chosen {
        if let Err(error) = mount_one(config, mount, &tools, &mut all) {
            stop(config, all, &wishes).await;
            return Err(error.context(format!("[{}] is not mounted", mount.name)));
        }
    }
    tell_ready();
    info!(mounts = chosen.len(), sessions = all.sessions.len(), "ready");
    tokio::select! {
        () = wishes.stop() => {}
        () = watch_for_loss(&all.sessions) => {}
    }
    tell_systemd(&[NotifyState::Stopping]);
    stop(config, all, &wishes).await;
    info!("stopped");
    Ok(())
}

/// One bucket, with a session for each policy.
fn mount_one(config: &Config, mount: &MountConfig, tools: &Tools, all: &mut Mounted) -> anyhow::Result<()> {
    let store: Arc<dyn ObjectStore> = Arc::new(CosClient::new(&mount.store, &tools.pool)?);
    try_bucket(mount, Arc::clone(&store));
    let home = Floor::lay(&mount.home, mount.nonempty)?;
    let mut shown = mount.clone();
    shown.shows.uid.get_or_insert(home.uid);
    shown.shows.gid.get_or_insert(home.gid);
    let shared = Shared::new(
        store,
        &shown,
        &config.limits,
        Arc::clone(&tools.writers),
        tools.keys_of(mount),
        Handle::current(),
        front_uids(),
    );
    let source = format!("{}/{}", mount.store.bucket, mount.prefix);
    let options = SessionOptions {
        source: source.trim_end_matches('/').to_owned(),
        allow_other: mount.shows.allow_other,
        attr_ttl: config.limits.attr_ttl,
    };
    for policy in &mount.policies {
        let root = mount.root_of(policy, &config.runtime_dir);
        let floor = if root == mount.home {
            home.clone()
        } else {
            std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
            Floor::lay(&root, false)?
        };
        let vfs = Vfs::new(Arc::clone(&shared), MountPolicy::new(*policy));
        all.sessions.push(FuseMount::new(&vfs, floor, &tools.engine, &options)?);
        all.views.push(vfs);
    }
    Ok(())
}

/// Tells of each mount that somebody else takes away; never ends.
async fn watch_for_loss(sessions: &[FuseMount]) {
    let mut told = HashSet::new();
    loop {
        tokio::time::sleep(LOSS_CHECK).await;
        for session in sessions.iter().filter(|session| session.is_lost()) {
            if told.insert(session.path()) {
                let path = session.path().display();
                error!(%path, "was unmounted by somebody else: it is read-only until cosgate starts again");
            }
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

async fn stop(config: &Config, all: Mounted, wishes: &Wishes) {
    let grace = config.limits.grace;
    let quiet = join_all(all.views.iter().map(|vfs| vfs.stop(grace)));
    tokio::select! {
        _ = quiet => {}
        () = wishes.hurry() => {
            warn!("asked twice to stop: what is being written is discarded");
            join_all(all.views.iter().map(|vfs| vfs.stop(Duration::ZERO))).await;
        }
    }
    // Unmounting waits in the kernel for what our own tasks answer, so it must not hold one of their threads.
    let gone = all.sessions.into_iter().map(|session| tokio::task::spawn_blocking(|| session.unmount()));
    for result in join_all(gone).await {
        if let Err(error) = result {
            error!(%error, "unmounting failed");
        }
    }
}

/// The mounts that `--only` names by home or user; all without it.
fn chosen<'a>(config: &'a Config, only: &[String]) -> anyhow::Result<Vec<&'a MountConfig>> {
    if only.is_empty() {
        return Ok(config.mounts.iter().collect());
    }
    let is_meant = |mount: &MountConfig, wanted: &String| {
        let of_user = config.ftp.users.iter().any(|user| user.name == *wanted && user.mount == mount.name);
        of_user || mount.home == Path::new(wanted.trim_end_matches('/'))
    };
    for wanted in only {
        if !config.mounts.iter().any(|mount| is_meant(mount, wanted)) {
            bail!("--only {wanted}: neither a home nor a user of the configuration");
        }
    }
    Ok(config.mounts.iter().filter(|mount| only.iter().any(|wanted| is_meant(mount, wanted))).collect())
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

/// The kernel can abort a whole mount over one old request; our own deadlines must come first.
fn warn_of_kernel_deadlines() {
    for name in ["default_request_timeout", "max_request_timeout"] {
        let seconds = std::fs::read_to_string(format!("/proc/sys/fs/fuse/{name}")).unwrap_or_default();
        match seconds.trim() {
            "" | "0" => {}
            seconds => warn!(
                seconds,
                "sysctl fs.fuse.{name} is set: a publish that takes longer ends the whole mount"
            ),
        }
    }
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
