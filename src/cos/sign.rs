//! The signature, a pure function of request, secret and time (*Request Signature*).
//!
//! ```text
//! SignKey      = HMAC-SHA1(SecretKey, "start;end")           as 40 hex digits
//! HttpString   = method, decoded path, parameters, headers   one per line, each line ended
//! StringToSign = "sha1", "start;end", SHA1(HttpString)       one per line, each line ended
//! Signature    = HMAC-SHA1(the 40 digits of SignKey, StringToSign)
//! ```
//!
//! Everything handed in is signed; what to hand in is decided by `request.rs`. It also holds the percent-encodings
//! that request and signature must agree upon.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::{Digest, Sha1};

/// What of a request is signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signable<'a> {
    pub(super) method: &'a str,
    /// Decoded, from its leading slash on; the bucket is part of it in path style.
    pub(super) path: &'a str,
    /// Decoded.
    pub(super) parameters: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'a str, &'a str)],
}

/// From when to when a signature holds, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Validity {
    /// A minute back, because the two clocks differ (so does the vendor's SDK); an hour on, because the
    /// signature is looked at when a request begins, and a queue may lie before that.
    pub(super) fn around(now: u64) -> Self {
        Self { start: now.saturating_sub(60), end: now + 3600 }
    }
}

/// A signature and what a verifier needs to recompute it.
#[derive(Debug)]
struct Signature {
    key_time: String,
    header_list: String,
    parameter_list: String,
    /// Lower-case hex.
    digest: String,
}

/// The value of the Authorization header.
pub(super) fn authorization(
    request: Signable<'_>,
    secret_id: &str,
    secret_key: &str,
    validity: Validity,
) -> String {
    let key_time = format!("{};{}", validity.start, validity.end);
    let key = sign_key(secret_key, &key_time);
    let Signature { key_time, header_list, parameter_list, digest } = sign(request, &key, key_time);
    format!(
        "q-sign-algorithm=sha1&q-ak={secret_id}&q-sign-time={key_time}&q-key-time={key_time}\
         &q-header-list={header_list}&q-url-param-list={parameter_list}&q-signature={digest}"
    )
}

/// Everything but `A-Z a-z 0-9 - _ . ~`, as COS encodes names and values, in upper-case hex.
pub(super) fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, ALL_BUT_UNRESERVED)
}

/// A key as it goes over the wire: slashes stay, but for those beside an element `.` or `..`. Those become
/// `%2F`, because HTTP libraries and front ends fold such elements away (RFC 3986, 5.2.4, the `url` crate even
/// in the form `%2E`), and the request would hit another object. COS decodes the path once and never folds it.
pub(super) fn encoded_key(key: &str) -> String {
    let is_dots = |element: &str| matches!(element, "." | "..");
    let mut wire = String::with_capacity(key.len() * 2);
    let mut before = None;
    for element in key.split('/') {
        match before {
            None => {}
            Some(before) if is_dots(before) || is_dots(element) => wire.push_str("%2F"),
            Some(_) => wire.push('/'),
        }
        wire.extend(utf8_percent_encode(element, ALL_BUT_UNRESERVED));
        before = Some(element);
    }
    wire
}

const ALL_BUT_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn sign_key(secret_key: &str, key_time: &str) -> String {
    hmac_hex(secret_key, key_time)
}

fn sign(request: Signable<'_>, sign_key: &str, key_time: String) -> Signature {
    let (parameter_list, parameters) = canonical(request.parameters);
    let (header_list, headers) = canonical(request.headers);
    let method = request.method.to_ascii_lowercase();
    let http_string = format!("{method}\n{}\n{parameters}\n{headers}\n", request.path);
    let string_to_sign = format!("sha1\n{key_time}\n{}\n", hex(&Sha1::digest(http_string)));
    let digest = hmac_hex(sign_key, &string_to_sign);
    Signature { key_time, header_list, parameter_list, digest }
}

