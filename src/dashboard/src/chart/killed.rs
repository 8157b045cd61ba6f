//! What was killed when, on a plot over time: from the kill until the restore an arm's area is faded and striped, as on the
//! line, with a cross where that began; the same in words below, because a cross has no room for them.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use super::Killed;
use super::allocation::{Step, edge, share};
use super::draw::{Area, arm, line, name_of, striped};
use super::scale::{Scale, px};
use super::text;

/// So many are told in words; the table has all.
const TOLD: usize = 12;
/// A cross reaches so far from its middle, and stands in a circle.
const CROSS: f64 = 3.5;
const RADIUS: f64 = 7.0;

/// The kills of one plot, in order of time.
pub(super) struct Kills(Vec<Killed>);

impl Kills {
    /// What of them lies within a plot.
    pub(super) fn within(kills: &[Killed], from: Timestamp, until: Timestamp) -> Self {
        let held = kills.iter().filter(|kill| kill.arm != Some(0) && kill.until.is_none_or(|end| end > from));
        let mut held: Vec<Killed> = held.map(|kill| Killed { from: kill.from.max(from).min(until), ..*kill }).collect();
        held.sort_by_key(|kill| (kill.from, kill.arm));
        Self(held)
    }

    /// Whether an arm serves control at an instant. Control is never killed: it is what a kill falls back to.
    pub(super) fn holds(&self, arm: usize, at: Timestamp) -> bool {
        let of = |kill: &&Killed| kill.arm.is_none_or(|killed| killed == arm);
        arm > 0 && self.0.iter().filter(of).any(|kill| kill.from <= at && kill.until.is_none_or(|end| at < end))
    }

    /// Whether one begins or ends at an instant.
    pub(super) fn turns(&self, at: Timestamp) -> bool {
        self.0.iter().any(|kill| kill.from == at || kill.until == Some(at))
    }

    /// The same steps, and one wherever a kill begins or ends: within a step an arm is killed, or it is not.
    pub(super) fn cut(&self, steps: &[Step], until: Timestamp) -> Vec<Step> {
        let mut cut = steps.to_vec();
        for at in self.0.iter().flat_map(|kill| [Some(kill.from), kill.until]).flatten().filter(|at| *at <= until) {
            let next = cut.partition_point(|(from, _)| *from <= at);
            match next.checked_sub(1).and_then(|before| cut.get(before)).cloned() {
                Some((from, shares)) if from < at => cut.insert(next, (at, shares)),
                _ => {}
            }
        }
        cut
    }

    /// Over the areas of a plot; the steps are cut.
    pub(super) fn drawn(&self, steps: &[Step], until: Timestamp, arms: usize, x: &Scale, y: &Scale) -> Markup {
        let end = |i: usize| steps.get(i + 1).map_or(until, |next| next.0);
        let at = |instant: Timestamp| x.at(instant.as_micros() as f64);
        let mut stripes = String::new();
        let mut faded = Vec::new();
        for arm in 1..arms {
            let killed: Vec<usize> = (0..steps.len()).filter(|i| self.holds(arm, steps[*i].0)).collect();
            for run in killed.chunk_by(|a, b| a + 1 == *b) {
                let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
                faded.extend(edge(&steps[*first..=*last], end(*last), arm, x, y));
                let piece = |i: &usize| {
                    let (bottom, top) = band(&steps[*i].1, arm);
                    Area { left: at(steps[*i].0), right: at(end(*i)), top: y.at(top), bottom: y.at(bottom) }
                };
                striped(&mut stripes, &run.iter().map(piece).collect::<Vec<_>>());
            }
        }
        html! {
            @for d in &faded { path class="faded" d=(d) {} }
            @if !stripes.is_empty() { path class="stripes" d=(stripes) {} }
        }
    }

