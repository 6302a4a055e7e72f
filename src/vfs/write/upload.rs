//! Performs what the state machine decides: initiate, send parts, publish, abort.
//!
//! Each request is a task of its own on the mount's runtime. Parts ask for an upload permit first; their
//! memory is counted until the answer is there. A version that is given up ends its tasks (a request cut
//! off in the middle stores nothing), and the abort follows; where parts were on their way it is repeated
//! once, because COS may have stored one of them meanwhile (*Abort Multipart Upload*).
//!
//! A publication takes its key's turn, waits until nothing is in doubt about the key, looks whether the name
//! still leads here, makes the object, checks it, and looks again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;

use super::{
    super::budget::Transit, EarlyPut, PartBuffer, PartPlan, Published, Shared, Wake, WriteState,
    state::Effect,
};
use crate::{
    cos::{
        CosError, CosResult, Expected, NewObject, Operation, PartNumber, PartStored, Payload, Reason, Stored,
        UploadId,
    },
    vfs::{VfsError, VfsResult},
};

/// A part on its way. Its memory is let go before the budget hears that the request has ended.
#[derive(Debug)]
pub(super) struct Body {
    payload: Payload,
    transit: Transit,
}

/// One of the requests without which it cannot be said that nothing is left behind.
pub(super) struct LooseEnd {
    shared: Arc<Shared>,
}

impl Shared {
    /// Cuts the part that fills: it is on its way from now on.
    pub(super) fn cut(self: &Arc<Self>, core: &mut super::Core) {
        let payload = std::mem::replace(&mut core.part, PartBuffer::new()).freeze();
        self.depart(core, payload);
    }

    /// Cuts what is left at the end. In pieces, so that all requests that can be in flight share in it, and
    /// the last one to end is not a whole part later than the others.
    fn cut_last(self: &Arc<Self>, core: &mut super::Core) {
        let pieces = self.writers.limits.upload_requests_max.min(core.plan.numbers_left());
        let part = std::mem::replace(&mut core.part, PartBuffer::new());
        for payload in part.split(pieces) {
            self.depart(core, payload);
        }
    }

    pub(super) fn depart(self: &Arc<Self>, core: &mut super::Core, payload: Payload) {
        let Some(number) = core.plan.next() else { return };
        core.memory.right = None;
        core.memory.seat = None;
        core.memory.sendable = false;
        core.plan.cut(payload.len());
        core.sending_bytes += payload.len();
        let (bytes, crc64) = (payload.len(), payload.crc64());
        let body = Body { payload, transit: self.writers.budget.transit() };
        self.step(core, |state| state.on_cut(number, bytes, crc64, body));
    }

    /// Sends the last part, if there are parts at all, and waits until COS has them.
    pub(super) async fn end(self: &Arc<Self>) -> VfsResult<()> {
        {
            let mut core = self.core.lock();
            if core.state.is_in_parts() && !core.ended && !core.state.is_publishing() {
                core.ended = true;
                if !core.part.is_empty() {
                    if core.plan.next().is_none() {
                        let bytes_max = self.writers.limits.single_file_bytes_max;
                        self.hopeless(
                            &mut core,
                            VfsError::TooLarge { name: self.key.to_string(), bytes_max },
                        );
                    }
                    self.cut_last(&mut core);
                }
            }
        }
        self.until(|core| core.state.has_arrived().then(|| core.failure())).await.map_or(Ok(()), Err)
    }

    /// The whole of a publication.
    pub(super) async fn publish(self: Arc<Self>, new: NewObject) -> VfsResult<Published> {
        self.core.lock().new = new.clone();
        self.end().await?;
        let _turn = self.keys.lock(&self.key).await;
        if let Some(answer) = self.core.lock().state.answer() {
            return answer;
        }
        if let Err(error) = self.keys.settled(&self.key).await {
            self.hopeless(&mut self.core.lock(), error);
        }
        self.claim_all();
        let (effect, payload, early) = self.begin_publishing();
        let (outcome, still_open) = match effect {
            Effect::Put => (self.put_last(payload, early, &new).await, false),
            Effect::Complete { upload, parts, expected } => {
                self.complete(upload, parts, expected, &new).await
            }
            Effect::Nothing | Effect::Initiate | Effect::Send { .. } | Effect::Abort { .. } => {
                return self.until(|core| core.state.answer()).await;
            }
        };
        let outcome = match outcome {
            Ok(published) => self.take_back_if_orphaned(published).await,
            Err(error) => Err(error),
        };
        let wakes = {
            let mut core = self.core.lock();
            self.step(&mut core, |state| state.on_published(outcome.clone(), still_open));
            core.dirty &= outcome.is_err();
            if let Some(share) = &mut core.share {
                match &outcome {
                    Ok(published) => share.published(published.bytes),
                    Err(_) => share.doubt(),
                }
            }
            core.let_go();
            std::mem::take(&mut core.wakes)
        };
        self.tell(wakes);
        outcome
    }

