//! Commands of one reply and no data connection: what the desk knows itself, and what it asks the mount for.

use std::io::{self, Read as _};

use rustix::io::Errno;
use tracing::{debug, warn};

use super::{
    ascii::ToCrlf,
    command::{Command, ListRequest, MdtmRequest},
    desk::{FrontDesk, Login, NO_OFFSETS_IN_ASCII},
    home::{Facts, Kind, blocking},
    listing::{Lister, Look, fact_words, timestamp},
    options::{Mode, loses_in_deflate},
    path::ClientPath,
    records::Change,
    reply::{Deed, Reply, errno_of, refusal},
    send::now,
    storage::Report,
    verbs,
};

/// What FEAT tells to everybody. ALLO is in no RFC's list, but lftp (4.9.2) tells sizes where it reads it, and needs to: when
/// it begins again in the middle of a file that it had read to its end, it stops where its first buffer ends.
const FEATURES: [&str; 20] = [
    "ALLO",
    "AVBL",
    "CLNT",
    "EPSV",
    "HOST",
    "LANG EN*",
    "MD5",
    "MDTM",
    "MODE Z",
    "RANG STREAM",
    "REST STREAM",
    "SIZE",
    "TVFS",
    "UTF8",
    "XCRC",
    "XMD5",
    "XSHA",
    "XSHA1",
    "XSHA256",
    "XSHA512",
];
/// Largest file whose lines are counted for SIZE in type A.
const COUNTED_BYTES_MAX: u64 = 8 * 1024 * 1024;
const COUNTED_PIECE_BYTES: usize = 256 * 1024;
/// Lines of a STAT with a path travel in pieces of this size.
const STAT_CHUNK_BYTES: usize = 64 * 1024;

impl FrontDesk {
    /// Every command with one reply and no data.
    pub(super) async fn answer(&mut self, command: Command) -> Reply {
        match command {
            Command::User(name) => self.user(name),
            Command::Rein => {
                self.reinitialize();
                Reply::new(220, self.front.now().config.banner.clone())
            }
            Command::Acct => Reply::new(202, "There are no accounts beside users here"),
            Command::Host(name) => self.host(&name),
            Command::Lang => Reply::new(200, "English is spoken here"),
            Command::Help => help(),
            Command::HelpOf(verb) => {
                Reply::new(214, format!("Syntax: {} {}", verb.name, verb.syntax).trim_end())
            }
            Command::Feat => self.features(),
            Command::Syst => Reply::new(215, "UNIX Type: L8"),
            Command::Noop => Reply::new(200, "Still here"),
            Command::Clnt(name) => {
                debug!(peer = %self.peer, client = name, "client names itself");
                self.loses_in_deflate = loses_in_deflate(&name);
                Reply::new(200, "Noted")
            }
            Command::Opts(choice) => self.choose(choice),
            Command::TypeAscii => self.representation(true),
            Command::TypeImage => self.representation(false),
            Command::Mode(mode) => self.choose_mode(mode),
            Command::Stru => Reply::new(200, "Structure is file"),
            Command::Pasv => self.passive(),
            Command::Epsv(argument) => self.extended_passive(argument),
            Command::Port(target) => self.active(target),
            Command::Eprt(target) => self.active(target),
            Command::Pbsz => self.buffer_size(),
            Command::Prot(level) => self.protection(level),
            Command::Ccc => self.clear_command_channel(),
            Command::Rest(offset) => self.restart_at(offset),
            Command::Rang(range) => self.restrict_to(range),
            Command::Allo(bytes) => self.expect(bytes).await,
            Command::Abor => {
                self.door = None;
                Reply::new(226, "No transfer is under way")
            }
            Command::Stat(None) => self.status(),
            Command::Pwd => Reply::new(257, format!("{} is the working directory", self.cwd.quoted())),
            other => self.answer_on_a_path(other).await,
        }
    }

    /// Commands that ask the mount.
    async fn answer_on_a_path(&mut self, command: Command) -> Reply {
        match command {
            Command::Cwd(path) => match self.ask("CWD", &path, Deed::Look).await {
                Ok(_) => {
                    let reply = Reply::new(250, format!("{} is the working directory", path.quoted()));
                    self.cwd = path;
                    reply
                }
                Err(reply) => reply,
            },
            Command::Avbl(path) => match self.ask("CWD", &path, Deed::Look).await {
                Ok(_) => self.available(&path).await,
                Err(reply) => reply,
            },
            Command::Mlst(path) => self.facts_of(&path).await,
            Command::Size(path) => match self.size_of(&path).await {
                Ok(facts) if self.is_ascii => self.size_in_ascii(&path, facts).await,
                Ok(facts) => Reply::new(213, facts.bytes.to_string()),
                Err(reply) => reply,
            },
            Command::Mdtm(request) => self.modified(request).await,
            Command::Mfmt(moment, path) => self.set_modified(moment, path).await,
            Command::Site(command) => self.site(command).await,
            Command::Dele(path) => {
                let reply = self.done("DELE", &path, Deed::Remove, "Deleted").await;
                self.delete_held(&path, reply).await
            }
            Command::Rmd(path) => self.done("RMD", &path, Deed::Remove, "Removed").await,
            Command::Mkd(path) => match self.ask("MKD", &path, Deed::MakeDirectory).await {
                Ok(_) => Reply::new(257, format!("{} created", path.quoted())),
                Err(reply) => reply,
            },
            Command::Rnfr(path) => match self.ask("RNFR", &path, Deed::Look).await {
                Ok(_) => {
                    self.rename_from = Some(path);
                    Reply::new(350, "Now say the new name with RNTO")
                }
                Err(reply) => self.busy_if_held(&path, reply, Deed::Rename).await,
            },
            Command::Rnto(path) => match self.rename_from.take() {
                Some(_) => self.done("RNTO", &path, Deed::Rename, "Renamed").await,
                None => Reply::new(503, "Say the old name with RNFR first"),
            },
            _ => Reply::new(500, "Unknown command"),
        }
    }

