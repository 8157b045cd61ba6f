//! Is one arm better than another beyond chance, however many arms are compared and however often somebody looks? Every
//! statement about a winner rests on this module: "clearly best", "ready to ship" and "ready to roll back".
//!
//! The error probability of a statement has two parts, which are added:
//!
//! - **Scheduled looks** use [`SCHEDULED_PART`] of it. There is one look a day, from [`FIRST_LOOK_DAY`] on. A look at day
//!   d counts the units that were first exposed in ticks that ended by then, so checking more often does not add looks.
//!   The boundary of each look is that of [`error_spending`](crate::error_spending).
//! - **The always-valid interval** uses the rest: it may be checked at any time, also after the scheduled looks.
//!
//! The statistic of a look is the signed root of the likelihood ratio of E3 for these two arms alone, without prior
//! (conditional on the total of each epoch, see [`e3`](crate::e3)). Its distribution is closer to normal than that of
//! b̂/SE when there are few conversions (Barndorff-Nielsen & Cox, *Inference and Asymptotics*, 1994, ch. 6). For numbers
//! that are not conversions it is scaled by the ratio of the model's standard error to the robust one.
//!
//! The plan, the information at which everything is spent, is fixed by the first seven days: the information they would
//! have given with the initial shares, times [`PLANNED_DAYS`]/7. It must not depend on later growth. Growth depends on the
//! lift that was found, and spending by the calendar would spend more where the lift was found large.

use core::time::Duration;

use inroad_assignment::{Timestamp, Width};

use crate::anytime::confidence_sequence;
use crate::decision_record::{EvidenceBasis, TickInput};
use crate::e3::{Estimator, Prior};
use crate::error::PolicyError;
use crate::error_spending::{Look, first_crossing};
use crate::lift_estimate::DIFFERENCE_UNITS_MIN;
use crate::tallies::EpochTally;

/// The day of the first scheduled look, counted from the start of the generation: every weekday is included.
pub const FIRST_LOOK_DAY: u16 = 7;
/// The days for which the scheduled looks are planned. With fewer conversions than in the first week they go on for
/// twice as long.
pub const PLANNED_DAYS: u16 = 28;
/// The part of the error probability that scheduled looks may spend.
pub const SCHEDULED_PART: f64 = 0.8;
/// Fewest conversions of each arm for a look; for other metrics, the number of conversions with the same information.
const CONVERSIONS_MIN: f64 = 10.0;
const DAY: Duration = Duration::from_secs(86_400);

/// Two arms in one epoch.
#[derive(Debug, Clone, Copy)]
struct PairCell {
    /// Units (for ratios, denominators) of the arm and of the other.
    size: (f64, f64),
    /// Conversions, or sums.
    sum: (f64, f64),
}

impl PairCell {
    fn total(&self) -> f64 {
        self.sum.0 + self.sum.1
    }

    /// The expected share of `total` that the arm has at log-lift `b`; 0 without units.
    fn share(&self, b: f64) -> f64 {
        let odds = self.size.0 * libm::exp(b);
        if odds > 0.0 { odds / (odds + self.size.1) } else { 0.0 }
    }

    /// The information on the log-lift at `b`, before division by the dispersion.
    fn information(&self, b: f64) -> f64 {
        let share = self.share(b);
        self.total() * share * (1.0 - share)
    }
}

/// Tests pairs of arms of one experiment at one instant.
pub(crate) struct PairTests<'a> {
    input: &'a TickInput,
    epochs: &'a [&'a EpochTally],
    /// End of the last epoch that each look counts, with the number of epochs before.
    looks: Vec<(u16, usize)>,
}

