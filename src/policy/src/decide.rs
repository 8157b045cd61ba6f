//! The allocation policy: one growth tick, step by step. Are the data trustworthy? What are the lifts? Which arm does
//! harm? Is it too early? Which arm deserves more traffic? Is there a winner? How much may change today? Other modules
//! answer each question; this one asks them in order and is the only place that states the whole policy.
//!
//! ```text
//! freeze if data are late or the sample ratio does not match
//! guardrails: alert, freeze or kill each arm that does harm
//! b, C ← E3;  w, P(b_k>0), loss_k ← draws, with control = 0
//! kill k if P(b_k<0) > .99
//! return if the burn-in is not over
//! g_k ← max(0, f_k + S·w_k·(1 − 1.5·loss_k/b_k)₊ − p_k) if live, P(b_k>0) > ½ and not frozen by a guardrail
//! scale Σg to (some w_k ≥ .96 and loss_k ≤ 1% ? .50 : .25)·days, then to p_0 − floor;  skip below .5%
//! conclude ← the leader, if its loss ≤ 1% · weeks (1 to 4); ready to ship if all conditions of `ShipCheck` hold
//! ```

use inroad_assignment::{GuardrailAction, PosteriorKind, Width};

use crate::anytime::ALPHA;
use crate::conclusion::{Conclusion, conclude};
use crate::decision_record::{
    ArmDecision, BurnIn, BurnInGap, Decision, Freeze, GuardrailDecision, HoldReason, TickInput, TickScope,
};
use crate::draws::DrawsCache;
use crate::e3::{Estimator, Posterior, Prior};
use crate::error::PolicyError;
use crate::growth::{GrowthInput, allowance, steps};
use crate::guardrail::{GuardrailInput, evaluate_guardrail};
use crate::pooled_beta::compare_pooled;
use crate::probability_best::{Comparison, compare};
use crate::sample_ratio::{SampleRatio, SrmAlarm, check_sample_ratio_by};
use crate::tallies::{EpochTally, checked_in_order};

/// Decides for one experiment after another. It keeps the buffers and draws that they share.
#[derive(Debug, Default)]
pub struct Decider {
    estimator: Estimator,
    draws: DrawsCache,
}

impl Decider {
    /// Decides for one experiment, see [`decide`].
    pub fn decide(&mut self, input: &TickInput) -> Result<Decision, PolicyError> {
        decide_with(input, &mut self.estimator, &mut self.draws)
    }
}

/// The decision of one tick. It depends on `input` alone; `draws` only saves making the same draws again. Fails for an
/// input that no experiment can have.
pub fn decide(input: &TickInput, draws: &mut DrawsCache) -> Result<Decision, PolicyError> {
    decide_with(input, &mut Estimator::default(), draws)
}

