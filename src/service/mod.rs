//! LAYER 4: a life from start to stop.
//!
//! One function per long-running subcommand: it returns when the program has been asked to stop and
//! nothing of it is left, or with the reason why it could not start. `serve` runs the FTP front in this
//! process and `cosgate mount` as a supervised child, because no process may do file I/O on a mount it
//! serves: killed, it would leave itself in state D for ever.
//!
//! ```text
//! start   ftp port bound -> mount child -> its "ready" -> front accepts -> "ready"
//! stop    front: no new session, transfers end -> child: handles end, umount, floor gone -> exit
//! ```

pub mod check;
pub mod demo;
pub mod ftp;
pub mod mount;
pub mod serve;
