//! Times as numbers, and waits for a point in time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inroad_sdk::Client;
use prost_types::Timestamp;

use super::eventually;

/// Converts a time to microseconds since the Unix epoch.
#[track_caller]
pub(crate) fn micros(at: &Option<Timestamp>) -> i64 {
    let at = at.as_ref().expect("a time");
    at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000
}

/// The current time in microseconds since the Unix epoch. The server runs on the same machine, so its clock is the
/// same.
pub(crate) fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("the time fits into 64 bits")
}

/// The time at this many seconds since the Unix epoch.
pub(crate) fn at_second(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

/// Waits until a point in time has passed on a client's estimate of the server's clock. That may be a little later than
/// on the wall clock if the client's first message was slow.
pub(crate) async fn wait_until_client_time(client: &Client, micros: i64) {
    eventually("the client's clock has passed the time", async || {
        (now_micros() + client.status().clock_offset_micros > micros + 50_000).then_some(())
    })
    .await;
}

/// Sleeps until a point in time has passed on the wall clock, for example until a revision takes effect.
pub(crate) async fn wait_until(micros: i64) {
    let wait = micros - now_micros() + 50_000;
    tokio::time::sleep(Duration::from_micros(u64::try_from(wait).unwrap_or(0))).await;
}
