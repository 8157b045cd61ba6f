//! How long a change takes to reach 1,000 clients, beside a message that a bare gRPC stream carries to 1,000 listeners.
//!
//! ```text
//! ulimit -n 8192 && cargo bench -p inroad-server --bench fanout -- [--quick] [--json] [--clients 1000]
//! ```
//!
//! Ours: from before the call `GrowVariation`, or `Kill`, until a client says that its snapshot is the new one. That is the
//! call itself, a commit on disk, the message to everybody, and there decoding, checks and the swap. Clients are real:
//! `inroad_sdk::Client`, each with its own stream on a TCP connection of its own. The floor: from before a ready message
//! of the same content is handed to a broadcast channel in the process, until a listener has decoded it; tonic with the
//! same settings, as many connections. All of it runs in one process and one runtime. Each side in turn, now the one
//! first, now the other; every round has a fresh experiment, so that messages have one size.
//!
//! With `--bare`, the real server's watchers are plain listeners too: what is left is what the server itself costs.

#![allow(clippy::print_stdout)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::floor::Floor;
use common::world::{World, connect, key};
use common::{Fallible, Flags, Pairs, Report, Target, cpu_seconds};
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
/// Clients report what they have applied within 300 ms; that work belongs to neither side's next turn.
const SETTLE: Duration = Duration::from_millis(400);
const LIMIT: Duration = Duration::from_secs(20);

/// When each of many heard of the same thing.
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

    fn hear(&self, listener: usize) {
        self.at[listener].store(self.base.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.notify_one();
        }
    }

    /// Everybody is to hear of what comes now.
    fn expect(&self) -> u64 {
        self.left.store(self.at.len(), Ordering::Release);
        self.base.elapsed().as_nanos() as u64
    }

    /// When half, and 99 of 100, had heard, in milliseconds since `begun`.
    async fn wait(&self, begun: u64) -> Fallible<[f64; 2]> {
        tokio::time::timeout(LIMIT, self.all.notified()).await.map_err(|_| "not everybody has heard of it")?;
        let mut at: Vec<u64> = self.at.iter().map(|at| at.load(Ordering::Relaxed) - begun).collect();
        at.sort_unstable();
        Ok([0.5, 0.99].map(|q| at[(q * (at.len() - 1) as f64).round() as usize] as f64 / 1e6))
    }
}

/// The side that is measured.
struct Ours {
    world: World,
    clients: Vec<Client>,
    arrivals: Arc<Arrivals>,
    /// What one more watcher was sent.
    sent: mpsc::UnboundedReceiver<WatchSnapshotsResponse>,
}

impl Ours {
    async fn start(clients: usize, experiments: usize, bare: bool) -> Fallible<Self> {
        let world = World::start(experiments).await?;
        let arrivals = Arrivals::new(clients);
        if bare {
            listen(&world.address, &arrivals).await?;
        }
        let built = if bare { Vec::new() } else { connect_clients(&world.address, clients).await? };
        for (n, client) in built.iter().enumerate() {
            let (mut changes, arrivals) = (client.subscribe(), Arc::clone(&arrivals));
            changes.mark_unchanged();
            tokio::spawn(async move {
                while changes.changed().await.is_ok() {
                    arrivals.hear(n);
                }
            });
        }
        let mut watcher = AssignmentServiceClient::new(connect(&world.address).await?);
        let mut messages = watcher.watch_snapshots(WatchSnapshotsRequest::default()).await?.into_inner();
        messages.message().await?;
        let (tell, sent) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                // Those without an experiment are heartbeats.
                if !message.experiments.is_empty() {
                    let _ = tell.send(message);
                }
            }
        });
        Ok(Self { world, clients: built, arrivals, sent })
    }

    /// One change, and when it was there; with the call's own time in milliseconds.
    async fn change(&mut self, change: Change, experiment: usize) -> Fallible<([f64; 2], f64)> {
        let key = key(experiment);
        let begun = self.arrivals.expect();
        let at = Instant::now();
        match change {
            Change::Grow => {
                let (variation, amount) = ("blue".to_owned(), Some(Amount::ToShare(0.2)));
                let request = GrowVariationRequest { key, variation, amount, etag: String::new() };
                self.world.experiments.grow_variation(request).await?;
            }
            Change::Kill => {
                self.world.experiments.kill(KillRequest { key, variation: String::new() }).await?;
            }
        }
        let call = at.elapsed().as_secs_f64() * 1e3;
        Ok((self.arrivals.wait(begun).await?, call))
    }

    /// What the last change was sent as.
    async fn message(&mut self) -> Fallible<WatchSnapshotsResponse> {
        Ok(tokio::time::timeout(LIMIT, self.sent.recv()).await?.ok_or("the stream has ended")?)
    }
}

