//! Writes that have to wait for memory, and what their waiting may cost.
//!
//! The bytes lie in the loop's buffer, which the next request needs; so a write that waits is copied out of
//! it, beside the memory budget, and all such copies together have a bound of their own. Beyond it a writer
//! sleeps for a moment and hears EINTR, which every program answers by writing again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fuser::{Errno, INodeNo, ReplyWrite};

use super::{
    FuseAdapter,
    answer::{Asked, TRAVEL_DEADLINE},
};
use crate::vfs::HandleNo;

/// How long a write without room is held before it is told EINTR, that is: try again.
const CROWDED_PAUSE: Duration = Duration::from_millis(100);

/// A write that did not fit.
pub(super) struct WaitingWrite<'a> {
    pub(super) ino: INodeNo,
    pub(super) handle: HandleNo,
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
    pub(super) append: bool,
    pub(super) nonblocking: bool,
}

impl FuseAdapter {
    /// A write that does not fit: copied, and answered when there is room for it.
    pub(super) fn write_later(&self, write: WaitingWrite<'_>, reply: ReplyWrite) {
        let WaitingWrite { ino, handle, offset, data, append, nonblocking } = write;
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(self.engine.waiting()).try_acquire_many_owned(bytes).ok();
        // An armed handle with O_NONBLOCK does not wait, so its copy needs no room.
        if room.is_none() && !nonblocking {
            self.engine.runtime().spawn(async move {
                tokio::time::sleep(CROWDED_PAUSE).await;
                reply.error(Errno::EINTR);
            });
            return;
        }
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
