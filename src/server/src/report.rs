//! The statistical report on one generation, computed once for the API, the pages and the overview: the estimates of
//! every metric, whether a variation is ready to ship, the sample ratio check and warnings.

use std::time::Duration;

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{Arm, Experiment, Generation, Kills, Policy, Revision, Status, ThompsonSettings, Timestamp};
use inroad_policy::{
    ClearlyBest, Decider, DelayCheck, DrawsCache, GuardrailInput, Interval, Measure, NoveltyCheck, Ranking,
    SampleRatio, ShipCheck, SrmAlarm, Summary, SummaryInput, TickScope, check_delay, check_novelty, check_sample_ratio,
    completed_epochs, evaluate_guardrail, summarise,
};
use inroad_store::GenerationCounts;

use crate::ended_run::{compared_arms, compared_kills};
use crate::error::ServerError;
use crate::estimates::Names;
use crate::kill_results::distinct_units;
use crate::tallies::{SEED, better, epoch_tallies, exposure_tallies, measure};
use crate::tick::tick_input;

const DAY: Duration = Duration::from_secs(86_400);
/// The period over which the rate of growth is measured.
const GROWTH_WINDOW: Duration = Duration::from_secs(7 * 86_400);
/// More stale exposures than this share of all units cause a warning.
const STALE_SHARE_LIMIT: f64 = 0.01;

/// The report on one metric.
pub struct MetricReport {
    /// How variations are compared.
    pub measure: Measure,
    /// Estimates from all units.
    pub all: Summary,
    /// Estimates from units whose window has ended.
    pub mature: Summary,
    /// Whether outcomes arrive sooner or later than those of control, by arm.
    pub delay: Vec<Option<DelayCheck>>,
    /// Whether the lift changed over time, by arm.
    pub novelty: Vec<Option<NoveltyCheck>>,
    /// The log evidence of the metric's guardrail (ln M), by arm; none without a guardrail or counted units.
    pub harm: Vec<Option<f64>>,
}

/// The report on one generation.
pub struct Report {
    /// Estimates of the decision metric; without one, only the number of units.
    pub summary: Summary,
    /// The reports on the metrics, in the order of the definition.
    pub metrics: Vec<MetricReport>,
    /// Whether `summary` compares variations: there is a decision metric, and all live variations are measured by it.
    pub is_compared: bool,
    /// Why they are not compared, for people; empty if they are, and without a decision metric.
    pub not_ranked: String,
    /// Whether the decision metric has negative values, so that variations are compared by absolute differences.
    pub compares_differences: bool,
    /// The sample ratio check of first exposures; none before the first.
    pub ratio: Option<SampleRatio>,
    /// The checks before shipping the leader; none if choosing it may cost much or the experiment is not running.
    pub ship: Option<ShipCheck>,
    /// The variation that is better than every other one beyond chance; none if the experiment is not running.
    pub clearly_best: Option<ClearlyBest>,
    /// The time since the start of the generation.
    pub age: Duration,
    /// The traffic share that control gave up per day recently; 0 before a whole tick was measured.
    pub growth_per_day: f64,
    /// The part of `growth_per_day` that an automatic policy caused, which is expected to continue; none if that is 0,
    /// growth is frozen or the experiment is not running.
    pub policy_growth_per_day: Option<f64>,
    /// Whether the generation is running and not killed.
    pub is_live: bool,
    /// The kills under which variations are compared: after the end of the generation, those until then.
    pub kills: Kills,
    /// Whether an automatic policy grows variations of the generation, or would if it was not paused or killed.
    pub can_grow: bool,
    /// The time of the report, by the experiment's clock.
    pub now: Timestamp,
}

