//! When may a test that is looked at repeatedly report a result? Each look may spend a part of the error probability,
//! and the boundary of a look is computed so that it spends exactly this part.
//!
//! ```text
//!   Z  ▲                         spent:  ·       ··      ···     ····
//!      │  ┐                      look:   1       2       3       4
//!      │  └──┐   boundary: high at first, because a short test may spend little
//!      │     └─────┐ ·  ← reported: Z is above the boundary at this look
//!      │   · ·  ·  └────────
//!      └──────────────────────► information
//! ```
//!
//! Under "no difference" the score S = Z·√V of a test is a Brownian motion in its information V (Jennison & Turnbull,
//! *Group Sequential Methods*, 2000, ch. 3). The boundary of each look follows from the density of Z among the paths that
//! no earlier look has reported (Armitage, McPherson & Rowe, *Repeated significance tests on accumulating data*, JRSS A
//! 1969). How much is spent up to a look is a function of the information (Lan & DeMets, *Discrete sequential boundaries
//! for clinical trials*, Biometrika 1983): here α·min(1, V/V_plan).

use crate::normal::{normal_cdf, normal_quantile};

/// Density of the integration grid: 12·`GRID` − 3 nodes (Jennison & Turnbull 2000, §19.2).
const GRID: i32 = 10;
/// A look counts only if the information grew by this part of the plan since the last one that counted. Smaller steps
/// would spend next to nothing.
const STEP_MIN: f64 = 0.01;

/// One look at a test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Look {
    /// The standardised difference, positive if the claim is true.
    pub(crate) z: f64,
    /// Information so far, above 0 and not decreasing from look to look.
    pub(crate) information: f64,
}

/// The first of the `looks` at which the one-sided claim "better" may be reported, if there is one. The probability that
/// any look reports it although there is no difference is at most `alpha`. The whole of it is spent when the
/// information reaches `plan`; later looks report nothing.
pub(crate) fn first_crossing(looks: &[Look], plan: f64, alpha: f64) -> Option<usize> {
    if !(plan > 0.0 && plan.is_finite()) {
        return None;
    }
    let counted = counted_looks(looks, plan);
    let spent = |information: f64| alpha * (information / plan).min(1.0);
    // No boundary is below the one that would spend everything so far at once, so most tests need no integration.
    let possible = |&&at: &&usize| looks[at].z >= upper_quantile(spent(looks[at].information));
    let last = *counted.iter().rev().find(possible)?;
    let mut density: Option<Density> = None;
    for at in counted.into_iter().take_while(|at| *at <= last) {
        let Look { z, information } = looks[at];
        let before = density.as_ref().map_or(0.0, |density| density.information);
        let allowed = spent(information) - spent(before);
        let boundary = match &density {
            None => upper_quantile(allowed),
            Some(density) => density.boundary(information, allowed),
        };
        if z >= boundary {
            return Some(at);
        }
        density = Some(match density {
            None => Density::first(information, boundary),
            Some(density) => density.next(information, boundary),
        });
    }
    None
}

/// The looks that count, in order: each has enough new information, and none comes after the plan is reached.
fn counted_looks(looks: &[Look], plan: f64) -> Vec<usize> {
    let mut counted = Vec::new();
    let mut before = 0.0;
    for (at, look) in looks.iter().enumerate() {
        if before >= plan {
            break;
        }
        if look.information - before >= STEP_MIN * plan {
            counted.push(at);
            before = look.information;
        }
    }
    counted
}

/// The value that a standard normal number exceeds with probability `p`.
fn upper_quantile(p: f64) -> f64 {
    -normal_quantile(p)
}

/// The density of Z at a look, among the paths that no look so far has reported, on a grid with integration weights.
struct Density {
    information: f64,
    /// Values of Z, each with density times integration weight.
    nodes: Vec<(f64, f64)>,
}

