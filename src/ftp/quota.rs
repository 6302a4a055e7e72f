//! What is left of a quota: AVBL and SITE QUOTA, and ALLO of more than there can ever be.
//!
//! The mount tells it by statfs(2), so no further word is needed between front and mount; without a quota it
//! tells numbers so large that nobody reaches them.

use std::io;

use super::{
    desk::{FrontDesk, Login},
    home::Root,
    path::ClientPath,
    reply::{Deed, Reply, errno_of, refusal},
};

/// Room in a mount, in bytes and in objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Space {
    bytes: Room,
    files: Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    total: u64,
    free: u64,
    /// From here on a total means that there is no limit.
    endless: u64,
}

impl Space {
    fn of(root: &Root) -> io::Result<Self> {
        let told = rustix::fs::fstatvfs(root.descriptor())?;
        let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
        Ok(Self {
            bytes: Room { total: bytes(told.f_blocks), free: bytes(told.f_bavail), endless: ENDLESS_BYTES },
            files: Room { total: told.f_files, free: told.f_ffree, endless: ENDLESS_FILES },
        })
    }
}

impl Room {
    fn is_limited(self) -> bool {
        self.total < self.endless
    }

    /// `Bytes: 300 of 1000 used, 700 left`
    fn line(self, what: &str) -> String {
        if self.is_limited() {
            let used = self.total.saturating_sub(self.free);
            format!("{what}: {used} of {} used, {} left", self.total, self.free)
        } else {
            format!("{what}: no limit")
        }
    }
}

impl FrontDesk {
    async fn space(&self) -> io::Result<Space> {
        let Login::In(session) = &self.login else { return Err(io::ErrorKind::NotConnected.into()) };
        session.context.user().home.run(|root| Space::of(root)).await
    }

    /// AVBL (draft-peterson-streamlined-ftp-command-extensions, section 4): bytes that can still be stored below a
    /// directory, which has been looked up.
    pub(super) async fn available(&self, path: &ClientPath) -> Reply {
        match self.space().await {
            Ok(space) => Reply::new(213, space.bytes.free.to_string()),
            Err(error) => refusal(errno_of(&error), Deed::Look, path),
        }
    }

    /// SITE QUOTA.
    pub(super) async fn quota(&self) -> Reply {
        match self.space().await {
            Ok(space) => {
                let body = vec![space.bytes.line("Bytes"), space.files.line("Objects")];
                Reply::lines(211, "Quota:", body, "End")
            }
            Err(error) => refusal(errno_of(&error), Deed::Look, &ClientPath::home()),
        }
    }

    /// ALLO: what cannot fit even into an empty account is refused now, and not behind its last byte. What else
    /// fits is known when it is stored: it may replace something.
    pub(super) async fn expect(&mut self, bytes: u64) -> Reply {
        match self.space().await {
            Ok(space) if space.bytes.is_limited() && bytes > space.bytes.total => {
                let total = space.bytes.total;
                Reply::new(552, format!("The quota of this account is {total} bytes in all"))
            }
            // A mount that is away is told by the transfer.
            Ok(_) | Err(_) => {
                self.bytes_told = Some(bytes);
                Reply::new(200, format!("{bytes} bytes are expected"))
            }
        }
    }
}

/// What a mount without a limit tells at least: 2^60 bytes.
const ENDLESS_BYTES: u64 = 1 << 60;
/// And 2^30 files.
const ENDLESS_FILES: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_told_with_their_limits() {
        let room = |total, free| Room { total, free, endless: ENDLESS_BYTES };
        assert_eq!(room(1000, 700).line("Bytes"), "Bytes: 300 of 1000 used, 700 left");
        assert_eq!(room(1000, 0).line("Bytes"), "Bytes: 1000 of 1000 used, 0 left");
        assert_eq!(room(1 << 60, 1 << 60).line("Bytes"), "Bytes: no limit");
    }
}
