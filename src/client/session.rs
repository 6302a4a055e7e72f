//! A session with a server: connected, with TLS where it can be had, logged in, binary, and aware of what it can.

use std::{
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use suppaftp::{
    FtpError, FtpResult, Mode, RustlsConnector, RustlsFtpStream, Status, TlsConnector, TransferStream,
    types::{Features, FileType},
};

use super::{
    ClientError, ClientResult,
    digest::{Check, Running, Verdict},
    password::login_of,
    refusal, tls,
    url::Url,
};

/// The protocol.
pub(super) type Ftp = RustlsFtpStream;
/// A data connection with a file on it.
pub(super) type Transfer = TransferStream<<RustlsConnector as TlsConnector>::Stream>;

/// How safe a session has to be.
#[derive(Debug, Clone, Default)]
pub struct Security {
    pub tls: TlsWish,
    /// Any certificate will do.
    pub insecure: bool,
    /// PEM file of further root certificates.
    pub ca_file: Option<PathBuf>,
}

/// Whether `ftp://` speaks TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsWish {
    /// Where the server offers it.
    #[default]
    Offered,
    /// Or not at all.
    Required,
    /// Never.
    Plain,
}

impl FromStr for TlsWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "offered" => Ok(Self::Offered),
            "required" => Ok(Self::Required),
            "none" => Ok(Self::Plain),
            _ => Err("allowed are offered, required, none".to_owned()),
        }
    }
}

/// Logged in.
pub(super) struct Session {
    pub(super) ftp: Ftp,
    pub(super) check: Option<Check>,
    features: Features,
}

impl Session {
    pub(super) fn open(url: &Url, security: &Security) -> ClientResult<Self> {
        if url.implicit && security.tls == TlsWish::Plain {
            return Err(ClientError::Usage(
                "ftps:// is TLS from the first byte: it cannot be plain".to_owned(),
            ));
        }
        let login = login_of(url)?;
        let ftp = if url.implicit { implicit(url, security)? } else { explicit(url, security)? };
        let ftp = ftp.passive_stream_builder(|address| connect_to(&[address], DATA_STALLS));
        let mut session = Self { ftp, check: None, features: Features::new() };
        session.prepare(&login)?;
        Ok(session)
    }

    fn prepare(&mut self, (user, password): &(String, String)) -> ClientResult<()> {
        self.ftp.login(user, password).map_err(ClientError::ftp("login"))?;
        self.features = self.ftp.feat().unwrap_or_default();
        if self.features.contains_key("UTF8") {
            // Most servers need not be told; who refuses says names as it can.
            self.ftp.opts("UTF8", Some("ON")).ok();
        }
        self.ftp.transfer_type(FileType::Binary).map_err(ClientError::ftp("TYPE I"))?;
        let is_ipv6 = self.ftp.get_ref().peer_addr().is_ok_and(|address| address.is_ipv6());
        if self.features.contains_key("EPSV") || is_ipv6 {
            self.ftp.set_mode(Mode::ExtendedPassive);
        } else {
            self.ftp.set_mode(Mode::Passive);
            // What a server behind NAT tells is not where it can be reached.
            self.ftp.set_passive_nat_workaround(true);
        }
        self.check = Check::choose(&mut self.ftp, &self.features);
        Ok(())
    }

    pub(super) fn has(&self, feature: &str) -> bool {
        self.features.contains_key(feature)
    }

    /// The size of a remote file. `None`: there is none, or the server would not say.
    ///
    /// # Errors
    /// Where the connection failed.
    pub(super) fn size(&mut self, path: &str) -> ClientResult<Option<u64>> {
        match self.ftp.size(path) {
            Ok(bytes) => Ok(Some(bytes as u64)),
            Err(error) if refusal(&error).is_some_and(|code| code != 421) => Ok(None),
            Err(FtpError::BadResponse) => Ok(None),
            Err(source) => Err(ClientError::Ftp { doing: format!("SIZE {path}"), source }),
        }
    }

