//! Experiments, traffic and clients for the tests, created through the public API.

use std::time::Duration;

use inroad_sdk::Client;
use inroad_wire::v1;

use crate::harness::{
    Api, Server, Setup, at_second, eventually, exposure_of, flag, outcome, with_conversion_metrics, with_manual_clock,
};

pub(crate) const KEY: &str = "shop.button";

/// A server with a lead time so short that growth seems to take effect immediately.
pub(crate) async fn start_server() -> Server {
    Server::with(Setup::lead("20ms")).await
}

/// The definition of an experiment with control and two variations.
pub(crate) fn button_experiment() -> v1::Experiment {
    let mut experiment = with_conversion_metrics(flag(KEY, &[("green", 0.3), ("blue", 0.2)]));
    experiment.description = "Which colour sells".to_owned();
    experiment.owner = "Ada".to_owned();
    experiment.tags = vec!["checkout".to_owned(), "web".to_owned()];
    experiment
}

/// Starts an experiment with a manual clock and advances it by twelve days: green is killed and restored, then the
/// whole experiment, then blue is killed.
pub(crate) async fn launch_with_kills(api: &Api, key: &str) {
    const START: i64 = 1_767_225_600;
    api.launch(with_manual_clock(flag(key, &[("green", 0.1), ("blue", 0.1)]), START)).await;
    let day = async |day: i64| {
        let to = Some(at_second(START + day * 86_400));
        api.experiments()
            .advance_clock(v1::AdvanceClockRequest { key: key.to_owned(), to })
            .await
            .expect("advance the clock");
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

/// Records an exposure for each unit, and a purchase for every fifth unit.
pub(crate) async fn record_traffic(api: &Api, key: &str, name: &str, units: usize) {
    let units: Vec<String> = (0..units).map(|n| format!("{name}-{n}")).collect();
    let answers = api.assign_all(key, &units).await;
    let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(key, unit, answer)).collect();
    let purchases = units.iter().step_by(5).map(|unit| outcome(unit, 12.5, &format!("{key}-{unit}"))).collect();
    api.record(exposures, purchases).await;
}

/// The key of a unit that gets a variation.
pub(crate) async fn unit_in(api: &Api, key: &str, variation: &str) -> String {
    let units: Vec<String> = (0..200).map(|n| format!("somebody-{n}")).collect();
    let answers = api.assign_all(key, &units).await;
    let found = units.iter().zip(&answers).find(|(_, answer)| answer.variation == variation);
    found.expect("one of 200 units gets the variation").0.clone()
}

/// Connects SDK clients and waits until they are ready.
pub(crate) async fn connect_clients(server: &Server, names: &[&str]) -> Vec<Client> {
    let mut clients = Vec::new();
    for name in names {
        let flush = Duration::from_millis(20);
        let client =
            Client::builder(server.url()).client_name(*name).flush_interval(flush).build().expect("build a client");
        assert!(client.ready(Duration::from_secs(20)).await, "{:?}", client.status());
        clients.push(client);
    }
    clients
}

/// Waits until all clients have reported that they have the newest version.
pub(crate) async fn wait_until_updated(api: &Api, clients: usize) {
    eventually("all clients have the newest version", async || {
        let request = v1::ListClientsRequest { page_size: 100, ..Default::default() };
        let all = api.assignments().list_clients(request).await.expect("list clients").into_inner().clients;
        let updated = all.iter().filter(|client| client.versions_behind == 0 && client.applied_version.is_some());
        (updated.count() == clients).then_some(())
    })
    .await;
}
