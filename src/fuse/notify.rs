//! Telling the kernel what it must forget.
//!
//! A notification about a name waits for the lock of its directory, which a RENAME may hold for seconds
//! (measured: 2.7 s under one of 3 s). So it is sent from a blocking thread, never from a FUSE loop, as many
//! at a time as there are permits; and whoever waits for it waits for a bounded time. What is given up on
//! costs no more than an entry that stays fresh until its TTL ends.

use std::{io, sync::Arc, time::Duration};

use fuser::{INodeNo, Notifier};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use tracing::{debug, trace};

use crate::vfs::{Notice, Notify};

/// Notifications of one session that may be waiting in the kernel at a time.
const AT_A_TIME: usize = 8;
/// How long one is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// What [`crate::vfs::Vfs::attach`] is given.
pub(super) fn notify(notifier: Notifier, runtime: Handle) -> Notify {
    let permits = Arc::new(Semaphore::new(AT_A_TIME));
    Arc::new(move |notice| {
        let (notifier, runtime, permits) = (notifier.clone(), runtime.clone(), Arc::clone(&permits));
        Box::pin(async move {
            let sent = timeout(PATIENCE, async {
                let permit = permits.acquire_owned().await;
                runtime
                    .spawn_blocking(move || {
                        send(&notifier, &notice);
                        drop(permit);
                    })
                    .await
            });
            if sent.await.is_err() {
                debug!("the kernel holds a lock that a notification needs: it will come later");
            }
        })
    })
}

fn send(notifier: &Notifier, notice: &Notice) {
    let sent = match notice {
        Notice::Entry { parent, name } => notifier.inval_entry(INodeNo(parent.0), name),
        Notice::Inode { inode } => notifier.inval_inode(INodeNo(inode.0), 0, 0),
    };
    match sent {
        Ok(()) => trace!(?notice, "the kernel forgets"),
        // It did not remember in the first place.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => debug!(?notice, %error, "the kernel does not take a notification"),
    }
}
