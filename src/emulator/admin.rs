//! The admin port: counters, faults, pace, and a look inside, as JSON. No signatures: it is for tests, on
//! loopback.
//!
//! | Request | Does |
//! |---|---|
//! | `GET /requests`, `DELETE /requests` | `{"GetObject": {"count", "bytes_in", "bytes_out"}, …}`; sets all to 0 |
//! | `POST /faults`, `GET /faults` | sets a [`Fault`], answers `{"id": 1}`; all that are set |
//! | `DELETE /faults`, `DELETE /faults/ID` | none any more, or that one |
//! | `GET /uploads` | `[{bucket, key, upload_id, parts, bytes}]` |
//! | `GET /objects?bucket=` | `[{key, size, crc64, etag}]`; `crc64` is text, as in COS's header |
//! | `POST /fill` | `{"bucket", "prefix", "count"}`: so many objects of one byte, `PREFIXname-of-0000000.txt` and on |
//! | `PUT /pace` | `{"latency_ms", "per_connection_bandwidth"}`, 0 = none |

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::{
    body::Body,
    connection::next_request,
    content::Intake,
    fault::{Fault, FaultKind},
    operation::Operation,
    request::Request,
    service::Service,
    store::{Attributes, Object, Overwrite},
    wire::{Pace, Wire},
};

/// Longest document that is read, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// What `PUT /pace` says; what is left out is 0.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PaceWanted {
    #[serde(default)]
    latency_ms: u64,
    #[serde(default)]
    per_connection_bandwidth: u64,
}

/// What `POST /fill` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FillWanted {
    bucket: String,
    prefix: String,
    count: u32,
}

/// Serves the admin port for ever.
pub(super) async fn listen(listener: TcpListener, service: Arc<Service>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, Arc::clone(&service)));
            }
            Err(error) => {
                tracing::warn!(%error, "admin port: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, service: Arc<Service>) {
    // Without a pace of its own: a slow store must not slow down the one who sets it.
    let Ok(mut wire) = Wire::new(stream, Arc::new(Pace::default())) else {
        return;
    };
    while let Ok(Some(request)) = next_request(&mut wire).await {
        let mut body = Body::new(&mut wire, &request, Duration::ZERO);
        let Ok(text) = body.text(DOCUMENT_BYTES_MAX).await else {
            return;
        };
        let (status, answer) = match answer(&service, &request, &text) {
            Ok(answer) => (200, answer),
            Err((status, message)) => (status, json!({ "error": message })),
        };
        let text = answer.to_string();
        let connection = if request.keep_alive { "keep-alive" } else { "close" };
        let whole = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: {connection}\r\n\r\n{text}",
            if status == 200 { "OK" } else { "Refused" },
            text.len(),
        );
        if wire.write(whole.as_bytes()).await.is_err() {
            return;
        }
        if !request.keep_alive {
            return wire.close().await;
        }
    }
}

type Refused = (u16, String);

fn answer(service: &Service, request: &Request, text: &[u8]) -> Result<Value, Refused> {
    let path = request.path.trim_end_matches('/');
    match (request.method.as_str(), path) {
        ("GET", "/requests") => Ok(requests(service)),
        ("DELETE", "/requests") => {
            service.counters.reset();
            Ok(json!({}))
        }
        ("GET", "/faults") => serde_json::to_value(service.faults.all()).map_err(|error| refused(&error)),
        ("POST", "/faults") => {
            let fault: Fault = serde_json::from_slice(text).map_err(|error| refused(&error))?;
            Ok(json!({ "id": add_fault(service, fault)? }))
        }
        ("DELETE", "/faults") => {
            clear_faults(service);
            Ok(json!({}))
        }
        ("DELETE", path) if path.starts_with("/faults/") => {
            let id = path["/faults/".len()..].parse().map_err(|_| (400, "no such ID".to_owned()))?;
            if !remove_fault(service, id) {
                return Err((404, "no such fault".to_owned()));
            }
            Ok(json!({}))
        }
        ("GET", "/uploads") => Ok(uploads(service)),
        ("GET", "/objects") => objects(service, request.filled_parameter("bucket")),
        ("POST", "/fill") => {
            let wanted: FillWanted = serde_json::from_slice(text).map_err(|error| refused(&error))?;
            fill(service, &wanted)?;
            Ok(json!({}))
        }
        ("PUT", "/pace") => {
            let wanted: PaceWanted = serde_json::from_slice(text).map_err(|error| refused(&error))?;
            service.pace.set(Duration::from_millis(wanted.latency_ms), wanted.per_connection_bandwidth);
            Ok(json!({}))
        }
        _ => Err((404, format!("no such request: {} {}", request.method, request.path))),
    }
}