fn decide_with(input: &TickInput, estimator: &mut Estimator, draws: &mut DrawsCache) -> Result<Decision, PolicyError> {
    input.check()?;
    let settings = &input.settings;
    let arms = input.arms.len();
    let mut live: Vec<bool> = input.arms.iter().map(|arm| !arm.killed).collect();

    let exposures = if input.exposures.is_empty() { &input.epochs } else { &input.exposures };
    let ratio = check_sample_ratio_by(input.sample_ratio, arms, exposures, settings.tick, input.now)?;
    let frozen = freeze_reason(input, &ratio);
    let guardrails = if frozen == Some(Freeze::DataLate) { Vec::new() } else { guardrail_alerts(input, &live)? };
    let reached = |action| guardrails.iter().filter(move |g: &&GuardrailDecision| g.action >= action).map(|g| g.arm);
    let (posterior, comparison) = compare_arms(input, &live, estimator, draws)?;
    let burn_in = burn_in_state(input, &live);

    reached(GuardrailAction::Kill).for_each(|arm| live[arm] = false);
    let growing = input.scope == TickScope::Growth;
    let mut kill = Vec::new();
    if frozen.is_none() && growing {
        let can_be_killed = |k: usize| live[k] && !input.arms[k].kill_exempt;
        kill.extend(
            (1..arms).filter(|&k| can_be_killed(k) && comparison.p_below_control[k] > settings.kill_probability),
        );
        kill.iter().for_each(|&arm| live[arm] = false);
    }

    let may_grow = growing && frozen.is_none() && burn_in.met;
    let conclusion = if may_grow {
        conclude(input, &comparison, &live, (&guardrails, &ratio), estimator)?
    } else {
        Conclusion::default()
    };
    // Until there is a proven winner, control keeps enough units to compare with.
    let is_proven = conclusion.ship.is_some_and(|ship| ship.beyond_chance);
    let floor = if is_proven { input.floor } else { input.floor.max(input.evidence_share) };

    let owned: Vec<Width> = input.arms.iter().map(|arm| arm.owned).collect();
    let foothold: Vec<Width> = input.arms.iter().map(|arm| arm.foothold).collect();
    let mut eligible: Vec<bool> = (0..arms).map(|k| live[k] && comparison.p_above_control[k] > 0.5).collect();
    reached(GuardrailAction::Freeze).for_each(|arm| eligible[arm] = false);
    let loss_to_lift_by_arm: Vec<f64> = (0..arms).map(|k| loss_to_lift(input, &posterior, &comparison, k)).collect();
    let growth = GrowthInput {
        owned: &owned,
        foothold: &foothold,
        floor,
        settings,
        p_best: &comparison.p_best,
        loss_to_lift: &loss_to_lift_by_arm,
        eligible: &eligible,
    };
    let targets = growth.targets();

    let steps = if !growing {
        Err(HoldReason::NotDue)
    } else if frozen.is_some() {
        Err(HoldReason::Frozen)
    } else if !burn_in.met {
        Err(HoldReason::BurnIn)
    } else {
        let cap = if variation_likely_best(input, &comparison, &live) {
            settings.daily_cap_conclude
        } else {
            settings.daily_cap
        };
        let elapsed = input.now.since(input.last_growth_at);
        steps(&owned, &targets, floor, allowance(cap, elapsed, settings.tick), settings.min_step)
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
    let Conclusion { advice: conclude, ship, clearly_best } = conclusion;
    Ok(Decision { frozen, posterior, arms, kill, burn_in, conclude, ship, clearly_best, guardrails, hold })
}

/// The posterior of the lifts as measured, and the comparison of the live arms by their benefit.
fn compare_arms(
    input: &TickInput,
    live: &[bool],
    estimator: &mut Estimator,
    draws: &mut DrawsCache,
) -> Result<(Posterior, Comparison), PolicyError> {
    let settings = &input.settings;
    if settings.posterior == PosteriorKind::Pooled {
        // This estimate needs no order, but the tallies must be checked.
        checked_in_order(live.len(), &input.epochs)?;
        return compare_pooled(&input.epochs, live, input.better);
    }
    let posterior = estimator.fit(input.measure, live.len(), &input.epochs, Prior::Normal(settings.tau))?;
    let treated = live.iter().filter(|live| **live).count() - 1;
    let draws = draws.get(input.seed, treated, settings.draws_log2)?;
    let comparison = compare(&posterior.clone().into_benefit(input.better), live, draws)?;
    Ok((posterior, comparison))
}

/// The guardrails that raise an alert. Each takes at most the action that it may take, and kills only with enough
/// evidence for a kill.
fn guardrail_alerts(input: &TickInput, live: &[bool]) -> Result<Vec<GuardrailDecision>, PolicyError> {
    let mut alerts = Vec::new();
    for metric in &input.guardrails {
        let guardrail = GuardrailInput {
            epochs: &metric.epochs,
            measure: metric.measure,
            better: metric.better,
            arms: live.len(),
            margin: metric.margin,
            guardrails: input.guardrails.len(),
            alpha: ALPHA,
        };
        for arm in (1..live.len()).filter(|&arm| live[arm]) {
            let evidence = evaluate_guardrail(&guardrail, arm)?;
            if evidence.alert {
                let kill = evidence.kill && !input.arms[arm].kill_exempt;
                let reached = if kill { GuardrailAction::Kill } else { GuardrailAction::Freeze };
                let action = metric.action.min(reached);
                let (metric, log_evidence) = (metric.metric.clone(), evidence.log_evidence);
                alerts.push(GuardrailDecision { metric, arm, log_evidence, action });
            }
        }
    }
    Ok(alerts)
}

/// The cost of being wrong about an arm, relative to its benefit: expected loss over lift, both on the log scale.
fn loss_to_lift(input: &TickInput, posterior: &Posterior, comparison: &Comparison, arm: usize) -> f64 {
    let lift = input.better.sign() * posterior.mean[arm];
    let loss = comparison.expected_loss[arm].unwrap_or_default();
    if lift > 0.0 { loss / lift } else { 0.0 }
}

/// Why the tick must not change anything, if the data are late or do not match the shares.
fn freeze_reason(input: &TickInput, ratio: &SampleRatio) -> Option<Freeze> {
    if input.data_late {
        return Some(Freeze::DataLate);
    }
    (ratio.alarm == SrmAlarm::Freeze)
        .then_some(Freeze::SampleRatioMismatch { log_evidence: ratio.peak_log_evidence, p_value: ratio.p_value })
}

/// The state of the burn-in, with the first condition that is not met.
fn burn_in_state(input: &TickInput, live: &[bool]) -> BurnIn {
    let settings = &input.settings;
    let age_us = input.now.as_micros().saturating_sub(input.generation_started_at.as_micros());
    let smallest = |count: fn(&EpochTally, usize) -> u64| {
        (0..live.len())
            .filter(|&arm| live[arm])
            .map(|arm| (input.epochs.iter().map(|epoch| count(epoch, arm)).sum::<u64>(), arm))
            .min()
            .unwrap_or((0, 0))
    };
    let (units, fewest_units) = smallest(|epoch, arm| epoch.arms[arm].n);
    let (conversions, fewest_conversions) = smallest(|epoch, arm| epoch.arms[arm].s);
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

/// Whether a variation is so likely the best one that growth may go faster. This makes no claim: a statement that an arm
/// is best needs more (see `evidence`).
fn variation_likely_best(input: &TickInput, comparison: &Comparison, live: &[bool]) -> bool {
    let arm = comparison.leader();
    let small_loss = comparison.relative_loss(arm).is_some_and(|loss| loss <= input.settings.conclude_loss);
    arm > 0 && live[arm] && comparison.p_best[arm] >= input.settings.conclude_probability && small_loss
}
