//! The memory that the budget counts: slabs of 1 MiB, cut into blocks and put together again.
//!
//! ```text
//! fresh slab ──> whole ──> a reader's piece: up to 1 MiB in one run
//!                  │  ^
//!       cut in 16  v  │ all 16 are back
//!                 cut ──> writers' blocks of 64 KiB
//! ```
//!
//! The allocator is left out of it: it keeps what is freed in the arenas of many threads, where writers' blocks
//! of a moment ago are no use to readers, and to touch fresh memory anew for each piece costs more than all
//! else that a read does. So slabs go from hand to hand, and there are no more of them than the budget has room for.

use std::{collections::BTreeMap, fmt};

use bytes::BytesMut;

use super::{BLOCK, SENDABLE_BLOCKS};

/// Blocks of a slab: 1 MiB, the longest piece that is read or written at a time.
const SLAB_BLOCKS: usize = SENDABLE_BLOCKS;

/// A run of blocks of one slab.
#[derive(Debug)]
pub(super) struct Memory {
    slab: u32,
    /// Blocks of the slab before it.
    place: usize,
    /// Its length is a multiple of a block.
    bytes: BytesMut,
}

/// All slabs.
#[derive(Default)]
pub(super) struct Slabs {
    /// In one piece, and nobody's.
    whole: Vec<Memory>,
    /// Single blocks that are nobody's, by slab and place.
    cut: BTreeMap<u32, BTreeMap<usize, BytesMut>>,
    slabs: usize,
    last: u32,
}

impl fmt::Debug for Slabs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slabs")
            .field("slabs", &self.slabs)
            .field("whole", &self.whole.len())
            .field("cut", &self.cut.len())
            .finish_non_exhaustive()
    }
}

impl Memory {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Slabs {
    /// One block. Slabs that are cut already come first, so that others stay whole.
    pub(super) fn block(&mut self) -> Memory {
        if let Some(mut slab) = self.cut.first_entry() {
            let number = *slab.key();
            let taken = slab.get_mut().pop_first();
            if slab.get().is_empty() {
                slab.remove();
            }
            if let Some((place, bytes)) = taken {
                return Memory { slab: number, place, bytes };
            }
        }
        self.cut_off(1)
    }

    /// A run of up to `blocks` (a slab at most), while there are no more slabs than `slabs_max`; else one block.
    pub(super) fn run(&mut self, blocks: usize, slabs_max: usize) -> Memory {
        let blocks = blocks.clamp(1, SLAB_BLOCKS);
        let is_there = !self.whole.is_empty() || self.slabs < slabs_max;
        if blocks > 1 && is_there { self.cut_off(blocks) } else { self.block() }
    }

    /// Takes memory back. Beyond `slabs_max`, slabs go once they are whole again.
    pub(super) fn give_back(&mut self, memory: Memory, slabs_max: usize) {
        let Memory { slab, place, mut bytes } = memory;
        if bytes.len() == SLAB_BLOCKS * BLOCK {
            self.whole.push(Memory { slab, place, bytes });
            return self.shrink(slabs_max);
        }
        let blocks = self.cut.entry(slab).or_default();
        let mut place = place;
        while bytes.len() > BLOCK {
            blocks.insert(place, bytes.split_to(BLOCK));
            place += 1;
        }
        blocks.insert(place, bytes);
        if blocks.len() == SLAB_BLOCKS
            && let Some(blocks) = self.cut.remove(&slab)
        {
            let whole = blocks.into_values().reduce(|mut whole, next| {
                whole.unsplit(next);
                whole
            });
            self.whole.extend(whole.map(|bytes| Memory { slab, place: 0, bytes }));
            self.shrink(slabs_max);
        }
    }

    /// Gives whole slabs back to the system until there are no more than `slabs_max`, if that many are whole.
    pub(super) fn shrink(&mut self, slabs_max: usize) {
        while self.slabs > slabs_max && self.whole.pop().is_some() {
            self.slabs -= 1;
        }
    }

    fn cut_off(&mut self, blocks: usize) -> Memory {
        let mut memory = self.whole.pop().unwrap_or_else(|| {
            self.slabs += 1;
            self.last = self.last.wrapping_add(1);
            Memory { slab: self.last, place: 0, bytes: BytesMut::zeroed(SLAB_BLOCKS * BLOCK) }
        });
        if blocks < SLAB_BLOCKS {
            let mut rest = memory.bytes.split_off(blocks * BLOCK);
            let cut = self.cut.entry(memory.slab).or_default();
            let mut place = blocks;
            while rest.len() > BLOCK {
                cut.insert(place, rest.split_to(BLOCK));
                place += 1;
            }
            cut.insert(place, rest);
        }
        memory
    }

    #[cfg(test)]
    fn free_blocks(&self) -> usize {
        self.whole.len() * SLAB_BLOCKS + self.cut.values().map(BTreeMap::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is handed out overlaps nothing, comes back whole, and no slab is lost or made without need.
        #[test]
        fn runs_never_overlap_and_slabs_become_whole_again(
            steps in prop::collection::vec((0_usize..20, any::<prop::sample::Index>(), any::<bool>()), 1..200),
            slabs_max in 1_usize..6,
        ) {
            let mut slabs = Slabs::default();
            let mut held: Vec<(u8, Memory)> = Vec::new();
            let mut held_blocks = 0;
            for (number, (blocks, index, gives)) in steps.into_iter().enumerate() {
                let mark = u8::try_from(number % 251).unwrap();
                if gives && !held.is_empty() {
                    let (mark, memory) = held.swap_remove(index.index(held.len()));
                    prop_assert!(memory.bytes().iter().all(|byte| *byte == mark), "somebody else wrote there");
                    held_blocks -= memory.bytes().len() / BLOCK;
                    slabs.give_back(memory, slabs_max);
                } else {
                    let mut memory = if blocks == 0 { slabs.block() } else { slabs.run(blocks, slabs_max) };
                    prop_assert!(memory.bytes().len() <= blocks.clamp(1, SLAB_BLOCKS) * BLOCK);
                    memory.bytes_mut().fill(mark);
                    held_blocks += memory.bytes().len() / BLOCK;
                    held.push((mark, memory));
                }
                prop_assert_eq!(slabs.free_blocks() + held_blocks, slabs.slabs * SLAB_BLOCKS);
            }
            for (_, memory) in held {
                slabs.give_back(memory, slabs_max);
            }
            prop_assert!(slabs.cut.is_empty(), "all are whole");
            prop_assert!(slabs.whole.len() == slabs.slabs && slabs.slabs <= slabs_max);
            prop_assert!(slabs.whole.iter().all(|slab| slab.bytes.len() == SLAB_BLOCKS * BLOCK));
        }
    }

    #[test]
    fn blocks_come_from_slabs_that_are_cut_already() {
        let mut slabs = Slabs::default();
        let blocks: Vec<_> = (0..2 * SLAB_BLOCKS).map(|_| slabs.block()).collect();
        assert_eq!(slabs.slabs, 2);
        blocks.into_iter().for_each(|block| slabs.give_back(block, 2));
        let run = slabs.run(SLAB_BLOCKS, 2);
        let block = slabs.block();
        assert_eq!((run.bytes().len(), slabs.slabs), (SLAB_BLOCKS * BLOCK, 2));
        assert_eq!(slabs.run(SLAB_BLOCKS, 2).bytes().len(), BLOCK, "a third slab would be too many");
        drop(block);
    }
}
