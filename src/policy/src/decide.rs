//! A growth tick, in the order a person would go through it: may the data be believed, what do they say, who is harmful,
//! is it too early, who deserves more, is there a winner, how far may we go today. Each question is answered by another
//! module; this one only asks them in order, and is the one place where the policy is spelled out.
//!
//! ```text
//! freeze if data are late or the sample ratio is off
//! guardrails: alert, hold back or kill each arm that does harm
//! b, C ← E3;  w, P(b_k>0), loss_k ← draws, with control = 0
//! kill k if P(b_k<0) > .99
//! return if the burn-in is unmet
//! g_k ← max(0, f_k + S·w_k·(1 − 1.5·loss_k/b_k)₊ − p_k) if live, P(b_k>0) > ½ and not held back
//! conclude ← the live arm with w ≥ .96, if its loss ≤ 1%; ship it if nothing speaks against it
//! scale Σg to (conclude ? .50 : .25)·days, then to p_0 − floor;  skip below .5%
//! ```

use core::time::Duration;

use inroad_assignment::{GuardrailAction, PosteriorKind, Width};

use crate::beta::compare_pooled;
use crate::growth::{Wants, allowance, steps};
use crate::opinion::opinion;
use crate::{
    ArmDecision, BurnIn, BurnInGap, Comparison, Conclude, Decision, EpochTally, Estimator, Freeze, GuardrailDecision,
    GuardrailQuestion, HoldReason, PointsCache, PolicyError, Posterior, Prior, SampleRatio, Scope, Ship, SrmAlarm,
    TickInput, check_sample_ratio, compare, confidence_sequence, guardrail,
};

/// Family-wise error of the guardrails, and of putting an arm before a person that is no better than control.
const ALPHA: f64 = 0.05;
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Decides for one experiment after another, keeping what they have in common: buffers and points.
#[derive(Debug, Default)]
pub struct Decider {
    estimator: Estimator,
    points: PointsCache,
}

impl Decider {
    /// See [`decide`].
    pub fn decide(&mut self, input: &TickInput) -> Result<Decision, PolicyError> {
        decide_with(input, &mut self.estimator, &mut self.points)
    }
}

/// What to do at this tick. A function of `input` alone: `points` only saves making the same draws again.
pub fn decide(input: &TickInput, points: &mut PointsCache) -> Result<Decision, PolicyError> {
    decide_with(input, &mut Estimator::default(), points)
}

