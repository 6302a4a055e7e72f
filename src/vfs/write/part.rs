//! A part while it fills, and the plan by which parts are cut.
//!
//! [`PartBuffer`] costs one copy and one checksum pass per byte and nothing else: blocks come from the
//! budget, and leave as the pieces of a [`Payload`] without being copied again. [`PartPlan`] says how large
//! the next part becomes, and whether it may leave before it is full without running out of part numbers.

use bytes::Bytes;

use super::super::budget::{BLOCK, Block, Room, SENDABLE_BLOCKS};
use crate::{
    config::{Limits, PartSizes},
    cos::{Crc64, PART_BYTES_MIN, PARTS_MAX, PartNumber, Payload},
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

    /// Its blocks, all but the last one full.
    pub(super) fn into_blocks(self) -> Vec<Block> {
        self.blocks
    }

    /// All but some of its last bytes, if that can stand as a part that others follow.
    pub(super) fn without_end(mut self) -> Option<Payload> {
        self.blocks.pop();
        let mut rest = Self::new();
        for block in self.blocks {
            rest.bytes += block.as_ref().len() as u64;
            rest.digest.update(block.as_ref());
            rest.blocks.push(block);
        }
        (rest.bytes >= PART_BYTES_MIN).then(|| rest.freeze())
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
        bytes >= PART_BYTES_MIN && number.get() < PARTS_MAX && behind <= self.rest_bytes - planned
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        cos::PART_BYTES_MIN,
        vfs::budget::{Budget, WRITE_BLOCKS_MAX},
    };

    fn limits(memory_bytes: u64, min_part_bytes: u64) -> Limits {
        Limits {
            memory_bytes,
            min_part_bytes,
            single_file_bytes_max: u64::MAX,
            upload_requests_max: 8,
            upload_answers_max: 0,
            attr_ttl: std::time::Duration::ZERO,
            grace: std::time::Duration::ZERO,
            state_prefix: String::new(),
        }
    }

    /// Follows a plan to its end; parts leave early where `early` says so and the plan permits it.
    fn carried(limits: &Limits, mut early: impl FnMut(u16) -> Option<u64>) -> u64 {
        let mut plan = PartPlan::new(limits);
        let (mut bytes, mut parts) = (0, 0);
        while let Some(number) = plan.next() {
            let full = plan.next_bytes();
            assert!(full >= PART_BYTES_MIN && full.is_multiple_of(BLOCK as u64));
            assert!(full <= 2 * crate::config::largest_part_bytes(limits.memory_bytes));
            let size = early(number.get()).filter(|size| *size < full && plan.may_leave_early(*size));
            plan.cut(size.unwrap_or(full));
            bytes += size.unwrap_or(full);
            parts += 1;
        }
        assert_eq!(parts, PARTS_MAX);
        assert_eq!(plan.numbers_left(), 0);
        bytes
    }

    #[test]
    fn a_plan_followed_carries_the_largest_file() {
        for (memory, min_part) in
            [(256 << 20, 4 << 20), (64 << 20, 5 << 20), (1 << 20, 1), (4 << 30, 1 << 30)]
        {
            let limits = limits(memory, min_part);
            assert_eq!(carried(&limits, |_| None), crate::config::largest_file_bytes(&limits));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn parts_that_leave_early_are_made_up_for(
            memory in 12_u64 << 20..1 << 34,
            min_part in 1_u64..64 << 20,
            seed in any::<u64>(),
            often in 0_u8..=255,
        ) {
            let limits = limits(memory, min_part);
            let mut random = fastrand::Rng::with_seed(seed);
            let bytes = carried(&limits, |_| {
                (random.u8(..) <= often).then(|| random.u64(PART_BYTES_MIN..8 << 20))
            });
            prop_assert!(bytes >= crate::config::largest_file_bytes(&limits));
        }

        #[test]
        fn a_buffer_keeps_bytes_and_checksum_however_it_is_filled_and_split(
            pieces in proptest::collection::vec(0_usize..400_000, 1..20),
            split in 1_usize..9,
        ) {
            let budget = Budget::new(64 << 20, 8);
            let mut buffer = PartBuffer::new();
            let mut whole = Vec::new();
            let mut random = fastrand::Rng::with_seed(7);
            for length in pieces {
                let piece: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                let mut room = budget.try_blocks(buffer.bytes(), WRITE_BLOCKS_MAX, false).unwrap();
                prop_assert_eq!(buffer.fill(&piece, &mut room), length);
                whole.extend_from_slice(&piece);
            }
            prop_assert_eq!(buffer.bytes(), whole.len() as u64);
            let payloads = buffer.split(split);
            prop_assert!(payloads.len() <= split);
            let mut at = 0;
            for (place, payload) in payloads.iter().enumerate() {
                let bytes: Vec<u8> = payload.pieces().concat();
                prop_assert_eq!(&bytes[..], &whole[at..at + bytes.len()]);
                prop_assert_eq!(payload.crc64(), Crc64::of(&bytes));
                prop_assert!(place + 1 == payloads.len() || payload.len() >= 2 * PART_BYTES_MIN);
                at += bytes.len();
            }
            prop_assert_eq!(at, whole.len());
            prop_assert_eq!(budget.used_bytes(), whole.len().div_ceil(BLOCK) as u64 * BLOCK as u64);
            drop(payloads);
            prop_assert_eq!(budget.used_bytes(), 0);
        }
    }
}
