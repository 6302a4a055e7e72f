//! A store that fails on demand, for tests: wraps another one, counts calls, and spoils the ones it is told to.
//!
//! ```
//! # use std::sync::Arc;
//! # use cosgate::cos::{Fault, FaultyStore, MemoryStore, Operation, Reason, Rule};
//! let store = FaultyStore::new(Arc::new(MemoryStore::new()));
//! // The third part fails, once.
//! store.inject(Rule::on(Operation::UploadPart).after(2), Fault::Fail(Reason::Unavailable));
//! // Complete takes effect, but its caller hears of a broken connection.
//! store.inject(Rule::on(Operation::CompleteMultipartUpload), Fault::LoseAnswer(Reason::Unavailable));
//! // Every PUT waits before it takes effect, until the gate is released or dropped.
//! let gate = store.block(Rule::on(Operation::PutObject).always());
//! gate.release();
//! assert_eq!(store.calls(Operation::PutObject), 0);
//! ```
//!
//! The first rule that fits a call is the one that spoils it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    ByteRange, CosError, CosResult, ETag, Expected, Key, ListPage, ListRequest, NewObject, ObjectBody,
    ObjectMeta, ObjectStore, OpenUpload, Operation, PartNumber, PartStored, Payload, Reason, Stored,
    UploadId,
};

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect.
    Fail(Reason),
    /// It takes effect, and then fails with [`CosError::in_doubt`] set.
    LoseAnswer(Reason),
    /// It fails with [`CosError::in_doubt`] set, although it has had no effect.
    FailInDoubt(Reason),
    /// It begins so much later.
    Delay(Duration),
    /// Its body (of a GET) breaks off behind so many bytes.
    CutBody(u64),
    /// Its body (of a GET) stops behind so many bytes, and neither goes on nor ends.
    StallBody(u64),
    /// It (a list) first tells that the next page begins behind this key, as an attempt that broke off may, and comes
    /// a moment later.
    Foretell(String),
}

/// A wait is no shorter than this part of the longest one.
const SHORTEST_SHARE: f32 = 0.125;
const FORETOLD_PAUSE: Duration = Duration::from_millis(20);

/// Which calls a fault befalls.
#[derive(Debug, Clone)]
pub struct Rule {
    operation: Option<Operation>,
    key: Option<String>,
    skip: u64,
    /// How often it still befalls one; `None` = for ever.
    times: Option<u64>,
}

impl Rule {
    /// The next call of `operation`, once.
    pub fn on(operation: Operation) -> Self {
        Self { operation: Some(operation), key: None, skip: 0, times: Some(1) }
    }

    /// The next call of any operation, once.
    pub fn any() -> Self {
        Self { operation: None, key: None, skip: 0, times: Some(1) }
    }

    /// Only calls that concern `key`: of a copy the target, of a list the prefix.
    #[must_use]
    pub fn of_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Spares the next `calls` that would fit.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// `times` calls instead of one.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// All calls from then on.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    fn befalls(&mut self, operation: Operation, key: &str) -> bool {
        let fits = self.operation.is_none_or(|wanted| wanted == operation)
            && self.key.as_ref().is_none_or(|wanted| wanted == key)
            && self.times != Some(0);
        if !fits {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times = self.times.map(|times| times - 1);
        true
    }
}

/// Holds calls back until it is released or dropped.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    arrived: watch::Receiver<usize>,
}

impl Gate {
    /// Lets all calls through, those that wait and those that are to come.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `calls` calls in all have come to this gate.
    pub async fn reached_by(&self, calls: usize) {
        let mut arrived = self.arrived.clone();
        // The store, which holds the sender, may be gone: then no call will ever come.
        arrived.wait_for(|count| *count >= calls).await.expect("the store outlives its gates");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.release();
    }
}

/// The store's side of a gate.
#[derive(Debug, Clone)]
struct Barrier {
    open: watch::Receiver<bool>,
    arrived: watch::Sender<usize>,
    /// After the effect, before the answer.
    holds_answer: bool,
}

