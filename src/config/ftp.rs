//! What the FTP front is: listener, passive ports, passive host, users.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use encoding_rs::Encoding;
use ipnet::IpNet;

use super::{
    AnonymousConfig, PassivePorts, PolicyConfig, Secret, TlsConfig,
    keys::SectionKind,
    limits::parse_count,
    section::{Place, Sections},
    tls,
    values::{
        is_host_name, is_placeholder, parse_address, parse_addresses, parse_bool, parse_networks,
        parse_number, parse_timeout,
    },
};

/// The FTP front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FtpConfig {
    /// One socket each: `0.0.0.0` and `[::]` by default.
    pub listen_addresses: Vec<IpAddr>,
    /// 0 = any free one (tests), the same on every address.
    pub listen_port: u16,
    pub passive_ports: PassivePorts,
    /// What passive clients are told instead of the address they came to.
    pub passive_host: Option<PassiveHost>,
    /// PORT and EPRT.
    pub active_mode: bool,
    /// Data connections may come from, or lead to, another address than the control connection's.
    pub data_foreign_address: bool,
    /// `None`: no TLS at all.
    pub tls: Option<TlsConfig>,
    /// Peers whose PROXY header is believed.
    pub proxy_networks: Vec<IpNet>,
    /// Sessions of one address; 0 = any number.
    pub sessions_per_address_max: usize,
    /// Failed logins, of an address or of a name, until it is locked out; 0 = nobody ever is.
    pub failed_login_limit: u32,
    /// How long failed logins count.
    pub failed_login_window: Duration,
    /// Of the names that clients say and read.
    pub name_encoding: NameEncoding,
    /// wu-ftpd's log of transfers.
    pub xferlog: Option<PathBuf>,
    /// `None`: nobody gets in without a name.
    pub anonymous: Option<AnonymousConfig>,
    /// 0 = as many as the descriptors allow.
    pub sessions_max: usize,
    pub login_timeout: Duration,
    pub idle_timeout: Duration,
    /// A transfer in which no byte moves for so long is broken.
    pub stall_timeout: Duration,
    pub banner: String,
    /// Names that a LIST or NLST returns at most; `None` = all.
    pub list_names_max: Option<usize>,
    pub users: Vec<UserConfig>,
}

/// `masquerade_address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassiveHost {
    Address(IpAddr),
    /// Looked up again every minute.
    Name(String),
}

/// Who may log in, and where home is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserConfig {
    pub name: String,
    pub password: Secret,
    /// Name of the mount ([`super::MountConfig::name`]).
    pub mount: String,
    /// Where the session of this user's policy is mounted: the home itself or a directory under the runtime directory.
    pub root: PathBuf,
    /// The home beneath the root; empty: the root itself.
    pub directory: PathBuf,
    pub policy: PolicyConfig,
    /// The mount keeps times, mode and owner that are set after a file has been stored.
    pub posix_metadata: bool,
    pub rates: RateLimits,
    /// 0 = any number.
    pub sessions_max: usize,
}

#[cfg(test)]
impl UserConfig {
    /// Somebody with every right and no limit.
    pub(crate) fn of_test(name: &str, password: &str, root: &Path) -> Self {
        Self {
            name: name.to_owned(),
            password: Secret::new(password),
            mount: "COS_ACCOUNT".to_owned(),
            root: root.to_owned(),
            directory: PathBuf::new(),
            policy: PolicyConfig::default(),
            posix_metadata: false,
            rates: RateLimits::default(),
            sessions_max: 0,
        }
    }
}

/// Bytes per second; `None` = as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Of all sessions of a user together.
    pub upload: Option<u64>,
    pub download: Option<u64>,
    pub upload_per_session: Option<u64>,
    pub download_per_session: Option<u64>,
}

/// `name_encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameEncoding {
    /// UTF-8, and GBK where a name is not UTF-8.
    Auto,
    Of(&'static Encoding),
}

/// What `name_encoding` may be beside `auto`, by the name that is printed.
const ENCODINGS: &[(&str, &Encoding)] = &[
    ("utf-8", encoding_rs::UTF_8),
    ("gbk", encoding_rs::GBK),
    ("big5", encoding_rs::BIG5),
    ("euc-kr", encoding_rs::EUC_KR),
    ("shift_jis", encoding_rs::SHIFT_JIS),
    ("windows-1250", encoding_rs::WINDOWS_1250),
    ("windows-1251", encoding_rs::WINDOWS_1251),
    ("windows-1252", encoding_rs::WINDOWS_1252),
    ("windows-1253", encoding_rs::WINDOWS_1253),
    ("windows-1254", encoding_rs::WINDOWS_1254),
    ("windows-1255", encoding_rs::WINDOWS_1255),
    ("windows-1256", encoding_rs::WINDOWS_1256),
    ("windows-1257", encoding_rs::WINDOWS_1257),
    ("windows-1258", encoding_rs::WINDOWS_1258),
];

impl NameEncoding {
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        match ENCODINGS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            Some((_, encoding)) => Ok(Self::Of(encoding)),
            None => {
                let names: Vec<_> = ENCODINGS.iter().map(|(name, _)| *name).collect();
                Err(format!("`{text}` is not known, allowed: auto, {}", names.join(", ")))
            }
        }
    }
}

