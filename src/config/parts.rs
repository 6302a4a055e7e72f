//! How large the parts of an upload are, and how large a file 10,000 of them can carry.
//!
//! ```text
//! part      1 ... 300           ... 600              ... 10,000
//! size      min_part_size, rising | memory_limit / 24 | memory_limit / 12
//! ```
//!
//! Small parts to begin with: the first leaves soon, and a file of common size travels in several at a time, whose
//! last ones end about together. They grow slowly, since what the last ones cost weighs the less the longer the file is.
//! Then parts of which eight travel while the ninth fills within 96 MiB, and whose transfer is long against a
//! round trip. Beyond 5 GiB what counts is how far 10,000 of them reach: 200 GiB with 256 MiB and 4 MiB to begin with.
//!
//! This is arithmetic alone, and stands in layer 0 because `single_file_max_size` is judged by it;
//! `vfs/write/part.rs` cuts parts by it.

use super::Limits;

/// Memory is handed out in blocks of this many bytes; parts are whole blocks, the last one excepted.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Most parts of an upload (COS, *Specifications and Limits*).
const PARTS_MAX: u16 = 10_000;
/// Smallest part in bytes, the last one excepted (COS, *Specifications and Limits*).
const PART_BYTES_MIN: u64 = 1 << 20;
/// Largest part in bytes (COS, *Specifications and Limits*).
const PART_BYTES_MAX: u64 = 5 << 30;
/// Largest object in bytes, 50,000 GB (COS, *Specifications and Limits*).
const OBJECT_BYTES_MAX: u64 = 50_000 << 30;
/// The part numbers at which half the largest size is reached, and behind which parts are of the largest size.
const HALF_FROM_PART: u64 = 300;
const HALF_TO_PART: u16 = 600;

/// The size of each part of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartSizes {
    first_bytes: u64,
    largest_bytes: u64,
}

impl PartSizes {
    /// Sizes for a memory limit and a size to begin with. Whatever the arguments, no part is below 1 MiB.
    pub fn new(memory_bytes: u64, min_part_bytes: u64) -> Self {
        let largest = largest_part_bytes(memory_bytes);
        let first = min_part_bytes.clamp(PART_BYTES_MIN, largest).next_multiple_of(BLOCK_BYTES).min(largest);
        Self { first_bytes: first, largest_bytes: largest }
    }

    /// Bytes of part `number`, counted from 1; whole blocks.
    pub fn bytes(self, number: u16) -> u64 {
        if number > HALF_TO_PART {
            return self.largest_bytes;
        }
        let half_bytes = (self.largest_bytes / 2).max(self.first_bytes);
        let step = (u64::from(number).max(1) - 1).min(HALF_FROM_PART - 1);
        let size = self.first_bytes + (half_bytes - self.first_bytes) * step / (HALF_FROM_PART - 1);
        size - size % BLOCK_BYTES
    }

    /// Bytes of the largest part.
    pub fn largest_bytes(self) -> u64 {
        self.largest_bytes
    }

    /// Bytes that all 10,000 parts carry.
    pub fn bytes_in_all(self) -> u64 {
        (1..=PARTS_MAX).map(|number| self.bytes(number)).sum()
    }
}

/// Bytes of the largest part within a memory limit: a twelfth of it in whole blocks, 1 MiB at least.
pub fn largest_part_bytes(memory_bytes: u64) -> u64 {
    let twelfth = memory_bytes / 12;
    (twelfth - twelfth % BLOCK_BYTES).clamp(PART_BYTES_MIN, PART_BYTES_MAX)
}

/// Bytes of the largest file that one upload can carry within `limits` (its `single_file_bytes_max` left aside).
pub fn largest_file_bytes(limits: &Limits) -> u64 {
    PartSizes::new(limits.memory_bytes, limits.min_part_bytes).bytes_in_all().min(OBJECT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::values::ByteSize, *};

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn default_limits_carry_200_gib() {
        let sizes = PartSizes::new(256 * MIB, 4 * MIB);
        assert_eq!(sizes.bytes(1), 4 * MIB);
        assert!(sizes.bytes_in_all() >= 200 * GIB, "{}", sizes.bytes_in_all());
        assert!(sizes.bytes_in_all() <= 256 * MIB / 12 * 10_000);
    }

    #[test]
    fn parts_of_the_largest_size_from_the_first_on_carry_208_gib_at_256_mib() {
        let sizes = PartSizes::new(256 * MIB, 256 * MIB / 12);
        assert!(sizes.bytes_in_all() >= 208 * GIB);
    }

    #[test]
    fn eight_parts_travel_while_the_ninth_fills_within_96_mib_for_five_gib() {
        let sizes = PartSizes::new(256 * MIB, 4 * MIB);
        let (mut sent, mut number) = (0, 1);
        while sent < 5 * GIB {
            assert!(9 * sizes.bytes(number) <= 96 * MIB, "part {number}");
            sent += sizes.bytes(number);
            number += 1;
        }
    }

    #[test]
    fn the_manual_tells_what_each_memory_limit_carries() {
        let manual =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md")).unwrap();
        let rows = manual.lines().skip_while(|line| !line.contains("| largest part |")).skip(2);
        let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 8);
        for row in rows {
            let memory = row.split('`').nth(1).unwrap();
            let ByteSize(bytes) = ByteSize::parse(memory).unwrap();
            let sizes = PartSizes::new(bytes, 4 * MIB);
            let tenths = sizes.largest_bytes() * 10 / MIB;
            let files = sizes.bytes_in_all() / GIB;
            assert_eq!(row, format!("| `{memory}` | {}.{} MiB | {files} GiB |", tenths / 10, tenths % 10));
        }
    }

    proptest! {
        #[test]
        fn parts_are_whole_blocks_of_1_mib_at_least_and_never_shrink(
            memory in 1_u64..1 << 44,
            min_part in 0_u64..8 << 30,
        ) {
            let sizes = PartSizes::new(memory, min_part);
            let largest = largest_part_bytes(memory);
            let mut before = 0;
            for number in 1..=PARTS_MAX {
                let bytes = sizes.bytes(number);
                prop_assert!((PART_BYTES_MIN..=PART_BYTES_MAX).contains(&bytes));
                prop_assert!(bytes.is_multiple_of(BLOCK_BYTES));
                prop_assert!(bytes >= before && bytes <= largest);
                before = bytes;
            }
            prop_assert_eq!(before, largest);
            // A size that was set is met by the first part, unless a twelfth of the memory is less.
            prop_assert!(sizes.bytes(1) >= min_part.min(largest));
            // What growing costs against parts of the largest size.
            prop_assert!(sizes.bytes_in_all() >= largest * 9_280);
        }
    }
}
