//! cosgate: Tencent COS buckets as directories, served over FTP.
//!
//! The tree follows a byte on its way: an FTP client sends it (`ftp`), a file in a mount receives it
//! (`fuse`), a part collects it (`vfs`), a multipart upload carries it (`cos`), COS publishes it.
//! A folder is a layer and uses only layers below it; `tests/layers.rs` holds them to that.
//!
//! | layer | module | is |
//! |---|---|---|
//! | 0 | [`config`] | from what is written to what is meant |
//! | 1 | [`cos`] | a bucket, over HTTP |
//! | 2 | [`vfs`] | a file system, without a kernel |
//! | 3 | [`fuse`], [`ftp`] | the kernel's words, the client's words |
//! | 4 | [`service`] | a life from start to stop |
//!
//! Beside the layers stand [`cli`] (the command line), [`ioctl`] (the words between front and mount),
//! [`telemetry`] (logs), [`emulator`] (an embedded COS) and [`client`] (an FTP client).

pub mod cli;
pub mod client;
pub mod config;
pub mod cos;
pub mod emulator;
pub mod ftp;
pub mod fuse;
pub mod ioctl;
pub mod service;
pub mod telemetry;
pub mod vfs;
