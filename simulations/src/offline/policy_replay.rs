//! Evaluates one policy over a log, and the model of outcomes that the doubly robust estimates of all policies use.

use inroad_assignment::{Kills, Point};

use super::PolicyResult;
use super::estimate::{Ratio, lift_of_subset};
use crate::SimulationError;
use crate::driver::{ExperimentSetup, PolicyDriver};
use crate::policies::PolicySpec;
use crate::statistics::Statistics;
use crate::tallies::{RunTallies, UnitRecord};
use crate::unit_moves::{ArrivedUnits, MoveCounter, ServedAllocation};

/// A row of the log with the point of its unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocatedRow {
    pub(super) point: Point,
    pub(super) arm: usize,
    pub(super) outcome: f64,
    pub(super) propensity: Option<f64>,
}

/// The mean outcome of each arm over the rows so far.
pub(super) struct OutcomeModel {
    arms: Vec<Ratio>,
    sum: f64,
    rows: u64,
}

impl OutcomeModel {
    pub(super) fn new(arms: usize) -> Self {
        Self { arms: vec![Ratio::default(); arms], sum: 0.0, rows: 0 }
    }

    /// Adds a row. Call it after all policies have processed the row: its outcome must not be part of its own
    /// prediction.
    pub(super) fn add_row(&mut self, row: &LocatedRow) {
        self.arms[row.arm].push(row.outcome, 1.0);
        self.sum += row.outcome;
        self.rows += 1;
    }

    /// The predicted outcome of an arm. Without rows of the arm it is the mean of all rows, without any rows 0.
    fn predicted(&self, arm: usize) -> f64 {
        match (self.arms[arm].count(), self.rows) {
            (0, 0) => 0.0,
            (0, rows) => self.sum / rows as f64,
            _ => self.arms[arm].value(),
        }
    }

    pub(super) fn arms(&self) -> &[Ratio] {
        &self.arms
    }
}

/// The evaluation of one policy.
pub(super) struct PolicyReplay<'a> {
    spec: &'a PolicySpec,
    driver: PolicyDriver,
    tallies: RunTallies,
    moves: MoveCounter,
    /// Current share of each arm.
    shares: Vec<f64>,
    /// Share of each arm in each tick.
    course: Vec<Vec<f64>>,
    revisions: u32,
    killed: Vec<usize>,
    replay: Ratio,
    ips: Ratio,
    snips: Ratio,
    dr: Ratio,
    /// The doubly robust estimate divided by the mean outcome of the log.
    gain: Ratio,
}

impl<'a> PolicyReplay<'a> {
    pub(super) fn new(setup: &ExperimentSetup, spec: &'a PolicySpec, driver: PolicyDriver) -> Self {
        Self {
            spec,
            driver,
            tallies: RunTallies::new(setup.arms, 0, spec.stride, setup.measure, 0.0),
            moves: MoveCounter::new(),
            shares: Vec::new(),
            course: Vec::new(),
            revisions: 0,
            killed: Vec::new(),
            replay: Ratio::default(),
            ips: Ratio::default(),
            snips: Ratio::default(),
            dr: Ratio::default(),
            gain: Ratio::default(),
        }
    }

    /// Begins a tick: the policy decides.
    pub(super) fn begin_tick(
        &mut self,
        statistics: &mut Statistics,
        arrived: &ArrivedUnits,
        tick: u32,
    ) -> Result<(), SimulationError> {
        self.decide(statistics, arrived, tick)?;
        self.course.push(self.shares.clone());
        if self.driver.shipped().is_none() {
            self.tallies.open_tick(tick, &self.shares);
        }
        Ok(())
    }

    fn decide(
        &mut self,
        statistics: &mut Statistics,
        arrived: &ArrivedUnits,
        tick: u32,
    ) -> Result<(), SimulationError> {
        if self.driver.shipped().is_none() {
            let (allocation, kills): (_, Kills) = self.driver.allocation_and_kills();
            let change = self.driver.decide(statistics, tick, self.tallies.epochs())?;
            if change.serving_changed {
                let before = ServedAllocation { allocation: &allocation, kills };
                self.moves.count_change(arrived, before, self.driver.served_allocation());
            }
            self.revisions += u32::from(change.new_revision);
            self.killed.extend(change.killed);
        }
        self.shares = self.driver.shares();
        Ok(())
    }

    /// Processes one row. The policy learns from it only if it gives the unit the same arm.
    pub(super) fn process_row(&mut self, tick: u32, row: &LocatedRow, model: &OutcomeModel) {
        let shipped = self.driver.shipped();
        let arm = shipped.unwrap_or_else(|| self.driver.served_allocation().arm_at(row.point));
        if arm.index() == row.arm {
            self.replay.push(row.outcome, 1.0);
            if shipped.is_none() {
                let LocatedRow { point, outcome: x, .. } = *row;
                self.tallies.add_unit(tick, &UnitRecord { point, arm, up_to_date: true, x, y: 0.0, delay: 1 });
            }
        }
        let Some(propensity) = row.propensity else { return };
        let weight = self.shares[row.arm] / propensity;
        let predicted: f64 = self.shares.iter().enumerate().map(|(arm, share)| share * model.predicted(arm)).sum();
        let doubly_robust = predicted + weight * (row.outcome - model.predicted(row.arm));
        self.ips.push(weight * row.outcome, 1.0);
        self.dr.push(doubly_robust, 1.0);
        self.gain.push(doubly_robust, row.outcome);
        if weight > 0.0 {
            self.snips.push(weight * row.outcome, weight);
        }
    }

    /// Ends a tick: its units count in later moves.
    pub(super) fn end_tick(&mut self, arrived: &ArrivedUnits) {
        if self.driver.shipped().is_none() {
            self.moves.add_arrivals(arrived, self.driver.served_allocation());
        }
    }

    /// Makes the decision after the last tick and returns the results. `mean` is the mean outcome of the whole log.
    pub(super) fn finish(
        mut self,
        statistics: &mut Statistics,
        arrived: &ArrivedUnits,
        ticks: u32,
        mean: &Ratio,
    ) -> Result<PolicyResult, SimulationError> {
        self.decide(statistics, arrived, ticks)?;
        let best_arm = self.driver.best_arm_estimate(statistics, ticks, self.tallies.epochs())?;
        let has_propensities = self.ips.count() > 0;
        let lift = if has_propensities {
            self.gain.estimate().map(|ratio| ratio.minus(1.0))
        } else {
            lift_of_subset(&self.replay, mean)
        };
        // Outcomes are 0 or more, so no lift is below −100%. An interval that reaches it shows that the estimate is not
        // normal.
        let lift = lift.filter(|lift| lift.low > -1.0);
        let shipped = self.driver.shipped().map(|arm| arm.index());
        Ok(PolicyResult {
            policy: self.spec.name.clone(),
            matched: self.replay.count(),
            replay: self.replay.estimate(),
            ips: self.ips.estimate(),
            snips: self.snips.estimate(),
            dr: self.dr.estimate(),
            lift,
            effective_rows: self.snips.effective_count(),
            leader: shipped.unwrap_or_else(|| best_arm.leader()),
            p_best: best_arm.p_best,
            shares: self.shares,
            course: self.course,
            revisions: self.revisions,
            killed: self.killed,
            shipped,
            moves: self.moves.totals(),
        })
    }
}