    fn representation(&mut self, is_ascii: bool) -> Reply {
        self.is_ascii = is_ascii;
        Reply::new(200, if is_ascii { "Type is A" } else { "Type is I" })
    }

    /// RFC 7151: there is one site here, whatever name it has been found by.
    fn host(&self, name: &str) -> Reply {
        match self.login {
            Login::Nobody => {
                debug!(peer = %self.peer, host = name, "host named");
                Reply::new(220, self.front.now().config.banner.clone())
            }
            Login::Named(_) | Login::In(_) => Reply::new(503, "HOST comes before USER"),
        }
    }

    fn restart_at(&mut self, offset: u64) -> Reply {
        self.forget_restart();
        if offset != 0 && self.is_ascii {
            return Reply::new(504, NO_OFFSETS_IN_ASCII);
        }
        self.restart = offset;
        Reply::new(350, format!("The next transfer starts at {offset}"))
    }

    fn restrict_to(&mut self, range: Option<(u64, u64)>) -> Reply {
        self.forget_restart();
        let Some((first, last)) = range else { return Reply::new(350, "The range is all") };
        if self.is_ascii {
            return Reply::new(504, NO_OFFSETS_IN_ASCII);
        }
        self.range = Some(first..last.saturating_add(1));
        Reply::new(350, format!("Restarting at {first}. End octet range at {last}"))
    }

    /// RFC 2389 section 3.2.
    fn features(&self) -> Reply {
        let mut features = self.wire_features();
        features.push(format!("HASH {}", self.algorithm.describe()));
        features.push(format!("MLST {}", self.facts.describe(true)));
        if self.keeps_metadata() {
            features.extend(["MFMT", "SITE CHMOD", "SITE UTIME"].map(str::to_owned));
        }
        features.extend(FEATURES.map(str::to_owned));
        features.sort_unstable();
        Reply::lines(211, "Features:", features, "End")
    }

    fn status(&self) -> Reply {
        let user = match &self.login {
            Login::In(session) => session.context.user().name.clone(),
            Login::Nobody | Login::Named(_) => "nobody".to_owned(),
        };
        let body = vec![
            format!("Connected from {}, logged in as {user}", self.peer.ip()),
            format!("Control connection: {}", if self.is_behind_tls() { "behind TLS" } else { "in clear" }),
            format!("Working directory: {}", self.cwd.quoted()),
            format!(
                "Type: {}, mode: {}, names: {}",
                if self.is_ascii { 'A' } else { 'I' },
                if self.mode == Mode::Stream { 'S' } else { 'Z' },
                self.names.label()
            ),
            "No transfer is under way".to_owned(),
        ];
        Reply::lines(211, "cosgate FTP server status:", body, "End")
    }

    pub(super) fn look(&self) -> Option<Look> {
        let Login::In(session) = &self.login else { return None };
        Some(Look {
            names: self.names,
            facts: self.facts,
            policy: session.context.user().policy,
            names_max: self.front.now().config.list_names_max,
        })
    }

    /// RFC 959: like LIST, but over the control connection.
    pub(super) async fn stat_path(&mut self, request: ListRequest) -> io::Result<()> {
        let (Some(look), Login::In(session)) = (self.look(), &self.login) else { return Ok(()) };
        let home = session.context.user().home.clone();
        let path = request.path.clone();
        let opened = home.run(move |root| Lister::open(root, &request, look, now())).await;
        let mut lister = match opened {
            Ok(lister) => lister,
            Err(error) => return self.say(refusal(errno_of(&error), Deed::Look, &path)).await,
        };
        self.control.send(b"213-Status follows:\r\n").await?;
        loop {
            let step = blocking(move || {
                let mut lines = Vec::new();
                let more = lister.advance(&mut lines, STAT_CHUNK_BYTES)?;
                Ok((lister, lines, more))
            });
            let (back, lines, more) = match step.await {
                Ok(step) => step,
                // The reply has begun and must end.
                Err(error) => return self.say(Reply::new(213, format!("Cut short: {error}"))).await,
            };
            // A line that began with `213 ` would end the reply.
            let indented = lines.split_inclusive(|&byte| byte == b'\n').flat_map(|line| [&b" "[..], line]);
            self.control.send(&indented.collect::<Vec<_>>().concat()).await?;
            lister = back;
            if !more {
                return self.say(Reply::new(213, "End")).await;
            }
        }
    }

