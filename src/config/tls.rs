//! TLS of the FTP front: certificate, what must be encrypted, the implicit port.

use std::path::{Path, PathBuf};

use super::{
    keys::SectionKind,
    section::{Place, Sections},
    values::{parse_bool, parse_number, parse_word},
};

/// TLS as it is set up. Whether the files hold a certificate and its key is seen when they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM: the certificate, then those that lead from it to a root.
    pub certificate_file: PathBuf,
    /// PEM.
    pub key_file: PathBuf,
    pub required: TlsRequired,
    /// Where TLS begins with the first byte; `None` = nowhere.
    pub implicit_port: Option<u16>,
    /// `tls_session_reuse = required`: a data connection must resume the session of its control connection.
    pub session_reuse_required: bool,
    /// An upload that ends without close_notify is broken.
    pub strict_eof: bool,
}

/// `tls_required`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsRequired {
    None,
    /// USER and PASS are refused in clear.
    Control,
    /// Data connections in clear are refused too.
    All,
}

#[cfg(test)]
impl TlsConfig {
    /// `cert.pem` and `key.pem` of a directory, and nothing required.
    pub(crate) fn of_test(directory: &Path) -> Self {
        Self {
            certificate_file: directory.join("cert.pem"),
            key_file: directory.join("key.pem"),
            required: TlsRequired::None,
            implicit_port: None,
            session_reuse_required: false,
            strict_eof: false,
        }
    }
}

/// Reads the files, for what is wrong with them.
pub(super) fn check(tls: &TlsConfig, sections: &mut Sections<'_>) {
    let place = sections.place(SectionKind::Network, "NETWORK");
    match tls.read_certificate() {
        Ok(certificate) => {
            for (setting, why) in certificate.warnings {
                sections.warn(&place, setting, &why);
            }
        }
        Err(error) => sections.problem(&place, error.setting, error.why),
    }
}

pub(super) const REQUIRED: &[(&str, TlsRequired)] =
    &[("none", TlsRequired::None), ("control", TlsRequired::Control), ("all", TlsRequired::All)];
pub(super) const SESSION_REUSE: &[(&str, bool)] = &[("optional", false), ("required", true)];

/// `None` without a certificate; then whatever asks for TLS is a problem.
pub(super) fn read(sections: &mut Sections<'_>, place: &Place<'_>) -> Option<TlsConfig> {
    let certificate_file = sections.optional(place, "tls_cert", parse_file);
    let key_file = sections.optional(place, "tls_key", parse_file);
    let required =
        sections.value(place, "tls_required", TlsRequired::None, |text| parse_word(text, REQUIRED));
    let implicit_port = sections.value(place, "tls_implicit_port", None, |text| {
        let port =
            u16::try_from(parse_number(text, 0, u16::MAX.into())?).map_err(|error| error.to_string())?;
        Ok((port != 0).then_some(port))
    });
    let session_reuse_required =
        sections.value(place, "tls_session_reuse", false, |text| parse_word(text, SESSION_REUSE));
    let strict_eof = sections.value(place, "tls_strict_eof", false, parse_bool);
    match (certificate_file, key_file) {
        (Some(certificate_file), Some(key_file)) => Some(TlsConfig {
            certificate_file,
            key_file,
            required,
            implicit_port,
            session_reuse_required,
            strict_eof,
        }),
        (Some(_), None) if !place.holds("tls_key") => {
            sections.problem(place, "tls_key", "missing, tls_cert needs it");
            None
        }
        (None, Some(_)) if !place.holds("tls_cert") => {
            sections.problem(place, "tls_cert", "missing, tls_key needs it");
            None
        }
        (None, None) => {
            let asked = [
                ("tls_required", required != TlsRequired::None),
                ("tls_implicit_port", implicit_port.is_some()),
                ("tls_session_reuse", session_reuse_required),
                ("tls_strict_eof", strict_eof),
            ];
            for (key, _) in asked.iter().filter(|(_, asked)| *asked) {
                sections.problem(place, key, "needs a certificate: set tls_cert and tls_key");
            }
            None
        }
        // The one that is there, but wrong, has its problem already.
        (Some(_), None) | (None, Some(_)) => None,
    }
}

fn parse_file(text: &str) -> Result<PathBuf, String> {
    match Path::new(text) {
        path if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(format!("`{text}` is not absolute, allowed is the path of a PEM file")),
    }
}
