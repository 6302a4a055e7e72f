//! Commands of one reply and no data connection: what the desk knows itself, and what it asks the mount for.

use std::io;

use rustix::io::Errno;
use tracing::{debug, warn};

use super::{
    command::{Command, ListRequest, VERBS},
    desk::{FrontDesk, Login},
    home::{Facts, Kind, blocking},
    listing::{FactSet, Lister, Look, fact_words, timestamp},
    path::ClientPath,
    reply::{Deed, Reply, errno_of, refusal},
    send::now,
    storage::Report,
};

/// Lines of a STAT with a path travel in pieces of this size.
const STAT_CHUNK_BYTES: usize = 64 * 1024;

impl FrontDesk {
    /// Every command with one reply and no data.
    pub(super) async fn answer(&mut self, command: Command) -> Reply {
        match command {
            Command::User(name) => self.user(name),
            Command::Help => help(),
            Command::Feat => self.features(),
            Command::Syst => Reply::new(215, "UNIX Type: L8"),
            Command::Noop => Reply::new(200, "Still here"),
            Command::Clnt(name) => {
                debug!(peer = %self.peer, client = name, "client names itself");
                Reply::new(200, "Noted")
            }
            Command::OptsUtf8 { on } => {
                self.names.choose_utf8(on);
                Reply::new(200, format!("Names are {}", self.names.label()))
            }
            Command::OptsMlst(facts) => {
                self.facts = FactSet::choose(&facts);
                Reply::new(200, format!("MLST OPTS {}", self.facts.describe(false)))
            }
            Command::TypeAscii => self.representation(true),
            Command::TypeImage => self.representation(false),
            Command::Mode => Reply::new(200, "Mode is stream"),
            Command::Stru => Reply::new(200, "Structure is file"),
            Command::Pasv => self.passive(),
            Command::Epsv(argument) => self.extended_passive(argument),
            Command::Port(target) => self.active(target),
            Command::Eprt(target) => self.active(target),
            Command::Pbsz => self.buffer_size(),
            Command::Prot(level) => self.protection(level),
            Command::Ccc => self.clear_command_channel(),
            Command::Rest(offset) => {
                self.restart = offset;
                Reply::new(350, format!("The next transfer starts at {offset}"))
            }
            Command::Allo(bytes) => {
                self.bytes_told = Some(bytes);
                Reply::new(200, format!("{bytes} bytes are expected"))
            }
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
            Command::Mlst(path) => self.facts_of(&path).await,
            Command::Size(path) => match self.plain_file("SIZE", &path).await {
                Ok(facts) => Reply::new(213, facts.bytes.to_string()),
                Err(reply) => reply,
            },
            Command::Mdtm(path) => match self.looked_up("MDTM", &path).await {
                Ok(facts) => Reply::new(213, timestamp(facts.modified)),
                Err(reply) => reply,
            },
            Command::Dele(path) => self.done("DELE", &path, Deed::Remove, "Deleted").await,
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
                Err(reply) => reply,
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

    fn features(&self) -> Reply {
        let mlst = format!("MLST {}", self.facts.describe(true));
        let mut features = self.wire_features();
        features.extend(["EPSV", "MDTM", &mlst, "REST STREAM", "SIZE", "TVFS", "UTF8"].map(str::to_owned));
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
            format!("Type: {}, names: {}", if self.is_ascii { 'A' } else { 'I' }, self.names.label()),
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

    async fn plain_file(&mut self, verb: &str, path: &ClientPath) -> Result<Facts, Reply> {
        let facts = self.looked_up(verb, path).await?;
        match facts.kind {
            Kind::File => Ok(facts),
            Kind::Directory => Err(refusal(Errno::ISDIR, Deed::Look, path)),
            Kind::Link | Kind::Other => Err(refusal(Errno::NODEV, Deed::Look, path)),
        }
    }

    async fn facts_of(&mut self, path: &ClientPath) -> Reply {
        let facts = match self.looked_up("MLST", path).await {
            Ok(facts) => facts,
            Err(reply) => return reply,
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
    let body = VERBS.chunks(12).map(|verbs| verbs.join(" ")).collect();
    Reply::lines(214, "These commands are understood:", body, "End")
}