/// Clients that have a snapshot each.
async fn connect_clients(address: &str, clients: usize) -> Fallible<Vec<Client>> {
    let mut built: Vec<Client> = Vec::new();
    while built.len() < clients {
        // A machine seldom starts a thousand clients at one instant.
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

/// Opens a stream for every place in `arrivals`, and tells of each message that changes an experiment.
async fn listen(address: &str, arrivals: &Arc<Arrivals>) -> Fallible<()> {
    for n in 0..arrivals.at.len() {
        let mut client = AssignmentServiceClient::new(connect(address).await?);
        let mut messages = client.watch_snapshots(WatchSnapshotsRequest::default()).await?.into_inner();
        let arrivals = Arc::clone(arrivals);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                // The whole snapshot comes first from a real server, and now and then a heartbeat.
                if !message.full && !message.experiments.is_empty() {
                    arrivals.hear(n);
                }
            }
        });
    }
    Ok(())
}

/// The side that it is held against.
struct Bare {
    floor: Floor,
    arrivals: Arc<Arrivals>,
}

impl Bare {
    async fn start(listeners: usize) -> Fallible<Self> {
        let floor = Floor::start(AssignResponse::default(), BatchAssignResponse::default()).await?;
        let arrivals = Arrivals::new(listeners);
        listen(&floor.address, &arrivals).await?;
        Ok(Self { floor, arrivals })
    }

    async fn send(&self, message: WatchSnapshotsResponse) -> Fallible<[f64; 2]> {
        let begun = self.arrivals.expect();
        self.floor.news.send(message)?;
        self.arrivals.wait(begun).await
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Grow,
    Kill,
}

/// What is known of one kind of change.
#[derive(Default)]
struct Figures {
    p50: Pairs,
    p99: Pairs,
    cpu: Pairs,
    calls: Vec<f64>,
    bytes: usize,
}

async fn run(flags: Flags) -> Fallible<()> {
    let rounds = flags.number("--rounds", if flags.quick() { 3 } else { 20 });
    let clients = flags.number("--clients", if flags.quick() { 200 } else { 1_000 });
    let experiments = flags.number("--experiments", 50).max(rounds + WARM_UP);
    check_open_files(4 * clients + 200)?;
    let mut ours = Ours::start(clients, experiments, flags.has("--bare")).await?;
    let bare = Bare::start(clients).await?;
    let mut figures = [Figures::default(), Figures::default()];
    let mut ready: [Option<WatchSnapshotsResponse>; 2] = [None, None];
    for round in 0..rounds + WARM_UP {
        for (kind, change) in [Change::Grow, Change::Kill].into_iter().enumerate() {
            let (mut measured, mut floor) = (None, None);
            let (mut cpu, mut floor_cpu) = (0.0, 0.0);
            for turn in 0..2 {
                tokio::time::sleep(SETTLE).await;
                let before = cpu_seconds();
                // Ours first in the first round: the floor sends what we sent.
                if turn == round % 2 {
                    measured = Some(ours.change(change, round).await?);
                    cpu = cpu_seconds() - before;
                    ready[kind] = Some(WatchSnapshotsResponse { full: false, ..ours.message().await? });
                } else {
                    floor = Some(bare.send(ready[kind].clone().unwrap_or_default()).await?);
                    floor_cpu = cpu_seconds() - before;
                }
            }
            let figures = &mut figures[kind];
            if let (Some((ours, call)), Some(floor), true) = (measured, floor, round >= WARM_UP) {
                figures.p50.push(ours[0], floor[0]);
                figures.p99.push(ours[1], floor[1]);
                figures.cpu.push(cpu * 1e3, floor_cpu * 1e3);
                figures.calls.push(call);
                figures.bytes = ready[kind].as_ref().map_or(0, Message::encoded_len);
            }
        }
        let killed = |client: &Client| {
            client.evaluate(&key(round), &Context::new("user-1")).reason() == inroad_sdk::Reason::Killed
        };
        if !ours.clients.iter().all(killed) {
            return Err("a client has heard of the kill and does not serve it".into());
        }
    }
    let mut report = Report::new("fanout", &flags);
    for (name, f) in ["Grow", "Kill"].iter().zip(&figures) {
        report.compare(&format!("{name}, half of the clients"), "ms", &f.p50, Some(Target::AtMost(1.5)));
        report.compare(&format!("{name}, 99 of 100 clients"), "ms", &f.p99, Some(Target::AtMost(1.5)));
        report.compare(&format!("{name}, CPU of everybody"), "ms", &f.cpu, None);
        let call = common::median(&f.calls);
        report.note(format!("{name}: a message of {} bytes; the call itself returned after {call:.2} ms.", f.bytes));
    }
    report.note(format!(
        "{rounds} rounds; {clients} clients, each on a connection of its own, and as many listeners; {experiments} experiments."
    ));
    report.print();
    Ok(())
}

/// Both ends of every connection are files of this process.
fn check_open_files(needed: usize) -> Fallible<()> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let soft: usize = line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    if soft < needed {
        return Err(format!("{needed} open files are needed and {soft} allowed: run `ulimit -n 8192` first").into());
    }
    Ok(())
}

fn main() -> Fallible<()> {
    common::runtime()?.block_on(run(Flags::read()))
}
