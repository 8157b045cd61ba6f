//! All loads at once, for a time: floods of outcomes, expensive results, funnels and batches whose callers leave, pages,
//! changes, watchers. A kill is acknowledged within a second all the time, the server stays healthy, its memory does
//! not grow, callers are refused only by documented limits, and every acknowledged event is counted once.
//!
//! `INROAD_LOAD_MINUTES=60` runs the loads for an hour instead of half a minute, and then also checks the growth of memory
//! and the 99th percentile of the kills, for which a short run on a shared machine is too noisy.

use std::collections::BTreeSet;
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
    Server, context, eventually_within, exposure_of, flag, http_get, outcome, with_conversion_metrics,
    with_thompson_policy,
};

/// The experiment that is killed, and the one whose events are counted at the end.
const PROBED: &str = "probed";
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
    Some(text.parse().unwrap_or_else(|_| panic!("INROAD_LOAD_MINUTES is {text:?}: give a number")))
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

/// Resident memory of a process, in bytes.
fn memory_of(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the server runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kib * 1024
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
    let acknowledged = Arc::new(AtomicU64::new(0));
    // Applications: assignments, and batches of events, of which the acknowledged ones are counted.
    for writer in 0..4u64 {
        let (api, totals, acknowledged, stop) =
            (server.api(), Arc::clone(&totals), Arc::clone(&acknowledged), stopping.clone());
        loads.spawn(async move {
            let mut stopping = stop.clone();
            let mut round = 0;
            // The last batch is finished, so that its acknowledgement is known.
            while !*stopping.borrow_and_update() {
                let unit = |i: u64| format!("w{writer}-{}", (round * 500 + i) % 50_000);
                let request = v1::AssignRequest {
                    experiment: PROBED.to_owned(),
                    context: Some(context(&unit(0))),
                    exposure: ExposureMode::None.into(),
                };
                totals.add("assign", &api.assignments().assign(request).await);
                let outcomes = (0..500).map(|i| outcome(&unit(i), 1.0, &format!("{writer}-{round}-{i}"))).collect();
                let request = v1::RecordRequest { outcomes, ..v1::RecordRequest::default() };
                let recorded = api.events().record(request).await;
                totals.add("record", &recorded);
                match recorded {
                    Ok(response) => {
                        acknowledged.fetch_add(u64::from(response.into_inner().accepted), Ordering::Relaxed);
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
                round += 1;
            }
        });
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
    // People who change things and read what was changed.
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
            tokio::time::sleep(Duration::from_millis(20)).await;
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

    let seconds = minutes().map_or(30.0, |minutes| minutes * 60.0);
    let probed = probe(&server, Duration::from_secs_f64(seconds)).await;
    stop.send_replace(true);
    while let Some(ended) = loads.join_next().await {
        ended.expect("no load panics");
    }
    println!(
        "{} calls, {} refused; {} kills, slowest {:?}, p99 {:?}; slowest health check {:?}; memory {} → {} MB, at most {} MB; {} outcomes",
        totals.calls.load(Ordering::Relaxed),
        totals.refused.load(Ordering::Relaxed),
        probed.kills.len(),
        probed.kills.last(),
        probed.p99(),
        probed.slowest_health_check,
        probed.memory_after_a_minute >> 20,
        probed.memory_at_the_end >> 20,
        probed.most_memory >> 20,
        acknowledged.load(Ordering::Relaxed),
    );
    assert!(
        totals.unexpected.lock().expect("no load panics").is_empty(),
        "{:?}",
        totals.unexpected.lock().expect("no load panics")
    );
    assert!(probed.kills.last().is_some_and(|slowest| *slowest < LIMIT), "a kill took {:?}", probed.kills.last());
    assert!(probed.slowest_health_check < LIMIT, "a health check took {:?}", probed.slowest_health_check);
    assert!(probed.most_memory < MAX_MEMORY, "the server had {} MB", probed.most_memory >> 20);
    if minutes().is_some() {
        assert!(probed.p99() <= Duration::from_millis(250), "the 99th percentile of the kills is {:?}", probed.p99());
        let allowed = probed.memory_after_a_minute as f64 * 1.02;
        assert!(
            probed.memory_at_the_end as f64 <= allowed,
            "memory grew from {} to {} bytes",
            probed.memory_after_a_minute,
            probed.memory_at_the_end
        );
    }
    check_counts(&server, acknowledged.load(Ordering::Relaxed)).await;
}

/// What the prober saw.
struct Probed {
    /// How long each kill took until it was acknowledged, ascending.
    kills: Vec<Duration>,
    slowest_health_check: Duration,
    memory_after_a_minute: u64,
    memory_at_the_end: u64,
    most_memory: u64,
}

impl Probed {
    fn p99(&self) -> Duration {
        self.kills.get(self.kills.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// Kills, restores, assigns, records and checks health, for a time.
async fn probe(server: &Server, duration: Duration) -> Probed {
    let (api, begun) = (server.api(), Instant::now());
    let mut probed = Probed {
        kills: Vec::new(),
        slowest_health_check: Duration::ZERO,
        memory_after_a_minute: 0,
        memory_at_the_end: 0,
        most_memory: 0,
    };
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
        probed.memory_at_the_end = memory_of(server.process_id());
        probed.most_memory = probed.most_memory.max(probed.memory_at_the_end);
        if begun.elapsed() < Duration::from_secs(60) {
            probed.memory_after_a_minute = probed.most_memory;
        }
        round += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    probed.kills.sort_unstable();
    probed
}

/// Every acknowledged outcome is in the log once, and all are counted.
async fn check_counts(server: &Server, acknowledged: u64) {
    let caught_up = async || {
        let (head, folded) = (
            crate::harness::metric_value(server.address, "inroad_log_head").await,
            crate::harness::metric_value(server.address, "inroad_backlog_events").await,
        );
        (folded == 0.0).then_some(head)
    };
    let head = eventually_within(Duration::from_secs(600), "all events are counted", caught_up).await;
    assert!(head >= acknowledged as f64, "{acknowledged} outcomes were acknowledged, and the log ends at {head}");
    let log = rusqlite::Connection::open(server.folder.join("log.db")).expect("the log");
    let count = "SELECT count(DISTINCT event_id) FROM log WHERE event_id IS NOT NULL";
    let logged: i64 = log.query_row(count, [], |row| row.get(0)).expect("a count");
    assert!(logged as u64 >= acknowledged, "{acknowledged} outcomes were acknowledged, and {logged} are in the log");
}
