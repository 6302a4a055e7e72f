//! The life of `cosgate ftp`: the front alone, over directories that are mounted already.

use anyhow::Context;
use tracing::info;

use super::{
    mount::multi_thread,
    raise_descriptor_limit, say,
    signals::{Wishes, tell_systemd},
    tell_ready,
};
use crate::{
    config::Config,
    ftp::{FtpFront, Records},
};

/// Serves FTP over directories that are mounted already, until it is asked to stop.
///
/// # Errors
/// Where the FTP port is taken.
pub fn run(config: &Config) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let runtime = multi_thread()?;
    runtime.block_on(async {
        let wishes = Wishes::listen(false).context("cannot listen to signals")?;
        let front = bind(config)?;
        tell_listening(&front);
        tell_ready();
        front.serve(wishes.stop(), config.limits.grace).await;
        tell_systemd(&[sd_notify::NotifyState::Stopping]);
        info!("stopped");
        Ok(())
    })
}

pub(super) fn bind(config: &Config) -> anyhow::Result<FtpFront> {
    FtpFront::bind(&config.ftp, Records::open(&config.log)).with_context(|| {
        format!(
            "cannot listen on port {}: is another server there? [NETWORK] listen_port",
            config.ftp.listen_port
        )
    })
}

/// With `listen_port = 0` this is how one learns the ports. Returns the first one.
pub(super) fn tell_listening(front: &FtpFront) -> u16 {
    let mut ports = front.local_ports();
    ports.dedup();
    for port in &ports {
        say(&format!("listening on port {port}"));
    }
    ports.first().copied().unwrap_or_default()
}
