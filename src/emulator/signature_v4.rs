//! Checks the signature of an S3 client (*AWS Signature Version 4*), with code of its own.
//!
//! ```text
//! canonical request ── SHA-256 ── with time and scope ── HMAC-SHA-256 by key, day, region, service
//! ```
//!
//! Authorization header and presigned URL follow the same rules. The region of the scope is taken as it
//! comes: clients that are given an address have to invent one. What the signature says about the body is
//! handed on as a [`Claim`] and checked as the body comes in (`payload.rs`).

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::{
    clock::{parse_amz_date, parse_http_date},
    error::{self, ApiError},
    request::{Request, encode},
    signature::{Credential, SKEW_SECONDS_MAX, hex},
};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Longest life of a presigned URL, in seconds.
const EXPIRES_SECONDS_MAX: i64 = 7 * 86_400;

/// What a signature says about the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nothing: `UNSIGNED-PAYLOAD`, or nobody signed.
    Nothing,
    Sha256([u8; 32]),
    /// aws-chunked; with a chain, each chunk has a signature of its own.
    Chunks(Option<Chain>),
}

/// The signatures of chunks: each one covers the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    key: [u8; 32],
    /// Time and scope, a line each.
    scope: String,
    previous: String,
}

impl Chain {
    /// Whether `signature` is that of the next chunk; `sha256` is of its data.
    pub(super) fn accepts_chunk(&mut self, signature: &str, sha256: [u8; 32]) -> bool {
        let empty = hex(&Sha256::digest(b""));
        self.accepts(signature, &format!("{ALGORITHM}-PAYLOAD"), &format!("{empty}\n{}", hex(&sha256)))
    }

    /// Whether `signature` is that of the trailers, `name:value` a line.
    pub(super) fn accepts_trailers(&mut self, signature: &str, trailers: &str) -> bool {
        let sha256 = hex(&Sha256::digest(trailers.as_bytes()));
        self.accepts(signature, &format!("{ALGORITHM}-TRAILER"), &sha256)
    }

    fn accepts(&mut self, signature: &str, algorithm: &str, digests: &str) -> bool {
        let text = format!("{algorithm}\n{}\n{}\n{digests}", self.scope, self.previous);
        self.previous = hex(&hmac_sha256(&self.key, text.as_bytes()));
        self.previous == signature
    }
}

/// Checks `request` at the time `now` (seconds since 1970). `None` = nobody signed it.
///
/// # Errors
/// As S3 names them: unknown ID, expired, skewed, token, digest, and what is malformed.
pub(super) fn verify(
    request: &Request,
    credentials: &[Credential],
    now: i64,
) -> Result<Option<Claim>, ApiError> {
    let Some(fields) = Fields::of(request)? else {
        return Ok(None);
    };
    let credential =
        credentials.iter().find(|known| known.id == fields.id).ok_or(error::UNKNOWN_ACCESS_KEY)?;
    fields.check_time(now)?;
    credential.check_token(fields.token, now)?;
    fields.check_signed_headers(request)?;
    let body = fields.body.ok_or(error::MISSING_SHA256)?;
    let scope = format!("{}\n{}", fields.date, fields.scope);
    let text =
        format!("{ALGORITHM}\n{scope}\n{}", hex(&Sha256::digest(fields.canonical(request, body).as_bytes())));
    let key = fields.scope.split('/').fold(format!("AWS4{}", credential.key).into_bytes(), |key, piece| {
        hmac_sha256(&key, piece.as_bytes()).to_vec()
    });
    let signature = hex(&hmac_sha256(&key, text.as_bytes()));
    if signature != fields.signature {
        return Err(error::SIGNATURE_DIFFERS);
    }
    let chain =
        || Chain { key: key.try_into().expect("HMAC-SHA-256 gives 32 bytes"), scope, previous: signature };
    match body {
        "UNSIGNED-PAYLOAD" => Ok(Some(Claim::Nothing)),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Some(Claim::Chunks(None))),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
            Ok(Some(Claim::Chunks(Some(chain()))))
        }
        digits => unhex(digits).map(Claim::Sha256).map(Some).ok_or(error::SHA256_DIFFERS),
    }
}

