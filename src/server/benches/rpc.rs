//! Measures the cost of an answer over the network: `Assign` and `BatchAssign` of a real server, compared with a tonic
//! service that has the same settings, reads the same request and returns a prepared answer of the same size.
//!
//! ```text
//! cargo bench -p inroad-server --bench rpc -- [--quick] [--json]
//! ```
//!
//! Both sides and their callers run in one process and one runtime: 4 connections, 64 callers on each (for batches: 2),
//! each caller with one call in progress. The sides take turns; the quoted figure is the median of the rounds' ratios.
//! The cost of the callers is included in the figures of both sides.

#![allow(clippy::print_stdout)]

mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::baseline::Baseline;
use harness::bench_server::{BenchServer, assign_request, connect};
use harness::{BenchArgs, BenchReport, BenchResult, PairedRounds, Target, cpu_seconds};
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

/// A call that can be repeated.
trait Call: Clone + Send + Sync + 'static {
    /// Makes the call; true if the answer is as expected.
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

/// The figures of one side in one round.
struct Round {
    per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
    cpu_micros: f64,
}

/// Makes calls for the duration `length`, from `callers` tasks on each connection.
async fn round<C: Call>(
    clients: &[Client],
    callers: usize,
    pool: &Arc<Vec<C>>,
    length: Duration,
) -> BenchResult<Round> {
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let mut tasks = JoinSet::new();
    for caller in 0..clients.len() * callers {
        let (mut client, pool) = (clients[caller % clients.len()].clone(), Arc::clone(pool));
        tasks.spawn(async move {
            let mut took = Vec::with_capacity(4096);
            // Callers start far apart in the pool, and each goes through all of it.
            for call in pool.iter().cycle().skip(caller * 7919 % pool.len()) {
                let call = call.clone();
                let at = Instant::now();
                if at - begun >= length {
                    break;
                }
                if !call.make(&mut client).await? {
                    return Err(Status::internal("unexpected answer"));
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

/// The paired rounds of both sides. The sides alternate in going first.
#[derive(Default)]
struct Comparison {
    per_second: PairedRounds,
    p50: PairedRounds,
    p99: PairedRounds,
    cpu: PairedRounds,
}

struct Plan {
    rounds: usize,
    length: Duration,
}

async fn compare<C: Call>(
    plan: &Plan,
    sides: &[Vec<Client>; 2],
    callers: usize,
    pool: Vec<C>,
) -> BenchResult<Comparison> {
    let pool = Arc::new(pool);
    for side in sides {
        round(side, callers, &pool, plan.length).await?;
    }
    let mut comparison = Comparison::default();
    for n in 0..plan.rounds {
        let first = n % 2;
        let one = round(&sides[first], callers, &pool, plan.length).await?;
        let two = round(&sides[1 - first], callers, &pool, plan.length).await?;
        let (inroad, baseline) = if first == 0 { (one, two) } else { (two, one) };
        comparison.per_second.push(inroad.per_second, baseline.per_second);
        comparison.p50.push(inroad.p50_micros, baseline.p50_micros);
        comparison.p99.push(inroad.p99_micros, baseline.p99_micros);
        comparison.cpu.push(inroad.cpu_micros, baseline.cpu_micros);
    }
    Ok(comparison)
}

async fn clients(address: &str) -> BenchResult<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(AssignmentServiceClient::new(connect(address).await?));
    }
    Ok(clients)
}

/// Assigns every unit once, so that its exposure is in the log or in the queue to it.
async fn expose_all(client: &mut Client, pool: &[AssignRequest]) -> BenchResult<()> {
    for batch in pool.chunks(BATCH) {
        let answers = client.batch_assign(BatchAssignRequest { requests: batch.to_vec() }).await?.into_inner();
        if !answers.responses.iter().all(|answer| answer.exposure_recorded) {
            return Err("the exposure queue is full".into());
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

async fn run(args: BenchArgs) -> BenchResult<()> {
    let quick = args.quick();
    let rounds = args.number("--rounds", if quick { 3 } else { 15 });
    let plan = Plan { rounds, length: Duration::from_millis(if quick { 300 } else { 2_000 }) };
    let server = BenchServer::start(EXPERIMENTS).await?;
    let requests = |exposure| {
        (0..UNITS).map(|unit| assign_request(unit % EXPERIMENTS, unit, exposure)).collect::<Vec<AssignRequest>>()
    };
    let (without_exposure, with_exposure) = (requests(ExposureMode::None), requests(ExposureMode::Background));
    let batches: Vec<_> = without_exposure.chunks(BATCH).map(|c| BatchAssignRequest { requests: c.to_vec() }).collect();

    let inroad = clients(&server.address).await?;
    let answer = inroad[0].clone().assign(without_exposure[0].clone()).await?.into_inner();
    let answers = inroad[0].clone().batch_assign(batches[0].clone()).await?.into_inner();
    let sizes =
        [without_exposure[0].encoded_len(), answer.encoded_len(), batches[0].encoded_len(), answers.encoded_len()];
    let baseline = Baseline::start(answer, answers).await?;
    let sides = [inroad, clients(&baseline.address).await?];

    let mut report = BenchReport::new("rpc", &args);
    let mut rows = |name: &str, c: &Comparison, throughput: f64, tail: Option<f64>| {
        report.add_comparison(&format!("{name}, throughput"), "/s", &c.per_second, Some(Target::AtLeast(throughput)));
        report.add_comparison(&format!("{name}, p50"), "µs", &c.p50, None);
        report.add_comparison(&format!("{name}, p99"), "µs", &c.p99, tail.map(Target::AtMost));
        report.add_comparison(&format!("{name}, CPU of a call and its caller"), "µs", &c.cpu, None);
    };
    let is_selected =
        |name: &str| args.has(name) || !["--assign", "--background", "--batch"].iter().any(|w| args.has(w));
    if is_selected("--assign") {
        rows("Assign", &compare(&plan, &sides, 64, without_exposure).await?, 0.9, Some(1.2));
    }
    if is_selected("--background") {
        expose_all(&mut sides[0][0].clone(), &with_exposure).await?;
        rows("Assign with exposure", &compare(&plan, &sides, 64, with_exposure).await?, 0.9, Some(1.2));
    }
    if is_selected("--batch") {
        rows("BatchAssign of 1,000", &compare(&plan, &sides, 2, batches).await?, 0.5, None);
    }
    let [request, answer, batch_request, batch_answer] = sizes;
    report.add_note(format!(
        "{rounds} rounds of {:?}; {CONNECTIONS} connections × 64 callers (batches: × 2). Bytes of a request {request}, of \
         its answer {answer}; of a batch {batch_request}, {batch_answer}. Exposures of {UNITS} units, all recorded before.",
        plan.length
    ));
    report.print();
    server.shutdown().await
}

fn main() -> BenchResult<()> {
    harness::runtime()?.block_on(run(BenchArgs::read()))
}
