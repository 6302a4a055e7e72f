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
    command::{Command, ListForm, ListRequest, needs_no_login, verb_of},
    control::{Control, Heard},
    door::Door,
    home::StoreHow,
    inner::InnerSession,
    listing::FactSet,
    live::{Front, Live},
    names::Names,
    path::ClientPath,
    proxy::Ends,
    reached,
    records::{Change, Who},
    reply::Reply,
    seats::UserSeat,
    security::{FAREWELL_TIME, Security},
    storage::SessionContext,
    transfer::Work,
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
    pub(super) restart: u64,
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
        Ok(Self {
            reloads: front.reloads(),
            front,
            control,
            peer,
            local,
            bound,
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
        if let Some(refusal) = self.refused_in_clear(&command) {
            self.say(refusal).await?;
            return Ok(Flow::Next);
        }
        self.forget_preliminaries(Some(&command));
        match command {
            Command::Auth(mechanism) => self.auth(mechanism).await,
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
                let change = Change::of(&other, self.rename_from.as_ref());
                let reply = self.answer(other).await;
                if let Some(change) = change {
                    self.front.records.change(self.who(), &change, reply.code());
                }
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
