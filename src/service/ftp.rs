//! The life of `cosgate ftp`: the front alone, over directories that are mounted already.

use anyhow::Context;
use sd_notify::NotifyState;
use tracing::info;

use super::{
    mount::multi_thread,
    raise_descriptor_limit,
    reload::{finish, keys_read_once, read_anew, tell_restart, with_what_is_read_once},
    say,
    signals::{Wishes, tell_systemd, tell_systemd_of_reload},
    tell_ready,
};
use crate::{
    config::{Config, FtpConfig},
    ftp::{FtpControl, FtpError, FtpFront, Records},
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
        let control = front.control();
        let mut config = config.clone();
        let mut serving = Box::pin(front.serve(wishes.stop(), config.limits.grace));
        loop {
            tokio::select! {
                () = &mut serving => break,
                () = wishes.reload() => {}
            }
            tell_systemd_of_reload();
            tokio::select! {
                () = &mut serving => break,
                () = reload(&mut config, &control) => {}
            }
            tell_systemd(&[NotifyState::Ready]);
        }
        tell_systemd(&[NotifyState::Stopping]);
        info!("stopped");
        Ok(())
    })
}

/// Takes over what the file says now. Homes of new users answer 450 until `cosgate mount` has reloaded too.
async fn reload(config: &mut Config, control: &FtpControl) {
    let Some(file) = config.source.clone() else { return };
    let Some(mut new) = read_anew(&file, false).await else { return };
    new.forget_store_secrets();
    let mut keys = keys_read_once(config, &new);
    let meanwhile = FtpConfig { users: config.ftp.users.clone(), ..new.ftp.clone() };
    keys.extend(control.apply(&meanwhile));
    tell_restart(&keys);
    finish(control, config, &new);
    *config = with_what_is_read_once(config, new);
    info!(users = config.ftp.users.len(), "reloaded");
}

pub(super) fn bind(config: &Config) -> anyhow::Result<FtpFront> {
    let implicit_port = config.ftp.tls.as_ref().and_then(|tls| tls.implicit_port);
    FtpFront::bind(&config.ftp, Records::open(&config.log)).map_err(|error| match &error {
        FtpError::Listen { address, .. } => {
            let port = address.port();
            let setting = if implicit_port == Some(port) { "tls_implicit_port" } else { "listen_port" };
            let why = format!("cannot listen on port {port}: is another server there? [NETWORK] {setting}");
            anyhow::Error::new(error).context(why)
        }
        FtpError::NoAddress | FtpError::Certificate(_) => error.into(),
    })
}

/// With `listen_port = 0` this is how one learns the ports. Returns the first one.
pub(super) fn tell_listening(front: &FtpFront) -> u16 {
    let mut ports = front.local_ports();
    ports.dedup();
    for port in &ports {
        say(&format!("listening on port {port}"));
    }
    let mut implicit_ports = front.implicit_ports();
    implicit_ports.dedup();
    for port in &implicit_ports {
        say(&format!("implicit TLS on port {port}"));
    }
    ports.first().copied().unwrap_or_default()
}
