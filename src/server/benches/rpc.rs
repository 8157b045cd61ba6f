//! What an answer over the network costs, beside a gRPC call that does nothing: `Assign` and `BatchAssign` of a real
//! server against a tonic service with the same settings, which reads the same request and returns a ready answer of the
//! same size.
//!
//! ```text
//! cargo bench -p inroad-server --bench rpc -- [--quick] [--json]
//! ```
//!
//! Both sides, and the callers of both, run in one process and one runtime: 4 connections, 64 callers on each (batches: 2
//! on each), every caller with one call under way at a time. Rounds alternate; what is quoted is the median of the rounds'
//! ratios. What the callers themselves cost is in both sides' figures.

#![allow(clippy::print_stdout)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::floor::Floor;
use common::world::{World, connect, question};
use common::{Fallible, Flags, Pairs, Report, Target, cpu_seconds};
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::{AssignRequest, BatchAssignRequest, ExposureMode, Reason};
use prost::Message;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

const CONNECTIONS: usize = 4;
const EXPERIMENTS: usize = 20;
const UNITS: usize = 10_000;
const BATCH: usize = 1_000;

type Client = AssignmentServiceClient<Channel>;

/// A call that can be made again and again.
trait Call: Clone + Send + Sync + 'static {
    /// Makes it, and says whether the answer is what it should be.
    fn make(self, client: &mut Client) -> impl Future<Output = Result<bool, Status>> + Send;
}

impl Call for AssignRequest {
    async fn make(self, client: &mut Client) -> Result<bool, Status> {
        Ok(client.assign(self).await?.get_ref().reason() == Reason::Split)
    }
}

impl Call for BatchAssignRequest {
    async fn make(self, client: &mut Client) -> Result<bool, Status> {
        Ok(client.batch_assign(self).await?.get_ref().responses.len() == BATCH)
    }
}

/// What one side did in one round.
struct Round {
    per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
    cpu_micros: f64,
}

