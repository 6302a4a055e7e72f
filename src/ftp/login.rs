//! USER and PASS: who gets in, and what becomes of those who do not.

use std::{io, sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{
    desk::{Flow, FrontDesk, Login, Session},
    inner::InnerSession,
    path::ClientPath,
    reply::Reply,
    storage::SessionContext,
    users::User,
};
use crate::config::Secret;

/// Wrong passwords after which a session is closed.
const LOGIN_TRIES_MAX: u32 = 5;
/// Pause after the first wrong password; it doubles with each one.
const LOGIN_PAUSE: Duration = Duration::from_millis(500);

impl FrontDesk {
    pub(super) fn user(&mut self, name: String) -> Reply {
        self.log_out();
        self.login = Login::Named(name);
        // The same for everybody: who exists is nobody's business.
        Reply::new(331, "Password, please")
    }

    pub(super) fn log_out(&mut self) {
        if let Login::In(session) = &self.login {
            info!(user = session.context.user().name, peer = %self.peer, "logged out");
            self.front.records.logout(self.who());
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
        match self.front.now().users.admit(&name, password) {
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

    async fn turn_away(&mut self, name: &str) -> io::Result<Flow> {
        self.front.records.login_failed(self.who(), "password");
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
}
