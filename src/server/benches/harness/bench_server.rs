//! A real server in a temporary folder, with running experiments.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use inroad_server::{RunningServer, Server, ServerConfig};
use inroad_wire::v1::experiment_service_client::ExperimentServiceClient;
use inroad_wire::v1::payload::Value;
use inroad_wire::v1::{
    AssignRequest, CreateExperimentRequest, Experiment, ExposureMode, ManualPolicy, Metric, Payload, Policy,
    StartExperimentRequest, Variation, policy,
};
use prost_types::value::Kind;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::BenchResult;

/// The measured server.
pub(crate) struct BenchServer {
    /// Its address.
    pub(crate) address: String,
    /// A client for changing experiments.
    pub(crate) experiments: ExperimentServiceClient<Channel>,
    server: RunningServer,
    folder: TempDir,
}

impl BenchServer {
    /// Starts a server with this number of running experiments: `exp-000`, `exp-001`, ….
    pub(crate) async fn start(experiments: usize) -> BenchResult<Self> {
        Self::with_variations(experiments, 2).await
    }

    /// The same with this number of variations besides control (at most 9), each with a tenth of the traffic.
    pub(crate) async fn with_variations(experiments: usize, variations: usize) -> BenchResult<Self> {
        // In target/, which is on a real disk. /tmp may be in memory, where a commit costs nothing.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let config = ServerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            folder: folder.path().join("data"),
            ..ServerConfig::default()
        };
        let server = Server::start(config).await?;
        let address = format!("http://{}", server.local_addr());
        let channel = connect(&address).await?;
        let mut server = Self { address, experiments: ExperimentServiceClient::new(channel), server, folder };
        for n in 0..experiments {
            let experiment = Some(experiment_definition(n, variations));
            server.experiments.create_experiment(CreateExperimentRequest { experiment, validate_only: false }).await?;
            let start = StartExperimentRequest { key: key(n), etag: String::new() };
            server.experiments.start_experiment(start).await?;
        }
        Ok(server)
    }

    /// A folder on the same disk, for other files of a bench.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Shuts the server down.
    pub(crate) async fn shutdown(self) -> BenchResult<()> {
        Ok(self.server.shutdown().await?)
    }
}

/// Opens a new connection.
pub(crate) async fn connect(address: &str) -> BenchResult<Channel> {
    Ok(Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true).connect().await?)
}

/// The key of the n-th experiment.
pub(crate) fn key(n: usize) -> String {
    format!("exp-{n:03}")
}

/// An experiment with a manual policy: control, variations with a tenth of the traffic each, and one conversion metric.
fn experiment_definition(n: usize, variations: usize) -> Experiment {
    let named = [("blue", "#0969da"), ("red", "#d1242f")];
    let others = (named.len()..variations).map(|i| (format!("colour-{i}"), "#8250df"));
    let named = named.into_iter().map(|(key, colour)| (key.to_owned(), colour));
    let treated: Vec<_> = named.chain(others).take(variations).collect();
    let treated = treated.iter().map(|(key, colour)| (key.as_str(), *colour));
    let variation = |key: &str, colour: &str| Variation {
        key: key.to_owned(),
        payload: Some(Payload { value: Some(Value::StringValue(colour.to_owned())) }),
        initial_share: (key != "control").then_some(0.1),
        ..Variation::default()
    };
    Experiment {
        key: key(n),
        description: "The colour of a button".to_owned(),
        variations: [("control", "#1a7f37")]
            .into_iter()
            .chain(treated)
            .map(|(key, colour)| variation(key, colour))
            .collect(),
        metrics: vec![Metric {
            key: "purchase".to_owned(),
            event: "purchase".to_owned(),
            decision: true,
            ..Metric::default()
        }],
        policy: Some(Policy { kind: Some(policy::Kind::Manual(ManualPolicy { floor: 0.05, tick: None })) }),
        ..Experiment::default()
    }
}

/// A typical request: a unit key and four attributes.
pub(crate) fn assign_request(experiment: usize, unit: usize, exposure: ExposureMode) -> AssignRequest {
    let text = |text: String| prost_types::Value { kind: Some(Kind::StringValue(text)) };
    let number = |number: f64| prost_types::Value { kind: Some(Kind::NumberValue(number)) };
    let fields = BTreeMap::from([
        ("targetingKey".to_owned(), text(format!("user-{unit:07}"))),
        ("country".to_owned(), text("fr".to_owned())),
        ("plan".to_owned(), text("premium".to_owned())),
        ("platform".to_owned(), text("ios".to_owned())),
        ("version".to_owned(), number(42.0)),
    ]);
    let context = Some(prost_types::Struct { fields });
    AssignRequest { experiment: key(experiment), context, exposure: exposure.into() }
}
