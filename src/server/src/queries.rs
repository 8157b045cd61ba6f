//! Long computations: results, funnels, batches of assignments, pages, checks of declarations. They never run on an async
//! worker, and only a few of each kind run at a time, so that kills, commits and health checks always find a free thread and a core.
//!
//! ```text
//!  caller ──► waits for its turn ──► computes on a blocking thread ──► answer
//!               │ at most WAITING       │ at most one in two cores
//!               ▼                       ▼
//!             refused with a delay    a caller that has left: stops at the next item
//! ```
//!
//! A caller that leaves while it waits costs nothing more. A computation that has begun keeps its turn until it ends, also
//! if its caller has left: otherwise abandoned calls would fill all threads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use inroad_store::Cancellation;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Instrument;

use crate::error::ServerError;
use crate::metrics::Metrics;
use crate::traces::TRACE_TARGET;

/// The most computations that may wait for their turn; beyond that they are refused.
pub const MAX_WAITING_QUERIES: usize = 64;
/// The longest that a computation waits for its turn.
pub const MAX_QUERY_WAIT: Duration = Duration::from_secs(10);

/// The turns of long computations.
pub struct Queries {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// Whether the caller of a computation has left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    has_left: Cancellation,
}

/// Marks the caller as gone when the call is dropped.
struct CallGuard(Caller);

/// Counts a computation as waiting until it is dropped: it has its turn, is refused, or its caller has left.
struct WaitGuard<'a>(&'a Metrics);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting_queries.dec();
    }
}

impl Caller {
    /// Fails once nobody waits for the answer any more. Long computations ask before each item.
    pub(crate) fn check(&self) -> Result<(), ServerError> {
        if self.has_left.is_cancelled() { Err(ServerError::CallerLeft) } else { Ok(()) }
    }

    /// The same for reads of the store.
    pub(crate) fn cancellation(&self) -> Cancellation {
        self.has_left.clone()
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.has_left.cancel();
    }
}

/// Says that work can continue.
#[derive(Default)]
struct WakeNotify(Notify);

impl Wake for WakeNotify {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

impl Queries {
    /// Turns on this machine: one in two cores computes, at least one.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (running, waiting) = ((cores / 2).max(1), MAX_WAITING_QUERIES);
        Self { running: Arc::new(Semaphore::new(running)), waiting: Arc::new(Semaphore::new(waiting)), metrics }
    }

