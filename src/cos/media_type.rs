//! The Content-Type that a new object gets where its maker names none.

use super::types::Key;

/// The type that the suffix of `key` stands for; `application/octet-stream` where it stands for none,
/// and `application/x-directory` for the marker of a directory, as other COS tools write it.
pub(super) fn media_type_of(key: &Key) -> &'static str {
    if key.is_directory_marker() {
        return DIRECTORY;
    }
    mime_guess::from_path(key.as_str()).first_raw().unwrap_or("application/octet-stream")
}

const DIRECTORY: &str = "application/x-directory";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_decides() {
        for (key, media_type) in [
            ("a/photo.JPG", "image/jpeg"),
            ("报告.pdf", "application/pdf"),
            ("a/b", "application/octet-stream"),
            ("a/b.unheard-of", "application/octet-stream"),
            ("a.txt/", "application/x-directory"),
        ] {
            assert_eq!(media_type_of(&Key::new(key).unwrap()), media_type, "{key}");
        }
    }
}
