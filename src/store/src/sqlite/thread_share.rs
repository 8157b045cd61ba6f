//! A share of the runtime's threads for blocking work. The runtime would start hundreds of threads, so that callers who
//! read much would take the cores and the disk from everybody else. Each kind of read has a share of its own: reads of
//! callers never delay those that a kill or a tick needs.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::StoreError;

/// The number of threads that one kind of work may use at once. Further work waits in the order of the requests; work
/// whose caller leaves meanwhile is never begun.
pub(crate) struct ThreadShare {
    turns: Arc<Semaphore>,
}

impl ThreadShare {
    /// A share of `threads` threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(threads)) }
    }

    /// Runs work on a thread that may block. Work that has begun keeps its turn until it ends, also if its caller has
    /// left.
    ///
    /// # Errors
    /// Those of `work`; [`StoreError::Database`] if it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.unwrap_or_else(|error| Err(StoreError::Database(format!("the task failed: {error}"))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn abandoned_reads_use_no_more_threads_than_their_share_and_those_that_wait_are_never_begun() {
        let share = Arc::new(ThreadShare::new(2));
        let (begun, begins) = mpsc::channel();
        let mut ends = Vec::new();
        let mut calls = Vec::new();
        for _ in 0..20 {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let (share, begun) = (Arc::clone(&share), begun.clone());
            let work = move || {
                begun.send(()).unwrap();
                let _ = ended.recv();
                Ok(())
            };
            calls.push(tokio::spawn(async move { share.run(work).await }));
        }
        while share.turns.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        for call in calls {
            call.abort();
            let _ = call.await;
        }
        drop(ends);
        // Both turns are free again only when the two that were begun have ended.
        let both = share.turns.acquire_many(2).await.unwrap();
        drop((both, begun));
        assert_eq!(begins.iter().count(), 2);
        assert_eq!(share.run(|| Ok(7)).await.unwrap(), 7);
    }
}