/// Calls for `length`, from `callers` tasks on each connection.
async fn round<C: Call>(clients: &[Client], callers: usize, pool: &Arc<Vec<C>>, length: Duration) -> Fallible<Round> {
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let mut tasks = JoinSet::new();
    for caller in 0..clients.len() * callers {
        let (mut client, pool) = (clients[caller % clients.len()].clone(), Arc::clone(pool));
        tasks.spawn(async move {
            let mut took = Vec::with_capacity(4096);
            // Callers are far apart in the pool, and all of them go through all of it.
            for call in pool.iter().cycle().skip(caller * 7919 % pool.len()) {
                let call = call.clone();
                let at = Instant::now();
                if at - begun >= length {
                    break;
                }
                if !call.make(&mut client).await? {
                    return Err(Status::internal("not the answer that was to be measured"));
                }
                took.push(at.elapsed().as_nanos() as f64 / 1e3);
            }
            Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = tasks.join_next().await {
        took.extend(done??);
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    took.sort_by(f64::total_cmp);
    let calls = took.len() as f64;
    let at = |q: f64| took.get((q * (calls - 1.0)).round() as usize).copied().unwrap_or(f64::NAN);
    Ok(Round { per_second: calls / seconds, p50_micros: at(0.5), p99_micros: at(0.99), cpu_micros: cpu * 1e6 / calls })
}

/// Both sides in turn, and now the one first, now the other.
#[derive(Default)]
struct Comparison {
    per_second: Pairs,
    p50: Pairs,
    p99: Pairs,
    cpu: Pairs,
}

struct Plan {
    rounds: usize,
    length: Duration,
}

async fn compare<C: Call>(plan: &Plan, sides: &[Vec<Client>; 2], callers: usize, pool: Vec<C>) -> Fallible<Comparison> {
    let pool = Arc::new(pool);
    for side in sides {
        round(side, callers, &pool, plan.length).await?;
    }
    let mut comparison = Comparison::default();
    for n in 0..plan.rounds {
        let first = n % 2;
        let one = round(&sides[first], callers, &pool, plan.length).await?;
        let two = round(&sides[1 - first], callers, &pool, plan.length).await?;
        let (ours, floor) = if first == 0 { (one, two) } else { (two, one) };
        comparison.per_second.push(ours.per_second, floor.per_second);
        comparison.p50.push(ours.p50_micros, floor.p50_micros);
        comparison.p99.push(ours.p99_micros, floor.p99_micros);
        comparison.cpu.push(ours.cpu_micros, floor.cpu_micros);
    }
    Ok(comparison)
}

async fn clients(address: &str) -> Fallible<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(AssignmentServiceClient::new(connect(address).await?));
    }
    Ok(clients)
}

/// Asks for every unit until each of its exposures is in the log, or known to be on its way there.
async fn expose_all(client: &mut Client, pool: &[AssignRequest]) -> Fallible<()> {
    for batch in pool.chunks(BATCH) {
        let answers = client.batch_assign(BatchAssignRequest { requests: batch.to_vec() }).await?.into_inner();
        if !answers.responses.iter().all(|answer| answer.exposure_recorded) {
            return Err("the queue of exposures is full".into());
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

async fn run(flags: Flags) -> Fallible<()> {
    let quick = flags.quick();
    let rounds = flags.number("--rounds", if quick { 3 } else { 15 });
    let plan = Plan { rounds, length: Duration::from_millis(if quick { 300 } else { 2_000 }) };
    let world = World::start(EXPERIMENTS).await?;
    let questions =
        |exposure| (0..UNITS).map(|unit| question(unit % EXPERIMENTS, unit, exposure)).collect::<Vec<AssignRequest>>();
    let (silent, exposing) = (questions(ExposureMode::None), questions(ExposureMode::Background));
    let batches: Vec<_> = silent.chunks(BATCH).map(|c| BatchAssignRequest { requests: c.to_vec() }).collect();

    let ours = clients(&world.address).await?;
    let answer = ours[0].clone().assign(silent[0].clone()).await?.into_inner();
    let answers = ours[0].clone().batch_assign(batches[0].clone()).await?.into_inner();
    let sizes = [silent[0].encoded_len(), answer.encoded_len(), batches[0].encoded_len(), answers.encoded_len()];
    let floor = Floor::start(answer, answers).await?;
    let sides = [ours, clients(&floor.address).await?];

    let mut report = Report::new("rpc", &flags);
    let mut rows = |name: &str, c: &Comparison, throughput: f64, tail: Option<f64>| {
        report.compare(&format!("{name}, throughput"), "/s", &c.per_second, Some(Target::AtLeast(throughput)));
        report.compare(&format!("{name}, p50"), "µs", &c.p50, None);
        report.compare(&format!("{name}, p99"), "µs", &c.p99, tail.map(Target::AtMost));
        report.compare(&format!("{name}, CPU of a call and its caller"), "µs", &c.cpu, None);
    };
    let only = |name: &str| flags.has(name) || !["--assign", "--background", "--batch"].iter().any(|w| flags.has(w));
    if only("--assign") {
        rows("Assign", &compare(&plan, &sides, 64, silent).await?, 0.9, Some(1.2));
    }
    if only("--background") {
        expose_all(&mut sides[0][0].clone(), &exposing).await?;
        rows("Assign with exposure", &compare(&plan, &sides, 64, exposing).await?, 0.9, Some(1.2));
    }
    if only("--batch") {
        rows("BatchAssign of 1,000", &compare(&plan, &sides, 2, batches).await?, 0.5, None);
    }
    let [question, answer, questions, answers] = sizes;
    report.note(format!(
        "{rounds} rounds of {:?}; {CONNECTIONS} connections × 64 callers (batches: × 2). Bytes of a question {question}, of \
         its answer {answer}; of a batch {questions}, {answers}. Exposures over {UNITS} units, all recorded before.",
        plan.length
    ));
    report.print();
    world.shutdown().await
}

fn main() -> Fallible<()> {
    common::runtime()?.block_on(run(Flags::read()))
}
