//! The register and the sweeper over a bucket in memory, with gateways that live, die and are far away.

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    sweep::{QUIET_MAX, Verdict, decide},
    *,
};
use crate::{
    config::Limits,
    cos::{Fault, FaultyStore, MemoryStore, NewObject, Operation, PartNumber, Rule},
};

const HOUR: Duration = Duration::from_secs(3600);
const ROOT: &str = ".cosgate/";

struct Site {
    memory: Arc<MemoryStore>,
    store: Arc<FaultyStore>,
}

impl Site {
    fn new() -> Self {
        let memory = Arc::new(MemoryStore::new());
        Self { store: Arc::new(FaultyStore::new(memory.clone())), memory }
    }

    /// A mount of this process, or one that calls itself something else.
    fn gateway(&self, gateway: Option<Gateway>, window: Duration) -> Arc<Uploads> {
        let writers = Writers::new(&Limits::default(), tokio::runtime::Handle::current());
        let mut uploads = Uploads::new(self.store.clone(), writers, ROOT, window);
        if let Some(gateway) = gateway {
            Arc::get_mut(&mut uploads).unwrap().gateway = gateway;
        }
        uploads
    }

    async fn begin(&self, uploads: &Arc<Uploads>, name: &str, may_go_on: bool) -> (Key, UploadId) {
        let key = Key::new(name).unwrap();
        let upload = self.store.initiate_multipart_upload(&key, &NewObject::default()).await.unwrap();
        uploads.begun(&key, &upload, may_go_on);
        uploads.at_rest(HOUR).await;
        (key, upload)
    }

    fn entries(&self) -> Vec<String> {
        self.memory.keys().into_iter().filter(|key| key.starts_with(ROOT)).collect()
    }
}

/// A process of this machine that has ended.
fn dead() -> Gateway {
    let here = Gateway::of_this_process();
    let ended = std::process::Command::new("true").spawn().and_then(|mut child| {
        child.wait()?;
        Ok(child.id())
    });
    here.of_process(ended.unwrap())
}

fn far() -> Gateway {
    Gateway::of_this_process().on_machine("far")
}

#[tokio::test]
async fn an_upload_is_written_down_while_it_is_open_and_not_after() {
    let site = Site::new();
    let uploads = site.gateway(None, Duration::ZERO);
    let (_, first) = site.begin(&uploads, "d/a", false).await;
    assert_eq!(site.entries(), [".cosgate/uploads/d/a"]);
    let (_, second) = site.begin(&uploads, "d/a", false).await;
    let (_, long) = site.begin(&uploads, &"x".repeat(850), false).await;
    assert_eq!(site.entries().len(), 3, "another upload of the same name has a note of its own");
    uploads.ended(&first);
    uploads.at_rest(HOUR).await;
    assert_eq!(site.entries().iter().filter(|key| key.contains("uploads-more/")).count(), 2);
    uploads.ended(&second);
    uploads.ended(&long);
    uploads.ended(&long);
    uploads.at_rest(HOUR).await;
    assert_eq!(site.entries(), Vec::<String>::new());
    assert!(uploads.live.lock().is_empty());
}

#[tokio::test]
async fn the_end_of_an_upload_waits_for_its_own_note() {
    let site = Site::new();
    let uploads = site.gateway(None, Duration::ZERO);
    let gate = site.store.block(Rule::on(Operation::PutObject));
    let key = Key::new("a").unwrap();
    let upload = UploadId::new("1");
    uploads.begun(&key, &upload, false);
    gate.reached_by(1).await;
    uploads.ended(&upload);
    gate.release();
    uploads.at_rest(HOUR).await;
    assert_eq!(site.entries(), Vec::<String>::new());
}

