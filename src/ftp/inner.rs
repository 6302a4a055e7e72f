//! The seam to the stock server: one libunftp session on a loopback pair, and nothing else of it.
//!
//! ```text
//! desk ── USER, PASS, commands, one at a time ──> libunftp ──> MountStorage
//!      <── one final reply each (1xx before it for a transfer) ──
//! ```
//!
//! A `Server` is built for each session, because its storage belongs to that session. The pair is made by a
//! listener of its own and checked at both ends, so nobody else on the machine can slip in; the login inward
//! uses a secret that exists for this session only. The data connection that libunftp wants for a transfer
//! is opened for form's sake and carries nothing. What is relied on here stands in `tests/ftp_contract.rs`.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use async_trait::async_trait;
use libunftp::ServerBuilder;
use socket2::SockRef;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tracing::debug;
use unftp_core::auth::{
    AuthenticationError, Authenticator, Credentials, Principal, UserDetailError, UserDetailProvider,
};

use super::{
    storage::{InnerUser, MountStorage, SessionContext},
    users::random_word,
};

/// Longest wait for a reply of a command that moves no bytes. The mount answers earlier, by its own deadlines.
const REPLY_TIME_MAX: Duration = Duration::from_secs(600);
/// libunftp's own idle timer must never be the first: the desk has one.
const INNER_IDLE_SECONDS: u64 = 10 * 365 * 24 * 3600;
/// libunftp gives a data connection up that nothing has been asked of for five minutes.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
/// A reply line holds a path at most.
const REPLY_BUFFER_BYTES: usize = 512;

/// A session of the stock server.
#[derive(Debug)]
pub(super) struct InnerSession {
    control: BufReader<TcpStream>,
    /// The data connection of the transfer to come, and since when it is there.
    ready: Option<(TcpStream, Instant)>,
    /// What its sticky restart offset is: only a successful transfer clears it.
    restart: u64,
}

/// What the stock server says to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InnerReply {
    pub(super) code: u16,
    /// Its last line, without the code.
    text: String,
}

impl InnerReply {
    pub(super) fn is_good(&self) -> bool {
        (200..400).contains(&self.code)
    }
}

impl InnerSession {
    /// Builds a server for this context and logs in.
    ///
    /// # Errors
    /// Where no socket is left, or the stock server does not do what is relied on.
    pub(super) async fn open(context: Arc<SessionContext>) -> io::Result<Self> {
        let (ours, theirs) = loopback_pair().await?;
        let secret = Arc::new(InnerLogin { user: context.user().name.clone(), password: random_word() });
        let generator = Box::new(move || MountStorage::new(context.clone()));
        let server = ServerBuilder::with_user_detail_provider(generator, secret.clone())
            .authenticator(secret.clone())
            // Any free port: the range 0..=0 has one number, and port 0 means any.
            .passive_ports(0..=0)
            .idle_session_timeout(INNER_IDLE_SECONDS)
            .build()
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = server.service(theirs).await {
                debug!(%error, "inner session ended");
            }
        });
        let control = BufReader::with_capacity(REPLY_BUFFER_BYTES, ours);
        let mut session = Self { control, ready: None, restart: 0 };
        let greeting = session.reply().await?;
        expect(&greeting, 220)?;
        // Its name is of no account inside: the context knows the user.
        expect(&session.ask("USER cosgate").await?, 331)?;
        expect(&session.ask(&format!("PASS {}", secret.password)).await?, 230)?;
        Ok(session)
    }

    /// Says a command that moves no bytes and hears its final reply.
    ///
    /// # Errors
    /// Where the session has died: it must be opened anew.
    pub(super) async fn ask(&mut self, line: &str) -> io::Result<InnerReply> {
        self.say(line).await?;
        match tokio::time::timeout(REPLY_TIME_MAX, self.reply()).await {
            Ok(reply) => reply,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Says a transfer command and hears its final reply. The storage is called meanwhile, and takes the
    /// order that lies in the context.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) async fn transfer(&mut self, line: &str, restart: u64) -> io::Result<InnerReply> {
        self.make_ready().await?;
        // Closed when this is over.
        let _data = self.ready.take();
        if self.restart != restart {
            expect(&self.ask(&format!("REST {restart}")).await?, 350)?;
            self.restart = restart;
        }
        self.say(line).await?;
        let first = self.reply().await?;
        if first.code != 150 {
            return Ok(first);
        }
        let last = self.reply().await?;
        if last.code == 226 {
            self.restart = 0;
        }
        Ok(last)
    }

    /// Opens the data connection of the transfer to come: in the time that the client takes to dial its own.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) async fn make_ready(&mut self) -> io::Result<()> {
        if self.ready.as_ref().is_some_and(|(_, since)| since.elapsed() < READY_TIME_MAX) {
            return Ok(());
        }
        self.ready = None;
        let passive = self.ask("EPSV").await?;
        expect(&passive, 229)?;
        let port = passive_port(&passive.text).ok_or_else(|| surprise(&passive))?;
        let data = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        // Closed by a reset, it leaves no TIME_WAIT behind: ten thousand of them make bind(0) slow.
        SockRef::from(&data).set_linger(Some(Duration::ZERO))?;
        self.ready = Some((data, Instant::now()));
        Ok(())
    }

    /// As if the stock server had died.
    #[cfg(test)]
    pub(super) fn cut(&self) {
        SockRef::from(self.control.get_ref()).shutdown(std::net::Shutdown::Both).unwrap();
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        debug_assert!(!line.contains(['\r', '\n', '\0']), "a line in a line");
        self.control.get_mut().write_all(format!("{line}\r\n").as_bytes()).await
    }

    /// `CODE text`, or `CODE-first` until `CODE last`.
    async fn reply(&mut self) -> io::Result<InnerReply> {
        let mut many: Option<String> = None;
        loop {
            let mut line = Vec::new();
            if self.control.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            let digits = line.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
            let Some(digits) = digits else { continue };
            if many.as_deref().is_some_and(|first| first != digits) {
                continue;
            }
            if line.as_bytes().get(3) == Some(&b'-') {
                many = Some(digits.to_owned());
                continue;
            }
            let code = digits.parse().map_err(io::Error::other)?;
            return Ok(InnerReply { code, text: line.get(4..).unwrap_or_default().to_owned() });
        }
    }
}

