//! Requests that cost much: whatever readers ask for, a kill takes effect at once, and the server stays healthy.

use std::time::{Duration, Instant};

use inroad_wire::v1::{self, ExposureMode};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::{
    Server, context, eventually, eventually_within, exposure_of, flag, http_get, metric, metric_value, outcome,
    with_conversion_metrics, with_manual_clock, with_thompson_policy,
};
use crate::worker_time::large_audience;

/// The experiment that is killed.
const KEY: &str = "checkout";
/// The experiment that costs much.
const LARGE: &str = "large";
/// Its variations beside control, and its overrides.
const VARIATIONS: usize = 24;
/// The longest that a kill, an assignment or a health check may take. Far above the time on an idle machine, and far below
/// that of one of the expensive requests.
const LIMIT: Duration = Duration::from_secs(1);

/// An experiment whose results, funnels and assignments cost seconds.
fn large_experiment() -> v1::Experiment {
    let keys: Vec<String> = (1..=VARIATIONS).map(|i| format!("v{i}")).collect();
    let variations: Vec<(&str, f64)> = keys.iter().map(|key| (key.as_str(), 0.01)).collect();
    let mut experiment = with_conversion_metrics(flag(LARGE, &variations));
    let like_first = experiment.metrics[0].clone();
    experiment.metrics = (0..8)
        .map(|i| v1::Metric { key: format!("m{i}"), event: format!("e{i}"), decision: i == 0, ..like_first.clone() })
        .collect();
    // Compares all pairs of tags, and never selects a unit.
    let when = |i: usize| format!("tags.exists(a, tags.exists(b, a + b == \"{i}\"))");
    experiment.overrides = (0..VARIATIONS)
        .map(|i| v1::Override { when: when(i), variation: keys[i].clone(), ..v1::Override::default() })
        .collect();
    experiment
}

fn context_with_tags(unit: &str, tags: usize) -> Struct {
    let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
    let values = (0..tags).map(|i| text(format!("tag-{i}"))).collect();
    let mut context = context(unit);
    context.fields.insert("tags".to_owned(), Value { kind: Some(Kind::ListValue(ListValue { values })) });
    context
}

/// The most memory that the server may have, in bytes.
const MAX_MEMORY: u64 = 1 << 30;

/// Runs `work` and checks that it takes no longer than [`LIMIT`].
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = tokio::time::timeout(Duration::from_secs(60), work).await;
    let took = begun.elapsed();
    assert!(took < LIMIT, "{what} took {took:?}");
    done.expect("it took less than the limit")
}

/// Kills, restores, assigns, records and checks health while the server is under load.
async fn check_that_it_keeps_answering(server: &Server) {
    let api = server.api();
    for round in 0..3 {
        in_time("a kill", api.kill(KEY, "a")).await;
        let unit = format!("unit-{round}");
        let answer = in_time("an assignment", api.assign(KEY, context(&unit), ExposureMode::None)).await;
        assert_eq!(answer.variation, "control", "the kill is in effect");
        in_time("a restore", api.restore(KEY, "a")).await;
        let exposure = exposure_of(KEY, &unit, &api.assign(KEY, context(&unit), ExposureMode::None).await);
        in_time("recording", api.record(vec![exposure], vec![])).await;
        let health = in_time("the health check", http_get(server.address, "/healthz")).await;
        assert_eq!(health.map(|(code, _)| code), Some(200));
        let memory = server.resident_bytes();
        assert!(memory < MAX_MEMORY, "the server has {memory} bytes of memory");
    }
}

async fn start() -> Server {
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.9)]))).await;
    api.launch(large_experiment()).await;
    server
}

