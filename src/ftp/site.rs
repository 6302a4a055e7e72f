//! SITE: words of its own behind one verb (RFC 959 section 4.1.3).
//!
//! A further word is a variant of [`SiteCommand`], a row of [`WORDS`], an arm of [`parse`] and one of
//! `FrontDesk::site`.

use super::{
    command::Misheard,
    desk::FrontDesk,
    path::ClientPath,
    reply::Reply,
    times::{Change, Moment},
};

/// What SITE asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SiteCommand {
    Chmod { mode: u16, path: ClientPath },
    Utime { accessed: Option<Moment>, modified: Moment, path: ClientPath },
    Quota,
    Help,
}

/// Each word, and how it is written.
const WORDS: &[(&str, &str)] = &[
    ("CHMOD", "<octal mode> <path>"),
    ("HELP", ""),
    ("QUOTA", ""),
    ("UTIME", "<YYYYMMDDhhmm[ss]> <path>, or <path> <accessed> <modified> <changed> UTC"),
];

/// Takes the argument of SITE apart.
///
/// # Errors
/// 504 for a word that is not known, 501 for one that is written wrongly.
pub(super) fn parse(argument: &str, cwd: &ClientPath) -> Result<SiteCommand, Misheard> {
    let (word, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    match word.to_ascii_uppercase().as_str() {
        "" => Err(Misheard::Syntax("SITE needs a word: say SITE HELP")),
        "HELP" => Ok(SiteCommand::Help),
        "QUOTA" => Ok(SiteCommand::Quota),
        "CHMOD" => chmod(rest, cwd).ok_or(Misheard::Syntax("SITE CHMOD takes an octal mode and a path")),
        "UTIME" => utime(rest, cwd).ok_or(Misheard::Syntax("SITE UTIME takes a time and a path")),
        _ => Err(Misheard::Parameter("no such word: say SITE HELP")),
    }
}

fn chmod(rest: &str, cwd: &ClientPath) -> Option<SiteCommand> {
    let (mode, path) = rest.split_once(' ')?;
    let is_octal = (1..=5).contains(&mode.len()) && mode.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u16::from_str_radix(mode, 8).ok().filter(|mode| is_octal && *mode <= 0o7777)?;
    if path.is_empty() { None } else { Some(SiteCommand::Chmod { mode, path: cwd.join(path) }) }
}

/// The form with three times, in which everything before them is the path, or the one with one.
fn utime(rest: &str, cwd: &ClientPath) -> Option<SiteCommand> {
    let words: Vec<&str> = rest.rsplitn(5, ' ').collect();
    if let [zone, changed, modified, accessed, path] = words.as_slice()
        && zone.eq_ignore_ascii_case("UTC")
        && !path.is_empty()
        && let (Some(accessed), Some(modified), Some(_)) =
            (Moment::parse_short(accessed), Moment::parse_short(modified), Moment::parse_short(changed))
    {
        let path = cwd.join(path);
        return Some(SiteCommand::Utime { accessed: Some(accessed), modified, path });
    }
    let (modified, path) = rest.split_once(' ')?;
    let modified = Moment::parse_short(modified)?;
    if path.is_empty() {
        return None;
    }
    Some(SiteCommand::Utime { accessed: None, modified, path: cwd.join(path) })
}

impl FrontDesk {
    pub(super) async fn site(&self, command: SiteCommand) -> Reply {
        match command {
            SiteCommand::Chmod { mode, path } => {
                let done = Reply::new(200, format!("Mode of {path} is {mode:03o}"));
                self.change(path, Change::Mode(mode), done).await
            }
            SiteCommand::Utime { accessed, modified, path } => {
                let done = Reply::new(200, format!("Times of {path} are set"));
                self.change(path, Change::Times { accessed, modified }, done).await
            }
            SiteCommand::Quota => self.quota().await,
            SiteCommand::Help => help(),
        }
    }
}

/// 214: the words of SITE.
pub(super) fn help() -> Reply {
    let body = WORDS.iter().map(|(word, syntax)| format!("SITE {word} {syntax}").trim_end().to_owned());
    Reply::lines(214, "These words of SITE are understood:", body.collect(), "End")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(argument: &str) -> Result<SiteCommand, Misheard> {
        parse(argument, &ClientPath::home().join("d"))
    }

    fn path(text: &str) -> ClientPath {
        ClientPath::home().join(text)
    }

    #[test]
    fn both_forms_of_utime_are_read_and_names_may_hold_spaces() {
        let moment = |seconds| Moment { seconds, nanos: 0 };
        let short = SiteCommand::Utime { accessed: None, modified: moment(60), path: path("/d/a b") };
        assert_eq!(heard("UTIME 197001010001 a b"), Ok(short.clone()));
        assert_eq!(heard("utime 19700101000100 a b"), Ok(short));
        let long =
            SiteCommand::Utime { accessed: Some(moment(0)), modified: moment(60), path: path("/d/a b") };
        assert_eq!(heard("UTIME a b 19700101000000 19700101000100 19700101000200 UTC"), Ok(long));
        for argument in ["UTIME", "UTIME x", "UTIME 197001010001", "UTIME 197001010001 ", "UTIME 1970 x"] {
            assert!(matches!(heard(argument), Err(Misheard::Syntax(_))), "{argument}");
        }
    }

    #[test]
    fn modes_are_octal_and_other_words_are_not_known() {
        assert_eq!(heard("chmod 640 a b"), Ok(SiteCommand::Chmod { mode: 0o640, path: path("/d/a b") }));
        assert_eq!(heard("CHMOD 0755 /x"), Ok(SiteCommand::Chmod { mode: 0o755, path: path("/x") }));
        for argument in
            ["CHMOD", "CHMOD 640", "CHMOD 640 ", "CHMOD 888 x", "CHMOD u+w x", "CHMOD 77777 x", ""]
        {
            assert!(matches!(heard(argument), Err(Misheard::Syntax(_))), "{argument}");
        }
        assert!(matches!(heard("EXEC rm"), Err(Misheard::Parameter(_))));
    }
}
