//! A simulated experiment for the tests of the policy, like scenario S1. Its shares follow the decisions.

use std::time::Duration;

use inroad_assignment::{ThompsonSettings, Timestamp, Width};
use inroad_policy::{
    ArmState, ArmTally, BetterDirection, Decider, Decision, EpochKey, EpochTally, Measure, SampleRatioRule, TickInput,
    TickScope,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution, Poisson};

pub(crate) const DAY_US: i64 = 86_400_000_000;

/// A simulated experiment. The baseline may change over time; the lifts are constant.
pub(crate) struct SimulatedExperiment {
    /// Conversion rate of control at the start, 0..1.
    pub(crate) base: f64,
    /// Relative lifts; the first is control's 0.
    pub(crate) lifts: Vec<f64>,
    /// Expected units per day.
    pub(crate) per_day: f64,
    pub(crate) ticks_per_day: i64,
    /// Relative amplitude of the daily cycle of the baseline.
    pub(crate) diurnal: f64,
    /// Relative growth of the baseline over 28 days.
    pub(crate) trend: f64,
}

/// The result of a simulation.
pub(crate) struct SimulationResult {
    pub(crate) input: TickInput,
    pub(crate) killed: Vec<usize>,
    /// The first arm that was found clearly best.
    pub(crate) clearly_best: Option<usize>,
    /// The first arm that a person was prompted to ship; control for a roll back.
    pub(crate) prompted: Option<usize>,
}

pub(crate) fn share(value: f64) -> Width {
    Width::from_share(value).unwrap()
}

/// A new experiment of `arms` arms: the variations' initial shares are 20% of the line together, the floor is 5%.
pub(crate) fn new_experiment(arms: usize) -> TickInput {
    let foothold = Width::new(Width::LINE.get() / 5 / (arms as u128 - 1)).unwrap();
    let control = Width::new(Width::LINE.get() - foothold.get() * (arms as u128 - 1)).unwrap();
    TickInput {
        now: Timestamp::from_micros(0),
        generation_started_at: Timestamp::from_micros(0),
        last_growth_at: Timestamp::from_micros(0),
        seed: 1,
        settings: ThompsonSettings::default(),
        arms: (0..arms)
            .map(|arm| ArmState {
                owned: if arm == 0 { control } else { foothold },
                foothold,
                killed: false,
                kill_exempt: false,
                guardrail_alerted: false,
            })
            .collect(),
        floor: share(0.05),
        evidence_share: Width::ZERO,
        data_late: false,
        sample_ratio: SampleRatioRule::Mixed,
        exposures: Vec::new(),
        measure: Measure::Conversion,
        better: BetterDirection::Higher,
        scope: TickScope::Growth,
        epochs: Vec::new(),
        guardrails: Vec::new(),
    }
}

/// The served shares; a killed arm's share goes to control.
pub(crate) fn served(input: &TickInput) -> Vec<f64> {
    let mut shares: Vec<f64> = input.arms.iter().map(|arm| if arm.killed { 0.0 } else { arm.owned.share() }).collect();
    shares[0] = 1.0 - shares[1..].iter().sum::<f64>();
    shares
}

/// Applies a decision.
pub(crate) fn apply(input: &mut TickInput, decision: &Decision) {
    for (k, arm) in decision.arms.iter().enumerate() {
        input.arms[0].owned = input.arms[0].owned.saturating_sub(arm.grow_by);
        input.arms[k].owned = input.arms[k].owned.checked_add(arm.grow_by).unwrap();
    }
    decision.kill.iter().for_each(|&arm| input.arms[arm].killed = true);
    if decision.resets_growth_allowance() {
        input.last_growth_at = input.now;
    }
}

impl SimulatedExperiment {
    /// Simulates this number of days.
    pub(crate) fn run(&self, days: i64, seed: u64, decider: &mut Decider) -> SimulationResult {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut input = new_experiment(self.lifts.len());
        input.settings.tick = Duration::from_micros((DAY_US / self.ticks_per_day) as u64);
        let (mut killed, mut clearly_best, mut prompted) = (Vec::new(), None, None);
        for tick in 0..days * self.ticks_per_day {
            let day = tick as f64 / self.ticks_per_day as f64;
            let rate = self.base
                * (1.0 + self.diurnal * (2.0 * std::f64::consts::PI * day).sin())
                * (1.0 + self.trend * day / 28.0);
            let shares = served(&input);
            let arms = shares.iter().zip(&self.lifts).map(|(share, lift)| {
                let expected = self.per_day / self.ticks_per_day as f64 * share;
                let n = if expected > 0.0 { Poisson::new(expected).unwrap().sample(&mut rng) as u64 } else { 0 };
                let s = Binomial::new(n, (rate * (1.0 + lift)).min(1.0)).unwrap().sample(&mut rng);
                ArmTally { first: n, n, s, ..ArmTally::default() }
            });
            let arms = arms.collect();
            input.epochs.push(EpochTally { epoch: EpochKey { tick, revision: 1 }, arms, shares });
            input.now = Timestamp::from_micros((tick + 1) * DAY_US / self.ticks_per_day);
            // All ticks have the same seed, so the draws are made only once.
            let decision = decider.decide(&input).unwrap();
            killed.extend(&decision.kill);
            clearly_best = clearly_best.or(decision.clearly_best.map(|best| best.arm));
            let ready = decision.ship.is_some_and(|ship| ship.ready());
            prompted = prompted.or(decision.conclude.map(|conclude| conclude.arm).filter(|_| ready));
            apply(&mut input, &decision);
        }
        SimulationResult { input, killed, clearly_best, prompted }
    }
}
