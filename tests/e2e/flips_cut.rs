//! I4 with a client that cannot hear: cut off, it goes on answering from what it knows, and is never wrong by more than
//! control for a unit that has crossed over meanwhile.

use std::time::Duration;

use inroad_sdk::{Client, Context};

use crate::harness::{Proxy, Server, Setup, conversions, eventually, flag, micros, wait_until_by};

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
async fn a_client_that_is_cut_off_answers_from_what_it_knows_and_catches_up_when_it_hears_again() {
    let server = Server::with(Setup::lead("1s")).await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.15), ("b", 0.15)]))).await;
    let proxy = Proxy::to(server.address).await;
    let (near, far) = (client(server.url(), "near"), client(proxy.url(), "far"));
    assert!(near.ready(Duration::from_secs(10)).await && far.ready(Duration::from_secs(10)).await);
    let contexts = contexts();
    let before = arms(&far, &contexts);
    assert_eq!(arms(&near, &contexts), before);

    proxy.sever();
    eventually("the client notices", async || (!far.status().connected).then_some(())).await;
    let grown = api.grow(KEY, "a", 0.35).await;
    let grown_again = api.grow(KEY, "b", 0.3).await;
    let effective = micros(&grown.effective_at).max(micros(&grown_again.effective_at));
    wait_until_by(&near, effective).await;
    wait_until_by(&far, effective).await;
    let after = arms(&near, &contexts);
    assert_eq!(arms(&far, &contexts), before, "it goes on as before");
    let mut crossed = 0;
    for (unit, (far, near)) in before.iter().zip(&after).enumerate() {
        assert!(far == near || *far == 0, "unit {unit}: {far} here, {near} there: never a rival");
        crossed += usize::from(far != near);
    }
    assert!(crossed > 400, "{crossed} have crossed over");

    // What it shows meanwhile is recorded as what it was: served under an older revision, no unit moved. The one that
    // hears shows only units that have crossed: of two first exposures to one arm the earlier counts, and which of two
    // clients was earlier by its own reading of the server's clock is nothing to build on.
    contexts.iter().for_each(|context| drop(far.assign(KEY, context)));
    for (unit, context) in contexts.iter().enumerate().filter(|(unit, _)| before[*unit] != after[*unit]) {
        assert_eq!(near.assign(KEY, context).arm().index(), after[unit]);
    }
    // It cannot hear of a kill either; it does so as soon as it hears anything.
    api.kill(KEY, "a").await;
    eventually("the one that hears obeys", async || arms(&near, &contexts).iter().all(|arm| *arm != 1).then_some(()))
        .await;
    assert_eq!(arms(&far, &contexts), before);
    proxy.mend();
    eventually("the one that hears again obeys", async || {
        arms(&far, &contexts).iter().all(|arm| *arm != 1).then_some(())
    })
    .await;
    api.restore(KEY, "a").await;
    eventually("both have what they had", async || {
        (arms(&near, &contexts) == after && arms(&far, &contexts) == after).then_some(())
    })
    .await;
    assert_eq!(far.status().connections, 2);

    let (sent_near, sent_far) = (near.flush(Duration::from_secs(20)).await, far.flush(Duration::from_secs(20)).await);
    for flushed in [sent_near, sent_far] {
        assert!(flushed.is_complete() && flushed.rejected == 0 && flushed.dropped == 0, "{flushed:?}");
    }
    let results = api.results(KEY).await;
    assert_eq!(results.units_moved, 0, "{results:?}");
    assert_eq!(results.stale_exposures, contexts.len() as u64, "I4: all of the far one's, and none of the near one's");
    assert_eq!(results.arms.iter().map(|arm| arm.units).sum::<u64>(), (contexts.len() + crossed) as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_outlives_its_server_and_takes_up_where_it_left_off() {
    let mut server = Server::with(Setup::lead("500ms")).await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.3)]))).await;
    let client = client(server.url(), "patient");
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
    eventually("it hears of the growth", async || (client.status().version.to_string() == grown.etag).then_some(()))
        .await;
    wait_until_by(&client, micros(&grown.effective_at)).await;
    let after = arms(&client, &contexts);
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 0));
    assert!(after.iter().filter(|arm| **arm == 1).count() > before.iter().filter(|arm| **arm == 1).count());
    let results = api.results(KEY).await;
    assert_eq!(results.arms.iter().map(|arm| arm.units).sum::<u64>(), 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_starts_without_a_server_serves_from_its_file() {
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
    eventually("it finds the server", async || second.status().connected.then_some(())).await;
    assert_eq!(arms(&second, &contexts), before);
}
