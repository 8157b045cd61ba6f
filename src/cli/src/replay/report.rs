//! The report of a replay: the counts of the used rows, of the server and of the whole file. Pure.

use inroad_wire::v1::ArmResult;
use serde_json::{Value, json};

use super::Replayed;
use crate::output::{count, fields, percent, plural, probability, rate, table};
use crate::response_json;
use crate::results::{leader_note, sample_ratio_text};
use crate::trial::Tally;
use crate::wire_text::{is_ranked, primary_metric, timestamp_text};

/// The report of a completed replay.
pub(super) struct Report<'a>(pub(super) &'a Replayed);

/// The counts of one arm.
struct ArmCounts<'a> {
    variation: &'a str,
    label: &'a str,
    result: Option<&'a ArmResult>,
    used: Tally,
    file: Tally,
    server: (u64, u64),
}

fn rate_of(tally: Tally) -> f64 {
    rate(tally.converted, tally.rows)
}

fn sum(tallies: &[Tally]) -> Tally {
    let add = |a: Tally, b: &Tally| Tally { rows: a.rows + b.rows, converted: a.converted + b.converted };
    tallies.iter().fold(Tally::default(), add)
}

fn number_json(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { Value::Null }
}

impl Report<'_> {
    fn arms(&self) -> impl Iterator<Item = ArmCounts<'_>> {
        self.0.log.arms.iter().enumerate().map(|(i, arm)| {
            let result = self.0.results.arms.iter().find(|a| a.variation == arm.key);
            let metric = result.and_then(|a| primary_metric(&self.0.results, a));
            ArmCounts {
                variation: &arm.key,
                label: &arm.label,
                result,
                used: self.0.counts.used[i],
                file: self.0.file[i],
                server: metric.map_or((0, 0), |m| (m.converted, m.units)),
            }
        })
    }

    fn control_share(&self) -> f64 {
        self.arms().next().and_then(|arm| arm.result).map_or(f64::NAN, |result| result.share)
    }

    pub(super) fn text(&self) -> String {
        let r = &self.0.results;
        let is_ranked = is_ranked(r);
        let row = |arm: ArmCounts<'_>| {
            let killed = arm.result.is_some_and(|a| a.killed);
            vec![
                arm.variation.to_owned(),
                arm.result.map_or_else(|| "–".to_owned(), |a| percent(a.share)),
                count(arm.used.rows),
                percent(rate_of(arm.used)),
                percent(rate(arm.server.0, arm.server.1)),
                percent(rate_of(arm.file)),
                arm.result.filter(|_| is_ranked).map_or_else(|| "–".to_owned(), |a| probability(a.p_best)),
                if killed { "killed" } else { "" }.to_owned(),
            ]
        };
        let head = [
            "variation",
            "share",
            "rows used",
            "rate in rows used",
            "rate on server",
            "rate in file",
            "probability to be best",
            "",
        ];
        let (used, file) = (sum(&self.0.counts.used), sum(&self.0.file));
        let mut facts = vec![
            ("rows used", format!("{}, {} skipped", count(used.rows), count(self.0.counts.skipped))),
            ("rate in rows used", format!("{} (whole file {})", percent(rate_of(used)), percent(rate_of(file)))),
            (
                "units moved",
                format!("{} between variations; {} crossovers from control", count(r.units_moved), count(r.crossovers)),
            ),
            ("control", format!("{} of the traffic, minimum {}", percent(self.control_share()), percent(r.floor))),
            ("dropped unit records", count(r.dropped_records)),
            ("sample ratio mismatch", sample_ratio_text(r)),
            ("simulated time", format!("{}, revision {}", timestamp_text(r.now.as_ref()), r.revision)),
            ("verdict", r.verdict.clone()),
        ];
        facts.extend(leader_note(r).map(|note| ("lift and rates", note.to_owned())));
        if self.0.earlier > 0 {
            let earlier = format!(
                "{} by an earlier command: in the server's counts, not in the rows above",
                plural(self.0.earlier, "row")
            );
            facts.push(("replayed earlier", earlier));
        }
        let findings = &self.0.log.findings;
        facts.extend(findings.notes.iter().map(|note| ("note", note.clone())));
        facts.extend(self.warnings().into_iter().map(|warning| ("warning", warning)));
        for (reason, refused) in &self.0.counts.refused {
            facts.push(("refused", format!("{} ({reason})", plural(*refused, "event"))));
        }
        format!("\n{}\n\n{}", table(&head, self.arms().map(row).collect()), fields(&facts))
    }

    /// Reasons not to trust the results: those of the log, and those that the server gives.
    fn warnings(&self) -> Vec<String> {
        let findings = &self.0.log.findings;
        let mut warnings = findings.warnings.clone();
        if findings.repeated > 0 {
            let rows = plural(findings.repeated, "row");
            warnings.push(format!("{rows} with a unit that has an earlier row: the server counts each unit once"));
        }
        warnings.extend(self.0.results.warnings.iter().cloned());
        warnings
    }

    pub(super) fn json(&self) -> Value {
        let r = &self.0.results;
        let arm_json = |arm: ArmCounts<'_>| {
            json!({
                "variation": arm.variation, "label": arm.label,
                "share": arm.result.map(|a| a.share), "killed": arm.result.map(|a| a.killed),
                "p_best": arm.result.filter(|_| is_ranked(r)).map(|a| a.p_best), "units": arm.result.map(|a| a.units),
                "rows_used": arm.used.rows, "converted_used": arm.used.converted, "rate_used": number_json(rate_of(arm.used)),
                "server_units": arm.server.1, "server_converted": arm.server.0,
                "rate_server": number_json(rate(arm.server.0, arm.server.1)),
                "rows_file": arm.file.rows, "converted_file": arm.file.converted, "rate_file": number_json(rate_of(arm.file)),
            })
        };
        let (used, file) = (sum(&self.0.counts.used), sum(&self.0.file));
        json!({
            "experiment": r.key, "arms": self.arms().map(arm_json).collect::<Vec<_>>(),
            "rows_used": used.rows, "rows_skipped": self.0.counts.skipped, "rows_earlier": self.0.earlier,
            "rate_used": number_json(rate_of(used)), "rate_file": number_json(rate_of(file)),
            "units_moved": r.units_moved, "crossovers": r.crossovers, "dropped_records": r.dropped_records,
            "stale_exposures": r.stale_exposures, "control_share": number_json(self.control_share()), "floor": r.floor,
            "revision": r.revision, "now": timestamp_text(r.now.as_ref()), "refused": self.0.counts.refused,
            "verdict": r.verdict, "notes": self.0.log.findings.notes, "warnings": self.warnings(),
            "rows_excluded": self.0.log.findings.excluded, "sample_ratio": response_json::sample_ratio_json(r),
        })
    }

    /// Fails if events were refused, because the results are then incomplete.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.0.counts.refused.values().sum::<u64>() {
            0 => Ok(()),
            n => anyhow::bail!("{} refused by the server: the results are incomplete", plural(n, "event")),
        }
    }
}
