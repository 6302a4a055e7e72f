//! What stands in documents.

use std::{fmt::Write as _, time::SystemTime};

use percent_encoding::percent_decode_str;
use quick_xml::{Reader, de, escape::escape, events::Event};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Read, Unreadable, headers::parse_crc64, parse_time};
use crate::cos::{Crc64, ETag, Key, ListPage, ListedObject, OpenUpload, PartNumber, PartStored, UploadId};

/// What COS says about a request it does not carry out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cos) struct ErrorDocument {
    pub(in crate::cos) code: Option<String>,
    pub(in crate::cos) message: Option<String>,
    pub(in crate::cos) request_id: Option<String>,
}

/// The error in `body`: XML, or the JSON that gateways before COS send. `None` where there is none.
pub(in crate::cos) fn error_document(body: &[u8]) -> Option<ErrorDocument> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    #[derive(Default)]
    struct Xml {
        code: Option<String>,
        message: Option<String>,
        request_id: Option<String>,
    }
    #[derive(Deserialize)]
    struct Json {
        code: serde_json::Value,
        message: Option<String>,
        request_id: Option<String>,
    }
    if let Ok(text) = document(body, "Error") {
        let Xml { code, message, request_id } = de::from_str(&text).unwrap_or_default();
        return Some(ErrorDocument { code, message, request_id });
    }
    let Json { code, message, request_id } = serde_json::from_slice(body).ok()?;
    let code = code.as_str().map_or_else(|| code.to_string(), str::to_owned);
    Some(ErrorDocument { code: Some(code), message, request_id })
}

/// One page of *GET Bucket (List Objects)*.
pub(in crate::cos) fn list_page(body: &[u8]) -> Read<ListPage> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Page {
        #[serde(default)]
        encoding_type: String,
        #[serde(default)]
        is_truncated: bool,
        next_marker: Option<String>,
        #[serde(default)]
        contents: Vec<Object>,
        #[serde(default)]
        common_prefixes: Vec<Group>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Object {
        key: String,
        last_modified: String,
        #[serde(rename = "ETag")]
        etag: String,
        size: u64,
    }
    let page: Page = parse(body, "ListBucketResult")?;
    let plain = |text| decoded(text, &page.encoding_type);
    let object = |object: Object| {
        Ok(ListedObject {
            key: plain(object.key),
            size: object.size,
            etag: ETag::new(&object.etag),
            last_modified: parse_time(&object.last_modified)?,
        })
    };
    let objects = page.contents.into_iter().map(object).collect::<Read<Vec<_>>>()?;
    let prefixes: Vec<String> = page.common_prefixes.into_iter().map(|group| plain(group.prefix)).collect();
    let next_marker = page.next_marker.map(plain).filter(|marker| !marker.is_empty());
    // The page says that NextMarker is always there when the list is truncated. Were it not: the last entry.
    let last = || objects.last().map(|object| object.key.clone()).max(prefixes.last().cloned());
    let next_marker = if page.is_truncated { next_marker.or_else(last) } else { None };
    if page.is_truncated && next_marker.is_none() {
        return Err(Unreadable("a truncated list that tells no place to go on".to_owned()));
    }
    Ok(ListPage { objects, prefixes, next_marker })
}

/// Where the next page begins, as far as the beginning of a list tells: COS says so before the first entry. `None`
/// where it does not, or has not got so far.
pub(in crate::cos) fn early_marker(beginning: &[u8]) -> Option<String> {
    let entry =
        beginning.windows(ENTRY_BYTES).position(|text| text == b"<Contents" || text == b"<CommonPr")?;
    list_page(&[&beginning[..entry], b"</ListBucketResult>"].concat()).ok()?.next_marker
}

const ENTRY_BYTES: usize = b"<Contents".len();

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Group {
    prefix: String,
}

/// The upload ID that *Initiate Multipart Upload* gives. The key beside it is raw text and not looked at.
pub(in crate::cos) fn initiated(body: &[u8]) -> Read<UploadId> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Initiated {
        upload_id: String,
    }
    let Initiated { upload_id } = parse(body, "InitiateMultipartUploadResult")?;
    if upload_id.is_empty() {
        return Err(Unreadable("an empty upload ID".to_owned()));
    }
    Ok(UploadId::new(&upload_id))
}

