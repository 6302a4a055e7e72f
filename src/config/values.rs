//! Single values of the configuration, valid by construction: sizes, durations, ports, secrets.
//!
//! A parser here takes the text of one value, already without comment and outer white space, and answers
//! with the value or with what is wrong and what is allowed. No text of a secret ever stands in such an
//! answer. Which key a value belongs to is known elsewhere.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;

/// A text that must not be seen: keys, tokens, passwords. Prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who has to send or compare it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The ports that passive data connections may use, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassivePorts {
    pub first: u16,
    pub last: u16,
}

impl PassivePorts {
    /// `first,last`, from 1 to 65535.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let why = || format!("`{text}` is not a range, allowed is first,last such as 60000,65535");
        let (first, last) = text.split_once(',').ok_or_else(why)?;
        let port = |side: &str| side.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(why);
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("the first port {first} is above the last one {last}"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PassivePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.first, self.last)
    }
}

/// A number of bytes, written as people write it: `4M` where it divides, digits otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

    /// Digits, or digits and K, M, G or T (×1024).
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let why =
            || format!("`{text}` is not a size, allowed are digits, or digits and K, M, G or T (×1024)");
        let last = text.chars().last().ok_or_else(why)?.to_ascii_uppercase();
        let unit = Self::UNITS.iter().find(|(letter, _)| *letter == last);
        let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
        let number = parse_digits(digits.trim_end()).ok_or_else(why)?;
        let factor = unit.map_or(1, |(_, shift)| 1_u64 << shift);
        number.checked_mul(factor).map(Self).ok_or_else(why)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Self::UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((letter, shift)) => write!(f, "{}{letter}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Seconds, or digits and s, m or h.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let why = || format!("`{text}` is not a time, allowed are seconds, or digits and s, m or h");
    let last = text.chars().last().ok_or_else(why)?.to_ascii_lowercase();
    let (digits, factor) = match last {
        's' => (&text[..text.len() - 1], 1),
        'm' => (&text[..text.len() - 1], 60),
        'h' => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let number = parse_digits(digits.trim_end()).ok_or_else(why)?;
    // A century: beyond it, adding the time to a clock would overflow somewhere.
    let seconds =
        number.checked_mul(factor).filter(|seconds| *seconds <= 100 * 366 * 86_400).ok_or_else(why)?;
    Ok(Duration::from_secs(seconds))
}

/// As [`parse_duration`], but not 0: a time-out of nothing would end everything at once.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("0 would end everything at once, allowed is 1 s or more".to_owned()),
        duration => Ok(duration),
    }
}

/// Whole seconds with their unit.
pub(super) fn duration_text(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// true/false, yes/no, on/off, 1/0, in any case.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("`{text}` is not a yes or no, allowed are true/false, yes/no, on/off, 1/0")),
    }
}

/// A whole number between `least` and `most`.
pub(super) fn parse_number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    parse_digits(text).filter(|number| (least..=most).contains(number)).ok_or_else(|| {
        format!("`{text}` is not allowed here, allowed is a whole number from {least} to {most}")
    })
}

/// Permission bits in octal digits.
pub(super) fn parse_mode(text: &str) -> Result<u16, String> {
    let octal =
        !text.is_empty() && text.len() <= 4 && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    octal.then(|| u16::from_str_radix(text, 8).ok()).flatten().filter(|mode| *mode <= 0o777).ok_or_else(
        || format!("`{text}` is not a mode, allowed are octal permission bits such as 0644, up to 0777"),
    )
}

/// One of `allowed`, in any case; the answer is the one of the table.
pub(super) fn parse_word<T: Copy>(text: &str, allowed: &[(&str, T)]) -> Result<T, String> {
    allowed.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value).ok_or_else(
        || {
            let words: Vec<_> = allowed.iter().map(|(word, _)| *word).collect();
            format!("`{text}` is not allowed here, allowed: {}", words.join(", "))
        },
    )
}

/// Addresses separated by commas, IPv6 with or without brackets.
pub(super) fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    for piece in text.split(',') {
        let piece = piece.trim();
        let address = parse_address(piece).ok_or_else(|| {
            format!("`{piece}` is not an IP address, allowed are such as 0.0.0.0, ::1, or both")
        })?;
        if addresses.contains(&address) {
            return Err(format!("{address} stands there twice"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Networks such as `10.0.0.0/8` separated by commas; an address alone is a network of one.
pub(super) fn parse_networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |piece: &str| match parse_address(piece) {
        Some(address) => Ok(IpNet::from(address)),
        None => piece.parse::<IpNet>().map(|network| network.trunc()).map_err(|_| {
            format!("`{piece}` is not a network, allowed are such as 10.0.0.0/8, 192.0.2.1 or fd00::/8")
        }),
    };
    text.split(',').map(|piece| network(piece.trim())).collect()
}

/// An IP address, IPv6 with or without brackets.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(inner) => inner.parse().ok().filter(IpAddr::is_ipv6),
        None => text.parse().ok(),
    }
}

/// Whether `text` can be a host name (RFC 1123, section 2.1): letters, digits, hyphens, 253 bytes.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let all_digits = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    name.len() <= 253 && !all_digits && name.split('.').all(label)
}

