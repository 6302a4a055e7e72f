//! A download or a listing: to the client's data connection.
//!
//! While one piece goes to the socket, the next one is read from the mount. A piece is read by a blocking
//! step; while the client stalls no thread waits for it. What breaks in the middle ends in a reset of the
//! data connection: a clean end would look like a whole file.

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;

use super::{
    buffers::{Buffers, Piece, SMALL_BYTES},
    command::{ListForm, ListRequest},
    conversion::Conversion,
    data::DataConnection,
    home::{Facts, Home, blocking},
    listing::{Lister, Look},
    path::ClientPath,
    rate::{Direction, Throttle},
    reply::Deed,
    transfer::{Announcer, Broken, Complete, Means, Meter, Opened, Order, Outcome, Work, interrupted},
};

/// Bytes of lines that one blocking step makes: a thousand clients that list and do not read hold no more than 32 MiB.
const LISTING_CHUNK_BYTES: usize = 32 * 1024;

/// What every step of it needs.
struct Tools {
    means: Arc<Means>,
    throttle: Arc<Throttle>,
    meter: Meter,
}

impl Tools {
    /// A slow download keeps no large buffer from a fast one.
    fn take_piece(&self) -> Piece {
        match self.throttle.quantum(Direction::Download) {
            Some(bytes) if bytes <= SMALL_BYTES => Buffers::take_small(),
            Some(_) | None => self.means.buffers.take(),
        }
    }
}

/// Performs an order to retrieve or to list, tells its outcome, and gives back what the stock server should
/// hear.
pub(super) async fn send(home: &Arc<Home>, order: Order) -> Result<u64, Errno> {
    let Order {
        mut data, work, path, mut interrupt, mut announcer, outcome, progress, means, throttle, ..
    } = order;
    let tools = Tools { means, throttle, meter: Meter::new(progress) };
    let sending = async {
        let complete = match work {
            Work::Retrieve { range, conversion } => {
                let mut outlet = Outlet { data: &mut data, conversion, tools: &tools, is_throttled: true };
                retrieve(home, path, range, &mut outlet, &mut announcer).await.map(|()| Complete::Sent)?
            }
            Work::List { request, look, conversion } => {
                let mut outlet = Outlet { data: &mut data, conversion, tools: &tools, is_throttled: false };
                list(home, request, look, &mut outlet, &mut announcer).await?
            }
            Work::Store { .. } => return Err(Broken::Lost),
        };
        let stall = tools.means.stall();
        data.say_end(stall).await.map_err(|error| Broken::of_connection(error, stall))?;
        Ok(complete)
    };
    let end = tokio::select! {
        biased;
        reason = interrupted(&mut interrupt) => Err(Broken::Interrupted(reason)),
        end = sending => end,
    };
    announcer.end(data, end.is_ok());
    let heard = match &end {
        Ok(_) => Ok(tools.meter.bytes()),
        Err(Broken::Mount(errno, _)) => Err(*errno),
        Err(_) => Err(Errno::IO),
    };
    drop(outcome.send(Outcome { bytes: tools.meter.bytes(), end }));
    heard
}

async fn retrieve(
    home: &Arc<Home>,
    path: ClientPath,
    range: Range<u64>,
    outlet: &mut Outlet<'_>,
    announcer: &mut Announcer,
) -> Result<(), Broken> {
    let of_mount = |error: io::Error| Broken::of_mount(&error, Deed::Read);
    let opened =
        home.run(move |root| root.open_to_read(&path).map_err(|error| root.busy_if_held(&path, error)));
    let (file, facts) = opened.await.map_err(of_mount)?;
    if range.start > facts.bytes {
        return Err(Broken::RestPastEnd { bytes: facts.bytes });
    }
    // What is converted will have another size.
    let bytes = range.end.min(facts.bytes) - range.start;
    announcer.announce(Opened { bytes: outlet.conversion.is_none().then_some(bytes) });
    outlet.data.secure().await.map_err(Broken::NotSecured)?;
    let file = Arc::new(file);
    let (mut offset, tools) = (range.start, outlet.tools);
    let mut last: Option<Piece> = None;
    loop {
        let written = async {
            match last.take() {
                Some(piece) => outlet.send(piece).await.map(drop),
                None => Ok(()),
            }
        };
        let read = async { read_piece(&file, offset..range.end, tools).await.map_err(of_mount) };
        let ((), next) = tokio::try_join!(written, read)?;
        if next.is_empty() {
            break;
        }
        offset += next.filled().len() as u64;
        last = Some(next);
    }
    outlet.finish().await?;
    if offset >= facts.bytes.min(range.end) {
        return Ok(());
    }
    // The size may have been an old one, while what was read is the whole of the object as it is now.
    let facts = blocking(move || Facts::afresh(&*file)).await.map_err(of_mount)?;
    if offset < facts.bytes { Err(Broken::Truncated) } else { Ok(()) }
}

