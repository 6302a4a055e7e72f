//! `cosgate mount` or `cosgate serve` as a child process over an emulator, on temporary homes.

use std::{
    fmt::Write as _,
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use rustix::process::Signal;

use super::{
    emulator::{BUCKET, Emulator},
    guards::{Process, TempTree, children_of, mounts_below, unmount_below},
};

pub const SECRET_ID: &str = "emulator";
pub const SECRET_KEY: &str = "emulator-secret";

/// What a gateway is to be like. Every account gets a home of its own and the login `NAME`/`NAME-password`.
#[derive(Debug)]
pub struct Setup {
    tree: TempTree,
    endpoint: String,
    accounts: String,
    users: Vec<String>,
    network: String,
    optional: String,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// Over this emulator, without an account yet.
    pub fn new(emulator: &Emulator) -> Self {
        Self {
            tree: TempTree::new(),
            endpoint: emulator.address().to_string(),
            accounts: String::new(),
            users: Vec::new(),
            network: String::new(),
            optional: String::new(),
            environment: Vec::new(),
        }
    }

    /// Where the home of an account will be.
    pub fn home(&self, user: &str) -> PathBuf {
        self.tree.path().join("homes").join(user)
    }

    /// Another account on the bucket [`BUCKET`]; `lines` are further keys of its section, such as
    /// `delete_enable = false`.
    #[must_use]
    pub fn account(self, user: &str, lines: &str) -> Self {
        self.account_on(BUCKET, user, lines)
    }

    /// Another account on `bucket`.
    #[must_use]
    pub fn account_on(mut self, bucket: &str, user: &str, lines: &str) -> Self {
        let home = self.tree.path().join("homes").join(user);
        std::fs::create_dir_all(&home).expect("a home");
        let number = self.users.len();
        write!(
            self.accounts,
            "[COS_ACCOUNT_{number}]\ncos_secretid = {SECRET_ID}\ncos_secretkey = {SECRET_KEY}\n\
             cos_bucket = {bucket}\ncos_region = ap-guangzhou\ncos_endpoint = {}\ncos_protocol = http\n\
             cos_addressing = path\nhome_dir = {}\nftp_login_user_name = {user}\n\
             ftp_login_user_password = {user}-password\n{lines}\n\n",
            self.endpoint,
            home.display(),
        )
        .expect("a String takes text");
        self.users.push(user.to_owned());
        self
    }

    /// Accounts in the first generation's form: one bucket, one home named `home`, `login_users` such as
    /// `a:a-password:RW;b:b-password:R`.
    #[must_use]
    pub fn first_generation(mut self, login_users: &str) -> Self {
        let home = self.tree.path().join("homes").join("home");
        std::fs::create_dir_all(&home).expect("a home");
        write!(
            self.accounts,
            "[COS_ACCOUNT]\ncos_secretid = {SECRET_ID}\ncos_secretkey = {SECRET_KEY}\ncos_bucket = {BUCKET}\n\
             cos_region = ap-guangzhou\ncos_endpoint = {}\ncos_protocol = http\ncos_addressing = path\n\
             cos_user_home_dir = {}\n\n[FTP_ACCOUNT]\nlogin_users = {login_users}\n\n",
            self.endpoint,
            home.display(),
        )
        .expect("a String takes text");
        self.users.push("home".to_owned());
        self
    }

    /// A further line of `[NETWORK]`.
    #[must_use]
    pub fn network(mut self, line: &str) -> Self {
        self.network.push_str(line);
        self.network.push('\n');
        self
    }

    /// A further line of `[OPTIONAL]`, such as `memory_limit = 32M`.
    #[must_use]
    pub fn optional(mut self, line: &str) -> Self {
        self.optional.push_str(line);
        self.optional.push('\n');
        self
    }

    /// A variable of the child's environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts `cosgate mount` and waits until it is ready.
    pub fn mount(self) -> Gateway {
        self.start("mount", &[])
    }

    /// Starts `cosgate serve` and waits until it is ready.
    pub fn serve(self) -> Gateway {
        self.start("serve", &[])
    }

    /// Starts a subcommand with further arguments and waits until it is ready.
    pub fn start(self, subcommand: &str, arguments: &[&str]) -> Gateway {
        let config = self.tree.path().join("cosgate.conf");
        let log_dir = self.tree.path().join("log");
        let text = format!(
            "{}[NETWORK]\nlisten_port = 0\nlisten_address = 127.0.0.1\n{}\n\
             [FILE_OPTION]\n\n[OPTIONAL]\nlog_dir = {}\nconfig_check_enable = false\n{}\n",
            self.accounts,
            self.network,
            log_dir.display(),
            self.optional,
        );
        std::fs::write(&config, text).expect("a configuration file");
        std::fs::set_permissions(&config, Permissions::from_mode(0o600)).expect("it is ours");
        let mut gateway = Gateway {
            process: None,
            subcommand: subcommand.to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            config,
            environment: self.environment,
            tree: self.tree,
        };
        gateway.restart();
        gateway
    }
}

/// A running gateway; its end takes its mounts along.
#[derive(Debug)]
pub struct Gateway {
    process: Option<Process>,
    subcommand: String,
    arguments: Vec<String>,
    config: PathBuf,
    environment: Vec<(String, String)>,
    tree: TempTree,
}

impl Gateway {
    /// The home of an account.
    pub fn home(&self, user: &str) -> PathBuf {
        self.tree.path().join("homes").join(user)
    }

    /// The temporary directory that holds everything.
    pub fn tree(&self) -> &Path {
        self.tree.path()
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The directory of the mounts beside the homes.
    pub fn runtime_dir(&self) -> PathBuf {
        self.tree.path().join("run")
    }

    /// A command of the same program, with this gateway's configuration and environment.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cosgate"));
        command.arg(subcommand).arg("-c").arg(&self.config).current_dir(self.tree.path());
        command.env("RUNTIME_DIRECTORY", self.runtime_dir());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it (again) and waits until it is ready.
    pub fn restart(&mut self) {
        self.process = None;
        let mut command = self.command(&self.subcommand);
        // The front alone holds no mount that would outlive a killed test.
        if self.subcommand != "ftp" {
            command.arg("--supervised");
        }
        command.args(&self.arguments);
        let mut process = Process::start(&format!("cosgate {}", self.subcommand), &mut command);
        process.wait_for_line(20, |line| line == "ready");
        self.process = Some(process);
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it is running")
    }

    /// The process that serves the mounts.
    pub fn mount_pid(&mut self) -> u32 {
        let pid = self.process().pid();
        if self.subcommand == "mount" {
            return pid;
        }
        let mount = children_of(pid).into_iter().find(|(_, line)| line.contains(" mount "));
        mount.expect("serve has a mount child").0
    }

    /// Where FTP answers, as the `listening` line says.
    pub fn ftp_port(&mut self) -> u16 {
        let said = self.process().said();
        said.iter()
            .filter(|line| line.starts_with("listening on port "))
            .find_map(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no port in {said:?}"))
    }

    /// Asks it to stop and waits; `None` when it does not within `seconds`.
    pub fn stop(&mut self, seconds: u64) -> Option<ExitStatus> {
        let process = self.process.as_mut()?;
        process.signal(Signal::TERM);
        process.wait(seconds)
    }

    /// SIGKILL, as the out-of-memory killer would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Everything mounted by this gateway.
    pub fn mounts(&self) -> Vec<(PathBuf, String)> {
        mounts_below(self.tree.path())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.process.is_some() && self.stop(5).is_none() {
            eprintln!("cosgate {} did not stop within 5 s", self.subcommand);
            unmount_below(self.tree.path());
        }
        self.process = None;
    }
}
