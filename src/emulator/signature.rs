//! Checks the signature of a request (*Request Signature*), with code of its own. That of S3 clients is in
//! `signature_v4.rs`.
//!
//! The same rules serve the Authorization header and the presigned URL. Only what the lists name is
//! protected; unlisted headers and parameters are legal. A host is tried as it came and without its port,
//! because the vendor's SDK signs it without.

use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};

use super::{
    error::{self, ApiError},
    operation::without_port,
    request::{Request, encode},
};

/// How far a client's clock may run ahead, in seconds (*403 Error for COS Access*).
pub(super) const SKEW_SECONDS_MAX: i64 = 15 * 60;

/// One pair of ID and key that may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) id: String,
    pub(super) key: String,
    /// Temporary credentials come with a token and an end, in seconds since 1970.
    pub(super) temporary: Option<(String, i64)>,
}

impl Credential {
    /// Temporary credentials want the token they came with, in time.
    ///
    /// # Errors
    /// `InvalidToken`, `ExpiredToken`
    pub(super) fn check_token(&self, sent: Option<&str>, now: i64) -> Result<(), ApiError> {
        match &self.temporary {
            Some((token, _)) if sent != Some(token) => Err(error::INVALID_TOKEN),
            Some((_, end)) if now > *end => Err(error::EXPIRED_TOKEN),
            _ => Ok(()),
        }
    }
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    Anonymous,
    Known,
}

/// Checks `request` at the time `now` (seconds since 1970).
///
/// # Errors
/// The rows of *403 Error for COS Access*: unknown ID, expired, skewed, token, digest.
pub(super) fn verify(request: &Request, credentials: &[Credential], now: i64) -> Result<Signer, ApiError> {
    let Some(fields) = Fields::of(request)? else {
        return Ok(Signer::Anonymous);
    };
    if fields.algorithm != "sha1" {
        return Err(error::ACCESS_DENIED);
    }
    let credential =
        credentials.iter().find(|known| known.id == fields.id).ok_or(error::UNKNOWN_ACCESS_KEY)?;
    let (start, end) = fields.period()?;
    if start > now + SKEW_SECONDS_MAX {
        return Err(error::TIME_TOO_SKEWED);
    }
    if now < start || now > end {
        return Err(error::REQUEST_EXPIRED);
    }
    let token = request.header("x-cos-security-token").or_else(|| request.parameter("x-cos-security-token"));
    credential.check_token(token, now)?;
    let hosts = [request.host.as_str(), without_port(&request.host)];
    if hosts.iter().any(|host| fields.signature_with(request, host, &credential.key) == fields.signature) {
        return Ok(Signer::Known);
    }
    Err(error::SIGNATURE_DIFFERS)
}

/// The seven fields of an authorization, decoded.
#[derive(Debug, Default)]
struct Fields {
    algorithm: String,
    id: String,
    sign_time: String,
    key_time: String,
    headers: String,
    parameters: String,
    signature: String,
}

impl Fields {
    /// From the header or the URL; `None` where neither is there. An empty header counts as absent.
    fn of(request: &Request) -> Result<Option<Self>, ApiError> {
        let from_url = request.parameter("q-sign-algorithm").is_some();
        let header = request.header("authorization").unwrap_or("").trim();
        let mut fields = Self::default();
        let mut seen = 0;
        let mut put = |name: &str, value: &str| {
            let field = match name {
                "q-sign-algorithm" => &mut fields.algorithm,
                "q-ak" => &mut fields.id,
                "q-sign-time" => &mut fields.sign_time,
                "q-key-time" => &mut fields.key_time,
                "q-header-list" => &mut fields.headers,
                "q-url-param-list" => &mut fields.parameters,
                "q-signature" => &mut fields.signature,
                _ => return,
            };
            value.clone_into(field);
            seen += 1;
        };
        if !header.is_empty() {
            for piece in header.split('&') {
                let (name, value) = piece.split_once('=').ok_or(error::ACCESS_DENIED)?;
                put(name, value);
            }
        } else if from_url {
            for (name, value) in &request.query {
                put(name, value);
            }
        } else {
            return Ok(None);
        }
        if seen == 7 { Ok(Some(fields)) } else { Err(error::ACCESS_DENIED) }
    }

    fn period(&self) -> Result<(i64, i64), ApiError> {
        let read = |text: &str| -> Option<(i64, i64)> {
            let (start, end) = text.split_once(';')?;
            Some((start.parse().ok()?, end.parse().ok()?))
        };
        let (sign, key) = (read(&self.sign_time), read(&self.key_time));
        let (Some(sign), Some(key)) = (sign, key) else {
            return Err(error::ACCESS_DENIED);
        };
        // The key's period bounds the signature's.
        Ok((sign.0.max(key.0), sign.1.min(key.1)))
    }

    /// The signature that `key` gives to `request`, sent to `host`.
    fn signature_with(&self, request: &Request, host: &str, key: &str) -> String {
        let text = self.http_string(request, host);
        let digest = hex(&Sha1::digest(text.as_bytes()));
        let sign_key = hmac_sha1(key.as_bytes(), self.key_time.as_bytes());
        hmac_sha1(sign_key.as_bytes(), format!("sha1\n{}\n{digest}\n", self.sign_time).as_bytes())
    }

    fn http_string(&self, request: &Request, host: &str) -> String {
        let parameters = signed_pairs(
            &self.parameters,
            request
                .query
                .iter()
                .filter(|(name, _)| !is_signature_field(name))
                .map(|(name, value)| (name.as_str(), value.as_bytes())),
        );
        let headers = signed_pairs(
            &self.headers,
            request.headers().map(
                |(name, value)| {
                    if name == "host" { (name, host.as_bytes()) } else { (name, value) }
                },
            ),
        );
        format!("{}\n{}\n{parameters}\n{headers}\n", request.method.to_ascii_lowercase(), request.path)
    }
}

