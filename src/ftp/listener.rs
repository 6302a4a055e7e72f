//! The control port: bound on every address, and accepted from.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::warn;

use super::{FtpError, Phase, arrival::Doorkeeper, live::Front};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Pause after a failed accept: out of descriptors, the next one would fail at once and for ever.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Tries to find a port that is free on every address.
const PORT_TRIES: usize = 32;
/// Descriptors of a session in a transfer: control, inner pair, client's data, inner data pair, file, and room for what
/// is opened in passing.
const DESCRIPTORS_PER_SESSION: usize = 10;
/// Descriptors of the program itself.
const DESCRIPTORS_APART: usize = 64;

/// The bound control sockets.
#[derive(Debug)]
pub(super) struct Listeners {
    explicit: Vec<TcpListener>,
    /// Where TLS begins with the first byte.
    implicit: Vec<TcpListener>,
}

/// The running accept loops and the sessions they have begun.
#[derive(Debug)]
pub(super) struct Sessions {
    loops: Vec<JoinHandle<()>>,
    /// Each session holds a sender of it.
    alive: mpsc::Receiver<()>,
}

impl Listeners {
    pub(super) fn bind(
        addresses: &[IpAddr],
        port: u16,
        implicit_port: Option<u16>,
    ) -> Result<Self, FtpError> {
        let implicit = implicit_port.map(|port| Self::bind_all(addresses, port)).transpose()?;
        Ok(Self { explicit: Self::bind_all(addresses, port)?, implicit: implicit.unwrap_or_default() })
    }

    fn bind_all(addresses: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, FtpError> {
        let tries = if port == 0 { PORT_TRIES } else { 1 };
        let mut outcome = Err(FtpError::NoAddress);
        for _ in 0..tries {
            outcome = Self::bind_once(addresses, port);
            let taken = matches!(&outcome, Err(FtpError::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse);
            if !taken {
                break;
            }
        }
        outcome
    }

    /// With port 0 the first address gets any free port, and the others the same one.
    fn bind_once(addresses: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, FtpError> {
        let mut port = port;
        let mut listeners = Vec::new();
        let mut missing = None;
        for &address in addresses {
            let address = SocketAddr::new(address, port);
            match listen(address).and_then(|listener| Ok((listener.local_addr()?.port(), listener))) {
                Ok((bound, listener)) => {
                    port = bound;
                    listeners.push(listener);
                }
                Err(source) if is_missing_family(&source) => {
                    warn!(%address, error = %source, "address family is not there, not listening on it");
                    missing = Some(FtpError::Listen { address, source });
                }
                Err(source) => return Err(FtpError::Listen { address, source }),
            }
        }
        if listeners.is_empty() { Err(missing.unwrap_or(FtpError::NoAddress)) } else { Ok(listeners) }
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        ports(&self.explicit)
    }

    pub(super) fn implicit_ports(&self) -> Vec<u16> {
        ports(&self.implicit)
    }

    /// Begins to accept.
    pub(super) fn accept(self, front: &Arc<Front>, phase: &watch::Receiver<Phase>) -> Sessions {
        let (life, alive) = mpsc::channel(1);
        let keeper = Doorkeeper { front: front.clone(), phase: phase.clone(), life, is_implicit: false };
        let explicit = self.explicit.into_iter().map(|listener| (listener, false));
        let loops = explicit
            .chain(self.implicit.into_iter().map(|listener| (listener, true)))
            .map(|(listener, is_implicit)| {
                tokio::spawn(accept(listener, Doorkeeper { is_implicit, ..keeper.clone() }))
            })
            .collect();
        Sessions { loops, alive }
    }
}

impl Sessions {
    /// No new session.
    pub(super) fn close(&self) {
        self.loops.iter().for_each(JoinHandle::abort);
    }

    /// Until no session is left.
    pub(super) async fn ended(&mut self) {
        while self.alive.recv().await.is_some() {}
    }
}

fn ports(listeners: &[TcpListener]) -> Vec<u16> {
    listeners.iter().filter_map(|listener| Some(listener.local_addr().ok()?.port())).collect()
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // IPv4 has a socket of its own: mapped addresses would confuse PASV and the peer's address.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_missing_family(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// As many as the descriptors allow, where nothing is set.
fn seat_count(set: usize) -> usize {
    if set != 0 {
        return set;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(DESCRIPTORS_APART) / DESCRIPTORS_PER_SESSION).max(1)
}

/// Accepts for ever.
async fn accept(listener: TcpListener, keeper: Doorkeeper) {
    let mut is_failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                is_failing = false;
                keeper.admit(stream, peer, seat_count(keeper.front.now().config.sessions_max));
            }
            Err(error) => {
                if !is_failing {
                    warn!(%error, "cannot accept, trying again");
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_share_a_port_that_was_not_set() {
        let addresses = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let ports = Listeners::bind(&addresses, 0, None).unwrap().ports();
        assert_eq!(ports.len(), 2);
        assert!(ports[0] != 0 && ports[0] == ports[1]);
    }

    #[tokio::test]
    async fn a_taken_port_and_no_address_are_errors() {
        let address = "127.0.0.1".parse().unwrap();
        let first = Listeners::bind(&[address], 0, None).unwrap();
        let error = Listeners::bind(&[address], first.ports()[0], None).unwrap_err();
        assert!(matches!(error, FtpError::Listen { .. }), "{error}");
        assert!(matches!(Listeners::bind(&[], 21, None), Err(FtpError::NoAddress)));
    }

    #[test]
    fn where_nothing_is_set_descriptors_bound_the_sessions() {
        assert!(seat_count(0) >= 1 && seat_count(7) == 7);
    }
}
