//! One run: units come, are hashed and served, convert or do not; at every tick the policy is asked, and what it says is
//! done through the experiment's own changes. Records follow the data rule through the generation's own history.

use std::time::Duration;

use inroad_assignment::document::{MetricDoc, PolicyDoc, VariationDoc};
use inroad_assignment::experiment::{Cause, ChangeError};
use inroad_assignment::{
    Arm, Definition, DefinitionDoc, DefinitionError, Experiment, ExperimentKey, KeyError, Point, Salt, Target,
    ThompsonSettings, Timestamp, UnitHasher, UnitKey,
};
use inroad_assignment::{MetricKind, Payload};
use inroad_policy::{ArmState, ArmTally, Decider, EpochKey, EpochTally, PolicyError, TickInput};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, Exp, Poisson};
use thiserror::Error;

use crate::world::{DAYS, TICKS_PER_DAY, World};

/// A tick's length.
const TICK: Duration = Duration::from_secs(86_400 / TICKS_PER_DAY as u64);

/// Who moves the boundaries.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Nobody: all arms have the same share throughout.
    EqualSplit,
    /// Thompson sampling, eating control.
    Growth(ThompsonSettings),
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Conversions forgone against always serving the best arm, as a part of those that would have had.
    pub regret: f64,
    /// Shares served at the end, control first.
    pub shares: Vec<f64>,
    /// Units that came.
    pub units: u64,
    /// Units that moved from one variation to another, counted over every unit at every revision.
    pub moved_between_variations: u64,
    /// Units that moved from control into a variation.
    pub crossed: u64,
    /// Arms that were killed.
    pub killed: Vec<usize>,
    /// The arm that the policy first put before a person, and the tick.
    pub concluded: Option<(usize, u32)>,
}

