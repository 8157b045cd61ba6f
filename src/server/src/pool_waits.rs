//! Measures once per second how long work waits for the threads that all calls share: the async workers, and the threads
//! for blocking work, which commits need as well. Long waits show an overload before calls fail.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// The time between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);

/// Measures until `stop` turns true.
pub(crate) async fn measure(metrics: Arc<Metrics>, mut stop: watch::Receiver<bool>) {
    loop {
        let due = Instant::now() + INTERVAL;
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // The timer itself is exact to a millisecond.
        metrics.worker_delay_seconds.observe(due.elapsed().as_secs_f64());
        let asked = Instant::now();
        tokio::select! {
            // It fails only while the runtime stops.
            waited = tokio::task::spawn_blocking(move || asked.elapsed()) => {
                let Ok(waited) = waited else { return };
                metrics.thread_wait_seconds.observe(waited.as_secs_f64());
            }
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
