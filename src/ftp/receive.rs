//! An upload: from the client's data connection into an armed file, and the decision whether it is whole.
//!
//! ```text
//! wait until bytes are there        no thread, no memory
//! step: socket -> buffer -> file    a blocking thread, as long as the client keeps up
//! …until the data ends
//! prepare (bytes travel) ┐
//! settle (is it whole?)  ┘ at once
//! whole: commit -> Stored     broken: close without commit = discard
//! ```
//!
//! Plain FTP has no mark for the end of a file but the close of the data connection, and a killed client
//! closes just so. What tells the two apart is the control connection: a client that waits for its 226
//! keeps it open. The two FINs of a killed client do not come together, so the question is asked a moment
//! later; ALLO with the right size, or TLS's close_notify, makes the moment unnecessary.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{event::Timespec, io::Errno};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::timeout,
};

use super::{
    buffers::Piece,
    control::{ControlWatch, Pending},
    conversion::{Garbled, Intake},
    data::{DataConnection, Lent},
    home::{Home, Root, StoreHow, blocking, is_away},
    path::ClientPath,
    rate::{Direction, Throttle},
    reply::Deed,
    settle::{Crowd, SettleTime},
    transfer::{
        Announcer, Broken, Complete, Interruption, Means, Meter, Opened, Order, Outcome, Work, interrupted,
    },
};

/// Up to here a thread waits, to the microsecond: the runtime's timer makes 4 ms of 2.
const PRECISE_WAIT_MAX: Duration = Duration::from_millis(5);
/// How long the desk may take to read what stands unread in the control connection.
const UNREAD_TIME_MAX: Duration = Duration::from_millis(500);
/// A piece is written as soon as it is this large: few requests to the mount, and none that waits for more.
const PIECE_BYTES: usize = 512 * 1024;
/// A smaller one waits for more, a nap at a time. Waiting for the socket instead would wake up for each packet.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 150_000 };
/// Naps in a row until a piece is written as small as it is.
const NAPS_MAX: u32 = 6;
/// A step ends after this time at the latest, for others to have their turn.
const STEP_TIME_MAX: Duration = Duration::from_millis(40);
/// A step that has moved less was too early: the next one comes later.
const STEP_BYTES_MIN: u64 = 64 * 1024;
/// Longest pause between steps of a slow client.
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// The mount tells when there is room; asked again this often all the same.
const ROOM_TIME_MAX: Duration = Duration::from_secs(1);

/// An upload as it is asked for.
#[derive(Debug)]
struct Upload {
    root: Arc<Root>,
    file: Arc<OwnedFd>,
    /// Where in the file it begins, as far as is known beforehand.
    start: u64,
    /// Bytes that were held of a broken upload; the mount counts them with those of this transfer.
    held: u64,
    deed: Deed,
    begun: Instant,
    means: Arc<Means>,
    throttle: Arc<Throttle>,
    meter: Meter,
}

/// Performs an order to store, tells its outcome, and gives back what the stock server should hear.
pub(super) async fn receive(home: &Arc<Home>, order: Order) -> Result<u64, Errno> {
    let Order {
        mut data,
        work,
        path,
        control,
        mut interrupt,
        mut announcer,
        outcome,
        progress,
        means,
        throttle,
    } = order;
    let Work::Store { how, bytes_told, conversion } = work else { return Err(Errno::INVAL) };
    let deed = match how {
        StoreHow::Replace | StoreHow::New | StoreHow::GoOn { .. } | StoreHow::From { .. } => Deed::Store,
        StoreHow::Append => Deed::Append,
    };
    let (start, held) = match how {
        StoreHow::GoOn { at } => (at, at),
        StoreHow::From { at } => (at, 0),
        StoreHow::Replace | StoreHow::New | StoreHow::Append => (0, 0),
    };
    let meter = Meter::new(progress);
    let noted = path.clone();
    let end = match open(home, path, how).await {
        Err(error) => Err(Broken::of_mount(&error, deed)),
        Ok((root, file)) => {
            let (file, meter) = (Arc::new(file), meter.clone());
            let (begun, means) = (Instant::now(), means.clone());
            let upload = Upload { root, file, start, held, deed, begun, means, throttle, meter };
            let end = match begin(&mut data, &mut announcer, &mut interrupt).await {
                Ok(()) => upload.fill(&mut data, conversion.map(Intake::new), &mut interrupt).await,
                Err(broken) => Err(broken),
            };
            let end = match end {
                Ok(ended) => tokio::select! {
                    biased;
                    reason = interrupted(&mut interrupt) => Err(Broken::Interrupted(reason)),
                    settled = upload.settle(&data, &control, bytes_told, ended) => settled,
                },
                Err(broken) => Err(broken),
            };
            // From here on it is the mount that says how it ends.
            let end = match end {
                Ok(()) => upload.commit().await,
                broken => broken,
            };
            upload.close(home, &end).await;
            home.note_upload(noted, how, end.is_ok()).await;
            end
        }
    };
    let heard = match &end {
        Ok(()) => Ok(meter.bytes()),
        Err(Broken::Mount(errno, _)) => Err(*errno),
        Err(_) => Err(Errno::IO),
    };
    // The client may be sending still, and is to read the reply.
    let is_refused = announcer.has_announced() && matches!(end, Err(Broken::Mount(..) | Broken::Garbled(_)));
    let place = is_refused.then(|| means.drains.clone().try_acquire_owned().ok()).flatten();
    if let Some(place) = place {
        tokio::spawn(async move {
            data.drain().await;
            drop(place);
        });
    } else {
        announcer.end(data, end.is_ok());
    }
    let end = end.map(|()| Complete::Stored);
    drop(outcome.send(Outcome { bytes: meter.bytes(), end }));
    heard
}

