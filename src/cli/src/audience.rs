//! `inroad audience`: tries an audience against the contexts that the server has seen lately. Changes nothing.

use clap::Args;
use inroad_wire::audience_report::SEEN_LATELY;
use inroad_wire::v1::EvaluateAudienceRequest;

use crate::audience_report;
use crate::connect::{Connection, ServerArgs};
use crate::lookup::get_experiment;
use crate::output::Output;

/// The audience to try.
#[derive(Debug, Args)]
pub(crate) struct AudienceArgs {
    /// Expression over the context, such as 'country == "fr" && seats > 2'
    expression: String,
    /// Context attribute that names the unit [default: targetingKey, or that of --experiment]
    #[arg(long, value_name = "ATTRIBUTE", conflicts_with = "experiment")]
    unit: Option<String>,
    /// Experiment whose unit attribute is used
    #[arg(long, value_name = "KEY")]
    experiment: Option<String>,
}

/// Prints how many recent contexts match, what they lack, and warnings.
pub(crate) async fn run(args: AudienceArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let unit = match (args.unit, &args.experiment) {
        (Some(unit), _) => unit,
        (None, Some(experiment)) => get_experiment(&connection, experiment).await?.unit,
        (None, None) => "targetingKey".to_owned(),
    };
    let request = EvaluateAudienceRequest { audience: args.expression, unit: unit.clone() };
    let report = connection.experiments().evaluate_audience(request).await?.into_inner();
    match report.contexts {
        0 => out.print_text(format!(
            "0 contexts with {unit} to check: name another unit with --unit, or an experiment with --experiment"
        ))?,
        _ => out.print_text(format!("contexts with {unit}"))?,
    }
    audience_report::print_facts(&report, "", out)?;
    if report.contexts > 0 {
        out.print_text(SEEN_LATELY)?;
    }
    for warning in &report.warnings {
        eprintln!("inroad: warning: {}", warning.message);
    }
    Ok(out.print_json(&audience_report::to_json(Some(&report)))?)
}