impl Density {
    fn first(information: f64, boundary: f64) -> Self {
        let nodes = grid(boundary).into_iter().map(|(z, weight)| (z, weight * normal_density(z))).collect();
        Self { information, nodes }
    }

    fn next(&self, information: f64, boundary: f64) -> Self {
        let (scale, spread) = self.transition(information);
        let density = |z: f64| {
            let from = |&(before, mass): &(f64, f64)| mass * normal_density((z * scale.0 - before * scale.1) / spread);
            self.nodes.iter().map(from).sum::<f64>() * scale.0 / spread
        };
        let nodes = grid(boundary).into_iter().map(|(z, weight)| (z, weight * density(z))).collect();
        Self { information, nodes }
    }

    /// (√V, √V before) and the standard deviation of the new part of the score.
    fn transition(&self, information: f64) -> ((f64, f64), f64) {
        ((information.sqrt(), self.information.sqrt()), (information - self.information).sqrt())
    }

    /// The boundary of the next look: the value that Z exceeds there with probability `allowed`, without having been
    /// reported before.
    fn boundary(&self, information: f64, allowed: f64) -> f64 {
        let (scale, spread) = self.transition(information);
        let exceeds = |boundary: f64| {
            let above = |&(z, mass): &(f64, f64)| mass * normal_cdf((z * scale.1 - boundary * scale.0) / spread);
            self.nodes.iter().map(above).sum::<f64>()
        };
        // All paths together exceed the lower end more often, and the upper end less often, than is allowed.
        let (mut low, mut high) = (-8.0, upper_quantile(allowed));
        while high - low > 1e-6 {
            let middle = 0.5 * (low + high);
            if exceeds(middle) > allowed { low = middle } else { high = middle }
        }
        high
    }
}

/// Nodes from −∞ (practically) to `end`, with the weights of Simpson's rule: dense where Z is likely.
fn grid(end: f64) -> Vec<(f64, f64)> {
    let r = f64::from(GRID);
    let node = |i: i32| {
        let i_ = f64::from(i);
        if i < GRID {
            -3.0 - 4.0 * libm::log(r / i_)
        } else if i <= 5 * GRID {
            -3.0 + 3.0 * (i_ - r) / (2.0 * r)
        } else {
            3.0 + 4.0 * libm::log(r / (6.0 * r - i_))
        }
    };
    let mut ends: Vec<f64> = (1..6 * GRID).map(node).filter(|z| *z < end).collect();
    ends.push(end);
    let mut nodes = vec![(ends[0], 0.0)];
    for pair in ends.windows(2) {
        let part = (pair[1] - pair[0]) / 6.0;
        if let Some(first) = nodes.last_mut() {
            first.1 += part;
        }
        nodes.push((0.5 * (pair[0] + pair[1]), 4.0 * part));
        nodes.push((pair[1], part));
    }
    nodes
}

