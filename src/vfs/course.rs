//! How a file is being read, and what is worth fetching beside what is asked for. Decides; no I/O.
//!
//! | reads | fetched |
//! |---|---|
//! | in order, at up to [`STREAMS_MAX`] places at a time | a window ahead that grows with what was read there |
//! | in order, backward | the same behind |
//! | of one length, in equal steps | the next ones, exactly |
//! | any other | what is asked for |
//!
//! The window is what was read in order times the number of reads it took, eight at most: who reads a record in
//! two pieces gets no MiB for it. A file that is read from its first byte is expected to be read on.
//! Requests of one reader may overtake each other; what they leave out for the moment is counted, so that
//! steps are not taken for disorder.

use std::ops::Range;

/// How far the window reaches beyond what was read in order so far, at most.
const GROWTH_MAX: u64 = 8;
/// Places of one file that are read in order at a time.
const STREAMS_MAX: usize = 4;
/// A place where so many reads of the handle did not go on is left.
const TURNS_MAX: u64 = 16;
/// Requests of one reader that come in order may arrive a little out of it.
const DISORDER_BYTES: u64 = 2 << 20;
/// The same as a multiple of one request: eight are under way at a time.
const DISORDER_READS: u64 = 8;
/// Equal steps before the next one is foreseen, and steps that are foreseen at most.
const STEPS_MIN: u32 = 2;
const STEPS_AHEAD_MAX: u64 = 16;
/// What is fetched for steps ahead, in all.
const STEPS_BYTES_MAX: u64 = 4 << 20;

/// What one read tells of those to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing.
    Jump,
    /// They go on up to this place at least, and so many bytes beyond are worth having.
    Forward { upto: u64, window_bytes: u64 },
    /// They go on down to this place at least, and so many bytes below are worth having.
    Backward { downto: u64, window_bytes: u64 },
    /// They come `by` bytes farther each, `count` of them are foreseen.
    Steps { by: i64, count: u64 },
}

/// Where a handle reads.
#[derive(Debug, Default)]
pub(super) struct Course {
    streams: Vec<Stream>,
    /// Reads so far.
    turn: u64,
    last: Range<u64>,
    step: i64,
    steps: u32,
}

/// A place where reading may go on in order.
#[derive(Debug)]
struct Stream {
    direction: Direction,
    /// What was read lies between these.
    first: u64,
    end: u64,
    /// Bytes read in order; 0: nothing but a jump to here.
    run_bytes: u64,
    reads: u64,
    /// Bytes left out between `first` and `end`.
    missing_bytes: u64,
    /// What was worth having beyond its last read.
    window_bytes: u64,
    /// When it was last gone on with.
    turn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    Forward,
    Backward,
}

impl Course {
    /// The handle reads `offset..end` now. Windows of all its places have `window_bytes_max` together.
    pub(super) fn follow(&mut self, offset: u64, end: u64, window_bytes_max: u64) -> Way {
        self.turn += 1;
        self.count_step(offset, end);
        let turn = self.turn;
        self.streams.retain(|stream| stream.turn + TURNS_MAX >= turn);
        let exactly = self.streams.iter().position(|stream| stream.goes_on_with(offset, end));
        let place = match exactly {
            None if self.steps >= STEPS_MIN => {
                let bytes = end - offset;
                let count =
                    (1 << (self.steps - 1).min(8)).min(STEPS_AHEAD_MAX).min(STEPS_BYTES_MAX / bytes.max(1));
                self.begin(offset, end);
                return Way::Steps { by: self.step, count };
            }
            // Three reads in equal steps are no disorder.
            None if self.steps > 0 => None,
            None => self.streams.iter().position(|stream| stream.is_near(offset, end)),
            Some(place) => Some(place),
        };
        let Some(place) = place else {
            self.begin(offset, end);
            // Whoever begins at the first byte will read on.
            return if offset == 0 && turn == 1 { self.outlook(0, window_bytes_max) } else { Way::Jump };
        };
        let stream = &mut self.streams[place];
        stream.turn = turn;
        stream.go_on(offset, end);
        self.outlook(place, window_bytes_max)
    }

