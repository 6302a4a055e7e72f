//! Service and bucket operations: GET Service, HEAD/PUT/DELETE Bucket, lists.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{
    clock::{copy_date, list_date},
    dialect::Dialect,
    document::Xml,
    error::{self, ApiError},
    fault::FaultKind,
    list::{Page, Query, page},
    response::Response,
    service::{Call, Service},
};

/// Largest page (*GET Bucket (List Objects)*).
const ENTRIES_MAX: u64 = 1000;
/// The root account that everything belongs to.
pub(super) const ACCOUNT: &str = "qcs::cam::uin/100000000001:uin/100000000001";

impl Service {
    pub(super) fn get_service(&self, call: &Call<'_>) -> Response {
        let mut xml = Xml::with_declaration(call.dialect());
        xml.open("ListAllMyBucketsResult");
        xml.open("Owner");
        xml.leaf("ID", ACCOUNT);
        xml.leaf("DisplayName", "100000000001");
        xml.close("Owner");
        xml.open("Buckets");
        for (name, bucket) in self.store.read().iter() {
            xml.open("Bucket");
            xml.leaf("Name", name);
            xml.leaf("Location", &self.region);
            xml.leaf("CreationDate", &copy_date(bucket.created));
            xml.leaf("BucketType", "cos");
            xml.close("Bucket");
        }
        xml.close("Buckets");
        xml.leaf("IsTruncated", "false");
        xml.close("ListAllMyBucketsResult");
        Response::document(xml.finish())
    }

    #[expect(clippy::unnecessary_wraps, reason = "one shape for all operations")]
    pub(super) fn head_bucket(&self, _call: &Call<'_>) -> Result<Response, ApiError> {
        Ok(Response::empty(200).with("x-cos-bucket-region", self.region.clone()))
    }

    pub(super) fn put_bucket(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let name = call.bucket();
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_valid = name.len() <= 60
            && name.bytes().all(inner)
            && !name.starts_with('-')
            && !name.ends_with('-')
            && name.contains('-');
        if !is_valid {
            return Err(error::INVALID_BUCKET_NAME);
        }
        self.store.create_bucket(name, self.clock.now())?;
        Ok(Response::empty(200))
    }

    pub(super) fn delete_bucket(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        self.store.delete_bucket(call.bucket())?;
        Ok(Response::empty(204))
    }

    #[expect(clippy::unnecessary_wraps, reason = "one shape for all operations")]
    pub(super) fn get_bucket_location(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let mut xml = Xml::with_declaration(call.dialect());
        xml.leaf("LocationConstraint", &self.region);
        Ok(Response::document(xml.finish()))
    }

    #[expect(clippy::unnecessary_wraps, reason = "one shape for all operations")]
    pub(super) fn get_bucket_versioning(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let mut xml = Xml::with_declaration(call.dialect());
        xml.leaf("VersioningConfiguration", "");
        Ok(Response::document(xml.finish()))
    }

    pub(super) fn list_objects(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        if call.dialect() == Dialect::S3 && call.request.parameter("list-type") == Some("2") {
            return self.list_objects_v2(call);
        }
        let listing = Listing::of(call, "max-keys")?;
        let marker = call.request.parameter("marker").unwrap_or_default();
        let page = self.page(call, &listing, marker)?;
        let mut xml = Xml::with_declaration(call.dialect()).url_encoded(listing.url_encoded);
        xml.open("ListBucketResult");
        xml.leaf("Name", call.bucket());
        if listing.url_encoded {
            xml.leaf("EncodingType", "url");
        }
        xml.key("Prefix", listing.prefix);
        xml.key("Marker", marker);
        xml.number("MaxKeys", listing.entries_max);
        if !listing.delimiter.is_empty() {
            xml.key("Delimiter", listing.delimiter);
        }
        xml.leaf("IsTruncated", if page.next_marker.is_some() { "true" } else { "false" });
        if let Some(next) = &page.next_marker {
            xml.key("NextMarker", next);
        }
        write_groups(&mut xml, &page.groups);
        write_contents(&mut xml, &page, Some(appid(call.bucket())));
        xml.close("ListBucketResult");
        Ok(Response::document(xml.finish()).with("x-cos-bucket-region", self.region.clone()))
    }

