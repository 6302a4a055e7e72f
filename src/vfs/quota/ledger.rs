//! The books of a quota: what is used, what is promised to writers, and a count of the bucket under way.
//! No I/O, no clock: a property test drives it against a bucket in memory.
//!
//! A writer *claims* how far its object will reach. The claims of a key cost what the farthest of them takes
//! beyond the object that stands there, and a file where nothing stands: so much the key can come to hold,
//! whoever publishes first. Used and claimed together pass no limit; a publication turns a claim into use.
//!
//! A count reads the bucket page by page while changes go on. None of them is lost or counted twice, because
//! the last key read divides them: what changes behind it is a difference to what was read; what changes ahead
//! of it is remembered as it is now, and replaces whatever a page (asked for before or after the change) says of
//! that key. The changes of the last minute are remembered from the start: lists may lag behind them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::{Add, Sub},
    time::{Duration, Instant},
};

use crate::{config::QuotaConfig, cos::ListedObject};

/// Bytes and objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// Names a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClaimNo(u64);

/// What a claim would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Bytes { limit: u64 },
    Files { limit: u64 },
}

/// The books.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: QuotaConfig,
    /// `None` before the first count.
    used: Option<Amount>,
    claimed: Amount,
    /// Keys that somebody writes to.
    keys: HashMap<String, Claims>,
    last_claim: u64,
    counting: Option<Counting>,
    /// The changes of the last minute, oldest first.
    recent: VecDeque<(Instant, String, Stands)>,
    /// What was subtracted was not there: the bucket was changed by others.
    is_doubtful: bool,
}

/// The size of the object under a key; `None` where there is none.
type Stands = Option<u64>;

#[derive(Debug)]
struct Claims {
    stands: Stands,
    /// How far each writer's object may reach; `None` while it asks for nothing.
    reach: Vec<(ClaimNo, Option<u64>)>,
}

/// A count under way.
#[derive(Debug, Default)]
struct Counting {
    /// What lies up to `cursor`. Signed: differences to what was read may come from what others changed.
    bytes: i128,
    files: i128,
    /// All keys up to here have been read; `None` before the first page.
    cursor: Option<String>,
    /// Own changes ahead of the cursor, and what stands there since.
    ahead: BTreeMap<String, Stands>,
}

impl Ledger {
    pub(super) fn new(limits: QuotaConfig) -> Self {
        Self {
            limits,
            used: None,
            claimed: Amount::default(),
            keys: HashMap::new(),
            last_claim: 0,
            counting: None,
            recent: VecDeque::new(),
            is_doubtful: false,
        }
    }

