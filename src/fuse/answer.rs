//! How a request gets its answer: on the spot where nothing has to be waited for, else from a task.
//!
//! ```text
//! FUSE loop   poll the work once ── ready ──> reply, no other thread involved
//!                  │ pending
//!                  └─> task: work against its deadline ── in time ──> reply
//!                                                       └─ too late ─> ETIMEDOUT; the work goes on,
//!                                                                      and what it made is taken back
//! ```
//!
//! The deadline is the last net: below it every request to COS has its own. A request that the kernel has
//! handed over cannot be interrupted, so without an answer its caller could not even be killed.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use fuser::Errno;
use tokio::{runtime::Handle, sync::Semaphore};
use tracing::{debug, warn};

use super::errno::errno;
use crate::vfs::{VfsError, VfsResult};

/// What a question (lookup, stat, open, list, read) may take.
pub(super) const QUESTION_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// What may take as long as its bytes take to travel: publish, rename, a write that waits for memory.
pub(super) const TRAVEL_DEADLINE: Duration = Duration::from_secs(6 * 60 * 60);

/// Bytes of whole writes that wait for memory, of all mounts together.
pub(super) const WAITING_BYTES_MAX: usize = 32 << 20;

/// What all sessions share: the runtime, and the room for writes that wait.
#[derive(Debug, Clone)]
pub struct Engine {
    runtime: Handle,
    waiting: Arc<Semaphore>,
}

impl Engine {
    /// Answers are worked out on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, waiting: Arc::new(Semaphore::new(WAITING_BYTES_MAX)) }
    }

    /// The runtime.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Room for the bytes of a write that has to wait.
    pub(super) fn waiting(&self) -> &Arc<Semaphore> {
        &self.waiting
    }

    /// Works `work` out and gives its result to `give`: in this very thread if it need not wait.
    pub(super) fn answer<T, W, G>(&self, request: Asked, work: W, give: G)
    where
        T: Send + 'static,
        W: Future<Output = VfsResult<T>> + Send + 'static,
        G: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        self.answer_or_undo(request, work, give, |_| {});
    }

    /// As [`Self::answer`]; `undo` takes back what comes too late or was not wanted any more: a handle, a
    /// lookup.
    pub(super) fn answer_or_undo<T, W, G, U>(&self, request: Asked, work: W, give: G, undo: U)
    where
        T: Send + 'static,
        W: Future<Output = VfsResult<T>> + Send + 'static,
        G: FnOnce(Result<T, Errno>) + Send + 'static,
        U: FnOnce(T) + Send + 'static,
    {
        let mut work = Box::pin(work);
        if request.in_place {
            // Timers and spawned tasks inside the work need the runtime around them.
            let _entered = self.runtime.enter();
            if let Poll::Ready(result) = poll_once(work.as_mut()) {
                give(told(request, result));
                return;
            }
        }
        self.runtime.spawn(async move {
            let Ok(result) = tokio::time::timeout(request.deadline, work.as_mut()).await else {
                warn!(
                    operation = request.operation,
                    inode = request.inode,
                    "no answer within our own deadline: the caller gets ETIMEDOUT"
                );
                give(Err(Errno::ETIMEDOUT));
                if let Ok(made) = work.await {
                    undo(made);
                }
                return;
            };
            give(told(request, result));
        });
    }
}

/// A request, as far as its answer depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) operation: &'static str,
    pub(super) inode: u64,
    pub(super) deadline: Duration,
    /// Whether the loop itself tries first: for what mostly lies in a table, never for what hashes or sends.
    pub(super) in_place: bool,
}

/// The errno of a failure, which is also logged: a refusal names the setting that would allow it.
pub(super) fn told<T>(request: Asked, result: VfsResult<T>) -> Result<T, Errno> {
    result.map_err(|error| {
        // An absent name is an answer like any other, and WouldBlock is flow control.
        if !matches!(error, VfsError::NotFound { .. } | VfsError::NoAttribute | VfsError::WouldBlock) {
            debug!(operation = request.operation, inode = request.inode, error = %Chain(&error), "refused");
        }
        errno(&error)
    })
}

fn poll_once<F: Future + ?Sized>(work: Pin<&mut F>) -> Poll<F::Output> {
    // Whatever registers this waker registers the task's own one at the next poll.
    work.poll(&mut Context::from_waker(Waker::noop()))
}

/// An error with everything that caused it, on one line.
#[derive(Debug)]
pub(super) struct Chain<'a>(pub(super) &'a dyn Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
