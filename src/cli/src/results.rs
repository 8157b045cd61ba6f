//! `inroad results`: shows the results of each variation as tables.

use std::time::Duration;

use clap::Args;
use inroad_server::explain::estimate_in_words;
use inroad_wire::v1::{ArmResult, GetResultsRequest, GetResultsResponse, Interval, KillResult, MetricResult, State};
use tonic::Request;

use crate::connect::{Connection, ServerArgs};
use crate::output::{Output, count, fields, number, p_value, percent, probability, rate, signed_percent, table};
use crate::parse;
use crate::response_json;
use crate::wire_text::{
    interval_or_note, interval_text, is_ranked, primary_metric, state_name, timestamp_of, timestamp_text,
};

/// The evidence from which the continuous test of the sample ratio raises an alert.
pub(crate) const SAMPLE_RATIO_ALERT: f64 = 100.0;

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
    let is_pending = timestamp_of(r.effective_at.as_ref()) > timestamp_of(r.now.as_ref());
    let pending = match is_pending {
        true => format!(" (in effect from {})", timestamp_text(r.effective_at.as_ref())),
        false => String::new(),
    };
    let head = format!(
        "{} run {}, revision {}{pending}, {}, at {}",
        r.key,
        r.generation,
        r.revision,
        state_name(r.state),
        timestamp_text(r.now.as_ref())
    );
    let warnings: String = r.warnings.iter().map(|warning| format!("\n! {warning}")).collect();
    let (variations, metrics, facts, kills) =
        (variations_text(r), metrics_text(r), facts_text(r), kills_text(&r.kills));
    let ratios = ratio_notes(r);
    format!("{head}\n\n{variations}\n\n{metrics}\n\n{PRIOR_NOTE}{ratios}\n\n{facts}{kills}{warnings}")
}

/// How the numbers in the tables were estimated.
const PRIOR_NOTE: &str = "Lifts and differences are estimated without the policy's prior. Lifts compare units only within reporting intervals, and \
                          a difference beside a lift is averaged over reporting intervals: so they need not be those of the means \
                          beside them, nor have one sign. The probability to be best is the one used for allocation, with the \
                          prior.";

/// Every variation with the results of the primary metric.
fn variations_text(r: &GetResultsResponse) -> String {
    let columns = [
        "variation",
        if is_over(r) { "share before the end" } else { "share" },
        "exposed units",
        "counted units",
        "with outcome",
        "lift",
        "95% interval",
        "always-valid interval",
        "probability to be best",
        "",
    ];
    let is_ranked = is_ranked(r);
    let row = |(i, arm): (usize, &ArmResult)| {
        let metric = primary_metric(r, arm);
        let lift = arm.lift.as_ref().filter(|_| i > 0);
        vec![
            arm.variation.clone(),
            percent(arm.share),
            count(arm.units),
            metric.map_or_else(|| "–".to_owned(), |m| count(m.units)),
            metric.map_or_else(|| "–".to_owned(), |m| percent(rate(m.converted, m.units))),
            lift.map_or_else(|| "–".to_owned(), |l| signed_percent(l.estimate)),
            match arm.difference.as_ref() {
                Some(difference) => format!("difference {}", difference_text(Some(difference))),
                None => interval_or_note(lift, &arm.lift_note),
            },
            match arm.difference_anytime.as_ref() {
                Some(difference) => ends_text(difference),
                None => interval_text(arm.lift_anytime.as_ref().filter(|_| i > 0)),
            },
            if is_ranked && !arm.killed { probability(arm.p_best) } else { "–".to_owned() },
            match (arm.killed, arm.killed_after_end) {
                (true, _) => "killed",
                (false, true) => "killed after the end",
                (false, false) => "",
            }
            .to_owned(),
        ]
    };
    table(&columns, r.arms.iter().enumerate().map(row).collect())
}

/// Whether the experiment has ended: then its shares no longer decide what is served.
fn is_over(r: &GetResultsResponse) -> bool {
    [State::Concluded, State::Archived, State::Ended].map(i32::from).contains(&r.state)
}

/// Where the plain ratio of two means differs from the lift, one line each.
fn ratio_notes(r: &GetResultsResponse) -> String {
    let noted = r.arms.iter().flat_map(|arm| arm.metrics.iter().map(move |metric| (arm, metric)));
    let noted = noted.filter(|(_, metric)| !metric.ratio_note.is_empty());
    noted.map(|(arm, metric)| format!("\n{} of {}: {}", metric.metric, arm.variation, metric.ratio_note)).collect()
}

/// How the lift in the verdict is related to the rates of the leader and of control; none without a leader, and if they
/// agree as shown.
pub(crate) fn leader_note(r: &GetResultsResponse) -> Option<&str> {
    let leader = r.arms.iter().find(|arm| !r.leader.is_empty() && arm.variation == r.leader)?;
    let metric = leader.metrics.iter().find(|metric| metric.metric == r.decision_metric)?;
    Some(metric.ratio_note.as_str()).filter(|note| !note.is_empty())
}

