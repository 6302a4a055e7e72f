//! One memory budget for all uploads: it is never exceeded, nobody waits for ever, and shares are fair.

#[path = "common/counting_store.rs"]
mod counting_store;
#[path = "common/uploads.rs"]
#[expect(dead_code, reason = "the tests of faults use the rest")]
mod uploads;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cosgate::{
    config::{Limits, PartSizes},
    cos::{Crc64, Key, NewObject},
    vfs::{Keys, WriteHandle, Writers},
};
use counting_store::CountingStore;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use uploads::{MIB, content};

struct Scene {
    store: Arc<CountingStore>,
    keys: Arc<Keys>,
    writers: Arc<Writers>,
}

impl Scene {
    fn new(store: CountingStore, memory_bytes: u64, min_part_bytes: u64, upload_requests_max: usize) -> Self {
        Self::with_answers(store, memory_bytes, min_part_bytes, upload_requests_max, 0)
    }

    /// `upload_answers_max` parts more may wait for the store's answer.
    fn with_answers(
        store: CountingStore,
        memory_bytes: u64,
        min_part_bytes: u64,
        upload_requests_max: usize,
        upload_answers_max: usize,
    ) -> Self {
        let limits = Limits {
            memory_bytes,
            min_part_bytes,
            single_file_bytes_max: 200 << 30,
            upload_requests_max,
            upload_answers_max,
            ..Limits::default()
        };
        let writers = Writers::new(&limits, tokio::runtime::Handle::current());
        Self { store: Arc::new(store), keys: Keys::new(), writers }
    }

    fn begin(&self, key: &str) -> Arc<WriteHandle> {
        let (writers, keys) = (Arc::clone(&self.writers), Arc::clone(&self.keys));
        WriteHandle::begin(writers, Arc::clone(&self.store) as _, keys, Key::new(key).expect("a key"))
    }

    fn assert_within_budget(&self) {
        let budget = self.writers.budget();
        let (most, bound) = (budget.used_bytes_most(), budget.bytes() + budget.slack_bytes());
        assert!(most <= bound, "{most} bytes in use, {bound} allowed");
    }

    async fn assert_at_rest(&self) {
        assert_eq!(self.writers.drain(Duration::from_secs(60)).await, 0);
        for _ in 0..100 {
            if self.writers.budget().used_bytes() == 0 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.writers.budget().used_bytes(), 0, "{:?}", self.writers);
        assert_eq!(self.store.open_uploads(), 0);
    }
}

