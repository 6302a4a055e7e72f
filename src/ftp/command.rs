//! A line into a command: verbs, arguments, absolute paths. No I/O.
//!
//! A line is parsed when its turn has come, not when it arrives, so that a pipelined `CWD a`, `DELE b`
//! means `/a/b`. Whatever leaves this file is valid: paths are absolute and normal, names are UTF-8, and no
//! control character that could end a line is in either.

use super::{
    active::{Target, parse_eprt, parse_port},
    checksum::{self, ChecksumRequest},
    names::Names,
    options::{self, Choice, Mode},
    path::ClientPath,
    security::{Level, Mechanism},
    site::{self, SiteCommand},
    times::Moment,
    verbs::{self, Verb},
};
use crate::config::Secret;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    User(String),
    Pass(Secret),
    /// RFC 959: as if just connected.
    Rein,
    Acct,
    Quit,
    Help,
    HelpOf(&'static Verb),
    Feat,
    Syst,
    Noop,
    Clnt(String),
    /// RFC 7151: the name by which the client has found this server.
    Host(String),
    /// RFC 2640: English, or the default, which is English.
    Lang,
    Opts(Choice),
    TypeAscii,
    TypeImage,
    Mode(Mode),
    Stru,
    Pasv,
    Epsv(EpsvArgument),
    Port(Target),
    Eprt(Target),
    Auth(Mechanism),
    Pbsz,
    Prot(Level),
    Ccc,
    Pwd,
    Cwd(ClientPath),
    List(ListRequest),
    Stat(Option<ListRequest>),
    Mlst(ClientPath),
    Size(ClientPath),
    Mdtm(MdtmRequest),
    Mfmt(Moment, ClientPath),
    Checksum(ChecksumRequest),
    Retr(ClientPath),
    Stor(ClientPath),
    /// The name is this one, or made of this one.
    Stou(Option<ClientPath>),
    Appe(ClientPath),
    Rest(u64),
    /// First and last byte; `None`: all.
    Rang(Option<(u64, u64)>),
    Allo(u64),
    Avbl(ClientPath),
    Abor,
    Dele(ClientPath),
    Mkd(ClientPath),
    Rmd(ClientPath),
    Rnfr(ClientPath),
    Rnto(ClientPath),
    Site(SiteCommand),
}

/// MDTM asks for a time; many clients set one with it. Which of both is meant shows only when it is known
/// whether there is a file of the whole name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MdtmRequest {
    pub(super) path: ClientPath,
    /// `YYYYMMDDHHMMSS path`.
    pub(super) set: Option<(Moment, ClientPath)>,
}

/// What EPSV asks for (RFC 2428 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EpsvArgument {
    Any,
    /// From now on no other way to make a data connection.
    All,
    /// Address family number of IANA: 1 = IPv4, 2 = IPv6.
    Family(u32),
}

/// How a listing looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListForm {
    /// `ls -l`
    Long,
    /// Names that can be used as arguments as they are (RFC 1123 section 4.1.2.7).
    Names,
    /// Facts (RFC 3659 section 7).
    Facts,
}

/// A listing that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListRequest {
    pub(super) form: ListForm,
    /// The last piece may be a pattern, except for facts.
    pub(super) path: ClientPath,
    /// As the client wrote it: names of an NLST begin with its directory part.
    pub(super) written: String,
}

/// Why a line is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misheard {
    /// 500
    UnknownVerb,
    /// 502
    NotImplemented,
    /// 501
    Syntax(&'static str),
    /// 504
    Parameter(&'static str),
    /// 553
    Name(&'static str),
}

impl Command {
    /// Takes a line apart.
    ///
    /// # Errors
    /// [`Misheard`], each with a reply of its own.
    pub(super) fn parse(line: &[u8], names: &mut Names, cwd: &ClientPath) -> Result<Self, Misheard> {
        let (verb, argument) = split(line);
        if verbs::is_foreign(&verb) {
            return Err(Misheard::NotImplemented);
        }
        if verbs::find(&verb).is_none() {
            return Err(Misheard::UnknownVerb);
        }
        if argument.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return Err(Misheard::Syntax("the argument holds a control character"));
        }
        let argument = names.decode(argument).ok_or(match verb.as_str() {
            "USER" | "PASS" | "ACCT" | "CLNT" | "HOST" => Misheard::Syntax("the argument is not readable"),
            _ => Misheard::Name("the name is not in the character set of this session (OPTS UTF8)"),
        })?;
        Request { argument: &argument, cwd }.command(&verb)
    }
}

/// The verb of a line, upper case.
pub(super) fn verb_of(line: &[u8]) -> String {
    split(line).0
}

/// Verb and argument. Exactly one space stands between them: further ones belong to a path (RFC 3659 section 2.2).
fn split(line: &[u8]) -> (String, &[u8]) {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let verb = String::from_utf8_lossy(&line[..end]).trim_end().to_ascii_uppercase();
    (verb, line.get(end + 1..).unwrap_or_default())
}

struct Request<'a> {
    argument: &'a str,
    cwd: &'a ClientPath,
}

