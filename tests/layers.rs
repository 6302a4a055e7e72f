//! The layers hold: a module uses only what lies below it, and a few words stay where they belong.
//!
//! Reads the source text, comments and literals left out, and follows every path that begins at the
//! crate's root.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What the files of a module may name of the rest of the crate.
const MAY_USE: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("ioctl", &[]),
    ("cos", &["config"]),
    ("vfs", &["config", "cos"]),
    ("fuse", &["config", "cos", "vfs", "ioctl"]),
    // No COS, and no file system of ours: the front sees files, as every program does.
    ("ftp", &["config", "ioctl", "telemetry"]),
    ("emulator", &["config", "cos"]),
    // An FTP client like any other: it shares nothing with the server.
    ("client", &[]),
    ("telemetry", &["config"]),
    ("service", &["config", "cos", "vfs", "fuse", "ftp", "ioctl", "emulator", "telemetry"]),
    ("cli", &["client", "config", "service", "emulator", "telemetry"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Words that a module must not know, and why.
const MUST_NOT_NAME: &[(&str, &[&str], &str)] = &[
    ("vfs", &["fuser", "Errno", "errno", "raw_os_error", "libc"], "vfs knows no kernel"),
    ("cos", &["inode", "Inode", "InodeNo", "fuser", "Errno"], "cos knows no inode"),
    ("ftp", &["fuser", "CosError", "ObjectStore"], "ftp knows no COS"),
    ("config", &["ini"], "file.rs alone knows the syntax"),
];

/// Files that may name a word all the same.
const MAY_NAME: &[(&str, &str)] = &[("config/file.rs", "ini")];

const LINES_MAX: usize = 900;

/// One source file.
struct Source {
    /// Below `src`.
    path: String,
    text: String,
    /// Without comments and literals.
    code: String,
}

impl Source {
    /// The module of the first level.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn words(&self) -> BTreeSet<&str> {
        self.code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                sources.push(Source { path, code: code_of(&text), text });
            }
        }
    }
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(sources.len() > 20, "{} files under src", sources.len());
    sources
}

/// `text` without comments and literals.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let literal = literal_length(rest);
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            literal
        };
        if skip > 0 {
            code.push(' ');
            rest = &rest[skip..];
        } else {
            code.push(letter);
            rest = &rest[letter.len_utf8()..];
            // The end of a word is no beginning of a literal: `for"` is nothing, `r"` inside `bar"` is
            // not raw.
            if letter.is_alphanumeric() || letter == '_' {
                let end = rest
                    .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
                    .unwrap_or(rest.len());
                code.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
    }
    code
}

/// Bytes of the string or character that `text` begins with; 0 where it does not.
fn literal_length(text: &str) -> usize {
    let plain = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - plain.len();
    if prefix > 1 {
        return 0;
    }
    if let Some(raw) = plain.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let begin = prefix + 1 + hashes + 1;
            return text[begin..].find(&close).map_or(text.len(), |end| begin + end + close.len());
        }
        return 0;
    }
    let quote = match plain.chars().next() {
        Some('"') => '"',
        // A lifetime has no second quote behind its first letter.
        Some('\'') if plain[1..].starts_with('\\') || plain[1..].chars().nth(1) == Some('\'') => '\'',
        _ => return 0,
    };
    let mut escaped = false;
    for (index, letter) in plain.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return prefix + index + 1,
            _ => {}
        }
    }
    text.len()
}

/// Every path behind `crate::`, groups in braces taken apart.
fn crate_paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
            take_tree(&code[at + found.len()..], &mut Vec::new(), &mut paths);
        }
    }
    paths
}

/// Takes one use tree from the start of `text`, and returns what is behind it.
fn take_tree<'a>(text: &'a str, stem: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            match rest.strip_prefix('}') {
                Some(behind) => return behind,
                None if rest.is_empty() => return rest,
                None => rest = take_tree(rest, stem, paths),
            }
        }
    }
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    stem.push(word.to_owned());
    let rest = match rest.trim_start().strip_prefix("::") {
        Some(below) => take_tree(below, stem, paths),
        None => {
            paths.push(stem.clone());
            // `as other`, `*` and the like up to the end of this piece.
            &rest[rest.find([',', '}', ';']).unwrap_or(rest.len())..]
        }
    };
    stem.pop();
    rest
}