    /// Whether what lies in `range` belongs to a place where reading goes on in order: in its window, up to
    /// `beyond_bytes` beyond it, or among the last `kept_bytes` that were read.
    pub(super) fn wants(&self, range: &Range<u64>, kept_bytes: u64, beyond_bytes: u64) -> bool {
        self.streams.iter().any(|stream| {
            let ahead_bytes = stream.window_bytes + beyond_bytes;
            let (behind, ahead) = match stream.direction {
                Direction::Open => return false,
                Direction::Forward => (kept_bytes, ahead_bytes),
                Direction::Backward => (ahead_bytes, kept_bytes),
            };
            let edge = if stream.direction == Direction::Forward { stream.end } else { stream.first };
            range.end > edge.saturating_sub(behind) && range.start < edge.saturating_add(ahead)
        })
    }

    /// Whether some of the last reads were jumps.
    pub(super) fn jumps(&self) -> bool {
        self.streams.iter().any(|stream| stream.direction == Direction::Open)
    }

    fn begin(&mut self, offset: u64, end: u64) {
        if self.streams.len() == STREAMS_MAX
            && let Some(stalest) = (0..STREAMS_MAX).min_by_key(|place| self.streams[*place].turn)
        {
            self.streams.remove(stalest);
        }
        let begins = offset == 0 && self.turn == 1;
        self.streams.push(Stream {
            direction: if begins { Direction::Forward } else { Direction::Open },
            first: offset,
            end,
            run_bytes: if begins { end } else { 0 },
            reads: if begins { GROWTH_MAX } else { 0 },
            missing_bytes: 0,
            window_bytes: 0,
            turn: self.turn,
        });
    }

    fn count_step(&mut self, offset: u64, end: u64) {
        let bytes = end - offset;
        let step = offset.cast_signed().wrapping_sub(self.last.start.cast_signed());
        let is_equal =
            self.last.end - self.last.start == bytes && step == self.step && step.unsigned_abs() > bytes;
        self.steps = if is_equal { self.steps.saturating_add(1) } else { 0 };
        self.step = step;
        self.last = offset..end;
    }

    fn outlook(&mut self, place: usize, window_bytes_max: u64) -> Way {
        let streams = self.streams.iter().filter(|stream| stream.run_bytes > 0).count() as u64;
        let stream = &mut self.streams[place];
        let window_bytes =
            (stream.run_bytes * stream.reads.min(GROWTH_MAX)).min(window_bytes_max / streams.max(1));
        stream.window_bytes = window_bytes;
        match stream.direction {
            Direction::Open => Way::Jump,
            Direction::Forward => Way::Forward { upto: stream.end, window_bytes },
            Direction::Backward => Way::Backward { downto: stream.first, window_bytes },
        }
    }
}

impl Stream {
    fn goes_on_with(&self, offset: u64, end: u64) -> bool {
        match self.direction {
            Direction::Open => offset == self.end || end == self.first,
            Direction::Forward => offset == self.end,
            Direction::Backward => end == self.first,
        }
    }

    /// Whether a read may be one of this place that was overtaken, or has overtaken others.
    fn is_near(&self, offset: u64, end: u64) -> bool {
        if self.direction != Direction::Forward {
            return false;
        }
        let ahead_bytes = offset.saturating_sub(self.end);
        let may_lead = self.missing_bytes + ahead_bytes <= DISORDER_BYTES;
        let is_behind = offset < self.end && offset + DISORDER_BYTES >= self.end && offset >= self.first;
        is_behind || (offset > self.end && may_lead && ahead_bytes <= DISORDER_READS * (end - offset))
    }

