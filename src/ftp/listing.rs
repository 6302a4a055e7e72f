//! LIST, NLST and MLSD lines.
//!
//! A directory is read and each entry looked at in turn, so that the mount can answer from the page it has
//! just listed (READDIRPLUS); what vanishes between the two is left out. Lines come in chunks: a blocking
//! step makes one, then the step is over and the client's socket is waited for without a thread. So a
//! million names take no more memory than ten thousand, and a stalled client holds nothing but a descriptor.

use std::{ffi::CStr, io, os::fd::OwnedFd};

use rustix::{fs::Dir, io::Errno};
use time::{Month, OffsetDateTime};

use super::{
    command::{ListForm, ListRequest},
    glob::Pattern,
    home::{Facts, Kind, Root},
    names::Names,
};
use crate::config::PolicyConfig;

/// How lines are made, whatever they are about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) names: Names,
    pub(super) facts: FactSet,
    pub(super) policy: PolicyConfig,
    /// Names of a LIST or NLST at most.
    pub(super) names_max: Option<usize>,
}

/// The facts that MLST and MLSD tell (RFC 3659 section 7.5), as OPTS MLST has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FactSet([bool; FACTS.len()]);

const FACTS: [&str; 6] = ["type", "size", "modify", "perm", "unique", "UNIX.mode"];

impl Default for FactSet {
    fn default() -> Self {
        Self([true; FACTS.len()])
    }
}

impl FactSet {
    /// What OPTS MLST names; unknown facts are passed over (RFC 3659 section 7.9).
    pub(super) fn choose(wanted: &str) -> Self {
        Self(FACTS.map(|fact| wanted.split(';').any(|word| word.trim().eq_ignore_ascii_case(fact))))
    }

    /// `type*;size;…`: chosen ones with a star if `stars`, others only with `all`.
    pub(super) fn describe(self, stars: bool) -> String {
        let mut text = String::new();
        for (fact, chosen) in FACTS.iter().zip(self.0) {
            if chosen || stars {
                text.push_str(fact);
                text.push_str(if chosen && stars { "*;" } else { ";" });
            }
        }
        text
    }
}

/// A listing under way.
#[derive(Debug)]
pub(super) struct Lister {
    form: ListForm,
    look: Look,
    /// Goes before each name of an NLST.
    prefix: String,
    pattern: Option<Pattern>,
    source: Source,
    this_year: i32,
    told: u64,
    cut: bool,
}

#[derive(Debug)]
enum Source {
    Directory(Dir),
    /// A LIST of something that is no directory.
    Single(Facts, String),
    Ended,
}