/// The piece at the start of `range`; empty at its end, and at the end of the file.
async fn read_piece(file: &Arc<OwnedFd>, range: Range<u64>, tools: &Tools) -> io::Result<Piece> {
    let _place = tools.means.reads.acquire().await.map_err(io::Error::other)?;
    let (file, mut piece) = (file.clone(), tools.take_piece());
    blocking(move || {
        let left = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let room_bytes = piece.spare().len().min(left);
        loop {
            match rustix::io::pread(&file, &mut piece.spare()[..room_bytes], range.start) {
                Ok(bytes) => {
                    piece.fill(bytes);
                    return Ok(piece);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    })
    .await
}

/// The way to the client, through a conversion if there is one.
struct Outlet<'a> {
    data: &'a mut DataConnection,
    conversion: Option<Conversion>,
    tools: &'a Tools,
    /// Listings are not.
    is_throttled: bool,
}

impl Outlet<'_> {
    /// Sends all of `bytes`, and gives them back.
    async fn send<B: AsRef<[u8]> + Send + 'static>(&mut self, bytes: B) -> Result<B, Broken> {
        let bytes = match self.conversion.take() {
            None => {
                self.write(bytes.as_ref(), true).await?;
                bytes
            }
            Some(conversion) => {
                let bytes = self.convert(conversion, bytes, false).await?;
                // Bytes of the file are counted, whatever they become on the wire.
                self.tools.meter.add(bytes.as_ref().len() as u64);
                bytes
            }
        };
        Ok(bytes)
    }

    /// Sends what a conversion has held back.
    async fn finish(&mut self) -> Result<(), Broken> {
        match self.conversion.take() {
            None => Ok(()),
            Some(conversion) => self.convert(conversion, [], true).await.map(drop),
        }
    }

    /// To deflate a piece takes tens of milliseconds: no deed for a thread that others wait for.
    async fn convert<B: AsRef<[u8]> + Send + 'static>(
        &mut self,
        mut conversion: Conversion,
        mut bytes: B,
        is_last: bool,
    ) -> Result<B, Broken> {
        let mut taken = 0;
        loop {
            let place = self.tools.means.steps.acquire().await.map_err(|_| Broken::Lost)?;
            let mut room = self.tools.take_piece();
            let step;
            (conversion, bytes, room, step) = blocking(move || {
                let step = conversion.convert(&bytes.as_ref()[taken..], room.spare(), is_last);
                Ok((conversion, bytes, room, step))
            })
            .await
            .map_err(|error| Broken::of_mount(&error, Deed::Read))?;
            drop(place);
            let step = step.map_err(Broken::Garbled)?;
            taken += step.taken;
            room.fill(step.made);
            self.write(room.filled(), false).await?;
            if step.is_done {
                self.conversion = Some(conversion);
                return Ok(bytes);
            }
        }
    }

    async fn write(&mut self, mut bytes: &[u8], is_counted: bool) -> Result<(), Broken> {
        let Tools { means, throttle, meter } = self.tools;
        let stall = means.stall();
        while !bytes.is_empty() {
            let allowed = match self.is_throttled {
                true => throttle.allow(Direction::Download, bytes.len()).await,
                false => bytes.len(),
            };
            let (now, later) = bytes.split_at(allowed);
            self.data.write_all(now, stall).await.map_err(|error| Broken::of_connection(error, stall))?;
            if is_counted {
                meter.add(now.len() as u64);
            }
            bytes = later;
        }
        Ok(())
    }
}

async fn list(
    home: &Arc<Home>,
    request: ListRequest,
    look: Look,
    outlet: &mut Outlet<'_>,
    announcer: &mut Announcer,
) -> Result<Complete, Broken> {
    let deed = match request.form {
        ListForm::Facts => Deed::LookForFacts,
        ListForm::Long | ListForm::Names => Deed::Look,
    };
    let of_mount = |error: io::Error| Broken::of_mount(&error, deed);
    let mut lister =
        home.run(move |root| Lister::open(root, &request, look, now())).await.map_err(of_mount)?;
    announcer.announce(Opened { bytes: None });
    outlet.data.secure().await.map_err(Broken::NotSecured)?;
    let mut lines = Vec::new();
    loop {
        let more;
        (lister, lines, more) = blocking(move || {
            let more = lister.advance(&mut lines, LISTING_CHUNK_BYTES)?;
            Ok((lister, lines, more))
        })
        .await
        .map_err(of_mount)?;
        lines = outlet.send(lines).await?;
        lines.clear();
        if !more {
            outlet.finish().await?;
            return Ok(Complete::Listed { names: lister.told(), cut: lister.is_cut() });
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