/// With the root that has opened it: the same one must commit it.
async fn open(home: &Arc<Home>, path: ClientPath, how: StoreHow) -> io::Result<(Arc<Root>, OwnedFd)> {
    home.run(move |root| Ok((root.clone(), root.open_to_store(&path, how)?))).await
}

/// 150, and TLS where it is expected.
async fn begin(
    data: &mut DataConnection,
    announcer: &mut Announcer,
    interrupt: &mut watch::Receiver<Option<Interruption>>,
) -> Result<(), Broken> {
    let secured = data.secure_upload(|| announcer.announce(Opened { bytes: None }));
    tokio::select! {
        biased;
        reason = interrupted(interrupt) => Err(Broken::Interrupted(reason)),
        secured = secured => secured.map_err(Broken::NotSecured),
    }
}

impl Upload {
    /// Moves bytes until the client's data ends: when it did.
    async fn fill(
        &self,
        data: &mut DataConnection,
        mut intake: Option<Intake>,
        interrupt: &mut watch::Receiver<Option<Interruption>>,
    ) -> Result<Instant, Broken> {
        let stall = self.means.stall();
        let mut room = Room { file: self.file.clone(), readiness: None };
        let (mut left, mut is_fast, mut pause) = (None, true, Duration::ZERO);
        loop {
            let allowed = tokio::select! {
                biased;
                reason = interrupted(interrupt) => return Err(Broken::Interrupted(reason)),
                allowed = self.throttle.allow(Direction::Upload, usize::MAX) => allowed,
            };
            let before = self.meter.bytes();
            let end = self.step(data, left.take(), &mut intake, interrupt, is_fast, allowed).await?;
            let moved = usize::try_from(self.meter.bytes() - before).unwrap_or(allowed);
            self.throttle.give_back(Direction::Upload, allowed.saturating_sub(moved));
            match end {
                StepEnd::DataEnd(ended) => return Ok(ended),
                StepEnd::TimeUp => {}
                StepEnd::NoRoom(piece) => {
                    left = Some(piece);
                    tokio::select! {
                        biased;
                        reason = interrupted(interrupt) => return Err(Broken::Interrupted(reason)),
                        there = room.wait() => there.map_err(|error| Broken::of_mount(&error, self.deed))?,
                    }
                }
                StepEnd::NoData => {
                    is_fast = self.meter.bytes() - before >= STEP_BYTES_MIN;
                    tokio::select! {
                        biased;
                        reason = interrupted(interrupt) => return Err(Broken::Interrupted(reason)),
                        ready = timeout(stall, data.readable()) => match ready {
                            Ok(ready) => ready.map_err(|error| Broken::of_connection(error, stall))?,
                            Err(_) => return Err(Broken::Stalled(stall)),
                        },
                    }
                    if is_fast {
                        pause = Duration::ZERO;
                    } else {
                        // None after the first slow step, so that a tiny file is not held up by its end.
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).clamp(Duration::from_millis(1), PAUSE_MAX);
                    }
                }
            }
            if let Some(reason) = *interrupt.borrow() {
                return Err(Broken::Interrupted(reason));
            }
        }
    }

    /// One step on a blocking thread.
    async fn step(
        &self,
        data: &mut DataConnection,
        left: Option<Piece>,
        intake: &mut Option<Intake>,
        interrupt: &watch::Receiver<Option<Interruption>>,
        is_fast: bool,
        allowed: usize,
    ) -> Result<StepEnd, Broken> {
        let broken = |error| Broken::of_connection(error, self.means.stall());
        let _place = self.means.steps.acquire().await.map_err(|_| Broken::Lost)?;
        let mut step = Step {
            lent: data.lend().map_err(broken)?,
            file: self.file.clone(),
            meter: self.meter.clone(),
            intake: intake.take(),
            interrupt: interrupt.clone(),
            is_fast,
            allowed,
        };
        let piece = left.unwrap_or_else(|| self.means.buffers.take());
        let done = blocking(move || {
            let end = step.run(piece);
            Ok((step.lent, step.intake, end))
        });
        let (lent, intake_back, end) = done.await.map_err(|error| Broken::of_mount(&error, self.deed))?;
        data.take_back(lent);
        *intake = intake_back;
        end.map_err(|failure| match failure {
            StepFailure::Connection(errno) => Broken::Connection(errno.into()),
            StepFailure::Mount(errno) => Broken::Mount(errno, self.deed),
            StepFailure::Garbled(garbled) => Broken::Garbled(garbled),
        })
    }

    async fn settle(
        &self,
        data: &DataConnection,
        control: &ControlWatch,
        bytes_told: Option<u64>,
        ended: Instant,
    ) -> Result<(), Broken> {
        if data.lacks_close_notify() {
            return Err(Broken::NoCloseNotify);
        }
        let came = self.meter.bytes();
        match bytes_told {
            // Going on, a client may tell what is still to come, or the whole (RFC 959 does not say).
            Some(told) if told != came && told != self.start + came => {
                Err(Broken::SizeDiffers { told, came })
            }
            // The client has told what whole is: commit alone does the rest.
            Some(_) => Ok(()),
            // No killed client says that it has sent everything; one that gave up says so on the other connection.
            None if data.has_heard_close_notify() => is_still_there(control).await,
            None => {
                let time = SettleTime::new(self.begun, ended, data.dialled_within);
                self.prepare_and_wait(control, time).await?;
                is_still_there(control).await
            }
        }
    }

    /// Sends what can be sent; ends when `time` is over, at the earliest.
    async fn prepare_and_wait(&self, control: &ControlWatch, mut time: SettleTime) -> Result<(), Broken> {
        let (root, file, watch) = (self.root.clone(), self.file.clone(), control.clone());
        let prepare = move || {
            root.prepare(&file)?;
            let precise_until = Instant::now() + PRECISE_WAIT_MAX;
            loop {
                let (now, crowd) = (Instant::now(), Crowd::now());
                let left = time.left(now, crowd);
                if left.is_zero() || now + left > precise_until || watch.linger(left) {
                    return Ok(time);
                }
            }
        };
        let mut time = self.wait_for_store(prepare).await?;
        loop {
            let left = time.left(Instant::now(), Crowd::now());
            if left.is_zero() || control.pending().hung_up {
                return Ok(());
            }
            tokio::time::sleep(left).await;
        }
    }

    async fn commit(&self) -> Result<(), Broken> {
        let (root, file) = (self.root.clone(), self.file.clone());
        let bytes = self.held + self.meter.bytes();
        self.wait_for_store(move || root.commit(&file, bytes)).await
    }

    /// The mount answers within a deadline of its own.
    async fn wait_for_store<T: Send + 'static>(
        &self,
        deed: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Broken> {
        let _place = self.means.commits.acquire().await.map_err(|_| Broken::Lost)?;
        blocking(deed).await.map_err(|error| Broken::of_mount(&error, self.deed))
    }

    /// Closes; without a commit that discards. Close asks the mount too, so it is no deed for this thread.
    async fn close(self, home: &Arc<Home>, end: &Result<(), Broken>) {
        if let Err(Broken::Mount(errno, _)) = end
            && is_away(&(*errno).into())
        {
            home.leave(&self.root);
        }
        // A failed join leaves nothing to be done: the descriptor is gone all the same.
        let closing = blocking(move || {
            drop(self);
            Ok(())
        });
        closing.await.ok();
    }
}

