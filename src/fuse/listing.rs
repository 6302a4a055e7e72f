//! READDIR and READDIRPLUS: entries go straight into the kernel's buffer, until it is full.

use std::sync::Arc;

use fuser::{Errno, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use parking_lot::Mutex;

use super::{
    FuseAdapter, GENERATION,
    words::{attributes, kind},
};
use crate::vfs::{DirectoryEntry, HandleNo};

/// What a listing is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    pub(super) ino: INodeNo,
    pub(super) handle: HandleNo,
    pub(super) offset: u64,
    pub(super) plus: bool,
}

/// One of fuser's two buffers.
pub(super) trait Buffer: Send + 'static {
    /// Whether the entry still found room.
    fn take(&mut self, line: &DirectoryEntry) -> bool;
    fn ok(self);
    fn error(self, errno: Errno);
}

impl FuseAdapter {
    pub(super) fn list<B: Buffer>(&self, list: List, reply: B) {
        // Shared, because after a deadline the listing may still be at work when the reply has to go.
        let shared = Arc::new(Mutex::new(Some(reply)));
        let buffer = Arc::clone(&shared);
        let vfs = self.vfs.clone();
        let work = async move {
            let mut taken = false;
            let mut take = |line: &DirectoryEntry| {
                let more = buffer.lock().as_mut().is_some_and(|buffer| buffer.take(line));
                taken |= more;
                more
            };
            let done = vfs.readdir(list.handle, list.offset, list.plus, &mut take).await;
            // What was taken must reach the kernel, or it never forgets the lookups that were counted; an
            // error behind it comes again with the next request.
            if taken { Ok(()) } else { done }
        };
        let operation = if list.plus { "readdirplus" } else { "readdir" };
        self.ask(operation, list.ino, work, move |listed| {
            let Some(reply) = shared.lock().take() else { return };
            match listed {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            }
        });
    }
}

impl Buffer for ReplyDirectory {
    fn take(&mut self, line: &DirectoryEntry) -> bool {
        let shown = &line.entry.attributes;
        !self.add(INodeNo(shown.inode.0), line.next_offset, kind(shown.kind), &line.name)
    }

    fn ok(self) {
        Self::ok(self);
    }

    fn error(self, errno: Errno) {
        Self::error(self, errno);
    }
}

impl Buffer for ReplyDirectoryPlus {
    fn take(&mut self, line: &DirectoryEntry) -> bool {
        let entry = &line.entry;
        // The reply knows one TTL for the name and for the attributes.
        let ttl = entry.entry_ttl.min(entry.attr_ttl);
        let shown = attributes(&entry.attributes);
        !self.add(shown.ino, line.next_offset, &line.name, &ttl, &shown, GENERATION)
    }

    fn ok(self) {
        Self::ok(self);
    }

    fn error(self, errno: Errno) {
        Self::error(self, errno);
    }
}
