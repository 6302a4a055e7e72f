//! How an object is made of what is in memory and of what the base has: the parts, and nothing else.
//!
//! The file is cut into *cells* of one size, so large that 10,000 of them reach its end. Cells in a row
//! that nothing was written to are copied by the store itself; the others are sent, with what is clean in
//! them read from the base. No I/O, no clock.

use super::cells::Cells;
use crate::{
    config::{BLOCK_BYTES, PartSizes},
    cos::{PART_BYTES_MIN, PARTS_MAX, PUT_BYTES_MAX, PartNumber},
};

/// One part of the object to be made, by its first byte and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The store copies it out of the base, where it lies at the same place.
    Copy { first: u64, length: u64 },
    /// It travels.
    Send { first: u64, length: u64 },
}

impl Part {
    pub(super) fn first(self) -> u64 {
        match self {
            Self::Copy { first, .. } | Self::Send { first, .. } => first,
        }
    }

    pub(super) fn length(self) -> u64 {
        match self {
            Self::Copy { length, .. } | Self::Send { length, .. } => length,
        }
    }
}

/// The parts of an object of the first `bytes` of `cells`: at most 10,000, each of 1 MiB to 5 GiB, the last one perhaps smaller.
pub(super) fn parts(cells: &Cells, bytes: u64) -> Vec<Part> {
    let cell_bytes = cell_bytes(bytes);
    let is_clean = |first: u64| {
        let end = (first + cell_bytes).min(bytes);
        end <= cells.base_bytes() && !cells.is_dirty_in(first, end)
    };
    let mut parts = Vec::new();
    let mut first = 0;
    while first < bytes {
        let clean = is_clean(first);
        let mut end = first;
        while end < bytes && is_clean(end) == clean {
            end = (end + cell_bytes).min(bytes);
        }
        // What is smaller than a part may be copied as the last one, older pages say; sending it is surely right.
        if clean && end - first >= PART_BYTES_MIN {
            copies(&mut parts, first, end, cell_bytes);
        } else {
            sends(&mut parts, first, end, cell_bytes);
        }
        first = end;
    }
    parts
}

/// Parts that make the beginning of an object that is still growing, from `from` on (where part `next` begins)
/// to less than one part before `end`: full ones only, which sizes that rise let reach the largest file. `from` = 0:
/// the base comes first, copied. Empty where there is no number left for one of them, or not enough for a part.
pub(super) fn beginning(
    cells: &Cells,
    sizes: PartSizes,
    from: u64,
    end: u64,
    mut next: Option<PartNumber>,
) -> Vec<(PartNumber, Part)> {
    let mut parts = Vec::new();
    let mut at = from;
    if from == 0 {
        at = cells.base_bytes() / PART_BYTES_MIN * PART_BYTES_MIN;
        copies(&mut parts, 0, at, PART_BYTES_MIN);
    }
    let mut numbered = Vec::new();
    for part in parts {
        let Some(number) = next else { return Vec::new() };
        numbered.push((number, part));
        next = number.next();
    }
    // The last number is for what comes at the end.
    while let Some(number) = next.filter(|number| number.get() < PARTS_MAX) {
        let length = sizes.bytes(number.get());
        if at + length > end {
            break;
        }
        numbered.push((number, Part::Send { first: at, length }));
        at += length;
        next = number.next();
    }
    numbered
}

/// Bytes of a cell: whole blocks.
fn cell_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(u64::from(PARTS_MAX)).next_multiple_of(BLOCK_BYTES).max(PART_BYTES_MIN)
}

/// Copies of like size, each of whole cells.
fn copies(parts: &mut Vec<Part>, first: u64, end: u64, cell_bytes: u64) {
    let most = (COPY_BYTES_MAX / cell_bytes).max(1) * cell_bytes;
    let pieces = (end - first).div_ceil(most.min(PUT_BYTES_MAX / cell_bytes * cell_bytes)).max(1);
    let length = (end - first).div_ceil(pieces).next_multiple_of(cell_bytes);
    cut(first, end, length, |first, length| {
        // Only the last of all can be smaller than a cell; it is then the end of the object.
        let is_part = length >= PART_BYTES_MIN;
        parts.push(if is_part { Part::Copy { first, length } } else { Part::Send { first, length } });
    });
}

fn sends(parts: &mut Vec<Part>, first: u64, end: u64, cell_bytes: u64) {
    let length = (SEND_BYTES / cell_bytes).max(1) * cell_bytes;
    cut(first, end, length, |first, length| parts.push(Part::Send { first, length }));
}

fn cut(mut first: u64, end: u64, length: u64, mut each: impl FnMut(u64, u64)) {
    while first < end {
        let now = length.min(end - first);
        each(first, now);
        first += now;
    }
}

