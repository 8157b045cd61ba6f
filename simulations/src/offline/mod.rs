//! What policies would have made of a randomised log that somebody has already: any number of them in one pass, without
//! a server. The policies are those of simulations, driven by the same code; what is made up there is read here.
//!
//! Let policy π serve arm a with share π_t(a) in tick t, and let the log have given row i arm a_i with propensity p_i
//! and seen outcome r_i. By the *replay method* (Li, Chu, Langford and Wang 2011) a row counts where the policy gives
//! its unit what the log gave it, and the policy learns from those rows alone. So π_t is a function of earlier rows, and
//! w_i = π_t(a_i)/p_i has mean 1 given them: a unit's point is uniform, which makes shares chances. From it come
//!
//! - *IPS*, the mean of w_i·r_i (Horvitz and Thompson 1952);
//! - *SNIPS*, Σ w_i·r_i / Σ w_i (Hájek 1971; Swaminathan and Joachims 2015);
//! - *DR*, the mean of Σ_a π_t(a)·q_i(a) + w_i·(r_i − q_i(a_i)) (Dudík, Langford and Li 2011), where q_i(a) is arm a's mean
//!   over the rows before i, whoever they were served to.
//!
//! All three estimate Σ_i Σ_a π_t(a)·μ(a)/n, what the policy's own course of shares is worth per row. Their terms differ
//! from their means by martingale differences, so that the usual normal intervals hold although π_t learns. Replay's mean
//! estimates the same where all arms are logged alike often; elsewhere it leans to the arms that the log favours.
//!
//! Rows count as units of their own: a log in which units come back should be summed up by unit first.

mod estimate;
mod export;
mod lane;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::Duration;

use inroad_assignment::{ExperimentKey, MetricKind, Point, Salt, UnitHasher, UnitKey};
use inroad_policy::{MAX_ARMS, Measure};
use serde::Serialize;

use crate::SimulationError;
use crate::crowd::{Crowd, Moves};
use crate::driver::{Driver, Frame};
use crate::judge::Judge;
use crate::policies::{PolicyDoc, PolicySpec};

pub use estimate::Estimate;
pub use export::write_policies;

use estimate::Ratio;
use lane::{Lane, Met, Model};

/// The experiment that every logged unit is in.
const EXPERIMENT: &str = "counterfactual";
/// A year of hours: more is rather a column misread than a log.
const TICKS_MAX: u32 = 366 * 24;
/// How many rows go by between two calls of the progress.
const PROGRESS_ROWS: usize = 4096;

/// One row of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedRow {
    /// Who: a unit's key.
    pub unit: Box<str>,
    /// When, in ticks since the first, never before the row before.
    pub tick: u32,
    /// What it got; 0 is control.
    pub arm: usize,
    /// What came of it, 0 or more. Nothing but 0 and 1 in all rows makes conversions of them.
    pub outcome: f64,
    /// With which probability it got that, above 0 and at most 1: known for all rows or for none.
    pub propensity: Option<f64>,
}

/// A log with nothing wrong in it, and what time and arms it has.
#[derive(Debug, Clone, PartialEq)]
pub struct OfflineLog {
    rows: Vec<LoggedRow>,
    arms: usize,
    ticks_per_day: u32,
    propensities: bool,
    conversion: bool,
}

