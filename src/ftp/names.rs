//! Names between what the client speaks and UTF-8.
//!
//! A name that is no UTF-8 is taken for GBK, as old Windows programs in China send it, and from then on
//! replies and listings are GBK too. Once a client has shown that it speaks GBK, a name that is valid in
//! both readings is UTF-8 only where it holds a sequence of three bytes or more: Chinese in UTF-8 always
//! does, while a short name in GBK (`C2 B7`) may look like a Latin letter.

use std::borrow::Cow;

use encoding_rs::{GB18030, GBK};

/// What the client of one session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Names {
    gbk: bool,
}

impl Names {
    /// Into UTF-8; `None` where it is neither UTF-8 nor GBK.
    pub(super) fn decode<'a>(&mut self, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
        let utf8 = std::str::from_utf8(bytes).ok();
        if bytes.is_ascii() {
            return utf8.map(Cow::Borrowed);
        }
        if let Some(text) = utf8
            && (!self.gbk || text.chars().any(|letter| letter.len_utf8() > 2))
        {
            return Some(Cow::Borrowed(text));
        }
        match GBK.decode_without_bom_handling_and_without_replacement(bytes) {
            Some(text) => {
                self.gbk = true;
                Some(text)
            }
            None => utf8.map(Cow::Borrowed),
        }
    }

    /// Into what the client speaks. GB18030, the superset of GBK, has a form for every character.
    pub(super) fn encode<'a>(self, text: &'a str) -> Cow<'a, [u8]> {
        if self.gbk { GB18030.encode(text).0 } else { Cow::Borrowed(text.as_bytes()) }
    }

    /// OPTS UTF8.
    pub(super) fn choose_utf8(&mut self, on: bool) {
        self.gbk = !on;
    }

    /// As STAT shows it.
    pub(super) fn label(self) -> &'static str {
        if self.gbk { "GBK" } else { "UTF-8" }
    }
}

#[cfg(test)]
mod tests {
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
        names.choose_utf8(true);
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

    proptest::proptest! {
        #[test]
        fn every_name_survives_the_way_to_a_gbk_client_and_back(name in "[\u{4e00}-\u{9fa5}a-z.]{1,12}🎉?") {
            let mut names = Names { gbk: true };
            let sent = names.encode(&name).into_owned();
            // What reads as Chinese in UTF-8 as well is taken for UTF-8: the one ambiguity left.
            if std::str::from_utf8(&sent).is_err() {
                let back = names.decode(&sent).map(Cow::into_owned);
                proptest::prop_assert_eq!(back, Some(name));
            }
        }
    }
}
