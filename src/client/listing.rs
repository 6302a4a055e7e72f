//! Directories of a server: entries from the lines of MLSD (RFC 3659 section 7) or, failing that, of LIST.

use suppaftp::{FtpError, list::ListParser};
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

use super::{ClientError, ClientOptions, ClientResult, printable, refusal, session::Session, url::Url};

/// What a name in a directory leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteEntry {
    pub(super) name: String,
    pub(super) is_directory: bool,
    bytes: Option<u64>,
    modified: Option<PrimitiveDateTime>,
}

/// Prints what a directory holds, or what a file is.
///
/// # Errors
/// Where the server cannot be reached, or refuses.
pub fn ls(url: &Url, options: &ClientOptions) -> ClientResult<()> {
    let mut session = Session::open(url, &options.security)?;
    if options.recursive {
        walk(&mut session, &url.path, 0)?;
    } else {
        for line in lines(&mut session, &url.path)? {
            println!("{line}");
        }
    }
    session.close();
    Ok(())
}

fn walk(session: &mut Session, path: &str, depth: usize) -> ClientResult<()> {
    let entries = entries(session, path)?;
    println!("{}:", if path.is_empty() { "." } else { path });
    for entry in &entries {
        println!("{}", entry.line());
    }
    for directory in entries.iter().filter(|entry| entry.is_directory && depth < super::DEPTH_MAX) {
        println!();
        walk(session, &join(path, &directory.name), depth + 1)?;
    }
    Ok(())
}

/// As they are shown. A server's own lines of LIST where it has no MLSD, or where `path` is a file.
fn lines(session: &mut Session, path: &str) -> ClientResult<Vec<String>> {
    match session.ftp.mlsd(argument(path)) {
        Ok(lines) => {
            Ok(sorted(lines.iter().filter_map(|line| of_mlsd(line))).iter().map(RemoteEntry::line).collect())
        }
        Err(error) if is_refusal(&error) => {
            let lines = session.ftp.list(argument(path)).map_err(ClientError::ftp(format!("LIST {path}")))?;
            Ok(lines.iter().map(|line| printable(line)).collect())
        }
        Err(source) => Err(ClientError::Ftp { doing: format!("MLSD {path}"), source }),
    }
}

/// What a directory holds. Names that cannot be names of files are left out, and told.
pub(super) fn entries(session: &mut Session, path: &str) -> ClientResult<Vec<RemoteEntry>> {
    let found = match session.ftp.mlsd(argument(path)) {
        Ok(lines) => sorted(lines.iter().filter_map(|line| of_mlsd(line))),
        // A server that has MLSD knows why it refuses.
        Err(error) if is_refusal(&error) && !session.has("MLST") => {
            let lines = session.ftp.list(argument(path)).map_err(ClientError::ftp(format!("LIST {path}")))?;
            sorted(lines.iter().filter_map(|line| of_list(line)))
        }
        Err(source) => return Err(ClientError::Ftp { doing: format!("MLSD {path}"), source }),
    };
    let (safe, odd): (Vec<_>, Vec<_>) = found.into_iter().partition(|entry| is_plain(&entry.name));
    for entry in odd {
        eprintln!("cosgate: left out: {} cannot be the name of a file", printable(&entry.name));
    }
    Ok(safe)
}

fn is_refusal(error: &FtpError) -> bool {
    refusal(error).is_some_and(|code| code != 421)
}

/// Whether a name stays in its directory, whatever a server says.
pub(super) fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0', '\r', '\n'])
}

/// A path for a command; none for where the login leads.
fn argument(path: &str) -> Option<&str> {
    (!path.is_empty()).then_some(path)
}

/// A name below a directory.
pub(super) fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        directory => format!("{}/{name}", directory.strip_suffix('/').unwrap_or(directory)),
    }
}

fn sorted(entries: impl Iterator<Item = RemoteEntry>) -> Vec<RemoteEntry> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    entries
}

