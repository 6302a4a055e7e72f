//! What is held of the budget: rooms, blocks, seats, rights. Each gives itself back when it is dropped.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use super::{BLOCK, Budget, blocks_of};

/// Blocks set aside for one holder; given back when dropped.
#[derive(Debug)]
pub struct Room {
    pub(super) budget: Arc<Budget>,
    pub(super) blocks: usize,
    pub(super) holder: Holder,
    /// It comes with a seat.
    pub(super) seated: bool,
}

/// One of the parts that are begun and cannot be sent yet.
#[derive(Debug)]
pub(in crate::vfs) struct Seat {
    pub(super) budget: Arc<Budget>,
}

/// Who holds a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// Turns it into [`Block`]s, which the free list feeds.
    Writer,
    /// Keeps bytes that came over HTTP.
    Reader,
    Other,
}

/// A writer's right to grow to a sendable part beyond the budget.
#[derive(Debug)]
pub(in crate::vfs) struct Right {
    pub(super) budget: Arc<Budget>,
    pub(super) writer: u64,
    /// Taken back already.
    pub(super) void: bool,
}

/// A request that carries blocks to COS: while there is one, memory will come back by itself.
#[derive(Debug)]
pub(in crate::vfs) struct Transit {
    pub(super) budget: Arc<Budget>,
}

/// 64 KiB of memory, filled from its beginning.
pub(in crate::vfs) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) budget: Arc<Budget>,
}

/// Keeps a reclaimer registered.
#[derive(Debug)]
pub struct Reclaimer {
    pub(super) budget: Arc<Budget>,
    pub(super) number: u64,
}

impl Room {
    /// Bytes set aside.
    pub fn bytes(&self) -> u64 {
        (self.blocks * BLOCK) as u64
    }

    /// Blocks set aside.
    pub(in crate::vfs) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Gives back all but `bytes`, rounded up to blocks.
    pub fn shrink_to(&mut self, bytes: u64) {
        let keep = blocks_of(bytes).min(self.blocks);
        let surplus = self.blocks - keep;
        self.blocks = keep;
        if surplus > 0 {
            self.budget.give_back(surplus, self.holder, None);
        }
    }

    /// Adds `other` to this room, of the same kind and budget.
    pub(in crate::vfs) fn join(&mut self, mut other: Self) {
        debug_assert!(self.holder == other.holder && Arc::ptr_eq(&self.budget, &other.budget));
        self.blocks += std::mem::take(&mut other.blocks);
        if !self.seated {
            self.seated = std::mem::take(&mut other.seated);
        }
    }

    /// Whether it comes with a seat.
    pub(in crate::vfs) fn is_seated(&self) -> bool {
        self.seated
    }

    /// The seat, for the part that its blocks went into.
    pub(in crate::vfs) fn take_seat(&mut self) -> Option<Seat> {
        std::mem::take(&mut self.seated).then(|| Seat { budget: Arc::clone(&self.budget) })
    }

    /// Turns one of the blocks set aside into memory.
    pub(in crate::vfs) fn block(&mut self) -> Option<Block> {
        self.blocks = self.blocks.checked_sub(1)?;
        let recycled = self.budget.state.lock().free.pop();
        let bytes = recycled.unwrap_or_else(|| Vec::with_capacity(BLOCK));
        Some(Block { bytes, budget: Arc::clone(&self.budget) })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.take_seat());
        if self.blocks > 0 {
            self.budget.give_back(self.blocks, self.holder, None);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        state.seats -= 1;
        if !state.is_quiet() {
            self.budget.serve(&mut state);
        }
    }
}

impl Block {
    /// Bytes that still fit.
    pub(in crate::vfs) fn room(&self) -> usize {
        BLOCK - self.bytes.len()
    }

    /// Copies `bytes`, which must fit, behind those already there.
    pub(in crate::vfs) fn put(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.bytes.extend_from_slice(bytes);
    }

    /// Makes it a full block, zeros behind what is there already.
    pub(in crate::vfs) fn widen(&mut self) {
        self.bytes.resize(BLOCK, 0);
    }

    /// What is there, to be changed in place.
    pub(in crate::vfs) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.bytes);
        memory.clear();
        self.budget.give_back(1, Holder::Writer, Some(memory));
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        if self.void {
            return;
        }
        self.budget.state.lock().rights.remove(&self.writer);
        if self.budget.is_pressed() {
            self.budget.pressure.notify_one();
        }
    }
}

impl Drop for Transit {
    fn drop(&mut self) {
        self.budget.in_transit.fetch_sub(1, Ordering::Relaxed);
        if self.budget.is_pressed() {
            self.budget.pressure.notify_one();
        }
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.budget.reclaimers.lock().retain(|(number, _)| *number != self.number);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}
