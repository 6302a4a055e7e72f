//! A part while it fills, and the plan by which parts are cut.
//!
//! [`PartBuffer`] costs one copy and one checksum pass per byte and nothing else: blocks come from the
//! budget, and leave as the pieces of a [`Payload`] without being copied again. [`PartPlan`] says how large
//! the next part becomes, and whether it may leave before it is full without running out of part numbers.

use bytes::Bytes;

use super::super::budget::{BLOCK, Block, Room, SENDABLE_BLOCKS};
use crate::{
    config::{Limits, PartSizes},
    cos::{Crc64, PARTS_MAX, PartNumber, Payload},
};

/// Bytes of one part, or of a small file, in memory.
pub(super) struct PartBuffer {
    blocks: Vec<Block>,
    bytes: u64,
    digest: crc_fast::Digest,
}

/// Where the next part begins, and how large it becomes.
#[derive(Debug, Clone)]
pub(super) struct PartPlan {
    sizes: PartSizes,
    /// `None`: all 10,000 are gone.
    next: Option<PartNumber>,
    /// Bytes of all parts cut so far, and what they would be had none left early.
    cut_bytes: u64,
    planned_bytes: u64,
    /// What the parts still to come would be.
    rest_bytes: u64,
}

impl PartBuffer {
    /// An empty one; takes no memory.
    pub(super) fn new() -> Self {
        let digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Xz);
        Self { blocks: Vec::new(), bytes: 0, digest }
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies `data` behind what is there, into its last block and then into blocks of `room`. What does not
    /// fit is left; returns how many bytes were taken.
    pub(super) fn fill(&mut self, mut data: &[u8], room: &mut Room) -> usize {
        let length = data.len();
        while !data.is_empty() {
            if self.blocks.last().is_none_or(|block| block.room() == 0) {
                match room.block() {
                    Some(block) => self.blocks.push(block),
                    None => break,
                }
            }
            let Some(block) = self.blocks.last_mut() else { break };
            let (now, later) = data.split_at(data.len().min(block.room()));
            block.put(now);
            // While the bytes are still in the cache of the processor.
            self.digest.update(now);
            data = later;
        }
        let taken = length - data.len();
        self.bytes += taken as u64;
        taken
    }

    /// Makes it the body of a request, without copying.
    pub(super) fn freeze(self) -> Payload {
        let crc64 = if self.bytes == 0 { Crc64::EMPTY } else { Crc64(self.digest.finalize()) };
        Payload::with_crc64(self.blocks.into_iter().map(Bytes::from_owner).collect(), crc64)
    }
}

impl PartBuffer {
    /// Makes it the bodies of up to `pieces` requests of like size, none but the last below 2 MiB.
    pub(super) fn split(self, pieces: usize) -> Vec<Payload> {
        let pieces = pieces.min(self.blocks.len() / (2 * SENDABLE_BLOCKS)).max(1);
        if pieces == 1 {
            return vec![self.freeze()];
        }
        let length = self.blocks.len().div_ceil(pieces);
        let mut blocks = self.blocks.into_iter().peekable();
        let mut payloads = Vec::with_capacity(pieces);
        while blocks.peek().is_some() {
            let mut piece = Self::new();
            for block in blocks.by_ref().take(length) {
                piece.bytes += block.as_ref().len() as u64;
                piece.digest.update(block.as_ref());
                piece.blocks.push(block);
            }
            payloads.push(piece.freeze());
        }
        payloads
    }
}

impl std::fmt::Debug for PartBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartBuffer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl PartPlan {
    /// The plan of a new upload.
    pub(super) fn new(limits: &Limits) -> Self {
        let sizes = PartSizes::new(limits.memory_bytes, limits.min_part_bytes);
        Self {
            sizes,
            next: Some(PartNumber::FIRST),
            cut_bytes: 0,
            planned_bytes: 0,
            rest_bytes: sizes.bytes_in_all(),
        }
    }

    /// The number of the part that fills now.
    pub(super) fn next(&self) -> Option<PartNumber> {
        self.next
    }

    /// The size at which it is full: what the plan says, and up to twice that to make up for parts that left early.
    pub(super) fn next_bytes(&self) -> u64 {
        let planned = self.next.map_or(0, |number| self.sizes.bytes(number.get()));
        let behind = (self.planned_bytes - self.cut_bytes).min(planned);
        (planned + behind).next_multiple_of(BLOCK as u64)
    }

    /// Whether the part may leave with just `bytes`, and parts of up to twice their size still make up for it.
    pub(super) fn may_leave_early(&self, bytes: u64) -> bool {
        let Some(number) = self.next else { return false };
        let planned = self.sizes.bytes(number.get());
        let behind = (self.planned_bytes + planned).saturating_sub(self.cut_bytes + bytes);
        bytes >= crate::cos::PART_BYTES_MIN && number.get() < PARTS_MAX && behind <= self.rest_bytes - planned
    }

    /// Numbers that are left.
    pub(super) fn numbers_left(&self) -> usize {
        self.next.map_or(0, |number| usize::from(PARTS_MAX - number.get()) + 1)
    }

    /// Cuts the part at `bytes`; the next one begins.
    pub(super) fn cut(&mut self, bytes: u64) {
        let Some(number) = self.next else { return };
        let planned = self.sizes.bytes(number.get());
        self.rest_bytes -= planned;
        self.cut_bytes += bytes;
        // A part that made up for others brings the plan level, never beyond it.
        self.planned_bytes = (self.planned_bytes + planned).max(self.cut_bytes);
        self.next = number.next();
    }
}
