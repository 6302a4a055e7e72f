//! The one memory budget: 64 KiB blocks, who waits, who yields, who may always grow.
//!
//! ```text
//! writers ── try_take, wait ──┐                    ┌── slabs: the memory, kept warm
//! readers ── try_take, take ──┼──> used <= total ──┤
//! tables ─── count_anyway ────┘   (+ SLACK_BLOCKS) └── waiters: under way, then fresh, then readers
//! ```
//!
//! Nothing is written to disk, so whoever has no memory waits; and what waits must never wait for ever:
//!
//! - Writers wait in turn. Those in the middle of a part that is too small to be sent come first (they can
//!   set memory free soon), then those about to begin one, or to go on with one that could be sent as it is;
//!   within the former, who lacks least comes first, else first come, first served. The last quarter of the budget is for the former alone, and no more
//!   parts are begun than could be half sendable together: else hundreds that trickle would each begin a part,
//!   and none could end it.
//! - Somebody waits: `Budget::pressed` is true, and writers send what can stand as a part, full or not,
//!   as long as upload requests are idle (`write/mod.rs`). Readers are told to give back what they cache, and get nothing new.
//! - Nothing is on its way to COS either, so no memory will come back by itself: some that wait,
//!   [`RIGHTS_MAX`] at most, may grow to a sendable part beyond the budget. Those under way first, who lacks
//!   least (it sets more free than it takes: were it the oldest, one that begins a part would take all that
//!   it sets free, and the others stay where they are); then the oldest. That is the only way past the
//!   budget, and it is bounded by [`SLACK_BLOCKS`].
//!
//! A [`Block`] is counted from its first byte until the last request that carries it has let go of it,
//! whoever holds it. The memory itself is that of [`Slabs`], which go from hand to hand and never exceed the
//! total by more than what is in the middle of being handed over.
//!
//! Lock order: the lock in here is a leaf. Nothing is called under it; waiters are woken through channels.

mod census;
mod connections;
mod holding;
mod slabs;

