//! Everything that is said of one generation's numbers, computed once: the estimates of every metric, what speaks for
//! shipping, and every reason to doubt. `ResultService` phrases it.

use std::time::Duration;

use inroad_assignment::experiment::Cause;
use inroad_assignment::{Arm, Experiment, Generation, Policy, Revision, Status, ThompsonSettings, Timestamp};
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
    /// Whether `summary` compares anything: there is a metric that decides, and units are counted by it.
    pub is_compared: bool,
    /// Of first exposures; none before there are any.
    pub ratio: Option<SampleRatio>,
    /// What speaks for shipping the leader, if there is a clear one and it could be shipped.
    pub ship: Option<Ship>,
    /// What control gave a day lately, as a share of the line; 0 before a whole tick was measured.
    pub growth_per_day: f64,
    /// What of it a policy that still moves boundaries took, which is what may be expected to go on; none if it took
    /// nothing.
    pub policy_pace: Option<f64>,
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
        let newest = experiment.generation().is_some_and(|g| g.number == generation.number);
        let is_live = newest && experiment.status == Status::Running && !experiment.kills.everything;
        let ship = if is_live && decision.is_some() {
            // The very rule of the policy, asked now: what it would put before a person.
            let input = tick_input(experiment, counts, Scope::Growth, now, false)?;
            Decider::default().decide(&input)?.ship
        } else {
            None
        };
        let tick = definition.policy().tick();
        let growth_per_day = given_per_day(generation, tick, now, |_| true);
        let policy_pace = given_per_day(generation, tick, now, |cause| cause == Cause::Policy);
        let is_exposed = exposures.iter().flat_map(|epoch| &epoch.arms).any(|arm| arm.first > 0);
        let ratio = if is_exposed { Some(check_sample_ratio(arms, &exposures, tick, now)?) } else { None };
        let is_compared = decision.is_some() && summary.arms.iter().any(|arm| arm.n > 0);
        let policy_pace = Some(policy_pace).filter(|pace| is_live && *pace > 0.0);
        Ok(Self { summary, metrics, is_compared, ratio, ship, growth_per_day, policy_pace })
    }

    /// How loudly the check of the sample ratio speaks.
    pub fn alarm(&self) -> SrmAlarm {
        self.ratio.as_ref().map_or(SrmAlarm::Quiet, |ratio| ratio.alarm)
    }

    /// Doubts, in plain words.
    pub fn warnings(&self, experiment: &Experiment, counts: &Counts) -> Vec<String> {
        let name =
            |arm: usize| experiment.definition.variations().get(arm).map(|v| v.key.to_string()).unwrap_or_default();
        let mut said = Vec::new();
        match self.alarm() {
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
            let were = if counts.stale_exposures == 1 { "exposure was" } else { "exposures were" };
            said.push(format!(
                "stale clients: {} {were} served by boundaries no longer in effect",
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
    let arms = (0..experiment.definition.variations().len()).filter_map(Arm::new);
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
    // Whoever the end found in their window is not followed to its end.
    let followed_until = generation.ended_at().map_or(now, |end| end.min(now));
    let ripe = mature(&epochs, tick, metric.window, Duration::ZERO, followed_until);
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

/// What control gave a day by revisions of these causes, over the last week or since the start if that is shorter. What was
/// measured over less than a tick is no pace: a single revision seconds after the start would be thousands of lines a day.
fn given_per_day(generation: &Generation, tick: Duration, now: Timestamp, is_counted: impl Fn(Cause) -> bool) -> f64 {
    let from = now.minus(PACE).max(generation.started_at);
    let measured = now.since(from);
    if measured < tick.min(PACE) {
        return 0.0;
    }
    let given = |pair: &[Revision]| {
        let [before, after] = pair else { return 0.0 };
        let fits = after.effective_at > from && after.effective_at <= now && is_counted(after.cause);
        let control = |revision: &Revision| revision.allocation.width_of(Arm::CONTROL);
        if fits { control(before).saturating_sub(control(after)).share() } else { 0.0 }
    };
    generation.revisions.windows(2).map(given).sum::<f64>() * DAY.as_secs_f64() / measured.as_secs_f64()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::{DefinitionDoc, Salt, Target, Width};

    fn after(hours: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(3600 * hours))
    }

    fn grown(by: Cause) -> Experiment {
        let doc: DefinitionDoc = serde_json::from_value(serde_json::json!({
            "key": "e", "policy": {"kind": "thompson", "tick": "6h"},
            "variations": [{"key": "control", "payload": false}, {"key": "green", "payload": true, "share": 0.1}],
            "metrics": [{"key": "bought", "event": "purchase", "decision": true}],
        }))
        .unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), after(0));
        experiment.start(after(0), Salt::parse("s").unwrap()).unwrap();
        let width = Width::from_share(0.1).unwrap();
        experiment.grow(&[(Arm::new(1).unwrap(), width)], by, after(1), after(1)).unwrap();
        experiment
    }

    fn report(experiment: &Experiment, now: Timestamp) -> Report {
        Report::new(experiment, experiment.generation().unwrap(), &Counts::default(), now).unwrap()
    }

    #[test]
    fn a_pace_is_a_policys_and_measured_over_a_tick() {
        let by_policy = grown(Cause::Policy);
        let young = report(&by_policy, after(5));
        assert_eq!((young.growth_per_day, young.policy_pace), (0.0, None), "no whole tick has gone by");
        let pace = report(&by_policy, after(12)).policy_pace.unwrap();
        assert!((pace - 0.2).abs() < 1e-9, "a tenth of the line in half a day, not {pace}");
        let by_hand = report(&grown(Cause::Grown), after(12));
        assert!((by_hand.growth_per_day - 0.2).abs() < 1e-9);
        assert_eq!(by_hand.policy_pace, None, "what a person did once is not going to go on");
        let mut killed = by_policy;
        killed.switch(Target::Everything, true, after(2)).unwrap();
        assert_eq!(report(&killed, after(12)).policy_pace, None);
    }

    #[test]
    fn before_anything_is_exposed_nothing_is_said_of_it() {
        let report = report(&grown(Cause::Policy), after(12));
        assert!(report.ratio.is_none() && !report.is_compared);
    }
}
