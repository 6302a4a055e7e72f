//! What is held of the budget: rooms, blocks, seats, rights. Each gives itself back when it is dropped.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use super::{BLOCK, Budget, blocks_of, slabs::Memory};

/// Blocks set aside for one holder; given back when dropped.
#[derive(Debug)]
pub struct Room {
    pub(super) budget: Arc<Budget>,
    pub(super) blocks: usize,
    pub(super) holder: Holder,
    /// It comes with a seat.
    pub(super) seated: bool,
    /// It was given without a look at what is left.
    pub(super) beyond: bool,
}

/// One of the parts that are begun and cannot be sent yet.
#[derive(Debug)]
pub(in crate::vfs) struct Seat {
    pub(super) budget: Arc<Budget>,
}

/// Who holds a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// Turns it into [`Block`]s.
    Writer,
    /// Has [`Piece`]s in it.
    Reader,
    /// Has memory of its own.
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
    piece: Piece,
}

/// Memory, filled from its beginning, that is counted elsewhere: in a room, or as a block.
pub(in crate::vfs) struct Piece {
    /// There until it is dropped.
    memory: Option<Memory>,
    filled: usize,
    /// Blocks that are given back with it.
    counted: usize,
    budget: Arc<Budget>,
}

/// Keeps a reclaimer registered.
#[derive(Debug)]
pub struct Reclaimer {
    pub(super) budget: Arc<Budget>,
    pub(super) number: u64,
}

impl Room {
    pub(in crate::vfs) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Bytes set aside.
    pub fn bytes(&self) -> u64 {
        (self.blocks * BLOCK) as u64
    }

    /// Whether it was given without a look at what is left, and should be given back soon.
    pub(in crate::vfs) fn is_beyond(&self) -> bool {
        self.beyond
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
        let memory = self.budget.state.lock().slabs.block();
        Some(Block { piece: Piece::new(memory, 1, Arc::clone(&self.budget)) })
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
        self.piece.room()
    }

    /// Copies `bytes`, which must fit, behind those already there.
    pub(in crate::vfs) fn put(&mut self, bytes: &[u8]) {
        self.piece.put(bytes);
    }

    /// Makes it a full block, zeros behind what is there already.
    pub(in crate::vfs) fn widen(&mut self) {
        let filled = std::mem::replace(&mut self.piece.filled, BLOCK);
        self.bytes_mut()[filled..].fill(0);
    }

    /// What is there, to be changed in place.
    pub(in crate::vfs) fn bytes_mut(&mut self) -> &mut [u8] {
        let filled = self.piece.filled;
        &mut self.piece.memory_mut()[..filled]
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.piece.as_ref()
    }
}

impl Piece {
    pub(super) fn new(memory: Memory, counted: usize, budget: Arc<Budget>) -> Self {
        Self { memory: Some(memory), filled: 0, counted, budget }
    }

    /// Bytes in it.
    pub(in crate::vfs) fn len(&self) -> usize {
        self.filled
    }

    /// Bytes that still fit.
    pub(in crate::vfs) fn room(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.bytes().len()) - self.filled
    }

    /// Copies `bytes`, which must fit, behind those already there.
    pub(in crate::vfs) fn put(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        let filled = std::mem::replace(&mut self.filled, end);
        self.memory_mut()[filled..end].copy_from_slice(bytes);
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map(Memory::bytes_mut).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_ref().map(|memory| &memory.bytes()[..self.filled]).unwrap_or_default()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.budget.give_back(self.counted, Holder::Writer, self.memory.take());
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
        f.debug_struct("Block").field("bytes", &self.piece.filled).finish_non_exhaustive()
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece").field("bytes", &self.filled).finish_non_exhaustive()
    }
}
