//! What a reload means: the file is read anew, and compared with what is.
//!
//! ```text
//! SIGHUP ── log files opened anew ── file read and checked ── bad: told, and nothing has changed
//!                                        │ good
//! front   users of mounts that stay; those whose mount goes are out
//! mounts  new ones come                            ── "added" ── front: users of new mounts
//!         old ones drain and go, others take their place ── "done" ── front: all users
//! ```
//!
//! So nobody is let in to a home that is not there yet, and nobody works on one that goes.

use std::path::Path;

use tracing::{error, info, warn};

use crate::{
    config::{Config, FtpConfig, MountConfig, Secret, UserConfig},
    ftp::FtpControl,
    telemetry,
};

/// What the mount child says on its way through a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Asked,
    /// New mounts are there; those that go are still draining.
    Added,
    Done,
    /// It could not read the file: nothing has changed there.
    Refused,
}

impl Progress {
    const SAID: &[(Self, &str)] =
        &[(Self::Added, "reload: added"), (Self::Done, "reload: done"), (Self::Refused, "reload: refused")];

    /// The line on standard output; empty for what is never said.
    pub(super) fn line(self) -> &'static str {
        Self::SAID.iter().find(|(progress, _)| *progress == self).map_or("", |(_, line)| line)
    }

    pub(super) fn of_line(line: &str) -> Option<Self> {
        Self::SAID.iter().find(|(_, said)| *said == line).map(|(progress, _)| *progress)
    }
}

/// Opens the log files anew and reads the configuration. `None`: it makes no sense, as the log tells.
/// `is_judged`: by a parent process, which has looked at the machine too.
pub(super) async fn read_anew(file: &Path, is_judged: bool) -> Option<Config> {
    telemetry::reopen();
    let path = file.to_owned();
    // On a thread for it: a look at homes may block.
    let load = move || if is_judged { Config::load_again(&path) } else { Config::load_anew(&path) };
    let config = match tokio::task::spawn_blocking(load).await {
        Ok(Ok(config)) => config,
        Ok(Err(refused)) => {
            for problem in &refused.problems {
                error!(file = %file.display(), %problem, "the configuration makes no sense");
            }
            error!(problems = refused.problems.len(), "not reloaded: everything stays as it was");
            return None;
        }
        Err(error) => {
            error!(%error, "not reloaded");
            return None;
        }
    };
    for warning in &config.warnings {
        warn!("{warning}");
    }
    info!(file = %file.display(), "configuration read again");
    Some(config)
}

/// Tells which keys keep their old values until the next start.
pub(super) fn tell_restart(keys: &[&str]) {
    if !keys.is_empty() {
        warn!(keys = keys.join(", "), "changed in the file, but applied by a restart only");
    }
}

/// Keys of all mounts and of the log that are read once.
pub(super) fn keys_read_once(old: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&old.limits, &new.limits);
    [
        (was.memory_bytes != is.memory_bytes, "memory_limit"),
        (was.min_part_bytes != is.min_part_bytes, "min_part_size"),
        (was.single_file_bytes_max != is.single_file_bytes_max, "single_file_max_size"),
        (was.upload_requests_max != is.upload_requests_max, "upload_thread_num"),
        (was.attr_ttl != is.attr_ttl, "attr_ttl"),
        (was.grace != is.grace, "grace_timeout"),
        (was.state_prefix != is.state_prefix, "state_prefix"),
        (old.log.level != new.log.level, "log_level"),
        (old.log.directory != new.log.directory, "log_dir"),
        (old.log.json != new.log.json, "log_format"),
        (old.log.rotation != new.log.rotation, "log_rotate_enabled, log_rotate_when, log_backup_count"),
    ]
    .into_iter()
    .filter_map(|(differs, key)| differs.then_some(key))
    .collect()
}

/// `new` where those values stay as they are.
pub(super) fn with_what_is_read_once(old: &Config, mut new: Config) -> Config {
    new.limits = old.limits.clone();
    new.log = old.log.clone();
    new
}

/// What becomes of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// It is asked with other credentials from now on, and nobody notices.
    Renewed,
    Goes,
}

/// What becomes of `old` under the mounts of the new file.
pub(super) fn fate_of(old: &MountConfig, new: &[MountConfig]) -> Fate {
    match new.iter().find(|mount| mount.name == old.name) {
        Some(mount) if mount == old => Fate::Stays,
        Some(mount) if without_credentials(mount) == without_credentials(old) => Fate::Renewed,
        Some(_) | None => Fate::Goes,
    }
}

/// Whether `mount` cannot come before `going` has gone: they share a name or a place.
pub(super) fn must_wait_for(mount: &MountConfig, going: &MountConfig) -> bool {
    mount.name == going.name || mount.home.starts_with(&going.home) || going.home.starts_with(&mount.home)
}

fn without_credentials(mount: &MountConfig) -> MountConfig {
    let mut mount = mount.clone();
    mount.store.secret_id.clear();
    mount.store.secret_key = Secret::new("");
    mount.store.token = None;
    mount
}

