//! One transfer of a session: its replies, and what the client says meanwhile.
//!
//! The data connection first, then the file, then 150, then the bytes, then one final reply. Meanwhile the
//! control connection is read on: ABOR ends the transfer, STAT and NOOP are answered at once, everything
//! else waits for its turn. A client that vanishes ends the transfer; one that has said QUIT may close.

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tracing::{debug, info, warn};

use super::{
    Phase,
    command::verb_of,
    control::{ControlWatch, Heard},
    data::DataConnection,
    desk::{Flow, FrontDesk, Login, Session},
    door::Door,
    path::ClientPath,
    reached,
    records::{Transferred, Who, mb_per_s, seconds},
    reply::Reply,
    tls::DataTls,
    transfer::{
        Announcer, Broken, Complete, Interruption, Means, Meter, Opened, Order, Outcome, Work, interrupted,
    },
};

/// Lines that may wait for their turn; the client is not read further until they are fewer.
const WAITING_LINES_MAX: usize = 64;
/// How long the inner session may take to say its last reply once the outcome is known.
const INNER_END_TIME: Duration = Duration::from_secs(10);

/// What one transfer is about.
struct Errand {
    verb: &'static str,
    path: ClientPath,
    work: Work,
    door: Door,
    tls: Option<DataTls>,
    control: ControlWatch,
    interrupt: watch::Receiver<Option<Interruption>>,
    opened: oneshot::Sender<Opened>,
    progress: Arc<AtomicU64>,
    means: Arc<Means>,
}

impl FrontDesk {
    /// Conducts a transfer from its command to its final reply.
    pub(super) async fn transfer(
        &mut self,
        verb: &'static str,
        path: ClientPath,
        work: Work,
    ) -> io::Result<Flow> {
        if let Some(refusal) = self.data_refused_in_clear() {
            self.door = None;
            self.say(refusal).await?;
            return Ok(Flow::Next);
        }
        let Some(door) = self.door.take() else {
            self.say(Reply::new(425, "Say EPSV, PASV, EPRT or PORT first")).await?;
            return Ok(Flow::Next);
        };
        self.read_ahead();
        let begun = Instant::now();
        let progress = Arc::new(AtomicU64::new(0));
        let (interrupt, interrupted) = watch::channel(None);
        let (open, opened) = oneshot::channel();
        let errand = Errand {
            verb,
            path: path.clone(),
            work,
            door,
            tls: self.data_tls(),
            control: self.control.watch(),
            interrupt: interrupted,
            opened: open,
            progress: progress.clone(),
            means: self.front.means.clone(),
        };
        let watch = errand.control.clone();
        let meter = Meter::new(progress);
        let outcome = self.accompany(errand, &interrupt, opened, &watch, &meter).await;
        let transferred = Transferred {
            verb,
            path: &path,
            outcome: &outcome,
            time: begun.elapsed(),
            is_ascii: self.is_ascii,
        };
        log(self.who(), &transferred);
        self.front.records.transfer(self.who(), &transferred);
        let is_lost = matches!(&outcome.end, Err(Broken::Interrupted(Interruption::ControlGone)));
        self.say(final_reply(verb, &path, &outcome)).await?;
        Ok(if is_lost { Flow::End } else { Flow::Next })
    }

    /// What has come before the transfer begins was not said to it, and waits for its turn.
    fn read_ahead(&mut self) {
        while self.waiting.len() < WAITING_LINES_MAX {
            match self.control.heard_already() {
                Some(heard) => self.waiting.push_back(heard),
                None => return,
            }
        }
    }

    async fn accompany(
        &mut self,
        errand: Errand,
        interrupt: &watch::Sender<Option<Interruption>>,
        mut opened: oneshot::Receiver<Opened>,
        watch: &ControlWatch,
        meter: &Meter,
    ) -> Outcome {
        let (verb, path) = (errand.verb, errand.path.clone());
        // Read ahead already: an end, or an ABOR, that the loop below will not hear again.
        for heard in &self.waiting {
            notice(heard, interrupt, watch);
        }
        let Login::In(session) = &mut self.login else {
            return Outcome { bytes: 0, end: Err(Broken::Lost) };
        };
        let begun = Instant::now();
        let mut running = Box::pin(perform(session, errand));
        let mut is_announced = false;
        let mut phase = self.phase.clone();
        let mut is_broken_off = false;
        loop {
            tokio::select! {
                biased;
                file = &mut opened, if !is_announced => {
                    is_announced = true;
                    let Ok(file) = file else { continue };
                    let said = self.control.say(&announcement(verb, &path, file), self.names).await;
                    told_or_gone(said, interrupt);
                }
                outcome = &mut running => {
                    // Both may have come since the last look, and 150 goes first.
                    if let Ok(file) = opened.try_recv() {
                        let said = self.control.say(&announcement(verb, &path, file), self.names).await;
                        told_or_gone(said, interrupt);
                    }
                    return outcome;
                }
                () = reached(&mut phase, Phase::Breaking), if !is_broken_off => {
                    is_broken_off = true;
                    interrupt.send_replace(Some(Interruption::Stopping));
                }
                heard = self.control.hear(), if may_hear(&self.waiting) => {
                    notice(&heard, interrupt, watch);
                    match at_once(&heard, verb, &path, meter, begun) {
                        Some(reply) if self.waiting.is_empty() => {
                            told_or_gone(self.control.say(&reply, self.names).await, interrupt);
                        }
                        _ => self.waiting.push_back(heard),
                    }
                }
            }
        }
    }
}

