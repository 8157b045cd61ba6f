//! `inroad results`: how each variation does, as a table.

use std::time::Duration;

use clap::Args;
use inroad_wire::v1::{ArmResult, GetResultsRequest, GetResultsResponse, Interval, MetricResult};
use tonic::Request;

use crate::connect::{Connection, ServerArgs};
use crate::output::{Output, count, fields, percent, rate, signed_percent, table};
use crate::parse;
use crate::views;

/// From here on the continuous test of the sample ratio is an alarm.
const SAMPLE_RATIO_ALARM: f64 = 100.0;

/// Whose results.
#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// The experiment
    key: String,
    /// Which generation [default: the running one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    generation: u32,
    /// Wait until every event acknowledged so far is counted
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "30s", value_parser = parse::duration)]
    timeout: Duration,
}

/// Shows them.
pub(crate) async fn run(args: ResultsArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let mut request = Request::new(GetResultsRequest { key: args.key, generation: args.generation, wait: args.wait });
    request.set_timeout(args.timeout);
    let results = connection.results().get_results(request).await?.into_inner();
    out.value(&views::results(&results))?;
    Ok(out.line(text(&results))?)
}

/// The decision metric of an arm, or its first.
pub(crate) fn decision_metric<'a>(results: &GetResultsResponse, arm: &'a ArmResult) -> Option<&'a MetricResult> {
    arm.metrics.iter().find(|m| m.metric == results.decision_metric).or(arm.metrics.first())
}

fn text(r: &GetResultsResponse) -> String {
    let head = format!(
        "{} generation {}, revision {}, {}, at {}",
        r.key,
        r.generation,
        r.revision,
        views::state_name(r.state),
        views::time_text(r.now.as_ref())
    );
    let columns = ["variation", "share", "units", "rate", "lift", "95% interval", "at any time", "P(best)", ""];
    let row = |(i, arm): (usize, &ArmResult)| {
        let metric = decision_metric(r, arm);
        let lift = arm.lift.as_ref().filter(|_| i > 0);
        vec![
            arm.variation.clone(),
            percent(arm.share),
            count(arm.units),
            metric.map_or_else(|| "–".to_owned(), |m| percent(rate(m.converted, m.units))),
            lift.map_or_else(|| "–".to_owned(), |l| signed_percent(l.estimate)),
            within(lift),
            within(arm.lift_anytime.as_ref().filter(|_| i > 0)),
            if r.decision_metric.is_empty() { "–".to_owned() } else { percent(arm.p_best) },
            if arm.killed { "killed" } else { "" }.to_owned(),
        ]
    };
    let arms = table(&columns, r.arms.iter().enumerate().map(row).collect());
    let ratio = r.sample_ratio.as_ref().map_or_else(
        || "–".to_owned(),
        |s| {
            let alarm =
                if s.evidence >= SAMPLE_RATIO_ALARM { ": ALARM, exposures do not fall as the shares say" } else { "" };
            format!(
                "p {:.3} (χ² {:.2}, {} df), evidence {:.2}{alarm}",
                s.p_value, s.chi_squared, s.degrees_of_freedom, s.evidence
            )
        },
    );
    let metrics = metrics_text(r);
    let mut facts = vec![
        ("verdict", if r.verdict.is_empty() { "–".to_owned() } else { r.verdict.clone() }),
        ("rate of", if r.decision_metric.is_empty() { "–".to_owned() } else { r.decision_metric.clone() }),
        ("units moved between variations", count(r.units_moved)),
        ("units crossed over from control", count(r.crossovers)),
        ("records dropped", count(r.dropped_records)),
        ("stale exposures", count(r.stale_exposures)),
        ("headroom", format!("{} before control's floor of {}", percent(r.headroom), percent(r.floor))),
        ("sample ratio", ratio),
        ("not yet counted", count(r.backlog)),
    ];
    if let Some(value) = r.potential_value_remaining {
        facts.push(("still to be gained", format!("at most {} with 95% probability", percent(value))));
    }
    if let Some(days) = r.days_of_headroom {
        facts.push(("learning stops", format!("in {days:.1} days, at {} a day", percent(r.headroom / days))));
    }
    let facts = fields(&facts);
    let warnings: String = r.warnings.iter().map(|warning| format!("\n! {warning}")).collect();
    format!("{head}\n\n{arms}\n\n{metrics}\n\n{facts}{warnings}")
}

