//! The cost of one local evaluation: Inroad, a bare MD5 of the same bytes, and two other SDKs that also decide in
//! process. Everything runs in one process on one thread, in many short rounds that alternate between the contenders.
//! The medians of the rounds are printed. Ratios are medians of the ratios within a round, so that a temporary slowdown
//! of the machine affects all contenders. `--json` prints JSON; `--rounds N` and `--iterations N` change the duration.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use eppo_core::ufc::UniversalFlagConfig;
use eppo_core::{Attributes, Configuration, SdkMetadata, Str};
use inroad_assignment::UnitKey;
use inroad_sdk::{Client, Context, ServedExperiment};
use inroad_wire::v1;
use inroad_wire::v1::assignment_service_server::{AssignmentService, AssignmentServiceServer};
use md5::{Digest, Md5};
use serde_json::json;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use unleash_yggdrasil::{Context as UnleashContext, EngineState, UpdateMessage};

const EXPERIMENTS: usize = 100;
const KEY: &str = "checkout-button";
const SALT: &str = "Zk3vT9qLw0Xy";
const VARIATIONS: [&str; 4] = ["control", "green", "large", "sticky"];
/// Units are visited in turn, so that no branch predictor learns one answer.
const UNITS: usize = 1024;

type BoxError = Box<dyn std::error::Error>;

struct Contender<'a> {
    name: &'static str,
    run: Box<dyn FnMut(usize) + 'a>,
    rounds: Vec<f64>,
}

fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = args.iter().position(|a| a == name);
        at.and_then(|at| args.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    let (rounds, iterations) = (option("--rounds", 301), option("--iterations", 5_000));

    let runtime = tokio::runtime::Runtime::new()?;
    let client = runtime.block_on(inroad_client())?;
    let units: Vec<String> = (0..UNITS).map(|n| format!("user-{}", 123_456 + n * 7)).collect();
    let contexts: Vec<Context> = units.iter().map(Context::new).collect();
    let hashed_bytes: Vec<Vec<u8>> = units.iter().map(|u| format!("{KEY}:{SALT}:{u}").into_bytes()).collect();
    check(&client, &contexts, &hashed_bytes)?;

    let pinned = client.snapshot();
    let served: &ServedExperiment = pinned.get(KEY).ok_or("the experiment is not served")?;
    let hasher =
        inroad_assignment::UnitHasher::new(&served.parts().key, served.parts().salt.as_ref().ok_or("no salt")?);
    let (eppo, eppo_units, no_attributes, now) = eppo(&units)?;
    let (unleash, unleash_contexts) = unleash(&units)?;

    let mut contenders = vec![
        Contender::new("md-5 0.11, bare digest", |i| {
            black_box(Md5::digest(black_box(hashed_bytes[i].as_slice())));
        }),
        Contender::new("inroad evaluate", |i| {
            black_box(client.evaluate(black_box(KEY), black_box(&contexts[i])));
        }),
        Contender::new("inroad evaluate, value read", |i| {
            black_box(client.evaluate(black_box(KEY), black_box(&contexts[i])).string("blue").len());
        }),
        Contender::new("inroad pinned evaluate", |i| {
            black_box(pinned.evaluate(black_box(KEY), black_box(&contexts[i])));
        }),
        Contender::new("inroad assign, repeated", |i| {
            black_box(client.assign(black_box(KEY), black_box(&contexts[i])));
        }),
        Contender::new("inroad hash alone", |i| {
            if let Ok(unit) = UnitKey::parse(black_box(&units[i])) {
                black_box(hasher.digest(unit));
            }
        }),
        Contender::new("eppo_core 10.0.0", |i| {
            let answer = eppo_core::eval::get_assignment(
                Some(&eppo),
                black_box(KEY),
                black_box(&eppo_units[i]),
                &no_attributes,
                None,
                now,
            );
            black_box(&answer);
        }),
        Contender::new("unleash-yggdrasil 0.21.7", |i| {
            black_box(unleash.get_variant(black_box(KEY), black_box(&unleash_contexts[i]), &None));
        }),
    ];
    for round in 0..=rounds {
        for contender in &mut contenders {
            let elapsed = contender.time(iterations);
            // The first round is a warm-up: it fills caches and records the exposures.
            if round > 0 {
                contender.rounds.push(elapsed.as_secs_f64() * 1e9 / iterations as f64);
            }
        }
    }
    report(&contenders, rounds, iterations, args.iter().any(|a| a == "--json"));
    Ok(())
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, mut once: impl FnMut(usize) + 'a) -> Self {
        // The loop is inside the boxed closure, so that the measured code is inlined into it as into a real caller.
        let run = Box::new(move |iterations: usize| (0..iterations).for_each(|n| once(n % UNITS)));
        Self { name, run, rounds: Vec::new() }
    }

    fn time(&mut self, iterations: usize) -> Duration {
        let started = Instant::now();
        (self.run)(iterations);
        started.elapsed()
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

fn report(contenders: &[Contender<'_>], rounds: usize, iterations: usize, as_json: bool) {
    let ratio =
        |of: usize, to: usize| median(contenders[of].rounds.iter().zip(&contenders[to].rounds).map(|(a, b)| a / b));
    if as_json {
        let rows = contenders.iter().enumerate().map(|(i, c)| {
            json!({ "name": c.name, "ns": median(c.rounds.iter().copied()), "to_md5": ratio(i, 0), "to_inroad": ratio(i, 1) })
        });
        println!("{}", json!({ "rounds": rounds, "iterations": iterations, "rows": rows.collect::<Vec<_>>() }));
        return;
    }
    println!("{EXPERIMENTS} experiments, 4 variations, {UNITS} units; medians of {rounds} rounds of {iterations}\n");
    println!("{:<30}{:>10}{:>12}{:>14}", "", "ns/call", "x bare md5", "x inroad");
    for (i, c) in contenders.iter().enumerate() {
        let ns = median(c.rounds.iter().copied());
        println!("{:<30}{ns:>10.1}{:>12.2}{:>14.2}", c.name, ratio(i, 0), ratio(i, 1));
    }
}

/// Checks that Inroad hashes each unit to the bare digest, and that every variation is served with its value.
fn check(client: &Client, contexts: &[Context], hashed_bytes: &[Vec<u8>]) -> Result<(), BoxError> {
    let mut seen = std::collections::BTreeSet::new();
    for (context, bytes) in contexts.iter().zip(hashed_bytes) {
        let decision = client.evaluate(KEY, context);
        let digest = decision.digest().ok_or("the unit was not hashed")?;
        if digest.as_bytes() != Md5::digest(bytes).as_slice() {
            return Err("the digests differ".into());
        }
        seen.insert(decision.string("").to_owned());
    }
    if seen.len() == VARIATIONS.len() { Ok(()) } else { Err(format!("not every variation is served: {seen:?}").into()) }
}

/// A client that received its snapshot over the network, as every client does.
async fn inroad_client() -> Result<Client, BoxError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tonic::transport::Server::builder().add_service(AssignmentServiceServer::new(Snapshots));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let client = Client::builder(format!("http://{address}")).build()?;
    if client.ready(Duration::from_secs(10)).await { Ok(client) } else { Err("no snapshot".into()) }
}

struct Snapshots;

#[tonic::async_trait]
impl AssignmentService for Snapshots {
    type WatchSnapshotsStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::WatchSnapshotsResponse, Status>> + Send>>;

    async fn assign(&self, _: Request<v1::AssignRequest>) -> Result<Response<v1::AssignResponse>, Status> {
        Err(Status::unimplemented("not part of this benchmark"))
    }

    async fn batch_assign(
        &self,
        _: Request<v1::BatchAssignRequest>,
    ) -> Result<Response<v1::BatchAssignResponse>, Status> {
        Err(Status::unimplemented("not part of this benchmark"))
    }

    async fn watch_snapshots(
        &self,
        _: Request<v1::WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let names = (1..EXPERIMENTS).map(|n| format!("experiment-{n}")).chain([KEY.to_owned()]);
        let message = v1::WatchSnapshotsResponse {
            version: 1,
            store_id: "bench".to_owned(),
            full: true,
            experiments: names.map(experiment).collect(),
            ..Default::default()
        };
        use tokio_stream::StreamExt as _;
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(message)).chain(tokio_stream::pending()))))
    }

    async fn report_client(
        &self,
        _: Request<v1::ReportClientRequest>,
    ) -> Result<Response<v1::ReportClientResponse>, Status> {
        Err(Status::unimplemented("not part of this benchmark"))
    }

    async fn list_clients(
        &self,
        _: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsResponse>, Status> {
        Err(Status::unimplemented("not part of this benchmark"))
    }

    async fn get_reach(&self, _: Request<v1::GetReachRequest>) -> Result<Response<v1::GetReachResponse>, Status> {
        Err(Status::unimplemented("not part of this benchmark"))
    }
}

