//! The life of `cosgate serve`: the FTP front, and the mounts in a supervised child.

use std::path::Path;

use crate::config::Config;

/// Serves until it is asked to stop. `config_file` is what the mount child reads.
///
/// # Errors
/// Where the FTP port is taken or the mounts do not come up.
pub fn run(_config: &Config, _config_file: &Path) -> anyhow::Result<()> {
    todo!()
}
