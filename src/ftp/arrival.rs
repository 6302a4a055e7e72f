//! From an accepted socket to a session: who may come in.
//!
//! ```text
//! accepted ─> a seat? ─> from a balancer: its PROXY header ─> locked out? a seat of the network? ─> the desk
//!                │421          │ none: closed                      │421
//! ```
//!
//! Whoever is refused is told in one line and his socket closed on the spot: nothing of him stays behind.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::mpsc, sync::watch, time::Instant};
use tracing::{debug, warn};

use super::{
    Phase,
    desk::FrontDesk,
    live::{Front, Live},
    names::Names,
    proxy::{Ends, ProxyError, read_header},
    reply::Reply,
    seats::{Network, Seat},
};

/// Refusals are told to the log so often at most: a flood of them must not become a flood of lines.
const TELLING_PERIOD: Duration = Duration::from_secs(1);

/// What every session needs from where it was accepted.
#[derive(Debug, Clone)]
pub(super) struct Doorkeeper {
    pub(super) front: Arc<Front>,
    pub(super) phase: watch::Receiver<Phase>,
    /// The front waits until nobody holds it any more.
    pub(super) life: mpsc::Sender<()>,
    /// TLS begins with the first byte of the session.
    pub(super) is_implicit: bool,
}

/// A connection that is about to become a session.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    /// As the client sees them, even behind a balancer.
    pub(super) ends: Ends,
    /// The address of this machine that the socket is bound to.
    pub(super) bound: IpAddr,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Full,
    NetworkFull,
    LockedOut,
}

impl Refusal {
    fn reply(self) -> Reply {
        Reply::new(
            421,
            match self {
                Self::Full => "Too many sessions (max_connection_num), try again later",
                Self::NetworkFull => "Too many sessions of your address (max_connection_per_ip)",
                Self::LockedOut => LOCKED_OUT,
            },
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Full => "max_connection_num sessions are there",
            Self::NetworkFull => "max_connection_per_ip sessions of the address are there",
            Self::LockedOut => "the address is locked out (failed_login_limit)",
        }
    }
}

/// What an address reads that has failed too often.
pub(super) const LOCKED_OUT: &str =
    "Too many failed logins from your address (failed_login_limit), try again later";

impl Doorkeeper {
    /// Refuses a connection or makes it a session of its own task. `most`: sessions in all.
    pub(super) fn admit(&self, stream: TcpStream, peer: SocketAddr, most: usize) {
        let gate = &self.front.gate;
        let Some(seat) = gate.seats.take(most) else {
            self.refuse(&stream, peer.ip(), Refusal::Full);
            return;
        };
        let local = match stream.local_addr() {
            Ok(local) => local,
            Err(error) => return debug!(%peer, %error, "connection lost at once"),
        };
        let arrival = Arrival { stream, ends: Ends { peer, local }, bound: local.ip() };
        let live = self.front.now();
        if live.config.proxy_networks.iter().any(|network| network.contains(&peer.ip().to_canonical())) {
            tokio::spawn(self.clone().admit_by_header(arrival, seat));
        } else if let Some(seat) = self.placed(&live, &arrival, seat) {
            tokio::spawn(self.clone().attend(arrival, seat));
        }
    }

    /// Behind a balancer: the header says who the client is.
    async fn admit_by_header(self, mut arrival: Arrival, seat: Seat) {
        let balancer = arrival.ends.peer;
        match read_header(&mut arrival.stream).await {
            Ok(Some(ends)) => arrival.ends = ends,
            Ok(None) => {}
            Err(ProxyError::Closed) => return debug!(%balancer, "connected and closed"),
            Err(error) => {
                let times = self.front.gate.headerless.tell();
                if let Some(times) = times {
                    warn!(%balancer, %error, times, "closed: a peer of proxy_protocol must send a PROXY header");
                }
                return;
            }
        }
        let live = self.front.now();
        if let Some(seat) = self.placed(&live, &arrival, seat) {
            drop(live);
            self.attend(arrival, seat).await;
        }
    }

    /// The seat, counted among those of its network; `None` where the client has been refused.
    fn placed(&self, live: &Live, arrival: &Arrival, mut seat: Seat) -> Option<Seat> {
        let peer = arrival.ends.peer.ip();
        let network = Network::of(peer);
        let refusal = if self.front.gate.lockout.is_locked(network, Instant::now()) {
            Refusal::LockedOut
        } else if !seat.place(network, live.config.sessions_per_address_max) {
            Refusal::NetworkFull
        } else {
            return Some(seat);
        };
        self.refuse(&arrival.stream, peer, refusal);
        None
    }

    /// 421; the socket is closed by whoever calls. Its buffer is empty, so the line fits.
    fn refuse(&self, stream: &TcpStream, peer: IpAddr, refusal: Refusal) {
        if let Some(times) = self.front.gate.refusals.tell() {
            warn!(address = %peer, reason = refusal.name(), times, "connection refused");
        }
        if self.is_implicit {
            // A client that expects TLS could not read it.
            return;
        }
        if let Err(error) = stream.try_write(&refusal.reply().encode(Names::default())) {
            debug!(%error, "refusal not told");
        }
    }

    async fn attend(self, arrival: Arrival, seat: Seat) {
        let Self { front, phase, life, is_implicit } = self;
        let peer = arrival.ends.peer;
        match FrontDesk::open(front, arrival, phase, is_implicit) {
            Ok(desk) => desk.attend().await,
            Err(error) => debug!(%peer, %error, "connection lost at once"),
        }
        drop((seat, life));
    }
}

/// Counts events of which a few are told.
#[derive(Debug, Default)]
pub(super) struct Rarely(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    untold: u64,
}

impl Rarely {
    /// How often it happened since it was told last, where it is time to tell.
    pub(super) fn tell(&self) -> Option<u64> {
        self.tell_at(Instant::now())
    }

    fn tell_at(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock();
        told.untold += 1;
        if told.last.is_some_and(|last| now < last + TELLING_PERIOD) {
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second_with_its_count() {
        let (rarely, now) = (Rarely::default(), Instant::now());
        assert_eq!(rarely.tell_at(now), Some(1));
        assert!((0..1000).all(|_| rarely.tell_at(now).is_none()));
        assert_eq!(rarely.tell_at(now + TELLING_PERIOD), Some(1001));
    }
}
