//! Tests of the intervals that people see for each arm: fixed-time interval, confidence sequence, alternative estimates.

use inroad_assignment::PosteriorKind;
use inroad_policy::{
    DrawsCache, EpochTally, Interval, Measure, OUTCOMES_MIN, SummaryInput, UNITS_MIN, Z_95, displayed_quantile,
    summarise,
};
use serde::Deserialize;

use crate::oracle::{Comparisons, problems};

#[derive(Deserialize)]
struct Expected {
    /// Estimate, low and high, as in the other fields.
    lift: Option<[f64; 3]>,
    anytime: Option<[f64; 3]>,
    #[serde(rename = "opinion")]
    alternatives: Option<AlternativeEstimates>,
}

#[derive(Deserialize)]
struct AlternativeEstimates {
    period: [f64; 3],
    difference: [f64; 3],
    batched: [f64; 3],
    disagrees: bool,
}

/// Compares lifts as ratios, with a tolerance relative to the width of the interval. A lift close to −1 leaves few
/// digits of its ratio, here and in the file.
fn compare_lift(comparisons: &mut Comparisons, what: &str, found: Interval, wanted: [f64; 3]) {
    let width = wanted[2].ln_1p() - wanted[1].ln_1p();
    for (found, wanted) in [found.estimate, found.low, found.high].into_iter().zip(wanted) {
        comparisons.compare(what, found.ln_1p(), wanted.ln_1p(), 1e-6 * width + 2e-11 / (1.0 + wanted));
    }
}

fn compare(comparisons: &mut Comparisons, what: &str, found: Interval, wanted: [f64; 3]) {
    for (found, end) in [found.estimate, found.low, found.high].into_iter().zip(wanted) {
        // An interval that is cut off at the search range is compared relative to its ends.
        let scale = if wanted[2] >= 9999.0 { end.abs() } else { wanted[2] - wanted[1] };
        comparisons.compare(what, found, end, 1e-6 * scale);
    }
}

/// The smaller number of outcomes of equal value in control and an arm, expected at their common rate.
fn outcomes(measure: Measure, epochs: &[EpochTally], arm: usize) -> f64 {
    let (mut units, mut sum, mut squares) = ([0.0; 2], 0.0, 0.0);
    for tallies in epochs {
        for (side, k) in [0, arm].into_iter().enumerate() {
            let tally = &tallies.arms[k];
            units[side] += tally.n as f64;
            let s = tally.s as f64;
            let (x, xx) = match (measure, tally.moments) {
                (Measure::Mean | Measure::Ratio, Some(moments)) => (moments.x.max(0.0), moments.xx),
                _ => (s, s),
            };
            sum += x;
            squares += xx;
        }
    }
    units[0].min(units[1]) * sum * sum / squares / (units[0] + units[1])
}

/// The interval of 1.96 standard errors, `factor` times as wide on the log scale.
fn widened(interval: [f64; 3], factor: f64) -> [f64; 3] {
    let middle = interval[0].ln_1p();
    interval.map(|end| (middle + factor * (end.ln_1p() - middle)).exp_m1())
}

#[test]
fn intervals_and_alternative_estimates_match() {
    let expected: Vec<Vec<Expected>> = serde_json::from_str(include_str!("../oracle/intervals.json")).unwrap();
    let (mut comparisons, mut draws, mut alternatives) = (Comparisons::default(), DrawsCache::default(), 0);
    let mut lifts = 0;
    for (problem, wanted) in problems().iter().zip(&expected) {
        let input = SummaryInput {
            epochs: &problem.epochs(),
            measure: problem.measure,
            better: problem.better,
            live: &problem.live,
            tau: problem.tau,
            posterior: PosteriorKind::E3,
            seed: 1,
            draws_log2: 8,
        };
        let found = summarise(&input, &mut draws).unwrap().arms;
        assert!(found[0].lift.is_none() && found[0].anytime.is_none() && found[0].alternatives.is_none());
        for (k, (arm, wanted)) in (1..).zip(found[1..].iter().zip(wanted)) {
            let name = format!("{}, arm {k}", problem.name);
            let lift = arm.lift.unwrap();
            if let Some(found) = lift.relative() {
                lifts += 1;
                // The oracle knows intervals of 1.96 standard errors. For a killed arm that is the always-valid one.
                let factor = displayed_quantile(outcomes(problem.measure, input.epochs, k)) / Z_95;
                let (fixed, always) = (wanted.lift.unwrap(), wanted.anytime.unwrap());
                let known = if problem.live[k] { widened(fixed, factor) } else { fixed };
                let always = if problem.live[k] && always[2] < known[2] { known } else { always };
                compare_lift(&mut comparisons, &format!("{name}, lift"), found, known);
                compare_lift(&mut comparisons, &format!("{name}, anytime"), arm.anytime.unwrap(), always);
            } else {
                // Expected outcomes at the common rate; of unequal values, fewer count.
                let rate = (arm.s + found[0].s) as f64 / (arm.n + found[0].n).max(1) as f64;
                let units = arm.n.min(found[0].n);
                let few = arm.s.min(found[0].s) < OUTCOMES_MIN
                    || units < UNITS_MIN
                    || units as f64 * rate < 4.0 * OUTCOMES_MIN as f64;
                // A standard error above 1 on the log scale.
                let wide = wanted.lift.is_none_or(|[_, low, high]| high.ln_1p() - low.ln_1p() > 2.0 * Z_95);
                comparisons.check(&format!("{name}, too little for a lift: {lift:?}"), few || wide);
                continue;
            }
            // The other intervals are valid at a fixed time only, so a killed arm does not get them.
            let wanted_known = wanted.alternatives.is_some() && problem.live[k];
            comparisons.check(&format!("{name}, alternatives known"), arm.alternatives.is_some() == wanted_known);
            if let (Some(found), Some(wanted)) = (arm.alternatives, &wanted.alternatives) {
                alternatives += 1;
                compare_lift(&mut comparisons, &format!("{name}, period"), found.period, wanted.period);
                compare(&mut comparisons, &format!("{name}, difference"), found.difference, wanted.difference);
                compare(&mut comparisons, &format!("{name}, batched"), found.batched, wanted.batched);
                comparisons.check(&format!("{name}, disagrees"), found.disagrees == wanted.disagrees);
            }
        }
    }
    assert!(lifts > 80 && alternatives > 50, "{lifts} {alternatives}");
    comparisons.finish("intervals");
}