/// What a copy of an object or of a part made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cos) struct Copied {
    pub(in crate::cos) etag: ETag,
    pub(in crate::cos) crc64: Option<Crc64>,
    pub(in crate::cos) last_modified: Option<SystemTime>,
}

/// The result of *PUT Object - Copy* (`root` is `CopyObjectResult`) or of *Upload Part - Copy*
/// (`CopyPartResult`), which is one only with that root and an ETag.
pub(in crate::cos) fn copied(body: &[u8], root: &str) -> Read<Copied> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Xml {
        #[serde(rename = "ETag")]
        etag: String,
        #[serde(rename = "CRC64")]
        crc64: Option<String>,
        last_modified: Option<String>,
    }
    let Xml { etag, crc64, last_modified } = parse(body, root)?;
    Ok(Copied {
        etag: present(&etag)?,
        crc64: crc64.filter(|text| !text.is_empty()).map(|text| parse_crc64(&text)).transpose()?,
        last_modified: last_modified.map(|text| parse_time(&text)).transpose()?,
    })
}

/// What *Complete Multipart Upload* made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cos) struct Completed {
    pub(in crate::cos) etag: ETag,
}

/// The result of *Complete Multipart Upload*, which is one only with its root and an ETag. The key beside it
/// is raw text and not looked at.
pub(in crate::cos) fn completed(body: &[u8]) -> Read<Completed> {
    #[derive(Deserialize)]
    struct Xml {
        #[serde(rename = "ETag")]
        etag: String,
    }
    let Xml { etag } = parse(body, "CompleteMultipartUploadResult")?;
    Ok(Completed { etag: present(&etag)? })
}

fn present(etag: &str) -> Read<ETag> {
    let etag = ETag::new(etag);
    if etag.as_str().is_empty() { Err(Unreadable("an empty ETag".to_owned())) } else { Ok(etag) }
}

/// One page of *List Parts*, and the marker of the next one.
pub(in crate::cos) fn parts_page(body: &[u8]) -> Read<(Vec<PartStored>, Option<String>)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Page {
        #[serde(default)]
        is_truncated: bool,
        next_part_number_marker: Option<String>,
        #[serde(default)]
        part: Vec<Part>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Part {
        part_number: u16,
        #[serde(rename = "ETag")]
        etag: String,
        size: u64,
        last_modified: Option<String>,
    }
    let page: Page = parse(body, "ListPartsResult")?;
    let stored = |part: Part| {
        let number = PartNumber::new(part.part_number);
        let number = number.ok_or_else(|| Unreadable(format!("no part number: {}", part.part_number)))?;
        let stored_at = part.last_modified.as_deref().map(parse_time).transpose()?;
        Ok(PartStored { number, etag: present(&part.etag)?, bytes: part.size, crc64: None, stored_at })
    };
    let parts = page.part.into_iter().map(stored).collect::<Read<Vec<_>>>()?;
    let last = || parts.last().map(|part: &PartStored| part.number.get().to_string());
    let marker = page.next_part_number_marker.filter(|marker| !marker.is_empty()).or_else(last);
    Ok((parts, marker.filter(|_| page.is_truncated)))
}

/// One page of *List Multipart Uploads*.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cos) struct UploadsPage {
    pub(in crate::cos) uploads: Vec<OpenUpload>,
    /// Key marker and upload ID marker of the next page.
    pub(in crate::cos) next: Option<(String, String)>,
}