impl Report {
    /// The report on a generation at `now`, by the experiment's clock.
    ///
    /// # Errors
    /// [`ServerError::Policy`] if an estimator fails.
    pub fn new(
        experiment: &Experiment,
        generation: &Generation,
        counts: &GenerationCounts,
        now: Timestamp,
    ) -> Result<Self, ServerError> {
        let definition = &experiment.definition;
        let arms = definition.variations().len();
        let mut points = DrawsCache::default();
        let metrics =
            (0..definition.metrics().len()).map(|i| metric_report(experiment, generation, counts, now, i, &mut points));
        let metrics = metrics.collect::<Result<Vec<_>, _>>()?;
        let decision = definition.decision_metric();
        let summary = match decision.and_then(|i| metrics.get(i)) {
            Some(report) => report.all.clone(),
            None => {
                let epochs = epoch_tallies(experiment, generation, counts, None);
                summarise(
                    &summary_input(
                        experiment,
                        &compared_arms(experiment, generation),
                        &epochs,
                        None,
                        Measure::default(),
                    ),
                    &mut points,
                )?
            }
        };
        let exposures = exposure_tallies(experiment, generation, counts);
        let newest = experiment.generation().is_some_and(|g| g.number == generation.number);
        let is_live = newest && experiment.status == Status::Running && !experiment.kills.everything;
        let (ship, clearly_best) = if is_live && decision.is_some() && summary.ranking != Ranking::AllKilled {
            // The policy's own rule, applied now.
            let input = tick_input(experiment, counts, TickScope::Growth, now, false)?;
            let decision = Decider::default().decide(&input)?;
            (decision.ship, decision.clearly_best)
        } else {
            (None, None)
        };
        let age = now.since(generation.started_at);
        let tick = definition.policy().tick();
        let growth_per_day = control_given_per_day(generation, tick, now, |_| true);
        let policy_growth_per_day =
            control_given_per_day(generation, tick, now, |cause| cause == RevisionCause::Policy);
        let is_exposed = exposures.iter().flat_map(|epoch| &epoch.arms).any(|arm| arm.first > 0);
        let ratio = if is_exposed { Some(check_sample_ratio(arms, &exposures, tick, now)?) } else { None };
        let is_compared = decision.is_some() && summary.is_ranked();
        let metric = decision.and_then(|i| definition.metrics().get(i));
        let not_ranked = match metric {
            Some(metric) => Names { experiment, metric: Some(metric) }.ranking_note(&summary.ranking),
            None => String::new(),
        };
        let is_frozen = ratio.as_ref().is_some_and(|ratio| ratio.alarm == SrmAlarm::Freeze);
        let policy_growth_per_day = Some(policy_growth_per_day).filter(|rate| is_live && !is_frozen && *rate > 0.0);
        let compares_differences =
            decision.and_then(|i| metrics.get(i)).is_some_and(|report| report.measure.is_difference());
        Ok(Self {
            summary,
            metrics,
            is_compared,
            not_ranked,
            compares_differences,
            ratio,
            ship,
            clearly_best,
            age,
            growth_per_day,
            policy_growth_per_day,
            is_live,
            kills: compared_kills(experiment, generation),
            can_grow: generation.ended_at().is_none() && matches!(definition.policy(), Policy::Thompson(_)),
            now,
        })
    }

    /// The state of the sample ratio alarm.
    pub fn alarm(&self) -> SrmAlarm {
        self.ratio.as_ref().map_or(SrmAlarm::Quiet, |ratio| ratio.alarm)
    }

    /// The 95% interval of an arm by the decision metric: of its lift, or of the difference that replaces it.
    pub fn shown_interval(&self, arm: usize) -> Option<Interval> {
        let lift = self.summary.arms.get(arm)?.lift?;
        lift.relative().or_else(|| lift.difference())
    }

    /// Reasons to distrust the numbers, each as a sentence for people.
    pub fn warnings(&self, experiment: &Experiment, counts: &GenerationCounts) -> Vec<String> {
        let name =
            |arm: usize| experiment.definition.variations().get(arm).map(|v| v.key.to_string()).unwrap_or_default();
        let mut warnings = Vec::new();
        match self.alarm() {
            SrmAlarm::Quiet => {}
            SrmAlarm::Freeze if self.can_grow => warnings.push(
                "Sample ratio mismatch: automatic growth is frozen. Check for lost or duplicated exposures.".to_owned(),
            ),
            SrmAlarm::Alarm | SrmAlarm::Freeze => {
                warnings.push("Sample ratio mismatch: check for lost or duplicated exposures.".to_owned())
            }
        }
        if counts.stale_exposures as f64 > STALE_SHARE_LIMIT * distinct_units(counts) as f64 {
            let exposures = if counts.stale_exposures == 1 { "exposure" } else { "exposures" };
            warnings.push(format!(
                "{} {exposures} from outdated clients, which used an allocation that was no longer in effect.",
                counts.stale_exposures
            ));
        }
        for (metric, report) in experiment.definition.metrics().iter().zip(&self.metrics) {
            for arm in 1..report.all.arms.len() {
                if report.delay[arm].is_some_and(|check| check.differs) {
                    warnings.push(format!(
                        "{}: outcomes of {} arrive sooner or later than those of control. Use the estimates from completed \
                         units only.",
                        metric.key,
                        name(arm)
                    ));
                }
                if report.novelty[arm].is_some_and(|check| check.changed) {
                    warnings.push(format!("{}: the lift of {} has changed over time.", metric.key, name(arm)));
                }
                if report.all.arms[arm].alternatives.is_some_and(|alternatives| alternatives.disagrees) {
                    warnings.push(format!(
                        "{}: the estimates of the lift of {} disagree, so the lift is not constant.",
                        metric.key,
                        name(arm)
                    ));
                }
            }
        }
        for alert in &experiment.alerts {
            warnings.push(format!("Guardrail {}: evidence of harm by {}.", alert.metric, name(alert.arm.index())));
        }
        warnings
    }
}

