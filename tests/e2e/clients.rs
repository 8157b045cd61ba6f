//! Who is connected, and when a change was really there: the real binary and real SDK clients, whose word it takes.

use std::time::Duration;

use inroad_sdk::{Client, Context, Outcome};
use inroad_wire::v1;

use crate::harness::{Api, Proxy, Server, eventually, flag, gauge, micros, now_micros};

const KEY: &str = "button";
/// How long a kill may take to reach a client on a machine that is busy with other tests.
const LATE: Duration = Duration::from_secs(1);

async fn connect(url: &str, name: &str) -> Client {
    let client = Client::builder(url).client_name(name).build().expect("a client");
    assert!(client.ready(Duration::from_secs(20)).await, "{:?}", client.status());
    client
}

async fn list(api: &Api) -> Vec<v1::ClientState> {
    let request = v1::ListClientsRequest { page_size: 2, ..Default::default() };
    let mut page = api.assignments().list_clients(request.clone()).await.expect("a page").into_inner();
    let mut all = std::mem::take(&mut page.clients);
    // Page by page, as somebody with 10,000 clients would.
    while !page.next_page_token.is_empty() {
        assert!(page.total_size > 2, "{page:?}");
        let request = v1::ListClientsRequest { page_token: page.next_page_token, ..request.clone() };
        page = api.assignments().list_clients(request).await.expect("a page").into_inner();
        all.append(&mut page.clients);
    }
    all
}

async fn reach(api: &Api, version: u64) -> v1::GetReachResponse {
    api.assignments().get_reach(v1::GetReachRequest { version }).await.expect("an answer").into_inner()
}

/// Waits until this many clients are connected and have all told that they have a change.
async fn reached(api: &Api, changed: &v1::Experiment, clients: u64) -> v1::GetReachResponse {
    let version = changed.etag.parse().expect("a version");
    eventually("all clients say that they have the change", async || {
        let reach = reach(api, version).await;
        (reach.clients == clients && reach.not_yet == 0).then_some(reach)
    })
    .await
}

