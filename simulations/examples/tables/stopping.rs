//! Statements about a winner: how often true winners are proposed, how often a statement is false at any check within 28
//! days, and the regret of policies that ship on proposal.

use std::error::Error;
use std::fmt::Write as _;

use inroad_simulations::summary::{Mean, Summary};
use inroad_simulations::{PolicyDoc, PolicyKind, Scenario, ShipRule, Simulation, builtin};

use crate::regret::SCENARIOS;
use crate::run::{TableRun, percent, summary_of};

/// Numbers of arms in the A/A tests, control included.
const ARMS: [usize; 7] = [2, 3, 4, 6, 10, 20, 64];
/// With more arms than this, the tests decide once a day with fewer draws, to be fast enough.
const MANY_ARMS: usize = 10;

/// The kinds of A/A tests: name, and the lines that differ.
const KINDS: [(&str, &str); 5] = [
    ("constant rates", ""),
    (
        "trend, cycles and delay",
        "diurnal = 0.4\nweekly = 0.25\ntrend = 1.0\nreturning = 0.01\n[delay]\nmean_hours = 42.0\nwindow_hours = 168.0\n",
    ),
    ("revenue", "diurnal = 0.3\n[metric]\nkind = \"mean\"\nvalue = 40.0\nsigma = 1.0\ncap = 400.0\n"),
    ("profit", "diurnal = 0.3\n[metric]\nkind = \"mean\"\nvalue = 40.0\nsigma = 1.0\ncap = 400.0\ncost = 3.0\n"),
    ("ratio", "heterogeneity = 0.7\n[metric]\nkind = \"ratio\"\ndenominator = 3.0\n"),
];

/// Worlds with a small true lift: nobody should be advised to roll back.
const SMALL_LIFTS: [(&str, &[f64]); 3] = [
    ("one variation, +3%", &[0.0, 0.03]),
    ("three variations, one of them +3%", &[0.0, 0.03, -0.1, -0.1]),
    ("three variations, each +3%", &[0.0, 0.03, 0.03, 0.03]),
];

/// Prints how often policies propose to ship, and what following the proposals costs.
pub(crate) fn proposals(run: &TableRun) -> Result<(), Box<dyn Error>> {
    let policies: Vec<PolicyDoc> = [PolicyKind::Growth, PolicyKind::Equal]
        .into_iter()
        .flat_map(|kind| {
            let base = PolicyDoc::with_defaults(kind);
            let ships = PolicyDoc { name: format!("{}, ships", base.name), ship: ShipRule::Prompted, ..base.clone() };
            [base, ships]
        })
        .collect();
    let replications = 2 * run.replications;
    println!("\n### Proposals to ship within 28 days, and regret when they are followed\n");
    println!("{replications} replications.\n");
    println!("| | {} |", SCENARIOS.join(" | "));
    println!("|---{}|", "|---".repeat(SCENARIOS.len()));
    let simulation = |name: &&str| {
        run.simulate_decisions(&format!("{name}, proposals"), builtin::scenario(name)?, replications, policies.clone())
    };
    let simulations = SCENARIOS.iter().map(simulation).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let row = |title: &str, policy: &str, value: &dyn Fn(&Summary) -> String| {
        let cell = |simulation: &Simulation| summary_of(simulation, policy).map(value).unwrap_or_default();
        let cells: Vec<String> = simulations.iter().map(cell).collect();
        println!("| {title} | {} |", cells.join(" | "));
    };
    for policy in ["growth", "equal"] {
        row(&format!("{policy}: proposed, %"), policy, &|s| percent(s.prompted));
        let median =
            |s: &Summary| s.prompted_after_days.map_or_else(|| "–".to_owned(), |days| format!("{:.1}", days.p50));
        row(&format!("{policy}: median day of those"), policy, &median);
        row(&format!("{policy}: proposed a variation no better than control, %"), policy, &|s| percent(s.false_prompt));
        row(&format!("{policy}: advised to roll back, %"), policy, &|s| percent(s.roll_back));
        row(&format!("{policy}: found clearly best, %"), policy, &|s| percent(Some(s.concluded)));
        row(&format!("{policy}: found clearly best, but not the best, %"), policy, &|s| percent(Some(s.false_winner)));
        row(&format!("{policy}: regret, %"), policy, &|s| percent(Some(s.regret)));
    }
    for policy in ["growth, ships", "equal, ships"] {
        row(&format!("{policy} on proposal: regret, %"), policy, &|s| percent(Some(s.regret)));
    }
    Ok(())
}

