//! `cosgate demo`: an embedded store, two users, their mounts and FTP; no account, no network.
//!
//! Everything lies in one directory: `store` (what the buckets hold), `user0` and `user1` (the homes), the
//! configuration and the logs. The store runs in a child process, like the mounts.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::{process::Child, time::timeout};
use tracing::warn;

use super::{
    mount::multi_thread,
    raise_descriptor_limit, say,
    serve::live,
    signals::Wishes,
    supervisor::{THIS_PROGRAM, lines_of, spawn, terminate},
};
use crate::config::Config;

const BUCKETS: [&str; 2] = ["demo0-1250000000", "demo1-1250000000"];
const USERS: [&str; 2] = ["user0", "user1"];
const PASSWORDS: [&str; 2] = ["pass0", "pass1"];
const SECRET_ID: &str = "emulator";
const SECRET_KEY: &str = "emulator-secret";
/// How long the store may take to start, and to stop.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// What `cosgate demo` was asked for.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// `None`: a temporary directory, removed at the end.
    pub dir: Option<PathBuf>,
    pub port: u16,
    /// FTPS as well, with a certificate of its own making.
    pub tls: bool,
}

/// Runs the demonstration until it is asked to stop.
///
/// # Errors
/// Without the right to mount, or where the port is taken.
pub fn run(options: &DemoOptions) -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the demo mounts two directories, which only root may do: try again with sudo"
    );
    ensure!(
        Path::new("/dev/fuse").exists(),
        "/dev/fuse is missing: modprobe fuse (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
    );
    raise_descriptor_limit();
    let place = Place::new(options.dir.as_deref())?;
    multi_thread()?.block_on(demonstrate(&place, options))
}

async fn demonstrate(place: &Place, options: &DemoOptions) -> anyhow::Result<()> {
    let wishes = Wishes::listen(false).context("cannot listen to signals")?;
    let (mut store, address) = start_store(&place.dir).await?;
    let shown = async {
        let file = write_config(&place.dir, address, options)?;
        let config = Config::load(&file)?;
        live(&config, &file, &wishes, |port| explain(&place.dir, port, options.tls)).await
    };
    let end = shown.await;
    if let Err(error) = terminate(&mut store, STORE_PATIENCE).await {
        warn!(%error, "the store did not stop");
    }
    end
}

/// The directory of a demonstration.
struct Place {
    dir: PathBuf,
    temporary: bool,
}