/// Whether exposures match the shares.
pub(crate) fn sample_ratio_text(r: &GetResultsResponse) -> String {
    r.sample_ratio.as_ref().map_or_else(
        || "–".to_owned(),
        |s| {
            let alert = if s.evidence >= SAMPLE_RATIO_ALERT { "ALERT: " } else { "" };
            let test = format!("χ² over all periods {} with {} df", number(s.chi_squared), s.degrees_of_freedom);
            let test = if s.degrees_of_freedom == 0 { String::new() } else { format!(", {test}") };
            format!("{alert}{}{test}", s.summary)
        },
    )
}

/// The verdict and the health of the experiment.
fn facts_text(r: &GetResultsResponse) -> String {
    let or_dash = |text: &String| if text.is_empty() { "–".to_owned() } else { text.clone() };
    let mut facts = vec![
        ("verdict", or_dash(&r.verdict)),
        ("primary metric", or_dash(&r.decision_metric)),
        ("exposed units", if r.units_note.is_empty() { count(r.units) } else { r.units_note.clone() }),
        ("units moved between variations", count(r.units_moved)),
        ("crossovers from control", count(r.crossovers)),
        ("excluded unit records", dropped_text(r)),
        ("outcomes outside the window", outside_window_text(r)),
        ("exposures from outdated clients", count(r.stale_exposures)),
        ("control traffic still available", headroom_text(r)),
        ("minimum control share (holdout)", percent(r.floor)),
        ("sample ratio mismatch", sample_ratio_text(r)),
        ("events not yet counted", count(r.backlog)),
    ];
    if !r.ended.is_empty() {
        facts.insert(1, ("ended", format!("{}: {}", timestamp_text(r.ended_at.as_ref()), r.ended)));
    }
    if let Some(value) = r.potential_value_remaining {
        facts.push(("maximum remaining gain", format!("{} with 95% probability", estimate_in_words(value))));
    }
    if let Some(days) = r.days_of_headroom.filter(|days| *days > 0.0) {
        let per_day = percent(r.headroom / days);
        let left = if days < 1.0 { "less than a day".to_owned() } else { format!("{} days", number(days)) };
        facts.push(("control traffic used up", format!("in {left}, at {per_day} a day")));
    }
    fields(&facts)
}

/// The control traffic that can still be taken. Nearly nothing is not nothing: the pages show `<0.1%`.
fn headroom_text(r: &GetResultsResponse) -> String {
    match percent(r.headroom).as_str() {
        _ if is_over(r) || r.generation == 0 => "–".to_owned(),
        "0%" if r.headroom > 0.0 => "<0.1%".to_owned(),
        text if r.headroom_note.is_empty() => text.to_owned(),
        text => format!("{text}; {}", r.headroom_note),
    }
}

/// The unit records that are not compared, with the reasons.
fn dropped_text(r: &GetResultsResponse) -> String {
    let reasons = [
        (r.dropped_by_kill, "by a kill or restore"),
        (r.dropped_by_revision, "by a new revision"),
        (r.dropped_after_end, "after the end of the run"),
    ];
    let reasons: Vec<String> =
        reasons.iter().filter(|(n, _)| *n > 0).map(|(n, reason)| format!("{} {reason}", count(*n))).collect();
    let total = count(r.dropped_records);
    if reasons.is_empty() { total } else { format!("{total}: {}", reasons.join(", ")) }
}

/// The outcomes of exposed units that no estimate counts.
fn outside_window_text(r: &GetResultsResponse) -> String {
    format!(
        "{} more than a minute before the first exposure, {} after the window of the primary metric",
        count(r.outcomes_too_early),
        count(r.outcomes_too_late)
    )
}

/// What was known about variations when they were killed, each on a line that begins with a line break.
pub(crate) fn kills_text(kills: &[KillResult]) -> String {
    let line = |kill: &KillResult| {
        let restored = kill
            .restored_at
            .as_ref()
            .map_or_else(String::new, |at| format!(" Restored at {}.", timestamp_text(Some(at))));
        format!("\n* {}: {}{restored}", timestamp_text(kill.at.as_ref()), kill.summary)
    };
    kills.iter().map(line).collect()
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
        "averaged over intervals",
        "in batches",
        "completed units only",
        "",
    ];
    let row = |arm: &ArmResult, m: &MetricResult| {
        let lift = m.lift.as_ref();
        let delay = m.delay.as_ref().filter(|d| d.differs);
        let novelty = m.novelty.as_ref().filter(|n| n.changed);
        let flags = [
            lift.filter(|l| l.disagrees).map(|_| "estimates disagree".to_owned()),
            delay.map(|d| format!("delays differ ({})", p_value(d.p_value))),
            novelty.map(|n| format!("effect changed ({})", p_value(n.p_value))),
            m.harm.filter(|odds| *odds >= 20.0).map(|_| "HARM".to_owned()),
        ];
        let flags: Vec<String> = flags.into_iter().flatten().collect();
        vec![
            m.metric.clone(),
            arm.variation.clone(),
            m.mean.map_or_else(|| "–".to_owned(), number),
            lift.and_then(|l| l.credible.as_ref()).map_or_else(|| "–".to_owned(), |l| signed_percent(l.estimate)),
            interval_or_note(lift.and_then(|l| l.credible.as_ref()), lift.map_or("", |l| &l.note)),
            difference_text(lift.and_then(|l| l.difference.as_ref())),
            match lift.and_then(|l| l.difference_anytime.as_ref()) {
                Some(difference) => ends_text(difference),
                None => interval_text(lift.and_then(|l| l.anytime.as_ref())),
            },
            lift_or_difference(lift.and_then(|l| l.period.as_ref()), lift.and_then(|l| l.difference_period.as_ref())),
            lift_or_difference(lift.and_then(|l| l.batched.as_ref()), lift.and_then(|l| l.difference_batched.as_ref())),
            completed_text(m),
            flags.join(", "),
        ]
    };
    let results_of = |metric: usize| r.arms.iter().filter_map(move |arm| Some((arm, arm.metrics.get(metric)?)));
    let metrics = r.arms.first().map_or(0, |arm| arm.metrics.len());
    table(&columns, (0..metrics).flat_map(results_of).map(|(arm, metric)| row(arm, metric)).collect())
}