    /// Waits for a turn, then computes on a thread that may block.
    ///
    /// # Errors
    /// [`ServerError::TooManyQueries`] if too many wait, or the turn does not come in time; errors of `compute`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        compute: impl FnOnce(&Caller) -> Result<T, ServerError> + Send + 'static,
    ) -> Result<T, ServerError> {
        let turn = self.turn().await?;
        let caller = Caller::default();
        let _call = CallGuard(caller.clone());
        let span = tracing::info_span!(target: TRACE_TARGET, "query");
        let computed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            span.in_scope(|| compute(&caller))
        });
        // It fails only while the server stops.
        computed.await.map_err(|_| ServerError::ShuttingDown)?
    }

    /// Runs `work` on threads that may block, each of its parts in a turn of its own: for work that computes and waits in
    /// alternation, such as a page. It has no turn while it waits, so that it delays no other work then. If the caller
    /// leaves, the work ends after the present part.
    ///
    /// Nothing that a change of experiments waits for may be held from one part to the next, and work must not run other
    /// work in turns of the same kind, which could get the turn that the next part of the outer work needs.
    ///
    /// # Errors
    /// [`ServerError::TooManyQueries`] as for [`Self::run`].
    pub(crate) async fn run_in_parts<F>(&self, work: F) -> Result<F::Output, ServerError>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let wake = Arc::new(WakeNotify::default());
        let waker = Waker::from(Arc::clone(&wake));
        let mut work: Pin<Box<dyn Future<Output = F::Output> + Send>> = Box::pin(work.in_current_span());
        loop {
            let turn = self.turn().await?;
            let waker = waker.clone();
            let part = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
                (work, polled)
            });
            // It fails only while the server stops.
            let (rest, polled) = part.await.map_err(|_| ServerError::ShuttingDown)?;
            match polled {
                Poll::Ready(done) => return Ok(done),
                Poll::Pending => work = rest,
            }
            wake.0.notified().await;
        }
    }

    /// Waits for a turn, then runs work that finds its own threads.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) async fn run_async<T: Send + 'static, F: Future<Output = Result<T, ServerError>> + Send + 'static>(
        &self,
        work: impl FnOnce(Caller) -> F,
    ) -> Result<T, ServerError> {
        let turn = self.turn().await?;
        let caller = Caller::default();
        let _call = CallGuard(caller.clone());
        let work = work(caller);
        // A task of its own keeps the turn until the work ends.
        let work = async move {
            let _turn = turn;
            work.await
        };
        let span = tracing::info_span!(target: TRACE_TARGET, "query");
        let task = tokio::spawn(work.instrument(span));
        task.await.map_err(|_| ServerError::ShuttingDown)?
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, ServerError> {
        let refused = || {
            self.metrics.refused_queries.inc();
            ServerError::TooManyQueries { limit: MAX_WAITING_QUERIES, retry_after: Duration::from_secs(2) }
        };
        let _waiting = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| refused())?;
        self.metrics.waiting_queries.inc();
        let _counted = WaitGuard(&self.metrics);
        let begun = Instant::now();
        let turn = tokio::time::timeout(MAX_QUERY_WAIT, Arc::clone(&self.running).acquire_owned()).await;
        self.metrics.query_wait_seconds.observe(begun.elapsed().as_secs_f64());
        turn.map_err(|_| refused())?.map_err(|_| ServerError::ShuttingDown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn queries(running: usize, waiting: usize) -> Arc<Queries> {
        let (running, waiting) = (Arc::new(Semaphore::new(running)), Arc::new(Semaphore::new(waiting)));
        Arc::new(Queries { running, waiting, metrics: Arc::new(Metrics::new()) })
    }

    /// A computation that ends when it is told to, and says when it has begun.
    fn computation(
        queries: &Arc<Queries>,
    ) -> (tokio::task::JoinHandle<()>, oneshot::Receiver<()>, std::sync::mpsc::Sender<()>) {
        let ((begun, has_begun), (end, ends)) = (oneshot::channel(), std::sync::mpsc::channel());
        let queries = Arc::clone(queries);
        let call = tokio::spawn(async move {
            let compute = move |_: &Caller| {
                let _ = begun.send(());
                let _ = ends.recv();
                Ok(())
            };
            let _ = queries.run(compute).await;
        });
        (call, has_begun, end)
    }

    #[tokio::test]
    async fn too_many_are_refused_with_a_delay_and_abandoned_ones_free_their_place() {
        let queries = queries(1, 1);
        let (_first, has_begun, end) = computation(&queries);
        has_begun.await.unwrap();
        let (second, ..) = computation(&queries);
        while queries.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = queries.run(|_| Ok(())).await;
        assert!(matches!(refused, Err(ServerError::TooManyQueries { limit: MAX_WAITING_QUERIES, .. })), "{refused:?}");
        assert_eq!(queries.metrics.refused_queries.get(), 1);
        assert_eq!(queries.metrics.waiting_queries.get(), 1);
        second.abort();
        let _ = second.await;
        assert_eq!(queries.metrics.waiting_queries.get(), 0);
        drop(end);
        assert_eq!(queries.run(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_in_parts_has_no_turn_while_it_waits_and_none_on_an_async_worker() {
        let (queries, worker) = (queries(1, 1), std::thread::current().id());
        let ((go, gone), (begun, has_begun)) = (oneshot::channel::<()>(), oneshot::channel());
        let work = tokio::spawn({
            let queries = Arc::clone(&queries);
            async move {
                let parts = async move {
                    let first = std::thread::current().id();
                    let _ = begun.send(());
                    let _ = gone.await;
                    [first, std::thread::current().id()]
                };
                queries.run_in_parts(parts).await
            }
        });
        has_begun.await.unwrap();
        assert_eq!(queries.run(|_| Ok(7)).await.unwrap(), 7, "the turn is free");
        go.send(()).unwrap();
        let threads = work.await.unwrap().unwrap();
        assert!(!threads.contains(&worker), "{threads:?}");
        assert_eq!(queries.running.available_permits(), 1);
    }

    #[tokio::test]
    async fn work_in_parts_ends_when_its_caller_leaves() {
        let queries = queries(1, 1);
        let (held, is_dropped) = oneshot::channel::<()>();
        let parts = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        {
            let mut work = std::pin::pin!(queries.run_in_parts(parts));
            assert!(futures::poll!(&mut work).is_pending());
        }
        assert!(is_dropped.await.is_err());
        assert_eq!(queries.run(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn read_of_the_store_learns_that_its_caller_left_and_frees_the_turn() {
        let queries = queries(1, 1);
        let (begun, has_begun) = oneshot::channel();
        let call = tokio::spawn({
            let queries = Arc::clone(&queries);
            async move {
                let read = |caller: Caller| async move {
                    let _ = begun.send(());
                    while !caller.cancellation().is_cancelled() {
                        tokio::task::yield_now().await;
                    }
                    caller.check()
                };
                let _ = queries.run_async(read).await;
            }
        });
        has_begun.await.unwrap();
        assert_eq!(queries.running.available_permits(), 0);
        call.abort();
        assert_eq!(queries.run(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn computation_without_a_caller_keeps_its_turn_and_learns_that_the_caller_left() {
        let queries = queries(1, 1);
        let ((begun, has_begun), (left, has_left)) = (oneshot::channel(), oneshot::channel());
        let call = tokio::spawn({
            let queries = Arc::clone(&queries);
            async move {
                let compute = move |caller: &Caller| {
                    let _ = begun.send(());
                    while caller.check().is_ok() {
                        std::thread::yield_now();
                    }
                    let _ = left.send(());
                    Ok(())
                };
                let _ = queries.run(compute).await;
            }
        });
        has_begun.await.unwrap();
        assert_eq!(queries.running.available_permits(), 0);
        call.abort();
        has_left.await.unwrap();
        assert_eq!(queries.run(|_| Ok(7)).await.unwrap(), 7);
    }
}
