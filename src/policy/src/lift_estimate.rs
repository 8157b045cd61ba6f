//! What people are told about an arm's lift: an interval without the policy's prior, or the reason why there is none. The
//! states are an enum, so that no caller can show an interval that the data do not support.

use crate::anytime::{ALPHA, ANYTIME_RHO, anytime_half_width, confidence_sequence};
use crate::e3::{Estimator, Posterior, Prior};
use crate::error::PolicyError;
use crate::interval::{Interval, Z_95, displayed_quantile};
use crate::tallies::{EpochTally, Measure};

/// Fewest outcomes for a relative lift: expected in control and in the arm at their common rate, and found in each. Below
/// it, the normal distribution of a log-lift is a poor approximation, and its intervals are too wide to mean anything.
pub const OUTCOMES_MIN: u64 = 5;
/// Fewest units in control and in the arm for any interval.
pub const UNITS_MIN: u64 = 30;
/// The same for a measure of differences, whose sums do not show how skewed its values are.
pub const DIFFERENCE_UNITS_MIN: u64 = 200;
/// Smallest information 1/SE² for any interval, on the scale of the posterior. With less, the interval of a lift would
/// reach from a seventh to seven times the estimate.
const INFORMATION_MIN: f64 = 1.0;

/// What can be said about the lift of one arm over control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LiftEstimate {
    /// The relative lift with its 95% interval, without prior. The interval of a killed arm is valid at any stopping time.
    Measured(Interval),
    /// There is no relative lift. The absolute difference from control in the metric's own unit, with its 95% interval.
    Difference {
        /// The difference, arm minus control.
        difference: Interval,
        /// Why there is no relative lift.
        reason: NoRelativeLift,
    },
    /// There are too few units or outcomes for an interval.
    TooEarly(Progress),
    /// The metric cannot be measured, however long one waits.
    NotMeasured(NotMeasured),
}

/// Why a difference is shown instead of a relative lift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRelativeLift {
    /// The metric has negative values.
    NegativeValues,
    /// Control or the arm has fewer than [`OUTCOMES_MIN`] units with an outcome, though enough were expected.
    FewOutcomes {
        /// Those of control.
        control: u64,
        /// Those of the arm.
        arm: u64,
    },
}

/// How far the data are from a first estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Units so far in all arms that are compared.
    pub units: u64,
    /// About how many are needed, in two significant digits, at the present shares and rates. None while no unit has an
    /// outcome.
    pub units_needed: Option<u64>,
    /// The fewest units with an outcome in any of the arms. [`OUTCOMES_MIN`] are needed.
    pub outcomes: u64,
}

impl Progress {
    /// The factor of units that is needed, at least 1.
    pub(crate) fn missing(&self) -> f64 {
        let units = self.units.max(1) as f64;
        self.units_needed.map_or(1.0, |needed| needed as f64 / units)
    }
}

/// Why a metric cannot be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotMeasured {
    /// The arm (0 is control) has units, but no denominator of the ratio.
    NoDenominator {
        /// The arm.
        arm: usize,
    },
    /// Units of control and of the arm have outcomes, but none has a denominator of the ratio.
    NoDenominators,
    /// Units have outcomes, but all their values are 0.
    NoValues,
}

/// The estimate of one arm, with the always-valid interval of the same quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShownLift {
    /// What can be said.
    pub estimate: LiftEstimate,
    /// The interval that holds at all checks together; none without an estimate.
    pub anytime: Option<Interval>,
    /// The factor by which an interval of 1.96 standard errors must be widened: for few outcomes
    /// ([`displayed_quantile`]), and for a killed arm, which was stopped by its own data.
    pub(crate) widening: f64,
}

/// Counts of one arm over all epochs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ArmCounts {
    pub(crate) n: u64,
    pub(crate) s: u64,
    pub(crate) size: f64,
    pub(crate) sum: f64,
    /// Sum of the squares of the units' values; for conversions, of ones.
    squares: f64,
}

impl ArmCounts {
    pub(crate) fn of(measure: Measure, epochs: &[EpochTally], arm: usize) -> Self {
        epochs.iter().fold(Self::default(), |all, epoch| {
            let tally = &epoch.arms[arm];
            let cell = measure.cell(tally);
            Self {
                n: all.n + tally.n,
                s: all.s + tally.s,
                size: all.size + cell.size,
                sum: all.sum + cell.sum,
                squares: all.squares + tally.moments.map_or(tally.s as f64, |moments| moments.xx),
            }
        })
    }
}

