//! `inroad plan`: estimates how long an experiment will take. Simulates the allocation policy many times with the given
//! traffic and base rate. Needs no server.

use clap::Args;
use inroad_simulations::scenario::{ArmSpec, Delay, MetricSpec};
use inroad_simulations::summary::Mean;
use inroad_simulations::{Options, PolicyDoc, PolicyKind, Scenario, ScenarioDoc, Summary};
use serde_json::{Value, json};

use crate::failure::usage_error;
use crate::output::{Output, count, percent, plural, signed_percent, table};
use crate::parse;
use crate::progress::{self, ProgressUnit};
use crate::suggestions::explain_serde_error;

/// The expected traffic and effect.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Conversion rate of control, 0 to 1
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    base: f64,
    /// New units per day
    #[arg(long, value_name = "UNITS", allow_negative_numbers = true)]
    per_day: f64,
    /// Smallest lift over control worth finding: 0.1 is 10% more
    #[arg(long, value_name = "LIFT", allow_negative_numbers = true)]
    lift: f64,
    /// Variations besides control; only one of them has the lift
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    variations: u32,
    /// Longest time that you would wait, in days
    #[arg(long, default_value_t = 56, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(7..=366))]
    days: u32,
    /// Hours in which outcomes of a unit count; most of them occur in the first half [default: outcomes are immediate]
    #[arg(long, value_name = "HOURS", allow_negative_numbers = true)]
    window_hours: Option<f64>,
    /// Amplitude of the rate over a day, 0 to 1
    #[arg(long, default_value_t = 0.3, value_name = "SHARE", allow_negative_numbers = true)]
    diurnal: f64,
    /// Amplitude of the rate over a week, 0 to 1
    #[arg(long, default_value_t = 0.2, value_name = "SHARE", allow_negative_numbers = true)]
    weekly: f64,
    /// Simulated experiments per lift: more take longer and are more precise [default: as many as take a few seconds, 20
    /// to 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replications: Option<u32>,
    /// Seed of the simulated units
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Setting of the policy, such as floor=0.1; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::setting)]
    set: Vec<(String, toml::Value)>,
}

/// Updates of the policy per day.
const TICKS_PER_DAY: u32 = 4;

/// The simulated lifts, as multiples of the one to find. 0 shows what chance alone does.
const MULTIPLES: [f64; 4] = [0.0, 0.5, 1.0, 2.0];

/// The work of all simulated experiments by default, in simulated units: about 15 seconds on two cores. An update of a
/// variation takes as long as about this many units.
const WORK: f64 = 24e6;
const UPDATE_WORK: f64 = 150.0;
/// The range of the default.
const REPLICATIONS: (f64, f64) = (20.0, 200.0);

impl PlanArgs {
    /// The number of simulated experiments per lift. It depends on the arguments only, so that results can be repeated.
    fn replications(&self) -> u32 {
        self.replications.unwrap_or_else(|| {
            let updates = f64::from(self.days * TICKS_PER_DAY);
            let one = self.per_day * f64::from(self.days) + updates * UPDATE_WORK * f64::from(self.variations);
            let affordable = WORK / (MULTIPLES.len() as f64 * one.max(1.0));
            affordable.clamp(REPLICATIONS.0, REPLICATIONS.1) as u32
        })
    }
}

/// Simulates each lift and prints how long finding it takes.
pub(crate) fn run(args: &PlanArgs, out: Output) -> anyhow::Result<()> {
    // The largest simulated lift must be possible, and a lift of 0 or less is none worth finding.
    let largest_lift = 10.0 / MULTIPLES[MULTIPLES.len() - 1];
    if !(args.lift > 0.0 && args.lift <= largest_lift) {
        let message = format!(
            "--lift {}: give the smallest gain worth finding, above 0 and at most {largest_lift}: 0.1 is 10% more than control. \
             For a metric that should fall, plan with a gain of the same size",
            args.lift
        );
        return Err(usage_error(message));
    }
    let lifts = MULTIPLES.map(|multiple| multiple * args.lift);
    let runs = u64::from(args.replications()) * lifts.len() as u64;
    let bar = progress::progress_bar(Some(runs), ProgressUnit::Runs, out);
    let mut found = Vec::new();
    for lift in lifts {
        bar.set_message(format!("lift {}", signed_percent(lift)));
        let progress = |_, _| bar.inc(1);
        let options = Options { progress: Some(&progress), decisions_only: true, ..Options::default() };
        let simulation =
            inroad_simulations::simulate(&scenario(args, lift)?, options).map_err(|e| usage_error(e.to_string()))?;
        found.extend(simulation.summaries.into_iter().map(|summary| (lift, summary)));
    }
    bar.finish_and_clear();
    out.print_json(&json!({"plan": found.iter().map(summary_json).collect::<Vec<_>>()}))?;
    Ok(out.print_text(text(args, &found))?)
}

fn scenario(args: &PlanArgs, lift: f64) -> anyhow::Result<Scenario> {
    let arm = |lift: f64| ArmSpec { lift, novelty: None };
    let others = (1..args.variations).map(|_| arm(0.0));
    let growth =
        PolicyDoc { settings: args.set.iter().cloned().collect(), ..PolicyDoc::with_defaults(PolicyKind::Growth) };
    let doc = ScenarioDoc {
        name: "plan".to_owned(),
        title: String::new(),
        days: args.days,
        ticks_per_day: TICKS_PER_DAY,
        base: args.base,
        per_day: args.per_day,
        diurnal: args.diurnal,
        weekly: args.weekly,
        trend: 0.0,
        returning: 0.0,
        heterogeneity: 0.0,
        replications: args.replications(),
        seed: args.seed,
        metric: MetricSpec::Conversion,
        delay: args.window_hours.map(|hours| Delay { mean_hours: hours / 4.0, window_hours: hours }),
        loss: None,
        stale: None,
        arms: [arm(0.0), arm(lift)].into_iter().chain(others).collect(),
        policies: vec![growth],
    };
    Scenario::try_from(doc).map_err(|error| usage_error(explain_serde_error(error.to_string())))
}