/// Moves what is there, and goes on as long as the client keeps up.
#[derive(Debug)]
struct Step {
    lent: Lent,
    file: Arc<OwnedFd>,
    meter: Meter,
    /// What the bytes pass on their way, in type A or mode Z.
    intake: Option<Intake>,
    interrupt: watch::Receiver<Option<Interruption>>,
    /// The client has been fast so far: worth a nap.
    is_fast: bool,
    /// Bytes that it may read (`max_upload_rate`).
    allowed: usize,
}

/// Why a step is over.
#[derive(Debug)]
enum StepEnd {
    /// The client had sent all, and that was seen at this time.
    DataEnd(Instant),
    NoData,
    /// The mount has no memory for what is left.
    NoRoom(Piece),
    TimeUp,
}

#[derive(Debug)]
enum StepFailure {
    Connection(Errno),
    Mount(Errno),
    Garbled(Garbled),
}

impl Step {
    /// `piece` may hold what the mount has not taken yet.
    fn run(&mut self, mut piece: Piece) -> Result<StepEnd, StepFailure> {
        let begun = Instant::now();
        let mut ended = None;
        let mut left = self.allowed;
        loop {
            match write_out(&self.file, &mut piece) {
                Ok(()) => piece.clear(),
                Err(Errno::AGAIN) => return Ok(StepEnd::NoRoom(piece)),
                Err(errno) => return Err(StepFailure::Mount(errno)),
            }
            if let Some(ended) = ended {
                return Ok(StepEnd::DataEnd(ended));
            }
            if begun.elapsed() > STEP_TIME_MAX || left == 0 || self.interrupt.borrow().is_some() {
                return Ok(StepEnd::TimeUp);
            }
            ended = self.read_in(&mut piece, &mut left)?.then(Instant::now);
            if piece.is_empty() && ended.is_none() {
                return Ok(StepEnd::NoData);
            }
        }
    }

