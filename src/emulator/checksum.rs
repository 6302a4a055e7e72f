//! Combines CRC-64s of parts into that of the whole (*CRC64 Check*), by arithmetic of our own: the client
//! combines too, and a mistake made twice would cancel out.
//!
//! A CRC is a remainder of polynomials over GF(2). Behind `n` more bytes the first one has been multiplied
//! by x^(8n); that power is found by squaring, and kept, because parts mostly have one length.

/// ECMA-182, reflected: bit 63 is x^0.
const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
const ONE: u64 = 1 << 63;
/// x^8, a byte further.
const BYTE: u64 = ONE >> 8;

/// The checksum of pieces that come one after the other.
#[derive(Debug, Default)]
pub(super) struct Combined {
    crc64: u64,
    /// The last length, and what it multiplies by.
    last: Option<(u64, u64)>,
}

impl Combined {
    /// Of what begins with bytes of that checksum.
    pub(super) fn from(crc64: u64) -> Self {
        Self { crc64, last: None }
    }

    /// So many bytes of that checksum follow.
    pub(super) fn push(&mut self, crc64: u64, bytes: u64) {
        let factor = match self.last {
            Some((length, factor)) if length == bytes => factor,
            _ => power(bytes),
        };
        self.last = Some((bytes, factor));
        self.crc64 = product(self.crc64, factor) ^ crc64;
    }

    pub(super) fn crc64(&self) -> u64 {
        self.crc64
    }
}

/// x^(8 * bytes) modulo the polynomial.
fn power(bytes: u64) -> u64 {
    let (mut power, mut square, mut left) = (ONE, BYTE, bytes);
    while left > 0 {
        if left & 1 == 1 {
            power = product(power, square);
        }
        square = product(square, square);
        left >>= 1;
    }
    power
}

fn product(a: u64, b: u64) -> u64 {
    let (mut product, mut shifted) = (0, b);
    for bit in (0..64).rev() {
        if a >> bit & 1 == 1 {
            product ^= shifted;
        }
        shifted = if shifted & 1 == 1 { shifted >> 1 ^ POLYNOMIAL } else { shifted >> 1 };
    }
    product
}

#[cfg(test)]
mod tests {
    use crc_fast::{CrcAlgorithm, checksum};

    use super::*;

    #[test]
    fn combined_checksum_is_that_of_the_whole() {
        let mut random = fastrand::Rng::with_seed(1);
        let bytes: Vec<u8> = (0..100_000).map(|_| random.u8(..)).collect();
        let whole = checksum(CrcAlgorithm::Crc64Xz, &bytes);
        for length in [1, 7, 1000, 4096, 65_537, 100_000] {
            let mut combined = Combined::default();
            for piece in bytes.chunks(length) {
                combined.push(checksum(CrcAlgorithm::Crc64Xz, piece), piece.len() as u64);
            }
            combined.push(0, 0);
            assert_eq!(combined.crc64(), whole, "pieces of {length}");
        }
        let mut combined = Combined::from(checksum(CrcAlgorithm::Crc64Xz, b"1234"));
        combined.push(checksum(CrcAlgorithm::Crc64Xz, b"56789"), 5);
        assert_eq!(combined.crc64(), 11_051_210_869_376_104_954);
    }
}