    async fn done(&mut self, verb: &str, path: &ClientPath, deed: Deed, text: &str) -> Reply {
        match self.ask(verb, path, deed).await {
            Ok(_) => Reply::new(250, text),
            Err(reply) => reply,
        }
    }

    async fn looked_up(&mut self, verb: &str, path: &ClientPath) -> Result<Facts, Reply> {
        let report = self.ask(verb, path, Deed::Look).await?;
        report.facts.ok_or_else(|| refusal(Errno::IO, Deed::Look, path))
    }

    /// MDTM: a file may be named like a time and a name.
    async fn modified(&mut self, request: MdtmRequest) -> Reply {
        let found = self.looked_up("MDTM", &request.path).await;
        match (found, request.set) {
            (Ok(facts), _) => Reply::new(213, timestamp(facts.modified)),
            (Err(_), Some((moment, path))) => {
                let change = Change::of_times("MDTM", &path);
                let reply = self.set_modified(moment, path).await;
                self.front.records.change(self.who(), &change, reply.code());
                reply
            }
            (Err(reply), None) => reply,
        }
    }

    /// RFC 3659 section 4: the size that the data connection would have, so it must be counted.
    async fn size_in_ascii(&self, path: &ClientPath, facts: Facts) -> Reply {
        if facts.bytes > COUNTED_BYTES_MAX {
            return Reply::new(550, format!("{path}: too large to count its lines, say TYPE I"));
        }
        let Login::In(session) = &self.login else { return refusal(Errno::IO, Deed::Read, path) };
        let (home, target) = (session.context.user().home.clone(), path.clone());
        let Ok(_place) = self.front.means.reads.acquire().await else {
            return refusal(Errno::IO, Deed::Read, path);
        };
        let counted = home.run(move |root| {
            let (file, _) = root.open_to_read(&target)?;
            let (mut file, mut counter) = (std::fs::File::from(file), ToCrlf::default());
            let (mut bytes, mut piece) = (0, vec![0; COUNTED_PIECE_BYTES]);
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(bytes),
                    count => bytes += count as u64 + counter.growth(&piece[..count]),
                }
            }
        });
        match counted.await {
            Ok(bytes) => Reply::new(213, bytes.to_string()),
            Err(error) => refusal(errno_of(&error), Deed::Read, path),
        }
    }

    /// Of a file, or of what is held of a broken upload of that name.
    async fn size_of(&mut self, path: &ClientPath) -> Result<Facts, Reply> {
        match self.facts_held(path).await? {
            Some(held) if !self.is_ascii => Ok(held),
            Some(_) | None => self.plain_file("SIZE", path).await,
        }
    }

    async fn plain_file(&mut self, verb: &str, path: &ClientPath) -> Result<Facts, Reply> {
        let facts = self.looked_up(verb, path).await?;
        match facts.kind {
            Kind::File => Ok(facts),
            Kind::Directory => Err(refusal(Errno::ISDIR, Deed::Look, path)),
            Kind::Link | Kind::Other => Err(refusal(Errno::NODEV, Deed::Look, path)),
        }
    }

    async fn facts_of(&mut self, path: &ClientPath) -> Reply {
        let facts = match self.facts_held(path).await {
            Err(reply) => return reply,
            Ok(Some(held)) => held,
            Ok(None) => match self.looked_up("MLST", path).await {
                Ok(facts) => facts,
                Err(reply) => return reply,
            },
        };
        let Some(look) = self.look() else { return refusal(Errno::IO, Deed::Look, path) };
        let line = format!("{} {path}", fact_words(&facts, look.facts, look.policy));
        Reply::lines(250, &format!("Listing {path}"), vec![line], "End")
    }

    /// Asks the inner session to do something to a path.
    async fn ask(&mut self, verb: &str, path: &ClientPath, deed: Deed) -> Result<Report, Reply> {
        let failed = || refusal(Errno::IO, deed, path);
        let Login::In(session) = &mut self.login else { return Err(failed()) };
        let context = session.context.clone();
        let inner = session.inner().await.map_err(|error| {
            warn!(%error, "no inner session");
            failed()
        })?;
        context.take_report();
        let said = inner.ask(&format!("{verb} {path}")).await;
        let report = context.take_report();
        match said {
            Ok(reply) if reply.is_good() && report.failure.is_none() => Ok(report),
            Ok(reply) => {
                debug!(verb, %path, code = reply.code, failure = ?report.failure, "refused");
                Err(refusal(report.failure.unwrap_or(Errno::IO), deed, path))
            }
            Err(error) => {
                warn!(verb, %error, "inner session died");
                session.inner = None;
                Err(failed())
            }
        }
    }
}

fn help() -> Reply {
    let names: Vec<&str> = verbs::all().map(|verb| verb.name).collect();
    let body = names.chunks(12).map(|names| names.join(" ")).collect();
    Reply::lines(214, "These commands are understood:", body, "End, HELP and a command tells more")
}
