//! Connections that bring the bytes of objects: how many there may be at a time, and what they take.
//!
//! Each has memory of its own beside the slabs: the HTTP client reads into a buffer that grows to 400 KiB with a
//! quick peer, and into a second one while the first is on its way to who asked.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{BLOCK, Budget, Room};

/// The two buffers of a connection.
const BUFFERS_BYTES: u64 = 832 << 10;
/// There is a connection for so many blocks of the budget, 4 MiB: a fifth of it is theirs at most.
const BLOCKS_EACH: usize = (4 << 20) / BLOCK;
const CONNECTIONS_MIN: usize = 4;
/// At 40 MB/s each, they carry 2.5 GB/s.
const CONNECTIONS_MAX: usize = 64;

/// All of them.
#[derive(Debug)]
pub(super) struct Connections {
    permits: Arc<Semaphore>,
    /// So many of them are for who reads just now, not for what nobody waits for yet.
    spared: usize,
    ahead_max: usize,
}

/// The right to ask for bytes; to be held until they are there.
#[derive(Debug)]
pub(in crate::vfs) struct Connection {
    _room: Room,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connections {
    /// Of a budget of so many blocks.
    pub(super) fn new(blocks: usize) -> Self {
        let max = (blocks / BLOCKS_EACH).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        let spared = max / 4;
        Self { permits: Arc::new(Semaphore::new(max)), spared, ahead_max: max - spared }
    }
}

impl Budget {
    /// For bytes that somebody waits for, in turn. Those before end by themselves: what they bring has its
    /// memory already.
    pub(in crate::vfs) async fn connection(self: &Arc<Self>) -> Connection {
        self.counted(Arc::clone(&self.connections.permits).acquire_owned().await.ok())
    }

    /// For bytes that are likely to be wanted, unless too many are asked for already.
    pub(in crate::vfs) fn connection_ahead(self: &Arc<Self>) -> Option<Connection> {
        let Connections { permits, spared, .. } = &self.connections;
        if permits.available_permits() <= *spared {
            return None;
        }
        let permit = Arc::clone(permits).try_acquire_owned().ok()?;
        Some(self.counted(Some(permit)))
    }

    /// How many connections `readers` may each have ahead of what they read.
    pub(super) fn connections_each(&self, readers: u64) -> u64 {
        self.connections.ahead_max as u64 / readers.max(1)
    }

    fn counted(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Connection {
        Connection { _room: self.count_anyway(BUFFERS_BYTES), _permit: permit }
    }
}