/// Directories too large to be made one request at a time.
fn fill(service: &Service, wanted: &FillWanted) -> Result<(), Refused> {
    let broken = |error: io::Error| (500, error.to_string());
    let mut intake = Intake::new(service.store.data(), true).map_err(broken)?;
    let mut byte = BytesMut::from(&b"x"[..]);
    intake.digest(&byte);
    intake.store(&mut byte).map_err(broken)?;
    let received = intake.finish().map_err(broken)?;
    let object = Object {
        etag: received.etag(),
        crc64: received.crc64,
        content: received.content,
        modified: service.clock.now(),
        appendable: false,
        attributes: Attributes::default(),
    };
    for number in 0..wanted.count {
        let key = format!("{}name-of-{number:07}.txt", wanted.prefix);
        let now_ms = service.clock.now_ms();
        let put = service.store.put(&wanted.bucket, &key, object.clone(), &Overwrite::Allowed, now_ms);
        put.map_err(|error| (400, format!("{key}: {error:?}")))?;
    }
    Ok(())
}

/// Sets a fault and gives its ID.
///
/// # Errors
/// 400 for an operation that does not exist.
pub(super) fn add_fault(service: &Service, fault: Fault) -> Result<u64, Refused> {
    let is_known = |name: &str| Operation::ALL.iter().any(|operation| operation.name() == name);
    if fault.operation != "*" && !is_known(&fault.operation) {
        return Err((400, format!("no such operation: {}", fault.operation)));
    }
    if fault.kind == FaultKind::ListLag {
        service.store.remember_history(true);
    }
    Ok(service.faults.add(fault, service.clock.now_ms()))
}

/// Whether there was one of that ID.
pub(super) fn remove_fault(service: &Service, id: u64) -> bool {
    let removed = service.faults.remove(id);
    service.store.remember_history(service.faults.has(FaultKind::ListLag));
    removed
}

pub(super) fn clear_faults(service: &Service) {
    service.faults.clear();
    service.store.remember_history(false);
}

fn refused(error: &serde_json::Error) -> Refused {
    (400, error.to_string())
}

fn requests(service: &Service) -> Value {
    let entry = |operation: &Operation| {
        let counter = service.counters.of(*operation);
        let numbers = json!({
            "count": counter.requests.load(Ordering::Relaxed),
            "bytes_in": counter.bytes_in.load(Ordering::Relaxed),
            "bytes_out": counter.bytes_out.load(Ordering::Relaxed),
        });
        (operation.name().to_owned(), numbers)
    };
    Value::Object(Operation::ALL.iter().map(entry).collect::<Map<_, _>>())
}

fn uploads(service: &Service) -> Value {
    let buckets = service.store.read();
    let entries = buckets.iter().flat_map(|(name, bucket)| {
        bucket.uploads.iter().map(move |((key, id), upload)| {
            let bytes: u64 = upload.parts.values().map(|part| part.content.len()).sum();
            json!({
                "bucket": name,
                "key": String::from_utf8_lossy(key),
                "upload_id": id,
                "parts": upload.parts.len(),
                "bytes": bytes,
            })
        })
    });
    Value::Array(entries.collect())
}

fn objects(service: &Service, only: Option<&str>) -> Result<Value, Refused> {
    let buckets = service.store.read();
    if let Some(only) = only
        && !buckets.contains_key(only)
    {
        return Err((404, format!("no such bucket: {only}")));
    }
    let chosen = buckets.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str()));
    let entries = chosen.flat_map(|(_, bucket)| {
        bucket.objects.iter().map(|(key, object)| {
            json!({
                "key": String::from_utf8_lossy(key),
                "size": object.content.len(),
                "crc64": object.crc64.to_string(),
                "etag": object.etag,
            })
        })
    });
    Ok(Value::Array(entries.collect()))
}
