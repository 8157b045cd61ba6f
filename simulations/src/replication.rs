//! One replication: the units arrive tick by tick, and every policy serves the same units. `driver` has a diagram of
//! one tick.

use inroad_assignment::{Allocation, Kills, Timestamp};
use inroad_policy::{
    BetterDirection, EpochTally, GuardrailInput, Measure, SrmAlarm, check_sample_ratio, evaluate_guardrail,
};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::SimulationError;
use crate::driver::{ExperimentSetup, PolicyDriver};
use crate::estimates::{self, RunData};
use crate::policies::PolicySpec;
use crate::results::{ArmAt, RunResult, SampleRatioResult};
use crate::scenario::Scenario;
use crate::statistics::Statistics;
use crate::tallies::{RunTallies, UnitRecord};
use crate::unit_moves::{ArrivedUnits, MoveCounter, ServedAllocation};
use crate::visitors::{Visitor, Visitors, outcome, replication_seed};
use crate::world::World;

/// Runs one replication under every policy of the scenario. Results are in the order of the policies.
pub(crate) fn replicate(
    scenario: &Scenario,
    world: &World,
    replication: u32,
    decisions_only: bool,
) -> Result<Vec<RunResult>, SimulationError> {
    let mut visitors = Visitors::new(scenario, world, replication)?;
    let true_log_lifts = estimates::true_log_lifts(scenario);
    let context = ReplicationContext { scenario, world, true_log_lifts: &true_log_lifts, decisions_only };
    let seed = replication_seed(scenario.doc().seed ^ POLICY_STREAM, replication);
    let setup = ExperimentSetup::from(scenario);
    let policy_runs = scenario.policies().iter().map(|spec| {
        let driver = PolicyDriver::new(&setup, spec, visitors.salt(), seed)?;
        Ok(PolicyRun::new(context, spec, driver))
    });
    let mut policy_runs = policy_runs.collect::<Result<Vec<_>, SimulationError>>()?;
    let (mut statistics, mut arrived, mut batch) =
        (Statistics::new(scenario.measure()), ArrivedUnits::new(), Vec::new());
    for tick in 0..world.ticks() {
        for run in &mut policy_runs {
            run.begin_tick(&mut statistics, &arrived, tick)?;
        }
        visitors.draw_arrivals(tick, &mut batch)?;
        let visits = batch.len() as f64 + scenario.doc().returning * arrived.total() as f64;
        batch.iter().for_each(|visitor| arrived.add(visitor.point));
        for run in &mut policy_runs {
            run.serve_units(&arrived, tick, visits, &batch);
        }
    }
    policy_runs.into_iter().map(|run| run.finish(&mut statistics, replication, arrived.total())).collect()
}

/// Separates the random draws of the policies from those of the simulated units.
const POLICY_STREAM: u64 = 0x706f_6c69_6379;

/// The data that all runs of a replication share.
#[derive(Clone, Copy)]
struct ReplicationContext<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    /// One per variation; none if the lift changes over time.
    true_log_lifts: &'a [Option<f64>],
    /// Whether only decisions and regret are computed.
    decisions_only: bool,
}

/// The run of one policy in one replication.
struct PolicyRun<'a> {
    context: ReplicationContext<'a>,
    spec: &'a PolicySpec,
    driver: PolicyDriver,
    tallies: RunTallies,
    moves: MoveCounter,
    /// Earlier boundaries and kills, newest last, as far back as the slowest client has them.
    past: VecDeque<(Arc<Allocation>, Kills)>,
    /// One per variation: whether the confidence sequence ever excluded its true lift.
    excluded: Vec<bool>,
    /// Expected outcomes lost up to the end of each tick.
    forgone: Vec<f64>,
    /// Expected outcomes lost so far.
    lost: f64,
    /// Expected outcomes so far, if the best arm were always served.
    possible: f64,
    shares: Vec<Vec<f64>>,
    revisions: u32,
    kills: Vec<ArmAt>,
    concluded: Option<ArmAt>,
    shipped: Option<ArmAt>,
    false_winner: bool,
    prompted: Option<ArmAt>,
    false_prompt: bool,
    roll_back: Option<ArmAt>,
    false_roll_back: bool,
    /// One per variation: the largest evidence of harm so far.
    harm: Vec<f64>,
}

impl<'a> PolicyRun<'a> {
    fn new(context: ReplicationContext<'a>, spec: &'a PolicySpec, driver: PolicyDriver) -> Self {
        let arms = context.world.arms();
        Self {
            context,
            spec,
            driver,
            tallies: RunTallies::new(
                arms,
                context.scenario.window_ticks(),
                spec.stride,
                context.scenario.measure(),
                context.scenario.cost(),
            ),
            moves: MoveCounter::new(),
            past: VecDeque::new(),
            excluded: vec![false; arms - 1],
            forgone: Vec::with_capacity(context.world.ticks() as usize),
            lost: 0.0,
            possible: 0.0,
            shares: Vec::with_capacity(context.world.ticks() as usize),
            revisions: 0,
            kills: Vec::new(),
            concluded: None,
            shipped: None,
            false_winner: false,
            prompted: None,
            false_prompt: false,
            roll_back: None,
            false_roll_back: false,
            harm: vec![f64::NEG_INFINITY; arms - 1],
        }
    }