/// `type=file;size=3;modify=20260102030405; name`. `None` for what is no entry of the directory itself.
fn of_mlsd(line: &str) -> Option<RemoteEntry> {
    let (facts, name) = line.trim_end_matches(['\r', '\n']).split_once(' ')?;
    let mut entry = RemoteEntry { name: name.to_owned(), is_directory: false, bytes: None, modified: None };
    for (fact, value) in facts.split(';').filter_map(|fact| fact.split_once('=')) {
        match fact.to_ascii_lowercase().as_str() {
            "type" if value.eq_ignore_ascii_case("dir") => entry.is_directory = true,
            "type" if value.eq_ignore_ascii_case("cdir") || value.eq_ignore_ascii_case("pdir") => {
                return None;
            }
            "size" => entry.bytes = value.parse().ok(),
            "modify" => {
                let format = format_description!("[year][month][day][hour][minute][second]");
                entry.modified = value.get(..14).and_then(|time| PrimitiveDateTime::parse(time, format).ok());
            }
            _ => {}
        }
    }
    Some(entry)
}

/// A line of LIST, as Unix and as Windows write it.
fn of_list(line: &str) -> Option<RemoteEntry> {
    let file = ListParser::parse_posix(line).or_else(|_| ListParser::parse_dos(line)).ok()?;
    let modified = OffsetDateTime::from(file.modified());
    Some(RemoteEntry {
        name: file.name().to_owned(),
        is_directory: file.is_directory(),
        bytes: Some(file.size() as u64),
        modified: Some(PrimitiveDateTime::new(modified.date(), modified.time())),
    })
    .filter(|entry| !matches!(entry.name.as_str(), "." | ".."))
}

impl RemoteEntry {
    /// Kind, bytes, time in UTC, name.
    fn line(&self) -> String {
        let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
        let modified = self.modified.and_then(|time| time.format(format).ok()).unwrap_or_default();
        let bytes = match self.bytes {
            Some(bytes) if !self.is_directory => bytes.to_string(),
            _ => "-".to_owned(),
        };
        let (kind, slash) = if self.is_directory { ('d', "/") } else { ('-', "") };
        format!("{kind} {bytes:>14}  {modified:19}  {}{slash}", printable(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mlsd_become_entries() {
        let file = of_mlsd("Type=file;Size=12;Modify=20260102030405.678;Perm=r; a b; c\r\n").unwrap();
        assert_eq!((file.name.as_str(), file.bytes, file.is_directory), ("a b; c", Some(12), false));
        assert_eq!(file.line(), "-             12  2026-01-02 03:04:05  a b; c");
        let directory = of_mlsd("type=dir;modify=20260102030405; d").unwrap();
        assert_eq!(directory.line(), "d              -  2026-01-02 03:04:05  d/");
        assert_eq!(of_mlsd("type=cdir; ."), None);
        assert_eq!(of_mlsd("nonsense"), None);
        assert_eq!(
            of_mlsd("type=file;size=x;modify=never; n").unwrap().line(),
            "-              -                       n"
        );
    }

    #[test]
    fn lines_of_list_become_entries() {
        let file = of_list("-rw-r--r-- 1 ftp ftp 8192 Nov  5  2018 omar.txt").unwrap();
        assert_eq!((file.name.as_str(), file.bytes, file.is_directory), ("omar.txt", Some(8192), false));
        assert!(of_list("drwxr-xr-x 2 ftp ftp 4096 Nov  5  2018 docs").unwrap().is_directory);
        assert_eq!(of_list("total 8"), None);
    }

    #[test]
    fn names_cannot_lead_out_of_a_directory_nor_command_a_terminal() {
        for name in ["", ".", "..", "a/b", "../x", "/etc/passwd", "a\nb"] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("..a") && is_plain("深"));
        assert_eq!(of_mlsd("type=file; a\u{1b}[31m").unwrap().line().matches('\u{1b}').count(), 0);
        assert_eq!((join("", "a"), join("d", "a"), join("/", "a")), ("a".into(), "d/a".into(), "/a".into()));
    }
}