/// A lift with its interval, or else a difference with its interval.
fn lift_or_difference(lift: Option<&Interval>, difference: Option<&Interval>) -> String {
    match lift {
        Some(lift) => format!("{} ({})", signed_percent(lift.estimate), interval_text(Some(lift))),
        None => difference_text(difference),
    }
}

/// The lift from completed units, or why there is none.
fn completed_text(metric: &MetricResult) -> String {
    match metric.mature.as_ref() {
        Some(lift) if lift.credible.is_none() && lift.difference.is_none() => interval_or_note(None, &lift.note),
        lift => lift_or_difference(lift.and_then(|l| l.credible.as_ref()), lift.and_then(|l| l.difference.as_ref())),
    }
}

/// A difference in the metric's own unit, with its interval.
fn difference_text(interval: Option<&Interval>) -> String {
    interval.map_or_else(|| "–".to_owned(), |i| format!("{} ({})", signed_number(i.estimate), ends_text(i)))
}

/// The ends of the interval of a difference.
fn ends_text(interval: &Interval) -> String {
    format!("{} to {}", signed_number(interval.low), signed_number(interval.high))
}

fn signed_number(value: f64) -> String {
    match number(value) {
        text if text == "0" || text == "–" || text.starts_with('-') => text,
        text => format!("+{text}"),
    }
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
        assert_eq!(lines[3], ["off", "25.0%", "1,000", "1,000", "10.0%", "–", "–", "–", "25.0%"]);
        assert_eq!(
            lines[4],
            ["on", "75.0%", "3,000", "3,000", "15.0%", "+50.0%", "+25.0%", "to", "+75.0%", "–", "75.0%"]
        );
    }

    #[test]
    fn no_time_is_given_to_control_traffic_that_is_used_up() {
        let with_days =
            |days| text(&GetResultsResponse { days_of_headroom: Some(days), ..GetResultsResponse::default() });
        assert!(with_days(0.5).contains("in less than a day"));
        assert!(!with_days(0.0).contains("less than a day"));
    }

    #[test]
    fn missing_lift_is_explained_and_shows_no_probability() {
        let arm = |name: &str, note: &str| ArmResult {
            variation: name.to_owned(),
            p_best: 0.61,
            lift_note: note.to_owned(),
            ..ArmResult::default()
        };
        let note = "too early to say: 30 of about 2,400 units";
        let results = GetResultsResponse {
            arms: vec![arm("off", ""), arm("on", note)],
            decision_metric: "m".to_owned(),
            not_ranked: note.to_owned(),
            ..GetResultsResponse::default()
        };
        let text = variations_text(&results);
        assert!(text.contains(note) && !text.contains("61"), "{text}");
    }

    #[test]
    fn killed_variation_has_no_probability_to_be_best() {
        let arm = |name: &str, killed: bool| ArmResult { variation: name.to_owned(), killed, ..ArmResult::default() };
        let results = GetResultsResponse {
            arms: vec![arm("off", false), arm("on", true)],
            decision_metric: "m".to_owned(),
            ..GetResultsResponse::default()
        };
        let text = variations_text(&results);
        let last = text.lines().last().unwrap_or_default();
        assert!(last.ends_with("–  killed"), "{text}");
    }

    #[test]
    fn ratio_that_is_not_the_lift_is_noted() {
        let metric = MetricResult {
            metric: "m".to_owned(),
            ratio_note: "the plain ratio".to_owned(),
            ..MetricResult::default()
        };
        let arm = ArmResult { variation: "on".to_owned(), metrics: vec![metric], ..ArmResult::default() };
        let results = GetResultsResponse { arms: vec![arm], ..GetResultsResponse::default() };
        assert_eq!(ratio_notes(&results), "\nm of on: the plain ratio");
    }

    #[test]
    fn difference_replaces_a_lift_with_its_sign() {
        let loss = Interval { estimate: -0.75, low: -0.9, high: 0.000_01 };
        assert_eq!(lift_or_difference(None, Some(&loss)), "-0.750 (-0.900 to 0)");
        assert_eq!(difference_text(None), "–");
    }
}
