//! A growth tick, in the order a person would go through it: may the data be believed, what do they say, who is harmful,
//! is it too early, who deserves more, is there a winner, how far may we go today. Each question is answered by another
//! module; this one only asks them in order, and is the one place where the policy (C9) is spelled out.
//!
//! ```text
//! freeze if data are late or the sample ratio is off
//! b, C ← E3;  w, P(b_k>0), loss_k ← draws, with control = 0
//! kill k if P(b_k<0) > .99
//! return if the burn-in is unmet
//! g_k ← max(0, f_k + S·w_k² − p_k) if live and P(b_k>0) > ½
//! conclude ← the live arm with w ≥ .95, if its loss ≤ 1%
//! scale Σg to (conclude ? .50 : .10)·days, then to p_0 − floor;  skip below .5%
//! ```

use inroad_assignment::Width;

use crate::growth::{Wants, allowance, steps};
use crate::{
    ArmDecision, BurnIn, BurnInGap, Comparison, Conclude, Decision, EpochTally, Estimator, Freeze, HoldReason,
    PointsCache, PolicyError, Prior, SrmAlarm, TickInput, check_sample_ratio, compare,
};

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

    let frozen = freeze(input)?;
    let posterior = estimator.fit(arms, &input.epochs, Prior::Normal(settings.tau))?;
    let treated = live.iter().filter(|live| **live).count() - 1;
    let comparison = compare(&posterior, &live, points.get(input.seed, treated, settings.draws_log2)?)?;
    let burn_in = burn_in(input, &live);

    let mut kill = Vec::new();
    if frozen.is_none() {
        kill.extend((1..arms).filter(|&k| live[k] && comparison.p_below_control[k] > settings.kill_probability));
        kill.iter().for_each(|&arm| live[arm] = false);
    }

    let owned: Vec<Width> = input.arms.iter().map(|arm| arm.owned).collect();
    let foothold: Vec<Width> = input.arms.iter().map(|arm| arm.foothold).collect();
    let eligible: Vec<bool> = (0..arms).map(|k| live[k] && comparison.p_above_control[k] > 0.5).collect();
    let wants = Wants {
        owned: &owned,
        foothold: &foothold,
        floor: input.floor,
        p_best: &comparison.p_best,
        eligible: &eligible,
    };
    let targets = wants.targets();

    let free = frozen.is_none() && burn_in.met;
    let conclude = if free { conclude(input, &comparison, &live) } else { None };
    let steps = if frozen.is_some() {
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
    Ok(Decision { frozen, posterior, arms, kill, burn_in, conclude, hold })
}

fn freeze(input: &TickInput) -> Result<Option<Freeze>, PolicyError> {
    let ratio = check_sample_ratio(input.arms.len(), &input.epochs)?;
    if input.data_late {
        return Ok(Some(Freeze::DataLate));
    }
    Ok((ratio.alarm == SrmAlarm::Freeze)
        .then_some(Freeze::SampleRatioMismatch { log_evidence: ratio.peak_log_evidence, p_value: ratio.p_value }))
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
