//! One page of a list (*GET Bucket (List Objects)*): byte order, groups, where the next page begins.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::store::{KeyBytes, Object};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) prefix: &'a str,
    /// Empty = no groups.
    pub(super) delimiter: &'a str,
    /// Only what comes behind it.
    pub(super) marker: &'a str,
    pub(super) entries_max: usize,
}

/// What is answered.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) objects: Vec<(String, Arc<Object>)>,
    pub(super) groups: Vec<String>,
    /// `None` on the last page.
    pub(super) next_marker: Option<String>,
}

/// One page of `objects`.
pub(super) fn page(objects: &BTreeMap<KeyBytes, Arc<Object>>, query: Query<'_>) -> Page {
    let mut page = Page::default();
    let (prefix, delimiter) = (query.prefix.as_bytes(), query.delimiter.as_bytes());
    let from = if query.marker.as_bytes() >= prefix {
        let group = group_of(query.marker.as_bytes(), prefix, delimiter);
        match group {
            // A marker that is a group stands for all that is in it.
            Some(group) if group == query.marker.as_bytes() => Bound::Included(behind(group)),
            _ => Bound::Excluded(query.marker.as_bytes().to_vec()),
        }
    } else {
        Bound::Included(prefix.to_vec())
    };
    if query.entries_max == 0 {
        return page;
    }
    let behind_of = |from: &Bound<Vec<u8>>| objects.range::<[u8], _>((borrowed(from), Bound::Unbounded));
    let (mut rest, mut last) = (behind_of(&from), prefix);
    while let Some((key, object)) = rest.next() {
        if !key.starts_with(prefix) {
            return page;
        }
        if page.objects.len() + page.groups.len() == query.entries_max {
            page.next_marker = Some(text(last));
            return page;
        }
        if let Some(group) = group_of(key, prefix, delimiter) {
            page.groups.push(text(group));
            last = group;
            rest = behind_of(&Bound::Included(behind(group)));
        } else {
            page.objects.push((text(key), Arc::clone(object)));
            last = key;
        }
    }
    page
}

/// The key up to and with the first delimiter behind the prefix.
pub(super) fn group_of<'a>(key: &'a [u8], prefix: &[u8], delimiter: &[u8]) -> Option<&'a [u8]> {
    if delimiter.is_empty() {
        return None;
    }
    let rest = key.strip_prefix(prefix)?;
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// The first text behind all that begin with `group`. UTF-8 has no byte 0xFF, so the last byte can grow.
fn behind(group: &[u8]) -> Vec<u8> {
    let mut behind = group.to_vec();
    if let Some(last) = behind.last_mut() {
        *last += 1;
    }
    behind
}

fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(keys: &[&str]) -> BTreeMap<KeyBytes, Arc<Object>> {
        let object = Arc::new(Object {
            content: Default::default(),
            etag: String::new(),
            crc64: 0,
            modified: 0,
            appendable: false,
            attributes: Default::default(),
        });
        keys.iter().map(|key| (key.as_bytes().into(), Arc::clone(&object))).collect()
    }

    /// All pages: objects and groups in the order they came, pages apart by `|`.
    fn listed(keys: &[&str], prefix: &str, delimiter: &str, entries_max: usize) -> String {
        let objects = objects(keys);
        let (mut marker, mut all) = (String::new(), Vec::new());
        loop {
            let page = page(&objects, Query { prefix, delimiter, marker: &marker, entries_max });
            let mut names: Vec<String> = page.groups;
            names.extend(page.objects.into_iter().map(|(key, _)| key));
            all.push(names.join(" "));
            match page.next_marker {
                Some(next) => marker = next,
                None => return all.join("|"),
            }
        }
    }

    const KEYS: &[&str] = &["a", "a/", "a/b", "a/b/c", "a0", "b/1", "b/2", "b0", "中/x", "中文"];

    #[test]
    fn groups_count_and_are_named_once() {
        assert_eq!(listed(KEYS, "", "/", 100), "a/ b/ 中/ a a0 b0 中文");
        assert_eq!(listed(KEYS, "", "/", 2), "a/ a|b/ a0|中/ b0|中文");
        assert_eq!(listed(KEYS, "a/", "/", 100), "a/b/ a/ a/b");
        assert_eq!(listed(KEYS, "b", "", 1), "b/1|b/2|b0");
        assert_eq!(listed(KEYS, "zz", "/", 1), "");
    }

    #[test]
    fn full_last_page_is_not_truncated() {
        assert_eq!(listed(&["a", "b"], "", "", 2), "a b");
        assert_eq!(listed(&["a/1", "a/2"], "", "/", 1), "a/");
    }

    #[test]
    fn marker_inside_a_group_shows_what_is_left_of_it() {
        let objects = objects(&["d/x", "d/y", "e"]);
        let query = Query { prefix: "", delimiter: "/", marker: "d/x", entries_max: 10 };
        assert_eq!(page(&objects, query).groups, ["d/"]);
        let query = Query { marker: "d/", ..query };
        assert!(page(&objects, query).groups.is_empty());
    }
}
