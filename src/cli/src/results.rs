//! `inroad results`: shows the results of each variation as tables.

use std::time::Duration;

use clap::Args;
use inroad_wire::v1::{ArmResult, GetResultsRequest, GetResultsResponse, Interval, MetricResult};
use tonic::Request;

use crate::connect::{Connection, ServerArgs};
use crate::output::{Output, count, fields, number, p_value, percent, probability, rate, signed_percent, table};
use crate::parse;
use crate::response_json;
use crate::wire_text::{interval_text, primary_metric, state_name, timestamp_text};

/// The evidence from which the continuous test of the sample ratio raises an alert.
const SAMPLE_RATIO_ALERT: f64 = 100.0;

/// The experiment whose results to show.
#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// Experiment key
    pub(crate) key: String,
    /// Run number (generation) [default: the current run]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    generation: u32,
    /// Wait until all events acknowledged so far are counted
    #[arg(long)]
    wait: bool,
    /// Longest time to wait
    #[arg(long, default_value = "30s", value_parser = parse::duration, value_name = "DURATION")]
    timeout: Duration,
}

/// Prints the results.
pub(crate) async fn run(args: ResultsArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let mut request = Request::new(GetResultsRequest { key: args.key, generation: args.generation, wait: args.wait });
    request.set_timeout(args.timeout);
    let results = connection.results().get_results(request).await?.into_inner();
    out.print_json(&response_json::results_json(&results))?;
    Ok(out.print_text(text(&results))?)
}

fn text(r: &GetResultsResponse) -> String {
    let head = format!(
        "{} run {}, revision {}, {}, at {}",
        r.key,
        r.generation,
        r.revision,
        state_name(r.state),
        timestamp_text(r.now.as_ref())
    );
    let warnings: String = r.warnings.iter().map(|warning| format!("\n! {warning}")).collect();
    format!("{head}\n\n{}\n\n{}\n\n{}{warnings}", variations_text(r), metrics_text(r), facts_text(r))
}

/// Every variation with the results of the primary metric.
fn variations_text(r: &GetResultsResponse) -> String {
    let columns = [
        "variation",
        "share",
        "units",
        "rate",
        "lift",
        "95% interval",
        "always-valid interval",
        "probability to be best",
        "",
    ];
    let row = |(i, arm): (usize, &ArmResult)| {
        let metric = primary_metric(r, arm);
        let lift = arm.lift.as_ref().filter(|_| i > 0);
        vec![
            arm.variation.clone(),
            percent(arm.share),
            count(arm.units),
            metric.map_or_else(|| "–".to_owned(), |m| percent(rate(m.converted, m.units))),
            lift.map_or_else(|| "–".to_owned(), |l| signed_percent(l.estimate)),
            interval_text(lift),
            interval_text(arm.lift_anytime.as_ref().filter(|_| i > 0)),
            if r.decision_metric.is_empty() { "–".to_owned() } else { probability(arm.p_best) },
            if arm.killed { "killed" } else { "" }.to_owned(),
        ]
    };
    table(&columns, r.arms.iter().enumerate().map(row).collect())
}

/// Whether exposures match the shares.
pub(crate) fn sample_ratio_text(r: &GetResultsResponse) -> String {
    r.sample_ratio.as_ref().map_or_else(
        || "–".to_owned(),
        |s| {
            if s.degrees_of_freedom == 0 {
                return "too early to say".to_owned();
            }
            let alert = s.evidence >= SAMPLE_RATIO_ALERT;
            format!(
                "{} ({}, χ² {}, {} df, evidence {})",
                if alert { "ALERT: exposures do not match the shares" } else { "none detected" },
                p_value(s.p_value),
                number(s.chi_squared),
                s.degrees_of_freedom,
                number(s.evidence)
            )
        },
    )
}

