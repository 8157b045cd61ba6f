//! All loads at once, for a time: floods of outcomes, expensive results, funnels and batches whose callers leave, pages,
//! changes, watchers. A kill is acknowledged within a second all the time, the server stays healthy, its memory does
//! not grow, callers are refused only by documented limits, and every acknowledged event is counted exactly once.
//!
//! The half minute of `./test` checks each kill, each health check, the most memory, the refusals and the counts.
//! `INROAD_LOAD_MINUTES=60` runs the loads for an hour instead, and then also checks the growth of memory and the 99th
//! percentile of the kills, for which a short run on a shared machine is too noisy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use inroad_wire::v1::{self, ExposureMode};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{
    Api, Server, context, eventually_within, exposure_of, flag, http_get, metric, metric_value, outcome,
    with_conversion_metrics, with_thompson_policy,
};

/// The experiment that is killed.
const PROBED: &str = "probed";
/// The experiment whose acknowledged events are compared with its counts at the end. Nobody changes it.
const COUNTED: &str = "counted";
/// The experiment that costs much.
const LARGE: &str = "large";
const VARIATIONS: usize = 40;
const METRICS: usize = 16;
/// Experiments on the same event.
const FLAGS: usize = 200;
/// The longest that a kill or a health check may take.
const LIMIT: Duration = Duration::from_secs(1);
/// The most memory that the server may have, in bytes.
const MAX_MEMORY: u64 = 1 << 30;
/// The most by which memory may grow after the first minute.
const MAX_MEMORY_GROWTH: f64 = 0.02;
/// The second minute, with whose median the memory of the last minute is compared.
const SECOND_MINUTE: Range<Duration> = Duration::from_secs(60)..Duration::from_secs(120);
/// A writer sends the events of a block of units at once, and begins again after the last block.
const BLOCK_UNITS: usize = 20;
const BLOCKS: usize = 1_000;
const OUTCOMES_PER_UNIT: usize = 4;
/// Outcomes of units that were exposed to nothing, in the same batch.
const FLOOD_OUTCOMES: usize = 400;
/// The limits by which callers may be refused (docs/errors.md).
const DOCUMENTED: [&str; 7] = [
    "BACKLOG_FULL",
    "QUEUE_FULL",
    "TOO_MANY_QUERIES",
    "TOO_MANY_STREAMS",
    "APPLY_IN_PROGRESS",
    "TOO_MANY_REQUEST_BYTES",
    "AUDIENCES_TOO_EXPENSIVE",
];

fn minutes() -> Option<f64> {
    let text = std::env::var("INROAD_LOAD_MINUTES").ok()?;
    let minutes = text.parse().unwrap_or_else(|_| panic!("INROAD_LOAD_MINUTES is {text:?}: give a number"));
    assert!(minutes >= 3.0, "INROAD_LOAD_MINUTES is {text}: the growth of memory needs at least 3 minutes");
    Some(minutes)
}

fn large_experiment() -> v1::Experiment {
    let keys: Vec<String> = (1..=VARIATIONS).map(|i| format!("v{i}")).collect();
    let variations: Vec<(&str, f64)> = keys.iter().map(|key| (key.as_str(), 0.01)).collect();
    let mut experiment = with_conversion_metrics(flag(LARGE, &variations));
    let like_first = experiment.metrics[0].clone();
    let metric = |i: usize| v1::Metric { key: format!("m{i}"), decision: i == 0, ..like_first.clone() };
    experiment.metrics = (0..METRICS).map(metric).collect();
    let expensive = |i: usize| format!("[1,2,3,4,5,6,7,8,9].exists(a, [1,2,3,4,5,6,7,8,9].exists(b, a * b == {i}))");
    let unlikely = |i: usize| v1::Override {
        when: format!("tier == \"t{i}\" && {}", expensive(1_000 + i)),
        variation: keys[i].clone(),
        ..v1::Override::default()
    };
    experiment.overrides = (0..VARIATIONS).map(unlikely).collect();
    experiment
}

/// What the loads have done.
#[derive(Default)]
struct Totals {
    calls: AtomicU64,
    refused: AtomicU64,
    /// Refusals for another reason than a documented limit.
    unexpected: std::sync::Mutex<BTreeSet<String>>,
}

impl Totals {
    fn add<T>(&self, what: &str, result: &Result<T, Status>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let Err(status) = result else { return };
        self.refused.fetch_add(1, Ordering::Relaxed);
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        // The load ended in the middle of the call.
        let is_ours = matches!(status.code(), Code::Cancelled);
        if !is_ours && !DOCUMENTED.contains(&reason.as_str()) {
            self.unexpected.lock().expect("no load panics").insert(format!(
                "{what}: {:?} {reason} {}",
                status.code(),
                status.message()
            ));
        }
    }
}

