//! Everything that is said of one generation's numbers, computed once: the estimates of every metric, what speaks for
//! shipping, and every reason to doubt. `ResultService` phrases it.

use std::time::Duration;

use inroad_assignment::{Experiment, Generation, Policy, Status, ThompsonSettings, Timestamp, Width};
use inroad_policy::{
    Decider, DelayCheck, GuardrailQuestion, NoveltyCheck, PointsCache, SampleRatio, Scope, Ship, SrmAlarm, Summary,
    SummaryQuestion, check_delay, check_novelty, check_sample_ratio, guardrail, mature, summarise,
};
use inroad_store::Counts;

use crate::error::ServerError;
use crate::tallies::{better, epoch_tallies, measure};
use crate::tick::tick_input;

/// What results are drawn with: the same for everybody who looks.
pub(crate) const RESULT_SEED: u64 = 1;
const DAY: Duration = Duration::from_secs(86_400);
/// Over how long the pace of growth is taken.
const PACE: Duration = Duration::from_secs(7 * 86_400);
/// More stale exposures than this part of all units are worth a word.
const STALE_PART: f64 = 0.01;

/// One metric.
pub struct MetricReport {
    /// From all units.
    pub all: Summary,
    /// From units whose window has ended.
    pub mature: Summary,
    /// By arm.
    pub delay: Vec<Option<DelayCheck>>,
    /// By arm.
    pub novelty: Vec<Option<NoveltyCheck>>,
    /// ln M of the metric's guardrail, by arm; none without one.
    pub harm: Vec<Option<f64>>,
}

/// See the module.
pub struct Report {
    /// By the decision metric; by nothing at all where there is none.
    pub summary: Summary,
    /// By metric.
    pub metrics: Vec<MetricReport>,
    /// Of first exposures.
    pub ratio: SampleRatio,
    /// What speaks for shipping the leader, if there is a clear one.
    pub ship: Option<Ship>,
    /// What control gave a day lately, as a share of the line.
    pub growth_per_day: f64,
}

impl Report {
    /// Of one generation as it stands at `now`, by the experiment's clock.
    pub fn new(
        experiment: &Experiment,
        generation: &Generation,
        counts: &Counts,
        now: Timestamp,
    ) -> Result<Self, ServerError> {
        let definition = &experiment.definition;
        let arms = definition.variations().len();
        let mut points = PointsCache::default();
        let metrics =
            (0..definition.metrics().len()).map(|i| of_metric(experiment, generation, counts, now, i, &mut points));
        let metrics = metrics.collect::<Result<Vec<_>, _>>()?;
        let decision = definition.decision_metric();
        let summary = match decision.and_then(|i| metrics.get(i)) {
            Some(report) => report.all.clone(),
            None => {
                let epochs = epoch_tallies(experiment, generation, counts, None);
                summarise(&question(experiment, &live(experiment), &epochs, None), &mut points)?
            }
        };
        let exposures = epoch_tallies(experiment, generation, counts, None);
        let running = experiment.generation().is_some_and(|g| g.number == generation.number);
        let ship = if running && decision.is_some() && experiment.status == Status::Running {
            // The very rule of the policy, asked now: what it would put before a person.
            let input = tick_input(experiment, counts, Scope::Growth, now, false)?;
            Decider::default().decide(&input)?.ship
        } else {
            None
        };
        let growth_per_day = growth_per_day(generation, now);
        let ratio = check_sample_ratio(arms, &exposures, definition.policy().tick(), now)?;
        Ok(Self { summary, metrics, ratio, ship, growth_per_day })
    }

    /// Doubts, in plain words.
    pub fn warnings(&self, experiment: &Experiment, counts: &Counts) -> Vec<String> {
        let name =
            |arm: usize| experiment.definition.variations().get(arm).map(|v| v.key.to_string()).unwrap_or_default();
        let mut said = Vec::new();
        match self.ratio.alarm {
            SrmAlarm::Quiet => {}
            SrmAlarm::Alarm => said.push(
                "sample ratio: exposures do not fall as the shares say; look for lost or doubled ones".to_owned(),
            ),
            SrmAlarm::Freeze => {
                said.push("sample ratio: exposures do not fall as the shares say; growth is frozen".to_owned())
            }
        }
        let units: u64 = counts.cells.iter().filter(|(k, _)| k.metric.is_none()).map(|(_, c)| c.first).sum();
        if counts.stale_exposures as f64 > STALE_PART * units as f64 {
            said.push(format!(
                "stale clients: {} exposures were served by boundaries no longer in effect",
                counts.stale_exposures
            ));
        }
        for (metric, report) in experiment.definition.metrics().iter().zip(&self.metrics) {
            for arm in 1..report.all.arms.len() {
                if report.delay[arm].is_some_and(|check| check.differs) {
                    said.push(format!(
                        "{}: outcomes of {} do not come as soon as control's; read mature units only",
                        metric.key,
                        name(arm)
                    ));
                }
                if report.novelty[arm].is_some_and(|check| check.changed) {
                    said.push(format!("{}: the lift of {} has changed over time", metric.key, name(arm)));
                }
                if report.all.arms[arm].opinion.is_some_and(|opinion| opinion.disagrees) {
                    said.push(format!(
                        "{}: the estimates of {}'s lift disagree; it is not one constant lift",
                        metric.key,
                        name(arm)
                    ));
                }
            }
        }
        for alert in &experiment.alerts {
            said.push(format!("guardrail {}: {} does harm", alert.metric, name(alert.arm.index())));
        }
        said
    }
}

