//! What a file that is changed in place holds in memory, laid over its base. No I/O, no clock.
//!
//! ```text
//! written    ##  ####            ##      blocks of 64 KiB, each knows which of its bytes count
//! base     bbbbbbbbbbbbbbbbbbb           an object, as far as it has not been cut off
//! zeros                       00000000   up to the size of the file
//! ```
//!
//! Where nothing was written the base shows through, and behind its end there are zeros. Blocks that were
//! published stay as a cache, *clean*, and may be dropped at any time; *dirty* ones are in no object yet.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::super::budget::{BLOCK, Block, Room};

/// A file's bytes, as far as they are here.
#[derive(Debug, Default)]
pub(super) struct Cells {
    /// The size of the file.
    bytes: u64,
    /// How far the base reaches, at most to the end of the file.
    base_bytes: u64,
    /// By number: block n holds the bytes from n times 64 KiB.
    blocks: BTreeMap<u64, Cell>,
    dirty_blocks: usize,
}

#[derive(Debug)]
struct Cell {
    memory: Arc<Block>,
    valid: Extents,
    dirty: bool,
}

/// Which bytes of a block count: in order, apart from each other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Extents(Vec<Range<usize>>);

/// Where a stretch of the file's bytes comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// So many bytes into a block.
    Memory(Arc<Block>, usize),
    Base,
    Zeros,
}

/// A stretch of the file's bytes.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) source: Source,
}

impl Cells {
    /// A file of `bytes` that all come from the base.
    pub(super) fn over_base(bytes: u64) -> Self {
        Self { bytes, base_bytes: bytes, ..Self::default() }
    }

    /// A file without a base, whose `bytes` fill `blocks` in order.
    pub(super) fn of_blocks(blocks: Vec<Block>) -> Self {
        let mut cells = Self::default();
        for (number, mut block) in blocks.into_iter().enumerate() {
            let length = block.as_ref().len();
            cells.bytes += length as u64;
            block.widen();
            let valid = Extents(std::iter::once(0..length).collect());
            cells.blocks.insert(number as u64, Cell { memory: Arc::new(block), valid, dirty: true });
            cells.dirty_blocks += 1;
        }
        cells
    }

    /// The size of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How far the base reaches.
    pub(super) fn base_bytes(&self) -> u64 {
        self.base_bytes
    }

    /// Bytes of memory that are in no object yet.
    pub(super) fn dirty_memory_bytes(&self) -> u64 {
        (self.dirty_blocks * BLOCK) as u64
    }

    /// Whether a block in `first..end` is in no object yet.
    pub(super) fn is_dirty_in(&self, first: u64, end: u64) -> bool {
        first < end && self.blocks.range(number_of(first)..=number_of(end - 1)).any(|(_, cell)| cell.dirty)
    }

    /// Where the first block begins that is in no object yet.
    pub(super) fn first_dirty(&self) -> Option<u64> {
        self.blocks.iter().find(|(_, cell)| cell.dirty).map(|(number, _)| number * BLOCK as u64)
    }

    /// How far what differs from zeros can reach.
    pub(super) fn content_end(&self) -> u64 {
        let last = self.blocks.iter().rev().find(|(_, cell)| cell.dirty);
        let written = last.map_or(0, |(number, _)| (number + 1) * BLOCK as u64);
        written.max(self.base_bytes).min(self.bytes)
    }

    /// Blocks of memory that a write of `length` bytes at `offset` needs beside those that are here.
    pub(super) fn blocks_missing(&self, offset: u64, length: usize) -> usize {
        pieces(offset, length)
            .filter(|(number, _)| {
                // What a request carries is not changed under it.
                self.blocks.get(number).is_none_or(|cell| Arc::strong_count(&cell.memory) > 1)
            })
            .count()
    }

    /// A block that a write there would leave with too many gaps over the base: [`Self::fill`] it first.
    pub(super) fn must_fill(&self, offset: u64, length: usize) -> Option<u64> {
        pieces(offset, length).find_map(|(number, range)| {
            let cell = self.blocks.get(&number)?;
            let has_base = number * (BLOCK as u64) < self.base_bytes;
            (has_base && cell.valid.would_be_many(&range)).then_some(number)
        })
    }

    /// Takes `data` at `offset`, into the blocks there and those of `room`, which must be enough
    /// ([`Self::blocks_missing`]).
    pub(super) fn write(&mut self, offset: u64, data: &[u8], room: &mut Room) {
        let mut left = data;
        for (number, range) in pieces(offset, data.len()) {
            let (now, later) = left.split_at(range.len());
            left = later;
            let is_over_base = number * (BLOCK as u64) < self.base_bytes;
            let cell = self.blocks.entry(number).or_insert_with(|| Cell {
                memory: Arc::new(new_block(room)),
                valid: Extents::default(),
                dirty: false,
            });
            if Arc::get_mut(&mut cell.memory).is_none() {
                let mut copy = new_block(room);
                copy.bytes_mut().copy_from_slice((*cell.memory).as_ref());
                cell.memory = Arc::new(copy);
            }
            let memory = Arc::get_mut(&mut cell.memory).expect("it was made a line above");
            if !is_over_base && cell.valid.would_be_many(&range) {
                cell.valid.fill_gaps(memory.bytes_mut(), &[]);
            }
            memory.bytes_mut()[range.clone()].copy_from_slice(now);
            cell.valid.add(range);
            self.dirty_blocks += usize::from(!cell.dirty);
            cell.dirty = true;
        }
        self.bytes = self.bytes.max(offset + data.len() as u64);
    }

