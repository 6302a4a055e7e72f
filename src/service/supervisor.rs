//! The mount child of `serve`: started, awaited, started again when it dies, stopped.
//!
//! ```text
//!            spawn              "ready"                 stop asked
//! starting ────────> starting ─────────> ready ────────────────────> SIGTERM, grace, SIGKILL ──> over
//!     ^                  │ exit            │ exit
//!     └── pause ─────────┴─────────────────┘      (the first start: an exit before "ready" is final)
//! ```
//!
//! The child clears the dead mounts of its predecessor by itself. It reads our end of a pipe as its standard
//! input, so it ends, in order, when this process does.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    pin::pin,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tracing::{error, info, warn};

use super::{READY, reload::Progress, signals::RELOAD};

/// This very program, also when its file has been replaced meanwhile.
pub(super) const THIS_PROGRAM: &str = "/proc/self/exe";
/// How long `ready` may take.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Pause before the first new start, and the longest one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A child that lived for so long has not died of its start.
const GOOD_LIFE: Duration = Duration::from_secs(30);
/// Beyond the grace for uploads: what unmounting may take.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Where a supervised child stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Starting,
    Ready,
    /// Ended, and not to be started again. `clean`: it took its mounts along.
    Over {
        clean: bool,
    },
}

/// How the child is started.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    program: &'static str,
    /// Behind the program's name.
    pub(super) arguments: Vec<String>,
    /// How long it may take to stop, before SIGKILL.
    pub(super) patience: Duration,
}

impl Recipe {
    /// `cosgate mount` with the configuration of this process.
    pub(super) fn mount(config_file: &std::path::Path, grace: Duration) -> Self {
        let file = config_file.to_string_lossy().into_owned();
        Self {
            program: THIS_PROGRAM,
            arguments: vec!["mount".into(), "-c".into(), file, "--supervised".into()],
            patience: grace + STOP_MARGIN,
        }
    }
}

/// A child of this program that is kept alive.
#[derive(Debug)]
pub(super) struct Supervisor {
    standing: watch::Receiver<Standing>,
    stop: watch::Sender<bool>,
    /// How often a reload has been asked for.
    reloads: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
    task: JoinHandle<()>,
}

/// What the child hears and says, over all its lives.
struct Wires {
    standing: watch::Sender<Standing>,
    asked: watch::Receiver<bool>,
    reloads: watch::Receiver<u64>,
    progress: watch::Sender<Progress>,
}

impl Supervisor {
    /// Starts the child, and again whenever it dies. Needs a runtime.
    pub(super) fn start(recipe: Recipe) -> Self {
        let (standing_sender, standing) = watch::channel(Standing::Starting);
        let (stop, asked) = watch::channel(false);
        let (reloads, reloads_asked) = watch::channel(0);
        let progress = watch::Sender::new(Progress::Done);
        let wires =
            Wires { standing: standing_sender, asked, reloads: reloads_asked, progress: progress.clone() };
        let task = tokio::spawn(keep_alive(recipe, wires));
        Self { standing, stop, reloads, progress, task }
    }

    /// Ends when the child says that it is ready.
    ///
    /// # Errors
    /// Where it ends before; it has said why on standard error.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let standing = self.standing.wait_for(|standing| *standing != Standing::Starting).await;
        match standing.map(|standing| *standing) {
            Ok(Standing::Ready) => Ok(()),
            Ok(Standing::Starting | Standing::Over { .. }) | Err(_) => {
                bail!("the mounts did not come up: the lines above tell why")
            }
        }
    }

    /// Asks the child to read its configuration again. A child that dies of it reads it as it starts again.
    pub(super) fn ask_to_reload(&self) {
        self.progress.send_replace(Progress::Asked);
        self.reloads.send_modify(|count| *count += 1);
    }

    /// How far the child has come since it was asked last. `None`: not further than `than`, for so long.
    pub(super) async fn progress_beyond(&self, than: Progress, patience: Duration) -> Option<Progress> {
        let further = |progress: &Progress| *progress != Progress::Asked && *progress != than;
        let mut progress = self.progress.subscribe();
        let reached = timeout(patience, progress.wait_for(further)).await;
        reached.ok()?.ok().map(|progress| *progress)
    }

    /// Stops the child and waits for its end. Whether it took its mounts along.
    pub(super) async fn stop(self) -> bool {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            error!(%error, "the supervisor failed");
        }
        matches!(*self.standing.borrow(), Standing::Over { clean: true })
    }
}