    /// An empty object needs room as well, and so does one that was begun anew.
    fn claim_all(self: &Arc<Self>) {
        let mut core = self.core.lock();
        let bytes = core.bytes;
        // What is refused is left on the handle.
        self.claim(&mut core, bytes).unwrap_or(());
    }

    /// Decides what publishes, and takes what a PUT carries.
    fn begin_publishing(self: &Arc<Self>) -> (Effect<Body>, Payload, Option<EarlyPut>) {
        let mut core = self.core.lock();
        if core.orphaned {
            self.hopeless(&mut core, self.replaced());
        }
        let state = std::mem::replace(&mut core.state, WriteState::Discarded);
        let (state, effect) = state.on_publish();
        core.state = state;
        core.memory.sendable = false;
        core.memory.seat = None;
        let part = if matches!(effect, Effect::Put) {
            std::mem::replace(&mut core.part, PartBuffer::new())
        } else {
            PartBuffer::new()
        };
        (effect, part.freeze(), core.early.take())
    }

    /// The PUT of a small file: the one that has begun early, if it will do.
    async fn put_last(
        self: &Arc<Self>,
        payload: Payload,
        early: Option<EarlyPut>,
        new: &NewObject,
    ) -> VfsResult<Published> {
        let Some(early) = early else { return self.put(payload, new).await };
        let payload = early.payload.clone();
        let expected = expected_of(&payload);
        let transit = self.writers.budget.transit();
        let answer = early.finish(new).await;
        drop(transit);
        match answer {
            Some(answer) => self.judge_put(answer, expected).await,
            None => self.put(payload, new).await,
        }
    }

    pub(super) async fn put(self: &Arc<Self>, payload: Payload, new: &NewObject) -> VfsResult<Published> {
        let expected = expected_of(&payload);
        let transit = self.writers.budget.transit();
        let answer = {
            let _permit = self.writers.upload_permit().await;
            self.store.put_object(&self.key, payload, new).await
        };
        drop(transit);
        self.judge_put(answer, expected).await
    }

    async fn judge_put(
        self: &Arc<Self>,
        answer: CosResult<Stored>,
        expected: Expected,
    ) -> VfsResult<Published> {
        match answer {
            Ok(stored) => self.judge(Operation::PutObject, stored, expected, true),
            Err(error) if error.in_doubt => self.settle_put(error, expected).await,
            Err(error) => Err(self.error(error)),
        }
    }

    /// The outcome of Complete, and whether the upload is open still.
    pub(super) async fn complete(
        self: &Arc<Self>,
        upload: UploadId,
        parts: Vec<PartStored>,
        expected: Expected,
        new: &NewObject,
    ) -> (VfsResult<Published>, bool) {
        let as_asked = self.core.lock().begun_as.as_ref().is_some_and(|begun_as| {
            begun_as.metadata == new.metadata && begun_as.content_type == new.content_type
        });
        let asked = SystemTime::now();
        let answer = {
            let _permit = self.writers.upload_permit().await;
            self.store
                .complete_multipart_upload(&self.key, &upload, &parts, expected, new.forbid_overwrite)
                .await
        };
        match answer {
            Ok(stored) => {
                self.ended(&upload);
                let judged = self.judge(Operation::CompleteMultipartUpload, stored, expected, as_asked);
                (judged, false)
            }
            Err(error) if error.in_doubt => {
                (self.settle_complete(error, upload, expected, as_asked, asked).await, false)
            }
            Err(error) => (Err(self.error(error)), true),
        }
    }

    /// Whether what COS says it has is what was sent.
    pub(super) fn judge(
        &self,
        operation: Operation,
        stored: Stored,
        expected: Expected,
        as_asked: bool,
    ) -> VfsResult<Published> {
        if stored.crc64.zip(expected.crc64).is_some_and(|(stored, expected)| stored != expected) {
            let error = CosError::new(operation.name(), Reason::Corrupt);
            return Err(self.error(error.because("COS has other bytes than were sent")));
        }
        let last_modified = stored.last_modified.unwrap_or_else(whole_second_now);
        let Expected { bytes, crc64 } = expected;
        Ok(Published { etag: stored.etag, bytes, crc64, last_modified, as_asked })
    }