    /// The stretch of the base that [`Self::fill`] wants for a block.
    pub(super) fn base_of(&self, number: u64) -> Range<u64> {
        let first = number * BLOCK as u64;
        first..(first + BLOCK as u64).min(self.base_bytes)
    }

    /// Fills the gaps of a block with what the base has there, and with zeros behind it.
    pub(super) fn fill(&mut self, number: u64, base: &[u8]) {
        let Some(cell) = self.blocks.get_mut(&number) else { return };
        // Somebody reads it just now: it is filled the next time.
        let Some(memory) = Arc::get_mut(&mut cell.memory) else { return };
        cell.valid.fill_gaps(memory.bytes_mut(), base);
    }

    /// Gives the file another size. What is cut off is gone, also if the file grows again.
    pub(super) fn resize(&mut self, bytes: u64) {
        if bytes < self.bytes {
            let kept = bytes.div_ceil(BLOCK as u64);
            let gone = self.blocks.split_off(&kept);
            self.dirty_blocks -= gone.values().filter(|cell| cell.dirty).count();
            let inside = place(bytes % BLOCK as u64);
            if inside > 0
                && let Some(cell) = self.blocks.get_mut(&(bytes / BLOCK as u64))
            {
                cell.valid.clip(inside);
            }
            self.base_bytes = self.base_bytes.min(bytes);
        }
        self.bytes = bytes;
    }

    /// Where the bytes `first..end` come from, in order and without a gap; `end` is at most the size.
    pub(super) fn segments(&self, first: u64, end: u64) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut at = first;
        if first < end {
            for (number, cell) in self.blocks.range(number_of(first)..=number_of(end - 1)) {
                let start = number * BLOCK as u64;
                for extent in &cell.valid.0 {
                    let from = (start + extent.start as u64).max(at);
                    let to = (start + extent.end as u64).min(end);
                    if from < to {
                        self.push_below(&mut segments, at, from);
                        let source = Source::Memory(Arc::clone(&cell.memory), place(from - start));
                        segments.push(Segment { first: from, end: to, source });
                        at = to;
                    }
                }
            }
        }
        self.push_below(&mut segments, at, end);
        segments
    }

    /// All of it is in an object now, which is the base: what is here is a cache.
    pub(super) fn published(&mut self) {
        for cell in self.blocks.values_mut() {
            cell.dirty = false;
        }
        self.dirty_blocks = 0;
        self.base_bytes = self.bytes;
    }

    /// The first `base_bytes` are in an object now, which is the base. The blocks there are dropped.
    pub(super) fn based(&mut self, base_bytes: u64) {
        debug_assert!(base_bytes >= self.base_bytes.min(self.bytes), "nothing of the old base is lost");
        self.forget_below(base_bytes);
        self.base_bytes = base_bytes;
    }

    /// Drops the blocks that lie wholly before `end`.
    pub(super) fn forget_below(&mut self, end: u64) {
        let whole = if end >= self.bytes { u64::MAX } else { end / BLOCK as u64 };
        let kept = self.blocks.split_off(&whole);
        self.blocks = kept;
        self.dirty_blocks = self.blocks.values().filter(|cell| cell.dirty).count();
    }

    /// Drops what is a cache.
    pub(super) fn drop_clean(&mut self) {
        self.blocks.retain(|_, cell| cell.dirty);
    }

    fn push_below(&self, segments: &mut Vec<Segment>, first: u64, end: u64) {
        let seam = self.base_bytes.clamp(first, end.max(first));
        if first < seam {
            segments.push(Segment { first, end: seam, source: Source::Base });
        }
        if seam < end {
            segments.push(Segment { first: seam, end, source: Source::Zeros });
        }
    }
}

impl Extents {
    fn add(&mut self, mut range: Range<usize>) {
        let begin = self.0.partition_point(|extent| extent.end < range.start);
        let end = self.0.partition_point(|extent| extent.start <= range.end);
        for extent in &self.0[begin..end] {
            range = range.start.min(extent.start)..range.end.max(extent.end);
        }
        self.0.splice(begin..end, [range]);
    }

