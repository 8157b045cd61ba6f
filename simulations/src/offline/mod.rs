//! Counterfactual evaluation: estimates from the log of a randomised experiment what other policies would have
//! achieved. Any number of policies is evaluated in one pass, without a server. The policies and their code are those
//! of simulations; arrivals and outcomes come from the log.
//!
//! Let policy π serve arm a with share π_t(a) in tick t, and let row i of the log have arm a_i, propensity p_i and
//! outcome r_i. By the *replay method* (Li, Chu, Langford and Wang 2011) a row matches if the policy gives its unit the
//! arm that the log gave it, and the policy learns from matching rows only. So π_t is a function of earlier rows, and
//! w_i = π_t(a_i)/p_i has mean 1 given these rows: points of units are uniform, so shares are probabilities. The
//! estimators are
//!
//! - *IPS*, the mean of w_i·r_i (Horvitz and Thompson 1952);
//! - *SNIPS*, Σ w_i·r_i / Σ w_i (Hájek 1971; Swaminathan and Joachims 2015);
//! - *DR*, the mean of Σ_a π_t(a)·q_i(a) + w_i·(r_i − q_i(a_i)) (Dudík, Langford and Li 2011), where q_i(a) is arm a's
//!   mean over all rows before i, matching or not.
//!
//! All three estimate Σ_i Σ_a π_t(a)·μ(a)/n: the expected outcome per row under the shares that the policy had over
//! time. Their terms differ from their means by martingale differences, so that the usual normal intervals are valid
//! although π_t learns. The mean of matching rows (replay) estimates the same if the log gave all arms equally often.
//! Otherwise it is biased towards the arms that the log gave more often.
//!
//! Each row counts as a separate unit. If units have several rows, sum them up by unit first.

mod estimate;
mod export;
mod policy_replay;
mod row_order;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::Duration;

use inroad_assignment::{ExperimentKey, MetricKind, Point, Salt, UnitHasher, UnitKey};
use inroad_policy::{MAX_ARMS, Measure};
use serde::Serialize;

use crate::SimulationError;
use crate::driver::{ExperimentSetup, PolicyDriver};
use crate::policies::{PolicyDoc, PolicySpec};
use crate::statistics::Statistics;
use crate::unit_moves::{ArrivedUnits, UnitMoves};

pub use estimate::Estimate;
pub use export::write_policies;
pub use inroad_policy::chi_squared_tail;
pub use row_order::{OrderTest, RowOrder, row_order_of_arms, row_order_of_outcomes};

use estimate::Ratio;
use policy_replay::{LocatedRow, OutcomeModel, PolicyReplay};

/// Key of the experiment in which the logged units are placed.
const EXPERIMENT: &str = "counterfactual";
/// The hours of a year. With more ticks, a column of the log has probably been misread.
const TICKS_MAX: u32 = 366 * 24;
/// Rows between two calls of the progress function.
const PROGRESS_ROWS: usize = 4096;

/// One row of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedRow {
    /// Key of the unit.
    pub unit: Box<str>,
    /// Tick of the row, counted from the first; not before that of the previous row.
    pub tick: u32,
    /// The arm that the unit got; 0 is control.
    pub arm: usize,
    /// The outcome, 0 or more. If all outcomes are 0 or 1, the metric is a conversion.
    pub outcome: f64,
    /// The probability with which the unit got this arm, above 0 and at most 1. Known for all rows or for none.
    pub propensity: Option<f64>,
}

/// A log whose rows have been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct OfflineLog {
    rows: Vec<LoggedRow>,
    arms: usize,
    ticks_per_day: u32,
    has_propensities: bool,
    is_conversion: bool,
}

