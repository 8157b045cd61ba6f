//! The page around the scenarios: head, what it comes to, the headline table, and the foot.

use super::overview::overview;
use super::plot::marker;
use super::section::section;
use super::text::{NONE, count, escape, number, percent, percent_error, plural};
use super::{Report, of_kind, over_reference};
use crate::policies::{PolicyKind, PolicySpec, ShipRule};
use crate::simulate::Simulation;
use crate::summary::{Mean, Summary};

const STYLE: &str = include_str!("style.css");

/// A policy's mark within text.
pub(super) fn swatch(series: usize) -> String {
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><title>mark</title>{}</svg>",
        marker(series, 6.0, 6.0, 4.2)
    )
}

/// A multiple of the reference's regret, or that it is the reference.
pub(super) fn ratio(ratio: Option<Mean>) -> String {
    ratio.map_or_else(|| NONE.to_owned(), |mean| format!("{} ± {}", number(mean.mean, 2), number(mean.se, 2)))
}

/// The whole page.
pub(super) fn page(report: &Report<'_>, command: Option<&str>) -> String {
    let title = title(report);
    let command = command.map_or(String::new(), |command| {
        format!("<h3>Run it again</h3><pre tabindex=\"0\"><code>{}</code></pre>", escape(command))
    });
    let sections: String =
        report.simulations.iter().enumerate().map(|(i, simulation)| section(report, i, simulation)).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title} · Inroad simulation</title>\
         <style>{STYLE}</style></head>\n<body><header><p class=\"eyebrow\">Inroad simulation</p><h1>{title}</h1>\
         <p class=\"lead\">{lede}</p>{tiles}{policies}</header>\n<main><section id=\"results\"><h2>What it comes to</h2>\
         {headline}{overview}{command}</section>\n{sections}</main>\n<footer><p>Written by inroad {version}. Every \
         policy meets the very same units. Errors are Monte-Carlo standard errors over runs.</p></footer></body></html>\n",
        title = escape(&title),
        lede = escape(&lede(report)),
        tiles = tiles(report),
        policies = policies(report),
        headline = headline(report),
        overview = overview(report),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn title(report: &Report<'_>) -> String {
    match report.simulations {
        [only] if !only.scenario.doc().title.is_empty() => only.scenario.doc().title.clone(),
        [only] => only.scenario.doc().name.clone(),
        several => plural(several.len() as u64, "scenario"),
    }
}

/// Units that came to one policy, all runs together.
fn units(simulation: &Simulation) -> u64 {
    let first = simulation.summaries.first().map(|summary| summary.policy.as_str());
    simulation.runs.iter().filter(|run| Some(run.policy.as_str()) == first).map(|run| run.units).sum()
}

fn lede(report: &Report<'_>) -> String {
    let total: u64 = report.simulations.iter().map(units).sum();
    let policies = if report.policies.len() == 1 { "policy" } else { "policies" };
    let (runs, scope) = match report.simulations {
        [only] => {
            let doc = only.scenario.doc();
            (u64::from(doc.replications), format!(" of {}", plural(doc.days.into(), "day")))
        }
        several => {
            let runs = several.iter().map(|s| u64::from(s.scenario.doc().replications)).sum();
            (runs, format!(" of {}", plural(several.len() as u64, "scenario")))
        }
    };
    format!(
        "{} {policies}, {}{scope}, {}: every one of them served by the assignment and policy code that runs in \
         production.",
        report.policies.len(),
        plural(runs, "run"),
        plural(total, "simulated unit"),
    )
}

