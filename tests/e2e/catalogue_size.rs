//! What a change costs does not depend on how many experiments there are: everything that follows the catalogue visits
//! what changed.

use std::time::Duration;

use inroad_wire::v1;
use tokio_stream::StreamExt;

use crate::harness::{Api, Server, flag, outcome, with_conversion_metrics, with_thompson_policy};

/// The experiments that are added between the two measurements.
const MANY: usize = 8_000;
/// Experiments that are created and started in one measurement.
const CHANGED: usize = 60;

/// An experiment whose policy decides next in 2052, so that no decision falls into a measurement.
fn experiment(key: &str) -> v1::Experiment {
    with_thompson_policy(with_conversion_metrics(flag(key, &[("a", 0.1)])), 10_000 * 86_400)
}

async fn add(api: &Api, keys: impl Iterator<Item = String>) {
    let declarations = keys.map(|key| {
        let experiment = Some(experiment(&key));
        let declaration = v1::ExperimentDeclaration { experiment, etag: String::new(), start: true };
        v1::ApplyExperimentsRequest { validate_only: false, declarations: vec![declaration] }
    });
    let declarations: Vec<_> = declarations.collect();
    let applied = api.experiments().apply_experiments(tokio_stream::iter(declarations)).await.expect("an answer");
    assert_eq!(applied.into_inner().errors, []);
}

/// The server's CPU time for creating and starting experiments one after another, with an outcome after each, until the
/// counts and a client have the last one.
async fn cost(server: &Server, client: &mut tonic::Streaming<v1::WatchSnapshotsResponse>, name: &str) -> Duration {
    let api = server.api();
    let mut begun = Duration::ZERO;
    // After the first one, what was added before is processed everywhere.
    for n in 0..=CHANGED {
        let last = api.launch(experiment(&format!("{name}-{n}"))).await;
        api.record(vec![], vec![outcome("unit", 1.0, &format!("{name}-{n}"))]).await;
        follow(&api, client, &last).await;
        if n == 0 {
            begun = server.cpu_time();
        }
    }
    server.cpu_time().saturating_sub(begun)
}

/// Waits until the counts reflect an experiment and a client has received it.
async fn follow(api: &Api, client: &mut tonic::Streaming<v1::WatchSnapshotsResponse>, experiment: &v1::Experiment) {
    api.results(&experiment.key).await;
    let version: u64 = experiment.etag.parse().expect("a number");
    let received =
        async { while client.next().await.expect("the stream is open").expect("a message").version < version {} };
    tokio::time::timeout(Duration::from_secs(60), received).await.expect("the experiment in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_and_starting_an_experiment_costs_the_same_among_8000_others_as_among_100() {
    let server = Server::start().await;
    let api = server.api();
    let watching = server.api().assignments().watch_snapshots(v1::WatchSnapshotsRequest::default()).await;
    let mut client = watching.expect("a stream").into_inner();
    add(&api, (0..100).map(|n| format!("few-{n}"))).await;
    let few = cost(&server, &mut client, "among-few").await;
    add(&api, (0..MANY).map(|n| format!("many-{n}"))).await;
    let many = cost(&server, &mut client, "among-many").await;
    println!("{CHANGED} experiments created and started: {few:?} of CPU among 100 others, {many:?} among {MANY}");
    assert!(many < 2 * few, "{few:?} of CPU among 100 others, {many:?} among {MANY}");
}