impl OfflineLog {
    /// Checks every row. `ticks_per_day` is 1 to 24, a divisor of 24; `arms` is 2 to 65, control included.
    pub fn new(rows: Vec<LoggedRow>, arms: usize, ticks_per_day: u32) -> Result<Self, SimulationError> {
        if !(1..=24).contains(&ticks_per_day) || 24 % ticks_per_day != 0 {
            return Err(SimulationError::field("ticks_per_day", "choose 1, 2, 3, 4, 6, 8, 12 or 24"));
        }
        if !(2..=MAX_ARMS).contains(&arms) {
            return Err(SimulationError::field("arms", "give control and 1 to 64 variations"));
        }
        if rows.len() < 2 {
            return Err(SimulationError::field("rows", "there is nothing to estimate from"));
        }
        let propensities = rows.first().is_some_and(|row| row.propensity.is_some());
        let mut before = 0;
        for (i, row) in rows.iter().enumerate() {
            let fault = |message: String| Err(SimulationError::Row { row: i as u64 + 1, message });
            if row.arm >= arms {
                return fault(format!("arm {} is not declared, there are {arms}", row.arm));
            }
            if !(row.outcome.is_finite() && row.outcome >= 0.0) {
                return fault(format!("outcome {} is not 0 or more: policies compare by ratios", row.outcome));
            }
            if row.propensity.is_some() != propensities {
                return fault("some rows have a propensity and some have none".to_owned());
            }
            if row.propensity.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
                let p = row.propensity.unwrap_or_default();
                return fault(format!("propensity {p} is not above 0 and at most 1"));
            }
            if row.tick < before {
                return fault("rows are not in the order of time".to_owned());
            }
            if row.tick >= TICKS_MAX {
                return fault(format!("it comes {} ticks after the first, more than {TICKS_MAX}", row.tick));
            }
            before = row.tick;
            UnitKey::parse(&row.unit)?;
        }
        let conversion = rows.iter().all(|row| row.outcome == 0.0 || row.outcome == 1.0);
        Ok(Self { rows, arms, ticks_per_day, propensities, conversion })
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> &[LoggedRow] {
        &self.rows
    }

    /// How many ticks it lasts, those without rows included.
    #[must_use]
    pub fn ticks(&self) -> u32 {
        self.rows.last().map_or(0, |row| row.tick + 1)
    }

    fn frame(&self) -> Frame {
        Frame {
            experiment: EXPERIMENT,
            arms: self.arms,
            ticks_per_day: self.ticks_per_day,
            measure: if self.conversion { Measure::Conversion } else { Measure::Mean },
            // A mean that decides needs a cap; this one never binds.
            metric: if self.conversion { MetricKind::Conversion } else { MetricKind::Mean { cap: Some(1e12) } },
            // Outcomes are known as soon as the row is.
            window: Duration::from_secs(3600),
        }
    }
}

/// What the log itself says of one arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoggedArm {
    /// Rows that got it.
    pub rows: u64,
    /// Their mean outcome.
    pub mean: Option<Estimate>,
    /// Mean of 1/p over all rows where they got it and 0 elsewhere. Far from 1, the propensities are not the log's.
    pub weight: Option<Estimate>,
}

/// What one policy would have come to. Estimates are outcomes per row, with 95% intervals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyResult {
    /// The policy's name.
    pub policy: String,
    /// Rows that got what the policy gives their unit: those it learned from.
    pub matched: u64,
    /// Their mean outcome: the replay method.
    pub replay: Option<Estimate>,
    /// Inverse propensity scoring; without propensities none, as for the next two.
    pub ips: Option<Estimate>,
    /// Self-normalised inverse propensity scoring.
    pub snips: Option<Estimate>,
    /// Doubly robust.
    pub dr: Option<Estimate>,
    /// Relative gain over the log's mean outcome, 0.1 for a tenth more: by DR, or by replay without propensities.
    pub lift: Option<Estimate>,
    /// Rows that carry as much as the weighted ones, (Σw)²/Σw².
    pub effective_rows: Option<f64>,
    /// Each arm's share after the last row's tick.
    pub shares: Vec<f64>,
    /// Each arm's share in each tick, those without rows included.
    pub course: Vec<Vec<f64>>,
    /// Each arm's probability of being best, as the policy believes in the end.
    pub p_best: Vec<f64>,
    /// The arm most likely best, or the one that was shipped.
    pub leader: usize,
    /// How often boundaries moved.
    pub revisions: u32,
    /// Arms that were killed, in that order.
    pub killed: Vec<usize>,
    /// The arm that got everything in the end, under a policy that ships.
    pub shipped: Option<usize>,
    /// Units that had come and were served something else later, all of the log's units taken as the policy's.
    pub moves: Moves,
}

