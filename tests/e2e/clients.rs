//! The list of connected clients, and when a change has reached them, as the clients themselves report it.

use std::time::Duration;

use inroad_sdk::{Client, Context, Outcome};
use inroad_wire::v1;

use crate::harness::{Api, Proxy, Server, eventually, flag, metric_value, micros, now_micros};
use crate::numbers::page_text;

const KEY: &str = "button";
/// The longest delay of a change on a machine that is busy with other tests.
const MAX_DELAY: Duration = Duration::from_secs(1);

async fn connect(url: &str, name: &str) -> Client {
    let client = Client::builder(url).client_name(name).build().expect("a client");
    assert!(client.ready(Duration::from_secs(20)).await, "{:?}", client.status());
    client
}

async fn list_clients(api: &Api) -> Vec<v1::ClientState> {
    let request = v1::ListClientsRequest { page_size: 2, ..Default::default() };
    let mut page = api.assignments().list_clients(request.clone()).await.expect("a page").into_inner();
    let mut all = std::mem::take(&mut page.clients);
    // Small pages, so that the test covers paging.
    while !page.next_page_token.is_empty() {
        assert!(page.total_size > 2, "{page:?}");
        let request = v1::ListClientsRequest { page_token: page.next_page_token, ..request.clone() };
        page = api.assignments().list_clients(request).await.expect("a page").into_inner();
        all.append(&mut page.clients);
    }
    all
}

async fn get_reach(api: &Api, version: u64) -> v1::GetReachResponse {
    api.assignments().get_reach(v1::GetReachRequest { version }).await.expect("an answer").into_inner()
}

/// Waits until this many clients are connected and all of them have reported that they applied a change.
async fn wait_until_reached(api: &Api, changed: &v1::Experiment, clients: u64) -> v1::GetReachResponse {
    let version = changed.etag.parse().expect("a version");
    eventually("all clients report the change", async || {
        let reach = get_reach(api, version).await;
        (reach.clients == clients && reach.not_yet == 0).then_some(reach)
    })
    .await
}

