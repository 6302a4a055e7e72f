//! Guards: processes, mounts, temporary directories, and a watchdog that ends a test which hangs.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::unix::{ffi::OsStringExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process, test_kill_process},
};

/// What the watchdog has to end before it aborts the test process.
static CHARGES: Mutex<Charges> = Mutex::new(Charges { processes: Vec::new(), trees: Vec::new() });

struct Charges {
    processes: Vec<u32>,
    trees: Vec<PathBuf>,
}

/// Fails the test where a program is missing, with the line that installs it.
pub fn require(program: &str) {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    let package = match program {
        "vim" => "vim-tiny",
        "fusermount3" => "fuse3",
        other => other,
    };
    assert!(found, "{program} is missing: apt-get install -y {package}");
}

/// Fails the test where mounting is impossible, with the reason.
pub fn require_fuse() {
    assert!(
        Path::new("/dev/fuse").exists(),
        "/dev/fuse is missing: modprobe fuse (or run with --device /dev/fuse)"
    );
    assert!(rustix::process::geteuid().is_root(), "these tests mount file systems: run them as root");
}

/// Runs a program to its end.
pub fn run<I, S>(program: &str, arguments: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    require(program);
    Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("the program starts")
}

/// Runs a line of bash; its output with `stderr` behind it, and whether it ended with 0.
pub fn shell(line: &str) -> (bool, String) {
    let output = run("bash", ["-c", line]);
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// Whether `condition` comes true within `seconds`.
pub fn eventually(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        pause(Duration::from_millis(20));
    }
}

/// Waits; a test may block its own thread.
pub fn pause(duration: Duration) {
    #[expect(clippy::disallowed_methods, reason = "no runtime here: the test's own thread waits")]
    thread::sleep(duration);
}

/// Whether a process is there and not merely waiting to be reaped.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state =
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).unwrap_or("X").to_owned();
    state != "Z" && state != "X"
}

/// The direct children of a process, each with its command line.
pub fn children_of(pid: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(pid) && is_alive(child) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((child, String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    found
}

/// Mount points at and below a directory, oldest first, with the type of what is mounted there.
pub fn mounts_below(dir: &Path) -> Vec<(PathBuf, String)> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
    let mut found = Vec::new();
    for line in table.lines() {
        let mut words = line.split(' ');
        let Some(point) = words.nth(4) else { continue };
        let Some(kind) = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next()) else { continue };
        let point = unescape(point);
        if point.starts_with(dir) {
            found.push((point, kind.to_owned()));
        }
    }
    found
}

/// Takes away everything that is mounted at and below a directory, by force.
pub fn unmount_below(dir: &Path) {
    for _ in 0..10 {
        let mounts = mounts_below(dir);
        if mounts.is_empty() {
            return;
        }
        for (point, kind) in mounts.iter().rev() {
            if kind.starts_with("fuse") {
                // Ends requests that nobody will answer; often EBUSY, which does not matter here.
                unmount(point, UnmountFlags::FORCE).ok();
            }
            unmount(point, UnmountFlags::DETACH).ok();
        }
    }
}

fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// A temporary directory below which things may be mounted. Unmounts before it removes: a removal must
/// never walk into a bucket.
#[derive(Debug)]
pub struct TempTree(Option<tempfile::TempDir>);

impl TempTree {
    /// A new, empty one.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("cosgate-test-").tempdir().expect("a temporary directory");
        CHARGES.lock().trees.push(dir.path().to_owned());
        Self(Some(dir))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("taken by drop alone").path()
    }
}

impl Drop for TempTree {
    fn drop(&mut self) {
        let Some(dir) = self.0.take() else { return };
        unmount_below(dir.path());
        CHARGES.lock().trees.retain(|tree| tree != dir.path());
        if !mounts_below(dir.path()).is_empty() {
            eprintln!("{} stays: something below it cannot be unmounted", dir.keep().display());
        }
    }
}

/// A child process, ended with its guard, whose lines of standard output can be waited for.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    seen: Arc<Mutex<Vec<String>>>,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts a program with its standard output caught. Standard error goes to the test's own. Its standard
    /// input ends when the test process does, however that ends, and it is in a process group of its own:
    /// so a `--supervised` one outlives a test that is killed for just as long as it needs to unmount.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        CHARGES.lock().processes.push(child.id());
        let output = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&seen);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                copy.lock().push(line.clone());
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, name: name.to_owned(), seen, lines }
    }

    /// Waits for a line of standard output.
    pub fn wait_for_line(&mut self, seconds: u64, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if wanted(&line) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} did not say it within {seconds} s, but {:?}", self.name, self.seen.lock())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait();
                    panic!("{} ended ({status:?}) and had said {:?}", self.name, self.seen.lock())
                }
            }
        }
    }

    /// All lines of standard output so far.
    pub fn said(&self) -> Vec<String> {
        self.seen.lock().clone()
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a number");
        kill_process(pid, signal).ok();
    }

    /// Waits for its end; `None` when it lives on after `seconds`.
    pub fn wait(&mut self, seconds: u64) -> Option<ExitStatus> {
        let mut status = None;
        eventually(seconds, || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        let pid = self.child.id();
        CHARGES.lock().processes.retain(|charge| *charge != pid);
    }
}

/// Ends the test process, its children and its mounts when a test takes too long: a hanging mount must
/// not hang everything else.
#[derive(Debug)]
pub struct Watchdog(Option<mpsc::Sender<()>>);

impl Watchdog {
    /// Lets `seconds` pass.
    pub fn bark_after(seconds: u64) -> Self {
        require_fuse();
        let (sender, leash) = mpsc::channel();
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            if leash.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs after {seconds} s: its mounts and children are ended by force");
                bite();
            }
        });
        Self(Some(sender))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            sender.send(()).ok();
        }
    }
}

fn bite() -> ! {
    let (processes, trees) = {
        let charges = CHARGES.lock();
        (charges.processes.clone(), charges.trees.clone())
    };
    // First of all: what waits for a mount may hold locks that a look into /proc waits for.
    trees.iter().for_each(|tree| unmount_below(tree));
    for pid in processes
        .iter()
        .flat_map(|pid| children_of(*pid).into_iter().map(|(child, _)| child))
        .chain(processes.clone())
    {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
            && test_kill_process(pid).is_ok()
        {
            kill_process(pid, Signal::KILL).ok();
        }
    }
    for tree in trees {
        unmount_below(&tree);
    }
    std::process::abort()
}
