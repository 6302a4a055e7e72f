//! What the FTP front is: listener, passive ports, passive host, users.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use super::{
    PassivePorts, PolicyConfig, Secret,
    keys::SectionKind,
    limits::parse_count,
    section::{Place, Sections},
    values::{is_host_name, is_placeholder, parse_address, parse_addresses, parse_number, parse_timeout},
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
    pub policy: PolicyConfig,
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

/// `[NETWORK]`, and what of `[OPTIONAL]` concerns the front; the users are left out.
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
