//! What pages are looked at with: an experiment with traffic, made in the ways that callers have.

use std::time::Duration;

use inroad_sdk::Client;
use inroad_wire::v1;

use crate::harness::{
    Api, Server, Setup, at_second, conversions, eventually, exposure_of, flag, manual_clock, outcome,
};

pub(crate) const KEY: &str = "shop.button";

/// A server on which growth takes effect at once, as far as a person can tell.
pub(crate) async fn server() -> Server {
    Server::with(Setup::lead("20ms")).await
}

/// A running experiment with two variations and two metrics, and nobody in it.
pub(crate) fn button() -> v1::Experiment {
    let mut experiment = conversions(flag(KEY, &[("green", 0.3), ("blue", 0.2)]));
    experiment.description = "Which colour sells".to_owned();
    experiment.owner = "Ada".to_owned();
    experiment.tags = vec!["checkout".to_owned(), "web".to_owned()];
    experiment
}

/// An experiment of twelve days by a clock of its own: green is killed and restored, then all of it, then blue for good.
pub(crate) async fn with_kills(api: &Api, key: &str) {
    const START: i64 = 1_767_225_600;
    api.launch(manual_clock(flag(key, &[("green", 0.1), ("blue", 0.1)]), START)).await;
    let day = async |day: i64| {
        let to = Some(at_second(START + day * 86_400));
        api.experiments()
            .advance_clock(v1::AdvanceClockRequest { key: key.to_owned(), to })
            .await
            .expect("a later day");
    };
    day(2).await;
    api.kill(key, "green").await;
    day(3).await;
    api.grow(key, "blue", 0.3).await;
    day(5).await;
    api.restore(key, "green").await;
    api.grow(key, "green", 0.25).await;
    day(7).await;
    api.kill(key, "").await;
    day(8).await;
    api.restore(key, "").await;
    day(10).await;
    api.kill(key, "blue").await;
    day(12).await;
}

/// Units that see their variation; every fifth buys.
pub(crate) async fn traffic(api: &Api, key: &str, name: &str, units: usize) {
    let units: Vec<String> = (0..units).map(|n| format!("{name}-{n}")).collect();
    let answers = api.assign_all(key, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(key, unit, answer)).collect();
    let bought = units.iter().step_by(5).map(|unit| outcome(unit, 12.5, &format!("{key}-{unit}"))).collect();
    api.record(exposures, bought).await;
}

/// A unit that a variation has.
pub(crate) async fn unit_of(api: &Api, key: &str, variation: &str) -> String {
    let units: Vec<String> = (0..200).map(|n| format!("somebody-{n}")).collect();
    let answers = api.assign_all(key, &units).await;
    let found = units.iter().zip(&answers).find(|(_, answer)| answer.variation == variation);
    found.expect("one of so many").0.clone()
}

/// SDK clients that are connected and ready.
pub(crate) async fn clients(server: &Server, names: &[&str]) -> Vec<Client> {
    let mut clients = Vec::new();
    for name in names {
        let flush = Duration::from_millis(20);
        let client = Client::builder(server.url()).client_name(*name).flush_interval(flush).build().expect("a client");
        assert!(client.ready(Duration::from_secs(20)).await, "{:?}", client.status());
        clients.push(client);
    }
    clients
}

/// Waits until all of them have told the server that they have its newest version.
pub(crate) async fn caught_up(api: &Api, clients: usize) {
    eventually("all clients have the newest version", async || {
        let request = v1::ListClientsRequest { page_size: 100, ..Default::default() };
        let all = api.assignments().list_clients(request).await.expect("a page").into_inner().clients;
        let told = all.iter().filter(|client| client.versions_behind == 0 && client.applied_version.is_some());
        (told.count() == clients).then_some(())
    })
    .await;
}
