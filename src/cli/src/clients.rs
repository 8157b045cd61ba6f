//! `inroad clients`: who is connected, how far behind, and how long the last change, or a given one, took to reach them.

use std::time::{Duration, Instant};

use clap::Args;
use inroad_wire::v1::{self, ClientState, GetReachResponse};
use inroad_wire::{duration_from_wire, timestamp_from_wire};
use serde_json::{Value, json};

use crate::connect::{Connection, ServerArgs};
use crate::output::{Output, count, plural, table};
use crate::views;

/// As many as the server gives at once.
const PAGE: u32 = 1_000;
/// How long a change waits for word of its arrival before the command ends without it.
const WAIT: Duration = Duration::from_secs(2);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(40);
/// A client that lacks something for less may have it and not have said so yet.
const REPORT_TIME: Duration = Duration::from_secs(2);

/// Whom to look for.
#[derive(Debug, Args)]
pub(crate) struct ClientsArgs {
    /// Tell who has this version, the etag of a change [default: the newest]
    #[arg(long, value_name = "VERSION", default_value_t = 0, hide_default_value = true)]
    at: u64,
}

/// Shows them.
pub(crate) async fn run(args: ClientsArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let (mut clients, mut page_token) = (Vec::new(), String::new());
    let last = loop {
        let request = v1::ListClientsRequest { page_size: PAGE, page_token };
        let mut page = connection.assignments().list_clients(request).await?.into_inner();
        clients.append(&mut page.clients);
        page_token = std::mem::take(&mut page.next_page_token);
        if page_token.is_empty() {
            break page;
        }
    };
    let request = v1::GetReachRequest { version: args.at };
    let reach = connection.assignments().get_reach(request).await?.into_inner();
    // Who needs attention first.
    clients.sort_by_key(|c| {
        (std::cmp::Reverse((c.dropped_exposures + c.dropped_outcomes > 0, c.versions_behind)), c.client_name.clone())
    });
    out.value(&json!({
        "version": last.version, "now": views::time_json(last.now.as_ref()), "reach": reach_json(&reach),
        "clients": clients.iter().map(client_json).collect::<Vec<_>>(),
    }))?;
    out.line(reach_text(&reach))?;
    if !clients.is_empty() {
        out.line(format!("\n{}", clients_text(&clients, last.now.as_ref())))?;
    }
    Ok(())
}

