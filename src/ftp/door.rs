//! How the next data connection comes about: PASV, EPSV, PORT, EPRT. The last one said replaces those before it.

use std::{io, net::IpAddr};

use tracing::warn;

use super::{
    active::{ActiveDoor, Target},
    command::EpsvArgument,
    data::DataConnection,
    desk::FrontDesk,
    passive::PassiveDoor,
    reply::Reply,
};

/// Where client and server are going to meet.
#[derive(Debug)]
pub(super) enum Door {
    /// The client dials.
    Passive(PassiveDoor),
    /// It is dialled.
    Active(ActiveDoor),
}

impl Door {
    /// Waits for the client, or dials it.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after [`super::data::DIAL_TIME`].
    pub(super) async fn meet(self) -> io::Result<DataConnection> {
        match self {
            Self::Passive(door) => door.accept().await,
            Self::Active(door) => door.dial().await,
        }
    }
}

impl FrontDesk {
    pub(super) fn passive(&mut self) -> Reply {
        self.door = None;
        if self.only_extended {
            return only_epsv();
        }
        let IpAddr::V4(local) = self.local.ip() else {
            return Reply::new(425, "PASV cannot tell an IPv6 address: use EPSV");
        };
        let [a, b, c, d] = self.front.now().doors.told_address(local).octets();
        self.open_door(|port| {
            let [high, low] = port.to_be_bytes();
            Reply::new(227, format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low})"))
        })
    }

    pub(super) fn extended_passive(&mut self, argument: EpsvArgument) -> Reply {
        let family = if self.local.is_ipv4() { 1 } else { 2 };
        match argument {
            EpsvArgument::All => {
                self.only_extended = true;
                return Reply::new(200, "From now on only EPSV is taken");
            }
            EpsvArgument::Family(asked) if asked != family => {
                return Reply::new(522, format!("Network protocol not supported, use ({family})"));
            }
            EpsvArgument::Family(_) | EpsvArgument::Any => {}
        }
        self.door = None;
        self.open_door(|port| Reply::new(229, format!("Entering Extended Passive Mode (|||{port}|)")))
    }

    fn open_door(&mut self, told: impl FnOnce(u16) -> Reply) -> Reply {
        let live = self.front.now();
        let peer = (!live.config.data_foreign_address).then(|| self.peer.ip());
        match live.doors.open(self.bound, peer) {
            Ok(door) => {
                let reply = told(door.port());
                self.door = Some(Door::Passive(door));
                reply
            }
            Err(error) => {
                warn!(peer = %self.peer, %error, "no passive port: passive_port may be too narrow");
                Reply::new(425, "No passive port is free, try again later")
            }
        }
    }

    /// PORT and EPRT. Dialled when the transfer begins.
    pub(super) fn active(&mut self, target: Target) -> Reply {
        self.door = None;
        if self.only_extended {
            return only_epsv();
        }
        let live = self.front.now();
        if !live.config.active_mode {
            return Reply::new(502, "Active mode is switched off (active_mode): use EPSV or PASV");
        }
        let foreign = live.config.data_foreign_address;
        match ActiveDoor::open(target, self.bound, self.peer.ip(), foreign) {
            Ok(door) => {
                self.door = Some(Door::Active(door));
                Reply::new(200, "You will be dialled")
            }
            Err(refusal) => {
                warn!(peer = %self.peer, ?target, "data connection to somewhere else refused");
                refusal
            }
        }
    }
}

/// RFC 2428 section 4: the server must refuse every other way.
fn only_epsv() -> Reply {
    Reply::new(503, "After EPSV ALL only EPSV is taken (RFC 2428)")
}
