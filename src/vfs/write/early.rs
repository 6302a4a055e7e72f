//! A small file's PUT that has begun before anybody knows whether the file is whole.
//!
//! Behind the last byte of an upload the front waits for a moment whether the client is still there. In that
//! time all of the PUT travels but its last byte, so COS makes no object of it. Commit lets that byte go; a
//! discard drops the request, and COS throws away what it has (a body shorter than its Content-Length).

use std::sync::Arc;

use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

use super::{PartBuffer, Shared, WriteState};
use crate::cos::{CosResult, Latch, NewObject, PART_BYTES_MIN, Payload, Stored};

/// Such a PUT. Dropping it ends the request.
pub(super) struct EarlyPut {
    new: NewObject,
    pub(super) payload: Payload,
    latch: Arc<Latch>,
    request: JoinHandle<CosResult<Stored>>,
    _place: OwnedSemaphorePermit,
}

impl EarlyPut {
    /// Lets it make the object. `None`: it cannot, having failed already, or been given something else than `new`.
    pub(super) async fn finish(mut self, new: &NewObject) -> Option<CosResult<Stored>> {
        if self.new != *new || self.request.is_finished() {
            return None;
        }
        self.latch.open();
        (&mut self.request).await.ok()
    }
}

impl Drop for EarlyPut {
    fn drop(&mut self) {
        self.request.abort();
    }
}

impl Shared {
    /// No more bytes will come: begins the PUT of a small file, if there is a place for it. Larger ones, of which
    /// something may be kept should the upload turn out to be broken, are left as they are.
    pub(super) fn put_early(self: &Arc<Self>, new: &NewObject) {
        let mut core = self.core.lock();
        let is_small = !core.part.is_empty() && core.part.bytes() < PART_BYTES_MIN;
        if !matches!(core.state, WriteState::Filling) || core.ended || !is_small {
            return;
        }
        let Some(place) = self.writers.place_for_answer() else { return };
        core.ended = true;
        core.memory.room = None;
        core.memory.seat = None;
        let payload = std::mem::replace(&mut core.part, PartBuffer::new()).freeze();
        let latch = Arc::new(Latch::default());
        let (shared, held, given) =
            (Arc::clone(self), payload.clone().held_by(Arc::clone(&latch)), new.clone());
        let request = self
            .writers
            .runtime
            .spawn(async move { shared.store.put_object(&shared.key, held, &given).await });
        core.early = Some(EarlyPut { new: new.clone(), payload, latch, request, _place: place });
    }
}