    /// Reads until the piece is large enough, `left` is used up or nothing more comes; true at the end of the data.
    fn read_in(&mut self, piece: &mut Piece, left: &mut usize) -> Result<bool, StepFailure> {
        let mut naps = 0;
        loop {
            let spare = piece.spare();
            let spare_bytes = spare.len().min(*left);
            let room = match &mut self.intake {
                None => &mut spare[..spare_bytes],
                Some(intake) => {
                    let made = intake.pour(&mut spare[..spare_bytes]).map_err(StepFailure::Garbled)?;
                    piece.fill(made);
                    self.meter.add(made as u64);
                    *left -= made;
                    if intake.is_over() {
                        return Ok(true);
                    }
                    if piece.is_full() || *left == 0 {
                        return Ok(false);
                    }
                    intake.room()
                }
            };
            match (self.lent.recv_now(room), &mut self.intake) {
                (Ok(0), Some(intake)) => intake.end(),
                (Ok(0), None) => return Ok(true),
                (Ok(bytes), Some(intake)) => intake.fill(bytes),
                (Ok(bytes), None) => {
                    piece.fill(bytes);
                    self.meter.add(bytes as u64);
                    *left -= bytes;
                    if piece.is_full() || *left == 0 {
                        return Ok(false);
                    }
                }
                (Err(Errno::AGAIN), _) => {
                    let is_enough = piece.filled().len() >= PIECE_BYTES;
                    if is_enough || naps == NAPS_MAX || !self.is_fast {
                        return Ok(false);
                    }
                    naps += 1;
                    // A poll of nothing is a nap of less than a millisecond.
                    rustix::event::poll(&mut [], Some(&NAP)).ok();
                }
                (Err(Errno::INTR), _) => {}
                (Err(errno), _) => return Err(StepFailure::Connection(errno)),
            }
        }
    }
}

/// Writes as much as the mount takes.
fn write_out(file: &OwnedFd, piece: &mut Piece) -> Result<(), Errno> {
    while !piece.is_empty() {
        match rustix::io::write(file, piece.filled()) {
            Ok(0) => return Err(Errno::IO),
            Ok(bytes) => piece.consume(bytes),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Waits until the mount has memory for a write again.
#[derive(Debug)]
struct Room {
    file: Arc<OwnedFd>,
    readiness: Option<AsyncFd<Arc<OwnedFd>>>,
}

impl Room {
    async fn wait(&mut self) -> io::Result<()> {
        let readiness = match &mut self.readiness {
            Some(readiness) => readiness,
            none => {
                #[expect(
                    deprecated,
                    reason = "its successor is `unsafe` for types whose descriptor may change; this one's cannot"
                )]
                let readiness = AsyncFd::with_interest(self.file.clone(), Interest::WRITABLE)?;
                none.insert(readiness)
            }
        };
        if let Ok(guard) = timeout(ROOM_TIME_MAX, readiness.writable()).await {
            // Taken back before the write is tried again: what is told after that is not lost.
            guard?.clear_ready();
        }
        Ok(())
    }
}

/// Whether the client that has ended its data some time ago still waits for its 226.
async fn is_still_there(control: &ControlWatch) -> Result<(), Broken> {
    let begun = Instant::now();
    loop {
        let Pending { unread, hung_up } = control.pending();
        if control.has_quit() || !(unread || hung_up) {
            return Ok(());
        }
        // Something stands unread: the desk reads it now, and an ABOR or an end interrupts this very wait.
        if begun.elapsed() > UNREAD_TIME_MAX {
            return if hung_up { Err(Broken::Interrupted(Interruption::ControlGone)) } else { Ok(()) };
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