/// Prints how often each statement is false.
pub(crate) fn false_statements(run: &TableRun) -> Result<(), Box<dyn Error>> {
    let replications = 5 * run.replications;
    println!("\n### False statements at any check within 28 days, % of runs\n");
    println!(
        "{replications} replications. In parentheses: the upper end of the 95% interval of the percentage. All arms are equal, \
         so each statement is false.\n"
    );
    println!("| arms | | clearly best | ready to ship | ready to roll back |");
    println!("|---|---|---|---|---|");
    for arms in ARMS {
        for (kind, lines) in KINDS {
            let per_day = if arms > MANY_ARMS { 8000 } else { 1500 };
            let world = world(per_day, &vec![0.0; arms], lines)?;
            row(run, &arms.to_string(), kind, world, replications)?;
        }
    }
    println!("\nA variation is a little better than control, so advice to roll back is false:\n");
    println!(
        "| | | clearly best, but not the best | ready to ship a variation no better than control | ready to roll back |"
    );
    println!("|---|---|---|---|---|");
    for (name, lifts) in SMALL_LIFTS {
        row(run, name, "constant rates", world(1500, lifts, "")?, replications)?;
    }
    Ok(())
}

fn world(per_day: u32, lifts: &[f64], lines: &str) -> Result<Scenario, Box<dyn Error>> {
    // Tables come last in TOML.
    let arms = lifts.iter().fold(String::new(), |mut arms, lift| {
        let _ = write!(arms, "{{ lift = {lift:.2} }}, ");
        arms
    });
    let text = format!(
        "name = \"stopping\"\ntitle = \"Stopping rules\"\nbase = 0.05\nper_day = {per_day}\narms = [{arms}]\n{lines}"
    );
    Ok(Scenario::from_toml(&text)?)
}

fn row(run: &TableRun, first: &str, kind: &str, world: Scenario, replications: u32) -> Result<(), Box<dyn Error>> {
    let mut growth = PolicyDoc::with_defaults(PolicyKind::Growth);
    if first.parse().is_ok_and(|arms: usize| arms > MANY_ARMS) {
        growth.settings = toml::from_str("tick = \"24h\"\ndraws_log2 = 10")?;
    }
    let simulation = run.simulate_decisions(&format!("{first}, {kind}"), world, replications, vec![growth])?;
    let Some(summary) = summary_of(&simulation, "growth") else { return Ok(()) };
    println!(
        "| {first} | {kind} | {} | {} | {} |",
        with_limit(Some(summary.false_winner), replications),
        with_limit(summary.false_prompt, replications),
        with_limit(summary.false_roll_back, replications)
    );
    Ok(())
}

/// A fraction in percent with the upper end of its 95% interval (Wilson 1927).
fn with_limit(mean: Option<Mean>, runs: u32) -> String {
    let Some(mean) = mean else { return "–".to_owned() };
    let (n, z) = (f64::from(runs), 1.96);
    let middle = mean.mean + z * z / (2.0 * n);
    let half = z * (mean.mean * (1.0 - mean.mean) / n + z * z / (4.0 * n * n)).sqrt();
    format!("{:.1} (≤ {:.1})", 100.0 * mean.mean, 100.0 * (middle + half) / (1.0 + z * z / n))
}
