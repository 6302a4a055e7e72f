//! Replies, and the one table from an errno of the mount to what the client reads.
//!
//! libunftp has a table of its own, by kinds of error; it blurs what the mount says and never reaches a
//! client. Here each errno keeps its reason, and what no retry can cure is a 5xx.

use std::io;

use rustix::io::Errno;

use super::{command::Misheard, names::Names, path::ClientPath};

/// What is said to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    code: u16,
    /// The last line is the one behind `CODE `; those before it make a reply of many lines.
    lines: Vec<String>,
}

impl Reply {
    pub(super) fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code, lines: vec![text.into()] }
    }

    /// `CODE-first`, the lines indented by a space (RFC 959 section 4.2), `CODE last`.
    pub(super) fn lines(code: u16, first: &str, body: Vec<String>, last: &str) -> Self {
        let mut lines = vec![first.to_owned()];
        lines.extend(body.into_iter().map(|line| format!(" {line}")));
        lines.push(last.to_owned());
        Self { code, lines }
    }

    pub(super) fn code(&self) -> u16 {
        self.code
    }

    /// As it travels. Line ends within a text (a name in the bucket may hold them) become `?`.
    pub(super) fn encode(&self, names: Names) -> Vec<u8> {
        let mut bytes = Vec::new();
        let last = self.lines.len().saturating_sub(1);
        for (index, line) in self.lines.iter().enumerate() {
            let line = line.replace(['\r', '\n', '\0'], "?");
            if index == last {
                bytes.extend_from_slice(format!("{} ", self.code).as_bytes());
            } else if index == 0 {
                bytes.extend_from_slice(format!("{}-", self.code).as_bytes());
            }
            bytes.extend_from_slice(&names.encode(&line));
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}

impl From<Misheard> for Reply {
    fn from(misheard: Misheard) -> Self {
        match misheard {
            Misheard::UnknownVerb => Self::new(500, "Unknown command"),
            Misheard::NotImplemented => Self::new(502, "Command not implemented"),
            Misheard::Syntax(why) => Self::new(501, why),
            Misheard::Parameter(why) => Self::new(504, why),
            Misheard::Name(why) => Self::new(553, why),
        }
    }
}

/// What was tried: the same errno has different reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Look,
    /// A listing of facts, which only a directory has (RFC 3659 section 7.2).
    LookForFacts,
    Read,
    Store,
    Append,
    Remove,
    MakeDirectory,
    Rename,
    /// Times and modes.
    Change,
}

/// The errno of an error of the mount. cap-std refuses a path that leads out of the root without one.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    match (Errno::from_io_error(error), error.kind()) {
        (Some(errno), _) => errno,
        (None, io::ErrorKind::PermissionDenied) => Errno::XDEV,
        (None, _) => Errno::IO,
    }
}

/// The reply to a command that the mount refused.
pub(super) fn refusal(errno: Errno, deed: Deed, path: &ClientPath) -> Reply {
    let (code, why) = reason(errno, deed);
    Reply::new(code, format!("{path}: {why}"))
}

/// Code and reason of an errno.
pub(super) fn reason(errno: Errno, deed: Deed) -> (u16, &'static str) {
    match errno {
        Errno::NOENT => (550, "No such file or directory"),
        Errno::EXIST => (550, "It exists already"),
        Errno::ISDIR => (550, "It is a directory"),
        Errno::NOTDIR if deed == Deed::LookForFacts => (501, "MLSD lists directories: say MLST"),
        Errno::NOTDIR => (550, "It, or a part of its path, is not a directory"),
        Errno::NOTEMPTY => (550, "The directory is not empty"),
        Errno::PERM => (550, not_permitted(deed)),
        Errno::ROFS => (550, "This account may only read (authority)"),
        Errno::ACCESS => (550, "Access denied by this account's authority or by the store"),
        Errno::XDEV | Errno::LOOP => (550, "It leads out of your home"),
        Errno::OPNOTSUPP => (550, "Not supported on this mount"),
        Errno::NOTTY => (550, "Not on a mount of cosgate"),
        Errno::NXIO | Errno::NODEV => (550, "It is not a plain file"),
        Errno::FBIG => (552, "The file is larger than single_file_max_size allows"),
        Errno::DQUOT => (552, "The quota of this account is used up"),
        Errno::NOSPC => (452, "No space left"),
        Errno::NAMETOOLONG => (553, "The name is too long"),
        Errno::INVAL => (553, "The name is not possible here"),
        Errno::BUSY => (450, "It is busy, try again later"),
        Errno::NOTCONN | Errno::CONNABORTED => (450, "The mount is away, try again later"),
        Errno::AGAIN => (450, "The store is overloaded, try again later"),
        Errno::STALE => (451, "It was changed or removed meanwhile"),
        Errno::TIMEDOUT => (451, "The store did not answer in time"),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => (451, "The server is short of resources"),
        _ => (451, "The store failed, try again later"),
    }
}

fn not_permitted(deed: Deed) -> &'static str {
    match deed {
        Deed::Remove => "Not permitted: delete_enable = false forbids deleting",
        Deed::Rename => "Not permitted: delete_enable or overwrite_enable = false forbids it",
        Deed::Store | Deed::Append => "Not permitted: overwrite_enable = false forbids it",
        Deed::Look | Deed::LookForFacts | Deed::Read | Deed::MakeDirectory | Deed::Change => {
            "Not permitted for this account"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_retry_cannot_cure_is_a_5xx() {
        let for_ever = [
            Errno::NOENT,
            Errno::EXIST,
            Errno::ISDIR,
            Errno::NOTDIR,
            Errno::NOTEMPTY,
            Errno::PERM,
            Errno::ROFS,
            Errno::ACCESS,
            Errno::FBIG,
            Errno::DQUOT,
            Errno::NAMETOOLONG,
            Errno::INVAL,
            Errno::OPNOTSUPP,
        ];
        for errno in for_ever {
            assert_eq!(reason(errno, Deed::Store).0 / 100, 5, "{errno}");
        }
        let for_now =
            [Errno::BUSY, Errno::NOTCONN, Errno::CONNABORTED, Errno::IO, Errno::STALE, Errno::TIMEDOUT];
        for errno in for_now {
            assert_eq!(reason(errno, Deed::Store).0 / 100, 4, "{errno}");
        }
    }

    #[test]
    fn replies_travel_line_by_line_and_cannot_be_broken_by_a_name() {
        assert_eq!(Reply::new(200, "yes\r\n226 lie").encode(Names::default()), b"200 yes??226 lie\r\n");
        let many = Reply::lines(211, "Features:", vec!["SIZE".into(), "226 x".into()], "End");
        assert_eq!(many.encode(Names::default()), b"211-Features:\r\n SIZE\r\n 226 x\r\n211 End\r\n");
    }
}
