//! Growth alone, in many runs: coverage of intervals, errors of the rules that are checked at every tick, and sample
//! ratio mismatches.

use std::error::Error;

use inroad_simulations::summary::{EstimatorSummary, Summary};
use inroad_simulations::{PolicyDoc, PolicyKind, Scenario, Simulation, builtin};

use crate::regret::SCENARIOS;
use crate::run::{TableRun, percent, summary_of};

/// Scenarios with other metrics or units.
const OTHER_SCENARIOS: [&str; 4] = ["revenue", "count", "ratio", "heterogeneous"];
const ESTIMATORS: [&str; 6] = ["pooled", "period", "e3", "e3-killed", "bols", "cs"];

/// Prints all tables of growth alone.
pub(crate) fn print(run: &TableRun) -> Result<(), Box<dyn Error>> {
    let run_growth = |name: &&'static str| Ok((*name, run.growth_alone(name)?));
    let growing =
        SCENARIOS.iter().chain(&OTHER_SCENARIOS).map(run_growth).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    coverage(&growing, run.replications_alone());
    let growing = growing.get(..SCENARIOS.len()).unwrap_or_default();
    let growth = |settings: &str| -> Result<Vec<PolicyDoc>, Box<dyn Error>> {
        Ok(vec![PolicyDoc { settings: toml::from_str(settings)?, ..PolicyDoc::with_defaults(PolicyKind::Growth) }])
    };
    let aa_test =
        Scenario::from_toml(&builtin::text("s6").ok_or("s6 is built in")?.replace("trend = 1.0", "trend = 0.0"))?;
    let without_trend = run.simulate("A/A without trend", aa_test, run.replications_alone(), growth("")?)?;
    errors(growing, &without_trend, &run.growth_alone("aa-revenue")?);
    let with_loss = run.growth_alone("srm")?;
    let slow = growth("daily_cap = 0.1\ndaily_cap_conclude = 0.1")?;
    let slow_growth = run.simulate("srm, slow growth", builtin::scenario("srm")?, run.replications_alone(), slow)?;
    sample_ratio(growing, &with_loss, &slow_growth);
    Ok(())
}

fn coverage(runs: &[(&str, Simulation)], replications: u32) {
    println!("\n### Coverage of 95% intervals under growth, %; bias of E3 in percentage points of lift\n");
    println!("{replications} replications; each interval counts once. The number of intervals is in parentheses.\n");
    println!("| | {} | bias of e3 |", ESTIMATORS.join(" | "));
    println!("|---{}|", "|---".repeat(ESTIMATORS.len() + 1));
    for (name, simulation) in runs {
        let Some(growth) = summary_of(simulation, "growth") else { continue };
        let found = |name: &str| growth.estimators.iter().find(|e: &&EstimatorSummary| e.estimator == name);
        let cell = |name: &&str| {
            let covers = percent(found(name).and_then(|e| e.coverage));
            let count = found(name).filter(|e| e.estimator.starts_with("e3")).map(|e| format!(" ({})", e.intervals));
            covers + &count.unwrap_or_default()
        };
        let cells: Vec<String> = ESTIMATORS.iter().map(cell).collect();
        println!("| {name} | {} | {} |", cells.join(" | "), percent(found("e3").and_then(|e| e.bias)));
    }
}

fn errors(simulations: &[(&str, Simulation)], without_trend: &Simulation, revenue: &Simulation) {
    println!("\n### Rules that are checked at every tick, % of runs\n");
    println!(
        "| | prompted to ship | prompted to ship an arm no better than control | found clearly best, but not \
         the best | a guardrail kills a harmless arm |"
    );
    println!("|---|---|---|---|---|");
    let row = |name: &str, simulation: &Simulation| {
        let Some(growth) = summary_of(simulation, "growth") else { return };
        println!(
            "| {name} | {} | {} | {} | {} |",
            percent(growth.prompted),
            percent(growth.false_prompt),
            percent(Some(growth.false_winner)),
            percent(growth.guardrail_false)
        );
    };
    simulations.iter().for_each(|(name, simulation)| row(name, simulation));
    row("A/A without trend", without_trend);
    row("A/A, revenue", revenue);
}

fn sample_ratio(simulations: &[(&str, Simulation)], with_loss: &Simulation, slow_growth: &Simulation) {
    println!("\n### Sample ratio mismatch, % of runs\n");
    println!("| | alarm at any check | growth frozen | χ² at the end, p < .01 |");
    println!("|---|---|---|---|");
    let row = |name: &str, summary: &Summary| {
        let [alarm, frozen, chi] =
            [summary.srm_alarm, summary.srm_frozen, summary.srm_chi_squared].map(|m| percent(Some(m)));
        println!("| {name} | {alarm} | {frozen} | {chi} |");
    };
    for (name, simulation) in simulations {
        summary_of(simulation, "growth").into_iter().for_each(|summary| row(name, summary));
    }
    summary_of(with_loss, "growth")
        .into_iter()
        .for_each(|summary| row("3% of the units of a growing arm lost", summary));
    summary_of(slow_growth, "growth")
        .into_iter()
        .for_each(|summary| row("the same, with growth of at most 10% a day", summary));
}
