//! What a client chooses for its session: OPTS (RFC 2389 section 4), TYPE, MODE, LANG.

use super::{
    checksum::Algorithm,
    command::{Misheard, number},
    conversion::Conversion,
    deflate::{LEVEL_USUAL, LEVELS},
    desk::FrontDesk,
    listing::FactSet,
    reply::Reply,
};

/// What OPTS sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Utf8 {
        on: bool,
    },
    Mlst(String),
    /// `None`: which one is it?
    Hash(Option<Algorithm>),
    DeflateLevel(u32),
}

/// How bytes travel (RFC 959 section 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    #[default]
    Stream,
    /// Z of draft-preston-ftpext-deflate.
    Deflate,
}

/// Whether a client, by what it says in CLNT, must not use mode Z. lftp (4.9.2) reads ahead, and once a reply has
/// sent it back to the start of a small file it ends the stream in order, with a right checksum, where its first buffer ends,
/// and takes the 226 for the whole file.
pub(super) fn loses_in_deflate(client: &str) -> bool {
    client.get(..4).is_some_and(|name| name.eq_ignore_ascii_case("lftp"))
}

/// Takes the argument of OPTS apart.
///
/// # Errors
/// 501, and 504 for an algorithm or level that there is not.
pub(super) fn parse(argument: &str) -> Result<Choice, Misheard> {
    let (name, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let rest = rest.trim();
    match name.to_ascii_uppercase().as_str() {
        "UTF8" | "UTF-8" => match rest.to_ascii_uppercase().as_str() {
            "" | "ON" | "NLST" => Ok(Choice::Utf8 { on: true }),
            "OFF" => Ok(Choice::Utf8 { on: false }),
            _ => Err(Misheard::Syntax("OPTS UTF8 takes ON or OFF")),
        },
        "MLST" => Ok(Choice::Mlst(rest.to_owned())),
        "HASH" if rest.is_empty() => Ok(Choice::Hash(None)),
        "HASH" => match Algorithm::find(rest) {
            Some(algorithm) => Ok(Choice::Hash(Some(algorithm))),
            None => Err(Misheard::Parameter("no such algorithm: FEAT tells which there are")),
        },
        "MODE" => mode_options(rest),
        _ => Err(Misheard::Syntax("there are options for UTF8, MLST, HASH and MODE Z")),
    }
}

/// `Z [ENGINE ZLIB] [METHOD 8] [LEVEL n]`: there is one engine and one method.
fn mode_options(rest: &str) -> Result<Choice, Misheard> {
    let upper = rest.to_ascii_uppercase();
    let mut words = upper.split_whitespace();
    if words.next() != Some("Z") {
        return Err(Misheard::Syntax("only MODE Z has options"));
    }
    let mut level = LEVEL_USUAL;
    loop {
        match (words.next(), words.next()) {
            (None, _) => return Ok(Choice::DeflateLevel(level)),
            (Some("ENGINE"), Some("ZLIB")) | (Some("METHOD"), Some("8")) => {}
            (Some("LEVEL"), Some(text)) => {
                let chosen = number(text).and_then(|level| u32::try_from(level).ok());
                level = chosen
                    .filter(|level| LEVELS.contains(level))
                    .ok_or(Misheard::Parameter("LEVEL is a number from 0 to 9"))?;
            }
            _ => return Err(Misheard::Syntax("OPTS MODE Z takes LEVEL and a number from 0 to 9")),
        }
    }
}

impl FrontDesk {
    pub(super) fn choose(&mut self, choice: Choice) -> Reply {
        match choice {
            Choice::Utf8 { on } => {
                if self.names.choose_utf8(on) {
                    Reply::new(200, format!("Names are {}", self.names.label()))
                } else {
                    Reply::new(504, "Names are UTF-8 here (name_encoding)")
                }
            }
            Choice::Mlst(facts) => {
                self.facts = FactSet::choose(&facts);
                Reply::new(200, format!("MLST OPTS {}", self.facts.describe(false)))
            }
            Choice::Hash(algorithm) => {
                self.algorithm = algorithm.unwrap_or(self.algorithm);
                Reply::new(200, self.algorithm.name())
            }
            Choice::DeflateLevel(level) => {
                self.deflate_level = level;
                Reply::new(200, format!("MODE Z LEVEL is {level}"))
            }
        }
    }

    pub(super) fn choose_mode(&mut self, mode: Mode) -> Reply {
        if mode == Mode::Deflate && self.loses_in_deflate {
            return Reply::new(504, "This client loses the end of files in MODE Z, say MODE S");
        }
        self.mode = mode;
        match mode {
            Mode::Stream => Reply::new(200, "Mode is S, stream"),
            Mode::Deflate => Reply::new(200, "Mode is Z, deflate"),
        }
    }

    /// What happens to an upload on its way.
    ///
    /// # Errors
    /// 450 where mode Z is too much in demand.
    pub(super) fn intake(&self) -> Result<Option<Conversion>, Reply> {
        let place = self.place_for_deflate()?;
        let conversion = Conversion::upload(self.is_ascii, place.is_some());
        Ok(conversion.map(|conversion| conversion.holding(place)))
    }

    /// What happens to a download, or to a listing, whose lines end in CRLF already.
    ///
    /// # Errors
    /// As [`Self::intake`].
    pub(super) fn outlet(&self, is_listing: bool) -> Result<Option<Conversion>, Reply> {
        let place = self.place_for_deflate()?;
        let level = place.is_some().then_some(self.deflate_level);
        let conversion = Conversion::download(self.is_ascii && !is_listing, level);
        Ok(conversion.map(|conversion| conversion.holding(place)))
    }

    fn place_for_deflate(&self) -> Result<Option<tokio::sync::OwnedSemaphorePermit>, Reply> {
        match self.mode {
            Mode::Stream => Ok(None),
            Mode::Deflate => match self.front.means.deflates.clone().try_acquire_owned() {
                Ok(place) => Ok(Some(place)),
                Err(_) => Err(Reply::new(450, "Too many transfers in MODE Z, say MODE S or try again later")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_what_is_wrong_has_the_reply_that_fits() {
        assert_eq!(parse("utf8 on"), Ok(Choice::Utf8 { on: true }));
        assert_eq!(parse("UTF8"), Ok(Choice::Utf8 { on: true }));
        assert_eq!(parse("UTF8 OFF"), Ok(Choice::Utf8 { on: false }));
        assert_eq!(parse("HASH"), Ok(Choice::Hash(None)));
        assert_eq!(parse("hash sha-1"), Ok(Choice::Hash(Some(Algorithm::Sha1))));
        assert_eq!(parse("MODE Z LEVEL 9"), Ok(Choice::DeflateLevel(9)));
        assert_eq!(parse("MODE Z ENGINE ZLIB METHOD 8 LEVEL 1"), Ok(Choice::DeflateLevel(1)));
        assert_eq!(parse("MODE Z"), Ok(Choice::DeflateLevel(LEVEL_USUAL)));
        assert_eq!(parse("MLST size;"), Ok(Choice::Mlst("size;".to_owned())));
        for argument in ["", "FROB", "UTF8 MAYBE", "MODE", "MODE S", "MODE Z LEVEL", "MODE Z FROB 1"] {
            assert!(matches!(parse(argument), Err(Misheard::Syntax(_))), "{argument}");
        }
        for argument in ["HASH FROB", "MODE Z LEVEL 10", "MODE Z LEVEL x", "MODE Z LEVEL -1"] {
            assert!(matches!(parse(argument), Err(Misheard::Parameter(_))), "{argument}");
        }
    }
}
