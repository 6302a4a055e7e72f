//! Names between what the client speaks and UTF-8.
//!
//! | `name_encoding` | comes in | goes out |
//! |---|---|---|
//! | auto | UTF-8, and GBK where it is not UTF-8 | what the client has sent last |
//! | one encoding | that one | that one |
//! | after OPTS UTF8 ON | UTF-8 | UTF-8 |
//!
//! Auto: a name that is no UTF-8 is taken for GBK, as old Windows programs in China send it, and from then
//! on replies and listings are GBK too. Once a client has shown that it speaks GBK, a name that is valid in
//! both readings is UTF-8 only where it holds a sequence of three bytes or more: Chinese in UTF-8 always
//! does, while a short name in GBK (`C2 B7`) may look like a Latin letter.
//!
//! A character that the encoding lacks goes out as `&#N;`, its number in decimal, and is understood when it
//! comes back so: what is listed can be fetched. GBK lacks none, as its superset GB18030 is written instead.

use std::borrow::Cow;

use encoding_rs::{Encoding, GB18030, GBK, UTF_8};

use crate::config::NameEncoding;

/// What the client of one session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Names {
    configured: NameEncoding,
    now: &'static Encoding,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(NameEncoding::Auto)
    }
}

impl Names {
    pub(super) fn new(configured: NameEncoding) -> Self {
        let now = match configured {
            NameEncoding::Auto => UTF_8,
            NameEncoding::Of(encoding) => encoding,
        };
        Self { configured, now }
    }

    /// Into UTF-8; `None` where it is not in what the client speaks.
    pub(super) fn decode<'a>(&mut self, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
        let utf8 = std::str::from_utf8(bytes).ok();
        match self.configured {
            NameEncoding::Auto => self.guess(bytes, utf8),
            NameEncoding::Of(_) if self.now == UTF_8 => utf8.map(Cow::Borrowed),
            NameEncoding::Of(_) => {
                let text = self.now.decode_without_bom_handling_and_without_replacement(bytes)?;
                Some(revived(text, self.now))
            }
        }
    }

    fn guess<'a>(&mut self, bytes: &'a [u8], utf8: Option<&'a str>) -> Option<Cow<'a, str>> {
        if bytes.is_ascii() {
            return utf8.map(Cow::Borrowed);
        }
        if let Some(text) = utf8
            && (self.now == UTF_8 || text.chars().any(|letter| letter.len_utf8() > 2))
        {
            return Some(Cow::Borrowed(text));
        }
        match GBK.decode_without_bom_handling_and_without_replacement(bytes) {
            Some(text) => {
                self.now = GBK;
                Some(text)
            }
            None => utf8.map(Cow::Borrowed),
        }
    }

    /// Into what the client speaks.
    pub(super) fn encode<'a>(self, text: &'a str) -> Cow<'a, [u8]> {
        if self.now == UTF_8 { Cow::Borrowed(text.as_bytes()) } else { writer(self.now).encode(text).0 }
    }

    /// OPTS UTF8. False where there is nothing else to choose.
    pub(super) fn choose_utf8(&mut self, on: bool) -> bool {
        self.now = match self.configured {
            _ if on => UTF_8,
            NameEncoding::Auto => GBK,
            NameEncoding::Of(encoding) => encoding,
        };
        (self.now == UTF_8) == on
    }

    /// As STAT shows it.
    pub(super) fn label(self) -> &'static str {
        self.now.name()
    }
}

fn writer(encoding: &'static Encoding) -> &'static Encoding {
    if encoding == GBK { GB18030 } else { encoding }
}

/// `&#N;` back into its character, where the encoding has no other way to say it.
fn revived<'a>(text: Cow<'a, str>, encoding: &'static Encoding) -> Cow<'a, str> {
    if !text.contains("&#") {
        return text;
    }
    let mut revived = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find("&#") {
        let (before, reference) = rest.split_at(at);
        revived.push_str(before);
        match character(&reference[2..], encoding) {
            Some((letter, behind)) => {
                revived.push(letter);
                rest = behind;
            }
            None => {
                revived.push_str("&#");
                rest = &reference[2..];
            }
        }
    }
    revived.push_str(rest);
    Cow::Owned(revived)
}

/// `N;` at the start of `text`, and what is behind it.
fn character<'a>(text: &'a str, encoding: &'static Encoding) -> Option<(char, &'a str)> {
    let (digits, behind) = text.split_once(';')?;
    let is_number = (1..=7).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let letter = digits.parse().ok().filter(|_| is_number).and_then(char::from_u32)?;
    let (_, _, is_lacking) = writer(encoding).encode(letter.encode_utf8(&mut [0; 4]));
    is_lacking.then_some((letter, behind))
}