fn summary_input<'a>(
    experiment: &Experiment,
    live: &'a [bool],
    epochs: &'a [inroad_policy::EpochTally],
    metric: Option<usize>,
    measure: Measure,
) -> SummaryInput<'a> {
    let defaults = ThompsonSettings::default();
    let settings = match experiment.definition.policy() {
        Policy::Thompson(settings) => settings,
        Policy::Manual { .. } => &defaults,
    };
    let declared = metric.and_then(|i| experiment.definition.metrics().get(i));
    // The policy's posterior applies only to the metric that the policy uses.
    let is_decision_metric = metric == experiment.definition.decision_metric();
    SummaryInput {
        epochs,
        measure,
        better: declared.map(better).unwrap_or_default(),
        live,
        tau: settings.tau,
        posterior: if is_decision_metric { settings.posterior } else { defaults.posterior },
        seed: SEED,
        draws_log2: settings.draws_log2,
    }
}

fn metric_report(
    experiment: &Experiment,
    generation: &Generation,
    counts: &GenerationCounts,
    now: Timestamp,
    index: usize,
    points: &mut DrawsCache,
) -> Result<MetricReport, ServerError> {
    let metric = &experiment.definition.metrics()[index];
    let (live, tick) = (compared_arms(experiment, generation), experiment.definition.policy().tick());
    let arms = live.len();
    let epochs = epoch_tallies(experiment, generation, counts, Some(index));
    // Completed units are a part of all units, and must be compared in the same way.
    let measure = measure(metric).suited_to(&epochs);
    // Units still in their window when the generation ended are not followed further.
    let followed_until = generation.ended_at().map_or(now, |end| end.min(now));
    let completed = completed_epochs(&epochs, tick, metric.window, Duration::ZERO, followed_until);
    let guardrails = experiment.definition.metrics().iter().filter(|m| m.guardrail.is_some()).count();
    let is_counted = |arm: usize| epochs.iter().filter_map(|epoch| epoch.arms.get(arm)).any(|arm| arm.n > 0);
    let harm = |arm: usize| -> Result<Option<f64>, ServerError> {
        let Some(declared) = metric.guardrail.filter(|_| arm > 0 && is_counted(arm)) else {
            return Ok(None);
        };
        let (better, margin) = (better(metric), declared.margin);
        let input = GuardrailInput { epochs: &epochs, measure, better, arms, margin, guardrails, alpha: 0.05 };
        Ok(Some(evaluate_guardrail(&input, arm)?.log_evidence))
    };
    Ok(MetricReport {
        measure,
        all: summarise(&summary_input(experiment, &live, &epochs, Some(index), measure), points)?,
        mature: summarise(&summary_input(experiment, &live, &completed, Some(index), measure), points)?,
        delay: check_delay(arms, &completed)?,
        novelty: check_novelty(measure, arms, &epochs)?,
        harm: (0..arms).map(harm).collect::<Result<_, _>>()?,
    })
}