/// One page of *List Multipart Uploads*.
pub(in crate::cos) fn uploads_page(body: &[u8]) -> Read<UploadsPage> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Page {
        // The page also spells it `Encoding-type`.
        #[serde(default, alias = "Encoding-type")]
        encoding_type: String,
        #[serde(default)]
        is_truncated: bool,
        next_key_marker: Option<String>,
        next_upload_id_marker: Option<String>,
        #[serde(default)]
        upload: Vec<Upload>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Upload {
        key: String,
        #[serde(alias = "UploadID")]
        upload_id: String,
        initiated: String,
    }
    let page: Page = parse(body, "ListMultipartUploadsResult")?;
    let plain = |text| decoded(text, &page.encoding_type);
    let open = |upload: Upload| {
        Ok(OpenUpload {
            key: plain(upload.key),
            upload: UploadId::new(&upload.upload_id),
            initiated: parse_time(&upload.initiated)?,
        })
    };
    let uploads = page.upload.into_iter().map(open).collect::<Read<Vec<_>>>()?;
    let last = || uploads.last().map(|last: &OpenUpload| (last.key.clone(), last.upload.as_str().to_owned()));
    let told = page.next_key_marker.map(plain).zip(page.next_upload_id_marker);
    let next = if page.is_truncated { told.or_else(last) } else { None };
    if page.is_truncated && next.is_none() {
        return Err(Unreadable("a truncated list that tells no place to go on".to_owned()));
    }
    Ok(UploadsPage { uploads, next })
}

/// What became of one key of a multiple delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cos) struct DeleteOutcome {
    pub(in crate::cos) key: String,
    pub(in crate::cos) error: ErrorDocument,
}

/// The keys that *DELETE Multiple Objects* could not delete.
pub(in crate::cos) fn deleted(body: &[u8]) -> Read<Vec<DeleteOutcome>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result {
        #[serde(default)]
        error: Vec<Failure>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Failure {
        key: String,
        code: Option<String>,
        message: Option<String>,
    }
    let Result { error } = parse(body, "DeleteResult")?;
    let outcome = |Failure { key, code, message }| DeleteOutcome {
        key,
        error: ErrorDocument { code, message, request_id: None },
    };
    Ok(error.into_iter().map(outcome).collect())
}

/// Whether `key` survives the way through an XML document unchanged. Control characters do not: most are no
/// XML, and parsers normalise line ends and trim blanks.
pub(in crate::cos) fn fits_into_xml(key: &Key) -> bool {
    let text = key.as_str();
    let odd = |piece: char| piece.is_control() || matches!(piece, '\u{fffe}' | '\u{ffff}');
    !text.chars().any(odd) && text.trim() == text
}

/// The body of *DELETE Multiple Objects*, quiet: only failures are told.
pub(in crate::cos) fn delete_document<'a>(keys: impl Iterator<Item = &'a Key>) -> String {
    let mut document = String::from(r#"<?xml version="1.0" encoding="utf-8"?><Delete><Quiet>true</Quiet>"#);
    for key in keys {
        write!(document, "<Object><Key>{}</Key></Object>", escape(key.as_str())).expect(TO_A_STRING);
    }
    document.push_str("</Delete>");
    document
}

/// The body of *Complete Multipart Upload*.
pub(in crate::cos) fn complete_document(parts: &[PartStored]) -> String {
    let mut document = String::from("<CompleteMultipartUpload>");
    for part in parts {
        let (number, etag) = (part.number.get(), escape(part.etag.as_str()));
        let part =
            format_args!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag></Part>");
        document.write_fmt(part).expect(TO_A_STRING);
    }
    document.push_str("</CompleteMultipartUpload>");
    document
}

const TO_A_STRING: &str = "writing to a String cannot fail";

fn parse<T: DeserializeOwned>(body: &[u8], root: &str) -> Read<T> {
    let text = document(body, root)?;
    de::from_str(&text).map_err(|error| Unreadable(format!("{root}: {error}")))
}

/// The text of `body`, if its root element has the local name `root`.
fn document<'a>(body: &'a [u8], root: &str) -> Read<std::borrow::Cow<'a, str>> {
    let text = String::from_utf8_lossy(body);
    // A parser takes no blanks before a declaration.
    let text = match text {
        std::borrow::Cow::Borrowed(text) => std::borrow::Cow::Borrowed(text.trim_start()),
        std::borrow::Cow::Owned(text) => std::borrow::Cow::Owned(text.trim_start().to_owned()),
    };
    let mut reader = Reader::from_str(&text);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start) | Event::Empty(start)) => {
                let found = start.local_name();
                let found = found.as_ref();
                if found == root {
                    break;
                }
                return Err(Unreadable(format!("{found} instead of {root}")));
            }
            Ok(Event::Eof) => return Err(Unreadable(format!("no document instead of {root}"))),
            Ok(_) => {}
            Err(error) => return Err(Unreadable(format!("no XML instead of {root}: {error}"))),
        }
    }
    Ok(text)
}