/// Which arms are not killed.
pub(crate) fn live(experiment: &Experiment) -> Vec<bool> {
    let arms = (0..experiment.definition.variations().len()).filter_map(inroad_assignment::Arm::new);
    arms.map(|arm| !experiment.kills.arm(arm)).collect()
}

/// The prior that lifts are shown with.
pub(crate) fn tau(experiment: &Experiment) -> f64 {
    match experiment.definition.policy() {
        Policy::Thompson(settings) => settings.tau,
        Policy::Manual { .. } => ThompsonSettings::default().tau,
    }
}

fn question<'a>(
    experiment: &Experiment,
    live: &'a [bool],
    epochs: &'a [inroad_policy::EpochTally],
    metric: Option<usize>,
) -> SummaryQuestion<'a> {
    let defaults = ThompsonSettings::default();
    let settings = match experiment.definition.policy() {
        Policy::Thompson(settings) => settings,
        Policy::Manual { .. } => &defaults,
    };
    let declared = metric.and_then(|i| experiment.definition.metrics().get(i));
    // A pooled posterior is for the conversions that the policy decides by.
    let decides = metric == experiment.definition.decision_metric();
    SummaryQuestion {
        epochs,
        measure: declared.map(measure).unwrap_or_default(),
        better: declared.map(better).unwrap_or_default(),
        live,
        tau: settings.tau,
        posterior: if decides { settings.posterior } else { defaults.posterior },
        seed: RESULT_SEED,
        draws_log2: settings.draws_log2,
    }
}

fn of_metric(
    experiment: &Experiment,
    generation: &Generation,
    counts: &Counts,
    now: Timestamp,
    index: usize,
    points: &mut PointsCache,
) -> Result<MetricReport, ServerError> {
    let metric = &experiment.definition.metrics()[index];
    let (live, tick) = (live(experiment), experiment.definition.policy().tick());
    let arms = live.len();
    let epochs = epoch_tallies(experiment, generation, counts, Some(index));
    let ripe = mature(&epochs, tick, metric.window, Duration::ZERO, now);
    let guardrails = experiment.definition.metrics().iter().filter(|m| m.guardrail.is_some()).count();
    let harm = |arm: usize| -> Result<Option<f64>, ServerError> {
        let Some(declared) = metric.guardrail.filter(|_| arm > 0) else { return Ok(None) };
        let (measure, better, margin) = (measure(metric), better(metric), declared.margin);
        let question = GuardrailQuestion { epochs: &epochs, measure, better, arms, margin, guardrails, alpha: 0.05 };
        Ok(Some(guardrail(&question, arm)?.log_evidence))
    };
    Ok(MetricReport {
        all: summarise(&question(experiment, &live, &epochs, Some(index)), points)?,
        mature: summarise(&question(experiment, &live, &ripe, Some(index)), points)?,
        delay: check_delay(arms, &ripe)?,
        novelty: check_novelty(measure(metric), arms, &epochs)?,
        harm: (0..arms).map(harm).collect::<Result<_, _>>()?,
    })
}

/// What control gave a day over the last week, or since the start if that is shorter.
fn growth_per_day(generation: &Generation, now: Timestamp) -> f64 {
    let from = now.minus(PACE).max(generation.started_at);
    let days = now.since(from).as_secs_f64() / DAY.as_secs_f64();
    let control = |at: Timestamp| {
        let revision = generation.in_effect(at).or(generation.revisions.first());
        revision.map_or(Width::ZERO, |r| r.allocation.width_of(inroad_assignment::Arm::CONTROL))
    };
    if days <= 0.0 { 0.0 } else { control(from).saturating_sub(control(now)).share() / days }
}
