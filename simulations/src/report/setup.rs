//! Describes what was simulated: traffic, metric, faults, number of runs, and the true rates.

use super::elements::{collapsed_numbers, table};
use super::text::{arm_name, count, escape, number, percent, plural, short, signed_percent, strings};
use super::time_charts;
use crate::scenario::Scenario;
use crate::scenario_doc::{MetricSpec, ScenarioDoc};
use crate::world::lift_on_day;

/// The name of the rate, and of outcomes in the plural.
pub(super) fn outcome_names(metric: MetricSpec) -> (&'static str, &'static str) {
    match metric {
        MetricSpec::Conversion | MetricSpec::Mean { .. } => ("conversions per visit", "conversions"),
        MetricSpec::Count => ("events per unit", "events"),
        MetricSpec::Ratio { .. } => ("numerator per denominator", "outcomes"),
    }
}

/// The cards that describe a scenario and its true rates.
pub(super) fn setup(scenario: &Scenario) -> String {
    let rows: String = facts(scenario.doc())
        .iter()
        .map(|(name, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value)))
        .collect();
    let (unit, _) = outcome_names(scenario.doc().metric);
    format!(
        "<div class=\"cards two\"><article class=\"card\"><h4>Simulated traffic</h4>\
         <dl class=\"facts\">{rows}</dl></article>\
         <article class=\"card\"><h4>True rates</h4><p class=\"sub\">The daily mean of the true rate of each variation. \
         Policies do not know it.</p>{plot}{arms}{numbers}</article></div>",
        plot = time_charts::rates_chart(scenario, unit),
        arms = arms_table(scenario),
        numbers = collapsed_numbers(&daily_rates_table(scenario)),
    )
}

fn facts(doc: &ScenarioDoc) -> Vec<(&'static str, String)> {
    let metric = match doc.metric {
        MetricSpec::Conversion => "whether a unit converts".to_owned(),
        MetricSpec::Mean { value, sigma, cap, cost } => {
            let cap = cap.map_or(String::new(), |cap| format!(", capped at {}", short(cap)));
            let (name, cost) = match cost > 0.0 {
                true => ("profit", format!(", less {} per unit", short(cost))),
                false => ("revenue", String::new()),
            };
            let (value, sigma) = (short(value), short(sigma));
            format!("{name} per unit: lognormal with mean {value} per conversion (σ {sigma}){cap}{cost}")
        }
        MetricSpec::Count => "events per unit, Poisson".to_owned(),
        MetricSpec::Ratio { denominator } => {
            format!("a ratio of two sums, with a mean denominator of {} per unit", short(denominator))
        }
    };
    let base = if matches!(doc.metric, MetricSpec::Conversion | MetricSpec::Mean { .. }) {
        format!("{}%", short(100.0 * doc.base))
    } else {
        short(doc.base)
    };
    let mut facts = vec![
        ("Metric", metric),
        ("Base rate", format!("{base} ({})", outcome_names(doc.metric).0)),
        ("Variations", format!("control and {}", plural(doc.arms.len() as u64 - 1, "variation"))),
        ("Traffic", format!("{} new units per day", short(doc.per_day))),
        ("Duration", format!("{}, one update every {} h", plural(doc.days.into(), "day"), 24 / doc.ticks_per_day)),
    ];
    let mut add_if = |condition: bool, name: &'static str, value: String| {
        if condition {
            facts.push((name, value));
        }
    };
    add_if(doc.diurnal > 0.0, "Daily cycle", format!("rates ±{}, arrivals ±half of this", percent(doc.diurnal, 0)));
    add_if(doc.weekly > 0.0, "Weekly cycle", format!("rates ±{}", percent(doc.weekly, 0)));
    add_if(doc.trend != 0.0, "Trend", format!("base rate {} over the run", signed_percent(doc.trend, 0)));
    add_if(
        doc.returning > 0.0,
        "Returning units",
        format!("{} visits of each earlier unit from one update to the next", short(doc.returning)),
    );
    let spread =
        format!("the propensity of units varies with a coefficient of variation of {}", short(doc.heterogeneity));
    add_if(doc.heterogeneity > 0.0, "Heterogeneity", spread);
    if let Some(delay) = doc.delay {
        let text = format!(
            "outcomes are known after {} h on average (exponential) and count for {} h after the exposure",
            short(delay.mean_hours),
            short(delay.window_hours)
        );
        facts.push(("Delay", text));
    }
    if let Some(loss) = doc.loss {
        let (lost, arm) = (percent(loss.probability, 1), arm_name(loss.arm));
        facts.push(("Loss", format!("{lost} of the exposures of {arm} are lost, from day {} on", loss.from_day)));
    }
    if let Some(stale) = doc.stale {
        let (fraction, updates) = (percent(stale.fraction, 0), plural(stale.ticks.into(), "update"));
        facts.push((
            "Outdated clients",
            format!("{fraction} of units use a client that applies a revision {updates} late"),
        ));
    }
    facts.push(("Runs", count(doc.replications.into())));
    facts.push(("Seed", doc.seed.to_string()));
    facts
}

fn arms_table(scenario: &Scenario) -> String {
    let world = scenario.world();
    let (ticks, doc) = (world.ticks(), scenario.doc());
    let changing = doc.arms.iter().any(|arm| arm.novelty.is_some());
    let mut head = strings(&["variation", "lift"]);
    if changing {
        head = strings(&["variation", "lift at the start", "lift at the end"]);
    }
    head.extend(strings(&["mean rate", ""]));
    let rows = doc.arms.iter().enumerate().map(|(i, arm)| {
        let mean = (0..ticks).map(|tick| world.rates(tick)[i]).sum::<f64>() / f64::from(ticks);
        let best = world.best_arm().is_some() && world.is_best(i);
        let mut row = vec![arm_name(i), signed_percent(arm.lift, 1)];
        if changing {
            row.push(signed_percent(lift_on_day(arm, f64::from(doc.days)), 1));
        }
        let rate = if world.highest() <= 1.0 { format!("{}%", number(100.0 * mean, 2)) } else { number(mean, 3) };
        row.extend([rate, if best { "best".to_owned() } else { String::new() }]);
        row
    });
    table("Variations", &head, &rows.collect::<Vec<_>>())
}

fn daily_rates_table(scenario: &Scenario) -> String {
    let world = scenario.world();
    let per_day = scenario.doc().ticks_per_day;
    let (factor, unit) =
        if world.highest() <= 1.0 { (100.0, "%") } else { (1.0, outcome_names(scenario.doc().metric).0) };
    let head: Vec<String> = std::iter::once("day".to_owned()).chain((0..world.arms()).map(arm_name)).collect();
    let row = |day: u32| {
        let mean = |arm: usize| {
            let sum: f64 = (0..per_day).map(|tick| world.rates(day * per_day + tick)[arm]).sum();
            number(factor * sum / f64::from(per_day), 3)
        };
        std::iter::once((day + 1).to_string()).chain((0..world.arms()).map(mean)).collect()
    };
    let rows: Vec<Vec<String>> = table_days(scenario.doc().days).map(row).collect();
    table(&format!("True rate of each variation, daily mean, {unit}"), &head, &rows)
}

/// The days that have a row in a table: at most 31.
pub(super) fn table_days(days: u32) -> impl Iterator<Item = u32> {
    let step = days.div_ceil(31).max(1) as usize;
    (0..days).step_by(step)
}