/// What the first growing policy comes to, large.
fn tiles(report: &Report<'_>) -> String {
    let grown: Vec<(&Simulation, &Summary)> =
        report.simulations.iter().filter_map(|s| Some((s, of_kind(s, PolicyKind::Growth)?))).collect();
    let Some((_, first)) = grown.first() else { return String::new() };
    let average = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let moved: u64 = grown.iter().map(|(_, s)| s.moved_between_variations).sum();
    let mut tiles = vec![(count(moved), format!("units moved between variations by {}", first.policy))];
    let over: Vec<f64> = grown.iter().filter_map(|(sim, s)| Some(over_reference(sim, &s.policy)?.mean)).collect();
    let several = grown.len() > 1;
    if !over.is_empty() {
        let of = if several { ", on average" } else { "" };
        tiles.push((
            format!("{}×", number(average(&over), 2)),
            format!("the regret of unconstrained Thompson sampling{of}"),
        ));
    }
    let right: Vec<f64> = grown.iter().filter_map(|(_, s)| Some(s.correct?.mean)).collect();
    if !right.is_empty() {
        tiles.push((percent(average(&right), 1), "of runs end with the best arm in the lead".to_owned()));
    }
    let wrong: Vec<f64> = grown.iter().map(|(_, s)| s.false_winner.mean).collect();
    tiles.push((percent(average(&wrong), 1), "of runs call a false winner".to_owned()));
    let tile = |(value, text): &(String, String)| {
        format!("<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape(value), escape(text))
    };
    format!("<div class=\"tiles\">{}</div>", tiles.iter().map(tile).collect::<String>())
}

/// The policies with their marks: the legend of all plots.
fn policies(report: &Report<'_>) -> String {
    let spec = |name: &str| {
        report.simulations.iter().find_map(|simulation| {
            let scenario = &simulation.scenario;
            let spec = scenario.policies().iter().find(|policy| policy.name == name)?;
            let settings = scenario.doc().policies.iter().find(|doc| doc.name == name).map(|doc| doc.settings.clone());
            Some((spec, settings.unwrap_or_default()))
        })
    };
    let item = |(series, name): (usize, &&str)| {
        let text = spec(name).map_or(String::new(), |(spec, settings)| told(spec, &settings));
        format!("<li>{}<b>{}</b><span>{}</span></li>", swatch(series), escape(name), escape(&text))
    };
    let items: String = report.policies.iter().enumerate().map(item).collect();
    format!("<ul class=\"policies\" aria-label=\"Policies\">{items}</ul>")
}

fn told(spec: &PolicySpec, settings: &toml::Table) -> String {
    let mut text = match spec.kind {
        PolicyKind::Growth => "variations grow by eating control; nobody moves between variations",
        PolicyKind::Equal => "every arm has the same share throughout",
        PolicyKind::Fixed => "shares are fixed throughout",
        PolicyKind::Thompson => "unconstrained Thompson sampling: shares are set anew at every tick, and units move",
    }
    .to_owned();
    if let Some(shares) = &spec.shares {
        let shares: Vec<String> = shares.iter().map(|share| percent(*share, 1)).collect();
        text += &format!("; shares {}", shares.join(", "));
    }
    text += match spec.ship {
        ShipRule::Never => "",
        ShipRule::ClearlyBest => "; an arm that is clearly best gets everything from then on",
        ShipRule::Prompted => "; the arm that a person is prompted to ship gets everything from then on",
    };
    if !settings.is_empty() {
        let settings: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        text += &format!("; {}", settings.join(", "));
    }
    text
}

fn headline(report: &Report<'_>) -> String {
    let several = report.simulations.len() > 1;
    let columns = [
        "Policy",
        "Regret",
        "÷\u{a0}Thompson",
        "Right winner",
        "False winner",
        "Moves between variations",
        "% of units so moved",
        "Into a variation",
        "Back to control",
        "Revisions",
        "Kills",
    ];
    let heads: String = columns.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    let mut bodies = String::new();
    for (i, simulation) in report.simulations.iter().enumerate() {
        let doc = simulation.scenario.doc();
        let name = if doc.title.is_empty() { &doc.name } else { &doc.title };
        let group = if several {
            let link = format!("<a href=\"#scenario-{i}\">{}</a>", escape(name));
            format!("<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"{}\">{link}</th></tr>", columns.len())
        } else {
            String::new()
        };
        let rows: String = simulation.summaries.iter().map(|s| row(report, simulation, s)).collect();
        bodies += &format!("<tbody>{group}{rows}</tbody>");
    }
    format!(
        "<p class=\"lead\">Means over runs ± standard error. Regret: outcomes forgone, as a part of what the best arm would \
         have given. Moves between variations are counted over all units and runs; what follows are parts of all \
         units; revisions and kills are per run.</p><div class=\"scroll headline\" tabindex=\"0\" role=\"region\" \
         aria-label=\"Headline\"><table><caption class=\"unseen\">Policies compared</caption><thead><tr>{heads}</tr></thead>{bodies}</table></div>"
    )
}

fn row(report: &Report<'_>, simulation: &Simulation, s: &Summary) -> String {
    let none = s.moved_between_variations == 0;
    let kills: f64 = s.killed.iter().map(|mean| mean.mean).sum();
    let cells = [
        percent_error(s.regret, 2),
        ratio(over_reference(simulation, &s.policy)),
        s.correct.map_or_else(|| NONE.to_owned(), |mean| percent_error(mean, 1)),
        percent_error(s.false_winner, 1),
        count(s.moved_between_variations),
        if none { "none".to_owned() } else { percent(s.moved_between.mean, 2) },
        percent(s.moved_into.mean, 2),
        percent(s.moved_back.mean, 2),
        number(s.revisions.mean, 1),
        number(kills, 2),
    ];
    let class = |i: usize| if (4..6).contains(&i) && none { " class=\"zero\"" } else { "" };
    let cells: String =
        cells.iter().enumerate().map(|(i, cell)| format!("<td{}>{}</td>", class(i), escape(cell))).collect();
    let series = report.series(&s.policy);
    format!("<tr><th scope=\"row\">{} {}</th>{cells}</tr>", swatch(series), escape(&s.policy))
}
