//! What people are shown of each arm's lift: credible interval, confidence sequence, and the second opinions.

use inroad_assignment::PosteriorKind;
use inroad_policy::{Interval, PointsCache, SummaryQuestion, summarise};
use serde::Deserialize;

use crate::oracle::{Ledger, problems};

#[derive(Deserialize)]
struct Expected {
    /// Estimate, low, high: here and below.
    lift: [f64; 3],
    anytime: Option<[f64; 3]>,
    opinion: Option<Opinion>,
}

#[derive(Deserialize)]
struct Opinion {
    period: [f64; 3],
    difference: [f64; 3],
    batched: [f64; 3],
    disagrees: bool,
}

/// Ends of lifts are compared as ratios, against the interval's width: what they are uncertain by. A lift close to −1 has
/// few digits left of its ratio, here and in the file.
fn see_lift(ledger: &mut Ledger, what: &str, found: Interval, wanted: [f64; 3]) {
    let width = wanted[2].ln_1p() - wanted[1].ln_1p();
    for (found, wanted) in [found.estimate, found.low, found.high].into_iter().zip(wanted) {
        ledger.see(what, found.ln_1p(), wanted.ln_1p(), 1e-6 * width + 2e-11 / (1.0 + wanted));
    }
}

fn see(ledger: &mut Ledger, what: &str, found: Interval, wanted: [f64; 3]) {
    for (found, end) in [found.estimate, found.low, found.high].into_iter().zip(wanted) {
        // An interval cut off at the range that it is looked for in says no more than that.
        let scale = if wanted[2] >= 9999.0 { end.abs() } else { wanted[2] - wanted[1] };
        ledger.see(what, found, end, 1e-6 * scale);
    }
}

#[test]
fn intervals_and_second_opinions_agree() {
    let expected: Vec<Vec<Expected>> = serde_json::from_str(include_str!("../oracle/intervals.json")).unwrap();
    let (mut ledger, mut points, mut opinions) = (Ledger::default(), PointsCache::default(), 0);
    for (problem, wanted) in problems().iter().zip(&expected) {
        let question = SummaryQuestion {
            epochs: &problem.epochs(),
            measure: problem.measure,
            better: problem.better,
            live: &problem.live,
            tau: problem.tau,
            posterior: PosteriorKind::E3,
            seed: 1,
            draws_log2: 8,
        };
        let found = summarise(&question, &mut points).unwrap().arms;
        assert!(found[0].lift.is_none() && found[0].anytime.is_none() && found[0].opinion.is_none());
        for (k, (arm, wanted)) in (1..).zip(found[1..].iter().zip(wanted)) {
            let name = format!("{}, arm {k}", problem.name);
            match arm.lift {
                Some(lift) => see_lift(&mut ledger, &format!("{name}, lift"), lift, wanted.lift),
                // The prior alone, which is shown to nobody.
                None => ledger.holds(&format!("{name}, nothing measured"), arm.n == 0 || arm.s + found[0].s == 0),
            }
            ledger.holds(&format!("{name}, anytime known"), arm.anytime.is_some() == wanted.anytime.is_some());
            if let (Some(found), Some(wanted)) = (arm.anytime, wanted.anytime) {
                see_lift(&mut ledger, &format!("{name}, anytime"), found, wanted);
            }
            ledger.holds(&format!("{name}, opinion known"), arm.opinion.is_some() == wanted.opinion.is_some());
            if let (Some(found), Some(wanted)) = (arm.opinion, &wanted.opinion) {
                opinions += 1;
                see_lift(&mut ledger, &format!("{name}, period"), found.period, wanted.period);
                see(&mut ledger, &format!("{name}, difference"), found.difference, wanted.difference);
                see(&mut ledger, &format!("{name}, batched"), found.batched, wanted.batched);
                ledger.holds(&format!("{name}, disagrees"), found.disagrees == wanted.disagrees);
            }
        }
    }
    assert!(opinions > 50);
    ledger.close("intervals");
}