#[test]
fn paths_are_found_in_every_form() {
    let code = code_of(
        "use crate::{cos::{Key, types::{self, ETag as Tag}}, vfs::*}; // crate::ftp\n\
         let a = \"crate::fuse\"; let b = r#\"crate::fuse\"#; let c: &'static str = '\"'; crate::ioctl::arm(x, y); my_crate::x",
    );
    let paths: Vec<_> = crate_paths(&code).iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["cos::Key", "cos::types::self", "cos::types::ETag", "vfs::", "ioctl::arm"]);
}

#[test]
fn each_layer_uses_only_layers_below_it() {
    let mut breaches = Vec::new();
    for source in sources() {
        let module = source.module();
        let allowed = MAY_USE.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = allowed else {
            breaches.push(format!("src/{}: the module `{module}` is in no layer", source.path));
            continue;
        };
        for path in crate_paths(&source.code) {
            let target = path[0].as_str();
            let known = MAY_USE.iter().any(|(name, _)| *name == target);
            if known && target != module && !allowed.contains(&target) {
                breaches.push(format!("src/{}: names crate::{}", source.path, path.join("::")));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

/// `super` at the top of a module is the crate's root: a way around `crate::`.
#[test]
fn no_layer_is_reached_through_super() {
    let mut breaches = Vec::new();
    for source in sources() {
        let flat = source.code.replace([' ', '\n'], "");
        for (name, _) in MAY_USE {
            let depth = source.path.trim_end_matches("/mod.rs").matches('/').count();
            let way_out = format!("{}{name}::", "super::".repeat(depth + 1));
            if source.module() != *name && flat.contains(&way_out) {
                breaches.push(format!("src/{}: names {way_out}", source.path));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_emulator_shares_no_wire_or_signing_code_with_the_client() {
    for source in sources().iter().filter(|source| source.module() == "emulator") {
        for path in crate_paths(&source.code) {
            let shared =
                path[0] == "cos" && ["wire", "sign", "client", "http", "retry"].contains(&path[1].as_str());
            assert!(
                !shared,
                "src/{} names crate::{}: a mistake made twice cancels out",
                source.path,
                path.join("::")
            );
        }
    }
}

#[test]
fn words_stay_in_their_layers() {
    let mut breaches = Vec::new();
    for source in sources() {
        let words = source.words();
        for (module, banned, why) in MUST_NOT_NAME {
            let may = |word: &str| MAY_NAME.contains(&(source.path.as_str(), word));
            if source.module() == *module {
                let named = banned.iter().filter(|word| words.contains(**word) && !may(word));
                breaches.extend(named.map(|word| format!("src/{}: names `{word}`, but {why}", source.path)));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn unsafe_stands_in_one_file() {
    let with_unsafe: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.words().contains("unsafe"))
        .map(|source| source.path)
        .collect();
    assert_eq!(with_unsafe, ["ioctl.rs"]);
}

#[test]
fn anyhow_stands_at_the_edge() {
    for source in sources().iter().filter(|source| !["service", "cli", "main"].contains(&source.module())) {
        // The emulator's door is called by the command line.
        let allowed = source.path == "emulator/mod.rs";
        assert!(allowed || !source.words().contains("anyhow"), "src/{} names anyhow", source.path);
    }
}

#[test]
fn files_and_names_stay_small_and_telling() {
    let mut breaches = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            breaches.push(format!("src/{}: {lines} lines, {LINES_MAX} at most", source.path));
        }
        for piece in source.path.trim_end_matches(".rs").split('/') {
            if ["util", "utils", "helper", "helpers", "manager", "common", "misc"].contains(&piece) {
                breaches.push(format!("src/{}: a name that says nothing", source.path));
            }
        }
        if !source.text.starts_with("//!") {
            breaches.push(format!("src/{}: does not begin with what it is", source.path));
        }
        let words = source.words();
        for toy in ["todo", "unimplemented", "dbg"] {
            if words.contains(toy) && source.code.contains(&format!("{toy}!")) {
                breaches.push(format!("src/{}: {toy}!", source.path));
            }
        }
        if source.code.contains("#[ignore") {
            breaches.push(format!("src/{}: an ignored test", source.path));
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}
