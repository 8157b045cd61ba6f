//! The reach of a change: how many connected clients have it, and how long it took to reach them.

use std::time::{Duration, Instant};

use inroad_wire::duration_from_wire;
use inroad_wire::v1::{self, GetReachResponse};

use crate::connect::Connection;
use crate::output::{Output, count, plural};
use crate::wire_text::{printable, timestamp_text};

/// How long a command waits for clients to confirm a change.
const WAIT: Duration = Duration::from_secs(2);
/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(40);

/// Waits briefly until all connected clients have a change, and prints how many have it. The change has succeeded already,
/// so a server that cannot answer is no error.
pub(crate) async fn print_reach_of_change(connection: &Connection, etag: &str, out: Output) -> anyhow::Result<()> {
    // Scripts get their output without the wait; they can call `inroad clients --at`.
    let (false, Ok(version)) = (out.json, etag.parse()) else { return Ok(()) };
    let started = Instant::now();
    loop {
        let request = v1::GetReachRequest { version };
        let Ok(answer) = connection.assignments().get_reach(request).await else { return Ok(()) };
        let reach = answer.into_inner();
        if reach.clients == 0 && reach.anonymous == 0 {
            return Ok(());
        }
        if reach.not_yet == 0 || started.elapsed() >= WAIT {
            return Ok(out.print_text(short_text(&reach))?);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `reached 3 of 3 clients in 12 ms`.
fn short_text(r: &GetReachResponse) -> String {
    let took = match r.to_applied.as_ref().filter(|delays| delays.count > 0) {
        Some(delays) => format!(" in {}", delay_text(delays.max.as_ref())),
        None => String::new(),
    };
    let rest = match r.not_yet {
        0 => String::new(),
        n => format!(
            ": {} not confirmed yet. List them with `inroad clients`.",
            if n == 1 { "1 has".to_owned() } else { format!("{} have", count(n)) }
        ),
    };
    if r.clients == 0 {
        return format!("sent to {} without an id, which cannot confirm it", plural(r.anonymous, "client"));
    }
    let others =
        if r.anonymous > 0 { format!("; {} without an id", plural(r.anonymous, "more client")) } else { String::new() };
    format!("reached {} of {}{took}{rest}{others}", count(r.applied), plural(r.clients, "client"))
}

/// The reach of a version in one line, with the distribution of delays.
pub(crate) fn reach_text(r: &GetReachResponse) -> String {
    let change = match r.action.as_str() {
        "" => String::new(),
        action => format!(
            " ({} of {}, {})",
            printable(action),
            printable(&r.experiment),
            timestamp_text(r.published_at.as_ref())
        ),
    };
    let mut text = match r.clients {
        0 => format!("version {}{change}: no client with an id is connected", r.version),
        clients => {
            format!("version {}{change}: {} of {} have it", r.version, count(r.applied), plural(clients, "client"))
        }
    };
    if let Some(delays) = r.to_applied.as_ref().filter(|delays| delays.count > 0) {
        let [p50, p99, max] = [&delays.p50, &delays.p99, &delays.max].map(|d| delay_text(d.as_ref()));
        text += &format!(
            "; {} connected at the time, delay {p50} (median), {p99} (99%), {max} (longest)",
            count(delays.count)
        );
    }
    if r.anonymous > 0 {
        text += &format!("; {} without an id", plural(r.anonymous, "client"));
    }
    text
}

/// `12 ms`, `0.4 ms`, `3.2 s`.
pub(crate) fn delay_text(duration: Option<&prost_types::Duration>) -> String {
    let Some(duration) = duration.and_then(|d| duration_from_wire(d).ok()) else { return "–".to_owned() };
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        ..10.0 => format!("{millis:.1} ms"),
        ..1_000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(micros: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds: 0, nanos: micros * 1_000 })
    }

    #[test]
    fn reach_is_one_line() {
        let mut reach = GetReachResponse { version: 9, clients: 3, applied: 3, ..Default::default() };
        assert_eq!(short_text(&reach), "reached 3 of 3 clients", "they connected later");
        reach.to_applied = Some(v1::Delays { count: 3, p50: after(900), p99: after(12_000), max: after(12_000) });
        assert_eq!(short_text(&reach), "reached 3 of 3 clients in 12 ms");
        (reach.applied, reach.not_yet) = (2, 1);
        assert_eq!(
            short_text(&reach),
            "reached 2 of 3 clients in 12 ms: 1 has not confirmed yet. List them with `inroad clients`."
        );
        reach.anonymous = 2;
        assert!(short_text(&reach).ends_with("; 2 more clients without an id"), "{}", short_text(&reach));
        let anonymous = GetReachResponse { version: 9, anonymous: 1, ..Default::default() };
        assert_eq!(short_text(&anonymous), "sent to 1 client without an id, which cannot confirm it");
        (reach.action, reach.experiment, reach.anonymous) = ("kill".to_owned(), "k".to_owned(), 1);
        assert_eq!(
            reach_text(&reach),
            "version 9 (kill of k, –): 2 of 3 clients have it; 3 connected at the time, delay 0.9 ms (median), \
             12 ms (99%), 12 ms (longest); 1 client without an id"
        );
    }
}