    pub(super) fn limits(&self) -> QuotaConfig {
        self.limits
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> Option<Amount> {
        self.used
    }

    /// What is left for who asks now. A limit that is passed already leaves nothing.
    pub(super) fn free(&self) -> Amount {
        let taken = self.used.unwrap_or_default() + self.claimed;
        let free =
            |limit: Option<u64>, taken: u64| limit.map_or(u64::MAX, |limit| limit.saturating_sub(taken));
        Amount { bytes: free(self.limits.bytes, taken.bytes), files: free(self.limits.files, taken.files) }
    }

    /// Whether the bucket has shown to be other than these books say, since this was asked last.
    pub(super) fn take_doubt(&mut self) -> bool {
        std::mem::take(&mut self.is_doubtful)
    }

    /// Somebody is going to write `key`, where `stands` is known to stand. Costs nothing yet.
    pub(super) fn open(&mut self, key: &str, stands: Stands) -> ClaimNo {
        self.last_claim += 1;
        let number = ClaimNo(self.last_claim);
        // Who writes to it already has seen all own changes since.
        let claims = self.keys.entry(key.to_owned()).or_insert_with(|| Claims { stands, reach: Vec::new() });
        claims.reach.push((number, None));
        number
    }

    /// Lets the object of a claim reach to `end` bytes, or `ahead` bytes further where plenty is left. The
    /// answer is how far it may go.
    ///
    /// # Errors
    /// What would be passed. The claim is then as it was.
    pub(super) fn claim(&mut self, key: &str, number: ClaimNo, end: u64, ahead: u64) -> Result<u64, Full> {
        let free = self.free();
        let plenty = free.bytes >= PLENTY_BYTES.max(ahead);
        let wanted = if plenty { end.saturating_add(ahead) } else { end };
        let (cost, was) = self.change_claims(key, |claims| {
            let before = claims.cost();
            let reach = claims.reach_of(number);
            let was = *reach;
            *reach = Some(was.unwrap_or(0).max(wanted));
            (claims.cost() - before, was)
        });
        let full = if cost.bytes > free.bytes {
            self.limits.bytes.map(|limit| Full::Bytes { limit })
        } else if cost.files > free.files {
            self.limits.files.map(|limit| Full::Files { limit })
        } else {
            None
        };
        match full {
            None => Ok(was.unwrap_or(0).max(wanted)),
            Some(full) => {
                self.change_claims(key, |claims| *claims.reach_of(number) = was);
                Err(full)
            }
        }
    }

    /// A writer gives up what it has claimed; it may claim again.
    pub(super) fn release(&mut self, key: &str, number: ClaimNo) {
        self.change_claims(key, |claims| *claims.reach_of(number) = None);
    }

    /// A writer's object of `bytes` is visible: its claim has become use.
    pub(super) fn published(&mut self, key: &str, number: ClaimNo, bytes: u64, now: Instant) {
        self.release(key, number);
        self.change(key, None, Some(bytes), now);
    }

    /// A writer will claim no more.
    pub(super) fn close(&mut self, key: &str, number: ClaimNo) {
        let left = self.change_claims(key, |claims| {
            claims.reach.retain(|(other, _)| *other != number);
            claims.reach.len()
        });
        if left == 0 {
            self.keys.remove(key);
        }
    }

    /// What stands under `key` has changed, from `before` as far as its author knows.
    pub(super) fn change(&mut self, key: &str, before: Stands, after: Stands, now: Instant) {
        let before = match self.keys.get(key) {
            Some(claims) => claims.stands,
            None => before,
        };
        if self.keys.contains_key(key) {
            self.change_claims(key, |claims| claims.stands = after);
        }
        if let Some(used) = &mut self.used {
            let (was, is) = (Amount::of(before), Amount::of(after));
            let is_odd = used.bytes + is.bytes < was.bytes || used.files + is.files < was.files;
            *used = *used + is - was;
            self.is_doubtful |= is_odd;
        }
        if let Some(counting) = &mut self.counting {
            counting.note(key, before, after);
        }
        self.forget_old(now);
        self.recent.push_back((now, key.to_owned(), after));
    }

    /// Begins to count; a count under way begins anew.
    pub(super) fn begin_count(&mut self, now: Instant) {
        self.forget_old(now);
        let ahead = self.recent.iter().map(|(_, key, after)| (key.clone(), *after)).collect();
        self.counting = Some(Counting { ahead, ..Counting::default() });
    }

    /// The next page of the list; `next` is the marker behind it, `None` on the last one.
    ///
    /// # Errors
    /// [`TooRestless`]: the count has been given up.
    pub(super) fn page(
        &mut self,
        objects: &[&ListedObject],
        next: Option<&str>,
    ) -> Result<Option<Amount>, TooRestless> {
        let Some(counting) = &mut self.counting else { return Err(TooRestless) };
        counting.read(objects, next);
        if counting.ahead.len() > AHEAD_MAX {
            self.counting = None;
            return Err(TooRestless);
        }
        if next.is_some() {
            return Ok(None);
        }
        let counted = Amount { bytes: not_negative(counting.bytes), files: not_negative(counting.files) };
        self.counting = None;
        self.used = Some(counted);
        Ok(Some(counted))
    }

    /// Gives up a count.
    pub(super) fn abandon_count(&mut self) {
        self.counting = None;
    }

    /// Changes the claims of a key, and what all claims together cost.
    fn change_claims<T: Default>(&mut self, key: &str, change: impl FnOnce(&mut Claims) -> T) -> T {
        let Some(claims) = self.keys.get_mut(key) else { return T::default() };
        let before = claims.cost();
        let told = change(claims);
        self.claimed = self.claimed + claims.cost() - before;
        told
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, ..)) = self.recent.front() {
            if now.saturating_duration_since(*at) < LAG_MAX && self.recent.len() < RECENT_MAX {
                return;
            }
            self.recent.pop_front();
        }
    }
}

/// So much changes while it is counted that the count was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much changes meanwhile")]
pub(super) struct TooRestless;

