//! What is written: sections, keys, values. The only file that knows the syntax.
//!
//! INI as the replaced tool read it. A comment opens at the start of a line, or behind white space as `#`;
//! `;` opens one only at the start of a line, because it separates logins. No quotes, no escapes, no
//! values over several lines; a section or key that stands there twice is refused, as is any line that is
//! neither a section nor a key. All problems are found, not just the first.
//!
//! rust-ini takes the lines apart, but each raw line is prepared for it: it knows no inline comments that
//! leave `;` alone, forgets duplicates and indented lines without `=`, and stops at its first error.
//! Comments may be in any encoding (GBK, EUC-KR: no byte of a character there looks like `#`, `;` or a blank).

use std::collections::HashMap;

use ini::{Ini, ParseOption};

use super::Problem;

/// A file as written.
#[derive(Debug, Default)]
pub(super) struct FileConfig {
    pub(super) sections: Vec<Section>,
}

/// One `[name]` and its keys.
#[derive(Debug)]
pub(super) struct Section {
    /// As written.
    pub(super) name: String,
    pub(super) entries: Vec<Entry>,
}

/// One `key = value`.
#[derive(Debug)]
pub(super) struct Entry {
    /// In lower case.
    pub(super) key: String,
    /// Without comment and outer white space.
    pub(super) value: String,
}

impl FileConfig {
    /// Reads `bytes`; what cannot be read is added to `problems` and left out.
    pub(super) fn parse(bytes: &[u8], problems: &mut Vec<Problem>) -> Self {
        let mut lines = Lines::default();
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        for (index, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if let Err(why) = lines.take(without_comment(raw), index + 1) {
                problems.push(why);
            }
        }
        lines.parse(problems)
    }
}

/// What of a raw line is not comment, without outer white space.
fn without_comment(raw: &[u8]) -> &[u8] {
    let line = raw.trim_ascii();
    if line.starts_with(b"#") || line.starts_with(b";") {
        return b"";
    }
    let opens = line.windows(2).position(|pair| pair[0].is_ascii_whitespace() && pair[1] == b'#');
    opens.map_or(line, |at| line[..at].trim_ascii_end())
}

/// Lines that rust-ini reads rightly, gathered one by one.
#[derive(Default)]
struct Lines {
    clean: String,
    /// Line number of each section, by its name in lower case.
    sections: HashMap<String, usize>,
    /// Name of the section that is open.
    section: Option<String>,
    /// A section that was refused, whose keys are passed over in silence: it was reported itself.
    skip: bool,
    /// Line number of each key of the open section.
    keys: HashMap<String, usize>,
}

impl Lines {
    fn take(&mut self, line: &[u8], number: usize) -> Result<(), Problem> {
        if line.is_empty() {
            return Ok(());
        }
        let Ok(line) = std::str::from_utf8(line) else {
            return Err(self.problem(format!(
                "line {number} is not UTF-8 (comments may be in any encoding, values not)"
            )));
        };
        if line.contains(|piece: char| piece.is_control() && piece != '\t') {
            return Err(self.problem(format!("line {number} holds a control character")));
        }
        if line.starts_with('[') { self.take_section(line, number) } else { self.take_key(line, number) }
    }

