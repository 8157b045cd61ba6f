//! A real server with a catalogue of more than 10 MiB, and clients with gRPC's default limit of 4 MiB per message: every
//! call works or fails with advice, snapshots arrive in parts, and a kill overtakes them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use inroad_sdk::{Client, Context};
use inroad_server::{RunningServer, Server, ServerConfig};
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::experiment_service_client::ExperimentServiceClient;
use inroad_wire::v1::{self, payload::Value};
use tonic::Code;
use tonic::transport::Channel;

/// The number of large experiments, and the number of their variations.
const LARGE: usize = 12;
const VARIATIONS: usize = 62;
const PAYLOAD_BYTES: usize = 16_000;

struct Fixture {
    server: RunningServer,
    address: String,
    assignments: AssignmentServiceClient<Channel>,
    experiments: ExperimentServiceClient<Channel>,
    folder: tempfile::TempDir,
}

impl Fixture {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = ServerConfig { listen, folder: folder.path().join("store"), ..ServerConfig::default() };
        let server = Server::start(config).await.unwrap();
        let address = format!("http://{}", server.local_addr());
        let channel = Channel::from_shared(address.clone()).unwrap().connect().await.unwrap();
        Self {
            server,
            address,
            assignments: AssignmentServiceClient::new(channel.clone()),
            experiments: ExperimentServiceClient::new(channel),
            folder,
        }
    }

    async fn apply(&mut self, experiments: Vec<v1::Experiment>) -> Result<v1::ApplyExperimentsResponse, tonic::Status> {
        let requests = experiments.into_iter().map(|experiment| v1::ApplyExperimentsRequest {
            validate_only: false,
            declarations: vec![v1::ExperimentDeclaration {
                experiment: Some(experiment),
                etag: String::new(),
                start: true,
            }],
        });
        let requests: Vec<_> = requests.collect();
        Ok(self.experiments.apply_experiments(tokio_stream::iter(requests)).await?.into_inner())
    }

    async fn apply_large(&mut self) {
        let large = (0..LARGE).map(|n| experiment(&format!("large-{n:02}"), VARIATIONS, PAYLOAD_BYTES));
        let response = self.apply(large.collect()).await.unwrap();
        assert_eq!((response.experiments.len(), response.total_errors), (LARGE, 0), "{:?}", response.errors.first());
    }

    async fn all_keys(&mut self) -> Vec<String> {
        let (mut keys, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListExperimentsRequest { page_size: 1_000, page_token, prefix: String::new() };
            let page = self.experiments.list_experiments(request).await.unwrap().into_inner();
            keys.extend(page.experiments.into_iter().map(|e| e.key));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return keys;
            }
        }
    }
}

fn experiment(key: &str, variations: usize, payload_bytes: usize) -> v1::Experiment {
    let variation = |n: usize| v1::Variation {
        key: format!("v{n}"),
        payload: Some(v1::Payload { value: Some(Value::StringValue("p".repeat(payload_bytes))) }),
        initial_share: (n > 0).then_some(0.01),
        ..v1::Variation::default()
    };
    v1::Experiment {
        key: key.to_owned(),
        variations: (0..variations).map(variation).collect(),
        ..v1::Experiment::default()
    }
}

fn user() -> Context {
    Context::new("u1")
}

