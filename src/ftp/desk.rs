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

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::{debug, info};

use super::{
    Phase,
    arrival::Arrival,
    checksum::Algorithm,
    command::{Command, ListForm, ListRequest, verb_of},
    control::{Control, Heard},
    deflate::LEVEL_USUAL,
    door::Door,
    home::StoreHow,
    inner::InnerSession,
    listing::FactSet,
    live::{Front, Live},
    names::Names,
    options::Mode,
    path::ClientPath,
    proxy::Ends,
    reached,
    records::{Change, Who},
    reply::Reply,
    seats::UserSeat,
    security::{FAREWELL_TIME, Security},
    storage::SessionContext,
    transfer::Work,
    verbs,
};

/// A session.
#[derive(Debug)]
pub(super) struct FrontDesk {
    pub(super) front: Arc<Front>,
    pub(super) control: Control,
    /// The client, and the address it came to: behind a balancer, as its header says.
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// The address of this machine that it came to in the end.
    pub(super) bound: IpAddr,
    pub(super) phase: watch::Receiver<Phase>,
    reloads: watch::Receiver<Arc<Live>>,
    /// Lines that were heard during a transfer and wait for their turn.
    pub(super) waiting: VecDeque<Heard>,
    pub(super) names: Names,
    pub(super) login: Login,
    pub(super) cwd: ClientPath,
    pub(super) facts: FactSet,
    pub(super) door: Option<Door>,
    /// After EPSV ALL.
    pub(super) only_extended: bool,
    pub(super) is_ascii: bool,
    pub(super) mode: Mode,
    /// The client has named itself as one that loses bytes in mode Z.
    pub(super) loses_in_deflate: bool,
    pub(super) deflate_level: u32,
    /// What HASH computes.
    pub(super) algorithm: Algorithm,
    pub(super) restart: u64,
    /// What RANG has chosen.
    pub(super) range: Option<Range<u64>>,
    pub(super) bytes_told: Option<u64>,
    pub(super) rename_from: Option<ClientPath>,
    pub(super) wrong_passwords: u32,
    /// Since when nobody is logged in.
    pub(super) nobody_since: Instant,
    /// The port's connections begin with TLS.
    is_implicit: bool,
    pub(super) security: Security,
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
    /// Among the sessions of its user.
    pub(super) _seat: UserSeat,
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
        arrival: Arrival,
        phase: watch::Receiver<Phase>,
        is_implicit: bool,
    ) -> io::Result<Self> {
        let Arrival { stream, ends: Ends { peer, local }, bound } = arrival;
        let control = Control::new(stream)?;
        let name_encoding = front.now().config.name_encoding;
        Ok(Self {
            reloads: front.reloads(),
            front,
            control,
            peer,
            local,
            bound,
            phase,
            waiting: VecDeque::new(),
            names: Names::new(name_encoding),
            login: Login::Nobody,
            cwd: ClientPath::home(),
            facts: FactSet::default(),
            door: None,
            only_extended: false,
            is_ascii: false,
            mode: Mode::default(),
            loses_in_deflate: false,
            deflate_level: LEVEL_USUAL,
            algorithm: Algorithm::default(),
            restart: 0,
            range: None,
            bytes_told: None,
            rename_from: None,
            wrong_passwords: 0,
            nobody_since: Instant::now(),
            is_implicit,
            security: Security::default(),
        })
    }

    /// Serves the client until one side has enough.
    pub(super) async fn attend(mut self) {
        debug!(peer = %self.peer, "connected");
        let done = self.converse().await;
        self.control.bid_farewell(FAREWELL_TIME).await;
        self.log_out();
        if let Err(error) = done {
            debug!(peer = %self.peer, %error, "session broke");
        }
    }

    async fn converse(&mut self) -> io::Result<()> {
        if self.is_implicit {
            self.secure_at_once().await?;
        }
        self.say(Reply::new(220, self.front.now().config.banner.clone())).await?;
        loop {
            let deadline = match self.login {
                Login::In(_) => Instant::now() + self.front.now().config.idle_timeout,
                Login::Nobody | Login::Named(_) => self.nobody_since + self.front.now().config.login_timeout,
            };
            let (mut phase, mut reloads) = (self.phase.clone(), self.reloads.clone());
            let heard = tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Draining) => None,
                // A front that is no more is heard of by its phase.
                Ok(()) = reloads.changed() => {
                    if self.is_concerned() {
                        info!(peer = %self.peer, "session ended: its user was removed or changed");
                        return self.say(Reply::new(421, "The account has changed, please log in again")).await;
                    }
                    continue;
                }
                heard = timeout_at(deadline, self.next_line()) => Some(heard),
            };
            let Some(heard) = heard else {
                return self.say(Reply::new(421, "The server is stopping")).await;
            };
            let Ok(heard) = heard else {
                return self.time_out().await;
            };
            let flow = match heard {
                Heard::Closed => return Ok(()),
                Heard::TooLong => {
                    self.say(Reply::new(500, "The line is too long")).await?;
                    Flow::Next
                }
                Heard::Line(line) if matches!(self.login, Login::In(_)) => Box::pin(self.obey(&line)).await?,
                // Pauses and checks of a login count as well.
                Heard::Line(line) => match timeout_at(deadline, Box::pin(self.obey(&line))).await {
                    Ok(flow) => flow?,
                    Err(_) => return self.time_out().await,
                },
            };
            if flow == Flow::End {
                return Ok(());
            }
        }
    }

    /// Who is logged in, for the records.
    pub(super) fn who(&self) -> Who<'_> {
        let (user, is_anonymous) = match &self.login {
            Login::In(session) => (session.context.user().name.as_str(), session.context.user().is_guest),
            Login::Named(name) => (name.as_str(), false),
            Login::Nobody => ("nobody", false),
        };
        Who { user, peer: self.peer, is_anonymous }
    }

    async fn time_out(&self) -> io::Result<()> {
        info!(peer = %self.peer, "timed out");
        self.say(Reply::new(421, "Timeout: closing control connection")).await
    }

    /// Whether the last reload has taken away, or changed, who is logged in.
    fn is_concerned(&mut self) -> bool {
        let live = self.reloads.borrow_and_update().clone();
        match &self.login {
            Login::In(session) => !live.still_admits(session.context.user()),
            Login::Nobody | Login::Named(_) => false,
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
        let verb = verb_of(line);
        debug!(peer = %self.peer, verb, "command");
        let command = match Command::parse(line, &mut self.names, &self.cwd) {
            Ok(command) => command,
            Err(misheard) => {
                self.rename_from = None;
                self.say(misheard.into()).await?;
                return Ok(Flow::Next);
            }
        };
        if !matches!(self.login, Login::In(_)) && !verbs::needs_no_login(&verb) {
            self.say(Reply::new(530, "Please log in with USER and PASS")).await?;
            return Ok(Flow::Next);
        }
        if let Some(refusal) = self.refused_in_clear(&command) {
            self.say(refusal).await?;
            return Ok(Flow::Next);
        }
        self.forget_preliminaries(&verb, &command);
        match command {
            Command::Auth(mechanism) => self.auth(mechanism).await,
            Command::Quit => {
                self.say(Reply::new(221, "Goodbye")).await?;
                Ok(Flow::End)
            }
            Command::Pass(password) => self.pass(&password).await,
            Command::List(request) => self.list(request).await,
            Command::Retr(path) => self.retrieve(path).await,
            Command::Stor(path) => self.store("STOR", path, StoreHow::Replace).await,
            Command::Stou(path) => {
                let path = unique(path.unwrap_or_else(|| self.cwd.join("file")));
                self.store("STOU", path, StoreHow::New).await
            }
            Command::Appe(path) => self.store("APPE", path, StoreHow::Append).await,
            Command::Checksum(request) => self.checksum(request).await,
            Command::Stat(Some(request)) => {
                self.stat_path(request).await?;
                Ok(Flow::Next)
            }
            other => {
                let change = Change::of(&other, self.rename_from.as_ref());
                let opens_door = matches!(other, Command::Pasv | Command::Epsv(_));
                let reply = self.answer(other).await;
                if let Some(change) = change {
                    self.front.records.change(self.who(), &change, reply.code());
                }
                self.say(reply).await?;
                if opens_door && let Login::In(session) = &mut self.login {
                    session.make_ready().await;
                }
                Ok(Flow::Next)
            }
        }
    }

    /// RNFR is about the very next command. REST, RANG and ALLO are about the next transfer, which takes
    /// them; what no client says in between shows that there will be none.
    fn forget_preliminaries(&mut self, verb: &str, command: &Command) {
        if !verbs::keeps_restart(verb) {
            self.forget_restart();
        }
        if matches!(command, Command::List(_) | Command::User(_) | Command::Rein) {
            self.bytes_told = None;
        }
        if !matches!(command, Command::Rnto(_)) {
            self.rename_from = None;
        }
    }

    pub(super) fn forget_restart(&mut self) {
        self.restart = 0;
        self.range = None;
    }

    /// RFC 959 section 4.1.1: all but the connection as if it were new. TLS, where there is some, stays:
    /// going back to clear text (as RFC 4217 has it) is what an attacker would ask for.
    pub(super) fn reinitialize(&mut self) {
        self.log_out();
        self.names = Names::new(self.front.now().config.name_encoding);
        self.facts = FactSet::default();
        self.only_extended = false;
        self.is_ascii = false;
        self.mode = Mode::default();
        self.deflate_level = LEVEL_USUAL;
        self.algorithm = Algorithm::default();
        self.forget_restart();
        self.bytes_told = None;
        self.rename_from = None;
    }

    async fn retrieve(&mut self, path: ClientPath) -> io::Result<Flow> {
        let start = std::mem::take(&mut self.restart);
        let range = self.range.take().unwrap_or(start..u64::MAX);
        self.bytes_told = None;
        if range != (0..u64::MAX) && self.is_ascii {
            return self.refuse_transfer(Reply::new(504, NO_OFFSETS_IN_ASCII)).await;
        }
        match self.outlet(false) {
            Ok(conversion) => self.transfer("RETR", path, Work::Retrieve { range, conversion }).await,
            Err(reply) => self.refuse_transfer(reply).await,
        }
    }

    async fn store(&mut self, verb: &'static str, path: ClientPath, how: StoreHow) -> io::Result<Flow> {
        let restart = std::mem::take(&mut self.restart);
        let range = self.range.take();
        // What is sent in type A may have had other line ends when it was counted.
        let bytes_told = self.bytes_told.take().filter(|_| !self.is_ascii);
        let how = match self.where_to_begin(how, restart, &path).await {
            Ok(how) => how,
            Err(reply) => return self.refuse_transfer(reply).await,
        };
        let refused = if range.is_some() {
            Some(Reply::new(554, "A range can be read only: say REST 0"))
        } else if restart != 0 && how == StoreHow::New {
            Some(Reply::new(554, "A new name starts at 0: say REST 0"))
        } else if restart != 0 && self.is_ascii && how != StoreHow::Append {
            Some(Reply::new(504, NO_OFFSETS_IN_ASCII))
        } else {
            None
        };
        if let Some(reply) = refused {
            return self.refuse_transfer(reply).await;
        }
        match self.intake() {
            Ok(conversion) => self.transfer(verb, path, Work::Store { how, bytes_told, conversion }).await,
            Err(reply) => self.refuse_transfer(reply).await,
        }
    }

    /// A client that is refused will not dial, or will hear the end of the data at once.
    async fn refuse_transfer(&mut self, reply: Reply) -> io::Result<Flow> {
        self.door = None;
        self.say(reply).await?;
        Ok(Flow::Next)
    }

    async fn list(&mut self, request: ListRequest) -> io::Result<Flow> {
        let verb = match request.form {
            ListForm::Long => "LIST",
            ListForm::Names => "NLST",
            ListForm::Facts => "MLSD",
        };
        let Some(look) = self.look() else { return Ok(Flow::Next) };
        let path = request.path.clone();
        match self.outlet(true) {
            Ok(conversion) => self.transfer(verb, path, Work::List { request, look, conversion }).await,
            Err(reply) => self.refuse_transfer(reply).await,
        }
    }
}

/// RFC 3659 section 5.3 counts bytes of the file; in type A the wire has others.
pub(super) const NO_OFFSETS_IN_ASCII: &str = "Offsets mean nothing in type A: say TYPE I";

/// A name that nobody has: 64 random bits behind the one that is wished for.
fn unique(wished: ClientPath) -> ClientPath {
    let name = format!("{}.{:016x}", wished.file_name(), fastrand::u64(..));
    wished.parent().join(&name)
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

    /// The client is about to dial: what the inner session needs for a transfer is made meanwhile.
    async fn make_ready(&mut self) {
        let made = match self.inner().await {
            Ok(inner) => inner.make_ready().await,
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            debug!(%error, "inner session is not ready");
            // The transfer opens another one, and tells where that fails as well.
            self.inner = None;
        }
    }
}