    fn take_section(&mut self, line: &str, number: usize) -> Result<(), Problem> {
        self.skip = true;
        let name = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::trim);
        let Some(name) = name.filter(|name| !name.is_empty() && !name.contains(['[', ']'])) else {
            return Err(Problem::file(format!("line {number} is not a section, allowed is [NAME]")));
        };
        if let Some(first) = self.sections.insert(name.to_ascii_lowercase(), number) {
            return Err(Problem::section(
                name,
                format!("stands in line {first} and again in line {number}, allowed is once"),
            ));
        }
        self.skip = false;
        self.section = Some(name.to_owned());
        self.keys.clear();
        // With \r: behind a backslash rust-ini takes a bare line feed for a continuation.
        self.clean.push_str(&format!("[{name}]\r\n"));
        Ok(())
    }

    fn take_key(&mut self, line: &str, number: usize) -> Result<(), Problem> {
        if self.skip {
            return Ok(());
        }
        let Some((key, value)) = line.split_once(['=', ':']) else {
            return Err(self.problem(format!(
                "line {number} is neither a section nor a key, allowed are [NAME] and key = value"
            )));
        };
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(
                self.problem(format!("line {number} has a value without a key, allowed is key = value"))
            );
        }
        let Some(section) = self.section.as_deref() else {
            return Err(Problem::file(format!(
                "line {number}: `{key}` stands above the first section, allowed is below one"
            )));
        };
        if let Some(first) = self.keys.insert(key.to_ascii_lowercase(), number) {
            let why = format!("stands in line {first} and again in line {number}, allowed is once");
            return Err(Problem::key(section, key, why));
        }
        self.clean.push_str(&format!("{key}={value}\r\n"));
        Ok(())
    }

    fn problem(&self, why: String) -> Problem {
        match &self.section {
            Some(section) => Problem::section(section, why),
            None => Problem::file(why),
        }
    }

    fn parse(self, problems: &mut Vec<Problem>) -> FileConfig {
        let options = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
        let ini = match Ini::load_from_str_opt(&self.clean, options) {
            Ok(ini) => ini,
            Err(error) => {
                problems.push(Problem::file(format!("cannot be read: {}", error.msg)));
                return FileConfig::default();
            }
        };
        let mut sections = Vec::new();
        for (name, properties) in &ini {
            // rust-ini always has a nameless section, for keys above the first: those were refused.
            let Some(name) = name else { continue };
            let entries = properties
                .iter()
                .map(|(key, value)| Entry { key: key.to_ascii_lowercase(), value: value.to_owned() })
                .collect();
            sections.push(Section { name: name.to_owned(), entries });
        }
        FileConfig { sections }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> (Vec<(String, String, String)>, Vec<String>) {
        let mut problems = Vec::new();
        let file = FileConfig::parse(text.as_ref(), &mut problems);
        let mut entries = Vec::new();
        for section in file.sections {
            for entry in section.entries {
                entries.push((section.name.clone(), entry.key, entry.value));
            }
        }
        (entries, problems.iter().map(ToString::to_string).collect())
    }

    /// The one value of a file without problems.
    fn value(line: impl AsRef<[u8]>) -> String {
        let (entries, problems) = read([b"[S]\n", line.as_ref(), b"\nlast = 1"].concat());
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(entries.len(), 2, "{entries:?}");
        assert_eq!(entries[1].2, "1");
        entries[0].2.clone()
    }

    #[test]
    fn a_comment_opens_behind_white_space_or_at_the_start_of_a_line() {
        assert_eq!(value("k = v # c"), "v");
        assert_eq!(value("k=v\t\t\t# c"), "v");
        assert_eq!(value("k=v\t#c # d"), "v");
        assert_eq!(value("# c\n  # c\n\t; c\n;c\nk=v"), "v");
        assert_eq!(value("k = # c"), "");
    }

    #[test]
    fn a_hash_or_semicolon_inside_a_value_stays() {
        assert_eq!(value("k = pa#ss"), "pa#ss");
        assert_eq!(value("k = a:b:RW;c:d:R"), "a:b:RW;c:d:R");
        assert_eq!(value("k = a:b:RW ;c:d:R"), "a:b:RW ;c:d:R");
        assert_eq!(value("k = ;a"), ";a");
        assert_eq!(value("k =#a"), "#a");
    }

    #[test]
    fn backslashes_and_quotes_mean_nothing() {
        assert_eq!(value(r"k = C:\new"), r"C:\new");
        assert_eq!(value(r"k = ends\"), r"ends\");
        assert_eq!(value(r"k = ends\\"), r"ends\\");
        assert_eq!(value(r#"k = "quoted""#), r#""quoted""#);
        assert_eq!(value("k = it's"), "it's");
        assert_eq!(value("k = a=b:c"), "a=b:c");
        assert_eq!(value("k = [x]"), "[x]");
        assert_eq!(value("k = trailing \\ # c"), "trailing \\");
    }

    #[test]
    fn windows_files_are_read() {
        let (entries, problems) = read("\u{FEFF}[S]\r\nk = v\r\n\r\nl = w # c\r\n");
        assert_eq!((entries.len(), problems.len()), (2, 0));
        assert_eq!(entries[1].2, "w");
    }

    #[test]
    fn comments_may_be_in_any_encoding_but_values_not() {
        // "comment" in GBK and in EUC-KR.
        assert_eq!(value(b"k = v # \xD7\xA2\xCA\xCD"), "v");
        assert_eq!(value(b"# \xC1\xD6\xBC\xAE\nk = v"), "v");
        assert_eq!(value("k = 密码"), "密码");
        let (_, problems) = read(b"[S]\nk = \xD6\xD0");
        assert_eq!(problems, ["[S]: line 2 is not UTF-8 (comments may be in any encoding, values not)"]);
    }

    #[test]
    fn names_of_keys_ignore_case_and_blanks() {
        let (entries, _) = read("[ Net Work ]\n  Listen_Port=1\n");
        assert_eq!(entries, [("Net Work".to_owned(), "listen_port".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn every_problem_of_a_file_is_found() {
        let (entries, problems) =
            read("a = 1\n[S]\nb\n  indented\n=x\nc = 1\nC = 2\n[s]\nd = 1\n[T\n[T]\ne = 1");
        assert_eq!(
            problems,
            [
                "line 1: `a` stands above the first section, allowed is below one",
                "[S]: line 3 is neither a section nor a key, allowed are [NAME] and key = value",
                "[S]: line 4 is neither a section nor a key, allowed are [NAME] and key = value",
                "[S]: line 5 has a value without a key, allowed is key = value",
                "[S] C: stands in line 6 and again in line 7, allowed is once",
                "[s]: stands in line 2 and again in line 8, allowed is once",
                "line 10 is not a section, allowed is [NAME]",
            ]
        );
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn no_line_is_lost_or_changed_on_its_way_through_rust_ini() {
        proptest::proptest!(|(value in r#"[ -~\u{a1}-\u{ff}一-十]{1,40}"#)| {
            let line = format!("k ={value}");
            let expected = std::str::from_utf8(without_comment(line.as_bytes())).unwrap();
            let expected = expected.split_once('=').unwrap().1.trim();
            let (entries, problems) = read(format!("[S]\n{line}\nlast = 1"));
            proptest::prop_assert_eq!(problems.len(), 0);
            proptest::prop_assert_eq!(&entries[0].2, expected);
            proptest::prop_assert_eq!(&entries[1].2, "1");
        });
    }
}