fn text(args: &PlanArgs, found: &[(f64, Summary)]) -> String {
    let days = |days: Option<f64>| days.map_or_else(|| "–".to_owned(), |days| format!("{days:.0} days"));
    let row = |(lift, summary): &(f64, Summary)| {
        let after = summary.prompted_after_days;
        vec![
            signed_percent(*lift),
            share_of_runs(summary.prompted, summary.replications),
            days(after.map(|q| q.p10)),
            days(after.map(|q| q.p50)),
            days(after.map(|q| q.p90)),
            share_of_runs(summary.false_prompt, summary.replications),
            with_error(Mean { mean: summary.regret.mean.max(0.0), ..summary.regret }),
        ]
    };
    let found_in_time = format!("found within {} days", args.days);
    let head = [
        "true lift",
        found_in_time.as_str(),
        "10% of those after",
        "50% of those after",
        "90% of those after",
        "false finding",
        "regret",
    ];
    let rows = table(&head, found.iter().map(row).collect());
    let at_lift = found.iter().find(|(lift, _)| *lift == args.lift).map(|(_, summary)| summary);
    let verdict = match at_lift.and_then(|summary| Some((summary.prompted?.mean, summary.prompted_after_days?.p50))) {
        Some((chance, median)) if chance >= 0.8 => format!("expect \"ready to ship\" after about {median:.0} days"),
        Some((chance, median)) => format!(
            "only {} of such experiments find it within {} days (half of those within {median:.0}). Wait longer, send \
             more units, or look for a larger lift.",
            percent(chance),
            args.days
        ),
        None => {
            format!("no simulated experiment found it within {} days. It is too small for this traffic.", args.days)
        }
    };
    format!(
        "{rows}\n\n± is one standard error of the simulation, with {} per lift; < and > are 95% limits where none or all of \
         them count. For more precision, give --replications.\nlift of {} at {} units per day: {verdict}",
        plural(args.replications().into(), "simulated experiment"),
        signed_percent(args.lift),
        count(args.per_day.round() as u64)
    )
}

/// A mean with its standard error, in percent.
fn with_error(mean: Mean) -> String {
    format!("{} ± {}", percent(mean.mean), percent(mean.se))
}

/// A share of the simulated experiments with its standard error. If none or all of them count, the standard error would
/// claim certainty: then it is the one-sided 95% limit, 1 − 0.05^(1/n).
fn share_of_runs(share: Option<Mean>, runs: u32) -> String {
    let Some(share) = share else { return "–".to_owned() };
    let limit = 1.0 - 0.05_f64.powf(1.0 / f64::from(runs.max(1)));
    if share.mean <= 0.0 {
        format!("<{}", percent(limit))
    } else if share.mean >= 1.0 {
        format!(">{}", percent(1.0 - limit))
    } else {
        with_error(share)
    }
}

fn summary_json((lift, summary): &(f64, Summary)) -> Value {
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
    fn large_lift_is_found_sooner_than_a_small_one() {
        let args = typed(&[]);
        let found = |lift| {
            let simulation = inroad_simulations::simulate(&scenario(&args, lift).unwrap(), Options::default()).unwrap();
            simulation.summaries[0].clone()
        };
        let (small, large) = (found(0.1), found(0.4));
        assert_eq!(large.prompted.map(|prompted| prompted.mean), Some(1.0));
        let median = |summary: &Summary| summary.prompted_after_days.map_or(f64::INFINITY, |q| q.p50);
        assert!(median(&large) >= 7.0, "at least a full week");
        assert!(median(&large) < median(&small) || small.prompted.is_some_and(|prompted| prompted.mean < 1.0));
        assert!(text(&args, &[(0.2, large)]).contains("expect \"ready to ship\" after about"));
    }

    #[test]
    fn no_precision_is_claimed_that_the_simulation_does_not_have() {
        let mean = |mean, se| Some(Mean { mean, se });
        assert_eq!(share_of_runs(mean(0.5, 0.05), 100), "50.0% ± 5.00%");
        // 0.95^59 is 5%: none of 59 runs excludes a probability of 5%.
        assert_eq!([share_of_runs(mean(0.0, 0.0), 59), share_of_runs(mean(1.0, 0.0), 59)], ["<4.95%", ">95.0%"]);
        assert_eq!(share_of_runs(None, 59), "–");
    }

    #[test]
    fn default_number_of_experiments_falls_with_traffic() {
        let replications = |per_day: &str| {
            let words = ["plan", "--base", "0.1", "--per-day", per_day, "--lift", "0.2"];
            Typed::try_parse_from(words).expect("arguments").args.replications()
        };
        let [few, some, many] = ["10", "4000", "1000000"].map(replications);
        assert!((100..=200).contains(&few) && (21..few).contains(&some) && many == 20, "{few} {some} {many}");
        assert_eq!(typed(&[]).replications(), 8);
    }

    #[test]
    fn invalid_settings_are_named() {
        let error_text = |more: &[&str]| scenario(&typed(more), 0.2).unwrap_err().to_string();
        let error = error_text(&["--set", "flor=0.2"]);
        assert!(error.contains("flor") && error.contains("did you mean `floor`?"), "{error}");
        let args = PlanArgs { base: 1.5, ..typed(&[]) };
        assert!(scenario(&args, 0.2).unwrap_err().to_string().contains("base"));
    }
}
