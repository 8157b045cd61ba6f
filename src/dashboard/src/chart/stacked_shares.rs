//! The geometry of shares stacked over time: which part of the chart's height each arm takes, and the outline of its
//! area.

use inroad_assignment::Timestamp;

use super::draw::path;
use super::scale::{Scale, px};

/// The shares from a time on; by arm, control first.
pub(super) type Step = (Timestamp, Vec<f64>);

/// An arm's share, clamped to 0..=1; 0 if it is missing or not finite.
pub(super) fn share(shares: &[f64], arm: usize) -> f64 {
    shares.get(arm).copied().filter(|share| share.is_finite()).unwrap_or(0.0).clamp(0.0, 1.0)
}

/// The lower and upper edge of an arm's area, stacked above the arms before it.
pub(super) fn band(shares: &[f64], arm: usize) -> (f64, f64) {
    let below: f64 = (1..arm).map(|arm| share(shares, arm)).sum();
    (below, below + share(shares, arm))
}

/// The outline of an arm's area as an SVG path; none if the arm never has a share.
pub(super) fn area_outline(steps: &[Step], until: Timestamp, arm: usize, x: &Scale, y: &Scale) -> Option<String> {
    let mut above: Vec<(f64, f64)> = Vec::new();
    let mut below: Vec<(f64, f64)> = Vec::new();
    let mut has_share = false;
    for (i, (at, shares)) in steps.iter().enumerate() {
        let end = steps.get(i + 1).map_or(until, |next| next.0);
        let (from, to) = (px(x.at(at.as_micros() as f64)), px(x.at(end.as_micros() as f64)));
        let (lower, upper) = band(shares, arm);
        has_share |= upper > lower;
        for (line, level) in [(&mut above, y.at(upper)), (&mut below, y.at(lower))] {
            let level = px(level);
            // Points are added only where the level changes: of thousands of steps, most repeat the one before.
            match line.as_slice() {
                [.., last] if last.1 == level => {}
                _ => line.push((from, level)),
            }
            match line.as_slice() {
                [.., before, last] if before.1 == level && last.1 == level => {
                    if let Some(last) = line.last_mut() {
                        last.0 = to;
                    }
                }
                _ => line.push((to, level)),
            }
        }
    }
    below.reverse();
    above.append(&mut below);
    has_share.then(|| path(&above) + "Z")
}