fn is_signature_field(name: &str) -> bool {
    matches!(
        name,
        "q-sign-algorithm"
            | "q-ak"
            | "q-sign-time"
            | "q-key-time"
            | "q-header-list"
            | "q-url-param-list"
            | "q-signature"
    )
}

/// `name=value&…` of those pairs whose encoded lower-case name is in the `;`-separated `list`, sorted.
fn signed_pairs<'a>(list: &str, pairs: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let listed: Vec<String> = list.split(';').map(str::to_ascii_lowercase).collect();
    let mut signed: Vec<(String, String)> = pairs
        .map(|(name, value)| (encode(name.as_bytes(), false).to_ascii_lowercase(), encode(value, false)))
        .filter(|(name, _)| listed.contains(name))
        .collect();
    signed.sort();
    let joined: Vec<String> = signed.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    joined.join("&")
}

fn hmac_sha1(key: &[u8], message: &[u8]) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    hex(&mac.finalize().into_bytes())
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_060;

    fn credentials() -> Vec<Credential> {
        vec![
            Credential {
                id: "cos-test-secret-id-0001".into(),
                key: "cos-test-secret-key-0001".into(),
                temporary: None,
            },
            Credential {
                id: "temporary".into(),
                key: "temporary-key".into(),
                temporary: Some(("token".into(), NOW)),
            },
        ]
    }

    fn request(line: &str, headers: &[(&str, &str)]) -> Request {
        let mut text = format!("{line} HTTP/1.1\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        Request::parse(text.as_bytes()).unwrap().unwrap().0
    }

    const HOST: &str = "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com";
    /// A signature of the vendor's SDK for `GET /exampleobject` with that host.
    const GOOD: &str = "q-sign-algorithm=sha1&q-ak=cos-test-secret-id-0001&q-sign-time=1700000000;1700010060\
                        &q-key-time=1700000000;1700010060&q-header-list=host&q-url-param-list=\
                        &q-signature=8060029e16c7b264aaa10ac45d06b935b9ed45c0";

    fn check(authorization: &str, now: i64) -> Result<Signer, ApiError> {
        let request = request("GET /exampleobject", &[("Host", HOST), ("Authorization", authorization)]);
        verify(&request, &credentials(), now)
    }

    #[test]
    fn signature_of_the_vendor_is_accepted_with_and_without_port() {
        assert_eq!(check(GOOD, NOW), Ok(Signer::Known));
        let with_port = format!("{HOST}:9980");
        let ported = request("GET /exampleobject", &[("Host", &with_port), ("Authorization", GOOD)]);
        assert_eq!(verify(&ported, &credentials(), NOW), Ok(Signer::Known));
    }

    #[test]
    fn order_of_the_fields_does_not_matter() {
        let mut fields: Vec<&str> = GOOD.split('&').collect();
        fields.reverse();
        assert_eq!(check(&fields.join("&"), NOW), Ok(Signer::Known));
    }

    #[test]
    fn each_refusal_has_its_own_words() {
        assert_eq!(check(&GOOD.replace("0001&", "0002&"), NOW), Err(error::UNKNOWN_ACCESS_KEY));
        assert_eq!(check(&GOOD.replace("8060", "8061"), NOW), Err(error::SIGNATURE_DIFFERS));
        assert_eq!(check(&GOOD.replace("=sha1", "=sha2"), NOW), Err(error::ACCESS_DENIED));
        assert_eq!(check(&GOOD.replace("&q-url-param-list=", ""), NOW), Err(error::ACCESS_DENIED));
        assert_eq!(check(GOOD, 1_700_010_061), Err(error::REQUEST_EXPIRED));
        assert_eq!(check(GOOD, 1_699_999_999), Err(error::REQUEST_EXPIRED));
        assert_eq!(check(GOOD, 1_699_999_000), Err(error::TIME_TOO_SKEWED));
        assert_eq!(check("", NOW), Ok(Signer::Anonymous));
    }

    #[test]
    fn presigned_url_of_the_vendor_is_accepted() {
        let line = "GET /%E7%9B%AE%E5%BD%95/a%20b%2Bc.txt?q-sign-algorithm=sha1&q-ak=cos-test-secret-id-0001\
                    &q-sign-time=1700000000%3B1700000360&q-key-time=1700000000%3B1700000360\
                    &q-header-list=host&q-url-param-list=\
                    &q-signature=938d6622730065a7d9fdce11824e4d423bc0e5c9";
        let request = request(line, &[("Host", HOST)]);
        assert_eq!(verify(&request, &credentials(), NOW), Ok(Signer::Known));
        assert_eq!(verify(&request, &credentials(), NOW + 301), Err(error::REQUEST_EXPIRED));
    }

    #[test]
    fn temporary_credentials_want_their_token_in_time() {
        let authorization = GOOD.replace("cos-test-secret-id-0001", "temporary");
        let with = |token: &str, now: i64| {
            let headers =
                [("Host", HOST), ("Authorization", &authorization), ("x-cos-security-token", token)];
            verify(&request("GET /exampleobject", &headers), &credentials(), now)
        };
        assert_eq!(with("other", NOW), Err(error::INVALID_TOKEN));
        assert_eq!(with("token", NOW + 1), Err(error::EXPIRED_TOKEN));
        assert_eq!(with("token", NOW), Err(error::SIGNATURE_DIFFERS));
    }
}
