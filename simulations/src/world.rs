//! The true state of the simulated world at each tick: the rate of every arm, and the expected number of new units.
//! Policies do not see it. Nothing here is random: `visitors` draws the units and their outcomes.

use std::f64::consts::TAU;

use crate::SimulationError;
use crate::scenario_doc::{ArmSpec, MetricSpec, ScenarioDoc};

/// True rates and expected arrivals, tick by tick.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    arms: usize,
    /// By tick, then by arm.
    rates: Vec<f64>,
    /// By tick.
    arrivals: Vec<f64>,
    /// Whether rates are probabilities, at most 1.
    probabilities: bool,
    heterogeneity: f64,
}

impl World {
    /// Computes the world of a scenario. The caller has checked the numbers of `doc`.
    pub(crate) fn new(doc: &ScenarioDoc) -> Self {
        let ticks = doc.days * doc.ticks_per_day;
        let day = |tick: u32| f64::from(tick) / f64::from(doc.ticks_per_day);
        let rates_at = |tick| doc.arms.iter().map(move |arm| rate(doc, arm, day(tick)));
        Self {
            arms: doc.arms.len(),
            rates: (0..ticks).flat_map(rates_at).collect(),
            arrivals: (0..ticks).map(|tick| arrivals(doc, day(tick))).collect(),
            probabilities: matches!(doc.metric, MetricSpec::Conversion | MetricSpec::Mean { .. }),
            heterogeneity: doc.heterogeneity,
        }
    }

    /// Checks that rates which are probabilities stay at most 1, for every unit.
    pub(crate) fn check(&self) -> Result<(), SimulationError> {
        let highest = self.highest();
        if self.probabilities && highest > 1.0 {
            let message =
                format!("the highest rate, with cycles, trend and lifts, is {highest:.3}, above 1. Use a smaller base");
            return Err(SimulationError::field("base", message));
        }
        let cv = self.heterogeneity;
        if self.probabilities && cv > 0.0 && cv * cv >= (1.0 - highest) / highest {
            let message =
                format!("propensities with mean {highest:.3} and maximum 1 cannot vary so much. Use a smaller value");
            return Err(SimulationError::field("heterogeneity", message));
        }
        Ok(())
    }

    /// Number of arms, control included.
    #[must_use]
    pub fn arms(&self) -> usize {
        self.arms
    }

    /// Number of ticks.
    #[must_use]
    pub fn ticks(&self) -> u32 {
        self.arrivals.len() as u32
    }

    /// The true rate of every arm at a tick: conversions per visit, events per unit, or numerator per denominator.
    #[must_use]
    pub fn rates(&self, tick: u32) -> &[f64] {
        let start = tick as usize * self.arms;
        &self.rates[start..start + self.arms]
    }

    /// The rate of the best arm at a tick.
    #[must_use]
    pub fn best_rate(&self, tick: u32) -> f64 {
        self.rates(tick).iter().fold(0.0, |best, rate| rate.max(best))
    }

    /// The expected number of new units in a tick.
    #[must_use]
    pub fn arrivals(&self, tick: u32) -> f64 {
        self.arrivals[tick as usize]
    }

    /// The highest rate of any arm at any time.
    #[must_use]
    pub fn highest(&self) -> f64 {
        self.rates.iter().fold(0.0, |best, rate| rate.max(best))
    }

    /// The arm with the highest rate at the last tick, the first of equals; none if all arms are equal.
    #[must_use]
    pub fn best_arm(&self) -> Option<usize> {
        let last = self.rates(self.ticks().saturating_sub(1));
        let best = (1..self.arms).fold(0, |best, arm| if last[arm] > last[best] { arm } else { best });
        last.iter().any(|rate| *rate != last[best]).then_some(best)
    }

    /// Whether no arm has a higher rate at the last tick than this one.
    #[must_use]
    pub fn is_best(&self, arm: usize) -> bool {
        let last = self.rates(self.ticks().saturating_sub(1));
        last.iter().all(|rate| *rate <= last[arm])
    }
}

/// The true rate of an arm on a day, which may be a fraction.
fn rate(doc: &ScenarioDoc, arm: &ArmSpec, day: f64) -> f64 {
    let cycles = (1.0 + doc.diurnal * (TAU * day).sin()) * (1.0 + doc.weekly * (TAU * day / 7.0).sin());
    let drift = 1.0 + doc.trend * day / f64::from(doc.days);
    doc.base * cycles * drift * (1.0 + lift_on_day(arm, day))
}

/// The true relative lift of an arm on a day, which may be a fraction.
#[must_use]
pub fn lift_on_day(arm: &ArmSpec, day: f64) -> f64 {
    arm.novelty.map_or(arm.lift, |n| n.to + (arm.lift - n.to) * 0.5_f64.powf(day / n.half_life_days))
}

/// The expected number of new units in the tick that begins on a day, which may be a fraction.
fn arrivals(doc: &ScenarioDoc, day: f64) -> f64 {
    doc.per_day / f64::from(doc.ticks_per_day) * (1.0 + 0.5 * doc.diurnal * (TAU * day).sin())
}