/// A client that takes no replies is gone.
fn told_or_gone(said: io::Result<()>, interrupt: &watch::Sender<Option<Interruption>>) {
    if said.is_err() {
        interrupt.send_replace(Some(Interruption::ControlGone));
    }
}

/// Not after the end, and not without bound.
pub(super) fn may_hear(waiting: &std::collections::VecDeque<Heard>) -> bool {
    waiting.len() < WAITING_LINES_MAX && waiting.back() != Some(&Heard::Closed)
}

/// ABOR, QUIT and the end of the connection concern the transfer itself.
fn notice(heard: &Heard, interrupt: &watch::Sender<Option<Interruption>>, watch: &ControlWatch) {
    match heard {
        Heard::Line(line) => match verb_of(line).as_str() {
            "ABOR" => {
                interrupt.send_replace(Some(Interruption::Abor));
            }
            "QUIT" | "BYE" => watch.note_quit(),
            _ => {}
        },
        // Behind a QUIT it is orderly: the transfer goes on.
        Heard::Closed if !watch.has_quit() => {
            interrupt.send_replace(Some(Interruption::ControlGone));
        }
        Heard::Closed | Heard::TooLong => {}
    }
}

/// What is answered without waiting for the end of the transfer.
fn at_once(heard: &Heard, verb: &str, path: &ClientPath, meter: &Meter, begun: Instant) -> Option<Reply> {
    let Heard::Line(line) = heard else { return None };
    if line.trim_ascii().eq_ignore_ascii_case(b"STAT") {
        return Some(progress_report(verb, path, meter, begun));
    }
    (verb_of(line) == "NOOP").then(|| Reply::new(200, "Transfer under way"))
}

