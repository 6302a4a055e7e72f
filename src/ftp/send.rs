//! A download or a listing: to the client's data connection.
//!
//! While one piece goes to the socket, the next one is read from the mount. A piece is read by a blocking
//! step; while the client stalls no thread waits for it. What breaks in the middle ends in a reset of the
//! data connection: a clean end would look like a whole file.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;

use super::{
    buffers::{Buffers, Piece, SMALL_BYTES},
    command::ListRequest,
    data::DataConnection,
    home::{Facts, Home, blocking},
    listing::{Lister, Look},
    path::ClientPath,
    rate::{Direction, Throttle},
    reply::Deed,
    transfer::{Announcer, Broken, Complete, Means, Meter, Opened, Order, Outcome, Work, interrupted},
};

/// Bytes of lines that one blocking step makes.
const LISTING_CHUNK_BYTES: usize = 128 * 1024;

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
            Work::Retrieve { start } => retrieve(home, path, start, &mut data, &mut announcer, &tools)
                .await
                .map(|()| Complete::Sent)?,
            Work::List { request, look } => {
                list(home, request, look, &mut data, &mut announcer, &tools).await?
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
    start: u64,
    data: &mut DataConnection,
    announcer: &mut Announcer,
    tools: &Tools,
) -> Result<(), Broken> {
    let of_mount = |error: io::Error| Broken::of_mount(&error, Deed::Read);
    let (file, facts) = home.run(move |root| root.open_to_read(&path)).await.map_err(of_mount)?;
    if start > facts.bytes {
        return Err(Broken::RestPastEnd { bytes: facts.bytes });
    }
    announcer.announce(Opened { bytes: Some(facts.bytes - start) });
    data.secure().await.map_err(Broken::NotSecured)?;
    let file = Arc::new(file);
    let mut offset = start;
    let mut last: Option<Piece> = None;
    loop {
        let written = write_piece(data, last.take(), tools);
        let read = async { read_piece(&file, offset, tools).await.map_err(of_mount) };
        let ((), next) = tokio::try_join!(written, read)?;
        if next.is_empty() {
            break;
        }
        offset += next.filled().len() as u64;
        last = Some(next);
    }
    if offset >= facts.bytes {
        return Ok(());
    }
    // The size may have been an old one, while what was read is the whole of the object as it is now.
    let facts = blocking(move || Facts::afresh(&*file)).await.map_err(of_mount)?;
    if offset < facts.bytes { Err(Broken::Truncated) } else { Ok(()) }
}

/// The piece at `offset`; empty at the end of the file.
async fn read_piece(file: &Arc<OwnedFd>, offset: u64, tools: &Tools) -> io::Result<Piece> {
    let _place = tools.means.reads.acquire().await.map_err(io::Error::other)?;
    let (file, mut piece) = (file.clone(), tools.take_piece());
    blocking(move || {
        loop {
            match rustix::io::pread(&file, piece.spare(), offset) {
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

async fn write_piece(data: &mut DataConnection, piece: Option<Piece>, tools: &Tools) -> Result<(), Broken> {
    let Some(piece) = piece else { return Ok(()) };
    let mut left = piece.filled();
    while !left.is_empty() {
        let allowed = tools.throttle.allow(Direction::Download, left.len()).await;
        let (now, later) = left.split_at(allowed);
        write(data, now, tools).await?;
        left = later;
    }
    Ok(())
}

async fn write(data: &mut DataConnection, bytes: &[u8], tools: &Tools) -> Result<(), Broken> {
    let Tools { means, meter, .. } = tools;
    let stall = means.stall();
    data.write_all(bytes, stall).await.map_err(|error| Broken::of_connection(error, stall))?;
    meter.add(bytes.len() as u64);
    Ok(())
}

async fn list(
    home: &Arc<Home>,
    request: ListRequest,
    look: Look,
    data: &mut DataConnection,
    announcer: &mut Announcer,
    tools: &Tools,
) -> Result<Complete, Broken> {
    let of_mount = |error: io::Error| Broken::of_mount(&error, Deed::Look);
    let mut lister =
        home.run(move |root| Lister::open(root, &request, look, now())).await.map_err(of_mount)?;
    announcer.announce(Opened { bytes: None });
    data.secure().await.map_err(Broken::NotSecured)?;
    let mut lines = Vec::new();
    loop {
        let more;
        (lister, lines, more) = blocking(move || {
            let more = lister.advance(&mut lines, LISTING_CHUNK_BYTES)?;
            Ok((lister, lines, more))
        })
        .await
        .map_err(of_mount)?;
        write(data, &lines, tools).await?;
        lines.clear();
        if !more {
            return Ok(Complete::Listed { names: lister.told(), cut: lister.is_cut() });
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