/// Why a run could not be made.
#[derive(Debug, Error)]
pub enum SimulationError {
    /// The world makes no experiment.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A key is malformed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A change was refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The policy failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A number of the world is out of its range.
    #[error("the world {0:?} has a number that is out of its range")]
    World(&'static str),
}

/// A unit that came.
struct Unit {
    point: Point,
    /// What it was served when it came; kept to count moves.
    served: Arm,
    tick: u32,
    came: Timestamp,
    converts_at: Option<Timestamp>,
}

fn declare(world: &World, rule: &Rule) -> Result<Experiment, SimulationError> {
    let arms = world.lifts.len();
    let share = match rule {
        Rule::EqualSplit => Some(1.0 / arms as f64),
        Rule::Growth(_) => None,
    };
    let variation = |arm: usize| VariationDoc {
        key: if arm == 0 { "control".to_owned() } else { format!("v{arm}") },
        payload: Payload::Number(arm as f64),
        description: String::new(),
        share: share.filter(|_| arm > 0),
    };
    let hours = world.delay_hours.map_or(1.0, |(_, window)| window);
    let doc = DefinitionDoc {
        key: "simulated".to_owned(),
        description: String::new(),
        owner: String::new(),
        tags: Vec::new(),
        lifetime: Default::default(),
        unit: None,
        audience: None,
        salt: None,
        clock: Default::default(),
        policy: match rule {
            Rule::EqualSplit => PolicyDoc::Manual { floor: 0.0, tick: TICK },
            Rule::Growth(settings) => PolicyDoc::Thompson(ThompsonSettings { tick: TICK, ..settings.clone() }),
        },
        variations: (0..arms).map(variation).collect(),
        overrides: Vec::new(),
        metrics: vec![MetricDoc {
            key: "converted".to_owned(),
            event: "converted".to_owned(),
            kind: MetricKind::Conversion,
            window: Duration::from_secs_f64(hours * 3600.0),
            direction: inroad_assignment::definition::Direction::Up,
            decision: true,
            guardrail: None,
        }],
    };
    Ok(Experiment::create(Definition::try_from(doc)?, Timestamp::default()))
}

/// Lives through 28 days of `world` under `rule`.
pub fn run(world: &World, rule: &Rule, seed: u64) -> Result<Outcome, SimulationError> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut experiment = declare(world, rule)?;
    let salt = Salt::parse(&format!("s{seed}"))?;
    let hasher = UnitHasher::new(&ExperimentKey::parse("simulated")?, &salt);
    experiment.start(Timestamp::default(), salt)?;
    let window = experiment.definition.metrics().first().map_or(TICK, |m| m.window);
    let arms = world.lifts.len();
    let mut units: Vec<Unit> = Vec::new();
    let (mut forgone, mut possible) = (0.0, 0.0);
    let mut decider = Decider::default();
    let mut outcome = Outcome {
        regret: 0.0,
        shares: Vec::new(),
        units: 0,
        moved_between_variations: 0,
        crossed: 0,
        killed: Vec::new(),
        concluded: None,
    };
    for tick in 0..DAYS * TICKS_PER_DAY {
        let now = Timestamp::start_of_tick(i64::from(tick), TICK);
        if let (Rule::Growth(settings), true) = (rule, tick > 0) {
            let settings = ThompsonSettings { tick: TICK, ..settings.clone() };
            let input = input(&experiment, &settings, &units, window, now, arms);
            let decision = decider.decide(&input)?;
            for arm in decision.kill.iter().filter_map(|arm| Arm::new(*arm)) {
                experiment.switch(Target::Variation(arm), true, now)?;
                outcome.killed.push(arm.index());
            }
            let grows = decision.arms.iter().enumerate().filter_map(|(i, a)| Some((Arm::new(i)?, a.grow_by)));
            let requests: Vec<_> = grows.filter(|(_, width)| width.get() > 0).collect();
            if !requests.is_empty() {
                experiment.grow(&requests, Cause::Policy, now, now)?;
                count_moves(&experiment, &mut units, &mut outcome);
            }
            experiment.last_growth_at = Some(now);
            outcome.concluded = outcome.concluded.or(decision.conclude.map(|c| (c.arm, tick)));
        }
        outcome.shares = shares(&experiment, arms);
        let best = (0..arms).map(|arm| world.rate(arm, tick)).fold(0.0, f64::max);
        let served: f64 = (0..arms).map(|arm| outcome.shares[arm] * world.rate(arm, tick)).sum();
        let fault = |_| SimulationError::World(world.name);
        let come = Poisson::new(world.arrivals(tick).max(1e-9)).map_err(fault)?.sample(&mut rng) as u64;
        let visits = come as f64 + world.returning * units.len() as f64;
        forgone += visits * (best - served);
        possible += visits * best;
        arrive(world, &experiment, &hasher, &mut units, (tick, now, come), &mut rng)?;
    }
    outcome.units = units.len() as u64;
    outcome.regret = forgone / possible;
    Ok(outcome)
}

fn arrive(
    world: &World,
    experiment: &Experiment,
    hasher: &UnitHasher,
    units: &mut Vec<Unit>,
    (tick, now, come): (u32, Timestamp, u64),
    rng: &mut ChaCha12Rng,
) -> Result<(), SimulationError> {
    let allocation = experiment.latest_allocation();
    for _ in 0..come {
        let name = units.len().to_string();
        let point = hasher.digest(UnitKey::parse(&name)?).point();
        let served = experiment.kills.served(allocation.owner(point));
        let converts = rng.random::<f64>() < world.rate(served.index(), tick);
        let delay = match world.delay_hours {
            Some((mean, window)) => {
                let exponential = Exp::new(1.0 / mean).map_err(|_| SimulationError::World(world.name))?;
                // Truncated at the window: drawn again until it falls within.
                let mut hours = exponential.sample(rng);
                while hours >= window {
                    hours = exponential.sample(rng);
                }
                hours
            }
            None => 0.0,
        };
        let converts_at = converts.then(|| now.plus(Duration::from_secs_f64(delay * 3600.0)));
        units.push(Unit { point, served, tick, came: now, converts_at });
    }
    Ok(())
}

