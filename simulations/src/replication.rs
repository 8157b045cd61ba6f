//! One replication: the units come once, tick by tick, and live through every policy side by side.

use inroad_assignment::{Allocation, Kills, Timestamp};
use inroad_policy::{Better, EpochTally, GuardrailQuestion, Measure, SrmAlarm, check_sample_ratio, guardrail};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::SimulationError;
use crate::cells::{Cells, Record};
use crate::crowd::{Crowd, Mover, Serving};
use crate::driver::{Driver, Frame};
use crate::estimates::{self, Observed};
use crate::judge::{Belief, Judge};
use crate::policies::PolicySpec;
use crate::results::{ArmAt, RunResult, SampleRatioResult};
use crate::scenario::Scenario;
use crate::visitors::{Visitor, Visitors, outcome, replication_seed};
use crate::world::World;

/// Lives through one replication under every policy of the scenario, in their order.
pub(crate) fn replicate(
    scenario: &Scenario,
    world: &World,
    replication: u32,
) -> Result<Vec<RunResult>, SimulationError> {
    let mut visitors = Visitors::new(scenario, world, replication)?;
    let truths = estimates::truths(scenario);
    let stage = Stage { scenario, world, truths: &truths };
    let seed = replication_seed(scenario.doc().seed ^ POLICY_STREAM, replication);
    let frame = Frame::from(scenario);
    let lanes = scenario.policies().iter().map(|spec| {
        let driver = Driver::new(&frame, spec, visitors.salt(), seed)?;
        Ok(Lane::new(stage, spec, driver))
    });
    let mut lanes = lanes.collect::<Result<Vec<_>, SimulationError>>()?;
    let (mut judge, mut crowd, mut batch) = (Judge::new(scenario.measure()), Crowd::new(), Vec::new());
    for tick in 0..world.ticks() {
        for lane in &mut lanes {
            lane.begin(&mut judge, &crowd, tick)?;
        }
        visitors.come(tick, &mut batch)?;
        let visits = batch.len() as f64 + scenario.doc().returning * crowd.size() as f64;
        batch.iter().for_each(|visitor| crowd.join(visitor.point));
        for lane in &mut lanes {
            lane.serve(&crowd, tick, visits, &batch);
        }
    }
    lanes.into_iter().map(|lane| lane.finish(&mut judge, replication, crowd.size())).collect()
}

/// Sets the policies' draws apart from the world's.
const POLICY_STREAM: u64 = 0x706f_6c69_6379;

/// What all lanes of a scenario share.
#[derive(Clone, Copy)]
struct Stage<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    truths: &'a [Option<f64>],
}

/// One policy's run.
struct Lane<'a> {
    stage: Stage<'a>,
    spec: &'a PolicySpec,
    driver: Driver,
    cells: Cells,
    mover: Mover,
    /// What was in force before, newest last; as far back as the latest client lags.
    past: VecDeque<(Arc<Allocation>, Kills)>,
    excluded: Vec<bool>,
    forgone: Vec<f64>,
    lost: f64,
    possible: f64,
    shares: Vec<Vec<f64>>,
    revisions: u32,
    kills: Vec<ArmAt>,
    concluded: Option<ArmAt>,
    shipped: Option<ArmAt>,
    false_winner: bool,
    prompted: Option<ArmAt>,
    false_prompt: bool,
    harm: Vec<f64>,
}

impl<'a> Lane<'a> {
    fn new(stage: Stage<'a>, spec: &'a PolicySpec, driver: Driver) -> Self {
        let arms = stage.world.arms();
        Self {
            stage,
            spec,
            driver,
            cells: Cells::new(arms, stage.scenario.window_ticks(), spec.stride, stage.scenario.measure()),
            mover: Mover::new(),
            past: VecDeque::new(),
            excluded: vec![false; arms - 1],
            forgone: Vec::with_capacity(stage.world.ticks() as usize),
            lost: 0.0,
            possible: 0.0,
            shares: Vec::with_capacity(stage.world.ticks() as usize),
            revisions: 0,
            kills: Vec::new(),
            concluded: None,
            shipped: None,
            false_winner: false,
            prompted: None,
            false_prompt: false,
            harm: vec![f64::NEG_INFINITY; arms - 1],
        }
    }

