//! Runs the client's background tasks: in the caller's tokio runtime, or on a new thread if there is no runtime.

use std::future::Future;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::error::Error;

/// A handle to the runtime of the background tasks.
#[derive(Debug)]
pub(crate) struct Background {
    handle: Handle,
    finished: watch::Receiver<()>,
}

impl Background {
    /// Starts `tasks`.
    pub(crate) fn start(tasks: impl Future<Output = ()> + Send + 'static) -> Result<Self, Error> {
        // The sender is dropped when the tasks finish or their runtime is dropped. Both count as finished.
        let (running, finished) = watch::channel(());
        let tasks = async move {
            tasks.await;
            drop(running);
        };
        if let Ok(handle) = Handle::try_current() {
            handle.spawn(tasks);
            return Ok(Self { handle, finished });
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Background)?;
        let handle = runtime.handle().clone();
        let run = move || runtime.block_on(tasks);
        std::thread::Builder::new().name("inroad-sdk".to_owned()).spawn(run).map_err(Error::Background)?;
        Ok(Self { handle, finished })
    }

    /// Runs `work` in that runtime, so that timers and network work whichever executor the caller awaits it in.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        self.handle.spawn(work).await.map_err(|_| Error::Ended)
    }

    /// Resolves when the tasks have finished.
    pub(crate) fn finished(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut finished = self.finished.clone();
        async move { while finished.changed().await.is_ok() {} }
    }
}
