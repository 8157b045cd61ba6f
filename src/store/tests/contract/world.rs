//! Random histories: experiments that people and policies change while units see variations and produce outcomes, which
//! arrive early, late, repeated and contradicting each other. A seed determines a whole history.

use std::sync::Arc;

use inroad_assignment::experiment::{RevisionCause, ShippingScope};
use inroad_assignment::{
    Arm, Definition, Experiment, ExperimentKey, KillTarget, Salt, Timestamp, UnitHasher, UnitKey, Width,
};
use inroad_store::{Event, ExperimentChange, ExposureEvent, OutcomeEvent};
use serde_json::{Value, json};

/// SplitMix64: random enough for a test, and the same on every platform.
pub struct TestRng(pub u64);

impl TestRng {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

pub fn arm(index: usize) -> Arm {
    Arm::new(index).unwrap()
}

pub fn share(share: f64) -> Width {
    Width::from_share(share).unwrap()
}

pub fn key(text: &str) -> ExperimentKey {
    ExperimentKey::parse(text).unwrap()
}

pub fn definition(key: &str, manual: bool, metrics: &[Value], variations: usize) -> Definition {
    let clock =
        if manual { json!({"kind": "manual", "start": "1970-01-01T00:00:00Z"}) } else { json!({"kind": "wall"}) };
    let variations: Vec<Value> = (0..=variations)
        .map(|i| match i {
            0 => json!({"key": "control", "payload": false}),
            _ => json!({"key": format!("v{i}"), "payload": true, "share": 0.1}),
        })
        .collect();
    let document = json!({
        "key": key, "unit": "user", "clock": clock, "policy": {"kind": "manual", "tick": "1m"},
        "variations": variations, "metrics": metrics,
    });
    serde_json::from_value(document).unwrap()
}

/// One metric of each kind, with different windows.
pub fn all_metrics() -> Vec<Value> {
    vec![
        json!({"key": "signup", "event": "signup", "window": "2m", "decision": true}),
        json!({"key": "views", "event": "view", "kind": "count", "window": "2m"}),
        json!({"key": "spend", "event": "order", "kind": "mean", "cap": 20.0, "window": "5m"}),
        json!({"key": "basket", "event": "order", "kind": "ratio", "denominator": "view", "window": "4m"}),
        json!({"key": "again", "event": "signup", "kind": "mean", "window": "1m"}),
    ]
}

pub fn started_experiment(key: &str, manual: bool, metrics: &[Value], variations: usize) -> Experiment {
    let mut experiment = Experiment::create(definition(key, manual, metrics, variations), at(0));
    experiment.start(at(0), Salt::parse("salt1").unwrap()).unwrap();
    experiment
}

pub fn experiment_change(experiment: &Experiment, expected_version: Option<u64>, action: &str) -> ExperimentChange {
    ExperimentChange {
        expected_version,
        experiment: Arc::new(experiment.clone()),
        actor: "test".to_owned(),
        action: action.to_owned(),
        at: at(1),
        decision: None,
    }
}

pub fn exposure(experiment: &str, generation: u32, unit: &str, arm: Arm, revision: u32, when: Timestamp) -> Event {
    Event::Exposure(ExposureEvent {
        experiment: key(experiment),
        generation,
        unit: unit.to_owned(),
        arm,
        revision,
        occurred_at: when,
        context: String::new(),
    })
}

pub fn outcome(unit: &str, event: &str, value_micros: i64, when: Timestamp, event_id: &str, clock: &str) -> Event {
    Event::Outcome(OutcomeEvent {
        units: vec![("account".to_owned(), "acme".to_owned()), ("user".to_owned(), unit.to_owned())],
        event: event.to_owned(),
        value_micros,
        occurred_at: when,
        event_id: event_id.to_owned(),
        clock: clock.to_owned(),
    })
}

/// Applies a random change to an experiment; nothing if the change is not allowed.
pub fn change_randomly(experiment: &mut Experiment, now: i64, rng: &mut TestRng) {
    let arms = experiment.definition.variations().len() as u64;
    let any = arm(1 + rng.below(arms - 1) as usize);
    let effective_at = at(now + rng.below(40) as i64);
    // A refused change does not change the experiment, which is a valid case as well.
    match rng.below(11) {
        0..4 => {
            let width = share(0.01 + rng.below(15) as f64 / 100.0);
            drop(experiment.grow(&[(any, width)], RevisionCause::Grown, at(now), effective_at));
        }
        4 => drop(experiment.set_killed(KillTarget::Variation(any), true, at(now))),
        5 => {
            // A kill that is restored at once: within or beyond a hundredth of the windows.
            drop(experiment.set_killed(KillTarget::Variation(any), true, at(now)));
            let restored = Timestamp::from_micros(at(now).as_micros() + rng.below(4_000_000) as i64);
            drop(experiment.set_killed(KillTarget::Variation(any), false, restored));
        }
        6 => drop(experiment.set_killed(KillTarget::Variation(any), false, at(now))),
        7 => drop(experiment.set_killed(KillTarget::Everything, rng.once_in(2), at(now))),
        8 => {
            let (manual, key) = (experiment.manual_now.is_some(), experiment.definition.key().to_string());
            let metrics = experiment.definition.metrics().len() + rng.below(2) as usize;
            let metrics = &all_metrics()[..metrics.min(all_metrics().len())];
            let variations = experiment.definition.variations().len() - 1 + rng.below(2) as usize;
            drop(experiment.update(definition(&key, manual, metrics, variations.min(5)), at(now), effective_at));
        }
        9 if rng.once_in(3) => {
            drop(experiment.conclude(arm(rng.below(arms) as usize), ShippingScope::Audience, at(now)))
        }
        _ if rng.once_in(4) => {
            let salt = Salt::parse(&format!("salt{}", rng.below(100))).unwrap();
            drop(experiment.restart(at(now), salt));
        }
        _ => {}
    }
}

/// A random exposure or outcome around `now`.
pub fn random_event(experiments: &[Experiment], now: i64, rng: &mut TestRng) -> Event {
    let unit = format!("unit-{}", rng.below(40));
    let experiment = &experiments[rng.below(experiments.len() as u64) as usize];
    // Client clocks are behind, and sometimes far ahead; and several events have the same time.
    let ahead = if rng.once_in(4) { rng.below(120) } else { 0 };
    let seconds = now - rng.below(90) as i64 + ahead as i64;
    let when = Timestamp::from_micros(at(seconds).as_micros() + rng.below(3) as i64);
    let name = experiment.definition.key().as_str();
    if rng.once_in(2) {
        let generation = match rng.once_in(8) {
            true => &experiment.generations[rng.below(experiment.generations.len() as u64) as usize],
            false => experiment.generation().unwrap(),
        };
        let digest =
            UnitHasher::new(experiment.definition.key(), &generation.salt).digest(UnitKey::parse(&unit).unwrap());
        let revision = generation.revision_in_effect(when).unwrap().number;
        let stale = revision.saturating_sub(rng.below(3) as u32).max(1);
        let served = match rng.below(6) {
            0 => arm(rng.below(experiment.definition.variations().len() as u64) as usize),
            1 => generation.revision(stale).unwrap().allocation.owner(digest.point()),
            _ => generation.served_arm(digest.point(), when),
        };
        return exposure(name, generation.number, &unit, served, stale, when);
    }
    let names = ["signup", "view", "order", "nothing"];
    let name_sent = names[rng.below(4) as usize];
    let value = rng.below(40_000_000) as i64 - 5_000_000;
    let clock = if experiment.manual_now.is_some() { name } else { "" };
    // Few ids, so that many outcomes contradict each other.
    outcome(&unit, name_sent, value, when, &format!("id-{}", rng.below(400)), clock)
}