/// What a log says of policies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counterfactual {
    /// Rows of the log.
    pub rows: u64,
    /// Different units in it.
    pub units: u64,
    /// Ticks that it lasts.
    pub ticks: u32,
    /// Whether propensities are known.
    pub propensities: bool,
    /// Its mean outcome: what the policy that made it is worth.
    pub mean: Option<Estimate>,
    /// Its arms, control first.
    pub arms: Vec<LoggedArm>,
    /// One per policy, in the order they were given.
    pub policies: Vec<PolicyResult>,
}

/// Sends a log by all policies at once. The same log, policies and salt give the same to the last digit. `progress` is
/// told every now and then how many rows have gone by.
pub fn counterfactual(
    log: &OfflineLog,
    policies: &[PolicyDoc],
    salt: &Salt,
    progress: Option<&dyn Fn(u64)>,
) -> Result<Counterfactual, SimulationError> {
    let specs = PolicySpec::all(policies, log.arms, log.ticks_per_day)?;
    let frame = log.frame();
    let hasher = UnitHasher::new(&ExperimentKey::parse(EXPERIMENT)?, salt);
    // The salt is all the chance there is: the policies' draws hang on it as well.
    let seed = hasher.digest(UnitKey::parse("seed")?).point().get();
    let lanes = specs.iter().map(|spec| Ok(Lane::new(&frame, spec, Driver::new(&frame, spec, salt, seed)?)));
    let mut lanes = lanes.collect::<Result<Vec<_>, SimulationError>>()?;
    let (mut judge, mut crowd, mut model) = (Judge::new(frame.measure), Crowd::new(), Model::new(log.arms));
    let (mut known, mut met, mut mean) = (HashSet::<Point>::new(), Vec::new(), Ratio::default());
    let mut weights = vec![Ratio::default(); log.arms];
    let mut rest = log.rows.as_slice();
    for tick in 0..log.ticks() {
        for lane in &mut lanes {
            lane.begin(&mut judge, &crowd, tick)?;
        }
        let (batch, later) = rest.split_at(rest.partition_point(|row| row.tick == tick));
        rest = later;
        met.clear();
        for row in batch {
            let point = hasher.digest(UnitKey::parse(&row.unit)?).point();
            if known.insert(point) {
                crowd.join(point);
            }
            met.push(Met { point, arm: row.arm, outcome: row.outcome, propensity: row.propensity });
        }
        for (i, row) in met.iter().enumerate() {
            lanes.iter_mut().for_each(|lane| lane.meet(tick, row, &model));
            model.learn(row);
            mean.push(row.outcome, 1.0);
            if let Some(p) = row.propensity {
                let got = |arm| if arm == row.arm { 1.0 / p } else { 0.0 };
                weights.iter_mut().enumerate().for_each(|(arm, weight)| weight.push(got(arm), 1.0));
            }
            if let (Some(progress), true) = (progress, i % PROGRESS_ROWS == 0) {
                progress((log.rows.len() - rest.len() - met.len() + i) as u64);
            }
        }
        lanes.iter_mut().for_each(|lane| lane.end(&crowd));
    }
    let finish = |lane: Lane<'_>| lane.finish(&mut judge, &crowd, log.ticks(), &mean);
    let policies = lanes.into_iter().map(finish).collect::<Result<Vec<_>, _>>()?;
    let arm = |(arm, weight): (&Ratio, &Ratio)| LoggedArm {
        rows: arm.count(),
        mean: arm.estimate(),
        weight: weight.estimate(),
    };
    Ok(Counterfactual {
        rows: log.rows.len() as u64,
        units: crowd.size(),
        ticks: log.ticks(),
        propensities: log.propensities,
        mean: mean.estimate(),
        arms: model.arms().iter().zip(&weights).map(arm).collect(),
        policies,
    })
}
