//! The command line: one subcommand, one function of `service`, one exit code.
//!
//! Exit codes: 0 done; 1 failure; 64 a command line that makes no sense (EX_USAGE of sysexits.h, where
//! clap would say 2); 78 a configuration that makes no sense (EX_CONFIG), with all its problems on
//! standard error. This is the edge at which an error's chain is printed, once.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, error::ErrorKind};
use tracing::{Level, error, info, warn};

use crate::{
    client::{self, ClientError, ClientOptions, Security, TlsWish, Url},
    config::{Config, ConfigError},
    emulator::{self, EmulatorOptions},
    service::{
        check,
        demo::{self, DemoOptions},
        end_with_parent, ftp,
        mount::{self, MountOptions},
        passwd, serve,
    },
    telemetry,
};

const FAILURE: u8 = 1;
const USAGE: u8 = 64;
const CONFIGURATION: u8 = 78;

/// What was asked for.
#[derive(Debug, Parser)]
#[command(name = "cosgate", version, about = "Tencent COS buckets as directories, served over FTP")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mounts and FTP in the foreground; Ctrl-C stops cleanly
    Serve(Serve),
    /// The mounts alone
    Mount(Mount),
    /// The FTP front alone, on directories that are mounted already
    Ftp(ConfigFile),
    /// Validate the configuration and print what it means, secrets masked
    Check(Check),
    /// Read a password, print its hash for ftp_login_user_password
    Passwd,
    /// The embedded COS store alone
    Emulator(Emulator),
    /// An embedded store, two users, their mounts and FTP: no account, no network, no configuration
    Demo(Demo),
    /// Fetch files over FTP, continue what broke off, and check what arrived
    Get(Get),
    /// Store files over FTP, and check what arrived
    Put(Put),
    /// List a directory over FTP
    Ls(Ls),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file [default: ./conf/vsftpd.conf, else /etc/cosgate/cosgate.conf]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// Stop when standard input ends, for whoever must not leave it behind
    #[arg(long, hide = true)]
    supervised: bool,
}

#[derive(Debug, Args)]
struct Mount {
    #[command(flatten)]
    file: ConfigFile,
    /// Mount this home, or the home of this user, and no other one; may be given several times
    #[arg(long, value_name = "HOME_OR_USER")]
    only: Vec<String>,
    /// Take dead mounts off the homes, leave the read-only floor there, and end: after a crash
    #[arg(long, conflicts_with_all = ["only", "supervised"])]
    cleanup: bool,
    /// Stop when standard input ends: the way `serve` holds its child
    #[arg(long, hide = true)]
    supervised: bool,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Also ask each bucket, with a signed HEAD, whether it may be used
    #[arg(long)]
    online: bool,
}

#[derive(Debug, Args)]
struct Emulator {
    /// Address and port to listen on; port 0 = any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9980")]
    listen: SocketAddr,
    /// Directory that keeps the data [default: memory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Bucket that is there from the start; may be given several times
    #[arg(long, value_name = "NAME-APPID", default_value = "demo-1250000000")]
    bucket: Vec<String>,
    #[arg(long, value_name = "ID", default_value = "emulator")]
    secret_id: String,
    #[arg(long, value_name = "KEY", default_value = "emulator-secret")]
    secret_key: String,
    /// Milliseconds before the first byte of each response
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
    /// Each connection's bandwidth, each way; 0 = no bound
    #[arg(long, value_name = "BYTES_PER_SECOND", default_value_t = 0)]
    per_connection_bandwidth: u64,
    /// ETags of parts without MD5, for benchmarks
    #[arg(long)]
    fast_etag: bool,
    /// Address and port of the admin port: faults, counters, what is stored
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Stop when standard input ends: the way `demo` holds its child
    #[arg(long, hide = true)]
    supervised: bool,
}

#[derive(Debug, Args)]
struct Demo {
    /// Where everything lies; it stays [default: a new temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// FTP port
    #[arg(long, value_name = "N", default_value_t = 2121)]
    port: u16,
    /// FTPS as well, with a certificate of its own making
    #[arg(long)]
    tls: bool,
}

/// What the FTP client's subcommands share.
#[derive(Debug, Args)]
struct Remote {
    /// Directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// TLS on ftp://: `offered` (where the server offers it), `required`, `none`
    #[arg(long, value_name = "WHEN", default_value = "offered")]
    tls: TlsWish,
    /// As `--tls none`: name, password and files in clear
    #[arg(long, conflicts_with = "tls")]
    plain: bool,
    /// Believe any certificate
    #[arg(long)]
    insecure: bool,
    /// PEM file of root certificates, beside the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Get {
    #[command(flatten)]
    remote: Remote,
    /// ftp://user@host/path or ftps://…, several; then where to: a directory, or the name of the only file.
    /// The password: in the URL, in COSGATE_FTP_PASSWORD, or asked for
    #[arg(required = true, value_name = "URL... [LOCAL]")]
    places: Vec<String>,
}

#[derive(Debug, Args)]
struct Put {
    #[command(flatten)]
    remote: Remote,
    /// Take a shorter remote file for the beginning of this one where the server tells no checksum
    #[arg(short = 'c', long = "continue")]
    resume: bool,
    /// Files, then ftp://user@host/path: a directory where it ends in / or there are several files.
    /// The password: in the URL, in COSGATE_FTP_PASSWORD, or asked for
    #[arg(required = true, num_args = 2.., value_name = "LOCAL... URL")]
    places: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct Ls {
    #[command(flatten)]
    remote: Remote,
    /// ftp://user@host/path. The password: in the URL, in COSGATE_FTP_PASSWORD, or asked for
    #[arg(value_name = "URL")]
    url: String,
}

impl Remote {
    fn options(self) -> ClientOptions {
        let tls = if self.plain { TlsWish::Plain } else { self.tls };
        ClientOptions {
            security: Security { tls, insecure: self.insecure, ca_file: self.ca },
            recursive: self.recursive,
            quiet: self.quiet,
            resume: false,
        }
    }
}

/// Why a subcommand did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Told already.
    #[error("failed")]
    Logged,
}