/// A part that is sent, where cells are no larger: several travel at a time, and one retry is not dear.
const SEND_BYTES: u64 = 4 << 20;
/// A part that is copied, where 10,000 reach: COS copies some 100 MB/s at a time, several in parallel.
const COPY_BYTES_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::budget::Budget, *};

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn check(cells: &Cells, bytes: u64) -> Vec<Part> {
        let parts = parts(cells, bytes);
        assert!(parts.len() <= usize::from(PARTS_MAX), "{} parts of {bytes} bytes", parts.len());
        let mut at = 0;
        for (place, part) in parts.iter().enumerate() {
            assert_eq!(part.first(), at, "parts follow each other");
            let is_last = place + 1 == parts.len();
            assert!(part.length() > 0 && part.length() <= PUT_BYTES_MAX);
            assert!(is_last || part.length() >= PART_BYTES_MIN, "{part:?} of {bytes}");
            at += part.length();
            match *part {
                Part::Copy { first, length } => {
                    assert!(length >= PART_BYTES_MIN);
                    assert!(first + length <= cells.base_bytes());
                    assert!(!cells.is_dirty_in(first, first + length));
                }
                Part::Send { length, .. } => assert!(length <= SEND_BYTES.max(cell_bytes(bytes))),
            }
        }
        assert_eq!(at, bytes);
        parts
    }

    /// A file over a base, with a few bytes written here and there.
    fn cells(base: u64, bytes: u64, writes: &[u64]) -> Cells {
        let budget = Budget::new(64 << 20, 1);
        let mut cells = Cells::over_base(base);
        cells.resize(bytes);
        for at in writes.iter().filter(|at| **at < bytes) {
            let mut room = budget.try_blocks(0, cells.blocks_missing(*at, 1), false).unwrap();
            cells.write(*at, b"x", &mut room);
        }
        cells
    }

    #[test]
    fn parts_hold_at_every_boundary() {
        let edges = [
            0,
            1,
            MIB - 1,
            MIB,
            MIB + 1,
            SEND_BYTES,
            SEND_BYTES + 1,
            256 * MIB,
            256 * MIB + 1,
            5 * GIB - 1,
            5 * GIB,
            5 * GIB + 1,
            9_999 * MIB,
            10_000 * MIB,
            10_000 * MIB + 1,
            200 * GIB,
            50_000 * GIB,
        ];
        for bytes in edges {
            for base in edges.into_iter().chain([bytes / 2]) {
                for writes in [&[][..], &[0], &[MIB], &[bytes / 2], &[bytes.saturating_sub(1)]] {
                    check(&cells(base, bytes, writes), bytes);
                }
            }
        }
        assert!(parts(&cells(0, 0, &[]), 0).is_empty());
    }

    #[test]
    fn one_changed_byte_sends_one_cell() {
        let bytes = 100 * MIB + 5;
        let parts = check(&cells(bytes, bytes, &[50 * MIB]), bytes);
        assert_eq!(
            parts,
            [
                Part::Copy { first: 0, length: 50 * MIB },
                Part::Send { first: 50 * MIB, length: MIB },
                Part::Copy { first: 51 * MIB, length: 49 * MIB + 5 },
            ]
        );
    }

    #[test]
    fn what_is_appended_is_all_that_travels_but_for_one_cell() {
        let parts = check(&cells(100 * MIB + 5, 101 * MIB, &[100 * MIB + 5]), 101 * MIB);
        assert_eq!(
            parts,
            [Part::Copy { first: 0, length: 100 * MIB }, Part::Send { first: 100 * MIB, length: MIB }]
        );
    }

    #[test]
    fn the_beginning_of_a_growing_file_leaves_a_number_for_its_end() {
        let sizes = PartSizes::new(12 << 20, 1 << 20);
        let cells = cells(3 * MIB + 9, 20_000 * MIB, &[3 * MIB + 9]);
        let begun = beginning(&cells, sizes, 0, 20_000 * MIB, Some(PartNumber::FIRST));
        assert_eq!(begun[0].1, Part::Copy { first: 0, length: 3 * MIB });
        assert_eq!(begun[1].1.first(), 3 * MIB);
        assert_eq!(begun.last().unwrap().0.get(), PARTS_MAX - 1);
        let next = begun.last().unwrap().0.next();
        let from = begun.last().map(|(_, part)| part.first() + part.length()).unwrap();
        assert!(beginning(&cells, sizes, from, 20_000 * MIB, next).is_empty());
        let short = beginning(&cells, sizes, 4 * MIB, 5 * MIB - 1, PartNumber::new(7));
        assert!(short.is_empty());
    }

    proptest! {
        #[test]
        fn parts_hold_for_any_file(
            base in 0..3 * 10_000 * MIB, bytes in 1..3 * 10_000 * MIB,
            writes in prop::collection::vec(0..3 * 10_000 * MIB, 0..20),
        ) {
            check(&cells(base, bytes, &writes), bytes);
        }
    }
}
