//! `cosgate passwd`: a password in, its hash out.
//!
//! At a terminal it is asked for twice, without echo; from a pipe one line is taken. The hash alone goes to
//! standard output.

use std::{
    fs::File,
    io::{self, BufReader, IsTerminal as _, Read as _, Write as _},
    os::fd::AsFd,
};

use anyhow::{Context as _, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::config::PasswordHash;

/// A command line of the FTP front holds no longer one.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// Reads a password and prints its hash.
///
/// # Errors
/// Where none is given, both differ, or it can be no password of an FTP login.
pub fn run() -> anyhow::Result<()> {
    let password = if io::stdin().is_terminal() { ask()? } else { line_of(io::stdin().lock())? };
    check(&password)?;
    let hash =
        PasswordHash::make(&password).map_err(|why| anyhow::anyhow!("no hash could be made: {why}"))?;
    let mut output = io::stdout().lock();
    writeln!(output, "{hash}").and_then(|()| output.flush()).context("standard output")
}

/// Asks twice.
fn ask() -> anyhow::Result<String> {
    // Standard output may lead to a file; what is asked shall be seen.
    let terminal =
        File::options().read(true).write(true).open("/dev/tty").context("cannot open the terminal")?;
    let _silence = Silence::on(&terminal)?;
    let mut reader = BufReader::new(&terminal);
    let mut ask = |prompt: &str| {
        (&terminal).write_all(prompt.as_bytes())?;
        let line = line_of(&mut reader);
        (&terminal).write_all(b"\n")?;
        line
    };
    let first = ask("Password: ")?;
    check(&first)?;
    let second = ask("Again: ")?;
    ensure!(first == second, "the passwords differ");
    Ok(first)
}

/// One line, without its end.
fn line_of(reader: impl io::BufRead) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    for byte in reader.take(PASSWORD_BYTES_MAX + 2).bytes() {
        let byte = byte.context("cannot read the password")?;
        // A silent terminal hands the line over right behind Ctrl-C, without waiting for more.
        ensure!(byte != INTERRUPT, "interrupted");
        bytes.push(byte);
        if byte == b'\n' {
            break;
        }
    }
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec()).context("the password is not UTF-8")
}

/// What no client could send is no password.
fn check(password: &str) -> anyhow::Result<()> {
    if password.is_empty() {
        bail!("no password was given");
    }
    ensure!(password.len() as u64 <= PASSWORD_BYTES_MAX, "longer than {PASSWORD_BYTES_MAX} bytes");
    ensure!(!password.contains(char::is_control), "control characters cannot be sent by FTP clients");
    Ok(())
}

/// Ctrl-C.
const INTERRUPT: u8 = 3;

/// A terminal without echo, until it is dropped.
struct Silence<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn on(terminal: &'a File) -> anyhow::Result<Self> {
        let before = tcgetattr(terminal.as_fd()).context("cannot read the terminal's modes")?;
        let mut silent = before.clone();
        // A signal would end the program with the terminal left silent. So Ctrl-C ends the line instead, and
        // the line says so.
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(terminal.as_fd(), OptionalActions::Flush, &silent)
            .context("cannot silence the terminal")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // Nothing can be done about it, and `reset` helps.
        tcsetattr(self.terminal.as_fd(), OptionalActions::Flush, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_first_end() {
        let line = |text: &str| line_of(text.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(line("pass word\nmore\n").as_deref(), Ok("pass word"));
        assert_eq!(line(" pass \r\n").as_deref(), Ok(" pass "));
        assert_eq!(line("no end").as_deref(), Ok("no end"));
        assert_eq!(line("half\u{3}").unwrap_err(), "interrupted");
        line_of(b"\xff\n".as_slice()).unwrap_err();
    }

    #[test]
    fn what_no_client_can_send_is_no_password() {
        check("pass word").unwrap();
        check(&"x".repeat(4096)).unwrap();
        for password in ["", "a\tb", "a\0", &"x".repeat(4097)] {
            check(password).unwrap_err();
        }
    }
}