/// What an authorization consists of.
#[derive(Debug)]
struct Fields<'a> {
    id: &'a str,
    /// `day/region/s3/aws4_request`
    scope: &'a str,
    /// As sent.
    date: String,
    /// Seconds since 1970.
    signed: i64,
    /// Seconds after [`Self::signed`], of a presigned URL.
    expires: Option<i64>,
    headers: Vec<&'a str>,
    signature: &'a str,
    token: Option<&'a str>,
    /// `x-amz-content-sha256`
    body: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn of(request: &'a Request) -> Result<Option<Self>, ApiError> {
        let authorization = request.header("authorization").unwrap_or_default().trim();
        if !authorization.is_empty() {
            return Self::of_header(request, authorization).map(Some);
        }
        if request.parameter("AWSAccessKeyId").is_some() {
            return Err(error::OTHER_SIGNATURE_VERSION);
        }
        if request.parameter("X-Amz-Algorithm").is_some() {
            return Self::of_query(request).map(Some);
        }
        Ok(None)
    }

    fn of_header(request: &'a Request, authorization: &'a str) -> Result<Self, ApiError> {
        let rest = authorization.strip_prefix(ALGORITHM).ok_or(error::OTHER_SIGNATURE_VERSION)?;
        let field = |wanted: &str| {
            let mut pairs = rest.split(',').filter_map(|piece| piece.trim().split_once('='));
            pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value)
        };
        let malformed = error::MALFORMED_AUTHORIZATION;
        let (Some(credential), Some(headers), Some(signature)) =
            (field("Credential"), field("SignedHeaders"), field("Signature"))
        else {
            return Err(malformed);
        };
        let (date, signed) = match request.header("x-amz-date") {
            Some(date) => (date.to_owned(), parse_amz_date(date)),
            None => {
                let signed = request.header("date").and_then(parse_http_date);
                (signed.map(super::clock::amz_date).unwrap_or_default(), signed)
            }
        };
        let signed = signed.ok_or(error::ACCESS_DENIED)?;
        let (id, scope) = split_credential(credential, &date).ok_or(malformed)?;
        Ok(Self {
            id,
            scope,
            date,
            signed,
            expires: None,
            headers: headers.split(';').collect(),
            signature,
            token: request.header("x-cos-security-token"),
            body: request.header("x-amz-content-sha256"),
        })
    }

    fn of_query(request: &'a Request) -> Result<Self, ApiError> {
        let malformed = error::MALFORMED_AUTHORIZATION_QUERY;
        let field = |name| request.filled_parameter(name).ok_or_else(|| malformed.clone());
        if field("X-Amz-Algorithm")? != ALGORITHM {
            return Err(malformed);
        }
        let date = field("X-Amz-Date")?;
        let signed = parse_amz_date(date).ok_or_else(|| malformed.clone())?;
        let expires = field("X-Amz-Expires")?.parse().ok();
        let expires = expires.filter(|seconds| (1..=EXPIRES_SECONDS_MAX).contains(seconds));
        let (id, scope) =
            split_credential(field("X-Amz-Credential")?, date).ok_or_else(|| malformed.clone())?;
        Ok(Self {
            id,
            scope,
            date: date.to_owned(),
            signed,
            expires: Some(expires.ok_or_else(|| malformed.clone())?),
            headers: field("X-Amz-SignedHeaders")?.split(';').collect(),
            signature: field("X-Amz-Signature")?,
            token: request.parameter("X-Amz-Security-Token"),
            body: request.header("x-amz-content-sha256").or(Some("UNSIGNED-PAYLOAD")),
        })
    }

    fn check_time(&self, now: i64) -> Result<(), ApiError> {
        match self.expires {
            None if (now - self.signed).abs() > SKEW_SECONDS_MAX => Err(error::TIME_TOO_SKEWED),
            Some(_) if self.signed > now + SKEW_SECONDS_MAX => Err(error::NOT_YET_VALID),
            Some(expires) if now > self.signed + expires => Err(error::REQUEST_EXPIRED),
            _ => Ok(()),
        }
    }

    /// Host and all headers of S3 must be covered, or somebody on the way could add some.
    fn check_signed_headers(&self, request: &Request) -> Result<(), ApiError> {
        // A presigned URL is handed on: whoever uses it may say what its body's digest is.
        let is_free = |name: &str| self.expires.is_some() && name == "x-amz-content-sha256";
        let is_covered = |name: &str| self.headers.contains(&name);
        let mut names = request.headers().map(|(name, _)| name);
        let all = names.all(|name| !name.starts_with("x-amz-") || is_covered(name) || is_free(name));
        if all && is_covered("host") { Ok(()) } else { Err(error::UNSIGNED_HEADERS) }
    }

    fn canonical(&self, request: &Request, body: &str) -> String {
        let mut pairs: Vec<(String, String)> = request
            .query
            .iter()
            .filter(|(name, _)| name != "X-Amz-Signature")
            .map(|(name, value)| (encode(name.as_bytes(), false), encode(value.as_bytes(), false)))
            .collect();
        pairs.sort();
        let query: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut headers = String::new();
        for name in &self.headers {
            let values = request.headers().filter(|(sent, _)| sent == name);
            let values: Vec<String> = values.map(|(_, value)| single_blanks(value)).collect();
            writeln!(headers, "{name}:{}", values.join(",")).expect("a String takes every write");
        }
        let path = encode(request.path.as_bytes(), true);
        let (method, query, signed) = (&request.method, query.join("&"), self.headers.join(";"));
        format!("{method}\n{path}\n{query}\n{headers}\n{signed}\n{body}")
    }
}

/// ID and scope of `ID/day/region/s3/aws4_request`; the ID may have slashes of its own.
fn split_credential<'a>(credential: &'a str, date: &str) -> Option<(&'a str, &'a str)> {
    let (at, _) = credential.rmatch_indices('/').nth(3)?;
    let (id, scope) = (&credential[..at], &credential[at + 1..]);
    let mut pieces = scope.split('/');
    let is_whole = pieces.next().is_some_and(|day| day.len() == 8 && date.starts_with(day))
        && pieces.next().is_some_and(|region| !region.is_empty())
        && pieces.eq(["s3", "aws4_request"]);
    is_whole.then_some((id, scope))
}