impl Drop for InnerSession {
    fn drop(&mut self) {
        // As for the data connection: nothing is left to be said, so a reset does no harm.
        drop(SockRef::from(self.control.get_ref()).set_linger(Some(Duration::ZERO)));
    }
}

fn expect(reply: &InnerReply, code: u16) -> io::Result<()> {
    if reply.code == code { Ok(()) } else { Err(surprise(reply)) }
}

fn surprise(reply: &InnerReply) -> io::Error {
    io::Error::other(format!("inner session said {} {}", reply.code, reply.text))
}

/// The port in `… (|||port|)` (RFC 2428 section 3).
fn passive_port(text: &str) -> Option<u16> {
    text.split_once("(|||")?.1.split_once("|)")?.0.parse().ok()
}

/// Both ends of a loopback connection that nobody else has.
async fn loopback_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let ours = TcpStream::connect(address).await?;
    loop {
        let (theirs, from) = listener.accept().await?;
        if from == ours.local_addr()? {
            ours.set_nodelay(true)?;
            theirs.set_nodelay(true)?;
            return Ok((ours, theirs));
        }
    }
}

/// Lets in who knows the secret of this session.
#[derive(Debug)]
struct InnerLogin {
    user: String,
    password: String,
}

#[async_trait]
impl Authenticator for InnerLogin {
    async fn authenticate(&self, _user: &str, told: &Credentials) -> Result<Principal, AuthenticationError> {
        if told.password.as_deref() == Some(&self.password) {
            Ok(Principal { username: self.user.clone() })
        } else {
            Err(AuthenticationError::BadPassword)
        }
    }
}

#[async_trait]
impl UserDetailProvider for InnerLogin {
    type User = InnerUser;

    async fn provide_user_detail(&self, principal: &Principal) -> Result<InnerUser, UserDetailError> {
        Ok(InnerUser(principal.username.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_an_extended_passive_reply_is_found() {
        assert_eq!(passive_port("Entering Extended Passive Mode (|||50123|)"), Some(50123));
        assert_eq!(passive_port("Entering Extended Passive Mode (|||99999|)"), None);
        assert_eq!(passive_port("Entering"), None);
    }

    #[tokio::test]
    async fn both_ends_of_a_pair_are_each_others() {
        let (ours, theirs) = loopback_pair().await.unwrap();
        assert_eq!(ours.local_addr().unwrap(), theirs.peer_addr().unwrap());
        assert_eq!(ours.peer_addr().unwrap(), theirs.local_addr().unwrap());
    }
}