fn normal_density(z: f64) -> f64 {
    /// 1/√(2π)
    const SCALE: f64 = 0.398_942_280_401_432_7;
    SCALE * libm::exp(-0.5 * z * z)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The boundaries of looks at these informations.
    fn boundaries(informations: &[f64], plan: f64, alpha: f64) -> Vec<f64> {
        let mut found = Vec::new();
        let mut density: Option<Density> = None;
        for &information in informations {
            let spent = |v: f64| alpha * (v / plan).min(1.0);
            let allowed = spent(information) - spent(density.as_ref().map_or(0.0, |d| d.information));
            let boundary =
                density.as_ref().map_or(upper_quantile(allowed), |density| density.boundary(information, allowed));
            found.push(boundary);
            density = Some(match density {
                None => Density::first(information, boundary),
                Some(density) => density.next(information, boundary),
            });
        }
        found
    }

    /// The probability that a random walk crosses the boundaries, by an independent method: one fine grid of equal steps
    /// of the score S for all looks, and the trapezoidal rule.
    fn crossing_probability(informations: &[f64], boundaries: &[f64]) -> f64 {
        let step = 0.02;
        let size = 1_200_i32;
        let at = |i: i32| f64::from(i - size / 2) * step;
        let mut density: Vec<f64> = Vec::new();
        let mut before = 0.0;
        for (look, (&information, &boundary)) in informations.iter().zip(boundaries).enumerate() {
            let spread = (information - before).sqrt();
            let new = |s: f64| {
                if look == 0 {
                    return normal_density(s / spread) / spread;
                }
                let term = |(i, mass): (usize, &f64)| mass * normal_density((s - at(i as i32)) / spread) / spread;
                density.iter().enumerate().map(term).sum::<f64>() * step
            };
            let inside = |i: i32| {
                let limit = boundary * information.sqrt();
                // The node at the boundary counts in part, so that the error is of second order.
                ((limit - at(i)) / step + 0.5).clamp(0.0, 1.0)
            };
            density = (0..size).map(|i| inside(i) * new(at(i))).collect();
            before = information;
        }
        1.0 - density.iter().sum::<f64>() * step
    }

    #[test]
    fn all_looks_together_spend_the_error_probability() {
        for informations in [vec![1.0, 2.0, 3.0, 4.0], vec![0.5, 0.6, 3.0, 3.9, 4.0], vec![3.9, 4.0]] {
            let found = boundaries(&informations, 4.0, 0.05);
            let spent = crossing_probability(&informations, &found);
            assert!((spent - 0.05).abs() < 2e-4, "{informations:?}: {found:?} spend {spent}");
        }
    }

    #[test]
    fn many_looks_at_a_small_error_probability_spend_it_too() {
        let informations: Vec<f64> = (7..=28).map(|day| f64::from(day) / 28.0).collect();
        let found = boundaries(&informations, 1.0, 0.05 / 63.0);
        // Each look spends its share, so the expected number of reports adds up.
        let fine: Vec<f64> = informations.iter().map(|v| 4.0 * v).collect();
        let spent = crossing_probability(&fine, &found);
        assert!((spent / (0.05 / 63.0) - 1.0).abs() < 0.02, "{found:?} spend {spent}");
        assert!(found.windows(2).all(|pair| pair[1] < pair[0] + 0.7), "{found:?}");
    }

    #[test]
    fn published_boundaries_of_linear_spending_are_reproduced() {
        // Two and five equally spaced looks, one-sided 2.5%. Reference values: Lan & DeMets 1983, Table 1 (α·t), with two
        // decimals.
        let close = |found: &[f64], published: &[f64]| {
            for (found, published) in found.iter().zip(published) {
                assert!((found - published).abs() < 0.006, "{found} is published as {published}");
            }
        };
        close(&boundaries(&[0.2, 0.4, 0.6, 0.8, 1.0], 1.0, 0.025), &[2.58, 2.49, 2.41, 2.34, 2.28]);
    }

    #[test]
    fn no_report_without_information_or_after_the_plan() {
        let look = |z, information| Look { z, information };
        assert_eq!(first_crossing(&[], 1.0, 0.05), None);
        assert_eq!(first_crossing(&[look(9.0, 1.0)], 0.0, 0.05), None);
        assert_eq!(first_crossing(&[look(9.0, 0.005)], 1.0, 0.05), None, "too little information for a look");
        assert_eq!(first_crossing(&[look(1.0, 0.5), look(9.0, 0.505), look(9.0, 0.6)], 1.0, 0.05), Some(2));
        assert_eq!(first_crossing(&[look(0.0, 1.0), look(9.0, 2.0)], 1.0, 0.05), None, "everything is spent");
        assert_eq!(first_crossing(&[look(1.65, 1.0)], 1.0, 0.05), Some(0));
        assert_eq!(first_crossing(&[look(1.64, 1.0)], 1.0, 0.05), None);
        // A result that was reported once stays reported.
        assert_eq!(first_crossing(&[look(4.0, 0.5), look(0.0, 0.8)], 1.0, 0.05), Some(0));
    }
}
