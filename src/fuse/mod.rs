//! LAYER 3: the kernel's words.
//!
//! [`FuseAdapter`] is one FUSE session's file system: it decodes a request, asks [`Vfs`], and replies. It
//! decides nothing: no policy, no caching, no state but the poll notifiers. A callback never waits (see
//! `answer.rs`): with a loop that waits for COS, `ls` next door took 3.7 s. What it is not: the mount
//! itself, with its floor and its end; that is `session.rs`. The kernel's requests, a method each, are in
//! `requests.rs`; here is how they are answered.
//!
//! Every handle is direct I/O: through the page cache an overwrite would end a running download as if it
//! were complete, because an inode has one size.

mod answer;
mod errno;
mod listing;
mod notify;
mod poll;
mod process;
mod requests;
mod session;
mod waiting;
mod words;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use fuser::{
    Errno, FileHandle, Generation, INodeNo, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyXattr, Request,
};
use tracing::warn;

pub use answer::Engine;
pub use session::{Floor, FuseMount, MountError, SessionOptions, clear_dead, mount_point_of, take_floor};

use self::{
    answer::{Asked, QUESTION_DEADLINE, TRAVEL_DEADLINE},
    poll::Bells,
    words::{absent, attributes},
};
use crate::{
    ioctl::PathWord,
    vfs::{Caller, Entry, HandleNo, Vfs, VfsResult},
};

/// Numbers are never given to another file while the kernel remembers them.
const GENERATION: Generation = Generation(0);

/// One FUSE session's file system.
#[derive(Debug)]
pub struct FuseAdapter {
    vfs: Vfs,
    engine: Engine,
    bells: Bells,
    attr_ttl: Duration,
}

impl FuseAdapter {
    /// Over `vfs`; the kernel may trust attributes for `attr_ttl`.
    pub fn new(vfs: Vfs, engine: Engine, attr_ttl: Duration) -> Self {
        Self { vfs, engine, bells: Bells::default(), attr_ttl }
    }

    /// For work that mostly lies in a table.
    fn ask<T, W, G>(&self, operation: &'static str, ino: INodeNo, work: W, give: G)
    where
        T: Send + 'static,
        W: Future<Output = VfsResult<T>> + Send + 'static,
        G: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        let asked = Asked { operation, inode: ino.0, deadline: QUESTION_DEADLINE, in_place: true };
        self.engine.answer(asked, work, give);
    }

    /// For work whose bytes travel.
    fn perform<T, W, G>(&self, operation: &'static str, ino: INodeNo, work: W, give: G)
    where
        T: Send + 'static,
        W: Future<Output = VfsResult<T>> + Send + 'static,
        G: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        let asked = Asked { operation, inode: ino.0, deadline: TRAVEL_DEADLINE, in_place: false };
        self.engine.answer(asked, work, give);
    }

    /// For work that leads to an entry, which counts as a lookup until it is taken back. That there is none
    /// may be remembered for `absent_ttl`.
    fn ask_entry<W>(
        &self,
        operation: &'static str,
        parent: INodeNo,
        work: W,
        absent_ttl: Duration,
        reply: ReplyEntry,
    ) where
        W: Future<Output = VfsResult<Entry>> + Send + 'static,
    {
        let asked = Asked { operation, inode: parent.0, deadline: QUESTION_DEADLINE, in_place: true };
        let vfs = self.vfs.clone();
        self.engine.answer_or_undo(
            asked,
            work,
            move |entry| match entry {
                Ok(entry) => reply.entry_with_ttls(
                    &entry.attr_ttl,
                    &entry.entry_ttl,
                    &attributes(&entry.attributes),
                    GENERATION,
                ),
                // An entry that leads to inode 0 is an absence that may be remembered.
                Err(Errno::ENOENT) if !absent_ttl.is_zero() => {
                    reply.entry_with_ttls(&Duration::ZERO, &absent_ttl, &absent(), GENERATION);
                }
                Err(errno) => reply.error(errno),
            },
            move |entry| vfs.forget(entry.attributes.inode, 1),
        );
    }
}

fn empty(reply: ReplyEmpty) -> impl FnOnce(Result<(), Errno>) + Send {
    move |done| match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn word(reply: ReplyIoctl) -> impl FnOnce(Result<(), Errno>) + Send {
    move |done| match done {
        Ok(()) => reply.ioctl(0, &[]),
        Err(errno) => reply.error(errno),
    }
}

fn held(reply: ReplyIoctl) -> impl FnOnce(Result<u64, Errno>) + Send {
    move |bytes| match bytes {
        Ok(bytes) => reply.ioctl(0, &PathWord::answer(bytes)),
        Err(errno) => reply.error(errno),
    }
}

/// getxattr(2) and listxattr(2): asked with 0 they tell the size, a buffer that is too small is ERANGE.
fn sized(reply: ReplyXattr, size: u32) -> impl FnOnce(Result<Bytes, Errno>) + Send {
    move |value| match value {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(bytes) if size == 0 => reply.size(bytes),
            Ok(bytes) if bytes <= size => reply.data(&value),
            Ok(_) | Err(_) => reply.error(Errno::ERANGE),
        },
        Err(errno) => reply.error(errno),
    }
}

/// Who asks, without its process: enough where only the user counts.
fn user(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), process: None }
}

fn handle(fh: FileHandle) -> HandleNo {
    HandleNo(fh.0)
}

/// A handle that was opened after its caller had been told ETIMEDOUT: nobody will ever close it.
fn release_late(vfs: Vfs, handle: HandleNo) {
    tokio::spawn(async move {
        if let Err(error) = vfs.release(handle).await {
            warn!(handle = handle.0, error = %answer::Chain(&error), "a handle opened too late");
        }
    });
}