fn took(duration: &Option<prost_types::Duration>) -> Duration {
    inroad_wire::duration_from_wire(duration.as_ref().expect("a duration")).expect("a good one")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_and_a_restore_and_a_growth_are_timed_at_every_client() {
    let server = Server::start().await;
    let api = server.api();
    let launched = api.launch(flag(KEY, &[("a", 0.5)])).await;
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push(connect(&server.url(), &format!("shop-{n}")).await);
    }
    let before = reached(&api, &launched, 6).await;
    assert_eq!(before.to_applied.as_ref().map(|d| d.count), Some(0), "it was published before they connected");

    let begun = now_micros();
    let killed = api.kill(KEY, "a").await;
    let kill = reached(&api, &killed, 6).await;
    let ended = now_micros();
    assert_eq!((kill.experiment.as_str(), kill.action.as_str()), (KEY, "kill"));
    assert!((begun..=ended).contains(&micros(&kill.published_at)), "{kill:?}");
    assert_eq!((kill.clients, kill.applied, kill.sent, kill.anonymous), (6, 6, 6, 0));
    let (sent, applied) = (kill.to_sent.expect("delays"), kill.to_applied.expect("delays"));
    assert_eq!((sent.count, applied.count), (6, 6));
    assert!(took(&applied.p50) <= took(&applied.p99) && took(&applied.p99) <= took(&applied.max), "{applied:?}");
    assert!(took(&sent.max) <= took(&applied.max) && took(&applied.max) < LATE, "{sent:?} {applied:?}");

    let restored = api.restore(KEY, "a").await;
    let grown = api.grow(KEY, "a", 0.6).await;
    for (changed, action) in [(&restored, "restore"), (&grown, "grow")] {
        let reach = reached(&api, changed, 6).await;
        let applied = reach.to_applied.expect("delays");
        assert_eq!((reach.action.as_str(), applied.count), (action, 6));
        assert!(took(&applied.max) < LATE, "{action}: {applied:?}");
    }
    // What was measured of the kill stands, whatever came after it.
    assert_eq!(reach(&api, killed.etag.parse().expect("a version")).await.to_applied, Some(applied));

    let version: u64 = grown.etag.parse().expect("a version");
    let all = list(&api).await;
    assert_eq!(all.len(), 6);
    for (n, (state, client)) in all.iter().zip(&clients).enumerate() {
        assert_eq!((state.client_name.clone(), state.client_id.as_str()), (format!("shop-{n}"), client.id()));
        assert!(state.sdk.starts_with("rust/") && state.address.starts_with("127.0.0.1:"), "{state:?}");
        assert_eq!((state.sent_version, state.applied_version, state.versions_behind), (version, Some(version), 0));
        assert!(took(&state.lag) < LATE && micros(&state.applied_at) >= micros(&state.sent_at), "{state:?}");
        assert!(micros(&state.connected_at) <= begun && micros(&state.reported_at) <= now_micros(), "{state:?}");
    }
    assert_eq!(gauge(server.address, "inroad_clients").await, 6.0);
    assert_eq!(gauge(server.address, "inroad_clients_behind").await, 0.0);
    assert_eq!(gauge(server.address, "inroad_reach_seconds_count").await, 18.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_gone_and_one_that_was_cut_off_comes_back_as_one() {
    let server = Server::start().await;
    let api = server.api();
    let launched = api.launch(flag(KEY, &[("a", 0.5)])).await;
    let proxy = Proxy::to(server.address).await;
    let stays = connect(&server.url(), "stays").await;
    let leaves = connect(&server.url(), "leaves").await;
    let cut = Client::builder(proxy.url())
        .client_name("cut")
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
        .build()
        .expect("a client");
    assert!(cut.ready(Duration::from_secs(20)).await);
    reached(&api, &launched, 3).await;

    let _ = leaves.shutdown(Duration::from_secs(5)).await;
    drop(leaves);
    eventually("it is gone", async || (list(&api).await.len() == 2).then_some(())).await;

    proxy.sever();
    eventually("it is cut off", async || (list(&api).await.len() == 1).then_some(())).await;
    let killed = api.kill(KEY, "a").await;
    let alone = reached(&api, &killed, 1).await;
    assert_eq!(alone.to_applied.map(|d| d.count), Some(1), "of who is connected");
    proxy.mend();
    let both = reached(&api, &killed, 2).await;
    assert_eq!(both.to_applied.map(|d| d.count), Some(1), "nobody measures how long a line was cut");
    let names: Vec<(String, String)> = list(&api).await.into_iter().map(|c| (c.client_name, c.client_id)).collect();
    assert_eq!(names, [("stays".to_owned(), stays.id().to_owned()), ("cut".to_owned(), cut.id().to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_drops_is_seen_at_the_server() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(flag(KEY, &[("a", 0.5)])).await;
    let client = Client::builder(server.url())
        .client_name("tight")
        .queue_capacity(1)
        .flush_interval(Duration::from_secs(120))
        .build()
        .expect("a client");
    assert!(client.ready(Duration::from_secs(20)).await);
    for n in 0..4 {
        client.assign(KEY, &Context::new(format!("unit-{n}")));
    }
    client.track(Outcome::new("purchase").by("unit-0"));
    let status = client.status();
    assert_eq!((status.queue_depth, status.dropped_exposures, status.dropped_outcomes), (1, 3, 1));
    // A change makes it report soon; without one it would in ten seconds.
    let killed = api.kill(KEY, "a").await;
    reached(&api, &killed, 1).await;
    let all = list(&api).await;
    assert_eq!((all[0].dropped_exposures, all[0].dropped_outcomes, all[0].queued_events), (3, 1, 1), "{all:?}");
    assert_eq!(gauge(server.address, "inroad_client_dropped_exposures").await, 3.0);
    assert_eq!(gauge(server.address, "inroad_client_dropped_outcomes").await, 1.0);
    assert_eq!(gauge(server.address, "inroad_client_queued_events").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_clients_and_tells_when_a_kill_was_there() {
    let server = Server::start().await;
    let api = server.api();
    let launched = api.launch(flag(KEY, &[("a", 0.5)])).await;
    let alone = server.cli(&["experiment", "kill", KEY, "a"]).await.ok();
    assert!(!alone.stdout.contains("reached"), "nobody is there: {}", alone.stdout);
    server.cli(&["experiment", "restore", KEY, "a"]).await.ok();
    let clients = [connect(&server.url(), "shop").await, connect(&server.url(), "till").await];
    // An anonymous watcher beside them.
    let mut watcher = api.assignments().watch_snapshots(v1::WatchSnapshotsRequest::default()).await.expect("a stream");
    watcher.get_mut().message().await.expect("a message");
    reached(&api, &launched, 2).await;
    let killed = server.cli(&["experiment", "kill", KEY, "a"]).await.ok();
    assert!(killed.stdout.contains("reached 2 of 2 clients in "), "{}", killed.stdout);

    let told = server.cli(&["clients", "--json"]).await.ok().json();
    assert_eq!(told["clients"].as_array().map(Vec::len), Some(3), "{told}");
    assert_eq!((&told["reach"]["applied"], &told["reach"]["anonymous"]), (&2.into(), &1.into()), "{told}");
    assert_eq!((&told["reach"]["action"], &told["reach"]["experiment"]), (&"kill".into(), &KEY.into()), "{told}");
    let max = told["reach"]["to_applied"]["max_ms"].as_f64().expect("a number");
    assert!(max >= 0.0 && max < LATE.as_secs_f64() * 1e3, "{told}");
    let table = server.cli(&["clients"]).await.ok().stdout;
    assert!(table.contains("2 of 2 clients have it") && table.contains("1 watcher without an id"), "{table}");
    for client in &clients {
        assert!(table.contains(&client.id()[..8]), "{table}");
    }
}