impl<'a> PairTests<'a> {
    /// `epochs` are the input's epochs in order.
    pub(crate) fn new(input: &'a TickInput, epochs: &'a [&'a EpochTally]) -> Self {
        let age = input.now.since(input.generation_started_at);
        let days = u16::try_from(age.as_secs() / DAY.as_secs()).unwrap_or(u16::MAX).min(2 * PLANNED_DAYS);
        let looks = (FIRST_LOOK_DAY..=days).map(|day| (day, epochs_until(input, epochs, day))).collect();
        Self { input, epochs, looks }
    }

    /// Whether `arm` is better than `other`. The probability of ever reporting this although it is not is at most
    /// `alpha`.
    pub(crate) fn better(
        &self,
        arm: usize,
        other: usize,
        alpha: f64,
        estimator: &mut Estimator,
    ) -> Result<Option<EvidenceBasis>, PolicyError> {
        let (cells, pairs) = self.pair(arm, other);
        if self.input.measure.is_difference() {
            return self.better_by_difference(&cells, &pairs, self.design_share(arm, other), alpha, estimator);
        }
        let sum = |which: fn(&PairCell) -> f64| cells.iter().map(which).sum::<f64>();
        if sum(|cell| cell.sum.0) <= 0.0 || sum(|cell| cell.sum.1) <= 0.0 {
            return Ok(None);
        }
        let fit = match estimator.fit(self.input.measure, 2, &pairs, Prior::Flat) {
            Ok(fit) => fit.into_benefit(self.input.better),
            Err(PolicyError::DidNotConverge | PolicyError::NotPositiveDefinite) => return Ok(None),
            Err(error) => return Err(error),
        };
        let lift = self.input.better.sign() * fit.mean[1];
        let model: f64 = cells.iter().map(|cell| cell.information(lift)).sum();
        if model <= 0.0 {
            return Ok(None);
        }
        // What one conversion counts for: 1/φ, with φ robust to arms that vary unequally.
        let weight = 1.0 / (model * fit.covariance[1][1]);
        if let Some(day) = self.scheduled(&cells, self.design_share(arm, other), weight, SCHEDULED_PART * alpha) {
            return Ok(Some(EvidenceBasis::ScheduledLook { day }));
        }
        // The interval has two sides, of which only the lower one can report a benefit.
        let sequence = confidence_sequence(&fit, 1, 2.0 * (1.0 - SCHEDULED_PART) * alpha);
        Ok(sequence.filter(|sequence| sequence.low > 0.0).map(|_| EvidenceBasis::AlwaysValid))
    }

    /// The same for a measure of differences. The likelihood is Gaussian, so the signed root is the estimate over its
    /// standard error.
    fn better_by_difference(
        &self,
        cells: &[PairCell],
        pairs: &[EpochTally],
        design_share: f64,
        alpha: f64,
        estimator: &mut Estimator,
    ) -> Result<Option<EvidenceBasis>, PolicyError> {
        let has_enough = |cells: &[PairCell]| {
            let units =
                pairs[..cells.len()].iter().fold((0, 0), |n, pair| (n.0 + pair.arms[0].n, n.1 + pair.arms[1].n));
            units.0.min(units.1) >= DIFFERENCE_UNITS_MIN
        };
        let sizes = |cells: &[PairCell], share: &dyn Fn(&PairCell) -> f64| -> f64 {
            cells.iter().map(|cell| (cell.size.0 + cell.size.1) * share(cell) * (1.0 - share(cell))).sum()
        };
        let (mut looks, mut days, mut plan) = (Vec::<Look>::new(), Vec::new(), None);
        for &(day, epochs) in &self.looks {
            let fit = estimator.fit_difference_of_pair(self.input.measure, &pairs[..epochs])?;
            let fit = fit.into_benefit(self.input.better);
            let unit = fit.unit.unwrap_or(1.0);
            // Absolute, because each fit has its own unit. A larger spread of later units must not lower it.
            let before = looks.last().map_or(0.0, |look| look.information);
            let information = (1.0 / (unit * unit * fit.covariance[1][1])).max(before);
            let served =
                sizes(&cells[..epochs], &|cell| cell.size.0 / (cell.size.0 + cell.size.1).max(f64::MIN_POSITIVE));
            if !has_enough(&cells[..epochs]) || served <= 0.0 {
                continue;
            }
            // The information of a first week at the initial shares, as for lifts.
            let first_week = sizes(&cells[..self.looks[0].1], &|_| design_share);
            let weeks = f64::from(PLANNED_DAYS) / f64::from(FIRST_LOOK_DAY);
            plan = plan.or(Some(information * first_week / served * weeks));
            looks.push(Look { z: fit.mean[1] / fit.sd(1), information });
            days.push(day);
        }
        let crossing = plan.and_then(|plan| first_crossing(&looks, plan, SCHEDULED_PART * alpha));
        if let Some(&day) = crossing.and_then(|look| days.get(look)) {
            return Ok(Some(EvidenceBasis::ScheduledLook { day }));
        }
        if !has_enough(cells) {
            return Ok(None);
        }
        let fit = estimator.fit_difference_of_pair(self.input.measure, pairs)?.into_benefit(self.input.better);
        let sequence = confidence_sequence(&fit, 1, 2.0 * (1.0 - SCHEDULED_PART) * alpha);
        Ok(sequence.filter(|sequence| sequence.low > 0.0).map(|_| EvidenceBasis::AlwaysValid))
    }

    /// The day of the first scheduled look that reports a benefit.
    fn scheduled(&self, cells: &[PairCell], design_share: f64, weight: f64, alpha: f64) -> Option<u16> {
        let first_week = &cells[..self.looks.first()?.1];
        let design = design_share * (1.0 - design_share);
        let per_week: f64 = first_week.iter().map(|cell| weight * cell.total() * design).sum();
        let plan = per_week * f64::from(PLANNED_DAYS) / f64::from(FIRST_LOOK_DAY);
        let mut looks = Vec::with_capacity(self.looks.len());
        let mut days = Vec::with_capacity(self.looks.len());
        let mut b = 0.0;
        for &(day, epochs) in &self.looks {
            let cells = &cells[..epochs];
            let sums = cells.iter().fold((0.0, 0.0), |sums, cell| (sums.0 + cell.sum.0, sums.1 + cell.sum.1));
            if weight * sums.0.min(sums.1) < CONVERSIONS_MIN {
                continue;
            }
            b = log_lift(cells, sums.0, b);
            let information = weight * cells.iter().map(|cell| cell.information(0.0)).sum::<f64>();
            let z = self.input.better.sign() * signed_root(cells, sums.0, b) * weight.sqrt();
            looks.push(Look { z, information });
            days.push(day);
        }
        first_crossing(&looks, plan, alpha).and_then(|look| days.get(look).copied())
    }

    /// The share of `arm` among the units of both arms at the start.
    fn design_share(&self, arm: usize, other: usize) -> f64 {
        let arms = &self.input.arms;
        let treated = arms[1..].iter().fold(Width::ZERO, |sum, arm| sum.saturating_add(arm.foothold));
        let at_start = |arm: usize| {
            if arm == 0 { 1.0 - treated.share() } else { arms[arm].foothold.share() }
        };
        at_start(arm) / (at_start(arm) + at_start(other)).max(f64::MIN_POSITIVE)
    }

    /// The tallies of two arms, one entry per epoch, `other` first in those for the estimator.
    fn pair(&self, arm: usize, other: usize) -> (Vec<PairCell>, Vec<EpochTally>) {
        let cell = |epoch: &&EpochTally| {
            let (a, b) = (self.input.measure.cell(&epoch.arms[arm]), self.input.measure.cell(&epoch.arms[other]));
            PairCell { size: (a.size, b.size), sum: (a.sum, b.sum) }
        };
        let tally = |epoch: &&EpochTally| EpochTally {
            epoch: epoch.epoch,
            arms: vec![epoch.arms[other], epoch.arms[arm]],
            shares: Vec::new(),
        };
        (self.epochs.iter().map(cell).collect(), self.epochs.iter().map(tally).collect())
    }
}

/// How many epochs belong to ticks that ended by the look of this day.
fn epochs_until(input: &TickInput, epochs: &[&EpochTally], day: u16) -> usize {
    let look = input.generation_started_at.plus(DAY * u32::from(day));
    epochs.partition_point(|epoch| {
        Timestamp::start_of_tick(epoch.epoch.tick.saturating_add(1), input.settings.tick) <= look
    })
}

/// The log-lift that maximises the likelihood of the pair, by Newton's method from `start`. Both sums are above 0, so it is
/// finite.
fn log_lift(cells: &[PairCell], sum: f64, start: f64) -> f64 {
    let mut b = start;
    for _ in 0..50 {
        let (mut gradient, mut curvature) = (sum, 0.0);
        for cell in cells {
            gradient -= cell.total() * cell.share(b);
            curvature += cell.information(b);
        }
        // All epochs have only one of the arms: nothing is compared.
        if curvature <= 0.0 {
            return b;
        }
        let step = (gradient / curvature).clamp(-1.0, 1.0);
        b += step;
        if step.abs() < 1e-10 {
            break;
        }
    }
    b
}

/// ±√(2·(ℓ(b) − ℓ(0))), with the sign of b.
fn signed_root(cells: &[PairCell], sum: f64, b: f64) -> f64 {
    let log_of_mean = |cell: &PairCell| cell.total() * libm::log1p(cell.share(0.0) * libm::expm1(b));
    let gain = sum * b - cells.iter().map(log_of_mean).sum::<f64>();
    (2.0 * gain.max(0.0)).sqrt().copysign(b)
}
