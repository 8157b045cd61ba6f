//! I5 and I6 from outside: acknowledged events are counted even if the process is killed, duplicates are counted once,
//! and the order of arrival does not change the numbers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use inroad_wire::v1;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tonic_types::StatusExt;

use crate::harness::{
    Api, Refusal, Server, Setup, at_second, eventually_within, exposure_of, flag, metric, outcome,
    with_conversion_metrics, with_manual_clock,
};

const KEY: &str = "checkout";

fn experiment() -> v1::Experiment {
    with_conversion_metrics(flag(KEY, &[("a", 0.3), ("b", 0.2)]))
}

/// A batch in which 50 units are exposed and two thirds of them buy, and the expected numbers of units and buyers by
/// variation.
async fn batch(api: &Api, writer: usize, number: usize) -> (v1::RecordRequest, BTreeMap<String, (u64, u64)>) {
    let units: Vec<String> = (0..50).map(|i| format!("w{writer}-b{number}-u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let mut request = v1::RecordRequest::default();
    let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (i, (unit, answer)) in units.iter().zip(&answers).enumerate() {
        let tally = expected.entry(answer.variation.clone()).or_default();
        tally.0 += 1;
        request.exposures.push(exposure_of(KEY, unit, answer));
        if i % 3 != 0 {
            tally.1 += 1;
            request.outcomes.push(outcome(unit, 2.5, "order-1"));
        }
    }
    (request, expected)
}

/// The results without the time of the request.
fn without_time(mut results: v1::GetResultsResponse) -> v1::GetResultsResponse {
    results.now = None;
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_survive_kill_9_and_duplicates_change_nothing() {
    const WRITERS: usize = 6;
    const BATCHES: usize = 30;
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut work = Vec::new();
    for writer in 0..WRITERS {
        let mut batches = Vec::new();
        for number in 0..BATCHES {
            let (request, tallies) = batch(&api, writer, number).await;
            for (variation, (units, buyers)) in tallies {
                let tally = expected.entry(variation).or_default();
                *tally = (tally.0 + units, tally.1 + buyers);
            }
            batches.push(request);
        }
        work.push(batches);
    }
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = work
        .iter()
        .cloned()
        .map(|batches| {
            // A connection per writer, so that one broken connection does not affect the others.
            let (api, acknowledged) = (server.api(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for request in batches {
                    // Retry until the batch is acknowledged.
                    while api.events().record(request.clone()).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for kill in 1..=3 {
        let at = kill * WRITERS * BATCHES / 4;
        eventually_within(Duration::from_secs(60), "more batches are acknowledged", async || {
            (acknowledged.load(Ordering::SeqCst) >= at).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..5_000))).await;
        server.kill();
        server.restart().await;
    }
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    let results = api.results(KEY).await;
    for arm in &results.arms {
        let (units, buyers) = expected[&arm.variation];
        let bought = metric(&results, &arm.variation, "bought");
        assert_eq!((arm.units, bought.units, bought.converted), (units, units, buyers), "{}", arm.variation);
        let spent = metric(&results, &arm.variation, "spent");
        assert_eq!((spent.sum, spent.outcome_sum), (2.5 * buyers as f64, 2.5 * buyers as f64));
        assert_eq!((bought.outcomes, bought.outcome_units), (buyers, buyers));
    }
    assert_eq!((results.units_moved, results.backlog), (0, 0));
    for request in work.into_iter().flatten() {
        api.record(request.exposures, request.outcomes).await;
    }
    assert_eq!(without_time(api.results(KEY).await), without_time(results), "I5: duplicates change nothing");
}

/// An exposure or an outcome, with its time.
#[derive(Clone)]
enum Event {
    Exposure(v1::Exposure),
    Outcome(v1::Outcome),
}

const DAY: i64 = 86_400;
const START: i64 = 1_700_006_400;

async fn record_all(api: &Api, events: impl IntoIterator<Item = Event>) {
    let (mut exposures, mut outcomes) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Exposure(exposure) => exposures.push(exposure),
            Event::Outcome(outcome) => outcomes.push(outcome),
        }
    }
    api.record(exposures, outcomes).await;
}

/// Runs an experiment for six days: the clock advances, variations grow, one variation is killed and restored. `on_day`
/// receives the events of each day before the day's change.
async fn run_experiment(api: &Api, mut on_day: impl AsyncFnMut(&Api, Vec<Event>)) {
    let mut experiment = with_manual_clock(experiment(), START);
    experiment.salt = "fixed".to_owned();
    api.launch(experiment).await;
    let units: Vec<String> = (0..400).map(|i| format!("u{i}")).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for day in 0..6 {
        let noon = START + day * DAY + DAY / 2;
        let request = v1::AdvanceClockRequest { key: KEY.to_owned(), to: Some(at_second(noon)) };
        api.experiments().advance_clock(request).await.expect("the clock can be advanced");
        let answers = api.assign_all(KEY, &units).await;
        let mut events = Vec::new();
        for (unit, answer) in units.iter().zip(&answers) {
            if rng.random_bool(0.5) {
                let mut exposure = exposure_of(KEY, unit, answer);
                exposure.occurred_at = Some(at_second(noon + rng.random_range(0..200)));
                events.push(Event::Exposure(exposure));
            }
            if rng.random_bool(0.3) {
                let mut bought = outcome(unit, f64::from(rng.random_range(1..9_000)) / 100.0, &format!("day-{day}"));
                bought.occurred_at = Some(at_second(noon + rng.random_range(0..200)));
                bought.clock = KEY.to_owned();
                events.push(Event::Outcome(bought));
            }
        }
        on_day(api, events).await;
        match day {
            1 => drop(api.grow(KEY, "a", 0.4).await),
            2 => drop(api.kill(KEY, "b").await),
            3 => drop(api.restore(KEY, "b").await),
            4 => drop(api.grow(KEY, "b", 0.35).await),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_of_arrival_duplicates_and_crashes_do_not_change_results() {
    let in_order = Server::start().await;
    let mut all = Vec::new();
    run_experiment(&in_order.api(), async |api, events| {
        all.extend(events.iter().cloned());
        record_all(api, events).await;
    })
    .await;
    let expected = in_order.api().results(KEY).await;
    assert!(expected.crossovers > 0 && expected.arms.iter().all(|arm| arm.units > 20), "{expected:?}");
    assert_eq!(expected.units_moved, 0);

    let mut shuffled = Server::start().await;
    run_experiment(&shuffled.api(), async |_, _| {}).await;
    let api = shuffled.api();
    let mut rng = ChaCha8Rng::seed_from_u64(13);
    let duplicates: Vec<Event> = all.iter().filter(|_| rng.random_bool(0.3)).cloned().collect();
    all.extend(duplicates);
    all.shuffle(&mut rng);
    let chunks: Vec<Vec<Event>> = all.chunks(97).map(<[Event]>::to_vec).collect();
    for (i, chunk) in chunks.into_iter().enumerate() {
        record_all(&api, chunk).await;
        if i % 8 == 3 {
            shuffled.kill();
            shuffled.restart().await;
        }
    }
    // What was known about a variation when it was killed depends on the events that had arrived by then, and so does the
    // part of the kill's tick that the sample ratio check can use.
    let without_kills = |results| v1::GetResultsResponse { kills: Vec::new(), sample_ratio: None, ..results };
    assert_eq!(without_kills(api.results(KEY).await), without_kills(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_server_while_it_counts_loses_and_duplicates_nothing() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    let units: Vec<String> = (0..20_000).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let events: Vec<(v1::Exposure, v1::Outcome)> = units
        .iter()
        .zip(&answers)
        .map(|(unit, answer)| (exposure_of(KEY, unit, answer), outcome(unit, 1.0, "order-1")))
        .collect();
    for chunk in events.chunks(5_000) {
        let (exposures, outcomes) = chunk.iter().cloned().unzip();
        api.record(exposures, outcomes).await;
    }
    // Kill the process several times while many events are not counted yet.
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    for _ in 0..4 {
        server.kill();
        server.restart().await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..80))).await;
    }
    let results = api.results(KEY).await;
    let units: u64 = results.arms.iter().map(|arm| arm.units).sum();
    let bought: u64 = results.arms.iter().map(|arm| metric(&results, &arm.variation, "bought").converted).sum();
    assert_eq!((units, bought), (20_000, 20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_changes_survive_kill_9() {
    let mut server = Server::start().await;
    let api = server.api();
    api.launch(experiment()).await;
    for round in 1..=5u32 {
        let grown = api.grow(KEY, "a", 0.3 + 0.02 * f64::from(round)).await;
        let killed = api.kill(KEY, if round % 2 == 0 { "" } else { "b" }).await;
        server.kill();
        server.restart().await;
        let mut now = api.get(KEY).await;
        now.now = killed.now;
        assert_eq!(now, killed, "round {round}");
        assert_eq!(now.revision, grown.revision);
        let restored = api.restore(KEY, if round % 2 == 0 { "" } else { "b" }).await;
        assert!(!restored.killed && restored.variations.iter().all(|v| !v.killed));
    }
    let audit = api.audit(KEY).await;
    let count = |action: &str| audit.iter().filter(|entry| entry.action == action).count();
    assert_eq!([count("create"), count("start"), count("grow"), count("kill"), count("restore")], [1, 1, 5, 5, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_backlog_refuses_events_with_a_retry_delay_and_loses_nothing() {
    let options = ["--max-backlog", "1000"].map(str::to_owned).to_vec();
    let server = Server::with(Setup { options, ..Setup::default() }).await;
    let api = server.api();
    api.launch(experiment()).await;
    let units: Vec<String> = (0..40_000).map(|i| format!("u{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures: Vec<_> = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    let mut refusals = 0;
    for chunk in exposures.chunks(8_000) {
        let request = v1::RecordRequest { exposures: chunk.to_vec(), outcomes: vec![] };
        while let Err(status) = api.events().record(request.clone()).await {
            refusals += 1;
            let delay = status
                .get_details_retry_info()
                .and_then(|info| info.retry_delay)
                .expect("the error contains a retry delay");
            let refused = Refusal::from_result::<()>(Err(status));
            assert_eq!((refused.code.as_str(), refused.reason.as_str()), ("RESOURCE_EXHAUSTED", "BACKLOG_FULL"));
            assert!(refused.message.contains("try again in"), "{refused:?}");
            tokio::time::sleep(delay).await;
        }
    }
    assert!(refusals > 0, "40,000 events exceed the backlog of 1,000");
    assert_eq!(api.results(KEY).await.arms.iter().map(|arm| arm.units).sum::<u64>(), 40_000);
}
