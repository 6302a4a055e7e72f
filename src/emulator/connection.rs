//! The life of one connection: request after request, each with the faults that hit it.
//!
//! ```text
//! head ── understand ── [reset, stall] ── body + deed ── rest of the body ── [reset, lost] ── latency ── answer
//! ```
//!
//! A deed runs to its end even if the client has gone: COS does not notice either.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{
    BlankOrder,
    body::Body,
    clock::http_date,
    content::Content,
    dialect::Dialect,
    document::DECLARATION,
    error::{self, ApiError, Failure},
    fault::{Fault, FaultKind, Trouble},
    operation::Operation,
    request::Request,
    response::{Frame, Response, ResponseBody, error_element, new_request_id, refusal},
    service::{Call, Service},
    wire::Wire,
};

/// How often a blank tells that the work goes on.
const BLANK_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    KeepAlive,
    Close,
    /// Nothing more can or shall be said.
    Drop,
}

/// Serves one connection to its end.
pub(super) async fn serve(stream: TcpStream, service: Arc<Service>) {
    let mut wire = match Wire::new(stream, Arc::clone(&service.pace)) {
        Ok(wire) => wire,
        Err(error) => {
            tracing::debug!(%error, "connection lost at once");
            return;
        }
    };
    loop {
        let next = match next_request(&mut wire).await {
            Ok(Some(request)) => exchange(&mut wire, &service, &request).await,
            Ok(None) => return,
            Err(error) => {
                let id = new_request_id(service.clock.now());
                let response = refusal(&error, "/", &id, false);
                let frame = Frame {
                    keep_alive: false,
                    date: http_date(service.clock.now()),
                    request_id: &id,
                    dialect: Dialect::Cos,
                };
                let head = response.head(&frame);
                if let ResponseBody::Document(text) = response.body {
                    // The peer speaks no HTTP: whether it hears this does not matter.
                    wire.write(&[head, text.into_bytes()].concat()).await.ok();
                }
                Next::Close
            }
        };
        match next {
            Next::KeepAlive => {}
            Next::Close => return wire.close().await,
            Next::Drop => return,
        }
    }
}

/// The next head; `None` where the peer has gone.
pub(super) async fn next_request(wire: &mut Wire) -> Result<Option<Request>, ApiError> {
    loop {
        // A line end before a head is passed over (RFC 9112 section 2.2).
        while wire.input().first().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            let _passed = wire.input().split_to(1);
        }
        if !wire.input().is_empty()
            && let Some((request, length)) = Request::parse(wire.input())?
        {
            let _head = wire.input().split_to(length);
            return Ok(Some(request));
        }
        match wire.more_input().await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Ok(None),
        }
    }
}

async fn exchange(wire: &mut Wire, service: &Arc<Service>, request: &Request) -> Next {
    let understood = service.understand(request);
    let no_trouble = Trouble::default();
    let trouble = understood.as_ref().map_or(&no_trouble, |call| &call.trouble);
    let is = |kind| trouble.of(kind);
    if let Some(refused) = is(FaultKind::RefuseConnection).filter(|fault| fault.milliseconds > 0) {
        service.faults.refuse_until(Instant::now() + milliseconds(refused));
    }
    if is(FaultKind::ResetBefore).is_some()
        || is(FaultKind::RefuseConnection).is_some()
        || service.faults.refuses_all()
        || service.faults.refuses_until().is_some()
    {
        wire.reset();
        return Next::Drop;
    }
    if let Some(stall) = is(FaultKind::Stall) {
        hold(stall).await;
        return Next::Drop;
    }
    let delay = is(FaultKind::Delay).map_or(Duration::ZERO, milliseconds);
    let mut body = Body::new(wire, request, delay);
    let outcome = match &understood {
        Err(error) => Err(Failure::Refused(error.clone())),
        Ok(call) => perform(service, call, &mut body).await,
    };
    let is_clean = !matches!(outcome, Err(Failure::Broken(_))) && body.drain().await;
    let bytes_in = body.bytes_in;
    let id = new_request_id(service.clock.now());
    let (resource, operation) = match &understood {
        Ok(call) => (call.resource(), call.operation),
        Err(_) => (request.host.clone(), Operation::Unsupported),
    };
    service.counters.of(operation).bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
    let mut response = match outcome {
        Ok(response) => response,
        Err(Failure::Refused(error)) => refusal(&error, &resource, &id, request.method == "HEAD"),
        Err(Failure::Broken(error)) => {
            tracing::debug!(%error, operation = operation.name(), "connection broken in a body");
            return Next::Drop;
        }
    };
    if let Some(gone) = without_answer(wire, trouble, &mut response).await {
        return gone;
    }
    if is(FaultKind::Empty200).is_some() {
        finish_work(&mut response).await;
        response.status = 200;
        response.body = ResponseBody::Empty;
    }
    spoil_checksum(trouble, &mut response);
    service.pace.wait().await;
    let keep_alive = request.keep_alive && is_clean && is(FaultKind::CutBody).is_none();
    let dialect = request.dialect;
    let frame = Frame { keep_alive, date: http_date(service.now(trouble)), request_id: &id, dialect };
    let answer = Answer { service, trouble, resource: &resource, frame };
    let bytes_out = answer.write(wire, response, request.method == "HEAD").await;
    service.counters.of(operation).bytes_out.fetch_add(*bytes_out.as_ref().unwrap_or(&0), Ordering::Relaxed);
    match bytes_out {
        Ok(_) if keep_alive => Next::KeepAlive,
        Ok(_) => Next::Close,
        Err(error) => {
            tracing::debug!(%error, operation = operation.name(), "connection broken in an answer");
            Next::Drop
        }
    }
}

