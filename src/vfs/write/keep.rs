//! A broken upload: what of it is kept, and how somebody goes on with it.
//!
//! What has arrived stays at COS, as parts of an upload that is neither completed nor aborted; the tail goes
//! there too where it can stand as a part. The memory is free as soon as that has travelled.
//!
//! What is kept is always shorter than what had come. A client that was cut off behind its last byte would be
//! told the size of the whole file otherwise, take it for stored, and never come back to have it published.

use std::{sync::Arc, time::Duration};

use super::{PartBuffer, Shared, WriteHandle, WriteState};
use crate::{cos::UploadId, vfs::uploads::Held};

impl WriteHandle {
    /// The bytes that will come are the beginning of a file that may be gone on with, should it break.
    pub(in crate::vfs) fn may_go_on(&self) {
        self.shared.core.lock().may_go_on = true;
    }

    /// Gives up, as [`Self::discard`] does, but leaves at COS what can be gone on with. `None` where there is
    /// nothing of that kind; then all is as before.
    pub(in crate::vfs) async fn keep(&self) -> Option<Held> {
        self.shared.send_tail();
        let arrived = self.shared.until(|core| (core.state.has_arrived()).then_some(()));
        drop(tokio::time::timeout(KEEP_WAITS, arrived).await);
        self.shared.keep()
    }

    /// Goes on with what was kept. To be called before the first byte; false where one has come already.
    pub(in crate::vfs) fn resume(&self, held: Held) -> bool {
        self.shared.resume(held)
    }

    /// Aborts an upload that was to be kept, until it has happened.
    pub(in crate::vfs) fn abort_kept(&self, upload: UploadId) {
        self.shared.abort(upload, true);
    }
}

impl Shared {
    /// Sends what fills, but for its last bytes.
    fn send_tail(self: &Arc<Self>) {
        let mut core = self.core.lock();
        if core.ended || core.state.is_publishing() || core.state.answer().is_some() {
            return;
        }
        core.ended = true;
        let part = std::mem::replace(&mut core.part, PartBuffer::new());
        if let Some(payload) = part.without_end().filter(|tail| core.plan.may_leave_early(tail.len())) {
            self.depart(&mut core, payload);
        }
        core.memory.room = None;
    }

    fn keep(self: &Arc<Self>) -> Option<Held> {
        let (held, wakes) = {
            let mut core = self.core.lock();
            let state = std::mem::replace(&mut core.state, WriteState::Discarded);
            let (state, held) = state.on_keep();
            core.state = state;
            let mut held = held?;
            held.shorten_below(core.bytes);
            core.let_go();
            (held, std::mem::take(&mut core.wakes))
        };
        self.tell(wakes);
        Some(held)
    }

    fn resume(self: &Arc<Self>, held: Held) -> bool {
        let mut core = self.core.lock();
        if core.bytes > 0 || !matches!(core.state, WriteState::Filling) {
            return false;
        }
        for part in &held.parts {
            core.plan.cut(part.stored.bytes);
        }
        core.bytes = held.bytes();
        core.may_go_on = true;
        let state = std::mem::replace(&mut core.state, WriteState::Discarded);
        core.state = state.on_resume(held);
        true
    }
}

/// How long what is on its way may take to arrive.
const KEEP_WAITS: Duration = Duration::from_secs(10);