    /// The list that S3 clients ask for since 2016: a token where the marker was, owners only on demand.
    fn list_objects_v2(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let listing = Listing::of(call, "max-keys")?;
        let start = call.request.parameter("start-after").unwrap_or_default();
        let token = call.request.parameter("continuation-token");
        let marker = match token {
            None => start.to_owned(),
            Some(token) => marker_of(token)?,
        };
        let page = self.page(call, &listing, &marker)?;
        let mut xml = Xml::with_declaration(call.dialect()).url_encoded(listing.url_encoded);
        xml.open("ListBucketResult");
        xml.leaf("Name", call.bucket());
        if listing.url_encoded {
            xml.leaf("EncodingType", "url");
        }
        xml.key("Prefix", listing.prefix);
        xml.key("StartAfter", start);
        if let Some(token) = token {
            xml.leaf("ContinuationToken", token);
        }
        xml.number("KeyCount", (page.objects.len() + page.groups.len()) as u64);
        xml.number("MaxKeys", listing.entries_max);
        if !listing.delimiter.is_empty() {
            xml.key("Delimiter", listing.delimiter);
        }
        xml.leaf("IsTruncated", if page.next_marker.is_some() { "true" } else { "false" });
        if let Some(next) = &page.next_marker {
            xml.leaf("NextContinuationToken", &BASE64.encode(next));
        }
        write_groups(&mut xml, &page.groups);
        let wants_owner = call.request.parameter("fetch-owner") == Some("true");
        write_contents(&mut xml, &page, wants_owner.then_some(appid(call.bucket())));
        xml.close("ListBucketResult");
        Ok(Response::document(xml.finish()).with("x-cos-bucket-region", self.region.clone()))
    }

    /// Answers as a bucket that never had versions.
    pub(super) fn list_object_versions(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let listing = Listing::of(call, "max-keys")?;
        let marker = call.request.parameter("key-marker").unwrap_or_default();
        let page = self.page(call, &listing, marker)?;
        let mut xml = Xml::with_declaration(call.dialect()).url_encoded(listing.url_encoded);
        xml.open("ListVersionsResult");
        if listing.url_encoded {
            xml.leaf("EncodingType", "url");
        }
        xml.leaf("Name", call.bucket());
        xml.key("Prefix", listing.prefix);
        xml.key("KeyMarker", marker);
        xml.leaf("VersionIdMarker", "");
        xml.number("MaxKeys", listing.entries_max);
        xml.leaf("IsTruncated", if page.next_marker.is_some() { "true" } else { "false" });
        if let Some(next) = &page.next_marker {
            xml.key("NextKeyMarker", next);
            xml.leaf("NextVersionIdMarker", "");
        }
        if !listing.delimiter.is_empty() {
            xml.key("Delimiter", listing.delimiter);
        }
        write_groups(&mut xml, &page.groups);
        let owner = appid(call.bucket());
        for (key, object) in &page.objects {
            xml.open("Version");
            xml.key("Key", key);
            xml.leaf("VersionId", "");
            xml.leaf("IsLatest", "true");
            xml.leaf("LastModified", &list_date(object.modified));
            xml.leaf("ETag", &format!("\"{}\"", object.etag));
            xml.number("Size", object.content.len());
            xml.leaf("StorageClass", &object.attributes.storage_class);
            xml.account("Owner", owner);
            xml.close("Version");
        }
        xml.close("ListVersionsResult");
        Ok(Response::document(xml.finish()).with("x-cos-bucket-region", self.region.clone()))
    }

