//! Measures how long a change takes to reach 1,000 clients, compared with a message on a bare gRPC stream to 1,000
//! listeners.
//!
//! ```text
//! ulimit -n 8192 && cargo bench -p inroad-server --bench fanout -- [--quick] [--json] [--clients 1000]
//! ```
//!
//! Inroad is measured from before the call `GrowVariation` or `Kill` until a client reports its new snapshot. That
//! includes the call, a commit on disk, the message to all clients, decoding, checks and the replacement of the
//! snapshot. Clients are `inroad_sdk::Client`, each with its own stream and TCP connection. The baseline is measured
//! from before a prepared message of the same content is put into a broadcast channel until a listener has decoded it,
//! with the same tonic settings and the same number of connections. Everything runs in one process and one runtime. The
//! sides alternate in going first; every round uses another experiment, so that all messages have the same size.
//!
//! With `--bare`, the real server has plain listeners as well, which leaves only the cost of the server itself.

#![allow(clippy::print_stdout)]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::baseline::Baseline;
use harness::bench_server::{BenchServer, connect, key};
use harness::{BenchArgs, BenchReport, BenchResult, PairedRounds, Target, cpu_seconds};
use inroad_sdk::{Client, Context};
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::grow_variation_request::Amount;
use inroad_wire::v1::{
    AssignResponse, BatchAssignResponse, GrowVariationRequest, KillRequest, WatchSnapshotsRequest,
    WatchSnapshotsResponse,
};
use prost::Message;
use tokio::sync::{Notify, mpsc};

const WARM_UP: usize = 2;
/// Clients report what they have applied within 300 ms. That work must not fall into the next turn.
const PAUSE_BETWEEN_TURNS: Duration = Duration::from_millis(400);
const LIMIT: Duration = Duration::from_secs(20);

/// When each listener received the same change.
struct Arrivals {
    base: Instant,
    at: Vec<AtomicU64>,
    left: AtomicUsize,
    all: Notify,
}

impl Arrivals {
    fn new(listeners: usize) -> Arc<Self> {
        let at = (0..listeners).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { base: Instant::now(), at, left: AtomicUsize::new(0), all: Notify::new() })
    }

    fn record_arrival(&self, listener: usize) {
        self.at[listener].store(self.base.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.notify_one();
        }
    }

    /// Starts a round in which all listeners receive one change. Returns its start.
    fn start_round(&self) -> u64 {
        self.left.store(self.at.len(), Ordering::Release);
        self.base.elapsed().as_nanos() as u64
    }

    /// The median and the 99th percentile of arrival, in milliseconds since `begun`.
    async fn wait_for_all(&self, begun: u64) -> BenchResult<[f64; 2]> {
        tokio::time::timeout(LIMIT, self.all.notified())
            .await
            .map_err(|_| "not all listeners received the change in time")?;
        let mut at: Vec<u64> = self.at.iter().map(|at| at.load(Ordering::Relaxed) - begun).collect();
        at.sort_unstable();
        Ok([0.5, 0.99].map(|q| at[(q * (at.len() - 1) as f64).round() as usize] as f64 / 1e6))
    }
}

/// The measured server and its clients.
struct InroadSide {
    server: BenchServer,
    clients: Vec<Client>,
    arrivals: Arc<Arrivals>,
    /// The messages sent to one additional watcher.
    sent: mpsc::UnboundedReceiver<WatchSnapshotsResponse>,
}

