//! Faults on demand: what goes wrong, with which requests, how often.
//!
//! A fault names an operation (or `*`), perhaps a bucket and a key; it lets `skip` matching requests pass
//! and then hits `times` of them. One request may meet several faults, but one of each kind.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::{sync::Notify, time::Instant};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Answers `status` and `code`, without effect. Without a code: what a proxy would answer, no XML and
    /// no `x-cos-request-id`.
    Status,
    /// Of `*`, with `times` null: the listening socket is closed. With a number: so many connections, new or
    /// kept, are reset. Connections that are there are reset at their next request. Of one operation: its
    /// connection is reset as soon as the head is read, and then the socket is closed for `milliseconds`.
    RefuseConnection,
    /// Resets the connection as soon as the head is read, without effect.
    ResetBefore,
    /// Resets the connection instead of the answer; the effect is there.
    ResetAfter,
    /// Neither reads the body nor answers, for `milliseconds` (0 = for ever), then ends the connection.
    Stall,
    /// Waits `milliseconds` once the request is there, before it has effect and before the answer's first byte.
    Delay,
    /// Ends the connection in order, `milliseconds` later, without an answer; the effect is there.
    LostAnswer,
    /// 200, blanks, and an error document with `code` (`InternalError`), without effect.
    #[serde(rename = "error-in-200")]
    ErrorIn200,
    /// 200 with an empty body; the effect is there.
    #[serde(rename = "empty-200")]
    Empty200,
    /// Ends the connection in the middle of the answer's body.
    CutBody,
    /// Another `x-cos-hash-crc64ecma`, or `CRC64` element, than that of the bytes; what is stored is right.
    WrongCrc,
    /// No `x-cos-hash-crc64ecma`, and no `CRC64` element: an object from before the feature.
    NoCrc,
    /// Lists show the bucket (or just `key`) as it was `milliseconds` ago, 0 = when the fault was set;
    /// what happened before that is never shown otherwise.
    ListLag,
    /// The server's clock is `milliseconds` ahead (negative: behind), in its Date header too.
    ClockSkew,
    /// 200, then blanks for `milliseconds`, then the document: a merge that takes its time.
    SlowMerge,
    /// The upload is given up by the server just before the request (a lifecycle rule did it).
    VanishUpload,
    /// 403 `InvalidObjectState`: the object lies in an archive class.
    Archived,
    /// `x-cos-force-download` and `Content-Disposition: attachment`, as newer buckets answer a GET; of
    /// `.apk` and `.ipa` nothing but `DownloadForbidden`.
    ForceDownload,
    /// 503 `SlowDown` for what goes above `per_second` requests of one key (or of the bucket, where no key
    /// is named), without effect (*Request Rate and Performance*).
    SlowDown,
    /// Before a GET, somebody else replaces the object: the same size, its halves exchanged, another ETag.
    ReplaceObject,
}

/// A fault as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// An operation's name, such as `UploadPart`, or `*`.
    #[serde(default = "any")]
    pub operation: String,
    pub kind: FaultKind,
    #[serde(default)]
    pub status: Option<u16>,
    #[serde(default)]
    pub code: Option<String>,
    /// How many matching requests pass first.
    #[serde(default)]
    pub skip: u64,
    /// How many it hits then; `None` (null) = for ever. Absent in JSON = 1.
    #[serde(default = "once", deserialize_with = "nullable")]
    pub times: Option<u64>,
    #[serde(default)]
    pub milliseconds: i64,
    /// Of `slow-down`: what may pass.
    #[serde(default = "hot_key_limit")]
    pub per_second: u64,
    #[serde(default)]
    pub bucket: Option<String>,
    #[serde(default)]
    pub key: Option<String>,
}

impl Fault {
    /// A fault that hits the next request of `operation`, once.
    pub fn once(operation: &str, kind: FaultKind) -> Self {
        Self {
            operation: operation.to_owned(),
            kind,
            status: None,
            code: None,
            skip: 0,
            times: Some(1),
            milliseconds: 0,
            per_second: hot_key_limit(),
            bucket: None,
            key: None,
        }
    }