/// Who may log in while the mounts have come to `progress`.
pub(super) fn users_meanwhile(old: &Config, new: &Config, progress: Progress) -> Vec<UserConfig> {
    let stays = |mount: &MountConfig| fate_of(mount, &new.mounts) != Fate::Goes;
    let old_mount = |name: &str| old.mounts.iter().find(|mount| mount.name == name);
    let is_there = |user: &UserConfig| match old_mount(&user.mount) {
        Some(mount) => stays(mount),
        None => {
            let waits = |mount: &MountConfig| {
                old.mounts.iter().any(|going| !stays(going) && must_wait_for(mount, going))
            };
            progress == Progress::Added
                && new.mounts.iter().any(|mount| mount.name == user.mount && !waits(mount))
        }
    };
    match progress {
        Progress::Done => new.ftp.users.clone(),
        Progress::Refused => old.ftp.users.clone(),
        Progress::Asked | Progress::Added => {
            let of_new = new.ftp.users.iter().filter(|user| is_there(user));
            // A mount that is being replaced: its users stay who they are until it is there again.
            let is_replaced = |user: &&UserConfig| {
                old_mount(&user.mount).is_some_and(|mount| !stays(mount))
                    && new.ftp.users.iter().any(|new| new.name == user.name && new.mount == user.mount)
            };
            of_new.chain(old.ftp.users.iter().filter(is_replaced)).cloned().collect()
        }
    }
}

/// Lets the front know of everything that is new, once the mounts are there. Users whose mount was replaced
/// are others from now on, and their sessions end, even where nothing that the front knows of them differs.
pub(super) fn finish(control: &FtpControl, old: &Config, new: &Config) {
    let is_replaced = |user: &UserConfig| {
        let mount = old.mounts.iter().find(|mount| mount.name == user.mount);
        mount.is_some_and(|mount| fate_of(mount, &new.mounts) == Fate::Goes)
    };
    let others = new.ftp.users.iter().filter(|user| !is_replaced(user)).cloned().collect();
    let anonymous = new.ftp.anonymous.clone().filter(|anonymous| !is_replaced(&anonymous.user));
    control.apply(&FtpConfig { users: others, anonymous, ..new.ftp.clone() });
    control.apply(&new.ftp);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One account for each letter: mount, user, home and bucket are called by it.
    fn config(accounts: &[(&str, &str)]) -> Config {
        let text: String = accounts
            .iter()
            .map(|(name, keys)| {
                format!(
                    "[COS_ACCOUNT_{name}]\ncos_secretid=i\ncos_secretkey=s\ncos_region=ap-guangzhou\n\
                     home_dir=/srv/{name}\nftp_login_user_name={name}\nftp_login_user_password=p\n{keys}\n"
                )
            })
            .collect();
        Config::parse(text.as_bytes()).unwrap()
    }

    const BUCKET: &str = "cos_bucket=one-1250000000";
    const OTHER: &str = "cos_bucket=two-1250000000";

    fn names(users: Vec<UserConfig>) -> Vec<String> {
        let mut names: Vec<_> = users.into_iter().map(|user| user.name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_mount_stays_is_renewed_or_goes() {
        let old = config(&[("a", BUCKET), ("b", BUCKET), ("c", BUCKET), ("d", BUCKET)]);
        let mut new = config(&[("a", BUCKET), ("b", BUCKET), ("c", OTHER)]);
        new.mounts[1].store.secret_key = Secret::new("another");
        let fates: Vec<_> = old.mounts.iter().map(|mount| fate_of(mount, &new.mounts)).collect();
        assert_eq!(fates, [Fate::Stays, Fate::Renewed, Fate::Goes, Fate::Goes]);
    }

    #[test]
    fn users_come_when_their_mount_is_there_and_go_before_it_does() {
        let old = config(&[("stays", BUCKET), ("goes", BUCKET), ("changes", BUCKET)]);
        let mut new =
            config(&[("stays", BUCKET), ("changes", OTHER), ("comes", BUCKET), ("moves-in", BUCKET)]);
        new.mounts[3].home = old.mounts[1].home.clone();
        let at = |progress| names(users_meanwhile(&old, &new, progress));
        assert_eq!(at(Progress::Asked), ["changes", "stays"]);
        assert_eq!(at(Progress::Added), ["changes", "comes", "stays"]);
        assert_eq!(at(Progress::Done), ["changes", "comes", "moves-in", "stays"]);
        assert_eq!(at(Progress::Refused), ["changes", "goes", "stays"]);
        // Nobody is somebody else before his mount is.
        new.ftp.users[1].password = Secret::new("new");
        let meanwhile = users_meanwhile(&old, &new, Progress::Added);
        assert_eq!(meanwhile.iter().find(|user| user.name == "changes").unwrap().password, Secret::new("p"));
    }

    #[test]
    fn what_is_read_once_is_named_and_kept() {
        let old = config(&[("a", BUCKET)]);
        let mut new = old.clone();
        new.limits.memory_bytes *= 2;
        new.log.json = true;
        assert_eq!(keys_read_once(&old, &new), ["memory_limit", "log_format"]);
        assert_eq!(with_what_is_read_once(&old, new), old);
        assert_eq!(keys_read_once(&old, &old), Vec::<&str>::new());
    }

    #[test]
    fn progress_is_told_by_lines() {
        for (progress, line) in Progress::SAID {
            assert_eq!(Progress::of_line(line), Some(*progress));
            assert_eq!(progress.line(), *line);
        }
        assert_eq!(Progress::of_line("ready"), None);
    }
}
