//! The life of `cosgate mount`.

use crate::config::Config;

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
pub fn run(_config: &Config, _options: &MountOptions) -> anyhow::Result<()> {
    todo!()
}

/// Takes dead FUSE mounts off the homes and leaves the read-only floor: what is to be done after a crash.
///
/// # Errors
/// Where a dead mount cannot be taken away.
pub fn clear(_config: &Config) -> anyhow::Result<()> {
    todo!()
}