/// Waits a little until everybody who is connected has a change, and says so; says what is known if it takes longer. A
/// server that cannot tell, or nobody who listens, is no failure of the change.
pub(crate) async fn tell_reach(connection: &Connection, etag: &str, out: Output) -> anyhow::Result<()> {
    // Scripts get what they asked for at once, and may ask `inroad clients --at`.
    let (false, Ok(version)) = (out.json, etag.parse()) else { return Ok(()) };
    let begun = Instant::now();
    loop {
        let request = v1::GetReachRequest { version };
        let Ok(answer) = connection.assignments().get_reach(request).await else { return Ok(()) };
        let reach = answer.into_inner();
        if reach.clients == 0 {
            return Ok(());
        }
        if reach.not_yet == 0 || begun.elapsed() >= WAIT {
            return Ok(out.line(reached(&reach))?);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `reached 3 of 3 clients in 12 ms`.
fn reached(r: &GetReachResponse) -> String {
    let took = match r.to_applied.as_ref().filter(|delays| delays.count > 0) {
        Some(delays) => format!(" in {}", span(delays.max.as_ref())),
        None => String::new(),
    };
    let rest = match r.not_yet {
        0 => String::new(),
        n => format!(
            ": {} not confirmed yet, see inroad clients",
            if n == 1 { "1 has".to_owned() } else { format!("{n} have") }
        ),
    };
    format!("reached {} of {}{took}{rest}", count(r.applied), plural(r.clients, "client"))
}

fn reach_text(r: &GetReachResponse) -> String {
    let what = match r.action.as_str() {
        "" => String::new(),
        action => {
            format!(" ({} of {}, {})", plain(action), plain(&r.experiment), views::time_text(r.published_at.as_ref()))
        }
    };
    let mut text =
        format!("version {}{what}: {} of {} have it", r.version, count(r.applied), plural(r.clients, "client"));
    if let Some(delays) = r.to_applied.as_ref().filter(|delays| delays.count > 0) {
        let [p50, p99, max] = [&delays.p50, &delays.p99, &delays.max].map(|d| span(d.as_ref()));
        text += &format!(
            "; {} were connected then and had it within {p50} (half), {p99} (99%), {max} (all)",
            count(delays.count)
        );
    }
    if r.anonymous > 0 {
        text += &format!("; {} without an id", plural(r.anonymous, "watcher"));
    }
    text
}

fn clients_text(clients: &[ClientState], now: Option<&prost_types::Timestamp>) -> String {
    let columns = ["client", "id", "sdk", "from", "connected", "version", "lag", "behind", "dropped", "queued"];
    let now = now.and_then(|now| timestamp_from_wire(now).ok());
    let row = |c: &ClientState| {
        let since = c.connected_at.as_ref().and_then(|at| timestamp_from_wire(at).ok());
        let connected = now.zip(since).map(|(now, since)| Duration::from_secs(now.since(since).as_secs()));
        let reports = !c.client_id.is_empty();
        let or_dash = |text: String| if reports { text } else { "–".to_owned() };
        vec![
            if c.client_name.is_empty() { "–".to_owned() } else { plain(&c.client_name) },
            or_dash(plain(&c.client_id).chars().take(8).collect()),
            if c.sdk.is_empty() { "–".to_owned() } else { plain(&c.sdk) },
            plain(&c.address),
            connected.map_or_else(|| "–".to_owned(), |age| humantime::format_duration(age).to_string()),
            c.applied_version.unwrap_or(c.sent_version).to_string(),
            c.lag.as_ref().map_or_else(|| "–".to_owned(), |lag| span(Some(lag))),
            behind(c),
            or_dash(format!("{} + {}", count(c.dropped_exposures), count(c.dropped_outcomes))),
            or_dash(count(c.queued_events)),
        ]
    };
    let text = table(&columns, clients.iter().map(row).collect());
    format!("{text}\n\nlag: from publication until the client had it · dropped: exposures + outcomes, for want of room")
}

/// `2 versions, 5s`; nothing where a report may just be on its way.
fn behind(c: &ClientState) -> String {
    let age = c.behind_for.as_ref().and_then(|d| duration_from_wire(d).ok()).unwrap_or_default();
    match c.versions_behind {
        0 => "–".to_owned(),
        _ if age < REPORT_TIME => "–".to_owned(),
        n => format!("{}, {}", plural(n, "version"), humantime::format_duration(Duration::from_secs(age.as_secs()))),
    }
}

/// `12 ms`, `0.4 ms`, `3.2 s`.
fn span(duration: Option<&prost_types::Duration>) -> String {
    let Some(duration) = duration.and_then(|d| duration_from_wire(d).ok()) else { return "–".to_owned() };
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        ..10.0 => format!("{millis:.1} ms"),
        ..1_000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

/// What a client calls itself may hold anything; a terminal is shown none of it that it would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn millis(duration: Option<&prost_types::Duration>) -> Value {
    duration.and_then(|d| duration_from_wire(d).ok()).map_or(Value::Null, |d| json!(d.as_secs_f64() * 1e3))
}

fn reach_json(r: &GetReachResponse) -> Value {
    let delays = |d: Option<&v1::Delays>| {
        d.filter(|d| d.count > 0).map_or(Value::Null, |d| {
            json!({
                "count": d.count, "p50_ms": millis(d.p50.as_ref()), "p99_ms": millis(d.p99.as_ref()),
                "max_ms": millis(d.max.as_ref()),
            })
        })
    };
    json!({
        "version": r.version, "published_at": views::time_json(r.published_at.as_ref()), "experiment": r.experiment,
        "action": r.action, "clients": r.clients, "applied": r.applied, "not_yet": r.not_yet,
        "anonymous": r.anonymous, "sent": r.sent, "to_applied": delays(r.to_applied.as_ref()),
        "to_sent": delays(r.to_sent.as_ref()),
    })
}

fn client_json(c: &ClientState) -> Value {
    json!({
        "client_id": c.client_id, "client_name": c.client_name, "sdk": c.sdk, "address": c.address,
        "connected_at": views::time_json(c.connected_at.as_ref()), "sent_version": c.sent_version,
        "sent_at": views::time_json(c.sent_at.as_ref()), "applied_version": c.applied_version,
        "applied_at": views::time_json(c.applied_at.as_ref()), "lag_ms": millis(c.lag.as_ref()),
        "versions_behind": c.versions_behind, "behind_for_ms": millis(c.behind_for.as_ref()),
        "reported_at": views::time_json(c.reported_at.as_ref()), "dropped_exposures": c.dropped_exposures,
        "dropped_outcomes": c.dropped_outcomes, "queued_events": c.queued_events,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(micros: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds: 0, nanos: micros * 1_000 })
    }

    #[test]
    fn a_reach_reads_as_a_sentence() {
        let mut reach = GetReachResponse { version: 9, clients: 3, applied: 3, ..Default::default() };
        assert_eq!(reached(&reach), "reached 3 of 3 clients", "they connected later");
        reach.to_applied = Some(v1::Delays { count: 3, p50: after(900), p99: after(12_000), max: after(12_000) });
        assert_eq!(reached(&reach), "reached 3 of 3 clients in 12 ms");
        (reach.applied, reach.not_yet) = (2, 1);
        assert_eq!(reached(&reach), "reached 2 of 3 clients in 12 ms: 1 has not confirmed yet, see inroad clients");
        (reach.action, reach.experiment, reach.anonymous) = ("kill".to_owned(), "k".to_owned(), 1);
        assert_eq!(
            reach_text(&reach),
            "version 9 (kill of k, –): 2 of 3 clients have it; 3 were connected then and had it within 0.9 ms (half), \
             12 ms (99%), 12 ms (all); 1 watcher without an id"
        );
    }

    #[test]
    fn a_client_may_call_itself_anything_and_the_terminal_does_not_obey() {
        let client = ClientState {
            client_name: "\u{1b}[31mshop\n".to_owned(),
            client_id: "0123456789abcdef".to_owned(),
            dropped_exposures: 1_200,
            ..Default::default()
        };
        let text = clients_text(&[client], None);
        assert!(!text.contains('\u{1b}') && text.contains("\u{fffd}[31mshop\u{fffd}"), "{text}");
        assert!(text.contains("01234567 ") && text.contains("1,200 + 0"), "{text}");
    }
}
