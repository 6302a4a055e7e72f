//! Sections under examination: values are asked for by key, problems and warnings are gathered.
//!
//! What concerns every key alike is decided here: unknown keys, keys that stand in two sections, features that
//! are not built, `default`, empty values.

use super::{
    Problem,
    file::{FileConfig, Section},
    keys::{self, KeyDefault, KeyState, SectionKind},
};

/// All sections of a file, and what was found about them so far.
pub(super) struct Sections<'a> {
    file: &'a FileConfig,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

/// Sections that are read as one: an account, or `[FILE_OPTION]` with `[OPTIONAL]`.
#[derive(Clone)]
pub(super) struct Place<'a> {
    pub(super) kind: SectionKind,
    sections: Vec<&'a Section>,
    /// The section that a missing key is told to belong to.
    pub(super) name: String,
}

impl<'a> Sections<'a> {
    /// Begins with the problems that reading the file has shown.
    pub(super) fn new(file: &'a FileConfig, problems: Vec<Problem>) -> Self {
        let mut sections = Self { file, problems, warnings: Vec::new() };
        for section in &file.sections {
            match SectionKind::of(&section.name) {
                Some(kind) => sections.check_keys(kind, section),
                None => {
                    let why = keys::explain_unknown_section(&section.name);
                    sections.problems.push(Problem::section(&section.name, why));
                }
            }
        }
        sections.check_twins();
        sections
    }

    fn check_keys(&mut self, kind: SectionKind, section: &Section) {
        for entry in &section.entries {
            let Some(spec) = keys::find(kind, &entry.key) else {
                let why = keys::explain_unknown(kind, &entry.key);
                self.problems.push(Problem::key(&section.name, &entry.key, why));
                continue;
            };
            let harmless = match spec.state {
                KeyState::Built => continue,
                KeyState::NotBuilt(harmless) => harmless,
            };
            if !is_default(&entry.value)
                && !harmless.iter().any(|word| word.eq_ignore_ascii_case(&entry.value))
            {
                let words: Vec<_> = ["default"].iter().chain(harmless).copied().collect();
                let why = format!("not built yet, allowed: {}", words.join(", "));
                self.problems.push(Problem::key(&section.name, &entry.key, why));
            }
        }
    }

    /// A key that stands in both `[FILE_OPTION]` and `[OPTIONAL]`.
    fn check_twins(&mut self) {
        let place = self.place(SectionKind::Options, "OPTIONAL");
        let [first, second] = place.sections.as_slice() else { return };
        for entry in &second.entries {
            if first.entries.iter().any(|other| other.key == entry.key) {
                let why = format!("stands in [{}] already, allowed is once", first.name);
                self.problems.push(Problem::key(&second.name, &entry.key, why));
            }
        }
    }

    /// All sections of a kind as one; `name` is what a missing one would be called.
    pub(super) fn place(&self, kind: SectionKind, name: &str) -> Place<'a> {
        let sections =
            self.file.sections.iter().filter(|section| SectionKind::of(&section.name) == Some(kind));
        Place { kind, sections: sections.collect(), name: name.to_owned() }
    }

    /// Each section of a kind by itself.
    pub(super) fn places(&self, kind: SectionKind) -> Vec<Place<'a>> {
        let all = self.place(kind, "").sections;
        all.into_iter()
            .map(|section| Place { kind, sections: vec![section], name: section.name.clone() })
            .collect()
    }

    /// What the user has set; `None` where the default is meant.
    pub(super) fn text<'p>(&self, place: &Place<'p>, key: &str) -> Option<&'p str> {
        place.entry(key).map(|(_, value)| value).filter(|value| {
            let default = keys::find(place.kind, key).map(|spec| spec.default);
            match default {
                // There is no default to mean: `default` is a password like any other.
                Some(KeyDefault::Must) | None => true,
                Some(KeyDefault::Value(_)) => !is_default(value),
                // Nothing written is nothing meant where the default is to have nothing.
                Some(KeyDefault::Described(_)) => !is_default(value) && !value.is_empty(),
            }
        })
    }

    /// A value, or `default` where none is set or the one that is set is wrong (a problem then).
    pub(super) fn value<T>(
        &mut self,
        place: &Place<'_>,
        key: &str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.optional(place, key, parse).unwrap_or(default)
    }

    /// A value that may be missing.
    pub(super) fn optional<T>(
        &mut self,
        place: &Place<'_>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        debug_assert!(keys::find(place.kind, key).is_some(), "{key} is not in the table");
        let text = self.text(place, key)?;
        let parsed = if text.is_empty() {
            Err("empty, allowed is a value or default".to_owned())
        } else {
            parse(text)
        };
        match parsed {
            Ok(value) => Some(value),
            Err(why) => {
                self.problem(place, key, why);
                None
            }
        }
    }

    /// A value that must be there.
    pub(super) fn required<T>(
        &mut self,
        place: &Place<'_>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.text(place, key).is_none_or(str::is_empty) {
            self.problem(place, key, "missing, it must be set");
            return None;
        }
        self.optional(place, key, parse)
    }

    /// Notes a problem with a key.
    pub(super) fn problem(&mut self, place: &Place<'_>, key: &str, why: impl Into<String>) {
        let section = place.entry(key).map_or(place.name.as_str(), |(section, _)| section);
        self.problems.push(Problem::key(section, key, why));
    }

    /// Notes a problem with a key of a section that is known by its name alone.
    pub(super) fn problem_at(&mut self, section: &str, key: &str, why: impl Into<String>) {
        self.problems.push(Problem::key(section, key, why));
    }

    /// Notes a problem with a section, or with the file.
    pub(super) fn problem_of(&mut self, section: Option<&str>, why: impl Into<String>) {
        self.problems.push(match section {
            Some(section) => Problem::section(section, why),
            None => Problem::file(why),
        });
    }

    /// Notes what deserves a word about a key.
    pub(super) fn warn(&mut self, place: &Place<'_>, key: &str, why: &str) {
        let section = place.entry(key).map_or(place.name.as_str(), |(section, _)| section);
        self.warnings.push(format!("[{section}] {key}: {why}"));
    }

    /// The warnings, if there was no problem.
    pub(super) fn finish(self) -> Result<Vec<String>, Vec<Problem>> {
        if self.problems.is_empty() { Ok(self.warnings) } else { Err(self.problems) }
    }
}

impl<'a> Place<'a> {
    /// Section and value of a key.
    fn entry(&self, key: &str) -> Option<(&'a str, &'a str)> {
        self.sections.iter().find_map(|section| {
            let entry = section.entries.iter().find(|entry| entry.key == key)?;
            Some((section.name.as_str(), entry.value.as_str()))
        })
    }

    /// Whether the key stands there at all.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }
}

fn is_default(value: &str) -> bool {
    value.eq_ignore_ascii_case("default")
}