/// Whether these arms have enough units and outcomes to be compared. The number of outcomes is the one *expected* at the
/// common rate: a condition on the outcomes of a small arm would select the runs in which it had too many.
fn is_enough(measure: Measure, arms: &[ArmCounts]) -> bool {
    let fewest = arms.iter().map(|arm| arm.n).min().unwrap_or(0);
    fewest >= units_min(measure) && fewest as f64 * rate(measure, arms) >= OUTCOMES_MIN as f64
}

/// The smaller number of outcomes of equal value in these arms, expected at the common rate. Where values can be negative,
/// the sums do not show how skewed they are, and [`DIFFERENCE_UNITS_MIN`] units count as [`OUTCOMES_MIN`] outcomes.
fn equal_outcomes(measure: Measure, arms: &[ArmCounts]) -> f64 {
    let fewest = arms.iter().map(|arm| arm.n).min().unwrap_or(0) as f64;
    let per_unit = OUTCOMES_MIN as f64 / DIFFERENCE_UNITS_MIN as f64;
    let rate = rate(measure, arms);
    fewest * if measure.is_difference() { rate.min(per_unit) } else { rate }
}

fn units_min(measure: Measure) -> u64 {
    if measure.is_difference() { DIFFERENCE_UNITS_MIN } else { UNITS_MIN }
}

/// Outcomes per unit, over all arms. Outcomes of unequal value count as the number of equal ones whose sum is as certain,
/// (Σx)²/Σx². Where values can be negative, every unit with an outcome counts.
fn rate(measure: Measure, arms: &[ArmCounts]) -> f64 {
    let total = |value: &dyn Fn(&ArmCounts) -> f64| arms.iter().map(value).sum::<f64>();
    let (n, squares) = (total(&|arm| arm.n as f64), total(&|arm| arm.squares));
    if n == 0.0 || squares <= 0.0 {
        return 0.0;
    }
    if measure.is_difference() {
        return total(&|arm| arm.s as f64) / n;
    }
    let sum = total(&|arm| arm.sum);
    sum * sum / squares / n
}

/// The progress of these arms. `missing` is the factor of units that the information needs, at least 1.
pub(crate) fn progress(measure: Measure, arms: &[ArmCounts], missing: f64) -> Progress {
    let units: u64 = arms.iter().map(|arm| arm.n).sum();
    let fewest = arms.iter().map(|arm| arm.n).min().unwrap_or(0) as f64;
    let per_arm = (OUTCOMES_MIN as f64 / rate(measure, arms)).max(units_min(measure) as f64);
    let needed = units as f64 * (per_arm / fewest).max(missing);
    Progress {
        units,
        // While an arm has no unit, or no unit has an outcome, the number is unknown.
        units_needed: (fewest > 0.0 && needed < 1e15).then(|| round_up(needed)),
        outcomes: arms.iter().map(|arm| arm.s).min().unwrap_or(0),
    }
}

/// Rounds up to two significant digits.
fn round_up(value: f64) -> u64 {
    let mut step = 1.0;
    while value / step > 99.0 {
        step *= 10.0;
    }
    (libm::ceil(value / step) * step) as u64
}

/// What can be said about each arm against control alone; none for control. `live` has one entry per arm. `flat` receives
/// the fits without prior of the arms with an estimate. Fails for impossible tallies.
pub(crate) fn shown_lifts_with_fits(
    estimator: &mut Estimator,
    measure: Measure,
    epochs: &[EpochTally],
    live: &[bool],
    flat: &mut [Option<Posterior>],
) -> Result<Vec<Option<ShownLift>>, PolicyError> {
    let counts: Vec<ArmCounts> = (0..live.len()).map(|arm| ArmCounts::of(measure, epochs, arm)).collect();
    let mut shown = vec![None; live.len()];
    for arm in 1..live.len() {
        let pair = [counts[0], counts[arm]];
        let without = |estimate| ShownLift { estimate, anytime: None, widening: 1.0 };
        shown[arm] = Some(match obstacle(measure, arm, &pair) {
            Some(estimate) => without(estimate),
            None => {
                let reason = no_relative_lift(measure, &pair);
                let fit = match reason {
                    Some(_) => estimator.fit_difference(measure, live.len(), epochs, arm)?,
                    None => estimator.fit_one_against_control(measure, live.len(), epochs, Prior::Flat, arm)?,
                };
                let information = 1.0 / fit.covariance[arm][arm];
                if information < INFORMATION_MIN {
                    without(LiftEstimate::TooEarly(progress(measure, &pair, INFORMATION_MIN / information)))
                } else {
                    let lift = shown_lift(&fit, arm, live[arm], reason, equal_outcomes(measure, &pair));
                    flat[arm] = Some(fit);
                    lift
                }
            }
        });
    }
    Ok(shown)
}