    /// Begins a tick: outcomes become known, and the policy decides.
    fn begin_tick(
        &mut self,
        statistics: &mut Statistics,
        arrived: &ArrivedUnits,
        tick: u32,
    ) -> Result<(), SimulationError> {
        if self.driver.shipped().is_none() {
            self.tallies.add_due_outcomes(tick);
            let before = self.driver.allocation_and_kills();
            self.keep_for_stale_clients(&before);
            let change = self.driver.decide(statistics, tick, self.tallies.epochs())?;
            if change.serving_changed {
                let after = self.driver.served_allocation();
                self.moves.count_change(arrived, ServedAllocation { allocation: &before.0, kills: before.1 }, after);
                if self.drops_moved_units() {
                    self.tallies.drop_moved(tick, |point| after.arm_at(point));
                }
            }
            self.revisions += u32::from(change.new_revision);
            self.kills.extend(change.killed.iter().map(|arm| ArmAt { arm: *arm, tick }));
            self.record_clearly_best(change.clearly_best, tick);
            self.record_prompt(change.ready_to_ship, tick);
            self.shipped = self.driver.shipped().map(|arm| ArmAt { arm: arm.index(), tick });
            self.check_continuously(statistics, tick)?;
        }
        self.shares.push(self.driver.shares());
        if self.driver.shipped().is_none() {
            self.tallies.open_tick(tick, &self.shares[tick as usize]);
        }
        Ok(())
    }

    /// Whether records of moved units are dropped. Unconstrained Thompson sampling moves so many units that few records
    /// would be left. It counts a unit under the arm served first, which is correct here: in simulations the first arm
    /// alone determines the outcome.
    fn drops_moved_units(&self) -> bool {
        self.spec.kind != crate::PolicyKind::Unconstrained
    }

    fn keep_for_stale_clients(&mut self, before: &(Arc<Allocation>, Kills)) {
        if let Some(stale) = self.context.scenario.doc().stale {
            self.past.push_back(before.clone());
            if self.past.len() > stale.ticks as usize {
                self.past.pop_front();
            }
        }
    }

    fn record_clearly_best(&mut self, clearly_best: Option<usize>, tick: u32) {
        let Some(arm) = clearly_best else { return };
        self.concluded = self.concluded.or(Some(ArmAt { arm, tick }));
        self.false_winner |= !self.context.world.is_best(arm) || self.context.world.best_arm().is_none();
    }

    fn record_prompt(&mut self, ready_to_ship: Option<usize>, tick: u32) {
        let Some(arm) = ready_to_ship else { return };
        let rates = self.context.world.rates(tick);
        let (first, is_false) = if arm > 0 {
            self.false_prompt |= rates[arm] <= rates[0];
            (&mut self.prompted, false)
        } else {
            (&mut self.roll_back, rates[1..].iter().any(|rate| *rate >= rates[0]))
        };
        *first = first.or(Some(ArmAt { arm, tick }));
        self.false_roll_back |= is_false;
    }

    /// Checks the confidence sequence and the guardrails, which must be valid at every tick.
    fn check_continuously(&mut self, statistics: &mut Statistics, tick: u32) -> Result<(), SimulationError> {
        if self.context.decisions_only || tick == 0 || !tick.is_multiple_of(self.spec.stride) {
            return Ok(());
        }
        let (arms, measure) = (self.context.world.arms(), self.context.scenario.measure());
        for (peak, now) in self.harm.iter_mut().zip(harm_evidence(arms, measure, self.tallies.epochs())?) {
            *peak = peak.max(now);
        }
        let Some(posterior) = statistics.posterior_without_prior(arms, self.tallies.epochs())? else { return Ok(()) };
        for (i, truth) in self.context.true_log_lifts.iter().enumerate() {
            let interval = estimates::always_valid_interval(&posterior, i + 1);
            let (Some(interval), Some(truth)) = (interval, truth) else { continue };
            self.excluded[i] |= !interval.contains(*truth);
        }
        Ok(())
    }

    /// Serves the units of a tick, and adds the regret of all visits in it.
    fn serve_units(&mut self, arrived: &ArrivedUnits, tick: u32, visits: f64, batch: &[Visitor]) {
        let rates = self.context.world.rates(tick);
        let best = self.context.world.best_rate(tick);
        let served: f64 = self.shares[tick as usize].iter().zip(rates).map(|(share, rate)| share * rate).sum();
        self.lost += visits * (best - served);
        self.possible += visits * best;
        self.forgone.push(self.lost);
        if self.driver.shipped().is_some() {
            return;
        }
        self.moves.add_arrivals(arrived, self.driver.served_allocation());
        for visitor in batch {
            self.serve_unit(tick, visitor);
        }
    }

