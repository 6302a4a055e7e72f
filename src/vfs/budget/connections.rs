//! Connections that bring the bytes of objects: how many there may be at a time, and what they take.
//!
//! Each has memory of its own beside the slabs: the HTTP client reads into a buffer that grows to 400 KiB with a
//! quick peer, and into a second one while the first is on its way to who asked.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{BLOCK, Budget, Presence, Room};

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
    max: usize,
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
        Self { permits: Arc::new(Semaphore::new(max)), max }
    }

    /// So many of them are for who reads just now, not for what nobody waits for yet.
    fn spared(&self) -> usize {
        self.max / 4
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
        let permits = &self.connections.permits;
        if permits.available_permits() <= self.connections.spared() {
            return None;
        }
        let permit = Arc::clone(permits).try_acquire_owned().ok()?;
        Some(self.counted(Some(permit)))
    }

    /// How many ranges a reader that reads now may have on their way ahead of it.
    pub(in crate::vfs) fn ranges_of(&self, reader: &Presence) -> u64 {
        (self.connections.max - self.connections.spared()) as u64 / self.census.count(reader)
    }

    fn counted(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Connection {
        Connection { _room: self.count_anyway(BUFFERS_BYTES), _permit: permit }
    }
}
