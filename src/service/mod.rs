//! LAYER 4: a life from start to stop.
//!
//! One function per long-running subcommand: it returns when the program has been asked to stop and
//! nothing of it is left, or with the reason why it could not start. `serve` runs the FTP front in this
//! process and `cosgate mount` as a supervised child, because no process may do file I/O on a mount it
//! serves: killed, it would leave itself in state D for ever.
//!
//! ```text
//! start   ftp port bound -> mount child -> its "ready" -> front accepts -> "ready"
//! reload  front and child read the file anew and take over what differs (`reload.rs`)
//! stop    front: no new session, transfers end -> child: handles end, umount, floor gone -> exit
//! ```

pub mod check;
pub mod demo;
pub mod ftp;
pub mod mount;
mod mounts;
pub mod passwd;
mod reload;
pub mod serve;
mod signals;
mod supervisor;

use std::io::Write;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::debug;

pub use signals::end_with_parent;

/// Everybody who waits for the program waits for this line.
const READY: &str = "ready";

/// Tells the terminal, the supervisor and systemd that all is served from now on.
fn tell_ready() {
    say(READY);
    signals::tell_systemd(&[sd_notify::NotifyState::Ready]);
}

/// A line on standard output; nobody has to be listening.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    if let Err(error) = writeln!(output, "{line}").and_then(|()| output.flush()) {
        debug!(%error, "nobody reads standard output");
    }
}

/// As many descriptors as the system allows: sessions, connections and mounts need more than the usual 1,024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        debug!(%error, "the limit of open files stays as it is");
    }
}