/// Carries the request out, unless a fault puts another answer in its place.
async fn perform(service: &Arc<Service>, call: &Call<'_>, body: &mut Body<'_>) -> Result<Response, Failure> {
    if let Some(fault) = call.trouble.of(FaultKind::Status) {
        body.settle().await;
        return fault_status(fault);
    }
    if call.trouble.of(FaultKind::SlowDown).is_some() {
        return Err(error::SLOW_DOWN.into());
    }
    if let Some(fault) = call.trouble.of(FaultKind::ErrorIn200) {
        body.settle().await;
        let error = told_error(fault, 500);
        return Ok(Response::late(async move { Err(error) }));
    }
    service.answer(call, body).await
}

fn fault_status(fault: &Fault) -> Result<Response, Failure> {
    let status = fault.status.unwrap_or(503);
    if fault.code.is_none() && matches!(status, 502 | 504 | 520) {
        // What a proxy on the way would say: no COS body, and in `Answer` no request ID.
        let mut response = Response::document("<html><body>Bad Gateway</body></html>".to_owned());
        response.status = status;
        response.headers = vec![("Content-Type".into(), "text/html".to_owned())];
        return Ok(response);
    }
    Err(told_error(fault, status).into())
}

fn told_error(fault: &Fault, status: u16) -> ApiError {
    let status = fault.status.unwrap_or(status);
    let usual = match status {
        400 => "InvalidArgument",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        405 => "MethodNotAllowed",
        409 => "PathConflict",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        501 => "NotImplemented",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let code = fault.code.clone().unwrap_or_else(|| usual.to_owned());
    ApiError { status, code: code.into(), message: "A fault that was asked for.".into() }
}

/// The faults that swallow the answer once the deed is done.
async fn without_answer(wire: &mut Wire, trouble: &Trouble, response: &mut Response) -> Option<Next> {
    if trouble.of(FaultKind::ResetAfter).is_some() {
        finish_work(response).await;
        wire.reset();
        return Some(Next::Drop);
    }
    let lost = trouble.of(FaultKind::LostAnswer)?;
    finish_work(response).await;
    sleep(milliseconds(lost)).await;
    Some(Next::Drop)
}

/// Waits for work that would go on behind the head.
async fn finish_work(response: &mut Response) {
    if let ResponseBody::Late(work) = &mut response.body
        && let Err(error) = work.await
    {
        tracing::error!(%error, "emulator: the work of a request panicked");
    }
}

fn spoil_checksum(trouble: &Trouble, response: &mut Response) {
    const CHECKSUM: &str = "x-cos-hash-crc64ecma";
    if trouble.of(FaultKind::NoCrc).is_some() {
        response.headers.retain(|(name, _)| name != CHECKSUM);
    }
    if trouble.of(FaultKind::WrongCrc).is_some() {
        for (name, value) in &mut response.headers {
            if name == CHECKSUM {
                *value = value.parse::<u64>().map_or(0, |crc| crc ^ 1).to_string();
            }
        }
    }
}

async fn hold(stall: &Fault) {
    if stall.milliseconds <= 0 {
        std::future::pending::<()>().await;
    }
    sleep(milliseconds(stall)).await;
}

fn milliseconds(fault: &Fault) -> Duration {
    Duration::from_millis(u64::try_from(fault.milliseconds).unwrap_or(0))
}

/// What is needed to write an answer.
struct Answer<'a> {
    service: &'a Service,
    trouble: &'a Trouble,
    resource: &'a str,
    frame: Frame<'a>,
}

