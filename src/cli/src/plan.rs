//! `inroad plan`: how long an experiment will take, before it starts: the very policy, on paper, in a world of this traffic
//! and base rate, over and over. No server is asked.

use clap::Args;
use inroad_simulations::scenario::{ArmSpec, Delay, MetricSpec};
use inroad_simulations::{Options, PolicyDoc, PolicyKind, Scenario, ScenarioDoc, Summary};
use serde_json::{Value, json};

use crate::failure::usage;
use crate::output::{Output, percent, signed_percent, table};
use crate::parse;
use crate::progress::{self, Of};

/// What is expected of the experiment.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// How often control's units convert, 0 to 1
    #[arg(long, value_name = "RATE")]
    base: f64,
    /// New units a day
    #[arg(long, value_name = "UNITS")]
    per_day: f64,
    /// The lift over control that is worth finding: 0.1 is ten per cent more
    #[arg(long, value_name = "LIFT")]
    lift: f64,
    /// How many variations beside control; the others are no better than it
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    variations: u32,
    /// How long one would wait at the most
    #[arg(long, default_value_t = 56, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(7..=366))]
    days: u32,
    /// How many hours each unit is followed; half of the outcomes come within a quarter of them [default: they come at once]
    #[arg(long, value_name = "HOURS")]
    window_hours: Option<f64>,
    /// Swing of the rate over a day, 0 to 1
    #[arg(long, default_value_t = 0.3, value_name = "PART")]
    diurnal: f64,
    /// Swing of the rate over a week, 0 to 1
    #[arg(long, default_value_t = 0.2, value_name = "PART")]
    weekly: f64,
    /// How many runs of each
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replications: u32,
    /// Another seed, other units
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Set a setting of the policy, like floor=0.1; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::setting)]
    set: Vec<(String, toml::Value)>,
}

/// Half of what is looked for, that, and twice that; and nothing, for what chance alone does.
const MULTIPLES: [f64; 4] = [0.0, 0.5, 1.0, 2.0];

/// Plans.
pub(crate) fn run(args: &PlanArgs, out: Output) -> anyhow::Result<()> {
    let lifts = MULTIPLES.map(|multiple| multiple * args.lift);
    let bar = progress::bar(u64::from(args.replications) * lifts.len() as u64, Of::Runs, out);
    let mut found = Vec::new();
    for lift in lifts {
        bar.set_message(format!("lift {}", signed_percent(lift)));
        let progress = |_, _| bar.inc(1);
        let options = Options { threads: None, progress: Some(&progress) };
        let simulation =
            inroad_simulations::simulate(&scenario(args, lift)?, options).map_err(|e| usage(e.to_string()))?;
        found.extend(simulation.summaries.into_iter().map(|summary| (lift, summary)));
    }
    bar.finish_and_clear();
    out.value(&json!({"plan": found.iter().map(value).collect::<Vec<_>>()}))?;
    Ok(out.line(text(args, &found))?)
}

fn scenario(args: &PlanArgs, lift: f64) -> anyhow::Result<Scenario> {
    let arm = |lift: f64| ArmSpec { lift, novelty: None };
    let others = (1..args.variations).map(|_| arm(0.0));
    let growth = PolicyDoc { settings: args.set.iter().cloned().collect(), ..PolicyDoc::plain(PolicyKind::Growth) };
    let doc = ScenarioDoc {
        name: "plan".to_owned(),
        title: String::new(),
        days: args.days,
        ticks_per_day: 4,
        base: args.base,
        per_day: args.per_day,
        diurnal: args.diurnal,
        weekly: args.weekly,
        trend: 0.0,
        returning: 0.0,
        heterogeneity: 0.0,
        replications: args.replications,
        seed: args.seed,
        metric: MetricSpec::Conversion,
        delay: args.window_hours.map(|hours| Delay { mean_hours: hours / 4.0, window_hours: hours }),
        loss: None,
        stale: None,
        arms: [arm(0.0), arm(lift)].into_iter().chain(others).collect(),
        policies: vec![growth],
    };
    Scenario::try_from(doc).map_err(|error| usage(error.to_string()))
}

fn text(args: &PlanArgs, found: &[(f64, Summary)]) -> String {
    let days = |days: Option<f64>| days.map_or_else(|| "–".to_owned(), |days| format!("{days:.0} days"));
    let row = |(lift, summary): &(f64, Summary)| {
        let after = summary.prompted_after_days;
        vec![
            signed_percent(*lift),
            percent(summary.prompted.mean),
            days(after.map(|q| q.p10)),
            days(after.map(|q| q.p50)),
            days(after.map(|q| q.p90)),
            percent(summary.false_prompt.mean),
            percent(summary.regret.mean.max(0.0)),
        ]
    };
    let within = format!("found in {} days", args.days);
    let head = [
        "true lift",
        within.as_str(),
        "of those a tenth by",
        "half by",
        "nine tenths by",
        "found, and no better",
        "forgone",
    ];
    let rows = table(&head, found.iter().map(row).collect());
    let asked = found.iter().find(|(lift, _)| *lift == args.lift).map(|(_, summary)| summary);
    let verdict = match asked.and_then(|summary| Some((summary.prompted.mean, summary.prompted_after_days?.p50))) {
        Some((chance, median)) if chance >= 0.8 => format!("expect a prompt to ship after about {median:.0} days"),
        Some((chance, median)) => format!(
            "only {} of such experiments find it within {} days (half of those within {median:.0}): wait longer, send more \
             units, or look for a larger lift",
            percent(chance),
            args.days
        ),
        None => format!("no such experiment found it within {} days: it is too small for this traffic", args.days),
    };
    format!("{rows}\n\na lift of {} at {:.0} units a day: {verdict}", signed_percent(args.lift), args.per_day)
}

fn value((lift, summary): &(f64, Summary)) -> Value {
    json!({
        "lift": lift, "prompted": summary.prompted, "after_days": summary.prompted_after_days,
        "false_prompt": summary.false_prompt, "right": summary.correct, "regret": summary.regret,
        "replications": summary.replications,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: PlanArgs,
    }

    fn typed(more: &[&str]) -> PlanArgs {
        let usual =
            ["plan", "--base", "0.1", "--per-day", "2000", "--lift", "0.2", "--replications", "8", "--days", "28"];
        Typed::try_parse_from(usual.iter().chain(more)).expect("arguments").args
    }

    #[test]
    fn a_large_lift_is_found_sooner_than_a_small_one() {
        let args = typed(&[]);
        let found = |lift| {
            let simulation = inroad_simulations::simulate(&scenario(&args, lift).unwrap(), Options::default()).unwrap();
            simulation.summaries[0].clone()
        };
        let (small, large) = (found(0.1), found(0.4));
        assert_eq!(large.prompted.mean, 1.0);
        let median = |summary: &Summary| summary.prompted_after_days.map_or(f64::INFINITY, |q| q.p50);
        assert!(median(&large) >= 7.0, "a full week at the least");
        assert!(median(&large) < median(&small) || small.prompted.mean < 1.0);
        assert!(text(&args, &[(0.2, large)]).contains("expect a prompt to ship after about"));
    }

    #[test]
    fn what_cannot_be_is_told_with_its_range() {
        let fault = |more: &[&str]| scenario(&typed(more), 0.2).unwrap_err().to_string();
        assert!(fault(&["--set", "flor=0.2"]).contains("flor"), "{}", fault(&["--set", "flor=0.2"]));
        let args = PlanArgs { base: 1.5, ..typed(&[]) };
        assert!(scenario(&args, 0.2).unwrap_err().to_string().contains("base"));
    }
}
