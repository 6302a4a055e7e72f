//! Answers: status, headers in the very case COS writes them, and one of a few kinds of body.
//!
//! The vendor's SDK hands header names on as received, so `ETag` must be `ETag` and `x-cos-…` lower case.

use std::{
    borrow::Cow,
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tokio::task::JoinHandle;

use super::{
    content::Content,
    dialect::Dialect,
    document::{DECLARATION, Xml},
    error::ApiError,
};

/// An answer that has not been written yet.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(Cow<'static, str>, String)>,
    pub(super) body: ResponseBody,
}

/// What follows the head.
#[derive(Debug)]
pub(super) enum ResponseBody {
    Empty,
    /// HEAD: no body, but the length of one.
    Length(u64),
    Document(String),
    Content(Content),
    /// Status and headers leave at once, blanks while the work goes on, the document (or an error's) at
    /// the end (*Complete Multipart Upload*).
    Late(JoinHandle<Result<String, ApiError>>),
}

impl Response {
    /// An answer without a body.
    pub(super) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: ResponseBody::Empty }
    }

    /// 200 with a document.
    pub(super) fn document(document: String) -> Self {
        let headers = vec![(Cow::Borrowed("Content-Type"), "application/xml".to_owned())];
        Self { status: 200, headers, body: ResponseBody::Document(document) }
    }

    /// 200 at once, with a document that takes its time.
    pub(super) fn late(work: impl Future<Output = Result<String, ApiError>> + Send + 'static) -> Self {
        let headers = vec![(Cow::Borrowed("Content-Type"), "application/xml".to_owned())];
        Self { status: 200, headers, body: ResponseBody::Late(tokio::spawn(work)) }
    }

    #[must_use]
    pub(super) fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Its head, up to and with the empty line.
    pub(super) fn head(&self, frame: &Frame<'_>) -> Vec<u8> {
        let mut head = Vec::with_capacity(512);
        let mut line = |text: std::fmt::Arguments<'_>| {
            head.write_fmt(text).expect("a Vec takes every write");
            head.extend_from_slice(b"\r\n");
        };
        line(format_args!("HTTP/1.1 {} {}", self.status, reason(self.status)));
        for (name, value) in &self.headers {
            line(format_args!("{}: {value}", frame.dialect.header_name(name)));
        }
        match &self.body {
            ResponseBody::Late(_) => line(format_args!("Transfer-Encoding: chunked")),
            ResponseBody::Empty => line(format_args!("Content-Length: 0")),
            ResponseBody::Length(bytes) => line(format_args!("Content-Length: {bytes}")),
            ResponseBody::Document(text) => line(format_args!("Content-Length: {}", text.len())),
            ResponseBody::Content(content) => line(format_args!("Content-Length: {}", content.len())),
        }
        line(format_args!("Connection: {}", if frame.keep_alive { "keep-alive" } else { "close" }));
        line(format_args!("Date: {}", frame.date));
        line(format_args!("Server: tencent-cos"));
        line(format_args!("{}: {}", frame.dialect.header_name("x-cos-request-id"), frame.request_id));
        if self.status >= 300 {
            line(format_args!(
                "{}: {}",
                frame.dialect.header_name("x-cos-trace-id"),
                trace_id(frame.request_id)
            ));
        }
        line(format_args!(""));
        head
    }
}

/// What every answer carries.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) keep_alive: bool,
    pub(super) date: String,
    pub(super) request_id: &'a str,
    pub(super) dialect: Dialect,
}

/// The answer to a refusal; a HEAD gets no body.
pub(super) fn refusal(error: &ApiError, resource: &str, request_id: &str, is_head: bool) -> Response {
    let response = if is_head {
        Response::empty(error.status).with("Content-Type", "application/xml")
    } else {
        let document = format!("{DECLARATION}{}", error_element(error, resource, request_id));
        let mut response = Response::document(document);
        response.status = error.status;
        response
    };
    if error.status == 304 { Response::empty(304) } else { response }
}

/// `<Error>…</Error>`, none of its elements empty.
pub(super) fn error_element(error: &ApiError, resource: &str, request_id: &str) -> String {
    // Of either dialect: the error of S3 has no name space.
    let mut xml = Xml::bare(Dialect::Cos);
    xml.open("Error");
    xml.leaf("Code", &error.code);
    xml.leaf("Message", &error.message);
    xml.leaf("Resource", resource);
    xml.leaf("RequestId", request_id);
    xml.leaf("TraceId", &trace_id(request_id));
    xml.close("Error");
    xml.finish()
}

/// A request ID in the form of COS: base64 of `hex_hex_hex_hex`.
pub(super) fn new_request_id(now: i64) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0x1a2b);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    BASE64.encode(format!("{now:x}_{process:x}_{:x}_{count:x}", fastrand::u16(..)))
}

fn trace_id(request_id: &str) -> String {
    BASE64.encode(format!("8efc6b2d3b069ca89454d10b9ef00187{request_id}"))
}

/// The reason phrase; clients ignore it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        416 => "Requested Range Not Satisfiable",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_keep_their_case() {
        let response = Response::empty(200).with("ETag", "\"x\"").with("x-cos-hash-crc64ecma", "0");
        let frame = Frame { keep_alive: true, date: "D".into(), request_id: "R", dialect: Dialect::Cos };
        let head = String::from_utf8(response.head(&frame)).unwrap();
        assert_eq!(
            head,
            "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nx-cos-hash-crc64ecma: 0\r\nContent-Length: 0\r\n\
             Connection: keep-alive\r\nDate: D\r\nServer: tencent-cos\r\nx-cos-request-id: R\r\n\r\n"
        );
    }
}