/// Writes the whole of `content` in pieces of `piece` bytes, with a pause after each, and publishes.
async fn upload(handle: Arc<WriteHandle>, content: Bytes, piece: usize, pause: Duration) {
    let mut at = 0;
    while at < content.len() {
        let end = content.len().min(at + piece);
        handle.write(at as u64, content.slice(at..end)).await.expect("nothing fails here");
        at = end;
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    let published = handle.publish(NewObject::default()).await.expect("nothing fails here");
    assert_eq!((published.bytes, published.crc64), (content.len() as u64, Some(Crc64::of(&content))));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_writers_with_room_for_eight_parts_all_finish() {
    let wire = CountingStore::on_wire(Duration::from_millis(5), 0);
    let scene = Scene::new(wire, 8 * MIB, MIB, 8);
    let content = content(1, 2 * MIB + 12_345);
    let mut tasks = JoinSet::new();
    for number in 0..1000_u64 {
        let handle = scene.begin(&number.to_string());
        // Pieces as sockets give them, and as the kernel does.
        let piece = [4_096, 65_536, 100_000, 1 << 20][usize::try_from(number % 4).unwrap()];
        tasks.spawn(upload(handle, content.clone(), piece, Duration::ZERO));
    }
    let all = async { while tasks.join_next().await.is_some_and(|task| task.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(3600), all)
        .await
        .unwrap_or_else(|_| panic!("stuck: {:?}", scene.writers));
    for number in 0..1000 {
        assert_eq!(scene.store.object(&number.to_string()).unwrap().0, content.len() as u64);
    }
    scene.assert_within_budget();
    assert!(scene.store.running_most() <= 8);
    scene.assert_at_rest().await;
}

/// On several threads, as in the program: who looks for parts to send early meets those that fill them.
#[test]
fn writers_on_many_threads_never_wait_for_each_other() {
    let (done, is_done) = std::sync::mpsc::channel();
    // Threads that wait for each other's locks end no runtime and no test.
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..3 {
                let scene =
                    Scene::new(CountingStore::on_wire(Duration::from_millis(1), 0), 160 * MIB, 4 * MIB, 32);
                let content = content(1, 6 * MIB);
                let mut tasks = JoinSet::new();
                for number in 0..160 {
                    let handle = scene.begin(&number.to_string());
                    tasks.spawn(upload(handle, content.clone(), 65_536, Duration::ZERO));
                }
                while tasks.join_next().await.is_some_and(|task| task.is_ok()) {}
                assert!((0..160).all(|number| scene.store.object(&number.to_string()).is_some()));
            }
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(60)).expect("they wait for each other");
}

#[tokio::test(start_paused = true)]
async fn three_hundred_clients_that_trickle_all_finish() {
    let wire = CountingStore::on_wire(Duration::from_millis(20), 0);
    let scene = Scene::new(wire, 32 * MIB, 4 * MIB, 8);
    let content = content(1, 2 * MIB + 500_000);
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..300_u64 {
        let handle = scene.begin(&number.to_string());
        let pause = Duration::from_millis(50 + number);
        tasks.spawn(upload(handle, content.clone(), 10_000, pause));
    }
    let all = async { while tasks.join_next().await.is_some_and(|task| task.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(36_000), all)
        .await
        .unwrap_or_else(|_| panic!("stuck: {:?}", scene.writers));
    for number in 0..300 {
        assert_eq!(scene.store.object(&number.to_string()).unwrap().0, content.len() as u64);
    }
    // Alone, the slowest one takes 91 s.
    assert!(begun.elapsed() < Duration::from_secs(600), "{:?}", begun.elapsed());
    scene.assert_within_budget();
    scene.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_stall_for_ever_stop_nobody_else() {
    let scene = Scene::new(CountingStore::default(), 8 * MIB, MIB, 4);
    let mut stalled = Vec::new();
    // Together they hold seven of eight MiB, none of them enough for a part.
    for number in 0..8 {
        let handle = scene.begin(&format!("stalled-{number}"));
        handle.write(0, content(number, 7 * MIB / 8)).await.unwrap();
        stalled.push(handle);
    }
    let content = content(9, 20 * MIB);
    let mut tasks = JoinSet::new();
    for number in 0..20 {
        tasks.spawn(upload(scene.begin(&number.to_string()), content.clone(), 1 << 20, Duration::ZERO));
    }
    let all = async { while tasks.join_next().await.is_some_and(|task| task.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(600), all)
        .await
        .unwrap_or_else(|_| panic!("stuck: {:?}", scene.writers));
    assert_eq!(scene.store.object("19").unwrap().0, 20 * MIB);
    scene.assert_within_budget();
    drop(stalled);
    scene.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn stalled_clients_give_up_what_can_stand_as_a_part() {
    let scene = Scene::new(CountingStore::default(), 48 * MIB, 4 * MIB, 4);
    let mut stalled = Vec::new();
    for number in 0..11 {
        let handle = scene.begin(&format!("stalled-{number}"));
        handle.write(0, content(number, 3 * MIB)).await.unwrap();
        stalled.push(handle);
    }
    assert_eq!(scene.store.parts(), 0, "nobody waits: parts fill");
    upload(scene.begin("a"), content(20, 30 * MIB), 1 << 20, Duration::ZERO).await;
    assert!(scene.writers.budget().used_bytes() < 30 * MIB);
    for (number, handle) in stalled.iter().enumerate() {
        // They may go on as if nothing had been.
        handle.write(3 * MIB, content(number as u64, MIB)).await.unwrap();
        assert_eq!(handle.publish(NewObject::default()).await.unwrap().bytes, 4 * MIB);
    }
    scene.assert_within_budget();
    drop(stalled);
    scene.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn sixteen_writers_get_like_shares() {
    let wire = CountingStore::on_wire(Duration::from_millis(20), 40_000_000);
    let scene = Scene::new(wire, 256 * MIB, 4 * MIB, 8);
    let piece = content(1, MIB);
    let handles: Vec<_> = (0..16).map(|number| scene.begin(&number.to_string())).collect();
    let mut tasks = JoinSet::new();
    for handle in &handles {
        let (handle, piece) = (Arc::clone(handle), piece.clone());
        tasks.spawn(async move {
            loop {
                handle.write(handle.bytes(), piece.clone()).await.unwrap();
            }
        });
    }
    sleep(Duration::from_secs(8)).await;
    tasks.abort_all();
    let shares: Vec<_> = handles.iter().map(|handle| handle.bytes() / MIB).collect();
    let mean = shares.iter().sum::<u64>() / 16;
    assert!(shares.iter().all(|share| 2 * share >= mean), "{shares:?}");
    // Together they fill the wire.
    assert!(mean * 16 * MIB >= 8 * 8 * 40_000_000 * 8 / 10, "{shares:?}");
    scene.assert_within_budget();
    for handle in handles {
        handle.discard("enough").await;
    }
    scene.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn one_writer_keeps_all_requests_busy_within_its_share() {
    let wire = CountingStore::on_wire(Duration::from_millis(20), 40_000_000);
    let scene = Scene::with_answers(wire, 256 * MIB, 4 * MIB, 8, 2);
    let begun = Instant::now();
    upload(scene.begin("a"), content(1, 512 * MIB), 1 << 20, Duration::ZERO).await;
    let bytes_per_second = 512.0 * 1_048_576.0 / begun.elapsed().as_secs_f64();
    // Behind its last byte a part waits for a round trip, and another one sends meanwhile.
    assert_eq!((scene.store.sending_most(), scene.store.running_most()), (8, 10));
    assert!(bytes_per_second >= 0.9 * 320e6, "{bytes_per_second}");
    assert!(scene.writers.budget().used_bytes_most() <= 96 * MIB);
    scene.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn readers_yield_to_writers() {
    let scene = Scene::new(CountingStore::default(), 16 * MIB, MIB, 4);
    let budget = scene.writers.budget();
    let cached = Arc::new(parking_lot::Mutex::new(Vec::new()));
    while let Some(room) = budget.try_take(MIB) {
        cached.lock().push(room);
    }
    assert_eq!(cached.lock().len(), 12, "readers get three quarters");
    let _reclaimer = budget.on_pressure({
        let cached = Arc::clone(&cached);
        move |bytes| {
            let mut cached = cached.lock();
            let keep = cached.len().saturating_sub(usize::try_from(bytes.div_ceil(MIB)).unwrap());
            cached.truncate(keep);
        }
    });
    let handles: Vec<_> = (0..12).map(|number| scene.begin(&number.to_string())).collect();
    for handle in &handles {
        // Too small to be sent: only the readers can give.
        handle.write(0, content(1, MIB - 1)).await.unwrap();
    }
    assert!(cached.lock().len() <= 4, "{}", cached.lock().len());
    // A reader that asks now waits until writers are done.
    let waiting = tokio::spawn({
        let budget = Arc::clone(budget);
        async move { budget.take(8 * MIB).await }
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    drop(handles);
    assert_eq!(waiting.await.unwrap().bytes(), 8 * MIB);
    assert!(budget.used_bytes_most() <= budget.bytes(), "{} bytes", budget.used_bytes_most());
    cached.lock().clear();
    scene.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_parts_are_enough_for_what_is_promised() {
    // Small blocks of memory make a small largest file, and every boundary of the plan is passed.
    let scene = Scene::new(CountingStore::default(), 12 * MIB, MIB, 8);
    let sizes = PartSizes::new(12 * MIB, MIB);
    let largest = sizes.bytes_in_all();
    let piece = content(1, MIB);
    let handle = scene.begin("a");
    // 10 GiB would take a while: the plan is followed for 300 parts here, and to its end in `part.rs`.
    while handle.bytes() < largest.min(300 * MIB) {
        handle.write(handle.bytes(), piece.clone()).await.unwrap();
    }
    handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(scene.store.parts(), 300);
    scene.assert_at_rest().await;
}