/// The verdict and the health of the experiment.
fn facts_text(r: &GetResultsResponse) -> String {
    let or_dash = |text: &String| if text.is_empty() { "–".to_owned() } else { text.clone() };
    let mut facts = vec![
        ("verdict", or_dash(&r.verdict)),
        ("primary metric", or_dash(&r.decision_metric)),
        ("units moved between variations", count(r.units_moved)),
        ("crossovers from control", count(r.crossovers)),
        ("dropped unit records", count(r.dropped_records)),
        ("exposures from outdated clients", count(r.stale_exposures)),
        ("control traffic still available", percent(r.headroom)),
        ("minimum control share (holdout)", percent(r.floor)),
        ("sample ratio mismatch", sample_ratio_text(r)),
        ("events not yet counted", count(r.backlog)),
    ];
    if let Some(value) = r.potential_value_remaining {
        facts.push(("maximum remaining gain", format!("{} with 95% probability", percent(value))));
    }
    if let Some(days) = r.days_of_headroom {
        let per_day = percent(r.headroom / days);
        let left = if days < 1.0 { "less than a day".to_owned() } else { format!("{} days", number(days)) };
        facts.push(("control traffic used up", format!("in {left}, at {per_day} a day")));
    }
    fields(&facts)
}

/// Every metric of every variation, by all estimators.
fn metrics_text(r: &GetResultsResponse) -> String {
    let columns = [
        "metric",
        "variation",
        "mean",
        "lift",
        "95% interval",
        "difference",
        "always-valid interval",
        "by reporting interval",
        "in batches",
        "completed units only",
        "",
    ];
    let estimate = |i: Option<&Interval>| {
        i.map_or_else(|| "–".to_owned(), |i| format!("{} ({})", signed_percent(i.estimate), interval_text(Some(i))))
    };
    let row = |arm: &ArmResult, m: &MetricResult| {
        let lift = m.lift.as_ref();
        let flags = [
            (lift.is_some_and(|l| l.disagrees), "estimates disagree"),
            (m.delay.as_ref().is_some_and(|d| d.differs), "delays differ"),
            (m.novelty.as_ref().is_some_and(|n| n.changed), "effect changed"),
            (m.harm.is_some_and(|odds| odds >= 20.0), "HARM"),
        ];
        let flags: Vec<&str> = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect();
        vec![
            m.metric.clone(),
            arm.variation.clone(),
            m.mean.map_or_else(|| "–".to_owned(), number),
            lift.and_then(|l| l.credible.as_ref()).map_or_else(|| "–".to_owned(), |l| signed_percent(l.estimate)),
            interval_text(lift.and_then(|l| l.credible.as_ref())),
            difference_text(lift.and_then(|l| l.difference.as_ref())),
            interval_text(lift.and_then(|l| l.anytime.as_ref())),
            estimate(lift.and_then(|l| l.period.as_ref())),
            estimate(lift.and_then(|l| l.batched.as_ref())),
            estimate(m.mature.as_ref().and_then(|l| l.credible.as_ref())),
            flags.join(", "),
        ]
    };
    let results_of = |metric: usize| r.arms.iter().filter_map(move |arm| Some((arm, arm.metrics.get(metric)?)));
    let metrics = r.arms.first().map_or(0, |arm| arm.metrics.len());
    table(&columns, (0..metrics).flat_map(results_of).map(|(arm, metric)| row(arm, metric)).collect())
}

/// A difference in the metric's own unit, with its interval.
fn difference_text(interval: Option<&Interval>) -> String {
    let signed = |value: f64| match number(value) {
        text if text == "0" || text == "–" || text.starts_with('-') => text,
        text => format!("+{text}"),
    };
    interval
        .map_or_else(|| "–".to_owned(), |i| format!("{} ({} to {})", signed(i.estimate), signed(i.low), signed(i.high)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_a_table() {
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
        assert_eq!(lines[3], ["off", "25.0%", "1,000", "10.0%", "–", "–", "–", "25.0%"]);
        assert_eq!(lines[4], ["on", "75.0%", "3,000", "15.0%", "+50.0%", "+25.0%", "to", "+75.0%", "–", "75.0%"]);
    }
}