/// `host`, `host:port`, `[address]` or `[address]:port` into host and port.
pub(super) fn split_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |digits: &str| digits.parse::<u16>().ok().filter(|port| *port > 0);
    if text.starts_with('[') {
        let end = text.find(']')?;
        parse_address(&text[..=end])?;
        return match &text[end + 1..] {
            "" => Some((&text[..=end], None)),
            rest => Some((&text[..=end], Some(port(rest.strip_prefix(':')?)?))),
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, digits)) => (host, Some(port(digits)?)),
        None => (text, None),
    };
    (is_host_name(host) || host.parse::<std::net::Ipv4Addr>().is_ok()).then_some((host, port))
}

/// Whether `text` is still what the examples of both generations print: `XXXXXX`, `ap-xxx`, `{bucket}-123`.
pub(super) fn is_placeholder(text: &str) -> bool {
    let crossed_out = |piece: &str| {
        piece.len() >= 3 && (piece.bytes().all(|byte| byte == b'X') || piece.bytes().all(|byte| byte == b'x'))
    };
    text.contains(['{', '}', '<', '>']) || text.split(['.', '-']).any(crossed_out)
}

fn parse_digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
    }

    #[test]
    fn sizes_are_digits_with_or_without_a_unit() {
        let sizes = [
            ("0", 0),
            ("21474836480", 20 << 30),
            ("4M", 4 << 20),
            ("4m", 4 << 20),
            ("1 G", 1 << 30),
            ("2T", 2 << 40),
        ];
        for (text, bytes) in sizes {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "M", "4MB", "4MiB", "-1", "+1", "0x10", "1.5G", "4 4M", "99999999T", "４M"] {
            ByteSize::parse(text).unwrap_err();
        }
    }

    #[test]
    fn sizes_print_as_they_are_read() {
        for bytes in [0, 1, 1023, 1024, 1025, 4 << 20, (4 << 20) + 1024, 200 << 30, 3 << 40, u64::MAX] {
            assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()), Ok(ByteSize(bytes)));
        }
        assert_eq!(ByteSize(200 << 30).to_string(), "200G");
    }

    #[test]
    fn times_are_seconds_or_carry_a_unit() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("90s", 90), ("5m", 300), ("24h", 86_400), ("24 H", 86_400)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "1d", "1.5h", "-3", "18446744073709551615", "99999999999h"] {
            parse_duration(text).unwrap_err();
        }
        parse_timeout("0").unwrap_err();
    }

    #[test]
    fn passive_ports_are_a_range_of_ports() {
        assert_eq!(PassivePorts::parse("60000, 65535"), Ok(PassivePorts { first: 60_000, last: 65_535 }));
        assert_eq!(PassivePorts::parse("2122,2122"), Ok(PassivePorts { first: 2122, last: 2122 }));
        for text in ["", "60000", "60000-65535", "0,10", "60000,65536", "7,6", "1,2,3"] {
            PassivePorts::parse(text).unwrap_err();
        }
    }

    #[test]
    fn modes_are_permission_bits() {
        assert_eq!(parse_mode("0644"), Ok(0o644));
        assert_eq!(parse_mode("755"), Ok(0o755));
        for text in ["", "0888", "4755", "1000", "rw", "+644", "00644"] {
            parse_mode(text).unwrap_err();
        }
    }

    #[test]
    fn host_and_port_come_apart() {
        assert_eq!(
            split_host_port("cos.ap-beijing.myqcloud.com"),
            Some(("cos.ap-beijing.myqcloud.com", None))
        );
        assert_eq!(split_host_port("127.0.0.1:9980"), Some(("127.0.0.1", Some(9980))));
        assert_eq!(split_host_port("[::1]:9980"), Some(("[::1]", Some(9980))));
        for text in
            ["", ":80", "a:", "a:0", "a:65536", "::1", "[::1", "[::1]80", "a b", "a/b", "-a.b", "999.1.1.1"]
        {
            assert_eq!(split_host_port(text), None, "{text}");
        }
    }

    #[test]
    fn placeholders_are_recognised_and_real_values_are_not() {
        for text in
            ["XXXXXX", "XXXX", "ap-xxx", "{bucket name}-123", "{bucket}-{appid}", "ap-xxx.myqcloud.com"]
        {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["AKIDxxx4jQ", "demo-1250000000", "ap-guangzhou", "xX-12345", "x-12345", ""] {
            assert!(!is_placeholder(text), "{text}");
        }
    }
}