/// What can be said about each arm against control alone; none for control. `live` has one entry per arm: whether it is
/// not killed. Fails for impossible tallies.
pub fn shown_lifts(
    estimator: &mut Estimator,
    measure: Measure,
    epochs: &[EpochTally],
    live: &[bool],
) -> Result<Vec<Option<ShownLift>>, PolicyError> {
    shown_lifts_with_fits(estimator, measure, epochs, live, &mut vec![None; live.len()])
}

/// Why there is no estimate, as far as the counts of control and the arm show.
fn obstacle(measure: Measure, arm: usize, pair: &[ArmCounts; 2]) -> Option<LiftEstimate> {
    let is_ratio = matches!(measure, Measure::Ratio | Measure::RatioDifference);
    let lacks = |counts: &ArmCounts| is_ratio && counts.n >= UNITS_MIN && counts.size <= 0.0;
    if let Some(side) = pair.iter().position(lacks).filter(|_| pair.iter().any(|counts| counts.size > 0.0)) {
        let arm = if side == 0 { 0 } else { arm };
        return Some(LiftEstimate::NotMeasured(NotMeasured::NoDenominator { arm }));
    }
    if pair.iter().all(lacks) && pair.iter().any(|counts| counts.s >= OUTCOMES_MIN) {
        return Some(LiftEstimate::NotMeasured(NotMeasured::NoDenominators));
    }
    let has_outcomes = pair.iter().all(|counts| counts.s >= OUTCOMES_MIN);
    if has_outcomes && pair.iter().all(|counts| counts.squares <= 0.0) {
        return Some(LiftEstimate::NotMeasured(NotMeasured::NoValues));
    }
    (!is_enough(measure, pair)).then(|| LiftEstimate::TooEarly(progress(measure, pair, 1.0)))
}

fn no_relative_lift(measure: Measure, pair: &[ArmCounts; 2]) -> Option<NoRelativeLift> {
    if measure.is_difference() {
        return Some(NoRelativeLift::NegativeValues);
    }
    let few = pair.iter().any(|counts| counts.s < OUTCOMES_MIN || counts.sum <= 0.0);
    few.then_some(NoRelativeLift::FewOutcomes { control: pair[0].s, arm: pair[1].s })
}

/// The estimate of an arm from a fit without prior. An arm that was killed was stopped by its own data, so it gets an
/// interval that is valid at any stopping time. An interval for a fixed time would be too short (its coverage falls to
/// about 88% in A/A tests). The always-valid interval is never the shorter one: with few outcomes it is not corrected,
/// and becomes that for a fixed time.
fn shown_lift(fit: &Posterior, arm: usize, live: bool, reason: Option<NoRelativeLift>, outcomes: f64) -> ShownLift {
    let information = 1.0 / fit.covariance[arm][arm];
    let fixed = displayed_quantile(outcomes) * fit.sd(arm);
    let always = anytime_half_width(information, ANYTIME_RHO, ALPHA).max(fixed);
    let half_width = if live { fixed } else { always };
    let interval = Interval::around(fit, arm, half_width);
    let estimate = match reason {
        None => LiftEstimate::Measured(interval),
        Some(reason) => LiftEstimate::Difference { difference: interval, reason },
    };
    let anytime = confidence_sequence(fit, arm, ALPHA).map(|_| Interval::around(fit, arm, always));
    ShownLift { estimate, anytime, widening: half_width / (Z_95 * fit.sd(arm)) }
}

impl LiftEstimate {
    /// The relative lift, if there is one.
    #[must_use]
    pub fn relative(&self) -> Option<Interval> {
        match self {
            Self::Measured(lift) => Some(*lift),
            Self::Difference { .. } | Self::TooEarly(_) | Self::NotMeasured(_) => None,
        }
    }

    /// The absolute difference, where it replaces the relative lift.
    #[must_use]
    pub fn difference(&self) -> Option<Interval> {
        match self {
            Self::Difference { difference, .. } => Some(*difference),
            Self::Measured(_) | Self::TooEarly(_) | Self::NotMeasured(_) => None,
        }
    }

