//! The problems that the oracle solved, and how far from it we are.

use inroad_policy::{ArmTally, Better, EpochKey, EpochTally, Measure, Moments};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Problem {
    pub(crate) name: String,
    pub(crate) measure: Measure,
    pub(crate) better: Better,
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

/// What was found beside what was expected: all that is wrong, so that one run shows it, and how close the rest came.
#[derive(Default)]
pub(crate) struct Ledger {
    seen: usize,
    /// Error over tolerance.
    worst: f64,
    worst_at: String,
    wrong: Vec<String>,
}

impl Ledger {
    pub(crate) fn see(&mut self, what: &str, found: f64, wanted: f64, tolerance: f64) {
        let off = (found - wanted).abs() / tolerance;
        self.seen += 1;
        if off > self.worst {
            (self.worst, self.worst_at) = (off, what.to_owned());
        }
        if !(found == wanted || off <= 1.0) {
            self.wrong.push(format!("{what}: {found:e}, expected {wanted:e} ± {tolerance:e}"));
        }
    }

    pub(crate) fn holds(&mut self, what: &str, holds: bool) {
        self.seen += 1;
        if !holds {
            self.wrong.push(what.to_owned());
        }
    }

    #[allow(clippy::print_stdout, reason = "how close it came, for those who run it with --nocapture")]
    pub(crate) fn close(self, subject: &str) {
        println!("{subject}: {} values, worst {:.2e} of its tolerance ({})", self.seen, self.worst, self.worst_at);
        assert!(self.seen > 0 && self.wrong.is_empty(), "{subject}, {}:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}
