//! Where the client's own work runs: in the caller's tokio runtime, or on a thread where there is none.

use std::future::Future;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::error::Error;

/// A way to run something there, and to know when all of it is over.
#[derive(Debug)]
pub(crate) struct Background {
    handle: Handle,
    finished: watch::Receiver<()>,
}

impl Background {
    /// Starts `tasks`.
    pub(crate) fn start(tasks: impl Future<Output = ()> + Send + 'static) -> Result<Self, Error> {
        // Its sender goes when the tasks are done, or are given up with their runtime.
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

    /// Runs something there, so that it finds timers and a network whatever executor the caller awaits it in.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        self.handle.spawn(work).await.map_err(|_| Error::Ended)
    }

    /// Resolves when the tasks are over.
    pub(crate) fn finished(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut finished = self.finished.clone();
        async move { while finished.changed().await.is_ok() {} }
    }
}