    /// Whether an interval is known, of the lift or of the difference.
    #[must_use]
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Measured(_) | Self::Difference { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tallies::{ArmTally, EpochKey, Moments};

    #[test]
    fn ratio_without_any_denominator_is_not_measured() {
        let moments = Moments { x: 950.0, xx: 3_000.0, ..Moments::default() };
        let arm = ArmTally { first: 400, n: 400, s: 380, moments: Some(moments), early: 0 };
        let epoch = EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms: vec![arm; 2], shares: Vec::new() };
        let shown = shown_lifts(&mut Estimator::default(), Measure::Ratio, &[epoch], &[true; 2]).unwrap();
        let estimate = shown[1].map(|shown| shown.estimate);
        assert_eq!(estimate, Some(LiftEstimate::NotMeasured(NotMeasured::NoDenominators)));
    }

    fn one_epoch(measure: Measure, arms: Vec<ArmTally>, live: &[bool]) -> Vec<Option<ShownLift>> {
        let epochs = [EpochTally { epoch: EpochKey { tick: 0, revision: 1 }, arms, shares: Vec::new() }];
        shown_lifts(&mut Estimator::default(), measure.suited_to(&epochs), &epochs, live).unwrap()
    }

    fn conversions(control: (u64, u64), arm: (u64, u64), live: bool) -> ShownLift {
        let tally = |(n, s): (u64, u64)| ArmTally { first: n, n, s, ..ArmTally::default() };
        one_epoch(Measure::Conversion, vec![tally(control), tally(arm)], &[true, live])[1].unwrap()
    }

    #[test]
    fn few_units_or_outcomes_are_too_early_with_the_number_that_is_needed() {
        let early = |control, arm| match conversions(control, arm, true) {
            ShownLift { estimate: LiftEstimate::TooEarly(progress), anytime: None, .. } => progress,
            other => panic!("{control:?} {arm:?} {other:?}"),
        };
        assert_eq!(early((0, 0), (0, 0)), Progress { units: 0, units_needed: None, outcomes: 0 });
        assert_eq!(early((900, 0), (900, 0)), Progress { units: 1_800, units_needed: None, outcomes: 0 });
        assert_eq!(early((20, 4), (20, 12)), Progress { units: 40, units_needed: Some(60), outcomes: 4 });
        // One in fifty of the units has an outcome, so 250 are needed in each arm.
        assert_eq!(early((50, 1), (50, 1)), Progress { units: 100, units_needed: Some(500), outcomes: 1 });
        assert_eq!(early((0, 0), (80, 20)).units_needed, None);
    }

    #[test]
    fn outcomes_on_one_side_alone_are_a_difference_with_a_finite_interval() {
        for (control, arm, sign) in
            [((700, 0), (720, 41), 1.0), ((720, 41), (700, 0), -1.0), ((700, 2), (720, 41), 1.0)]
        {
            let shown = conversions(control, arm, true);
            let LiftEstimate::Difference { difference, reason } = shown.estimate else { panic!("{shown:?}") };
            let wanted = arm.1 as f64 / arm.0 as f64 - control.1 as f64 / control.0 as f64;
            assert!((difference.estimate - wanted).abs() < 1e-6, "{difference:?}");
            assert!(sign * difference.low > 0.0 && sign * difference.high > 0.0, "{difference:?}");
            assert!((difference.high - difference.low).abs() < 0.05, "{difference:?}");
            assert_eq!(reason, NoRelativeLift::FewOutcomes { control: control.1, arm: arm.1 });
        }
    }

    #[test]
    fn estimate_is_the_ratio_of_the_rates_and_a_killed_arm_gets_the_always_valid_interval() {
        let shown = conversions((1_000, 60), (1_000, 108), true);
        let lift = shown.estimate.relative().unwrap();
        assert!((lift.estimate - 0.8).abs() < 1e-5, "the prior must not pull it to 0: {lift:?}");
        let anytime = shown.anytime.unwrap();
        assert!(anytime.low < lift.low && lift.high < anytime.high);
        let killed = conversions((1_000, 60), (1_000, 108), false);
        assert_eq!(killed.estimate.relative(), Some(anytime));
        // 168 conversions of 2,000 units: 84 are expected in each arm.
        let factor = displayed_quantile(84.0) / Z_95;
        assert!(killed.widening > 1.3 && (shown.widening - factor).abs() < 1e-9 && factor > 1.08, "{factor}");
        let half = 0.5 * (lift.high.ln_1p() - lift.low.ln_1p());
        assert!((half / (displayed_quantile(84.0) * f64::sqrt(1.0 / 60.0 + 1.0 / 108.0 - 0.002)) - 1.0).abs() < 0.02);
    }