impl Place {
    fn new(wanted: Option<&Path>) -> anyhow::Result<Self> {
        let temporary = wanted.is_none();
        let dir = match wanted {
            Some(dir) => std::path::absolute(dir)?,
            None => std::env::temp_dir().join(format!("cosgate-demo-{:08x}", fastrand::u32(..))),
        };
        for dir in [dir.clone(), dir.join("store"), dir.join("log"), dir.join(USERS[0]), dir.join(USERS[1])] {
            match fs::DirBuilder::new().mode(0o755).create(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("cannot make {}", dir.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(Self { dir, temporary })
    }
}

impl Drop for Place {
    /// A temporary directory goes, unless something is still mounted in it: a removal must not walk into a bucket.
    fn drop(&mut self) {
        if !self.temporary {
            return;
        }
        // rmdir of a mount point is EBUSY, and homes are empty unless something is mounted on them.
        let homes_gone = USERS.iter().all(|user| fs::remove_dir(self.dir.join(user)).is_ok());
        if !homes_gone {
            warn!(dir = %self.dir.display(), "stays: something is mounted in it");
        } else if let Err(error) = fs::remove_dir_all(&self.dir) {
            warn!(dir = %self.dir.display(), %error, "stays");
        }
    }
}

async fn start_store(dir: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let data = dir.join("store").to_string_lossy().into_owned();
    let mut arguments = vec!["emulator", "--supervised", "--listen", "127.0.0.1:0", "--data", data.as_str()];
    arguments.extend(["--secret-id", SECRET_ID, "--secret-key", SECRET_KEY]);
    arguments.extend(BUCKETS.iter().flat_map(|bucket| ["--bucket", bucket]));
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let mut store = spawn(THIS_PROGRAM, &arguments).context("cannot start the store")?;
    let mut lines = lines_of(&mut store);
    let address = timeout(STORE_PATIENCE, async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(address) = line.strip_prefix("listening on http://") {
                return address.parse().ok();
            }
        }
        None
    });
    let Ok(Some(address)) = address.await else {
        drop(terminate(&mut store, STORE_PATIENCE).await);
        bail!("the store did not start");
    };
    // What it says from now on is read and dropped, so that it never blocks.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((store, address))
}

/// The configuration, readable by its owner alone: it holds what logins need.
fn write_config(dir: &Path, store: SocketAddr, options: &DemoOptions) -> anyhow::Result<PathBuf> {
    let file = dir.join("demo.conf");
    let mut text = String::from("# Written by `cosgate demo`, anew at each start.\n\n");
    for number in 0..USERS.len() {
        text.push_str(&format!(
            "[COS_ACCOUNT_{number}]\ncos_secretid = {SECRET_ID}\ncos_secretkey = {SECRET_KEY}\n\
             cos_bucket = {}\ncos_endpoint = {store}\ncos_protocol = http\nhome_dir = {}\n\
             ftp_login_user_name = {}\nftp_login_user_password = {}\ndelete_enable = {}\n\n",
            BUCKETS[number],
            dir.join(USERS[number]).display(),
            USERS[number],
            PASSWORDS[number],
            number == 0,
        ));
    }
    text.push_str(&format!("[NETWORK]\nlisten_port = {}\n", options.port));
    if options.tls {
        let (certificate, key) = make_certificate(dir)?;
        text.push_str(&format!("tls_cert = {}\ntls_key = {}\n", certificate.display(), key.display()));
    }
    text.push_str(&format!("\n[OPTIONAL]\nlog_level = WARNING\nlog_dir = {}\n", dir.join("log").display()));
    write_private(&file, &text)?;
    Ok(file)
}

/// For the names that a terminal on this machine uses. Made anew at each start.
fn make_certificate(dir: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let key = KeyPair::generate().context("no key")?;
    let mut params = CertificateParams::new(names).context("no certificate")?;
    params.distinguished_name.push(DnType::CommonName, "cosgate demo");
    let certificate = params.self_signed(&key).context("no certificate")?;
    let (certificate_file, key_file) = (certificate_file(dir), dir.join("tls-key.pem"));
    write_private(&certificate_file, &certificate.pem())?;
    write_private(&key_file, &key.serialize_pem())?;
    Ok((certificate_file, key_file))
}

fn certificate_file(dir: &Path) -> PathBuf {
    dir.join("tls-cert.pem")
}

/// A file for its owner alone.
fn write_private(file: &Path, text: &str) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut output =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
        output.write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

fn explain(dir: &Path, port: u16, tls: bool) {
    let (home, login) = (dir.join(USERS[0]), format!("{}:{}", USERS[0], PASSWORDS[0]));
    say("");
    say("Two buckets are mounted and served by FTP. Try, in another terminal:");
    say("");
    say(&format!("  curl -T /etc/os-release ftp://{login}@127.0.0.1:{port}/"));
    say(&format!(
        "  lftp -u {},{} -e 'ls; cat os-release; bye' ftp://127.0.0.1:{port}",
        USERS[0], PASSWORDS[0]
    ));
    say(&format!("  ls -l {}", home.display()));
    say(&format!("  cp /etc/passwd {}/ && curl ftp://{login}@127.0.0.1:{port}/passwd", home.display()));
    if tls {
        let certificate = certificate_file(dir);
        let certificate = certificate.display();
        say("");
        say("With TLS:");
        say("");
        say(&format!(
            "  curl --ssl-reqd --cacert {certificate} -T /etc/os-release ftp://{login}@localhost:{port}/"
        ));
        say(&format!(
            "  lftp -u {},{} -e 'set ftp:ssl-force yes; set ssl:ca-file {certificate}; ls; bye' ftp://localhost:{port}",
            USERS[0], PASSWORDS[0]
        ));
    }
    say("");
    say(&format!(
        "{} / {} may not delete (delete_enable = false); its home is {}.",
        USERS[1],
        PASSWORDS[1],
        dir.join(USERS[1]).display()
    ));
    say("Ctrl-C stops everything.");
}
