//! Decisions of a long run: their records stay small, and are read to the byte, so that each can be made again (I7).

use inroad_assignment::{ThompsonSettings, Timestamp, Width};
use inroad_policy::{
    ArmState, ArmTally, BetterDirection, Decider, Decision, EpochKey, EpochTally, Measure, SampleRatioRule, TickInput,
    TickScope,
};
use inroad_store::{DecisionRecord, ExperimentChange, StoredDecision};

use super::contract::world::{TestRng, share};
use super::*;

const HOUR_US: i64 = 3_600_000_000;

/// The inputs of a run of hourly decisions with four variations: each has another epoch, and late outcomes change a few
/// cells of earlier ones.
struct Run {
    input: TickInput,
    rng: TestRng,
}

impl Run {
    fn new() -> Self {
        let arm = |owned: f64| ArmState {
            owned: share(owned),
            foothold: share(owned),
            killed: false,
            kill_exempt: false,
            guardrail_alerted: false,
        };
        let mut arms: Vec<_> = [0.4, 0.2, 0.2, 0.2].map(arm).to_vec();
        let others: u128 = arms[1..].iter().map(|arm| arm.owned.get()).sum();
        arms[0].owned = Width::new(Width::LINE.get() - others).unwrap();
        let start = Timestamp::from_micros(0);
        let input = TickInput {
            now: start,
            generation_started_at: start,
            last_growth_at: start,
            seed: 0,
            settings: ThompsonSettings { draws_log2: 8, ..ThompsonSettings::default() },
            arms,
            floor: share(0.05),
            evidence_share: share(0.15),
            data_late: false,
            sample_ratio: SampleRatioRule::Mixed,
            measure: Measure::Conversion,
            better: BetterDirection::Higher,
            scope: TickScope::Growth,
            epochs: Vec::new(),
            exposures: Vec::new(),
            guardrails: Vec::new(),
        };
        Self { input, rng: TestRng(7) }
    }

    fn next(&mut self) -> &TickInput {
        let tick = self.input.epochs.len() as i64;
        let mut tally = || {
            let n = 100 + self.rng.below(900);
            ArmTally { first: n, n, s: n / 20 + self.rng.below(10), ..ArmTally::default() }
        };
        let arms = (0..4).map(|_| tally()).collect();
        self.input.epochs.push(EpochTally {
            epoch: EpochKey { tick, revision: 1 },
            arms,
            shares: vec![0.4, 0.2, 0.2, 0.2],
        });
        for _ in 0..3 {
            let back = self.rng.below(30.min(self.input.epochs.len() as u64)) as usize;
            let late = self.input.epochs.len() - 1 - back;
            let arm = self.rng.below(4) as usize;
            self.input.epochs[late].arms[arm].s += 1;
        }
        self.input.now = Timestamp::from_micros((tick + 1) * HOUR_US);
        self.input.seed = self.input.now.as_micros().unsigned_abs();
        &self.input
    }
}

fn change(version: u64, record: &DecisionRecord) -> ExperimentChange {
    let experiment = started_experiment("a", false, &[], 3);
    ExperimentChange { decision: Some(record.clone()), ..experiment_change(&experiment, Some(version), "tick") }
}

fn record(input: &TickInput, output: String, revision: Option<u32>) -> DecisionRecord {
    DecisionRecord { generation: 1, at: input.now, revision, input: serde_json::to_string(input).unwrap(), output }
}

/// Reads all decisions, a few at a time, newest first.
async fn read_all(store: &SqliteStore) -> Vec<StoredDecision> {
    let mut all: Vec<StoredDecision> = Vec::new();
    loop {
        let before = all.last().map_or(u64::MAX, |last| last.id);
        let page = PageRequest { before, limit: 100, max_bytes: 1 << 20 };
        let read = store.decisions(&key("a"), 1, page).await.unwrap();
        if read.is_empty() {
            return all;
        }
        all.extend(read);
    }
}