/// Waits until so many computations wait for their turn, so that all others have one.
async fn computations_wait(server: &Server) {
    let waiting = async || (metric_value(server.address, "inroad_queries_waiting").await > 0.0).then_some(());
    eventually("computations wait", waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_abandoned_funnels_delay_nothing_and_excess_is_refused_with_a_delay() {
    let server = start().await;
    let mut calls: JoinSet<Result<(), Status>> = JoinSet::new();
    for i in 0..200 {
        let mut results = server.api().result_service();
        calls.spawn(async move {
            if i % 2 == 0 {
                let request = v1::GetResultsRequest { key: LARGE.to_owned(), ..v1::GetResultsRequest::default() };
                results.get_results(request).await.map(drop)
            } else {
                let steps = vec!["e0".to_owned(), "e1".to_owned()];
                let request = v1::GetFunnelRequest { key: LARGE.to_owned(), steps, ..v1::GetFunnelRequest::default() };
                results.get_funnel(request).await.map(drop)
            }
        });
    }
    computations_wait(&server).await;
    check_that_it_keeps_answering(&server).await;
    // The limit of 64 waiting ones refuses the others at once.
    let refused = loop {
        let answer = calls.join_next().await.expect("more calls than may wait").expect("no panic");
        if let Err(refused) = answer {
            break refused;
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("try again in"), "{refused:?}");
    assert!(metric_value(server.address, "inroad_queries_refused_total").await >= 1.0);
    // Abandoned calls make room for others.
    calls.abort_all();
    while calls.join_next().await.is_some() {}
    check_that_it_keeps_answering(&server).await;
    eventually("results are computed again", async || {
        let request = v1::GetResultsRequest { key: KEY.to_owned(), ..v1::GetResultsRequest::default() };
        server.api().result_service().get_results(request).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expensive_batch_of_assignments_delays_nothing_and_ends_when_its_caller_leaves() {
    let server = start().await;
    let batch = |tags: usize| {
        let request = |i: usize| v1::AssignRequest {
            experiment: LARGE.to_owned(),
            context: Some(context_with_tags(&format!("unit-{i}"), tags)),
            exposure: ExposureMode::None.into(),
        };
        v1::BatchAssignRequest { requests: (0..200).map(request).collect() }
    };
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        let mut assignments = server.api().assignments();
        let request = batch(100);
        calls.spawn(async move { assignments.batch_assign(request).await.map(drop) });
    }
    computations_wait(&server).await;
    check_that_it_keeps_answering(&server).await;
    calls.abort_all();
    while calls.join_next().await.is_some() {}
    // The turn is free again: a cheap batch is answered.
    let answers = server.api().assignments().batch_assign(batch(1)).await.expect("an answer").into_inner();
    assert_eq!(answers.responses.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_has_one_budget_of_steps_and_one_assignment_always_fits() {
    let server = start().await;
    let request = |i: usize| v1::AssignRequest {
        experiment: LARGE.to_owned(),
        context: Some(context_with_tags(&format!("unit-{i}"), 100)),
        exposure: ExposureMode::None.into(),
    };
    let batch = v1::BatchAssignRequest { requests: (0..1_000).map(request).collect() };
    let refused = server.api().assignments().batch_assign(batch).await.expect_err("it costs too much");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert!(refused.message().contains("smaller batches"), "{refused:?}");
    assert!(metric_value(server.address, "inroad_batches_too_expensive_total").await >= 1.0);
    let mut calls = JoinSet::new();
    for i in 0..20 {
        let mut assignments = server.api().assignments();
        calls.spawn(async move { assignments.assign(request(i)).await.map(drop) });
    }
    check_that_it_keeps_answering(&server).await;
    while let Some(answered) = calls.join_next().await {
        answered.expect("no panic").expect("one assignment is never too expensive");
    }
}

/// With simulated time, so that no time step ends meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn results_are_computed_once_for_all_readers_until_the_counts_change() {
    const START: i64 = 1_767_225_600;
    let server = Server::start().await;
    let api = server.api();
    let keys: Vec<String> = (1..=64).map(|i| format!("v{i}")).collect();
    let variations: Vec<(&str, f64)> = keys.iter().map(|key| (key.as_str(), 0.01)).collect();
    let mut experiment = with_manual_clock(with_conversion_metrics(flag(LARGE, &variations)), START);
    let like_first = experiment.metrics[0].clone();
    experiment.metrics = (0..32)
        .map(|i| v1::Metric { key: format!("m{i}"), event: format!("e{i}"), decision: i == 0, ..like_first.clone() })
        .collect();
    api.launch(experiment).await;
    let counters = async || {
        let computed = metric_value(server.address, "inroad_results_computed_total").await;
        (computed, metric_value(server.address, "inroad_results_shared_total").await)
    };
    let read_by_20 = async || {
        let mut readers = JoinSet::new();
        for _ in 0..20 {
            let api = server.api();
            readers.spawn(async move { api.results(LARGE).await });
        }
        readers.join_all().await
    };
    assert_eq!(counters().await, (0.0, 0.0));
    let answers = read_by_20().await;
    assert!(answers.iter().all(|answer| answer.arms == answers[0].arms && answer.arms.len() == 65));
    assert_eq!(counters().await, (1.0, 19.0));

    let answer = api.assign(LARGE, context("unit"), ExposureMode::None).await;
    let exposure = v1::Exposure {
        occurred_at: Some(prost_types::Timestamp { seconds: START, nanos: 0 }),
        ..exposure_of(LARGE, "unit", &answer)
    };
    api.record(vec![exposure], vec![]).await;
    let answers = read_by_20().await;
    assert!(answers.iter().all(|answer| answer.units == 1), "nobody gets the results from before the exposure");
    assert_eq!(counters().await, (2.0, 38.0));
}

/// Compared with the decisions, not with a clock: on any machine, a kill that waits for them takes about as long.
#[tokio::test(flavor = "multi_thread")]
async fn kill_does_not_wait_for_decisions_of_the_policy() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.9)]))).await;
    let keys: Vec<String> = (1..=64).map(|i| format!("v{i}")).collect();
    let variations: Vec<(&str, f64)> = keys.iter().map(|key| (key.as_str(), 0.01)).collect();
    let slow: Vec<String> = (0..16).map(|i| format!("{LARGE}-{i}")).collect();
    for key in &slow {
        let mut experiment = with_thompson_policy(with_conversion_metrics(flag(key, &variations)), 86_400);
        if let Some(v1::policy::Kind::Thompson(thompson)) = experiment.policy.as_mut().and_then(|p| p.kind.as_mut()) {
            thompson.draws_log2 = Some(16);
        }
        api.launch(experiment).await;
    }
    let begun = Instant::now();
    let mut decisions = JoinSet::new();
    for key in slow {
        let mut experiments = server.api().experiments();
        decisions.spawn(async move { experiments.reallocate(v1::ReallocateRequest { key }).await.map(drop) });
    }
    let (mut longest, mut decided) = (Duration::ZERO, Duration::ZERO);
    while !decisions.is_empty() {
        let kill = Instant::now();
        api.kill(KEY, "a").await;
        longest = longest.max(kill.elapsed());
        api.restore(KEY, "a").await;
        while let Some(decision) = decisions.try_join_next() {
            decision.expect("no panic").expect("a decision");
            decided = begun.elapsed();
        }
    }
    assert!(longest < decided / 4, "a kill took {longest:?} during decisions of {decided:?} together");
}

