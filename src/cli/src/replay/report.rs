//! What a replay showed: the policy's rows beside the server's numbers beside the whole file. Pure.

use inroad_wire::v1::ArmResult;
use serde_json::{Value, json};

use super::Replayed;
use crate::output::{count, fields, percent, plural, rate, table};
use crate::results::decision_metric;
use crate::trial::Tally;
use crate::views;

/// All that there is to tell.
pub(super) struct Report<'a>(pub(super) &'a Replayed);

/// One arm's line.
struct Line<'a> {
    variation: &'a str,
    label: &'a str,
    result: Option<&'a ArmResult>,
    used: Tally,
    whole: Tally,
    server: (u64, u64),
}

fn of(tally: Tally) -> f64 {
    rate(tally.converted, tally.rows)
}

fn all(tallies: &[Tally]) -> Tally {
    let add = |a: Tally, b: &Tally| Tally { rows: a.rows + b.rows, converted: a.converted + b.converted };
    tallies.iter().fold(Tally::default(), add)
}

fn number(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { Value::Null }
}

impl Report<'_> {
    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.0.log.arms.iter().enumerate().map(|(i, arm)| {
            let result = self.0.results.arms.iter().find(|a| a.variation == arm.key);
            let metric = result.and_then(|a| decision_metric(&self.0.results, a));
            Line {
                variation: &arm.key,
                label: &arm.label,
                result,
                used: self.0.seen.used[i],
                whole: self.0.whole[i],
                server: metric.map_or((0, 0), |m| (m.converted, m.units)),
            }
        })
    }

    fn control_share(&self) -> f64 {
        self.lines().next().and_then(|line| line.result).map_or(f64::NAN, |arm| arm.share)
    }

    pub(super) fn text(&self) -> String {
        let r = &self.0.results;
        let row = |line: Line<'_>| {
            let killed = line.result.is_some_and(|a| a.killed);
            vec![
                line.variation.to_owned(),
                line.result.map_or_else(|| "–".to_owned(), |a| percent(a.share)),
                count(line.used.rows),
                percent(of(line.used)),
                percent(rate(line.server.0, line.server.1)),
                percent(of(line.whole)),
                line.result.map_or_else(|| "–".to_owned(), |a| percent(a.p_best)),
                if killed { "killed" } else { "" }.to_owned(),
            ]
        };
        let head = ["variation", "share", "rows used", "rate in them", "rate by server", "rate in file", "P(best)", ""];
        let (used, whole) = (all(&self.0.seen.used), all(&self.0.whole));
        let mut facts = vec![
            ("rows used", format!("{}, {} skipped", count(used.rows), count(self.0.seen.skipped))),
            ("rate in rows used", format!("{} (whole file {})", percent(of(used)), percent(of(whole)))),
            (
                "units moved",
                format!(
                    "{} between variations, {} crossed over from control",
                    count(r.units_moved),
                    count(r.crossovers)
                ),
            ),
            ("control", format!("{} of the line, floor {}", percent(self.control_share()), percent(r.floor))),
            ("records dropped", count(r.dropped_records)),
            ("clock", format!("{}, revision {}", views::time_text(r.now.as_ref()), r.revision)),
            ("verdict", r.verdict.clone()),
        ];
        if self.0.earlier > 0 {
            let told = format!(
                "{} by an earlier run: in the server's numbers, not in the rows above",
                plural(self.0.earlier, "row")
            );
            facts.push(("replayed before", told));
        }
        for (reason, refused) in &self.0.seen.refused {
            facts.push(("refused", format!("{} ({reason})", plural(*refused, "event"))));
        }
        format!("\n{}\n\n{}", table(&head, self.lines().map(row).collect()), fields(&facts))
    }

    pub(super) fn json(&self) -> Value {
        let r = &self.0.results;
        let arm = |line: Line<'_>| {
            json!({
                "variation": line.variation, "label": line.label,
                "share": line.result.map(|a| a.share), "killed": line.result.map(|a| a.killed),
                "p_best": line.result.map(|a| a.p_best), "units": line.result.map(|a| a.units),
                "rows_used": line.used.rows, "converted_used": line.used.converted, "rate_used": number(of(line.used)),
                "server_units": line.server.1, "server_converted": line.server.0,
                "rate_server": number(rate(line.server.0, line.server.1)),
                "rows_file": line.whole.rows, "converted_file": line.whole.converted, "rate_file": number(of(line.whole)),
            })
        };
        let (used, whole) = (all(&self.0.seen.used), all(&self.0.whole));
        json!({
            "experiment": r.key, "arms": self.lines().map(arm).collect::<Vec<_>>(),
            "rows_used": used.rows, "rows_skipped": self.0.seen.skipped, "rows_earlier": self.0.earlier,
            "rate_used": number(of(used)), "rate_file": number(of(whole)),
            "units_moved": r.units_moved, "crossovers": r.crossovers, "dropped_records": r.dropped_records,
            "stale_exposures": r.stale_exposures, "control_share": number(self.control_share()), "floor": r.floor,
            "revision": r.revision, "now": views::time_text(r.now.as_ref()), "refused": self.0.seen.refused,
            "verdict": r.verdict,
        })
    }

    /// A replay of which events were refused is not to be trusted.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.0.seen.refused.values().sum::<u64>() {
            0 => Ok(()),
            n => anyhow::bail!("{} refused by the server: these numbers are not whole", plural(n, "event")),
        }
    }
}