    /// Holds the bytes of a transfer against what the server has under `path`.
    pub(super) fn compare(&mut self, path: &str, bytes: u64, running: Running) -> ClientResult<Verdict> {
        let size = self.size(path)?;
        if let Some(size) = size.filter(|size| *size != bytes) {
            return Err(ClientError::Other(format!("{path}: the server has {size} bytes, here are {bytes}")));
        }
        let told = self.check.and_then(|check| Some((check, check.ask(&mut self.ftp, path)?)));
        Ok(match (told, size) {
            (Some((check, digest)), _) if digest == running.finish() => Verdict::Agrees(check),
            (Some((check, _)), _) => Verdict::Differs(check),
            (None, Some(_)) => Verdict::SizeAgrees,
            (None, None) => Verdict::Unknown,
        })
    }

    /// Says goodbye; who does not hear it is gone anyway.
    pub(super) fn close(mut self) {
        self.ftp.quit().ok();
    }
}

fn addresses(url: &Url) -> ClientResult<Vec<SocketAddr>> {
    let found = (url.host.as_str(), url.port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let found = found.map_err(|error| ClientError::Other(format!("{}: {error}", url.host)))?;
    if found.is_empty() {
        return Err(ClientError::Other(format!("{}: no such host", url.host)));
    }
    Ok(found)
}

/// The first address that answers. `stalls`: how long one read or write may take.
fn connect_to(addresses: &[SocketAddr], stalls: Duration) -> FtpResult<TcpStream> {
    let mut failure = std::io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match TcpStream::connect_timeout(address, CONNECT_TIME) {
            Ok(stream) => {
                let prepared = stream
                    .set_nodelay(true)
                    .and_then(|()| stream.set_read_timeout(Some(stalls)))
                    .and_then(|()| stream.set_write_timeout(Some(stalls)));
                return prepared.map(|()| stream).map_err(FtpError::ConnectionError);
            }
            Err(error) => failure = error,
        }
    }
    Err(FtpError::ConnectionError(failure))
}

fn explicit(url: &Url, security: &Security) -> ClientResult<Ftp> {
    let stream = connect_to(&addresses(url)?, REPLY_TIME);
    let stream = stream.map_err(ClientError::ftp(format!("{}:{}", url.host, url.port)))?;
    let keep = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    // Long transfers leave the control connection silent, and NAT forgets it.
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keep).ok();
    let mut ftp = Ftp::connect_with_stream(stream).map_err(ClientError::ftp("greeting"))?;
    let is_offered = match security.tls {
        TlsWish::Plain => return Ok(ftp),
        TlsWish::Required => true,
        TlsWish::Offered => ftp.feat().is_ok_and(|features| features.contains_key("AUTH")),
    };
    if !is_offered {
        return Ok(ftp);
    }
    let connector = RustlsConnector::from(tls::configuration(security)?);
    ftp.into_secure(connector, &url.host).map_err(ClientError::ftp("AUTH TLS"))
}

fn implicit(url: &Url, security: &Security) -> ClientResult<Ftp> {
    let connector = RustlsConnector::from(Arc::clone(&tls::configuration(security)?));
    let doing = format!("{}:{}", url.host, url.port);
    let ftp = Ftp::connect_secure_implicit(addresses(url)?.as_slice(), connector, &url.host);
    let mut ftp = ftp.map_err(ClientError::ftp(doing))?;
    for command in ["PBSZ 0", "PROT P"] {
        ftp.custom_command(command, &[Status::CommandOk]).map_err(ClientError::ftp(command))?;
    }
    Ok(ftp)
}

const CONNECT_TIME: Duration = Duration::from_secs(30);
/// Behind the last byte of an upload a server may have much to do before it says 226.
const REPLY_TIME: Duration = Duration::from_secs(15 * 60);
const DATA_STALLS: Duration = Duration::from_secs(5 * 60);
const KEEPALIVE: Duration = Duration::from_secs(60);
