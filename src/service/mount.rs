//! The life of `cosgate mount`: all mounts of the configuration, one memory budget, one HTTP pool.
//!
//! ```text
//! start   floors -> bucket states -> one FUSE session per policy -> "ready"; each bucket is tried meanwhile
//! reload  new mounts -> those that go drain and go -> those that take their place (`mounts.rs`)
//! stop    no new work -> handles end within the grace -> umount, by force if need be -> floors away
//! ```

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};
use tracing::{error, info, warn};

use super::{
    mounts::Mounts,
    raise_descriptor_limit,
    reload::{Progress, keys_read_once, read_anew, tell_restart, with_what_is_read_once},
    say,
    signals::{Wishes, tell_systemd, tell_systemd_of_reload},
    tell_ready,
};
use crate::{
    config::{Config, MountConfig},
    fuse::{clear_dead, mount_point_of, take_floor},
};

/// What may still run once everything is unmounted.
const LAST_TASKS: Duration = Duration::from_millis(200);
/// How soon it is noticed that a mount is gone.
const LOSS_CHECK: Duration = Duration::from_secs(1);

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
    let life = runtime.block_on(live(config, chosen, options));
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

async fn live(config: &Config, chosen: Vec<MountConfig>, options: &MountOptions) -> anyhow::Result<()> {
    let wishes = Wishes::listen(options.supervised).context("cannot listen to signals")?;
    let mut mounts = Mounts::new(config);
    for mount in &chosen {
        if let Err(error) = mounts.add(mount) {
            stop(&mut mounts, &wishes).await;
            return Err(error.context(format!("[{}] is not mounted", mount.name)));
        }
    }
    tell_ready();
    info!(mounts = chosen.len(), "ready");
    let mut config = config.clone();
    let mut lost = HashSet::new();
    loop {
        tokio::select! {
            () = wishes.stop() => break,
            () = tokio::time::sleep(LOSS_CHECK) => tell_losses(&mounts, &mut lost),
            () = wishes.reload() => {
                tell_systemd_of_reload();
                config = reload(config, options, &mut mounts, &wishes).await;
                tell_systemd(&[NotifyState::Ready]);
            }
        }
    }
    tell_systemd(&[NotifyState::Stopping]);
    stop(&mut mounts, &wishes).await;
    info!("stopped");
    Ok(())
}

/// Makes the mounts those of the file as it is now. Returns the configuration that holds from now on.
async fn reload(old: Config, options: &MountOptions, mounts: &mut Mounts, wishes: &Wishes) -> Config {
    let Some(file) = old.source.clone() else { return old };
    let Some(new) = read_anew(&file, options.supervised).await else {
        say(Progress::Refused.line());
        return old;
    };
    let chosen = match chosen(&new, &options.only) {
        Ok(chosen) => chosen,
        Err(error) => {
            error!(%error, "not reloaded: everything stays as it was");
            say(Progress::Refused.line());
            return old;
        }
    };
    tell_restart(&keys_read_once(&old, &new));
    let new = with_what_is_read_once(&old, new);
    mounts.become_like(&chosen, || say(Progress::Added.line()), wishes.stop()).await;
    say(Progress::Done.line());
    info!(mounts = chosen.len(), "reloaded");
    new
}

/// Tells once of each mount that somebody else has taken away.
fn tell_losses(mounts: &Mounts, told: &mut HashSet<PathBuf>) {
    for path in mounts.lost() {
        if told.insert(path.to_owned()) {
            let path = path.display();
            error!(%path, "was unmounted by somebody else: it is read-only until cosgate starts again");
        }
    }
}

async fn stop(mounts: &mut Mounts, wishes: &Wishes) {
    tokio::select! {
        () = mounts.quiet() => {}
        () = wishes.hurry() => {
            warn!("asked twice to stop: what is being written is discarded");
            mounts.discard().await;
        }
    }
    mounts.take_away().await;
}

/// The mounts that `--only` names by home or user; all without it.
fn chosen(config: &Config, only: &[String]) -> anyhow::Result<Vec<MountConfig>> {
    if only.is_empty() {
        return Ok(config.mounts.clone());
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
    let is_chosen = |mount: &&MountConfig| only.iter().any(|wanted| is_meant(mount, wanted));
    Ok(config.mounts.iter().filter(is_chosen).cloned().collect())
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