use std::{
    cmp::Reverse,
    collections::{HashSet, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::{config::BLOCK_BYTES, cos::PART_BYTES_MIN};
use census::Census;
pub(super) use census::Presence;
pub(super) use connections::Connection;
use connections::Connections;
use holding::Holder;
pub(super) use holding::{Block, Piece, Right, Seat, Transit};
pub use holding::{Reclaimer, Room};
use slabs::{Memory, Slabs};

/// Bytes of a block.
pub(super) const BLOCK: usize = 64 << 10;
const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);
/// Blocks of the smallest sendable part, 1 MiB (COS, *Specifications and Limits*).
pub(super) const SENDABLE_BLOCKS: usize = (1 << 20) / BLOCK;
/// Most blocks that one write asks for: 1 MiB that begins in the middle of a block.
pub(super) const WRITE_BLOCKS_MAX: usize = SENDABLE_BLOCKS + 1;
/// Writers that may grow beyond the budget at a time.
const RIGHTS_MAX: usize = 4;
/// How far all of them together may, 8 MiB: each holds less than a sendable part, and asks for one write.
pub(super) const SLACK_BLOCKS: usize = RIGHTS_MAX * (SENDABLE_BLOCKS + WRITE_BLOCKS_MAX);
/// Share of the budget, in quarters, that readers may hold, and up to which parts may be begun: one that has
/// begun finds some room to become sendable.
const QUARTERS: usize = 3;
/// What readers share in equal parts; the rest of their three quarters is for what none of them can wait for.
const READERS_SHARE: (u64, u64) = (5, 8);

/// The memory of all mounts.
pub struct Budget {
    total: usize,
    /// Upload requests that can be in flight: while fewer are, somebody who waits is helped by sending early.
    requests_max: usize,
    state: Mutex<State>,
    pressed: AtomicBool,
    in_transit: AtomicUsize,
    /// Told when somebody begins to wait, and while somebody does, each time an upload request or a right ends.
    pressure: Notify,
    reclaimers: Mutex<Vec<(u64, Reclaim)>>,
    census: Census,
    connections: Connections,
}

/// Gives back memory that can be had again, up to so many bytes. Called without locks; must not block.
type Reclaim = Arc<dyn Fn(u64) + Send + Sync>;

#[derive(Default)]
struct State {
    used: usize,
    used_by_readers: usize,
    used_most: usize,
    /// Parts begun and not yet sendable.
    seats: usize,
    /// Of memory that is not in slabs.
    used_elsewhere: usize,
    slabs: Slabs,
    under_way: VecDeque<Waiter>,
    fresh: VecDeque<Waiter>,
    readers: VecDeque<Waiter>,
    rights: HashSet<u64>,
    reclaimer_last: u64,
}

struct Waiter {
    /// Age of the writer: lower is older; `None` for a reader.
    writer: Option<u64>,
    blocks: usize,
    /// Bytes in its part.
    held: u64,
    /// It begins a part, and needs a seat.
    begins: bool,
    granted: oneshot::Sender<Grant>,
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Ticket {
    receiver: oneshot::Receiver<Grant>,
    budget: Arc<Budget>,
}

/// What a waiter is given.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) room: Room,
    /// The right to grow beyond the budget; to be held until the part leaves.
    pub(super) right: Option<Right>,
}

impl Budget {
    /// A budget of `bytes` (2 MiB at least, so that the largest write finds room), of which upload requests,
    /// `requests_max` at a time, set memory free.
    pub fn new(bytes: u64, requests_max: usize) -> Arc<Self> {
        let total =
            usize::try_from(bytes / BLOCK_BYTES).unwrap_or(usize::MAX / BLOCK).max(2 * SENDABLE_BLOCKS);
        Arc::new(Self {
            total,
            requests_max: requests_max.max(1),
            state: Mutex::default(),
            pressed: AtomicBool::new(false),
            in_transit: AtomicUsize::new(0),
            pressure: Notify::new(),
            reclaimers: Mutex::default(),
            census: Census::new(),
            connections: Connections::new(total),
        })
    }

    /// The whole budget in bytes.
    pub fn bytes(&self) -> u64 {
        (self.total * BLOCK) as u64
    }

    /// Bytes in use now.
    pub fn used_bytes(&self) -> u64 {
        (self.state.lock().used * BLOCK) as u64
    }

    /// Most bytes that were in use at a time.
    pub fn used_bytes_most(&self) -> u64 {
        (self.state.lock().used_most * BLOCK) as u64
    }

    /// How far beyond [`Self::bytes`] writers may get, in bytes.
    pub fn slack_bytes(&self) -> u64 {
        (SLACK_BLOCKS * BLOCK) as u64
    }

    /// Memory for a reader (read-ahead, cached blocks), rounded up to blocks, if there is some to spare:
    /// never while somebody waits. What is cached must be given back when a reclaimer asks for it.
    pub fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        let blocks = self.reader_blocks(bytes);
        let mut state = self.state.lock();
        let fits = state.idle() && state.readers.is_empty() && self.fits_reader(&state, blocks);
        fits.then(|| self.room(&mut state, blocks, Holder::Reader))
    }

    /// What a reader that reads now may hold of what readers may, if all who do so hold as much.
    pub(super) fn share_of(&self, reader: &Presence) -> u64 {
        let (times, of) = READERS_SHARE;
        self.bytes() / of * times / self.census.count(reader)
    }

    /// Whether a reader has read lately.
    pub(super) fn is_present(&self, reader: &Presence) -> bool {
        self.census.is_present(reader)
    }

    /// Memory for a reader, after all who wait for memory now. At most three quarters of the budget are
    /// given, whatever was asked for. A reader that holds room while it waits for more may wait for ever:
    /// take what a request needs in one piece, and let the smallest read of all use [`Self::take_anyway`].
    pub async fn take(self: &Arc<Self>, bytes: u64) -> Room {
        let blocks = self.reader_blocks(bytes);
        let ticket = {
            let mut state = self.state.lock();
            if state.idle() && state.readers.is_empty() && self.fits_reader(&state, blocks) {
                return self.room(&mut state, blocks, Holder::Reader);
            }
            let (granted, receiver) = oneshot::channel();
            state.readers.push_back(Waiter { writer: None, blocks, held: 0, begins: false, granted });
            Ticket { receiver, budget: Arc::clone(self) }
        };
        ticket.granted().await.room
    }

    /// Memory for a reader who cannot wait: one minimal read, beyond the budget if need be, and given back behind it.
    pub fn take_anyway(self: &Arc<Self>, bytes: u64) -> Room {
        let mut room = self.room(&mut self.state.lock(), blocks_of(bytes), Holder::Reader);
        room.beyond = true;
        room
    }

    /// Counts memory that is there already (tables), beyond the budget if need be.
    pub fn count_anyway(self: &Arc<Self>, bytes: u64) -> Room {
        self.room(&mut self.state.lock(), blocks_of(bytes), Holder::Other)
    }

    /// Memory for bytes that are read, of a room that was taken for them: `bytes` in one run, or less where only
    /// less is left in one run.
    pub(super) fn piece(self: &Arc<Self>, bytes: usize) -> Piece {
        let mut state = self.state.lock();
        let slabs_max = self.slabs_max(&state);
        let memory = state.slabs.run(bytes.div_ceil(BLOCK), slabs_max);
        Piece::new(memory, 0, Arc::clone(self))
    }

    /// Has `reclaim` called, with the number of bytes wanted, whenever a writer waits: it gives back what is
    /// cached by dropping [`Room`]s. It runs in a task of its own and must not block.
    pub fn on_pressure(self: &Arc<Self>, reclaim: impl Fn(u64) + Send + Sync + 'static) -> Reclaimer {
        let number = {
            let mut state = self.state.lock();
            state.reclaimer_last += 1;
            state.reclaimer_last
        };
        self.reclaimers.lock().push((number, Arc::new(reclaim)));
        Reclaimer { budget: Arc::clone(self), number }
    }

    /// Blocks for a writer whose part holds `held` bytes, if nobody has to wait for them. `begins`: they begin
    /// a part, and come with a seat.
    pub(super) fn try_blocks(self: &Arc<Self>, held: u64, blocks: usize, begins: bool) -> Option<Room> {
        let most = self.writers_most(is_under_way(held));
        let mut state = self.state.lock();
        let fits =
            state.idle() && state.used + blocks <= most && !(begins && state.seats >= self.seats_max());
        fits.then(|| {
            let room = self.room(&mut state, blocks, Holder::Writer);
            state.seated(room, begins)
        })
    }

    /// Room for nothing, for a write that fits into the block already there.
    pub(super) fn no_room(self: &Arc<Self>) -> Room {
        Room { budget: Arc::clone(self), blocks: 0, holder: Holder::Writer, seated: false, beyond: false }
    }

    /// Queues a writer whose part holds `held` bytes for `blocks` more ([`WRITE_BLOCKS_MAX`] at most).
    pub(super) fn wait(self: &Arc<Self>, writer: u64, held: u64, blocks: usize, begins: bool) -> Ticket {
        debug_assert!(blocks <= WRITE_BLOCKS_MAX);
        let (granted, receiver) = oneshot::channel();
        let waiter = Waiter { writer: Some(writer), blocks, held, begins, granted };
        let mut state = self.state.lock();
        if is_under_way(held) {
            state.under_way.push_back(waiter)
        } else {
            state.fresh.push_back(waiter)
        }
        self.serve(&mut state);
        drop(state);
        // Nothing is on its way: memory may never come back by itself.
        if self.is_pressed() && self.in_transit.load(Ordering::Relaxed) == 0 {
            self.pressure.notify_one();
        }
        Ticket { receiver, budget: Arc::clone(self) }
    }

    /// Whether a writer waits.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// Whether sending early helps: a writer waits, and upload requests are idle.
    pub(super) fn wants_parts(&self) -> bool {
        self.is_pressed() && self.in_transit.load(Ordering::Relaxed) < self.requests_max
    }

    /// Begins a request that carries blocks. To be dropped after them.
    pub(super) fn transit(self: &Arc<Self>) -> Transit {
        self.in_transit.fetch_add(1, Ordering::Relaxed);
        Transit { budget: Arc::clone(self) }
    }

    /// Waits until somebody who waits may be helped; then asks readers for what writers lack.
    pub(super) async fn pressed(&self) {
        self.pressure.notified().await;
        let wanted = {
            let state = self.state.lock();
            let wanted: usize = state.writers_waiting().map(|waiter| waiter.blocks).sum();
            (state.used + wanted).saturating_sub(self.writers_most(false)) * BLOCK
        };
        let reclaimers: Vec<_> =
            self.reclaimers.lock().iter().map(|(_, reclaim)| Arc::clone(reclaim)).collect();
        for reclaim in reclaimers {
            if wanted > 0 {
                reclaim(wanted as u64);
            }
        }
    }

    /// Readers have given back and parts were sent early, and still nothing is on its way: some that wait may
    /// grow beyond the budget, each until its part can be sent.
    pub(super) fn let_some_grow(self: &Arc<Self>) {
        let mut state = self.state.lock();
        self.serve(&mut state);
        while self.in_transit.load(Ordering::Relaxed) == 0
            && let Some((writer, waiter)) = state.next_that_may_grow()
        {
            let room = self.room(&mut state, waiter.blocks, Holder::Writer);
            let room = state.seated(room, waiter.begins);
            // One who has the right already holds it until its part leaves.
            let right =
                state.rights.insert(writer).then(|| Right { budget: Arc::clone(self), writer, void: false });
            grant(&mut state, waiter.granted, Grant { room, right });
        }
        self.serve(&mut state);
    }

    /// Most parts that are begun and not yet sendable: on average, each may hold half of what it needs.
    fn seats_max(&self) -> usize {
        2 * self.total / SENDABLE_BLOCKS
    }

    /// How far writers may fill the budget.
    fn writers_most(&self, under_way: bool) -> usize {
        if under_way { self.total } else { self.total * QUARTERS / 4 }
    }

    fn reader_blocks(&self, bytes: u64) -> usize {
        blocks_of(bytes).min(self.total * QUARTERS / 4)
    }

    fn fits_reader(&self, state: &State, blocks: usize) -> bool {
        state.used + blocks <= self.total && state.used_by_readers + blocks <= self.total * QUARTERS / 4
    }

    fn room(self: &Arc<Self>, state: &mut State, blocks: usize, holder: Holder) -> Room {
        state.used += blocks;
        state.used_most = state.used_most.max(state.used);
        match holder {
            Holder::Writer => {}
            Holder::Reader => state.used_by_readers += blocks,
            Holder::Other => {
                state.used_elsewhere += blocks;
                // What is kept warm makes way for it.
                let slabs_max = self.slabs_max(state);
                state.slabs.shrink(slabs_max);
            }
        }
        Room { budget: Arc::clone(self), blocks, holder, seated: false, beyond: false }
    }

    /// Slabs that there is room for.
    fn slabs_max(&self, state: &State) -> usize {
        self.total.saturating_sub(state.used_elsewhere) / SENDABLE_BLOCKS
    }

    /// Gives what there is to those who wait, in their order.
    fn serve(self: &Arc<Self>, state: &mut State) {
        let fits = |state: &State, waiter: &Waiter| match waiter.writer {
            Some(_) => {
                state.used + waiter.blocks <= self.writers_most(!state.under_way.is_empty())
                    && !(waiter.begins && state.seats >= self.seats_max())
            }
            None => self.fits_reader(state, waiter.blocks),
        };
        while let Some(waiter) = state.next_waiter(fits) {
            let holder = if waiter.writer.is_some() { Holder::Writer } else { Holder::Reader };
            let room = self.room(state, waiter.blocks, holder);
            let room = state.seated(room, waiter.begins);
            grant(state, waiter.granted, Grant { room, right: None });
        }
        let pressed = !state.idle();
        if self.pressed.swap(pressed, Ordering::Relaxed) != pressed && pressed {
            self.pressure.notify_one();
        }
    }

    /// `blocks` that were counted, and the memory of as many or fewer.
    fn give_back(self: &Arc<Self>, blocks: usize, holder: Holder, memory: Option<Memory>) {
        let mut state = self.state.lock();
        state.count_back(blocks, holder);
        if let Some(memory) = memory {
            let slabs_max = self.slabs_max(&state);
            state.slabs.give_back(memory, slabs_max);
        }
        if !state.is_quiet() {
            self.serve(&mut state);
        }
    }
}