/// The events that the server acknowledged.
#[derive(Default)]
struct Acknowledged {
    /// The variation of each exposed unit.
    units: HashMap<String, String>,
    /// The outcomes by the variation of their unit.
    outcomes: BTreeMap<String, u64>,
    /// Outcomes of units that were exposed to nothing.
    flood: u64,
}

/// An application: it asks once for the variations of its units, and sends exposures and outcomes until `stop` turns
/// true. It finishes the last batch, so that its acknowledgement is known.
async fn write_events(writer: usize, api: Api, totals: Arc<Totals>, mut stop: watch::Receiver<bool>) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let mut exposures_of_block = HashMap::<usize, Vec<v1::Exposure>>::new();
    for round in 0.. {
        if *stop.borrow_and_update() {
            break;
        }
        let block = round % BLOCKS;
        let units = (0..BLOCK_UNITS).map(|i| format!("w{writer}-{}", block * BLOCK_UNITS + i));
        let assign = |experiment: &str, unit: &str| v1::AssignRequest {
            experiment: experiment.to_owned(),
            context: Some(context(unit)),
            exposure: ExposureMode::None.into(),
        };
        totals.add("assign", &api.assignments().assign(assign(PROBED, &format!("w{writer}-{round}"))).await);
        let exposures = if let Some(known) = exposures_of_block.get(&block) {
            known.clone()
        } else {
            let requests = units.clone().map(|unit| assign(COUNTED, &unit)).collect();
            let assigned = api.assignments().batch_assign(v1::BatchAssignRequest { requests }).await;
            totals.add("batch", &assigned);
            let Ok(assigned) = assigned else { continue };
            let assigned = units.zip(assigned.into_inner().responses);
            let exposures: Vec<_> = assigned.map(|(unit, answer)| exposure_of(COUNTED, &unit, &answer)).collect();
            exposures_of_block.insert(block, exposures.clone());
            exposures
        };
        let outcomes = exposures.iter().flat_map(|exposure| {
            (0..OUTCOMES_PER_UNIT).map(move |i| outcome(&exposure.unit, 1.0, &format!("{}-{round}-{i}", exposure.unit)))
        });
        let flood = (0..FLOOD_OUTCOMES).map(|i| {
            let unit = format!("f{writer}-{}", (round * FLOOD_OUTCOMES + i) % 50_000);
            outcome(&unit, 1.0, &format!("{unit}-{round}"))
        });
        let request = v1::RecordRequest { outcomes: outcomes.chain(flood).collect(), exposures: exposures.clone() };
        let recorded = api.events().record(request).await;
        totals.add("record", &recorded);
        let Ok(response) = recorded else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        assert_eq!(response.into_inner().rejections, [], "a batch is accepted or refused as a whole");
        acknowledged.flood += FLOOD_OUTCOMES as u64;
        for exposure in exposures {
            *acknowledged.outcomes.entry(exposure.variation.clone()).or_default() += OUTCOMES_PER_UNIT as u64;
            acknowledged.units.insert(exposure.unit, exposure.variation);
        }
    }
    acknowledged
}

/// Resident memory of the server: when it was read, and how many bytes it was.
#[derive(Default)]
struct MemorySamples(Vec<(Duration, u64)>);

impl MemorySamples {
    /// The median of the samples in a span of time, in bytes.
    fn median(&self, span: Range<Duration>) -> u64 {
        let mut bytes: Vec<u64> = self.0.iter().filter(|(at, _)| span.contains(at)).map(|(_, bytes)| *bytes).collect();
        bytes.sort_unstable();
        *bytes.get(bytes.len() / 2).unwrap_or_else(|| panic!("no samples in {span:?}"))
    }

    fn most(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| *bytes).max().expect("samples")
    }
}

