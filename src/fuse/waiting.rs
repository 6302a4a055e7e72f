//! Writes that have to wait for memory, and what their waiting may cost.
//!
//! The bytes lie in the loop's buffer, which the next request needs; so a write that waits is copied out of
//! it, beside the memory budget. All whole copies together have a bound of their own. Beyond it only the
//! first piece of a write is taken and the program hears of a short write, which every program answers by
//! writing the rest. It is never put off altogether: it may be the very write that all others wait for.

use std::sync::Arc;

use bytes::Bytes;
use fuser::{Errno, INodeNo, ReplyWrite};

use super::{
    FuseAdapter,
    answer::{Asked, TRAVEL_DEADLINE},
};
use crate::vfs::HandleNo;

/// What is taken of a write once [`super::answer::WAITING_BYTES_MAX`] wait.
const CROWDED_BYTES: usize = 64 << 10;

/// A write that did not fit.
pub(super) struct WaitingWrite<'a> {
    pub(super) ino: INodeNo,
    pub(super) handle: HandleNo,
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
    pub(super) append: bool,
    pub(super) nonblocking: bool,
    /// Pages of a shared mapping: the kernel does not write the rest of them.
    pub(super) whole: bool,
}

impl FuseAdapter {
    /// A write that does not fit: copied, and answered when there is room for it.
    pub(super) fn write_later(&self, write: WaitingWrite<'_>, reply: ReplyWrite) {
        let WaitingWrite { ino, handle, offset, data, append, nonblocking, whole } = write;
        let all = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(self.engine.waiting()).try_acquire_many_owned(all).ok();
        // An armed handle with O_NONBLOCK does not wait, so its copy needs no room.
        let crowded = room.is_none() && !nonblocking && !whole;
        let data = if crowded { &data[..data.len().min(CROWDED_BYTES)] } else { data };
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let (vfs, bells, data) = (self.vfs.clone(), self.bells.clone(), Bytes::copy_from_slice(data));
        let work = {
            let vfs = vfs.clone();
            async move { vfs.write(handle, offset, data, append, nonblocking).await }
        };
        let asked =
            Asked { operation: "write", inode: ino.0, deadline: TRAVEL_DEADLINE, in_place: nonblocking };
        self.engine.answer(asked, work, move |written| {
            drop(room);
            match written {
                Ok(()) => reply.written(bytes),
                Err(errno) => {
                    if errno == Errno::EAGAIN {
                        bells.ring_when_writable(&vfs, handle);
                    }
                    reply.error(errno);
                }
            }
        });
    }
}
