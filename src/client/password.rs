//! The password: from the URL, from the environment, or asked for on the terminal without echo.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write as _},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{ClientError, ClientResult, url::Url};

/// What may hold the password, so that it stands in no list of processes.
const VARIABLE: &str = "COSGATE_FTP_PASSWORD";

/// Name and password to log in with.
///
/// # Errors
/// Where there is none, and nobody to ask.
pub(super) fn login_of(url: &Url) -> ClientResult<(String, String)> {
    let Some(user) = url.user.clone() else {
        // RFC 1635.
        return Ok(("anonymous".to_owned(), "anonymous@".to_owned()));
    };
    if let Some(password) = &url.password {
        return Ok((user, password.clone()));
    }
    if let Ok(password) = env::var(VARIABLE) {
        return Ok((user, password));
    }
    let password = asked(&format!("Password of {user} at {}: ", url.host))?;
    Ok((user, password))
}

/// Asks the terminal that the process belongs to, wherever input and output lead.
fn asked(prompt: &str) -> ClientResult<String> {
    let path = "/dev/tty";
    let nobody = |_| ClientError::Other(format!("no terminal to ask for the password: set {VARIABLE}"));
    let mut terminal = fs::OpenOptions::new().read(true).write(true).open(path).map_err(nobody)?;
    terminal.write_all(prompt.as_bytes()).map_err(ClientError::local(path))?;
    let mut line = String::new();
    {
        let _silence = Silence::begin(&terminal).map_err(ClientError::local(path))?;
        BufReader::new(&terminal).read_line(&mut line).map_err(ClientError::local(path))?;
    }
    terminal.write_all(b"\n").map_err(ClientError::local(path))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not echo, until this is dropped.
struct Silence<'a> {
    terminal: &'a fs::File,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn begin(terminal: &'a fs::File) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        tcsetattr(self.terminal, OptionalActions::Now, &self.before).ok();
    }
}