impl OfflineLog {
    /// Checks every row. `ticks_per_day` is 1 to 24, a divisor of 24; `arms` is 2 to 65, control included.
    ///
    /// # Errors
    ///
    /// An argument is out of range, or a row is not valid. The message names the row.
    pub fn new(rows: Vec<LoggedRow>, arms: usize, ticks_per_day: u32) -> Result<Self, SimulationError> {
        if !(1..=24).contains(&ticks_per_day) || 24 % ticks_per_day != 0 {
            return Err(SimulationError::field("ticks_per_day", "use 1, 2, 3, 4, 6, 8, 12 or 24"));
        }
        if !(2..=MAX_ARMS).contains(&arms) {
            return Err(SimulationError::field("arms", "give control and 1 to 64 variations"));
        }
        if rows.len() < 2 {
            return Err(SimulationError::field(
                "rows",
                "the log has fewer than 2 rows. At least 2 are needed for an estimate",
            ));
        }
        let has_propensities = rows.first().is_some_and(|row| row.propensity.is_some());
        let mut previous_tick = 0;
        for (i, row) in rows.iter().enumerate() {
            let refuse = |message: String| Err(SimulationError::Row { row: i as u64 + 1, message });
            if row.arm >= arms {
                return refuse(format!("arm {} is not declared. Arms are 0 to {}", row.arm, arms - 1));
            }
            if !(row.outcome.is_finite() && row.outcome >= 0.0) {
                return refuse(format!(
                    "outcome {} is not valid. Use 0 or more, because the counterfactual compares arms by ratios. `inroad replay` \
                     compares negative outcomes by differences, as further columns of --outcome",
                    row.outcome
                ));
            }
            if row.propensity.is_some() != has_propensities {
                return refuse(
                    "some rows have a propensity and some have none. Give it for all rows or for none".to_owned(),
                );
            }
            if row.propensity.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
                let p = row.propensity.unwrap_or_default();
                return refuse(format!("propensity {p} is not valid. Use a number above 0 and at most 1"));
            }
            if row.tick < previous_tick {
                return refuse("the row is earlier than the row before it. Sort rows by time".to_owned());
            }
            if row.tick >= TICKS_MAX {
                return refuse(format!(
                    "the row is {} ticks after the first. At most {} are allowed",
                    row.tick,
                    TICKS_MAX - 1
                ));
            }
            previous_tick = row.tick;
            UnitKey::parse(&row.unit)?;
        }
        let is_conversion = rows.iter().all(|row| row.outcome == 0.0 || row.outcome == 1.0);
        Ok(Self { rows, arms, ticks_per_day, has_propensities, is_conversion })
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[LoggedRow] {
        &self.rows
    }

    /// Number of ticks, those without rows included.
    #[must_use]
    pub fn ticks(&self) -> u32 {
        self.rows.last().map_or(0, |row| row.tick + 1)
    }

    /// The experiment in which the policies run.
    fn setup(&self) -> ExperimentSetup {
        ExperimentSetup {
            experiment: EXPERIMENT,
            arms: self.arms,
            ticks_per_day: self.ticks_per_day,
            measure: if self.is_conversion { Measure::Conversion } else { Measure::Mean },
            // A primary metric of kind mean needs a cap. This one has no effect.
            metric: if self.is_conversion { MetricKind::Conversion } else { MetricKind::Mean { cap: Some(1e12) } },
            // Outcomes are known at once.
            window: Duration::from_secs(3600),
        }
    }
}

/// The results of one arm in the log itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoggedArm {
    /// Number of rows with this arm.
    pub rows: u64,
    /// Their mean outcome.
    pub mean: Option<Estimate>,
    /// Mean over all rows of 1/p for rows with this arm and 0 for others. If it is far from 1, the propensities are
    /// wrong.
    pub weight: Option<Estimate>,
}

/// The estimated results of one policy. Estimates are outcomes per row, with 95% intervals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyResult {
    /// Name of the policy.
    pub policy: String,
    /// Number of rows whose arm is the one that the policy gives the unit. The policy learned from these rows.
    pub matched: u64,
    /// Mean outcome of the matching rows: the replay method.
    pub replay: Option<Estimate>,
    /// Inverse propensity scoring. This estimate and the next two are none without propensities.
    pub ips: Option<Estimate>,
    /// Self-normalised inverse propensity scoring.
    pub snips: Option<Estimate>,
    /// Doubly robust estimate.
    pub dr: Option<Estimate>,
    /// Relative gain over the mean outcome of the log, 0.1 for 10% more: by DR, or by replay without propensities. None
    /// if its interval would reach −100%, which outcomes of 0 or more cannot: there are too few outcomes for it.
    pub lift: Option<Estimate>,
    /// Effective number of rows: unweighted rows with the same information as the weighted ones, (Σw)²/Σw².
    pub effective_rows: Option<f64>,
    /// Share of each arm after the last tick.
    pub shares: Vec<f64>,
    /// Share of each arm in each tick, ticks without rows included.
    pub course: Vec<Vec<f64>>,
    /// Probability of each arm to be the best, estimated at the end.
    pub p_best: Vec<f64>,
    /// The shipped arm, or the arm most likely to be the best at the end.
    pub leader: usize,
    /// Number of changes of the boundaries.
    pub revisions: u32,
    /// Killed arms, in the order of the kills.
    pub killed: Vec<usize>,
    /// The arm that was shipped, if any.
    pub shipped: Option<usize>,
    /// Units whose arm changed, if the policy had served all units of the log.
    pub moves: UnitMoves,
}

