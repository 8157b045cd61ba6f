//! `inroad clients`: lists connected SDKs, how far each is behind, and how long a change took to reach them.

use std::time::Duration;

use clap::Args;
use inroad_wire::duration_from_wire;
use inroad_wire::v1::{self, ClientState, GetReachResponse};
use serde_json::{Value, json};

use crate::connect::{Connection, ServerArgs};
use crate::output::{Output, count, plural, table};
use crate::reach::{delay_text, reach_text};
use crate::response_json::timestamp_json;
use crate::wire_text::{printable, timestamp_of};

/// The largest page that the server returns.
const PAGE_SIZE: u32 = 1_000;
/// How long a client's report of a version may take. A client behind for less is not shown as behind.
const REPORT_TIME: Duration = Duration::from_secs(2);

/// The version to report on.
#[derive(Debug, Args)]
pub(crate) struct ClientsArgs {
    /// Version to report on: the etag that a change returned [default: the newest]
    #[arg(long, value_name = "VERSION", default_value_t = 0, hide_default_value = true)]
    at: u64,
}

/// Prints the clients.
pub(crate) async fn run(args: ClientsArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let (mut clients, mut page_token) = (Vec::new(), String::new());
    let last = loop {
        let request = v1::ListClientsRequest { page_size: PAGE_SIZE, page_token };
        let mut page = connection.assignments().list_clients(request).await?.into_inner();
        clients.append(&mut page.clients);
        page_token = std::mem::take(&mut page.next_page_token);
        if page_token.is_empty() {
            break page;
        }
    };
    let request = v1::GetReachRequest { version: args.at };
    let reach = connection.assignments().get_reach(request).await?.into_inner();
    // Clients that need attention first.
    clients.sort_by_key(|c| {
        (std::cmp::Reverse((c.dropped_exposures + c.dropped_outcomes > 0, c.versions_behind)), c.client_name.clone())
    });
    out.print_json(&json!({
        "version": last.version, "now": timestamp_json(last.now.as_ref()), "reach": reach_json(&reach),
        "clients": clients.iter().map(client_json).collect::<Vec<_>>(),
    }))?;
    out.print_text(reach_text(&reach))?;
    if !clients.is_empty() {
        out.print_text(format!("\n{}", clients_text(&clients, last.now.as_ref())))?;
    }
    Ok(())
}

fn clients_text(clients: &[ClientState], now: Option<&prost_types::Timestamp>) -> String {
    let columns = ["client", "id", "sdk", "address", "connected", "version", "delay", "behind", "dropped", "queued"];
    let now = timestamp_of(now);
    let row = |c: &ClientState| {
        let since = timestamp_of(c.connected_at.as_ref());
        let connected = now.zip(since).map(|(now, since)| Duration::from_secs(now.since(since).as_secs()));
        let reports = !c.client_id.is_empty();
        let or_dash = |text: String| if reports { text } else { "–".to_owned() };
        vec![
            if c.client_name.is_empty() { "–".to_owned() } else { printable(&c.client_name) },
            or_dash(printable(&c.client_id).chars().take(8).collect()),
            if c.sdk.is_empty() { "–".to_owned() } else { printable(&c.sdk) },
            printable(&c.address),
            connected.map_or_else(|| "–".to_owned(), |age| humantime::format_duration(age).to_string()),
            c.applied_version.unwrap_or(c.sent_version).to_string(),
            c.lag.as_ref().map_or_else(|| "–".to_owned(), |lag| delay_text(Some(lag))),
            behind_text(c),
            or_dash(format!("{} + {}", count(c.dropped_exposures), count(c.dropped_outcomes))),
            or_dash(count(c.queued_events)),
        ]
    };
    let text = table(&columns, clients.iter().map(row).collect());
    format!(
        "{text}\n\ndelay: from publication until the client had the version · dropped: exposures + outcomes, because its queue was full"
    )
}

/// `2 versions, 5s`; a dash where the report may still be in transit.
fn behind_text(c: &ClientState) -> String {
    let age = c.behind_for.as_ref().and_then(|d| duration_from_wire(d).ok()).unwrap_or_default();
    match c.versions_behind {
        0 => "–".to_owned(),
        _ if age < REPORT_TIME => "–".to_owned(),
        n => format!("{}, {}", plural(n, "version"), humantime::format_duration(Duration::from_secs(age.as_secs()))),
    }
}

fn millis_json(duration: Option<&prost_types::Duration>) -> Value {
    duration.and_then(|d| duration_from_wire(d).ok()).map_or(Value::Null, |d| json!(d.as_secs_f64() * 1e3))
}

fn reach_json(r: &GetReachResponse) -> Value {
    let delays = |d: Option<&v1::Delays>| {
        d.filter(|d| d.count > 0).map_or(Value::Null, |d| {
            json!({
                "count": d.count, "p50_ms": millis_json(d.p50.as_ref()), "p99_ms": millis_json(d.p99.as_ref()),
                "max_ms": millis_json(d.max.as_ref()),
            })
        })
    };
    json!({
        "version": r.version, "published_at": timestamp_json(r.published_at.as_ref()), "experiment": r.experiment,
        "action": r.action, "clients": r.clients, "applied": r.applied, "not_yet": r.not_yet,
        "anonymous": r.anonymous, "sent": r.sent, "to_applied": delays(r.to_applied.as_ref()),
        "to_sent": delays(r.to_sent.as_ref()),
    })
}

fn client_json(c: &ClientState) -> Value {
    json!({
        "client_id": c.client_id, "client_name": c.client_name, "sdk": c.sdk, "address": c.address,
        "connected_at": timestamp_json(c.connected_at.as_ref()), "sent_version": c.sent_version,
        "sent_at": timestamp_json(c.sent_at.as_ref()), "applied_version": c.applied_version,
        "applied_at": timestamp_json(c.applied_at.as_ref()), "lag_ms": millis_json(c.lag.as_ref()),
        "versions_behind": c.versions_behind, "behind_for_ms": millis_json(c.behind_for.as_ref()),
        "reported_at": timestamp_json(c.reported_at.as_ref()), "dropped_exposures": c.dropped_exposures,
        "dropped_outcomes": c.dropped_outcomes, "queued_events": c.queued_events,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_a_client_name_are_not_printed() {
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
