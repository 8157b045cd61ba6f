//! Waits for a condition with a deadline. The panic message says what did not happen.

use std::time::{Duration, Instant};

/// The deadline. A healthy machine needs well under a second.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `poll` until it returns a value.
pub(crate) async fn eventually<T>(what: &str, poll: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, poll).await
}

/// Calls `poll` until it returns a value, with another deadline.
pub(crate) async fn eventually_within<T>(limit: Duration, what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = poll().await {
            return answer;
        }
        assert!(started.elapsed() < limit, "this did not happen within {limit:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
