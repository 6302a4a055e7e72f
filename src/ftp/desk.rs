//! One session: the client's commands in, the replies out.
//!
//! ```text
//! hear a line ─> parse it, now that its turn has come ─> answer it here, or ask the inner session
//!      ^                                                       │ a transfer: `conduct`
//!      └───────────────── one reply, then the next line <──────┘
//! ```
//!
//! Commands are obeyed one at a time, so pipelined ones get their replies in order. The desk keeps what the
//! stock server would lose or confuse: the working directory, REST, ALLO, RNFR, the client's character set.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::io::Errno;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    Front, Phase,
    command::{Command, EpsvArgument, ListForm, ListRequest, VERBS, needs_no_login, verb_of},
    control::{Control, Heard},
    data::PassiveDoor,
    home::{Facts, Kind, StoreHow, blocking},
    inner::InnerSession,
    listing::{FactSet, Lister, Look, fact_words, timestamp},
    names::Names,
    path::ClientPath,
    reached,
    reply::{Deed, Reply, errno_of, refusal},
    send::now,
    storage::{Report, SessionContext},
    transfer::Work,
    users::User,
};
use crate::config::Secret;

/// Wrong passwords after which a session is closed.
const LOGIN_TRIES_MAX: u32 = 5;
/// Pause after the first wrong password; it doubles with each one.
const LOGIN_PAUSE: Duration = Duration::from_millis(500);
/// Lines of a STAT with a path travel in pieces of this size.
const STAT_CHUNK_BYTES: usize = 64 * 1024;

/// A session.
#[derive(Debug)]
pub(super) struct FrontDesk {
    pub(super) front: Arc<Front>,
    pub(super) control: Control,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) phase: watch::Receiver<Phase>,
    /// Lines that were heard during a transfer and wait for their turn.
    pub(super) waiting: VecDeque<Heard>,
    pub(super) names: Names,
    pub(super) login: Login,
    cwd: ClientPath,
    facts: FactSet,
    pub(super) door: Option<PassiveDoor>,
    /// After EPSV ALL.
    only_extended: bool,
    is_ascii: bool,
    restart: u64,
    bytes_told: Option<u64>,
    rename_from: Option<ClientPath>,
    wrong_passwords: u32,
}

/// Who is there.
#[derive(Debug)]
pub(super) enum Login {
    Nobody,
    /// USER has been said.
    Named(String),
    In(Box<Session>),
}

/// Somebody who is logged in.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) context: Arc<SessionContext>,
    /// `None` after it has died; the next command opens it anew.
    pub(super) inner: Option<InnerSession>,
}

/// Whether the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    End,
}

impl FrontDesk {
    pub(super) fn open(
        front: Arc<Front>,
        stream: TcpStream,
        peer: SocketAddr,
        phase: watch::Receiver<Phase>,
    ) -> io::Result<Self> {
        let control = Control::new(stream)?;
        let local = control.local_addr()?;
        Ok(Self {
            front,
            control,
            peer,
            local,
            phase,
            waiting: VecDeque::new(),
            names: Names::default(),
            login: Login::Nobody,
            cwd: ClientPath::home(),
            facts: FactSet::default(),
            door: None,
            only_extended: false,
            is_ascii: false,
            restart: 0,
            bytes_told: None,
            rename_from: None,
            wrong_passwords: 0,
        })
    }

    /// Serves the client until one side has enough.
    pub(super) async fn attend(mut self) {
        debug!(peer = %self.peer, "connected");
        let begun = Instant::now();
        let done = self.converse(begun).await;
        if let Login::In(session) = &self.login {
            info!(user = session.context.user().name, peer = %self.peer, "logged out");
        }
        if let Err(error) = done {
            debug!(peer = %self.peer, %error, "session broke");
        }
    }