impl fmt::Display for NameEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Of(encoding) => f.write_str(&encoding.name().to_ascii_lowercase()),
        }
    }
}

/// Says nothing about the version: a stranger reads it before he logs in.
pub(super) const BANNER: &str = "FTP service ready";

impl Default for FtpConfig {
    /// The defaults of every key, and no users.
    fn default() -> Self {
        Self {
            listen_addresses: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            listen_port: 2121,
            passive_ports: PassivePorts { first: 60_000, last: 65_535 },
            passive_host: None,
            active_mode: true,
            data_foreign_address: false,
            tls: None,
            proxy_networks: Vec::new(),
            sessions_per_address_max: 0,
            failed_login_limit: 5,
            failed_login_window: Duration::from_secs(300),
            name_encoding: NameEncoding::Auto,
            xferlog: None,
            anonymous: None,
            sessions_max: 512,
            login_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(120),
            banner: BANNER.to_owned(),
            list_names_max: None,
            users: Vec::new(),
        }
    }
}

/// `[NETWORK]`, and what of `[OPTIONAL]` concerns the front; users and guests are left out.
pub(super) fn read(sections: &mut Sections<'_>) -> FtpConfig {
    let place = sections.place(SectionKind::Network, "NETWORK");
    let options = sections.place(SectionKind::Options, "OPTIONAL");
    let default = FtpConfig::default();
    FtpConfig {
        listen_addresses: sections.value(&place, "listen_address", default.listen_addresses, parse_addresses),
        listen_port: sections.value(&place, "listen_port", default.listen_port, |text| {
            let port = parse_number(text, 0, u16::MAX.into())?;
            u16::try_from(port).map_err(|error| error.to_string())
        }),
        passive_ports: sections.value(&place, "passive_port", default.passive_ports, PassivePorts::parse),
        passive_host: read_passive_host(sections, &place),
        active_mode: sections.value(&place, "active_mode", default.active_mode, parse_bool),
        data_foreign_address: sections.value(
            &place,
            "data_foreign_address",
            default.data_foreign_address,
            parse_bool,
        ),
        tls: tls::read(sections, &place),
        proxy_networks: sections.value(&place, "proxy_protocol", default.proxy_networks, parse_networks),
        sessions_per_address_max: sections.value(
            &place,
            "max_connection_per_ip",
            default.sessions_per_address_max,
            |text| parse_count(text, 0, 1_000_000),
        ),
        failed_login_limit: sections.value(
            &place,
            "failed_login_limit",
            default.failed_login_limit,
            |text| u32::try_from(parse_number(text, 0, 1_000_000)?).map_err(|error| error.to_string()),
        ),
        failed_login_window: sections.value(
            &place,
            "failed_login_window",
            default.failed_login_window,
            parse_timeout,
        ),
        name_encoding: sections.value(&place, "name_encoding", default.name_encoding, NameEncoding::parse),
        xferlog: sections.value(&options, "xferlog", None, parse_xferlog),
        anonymous: None,
        sessions_max: sections.value(&options, "max_connection_num", default.sessions_max, |text| {
            parse_count(text, 0, 1_000_000)
        }),
        login_timeout: sections.value(&place, "login_timeout", default.login_timeout, parse_timeout),
        idle_timeout: sections.value(&place, "idle_timeout", default.idle_timeout, parse_timeout),
        stall_timeout: sections.value(&place, "stall_timeout", default.stall_timeout, parse_timeout),
        // RFC 959, section 4.2: a reply of one line; with its code it stays within what old clients take.
        banner: sections.value(&place, "banner", default.banner, |text| match text.len() {
            0..=500 => Ok(text.to_owned()),
            _ => Err("longer than 500 bytes, allowed is a line of text".to_owned()),
        }),
        list_names_max: sections
            .optional(&options, "max_list_file", |text| parse_count(text, 1, u32::MAX.into())),
        users: Vec::new(),
    }
}

/// `off`, or the path of a file.
fn parse_xferlog(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "off" => Ok(None),
        path if Path::new(path).is_absolute() => Ok(Some(PathBuf::from(path))),
        _ => Err(format!("`{text}` is not absolute, allowed are off or the path of a file")),
    }
}

fn read_passive_host(sections: &mut Sections<'_>, place: &Place<'_>) -> Option<PassiveHost> {
    let text = sections.text(place, "masquerade_address")?;
    // Left as it came in many files that are in use.
    if text.split('.').all(is_placeholder) {
        let why = format!("`{text}` is the placeholder of the example and counts as unset");
        sections.warn(place, "masquerade_address", &why);
        return None;
    }
    sections.optional(place, "masquerade_address", |text| match parse_address(text) {
        Some(address) if address.is_unspecified() => {
            Err(format!("{address} is nobody's address, allowed is one that clients can reach"))
        }
        Some(address) => Ok(PassiveHost::Address(address)),
        None if is_host_name(text) => Ok(PassiveHost::Name(text.to_owned())),
        None => Err(format!("`{text}` is not an address, allowed are IPv4, IPv6 or a host name")),
    })
}
