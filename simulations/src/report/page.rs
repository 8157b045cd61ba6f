//! The page: header with the main results, the table that compares policies, the sections of the scenarios, and the
//! footer.

use super::elements::policy_marker;
use super::overview::overview;
use super::section::section;
use super::text::{NO_VALUE, count, escape, mean_with_error, number, percent, percent_with_error, plural};
use super::{Report, regret_relative_to_unconstrained, summary_of_kind};
use crate::policies::{PolicyKind, PolicySpec, ShipRule};
use crate::simulate::Simulation;
use crate::summary::Summary;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(super) fn page(report: &Report<'_>, command: Option<&str>) -> String {
    let title = title(report);
    let command = command.map_or(String::new(), |command| {
        format!("<h3>Command to run it again</h3><pre tabindex=\"0\"><code>{}</code></pre>", escape(command))
    });
    let sections: String =
        report.simulations.iter().enumerate().map(|(i, simulation)| section(report, i, simulation)).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title} · Inroad simulation</title>\
         <style>{STYLE}</style></head>\n<body><header><p class=\"eyebrow\">Inroad simulation</p><h1>{title}</h1>\
         <p class=\"lead\">{summary}</p>{tiles}{policies}</header>\n<main><section id=\"results\"><h2>Results</h2>\
         {comparison}{overview}{command}</section>\n{sections}</main>\n<footer><p>Written by inroad {version}. All \
         policies serve the same units. Errors are Monte Carlo standard errors over runs.</p></footer></body></html>\n",
        title = escape(&title),
        summary = escape(&summary_sentence(report)),
        tiles = tiles(report),
        policies = policy_legend(report),
        comparison = comparison_table(report),
        overview = overview(report),
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// The title of the only scenario, or the number of scenarios.
fn title(report: &Report<'_>) -> String {
    match report.simulations {
        [only] if !only.scenario.doc().title.is_empty() => only.scenario.doc().title.clone(),
        [only] => only.scenario.doc().name.clone(),
        several => plural(several.len() as u64, "scenario"),
    }
}

/// The number of simulated units in all runs. It is the same for every policy.
fn simulated_units(simulation: &Simulation) -> u64 {
    let first = simulation.summaries.first().map(|summary| summary.policy.as_str());
    simulation.runs.iter().filter(|run| Some(run.policy.as_str()) == first).map(|run| run.units).sum()
}

/// The sentence below the title: number of policies, runs and units.
fn summary_sentence(report: &Report<'_>) -> String {
    let total: u64 = report.simulations.iter().map(simulated_units).sum();
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
        "{} {policies}, {}{scope}, {}. Assignments and decisions of growth policies are made by the code that runs in \
         production.",
        report.policies.len(),
        plural(runs, "run"),
        plural(total, "simulated unit"),
    )
}

