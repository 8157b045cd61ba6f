//! What was simulated, in words and numbers: who comes, what they do, what goes wrong, and how often it was run.

use super::courses;
use super::text::{arm_name, count, escape, number, numbers, percent, plural, short, signed_percent, table, words};
use crate::scenario::{MetricSpec, Scenario, ScenarioDoc};
use crate::world::{World, lift};

/// What a visit's outcome is called, one and many.
pub(super) fn outcome(metric: MetricSpec) -> (&'static str, &'static str) {
    match metric {
        MetricSpec::Conversion | MetricSpec::Mean { .. } => ("conversions per visit", "conversions"),
        MetricSpec::Count => ("events per unit", "events"),
        MetricSpec::Ratio { .. } => ("numerator per denominator", "outcomes"),
    }
}

/// The section about the world.
pub(super) fn world(scenario: &Scenario) -> String {
    let rows: String = facts(scenario.doc())
        .iter()
        .map(|(name, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value)))
        .collect();
    let (unit, _) = outcome(scenario.doc().metric);
    format!(
        "<div class=\"cards two\"><article class=\"card\"><h4>The world</h4><dl class=\"facts\">{rows}</dl></article>\
         <article class=\"card\"><h4>What is true</h4><p class=\"sub\">The rate of each arm over time, mean of each \
         day. Policies do not know it.</p>{plot}{arms}{numbers}</article></div>",
        plot = courses::rates(scenario, unit),
        arms = arms(scenario),
        numbers = numbers(&daily(scenario)),
    )
}

fn facts(doc: &ScenarioDoc) -> Vec<(&'static str, String)> {
    let metric = match doc.metric {
        MetricSpec::Conversion => "whether a unit converts".to_owned(),
        MetricSpec::Mean { value, sigma, cap } => {
            let cap = cap.map_or(String::new(), |cap| format!(", capped at {}", short(cap)));
            format!("revenue per unit: {} per conversion on average, lognormal (σ {}){cap}", short(value), short(sigma))
        }
        MetricSpec::Count => "events per unit, Poisson".to_owned(),
        MetricSpec::Ratio { denominator } => {
            format!("a ratio of two sums, {} in the denominator per unit", short(denominator))
        }
    };
    let base = if matches!(doc.metric, MetricSpec::Conversion | MetricSpec::Mean { .. }) {
        format!("{}%", short(100.0 * doc.base))
    } else {
        short(doc.base)
    };
    let mut facts = vec![
        ("Measured", metric),
        ("Base rate", format!("{base} ({})", outcome(doc.metric).0)),
        ("Arms", format!("control and {}", plural(doc.arms.len() as u64 - 1, "variation"))),
        ("Traffic", format!("{} new units a day", short(doc.per_day))),
        ("Length", format!("{}, a decision every {} h", plural(doc.days.into(), "day"), 24 / doc.ticks_per_day)),
    ];
    let mut tell = |when: bool, name: &'static str, value: String| {
        if when {
            facts.push((name, value));
        }
    };
    tell(doc.diurnal > 0.0, "Daily cycle", format!("rates ±{}, arrivals half of it", percent(doc.diurnal, 0)));
    tell(doc.weekly > 0.0, "Weekly cycle", format!("rates ±{}", percent(doc.weekly, 0)));
    tell(doc.trend != 0.0, "Trend", format!("base {} over the run", signed_percent(doc.trend, 0)));
    tell(doc.returning > 0.0, "Returning", format!("{} visits a tick of each unit seen before", short(doc.returning)));
    let spread = format!("units' own propensities vary, coefficient of variation {}", short(doc.heterogeneity));
    tell(doc.heterogeneity > 0.0, "Heterogeneity", spread);
    if let Some(delay) = doc.delay {
        let text = format!(
            "outcomes after {} h on average, exponential; units are followed for {} h",
            short(delay.mean_hours),
            short(delay.window_hours)
        );
        facts.push(("Delay", text));
    }
    if let Some(loss) = doc.loss {
        let (part, arm) = (percent(loss.probability, 1), arm_name(loss.arm));
        facts.push(("Loss", format!("{part} of the exposures of {arm} never arrive, from day {} on", loss.from_day)));
    }
    if let Some(stale) = doc.stale {
        let (part, ticks) = (percent(stale.fraction, 0), plural(stale.ticks.into(), "tick"));
        facts.push(("Stale clients", format!("{part} of units ask a client that flips {ticks} late")));
    }
    facts.push(("Runs", count(doc.replications.into())));
    facts.push(("Seed", doc.seed.to_string()));
    facts
}

fn arms(scenario: &Scenario) -> String {
    let world = World::new(scenario);
    let (ticks, doc) = (world.ticks(), scenario.doc());
    let changing = doc.arms.iter().any(|arm| arm.novelty.is_some());
    let mut head = words(&["arm", "lift"]);
    if changing {
        head = words(&["arm", "lift at first", "lift in the end"]);
    }
    head.extend(words(&["mean rate", ""]));
    let rows = doc.arms.iter().enumerate().map(|(i, arm)| {
        let mean = (0..ticks).map(|tick| world.rates(tick)[i]).sum::<f64>() / f64::from(ticks);
        let best = world.best_arm().is_some() && world.is_best(i);
        let mut row = vec![arm_name(i), signed_percent(arm.lift, 1)];
        if changing {
            row.push(signed_percent(lift(arm, f64::from(doc.days)), 1));
        }
        let rate = if world.highest() <= 1.0 { format!("{}%", number(100.0 * mean, 2)) } else { number(mean, 3) };
        row.extend([rate, if best { "best".to_owned() } else { String::new() }]);
        row
    });
    table("Arms", &head, &rows.collect::<Vec<_>>())
}

fn daily(scenario: &Scenario) -> String {
    let world = World::new(scenario);
    let per_day = scenario.doc().ticks_per_day;
    let (factor, unit) = if world.highest() <= 1.0 { (100.0, "%") } else { (1.0, outcome(scenario.doc().metric).0) };
    let head: Vec<String> = std::iter::once("day".to_owned()).chain((0..world.arms()).map(arm_name)).collect();
    let row = |day: u32| {
        let mean = |arm: usize| {
            let sum: f64 = (0..per_day).map(|tick| world.rates(day * per_day + tick)[arm]).sum();
            number(factor * sum / f64::from(per_day), 3)
        };
        std::iter::once((day + 1).to_string()).chain((0..world.arms()).map(mean)).collect()
    };
    let rows: Vec<Vec<String>> = days(scenario.doc().days).map(row).collect();
    table(&format!("True rate of each arm, mean of the day, {unit}"), &head, &rows)
}

/// The days that a table has a line for.
pub(super) fn days(days: u32) -> impl Iterator<Item = u32> {
    let step = days.div_ceil(31).max(1) as usize;
    (0..days).step_by(step)
}
