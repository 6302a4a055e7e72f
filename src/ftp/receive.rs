//! An upload: from the client's data connection into an armed file, and the decision whether it is whole.
//!
//! ```text
//! read a piece from the socket ─┐
//! write the last one to the mount┘ at once, until the data ends
//! prepare (bytes travel) ┐
//! settle (is it whole?)  ┘ at once
//! whole: commit -> Stored     broken: close without commit = discard
//! ```
//!
//! Plain FTP has no mark for the end of a file but the close of the data connection, and a killed client
//! closes just so. What tells the two apart is the control connection: a client that waits for its 226
//! keeps it open. The two FINs of a killed client do not come together, so the question is asked a moment
//! later; ALLO with the right size makes the moment unnecessary.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    buffers::{Buffers, Piece},
    control::{ControlWatch, Pending},
    data::DataConnection,
    home::{Home, Root, StoreHow, blocking, is_away},
    path::ClientPath,
    reply::Deed,
    transfer::{Broken, Complete, Interruption, Means, Meter, Opened, Order, Outcome, Work, interrupted},
};

/// Shortest wait between the end of the data and the question whether the client is still there: after 2 ms
/// none of 60 killed clients had its control connection open.
const SETTLE_TIME_MIN: Duration = Duration::from_millis(2);
/// Longest: a client that took long to dial is not that far away.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);
/// How long the desk may take to read what stands unread in the control connection.
const UNREAD_TIME_MAX: Duration = Duration::from_millis(500);
/// A piece is written when its last byte is older than this.
const PAUSE_MAX: Duration = Duration::from_millis(2);
/// And when its first byte is older than this: a slow client must not sit on a large buffer.
const FILL_TIME_MAX: Duration = Duration::from_millis(20);
/// The mount tells when there is room; asked again this often all the same.
const ROOM_TIME_MAX: Duration = Duration::from_secs(1);

/// An upload as it is asked for.
#[derive(Debug)]
struct Upload {
    root: Arc<Root>,
    file: Arc<OwnedFd>,
    deed: Deed,
    means: Arc<Means>,
    meter: Meter,
}

/// Performs an order to store, tells its outcome, and gives back what the stock server should hear.
pub(super) async fn receive(home: &Arc<Home>, order: Order) -> Result<u64, Errno> {
    let Order { data, work, path, control, mut interrupt, mut announcer, outcome, progress, means } = order;
    let Work::Store { how, bytes_told } = work else { return Err(Errno::INVAL) };
    let deed = match how {
        StoreHow::Replace => Deed::Store,
        StoreHow::Append => Deed::Append,
    };
    let meter = Meter::new(progress);
    let end = match open(home, path, how).await {
        Err(error) => Err(Broken::of_mount(&error, deed)),
        Ok((root, file)) => {
            announcer.announce(Opened { bytes: None });
            let upload = Upload { root, file: Arc::new(file), deed, means, meter: meter.clone() };
            let end = tokio::select! {
                biased;
                reason = interrupted(&mut interrupt) => Err(Broken::Interrupted(reason)),
                filled = upload.fill_and_settle(&data, &control, bytes_told) => filled,
            };
            // From here on it is the mount that says how it ends.
            let end = match end {
                Ok(()) => upload.commit().await,
                broken => broken,
            };
            upload.close(home, &end).await;
            end
        }
    };
    announcer.end(data, end.is_ok());
    let heard = match &end {
        Ok(()) => Ok(meter.bytes()),
        Err(Broken::Mount(errno, _)) => Err(*errno),
        Err(_) => Err(Errno::IO),
    };
    let end = end.map(|()| Complete::Stored);
    drop(outcome.send(Outcome { bytes: meter.bytes(), end }));
    heard
}

/// With the root that has opened it: the same one must commit it.
async fn open(home: &Arc<Home>, path: ClientPath, how: StoreHow) -> io::Result<(Arc<Root>, OwnedFd)> {
    home.run(move |root| Ok((root.clone(), root.open_to_store(&path, how)?))).await
}

