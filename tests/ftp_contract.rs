//! What the FTP front relies on in libunftp, pinned at `=0.24.0`: a new version has to pass this first.
//!
//! One backend call per command, one final reply per command (after one 1xx for a transfer), the text of
//! 229, and a restart offset that only a successful transfer clears.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fmt::{self, Debug},
    io::{self, Cursor},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use libunftp::ServerBuilder;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use unftp_core::{
    auth::{
        AuthenticationError, Authenticator, Credentials, Principal, UserDetail, UserDetailError,
        UserDetailProvider,
    },
    storage::{Error, ErrorKind, FEATURE_RESTART, Fileinfo, Metadata, Result, StorageBackend},
};

/// What was called, in order.
type Calls = Arc<Mutex<Vec<String>>>;

/// A backend that writes down what it is asked, and fails for paths that hold `bad`.
#[derive(Debug)]
struct Recorder {
    calls: Calls,
}

impl Recorder {
    fn call(&self, name: &str, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref().to_string_lossy().into_owned();
        self.calls.lock().push(format!("{name} {path}"));
        if path.contains("bad") { Err(Error::from(ErrorKind::PermanentFileNotAvailable)) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Known;

impl UserDetail for Known {}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("known")
    }
}

#[derive(Debug)]
struct Five;

impl Metadata for Five {
    fn len(&self) -> u64 {
        5
    }

    fn is_dir(&self) -> bool {
        false
    }

    fn is_file(&self) -> bool {
        true
    }

    fn is_symlink(&self) -> bool {
        false
    }

    fn modified(&self) -> Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH)
    }

    fn gid(&self) -> u32 {
        0
    }

    fn uid(&self) -> u32 {
        0
    }
}

#[async_trait]
impl StorageBackend<Known> for Recorder {
    type Metadata = Five;

    fn enter(&mut self, _user: &Known) -> io::Result<()> {
        self.calls.lock().push("enter".to_owned());
        Ok(())
    }

    fn supported_features(&self) -> u32 {
        FEATURE_RESTART
    }

    async fn metadata<P: AsRef<Path> + Send + Debug>(&self, _user: &Known, path: P) -> Result<Five> {
        self.call("metadata", path).map(|()| Five)
    }

    async fn list<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &Known,
        path: P,
    ) -> Result<Vec<Fileinfo<PathBuf, Five>>>
    where
        Five: Metadata,
    {
        self.call("list", path).map(|()| Vec::new())
    }

    async fn list_fmt<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &Known,
        path: P,
    ) -> std::result::Result<Cursor<Vec<u8>>, Error>
    where
        Five: Metadata + 'static,
    {
        self.call("list_fmt", path).map(|()| Cursor::new(Vec::new()))
    }

    async fn nlst<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &Known,
        path: P,
    ) -> std::result::Result<Cursor<Vec<u8>>, io::Error>
    where
        Five: Metadata + 'static,
    {
        self.call("nlst", path).map(|()| Cursor::new(Vec::new())).map_err(io::Error::other)
    }

    async fn get<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &Known,
        path: P,
        _start: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        self.call("get", path)?;
        Ok(Box::new(tokio::io::empty()))
    }

    async fn get_into<'a, P, W>(&self, _user: &Known, path: P, start: u64, _output: &'a mut W) -> Result<u64>
    where
        W: AsyncWrite + Unpin + Sync + Send + ?Sized,
        P: AsRef<Path> + Send + Debug,
    {
        self.call(&format!("get_into from {start}"), path).map(|()| 0)
    }

    async fn put<P: AsRef<Path> + Send + Debug, R: AsyncRead + Send + Sync + Unpin + 'static>(
        &self,
        _user: &Known,
        _input: R,
        path: P,
        start: u64,
    ) -> Result<u64> {
        // The content comes another way: what libunftp offers is not read at all.
        self.call(&format!("put from {start}"), path).map(|()| 7)
    }

    async fn del<P: AsRef<Path> + Send + Debug>(&self, _user: &Known, path: P) -> Result<()> {
        self.call("del", path)
    }

    async fn mkd<P: AsRef<Path> + Send + Debug>(&self, _user: &Known, path: P) -> Result<()> {
        self.call("mkd", path)
    }

    async fn rename<P: AsRef<Path> + Send + Debug>(&self, _user: &Known, from: P, to: P) -> Result<()> {
        self.call(&format!("rename {} to", from.as_ref().display()), to)
    }

    async fn rmd<P: AsRef<Path> + Send + Debug>(&self, _user: &Known, path: P) -> Result<()> {
        self.call("rmd", path)
    }

    async fn cwd<P: AsRef<Path> + Send + Debug>(&self, _user: &Known, path: P) -> Result<()> {
        self.call("cwd", path)
    }
}