/// The longest kill while an apply creates, starts and then changes many experiments.
#[tokio::test(flavor = "multi_thread")]
async fn kill_during_an_apply_of_2000_definitions_is_acknowledged_within_500_ms() {
    const DEFINITIONS: usize = 2_000;
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.9)]))).await;
    let mut etags = vec![String::new(); DEFINITIONS];
    for description in ["created", "changed"] {
        let declare = |(i, etag): (usize, String)| v1::ExperimentDeclaration {
            experiment: Some(v1::Experiment {
                description: description.to_owned(),
                ..with_conversion_metrics(flag(&format!("many-{i:04}"), &[("a", 0.2), ("b", 0.2), ("c", 0.2)]))
            }),
            etag,
            start: true,
        };
        let declarations: Vec<_> = etags.into_iter().enumerate().map(declare).collect();
        let parts: Vec<_> = declarations
            .chunks(500)
            .map(|part| v1::ApplyExperimentsRequest { validate_only: false, declarations: part.to_vec() })
            .collect();
        let mut experiments = api.experiments();
        let mut applying = tokio::spawn(async move { experiments.apply_experiments(tokio_stream::iter(parts)).await });
        let begun = Instant::now();
        let (mut kills, mut longest) = (0, Duration::ZERO);
        let applied = loop {
            if applying.is_finished() {
                break (&mut applying).await.expect("no panic").expect("applied").into_inner();
            }
            let kill = Instant::now();
            api.kill(KEY, "a").await;
            longest = longest.max(kill.elapsed());
            kills += 1;
            api.restore(KEY, "a").await;
        };
        println!("{description} in {:?}; the longest of {kills} kills took {longest:?}", begun.elapsed());
        assert_eq!((applied.errors.len(), applied.experiments.len()), (0, DEFINITIONS));
        assert!(kills > 1, "kills happened meanwhile");
        assert!(longest <= Duration::from_millis(500), "a kill took {longest:?} while experiments were {description}");
        etags = applied.experiments.into_iter().map(|one| one.etag).collect();
    }
}