    /// What happens as a tick begins: outcomes become known, and the policy has its chance.
    fn begin(&mut self, judge: &mut Judge, crowd: &Crowd, tick: u32) -> Result<(), SimulationError> {
        if self.driver.shipped().is_none() {
            self.cells.deliver(tick);
            let before = self.driver.snapshot();
            self.remember(&before);
            let change = self.driver.decide(judge, tick, self.cells.epochs())?;
            if change.flipped {
                let after = self.driver.serving();
                self.mover.count(crowd, Serving { allocation: &before.0, kills: before.1 }, after);
                if self.follows() {
                    self.cells.drop_moved(tick, |point| after.at(point));
                }
            }
            self.revisions += u32::from(change.revised);
            self.kills.extend(change.killed.iter().map(|arm| ArmAt { arm: *arm, tick }));
            self.note_winner(change.winner, tick);
            self.note_prompt(change.ready, tick);
            self.look(judge, tick)?;
        }
        self.shares.push(self.driver.shares());
        if self.driver.shipped().is_none() {
            self.cells.open(tick, &self.shares[tick as usize]);
        }
        Ok(())
    }

    /// The data rule is for those who serve by growth. The reference moves so many that little would be left; it counts
    /// a unit under what it was served first, which is right in these worlds, where that alone decides the outcome.
    fn follows(&self) -> bool {
        self.spec.kind != crate::PolicyKind::Thompson
    }

    fn remember(&mut self, before: &(Arc<Allocation>, Kills)) {
        if let Some(stale) = self.stage.scenario.doc().stale {
            self.past.push_back(before.clone());
            if self.past.len() > stale.ticks as usize {
                self.past.pop_front();
            }
        }
    }

    fn note_winner(&mut self, winner: Option<usize>, tick: u32) {
        let Some(arm) = winner else { return };
        self.concluded = self.concluded.or(Some(ArmAt { arm, tick }));
        self.false_winner |= !self.stage.world.is_best(arm) || self.stage.world.best_arm().is_none();
        if self.driver.shipped().is_some() {
            self.shipped = self.shipped.or(Some(ArmAt { arm, tick }));
        }
    }

    fn note_prompt(&mut self, ready: Option<usize>, tick: u32) {
        let Some(arm) = ready.filter(|arm| *arm > 0) else { return };
        self.prompted = self.prompted.or(Some(ArmAt { arm, tick }));
        let rates = self.stage.world.rates(tick);
        self.false_prompt |= rates[arm] <= rates[0];
    }

    /// The confidence sequence and the guardrails are looked at at every tick.
    fn look(&mut self, judge: &mut Judge, tick: u32) -> Result<(), SimulationError> {
        if tick == 0 || !tick.is_multiple_of(self.spec.stride) {
            return Ok(());
        }
        let (arms, measure) = (self.stage.world.arms(), self.stage.scenario.measure());
        for (peak, now) in self.harm.iter_mut().zip(guardrails(arms, measure, self.cells.epochs())?) {
            *peak = peak.max(now);
        }
        let Some(posterior) = judge.flat(arms, self.cells.epochs())? else { return Ok(()) };
        for (i, truth) in self.stage.truths.iter().enumerate() {
            let interval = estimates::anytime(&posterior, i + 1);
            let (Some(interval), Some(truth)) = (interval, truth) else { continue };
            self.excluded[i] |= !interval.holds(*truth);
        }
        Ok(())
    }

    /// Serves a tick's units and charges the regret of all its visits.
    fn serve(&mut self, crowd: &Crowd, tick: u32, visits: f64, batch: &[Visitor]) {
        let rates = self.stage.world.rates(tick);
        let best = self.stage.world.best_rate(tick);
        let served: f64 = self.shares[tick as usize].iter().zip(rates).map(|(share, rate)| share * rate).sum();
        self.lost += visits * (best - served);
        self.possible += visits * best;
        self.forgone.push(self.lost);
        if self.driver.shipped().is_some() {
            return;
        }
        self.mover.meet(crowd, self.driver.serving());
        for visitor in batch {
            self.admit(tick, visitor);
        }
    }

