//! The certificate of the FTP front: read from its PEM files, and judged.
//!
//! The same reading serves `check`, the start, and each time the files have changed: what is wrong is told by the
//! name of the setting.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use rustls::{
    CertificateError as Verdict, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::TlsConfig;

/// A certificate with its chain and its key, which belong together.
#[derive(Debug)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    /// What deserves a word: setting and reason.
    pub warnings: Vec<(&'static str, String)>,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[NETWORK] {setting}: {why}")]
pub struct CertificateError {
    /// `tls_cert` or `tls_key`.
    pub setting: &'static str,
    pub why: String,
}

const CERTIFICATE: &str = "tls_cert";
const KEY: &str = "tls_key";

impl TlsConfig {
    /// Reads certificate and key. One that is not valid now is a warning: clients judge it.
    ///
    /// # Errors
    /// [`CertificateError`] where a file cannot be read, or holds something else, or the two are strangers.
    pub fn read_certificate(&self) -> Result<Certificate, CertificateError> {
        let chain = read_chain(&self.certificate_file)?;
        let key = read_key(&self.key_file)?;
        let signing = ring::sign::any_supported_type(&key).map_err(|_| {
            let path = self.key_file.display();
            let why = format!(
                "{path} holds a key of a kind that is not supported, allowed are RSA, ECDSA and Ed25519"
            );
            CertificateError { setting: KEY, why }
        })?;
        let certificate_error = |why| CertificateError { setting: CERTIFICATE, why };
        let path = self.certificate_file.display();
        let first = chain.first().expect("a chain that was read has a certificate");
        let parsed = ParsedCertificate::try_from(first)
            .map_err(|error| certificate_error(format!("{path} holds no usable certificate: {error}")))?;
        let mut warnings: Vec<_> = validity_warning(&parsed, &path.to_string()).into_iter().collect();
        drop(parsed);
        let certified = CertifiedKey::new(chain, signing);
        if let Err(error) = certified.keys_match()
            && !matches!(error, rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown))
        {
            let why =
                format!("{} is not the key of the first certificate in {path}", self.key_file.display());
            return Err(CertificateError { setting: KEY, why });
        }
        warnings.extend(everybody_reads(&self.key_file));
        Ok(Certificate { key: Arc::new(certified), warnings })
    }
}

/// The algorithms of this program. Handed over each time, so that nothing depends on what else was installed.
pub fn tls_provider() -> CryptoProvider {
    ring::default_provider()
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let refuse = |why: String| CertificateError { setting: CERTIFICATE, why };
    let bytes =
        fs::read(path).map_err(|error| refuse(format!("{} cannot be read: {error}", path.display())))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if chain.is_empty() => {
            Err(refuse(format!("{} holds no certificate (-----BEGIN CERTIFICATE-----)", path.display())))
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(refuse(format!("{} is not PEM: {error}", path.display()))),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let refuse = |why: String| CertificateError { setting: KEY, why };
    let bytes =
        fs::read(path).map_err(|error| refuse(format!("{} cannot be read: {error}", path.display())))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let path = path.display();
        // RFC 7468 section 11, and what OpenSSL did before it.
        let is_encrypted = [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
            .iter()
            .any(|mark| bytes.windows(mark.len()).any(|window| window == *mark));
        refuse(match error {
            _ if is_encrypted => {
                format!("{path} is encrypted, allowed is a key without a pass phrase: openssl pkey -in {path} -out NEW")
            }
            rustls::pki_types::pem::Error::NoItemsFound => {
                format!("{path} holds no private key (-----BEGIN PRIVATE KEY-----)")
            }
            error => format!("{path} is not PEM: {error}"),
        })
    })
}

/// Asked to judge without any root, webpki looks at the dates first.
fn validity_warning(parsed: &ParsedCertificate<'_>, path: &str) -> Option<(&'static str, String)> {
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let now = UnixTime::now();
    let verdict =
        verify_server_cert_signed_by_trust_anchor(parsed, &RootCertStore::empty(), &[], now, algorithms);
    let Err(rustls::Error::InvalidCertificate(verdict)) = verdict else { return None };
    match verdict {
        Verdict::Expired | Verdict::ExpiredContext { .. } => {
            Some((CERTIFICATE, format!("the certificate in {path} has expired: clients will refuse it")))
        }
        Verdict::NotValidYet | Verdict::NotValidYetContext { .. } => {
            Some((CERTIFICATE, format!("the certificate in {path} is not valid yet: clients will refuse it")))
        }
        _ => None,
    }
}

fn everybody_reads(path: &Path) -> Option<(&'static str, String)> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let path = path.display();
    (mode & 0o004 != 0)
        .then(|| (KEY, format!("everybody can read {path} (mode {:04o}): chmod o-rwx {path}", mode & 0o777)))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        }

        fn read(&self, certificate: &str, key: &str) -> Result<Certificate, CertificateError> {
            self.put("cert.pem", certificate);
            self.put("key.pem", key);
            TlsConfig::of_test(self.0.path()).read_certificate()
        }
    }

    fn made(params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn params() -> CertificateParams {
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap()
    }

    #[test]
    fn a_certificate_and_its_key_are_read_in_one_file_or_two() {
        let files = Files::new();
        let (certificate, key) = made(params());
        let read = files.read(&certificate, &key).unwrap();
        assert_eq!((read.key.cert.len(), read.warnings), (1, Vec::new()));
        let (root, _) = made(params());
        let both = format!("{key}{certificate}{root}");
        assert_eq!(files.read(&both, &both).unwrap().key.cert.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_setting() {
        let files = Files::new();
        let ((certificate, key), (_, stranger)) = (made(params()), made(params()));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (certificate, key, setting, why) in [
            ("", key.as_str(), "tls_cert", "holds no certificate"),
            (&key, &key, "tls_cert", "holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &key, "tls_cert", "is not PEM"),
            ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", &key, "tls_cert", "no usable"),
            (&certificate, "", "tls_key", "holds no private key"),
            (&certificate, encrypted, "tls_key", "without a pass phrase"),
            (&certificate, &stranger, "tls_key", "is not the key of"),
        ] {
            let error = files.read(certificate, key).unwrap_err();
            assert!(error.setting == setting && error.why.contains(why), "{why} expected, got {error}");
        }
        let missing = TlsConfig {
            certificate_file: files.0.path().join("missing"),
            ..TlsConfig::of_test(files.0.path())
        };
        let error = missing.read_certificate().unwrap_err();
        assert!(
            error.to_string().starts_with("[NETWORK] tls_cert: ") && error.why.contains("cannot be read")
        );
    }

    #[test]
    fn dates_and_open_files_are_warnings() {
        let files = Files::new();
        for (from, to, why) in [(2001, 2002, "has expired"), (2901, 2902, "not valid yet")] {
            let mut dated = params();
            (dated.not_before, dated.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
            let (certificate, key) = made(dated);
            let warnings = files.read(&certificate, &key).unwrap().warnings;
            assert!(warnings[0].0 == "tls_cert" && warnings[0].1.contains(why), "{warnings:?}");
        }
        let path = files.put("open.pem", "");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(everybody_reads(&path).unwrap().1.contains("chmod o-rwx"));
    }
}