    fn matches(&self, operation: &str, bucket: Option<&str>, key: Option<&str>) -> bool {
        if self.kind == FaultKind::ListLag {
            // Only lists can lag, and the key is one that they show as it was.
            let lists = matches!(operation, "ListObjects" | "ListObjectVersions");
            return lists
                && (self.operation == "*" || self.operation == operation)
                && (self.bucket.is_none() || self.bucket.as_deref() == bucket);
        }
        (self.operation == "*" || self.operation == operation)
            && (self.bucket.is_none() || self.bucket.as_deref() == bucket)
            && (self.key.is_none() || self.key.as_deref() == key)
    }
}

/// What one object takes in a second (*Request Rate and Performance*).
fn hot_key_limit() -> u64 {
    50
}

fn any() -> String {
    "*".to_owned()
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn once() -> Option<u64> {
    Some(1)
}

fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(deserializer)
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Armed {
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) fault: Fault,
    /// When it was set, in milliseconds since 1970.
    #[serde(skip)]
    pub(super) set_ms: i64,
    /// Of `slow-down`: requests of each key in the second named first.
    #[serde(skip)]
    seen: (i64, HashMap<String, u64>),
}

impl Armed {
    /// Whether this request is one too many in its second; counts it.
    fn is_too_fast(&mut self, key: Option<&str>, now_ms: i64) -> bool {
        let second = now_ms.div_euclid(1000);
        if self.seen.0 != second {
            self.seen = (second, HashMap::new());
        }
        let count = self.seen.1.entry(key.unwrap_or_default().to_owned()).or_default();
        *count += 1;
        *count > self.fault.per_second
    }
}

/// All faults that are set.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Mutex<(u64, Vec<Armed>)>,
    /// Until when no connection is accepted, because a request has met `refuse-connection`. A leaf.
    closed_until: Mutex<Option<Instant>>,
    /// Told whenever the set changes.
    pub(super) changed: Notify,
}

impl Faults {
    pub(super) fn add(&self, fault: Fault, now_ms: i64) -> u64 {
        let mut armed = self.armed.lock();
        armed.0 += 1;
        let id = armed.0;
        armed.1.push(Armed { id, fault, set_ms: now_ms, seen: Default::default() });
        drop(armed);
        self.changed.notify_waiters();
        id
    }

    pub(super) fn clear(&self) {
        self.armed.lock().1.clear();
        *self.closed_until.lock() = None;
        self.changed.notify_waiters();
    }

    /// Whether there was one of that ID.
    pub(super) fn remove(&self, id: u64) -> bool {
        let mut armed = self.armed.lock();
        let before = armed.1.len();
        armed.1.retain(|known| known.id != id);
        let removed = armed.1.len() < before;
        drop(armed);
        self.changed.notify_waiters();
        removed
    }

    pub(super) fn all(&self) -> Vec<Armed> {
        self.armed.lock().1.clone()
    }

    /// Whether one of that kind is set.
    pub(super) fn has(&self, kind: FaultKind) -> bool {
        self.armed.lock().1.iter().any(|armed| armed.fault.kind == kind)
    }

    /// What hits this request; counts it.
    pub(super) fn hit(
        &self,
        operation: &str,
        bucket: Option<&str>,
        key: Option<&str>,
        now_ms: i64,
    ) -> Trouble {
        let mut armed = self.armed.lock();
        let mut hit: Vec<Armed> = Vec::new();
        for candidate in &mut armed.1 {
            let again = hit.iter().any(|other| other.fault.kind == candidate.fault.kind);
            if again || !candidate.fault.matches(operation, bucket, key) {
                continue;
            }
            if candidate.fault.kind == FaultKind::SlowDown && !candidate.is_too_fast(key, now_ms) {
                continue;
            }
            if candidate.fault.skip > 0 {
                candidate.fault.skip -= 1;
                continue;
            }
            if let Some(times) = &mut candidate.fault.times {
                *times = times.saturating_sub(1);
            }
            hit.push(candidate.clone());
        }
        armed.1.retain(|candidate| candidate.fault.times != Some(0));
        Trouble { hit }
    }

