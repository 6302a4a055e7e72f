//! Waking writers that were told EAGAIN.
//!
//! Once a descriptor is polled, epoll and an edge-triggered `AsyncFd` rely on being told: after EAGAIN they
//! ask nothing and sleep until notified. So the notifier of *every* POLL is kept, also of the one that was
//! answered "ready", and an EAGAIN arranges for it to be rung when there is room.

use std::{collections::HashMap, sync::Arc};

use fuser::{PollEvents, PollNotifier};
use parking_lot::Mutex;
use tracing::trace;

use crate::vfs::{HandleNo, Vfs};

/// The bells of the open handles of one session.
#[derive(Debug, Default, Clone)]
pub(super) struct Bells(Arc<Mutex<HashMap<HandleNo, PollNotifier>>>);

impl Bells {
    /// Answers a POLL, and keeps its notifier until the handle is released.
    pub(super) fn poll(&self, vfs: &Vfs, handle: HandleNo, notifier: PollNotifier) -> PollEvents {
        self.0.lock().insert(handle, notifier);
        let readable = PollEvents::POLLIN | PollEvents::POLLRDNORM;
        let writable = PollEvents::POLLOUT | PollEvents::POLLWRNORM;
        match vfs.poll_writable(handle, self.bell(handle)) {
            Ok(true) => readable | writable,
            Ok(false) => readable,
            // The write that follows tells the error.
            Err(_) => readable | writable | PollEvents::POLLERR,
        }
    }

    /// A write on `handle` is being told EAGAIN: whoever polls it hears when there is room.
    pub(super) fn ring_when_writable(&self, vfs: &Vfs, handle: HandleNo) {
        if !matches!(vfs.poll_writable(handle, self.bell(handle)), Ok(false)) {
            self.bell(handle)();
        }
    }

    /// The handle is released.
    pub(super) fn forget(&self, handle: HandleNo) {
        self.0.lock().remove(&handle);
    }

    fn bell(&self, handle: HandleNo) -> Box<dyn FnOnce() + Send> {
        let bells = self.clone();
        Box::new(move || {
            // The notifier is taken out of the lock: ringing is a system call.
            let notifier = bells.0.lock().get(&handle).cloned();
            if let Some(notifier) = notifier
                && let Err(error) = notifier.notify()
            {
                trace!(handle = handle.0, %error, "nobody polls any more");
            }
        })
    }
}
