//! `inroad funnel`: shows how many exposed units reach each step of a sequence of outcomes.

use std::time::Duration;

use clap::Args;
use inroad_assignment::Timestamp;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1::{FunnelArm, FunnelStep, GetFunnelRequest, GetFunnelResponse};
use tonic::Request;

use crate::connect::{Connection, ServerArgs};
use crate::output::{Output, count, percent, signed_percent, table};
use crate::parse;
use crate::response_json;
use crate::wire_text::{interval_or_note, timestamp_text};

/// The funnel to compute.
#[derive(Debug, Args)]
pub(crate) struct FunnelArgs {
    /// Experiment key
    pub(crate) key: String,
    /// Event names of 1 to 8 outcomes, in order
    #[arg(required = true, num_args = 1..=8, value_name = "EVENT")]
    steps: Vec<String>,
    /// Run number (generation) [default: the current run]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    generation: u32,
    /// Count events at or after this time: 2026-01-31T09:00:00Z or 2026-01-31
    #[arg(long, value_parser = parse::instant, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Count events before this time
    #[arg(long, value_parser = parse::instant, value_name = "TIME")]
    to: Option<Timestamp>,
    /// Wait until all events acknowledged so far are counted
    #[arg(long)]
    wait: bool,
    /// Longest time to wait
    #[arg(long, default_value = "30s", value_parser = parse::duration, value_name = "DURATION")]
    timeout: Duration,
}

/// Prints the funnel.
pub(crate) async fn run(args: FunnelArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let FunnelArgs { key, steps, generation, from, to, wait, timeout } = args;
    let (from, to) = (from.map(timestamp_to_wire), to.map(timestamp_to_wire));
    let mut request = Request::new(GetFunnelRequest { key, generation, steps, from, to, wait });
    request.set_timeout(timeout);
    let funnel = connection.results().get_funnel(request).await?.into_inner();
    out.print_json(&response_json::funnel_json(&funnel))?;
    Ok(out.print_text(text(&funnel))?)
}

fn text(r: &GetFunnelResponse) -> String {
    let bound = |word: &str, at: Option<&prost_types::Timestamp>| {
        at.map_or_else(String::new, |at| format!(", {word} {}", timestamp_text(Some(at))))
    };
    let head =
        format!("{} run {}{}{}", r.key, r.generation, bound("from", r.from.as_ref()), bound("before", r.to.as_ref()));
    let columns = ["variation", "step", "units", "of exposed", "of previous step", "lost", "lift", "95% interval"];
    let dash = || "–".to_owned();
    let exposed = |arm: &FunnelArm| {
        let name = if arm.killed { format!("{} (killed)", arm.variation) } else { arm.variation.clone() };
        let all = if arm.exposed > 0 { percent(1.0) } else { dash() };
        vec![name, "exposed".to_owned(), count(arm.exposed), all, dash(), dash(), dash(), dash()]
    };
    let step = |(i, step): (usize, &FunnelStep)| {
        let lift = step.lift.as_ref().and_then(|lift| lift.credible.as_ref());
        let note = step.lift.as_ref().map_or("", |lift| lift.note.as_str());
        vec![
            String::new(),
            format!("{} {}", i + 1, step.event),
            count(step.reached),
            step.rate.map_or_else(dash, percent),
            step.step_rate.map_or_else(dash, percent),
            count(step.dropped),
            lift.map_or_else(dash, |lift| signed_percent(lift.estimate)),
            interval_or_note(lift, note),
        ]
    };
    let rows = r.arms.iter().flat_map(|arm| [exposed(arm)].into_iter().chain(arm.steps.iter().enumerate().map(step)));
    let table = table(&columns, rows.collect());
    let hints: String = r.hints.iter().map(|hint| format!("\n! {hint}")).collect();
    let backlog = match r.backlog {
        0 => String::new(),
        waiting => format!("\nevents not yet counted: {}", count(waiting)),
    };
    format!("{head}\n\n{table}\n\n{}{hints}{backlog}", r.note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_wire::v1::{Interval, LiftEstimates};

    #[test]
    fn funnel_is_a_table() {
        let lift = LiftEstimates {
            credible: Some(Interval { estimate: 0.5, low: 0.25, high: 0.75 }),
            ..LiftEstimates::default()
        };
        let step = |reached, dropped, rate, lift| FunnelStep {
            event: "cart".to_owned(),
            reached,
            dropped,
            rate: Some(rate),
            step_rate: Some(rate),
            lift,
            ..FunnelStep::default()
        };
        let arm = |name: &str, exposed, step| FunnelArm {
            variation: name.to_owned(),
            exposed,
            compared: exposed,
            steps: vec![step],
            ..FunnelArm::default()
        };
        let funnel = GetFunnelResponse {
            key: "k".to_owned(),
            generation: 1,
            arms: vec![
                arm("off", 1_000, step(100, 900, 0.1, None)),
                arm("on", 3_000, step(450, 2_550, 0.15, Some(lift))),
            ],
            ..GetFunnelResponse::default()
        };
        let text = text(&funnel);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[3], ["off", "exposed", "1,000", "100%", "–", "–", "–", "–"], "as on the page");
        assert_eq!(lines[4], ["1", "cart", "100", "10.0%", "10.0%", "900", "–", "–"]);
        assert_eq!(lines[6], ["1", "cart", "450", "15.0%", "15.0%", "2,550", "+50.0%", "+25.0%", "to", "+75.0%"]);
    }
}