fn decide_with(
    input: &TickInput,
    estimator: &mut Estimator,
    points: &mut PointsCache,
) -> Result<Decision, PolicyError> {
    input.check()?;
    let settings = &input.settings;
    let arms = input.arms.len();
    let mut live: Vec<bool> = input.arms.iter().map(|arm| !arm.killed).collect();

    let ratio = check_sample_ratio(arms, &input.epochs, settings.tick, input.now)?;
    let frozen = freeze(input, &ratio);
    let guardrails = if frozen == Some(Freeze::DataLate) { Vec::new() } else { guard(input, &live)? };
    let stopped = |action| guardrails.iter().filter(move |g: &&GuardrailDecision| g.action >= action).map(|g| g.arm);
    let (posterior, comparison) = judge(input, &live, estimator, points)?;
    let burn_in = burn_in(input, &live);

    stopped(GuardrailAction::Kill).for_each(|arm| live[arm] = false);
    let growing = input.scope == Scope::Growth;
    let mut kill = Vec::new();
    if frozen.is_none() && growing {
        let doomed = |k: usize| live[k] && !input.arms[k].spared;
        kill.extend((1..arms).filter(|&k| doomed(k) && comparison.p_below_control[k] > settings.kill_probability));
        kill.iter().for_each(|&arm| live[arm] = false);
    }

    let owned: Vec<Width> = input.arms.iter().map(|arm| arm.owned).collect();
    let foothold: Vec<Width> = input.arms.iter().map(|arm| arm.foothold).collect();
    let mut eligible: Vec<bool> = (0..arms).map(|k| live[k] && comparison.p_above_control[k] > 0.5).collect();
    stopped(GuardrailAction::Freeze).for_each(|arm| eligible[arm] = false);
    let risk: Vec<f64> = (0..arms).map(|k| risk(input, &posterior, &comparison, k)).collect();
    let wants = Wants {
        owned: &owned,
        foothold: &foothold,
        floor: input.floor,
        settings,
        p_best: &comparison.p_best,
        risk: &risk,
        eligible: &eligible,
    };
    let targets = wants.targets();

    let free = growing && frozen.is_none() && burn_in.met;
    let conclude = if free { conclude(input, &comparison, &live) } else { None };
    let ship = conclude.map(|conclude| ship(input, conclude.arm, (&guardrails, &ratio), estimator)).transpose()?;
    let steps = if !growing {
        Err(HoldReason::NotDue)
    } else if frozen.is_some() {
        Err(HoldReason::Frozen)
    } else if !burn_in.met {
        Err(HoldReason::BurnIn)
    } else {
        let treated_wins = conclude.is_some_and(|conclude| conclude.arm > 0);
        let cap = if treated_wins { settings.daily_cap_conclude } else { settings.daily_cap };
        let elapsed = input.now.since(input.last_growth_at);
        steps(&owned, &targets, input.floor, allowance(cap, elapsed, settings.tick), settings.min_step)
    };
    let (steps, hold) = match steps {
        Ok(steps) => (steps, None),
        Err(hold) => (vec![Width::ZERO; arms], Some(hold)),
    };

    let arms = (0..arms)
        .map(|k| ArmDecision {
            p_best: comparison.p_best[k],
            p_above_control: comparison.p_above_control[k],
            expected_loss: comparison.expected_loss[k],
            target_share: Width::new(targets[k]).unwrap_or(Width::LINE).share(),
            grow_by: steps[k],
        })
        .collect();
    Ok(Decision { frozen, posterior, arms, kill, burn_in, conclude, ship, guardrails, hold })
}

/// The posterior of the lifts as measured, and the live arms compared by what is better.
fn judge(
    input: &TickInput,
    live: &[bool],
    estimator: &mut Estimator,
    points: &mut PointsCache,
) -> Result<(Posterior, Comparison), PolicyError> {
    let settings = &input.settings;
    if settings.posterior == PosteriorKind::Pooled {
        // Checks the tallies as well.
        crate::tallies::in_order(live.len(), &input.epochs)?;
        return compare_pooled(&input.epochs, live, input.better);
    }
    let posterior = estimator.fit(input.measure, live.len(), &input.epochs, Prior::Normal(settings.tau))?;
    let treated = live.iter().filter(|live| **live).count() - 1;
    let points = points.get(input.seed, treated, settings.draws_log2)?;
    let comparison = compare(&posterior.clone().benefit(input.better), live, points)?;
    Ok((posterior, comparison))
}

/// The guardrails that speak. Each does no more than it may, and kills only at the evidence for a kill.
fn guard(input: &TickInput, live: &[bool]) -> Result<Vec<GuardrailDecision>, PolicyError> {
    let mut spoken = Vec::new();
    for metric in &input.guardrails {
        let question = GuardrailQuestion {
            epochs: &metric.epochs,
            measure: metric.measure,
            better: metric.better,
            arms: live.len(),
            margin: metric.margin,
            guardrails: input.guardrails.len(),
            alpha: ALPHA,
        };
        for arm in (1..live.len()).filter(|&arm| live[arm]) {
            let evidence = guardrail(&question, arm)?;
            if evidence.alert {
                let kill = evidence.kill && !input.arms[arm].spared;
                let reached = if kill { GuardrailAction::Kill } else { GuardrailAction::Freeze };
                let action = metric.action.min(reached);
                let (metric, log_evidence) = (metric.metric.clone(), evidence.log_evidence);
                spoken.push(GuardrailDecision { metric, arm, log_evidence, action });
            }
        }
    }
    Ok(spoken)
}

