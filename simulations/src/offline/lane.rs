//! One policy on its way through a log, and the model of outcomes that all of them share.

use inroad_assignment::{Kills, Point};

use super::PolicyResult;
use super::estimate::{Ratio, lift_of_part};
use crate::SimulationError;
use crate::cells::{Cells, Record};
use crate::crowd::{Crowd, Mover, Serving};
use crate::driver::{Driver, Frame};
use crate::judge::Judge;
use crate::policies::PolicySpec;

/// A row whose unit has been found on the line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    pub(super) point: Point,
    pub(super) arm: usize,
    pub(super) outcome: f64,
    pub(super) propensity: Option<f64>,
}

/// Each arm's mean over the rows so far.
pub(super) struct Model {
    arms: Vec<Ratio>,
    sum: f64,
    rows: u64,
}

impl Model {
    pub(super) fn new(arms: usize) -> Self {
        Self { arms: vec![Ratio::default(); arms], sum: 0.0, rows: 0 }
    }

    /// To be called after the row was met by all: its own outcome may not be in what is expected of it.
    pub(super) fn learn(&mut self, row: &Met) {
        self.arms[row.arm].push(row.outcome, 1.0);
        self.sum += row.outcome;
        self.rows += 1;
    }

    /// What is expected of an arm: of one that nobody got, the mean of all, and 0 of nothing.
    fn expected(&self, arm: usize) -> f64 {
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

/// One policy's run.
pub(super) struct Lane<'a> {
    spec: &'a PolicySpec,
    driver: Driver,
    cells: Cells,
    mover: Mover,
    shares: Vec<f64>,
    course: Vec<Vec<f64>>,
    revisions: u32,
    killed: Vec<usize>,
    replay: Ratio,
    ips: Ratio,
    snips: Ratio,
    dr: Ratio,
    gain: Ratio,
}

impl<'a> Lane<'a> {
    pub(super) fn new(frame: &Frame, spec: &'a PolicySpec, driver: Driver) -> Self {
        Self {
            spec,
            driver,
            cells: Cells::new(frame.arms, 0, spec.stride, frame.measure),
            mover: Mover::new(),
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

    /// What happens as a tick begins: the policy has its chance.
    pub(super) fn begin(&mut self, judge: &mut Judge, crowd: &Crowd, tick: u32) -> Result<(), SimulationError> {
        self.decide(judge, crowd, tick)?;
        self.course.push(self.shares.clone());
        if self.driver.shipped().is_none() {
            self.cells.open(tick, &self.shares);
        }
        Ok(())
    }

    fn decide(&mut self, judge: &mut Judge, crowd: &Crowd, tick: u32) -> Result<(), SimulationError> {
        if self.driver.shipped().is_none() {
            let (allocation, kills): (_, Kills) = self.driver.snapshot();
            let change = self.driver.decide(judge, tick, self.cells.epochs())?;
            if change.flipped {
                let before = Serving { allocation: &allocation, kills };
                self.mover.count(crowd, before, self.driver.serving());
            }
            self.revisions += u32::from(change.revised);
            self.killed.extend(change.killed);
        }
        self.shares = self.driver.shares();
        Ok(())
    }

    /// A row goes by. The policy learns from it only where it would have given the same.
    pub(super) fn meet(&mut self, tick: u32, row: &Met, model: &Model) {
        let shipped = self.driver.shipped();
        let arm = shipped.unwrap_or_else(|| self.driver.serving().at(row.point));
        if arm.index() == row.arm {
            self.replay.push(row.outcome, 1.0);
            if shipped.is_none() {
                let Met { point, outcome: x, .. } = *row;
                self.cells.admit(tick, &Record { point, arm, stable: true, x, y: 0.0, delay: 1 });
            }
        }
        let Some(propensity) = row.propensity else { return };
        let weight = self.shares[row.arm] / propensity;
        let model_value: f64 = self.shares.iter().enumerate().map(|(arm, share)| share * model.expected(arm)).sum();
        let robust = model_value + weight * (row.outcome - model.expected(row.arm));
        self.ips.push(weight * row.outcome, 1.0);
        self.dr.push(robust, 1.0);
        self.gain.push(robust, row.outcome);
        if weight > 0.0 {
            self.snips.push(weight * row.outcome, weight);
        }
    }

    /// A tick is over: whoever came in it is followed from now on.
    pub(super) fn end(&mut self, crowd: &Crowd) {
        if self.driver.shipped().is_none() {
            self.mover.meet(crowd, self.driver.serving());
        }
    }

    /// The decision after the last tick, and what it all came to. `mean` is that of the whole log.
    pub(super) fn finish(
        mut self,
        judge: &mut Judge,
        crowd: &Crowd,
        ticks: u32,
        mean: &Ratio,
    ) -> Result<PolicyResult, SimulationError> {
        self.decide(judge, crowd, ticks)?;
        let belief = self.driver.belief(judge, ticks, self.cells.epochs())?;
        let known = self.ips.count() > 0;
        let lift =
            if known { self.gain.estimate().map(|ratio| ratio.minus(1.0)) } else { lift_of_part(&self.replay, mean) };
        let shipped = self.driver.shipped().map(|arm| arm.index());
        Ok(PolicyResult {
            policy: self.spec.name.clone(),
            matched: self.replay.count(),
            replay: self.replay.estimate(),
            ips: self.ips.estimate(),
            snips: self.snips.estimate(),
            dr: self.dr.estimate(),
            lift,
            effective_rows: self.snips.effective(),
            leader: shipped.unwrap_or_else(|| belief.leader()),
            p_best: belief.p_best,
            shares: self.shares,
            course: self.course,
            revisions: self.revisions,
            killed: self.killed,
            shipped,
            moves: self.mover.finish(),
        })
    }
}
