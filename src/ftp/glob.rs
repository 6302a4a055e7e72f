//! Patterns of LIST and NLST: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`, over one piece of a path.

/// A name with wildcards in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<char>);

impl Pattern {
    /// `None` where nothing in `text` is a wildcard.
    pub(super) fn new(text: &str) -> Option<Self> {
        text.contains(['*', '?', '[']).then(|| Self(text.chars().collect()))
    }

    /// Whether `name` fits. Takes at most pattern × name steps: a `*` goes back to the last one only.
    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut letter) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while letter < name.len() {
            if self.0.get(at) == Some(&'*') {
                at += 1;
                retry = Some((at, letter));
                continue;
            }
            match self.step(at, name[letter]) {
                Some(next) => {
                    at = next;
                    letter += 1;
                }
                None => match retry {
                    Some((star, from)) => {
                        at = star;
                        letter = from + 1;
                        retry = Some((star, letter));
                    }
                    None => return false,
                },
            }
        }
        self.0[at..].iter().all(|&rest| rest == '*')
    }

    /// Where the pattern goes on if `letter` fits at `at`.
    fn step(&self, at: usize, letter: char) -> Option<usize> {
        match *self.0.get(at)? {
            '?' => Some(at + 1),
            '[' => match self.class_end(at) {
                Some(end) => self.in_class(at + 1, end, letter).then_some(end + 1),
                None => (letter == '[').then_some(at + 1),
            },
            plain => (plain == letter).then_some(at + 1),
        }
    }

    /// Where the `]` of a class is; one right at its start belongs to it.
    fn class_end(&self, at: usize) -> Option<usize> {
        let first = if matches!(self.0.get(at + 1), Some('!' | '^')) { at + 3 } else { at + 2 };
        (first..self.0.len()).find(|&index| self.0[index] == ']')
    }

    fn in_class(&self, start: usize, end: usize, letter: char) -> bool {
        let negated = matches!(self.0[start], '!' | '^');
        let class = &self.0[start + usize::from(negated)..end];
        let mut index = 0;
        let mut found = false;
        while index < class.len() {
            if index + 2 < class.len() && class[index + 1] == '-' {
                found |= (class[index]..=class[index + 2]).contains(&letter);
                index += 3;
            } else {
                found |= class[index] == letter;
                index += 1;
            }
        }
        found != negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_shell_would() {
        for (pattern, good, bad) in [
            ("*", &["", "a", "深圳"][..], &[][..]),
            ("*.txt", &[".txt", "a.txt", "a.b.txt"], &["a.txt.gz", "txt"]),
            ("a?c", &["abc", "a深c"], &["ac", "abbc"]),
            ("[a-c]*[!0-9]", &["ax", "b-y"], &["dx", "a1", "a"]),
            ("[]x]", &["]", "x"], &["y"]),
            ("a[b", &["a[b"], &["ab"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba"]),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            assert!(good.iter().all(|name| pattern.matches(name)), "{pattern:?} {good:?}");
            assert!(!bad.iter().any(|name| pattern.matches(name)), "{pattern:?} {bad:?}");
        }
        assert_eq!(Pattern::new("plain.txt"), None);
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = Pattern::new(&"*a".repeat(200)).unwrap();
        assert!(!pattern.matches(&"a".repeat(199)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(5000))));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_makes_it_stumble(pattern in "[a*?\\[\\]!^-]{1,12}", name in "[a\\[\\]!-]{0,12}") {
            if let Some(pattern) = Pattern::new(&pattern) {
                pattern.matches(&name);
            }
        }
    }
}