    /// Where each began; the steps are cut.
    pub(super) fn crosses(&self, names: &[String], steps: &[Step], area: &Area, x: &Scale, y: &Scale) -> Markup {
        let cross = |kill: &Killed| {
            let shares = &steps.iter().rev().find(|(at, _)| *at <= kill.from)?.1;
            let (bottom, top) = match kill.arm {
                Some(arm) => band(shares, arm),
                None => (0.0, (1..shares.len()).map(|arm| share(shares, arm)).sum()),
            };
            Some((x.at(kill.from.as_micros() as f64), y.at(bottom), y.at(top), told(names, kill)))
        };
        html! {
            @for (x, bottom, top, told) in self.0.iter().filter_map(cross) {
                @let middle = f64::midpoint(bottom, top);
                // At an edge it would cover the numbers beside the plot.
                @let at = x.clamp(area.left + RADIUS + 2.0, area.right - RADIUS - 2.0);
                g class="cross" {
                    title { (told) }
                    (line((x, bottom), (x, top), "began"))
                    circle cx=(px(at)) cy=(px(middle)) r=(RADIUS) {}
                    (line((at - CROSS, middle - CROSS), (at + CROSS, middle + CROSS), ""))
                    (line((at - CROSS, middle + CROSS), (at + CROSS, middle - CROSS), ""))
                }
            }
        }
    }

    /// Who was killed when, below a plot.
    pub(super) fn listed(&self, names: &[String]) -> Markup {
        let earlier = self.0.len().saturating_sub(TOLD);
        html! {
            @if !self.0.is_empty() {
                p class="note" {
                    "Striped: killed, so control is served there. A cross is where that begins."
                    @if earlier > 0 { " Of " (text::counted(self.0.len() as u64, "kill")) " the last " (TOLD) " are listed." }
                }
                ul class="kills" {
                    @for kill in self.0.iter().skip(earlier) {
                        li {
                            @match kill.arm { Some(i) => (arm(names, i)), None => "The whole experiment" }
                            ": killed " (text::instant(kill.from))
                            @match kill.until { Some(end) => { ", restored " (text::instant(end)) }, None => ", and still is" }
                        }
                    }
                }
            }
        }
    }

    /// The same as a part of the sentence that stands for the picture.
    pub(super) fn sentence(&self, names: &[String]) -> String {
        let said: Vec<String> = self.0.iter().rev().take(4).map(|kill| told(names, kill)).collect();
        if said.is_empty() { String::new() } else { format!(" Killed: {}.", said.join("; ")) }
    }
}

/// Where an arm's area begins and ends, above those before it.
pub(super) fn band(shares: &[f64], arm: usize) -> (f64, f64) {
    let below: f64 = (1..arm).map(|arm| share(shares, arm)).sum();
    (below, below + share(shares, arm))
}

fn told(names: &[String], kill: &Killed) -> String {
    let who = kill.arm.map_or_else(|| "the whole experiment".to_owned(), |arm| name_of(names, arm));
    let from = text::minute(kill.from);
    match kill.until {
        Some(end) => format!("{who} from {from} to {} UTC", text::minute(end)),
        None => format!("{who} since {from} UTC"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_micros(1_795_422_600_000_000 + minutes * 60_000_000)
    }

    #[test]
    fn a_kill_holds_from_its_instant_until_the_restore() {
        let of = |arm, from, until: Option<i64>| Killed { arm, from: at(from), until: until.map(at) };
        let kills = [of(Some(2), 10, Some(20)), of(None, 30, None), of(Some(0), 0, None), of(Some(1), -20, Some(0))];
        let kills = Kills::within(&kills, at(0), at(60));
        let held = |arm| [0, 9, 10, 19, 20, 30, 59].map(|minute| kills.holds(arm, at(minute)));
        assert_eq!(held(2), [false, false, true, true, false, true, true]);
        assert_eq!(held(1), [false, false, false, false, false, true, true]);
        assert_eq!(held(0), [false; 7]);
        let steps = vec![(at(0), vec![0.5, 0.25, 0.25]), (at(20), vec![0.4, 0.35, 0.25])];
        let cut = kills.cut(&steps, at(60));
        assert_eq!(cut.iter().map(|(from, _)| *from).collect::<Vec<_>>(), [at(0), at(10), at(20), at(30)]);
        assert_eq!((&cut[1].1, &cut[3].1), (&steps[0].1, &steps[1].1));
    }
}