impl Upload {
    async fn fill_and_settle(
        &self,
        data: &DataConnection,
        control: &ControlWatch,
        bytes_told: Option<u64>,
    ) -> Result<(), Broken> {
        self.fill(data).await?;
        let came = self.meter.bytes();
        match bytes_told {
            Some(told) if told != came => Err(Broken::SizeDiffers { told, came }),
            // The client has told what whole is: commit alone does the rest.
            Some(_) => Ok(()),
            None => {
                let wait = (data.dialled_within * 2).clamp(SETTLE_TIME_MIN, SETTLE_TIME_MAX);
                tokio::try_join!(self.prepare(), settle(control, wait))?;
                // Preparing may take long; a client that hung up meanwhile has not waited for its 226.
                settle(control, Duration::ZERO).await
            }
        }
    }

    /// Until the client's data ends; a piece is read while the one before it is written.
    async fn fill(&self, data: &DataConnection) -> Result<(), Broken> {
        let mut room = Room { file: self.file.clone(), readiness: None };
        let mut last: Option<Piece> = None;
        loop {
            let written = self.write(last.take(), &mut room);
            let read = read_piece(data, &self.means.buffers, self.means.stall);
            let ((), next) = tokio::try_join!(written, read)?;
            let Some(piece) = next else { return Ok(()) };
            self.meter.add(piece.filled().len() as u64);
            last = Some(piece);
        }
    }

    async fn write(&self, piece: Option<Piece>, room: &mut Room) -> Result<(), Broken> {
        let Some(mut piece) = piece else { return Ok(()) };
        loop {
            let file = self.file.clone();
            let (rest, done) = blocking(move || Ok(write_some(&file, piece)))
                .await
                .map_err(|error| Broken::of_mount(&error, self.deed))?;
            match done {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN) => {
                    room.wait().await.map_err(|error| Broken::of_mount(&error, self.deed))?
                }
                Err(errno) => return Err(Broken::Mount(errno, self.deed)),
            }
            piece = rest;
        }
    }

    async fn prepare(&self) -> Result<(), Broken> {
        let (root, file) = (self.root.clone(), self.file.clone());
        self.wait_for_store(move || root.prepare(&file)).await
    }

    async fn commit(&self) -> Result<(), Broken> {
        let (root, file, bytes) = (self.root.clone(), self.file.clone(), self.meter.bytes());
        self.wait_for_store(move || root.commit(&file, bytes)).await
    }

    /// The mount answers within a deadline of its own.
    async fn wait_for_store(
        &self,
        deed: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<(), Broken> {
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

/// Writes as much as the mount takes.
fn write_some(file: &OwnedFd, mut piece: Piece) -> (Piece, Result<(), Errno>) {
    while !piece.is_empty() {
        match rustix::io::write(file, piece.filled()) {
            Ok(0) => return (piece, Err(Errno::IO)),
            Ok(bytes) => piece.consume(bytes),
            Err(Errno::INTR) => {}
            Err(errno) => return (piece, Err(errno)),
        }
    }
    (piece, Ok(()))
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
        if let Ok(guard) = tokio::time::timeout(ROOM_TIME_MAX, readiness.writable()).await {
            // Taken back before the write is tried again: what is told after that is not lost.
            guard?.clear_ready();
        }
        Ok(())
    }
}

/// The next bytes of the client; `None` at their end. No memory is held until the first one is there.
async fn read_piece(
    data: &DataConnection,
    buffers: &Arc<Buffers>,
    stall: Duration,
) -> Result<Option<Piece>, Broken> {
    let broken = |error| Broken::of_connection(error, stall);
    loop {
        match tokio::time::timeout(stall, data.readable()).await {
            Ok(ready) => ready.map_err(broken)?,
            Err(_) => return Err(Broken::Stalled(stall)),
        }
        let mut piece = buffers.take();
        let begun = Instant::now();
        loop {
            match data.try_read(&mut piece) {
                Ok(0) if piece.is_empty() => return Ok(None),
                // The end is met again by the next call.
                Ok(0) => return Ok(Some(piece)),
                Ok(_) if piece.is_full() => return Ok(Some(piece)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && piece.is_empty() => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = tokio::time::timeout(PAUSE_MAX, data.readable()).await;
                    if ready.is_err() || begun.elapsed() > FILL_TIME_MAX {
                        return Ok(Some(piece));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }
}

/// Whether the client that has ended its data is still there, `wait` later.
async fn settle(control: &ControlWatch, wait: Duration) -> Result<(), Broken> {
    tokio::time::sleep(wait).await;
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