#[cfg(test)]
mod tests {
    use encoding_rs::{BIG5, EUC_KR, SHIFT_JIS, WINDOWS_1251, WINDOWS_1252};

    use super::*;

    #[test]
    fn gbk_names_arrive_as_utf8_and_go_back_as_gbk() {
        let mut names = Names::default();
        let sent = GBK.encode("报表.txt").0.into_owned();
        assert_eq!(names.decode(&sent).as_deref(), Some("报表.txt"));
        assert_eq!(names.encode("报表.txt").as_ref(), &sent[..]);
        // "路" in GBK is C2 B7, which is also a valid UTF-8 middle dot.
        assert_eq!(names.decode(b"\xc2\xb7").as_deref(), Some("路"));
        assert_eq!(names.decode("测试".as_bytes()).as_deref(), Some("测试"));
        assert!(names.choose_utf8(true));
        assert_eq!(names.decode(b"\xc2\xb7").as_deref(), Some("·"));
    }

    #[test]
    fn utf8_stays_utf8_and_rubbish_is_refused() {
        let mut names = Names::default();
        assert_eq!(names.decode("naïve 测试 🎉".as_bytes()).as_deref(), Some("naïve 测试 🎉"));
        assert_eq!(names, Names::default());
        assert_eq!(names.decode(b"a\xff"), None);
        assert_eq!(names, Names::default());
    }

    #[test]
    fn a_configured_encoding_holds_until_opts_utf8() {
        for (encoding, text) in [
            (BIG5, "報表.txt"),
            (EUC_KR, "보고서.txt"),
            (SHIFT_JIS, "レポート表.txt"),
            (WINDOWS_1251, "отчёт.txt"),
            (WINDOWS_1252, "Übersicht – é.txt"),
            (GBK, "报表 🎉.txt"),
        ] {
            let mut names = Names::new(NameEncoding::Of(encoding));
            let sent = writer(encoding).encode(text).0.into_owned();
            assert_eq!(names.decode(&sent).as_deref(), Some(text), "{}", encoding.name());
            assert_eq!(names.encode(text).as_ref(), &sent[..]);
            assert!(names.choose_utf8(true));
            assert_eq!(names.decode(text.as_bytes()).as_deref(), Some(text));
            assert_eq!(names.encode(text).as_ref(), text.as_bytes());
            assert_eq!(names.decode(b"\xff"), None);
            assert!(names.choose_utf8(false));
            assert_eq!(names.encode(text).as_ref(), &sent[..]);
        }
        let mut names = Names::new(NameEncoding::Of(UTF_8));
        assert_eq!(names.decode(&GBK.encode("报表").0), None);
        assert!(!names.choose_utf8(false));
        assert!(Names::new(NameEncoding::Of(BIG5)).decode(b"\xff\xff").is_none());
    }

    #[test]
    fn what_an_encoding_lacks_is_listed_by_number_and_understood_again() {
        let mut names = Names::new(NameEncoding::Of(WINDOWS_1252));
        let listed = names.encode("a 深🎉.txt").into_owned();
        assert_eq!(listed, b"a &#28145;&#127881;.txt");
        assert_eq!(names.decode(&listed).as_deref(), Some("a 深🎉.txt"));
        // What can be written otherwise is no reference, so no line end or slash comes about.
        for name in
            ["a&#10;b", "&#47;etc", "&#65;", "&#", "&#x41;", "&#;", "&#99999999;", "&#55296;", "&#28145"]
        {
            assert_eq!(names.decode(name.as_bytes()).as_deref(), Some(name));
        }
    }

    proptest::proptest! {
        #[test]
        fn every_name_survives_the_way_to_a_gbk_client_and_back(name in "[\u{4e00}-\u{9fa5}a-z.]{1,12}🎉?") {
            let mut names = Names { now: GBK, ..Names::default() };
            let sent = names.encode(&name).into_owned();
            // What reads as Chinese in UTF-8 as well is taken for UTF-8: the one ambiguity left.
            if std::str::from_utf8(&sent).is_err() {
                let back = names.decode(&sent).map(Cow::into_owned);
                proptest::prop_assert_eq!(back, Some(name));
            }
        }

        #[test]
        fn no_encoding_lets_a_line_end_or_another_slash_in(bytes: Vec<u8>) {
            for encoding in [BIG5, EUC_KR, SHIFT_JIS, GBK, WINDOWS_1251] {
                let Some(text) = Names::new(NameEncoding::Of(encoding)).decode(&bytes).map(Cow::into_owned) else { continue };
                let count = |wanted: u8| bytes.iter().filter(|byte| **byte == wanted).count();
                for letter in ['\r', '\n', '\0', '/'] {
                    proptest::prop_assert!(text.matches(letter).count() <= count(letter as u8));
                }
            }
        }
    }
}