impl Barrier {
    async fn wait(mut self) {
        self.arrived.send_modify(|count| *count += 1);
        // A sender that is gone is a gate that was dropped, after it opened.
        drop(self.open.wait_for(|open| *open).await);
    }
}

#[derive(Debug, Clone)]
enum Trouble {
    Fault(Fault),
    Barrier(Barrier),
}

/// How long calls wait.
#[derive(Debug)]
struct Slowness {
    waits_at_most: Duration,
    random: Mutex<fastrand::Rng>,
}

impl Slowness {
    /// `None`: others may go first, no more.
    fn next(&self) -> Option<Duration> {
        let mut random = self.random.lock();
        if random.u8(..4) == 0 {
            return None;
        }
        let share = random.f32();
        (share > SHORTEST_SHARE).then(|| self.waits_at_most.mul_f32(share))
    }
}

/// A store that fails on demand.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    slowness: Option<Slowness>,
    // Leaf lock: nothing is called while it is held.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<(Rule, Trouble)>,
    calls: HashMap<Operation, u64>,
    running: HashMap<Operation, u64>,
    running_max: HashMap<Operation, u64>,
    bytes_asked: u64,
}

impl FaultyStore {
    /// `inner`, without a fault as yet.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, slowness: None, state: Mutex::default() }
    }

    /// The same, but every call waits up to `waits_at_most` before it takes effect, and again before its answer: answers are
    /// overtaken by others, and by what they tell of. One `seed`, one sequence of waits.
    pub fn slow(inner: Arc<dyn ObjectStore>, waits_at_most: Duration, seed: u64) -> Self {
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        Self { slowness: Some(Slowness { waits_at_most, random }), ..Self::new(inner) }
    }

    /// From now on, calls that fit `rule` suffer `fault`.
    pub fn inject(&self, rule: Rule, fault: Fault) {
        self.state.lock().rules.push((rule, Trouble::Fault(fault)));
    }

    /// Holds calls that fit `rule` back before they take effect.
    #[must_use = "a gate opens when it is dropped"]
    pub fn block(&self, rule: Rule) -> Gate {
        self.hold(rule, false)
    }

    /// Holds the answers of calls that fit `rule` back, after the effect.
    #[must_use = "a gate opens when it is dropped"]
    pub fn block_answer(&self, rule: Rule) -> Gate {
        self.hold(rule, true)
    }

    /// Forgets all rules. Gates that are closed stay so for the calls that wait at them.
    pub fn heal(&self) {
        self.state.lock().rules.clear();
    }

    /// How often `operation` has been called, failed calls included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.state.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    /// All calls of all operations.
    pub fn calls_in_all(&self) -> u64 {
        self.state.lock().calls.values().sum()
    }

    /// How many calls of `operation` have at most run at the same time.
    pub fn running_max(&self, operation: Operation) -> u64 {
        self.state.lock().running_max.get(&operation).copied().unwrap_or(0)
    }

    /// Bytes of objects that were asked for, as far as they are there.
    pub fn bytes_asked(&self) -> u64 {
        self.state.lock().bytes_asked
    }

    fn hold(&self, rule: Rule, holds_answer: bool) -> Gate {
        let (open, opened) = watch::channel(false);
        let (arrived, count) = watch::channel(0);
        let barrier = Barrier { open: opened, arrived, holds_answer };
        self.state.lock().rules.push((rule, Trouble::Barrier(barrier)));
        Gate { open, arrived: count }
    }

    async fn call<T>(
        &self,
        operation: Operation,
        key: &str,
        effect: impl Future<Output = CosResult<T>> + Send,
    ) -> CosResult<T> {
        let (trouble, _running) = self.enter(operation, key);
        self.suffer(trouble, operation, key, effect).await
    }

    async fn suffer<T>(
        &self,
        trouble: Option<Trouble>,
        operation: Operation,
        key: &str,
        effect: impl Future<Output = CosResult<T>> + Send,
    ) -> CosResult<T> {
        let effect = async {
            self.dawdle().await;
            let answer = effect.await;
            self.dawdle().await;
            answer
        };
        let failure = |reason, in_doubt| {
            let mut error = CosError::new(operation.name(), reason).because("injected by a test");
            error.key = Key::new(key).ok();
            error.in_doubt = in_doubt;
            error
        };
        match trouble {
            None | Some(Trouble::Fault(Fault::CutBody(_) | Fault::StallBody(_) | Fault::Foretell(_))) => {
                effect.await
            }
            Some(Trouble::Fault(Fault::Fail(reason))) => Err(failure(reason, false)),
            Some(Trouble::Fault(Fault::FailInDoubt(reason))) => Err(failure(reason, true)),
            Some(Trouble::Fault(Fault::LoseAnswer(reason))) => {
                effect.await?;
                Err(failure(reason, true))
            }
            Some(Trouble::Fault(Fault::Delay(time))) => {
                tokio::time::sleep(time).await;
                effect.await
            }
            Some(Trouble::Barrier(barrier)) if barrier.holds_answer => {
                let answer = effect.await;
                barrier.wait().await;
                answer
            }
            Some(Trouble::Barrier(barrier)) => {
                barrier.wait().await;
                effect.await
            }
        }
    }

    async fn dawdle(&self) {
        match self.slowness.as_ref().and_then(Slowness::next) {
            Some(time) => tokio::time::sleep(time).await,
            None if self.slowness.is_some() => tokio::task::yield_now().await,
            None => {}
        }
    }

    fn enter(&self, operation: Operation, key: &str) -> (Option<Trouble>, Running<'_>) {
        let mut state = self.state.lock();
        *state.calls.entry(operation).or_default() += 1;
        let running = state.running.entry(operation).or_default();
        *running += 1;
        let running = *running;
        let most = state.running_max.entry(operation).or_default();
        *most = running.max(*most);
        let befallen = state
            .rules
            .iter_mut()
            .find_map(|(rule, trouble)| rule.befalls(operation, key).then(|| trouble.clone()));
        (befallen, Running { state: &self.state, operation })
    }
}