/// STAT while something is under way (RFC 959 section 4.1.3).
pub(super) fn progress_report(verb: &str, path: &ClientPath, meter: &Meter, begun: Instant) -> Reply {
    let (bytes, seconds) = (meter.bytes(), begun.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
    let mb_per_s = bytes as f64 / 1e6 / seconds.max(1e-3);
    let body =
        vec![format!("{verb} {path}: {bytes} bytes so far"), format!("{seconds:.1} s, {mb_per_s:.1} MB/s")];
    Reply::lines(211, "Transfer under way:", body, "End")
}

/// Waits for the data connection, hands the order to the inner session, and brings back the outcome.
async fn perform(session: &mut Session, errand: Errand) -> Outcome {
    let Errand { verb, path, work, door, tls, control, mut interrupt, opened, progress, means } = errand;
    let broken = |end| Outcome { bytes: 0, end: Err(end) };
    let mut data: DataConnection = tokio::select! {
        biased;
        reason = interrupted(&mut interrupt) => return broken(Broken::Interrupted(reason)),
        met = door.meet() => match met {
            Ok(data) => data,
            Err(error) => return broken(Broken::NoConnection(error)),
        },
    };
    if let Some(tls) = tls {
        data.expect(tls);
    }
    let restart = match &work {
        Work::Retrieve { range, .. } => range.start,
        Work::Store { .. } | Work::List { .. } => 0,
    };
    let (told, outcome) = oneshot::channel();
    // The stock server would make up a name of its own for STOU.
    let line = format!("{} {path}", if verb == "STOU" { "STOR" } else { verb });
    let context = session.context.clone();
    let throttle = context.throttle().clone();
    let announcer = Announcer::new(opened);
    context.place(Order {
        data,
        work,
        path,
        control,
        interrupt,
        announcer,
        outcome: told,
        progress,
        means,
        throttle,
    });
    let outcome = ask_inner(session, &line, restart, outcome).await;
    // Nobody has performed it: its data connection must not look like an empty file.
    if let Some(order) = context.withdraw() {
        order.data.reset();
    }
    context.take_report();
    outcome.unwrap_or_else(|| broken(Broken::Lost))
}

/// `None` where the inner session died, or panicked, before there was an outcome.
async fn ask_inner(
    session: &mut Session,
    line: &str,
    restart: u64,
    mut outcome: oneshot::Receiver<Outcome>,
) -> Option<Outcome> {
    let inner = match session.inner().await {
        Ok(inner) => inner,
        Err(error) => {
            warn!(%error, "no inner session");
            return None;
        }
    };
    let mut talking = Box::pin(inner.transfer(line, restart));
    let mut said = None;
    let told = tokio::select! {
        // A dropped sender ends it too: a panic in a transfer yields no reply of the inner session.
        told = &mut outcome => told.ok(),
        reply = &mut talking => {
            said = Some(reply);
            outcome.try_recv().ok()
        }
    };
    if said.is_none() && told.is_some() {
        said = tokio::time::timeout(INNER_END_TIME, &mut talking).await.ok();
    }
    drop(talking);
    match said {
        Some(Ok(reply)) => debug!(code = reply.code, "inner session done"),
        Some(Err(error)) => {
            warn!(%error, "inner session died in a transfer");
            session.inner = None;
        }
        None => {
            warn!("inner session failed in a transfer");
            session.inner = None;
        }
    }
    told
}

/// 150.
fn announcement(verb: &str, path: &ClientPath, file: Opened) -> Reply {
    match file.bytes {
        // RFC 1123 section 4.1.2.9.
        _ if verb == "STOU" => Reply::new(150, format!("FILE: {path}")),
        Some(bytes) => Reply::new(150, format!("{verb} {path} begins ({bytes} bytes)")),
        None => Reply::new(150, format!("{verb} {path} begins")),
    }
}

fn final_reply(verb: &str, path: &ClientPath, outcome: &Outcome) -> Reply {
    match &outcome.end {
        Ok(Complete::Stored) if verb == "STOU" => {
            Reply::new(226, format!("Stored, {} bytes, FILE: {path}", outcome.bytes))
        }
        Ok(Complete::Stored) => Reply::new(226, format!("Stored, {} bytes", outcome.bytes)),
        Ok(Complete::Sent) => Reply::new(226, format!("Sent, {} bytes", outcome.bytes)),
        Ok(Complete::Listed { names, cut: false }) => Reply::new(226, format!("Listed, {names} names")),
        Ok(Complete::Listed { names, cut: true }) => {
            Reply::new(226, format!("Cut after {names} names (max_list_file), there are more"))
        }
        Err(broken) => broken.reply(path),
    }
}

/// One line per transfer.
fn log(who: Who<'_>, transferred: &Transferred<'_>) {
    let Who { user, peer, .. } = who;
    let Transferred { verb, path, outcome, time, .. } = transferred;
    let bytes = outcome.bytes;
    let (seconds, mb_per_s) = (seconds(*time), mb_per_s(bytes, *time));
    match &outcome.end {
        Ok(complete) => {
            info!(user, %peer, verb, %path, bytes, seconds, mb_per_s, outcome = "complete", "transfer");
            if let Complete::Listed { names, cut: true } = complete {
                warn!(user, %peer, verb, %path, names, "listing cut: max_list_file allows no more");
            }
        }
        Err(broken) => {
            let why = broken.why();
            info!(user, %peer, verb, %path, bytes, seconds, mb_per_s, outcome = "broken", why, "transfer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Secret, UserConfig},
        ftp::{home::Ground, inner::InnerSession, storage::SessionContext, users::Users},
    };

    async fn session(dir: &std::path::Path) -> Session {
        let user = UserConfig::of_test("user", "word", dir);
        let user = Users::new(&[user], None, Ground::Plain).admit("user", &Secret::new("word")).unwrap();
        let context = Arc::new(SessionContext::new(user));
        let inner = InnerSession::open(context.clone()).await.unwrap();
        let seat = Arc::new(crate::ftp::seats::Seats::default()).take_of_user("user", 0).unwrap();
        Session { context, inner: Some(inner), _seat: seat }
    }

    #[tokio::test]
    async fn a_transfer_without_an_outcome_is_lost_and_the_inner_session_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut session = session(dir.path()).await;
        // No order lies in the context: the storage fails, and nobody tells an outcome, as after a panic.
        let (told, outcome) = oneshot::channel();
        drop(told);
        assert!(ask_inner(&mut session, "STOR /x", 0, outcome).await.is_none());
        let reply = session.inner().await.unwrap().ask("MKD /a").await.unwrap();
        assert!(reply.is_good() && dir.path().join("a").is_dir());
        session.inner().await.unwrap().cut();
        assert!(session.inner().await.unwrap().ask("MKD /b").await.is_err());
        session.inner = None;
        assert!(session.inner().await.unwrap().ask("MKD /b").await.unwrap().is_good());
    }
}