/// A quarter of the line for each of four variations.
fn experiment(key: String) -> v1::ExperimentSnapshot {
    let variation = |key: &&str| v1::VariationSnapshot {
        key: (*key).to_owned(),
        payload: Some(v1::Payload { value: Some(v1::payload::Value::StringValue((*key).to_owned())) }),
        killed: false,
    };
    let bucket = |owner: u32| v1::Bucket { start: u64::from(owner) << 62, owner };
    v1::ExperimentSnapshot {
        key,
        version: 1,
        state: v1::State::Running.into(),
        generation: 1,
        salt: SALT.to_owned(),
        unit: "targetingKey".to_owned(),
        variations: VARIATIONS.iter().map(variation).collect(),
        revisions: vec![v1::Revision {
            number: 1,
            effective_at: Some(Default::default()),
            buckets: (0..4).map(bucket).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The same split in Eppo's own configuration format.
#[allow(clippy::type_complexity)]
fn eppo(units: &[String]) -> Result<(Configuration, Vec<Str>, Arc<Attributes>, DateTime<Utc>), BoxError> {
    let flag = |key: String| {
        let shards = |n: usize| json!([{ "salt": SALT, "ranges": [{ "start": n * 2500, "end": (n + 1) * 2500 }] }]);
        let split = |(n, v): (usize, &&str)| json!({ "variationKey": v, "shards": shards(n) });
        let splits: Vec<_> = VARIATIONS.iter().enumerate().map(split).collect();
        let variations: serde_json::Map<_, _> =
            VARIATIONS.iter().map(|v| ((*v).to_owned(), json!({ "key": v, "value": v }))).collect();
        (
            key.clone(),
            json!({
                "key": key, "enabled": true, "variationType": "STRING", "totalShards": 10_000, "variations": variations,
                "allocations": [{ "key": "all", "rules": [], "splits": splits, "doLog": true }],
            }),
        )
    };
    let flags: serde_json::Map<_, _> = names().map(flag).collect();
    let wire = json!({
        "createdAt": "2026-01-01T00:00:00Z", "format": "SERVER", "environment": { "name": "bench" }, "flags": flags,
    });
    let metadata = SdkMetadata { name: "bench", version: "0" };
    let config = UniversalFlagConfig::from_json(metadata, serde_json::to_vec(&wire)?)?;
    let config = Configuration::from_server_response(config, None);
    let units: Vec<Str> = units.iter().map(|u| Str::from(u.as_str())).collect();
    let (no_attributes, now) = (Arc::new(Attributes::default()), Utc::now());
    let mut seen = std::collections::BTreeSet::new();
    for unit in &units {
        let answer = eppo_core::eval::get_assignment(Some(&config), KEY, unit, &no_attributes, None, now)?;
        seen.insert(answer.and_then(|a| a.value.as_str().map(str::to_owned)));
    }
    if seen.len() != VARIATIONS.len() || seen.contains(&None) {
        return Err(format!("the Eppo flag does not serve all variations: {seen:?}").into());
    }
    Ok((config, units, no_attributes, now))
}

/// The same split as four weighted variants, sticky by user, in Unleash's own configuration format.
fn unleash(units: &[String]) -> Result<(EngineState, Vec<UnleashContext>), BoxError> {
    let variant = |v: &&str| {
        json!({
            "name": v, "weight": 250, "stickiness": "userId", "payload": { "type": "string", "value": v },
        })
    };
    let variants: Vec<_> = VARIATIONS.iter().map(variant).collect();
    let feature = |name: String| {
        json!({
            "name": name, "type": "experiment", "enabled": true, "strategies": [{
                "name": "flexibleRollout",
                "parameters": { "rollout": "100", "stickiness": "userId", "groupId": name },
            }], "variants": variants,
        })
    };
    let features = json!({ "version": 2, "features": names().map(feature).collect::<Vec<_>>() });
    let engine = EngineState::default();
    let warnings = engine.take_state(UpdateMessage::FullResponse(serde_json::from_value(features)?));
    if let Some(warnings) = warnings {
        return Err(format!("the Unleash flags do not compile: {} warnings", warnings.len()).into());
    }
    let context = |u: &String| UnleashContext { user_id: Some(u.clone()), ..UnleashContext::default() };
    let contexts: Vec<_> = units.iter().map(context).collect();
    let names: std::collections::BTreeSet<_> =
        contexts.iter().map(|c| engine.get_variant(KEY, c, &None).name).collect();
    if names.len() != VARIATIONS.len() || names.contains("disabled") {
        return Err(format!("the Unleash flag does not serve all variations: {names:?}").into());
    }
    Ok((engine, contexts))
}

fn names() -> impl Iterator<Item = String> {
    (1..EXPERIMENTS).map(|n| format!("experiment-{n}")).chain([KEY.to_owned()])
}
