//! Who asks the program to stop or to reload, and what systemd is told.
//!
//! SIGTERM and SIGINT ask to stop; a second one asks to hurry. A child is asked to stop too when its parent is
//! gone: it holds the reading end of a pipe that ends with the parent, however that ends. (A signal on the
//! parent's death would follow the *thread* that started the child, which may end long before.)
//!
//! SIGHUP asks to reload, and so does a line on that pipe. But who was started on a terminal that has gone
//! (its window was closed, its ssh ended) is asked to stop by it: nobody is left who would do so.

use std::{
    future::Future,
    io::{self, BufRead, IsTerminal},
    sync::Arc,
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
};
use tracing::{debug, info};

/// What has been asked for so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    Run,
    Stop,
    /// Do not wait for what is in flight.
    Hurry,
}

/// The line by which a parent asks its child to reload.
pub(super) const RELOAD: &str = "reload";

/// Hears the wishes to stop and to reload. Clones hear the same.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    stop: watch::Receiver<Wish>,
    /// Keeps one wish for later: what is asked for during a reload follows it, once.
    reload: Arc<Notify>,
}

impl Wishes {
    /// Listens to signals from now on and, `supervised`, to the end of standard input. Needs a runtime.
    ///
    /// # Errors
    /// Where a signal cannot be caught.
    pub(super) fn listen(supervised: bool) -> io::Result<Self> {
        let (sender, receiver) = watch::channel(Wish::Run);
        let reload = Arc::new(Notify::new());
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    info!(signal = kind.as_raw_value(), "asked to stop");
                    ask(&sender);
                }
            });
        }
        listen_to_hangup(sender.clone(), reload.clone())?;
        if supervised {
            let asked = reload.clone();
            let on_line = move |line: &str| {
                if line == RELOAD {
                    asked.notify_one();
                }
            };
            on_input(on_line, move || {
                info!("the parent has gone: stopping");
                ask(&sender);
            })?;
        }
        Ok(Self { stop: receiver, reload })
    }

    /// Ends when a reload has been asked for since it ended last. One at a time may wait for it.
    pub(super) async fn reload(&self) {
        self.reload.notified().await;
    }

    /// Ends when a stop has been asked for.
    pub(super) fn stop(&self) -> impl Future<Output = ()> + Send + 'static {
        self.at_least(Wish::Stop)
    }

    /// Ends when a stop has been asked for twice.
    pub(super) fn hurry(&self) -> impl Future<Output = ()> + Send + 'static {
        self.at_least(Wish::Hurry)
    }

    fn at_least(&self, wish: Wish) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.stop.clone();
        async move {
            if receiver.wait_for(|asked| *asked >= wish).await.is_err() {
                // Without a sender nobody can ask any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn listen_to_hangup(stop: watch::Sender<Wish>, reload: Arc<Notify>) -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    let terminals = terminals();
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            if has_lost_one(terminals) {
                info!("the terminal has gone: stopping");
                ask(&stop);
            } else {
                info!("asked to reload");
                reload.notify_one();
            }
        }
    });
    Ok(())
}

/// Which of standard input, output and error are terminals. One that has hung up is none any more: the
/// question gets EIO.
fn terminals() -> [bool; 3] {
    [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()]
}

fn has_lost_one(at_start: [bool; 3]) -> bool {
    at_start.into_iter().zip(terminals()).any(|(was, is)| was && !is)
}

fn ask(sender: &watch::Sender<Wish>) {
    sender.send_modify(|wish| *wish = if *wish == Wish::Run { Wish::Stop } else { Wish::Hurry });
}

/// Ends this process when the parent has gone: for a child that has nothing to put in order.
///
/// # Errors
/// Where no thread can be started.
pub fn end_with_parent() -> io::Result<()> {
    on_input(|_| (), || std::process::exit(0))
}

/// Hands over each line of standard input, and its end.
fn on_input(
    on_line: impl Fn(&str) + Send + 'static,
    at_end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            match line {
                Ok(line) => on_line(&line),
                // An error is an end as well: nobody will ever be heard again.
                Err(error) => {
                    debug!(%error, "standard input");
                    break;
                }
            }
        }
        at_end();
    })?;
    Ok(())
}

/// Tells systemd that a reload begins (sd_notify(3): with the time); it ends with `READY=1`.
pub(super) fn tell_systemd_of_reload() {
    match NotifyState::monotonic_usec_now() {
        Ok(time) => tell_systemd(&[NotifyState::Reloading, time]),
        Err(error) => debug!(%error, "no monotonic time"),
    }
}

/// Tells systemd, where it listens (`NOTIFY_SOCKET`, see sd_notify(3)).
pub(super) fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd does not hear");
    }
}
