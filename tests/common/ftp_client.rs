//! An FTP client over bare sockets, that says lines and hears replies.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use super::gateway::Gateway;

/// A client that says lines and hears replies.
#[derive(Debug)]
pub struct FtpClient {
    control: BufReader<TcpStream>,
}

impl FtpClient {
    pub fn connect(gateway: &mut Gateway) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", gateway.ftp_port())).expect("the front listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time above zero");
        stream.set_nodelay(true).expect("a socket");
        let mut client = Self { control: BufReader::new(stream) };
        assert_eq!(client.hear().0, 220);
        client
    }

    pub fn log_in(gateway: &mut Gateway, user: &str) -> Self {
        let mut client = Self::connect(gateway);
        client.ask(format!("USER {user}"), 331);
        client.ask(format!("PASS {user}-password"), 230);
        client
    }

    /// Code and text of the next reply; code 0 at the end of the connection.
    pub fn hear(&mut self) -> (u16, String) {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            if self.control.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return (0, text);
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            text.push_str(&line);
            if line.as_bytes().get(3) == Some(&b' ')
                && let Ok(code) = line[..3].parse()
            {
                return (code, text);
            }
        }
    }

    pub fn say(&mut self, line: impl AsRef<[u8]>) {
        self.control.get_mut().write_all(&[line.as_ref(), b"\r\n"].concat()).expect("the front hears");
    }

    pub fn ask(&mut self, line: impl AsRef<[u8]>, code: u16) -> String {
        self.say(line.as_ref());
        let (said, text) = self.hear();
        assert_eq!(said, code, "{}: {text}", String::from_utf8_lossy(line.as_ref()));
        text
    }

    pub fn passive(&mut self) -> TcpStream {
        let reply = self.ask("EPSV", 229);
        let port = reply.split("|||").nth(1).and_then(|rest| rest.split('|').next());
        let port: u16 = port.and_then(|port| port.parse().ok()).expect("a port");
        TcpStream::connect(("127.0.0.1", port)).expect("it is open")
    }

    /// The final reply to an upload.
    pub fn store(&mut self, line: impl AsRef<[u8]>, content: &[u8]) -> (u16, String) {
        let mut data = self.passive();
        self.say(line);
        let (code, text) = self.hear();
        if code != 150 {
            return (code, text);
        }
        // The server may close before it has everything.
        data.write_all(content).ok();
        drop(data);
        self.hear()
    }

    pub fn fetch(&mut self, line: impl AsRef<[u8]>) -> Vec<u8> {
        self.try_fetch(line).expect("the server begins")
    }

    /// `None` where the server does not begin.
    pub fn try_fetch(&mut self, line: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let mut data = self.passive();
        self.say(line);
        if self.hear().0 != 150 {
            return None;
        }
        let mut content = Vec::new();
        data.read_to_end(&mut content).expect("all of it comes");
        assert_eq!(self.hear().0, 226);
        Some(content)
    }

    pub fn names(&mut self) -> Vec<String> {
        let mut names: Vec<String> =
            String::from_utf8_lossy(&self.fetch("NLST")).lines().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }
}
