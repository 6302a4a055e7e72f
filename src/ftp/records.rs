//! What happened, for readers that are programs: the access log and the xferlog.
//!
//! | log | holds | read by |
//! |---|---|---|
//! | access log, `cosgate-access.log` | logins, failed ones, logouts, transfers, commands that change something | fail2ban, people |
//! | xferlog, where `xferlog` says | uploads and downloads, as wu-ftpd writes them (xferlog(5)) | awstats, goaccess, fail2ban |
//!
//! A line of the access log is `TIME EVENT addr=… user=… key=value…`, or one JSON object with the same names
//! (`log_format`). The address comes first, so that nothing that a client says can stand where a pattern
//! looks for it; what a client says is quoted as JSON quotes, so it is one word on one line. Passwords are
//! never handed to this file. A log that cannot be written never holds anybody up ([`Lines`]).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use chrono::{DateTime, Local, SecondsFormat, Utc};
use parking_lot::RwLock;
use serde_json::{Map, Value, json};

use super::{command::Command, path::ClientPath, site::SiteCommand, transfer::Outcome};
use crate::{
    config::{LogConfig, LogRotation},
    telemetry::Lines,
};

/// The name of the access log in `log_dir`.
const ACCESS_LOG: &str = "cosgate-access.log";

/// Both logs. By default there is none, and nothing is recorded.
#[derive(Debug, Default)]
pub struct Records {
    access: Option<Lines>,
    is_json: bool,
    rotation: Option<LogRotation>,
    xferlog: RwLock<Option<Lines>>,
}

/// Who it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'a> {
    /// As he calls himself: a login that fails has a name too.
    pub(super) user: &'a str,
    pub(super) peer: SocketAddr,
    pub(super) is_anonymous: bool,
}

/// A command that changes something without a transfer.
#[derive(Debug)]
pub(super) struct Change {
    verb: &'static str,
    path: ClientPath,
    /// Of a rename.
    to: Option<ClientPath>,
}

impl Change {
    /// Of MDTM, which shows only when the file is looked up whether it sets a time.
    pub(super) fn of_times(verb: &'static str, path: &ClientPath) -> Self {
        Self { verb, path: path.clone(), to: None }
    }

    /// `None` for a command that changes nothing. `rename_from`: what RNFR has named.
    pub(super) fn of(command: &Command, rename_from: Option<&ClientPath>) -> Option<Self> {
        let change = |verb, path: &ClientPath| Some(Self { verb, path: path.clone(), to: None });
        match command {
            Command::Dele(path) => change("DELE", path),
            Command::Mkd(path) => change("MKD", path),
            Command::Rmd(path) => change("RMD", path),
            Command::Mfmt(_, path) => change("MFMT", path),
            Command::Site(SiteCommand::Chmod { path, .. }) => change("SITE CHMOD", path),
            Command::Site(SiteCommand::Utime { path, .. }) => change("SITE UTIME", path),
            Command::Rnto(path) => {
                let to = Some(path.clone());
                rename_from.map(|from| Self { verb: "RNTO", path: from.clone(), to })
            }
            _ => None,
        }
    }
}

/// A transfer that is over.
#[derive(Debug)]
pub(super) struct Transferred<'a> {
    pub(super) verb: &'a str,
    pub(super) path: &'a ClientPath,
    pub(super) outcome: &'a Outcome,
    pub(super) time: Duration,
    pub(super) is_ascii: bool,
}

impl Records {
    /// The access log in `log_dir`, and no xferlog yet.
    pub fn open(log: &LogConfig) -> Self {
        Self {
            access: Some(Lines::to_file(&log.directory.join(ACCESS_LOG), log.rotation)),
            is_json: log.json,
            rotation: log.rotation,
            xferlog: RwLock::default(),
        }
    }

    /// Where the xferlog is from now on; `None`: nowhere.
    pub(super) fn set_xferlog(&self, path: Option<&PathBuf>) {
        let mut xferlog = self.xferlog.write();
        if xferlog.as_ref().map(Lines::path) != path.map(PathBuf::as_path) {
            *xferlog = path.map(|path| Lines::to_file(path, self.rotation));
        }
    }

    pub(super) fn login(&self, who: Who<'_>) {
        self.put("login", who, []);
    }

    /// `why` is one word or a few: `password`, `locked-out`.
    pub(super) fn login_failed(&self, who: Who<'_>, why: &str) {
        self.put("login-failed", who, [("why", json!(why))]);
    }

    pub(super) fn logout(&self, who: Who<'_>) {
        self.put("logout", who, []);
    }

