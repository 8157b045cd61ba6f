//! How a long read learns that nobody waits for its answer any more. It asks between rows and then stops, so abandoned
//! calls occupy neither threads nor cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::StoreError;

/// Whether the caller of a read has left. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Cancellation {
    is_cancelled: Arc<AtomicBool>,
}

impl Cancellation {
    /// Tells the read that its caller has left. This cannot be undone.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the caller has left.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    /// Fails once the caller has left. It costs one load, so it can be asked for every row.
    ///
    /// # Errors
    /// [`StoreError::CallerLeft`].
    pub fn check(&self) -> Result<(), StoreError> {
        if self.is_cancelled() { Err(StoreError::CallerLeft) } else { Ok(()) }
    }
}