impl Request<'_> {
    fn command(&self, verb: &str) -> Result<Command, Misheard> {
        match verb {
            "USER" => Ok(Command::User(self.needed("USER needs a name")?.to_owned())),
            "PASS" => Ok(Command::Pass(Secret::new(self.argument))),
            "QUIT" | "BYE" => self.bare(Command::Quit),
            "REIN" => self.bare(Command::Rein),
            "ACCT" => self.needed("ACCT needs a text").map(|_| Command::Acct),
            "HELP" => self.help(),
            "FEAT" => self.bare(Command::Feat),
            "SYST" => self.bare(Command::Syst),
            "NOOP" => Ok(Command::Noop),
            "CLNT" => Ok(Command::Clnt(self.needed("CLNT needs a name")?.to_owned())),
            "HOST" => self.host(),
            "LANG" => self.language(),
            "OPTS" => options::parse(self.argument).map(Command::Opts),
            "TYPE" => self.representation(),
            "MODE" => self.mode(),
            "STRU" => self.structure(),
            "PASV" => self.bare(Command::Pasv),
            "EPSV" => self.extended_passive(),
            "PORT" => Ok(Command::Port(
                parse_port(self.argument).ok_or(Misheard::Syntax("PORT takes h1,h2,h3,h4,p1,p2"))?,
            )),
            "EPRT" => Ok(Command::Eprt(
                parse_eprt(self.argument).ok_or(Misheard::Syntax("EPRT takes |family|address|port|"))?,
            )),
            "AUTH" | "PBSZ" | "PROT" | "CCC" => self.security(verb),
            "REST" => {
                Ok(Command::Rest(number(self.argument).ok_or(Misheard::Syntax("REST needs an offset"))?))
            }
            "RANG" => self.range(),
            "ALLO" => self.allocation(),
            "ABOR" => self.bare(Command::Abor),
            "LIST" => Ok(Command::List(self.listing(ListForm::Long))),
            "NLST" | "XNLS" => Ok(Command::List(self.listing(ListForm::Names))),
            "MLSD" => Ok(Command::List(self.listing(ListForm::Facts))),
            "STAT" | "XSTA" => Ok(Command::Stat(self.status())),
            "SITE" => site::parse(self.argument, self.cwd).map(Command::Site),
            _ => match checksum::parse(verb, self.argument, self.cwd) {
                Some(request) => request.map(Command::Checksum),
                None => self.on_a_path(verb),
            },
        }
    }

    /// RFC 2228 section 3, RFC 4217.
    fn security(&self, verb: &str) -> Result<Command, Misheard> {
        match verb {
            "AUTH" => Ok(Command::Auth(Mechanism::parse(self.needed("AUTH needs a mechanism")?))),
            "PBSZ" => match number(self.argument) {
                Some(size) if u32::try_from(size).is_ok() => Ok(Command::Pbsz),
                Some(_) | None => Err(Misheard::Syntax("PBSZ takes a number of 32 bits")),
            },
            "PROT" => Ok(Command::Prot(Level::parse(self.needed("PROT needs a level")?))),
            _ => self.bare(Command::Ccc),
        }
    }

    fn on_a_path(&self, verb: &str) -> Result<Command, Misheard> {
        match verb {
            "PWD" | "XPWD" => self.bare(Command::Pwd),
            "CDUP" | "XCUP" => self.bare(Command::Cwd(self.cwd.join(".."))),
            "AVBL" => Ok(Command::Avbl(self.cwd.join(self.argument))),
            "CWD" | "XCWD" => Ok(Command::Cwd(self.path()?)),
            "MLST" => Ok(Command::Mlst(self.cwd.join(self.argument))),
            "SIZE" | "XSIZ" => Ok(Command::Size(self.path()?)),
            "MDTM" => Ok(Command::Mdtm(MdtmRequest { path: self.path()?, set: self.moment_and_path() })),
            "MFMT" => match self.moment_and_path() {
                Some((moment, path)) => Ok(Command::Mfmt(moment, path)),
                None => Err(Misheard::Syntax("MFMT takes YYYYMMDDHHMMSS and a path")),
            },
            "RETR" | "XRET" => Ok(Command::Retr(self.path()?)),
            "STOR" | "XSTO" => Ok(Command::Stor(self.new_file()?)),
            "STOU" if self.argument.is_empty() => Ok(Command::Stou(None)),
            "STOU" => Ok(Command::Stou(Some(self.new_file()?))),
            "APPE" => Ok(Command::Appe(self.new_file()?)),
            "DELE" | "XDEL" => Ok(Command::Dele(self.path()?)),
            "MKD" | "XMKD" => Ok(Command::Mkd(self.path()?)),
            "RMD" | "XRMD" => Ok(Command::Rmd(self.path()?)),
            "RNFR" => Ok(Command::Rnfr(self.path()?)),
            "RNTO" => Ok(Command::Rnto(self.path()?)),
            _ => Err(Misheard::UnknownVerb),
        }
    }

    fn needed(&self, why: &'static str) -> Result<&str, Misheard> {
        if self.argument.is_empty() { Err(Misheard::Syntax(why)) } else { Ok(self.argument) }
    }

    fn bare(&self, command: Command) -> Result<Command, Misheard> {
        if self.argument.trim().is_empty() {
            Ok(command)
        } else {
            Err(Misheard::Syntax("this command takes no argument"))
        }
    }

    fn path(&self) -> Result<ClientPath, Misheard> {
        Ok(self.cwd.join(self.needed("a path is missing")?))
    }

    /// The path of a file that may come into being: a trailing slash would name a directory.
    fn new_file(&self) -> Result<ClientPath, Misheard> {
        let path = self.path()?;
        if self.argument.ends_with('/') || path.is_home() {
            return Err(Misheard::Name("this is the name of a directory"));
        }
        Ok(path)
    }

    fn moment_and_path(&self) -> Option<(Moment, ClientPath)> {
        let (moment, path) = self.argument.split_once(' ')?;
        if path.is_empty() { None } else { Some((Moment::parse(moment)?, self.cwd.join(path))) }
    }

    fn help(&self) -> Result<Command, Misheard> {
        match self.argument.trim().to_ascii_uppercase().as_str() {
            "" => Ok(Command::Help),
            "SITE" => Ok(Command::Site(SiteCommand::Help)),
            name => match verbs::find(name) {
                Some(verb) => Ok(Command::HelpOf(verb)),
                None => Err(Misheard::Parameter("no such command: say HELP")),
            },
        }
    }

    /// RFC 7151 section 3: a domain name, or an address, an IPv6 one in brackets.
    fn host(&self) -> Result<Command, Misheard> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte) || !byte.is_ascii();
        match self.argument {
            "" => Err(Misheard::Syntax("HOST needs a name")),
            name if name.len() <= 255 && name.bytes().all(fits) => Ok(Command::Host(name.to_owned())),
            _ => Err(Misheard::Syntax("this is the name of no host")),
        }
    }

    /// RFC 2640 section 4.1.
    fn language(&self) -> Result<Command, Misheard> {
        let tag = self.argument.trim().to_ascii_lowercase();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        match tag.split('-').next().unwrap_or_default() {
            "" if tag.is_empty() => Ok(Command::Lang),
            "en" => Ok(Command::Lang),
            _ if !tag.is_empty() && tag.bytes().all(fits) => {
                Err(Misheard::Parameter("only EN is spoken here"))
            }
            _ => Err(Misheard::Syntax("LANG takes the tag of a language")),
        }
    }

    /// RFC 959 section 5.3.2: `A [N|T|C]`, `E [N|T|C]`, `I`, `L <byte size>`.
    fn representation(&self) -> Result<Command, Misheard> {
        let words: Vec<String> = self.argument.split_whitespace().map(str::to_ascii_uppercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["A"] | ["A", "N"] => Ok(Command::TypeAscii),
            ["I"] | ["L", "8"] | ["L8"] => Ok(Command::TypeImage),
            ["A", "T" | "C"] | ["E", ..] | ["L", _] => {
                Err(Misheard::Parameter("types A, I and L 8 are supported"))
            }
            [] => Err(Misheard::Syntax("TYPE needs A, I or L 8")),
            _ => Err(Misheard::Syntax("TYPE takes A, I or L 8")),
        }
    }

    fn mode(&self) -> Result<Command, Misheard> {
        match self.argument.trim().to_ascii_uppercase().as_str() {
            "S" => Ok(Command::Mode(Mode::Stream)),
            "Z" => Ok(Command::Mode(Mode::Deflate)),
            "B" | "C" => Err(Misheard::Parameter("only modes S (stream) and Z (deflate) are supported")),
            _ => Err(Misheard::Syntax("MODE takes S or Z")),
        }
    }

    fn structure(&self) -> Result<Command, Misheard> {
        match self.argument.trim().to_ascii_uppercase().as_str() {
            "F" => Ok(Command::Stru),
            "R" | "P" => Err(Misheard::Parameter("only structure F (file) is supported")),
            _ => Err(Misheard::Syntax("STRU takes F")),
        }
    }

    /// draft-bryan-ftp-range: both ends included; `1 0` takes it back.
    fn range(&self) -> Result<Command, Misheard> {
        let words: Vec<_> = self.argument.split_whitespace().map(number).collect();
        match words.as_slice() {
            [Some(1), Some(0)] => Ok(Command::Rang(None)),
            [Some(first), Some(last)] if first <= last => Ok(Command::Rang(Some((*first, *last)))),
            _ => Err(Misheard::Syntax("RANG takes the first and the last byte")),
        }
    }

    fn extended_passive(&self) -> Result<Command, Misheard> {
        let argument = self.argument.trim();
        if argument.is_empty() {
            return Ok(Command::Epsv(EpsvArgument::Any));
        }
        if argument.eq_ignore_ascii_case("ALL") {
            return Ok(Command::Epsv(EpsvArgument::All));
        }
        match argument.parse() {
            Ok(family) => Ok(Command::Epsv(EpsvArgument::Family(family))),
            Err(_) => Err(Misheard::Syntax("EPSV takes nothing, ALL, 1 or 2")),
        }
    }

    /// RFC 959 section 5.3.2: `ALLO <decimal> [R <decimal>]`.
    fn allocation(&self) -> Result<Command, Misheard> {
        let mut words = self.argument.split_whitespace();
        let bytes = words.next().and_then(number).ok_or(Misheard::Syntax("ALLO needs a number of bytes"))?;
        match (words.next(), words.next(), words.next()) {
            (None, ..) => Ok(Command::Allo(bytes)),
            (Some("R" | "r"), Some(record), None) if number(record).is_some() => Ok(Command::Allo(bytes)),
            _ => Err(Misheard::Syntax("ALLO takes a number of bytes")),
        }
    }

    /// `-la` and the like are asked for by habit: what they mean is what is sent anyway.
    fn listing(&self, form: ListForm) -> ListRequest {
        let written = match form {
            ListForm::Facts => self.argument,
            ListForm::Long | ListForm::Names => without_options(self.argument),
        };
        ListRequest { form, path: self.cwd.join(written), written: written.to_owned() }
    }

    fn status(&self) -> Option<ListRequest> {
        if self.argument.trim().is_empty() { None } else { Some(self.listing(ListForm::Long)) }
    }
}