impl State {
    fn writers_waiting(&self) -> impl Iterator<Item = &Waiter> {
        self.under_way.iter().chain(&self.fresh)
    }

    /// Whether no writer waits.
    fn idle(&self) -> bool {
        self.under_way.is_empty() && self.fresh.is_empty()
    }

    /// Whether nobody waits at all.
    fn is_quiet(&self) -> bool {
        self.idle() && self.readers.is_empty()
    }

    /// Takes out the one whose turn it is, if `fits` lets it; those who have left are skipped.
    fn next_waiter(&mut self, fits: impl Fn(&Self, &Waiter) -> bool) -> Option<Waiter> {
        self.under_way.retain(|waiter| !waiter.granted.is_closed());
        for queue in [&mut self.fresh, &mut self.readers] {
            while queue.front().is_some_and(|waiter| waiter.granted.is_closed()) {
                queue.pop_front();
            }
        }
        // Who lacks least, lest all stop halfway; of like ones, who came first.
        let nearest = (0..self.under_way.len()).rev().max_by_key(|place| self.under_way[*place].held);
        let next = match nearest {
            Some(place) => &self.under_way[place],
            None => self.fresh.front().or(self.readers.front())?,
        };
        if !fits(self, next) {
            return None;
        }
        match nearest {
            Some(place) => self.under_way.remove(place),
            None => self.fresh.pop_front().or_else(|| self.readers.pop_front()),
        }
    }