/// Repeats `work` until `stop` turns true; a call in progress is then abandoned.
async fn repeat(stop: watch::Receiver<bool>, mut work: impl AsyncFnMut(u64)) {
    let mut stopping = stop.clone();
    let working = async {
        for round in 0.. {
            work(round).await;
        }
    };
    tokio::select! {
        () = working => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_take_effect_and_no_event_is_lost_under_all_loads_at_once() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(PROBED, &[("a", 0.5)]))).await;
    api.launch(with_conversion_metrics(flag(COUNTED, &[("a", 0.3), ("b", 0.2)]))).await;
    api.launch(large_experiment()).await;
    let declarations = (0..FLAGS).map(|i| v1::ExperimentDeclaration {
        experiment: Some(with_thompson_policy(
            with_conversion_metrics(flag(&format!("flag-{i}"), &[("a", 0.1)])),
            3_600,
        )),
        etag: String::new(),
        start: true,
    });
    let apply = v1::ApplyExperimentsRequest { validate_only: false, declarations: declarations.collect() };
    let applied = api.experiments().apply_experiments(tokio_stream::iter([apply])).await.expect("applied").into_inner();
    assert_eq!(applied.errors, []);

    let totals = Arc::new(Totals::default());
    let (stop, stopping) = watch::channel(false);
    let mut loads = JoinSet::new();
    // Applications, whose acknowledged events are counted.
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(write_events(writer, server.api(), Arc::clone(&totals), stopping.clone()));
    }
    // Readers: results and pages that cost much, and funnels and batches whose callers leave.
    for reader in 0..6u64 {
        let (api, totals, address, stop) = (server.api(), Arc::clone(&totals), server.address, stopping.clone());
        loads.spawn(repeat(stop, async move |round| {
            if reader % 3 == 0 {
                let page = if round % 2 == 0 { "/".to_owned() } else { format!("/experiments/{LARGE}") };
                let _ = http_get(address, &page).await;
                return;
            }
            let request = v1::GetResultsRequest { key: LARGE.to_owned(), ..v1::GetResultsRequest::default() };
            let result = api.result_service().get_results(request).await;
            totals.add("results", &result);
            if result.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
    }
    for _ in 0..8 {
        let (api, stop) = (server.api(), stopping.clone());
        loads.spawn(repeat(stop, async move |round| {
            let steps = vec!["purchase".to_owned(), "purchase".to_owned()];
            let funnel = v1::GetFunnelRequest { key: PROBED.to_owned(), steps, ..v1::GetFunnelRequest::default() };
            let request = |i: u64| v1::AssignRequest {
                experiment: LARGE.to_owned(),
                context: Some(context(&format!("b{i}"))),
                exposure: ExposureMode::None.into(),
            };
            let batch = v1::BatchAssignRequest { requests: (0..1_000).map(request).collect() };
            let (mut results, mut assignments) = (api.result_service(), api.assignments());
            let call = async {
                if round % 2 == 0 {
                    drop(results.get_funnel(funnel).await);
                } else {
                    drop(assignments.batch_assign(batch).await);
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(60), call).await;
        }));
    }
    // People who change things and read what was changed: a few changes a second. Each revision stays in memory
    // (docs/limits.md), so an hour of changes as fast as possible would grow memory by what it is documented to grow.
    {
        let (api, totals, stop) = (server.api(), Arc::clone(&totals), stopping.clone());
        loads.spawn(repeat(stop, async move |round| {
            let key = format!("flag-{}", round as usize % FLAGS);
            let request = v1::GrowVariationRequest {
                key: key.clone(),
                variation: "a".to_owned(),
                amount: Some(v1::grow_variation_request::Amount::ByShare(0.000_1)),
                etag: String::new(),
            };
            totals.add("grow", &api.experiments().grow_variation(request).await);
            let request = v1::ListAuditEntriesRequest { page_size: 100, ..v1::ListAuditEntriesRequest::default() };
            totals.add("audit", &api.experiments().list_audit_entries(request).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }));
    }
    // Watchers, of which every second one stops reading.
    for watcher in 0..40 {
        let (api, totals, mut stop) = (server.api(), Arc::clone(&totals), stopping.clone());
        loads.spawn(async move {
            let opened = api.assignments().watch_snapshots(v1::WatchSnapshotsRequest::default()).await;
            totals.add("watch", &opened);
            let Ok(stream) = opened else { return };
            let mut stream = stream.into_inner();
            let reading = async {
                while stream.next().await.is_some() {
                    if watcher % 2 == 0 {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                () = reading => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }

    let duration = Duration::from_secs_f64(minutes().map_or(30.0, |minutes| minutes * 60.0));
    let probed = probe(&server, duration).await;
    stop.send_replace(true);
    while let Some(ended) = loads.join_next().await {
        ended.expect("no load panics");
    }
    let acknowledged = writers.join_all().await;
    println!(
        "{} calls, {} refused; {} kills, slowest {:?}, p99 {:?}; slowest health check {:?}; at most {} MB of memory",
        totals.calls.load(Ordering::Relaxed),
        totals.refused.load(Ordering::Relaxed),
        probed.kills.len(),
        probed.kills.last(),
        probed.p99(),
        probed.slowest_health_check,
        probed.memory.most() >> 20,
    );
    let growth = minutes().map(|_| {
        let last_minute = duration - Duration::from_secs(60)..duration;
        let (second, last) = (probed.memory.median(SECOND_MINUTE), probed.memory.median(last_minute));
        let growth = last as f64 / second as f64 - 1.0;
        for minute in 0..duration.as_secs() / 60 {
            let span = Duration::from_secs(minute * 60)..Duration::from_secs(minute * 60 + 60);
            println!("minute {}: median {:.1} MB", minute + 1, probed.memory.median(span) as f64 / 1e6);
        }
        println!("memory: median {second} bytes in the second minute, {last} in the last one, {:+.2}%", growth * 100.0);
        growth
    });
    let unexpected = totals.unexpected.lock().expect("no load panics").clone();
    assert_eq!(unexpected, BTreeSet::new(), "callers are refused only by documented limits");
    assert!(probed.kills.last().is_some_and(|slowest| *slowest < LIMIT), "a kill took {:?}", probed.kills.last());
    assert!(probed.slowest_health_check < LIMIT, "a health check took {:?}", probed.slowest_health_check);
    assert!(probed.memory.most() < MAX_MEMORY, "the server had {} MB", probed.memory.most() >> 20);
    check_counts(&server, &acknowledged).await;
    match growth {
        Some(growth) => {
            let p99 = probed.p99();
            assert!(p99 <= Duration::from_millis(250), "the 99th percentile of the kills is {p99:?}");
            assert!(growth < MAX_MEMORY_GROWTH, "memory grew by {:.2}%", growth * 100.0);
        }
        None => println!("INROAD_LOAD_MINUTES=5 also checks the growth of memory and the 99th percentile of the kills"),
    }
}

/// What the prober saw.
struct Probed {
    /// How long each kill took until it was acknowledged, ascending.
    kills: Vec<Duration>,
    slowest_health_check: Duration,
    memory: MemorySamples,
}

impl Probed {
    fn p99(&self) -> Duration {
        self.kills.get(self.kills.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// Kills, restores, assigns, records and checks health, for a time.
async fn probe(server: &Server, duration: Duration) -> Probed {
    let (api, begun) = (server.api(), Instant::now());
    let mut probed =
        Probed { kills: Vec::new(), slowest_health_check: Duration::ZERO, memory: MemorySamples::default() };
    let mut round = 0u64;
    while begun.elapsed() < duration {
        let unit = format!("probe-{}", round % 1_000);
        let at = Instant::now();
        api.kill(PROBED, "a").await;
        probed.kills.push(at.elapsed());
        let answer = api.assign(PROBED, context(&unit), ExposureMode::None).await;
        assert_eq!(answer.variation, "control", "the kill is in effect");
        api.restore(PROBED, "a").await;
        let answer = api.assign(PROBED, context(&unit), ExposureMode::None).await;
        let exposure = exposure_of(PROBED, &unit, &answer);
        // Exposures may be refused by a limit, kills may not.
        let _ = api.events().record(v1::RecordRequest { exposures: vec![exposure], outcomes: vec![] }).await;
        let at = Instant::now();
        assert_eq!(http_get(server.address, "/healthz").await.map(|(code, _)| code), Some(200));
        probed.slowest_health_check = probed.slowest_health_check.max(at.elapsed());
        probed.memory.0.push((begun.elapsed(), server.resident_bytes()));
        round += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    probed.kills.sort_unstable();
    probed
}

/// The log and the counts have every acknowledged event exactly once.
async fn check_counts(server: &Server, acknowledged: &[Acknowledged]) {
    let counted = async || (metric_value(server.address, "inroad_backlog_events").await == 0.0).then_some(());
    eventually_within(Duration::from_secs(600), "all events are counted", counted).await;
    let results = server.api().results(COUNTED).await;
    let outcomes_of = |variation: &str| acknowledged.iter().filter_map(|a| a.outcomes.get(variation)).sum::<u64>();
    for arm in &results.arms {
        let units = acknowledged.iter().flat_map(|a| a.units.values()).filter(|v| **v == arm.variation).count() as u64;
        let outcomes = outcomes_of(&arm.variation);
        println!("{}: {units} units and {outcomes} outcomes were acknowledged", arm.variation);
        assert!(units > 0, "{} has units", arm.variation);
        let spent = metric(&results, &arm.variation, "spent");
        assert_eq!((arm.units, spent.units, spent.outcome_units), (units, units, units), "units of {}", arm.variation);
        assert_eq!((spent.outcomes, spent.dropped), (outcomes, 0), "outcomes of {}", arm.variation);
        assert_eq!((spent.sum, spent.outcome_sum), (outcomes as f64, outcomes as f64), "sums of {}", arm.variation);
        assert_eq!(metric(&results, &arm.variation, "bought").converted, units, "each unit has outcomes");
    }
    let log = rusqlite::Connection::open(server.folder.join("log.db")).expect("the log");
    let count = "SELECT count(*), count(DISTINCT event_id) FROM log WHERE event_id IS NOT NULL";
    let logged: (i64, i64) = log.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("a count");
    let all: u64 = acknowledged.iter().map(|a| a.flood + a.outcomes.values().sum::<u64>()).sum();
    assert_eq!(logged, (all as i64, all as i64), "outcomes in the log");
}