fn shares(experiment: &Experiment, arms: usize) -> Vec<f64> {
    let allocation = experiment.latest_allocation();
    let mut shares = vec![0.0; arms];
    for owner in (0..arms).filter_map(Arm::new) {
        shares[experiment.kills.served(owner).index()] += allocation.width_of(owner).share();
    }
    shares
}

/// Looks at every unit that has come: who is served something else than at first, kills aside?
fn count_moves(experiment: &Experiment, units: &mut [Unit], outcome: &mut Outcome) {
    let allocation = experiment.latest_allocation();
    for unit in units {
        let owner = allocation.owner(unit.point);
        if owner == unit.served || experiment.kills.arm(owner) {
            continue;
        }
        if unit.served.is_control() {
            outcome.crossed += 1;
            // From here on it has seen a variation, and is watched as one of that variation's.
            unit.served = owner;
        } else {
            outcome.moved_between_variations += 1;
        }
    }
}

fn input(
    experiment: &Experiment,
    settings: &ThompsonSettings,
    units: &[Unit],
    window: Duration,
    now: Timestamp,
    arms: usize,
) -> TickInput {
    let allocation = experiment.latest_allocation();
    let generation = experiment.generation();
    let mut epochs: Vec<EpochTally> = Vec::new();
    for unit in units {
        let tick = i64::from(unit.tick);
        if epochs.last().is_none_or(|e| e.epoch.tick != tick) {
            let epoch = EpochKey { tick, revision: 1 };
            epochs.push(EpochTally { epoch, arms: vec![ArmTally::default(); arms], shares: Vec::new() });
        }
        let Some(generation) = generation else { continue };
        let arm = generation.served(unit.point, unit.came);
        let Some(tally) = epochs.last_mut().and_then(|e| e.arms.get_mut(arm.index())) else { continue };
        tally.first += 1;
        if generation.serves_throughout(unit.point, arm, unit.came, unit.came.plus(window)) {
            tally.n += 1;
            tally.s += u64::from(unit.converts_at.is_some_and(|at| at < now));
        }
    }
    let state = |(i, v): (usize, &inroad_assignment::definition::Variation)| {
        let arm = Arm::new(i)?;
        let killed = experiment.kills.arm(arm);
        Some(ArmState { owned: allocation.width_of(arm), foothold: v.foothold, killed, spared: false })
    };
    TickInput {
        now,
        generation_started_at: Timestamp::default(),
        last_growth_at: experiment.last_growth_at.unwrap_or_default(),
        seed: now.as_micros().unsigned_abs(),
        settings: settings.clone(),
        arms: experiment.definition.variations().iter().enumerate().filter_map(state).collect(),
        floor: experiment.definition.policy().floor(),
        data_late: false,
        measure: inroad_policy::Measure::Conversion,
        better: inroad_policy::Better::More,
        scope: inroad_policy::Scope::Growth,
        guardrails: Vec::new(),
        epochs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{named, worlds};

    #[test]
    fn no_unit_is_moved_between_variations_in_any_world() {
        for world in worlds() {
            let outcome = run(&World { per_day: world.per_day / 4.0, ..world }, &growth(), 7).expect("a run");
            assert_eq!(outcome.moved_between_variations, 0, "{outcome:?}");
            assert!(outcome.shares.iter().all(|share| *share >= 0.0) && outcome.shares[0] >= 0.05 - 1e-9);
        }
    }

    #[test]
    fn a_winner_eats_control_and_costs_less_than_an_equal_split() {
        let world = named("S1").expect("S1");
        let seeds = 1..=8;
        let mean =
            |rule: &Rule| seeds.clone().map(|seed| run(&world, rule, seed).expect("a run").regret).sum::<f64>() / 8.0;
        assert!(mean(&growth()) < mean(&Rule::EqualSplit));
    }

    #[test]
    fn the_same_seed_repeats_to_the_last_digit() {
        let world = named("S8").expect("S8");
        let again = || run(&world, &growth(), 3).expect("a run");
        assert_eq!(again(), again());
    }

    fn growth() -> Rule {
        Rule::Growth(ThompsonSettings::default())
    }
}