/// What stands behind options: `-` and letters or digits. Any other word that begins with `-` is a name, and
/// behind `--` everything is.
fn without_options(argument: &str) -> &str {
    let mut rest = argument.trim_start();
    while let Some(option) = rest.strip_prefix('-') {
        let (letters, behind) = option.split_once(' ').unwrap_or((option, ""));
        if letters == "-" {
            return behind;
        }
        if letters.is_empty() || !letters.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            break;
        }
        rest = behind.trim_start();
    }
    rest
}

/// Decimal digits and nothing else: `+5` is no number here.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(line: &[u8]) -> Result<Command, Misheard> {
        Command::parse(line, &mut Names::default(), &ClientPath::home().join("here"))
    }

    fn path(text: &str) -> ClientPath {
        ClientPath::home().join(text)
    }

    #[test]
    fn verbs_come_in_any_case_and_paths_become_absolute() {
        assert_eq!(heard(b"stor a"), Ok(Command::Stor(path("/here/a"))));
        assert_eq!(heard(b"RETR /a/./b//../c"), Ok(Command::Retr(path("/a/c"))));
        assert_eq!(heard(b"CWD ../../../.."), Ok(Command::Cwd(ClientPath::home())));
        assert_eq!(heard(b"XCUP"), Ok(Command::Cwd(ClientPath::home())));
    }

    #[test]
    fn further_spaces_belong_to_the_name() {
        assert_eq!(heard(b"DELE  two spaces "), Ok(Command::Dele(path("/here/ two spaces "))));
        assert_eq!(heard("STOR 深圳.txt".as_bytes()), Ok(Command::Stor(path("/here/深圳.txt"))));
    }

    #[test]
    fn options_of_ls_are_no_path() {
        for line in [&b"LIST -la sub dir"[..], b"LIST -a -l sub dir", b"LIST -l -- sub dir", b"LIST sub dir"]
        {
            let request = ListRequest {
                form: ListForm::Long,
                path: path("/here/sub dir"),
                written: "sub dir".to_owned(),
            };
            assert_eq!(heard(line), Ok(Command::List(request)), "{}", String::from_utf8_lossy(line));
        }
        for (line, written) in [
            (&b"LIST -odd name.txt"[..], "name.txt"),
            (b"LIST -odd.txt", "-odd.txt"),
            (b"LIST -- -la", "-la"),
            (b"NLST -1 *.txt", "*.txt"),
            (b"LIST - x", "- x"),
            (b"MLSD -la", "-la"),
        ] {
            let Ok(Command::List(request)) = heard(line) else { panic!("a listing") };
            assert_eq!(request.written, written);
        }
        let Ok(Command::List(request)) = heard(b"NLST -la") else { panic!("NLST is a listing") };
        assert_eq!((request.path, request.written.as_str()), (path("/here"), ""));
    }

    #[test]
    fn what_is_wrong_has_the_reply_that_fits() {
        assert_eq!(heard(b"FROB x"), Err(Misheard::UnknownVerb));
        assert_eq!(heard(b""), Err(Misheard::UnknownVerb));
        assert_eq!(heard(b"\xff\xfe\x00"), Err(Misheard::UnknownVerb));
        assert_eq!(heard(b"LPRT 1,2,3,4,5,6"), Err(Misheard::NotImplemented));
        assert!(matches!(heard(b"STOR"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"STOR dir/"), Err(Misheard::Name(_))));
        assert!(matches!(heard(b"STOR /"), Err(Misheard::Name(_))));
        assert!(matches!(heard(b"DELE a\0b"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"DELE a\rQUIT"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"REST -1"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"REST +1"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"REST 99999999999999999999"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"PWD x"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"TYPE E"), Err(Misheard::Parameter(_))));
        assert!(matches!(heard(b"TYPE X"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"MODE B"), Err(Misheard::Parameter(_))));
        assert!(matches!(heard(b"DELE \xff\xfe\x80"), Err(Misheard::Name(_))));
        assert!(matches!(heard(b"USER \xff\xfe\x80"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"LANG fr"), Err(Misheard::Parameter(_))));
        assert!(matches!(heard(b"LANG ?"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"HOST a b"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"HELP FROB"), Err(Misheard::Parameter(_))));
        assert!(matches!(heard(b"RANG 5 4"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"MFMT 2024 x"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"EPSV three"), Err(Misheard::Syntax(_))));
        assert!(matches!(heard(b"OPTS FROB"), Err(Misheard::Syntax(_))));
    }

    #[test]
    fn numbers_and_types_are_understood() {
        assert_eq!(heard(b"ALLO 100 R 20"), Ok(Command::Allo(100)));
        assert_eq!(heard(b"REST 7"), Ok(Command::Rest(7)));
        assert_eq!(heard(b"TYPE L 8"), Ok(Command::TypeImage));
        assert_eq!(heard(b"type a n"), Ok(Command::TypeAscii));
        assert_eq!(heard(b"EPSV 2"), Ok(Command::Epsv(EpsvArgument::Family(2))));
        assert_eq!(heard(b"opts utf8 on"), Ok(Command::Opts(Choice::Utf8 { on: true })));
        assert_eq!(heard(b"RANG 1 0"), Ok(Command::Rang(None)));
        assert_eq!(heard(b"RANG 0 99"), Ok(Command::Rang(Some((0, 99)))));
        assert_eq!(heard(b"lang EN-us"), Ok(Command::Lang));
        let moment = Moment { seconds: 0, nanos: 0 };
        assert_eq!(heard(b"MFMT 19700101000000 a b"), Ok(Command::Mfmt(moment, path("/here/a b"))));
        let whole = path("/here/19700101000000 a b");
        let set = Some((moment, path("/here/a b")));
        assert_eq!(heard(b"MDTM 19700101000000 a b"), Ok(Command::Mdtm(MdtmRequest { path: whole, set })));
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_parser_stumble_or_a_path_leave_home(line: Vec<u8>) {
            for verb in ["", "STOR ", "LIST ", "CWD ", "OPTS ", "TYPE ", "ALLO "] {
                let line = [verb.as_bytes(), &line].concat();
                if let Ok(Command::Stor(path) | Command::Cwd(path)) = heard(&line) {
                    let text = path.as_str();
                    assert!(text.starts_with('/') && !text.contains(['\r', '\n', '\0']));
                    assert!(!text.split('/').any(|piece| piece == ".." || piece == "."));
                }
            }
        }
    }
}