/// The results of all policies over one log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counterfactual {
    /// Number of rows.
    pub rows: u64,
    /// Number of different units.
    pub units: u64,
    /// Number of ticks.
    pub ticks: u32,
    /// Whether propensities are known.
    pub propensities: bool,
    /// Mean outcome of all rows: the result of the policy that made the log.
    pub mean: Option<Estimate>,
    /// The arms, control first.
    pub arms: Vec<LoggedArm>,
    /// One per policy, in the order given.
    pub policies: Vec<PolicyResult>,
}

/// Evaluates all policies in one pass over the log. The same log, policies and salt give the same results to the last
/// digit. `progress` is called from time to time with the number of processed rows.
///
/// # Errors
///
/// A policy is not valid, or a decision or an estimate failed.
pub fn counterfactual(
    log: &OfflineLog,
    policies: &[PolicyDoc],
    salt: &Salt,
    progress: Option<&dyn Fn(u64)>,
) -> Result<Counterfactual, SimulationError> {
    let specs = PolicySpec::check_all(policies, log.arms, log.ticks_per_day)?;
    let setup = log.setup();
    let hasher = UnitHasher::new(&ExperimentKey::parse(EXPERIMENT)?, salt);
    // The salt is the only source of randomness: the seed of the policies is derived from it, too.
    let seed = hasher.digest(UnitKey::parse("seed")?).point().get();
    let replays =
        specs.iter().map(|spec| Ok(PolicyReplay::new(&setup, spec, PolicyDriver::new(&setup, spec, salt, seed)?)));
    let mut replays = replays.collect::<Result<Vec<_>, SimulationError>>()?;
    let (mut statistics, mut arrived, mut model) =
        (Statistics::new(setup.measure), ArrivedUnits::new(), OutcomeModel::new(log.arms));
    let (mut seen, mut located_rows, mut mean) = (HashSet::<Point>::new(), Vec::new(), Ratio::default());
    let mut weights = vec![Ratio::default(); log.arms];
    let mut remaining = log.rows.as_slice();
    for tick in 0..log.ticks() {
        for replay in &mut replays {
            replay.begin_tick(&mut statistics, &arrived, tick)?;
        }
        let (batch, later) = remaining.split_at(remaining.partition_point(|row| row.tick == tick));
        remaining = later;
        located_rows.clear();
        for row in batch {
            let point = hasher.digest(UnitKey::parse(&row.unit)?).point();
            if seen.insert(point) {
                arrived.add(point);
            }
            located_rows.push(LocatedRow { point, arm: row.arm, outcome: row.outcome, propensity: row.propensity });
        }
        for (i, row) in located_rows.iter().enumerate() {
            replays.iter_mut().for_each(|replay| replay.process_row(tick, row, &model));
            model.add_row(row);
            mean.push(row.outcome, 1.0);
            if let Some(p) = row.propensity {
                let inverse_propensity = |arm| if arm == row.arm { 1.0 / p } else { 0.0 };
                weights.iter_mut().enumerate().for_each(|(arm, weight)| weight.push(inverse_propensity(arm), 1.0));
            }
            if let (Some(progress), true) = (progress, i % PROGRESS_ROWS == 0) {
                progress((log.rows.len() - remaining.len() - located_rows.len() + i) as u64);
            }
        }
        replays.iter_mut().for_each(|replay| replay.end_tick(&arrived));
    }
    let finish = |replay: PolicyReplay<'_>| replay.finish(&mut statistics, &arrived, log.ticks(), &mean);
    let policies = replays.into_iter().map(finish).collect::<Result<Vec<_>, _>>()?;
    let arm = |(arm, weight): (&Ratio, &Ratio)| LoggedArm {
        rows: arm.count(),
        mean: arm.estimate(),
        weight: weight.estimate(),
    };
    Ok(Counterfactual {
        rows: log.rows.len() as u64,
        units: arrived.total(),
        ticks: log.ticks(),
        propensities: log.has_propensities,
        mean: mean.estimate(),
        arms: model.arms().iter().zip(&weights).map(arm).collect(),
        policies,
    })
}
