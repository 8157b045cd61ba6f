//! I4 with a disconnected client: it goes on answering from its last snapshot. Its only wrong answer is control, for a
//! unit that has moved from control into a variation meanwhile.

use std::time::Duration;

use inroad_sdk::{Client, Context};

use crate::harness::{Proxy, Server, Setup, eventually, flag, micros, wait_until_client_time, with_conversion_metrics};

const KEY: &str = "button";

fn contexts() -> Vec<Context> {
    (0..2_000).map(|i| Context::new(format!("unit-{i}"))).collect()
}

fn arms(client: &Client, contexts: &[Context]) -> Vec<usize> {
    contexts.iter().map(|context| client.evaluate(KEY, context).arm().index()).collect()
}

fn client(url: String, name: &str) -> Client {
    let builder = Client::builder(url).client_name(name).flush_interval(Duration::from_millis(50));
    builder.backoff(Duration::from_millis(20), Duration::from_millis(200)).build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnected_client_answers_from_its_last_snapshot_and_catches_up_after_reconnecting() {
    let server = Server::with(Setup::lead("1s")).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.15), ("b", 0.15)]))).await;
    let proxy = Proxy::start(server.address).await;
    let (connected, cut_off) = (client(server.url(), "connected"), client(proxy.url(), "cut-off"));
    assert!(connected.ready(Duration::from_secs(10)).await && cut_off.ready(Duration::from_secs(10)).await);
    let contexts = contexts();
    let before = arms(&cut_off, &contexts);
    assert_eq!(arms(&connected, &contexts), before);

    proxy.disconnect();
    eventually("the client notices that it is disconnected", async || (!cut_off.status().connected).then_some(()))
        .await;
    let grown = api.grow(KEY, "a", 0.35).await;
    let grown_again = api.grow(KEY, "b", 0.3).await;
    let effective = micros(&grown.effective_at).max(micros(&grown_again.effective_at));
    wait_until_client_time(&connected, effective).await;
    wait_until_client_time(&cut_off, effective).await;
    let after = arms(&connected, &contexts);
    assert_eq!(arms(&cut_off, &contexts), before, "the disconnected client answers as before");
    let mut crossed = 0;
    for (unit, (old, new)) in before.iter().zip(&after).enumerate() {
        assert!(old == new || *old == 0, "unit {unit}: arm {old} and arm {new} are different variations");
        crossed += usize::from(old != new);
    }
    assert!(crossed > 400, "only {crossed} units have crossed over");

    // Exposures of the disconnected client count as served under an older revision; no unit has moved. The connected
    // client exposes only units that have crossed over. If both exposed a unit to the same arm, the earlier exposure
    // would count, and the clock estimates of two clients are too inexact to predict which one that is.
    contexts.iter().for_each(|context| drop(cut_off.assign(KEY, context)));
    for (unit, context) in contexts.iter().enumerate().filter(|(unit, _)| before[*unit] != after[*unit]) {
        assert_eq!(connected.assign(KEY, context).arm().index(), after[unit]);
    }
    // The kill does not reach the disconnected client before it reconnects.
    api.kill(KEY, "a").await;
    eventually("the connected client applies the kill", async || {
        arms(&connected, &contexts).iter().all(|arm| *arm != 1).then_some(())
    })
    .await;
    assert_eq!(arms(&cut_off, &contexts), before);
    proxy.reconnect();
    eventually("the reconnected client applies the kill", async || {
        arms(&cut_off, &contexts).iter().all(|arm| *arm != 1).then_some(())
    })
    .await;
    api.restore(KEY, "a").await;
    eventually("both clients serve the restored variation", async || {
        (arms(&connected, &contexts) == after && arms(&cut_off, &contexts) == after).then_some(())
    })
    .await;
    assert_eq!(cut_off.status().connections, 2);

    let flushes = (connected.flush(Duration::from_secs(20)).await, cut_off.flush(Duration::from_secs(20)).await);
    for flushed in [flushes.0, flushes.1] {
        assert!(flushed.is_complete() && flushed.rejected == 0 && flushed.dropped == 0, "{flushed:?}");
    }
    let results = api.results(KEY).await;
    assert_eq!(results.units_moved, 0, "{results:?}");
    assert_eq!(
        results.stale_exposures,
        contexts.len() as u64,
        "I4: all exposures of the disconnected client and no other"
    );
    assert_eq!(results.arms.iter().map(|arm| arm.units).sum::<u64>(), (contexts.len() + crossed) as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_keeps_events_while_its_server_is_down_and_resumes_afterwards() {
    let mut server = Server::with(Setup::lead("500ms")).await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.3)]))).await;
    let client = client(server.url(), "waiting");
    assert!(client.ready(Duration::from_secs(10)).await);
    let contexts = contexts();
    let before = arms(&client, &contexts);
    server.kill();
    for context in &contexts {
        client.assign(KEY, context);
    }
    assert_eq!(arms(&client, &contexts), before);
    server.restart().await;
    let flushed = client.flush(Duration::from_secs(30)).await;
    assert!(flushed.is_complete() && flushed.sent == 2_000 && flushed.rejected == 0, "{flushed:?}");
    let grown = api.grow(KEY, "a", 0.5).await;
    eventually("the client has the new revision", async || {
        (client.status().version.to_string() == grown.etag).then_some(())
    })
    .await;
    wait_until_client_time(&client, micros(&grown.effective_at)).await;
    let after = arms(&client, &contexts);
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 0));
    assert!(after.iter().filter(|arm| **arm == 1).count() > before.iter().filter(|arm| **arm == 1).count());
    let results = api.results(KEY).await;
    assert_eq!(results.arms.iter().map(|arm| arm.units).sum::<u64>(), 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_a_server_serves_its_bootstrap_file() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("snapshot");
    let mut server = Server::start().await;
    server.api().launch(flag(KEY, &[("a", 0.3)])).await;
    let build = |server: &Server| {
        let builder = Client::builder(server.url()).bootstrap_file(&file).connect_timeout(Duration::from_millis(300));
        builder.backoff(Duration::from_millis(20), Duration::from_millis(200)).build().expect("a client")
    };
    let first = build(&server);
    assert!(first.ready(Duration::from_secs(10)).await);
    let contexts = contexts();
    let before = arms(&first, &contexts);
    eventually("the file is written", async || file.exists().then_some(())).await;
    let _ = first.shutdown(Duration::from_secs(5)).await;
    server.kill();
    let second = build(&server);
    assert!(second.ready(Duration::from_secs(10)).await);
    assert_eq!(arms(&second, &contexts), before);
    assert!(!second.status().connected);
    server.restart().await;
    eventually("the client connects to the server", async || second.status().connected.then_some(())).await;
    assert_eq!(arms(&second, &contexts), before);
}
