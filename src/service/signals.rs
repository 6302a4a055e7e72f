//! Who asks the program to stop, and what systemd is told.
//!
//! SIGTERM, SIGINT and SIGHUP ask; a second one asks to hurry. A child asks too when its parent is gone: it
//! holds the reading end of a pipe that ends with the parent, however that ends. (A signal on the parent's
//! death would follow the *thread* that started the child, which may end long before.)

use std::{future::Future, io};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
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

/// Hears the wish to stop. Clones hear the same.
#[derive(Debug, Clone)]
pub(super) struct Wishes(watch::Receiver<Wish>);

impl Wishes {
    /// Listens to signals from now on and, `supervised`, to the end of standard input. Needs a runtime.
    ///
    /// # Errors
    /// Where a signal cannot be caught.
    pub(super) fn listen(supervised: bool) -> io::Result<Self> {
        let (sender, receiver) = watch::channel(Wish::Run);
        for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    info!(signal = kind.as_raw_value(), "asked to stop");
                    ask(&sender);
                }
            });
        }
        if supervised {
            on_end_of_input(move || {
                info!("the parent has gone: stopping");
                ask(&sender);
            })?;
        }
        Ok(Self(receiver))
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
        let mut receiver = self.0.clone();
        async move {
            if receiver.wait_for(|asked| *asked >= wish).await.is_err() {
                // Without a sender nobody can ask any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn ask(sender: &watch::Sender<Wish>) {
    sender.send_modify(|wish| *wish = if *wish == Wish::Run { Wish::Stop } else { Wish::Hurry });
}

/// Ends this process when the parent has gone: for a child that has nothing to put in order.
///
/// # Errors
/// Where no thread can be started.
pub fn end_with_parent() -> io::Result<()> {
    on_end_of_input(|| std::process::exit(0))
}

fn on_end_of_input(then: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
        // An error is an end as well: nobody will ever be heard again.
        if let Err(error) = io::copy(&mut io::stdin().lock(), &mut io::sink()) {
            debug!(%error, "standard input");
        }
        then();
    })?;
    Ok(())
}

/// Tells systemd, where it listens (`NOTIFY_SOCKET`, see sd_notify(3)).
pub(super) fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd does not hear");
    }
}
