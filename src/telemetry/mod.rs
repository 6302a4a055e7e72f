//! The log subscriber: what this program says goes to standard error and to a file under `log_dir`.
//!
//! | standard error is | form of a line |
//! |---|---|
//! | a terminal | text with colours |
//! | the journal of systemd | text behind a priority (sd-daemon(3)), without time: the journal has its own |
//! | anything else | as `log_format` says, with time |
//!
//! The file is `log_dir/cosgate-<subcommand>.log`, as `log_format` says. Lines are written by a thread
//! each, so that a terminal that is held or a slow disk never delays a transfer; beyond 8192 waiting
//! lines the newest are lost rather than kept in memory. Where the file cannot be written, standard
//! error alone says everything, that included.
//!
//! Files are rotated and reopened as `file` tells; lines for other readers (transfers, logins) go there too.
//!
//! Other crates are held at WARN: libunftp and unftp-sbe-fs put every argument of every call into spans
//! at INFO.

use std::{
    env, fmt,
    io::{self, IsTerminal},
    panic,
    path::PathBuf,
};

use tracing::{Event, Level, Subscriber, error, level_filters::LevelFilter, warn};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

mod file;

use self::file::LogFile;
pub use self::file::{Lines, reopen};
use crate::config::LogConfig;

/// Lines that may wait for a slow reader.
const LINES_MAX: usize = 8192;

/// Writes what is still waiting when it is dropped.
#[must_use = "lines that wait are lost with it"]
#[derive(Debug)]
pub struct Log {
    _workers: Vec<WorkerGuard>,
}

/// Where standard error leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Terminal,
    Journal,
    Other,
}

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Begins to log for a subcommand. Once per process; later calls change nothing.
pub fn start(config: &LogConfig, subcommand: &str) -> Log {
    let path = config.directory.join(format!("cosgate-{subcommand}.log"));
    let file = LogFile::open(&path, config.rotation);
    let is_open = file.is_open();
    let log = start_with(config, Some(file));
    if !is_open {
        warn!(path = %path.display(), "no log file: log_dir cannot be written");
    }
    log
}

/// Begins to log to standard error alone, for what has no configuration.
pub fn start_without_file(level: Level) -> Log {
    start_with(&LogConfig { level, directory: PathBuf::new(), json: false, rotation: None }, None)
}

fn start_with(config: &LogConfig, file: Option<LogFile>) -> Log {
    let mut workers = Vec::new();
    let mut layers: Vec<AnyLayer> = Vec::new();
    let mut writer = |sink: Box<dyn io::Write + Send>| {
        let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).finish(sink);
        workers.push(guard);
        writer
    };
    layers.push(to_stderr(Reader::of_stderr(), config.json, writer(Box::new(io::stderr()))));
    if let Some(file) = file {
        layers.push(to_file(config.json, writer(Box::new(file))));
    }
    // Fails only where a subscriber is there already (tests): then that one goes on.
    if tracing_subscriber::registry().with(layers.with_filter(filter(config.level))).try_init().is_ok() {
        log_panics();
    }
    Log { _workers: workers }
}

/// Our own lines from `level` on, those of others from WARN on.
fn filter(level: Level) -> Targets {
    let others = LevelFilter::from_level(level).min(LevelFilter::WARN);
    // libunftp warns of each command that fails; the client reads it, and the front's own lines tell of it.
    // rustls warns of each client that came by an address and not by a name.
    let inner = others.min(LevelFilter::ERROR);
    Targets::new()
        .with_default(others)
        .with_target("cosgate", level)
        .with_target("libunftp", inner)
        .with_target("rustls", inner)
}

fn to_stderr(reader: Reader, json: bool, writer: NonBlocking) -> AnyLayer {
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match reader {
        Reader::Terminal => layer.with_target(false).boxed(),
        Reader::Journal => layer.event_format(JournalLine(format().without_time().with_ansi(false))).boxed(),
        Reader::Other if json => layer.json().flatten_event(true).boxed(),
        Reader::Other => layer.with_ansi(false).boxed(),
    }
}

fn to_file(json: bool, writer: NonBlocking) -> AnyLayer {
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    if json { layer.json().flatten_event(true).boxed() } else { layer.boxed() }
}

/// A panic is an operator's business: it stands in the log, not just on a terminal that nobody watches.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let why =
            payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref().map(String::as_str));
        let why = why.unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        error!(place, why, %backtrace, "panicked");
    }));
}

impl Reader {
    fn of_stderr() -> Self {
        if io::stderr().is_terminal() {
            return Self::Terminal;
        }
        let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return Self::Other };
        // systemd.exec(5), JOURNAL_STREAM: a child whose standard error leads elsewhere has inherited
        // the variable all the same.
        let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
        if stream == format!("{}:{}", stat.st_dev, stat.st_ino) { Self::Journal } else { Self::Other }
    }
}

/// `<6>INFO …`: the journal takes the priority from it.
struct JournalLine<F>(F);

impl<S, N, F> FormatEvent<S, N> for JournalLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use parking_lot::Mutex;
    use tracing::{info, subscriber::with_default};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a layer writes while `say` speaks.
    fn written(level: Level, layer: impl FnOnce(NonBlocking) -> AnyLayer, say: impl FnOnce()) -> String {
        let sink = Sink::default();
        let (writer, guard) = NonBlockingBuilder::default().finish(sink.clone());
        with_default(tracing_subscriber::registry().with(layer(writer).with_filter(filter(level))), say);
        drop(guard);
        let bytes = sink.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_journal_is_told_a_priority_and_no_time() {
        let journal = |writer| to_stderr(Reader::Journal, true, writer);
        let text = written(Level::INFO, journal, || {
            info!(port = 2121, "listening");
            error!("lost");
        });
        assert_eq!(
            text,
            "<6> INFO cosgate::telemetry::tests: listening port=2121\n<3>ERROR cosgate::telemetry::tests: lost\n"
        );
    }

    #[test]
    fn other_crates_are_held_at_warn() {
        for (level, count) in [(Level::TRACE, 2), (Level::WARN, 1), (Level::ERROR, 0)] {
            let text = written(
                level,
                |writer| to_file(false, writer),
                || {
                    tracing::debug!(target: "cosgate::ftp", "ours");
                    tracing::info!(target: "libunftp::server", "theirs");
                    tracing::warn!(target: "unftp_sbe_fs", "theirs, worse");
                },
            );
            assert_eq!(text.lines().count(), count, "{level}: {text}");
        }
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = written(Level::INFO, |writer| to_file(true, writer), || info!(bytes = 7, "stored"));
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((line["bytes"].as_u64(), line["message"].as_str()), (Some(7), Some("stored")));
        assert!(line["timestamp"].is_string() && line["level"] == "INFO");
    }
}
