//! What a scenario's world expects at each tick: every arm's rate, and how many units come. Random numbers are
//! `visitors`' business.

use std::f64::consts::TAU;

use crate::SimulationError;
use crate::scenario::{ArmSpec, MetricSpec, Scenario, ScenarioDoc};

/// Expectations, tick by tick.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    arms: usize,
    rates: Vec<f64>,
    arrivals: Vec<f64>,
    /// Whether rates are probabilities.
    probabilities: bool,
    heterogeneity: f64,
}

impl World {
    /// Works a scenario's world out.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let doc = scenario.doc();
        let ticks = scenario.ticks();
        let day = |tick: u32| f64::from(tick) / f64::from(doc.ticks_per_day);
        let of = |tick| doc.arms.iter().map(move |arm| rate(doc, arm, day(tick)));
        Self {
            arms: doc.arms.len(),
            rates: (0..ticks).flat_map(of).collect(),
            arrivals: (0..ticks).map(|tick| arrivals(doc, day(tick))).collect(),
            probabilities: matches!(doc.metric, MetricSpec::Conversion | MetricSpec::Mean { .. }),
            heterogeneity: doc.heterogeneity,
        }
    }

    pub(crate) fn check(&self) -> Result<(), SimulationError> {
        let highest = self.highest();
        if self.probabilities && highest > 1.0 {
            let message = format!("with all cycles, the trend and the lifts a rate comes to {highest:.3}, above 1");
            return Err(SimulationError::field("base", message));
        }
        let cv = self.heterogeneity;
        if self.probabilities && cv > 0.0 && cv * cv >= (1.0 - highest) / highest {
            let message = format!("no propensity of mean {highest:.3} and at most 1 varies so much: choose less");
            return Err(SimulationError::field("heterogeneity", message));
        }
        Ok(())
    }

    /// How many arms there are, control included.
    #[must_use]
    pub fn arms(&self) -> usize {
        self.arms
    }

    /// How many ticks there are.
    #[must_use]
    pub fn ticks(&self) -> u32 {
        self.arrivals.len() as u32
    }

    /// Every arm's rate at a tick: conversions per visit, events per unit, or numerator per denominator.
    #[must_use]
    pub fn rates(&self, tick: u32) -> &[f64] {
        let start = tick as usize * self.arms;
        &self.rates[start..start + self.arms]
    }

    /// The best arm's rate at a tick.
    #[must_use]
    pub fn best_rate(&self, tick: u32) -> f64 {
        self.rates(tick).iter().fold(0.0, |best, rate| rate.max(best))
    }

    /// How many new units a tick expects.
    #[must_use]
    pub fn arrivals(&self, tick: u32) -> f64 {
        self.arrivals[tick as usize]
    }

    /// The highest rate of any arm at any time.
    #[must_use]
    pub fn highest(&self) -> f64 {
        self.rates.iter().fold(0.0, |best, rate| rate.max(best))
    }

    /// The arm that is best at the end, the first of equals; none if all are alike.
    #[must_use]
    pub fn best_arm(&self) -> Option<usize> {
        let last = self.rates(self.ticks().saturating_sub(1));
        let best = (1..self.arms).fold(0, |best, arm| if last[arm] > last[best] { arm } else { best });
        last.iter().any(|rate| *rate != last[best]).then_some(best)
    }

    /// Whether no arm is better than this one at the end.
    #[must_use]
    pub fn is_best(&self, arm: usize) -> bool {
        let last = self.rates(self.ticks().saturating_sub(1));
        last.iter().all(|rate| *rate <= last[arm])
    }
}

fn rate(doc: &ScenarioDoc, arm: &ArmSpec, day: f64) -> f64 {
    let cycles = (1.0 + doc.diurnal * (TAU * day).sin()) * (1.0 + doc.weekly * (TAU * day / 7.0).sin());
    let drift = 1.0 + doc.trend * day / f64::from(doc.days);
    doc.base * cycles * drift * (1.0 + lift(arm, day))
}

/// An arm's relative lift at a day.
#[must_use]
pub fn lift(arm: &ArmSpec, day: f64) -> f64 {
    arm.novelty.map_or(arm.lift, |n| n.to + (arm.lift - n.to) * 0.5_f64.powf(day / n.half_life_days))
}

fn arrivals(doc: &ScenarioDoc, day: f64) -> f64 {
    doc.per_day / f64::from(doc.ticks_per_day) * (1.0 + 0.5 * doc.diurnal * (TAU * day).sin())
}