/// Counts a call as running until it is dropped, cancelled or done.
#[derive(Debug)]
struct Running<'a> {
    state: &'a Mutex<State>,
    operation: Operation,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.state.lock().running.entry(self.operation).or_insert(1) -= 1;
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn head_bucket(&self) -> CosResult<()> {
        self.call(Operation::HeadBucket, "", self.inner.head_bucket()).await
    }

    async fn head_object(&self, key: &Key) -> CosResult<ObjectMeta> {
        self.call(Operation::HeadObject, key.as_str(), self.inner.head_object(key)).await
    }

    async fn get_object(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> CosResult<ObjectBody> {
        const OPERATION: Operation = Operation::GetObject;
        let (trouble, _running) = self.enter(OPERATION, key.as_str());
        let spoilt = match &trouble {
            Some(Trouble::Fault(fault @ (Fault::CutBody(_) | Fault::StallBody(_)))) => Some(fault.clone()),
            _ => None,
        };
        let effect = self.inner.get_object(key, range, if_match);
        let ObjectBody { meta, mut bytes } = self.suffer(trouble, OPERATION, key.as_str(), effect).await?;
        let first = range.map_or(0, |range| range.first);
        let length = range.map_or(meta.size, |range| range.length);
        self.state.lock().bytes_asked += length.min(meta.size.saturating_sub(first));
        match spoilt {
            Some(Fault::CutBody(kept)) => bytes = cut_off(bytes, kept, key.clone()).boxed(),
            Some(Fault::StallBody(kept)) => {
                let is_there = |cut: &CosResult<Bytes>| futures_util::future::ready(cut.is_ok());
                let cut = cut_off(bytes, kept, key.clone()).take_while(is_there);
                bytes = cut.chain(stream::pending()).boxed();
            }
            _ => {}
        }
        Ok(ObjectBody { meta, bytes })
    }

    async fn put_object(&self, key: &Key, payload: Payload, new: &NewObject) -> CosResult<Stored> {
        let effect = self.inner.put_object(key, payload, new);
        self.call(Operation::PutObject, key.as_str(), effect).await
    }

    async fn copy_object(
        &self,
        source: &Key,
        target: &Key,
        if_match: Option<&ETag>,
        replace: Option<&NewObject>,
        forbid_overwrite: bool,
    ) -> CosResult<Stored> {
        let effect = self.inner.copy_object(source, target, if_match, replace, forbid_overwrite);
        self.call(Operation::CopyObject, target.as_str(), effect).await
    }

    async fn delete_object(&self, key: &Key) -> CosResult<()> {
        self.call(Operation::DeleteObject, key.as_str(), self.inner.delete_object(key)).await
    }

    async fn delete_objects(&self, keys: &[Key]) -> CosResult<Vec<(Key, CosError)>> {
        self.call(Operation::DeleteObjects, "", self.inner.delete_objects(keys)).await
    }

    async fn list_objects(&self, request: &ListRequest) -> CosResult<ListPage> {
        self.call(Operation::ListObjects, &request.prefix, self.inner.list_objects(request)).await
    }

    async fn list_objects_telling(
        &self,
        request: &ListRequest,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> CosResult<ListPage> {
        let (trouble, _running) = self.enter(Operation::ListObjects, &request.prefix);
        if let Some(Trouble::Fault(Fault::Foretell(next))) = &trouble {
            tell(next.clone());
            tokio::time::sleep(FORETOLD_PAUSE).await;
        }
        let effect = self.inner.list_objects_telling(request, tell);
        self.suffer(trouble, Operation::ListObjects, &request.prefix, effect).await
    }

    async fn initiate_multipart_upload(&self, key: &Key, new: &NewObject) -> CosResult<UploadId> {
        let effect = self.inner.initiate_multipart_upload(key, new);
        self.call(Operation::InitiateMultipartUpload, key.as_str(), effect).await
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        payload: Payload,
    ) -> CosResult<PartStored> {
        let effect = self.inner.upload_part(key, upload, number, payload);
        self.call(Operation::UploadPart, key.as_str(), effect).await
    }

    async fn upload_part_copy(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        source: &Key,
        range: ByteRange,
        if_match: Option<&ETag>,
    ) -> CosResult<PartStored> {
        let effect = self.inner.upload_part_copy(key, upload, number, source, range, if_match);
        self.call(Operation::UploadPartCopy, key.as_str(), effect).await
    }

    async fn list_parts(&self, key: &Key, upload: &UploadId) -> CosResult<Vec<PartStored>> {
        self.call(Operation::ListParts, key.as_str(), self.inner.list_parts(key, upload)).await
    }

    async fn list_multipart_uploads(&self, prefix: &str) -> CosResult<Vec<OpenUpload>> {
        let effect = self.inner.list_multipart_uploads(prefix);
        self.call(Operation::ListMultipartUploads, prefix, effect).await
    }

    async fn complete_multipart_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartStored],
        expected: Expected,
        forbid_overwrite: bool,
    ) -> CosResult<Stored> {
        let effect = self.inner.complete_multipart_upload(key, upload, parts, expected, forbid_overwrite);
        self.call(Operation::CompleteMultipartUpload, key.as_str(), effect).await
    }

    async fn abort_multipart_upload(&self, key: &Key, upload: &UploadId) -> CosResult<()> {
        let effect = self.inner.abort_multipart_upload(key, upload);
        self.call(Operation::AbortMultipartUpload, key.as_str(), effect).await
    }
}

