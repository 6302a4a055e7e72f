//! The life of `cosgate serve`: the FTP front in this process, the mounts in a supervised child.
//!
//! The front binds first, so that a port that is taken costs nothing; it accepts only when the mounts
//! answer, because it must never touch a home that is not a mount.

use std::path::Path;

use anyhow::Context;
use sd_notify::NotifyState;
use tracing::info;

use super::{
    ftp::{bind, tell_listening},
    mount::{clear_all, multi_thread},
    raise_descriptor_limit,
    signals::{Wishes, tell_systemd},
    supervisor::{Recipe, Supervisor},
    tell_ready,
};
use crate::config::Config;

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
    let serving = tokio::spawn(front.serve(wishes.stop(), config.limits.grace));
    tell_ready();
    on_ready(port);
    wishes.stop().await;
    tell_systemd(&[NotifyState::Stopping]);
    tokio::select! {
        ended = serving => ended.context("the FTP front failed")?,
        () = wishes.hurry() => {}
    }
    stop(config, child).await;
    info!("stopped");
    Ok(())
}

/// The child takes its mounts along; where it could not, they are taken away from here.
async fn stop(config: &Config, child: Supervisor) {
    if !child.stop().await {
        clear_all(config);
    }
}