/// Outer blanks left out, inner ones as one.
fn single_blanks(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let words: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2013-05-24T00:00:00Z, the day of the examples in the vendor's documentation.
    const NOW: i64 = 1_369_353_600;
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(line: &str, headers: &[(&str, &str)], now: i64) -> Result<Option<Claim>, ApiError> {
        let mut text = format!("{line} HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let (request, _) = Request::parse(text.as_bytes()).unwrap().unwrap();
        let credential = Credential {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            temporary: None,
        };
        verify(&request, &[credential], now)
    }

    fn authorization(signed: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders={signed},Signature={signature}"
        )
    }

    /// *Example: GET Object* of the vendor's documentation.
    fn get(change: impl Fn(&str) -> String, now: i64) -> Result<Option<Claim>, ApiError> {
        let authorization = change(&authorization(
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ));
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
        ];
        check("GET /test.txt", &headers, now)
    }

    #[test]
    fn examples_of_the_vendor_are_accepted() {
        let empty = Some(Claim::Sha256(Sha256::digest(b"").into()));
        assert_eq!(get(str::to_owned, NOW), Ok(empty.clone()));
        let list = authorization(
            "host;x-amz-content-sha256;x-amz-date",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        );
        let headers = [
            ("Authorization", list.as_str()),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
        ];
        assert_eq!(check("GET /?max-keys=2&prefix=J", &headers, NOW), Ok(empty));
        let line = "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
            &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert_eq!(check(line, &[], NOW), Ok(Some(Claim::Nothing)));
        assert_eq!(check(line, &[], NOW + 86_401), Err(error::REQUEST_EXPIRED));
        assert_eq!(check(line, &[], NOW - 901), Err(error::NOT_YET_VALID));
        assert_eq!(
            check(&line.replace("86400", "604801"), &[], NOW),
            Err(error::MALFORMED_AUTHORIZATION_QUERY)
        );
        assert_eq!(check(&line.replace("=aeee", "=aeef"), &[], NOW), Err(error::SIGNATURE_DIFFERS));
    }

    #[test]
    fn each_refusal_has_its_own_words() {
        let changed = |from: &'static str, to: &'static str| get(|text| text.replace(from, to), NOW);
        assert_eq!(changed("AKIA", "AKIB"), Err(error::UNKNOWN_ACCESS_KEY));
        assert_eq!(changed("=f0e8", "=f0e9"), Err(error::SIGNATURE_DIFFERS));
        assert_eq!(changed("us-east-1", "us-east-2"), Err(error::SIGNATURE_DIFFERS));
        assert_eq!(changed("/s3/", "/sqs/"), Err(error::MALFORMED_AUTHORIZATION));
        assert_eq!(changed("20130524", "20130525"), Err(error::MALFORMED_AUTHORIZATION));
        assert_eq!(changed("Signature=", "Sig="), Err(error::MALFORMED_AUTHORIZATION));
        assert_eq!(changed("AWS4-HMAC-SHA256", "AWS"), Err(error::OTHER_SIGNATURE_VERSION));
        assert_eq!(changed("host;", ""), Err(error::UNSIGNED_HEADERS));
        assert_eq!(changed(";x-amz-date", ""), Err(error::UNSIGNED_HEADERS));
        assert_eq!(get(str::to_owned, NOW + 901), Err(error::TIME_TOO_SKEWED));
        assert_eq!(get(str::to_owned, NOW - 901), Err(error::TIME_TOO_SKEWED));
        assert_eq!(check("GET /test.txt", &[("x-amz-acl", "private")], NOW), Ok(None));
    }

    /// *Example: PUT Object* in several chunks, of the vendor's documentation.
    #[test]
    fn chunks_of_the_vendor_are_accepted() {
        let authorization = authorization(
            "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;\
             x-amz-decoded-content-length;x-amz-storage-class",
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        );
        let headers = [
            ("Authorization", authorization.as_str()),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            ("Content-Encoding", "aws-chunked"),
            ("x-amz-decoded-content-length", "66560"),
            ("Content-Length", "66824"),
        ];
        let mut text =
            String::from("PUT /examplebucket/chunkObject.txt HTTP/1.1\r\nHost: s3.amazonaws.com\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let (request, _) = Request::parse(format!("{text}\r\n").as_bytes()).unwrap().unwrap();
        let credential = Credential {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            temporary: None,
        };
        let Some(Claim::Chunks(Some(mut chain))) = verify(&request, &[credential], NOW).unwrap() else {
            panic!("no chain of chunks");
        };
        for (signature, bytes) in [
            ("ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", 65_536),
            ("0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497", 1024),
            ("b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9", 0),
        ] {
            assert!(chain.accepts_chunk(signature, Sha256::digest(vec![b'a'; bytes]).into()), "{bytes}");
        }
        assert!(!chain.accepts_chunk("b6c6", Sha256::digest(b"").into()));
    }
}