/// Each experiment measures every outcome. What an outcome costs may not depend on how many there are.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_2800_experiments_measure_delay_nothing_and_the_server_stops_in_time() {
    const EXPERIMENTS: usize = 2_800;
    const OUTCOMES: usize = 50_000;
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.9)]))).await;
    let declare = |i: usize| v1::ExperimentDeclaration {
        experiment: Some(with_conversion_metrics(flag(&format!("many-{i:04}"), &[("a", 0.2)]))),
        start: true,
        ..Default::default()
    };
    let all: Vec<_> = (0..EXPERIMENTS).map(declare).collect();
    let parts: Vec<_> = all
        .chunks(400)
        .map(|part| v1::ApplyExperimentsRequest { declarations: part.to_vec(), ..Default::default() })
        .collect();
    let applied = api.experiments().apply_experiments(tokio_stream::iter(parts)).await.expect("applied").into_inner();
    assert_eq!(applied.errors, []);
    // Two of the experiments have exposed some of the units.
    let units: Vec<String> = (0..2_000).map(|i| format!("u{i}")).collect();
    for key in ["many-0007", "many-2100"] {
        let answers = api.assign_all(key, &units).await;
        let exposures = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(key, unit, answer)).collect();
        api.record(exposures, vec![]).await;
    }
    let send = async |round: usize| {
        for part in 0..OUTCOMES / 10_000 {
            let of = |i: usize| outcome(&format!("u{}", part * 10_000 + i), 1.0, &format!("order-{round}"));
            api.record(vec![], (0..10_000).map(of).collect()).await;
        }
    };
    let begun = Instant::now();
    send(0).await;
    check_that_it_keeps_answering(&server).await;
    let counted = async || (metric_value(server.address, "inroad_backlog_events").await == 0.0).then_some(());
    eventually_within(Duration::from_secs(60), "all outcomes are counted", counted).await;
    println!("{OUTCOMES} outcomes among {EXPERIMENTS} experiments took {:?}", begun.elapsed());
    println!("resident: {:.0} MB", server.resident_bytes() as f64 / 1e6);
    check_that_it_keeps_answering(&server).await;
    let results = api.results("many-2100").await;
    let converted = results.arms.iter().map(|arm| metric(&results, &arm.variation, "bought").converted);
    assert_eq!(converted.sum::<u64>(), units.len() as u64);

    send(1).await;
    let begun = Instant::now();
    server.send_sigterm();
    let ended = server.wait_until_stopped().await;
    println!("the server ended {:?} after SIGTERM", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_with_guardrails_checks_of_declarations_and_audit_pages_delay_nothing() {
    const GUARDED: &str = "guarded";
    let server = start().await;
    let api = server.api();
    let mut guarded = v1::Experiment { key: GUARDED.to_owned(), overrides: vec![], ..large_experiment() };
    for metric in &mut guarded.metrics {
        metric.guardrail = Some(v1::Guardrail { margin: 0.1, action: v1::GuardrailAction::Alert.into() });
    }
    api.launch(guarded.clone()).await;
    for _ in 0..61 {
        api.kill(GUARDED, "v1").await;
        api.restore(GUARDED, "v1").await;
    }
    let mut invalid = v1::Experiment { key: "other".to_owned(), ..guarded };
    invalid.overrides = (0..64)
        .map(|i| v1::Override {
            when: large_audience(i),
            variation: format!("v{}", i % VARIATIONS + 1),
            ..v1::Override::default()
        })
        .collect();
    let mut loads: JoinSet<()> = JoinSet::new();
    for _ in 0..4 {
        let (page, address) = (format!("/experiments/{GUARDED}"), server.address);
        loads.spawn(async move {
            loop {
                let _ = http_get(address, &page).await;
            }
        });
        let (mut experiments, declared) = (server.api().experiments(), invalid.clone());
        loads.spawn(async move {
            loop {
                let request = v1::CreateExperimentRequest { experiment: Some(declared.clone()), validate_only: true };
                let _ = experiments.create_experiment(request).await;
            }
        });
        let mut experiments = server.api().experiments();
        loads.spawn(async move {
            loop {
                let request = v1::ListAuditEntriesRequest { page_size: 1_000, ..Default::default() };
                let _ = experiments.list_audit_entries(request).await;
            }
        });
    }
    computations_wait(&server).await;
    check_that_it_keeps_answering(&server).await;
    loads.shutdown().await;
}