#[derive(Debug)]
struct Login;

#[async_trait]
impl Authenticator for Login {
    async fn authenticate(
        &self,
        user: &str,
        told: &Credentials,
    ) -> std::result::Result<Principal, AuthenticationError> {
        if told.password.as_deref() == Some("secret") {
            Ok(Principal { username: user.to_owned() })
        } else {
            Err(AuthenticationError::BadPassword)
        }
    }
}

#[async_trait]
impl UserDetailProvider for Login {
    type User = Known;

    async fn provide_user_detail(
        &self,
        _principal: &Principal,
    ) -> std::result::Result<Known, UserDetailError> {
        Ok(Known)
    }
}

/// A session of the stock server on a loopback pair, logged in.
struct Session {
    control: BufReader<TcpStream>,
    calls: Calls,
}

impl Session {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let calls = Calls::default();
        let recorded = calls.clone();
        let generator = Box::new(move || {
            recorded.lock().push("generated".to_owned());
            Recorder { calls: recorded.clone() }
        });
        let server = ServerBuilder::with_user_detail_provider(generator, Arc::new(Login))
            .authenticator(Arc::new(Login))
            .passive_ports(0..=0)
            .idle_session_timeout(10 * 365 * 24 * 3600)
            .build()
            .unwrap();
        tokio::spawn(server.service(theirs));
        let mut session = Self { control: BufReader::new(ours), calls };
        assert!(session.hear().await.starts_with("220 "));
        assert!(session.ask("USER any").await.starts_with("331 "));
        assert!(session.ask("PASS secret").await.starts_with("230 "));
        assert_eq!(session.calls(), ["generated", "enter"], "one storage per session, entered once");
        session
    }

    async fn hear(&mut self) -> String {
        let mut line = String::new();
        let read = self.control.read_line(&mut line);
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("a reply in time").unwrap();
        line.trim_end().to_owned()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.control.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        self.hear().await
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }

    async fn extended_passive(&mut self) -> TcpStream {
        let reply = self.ask("EPSV").await;
        let port = reply
            .strip_prefix("229 ")
            .and_then(|text| text.split_once("(|||")?.1.strip_suffix("|)")?.parse::<u16>().ok());
        let port = port.unwrap_or_else(|| panic!("no port in {reply:?}"));
        TcpStream::connect(("127.0.0.1", port)).await.unwrap()
    }

    /// 1xx and final reply of a transfer.
    async fn transfer(&mut self, line: &str) -> (String, String) {
        let mut data = self.extended_passive().await;
        let first = self.ask(line).await;
        let last = self.hear().await;
        assert_eq!(data.read(&mut [0; 1]).await.unwrap_or(0), 0, "nothing is carried");
        (first, last)
    }

    /// Nothing more is said: the next reply is that of the next command.
    async fn is_silent(&mut self) {
        assert!(self.ask("NOOP").await.starts_with("200 "));
    }
}

