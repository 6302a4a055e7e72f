//! Passive mode: ports of ours that clients dial.
//!
//! A port is chosen and bound here, and a connection accepted only from the address of the control connection,
//! unless `data_foreign_address` says otherwise: a stranger who finds the port is dropped, and the wait goes on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, task::JoinHandle};
use tracing::warn;

use super::data::{DIAL_TIME, DataConnection};
use crate::config::{PassiveHost, PassivePorts};

/// How often a `masquerade_address` that is a name is looked up again.
const LOOKUP_PERIOD: Duration = Duration::from_secs(60);
/// Connections that may wait at a passive port: one is ours, the others are strangers to be dropped.
const BACKLOG: i32 = 16;

/// What passive clients are told, and which ports are theirs.
#[derive(Debug)]
pub(super) struct PassiveDoors {
    ports: PassivePorts,
    host: Option<PassiveHost>,
    /// What the name was looked up as last.
    looked_up: RwLock<Option<Ipv4Addr>>,
}

/// A passive port that waits for its client. Closed when it is dropped.
#[derive(Debug)]
pub(super) struct PassiveDoor {
    port: u16,
    dialled: JoinHandle<io::Result<DataConnection>>,
}

impl PassiveDoors {
    pub(super) fn new(ports: PassivePorts, host: Option<PassiveHost>) -> Self {
        Self { ports, host, looked_up: RwLock::new(None) }
    }

    /// The address that PASV tells a client who came to `local`.
    pub(super) fn told_address(&self, local: Ipv4Addr) -> Ipv4Addr {
        match &self.host {
            Some(PassiveHost::Address(IpAddr::V4(address))) => *address,
            Some(PassiveHost::Name(_)) => self.looked_up.read().unwrap_or(local),
            // An IPv6 address cannot be told by PASV, and EPSV tells none.
            Some(PassiveHost::Address(IpAddr::V6(_))) | None => local,
        }
    }

    /// Looks the name up, again and again, for as long as it is polled; at once over where there is none.
    pub(super) async fn keep_looking_up(&self) {
        let Some(PassiveHost::Name(name)) = &self.host else { return };
        loop {
            match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(mut addresses) => {
                    let found = addresses.find_map(|address| match address.ip() {
                        IpAddr::V4(address) => Some(address),
                        IpAddr::V6(_) => None,
                    });
                    match found {
                        Some(address) => *self.looked_up.write() = Some(address),
                        None => warn!(name, "masquerade_address has no IPv4 address"),
                    }
                }
                // The last one known stays.
                Err(error) => warn!(name, %error, "masquerade_address cannot be looked up"),
            }
            tokio::time::sleep(LOOKUP_PERIOD).await;
        }
    }

    /// Listens on a free port of the range, for a client at `peer` (`None`: anybody) who came to `local`.
    ///
    /// # Errors
    /// EADDRINUSE where no port is free.
    pub(super) fn open(&self, local: IpAddr, peer: Option<IpAddr>) -> io::Result<PassiveDoor> {
        let PassivePorts { first, last } = self.ports;
        let count = u32::from(last.saturating_sub(first)) + 1;
        let start = fastrand::u32(0..count);
        let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
        for step in 0..count {
            let port = u16::try_from(u32::from(first) + (start + step) % count).unwrap_or(last);
            match listen(SocketAddr::new(local, port)) {
                Ok(listener) => return PassiveDoor::open(listener, peer),
                // A port that is bound by somebody else tells so at bind or at listen.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Else ports of transfers that are just over (TIME_WAIT) would count as taken.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl PassiveDoor {
    fn open(listener: TcpListener, peer: Option<IpAddr>) -> io::Result<Self> {
        let port = listener.local_addr()?.port();
        Ok(Self { port, dialled: tokio::spawn(wait_for(listener, peer)) })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the client to dial.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after [`DIAL_TIME`].
    pub(super) async fn accept(mut self) -> io::Result<DataConnection> {
        match tokio::time::timeout(DIAL_TIME, &mut self.dialled).await {
            Ok(Ok(dialled)) => dialled,
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Drop for PassiveDoor {
    fn drop(&mut self) {
        self.dialled.abort();
    }
}

/// The first connection from `peer`.
async fn wait_for(listener: TcpListener, peer: Option<IpAddr>) -> io::Result<DataConnection> {
    let opened = Instant::now();
    loop {
        let (stream, from) = listener.accept().await?;
        match peer {
            Some(client) if from.ip().to_canonical() != client => {
                warn!(%from, %client, "stranger at a passive port dropped (data_foreign_address)");
            }
            Some(_) | None => return DataConnection::new(stream, opened),
        }
    }
}

/// Shared by all sessions.
pub(super) type SharedDoors = Arc<PassiveDoors>;

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn doors(first: u16, last: u16) -> PassiveDoors {
        PassiveDoors::new(PassivePorts { first, last }, None)
    }

    #[tokio::test]
    async fn every_port_of_the_range_is_tried_and_then_it_is_an_error() {
        // Three neighbours that nobody else on this machine has.
        let (first, doors, open) = (0..100)
            .find_map(|_| {
                let first = fastrand::u16(20_000..30_000);
                let doors = doors(first, first + 2);
                let open: io::Result<Vec<_>> = (0..3).map(|_| doors.open(LOCAL, Some(LOCAL))).collect();
                Some((first, doors, open.ok()?))
            })
            .unwrap();
        let mut ports: Vec<u16> = open.iter().map(PassiveDoor::port).collect();
        ports.sort_unstable();
        assert_eq!(ports, [first, first + 1, first + 2]);
        assert_eq!(doors.open(LOCAL, Some(LOCAL)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn strangers_are_dropped_and_the_client_still_gets_through() {
        let door = doors(48_720, 48_739).open(LOCAL, Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)))).unwrap();
        let address = SocketAddr::new(LOCAL, door.port());
        let accepted = tokio::spawn(door.accept());
        let mut stranger = TcpStream::connect(address).await.unwrap();
        assert_eq!(stranger.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut client = socket.connect(address).await.unwrap();
        let mut data = accepted.await.unwrap().unwrap();
        data.write_all(b"hello", Duration::from_secs(1)).await.unwrap();
        data.finish();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
    }

    #[tokio::test]
    async fn what_broke_is_reset_and_what_stalls_is_told() {
        let door = doors(48_740, 48_759).open(LOCAL, Some(LOCAL)).unwrap();
        let mut client = TcpStream::connect((LOCAL, door.port())).await.unwrap();
        let mut data = door.accept().await.unwrap();
        let flood = vec![0; 64 * 1024 * 1024];
        let error = data.write_all(&flood, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        data.reset();
        let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(client.write_all(b"x").await.is_err());
    }

    #[tokio::test]
    async fn a_masquerade_name_is_looked_up_in_the_background() {
        let host = Some(PassiveHost::Name("localhost".to_owned()));
        let doors = PassiveDoors::new(PassivePorts { first: 1, last: 1 }, host);
        let local = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(doors.told_address(local), local);
        tokio::select! {
            () = doors.keep_looking_up() => unreachable!("it never ends"),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        assert_eq!(doors.told_address(local), Ipv4Addr::LOCALHOST);
    }
}