    fn page(&self, call: &Call<'_>, listing: &Listing<'_>, marker: &str) -> Result<Page, ApiError> {
        let query = Query {
            prefix: listing.prefix,
            delimiter: listing.delimiter,
            marker,
            entries_max: usize::try_from(listing.entries_max).unwrap_or_default(),
        };
        let cutoff_ms = call.trouble.armed(FaultKind::ListLag).map(|lag| match lag.fault.milliseconds {
            0 => lag.set_ms,
            milliseconds => self.clock.now_ms() - milliseconds,
        });
        let only = call.trouble.of(FaultKind::ListLag).and_then(|fault| fault.key.as_deref());
        let before = cutoff_ms.map(|cutoff_ms| self.store.before(call.bucket(), cutoff_ms));
        let buckets = self.store.read();
        let objects = &buckets.get(call.bucket()).ok_or(error::NO_SUCH_BUCKET)?.objects;
        let Some(before) = before else {
            return Ok(page(objects, query));
        };
        let mut then = objects.clone();
        for (key, object) in before {
            if only.is_some_and(|only| only.as_bytes() != &*key) {
                continue;
            }
            match object {
                Some(object) => then.insert(key, object),
                None => then.remove(&key),
            };
        }
        Ok(page(&then, query))
    }
}

/// What all lists are asked for.
pub(super) struct Listing<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: &'a str,
    pub(super) entries_max: u64,
    pub(super) url_encoded: bool,
}

impl<'a> Listing<'a> {
    /// Reads the parameters; `maximum` is the name of the page's length.
    pub(super) fn of(call: &Call<'a>, maximum: &'static str) -> Result<Self, ApiError> {
        let request = call.request;
        let delimiter = request.parameter("delimiter").unwrap_or_default();
        if delimiter.chars().count() > 1 && call.dialect() == Dialect::Cos {
            return Err(ApiError::new(400, "InvalidDelimiter", "The delimiter is one character."));
        }
        Ok(Self {
            prefix: request.parameter("prefix").unwrap_or_default(),
            delimiter,
            entries_max: page_length(call, maximum)?,
            url_encoded: is_url_encoded(call)?,
        })
    }
}

/// The wanted length of a page; 1,000 where none is given, and at most.
pub(super) fn page_length(call: &Call<'_>, name: &'static str) -> Result<u64, ApiError> {
    match call.request.filled_parameter(name) {
        None => Ok(ENTRIES_MAX),
        Some(digits) => digits
            .parse::<u64>()
            .map(|number| number.min(ENTRIES_MAX))
            .map_err(|_| ApiError::invalid_argument(format!("{name} is not a number"))),
    }
}

/// Whether keys are to be percent-encoded.
pub(super) fn is_url_encoded(call: &Call<'_>) -> Result<bool, ApiError> {
    match call.request.filled_parameter("encoding-type") {
        None => Ok(false),
        Some("url") => Ok(true),
        Some(_) => Err(ApiError::invalid_argument("the encoding type is not url")),
    }
}

/// The marker that a continuation token stands for.
fn marker_of(token: &str) -> Result<String, ApiError> {
    let marker = BASE64.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    marker.ok_or_else(|| ApiError::invalid_argument("the continuation token is none of ours"))
}

fn write_contents(xml: &mut Xml, page: &Page, owner: Option<&str>) {
    for (key, object) in &page.objects {
        xml.open("Contents");
        xml.key("Key", key);
        xml.leaf("LastModified", &list_date(object.modified));
        xml.leaf("ETag", &format!("\"{}\"", object.etag));
        xml.number("Size", object.content.len());
        if let Some(owner) = owner {
            xml.account("Owner", owner);
        }
        xml.leaf("StorageClass", &object.attributes.storage_class);
        xml.close("Contents");
    }
}

pub(super) fn write_groups(xml: &mut Xml, groups: &[String]) {
    for group in groups {
        xml.open("CommonPrefixes");
        xml.key("Prefix", group);
        xml.close("CommonPrefixes");
    }
}

/// The account of a bucket: what stands behind the last dash of its name.
pub(super) fn appid(bucket: &str) -> &str {
    bucket.rsplit_once('-').map_or(bucket, |(_, appid)| appid)
}