#[tokio::test]
async fn a_transfer_is_one_call_one_preliminary_and_one_final_reply() {
    let mut session = Session::open().await;
    for (line, call) in [
        ("STOR /a/ name with spaces ", "put from 0 /a/ name with spaces "),
        ("RETR /a", "get_into from 0 /a"),
        ("LIST /a b", "list_fmt /a b"),
        ("NLST /a", "nlst /a"),
        ("MLSD /a", "list /a"),
        ("LIST /", "list_fmt /"),
    ] {
        let (first, last) = session.transfer(line).await;
        assert!(first.starts_with("150 ") && last.starts_with("226 "), "{line}: {first} {last}");
        assert_eq!(session.calls(), [call]);
        session.is_silent().await;
    }
    let (_, last) = session.transfer("APPE /a").await;
    assert!(last.starts_with("226 "));
    assert_eq!(session.calls(), ["metadata /a", "put from 5 /a"]);
}

/// The desk opens it while the client dials, and the client may say other things before the transfer.
#[tokio::test]
async fn a_data_connection_waits_while_other_commands_are_obeyed() {
    let mut session = Session::open().await;
    let mut data = session.extended_passive().await;
    for line in ["NOOP", "MKD /a", "DELE /a", "REST 0"] {
        let reply = session.ask(line).await;
        assert!(reply.starts_with(['2', '3']), "{line}: {reply}");
    }
    session.calls();
    assert!(session.ask("STOR /a").await.starts_with("150 "));
    assert!(session.hear().await.starts_with("226 "));
    assert_eq!(session.calls(), ["put from 0 /a"]);
    assert_eq!(data.read(&mut [0; 1]).await.unwrap_or(0), 0, "nothing is carried");
}

#[tokio::test]
async fn a_failed_transfer_has_one_final_reply_that_is_not_good() {
    let mut session = Session::open().await;
    for line in ["STOR /bad", "RETR /bad", "LIST /bad", "NLST /bad", "MLSD /bad"] {
        let (first, last) = session.transfer(line).await;
        assert!(first.starts_with("150 "), "{line}: {first}");
        assert!(last.starts_with("5"), "{line}: {last}");
        assert_eq!(session.calls().len(), 1);
        session.is_silent().await;
    }
}

#[tokio::test]
async fn a_file_command_is_one_call_and_one_reply() {
    let mut session = Session::open().await;
    for (line, code, call) in [
        ("DELE /a", "250 ", "del /a"),
        ("RMD /a", "250 ", "rmd /a"),
        ("MKD /a", "257 ", "mkd /a"),
        ("CWD /a", "250 ", "cwd /a"),
        ("SIZE /a", "213 5", "metadata /a"),
        ("MDTM /a", "213 ", "metadata /a"),
        ("RNFR /a", "350 ", "metadata /a"),
        ("RNTO /b", "250 ", "rename /a to /b"),
        ("DELE /bad", "550 ", "del /bad"),
        ("CWD /bad", "550 ", "cwd /bad"),
        ("RNFR /bad", "550 ", "metadata /bad"),
    ] {
        let reply = session.ask(line).await;
        assert!(reply.starts_with(code), "{line}: {reply}");
        assert_eq!(session.calls(), [call], "{line}");
        session.is_silent().await;
    }
    assert_eq!(session.ask("MLST /a").await, "250- Listing");
    assert!(session.hear().await.ends_with(" /a"));
    assert_eq!(session.hear().await, "250 End");
    assert_eq!(session.calls(), ["metadata /a"]);
}

#[tokio::test]
async fn the_restart_offset_is_cleared_by_a_successful_transfer_only() {
    let mut session = Session::open().await;
    assert!(session.ask("REST 3").await.starts_with("350 "));
    session.transfer("RETR /bad").await;
    session.transfer("RETR /a").await;
    session.transfer("RETR /a").await;
    let expected = ["get_into from 3 /bad", "get_into from 3 /a", "get_into from 0 /a"];
    assert_eq!(session.calls(), expected);
    assert!(session.ask("REST 0").await.starts_with("350 "));
}