/// The first `bytes_kept` bytes, then an error in place of the rest.
fn cut_off(
    bytes: BoxStream<'static, CosResult<Bytes>>,
    bytes_kept: u64,
    key: Key,
) -> impl stream::Stream<Item = CosResult<Bytes>> + Send {
    let mut left = usize::try_from(bytes_kept).unwrap_or(usize::MAX);
    let cut = bytes.flat_map(move |chunk| {
        let chunk = match chunk {
            Ok(chunk) if chunk.len() <= left => {
                left -= chunk.len();
                return stream::iter(vec![Ok(chunk)]);
            }
            Ok(chunk) => chunk.slice(..std::mem::take(&mut left)),
            Err(error) => return stream::iter(vec![Err(error)]),
        };
        let error = CosError::new(Operation::GetObject.name(), Reason::Unavailable).of_key(&key);
        stream::iter(vec![Ok(chunk), Err(error.because("injected by a test: the body breaks off"))])
    });
    // Nothing comes after an error.
    cut.scan(false, |ended, item| {
        let go_on = !*ended;
        *ended |= item.is_err();
        futures_util::future::ready(go_on.then_some(item))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cos::MemoryStore;

    fn store() -> (Arc<MemoryStore>, FaultyStore) {
        let memory = Arc::new(MemoryStore::new());
        (Arc::clone(&memory), FaultyStore::new(memory))
    }

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    async fn put(store: &FaultyStore) -> CosResult<Stored> {
        store.put_object(&key(), Payload::new("bytes"), &NewObject::default()).await
    }

    #[tokio::test]
    async fn only_the_calls_of_the_rule_fail() {
        let (memory, store) = store();
        store.inject(Rule::on(Operation::PutObject).after(1).times(2), Fault::Fail(Reason::Unavailable));
        put(&store).await.unwrap();
        memory.remove("k");
        assert_eq!(put(&store).await.unwrap_err().reason, Reason::Unavailable);
        store.head_object(&key()).await.unwrap_err();
        assert!(!put(&store).await.unwrap_err().in_doubt);
        assert_eq!(memory.content("k"), None);
        put(&store).await.unwrap();
        assert_eq!((store.calls(Operation::PutObject), store.calls_in_all()), (4, 5));
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_effect() {
        let (memory, store) = store();
        store.inject(Rule::any().of_key("other"), Fault::Fail(Reason::Refused));
        store.inject(Rule::any(), Fault::LoseAnswer(Reason::TimedOut));
        let error = put(&store).await.unwrap_err();
        assert_eq!((error.reason, error.in_doubt), (Reason::TimedOut, true));
        assert!(memory.content("k").is_some());
    }

    #[tokio::test]
    async fn a_gate_holds_calls_before_or_after_their_effect() {
        let (memory, store) = store();
        let store = Arc::new(store);
        for after in [false, true] {
            memory.remove("k");
            let rule = Rule::on(Operation::PutObject);
            let gate = if after { store.block_answer(rule) } else { store.block(rule) };
            let call = tokio::spawn({
                let store = Arc::clone(&store);
                async move { put(&store).await }
            });
            gate.reached_by(1).await;
            assert_eq!(memory.content("k").is_some(), after);
            assert!(!call.is_finished());
            drop(gate);
            call.await.unwrap().unwrap();
        }
        assert_eq!(store.running_max(Operation::PutObject), 1);
    }

    #[tokio::test]
    async fn a_cut_body_ends_in_an_error() {
        let (memory, store) = store();
        memory.insert("k", vec![7; 250_000]);
        store.inject(Rule::on(Operation::GetObject), Fault::CutBody(150_000));
        let chunks: Vec<_> = store.get_object(&key(), None, None).await.unwrap().bytes.collect().await;
        let (whole, broken) = chunks.split_at(chunks.len() - 1);
        assert_eq!(whole.iter().map(|chunk| chunk.as_ref().unwrap().len()).sum::<usize>(), 150_000);
        broken[0].as_ref().unwrap_err();
    }
}