    fn serve_unit(&mut self, tick: u32, visitor: &Visitor) {
        let doc = self.context.scenario.doc();
        let current = self.driver.served_allocation().arm_at(visitor.point);
        // A stale client serves old boundaries: the oldest that are kept.
        let old = self.past.front().filter(|_| visitor.stale);
        let arm = old.map_or(current, |(allocation, kills)| {
            ServedAllocation { allocation, kills: *kills }.arm_at(visitor.point)
        });
        if let Some(loss) = doc.loss
            && loss.arm == arm.index()
            && tick >= loss.from_day * doc.ticks_per_day
            && visitor.loss_draw < loss.probability
        {
            return;
        }
        let record = UnitRecord {
            point: visitor.point,
            arm,
            up_to_date: arm == current,
            x: outcome(doc.metric, visitor, self.context.world.rates(tick)[arm.index()]),
            y: visitor.denominator,
            delay: visitor.delay,
        };
        self.tallies.add_unit(tick, &record);
    }

    fn finish(
        mut self,
        statistics: &mut Statistics,
        replication: u32,
        units: u64,
    ) -> Result<RunResult, SimulationError> {
        let ticks = self.context.world.ticks();
        if self.driver.shipped().is_none() {
            self.tallies.add_due_outcomes(ticks);
        }
        let best_arm = self.driver.best_arm_estimate(statistics, ticks, self.tallies.epochs())?;
        let leader = self.driver.shipped().map_or_else(|| best_arm.leader(), |arm| arm.index());
        let world = self.context.world;
        let needs_estimates = !self.context.decisions_only;
        let live: Vec<bool> = (0..world.arms()).map(|arm| self.kills.iter().all(|kill| kill.arm != arm)).collect();
        let data = RunData {
            arms: world.arms(),
            epochs: self.tallies.epochs(),
            measure: self.context.scenario.measure(),
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
            false_prompt: self.spec.asks_to_ship().then_some(self.false_prompt),
            roll_back: self.roll_back,
            false_roll_back: self.spec.asks_to_ship().then_some(self.false_roll_back),
            shipped: self.shipped,
            leader,
            correct: world.best_arm().map(|_| world.is_best(leader)),
            false_winner: self.false_winner,
            moves: self.moves.totals(),
            dropped: self.tallies.dropped(),
            estimates: if needs_estimates {
                estimates::apply_all(&data, self.context.true_log_lifts, &self.excluded)?
            } else {
                Vec::new()
            },
            sample_ratio: needs_estimates
                .then(|| check_sample_ratios(&data, self.spec.settings.tick))
                .transpose()?
                .unwrap_or(SampleRatioResult::UNCHECKED),
            guardrail: self.harm,
            forgone: self.forgone,
            shares: self.shares,
            kills: self.kills,
        })
    }
}

/// The sample ratio check at the end, and the epoch of its first alarm.
fn check_sample_ratios(data: &RunData<'_>, tick: Duration) -> Result<SampleRatioResult, SimulationError> {
    let check = |epochs: usize| {
        let known = &data.epochs[..epochs];
        let end = known.last().map_or(0, |epoch| epoch.epoch.tick + 1);
        check_sample_ratio(data.arms, known, tick, Timestamp::start_of_tick(end, tick))
    };
    let last = check(data.epochs.len())?;
    let alarm = last.alarm != SrmAlarm::Quiet;
    // The largest evidence never decreases, so the first alarm is found by binary search.
    let (mut quiet, mut alarmed) = (0, data.epochs.len());
    while alarm && alarmed - quiet > 1 {
        let middle = (quiet + alarmed) / 2;
        if check(middle)?.alarm == SrmAlarm::Quiet { quiet = middle } else { alarmed = middle }
    }
    Ok(SampleRatioResult {
        p_value: last.p_value,
        evidence: last.evidence,
        alarm,
        frozen: last.alarm == SrmAlarm::Freeze,
        first_epoch: (alarm && alarmed > 0).then(|| alarmed as u32 - 1),
    })
}

/// For each variation, the evidence (ln M) that it harms the primary metric, with no allowed degradation.
fn harm_evidence(arms: usize, measure: Measure, epochs: &[EpochTally]) -> Result<Vec<f64>, SimulationError> {
    let question = GuardrailInput {
        epochs,
        measure,
        better: BetterDirection::Higher,
        arms,
        margin: 0.0,
        guardrails: 1,
        alpha: 0.05,
    };
    let evidence = |arm| Ok(evaluate_guardrail(&question, arm)?.log_evidence);
    (1..arms).map(evidence).collect()
}