fn assign_request(experiment: &str) -> v1::AssignRequest {
    let user = inroad_wire::context_to_struct(&user());
    v1::AssignRequest { experiment: experiment.to_owned(), context: Some(user), ..v1::AssignRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_of_ten_mebibytes_arrives_in_parts_below_the_limit() {
    let mut fixture = Fixture::start().await;
    fixture.apply_large().await;
    let request = v1::WatchSnapshotsRequest::default();
    let mut stream = fixture.assignments.watch_snapshots(request).await.unwrap().into_inner();
    let (mut keys, mut versions, mut bytes) = (BTreeSet::new(), Vec::new(), 0);
    loop {
        let part = stream.message().await.unwrap().unwrap();
        assert_eq!(part.full, versions.is_empty(), "only the first part replaces everything");
        bytes += prost::Message::encoded_len(&part);
        versions.push(part.version);
        keys.extend(part.experiments.into_iter().map(|e| e.key));
        if part.last_part {
            assert_eq!(part.version, part.complete_version);
            break;
        }
        assert!(part.version < part.complete_version);
    }
    assert!(bytes > 10 << 20 && versions.len() > 3 && versions.is_sorted(), "{bytes} {versions:?}");
    assert_eq!(keys.len(), LARGE);
    // A client that lost the stream after a part gets the rest, and only the rest.
    let after = versions.len() - 2;
    let store_id = {
        let mut stream = fixture.assignments.watch_snapshots(v1::WatchSnapshotsRequest::default()).await.unwrap();
        stream.get_mut().message().await.unwrap().unwrap().store_id
    };
    let request = v1::WatchSnapshotsRequest { resume_version: versions[after], store_id, ..Default::default() };
    let mut stream = fixture.assignments.watch_snapshots(request).await.unwrap().into_inner();
    let rest = stream.message().await.unwrap().unwrap();
    assert_eq!((rest.full, rest.version), (false, versions[after + 1]));
    assert_eq!(rest.experiments.len(), 1);
    fixture.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_batches_stay_below_the_limit() {
    let mut fixture = Fixture::start().await;
    fixture.apply_large().await;
    assert_eq!(fixture.all_keys().await.len(), LARGE);
    let (mut entries, mut pages, mut page_token) = (0, 0, String::new());
    loop {
        let request = v1::ListAuditEntriesRequest { key: String::new(), page_size: 1_000, page_token };
        let page = fixture.experiments.list_audit_entries(request).await.unwrap().into_inner();
        (entries, pages, page_token) = (entries + page.entries.len(), pages + 1, page.next_page_token);
        if page_token.is_empty() {
            break;
        }
    }
    assert!(entries == LARGE && pages > 3, "{entries} {pages}");
    let batch = |size: usize| v1::BatchAssignRequest { requests: vec![assign_request("large-03"); size] };
    assert_eq!(fixture.assignments.batch_assign(batch(200)).await.unwrap().into_inner().responses.len(), 200);
    let refused = fixture.assignments.batch_assign(batch(400)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().contains("split the batch"), "{refused}");
    fixture.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_overtakes_the_parts_of_a_large_change() {
    let mut fixture = Fixture::start().await;
    fixture.apply(vec![experiment("small", 2, 10)]).await.unwrap();
    let request = v1::WatchSnapshotsRequest::default();
    let mut stream = fixture.assignments.watch_snapshots(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    drop(stream);
    fixture.apply_large().await;
    let request = v1::WatchSnapshotsRequest {
        resume_version: first.version,
        store_id: first.store_id,
        ..v1::WatchSnapshotsRequest::default()
    };
    let mut stream = fixture.assignments.watch_snapshots(request).await.unwrap().into_inner();
    let part = stream.message().await.unwrap().unwrap();
    assert!(part.complete_version > part.version);
    fixture.experiments.kill(v1::KillRequest { key: "small".to_owned(), variation: String::new() }).await.unwrap();
    let (mut killed, mut last_part) = (false, false);
    while !killed {
        let message = stream.message().await.unwrap().unwrap();
        last_part |= message.last_part;
        if message.experiments.iter().any(|e| e.key == "small" && e.killed) {
            assert_eq!((message.version, message.complete_version), (first.version, 0), "no part, and no new version");
            killed = true;
        }
    }
    assert!(!last_part, "the kill came only after all parts");
    // The parts go on, and the kill comes again with its own version.
    let mut newest = 0;
    while newest <= part.complete_version {
        let message = stream.message().await.unwrap().unwrap();
        newest = message.version;
    }
    fixture.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_assembles_parts_and_starts_from_its_file() {
    let mut fixture = Fixture::start().await;
    fixture.apply_large().await;
    let file = fixture.folder.path().join("snapshot");
    let client = Client::builder(&fixture.address).bootstrap_file(&file).build().unwrap();
    assert!(client.ready(Duration::from_secs(30)).await);
    assert_eq!(client.status().experiments, LARGE, "the first snapshot is whole");
    let served = client.evaluate("large-07", &user()).variation().map(str::to_owned);
    assert!(served.is_some());
    let mut versions = client.subscribe();
    let before = *versions.borrow_and_update();
    fixture.experiments.kill(v1::KillRequest { key: "large-07".to_owned(), variation: String::new() }).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), versions.wait_for(|v| *v > before)).await.unwrap().unwrap();
    assert_eq!(client.evaluate("large-07", &user()).variation(), Some("v0"));
    assert!(client.shutdown(Duration::from_secs(5)).await.is_complete());
    fixture.server.shutdown().await.unwrap();
    // The server is gone: the file has the whole snapshot, with the kill.
    let client = Client::builder(&fixture.address).bootstrap_file(&file).build().unwrap();
    assert!(client.ready(Duration::from_secs(30)).await);
    assert_eq!(client.status().experiments, LARGE);
    assert_eq!(client.evaluate("large-07", &user()).variation(), Some("v0"));
    let _ = client.shutdown(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_declarations_are_all_named_and_nothing_is_applied() {
    let mut fixture = Fixture::start().await;
    fixture.apply(vec![experiment("known", 2, 10)]).await.unwrap();
    let mut faulty = experiment("faulty", 2, 10);
    faulty.audience = "country ==".to_owned();
    let declared = vec![experiment("good", 2, 10), faulty, experiment("Bad Key", 2, 10), experiment("known", 2, 10)];
    let response = fixture.apply(declared).await.unwrap();
    let errors: Vec<_> = response.errors.iter().map(|e| (e.index, e.key.as_str(), e.field.as_str())).collect();
    assert_eq!(errors, [(1, "faulty", "audience"), (2, "Bad Key", "key"), (3, "known", "key")]);
    assert_eq!((response.total_errors, response.experiments.len()), (3, 0));
    assert_eq!(fixture.all_keys().await, ["known"]);
    let twice = fixture.apply(vec![experiment("good", 2, 10), experiment("good", 2, 10)]).await.unwrap();
    assert_eq!((twice.total_errors, fixture.all_keys().await.len()), (1, 1));
    // One experiment that is too large for a message is named, and the other one is not created either.
    let mut pins = experiment("pins", 2, 10);
    let units = (0..9_000).map(|n| format!("{n:0>200}")).collect();
    pins.overrides = vec![v1::Override { units, variation: "v1".to_owned(), ..v1::Override::default() }];
    let refused = fixture.apply(vec![experiment("good", 2, 10), pins]).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("\"pins\""), "{refused}");
    assert_eq!(fixture.all_keys().await, ["known"]);
    fixture.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn audience_reports_that_do_not_fit_are_counted() {
    const EXPERIMENTS: usize = 800;
    let mut fixture = Fixture::start().await;
    let with_audience = |n: usize| {
        let attributes = (0..19).map(|i| format!("{}_{i} == 1", "attribute".repeat(20)));
        let audience = attributes.collect::<Vec<_>>().join(" && ");
        v1::Experiment { audience, ..experiment(&format!("e{n:03}"), 2, 10) }
    };
    let response = fixture.apply((0..EXPERIMENTS).map(with_audience).collect()).await.unwrap();
    let reports = response.experiments.iter().filter(|one| one.audience_report.is_some()).count();
    assert!(reports > 50 && response.reports_left_out > 50, "{reports} {}", response.reports_left_out);
    assert_eq!((response.experiments.len(), reports + response.reports_left_out as usize), (EXPERIMENTS, EXPERIMENTS));
    fixture.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_about_changed_audiences_of_many_started_experiments_fits() {
    const EXPERIMENTS: usize = 1_000;
    let mut fixture = Fixture::start().await;
    let declared = |n: usize| experiment(&format!("e{n:03}"), 2, 10);
    let created = fixture.apply((0..EXPERIMENTS).map(declared).collect()).await.unwrap();
    let attributes = (0..19).map(|i| format!("{}_{i} == 1", "attribute".repeat(20)));
    let audience = attributes.collect::<Vec<_>>().join(" && ");
    let changed = created.experiments.iter().enumerate().map(|(n, applied)| v1::ApplyExperimentsRequest {
        validate_only: false,
        declarations: vec![v1::ExperimentDeclaration {
            experiment: Some(v1::Experiment { audience: audience.clone(), ..declared(n) }),
            etag: applied.etag.clone(),
            start: false,
        }],
    });
    let changed: Vec<_> = changed.collect();
    let response = fixture.experiments.apply_experiments(tokio_stream::iter(changed)).await.unwrap().into_inner();
    let with_change = response.experiments.iter().filter(|one| !one.audience_change.is_empty()).count();
    assert!(with_change > 50 && response.reports_left_out > 50, "{with_change} {}", response.reports_left_out);
    assert_eq!((response.experiments.len(), response.total_errors), (EXPERIMENTS, 0));
    fixture.server.shutdown().await.unwrap();
}