    /// Only what lies before `end` counts.
    fn clip(&mut self, end: usize) {
        self.0.retain(|extent| extent.start < end);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(end);
        }
    }

    fn would_be_many(&self, range: &Range<usize>) -> bool {
        let touches = |extent: &Range<usize>| extent.start <= range.end && extent.end >= range.start;
        self.0.len() >= EXTENTS_MAX && !self.0.iter().any(touches)
    }

    /// Copies `below` into what does not count yet, zeros where it ends; all of the block counts from then on.
    fn fill_gaps(&mut self, memory: &mut [u8], below: &[u8]) {
        let mut at = 0;
        for extent in self.0.drain(..).chain(std::iter::once(memory.len()..memory.len())) {
            let gap = &mut memory[at..extent.start];
            let known = below.get(at..).unwrap_or_default();
            let known = &known[..known.len().min(gap.len())];
            gap[..known.len()].copy_from_slice(known);
            gap[known.len()..].fill(0);
            at = extent.end;
        }
        self.0.push(0..memory.len());
    }
}

fn new_block(room: &mut Room) -> Block {
    let mut block = room.block().expect("room was counted before");
    block.widen();
    block
}

fn number_of(offset: u64) -> u64 {
    offset / BLOCK as u64
}

fn place(bytes: u64) -> usize {
    usize::try_from(bytes).expect("within a block")
}

/// The blocks that a write touches, and where in each.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let end = offset + length as u64;
    let (first, last) = (number_of(offset), if length == 0 { 0 } else { number_of(end - 1) + 1 });
    (first..last.max(first)).map(move |number| {
        let start = number * BLOCK as u64;
        (number, place(offset.max(start) - start)..place(end.min(start + BLOCK as u64) - start))
    })
}

/// Gaps of a block over the base that are kept apart: a database's pages of 4 KiB make 8 at most.
const EXTENTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::budget::Budget, *};

    const SPAN: u64 = 5 * BLOCK as u64;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, usize, u8),
        Resize(u64),
        Published,
        Based,
        DropClean,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let near = prop_oneof![0..SPAN, (0..5_u64, 0..3_u64).prop_map(|(n, d)| n * BLOCK as u64 + d)];
        let step = prop_oneof![
            8 => (near.clone(), 0..100_000_usize, 1..=255_u8).prop_map(|(at, n, b)| Step::Write(at, n, b)),
            8 => (near.clone(), 0..40_usize, 1..=255_u8).prop_map(|(at, n, b)| Step::Write(at, n, b)),
            3 => near.prop_map(Step::Resize),
            1 => Just(Step::Published),
            1 => Just(Step::Based),
            1 => Just(Step::DropClean),
        ];
        prop::collection::vec(step, 1..60)
    }

    fn shown(cells: &Cells, base: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        for segment in cells.segments(0, cells.bytes()) {
            assert_eq!(segment.first, content.len() as u64, "segments follow each other");
            let range = place(segment.first)..place(segment.end);
            match segment.source {
                Source::Memory(block, from) => {
                    content.extend_from_slice(&(*block).as_ref()[from..from + range.len()]);
                }
                Source::Base => content.extend_from_slice(&base[range]),
                Source::Zeros => content.resize(range.end, 0),
            }
        }
        content
    }

    proptest! {
        #[test]
        fn cells_over_a_base_show_what_a_vector_of_bytes_does(base_bytes in 0..SPAN, steps in steps()) {
            let budget = Budget::new(64 << 20, 1);
            let mut base: Vec<u8> = (0..base_bytes).map(|at| (at % 251) as u8 + 1).collect();
            let mut model = base.clone();
            let mut cells = Cells::over_base(base_bytes);
            for step in steps {
                match step {
                    Step::Write(at, length, byte) => {
                        let data = vec![byte; length];
                        while let Some(number) = cells.must_fill(at, length) {
                            let range = cells.base_of(number);
                            cells.fill(number, &base[place(range.start)..place(range.end)]);
                        }
                        let mut room = budget.no_room();
                        let missing = cells.blocks_missing(at, length);
                        if missing > 0 {
                            room = budget.try_blocks(0, missing, false).unwrap();
                        }
                        if length > 0 {
                            cells.write(at, &data, &mut room);
                            model.resize(model.len().max(place(at) + length), 0);
                            model[place(at)..place(at) + length].copy_from_slice(&data);
                        }
                        prop_assert_eq!(room.blocks(), 0);
                    }
                    Step::Resize(bytes) => {
                        cells.resize(bytes);
                        model.resize(place(bytes), 0);
                    }
                    Step::Published => {
                        base.clone_from(&model);
                        cells.published();
                    }
                    Step::Based => {
                        let end = cells.content_end();
                        base = model[..place(end)].to_vec();
                        cells.based(end);
                        prop_assert_eq!(cells.dirty_memory_bytes(), 0);
                    }
                    Step::DropClean => cells.drop_clean(),
                }
                prop_assert_eq!(cells.bytes(), model.len() as u64);
                prop_assert!(shown(&cells, &base) == model);
                prop_assert!(cells.content_end() <= cells.bytes());
                prop_assert!(model[place(cells.content_end())..].iter().all(|byte| *byte == 0));
                let dirty = cells.blocks.values().filter(|cell| cell.dirty).count();
                prop_assert_eq!(cells.dirty_blocks, dirty);
                prop_assert!(cells.blocks.values().all(|cell| cell.valid.0.len() <= EXTENTS_MAX + 1));
            }
        }
    }
}
