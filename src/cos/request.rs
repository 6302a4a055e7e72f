//! A request before it is signed: which bucket, which key, which parameters and headers.
//!
//! [`Place`] turns a key into the one URL that means it. The `url` crate, like every library that follows the
//! WHATWG, rewrites paths; so what it made of ours is compared with what was meant, and a request that would
//! hit another object is refused before it leaves.

use std::{borrow::Cow, sync::Arc};

use parking_lot::RwLock;
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, HOST, HeaderValue},
};

use super::{
    Key, NewObject, Operation, Payload,
    http::{SetupError, Signed, header_map},
    media_type::media_type_of,
    sign::{self, Signable, Validity, encoded, encoded_key},
    wire::{Names, encoded_metadata},
};
use crate::config::{Addressing, Secret, StoreConfig};

/// A request of one operation.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) method: Method,
    /// `None`: the bucket itself.
    pub(super) key: Option<&'a Key>,
    pub(super) parameters: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(Cow<'static, str>, String)>,
    pub(super) payload: Option<Payload>,
}

impl<'a> Request<'a> {
    /// A request about the bucket.
    pub(super) fn of_bucket(operation: Operation, method: Method) -> Self {
        Self { operation, method, key: None, parameters: Vec::new(), headers: Vec::new(), payload: None }
    }

    /// A request about an object.
    pub(super) fn of_key(operation: Operation, method: Method, key: &'a Key) -> Self {
        Self { key: Some(key), ..Self::of_bucket(operation, method) }
    }

    #[must_use]
    pub(super) fn parameter(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.parameters.push((name, value.into()));
        self
    }

    #[must_use]
    pub(super) fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same with `name`, if there is a value.
    #[must_use]
    pub(super) fn header_if(self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    /// The same with x-cos-forbid-overwrite, if that is wanted.
    #[must_use]
    pub(super) fn forbid_overwrite(self, forbid: bool) -> Self {
        self.header_if(Names::FORBID_OVERWRITE, forbid.then_some("true"))
    }

    #[must_use]
    pub(super) fn payload(mut self, payload: Payload) -> Self {
        self.payload = Some(payload);
        self
    }

    /// The same with what a new object under `key` is given.
    ///
    /// # Errors
    /// User metadata that cannot be sent, in words.
    pub(super) fn new_object(mut self, key: &Key, new: &NewObject) -> Result<Self, String> {
        let content_type = new.content_type.as_deref().unwrap_or_else(|| media_type_of(key));
        self = self.header("content-type", content_type).forbid_overwrite(new.forbid_overwrite);
        for (name, value) in encoded_metadata(&new.metadata)? {
            self = self.header(name, value);
        }
        Ok(self)
    }

    /// Whether it asks COS to leave an object alone that is there already.
    pub(super) fn forbids_overwrite(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == Names::FORBID_OVERWRITE)
    }

    /// Whether it changes the bucket.
    pub(super) fn has_effect(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Whether it does no harm to send it again while nobody knows what has become of the first one: it only reads, or
    /// brings a part, of which the last one counts and none before the upload is completed (*Upload Part*).
    pub(super) fn may_be_doubled(&self) -> bool {
        !self.has_effect() || matches!(self.operation, Operation::UploadPart | Operation::UploadPartCopy)
    }
}

/// Where a bucket is, and with which credentials it is asked.
#[derive(Debug)]
pub(super) struct Place {
    /// `https://bucket.endpoint`, or `https://endpoint` in path style; no slash at the end.
    origin: String,
    /// As the client will write it: without a port that is the scheme's own.
    host: String,
    /// `/bucket` in path style, else empty.
    path_prefix: String,
    /// `bucket.endpoint`, as sources of copies are named in either style.
    copy_host: String,
    credentials: RwLock<Arc<Credentials>>,
}

/// With what requests are signed.
#[derive(Debug)]
struct Credentials {
    secret_id: String,
    secret_key: Secret,
    token: Option<Secret>,
}

impl Credentials {
    fn of(config: &StoreConfig) -> Self {
        Self {
            secret_id: config.secret_id.clone(),
            secret_key: config.secret_key.clone(),
            token: config.token.clone(),
        }
    }
}

impl Place {
    /// The place that `config` describes.
    ///
    /// # Errors
    /// An endpoint that is no host, or credentials that cannot stand in a header.
    pub(super) fn new(config: &StoreConfig) -> Result<Self, SetupError> {
        let invalid = |why: String| SetupError::Endpoint { endpoint: config.endpoint.clone(), why };
        let scheme = if config.https { "https" } else { "http" };
        let bucket_host = format!("{}.{}", config.bucket, config.endpoint);
        let (authority, path_prefix) = match config.addressing {
            Addressing::Virtual => (bucket_host.clone(), String::new()),
            Addressing::Path => (config.endpoint.clone(), format!("/{}", config.bucket)),
        };
        let origin = format!("{scheme}://{authority}");
        let url = Url::parse(&origin).map_err(|error| invalid(error.to_string()))?;
        let name = url.host_str().ok_or_else(|| invalid("it names no host".to_owned()))?;
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        if url.path() != "/" || url.query().is_some() || !url.username().is_empty() {
            return Err(invalid("it must be HOST or HOST:PORT".to_owned()));
        }
        let place = Self {
            origin,
            host,
            path_prefix,
            copy_host: bucket_host,
            credentials: RwLock::new(Arc::new(Credentials::of(config))),
        };
        // Found out now and not by every request.
        place.sign(&Request::of_bucket(Operation::HeadBucket, Method::HEAD), 0).map_err(invalid)?;
        Ok(place)
    }

