//! Active mode: PORT (RFC 959) and EPRT (RFC 2428), the client's own address and no other one.
//!
//! A server that connects to whatever address it is told attacks on behalf of others (the bounce attack, RFC 2577). So
//! the address has to be the client's own, unless `data_foreign_address` says otherwise, and the port one that no
//! service of the system has.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use tokio::net::TcpSocket;

use super::{
    data::{DIAL_TIME, DataConnection},
    reply::Reply,
};

/// Ports below belong to services (RFC 2577 section 3).
const PORT_MIN: u16 = 1024;

/// Where the client waits to be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ActiveDoor {
    local: IpAddr,
    target: SocketAddr,
}

/// What EPRT names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Address(SocketAddr),
    /// A family that is neither IPv4 nor IPv6.
    UnknownFamily,
}

/// `h1,h2,h3,h4,p1,p2` (RFC 959 section 4.1.2).
pub(super) fn parse_port(argument: &str) -> Option<Target> {
    let numbers: Option<Vec<u8>> = argument.trim().split(',').map(small_number).collect();
    let [a, b, c, d, high, low] = numbers?.try_into().ok()?;
    let port = u16::from_be_bytes([high, low]);
    Some(Target::Address((Ipv4Addr::new(a, b, c, d), port).into()))
}

/// `|family|address|port|` with any printable delimiter (RFC 2428 section 2).
pub(super) fn parse_eprt(argument: &str) -> Option<Target> {
    let argument = argument.trim();
    let delimiter = argument.chars().next().filter(char::is_ascii_graphic)?;
    let inner = argument.strip_prefix(delimiter)?.strip_suffix(delimiter)?;
    let pieces: Vec<&str> = inner.split(delimiter).collect();
    let [family, address, port] = pieces.try_into().ok()?;
    if family.is_empty() || !family.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let address: Option<IpAddr> = match family.trim_start_matches('0') {
        "1" => address.parse().ok().map(IpAddr::V4),
        "2" => address.parse().ok().map(IpAddr::V6),
        _ => return Some(Target::UnknownFamily),
    };
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    Some(Target::Address(SocketAddr::new(address?, port)))
}

fn small_number(text: &str) -> Option<u8> {
    let is_number = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

impl ActiveDoor {
    /// Judges what a client at `peer`, who came to `local`, has asked for.
    ///
    /// # Errors
    /// The refusal: 522 for a family that is not the control connection's (RFC 2428 section 2), 504 for an address or port
    /// that is not to be dialled (RFC 2577 section 3).
    pub(super) fn open(
        target: Target,
        local: IpAddr,
        peer: IpAddr,
        allows_foreign: bool,
    ) -> Result<Self, Reply> {
        let family = if local.is_ipv4() { 1 } else { 2 };
        let wrong_family = || Reply::new(522, format!("Network protocol not supported, use ({family})"));
        let Target::Address(target) = target else { return Err(wrong_family()) };
        let target = SocketAddr::new(target.ip().to_canonical(), target.port());
        if target.is_ipv4() != local.is_ipv4() {
            return Err(wrong_family());
        }
        if target.port() < PORT_MIN {
            return Err(Reply::new(504, "Data connections go to ports from 1024 upwards only"));
        }
        let is_somewhere = !target.ip().is_unspecified() && !target.ip().is_multicast();
        if !is_somewhere || target.ip() != peer && !allows_foreign {
            return Err(Reply::new(
                504,
                "Data connections go to your own address only (data_foreign_address)",
            ));
        }
        Ok(Self { local, target })
    }

    /// Dials, from the address that the client knows.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after [`DIAL_TIME`], else what the network says.
    pub(super) async fn dial(self) -> io::Result<DataConnection> {
        let begun = Instant::now();
        let socket = match self.local {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        match socket.bind(SocketAddr::new(self.local, 0)) {
            // Behind a balancer the address is the balancer's, as its header tells it.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            bound => bound?,
        }
        match tokio::time::timeout(DIAL_TIME, socket.connect(self.target)).await {
            Ok(stream) => DataConnection::new(stream?, begun),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<Target> {
        Some(Target::Address(text.parse().unwrap()))
    }

    #[test]
    fn arguments_of_port_are_six_small_numbers() {
        assert_eq!(parse_port("192,0,2,7,4,1"), address("192.0.2.7:1025"));
        for bad in [
            "",
            "1,2,3,4,5",
            "1,2,3,4,5,6,7",
            "256,0,0,1,4,1",
            "-1,0,0,1,4,1",
            "+1,0,0,1,4,1",
            "1,,3,4,5,6",
            "a",
        ] {
            assert_eq!(parse_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn arguments_of_eprt_have_a_delimiter_of_the_clients_choice() {
        assert_eq!(parse_eprt("|1|192.0.2.7|1025|"), address("192.0.2.7:1025"));
        assert_eq!(parse_eprt("!2!2001:db8::7!65535!"), address("[2001:db8::7]:65535"));
        assert_eq!(parse_eprt("|3|x|1|"), Some(Target::UnknownFamily));
        for bad in [
            "",
            "|",
            "||",
            "||||",
            "|1|192.0.2.7|1025",
            "|1|2001:db8::7|1025|",
            "|2|192.0.2.7|1025|",
            "|1|192.0.2.7|65536|",
            "|1|192.0.2.7|+80|",
            "|x|192.0.2.7|1025|",
            "|1|192.0.2.7|1025|6|",
        ] {
            assert_eq!(parse_eprt(bad), None, "{bad}");
        }
    }

    #[test]
    fn nobody_but_the_client_is_dialled_and_no_service_ever() {
        let (local, peer): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.7".parse().unwrap());
        let code = |argument: &str, allows_foreign| {
            let target = parse_eprt(argument).unwrap();
            ActiveDoor::open(target, local, peer, allows_foreign).map_err(|reply| reply.code())
        };
        assert!(code("|1|192.0.2.7|1024|", false).is_ok());
        assert_eq!(code("|1|192.0.2.7|1023|", true), Err(504));
        assert_eq!(code("|1|192.0.2.8|5000|", false), Err(504));
        assert!(code("|1|192.0.2.8|5000|", true).is_ok());
        assert_eq!(code("|1|0.0.0.0|5000|", true), Err(504));
        assert_eq!(code("|1|224.0.0.1|5000|", true), Err(504));
        assert_eq!(code("|2|2001:db8::7|5000|", true), Err(522));
        assert_eq!(code("|7|x|5000|", true), Err(522));
        assert!(code("|2|::ffff:192.0.2.7|5000|", false).is_ok(), "a mapped address is the same one");
    }

    proptest::proptest! {
        #[test]
        fn no_argument_makes_the_parsers_stumble(argument: String) {
            parse_port(&argument);
            parse_eprt(&argument);
        }
    }
}