/// The sorted names joined by `;`, and the sorted pairs joined by `&`.
fn canonical(pairs: &[(&str, &str)]) -> (String, String) {
    // The hex digits of an encoded name become lower-case too; those of a value do not.
    let encode = |(name, value): &(&str, &str)| {
        (encoded(name).to_string().to_ascii_lowercase(), encoded(value.trim_matches(' ')).to_string())
    };
    let mut pairs: Vec<(String, String)> = pairs.iter().map(encode).collect();
    pairs.sort_unstable();
    let (mut names, mut joined) = (String::new(), String::new());
    for (index, (name, value)) in pairs.iter().enumerate() {
        if index > 0 {
            names.push(';');
            joined.push('&');
        }
        names.push_str(name);
        joined.extend([name, "=", value]);
    }
    (names, joined)
}

fn hmac_hex(key: &str, message: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(message.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use md5::Md5;
    use percent_encoding::percent_decode_str;
    use serde_json::Value;

    use super::*;
    use crate::cos::Crc64;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/data/cos-signing-vectors.json")).unwrap()
    }

    fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
        vector[field].as_str().unwrap_or_else(|| panic!("{field} of {vector}"))
    }

    fn pairs(value: &Value) -> Vec<(&str, &str)> {
        match value {
            Value::Array(pairs) => {
                pairs.iter().map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect()
            }
            Value::Object(pairs) => {
                pairs.iter().map(|(name, value)| (&**name, value.as_str().unwrap())).collect()
            }
            _ => Vec::new(),
        }
    }

    fn path_of(vector: &Value) -> String {
        match vector["key"].as_str() {
            None => "/".to_owned(),
            Some(key) if key.starts_with('/') => key.to_owned(),
            Some(key) => format!("/{key}"),
        }
    }

    /// Recomputes every stage that `vector` tells, from its sign key on.
    fn check(vector: &Value) -> Signature {
        let name = text(vector, "name");
        let (path, parameters, headers) =
            (path_of(vector), pairs(&vector["params"]), pairs(&vector["headers_signed"]));
        let request = Signable {
            method: text(vector, "method"),
            path: &path,
            parameters: &parameters,
            headers: &headers,
        };
        let signature = sign(request, text(vector, "sign_key"), text(vector, "key_time").to_owned());
        assert_eq!(signature.header_list, text(vector, "header_list"), "{name}");
        assert_eq!(signature.parameter_list, text(vector, "url_param_list"), "{name}");
        assert_eq!(signature.digest, text(vector, "signature"), "{name}");
        signature
    }

    fn validity(vector: &Value) -> Validity {
        let (start, end) = text(vector, "key_time").split_once(';').unwrap();
        Validity { start: start.parse().unwrap(), end: end.parse().unwrap() }
    }

    #[test]
    fn every_vector_of_the_vendors_signer_is_met() {
        let file = vectors();
        let (id, key) = (text(&file["defaults"], "secret_id"), text(&file["defaults"], "secret_key"));
        let all = file["vectors"].as_array().unwrap();
        assert_eq!(all.len(), 47);
        for vector in all {
            check(vector);
            let name = text(vector, "name");
            assert_eq!(sign_key(key, text(vector, "key_time")), text(vector, "sign_key"), "{name}");
            let (path, parameters, headers) =
                (path_of(vector), pairs(&vector["params"]), pairs(&vector["headers_signed"]));
            let request = Signable {
                method: text(vector, "method"),
                path: &path,
                parameters: &parameters,
                headers: &headers,
            };
            let header = authorization(request, id, key, validity(vector));
            assert_eq!(header, text(vector, "authorization"), "{name}");
        }
    }

    #[test]
    fn every_presigned_vector_is_met() {
        let file = vectors();
        let key = text(&file["defaults"], "secret_key");
        let all = file["presigned"].as_array().unwrap();
        assert_eq!(all.len(), 3);
        for vector in all {
            let url = text(vector, "url");
            let query = url.split_once('?').unwrap().1;
            let decode = |value: &str| percent_decode_str(value).decode_utf8().unwrap().into_owned();
            let fields: Vec<(String, String)> = query
                .split('&')
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect();
            let field = |name: &str| &fields.iter().find(|(known, _)| known == name).unwrap().1;
            let key_time = text(vector, "key_time");
            let (path, parameters) = (path_of(vector), pairs(&vector["params"]));
            // The HttpString itself tells which headers were signed.
            let headers_line = text(vector, "http_string").lines().nth(3).unwrap_or_default();
            let headers: Vec<(String, String)> = headers_line
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect();
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let request = Signable {
                method: text(vector, "method"),
                path: &path,
                parameters: &parameters,
                headers: &headers,
            };
            let signature = sign(request, &sign_key(key, key_time), key_time.to_owned());
            assert_eq!(*field("q-signature"), signature.digest, "{url}");
            assert_eq!(*field("q-header-list"), signature.header_list);
            assert_eq!(*field("q-url-param-list"), signature.parameter_list);
            assert_eq!(
                (field("q-key-time"), field("q-sign-time")),
                (&signature.key_time, &signature.key_time)
            );
        }
    }

    #[test]
    fn every_published_example_is_met() {
        let file = vectors();
        let all = file["published"].as_array().unwrap();
        assert_eq!(all.len(), 3);
        all.iter().for_each(|vector| drop(check(vector)));
    }

    #[test]
    fn every_checksum_vector_is_met() {
        let file = vectors();
        let number = |vector: &Value, field: &str| Crc64(text(vector, field).parse().unwrap());
        let all = file["crc64"].as_array().unwrap();
        assert_eq!(all.len(), 10);
        for vector in all {
            let input = text(vector, "input").as_bytes();
            assert_eq!(Crc64::of(input), number(vector, "crc64ecma"), "{vector}");
            assert_eq!(hex(&Md5::digest(input)), text(vector, "md5"));
        }
        let all = file["crc64_combine"].as_array().unwrap();
        assert_eq!(all.len(), 2);
        for vector in all {
            assert_eq!(Crc64::of(text(vector, "first").as_bytes()), number(vector, "first_crc"));
            let bytes = vector["second_len"].as_u64().unwrap();
            let combined = number(vector, "first_crc").followed_by(number(vector, "second_crc"), bytes);
            assert_eq!(combined, number(vector, "combined"));
        }
    }

    #[test]
    fn paths_go_out_as_the_vendors_sdk_writes_them() {
        let file = vectors();
        for vector in file["vectors"].as_array().unwrap() {
            let target = text(vector, "wire_target");
            let wire = target.split('?').next().unwrap();
            let ours = format!("/{}", encoded_key(&path_of(vector)[1..]));
            if text(vector, "name") == "get-key-dot-segment" {
                // The SDK shields the right side of an element only, which leaves `x/..` open, and shields
                // elements that merely end in a dot.
                assert_eq!((wire, &*ours), ("/a/.%2Fb/..%2Fc.%2Fd", "/a%2F.%2Fb%2F..%2Fc./d"));
            } else {
                assert_eq!(ours, wire);
            }
        }
    }

    #[test]
    fn no_element_of_a_key_can_be_folded() {
        // In path style the key stands behind the bucket: it must not reach back to it.
        for key in
            ["a/../b", "../a", "a/b/..", "./a", "a/b/.", "a/./../.../b", "x/../../y/.", "a/..\\..", "//../a"]
        {
            let wire = encoded_key(key);
            assert!(wire.split('/').all(|element| !matches!(element, "." | "..")), "{key} {wire}");
            assert!(!wire.starts_with("%2F"), "{key} {wire}");
            assert_eq!(percent_decode_str(&wire).decode_utf8().unwrap(), key);
        }
    }

    #[test]
    fn a_signature_holds_from_a_minute_ago() {
        let validity = Validity::around(1_700_000_060);
        assert_eq!(validity, Validity { start: 1_700_000_000, end: 1_700_003_660 });
    }
}
