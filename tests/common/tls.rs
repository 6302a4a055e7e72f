//! A server behind TLS with a certificate authority of its own, made anew for each test.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};

/// Answers every request with the same bytes.
#[derive(Debug)]
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    /// PEM of the authority.
    pub(crate) ca_file: PathBuf,
    _directory: tempfile::TempDir,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
}

/// What a client agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) protocol: Option<Vec<u8>>,
}

impl TlsServer {
    /// A server whose certificate is for `name`.
    pub(crate) fn start(name: &str, answer: Vec<u8>) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let config = server_config(certificate.der().clone(), &key);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&handshakes);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, answer, seen) = (Arc::clone(&config), answer.clone(), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream.unwrap(), config, &answer, &seen));
            }
        });
        Self { address, ca_file, _directory: directory, handshakes }
    }

    /// All handshakes that succeeded.
    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().clone()
    }
}

fn server_config(certificate: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, answer: &[u8], seen: &Mutex<Vec<Handshake>>) {
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = tls.read(&mut piece) {
        if head.is_empty() {
            let protocol = tls.conn.alpn_protocol().map(<[u8]>::to_vec);
            seen.lock().push(Handshake { protocol });
        }
        head.extend_from_slice(&piece[..read]);
        if head.ends_with(b"\r\n\r\n") {
            if tls.write_all(answer).and_then(|()| tls.flush()).is_err() {
                return;
            }
            head.clear();
        }
    }
}
