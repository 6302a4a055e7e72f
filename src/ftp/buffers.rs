//! Memory for bytes on their way between a socket and a file.
//!
//! Large pieces are what makes a transfer cheap, but a thousand stalled clients must not hold a thousand
//! large pieces. So there is a fixed number of large buffers for all sessions, lent for one piece at a time
//! and only while bytes are there; whoever finds none left works with a small one of its own. Nobody ever
//! waits for a buffer, so nobody can wait for somebody who waits for memory of the mount.

use std::sync::Arc;

use parking_lot::Mutex;

/// A large buffer: what one WRITE or READ of the mount carries (`max_write` = 1 MiB).
pub(super) const LARGE_BYTES: usize = 1024 * 1024;
/// A small one: two of them, one to be read into and one to be sent, and an idle session's 27 KiB stay below the
/// 64 KiB that a session may cost.
pub(super) const SMALL_BYTES: usize = 16 * 1024;
/// Large buffers of all sessions: 20 MiB, a fifth of what the front may take beside `memory_limit`.
const LARGE_COUNT: usize = 20;
/// Those that stay when nobody needs them.
const KEPT_COUNT: usize = 4;
/// A write of 1 MiB from an unaligned address reaches FUSE as 1,048,528 bytes and a rest.
const PAGE_BYTES: usize = 4096;

/// The buffers of all sessions.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Box<[u8]>>,
    lent: usize,
}

impl Buffers {
    /// A large buffer if one is left, else a small one.
    pub(super) fn take(self: &Arc<Self>) -> Piece {
        let lent = {
            let mut shelf = self.shelf.lock();
            if shelf.lent < LARGE_COUNT {
                shelf.lent += 1;
                Some(shelf.free.pop())
            } else {
                None
            }
        };
        match lent {
            Some(memory) => {
                let memory = memory.unwrap_or_else(|| vec![0; LARGE_BYTES + PAGE_BYTES].into());
                let origin = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
                Piece::new(memory, origin, LARGE_BYTES, Some(self.clone()))
            }
            None => Self::take_small(),
        }
    }

    /// A small buffer of one's own.
    pub(super) fn take_small() -> Piece {
        Piece::new(vec![0; SMALL_BYTES].into(), 0, SMALL_BYTES, None)
    }

    fn put_back(&self, memory: Box<[u8]>) {
        let mut shelf = self.shelf.lock();
        shelf.lent -= 1;
        shelf.free.push(memory);
        if shelf.lent == 0 {
            shelf.free.truncate(KEPT_COUNT);
        }
    }
}

/// A buffer and the bytes in it: filled at its end, emptied from its start.
#[derive(Debug)]
pub(super) struct Piece {
    memory: Box<[u8]>,
    /// Where the first whole page begins, in a large one.
    origin: usize,
    room: usize,
    start: usize,
    end: usize,
    home: Option<Arc<Buffers>>,
}

impl Piece {
    fn new(memory: Box<[u8]>, origin: usize, room: usize, home: Option<Arc<Buffers>>) -> Self {
        Self { memory, origin, room, start: 0, end: 0, home }
    }

    /// Bytes that are here and not yet taken.
    pub(super) fn filled(&self) -> &[u8] {
        &self.memory[self.origin + self.start..self.origin + self.end]
    }

    /// Room behind them.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        &mut self.memory[self.origin + self.end..self.origin + self.room]
    }

    /// `bytes` of the room have been filled.
    pub(super) fn fill(&mut self, bytes: usize) {
        self.end += bytes;
        debug_assert!(self.end <= self.room, "more than there was room for");
    }

    /// `bytes` of what was here have been taken.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.end, "more than there was");
    }

    /// As if new.
    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn is_full(&self) -> bool {
        self.end == self.room
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.put_back(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_run_out_and_come_back_aligned() {
        let buffers = Arc::new(Buffers::default());
        let mut pieces: Vec<Piece> = (0..LARGE_COUNT + 2).map(|_| buffers.take()).collect();
        let rooms: Vec<usize> = pieces.iter_mut().map(|piece| piece.spare().len()).collect();
        assert!(rooms[..LARGE_COUNT].iter().all(|&room| room == LARGE_BYTES));
        assert!(rooms[LARGE_COUNT..].iter().all(|&room| room == SMALL_BYTES));
        let is_aligned = |piece: &mut Piece| piece.spare().as_ptr().align_offset(PAGE_BYTES) == 0;
        assert!(pieces[..LARGE_COUNT].iter_mut().all(is_aligned));
        pieces.clear();
        assert_eq!(buffers.take().spare().len(), LARGE_BYTES);
        let shelf = buffers.shelf.lock();
        assert_eq!((shelf.lent, shelf.free.len()), (0, KEPT_COUNT));
    }

    #[test]
    fn a_piece_is_filled_and_consumed_in_order() {
        let mut piece = Arc::new(Buffers::default()).take();
        piece.spare()[..3].copy_from_slice(b"abc");
        piece.fill(3);
        piece.consume(1);
        assert_eq!(piece.filled(), b"bc");
        piece.consume(2);
        assert!(piece.is_empty() && !piece.is_full());
    }
}