impl Answer<'_> {
    /// Writes the answer; tells the bytes of its body.
    async fn write(&self, wire: &mut Wire, response: Response, is_head: bool) -> std::io::Result<u64> {
        let mut head = response.head(&self.frame);
        if matches!(response.status, 502 | 504 | 520) {
            head = without_request_id(&head);
        }
        let is_cut = self.trouble.of(FaultKind::CutBody).is_some();
        let shown = |bytes: usize| if is_cut { bytes / 2 } else { bytes };
        match response.body {
            ResponseBody::Empty | ResponseBody::Length(_) => wire.write(&head).await.map(|()| 0),
            ResponseBody::Document(text) => {
                let length = if is_head { 0 } else { shown(text.len()) };
                head.extend_from_slice(&text.as_bytes()[..length]);
                wire.write(&head).await.map(|()| length as u64)
            }
            ResponseBody::Content(content) => {
                let content = if is_cut { half(&content) } else { content };
                wire.write_content(head, &content).await.map(|()| content.len())
            }
            ResponseBody::Late(work) => self.write_late(wire, head, work, is_cut).await,
        }
    }

    /// Status and head at once, blanks while the work goes on, the document at the end.
    async fn write_late(
        &self,
        wire: &mut Wire,
        mut head: Vec<u8>,
        mut work: JoinHandle<Result<String, ApiError>>,
        is_cut: bool,
    ) -> std::io::Result<u64> {
        let order = self.service.blank_order;
        if order == BlankOrder::AfterDeclaration {
            append_chunk(&mut head, DECLARATION.as_bytes());
        }
        append_chunk(&mut head, b" ");
        wire.write(&head).await?;
        let merge = self.trouble.of(FaultKind::SlowMerge).map_or(Duration::ZERO, milliseconds);
        let slow = sleep(merge);
        tokio::pin!(slow);
        let mut blanks = interval_at(Instant::now() + BLANK_INTERVAL, BLANK_INTERVAL);
        blanks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let finished = loop {
            tokio::select! {
                outcome = async { slow.as_mut().await; (&mut work).await } => break outcome,
                _ = blanks.tick() => wire.write(b"1\r\n \r\n").await?,
            }
        };
        let mut document = match finished.unwrap_or(Err(error::INTERNAL_ERROR)) {
            Ok(document) => document,
            Err(error) => error_element(&error, self.resource, self.frame.request_id),
        };
        if order == BlankOrder::BeforeDeclaration {
            document.insert_str(0, DECLARATION);
        }
        if self.trouble.of(FaultKind::NoCrc).is_some() {
            document = with_crc(&document, None);
        }
        if self.trouble.of(FaultKind::WrongCrc).is_some() {
            document = with_crc(&document, Some(1));
        }
        if is_cut {
            // Without the last chunk the client knows that something is missing.
            let middle = (0..=document.len() / 2).rev().find(|at| document.is_char_boundary(*at));
            document.truncate(middle.unwrap_or(0));
        }
        let mut tail = Vec::with_capacity(document.len() + 32);
        if !document.is_empty() {
            append_chunk(&mut tail, document.as_bytes());
        }
        if !is_cut {
            tail.extend_from_slice(b"0\r\n\r\n");
        }
        wire.write(&tail).await?;
        Ok(document.len() as u64)
    }
}

fn append_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn half(content: &Content) -> Content {
    content.slice(0, content.len() / 2)
}

/// The document with `wrong` for its `CRC64` element, or without one.
fn with_crc(document: &str, wrong: Option<u64>) -> String {
    const END: &str = "</CRC64>";
    match (document.find("<CRC64>"), document.find(END)) {
        (Some(from), Some(to)) => {
            let element = wrong.map(|wrong| format!("<CRC64>{wrong}{END}")).unwrap_or_default();
            format!("{}{element}{}", &document[..from], &document[to + END.len()..])
        }
        _ => document.to_owned(),
    }
}

/// A head that did not come from COS.
fn without_request_id(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let is_ours = |line: &&str| {
        !line.starts_with("x-cos-") && !line.starts_with("x-amz-") && !line.starts_with("Server:")
    };
    text.split_inclusive("\r\n").filter(is_ours).collect::<String>().into_bytes()
}
