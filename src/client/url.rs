//! What a URL means: `ftp://[user[:password]@]host[:port]/path`, `ftps://` for TLS from the first byte.
//!
//! As in RFC 1738 section 3.2 a path is relative to where the login leads; `//path` begins at the root of the server.
//! `%XX` stands for any byte; what could end a line of the protocol is refused.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;

use super::ClientError;

/// One place on one server.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// TLS from the first byte.
    pub(super) implicit: bool,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// Without the slash that ends the host. Empty: where the login leads.
    pub(super) path: String,
}

const FTP_PORT: u16 = 21;
/// RFC 4217 does not know it; everybody does.
const FTPS_PORT: u16 = 990;

impl Url {
    /// Whether a word of the command line is a URL, and no local file.
    pub fn is_meant_by(word: &str) -> bool {
        let lower = word.to_ascii_lowercase();
        lower.starts_with("ftp://") || lower.starts_with("ftps://")
    }

    /// Whether two URLs can share a session.
    pub(super) fn shares_session(&self, other: &Self) -> bool {
        Self { path: String::new(), ..self.clone() } == Self { path: String::new(), ..other.clone() }
    }

    /// The last piece of the path; empty where it ends in a slash.
    pub(super) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for Url {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Usage(format!("{}: {why}", without_password(text)));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("is no URL: ftp://user@host/path"))?;
        let implicit = match scheme.to_ascii_lowercase().as_str() {
            "ftp" => false,
            "ftps" => true,
            _ => return Err(bad("only ftp:// and ftps:// are spoken here")),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').map_or((None, authority), |(a, b)| (Some(a), b));
        let decode = |text: &str| {
            let decoded =
                percent_decode_str(text).decode_utf8().map_err(|_| bad("is not UTF-8"))?.into_owned();
            // The protocol's lines end there.
            if decoded.contains(['\r', '\n', '\0']) {
                return Err(bad("line ends cannot be sent"));
            }
            Ok(decoded)
        };
        let (user, password) = match login.map(|login| {
            login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)))
        }) {
            None => (None, None),
            Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?),
        };
        let (host, port) = host_and_port(place).ok_or_else(|| bad("has no host, or no possible port"))?;
        // RFC 1738: the type of the transfer; here it is always binary.
        let path = path.rsplit_once(";type=").map_or(path, |(path, _)| path);
        Ok(Self {
            implicit,
            user: user.filter(|user| !user.is_empty()),
            password,
            host: decode(host)?,
            port: port.unwrap_or(if implicit { FTPS_PORT } else { FTP_PORT }),
            path: decode(path)?,
        })
    }
}

/// Host (without brackets) and port, where one is written.
fn host_and_port(place: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
    };
    (!host.is_empty()).then_some((host, port))
}

/// A URL as it may be shown: what stands between the first `:` of the login and `@` is nobody's business.
fn without_password(text: &str) -> String {
    let Some((before, rest)) = text.split_once("://") else { return text.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((login, host)) => {
            let user = login.split(':').next().unwrap_or_default();
            format!("{before}://{user}@{host}{path}")
        }
        None => text.to_owned(),
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.implicit { "ftps" } else { "ftp" };
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        write!(f, "{scheme}://{user}{}:{}/{}", self.host, self.port, self.path)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn all_pieces_are_found() {
        let full = url("ftp://me%40work:p%3Aw@host.example:2121/dir/a%20b;type=i");
        assert_eq!(full.user.as_deref(), Some("me@work"));
        assert_eq!(full.password.as_deref(), Some("p:w"));
        assert_eq!((full.host.as_str(), full.port, full.path.as_str()), ("host.example", 2121, "dir/a b"));
        let short = url("FTPS://[2001:db8::1]");
        assert_eq!((short.implicit, short.port, short.path.as_str()), (true, 990, ""));
        assert_eq!((short.host.as_str(), short.user), ("2001:db8::1", None));
        assert_eq!(url("ftp://h//etc/x").path, "/etc/x");
        assert_eq!(url("ftp://u:@h/").password.as_deref(), Some(""));
        assert_eq!(url("ftp://h/d/深").file_name(), "深");
        assert!(url("ftp://u@h/a").shares_session(&url("ftp://u@h:21/b")));
        assert!(!url("ftp://u@h/a").shares_session(&url("ftp://v@h/a")));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_no_password_is_told() {
        for text in [
            "",
            "host/path",
            "http://h/",
            "ftp://",
            "ftp:///x",
            "ftp://h:0/",
            "ftp://h:port/",
            "ftp://[::1/",
            "ftp://h/a%0d%0aDELE%20b",
            "ftp://u%0a@h/",
            "ftp://h/%ff",
            "ftp://me:secret@h:99999/x",
        ] {
            let told = text.parse::<Url>().unwrap_err().to_string();
            assert!(!told.contains("secret"), "{told}");
        }
        assert!(!format!("{:?}", url("ftp://me:secret@h/x")).contains("secret"));
    }

    proptest! {
        #[test]
        fn whatever_is_escaped_comes_back(user in "[^\r\n\0]{1,20}", password in "[^\r\n\0]{0,20}", path in "[^\r\n\0]{0,40}") {
            let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let parsed = url(&format!("ftp://{}:{}@h/{}", escape(&user), escape(&password), escape(&path)));
            prop_assert_eq!(parsed.user, Some(user));
            prop_assert_eq!(parsed.password, Some(password));
            prop_assert_eq!(parsed.path, path);
        }

        #[test]
        fn no_text_is_too_absurd(text in "(ftp://)?\\PC{0,60}") {
            drop(text.parse::<Url>());
        }
    }
}