    /// Takes out the next writer that has the right to grow, or may be given it: under way, who lacks least;
    /// then the oldest. None that could be sent as it is: it sets memory free by itself.
    fn next_that_may_grow(&mut self) -> Option<(u64, Waiter)> {
        let full = self.rights.len() >= RIGHTS_MAX;
        let may = |waiter: &Waiter| {
            let writer = waiter.writer.filter(|writer| !full || self.rights.contains(writer))?;
            (waiter.held < PART_BYTES_MIN && !waiter.granted.is_closed()).then_some(writer)
        };
        let place_of = |queue: &VecDeque<Waiter>| {
            let able =
                queue.iter().enumerate().filter_map(|(place, waiter)| Some((place, waiter, may(waiter)?)));
            able.max_by_key(|(_, waiter, writer)| (waiter.held, Reverse(*writer)))
                .map(|(place, _, writer)| (place, writer))
        };
        if let Some((place, writer)) = place_of(&self.under_way) {
            return self.under_way.remove(place).map(|waiter| (writer, waiter));
        }
        let (place, writer) = place_of(&self.fresh)?;
        self.fresh.remove(place).map(|waiter| (writer, waiter))
    }

    /// Takes a seat for one who begins a part.
    fn seated(&mut self, mut room: Room, begins: bool) -> Room {
        self.seats += usize::from(begins);
        room.seated = begins;
        room
    }