impl InroadSide {
    async fn start(clients: usize, experiments: usize, bare: bool) -> BenchResult<Self> {
        let server = BenchServer::start(experiments).await?;
        let arrivals = Arrivals::new(clients);
        if bare {
            listen(&server.address, &arrivals).await?;
        }
        let built = if bare { Vec::new() } else { connect_clients(&server.address, clients).await? };
        for (n, client) in built.iter().enumerate() {
            let (mut changes, arrivals) = (client.subscribe(), Arc::clone(&arrivals));
            changes.mark_unchanged();
            tokio::spawn(async move {
                while changes.changed().await.is_ok() {
                    arrivals.record_arrival(n);
                }
            });
        }
        let mut watcher = AssignmentServiceClient::new(connect(&server.address).await?);
        let mut messages = watcher.watch_snapshots(WatchSnapshotsRequest::default()).await?.into_inner();
        // A large snapshot arrives in parts.
        while messages.message().await?.is_some_and(|part| part.complete_version > 0 && !part.last_part) {}
        let (sender, sent) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                // Messages without an experiment are heartbeats.
                if !message.experiments.is_empty() {
                    let _ = sender.send(message);
                }
            }
        });
        Ok(Self { server, clients: built, arrivals, sent })
    }

    /// Makes one change. Returns its arrival times and the duration of the call itself, in milliseconds.
    async fn change(&mut self, change: Change, experiment: usize) -> BenchResult<([f64; 2], f64)> {
        let key = key(experiment);
        let begun = self.arrivals.start_round();
        let at = Instant::now();
        match change {
            Change::Grow => {
                let (variation, amount) = ("blue".to_owned(), Some(Amount::ToShare(0.2)));
                let request = GrowVariationRequest { key, variation, amount, etag: String::new() };
                self.server.experiments.grow_variation(request).await?;
            }
            Change::Kill => {
                self.server.experiments.kill(KillRequest { key, variation: String::new() }).await?;
            }
        }
        let call = at.elapsed().as_secs_f64() * 1e3;
        Ok((self.arrivals.wait_for_all(begun).await?, call))
    }

    /// The message that the last change was sent as.
    async fn message(&mut self) -> BenchResult<WatchSnapshotsResponse> {
        Ok(tokio::time::timeout(LIMIT, self.sent.recv()).await?.ok_or("the stream ended")?)
    }
}

/// Clients that have received their first snapshot.
async fn connect_clients(address: &str, clients: usize) -> BenchResult<Vec<Client>> {
    let mut built: Vec<Client> = Vec::new();
    while built.len() < clients {
        // In groups: a thousand clients at once would overload the machine.
        let first = built.len();
        for _ in first..clients.min(first + 50) {
            built.push(Client::builder(address).connect_timeout(LIMIT).build()?);
        }
        for client in &built[first..] {
            if !client.ready(LIMIT).await {
                return Err(format!("a client did not connect: {:?}", client.status()).into());
            }
        }
    }
    Ok(built)
}

/// Opens a stream for every listener in `arrivals` and records each message that changes an experiment.
async fn listen(address: &str, arrivals: &Arc<Arrivals>) -> BenchResult<()> {
    for n in 0..arrivals.at.len() {
        let mut client = AssignmentServiceClient::new(connect(address).await?);
        let mut messages = client.watch_snapshots(WatchSnapshotsRequest::default()).await?.into_inner();
        let arrivals = Arc::clone(arrivals);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                // A real server sends the whole snapshot first, and heartbeats.
                if !message.full && !message.experiments.is_empty() {
                    arrivals.record_arrival(n);
                }
            }
        });
    }
    Ok(())
}

/// The baseline service and its listeners.
struct BaselineSide {
    baseline: Baseline,
    arrivals: Arc<Arrivals>,
}

impl BaselineSide {
    async fn start(listeners: usize) -> BenchResult<Self> {
        let baseline = Baseline::start(AssignResponse::default(), BatchAssignResponse::default()).await?;
        let arrivals = Arrivals::new(listeners);
        listen(&baseline.address, &arrivals).await?;
        Ok(Self { baseline, arrivals })
    }