    /// A command that changes something, and the code that answered it.
    pub(super) fn change(&self, who: Who<'_>, change: &Change, code: u16) {
        let outcome = if code < 400 { "complete" } else { "refused" };
        let mut fields = vec![("verb", json!(change.verb)), ("path", json!(change.path.to_string()))];
        fields.extend(change.to.as_ref().map(|to| ("to", json!(to.to_string()))));
        fields.extend([("outcome", json!(outcome)), ("code", json!(code))]);
        self.put("change", who, fields);
    }

    pub(super) fn transfer(&self, who: Who<'_>, transfer: &Transferred<'_>) {
        let Transferred { verb, path, outcome, time, .. } = transfer;
        let mut fields = vec![
            ("verb", json!(verb)),
            ("path", json!(path.to_string())),
            ("bytes", json!(outcome.bytes)),
            ("seconds", json!(seconds(*time))),
            ("mb_per_s", json!(mb_per_s(outcome.bytes, *time))),
        ];
        match &outcome.end {
            Ok(_) => fields.push(("outcome", json!("complete"))),
            Err(broken) => fields.extend([("outcome", json!("broken")), ("why", json!(broken.why()))]),
        }
        self.put("transfer", who, fields);
        if let Some(xferlog) = self.xferlog.read().as_ref()
            && let Some(line) = xferlog_line(who, transfer, Local::now())
        {
            xferlog.put(&line);
        }
    }

    fn put(&self, event: &str, who: Who<'_>, fields: impl IntoIterator<Item = (&'static str, Value)>) {
        let Some(access) = &self.access else { return };
        let head = [("addr", json!(who.peer.ip().to_canonical())), ("user", json!(who.user))];
        let fields = head.into_iter().chain(fields);
        access.put(&line(self.is_json, Utc::now(), event, fields));
    }
}