/// The main results of the first growth policy, in large type.
fn tiles(report: &Report<'_>) -> String {
    let grown: Vec<(&Simulation, &Summary)> =
        report.simulations.iter().filter_map(|s| Some((s, summary_of_kind(s, PolicyKind::Growth)?))).collect();
    let Some((_, first)) = grown.first() else { return String::new() };
    let average = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let moved: u64 = grown.iter().map(|(_, s)| s.moved_between_variations).sum();
    let mut tiles = vec![(count(moved), format!("moves of units between variations under {}", first.policy))];
    let relative: Vec<f64> =
        grown.iter().filter_map(|(sim, s)| Some(regret_relative_to_unconstrained(sim, &s.policy)?.mean)).collect();
    let several = grown.len() > 1;
    if !relative.is_empty() {
        let scope = if several { ", on average" } else { "" };
        tiles.push((
            format!("{}×", number(average(&relative), 2)),
            format!("the regret of unconstrained Thompson sampling{scope}"),
        ));
    }
    let correct: Vec<f64> = grown.iter().filter_map(|(_, s)| Some(s.correct?.mean)).collect();
    if !correct.is_empty() {
        tiles.push((percent(average(&correct), 1), "of runs end with the best variation in the lead".to_owned()));
    }
    let false_winners: Vec<f64> = grown.iter().map(|(_, s)| s.false_winner.mean).collect();
    tiles.push((percent(average(&false_winners), 1), "of runs find a false winner".to_owned()));
    let tile = |(value, text): &(String, String)| {
        format!("<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape(value), escape(text))
    };
    format!("<div class=\"tiles\">{}</div>", tiles.iter().map(tile).collect::<String>())
}

/// The policies with their markers: the legend of all charts.
fn policy_legend(report: &Report<'_>) -> String {
    let spec = |name: &str| {
        report.simulations.iter().find_map(|simulation| {
            let scenario = &simulation.scenario;
            let spec = scenario.policies().iter().find(|policy| policy.name == name)?;
            let settings = scenario.doc().policies.iter().find(|doc| doc.name == name).map(|doc| doc.settings.clone());
            Some((spec, settings.unwrap_or_default()))
        })
    };
    let item = |(series, name): (usize, &&str)| {
        let text = spec(name).map_or(String::new(), |(spec, settings)| policy_description(spec, &settings));
        format!("<li>{}<b>{}</b><span>{}</span></li>", policy_marker(series), escape(name), escape(&text))
    };
    let items: String = report.policies.iter().enumerate().map(item).collect();
    format!("<ul class=\"policies\" aria-label=\"Policies\">{items}</ul>")
}

/// What a policy does, in words.
fn policy_description(spec: &PolicySpec, settings: &toml::Table) -> String {
    let mut text = match spec.kind {
        PolicyKind::Growth => "variations grow into control; no unit moves between variations",
        PolicyKind::Equal => "all variations have the same share in the whole run",
        PolicyKind::Fixed => "shares are fixed in the whole run",
        PolicyKind::Unconstrained => {
            "the reference, unconstrained Thompson sampling: each share is set to P(best) at every update, and units move \
             freely"
        }
    }
    .to_owned();
    if let Some(shares) = &spec.shares {
        let shares: Vec<String> = shares.iter().map(|share| percent(*share, 1)).collect();
        text += &format!("; shares {}", shares.join(", "));
    }
    text += match spec.ship {
        ShipRule::Never => "",
        ShipRule::ClearlyBest => "; ships a variation as soon as it is clearly best",
        ShipRule::Prompted => "; ships a variation when a person would be prompted to ship it",
    };
    if !settings.is_empty() {
        let settings: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        text += &format!("; {}", settings.join(", "));
    }
    text
}

/// The table that compares the policies in all scenarios.
fn comparison_table(report: &Report<'_>) -> String {
    let several = report.simulations.len() > 1;
    let columns = [
        "Policy",
        "Regret",
        "Regret relative to unconstrained",
        "Best variation found",
        "False winner",
        "Moves between variations",
        "Units moved between variations",
        "Units moved into a variation",
        "Units moved back to control",
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
        "<p class=\"lead\">Means over runs ± standard error. Regret: expected outcomes lost, in percent of the \
         outcomes of the best variation. Moves between variations are counted over all units and runs. Moved units are \
         given in percent of all units. Revisions and kills are per run.</p><div class=\"scroll headline\" tabindex=\"0\" role=\"region\" \
         aria-label=\"Comparison of policies\"><table>\
         <caption class=\"unseen\">Comparison of policies</caption>\
         <thead><tr>{heads}</tr></thead>{bodies}</table></div>"
    )
}

/// The row of one policy in one scenario.
fn row(report: &Report<'_>, simulation: &Simulation, s: &Summary) -> String {
    let no_moves = s.moved_between_variations == 0;
    let kills: f64 = s.killed.iter().map(|mean| mean.mean).sum();
    let cells = [
        percent_with_error(s.regret, 2),
        mean_with_error(regret_relative_to_unconstrained(simulation, &s.policy)),
        s.correct.map_or_else(|| NO_VALUE.to_owned(), |mean| percent_with_error(mean, 1)),
        percent_with_error(s.false_winner, 1),
        count(s.moved_between_variations),
        if no_moves { "none".to_owned() } else { percent(s.moved_between.mean, 2) },
        percent(s.moved_into.mean, 2),
        percent(s.moved_back.mean, 2),
        number(s.revisions.mean, 1),
        number(kills, 2),
    ];
    let class = |i: usize| if (4..6).contains(&i) && no_moves { " class=\"zero\"" } else { "" };
    let cells: String =
        cells.iter().enumerate().map(|(i, cell)| format!("<td{}>{}</td>", class(i), escape(cell))).collect();
    let series = report.series(&s.policy);
    format!("<tr><th scope=\"row\">{} {}</th>{cells}</tr>", policy_marker(series), escape(&s.policy))
}
