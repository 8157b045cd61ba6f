//! Kills on a chart over time. From the kill until the restore an arm's area is faded and striped, with a cross at the
//! kill. A list below the chart has the details, for which a cross has no room.

use inroad_assignment::Timestamp;
use maud::{Markup, html};

use super::KillPeriod;
use super::draw::{Area, arm_name, arm_with_badge, line, striped};
use super::scale::{Scale, px};
use super::stacked_shares::{Step, area_outline, band, share};
use crate::format;

/// Most kills listed below the chart; the table has all.
const LISTED: usize = 12;
/// Half the width of a cross.
const CROSS: f64 = 3.5;
/// Radius of the circle around a cross.
const RADIUS: f64 = 7.0;

/// The kills of one chart, in order of time.
pub(super) struct KillPeriods(Vec<KillPeriod>);

impl KillPeriods {
    /// Keeps the periods that overlap the chart, and moves their starts into it.
    pub(super) fn clipped_to(kills: &[KillPeriod], from: Timestamp, until: Timestamp) -> Self {
        let shown = kills.iter().filter(|kill| kill.arm != Some(0) && kill.until.is_none_or(|end| end > from));
        let mut shown: Vec<KillPeriod> =
            shown.map(|kill| KillPeriod { from: kill.from.max(from).min(until), ..*kill }).collect();
        shown.sort_by_key(|kill| (kill.from, kill.arm));
        Self(shown)
    }

    /// Whether an arm serves control at a time. Control is never killed: it is the fallback of a kill.
    pub(super) fn is_killed(&self, arm: usize, at: Timestamp) -> bool {
        let concerns_arm = |kill: &&KillPeriod| kill.arm.is_none_or(|killed| killed == arm);
        arm > 0
            && self.0.iter().filter(concerns_arm).any(|kill| kill.from <= at && kill.until.is_none_or(|end| at < end))
    }

    /// Whether a kill begins or ends at a time.
    pub(super) fn has_change_at(&self, at: Timestamp) -> bool {
        self.0.iter().any(|kill| kill.from == at || kill.until == Some(at))
    }

    /// Adds a step wherever a kill begins or ends, so that an arm is either killed or live during a whole step.
    pub(super) fn split_steps(&self, steps: &[Step], until: Timestamp) -> Vec<Step> {
        let mut split = steps.to_vec();
        for at in self.0.iter().flat_map(|kill| [Some(kill.from), kill.until]).flatten().filter(|at| *at <= until) {
            let next = split.partition_point(|(from, _)| *from <= at);
            match next.checked_sub(1).and_then(|before| split.get(before)).cloned() {
                Some((from, shares)) if from < at => split.insert(next, (at, shares)),
                _ => {}
            }
        }
        split
    }

