//! AUTH, PBSZ, PROT, CCC (RFC 2228, RFC 4217): what of a session is behind TLS, and what has to be.

use std::{io, time::Duration};

use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::{
    Phase,
    command::Command,
    desk::{Flow, FrontDesk},
    reached,
    reply::Reply,
    tls::{DataTls, SessionTls},
};
use crate::config::TlsRequired;

/// Longest wait for the alert, or close_notify, of a connection that is given up.
pub(super) const FAREWELL_TIME: Duration = Duration::from_millis(200);

/// What AUTH asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Tls,
    /// Of the drafts before RFC 4217: data connections are behind TLS at once.
    TlsWithData,
    Unknown,
}

/// What PROT asks for (RFC 2228 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Clear,
    Private,
    /// Safe and Confidential, which TLS has not got.
    Other,
    Unknown,
}

/// How far a session is behind TLS.
#[derive(Debug, Default)]
pub(super) struct Security {
    /// `None`: the control connection is in clear.
    session: Option<SessionTls>,
    has_buffer_size: bool,
    has_private_data: bool,
}

impl Mechanism {
    pub(super) fn parse(text: &str) -> Self {
        match text.trim().to_ascii_uppercase().as_str() {
            "TLS" | "TLS-C" => Self::Tls,
            "SSL" | "TLS-P" => Self::TlsWithData,
            _ => Self::Unknown,
        }
    }
}

impl Level {
    pub(super) fn parse(text: &str) -> Self {
        match text.trim().to_ascii_uppercase().as_str() {
            "C" => Self::Clear,
            "P" => Self::Private,
            "S" | "E" => Self::Other,
            _ => Self::Unknown,
        }
    }
}

impl FrontDesk {
    /// The port whose connections begin with TLS; data connections have it too, as tradition will.
    ///
    /// # Errors
    /// Where the handshake fails, or takes longer than a login may.
    pub(super) async fn secure_at_once(&mut self) -> io::Result<()> {
        let Some(tls) = self.front.now().tls.clone() else {
            return Err(io::Error::other("there is no certificate any more"));
        };
        self.secure(tls.session()).await?;
        self.security.has_private_data = true;
        Ok(())
    }

    pub(super) async fn auth(&mut self, mechanism: Mechanism) -> io::Result<Flow> {
        if mechanism == Mechanism::Unknown {
            return self.refuse(504, "AUTH takes TLS").await;
        }
        if self.security.session.is_some() {
            return self.refuse(503, "TLS is there already").await;
        }
        let Some(tls) = self.front.now().tls.clone() else {
            return self.refuse(431, "There is no certificate (tls_cert): TLS is not available").await;
        };
        // What came in clear must not be taken for something said under TLS.
        if self.control.holds_bytes() || !self.waiting.is_empty() {
            warn!(peer = %self.peer, "bytes in clear behind AUTH: session closed");
            self.say(Reply::new(421, "Bytes behind AUTH: closing control connection")).await?;
            return Ok(Flow::End);
        }
        self.log_out();
        self.say(Reply::new(234, "Begin TLS")).await?;
        self.secure(tls.session()).await?;
        self.security.has_private_data = mechanism == Mechanism::TlsWithData;
        Ok(Flow::Next)
    }

    async fn refuse(&mut self, code: u16, why: &str) -> io::Result<Flow> {
        self.say(Reply::new(code, why)).await?;
        Ok(Flow::Next)
    }

    async fn secure(&mut self, session: SessionTls) -> io::Result<()> {
        // What is left of the time for the login, and no less than half of it for who says AUTH late.
        let time = self.front.now().config.login_timeout;
        let deadline = (self.nobody_since + time).max(Instant::now() + time / 2);
        let mut phase = self.phase.clone();
        let shaken = tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Draining) => Err(io::Error::other("the server is stopping")),
            shaken = timeout_at(deadline, self.control.secure(session.control())) => {
                shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
        };
        if let Err(error) = shaken {
            info!(peer = %self.peer, %error, "TLS handshake failed");
            return Err(error);
        }
        session.seal();
        debug!(peer = %self.peer, "control connection behind TLS");
        self.security = Security { session: Some(session), ..Security::default() };
        Ok(())
    }

    /// RFC 4217 section 9: of no meaning to TLS, yet it has to be said before PROT.
    pub(super) fn buffer_size(&mut self) -> Reply {
        if self.security.session.is_none() {
            return Reply::new(503, "Say AUTH TLS first");
        }
        self.security.has_buffer_size = true;
        Reply::new(200, "PBSZ=0")
    }

    pub(super) fn protection(&mut self, level: Level) -> Reply {
        let security = &mut self.security;
        if security.session.is_none() {
            return Reply::new(503, "Say AUTH TLS first");
        }
        if !security.has_buffer_size {
            return Reply::new(503, "Say PBSZ 0 first");
        }
        match level {
            Level::Clear if self.front.now().tls_required() == TlsRequired::All => {
                Reply::new(534, "Data connections have to be behind TLS (tls_required)")
            }
            Level::Clear => {
                security.has_private_data = false;
                Reply::new(200, "Data connections are in clear")
            }
            Level::Private => {
                security.has_private_data = true;
                Reply::new(200, "Data connections are behind TLS")
            }
            Level::Other => Reply::new(536, "TLS knows C and P only"),
            Level::Unknown => Reply::new(504, "PROT takes C or P"),
        }
    }

    /// Who has asked for TLS would go on in clear from here: refused, as RFC 4217 section 12.3 allows.
    pub(super) fn clear_command_channel(&self) -> Reply {
        match self.security.session {
            Some(_) => Reply::new(534, "The control connection stays behind TLS"),
            None => Reply::new(502, "The control connection is in clear already"),
        }
    }

    /// The refusal of what must not be said in clear.
    pub(super) fn refused_in_clear(&self, command: &Command) -> Option<Reply> {
        let must_not = matches!(command, Command::User(_) | Command::Pass(_))
            && self.security.session.is_none()
            && self.front.now().tls_required() != TlsRequired::None;
        must_not.then(|| Reply::new(530, "Say AUTH TLS first: no login in clear (tls_required)"))
    }

    /// Whichever way the connection is made, PASV or PORT: the transfer is what is refused.
    pub(super) fn data_refused_in_clear(&self) -> Option<Reply> {
        let must_not = !self.security.has_private_data && self.front.now().tls_required() == TlsRequired::All;
        must_not.then(|| Reply::new(522, "Say PROT P first: no data in clear (tls_required)"))
    }

    /// TLS for the next data connection, where PROT P holds.
    pub(super) fn data_tls(&self) -> Option<DataTls> {
        let session = self.security.session.as_ref()?;
        self.security.has_private_data.then(|| session.data())
    }

    pub(super) fn is_behind_tls(&self) -> bool {
        self.security.session.is_some()
    }

    /// Lines of FEAT that depend on what is set up.
    pub(super) fn wire_features(&self) -> Vec<String> {
        let live = self.front.now();
        let mut features = Vec::new();
        if live.config.active_mode {
            features.push("EPRT");
        }
        if live.tls.is_some() {
            features.extend(["AUTH TLS", "PBSZ", "PROT"]);
        }
        features.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_of_mechanisms_are_known() {
        for (text, mechanism) in [
            ("TLS", Mechanism::Tls),
            ("tls-c", Mechanism::Tls),
            ("SSL", Mechanism::TlsWithData),
            ("TLS-P", Mechanism::TlsWithData),
            ("GSSAPI", Mechanism::Unknown),
        ] {
            assert_eq!(Mechanism::parse(text), mechanism, "{text}");
        }
    }
}