/// One line of the access log, its end included.
fn line(
    is_json: bool,
    now: DateTime<Utc>,
    event: &str,
    fields: impl Iterator<Item = (&'static str, Value)>,
) -> String {
    let time = now.to_rfc3339_opts(SecondsFormat::Millis, true);
    if is_json {
        let mut object = Map::new();
        object.insert("time".to_owned(), json!(time));
        object.insert("event".to_owned(), json!(event));
        object.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        return format!("{}\n", Value::Object(object));
    }
    let mut text = format!("{time} {event}");
    for (name, value) in fields {
        let value = match &value {
            Value::String(word) if is_plain(word) => word.clone(),
            quoted_or_number => quoted_or_number.to_string(),
        };
        text.extend([" ", name, "=", &value]);
    }
    text.push('\n');
    text
}

/// Whether a text is a word of its own without quotes.
fn is_plain(text: &str) -> bool {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-:@+,".contains(letter);
    !text.is_empty() && text.chars().all(plain)
}

/// xferlog(5); `None` for what is neither an upload nor a download.
fn xferlog_line(who: Who<'_>, transfer: &Transferred<'_>, now: DateTime<Local>) -> Option<String> {
    let direction = match transfer.verb {
        "RETR" => 'o',
        "LIST" | "NLST" | "MLSD" => return None,
        _ => 'i',
    };
    // wu-ftpd writes whole seconds, and never 0.
    let seconds = transfer.time.as_secs_f64().round().max(1.0);
    let host = who.peer.ip().to_canonical();
    Some(format!(
        "{time} {seconds} {host} {bytes} {name} {kind} _ {direction} {mode} {user} ftp {method} {authenticated} {status}\n",
        // As ctime(3) writes it.
        time = now.format("%a %b %e %H:%M:%S %Y"),
        bytes = transfer.outcome.bytes,
        name = one_word(&transfer.path.to_string()),
        kind = if transfer.is_ascii { 'a' } else { 'b' },
        mode = if who.is_anonymous { 'a' } else { 'r' },
        user = one_word(who.user),
        method = 0,
        authenticated = '*',
        status = if transfer.outcome.end.is_ok() { 'c' } else { 'i' },
    ))
}

/// Fields are separated by blanks, so none stands within one.
fn one_word(text: &str) -> String {
    let letter = |letter: char| if letter.is_control() || letter.is_whitespace() { '_' } else { letter };
    let word: String = text.chars().map(letter).collect();
    if word.is_empty() { "_".to_owned() } else { word }
}

/// To the millisecond.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

/// To a tenth.
pub(super) fn mb_per_s(bytes: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
    let bytes = bytes as f64;
    (bytes / 1e5 / time.as_secs_f64().max(1e-6)).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use chrono::TimeZone;
    use tracing::Level;

    use super::{
        super::transfer::{Broken, Complete, Interruption},
        *,
    };

    fn who(user: &str) -> Who<'_> {
        Who { user, peer: "192.0.2.7:4711".parse().unwrap(), is_anonymous: false }
    }

    fn outcome(end: Result<Complete, Broken>) -> Outcome {
        Outcome { bytes: 3_000_000, end }
    }

    fn at_noon() -> DateTime<Local> {
        Local.with_ymd_and_hms(2026, 11, 1, 12, 0, 5).unwrap()
    }

    fn xferlog(user: &str, verb: &str, path: &str, end: Result<Complete, Broken>) -> Option<String> {
        let path = ClientPath::home().join(path);
        let time = Duration::from_millis(1500);
        let transfer = Transferred { verb, path: &path, outcome: &outcome(end), time, is_ascii: false };
        xferlog_line(who(user), &transfer, at_noon())
    }

    /// Fourteen fields behind a date of five words, whatever the names are.
    #[test]
    fn the_xferlog_is_as_wu_ftpd_writes_it() {
        assert_eq!(
            xferlog("scanner", "STOR", "/a/b.txt", Ok(Complete::Stored)).unwrap(),
            "Sun Nov  1 12:00:05 2026 2 192.0.2.7 3000000 /a/b.txt b _ i r scanner ftp 0 * c\n"
        );
        let broken = Err(Broken::Interrupted(Interruption::Abor));
        assert_eq!(
            xferlog("a b\n", "RETR", "/ a\tb\u{85}c 深圳", broken).unwrap(),
            "Sun Nov  1 12:00:05 2026 2 192.0.2.7 3000000 /_a_b_c_深圳 b _ o r a_b_ ftp 0 * i\n"
        );
        assert_eq!(xferlog("u", "LIST", "/", Ok(Complete::Listed { names: 1, cut: false })), None);
    }

    fn access(is_json: bool, user: &str) -> String {
        let fields = [("addr", json!("192.0.2.7")), ("user", json!(user)), ("bytes", json!(7))];
        let now = Utc.with_ymd_and_hms(2026, 11, 1, 12, 0, 5).unwrap();
        line(is_json, now, "login-failed", fields.into_iter())
    }

    #[test]
    fn nothing_that_a_client_says_looks_like_another_field_or_line() {
        assert_eq!(
            access(false, "scanner"),
            "2026-11-01T12:00:05.000Z login-failed addr=192.0.2.7 user=scanner bytes=7\n"
        );
        assert_eq!(
            access(false, "x\" addr=198.51.100.1\nlogin"),
            "2026-11-01T12:00:05.000Z login-failed addr=192.0.2.7 user=\"x\\\" addr=198.51.100.1\\nlogin\" bytes=7\n"
        );
        let object: Value = serde_json::from_str(&access(true, "a\nb")).unwrap();
        assert_eq!(object["user"], "a\nb");
        assert_eq!(object["event"], "login-failed");
        assert_eq!(access(true, "a\nb").lines().count(), 1);
    }

    #[test]
    fn each_event_is_a_line_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log =
            LogConfig { level: Level::INFO, directory: dir.path().to_owned(), json: false, rotation: None };
        let records = Records::open(&log);
        records.set_xferlog(Some(&dir.path().join("xferlog")));
        let (path, to) = (ClientPath::home().join("a b"), ClientPath::home().join("c"));
        records.login(who("u"));
        records.login_failed(who("u"), "password");
        records.change(who("u"), &Change::of(&Command::Rnto(to), Some(&path)).unwrap(), 250);
        let transfer = Transferred {
            verb: "STOR",
            path: &path,
            outcome: &outcome(Err(Broken::Truncated)),
            time: Duration::from_secs(1),
            is_ascii: false,
        };
        records.transfer(who("u"), &transfer);
        records.set_xferlog(None);
        records.transfer(who("u"), &transfer);
        records.logout(who("u"));
        drop(records);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let access = read(ACCESS_LOG);
        let lines: Vec<_> = access.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let transferred = "transfer addr=192.0.2.7 user=u verb=STOR path=\"/a b\" bytes=3000000 seconds=1.0 mb_per_s=3.0 \
            outcome=broken why=\"file became shorter meanwhile\"";
        assert_eq!(
            lines,
            [
                "login addr=192.0.2.7 user=u",
                "login-failed addr=192.0.2.7 user=u why=password",
                "change addr=192.0.2.7 user=u verb=RNTO path=\"/a b\" to=/c outcome=complete code=250",
                transferred,
                transferred,
                "logout addr=192.0.2.7 user=u",
            ]
        );
        assert_eq!(read("xferlog").lines().count(), 1);
    }

    #[test]
    fn logs_that_cannot_be_written_change_nothing() {
        let log = LogConfig {
            level: Level::INFO,
            directory: Path::new("/dev/null/log").to_owned(),
            json: false,
            rotation: None,
        };
        let records = Records::open(&log);
        records.set_xferlog(Some(&PathBuf::from("/dev/full")));
        records.login(who("u"));
        Records::default().login(who("u"));
    }
}
