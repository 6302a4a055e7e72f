//! Decides what an object being written does next. No I/O, no clock, no memory of its own.
//!
//! ```text
//! Filling ──cut──> Initiating ──answer──> Uploading ──publish, all parts there──> Completing ─┐
//!    └───────────publish──────────> Putting ─────────────────────────────────────────────────┤
//!                                                                                             v
//! any of them but the last two ──discard──> Discarded          Failed <──no──┴──yes──> Published
//! ```
//!
//! An event goes in, the next state and one [`Effect`] come out; `upload.rs` performs the effect and feeds
//! its outcome back. `B` is the body of a part on its way; nothing here looks into it. Two rules hold in
//! every state: an upload ID that COS has given leaves by Complete, by Abort or by being handed over to be kept, and nothing but `Putting`
//! and `Completing` can make something visible.

#![warn(clippy::wildcard_enum_match_arm)]

use super::Published;
use crate::{
    cos::{CosError, Crc64, Expected, Operation, PartNumber, PartStored, Reason, UploadId},
    vfs::{
        VfsError,
        uploads::{Held, HeldPart},
    },
};

/// Where an object being written stands.
#[derive(Debug)]
pub(super) enum WriteState<B> {
    /// Nothing has left yet; a small file goes up as one PUT.
    Filling,
    /// COS has been asked for an upload ID; parts cut meanwhile wait for it.
    Initiating { waiting: Vec<(PartNumber, B)>, parts: Parts },
    /// COS has given an upload ID; full parts are on their way.
    Uploading { upload: UploadId, parts: Parts },
    /// The PUT of a small file is on its way.
    Putting,
    /// All parts are there; Complete is on its way.
    Completing { upload: UploadId },
    /// The object is visible.
    Published(Published),
    /// A request failed. The answer is kept, so that a second close cannot look like success.
    Failed { cause: VfsError },
    /// Given up; nothing of it is visible.
    Discarded,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect<B> {
    Nothing,
    /// InitiateMultipartUpload; its answer is [`WriteState::on_initiated`].
    Initiate,
    /// UploadPart of each; the answers are [`WriteState::on_part`].
    Send {
        upload: UploadId,
        bodies: Vec<(PartNumber, B)>,
    },
    /// AbortMultipartUpload, until it has happened.
    Abort {
        upload: UploadId,
    },
    /// PutObject of all that was written; its answer is [`WriteState::on_published`].
    Put,
    /// CompleteMultipartUpload; its answer is [`WriteState::on_published`].
    Complete {
        upload: UploadId,
        parts: Vec<PartStored>,
        expected: Expected,
    },
}

/// The parts of an upload: what was cut, and what COS has.
#[derive(Debug)]
pub(super) struct Parts {
    /// In order; the number is the place.
    cut: Vec<CutPart>,
    /// Parts cut and not yet answered.
    missing: usize,
    bytes: u64,
    /// `None` once a part is among them whose checksum nobody knows.
    crc64: Option<Crc64>,
}

#[derive(Debug)]
struct CutPart {
    bytes: u64,
    crc64: Option<Crc64>,
    stored: Option<PartStored>,
}

impl<B> WriteState<B> {
    /// A part is full, or leaves early, or is the last one. To be called in `Filling`, `Initiating` and
    /// `Uploading` alone, with ascending numbers from 1; in any other state the body is dropped.
    pub(super) fn on_cut(self, number: PartNumber, bytes: u64, crc64: Crc64, body: B) -> (Self, Effect<B>) {
        match self {
            Self::Filling => {
                let mut parts = Parts::none();
                parts.add(bytes, crc64);
                (Self::Initiating { waiting: vec![(number, body)], parts }, Effect::Initiate)
            }
            Self::Initiating { mut waiting, mut parts } => {
                parts.add(bytes, crc64);
                waiting.push((number, body));
                (Self::Initiating { waiting, parts }, Effect::Nothing)
            }
            Self::Uploading { upload, mut parts } => {
                parts.add(bytes, crc64);
                let bodies = vec![(number, body)];
                (Self::Uploading { upload: upload.clone(), parts }, Effect::Send { upload, bodies })
            }
            Self::Putting
            | Self::Completing { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => (self, Effect::Nothing),
        }
    }

    /// COS has answered Initiate.
    pub(super) fn on_initiated(self, answer: Result<UploadId, VfsError>) -> (Self, Effect<B>) {
        match (self, answer) {
            (Self::Initiating { waiting, parts }, Ok(upload)) => {
                (Self::Uploading { upload: upload.clone(), parts }, Effect::Send { upload, bodies: waiting })
            }
            (Self::Initiating { .. }, Err(cause)) => (Self::Failed { cause }, Effect::Nothing),
            // Given up meanwhile: the upload must not stay open.
            (
                state @ (Self::Filling
                | Self::Uploading { .. }
                | Self::Putting
                | Self::Completing { .. }
                | Self::Published(_)
                | Self::Failed { .. }
                | Self::Discarded),
                Ok(upload),
            ) => (state, Effect::Abort { upload }),
            (
                state @ (Self::Filling
                | Self::Uploading { .. }
                | Self::Putting
                | Self::Completing { .. }
                | Self::Published(_)
                | Self::Failed { .. }
                | Self::Discarded),
                Err(_),
            ) => (state, Effect::Nothing),
        }
    }

    /// COS has answered for one part.
    pub(super) fn on_part(
        self,
        number: PartNumber,
        answer: Result<PartStored, VfsError>,
    ) -> (Self, Effect<B>) {
        match self {
            Self::Uploading { upload, mut parts } => {
                match answer.and_then(|stored| parts.stored(number, stored)) {
                    Ok(()) => (Self::Uploading { upload, parts }, Effect::Nothing),
                    // At once, so that the writer hears of it at its next write and not at the end.
                    Err(cause) => (Self::Failed { cause }, Effect::Abort { upload }),
                }
            }
            // An answer that nobody waits for any more.
            Self::Filling
            | Self::Initiating { .. }
            | Self::Putting
            | Self::Completing { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => (self, Effect::Nothing),
        }
    }

    /// The object is to become visible, and it is this key's turn. What was written has been cut and has
    /// arrived ([`Self::has_arrived`]), unless it is small enough for one PUT.
    pub(super) fn on_publish(self) -> (Self, Effect<B>) {
        match self {
            Self::Filling => (Self::Putting, Effect::Put),
            Self::Uploading { upload, parts } if parts.missing == 0 => {
                let expected = Expected { bytes: parts.bytes, crc64: parts.crc64 };
                let parts = parts.cut.into_iter().filter_map(|part| part.stored).collect();
                (Self::Completing { upload: upload.clone() }, Effect::Complete { upload, parts, expected })
            }
            Self::Initiating { .. }
            | Self::Uploading { .. }
            | Self::Putting
            | Self::Completing { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => (self, Effect::Nothing),
        }
    }

    /// What became of PUT or Complete, once it is beyond doubt. `still_open`: a Complete that failed has
    /// left the upload open.
    pub(super) fn on_published(
        self,
        outcome: Result<Published, VfsError>,
        still_open: bool,
    ) -> (Self, Effect<B>) {
        match (self, outcome) {
            (Self::Putting | Self::Completing { .. }, Ok(published)) => {
                (Self::Published(published), Effect::Nothing)
            }
            (Self::Putting, Err(cause)) => (Self::Failed { cause }, Effect::Nothing),
            (Self::Completing { upload }, Err(cause)) => {
                let effect = if still_open { Effect::Abort { upload } } else { Effect::Nothing };
                (Self::Failed { cause }, effect)
            }
            (
                state @ (Self::Filling
                | Self::Initiating { .. }
                | Self::Uploading { .. }
                | Self::Published(_)
                | Self::Failed { .. }
                | Self::Discarded),
                Ok(_) | Err(_),
            ) => (state, Effect::Nothing),
        }
    }

    /// Given up. A publication under way is not taken back: nobody could say what became of it.
    pub(super) fn on_discard(self) -> (Self, Effect<B>) {
        match self {
            Self::Uploading { upload, .. } => (Self::Discarded, Effect::Abort { upload }),
            // Initiate answers later, and is then aborted.
            Self::Filling | Self::Initiating { .. } => (Self::Discarded, Effect::Nothing),
            Self::Putting
            | Self::Completing { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => (self, Effect::Nothing),
        }
    }

    /// It broke, and may be gone on with later: the upload stays open, and what COS has of it from the first part
    /// on is handed over. In any state but `Uploading` there is nothing to keep.
    pub(super) fn on_keep(self) -> (Self, Option<Held>) {
        match self {
            Self::Uploading { upload, parts } => {
                let held = parts
                    .cut
                    .into_iter()
                    .map_while(|part| part.stored.map(|stored| HeldPart { stored, crc64: part.crc64 }));
                (Self::Discarded, Some(Held { upload, parts: held.collect() }))
            }
            Self::Filling
            | Self::Initiating { .. }
            | Self::Putting
            | Self::Completing { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => (self, None),
        }
    }

    /// Goes on with what was kept. Only where nothing has been cut yet; in any other state nothing changes.
    pub(super) fn on_resume(self, held: Held) -> Self {
        match self {
            Self::Filling => {
                let mut parts = Parts::none();
                for part in held.parts {
                    parts.add_held(part);
                }
                Self::Uploading { upload: held.upload, parts }
            }
            Self::Initiating { .. }
            | Self::Uploading { .. }
            | Self::Putting
            | Self::Completing { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => self,
        }
    }

    /// It cannot become an object any more, for a reason that no request told. A failure that is there
    /// already stays, and so does a publication that is made or under way.
    pub(super) fn on_hopeless(self, cause: VfsError) -> (Self, Effect<B>) {
        match self {
            Self::Uploading { upload, .. } => (Self::Failed { cause }, Effect::Abort { upload }),
            Self::Filling | Self::Initiating { .. } => (Self::Failed { cause }, Effect::Nothing),
            Self::Putting
            | Self::Completing { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => (self, Effect::Nothing),
        }
    }

    /// Whether COS has all that was cut, or never will.
    pub(super) fn has_arrived(&self) -> bool {
        match self {
            Self::Initiating { .. } => false,
            Self::Uploading { parts, .. } => parts.missing == 0,
            Self::Filling
            | Self::Putting
            | Self::Completing { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => true,
        }
    }

    /// Whether an upload in parts has begun.
    pub(super) fn is_in_parts(&self) -> bool {
        match self {
            Self::Initiating { .. } | Self::Uploading { .. } | Self::Completing { .. } => true,
            Self::Filling | Self::Putting | Self::Published(_) | Self::Failed { .. } | Self::Discarded => {
                false
            }
        }
    }

    /// Whether a publication is under way.
    pub(super) fn is_publishing(&self) -> bool {
        match self {
            Self::Putting | Self::Completing { .. } => true,
            Self::Filling
            | Self::Initiating { .. }
            | Self::Uploading { .. }
            | Self::Published(_)
            | Self::Failed { .. }
            | Self::Discarded => false,
        }
    }

    /// The last word to a publish, if it has been spoken.
    pub(super) fn answer(&self) -> Option<Result<Published, VfsError>> {
        match self {
            Self::Published(published) => Some(Ok(published.clone())),
            Self::Failed { cause } => Some(Err(cause.clone())),
            Self::Discarded => Some(Err(VfsError::BadHandle)),
            Self::Filling
            | Self::Initiating { .. }
            | Self::Uploading { .. }
            | Self::Putting
            | Self::Completing { .. } => None,
        }
    }
}

impl Parts {
    fn none() -> Self {
        Self { cut: Vec::new(), missing: 0, bytes: 0, crc64: Some(Crc64::EMPTY) }
    }

    fn add(&mut self, bytes: u64, crc64: Crc64) {
        self.crc64 = self.crc64.map(|sum| sum.followed_by(crc64, bytes));
        self.bytes += bytes;
        self.missing += 1;
        self.cut.push(CutPart { bytes, crc64: Some(crc64), stored: None });
    }

    /// A part that COS has already.
    fn add_held(&mut self, part: HeldPart) {
        let HeldPart { stored, crc64 } = part;
        self.crc64 = self.crc64.zip(crc64).map(|(sum, crc64)| sum.followed_by(crc64, stored.bytes));
        self.bytes += stored.bytes;
        self.cut.push(CutPart { bytes: stored.bytes, crc64, stored: Some(stored) });
    }

    /// Notes what COS says it has of a part, if that is what was sent.
    fn stored(&mut self, number: PartNumber, stored: PartStored) -> Result<(), VfsError> {
        let corrupt = |why: &str| {
            let error = CosError::new(Operation::UploadPart.name(), Reason::Corrupt);
            VfsError::Store {
                cause: std::sync::Arc::new(error.because(format!("part {}: {why}", number.get()))),
            }
        };
        let place = usize::from(number.get() - 1);
        let part = self.cut.get_mut(place).ok_or_else(|| corrupt("was never sent"))?;
        if stored.number != number || stored.bytes != part.bytes {
            return Err(corrupt("COS has another number or size"));
        }
        if stored.crc64.zip(part.crc64).is_some_and(|(stored, sent)| stored != sent) {
            return Err(corrupt("COS has other bytes"));
        }
        if part.stored.replace(stored).is_none() {
            self.missing -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::cos::ETag;

    type State = WriteState<u16>;

    /// COS as one handle sees it, and all requests on their way to it or back.
    #[derive(Default)]
    struct World {
        open: BTreeSet<UploadId>,
        begun: u32,
        /// What is visible: the uploads that were completed, and PUTs.
        visible: u32,
        initiating: u32,
        sending: Vec<(UploadId, PartNumber)>,
        aborting: Vec<UploadId>,
        /// Handed over, and how often somebody has gone on with it.
        kept: Option<Held>,
        resumed: u32,
        publishing: Option<Option<(UploadId, Expected)>>,
        cut: BTreeMap<u16, (u64, Crc64)>,
        published_bytes: Option<u64>,
    }

    fn refused() -> VfsError {
        VfsError::Throttled {
            cause: std::sync::Arc::new(CosError::new(Operation::UploadPart.name(), Reason::Throttled)),
        }
    }

    fn published(bytes: u64) -> Published {
        Published {
            etag: ETag::new("e"),
            bytes,
            crc64: None,
            last_modified: std::time::SystemTime::UNIX_EPOCH,
            as_asked: true,
        }
    }

    impl World {
        fn perform(&mut self, effect: Effect<u16>) {
            match effect {
                Effect::Nothing => {}
                Effect::Initiate => self.initiating += 1,
                Effect::Send { upload, bodies } => {
                    for (number, body) in bodies {
                        assert_eq!(number.get(), body);
                        self.sending.push((upload.clone(), number));
                    }
                }
                Effect::Abort { upload } => self.aborting.push(upload),
                Effect::Put => self.publishing = Some(None),
                Effect::Complete { upload, parts, expected } => {
                    assert!(self.open.contains(&upload));
                    assert_eq!(parts.len(), self.cut.len());
                    let mut sum = (0, Crc64::EMPTY);
                    for (place, part) in parts.iter().enumerate() {
                        let (bytes, crc64) = self.cut[&part.number.get()];
                        assert_eq!(usize::from(part.number.get()), place + 1);
                        sum = (sum.0 + bytes, sum.1.followed_by(crc64, bytes));
                    }
                    assert_eq!((expected.bytes, expected.crc64), (sum.0, Some(sum.1)));
                    self.publishing = Some(Some((upload, expected)));
                }
            }
        }

        /// It breaks: what is kept is the beginning of what was cut, and COS has it.
        fn keep(&mut self, state: State) -> State {
            let (state, held) = state.on_keep();
            if let Some(held) = held {
                assert!(self.open.contains(&held.upload) && state.answer().is_some());
                for (place, part) in held.parts.iter().enumerate() {
                    let number = u16::try_from(place + 1).unwrap();
                    assert_eq!(part.stored.number.get(), number);
                    assert_eq!((part.stored.bytes, part.crc64.unwrap()), self.cut[&number]);
                }
                self.kept = Some(held);
            }
            state
        }

        /// Another handle goes on with it: requests of the first one are over.
        fn resume(&mut self, state: State) -> State {
            if !matches!(state, WriteState::Discarded) || self.initiating > 0 {
                return state;
            }
            let held = self.kept.take().unwrap();
            self.sending.clear();
            self.cut.retain(|number, _| usize::from(*number) <= held.parts.len());
            self.resumed += 1;
            State::Filling.on_resume(held)
        }

        /// One answer of COS arrives, or is lost with its connection: which, chance decides.
        fn answer(&mut self, state: State, random: &mut fastrand::Rng) -> State {
            let fails = random.u8(..) < 40;
            let (state, effect) = match random.u8(..4) {
                0 if self.initiating > 0 => {
                    self.initiating -= 1;
                    if fails {
                        state.on_initiated(Err(refused()))
                    } else {
                        self.begun += 1;
                        let upload = UploadId::new(&self.begun.to_string());
                        self.open.insert(upload.clone());
                        state.on_initiated(Ok(upload))
                    }
                }
                1 if !self.sending.is_empty() => {
                    let (_, number) = self.sending.swap_remove(random.usize(..self.sending.len()));
                    let (bytes, crc64) = self.cut[&number.get()];
                    // COS may also have stored other bytes, or another number of them.
                    let crc64 = match random.u8(..) {
                        0..4 => Some(Crc64(crc64.0 ^ 1)),
                        4..16 => None,
                        16.. => Some(crc64),
                    };
                    let bytes = bytes + u64::from(random.u8(..) < 4);
                    let stored = PartStored { number, etag: ETag::new("p"), bytes, crc64, stored_at: None };
                    let wrong = (stored.bytes, stored.crc64.unwrap_or(self.cut[&number.get()].1))
                        != self.cut[&number.get()];
                    let was_uploading = matches!(state, WriteState::Uploading { .. });
                    let (state, effect) =
                        state.on_part(number, if fails { Err(refused()) } else { Ok(stored) });
                    if was_uploading && (wrong || fails) {
                        assert!(matches!(state, WriteState::Failed { .. }), "at once, not at the end");
                    }
                    (state, effect)
                }
                2 if self.publishing.is_some() => {
                    let what = self.publishing.take().unwrap();
                    if !fails {
                        self.visible += 1;
                        self.published_bytes = what.as_ref().map(|(_, expected)| expected.bytes);
                    }
                    // A Complete that failed has left the upload, or settling it has ended it.
                    let still_open = fails && random.bool();
                    if let Some((upload, _)) = what
                        && !still_open
                    {
                        self.open.remove(&upload);
                    }
                    state.on_published(if fails { Err(refused()) } else { Ok(published(1)) }, still_open)
                }
                3 if !self.aborting.is_empty() => {
                    let upload = self.aborting.swap_remove(random.usize(..self.aborting.len()));
                    self.open.remove(&upload);
                    (state, Effect::Nothing)
                }
                _ => (state, Effect::Nothing),
            };
            self.perform(effect);
            state
        }
    }

    /// One life of a handle: random writes, faults, and an end by publish, discard or a hopeless error.
    fn live(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::default();
        let mut state = State::Filling;
        let mut told = None;
        for _ in 0..random.usize(1..40) {
            let before = state.answer().map(|answer| answer.is_ok());
            let event = random.u8(..16);
            let (next, effect) = match event {
                0..4 if state.answer().is_none() && !state.is_publishing() && told.is_none() => {
                    let number = u16::try_from(world.cut.len() + 1).unwrap();
                    let (bytes, crc64) = (random.u64(1..1 << 20), Crc64(random.u64(..)));
                    world.cut.insert(number, (bytes, crc64));
                    state.on_cut(PartNumber::new(number).unwrap(), bytes, crc64, number)
                }
                4..6 if state.has_arrived() => {
                    told = Some(());
                    state.on_publish()
                }
                6 if random.u8(..) < 60 => state.on_discard(),
                7 if random.u8(..) < 60 => state.on_hopeless(refused()),
                8 if random.u8(..) < 60 => (world.keep(state), Effect::Nothing),
                9 if world.kept.is_some() => (world.resume(state), Effect::Nothing),
                _ => (world.answer(state, &mut random), Effect::Nothing),
            };
            state = next;
            world.perform(effect);
            if let Some(before) = before.filter(|_| std::mem::take(&mut world.resumed) == 0) {
                assert_eq!(state.answer().map(|answer| answer.is_ok()), Some(before), "the last word stays");
            }
            let visible = u32::from(matches!(state, WriteState::Published(_)));
            assert_eq!(world.visible, visible, "seed {seed}: visible only when, and whenever, published");
        }
        // The handle goes; COS answers all that is still on its way.
        let (mut state, effect) = state.on_discard();
        world.perform(effect);
        for _ in 0..10_000 {
            if world.initiating == 0 && world.publishing.is_none() && world.aborting.is_empty() {
                break;
            }
            state = world.answer(state, &mut random);
        }
        // Whoever keeps it will complete or abort it.
        if let Some(held) = world.kept.take() {
            world.open.remove(&held.upload);
        }
        // A Complete under way has failed and asked for its abort by now, or succeeded.
        assert!(world.open.is_empty(), "seed {seed}: left open {:?} in {state:?}", world.open);
        assert!(world.visible <= 1);
        if world.visible == 0 {
            assert!(
                matches!(state, WriteState::Failed { .. } | WriteState::Discarded),
                "seed {seed}: {state:?}"
            );
        }
    }

    #[test]
    fn no_life_leaves_an_upload_open_or_shows_what_was_not_published() {
        let first = 0x5eed_0000;
        for seed in first..first + 60_000 {
            live(seed);
        }
    }

    #[test]
    fn a_late_initiate_is_aborted_in_every_state_that_does_not_wait_for_it() {
        let upload = UploadId::new("late");
        let parts = Parts::none();
        for state in [
            State::Filling,
            State::Uploading { upload: UploadId::new("other"), parts },
            State::Putting,
            State::Completing { upload: UploadId::new("other") },
            State::Published(published(1)),
            State::Failed { cause: refused() },
            State::Discarded,
        ] {
            let (_, effect) = state.on_initiated(Ok(upload.clone()));
            assert_eq!(effect, Effect::Abort { upload: upload.clone() });
        }
    }
}