fn to_duration(duration: &Option<prost_types::Duration>) -> Duration {
    inroad_wire::duration_from_wire(duration.as_ref().expect("a duration")).expect("a valid duration")
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_of_kill_restore_and_growth_is_measured_at_every_client() {
    let server = Server::start().await;
    let api = server.api();
    let launched = api.launch(flag(KEY, &[("a", 0.5)])).await;
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push(connect(&server.url(), &format!("shop-{n}")).await);
    }
    let before = wait_until_reached(&api, &launched, 6).await;
    assert_eq!(
        before.to_applied.as_ref().map(|d| d.count),
        Some(0),
        "the launch was published before the clients connected"
    );

    let started = now_micros();
    let killed = api.kill(KEY, "a").await;
    let kill = wait_until_reached(&api, &killed, 6).await;
    let ended = now_micros();
    assert_eq!((kill.experiment.as_str(), kill.action.as_str()), (KEY, "kill"));
    assert!((started..=ended).contains(&micros(&kill.published_at)), "{kill:?}");
    assert_eq!((kill.clients, kill.applied, kill.sent, kill.anonymous), (6, 6, 6, 0));
    let (sent, applied) = (kill.to_sent.expect("delays"), kill.to_applied.expect("delays"));
    assert_eq!((sent.count, applied.count), (6, 6));
    assert!(
        to_duration(&applied.p50) <= to_duration(&applied.p99)
            && to_duration(&applied.p99) <= to_duration(&applied.max),
        "{applied:?}"
    );
    assert!(
        to_duration(&sent.max) <= to_duration(&applied.max) && to_duration(&applied.max) < MAX_DELAY,
        "{sent:?} {applied:?}"
    );

    let restored = api.restore(KEY, "a").await;
    let grown = api.grow(KEY, "a", 0.6).await;
    for (changed, action) in [(&restored, "restore"), (&grown, "grow")] {
        let reach = wait_until_reached(&api, changed, 6).await;
        let applied = reach.to_applied.expect("delays");
        assert_eq!((reach.action.as_str(), applied.count), (action, 6));
        assert!(to_duration(&applied.max) < MAX_DELAY, "{action}: {applied:?}");
    }
    // Later changes do not alter what was measured for the kill.
    assert_eq!(get_reach(&api, killed.etag.parse().expect("a version")).await.to_applied, Some(applied));

    let version: u64 = grown.etag.parse().expect("a version");
    let all = list_clients(&api).await;
    assert_eq!(all.len(), 6);
    for (n, (state, client)) in all.iter().zip(&clients).enumerate() {
        assert_eq!((state.client_name.clone(), state.client_id.as_str()), (format!("shop-{n}"), client.id()));
        assert!(state.sdk.starts_with("rust/") && state.address.starts_with("127.0.0.1:"), "{state:?}");
        assert_eq!((state.sent_version, state.applied_version, state.versions_behind), (version, Some(version), 0));
        assert!(
            to_duration(&state.lag) < MAX_DELAY && micros(&state.applied_at) >= micros(&state.sent_at),
            "{state:?}"
        );
        assert!(micros(&state.connected_at) <= started && micros(&state.reported_at) <= now_micros(), "{state:?}");
    }
    assert_eq!(metric_value(server.address, "inroad_clients").await, 6.0);
    assert_eq!(metric_value(server.address, "inroad_clients_behind").await, 0.0);
    assert_eq!(metric_value(server.address, "inroad_reach_seconds_count").await, 18.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_client_is_removed_and_disconnected_client_returns_under_its_id() {
    let server = Server::start().await;
    let api = server.api();
    let launched = api.launch(flag(KEY, &[("a", 0.5)])).await;
    let proxy = Proxy::start(server.address).await;
    let connected = connect(&server.url(), "connected").await;
    let closed = connect(&server.url(), "closed").await;
    let disconnected = Client::builder(proxy.url())
        .client_name("disconnected")
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
        .build()
        .expect("a client");
    assert!(disconnected.ready(Duration::from_secs(20)).await);
    wait_until_reached(&api, &launched, 3).await;

    let _ = closed.shutdown(Duration::from_secs(5)).await;
    drop(closed);
    eventually("the closed client is removed", async || (list_clients(&api).await.len() == 2).then_some(())).await;

    proxy.disconnect();
    eventually("the disconnected client is removed", async || (list_clients(&api).await.len() == 1).then_some(()))
        .await;
    let killed = api.kill(KEY, "a").await;
    let one = wait_until_reached(&api, &killed, 1).await;
    assert_eq!(one.to_applied.map(|d| d.count), Some(1), "only connected clients count");
    proxy.reconnect();
    let both = wait_until_reached(&api, &killed, 2).await;
    assert_eq!(both.to_applied.map(|d| d.count), Some(1), "the delay of a disconnected client is not measured");
    let names: Vec<(String, String)> =
        list_clients(&api).await.into_iter().map(|c| (c.client_name, c.client_id)).collect();
    assert_eq!(
        names,
        [
            ("connected".to_owned(), connected.id().to_owned()),
            ("disconnected".to_owned(), disconnected.id().to_owned())
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_events_of_a_client_are_shown_by_the_server() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.5)])).await;
    let client = Client::builder(server.url())
        .client_name("small-queue")
        .queue_capacity(1)
        .flush_interval(Duration::from_secs(120))
        .build()
        .expect("a client");
    assert!(client.ready(Duration::from_secs(20)).await);
    for n in 0..4 {
        client.assign(KEY, &Context::new(format!("unit-{n}")));
    }
    client.track(Outcome::new("purchase").targeting_key("unit-0"));
    let status = client.status();
    assert_eq!((status.queue_depth, status.dropped_exposures, status.dropped_outcomes), (1, 3, 1));
    // A change triggers a report. Without one, the next report would follow in up to 11 s.
    let killed = api.kill(KEY, "a").await;
    wait_until_reached(&api, &killed, 1).await;
    let all = list_clients(&api).await;
    assert_eq!((all[0].dropped_exposures, all[0].dropped_outcomes, all[0].queued_events), (3, 1, 1), "{all:?}");
    assert_eq!(metric_value(server.address, "inroad_client_dropped_exposures").await, 3.0);
    assert_eq!(metric_value(server.address, "inroad_client_dropped_outcomes").await, 1.0);
    assert_eq!(metric_value(server.address, "inroad_client_queued_events").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cli_lists_clients_and_prints_when_a_kill_reached_them() {
    let server = Server::start().await;
    let api = server.api();
    let launched = api.launch(flag(KEY, &[("a", 0.5)])).await;
    let unseen = server.cli(&["experiment", "kill", KEY, "a"]).await.ok();
    assert!(!unseen.stdout.contains("reached"), "no client is connected: {}", unseen.stdout);
    server.cli(&["experiment", "restore", KEY, "a"]).await.ok();
    let clients = [connect(&server.url(), "shop").await, connect(&server.url(), "till").await];
    // A third client that sends no id.
    let mut watcher = api.assignments().watch_snapshots(v1::WatchSnapshotsRequest::default()).await.expect("a stream");
    watcher.get_mut().message().await.expect("a message");
    wait_until_reached(&api, &launched, 2).await;
    let killed = server.cli(&["experiment", "kill", KEY, "a"]).await.ok();
    assert!(killed.stdout.contains("reached 2 of 2 clients in "), "{}", killed.stdout);

    let listed = server.cli(&["clients", "--json"]).await.ok().json();
    assert_eq!(listed["clients"].as_array().map(Vec::len), Some(3), "{listed}");
    assert_eq!((&listed["reach"]["applied"], &listed["reach"]["anonymous"]), (&2.into(), &1.into()), "{listed}");
    assert_eq!((&listed["reach"]["action"], &listed["reach"]["experiment"]), (&"kill".into(), &KEY.into()), "{listed}");
    let max = listed["reach"]["to_applied"]["max_ms"].as_f64().expect("a number");
    assert!(max >= 0.0 && max < MAX_DELAY.as_secs_f64() * 1e3, "{listed}");
    let table = server.cli(&["clients"]).await.ok().stdout;
    assert!(table.contains("2 of 2 clients have it") && table.contains("1 client without an id"), "{table}");
    for client in &clients {
        assert!(table.contains(&client.id()[..8]), "{table}");
    }
    // The page counts all of them, and says which metric counts whom.
    let page = page_text(&server, "/clients").await;
    assert!(page.contains("3 connected (2 with an id, 1 without, which report nothing)"), "{page}");
    assert_eq!(metric_value(server.address, "inroad_clients").await, 2.0);
    assert_eq!(metric_value(server.address, "inroad_clients_anonymous").await, 1.0);
}