    fn count_back(&mut self, blocks: usize, holder: Holder) {
        self.used -= blocks;
        match holder {
            Holder::Writer => {}
            Holder::Reader => self.used_by_readers -= blocks,
            Holder::Other => self.used_elsewhere -= blocks,
        }
    }
}

/// Hands over what was granted. Where the waiter has left meanwhile it is undone by hand: dropping it would
/// take the lock that is held here.
fn grant(state: &mut State, granted: oneshot::Sender<Grant>, grant: Grant) {
    if let Err(mut grant) = granted.send(grant) {
        state.count_back(std::mem::take(&mut grant.room.blocks), grant.room.holder);
        state.seats -= usize::from(std::mem::take(&mut grant.room.seated));
        if let Some(mut right) = grant.right.take() {
            state.rights.remove(&right.writer);
            right.void = true;
        }
    }
}

impl Ticket {
    /// Waits for one's turn.
    pub(super) async fn granted(mut self) -> Grant {
        (&mut self.receiver).await.expect("a waiter leaves the queue by a grant, or with its ticket")
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.receiver.close();
        // Those behind it move up.
        self.budget.serve(&mut self.budget.state.lock());
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Budget")
            .field("blocks", &self.total)
            .field("used", &state.used)
            .field("slabs", &state.slabs)
            .field("waiting", &state.writers_waiting().count())
            .field("seats", &state.seats)
            .field("rights", &state.rights.len())
            .field("in_transit", &self.in_transit)
            .finish_non_exhaustive()
    }
}

/// Whether a part has begun and cannot be sent yet.
fn is_under_way(held: u64) -> bool {
    held > 0 && held < PART_BYTES_MIN
}

fn blocks_of(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX / BLOCK)
}