/// In a list that was asked for so, keys are percent-encoded, and `+` is a plus.
fn decoded(text: String, encoding_type: &str) -> String {
    if !encoding_type.trim().eq_ignore_ascii_case("url") {
        return text;
    }
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const LIST: &str = r#"<?xml version='1.0' encoding='utf-8' ?>
<ListBucketResult>
	<Name>examplebucket-1250000000</Name>
	<EncodingType>url</EncodingType>
	<Prefix/>
	<Marker/>
	<MaxKeys>1000</MaxKeys>
	<Delimiter>/</Delimiter>
	<IsTruncated>true</IsTruncated>
	<NextMarker>%E7%85%A7%E7%89%87/2020%E5%B9%B4/a+b%20c</NextMarker>
	<CommonPrefixes><Prefix>example-folder-1/</Prefix></CommonPrefixes>
	<CommonPrefixes><Prefix>example%2Bfolder%202/</Prefix></CommonPrefixes>
	<Contents>
		<Key>a+b%09.jpg</Key>
		<LastModified>2020-12-10T03:37:30.000Z</LastModified>
		<ETag>&quot;0f0cd12c48979d1bf3f95255a36cb861&quot;</ETag>
		<Size>20</Size>
		<Owner><ID>1250000000</ID><DisplayName>1250000000</DisplayName></Owner>
		<StorageClass>STANDARD</StorageClass>
	</Contents>
</ListBucketResult>"#;

    #[test]
    fn a_list_is_read() {
        let page = list_page(LIST.as_bytes()).unwrap();
        assert_eq!(page.prefixes, ["example-folder-1/", "example+folder 2/"]);
        assert_eq!(page.next_marker.as_deref(), Some("照片/2020年/a+b c"));
        assert_eq!(
            page.objects,
            [ListedObject {
                key: "a+b\t.jpg".to_owned(),
                size: 20,
                etag: ETag::new("0f0cd12c48979d1bf3f95255a36cb861"),
                last_modified: UNIX_EPOCH + Duration::from_secs(1_607_571_450),
            }]
        );
        let whole = list_page(LIST.replace("true", "false").as_bytes()).unwrap();
        assert_eq!(whole.next_marker, None);
        let at = LIST.find("<CommonPrefixes>").unwrap();
        let early = |bytes: usize| early_marker(&LIST.as_bytes()[..bytes]);
        assert!((0..at).all(|bytes| early(bytes).is_none()));
        assert_eq!((early(at + 9), early(LIST.len())), (page.next_marker.clone(), page.next_marker.clone()));
        let others = [LIST.replace("true", "false"), LIST.replace("ListBucketResult", "Error")];
        assert!(others.iter().all(|text| early_marker(text.as_bytes()).is_none()));
        let (entries, end) = (&LIST[at..LIST.len() - "</ListBucketResult>".len()], "</ListBucketResult>");
        let marker = &LIST[LIST.find("<NextMarker>").unwrap()..at];
        let last = format!("{}{entries}{marker}{end}", LIST[..at].replace(marker, ""));
        assert_eq!(early_marker(last.as_bytes()), None);
        assert_eq!(list_page(last.as_bytes()).unwrap(), page);
        let plain = list_page(LIST.replace("<EncodingType>url</EncodingType>", "").as_bytes()).unwrap();
        assert_eq!(plain.objects[0].key, "a+b%09.jpg");
        let mixed =
            LIST.replace("</ListBucketResult>", "<CommonPrefixes><Prefix>z/</Prefix></CommonPrefixes>");
        assert_eq!(list_page((mixed + "</ListBucketResult>").as_bytes()).unwrap().prefixes.len(), 3);
    }

    #[test]
    fn an_empty_list_is_read() {
        let page =
            list_page(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>").unwrap();
        assert_eq!(page, ListPage::default());
        assert_eq!(list_page(b"<ListBucketResult/>").unwrap(), ListPage::default());
    }

    #[test]
    fn a_truncated_list_always_tells_where_to_go_on() {
        let lacking = LIST.replace("NextMarker", "Other");
        assert_eq!(list_page(lacking.as_bytes()).unwrap().next_marker.as_deref(), Some("example+folder 2/"));
        let nowhere = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
        list_page(nowhere.as_bytes()).unwrap_err();
    }

    #[test]
    fn blanks_declarations_and_namespaces_may_stand_in_any_order() {
        let declaration = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
        let root = r#"<CompleteMultipartUploadResult xmlns="http://www.qcloud.com/document/product/436/7751">
            <Key>a&lt;b</Key><ETag>&quot;aa259a62513358f69e98e72e59856d88-3&quot;</ETag></CompleteMultipartUploadResult>"#;
        let blanks = "  \n  ";
        for text in [
            root.to_owned(),
            format!("{declaration}{blanks}{root}"),
            format!("{blanks}{declaration}{root}"),
            format!("{blanks}{root}{blanks}"),
            root.replace("CompleteM", "c:CompleteM").replace("xmlns", "xmlns:c"),
            root.replace("a&lt;b", "a\u{1}\u{8}b"),
            root.replace("a&lt;b", "a&#1;&#x8;b"),
        ] {
            let read = completed(text.as_bytes());
            assert_eq!(read.unwrap().etag.as_str(), "aa259a62513358f69e98e72e59856d88-3", "{text:?}");
        }
    }

    #[test]
    fn what_is_no_result_is_no_success() {
        for text in [
            "",
            "   ",
            "<?xml version='1.0'?>",
            "<Error><Code>InternalError</Code></Error>",
            "<CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>",
            "<CompleteMultipartUploadResult><Key>k</Key></CompleteMultipartUploadResult>",
            "<CompleteMultipartUploadResult><ETag>\"abc",
            "<CopyObjectResult><ETag>\"abc\"</ETag></CopyObjectResult>",
            "<html><body>Log in</body></html>",
            "not XML",
        ] {
            completed(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn errors_are_read_from_xml_and_json() {
        let xml = r"<?xml version='1.0' encoding='utf-8' ?>
<Error>
	<Code>NoSuchKey</Code>
	<Message>The specified key does not exist.</Message>
	<Resource>examplebucket-1250000000.cos.ap-beijing.myqcloud.com/exampleobject</Resource>
	<RequestId>NWYy</RequestId>
	<TraceId>OGVm</TraceId>
</Error>";
        let error = error_document(xml.as_bytes()).unwrap();
        assert_eq!(error.code.as_deref(), Some("NoSuchKey"));
        assert_eq!(error.message.as_deref(), Some("The specified key does not exist."));
        assert_eq!(error.request_id.as_deref(), Some("NWYy"));
        let json = br#"{"code":-5001,"message":"busy","request_id":"x"}"#;
        assert_eq!(error_document(json).unwrap().code.as_deref(), Some("-5001"));
        assert_eq!(error_document(b"<Error/>"), Some(ErrorDocument::default()));
        assert_eq!(error_document(b"<html>502 Bad Gateway</html>"), None);
        assert_eq!(error_document(b""), None);
    }

    #[test]
    fn results_of_copies_are_read() {
        let text = r#"<CopyObjectResult>
	<ETag>"ee8de918d05640145b18f70f4c3aa602"</ETag>
	<CRC64>16749565679157681890</CRC64>
	<LastModified>2020-04-10T18:20:30Z</LastModified>
</CopyObjectResult>"#;
        let copy = copied(text.as_bytes(), "CopyObjectResult").unwrap();
        assert_eq!(copy.crc64, Some(Crc64(16_749_565_679_157_681_890)));
        assert_eq!(copy.last_modified, Some(UNIX_EPOCH + Duration::from_secs(1_586_542_830)));
        let part = b"<CopyPartResult><ETag>\"ba82\"</ETag><LastModified>2017-09-04T04:45:45</LastModified></CopyPartResult>";
        assert_eq!(copied(part, "CopyPartResult").unwrap().crc64, None);
        copied(part, "CopyObjectResult").unwrap_err();
    }

    #[test]
    fn parts_and_uploads_are_read_page_by_page() {
        let text = r#"<ListPartsResult><Bucket>b</Bucket><PartNumberMarker>0</PartNumberMarker>
<Part><PartNumber>1</PartNumber><LastModified>2020-03-25T10:07:14.000Z</LastModified>
<ETag>"39270a968a357d24207e9911162507eb"</ETag><Size>1048576</Size></Part>
<NextPartNumberMarker>1</NextPartNumberMarker><MaxParts>1</MaxParts><IsTruncated>true</IsTruncated></ListPartsResult>"#;
        let (parts, next) = parts_page(text.as_bytes()).unwrap();
        assert_eq!(
            (parts[0].number, parts[0].bytes, next.as_deref()),
            (PartNumber::FIRST, 1_048_576, Some("1"))
        );
        assert_eq!(parts[0].stored_at, Some(parse_time("2020-03-25T10:07:14.000Z").unwrap()));
        assert_eq!(parts_page(text.replace("true", "false").as_bytes()).unwrap().1, None);
        let text = "<ListMultipartUploadsResult><EncodingType>url</EncodingType><KeyMarker/><UploadIdMarker/>
<IsTruncated>true</IsTruncated><NextKeyMarker>a%20b</NextKeyMarker><NextUploadIdMarker>1484</NextUploadIdMarker>
<Upload><Key>a%20b</Key><UploadId>1484</UploadId><Initiator><ID>1</ID></Initiator>
<Initiated>2017-06-12T10:13:05.000Z</Initiated></Upload></ListMultipartUploadsResult>";
        let page = uploads_page(text.as_bytes()).unwrap();
        assert_eq!((page.uploads[0].key.as_str(), page.uploads[0].upload.as_str()), ("a b", "1484"));
        assert_eq!(page.next, Some(("a b".to_owned(), "1484".to_owned())));
    }

    #[test]
    fn single_failures_of_a_multiple_delete_are_found() {
        let text = "<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b &amp; c</Key><Code>PathConflict</Code>
<Message>Path conflict.</Message></Error><Deleted><Key>d</Key></Deleted><Error><Key>e</Key></Error></DeleteResult>";
        let failed = deleted(text.as_bytes()).unwrap();
        assert_eq!(failed.len(), 2);
        assert_eq!(
            (failed[0].key.as_str(), failed[0].error.code.as_deref()),
            ("b & c", Some("PathConflict"))
        );
        assert_eq!(deleted(b"<DeleteResult/>").unwrap(), []);
    }

    #[test]
    fn documents_are_written_as_the_vendors_sdk_writes_them() {
        let part = |number, etag| PartStored {
            number: PartNumber::new(number).unwrap(),
            etag: ETag::new(etag),
            bytes: 1,
            crc64: None,
            stored_at: None,
        };
        assert_eq!(
            complete_document(&[part(1, "abc"), part(2, "d<e")]),
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;abc&quot;</ETag></Part>\
             <Part><PartNumber>2</PartNumber><ETag>&quot;d&lt;e&quot;</ETag></Part></CompleteMultipartUpload>"
        );
        let keys = ["a", "b&<报告>"].map(|key| Key::new(key).unwrap());
        assert_eq!(
            delete_document(keys.iter()),
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><Delete><Quiet>true</Quiet><Object><Key>a</Key></Object>\
             <Object><Key>b&amp;&lt;报告&gt;</Key></Object></Delete>"
        );
        for odd in ["a\u{1}", "a\nb", " a", "a ", "a\u{fffe}"] {
            assert!(!fits_into_xml(&Key::new(odd).unwrap()), "{odd:?}");
        }
    }
}