    /// Signs with the credentials of `config` from now on.
    ///
    /// # Errors
    /// Credentials that cannot stand in a header; the old ones stay.
    pub(super) fn renew_credentials(&self, config: &StoreConfig) -> Result<(), SetupError> {
        let invalid = |why: String| SetupError::Endpoint { endpoint: config.endpoint.clone(), why };
        let credentials = Credentials::of(config);
        let trial = Request::of_bucket(Operation::HeadBucket, Method::HEAD);
        self.sign_with(&credentials, &trial, 0).map_err(invalid)?;
        *self.credentials.write() = Arc::new(credentials);
        Ok(())
    }

    /// How `key` is named as the source of a copy (*PUT Object - Copy*).
    pub(super) fn copy_source(&self, key: &Key) -> String {
        let elements: Vec<String> =
            key.as_str().split('/').map(|element| encoded(element).to_string()).collect();
        format!("{}/{}", self.copy_host, elements.join("/"))
    }

    /// `request` with its signature, which holds around `now` (Unix seconds).
    ///
    /// # Errors
    /// Why it cannot be sent, in words.
    pub(super) fn sign(&self, request: &Request<'_>, now: u64) -> Result<Signed, String> {
        let credentials = self.credentials.read().clone();
        self.sign_with(&credentials, request, now)
    }

    fn sign_with(
        &self,
        credentials: &Credentials,
        request: &Request<'_>,
        now: u64,
    ) -> Result<Signed, String> {
        let key = request.key.map_or("", Key::as_str);
        let path = format!("{}/{key}", self.path_prefix);
        let url = self.url(key, &request.parameters)?;
        let mut headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (&**name, value.as_str())).collect();
        headers.push((HOST.as_str(), &self.host));
        if let Some(token) = &credentials.token {
            headers.push((Names::SECURITY_TOKEN, token.reveal()));
        }
        let parameters: Vec<(&str, &str)> =
            request.parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let signable = Signable {
            method: request.method.as_str(),
            path: &path,
            parameters: &parameters,
            headers: &headers,
        };
        let validity = Validity::around(now);
        let authorization =
            sign::authorization(signable, &credentials.secret_id, credentials.secret_key.reveal(), validity);
        let mut headers = header_map(&headers)?;
        if let Some(token) = headers.get_mut(Names::SECURITY_TOKEN) {
            token.set_sensitive(true);
        }
        let mut authorization = HeaderValue::from_str(&authorization)
            .map_err(|_| "the secret ID cannot stand in a header".to_owned())?;
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
        Ok(Signed { method: request.method.clone(), url, headers, payload: request.payload.clone() })
    }