/// Runs the program; the first argument is its own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.execute(),
        Err(error) => usage(&error),
    }
}

/// Help and version were asked for and are no mistake.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody may be reading; the exit code stays the same.
    error.print().ok();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(USAGE),
    }
}

impl Cli {
    fn execute(self) -> ExitCode {
        let done = match self.command {
            Command::Serve(options) => run_serve(&options),
            Command::Mount(options) => run_mount(options),
            Command::Ftp(file) => run_ftp(&file),
            Command::Check(options) => run_check(&options),
            Command::Passwd => passwd::run().map_err(Failure::from),
            Command::Emulator(options) => run_emulator(options),
            Command::Demo(options) => run_demo(options),
            Command::Get(options) => run_get(options),
            Command::Put(options) => run_put(options),
            Command::Ls(options) => run_ls(options),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Configuration(error)) => {
                eprintln!("{error}");
                ExitCode::from(CONFIGURATION)
            }
            Err(Failure::Other(error)) => {
                eprintln!("cosgate: {error:#}");
                ExitCode::from(FAILURE)
            }
            Err(Failure::Client(error)) => {
                eprintln!("cosgate: {error}");
                ExitCode::from(if matches!(error, ClientError::Usage(_)) { USAGE } else { FAILURE })
            }
            Err(Failure::Logged) => ExitCode::from(FAILURE),
        }
    }
}

fn run_serve(options: &Serve) -> Result<(), Failure> {
    let mut config = Config::load_from(options.file.config.as_deref())?;
    let log = telemetry::start(&config.log, "serve");
    tell(&config);
    // The child reads the file for itself.
    config.forget_store_secrets();
    let source = config.source.as_deref().context("a configuration without a file")?;
    live(log, || serve::run(&config, source, options.supervised))
}

fn run_mount(options: Mount) -> Result<(), Failure> {
    let Mount { file, only, cleanup, supervised } = options;
    // A child that is started again has to come up, and a crash has to be cleared away, whatever the
    // machine looks like now.
    let path = Config::find(file.config.as_deref())?;
    let config = if supervised || cleanup { Config::load_again(&path)? } else { Config::load(&path)? };
    let log = telemetry::start(&config.log, "mount");
    if !supervised {
        tell(&config);
    }
    if cleanup {
        return live(log, || mount::clear(&config));
    }
    live(log, || mount::run(&config, &MountOptions { only, supervised }))
}

fn run_ftp(file: &ConfigFile) -> Result<(), Failure> {
    let mut config = Config::load_from(file.config.as_deref())?;
    let log = telemetry::start(&config.log, "ftp");
    tell(&config);
    config.forget_store_secrets();
    live(log, || ftp::run(&config))
}

fn run_check(options: &Check) -> Result<(), Failure> {
    let config = Config::load_from(options.file.config.as_deref())?;
    Ok(check::run(&config, options.online)?)
}

fn run_emulator(options: Emulator) -> Result<(), Failure> {
    let log = telemetry::start_without_file(Level::INFO);
    let supervised = options.supervised;
    let options = EmulatorOptions {
        listen: options.listen,
        data: options.data,
        buckets: options.bucket,
        secret_id: options.secret_id,
        secret_key: options.secret_key,
        latency: Duration::from_millis(options.latency),
        per_connection_bandwidth: options.per_connection_bandwidth,
        fast_etag: options.fast_etag,
        admin: options.admin,
        ..EmulatorOptions::default()
    };
    live(log, || {
        if supervised {
            end_with_parent()?;
        }
        emulator::run(options)
    })
}

fn run_demo(options: Demo) -> Result<(), Failure> {
    let log = telemetry::start_without_file(Level::WARN);
    live(log, || demo::run(&DemoOptions { dir: options.dir, port: options.port, tls: options.tls }))
}

fn run_get(options: Get) -> Result<(), Failure> {
    let (mut words, mut local) = (options.places, None);
    if words.len() > 1 && words.last().is_some_and(|word| !Url::is_meant_by(word)) {
        local = words.pop().map(PathBuf::from);
    }
    let urls = words.iter().map(|word| word.parse()).collect::<Result<Vec<Url>, _>>()?;
    Ok(client::get(&urls, local.as_deref(), &options.remote.options())?)
}

fn run_put(options: Put) -> Result<(), Failure> {
    let mut places = options.places;
    let url: Url = places.pop().unwrap_or_default().to_string_lossy().parse()?;
    let remote = ClientOptions { resume: options.resume, ..options.remote.options() };
    Ok(client::put(&places, &url, &remote)?)
}

fn run_ls(options: Ls) -> Result<(), Failure> {
    Ok(client::ls(&options.url.parse()?, &options.remote.options())?)
}

/// The file that was read, and what about it deserves a word.
fn tell(config: &Config) {
    let file = config.source.as_deref().unwrap_or(Path::new("")).display();
    info!(%file, version = env!("CARGO_PKG_VERSION"), "configuration read");
    for warning in &config.warnings {
        warn!("{warning}");
    }
}

/// Runs to the end. A failure is told by the log, which reaches standard error too.
fn live(log: telemetry::Log, life: impl FnOnce() -> anyhow::Result<()>) -> Result<(), Failure> {
    let done = life().map_err(|failure| {
        error!(error = format!("{failure:#}"), "failed");
        Failure::Logged
    });
    drop(log);
    done
}