impl Claims {
    /// What the claims of this key take beyond what stands there.
    fn cost(&self) -> Amount {
        match self.reach.iter().filter_map(|(_, reach)| *reach).max() {
            None => Amount::default(),
            Some(reach) => Amount::of(Some(reach)) - Amount::of(self.stands),
        }
    }

    fn reach_of(&mut self, number: ClaimNo) -> &mut Option<u64> {
        let claim = self.reach.iter_mut().find(|(other, _)| *other == number);
        &mut claim.expect("a claim is open until it is closed, and closed once").1
    }
}

impl Counting {
    fn note(&mut self, key: &str, before: Stands, after: Stands) {
        if self.cursor.as_deref().is_some_and(|cursor| key <= cursor) {
            self.add(before, -1);
            self.add(after, 1);
        } else {
            self.ahead.insert(key.to_owned(), after);
        }
    }

    fn read(&mut self, objects: &[&ListedObject], next: Option<&str>) {
        for object in objects {
            match self.ahead.remove(&object.key) {
                Some(own) => self.add(own, 1),
                None => self.add(Some(object.size), 1),
            }
        }
        // Own objects within the page that the list did not know of.
        let behind = match next {
            None => std::mem::take(&mut self.ahead),
            Some(next) => {
                let ahead = self.ahead.split_off(next);
                let mut behind = std::mem::replace(&mut self.ahead, ahead);
                behind.extend(self.ahead.remove_entry(next));
                behind
            }
        };
        for own in behind.into_values() {
            self.add(own, 1);
        }
        self.cursor = next.map(str::to_owned);
    }

    fn add(&mut self, stands: Stands, times: i128) {
        let amount = Amount::of(stands);
        self.bytes += times * i128::from(amount.bytes);
        self.files += times * i128::from(amount.files);
    }
}

impl Amount {
    fn of(stands: Stands) -> Self {
        Self { bytes: stands.unwrap_or(0), files: u64::from(stands.is_some()) }
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }
}

impl Sub for Amount {
    type Output = Self;

    /// Nothing is less than nothing.
    fn sub(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), files: self.files.saturating_sub(other.files) }
    }
}

fn not_negative(counted: i128) -> u64 {
    u64::try_from(counted.max(0)).unwrap_or(u64::MAX)
}