    /// Whether the next connection is to be reset before anything is read; counts it.
    pub(super) fn hit_connection(&self) -> bool {
        let mut armed = self.armed.lock();
        let mut hit = false;
        for candidate in &mut armed.1 {
            let fault = &mut candidate.fault;
            let for_all = fault.operation == "*" && fault.key.is_none() && fault.bucket.is_none();
            if hit || fault.kind != FaultKind::RefuseConnection || !for_all {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if let Some(times) = &mut fault.times {
                *times = times.saturating_sub(1);
                hit = true;
            }
        }
        armed.1.retain(|candidate| candidate.fault.times != Some(0));
        hit
    }

    /// Closes the listening socket for a time.
    pub(super) fn refuse_until(&self, end: Instant) {
        let mut until = self.closed_until.lock();
        *until = (*until).max(Some(end));
        drop(until);
        self.changed.notify_waiters();
    }

    /// Until when the listening socket is closed for a time.
    pub(super) fn refuses_until(&self) -> Option<Instant> {
        self.closed_until.lock().filter(|end| *end > Instant::now())
    }

    /// Whether the listening socket is to be closed until the faults change.
    pub(super) fn refuses_all(&self) -> bool {
        self.armed.lock().1.iter().any(|armed| {
            let fault = &armed.fault;
            fault.kind == FaultKind::RefuseConnection
                && fault.operation == "*"
                && fault.times.is_none()
                && fault.skip == 0
        })
    }
}

/// What hits one request.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    hit: Vec<Armed>,
}

impl Trouble {
    pub(super) fn of(&self, kind: FaultKind) -> Option<&Fault> {
        self.armed(kind).map(|armed| &armed.fault)
    }

    pub(super) fn armed(&self, kind: FaultKind) -> Option<&Armed> {
        self.hit.iter().find(|armed| armed.fault.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> Fault {
        serde_json::from_str(json).unwrap()
    }

    fn statuses(faults: &Faults, operation: &str, key: &str, requests: usize) -> String {
        let hits = (0..requests).map(|_| {
            let trouble = faults.hit(operation, Some("b"), Some(key), 0);
            if trouble.of(FaultKind::Status).is_some() { 'x' } else { '.' }
        });
        hits.collect()
    }

    #[test]
    fn skip_and_times_count_matching_requests_only() {
        let faults = Faults::default();
        faults.add(fault(r#"{"operation":"UploadPart","kind":"status","skip":2,"times":2}"#), 0);
        assert_eq!(statuses(&faults, "GetObject", "k", 3), "...");
        assert_eq!(statuses(&faults, "UploadPart", "k", 6), "..xx..");
        assert!(faults.all().is_empty());
    }

    #[test]
    fn null_is_for_ever_and_absent_is_once() {
        let faults = Faults::default();
        faults.add(fault(r#"{"operation":"*","kind":"status","times":null,"key":"k"}"#), 0);
        assert_eq!(statuses(&faults, "GetObject", "k", 3), "xxx");
        assert_eq!(statuses(&faults, "GetObject", "other", 2), "..");
        faults.clear();
        faults.add(fault(r#"{"operation":"*","kind":"status"}"#), 0);
        faults.add(fault(r#"{"operation":"*","kind":"status"}"#), 0);
        assert_eq!(statuses(&faults, "GetObject", "k", 3), "xx.");
    }

    #[test]
    fn rate_is_counted_for_each_key_and_second() {
        let faults = Faults::default();
        faults.add(fault(r#"{"operation":"*","kind":"slow-down","per_second":2,"times":null}"#), 0);
        let hits = |key: &str, now_ms: i64| {
            let trouble = faults.hit("PutObject", Some("b"), Some(key), now_ms);
            trouble.of(FaultKind::SlowDown).is_some()
        };
        let seen: Vec<bool> = [("a", 0), ("a", 1), ("b", 2), ("a", 999), ("a", 1000), ("b", 1001)]
            .into_iter()
            .map(|(key, now_ms)| hits(key, now_ms))
            .collect();
        assert_eq!(seen, [false, false, false, true, false, false]);
    }

    #[test]
    fn every_kind_has_its_written_name() {
        let names = [
            "status",
            "refuse-connection",
            "reset-before",
            "reset-after",
            "stall",
            "delay",
            "lost-answer",
            "error-in-200",
            "empty-200",
            "cut-body",
            "wrong-crc",
            "no-crc",
            "list-lag",
            "clock-skew",
            "slow-merge",
            "vanish-upload",
            "archived",
            "force-download",
            "slow-down",
            "replace-object",
        ];
        for name in names {
            let kind = fault(&format!(r#"{{"kind":"{name}"}}"#)).kind;
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{name}\""));
        }
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"unknown"}"#).is_err());
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"status","time":1}"#).is_err());
    }
}