impl Lister {
    /// Opens what is to be listed: a directory, a file, or the matches of a pattern. Blocks.
    ///
    /// # Errors
    /// ENOENT; ENOTDIR for facts of a file (RFC 3659 section 7.2.1).
    pub(super) fn open(root: &Root, request: &ListRequest, look: Look, now: i64) -> io::Result<Self> {
        let lister = |source, prefix: &str, pattern| Self {
            form: request.form,
            look,
            prefix: prefix.to_owned(),
            pattern,
            source,
            this_year: date(now).0,
            told: 0,
            cut: false,
        };
        // A pattern may be the name of a directory, too, but rarely is.
        match Pattern::new(request.path.file_name()) {
            Some(_) => root.will_list(&request.path.parent()),
            None => root.will_list(&request.path),
        }
        let directory = |file: OwnedFd| Ok::<_, io::Error>(Source::Directory(Dir::new(file)?));
        match root.open_directory(&request.path) {
            Ok(file) => Ok(lister(directory(file)?, &prefix_of(&request.written, true), None)),
            Err(error) if request.form == ListForm::Facts => Err(error),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOTDIR) => {
                    let facts = root.look(&request.path)?;
                    let name = match request.form {
                        ListForm::Names => request.written.clone(),
                        ListForm::Long | ListForm::Facts => request.path.file_name().to_owned(),
                    };
                    Ok(lister(Source::Single(facts, name), "", None))
                }
                Some(Errno::NOENT) => {
                    let Some(pattern) = Pattern::new(request.path.file_name()) else { return Err(error) };
                    let file = root.open_directory(&request.path.parent())?;
                    Ok(lister(directory(file)?, &prefix_of(&request.written, false), Some(pattern)))
                }
                _ => Err(error),
            },
        }
    }

    /// Adds lines to `out` until it holds `bytes_min` or nothing is left; true while there is more. Blocks.
    pub(super) fn advance(&mut self, out: &mut Vec<u8>, bytes_min: usize) -> io::Result<bool> {
        while out.len() < bytes_min {
            match &mut self.source {
                Source::Ended => return Ok(false),
                Source::Single(facts, name) => {
                    let (facts, name) = (*facts, std::mem::take(name));
                    self.source = Source::Ended;
                    self.line(out, Some(&facts), &name, None);
                }
                Source::Directory(dir) => {
                    let Some(entry) = dir.read() else {
                        self.source = Source::Ended;
                        return Ok(false);
                    };
                    let entry = entry?;
                    if !self.entry(out, entry.file_name())? {
                        self.source = Source::Ended;
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Names told so far.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// Whether `names_max` has cut it.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    /// False where the listing ends here.
    fn entry(&mut self, out: &mut Vec<u8>, name: &CStr) -> io::Result<bool> {
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(true);
        }
        let shown = String::from_utf8_lossy(name.to_bytes()).into_owned();
        if self.pattern.as_ref().is_some_and(|pattern| !pattern.matches(&shown)) {
            return Ok(true);
        }
        if self.form != ListForm::Facts && self.look.names_max.is_some_and(|max| self.told >= max as u64) {
            self.cut = true;
            return Ok(false);
        }
        if self.form == ListForm::Names {
            self.line(out, None, &shown, None);
            return Ok(true);
        }
        let Source::Directory(dir) = &self.source else { return Ok(false) };
        let facts = match Facts::of_entry(dir.fd()?, name) {
            Ok(facts) => facts,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => return Ok(true),
            Err(error) => return Err(error),
        };
        let target = match (facts.kind, self.form) {
            (Kind::Link, ListForm::Long) => rustix::fs::readlinkat(dir.fd()?, name, Vec::new()).ok(),
            _ => None,
        };
        let target = target.map(|target| String::from_utf8_lossy(target.to_bytes()).into_owned());
        self.line(out, Some(&facts), &shown, target.as_deref());
        Ok(true)
    }

    fn line(&mut self, out: &mut Vec<u8>, facts: Option<&Facts>, name: &str, target: Option<&str>) {
        self.told += 1;
        match (facts, self.form) {
            (Some(facts), ListForm::Long) => long_line(out, facts, self.this_year),
            (Some(facts), ListForm::Facts) => {
                out.extend_from_slice(fact_words(facts, self.look.facts, self.look.policy).as_bytes());
                out.push(b' ');
            }
            _ => push_name(out, &self.prefix, self.look.names),
        }
        push_name(out, name, self.look.names);
        if let Some(target) = target {
            out.extend_from_slice(b" -> ");
            push_name(out, target, self.look.names);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// What stands before the names of an NLST: the directory as it was written.
fn prefix_of(written: &str, is_directory: bool) -> String {
    if is_directory {
        match written {
            "" | "." => String::new(),
            _ if written.ends_with('/') => written.to_owned(),
            _ => format!("{written}/"),
        }
    } else {
        written.rfind('/').map_or(String::new(), |slash| written[..=slash].to_owned())
    }
}

/// A name that holds a line end would be read as two.
fn push_name(out: &mut Vec<u8>, name: &str, names: Names) {
    if name.bytes().any(|byte| matches!(byte, b'\r' | b'\n')) {
        out.extend_from_slice(&names.encode(&name.replace(['\r', '\n'], "?")));
    } else {
        out.extend_from_slice(&names.encode(name));
    }
}

/// `-rw-r--r--    1 1000     1000           12345 Jan 02 13:45 ` without the name, in UTC.
fn long_line(out: &mut Vec<u8>, facts: &Facts, this_year: i32) {
    out.push(match facts.kind {
        Kind::Directory => b'd',
        Kind::Link => b'l',
        Kind::File | Kind::Other => b'-',
    });
    for (bit, letter) in (0..9).rev().zip(b"rwxrwxrwx") {
        out.push(if facts.mode & (1 << bit) == 0 { b'-' } else { *letter });
    }
    let (year, month, day, hour, minute, _) = date(facts.modified);
    let month = MONTHS[usize::from(u8::from(month)) - 1];
    let moment = if year == this_year { format!("{hour:02}:{minute:02}") } else { format!(" {year:04}") };
    let Facts { links, uid, gid, bytes, .. } = facts;
    let rest = format!(" {links:>4} {uid:<8} {gid:<8} {bytes:>14} {month} {day:02} {moment} ");
    out.extend_from_slice(rest.as_bytes());
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `type=file;size=3;…`
pub(super) fn fact_words(facts: &Facts, chosen: FactSet, policy: PolicyConfig) -> String {
    let mut words = String::new();
    for (fact, chosen) in FACTS.iter().zip(chosen.0) {
        let value = match *fact {
            _ if !chosen => continue,
            "type" => type_word(facts.kind).to_owned(),
            "size" if facts.kind == Kind::Directory => continue,
            "size" => facts.bytes.to_string(),
            "modify" => timestamp(facts.modified),
            "perm" => perm(facts.kind, policy),
            "unique" => format!("{:x}g{:x}", facts.device, facts.inode),
            _ => format!("0{:03o}", facts.mode),
        };
        words.push_str(&format!("{fact}={value};"));
    }
    words
}

fn type_word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "dir",
        Kind::Link => "OS.unix=slink",
        Kind::Other => "OS.unix=other",
    }
}

/// RFC 3659 section 7.5.5, as this account's policy will judge.
fn perm(kind: Kind, policy: PolicyConfig) -> String {
    let authority = policy.authority;
    let can_delete = authority.write && policy.delete_enable;
    let letters: &[(char, bool)] = if kind == Kind::Directory {
        &[
            ('c', authority.write),
            ('d', can_delete),
            ('e', true),
            ('f', authority.write),
            ('l', authority.read),
            ('m', authority.write),
            ('p', can_delete),
        ]
    } else {
        &[
            ('d', can_delete),
            ('f', authority.write),
            ('r', authority.read),
            ('w', authority.write && policy.overwrite_enable),
        ]
    };
    letters.iter().filter(|(_, may)| *may).map(|(letter, _)| *letter).collect()
}

/// `YYYYMMDDHHMMSS` in UTC (RFC 3659 section 2.3).
pub(super) fn timestamp(seconds: i64) -> String {
    let (year, month, day, hour, minute, second) = date(seconds);
    format!("{year:04}{:02}{day:02}{hour:02}{minute:02}{second:02}", u8::from(month))
}

fn date(seconds: i64) -> (i32, Month, u8, u8, u8, u8) {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second) = moment.to_hms();
    (year, month, day, hour, minute, second)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::Authority,
        ftp::{
            home::{Ground, Home},
            path::ClientPath,
        },
    };

    const NOW: i64 = 1_760_000_000;

    fn look() -> Look {
        let authority = Authority { read: true, write: true };
        let policy = PolicyConfig { authority, delete_enable: false, overwrite_enable: true };
        Look { names: Names::default(), facts: FactSet::default(), policy, names_max: None }
    }

    fn listed(dir: &Path, form: ListForm, written: &str, look: Look) -> io::Result<(String, bool)> {
        let root = Home::new(dir, std::path::Path::new(""), "", Ground::Plain).root()?;
        let path = ClientPath::home().join(written);
        let mut lister =
            Lister::open(&root, &ListRequest { form, path, written: written.into() }, look, NOW)?;
        let mut out = Vec::new();
        while lister.advance(&mut out, usize::MAX)? {}
        let mut lines: Vec<&str> = std::str::from_utf8(&out).unwrap().split_inclusive("\r\n").collect();
        lines.sort_unstable();
        Ok((lines.concat(), lister.is_cut()))
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.txt", "b c.txt", "深圳.txt", "sub/x.log"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        dir
    }

    #[test]
    fn names_can_be_used_as_arguments_as_they_are() {
        let dir = tree();
        let names = |written| listed(dir.path(), ListForm::Names, written, look()).unwrap().0;
        assert_eq!(names(""), "a.txt\r\nb c.txt\r\nsub\r\n深圳.txt\r\n");
        assert_eq!(names("*.txt"), "a.txt\r\nb c.txt\r\n深圳.txt\r\n");
        assert_eq!(names("sub"), "sub/x.log\r\n");
        assert_eq!(names("/sub/*"), "/sub/x.log\r\n");
        assert_eq!(names("sub/x.log"), "sub/x.log\r\n");
        assert_eq!(names("*.none"), "");
        assert!(listed(dir.path(), ListForm::Names, "missing", look()).is_err());
    }

    #[test]
    fn long_lines_look_like_those_of_ls() {
        let dir = tree();
        let (line, _) = listed(dir.path(), ListForm::Long, "a.txt", look()).unwrap();
        assert!(line.starts_with("-rw-"), "{line}");
        assert!(line.ends_with(" a.txt\r\n"), "{line}");
        assert_eq!(line.split_whitespace().nth(4), Some("5"));
        let mut out = Vec::new();
        let facts = Facts {
            kind: Kind::Directory,
            bytes: 0,
            modified: 1_704_164_700,
            mode: 0o755,
            uid: 1,
            gid: 2,
            links: 3,
            inode: 4,
            device: 5,
        };
        long_line(&mut out, &facts, 2024);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "drwxr-xr-x    3 1        2                     0 Jan 02 03:05 "
        );
        let mut out = Vec::new();
        long_line(&mut out, &facts, 2025);
        assert!(String::from_utf8(out).unwrap().ends_with(" Jan 02  2024 "));
    }

    #[test]
    fn facts_follow_opts_and_the_policy() {
        let dir = tree();
        let mut look = look();
        look.facts = FactSet::choose("Size;TYPE;frob;perm;");
        assert_eq!(look.facts.describe(false), "type;size;perm;");
        assert_eq!(look.facts.describe(true), "type*;size*;modify;perm*;unique;UNIX.mode;");
        let (lines, _) = listed(dir.path(), ListForm::Facts, "", look).unwrap();
        assert!(lines.contains("type=file;size=5;perm=frw; a.txt\r\n"), "{lines}");
        assert!(lines.contains("type=dir;perm=ceflm; sub\r\n"), "{lines}");
        let error = listed(dir.path(), ListForm::Facts, "a.txt", look).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOTDIR));
    }

    #[test]
    fn long_listings_are_cut_and_facts_never() {
        let dir = tree();
        let look = Look { names_max: Some(2), ..look() };
        let (lines, cut) = listed(dir.path(), ListForm::Names, "", look).unwrap();
        assert_eq!((lines.lines().count(), cut), (2, true));
        let (lines, cut) = listed(dir.path(), ListForm::Facts, "", look).unwrap();
        assert_eq!((lines.lines().count(), cut), (4, false));
        let look = Look { names_max: Some(4), ..look };
        assert!(!listed(dir.path(), ListForm::Long, "", look).unwrap().1);
    }

    #[test]
    fn a_line_end_in_a_name_makes_no_second_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a\r\nb"), "").unwrap();
        assert_eq!(listed(dir.path(), ListForm::Names, "", look()).unwrap().0, "a??b\r\n");
    }
}