#[tokio::test]
async fn a_note_that_fails_fails_nothing_and_one_in_doubt_is_removed() {
    let site = Site::new();
    let uploads = site.gateway(None, Duration::ZERO);
    for fault in [
        Fault::Fail(Reason::Unavailable),
        Fault::LoseAnswer(Reason::TimedOut),
        Fault::FailInDoubt(Reason::TimedOut),
    ] {
        site.store.inject(Rule::on(Operation::PutObject), fault);
        let (_, upload) = site.begin(&uploads, "a", false).await;
        uploads.ended(&upload);
        uploads.at_rest(HOUR).await;
        assert_eq!(site.entries(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_a_dead_process_has_left_is_aborted_at_once_where_nothing_may_go_on() {
    let site = Site::new();
    site.begin(&site.gateway(Some(dead()), Duration::ZERO), "a", true).await;
    let living = site.gateway(None, Duration::ZERO);
    site.begin(&living, "own", true).await;
    site.begin(&site.gateway(None, Duration::ZERO), "running", true).await;
    site.begin(&site.gateway(Some(far()), Duration::ZERO), "far", true).await;
    site.store.initiate_multipart_upload(&Key::new("foreign").unwrap(), &NewObject::default()).await.unwrap();
    living.sweep(SystemTime::now()).await;
    assert_eq!(site.memory.open_upload_keys(), ["far", "foreign", "own", "running"]);
    assert_eq!(site.entries().len(), 3);
    living.sweep(SystemTime::now() + QUIET_MAX + HOUR).await;
    assert_eq!(site.memory.open_upload_keys(), ["foreign", "own", "running"], "far was silent for too long");
    assert_eq!(site.entries().len(), 2);
}

#[tokio::test]
async fn what_may_go_on_waits_for_as_long_as_the_window_is() {
    let site = Site::new();
    let (key, upload) = site.begin(&site.gateway(Some(dead()), HOUR), "a", true).await;
    site.begin(&site.gateway(Some(dead()), HOUR), "of the shell", false).await;
    site.store.upload_part(&key, &upload, PartNumber::FIRST, Payload::new("part")).await.unwrap();
    let living = site.gateway(None, HOUR);
    living.sweep(SystemTime::now()).await;
    assert_eq!(site.memory.open_upload_keys(), ["a"]);
    let asked = site.store.calls_in_all();
    living.sweep(SystemTime::now()).await;
    assert_eq!(site.store.calls_in_all(), asked + 1, "a sweep that finds nothing new is one LIST");
    living.sweep(SystemTime::now() + HOUR).await;
    assert_eq!(site.memory.open_upload_keys(), Vec::<String>::new());
    assert_eq!(site.entries(), Vec::<String>::new());
}

#[tokio::test]
async fn the_note_of_an_upload_that_is_gone_goes() {
    let site = Site::new();
    for (window, name) in [(HOUR, "a"), (Duration::ZERO, "b"), (HOUR, &*"x".repeat(850))] {
        let (key, upload) = site.begin(&site.gateway(Some(dead()), window), name, true).await;
        site.store.abort_multipart_upload(&key, &upload).await.unwrap();
        site.gateway(None, window).sweep(SystemTime::now()).await;
        assert_eq!(site.entries(), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test]
async fn a_sweep_that_fails_is_made_up_for_by_the_next_one() {
    let site = Site::new();
    let living = site.gateway(None, Duration::ZERO);
    for operation in [
        Operation::ListObjects,
        Operation::HeadObject,
        Operation::AbortMultipartUpload,
        Operation::DeleteObject,
    ] {
        site.begin(&site.gateway(Some(dead()), Duration::ZERO), "a", true).await;
        site.store.inject(Rule::on(operation), Fault::Fail(Reason::Unavailable));
        living.sweep(SystemTime::now()).await;
        living.sweep(SystemTime::now()).await;
        assert_eq!(site.memory.open_upload_keys(), Vec::<String>::new(), "{operation}");
        assert_eq!(site.entries(), Vec::<String>::new(), "{operation}");
    }
}

#[tokio::test]
async fn what_is_no_note_of_ours_is_left_alone() {
    let site = Site::new();
    site.memory.insert(".cosgate/uploads/a", Bytes::from("{}"));
    site.gateway(None, Duration::ZERO).sweep(SystemTime::now() + HOUR * 24).await;
    assert_eq!(site.entries(), [".cosgate/uploads/a"]);
}

#[tokio::test]
async fn an_upload_begun_anew_ends_the_broken_one_of_its_name() {
    let site = Site::new();
    site.begin(&site.gateway(Some(dead()), HOUR), "a", true).await;
    let living = site.gateway(None, HOUR);
    let (_, upload) = site.begin(&living, "a", true).await;
    assert_eq!(site.memory.open_upload_keys(), ["a"]);
    assert_eq!(site.entries(), [".cosgate/uploads/a"]);
    living.sweep(SystemTime::now() + HOUR * 24).await;
    assert_eq!(site.memory.open_upload_keys(), ["a"], "the new one is on its way");
    living.ended(&upload);
    living.at_rest(HOUR).await;
    assert_eq!(site.entries(), Vec::<String>::new());
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

proptest! {
    #[test]
    fn only_the_broken_are_aborted_and_all_of_them_in_time(
        state in prop_oneof![
            any::<bool>().prop_map(|may_go_on| State::Live { may_go_on }),
            Just(State::Kept { bytes: 1 }),
        ],
        life in prop_oneof![Just(Life::Own), Just(Life::Running), Just(Life::Gone), Just(Life::Elsewhere)],
        begun in 0_u64..200_000,
        later in proptest::array::uniform3(0_u64..100_000),
        has_parts: bool,
        window in prop_oneof![Just(0_u64), 1_u64..100_000],
    ) {
        let [parts_later, asked_later, now_later] = later;
        let newest = time(begun + parts_later);
        let asked = time(begun + parts_later + asked_later);
        let now = time(begun + parts_later + asked_later + now_later);
        let entry = Entry { upload: UploadId::new("u"), gateway: Gateway::of_this_process(), state, begun: time(begun) };
        let window = Duration::from_secs(window);
        let judge = |parts| decide(&entry, life, newest, parts, window, now);
        let verdict = judge(has_parts.then_some((asked, newest)));
        let is_live = matches!(state, State::Live { .. });
        let may_go_on = state != State::Live { may_go_on: false } && !window.is_zero();
        let age = now.duration_since(newest).unwrap();
        if is_live && matches!(life, Life::Own | Life::Running) {
            prop_assert_eq!(verdict, Verdict::Leave);
        }
        if is_live && life == Life::Elsewhere && age < QUIET_MAX {
            prop_assert_ne!(verdict, Verdict::Abort, "parts came a moment ago");
        }
        if may_go_on && age < window {
            prop_assert_ne!(verdict, Verdict::Abort, "the window is open");
        }
        // Asked just now, it has an answer; and whoever is surely broken has it as soon as the window is shut.
        let answer = judge(Some((now, newest)));
        prop_assert_ne!(answer, Verdict::AskForParts);
        let is_broken = !is_live || life == Life::Gone || (life == Life::Elsewhere && age >= QUIET_MAX);
        if is_broken && !may_go_on {
            prop_assert_eq!(answer, Verdict::Abort);
        }
        if is_broken && age >= window && life != Life::Elsewhere {
            prop_assert_eq!(answer, Verdict::Abort);
        }
    }
}
