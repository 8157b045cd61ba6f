//! A thread for one kind of work, which it does in the order of the requests. The threads of the runtime's pool are shared
//! with all queries: queries that fill that pool would otherwise delay commits, and with them kills (I8), and the fold.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::error::StoreError;

type Work = Box<dyn FnOnce() + Send>;

/// The handle of the thread, which ends once the handle is dropped and the work that was requested is done.
pub(crate) struct OwnThread {
    /// It has no limit of its own: the server commits and folds one request after another.
    requests: mpsc::Sender<Work>,
}

impl OwnThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`StoreError::Database`] if the system has no thread left.
    pub(crate) fn start(name: &str) -> Result<Self, StoreError> {
        let (requests, received) = mpsc::channel::<Work>();
        let run = move || {
            for work in received {
                work();
            }
        };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        started.map_err(|error| StoreError::Database(format!("cannot start the thread {name}: {error}")))?;
        Ok(Self { requests })
    }

    /// Runs `work` after what was requested before. It runs to its end also if its caller has left.
    ///
    /// # Errors
    /// [`StoreError::Database`] if `work` panics; the thread goes on.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, done) = oneshot::channel();
        let work_and_reply = move || {
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                let _ = reply.send(result);
            }
        };
        self.requests.send(Box::new(work_and_reply)).map_err(|_| StoreError::Closed)?;
        done.await.unwrap_or_else(|_| Err(StoreError::Database("the task panicked".to_owned())))
    }
}