/// Every metric of every variation, by all the roads there are.
fn metrics_text(r: &GetResultsResponse) -> String {
    let columns = [
        "metric",
        "variation",
        "mean",
        "lift",
        "95%",
        "difference",
        "at any time",
        "by period",
        "batched",
        "mature",
        "",
    ];
    let estimate = |i: Option<&Interval>| {
        i.map_or_else(|| "–".to_owned(), |i| format!("{} ({})", signed_percent(i.estimate), within(Some(i))))
    };
    let row = |arm: &ArmResult, m: &MetricResult| {
        let lift = m.lift.as_ref();
        let flags = [
            (lift.is_some_and(|l| l.disagrees), "disagree"),
            (m.delay.as_ref().is_some_and(|d| d.differs), "delay"),
            (m.novelty.as_ref().is_some_and(|n| n.changed), "changed"),
            (m.harm.is_some_and(|odds| odds >= 20.0), "HARM"),
        ];
        let flags: Vec<&str> = flags.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
        vec![
            m.metric.clone(),
            arm.variation.clone(),
            m.mean.map_or_else(|| "–".to_owned(), |mean| format!("{mean:.4}")),
            lift.and_then(|l| l.credible.as_ref()).map_or_else(|| "–".to_owned(), |l| signed_percent(l.estimate)),
            within(lift.and_then(|l| l.credible.as_ref())),
            difference(lift.and_then(|l| l.difference.as_ref())),
            within(lift.and_then(|l| l.anytime.as_ref())),
            estimate(lift.and_then(|l| l.period.as_ref())),
            estimate(lift.and_then(|l| l.batched.as_ref())),
            estimate(m.mature.as_ref().and_then(|l| l.credible.as_ref())),
            flags.join(", "),
        ]
    };
    let of = |metric: usize| r.arms.iter().filter_map(move |arm| Some((arm, arm.metrics.get(metric)?)));
    let metrics = r.arms.first().map_or(0, |arm| arm.metrics.len());
    table(&columns, (0..metrics).flat_map(of).map(|(arm, metric)| row(arm, metric)).collect())
}

/// A difference in the metric's own unit, with its interval.
fn difference(interval: Option<&Interval>) -> String {
    interval.map_or_else(|| "–".to_owned(), |i| format!("{:+.4} ({:+.4} to {:+.4})", i.estimate, i.low, i.high))
}

/// An interval's two ends.
pub(crate) fn within(interval: Option<&Interval>) -> String {
    interval.map_or_else(|| "–".to_owned(), |i| format!("{} to {}", signed_percent(i.low), signed_percent(i.high)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_read_as_a_table() {
        let arm = |name: &str, share: f64, units: u64, converted: u64| ArmResult {
            variation: name.to_owned(),
            share,
            units,
            metrics: vec![MetricResult { metric: "m".to_owned(), units, converted, ..MetricResult::default() }],
            p_best: share,
            lift: Some(Interval { estimate: 0.5, low: 0.25, high: 0.75 }),
            ..ArmResult::default()
        };
        let results = GetResultsResponse {
            key: "k".to_owned(),
            arms: vec![arm("off", 0.25, 1000, 100), arm("on", 0.75, 3000, 450)],
            decision_metric: "m".to_owned(),
            ..GetResultsResponse::default()
        };
        let text = text(&results);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[3], ["off", "25.00%", "1,000", "10.00%", "–", "–", "–", "25.00%"]);
        assert_eq!(lines[4], ["on", "75.00%", "3,000", "15.00%", "+50.0%", "+25.0%", "to", "+75.0%", "–", "75.00%"]);
    }
}
