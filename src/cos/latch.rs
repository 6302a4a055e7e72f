//! A latch that keeps the last byte of a body back until it is known that the body may take effect.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Closed until [`Self::open`]. One request at a time waits at it.
#[derive(Debug, Default)]
pub struct Latch {
    is_open: AtomicBool,
    waiting: AtomicWaker,
}

impl Latch {
    /// Lets the last byte go. For good.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Release);
        self.waiting.wake();
    }

    /// Ready once it is open.
    pub(super) fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        // Registered first: whoever opens it afterwards wakes.
        self.waiting.register(context.waker());
        if self.is_open.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        poll_fn(|context| self.poll_open(context)).await;
    }
}