/// While so much is left, a writer is given more than it asked for, so that it need not ask at every write.
const PLENTY_BYTES: u64 = 4 << 30;
/// How long a list may lag. COS names no bound; a minute is far above what is seen.
const LAG_MAX: Duration = Duration::from_secs(60);
/// Changes of the last minute that are remembered (about 10 MB).
const RECENT_MAX: usize = 50_000;
/// Changes ahead of a count that are remembered (about 20 MB).
const AHEAD_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cos::ETag;

    const KEYS: [&str; 6] = ["a", "b", "b/c", "b/d", "c", "d"];
    const LIMITS: QuotaConfig = QuotaConfig { bytes: Some(100), files: Some(4) };

    fn counted(limits: QuotaConfig, objects: &[(&str, u64)]) -> Ledger {
        let mut ledger = Ledger::new(limits);
        ledger.begin_count(Instant::now());
        let listed: Vec<_> = objects.iter().map(|(key, size)| listed(key, *size)).collect();
        ledger.page(&listed.iter().collect::<Vec<_>>(), None).unwrap().unwrap();
        ledger
    }

    fn listed(key: &str, size: u64) -> ListedObject {
        ListedObject {
            key: key.to_owned(),
            size,
            etag: ETag::new("e"),
            last_modified: std::time::SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn writers_share_what_is_left_and_an_overwrite_costs_the_difference() {
        let mut ledger = counted(LIMITS, &[("a", 60)]);
        let (new, over) = (ledger.open("b", None), ledger.open("a", Some(60)));
        assert_eq!(ledger.claim("b", new, 30, 0), Ok(30));
        assert_eq!(ledger.claim("a", over, 70, 0), Ok(70));
        assert_eq!(ledger.claim("a", over, 71, 0), Err(Full::Bytes { limit: 100 }));
        assert_eq!(ledger.free(), Amount { bytes: 0, files: 2 });
        ledger.release("b", new);
        assert_eq!(ledger.claim("a", over, 100, 0), Ok(100));
        ledger.published("a", over, 5, Instant::now());
        assert_eq!(ledger.free(), Amount { bytes: 95, files: 3 });
    }

    #[test]
    fn a_passed_limit_takes_no_more_but_less() {
        let mut ledger = counted(LIMITS, &[("a", 150)]);
        let (over, new) = (ledger.open("a", Some(150)), ledger.open("b", None));
        assert_eq!(ledger.claim("a", over, 150, 0), Ok(150));
        assert_eq!(ledger.claim("b", new, 0, 0), Ok(0), "an empty file takes no bytes");
        assert_eq!(ledger.claim("b", new, 1, 0), Err(Full::Bytes { limit: 100 }));
        assert_eq!(ledger.claim("a", over, 151, 0), Err(Full::Bytes { limit: 100 }));
        ledger.published("a", over, 10, Instant::now());
        assert_eq!(ledger.claim("b", new, 90, 0), Ok(90));
    }

    #[test]
    fn two_writers_of_a_new_name_need_one_file() {
        let mut ledger = counted(QuotaConfig { bytes: None, files: Some(1) }, &[]);
        let (first, second) = (ledger.open("a", None), ledger.open("a", None));
        assert!(ledger.claim("a", first, 7, 0).is_ok() && ledger.claim("a", second, 9, 0).is_ok());
        let other = ledger.open("b", None);
        assert_eq!(ledger.claim("b", other, 0, 0), Err(Full::Files { limit: 1 }));
        ledger.published("a", first, 7, Instant::now());
        ledger.close("a", first);
        ledger.published("a", second, 9, Instant::now());
        ledger.close("a", second);
        assert_eq!(ledger.used(), Some(Amount { bytes: 9, files: 1 }));
        assert_eq!(ledger.claimed, Amount::default());
    }

    #[test]
    fn who_has_plenty_is_given_more_than_asked_for() {
        let mut ledger = counted(QuotaConfig { bytes: Some(5 << 30), files: None }, &[]);
        let claim = ledger.open("a", None);
        assert_eq!(ledger.claim("a", claim, 10, 1 << 20), Ok((1 << 20) + 10));
        assert_eq!(ledger.claim("a", claim, 2 << 30, 0), Ok(2 << 30));
        assert_eq!(ledger.claim("a", claim, (2 << 30) + 1, 1 << 20), Ok((2 << 30) + 1));
    }

    #[test]
    fn a_count_that_cannot_keep_up_is_given_up() {
        let mut ledger = counted(LIMITS, &[]);
        let now = Instant::now();
        ledger.begin_count(now);
        for number in 0..=AHEAD_MAX {
            ledger.change(&format!("k{number}"), None, Some(1), now);
        }
        assert_eq!(ledger.page(&[], Some("a")), Err(TooRestless));
        assert_eq!(ledger.used().map(|used| used.files), Some(AHEAD_MAX as u64 + 1));
        assert!(ledger.recent.len() <= RECENT_MAX);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Open(usize),
        Grow(usize, u64),
        Publish(usize),
        Discard(usize),
        Delete(usize),
        Move(usize, usize),
        BeginCount,
        AskPage,
        PageArrives,
        ListsCatchUp,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = 0..KEYS.len();
        let writer = 0..8_usize;
        let step = prop_oneof![
            3 => key.clone().prop_map(Step::Open),
            4 => (writer.clone(), 0..60_u64).prop_map(|(writer, bytes)| Step::Grow(writer, bytes)),
            4 => writer.clone().prop_map(Step::Publish),
            1 => writer.prop_map(Step::Discard),
            2 => key.clone().prop_map(Step::Delete),
            1 => (key.clone(), key).prop_map(|(from, to)| Step::Move(from, to)),
            1 => Just(Step::BeginCount),
            4 => Just(Step::AskPage),
            4 => Just(Step::PageArrives),
            1 => Just(Step::ListsCatchUp),
        ];
        prop::collection::vec(step, 0..120)
    }

    /// A bucket whose lists lag, its writers, and the books over it.
    struct Model {
        ledger: Ledger,
        bucket: BTreeMap<&'static str, u64>,
        list: BTreeMap<&'static str, u64>,
        writers: Vec<(&'static str, ClaimNo, u64)>,
        now: Instant,
        /// Behind which key the next page begins, while a count is under way.
        marker: Option<String>,
        asked: Option<Vec<ListedObject>>,
    }

    impl Model {
        fn used(&self) -> Amount {
            Amount { bytes: self.bucket.values().sum(), files: self.bucket.len() as u64 }
        }

        fn put(&mut self, key: &'static str, size: u64) -> Stands {
            self.bucket.insert(key, size)
        }

        fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
            match *step {
                Step::Open(key) => {
                    let key = KEYS[key];
                    let claim = self.ledger.open(key, self.bucket.get(key).copied());
                    self.writers.push((key, claim, 0));
                }
                Step::Grow(writer, bytes) => {
                    if let Some((key, claim, taken)) = self.writers.get_mut(writer) {
                        let free = self.ledger.free();
                        match self.ledger.claim(key, *claim, *taken + bytes, 0) {
                            Ok(_) => *taken += bytes,
                            Err(_) => prop_assert_eq!(self.ledger.free(), free),
                        }
                    }
                }
                Step::Publish(writer) if writer < self.writers.len() => {
                    let (key, claim, taken) = self.writers.remove(writer);
                    if self.ledger.claim(key, claim, taken, 0).is_ok() {
                        self.put(key, taken);
                        self.ledger.published(key, claim, taken, self.now);
                    }
                    self.ledger.close(key, claim);
                }
                Step::Discard(writer) if writer < self.writers.len() => {
                    let (key, claim, _) = self.writers.remove(writer);
                    self.ledger.close(key, claim);
                }
                Step::Publish(_) | Step::Discard(_) => {}
                Step::Delete(key) => {
                    let before = self.bucket.remove(KEYS[key]);
                    self.ledger.change(KEYS[key], before, None, self.now);
                }
                Step::Move(from, to) => self.rename(KEYS[from], KEYS[to]),
                Step::BeginCount => {
                    self.ledger.begin_count(self.now);
                    (self.marker, self.asked) = (Some(String::new()), None);
                }
                Step::AskPage => {
                    if let Some(marker) = &self.marker {
                        let behind = self.list.iter().filter(|(key, _)| **key > marker.as_str());
                        self.asked = Some(behind.take(3).map(|(key, size)| listed(key, *size)).collect());
                    }
                }
                Step::PageArrives => self.read_page()?,
                Step::ListsCatchUp => {
                    self.list = self.bucket.clone();
                    self.now += LAG_MAX;
                }
            }
            Ok(())
        }

        fn rename(&mut self, from: &'static str, to: &'static str) {
            if from == to || self.writers.iter().any(|(key, ..)| *key == from || *key == to) {
                return;
            }
            if let Some(size) = self.bucket.get(from).copied() {
                let before = self.put(to, size);
                self.ledger.change(to, before, Some(size), self.now);
                self.bucket.remove(from);
                self.ledger.change(from, Some(size), None, self.now);
            }
        }

        fn read_page(&mut self) -> Result<(), TestCaseError> {
            let Some(mut page) = self.asked.take() else { return Ok(()) };
            let next = (page.len() == 3).then(|| page[1].key.clone());
            page.truncate(if next.is_some() { 2 } else { 3 });
            let total = self.ledger.page(&page.iter().collect::<Vec<_>>(), next.as_deref()).unwrap();
            prop_assert_eq!(total, next.is_none().then(|| self.used()));
            self.marker = next;
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn counts_and_changes_in_any_order_come_to_what_the_bucket_holds(
            steps in steps(), knows_from_the_start: bool,
        ) {
            let mut model = Model {
                ledger: Ledger::new(LIMITS),
                bucket: BTreeMap::from([("b", 20), ("b/d", 7)]),
                list: BTreeMap::from([("b", 20), ("b/d", 7)]),
                writers: Vec::new(),
                now: Instant::now(),
                marker: None,
                asked: None,
            };
            if knows_from_the_start {
                model.ledger = counted(LIMITS, &[("b", 20), ("b/d", 7)]);
            }
            for step in &steps {
                model.run(step)?;
                if let Some(used) = model.ledger.used() {
                    prop_assert_eq!(used, model.used());
                    prop_assert!(!model.ledger.is_doubtful);
                }
                if knows_from_the_start {
                    let all = model.used() + model.ledger.claimed;
                    prop_assert!(all.bytes <= 100 && all.files <= 4, "{:?} {:?}", step, all);
                }
            }
            for (key, claim, _) in model.writers.drain(..) {
                model.ledger.close(key, claim);
            }
            prop_assert_eq!(model.ledger.claimed, Amount::default());
            prop_assert!(model.ledger.keys.is_empty());
        }
    }
}
