//! USER and PASS: who gets in, and what becomes of those who do not.
//!
//! ```text
//! PASS ─> locked out? ─> its turn at the bench ─> right, and the name not locked from here? ─> a seat ─> 230
//!           │421                                    │no: counted, a pause, 530 or 421           │421
//! ```
//!
//! Who is turned away reads the same whether the name exists, the password is wrong, or the name is locked;
//! the log says which. A line of the log puts the address before the name: the name is the client's to choose.

use std::{io, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{
    Phase,
    arrival::{LOCKED_OUT, Rarely},
    control::Heard,
    desk::{Flow, FrontDesk, Login, Session},
    inner::InnerSession,
    lockout::{Failed, Lockout, Rule},
    path::ClientPath,
    reached,
    records::Who,
    reply::Reply,
    seats::{Network, Seats},
    storage::SessionContext,
    users::{Checked, HashBench, User},
};
use crate::config::{FtpConfig, Secret};

/// Wrong passwords after which a session is closed.
const LOGIN_TRIES_MAX: u32 = 5;
/// Lines that may wait until a pause is over.
const WAITING_LINES_MAX: usize = 8;
/// Letters of a name that the log repeats.
const NAME_LETTERS_MAX: usize = 64;

/// What stands between the network and the sessions, and outlives each of them and every reload.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) seats: Arc<Seats>,
    pub(super) lockout: Lockout,
    bench: Arc<HashBench>,
    pub(super) refusals: Rarely,
    pub(super) headerless: Rarely,
}

/// What a password has led to.
enum Verdict {
    Admitted(Arc<User>),
    Refused(Failed, &'static str),
}

impl FrontDesk {
    pub(super) fn user(&mut self, name: String) -> Reply {
        self.log_out();
        // RFC 1635, section 2. Else the same for everybody: who exists is nobody's business.
        let text = match self.front.now().users.guest(&name) {
            Some(_) => "Guest login ok, send your e-mail address as password",
            None => "Password, please",
        };
        self.login = Login::Named(name);
        Reply::new(331, text)
    }

    pub(super) fn log_out(&mut self) {
        if let Login::In(session) = &self.login {
            info!(user = session.context.user().name, peer = %self.peer, "logged out");
            self.front.records.logout(self.who());
            self.nobody_since = Instant::now();
        }
        self.login = Login::Nobody;
        self.cwd = ClientPath::home();
        self.door = None;
    }

    pub(super) async fn pass(&mut self, password: &Secret) -> io::Result<Flow> {
        let Login::Named(name) = &self.login else {
            self.say(Reply::new(503, "Say USER first")).await?;
            return Ok(Flow::Next);
        };
        let name = name.clone();
        // Each password needs a USER of its own.
        self.login = Login::Nobody;
        let network = Network::of(self.peer.ip());
        match self.judge(&name, password, network).await {
            None => {
                self.log_refusal(&name, "address-locked");
                self.say(Reply::new(421, LOCKED_OUT)).await?;
                Ok(Flow::End)
            }
            Some(Verdict::Refused(failed, reason)) => self.turn_away(&name, failed, reason).await,
            Some(Verdict::Admitted(user)) => self.log_in(user).await,
        }
    }

    /// `None` where the network is locked out, for the right password too.
    async fn judge(&self, name: &str, told: &Secret, network: Network) -> Option<Verdict> {
        let Gate { lockout, bench, .. } = &self.front.gate;
        let live = self.front.now();
        let rule = Rule::of(&live.config);
        let is_vain = || lockout.is_locked(network, Instant::now());
        if let Some(guest) = live.users.guest(name) {
            return (!is_vain()).then(|| Verdict::Admitted(guest.clone()));
        }
        let judge = |Checked { exists, user }: Checked| {
            let now = Instant::now();
            let reason = match (&user, exists) {
                (Some(_), _) => "user-locked",
                (None, true) => "wrong-password",
                (None, false) => "unknown-user",
            };
            match user.filter(|_| !lockout.is_name_locked(name, network, now)) {
                Some(user) => {
                    lockout.succeed(network, name, rule, now);
                    Verdict::Admitted(user)
                }
                None => Verdict::Refused(lockout.fail(network, name, exists, rule, now), reason),
            }
        };
        bench.check(&live.users, name, told, is_vain, judge).await
    }

    async fn log_in(&mut self, user: Arc<User>) -> io::Result<Flow> {
        let name = user.name.clone();
        let Some(seat) = self.front.gate.seats.take_of_user(&name, user.sessions_max) else {
            self.log_refusal(&name, "max_sessions");
            self.say(Reply::new(421, "Too many sessions of this user (max_sessions), try again later"))
                .await?;
            return Ok(Flow::End);
        };
        if let Err(error) = user.home.find().await {
            warn!(user = name, peer = %self.peer, %error, "login refused: the home is missing (anonymous_home)");
            self.say(Reply::new(530, "Your home is missing, tell the administrator")).await?;
            return Ok(Flow::Next);
        }
        let context = Arc::new(SessionContext::new(user));
        match InnerSession::open(context.clone()).await {
            Ok(inner) => {
                info!(user = name, peer = %self.peer, "logged in");
                self.wrong_passwords = 0;
                self.login = Login::In(Box::new(Session { context, inner: Some(inner), _seat: seat }));
                self.front.records.login(self.who());
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

    async fn turn_away(&mut self, name: &str, failed: Failed, reason: &'static str) -> io::Result<Flow> {
        self.wrong_passwords += 1;
        self.log_refusal(name, reason);
        let address = self.peer.ip();
        if failed.network_locked {
            warn!(%address, "address locked out (failed_login_limit)");
        }
        if failed.name_locked {
            let user = beginning(name);
            warn!(%address, user, "user locked out (failed_login_limit), but for addresses that have logged in");
        }
        self.pause(failed.pause).await;
        let reply = if failed.network_locked {
            Reply::new(421, LOCKED_OUT)
        } else if self.wrong_passwords >= LOGIN_TRIES_MAX {
            Reply::new(421, "Too many wrong passwords")
        } else {
            self.say(Reply::new(530, "Login incorrect")).await?;
            return Ok(Flow::Next);
        };
        self.say(reply).await?;
        Ok(Flow::End)
    }

    /// The line that fail2ban reads (docs/OPERATIONS.md).
    fn log_refusal(&self, name: &str, reason: &'static str) {
        let user = beginning(name);
        warn!(address = %self.peer.ip(), reason, user, "login refused");
        self.front.records.login_failed(Who { user, peer: self.peer, is_anonymous: false }, reason);
    }

    /// Waits, unless the client leaves or the server stops. What the client says meanwhile waits for its turn.
    async fn pause(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut phase = self.phase.clone();
        loop {
            let has_room = self.waiting.len() < WAITING_LINES_MAX;
            tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Draining) => return,
                () = sleep_until(until) => return,
                heard = self.control.hear(), if has_room => {
                    let is_gone = heard == Heard::Closed;
                    self.waiting.push_back(heard);
                    if is_gone { return }
                }
            }
        }
    }
}

impl Rule {
    fn of(config: &FtpConfig) -> Self {
        Self { limit: config.failed_login_limit, window: config.failed_login_window }
    }
}

/// As much of a name as the log repeats.
fn beginning(name: &str) -> &str {
    match name.char_indices().nth(NAME_LETTERS_MAX) {
        Some((end, _)) => &name[..end],
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_repeats_the_beginning_of_a_name() {
        assert_eq!(beginning("scanner"), "scanner");
        assert_eq!(beginning(&"ü".repeat(8000)), "ü".repeat(NAME_LETTERS_MAX));
    }
}
