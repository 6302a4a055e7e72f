//! Counts a bucket by LISTs: at the start, now and then, and soon after the books have shown a doubt.
//!
//! A count costs one request per thousand objects, so the pause to the next one grows with how long the last
//! took. A count that fails is begun anew; until the first has succeeded, writers wait.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{
    super::{name::Names, resolve::PAGE_NAMES_MAX},
    Books,
    ledger::{Amount, TooRestless},
};
use crate::cos::{CosError, ListRequest, ListedObject, ObjectStore};

/// What is counted, and into which books.
pub(super) struct Count {
    pub(super) books: Arc<Books>,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) names: Names,
    /// For the log.
    pub(super) mount: String,
}

impl Count {
    /// Counts until it is aborted.
    pub(super) async fn for_ever(self) {
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            match self.once().await {
                Ok(counted) => {
                    failures = 0;
                    let took = began.elapsed();
                    self.tell(counted, took);
                    self.pause(took).await;
                }
                Err(error) => {
                    self.books.ledger.lock().abandon_count();
                    warn!(mount = self.mount, %error, "the objects of a mount with a quota were not counted");
                    tokio::time::sleep((RETRY_MIN * 2_u32.saturating_pow(failures)).min(RETRY_MAX)).await;
                    failures = (failures + 1).min(10);
                }
            }
        }
    }

    fn tell(&self, counted: Amount, took: Duration) {
        let (mount, Amount { bytes, files }, took_ms) = (&self.mount, counted, took.as_millis());
        if self.books.is_counted.send_replace(true) {
            debug!(mount, bytes, files, took_ms, "counted for the quota");
        } else {
            info!(mount, bytes, files, took_ms, "counted for the quota: files can be stored from now on");
        }
    }

    async fn pause(&self, took: Duration) {
        tokio::time::sleep(AFTER_DOUBT_MIN.max(took * 5)).await;
        let rest = EVERY_MIN.max(took * 20);
        // Whichever comes first.
        drop(tokio::time::timeout(rest, self.books.doubt.notified()).await);
    }

    /// Reads the whole list once.
    async fn once(&self) -> Result<Amount, NotCounted> {
        self.books.ledger.lock().begin_count(Instant::now());
        let mut request = ListRequest {
            prefix: self.names.root().to_owned(),
            entries_max: PAGE_NAMES_MAX,
            ..ListRequest::default()
        };
        loop {
            let page = self.store.list_objects(&request).await?;
            let is_shown = |object: &&ListedObject| !self.names.is_hidden(&object.key);
            let objects: Vec<&ListedObject> = page.objects.iter().filter(is_shown).collect();
            let counted = self.books.ledger.lock().page(&objects, page.next_marker.as_deref())?;
            match (counted, page.next_marker) {
                (None, Some(next)) => request.marker = next,
                (counted, _) => return Ok(counted.unwrap_or_default()),
            }
        }
    }
}

/// Why a count came to no end.
#[derive(Debug, thiserror::Error)]
enum NotCounted {
    #[error(transparent)]
    Store(#[from] CosError),
    #[error(transparent)]
    Restless(#[from] TooRestless),
}

/// After a doubt it is counted no sooner than so long behind the last count.
const AFTER_DOUBT_MIN: Duration = Duration::from_secs(10);
/// And without one, so long.
const EVERY_MIN: Duration = Duration::from_secs(10 * 60);
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