    #[test]
    fn few_outcomes_have_wider_intervals_and_the_always_valid_one_is_never_shorter() {
        for (control, arm) in
            [((100, 6), (100, 9)), ((100, 9), (100, 6)), ((5_000, 6), (5_000, 7)), ((60, 40), (70, 50))]
        {
            let shown = conversions(control, arm, true);
            let (lift, anytime) = (shown.estimate.relative().unwrap(), shown.anytime.unwrap());
            assert!(anytime.low <= lift.low && lift.high <= anytime.high, "{shown:?}");
        }
        let width = |n, s| conversions((n, s), (n, s), true).widening;
        assert!(width(1_000, 6) > 1.4 && width(1_000, 20) > 1.1 && width(100_000, 20_000) < 1.08);
    }

    #[test]
    fn outcomes_that_never_share_an_epoch_are_too_early() {
        let tally = |n, s| ArmTally { first: n, n, s, ..ArmTally::default() };
        let epoch = |tick, arms| EpochTally { epoch: EpochKey { tick, revision: 1 }, arms, shares: Vec::new() };
        let epochs = [epoch(0, vec![tally(500, 50), tally(0, 0)]), epoch(1, vec![tally(0, 0), tally(500, 50)])];
        let shown = shown_lifts(&mut Estimator::default(), Measure::Conversion, &epochs, &[true, true]).unwrap();
        assert!(matches!(shown[1].unwrap().estimate, LiftEstimate::TooEarly(_)), "{shown:?}");
    }

    #[test]
    fn negative_means_get_their_difference() {
        let cell = |mean: f64| {
            let moments = Moments { x: 400.0 * mean, xx: 400.0 * (mean * mean + 1.0), ..Moments::default() };
            ArmTally { first: 400, n: 400, s: 400, moments: Some(moments), early: 0 }
        };
        let shown = one_epoch(Measure::Mean, vec![cell(-2.0), cell(-1.25)], &[true, true])[1].unwrap();
        let LiftEstimate::Difference { difference, reason } = shown.estimate else { panic!("{shown:?}") };
        assert_eq!(reason, NoRelativeLift::NegativeValues);
        assert!((difference.estimate - 0.75).abs() < 1e-5 && difference.low > 0.55 && difference.high < 0.95);
        let anytime = shown.anytime.unwrap();
        assert!(anytime.low < difference.low && difference.high < anytime.high);
    }

    #[test]
    fn ratio_without_a_denominator_is_not_measured() {
        let cell = |y: f64| {
            let moments = Moments { x: 90.0, xx: 90.0, y, yy: 3.0 * y, xy: y.min(90.0) };
            ArmTally { first: 300, n: 300, s: 90, moments: Some(moments), early: 0 }
        };
        let missing = |control, arm| match one_epoch(Measure::Ratio, vec![cell(control), cell(arm)], &[true, true])[1] {
            Some(ShownLift { estimate: LiftEstimate::NotMeasured(NotMeasured::NoDenominator { arm }), .. }) => {
                Some(arm)
            }
            _ => None,
        };
        assert_eq!([missing(600.0, 0.0), missing(0.0, 600.0), missing(600.0, 600.0)], [Some(1), Some(0), None]);
    }

    #[test]
    fn a_few_large_values_are_too_early_and_zeros_are_not_measured() {
        let cell = |s: u64, value: f64| {
            let moments = Moments { x: s as f64 * value, xx: s as f64 * value * value, ..Moments::default() };
            ArmTally { first: 400, n: 400, s, moments: Some(moments), early: 0 }
        };
        let mut skewed = cell(9, 1.0);
        skewed.moments = Some(Moments { x: 108.0, xx: 10_008.0, ..Moments::default() });
        let estimate = |arms| one_epoch(Measure::Mean, arms, &[true, true])[1].unwrap().estimate;
        assert!(estimate(vec![cell(9, 7.0), cell(9, 8.0)]).relative().is_some());
        assert!(matches!(estimate(vec![skewed, skewed]), LiftEstimate::TooEarly(_)));
        assert_eq!(estimate(vec![cell(9, 0.0); 2]), LiftEstimate::NotMeasured(NotMeasured::NoValues));
    }
}