    /// The name may have been taken away while the object was being made: then it must not stay.
    pub(super) async fn take_back_if_orphaned(&self, published: Published) -> VfsResult<Published> {
        if !self.core.lock().orphaned {
            return Ok(published);
        }
        match self.store.head_object(&self.key).await {
            Ok(meta) if meta.etag == published.etag => {
                if let Err(error) = self.store.delete_object(&self.key).await {
                    tracing::error!(key = %self.key, %error,
                        "unlinked while it was being published, and could not be deleted after it");
                }
            }
            Ok(_) => {}
            Err(error) if error.reason == Reason::NoSuchKey => {}
            Err(error) => tracing::error!(key = %self.key, %error,
                "unlinked while it was being published, and may have stayed"),
        }
        Err(self.replaced())
    }

    pub(super) fn error(&self, error: CosError) -> VfsError {
        VfsError::from_cos(error, self.key.as_str())
    }

    /// Begins the next version; requests of the one before end, and what they made is aborted.
    pub(super) fn begin_anew(self: &Arc<Self>, core: &mut super::Core) {
        self.step(core, WriteState::on_discard);
        core.let_go();
        core.version += 1;
        core.state = WriteState::Filling;
        core.plan = PartPlan::new(&self.writers.limits);
        core.bytes = 0;
        core.dirty = false;
        core.ended = false;
        core.begun_as = None;
        core.memory.waiting = false;
        // Whoever waits for memory is served anew: it asks again.
        let wakes = std::mem::take(&mut core.wakes);
        let shared = Arc::clone(self);
        self.writers.runtime.spawn(async move { shared.tell(wakes) });
    }

    /// Gives up, unless a publication is made or under way.
    pub(super) fn give_up(self: &Arc<Self>, why: &'static str) {
        let wakes = {
            let mut core = self.core.lock();
            if core.state.answer().is_none() && !core.state.is_publishing() && core.bytes > 0 {
                tracing::debug!(key = %self.key, bytes = core.bytes, why, "given up");
            }
            self.step(&mut core, WriteState::on_discard);
            if !core.state.is_publishing() {
                core.let_go();
            }
            std::mem::take(&mut core.wakes)
        };
        self.tell(wakes);
    }

    /// Leaves `cause` on the handle, unless there is a last word already.
    pub(super) fn hopeless(self: &Arc<Self>, core: &mut super::Core, cause: VfsError) {
        self.step(core, |state| state.on_hopeless(cause));
        if !core.state.is_publishing() && core.state.answer().is_some() {
            core.let_go();
            let (wakes, shared) = (std::mem::take(&mut core.wakes), Arc::clone(self));
            // Wakes run without the lock that the caller holds.
            self.writers.runtime.spawn(async move { shared.tell(wakes) });
        }
    }

    /// Waits until nothing is under way that could leave something behind.
    pub(super) async fn at_rest(&self) {
        self.until(|core| (!core.state.is_publishing()).then_some(())).await;
        drop(self.loose_ends.subscribe().wait_for(|ends| *ends == 0).await);
    }

    /// One transition, and the effect it asks for.
    fn step(
        self: &Arc<Self>,
        core: &mut super::Core,
        event: impl FnOnce(WriteState<Body>) -> (WriteState<Body>, Effect<Body>),
    ) {
        let was = std::mem::replace(&mut core.state, WriteState::Discarded);
        let (state, effect) = event(was);
        core.state = state;
        self.perform(core, effect);
    }

    /// The upload is neither to be completed nor to be aborted any more.
    pub(super) fn ended(&self, upload: &UploadId) {
        if let Some(uploads) = &self.uploads {
            uploads.ended(upload);
        }
    }

    fn perform(self: &Arc<Self>, core: &mut super::Core, effect: Effect<Body>) {
        let runtime = &self.writers.runtime;
        match effect {
            // The publication performs its own.
            Effect::Nothing | Effect::Put | Effect::Complete { .. } => {}
            Effect::Initiate => {
                core.begun_as = Some(core.new.clone());
                let new = core.new.clone();
                runtime.spawn(self.loose_end().initiate(core.version, new));
            }
            Effect::Send { upload, bodies } => {
                for (number, body) in bodies {
                    let sending = Arc::clone(self).send_part(core.version, upload.clone(), number, body);
                    let mut going_on = core.going_on.subscribe();
                    runtime.spawn(async move {
                        tokio::select! {
                            () = sending => {}
                            // Never told anything: an error is the end of this version.
                            _ = going_on.changed() => {}
                        }
                    });
                }
            }
            Effect::Abort { upload } => self.abort(upload, core.sending_bytes > 0),
        }
    }