    /// Draws the fading and the stripes over the areas; the steps come from [`Self::split_steps`].
    pub(super) fn render_areas(&self, steps: &[Step], until: Timestamp, arms: usize, x: &Scale, y: &Scale) -> Markup {
        let end = |i: usize| steps.get(i + 1).map_or(until, |next| next.0);
        let at = |instant: Timestamp| x.at(instant.as_micros() as f64);
        let mut stripes = String::new();
        let mut faded = Vec::new();
        for arm in 1..arms {
            let killed: Vec<usize> = (0..steps.len()).filter(|i| self.is_killed(arm, steps[*i].0)).collect();
            for run in killed.chunk_by(|a, b| a + 1 == *b) {
                let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
                faded.extend(area_outline(&steps[*first..=*last], end(*last), arm, x, y));
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

    /// Draws a cross at the start of each kill; the steps come from [`Self::split_steps`].
    pub(super) fn render_crosses(&self, names: &[String], steps: &[Step], area: &Area, x: &Scale, y: &Scale) -> Markup {
        let cross = |kill: &KillPeriod| {
            let shares = &steps.iter().rev().find(|(at, _)| *at <= kill.from)?.1;
            let (bottom, top) = match kill.arm {
                Some(arm) => band(shares, arm),
                None => (0.0, (1..shares.len()).map(|arm| share(shares, arm)).sum()),
            };
            Some((x.at(kill.from.as_micros() as f64), y.at(bottom), y.at(top), describe(names, kill)))
        };
        html! {
            @for (x, bottom, top, description) in self.0.iter().filter_map(cross) {
                @let middle = f64::midpoint(bottom, top);
                // At the edge, the cross would cover the axis labels.
                @let at = x.clamp(area.left + RADIUS + 2.0, area.right - RADIUS - 2.0);
                g class="cross" {
                    title { (description) }
                    (line((x, bottom), (x, top), "began"))
                    circle cx=(px(at)) cy=(px(middle)) r=(RADIUS) {}
                    (line((at - CROSS, middle - CROSS), (at + CROSS, middle + CROSS), ""))
                    (line((at - CROSS, middle + CROSS), (at + CROSS, middle - CROSS), ""))
                }
            }
        }
    }

    /// Lists the kills below the chart.
    pub(super) fn render_list(&self, names: &[String]) -> Markup {
        let earlier = self.0.len().saturating_sub(LISTED);
        html! {
            @if !self.0.is_empty() {
                p class="note" {
                    "Striped areas are killed: their units get control. A cross marks the kill."
                    @if earlier > 0 { " Showing the last " (LISTED) " of " (format::counted(self.0.len() as u64, "kill")) "." }
                }
                ul class="kills" {
                    @for kill in self.0.iter().skip(earlier) {
                        li {
                            @match kill.arm { Some(i) => (arm_with_badge(names, i)), None => "The whole experiment" }
                            ": killed " (format::instant(kill.from))
                            @match kill.until { Some(end) => { ", restored " (format::instant(end)) }, None => ", still killed" }
                        }
                    }
                }
            }
        }
    }

    /// Describes the newest kills for screen readers; empty if there are none.
    pub(super) fn sentence(&self, names: &[String]) -> String {
        let kills: Vec<String> = self.0.iter().rev().take(4).map(|kill| describe(names, kill)).collect();
        if kills.is_empty() { String::new() } else { format!(" Killed: {}.", kills.join("; ")) }
    }
}

fn describe(names: &[String], kill: &KillPeriod) -> String {
    let subject = kill.arm.map_or_else(|| "the whole experiment".to_owned(), |arm| arm_name(names, arm));
    let from = format::minute(kill.from);
    match kill.until {
        Some(end) => format!("{subject} from {from} to {} UTC", format::minute(end)),
        None => format!("{subject} since {from} UTC"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_micros(1_795_422_600_000_000 + minutes * 60_000_000)
    }

    #[test]
    fn arm_is_killed_from_the_kill_until_the_restore() {
        let kill = |arm, from, until: Option<i64>| KillPeriod { arm, from: at(from), until: until.map(at) };
        let kills =
            [kill(Some(2), 10, Some(20)), kill(None, 30, None), kill(Some(0), 0, None), kill(Some(1), -20, Some(0))];
        let kills = KillPeriods::clipped_to(&kills, at(0), at(60));
        let killed = |arm| [0, 9, 10, 19, 20, 30, 59].map(|minute| kills.is_killed(arm, at(minute)));
        assert_eq!(killed(2), [false, false, true, true, false, true, true]);
        assert_eq!(killed(1), [false, false, false, false, false, true, true]);
        assert_eq!(killed(0), [false; 7]);
        let steps = vec![(at(0), vec![0.5, 0.25, 0.25]), (at(20), vec![0.4, 0.35, 0.25])];
        let split = kills.split_steps(&steps, at(60));
        assert_eq!(split.iter().map(|(from, _)| *from).collect::<Vec<_>>(), [at(0), at(10), at(20), at(30)]);
        assert_eq!((&split[1].1, &split[3].1), (&steps[0].1, &steps[1].1));
    }
}