    fn url(&self, key: &str, parameters: &[(&str, String)]) -> Result<Url, String> {
        let path = format!("{}/{}", self.path_prefix, encoded_key(key));
        // The documentation writes `?uploads`; with the `=` the vendor's SDK sends, it means the same.
        let pairs: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let query = (!pairs.is_empty()).then(|| pairs.join("&"));
        let mut target = format!("{}{path}", self.origin);
        if let Some(query) = &query {
            target.extend(["?", query]);
        }
        let url = Url::parse(&target).map_err(|error| format!("no URL can be made of the key: {error}"))?;
        if url.path() != path || url.query() != query.as_deref() {
            return Err("the HTTP library would ask for another object".to_owned());
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str, addressing: Addressing) -> StoreConfig {
        StoreConfig {
            bucket: "examplebucket-1250000000".to_owned(),
            endpoint: endpoint.to_owned(),
            https: true,
            addressing,
            secret_id: "id".to_owned(),
            secret_key: Secret::new("key"),
            token: None,
            ca_file: None,
            proxy: None,
            storage_class: None,
            sse: None,
            timeout: std::time::Duration::from_secs(60),
        }
    }

    fn get(place: &Place, key: &str) -> Signed {
        let key = Key::new(key).unwrap();
        place.sign(&Request::of_key(Operation::GetObject, Method::GET, &key), 1_700_000_060).unwrap()
    }

    #[test]
    fn the_bucket_stands_in_the_host_or_in_the_path() {
        let place = Place::new(&config("cos.ap-beijing.myqcloud.com", Addressing::Virtual)).unwrap();
        let signed = get(&place, "a b/报告");
        assert_eq!(
            signed.url.as_str(),
            "https://examplebucket-1250000000.cos.ap-beijing.myqcloud.com/a%20b/%E6%8A%A5%E5%91%8A"
        );
        assert_eq!(signed.headers[HOST], "examplebucket-1250000000.cos.ap-beijing.myqcloud.com");
        let place = Place::new(&config("127.0.0.1:9980", Addressing::Path)).unwrap();
        let signed = get(&place, "k");
        assert_eq!(signed.url.as_str(), "https://127.0.0.1:9980/examplebucket-1250000000/k");
        assert_eq!(signed.headers[HOST], "127.0.0.1:9980");
        assert_eq!(
            place.copy_source(&Key::new("a /./b+").unwrap()),
            "examplebucket-1250000000.127.0.0.1:9980/a%20/./b%2B"
        );
        // The port of the scheme is not written by the client, so it is not signed either.
        let place = Place::new(&config("COS.example.com:443", Addressing::Path)).unwrap();
        assert_eq!(get(&place, "k").headers[HOST], "cos.example.com");
        assert_eq!(get(&place, "k").url.as_str(), "https://cos.example.com/examplebucket-1250000000/k");
    }

    proptest::proptest! {
        #[test]
        fn every_key_has_a_url_that_means_it(text in r"[./\\\\%2eE+ \t\x00-\x20a-c\PC]{1,40}", bucket_in_path: bool) {
            let addressing = if bucket_in_path { Addressing::Path } else { Addressing::Virtual };
            let place = Place::new(&config("cos.example.com", addressing)).unwrap();
            if let Ok(key) = Key::new(&text) {
                let signed = get(&place, key.as_str());
                let path = percent_encoding::percent_decode_str(signed.url.path()).decode_utf8().unwrap();
                let bucket = if bucket_in_path { "/examplebucket-1250000000" } else { "" };
                proptest::prop_assert_eq!(&*path, format!("{bucket}/{text}"));
            }
        }
    }

    #[test]
    fn an_endpoint_is_a_host() {
        for endpoint in ["", "a b", "host/path", "user@host", "host?x", "http://host", "host:port"] {
            Place::new(&config(endpoint, Addressing::Path)).unwrap_err();
        }
    }

    #[test]
    fn secrets_that_cannot_be_sent_are_found_at_the_start() {
        let mut config = config("cos.ap-beijing.myqcloud.com", Addressing::Virtual);
        config.token = Some(Secret::new("to\nken"));
        let error = Place::new(&config).unwrap_err().to_string();
        assert!(error.contains("x-cos-security-token") && !error.contains("to\nken"), "{error}");
    }

    #[test]
    fn credentials_are_renewed_or_stay_as_they_were() {
        let mut config = config("cos.ap-beijing.myqcloud.com", Addressing::Virtual);
        let place = Place::new(&config).unwrap();
        let signed_by = |place: &Place| get(place, "k").headers[AUTHORIZATION].to_str().unwrap().to_owned();
        config.secret_id = "second".to_owned();
        place.renew_credentials(&config).unwrap();
        assert!(signed_by(&place).contains("q-ak=second&"), "{}", signed_by(&place));
        config.secret_id = "bad\n".to_owned();
        place.renew_credentials(&config).unwrap_err();
        assert!(signed_by(&place).contains("q-ak=second&"));
    }

    #[test]
    fn tokens_are_signed_and_sensitive_values_do_not_print() {
        let mut config = config("cos.ap-beijing.myqcloud.com", Addressing::Virtual);
        config.token = Some(Secret::new("the-token"));
        let place = Place::new(&config).unwrap();
        let signed = get(&place, "k");
        let authorization = signed.headers[AUTHORIZATION].to_str().unwrap();
        assert!(authorization.contains("q-header-list=host;x-cos-security-token&"), "{authorization}");
        let printed = format!("{place:?} {signed:?}");
        assert!(!printed.contains("the-token") && !printed.contains("q-signature"), "{printed}");
    }
}