    async fn send(&self, message: WatchSnapshotsResponse) -> BenchResult<[f64; 2]> {
        let begun = self.arrivals.start_round();
        self.baseline.messages.send(message)?;
        self.arrivals.wait_for_all(begun).await
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Grow,
    Kill,
}

/// The figures of one kind of change.
#[derive(Default)]
struct ChangeFigures {
    p50: PairedRounds,
    p99: PairedRounds,
    cpu: PairedRounds,
    calls: Vec<f64>,
    bytes: usize,
}

async fn run(args: BenchArgs) -> BenchResult<()> {
    let rounds = args.number("--rounds", if args.quick() { 3 } else { 20 });
    let clients = args.number("--clients", if args.quick() { 200 } else { 1_000 });
    let experiments = args.number("--experiments", 50).max(rounds + WARM_UP);
    check_open_files(4 * clients + 200)?;
    let mut inroad = InroadSide::start(clients, experiments, args.has("--bare")).await?;
    let baseline_side = BaselineSide::start(clients).await?;
    let mut figures = [ChangeFigures::default(), ChangeFigures::default()];
    let mut ready: [Option<WatchSnapshotsResponse>; 2] = [None, None];
    for round in 0..rounds + WARM_UP {
        for (kind, change) in [Change::Grow, Change::Kill].into_iter().enumerate() {
            let (mut measured, mut baseline) = (None, None);
            let (mut cpu, mut baseline_cpu) = (0.0, 0.0);
            for turn in 0..2 {
                tokio::time::sleep(PAUSE_BETWEEN_TURNS).await;
                let before = cpu_seconds();
                // Inroad goes first in the first round, because the baseline sends the same message.
                if turn == round % 2 {
                    measured = Some(inroad.change(change, round).await?);
                    cpu = cpu_seconds() - before;
                    ready[kind] = Some(WatchSnapshotsResponse { full: false, ..inroad.message().await? });
                } else {
                    baseline = Some(baseline_side.send(ready[kind].clone().unwrap_or_default()).await?);
                    baseline_cpu = cpu_seconds() - before;
                }
            }
            let figures = &mut figures[kind];
            if let (Some((inroad, call)), Some(baseline), true) = (measured, baseline, round >= WARM_UP) {
                figures.p50.push(inroad[0], baseline[0]);
                figures.p99.push(inroad[1], baseline[1]);
                figures.cpu.push(cpu * 1e3, baseline_cpu * 1e3);
                figures.calls.push(call);
                figures.bytes = ready[kind].as_ref().map_or(0, Message::encoded_len);
            }
        }
        let killed = |client: &Client| {
            client.evaluate(&key(round), &Context::new("user-1")).reason() == inroad_sdk::Reason::Killed
        };
        if !inroad.clients.iter().all(killed) {
            return Err("a client received the kill and does not apply it".into());
        }
    }
    let mut report = BenchReport::new("fanout", &args);
    for (name, f) in ["Grow", "Kill"].iter().zip(&figures) {
        report.add_comparison(&format!("{name}, median client"), "ms", &f.p50, Some(Target::AtMost(1.5)));
        report.add_comparison(&format!("{name}, 99th percentile"), "ms", &f.p99, Some(Target::AtMost(1.5)));
        report.add_comparison(&format!("{name}, CPU of server and clients"), "ms", &f.cpu, None);
        let call = harness::median(&f.calls);
        report
            .add_note(format!("{name}: a message of {} bytes; the call itself returned after {call:.2} ms.", f.bytes));
    }
    report.add_note(format!(
        "{rounds} rounds; {clients} clients, each on its own connection, and as many listeners; {experiments} experiments."
    ));
    report.print();
    Ok(())
}

/// Checks the limit on open files: both ends of every connection belong to this process.
fn check_open_files(needed: usize) -> BenchResult<()> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let soft: usize = line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    if soft < needed {
        return Err(format!("{needed} open files are needed and {soft} are allowed: run `ulimit -n 8192` first").into());
    }
    Ok(())
}

fn main() -> BenchResult<()> {
    harness::runtime()?.block_on(run(BenchArgs::read()))
}