    async fn converse(&mut self, begun: Instant) -> io::Result<()> {
        self.say(Reply::new(220, self.front.config.banner.clone())).await?;
        loop {
            let deadline = match self.login {
                Login::In(_) => Instant::now() + self.front.config.idle_timeout,
                Login::Nobody | Login::Named(_) => begun + self.front.config.login_timeout,
            };
            let mut phase = self.phase.clone();
            let heard = tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Draining) => None,
                heard = timeout_at(deadline, self.next_line()) => Some(heard),
            };
            let Some(heard) = heard else {
                return self.say(Reply::new(421, "The server is stopping")).await;
            };
            let Ok(heard) = heard else {
                info!(peer = %self.peer, "timed out");
                return self.say(Reply::new(421, "Timeout: closing control connection")).await;
            };
            let flow = match heard {
                Heard::Closed => return Ok(()),
                Heard::TooLong => {
                    self.say(Reply::new(500, "The line is too long")).await?;
                    Flow::Next
                }
                Heard::Line(line) => Box::pin(self.obey(&line)).await?,
            };
            if flow == Flow::End {
                return Ok(());
            }
        }
    }

    async fn next_line(&mut self) -> Heard {
        match self.waiting.pop_front() {
            Some(heard) => heard,
            None => self.control.hear().await,
        }
    }

    pub(super) async fn say(&self, reply: Reply) -> io::Result<()> {
        debug!(peer = %self.peer, code = reply.code(), "reply");
        self.control.say(&reply, self.names).await
    }

    async fn obey(&mut self, line: &[u8]) -> io::Result<Flow> {
        debug!(peer = %self.peer, verb = verb_of(line), "command");
        let command = match Command::parse(line, &mut self.names, &self.cwd) {
            Ok(command) => command,
            Err(misheard) => {
                self.forget_preliminaries(None);
                self.say(misheard.into()).await?;
                return Ok(Flow::Next);
            }
        };
        if !matches!(self.login, Login::In(_)) && !needs_no_login(&command) {
            self.say(Reply::new(530, "Please log in with USER and PASS")).await?;
            return Ok(Flow::Next);
        }
        self.forget_preliminaries(Some(&command));
        match command {
            Command::Quit => {
                self.say(Reply::new(221, "Goodbye")).await?;
                Ok(Flow::End)
            }
            Command::Pass(password) => self.pass(&password).await,
            Command::List(request) => self.list(request).await,
            Command::Retr(path) => {
                let start = std::mem::take(&mut self.restart);
                self.bytes_told = None;
                self.transfer("RETR", path, Work::Retrieve { start }).await
            }
            Command::Stor(path) => self.store("STOR", path, StoreHow::Replace).await,
            Command::Appe(path) => self.store("APPE", path, StoreHow::Append).await,
            Command::Stat(Some(request)) => {
                self.stat_path(request).await?;
                Ok(Flow::Next)
            }
            other => {
                let reply = self.answer(other).await;
                self.say(reply).await?;
                Ok(Flow::Next)
            }
        }
    }

    /// RNFR is about the very next command. REST and ALLO are about the next transfer, which takes them; a
    /// listing is a transfer that uses neither.
    fn forget_preliminaries(&mut self, command: Option<&Command>) {
        if matches!(command, Some(Command::List(_) | Command::User(_))) {
            self.restart = 0;
            self.bytes_told = None;
        }
        if !matches!(command, Some(Command::Rnto(_))) {
            self.rename_from = None;
        }
    }

    /// Every command with one reply and no data.
    async fn answer(&mut self, command: Command) -> Reply {
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

    fn user(&mut self, name: String) -> Reply {
        self.log_out();
        self.login = Login::Named(name);
        // The same for everybody: who exists is nobody's business.
        Reply::new(331, "Password, please")
    }

    fn log_out(&mut self) {
        if let Login::In(session) = std::mem::replace(&mut self.login, Login::Nobody) {
            info!(user = session.context.user().name, peer = %self.peer, "logged out");
        }
        self.cwd = ClientPath::home();
        self.door = None;
    }

    async fn pass(&mut self, password: &Secret) -> io::Result<Flow> {
        let Login::Named(name) = &self.login else {
            self.say(Reply::new(503, "Say USER first")).await?;
            return Ok(Flow::Next);
        };
        let name = name.clone();
        match self.front.users.admit(&name, password) {
            Some(user) => self.log_in(user).await,
            None => self.turn_away(&name).await,
        }
    }

    async fn log_in(&mut self, user: Arc<User>) -> io::Result<Flow> {
        let name = user.name.clone();
        let context = Arc::new(SessionContext::new(user));
        match InnerSession::open(context.clone()).await {
            Ok(inner) => {
                info!(user = name, peer = %self.peer, "logged in");
                self.wrong_passwords = 0;
                self.login = Login::In(Box::new(Session { context, inner: Some(inner) }));
                self.say(Reply::new(230, "Logged in")).await?;
                Ok(Flow::Next)
            }
            Err(error) => {
                warn!(user = name, peer = %self.peer, %error, "no inner session");
                self.say(Reply::new(421, "The server is short of resources, try again later")).await?;
                Ok(Flow::End)
            }
        }
    }

    async fn turn_away(&mut self, name: &str) -> io::Result<Flow> {
        self.login = Login::Nobody;
        self.wrong_passwords += 1;
        warn!(user = name, peer = %self.peer, tries = self.wrong_passwords, "login refused");
        tokio::time::sleep(LOGIN_PAUSE * (1 << (self.wrong_passwords - 1))).await;
        if self.wrong_passwords < LOGIN_TRIES_MAX {
            self.say(Reply::new(530, "Login incorrect")).await?;
            Ok(Flow::Next)
        } else {
            self.say(Reply::new(421, "Too many wrong passwords")).await?;
            Ok(Flow::End)
        }
    }

    fn representation(&mut self, is_ascii: bool) -> Reply {
        self.is_ascii = is_ascii;
        Reply::new(200, if is_ascii { "Type is A" } else { "Type is I" })
    }

    fn features(&self) -> Reply {
        let mlst = format!("MLST {}", self.facts.describe(true));
        let features = ["EPSV", "MDTM", &mlst, "REST STREAM", "SIZE", "TVFS", "UTF8"];
        Reply::lines(211, "Features:", features.map(str::to_owned).to_vec(), "End")
    }

    fn status(&self) -> Reply {
        let user = match &self.login {
            Login::In(session) => session.context.user().name.clone(),
            Login::Nobody | Login::Named(_) => "nobody".to_owned(),
        };
        let body = vec![
            format!("Connected from {}, logged in as {user}", self.peer.ip()),
            format!("Working directory: {}", self.cwd.quoted()),
            format!("Type: {}, names: {}", if self.is_ascii { 'A' } else { 'I' }, self.names.label()),
            "No transfer is under way".to_owned(),
        ];
        Reply::lines(211, "cosgate FTP server status:", body, "End")
    }

    fn passive(&mut self) -> Reply {
        self.door = None;
        if self.only_extended {
            return Reply::new(503, "After EPSV ALL only EPSV is taken (RFC 2428)");
        }
        let std::net::IpAddr::V4(local) = self.local.ip() else {
            return Reply::new(425, "PASV cannot tell an IPv6 address: use EPSV");
        };
        let [a, b, c, d] = self.front.doors.told_address(local).octets();
        self.open_door(|port| {
            let [high, low] = port.to_be_bytes();
            Reply::new(227, format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low})"))
        })
    }

    fn extended_passive(&mut self, argument: EpsvArgument) -> Reply {
        let family = if self.local.is_ipv4() { 1 } else { 2 };
        match argument {
            EpsvArgument::All => {
                self.only_extended = true;
                return Reply::new(200, "From now on only EPSV is taken");
            }
            EpsvArgument::Family(asked) if asked != family => {
                return Reply::new(522, format!("Network protocol not supported, use ({family})"));
            }
            EpsvArgument::Family(_) | EpsvArgument::Any => {}
        }
        self.door = None;
        self.open_door(|port| Reply::new(229, format!("Entering Extended Passive Mode (|||{port}|)")))
    }

    fn open_door(&mut self, told: impl FnOnce(u16) -> Reply) -> Reply {
        match self.front.doors.open(self.local.ip(), self.peer.ip()) {
            Ok(door) => {
                let reply = told(door.port());
                self.door = Some(door);
                reply
            }
            Err(error) => {
                warn!(peer = %self.peer, %error, "no passive port: passive_port may be too narrow");
                Reply::new(425, "No passive port is free, try again later")
            }
        }
    }

    async fn store(&mut self, verb: &'static str, path: ClientPath, how: StoreHow) -> io::Result<Flow> {
        let restart = std::mem::take(&mut self.restart);
        // What is sent in type A may have had other line ends when it was counted.
        let bytes_told = self.bytes_told.take().filter(|_| !self.is_ascii);
        if restart != 0 && how == StoreHow::Replace {
            self.door = None;
            self.say(Reply::new(554, "Uploads start at 0: say REST 0 or none")).await?;
            return Ok(Flow::Next);
        }
        self.transfer(verb, path, Work::Store { how, bytes_told }).await
    }

    async fn list(&mut self, request: ListRequest) -> io::Result<Flow> {
        let verb = match request.form {
            ListForm::Long => "LIST",
            ListForm::Names => "NLST",
            ListForm::Facts => "MLSD",
        };
        let Some(look) = self.look() else { return Ok(Flow::Next) };
        let path = request.path.clone();
        self.transfer(verb, path, Work::List { request, look }).await
    }

    fn look(&self) -> Option<Look> {
        let Login::In(session) = &self.login else { return None };
        Some(Look {
            names: self.names,
            facts: self.facts,
            policy: session.context.user().policy,
            names_max: self.front.config.list_names_max,
        })
    }

    /// RFC 959: like LIST, but over the control connection.
    async fn stat_path(&mut self, request: ListRequest) -> io::Result<()> {
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

impl Session {
    /// The inner session, opened anew if it has died.
    pub(super) async fn inner(&mut self) -> io::Result<&mut InnerSession> {
        let inner = match self.inner.take() {
            Some(inner) => inner,
            None => InnerSession::open(self.context.clone()).await?,
        };
        Ok(self.inner.insert(inner))
    }
}

fn help() -> Reply {
    let body = VERBS.chunks(12).map(|verbs| verbs.join(" ")).collect();
    Reply::lines(214, "These commands are understood:", body, "End")
}
