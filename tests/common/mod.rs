//! What the integration tests share: guards that leave nothing behind, an emulator and a gateway as
//! child processes, an impatient watchdog.
//!
//! The rule above all: the test process never serves a mount, and everything that serves one is a child
//! whose mounts are taken away by force if it does not end by itself.
//!
//! ```no_run
//! let _watchdog = Watchdog::bark_after(60);
//! let emulator = Emulator::start();
//! let gateway = Setup::new(&emulator).account("user0", "").mount();
//! std::fs::write(gateway.home("user0").join("a"), b"hello").unwrap();
//! ```

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test crate uses a part of what all of them share"
)]

mod emulator;
mod ftp_client;
mod gateway;
mod guards;
mod raw_client;

pub use emulator::{BUCKET, Emulator, ObjectSeen, UploadSeen};
pub use ftp_client::FtpClient;
pub use gateway::{Gateway, SECRET_ID, SECRET_KEY, Setup};
pub use guards::{
    Process, TempTree, Watchdog, children_of, eventually, is_alive, mounts_below, pause, require, run, shell,
    unmount_below,
};
pub use raw_client::{RawAnswer, RawClient, authorization, head};