    fn admit(&mut self, tick: u32, visitor: &Visitor) {
        let doc = self.stage.scenario.doc();
        let current = self.driver.serving().at(visitor.point);
        // A client that flips late knows what was in force then; the oldest there is, before that.
        let old = self.past.front().filter(|_| visitor.stale);
        let arm = old.map_or(current, |(allocation, kills)| Serving { allocation, kills: *kills }.at(visitor.point));
        if let Some(loss) = doc.loss
            && loss.arm == arm.index()
            && tick >= loss.from_day * doc.ticks_per_day
            && visitor.luck < loss.probability
        {
            return;
        }
        let record = Record {
            point: visitor.point,
            arm,
            stable: arm == current,
            x: outcome(doc.metric, visitor, self.stage.world.rates(tick)[arm.index()]),
            y: visitor.denominator,
            delay: visitor.delay,
        };
        self.cells.admit(tick, &record);
    }

    fn finish(mut self, judge: &mut Judge, replication: u32, units: u64) -> Result<RunResult, SimulationError> {
        let ticks = self.stage.world.ticks();
        if self.driver.shipped().is_none() {
            self.cells.deliver(ticks);
        }
        let belief: Belief = self.driver.belief(judge, ticks, self.cells.epochs())?;
        let leader = self.driver.shipped().map_or_else(|| belief.leader(), |arm| arm.index());
        let world = self.stage.world;
        let live: Vec<bool> = (0..world.arms()).map(|arm| self.kills.iter().all(|kill| kill.arm != arm)).collect();
        let observed = Observed {
            arms: world.arms(),
            epochs: self.cells.epochs(),
            measure: self.stage.scenario.measure(),
            tau: self.spec.settings.tau,
            live: &live,
        };
        Ok(RunResult {
            policy: self.spec.name.clone(),
            replication,
            regret: self.lost / self.possible.max(f64::MIN_POSITIVE),
            possible: self.possible,
            units,
            revisions: self.revisions,
            concluded: self.concluded,
            prompted: self.prompted,
            false_prompt: self.false_prompt,
            shipped: self.shipped,
            leader,
            correct: world.best_arm().map(|_| world.is_best(leader)),
            false_winner: self.false_winner,
            moves: self.mover.finish(),
            dropped: self.cells.dropped(),
            estimates: estimates::all(&observed, self.stage.truths, &self.excluded)?,
            sample_ratio: sample_ratio(&observed, self.spec.settings.tick)?,
            guardrail: self.harm,
            forgone: self.forgone,
            shares: self.shares,
            kills: self.kills,
        })
    }
}

/// The check in the end, and when it first spoke.
fn sample_ratio(observed: &Observed<'_>, tick: Duration) -> Result<SampleRatioResult, SimulationError> {
    let check = |epochs: usize| {
        let known = &observed.epochs[..epochs];
        let end = known.last().map_or(0, |epoch| epoch.epoch.tick + 1);
        check_sample_ratio(observed.arms, known, tick, Timestamp::start_of_tick(end, tick))
    };
    let last = check(observed.epochs.len())?;
    let alarm = last.alarm != SrmAlarm::Quiet;
    // The peak never falls, so the first alarm is found by halving.
    let (mut quiet, mut loud) = (0, observed.epochs.len());
    while alarm && loud - quiet > 1 {
        let middle = (quiet + loud) / 2;
        if check(middle)?.alarm == SrmAlarm::Quiet { quiet = middle } else { loud = middle }
    }
    Ok(SampleRatioResult {
        p_value: last.p_value,
        evidence: last.evidence,
        alarm,
        frozen: last.alarm == SrmAlarm::Freeze,
        first_epoch: (alarm && loud > 0).then(|| loud as u32 - 1),
    })
}

/// Evidence of harm to the metric itself, without a margin.
fn guardrails(arms: usize, measure: Measure, epochs: &[EpochTally]) -> Result<Vec<f64>, SimulationError> {
    let question =
        GuardrailQuestion { epochs, measure, better: Better::More, arms, margin: 0.0, guardrails: 1, alpha: 0.05 };
    let evidence = |arm| Ok(guardrail(&question, arm)?.log_evidence);
    (1..arms).map(evidence).collect()
}
