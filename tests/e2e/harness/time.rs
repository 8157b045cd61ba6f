//! Instants, as numbers that can be compared.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inroad_sdk::Client;
use prost_types::Timestamp;

use super::eventually;

/// Microseconds since the epoch, of an instant that was sent.
#[track_caller]
pub(crate) fn micros(at: &Option<Timestamp>) -> i64 {
    let at = at.as_ref().expect("an instant");
    at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000
}

/// Microseconds since the epoch, by this machine, which the server runs on too.
pub(crate) fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("a while to go")
}

/// The instant at a second of the epoch.
pub(crate) fn at_second(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

/// Waits until an instant has gone by as a client reads the server's clock: after a slow first message, and before it
/// hears a faster one, that is a little later than by the wall's.
pub(crate) async fn wait_until_by(client: &Client, micros: i64) {
    eventually("the client's clock shows the instant", async || {
        (now_micros() + client.status().clock_offset_micros > micros + 50_000).then_some(())
    })
    .await;
}

/// Sleeps until an instant by the wall's clock has gone by, such as that at which a revision takes effect.
pub(crate) async fn wait_until(micros: i64) {
    let wait = micros - now_micros() + 50_000;
    tokio::time::sleep(Duration::from_micros(u64::try_from(wait).unwrap_or(0))).await;
}