    /// Aborts an upload in the background, until it has happened; `again`: twice, for parts on their way.
    pub(super) fn abort(self: &Arc<Self>, upload: UploadId, again: bool) {
        let Some(cleaning) = self.writers.cleaning() else {
            tracing::error!(key = %self.key, upload = upload.as_str(),
                "too many uploads to abort: this one stays open at COS");
            return;
        };
        let end = self.loose_end();
        self.writers.runtime.spawn(async move {
            end.abort(upload, again).await;
            drop(cleaning);
        });
    }

    async fn send_part(self: Arc<Self>, version: u64, upload: UploadId, number: PartNumber, body: Body) {
        let Body { payload, transit } = body;
        let bytes = payload.len();
        let left = Arc::new(Notify::new());
        let sending = self.store.upload_part(&self.key, &upload, number, payload.tells(left.clone()));
        let answer = self.writers.in_turn(&left, sending).await;
        let answer = answer.map_err(|error| self.error(error));
        drop(transit);
        self.feed(version, bytes, |state| state.on_part(number, answer));
    }

    /// Feeds the answer of a request of `version` back.
    fn feed(
        self: &Arc<Self>,
        version: u64,
        sent_bytes: u64,
        event: impl FnOnce(WriteState<Body>) -> (WriteState<Body>, Effect<Body>),
    ) {
        let wakes = {
            let mut core = self.core.lock();
            if core.version != version {
                let (_, effect) = event(WriteState::Discarded);
                self.perform(&mut core, effect);
                return;
            }
            self.step(&mut core, event);
            if core.state.answer().is_some() {
                core.let_go();
            } else {
                core.sending_bytes -= sent_bytes;
            }
            // Those in the queue for memory are woken from there, and an answer to Initiate makes no room.
            let waits = core.memory.waiting || sent_bytes == 0;
            if waits && core.state.answer().is_none() { Vec::new() } else { std::mem::take(&mut core.wakes) }
        };
        self.tell(wakes);
    }

    /// Tells everybody that the state has changed. To be called without locks.
    pub(super) fn tell(&self, wakes: Vec<Wake>) {
        self.changed.notify_waiters();
        for wake in wakes {
            wake();
        }
    }

    pub(super) fn loose_end(self: &Arc<Self>) -> LooseEnd {
        self.loose_ends.send_modify(|ends| *ends += 1);
        LooseEnd { shared: Arc::clone(self) }
    }
}

impl LooseEnd {
    async fn initiate(self, version: u64, new: NewObject) {
        let shared = &self.shared;
        let answer = shared.store.initiate_multipart_upload(&shared.key, &new).await;
        if let Err(error) = &answer
            && error.in_doubt
        {
            tracing::warn!(key = %shared.key, %error, "an upload without parts may have stayed open");
        }
        if let (Ok(upload), Some(uploads)) = (&answer, &shared.uploads) {
            let may_go_on = shared.core.lock().may_go_on;
            uploads.begun(&shared.key, upload, may_go_on);
        }
        let answer = answer.map_err(|error| shared.error(error));
        shared.feed(version, 0, |state| state.on_initiated(answer));
    }

    /// Aborts until it has happened.
    pub(super) async fn abort(self, upload: UploadId, mut again: bool) {
        let shared = Arc::clone(&self.shared);
        let mut first = Some(self);
        let mut pause = ABORT_PAUSE;
        loop {
            match shared.store.abort_multipart_upload(&shared.key, &upload).await {
                Ok(()) if !again => return shared.ended(&upload),
                Ok(()) => again = false,
                Err(error) => {
                    tracing::warn!(key = %shared.key, upload = upload.as_str(), %error,
                        "an upload that was given up is still open, trying again");
                    pause = (pause * 2).min(ABORT_PAUSE_MAX);
                }
            }
            // Whoever waits has waited enough.
            drop(first.take());
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        }
    }
}

impl Drop for LooseEnd {
    fn drop(&mut self) {
        self.shared.loose_ends.send_modify(|ends| *ends -= 1);
    }
}

fn expected_of(payload: &Payload) -> Expected {
    Expected { bytes: payload.len(), crc64: Some(payload.crc64()) }
}

/// COS shows times in whole seconds.
pub(super) fn whole_second_now() -> SystemTime {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Between the tries of an abort; doubled after each, up to the longest.
const ABORT_PAUSE: Duration = Duration::from_millis(500);
const ABORT_PAUSE_MAX: Duration = Duration::from_secs(60);
