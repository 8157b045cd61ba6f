//! Is there a winner, and may a person be advised to ship it or to roll back? Nothing here moves traffic.
//!
//! | statement | needs, beyond chance | error probability of each comparison, K arms |
//! |---|---|---|
//! | an arm is clearly best | it is better than every other live arm | α/K |
//! | ready to ship a variation | it is better than control | α/(K−1) |
//! | ready to roll back | control is better than every variation | α |
//!
//! With these, each statement is ever false with a probability of at most α = 4%. The promise is 5%: the rest is held back for
//! what the theory leaves out, outcomes that arrive after a look and skewed values (tables in docs/statistics.md):
//!
//! - **Clearly best.** To report an arm that is not the best, it must be found better than the best one, which it is not:
//!   K−1 arms may do so, each with a probability of at most α/K. If several arms are equally good, each of the K arms has
//!   another one that is as good.
//! - **Ship.** K−1 variations may be found better than control although they are not (Bonferroni).
//! - **Roll back.** If some variation is no worse than control, control must be found better than this one, which has a
//!   probability of at most α, whatever the others do (an intersection-union test: Berger, *Multiparameter hypothesis
//!   testing and acceptance sampling*, Technometrics 1982). Killed variations are judged by their data as well.

use core::time::Duration;

use crate::alternative_estimates::estimate_arm;
use crate::anytime::ALPHA;
use crate::decision_record::{ClearlyBest, ConcludeAdvice, EvidenceBasis, GuardrailDecision, ShipCheck, TickInput};
use crate::e3::{Estimator, Prior};
use crate::error::PolicyError;
use crate::evidence::PairTests;
use crate::probability_best::Comparison;
use crate::sample_ratio::{SampleRatio, SrmAlarm};
use crate::tallies::{EpochTally, checked_in_order};

/// From this age on, in weeks, the limit of the expected loss no longer grows.
const MOST_WEEKS: f64 = 4.0;
/// The error probability α of each kind of statement, see above.
const BUDGET: f64 = 0.8 * ALPHA;
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// The statements of one tick about a winner.
#[derive(Debug, Default)]
pub(crate) struct Conclusion {
    /// The arm to conclude with.
    pub(crate) advice: Option<ConcludeAdvice>,
    /// The conditions for it; only with `advice`.
    pub(crate) ship: Option<ShipCheck>,
    /// The arm that is clearly best.
    pub(crate) clearly_best: Option<ClearlyBest>,
}

/// What can be said about a winner now. `live` has one entry per arm; `checks` are this tick's guardrail alerts and
/// sample ratio.
pub(crate) fn conclude(
    input: &TickInput,
    comparison: &Comparison,
    live: &[bool],
    checks: (&[GuardrailDecision], &SampleRatio),
    estimator: &mut Estimator,
) -> Result<Conclusion, PolicyError> {
    let leader = comparison.leader();
    if !live[leader] {
        return Ok(Conclusion::default());
    }
    let epochs = checked_in_order(live.len(), &input.epochs)?;
    let tests = PairTests::new(input, &epochs);
    let others = (0..live.len()).filter(|&arm| live[arm] && arm != leader);
    let alpha = BUDGET / input.arms.len() as f64;
    let basis = better_than_all(&tests, leader, others, alpha, estimator)?;
    let clearly_best = basis.map(|basis| ClearlyBest { arm: leader, basis });
    let loss = comparison.relative_loss(leader).filter(|loss| *loss <= loss_limit(input));
    let Some(loss) = loss else { return Ok(Conclusion { clearly_best, ..Conclusion::default() }) };
    let advice = ConcludeAdvice { arm: leader, p_best: comparison.p_best[leader], loss };
    let ship = if leader == 0 {
        roll_back_check(input, &tests, estimator)?
    } else {
        ship_check(input, leader, &epochs, &tests, checks, estimator)?
    };
    Ok(Conclusion { advice: Some(advice), ship: Some(ship), clearly_best })
}

/// Whether `arm` is better than each of the `others`, and what this rests on. None if there are no others.
fn better_than_all(
    tests: &PairTests<'_>,
    arm: usize,
    others: impl Iterator<Item = usize>,
    alpha: f64,
    estimator: &mut Estimator,
) -> Result<Option<EvidenceBasis>, PolicyError> {
    let mut weakest = None;
    for other in others {
        let Some(basis) = tests.better(arm, other, alpha, estimator)? else { return Ok(None) };
        weakest = Some(weakest.map_or(basis, |weakest| latest(weakest, basis)));
    }
    Ok(weakest)
}

/// The later of two: an always-valid interval holds from now, a look from its day.
fn latest(a: EvidenceBasis, b: EvidenceBasis) -> EvidenceBasis {
    match (a, b) {
        (EvidenceBasis::ScheduledLook { day: a }, EvidenceBasis::ScheduledLook { day: b }) => {
            EvidenceBasis::ScheduledLook { day: a.max(b) }
        }
        _ => EvidenceBasis::AlwaysValid,
    }
}

/// The largest expected loss of an arm that may be shipped. It grows with the age of the generation, because the less
/// time is left, the less there is to gain from knowing better.
fn loss_limit(input: &TickInput) -> f64 {
    let weeks = input.now.since(input.generation_started_at).as_secs_f64() / WEEK.as_secs_f64();
    input.settings.conclude_loss * weeks.clamp(1.0, MOST_WEEKS)
}

fn full_week(input: &TickInput) -> bool {
    input.now.since(input.generation_started_at) >= WEEK
}

/// The conditions for rolling back to control.
fn roll_back_check(
    input: &TickInput,
    tests: &PairTests<'_>,
    estimator: &mut Estimator,
) -> Result<ShipCheck, PolicyError> {
    let basis = better_than_all(tests, 0, 1..input.arms.len(), BUDGET, estimator)?;
    Ok(ShipCheck {
        full_week: full_week(input),
        alternatives_agree: true,
        beyond_chance: basis.is_some(),
        basis,
        no_guardrail_alert: true,
        sample_ratio_ok: true,
    })
}

/// The conditions for shipping the variation `arm`.
fn ship_check(
    input: &TickInput,
    arm: usize,
    epochs: &[&EpochTally],
    tests: &PairTests<'_>,
    (guardrails, ratio): (&[GuardrailDecision], &SampleRatio),
    estimator: &mut Estimator,
) -> Result<ShipCheck, PolicyError> {
    let arms = input.arms.len();
    let basis = tests.better(arm, 0, BUDGET / (arms - 1) as f64, estimator)?;
    let flat = estimator.fit_one_against_control(input.measure, arms, &input.epochs, Prior::Flat, arm)?;
    let alternatives = estimate_arm(input.measure, epochs, &flat, arm);
    Ok(ShipCheck {
        full_week: full_week(input),
        alternatives_agree: alternatives.is_some_and(|estimates| !estimates.disagrees),
        beyond_chance: basis.is_some(),
        basis,
        no_guardrail_alert: !input.arms[arm].guardrail_alerted && guardrails.iter().all(|alert| alert.arm != arm),
        sample_ratio_ok: ratio.alarm == SrmAlarm::Quiet,
    })
}
