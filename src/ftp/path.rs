//! Paths as the client sees them: absolute from its home, without `.`, `..` and empty pieces.

use std::fmt;

/// A path below the home, which itself is `/`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ClientPath(Box<str>);

impl ClientPath {
    /// The home itself.
    pub(super) fn home() -> Self {
        Self("/".into())
    }

    /// `argument` seen from here. `..` stops at the home.
    pub(super) fn join(&self, argument: &str) -> Self {
        let mut pieces: Vec<&str> = Vec::new();
        let start = if argument.starts_with('/') { "" } else { &*self.0 };
        for piece in start.split('/').chain(argument.split('/')) {
            match piece {
                "" | "." => {}
                ".." => {
                    pieces.pop();
                }
                name => pieces.push(name),
            }
        }
        Self(format!("/{}", pieces.join("/")).into())
    }

    #[cfg(test)]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_home(&self) -> bool {
        &*self.0 == "/"
    }

    /// Relative to the root descriptor; `.` for the home.
    pub(super) fn relative(&self) -> &str {
        if self.is_home() { "." } else { &self.0[1..] }
    }

    /// The last piece; empty for the home.
    pub(super) fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    pub(super) fn parent(&self) -> Self {
        self.join("..")
    }

    /// In quotes, quotes in it doubled (RFC 959 appendix II).
    pub(super) fn quoted(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }
}

impl fmt::Display for ClientPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_climbs_above_home() {
        let deep = ClientPath::home().join("a/b");
        assert_eq!(deep.as_str(), "/a/b");
        assert_eq!(deep.join("../../../../etc/passwd").as_str(), "/etc/passwd");
        assert_eq!(deep.join("/../x").as_str(), "/x");
        assert_eq!(deep.join("").as_str(), "/a/b");
        assert_eq!(deep.join("..").as_str(), "/a");
        assert_eq!(deep.join("c/./d/").as_str(), "/a/b/c/d");
        assert_eq!((deep.file_name(), deep.parent().as_str()), ("b", "/a"));
        assert_eq!(ClientPath::home().relative(), ".");
        assert_eq!(deep.relative(), "a/b");
    }

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(ClientPath::home().join("say \"hi\"").quoted(), "\"/say \"\"hi\"\"\"");
    }
}
