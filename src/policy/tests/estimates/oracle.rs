//! Reads the problems that the Python oracle solved, and collects the differences from its values.

use inroad_policy::{ArmTally, BetterDirection, EpochKey, EpochTally, Measure, Moments};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Problem {
    pub(crate) name: String,
    pub(crate) measure: Measure,
    pub(crate) better: BetterDirection,
    pub(crate) tau: f64,
    pub(crate) live: Vec<bool>,
    pub(crate) margin: f64,
    first: Vec<Vec<u64>>,
    n: Vec<Vec<u64>>,
    s: Vec<Vec<u64>>,
    early: Vec<Vec<u64>>,
    shares: Vec<Vec<f64>>,
    #[serde(default)]
    moments: Vec<Vec<Vec<f64>>>,
}

impl Problem {
    pub(crate) fn arms(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn epochs(&self) -> Vec<EpochTally> {
        let arm = |e: usize, k: usize| ArmTally {
            first: self.first[e][k],
            n: self.n[e][k],
            s: self.s[e][k],
            early: self.early[e][k],
            moments: self.moments.get(e).map(|moments| {
                let sum = |i: usize| moments[k].get(i).copied().unwrap_or(0.0);
                Moments { x: sum(0), xx: sum(1), y: sum(2), yy: sum(3), xy: sum(4) }
            }),
        };
        let epoch = |e: usize| EpochTally {
            epoch: EpochKey { tick: e as i64, revision: 1 },
            arms: (0..self.arms()).map(|k| arm(e, k)).collect(),
            shares: self.shares.get(e).cloned().unwrap_or_default(),
        };
        (0..self.n.len()).map(epoch).collect()
    }
}

pub(crate) fn problems() -> Vec<Problem> {
    let problems: Vec<Problem> = serde_json::from_str(include_str!("../oracle/problems.json")).unwrap();
    assert!(problems.len() >= 30);
    problems
}

/// Collects comparisons, so that one run shows all failures and how close the other values are.
#[derive(Default)]
pub(crate) struct Comparisons {
    compared: usize,
    /// The largest error over tolerance.
    worst: f64,
    worst_at: String,
    wrong: Vec<String>,
}

impl Comparisons {
    pub(crate) fn compare(&mut self, what: &str, found: f64, wanted: f64, tolerance: f64) {
        let off = (found - wanted).abs() / tolerance;
        self.compared += 1;
        if off > self.worst {
            (self.worst, self.worst_at) = (off, what.to_owned());
        }
        if !(found == wanted || off <= 1.0) {
            self.wrong.push(format!("{what}: {found:e}, expected {wanted:e} ± {tolerance:e}"));
        }
    }

    pub(crate) fn check(&mut self, what: &str, is_true: bool) {
        self.compared += 1;
        if !is_true {
            self.wrong.push(what.to_owned());
        }
    }

    #[allow(clippy::print_stdout, reason = "shows the margins when run with --nocapture")]
    pub(crate) fn finish(self, subject: &str) {
        println!("{subject}: {} values, worst {:.2e} of its tolerance ({})", self.compared, self.worst, self.worst_at);
        assert!(
            self.compared > 0 && self.wrong.is_empty(),
            "{subject}, {}:\n{}",
            self.wrong.len(),
            self.wrong.join("\n")
        );
    }
}
