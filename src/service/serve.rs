//! The life of `cosgate serve`: the FTP front in this process, the mounts in a supervised child.
//!
//! The front binds first, so that a port that is taken costs nothing; it accepts only when the mounts
//! answer, because it must never touch a home that is not a mount.

use std::{path::Path, time::Duration};

use anyhow::Context;
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::{
    ftp::{bind, tell_listening},
    mount::{clear_all, multi_thread},
    raise_descriptor_limit,
    reload::{
        Progress, finish, keys_read_once, read_anew, tell_restart, users_meanwhile, with_what_is_read_once,
    },
    signals::{Wishes, tell_systemd, tell_systemd_of_reload},
    supervisor::{Recipe, Supervisor},
    tell_ready,
};
use crate::{
    config::{Config, FtpConfig},
    ftp::FtpControl,
};

/// Beyond the grace of mounts that go: what mounting and unmounting may take.
const RELOAD_MARGIN: Duration = Duration::from_secs(30);

/// Serves until it is asked to stop. `config_file` is what the mount child reads; `supervised`: the end of
/// standard input asks too.
///
/// # Errors
/// Where the FTP port is taken or the mounts do not come up.
pub fn run(config: &Config, config_file: &Path, supervised: bool) -> anyhow::Result<()> {
    raise_descriptor_limit();
    multi_thread()?.block_on(async {
        let wishes = Wishes::listen(supervised).context("cannot listen to signals")?;
        live(config, config_file, &wishes, |_port| {}).await
    })
}

/// As [`run`], inside a runtime; `on_ready` is given the FTP port, right after `ready` was told.
pub(super) async fn live(
    config: &Config,
    config_file: &Path,
    wishes: &Wishes,
    on_ready: impl FnOnce(u16),
) -> anyhow::Result<()> {
    let front = bind(config)?;
    let mut child = Supervisor::start(Recipe::mount(config_file, config.limits.grace));
    let up = tokio::select! {
        up = child.ready() => up,
        // Asked to stop before it was up.
        () = wishes.stop() => {
            stop(config, child).await;
            return Ok(());
        }
    };
    if let Err(error) = up {
        stop(config, child).await;
        return Err(error);
    }
    let port = tell_listening(&front);
    let control = front.control();
    let mut config = config.clone();
    let serving = tokio::spawn(front.serve(wishes.stop(), config.limits.grace));
    tell_ready();
    on_ready(port);
    loop {
        tokio::select! {
            () = wishes.stop() => break,
            () = wishes.reload() => {}
        }
        tell_systemd_of_reload();
        tokio::select! {
            () = wishes.stop() => break,
            () = reload(&mut config, config_file, &control, &child) => {}
        }
        tell_systemd(&[NotifyState::Ready]);
    }
    tell_systemd(&[NotifyState::Stopping]);
    tokio::select! {
        ended = serving => ended.context("the FTP front failed")?,
        () = wishes.hurry() => {}
    }
    stop(&config, child).await;
    info!("stopped");
    Ok(())
}

/// Takes over what the file says now; `config` becomes what holds from now on.
async fn reload(config: &mut Config, file: &Path, control: &FtpControl, child: &Supervisor) {
    let Some(mut new) = read_anew(file, false).await else { return };
    // As at the start: the child reads them for itself, and it alone knows whether they have changed.
    new.forget_store_secrets();
    let mut keys = keys_read_once(config, &new);
    let new = with_what_is_read_once(config, new);
    let at = |progress| FtpConfig { users: users_meanwhile(config, &new, progress), ..new.ftp.clone() };
    keys.extend(control.apply(&at(Progress::Asked)));
    tell_restart(&keys);
    child.ask_to_reload();
    let patience = config.limits.grace + RELOAD_MARGIN;
    let mut reached = child.progress_beyond(Progress::Asked, patience).await;
    if reached == Some(Progress::Added) {
        control.apply(&at(Progress::Added));
        reached = child.progress_beyond(Progress::Added, patience).await;
    }
    match reached {
        Some(Progress::Done) => {}
        // The file was good a moment ago: somebody is writing it.
        Some(Progress::Refused) => {
            error!("the mounts were not reloaded: ask again when the file is written");
            control.apply(&FtpConfig { users: at(Progress::Refused).users, ..new.ftp.clone() });
            return;
        }
        Some(Progress::Asked | Progress::Added) | None => {
            warn!(?patience, "the mounts are not reloaded yet: clients read 450 until they are");
        }
    }
    finish(control, config, &new);
    *config = new;
    info!(users = config.ftp.users.len(), mounts = config.mounts.len(), "reloaded");
}

/// The child takes its mounts along; where it could not, they are taken away from here.
async fn stop(config: &Config, child: Supervisor) {
    if !child.stop().await {
        clear_all(config);
    }
}