/// What being wrong about an arm would cost against what it brings: expected loss over lift, on the log scale.
fn risk(input: &TickInput, posterior: &Posterior, comparison: &Comparison, arm: usize) -> f64 {
    let lift = input.better.sign() * posterior.mean[arm];
    let loss = comparison.expected_loss[arm].unwrap_or_default();
    if lift > 0.0 { loss / lift } else { 0.0 }
}

/// What a person should wait for before shipping `arm`. Rolling back to control needs a week, and nothing else.
fn ship(
    input: &TickInput,
    arm: usize,
    (guardrails, ratio): (&[GuardrailDecision], &SampleRatio),
    estimator: &mut Estimator,
) -> Result<Ship, PolicyError> {
    let arms = input.arms.len();
    let full_week = input.now.since(input.generation_started_at) >= WEEK;
    if arm == 0 {
        return Ok(Ship { full_week, opinions_agree: true, beyond_chance: true, harmless: true, ratio_sound: true });
    }
    let flat = estimator.fit_only(input.measure, arms, &input.epochs, Prior::Flat, arm)?;
    let opinion = opinion(input.measure, &crate::tallies::in_order(arms, &input.epochs)?, &flat, arm);
    // One side of the interval for each of the arms that could be shipped in error.
    let alpha = ALPHA.min(2.0 * ALPHA / (arms - 1) as f64);
    let sequence = confidence_sequence(&flat.benefit(input.better), arm, alpha);
    Ok(Ship {
        full_week,
        opinions_agree: opinion.is_some_and(|opinion| !opinion.disagrees),
        beyond_chance: sequence.is_some_and(|sequence| sequence.low > 0.0),
        harmless: !input.arms[arm].harmed && guardrails.iter().all(|guard| guard.arm != arm),
        ratio_sound: ratio.alarm == SrmAlarm::Quiet,
    })
}

fn freeze(input: &TickInput, ratio: &SampleRatio) -> Option<Freeze> {
    if input.data_late {
        return Some(Freeze::DataLate);
    }
    (ratio.alarm == SrmAlarm::Freeze)
        .then_some(Freeze::SampleRatioMismatch { log_evidence: ratio.peak_log_evidence, p_value: ratio.p_value })
}

fn burn_in(input: &TickInput, live: &[bool]) -> BurnIn {
    let settings = &input.settings;
    let age_us = input.now.as_micros().saturating_sub(input.generation_started_at.as_micros());
    let scarcest = |count: fn(&EpochTally, usize) -> u64| {
        (0..live.len())
            .filter(|&arm| live[arm])
            .map(|arm| (input.epochs.iter().map(|epoch| count(epoch, arm)).sum::<u64>(), arm))
            .min()
            .unwrap_or((0, 0))
    };
    let (units, fewest_units) = scarcest(|epoch, arm| epoch.arms[arm].n);
    let (conversions, fewest_conversions) = scarcest(|epoch, arm| epoch.arms[arm].s);
    let missing = if i128::from(age_us) < i128::try_from(settings.burn_in.as_micros()).unwrap_or(i128::MAX) {
        Some(BurnInGap::Age { age_us })
    } else if units < settings.burn_in_units {
        Some(BurnInGap::Units { arm: fewest_units, found: units })
    } else if conversions < settings.burn_in_conversions {
        Some(BurnInGap::Conversions { arm: fewest_conversions, found: conversions })
    } else {
        None
    };
    BurnIn { met: missing.is_none(), missing }
}

fn conclude(input: &TickInput, comparison: &Comparison, live: &[bool]) -> Option<Conclude> {
    let arm = comparison.leader();
    let p_best = comparison.p_best[arm];
    let loss = comparison.relative_loss(arm)?;
    let clear = live[arm] && p_best >= input.settings.conclude_probability && loss <= input.settings.conclude_loss;
    clear.then_some(Conclude { arm, p_best, loss })
}