/// The traffic share that control gave up per day by revisions of the counted causes, over the last week, or since the
/// start if that is shorter. Zero before a whole tick has passed: one revision seconds after the start would give an
/// absurd rate.
fn control_given_per_day(
    generation: &Generation,
    tick: Duration,
    now: Timestamp,
    counts: impl Fn(RevisionCause) -> bool,
) -> f64 {
    let from = now.minus(GROWTH_WINDOW).max(generation.started_at);
    let measured = now.since(from);
    if measured < tick.min(GROWTH_WINDOW) {
        return 0.0;
    }
    let given = |pair: &[Revision]| {
        let [before, after] = pair else { return 0.0 };
        let is_counted = after.effective_at > from && after.effective_at <= now && counts(after.cause);
        let control = |revision: &Revision| revision.allocation.width_of(Arm::CONTROL);
        if is_counted { control(before).saturating_sub(control(after)).share() } else { 0.0 }
    };
    generation.revisions.windows(2).map(given).sum::<f64>() * DAY.as_secs_f64() / measured.as_secs_f64()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::experiment::ShippingScope;
    use inroad_assignment::{DefinitionDoc, KillTarget, Salt, Width};
    use inroad_policy::attribution::CellKey;

    fn after(hours: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(3600 * hours))
    }

    fn grown_experiment(cause: RevisionCause) -> Experiment {
        let doc: DefinitionDoc = serde_json::from_value(serde_json::json!({
            "key": "e", "policy": {"kind": "thompson", "tick": "6h"},
            "variations": [{"key": "control", "payload": false}, {"key": "green", "payload": true, "share": 0.1}],
            "metrics": [{"key": "bought", "event": "purchase", "decision": true}],
        }))
        .unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), after(0));
        experiment.start(after(0), Salt::parse("s").unwrap()).unwrap();
        let width = Width::from_share(0.1).unwrap();
        experiment.grow(&[(Arm::new(1).unwrap(), width)], cause, after(1), after(1)).unwrap();
        experiment
    }

    fn report(experiment: &Experiment, now: Timestamp) -> Report {
        Report::new(experiment, experiment.generation().unwrap(), &GenerationCounts::default(), now).unwrap()
    }

    #[test]
    fn growth_rate_needs_a_whole_tick_and_manual_growth_is_not_extrapolated() {
        let by_policy = grown_experiment(RevisionCause::Policy);
        let young = report(&by_policy, after(5));
        assert_eq!((young.growth_per_day, young.policy_growth_per_day), (0.0, None), "no whole tick has passed");
        let rate = report(&by_policy, after(12)).policy_growth_per_day.unwrap();
        assert!((rate - 0.2).abs() < 1e-9, "a tenth of the line in half a day, not {rate}");
        let by_hand = report(&grown_experiment(RevisionCause::Grown), after(12));
        assert!((by_hand.growth_per_day - 0.2).abs() < 1e-9);
        assert_eq!(by_hand.policy_growth_per_day, None, "manual growth is not expected to continue");
        let mut killed = by_policy;
        killed.set_killed(KillTarget::Everything, true, after(2)).unwrap();
        assert_eq!(report(&killed, after(12)).policy_growth_per_day, None);
    }

    #[test]
    fn nothing_is_used_up_while_growth_is_frozen() {
        let experiment = grown_experiment(RevisionCause::Policy);
        let mut counts = GenerationCounts::default();
        for (arm, units) in [(0, 20_000), (1, 20)] {
            let key = CellKey { metric: None, tick: 0, revision: 1, arm: Arm::new(arm).unwrap() };
            let cell = counts.cells.entry(key).or_default();
            (cell.units, cell.first) = (units, units);
        }
        let frozen = Report::new(&experiment, experiment.generation().unwrap(), &counts, after(12)).unwrap();
        assert_eq!((frozen.alarm(), frozen.policy_growth_per_day), (SrmAlarm::Freeze, None));
        assert!(frozen.growth_per_day > 0.0, "what was measured stays");
    }

    #[test]
    fn growth_is_said_to_be_frozen_only_where_it_would_go_on() {
        let mut experiment = grown_experiment(RevisionCause::Policy);
        let mut counts = GenerationCounts::default();
        for (arm, units) in [(0, 20_000), (1, 20)] {
            let key = CellKey { metric: None, tick: 0, revision: 1, arm: Arm::new(arm).unwrap() };
            let cell = counts.cells.entry(key).or_default();
            (cell.units, cell.first) = (units, units);
        }
        let warned = |experiment: &Experiment| {
            let report = Report::new(experiment, experiment.generation().unwrap(), &counts, after(12)).unwrap();
            report.warnings(experiment, &counts).concat()
        };
        assert!(warned(&experiment).contains("automatic growth is frozen"));
        experiment.conclude(Arm::CONTROL, ShippingScope::Audience, after(12)).unwrap();
        let ended = warned(&experiment);
        assert!(ended.contains("Sample ratio mismatch") && !ended.contains("frozen"), "{ended}");
    }

    #[test]
    fn evidence_of_harm_needs_counted_units() {
        let doc: DefinitionDoc = serde_json::from_value(serde_json::json!({
            "key": "e", "variations": [{"key": "control", "payload": 0}, {"key": "green", "payload": 1, "share": 0.1}],
            "metrics": [{"key": "bought", "event": "purchase", "guardrail": {"margin": 0.1, "action": "alert"}}],
        }))
        .unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), after(0));
        experiment.start(after(0), Salt::parse("s").unwrap()).unwrap();
        let generation = experiment.generation().unwrap();
        let mut counts = GenerationCounts::default();
        let harm = |counts: &GenerationCounts| {
            Report::new(&experiment, generation, counts, after(12)).unwrap().metrics[0].harm.clone()
        };
        assert_eq!(harm(&counts), [None, None]);
        for (arm, converted) in [(0, 50), (1, 20)] {
            let key = CellKey { metric: Some(0), tick: 0, revision: 1, arm: Arm::new(arm).unwrap() };
            let cell = counts.cells.entry(key).or_default();
            (cell.n, cell.s, cell.x) = (500, converted, i128::from(converted) * 1_000_000);
        }
        assert!(harm(&counts)[1].is_some());
    }

    #[test]
    fn no_sample_ratio_check_before_the_first_exposure() {
        let report = report(&grown_experiment(RevisionCause::Policy), after(12));
        assert!(report.ratio.is_none() && !report.is_compared);
    }
}