    fn go_on(&mut self, offset: u64, end: u64) {
        if self.direction == Direction::Open {
            self.direction = if offset == self.end { Direction::Forward } else { Direction::Backward };
        }
        self.run_bytes += end - offset;
        self.reads += 1;
        match self.direction {
            Direction::Backward => self.first = offset,
            Direction::Open | Direction::Forward => {
                let filled_bytes = end.min(self.end).saturating_sub(offset);
                self.missing_bytes =
                    self.missing_bytes.saturating_sub(filled_bytes) + offset.saturating_sub(self.end);
                self.end = self.end.max(end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 64 << 20;
    const KIB_64: u64 = 64 << 10;

    fn ways(reads: impl IntoIterator<Item = (u64, u64)>) -> Vec<Way> {
        let mut course = Course::default();
        reads.into_iter().map(|(offset, bytes)| course.follow(offset, offset + bytes, MAX)).collect()
    }

    fn window(way: Way) -> Option<u64> {
        match way {
            Way::Forward { window_bytes, .. } | Way::Backward { window_bytes, .. } => Some(window_bytes),
            Way::Jump | Way::Steps { .. } => None,
        }
    }

    #[test]
    fn reading_in_order_is_seen_although_requests_overtake_each_other() {
        let mut reads: Vec<_> = (0..8).map(|number| (number << 17, 1 << 17)).collect();
        reads.swap(2, 3);
        reads.swap(5, 7);
        let expected = Way::Forward { upto: 1 << 20, window_bytes: 8 << 20 };
        assert_eq!(*ways(reads).last().unwrap(), expected);
    }

    #[test]
    fn the_window_grows_from_the_first_read_to_the_most() {
        let from_the_start = ways((0..200).map(|number| (number * KIB_64, KIB_64)));
        assert_eq!(window(from_the_start[0]), Some(8 * KIB_64));
        assert_eq!(window(from_the_start[199]), Some(MAX));
        // Elsewhere it takes a few reads to be sure.
        let elsewhere: Vec<_> = ways((100..120).map(|number| (number * KIB_64, KIB_64)));
        let windows: Vec<_> = elsewhere[1..9].iter().map(|way| window(*way).unwrap() / KIB_64).collect();
        assert_eq!((elsewhere[0], windows), (Way::Jump, vec![1, 4, 9, 16, 25, 36, 49, 64]));
    }

    #[test]
    fn a_jump_begins_anew() {
        let jumped =
            ways([(0, KIB_64), (KIB_64, KIB_64), (100 << 20, KIB_64), ((100 << 20) + KIB_64, KIB_64)]);
        assert_eq!((jumped[2], window(jumped[3])), (Way::Jump, Some(KIB_64)));
    }

    #[test]
    fn two_places_are_read_in_order_and_share_the_window() {
        let reads = (0..400).map(|number| ((number % 2) * (1 << 30) + number / 2 * KIB_64, KIB_64));
        let ways = ways(reads);
        assert!(ways[2..].iter().all(|way| matches!(way, Way::Forward { .. })));
        assert_eq!((window(ways[398]), window(ways[399])), (Some(MAX / 2), Some(MAX / 2)));
    }

    #[test]
    fn backward_and_in_steps() {
        let backward = ways((0..50).rev().map(|number| (number * KIB_64, KIB_64)));
        assert_eq!(backward[0], Way::Jump);
        assert_eq!(backward[1], Way::Backward { downto: 48 * KIB_64, window_bytes: KIB_64 });
        assert_eq!(window(backward[20]), Some(8 * 20 * KIB_64));
        for step in [1_i64 << 20, 1 << 17, -(1 << 20)] {
            let steps =
                ways((1..20).map(|number| ((i64::from(number) * step + (1 << 30)).cast_unsigned(), KIB_64)));
            assert!(steps[..3].iter().all(|way| *way == Way::Jump), "{steps:?}");
            assert_eq!(steps[3], Way::Steps { by: step, count: 2 });
            assert_eq!(steps[18], Way::Steps { by: step, count: 16 });
        }
    }

    #[test]
    fn steps_are_not_taken_for_disorder() {
        // From the first byte on, where reading in order is expected.
        let mut course = Course::default();
        let ways: Vec<_> =
            (0..9).map(|number| course.follow(number << 18, (number << 18) + KIB_64, MAX)).collect();
        assert!(ways.iter().skip(3).all(|way| matches!(way, Way::Steps { .. })), "{ways:?}");
        // Nor is what lies about nearby.
        let mut random = fastrand::Rng::with_seed(3);
        let mut course = Course::default();
        let ways: Vec<_> = (0..1000)
            .map(|_| random.u64(1..8192) * 4096)
            .map(|offset| course.follow(offset, offset + 4096, MAX))
            .collect();
        let windows: u64 = ways.iter().filter_map(|way| window(*way)).sum();
        assert!(windows < 1000 * 4096 / 20, "{windows} bytes for nothing");
    }
}