async fn keep_alive(recipe: Recipe, mut wires: Wires) {
    let mut pause = PAUSE_FIRST;
    let mut was_ever_ready = false;
    loop {
        let began = Instant::now();
        let life = one_life(&recipe, &mut wires).await;
        let Wires { standing, asked, .. } = &mut wires;
        was_ever_ready |= *standing.borrow() == Standing::Ready;
        let stopping = *asked.borrow();
        match life {
            Ok(status) if stopping => {
                standing.send_replace(Standing::Over { clean: status.success() });
                return;
            }
            Ok(status) => {
                let (code, signal) = (status.code(), status.signal());
                error!(code, signal, "the mount process ended: clients read 450 until it is back");
            }
            Err(error) => error!(error = format!("{error:#}"), "the mount process does not start"),
        }
        if !was_ever_ready || stopping {
            standing.send_replace(Standing::Over { clean: false });
            return;
        }
        standing.send_replace(Standing::Starting);
        if began.elapsed() >= GOOD_LIFE {
            pause = PAUSE_FIRST;
        }
        info!(?pause, "starting the mount process again");
        if timeout(pause, asked.wait_for(|asked| *asked)).await.is_ok() {
            standing.send_replace(Standing::Over { clean: false });
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// From spawn to exit.
async fn one_life(recipe: &Recipe, wires: &mut Wires) -> anyhow::Result<ExitStatus> {
    let Wires { standing, asked, reloads, progress } = wires;
    let mut child =
        spawn(recipe.program, &recipe.arguments).context("cannot start this program as its own child")?;
    // Waiting closes it, and its end is what tells the child that we have gone.
    let mut input = child.stdin.take();
    let mut lines = lines_of(&mut child);
    tokio::select! {
        ready = wait_for_ready(&mut lines) => {
            if ready {
                standing.send_replace(Standing::Ready);
                // It has just read the file, whoever had asked its predecessor to.
                progress.send_replace(Progress::Done);
            }
        }
        _ = asked.wait_for(|asked| *asked) => {}
    }
    let mut speaks = true;
    loop {
        tokio::select! {
            biased;
            () = is_asked(asked) => break,
            line = lines.next_line(), if speaks => match line {
                Ok(Some(line)) => {
                    if let Some(reached) = Progress::of_line(&line) {
                        progress.send_replace(reached);
                    }
                }
                Ok(None) | Err(_) => speaks = false,
            },
            Ok(()) = reloads.changed() => {
                progress.send_replace(Progress::Asked);
                ask_to_reload(input.as_mut()).await;
            }
            status = child.wait() => return Ok(status?),
        }
    }
    terminate(&mut child, recipe.patience).await.context("cannot stop the mount process")
}

/// Until a stop is asked for, or nobody can ask any more.
async fn is_asked(asked: &mut watch::Receiver<bool>) {
    drop(asked.wait_for(|asked| *asked).await);
}

/// By a line and not by a signal, which would end a child that does not listen yet.
async fn ask_to_reload(input: Option<&mut ChildStdin>) {
    let Some(input) = input else { return };
    if let Err(error) = input.write_all(format!("{RELOAD}\n").as_bytes()).await {
        warn!(%error, "the mount process cannot be asked to reload");
    }
}

/// SIGTERM, patience, SIGKILL.
pub(super) async fn terminate(child: &mut Child, patience: Duration) -> io::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // It may have ended just now.
        if let Err(error) = kill_process(pid, Signal::TERM) {
            warn!(%error, "SIGTERM");
        }
    }
    if let Ok(status) = timeout(patience, child.wait()).await {
        return status;
    }
    error!(?patience, "a child does not stop: SIGKILL");
    child.kill().await?;
    child.wait().await
}

/// A child in a process group of its own: Ctrl-C is meant for us, and we stop it in order.
pub(super) fn spawn(program: &str, arguments: &[String]) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg0(PathBuf::from("cosgate")).args(arguments);
    // Only this process speaks to systemd.
    command.env_remove("NOTIFY_SOCKET");
    // mallopt(3). The slabs of the memory budget, 1 MiB each, are mapped one by one; glibc would else move them
    // into the arenas of its threads after the first one that is freed, with gaps between them (9 of 304 MiB).
    command.env("MALLOC_MMAP_THRESHOLD_", (512 << 10).to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    command.spawn()
}

/// The lines that a child says.
pub(super) fn lines_of(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("spawned with a pipe, taken once")).lines()
}

/// Whether the child said `ready` before its standard output ended, as it does with the child.
async fn wait_for_ready(lines: &mut Lines<BufReader<ChildStdout>>) -> bool {
    let mut said = pin!(async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line == READY {
                return true;
            }
        }
        false
    });
    if let Ok(said) = timeout(START_PATIENCE, said.as_mut()).await {
        return said;
    }
    warn!(patience = ?START_PATIENCE, "the mount process is not ready yet");
    said.await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Recipe {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Recipe { program: "/bin/sh", arguments, patience: Duration::from_secs(5) }
    }

    #[tokio::test]
    async fn a_child_that_ends_before_it_is_ready_is_not_started_again() {
        let mut child = Supervisor::start(shell("exit 1"));
        assert!(child.ready().await.is_err());
        assert!(!child.stop().await, "it did not end well");
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_and_stops_in_order() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lives = dir.path().join("lives");
        // Its first life ends by a signal, its second one when it is asked.
        let script = format!(
            "trap 'exit 0' TERM; echo x >> {0}; echo ready; [ $(wc -l < {0}) = 1 ] && kill -9 $$; \
             while :; do sleep 0.01; done",
            lives.display()
        );
        let mut child = Supervisor::start(shell(&script));
        child.ready().await.expect("its first life begins well");
        let twice = || std::fs::read_to_string(&lives).is_ok_and(|lives| lives.lines().count() == 2);
        timeout(Duration::from_secs(20), async {
            while !twice() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("it is started again");
        child.ready().await.expect("its second life begins well");
        assert!(child.stop().await, "asked by SIGTERM it ends with 0");
    }

    #[tokio::test]
    async fn a_child_that_does_not_stop_is_killed() {
        let mut recipe = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        recipe.patience = Duration::from_millis(200);
        let mut child = Supervisor::start(recipe);
        child.ready().await.expect("it says so");
        let began = Instant::now();
        assert!(!child.stop().await, "it had to be killed");
        assert!(began.elapsed() >= Duration::from_millis(200));
    }
}