#[test]
fn record_after_900_decisions_is_as_small_as_an_early_one_and_can_be_made_again() {
    const DECISIONS: usize = 900;
    let folder = folder();
    let (mut run, mut decider, mut made) = (Run::new(), Decider::default(), Vec::new());
    block_on(async {
        let store = open(folder.path()).unwrap();
        let created = experiment_change(&started_experiment("a", false, &[], 3), None, "create");
        let mut version = store.commit(created).await.unwrap();
        for i in 0..DECISIONS {
            let input = run.next();
            let output = match i % 100 {
                99 => serde_json::to_string(&decider.decide(input).unwrap()).unwrap(),
                _ => String::new(),
            };
            let record = record(input, output, (i % 70 == 3).then_some(i as u32));
            version = store.commit(change(version, &record)).await.unwrap();
            made.push(record);
        }
        store.close().await.unwrap();
        // After a restart there is only what is on disk.
        let store = open(folder.path()).unwrap();
        let read = read_all(&store).await;
        assert!(read.iter().map(|decision| &decision.record).eq(made.iter().rev()), "to the byte");
        for decision in made.iter().filter(|decision| decision.revision.is_some()) {
            let found = store.decision(&key("a"), 1, decision.revision.unwrap()).await.unwrap();
            assert_eq!(found.as_ref(), Some(decision));
        }
        for decision in read.iter().filter(|decision| !decision.record.output.is_empty()) {
            let input: TickInput = serde_json::from_str(&decision.record.input).unwrap();
            let output: Decision = serde_json::from_str(&decision.record.output).unwrap();
            assert_eq!(Decider::default().decide(&input).unwrap(), output);
            assert_eq!(serde_json::to_string(&input).unwrap(), decision.record.input);
        }
    });
    let file = Connection::open(folder.path().join("inroad.db")).unwrap();
    let mut statement =
        file.prepare("SELECT length(input) + coalesce(length(delta), 0) FROM decision ORDER BY id").unwrap();
    let stored: Vec<usize> =
        statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as usize)).unwrap().collect::<Result<_, _>>().unwrap();
    let whole: usize = made.iter().map(|record| record.input.len()).sum();
    let last = made.last().unwrap().input.len();
    let newest = stored[DECISIONS - 64..].iter().sum::<usize>() / 64;
    assert!(last > 100_000 && newest < 2_500, "{newest} of {last} bytes");
    assert!(stored.iter().sum::<usize>() < whole / 20, "{} of {whole} bytes", stored.iter().sum::<usize>());
}

#[test]
fn decisions_of_earlier_releases_are_read_and_continued() {
    let folder = folder();
    let state = Connection::open(folder.path().join("inroad.db")).unwrap();
    state.execute_batch(include_str!("../fixtures/state-1.sql")).unwrap();
    let log = Connection::open(folder.path().join("log.db")).unwrap();
    log.execute_batch(include_str!("../fixtures/log-1.sql")).unwrap();
    let stored: String = state.query_row("SELECT input FROM decision", [], |row| row.get(0)).unwrap();
    drop((state, log));
    block_on(async {
        let store = open(folder.path()).unwrap();
        let (_, experiments) = store.load().await.unwrap();
        let (experiment, mut version) = (&experiments[0].experiment, experiments[0].version);
        let mut run = Run::new();
        let mut made = Vec::new();
        for _ in 0..20 {
            let record = record(run.next(), "{}".to_owned(), None);
            let change = ExperimentChange {
                decision: Some(record.clone()),
                ..experiment_change(experiment, Some(version), "tick")
            };
            version = store.commit(change).await.unwrap();
            made.push(record.input);
        }
        let page = PageRequest { before: u64::MAX, limit: 100, max_bytes: 1 << 20 };
        let read = store.decisions(&key("checkout"), 1, page).await.unwrap();
        assert!(read.iter().map(|decision| &decision.record.input).eq(made.iter().rev().chain([&stored])));
    });
}

#[test]
fn damaged_record_is_an_error_and_no_other_input() {
    let folder = folder();
    block_on(async {
        let store = open(folder.path()).unwrap();
        let created = experiment_change(&started_experiment("a", false, &[], 3), None, "create");
        let mut version = store.commit(created).await.unwrap();
        let mut run = Run::new();
        for _ in 0..4 {
            version = store.commit(change(version, &record(run.next(), "{}".to_owned(), None))).await.unwrap();
        }
        store.close().await.unwrap();
    });
    let damage = [
        "UPDATE decision SET input = replace(input, '\"n\":', '\"m\":') WHERE id = 1",
        "UPDATE decision SET delta = substr(delta, 1, length(delta) - 1) WHERE id = 4",
        "UPDATE decision SET base = NULL WHERE id = 3",
        "UPDATE decision SET base = 4 WHERE id = 3",
    ];
    for sql in damage {
        let copy = super::folder();
        let copied = copy.path().join("copy");
        SqliteStore::copy(folder.path(), &copied).unwrap();
        Connection::open(copied.join("inroad.db")).unwrap().execute_batch(sql).unwrap();
        block_on(async {
            let store = open(&copied).unwrap();
            let page = PageRequest { before: u64::MAX, limit: 1, max_bytes: 1 << 20 };
            let read = store.decisions(&key("a"), 1, page).await;
            assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{sql}: {read:?}");
        });
    }
}
